//! Facts as bytes, on their way from a Worker to the object that keeps them. Written in the Worker, read in
//! the object; pure, and tested natively.
//!
//! The first byte is the version of the format. Then come the number of events and for each of them the
//! lengths of type, data and key (4 bytes each, little-endian) and a byte of flags, and then the
//! strings of all events, one after another. Neither side builds or parses JSON, nor copies a field.

use std::fmt;

use crate::event::{EventRef, KeyRef, NewEvent};

/// The version of the format. While a deploy is under way, Worker and object may be of different versions of
/// this crate. An object refuses a batch of another version; the Worker tries again, until it finds the new
/// object.
const VERSION: u8 = 2;

/// The object's answer to a batch that it refuses as stale. Its answer to any other is the number of new facts.
#[cfg(feature = "cloudflare")]
pub(crate) const STALE: f64 = -1.0;

const HAS_KEY: u8 = 1;
const IS_TERMINAL: u8 = 2;

/// The number of bytes before the first event's head.
const START: usize = 5;
/// The number of bytes of an event's head: three lengths and the flags.
const HEAD: usize = 13;

/// Packs a batch for [`WorkflowLog::append_packed`](crate::cloudflare::object::log::WorkflowLog::append_packed).
#[must_use]
pub fn pack_facts(batch: &[NewEvent]) -> Vec<u8> {
    let strings: usize = batch.iter().map(NewEvent::size).sum();
    let mut out = Vec::with_capacity(START + batch.len() * HEAD + strings);
    out.push(VERSION);
    push_length(batch.len(), &mut out);
    for event in batch {
        push_length(event.event_type().len(), &mut out);
        push_length(event.data().len(), &mut out);
        push_length(event.key().map_or(0, str::len), &mut out);
        let has_key = event.key().map_or(0, |_| HAS_KEY);
        out.push(has_key | if event.is_terminal() { IS_TERMINAL } else { 0 });
    }
    for event in batch {
        out.extend_from_slice(event.event_type().as_bytes());
        out.extend_from_slice(event.data().as_bytes());
        out.extend_from_slice(event.key().unwrap_or_default().as_bytes());
    }
    out
}

/// Events are below 1 MiB each, and a call's argument is below 32 MiB.
fn push_length(length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

/// Unpacks the events of a batch, unchecked. Their strings stay where they are.
pub(crate) fn unpack_facts(batch: &[u8]) -> Result<Vec<EventRef<'_>>, InvalidBatch> {
    let (version, rest) = batch.split_first().ok_or(InvalidBatch::Bytes)?;
    if *version != VERSION {
        return Err(InvalidBatch::Version(*version));
    }
    let (count, rest) = rest.split_first_chunk().ok_or(InvalidBatch::Bytes)?;
    let heads = length(*count).checked_mul(HEAD);
    let (heads, strings) = heads
        .and_then(|heads| rest.split_at_checked(heads))
        .ok_or(InvalidBatch::Bytes)?;
    let mut strings = Strings(std::str::from_utf8(strings).map_err(|_| InvalidBatch::Bytes)?);
    let (heads, _) = heads.as_chunks::<HEAD>();
    let events = heads
        .iter()
        .map(|head| strings.event(head))
        .collect::<Option<Vec<_>>>()
        .ok_or(InvalidBatch::Bytes)?;
    if !strings.0.is_empty() {
        return Err(InvalidBatch::Bytes);
    }
    Ok(events)
}

/// Unpacks a batch into types, data, keys and whether each event is the last, for tests.
///
/// # Errors
/// [`InvalidBatch`].
#[doc(hidden)]
pub fn unpack(batch: &[u8]) -> Result<Vec<Unpacked>, InvalidBatch> {
    let owned = |event: EventRef<'_>| {
        let key = event.key.map(|key| key.to_owned());
        let (event_type, data) = (event.event_type.to_owned(), event.data.to_owned());
        (event_type, data, key, event.terminal)
    };
    Ok(unpack_facts(batch)?.into_iter().map(owned).collect())
}

type Unpacked = (String, String, Option<String>, bool);

/// The strings that no event has taken yet.
struct Strings<'a>(&'a str);

impl<'a> Strings<'a> {
    fn event(&mut self, head: &[u8; HEAD]) -> Option<EventRef<'a>> {
        let [t0, t1, t2, t3, d0, d1, d2, d3, k0, k1, k2, k3, flags] = *head;
        if flags & !(HAS_KEY | IS_TERMINAL) != 0 {
            return None;
        }
        let event_type = self.take(length([t0, t1, t2, t3]))?;
        let data = self.take(length([d0, d1, d2, d3]))?;
        let key = self.take(length([k0, k1, k2, k3]))?;
        Some(EventRef {
            event_type,
            data,
            key: (flags & HAS_KEY != 0).then(|| KeyRef::from(key)),
            terminal: flags & IS_TERMINAL != 0,
        })
    }

    fn take(&mut self, length: usize) -> Option<&'a str> {
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }
}

fn length(bytes: [u8; 4]) -> usize {
    usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX)
}

/// The reason why a batch cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidBatch {
    /// The batch is of another version of the format: a Worker of another version of this crate made it.
    Version(u8),
    /// [`pack_facts`] did not make the bytes.
    Bytes,
}

impl fmt::Display for InvalidBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(
                f,
                "a batch of version {version} came to an object that knows version {VERSION}: Worker \
                 and object are of different versions, as they are during a deploy"
            ),
            Self::Bytes => f.write_str("a batch of events is damaged"),
        }
    }
}

impl std::error::Error for InvalidBatch {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(event_type: &str, data: &str, key: Option<&str>, terminal: bool) -> NewEvent {
        let mut event = NewEvent::new(event_type, data).unwrap();
        if let Some(key) = key {
            event = event.with_key(key).unwrap();
        }
        if terminal { event.terminal() } else { event }
    }

    fn unpacked(bytes: &[u8]) -> Result<Vec<NewEvent>, InvalidBatch> {
        let owned = |e: EventRef<'_>| {
            let key = e.key.map(KeyRef::to_owned);
            event(e.event_type, e.data, key.as_deref(), e.terminal)
        };
        Ok(unpack_facts(bytes)?.into_iter().map(owned).collect())
    }

    fn some() -> Vec<NewEvent> {
        vec![
            event(
                "started",
                r#"{"step":"größe"}"#,
                Some("größe-1:started"),
                false,
            ),
            event("t", "", Some(""), false),
            event("ended", "a\r\nb", None, true),
        ]
    }

    #[test]
    fn packed_events_can_be_unpacked() {
        assert_eq!(unpacked(&pack_facts(&some())), Ok(some()));
        assert_eq!(unpacked(&pack_facts(&[])), Ok(Vec::new()));
    }

    #[test]
    fn a_batch_that_is_cut_short_or_too_long_is_refused() {
        let whole = pack_facts(&some());
        for end in 0..whole.len() {
            assert_eq!(unpacked(&whole[..end]), Err(InvalidBatch::Bytes), "{end}");
        }
        let longer = [whole.as_slice(), b"x"].concat();
        assert_eq!(unpacked(&longer), Err(InvalidBatch::Bytes));
    }

    #[test]
    fn another_version_is_distinguished_from_damage() {
        let mut batch = pack_facts(&some());
        // The first version, whose lifetimes had no numbers.
        batch[0] = 1;
        assert_eq!(unpacked(&batch), Err(InvalidBatch::Version(1)));
        let error = InvalidBatch::Version(1).to_string();
        assert!(error.contains("different versions"), "{error}");
    }

    #[test]
    fn lengths_and_flags_that_cannot_be_are_refused() {
        let batch = pack_facts(&some());
        let with = |at: usize, byte: u8| {
            let mut batch = batch.clone();
            batch[at] = byte;
            unpack_facts(&batch).map(drop)
        };
        let (count, data, flags) = (4, START + 7, START + 12);
        assert_eq!(with(count, 0xFF), Err(InvalidBatch::Bytes));
        assert_eq!(with(data, 0xFF), Err(InvalidBatch::Bytes));
        assert_eq!(with(flags, 4), Err(InvalidBatch::Bytes));
        // Into the middle of a character, and bytes that are not UTF-8 at all.
        assert_eq!(with(START, 7 + 12), Err(InvalidBatch::Bytes));
        assert_eq!(with(batch.len() - 1, 0xFF), Err(InvalidBatch::Bytes));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(mut bytes: Vec<u8>) {
            let _ = unpack_facts(&bytes);
            if let Some(version) = bytes.first_mut() {
                *version = VERSION;
            }
            let _ = unpack_facts(&bytes);
        }

        #[test]
        fn a_changed_byte_is_read_or_refused(at: prop::sample::Index, byte: u8) {
            let mut batch = pack_facts(&some());
            let at = at.index(batch.len());
            batch[at] = byte;
            let _ = unpack_facts(&batch);
        }
    }
}
