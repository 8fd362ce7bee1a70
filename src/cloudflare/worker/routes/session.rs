//! `POST /<id>/session`: exchanges a link's token for a cookie. Runs in the Worker.

use futures_util::future::LocalBoxFuture;
use worker::{Response, ResponseBuilder};

use super::answers::read_body;
use super::{Call, Route};
use crate::access::{Action, CapabilityLinks, LinkSession, MAX_TOKEN};
use crate::cloudflare::refuse::refuse_to;
use crate::refusal::Refusal;
use crate::run_path::RunPath;
use crate::security;

/// The exchange of a token for a cookie.
pub(in crate::cloudflare::worker) struct SessionRoute {
    pub(in crate::cloudflare::worker) links: CapabilityLinks,
}

const TAIL: &str = "/session";

impl SessionRoute {
    async fn session(&self, call: &Call<'_>) -> Result<LinkSession, Refusal> {
        // With room for white space around it.
        let body = read_body(call.request, MAX_TOKEN + 64).await;
        let body = body.map_err(|_| Refusal::NotAllowed)?;
        let token = std::str::from_utf8(&body).map_err(|_| Refusal::NotAllowed)?;
        let url = call.request.url();
        self.links.session(call.id, page_path(&url), token)
    }

    async fn answer(&self, call: Call<'_>) -> worker::Result<Response> {
        let session = match self.session(&call).await {
            Ok(session) => session,
            Err(refusal) => return refuse_to(call.request, refusal),
        };
        let mut response = ResponseBuilder::new()
            .with_header("content-type", "application/json")?
            .with_header("cache-control", "no-store")?
            .with_header("set-cookie", &session.cookie)?;
        for (name, value) in security::TEXT {
            response = response.with_header(name, value)?;
        }
        Ok(response.fixed(session.body().into_bytes()))
    }
}

/// Returns the path of the run's page, as the URL of its session has it.
fn page_path(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find('/').map_or("", |slash| &rest[slash..]);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    path.strip_suffix(TAIL).unwrap_or(path)
}

impl Route for SessionRoute {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        path.tail == TAIL
    }

    fn methods(&self) -> &'static str {
        "POST"
    }

    /// The token in the body decides.
    fn action(&self) -> Option<Action> {
        None
    }

    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>> {
        Box::pin(self.answer(call))
    }
}
