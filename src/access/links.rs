//! Capability links: a link says which run its holder may watch, answer or delete, and for how long.

use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::generations::LinkGenerations;
use super::keys::LinkKeys;
use super::{Access, AccessRequest, Action, Permission, cookie, token};
use crate::clock::{self, Clock};
use crate::refusal::Refusal;

/// The longest time that a link is good for: 30 days.
pub const MAX_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The tolerated difference between the clocks of signers and verifiers, in seconds.
const SKEW: u64 = 60;
/// The longest remaining time of a token in a query, in seconds: URLs are logged.
const QUERY_LIFETIME: u64 = 120;

/// Lets the holders of signed links watch, answer or delete runs: an [`Access`] hook without a database.
///
/// A link is `https://host/<id>#t=<token>`. Browsers do not send the part after the `#`, so it is in no log: the page
/// sends it to `POST /<id>/session` ([`session`](Self::session)) and gets a cookie for that run alone. Programs send
/// `Authorization: Bearer <token>`.
///
/// A request's token is looked for in this order: `Authorization: Bearer`, which alone decides if it is there; the
/// cookie; the query's `token`, if [`query_tokens`](Self::query_tokens) allows it. Tokens that are missing,
/// malformed, tampered with, expired, or for something else are all refused in the same way: nothing says which it
/// was, and no log is asked.
///
/// ```
/// use std::time::Duration;
/// use ssetarget::access::{Action, CapabilityLinks, LinkGrant, LinkKeys};
///
/// # let secret = "k1:bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=";
/// let links = CapabilityLinks::new(LinkKeys::parse(secret)?, "order");
/// let grant = LinkGrant::run("o-1").may(Action::Answer).expires_in(Duration::from_secs(600));
/// let url = links.url("https://shop.example/runs/o-1", &grant);
/// assert!(url.starts_with("https://shop.example/runs/o-1#t="));
/// # Ok::<(), ssetarget::access::InvalidKeys>(())
/// ```
#[derive(Clone)]
pub struct CapabilityLinks {
    keys: LinkKeys,
    workflow: String,
    clock: Clock,
    takes_query: bool,
    tags: Option<Tags>,
    generations: Option<LinkGenerations>,
}

type Tags = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

impl CapabilityLinks {
    /// Returns links to the runs of the workflow of this name, which is the `aud` of their tokens.
    #[must_use]
    pub fn new(keys: LinkKeys, workflow: impl Into<String>) -> Self {
        Self {
            keys,
            workflow: workflow.into(),
            clock: Clock::default(),
            takes_query: false,
            tags: None,
            generations: None,
        }
    }

    /// Sets the function that says whether the run of an id (the first argument) has a tag (the second), so that one
    /// token is good for many runs: see [`LinkGrant::tag`]. It is called before any log is asked, so it decides by
    /// the id alone, or by data that the program has in memory. Default: no run has a tag.
    ///
    /// ```
    /// # use ssetarget::access::{CapabilityLinks, LinkKeys};
    /// # fn links(links: CapabilityLinks) -> CapabilityLinks {
    /// // The runs of `customer-7` have ids such as `customer-7--order-1`.
    /// links.tags(|id, tag| id.split_once("--").is_some_and(|(customer, _)| customer == tag))
    /// # }
    /// ```
    #[must_use]
    pub fn tags(mut self, has: impl Fn(&str, &str) -> bool + Send + Sync + 'static) -> Self {
        self.tags = Some(Arc::new(has));
        self
    }

    /// Refuses links that these generations have revoked. Default: none are; in a Worker the run's object knows them.
    #[must_use]
    pub fn generations(mut self, generations: &LinkGenerations) -> Self {
        self.generations = Some(generations.clone());
        self
    }

    /// Accepts a token in the query (`?token=…`), too, if it is good for at most 120 more seconds, since URLs are in
    /// logs and histories. Use it for clients that can neither set a header nor keep a cookie. Default: such tokens are
    /// ignored.
    #[must_use]
    pub fn query_tokens(mut self) -> Self {
        self.takes_query = true;
        self
    }

    /// Sets the clock. Default: the machine's.
    #[must_use]
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Clock::new(clock);
        self
    }

    /// Returns a link to the page at `page`, with a new token behind a `#`. The page's address must have none.
    #[must_use]
    pub fn url(&self, page: &str, grant: &LinkGrant) -> String {
        format!("{page}#t={}", self.token(grant))
    }

    /// Returns a new token, signed by the first key.
    #[must_use]
    pub fn token(&self, grant: &LinkGrant) -> String {
        let now = seconds(self.clock.now());
        let lifetime = grant.lifetime.min(MAX_LIFETIME).as_secs();
        let scope: Vec<_> = grant.scope.iter().map(|action| name(*action)).collect();
        let text = |text: &str| Value::from(text).to_string();
        let (audience, subject) = (text(&self.workflow), text(&grant.subject));
        let (scope, expires) = (scope.join(" "), now + lifetime);
        // Formatted by hand: encoding a JSON value would add as much code as all the rest.
        let mut claims = format!(
            r#"{{"aud":{audience},"sub":{subject},"scope":"{scope}","iat":{now},"exp":{expires}"#
        );
        if grant.generation > 0 {
            claims += &format!(r#","gen":{}"#, grant.generation);
        }
        claims.push('}');
        token::sign(&claims, &self.keys)
    }

    /// Decides at once. [`Access::decide`] does the same. A hook that also knows other permissions asks it: here, of
    /// people who have logged in, for lists of runs, to which browsers send no link's cookie.
    ///
    /// ```
    /// use ssetarget::access::{Access, AccessRequest, CapabilityLinks, LinkKeys, Permission};
    ///
    /// # async fn may_see(session: &str, list: &str) -> bool { session == "of Ada" && list == "tag:customer-7" }
    /// # let secret = "k1:bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=";
    /// let links = CapabilityLinks::new(LinkKeys::parse(secret)?, "order");
    /// let hook = move |request: &AccessRequest<'_>| {
    ///     let by_link = links.check(request);
    ///     let list = request.is_list.then(|| request.id.to_owned());
    ///     let session = request.cookie("session").map(str::to_owned);
    ///     async move {
    ///         match (by_link, list, session) {
    ///             (Permission::Refused, Some(list), Some(session)) if may_see(&session, &list).await => Permission::granted(),
    ///             _ => by_link,
    ///         }
    ///     }
    /// };
    /// # let decide = |id, is_list, cookies| {
    /// #     let mut request = AccessRequest::new(id, ssetarget::access::Action::Watch);
    /// #     (request.is_list, request.cookies) = (is_list, Some(cookies));
    /// #     futures_executor::block_on(hook.decide(&request))
    /// # };
    /// # assert_eq!(decide("tag:customer-7", true, "session=of Ada"), Permission::granted());
    /// # assert_eq!(decide("tag:customer-8", true, "session=of Ada"), Permission::Refused);
    /// # assert_eq!(decide("tag:customer-7", true, "session=of Bob"), Permission::Refused);
    /// # assert_eq!(decide("tag:customer-7", false, "session=of Ada"), Permission::Refused);
    /// # Ok::<(), ssetarget::access::InvalidKeys>(())
    /// ```
    #[must_use]
    pub fn check(&self, request: &AccessRequest<'_>) -> Permission {
        if request.workflow.is_some_and(|name| name != self.workflow) {
            return Permission::Refused;
        }
        let now = seconds(self.clock.now());
        let is_list = request.is_list;
        let holds =
            |token: &str| self.claims(token, request.id, Some(request.action), now, is_list);
        let claims = match request.authorization.and_then(bearer) {
            Some(token) => holds(token),
            None => {
                let cookies = request.cookies.into_iter().flat_map(cookie::values);
                let mut cookies = cookies.map(holds);
                cookies.find_map(|claims| claims).or_else(|| {
                    let token = match self.takes_query {
                        true => request.query_value("token")?,
                        false => return None,
                    };
                    holds(&token).filter(|claims| claims.expires - now <= QUERY_LIFETIME)
                })
            }
        };
        match claims {
            None => Permission::Refused,
            Some(claims) => Permission::Granted {
                until: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(claims.expires)),
                generation: Some(claims.generation),
            },
        }
    }

    /// Returns a future that resolves when links of this generation to a run are revoked, `None` if that is not known
    /// [here](Self::generations).
    #[cfg(feature = "http")]
    pub(crate) fn revoked(
        &self,
        id: &str,
        generation: u64,
    ) -> Option<crate::sync::BoxFuture<'static, ()>> {
        let generations = self.generations.as_ref()?;
        Some(Box::pin(generations.revoked(id, generation)))
    }

    /// Exchanges a link's token, the body of `POST <path>/session`, for a cookie that the browser sends with
    /// requests below `path`, which is the path of the run's page as in the request: `/o-1`, or
    /// `/runs/o-1`. White space around the token is ignored.
    ///
    /// This does not check whether the link was revoked, which only the log knows. Requests with the cookie are
    /// refused then.
    ///
    /// # Errors
    /// [`Refusal::NotAllowed`] for a token that is not good for this run.
    pub fn session(&self, id: &str, path: &str, token: &str) -> Result<LinkSession, Refusal> {
        let token = token.trim();
        let now = seconds(self.clock.now());
        let claims = self.claims(token, id, None, now, false);
        let claims = claims.ok_or(Refusal::NotAllowed)?;
        let lifetime = Duration::from_secs(claims.expires - now);
        Ok(LinkSession {
            cookie: cookie::set(token, path, lifetime),
            expires_in: lifetime,
        })
    }

    /// Returns the claims of a token, if it is good for this request at this time.
    fn claims(
        &self,
        token: &str,
        id: &str,
        action: Option<Action>,
        now: u64,
        is_list: bool,
    ) -> Option<Claims> {
        let claims = token::verify(token, &self.keys)?;
        let is_for = |name: &str, wanted: &str| match claims.get(name) {
            Some(Value::String(one)) => one == wanted,
            Some(Value::Array(many)) => many.iter().any(|one| one == wanted),
            _ => false,
        };
        let subject = claims.get("sub")?.as_str()?;
        let is_subject = match subject.split_once(':') {
            _ if subject == "*" => true,
            // A link to a run never opens a list, whatever the run's id is.
            _ if is_list => subject.starts_with("tag:") && subject == id,
            Some(("tag", tag)) => self.tags.as_ref().is_some_and(|has| has(id, tag)),
            Some(("run", run)) => run == id,
            _ => subject == id,
        };
        let expires = time(&claims, "exp")??;
        let is_timely = expires > now
            && expires - now <= MAX_LIFETIME.as_secs() + SKEW
            && time(&claims, "iat")?.is_none_or(|issued| issued <= now + SKEW)
            && time(&claims, "nbf")?.is_none_or(|first| first <= now + SKEW);
        let generation = match claims.get("gen") {
            None => 0,
            Some(generation) => generation.as_u64()?,
        };
        let revoked = self.generations.as_ref();
        if revoked.is_some_and(|generations| generation < generations.of(id)) {
            return None;
        }
        let allowed = scope(claims.get("scope")?);
        let may = match action {
            Some(action) => allowed.contains(&action),
            None => !allowed.is_empty(),
        };
        (is_for("aud", &self.workflow) && is_subject && is_timely && may).then_some(Claims {
            expires,
            generation,
        })
    }
}

struct Claims {
    expires: u64,
    generation: u64,
}

/// Reads a claim that is a time, in whole seconds: `None` if it is not a time, and `Some(None)` if it is absent. Some
/// libraries write fractions.
#[allow(clippy::option_option, reason = "a wrong claim is not a missing one")]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked"
)]
fn time(claims: &Map<String, Value>, name: &str) -> Option<Option<u64>> {
    /// Far beyond any clock, and exact as a float.
    const LAST: f64 = 1e15;
    let Some(value) = claims.get(name) else {
        return Some(None);
    };
    let seconds = value.as_f64()?;
    (0.0..LAST)
        .contains(&seconds)
        .then_some(Some(seconds as u64))
}

/// Returns the actions that a `scope` names: a string with spaces (RFC 8693), or a list. Other words are ignored, and
/// any other value allows nothing.
fn scope(value: &Value) -> Vec<Action> {
    match value {
        Value::String(words) => words.split(' ').filter_map(action).collect(),
        Value::Array(words) => {
            let words = words.iter().filter_map(Value::as_str);
            words.filter_map(action).collect()
        }
        _ => Vec::new(),
    }
}

/// Returns the token of a `Bearer` header, `None` for another scheme. The values of a repeated header come joined by
/// a comma, which is in no token.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

const ACTIONS: [Action; 3] = [Action::Watch, Action::Answer, Action::Delete];

/// Returns the word for an action in a `scope`.
fn name(action: Action) -> &'static str {
    match action {
        Action::Watch => "watch",
        Action::Answer => "answer",
        Action::Delete => "delete",
    }
}

fn action(word: &str) -> Option<Action> {
    ACTIONS.into_iter().find(|action| name(*action) == word)
}

fn seconds(time: SystemTime) -> u64 {
    clock::milliseconds(time) / 1000
}

impl Access for CapabilityLinks {
    type Decision = Ready<Permission>;

    fn decide(&self, request: &AccessRequest<'_>) -> Self::Decision {
        ready(self.check(request))
    }
}

impl fmt::Debug for CapabilityLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CapabilityLinks")
            .field("keys", &self.keys)
            .field("workflow", &self.workflow)
            .field("takes_query", &self.takes_query)
            .finish_non_exhaustive()
    }
}

/// A permission to put into a link: for which runs, for which actions, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkGrant {
    subject: String,
    scope: Vec<Action>,
    lifetime: Duration,
    generation: u64,
}

impl LinkGrant {
    /// Lets the holder watch the run of this id for an hour.
    #[must_use]
    pub fn run(id: &str) -> Self {
        // No id of a Workflow has such a form, but a log elsewhere may have any name.
        let is_form = id == "*" || id.starts_with("tag:") || id.starts_with("run:");
        Self::to(match is_form {
            true => format!("run:{id}"),
            false => id.to_owned(),
        })
    }

    /// Lets the holder watch all runs with this tag, and the list of them, for an hour: see
    /// [`CapabilityLinks::tags`]. The list needs `Authorization: Bearer`: a session's cookie is for one run.
    #[must_use]
    pub fn tag(tag: &str) -> Self {
        Self::to(format!("tag:{tag}"))
    }

    /// Lets the holder watch all runs of the workflow for an hour. For your own programs, not for links.
    #[must_use]
    pub fn all_runs() -> Self {
        Self::to("*".to_owned())
    }

    fn to(subject: String) -> Self {
        const HOUR: Duration = Duration::from_secs(60 * 60);
        Self {
            subject,
            scope: vec![Action::Watch],
            lifetime: HOUR,
            generation: 0,
        }
    }

    /// Adds an action that the holder may do. Default: only [`Action::Watch`].
    #[must_use]
    pub fn may(mut self, action: Action) -> Self {
        if !self.scope.contains(&action) {
            self.scope.push(action);
        }
        self
    }

    /// Lets the holder do this action and no other.
    #[must_use]
    pub fn only(mut self, action: Action) -> Self {
        self.scope = vec![action];
        self
    }

    /// Sets how long the link is good for, in whole seconds, up to [`MAX_LIFETIME`]. Default: an hour.
    #[must_use]
    pub fn expires_in(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Sets the generation of the run's links: the number that revoking returned. Default: 0, for runs whose links
    /// were never revoked.
    #[must_use]
    pub fn generation(mut self, generation: u64) -> Self {
        self.generation = generation;
        self
    }
}

/// A session of a browser: see [`CapabilityLinks::session`].
#[derive(Clone, PartialEq, Eq)]
pub struct LinkSession {
    /// The value of the `Set-Cookie` header of the response: `__Secure-ssetarget`, with `HttpOnly`, `Secure` and
    /// `SameSite=Lax`, for the run's path, until the token expires.
    pub cookie: String,
    /// The time for which the token is still good, in whole seconds. It is a duration because browsers' clocks may be
    /// wrong.
    pub expires_in: Duration,
}

impl LinkSession {
    /// Returns the response's body, of the type `application/json`: `{"expiresIn":600}`, in seconds.
    #[must_use]
    pub fn body(&self) -> String {
        format!(r#"{{"expiresIn":{}}}"#, self.expires_in.as_secs())
    }
}

/// Does not show the token.
impl fmt::Debug for LinkSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkSession")
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}
