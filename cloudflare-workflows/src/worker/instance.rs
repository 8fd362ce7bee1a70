//! An instance of a workflow: its status, and the methods that control it.

use std::fmt;

use js_sys::Object;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;

use super::convert::{from_js, property, set, to_js};
use super::error::{WorkflowError, unreadable, unwritable};
use super::js::{JsWorkflow, JsWorkflowInstance};
use crate::border::CannotCross;
use crate::instance::event::InstanceError;
use crate::step::kind::StepKind;

/// An instance of a workflow.
#[derive(Clone, Debug)]
pub struct WorkflowInstance {
    pub(super) workflow: JsWorkflow,
    pub(super) instance: JsWorkflowInstance,
}

impl WorkflowInstance {
    /// Wraps an instance of `workflow`.
    pub(super) fn new(workflow: &JsWorkflow, instance: JsValue) -> Self {
        Self {
            workflow: workflow.clone(),
            instance: instance.unchecked_into(),
        }
    }

    /// Returns the instance's id.
    #[must_use]
    pub fn id(&self) -> String {
        property(&self.instance, "id")
            .as_string()
            .unwrap_or_default()
    }

    /// Returns the instance's status.
    ///
    /// # Errors
    /// When the platform fails; [`Value`](crate::WorkflowErrorKind::Value) when the output is not an `O`.
    pub async fn status<O: DeserializeOwned>(&self) -> Result<InstanceStatus<O>, WorkflowError> {
        self.status_with(from_js).await
    }

    /// Returns the instance's status without reading the output, which may be of any type.
    #[doc(hidden)] // For the crate `ssetarget`.
    pub async fn status_without_output(&self) -> Result<InstanceStatus<()>, WorkflowError> {
        self.status_with(|_| Ok(())).await
    }

    async fn status_with<O>(
        &self,
        output_from: impl FnOnce(&JsValue) -> Result<O, CannotCross>,
    ) -> Result<InstanceStatus<O>, WorkflowError> {
        let status = self.instance.status().await?;
        let name = property(&status, "status").as_string().unwrap_or_default();
        let output = property(&status, "output");
        let error = property(&status, "error");
        let unreadable = unreadable("the instance's status");
        let state = InstanceState::from_name(&name);
        Ok(InstanceStatus {
            state,
            output: match state {
                InstanceState::Complete => Some(output_from(&output).map_err(&unreadable)?),
                _ => None,
            },
            // Not by `from_js`: what serde makes for it would be several KB of every Worker.
            error: error.is_object().then(|| InstanceError {
                name: property(&error, "name").as_string().unwrap_or_default(),
                message: property(&error, "message").as_string().unwrap_or_default(),
            }),
        })
    }

    /// Sends an event, which [`wait_for_event`](crate::Step::wait_for_event) waits for.
    ///
    /// # Errors
    /// [`Value`](crate::WorkflowErrorKind::Value) when the payload cannot be sent; another kind when the
    /// platform refuses the event, for example because the instance has ended.
    pub async fn send_event<T: Serialize + ?Sized>(
        &self,
        event_type: &str,
        payload: &T,
    ) -> Result<(), WorkflowError> {
        let payload = to_js(payload).map_err(unwritable("the payload"))?;
        self.send_event_js(event_type, &payload).await
    }

    /// Sends an event whose payload is a JavaScript value.
    ///
    /// # Errors
    /// As [`send_event`](Self::send_event).
    pub async fn send_event_js(
        &self,
        event_type: &str,
        payload: &JsValue,
    ) -> Result<(), WorkflowError> {
        let event = Object::new();
        set(&event, "type", &event_type.into());
        set(&event, "payload", payload);
        self.instance.send_event(&event).await?;
        Ok(())
    }

    /// Pauses the instance. The step that is under way ends first.
    ///
    /// # Errors
    /// When the platform refuses.
    pub async fn pause(&self) -> Result<(), WorkflowError> {
        self.instance.pause().await?;
        Ok(())
    }

    /// Resumes a paused instance.
    ///
    /// # Errors
    /// When the platform refuses.
    pub async fn resume(&self) -> Result<(), WorkflowError> {
        self.instance.resume().await?;
        Ok(())
    }

    /// Restarts the instance from the beginning, with the same id and params. If it is running, it is
    /// ended first.
    ///
    /// # Errors
    /// When the platform refuses.
    pub async fn restart(&self) -> Result<(), WorkflowError> {
        self.instance.restart(&JsValue::UNDEFINED).await?;
        Ok(())
    }

    /// Restarts the instance from `step` on. Steps that began before it keep their results; it and the
    /// steps that began after it run again.
    ///
    /// # Errors
    /// [`CannotRestart`](crate::WorkflowErrorKind::CannotRestart) if no such step has begun.
    pub async fn restart_from(&self, step: RestartFrom) -> Result<(), WorkflowError> {
        #[derive(Serialize)]
        struct Options {
            from: RestartFrom,
        }

        let options = to_js(&Options { from: step }).map_err(unwritable("the step"))?;
        self.instance.restart(&options).await?;
        Ok(())
    }

    /// Terminates the instance, without rollbacks. The workflow's code does not run any more, so it
    /// cannot report the end itself.
    ///
    /// # Errors
    /// [`CannotTerminate`](crate::WorkflowErrorKind::CannotTerminate) if it has ended.
    pub async fn terminate(&self) -> Result<(), WorkflowError> {
        self.terminate_with(TerminateOptions::new()).await
    }

    /// Terminates the instance as [`terminate`](Self::terminate) does, with options.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub async fn terminate_with(&self, options: TerminateOptions) -> Result<(), WorkflowError> {
        let options = to_js(&options).map_err(unwritable("the options"))?;
        self.instance.terminate(&options).await?;
        Ok(())
    }

    /// Deletes the instance and everything that the platform stores of it. If it is running, it is ended
    /// first.
    ///
    /// # Errors
    /// [`NotFound`](crate::WorkflowErrorKind::NotFound) if it was deleted before.
    pub async fn delete(&self) -> Result<(), WorkflowError> {
        self.instance.delete().await?;
        Ok(())
    }

    /// Returns the JavaScript object, for methods that have no binding here.
    #[must_use]
    pub fn as_js(&self) -> &JsValue {
        &self.instance
    }
}

/// The options of a termination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TerminateOptions {
    /// Whether the rollbacks of the steps that have begun run: see
    /// [`StepFuture::rollback`](crate::StepFuture::rollback). Default: `false`.
    ///
    /// If the engine is not in memory, since the instance sleeps or is paused, the platform runs the
    /// workflow once more to get the rollbacks, without running steps. It skips sleeps that have not
    /// ended, without a sign of it: viewers may see that such a sleep has ended, and that the step after
    /// it has begun.
    pub rollback: bool,
}

impl TerminateOptions {
    /// Returns the defaults: no rollback.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether the rollbacks run. Default: `false`.
    #[must_use]
    pub fn rollback(mut self, rollback: bool) -> Self {
        self.rollback = rollback;
        self
    }
}

/// A step that has begun, from which an instance is restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RestartFrom {
    /// The step's name.
    pub name: String,
    /// The number of the step among the steps of its name and type, from 1.
    pub count: u32,
    /// The step's type. `None`: the platform's default, a step that runs code.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub step_type: Option<StepKind>,
}

impl RestartFrom {
    /// Returns the first step of this name, of the platform's default type.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            count: 1,
            step_type: None,
        }
    }

    /// Sets the number of the step among the steps of its name, from 1. Default: 1.
    #[must_use]
    pub fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// Sets the step's type, for a name that steps of several types have.
    #[must_use]
    pub fn step_type(mut self, step_type: StepKind) -> Self {
        self.step_type = Some(step_type);
        self
    }
}

/// The status of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstanceStatus<O> {
    /// The state of the run.
    pub state: InstanceState,
    /// The result of the run, if it is complete.
    pub output: Option<O>,
    /// The error of the run, if it is errored.
    pub error: Option<InstanceError>,
}

/// The state of an instance.
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
    /// Returns whether the run is over: complete, errored or terminated.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Complete | Self::Errored | Self::Terminated)
    }

    /// Returns the platform's name for it, such as `waitingForPause`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Errored => "errored",
            Self::Terminated => "terminated",
            Self::Complete => "complete",
            Self::Waiting => "waiting",
            Self::WaitingForPause => "waitingForPause",
            Self::RollingBack => "rollingBack",
            Self::Unknown => "unknown",
        }
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

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
