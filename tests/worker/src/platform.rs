//! The platform's own log of an instance.

use cloudflare_workflows::WorkflowInstance;
use js_sys::{Array, Object, Reflect};
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

/// Returns its events up to the first of this type, or to its end.
pub async fn log(instance: &WorkflowInstance, until: Option<&str>) -> Result<Array, JsValue> {
    let instance: &Instance = instance.as_js().unchecked_ref();
    let events: Events = instance.subscribe().await?.unchecked_into();
    let log = Array::new();
    loop {
        let next = events.next().await?;
        if Reflect::get(&next, &"done".into())?.is_truthy() {
            return Ok(log);
        }
        let event = Reflect::get(&next, &"value".into())?;
        log.push(&event);
        let event_type = Reflect::get(&event, &"type".into())?.as_string();
        if until.is_some() && event_type.as_deref() == until {
            return Ok(log);
        }
    }
}
