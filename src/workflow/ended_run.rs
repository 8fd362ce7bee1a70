//! The platform's own log of a run that has ended, limited to what reconciliation needs.
//!
//! These are not [`WorkflowInstanceEvent`](cloudflare_workflows::WorkflowInstanceEvent)s: reading those would bring
//! every type of the platform's events into the Worker, half as much again as all its other code.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::{
    Runtime, StepName, SubscribeOptions, WorkflowInstanceEventType as Type,
};
use futures_util::future::{Either, select};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock;

/// An event of the platform's own log: its type, its subject, and no payload.
///
/// Its JSON is an array: the type, the milliseconds since 1970, the step as the platform names it, the attempt, the
/// error's message. Fields that an event of the type does not have are empty or 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineEvent {
    /// The type of the event.
    pub event_type: Type,
    /// The time of the event, to the millisecond.
    pub timestamp: SystemTime,
    /// The step. Its name is empty if the event is about the run.
    pub step: StepName,
    /// The number of the attempt, from 1; 0 if the event is not about an attempt.
    pub attempt: u32,
    /// The message of the error; empty if there is none.
    pub error: String,
}

impl EngineEvent {
    /// Returns whether the log ends with this event.
    pub(crate) fn is_terminal(&self) -> bool {
        Type::TERMINAL.contains(&self.event_type)
    }
}

impl Serialize for EngineEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let milliseconds = clock::milliseconds(self.timestamp);
        let step = self.step.to_string();
        let event_type = self.event_type.as_str();
        (event_type, milliseconds, step, self.attempt, &self.error).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EngineEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (event_type, milliseconds, step, attempt, error) =
            <(String, u64, String, u32, String)>::deserialize(deserializer)?;
        let event_type = Type::from_name(&event_type)
            .ok_or_else(|| serde::de::Error::custom("an unknown type of event"))?;
        Ok(Self {
            event_type,
            timestamp: clock::from_milliseconds(milliseconds),
            step: StepName::from(step.as_str()),
            attempt,
            error,
        })
    }
}

/// An open subscription to the platform's own log of an instance. Dropping it ends it.
#[allow(async_fn_in_trait, reason = "workflows live on one thread")]
pub trait EngineEvents {
    /// Waits for the next event, and returns its JSON: see [`EngineEvent`]. `None` when the subscription is
    /// over, and when it fails.
    async fn next_json(&mut self) -> Option<String>;
}

/// Returns the options of the subscription for [`read_ended_run`]: the events that reconciliation reads.
pub fn ended_run_options() -> SubscribeOptions {
    SubscribeOptions::new().filter(EVENT_TYPES.iter().copied())
}

/// Reads what `WorkflowLog::settle` needs from the platform's own log of an instance whose run has
/// ended: the ends of the run and of its steps, without params and outputs.
///
/// Returns all of these events or none. It returns none if the log fails, does not come to its end
/// within 5 seconds, or has more than 2,000 of these events or more than 512 KiB of them as JSON.
/// Then the run is settled by its status alone. The subscription is closed when this returns.
pub async fn read_ended_run<E: EngineEvents>(
    subscribe: impl Future<Output = Option<E>>,
    runtime: &impl Runtime,
) -> Vec<EngineEvent> {
    let timeout = pin!(runtime.sleep(READ_TIMEOUT));
    match select(pin!(read_to_end(subscribe)), timeout).await {
        Either::Left((events, _)) => events.unwrap_or_default(),
        Either::Right(_) => Vec::new(),
    }
}

const READ_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_EVENTS: usize = 2_000;
/// The events go to an object in one call, whose limit is above 1 MiB.
const MAX_BYTES: usize = 512 * 1024;

async fn read_to_end<E: EngineEvents>(
    subscribe: impl Future<Output = Option<E>>,
) -> Option<Vec<EngineEvent>> {
    let mut subscription = subscribe.await?;
    let (mut events, mut bytes) = (Vec::new(), 0);
    loop {
        // If the terminal event is missing, the engine has ended and not the run.
        let json = subscription.next_json().await?;
        bytes += json.len();
        let event: EngineEvent = serde_json::from_str(&json).ok()?;
        let ended = event.is_terminal();
        events.push(event);
        if events.len() > MAX_EVENTS || bytes > MAX_BYTES {
            return None;
        }
        if ended {
            return Some(events);
        }
    }
}

/// The types of the platform's events that reconciliation reads.
const EVENT_TYPES: &[Type] = &[
    Type::WorkflowQueued,
    Type::WorkflowStarted,
    Type::WorkflowRunning,
    Type::WorkflowCompleted,
    Type::WorkflowErrored,
    Type::WorkflowTerminated,
    Type::StepCompleted,
    Type::StepErrored,
    Type::AttemptStarted,
    Type::AttemptErrored,
    Type::SleepStarted,
    Type::SleepCompleted,
    Type::WaitCompleted,
    Type::WaitTimedOut,
];
