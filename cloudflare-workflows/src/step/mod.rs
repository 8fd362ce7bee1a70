//! The trait [`Step`]: the platform's step object, one that wraps it, or a fake one in tests.

pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod duration;
pub(crate) mod error;
pub(crate) mod kind;
pub(crate) mod output;
pub(crate) mod panic;
pub(crate) mod resolved;
pub(crate) mod rollback;

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;

use self::config::{Retries, RollbackConfig, StepConfig};
use self::context::StepContext;
use self::duration::WorkflowDuration;
use self::error::StepError;
use self::output::StepOutput;
use self::resolved::Sensitivity;
use self::rollback::{Rollback, RollbackContext};

/// The step object that a workflow makes its steps with.
///
/// Mirrors Cloudflare's `WorkflowStep`; a step is called `run` here, since `do` is a keyword. All
/// methods take `&self`, so steps can run concurrently with `join!`. Clones are the same step object,
/// for callbacks and bodies that need one of their own. It lives on one thread.
///
/// Callers use [`run`](Self::run). Implementations write [`do_step`](Self::do_step), the sleeps and the
/// wait.
#[allow(async_fn_in_trait, reason = "workflows live on one thread")]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot make steps",
    note = "steps are made with the `WorkflowStep` that `run` gets, or with the step object that \
            a wrapper of it hands to the workflow's body"
)]
pub trait Step: Clone {
    /// Runs `callback` as a durable step. Nothing happens until it is awaited.
    ///
    /// The result is stored. A later lifetime of the run gets the stored result, and `callback` does
    /// not run again. The result owns its values (a `String`, not a `&str`), and may be up to 1 MiB as
    /// JSON: see [`StepOutput`]. Return a [`ByteStream`](crate::ByteStream) for more.
    ///
    /// `callback` owns the values it uses, since the engine may call it at any time: write `async move`,
    /// and clone the values that other code needs, too.
    ///
    /// Default config: five retries, the first after one second and each later one after twice the time,
    /// and a timeout of ten minutes for each attempt. Set another config and a rollback before the
    /// `.await`:
    ///
    /// ```
    /// use std::time::Duration;
    /// use cloudflare_workflows::{Retries, Step, StepError};
    ///
    /// # async fn book() -> Result<u32, StepError> { Ok(7) }
    /// # async fn cancel(_: u32) -> Result<(), StepError> { Ok(()) }
    /// async fn trip(step: &impl Step) -> Result<(), StepError> {
    ///     let weather: String = step.run("forecast", async |_| Ok("sunny".to_owned())).await?;
    ///
    ///     let flight = step
    ///         .run("book flight", async |_| book().await)
    ///         .retries(Retries::new(3, Duration::from_secs(5)))
    ///         .rollback(async |undo| match undo.output {
    ///             Some(flight) => cancel(flight).await,
    ///             None => Ok(()),
    ///         })
    ///         .await?;
    ///     # let _ = (weather, flight);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// The last attempt's error, once no retry is left; one for a stored result that is not a `T`;
    /// when the platform refuses the step; and
    /// [`Suspended`](crate::StepErrorKind::Suspended) when this lifetime of the run ends.
    fn run<T, F>(&self, name: &str, callback: F) -> StepFuture<'_, Self, T>
    where
        T: StepOutput,
        F: AsyncFn(StepContext) -> Result<T, StepError> + 'static,
    {
        StepFuture::new(self, DoStep::new(name, callback))
    }

    /// Runs `callback` as a durable step: [`run`](Self::run) by the name that it has in the bindings that
    /// are proposed for the `worker` crate.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn do_<T, F>(&self, name: &str, callback: F) -> StepFuture<'_, Self, T>
    where
        T: StepOutput,
        F: AsyncFn(StepContext) -> Result<T, StepError> + 'static,
    {
        self.run(name, callback)
    }

    /// Runs `callback` as a durable step with `config`: see [`run`](Self::run).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn run_with<T, F>(&self, name: &str, config: StepConfig, callback: F) -> StepFuture<'_, Self, T>
    where
        T: StepOutput,
        F: AsyncFn(StepContext) -> Result<T, StepError> + 'static,
    {
        self.run(name, callback).config(config)
    }

    /// Runs a group of steps. A group is not a step of the engine: it is not stored, not retried and not
    /// billed. A step object that shows the run to viewers, such as that of the crate `ssetarget`, shows
    /// the group as one task with the steps below it. Default: runs `body` and nothing else.
    ///
    /// ```
    /// use cloudflare_workflows::{Step, StepError};
    ///
    /// async fn fulfil(step: &impl Step) -> Result<String, StepError> {
    ///     step.group("fulfil", async |step| {
    ///         step.run("pack parcel", async |_| Ok(())).await?;
    ///         step.run("print label", async |_| Ok("TRACK-1".to_owned())).await
    ///     })
    ///     .await
    /// }
    /// ```
    ///
    /// # Errors
    /// The errors of `body`.
    async fn group<T>(
        &self,
        name: &str,
        body: impl AsyncFnOnce(Self) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let _ = name;
        body(self.clone()).await
    }

    /// Runs a step that is described in full. Awaiting [`run`](Self::run) calls it.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    async fn do_step<T: StepOutput>(&self, step: DoStep<T>) -> Result<T, StepError>;

    /// Sleeps for a [`Duration`](std::time::Duration) or one of the platform's labels
    /// (`WorkflowDuration::hours(2)`).
    ///
    /// # Errors
    /// When the platform refuses the step, and [`Suspended`](crate::StepErrorKind::Suspended)
    /// when this lifetime of the run ends.
    async fn sleep(
        &self,
        name: &str,
        duration: impl Into<WorkflowDuration>,
    ) -> Result<(), StepError>;

    /// Sleeps until a time, for example one computed from the run's own timestamp. Returns at once
    /// when it has passed.
    ///
    /// # Errors
    /// As [`sleep`](Self::sleep).
    async fn sleep_until(&self, name: &str, time: SystemTime) -> Result<(), StepError>;

    /// Waits for an event that is sent to the instance from outside.
    ///
    /// # Errors
    /// An error whose [`is_timeout`](StepError::is_timeout) is true when the event did not come in
    /// time; one of the kind [`Invalid`](crate::StepErrorKind::Invalid) for a payload that is not a `T`;
    /// otherwise as [`sleep`](Self::sleep).
    async fn wait_for_event<T>(
        &self,
        name: &str,
        options: WaitForEvent,
    ) -> Result<WaitedEvent<T>, StepError>
    where
        T: DeserializeOwned + 'static;
}

/// A step that runs when it is awaited. Its config and its rollback are set before.
///
/// [`Step::run`] returns it.
#[must_use = "a step does not run until it is awaited"]
pub struct StepFuture<'a, S, T>(State<'a, S, T>);

enum State<'a, S, T> {
    Described(&'a S, DoStep<T>, Begin<'a, S, T>),
    Running(LocalBoxFuture<'a, Result<T, StepError>>),
    /// Holds the place while the state changes.
    Begins,
}

/// [`Step::do_step`]. It is stored where the step is described, so that awaiting it needs no bounds: the
/// compiler would repeat the errors that it has for `run`.
type Begin<'a, S, T> = fn(&'a S, DoStep<T>) -> LocalBoxFuture<'a, Result<T, StepError>>;

impl<'a, S: Step, T: StepOutput> StepFuture<'a, S, T> {
    fn new(step: &'a S, description: DoStep<T>) -> Self {
        let begin: Begin<'a, S, T> = |step, description| Box::pin(step.do_step(description));
        Self(State::Described(step, description, begin))
    }
}

impl<S, T: StepOutput> StepFuture<'_, S, T> {
    /// Sets the whole config, in place of everything set before.
    pub fn config(self, config: StepConfig) -> Self {
        self.with(|step| step.config = config)
    }

    /// Sets the retries. Default: five, the first after one second, exponential.
    pub fn retries(self, retries: Retries) -> Self {
        self.with(|step| step.config.retries = Some(retries))
    }

    /// Sets the longest time that one attempt may take. Default: ten minutes.
    pub fn timeout(self, timeout: impl Into<WorkflowDuration>) -> Self {
        self.with(|step| step.config.timeout = Some(timeout.into()))
    }

    /// Hides a part of the step from the platform's log and dashboards. Default: they show everything.
    pub fn sensitive(self, sensitive: Sensitivity) -> Self {
        self.with(|step| step.config.sensitive = Some(sensitive))
    }

    /// Sets a handler that undoes the step. It runs if the run fails, or is terminated with rollback, at
    /// any time after the step has begun, also if the step itself failed. The handler of the last step
    /// runs first, with the platform's default config.
    ///
    /// Rollbacks run after the run's own code has ended, so the run cannot report them to viewers. No
    /// further handler runs after one that fails for good.
    pub fn rollback(
        self,
        handler: impl AsyncFn(RollbackContext<T>) -> Result<(), StepError> + 'static,
    ) -> Self {
        self.rollback_with(RollbackConfig::new(), handler)
    }

    /// Sets a handler as [`rollback`](Self::rollback) does, and its config.
    pub fn rollback_with(
        self,
        config: RollbackConfig,
        handler: impl AsyncFn(RollbackContext<T>) -> Result<(), StepError> + 'static,
    ) -> Self {
        self.with(|step| step.rollback = Some(Rollback::new(config, handler)))
    }

    fn with(mut self, change: impl FnOnce(&mut DoStep<T>)) -> Self {
        if let State::Described(_, step, _) = &mut self.0 {
            change(step);
        }
        self
    }
}

// Nothing in it is pinned in place: the future is boxed.
impl<S, T> Unpin for StepFuture<'_, S, T> {}

impl<S, T> Future for StepFuture<'_, S, T> {
    type Output = Result<T, StepError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut running = match std::mem::replace(&mut self.0, State::Begins) {
            State::Described(step, description, begin) => begin(step, description),
            State::Running(running) => running,
            State::Begins => return Poll::Pending,
        };
        let polled = running.as_mut().poll(context);
        self.0 = State::Running(running);
        polled
    }
}

impl<S, T> fmt::Debug for StepFuture<'_, S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_tuple("StepFuture");
        match &self.0 {
            State::Described(_, step, _) => debug.field(step),
            State::Running(_) | State::Begins => debug.field(&format_args!("running")),
        };
        debug.finish()
    }
}

/// A full description of a step that runs code, for implementations of [`Step`].
#[non_exhaustive]
pub struct DoStep<T> {
    /// The step's name.
    pub name: String,
    /// The step's config.
    pub config: StepConfig,
    /// The code that each attempt runs.
    pub callback: StepCallback<T>,
    /// The handler that undoes the step. Default: none.
    pub rollback: Option<Rollback<T>>,
}

impl<T: 'static> DoStep<T> {
    /// Describes a step with the default config and no rollback.
    pub fn new(
        name: impl Into<String>,
        callback: impl AsyncFn(StepContext) -> Result<T, StepError> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            config: StepConfig::new(),
            callback: StepCallback::new(callback),
            rollback: None,
        }
    }
}

impl<T> fmt::Debug for DoStep<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoStep")
            .field("name", &self.name)
            .field("config", &self.config)
            .field("rollback", &self.rollback)
            .finish_non_exhaustive()
    }
}

/// The code that each attempt of a step runs. Clones share it.
pub struct StepCallback<T>(Rc<dyn Fn(StepContext) -> LocalBoxFuture<'static, StepResult<T>>>);

type StepResult<T> = Result<T, StepError>;

impl<T: 'static> StepCallback<T> {
    /// Returns the callback that runs an async closure.
    pub fn new(callback: impl AsyncFn(StepContext) -> Result<T, StepError> + 'static) -> Self {
        let callback = Rc::new(callback);
        Self(Rc::new(move |context| {
            let callback = Rc::clone(&callback);
            Box::pin(async move { callback(context).await })
        }))
    }

    /// Runs an attempt.
    ///
    /// # Errors
    /// The error of the callback.
    pub async fn call(&self, context: StepContext) -> Result<T, StepError> {
        (self.0)(context).await
    }
}

impl<T> Clone for StepCallback<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> fmt::Debug for StepCallback<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StepCallback")
    }
}

/// The options of a wait: the type of the event and the timeout.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitForEvent {
    /// The type that the event must be sent with.
    pub event_type: String,
    /// The longest time to wait. Default: the platform's, 24 hours.
    pub timeout: Option<WorkflowDuration>,
}

impl WaitForEvent {
    /// Waits for an event of this type.
    pub fn new(event_type: impl Into<String>) -> Self {
        Self {
            event_type: event_type.into(),
            timeout: None,
        }
    }

    /// Sets the longest time to wait.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<WorkflowDuration>) -> Self {
        self.timeout = Some(timeout.into());
        self
    }
}

/// An event that a step has waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitedEvent<T> {
    /// The payload that was sent.
    pub payload: T,
    /// The time at which it was sent.
    pub timestamp: SystemTime,
    /// The type that it was sent with.
    pub event_type: String,
    /// The part of it that the platform's log and dashboards do not show.
    pub sensitive: Option<Sensitivity>,
}

impl<T> WaitedEvent<T> {
    /// Returns an event of type `event_type` that was sent at `timestamp`.
    pub fn new(event_type: impl Into<String>, payload: T, timestamp: SystemTime) -> Self {
        Self {
            payload,
            timestamp,
            event_type: event_type.into(),
            sensitive: None,
        }
    }
}
