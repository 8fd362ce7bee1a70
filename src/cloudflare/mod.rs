//! Cloudflare Workers: the events of workflows in a Durable Object, served as SSE.
//!
//! A Worker uses four things of this module, and the feature `cloudflare` brings them:
//!
//! - `ssetarget::export_workflow_events!` exports the Durable Object that keeps the logs, one for each instance.
//!   `WorkflowEventsConfig` says how it behaves.
//! - `WorkflowEventsNamespace` is its binding. In a workflow's `run`, `wrap` makes steps dispatch events.
//! - `RunRoutes` serves the runs in the `fetch` handler: their events, and what you switch on. In a router of your own,
//!   `serve_sse` and the other `serve_…` functions do the same for one request each.
//! - `WorkflowEventsNamespace::append` stores events that come from outside of the workflow.
//!   `create`, `restart` and `terminate` manage instances so that their viewers notice.
//!
//! With the feature `index`, `export_run_index!` and `RunIndexNamespace` list the runs of a workflow.
//!
//! On native targets the module compiles and does nothing, so that a crate with workflows can be checked,
//! and its logic tested with `cloudflare_workflows::testing`. There is no JavaScript to call: functions that
//! call it panic with a message that says so. A test that needs JavaScript needs the real runtime.
//!
//! Build the Worker with `worker-build --release --panic-unwind`, so that a panic costs one
//! attempt or one request. Without it a panic anywhere in the Worker ends every object and every
//! open stream of the isolate.
//!
//! A stack overflow, a lack of memory, or an exception through an import that does not catch it still ends a whole
//! WebAssembly instance. Then all its streams are cut off at once, so that clients come back; the attempts of steps
//! fail, and the engine retries them; and runs go on in the next instance.

// Only this folder of the crate calls JavaScript. Raw bindings are in `js`. The other files give them types, and leave
// decisions to pure code: here, and in `crate::workflow`.
//
// | files | where they run |
// |---|---|
// | `worker/` | in the Worker, which answers viewers and creates, restarts and ends instances |
// | `worker/watched_run`, `worker/fact_log` | in the Worker, in the engine's calls of a workflow's `run` |
// | `object/` | in the `WorkflowEvents` object |
// | `request`, `hop`, `admission`, `command`, `opened`, `packed`, `page_parts`, `reported`, `stats` | written in the Worker, read in the object |
// | `refuse`, `response`, `leaving`, `callback`, `instance_end`, `js` | in both |
// | `sql` | in the `WorkflowEvents` object, or in an object of your own |
// | `redis` | in the Worker, or in an object of your own |
// | `command`, `credit`, `fan_out`, `hibernating`, `hop`, `opened`, `packed`, `page_parts`, `pump`, `reported`, `object/log`, `object/lifetimes`, `object/obey` | pure: in the Worker or the object, and in native tests |
//
// `worker/` and `object/` do not import each other. A request goes through `worker/serve`, `worker/route`,
// `worker/namespace`, `object/class`, `object/events_object` and `response`, in this order.

// Pure, and tested natively.
pub(crate) mod command;
#[cfg(any(
    feature = "hibernation",
    not(any(feature = "cloudflare", target_family = "wasm"))
))]
pub(crate) mod credit;
#[doc(hidden)] // For tests; `FanOut` is what users set.
pub mod fan_out;
#[cfg(any(
    feature = "hibernation",
    not(any(feature = "cloudflare", target_family = "wasm"))
))]
pub(crate) mod hibernating;
#[cfg(any(
    feature = "relays",
    not(any(feature = "cloudflare", target_family = "wasm"))
))]
pub(crate) mod hop;
pub(crate) mod object;
#[cfg(any(test, feature = "cloudflare"))]
mod opened;
pub(crate) mod packed;
#[cfg(any(
    feature = "relays",
    not(any(feature = "cloudflare", target_family = "wasm"))
))]
pub(crate) mod page_parts;
#[cfg(any(test, feature = "cloudflare"))]
mod pump;
#[cfg(any(
    feature = "hibernation",
    not(any(feature = "cloudflare", target_family = "wasm"))
))]
pub(crate) mod pushed;
#[cfg(any(
    feature = "index",
    not(any(feature = "cloudflare", target_family = "wasm"))
))]
pub(crate) mod reported;

#[cfg(feature = "relays")]
mod admission;
#[cfg(feature = "cloudflare")]
mod callback;
#[cfg(feature = "cloudflare")]
mod chunks;
#[cfg(feature = "cloudflare")]
mod cutoff;
#[cfg(all(feature = "cloudflare", not(feature = "relays")))]
#[path = "no_hop.rs"]
mod hop;
#[cfg(feature = "index")]
mod index;
#[cfg(feature = "cloudflare")]
mod instance_end;
#[cfg(feature = "cloudflare")]
mod js;
#[cfg(feature = "cloudflare")]
mod leaving;
#[cfg(feature = "cloudflare")]
#[cfg_attr(not(feature = "links"), allow(dead_code))]
mod links;
#[cfg(feature = "cloudflare")]
mod permit;
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
mod stats;
#[cfg(feature = "cloudflare")]
mod worker;

#[doc(inline)]
pub use self::fan_out::FanOut;
#[cfg(feature = "index")]
#[doc(inline)]
pub use self::index::{InvalidTags, RunIndexNamespace, serve_runs, serve_runs_sse};
#[cfg(all(feature = "cloudflare", feature = "otlp"))]
#[doc(inline)]
pub use self::worker::serve_otlp;
#[cfg(feature = "snapshots")]
#[doc(inline)]
pub use self::worker::serve_snapshot;
#[cfg(all(feature = "cloudflare", feature = "index"))]
#[doc(inline)]
pub use self::worker::serve_tagged;
#[cfg(feature = "cloudflare")]
#[doc(inline)]
pub use self::{
    object::WorkflowEventsConfig,
    response::{sse_frame_response, sse_response},
    sql::{ObjectSql, ObjectSqlError},
    stats::LogStats,
    worker::{
        Answers, InstanceSse, ObjectFactLog, ObjectFactLogError, ObjectFactLogErrorKind, RunRoutes,
        Transport, WatchedRun, WorkflowEventsNamespace, WorkflowRunStep, serve_instance_sse,
        serve_log, serve_merged, serve_sse,
    },
};

/// The expansion of the export macros. Not part of the public API.
#[cfg(feature = "cloudflare")]
#[doc(hidden)]
pub mod __private {
    #[cfg(feature = "index")]
    pub use super::index::RunIndexObject;
    pub use super::object::WorkflowEventsObject;
    pub use cloudflare_workflows::__private::{
        extend_durable_object, js_sys, pastey, wasm_bindgen, wasm_bindgen_futures, worker,
    };
}
