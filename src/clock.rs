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
        Self::new(now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Returns the machine's time. `std`'s own clock panics in WebAssembly.
pub(crate) fn now() -> SystemTime {
    #[cfg(target_family = "wasm")]
    let now = web_time::web::SystemTimeExt::to_std(web_time::SystemTime::now());
    #[cfg(not(target_family = "wasm"))]
    let now = SystemTime::now();
    from_milliseconds(milliseconds(now))
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
