//! `GET /sse?run=<id>&run=<id>`. Runs in the Worker.

use futures_util::future::LocalBoxFuture;
use worker::Response;

use super::{Call, Route};
use crate::access::Action;
use crate::cloudflare::worker::serve_merged::serve_merged_asking;
use crate::run_path::RunPath;

/// The events of several runs.
pub(in crate::cloudflare::worker) struct MergedRoute;

impl Route for MergedRoute {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        path.encoded_id == "sse" && path.tail.is_empty()
    }

    fn is_of_many(&self) -> bool {
        true
    }

    /// The route asks the hook itself, about each run.
    fn action(&self) -> Option<Action> {
        None
    }

    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>> {
        Box::pin(serve_merged_asking(call.request, call.events, call.hook))
    }
}
