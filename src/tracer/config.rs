//! The configuration of a tracer.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::task::Redact;
use crate::workflow::DispatchConfig;

/// Configures a [`Tracer`](crate::tracer::Tracer).
#[derive(Clone)]
pub struct TracerConfig {
    pub(super) dispatch: DispatchConfig,
    pub(super) capacity: usize,
    pub(super) run: Option<Arc<str>>,
    pub(super) on_error: OnError,
}

type OnError = Arc<dyn Fn(&(dyn Error + 'static)) + Send + Sync>;

impl TracerConfig {
    /// Returns a config with the defaults of the methods below.
    #[must_use]
    pub fn new() -> Self {
        Self {
            dispatch: DispatchConfig::batched(),
            capacity: 10_000,
            run: None,
            on_error: Arc::new(|_| {}),
        }
    }

    /// Sets when batches are sent: [`DispatchConfig::batched`] or [`DispatchConfig::immediate`].
    /// Only `delay`, `call_timeout`, `end_timeout` and `redact` are used. Default: batched.
    #[must_use]
    pub fn dispatch(mut self, config: DispatchConfig) -> Self {
        let redact = config.redact.or(self.dispatch.redact);
        self.dispatch = DispatchConfig { redact, ..config };
        self
    }

    /// Sets what is done to errors, messages and attributes before they are queued: a rule of your
    /// own, or [`Redact::SECRETS`]. Default: nothing.
    #[must_use]
    pub fn redact(mut self, rule: Redact) -> Self {
        self.dispatch.redact = Some(rule);
        self
    }

    /// Sets how many events may wait to be stored. In addition they may have at most 16 MiB
    /// together. Beyond either limit, spans and reports are left out: see
    /// [`Tracer`](crate::tracer::Tracer). Default: 10,000 events.
    #[must_use]
    pub fn capacity(mut self, events: usize) -> Self {
        self.capacity = events;
        self
    }

    /// Sets a prefix of all ids, so that another run of the same code in the same log makes new
    /// events. The caller makes it unique, for example by a run number or the process's start time.
    /// Default: no prefix; the log has one run.
    #[must_use]
    pub fn run(mut self, name: impl Into<String>) -> Self {
        self.run = Some(name.into().into());
        self
    }

    /// Sets a function that is called with each error of the store; the traced code never sees
    /// them. The store is tried again after each. Default: errors are ignored.
    #[must_use]
    pub fn on_error(
        mut self,
        callback: impl Fn(&(dyn Error + 'static)) + Send + Sync + 'static,
    ) -> Self {
        self.on_error = Arc::new(callback);
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
