//! The progress of a workflow as events: pure, and tested natively.
//!
//! Workflow code outside its steps runs again in every lifetime of the engine (after a sleep, a
//! crash, a deploy). Everything here is therefore derived from stable names: the same step gives
//! the same [`TaskId`] and the same fact key in every lifetime, and a log keeps each fact once.

pub(crate) mod border;
mod command;
mod config;
mod context;
mod dispatch;
mod duration;
mod error;
mod event_step;
mod instance_event;
mod instance_feed;
mod instance_log;
mod log;
mod output;
mod packed;
mod panic;
mod reconcile;
mod rollback;
mod step;
mod step_event;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
mod view;

pub use command::{InstanceEnd, LogAnswer, LogCommand};
pub use config::{
    Backoff, DelayContext, DelayFunction, ResolvedConfig, ResolvedRetries, Retries, RetryDelay,
    RollbackConfig, Sensitivity, StepConfig,
};
pub use context::{Progress, Reporter, StepContext};
pub use dispatch::{BatchedDispatch, DispatchConfig, FactLog, Opened, OpenedRun, Runtime, Told};
pub use duration::{InvalidDuration, WorkflowDuration};
pub use error::{NonRetryableError, StepError, StepErrorKind};
pub use event_step::{
    Dispatch, Fact, Flush, StepInfo, WorkflowEventStep, workflow_ended, workflow_started,
};
pub use instance_event::{
    InstanceError, StepName, SubscribeOptions, WorkflowInstanceEvent, WorkflowInstanceEventData,
    WorkflowInstanceEventType,
};
pub use instance_feed::{InstanceFeed, InstanceFeedItem, InstanceLogIds};
pub use instance_log::{Followed, InstanceEvents, InstanceFollower, InstanceLog};
pub use log::{Announced, LogState, WorkflowLog, WorkflowLogError};
pub use output::{ByteStream, JsonCodec, JsonOutput, OutputCodec, StepOutput};
pub use packed::{InvalidBatch, pack_facts};
pub use panic::catch_panic;
pub use reconcile::read_ended_run;
pub use rollback::{Rollback, RollbackContext};
pub use step::{DoStep, Step, StepCallback, StepFuture, WaitForEvent, WaitedEvent};
pub use step_event::{MAX_ATTRIBUTES, MAX_TEXT, StepEvent, StepEventType};
pub use task::{Kind, TaskId};
pub use view::{FailedAttempt, RollbackView, RunState, RunView, TaskState, TaskView};

// For the tracer, whose spans are tasks too.
pub(crate) use step_event::report_key;
pub(crate) use task::{Form, Task, TaskCounter};
