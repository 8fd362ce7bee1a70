//! The Workflow binding: creating instances and talking to them.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;
use worker::Env;

use super::convert::{from_js, message, property, to_js};
use super::js::{JsWorkflow, JsWorkflowInstance};

/// A Workflow binding: `[[workflows]]` in `wrangler.toml`.
#[derive(Clone, Debug)]
pub struct Workflow {
    workflow: JsWorkflow,
}

impl Workflow {
    /// The binding of this name.
    ///
    /// # Errors
    /// When there is none, or it is of another kind, with a message that says what to write into
    /// `wrangler.toml`.
    pub fn from_env(env: &Env, binding: &str) -> Result<Self, WorkflowError> {
        let value = property(env, binding);
        // By shape: the name of its class differs between runtimes.
        let is_workflow = ["create", "get"]
            .iter()
            .all(|method| property(&value, method).is_function());
        if !is_workflow {
            let found = if value.is_undefined() {
                "no binding"
            } else {
                "another kind of binding"
            };
            return Err(WorkflowError {
                kind: WorkflowErrorKind::Binding,
                message: format!(
                    "there is {found} {binding:?} where a Workflow is expected: add [[workflows]] \
                     with binding = {binding:?}, a name and a class_name to wrangler.toml"
                ),
            });
        }
        Ok(Self {
            workflow: value.unchecked_into(),
        })
    }

    /// Creates an instance, which starts to run.
    ///
    /// # Errors
    /// [`AlreadyExists`](WorkflowErrorKind::AlreadyExists) if there is an instance with this id;
    /// [`InvalidId`](WorkflowErrorKind::InvalidId); [`Other`](WorkflowErrorKind::Other) else.
    pub async fn create(&self, options: CreateOptions) -> Result<WorkflowInstance, WorkflowError> {
        let created = self.workflow.create(&options.options).await?;
        Ok(WorkflowInstance {
            instance: created.unchecked_into(),
        })
    }

    /// The instance with this id.
    ///
    /// # Errors
    /// [`NotFound`](WorkflowErrorKind::NotFound) if there is none.
    pub async fn get(&self, id: &str) -> Result<WorkflowInstance, WorkflowError> {
        let instance = self.workflow.get(id).await?;
        Ok(WorkflowInstance {
            instance: instance.unchecked_into(),
        })
    }
}

/// What an instance is created with.
///
/// Default: an id that the platform makes up, and `{}` as params.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    options: js_sys::Object,
}

impl CreateOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            options: js_sys::Object::new(),
        }
    }

    /// With this id: up to 100 letters, digits, `-` and `_`, the first no `-`.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        self.set("id", &id.into())
    }

    /// With these params.
    ///
    /// # Errors
    /// When they cannot be written as a JavaScript value.
    pub fn params<T: Serialize + ?Sized>(self, params: &T) -> Result<Self, WorkflowError> {
        let params = to_js(params).map_err(|error| WorkflowError {
            kind: WorkflowErrorKind::Other,
            message: format!("the params cannot be written: {error}"),
        })?;
        Ok(self.set("params", &params))
    }

    /// With a JavaScript value as params.
    #[must_use]
    pub fn params_js(self, params: &JsValue) -> Self {
        self.set("params", params)
    }

    fn set(self, name: &str, value: &JsValue) -> Self {
        // A plain object of our own takes any property.
        let _ = js_sys::Reflect::set(&self.options, &name.into(), value);
        self
    }
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// An instance of a workflow.
#[derive(Clone, Debug)]
pub struct WorkflowInstance {
    instance: JsWorkflowInstance,
}

impl WorkflowInstance {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> String {
        property(&self.instance, "id")
            .as_string()
            .unwrap_or_default()
    }

    /// How it is.
    ///
    /// # Errors
    /// When the platform fails, or the output is not an `O`.
    pub async fn status<O: DeserializeOwned>(&self) -> Result<InstanceStatus<O>, WorkflowError> {
        let status = self.instance.status().await?;
        let name = property(&status, "status").as_string().unwrap_or_default();
        let output = property(&status, "output");
        let error = property(&status, "error");
        let unreadable = |error: serde_wasm_bindgen::Error| WorkflowError {
            kind: WorkflowErrorKind::Other,
            message: format!("the instance's status cannot be read: {error}"),
        };
        let state = InstanceState::from_name(&name);
        Ok(InstanceStatus {
            state,
            output: match state {
                InstanceState::Complete => Some(from_js(output).map_err(unreadable)?),
                _ => None,
            },
            error: (!error.is_undefined() && !error.is_null())
                .then(|| from_js(error))
                .transpose()
                .map_err(unreadable)?,
        })
    }

    /// Sends an event, for [`wait_for_event`](crate::workflow::Step::wait_for_event).
    ///
    /// # Errors
    /// When the platform refuses it, for example because the instance has ended.
    pub async fn send_event<T: Serialize + ?Sized>(
        &self,
        event_type: &str,
        payload: &T,
    ) -> Result<(), WorkflowError> {
        let payload = to_js(payload).map_err(|error| WorkflowError {
            kind: WorkflowErrorKind::Other,
            message: format!("the payload cannot be written: {error}"),
        })?;
        self.send_event_js(event_type, &payload).await
    }

    /// Sends an event with a JavaScript value as payload.
    ///
    /// # Errors
    /// As [`send_event`](Self::send_event).
    pub async fn send_event_js(
        &self,
        event_type: &str,
        payload: &JsValue,
    ) -> Result<(), WorkflowError> {
        let event = CreateOptions::new()
            .set("type", &event_type.into())
            .set("payload", payload);
        self.instance.send_event(&event.options).await?;
        Ok(())
    }

    /// Pauses it: the step under way ends first.
    ///
    /// # Errors
    /// When the platform refuses.
    pub async fn pause(&self) -> Result<(), WorkflowError> {
        self.instance.pause().await?;
        Ok(())
    }

    /// Lets a paused instance go on.
    ///
    /// # Errors
    /// When the platform refuses.
    pub async fn resume(&self) -> Result<(), WorkflowError> {
        self.instance.resume().await?;
        Ok(())
    }

    /// Starts it again from the beginning, with the same id and params.
    ///
    /// # Errors
    /// When the platform refuses.
    pub async fn restart(&self) -> Result<(), WorkflowError> {
        self.instance.restart().await?;
        Ok(())
    }

    /// Ends it. No terminal event is dispatched: the workflow's code does not run any more.
    ///
    /// # Errors
    /// When the platform refuses.
    pub async fn terminate(&self) -> Result<(), WorkflowError> {
        self.instance.terminate().await?;
        Ok(())
    }

    /// The JavaScript object, for what has no binding here.
    #[must_use]
    pub fn as_js(&self) -> &JsValue {
        &self.instance
    }
}

/// How an instance is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstanceStatus<O> {
    /// Where it stands.
    pub state: InstanceState,
    /// What it returned, if complete.
    pub output: Option<O>,
    /// Why it failed, if errored.
    pub error: Option<InstanceError>,
}

/// Why an instance failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceError {
    /// The error's name, such as `Error` or `NonRetryableError`.
    #[serde(default)]
    pub name: String,
    /// The error's message.
    #[serde(default)]
    pub message: String,
}

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
#[allow(missing_docs, reason = "the platform's own words")]
pub enum InstanceState {
    Queued,
    Running,
    Paused,
    Errored,
    Terminated,
    Complete,
    Waiting,
    WaitingForPause,
    RollingBack,
    Unknown,
}

impl InstanceState {
    /// Whether its run is over: complete, errored or terminated.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Complete | Self::Errored | Self::Terminated)
    }

    fn from_name(name: &str) -> Self {
        match name {
            "queued" => Self::Queued,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "errored" => Self::Errored,
            "terminated" => Self::Terminated,
            "complete" => Self::Complete,
            "waiting" => Self::Waiting,
            "waitingForPause" => Self::WaitingForPause,
            "rollingBack" => Self::RollingBack,
            _ => Self::Unknown,
        }
    }
}

/// What the platform refused.
#[derive(Clone, Debug)]
pub struct WorkflowError {
    kind: WorkflowErrorKind,
    message: String,
}

/// Why the platform refused.
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
    /// Something else: see the message.
    Other,
}

impl WorkflowError {
    /// Why.
    #[must_use]
    pub fn kind(&self) -> WorkflowErrorKind {
        self.kind
    }

    /// Whether there is no instance with this id.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == WorkflowErrorKind::NotFound
    }

    /// Whether there is an instance with this id already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.kind == WorkflowErrorKind::AlreadyExists
    }
}

impl From<JsValue> for WorkflowError {
    fn from(thrown: JsValue) -> Self {
        let message = message(&thrown);
        // The platform's errors have codes in their messages and nothing else.
        let kind = if message.contains("instance.not_found") {
            WorkflowErrorKind::NotFound
        } else if message.contains("instance.already_exists") || message.contains("already exists")
        {
            WorkflowErrorKind::AlreadyExists
        } else if message.contains("invalid id") || message.contains("instance.invalid_id") {
            WorkflowErrorKind::InvalidId
        } else {
            WorkflowErrorKind::Other
        };
        Self { kind, message }
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
