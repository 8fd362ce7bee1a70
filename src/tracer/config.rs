//! How a tracer behaves.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::workflow::DispatchConfig;

/// How a [`Tracer`](crate::tracer::Tracer) behaves.
#[derive(Clone)]
pub struct TracerConfig {
    pub(super) dispatch: DispatchConfig,
    pub(super) capacity: usize,
    pub(super) run: Option<Arc<str>>,
    pub(super) on_error: OnError,
}

type OnError = Arc<dyn Fn(&(dyn Error + 'static)) + Send + Sync>;

impl TracerConfig {
    /// With the defaults of the methods below.
    #[must_use]
    pub fn new() -> Self {
        Self {
            dispatch: DispatchConfig::batched(),
            capacity: 10_000,
            run: None,
            on_error: Arc::new(|_| {}),
        }
    }

    /// When batches are sent: [`DispatchConfig::batched`] or [`DispatchConfig::immediate`]. Of its
    /// times, `delay`, `call_timeout` and `end_timeout` count. Default: batched.
    #[must_use]
    pub fn dispatch(mut self, config: DispatchConfig) -> Self {
        self.dispatch = config;
        self
    }

    /// How many events may wait to be stored; together they may also have 16 MiB. Beyond it spans
    /// and reports are left out: see [`Tracer`](crate::tracer::Tracer). Default: 10,000.
    #[must_use]
    pub fn capacity(mut self, events: usize) -> Self {
        self.capacity = events;
        self
    }

    /// What ids begin with, so that another run of the same code in the same log is news. It is
    /// for you to make it unique, for example by a number of the run or the time of the process's
    /// start. Default: nothing; the log has one run.
    #[must_use]
    pub fn run(mut self, name: impl Into<String>) -> Self {
        self.run = Some(name.into().into());
        self
    }

    /// Hears of the store's errors, which the traced code learns nothing of. Each is followed by
    /// another try. Default: nobody does.
    #[must_use]
    pub fn on_error(
        mut self,
        hear: impl Fn(&(dyn Error + 'static)) + Send + Sync + 'static,
    ) -> Self {
        self.on_error = Arc::new(hear);
        self
    }
}

impl Default for TracerConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TracerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TracerConfig")
            .field("dispatch", &self.dispatch)
            .field("capacity", &self.capacity)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}
