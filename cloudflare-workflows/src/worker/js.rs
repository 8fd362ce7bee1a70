//! Raw bindings, which mirror the runtime, always catch, and decide nothing.

#![allow(missing_docs, reason = "named as the runtime names them")]

use js_sys::{Array, Function, Object, Promise, Uint8Array};
use wasm_bindgen::prelude::*;

pub use super::answer::Answer;

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
    fn call_run(
        this: &JsWorkflowStep,
        name: &str,
        config: &JsValue,
        callback: &Function,
        rollback_options: &JsValue,
    ) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = sleep)]
    fn call_sleep(
        this: &JsWorkflowStep,
        name: &str,
        duration: &JsValue,
    ) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = sleepUntil)]
    fn call_sleep_until(
        this: &JsWorkflowStep,
        name: &str,
        milliseconds: f64,
    ) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = waitForEvent)]
    fn call_wait_for_event(
        this: &JsWorkflowStep,
        name: &str,
        options: &JsValue,
    ) -> Result<Promise, JsValue>;

    /// The `Workflow` binding.
    #[wasm_bindgen(extends = Object)]
    #[derive(Clone, Debug)]
    pub type JsWorkflow;
    #[wasm_bindgen(method, catch, js_name = create)]
    fn call_create(this: &JsWorkflow, options: &JsValue) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = createBatch)]
    fn call_create_batch(this: &JsWorkflow, options: &JsValue) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = deleteBatch)]
    fn call_delete_batch(this: &JsWorkflow, ids: &Array) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = get)]
    fn call_get(this: &JsWorkflow, id: &str) -> Result<Promise, JsValue>;

    /// `WorkflowInstance`.
    #[wasm_bindgen(extends = Object)]
    #[derive(Clone, Debug)]
    pub type JsWorkflowInstance;
    #[wasm_bindgen(method, catch, js_name = pause)]
    fn call_pause(this: &JsWorkflowInstance) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = resume)]
    fn call_resume(this: &JsWorkflowInstance) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = restart)]
    fn call_restart(this: &JsWorkflowInstance, options: &JsValue) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = terminate)]
    fn call_terminate(this: &JsWorkflowInstance, options: &JsValue) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = delete)]
    fn call_delete(this: &JsWorkflowInstance) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = status)]
    fn call_status(this: &JsWorkflowInstance) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = sendEvent)]
    fn call_send_event(this: &JsWorkflowInstance, event: &JsValue) -> Result<Promise, JsValue>;

    #[wasm_bindgen(method, catch, js_name = subscribe)]
    fn call_subscribe(this: &JsWorkflowInstance, options: &JsValue) -> Result<Promise, JsValue>;

    /// `WorkflowInstanceSubscription`.
    #[wasm_bindgen(extends = Object)]
    pub type JsWorkflowSubscription;
    #[wasm_bindgen(method, catch, js_name = next)]
    fn call_next(this: &JsWorkflowSubscription) -> Result<Promise, JsValue>;
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
    #[wasm_bindgen(method, catch, js_name = write)]
    fn call_write(this: &Writer, chunk: &Uint8Array) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = close)]
    fn call_close(this: &Writer) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = abort)]
    fn call_abort(this: &Writer, reason: &JsValue) -> Result<Promise, JsValue>;

    #[wasm_bindgen(extends = Object)]
    pub type ReadableStream;
    #[wasm_bindgen(method, catch, js_name = getReader)]
    pub fn get_reader(this: &ReadableStream) -> Result<Reader, JsValue>;
    #[wasm_bindgen(extends = Object)]
    pub type Reader;
    #[wasm_bindgen(method, catch, js_name = read)]
    fn call_read(this: &Reader) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = cancel)]
    fn call_cancel(this: &Reader) -> Result<Promise, JsValue>;

    /// Returns a number or an object, by the Worker's compatibility flags: it is only handed back.
    #[wasm_bindgen(catch, js_name = setTimeout)]
    pub fn set_timeout(callback: &Function, milliseconds: f64) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(catch, js_name = clearTimeout)]
    pub fn clear_timeout(timer: &JsValue) -> Result<(), JsValue>;
}

/// Makes a method that returns an [`Answer`] of each binding that returns a promise.
#[doc(hidden)]
#[macro_export]
macro_rules! __answers {
    ($($type:ident { $($name:ident($($arg:ident: $of:ty),*) = $raw:ident;)* })*) => {
        $(#[allow(dead_code, reason = "some are for features")]
        impl $type {
            $(pub fn $name(&self, $($arg: $of),*) -> Answer {
                Answer::of(self.$raw($($arg),*))
            })*
        })*
    };
}
pub use __answers as answers;

answers! {
    JsWorkflowStep {
        run(name: &str, config: &JsValue, callback: &Function, rollback_options: &JsValue) = call_run;
        sleep(name: &str, duration: &JsValue) = call_sleep;
        sleep_until(name: &str, milliseconds: f64) = call_sleep_until;
        wait_for_event(name: &str, options: &JsValue) = call_wait_for_event;
    }
    JsWorkflow {
        create(options: &JsValue) = call_create;
        create_batch(options: &JsValue) = call_create_batch;
        delete_batch(ids: &Array) = call_delete_batch;
        get(id: &str) = call_get;
    }
    JsWorkflowInstance {
        pause() = call_pause;
        resume() = call_resume;
        restart(options: &JsValue) = call_restart;
        terminate(options: &JsValue) = call_terminate;
        delete() = call_delete;
        status() = call_status;
        send_event(event: &JsValue) = call_send_event;
        subscribe(options: &JsValue) = call_subscribe;
    }
    JsWorkflowSubscription {
        next() = call_next;
    }
    Writer {
        write(chunk: &Uint8Array) = call_write;
        close() = call_close;
        abort(reason: &JsValue) = call_abort;
    }
    Reader {
        read() = call_read;
        cancel() = call_cancel;
    }
}
