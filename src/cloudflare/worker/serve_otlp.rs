//! The answer to a request for the trace of a run. Runs in the Worker.

use worker::{Request, Response, web_sys};

use super::asked::may_watch;
use super::cors::with_own_headers;
use super::instance_id::is_instance_id;
use super::namespace::WorkflowEventsNamespace;
use crate::access::{Access, Grant};
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse, unreachable};
use crate::cloudflare::request::{StreamRequest, query};
use crate::otlp::{Unfinished, is_partial};
use crate::refusal::Refusal;

/// Answers a request for the trace of an instance: `200` with one JSON document, an `ExportTraceServiceRequest` of
/// OTLP, with the traces of all of its runs that the log has.
///
/// Spans have the same ids as those that are exported when a run ends, and ended spans the same bytes. Open tasks,
/// and a run that has not ended, are left out; `?partial` adds them. `404` for an instance that has no events; `405`
/// with `Allow` for anything but `GET` and `HEAD`; `503` with `Retry-After` when the object cannot be reached after
/// three tries.
///
/// `access` decides who may see it, as for [`serve_sse`](crate::cloudflare::serve_sse): a trace has the names,
/// messages, errors and attributes of the events. [`RunRoutes::trace`](crate::cloudflare::RunRoutes::trace) serves it
/// at `/<id>/otlp`. Headers of the response can be set; for pages of other origins see [`Cors`](crate::cors::Cors).
///
/// ```no_run
/// use ssetarget::access::Public;
/// use ssetarget::cloudflare::{WorkflowEventsNamespace, serve_otlp};
/// use worker::{Request, Response};
///
/// async fn trace(
///     request: &Request,
///     id: &str,
///     events: &WorkflowEventsNamespace,
/// ) -> worker::Result<Response> {
///     serve_otlp(request, id, events, &Public).await
/// }
/// ```
///
/// # Errors
/// When a response cannot be made.
pub async fn serve_otlp(
    request: &Request,
    id: &str,
    events: &WorkflowEventsNamespace,
    access: &impl Access,
) -> worker::Result<Response> {
    let request = request.inner();
    match may_watch(access, request, Some(&events.workflow_name), id).await {
        Ok(grant) => serve_granted(request, id, events, grant).await,
        Err(refusal) => refuse(refusal),
    }
}

/// As [`serve_otlp`], for a client with this permission.
pub(super) async fn serve_granted(
    request: &web_sys::Request,
    instance_id: &str,
    events: &WorkflowEventsNamespace,
    grant: Grant,
) -> worker::Result<Response> {
    match answer(instance_id, request, events, grant).await {
        Ok(response) => with_own_headers(response),
        // The client is not an `EventSource`, whatever it accepts.
        Err(refusal) => refuse(refusal),
    }
}

async fn answer(
    instance_id: &str,
    request: &web_sys::Request,
    events: &WorkflowEventsNamespace,
    grant: Grant,
) -> Result<Response, Refusal> {
    let mut stream = StreamRequest::from_request(request)?;
    stream.grant = grant;
    if !is_instance_id(instance_id) {
        return Err(UNKNOWN_INSTANCE);
    }
    stream.otlp = Some(match is_partial(query(&request.url())) {
        true => Unfinished::Partial,
        false => Unfinished::LeaveOut,
    });
    let name = events.object_name(instance_id);
    let ask = async || {
        let request = stream.to_object_request();
        events.request(&name, &request).await
    };
    // An object that was reset is there again at the next request.
    let mut response = ask().await;
    for _ in 0..2 {
        if response.is_err() {
            response = ask().await;
        }
    }
    response.map_err(|error| unreachable(&error))
}
