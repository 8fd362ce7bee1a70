//! Bytes to events, by the rules of WHATWG HTML, section 9.2.6.

use std::fmt;
use std::time::Duration;

use memchr::memchr2;

/// The most bytes of one event, and of one line: 4 MiB. Our own servers send events of 1 MiB at most.
pub const MAX_EVENT: usize = 4 << 20;

/// An event as it came over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEvent {
    /// The `event:` field; `message` where there was none.
    pub event_type: String,
    /// The `data:` fields, with a line end between two of them.
    pub data: String,
    /// True if the event itself had an `id:` field.
    pub has_id: bool,
    /// The id of this or an earlier event of the stream, with which a client comes back. Empty if there
    /// was none.
    pub last_event_id: String,
}

/// Reads a stream of events in pieces of any length.
///
/// It follows the standard: a byte order mark at the start is skipped, lines end with CR, LF or both,
/// ids stay for the events that follow, an id with a NUL is ignored, bytes that are no UTF-8 become
/// U+FFFD. An event that the end of the stream cuts off is dropped. Memory is bounded by [`MAX_EVENT`].
///
/// ```
/// use ssetarget::client::EventParser;
///
/// let mut parser = EventParser::new();
/// let mut events = Vec::new();
/// parser.feed(b"id: 7\nevent: note\ndata: hel", &mut events)?;
/// assert!(events.is_empty());
/// parser.feed(b"lo\n\n", &mut events)?;
/// assert_eq!((events[0].event_type.as_str(), events[0].data.as_str()), ("note", "hello"));
/// assert_eq!(parser.last_event_id(), "7");
/// # Ok::<(), ssetarget::client::EventTooLarge>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct EventParser {
    /// An unfinished line.
    line: Vec<u8>,
    /// The last line ended with CR: an LF right after it belongs to it.
    after_cr: bool,
    /// The first line was read: no byte order mark can follow.
    has_begun: bool,
    event_type: String,
    data: String,
    id: Option<String>,
    last_event_id: String,
    retry: Option<Duration>,
}

/// An event, or a line, is larger than [`MAX_EVENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventTooLarge;

impl fmt::Display for EventTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an event has more than {MAX_EVENT} bytes")
    }
}

impl std::error::Error for EventTooLarge {}

impl EventParser {
    /// Returns a parser at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a parser at the start of a stream that goes on after this id.
    #[must_use]
    pub fn after(last_event_id: impl Into<String>) -> Self {
        Self {
            last_event_id: last_event_id.into(),
            ..Self::default()
        }
    }

    /// Returns the id that a client comes back with. Empty where there was none.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Returns the latest `retry:` of the stream.
    #[must_use]
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Reads the next bytes, and adds the events that they complete to `events`.
    ///
    /// # Errors
    /// When an event is too large. The parser is of no use after that.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        events: &mut Vec<RawEvent>,
    ) -> Result<(), EventTooLarge> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = memchr2(b'\n', b'\r', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() > MAX_EVENT {
                return Err(EventTooLarge);
            }
            let Some(end) = end else {
                self.line.extend_from_slice(part);
                break;
            };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if self.line.is_empty() {
                self.read(part, events)?;
            } else {
                self.line.extend_from_slice(part);
                let mut line = std::mem::take(&mut self.line);
                self.read(&line, events)?;
                line.clear();
                self.line = line;
            }
        }
        Ok(())
    }

    fn read(&mut self, mut line: &[u8], events: &mut Vec<RawEvent>) -> Result<(), EventTooLarge> {
        if !std::mem::replace(&mut self.has_begun, true) {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(events);
            return Ok(());
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(0) => return Ok(()),
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => self.event_type = String::from_utf8_lossy(value).into_owned(),
            b"data" => {
                let value = String::from_utf8_lossy(value);
                if self.data.len() + value.len() >= MAX_EVENT {
                    return Err(EventTooLarge);
                }
                self.data.reserve(value.len() + 1);
                self.data.push_str(&value);
                self.data.push('\n');
            }
            b"id" if !value.contains(&0) => {
                self.id = Some(String::from_utf8_lossy(value).into_owned());
            }
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                let milliseconds = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                self.retry = milliseconds.map(Duration::from_millis).or(self.retry);
            }
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self, events: &mut Vec<RawEvent>) {
        let id = self.id.take();
        let has_id = id.is_some();
        if let Some(id) = id {
            self.last_event_id = id;
        }
        let mut event_type = std::mem::take(&mut self.event_type);
        let mut data = std::mem::take(&mut self.data);
        if data.pop().is_none() {
            return;
        }
        if event_type.is_empty() {
            event_type.push_str("message");
        }
        events.push(RawEvent {
            event_type,
            data,
            has_id,
            last_event_id: self.last_event_id.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (type, data, last event id)
    type Seen<'a> = (&'a str, &'a str, &'a str);

    /// The rules of the standard, and its examples.
    const VECTORS: [(&str, &[u8], &[Seen<'_>], &str); 18] = [
        (
            "two lines of data",
            b"data: YHOO\ndata: +2\ndata: 10\n\n",
            &[("message", "YHOO\n+2\n10", "")],
            "",
        ),
        (
            "comment, ids, and no data at the end",
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
            &[("message", "first event", "1"), ("message", "second event", "")],
            "",
        ),
        (
            "empty data",
            b"data\n\ndata\ndata\n\ndata:\n",
            &[("message", "", ""), ("message", "\n", "")],
            "",
        ),
        (
            "a space after the colon",
            b"data:test\n\ndata: test\n\ndata:  test\n\n",
            &[("message", "test", ""), ("message", "test", ""), ("message", " test", "")],
            "",
        ),
        (
            "a byte order mark",
            b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n",
            &[("message", "a", ""), ("message", "c", "")],
            "",
        ),
        (
            "CR alone",
            b"event: x\rdata: a\r\rdata: b\r\r",
            &[("x", "a", ""), ("message", "b", "")],
            "",
        ),
        ("CR LF", b"data: a\r\ndata: b\r\n\r\n", &[("message", "a\nb", "")], ""),
        (
            "line ends of all kinds",
            b"data: a\r\rdata: b\n\ndata: c\r\n\r\ndata: d\r\n\r",
            &[
                ("message", "a", ""),
                ("message", "b", ""),
                ("message", "c", ""),
                ("message", "d", ""),
            ],
            "",
        ),
        ("an id alone is not an event, and counts", b"id: 5\n\n", &[], "5"),
        (
            "ids stay",
            b"id: 1\ndata: a\n\ndata: b\n\n",
            &[("message", "a", "1"), ("message", "b", "1")],
            "1",
        ),
        ("a comment and a blank line", b":\n\n: hello\n\n", &[], ""),
        (
            "an id with NUL is ignored",
            b"id: 1\ndata: a\n\nid: 2\x003\ndata: b\n\n",
            &[("message", "a", "1"), ("message", "b", "1")],
            "1",
        ),
        (
            "bytes that are no UTF-8",
            b"data: a\xffb\xe2\x82\n\n",
            &[("message", "a\u{fffd}b\u{fffd}", "")],
            "",
        ),
        (
            "unknown fields, and names in other cases",
            b"Data: a\ndatas: b\n data: c\ndata: d\nfoo\n\n",
            &[("message", "d", "")],
            "",
        ),
        (
            "the type is for one event",
            b"event: x\n\ndata: a\n\nevent: y\ndata: b\n\n",
            &[("message", "a", ""), ("y", "b", "")],
            "",
        ),
        ("a colon in the value", b"data: a:b: c\n\n", &[("message", "a:b: c", "")], ""),
        ("an unfinished event", b"data: a\n\nid: 9\ndata: b\n", &[("message", "a", "")], ""),
        ("an empty id", b"id: 3\ndata: a\n\nid:\ndata: b\n\n", &[("message", "a", "3"), ("message", "b", "")], ""),
    ];

    fn parse<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<RawEvent>, EventParser) {
        let (mut parser, mut events) = (EventParser::new(), Vec::new());
        for piece in pieces {
            parser.feed(piece, &mut events).unwrap();
        }
        (events, parser)
    }

    #[test]
    fn the_standards_rules_hold_however_the_bytes_are_cut() {
        for (name, bytes, expected, last_event_id) in VECTORS {
            for size in 1..=bytes.len() {
                let (events, parser) = parse(bytes.chunks(size));
                let seen: Vec<Seen<'_>> = events
                    .iter()
                    .map(|e| (&*e.event_type, &*e.data, &*e.last_event_id))
                    .collect();
                assert_eq!(seen, expected, "{name}, in pieces of {size}");
                assert_eq!(parser.last_event_id(), last_event_id, "{name}");
            }
        }
    }

    #[test]
    fn a_delay_is_a_whole_number() {
        for (bytes, expected) in [
            (&b"retry: 1500\n"[..], Some(1500)),
            (b"retry: 1500\nretry: 2s\n", Some(1500)),
            (b"retry: -1\n", None),
            (b"retry:\n", None),
            (b"retry: 99999999999999999999999\n", None),
        ] {
            let (_, parser) = parse(bytes.chunks(1));
            assert_eq!(parser.retry(), expected.map(Duration::from_millis));
        }
    }

    #[test]
    fn an_event_says_whether_the_id_is_its_own() {
        let (events, _) = parse([&b"id: 1\ndata: a\n\nevent: reset\ndata: b\n\n"[..]].into_iter());
        assert_eq!(
            events.iter().map(|e| e.has_id).collect::<Vec<_>>(),
            [true, false]
        );
    }

    #[test]
    fn nothing_grows_without_bound() {
        let line = vec![b'x'; MAX_EVENT / 4];
        let mut parser = EventParser::new();
        let results: Vec<_> = (0..5)
            .map(|_| parser.feed(&line, &mut Vec::new()))
            .collect();
        assert_eq!(
            results,
            [Ok(()), Ok(()), Ok(()), Ok(()), Err(EventTooLarge)]
        );
        assert!(parser.line.len() <= MAX_EVENT);

        let mut parser = EventParser::new();
        let fed = (0..MAX_EVENT).try_for_each(|_| parser.feed(b"data: abc\n", &mut Vec::new()));
        assert_eq!(fed, Err(EventTooLarge));
        assert!(parser.data.len() <= MAX_EVENT);
    }
}
