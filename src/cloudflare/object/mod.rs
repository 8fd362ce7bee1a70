//! Runs in the `WorkflowEvents` object: the log of one instance, and its viewers.
//!
//! `class` has the methods that the runtime and the Worker call. `events_object` carries them out, with the log, the
//! hibernating streams and the tree of relays; `alarm` does work that is due later. `log`, `lifetimes`, `obey` and `due` are pure,
//! and are tested natively.

#[cfg(any(
    all(feature = "otlp", any(test, feature = "cloudflare")),
    feature = "index"
))]
#[cfg_attr(not(feature = "otlp"), allow(dead_code))]
mod due;
mod lifetimes;
pub(crate) mod log;
mod obey;

#[cfg(feature = "cloudflare")]
mod alarm;
#[cfg(feature = "cloudflare")]
mod alarm_time;
#[cfg(feature = "cloudflare")]
mod class;
#[cfg(feature = "cloudflare")]
mod config;
#[cfg(feature = "relays")]
mod crowd;
#[cfg(feature = "cloudflare")]
#[cfg(all(feature = "cloudflare", feature = "durable-streams"))]
mod durable_streams;
#[cfg(feature = "cloudflare")]
mod error;
#[cfg(feature = "cloudflare")]
mod events_object;
#[cfg(all(feature = "cloudflare", feature = "otlp"))]
mod exports;
#[cfg(feature = "relays")]
mod follower;
#[cfg(feature = "relays")]
mod frame_page;
#[cfg(feature = "hibernation")]
mod hibernation;
#[cfg(all(feature = "cloudflare", not(feature = "hibernation")))]
#[path = "no_hibernation.rs"]
mod hibernation;
#[cfg(feature = "index")]
mod index;
#[cfg(feature = "index")]
mod indexing;
#[cfg(all(feature = "cloudflare", feature = "otlp"))]
mod otlp;
#[cfg(all(feature = "cloudflare", not(feature = "relays")))]
#[path = "no_relay.rs"]
mod relay;
#[cfg(feature = "relays")]
mod relay;
#[cfg(feature = "relays")]
mod remote_log;
#[cfg(all(feature = "cloudflare", not(feature = "links")))]
#[path = "no_revoked.rs"]
mod revoked;
#[cfg(all(feature = "cloudflare", feature = "links"))]
mod revoked;
#[cfg(feature = "cloudflare")]
mod settle;
#[cfg(all(feature = "cloudflare", not(feature = "snapshots")))]
#[path = "no_snapshot.rs"]
mod snapshot;
#[cfg(feature = "snapshots")]
mod snapshot;
#[cfg(feature = "cloudflare")]
mod stored;
#[cfg(feature = "cloudflare")]
mod watched;

#[cfg(feature = "cloudflare")]
pub use self::{class::WorkflowEventsObject, config::WorkflowEventsConfig};
