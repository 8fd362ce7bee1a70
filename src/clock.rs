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

/// Writes a time as ISO 8601 in UTC with milliseconds. One before 1970 counts as its beginning, and one after 9999 as its
/// end. Not by `humantime`, which reads such times here: it writes them only after a check whose message needs the
/// `Debug` of durations, and with that 3 KB of every Worker.
pub(crate) fn iso(time: SystemTime) -> String {
    const MS_OF_DAY: u64 = 24 * 60 * 60 * 1_000;
    const LAST: u64 = 253_402_300_799_999;
    let time = milliseconds(time).min(LAST);
    let (mut days, time) = (time / MS_OF_DAY, time % MS_OF_DAY);

    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    loop {
        let length = 365 + u64::from(is_leap(year));
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }

    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut at = 0;
    for (digits, number) in [
        (4, year),
        (2, month),
        (2, days + 1),
        (2, time / 3_600_000),
        (2, time / 60_000 % 60),
        (2, time / 1_000 % 60),
        (3, time % 1_000),
    ] {
        let mut rest = number;
        for digit in text.iter_mut().skip(at).take(digits).rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        at += digits + 1;
    }
    text.iter().copied().map(char::from).collect()
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
    fn times_are_written_as_humantime_writes_them() {
        let days = (0..2_932_897)
            .step_by(7)
            .chain([59, 365, 789, 11_016, 47_540, 2_932_896]);
        for day in days {
            let time = from_milliseconds(day * 86_400_000 + day * 7_919 % 86_400_000);
            let expected = humantime::format_rfc3339_millis(time).to_string();
            assert_eq!(iso(time), expected);
        }
        for late in [253_402_300_799_999, 253_402_300_800_000, u64::MAX / 2] {
            assert_eq!(iso(from_milliseconds(late)), "9999-12-31T23:59:59.999Z");
        }
    }

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
