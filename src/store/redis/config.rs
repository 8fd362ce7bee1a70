//! The times of a client.

use std::time::Duration;

/// How a [`RedisClient`](super::RedisClient) behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisConfig {
    /// How long an answer may take, or may stop in its middle. Then the connection is taken for
    /// dead. Default: 5 seconds.
    pub timeout: Duration,
    /// How long calls wait for a lost connection to come back before they fail. Default: 3 seconds.
    pub patience: Duration,
    /// How often the heads of watched logs are looked at, for what nothing announces: a log that is
    /// deleted or expires, a connection that is dead. One small command for each log that is
    /// watched, however many watch it. Default: 10 seconds.
    pub check_interval: Duration,
}

impl RedisConfig {
    /// With the defaults of the fields.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            patience: Duration::from_secs(3),
            check_interval: Duration::from_secs(10),
        }
    }

    /// With another [`timeout`](Self::timeout).
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With another [`patience`](Self::patience).
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// With another [`check_interval`](Self::check_interval).
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
