//! The platform's step object as a [`Step`].

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use futures_util::future::LocalBoxFuture;
use js_sys::{Function, Object, Promise};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;

use super::convert::{
    duration_from_js, duration_to_js, from_js, property, set, since_epoch, step_error, throw, time,
    to_js,
};
use super::js::JsWorkflowStep;
use super::life;
use super::runtime::sleep;
use super::stream;
use crate::border::{self, CannotCross};
use crate::step::config::{DelayContext, DelayFunction, Retries, RetryDelay, StepConfig};
use crate::step::context::StepContext;
use crate::step::duration::WorkflowDuration;
use crate::step::error::{StepError, StepErrorKind};
use crate::step::output::{ByteStream, OutputCodec, StepOutput};
use crate::step::panic::catch_panic;
use crate::step::resolved::{Backoff, ResolvedConfig, Sensitivity};
use crate::step::rollback::{Rollback, RollbackContext};
use crate::step::{DoStep, Step, WaitForEvent, WaitedEvent};

/// The platform's step object, `WorkflowStep` of `cloudflare:workers`, with which a
/// [`WorkflowEntrypoint`](crate::WorkflowEntrypoint) makes its steps.
#[derive(Clone)]
pub struct WorkflowStep {
    step: JsWorkflowStep,
    /// The number of calls that the engine has not answered.
    unanswered: Rc<Cell<u32>>,
}

/// Takes the step object that the runtime gave to a class's `run`, for classes that are not exported by
/// [`export_workflow!`](crate::export_workflow).
impl From<JsValue> for WorkflowStep {
    fn from(step: JsValue) -> Self {
        Self::new(step)
    }
}

impl WorkflowStep {
    pub(super) fn new(step: JsValue) -> Self {
        Self {
            step: step.unchecked_into(),
            unanswered: Rc::default(),
        }
    }

    async fn answer(
        &self,
        call: impl Future<Output = Result<JsValue, JsValue>>,
    ) -> Result<JsValue, StepError> {
        struct Unanswered<'a>(&'a Cell<u32>);
        impl Drop for Unanswered<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        self.unanswered.set(self.unanswered.get() + 1);
        let unanswered = Unanswered(&self.unanswered);
        let answer = call.await;
        drop(unanswered);
        answer.map_err(step_error)
    }

    /// As [`answer`](Self::answer), for a step that always has a result.
    ///
    /// To roll back an instance whose engine has lost the handlers, the platform runs the workflow once more to get
    /// them. It then answers `undefined` for a step that has not ended, without running it. As a result, that would
    /// show viewers steps that ended well and never ran. So the run ends there, after all steps that run at the same
    /// time have come as far as they can: a handler that the platform does not get cannot run.
    async fn result(
        &self,
        call: impl Future<Output = Result<JsValue, JsValue>>,
    ) -> Result<JsValue, StepError> {
        let result = self.answer(call).await?;
        if !result.is_undefined() {
            return Ok(result);
        }
        for _ in 0..TURNS {
            sleep(Duration::ZERO).await;
            while self.unanswered.get() > 0 {
                sleep(Duration::ZERO).await;
            }
        }
        let message = "the run is rolled back: it does not go on";
        Err(StepError::with_kind(StepErrorKind::Suspended, message))
    }
}

impl WorkflowStep {
    /// Has the engine do a step. Boxed, and the same for all types of results, so that it is compiled once.
    fn perform<'a>(
        &'a self,
        name: &'a str,
        config: StepConfig,
        attempt: Callback,
        rollback: JsValue,
    ) -> LocalBoxFuture<'a, Result<JsValue, StepError>> {
        Box::pin(async move {
            let (config, delay) =
                config_from(config.retries.as_ref(), config.timeout, config.sensitive);
            let function = attempt.function();
            // A step of ours stores at least `null`.
            let call = self.step.run(name, &config, &function, &rollback);
            let result = self.result(call).await;
            attempt.free();
            if let Some(delay) = delay {
                delay.free();
            }
            result
        })
    }
}

fn other_type(name: &str, error: StepError) -> StepError {
    let message = format!("the result of step {name:?} is not of its type any more: {error}");
    let other = StepError::with_kind(StepErrorKind::Invalid, message);
    match error.into_source() {
        Some(source) => other.with_source(source),
        None => other,
    }
}

/// The number of turns of the event loop after which code that waits for no step has reached its next one.
const TURNS: u32 = 2;

impl Step for WorkflowStep {
    async fn do_step<T: StepOutput>(&self, step: DoStep<T>) -> Result<T, StepError> {
        let DoStep {
            name,
            config,
            callback,
            rollback,
        } = step;
        let attempt = Callback::new(move |context| {
            let callback = callback.clone();
            async move {
                let value = callback.call(context_from(&context)).await?;
                value.encode(&JsCodec)
            }
        });
        let rollback = rollback.map_or(JsValue::UNDEFINED, Rollback::into_js);
        let result = self.perform(&name, config, attempt, rollback).await?;
        T::decode(&JsCodec, result).map_err(|error| other_type(&name, error))
    }

    async fn sleep(
        &self,
        name: &str,
        duration: impl Into<WorkflowDuration>,
    ) -> Result<(), StepError> {
        let duration = duration_to_js(duration.into());
        let slept = self.answer(self.step.sleep(name, &duration)).await;
        slept.map(drop)
    }

    async fn sleep_until(&self, name: &str, time: SystemTime) -> Result<(), StepError> {
        let slept = self.step.sleep_until(name, since_epoch(time));
        match self.answer(slept).await {
            // The engine also returns this in every later lifetime of a run that has slept.
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
        let wait = Object::new();
        set(&wait, "type", &options.event_type.into());
        if let Some(timeout) = options.timeout {
            set(&wait, "timeout", &timeout_to_js(timeout));
        }
        let event = self.result(self.step.wait_for_event(name, &wait)).await?;
        let sensitive = sensitivity(&event);
        let payload = from_js(&property(&event, "payload"))
            .map_err(|error| error.into_wait_error(name, sensitive.is_some()))?;
        Ok(WaitedEvent {
            payload,
            timestamp: time(&property(&event, "timestamp")),
            event_type: property(&event, "type").as_string().unwrap_or_default(),
            sensitive,
        })
    }
}

/// Stores the results of steps as JavaScript values.
struct JsCodec;

impl OutputCodec for JsCodec {
    type Stored = JsValue;

    fn encode<T: Serialize>(&self, value: &T) -> Result<JsValue, StepError> {
        to_js(value).map_err(|error| error.into_step_error(border::RESULT))
    }

    fn decode<T: DeserializeOwned>(&self, stored: JsValue) -> Result<T, StepError> {
        from_js(&stored).map_err(CannotCross::into_decode_error)
    }

    fn encode_stream(&self, stream: ByteStream) -> Result<JsValue, StepError> {
        stream::to_js(stream).map_err(step_error)
    }

    fn decode_stream(&self, stored: JsValue) -> Result<ByteStream, StepError> {
        stream::from_js(&stored).unwrap_or_else(|| Err(StepError::new("it is not a stream")))
    }
}

/// A function that the engine calls. When nobody awaits the step any more, for example after another step of
/// a `try_join!` has failed, the engine still goes on with it. Then the function is left to JavaScript's
/// garbage collector, so that the engine can still call it.
pub(crate) struct Callback(Option<Closure<dyn FnMut(JsValue) -> Promise>>);

type Boxed = dyn Fn(JsValue) -> LocalBoxFuture<'static, Result<JsValue, StepError>>;

impl Callback {
    /// Wraps a function that returns a future. Errors and panics of the future are thrown.
    fn new<F>(callback: impl Fn(JsValue) -> F + 'static) -> Self
    where
        F: Future<Output = Result<JsValue, StepError>> + 'static,
    {
        Self::boxed(Rc::new(move |argument| Box::pin(callback(argument))))
    }

    /// The same for all functions, so that it is compiled once.
    fn boxed(callback: Rc<Boxed>) -> Self {
        let call = move |argument: JsValue| -> Promise {
            let callback = Rc::clone(&callback);
            life::promise_for_engine(async move {
                let called = catch_panic(async { callback(argument).await });
                called.await.map_err(throw)
            })
        };
        let boxed: Box<dyn FnMut(JsValue) -> Promise> = Box::new(call);
        Self(Some(Closure::wrap_assert_unwind_safe(boxed)))
    }

    fn function(&self) -> Function {
        let function = self.0.as_ref().map(|closure| closure.as_ref().clone());
        function.unwrap_or_default().unchecked_into()
    }

    /// Frees the function, which the engine does not call any more.
    fn free(mut self) {
        drop(self.0.take());
    }

    /// Leaves the function to the engine, for as long as that keeps it.
    fn into_function(self) -> JsValue {
        self.function().into()
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        if let Some(closure) = self.0.take() {
            drop(closure.into_js_value());
        }
    }
}

/// Makes a `WorkflowStepConfig`, and returns the delay function in it. Fields that are not set are left to
/// the platform.
fn config_from(
    retries: Option<&Retries>,
    timeout: Option<WorkflowDuration>,
    sensitive: Option<Sensitivity>,
) -> (JsValue, Option<Callback>) {
    let config = Object::new();
    let mut function = None;
    if let Some(retries) = retries {
        let js = Object::new();
        set(&js, "limit", &retries.limit.into());
        set(&js, "backoff", &retries.backoff.as_str().into());
        let delay = match &retries.delay {
            RetryDelay::Constant(delay) => duration_to_js(*delay),
            RetryDelay::Dynamic(delay) => {
                let callback = delay.to_js();
                let js = callback.function().into();
                function = Some(callback);
                js
            }
        };
        set(&js, "delay", &delay);
        set(&config, "retries", &js);
    }
    if let Some(timeout) = timeout {
        set(&config, "timeout", &timeout_to_js(timeout));
    }
    if let Some(sensitive) = sensitive {
        set(&config, "sensitive", &sensitive.as_str().into());
    }
    (config.into(), function)
}

pub(crate) fn delay_callback(delay: DelayFunction) -> Callback {
    Callback::new(move |failed| {
        let delay = delay.clone();
        async move {
            let ctx = context_from(&property(&failed, "ctx"));
            let failed = DelayContext::new(ctx, step_error(property(&failed, "error")));
            Ok(duration_to_js(delay.call(&failed).await?))
        }
    })
}

/// Makes `WorkflowStepRollbackOptions`. The handler outlives the step and the run.
pub(crate) fn rollback_options<T: StepOutput>(rollback: Rollback<T>) -> JsValue {
    let options = Object::new();
    let config = &rollback.config;
    if config.retries.is_some() || config.timeout.is_some() {
        let (config, delay) = config_from(config.retries.as_ref(), config.timeout, None);
        set(&options, "rollbackConfig", &config);
        drop(delay.map(Callback::into_function));
    }
    let handler = Callback::new(move |context| {
        let rollback = rollback.clone();
        async move {
            let output = property(&context, "output");
            let output = (!output.is_undefined()).then(|| T::decode(&JsCodec, output));
            let ctx = context_from(&property(&context, "ctx"));
            let error = step_error(property(&context, "error"));
            let context = RollbackContext::new(ctx, error, output.transpose()?);
            rollback.call(context).await?;
            Ok(JsValue::UNDEFINED)
        }
    });
    set(&options, "rollback", &handler.into_function());
    options.into()
}

/// Converts a timeout. Zero becomes a millisecond: the platform ignores or refuses 0.
fn timeout_to_js(timeout: WorkflowDuration) -> JsValue {
    if timeout.as_milliseconds() == 0 {
        return 1.into();
    }
    duration_to_js(timeout)
}

/// Reads a `WorkflowStepContext`.
fn context_from(context: &JsValue) -> StepContext {
    let step = property(context, "step");
    let name = property(&step, "name").as_string().unwrap_or_default();
    let (count, attempt) = (property(&step, "count"), property(context, "attempt"));
    StepContext::new(
        name,
        whole(&count).unwrap_or(1),
        whole(&attempt).unwrap_or(1),
    )
    .with_config(resolved_from(&property(context, "config")))
}

fn resolved_from(config: &JsValue) -> ResolvedConfig {
    let mut resolved = ResolvedConfig::default();
    let retries = property(config, "retries");
    if !retries.is_undefined() {
        if let Some(limit) = whole(&property(&retries, "limit")) {
            resolved.retries.limit = limit;
        }
        resolved.retries.delay = duration_from_js(&property(&retries, "delay"));
        let backoff = property(&retries, "backoff").as_string();
        if let Some(backoff) = backoff.and_then(|name| Backoff::from_name(&name)) {
            resolved.retries.backoff = backoff;
        }
    }
    if let Some(timeout) = duration_from_js(&property(config, "timeout")) {
        resolved.timeout = timeout;
    }
    resolved.sensitive = sensitivity(config);
    resolved
}

/// Reads the sensitivity of a config or an event.
fn sensitivity(of: &JsValue) -> Option<Sensitivity> {
    Sensitivity::from_name(&property(of, "sensitive").as_string()?)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates"
)]
fn whole(number: &JsValue) -> Option<u32> {
    number.as_f64().map(|number| number as u32)
}
