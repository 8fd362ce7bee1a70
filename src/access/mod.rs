//! Decides who may watch a run, and who may answer it: the hook that every serve function and route calls.
//!
//! Pure: a request is a few strings, a decision is a [`Permission`]. The same hook works in a Worker and on any
//! other server.
//!
//! A hook is asked before anything else is: a request that is [refused](Permission::Refused) is answered with the
//! same `401` bytes, whether the run exists or not, and no object or store is called for it.
//!
//! ```
//! use std::future::ready;
//! use ssetarget::access::{Access, AccessRequest, Action, Permission};
//!
//! // Everybody may watch; answers need a key.
//! let hook = |request: &AccessRequest<'_>| {
//!     let may = request.action == Action::Watch || request.bearer() == Some("a key that nobody guesses");
//!     ready(if may { Permission::granted() } else { Permission::Refused })
//! };
//! # let mut request = AccessRequest::new("order-1", Action::Answer);
//! # let decide = |request: &AccessRequest<'_>| futures_executor::block_on(hook.decide(request));
//! # assert_eq!(decide(&request), Permission::Refused);
//! # request.authorization = Some("Bearer a key that nobody guesses");
//! # assert_eq!(decide(&request), Permission::granted());
//! ```
//!
//! Compare secrets in constant time, with a crate made for it. A hook that compares hashes of both strings is safe, too:
//! the time of a comparison then says nothing about the secret.

#[cfg(feature = "links")]
mod cookie;
#[cfg(feature = "links")]
mod generations;
#[cfg(feature = "links")]
mod keys;
#[cfg(feature = "links")]
mod links;
#[cfg(feature = "links")]
mod token;

use std::future::{Future, Ready, ready};
use std::time::SystemTime;

#[cfg(feature = "links")]
pub use self::generations::LinkGenerations;
#[cfg(feature = "links")]
pub use self::keys::{InvalidKeys, LinkKeys};
#[cfg(feature = "links")]
pub use self::links::{CapabilityLinks, LinkGrant, LinkSession, MAX_LIFETIME};
#[cfg(feature = "links")]
pub use self::token::MAX_TOKEN;

/// A hook that decides about each request: a closure, or a type of your own.
///
/// A closure takes `&AccessRequest<'_>`, written out, and returns a future that does not borrow from it: take what
/// the decision needs out of the request first, as here, where the future asks a database.
///
/// ```
/// use ssetarget::access::{Access, AccessRequest, Permission};
///
/// # async fn may_see(_user: Option<String>, _id: String) -> bool { true }
/// let hook = |request: &AccessRequest<'_>| {
///     let (user, id) = (request.cookie("user").map(str::to_owned), request.id.to_owned());
///     async move {
///         match may_see(user, id).await {
///             true => Permission::granted(),
///             false => Permission::Refused,
///         }
///     }
/// };
/// # fn check(_: impl Access) {}
/// # check(hook);
/// ```
pub trait Access {
    /// The future of a decision. Servers with threads need it to be `Send`.
    type Decision: Future<Output = Permission> + 'static;

    /// Decides about a request. If ids are secret, the decision and the time it takes must be the same for ids that
    /// exist and ids that do not.
    fn decide(&self, request: &AccessRequest<'_>) -> Self::Decision;

    /// Returns whether everybody may do everything, so that shared caches may keep responses. Default: no.
    fn is_public(&self) -> bool {
        false
    }
}

impl<F, D> Access for F
where
    F: Fn(&AccessRequest<'_>) -> D,
    D: Future<Output = Permission> + 'static,
{
    type Decision = D;

    fn decide(&self, request: &AccessRequest<'_>) -> D {
        self(request)
    }
}

/// Lets everybody do everything: for runs that are not secret, and for routes behind your own check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Public;

impl Access for Public {
    type Decision = Ready<Permission>;

    fn decide(&self, _: &AccessRequest<'_>) -> Self::Decision {
        ready(Permission::granted())
    }

    fn is_public(&self) -> bool {
        true
    }
}

/// A decision that was made before: every request gets it.
impl Access for Permission {
    type Decision = Ready<Permission>;

    fn decide(&self, _: &AccessRequest<'_>) -> Self::Decision {
        ready(*self)
    }
}

/// A request, as a hook sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessRequest<'a> {
    /// The workflow's name, where the server knows it.
    pub workflow: Option<&'a str>,
    /// The id in the path, decoded. Comes from anybody: there may be no such run. Empty if it cannot be decoded.
    pub id: &'a str,
    /// Whether the request is for a list of runs and not for a run: then the id is `*`, for all of the workflow, or
    /// `tag:<tag>`.
    pub is_list: bool,
    /// The action that the client asks for.
    pub action: Action,
    /// The header `Authorization`.
    pub authorization: Option<&'a str>,
    /// The header `Cookie`. [`cookie`](Self::cookie) returns one cookie of it.
    pub cookies: Option<&'a str>,
    /// The header `Origin`: the site whose page asks. Absent for most requests of a page to its own site.
    pub origin: Option<&'a str>,
    /// The query of the URL, encoded.
    pub query: Option<&'a str>,
}

impl<'a> AccessRequest<'a> {
    /// Returns a request with nothing but an id and an action. Servers set the other fields.
    #[must_use]
    pub fn new(id: &'a str, action: Action) -> Self {
        Self {
            workflow: None,
            id,
            is_list: false,
            action,
            authorization: None,
            cookies: None,
            origin: None,
            query: None,
        }
    }

    /// Returns the token of `Authorization: Bearer <token>`. The scheme's name may be in any case.
    #[must_use]
    pub fn bearer(&self) -> Option<&'a str> {
        let (scheme, token) = self.authorization?.trim().split_once(' ')?;
        let token = token.trim_start();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    }

    /// Returns the value of the first cookie of this name, without quotes.
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        let mut cookies = self.cookies?.split(';');
        let value = cookies.find_map(|cookie| {
            let (key, value) = cookie.split_once('=')?;
            (key.trim() == name).then_some(value.trim())
        })?;
        let unquoted = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'));
        Some(unquoted.unwrap_or(value))
    }

    /// Returns the first value of this name in the query, decoded.
    #[must_use]
    pub fn query_value(&self, name: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.query?.as_bytes());
        pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    }
}

/// An action on a run that a client can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Reads: its page, snapshot, events, trace, and the platform's log.
    Watch,
    /// Sends an event that the run waits for.
    Answer,
    /// Deletes the run's log.
    Delete,
}

/// The decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Permission {
    /// The request is answered.
    Granted {
        /// The end of the permission. A stream gets the event `expired` then, and ends. A time in the past refuses.
        until: Option<SystemTime>,
        /// The generation of links that it was granted for. The request is refused if the log's own is greater. In a
        /// Worker that needs the feature `links`; without it a request with a generation is refused.
        generation: Option<u64>,
    },
    /// The request is refused: always with the same `401`.
    Refused,
    /// The hook cannot decide now, for example because a database does not answer: `503`, and an `EventSource` comes
    /// back.
    Unknown,
}

impl Permission {
    /// Grants the request, without an end.
    #[must_use]
    pub const fn granted() -> Self {
        Self::Granted {
            until: None,
            generation: None,
        }
    }

    /// Grants the request up to a time.
    #[must_use]
    pub const fn granted_until(time: SystemTime) -> Self {
        Self::Granted {
            until: Some(time),
            generation: None,
        }
    }
}

#[cfg(any(feature = "http", feature = "cloudflare"))]
pub(crate) use grant::Grant;

#[cfg(any(feature = "http", feature = "cloudflare"))]
mod grant {
    use std::time::{Duration, SystemTime};

    use super::Permission;
    use crate::clock;
    use crate::refusal::Refusal;

    /// A permission that was granted and has not ended.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Grant {
        pub(crate) until: Option<SystemTime>,
        pub(crate) generation: Option<u64>,
    }

    /// By how much the clocks of two machines may differ.
    #[cfg_attr(not(feature = "cloudflare"), allow(dead_code))]
    const SOON: Duration = Duration::from_secs(60);

    impl Grant {
        /// Returns whether it has ended, perhaps only by the clock of another machine: a refusal needs no other reason then.
        #[cfg_attr(not(feature = "cloudflare"), allow(dead_code))]
        pub(crate) fn ends_soon(self, now: SystemTime) -> bool {
            self.until.is_some_and(|until| until <= now + SOON)
        }

        /// Reads a decision at the current time.
        pub(crate) fn from_permission(permission: Permission) -> Result<Self, Refusal> {
            match permission {
                Permission::Granted { until, .. }
                    if until.is_some_and(|time| time <= clock::now()) =>
                {
                    Err(Refusal::NotAllowed)
                }
                Permission::Granted { until, generation } => Ok(Self { until, generation }),
                Permission::Refused => Err(Refusal::NotAllowed),
                Permission::Unknown => Err(Refusal::Unavailable),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> AccessRequest<'static> {
        AccessRequest::new("order-1", Action::Watch)
    }

    #[cfg(any(feature = "http", feature = "cloudflare"))]
    #[test]
    fn a_permission_ends_soon_a_minute_before_its_end_and_for_good() {
        use std::time::{Duration, SystemTime};
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let ends_soon = |until, seconds| {
            let generation = Some(0);
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            Grant { until, generation }.ends_soon(now)
        };
        assert!(!ends_soon(Some(end), 939));
        assert!(ends_soon(Some(end), 940));
        assert!(ends_soon(Some(end), 2_000));
        assert!(!ends_soon(None, 2_000));
    }

    #[test]
    fn a_bearer_token_is_read_from_its_header_only() {
        for (header, token) in [
            (Some("Bearer abc"), Some("abc")),
            (Some("bearer  abc "), Some("abc")),
            (Some("BEARER a.b.c"), Some("a.b.c")),
            (Some("Bearer"), None),
            (Some("Bearer "), None),
            (Some("Basic abc"), None),
            (Some("abc"), None),
            (Some(""), None),
            (None, None),
        ] {
            let mut request = request();
            request.authorization = header;
            assert_eq!(request.bearer(), token, "{header:?}");
        }
    }

    #[test]
    fn the_first_cookie_of_a_name_counts() {
        let mut request = request();
        request.cookies = Some("a=1; sse=abc=; b=\"x y\"; sse=later; broken; c=");
        for (name, value) in [
            ("a", Some("1")),
            ("sse", Some("abc=")),
            ("b", Some("x y")),
            ("c", Some("")),
            ("broken", None),
            ("ss", None),
            ("SSE", None),
        ] {
            assert_eq!(request.cookie(name), value, "{name}");
        }
        request.cookies = None;
        assert_eq!(request.cookie("a"), None);
    }

    #[test]
    fn a_value_of_the_query_is_decoded() {
        let mut request = request();
        request.query = Some("from=latest&token=a%2Bb+c&token=later");
        assert_eq!(request.query_value("token").as_deref(), Some("a+b c"));
        assert_eq!(request.query_value("lastEventId"), None);
    }
}
