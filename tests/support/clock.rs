//! A clock that tests set.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Clones are the same clock.
#[derive(Clone, Debug)]
pub(crate) struct ManualClock {
    milliseconds: Arc<AtomicU64>,
}

impl ManualClock {
    pub(crate) fn new() -> Self {
        Self {
            milliseconds: Arc::new(AtomicU64::new(1_700_000_000_000)),
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        let milliseconds = self.milliseconds.load(Ordering::SeqCst);
        SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.set(self.now() + by);
    }

    pub(crate) fn set(&self, time: SystemTime) {
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let milliseconds = u64::try_from(since_epoch.as_millis()).unwrap();
        self.milliseconds.store(milliseconds, Ordering::SeqCst);
    }

    /// Returns the function with which a store reads the time.
    pub(crate) fn reader(&self) -> impl Fn() -> SystemTime + Send + Sync + 'static {
        let clock = self.clone();
        move || clock.now()
    }
}
