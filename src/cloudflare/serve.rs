//! HTTP: from a viewer's request to the object that has the events.

use futures_util::future::LocalBoxFuture;
use js_sys::Array;
use wasm_bindgen::{JsCast, JsValue};
use worker::{Request, Response, ResponseBuilder, web_sys};

use super::cors::with_own_headers;
use super::events::WorkflowEventsNamespace;
use super::leaving::Leaving;
use super::relay::{HOP, Hop};
use super::socket::socket_response;
use super::{js, response, route};
use crate::cors::Cors;
use crate::event::Cursor;
use crate::refusal::Refusal;
use crate::{clock, wire};

/// Answers a viewer's request with the events of an instance.
///
/// `200` and a stream; `204` when the run has ended and the client has seen it all, which stops
/// an `EventSource`; `400` for a malformed position, or a `Last-Event-ID` that is there twice; `404`
/// for an instance that has no events (see [`WorkflowEventsNamespace::create`] for one that was only
/// just created); `405` with `Allow` for anything but `GET` and `HEAD`; `503` with `Retry-After` when
/// the object cannot be reached, which was tried three times. Reasons are plain text. `HEAD` gives
/// the status and headers of `GET`, and nobody watches then.
///
/// A `503` would end an `EventSource` for good. A client that accepts `text/event-stream` gets `200`
/// in its place and a stream that breaks off after 1 to 3 seconds, so that it comes back: see
/// [`Refusal::hold`].
///
/// Headers of the response can be set, whatever its status is. For pages of other origins see
/// [`Cors`].
///
/// Serving never stores anything, whatever the request is. Where a run has more viewers than one
/// object serves, others get the same from relays: see [`WorkflowEventsNamespace::fan_out`].
///
/// # Errors
/// When a response cannot be made.
pub async fn serve_sse(
    instance_id: &str,
    request: Request,
    events: &WorkflowEventsNamespace,
) -> worker::Result<Response> {
    let request = request.inner();
    match answer(instance_id, request, events).await {
        Ok(response) => Ok(response),
        Err(refusal) => refuse_to(request, refusal),
    }
}

async fn answer(
    instance_id: &str,
    request: &web_sys::Request,
    events: &WorkflowEventsNamespace,
) -> Result<Response, Refusal> {
    let mut viewer = Viewer::from_request(request)?;
    viewer.hibernates = events.is_hibernating() && !viewer.head;
    if !is_instance_id(instance_id) {
        return Err(UNKNOWN_INSTANCE);
    }
    let response = fetch(instance_id, &viewer, events).await?;
    let watches = !viewer.head && [200, 101].contains(&response.status_code());
    if watches && events.knows_workflow() {
        // Beside the stream, whose bytes do not wait for it.
        let (events, id) = (events.clone(), instance_id.to_owned());
        let settled = js::promise(async move {
            events.settle(&id).await;
            Ok(JsValue::UNDEFINED)
        });
        // If it is refused, the Worker may end before it is settled, and the next viewer does it.
        let _ = js::wait_until(&settled);
    }
    if response.status_code() != UNKNOWN_INSTANCE.status() {
        return for_viewer(response, request);
    }
    let answer: LocalBoxFuture<'_, _> =
        Box::pin(answer_unknown(instance_id, viewer, request, events));
    answer.await
}

/// There are no events, but perhaps an instance that has dispatched none yet.
async fn answer_unknown(
    instance_id: &str,
    mut viewer: Viewer,
    request: &web_sys::Request,
    events: &WorkflowEventsNamespace,
) -> Result<Response, Refusal> {
    match events.state_of_unknown(instance_id).await {
        Ok(Some(state)) => {
            // One that has ended has either dispatched its events by now or never will.
            viewer.expected = !state.has_ended();
            for_viewer(fetch(instance_id, &viewer, events).await?, request)
        }
        Ok(None) => Err(UNKNOWN_INSTANCE),
        Err(error) => Err(unreachable(&error.into())),
    }
}

/// The stream of an object that answered with a socket; the answer itself if it did not.
fn for_viewer(response: Response, request: &web_sys::Request) -> Result<Response, Refusal> {
    let response = match response.status_code() {
        101 => over_socket(response, request),
        _ => with_own_headers(response),
    };
    response.map_err(|error| unreachable(&error))
}

fn over_socket(response: Response, request: &web_sys::Request) -> worker::Result<Response> {
    let socket = response.websocket().ok_or("the object sent no socket")?;
    let socket = socket.as_ref().clone().unchecked_into();
    socket_response(socket, Leaving::of(request))
}

/// Asks the object that takes the viewer: see [`route`].
async fn fetch(
    instance_id: &str,
    viewer: &Viewer,
    events: &WorkflowEventsNamespace,
) -> Result<Response, Refusal> {
    let response: LocalBoxFuture<'_, _> = Box::pin(route::fetch(instance_id, viewer, events));
    response.await.map_err(|error| unreachable(&error))
}

/// The reason is for the developer; a viewer cannot do anything with it.
pub(super) fn unreachable(error: &worker::Error) -> Refusal {
    worker::console_error!("ssetarget: the events of an instance cannot be reached: {error}");
    Refusal::Unavailable
}

/// The way from the object that has the events to the Worker that answers a viewer. Viewers cannot
/// tell: the bytes, statuses and positions are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// The object streams to the viewer itself. Fastest; but a Durable Object stays in memory, and
    /// its duration is charged, as long as anybody watches, also while nothing happens: 460.8 GB-s
    /// an hour for each run that is watched.
    #[default]
    Direct,
    /// The Worker holds the viewer's response, and a hibernatable WebSocket joins it to the object,
    /// which leaves memory while nothing happens, however many people watch. Heartbeats come from
    /// the Worker.
    ///
    /// The object pushes pages by credit: a viewer never has more than 64 KiB unacknowledged, or one
    /// event that is larger, and the Worker holds twice that at most. A viewer costs the Worker a
    /// subrequest and the object a request, and a message for each 32 to 64 KiB that it takes. Where
    /// events come quickly and viewers are many, they get several at once: rounds of delivery are
    /// 50 µs for each viewer apart. An object takes 32,768 sockets. Viewers of one isolate of the Worker who
    /// do not read hold 32 MiB of its memory together at most; past that the slowest are cut off, and come
    /// back.
    ///
    /// Both ends notice when the other is gone without a word: the Worker asks every 15 seconds, and the
    /// object's runtime answers without waking it. A viewer's stream is cut off within 30 seconds then.
    Hibernating,
}

/// Answers `/<id>/sse` and leaves other requests alone.
///
/// ```ignore
/// let route = SseRoute::new(events);
/// match route.serve(request).await? {
///     Ok(response) => Ok(response),
///     Err(request) => other_routes(request).await,
/// }
/// ```
#[derive(Debug)]
pub struct SseRoute {
    events: WorkflowEventsNamespace,
    cors: Option<Cors>,
}

impl SseRoute {
    /// Serves these events.
    #[must_use]
    pub fn new(events: WorkflowEventsNamespace) -> Self {
        Self { events, cors: None }
    }

    /// Lets pages of other origins read, and answers their preflights. Default: none do.
    #[must_use]
    pub fn cors(mut self, cors: Cors) -> Self {
        self.cors = Some(cors);
        self
    }

    /// The response, if the request is for `/<id>/sse`, else the request itself. See
    /// [`serve_sse`].
    ///
    /// # Errors
    /// As [`serve_sse`].
    pub async fn serve(&self, request: Request) -> worker::Result<Result<Response, Request>> {
        let path = request.path();
        let id = path
            .strip_prefix('/')
            .and_then(|path| path.strip_suffix("/sse"))
            .filter(|id| !id.is_empty() && !id.contains('/'));
        match id {
            Some(id) => {
                // What cannot be decoded is no instance's id either.
                let id = js_sys::decode_uri_component(id).map(String::from);
                let id = id.unwrap_or_default();
                // Behind a pointer: else it would be part of the handler's own poll function, which
                // the runtime optimizes as a whole if it is polled often, for 0.1 s of CPU.
                let serve = |request| -> LocalBoxFuture<'_, _> {
                    Box::pin(serve_sse(&id, request, &self.events))
                };
                let response = match &self.cors {
                    Some(cors) => cors.wrap(request, serve).await,
                    None => serve(request).await,
                };
                Ok(Ok(response?))
            }
            None => Ok(Err(request)),
        }
    }
}

/// What a viewer asks for.
pub(super) struct Viewer {
    pub(super) cursor: Cursor,
    /// Without a body.
    pub(super) head: bool,
    /// The instance is known to exist, so an empty log is one to wait for.
    pub(super) expected: bool,
    /// It is to be answered with a hibernatable socket.
    pub(super) hibernates: bool,
}

/// Headers of requests to objects.
const EXPECTED: &str = "ssetarget-expected";
const UPGRADE: &str = "upgrade";

impl Viewer {
    /// Of the runtime's own request: the `worker` crate's would read much that is not needed.
    pub(super) fn from_request(request: &web_sys::Request) -> Result<Self, Refusal> {
        // Of the runtime's own, too: the crate's takes a method that it does not know for GET.
        let head = match &*request.method() {
            "GET" => false,
            "HEAD" => true,
            _ => return Err(METHOD),
        };
        // One that is there more than once comes joined by commas, and is no id.
        let header = request.headers().get("last-event-id").ok().flatten();
        let cursor = wire::cursor(header.as_deref(), query(&request.url()))?;
        Ok(Self {
            cursor,
            head,
            expected: false,
            hibernates: false,
        })
    }

    /// What [`to_object_request`](Self::to_object_request) says, at the object.
    pub(super) fn from_object_request(request: &web_sys::Request) -> Result<Self, Refusal> {
        let mut viewer = Self::from_request(request)?;
        viewer.expected = request.headers().has(EXPECTED).unwrap_or(false);
        viewer.hibernates = request.headers().has(UPGRADE).unwrap_or(false);
        Ok(viewer)
    }

    /// Made anew from what was understood: nothing else of the client's request gets further.
    pub(super) fn to_object_request(&self, hop: Option<&Hop>) -> worker::Result<ObjectRequest> {
        let mut request = ObjectRequest::new(if self.head { "HEAD" } else { "GET" });
        if self.expected {
            request.set(EXPECTED, "1");
        }
        if self.hibernates {
            request.set(UPGRADE, "websocket");
        }
        if let Some(hop) = hop {
            request.set(HOP, &hop.to_text()?);
        }
        match self.cursor {
            Cursor::Beginning => {}
            Cursor::After(id) => request.set("last-event-id", &id.to_string()),
            Cursor::Latest => request.url += "?from=latest",
            Cursor::Since(time) => {
                request.url += &format!("?since={}", clock::milliseconds(time));
            }
        }
        Ok(request)
    }
}

/// A request to an object.
pub(super) struct ObjectRequest {
    pub(super) method: &'static str,
    pub(super) url: String,
    /// In pairs.
    pub(super) headers: Array,
}

impl ObjectRequest {
    /// Whether there are events.
    pub(super) fn head() -> Self {
        Self::new("HEAD")
    }

    fn new(method: &'static str) -> Self {
        Self {
            method,
            url: "http://workflow-events/".to_owned(),
            headers: Array::new(),
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.headers.push(&Array::of2(&name.into(), &value.into()));
    }
}

/// The query of a request's URL, which the runtime has parsed and written anew.
///
/// Not `request.url()`: the crate behind it brings tables for host names in all scripts, which are
/// a third of a small Worker, 80 KB after gzip.
pub(super) fn query(url: &str) -> Option<&str> {
    let url = url.split_once('#').map_or(url, |(url, _)| url);
    url.split_once('?').map(|(_, query)| query)
}

const METHOD: Refusal = Refusal::Method { allow: "GET, HEAD" };
pub(super) const UNKNOWN_INSTANCE: Refusal =
    Refusal::NotFound("there is no workflow instance with this id");

/// The response that refuses a viewer's request, or makes it [wait](Refusal::hold).
pub(super) fn refuse_to(request: &web_sys::Request, refusal: Refusal) -> worker::Result<Response> {
    let accept = request.headers().get("accept").ok().flatten();
    match refusal.hold(accept.as_deref(), js_sys::Math::random()) {
        Some(_) if request.method() == "HEAD" => response::left_out(),
        Some(time) => response::hold(time),
        None => refuse(refusal),
    }
}

/// The response of a refusal.
pub(super) fn refuse(refusal: Refusal) -> worker::Result<Response> {
    let mut response = ResponseBuilder::new().with_status(refusal.status());
    for (name, value) in refusal.headers() {
        response = response.with_header(name, value)?;
    }
    Ok(response.fixed(refusal.body().into_bytes()))
}

/// What the platform takes for an instance's id, so that nothing else wakes an object.
pub(super) fn is_instance_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-, */#".contains(&byte);
    !id.is_empty() && id.len() <= 271 && id.bytes().all(allowed)
}
