//! How steps are retried, when an attempt is given up, and what of them is kept secret.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::context::StepContext;
use super::duration::WorkflowDuration;
use super::error::StepError;

/// How a step is retried, when an attempt is given up, and what of it is kept secret.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StepConfig {
    /// Default: the platform's, five retries from one second on, exponential.
    pub retries: Option<Retries>,
    /// How long one attempt may take. Default: the platform's, ten minutes.
    pub timeout: Option<WorkflowDuration>,
    /// What the platform's log and dashboards do not show. Default: nothing is kept from them.
    pub sensitive: Option<Sensitivity>,
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
    pub fn timeout(mut self, timeout: impl Into<WorkflowDuration>) -> Self {
        self.timeout = Some(timeout.into());
        self
    }

    /// With something that the platform's log and dashboards do not show.
    #[must_use]
    pub fn sensitive(mut self, sensitive: Sensitivity) -> Self {
        self.sensitive = Some(sensitive);
        self
    }

    /// The config that attempts run with: what is not set is the platform's default.
    #[must_use]
    pub fn resolve(&self) -> ResolvedConfig {
        ResolvedConfig::new(self.retries.as_ref(), self.timeout, self.sensitive)
    }
}

/// How often and when a failed step is tried again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retries {
    /// Retries after the first attempt.
    pub limit: u32,
    /// The time before the first retry.
    pub delay: RetryDelay,
    /// How the time grows, also one that code chose.
    pub backoff: Backoff,
}

impl Retries {
    /// No retry: the first attempt is the last.
    pub const NONE: Self = Self {
        limit: 0,
        delay: RetryDelay::Constant(WorkflowDuration::milliseconds(0)),
        backoff: Backoff::Exponential,
    };

    /// `limit` retries after the first attempt, with `delay` before the first and
    /// [`Backoff::Exponential`].
    #[must_use]
    pub fn new(limit: u32, delay: impl Into<WorkflowDuration>) -> Self {
        Self {
            limit,
            delay: RetryDelay::Constant(delay.into()),
            backoff: Backoff::default(),
        }
    }

    /// `limit` retries after the first attempt, each after the time that `delay` gives for the
    /// attempt that failed and its error, which is not multiplied ([`Backoff::Constant`]).
    ///
    /// The engine waits five seconds for the answer. None by then, an error or a panic fails the
    /// step at once, with an error that says so.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cloudflare_workflows::{Retries, StepConfig};
    ///
    /// let config = StepConfig::new().retries(Retries::dynamic(5, async |failed| {
    ///     let busy = failed.error.message().contains("429");
    ///     Ok(Duration::from_secs(if busy { 60 } else { failed.ctx.attempt.into() }))
    /// }));
    /// # assert_eq!(config.resolve().retries.delay, None);
    /// ```
    #[must_use]
    pub fn dynamic<D: Into<WorkflowDuration>>(
        limit: u32,
        delay: impl AsyncFn(&DelayContext) -> Result<D, StepError> + 'static,
    ) -> Self {
        Self {
            limit,
            delay: RetryDelay::Dynamic(DelayFunction::new(delay)),
            backoff: Backoff::Constant,
        }
    }

    /// With another backoff.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The time before the retry that follows a failed attempt, backoff included: what an engine
    /// does. Does not look at the limit.
    ///
    /// # Errors
    /// The delay function's.
    pub async fn delay_after(&self, failed: &DelayContext) -> Result<Duration, StepError> {
        let delay = match &self.delay {
            RetryDelay::Constant(delay) => *delay,
            RetryDelay::Dynamic(function) => function.call(failed).await?,
        };
        let attempt = failed.ctx.attempt;
        let factor = match self.backoff {
            Backoff::Constant => 1,
            Backoff::Linear => attempt,
            Backoff::Exponential => 2_u32.saturating_pow(attempt.saturating_sub(1)),
        };
        Ok(Duration::from(delay).saturating_mul(factor))
    }
}

/// The time before a retry, before backoff.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RetryDelay {
    /// Always the same.
    Constant(WorkflowDuration),
    /// What a function says: see [`Retries::dynamic`].
    Dynamic(DelayFunction),
}

/// A function that chooses the time before a retry.
#[derive(Clone)]
pub struct DelayFunction(Rc<BoxedDelay>);

type BoxedDelay = dyn for<'a> Fn(&'a DelayContext) -> DelayFuture<'a>;
type DelayFuture<'a> = LocalBoxFuture<'a, Result<WorkflowDuration, StepError>>;

impl DelayFunction {
    fn new<D: Into<WorkflowDuration>>(
        function: impl AsyncFn(&DelayContext) -> Result<D, StepError> + 'static,
    ) -> Self {
        // Says that the future may borrow what the function is called with.
        fn borrowing(
            function: impl for<'a> Fn(&'a DelayContext) -> DelayFuture<'a> + 'static,
        ) -> Rc<BoxedDelay> {
            Rc::new(function)
        }
        let function = Rc::new(function);
        Self(borrowing(move |failed| {
            let function = Rc::clone(&function);
            Box::pin(async move { Ok(function(failed).await?.into()) })
        }))
    }

    /// Asks it.
    ///
    /// # Errors
    /// The function's.
    pub async fn call(&self, failed: &DelayContext) -> Result<WorkflowDuration, StepError> {
        (self.0)(failed).await
    }
}

impl fmt::Debug for DelayFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DelayFunction")
    }
}

/// What a delay function is asked about.
#[derive(Debug)]
#[non_exhaustive]
pub struct DelayContext {
    /// The attempt that failed.
    pub ctx: StepContext,
    /// Its error.
    pub error: StepError,
}

impl DelayContext {
    /// This attempt failed with this error.
    #[must_use]
    pub fn new(ctx: StepContext, error: StepError) -> Self {
        Self { ctx, error }
    }
}

/// How the time between retries grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// Not at all.
    Constant,
    /// By one `delay` each time.
    Linear,
    /// It doubles each time.
    #[default]
    Exponential,
}

#[cfg(feature = "worker")]
impl Backoff {
    /// The platform's word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Exponential => "exponential",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Constant, Self::Linear, Self::Exponential];
        all.into_iter().find(|backoff| backoff.as_str() == name)
    }
}

/// What the platform's log and dashboards do not show of a step.
///
/// Our own log never has a step's output. It has what the step's code tells on purpose (progress,
/// attributes) and the messages of its errors, as the platform's has them, whether the step is
/// sensitive or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Sensitivity {
    /// Its output: shown as `[REDACTED]`.
    Output,
}

#[cfg(feature = "worker")]
impl Sensitivity {
    /// The platform's word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Output => "output",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        (name == Self::Output.as_str()).then_some(Self::Output)
    }
}

/// The config of an attempt: what was set, and the platform's defaults. As JSON it is that of the
/// platform's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResolvedConfig {
    /// How it is retried.
    pub retries: ResolvedRetries,
    /// How long an attempt may take.
    pub timeout: WorkflowDuration,
    /// What the platform's log and dashboards do not show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitive: Option<Sensitivity>,
}

/// How an attempt is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResolvedRetries {
    /// Retries after the first attempt; `u32::MAX` for any number.
    #[serde(deserialize_with = "limit")]
    pub limit: u32,
    /// The time before the first retry; `None` if a function chooses it.
    #[serde(with = "delay")]
    pub delay: Option<WorkflowDuration>,
    /// How the time grows.
    #[serde(default)]
    pub backoff: Backoff,
}

/// JSON has no word for infinity but `null`.
fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(u32::MAX))
}

mod delay {
    use super::*;

    const DYNAMIC: &str = "[dynamic]";

    pub(super) fn serialize<S: Serializer>(
        delay: &Option<WorkflowDuration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match delay {
            Some(delay) => delay.serialize(serializer),
            None => serializer.serialize_str(DYNAMIC),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<WorkflowDuration>, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value == DYNAMIC {
            return Ok(None);
        }
        let delay = WorkflowDuration::deserialize(value);
        delay.map(Some).map_err(serde::de::Error::custom)
    }
}

impl ResolvedConfig {
    fn new(
        retries: Option<&Retries>,
        timeout: Option<WorkflowDuration>,
        sensitive: Option<Sensitivity>,
    ) -> Self {
        let default = Self::default();
        Self {
            retries: retries.map_or(default.retries, |retries| ResolvedRetries {
                limit: retries.limit,
                delay: match retries.delay {
                    RetryDelay::Constant(delay) => Some(delay),
                    RetryDelay::Dynamic(_) => None,
                },
                backoff: retries.backoff,
            }),
            timeout: timeout.unwrap_or(default.timeout),
            sensitive,
        }
    }
}

/// The platform's: five retries, one second apart and doubling, ten minutes for an attempt.
impl Default for ResolvedConfig {
    fn default() -> Self {
        Self {
            retries: ResolvedRetries {
                limit: 5,
                delay: Some(WorkflowDuration::milliseconds(1000)),
                backoff: Backoff::Exponential,
            },
            timeout: WorkflowDuration::minutes(10),
            sensitive: None,
        }
    }
}

/// How a rollback is retried and when an attempt of it is given up.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RollbackConfig {
    /// Default: the platform's, five retries from one second on, exponential.
    pub retries: Option<Retries>,
    /// How long one attempt may take. Default: the platform's, ten minutes.
    pub timeout: Option<WorkflowDuration>,
}

impl RollbackConfig {
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
    pub fn timeout(mut self, timeout: impl Into<WorkflowDuration>) -> Self {
        self.timeout = Some(timeout.into());
        self
    }

    /// The config that attempts of the rollback run with.
    #[must_use]
    pub fn resolve(&self) -> ResolvedConfig {
        ResolvedConfig::new(self.retries.as_ref(), self.timeout, None)
    }
}
