//! The budget of bytes of pages that may be under way on the connection.
//!
//! The server keeps the bytes that a client has not read yet, and closes the connection if they are
//! too many. The limit for clients that subscribe is the tightest, by default 32 MB at any time and
//! 8 MB over a minute, and a thousand viewers that replay a log at once ask for more than that. So
//! pages wait here for their turn. `CLIENT NO-EVICT` does not lift that limit. A second connection
//! for pages would have no such limit, but would let the server's memory grow instead, and would
//! cost each Worker request another socket.

use std::time::Duration;

use crate::clock::Instant;

/// The greatest budget: half of the server's default limit, and enough for a fast connection (400
/// MB/s if an answer takes 10 ms).
const MOST: usize = 4 << 20;
/// The smallest budget, and the least that a page may have.
const LEAST: usize = 16 * 1024;
/// The number of pages of the largest size that are under way at once.
const PAGES: usize = 16;
/// How long after a loss the budget takes to double.
const RECOVERY: Duration = Duration::from_secs(30);
/// The bytes of an event in a page, beside its data: its type, its numbers, and the protocol.
const OVERHEAD: usize = 128;

/// The budget, which losses of the connection reduce.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    bytes: usize,
    lost: Option<Instant>,
}

/// The size that a page may have as a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplySize {
    wanted: usize,
    least: usize,
}

impl Budget {
    pub(super) const fn new() -> Self {
        Self {
            bytes: MOST,
            lost: None,
        }
    }

    /// Returns how many bytes may be under way.
    pub(super) fn bytes(&self) -> usize {
        let Some(lost) = self.lost else {
            return self.bytes;
        };
        let doublings = lost.elapsed().as_secs() / RECOVERY.as_secs();
        let factor = 1 << doublings.min(16);
        self.bytes.saturating_mul(factor).min(MOST)
    }

    /// Returns the budget after a connection was lost with `under_way` bytes under way: a quarter
    /// of them. They may be the reason, and the server does not name one.
    pub(super) fn after_loss(self, under_way: usize) -> Self {
        if under_way <= LEAST {
            return self;
        }
        Self {
            bytes: (self.bytes().min(under_way) / 4).max(LEAST),
            lost: Some(Instant::now()),
        }
    }
}

impl ReplySize {
    /// Returns the size of a page with these limits. A page of a single event may need more:
    /// `least`, if that is known.
    pub(super) fn new(events: usize, bytes: usize, least: usize) -> Self {
        Self {
            wanted: bytes.saturating_add(events.saturating_mul(OVERHEAD)),
            least: least.max(LEAST),
        }
    }

    /// Returns the bytes that the page may have within this budget.
    pub(super) fn within(self, budget: usize) -> usize {
        self.wanted.min(budget / PAGES).max(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_costs_three_quarters_of_what_was_under_way_and_time_restores_it() {
        let budget = Budget::new();
        assert_eq!(budget.bytes(), MOST);
        // Too little to be the cause.
        assert_eq!(budget.after_loss(0).bytes(), MOST);
        assert_eq!(budget.after_loss(MOST).bytes(), MOST / 4);
        let mut least = budget;
        for _ in 0..10 {
            least = least.after_loss(MOST);
        }
        assert_eq!(least.bytes(), LEAST);
        let earlier = |by: u32| Instant::now().checked_sub(RECOVERY * by);
        let Some(lost) = earlier(2) else { return };
        let restored = Budget {
            lost: Some(lost),
            ..least
        };
        assert_eq!(restored.bytes(), LEAST * 4);
        let Some(lost) = earlier(1000) else { return };
        let restored = Budget {
            lost: Some(lost),
            ..least
        };
        assert_eq!(restored.bytes(), MOST);
    }

    #[test]
    fn a_page_has_what_it_wants_or_its_part_of_the_budget_and_room_for_an_event() {
        let page = |events, bytes, least| ReplySize::new(events, bytes, least).within(MOST);
        assert_eq!(page(0, 0, 0), LEAST);
        assert_eq!(page(512, 128 * 1024, 0), 192 * 1024);
        assert_eq!(page(usize::MAX, usize::MAX, 0), MOST / 16);
        assert_eq!(page(1, 1, 1 << 20), 1 << 20);
        let all = ReplySize::new(usize::MAX, usize::MAX, 0);
        assert_eq!(all.within(LEAST), LEAST);
    }
}
