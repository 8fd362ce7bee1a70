//! A workflow whose engine disappears during its first lifetime, as a deploy does it in production
//! and the local runtime never does. The engine that comes back is a fake: it answers from what it
//! stored.
//!
//! Its params are those of [`Script`], and the fault: `reset: { at, text, flags }`.

use std::rc::Rc;

use cloudflare_workflows::__private::{WorkflowObject, extend_workflow_entrypoint};
use js_sys::Promise;
use wasm_bindgen::prelude::*;
use worker::wasm_bindgen_futures::{JsFuture, future_to_promise};
use worker::{Env, worker_sys};

use crate::script::Script;

#[wasm_bindgen]
pub struct Resets(Rc<WorkflowObject<Script>>);

#[wasm_bindgen]
impl Resets {
    #[wasm_bindgen(constructor)]
    pub fn new(context: worker_sys::Context, env: Env) -> Self {
        Self(Rc::new(WorkflowObject::new(context, env)))
    }

    pub fn run(&self, event: JsValue, step: JsValue) -> Promise {
        let object = Rc::clone(&self.0);
        let engine = Engine::new(&event, &step);
        future_to_promise(std::panic::AssertUnwindSafe(async move {
            let first = object.run(engine.event(), engine.step(true));
            let first = JsFuture::from(first).await;
            engine.first_ended(&first.unwrap_or_else(|error| error));
            JsFuture::from(object.run(engine.event(), engine.step(false))).await
        }))
    }
}

#[wasm_bindgen(start)]
pub fn extend_resets() -> Result<(), JsValue> {
    extend_workflow_entrypoint(&Resets(Rc::new(WorkflowObject::dummy())).into())
}

#[wasm_bindgen(inline_js = r#"
export class Engine {
  stored = new Map();

  constructor(event, step) {
    const { reset, ...payload } = event.payload;
    this.real = step;
    this.reset = reset;
    this.given = { ...event, payload };
  }

  event() {
    return this.given;
  }

  // The step object of a lifetime.
  step(first) {
    const counts = new Map();
    let gone = false;
    let lose;
    const lost = new Promise((_, reject) => { lose = reject; });
    lost.catch(() => {});
    const error = () => (this.thrown = Object.assign(new Error(this.reset.text), this.reset.flags));
    const call = (kind) => async (name, ...rest) => {
      const count = (counts.get(kind + name) ?? 0) + 1;
      counts.set(kind + name, count);
      const key = `${kind} ${name} ${count}`;
      if (gone) throw error();
      if (this.stored.has(key)) return this.stored.get(key);
      if (first && name === this.reset.at) {
        setTimeout(() => { gone = true; lose(error()); }, 50);
        const code = rest.find((value) => typeof value === "function");
        const config = { retries: { limit: 3, delay: 10, backoff: "constant" }, timeout: 60_000 };
        code?.({ step: { name, count }, attempt: 1, config }).catch(() => {});
        return lost;
      }
      const result = await Promise.race([lost, this.real[kind](name, ...rest)]);
      this.stored.set(key, result);
      return result;
    };
    return { do: call("do"), sleep: call("sleep"), sleepUntil: call("sleepUntil"), waitForEvent: call("waitForEvent") };
  }

  // The engine is given back its own error object, unless the code threw or returned something else.
  first_ended(result) {
    if (result instanceof Error && result.message === this.thrown.message && result !== this.thrown) {
      throw new Error("this is not the object that was thrown");
    }
  }
}
"#)]
extern "C" {
    type Engine;
    #[wasm_bindgen(constructor)]
    fn new(event: &JsValue, step: &JsValue) -> Engine;
    #[wasm_bindgen(method)]
    fn event(this: &Engine) -> JsValue;
    #[wasm_bindgen(method)]
    fn step(this: &Engine, first: bool) -> JsValue;
    #[wasm_bindgen(method)]
    fn first_ended(this: &Engine, result: &JsValue);
}
