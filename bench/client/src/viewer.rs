//! The received part of one stream.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::sequence::{Counts, Sequence};
use crate::sse::{Parser, Received};

/// Whether events are known by the driver's numbers: the ids of some stores, as those of Redis, are not 1, 2, 3.
pub(crate) static BY_NUMBER: AtomicBool = AtomicBool::new(false);

/// A viewer: parses, checks and takes times.
pub(crate) struct Viewer {
    parser: Parser,
    /// One for each run of the stream.
    sequences: Vec<Sequence>,
    is_merged: bool,
    /// Events of runs that were not asked for.
    strange: u64,
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
            sequences: vec![Sequence::new(after)],
            is_merged: false,
            strange: 0,
            first: None,
            last: None,
            times: None,
        }
    }

    /// Of a stream of the logs `log-0` to `log-<runs - 1>`, from their beginnings. Its ids are positions in all of them, so
    /// events are known by the driver's numbers.
    pub(crate) fn of_runs(runs: usize) -> Self {
        Self {
            sequences: (0..runs).map(|_| Sequence::new(0)).collect(),
            is_merged: true,
            ..Self::new(0)
        }
    }

    /// What it has got, of all runs together.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts: Counts = self.sequences.iter().map(Sequence::counts).sum();
        counts.wrong += self.strange;
        counts
    }

    pub(crate) fn with_times(mut self) -> Self {
        self.times = Some(Vec::new());
        self
    }

    pub(crate) fn feed(&mut self, bytes: &[u8], now: Instant) {
        let Self {
            parser,
            sequences,
            is_merged,
            strange,
            first,
            last,
            times,
        } = self;
        parser.feed(bytes, |received| {
            let Received { number, run, .. } = received;
            let id = match *is_merged {
                true => number.filter(|_| received.has_id),
                false => received.id,
            };
            let Some(mut id) = id else { return };
            if BY_NUMBER.load(Ordering::Relaxed)
                && let Some(number) = number
            {
                id = number;
            }
            let place = if *is_merged { run } else { Some(0) };
            let place = place.and_then(|run| usize::try_from(run).ok());
            match place.and_then(|place| sequences.get_mut(place)) {
                Some(sequence) => sequence.record(id, number),
                None => *strange += 1,
            }
            first.get_or_insert(now);
            *last = Some(now);
            if let Some(times) = times {
                times.push((id, now));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_of_a_merged_stream_is_checked_on_its_own() {
        let mut viewer = Viewer::of_runs(2);
        let event = |run: u64, number: u64| {
            format!(
                "id: m1.{run}.{number}\ndata: {{\"runId\":\"log-{run}\",\"step\":\"#{number}-1\"}}\n\n"
            )
        };
        // One came twice, one is of a run that nobody asked for, and one is missing.
        for (run, number) in [(0, 1), (1, 1), (1, 1), (0, 2), (1, 3), (7, 1)] {
            viewer.feed(event(run, number).as_bytes(), Instant::now());
        }
        let expected = Counts {
            distinct: 4,
            duplicates: 1,
            disorder: 0,
            wrong: 1,
            gaps: 1,
        };
        assert_eq!(viewer.counts(), expected);
        // Without an id nobody could come back there.
        viewer.feed(
            b"data: {\"runId\":\"log-0\",\"step\":\"#3-1\"}\n\n",
            Instant::now(),
        );
        assert_eq!(viewer.counts(), expected);
    }
}
