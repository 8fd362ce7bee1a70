//! Cloudflare Workflows in Rust.
//!
//! A workflow is a type that implements `WorkflowEntrypoint`; its steps are made with a [`Step`].
//! The result of a step is stored, so a run that is interrupted goes on where it was.
//!
//! | folder | contents | where it runs |
//! |---|---|---|
//! | `step` | [`Step`], configs, durations, errors, outputs, rollbacks | anywhere: pure |
//! | `instance` | the platform's own log of an instance: its events, and a reader that survives the engine's restarts | anywhere: pure |
//! | `testing` | a fake engine for native tests (feature `testing`) | in tests |
//! | `worker` | the bindings (feature `worker`) | in a Worker, and in the engine's calls of `run` |
//!
//! The module `guide` of the documentation takes you from the TypeScript docs of Workflows to Rust.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `testing` | no | the module `testing`: workflows run natively on a fake engine whose clock does not wait |
//! | `worker` | no | the bindings to the platform, for wasm targets; on native targets it can only be compiled |

// The pure part has no unsafe code; only the generated bindings need it.
#![cfg_attr(not(feature = "worker"), forbid(unsafe_code))]

mod border;
// Its examples need the features that they are about.
#[cfg(any(
    all(doc, not(doctest)),
    all(doctest, feature = "testing", feature = "worker")
))]
#[doc = include_str!("../docs/guide.md")]
pub mod guide {}
mod instance;
mod runtime;
mod step;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "worker")]
mod worker;

pub use instance::event::{InstanceError, WorkflowInstanceEvent, WorkflowInstanceEventData};
pub use instance::event_type::WorkflowInstanceEventType;
pub use instance::follow::{Followed, InstanceEvents, InstanceFollower, InstanceLog};
pub use instance::ids::InstanceEventId;
pub use instance::names::StepName;
pub use instance::options::SubscribeOptions;
pub use runtime::Runtime;
pub use step::config::{
    DelayContext, DelayFunction, Retries, RetryDelay, RollbackConfig, StepConfig,
};
pub use step::context::{Progress, Reporter, StepContext};
pub use step::duration::{InvalidDuration, WorkflowDuration};
pub use step::error::{NonRetryableError, StepError, StepErrorKind};
pub use step::kind::StepKind;
pub use step::output::{ByteStream, JsonCodec, JsonOutput, OutputCodec, StepOutput};
pub use step::panic::catch_panic;
pub use step::resolved::{Backoff, ResolvedConfig, ResolvedRetries, Sensitivity};
pub use step::rollback::{Rollback, RollbackContext};
pub use step::{DoStep, Step, StepCallback, StepFuture, WaitForEvent, WaitedEvent};
#[cfg(feature = "worker")]
pub use worker::{
    BatchCreateError, BatchCreateOptions, BatchCreated, BatchDeleteError, BatchDeleted,
    CreateOptions, CronSchedule, InstanceState, InstanceStatus, LocationHint, RefusedRun,
    RestartFrom, Retention, TerminateOptions, WorkersRuntime, Workflow, WorkflowEntrypoint,
    WorkflowError, WorkflowErrorKind, WorkflowEvent, WorkflowInstance, WorkflowStep,
    WorkflowSubscription,
};

/// Items that the export macro and the crate `ssetarget` use. Not part
/// of the public API.
#[doc(hidden)]
pub mod __private {
    pub use crate::border::check_output;
    pub use crate::instance::follow::{at_once, find, first_running};
    #[cfg(feature = "worker")]
    pub use crate::worker::{
        Guard, Held, Payloads, PlatformEvents, PlatformLog, Timer, Timers, WorkflowObject,
        extend_durable_object, extend_workflow_entrypoint, here, hold_sockets, message,
        milliseconds, property, since_epoch, sleep, time,
    };
    /// The raw bindings, and promises that end with the instance.
    #[cfg(feature = "worker")]
    pub mod js {
        pub use crate::worker::js::*;
        pub use crate::worker::{now_or_promise, promise};
    }
    #[cfg(feature = "worker")]
    pub use {::js_sys, ::pastey, ::wasm_bindgen, ::wasm_bindgen_futures, ::worker};
}
