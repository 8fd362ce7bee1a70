//! The state of a log and its object, for a developer to read. Written in the object, read in the Worker; pure.

use serde::{Deserialize, Serialize};

use crate::event::EventId;
use crate::stats::Counts;

/// The state of the log of an instance and of its object: see
/// [`WorkflowEventsNamespace::stats`](crate::cloudflare::WorkflowEventsNamespace::stats). As JSON it is less than a
/// kilobyte, whatever the log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LogStats {
    /// The number of events that are kept.
    pub events: u64,
    /// The greatest id that was assigned; `None` if there never was an event.
    pub head: Option<EventId>,
    /// The latest run, from 1.
    pub run: u32,
    /// Whether that run has ended.
    pub ended: bool,
    /// When the newest event was stored, in milliseconds since 1970; `None` if none is kept.
    pub newest: Option<u64>,
    /// The bytes of the object's database.
    pub database_bytes: u64,
    /// The number of the object's own viewers that are connected by hibernatable sockets.
    pub hibernating: u64,
    /// The number of viewers that relays below the object have reported.
    pub relayed: u64,
    /// When the object came into memory, in milliseconds since 1970. Only later events are counted.
    pub since: u64,
    /// The object's counts. `viewers` are those that are connected to it now.
    pub counts: Counts,
}
