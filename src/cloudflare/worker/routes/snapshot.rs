//! `GET /<id>` for programs. Runs in the Worker.

use futures_util::future::LocalBoxFuture;
use worker::Response;

use super::{Call, Route};
use crate::cloudflare::worker::serve_snapshot::serve_snapshot_granted;
use crate::run_path::RunPath;

/// The run as it stands.
pub(in crate::cloudflare::worker) struct SnapshotRoute;

impl Route for SnapshotRoute {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        path.tail.is_empty()
    }

    fn media_type(&self) -> Option<&'static str> {
        Some("application/json")
    }

    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>> {
        Box::pin(serve_snapshot_granted(
            call.request,
            call.id,
            call.events,
            call.grant.unwrap_or_default(),
            call.is_private,
        ))
    }
}
