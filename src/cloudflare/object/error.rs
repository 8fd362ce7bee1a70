//! Errors of the log as JavaScript's and the `worker` crate's. Runs in the object.

use wasm_bindgen::prelude::*;

use super::log::WorkflowLogError;
use crate::cloudflare::sql::ObjectSqlError;

/// The result of what an object does. An error is JavaScript's, to which it comes in the end: it is one word, and nothing
/// of it has to be dropped, which is less code wherever it may occur than the many kinds of a `worker::Error`.
pub(super) type JsResult<T> = Result<T, JsValue>;

pub(super) fn to_js(error: impl Into<WorkflowLogError<ObjectSqlError>>) -> JsValue {
    error_of(error.into())
}

/// Compiled once.
fn error_of(error: WorkflowLogError<ObjectSqlError>) -> JsValue {
    js_sys::Error::new(&cloudflare_workflows::StepError::from(error).to_string()).into()
}

/// For code that shows errors to developers.
#[cfg(any(
    feature = "durable-streams",
    feature = "index",
    feature = "otlp",
    feature = "snapshots"
))]
pub(super) fn to_worker(error: impl Into<WorkflowLogError<ObjectSqlError>>) -> worker::Error {
    worker::Error::RustError(cloudflare_workflows::__private::message(&to_js(error)))
}
