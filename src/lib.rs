//! Durable, replayable Server-Sent Events.
// The core has no unsafe code in either build; only the glue's generated bindings need it.
#![cfg_attr(not(feature = "cloudflare"), forbid(unsafe_code))]

mod body;
#[cfg(all(feature = "cloudflare", target_family = "wasm"))]
pub mod cloudflare;
mod event;
pub mod store;
mod subscription;
mod sync;
mod target;
pub mod wire;
pub mod workflow;

pub use body::{HEARTBEAT_INTERVAL, body, frames, keep_alive};
pub use event::{Cursor, Event, EventId, InvalidEvent, InvalidEventId, NewEvent, StoredEvent};
pub use store::{Appended, EventStore, MemoryEventStore, Page, PageLimit, SqliteEventStore};
pub use subscription::{Batch, Reset, Subscription};
pub use sync::{MaybeSend, MaybeSync};
pub use target::{DispatchError, SseTarget};
