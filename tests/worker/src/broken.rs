//! Logs that fail: some always, in the way that the instance's id names, some on request.

use std::sync::atomic::{AtomicBool, Ordering};

use js_sys::Promise;
use ssetarget::cloudflare::__private::{WorkflowEventsObject, extend_durable_object};
use ssetarget::cloudflare::WorkflowEventsConfig;
use wasm_bindgen::prelude::*;
use worker::{Env, worker_sys};

#[wasm_bindgen]
pub struct BrokenEvents {
    /// The instance's id, up to its first `-`.
    way: String,
}

#[wasm_bindgen]
impl BrokenEvents {
    #[wasm_bindgen(constructor)]
    #[must_use]
    pub fn new(state: worker_sys::DurableObjectState, _env: Env) -> Self {
        let name = worker::durable::State::from(state).id().name();
        let name = name.unwrap_or_default();
        let instance = name.split('/').next_back().unwrap_or_default();
        let way = instance.split('-').next().unwrap_or_default().to_owned();
        Self { way }
    }

    pub fn fetch(&self, _request: JsValue) -> Promise {
        Promise::reject(&js_sys::Error::new("this log is broken").into())
    }

    #[allow(clippy::panic, reason = "what is tested")]
    pub fn enter(&self, _generation: Option<f64>) -> Promise {
        assert!(self.way != "panics", "this log panics");
        enter(&self.way)
    }

    #[allow(clippy::panic, reason = "what is tested")]
    pub fn obey(&self, _command: String) -> Promise {
        assert!(self.way != "panics", "this log panics");
        enter(&self.way)
    }
}

#[wasm_bindgen(start)]
pub fn extend_broken_events() -> Result<(), JsValue> {
    let way = String::new();
    extend_durable_object(&BrokenEvents { way }.into())
}

/// Works like `WorkflowEvents`, and on request goes down with all its connections, as an object may
/// at any time for a deploy. It says when it is made, and how many hibernatable sockets it has. On
/// request it also disappears without notifying viewers over sockets, or goes down and admits no
/// lifetime until it is opened again.
#[wasm_bindgen]
pub struct FragileEvents(WorkflowEventsObject, AtomicBool);

#[wasm_bindgen]
#[allow(clippy::missing_errors_doc, reason = "as the class that it stands for")]
impl FragileEvents {
    #[wasm_bindgen(constructor)]
    pub fn new(state: worker_sys::DurableObjectState, env: Env) -> Result<Self, JsValue> {
        worker::console_log!("a fragile object was made");
        WorkflowEventsObject::new(state, env, WorkflowEventsConfig::new())
            .map(|object| Self(object, AtomicBool::new(false)))
    }

    pub fn fetch(&self, request: worker::web_sys::Request) -> Result<JsValue, JsValue> {
        self.0.fetch(request)
    }

    pub fn alarm(&self) -> Result<JsValue, JsValue> {
        self.0.alarm()
    }

    pub fn enter(&self, generation: Option<f64>) -> Result<JsValue, JsValue> {
        if SHUT.load(Ordering::Relaxed) {
            return Err(js_sys::Error::new("this log is shut").into());
        }
        self.0.enter(generation)
    }

    pub fn obey(&self, command: String) -> Result<JsValue, JsValue> {
        self.0.obey(command)
    }

    #[wasm_bindgen(js_name = webSocketMessage)]
    pub fn web_socket_message(&self, socket: JsValue, message: &JsValue) {
        if !self.1.load(Ordering::Relaxed) {
            self.0.web_socket_message(socket, message);
        }
    }

    #[wasm_bindgen(js_name = webSocketClose)]
    pub fn web_socket_close(&self, socket: JsValue) {
        self.0.web_socket_gone(socket);
    }

    pub fn go_down(&self) {
        abort(&self.0.ctx());
    }

    pub fn shut(&self) {
        SHUT.store(true, Ordering::Relaxed);
        self.go_down();
    }

    pub fn reopen(&self) {
        SHUT.store(false, Ordering::Relaxed);
    }

    pub fn fall_silent(&self) -> Result<(), JsValue> {
        self.1.store(true, Ordering::Relaxed);
        answer_no_pings(&self.0.ctx())
    }

    pub fn sockets(&self) -> Result<u32, JsValue> {
        sockets(&self.0.ctx())
    }
}

/// For all fragile objects, because one that goes down loses its own memory.
static SHUT: AtomicBool = AtomicBool::new(false);

#[wasm_bindgen(start)]
pub fn extend_fragile_events() -> Result<(), JsValue> {
    let dummy = FragileEvents(WorkflowEventsObject::dummy(), AtomicBool::new(false));
    extend_durable_object(&dummy.into())
}

#[wasm_bindgen(inline_js = r#"
const fail = async () => { throw new Error("this log is broken"); };
// A promise that can never resolve would not do: the runtime would notice.
const hang = () => new Promise((done) => setTimeout(done, 3_600_000));
const opened = '{"run":{"generation":1,"run":1,"ended":false,"facts":[]}}';
const ways = {
  throws: fail,
  hangs: hang,
  nonsense: async () => 5,
  unappendable: async () => ({ opened, append: fail, settle: fail }),
  unending: async () => ({ opened, append: hang, settle: hang }),
};
export const sockets = (context) => context.getWebSockets().filter(({ readyState }) => readyState === WebSocket.OPEN).length;
export const answer_no_pings = (context) => context.setWebSocketAutoResponse();
// Between two turns, as where the platform resets an object: code that is ended in the middle frees nothing.
export const abort = (context) => void Promise.resolve().then(() => context.abort("the object goes down"));
export const enter = (way) => (ways[way] ?? fail)();
"#)]
extern "C" {
    fn enter(way: &str) -> Promise;
    pub fn abort(context: &JsValue);
    // It catches, because wasm-bindgen allows only one function that needs nothing of it: see
    // `life.rs`.
    #[wasm_bindgen(catch)]
    fn sockets(context: &JsValue) -> Result<u32, JsValue>;
    #[wasm_bindgen(catch)]
    fn answer_no_pings(context: &JsValue) -> Result<(), JsValue>;
}
