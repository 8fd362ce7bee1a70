//! Cloudflare Workers: the events of workflows in a Durable Object, served as SSE.
//!
//! The only folder of this crate that knows of JavaScript. Raw bindings are in `js`; everything
//! else gives them types, and hands what there is to decide to pure code: here, and in
//! [`workflow`](crate::workflow).
//!
//! | files | where they run |
//! |---|---|
//! | `events`, `route`, `serve`, `serve_instance`, `serve_log`, `cors`, `socket`, `leaving` | in the Worker that answers a viewer, or whose code creates, restarts or ends instances |
//! | `events` (`ObjectFactLog`) | in the engine's calls of a workflow's `run` |
//! | `object`, `log`, `command`, `packed`, `settle`, `sql`, `hibernation`, `relay`, `remote_log`, `response` | in the object |
//! | `fan_out`, `credit`, `hibernating`, `log`, `command`, `packed` | pure, and tested natively |
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

// Pure, and tested natively.
pub(crate) mod command;
#[cfg(any(test, feature = "cloudflare"))]
mod credit;
#[doc(hidden)] // For tests; `FanOut` is what users set.
pub mod fan_out;
#[cfg(any(test, feature = "cloudflare"))]
mod hibernating;
pub(crate) mod object;
pub(crate) mod packed;

#[cfg(feature = "cloudflare")]
mod callback;
#[cfg(feature = "cloudflare")]
mod hop;
#[cfg(feature = "cloudflare")]
mod instance_end;
#[cfg(feature = "cloudflare")]
mod js;
#[cfg(feature = "cloudflare")]
mod leaving;
#[cfg(all(feature = "cloudflare", feature = "redis", target_family = "wasm"))]
mod redis;
#[cfg(feature = "cloudflare")]
mod refuse;
#[cfg(feature = "cloudflare")]
mod request;
#[cfg(feature = "cloudflare")]
mod response;
#[cfg(feature = "cloudflare")]
mod sql;
#[cfg(feature = "cloudflare")]
mod worker;

#[doc(inline)]
pub use self::fan_out::FanOut;
#[cfg(feature = "cloudflare")]
#[doc(inline)]
pub use self::{
    object::WorkflowEventsConfig,
    response::{sse_frame_response, sse_response},
    sql::{ObjectSql, ObjectSqlError},
    worker::{
        InstanceSse, ObjectFactLog, SseRoute, Transport, WorkflowEventsNamespace, WorkflowRunStep,
        serve_instance_sse, serve_log, serve_sse,
    },
};

/// What the export macros expand to. Not part of the public API.
#[cfg(feature = "cloudflare")]
#[doc(hidden)]
pub mod __private {
    pub use super::object::WorkflowEventsObject;
    pub use cloudflare_workflows::__private::{
        extend_durable_object, js_sys, pastey, wasm_bindgen, wasm_bindgen_futures, worker,
    };
}
