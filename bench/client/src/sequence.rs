//! Whether a viewer got every event once and in order.

/// The faults of a viewer, and what it has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) distinct: u64,
    pub(crate) duplicates: u64,
    pub(crate) disorder: u64,
    pub(crate) wrong: u64,
    pub(crate) gaps: u64,
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |all, one| Self {
            distinct: all.distinct + one.distinct,
            duplicates: all.duplicates + one.duplicates,
            disorder: all.disorder + one.disorder,
            wrong: all.wrong + one.wrong,
            gaps: all.gaps + one.gaps,
        })
    }
}

/// The ids of one log that one viewer has got so far.
pub(crate) struct Sequence {
    /// The id after which it asked to begin.
    after: u64,
    seen: Vec<u64>,
    newest: u64,
    /// How many different events it has got.
    distinct: u64,
    duplicates: u64,
    /// Events that came after one with a greater id.
    disorder: u64,
    /// Events whose data is not that of their id, or that were not asked for.
    wrong: u64,
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

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            distinct: self.distinct,
            duplicates: self.duplicates,
            disorder: self.disorder,
            wrong: self.wrong,
            // How many events before the newest one have not come.
            gaps: self.newest - self.after - self.distinct,
        }
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
        let expected = Counts {
            distinct: 5,
            duplicates: 1,
            disorder: 1,
            wrong: 0,
            gaps: 190 - 5,
        };
        assert_eq!(sequence.counts(), expected);
    }

    #[test]
    fn what_was_not_asked_for_is_wrong() {
        let mut sequence = Sequence::new(10);
        sequence.record(10, Some(10));
        sequence.record(11, Some(12));
        sequence.record(12, None);
        assert_eq!(sequence.counts().wrong, 3);
    }
}
