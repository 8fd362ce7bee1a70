//! The events of the platform's own log of an instance, which `subscribe()` returns.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::ids::InstanceEventId;
use super::json::{milliseconds, milliseconds_option, milliseconds_since_epoch};
use super::names::StepName;
use crate::step::resolved::ResolvedConfig;

/// An event of the platform's own log of an instance. Its JSON is the `WorkflowInstanceEvent` of
/// Cloudflare's types.
///
/// ```
/// use cloudflare_workflows::{WorkflowInstanceEvent, WorkflowInstanceEventData as Data};
///
/// let event: WorkflowInstanceEvent = serde_json::from_str(
///     r#"{"instanceId":"a","eventId":7,"timestamp":1795444674907,
///         "type":"attempt_started","stepName":"charge card-2","attempt":1}"#,
/// )?;
/// let Data::AttemptStarted { step_name, attempt: 1 } = &event.data else { panic!() };
/// assert_eq!((step_name.name(), step_name.count()), ("charge card", 2));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", remote = "Self")]
#[non_exhaustive]
pub struct WorkflowInstanceEvent {
    /// The instance's id.
    pub instance_id: String,
    /// The event's position in the log, which is also the cursor that continues after it. A restart of
    /// the instance begins a new log, which numbers its events from 1 again.
    pub event_id: InstanceEventId,
    /// The time of the event, to the millisecond.
    #[serde(with = "milliseconds_since_epoch")]
    pub timestamp: SystemTime,
    /// The type of the event and its fields.
    #[serde(flatten)]
    pub data: WorkflowInstanceEventData,
}

impl Serialize for WorkflowInstanceEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The derived function.
        Self::serialize(self, serializer)
    }
}

/// Reads a `Value` first: where some crate has switched on `serde_json/arbitrary_precision`, tagged and
/// flattened types can be read from a `Value` only.
impl<'de> Deserialize<'de> for WorkflowInstanceEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::deserialize(value).map_err(serde::de::Error::custom)
    }
}

/// The type of an event of an instance, and its fields.
///
/// The platform's `stepName` is a [`StepName`] here, and its milliseconds are [`Duration`]s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum WorkflowInstanceEventData {
    /// The instance waits to be started.
    WorkflowQueued,
    /// A run begins.
    WorkflowStarted {
        /// The params that the instance was created with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        params: Option<Value>,
    },
    /// The workflow's code runs, for the first time or again.
    WorkflowRunning,
    /// The instance is paused.
    WorkflowPaused,
    /// The instance ends the steps that are under way, and then is paused.
    WorkflowWaitingForPause,
    /// The instance sleeps or waits, and is not in memory.
    WorkflowWaiting,
    /// The run ended well. Terminal.
    WorkflowCompleted {
        /// The result.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Value>,
    },
    /// The run failed. Terminal.
    WorkflowErrored {
        /// The error.
        error: InstanceError,
    },
    /// The run was terminated from outside. Terminal.
    WorkflowTerminated,
    /// A `do` step begins.
    StepStarted {
        /// The step.
        step_name: StepName,
        /// The step's config, with the platform's defaults filled in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<ResolvedConfig>,
    },
    /// A `do` step ended well.
    StepCompleted {
        /// The step.
        step_name: StepName,
        /// The result; `"[REDACTED]"` if it is sensitive, and `None` if it is a stream of bytes, which
        /// is not read here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Value>,
    },
    /// A `do` step failed for good.
    StepErrored {
        /// The step.
        step_name: StepName,
    },
    /// An attempt of a `do` step begins.
    AttemptStarted {
        /// The step.
        step_name: StepName,
        /// The number of the attempt, from 1.
        attempt: u32,
    },
    /// An attempt of a `do` step ended well.
    AttemptCompleted {
        /// The step.
        step_name: StepName,
        /// The number of the attempt, from 1.
        attempt: u32,
    },
    /// An attempt of a `do` step failed.
    AttemptErrored {
        /// The step.
        step_name: StepName,
        /// The number of the attempt, from 1.
        attempt: u32,
        /// The time until the next attempt, `None` if this was the last.
        #[serde(
            rename = "retryDelayMs",
            default,
            skip_serializing_if = "Option::is_none",
            with = "milliseconds_option"
        )]
        retry_delay: Option<Duration>,
        /// The error.
        error: InstanceError,
    },
    /// A sleep begins, either kind.
    SleepStarted {
        /// The step.
        step_name: StepName,
        /// The length of the sleep.
        #[serde(rename = "durationMs", with = "milliseconds")]
        duration: Duration,
    },
    /// A sleep ended.
    SleepCompleted {
        /// The step.
        step_name: StepName,
    },
    /// A wait for an event from outside begins.
    WaitStarted {
        /// The step.
        step_name: StepName,
        /// The type of the event that is waited for.
        event_type: String,
    },
    /// The event came.
    WaitCompleted {
        /// The wait.
        step_name: StepName,
    },
    /// The event did not come in time.
    WaitTimedOut {
        /// The wait.
        step_name: StepName,
    },
    /// The run failed or is terminated. Its rollback handlers run, the latest step's first.
    RollbackStarted,
    /// A step's rollback handler begins.
    RollbackStepStarted {
        /// The step.
        step_name: StepName,
        /// The handler's config, with the platform's defaults filled in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<ResolvedConfig>,
    },
    /// A step's rollback handler ended well.
    RollbackStepCompleted {
        /// The step.
        step_name: StepName,
    },
    /// A step's rollback handler failed for good.
    RollbackStepErrored {
        /// The step.
        step_name: StepName,
        /// The error.
        error: InstanceError,
    },
    /// An attempt of a rollback handler begins.
    RollbackAttemptStarted {
        /// The step.
        step_name: StepName,
        /// The number of the attempt, from 1.
        attempt: u32,
    },
    /// An attempt of a rollback handler ended well.
    RollbackAttemptCompleted {
        /// The step.
        step_name: StepName,
        /// The number of the attempt, from 1.
        attempt: u32,
    },
    /// An attempt of a rollback handler failed.
    RollbackAttemptErrored {
        /// The step.
        step_name: StepName,
        /// The number of the attempt, from 1.
        attempt: u32,
        /// The time until the next attempt, `None` if this was the last.
        #[serde(
            rename = "retryDelayMs",
            default,
            skip_serializing_if = "Option::is_none",
            with = "milliseconds_option"
        )]
        retry_delay: Option<Duration>,
        /// The error.
        error: InstanceError,
    },
    /// All rollback handlers ended well.
    RollbackCompleted,
    /// A rollback handler failed, and the rollback ends.
    RollbackErrored,
    /// An event that this version of the crate does not know, by its type or by its fields: all fields
    /// as they came, except for `instanceId`, `eventId` and `timestamp`.
    #[serde(untagged)]
    Unknown(Map<String, Value>),
}

use WorkflowInstanceEventData as Data;

impl WorkflowInstanceEvent {
    /// Returns whether the log ends with this event: the run completed, errored or was terminated.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(
            self.data,
            Data::WorkflowCompleted { .. }
                | Data::WorkflowErrored { .. }
                | Data::WorkflowTerminated
        )
    }

    /// Returns the step of the event, `None` for an event that is not about a step.
    #[must_use]
    pub fn step_name(&self) -> Option<&StepName> {
        match &self.data {
            Data::StepStarted { step_name, .. }
            | Data::StepCompleted { step_name, .. }
            | Data::StepErrored { step_name }
            | Data::AttemptStarted { step_name, .. }
            | Data::AttemptCompleted { step_name, .. }
            | Data::AttemptErrored { step_name, .. }
            | Data::SleepStarted { step_name, .. }
            | Data::SleepCompleted { step_name }
            | Data::WaitStarted { step_name, .. }
            | Data::WaitCompleted { step_name }
            | Data::WaitTimedOut { step_name }
            | Data::RollbackStepStarted { step_name, .. }
            | Data::RollbackStepCompleted { step_name }
            | Data::RollbackStepErrored { step_name, .. }
            | Data::RollbackAttemptStarted { step_name, .. }
            | Data::RollbackAttemptCompleted { step_name, .. }
            | Data::RollbackAttemptErrored { step_name, .. } => Some(step_name),
            _ => None,
        }
    }

    /// Removes params and outputs from the event. An unknown event keeps `type`, `stepName` and
    /// `attempt`, and nothing else.
    #[must_use]
    pub fn redacted(mut self) -> Self {
        match &mut self.data {
            Data::WorkflowStarted { params: value }
            | Data::WorkflowCompleted { output: value }
            | Data::StepCompleted { output: value, .. } => *value = None,
            Data::Unknown(raw) => {
                raw.retain(|name, _| ["type", "stepName", "attempt"].contains(&name.as_str()));
            }
            _ => {}
        }
        self
    }
}

/// The error of an instance or of an attempt of a step, without a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceError {
    /// The error's name, such as `Error` or `NonRetryableError`.
    #[serde(default)]
    pub name: String,
    /// The error's message.
    #[serde(default)]
    pub message: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::instance::event_type::WorkflowInstanceEventType;

    /// One event of each type, as the platform writes it.
    fn samples() -> Vec<Value> {
        let config = json!({
            "retries": { "limit": 5, "delay": 1000, "backoff": "exponential" },
            "timeout": "10 minutes",
        });
        let error = json!({ "name": "Error", "message": "no" });
        let events = [
            json!({ "type": "workflow_queued" }),
            json!({ "type": "workflow_started", "params": { "a": [1, null] } }),
            json!({ "type": "workflow_running" }),
            json!({ "type": "workflow_paused" }),
            json!({ "type": "workflow_waiting_for_pause" }),
            json!({ "type": "workflow_waiting" }),
            json!({ "type": "workflow_completed", "output": "done" }),
            json!({ "type": "workflow_errored", "error": error }),
            json!({ "type": "workflow_terminated" }),
            json!({ "type": "step_started", "stepName": "a-b-12", "config": config }),
            json!({ "type": "step_completed", "stepName": "a-1", "output": 7 }),
            json!({ "type": "step_errored", "stepName": "a-1" }),
            json!({ "type": "attempt_started", "stepName": "a-1", "attempt": 1 }),
            json!({ "type": "attempt_completed", "stepName": "a-1", "attempt": 2 }),
            json!({ "type": "attempt_errored", "stepName": "a-1", "attempt": 1, "retryDelayMs": 200, "error": error }),
            json!({ "type": "sleep_started", "stepName": "s-1", "durationMs": 86_400_000 }),
            json!({ "type": "sleep_completed", "stepName": "s-1" }),
            json!({ "type": "wait_started", "stepName": "w-1", "eventType": "go" }),
            json!({ "type": "wait_completed", "stepName": "w-1" }),
            json!({ "type": "wait_timed_out", "stepName": "w-1" }),
            json!({ "type": "rollback_started" }),
            json!({ "type": "rollback_step_started", "stepName": "a-1", "config": config }),
            json!({ "type": "rollback_step_completed", "stepName": "a-1" }),
            json!({ "type": "rollback_step_errored", "stepName": "a-1", "error": error }),
            json!({ "type": "rollback_attempt_started", "stepName": "a-1", "attempt": 1 }),
            json!({ "type": "rollback_attempt_completed", "stepName": "a-1", "attempt": 1 }),
            json!({ "type": "rollback_attempt_errored", "stepName": "a-1", "attempt": 1, "error": error }),
            json!({ "type": "rollback_completed" }),
            json!({ "type": "rollback_errored" }),
        ];
        let number = |(index, mut event): (usize, Value)| {
            event["instanceId"] = "order-1".into();
            event["eventId"] = (index + 1).into();
            event["timestamp"] = 1_795_444_674_907_u64.into();
            event
        };
        events.into_iter().enumerate().map(number).collect()
    }

    #[test]
    fn every_type_is_known_and_written_as_it_was_read() {
        let samples = samples();
        let mut types = Vec::new();
        for sample in samples {
            let event: WorkflowInstanceEvent = serde_json::from_value(sample.clone()).unwrap();
            assert_eq!(event.event_type(), sample["type"]);
            types.push(WorkflowInstanceEventType::of(&event.data).unwrap());
            assert_eq!(serde_json::to_value(&event).unwrap(), sample);
            let terminal = [
                "workflow_completed",
                "workflow_errored",
                "workflow_terminated",
            ];
            assert_eq!(event.is_terminal(), terminal.contains(&event.event_type()));
            let step = sample
                .get("stepName")
                .map(|name| name.as_str().unwrap().to_owned());
            assert_eq!(event.step_name().map(ToString::to_string), step);
        }
        assert_eq!(types, WorkflowInstanceEventType::ALL);
        for known in types {
            assert_eq!(
                WorkflowInstanceEventType::from_name(known.as_str()),
                Some(known)
            );
        }
        assert_eq!(WorkflowInstanceEventType::from_name("internal"), None);
    }

    #[test]
    fn fields_have_types() {
        let read = |index: usize| -> WorkflowInstanceEvent {
            serde_json::from_value(samples()[index - 1].clone()).unwrap()
        };
        let started = read(10);
        assert_eq!(
            started.timestamp,
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_444_674_907)
        );
        assert_eq!(started.event_id.get(), 10);
        let Data::StepStarted { step_name, config } = started.data else {
            panic!("{started:?}")
        };
        assert_eq!(step_name, StepName::new("a-b", 12));
        assert_eq!(config.unwrap(), ResolvedConfig::default());
        let Data::AttemptErrored { retry_delay, .. } = read(15).data else {
            panic!()
        };
        assert_eq!(retry_delay, Some(Duration::from_millis(200)));
        let config = json!({
            "retries": { "limit": null, "delay": "[dynamic]", "backoff": "constant" },
            "timeout": 500,
            "sensitive": "output",
        });
        let config: ResolvedConfig = serde_json::from_value(config).unwrap();
        assert_eq!(
            (config.retries.limit, config.retries.delay),
            (u32::MAX, None)
        );
        assert_eq!(config.sensitive, Some(crate::Sensitivity::Output));
        let Data::SleepStarted { duration, .. } = read(16).data else {
            panic!()
        };
        assert_eq!(duration, Duration::from_secs(86_400));
    }

    #[test]
    fn unknown_events_are_kept() {
        let common = |mut event: Value| {
            event["instanceId"] = "a".into();
            event["eventId"] = 1.into();
            event["timestamp"] = 0.into();
            event
        };
        for unknown in [
            common(json!({ "type": "workflow_dreamt", "of": ["sheep"], "stepName": "a-1" })),
            // A known type without what it must have.
            common(json!({ "type": "sleep_started", "stepName": "s-1" })),
        ] {
            let event: WorkflowInstanceEvent = serde_json::from_value(unknown.clone()).unwrap();
            assert!(matches!(event.data, Data::Unknown(_)), "{event:?}");
            assert_eq!(event.event_type(), unknown["type"]);
            assert_eq!(serde_json::to_value(&event).unwrap(), unknown);
        }
        let secret = common(json!({ "type": "new", "stepName": "a-1", "output": "secret" }));
        let event: WorkflowInstanceEvent = serde_json::from_value(secret).unwrap();
        assert_eq!(
            serde_json::to_value(event.redacted()).unwrap(),
            common(json!({ "type": "new", "stepName": "a-1" }))
        );
        // Without the common fields it is not an event.
        for bad in [json!({ "type": "workflow_queued" }), json!(5)] {
            assert!(serde_json::from_value::<WorkflowInstanceEvent>(bad).is_err());
        }
    }

    #[test]
    fn a_stack_is_not_kept_and_payloads_can_be_left_out() {
        let error = json!({ "name": "E", "message": "no", "stack": "E: no\n at x.js:1" });
        let mut errored = samples()[7].clone();
        errored["error"] = error;
        let event: WorkflowInstanceEvent = serde_json::from_value(errored).unwrap();
        assert!(!serde_json::to_string(&event).unwrap().contains("x.js"));
        for sample in samples() {
            let event: WorkflowInstanceEvent = serde_json::from_value(sample).unwrap();
            let redacted = serde_json::to_value(event.redacted()).unwrap();
            assert!(redacted.get("params").is_none() && redacted.get("output").is_none());
        }
    }
}
