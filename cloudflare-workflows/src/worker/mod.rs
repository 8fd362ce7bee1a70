//! The bindings to the platform: the only folder of this crate that knows JavaScript.
//!
//! `js` has the raw bindings; the other files give them types. `entrypoint`, `step` and `stream` run in the
//! engine's calls of a workflow's `run`; `workflow`, `instance`, `create`, `batch` and `subscribe` run
//! wherever a Worker uses the binding; `convert`, `error`, `life` and `runtime` serve both.
//!
//! Build the Worker with `worker-build --release --panic-unwind`, so that a panic fails one attempt or one
//! request. Without it a panic anywhere in the Worker ends every object and every open stream of the
//! isolate.

mod answer;
mod batch;
mod convert;
mod create;
mod entrypoint;
mod error;
mod instance;
pub(crate) mod js;
mod life;
mod runtime;
mod step;
mod stream;
mod subscribe;
mod workflow;

pub use batch::{
    BatchCreateError, BatchCreateOptions, BatchCreated, BatchDeleteError, BatchDeleted,
};
pub use create::{CreateOptions, LocationHint, Retention};
pub use entrypoint::{CronSchedule, RefusedRun, WorkflowEntrypoint, WorkflowEvent};
pub use error::{WorkflowError, WorkflowErrorKind};
pub use instance::{
    InstanceState, InstanceStatus, RestartFrom, TerminateOptions, WorkflowInstance,
};
pub use runtime::WorkersRuntime;
pub use step::WorkflowStep;
pub(crate) use step::{Callback, delay_callback, rollback_options};
pub use subscribe::WorkflowSubscription;
pub use workflow::Workflow;

// For the export macro, and for the crate `ssetarget`: see `crate::__private`.
pub use convert::{message, milliseconds, property, since_epoch, time};
pub use entrypoint::WorkflowObject;
pub use life::{
    Guard, Held, extend_durable_object, extend_workflow_entrypoint, hold_sockets, now_or_promise,
    promise,
};
pub use runtime::{Timer, Timers, here, sleep};
pub use subscribe::{Payloads, PlatformEvents, PlatformLog};
