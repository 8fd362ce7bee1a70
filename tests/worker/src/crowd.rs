//! Logs of runs with many viewers, where two viewers are already many. Their objects report their
//! state.

use std::rc::Rc;
use std::sync::Mutex;

use js_sys::Promise;
use ssetarget::cloudflare::__private::{WorkflowEventsObject, extend_durable_object};
use ssetarget::cloudflare::{FanOut, WorkflowEventsConfig};
use wasm_bindgen::prelude::*;
use worker::wasm_bindgen_futures::{JsFuture, future_to_promise};
use worker::{Env, web_sys, worker_sys};

use crate::broken::abort;

/// Two viewers and two relays for each object.
pub const FAN_OUT: FanOut = FanOut::new().viewers_per_object(2).relays_per_object(2);

/// As `WorkflowEvents`.
#[wasm_bindgen]
pub struct CrowdEvents {
    object: WorkflowEventsObject,
    /// The statuses of its answers.
    answers: Rc<Mutex<Vec<u16>>>,
}

#[wasm_bindgen]
#[allow(clippy::missing_errors_doc, reason = "as the class that it stands for")]
impl CrowdEvents {
    #[wasm_bindgen(constructor)]
    pub fn new(state: worker_sys::DurableObjectState, env: Env) -> Result<Self, JsValue> {
        let object = WorkflowEventsObject::new(state, env, WorkflowEventsConfig::new())?;
        Ok(Self {
            object,
            answers: Rc::default(),
        })
    }

    #[wasm_bindgen(getter)]
    #[must_use]
    pub fn ctx(&self) -> JsValue {
        self.object.ctx()
    }

    pub fn fetch(&self, request: web_sys::Request) -> Result<Promise, JsValue> {
        let response = JsFuture::from(Promise::resolve(&self.object.fetch(request)?));
        let answers = Rc::clone(&self.answers);
        let response = async move {
            let response = response.await?;
            let status = response.unchecked_ref::<web_sys::Response>().status();
            if let Ok(mut answers) = answers.lock() {
                answers.push(status);
            }
            Ok(response)
        };
        let response = std::panic::AssertUnwindSafe(response);
        Ok(future_to_promise(response))
    }

    pub fn alarm(&self) -> Result<JsValue, JsValue> {
        self.object.alarm()
    }

    pub fn enter(&self, generation: Option<f64>) -> Result<JsValue, JsValue> {
        self.object.enter(generation)
    }

    pub fn obey(&self, command: String) -> Result<JsValue, JsValue> {
        self.object.obey(command)
    }

    pub fn stats(&self) -> Result<JsValue, JsValue> {
        self.object.stats()
    }

    pub fn follow(&self, hop: String) -> Result<JsValue, JsValue> {
        self.object.follow(hop)
    }

    /// Returns `[viewers here, viewers below, whether it follows another object]`.
    #[must_use]
    pub fn watched(&self) -> JsValue {
        self.object.watched()
    }

    #[must_use]
    pub fn answers(&self) -> String {
        format!("{:?}", self.answers.lock().as_deref())
    }

    /// Does the same as the alarm.
    pub fn expire(&self) -> Result<JsValue, JsValue> {
        self.object.alarm()
    }

    pub fn go_down(&self) {
        abort(&self.object.ctx());
    }
}

#[wasm_bindgen(start)]
pub fn extend_crowd_events() -> Result<(), JsValue> {
    let dummy = CrowdEvents {
        object: WorkflowEventsObject::dummy(),
        answers: Rc::default(),
    };
    extend_durable_object(&dummy.into())
}
