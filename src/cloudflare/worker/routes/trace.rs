//! `GET /<id>/otlp`. Runs in the Worker.

use futures_util::future::LocalBoxFuture;
use worker::Response;

use super::{Call, Route};
use crate::cloudflare::worker::serve_otlp::serve_granted;
use crate::run_path::RunPath;

/// The run's trace.
pub(in crate::cloudflare::worker) struct TraceRoute;

impl Route for TraceRoute {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        path.tail == "/otlp"
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
