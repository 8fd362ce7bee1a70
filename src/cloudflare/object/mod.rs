//! Runs in the `WorkflowEvents` object: the log of one instance, and those who watch it.
//!
//! `class` has the methods that the runtime and the Worker call. `events_object` does what they ask for, with
//! the log, the hibernating streams and the tree of relays; `alarm` does what is due later. `log`, `obey` and
//! `due` are pure, and are tested natively.

#[cfg(all(feature = "otlp", any(test, feature = "cloudflare")))]
mod due;
pub(crate) mod log;
mod obey;

#[cfg(feature = "cloudflare")]
mod alarm;
#[cfg(feature = "cloudflare")]
mod class;
#[cfg(feature = "cloudflare")]
mod config;
#[cfg(feature = "cloudflare")]
mod crowd;
#[cfg(feature = "cloudflare")]
mod cutoff;
#[cfg(feature = "cloudflare")]
mod error;
#[cfg(feature = "cloudflare")]
mod events_object;
#[cfg(feature = "cloudflare")]
mod follower;
#[cfg(feature = "cloudflare")]
mod frame_page;
#[cfg(feature = "cloudflare")]
mod hibernation;
#[cfg(all(feature = "cloudflare", feature = "otlp"))]
mod otlp;
#[cfg(feature = "cloudflare")]
mod relay;
#[cfg(feature = "cloudflare")]
mod remote_log;
#[cfg(feature = "cloudflare")]
mod revoked;
#[cfg(feature = "cloudflare")]
mod settle;
#[cfg(feature = "cloudflare")]
mod snapshot;

#[cfg(feature = "cloudflare")]
pub use self::{class::WorkflowEventsObject, config::WorkflowEventsConfig};
