//! Why a request for events is not answered with events: the same words from every server.

use std::fmt;

use crate::wire::InvalidCursor;

/// A request that is refused: the status, headers and reason that the wire contract has for it.
///
/// ```
/// use ssetarget::{Refusal, wire};
///
/// let refusal = Refusal::from(wire::cursor(Some("no number"), None).unwrap_err());
/// assert_eq!(refusal.status(), 400);
/// assert!(refusal.to_string().starts_with("invalid Last-Event-ID: "));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// `400`: the position to start from is malformed.
    Cursor(InvalidCursor),
    /// `400`: a type of events that was asked for is none of the platform's.
    EventType,
    /// `404`: there is no such log, for this reason.
    NotFound(&'static str),
    /// `405`: events are only read.
    Method {
        /// The methods that are answered, as `Allow` has them.
        allow: &'static str,
    },
    /// `503`: the log cannot be reached.
    Unavailable,
}

impl Refusal {
    /// The response's status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Cursor(_) | Self::EventType => 400,
            Self::NotFound(_) => 404,
            Self::Method { .. } => 405,
            Self::Unavailable => 503,
        }
    }

    /// The response's headers, their names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        let more = match *self {
            Self::Method { allow } => Some(("allow", allow)),
            Self::Unavailable => Some(("retry-after", "1")),
            Self::Cursor(_) | Self::EventType | Self::NotFound(_) => None,
        };
        [
            ("content-type", "text/plain; charset=utf-8"),
            ("cache-control", "no-store"),
        ]
        .into_iter()
        .chain(more)
    }

    /// The response's body: the reason, and a line end.
    #[must_use]
    pub fn body(&self) -> String {
        format!("{self}\n")
    }
}

impl From<InvalidCursor> for Refusal {
    fn from(reason: InvalidCursor) -> Self {
        Self::Cursor(reason)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cursor(reason) => reason.fmt(f),
            Self::EventType => f.write_str(
                "invalid types: use event types of the platform, such as step_started, with commas between them",
            ),
            Self::NotFound(reason) => f.write_str(reason),
            Self::Method { .. } => f.write_str("events are read with GET"),
            Self::Unavailable => f.write_str("the events cannot be reached, try again later"),
        }
    }
}

impl std::error::Error for Refusal {}
