//! `GET /<id>/sse`. Runs in the Worker.

use futures_util::future::LocalBoxFuture;
use worker::Response;

use super::{Call, Route};
use crate::cloudflare::worker::serve::serve_granted;
use crate::run_path::RunPath;

/// The run's events.
pub(in crate::cloudflare::worker) struct EventsRoute;

impl Route for EventsRoute {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        path.tail == "/sse"
    }

    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>> {
        Box::pin(serve_granted(
            call.request,
            call.id,
            call.events,
            call.grant.unwrap_or_default(),
        ))
    }
}
