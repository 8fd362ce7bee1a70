//! The progress of a workflow as events. Pure code, tested natively; in production it runs inside
//! the engine's calls of the workflow's `run`.
//!
//! Workflow code outside its steps runs again in every lifetime of the engine (after a sleep, a
//! crash, a deploy). Everything here is therefore derived from stable names: the same step gives
//! the same [`TaskId`](crate::task::TaskId) and the same fact key in every lifetime, and a log
//! keeps each fact once.

mod dispatch;
pub(crate) mod ended_run;
mod estimate;
mod event_step;
mod feed;
mod known_run;
mod reconcile;
mod snapshot;
#[cfg(any(feature = "http", feature = "snapshots"))]
pub(crate) mod snapshot_cache;
mod view;

pub use dispatch::{BatchedDispatch, DispatchConfig, FactLog, Opened, OpenedRun, Rivals, Told};
pub use estimate::{Estimate, Remains, RunEstimate};
pub use event_step::{
    Asked, Dispatch, Fact, Flush, StepInfo, WorkflowEventStep, workflow_ended, workflow_started,
};
pub use feed::{InstanceFeed, InstanceFeedItem, InstanceLogIds};
pub(crate) use known_run::KnownRun;
pub(crate) use reconcile::{RUN_FAILED, Reconciled, reconcile};
pub use snapshot::{MAX_DEPTH, RunSnapshot};
pub use view::{FailedAttempt, RollbackView, RunState, RunView, TaskState, TaskView};
