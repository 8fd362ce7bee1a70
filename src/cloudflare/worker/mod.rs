//! Runs in the Worker: code that answers viewers, manages instances, and runs workflows.
//!
//! A viewer's request goes one way: `run_routes` or the Worker's own router → `serve` → `route` → `namespace` →
//! the object. An event of a workflow goes through `watched_run` → `fact_log` → `namespace` → the object.

mod asked;
mod cors;
mod fact_log;
mod instance_id;
mod lifecycle;
#[cfg(feature = "links")]
mod link_keys;
mod namespace;
#[cfg(not(feature = "relays"))]
#[path = "no_route.rs"]
mod route;
#[cfg(feature = "relays")]
mod route;
mod routes;
mod run_routes;
mod serve;
mod serve_instance;
mod serve_log;
mod serve_merged;
#[cfg(feature = "otlp")]
mod serve_otlp;
#[cfg(feature = "snapshots")]
mod serve_snapshot;
#[cfg(feature = "index")]
mod serve_tagged;
mod settle;
#[cfg(feature = "hibernation")]
mod socket;
mod transport;
mod watched_run;

#[cfg(feature = "index")]
pub(super) use self::{asked::Asked, cors::with_own_headers};

pub use self::fact_log::{ObjectFactLog, ObjectFactLogError, ObjectFactLogErrorKind};
pub use self::namespace::WorkflowEventsNamespace;
pub use self::routes::Answers;
pub use self::run_routes::RunRoutes;
pub use self::serve::serve_sse;
pub use self::serve_instance::{InstanceSse, serve_instance_sse};
pub use self::serve_log::serve_log;
pub use self::serve_merged::serve_merged;
#[cfg(feature = "otlp")]
pub use self::serve_otlp::serve_otlp;
#[cfg(feature = "snapshots")]
pub use self::serve_snapshot::serve_snapshot;
#[cfg(feature = "index")]
pub use self::serve_tagged::serve_tagged;
pub use self::transport::Transport;
pub use self::watched_run::{WatchedRun, WorkflowRunStep};
