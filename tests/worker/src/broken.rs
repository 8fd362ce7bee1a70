//! A class of objects that are no good as logs, each in the way that the instance's id names.

use js_sys::Promise;
use ssetarget::cloudflare::__private::extend_durable_object;
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

    #[must_use]
    pub fn fetch(&self, _request: JsValue) -> Promise {
        Promise::reject(&js_sys::Error::new("this log is broken").into())
    }

    #[must_use]
    #[allow(clippy::panic, reason = "what is tested")]
    pub fn open(&self, _with_facts: bool) -> Promise {
        assert!(self.way != "panics", "this log panics");
        open(&self.way)
    }
}

#[wasm_bindgen(start)]
pub fn extend_broken_events() {
    let way = String::new();
    extend_durable_object(&BrokenEvents { way }.into());
}

#[wasm_bindgen(inline_js = r#"
const fail = async () => { throw new Error("this log is broken"); };
// Not a promise without anything behind it: the runtime would notice.
const hang = () => new Promise((done) => setTimeout(done, 3_600_000));
const ways = {
  throws: fail,
  hangs: hang,
  nonsense: async () => 5,
  unappendable: async () => ({ run: 1, facts: "[]", append: fail }),
  unending: async () => ({ run: 1, facts: "[]", append: hang }),
};
export const open = (way) => (ways[way] ?? fail)();
"#)]
extern "C" {
    fn open(way: &str) -> Promise;
}
