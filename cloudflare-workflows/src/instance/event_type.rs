//! The types of the platform's events, for filters.

use serde_json::Value;

use super::event::{WorkflowInstanceEvent, WorkflowInstanceEventData};

impl WorkflowInstanceEvent {
    /// Returns the event's `type`, such as `step_started`; `""` for an unknown event without one.
    #[must_use]
    pub fn event_type(&self) -> &str {
        match &self.data {
            WorkflowInstanceEventData::Unknown(raw) => {
                raw.get("type").and_then(Value::as_str).unwrap_or_default()
            }
            known => WorkflowInstanceEventType::of(known).map_or("", |known| known.as_str()),
        }
    }
}

macro_rules! event_types {
    ($($(#[$pattern:meta])? $variant:ident = $name:literal,)*) => {
        /// The `type` of a [`WorkflowInstanceEvent`](crate::WorkflowInstanceEvent), for filters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "as those of WorkflowInstanceEventData")]
        pub enum WorkflowInstanceEventType {
            $($variant,)*
        }

        impl WorkflowInstanceEventType {
            /// Every type.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the platform's name for it, such as `step_started`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Returns the type of an event, `None` for an unknown one.
            #[must_use]
            pub fn of(data: &WorkflowInstanceEventData) -> Option<Self> {
                match data {
                    $(WorkflowInstanceEventData::$variant { .. } => Some(Self::$variant),)*
                    WorkflowInstanceEventData::Unknown(_) => None,
                }
            }
        }
    };
}

event_types! {
    WorkflowQueued = "workflow_queued",
    WorkflowStarted = "workflow_started",
    WorkflowRunning = "workflow_running",
    WorkflowPaused = "workflow_paused",
    WorkflowWaitingForPause = "workflow_waiting_for_pause",
    WorkflowWaiting = "workflow_waiting",
    WorkflowCompleted = "workflow_completed",
    WorkflowErrored = "workflow_errored",
    WorkflowTerminated = "workflow_terminated",
    StepStarted = "step_started",
    StepCompleted = "step_completed",
    StepErrored = "step_errored",
    AttemptStarted = "attempt_started",
    AttemptCompleted = "attempt_completed",
    AttemptErrored = "attempt_errored",
    SleepStarted = "sleep_started",
    SleepCompleted = "sleep_completed",
    WaitStarted = "wait_started",
    WaitCompleted = "wait_completed",
    WaitTimedOut = "wait_timed_out",
    RollbackStarted = "rollback_started",
    RollbackStepStarted = "rollback_step_started",
    RollbackStepCompleted = "rollback_step_completed",
    RollbackStepErrored = "rollback_step_errored",
    RollbackAttemptStarted = "rollback_attempt_started",
    RollbackAttemptCompleted = "rollback_attempt_completed",
    RollbackAttemptErrored = "rollback_attempt_errored",
    RollbackCompleted = "rollback_completed",
    RollbackErrored = "rollback_errored",
}

impl WorkflowInstanceEventType {
    /// The types of the events that end a log.
    pub const TERMINAL: [Self; 3] = [
        Self::WorkflowCompleted,
        Self::WorkflowErrored,
        Self::WorkflowTerminated,
    ];

    /// Returns the type of this name, `None` for an unknown name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|known| known.as_str() == name)
    }
}
