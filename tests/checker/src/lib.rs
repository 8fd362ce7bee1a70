//! Checks what viewers and writers of logs saw against the promises of `ssetarget`. Shares no code with it.
//!
//! The input is a sequence of [`Line`]s, in the order of observation. Rust tests call [`Checker::add`] and
//! [`Checker::finish`]; other programs write one JSON object a line into the binary:
//!
//! ```json
//! {"log":"run-1","connected":{"viewer":"a","from":"beginning","status":200}}
//! {"log":"run-1","seen":{"viewer":"a","event":{"id":1,"type":"started","data":"{}"}}}
//! {"log":"run-1","ended":{"viewer":"a","how":"clean"}}
//! {"log":"run-1","stored":{"events":[{"id":1,"type":"started","data":"{}","terminal":true}]}}
//! ```
//!
//! ```
//! use ssetarget_checker::{Checker, Line, Rule};
//!
//! let mut checker = Checker::default();
//! for line in [
//!     r#"{"log":"a","connected":{"viewer":"v","from":"beginning","status":200}}"#,
//!     r#"{"log":"a","seen":{"viewer":"v","event":{"id":1,"type":"t","data":"x"}}}"#,
//!     r#"{"log":"a","seen":{"viewer":"v","event":{"id":1,"type":"t","data":"x"}}}"#,
//! ] {
//!     checker.add(serde_json::from_str(line)?);
//! }
//! assert_eq!(checker.finish()[0].rule, Rule::Twice);
//! # Ok::<(), serde_json::Error>(())
//! ```

mod log;
mod platform;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use platform::{PlatformEntry, PlatformError};

/// A record of one log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The name of the log.
    pub log: String,
    /// The observation.
    #[serde(flatten)]
    pub record: Record,
}

/// An action on a log, or an observation of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Record {
    /// A batch was appended, with the writer's knowledge of it.
    Append {
        /// The batch.
        events: Vec<Fact>,
        /// The answer.
        answer: Answer,
        /// The greatest id in any writer's answer when this batch was sent. Default: every id of an answer before
        /// this record, as if one append followed the other.
        #[serde(default)]
        after: Option<u64>,
    },
    /// A viewer asks for the log. Record it if the answer takes time: the answer is of this moment or later.
    Asked {
        /// The viewer.
        viewer: String,
    },
    /// A viewer asked for the log and was answered.
    Connected {
        /// The viewer. Connections of one client have one name, so that repeated events are noticed.
        viewer: String,
        /// The requested position.
        from: From,
        /// The status of the answer.
        status: u16,
    },
    /// A viewer that starts at the tail got the position of the tail.
    Position {
        /// The viewer.
        viewer: String,
        /// The id.
        id: u64,
    },
    /// A viewer got an event.
    Seen {
        /// The viewer.
        viewer: String,
        /// The event. `reset` and `expired` have no id.
        event: Event,
    },
    /// A viewer's connection is over, or is checked for the last time.
    Ended {
        /// The viewer.
        viewer: String,
        /// How it ended.
        how: End,
    },
    /// The log has removed the events up to this id. Record it before anybody can notice.
    Trimmed {
        /// The greatest id that was removed.
        last: u64,
    },
    /// The log was read as a whole: all events that it keeps.
    Stored {
        /// The events, in the order of the log.
        events: Vec<Event>,
    },
    /// Every append of the log is recorded, so that an event of no append is an invention.
    Whole,
    /// The platform's own log of the latest run, to be compared with the [stored](Self::Stored) events.
    Platform {
        /// Its entries, in order.
        entries: Vec<PlatformEntry>,
    },
}

/// An event on its way to a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The data.
    pub data: String,
    /// The key, by which the log keeps it once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether it is terminal.
    #[serde(default)]
    pub terminal: bool,
}

/// A writer's knowledge of its batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Stored under these ids; `None` for a key that was there.
    Stored(Vec<Option<u64>>),
    /// Stored, or there before; the ids are not known.
    Acknowledged,
    /// No answer came, or an error after which it may have been stored.
    Unknown,
    /// It is not stored.
    Refused,
}

/// An event as a viewer or a reader of the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The id.
    #[serde(default)]
    pub id: Option<u64>,
    /// The type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The data.
    pub data: String,
    /// Its bytes on the wire, if they are to be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// The key, if the reader knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether it is terminal, if the reader knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<bool>,
}

/// The position that a viewer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum From {
    /// The oldest event that is kept.
    Beginning,
    /// After this id.
    After(u64),
    /// New events only.
    Latest,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// The server ended the stream as HTTP ends a body.
    Clean,
    /// It broke, or the viewer left.
    Cut,
    /// It is open, everything has come to rest, and the viewer should have all events.
    Idle,
    /// The same for one log of a merged stream; a log leaves it with its terminal event.
    IdleMerged,
}

/// A promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rule {
    /// A viewer's ids grow.
    Order,
    /// A viewer gets every event from its position on.
    Gap,
    /// A viewer gets no event twice.
    Twice,
    /// All viewers get the same: of two, one has a prefix of the other's.
    Prefix,
    /// Acknowledged events are in the log.
    Acknowledged,
    /// Events that were not acknowledged are there once or not at all, and a batch whole or not at all.
    Once,
    /// The log has no event that nobody appended.
    Invented,
    /// A `reset` comes only if the position is gone.
    Reset,
    /// `204`, and the end of a stream, come only after the terminal event.
    End,
    /// An id is assigned once, whatever happened to the log in between.
    Reused,
    /// Live bytes equal stored bytes.
    Bytes,
    /// The log agrees with the platform's own.
    Platform,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The promise.
    pub rule: Rule,
    /// The log.
    pub log: String,
    /// The description of the fault.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.rule, self.log, self.message)
    }
}

/// Checks records of any number of logs.
#[derive(Debug, Default)]
pub struct Checker {
    logs: BTreeMap<String, log::Log>,
    done: Vec<Violation>,
}

impl Checker {
    /// Adds the next record.
    pub fn add(&mut self, line: Line) {
        self.record(&line.log, line.record);
    }

    /// Adds the next record of this log.
    pub fn record(&mut self, log: &str, record: Record) {
        if !self.logs.contains_key(log) {
            self.logs.insert(log.to_owned(), log::Log::default());
        }
        if let Some(log) = self.logs.get_mut(log) {
            log.add(record);
        }
    }

    /// Checks one log to its end and forgets it, so that a long test needs little memory.
    pub fn close(&mut self, log: &str) {
        if let Some(state) = self.logs.remove(log) {
            self.done.extend(named(log, state));
        }
    }

    /// Returns all broken promises.
    #[must_use]
    pub fn finish(self) -> Vec<Violation> {
        let mut violations = self.done;
        for (name, log) in self.logs {
            violations.extend(named(&name, log));
        }
        violations
    }
}

fn named(name: &str, log: log::Log) -> Vec<Violation> {
    let violation = |(rule, message)| Violation {
        rule,
        log: name.to_owned(),
        message,
    };
    log.finish().into_iter().map(violation).collect()
}
