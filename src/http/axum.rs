//! axum 0.8: a handler in one line, and CORS for `EventSource` (feature `axum`).
//!
//! ```
//! use axum::Router;
//! use ssetarget::{MemoryEventStore, NewEvent, SseTarget, axum::sse};
//!
//! let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
//! let app: Router = Router::new().route("/sse", sse(target));
//! ```
//!
//! For one log for each id see [`RunRoutes::into_router`]. In a handler of your own, [`Sse::respond`]
//! returns the response.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::axum::extract::{Path, Request};
use ::axum::response::{IntoResponse, Response};
use ::axum::routing::{MethodRouter, Router, any, get};
use ::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use ::http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use tower_layer::Layer;
use tower_service::Service;

use super::{RunRoutes, Sse, refuse};
#[cfg(feature = "links")]
use crate::access::MAX_TOKEN;
use crate::cors::{Cors, CorsAnswer, InvalidCors};
use crate::delivery::SseTarget;
use crate::refusal::Refusal;
use crate::stats::Metrics;
use crate::store::EventStore;

/// Serves the events of this log with the defaults of [`Sse::new`].
pub fn sse<E, S, R>(target: SseTarget<E, S>) -> MethodRouter<R>
where
    E: 'static,
    S: EventStore + 'static,
    R: Clone + Send + Sync + 'static,
{
    Sse::new().route(target)
}

impl Sse {
    /// Serves the events of this log: see [`respond`](Self::respond).
    ///
    /// Answers every method, with `405` where it must. Add another method as to any route:
    /// `sse.route(target).post(dispatch)`.
    pub fn route<E, S, R>(self, target: SseTarget<E, S>) -> MethodRouter<R>
    where
        E: 'static,
        S: EventStore + 'static,
        R: Clone + Send + Sync + 'static,
    {
        any(move |request: Request| self.respond(&target, &request))
    }

    /// Serves the events of the log that `lookup` finds for the path's parameters. If it returns a
    /// refusal, the request is refused as by [`refuse`](Self::refuse). `lookup` should store
    /// nothing: ids come from anybody. It is not called for a preflight, nor for a request that is
    /// refused whatever the log is (`400`, `405`).
    ///
    /// ```
    /// # use std::{collections::HashMap, sync::Arc};
    /// # use axum::Router;
    /// # use ssetarget::{MemoryEventStore, NewEvent, Refusal, SseTarget, http::Sse};
    /// # let jobs: Arc<HashMap<String, SseTarget<NewEvent, MemoryEventStore>>> = Arc::default();
    /// let events = Sse::new().route_with(move |id: String| {
    ///     let job = jobs.get(&id).cloned();
    ///     async move { job.ok_or(Refusal::NotFound("there is no such job")) }
    /// });
    /// let app: Router = Router::new().route("/{id}/sse", events);
    /// ```
    pub fn route_with<P, L, F, E, S, R>(self, lookup: L) -> MethodRouter<R>
    where
        P: DeserializeOwned + Send + 'static,
        L: Fn(P) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<SseTarget<E, S>, Refusal>> + Send + 'static,
        E: 'static,
        S: EventStore + 'static,
        R: Clone + Send + Sync + 'static,
    {
        any(async move |Path(parameters): Path<P>, request: Request| {
            if let Some(response) = self.turn_away(&request) {
                return response;
            }
            match lookup(parameters).await {
                Ok(target) => self.respond(&target, &request).await,
                Err(refusal) => self.refuse(&request, refusal),
            }
        })
    }
}

impl<L> RunRoutes<L> {
    /// Returns the routes as a router, to be [merged](axum::Router::merge) with others, also with other methods of
    /// the same paths.
    ///
    /// ```
    /// # use std::{collections::HashMap, sync::Arc};
    /// # use axum::Router;
    /// # use ssetarget::{MemoryEventStore, NewEvent, Refusal, SseTarget};
    /// use ssetarget::http::RunRoutes;
    ///
    /// # let jobs: Arc<HashMap<String, SseTarget<NewEvent, MemoryEventStore>>> = Arc::default();
    /// let runs = RunRoutes::new(move |id: String| {
    ///     let job = jobs.get(&id).cloned();
    ///     async move { job.ok_or(Refusal::NotFound("there is no such job")) }
    /// });
    /// let app: Router = Router::new().merge(runs.prefix("/jobs").into_router());
    /// ```
    pub fn into_router<F, E, S, R>(self) -> Router<R>
    where
        L: Fn(String) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<SseTarget<E, S>, Refusal>> + Send + 'static,
        E: 'static,
        S: EventStore + 'static,
        R: Clone + Send + Sync + 'static,
    {
        let paths = self.paths();
        #[cfg(feature = "links")]
        let sessions = self.clone();
        let serve = any(
            async move |request: Request| match self.serve(&request).await {
                Some(response) => response.into_response(),
                None => Refusal::NotFound("there is nothing here").into_response(),
            },
        );
        let mut router = Router::new();
        for path in paths {
            #[cfg(feature = "links")]
            if path.ends_with("/session") {
                let routes = sessions.clone();
                let session = any(async move |request: Request| {
                    let (head, body) = request.into_parts();
                    let request = ::http::Request::from_parts(head, ());
                    let body = ::axum::body::to_bytes(body, MAX_TOKEN + 64).await;
                    // A body that is too long is not a token.
                    let body = body.unwrap_or_default();
                    let response = routes.session::<_, std::convert::Infallible>(&request, &body);
                    response.map_or_else(
                        || Refusal::NotFound("there is nothing here").into_response(),
                        IntoResponse::into_response,
                    )
                });
                router = router.route(&path, session);
                continue;
            }
            router = router.route(&path, serve.clone());
        }
        router
    }
}

/// Serves the counts for Prometheus, in the format that the request accepts: see [`Metrics::answer`]. They reveal
/// much about a server: serve them on a port of their own, or behind access control.
pub fn metrics<R>(metrics: Metrics) -> MethodRouter<R>
where
    R: Clone + Send + Sync + 'static,
{
    get(async move |headers: HeaderMap| {
        let accept = super::cors::joined(&headers, &ACCEPT);
        let (content_type, text) = metrics.answer(accept.as_deref());
        let headers = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")];
        (headers, text)
    })
}

/// Answers with the refusal's own status, also to an `EventSource`, since the request is not known
/// here. See [`Sse::refuse`].
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        refuse::<std::convert::Infallible>(self).into_response()
    }
}

/// Returns a CORS layer for a whole router, to be used with `Router::layer`. [`Sse::cors`] does the
/// same for one route of events.
///
/// ```
/// # use axum::Router;
/// # let app: Router = Router::new();
/// let app = app.layer(ssetarget::axum::cors(["https://app.example.com"])?);
/// # Ok::<(), ssetarget::InvalidCors>(())
/// ```
///
/// # Errors
/// As [`Cors::new`].
pub fn cors(origins: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Cors, InvalidCors> {
    Cors::new(origins)
}

impl<S> Layer<S> for Cors {
    type Service = CorsService<S>;

    fn layer(&self, inner: S) -> CorsService<S> {
        let cors = self.clone();
        CorsService { inner, cors }
    }
}

/// A service with [`Cors`] around it: answers preflights itself, and adds headers to all other
/// responses.
#[derive(Clone, Debug)]
pub struct CorsService<S> {
    inner: S,
    cors: Cors,
}

impl<S, A, B> Service<::http::Request<A>> for CorsService<S>
where
    S: Service<::http::Request<A>, Response = ::http::Response<B>>,
    B: Default,
{
    type Response = ::http::Response<B>;
    type Error = S::Error;
    type Future = CorsFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: ::http::Request<A>) -> Self::Future {
        let answer = crate::http::cors::answer(&self.cors, &request);
        let inner = match answer.is_preflight() {
            true => None,
            false => Some(self.inner.call(request)),
        };
        CorsFuture { inner, answer }
    }
}

pin_project_lite::pin_project! {
    /// The response of a [`CorsService`].
    #[derive(Debug)]
    pub struct CorsFuture<F> {
        // `None` for a preflight.
        #[pin]
        inner: Option<F>,
        answer: CorsAnswer,
    }
}

impl<F, B, E> Future for CorsFuture<F>
where
    F: Future<Output = Result<::http::Response<B>, E>>,
    B: Default,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match this.inner.as_pin_mut() {
            Some(inner) => ready!(inner.poll(context))?,
            None => {
                let mut preflight = ::http::Response::new(B::default());
                *preflight.status_mut() = StatusCode::NO_CONTENT;
                preflight
            }
        };
        crate::http::cors::apply(this.answer, response.headers_mut());
        Poll::Ready(Ok(response))
    }
}
