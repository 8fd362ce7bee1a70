//! A Workflow binding that counts the open subscriptions.

use cloudflare_workflows::{Workflow, WorkflowError};
use wasm_bindgen::prelude::*;
use worker::Env;

#[wasm_bindgen(inline_js = r#"
let open = 0;
export const openSubscriptions = () => open;
export const watched = (workflow) => ({
  WATCHED: {
    create: (options) => workflow.create(options),
    async get(id) {
      const instance = await workflow.get(id);
      return {
        id,
        status: () => instance.status(),
        async subscribe(options) {
          const subscription = await instance.subscribe(options);
          open += 1;
          return {
            next: () => subscription.next(),
            [Symbol.dispose]() {
              open -= 1;
              subscription[Symbol.dispose]();
            },
          };
        },
      };
    },
  },
});
"#)]
extern "C" {
    #[wasm_bindgen(js_name = openSubscriptions)]
    pub fn open_subscriptions() -> u32;
    // It catches, because wasm-bindgen allows only one function that needs nothing of it: see
    // `life.rs`.
    #[wasm_bindgen(catch, js_name = watched)]
    fn watched_env(workflow: &JsValue) -> Result<Env, JsValue>;
}

/// The same workflow, watched.
///
/// # Errors
/// None, if the binding is a Workflow.
pub fn watched(env: &Env, binding: &str) -> Result<Workflow, WorkflowError> {
    let workflow = js_sys::Reflect::get(env, &binding.into())?;
    Workflow::from_env(&watched_env(&workflow)?, "WATCHED")
}
