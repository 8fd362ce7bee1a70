//! Logs of tasks as traces of OpenTelemetry: OTLP as JSON (feature `otlp`).
//!
//! A run becomes a trace, a task a span. Each export of a log has the same ids and the same bytes. `docs/trace.md`
//! says what each event becomes.
//!
//! | to | use |
//! |---|---|
//! | answer `GET` with the trace of a log | [`document`]; with the feature `http` `Sse::otlp`; in Workers `serve_otlp` |
//! | send it to a receiver, from any server | [`export`] |
//! | send each run's from Workers | nothing: set `OTEL_EXPORTER_OTLP_ENDPOINT` |
//! | do something else with the spans | [`TraceFold`] |

mod chunks;
mod fold;
mod ids;
mod model;
mod read;
mod send;
mod trace;

#[cfg(feature = "cloudflare")]
pub(crate) use self::chunks::Document;
pub use self::chunks::{Chunk, MAX_BYTES, MAX_SPANS};
pub use self::fold::{MAX_EVENTS, MAX_WAITING, TraceFold, Unfinished};
pub use self::ids::{SpanId, TraceId};
#[cfg(any(feature = "cloudflare", feature = "http"))]
pub(crate) use self::read::{HEADERS, is_partial};
pub use self::read::{ReadError, document};
#[cfg(feature = "cloudflare")]
pub(crate) use self::read::{Reader, Step};
pub use self::send::{Answer, ExportError, Exported, Exporter, Post, export};
#[cfg(feature = "cloudflare")]
pub(crate) use self::send::{Verdict, backoff};
pub use self::trace::{InvalidVariable, Trace};
