//! The platform's own log of an instance.

use js_sys::{Array, Object, Reflect};
use ssetarget::cloudflare::WorkflowInstance;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(extends = Object)]
    type Instance;
    #[wasm_bindgen(method, catch)]
    async fn subscribe(this: &Instance) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(extends = Object)]
    type Events;
    #[wasm_bindgen(method, catch)]
    async fn next(this: &Events) -> Result<JsValue, JsValue>;
}

/// All its events, once it has ended.
pub async fn log(instance: &WorkflowInstance) -> Result<Array, JsValue> {
    let instance: &Instance = instance.as_js().unchecked_ref();
    let events: Events = instance.subscribe().await?.unchecked_into();
    let log = Array::new();
    loop {
        let next = events.next().await?;
        if Reflect::get(&next, &"done".into())?.is_truthy() {
            return Ok(log);
        }
        log.push(&Reflect::get(&next, &"value".into())?);
    }
}
