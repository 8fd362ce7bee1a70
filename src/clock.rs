//! Time as stores keep it: whole milliseconds since the Unix epoch.

use std::fmt;
use std::future::Future;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::sync::{BoxFuture, MaybeSend};

/// A monotonic clock, for deadlines. `std`'s own panics in WebAssembly.
#[cfg(all(feature = "redis", not(target_family = "wasm")))]
pub(crate) use std::time::Instant;
#[cfg(all(feature = "redis", target_family = "wasm"))]
pub(crate) use web_time::Instant;

/// A runtime's timer: a future that resolves after a duration.
pub(crate) type Sleep = Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;

pub(crate) fn sleep_with<F>(sleep: impl Fn(Duration) -> F + Send + Sync + 'static) -> Sleep
where
    F: Future<Output = ()> + MaybeSend + 'static,
{
    Arc::new(move |duration| Box::pin(sleep(duration)))
}

/// The clock of a store. Default: the machine's.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    pub(crate) fn new(clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(clock))
    }

    /// Returns the time in whole milliseconds.
    pub(crate) fn now(&self) -> SystemTime {
        from_milliseconds(milliseconds((self.0)()))
    }
}

// A clock that panicked is simply called again the next time; nothing here depends on its state.
// Without this impl a Durable Object could not hold a store with a clock.
impl UnwindSafe for Clock {}
impl RefUnwindSafe for Clock {}

impl Default for Clock {
    fn default() -> Self {
        // Not rounded: `Clock::now` does that.
        Self::new(of_machine)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Returns the machine's time in whole milliseconds.
pub(crate) fn now() -> SystemTime {
    from_milliseconds(milliseconds(of_machine()))
}

/// Returns the machine's time. `std`'s own clock panics in WebAssembly.
fn of_machine() -> SystemTime {
    #[cfg(target_family = "wasm")]
    return web_time::web::SystemTimeExt::to_std(web_time::SystemTime::now());
    #[cfg(not(target_family = "wasm"))]
    SystemTime::now()
}

/// Returns the milliseconds since the epoch. A time before the epoch counts as the epoch.
pub(crate) fn milliseconds(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since_epoch.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// Returns the time at these milliseconds since the epoch. A time out of the platform's range
/// counts as the epoch.
pub(crate) fn from_milliseconds(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_millis(milliseconds))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A clock that is never set back: where the one that it is read from is, it goes on from where it was.
#[derive(Debug, Default)]
pub(crate) struct SteadyClock {
    last: Duration,
    /// By how much the clock was set back, and when it was found out last.
    behind: Duration,
    set_back: Option<Duration>,
}

impl SteadyClock {
    /// Returns the time since the epoch, at `now` by the clock that may be set back.
    pub(crate) fn read(&mut self, now: SystemTime) -> Duration {
        let time = self.at(now);
        let back = self.last.saturating_sub(time);
        if back >= Duration::from_millis(1) {
            self.behind += back;
            self.set_back = Some(self.last);
        }
        self.last = self.last.max(time);
        self.last
    }

    /// Returns the time since the epoch as [`read`](Self::read) does, but never the same twice.
    pub(crate) fn tick(&mut self, now: SystemTime) -> Duration {
        let last = self.last;
        let time = self.read(now);
        if time == last {
            self.last += Duration::from_nanos(1);
        }
        self.last
    }

    /// Returns whether the clock was set back since then. How long ago that was is not known then.
    pub(crate) fn was_set_back_since(&self, time: Duration) -> bool {
        self.set_back.is_some_and(|set_back| set_back >= time)
    }

    /// Returns what another clock's time is by this one.
    pub(crate) fn at(&self, time: SystemTime) -> Duration {
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
        since_epoch.unwrap_or_default().saturating_add(self.behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_clock_goes_on_where_the_other_one_was_set_back() {
        let mut clock = SteadyClock::default();
        let mut read = |seconds: u64| clock.read(from_milliseconds(seconds * 1_000)).as_secs();
        assert_eq!(
            [10, 12, 9, 10, 13, 8].map(&mut read),
            [10, 12, 12, 13, 16, 16]
        );
        assert_eq!(clock.at(from_milliseconds(9_000)).as_secs(), 17);
        let since = |seconds: u64| clock.was_set_back_since(Duration::from_secs(seconds));
        assert!(since(12) && since(16) && !since(17));
        let now = from_milliseconds(8_000);
        let (first, second) = (clock.tick(now), clock.tick(now));
        assert!(first < second && second.as_secs() == 16);
    }
}
