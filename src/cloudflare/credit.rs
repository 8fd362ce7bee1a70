//! Flow control for bytes that are pushed: how much may be on the way to a reader. Runs in the object (`Credit`)
//! and in the Worker (`Taken`); pure, and tested natively.
//!
//! A reader acknowledges bytes only once it has taken more than half of the [`CREDIT`], not piece by piece. So a
//! quiet log costs hardly any acknowledgements.

/// The most unacknowledged bytes of a reader: half a page of the log.
pub(crate) const CREDIT: u32 = 64 * 1024;

/// A sender's account of one reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credit {
    unacknowledged: u32,
}

impl Credit {
    /// Restores an account from its [`unacknowledged`](Self::unacknowledged) bytes.
    pub(crate) fn resume(unacknowledged: u32) -> Self {
        Self { unacknowledged }
    }

    /// Returns the number of bytes that are not acknowledged.
    pub(crate) fn unacknowledged(self) -> u32 {
        self.unacknowledged
    }

    /// Returns the size of the next piece, `None` if none may be sent. It is all of the credit or half of it, so that
    /// readers at the same position get the same piece.
    pub(crate) fn left(self) -> Option<u32> {
        match self.unacknowledged {
            0 => Some(CREDIT),
            some => (some <= CREDIT / 2).then_some(CREDIT / 2),
        }
    }

    /// Counts bytes that were sent.
    pub(crate) fn sent(&mut self, bytes: u32) {
        self.unacknowledged = self.unacknowledged.saturating_add(bytes);
    }

    /// Counts bytes that the reader has acknowledged.
    pub(crate) fn acknowledged(&mut self, bytes: u32) {
        self.unacknowledged = self.unacknowledged.saturating_sub(bytes);
    }
}

/// A reader's account.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    unacknowledged: u32,
}

impl Taken {
    /// Counts bytes that were taken. Returns how many to acknowledge now, if any.
    pub fn take(&mut self, bytes: u32) -> Option<u32> {
        self.unacknowledged = self.unacknowledged.saturating_add(bytes);
        (self.unacknowledged > CREDIT / 2).then(|| std::mem::take(&mut self.unacknowledged))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// All bytes arrive, however many there are and whenever they are taken, and no more than the credit is on
        /// the way, except for a piece that is larger and cannot be cut.
        #[test]
        fn all_arrives_and_little_is_on_the_way(
            pieces in prop::collection::vec(1..=2 * CREDIT, 1..100),
            takes in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let (mut credit, mut taken) = (Credit::default(), Taken::default());
            let mut unsent: VecDeque<u32> = pieces.iter().copied().collect();
            let mut on_the_way = VecDeque::new();
            let mut takes = takes.into_iter();
            loop {
                while let Some(left) = credit.left() && let Some(piece) = unsent.pop_front() {
                    credit.sent(piece);
                    on_the_way.push_back(piece);
                    let total: u32 = on_the_way.iter().sum();
                    let uncut = piece.saturating_sub(left);
                    prop_assert!(total <= CREDIT + uncut);
                    prop_assert!(credit.unacknowledged() <= CREDIT + uncut);
                }
                if takes.next().unwrap_or(true) {
                    // Nothing to take while something is unsent would last for ever.
                    let Some(piece) = on_the_way.pop_front() else {
                        prop_assert!(unsent.is_empty());
                        break;
                    };
                    if let Some(bytes) = taken.take(piece) {
                        credit.acknowledged(bytes);
                    }
                }
                // The sender may forget everything except this at any time.
                credit = Credit::resume(credit.unacknowledged());
            }
        }

        /// Small pieces are acknowledged many at a time.
        #[test]
        fn acknowledgements_are_few(pieces in prop::collection::vec(1..=CREDIT / 100, 1..1000)) {
            let mut taken = Taken::default();
            let times = pieces.iter().filter(|piece| taken.take(**piece).is_some()).count();
            prop_assert!(times as u32 <= pieces.iter().sum::<u32>() / (CREDIT / 2));
        }
    }
}
