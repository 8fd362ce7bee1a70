//! The error of the binding.

use std::fmt;

use wasm_bindgen::prelude::*;

use super::convert::message;
use crate::border::CannotCross;

/// An error of the binding: a call that the platform refused, or a value that cannot cross.
#[derive(Clone, Debug)]
pub struct WorkflowError {
    kind: WorkflowErrorKind,
    message: String,
}

/// The reason of a [`WorkflowError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkflowErrorKind {
    /// The Worker has no such Workflow binding.
    Binding,
    /// There is no instance with this id.
    NotFound,
    /// There is an instance with this id already.
    AlreadyExists,
    /// The id is not one that an instance can have.
    InvalidId,
    /// The id comes twice in a batch.
    DuplicateInBatch,
    /// Options other than the id are invalid.
    InvalidOptions,
    /// The instance has ended and cannot be terminated.
    CannotTerminate,
    /// The instance cannot be restarted from this step, since no such step has begun.
    CannotRestart,
    /// The instance was restarted while it was watched, and its log begins again: see
    /// [`WorkflowInstance::subscribe`](crate::WorkflowInstance::subscribe).
    Restarted,
    /// A value cannot cross between Rust and JavaScript: it is not of the expected type, or it is too
    /// large, too deep or not exact in JavaScript, as
    /// [`StepOutput`](crate::StepOutput) says.
    Value,
    /// Another reason: see the message.
    Other,
}

impl WorkflowError {
    #[doc(hidden)] // For the crate `ssetarget`.
    #[must_use]
    pub fn new(kind: WorkflowErrorKind, message: String) -> Self {
        Self { kind, message }
    }

    /// Returns the reason.
    #[must_use]
    pub fn kind(&self) -> WorkflowErrorKind {
        self.kind
    }

    /// Returns whether there is no instance with this id.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == WorkflowErrorKind::NotFound
    }

    /// Returns whether there is an instance with this id already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.kind == WorkflowErrorKind::AlreadyExists
    }
}

impl WorkflowErrorKind {
    /// Finds the kind by the code in the message, the only place where the platform's errors have one.
    pub(super) fn of(message: &str) -> Self {
        [
            ("instance.not_found", Self::NotFound),
            ("instance.already_exists", Self::AlreadyExists),
            ("already exists", Self::AlreadyExists),
            ("instance.duplicate_in_batch", Self::DuplicateInBatch),
            ("instance.invalid_id", Self::InvalidId),
            ("invalid id", Self::InvalidId),
            ("instance.cannot_terminate", Self::CannotTerminate),
            ("instance.cannot_restart", Self::CannotRestart),
            ("(body)", Self::InvalidOptions),
        ]
        .into_iter()
        .find_map(|(code, kind)| message.contains(code).then_some(kind))
        .unwrap_or(Self::Other)
    }
}

impl From<JsValue> for WorkflowError {
    fn from(thrown: JsValue) -> Self {
        let message = message(&thrown);
        Self::new(WorkflowErrorKind::of(&message), message)
    }
}

pub(super) fn unreadable(what: &'static str) -> impl Fn(CannotCross) -> WorkflowError {
    move |error| {
        let message = format!("{what} cannot be read: {error}");
        WorkflowError::new(WorkflowErrorKind::Value, message)
    }
}

pub(super) fn unwritable(what: &'static str) -> impl Fn(CannotCross) -> WorkflowError {
    move |error| {
        let message = format!("{what} cannot be sent: {error}");
        WorkflowError::new(WorkflowErrorKind::Value, message)
    }
}

impl fmt::Display for WorkflowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for WorkflowError {}

impl From<WorkflowError> for worker::Error {
    fn from(error: WorkflowError) -> Self {
        Self::RustError(error.message)
    }
}
