//! The steps of a workflow, as a trait: the platform's, wrapped ones, or a fake in tests.

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

/// What a workflow's `run` gets to make steps with.
///
/// Mirrors Cloudflare's `WorkflowStep`; a step is called `run` here since `do` is a keyword. All
/// methods take `&self`, so steps can run concurrently with `join!`. Clones are the same step object,
/// for callbacks and bodies that need one of their own. Lives on one thread.
///
/// Implementations write [`do_step`](Self::do_step) and the waits; callers call
/// [`run`](Self::run).
#[allow(async_fn_in_trait, reason = "workflows live on one thread")]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot make steps",
    note = "steps are made with the `WorkflowStep` that `run` gets, or with the step object that \
            `WorkflowEventStep::workflow` hands to its body"
)]
pub trait Step: Clone {
    /// Runs `callback` as a durable step. Nothing happens until it is awaited.
    ///
    /// The result is stored; in a later lifetime of the run it is returned without calling
    /// `callback`. It owns what it has (a `String`, not a `&str`), and may be up to 1 MiB as JSON: see
    /// [`StepOutput`]. Return a [`ByteStream`](crate::ByteStream) for more.
    ///
    /// `callback` owns what it uses, since the engine may call it at any time: write `async move`, and
    /// clone what others need, too.
    ///
    /// With the default config: five retries, one second apart and doubling, with a timeout of ten
    /// minutes for each attempt. Another config and a rollback can be given before the `.await`:
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

    /// Runs `callback` as a durable step with this config: see [`run`](Self::run).
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

    /// Runs a group of steps, which viewers see as one task with the steps below it, where the step
    /// object is a [`WorkflowEventStep`](super::WorkflowEventStep). Not a step of the engine: it is not
    /// stored, not retried and not billed. Default: just runs `body`.
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
    /// Those of `body`.
    async fn group<T>(
        &self,
        name: &str,
        body: impl AsyncFnOnce(Self) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let _ = name;
        body(self.clone()).await
    }

    /// Runs a step: what awaiting [`run`](Self::run) comes to.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    async fn do_step<T: StepOutput>(&self, step: DoStep<T>) -> Result<T, StepError>;

    /// Sleeps, for a [`Duration`](std::time::Duration) or a platform's label
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

/// A step that runs when it is awaited. Whatever it is to run with is given before.
#[must_use = "a step does not run until it is awaited"]
pub struct StepFuture<'a, S, T>(State<'a, S, T>);

enum State<'a, S, T> {
    Described(&'a S, DoStep<T>, Begin<'a, S, T>),
    Running(LocalBoxFuture<'a, Result<T, StepError>>),
    /// Only while the state changes.
    Begins,
}

/// [`Step::do_step`]. Known where the step is described, so that awaiting it asks for no bounds: the
/// compiler would tell again what it has told of `run`.
type Begin<'a, S, T> = fn(&'a S, DoStep<T>) -> LocalBoxFuture<'a, Result<T, StepError>>;

impl<'a, S: Step, T: StepOutput> StepFuture<'a, S, T> {
    fn new(step: &'a S, description: DoStep<T>) -> Self {
        let begin: Begin<'a, S, T> = |step, description| Box::pin(step.do_step(description));
        Self(State::Described(step, description, begin))
    }
}

impl<S, T: 'static> StepFuture<'_, S, T> {
    /// With this config, in place of all that was set before.
    pub fn config(self, config: StepConfig) -> Self {
        self.with(|step| step.config = config)
    }

    /// With these retries.
    pub fn retries(self, retries: Retries) -> Self {
        self.with(|step| step.config.retries = Some(retries))
    }

    /// With this timeout for each attempt.
    pub fn timeout(self, timeout: impl Into<WorkflowDuration>) -> Self {
        self.with(|step| step.config.timeout = Some(timeout.into()))
    }

    /// With something that the platform's log and dashboards do not show.
    pub fn sensitive(self, sensitive: Sensitivity) -> Self {
        self.with(|step| step.config.sensitive = Some(sensitive))
    }

    /// With a handler that undoes the step if the run fails, or is terminated with rollback, at
    /// any time after the step has begun, also if the step itself failed. The last step is undone
    /// first. Runs with the platform's default config.
    ///
    /// Rollbacks run when the run's own code has ended, so viewers are not told of them. The first
    /// that fails for good is the last that runs.
    pub fn rollback(
        self,
        handler: impl AsyncFn(RollbackContext<T>) -> Result<(), StepError> + 'static,
    ) -> Self {
        self.rollback_with(RollbackConfig::new(), handler)
    }

    /// As [`rollback`](Self::rollback), with another config.
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

// What it holds is not pinned in place: the future is behind a pointer.
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

/// A step that runs code, in full: for implementations of [`Step`].
#[non_exhaustive]
pub struct DoStep<T> {
    /// Its name.
    pub name: String,
    /// How it is retried, when an attempt is given up, and what of it is kept secret.
    pub config: StepConfig,
    /// What each attempt runs.
    pub callback: StepCallback<T>,
    /// What undoes it.
    pub rollback: Option<Rollback<T>>,
}

impl<T: 'static> DoStep<T> {
    /// With the default config and no rollback.
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

/// What each attempt of a step runs. Clones are the same.
pub struct StepCallback<T>(Rc<dyn Fn(StepContext) -> LocalBoxFuture<'static, StepResult<T>>>);

type StepResult<T> = Result<T, StepError>;

impl<T: 'static> StepCallback<T> {
    /// From an async closure.
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
    /// The callback's.
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

/// Which event a step waits for, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitForEvent {
    /// The type that the event must be sent with.
    pub event_type: String,
    /// Default: the platform's, 24 hours.
    pub timeout: Option<WorkflowDuration>,
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
    pub fn timeout(mut self, timeout: impl Into<WorkflowDuration>) -> Self {
        self.timeout = Some(timeout.into());
        self
    }
}

/// An event that a step waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitedEvent<T> {
    /// What was sent.
    pub payload: T,
    /// When it was sent.
    pub timestamp: SystemTime,
    /// The type that it was sent with.
    pub event_type: String,
    /// What the platform's log and dashboards do not show of it.
    pub sensitive: Option<Sensitivity>,
}

impl<T> WaitedEvent<T> {
    /// An event of this type that was sent at this time.
    pub fn new(event_type: impl Into<String>, payload: T, timestamp: SystemTime) -> Self {
        Self {
            payload,
            timestamp,
            event_type: event_type.into(),
            sensitive: None,
        }
    }
}
