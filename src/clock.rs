//! Time as stores keep it: whole milliseconds since the Unix epoch.

use std::time::{Duration, SystemTime};

/// The clock of the machine. `std`'s own panics in WebAssembly.
pub(crate) fn now() -> SystemTime {
    #[cfg(target_family = "wasm")]
    let now = web_time::web::SystemTimeExt::to_std(web_time::SystemTime::now());
    #[cfg(not(target_family = "wasm"))]
    let now = SystemTime::now();
    from_milliseconds(milliseconds(now))
}

/// What is before the epoch counts as the epoch.
pub(crate) fn milliseconds(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since_epoch.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// What a clock cannot show counts as the epoch.
pub(crate) fn from_milliseconds(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_millis(milliseconds))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
