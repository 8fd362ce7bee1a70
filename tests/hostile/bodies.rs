//! Properties that hold for any bytes from outside. Each body panics if its property does not hold.
//! `tests/hostile/main.rs` calls them with proptest, and `fuzz/` with cargo-fuzz.

use std::time::{Duration, SystemTime};

use ssetarget::access::{AccessRequest, Action, CapabilityLinks, LinkGrant, LinkKeys, Permission};
use ssetarget::client::{EventParser, RawEvent};
use ssetarget::internals::{pack_facts, resp_replies, unpack};
use ssetarget::workflow::{RunSnapshot, RunView};
use ssetarget::{Cursor, EventId, MergedCursor, NewEvent, StoredEvent, wire};

/// A body, by its name.
#[allow(dead_code, reason = "a fuzz target uses one of them")]
pub(crate) type Body = (&'static str, fn(&[u8]));

/// All bodies.
#[allow(dead_code, reason = "a fuzz target uses one of them")]
pub(crate) const BODIES: [Body; 8] = [
    ("positions", positions),
    ("wire", wire_round_trip),
    ("parser", parser),
    ("packed", packed),
    ("view", view),
    ("resp", resp),
    ("tokens", tokens),
    ("merged", merged),
];

/// A position from a header and one from a query are read the same way each time, and can exist in a log.
pub(crate) fn positions(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (header, query) = text.split_once('\0').unwrap_or((&text, ""));
    for (header, query) in [
        (Some(header), Some(query)),
        (None, Some(query)),
        (Some(header), None),
    ] {
        let first = wire::cursor(header, query);
        assert_eq!(first, wire::cursor(header, query));
        match first {
            Ok(Cursor::After(id)) => {
                assert!((1..=EventId::MAX).contains(&id.get()));
                let again = wire::cursor(Some(&id.get().to_string()), None);
                assert_eq!(again, Ok(Cursor::After(id)));
            }
            Ok(_) => {}
            Err(reason) => assert!(reason.to_string().len() < 1_000, "a refusal is short"),
        }
    }
}

fn parsed(bytes: &[u8], size: usize) -> Option<(Vec<RawEvent>, String, Option<Duration>)> {
    let (mut parser, mut events) = (EventParser::new(), Vec::new());
    for chunk in bytes.chunks(size.max(1)) {
        parser.feed(chunk, &mut events).ok()?;
    }
    Some((events, parser.last_event_id().to_owned(), parser.retry()))
}

/// Encoded events come out of the parser, which shares no code with the encoder, however the bytes are cut.
pub(crate) fn wire_round_trip(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut events = Vec::new();
    for part in text.split('\u{1}').take(64) {
        let (event_type, data) = part.split_once('\u{2}').unwrap_or(("note", part));
        if let Ok(event) = NewEvent::new(event_type, data) {
            events.push(event);
        }
    }
    let mut out = Vec::new();
    for (event, number) in events.iter().zip(1..) {
        let stored = StoredEvent {
            id: EventId::new(number).unwrap(),
            event_type: event.event_type().to_owned(),
            data: event.data().to_owned(),
            timestamp: SystemTime::UNIX_EPOCH,
        };
        wire::encode(&stored, &mut out);
    }
    let size = bytes.first().map_or(1, |byte| usize::from(*byte));
    let (seen, last, _) = parsed(&out, size).unwrap();
    assert_eq!(seen.len(), events.len());
    for ((event, raw), number) in events.iter().zip(&seen).zip(1u64..) {
        assert_eq!(raw.event_type, event.event_type());
        assert_eq!(
            raw.data,
            event.data().replace("\r\n", "\n").replace('\r', "\n")
        );
        assert!(raw.has_id);
        assert_eq!(raw.last_event_id, number.to_string());
    }
    let expected = if events.is_empty() {
        String::new()
    } else {
        events.len().to_string()
    };
    assert_eq!(last, expected);
}

/// The parser returns the same events for any bytes, however they are cut.
pub(crate) fn parser(bytes: &[u8]) {
    let whole = parsed(bytes, bytes.len());
    for size in [1, 2, 3, 7, 64] {
        assert_eq!(parsed(bytes, size), whole);
    }
}

/// If a batch can be unpacked, packing its events gives the same batch.
pub(crate) fn packed(bytes: &[u8]) {
    let Ok(events) = unpack(bytes) else {
        return;
    };
    let events: Option<Vec<NewEvent>> = events
        .into_iter()
        .map(|(event_type, data, key, is_terminal)| {
            let event = NewEvent::new(event_type, data).ok()?;
            let event = match key {
                Some(key) => event.with_key(key).ok()?,
                None => event,
            };
            Some(if is_terminal { event.terminal() } else { event })
        })
        .collect();
    if let Some(events) = events {
        let again = unpack(&pack_facts(&events)).unwrap();
        assert_eq!(again.len(), events.len());
        let same = events.iter().zip(&again).all(|(event, other)| {
            event.event_type() == other.0
                && event.data() == other.1
                && event.key() == other.2.as_deref()
        });
        assert!(same);
    }
}

/// Any events fold into a view, once each, and its snapshot can be read back from JSON.
pub(crate) fn view(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut view = RunView::new();
    let mut last = None;
    for (line, number) in text.lines().take(200).zip(1..) {
        let (event_type, data) = line.split_once(' ').unwrap_or((line, "{}"));
        let event = StoredEvent {
            id: EventId::new(number).unwrap(),
            event_type: event_type.to_owned(),
            data: data.to_owned(),
            timestamp: SystemTime::UNIX_EPOCH,
        };
        let applied = view.apply(&event).is_ok();
        if applied {
            last = Some(event.id);
            let before = view.clone();
            view.apply(&event).unwrap();
            assert_eq!(view, before, "an event counts once");
        }
    }
    let snapshot = RunSnapshot::new(&view, "any", None);
    assert_eq!(snapshot.cursor, last);
    let json = serde_json::to_string(&snapshot).unwrap();
    let read: RunSnapshot = serde_json::from_str(&json).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), json);
    let again = RunSnapshot::new(&read.into_view(), "any", None);
    assert_eq!(serde_json::to_string(&again).unwrap(), json);
}

/// Replies are the same however their bytes are cut. Bytes that are not RESP are an error. The parser of the crate
/// `redis` may notice it later if they come in pieces.
pub(crate) fn resp(bytes: &[u8]) {
    let whole = resp_replies(&[bytes]);
    for size in [1, 3, 64] {
        let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
        let cut = resp_replies(&chunks);
        if whole.is_some() {
            assert_eq!(cut, whole, "in chunks of {size}");
        }
    }
}

/// No token is accepted without the key, whatever its bytes are.
pub(crate) fn tokens(bytes: &[u8]) {
    let keys = LinkKeys::parse("k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8").unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let links = CapabilityLinks::new(keys, "order")
        .query_tokens()
        .clock(move || now);
    let good = links.token(&LinkGrant::run("o-1").expires_in(Duration::from_secs(60)));
    let asks = |authorization: Option<&str>, cookies: Option<&str>, query: Option<&str>| {
        let mut request = AccessRequest::new("o-1", Action::Watch);
        request.authorization = authorization;
        request.cookies = cookies;
        request.query = query;
        matches!(links.check(&request), Permission::Granted { .. })
    };
    assert!(asks(Some(&format!("Bearer {good}")), None, None));
    let text = String::from_utf8_lossy(bytes);
    if !text.contains(&good) {
        assert!(!asks(Some(&text), Some(&text), Some(&text)));
        assert!(!asks(Some(&format!("Bearer {text}")), None, None));
        assert!(links.session("o-1", "/o-1", &text).is_err());
    }
    // A changed token: the place, and the new byte.
    if let [place, change, ..] = bytes {
        let mut changed = good.clone().into_bytes();
        let place = (usize::from(*place) + bytes.len()) % changed.len();
        changed[place] ^= change & 0x7f;
        let changed = String::from_utf8_lossy(&changed).into_owned();
        assert_eq!(
            asks(Some(&format!("Bearer {changed}")), None, None),
            changed == good
        );
    }
}

/// A merged position that can be read is written again with the same meaning.
pub(crate) fn merged(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(cursor) = text.parse::<MergedCursor>() {
        let written = cursor.to_string();
        assert!(written.len() <= 2 + 64 * (1 + 8 + 11));
        assert_eq!(written.parse::<MergedCursor>(), Ok(cursor.clone()));
        assert_eq!(
            written.parse::<MergedCursor>().unwrap().to_string(),
            written
        );
    }
}
