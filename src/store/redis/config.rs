//! The settings of a client: its times.

use std::time::Duration;

/// The settings of a [`RedisClient`](super::RedisClient).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisConfig {
    /// How long an answer may take, or may stall in its middle, before the connection counts as
    /// dead. Default: 5 seconds.
    pub timeout: Duration,
    /// How long calls wait for a lost connection to come back before they fail. Default: 3 seconds.
    pub patience: Duration,
    /// How often the client asks for the heads of watched logs. That finds what the server does not
    /// announce: a log that is deleted or expires, a connection that is dead. It is one small
    /// command for each watched log, however many viewers watch it. Default: 10 seconds.
    pub check_interval: Duration,
}

impl RedisConfig {
    /// Returns the defaults of all fields.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            patience: Duration::from_secs(3),
            check_interval: Duration::from_secs(10),
        }
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`patience`](Self::patience).
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets [`check_interval`](Self::check_interval).
    #[must_use]
    pub const fn check_interval(mut self, check_interval: Duration) -> Self {
        self.check_interval = check_interval;
        self
    }
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self::new()
    }
}
