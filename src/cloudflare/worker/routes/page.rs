//! `GET /<id>` for people, and the page's files. Runs in the Worker.

use futures_util::future::LocalBoxFuture;
use worker::{Response, ResponseBuilder};

use super::{Call, Route};
use crate::access::Action;
use crate::cloudflare::refuse::{refuse_to, unreachable};
use crate::cloudflare::request::query;
use crate::page::RunPage;
use crate::page::serve::{FramedBy, Served, is_asset, serve_asset, serve_page};
use crate::refusal::Refusal;
use crate::run_path::RunPath;

/// The live page of a run.
#[derive(Default)]
pub(in crate::cloudflare::worker) struct PageRoute {
    pub(in crate::cloudflare::worker) framed_by: FramedBy,
}

impl PageRoute {
    async fn page(&self, call: &Call<'_>) -> Result<Served, Refusal> {
        // A client without permission may have a link, which only the page can read. The page reveals nothing of the
        // run.
        let is_found = match call.grant {
            None => true,
            Some(grant) => {
                let status = call.events.status_of(call.id, grant).await;
                match status.map_err(|error| unreachable(&error))? {
                    200 | 204 => true,
                    // The link was revoked: the fragment may have a new one.
                    401 => true,
                    _ => false,
                }
            }
        };
        let assets = format!("{}/ssetarget", call.prefix);
        let mut page = RunPage::new(call.id).prefix(call.prefix).assets(&assets);
        if call.has("", Some("application/json")) {
            page = page.snapshot();
        }
        if call.has("/event", None) {
            page = page.answers();
        }
        if call.has("/session", None) {
            page = page.session();
        }
        Ok(serve_page(
            &page,
            &self.framed_by,
            is_found,
            call.is_private,
        ))
    }
}

impl Route for PageRoute {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        path.tail.is_empty()
    }

    fn is_open(&self, takes_links: bool) -> bool {
        takes_links
    }

    fn media_type(&self) -> Option<&'static str> {
        Some("text/html")
    }

    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>> {
        Box::pin(async move {
            match self.page(&call).await {
                Ok(served) => respond(served),
                Err(refusal) => refuse_to(call.request, refusal),
            }
        })
    }
}

/// The files of the page: the same for all runs.
pub(in crate::cloudflare::worker) struct AssetsRoute;

impl Route for AssetsRoute {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        let name = path.tail.strip_prefix('/');
        path.encoded_id == "ssetarget" && name.is_some_and(is_asset)
    }

    fn action(&self) -> Option<Action> {
        None
    }

    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>> {
        Box::pin(async move {
            let url = call.request.url();
            let known = call.request.headers().get("if-none-match").ok().flatten();
            let name = call.tail.trim_start_matches('/');
            match serve_asset(name, query(&url), known.as_deref()) {
                Some(served) => respond(served),
                None => refuse_to(call.request, Refusal::NotFound("there is no such file")),
            }
        })
    }
}

pub(super) fn respond(served: Served) -> worker::Result<Response> {
    let mut response = ResponseBuilder::new().with_status(served.status);
    for (name, value) in &served.headers {
        response = response.with_header(name, value)?;
    }
    match served.status {
        304 => Ok(response.empty()),
        _ => Ok(response.fixed(served.body.into_owned().into_bytes())),
    }
}
