//! The answer to a viewer's request for the events of an instance. Runs in the Worker.

use futures_util::future::LocalBoxFuture;
#[cfg(feature = "hibernation")]
use wasm_bindgen::JsCast;
use wasm_bindgen::JsValue;
use worker::{Request, Response, web_sys};

use super::asked::may_watch;
use super::instance_id::is_instance_id;
use super::namespace::WorkflowEventsNamespace;
use super::route;
#[cfg(feature = "hibernation")]
use super::socket::socket_response;
#[cfg(feature = "hibernation")]
use super::transport::Transport;
use crate::access::{Access, Grant};
use crate::cloudflare::js;
#[cfg(feature = "hibernation")]
use crate::cloudflare::leaving::Leaving;
#[cfg(feature = "hibernation")]
use crate::cloudflare::permit::Permit;
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse_to, unreachable};
use crate::cloudflare::request::StreamRequest;
use crate::refusal::Refusal;

/// Answers a viewer's request with the events of an instance.
///
/// `200` and a stream; `204` when the run has ended and the client has seen it all, which stops an `EventSource`;
/// `400` for a malformed position, or a repeated `Last-Event-ID`; `404` for an instance that has no events (see
/// [`WorkflowEventsNamespace::create`] for one that was just created); `405` with `Allow` for anything but `GET` and
/// `HEAD`; `503` with `Retry-After` when the object cannot be reached after three tries. Reasons are plain text.
/// `HEAD` gives the status and headers of `GET`, and counts no viewer.
///
/// `access` decides who may watch, before anything else: refused viewers get the same `401` for every id, and no
/// object is called. [`Public`](crate::access::Public) lets everybody who knows an id watch.
///
/// A `503` would end an `EventSource` for good. A client that accepts `text/event-stream` gets `200`
/// instead and a stream that breaks off after 1 to 3 seconds, so that it comes back: see
/// [`Refusal::hold`].
///
/// Headers of the response can be set, for every status. For pages of other origins see
/// [`Cors`](crate::cors::Cors).
///
/// No request stores anything. If a run has more viewers than one object serves, others get the same from relays
/// (feature `relays`): see `WorkflowEventsNamespace::fan_out`.
///
/// # Errors
/// When a response cannot be made.
pub async fn serve_sse(
    request: &Request,
    id: &str,
    events: &WorkflowEventsNamespace,
    access: &impl Access,
) -> worker::Result<Response> {
    let request = request.inner();
    match may_watch(access, request, Some(&events.workflow_name), id).await {
        Ok(grant) => {
            let response: LocalBoxFuture<'_, _> =
                Box::pin(serve_granted(request, id, events, grant));
            response.await
        }
        Err(refusal) => refused(request, events, refusal),
    }
}

/// Answers a viewer who gets no stream.
#[inline(never)]
fn refused(
    request: &web_sys::Request,
    events: &WorkflowEventsNamespace,
    refusal: Refusal,
) -> worker::Result<Response> {
    let status = refusal.status();
    events.observing.tell(|observer| observer.refused(status));
    refuse_to(request, refusal)
}

/// Answers a viewer who may watch.
pub(super) async fn serve_granted(
    request: &web_sys::Request,
    id: &str,
    events: &WorkflowEventsNamespace,
    grant: Grant,
) -> worker::Result<Response> {
    let response = serve_granted_raw(request, id, events, grant).await?;
    Ok(js::own_response(&response)?.into())
}

/// As [`serve_granted`], with the runtime's own response, whose headers may not be set.
pub(super) async fn serve_granted_raw(
    request: &web_sys::Request,
    id: &str,
    events: &WorkflowEventsNamespace,
    grant: Grant,
) -> worker::Result<web_sys::Response> {
    match answer(id, request, events, grant).await {
        Ok(response) => {
            events.observing.tell(|observer| {
                if response.status() == 200 && request.method() == "GET" {
                    observer.opened();
                }
            });
            Ok(response)
        }
        Err(refusal) => Ok(refused(request, events, refusal)?.into()),
    }
}

async fn answer(
    instance_id: &str,
    request: &web_sys::Request,
    events: &WorkflowEventsNamespace,
    grant: Grant,
) -> Result<web_sys::Response, Refusal> {
    let mut stream = StreamRequest::from_request(request)?;
    stream.grant = grant;
    #[cfg(feature = "hibernation")]
    let stream = StreamRequest {
        hibernates: events.transport == Transport::Hibernating && !stream.head,
        ..stream
    };
    let response = open_stream(instance_id, stream, events).await?;
    for_viewer(response, request, grant)
}

/// Makes the object of an instance open a stream, and returns its answer. Beside it, asks the platform how the run
/// is, if its binding is known.
pub(super) async fn open_stream(
    instance_id: &str,
    stream: StreamRequest,
    events: &WorkflowEventsNamespace,
) -> Result<web_sys::Response, Refusal> {
    if !is_instance_id(instance_id) {
        return Err(UNKNOWN_INSTANCE);
    }
    let response = ask_object(instance_id, &stream, events).await?;
    let status = response.status();
    let watches = !stream.head && [200, 101].contains(&status);
    if watches && events.workflow.is_some() {
        settle_beside(events, instance_id);
    }
    if status != UNKNOWN_INSTANCE.status() {
        return Ok(response);
    }
    let answer: LocalBoxFuture<'_, _> = Box::pin(answer_unknown(instance_id, stream, events));
    answer.await
}

/// Asks the platform how the run is, beside the stream, whose bytes do not wait for it.
#[inline(never)]
fn settle_beside(events: &WorkflowEventsNamespace, instance_id: &str) {
    let (events, id) = (events.clone(), instance_id.to_owned());
    let settled = js::promise(async move {
        events.settle(&id).await;
        Ok(JsValue::UNDEFINED)
    });
    // If it is refused, the Worker may end before the run is settled, and the next viewer's request does it.
    let _ = js::wait_until(&settled);
}

/// Answers if there are no events, but perhaps an instance that has dispatched none yet.
async fn answer_unknown(
    instance_id: &str,
    mut stream: StreamRequest,
    events: &WorkflowEventsNamespace,
) -> Result<web_sys::Response, Refusal> {
    match events.state_of_unknown(instance_id).await {
        Ok(Some(state)) => {
            // An instance that has ended has dispatched its events by now, or never will.
            stream.expected = !state.has_ended();
            ask_object(instance_id, &stream, events).await
        }
        Ok(None) => Err(UNKNOWN_INSTANCE),
        Err(error) => Err(unreachable(&error.into())),
    }
}

/// Sends the request to the object that takes the viewer: see [`route`].
async fn ask_object(
    instance_id: &str,
    stream: &StreamRequest,
    events: &WorkflowEventsNamespace,
) -> Result<web_sys::Response, Refusal> {
    let response = route::send(instance_id, stream, events).await;
    response.map_err(|error| unreachable(&error))
}

/// Turns the object's answer into the viewer's: a stream if the object answered with a socket.
fn for_viewer(
    response: web_sys::Response,
    request: &web_sys::Request,
    grant: Grant,
) -> Result<web_sys::Response, Refusal> {
    #[cfg(feature = "hibernation")]
    if response.status() == 101 {
        let response = over_socket(response.into(), request, grant);
        return response
            .map(Into::into)
            .map_err(|error| unreachable(&error));
    }
    let _ = (request, grant);
    Ok(response)
}

// Not a part of its caller, which is compiled for every viewer.
#[cfg(feature = "hibernation")]
#[inline(never)]
fn over_socket(
    response: Response,
    request: &web_sys::Request,
    grant: Grant,
) -> worker::Result<Response> {
    let socket = response.websocket().ok_or("the object sent no socket")?;
    let socket = socket.as_ref().clone().unchecked_into();
    socket_response(socket, Leaving::of(request), &Permit::until_end(grant))
}
