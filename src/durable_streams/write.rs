//! Events as messages, and the ends of the log as headers and control events.

use std::borrow::Cow;
use std::time::SystemTime;

use serde::de::IgnoredAny;

use super::ask::DIGITS;
use crate::clock;
use crate::event::{EventId, StoredEvent};

/// The end of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// The last event that the client then has.
    pub(super) next: Option<EventId>,
    /// No further event is there now.
    pub(super) is_up_to_date: bool,
    /// No further event will come.
    pub(super) is_closed: bool,
}

impl Ends {
    pub(super) fn offset(&self) -> String {
        let id = self.next.map_or(0, EventId::get);
        format!("{id:0DIGITS$}")
    }

    pub(super) fn headers(&self) -> impl Iterator<Item = (&'static str, Cow<'static, str>)> {
        let next = ("stream-next-offset", self.offset().into());
        let when = |is: bool, name| is.then_some((name, Cow::Borrowed("true")));
        std::iter::once(next)
            .chain(when(self.is_up_to_date, "stream-up-to-date"))
            .chain(when(self.is_closed, "stream-closed"))
    }
}

/// Returns the tag of an answer. It changes with the events and with the state of the log's end.
pub(super) fn etag(events: &[StoredEvent], ends: &Ends) -> String {
    let first = events.first().map_or(0, |event| event.id.get());
    // A log that was deleted and begun again has the same ids.
    let time = events
        .last()
        .map_or(0, |event| clock::milliseconds(event.timestamp));
    let next = ends.next.map_or(0, EventId::get);
    let end = match (ends.is_closed, ends.is_up_to_date) {
        (true, _) => ":c",
        (false, true) => ":t",
        (false, false) => "",
    };
    format!("\"{first}:{next}:{time}{end}\"")
}

/// Returns the messages as a JSON array.
pub(super) fn messages(events: &[StoredEvent]) -> Vec<u8> {
    let mut json = String::from("[");
    for (position, event) in events.iter().enumerate() {
        if position > 0 {
            json.push(',');
        }
        write_message(event, &mut json);
    }
    json.push(']');
    json.into_bytes()
}

/// Returns the messages, if there are any, and where they end, as events of the mode `sse`.
pub(super) fn event_frames(events: &[StoredEvent], ends: &Ends, cursor: u64) -> Vec<u8> {
    let mut text = String::new();
    if !events.is_empty() {
        text.push_str("event: data\ndata: [\n");
        for (position, event) in events.iter().enumerate() {
            text.push_str("data: ");
            write_message(event, &mut text);
            text.push_str(if position + 1 < events.len() {
                ",\n"
            } else {
                "\n"
            });
        }
        text.push_str("data: ]\n\n");
    }
    text.push_str("event: control\ndata: {\"streamNextOffset\":\"");
    text.push_str(&ends.offset());
    text.push('"');
    if !ends.is_closed {
        text.push_str(&format!(",\"streamCursor\":\"{cursor}\""));
    }
    for (is, field) in [
        (ends.is_up_to_date, ",\"upToDate\":true"),
        (ends.is_closed, ",\"streamClosed\":true"),
    ] {
        if is {
            text.push_str(field);
        }
    }
    text.push_str("}\n\n");
    text.into_bytes()
}

/// Writes an event as a message on one line. Data that is not JSON becomes a string.
fn write_message(event: &StoredEvent, json: &mut String) {
    // Writing to a string cannot fail.
    let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
    json.push_str(&format!("{{\"id\":{},\"type\":", event.id));
    json.push_str(&quoted(&event.event_type));
    json.push_str(",\"data\":");
    match serde_json::from_str::<IgnoredAny>(&event.data) {
        // A line end in JSON is a space between two of its parts.
        Ok(_) => json.extend(event.data.chars().map(|character| match character {
            '\n' | '\r' => ' ',
            other => other,
        })),
        Err(_) => json.push_str(&quoted(&event.data)),
    }
    json.push('}');
}

/// The start of the first interval: 9 October 2024, in seconds since 1970.
const EPOCH: u64 = 1_728_432_000;
/// The length of an interval, in seconds.
const INTERVAL: u64 = 20;

/// Returns the cursor of an answer: the number of the interval of `now`, or one that is greater than the client's, by
/// up to an hour. So no cache repeats its first answer for ever.
pub(super) fn cursor_after(client: Option<u64>, now: SystemTime, random: f64) -> u64 {
    let seconds = clock::milliseconds(now) / 1000;
    let current = seconds.saturating_sub(EPOCH) / INTERVAL;
    match client {
        Some(client) if client >= current => {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is from 0 to 3599"
            )]
            let jitter = 1 + (random.clamp(0.0, 1.0) * 3599.0) as u64;
            client.saturating_add(jitter.div_ceil(INTERVAL))
        }
        _ => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64, data: &str) -> StoredEvent {
        StoredEvent {
            id: EventId::new(id).unwrap(),
            event_type: "a \"note\"".into(),
            data: data.into(),
            timestamp: SystemTime::UNIX_EPOCH,
        }
    }

    fn ends(next: u64, is_up_to_date: bool, is_closed: bool) -> Ends {
        Ends {
            next: EventId::new(next),
            is_up_to_date,
            is_closed,
        }
    }

    #[test]
    fn messages_are_json_on_one_line() {
        let events = [
            event(1, "{\"a\":\r\n1}"),
            event(2, "no \"json\"\nat all"),
            event(3, "\"\\n\u{2028}\""),
        ];
        let json = String::from_utf8(messages(&events)).unwrap();
        assert!(!json.contains(['\n', '\r']), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            read,
            serde_json::json!([
                { "id": 1, "type": "a \"note\"", "data": { "a": 1 } },
                { "id": 2, "type": "a \"note\"", "data": "no \"json\"\nat all" },
                { "id": 3, "type": "a \"note\"", "data": "\n\u{2028}" },
            ])
        );
        assert_eq!(messages(&[]), b"[]");
    }

    #[test]
    fn control_events_say_where_the_client_is() {
        let text = |events: &[StoredEvent], ends: &Ends| {
            String::from_utf8(event_frames(events, ends, 5)).unwrap()
        };
        assert_eq!(
            text(&[], &ends(7, true, false)),
            "event: control\ndata: {\"streamNextOffset\":\"0000000000000007\",\"streamCursor\":\"5\",\"upToDate\":true}\n\n"
        );
        assert_eq!(
            text(&[event(1, "1"), event(2, "2")], &ends(2, true, true)),
            "event: data\ndata: [\ndata: {\"id\":1,\"type\":\"a \\\"note\\\"\",\"data\":1},\ndata: {\"id\":2,\"type\":\"a \\\"note\\\"\",\"data\":2}\ndata: ]\n\n\
             event: control\ndata: {\"streamNextOffset\":\"0000000000000002\",\"upToDate\":true,\"streamClosed\":true}\n\n"
        );
    }

    #[test]
    fn offsets_sort_as_text_and_are_no_sentinels() {
        let offsets: Vec<String> = [1, 9, 10, 99, 9_007_199_254_740_991]
            .map(|id| ends(id, false, false).offset())
            .into();
        assert!(offsets.is_sorted());
        assert!(offsets.iter().all(|offset| offset.len() == DIGITS));
    }

    #[test]
    fn a_tag_changes_with_the_end() {
        let events = [event(1, "1")];
        let tags = [(false, false), (true, false), (true, true)]
            .map(|(tail, closed)| etag(&events, &ends(1, tail, closed)));
        assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2]);
    }

    #[test]
    fn a_cursor_never_goes_back() {
        let now = clock::from_milliseconds((EPOCH + 1000 * INTERVAL) * 1000);
        assert_eq!(cursor_after(None, now, 0.5), 1000);
        assert_eq!(cursor_after(Some(999), now, 0.5), 1000);
        assert_eq!(cursor_after(Some(1000), now, 0.0), 1001);
        assert_eq!(cursor_after(Some(1000), now, 1.0), 1180);
        assert_eq!(cursor_after(Some(u64::MAX), now, 1.0), u64::MAX);
    }
}
