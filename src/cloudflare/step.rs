//! The platform's step object as a [`Step`].

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use js_sys::{Function, Promise};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use wasm_bindgen::prelude::*;

use super::convert::{
    from_js, milliseconds, property, since_epoch, step_error, throw, time, to_js,
};
use super::js::{self, JsWorkflowStep};
use crate::workflow::{
    Backoff, Step, StepConfig, StepContext, StepError, WaitForEvent, WaitedEvent, catch_panic,
};

/// `WorkflowStep` of `cloudflare:workers`: what a [`WorkflowEntrypoint`](super::WorkflowEntrypoint)
/// makes steps with.
#[derive(Clone)]
pub struct WorkflowStep {
    step: JsWorkflowStep,
}

impl WorkflowStep {
    pub(super) fn new(step: JsValue) -> Self {
        Self {
            step: step.unchecked_into(),
        }
    }
}

impl Step for WorkflowStep {
    async fn run_with<T, F>(
        &self,
        name: &str,
        config: StepConfig,
        callback: F,
    ) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned + 'static,
        F: AsyncFn(StepContext) -> Result<T, StepError> + 'static,
    {
        let callback = Rc::new(callback);
        let closure =
            Closure::wrap_assert_unwind_safe(Box::new(move |context: JsValue| -> Promise {
                let callback = Rc::clone(&callback);
                js::promise(async move {
                    let attempt = async { callback(context_from(&context)).await };
                    let value = catch_panic(attempt).await.map_err(throw)?;
                    to_js(&value).map_err(|error| throw(error.into()))
                })
            }) as Box<dyn FnMut(JsValue) -> Promise>);
        let config = to_js(&config_json(&config))?;
        let function: Function = closure.as_ref().unchecked_ref::<Function>().clone();
        let callback = Callback(Some(closure));
        let result = self.step.run(name, &config, &function).await;
        callback.free();
        from_js(result.map_err(step_error)?).map_err(|error| {
            let message =
                format!("the result of step {name:?} is not of its type any more: {error}");
            StepError::new(message)
        })
    }

    async fn sleep(&self, name: &str, duration: Duration) -> Result<(), StepError> {
        let slept = self.step.sleep(name, milliseconds(duration)).await;
        slept.map(drop).map_err(step_error)
    }

    async fn sleep_until(&self, name: &str, time: SystemTime) -> Result<(), StepError> {
        let slept = self.step.sleep_until(name, since_epoch(time)).await;
        match slept.map_err(step_error) {
            // The engine says so in every later lifetime of a run that has slept, too.
            Err(error) if error.message().contains("until a time in the past") => Ok(()),
            slept => slept.map(drop),
        }
    }

    async fn wait_for_event<T>(
        &self,
        name: &str,
        options: WaitForEvent,
    ) -> Result<WaitedEvent<T>, StepError>
    where
        T: DeserializeOwned + 'static,
    {
        let mut json = Map::new();
        json.insert("type".into(), options.event_type.into());
        if let Some(timeout) = options.timeout {
            json.insert("timeout".into(), timeout_json(timeout));
        }
        let event = self
            .step
            .wait_for_event(name, &to_js(&json)?)
            .await
            .map_err(step_error)?;
        let payload = from_js(property(&event, "payload")).map_err(|error| {
            StepError::new(format!(
                "the event that {name:?} waited for has another payload: {error}"
            ))
        })?;
        Ok(WaitedEvent {
            payload,
            timestamp: time(&property(&event, "timestamp")),
            event_type: property(&event, "type").as_string().unwrap_or_default(),
        })
    }
}

/// A step's callback. If the step is awaited no longer, as `try_join!` does it when another one
/// fails, the engine goes on with it all the same: then the callback is left to JavaScript's
/// garbage collector, and not pulled away from under the engine.
struct Callback(Option<Closure<dyn FnMut(JsValue) -> Promise>>);

impl Callback {
    fn free(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        if let Some(closure) = self.0.take() {
            drop(closure.into_js_value());
        }
    }
}

/// `WorkflowStepConfig`; what is not set is left to the platform.
fn config_json(config: &StepConfig) -> Map<String, Value> {
    let mut json = Map::new();
    if let Some(retries) = config.retries {
        let backoff = match retries.backoff {
            Backoff::Constant => "constant",
            Backoff::Linear => "linear",
            Backoff::Exponential => "exponential",
        };
        let retries = json!({
            "limit": retries.limit,
            "delay": milliseconds(retries.delay),
            "backoff": backoff,
        });
        json.insert("retries".into(), retries);
    }
    if let Some(timeout) = config.timeout {
        json.insert("timeout".into(), timeout_json(timeout));
    }
    json
}

/// The platform takes 0 for "none given", or refuses it.
fn timeout_json(timeout: Duration) -> Value {
    milliseconds(timeout).max(1.0).into()
}

/// `WorkflowStepContext`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small whole numbers"
)]
fn context_from(context: &JsValue) -> StepContext {
    let number = |value: JsValue| value.as_f64().unwrap_or(1.0) as u32;
    let step = property(context, "step");
    let name = property(&step, "name").as_string().unwrap_or_default();
    StepContext::new(
        name,
        number(property(&step, "count")),
        number(property(context, "attempt")),
    )
}
