//! A route for `/<id>/sse`. Runs in the Worker.

use futures_util::future::LocalBoxFuture;
use worker::{Request, Response};

use super::namespace::WorkflowEventsNamespace;
use super::serve::serve_sse;
use crate::cors::Cors;

/// A route that answers `/<id>/sse` and leaves other requests alone.
///
/// ```ignore
/// let route = SseRoute::new(events);
/// match route.serve(request).await? {
///     Ok(response) => Ok(response),
///     Err(request) => other_routes(request).await,
/// }
/// ```
#[derive(Debug)]
pub struct SseRoute {
    events: WorkflowEventsNamespace,
    cors: Option<Cors>,
}

impl SseRoute {
    /// Returns a route that serves these events.
    #[must_use]
    pub fn new(events: WorkflowEventsNamespace) -> Self {
        Self { events, cors: None }
    }

    /// Lets pages of other origins read, and answers their preflights. Default: none do.
    #[must_use]
    pub fn cors(mut self, cors: Cors) -> Self {
        self.cors = Some(cors);
        self
    }

    /// Returns the response, as [`serve_sse`] makes it, if the request is for `/<id>/sse`, else the request itself.
    ///
    /// # Errors
    /// As [`serve_sse`].
    pub async fn serve(&self, request: Request) -> worker::Result<Result<Response, Request>> {
        let path = request.path();
        let id = path
            .strip_prefix('/')
            .and_then(|path| path.strip_suffix("/sse"))
            .filter(|id| !id.is_empty() && !id.contains('/'));
        match id {
            Some(id) => {
                // An id that cannot be decoded is no instance's either.
                let id = js_sys::decode_uri_component(id).map(String::from);
                let id = id.unwrap_or_default();
                // Boxed: else it would be part of the handler's own poll function, which the runtime
                // optimizes as a whole if it is polled often, for 0.1 s of CPU.
                let serve = |request| -> LocalBoxFuture<'_, _> {
                    Box::pin(serve_sse(&id, request, &self.events))
                };
                let response = match &self.cors {
                    Some(cors) => cors.wrap(request, serve).await,
                    None => serve(request).await,
                };
                Ok(Ok(response?))
            }
            None => Ok(Err(request)),
        }
    }
}
