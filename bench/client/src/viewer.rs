//! The received part of one stream.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::sequence::Sequence;
use crate::sse::{Parser, Received};

/// Whether events are known by the driver's numbers: the ids of some stores, as those of Redis, are not 1, 2, 3.
pub(crate) static BY_NUMBER: AtomicBool = AtomicBool::new(false);

/// A viewer: parses, checks and takes times.
pub(crate) struct Viewer {
    parser: Parser,
    pub(crate) sequence: Sequence,
    pub(crate) first: Option<Instant>,
    pub(crate) last: Option<Instant>,
    /// When each event was received, if that is wanted: its id, and the time.
    pub(crate) times: Option<Vec<(u64, Instant)>>,
}

impl Viewer {
    /// Of a stream that begins after this id.
    pub(crate) fn new(after: u64) -> Self {
        Self {
            parser: Parser::default(),
            sequence: Sequence::new(after),
            first: None,
            last: None,
            times: None,
        }
    }

    pub(crate) fn with_times(mut self) -> Self {
        self.times = Some(Vec::new());
        self
    }

    pub(crate) fn feed(&mut self, bytes: &[u8], now: Instant) {
        let Self {
            parser,
            sequence,
            first,
            last,
            times,
        } = self;
        parser.feed(bytes, |Received { id, number }| {
            let Some(mut id) = id else { return };
            if BY_NUMBER.load(Ordering::Relaxed)
                && let Some(number) = number
            {
                id = number;
            }
            sequence.record(id, number);
            first.get_or_insert(now);
            *last = Some(now);
            if let Some(times) = times {
                times.push((id, now));
            }
        });
    }
}
