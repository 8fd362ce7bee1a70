//! HTTP for any server: turns a request into a response by the whole wire contract (feature
//! `http`).
//!
//! It uses the types of the crates `http` and `http-body`, which hyper, tower, axum and others
//! share, and depends on no server. With hyper:
//!
//! ```
//! # use std::convert::Infallible;
//! # use hyper::{Request, body::Incoming, service::service_fn};
//! # use ssetarget::{MemoryEventStore, NewEvent, SseTarget, http::Sse};
//! # let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
//! let sse = Sse::new();
//! let service = service_fn(move |request: Request<Incoming>| {
//!     let response = sse.respond(&target, &request);
//!     async move { Ok::<_, Infallible>(response.await) }
//! });
//! # fn check(_: impl hyper::service::Service<Request<Incoming>>) {}
//! # check(service);
//! ```

mod access;
#[cfg(all(feature = "axum", not(target_family = "wasm")))]
#[doc(hidden)] // `ssetarget::axum` is its name.
pub mod axum;
mod body;
pub(crate) mod cors;
#[cfg(feature = "durable-streams")]
mod durable_streams;
#[cfg(feature = "otlp")]
mod otlp;
mod run_routes;
mod shutdown;
mod snapshots;

use std::collections::hash_map::RandomState;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use ::http::header::ACCEPT;
use ::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use crate::access::{Access, Action, Grant, Permission};
use crate::clock;
use crate::clock::Sleep;
use crate::cors::{Cors, CorsAnswer};
use crate::delivery::HEARTBEAT_INTERVAL;
use crate::delivery::SseTarget;
use crate::event::Cursor;
use crate::refusal::Refusal;
use crate::stats::{Observer, Observing};
use crate::store::{EventStore, PageLimit};
use crate::sync::{BoxFuture, MaybeSend};
use crate::wire;

pub use body::{SseBody, StreamCut};
pub use run_routes::RunRoutes;
pub use shutdown::Shutdown;
pub use snapshots::Snapshots;

/// Serves logs as Server-Sent Events, with one configuration for all requests of a server.
///
/// Clones are cheap and share the configuration.
#[derive(Clone)]
pub struct Sse {
    heartbeat: Duration,
    page_limit: PageLimit,
    shutdown: Option<Shutdown>,
    cors: Option<Cors>,
    is_private: bool,
    sleep: Sleep,
    /// Whether that is tokio's.
    #[cfg(not(target_family = "wasm"))]
    is_on_tokio: bool,
    on_error: OnError,
    observing: Observing,
}

type OnError = Arc<dyn Fn(&(dyn Error + 'static)) + Send + Sync>;

impl Sse {
    /// Returns the defaults of the methods below, on tokio's clock.
    #[cfg(not(target_family = "wasm"))]
    #[must_use]
    pub fn new() -> Self {
        let mut sse = Self::with_sleep(tokio::time::sleep);
        sse.is_on_tokio = true;
        sse
    }

    /// Returns the defaults of the methods below, on another runtime's clock: `sleep` returns a
    /// future that resolves after a duration.
    pub fn with_sleep<F>(sleep: impl Fn(Duration) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + MaybeSend + 'static,
    {
        Self {
            heartbeat: HEARTBEAT_INTERVAL,
            page_limit: PageLimit::default(),
            shutdown: None,
            cors: None,
            is_private: false,
            sleep: clock::sleep_with(sleep),
            #[cfg(not(target_family = "wasm"))]
            is_on_tokio: false,
            on_error: Arc::new(|_| {}),
            observing: Observing::default(),
        }
    }

    /// Sets how long a stream is silent before a heartbeat. Default: [`HEARTBEAT_INTERVAL`].
    #[must_use]
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// Sets how much of the log a stream holds at a time, which is what a slow client costs.
    /// Default: [`PageLimit::default`].
    #[must_use]
    pub fn page_limit(mut self, limit: PageLimit) -> Self {
        self.page_limit = limit;
        self
    }

    /// Cuts streams off when `shutdown` begins: see [`Shutdown`]. Default: never.
    #[must_use]
    pub fn shutdown(mut self, shutdown: &Shutdown) -> Self {
        self.shutdown = Some(shutdown.clone());
        self
    }

    /// Lets pages of other origins read, and answers their preflights: see [`Cors`]. Default: no
    /// other origin may read.
    #[must_use]
    pub fn cors(mut self, cors: Cors) -> Self {
        self.cors = Some(cors);
        self
    }

    /// Makes shared caches keep nothing of these logs: for logs that not everybody may see, behind a check of your own. It
    /// applies to what a cache may keep otherwise: [`Snapshots`], the Durable Streams protocol (`durable_stream`) and the
    /// pages of [`RunRoutes`]. Streams of events are never answered from a cache. Default: shared caches may keep such a
    /// response, unless a [hook](RunRoutes::access) or a [`Permission`] with limits restricts who may see it.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.is_private = true;
        self
    }

    /// Sets a function that is called with each error of a store: those of requests that cannot be
    /// answered with events, and those that cut a stream off. Clients do not see the errors.
    /// Default: errors are ignored.
    #[must_use]
    pub fn on_error(
        mut self,
        callback: impl Fn(&(dyn Error + 'static)) + Send + Sync + 'static,
    ) -> Self {
        self.on_error = Arc::new(callback);
        self
    }

    /// Sets the [`Observer`] of streams and refusals. That of appends and reads is set by [`SseTarget::observed_by`].
    /// Default: none.
    #[must_use]
    pub fn observed_by(mut self, observer: impl Observer + 'static) -> Self {
        self.observing = Observing::by(observer);
        self
    }

    /// Returns the response to a request for the events of this log. Reads only the request's
    /// method, its `Last-Event-ID` header and its query (see [`wire::cursor`]), its `Accept` if the
    /// store fails, and what [`Cors`] needs.
    ///
    /// | status | when |
    /// |---|---|
    /// | `200` | the events follow, with the headers [`wire::HEADERS`] |
    /// | `204` | the log has ended and the client has all of it: an `EventSource` stops |
    /// | `400` | the position is malformed, or the header is there twice; the body is the reason, as plain text |
    /// | `405` | the method is neither `GET` nor `HEAD`; `Allow` says so |
    /// | `503` | the store failed; `Retry-After` is a second. A client that accepts `text/event-stream`, as every `EventSource`, gets `200` and a stream that breaks off after 1 to 3 seconds, so that it comes back: see [`Refusal::hold`] |
    ///
    /// `HEAD` gets the status and headers of `GET`. For a log that does not exist see
    /// [`refuse`](Self::refuse).
    ///
    /// The body ends after the terminal event. A store that fails in mid-stream, and a
    /// [`Shutdown`], break it off instead, so that no client takes that for the end.
    pub fn respond<E, S, B>(
        &self,
        target: &SseTarget<E, S>,
        request: &Request<B>,
    ) -> impl Future<Output = Response<SseBody<S::Error>>> + MaybeSend + use<E, S, B>
    where
        S: EventStore + 'static,
    {
        self.respond_permitted(target, request, Permission::granted())
    }

    /// Returns the response that [`respond`](Self::respond) returns, to a client with this permission: `401` if it
    /// was refused, before anything else is looked at, and a stream that ends at the permission's end with
    /// [`wire::EXPIRED`].
    pub fn respond_permitted<E, S, B>(
        &self,
        target: &SseTarget<E, S>,
        request: &Request<B>,
        permission: Permission,
    ) -> impl Future<Output = Response<SseBody<S::Error>>> + MaybeSend + use<E, S, B>
    where
        S: EventStore + 'static,
    {
        self.respond_to(target, request, permission, None)
    }

    /// Returns the response that [`respond_permitted`](Self::respond_permitted) returns, whose stream also ends when
    /// `revoked` resolves.
    pub fn respond_while<E, S, B, F>(
        &self,
        target: &SseTarget<E, S>,
        request: &Request<B>,
        permission: Permission,
        revoked: F,
    ) -> impl Future<Output = Response<SseBody<S::Error>>> + MaybeSend + use<E, S, B, F>
    where
        S: EventStore + 'static,
        F: Future<Output = ()> + MaybeSend + 'static,
    {
        self.respond_to(target, request, permission, Some(Box::pin(revoked)))
    }

    fn respond_to<E, S, B>(
        &self,
        target: &SseTarget<E, S>,
        request: &Request<B>,
        permission: Permission,
        revoked: Option<BoxFuture<'static, ()>>,
    ) -> impl Future<Output = Response<SseBody<S::Error>>> + MaybeSend + use<E, S, B>
    where
        S: EventStore + 'static,
    {
        let caller = Caller::from_request(self, request);
        let grant = Grant::from_permission(permission);
        let wanted = grant.and_then(|grant| Ok((grant, StreamRequest::from_request(request)?)));
        let target = target.typed();
        let sse = self.clone();
        async move {
            if let Some(preflight) = caller.preflight() {
                return preflight;
            }
            let response = match wanted {
                Ok((grant, wanted)) => sse.stream(&target, wanted, grant, revoked).await,
                Err(refusal) => Err(refusal),
            };
            match response {
                Ok(response) => caller.may_read(response),
                Err(refusal) => sse.refuse_to(&caller, refusal),
            }
        }
    }

    /// Returns the response to a request for the log of this id, as [`respond`](Self::respond) does, if `access`
    /// grants it, and otherwise the `401` that every id gets. Nothing is read before the decision.
    ///
    /// If finding the log costs anything, or reveals whether there is one, find it after the decision: as
    /// [`RunRoutes`] does.
    ///
    /// ```
    /// # use ssetarget::access::{AccessRequest, Permission};
    /// # use ssetarget::{MemoryEventStore, NewEvent, SseTarget, http::Sse};
    /// # async fn respond(request: http::Request<()>, target: SseTarget<NewEvent, MemoryEventStore>) {
    /// let hook = |request: &AccessRequest<'_>| {
    ///     std::future::ready(match request.bearer() {
    ///         Some("a key that nobody guesses") => Permission::granted(),
    ///         _ => Permission::Refused,
    ///     })
    /// };
    /// let response = Sse::new().serve(&request, "chat", &target, &hook).await;
    /// # }
    /// ```
    pub fn serve<E, S, B, A>(
        &self,
        request: &Request<B>,
        id: &str,
        target: &SseTarget<E, S>,
        access: &A,
    ) -> impl Future<Output = Response<SseBody<S::Error>>> + MaybeSend + use<E, S, B, A>
    where
        S: EventStore + 'static,
        A: Access,
        A::Decision: MaybeSend,
    {
        let decision = access::decide(access, request, id, Action::Watch);
        let (sse, request) = (self.clone(), access::head(request));
        let target: SseTarget<(), S> = target.typed();
        async move {
            let permission = decision.await;
            let response = sse.respond_permitted(&target, &request, permission);
            response.await
        }
    }

    /// Returns the response that refuses a request, for example with [`Refusal::NotFound`], or that
    /// makes it [wait](Refusal::hold), with the headers of [`Cors`].
    pub fn refuse<E, B>(&self, request: &Request<B>, refusal: Refusal) -> Response<SseBody<E>> {
        let caller = Caller::from_request(self, request);
        let preflight = caller.preflight();
        preflight.unwrap_or_else(|| self.refuse_to(&caller, refusal))
    }

    /// Returns the response to a request that needs no log: a preflight, or a request that is
    /// refused whatever the log is.
    pub(crate) fn turn_away<E, B>(&self, request: &Request<B>) -> Option<Response<SseBody<E>>> {
        let caller = Caller::from_request(self, request);
        caller.preflight().or_else(|| {
            let refusal = StreamRequest::from_request(request).err()?;
            Some(self.refuse_to(&caller, refusal))
        })
    }

    fn refuse_to<E>(&self, caller: &Caller, refusal: Refusal) -> Response<SseBody<E>> {
        self.observing
            .tell(|observer| observer.refused(refusal.status()));
        let response = match refusal.hold(caller.accept.as_deref(), random()) {
            Some(_) if caller.head => response(200, wire::HEADERS, SseBody::left_out()),
            Some(time) => response(200, wire::HEADERS, SseBody::hold(time, self)),
            None => refuse(refusal),
        };
        caller.may_read(response)
    }

    async fn stream<S>(
        &self,
        target: &SseTarget<(), S>,
        wanted: StreamRequest,
        grant: Grant,
        revoked: Option<BoxFuture<'static, ()>>,
    ) -> Result<Response<SseBody<S::Error>>, Refusal>
    where
        S: EventStore + 'static,
    {
        let subscription = match target.subscribe(wanted.cursor).await {
            Ok(subscription) => subscription.with_page_limit(self.page_limit),
            Err(error) => {
                (self.on_error)(&error);
                return Err(Refusal::Unavailable);
            }
        };
        if subscription.has_ended() {
            return Ok(response(204, wire::END_HEADERS, SseBody::empty()));
        }
        let body = match wanted.head {
            true => SseBody::left_out(),
            false => SseBody::stream(subscription, self, grant, revoked),
        };
        Ok(response(200, wire::HEADERS, body))
    }
}

#[cfg(not(target_family = "wasm"))]
impl Default for Sse {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sse")
            .field("heartbeat", &self.heartbeat)
            .field("page_limit", &self.page_limit)
            .field("shutdown", &self.shutdown)
            .field("cors", &self.cors)
            .field("is_private", &self.is_private)
            .finish_non_exhaustive()
    }
}

/// Returns the response that refuses any request with the refusal's own status. For a request from
/// a browser [`Sse::refuse`] is better.
#[must_use]
pub fn refuse<E>(refusal: Refusal) -> Response<SseBody<E>> {
    let body = SseBody::text(refusal.body());
    response(refusal.status(), refusal.headers(), body)
}

/// The parts of a request that matter for refusals and CORS.
struct Caller {
    head: bool,
    accept: Option<String>,
    cors: Option<CorsAnswer>,
}

impl Caller {
    fn from_request<B>(sse: &Sse, request: &Request<B>) -> Self {
        let accept = cors::joined(request.headers(), &ACCEPT);
        Self {
            head: *request.method() == Method::HEAD,
            accept: accept.map(|accept| accept.into_owned()),
            cors: sse.cors.as_ref().map(|cors| cors::answer(cors, request)),
        }
    }

    /// Returns the response if the request is a preflight.
    fn preflight<E>(&self) -> Option<Response<SseBody<E>>> {
        let is_preflight = self.cors.as_ref().is_some_and(CorsAnswer::is_preflight);
        is_preflight.then(|| self.may_read(response(204, [], SseBody::empty())))
    }

    fn may_read<E>(&self, mut response: Response<SseBody<E>>) -> Response<SseBody<E>> {
        if let Some(answer) = &self.cors {
            cors::apply(answer, response.headers_mut());
        }
        response
    }
}

/// Returns a random number from 0 to 1.
fn random() -> f64 {
    let hash = RandomState::new().build_hasher().finish();
    #[allow(clippy::cast_possible_truncation, reason = "half of it is enough")]
    let half = hash as u32;
    f64::from(half) / f64::from(u32::MAX)
}

/// The parts of a valid request that matter for its stream.
struct StreamRequest {
    cursor: Cursor,
    head: bool,
}

impl StreamRequest {
    fn from_request<B>(request: &Request<B>) -> Result<Self, Refusal> {
        let head = match *request.method() {
            Method::GET => false,
            Method::HEAD => true,
            _ => return Err(Refusal::Method { allow: "GET, HEAD" }),
        };
        // A value that is not text, or that is repeated, is not an id and is refused as malformed.
        let header = cors::joined(request.headers(), &LAST_EVENT_ID);
        let cursor = wire::cursor(header.as_deref(), request.uri().query())?;
        Ok(Self { cursor, head })
    }
}

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

fn response<E>(
    status: u16,
    headers: impl IntoIterator<Item = (&'static str, &'static str)>,
    body: SseBody<E>,
) -> Response<SseBody<E>> {
    let mut response = Response::new(body);
    // All numbers used are valid statuses.
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        let (name, value) = (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
        response.headers_mut().insert(name, value);
    }
    response
}
