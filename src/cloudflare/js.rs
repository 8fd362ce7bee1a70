//! Raw bindings: they mirror the runtime, always catch, and decide nothing.

use futures_util::future::LocalBoxFuture;
use js_sys::{Array, Function, JsString, Object, Promise, Uint8Array};
use wasm_bindgen::prelude::*;

use super::life;

#[wasm_bindgen(inline_js = r#"
import { waitUntil } from "cloudflare:workers";
export { waitUntil };
export const fetchObject = (stub, method, url, headers) => stub.fetch(url, { method, headers });
export const dispose = (value) => value[Symbol.dispose]?.();

// Params and outputs may be large, and may be what JSON has no word for.
export function instanceEventJson(event, withParams, withOutputs) {
  const { params, output, ...rest } = event;
  if (output instanceof ReadableStream) void output.cancel();
  else if (withOutputs && output !== undefined) rest.output = output;
  if (withParams && params !== undefined) rest.params = params;
  return JSON.stringify(rest, (_, value) => (typeof value === "bigint" ? `${value}` : value));
}
export const appendFacts = (session, generation, run, batch, done) => {
  session.append(generation, run, batch).then((told) => done(told), (error) => done(error ?? "unknown"));
};
export const uuid = () => crypto.randomUUID();
export const sendPage = (socket, page, state) => {
  socket.send(page);
  socket.serializeAttachment(state);
};
export const runAll = (storage, statements) => {
  storage.transactionSync(() => {
    for (const [statement, params] of statements) storage.sql.exec(statement, ...params);
  });
};
// Sockets that a message like this comes from are answered by the runtime, also while the object sleeps.
export const answerPings = (state, ping, pong) => {
  if (state.getWebSocketAutoResponse()?.request !== ping) {
    state.setWebSocketAutoResponse(new WebSocketRequestResponsePair(ping, pong));
  }
};
export const writeChunk = (writer, chunk, done) => {
  writer.write(chunk).then(() => done(true), () => done(false));
};
"#)]
extern "C" {
    #[wasm_bindgen(catch)]
    pub(super) fn dispose(value: &JsValue) -> Result<(), JsValue>;
    /// Keeps the Worker at a request's work for up to half a minute after its client is gone. Without
    /// it nothing runs any more then, and what Rust holds for it is never freed.
    #[wasm_bindgen(catch, js_name = waitUntil)]
    pub(super) fn wait_until(promise: &Promise) -> Result<(), JsValue>;
    /// The object's answer, a `Response`. `headers` are pairs.
    #[wasm_bindgen(catch, js_name = fetchObject)]
    pub(super) async fn fetch_object(
        stub: &EventsStub,
        method: &str,
        url: &str,
        headers: &Array,
    ) -> Result<JsValue, JsValue>;
    /// An event of a [`JsWorkflowSubscription`] as JSON.
    #[wasm_bindgen(catch, js_name = instanceEventJson)]
    pub(super) fn instance_event_json(
        event: &JsValue,
        with_params: bool,
        with_outputs: bool,
    ) -> Result<String, JsValue>;
    /// An id that nobody else makes up.
    #[wasm_bindgen(catch, js_name = uuid)]
    pub(super) fn uuid() -> Result<String, JsValue>;
    /// Calls what `enter` returned, and then `done` with the number that it answered or with what was
    /// thrown. See [`write_chunk`].
    #[wasm_bindgen(catch, js_name = appendFacts)]
    pub(super) fn append_facts(
        session: &EventsSession,
        generation: f64,
        run: u32,
        batch: &Uint8Array,
        done: &Function,
    ) -> Result<(), JsValue>;
    /// Sends a page and keeps with the socket how far it is, with nothing in between.
    #[wasm_bindgen(catch, js_name = sendPage)]
    pub(super) fn send_page(
        socket: &WebSocket,
        page: &Uint8Array,
        state: &Array,
    ) -> Result<(), JsValue>;
    /// Runs statements, each a pair of its text and its parameters, all or none.
    #[wasm_bindgen(catch, js_name = runAll)]
    pub(super) fn run_all(storage: &JsValue, statements: &Array) -> Result<(), JsValue>;
    /// From now on the runtime answers the message `ping` on all hibernatable sockets of the object with
    /// `pong`, and does not wake the object for it.
    #[wasm_bindgen(catch, js_name = answerPings)]
    pub(super) fn answer_pings(
        state: &HibernationState,
        ping: &str,
        pong: &str,
    ) -> Result<(), JsValue>;
    /// [`Writer::write`] for those who write much: calls `done` with whether the reader took it. An
    /// `async fn` makes a future and its closures for each write.
    #[wasm_bindgen(catch, js_name = writeChunk)]
    pub(super) fn write_chunk(
        writer: &Writer,
        chunk: &Uint8Array,
        done: &Closure<dyn FnMut(bool)>,
    ) -> Result<(), JsValue>;
}

#[wasm_bindgen]
extern "C" {
    /// The hibernation side of `DurableObjectState`.
    #[wasm_bindgen(extends = Object)]
    #[derive(Clone)]
    pub(super) type HibernationState;
    #[wasm_bindgen(method, catch, js_name = acceptWebSocket)]
    pub(super) fn accept_web_socket(
        this: &HibernationState,
        socket: &WebSocket,
    ) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = getWebSockets)]
    pub(super) fn web_sockets(this: &HibernationState) -> Result<Array, JsValue>;
    /// When the runtime last answered a ping on this socket, a `Date`; `null` if it never did.
    #[wasm_bindgen(method, catch, js_name = getWebSocketAutoResponseTimestamp)]
    pub(super) fn auto_response_timestamp(
        this: &HibernationState,
        socket: &WebSocket,
    ) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(extends = Object)]
    #[derive(Clone)]
    pub(super) type WebSocket;
    #[wasm_bindgen(method, catch)]
    pub(super) fn accept(this: &WebSocket) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = send)]
    pub(super) fn send_text(this: &WebSocket, text: &str) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) fn close(this: &WebSocket, code: u16, reason: &str) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = addEventListener)]
    pub(super) fn add_event_listener(
        this: &WebSocket,
        event_type: &str,
        listener: &Function,
    ) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = removeEventListener)]
    pub(super) fn remove_event_listener(
        this: &WebSocket,
        event_type: &str,
        listener: &Function,
    ) -> Result<(), JsValue>;
    #[wasm_bindgen(method, setter, js_name = binaryType)]
    pub(super) fn set_binary_type(this: &WebSocket, binary_type: &str);
    #[wasm_bindgen(method, catch, js_name = serializeAttachment)]
    pub(super) fn serialize_attachment(this: &WebSocket, value: &JsValue) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = deserializeAttachment)]
    pub(super) fn deserialize_attachment(this: &WebSocket) -> Result<JsValue, JsValue>;

    /// Of a request: told when its client has left.
    #[wasm_bindgen(extends = Object)]
    #[derive(Clone)]
    pub(super) type AbortSignal;
    #[wasm_bindgen(method, getter)]
    pub(super) fn aborted(this: &AbortSignal) -> bool;
    #[wasm_bindgen(method, catch, js_name = addEventListener)]
    pub(super) fn add_event_listener(
        this: &AbortSignal,
        event_type: &str,
        listener: &Function,
    ) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = removeEventListener)]
    pub(super) fn remove_event_listener(
        this: &AbortSignal,
        event_type: &str,
        listener: &Function,
    ) -> Result<(), JsValue>;

    /// `WorkflowStep` of `cloudflare:workers`.
    #[wasm_bindgen(extends = Object)]
    #[derive(Clone)]
    pub(super) type JsWorkflowStep;
    #[wasm_bindgen(method, catch, js_name = do)]
    pub(super) async fn run(
        this: &JsWorkflowStep,
        name: &str,
        config: &JsValue,
        callback: &Function,
        rollback_options: &JsValue,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn sleep(
        this: &JsWorkflowStep,
        name: &str,
        duration: &JsValue,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch, js_name = sleepUntil)]
    pub(super) async fn sleep_until(
        this: &JsWorkflowStep,
        name: &str,
        milliseconds: f64,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch, js_name = waitForEvent)]
    pub(super) async fn wait_for_event(
        this: &JsWorkflowStep,
        name: &str,
        options: &JsValue,
    ) -> Result<JsValue, JsValue>;

    /// The `Workflow` binding.
    #[wasm_bindgen(extends = Object)]
    #[derive(Clone, Debug)]
    pub(super) type JsWorkflow;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn create(this: &JsWorkflow, options: &JsValue) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch, js_name = createBatch)]
    pub(super) async fn create_batch(
        this: &JsWorkflow,
        options: &JsValue,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch, js_name = deleteBatch)]
    pub(super) async fn delete_batch(this: &JsWorkflow, ids: &Array) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn get(this: &JsWorkflow, id: &str) -> Result<JsValue, JsValue>;

    /// `WorkflowInstance`.
    #[wasm_bindgen(extends = Object)]
    #[derive(Clone, Debug)]
    pub(super) type JsWorkflowInstance;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn pause(this: &JsWorkflowInstance) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn resume(this: &JsWorkflowInstance) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn restart(
        this: &JsWorkflowInstance,
        options: &JsValue,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn terminate(
        this: &JsWorkflowInstance,
        options: &JsValue,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn delete(this: &JsWorkflowInstance) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn status(this: &JsWorkflowInstance) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch, js_name = sendEvent)]
    pub(super) async fn send_event(
        this: &JsWorkflowInstance,
        event: &JsValue,
    ) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    pub(super) async fn subscribe(
        this: &JsWorkflowInstance,
        options: &JsValue,
    ) -> Result<JsValue, JsValue>;

    /// `WorkflowInstanceSubscription`.
    #[wasm_bindgen(extends = Object)]
    pub(super) type JsWorkflowSubscription;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn next(this: &JsWorkflowSubscription) -> Result<JsValue, JsValue>;

    /// A stub of the `WorkflowEvents` object.
    #[wasm_bindgen(extends = Object)]
    pub(super) type EventsStub;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn enter(
        this: &EventsStub,
        generation: Option<f64>,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn obey(this: &EventsStub, command: &str) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn tell(this: &EventsStub, batch: &Uint8Array) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    pub(super) async fn follow(this: &EventsStub, hop: &str) -> Result<JsValue, JsValue>;

    /// What `follow` returns: functions that read the log.
    #[wasm_bindgen(extends = Object)]
    pub(super) type FollowSession;
    /// `[oldest, head, trimmed, closed]`, and `last, bytes` where there are events; 0 for no id.
    #[wasm_bindgen(method, catch)]
    pub(super) async fn page(
        this: &FollowSession,
        after: f64,
        viewers: f64,
        waits: bool,
        events: u32,
        bytes: u32,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn before(this: &FollowSession, time: f64) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn report(this: &FollowSession, viewers: f64) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn leave(this: &FollowSession) -> Result<JsValue, JsValue>;

    /// What `enter` returns: what came of opening the log, as JSON, and functions to append and to
    /// ask for the run's end.
    #[wasm_bindgen(extends = Object)]
    pub(super) type EventsSession;
    #[wasm_bindgen(method, catch, getter)]
    pub(super) fn opened(this: &EventsSession) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn settle(this: &EventsSession) -> Result<JsValue, JsValue>;

    /// `SqlStorage` of a Durable Object.
    #[wasm_bindgen(extends = Object)]
    #[derive(Clone, Debug)]
    pub(super) type SqlStorage;
    #[wasm_bindgen(method, catch, variadic)]
    pub(super) fn exec(
        this: &SqlStorage,
        statement: &JsString,
        params: &Array,
    ) -> Result<SqlCursor, JsValue>;
    #[wasm_bindgen(extends = Object)]
    pub(super) type SqlCursor;
    #[wasm_bindgen(method, catch)]
    pub(super) fn raw(this: &SqlCursor) -> Result<JsValue, JsValue>;
    /// A text, or `undefined` where JSON has no word for the value.
    #[wasm_bindgen(catch, js_namespace = JSON)]
    pub(super) fn stringify(value: &JsValue) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(catch, js_namespace = Array, js_name = from)]
    pub(super) fn array_from(iterable: &JsValue) -> Result<Array, JsValue>;

    /// The runtime's own stream of bytes: a write waits until the reader takes it, and until what
    /// the object wrote to its storage before is durable.
    #[wasm_bindgen(extends = Object)]
    pub(super) type IdentityTransformStream;
    #[wasm_bindgen(constructor, catch)]
    pub(super) fn new() -> Result<IdentityTransformStream, JsValue>;
    #[wasm_bindgen(method, getter)]
    pub(super) fn readable(this: &IdentityTransformStream) -> worker::web_sys::ReadableStream;
    #[wasm_bindgen(method, getter)]
    pub(super) fn writable(this: &IdentityTransformStream) -> WritableStream;
    #[wasm_bindgen(extends = Object)]
    pub(super) type WritableStream;
    #[wasm_bindgen(method, catch, js_name = getWriter)]
    pub(super) fn get_writer(this: &WritableStream) -> Result<Writer, JsValue>;
    #[wasm_bindgen(extends = Object)]
    pub(super) type Writer;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn write(this: &Writer, chunk: &Uint8Array) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn close(this: &Writer) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn abort(this: &Writer, reason: &JsValue) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(extends = Object)]
    pub(super) type ReadableStream;
    #[wasm_bindgen(method, catch, js_name = getReader)]
    pub(super) fn get_reader(this: &ReadableStream) -> Result<Reader, JsValue>;
    #[wasm_bindgen(extends = Object)]
    pub(super) type Reader;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn read(this: &Reader) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(super) async fn cancel(this: &Reader) -> Result<JsValue, JsValue>;

    /// Returns a number or an object, by the Worker's compatibility flags: it is only handed back.
    #[wasm_bindgen(catch, js_name = setTimeout)]
    pub(super) fn set_timeout(callback: &Function, milliseconds: f64) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(catch, js_name = clearTimeout)]
    pub(super) fn clear_timeout(timer: &JsValue) -> Result<(), JsValue>;
}

/// A promise of what `future` resolves to. A panic in it rejects the promise, where the build
/// lets panics unwind; so does the death of the instance.
pub(super) fn promise(future: impl Future<Output = Result<JsValue, JsValue>> + 'static) -> Promise {
    // Behind a pointer for the sake of LLVM, see `catch_panic`, and of size.
    let future: LocalBoxFuture<'static, _> = Box::pin(future);
    // What a panic leaves half-done is local to the future or behind a `RefCell` whose borrows
    // end with the panic.
    let promise = wasm_bindgen_futures::future_to_promise(std::panic::AssertUnwindSafe(future));
    life::mortal(promise)
}
