//! The routes of runs, and of any other logs, on any server.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use ::http::{Method, Request, Response};
use percent_encoding::percent_decode_str;

use super::access::{decide, head};
use super::{Sse, SseBody};
use crate::access::{Access, AccessRequest, Action, Grant, Permission};
use crate::cors::Cors;
use crate::delivery::SseTarget;
use crate::refusal::Refusal;
use crate::run_path::{self, RunPath};
use crate::store::EventStore;
use crate::sync::{BoxFuture, MaybeSend, MaybeSync};

/// Serves logs by their ids: `GET <prefix>/<id>/sse`. Leaves other requests alone.
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
}

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
        }
    }

    /// Sets what is before the id in each path, like `/jobs`. Default: nothing.
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
        self.access = Some(Arc::new(move |request| Box::pin(hook.decide(request))));
        self
    }

    /// Returns the response if the request is for one of these routes, and `None` if it is for another path. Reads
    /// of the request what [`Sse::respond`] reads, and what the hook gets.
    ///
    /// The statuses are those of [`Sse::respond`]; `401` where the hook refuses; what `lookup` refuses with, which
    /// should be `404`.
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
        let is_mine = RunPath::parse(&self.prefix, request.uri().path())
            .is_some_and(|path| path.tail == "/sse");
        let asked = is_mine.then(|| (self.clone(), head(request)));
        async move {
            let (routes, request) = asked?;
            Some(routes.answer(&request).await)
        }
    }

    /// Returns the paths of these routes as axum writes them.
    #[cfg(all(feature = "axum", not(target_family = "wasm")))]
    pub(crate) fn paths(&self) -> Vec<String> {
        vec![format!("{}/{{id}}/sse", self.prefix)]
    }

    async fn answer<F, E, S>(&self, request: &Request<()>) -> Response<SseBody<S::Error>>
    where
        L: Fn(String) -> F + MaybeSend + MaybeSync,
        F: Future<Output = Result<SseTarget<E, S>, Refusal>> + MaybeSend + 'static,
        S: EventStore + 'static,
    {
        if !is_read(request.method()) {
            // A preflight, or a method that no route has.
            let allow = "GET, HEAD";
            return self.sse.refuse(request, Refusal::Method { allow });
        }
        let path = RunPath::parse(&self.prefix, request.uri().path());
        let encoded = path.map_or("", |path| path.encoded_id);
        let id = percent_decode_str(encoded)
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
            return self.sse.refuse(request, refusal);
        }
        if let Some(response) = self.sse.turn_away(request) {
            return response;
        }
        if id.is_empty() {
            let unknown = Refusal::NotFound("there is no such log");
            return self.sse.refuse(request, unknown);
        }
        match (self.lookup)(id.into_owned()).await {
            Ok(target) => {
                let response = self.sse.respond_permitted(&target, request, permission);
                response.await
            }
            Err(refusal) => self.sse.refuse(request, refusal),
        }
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
