//! Raw bindings: they mirror the runtime, always catch, and decide nothing. Run in the Worker and in the object.

use js_sys::{Array, Function, JsString, Object, Promise, Uint8Array};
use wasm_bindgen::prelude::*;

#[cfg(any(feature = "durable-streams", feature = "otlp"))]
pub(super) use cloudflare_workflows::__private::js::IdentityTransformStream;
pub(super) use cloudflare_workflows::__private::js::{
    Answer, Writer, answers, array_from, dispose, now_or_promise, promise,
};

#[wasm_bindgen(inline_js = r#"
import { waitUntil } from "cloudflare:workers";
export { waitUntil };
const UPGRADES = { headers: [["upgrade", "websocket"]] };
export const fetchObject = (stub, method, url, upgrades) => stub.fetch(url, upgrades ? UPGRADES : method === "GET" ? undefined : { method });
export const appendFacts = (session, generation, run, batch, done) => {
  session.append(generation, run, batch).then((told) => done(told), (error) => done(error ?? "unknown"));
};
export const sendPage = (socket, page, state) => {
  socket.send(page);
  socket.serializeAttachment(state);
};
export const runAll = (storage, statements) => {
  storage.transactionSync(() => {
    for (const [statement, params] of statements) storage.sql.exec(statement, ...params);
  });
};
// The runtime answers this message itself, also while the object hibernates.
export const answerPings = (state, ping, pong) => {
  if (state.getWebSocketAutoResponse()?.request !== ping) {
    state.setWebSocketAutoResponse(new WebSocketRequestResponsePair(ping, pong));
  }
};
// The runtime copies the status and the headers of a response without a call of JavaScript.
export const ownResponse = (response) => new Response(response.body, response);
export const openStream = (model) => {
  const { readable, writable } = new IdentityTransformStream();
  return [new Response(readable, model), writable.getWriter()];
};
// The signal of a request is notified when its client has left.
export const onAbort = ({ signal }, listener) => {
  if (!signal) return undefined;
  if (signal.aborted) listener();
  else signal.addEventListener("abort", listener);
  return signal;
};
export const offAbort = (signal, listener) => signal.removeEventListener("abort", listener);
export const writeChunk = (writer, chunk, done) => {
  writer.write(chunk).then(() => done(true), () => done(false));
};
"#)]
extern "C" {
    /// Keeps the Worker working on a request for up to half a minute after its client is gone. Otherwise nothing
    /// would run any more, and the memory that Rust holds for the request would never be freed.
    #[wasm_bindgen(catch, js_name = waitUntil)]
    pub fn wait_until(promise: &Promise) -> Result<(), JsValue>;
    /// Sends a request to an object, and returns its `Response`.
    #[wasm_bindgen(catch, js_name = fetchObject)]
    fn call_fetch_object(
        stub: &EventsStub,
        method: &str,
        url: &str,
        upgrades: bool,
    ) -> Result<Promise, JsValue>;
    /// Calls `append` of a session, and then `done` with the number that it answered or with the error that
    /// was thrown. See [`write_chunk`].
    #[wasm_bindgen(catch, js_name = appendFacts)]
    pub fn append_facts(
        session: &EventsSession,
        generation: f64,
        run: u32,
        batch: &Uint8Array,
        done: &Function,
    ) -> Result<(), JsValue>;
    /// Sends a page, and stores the stream's position with the socket, with nothing in between.
    #[wasm_bindgen(catch, js_name = sendPage)]
    pub fn send_page(socket: &WebSocket, page: &Uint8Array, state: &Array) -> Result<(), JsValue>;
    /// Runs statements, each a pair of its text and its parameters, all or none.
    #[wasm_bindgen(catch, js_name = runAll)]
    pub fn run_all(storage: &JsValue, statements: &Array) -> Result<(), JsValue>;
    /// Makes the runtime answer the message `ping` on all hibernatable sockets of the object with `pong`,
    /// without waking the object.
    #[wasm_bindgen(catch, js_name = answerPings)]
    pub fn answer_pings(state: &HibernationState, ping: &str, pong: &str) -> Result<(), JsValue>;
    /// Returns the same response with headers that can be set: those of a response that came from an object cannot.
    /// The runtime itself hands on the body.
    #[wasm_bindgen(catch, js_name = ownResponse)]
    pub fn own_response(
        response: &worker::web_sys::Response,
    ) -> Result<worker::web_sys::Response, JsValue>;
    /// Returns a response with the status and headers of `model` and a body of its own, and the writer of that.
    #[wasm_bindgen(catch, js_name = openStream)]
    pub fn open_stream(model: &worker::web_sys::Response) -> Result<Array, JsValue>;
    /// Calls `listener` when the client of this request has left, also where it already has. Returns the request's
    /// signal, `undefined` if it has none.
    #[wasm_bindgen(catch, js_name = onAbort)]
    pub fn on_abort(
        request: &worker::web_sys::Request,
        listener: &Closure<dyn FnMut()>,
    ) -> Result<JsValue, JsValue>;
    /// Removes the listener from the signal.
    #[wasm_bindgen(catch, js_name = offAbort)]
    pub fn off_abort(signal: &JsValue, listener: &Closure<dyn FnMut()>) -> Result<(), JsValue>;
    /// Writes a chunk, and calls `done` with whether the reader took it. Costs less than [`Writer::write`]: an
    /// `async fn` makes a future and its closures for each write.
    #[wasm_bindgen(catch, js_name = writeChunk)]
    pub fn write_chunk(
        writer: &Writer,
        chunk: &Uint8Array,
        done: &Closure<dyn FnMut(bool)>,
    ) -> Result<(), JsValue>;
}

#[wasm_bindgen(inline_js = r#"
export const byteReader = (stream) => stream.getReader();
export const readChunk = async (reader) => (await reader.read()).value;
export const cancelReader = (reader) => {
  reader.cancel().catch(() => {});
};
"#)]
extern "C" {
    /// The reader of a stream of bytes.
    #[wasm_bindgen(extends = Object)]
    pub type ByteReader;
    #[wasm_bindgen(catch, js_name = byteReader)]
    pub fn byte_reader(stream: &JsValue) -> Result<ByteReader, JsValue>;
    /// Returns the next chunk, `undefined` at the end.
    #[wasm_bindgen(catch, js_name = readChunk)]
    fn call_read_chunk(reader: &ByteReader) -> Result<Promise, JsValue>;
    /// Makes the stream's source stop.
    #[wasm_bindgen(catch, js_name = cancelReader)]
    pub fn cancel_reader(reader: &ByteReader) -> Result<(), JsValue>;
}

#[cfg(feature = "otlp")]
#[wasm_bindgen(inline_js = r#"
export const postBytes = async (url, headers, body, timeout) => {
  const signal = AbortSignal.timeout(timeout);
  const response = await fetch(url, { method: "POST", headers, body, redirect: "manual", signal });
  const decoder = new TextDecoder();
  let text = "";
  // A body may have no end.
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk.subarray(0, 4096), { stream: true });
    if (text.length >= 4096) break;
  }
  return [response.status, response.headers.get("retry-after"), text];
};
"#)]
extern "C" {
    /// Makes a `POST` without following redirects. Returns its status, its `Retry-After` and the beginning of its
    /// body. Fails after the given number of milliseconds.
    #[wasm_bindgen(catch, js_name = postBytes)]
    fn call_post_bytes(
        url: &str,
        headers: &Array,
        body: &Uint8Array,
        timeout: u32,
    ) -> Result<Promise, JsValue>;
}

#[wasm_bindgen]
extern "C" {
    /// The hibernation side of `DurableObjectState`.
    #[wasm_bindgen(extends = Object)]
    #[derive(Clone)]
    pub type HibernationState;
    #[wasm_bindgen(method, catch, js_name = acceptWebSocket)]
    pub fn accept_web_socket(this: &HibernationState, socket: &WebSocket) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = getWebSockets)]
    pub fn web_sockets(this: &HibernationState) -> Result<Array, JsValue>;
    /// Returns when the runtime last answered a ping on this socket, a `Date`; `null` if it never did.
    #[wasm_bindgen(method, catch, js_name = getWebSocketAutoResponseTimestamp)]
    pub fn auto_response_timestamp(
        this: &HibernationState,
        socket: &WebSocket,
    ) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(extends = Object)]
    #[derive(Clone)]
    pub type WebSocket;
    #[wasm_bindgen(method, catch)]
    pub fn accept(this: &WebSocket) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = send)]
    pub fn send_text(this: &WebSocket, text: &str) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    pub fn close(this: &WebSocket, code: u16, reason: &str) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = addEventListener)]
    pub fn add_event_listener(
        this: &WebSocket,
        event_type: &str,
        listener: &Function,
    ) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = removeEventListener)]
    pub fn remove_event_listener(
        this: &WebSocket,
        event_type: &str,
        listener: &Function,
    ) -> Result<(), JsValue>;
    #[wasm_bindgen(method, setter, js_name = binaryType)]
    pub fn set_binary_type(this: &WebSocket, binary_type: &str);
    #[wasm_bindgen(method, catch, js_name = serializeAttachment)]
    pub fn serialize_attachment(this: &WebSocket, value: &JsValue) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = deserializeAttachment)]
    pub fn deserialize_attachment(this: &WebSocket) -> Result<JsValue, JsValue>;

    /// A stub of the `WorkflowEvents` object.
    #[wasm_bindgen(extends = Object)]
    pub type EventsStub;
    #[wasm_bindgen(method, catch, js_name = enter)]
    fn call_enter(this: &EventsStub, generation: Option<f64>) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = obey)]
    fn call_obey(this: &EventsStub, command: &str) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = tell)]
    fn call_tell(this: &EventsStub, batch: &Uint8Array) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = stats)]
    fn call_stats(this: &EventsStub) -> Result<Promise, JsValue>;

    #[wasm_bindgen(method, catch, js_name = follow)]
    fn call_follow(this: &EventsStub, hop: &str) -> Result<Promise, JsValue>;

    /// A stub of an index of runs.
    #[wasm_bindgen(extends = Object)]
    pub type IndexStub;
    #[wasm_bindgen(method, catch, js_name = take)]
    fn call_take(this: &IndexStub, report: &str) -> Result<Promise, JsValue>;

    /// The functions that `follow` returns, which read the log.
    #[wasm_bindgen(extends = Object)]
    pub type FollowSession;
    /// Returns `[oldest, head, trimmed, closed]`, and `last, bytes` if there are events; 0 for no id.
    #[wasm_bindgen(method, catch, js_name = page)]
    fn call_page(
        this: &FollowSession,
        after: f64,
        viewers: f64,
        waits: bool,
        events: u32,
        bytes: u32,
    ) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = before)]
    fn call_before(this: &FollowSession, time: f64) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = report)]
    fn call_report(this: &FollowSession, viewers: f64) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = leave)]
    fn call_leave(this: &FollowSession) -> Result<Promise, JsValue>;

    /// The value that `enter` returns: the outcome of opening the log, as JSON, and functions to append and to settle
    /// the run's end.
    #[wasm_bindgen(extends = Object)]
    pub type EventsSession;
    #[wasm_bindgen(method, catch, getter)]
    pub fn opened(this: &EventsSession) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch, js_name = settle)]
    fn call_settle(this: &EventsSession) -> Result<Promise, JsValue>;

    /// `SqlStorage` of a Durable Object.
    #[wasm_bindgen(extends = Object)]
    #[derive(Clone, Debug)]
    pub type SqlStorage;
    #[wasm_bindgen(method, catch, variadic)]
    pub fn exec(
        this: &SqlStorage,
        statement: &JsString,
        params: &Array,
    ) -> Result<SqlCursor, JsValue>;
    #[wasm_bindgen(extends = Object)]
    pub type SqlCursor;
    #[wasm_bindgen(method, catch)]
    pub fn raw(this: &SqlCursor) -> Result<JsValue, JsValue>;
    /// Returns how many rows the statement has written so far, with those of indexes.
    #[wasm_bindgen(method, catch, getter, js_name = rowsWritten)]
    pub fn rows_written(this: &SqlCursor) -> Result<f64, JsValue>;
}

/// Converts a count that came as JavaScript's number.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count there; saturates"
)]
pub(super) fn count(number: f64) -> usize {
    number as usize
}

answers! {
    EventsStub {
        enter(generation: Option<f64>) = call_enter;
        obey(command: &str) = call_obey;
        tell(batch: &Uint8Array) = call_tell;
        stats() = call_stats;
        follow(hop: &str) = call_follow;
    }
    IndexStub {
        take(report: &str) = call_take;
    }
    FollowSession {
        page(after: f64, viewers: f64, waits: bool, events: u32, bytes: u32) = call_page;
        before(time: f64) = call_before;
        report(viewers: f64) = call_report;
        leave() = call_leave;
    }
    EventsSession {
        settle() = call_settle;
    }
}

pub(super) fn fetch_object(stub: &EventsStub, method: &str, url: &str, upgrades: bool) -> Answer {
    Answer::of(call_fetch_object(stub, method, url, upgrades))
}

pub(super) fn read_chunk(reader: &ByteReader) -> Answer {
    Answer::of(call_read_chunk(reader))
}

#[cfg(feature = "otlp")]
pub(super) fn post_bytes(url: &str, headers: &Array, body: &Uint8Array, timeout: u32) -> Answer {
    Answer::of(call_post_bytes(url, headers, body, timeout))
}
