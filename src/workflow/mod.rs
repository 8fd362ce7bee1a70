//! The progress of a workflow as events: pure, and tested natively.
//!
//! Workflow code outside its steps runs again in every lifetime of the engine (after a sleep, a
//! crash, a deploy). Everything here is therefore derived from stable names: the same step gives
//! the same [`TaskId`] and the same fact key in every lifetime, and a log keeps each fact once.

mod dispatch;
mod error;
mod event_step;
mod log;
mod panic;
mod step;
mod step_event;
mod task;

pub use dispatch::{BatchedDispatch, DispatchConfig, FactLog, OpenedRun, Runtime};
pub use error::{NonRetryableError, StepError, StepErrorKind};
pub use event_step::{Dispatch, Fact, Flush, StepInfo, WorkflowEventStep, workflow_started};
pub use log::{WorkflowLog, WorkflowLogError};
pub use panic::catch_panic;
pub use step::{
    Backoff, Progress, Reporter, Retries, Step, StepConfig, StepContext, WaitForEvent, WaitedEvent,
};
pub use step_event::{MAX_ATTRIBUTES, MAX_TEXT, StepEvent, StepEventType};
pub use task::{Kind, TaskId};
