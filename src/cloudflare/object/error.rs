//! Errors of the log as JavaScript's and the `worker` crate's. Runs in the object.

use cloudflare_workflows::__private::message;
use wasm_bindgen::prelude::*;

use super::log::WorkflowLogError;
use crate::cloudflare::sql::ObjectSqlError;

pub(super) fn to_js(error: WorkflowLogError<ObjectSqlError>) -> JsValue {
    js_sys::Error::new(&cloudflare_workflows::StepError::from(error).to_string()).into()
}

pub(super) fn to_worker(error: impl Into<WorkflowLogError<ObjectSqlError>>) -> worker::Error {
    worker::Error::RustError(message(&to_js(error.into())))
}
