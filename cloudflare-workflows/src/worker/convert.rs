//! Conversions of values, durations and errors between Rust and JavaScript.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use js_sys::{JSON, JsString, RangeError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;

use super::js;
use crate::border::{self, CannotCross};
use crate::step::duration::WorkflowDuration;
use crate::step::error::{StepError, StepErrorKind};

/// Converts a value to JavaScript: `JSON.parse` of its JSON.
pub(super) fn to_js<T: Serialize + ?Sized>(value: &T) -> Result<JsValue, CannotCross> {
    let text = border::write(value)?;
    JSON::parse(&text).map_err(|_| CannotCross::new("JavaScript cannot read its JSON"))
}

/// Converts a value from JavaScript: reads what `JSON.stringify` writes. A value that JSON cannot express
/// (`undefined`, a function) is `null`.
pub(super) fn from_js<T: DeserializeOwned>(value: &JsValue) -> Result<T, CannotCross> {
    let text = js::stringify(value).map_err(|thrown| no_json(&thrown))?;
    match text.dyn_ref::<JsString>() {
        None => border::read("null"),
        // Checked before it is copied.
        Some(text) if text.length() as usize > border::MAX_READ => Err(CannotCross::too_long()),
        Some(text) => border::read(&String::from(text)),
    }
}

/// Explains an error of `JSON.stringify`, without its message, which has names out of the value.
fn no_json(thrown: &JsValue) -> CannotCross {
    let told = property(thrown, "message").as_string().unwrap_or_default();
    if thrown.is_instance_of::<RangeError>() {
        CannotCross::too_deep()
    } else if told.contains("BigInt") {
        CannotCross::new("it has a BigInt, which JSON cannot express: write it as a string")
    } else if told.contains("circular") {
        CannotCross::new("it contains itself")
    } else {
        CannotCross::new("JSON.stringify does not take it")
    }
}

/// Converts a duration to a label or a number of milliseconds.
pub(super) fn duration_to_js(duration: WorkflowDuration) -> JsValue {
    match duration.is_label() {
        true => duration.to_string().into(),
        false => milliseconds(duration.into()).into(),
    }
}

/// Reads a label or a number of milliseconds; `None` for anything else.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates"
)]
pub(super) fn duration_from_js(value: &JsValue) -> Option<WorkflowDuration> {
    match value.as_f64() {
        Some(milliseconds) => Some(WorkflowDuration::milliseconds(milliseconds as u64)),
        None => value.as_string()?.parse().ok(),
    }
}

/// Returns a duration in milliseconds. Parts of a millisecond are cut off.
#[allow(
    clippy::cast_precision_loss,
    reason = "exact below 2^53 ms, 285,000 years"
)]
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_millis() as f64
}

/// Returns the milliseconds since 1970; 0 for a time before.
pub fn since_epoch(time: SystemTime) -> f64 {
    milliseconds(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

/// Reads a number of milliseconds or a `Date`. Any other value is read as the epoch.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates"
)]
pub fn time(value: &JsValue) -> SystemTime {
    let milliseconds = value
        .dyn_ref::<js_sys::Date>()
        .map(js_sys::Date::get_time)
        .or_else(|| value.as_f64())
        .unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds.max(0.0) as u64)
}

/// Returns a property of an object, or `undefined` if there is none.
pub fn property(object: &JsValue, name: &str) -> JsValue {
    js_sys::Reflect::get(object, &JsValue::from_str(name)).unwrap_or(JsValue::UNDEFINED)
}

/// Sets a property of an object that this crate made, which cannot fail.
pub(super) fn set(object: &JsValue, name: &str, value: &JsValue) {
    let _ = js_sys::Reflect::set(object, &name.into(), value);
}

/// Returns the message of a thrown value, its first 16 Ki characters at most. A value that is neither an
/// error nor a string has none: it can be of any size and depth, and is not printed.
pub fn message(thrown: &JsValue) -> String {
    const LONGEST: u32 = 16 * 1024;
    let text = match property(thrown, "message").dyn_into::<js_sys::JsString>() {
        Ok(message) => message,
        Err(_) => match thrown.dyn_ref::<js_sys::JsString>() {
            Some(text) => text.clone(),
            None => return "the value that was thrown is not an error".to_owned(),
        },
    };
    match text.length() > LONGEST {
        true => text.slice(0, LONGEST).into(),
        false => text.into(),
    }
}

/// Converts an error that the platform threw. The thrown object is kept, to be thrown again.
pub(super) fn step_error(thrown: JsValue) -> StepError {
    let mut name = property(&thrown, "name").as_string().unwrap_or_default();
    let mut message = message(&thrown);
    // An error that crossed an RPC has its name in front of its message.
    for known in [NON_RETRYABLE, DELAY, TIMEOUT, FATAL] {
        if let Some(rest) = message.strip_prefix(known)
            && let Some(rest) = rest.strip_prefix(": ")
        {
            (name, message) = (known.to_owned(), rest.to_owned());
        }
    }
    // The engine tells its errors apart by these names and messages, and so do its tests. An error that
    // was stored has lost its name.
    let kind = if message.contains(PAUSE) {
        StepErrorKind::Suspended
    } else if [NON_RETRYABLE, DELAY].contains(&name.as_str())
        || message.starts_with(NON_RETRYABLE)
        || message.starts_with("The delay function for step")
    {
        StepErrorKind::NonRetryable
    } else if name == TIMEOUT || message.starts_with("Execution timed out after") {
        StepErrorKind::TimedOut
    } else if is_reset(&thrown, &message) {
        StepErrorKind::Reset
    } else if name == FATAL || REFUSALS.iter().any(|text| message.contains(text)) {
        StepErrorKind::Invalid
    } else {
        StepErrorKind::Failed
    };
    StepError::with_kind(kind, message).with_thrown(Rc::new(thrown))
}

const NON_RETRYABLE: &str = "NonRetryableError";
/// The name of the error of a delay function that failed. The engine does not retry the step.
const DELAY: &str = "NonRetryableDelayError";
const TIMEOUT: &str = "WorkflowTimeoutError";
/// The name of the error with which the engine refuses a step.
const FATAL: &str = "WorkflowFatalError";

/// The message with which the engine ends a lifetime in order, after it has stored everything.
const PAUSE: &str = "Aborting engine: User called pause";

/// Other messages for a step that the engine refuses, or whose result it cannot store.
const REFUSALS: [&str; 5] = [
    "exceeds max length",
    "is in a invalid format",
    "requires a callback function",
    "steps has been reached",
    "output is too large",
];

/// Parts of the platform's messages when the engine is reset or the connection to it is lost: the errors
/// of Durable Objects that its documentation lists, the reasons with which the engine ends itself, and the
/// errors of remote calls and of this isolate when the other side is gone. A termination is among them:
/// the instance's status tells whether the run is over.
const RESETS: [&str; 20] = [
    "Aborting engine:",
    "Durable Object reset",
    "Durable Object was reset",
    "Durable Object is overloaded",
    "caused object to be reset",
    "Cannot resolve Durable Object",
    "object has moved to a different machine",
    "code has been updated, this version can no longer access storage",
    "exceeded its memory limit and was reset",
    "exceeded its CPU time limit and was reset",
    "exceeded memory limit",
    "generating too much load on Durable Objects",
    "Network connection lost",
    "code had hung",
    "Cannot invoke closure from previous WASM instance",
    "execution context which hosted this",
    "execution context responding to this call",
    "execution context is no longer running",
    "RPC session was",
    "RPC stub used after being disposed",
];

/// Returns whether the platform ended this lifetime of the run. Its own errors have flags that say so.
/// When code has caught such an error and thrown another, only the words are left.
fn is_reset(thrown: &JsValue, message: &str) -> bool {
    let flags = ["durableObjectReset", "retryable", "overloaded"];
    thrown.is_object() && flags.iter().any(|flag| property(thrown, flag).is_truthy())
        || RESETS.iter().any(|text| message.contains(text))
}

/// Returns the value to throw for an error: the same object, if it came from the platform.
pub(super) fn throw(error: StepError) -> JsValue {
    if let Some(thrown) = error
        .thrown()
        .and_then(|thrown| thrown.downcast_ref::<JsValue>())
    {
        return thrown.clone();
    }
    let kind = error.kind();
    let thrown = js_sys::Error::new(error.message());
    if kind == StepErrorKind::NonRetryable {
        // The platform recognises `NonRetryableError` of `cloudflare:workflows` by its name.
        thrown.set_name(NON_RETRYABLE);
    } else if let Some(source) = error.into_source()
        && let Ok(error) = source.downcast::<worker::Error>()
    {
        return JsValue::from(*error);
    }
    thrown.into()
}
