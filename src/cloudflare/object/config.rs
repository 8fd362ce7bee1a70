//! How a `WorkflowEvents` object behaves. Set in the Worker's code, read in the object.

use std::time::Duration;

use crate::store::Retention;
use crate::task::Redact;

/// How a `WorkflowEvents` object behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkflowEventsConfig {
    /// How much of a log is kept. `age` is how long the log of a finished run is kept: then its events are deleted
    /// and its id is unknown again; the log of a run that goes on does not age. `events` is the number of the newest
    /// events that are kept, also while the run goes on: a viewer who has not read the others gets `event: reset`.
    /// Default: all events, for 7 days.
    pub retention: Retention,
    /// How long one small row of a deleted log is kept, counted from the deletion. During that time a
    /// further run of the same instance goes on with the log's ids and run numbers, so that a client that
    /// comes back with an id of the deleted log is notified that it missed events (`event: reset`). Then
    /// the object's storage is deleted. The row of a log that was deleted on request while its run was under way is
    /// kept for as long again, each time, until the run is known to be over: the platform is asked if
    /// [`workflows`](Self::workflows) names its binding, and otherwise the row stays. Default: 30 days, the longest
    /// time for which the platform knows an instance that has finished.
    pub ids_retention: Duration,
    /// Names of workflows and of their bindings. For a run of one of these, the object itself asks the platform
    /// whether the run has ended, some seconds after a lifetime that did not report what follows, and notifies the
    /// viewers. Default: none; then the next viewer's request asks the platform, if
    /// [`with_workflow`](crate::cloudflare::WorkflowEventsNamespace::with_workflow) is set.
    pub workflows: &'static [(&'static str, &'static str)],
    /// The rule for error messages that the object takes from the platform, when it ends the log of a run that could
    /// not report its end. Default: none.
    pub redact: Option<Redact>,
    /// The binding of the index of runs (feature `index`), whose class `export_run_index!` exports: the runs' objects
    /// report to it. Default: none; then nothing is reported, and nothing costs.
    #[cfg(feature = "index")]
    pub index: Option<&'static str>,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl WorkflowEventsConfig {
    /// Returns the defaults of the fields.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            retention: Retention::for_ever().max_age(DAY.saturating_mul(7)),
            ids_retention: DAY.saturating_mul(30),
            workflows: &[],
            redact: None,
            #[cfg(feature = "index")]
            index: None,
        }
    }

    /// Sets [`index`](Self::index), a binding as in `wrangler.toml`. Default: none.
    #[cfg(feature = "index")]
    #[must_use]
    pub const fn index(mut self, binding: &'static str) -> Self {
        self.index = Some(binding);
        self
    }

    /// Sets [`workflows`](Self::workflows), names and bindings as in `wrangler.toml`. Default: none.
    ///
    /// ```
    /// # #[cfg(feature = "cloudflare")]
    /// # {
    /// use ssetarget::cloudflare::WorkflowEventsConfig;
    ///
    /// const CONFIG: WorkflowEventsConfig =
    ///     WorkflowEventsConfig::new().workflows(&[("order", "ORDER")]);
    /// # }
    /// ```
    #[must_use]
    pub const fn workflows(mut self, workflows: &'static [(&'static str, &'static str)]) -> Self {
        self.workflows = workflows;
        self
    }

    /// Sets [`redact`](Self::redact). Default: none. Give the run's own events the same rule, with
    /// [`WorkflowEventsNamespace::redact`](crate::cloudflare::WorkflowEventsNamespace::redact).
    #[must_use]
    pub const fn redact(mut self, rule: Redact) -> Self {
        self.redact = Some(rule);
        self
    }

    /// Sets how long the log of a finished run is kept: the `age` of [`retention`](Self::retention). Default: 7 days.
    #[must_use]
    pub const fn retention(mut self, age: Duration) -> Self {
        self.retention.age = Some(age);
        self
    }

    /// Sets the number of the newest events of a log that are kept: the `events` of [`retention`](Self::retention). A
    /// small row of each older one is left until the log is deleted, so that no fact is stored twice. Default: all
    /// are kept.
    #[must_use]
    pub const fn max_events(mut self, events: usize) -> Self {
        self.retention = self.retention.max_events(events);
        self
    }

    /// Keeps the log of a finished run for ever. Default: it is kept for [`retention`](Self::retention).
    #[must_use]
    pub const fn keep_for_ever(mut self) -> Self {
        self.retention.age = None;
        self
    }

    /// Sets [`ids_retention`](Self::ids_retention). Default: 30 days.
    #[must_use]
    pub const fn ids_retention(mut self, retention: Duration) -> Self {
        self.ids_retention = retention;
        self
    }
}

impl Default for WorkflowEventsConfig {
    fn default() -> Self {
        Self::new()
    }
}
