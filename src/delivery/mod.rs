//! Delivers events: dispatch into a log, subscribe to it, and read a subscription's events or
//! bytes.

mod body;
mod listen;
mod merge;
mod merged_request;
mod permit;
mod subscription;
mod target;

pub use body::{HEARTBEAT_INTERVAL, body, frame_body, frames, keep_alive};
pub use listen::{DecodeError, DecodeEvent, Folded, ListenError, Stored};
pub use merge::{InvalidMergedCursor, MAX_MERGED, MergeError, MergedCursor, MergedSubscription};
pub use merged_request::InvalidRuns;
pub use permit::expire_at;
pub use subscription::{Batch, Subscription};
pub use target::{DispatchError, SseTarget};

#[cfg(feature = "http")]
pub(crate) use body::chunks;
#[cfg(any(
    feature = "hibernation",
    not(any(feature = "cloudflare", target_family = "wasm"))
))]
pub(crate) use body::frame_bytes;
#[cfg(all(feature = "http", not(target_family = "wasm")))]
pub(crate) use body::keep_alive_by;
#[cfg(feature = "cloudflare")]
pub(crate) use merge::{encode_event, encode_reset_of};
#[cfg(any(feature = "cloudflare", feature = "http"))]
pub(crate) use merged_request::MergedRequest;
#[cfg(any(feature = "cloudflare", feature = "http"))]
pub(crate) use permit::{permitted, reached};
#[cfg(any(
    feature = "hibernation",
    not(any(feature = "cloudflare", target_family = "wasm"))
))]
pub(crate) use subscription::Position;
