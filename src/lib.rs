//! Durable, replayable Server-Sent Events, made for showing people the live progress of
//! long-running Cloudflare Workflows.
//!
//! The one idea: **the log is the only source of data. A wake-up says "look again" and carries
//! nothing.** A subscriber is a cursor into the log. It reads a page after its cursor and sends
//! it; when the page is empty it waits for a wake-up and reads again. Replay and live are the same
//! code, so nothing is lost or doubled between them, and a slow reader costs one page.
//!
//! # Two crates
//!
//! - [`cloudflare_workflows`]: Workflows in Rust. It knows no events, no SSE and no storage, and
//!   does not depend on this crate.
//! - `ssetarget`, this crate: a log and its delivery. Only [`tracer`], [`workflow`] and [`cloudflare`]
//!   use the other crate.
//!
//! # What there is, in reading order
//!
//! | name | what it is or has | what it does not know |
//! |---|---|---|
//! | [`NewEvent`], [`StoredEvent`], [`Event`], [`EventId`], [`Cursor`] | events before and after they are stored, and positions in a log | storage, bytes, async |
//! | [`wire`] | events to bytes, `Last-Event-ID` to [`Cursor`] | streams, stores, HTTP libraries |
//! | [`store`] | the [`EventStore`] promise; memory, null, SQLite, Redis and relays; one test suite for all | delivery |
//! | [`SseTarget`] | a log with dispatch and subscribe | time, workflows |
//! | [`Subscription`] | the cursor loop, the only place that waits for events | bytes, time |
//! | [`SseTarget::events`], [`SseTarget::fold`] | typed events in process | bytes, time |
//! | [`MergedSubscription`] | several logs as one stream | bytes' transport, time |
//! | [`body()`] | events to bytes with heartbeats; the clock is an argument | the runtime |
//! | [`Refusal`] | the status, headers and words of a request that gets no events | servers |
//! | [`Cors`] | which pages of other origins may read | servers |
//! | [`access`] | [`Access`](access::Access): the hook that decides who may look | servers, tokens |
//! | [`page`] | the live page of a run: the element `<workflow-run>` as constants, and its document | servers |
//! | `http` | requests to responses by the whole wire contract, graceful shutdown | any particular server |
//! | `axum` | a handler in one line, CORS for a whole router | |
//! | [`stats`] | [`Observer`](stats::Observer): a hook that counts what happens; [`Metrics`](stats::Metrics), as text for Prometheus | servers |
//! | `client` | `RunClient`: the other end of a stream, for programs | servers |
//! | [`task`] | tasks, their names and their events; shared by the next two | logs, runtimes |
//! | [`tracer`] | spans of any code as events of tasks; a bridge from the crate `tracing` | Workflows, runtimes |
//! | [`workflow`] | [`WorkflowEventStep`](workflow::WorkflowEventStep) and its dispatch; [`RunView`](workflow::RunView), the state of a run, and [`RunSnapshot`](workflow::RunSnapshot), the same as a tree; [`InstanceFeed`](workflow::InstanceFeed), the platform's own log | JavaScript |
//! | [`cloudflare`] | the `WorkflowEvents` object, `RunRoutes`, `serve_sse`, `serve_snapshot`, `serve_instance_sse` | (the only one that knows JavaScript) |
//! | `otlp` | a log as a trace of OpenTelemetry, and its way to a receiver | servers, JavaScript |
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `axum` | no | the `axum` module: a handler for axum 0.8 in one line, and CORS; implies `http` |
//! | `client` | no | the `client` module: a run from its URL, through every cut, to the end; over tokio, not for wasm32 |
//! | `cloudflare` | no | the `cloudflare` module, for Workers; on native targets it compiles but does not run |
//! | `contract` | no | `store::contract`: the test suite for a store of your own |
//! | `durable-streams` | no | with `http` and `cloudflare`: logs in the Durable Streams protocol, for reading |
//! | `http` | no | the `http` module: responses for hyper, tower and other servers |
//! | `links` | no | [`access::CapabilityLinks`](access): signed links that say who may watch which run; with `cloudflare` they can be revoked |
//! | `otlp` | no | the `otlp` module: logs as traces of OpenTelemetry; with `cloudflare` each run is exported when it ends, with `http` `Sse::otlp` answers `GET` |
//! | `index` | no | with `cloudflare`: `export_run_index!`, an object that lists all runs of a workflow, and those of a tag, live |
//! | `relays` | no | with `cloudflare`: viewers past 500 of a run are served by relays |
//! | `snapshots` | no | with `cloudflare`: `RunRoutes::snapshots`, the run as it stands, as JSON |
//! | `hibernation` | no | with `cloudflare`: `Transport::Hibernating` |
//! | `redis` | no | `store::redis`: logs in Redis, over tokio, or over a Worker's sockets with `cloudflare` |
//! | `rusqlite` | no | `SqliteEventStore::open`: a durable log in an SQLite file, for one process; not for wasm32 |
//! | `typescript` | no | nothing for users: the crate's own test writes `typescript/types.d.ts` with it |
//! | `tracing` | no | `tracer::SseLayer`: sends spans and events of the crate `tracing` |
//!
//! # Any server
//!
//! With the features `axum` and `http` a server needs one to three lines. Without them,
//! [`SseTarget::subscribe`] returns a [`Subscription`], and [`body`] its bytes as a `Stream` of
//! `Result<Bytes, E>`, which most servers accept. [`Refusal`] and [`wire`] have the rest:
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
//! [`SseTarget::events`] returns a `Stream` of typed events for listeners, from any [`Cursor`].
//! [`SseTarget::fold`] computes a state from them, and returns it with the cursor up to which it is
//! complete.

// The core has no unsafe code in either build; only the glue's generated bindings need it.
#![cfg_attr(not(feature = "cloudflare"), forbid(unsafe_code))]

pub mod access;
#[cfg(any(test, feature = "cloudflare"))]
mod answer;
#[cfg(all(feature = "client", not(target_family = "wasm")))]
pub mod client;
mod clock;
pub mod cloudflare;
mod cors;
mod delivery;
#[cfg(all(
    feature = "durable-streams",
    any(feature = "http", feature = "cloudflare")
))]
mod durable_streams;
mod event;
// Its examples need the feature that they are about.
#[cfg(any(all(doc, not(doctest)), all(doctest, feature = "cloudflare")))]
#[doc = include_str!("../docs/workflows.md")]
pub mod guide {}
// The programs of a page that is not part of the documentation, so that they are compiled.
#[cfg(all(doctest, feature = "axum", feature = "rusqlite"))]
#[doc = include_str!("../docs/server.md")]
mod server_guide {}
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod page;
#[cfg(any(
    feature = "cloudflare",
    all(feature = "client", not(target_family = "wasm"))
))]
#[cfg_attr(
    not(all(feature = "client", not(target_family = "wasm"))),
    allow(dead_code, unreachable_pub)
)]
mod parser;
mod refusal;
#[cfg(any(test, feature = "http", feature = "cloudflare"))]
mod run_path;
#[cfg_attr(not(feature = "index"), allow(dead_code, unreachable_pub))]
mod runs;
mod security;
pub mod stats;
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
    Batch, DecodeError, DecodeEvent, DispatchError, Folded, HEARTBEAT_INTERVAL,
    InvalidMergedCursor, InvalidRuns, ListenError, MAX_MERGED, MergeError, MergedCursor,
    MergedSubscription, SseTarget, Stored, Subscription, body, expire_at, frame_body, frames,
    keep_alive,
};
pub use event::{
    Cursor, Event, EventId, InvalidEvent, InvalidEventId, NewEvent, Reset, StoredEvent,
};
pub use refusal::Refusal;
pub use runs::InvalidList;
#[cfg(feature = "index")]
pub use runs::RunEntry;
#[cfg(feature = "redis")]
pub use store::redis::{RedisClient, RedisEventStore};
pub use store::{
    Appended, EventStore, MemoryEventStore, NullEventStore, Page, PageLimit, SqliteEventStore,
};
pub use sync::{MaybeSend, MaybeSync};

/// For the crate's own tests. Not part of the public API.
#[doc(hidden)]
pub mod internals {
    pub use crate::cloudflare::command::{InstanceEnd, LogAnswer, LogCommand, LogState, read_json};
    pub use crate::cloudflare::object::log::{Announced, WorkflowLog, WorkflowLogError};
    pub use crate::cloudflare::packed::{InvalidBatch, pack_facts, unpack};
    #[cfg(any(
        feature = "index",
        not(any(feature = "cloudflare", target_family = "wasm"))
    ))]
    pub use crate::cloudflare::reported::{Reported, read_estimate, take_report};
    #[cfg(any(
        feature = "hibernation",
        not(any(feature = "cloudflare", target_family = "wasm"))
    ))]
    pub use crate::cloudflare::{
        credit::Taken,
        hibernating::{Beat, Budget, Pace, Pulse, Roster, Round, Sweep},
        pushed::{Kept, Pushed, PushedStream},
    };
    #[cfg(any(
        feature = "relays",
        not(any(feature = "cloudflare", target_family = "wasm"))
    ))]
    pub use crate::cloudflare::{
        hop::Hop,
        page_parts::{Part, from_parts, to_parts},
    };
    pub use crate::runs::{
        Joins, ListFilter, Listed, Members, Reporter, RunFold, RunIndex, RunReport, Stands,
        TagCursor,
    };
    #[cfg(feature = "redis")]
    pub use crate::store::redis::resp_replies;
    pub use crate::workflow::ended_run::{
        EngineEvent, EngineEvents, ended_run_options, read_ended_run,
    };
}
