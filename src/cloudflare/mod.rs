//! Cloudflare Workers: Workflows in Rust, their events in a Durable Object, served as SSE.
//!
//! The only folder that knows of JavaScript. Raw bindings are in `js`; everything else gives
//! them types, and hands what there is to decide to the pure [`workflow`](crate::workflow) module.
//!
//! On native targets it compiles and nothing more, so that a crate with workflows can be checked, and its
//! logic tested with [`workflow::testing`](crate::workflow): there is no JavaScript to call, and what
//! calls it panics and says so. A test that needs it needs the real runtime.
//!
//! Build the Worker with `worker-build --release --panic-unwind`, so that a panic costs one
//! attempt or one request. Without it a panic anywhere in the Worker ends every object and every
//! open stream of the isolate.
//!
//! What ends a whole WebAssembly instance all the same (a stack overflow, memory, an exception through an
//! import that does not catch it) cuts off all its streams at once, so that clients come back, fails
//! the attempts of steps, which the engine retries, and lets runs go on in the next instance.

mod binding;
mod convert;
mod cors;
mod create;
mod entrypoint;
mod events;
mod hibernation;
mod js;
mod leaving;
mod life;
mod object;
#[cfg(all(feature = "redis", target_family = "wasm"))]
mod redis;
mod relay;
mod remote_log;
mod response;
mod route;
mod runtime;
mod serve;
mod serve_instance;
mod serve_log;
mod settle;
mod socket;
mod sql;
mod step;
mod stream;
mod subscribe;

#[doc(no_inline)]
pub use crate::fan_out::FanOut;
#[doc(no_inline)]
pub use crate::workflow::InstanceError;
pub use binding::{
    InstanceState, InstanceStatus, RestartFrom, StepType, TerminateOptions, Workflow,
    WorkflowError, WorkflowErrorKind, WorkflowInstance,
};
pub use create::{
    BatchCreateError, BatchCreateOptions, BatchCreated, BatchDeleteError, BatchDeleted,
    CreateOptions, LocationHint, Retention,
};
pub use entrypoint::{CronSchedule, WorkflowEntrypoint, WorkflowEvent};
pub use events::{ObjectFactLog, WorkflowEventsNamespace, WorkflowRunStep};
pub use object::WorkflowEventsConfig;
pub use response::{sse_frame_response, sse_response};
pub use runtime::WorkersRuntime;
pub use serve::{SseRoute, Transport, serve_sse};
pub use serve_instance::{InstanceSse, serve_instance_sse};
pub use serve_log::serve_log;
pub use sql::{ObjectSql, ObjectSqlError};
pub use step::WorkflowStep;
pub use subscribe::WorkflowSubscription;

/// What the export macros expand to. Not part of the public API.
#[doc(hidden)]
pub mod __private {
    pub use super::entrypoint::WorkflowObject;
    pub use super::life::{extend_durable_object, extend_workflow_entrypoint};
    pub use super::object::WorkflowEventsObject;
    pub use ::js_sys;
    pub use ::pastey;
    pub use ::wasm_bindgen;
    pub use ::wasm_bindgen_futures;
    pub use ::worker;
}
