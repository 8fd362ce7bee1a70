//! `GET /<id>/sse`. Runs in the Worker.

use futures_util::future::LocalBoxFuture;
use worker::{Response, web_sys};

use super::{Call, Route};
use crate::cloudflare::worker::serve::{serve_granted, serve_granted_raw};
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

    fn serve_raw<'a>(
        &'a self,
        call: Call<'a>,
    ) -> LocalBoxFuture<'a, worker::Result<web_sys::Response>> {
        Box::pin(serve_granted_raw(
            call.request,
            call.id,
            call.events,
            call.grant.unwrap_or_default(),
        ))
    }
}
