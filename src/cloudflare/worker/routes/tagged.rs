//! `GET /sse?tag=<tag>` (feature `index`). Runs in the Worker.

use futures_util::future::LocalBoxFuture;
use worker::Response;

use super::{Call, Route};
use crate::access::Action;
use crate::cloudflare::index::RunIndexNamespace;
use crate::cloudflare::request::query;
use crate::cloudflare::worker::serve_merged::serve_merged_asking;
use crate::cloudflare::worker::serve_tagged::serve_tagged_asking;
use crate::run_path::RunPath;
use crate::wire;

/// The events of the runs with a tag, and of several runs that are named.
pub(in crate::cloudflare::worker) struct TaggedRoute {
    pub(in crate::cloudflare::worker) index: RunIndexNamespace,
}

impl Route for TaggedRoute {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        path.encoded_id == "sse" && path.tail.is_empty()
    }

    fn is_of_many(&self) -> bool {
        true
    }

    /// The route asks the hook itself, about the tag or each run.
    fn action(&self) -> Option<Action> {
        None
    }

    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>> {
        let Call {
            request,
            events,
            hook,
            ..
        } = call;
        let names_tag = wire::parameter(query(&request.url()), "tag").is_some();
        match names_tag {
            true => Box::pin(serve_tagged_asking(request, events, &self.index, hook)),
            false => Box::pin(serve_merged_asking(request, events, hook)),
        }
    }
}
