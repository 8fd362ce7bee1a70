//! How steps are retried, when an attempt is given up, and what of them is kept secret.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::context::StepContext;
use super::duration::WorkflowDuration;
use super::error::StepError;
use super::resolved::{Backoff, ResolvedConfig, ResolvedRetries, Sensitivity};
use futures_util::future::LocalBoxFuture;

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
        resolve(self.retries.as_ref(), self.timeout, self.sensitive)
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
        resolve(self.retries.as_ref(), self.timeout, None)
    }
}

/// Fills in the platform's defaults.
fn resolve(
    retries: Option<&Retries>,
    timeout: Option<WorkflowDuration>,
    sensitive: Option<Sensitivity>,
) -> ResolvedConfig {
    let default = ResolvedConfig::default();
    ResolvedConfig {
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
