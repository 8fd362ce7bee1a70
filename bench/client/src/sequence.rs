//! Whether a viewer got every event once and in order.

/// The ids that one viewer has got so far.
pub(crate) struct Sequence {
    /// The id after which it asked to begin.
    after: u64,
    seen: Vec<u64>,
    newest: u64,
    /// How many different events it has got.
    pub(crate) distinct: u64,
    pub(crate) duplicates: u64,
    /// Events that came after one with a greater id.
    pub(crate) disorder: u64,
    /// Events whose data is not that of their id, or that were not asked for.
    pub(crate) wrong: u64,
}

impl Sequence {
    pub(crate) fn new(after: u64) -> Self {
        Self {
            after,
            seen: Vec::new(),
            newest: after,
            distinct: 0,
            duplicates: 0,
            disorder: 0,
            wrong: 0,
        }
    }

    /// `number` is the one that the driver put into the event: the first event of a log is 1.
    #[allow(clippy::cast_possible_truncation, reason = "ids count a few events")]
    pub(crate) fn record(&mut self, id: u64, number: Option<u64>) {
        if number != Some(id) || id <= self.after {
            self.wrong += 1;
        }
        let Some(index) = id.checked_sub(self.after + 1) else {
            return;
        };
        let (word, bit) = ((index / 64) as usize, 1 << (index % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let Some(word) = self.seen.get_mut(word) else {
            return;
        };
        if *word & bit != 0 {
            self.duplicates += 1;
            return;
        }
        *word |= bit;
        self.distinct += 1;
        if id < self.newest {
            self.disorder += 1;
        } else {
            self.newest = id;
        }
    }

    /// How many events before the newest one have not come.
    pub(crate) fn gaps(&self) -> u64 {
        self.newest - self.after - self.distinct
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_duplicates_and_disorder_are_told_apart() {
        let mut sequence = Sequence::new(10);
        for id in [11, 12, 12, 15, 14, 200] {
            sequence.record(id, Some(id));
        }
        assert_eq!(sequence.distinct, 5);
        assert_eq!(sequence.duplicates, 1);
        assert_eq!(sequence.disorder, 1);
        assert_eq!(sequence.gaps(), 190 - 5);
        assert_eq!(sequence.wrong, 0);
    }

    #[test]
    fn what_was_not_asked_for_is_wrong() {
        let mut sequence = Sequence::new(10);
        sequence.record(10, Some(10));
        sequence.record(11, Some(12));
        sequence.record(12, None);
        assert_eq!(sequence.wrong, 3);
    }
}
