//! Raw bindings, which mirror the runtime, always catch, and decide nothing.

#![allow(missing_docs, reason = "named as the runtime names them")]

use js_sys::{Array, Function, Object, Uint8Array};
use wasm_bindgen::prelude::*;

#[wasm_bindgen(inline_js = r#"
export const dispose = (value) => value[Symbol.dispose]?.();
// Params and outputs may be large, and may be values that JSON cannot express.
export function instanceEventJson(event, withParams, withOutputs) {
  const { params, output, ...rest } = event;
  if (output instanceof ReadableStream) void output.cancel();
  else if (withOutputs && output !== undefined) rest.output = output;
  if (withParams && params !== undefined) rest.params = params;
  return JSON.stringify(rest, (_, value) => (typeof value === "bigint" ? `${value}` : value));
}
export function instanceEventBrief({ type, timestamp, stepName = "", attempt = 0, error, output }) {
  if (output instanceof ReadableStream) void output.cancel();
  const whole = (text) => `${text}`.toWellFormed();
  return JSON.stringify([type, timestamp, whole(stepName), attempt, whole(error?.message ?? "")]);
}
export const uuid = () => crypto.randomUUID();
"#)]
extern "C" {
    #[wasm_bindgen(catch)]
    pub fn dispose(value: &JsValue) -> Result<(), JsValue>;
    /// Returns an event of a [`JsWorkflowSubscription`] as JSON.
    #[wasm_bindgen(catch, js_name = instanceEventJson)]
    pub fn instance_event_json(
        event: &JsValue,
        with_params: bool,
        with_outputs: bool,
    ) -> Result<String, JsValue>;
    /// Returns the type, time, step, attempt and error's message of such an event as a JSON array.
    #[wasm_bindgen(catch, js_name = instanceEventBrief)]
    pub fn instance_event_brief(event: &JsValue) -> Result<String, JsValue>;
    /// Returns a random id.
    #[wasm_bindgen(catch, js_name = uuid)]
    pub fn uuid() -> Result<String, JsValue>;
}

#[wasm_bindgen]
extern "C" {

    /// `WorkflowStep` of `cloudflare:workers`.
    #[wasm_bindgen(extends = Object)]
    #[derive(Clone)]
    pub type JsWorkflowStep;
    #[wasm_bindgen(method, catch, js_name = do)]
    pub async fn run(
        this: &JsWorkflowStep,
        name: &str,
        config: &JsValue,
        callback: &Function,
        rollback_options: &JsValue,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub async fn sleep(
        this: &JsWorkflowStep,
        name: &str,
        duration: &JsValue,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch, js_name = sleepUntil)]
    pub async fn sleep_until(
        this: &JsWorkflowStep,
        name: &str,
        milliseconds: f64,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch, js_name = waitForEvent)]
    pub async fn wait_for_event(
        this: &JsWorkflowStep,
        name: &str,
        options: &JsValue,
    ) -> Result<JsValue, JsValue>;

    /// The `Workflow` binding.
    #[wasm_bindgen(extends = Object)]
    #[derive(Clone, Debug)]
    pub type JsWorkflow;
    #[wasm_bindgen(method, catch)]
    pub async fn create(this: &JsWorkflow, options: &JsValue) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch, js_name = createBatch)]
    pub async fn create_batch(this: &JsWorkflow, options: &JsValue) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch, js_name = deleteBatch)]
    pub async fn delete_batch(this: &JsWorkflow, ids: &Array) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub async fn get(this: &JsWorkflow, id: &str) -> Result<JsValue, JsValue>;

    /// `WorkflowInstance`.
    #[wasm_bindgen(extends = Object)]
    #[derive(Clone, Debug)]
    pub type JsWorkflowInstance;
    #[wasm_bindgen(method, catch)]
    pub async fn pause(this: &JsWorkflowInstance) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub async fn resume(this: &JsWorkflowInstance) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub async fn restart(this: &JsWorkflowInstance, options: &JsValue) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub async fn terminate(
        this: &JsWorkflowInstance,
        options: &JsValue,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub async fn delete(this: &JsWorkflowInstance) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub async fn status(this: &JsWorkflowInstance) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch, js_name = sendEvent)]
    pub async fn send_event(this: &JsWorkflowInstance, event: &JsValue)
    -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    pub async fn subscribe(
        this: &JsWorkflowInstance,
        options: &JsValue,
    ) -> Result<JsValue, JsValue>;

    /// `WorkflowInstanceSubscription`.
    #[wasm_bindgen(extends = Object)]
    pub type JsWorkflowSubscription;
    #[wasm_bindgen(method, catch)]
    pub async fn next(this: &JsWorkflowSubscription) -> Result<JsValue, JsValue>;
    /// Returns a string, or `undefined` if JSON cannot express the value.
    #[wasm_bindgen(catch, js_namespace = JSON)]
    pub fn stringify(value: &JsValue) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(catch, js_namespace = Array, js_name = from)]
    pub fn array_from(iterable: &JsValue) -> Result<Array, JsValue>;

    /// The runtime's own stream of bytes: a write waits until the reader takes it, and until what
    /// the object wrote to its storage before is durable.
    #[wasm_bindgen(extends = Object)]
    pub type IdentityTransformStream;
    #[wasm_bindgen(constructor, catch)]
    pub fn new() -> Result<IdentityTransformStream, JsValue>;
    #[wasm_bindgen(method, getter)]
    pub fn readable(this: &IdentityTransformStream) -> worker::web_sys::ReadableStream;
    #[wasm_bindgen(method, getter)]
    pub fn writable(this: &IdentityTransformStream) -> WritableStream;
    #[wasm_bindgen(extends = Object)]
    pub type WritableStream;
    #[wasm_bindgen(method, catch, js_name = getWriter)]
    pub fn get_writer(this: &WritableStream) -> Result<Writer, JsValue>;
    #[wasm_bindgen(extends = Object)]
    pub type Writer;
    #[wasm_bindgen(method, catch)]
    pub async fn write(this: &Writer, chunk: &Uint8Array) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub async fn close(this: &Writer) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub async fn abort(this: &Writer, reason: &JsValue) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(extends = Object)]
    pub type ReadableStream;
    #[wasm_bindgen(method, catch, js_name = getReader)]
    pub fn get_reader(this: &ReadableStream) -> Result<Reader, JsValue>;
    #[wasm_bindgen(extends = Object)]
    pub type Reader;
    #[wasm_bindgen(method, catch)]
    pub async fn read(this: &Reader) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub async fn cancel(this: &Reader) -> Result<JsValue, JsValue>;

    /// Returns a number or an object, by the Worker's compatibility flags: it is only handed back.
    #[wasm_bindgen(catch, js_name = setTimeout)]
    pub fn set_timeout(callback: &Function, milliseconds: f64) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(catch, js_name = clearTimeout)]
    pub fn clear_timeout(timer: &JsValue) -> Result<(), JsValue>;
}
