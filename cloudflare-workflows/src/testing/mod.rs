//! A fake engine that runs workflows natively, for tests (feature `testing`).
//!
//! Let the logic of a workflow take `&impl Step`, and run it here without Cloudflare:
//!
//! ```
//! use std::time::Duration;
//! use cloudflare_workflows::testing::FakeInstance;
//! use cloudflare_workflows::{Step, StepError, WaitForEvent};
//!
//! async fn order(step: &impl Step) -> Result<String, StepError> {
//!     let payment: u32 = step.run("charge card", async |_| Ok(7)).await?;
//!     step.sleep("let the glue dry", Duration::from_secs(3600)).await?;
//!     let approval = step
//!         .wait_for_event::<String>("approval", WaitForEvent::new("approved"))
//!         .await?;
//!     Ok(format!("payment {payment}, approved by {}", approval.payload))
//! }
//!
//! # futures_executor::block_on(async {
//! let instance = FakeInstance::new();
//! instance.fail_attempt("charge card", StepError::new("no answer")); // then it is retried
//! instance.send_event("approved", "Ada");
//!
//! let receipt = instance.run(async |step| order(&step).await).await?;
//! assert_eq!(receipt, "payment 7, approved by Ada");
//!
//! let charge = &instance.steps()[0];
//! assert_eq!((charge.name.as_str(), charge.attempts), ("charge card", 2));
//! assert!(instance.elapsed() >= Duration::from_secs(3600)); // the test has not waited
//! # Ok::<(), cloudflare_workflows::testing::FakeRunError>(())
//! # }).unwrap();
//! ```
//!
//! The fake engine ends the run and begins it again wherever a real engine might do that, with the results
//! of the steps that have ended. So a workflow that is not deterministic does not pass: see [`Replay`].

mod state;
mod step;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::border;
use crate::step::context::Progress;
use crate::step::error::{StepError, StepErrorKind};
use crate::step::kind::StepKind;
use state::{Given, State, Stored};
pub use step::FakeStep;

/// A workflow instance on the fake engine. Its clock advances when every step waits, and the test says
/// which attempts fail, what steps return and which events come.
///
/// Clones are the same instance. It lives on one thread.
#[derive(Clone, Default)]
pub struct FakeInstance {
    state: Rc<State>,
}

/// The places at which a [`FakeInstance`] ends the run and begins it again, as an engine does for sleeps,
/// deploys, crashes and pauses. The code of a step that has ended does not run again; all other code does.
///
/// A run whose lifetimes differ fails with [`FakeRunError::NotDeterministic`]: a step that has begun is not
/// called again or is different (its duration, the event it waits for), or a run that has ended begins a
/// new step or returns another result. So does a run in which a `select!` of steps polls fewer of them than
/// before: Cloudflare's rules ask for races inside of a step. A lifetime in which a stored error is returned
/// may leave out steps, as `try_join!` then does.
///
/// In a pause the steps that wait return an error: by turns one of the kind [`StepErrorKind::Suspended`], and
/// one of the kind [`StepErrorKind::Reset`], as after a deploy. A run that does not return that error fails
/// with [`FakeRunError::IgnoredSuspension`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replay {
    /// After every step, before every wait and retry, by a pause during each wait and retry, and once more
    /// at the end.
    #[default]
    Everywhere,
    /// Before every wait and retry.
    AtWaits,
    /// Never.
    Never,
}

/// A step of a [`FakeInstance`]: see [`FakeInstance::steps`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FakeStepRecord {
    /// The kind of the step.
    pub kind: StepKind,
    /// The step's name.
    pub name: String,
    /// The number of the step among the steps of its kind and name, from 1.
    pub count: u32,
    /// The number of attempts, including those that failed with a scripted error.
    pub attempts: u32,
    /// The result as JSON (`null` for a sleep and a stream, the payload for a wait), or the message of the
    /// error. `None` if the step has not ended.
    pub result: Option<Result<Value, String>>,
    /// The reports of the step's code, in order.
    pub progress: Vec<Progress>,
    /// The attributes that the step's code set.
    pub attributes: Map<String, Value>,
    /// The result of the step's rollback, an error as its message. `None` if no rollback ran.
    pub rolled_back: Option<Result<(), String>>,
    /// The duration, or the event that is waited for: what must be the same in every lifetime.
    detail: String,
    stored: Option<Stored>,
    /// The time at which the sleep, the wait or the pause between two attempts ends.
    due: Option<SystemTime>,
}

/// The error of a [`FakeInstance::run`].
#[derive(Debug)]
#[non_exhaustive]
pub enum FakeRunError {
    /// The workflow failed with this error. Its rollbacks have run.
    Workflow(StepError),
    /// Two lifetimes of the run differ, as the string describes.
    NotDeterministic(String),
    /// The run was paused or reset, and the workflow went on, as the string describes.
    IgnoredSuspension(String),
}

impl FakeRunError {
    /// Returns the workflow's own error, `None` for the other kinds.
    #[must_use]
    pub fn workflow(&self) -> Option<&StepError> {
        match self {
            Self::Workflow(error) => Some(error),
            Self::NotDeterministic(_) | Self::IgnoredSuspension(_) => None,
        }
    }
}

impl fmt::Display for FakeRunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workflow(error) => write!(f, "the workflow failed: {error}"),
            Self::NotDeterministic(how) => write!(
                f,
                "the workflow is not deterministic: {how}. Code outside of steps runs again in every \
                 lifetime of a run and must make the same steps: move clocks, random numbers and \
                 outside state into steps"
            ),
            Self::IgnoredSuspension(how) => write!(
                f,
                "the run was paused or reset, and the workflow did not return the error that says so: {how}. \
                 Return an error of a step if its `is_suspended()` is true"
            ),
        }
    }
}

impl std::error::Error for FakeRunError {}

impl FakeInstance {
    /// Returns an instance whose clock begins at 2026-01-01T00:00:00Z, and whose steps run their own code.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the [`Replay`]. Default: [`Replay::Everywhere`].
    #[must_use]
    pub fn replay(self, replay: Replay) -> Self {
        self.state.replay.set(replay);
        self
    }

    /// Lets `do` steps of this name return `value` without running their code. The first call is for the
    /// first step of the name, the second call for the second, and so on. The value of the last call is also
    /// for all later steps.
    ///
    /// A value that a step cannot return fails the attempt, with the same error as on the real engine.
    pub fn returns<T: Serialize>(&self, step: &str, value: T) -> &Self {
        let mut results = self.state.results.borrow_mut();
        let results = results.entry(step.to_owned()).or_default();
        results.push_back(given(&value, border::RESULT));
        self
    }

    /// Lets the next attempt of `do` steps of this name fail with `error`, without running the code. It is
    /// retried as the step's config says. Each call is for one more attempt.
    pub fn fail_attempt(&self, step: &str, error: impl Into<StepError>) -> &Self {
        let error = error.into();
        let mut failures = self.state.failures.borrow_mut();
        let failures = failures.entry(step.to_owned()).or_default();
        failures.push_back((error.kind(), error.message().to_owned()));
        self
    }

    /// Lets the next attempt of `do` steps of this name fail as one that took longer than its timeout.
    pub fn time_out_attempt(&self, step: &str) -> &Self {
        let error = StepError::with_kind(StepErrorKind::TimedOut, "the attempt timed out");
        self.fail_attempt(step, error)
    }

    /// Sends an event now. Called before the run, the event is there when the run begins to wait.
    pub fn send_event<T: Serialize>(&self, event_type: &str, payload: T) -> &Self {
        self.send_event_after(Duration::ZERO, event_type, payload)
    }

    /// Sends an event when `delay` has passed by the instance's clock.
    pub fn send_event_after<T: Serialize>(
        &self,
        delay: Duration,
        event_type: &str,
        payload: T,
    ) -> &Self {
        let payload = given(&payload, "the event's payload cannot be sent");
        let event = (self.state.now.get() + delay, event_type.to_owned(), payload);
        self.state.events.borrow_mut().push(event);
        self
    }

    /// Runs a workflow to its end, in as many lifetimes as [`Replay`] asks for, and then its rollbacks if it
    /// fails.
    ///
    /// The clock advances when every step waits, and only then. While the code of a step waits for something
    /// else, such as a real timer, the run waits, too. So attempts do not time out by themselves: see
    /// [`time_out_attempt`](Self::time_out_attempt). A run that waits for an event that never comes fails at
    /// the timeout of the wait.
    ///
    /// # Errors
    /// [`FakeRunError::Workflow`] with the workflow's own error; [`FakeRunError::NotDeterministic`] if the
    /// lifetimes differ; [`FakeRunError::IgnoredSuspension`] if the workflow goes on after a pause.
    pub async fn run<T: Serialize>(
        &self,
        workflow: impl AsyncFn(FakeStep) -> Result<T, StepError>,
    ) -> Result<T, FakeRunError> {
        let mut before: Option<Result<Value, String>> = None;
        loop {
            self.state.begin_lifetime(before.is_some());
            let step = FakeStep {
                state: Rc::clone(&self.state),
            };
            let result = self.lifetime(workflow(step)).await;
            self.state.check()?;
            let Some(result) = result else { continue };
            let output = result.as_ref().map(border::write_value);
            let (result, told) = match output {
                Ok(Ok(output)) => (result, Ok(output)),
                Ok(Err(refused)) => {
                    let error = refused.into_step_error(border::OUTPUT);
                    let message = error.message().to_owned();
                    (Err(error), Err(message))
                }
                Err(error) => {
                    let message = error.message().to_owned();
                    (result, Err(message))
                }
            };
            match before {
                Some(before) if before != told => {
                    let words = |told: &Result<Value, String>| match told {
                        Ok(value) => format!("returned {value}"),
                        Err(error) => format!("failed with {error:?}"),
                    };
                    let how = format!(
                        "it {} in one lifetime and {} in the next",
                        words(&before),
                        words(&told)
                    );
                    return Err(FakeRunError::NotDeterministic(how));
                }
                None if self.state.replay.get() == Replay::Everywhere => {
                    before = Some(told);
                    continue;
                }
                _ => {}
            }
            return match result {
                Ok(value) => Ok(value),
                Err(error) => {
                    self.state.roll_back(&error).await;
                    Err(FakeRunError::Workflow(error))
                }
            };
        }
    }

    /// Returns the steps that have begun, in the order in which they began.
    #[must_use]
    pub fn steps(&self) -> Vec<FakeStepRecord> {
        self.state.records.borrow().clone()
    }

    /// Returns the number of lifetimes of the run.
    #[must_use]
    pub fn lifetimes(&self) -> u32 {
        self.state.lifetimes.get()
    }

    /// Returns the time by the instance's clock.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.state.now.get()
    }

    /// Returns how much time has passed by the instance's clock.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        let elapsed = self.now().duration_since(self.state.began);
        elapsed.unwrap_or_default()
    }

    /// Runs one lifetime. Returns `None` if it ends before the workflow returns.
    async fn lifetime<T>(
        &self,
        workflow: impl Future<Output = Result<T, StepError>>,
    ) -> Option<Result<T, StepError>> {
        let state = &self.state;
        let mut workflow = pin!(workflow);
        let mut replayed = state.changes.get();
        poll_fn(|context| {
            loop {
                if let Poll::Ready(result) = workflow.as_mut().poll(context) {
                    if state.lifetime.borrow().suspended {
                        state.ended_in_pause(&result);
                        return Poll::Ready(None);
                    }
                    return Poll::Ready(Some(result));
                }
                if state.lifetime.borrow().violation.is_some() {
                    return Poll::Ready(None);
                }
                if std::mem::take(&mut state.lifetime.borrow_mut().passing) {
                    continue;
                }
                if state.lifetime.borrow().running > 0 {
                    // The code of a step waits for something else, which will wake it.
                    return Poll::Pending;
                }
                if state.lifetime.borrow().ends {
                    return Poll::Ready(None);
                }
                let waits = state.replay.get() != Replay::Never;
                if waits
                    && state.changes.get() != std::mem::replace(&mut replayed, state.changes.get())
                {
                    return Poll::Ready(None);
                }
                if state.replay.get() == Replay::Everywhere && state.pause() {
                    continue;
                }
                if !state.pass_time() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

impl fmt::Debug for FakeInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeInstance")
            .field("lifetimes", &self.lifetimes())
            .field("steps", &self.state.records.borrow().len())
            .finish_non_exhaustive()
    }
}

impl FakeStepRecord {
    fn new(kind: StepKind, name: &str, count: u32, detail: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            count,
            attempts: 0,
            result: None,
            progress: Vec::new(),
            attributes: Map::new(),
            rolled_back: None,
            detail: detail.to_owned(),
            stored: None,
            due: None,
        }
    }
}

/// Writes, for example, `sleep "nap" (number 2)`.
impl fmt::Display for FakeStepRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            StepKind::Do => "do",
            StepKind::Sleep => "sleep",
            StepKind::SleepUntil => "sleepUntil",
            StepKind::WaitForEvent => "waitForEvent",
        };
        write!(f, "{kind} {:?} (number {})", self.name, self.count)
    }
}

/// Returns a value as JavaScript would return it.
fn given<T: Serialize>(value: &T, what: &str) -> Given {
    let written = border::write_value(value);
    written.map_err(|refused| refused.into_step_error(what).message().to_owned())
}
