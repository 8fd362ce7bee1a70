//! The reasons why a request for events is refused: the same words from every server.

use std::fmt;
use std::time::Duration;

use crate::delivery::InvalidRuns;
use crate::runs::InvalidList;
use crate::security;
use crate::wire::{self, InvalidCursor};

/// A refused request: its status, headers and reason in the wire contract.
///
/// Any status but `200` ends an `EventSource` for good (WHATWG HTML, section 9.2.2), which is right
/// where asking again does not help. Where it does help, an `EventSource` does not get a status but
/// a stream that breaks off: see [`hold`](Self::hold).
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
    /// `400`: a merged stream names no run, too many, or one of them twice.
    Runs(InvalidRuns),
    /// `400`: the query of a list of runs is malformed.
    List(InvalidList),
    /// `400`: a requested event type is not one of the platform's.
    EventType,
    /// `400`: a request of the Durable Streams protocol has a malformed offset or mode.
    Offset,
    /// `401` with `WWW-Authenticate: Bearer`: the [hook](crate::access) refused. The words are the same whether
    /// there is such a log or not.
    NotAllowed,
    /// `403`: a page of an unlisted origin wants to change something, perhaps with its visitor's cookies.
    Origin,
    /// `404`: there is no such log. Has the reason.
    NotFound(&'static str),
    /// `410`: a request of the Durable Streams protocol has an offset that is not in the log, or no longer.
    Gone,
    /// `405`: the path is served for other methods.
    Method {
        /// The methods that are answered, as in `Allow`.
        allow: &'static str,
    },
    /// `503`: the log cannot be reached now. An `EventSource` gets a stream that breaks off
    /// instead, so that it comes back: see [`hold`](Self::hold).
    Unavailable,
}

impl Refusal {
    /// Returns the response's status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Cursor(_) | Self::Runs(_) | Self::List(_) | Self::EventType | Self::Offset => 400,
            Self::NotAllowed => 401,
            Self::Origin => 403,
            Self::NotFound(_) => 404,
            Self::Method { .. } => 405,
            Self::Gone => 410,
            Self::Unavailable => 503,
        }
    }

    /// Returns how long to keep the client waiting instead of refusing it, or `None` to answer with
    /// the [status](Self::status).
    ///
    /// The result is `Some` for [`Unavailable`](Self::Unavailable) and a request whose `Accept`
    /// names `text/event-stream`, as that of every `EventSource` does: a `503` would end it for
    /// good. Answer `200` with [`wire::HEADERS`], send [`wire::HEARTBEAT`] at once, and after this
    /// time break the body off as a broken connection does. Do not end it cleanly, which some
    /// clients take for the end of the events. The client comes back after its own delay, with its
    /// `Last-Event-ID`.
    ///
    /// The time is 1 to 3 seconds, chosen by `random`, which is from 0 to 1: clients that one
    /// failure disconnected together come back one after another.
    ///
    /// ```
    /// # use ssetarget::Refusal;
    /// let browser = Some("text/event-stream");
    /// assert!(Refusal::Unavailable.hold(browser, 0.5).is_some());
    /// assert!(Refusal::Unavailable.hold(Some("*/*"), 0.5).is_none()); // curl: 503
    /// assert!(Refusal::NotFound("there is no such log").hold(browser, 0.5).is_none());
    /// ```
    #[must_use]
    pub fn hold(&self, accept: Option<&str>, random: f64) -> Option<Duration> {
        const SHORTEST: Duration = Duration::from_secs(1);
        const SPREAD: Duration = Duration::from_secs(2);
        let holds = matches!(self, Self::Unavailable) && wire::accepts_events(accept);
        // NaN counts as 0.
        let share = if random > 0.0 { random.min(1.0) } else { 0.0 };
        holds.then(|| SHORTEST + SPREAD.mul_f64(share))
    }

    /// Returns the response's headers, with names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        let more = match *self {
            Self::Method { allow } => Some(("allow", allow)),
            Self::NotAllowed => Some(("www-authenticate", "Bearer")),
            Self::Unavailable => Some(("retry-after", "1")),
            Self::Cursor(_)
            | Self::Runs(_)
            | Self::List(_)
            | Self::EventType
            | Self::Offset
            | Self::Origin
            | Self::NotFound(_)
            | Self::Gone => None,
        };
        security::PLAIN
            .into_iter()
            .chain(security::TEXT)
            .chain(more)
    }

    /// Returns the response's body: the reason and a line end.
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

impl From<InvalidRuns> for Refusal {
    fn from(reason: InvalidRuns) -> Self {
        Self::Runs(reason)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cursor(reason) => reason.fmt(f),
            Self::Runs(reason) => reason.fmt(f),
            Self::List(reason) => reason.fmt(f),
            Self::EventType => f.write_str(
                "invalid types: use event types of the platform, such as step_started, with commas between them",
            ),
            Self::Offset => f.write_str(
                "invalid offset or live: use offset=-1, now, or one of an answer, and live=long-poll or sse with it",
            ),
            Self::Gone => f.write_str("this offset is not in the log: begin with offset=-1"),
            Self::NotAllowed => f.write_str(
                "a permission is needed: it is missing, wrong, for something else, or no longer valid",
            ),
            Self::Origin => f.write_str("pages of this origin may not do this"),
            Self::NotFound(reason) => f.write_str(reason),
            Self::Method { allow: "GET, HEAD" } => f.write_str("events are read with GET"),
            Self::Method { allow } => write!(f, "use {allow}"),
            Self::Unavailable => f.write_str("the events cannot be reached, try again later"),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unavailable_log_is_held_and_each_client_for_its_own_time() {
        let browser = Some("text/event-stream");
        let times = [0.0, 0.25, 1.0, -1.0, 7.0, f64::NAN].map(|random| {
            let time = Refusal::Unavailable.hold(browser, random);
            time.map(|time| time.as_millis())
        });
        assert_eq!(times, [1000, 1500, 3000, 1000, 3000, 1000].map(Some));
        for refusal in [
            Refusal::Cursor(InvalidCursor::From),
            Refusal::EventType,
            Refusal::NotAllowed,
            Refusal::Origin,
            Refusal::NotFound("nothing"),
            Refusal::Method { allow: "GET, HEAD" },
        ] {
            assert_eq!(refusal.hold(browser, 0.5), None, "{refusal}");
        }
        for accept in [None, Some("*/*"), Some("text/html")] {
            assert_eq!(Refusal::Unavailable.hold(accept, 0.5), None);
        }
    }
}
