//! The answers to requests for the runs of a workflow. Runs in the Worker.

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use worker::{Request, Response, web_sys};

use super::namespace::RunIndexNamespace;
use super::object::LIST;
use crate::access::{Access, AccessRequest, Action, Grant, Permission};
use crate::cloudflare::refuse::{refuse_to, unreachable};
use crate::cloudflare::request::{ObjectRequest, StreamRequest, query};
use crate::cloudflare::worker::{Asked, with_own_headers};
use crate::refusal::Refusal;
use crate::runs::{InvalidList, is_tag};
use crate::wire;

/// Answers with a page of the workflow's runs, the latest first, as JSON (feature `index`).
///
/// ```json
/// { "runs": [ { "id": "o-1", "workflow": "order", "tags": ["customer-7"], "run": 1, "state": "running",
///               "started": "2026-11-24T09:00:00.000Z", "task": "pack", "percent": 40 } ],
///   "next": "1795510800000~o-1", "cursor": 12,
///   "typical": { "runs": 50, "medianMs": 120000, "lowMs": 61000, "highMs": 240000 } }
/// ```
///
/// The query: `state` (several with commas), `tag`, `since` and `until` (when runs began), `limit` (up to 500; 100 if it
/// is not there) and `cursor`, the `next` of the page before. `cursor` in the answer is where
/// [`serve_runs_sse`] goes on, as `lastEventId`. `typical` is how long runs took that completed lately, if
/// there is enough to say: see [`Estimate`](crate::workflow::Estimate). What is not there is absent.
///
/// `access` is asked for [`Action::Watch`] of the id `*`, or of `tag:<tag>`, with
/// [`is_list`](AccessRequest::is_list).
/// [`LinkGrant::tag`](crate::access::LinkGrant::tag) and [`LinkGrant::all_runs`](crate::access::LinkGrant::all_runs)
/// grant it.
///
/// `200`; `400` for a malformed query; `401` if `access` refuses; `405`; `503` when the index cannot be reached.
///
/// # Errors
/// When a response cannot be made.
pub async fn serve_runs(
    request: &Request,
    index: &RunIndexNamespace,
    access: &impl Access,
) -> worker::Result<Response> {
    let decide = |asked: &AccessRequest<'_>| access.decide(asked).boxed_local();
    let response: LocalBoxFuture<'_, _> =
        Box::pin(serve_list_asking(request.inner(), index, Some(&decide)));
    response.await
}

/// Answers with a stream of the changes in the list of runs (feature `index`): an event `run` with the run as its
/// data, as in [`serve_runs`], whenever a run begins, changes or ends, and `removed` with the `id` when its log was
/// deleted.
///
/// The query: `tag`, and where to start, as for [`serve_sse`](crate::cloudflare::serve_sse). The log of changes keeps
/// the newest 10,000: a client that missed more gets `reset`, and reads the list again. Runs are reported when they
/// begin; when their state changes, at most every 5 seconds; when only their task or progress changes, at most every
/// 30 seconds; and when they end.
///
/// `access` is asked as by [`serve_runs`]: for [`Action::Watch`] of the id `*`, or of `tag:<tag>`, with
/// [`is_list`](AccessRequest::is_list).
///
/// `200`; `400` for a malformed position or tag; `401` if `access` refuses; `405`; `503` when the index cannot be
/// reached, and as a `200` that is cut off for a client that accepts `text/event-stream`, as from
/// [`serve_sse`](crate::cloudflare::serve_sse).
///
/// # Errors
/// When a response cannot be made.
pub async fn serve_runs_sse(
    request: &Request,
    index: &RunIndexNamespace,
    access: &impl Access,
) -> worker::Result<Response> {
    let decide = |asked: &AccessRequest<'_>| access.decide(asked).boxed_local();
    let response: LocalBoxFuture<'_, _> =
        Box::pin(serve_sse_asking(request.inner(), index, Some(&decide)));
    response.await
}

/// A hook that decides about each request.
pub(in crate::cloudflare) type Decide<'a> =
    &'a dyn Fn(&AccessRequest<'_>) -> LocalBoxFuture<'static, Permission>;

pub(in crate::cloudflare) async fn serve_list_asking(
    request: &web_sys::Request,
    index: &RunIndexNamespace,
    hook: Option<Decide<'_>>,
) -> worker::Result<Response> {
    let answer = async {
        let head = is_head(request)?;
        let (tag, _) = may_watch_list(request, index, hook).await?;
        let url = request.url();
        let query = query(&url).unwrap_or_default();
        index.ask(tag.as_deref(), &list_request(head, query)).await
    };
    finish(request, answer.await)
}

pub(in crate::cloudflare) async fn serve_sse_asking(
    request: &web_sys::Request,
    index: &RunIndexNamespace,
    hook: Option<Decide<'_>>,
) -> worker::Result<Response> {
    let answer = async {
        is_head(request)?;
        let (tag, grant) = may_watch_list(request, index, hook).await?;
        let mut stream = StreamRequest::from_request(request)?;
        stream.grant = grant;
        index.ask(tag.as_deref(), &stream.to_object_request()).await
    };
    finish(request, answer.await)
}

fn is_head(request: &web_sys::Request) -> Result<bool, Refusal> {
    match &*request.method() {
        "GET" => Ok(false),
        "HEAD" => Ok(true),
        _ => Err(Refusal::Method { allow: "GET, HEAD" }),
    }
}

/// Returns the tag that the request is about, and what the hook grants.
pub(in crate::cloudflare) async fn may_watch_list(
    request: &web_sys::Request,
    index: &RunIndexNamespace,
    hook: Option<Decide<'_>>,
) -> Result<(Option<String>, Grant), Refusal> {
    let tag = wire::parameter(query(&request.url()), "tag").map(String::from);
    let grant = match hook {
        None => Grant::default(),
        Some(hook) => {
            let id = tag
                .as_ref()
                .map_or("*".to_owned(), |tag| format!("tag:{tag}"));
            let decision = {
                let asked = Asked::from_request(request);
                let mut asked = asked.about(Some(&index.workflow_name), &id, Action::Watch);
                asked.is_list = true;
                hook(&asked)
            };
            Grant::from_permission(decision.await)?
        }
    };
    match tag.as_deref().is_none_or(is_tag) {
        true => Ok((tag, grant)),
        false => Err(Refusal::List(InvalidList::Tag)),
    }
}

fn list_request(head: bool, query: &str) -> ObjectRequest {
    let mut request = ObjectRequest::new(if head { "HEAD" } else { "GET" });
    request.set(LIST, &format!("?{query}"));
    request
}

impl RunIndexNamespace {
    /// Returns a page of the list.
    pub(in crate::cloudflare) async fn list(
        &self,
        tag: Option<&str>,
        query: &str,
    ) -> Result<Response, Refusal> {
        self.ask(tag, &list_request(false, query)).await
    }

    /// Returns the stream of what changes in the list of a tag.
    pub(in crate::cloudflare) async fn follow(
        &self,
        tag: &str,
        request: &StreamRequest,
    ) -> Result<Response, Refusal> {
        self.ask(Some(tag), &request.to_object_request()).await
    }

    async fn ask(&self, tag: Option<&str>, request: &ObjectRequest) -> Result<Response, Refusal> {
        let response = self.request(tag, request).await.and_then(with_own_headers);
        response.map_err(|error| unreachable(&error))
    }
}

fn finish(
    request: &web_sys::Request,
    answer: Result<Response, Refusal>,
) -> worker::Result<Response> {
    match answer {
        Ok(response) => Ok(response),
        Err(refusal) => refuse_to(request, refusal),
    }
}
