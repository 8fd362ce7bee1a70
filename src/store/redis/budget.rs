//! How many bytes of pages may be under way on the connection.
//!
//! The server keeps what a client has not read yet, and closes the connection of one that has too
//! much there. The limit for those who subscribe is the tightest, by default 32 MB at any time and
//! 8 MB over a minute, and a thousand viewers who replay a log at once ask for more than that. So
//! pages wait here for their turn. `CLIENT NO-EVICT` does not lift that limit. A second connection for them would have no such limit, but let
//! the server's memory grow instead, and cost each Worker request a socket more.

use std::time::Duration;

use crate::clock::Instant;

/// At most. Half of the server's default limit, and enough for a fast connection: 400 MB/s where
/// an answer takes 10 ms.
const MOST: usize = 4 << 20;
/// At least, and the least that a page may have.
const LEAST: usize = 16 * 1024;
/// So many pages of the largest size are under way at once.
const PAGES: usize = 16;
/// How long after a loss it takes to double.
const RECOVERY: Duration = Duration::from_secs(30);
/// Of an event in a page, beside its data: its type, its numbers, and what the protocol adds.
const OVERHEAD: usize = 128;

/// What is left after losses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    bytes: usize,
    lost: Option<Instant>,
}

/// How large a page may become as a reply.
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

    /// The bytes that may be under way.
    pub(super) fn bytes(&self) -> usize {
        let Some(lost) = self.lost else {
            return self.bytes;
        };
        let doublings = lost.elapsed().as_secs() / RECOVERY.as_secs();
        let factor = 1 << doublings.min(16);
        self.bytes.saturating_mul(factor).min(MOST)
    }

    /// What it is after a connection was lost on which so many bytes were under way: a quarter of
    /// them, for they may have been what the server had too much of. It does not say.
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
    /// Of a page with these limits. One that has a single event may need more: `least`, if that is
    /// known.
    pub(super) fn new(events: usize, bytes: usize, least: usize) -> Self {
        Self {
            wanted: bytes.saturating_add(events.saturating_mul(OVERHEAD)),
            least: least.max(LEAST),
        }
    }

    /// The bytes that it may have while the budget has so many.
    pub(super) fn within(self, budget: usize) -> usize {
        self.wanted.min(budget / PAGES).max(self.least)
    }
}

#[cfg(all(test, not(shuttle)))]
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
