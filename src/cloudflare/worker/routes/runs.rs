//! `GET /runs` and `GET /runs/sse` (feature `index`). Runs in the Worker.

use futures_util::future::LocalBoxFuture;
use worker::Response;

use super::page::respond;
use super::{Call, Route};
use crate::access::Action;
use crate::cloudflare::index::{RunIndexNamespace, serve_list_asking, serve_sse_asking};
use crate::cloudflare::refuse::refuse_to;
use crate::cloudflare::request::query;
use crate::page::runs_asset;
use crate::page::serve::serve_file;
use crate::refusal::Refusal;
use crate::run_path::RunPath;

/// The list of runs, and its changes.
pub(in crate::cloudflare::worker) struct RunsRoute {
    pub(in crate::cloudflare::worker) index: RunIndexNamespace,
}

impl Route for RunsRoute {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        path.encoded_id == "runs" && ["", "/sse"].contains(&path.tail)
    }

    fn is_of_many(&self) -> bool {
        true
    }

    /// The route asks the hook itself, about `*` or a tag.
    fn action(&self) -> Option<Action> {
        None
    }

    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>> {
        match call.tail {
            "" => Box::pin(serve_list_asking(call.request, &self.index, call.hook)),
            _ => Box::pin(serve_sse_asking(call.request, &self.index, call.hook)),
        }
    }
}

/// The files of the table of runs.
pub(in crate::cloudflare::worker) struct RunsAssetsRoute;

impl Route for RunsAssetsRoute {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        let name = path.tail.strip_prefix('/');
        path.encoded_id == "ssetarget" && name.and_then(runs_asset).is_some()
    }

    fn action(&self) -> Option<Action> {
        None
    }

    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>> {
        Box::pin(async move {
            let url = call.request.url();
            let known = call.request.headers().get("if-none-match").ok().flatten();
            match runs_asset(call.tail.trim_start_matches('/')) {
                Some(asset) => respond(serve_file(asset, query(&url), known.as_deref())),
                None => refuse_to(call.request, Refusal::NotFound("there is no such file")),
            }
        })
    }
}
