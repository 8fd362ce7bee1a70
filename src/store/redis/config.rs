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
    /// How long viewers that wait for events keep their streams while no connection can be opened.
    /// Then [`changed`](crate::store::EventStore::changed) fails, the streams break off, and their
    /// clients come back. Default: 20 seconds in WebAssembly, 5 minutes elsewhere.
    ///
    /// A request to a Worker may open only so many connections, 50 on the free plan, and an outage
    /// takes one a second, since attempts count. When none is left, this request cannot reach
    /// Redis any more: only a new one can. Elsewhere there is no such limit, and it is longer than
    /// a failover takes, or a restart of a server that loads much data.
    pub viewer_patience: Duration,
    /// How often the client asks for the heads of watched logs. That finds what the server does not
    /// announce: a log that is deleted or expires, a connection that is dead. It is one small
    /// command for each watched log, however many viewers watch it. Default: 10 seconds.
    pub check_interval: Duration,
}

/// In seconds: in a Worker about half of the attempts that a request has on the free plan.
const VIEWER_PATIENCE: u64 = if cfg!(target_family = "wasm") {
    20
} else {
    5 * 60
};

impl RedisConfig {
    /// Returns the defaults of all fields.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            patience: Duration::from_secs(3),
            viewer_patience: Duration::from_secs(VIEWER_PATIENCE),
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

    /// Sets [`viewer_patience`](Self::viewer_patience).
    #[must_use]
    pub const fn viewer_patience(mut self, viewer_patience: Duration) -> Self {
        self.viewer_patience = viewer_patience;
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
