//! An instance of a workflow: its status, its events, and what can be done with it.

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
    /// The instance that `workflow` gave.
    pub(super) fn new(workflow: &JsWorkflow, instance: JsValue) -> Self {
        Self {
            workflow: workflow.clone(),
            instance: instance.unchecked_into(),
        }
    }

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
    /// When the platform fails; [`Value`](WorkflowErrorKind::Value) when the output is not an `O`.
    pub async fn status<O: DeserializeOwned>(&self) -> Result<InstanceStatus<O>, WorkflowError> {
        self.status_with(from_js).await
    }

    /// As [`status`](Self::status), of a workflow whose output may be anything: it is not read.
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
            error: (!error.is_undefined() && !error.is_null())
                .then(|| from_js(&error))
                .transpose()
                .map_err(&unreadable)?,
        })
    }

    /// Sends an event, for [`wait_for_event`](crate::Step::wait_for_event).
    ///
    /// # Errors
    /// [`Value`](WorkflowErrorKind::Value) when the payload cannot be sent; else when the platform
    /// refuses it, for example because the instance has ended.
    pub async fn send_event<T: Serialize + ?Sized>(
        &self,
        event_type: &str,
        payload: &T,
    ) -> Result<(), WorkflowError> {
        let payload = to_js(payload).map_err(unwritable("the payload"))?;
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
        let event = Object::new();
        set(&event, "type", &event_type.into());
        set(&event, "payload", payload);
        self.instance.send_event(&event).await?;
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

    /// Starts it again from the beginning, with the same id and params. One that runs is ended
    /// first.
    ///
    /// # Errors
    /// When the platform refuses.
    pub async fn restart(&self) -> Result<(), WorkflowError> {
        self.instance.restart(&JsValue::UNDEFINED).await?;
        Ok(())
    }

    /// Starts it again from this step on: those that began before it keep their results, those
    /// that began after it run again.
    ///
    /// # Errors
    /// [`CannotRestart`](WorkflowErrorKind::CannotRestart) if no such step has begun.
    pub async fn restart_from(&self, step: RestartFrom) -> Result<(), WorkflowError> {
        #[derive(Serialize)]
        struct Options {
            from: RestartFrom,
        }

        let options = to_js(&Options { from: step }).map_err(unwritable("the step"))?;
        self.instance.restart(&options).await?;
        Ok(())
    }

    /// Ends it. No terminal event is dispatched: the workflow's code does not run any more.
    ///
    /// # Errors
    /// [`CannotTerminate`](WorkflowErrorKind::CannotTerminate) if it has ended.
    pub async fn terminate(&self) -> Result<(), WorkflowError> {
        self.terminate_with(TerminateOptions::new()).await
    }

    /// Ends it: see [`terminate`](Self::terminate).
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub async fn terminate_with(&self, options: TerminateOptions) -> Result<(), WorkflowError> {
        let options = to_js(&options).map_err(unwritable("the options"))?;
        self.instance.terminate(&options).await?;
        Ok(())
    }

    /// Deletes it and what is stored of it. One that runs is ended first. The log of its events is
    /// kept for as long as its own retention says.
    ///
    /// # Errors
    /// [`NotFound`](WorkflowErrorKind::NotFound) if it was deleted before.
    pub async fn delete(&self) -> Result<(), WorkflowError> {
        self.instance.delete().await?;
        Ok(())
    }

    /// The JavaScript object, for what has no binding here.
    #[must_use]
    pub fn as_js(&self) -> &JsValue {
        &self.instance
    }
}

/// How an instance is terminated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TerminateOptions {
    /// Whether the steps that have begun are rolled back, those that have a rollback: see
    /// [`StepFuture::rollback`](crate::StepFuture::rollback). Default: not.
    ///
    /// If the engine is not in memory, since the instance sleeps or is paused, the platform runs
    /// the workflow once more to be given the rollbacks, without running steps. It skips sleeps
    /// that have not ended, and does not say so: viewers may be told that one has ended, and that
    /// the step behind it has begun.
    pub rollback: bool,
}

impl TerminateOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With the rollbacks, or without.
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
    /// Its name.
    pub name: String,
    /// Which of that name and type it is, from 1.
    pub count: u32,
    /// Its type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub step_type: Option<StepKind>,
}

impl RestartFrom {
    /// The first step of this name, of the platform's default type.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            count: 1,
            step_type: None,
        }
    }

    /// Which of that name, from 1. Default: the first.
    #[must_use]
    pub fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// Of this type, for a name that steps of several types have.
    #[must_use]
    pub fn step_type(mut self, step_type: StepKind) -> Self {
        self.step_type = Some(step_type);
        self
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

    /// The platform's word for it, such as `waitingForPause`.
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
