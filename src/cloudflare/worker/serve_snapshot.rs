//! The answer to a program's request for a run as it stands. Runs in the Worker.

use std::cell::RefCell;
use std::collections::BTreeMap;

use futures_util::future::LocalBoxFuture;
use wasm_bindgen::JsValue;
use worker::{Request, Response, ResponseBuilder, web_sys};

use super::asked::may_watch;
use super::cors::with_own_headers;
use super::instance_id::is_instance_id;
use super::namespace::WorkflowEventsNamespace;
use crate::access::{Access, Grant};
use crate::cloudflare::js;
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse, unreachable};
use crate::cloudflare::request::{ENDED, SnapshotCall};
use crate::refusal::Refusal;
use crate::workflow::snapshot_cache::{HEADERS, SnapshotCache, cache_control};

/// Answers with the [snapshot](crate::workflow::RunSnapshot) of a run: the run as it stands, as JSON, with the
/// position from which its stream goes on.
///
/// `200` with an `ETag`; `304` if the client's `If-None-Match` names it; `404` for an instance that has no events
/// (see [`WorkflowEventsNamespace::create`] for one that was just created); `405` with `Allow` for anything but `GET`
/// and `HEAD`; `401` if `access` refuses, before an object is called; `503` with `Retry-After` when the object cannot
/// be reached after three tries; `507` if the view of the run would need more than 32 MiB of the object's memory:
/// read the events instead. Reasons are plain text. With
/// [`ask_for_unknown`](WorkflowEventsNamespace::ask_for_unknown), an instance that exists and has dispatched nothing
/// yet is `queued`, without an `ETag`.
///
/// The object folds the log once while it is in memory, so that a request reads only new events. A client that has
/// the latest snapshot causes no read at all.
///
/// With [`with_workflow`](WorkflowEventsNamespace::with_workflow) the platform is asked beside the answer, as for
/// streams but at most every ten seconds, whether an open run has ended. The next snapshot says so.
///
/// # Errors
/// When a response cannot be made.
pub async fn serve_snapshot(
    request: &Request,
    id: &str,
    events: &WorkflowEventsNamespace,
    access: &impl Access,
) -> worker::Result<Response> {
    let request = request.inner();
    match may_watch(access, request, Some(&events.workflow_name), id).await {
        Ok(grant) => {
            let is_private = !access.is_public();
            let response: LocalBoxFuture<'_, _> = Box::pin(serve_snapshot_granted(
                request, id, events, grant, is_private,
            ));
            response.await
        }
        Err(refusal) => refuse(refusal),
    }
}

/// Answers a client that may watch. `is_private` forbids shared caches to keep the answer: for runs that not
/// everybody may see.
pub(super) async fn serve_snapshot_granted(
    request: &web_sys::Request,
    id: &str,
    events: &WorkflowEventsNamespace,
    grant: Grant,
    is_private: bool,
) -> worker::Result<Response> {
    match answer(id, request, events, grant).await {
        Ok(response) => {
            if [200, 304].contains(&response.status_code()) {
                let cache = cache_control(is_private);
                response.headers().set("cache-control", cache)?;
            }
            Ok(response)
        }
        Err(refusal) => refuse(refusal),
    }
}

async fn answer(
    instance_id: &str,
    request: &web_sys::Request,
    events: &WorkflowEventsNamespace,
    grant: Grant,
) -> Result<Response, Refusal> {
    let head = match &*request.method() {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Refusal::Method { allow: "GET, HEAD" }),
    };
    if !is_instance_id(instance_id) {
        return Err(UNKNOWN_INSTANCE);
    }
    let call = SnapshotCall {
        id: instance_id.to_owned(),
        workflow: events.workflow_name.clone(),
        if_none_match: request.headers().get("if-none-match").ok().flatten(),
        head,
        grant,
    };
    let response = ask_object(&call, events).await;
    let response = response.map_err(|error| unreachable(&error))?;
    match response.status_code() {
        404 => return answer_unknown(&call, events).await,
        200 | 304 => {}
        _ => return Ok(response),
    }
    let has_ended = response.headers().has(ENDED).unwrap_or_default();
    response
        .headers()
        .delete(ENDED)
        .map_err(|error| unreachable(&error))?;
    if !has_ended && events.workflow.is_some() && is_due(events.object_name(instance_id)) {
        let (events, id) = (events.clone(), instance_id.to_owned());
        let settled = js::promise(async move {
            events.settle(&id).await;
            Ok(JsValue::UNDEFINED)
        });
        // If it is refused, the Worker may end before the run is settled, and a later request does it.
        let _ = js::wait_until(&settled);
    }
    Ok(response)
}

/// Asks the object that has the log, up to three times: see [`route::send`](super::route::send).
async fn ask_object(
    call: &SnapshotCall,
    events: &WorkflowEventsNamespace,
) -> worker::Result<Response> {
    const TRIES: u32 = 3;
    let name = events.object_name(&call.id);
    let request = call.to_object_request();
    let mut tried = 1;
    loop {
        let response = events.request(&name, &request).await;
        if response.is_ok() || tried == TRIES {
            return with_own_headers(response?);
        }
        tried += 1;
    }
}

/// Answers if there are no events, but perhaps an instance that has dispatched none yet.
async fn answer_unknown(
    call: &SnapshotCall,
    events: &WorkflowEventsNamespace,
) -> Result<Response, Refusal> {
    match events.state_of_unknown(&call.id).await {
        Ok(Some(state)) if !state.has_ended() => queued(call).map_err(|error| unreachable(&error)),
        Ok(_) => Err(UNKNOWN_INSTANCE),
        Err(error) => Err(unreachable(&error.into())),
    }
}

fn queued(call: &SnapshotCall) -> worker::Result<Response> {
    let mut response = ResponseBuilder::new();
    for (name, value) in HEADERS {
        response = response.with_header(name, value)?;
    }
    Ok(match call.head {
        true => response.empty(),
        false => response.fixed(SnapshotCache::empty(&call.id, Some(&call.workflow)).into()),
    })
}

thread_local! {
    /// When the platform was last asked about a run, by its object's name.
    static ASKED: RefCell<BTreeMap<String, f64>> = const { RefCell::new(BTreeMap::new()) };
}

/// The pause before the platform is asked again, in milliseconds.
const ASKED_EVERY: f64 = 10_000.0;
const MOST_REMEMBERED: usize = 1_000;

/// Returns whether the platform is to be asked how a run is: clients may ask for snapshots every second.
fn is_due(object: String) -> bool {
    let now = js_sys::Date::now();
    // Negative after the clock was set back.
    let is_recent = |at: f64| (0.0..ASKED_EVERY).contains(&(now - at));
    ASKED.with_borrow_mut(|asked| {
        if asked.get(&object).is_some_and(|at| is_recent(*at)) {
            return false;
        }
        if asked.len() >= MOST_REMEMBERED {
            asked.retain(|_, at| is_recent(*at));
        }
        if asked.len() < MOST_REMEMBERED {
            asked.insert(object, now);
        }
        true
    })
}
