//! The config of a step and of a rollback: retries, timeouts, secrets.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::context::StepContext;
use super::duration::WorkflowDuration;
use super::error::StepError;
use super::resolved::{Backoff, ResolvedConfig, ResolvedRetries, Sensitivity};
use futures_util::future::LocalBoxFuture;

/// The config of a step: its retries, its timeout, and the parts of it that are secret.
///
/// A field that is `None` has the platform's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StepConfig {
    /// The retries. Default: the platform's, five, the first after one second, exponential.
    pub retries: Option<Retries>,
    /// The longest time that one attempt may take. Default: the platform's, ten minutes.
    pub timeout: Option<WorkflowDuration>,
    /// The part that the platform's log and dashboards do not show. Default: they show everything.
    pub sensitive: Option<Sensitivity>,
}

impl StepConfig {
    /// Returns a config with the platform's defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the retries.
    #[must_use]
    pub fn retries(mut self, retries: Retries) -> Self {
        self.retries = Some(retries);
        self
    }

    /// Sets the longest time that one attempt may take.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<WorkflowDuration>) -> Self {
        self.timeout = Some(timeout.into());
        self
    }

    /// Hides a part of the step from the platform's log and dashboards.
    #[must_use]
    pub fn sensitive(mut self, sensitive: Sensitivity) -> Self {
        self.sensitive = Some(sensitive);
        self
    }

    /// Returns the config that attempts run with, the platform's defaults filled in.
    #[must_use]
    pub fn resolve(&self) -> ResolvedConfig {
        resolve(self.retries.as_ref(), self.timeout, self.sensitive)
    }
}

/// The number of retries of a failed step, and the time before each.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retries {
    /// The number of retries after the first attempt.
    pub limit: u32,
    /// The time before the first retry.
    pub delay: RetryDelay,
    /// The growth of the delay, also of one that a function chose.
    pub backoff: Backoff,
}

impl Retries {
    /// No retry: the first attempt is the last.
    pub const NONE: Self = Self {
        limit: 0,
        delay: RetryDelay::Constant(WorkflowDuration::milliseconds(0)),
        backoff: Backoff::Exponential,
    };

    /// Returns `limit` retries after the first attempt, with `delay` before the first of them and
    /// [`Backoff::Exponential`].
    #[must_use]
    pub fn new(limit: u32, delay: impl Into<WorkflowDuration>) -> Self {
        Self {
            limit,
            delay: RetryDelay::Constant(delay.into()),
            backoff: Backoff::default(),
        }
    }

    /// Returns `limit` retries after the first attempt. The function `delay` chooses the time before
    /// each, from the attempt that failed and its error; it is not multiplied
    /// ([`Backoff::Constant`]).
    ///
    /// The engine waits five seconds for the function. A function that takes longer, returns an error
    /// or panics fails the step at once, with an error that says so.
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

    /// Sets the backoff.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Computes the time between a failed attempt and its retry, backoff included, as an engine
    /// does. The limit is ignored.
    ///
    /// # Errors
    /// The error of the delay function.
    pub async fn delay_after(&self, failed: &DelayContext) -> Result<Duration, StepError> {
        let delay = match &self.delay {
            RetryDelay::Constant(delay) => *delay,
            RetryDelay::Dynamic(function) => function.call(failed).await?,
        };
        let factor = self.backoff.factor(failed.ctx.attempt);
        Ok(Duration::from(delay).saturating_mul(factor))
    }
}

/// The time before a retry, before backoff.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RetryDelay {
    /// A fixed time.
    Constant(WorkflowDuration),
    /// The time that a function returns: see [`Retries::dynamic`].
    Dynamic(DelayFunction),
}

/// A function that chooses the time before a retry.
#[derive(Clone)]
pub struct DelayFunction {
    function: Rc<BoxedDelay>,
    /// Converts it for the platform. It is stored here, so that a Worker without such functions has none of that code.
    #[cfg(feature = "worker")]
    to_js: fn(Self) -> crate::worker::Callback,
}

type BoxedDelay = dyn for<'a> Fn(&'a DelayContext) -> DelayFuture<'a>;
type DelayFuture<'a> = LocalBoxFuture<'a, Result<WorkflowDuration, StepError>>;

impl DelayFunction {
    fn new<D: Into<WorkflowDuration>>(
        function: impl AsyncFn(&DelayContext) -> Result<D, StepError> + 'static,
    ) -> Self {
        // Tells the compiler that the future may borrow the function's argument.
        fn borrowing(
            function: impl for<'a> Fn(&'a DelayContext) -> DelayFuture<'a> + 'static,
        ) -> Rc<BoxedDelay> {
            Rc::new(function)
        }
        let function = Rc::new(function);
        Self {
            function: borrowing(move |failed| {
                let function = Rc::clone(&function);
                Box::pin(async move { Ok(function(failed).await?.into()) })
            }),
            #[cfg(feature = "worker")]
            to_js: crate::worker::delay_callback,
        }
    }

    /// Calls the function.
    ///
    /// # Errors
    /// The error of the function.
    pub async fn call(&self, failed: &DelayContext) -> Result<WorkflowDuration, StepError> {
        (self.function)(failed).await
    }

    /// Returns the function that the platform calls.
    #[cfg(feature = "worker")]
    pub(crate) fn to_js(&self) -> crate::worker::Callback {
        (self.to_js)(self.clone())
    }
}

impl fmt::Debug for DelayFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DelayFunction")
    }
}

/// The argument of a delay function: an attempt that failed.
#[derive(Debug)]
#[non_exhaustive]
pub struct DelayContext {
    /// The attempt that failed.
    pub ctx: StepContext,
    /// The error of that attempt.
    pub error: StepError,
}

impl DelayContext {
    /// Returns the argument for an attempt that failed with `error`.
    #[must_use]
    pub fn new(ctx: StepContext, error: StepError) -> Self {
        Self { ctx, error }
    }
}

/// The config of a rollback: its retries and its timeout.
///
/// A field that is `None` has the platform's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RollbackConfig {
    /// The retries. Default: the platform's, five, the first after one second, exponential.
    pub retries: Option<Retries>,
    /// The longest time that one attempt may take. Default: the platform's, ten minutes.
    pub timeout: Option<WorkflowDuration>,
}

impl RollbackConfig {
    /// Returns a config with the platform's defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the retries.
    #[must_use]
    pub fn retries(mut self, retries: Retries) -> Self {
        self.retries = Some(retries);
        self
    }

    /// Sets the longest time that one attempt may take.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<WorkflowDuration>) -> Self {
        self.timeout = Some(timeout.into());
        self
    }

    /// Returns the config that attempts of the rollback run with, the platform's defaults filled in.
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
