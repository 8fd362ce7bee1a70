//! The wire format: events to bytes, request parameters to a [`Cursor`].
//!
//! Pure functions for the format in WHATWG HTML, section 9.2 "Server-sent events". They do not know
//! streams, stores or HTTP libraries.

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use crate::clock;
use crate::event::{Cursor, EventId, InvalidEventId, Reset, StoredEvent};

/// The response's `content-type`. UTF-8 is the only encoding (section 9.2.4).
pub const CONTENT_TYPE: &str = "text/event-stream";

/// The response headers of a stream: its type, and two that keep intermediaries from buffering,
/// caching or compressing it.
pub const HEADERS: [(&str, &str); 3] = [
    ("content-type", CONTENT_TYPE),
    ("cache-control", "no-cache, no-transform"),
    ("x-accel-buffering", "no"),
];

/// The response headers of a `204`. It must not be cached, since a log that has ended can go on.
pub const END_HEADERS: [(&str, &str); 1] = [("cache-control", "no-store")];

/// A comment that keeps the connection alive.
///
/// It has no blank line on purpose: clients that dispatch on every blank line (fetch-event-source,
/// httpx-sse) would fire an empty message.
pub const HEARTBEAT: &[u8] = b":\n";

/// The last event of a stream whose permission has ended. It has no `id:`, so that a client that comes back with
/// another permission goes on after the last event that it got.
pub const EXPIRED: &[u8] = b"event: expired\ndata: {\"renew\":true}\n\n";

/// Appends a stored event's bytes.
pub fn encode(event: &StoredEvent, out: &mut Vec<u8>) {
    encode_numbered(event.id, &event.event_type, &event.data, out);
}

/// Appends a stored event's bytes: with `numbered`, those of [`encode`], else those of [`encode_unnumbered`].
pub(crate) fn encode_if_numbered(event: &StoredEvent, numbered: bool, out: &mut Vec<u8>) {
    if numbered {
        encode(event, out);
    } else {
        encode_unnumbered(&event.event_type, &event.data, out);
    }
}

/// Appends a stored event's bytes, and returns the number of `data:` lines.
#[inline(never)]
pub(crate) fn encode_numbered(
    id: EventId,
    event_type: &str,
    data: &str,
    out: &mut Vec<u8>,
) -> usize {
    out.reserve(event_type.len() + data.len() + FRAME);
    out.extend_from_slice(b"id: ");
    encode_number(id.get(), 0, out);
    out.push(b'\n');
    encode_lines(event_type, data, out)
}

/// Appends a number in decimal, padded with zeros to `width`. Replaces `fmt`, which takes as long
/// as the rest of an event.
pub(crate) fn encode_number(number: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    let mut rest = number;
    for (position, digit) in digits.iter_mut().enumerate().rev() {
        *digit += u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        first = position;
        if rest == 0 {
            break;
        }
    }
    let first = first.min(digits.len().saturating_sub(width));
    out.extend_from_slice(&digits[first..]);
}

/// The approximate number of bytes of an event besides its type and data.
pub(crate) const FRAME: usize = 48;

/// Returns the type of an event and the first line of its data, from the bytes that [`encode`]
/// made. JSON that is not pretty-printed has one line. The line is `None` if the bytes are only the
/// [`head`].
pub(crate) fn decode(frame: &str) -> Option<(&str, Option<&str>)> {
    let (_id, rest) = frame.strip_prefix("id: ")?.split_once('\n')?;
    let (event_type, rest) = rest.strip_prefix("event: ")?.split_once('\n')?;
    let data = rest.strip_prefix("data: ");
    Some((
        event_type,
        data.and_then(|data| Some(data.split_once('\n')?.0)),
    ))
}

/// Returns the lines before the data (id and type) of the bytes that [`encode`] made.
pub(crate) fn head(frame: &[u8]) -> &[u8] {
    let mut ends = memchr::memchr_iter(b'\n', frame);
    let end = ends.nth(1).map_or(frame.len(), |end| end + 1);
    &frame[..end]
}

/// Appends an `id:` and a blank line, which set a client's last id without an event (section 9.2.6:
/// "If the data buffer is an empty string, [...] return", after the step that sets the last event
/// ID). A stream that starts at the tail begins with them, so that a client that loses its
/// connection before the first event resumes without a gap.
///
/// Of the tested clients, `EventSource`s follow the standard here. `fetch-event-source` does too,
/// but fires one empty message. `eventsource-client` drops an id without data, so it starts at the
/// tail again.
///
/// `None`, the start of an empty log, is written as [`EventId::MAX`], which no event has. A client
/// that comes back with it gets `event: reset` and the log from its beginning.
pub fn encode_position(position: Option<EventId>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"id: ");
    encode_number(position.map_or(EventId::MAX, EventId::get), 0, out);
    out.extend_from_slice(b"\n\n");
}

/// Appends the bytes of `event: reset`, which notifies a client that its position cannot be
/// honoured. It has no id: the client's last id changes with the first event that follows.
pub fn encode_reset(reset: &Reset, out: &mut Vec<u8>) {
    encode_unnumbered("reset", &reset_data(reset), out);
}

pub(crate) fn reset_data(reset: &Reset) -> String {
    let id = |id: Option<EventId>| id.map_or_else(|| "null".to_owned(), |id| id.to_string());
    format!(
        r#"{{"requested":{},"oldest":{},"head":{}}}"#,
        id(reset.requested),
        id(reset.oldest),
        id(reset.head)
    )
}

/// Appends the bytes of an event without an id, which leaves the client's last id unchanged. The
/// type must be one that [`NewEvent`](crate::event::NewEvent) accepts.
///
/// CR, LF and CRLF all end a line (section 9.2.5), so each of them in the data starts a new
/// `data:` line.
pub fn encode_unnumbered(event_type: &str, data: &str, out: &mut Vec<u8>) {
    encode_lines(event_type, data, out);
}

fn encode_lines(event_type: &str, data: &str, out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(event_type.as_bytes());
    out.push(b'\n');
    let mut rest = data;
    let mut lines = 0;
    loop {
        lines += 1;
        let end = line_end(rest).unwrap_or(rest.len());
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&rest.as_bytes()[..end]);
        out.push(b'\n');
        match rest[end..].strip_prefix("\r\n") {
            Some(next) => rest = next,
            None if end < rest.len() => rest = &rest[end + 1..],
            None => break,
        }
    }
    out.push(b'\n');
    lines
}

/// Returns where the first line ends, if another follows it. Works on bytes, since most of the time
/// of an append is spent here.
fn line_end(text: &str) -> Option<usize> {
    memchr::memchr2(b'\r', b'\n', text.as_bytes())
}

/// The parameters of a query by which a client says where it wants to start: those that [`cursor`] reads.
#[cfg_attr(
    not(all(feature = "client", not(target_family = "wasm"))),
    allow(dead_code)
)]
pub(crate) const POSITION: [&str; 4] = ["lastEventId", "last_event_id", "from", "since"];

/// Returns where a client wants to start, from its request.
///
/// The first of these that is present counts: the `Last-Event-ID` header; the query parameter
/// `lastEventId` or `last_event_id` (for clients that cannot set headers); `from=latest` or
/// `from=beginning`; `since=` with a time as RFC 3339 in UTC (`2026-11-24T09:00:00Z`) or as
/// milliseconds since the Unix epoch. Otherwise it is the beginning.
///
/// An empty header or parameter counts as absent, since an `EventSource` whose last id is empty
/// sends none (section 9.2.3). Spaces and tabs around the header's value are ignored. `query` is
/// the part of the URL behind `?`, percent-encoded. If a parameter is repeated, the first value
/// that is not empty counts.
///
/// Join the values of a repeated header by commas before the call, as Workers do (RFC 9110, section
/// 5.3). They are then refused, since only one of them can be the client's position.
///
/// # Errors
/// [`InvalidCursor`] if the one that counts is malformed.
pub fn cursor(last_event_id: Option<&str>, query: Option<&str>) -> Result<Cursor, InvalidCursor> {
    match self::last_event_id(last_event_id, query) {
        Some(id) => id.parse().map(Cursor::After).map_err(InvalidCursor::Id),
        None => start(query),
    }
}

/// Returns the id of the last event that a client has, from its header or its query.
pub(crate) fn last_event_id<'a>(
    header: Option<&'a str>,
    query: Option<&'a str>,
) -> Option<Cow<'a, str>> {
    header
        .map(|id| id.trim_matches([' ', '\t']))
        .filter(|id| !id.is_empty())
        .map(Cow::Borrowed)
        .or_else(|| parameter(query, "lastEventId"))
        .or_else(|| parameter(query, "last_event_id"))
}

/// Returns where a client without an id wants to start: `from`, `since`, else the beginning.
pub(crate) fn start(query: Option<&str>) -> Result<Cursor, InvalidCursor> {
    match parameter(query, "from").as_deref() {
        None => {}
        Some("beginning") => return Ok(Cursor::Beginning),
        Some("latest") => return Ok(Cursor::Latest),
        Some(_) => return Err(InvalidCursor::From),
    }
    match parameter(query, "since") {
        None => Ok(Cursor::Beginning),
        Some(text) => time(&text).map(Cursor::Since).ok_or(InvalidCursor::Since),
    }
}

/// Returns the first value of this name in a query that is not empty.
pub(crate) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(key, value)| key == name && !value.is_empty())
        .map(|(_, value)| value)
}

/// Returns whether a request's `Accept` names [`CONTENT_TYPE`], as that of every `EventSource` does
/// (section 9.2.2). `*/*` does not count: programs send it that accept anything.
#[must_use]
pub fn accepts_events(accept: Option<&str>) -> bool {
    let types = accept.unwrap_or_default().split(',');
    types
        .filter_map(|range| range.split(';').next())
        .any(|range| range.trim().eq_ignore_ascii_case(CONTENT_TYPE))
}

/// Reads a time as RFC 3339 in UTC, or as milliseconds since 1970.
pub(crate) fn time(text: &str) -> Option<SystemTime> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(clock::from_milliseconds);
    }
    humantime::parse_rfc3339(text).ok()
}

/// The error for a malformed position in a request. Answer `400` with its `Display` as the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidCursor {
    /// The `Last-Event-ID` (or the query parameter in its place) is not an id.
    Id(InvalidEventId),
    /// `from` is neither `beginning` nor `latest`.
    From,
    /// `since` is not a time.
    Since,
    /// The `Last-Event-ID` of a merged stream is not one of its ids.
    Merged,
}

impl fmt::Display for InvalidCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(reason) => write!(f, "invalid Last-Event-ID: {reason}"),
            Self::Merged => f.write_str(
                "invalid Last-Event-ID: it is not a position of a merged stream: use the id of its last event",
            ),
            Self::From => f.write_str("invalid from: use from=latest or from=beginning"),
            Self::Since => f.write_str(
                "invalid since: use a time such as 2026-11-24T09:00:00Z, or milliseconds since 1970",
            ),
        }
    }
}

impl std::error::Error for InvalidCursor {}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> EventId {
        EventId::new(number).unwrap()
    }

    fn bytes(event_type: &str, data: &str) -> String {
        let event = StoredEvent {
            id: id(7),
            event_type: event_type.into(),
            data: data.into(),
            timestamp: SystemTime::UNIX_EPOCH,
        };
        let mut out = Vec::new();
        encode(&event, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_event_is_these_bytes() {
        assert_eq!(
            bytes("completed", r#"{"taskId":"charge card-1"}"#),
            "id: 7\nevent: completed\ndata: {\"taskId\":\"charge card-1\"}\n\n"
        );
        assert_eq!(bytes("t", ""), "id: 7\nevent: t\ndata: \n\n");
    }

    #[test]
    fn every_line_end_starts_a_data_line() {
        assert_eq!(
            bytes("t", "a\nb\rc\r\nd\n"),
            "id: 7\nevent: t\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"
        );
        assert_eq!(
            bytes("t", "\n\r"),
            "id: 7\nevent: t\ndata: \ndata: \ndata: \n\n"
        );
    }

    #[test]
    fn numbers_are_decimal() {
        let encoded = |number, width| {
            let mut out = Vec::new();
            encode_number(number, width, &mut out);
            String::from_utf8(out).unwrap()
        };
        for number in [0, 1, 9, 10, 1_795_510_800_000, EventId::MAX, u64::MAX] {
            assert_eq!(encoded(number, 0), number.to_string());
            assert_eq!(encoded(number, 16), format!("{number:016}"));
        }
    }

    #[test]
    fn a_reset_has_no_id() {
        let mut out = Vec::new();
        let reset = Reset {
            requested: Some(id(99)),
            oldest: Some(id(3)),
            head: None,
        };
        encode_reset(&reset, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "event: reset\ndata: {\"requested\":99,\"oldest\":3,\"head\":null}\n\n"
        );
    }

    #[test]
    fn a_position_is_an_id_and_no_event() {
        let mut out = Vec::new();
        encode_position(Some(id(7)), &mut out);
        encode_position(None, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "id: 7\n\nid: 9007199254740991\n\n");
        let none = cursor(Some("9007199254740991"), Some("from=latest"));
        assert_eq!(none, Ok(Cursor::After(id(EventId::MAX))));
    }

    #[test]
    fn each_parameter_of_a_position_is_read() {
        for name in POSITION {
            let of = |value| cursor(None, Some(&format!("{name}={value}")));
            let read = [of("7"), of("latest")];
            assert!(
                read.iter().any(|read| *read != Ok(Cursor::Beginning)),
                "{name}"
            );
        }
    }

    #[test]
    fn the_header_wins_and_bad_ids_are_refused() {
        let after = |n| Ok(Cursor::After(id(n)));
        assert_eq!(cursor(None, None), Ok(Cursor::Beginning));
        assert_eq!(cursor(Some("3"), Some("lastEventId=4")), after(3));
        assert_eq!(cursor(Some(""), Some("lastEventId=4")), after(4));
        assert_eq!(cursor(Some(" \t"), Some("lastEventId=4")), after(4));
        assert_eq!(cursor(Some(" 3\t"), None), after(3));
        assert_eq!(
            cursor(None, Some("a=b&last_event_id=5&from=latest")),
            after(5)
        );
        assert_eq!(cursor(None, Some("lastEventId=&last_event_id=5")), after(5));
        assert_eq!(
            cursor(None, Some("lastEventId=&lastEventId=5&lastEventId=6")),
            after(5)
        );
        assert_eq!(cursor(None, Some("from=latest")), Ok(Cursor::Latest));
        assert_eq!(cursor(None, Some("from=now")), Err(InvalidCursor::From));
        let long = "1".repeat(100_000);
        for bad in [
            "12abc", "-1", "0", "1.5", "NaN", "%3A", "%FF", "%00", "%", "1%202", "%203", "1, 2",
            "3, 3", ", 3", "\u{663}", "\u{fffd}", &long,
        ] {
            assert!(cursor(Some(bad), None).is_err(), "{bad}");
            assert!(
                cursor(None, Some(&format!("lastEventId={bad}"))).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn an_event_source_says_what_it_accepts() {
        for accept in [
            "text/event-stream",
            "Text/Event-Stream",
            "application/json, text/event-stream",
            "text/event-stream;q=0.9,*/*;q=0.1",
        ] {
            assert!(accepts_events(Some(accept)), "{accept}");
        }
        for accept in [
            None,
            Some(""),
            Some("*/*"),
            Some("text/*"),
            Some("text/event-streams"),
        ] {
            assert!(!accepts_events(accept), "{accept:?}");
        }
    }

    #[test]
    fn a_time_is_understood_as_text_and_as_a_number() {
        let nine = clock::from_milliseconds(1_795_510_800_000);
        for since in [
            "2026-11-24T09:00:00Z",
            "2026-11-24T09%3A00%3A00.000Z",
            "1795510800000",
        ] {
            let query = format!("since={since}");
            assert_eq!(
                cursor(None, Some(&query)),
                Ok(Cursor::Since(nine)),
                "{since}"
            );
            assert_eq!(
                cursor(Some("3"), Some(&query)),
                Ok(Cursor::After(id(3))),
                "the header wins"
            );
        }
        for bad in [
            "yesterday",
            "-1",
            "2026-11-24",
            "1.5",
            "99999999999999999999",
        ] {
            let query = format!("since={bad}");
            assert_eq!(
                cursor(None, Some(&query)),
                Err(InvalidCursor::Since),
                "{bad}"
            );
        }
    }
}
