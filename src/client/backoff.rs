//! Computes how long a client waits before it comes back.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The delay before a first attempt to come back, unless the server says another: 1 s.
const BASE: Duration = Duration::from_secs(1);
/// The longest delay: 30 s.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest delay that a server can ask for: 5 min.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// Delays that double with each failure in a row: the first is what the server says, the second at least [`BASE`], so that
/// nobody hammers a server that says 0 and is then down. Each is between half of it and all of it, so that clients that one failure
/// disconnected together do not come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    base: Duration,
    failures: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: BASE,
            failures: 0,
        }
    }
}

impl Backoff {
    /// Takes the delay of a `retry:` field.
    pub(super) fn set_base(&mut self, base: Duration) {
        self.base = base.min(LONGEST_ASKED);
    }

    /// Events came: the next failure is the first in a row.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Returns the delay after a failure. `at_least` is a server's `Retry-After`; `random` is from 0
    /// to 1.
    pub(super) fn failed(&mut self, at_least: Option<Duration>, random: f64) -> Duration {
        let longest = LONGEST.max(self.base);
        let first = match self.failures {
            0 => self.base,
            // It is doubled.
            _ => self.base.max(BASE / 2),
        };
        let delay = first
            .saturating_mul(1 << self.failures.min(16))
            .min(longest);
        self.failures += 1;
        let jittered = delay.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0);
        jittered.max(at_least.unwrap_or_default().min(LONGEST_ASKED))
    }
}

/// Returns a random number from 0 to 1.
#[allow(clippy::cast_precision_loss, reason = "any number will do")]
pub(super) fn random() -> f64 {
    // The keys of a hasher are as random as the standard library gets.
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_a_limit_and_begin_again() {
        let mut backoff = Backoff::default();
        let delays: Vec<u64> = (0..8)
            .map(|_| backoff.failed(None, 1.0).as_secs())
            .collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30, 30]);
        backoff.succeeded();
        assert_eq!(backoff.failed(None, 0.0), Duration::from_millis(500));
        backoff.set_base(Duration::from_millis(50));
        backoff.succeeded();
        assert_eq!(backoff.failed(None, 1.0), Duration::from_millis(50));
        backoff.set_base(Duration::from_secs(1 << 40));
        assert_eq!(backoff.failed(None, 1.0), LONGEST_ASKED);
    }

    #[test]
    fn a_server_that_says_zero_is_not_hammered_while_it_is_down() {
        for (base, delays) in [
            (0, [0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000]),
            (20, [20, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000]),
            (1_500, [1_500, 3_000, 6_000, 12_000, 24_000, 30_000, 30_000]),
            (40_000, [40_000; 7]),
        ] {
            let mut backoff = Backoff::default();
            backoff.set_base(Duration::from_millis(base));
            let waits = delays.map(|_| backoff.failed(None, 1.0));
            assert_eq!(waits, delays.map(Duration::from_millis), "{base}");
            // Events came.
            backoff.succeeded();
            assert_eq!(backoff.failed(None, 1.0), Duration::from_millis(base));
        }
    }

    #[test]
    fn a_server_that_asks_for_more_time_gets_it_within_reason() {
        let mut backoff = Backoff::default();
        assert_eq!(
            backoff.failed(Some(Duration::from_secs(7)), 0.5),
            Duration::from_secs(7)
        );
        assert_eq!(
            backoff.failed(Some(Duration::from_secs(1 << 40)), 0.5),
            LONGEST_ASKED
        );
        for _ in 0..100 {
            assert!((0.0..=1.0).contains(&random()));
        }
    }
}
