//! The steps of a workflow, as a trait: the platform's, wrapped ones, or a fake in tests.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::StepError;

/// What a workflow's `run` gets to make steps with.
///
/// Mirrors Cloudflare's `WorkflowStep`; a step is called `run` here since `do` is a keyword. All
/// methods take `&self`, so steps can run concurrently with `join!`. Lives on one thread.
#[allow(async_fn_in_trait, reason = "workflows live on one thread")]
pub trait Step {
    /// Runs `callback` as a durable step with the default config: five retries, one second
    /// apart and doubling, with a timeout of ten minutes for each attempt.
    ///
    /// The result is stored; in a later lifetime of the run it is returned without calling
    /// `callback`. It may be up to 1 MiB as JSON.
    ///
    /// # Errors
    /// The last attempt's error, once no retry is left.
    async fn run<T, F>(&self, name: &str, callback: F) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned + 'static,
        F: AsyncFn(StepContext) -> Result<T, StepError> + 'static,
    {
        self.run_with(name, StepConfig::default(), callback).await
    }

    /// Runs `callback` as a durable step with this config: see [`run`](Self::run).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    async fn run_with<T, F>(
        &self,
        name: &str,
        config: StepConfig,
        callback: F,
    ) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned + 'static,
        F: AsyncFn(StepContext) -> Result<T, StepError> + 'static;

    /// Sleeps. Milliseconds count, what is below them is cut off.
    ///
    /// # Errors
    /// When the platform refuses the step, and [`Suspended`](super::StepErrorKind::Suspended)
    /// when this lifetime of the run ends.
    async fn sleep(&self, name: &str, duration: Duration) -> Result<(), StepError>;

    /// Sleeps until a time, for example one computed from the run's own timestamp. Returns at once
    /// when it has passed.
    ///
    /// # Errors
    /// As [`sleep`](Self::sleep).
    async fn sleep_until(&self, name: &str, time: SystemTime) -> Result<(), StepError>;

    /// Waits for an event that is sent to the instance from outside.
    ///
    /// # Errors
    /// One whose [`is_timeout`](StepError::is_timeout) is true when the event did not come in
    /// time; one for a payload that is not a `T`; else as [`sleep`](Self::sleep).
    async fn wait_for_event<T>(
        &self,
        name: &str,
        options: WaitForEvent,
    ) -> Result<WaitedEvent<T>, StepError>
    where
        T: DeserializeOwned + 'static;
}

/// How a step is retried and when an attempt is given up.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct StepConfig {
    /// Default: the platform's, five retries from one second on, exponential.
    pub retries: Option<Retries>,
    /// How long one attempt may take. Default: the platform's, ten minutes.
    pub timeout: Option<Duration>,
}

impl StepConfig {
    /// The platform's defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With these retries.
    #[must_use]
    pub fn retries(mut self, retries: Retries) -> Self {
        self.retries = Some(retries);
        self
    }

    /// With this timeout for each attempt.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// How often and when a failed step is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retries {
    /// Retries after the first attempt.
    pub limit: u32,
    /// The time before the first retry.
    pub delay: Duration,
    /// How the time grows.
    pub backoff: Backoff,
}

impl Retries {
    /// No retry: the first attempt is the last.
    pub const NONE: Self = Self::new(0, Duration::ZERO);

    /// `limit` retries after the first attempt, with `delay` before the first and
    /// [`Backoff::Exponential`].
    #[must_use]
    pub const fn new(limit: u32, delay: Duration) -> Self {
        Self {
            limit,
            delay,
            backoff: Backoff::Exponential,
        }
    }

    /// With another backoff.
    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}

/// How the time between retries grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backoff {
    /// Not at all.
    Constant,
    /// By one `delay` each time.
    Linear,
    /// It doubles each time.
    #[default]
    Exponential,
}

/// What an attempt of a step knows of itself.
#[derive(Clone)]
pub struct StepContext {
    /// The step's name.
    pub name: String,
    /// Which step of that name it is, from 1.
    pub count: u32,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    reporter: Option<Rc<dyn Reporter>>,
}

impl StepContext {
    /// A context whose reports go nowhere: what an unwrapped step gets.
    #[must_use]
    pub fn new(name: impl Into<String>, count: u32, attempt: u32) -> Self {
        Self {
            name: name.into(),
            count,
            attempt,
            reporter: None,
        }
    }

    /// The same context with somebody who listens.
    #[must_use]
    pub fn with_reporter(mut self, reporter: Rc<dyn Reporter>) -> Self {
        self.reporter = Some(reporter);
        self
    }

    /// Tells viewers how far this attempt is. Returns at once and never fails; does nothing if
    /// the step is not wrapped in a [`WorkflowEventStep`](super::WorkflowEventStep).
    ///
    /// If the process dies in mid-attempt, the attempt that follows is the same try: its first
    /// report is taken for the first of the attempt that died, and so on, and is not told twice.
    pub fn progress(&self, progress: impl Into<Progress>) {
        if let Some(reporter) = &self.reporter {
            reporter.progress(progress.into());
        }
    }

    /// Sets an attribute of the `completed` event, if this attempt succeeds.
    pub fn set_attribute(&self, key: impl Into<String>, value: impl Into<Value>) {
        if let Some(reporter) = &self.reporter {
            reporter.set_attribute(key.into(), value.into());
        }
    }
}

impl fmt::Debug for StepContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepContext")
            .field("name", &self.name)
            .field("count", &self.count)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Where a [`StepContext`]'s reports go.
pub trait Reporter {
    /// See [`StepContext::progress`].
    fn progress(&self, progress: Progress);
    /// See [`StepContext::set_attribute`].
    fn set_attribute(&self, key: String, value: Value);
}

/// What a step reports while it works. All parts are optional.
///
/// ```
/// use ssetarget::workflow::Progress;
/// let progress = Progress::percent(40.0).message("14 of 35 pages").attribute("page", 14);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// How much is done, from 0 to 100.
    pub percent: Option<f64>,
    /// What is being done.
    pub message: Option<String>,
    /// Anything else.
    pub attributes: serde_json::Map<String, Value>,
}

impl Progress {
    /// How much is done. What is not a number from 0 to 100 is brought into that range, and NaN
    /// is left out.
    #[must_use]
    pub fn percent(percent: f64) -> Self {
        Self {
            percent: (!percent.is_nan()).then(|| percent.clamp(0.0, 100.0)),
            ..Self::default()
        }
    }

    /// With a message. On its own: `Progress::default().message("…")`.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// With an attribute.
    #[must_use]
    pub fn attribute(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.attributes.insert(key.into(), value.into());
        self
    }
}

impl From<&str> for Progress {
    fn from(message: &str) -> Self {
        Self::default().message(message)
    }
}

impl From<String> for Progress {
    fn from(message: String) -> Self {
        Self::default().message(message)
    }
}

/// Which event a step waits for, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitForEvent {
    /// The type that the event must be sent with.
    pub event_type: String,
    /// Default: the platform's, 24 hours.
    pub timeout: Option<Duration>,
}

impl WaitForEvent {
    /// For an event of this type.
    pub fn new(event_type: impl Into<String>) -> Self {
        Self {
            event_type: event_type.into(),
            timeout: None,
        }
    }

    /// At most this long.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// An event that a step waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitedEvent<T> {
    /// What was sent.
    pub payload: T,
    /// When it was sent.
    pub timestamp: SystemTime,
    /// The type that it was sent with.
    pub event_type: String,
}
