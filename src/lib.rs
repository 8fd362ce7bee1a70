//! Durable, replayable Server-Sent Events, made for showing people the live progress of
//! long-running Cloudflare Workflows.
//!
//! The one idea: **the log is the only source of data, and a wake-up says "look again" and carries
//! nothing.** A subscriber is a cursor into the log. It reads a page after its cursor and sends
//! it; when the page is empty it waits for the wake-up and reads again. Replay and live are the
//! same code, so nothing is lost or doubled between them, and a slow reader costs one page.
//!
//! # Where things are, in reading order
//!
//! | module | what it is | what it knows nothing of |
//! |---|---|---|
//! | `event` | [`EventId`], [`Cursor`], [`Event`], [`NewEvent`], [`StoredEvent`] | storage, bytes, async |
//! | [`wire`] | events to bytes, `Last-Event-ID` to [`Cursor`] | streams, stores, HTTP libraries |
//! | [`store`] | the [`EventStore`] promise; memory, null and SQLite; one suite for all | delivery |
//! | `clock` | milliseconds, and where they come from | everything else |
//! | `target` | [`SseTarget`]: dispatch and subscribe | time, workflows |
//! | `subscription` | the cursor loop, the only place that waits for events | bytes, time |
//! | `listen` | typed events as a stream in process, folds: [`SseTarget::events`], [`SseTarget::fold`] | bytes, time |
//! | `body` | events to bytes with heartbeats; its clock is an argument | the runtime |
//! | `credit` | flow control for bytes that are pushed | what pushes them |
//! | `refusal` | [`Refusal`]: the status, headers and words of what is not answered with events | servers |
//! | `cors` | [`Cors`]: which pages of other origins may read | servers |
//! | `http` | requests to responses by the whole contract, CORS, graceful shutdown | any particular server |
//! | `axum` | a handler in one line, CORS for a whole router | |
//! | [`workflow`] | step events, deterministic names, [`WorkflowEventStep`](workflow::WorkflowEventStep), batched dispatch; the platform's own log ([`InstanceFeed`](workflow::InstanceFeed)) | Cloudflare |
//! | [`tracer`] | spans of any code as the same events; a bridge from the crate `tracing` | Workflows, runtimes |
//! | `cloudflare` | Workflows in Rust, the `WorkflowEvents` object, `serve_sse`, `serve_instance_sse` | (the only one that knows JavaScript) |
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `axum` | no | the `axum` module: a handler for axum 0.8 in one line, and CORS; implies `http` |
//! | `cloudflare` | no | the `cloudflare` module: for Workers; on native targets it can only be compiled |
//! | `contract` | no | `store::contract`, the suite for a store of your own |
//! | `http` | no | the `http` module: responses for hyper, tower and their like |
//! | `redis` | no | `store::redis`: logs in Redis, over tokio or, with `cloudflare`, in Workers |
//! | `tracing` | no | `tracer::SseLayer`: spans and events of the crate `tracing`, live |
//!
//! # Any server
//!
//! With the features `axum` and `http` a server needs a line or three. Without them
//! [`SseTarget::subscribe`] gives a [`Subscription`], and [`body`] its bytes as a `Stream` of
//! `Result<Bytes, E>`, which most servers take as they are; [`Refusal`] and [`wire`] have the rest:
//!
//! ```
//! use std::time::Duration;
//! use futures_util::StreamExt;
//! use ssetarget::{Cursor, MemoryEventStore, NewEvent, SseTarget, body};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let target = SseTarget::new(MemoryEventStore::new());
//! target.dispatch_encoded(vec![NewEvent::new("done", "{}")?.terminal()]).await?;
//!
//! // In a handler: the cursor comes from `wire::cursor`.
//! let subscription = target.subscribe(Cursor::Beginning).await?;
//! assert!(!subscription.has_ended()); // else answer 204
//! let chunks: Vec<_> = body(subscription, tokio::time::sleep).collect().await;
//! assert_eq!(chunks[0].as_ref().unwrap(), ":\n");
//! assert_eq!(chunks[1].as_ref().unwrap(), "id: 1\nevent: done\ndata: {}\n\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # In the same process
//!
//! [`SseTarget::events`] is a `Stream` of typed events for listeners, from any [`Cursor`];
//! [`SseTarget::fold`] makes a state of them and says where in the log it is true.

// The core has no unsafe code in either build; only the glue's generated bindings need it.
#![cfg_attr(not(feature = "cloudflare"), forbid(unsafe_code))]

mod clock;
pub mod cloudflare;
mod cors;
mod delivery;
mod event;
#[cfg(any(doc, doctest))]
#[doc = include_str!("../docs/workflows.md")]
pub mod guide {}
#[cfg(feature = "http")]
pub mod http;
mod refusal;
pub mod store;
mod sync;
pub mod task;
pub mod tracer;
pub mod wire;
pub mod workflow;

#[cfg(all(feature = "axum", not(target_family = "wasm")))]
#[doc(inline)]
pub use crate::http::axum;
pub use cors::{Cors, CorsAnswer, InvalidCors};
pub use delivery::{
    Batch, DecodeError, DecodeEvent, DispatchError, Folded, HEARTBEAT_INTERVAL, ListenError,
    SseTarget, Stored, Subscription, body, frame_body, frames, keep_alive,
};
pub use event::{
    Cursor, Event, EventId, InvalidEvent, InvalidEventId, NewEvent, Reset, StoredEvent,
};
pub use refusal::Refusal;
#[cfg(feature = "redis")]
pub use store::redis::{RedisClient, RedisEventStore};
pub use store::{
    Appended, EventStore, MemoryEventStore, NullEventStore, Page, PageLimit, SqliteEventStore,
};
pub use sync::{MaybeSend, MaybeSync};

/// For the crate's own tests. Not part of the public API.
#[doc(hidden)]
pub mod internals {
    pub use crate::cloudflare::command::{InstanceEnd, LogAnswer, LogCommand, LogState};
    pub use crate::cloudflare::object::log::{Announced, WorkflowLog, WorkflowLogError};
    pub use crate::cloudflare::packed::{InvalidBatch, pack_facts};
}
