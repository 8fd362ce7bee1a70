//! The routes of runs, and of any other logs, on any server.

use std::fmt;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "links")]
use ::http::header::SET_COOKIE;
use ::http::header::{ACCEPT, IF_NONE_MATCH};
use ::http::{HeaderName, HeaderValue, Method, Request, Response};
use bytes::Bytes;
use futures_core::Stream;
use futures_util::future::{Either, join_all, select, select_all};
use futures_util::{FutureExt, stream};
use percent_encoding::percent_decode_str;

use super::access::{decide, decide_list, head};
use super::cors::joined;
use super::{Caller, LAST_EVENT_ID, Snapshots, Sse, SseBody, response};
#[cfg(feature = "links")]
use crate::access::CapabilityLinks;
use crate::access::{Access, AccessRequest, Action, Grant, Permission};
use crate::cors::{Cors, InvalidCors};
use crate::delivery::{MergeError, MergedRequest, MergedSubscription, SseTarget};
use crate::event::Cursor;
use crate::page::RunPage;
use crate::page::serve::{FramedBy, Served, is_asset, serve_asset, serve_page};
use crate::refusal::Refusal;
use crate::run_path::{self, RunPath};
#[cfg(feature = "links")]
use crate::security;
use crate::store::EventStore;
use crate::sync::{BoxFuture, MaybeSend, MaybeSync};
use crate::wire;

/// Serves logs by their ids, and what else is switched on. Leaves other requests alone.
///
/// | path | switched on by | what it is |
/// |---|---|---|
/// | `GET /<id>/sse` | always | the log's events: see [`Sse::respond`] |
/// | `GET /sse?run=<id>&run=<id>` | [`merged`](Self::merged) | the events of several logs in one stream |
/// | `GET /sse?tag=<tag>` | [`merged_by_tag`](Self::merged_by_tag) | the events of the logs that have a tag |
/// | `GET /<id>`, for browsers | [`page`](Self::page) | the live page of the run; its files are at `GET /ssetarget/<file>` |
/// | `GET /<id>`, for programs | [`snapshots`](Self::snapshots) | the run as it stands, as JSON: see [`Snapshots`] |
/// | `GET /<id>/stream` | `durable_streams`, with the feature `durable-streams` | the log's events in the Durable Streams protocol |
/// | `GET /<id>/otlp` | `trace`, with the feature `otlp` | the run's trace |
/// | `POST /<id>/session` | `links`, with the feature `links` | gives a browser a cookie for the token of a link |
///
/// It is what `cloudflare::RunRoutes` is on Workers, for any server that has the types of the crate `http`. With axum it
/// becomes a router: `RunRoutes::into_router`. With hyper:
///
/// ```
/// # use std::{collections::HashMap, sync::Arc};
/// use ssetarget::http::RunRoutes;
/// use ssetarget::{MemoryEventStore, NewEvent, Refusal, SseTarget};
///
/// # type Jobs = HashMap<String, SseTarget<NewEvent, MemoryEventStore>>;
/// # fn routes(jobs: Arc<Jobs>) {
/// let runs = RunRoutes::new(move |id: String| {
///     let job = jobs.get(&id).cloned();
///     async move { job.ok_or(Refusal::NotFound("there is no such job")) }
/// })
/// .prefix("/jobs");
///
/// # let serve = async move |request: http::Request<()>| {
/// // In a handler:
/// if let Some(response) = runs.serve(&request).await {
///     return Some(response);
/// }
/// // Other routes.
/// # None };
/// # fn check<S, F: Future>(_: impl Fn(http::Request<()>) -> F) {}
/// # }
/// ```
///
/// **Who may**: everybody who knows an id, unless there is a [hook](Self::access).
#[derive(Clone)]
pub struct RunRoutes<L> {
    lookup: L,
    sse: Sse,
    prefix: String,
    access: Option<Hook>,
    is_private: bool,
    is_merged: bool,
    tags: Option<Tags>,
    page: Option<FramedBy>,
    snapshots: Option<Snapshots>,
    #[cfg(feature = "durable-streams")]
    has_streams: bool,
    #[cfg(feature = "otlp")]
    has_trace: bool,
    #[cfg(feature = "links")]
    links: Option<CapabilityLinks>,
}

/// Returns the logs that have a tag.
type Tags = Arc<dyn Fn(String) -> BoxFuture<'static, Vec<String>> + Send + Sync>;

/// How often a stream of a tag looks which logs have it.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

type Hook = Arc<dyn Fn(&AccessRequest<'_>) -> BoxFuture<'static, Permission> + Send + Sync>;

impl<L> RunRoutes<L> {
    /// Returns routes to the logs that `lookup` finds by their decoded ids. If it returns a refusal, the request is
    /// refused as by [`Sse::refuse`]. It should store nothing: ids come from anybody. It is not called for a request
    /// that the [hook](Self::access) refuses, for a preflight, nor for one that is refused whatever the log is
    /// (`400`, `405`).
    ///
    /// Streams have the defaults of [`Sse::new`].
    #[cfg(not(target_family = "wasm"))]
    #[must_use]
    pub fn new(lookup: L) -> Self {
        Self::with_sse(lookup, Sse::new())
    }

    /// Returns routes whose streams have this configuration, such as a
    /// [`Shutdown`](crate::http::Shutdown), or another runtime's clock.
    #[must_use]
    pub fn with_sse(lookup: L, sse: Sse) -> Self {
        Self {
            lookup,
            sse,
            prefix: String::new(),
            access: None,
            is_private: false,
            is_merged: false,
            tags: None,
            page: None,
            snapshots: None,
            #[cfg(feature = "durable-streams")]
            has_streams: false,
            #[cfg(feature = "otlp")]
            has_trace: false,
            #[cfg(feature = "links")]
            links: None,
        }
    }

    /// Sets the part of each path before the id, like `/jobs`. Default: nothing.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = run_path::prefix(prefix);
        self
    }

    /// Lets pages of other origins ask, and answers their preflights. Default: what the `Sse` has.
    #[must_use]
    pub fn cors(mut self, cors: Cors) -> Self {
        self.sse = self.sse.cors(cors);
        self
    }

    /// Sets the hook that decides about each request before anything else does. A request that it refuses gets the
    /// same `401`, whatever the id is, and `lookup` is not called. Default: everybody may read.
    #[must_use]
    pub fn access<A>(mut self, hook: A) -> Self
    where
        A: Access + Send + Sync + 'static,
        A::Decision: MaybeSend,
    {
        self.is_private = !hook.is_public();
        self.access = Some(Arc::new(move |request| Box::pin(hook.decide(request))));
        self
    }

    /// Serves the events of several logs in one stream, at `/sse?run=<id>&run=<id>`, up to
    /// [`MAX_MERGED`](crate::MAX_MERGED): see [`MergedSubscription`]. A log whose id is `sse` has no page and no
    /// snapshot then. Default: it is not served.
    ///
    /// Beside the statuses of [`Sse::respond`]: `400` for no runs, too many, or one that is named twice, and for an
    /// id that is not one of a merged stream; the refusal of `lookup` for a log that the client's position does not
    /// name. A log that the position names and that no longer exists leaves the stream. The hook decides about every
    /// run before anything is looked up; if it refuses one, all are refused. The stream ends at the earliest end of
    /// the permissions.
    #[must_use]
    pub fn merged(mut self) -> Self {
        self.is_merged = true;
        self
    }

    /// Serves the events of all logs that have a tag in one stream, at `/sse?tag=<tag>`, beside those that are
    /// [named](Self::merged). `logs` gets a tag and returns the ids of the logs that have it; it should store nothing, since
    /// tags come from anybody. Default: it is not served.
    ///
    /// `logs` is asked when a stream opens and every 2 seconds from then on. A log that it names joins, and comes from its
    /// beginning; one that ends leaves, and comes back with what follows if it goes on, as after a restart, while it is named;
    /// one that it does not name any more goes on to its end. The stream itself stays open, also
    /// without a log. A client that comes back has every event of each log once that is named: keep naming a log for some time
    /// after its end, so that clients who are away find the rest of it, and name up to [`MAX_MERGED`](crate::MAX_MERGED); further
    /// ones are left out.
    ///
    /// The hook is asked about the id `tag:<tag>`, with [`is_list`](AccessRequest::is_list), and about no single log. A log whose
    /// links are revoked leaves within 2 seconds.
    #[must_use]
    pub fn merged_by_tag<F>(mut self, logs: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Vec<String>> + MaybeSend + 'static,
    {
        self.tags = Some(Arc::new(move |tag| Box::pin(logs(tag))));
        self.merged()
    }

    /// Serves the live page of each run at `/<id>`, to clients that accept `text/html`, and its files under
    /// `/ssetarget/`. For logs of a [`tracer`](crate::tracer), and others with events of steps. It may not be framed:
    /// see [`page_framed_by`](Self::page_framed_by). Default: there is no page.
    ///
    /// Its status is `404` if `lookup` finds no log. With links, whose tokens only the page itself can read, a client
    /// without permission gets the page, too, which is the same for every id.
    #[must_use]
    pub fn page(mut self) -> Self {
        self.page = Some(FramedBy::default());
        self
    }

    /// Serves the page as [`page`](Self::page) does, for pages of these origins (and `'self'`) to show in a frame.
    ///
    /// # Errors
    /// [`InvalidCors`] for a string that no browser has as an origin.
    pub fn page_framed_by(
        mut self,
        origins: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, InvalidCors> {
        self.page = Some(FramedBy::new(origins)?);
        Ok(self)
    }

    /// Serves snapshots of the runs, as JSON, at `/<id>`, with the defaults of [`Snapshots`]. Default: they are not
    /// served.
    #[must_use]
    pub fn snapshots(mut self) -> Self {
        self.snapshots = Some(Snapshots::new(&self.sse));
        self
    }

    /// Serves each log at `/<id>/stream` for clients of the Durable Streams protocol (feature `durable-streams`): see
    /// [`Sse::durable_stream`]. Default: it is not served.
    #[cfg(feature = "durable-streams")]
    #[must_use]
    pub fn durable_streams(mut self) -> Self {
        self.has_streams = true;
        self
    }

    /// Serves the trace of each run at `/<id>/otlp` (feature `otlp`): see [`Sse::otlp`]. Default: it is not served.
    #[cfg(feature = "otlp")]
    #[must_use]
    pub fn trace(mut self) -> Self {
        self.has_trace = true;
        self
    }

    /// Serves runs to those who have a link to them, and to nobody else (feature `links`): the links are the
    /// [hook](Self::access), and the page exchanges the token of a link for a cookie. `into_router` serves
    /// `POST /<id>/session` itself; on other servers call [`session`](Self::session) for it.
    #[cfg(feature = "links")]
    #[must_use]
    pub fn links(mut self, links: CapabilityLinks) -> Self {
        self.links = Some(links.clone());
        self.access(links)
    }

    /// Returns the response to `POST /<id>/session` with this body, the token of a link (feature `links`): `200` with
    /// the cookie, or the `401` of every other refusal. `None` if the request is for another path. Read no more of a
    /// body than [`MAX_TOKEN`](crate::access::MAX_TOKEN) bytes.
    #[cfg(feature = "links")]
    pub fn session<B, E>(&self, request: &Request<B>, body: &[u8]) -> Option<Response<SseBody<E>>> {
        let links = self.links.as_ref()?;
        let path = RunPath::parse(&self.prefix, request.uri().path());
        let path = path.filter(|path| path.tail == SESSION)?;
        if *request.method() != Method::POST {
            let allow = "POST";
            return Some(self.sse.refuse(request, Refusal::Method { allow }));
        }
        let id = percent_decode_str(path.encoded_id).decode_utf8();
        let page = request.uri().path().strip_suffix(SESSION);
        let session = std::str::from_utf8(body)
            .map_err(|_| Refusal::NotAllowed)
            .and_then(|token| {
                links.session(&id.unwrap_or_default(), page.unwrap_or_default(), token)
            });
        let session = match session {
            Ok(session) => session,
            Err(refusal) => return Some(self.sse.refuse(request, refusal)),
        };
        let headers = [
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
        ];
        let headers = headers.into_iter().chain(security::TEXT);
        let mut response = response(200, headers, SseBody::text(session.body()));
        if let Ok(cookie) = HeaderValue::from_str(&session.cookie) {
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
        Some(self.readable(request, response))
    }

    /// Returns the response if the request is for one of these routes, and `None` if it is for another path. Reads
    /// the same parts of the request as [`Sse::respond`], and those that the hook gets.
    ///
    /// The statuses are those of [`Sse::respond`]; `401` if the hook refuses; the refusal of `lookup`, which should
    /// be `404`.
    pub fn serve<B, F, E, S>(
        &self,
        request: &Request<B>,
    ) -> impl Future<Output = Option<Response<SseBody<S::Error>>>> + MaybeSend + use<L, B, F, E, S>
    where
        L: Fn(String) -> F + Clone + MaybeSend + MaybeSync + 'static,
        F: Future<Output = Result<SseTarget<E, S>, Refusal>> + MaybeSend + 'static,
        E: 'static,
        S: EventStore + 'static,
    {
        let kind = RunPath::parse(&self.prefix, request.uri().path())
            .and_then(|path| self.kind(&path, request));
        let asked = kind.map(|kind| (kind, self.clone(), head(request)));
        async move {
            let (kind, routes, request) = asked?;
            Some(routes.answer(kind, &request).await)
        }
    }

    /// Returns the paths of these routes as axum writes them.
    #[cfg(all(feature = "axum", not(target_family = "wasm")))]
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut tails = vec!["/{id}/sse"];
        if self.is_merged {
            tails.push("/sse");
        }
        if self.page.is_some() || self.snapshots.is_some() {
            tails.push("/{id}");
        }
        if self.page.is_some() {
            tails.push("/ssetarget/{file}");
        }
        #[cfg(feature = "durable-streams")]
        if self.has_streams {
            tails.push("/{id}/stream");
        }
        #[cfg(feature = "otlp")]
        if self.has_trace {
            tails.push("/{id}/otlp");
        }
        #[cfg(feature = "links")]
        if self.links.is_some() {
            tails.push("/{id}/session");
        }
        let paths = tails.iter().map(|tail| format!("{}{tail}", self.prefix));
        paths.collect()
    }

    /// Returns the route at this path. Of several, it is the one whose media type is accepted, otherwise the one with
    /// JSON, which programs expect.
    fn kind<B>(&self, path: &RunPath<'_>, request: &Request<B>) -> Option<Kind> {
        match path.tail {
            "/sse" => Some(Kind::Events),
            #[cfg(feature = "durable-streams")]
            "/stream" => self.has_streams.then_some(Kind::Stream),
            "" if self.is_merged && path.encoded_id == "sse" => Some(Kind::Merged),
            #[cfg(feature = "otlp")]
            "/otlp" => self.has_trace.then_some(Kind::Trace),
            "" => {
                let accept = joined(request.headers(), &ACCEPT);
                let wants_html = accept.is_some_and(|accept| accept.contains("text/html"));
                match (&self.page, &self.snapshots) {
                    (Some(_), snapshots) if wants_html || snapshots.is_none() => Some(Kind::Page),
                    (_, Some(_)) => Some(Kind::Snapshot),
                    _ => None,
                }
            }
            tail => {
                let name = tail.trim_start_matches('/');
                let is_file = path.encoded_id == "ssetarget" && is_asset(name);
                (is_file && self.page.is_some()).then_some(Kind::Asset)
            }
        }
    }

    async fn answer<F, E, S>(
        &self,
        kind: Kind,
        request: &Request<()>,
    ) -> Response<SseBody<S::Error>>
    where
        L: Fn(String) -> F + Clone + MaybeSend + MaybeSync + 'static,
        F: Future<Output = Result<SseTarget<E, S>, Refusal>> + MaybeSend + 'static,
        E: 'static,
        S: EventStore + 'static,
    {
        if !is_read(request.method()) {
            // A preflight, or a method that no route has.
            let allow = "GET, HEAD";
            return self.sse.refuse(request, Refusal::Method { allow });
        }
        if kind == Kind::Merged {
            let tag = wire::parameter(request.uri().query(), "tag");
            return match (tag, &self.tags) {
                (Some(tag), Some(logs)) => {
                    let logs = Arc::clone(logs);
                    self.answer_tagged(request, tag.into_owned(), logs).await
                }
                _ => self.answer_merged(request).await,
            };
        }
        let path = RunPath::parse(&self.prefix, request.uri().path());
        let Some(RunPath { encoded_id, .. }) = path.filter(|_| kind != Kind::Asset) else {
            return self.asset(request);
        };
        let id = percent_decode_str(encoded_id)
            .decode_utf8()
            .unwrap_or_default();
        let permission = match &self.access {
            Some(hook) => {
                let hook = |asked: &AccessRequest<'_>| hook(asked);
                decide(&hook, request, &id, Action::Watch).await
            }
            None => Permission::granted(),
        };
        if let Err(refusal) = Grant::from_permission(permission) {
            // A client without permission may have a link, which only the page can read. The page reveals nothing of
            // the run.
            return match kind == Kind::Page && self.has_links() {
                true => self.page_of(request, &id, true),
                false => self.sse.refuse(request, refusal),
            };
        }
        if kind == Kind::Events
            && let Some(response) = self.sse.turn_away(request)
        {
            return response;
        }
        let found = match id.is_empty() {
            true => Err(Refusal::NotFound("there is no such log")),
            false => (self.lookup)(id.clone().into_owned()).await,
        };
        let target = match (found, kind) {
            (Ok(target), _) => target,
            (Err(Refusal::NotFound(_)), Kind::Page) => return self.page_of(request, &id, false),
            (Err(refusal), _) => return self.sse.refuse(request, refusal),
        };
        match (kind, &self.snapshots) {
            (Kind::Page, _) => self.page_of(request, &id, true),
            (Kind::Snapshot, Some(snapshots)) => {
                let snapshots = snapshots.clone().with_sse(&self.sse);
                let snapshots = match self.is_private() {
                    true => snapshots.private(),
                    false => snapshots,
                };
                snapshots.respond(&target, &id, request).await
            }
            #[cfg(feature = "durable-streams")]
            (Kind::Stream, _) => {
                let sse = &self.sse;
                let response = sse.durable_stream_of(&target, request, permission, self.is_private);
                response.await
            }
            #[cfg(feature = "otlp")]
            (Kind::Trace, _) => {
                let trace = crate::otlp::Trace::new(&*id);
                self.sse.otlp(&target, &trace, request)
            }
            _ => {
                let revoked = self.revoked(&id, permission);
                let response = self.sse.respond_to(&target, request, permission, revoked);
                response.await
            }
        }
    }

    async fn answer_merged<F, E, S>(&self, request: &Request<()>) -> Response<SseBody<S::Error>>
    where
        L: Fn(String) -> F + MaybeSend + MaybeSync,
        F: Future<Output = Result<SseTarget<E, S>, Refusal>> + MaybeSend + 'static,
        S: EventStore + 'static,
    {
        let response = async {
            let query = request.uri().query();
            let runs = MergedRequest::runs(query)?;
            let (grant, revoked) = self.grant_for_all(&runs, request).await?;
            let header = joined(request.headers(), &LAST_EVENT_ID);
            let wanted = MergedRequest::parse(header.as_deref(), query)?;
            let targets = join_all(runs.iter().map(|run| (self.lookup)(run.clone()))).await;
            let (mut logs, mut gone) = (Vec::new(), Vec::new());
            for (run, target) in runs.into_iter().zip(targets) {
                match target {
                    Ok(target) => logs.push((run, target)),
                    Err(Refusal::NotFound(_)) if wanted.cursor.of(&run).is_some() => gone.push(run),
                    Err(refusal) => return Err(refusal),
                }
            }
            if logs.is_empty() {
                return Ok(response(204, wire::END_HEADERS, SseBody::empty()));
            }
            let merged =
                MergedSubscription::start(logs, wanted.cursor.clone(), wanted.others).await;
            let merged = merged.map_err(|error| {
                if let MergeError::Store(error) = &error {
                    (self.sse.on_error)(error);
                }
                Refusal::Unavailable
            })?;
            let merged = merged.remember(&gone, &wanted.cursor);
            if merged.has_ended() {
                return Ok(response(204, wire::END_HEADERS, SseBody::empty()));
            }
            let body = match *request.method() == Method::HEAD {
                true => SseBody::left_out(),
                false => SseBody::chunks(merged.into_stream(), &self.sse, grant, revoked),
            };
            Ok(response(200, wire::HEADERS, body))
        };
        match response.await {
            Ok(response) => self.readable(request, response),
            Err(refusal) => self.sse.refuse(request, refusal),
        }
    }

    async fn answer_tagged<F, E, S>(
        &self,
        request: &Request<()>,
        tag: String,
        logs: Tags,
    ) -> Response<SseBody<S::Error>>
    where
        L: Fn(String) -> F + Clone + MaybeSend + MaybeSync + 'static,
        F: Future<Output = Result<SseTarget<E, S>, Refusal>> + MaybeSend + 'static,
        E: 'static,
        S: EventStore + 'static,
    {
        let response = async {
            let permission = match &self.access {
                None => Permission::granted(),
                Some(hook) => {
                    let hook = |asked: &AccessRequest<'_>| hook(asked);
                    decide_list(&hook, request, &format!("tag:{tag}")).await
                }
            };
            let grant = Grant::from_permission(permission)?;
            let header = joined(request.headers(), &LAST_EVENT_ID);
            let wanted = MergedRequest::parse(header.as_deref(), request.uri().query())?;
            let is_new = header.is_none() && wanted.cursor == Default::default();
            let mut merged = MergedSubscription::of_none(wanted.cursor, wanted.others);
            let tagged = TaggedLogs {
                routes: self.clone(),
                tag,
                logs,
                permission,
            };
            // New ones begin at their beginning, whatever those begin at that were there before.
            let first = match is_new {
                true => wanted.others,
                false => Cursor::Beginning,
            };
            let looked = tagged.look(&mut merged, first).await;
            looked.map_err(|error| {
                (self.sse.on_error)(&error);
                Refusal::Unavailable
            })?;
            let body = match *request.method() == Method::HEAD {
                true => SseBody::left_out(),
                false => SseBody::chunks(tagged.into_stream(merged), &self.sse, grant, None),
            };
            Ok(response(200, wire::HEADERS, body))
        };
        match response.await {
            Ok(response) => self.readable(request, response),
            Err(refusal) => self.sse.refuse(request, refusal),
        }
    }

    /// Returns a future that resolves when the link of this permission is revoked, `None` if it never is.
    fn revoked(&self, id: &str, permission: Permission) -> Option<BoxFuture<'static, ()>> {
        #[cfg(feature = "links")]
        if let Permission::Granted {
            generation: Some(generation),
            ..
        } = permission
        {
            return self.links.as_ref()?.revoked(id, generation);
        }
        let _ = (id, permission);
        None
    }

    /// Lets the hook decide about each run. Returns what all of the permissions grant, and a future that resolves
    /// when the first of them is revoked.
    async fn grant_for_all(
        &self,
        runs: &[String],
        request: &Request<()>,
    ) -> Result<(Grant, Option<BoxFuture<'static, ()>>), Refusal> {
        let Some(hook) = &self.access else {
            return Ok((Grant::default(), None));
        };
        let hook = |asked: &AccessRequest<'_>| hook(asked);
        let decide = |run: &String| decide(&hook, request, run, Action::Watch);
        let permissions = join_all(runs.iter().map(decide)).await;
        let each = runs.iter().zip(&permissions);
        let revoked = each.filter_map(|(run, permission)| self.revoked(run, *permission));
        let revoked: Vec<_> = revoked.collect();
        let grants = permissions.into_iter().map(Grant::from_permission);
        let grants = grants.collect::<Result<Vec<_>, _>>()?;
        let grant = Grant {
            until: grants.iter().filter_map(|grant| grant.until).min(),
            generation: None,
        };
        // `select_all` panics without futures.
        Ok(match revoked.is_empty() {
            true => (grant, None),
            false => (grant, Some(Box::pin(select_all(revoked).map(|_| ())))),
        })
    }

    fn page_of<E>(&self, request: &Request<()>, id: &str, is_found: bool) -> Response<SseBody<E>> {
        let assets = format!("{}/ssetarget", self.prefix);
        let mut page = RunPage::new(id).prefix(&self.prefix).assets(&assets);
        if self.snapshots.is_some() {
            page = page.snapshot();
        }
        if self.has_links() {
            page = page.session();
        }
        let framed_by = self.page.clone().unwrap_or_default();
        let served = serve_page(&page, &framed_by, is_found, self.is_private());
        self.readable(request, served_response(served))
    }

    fn asset<E>(&self, request: &Request<()>) -> Response<SseBody<E>> {
        let known = joined(request.headers(), &IF_NONE_MATCH);
        let name = request.uri().path().rsplit('/').next();
        let served = serve_asset(
            name.unwrap_or_default(),
            request.uri().query(),
            known.as_deref(),
        );
        match served {
            Some(served) => self.readable(request, served_response(served)),
            None => {
                let refusal = Refusal::NotFound("there is no such file");
                self.sse.refuse(request, refusal)
            }
        }
    }

    /// Returns whether not everybody may see these logs.
    fn is_private(&self) -> bool {
        self.is_private || self.sse.is_private
    }

    fn has_links(&self) -> bool {
        #[cfg(feature = "links")]
        return self.links.is_some();
        #[cfg(not(feature = "links"))]
        return false;
    }

    /// Adds the headers of CORS.
    fn readable<B, E>(
        &self,
        request: &Request<B>,
        response: Response<SseBody<E>>,
    ) -> Response<SseBody<E>> {
        Caller::from_request(&self.sse, request).may_read(response)
    }
}

/// A route that is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Events,
    Merged,
    Page,
    Asset,
    Snapshot,
    #[cfg(feature = "durable-streams")]
    Stream,
    #[cfg(feature = "otlp")]
    Trace,
}

#[cfg(feature = "links")]
const SESSION: &str = "/session";

fn served_response<E>(served: Served) -> Response<SseBody<E>> {
    let body = match served.status {
        304 => SseBody::empty(),
        _ => SseBody::text(served.body.into_owned()),
    };
    let mut response = response(served.status, [], body);
    for (name, value) in served.headers {
        // All values are checked, or our own.
        if let Ok(value) = HeaderValue::from_str(&value) {
            let name = HeaderName::from_static(name);
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// The logs that have a tag, for one stream of them.
struct TaggedLogs<L> {
    routes: RunRoutes<L>,
    tag: String,
    logs: Tags,
    permission: Permission,
}

impl<L> TaggedLogs<L> {
    /// Looks which logs have the tag: new ones join, at `other` if the client does not know them, those that have ended and
    /// go on are read again, and those that have ended and do not have it any more are forgotten.
    async fn look<F, E, S>(
        &self,
        merged: &mut MergedSubscription<S>,
        other: Cursor,
    ) -> Result<(), S::Error>
    where
        L: Fn(String) -> F + MaybeSend + MaybeSync,
        F: Future<Output = Result<SseTarget<E, S>, Refusal>> + MaybeSend + 'static,
        S: EventStore + 'static,
    {
        let mut names = (self.logs)(self.tag.clone()).await;
        let is_revoked = |name: &str| {
            let revoked = self.routes.revoked(name, self.permission);
            revoked.is_some_and(|revoked| revoked.now_or_never().is_some())
        };
        names.retain(|name| !is_revoked(name));
        merged.keep(|name, goes_on| {
            names.iter().any(|named| named == name) || goes_on && !is_revoked(name)
        });
        for name in names {
            if let Ok(log) = (self.routes.lookup)(name.clone()).await {
                merged.join(&name, &log, other).await?;
            }
        }
        merged.forget_others();
        Ok(())
    }

    fn into_stream<F, E, S>(
        self,
        merged: MergedSubscription<S>,
    ) -> impl Stream<Item = Result<Bytes, S::Error>> + MaybeSend
    where
        L: Fn(String) -> F + MaybeSend + MaybeSync + 'static,
        F: Future<Output = Result<SseTarget<E, S>, Refusal>> + MaybeSend + 'static,
        E: 'static,
        S: EventStore + 'static,
    {
        let sleep = Arc::clone(&self.routes.sse.sleep);
        let looks = sleep(LOOK_AGAIN);
        let first = (self, merged, looks);
        stream::try_unfold(first, move |(tagged, mut merged, mut looks)| {
            let sleep = Arc::clone(&sleep);
            async move {
                // Also where there is no log yet.
                if let Some(opening) = merged.opening() {
                    return Ok(Some((Bytes::from(opening), (tagged, merged, looks))));
                }
                loop {
                    let came = {
                        let next = async {
                            match merged.has_ended() {
                                true => pending().await,
                                false => merged.next().await,
                            }
                        };
                        // Looks first: a client that is behind always has something to get next.
                        match select(&mut looks, pin!(next)).await {
                            Either::Left(_) => None,
                            Either::Right((bytes, _)) => Some(bytes?),
                        }
                    };
                    match came {
                        Some(Some(bytes)) => {
                            return Ok(Some((Bytes::from(bytes), (tagged, merged, looks))));
                        }
                        // All have ended.
                        Some(None) => {}
                        None => {
                            tagged.look(&mut merged, Cursor::Beginning).await?;
                            looks = sleep(LOOK_AGAIN);
                        }
                    }
                }
            }
        })
    }
}

impl<L> fmt::Debug for RunRoutes<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunRoutes")
            .field("sse", &self.sse)
            .field("prefix", &self.prefix)
            .field("has_access", &self.access.is_some())
            .finish_non_exhaustive()
    }
}

fn is_read(method: &Method) -> bool {
    [Method::GET, Method::HEAD].contains(method)
}
