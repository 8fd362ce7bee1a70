//! Several logs as one stream, which a client resumes exactly in each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write as _;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use serde::de::IgnoredAny;

use super::subscription::{Batch, Subscription};
use super::target::SseTarget;
use crate::event::{Cursor, EventId, StoredEvent};
use crate::store::{EventStore, PageLimit};
use crate::sync::{BoxFuture, MaybeSend};
use crate::wire;

/// The most logs that one merged stream reads: 64. Each event's id names a position in every one of them,
/// about ten bytes for each.
pub const MAX_MERGED: usize = 64;

/// Reads several logs as one stream.
///
/// Every log's events come in its own order, each once; the order of events of different logs is not defined. A log
/// that ends leaves the stream, and the stream ends with the last one. A position that one log cannot honour makes a
/// `reset` of that log, and the others go on.
///
/// On the wire, each event is as in its own log, except for two things: its `id:` is a [`MergedCursor`], the client's
/// position in all logs, and its data has a first member `runId` with the log's name. Data that is not a JSON object
/// becomes the string `data` beside `runId`.
///
/// One page of each log is in memory at most, and pages are smaller the more logs there are.
pub struct MergedSubscription<S: EventStore> {
    /// The logs that are in it, those that have ended, too, and whether each is being read.
    logs: BTreeMap<Arc<str>, bool>,
    limit: PageLimit,
    cursor: MergedCursor,
    reads: FuturesUnordered<Reading<S>>,
    /// Whether it started at the tail, so that the client must learn where that is.
    opening: bool,
}

type Reading<S> = BoxFuture<'static, (Arc<str>, Subscription<S>, ReadBatch<S>)>;
type ReadBatch<S> = Result<Option<Batch>, <S as EventStore>::Error>;

/// A merged stream that cannot be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum MergeError<E> {
    /// There are more logs than [`MAX_MERGED`], or none.
    Number(usize),
    /// A log's name comes twice.
    Repeated(String),
    /// A store failed.
    Store(E),
}

impl<S: EventStore + 'static> MergedSubscription<S> {
    /// Opens logs, each under its name, at `cursor`. A log that `cursor` does not name starts at `others`.
    ///
    /// # Errors
    /// [`MergeError`]; nothing is read then.
    pub async fn start<E>(
        logs: Vec<(String, SseTarget<E, S>)>,
        cursor: MergedCursor,
        others: Cursor,
    ) -> Result<Self, MergeError<S::Error>> {
        if logs.is_empty() || logs.len() > MAX_MERGED {
            return Err(MergeError::Number(logs.len()));
        }
        let mut seen = BTreeSet::new();
        if let Some((name, _)) = logs.iter().find(|(name, _)| !seen.insert(name.as_str())) {
            return Err(MergeError::Repeated(name.clone()));
        }
        let whole = PageLimit::default();
        let limit = PageLimit {
            events: whole.events.div_ceil(logs.len()),
            bytes: whole.bytes.div_ceil(logs.len()),
        };
        let mut merged = Self::none(MergedCursor::default(), limit);
        merged.opening = others == Cursor::Latest;
        let opened = logs
            .iter()
            .map(|(name, target)| target.subscribe(cursor.of(name).unwrap_or(others)));
        let opened = try_join_all(opened).await.map_err(MergeError::Store)?;
        for ((name, _), subscription) in logs.into_iter().zip(opened) {
            merged.add(&name, subscription);
        }
        Ok(merged)
    }

    /// Returns one of no logs, which are to [join](Self::join) it, for a client at this position, whose other logs start at
    /// `others`.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    pub(crate) fn of_none(cursor: MergedCursor, others: Cursor) -> Self {
        let whole = PageLimit::default();
        let limit = PageLimit {
            events: whole.events.div_ceil(16),
            bytes: whole.bytes.div_ceil(16),
        };
        let mut merged = Self::none(cursor, limit);
        merged.opening = others == Cursor::Latest;
        merged
    }

    fn none(cursor: MergedCursor, limit: PageLimit) -> Self {
        Self {
            logs: BTreeMap::new(),
            limit,
            cursor,
            reads: FuturesUnordered::new(),
            opening: false,
        }
    }

    /// Adds a log, at the client's position in it, or at `other` if it has none. One that has ended here and goes on is
    /// read again. Does nothing for a log that is being read, and for another one where there are [`MAX_MERGED`].
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    pub(crate) async fn join<E>(
        &mut self,
        name: &str,
        log: &SseTarget<E, S>,
        other: Cursor,
    ) -> Result<(), S::Error> {
        let is_read = self.logs.get(name).copied();
        if is_read == Some(true) || is_read.is_none() && self.logs.len() >= MAX_MERGED {
            return Ok(());
        }
        let at = self.cursor.of(name).unwrap_or(other);
        let subscription = log.subscribe(at).await?;
        // One that was read to its end, and still is at it, stays as it is.
        if is_read.is_none() || !subscription.has_ended() {
            self.add(name, subscription);
        }
        Ok(())
    }

    fn add(&mut self, name: &str, subscription: Subscription<S>) {
        self.cursor.set(name, subscription.cursor());
        let name: Arc<str> = Arc::from(name);
        let goes_on = !subscription.has_ended();
        self.logs.insert(Arc::clone(&name), goes_on);
        if goes_on {
            self.reads
                .push(read(name, subscription.with_page_limit(self.limit)));
        }
    }

    /// Takes out the logs that `stays` is false of: it gets the name of each, and whether it goes on.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    pub(crate) fn keep(&mut self, mut stays: impl FnMut(&str, bool) -> bool) {
        self.logs.retain(|name, goes_on| stays(name, *goes_on));
    }

    /// Has ids name no other logs than those that are in it.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    pub(crate) fn forget_others(&mut self) {
        let names: Vec<String> = self.logs.keys().map(|name| name.to_string()).collect();
        self.cursor.keep(names.iter());
    }

    /// Keeps the positions of these logs, which no longer exist, in the ids, so that a client that comes back names
    /// them again.
    #[must_use]
    pub fn remember(mut self, gone: &[String], cursor: &MergedCursor) -> Self {
        for name in gone {
            if let Some(position) = cursor.of(name) {
                self.cursor.set(name, position);
            }
        }
        self
    }

    /// Returns whether all logs have ended, and the client has all their events. Answer `204` then.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.reads.is_empty()
    }

    /// Returns the position in all logs, after everything that was returned.
    #[must_use]
    pub fn cursor(&self) -> &MergedCursor {
        &self.cursor
    }

    /// Returns the bytes of the position, once, where the client starts at the tail of some log: otherwise it would have no
    /// position until the first event, and miss what comes while it is away.
    pub(crate) fn opening(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.opening).then(|| format!("id: {}\n\n", self.cursor).into_bytes())
    }

    /// Waits for the next events of any log, and returns their bytes. Returns `None` when all have ended.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// When a store fails. The stream is over then, and a client resumes on a new one.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, S::Error> {
        if let Some(opening) = self.opening()
            && !self.has_ended()
        {
            return Ok(Some(opening));
        }
        while let Some((name, subscription, batch)) = self.reads.next().await {
            if !self.logs.contains_key(&name) {
                continue;
            }
            let bytes = match batch? {
                None => None,
                Some(Batch::Reset(reset)) => {
                    self.cursor.set(&name, subscription.cursor());
                    let mut out = Vec::new();
                    encode_reset_of(&name, &wire::reset_data(&reset), &mut out);
                    Some(out)
                }
                Some(Batch::Events(events)) => Some(self.encode(&name, &events)),
            };
            match subscription.has_ended() {
                true => {
                    self.logs.insert(name, false);
                }
                false => self.reads.push(read(name, subscription)),
            }
            if bytes.is_some() {
                return Ok(bytes);
            }
        }
        Ok(None)
    }

    /// Returns the bytes as a stream for [`keep_alive`](super::keep_alive), which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, S::Error>> + MaybeSend {
        stream::try_unfold(self, |mut merged| async move {
            let bytes = merged.next().await?;
            Ok(bytes.map(|bytes| (Bytes::from(bytes), merged)))
        })
    }

    fn encode(&mut self, name: &str, events: &[StoredEvent]) -> Vec<u8> {
        let mut out = Vec::new();
        for event in events {
            self.cursor.set(name, Cursor::After(event.id));
            encode_event(&self.cursor, name, &event.event_type, &event.data, &mut out);
        }
        out
    }
}

fn read<S: EventStore + 'static>(name: Arc<str>, mut subscription: Subscription<S>) -> Reading<S> {
    Box::pin(async move {
        let batch = subscription.next().await;
        (name, subscription, batch)
    })
}

impl<S: EventStore> fmt::Debug for MergedSubscription<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MergedSubscription")
            .field("logs", &self.logs)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

/// Appends the bytes of an event of the log of this name. `cursor` is the position after it.
pub(crate) fn encode_event(
    cursor: &impl fmt::Display,
    name: &str,
    event_type: &str,
    data: &str,
    out: &mut Vec<u8>,
) {
    // A vector takes all that is written into it.
    let _ = writeln!(out, "id: {cursor}");
    wire::encode_unnumbered(event_type, &add_run_id(data, name), out);
}

/// Appends the bytes of the `reset` of the log of this name, whose data in its own stream is `data`.
pub(crate) fn encode_reset_of(name: &str, data: &str, out: &mut Vec<u8>) {
    wire::encode_unnumbered("reset", &add_run_id(data, name), out);
}

/// Returns the data with a first member `runId`.
fn add_run_id(data: &str, name: &str) -> String {
    // A string can always be written as JSON.
    let string = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let members = data.strip_prefix('{');
    let members = members.filter(|_| serde_json::from_str::<IgnoredAny>(data).is_ok());
    let name = string(name);
    // In one allocation, since this is done for each event.
    let mut with_run = String::with_capacity(data.len() + name.len() + 24);
    with_run.push_str("{\"runId\":");
    with_run.push_str(&name);
    match members {
        Some(members) => {
            if !members.trim_start().starts_with('}') {
                with_run.push(',');
            }
            with_run.push_str(members);
        }
        None => {
            with_run.push_str(",\"data\":");
            with_run.push_str(&string(data));
            with_run.push('}');
        }
    }
    with_run
}

/// A position in several logs: the `id:` of a merged stream's events.
///
/// As a string it is opaque to clients: `m1` and, for each log, a hash of its name and the id of the last event
/// read, separated by `.`. It does not depend on the order of the logs, and a stream of other logs uses
/// the parts that belong to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergedCursor(BTreeMap<u64, u64>);

/// The error for text that is not a [`MergedCursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidMergedCursor;

/// The beginning of every merged position. A new format will get a new number.
const FORM: &str = "m1";

/// Hashes have 40 bits, eight digits of five bits. Among [`MAX_MERGED`] names, the chance that two are alike is 1 in
/// 500 million.
const DIGITS: usize = 8;

/// The most bytes that a log has in a position: a dot, the hash, and an id of 53 bits.
const PART: usize = 1 + DIGITS + 11;

impl MergedCursor {
    /// Returns the position in the log of this name; `None` if this position does not name the log.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<Cursor> {
        let id = *self.0.get(&hash(name))?;
        Some(EventId::new(id).map_or(Cursor::Beginning, Cursor::After))
    }

    /// Returns how many logs it names.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets the log of this name.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(&hash(name));
    }

    /// Forgets one log, if it names another one than these.
    #[cfg_attr(not(feature = "index"), allow(dead_code))]
    pub(crate) fn remove_another<'a>(&mut self, kept: impl Iterator<Item = &'a str>) {
        let kept: BTreeSet<u64> = kept.map(hash).collect();
        let another = self.0.keys().find(|name| !kept.contains(name)).copied();
        another.map(|name| self.0.remove(&name));
    }

    /// Forgets all other logs.
    pub(crate) fn keep<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        let kept: BTreeSet<u64> = names.map(|name| hash(name)).collect();
        self.0.retain(|name, _| kept.contains(name));
    }

    pub(crate) fn set(&mut self, name: &str, cursor: Cursor) {
        let id = match cursor {
            Cursor::After(id) => id.get(),
            _ => 0,
        };
        self.0.insert(hash(name), id);
    }
}

impl fmt::Display for MergedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORM)?;
        // One write for each log, since this is done for each event.
        for (name, id) in &self.0 {
            let mut part = [b'.'; PART];
            let length = write_part(&mut part, *name, *id);
            let part = part.get(PART - length..).unwrap_or_default();
            f.write_str(std::str::from_utf8(part).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl FromStr for MergedCursor {
    type Err = InvalidMergedCursor;

    fn from_str(text: &str) -> Result<Self, InvalidMergedCursor> {
        Self::parse(text, MAX_MERGED)
    }
}

impl MergedCursor {
    /// Reads the position in at most so many logs.
    pub(crate) fn parse(text: &str, most: usize) -> Result<Self, InvalidMergedCursor> {
        let mut parts = text.split('.');
        if parts.next() != Some(FORM) {
            return Err(InvalidMergedCursor);
        }
        let mut positions = BTreeMap::new();
        for part in parts {
            let (name, id) = part.split_at_checked(DIGITS).ok_or(InvalidMergedCursor)?;
            let id = read_digits(id).filter(|id| *id <= EventId::MAX);
            let (name, id) = read_digits(name).zip(id).ok_or(InvalidMergedCursor)?;
            if positions.insert(name, id).is_some() || positions.len() > most {
                return Err(InvalidMergedCursor);
            }
        }
        Ok(Self(positions))
    }
}

impl fmt::Display for InvalidMergedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is not a position of a merged stream: use the id of its last event")
    }
}

impl std::error::Error for InvalidMergedCursor {}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

/// Writes a hash and an id so that they end where `part` does. Returns how many bytes they have with the dot before them,
/// which is there already.
fn write_part(part: &mut [u8; PART], name: u64, id: u64) -> usize {
    let mut length = 1;
    let mut places = part.iter_mut().rev();
    for (mut number, least) in [(id, 1), (name, DIGITS)] {
        let bits = u64::BITS - number.leading_zeros();
        let digits = (bits.div_ceil(5) as usize).max(least);
        for place in places.by_ref().take(digits) {
            let digit = ALPHABET.get(usize::try_from(number & 31).unwrap_or_default());
            *place = digit.copied().unwrap_or_default();
            number >>= 5;
        }
        length += digits;
    }
    length
}

fn read_digits(text: &str) -> Option<u64> {
    // Eleven digits have 55 bits.
    if text.is_empty() || text.len() > 11 {
        return None;
    }
    text.bytes().try_fold(0, |number, byte| {
        let digit = ALPHABET.iter().position(|digit| *digit == byte)?;
        Some(number << 5 | u64::try_from(digit).ok()?)
    })
}

/// Returns 40 bits of the FNV-1a hash, folded, which is the same in each process and version.
fn hash(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 40)) & ((1 << 40) - 1)
}

impl<E: fmt::Display> fmt::Display for MergeError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(0) => f.write_str("name at least one run: ?run=<id>&run=<id>"),
            Self::Number(number) => write!(
                f,
                "{number} runs are too many for one stream: name up to {MAX_MERGED}"
            ),
            Self::Repeated(name) => write!(f, "the run {name} is named twice"),
            Self::Store(error) => write!(f, "a log cannot be read: {error}"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for MergeError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written() {
        let mut cursor = MergedCursor::default();
        assert_eq!(cursor.to_string(), "m1");
        cursor.set("a", Cursor::After(EventId::new(7).unwrap()));
        cursor.set("b", Cursor::Beginning);
        cursor.set("c", Cursor::After(EventId::new(EventId::MAX).unwrap()));
        let text = cursor.to_string();
        assert_eq!(text.parse(), Ok(cursor));
        assert!(text.len() < 60, "{text}");
    }

    #[test]
    fn other_text_is_no_position() {
        for text in [
            "",
            "7",
            "m2",
            "m1.",
            "m1.0000000",
            "m1.00000000",
            "m1.0000000-1",
            "m1.0000000é1",
            "m1.00000000w",
            "m1.00000000vvvvvvvvvvv",
            "m1.000000001.000000001",
            " m1",
            "m1\n",
        ] {
            assert_eq!(
                text.parse::<MergedCursor>(),
                Err(InvalidMergedCursor),
                "{text}"
            );
        }
        let long = format!("m1{}", ".000000000".repeat(MAX_MERGED + 1));
        assert_eq!(long.parse::<MergedCursor>(), Err(InvalidMergedCursor));
    }

    #[test]
    fn data_gets_the_run() {
        for (data, expected) in [
            (r#"{"a":1}"#, r#"{"runId":"r\"1","a":1}"#),
            ("{}", r#"{"runId":"r\"1"}"#),
            ("{\n}", "{\"runId\":\"r\\\"1\"\n}"),
            ("[1]", r#"{"runId":"r\"1","data":"[1]"}"#),
            ("{no", r#"{"runId":"r\"1","data":"{no"}"#),
            ("", r#"{"runId":"r\"1","data":""}"#),
        ] {
            assert_eq!(add_run_id(data, "r\"1"), expected);
        }
    }
}
