//! A fake engine, for testing workflows natively: feature `testing`.
//!
//! Write the logic of a workflow over `&impl Step`, and run it here without Cloudflare:
//!
//! ```
//! use std::time::Duration;
//! use ssetarget::workflow::testing::FakeInstance;
//! use ssetarget::workflow::{Step, StepError, WaitForEvent};
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
//! assert!(instance.elapsed() >= Duration::from_secs(3600)); // and nobody has waited
//! # Ok::<(), ssetarget::workflow::testing::FakeRunError>(())
//! # }).unwrap();
//! ```
//!
//! The run is ended and begun again whenever a real engine might do that, with the results of the
//! steps that have ended, so a workflow that is not deterministic does not pass: see [`Replay`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime};

use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::config::DelayContext;
use super::context::{Progress, Reporter, StepContext};
use super::duration::WorkflowDuration;
use super::error::{StepError, StepErrorKind};
use super::output::{ByteStream, JsonCodec, JsonOutput, StepOutput};
use super::rollback::{Rollback, RollbackContext};
use super::step::{DoStep, Step, WaitForEvent, WaitedEvent};
use super::task::Kind;

/// A workflow instance without an engine: steps run here and now, time passes when everybody waits,
/// and what its steps meet is scripted.
///
/// Clones are the same instance. Lives on one thread.
#[derive(Clone, Default)]
pub struct FakeInstance {
    state: Rc<State>,
}

/// When a [`FakeInstance`] ends the run and begins it again, as an engine does for sleeps, deploys
/// and crashes. The code of a step that has ended does not run again; all other code does.
///
/// A run whose lifetimes differ fails with [`FakeRunError::NotDeterministic`]: if a step that has
/// begun is not called again, or is another one (its duration, the event it waits for), if a run that
/// has ended begins something new, or gives another result. Also if a `select!` of steps polls
/// fewer of them than before: Cloudflare's rules have races inside of steps for that reason. A
/// lifetime in which a step's error is given back may leave out steps, as `try_join!` then does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replay {
    /// After every step, before every wait and retry, and once more at the end.
    #[default]
    Everywhere,
    /// Before every wait and retry.
    AtWaits,
    /// Never.
    Never,
}

/// A step of a [`FakeInstance`], in the order in which they began.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FakeStepRecord {
    /// What kind it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Which step of that kind and name it is, from 1.
    pub count: u32,
    /// How often its code ran, or a scripted error did in its place.
    pub attempts: u32,
    /// How it ended: with what it returned (`null` for a sleep and a stream, the payload for a wait),
    /// or an error's message. `None` if it has not.
    pub result: Option<Result<Value, String>>,
    /// What its code reported.
    pub progress: Vec<Progress>,
    /// What its code set.
    pub attributes: Map<String, Value>,
    /// Whether its rollback ran, and with which result.
    pub rolled_back: Option<Result<(), String>>,
    /// How long it is, or which event it waits for: what must be the same in every lifetime.
    detail: String,
    stored: Option<Stored>,
    /// When the sleep, the wait or the pause between two attempts ends.
    due: Option<SystemTime>,
}

#[derive(Clone, Debug, PartialEq)]
enum Stored {
    Value(Value),
    Bytes(Vec<u8>),
    Event { payload: Value, sent: SystemTime },
    Error(StepErrorKind, String),
}

/// Why a [`FakeInstance::run`] gave no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum FakeRunError {
    /// The workflow failed with this error. Its rollbacks have run.
    Workflow(StepError),
    /// The workflow did not do the same in two lifetimes of the run; in words.
    NotDeterministic(String),
}

impl FakeRunError {
    /// The workflow's error, unless it is not deterministic.
    #[must_use]
    pub fn workflow(&self) -> Option<&StepError> {
        match self {
            Self::Workflow(error) => Some(error),
            Self::NotDeterministic(_) => None,
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
                 lifetime of a run and must give the same steps: move clocks, random numbers and \
                 what comes from outside into steps"
            ),
        }
    }
}

impl std::error::Error for FakeRunError {}

struct State {
    records: RefCell<Vec<FakeStepRecord>>,
    replay: Cell<Replay>,
    now: Cell<SystemTime>,
    began: SystemTime,
    /// What steps of a name return without running.
    results: RefCell<HashMap<String, VecDeque<Value>>>,
    /// Errors of the next attempts of steps of a name.
    failures: RefCell<HashMap<String, VecDeque<(StepErrorKind, String)>>>,
    /// Events from outside, by when they come.
    events: RefCell<Vec<(SystemTime, String, Value)>>,
    lifetimes: Cell<u32>,
    lifetime: RefCell<Lifetime>,
    /// Grows with all that is stored, to know whether a lifetime changed anything.
    changes: Cell<u64>,
}

/// What is gone when a lifetime ends.
#[derive(Default)]
struct Lifetime {
    counts: HashMap<(Kind, String), u32>,
    /// How many steps had begun before.
    known: usize,
    /// The steps that were called, as places in the records.
    called: Vec<usize>,
    /// Attempts under way.
    running: u32,
    /// It ends once no attempt is under way.
    ends: bool,
    /// A stored error was given back: then what follows may rightly differ.
    failed: bool,
    /// The run has ended before: nothing new may begin.
    complete: bool,
    violation: Option<String>,
    timers: BTreeMap<(SystemTime, usize), Option<Waker>>,
    rollbacks: Vec<(usize, BoxedRollback)>,
}

type BoxedRollback = Box<dyn Fn(StepError) -> LocalBoxFuture<'static, Result<(), StepError>>>;

impl Default for State {
    fn default() -> Self {
        // A day like any other: the same for every test.
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        Self {
            records: RefCell::default(),
            replay: Cell::default(),
            now: Cell::new(began),
            began,
            results: RefCell::default(),
            failures: RefCell::default(),
            events: RefCell::default(),
            lifetimes: Cell::new(0),
            lifetime: RefCell::default(),
            changes: Cell::new(0),
        }
    }
}

impl FakeInstance {
    /// One that begins on 2026-01-01T00:00:00Z, whose steps run their own code.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With another [`Replay`]. Default: [`Replay::Everywhere`].
    #[must_use]
    pub fn replay(self, replay: Replay) -> Self {
        self.state.replay.set(replay);
        self
    }

    /// Lets `do` steps of this name return `value` without running: the first call is for the
    /// first of them, and so on; the last holds for all that follow.
    ///
    /// What cannot be written as JSON is `null`.
    pub fn returns<T: Serialize>(&self, step: &str, value: T) -> &Self {
        let mut results = self.state.results.borrow_mut();
        let results = results.entry(step.to_owned()).or_default();
        results.push_back(serde_json::to_value(value).unwrap_or_default());
        self
    }

    /// Lets the next attempt of `do` steps of this name fail without running, with an error that
    /// is retried as the step's config says. Each call is for one more attempt.
    pub fn fail_attempt(&self, step: &str, error: impl Into<StepError>) -> &Self {
        let error = error.into();
        let mut failures = self.state.failures.borrow_mut();
        let failures = failures.entry(step.to_owned()).or_default();
        failures.push_back((error.kind(), error.message().to_owned()));
        self
    }

    /// Lets the next attempt of `do` steps of this name take too long.
    pub fn time_out_attempt(&self, step: &str) -> &Self {
        let error = StepError::with_kind(StepErrorKind::TimedOut, "the attempt timed out");
        self.fail_attempt(step, error)
    }

    /// Sends an event for the waits of its type: at once, so that it is there before the run is.
    pub fn send_event<T: Serialize>(&self, event_type: &str, payload: T) -> &Self {
        self.send_event_after(Duration::ZERO, event_type, payload)
    }

    /// Sends an event so long after now, by the instance's clock.
    pub fn send_event_after<T: Serialize>(
        &self,
        delay: Duration,
        event_type: &str,
        payload: T,
    ) -> &Self {
        let payload = serde_json::to_value(payload).unwrap_or_default();
        let event = (self.state.now.get() + delay, event_type.to_owned(), payload);
        self.state.events.borrow_mut().push(event);
        self
    }

    /// Runs a workflow to its end, over as many lifetimes as [`Replay`] says, and its rollbacks if
    /// it fails.
    ///
    /// Time passes when everybody waits, and only then: while the code of a step waits for
    /// something else, such as a real timer, so does the run. For that reason attempts do not time
    /// out by themselves: see [`time_out_attempt`](Self::time_out_attempt).
    ///
    /// # Errors
    /// [`FakeRunError::Workflow`] with the workflow's own, [`FakeRunError::NotDeterministic`] if
    /// its lifetimes differ.
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
            let told = match &result {
                Ok(value) => Ok(serde_json::to_value(value).unwrap_or_default()),
                Err(error) => Err(error.message().to_owned()),
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

    /// The steps that have begun, in that order.
    #[must_use]
    pub fn steps(&self) -> Vec<FakeStepRecord> {
        self.state.records.borrow().clone()
    }

    /// How often the run was begun.
    #[must_use]
    pub fn lifetimes(&self) -> u32 {
        self.state.lifetimes.get()
    }

    /// The time by the instance's clock.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.state.now.get()
    }

    /// How much time has passed by the instance's clock.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        let elapsed = self.now().duration_since(self.state.began);
        elapsed.unwrap_or_default()
    }

    /// Runs until the workflow returns, or this lifetime ends: `None`.
    async fn lifetime<T>(&self, workflow: impl Future<Output = T>) -> Option<T> {
        let state = &self.state;
        let mut workflow = pin!(workflow);
        let mut replayed = state.changes.get();
        poll_fn(|context| {
            loop {
                if let Poll::Ready(value) = workflow.as_mut().poll(context) {
                    return Poll::Ready(Some(value));
                }
                if state.lifetime.borrow().violation.is_some() {
                    return Poll::Ready(None);
                }
                if state.lifetime.borrow().running > 0 {
                    // It waits for something that is not ours, which will wake it.
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

impl State {
    fn begin_lifetime(&self, complete: bool) {
        self.lifetimes.set(self.lifetimes.get() + 1);
        *self.lifetime.borrow_mut() = Lifetime {
            complete,
            known: self.records.borrow().len(),
            ..Lifetime::default()
        };
    }

    /// Whether this lifetime did what those before it did.
    fn check(&self) -> Result<(), FakeRunError> {
        let lifetime = self.lifetime.borrow();
        let not_deterministic = |how: String| Err(FakeRunError::NotDeterministic(how));
        if let Some(violation) = &lifetime.violation {
            return not_deterministic(violation.clone());
        }
        if lifetime.failed {
            return Ok(());
        }
        let records = self.records.borrow();
        let mut begun = records.iter().take(lifetime.known).enumerate();
        let left_out = begun.find(|(index, _)| !lifetime.called.contains(index));
        match left_out {
            None => Ok(()),
            Some((_, record)) => {
                let called = lifetime
                    .called
                    .iter()
                    .filter_map(|index| records.get(*index));
                let called: Vec<_> = called.map(ToString::to_string).collect();
                let called = match called.is_empty() {
                    true => "nothing".to_owned(),
                    false => called.join(", "),
                };
                not_deterministic(format!(
                    "{record} had {} and was not called again in lifetime {}, which called {called}",
                    if record.stored.is_some() {
                        "ended"
                    } else {
                        "begun"
                    },
                    self.lifetimes.get(),
                ))
            }
        }
    }

    /// To when the first of those who wait has waited enough. `false` if nobody waits.
    fn pass_time(&self) -> bool {
        let first = self.lifetime.borrow_mut().timers.pop_first();
        let Some(((due, _), waker)) = first else {
            return false;
        };
        self.now.set(self.now.get().max(due));
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Waits until the clock says so. The time passes when everybody waits.
    async fn sleep_until(&self, due: SystemTime, index: usize) {
        poll_fn(|context| {
            if self.now.get() >= due {
                return Poll::Ready(());
            }
            let mut lifetime = self.lifetime.borrow_mut();
            lifetime
                .timers
                .insert((due, index), Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// A step is called: its record, which is a new one if it has not begun before.
    fn call(&self, kind: Kind, name: &str, detail: &str) -> Result<usize, StepError> {
        let mut lifetime = self.lifetime.borrow_mut();
        let count = lifetime.counts.entry((kind, name.to_owned())).or_default();
        *count += 1;
        let count = *count;
        let mut records = self.records.borrow_mut();
        let found = records
            .iter()
            .position(|record| record.kind == kind && record.name == name && record.count == count);
        let index = found.unwrap_or(records.len());
        if let Some(record) = records.get(index) {
            if record.detail != detail {
                lifetime.violation = Some(format!(
                    "{record} was {} in an earlier lifetime and is {detail} in lifetime {}",
                    record.detail,
                    self.lifetimes.get(),
                ));
            }
        } else {
            records.push(FakeStepRecord::new(kind, name, count, detail));
            if lifetime.complete {
                lifetime.violation = Some(format!(
                    "{} began when a run that had ended was run again",
                    records[index]
                ));
            }
            drop(records);
            self.changed();
        }
        lifetime.called.push(index);
        match lifetime.violation {
            // The lifetime ends with the next look at it.
            Some(_) => Err(StepError::with_kind(
                StepErrorKind::Suspended,
                "the workflow is not deterministic",
            )),
            None => Ok(index),
        }
    }

    fn changed(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    fn record<R>(&self, index: usize, change: impl FnOnce(&mut FakeStepRecord) -> R) -> Option<R> {
        self.records.borrow_mut().get_mut(index).map(change)
    }

    fn stored(&self, index: usize) -> Option<Stored> {
        let stored = self.record(index, |record| record.stored.clone()).flatten();
        if matches!(stored, Some(Stored::Error(..))) {
            self.lifetime.borrow_mut().failed = true;
        }
        stored
    }

    /// A step has ended. In a replay everywhere, so has this lifetime.
    async fn end(&self, index: usize, stored: Stored) -> Stored {
        self.record(index, |record| {
            record.result = Some(match &stored {
                Stored::Value(value) => Ok(value.clone()),
                Stored::Bytes(_) => Ok(Value::Null),
                Stored::Event { payload, .. } => Ok(payload.clone()),
                Stored::Error(_, message) => Err(message.clone()),
            });
            record.stored = Some(stored.clone());
            record.due = None;
        });
        self.changed();
        if self.replay.get() == Replay::Everywhere {
            self.lifetime.borrow_mut().ends = true;
            std::future::pending::<()>().await;
        }
        stored
    }

    async fn roll_back(&self, error: &StepError) {
        let rollbacks = std::mem::take(&mut self.lifetime.borrow_mut().rollbacks);
        for (index, rollback) in rollbacks.into_iter().rev() {
            let error = StepError::with_kind(error.kind(), error.message());
            let result = rollback(error).await;
            let result = result.map_err(|error| error.message().to_owned());
            let failed = result.is_err();
            self.record(index, |record| record.rolled_back = Some(result));
            if failed {
                return;
            }
        }
    }
}

/// The step object of one lifetime of a [`FakeInstance`].
#[derive(Clone)]
pub struct FakeStep {
    state: Rc<State>,
}

impl Step for FakeStep {
    async fn do_step<T: StepOutput>(&self, step: DoStep<T>) -> Result<T, StepError> {
        let state = &self.state;
        let index = state.call(Kind::Do, &step.name, "a do step")?;
        let config = step.config.resolve();
        if let Some(rollback) = &step.rollback {
            self.register(index, &step, rollback);
        }
        if let Some(stored) = state.stored(index) {
            return decode(stored);
        }
        let (name, count) = (step.name.clone(), self.count(index));
        let context = |attempt| StepContext::new(&name, count, attempt).with_config(config);
        loop {
            // Others that begin now do so before anything ends.
            if let Some(due) = state.record(index, |record| record.due).flatten() {
                state.sleep_until(due, index).await;
                state.record(index, |record| record.due = None);
            }
            let attempt = state.record(index, |record| {
                record.attempts += 1;
                record.attempts
            });
            let attempt = attempt.unwrap_or(1);
            let reporter = Rc::new(Recorder {
                state: Rc::clone(state),
                index,
            });
            let ran = self.attempt(&step, count, context(attempt).with_reporter(reporter));
            let error = match ran.await {
                Ok(stored) => return decode(state.end(index, stored).await),
                Err(error) => error,
            };
            let last =
                error.kind() == StepErrorKind::NonRetryable || attempt > config.retries.limit;
            let failed = DelayContext::new(context(attempt), error);
            let delay = match &step.config.retries {
                _ if last => None,
                Some(retries) => retries.delay_after(&failed).await.ok(),
                None => super::config::Retries::new(config.retries.limit, Duration::from_secs(1))
                    .delay_after(&failed)
                    .await
                    .ok(),
            };
            let error = failed.error;
            let Some(delay) = delay else {
                let stored = Stored::Error(error.kind(), error.message().to_owned());
                return decode(state.end(index, stored).await);
            };
            let due = state.now.get() + delay;
            state.record(index, |record| record.due = Some(due));
            state.changed();
        }
    }

    async fn sleep(
        &self,
        name: &str,
        duration: impl Into<WorkflowDuration>,
    ) -> Result<(), StepError> {
        let duration = Duration::from(duration.into());
        let index = self
            .state
            .call(Kind::Sleep, name, &format!("{duration:?} long"))?;
        self.wait(index, self.state.now.get() + duration).await
    }

    async fn sleep_until(&self, name: &str, time: SystemTime) -> Result<(), StepError> {
        let since = time.duration_since(self.state.began).unwrap_or_default();
        let detail = format!("until {since:?} after the beginning");
        let index = self.state.call(Kind::SleepUntil, name, &detail)?;
        self.wait(index, time).await
    }

    async fn wait_for_event<T>(
        &self,
        name: &str,
        options: WaitForEvent,
    ) -> Result<WaitedEvent<T>, StepError>
    where
        T: DeserializeOwned + 'static,
    {
        let state = &self.state;
        let event_type = options.event_type;
        let detail = format!("for {event_type:?}");
        let index = state.call(Kind::WaitForEvent, name, &detail)?;
        let stored = match state.stored(index) {
            Some(stored) => stored,
            None => {
                let timeout = options.timeout.unwrap_or(WorkflowDuration::hours(24));
                let stored = self.event(index, &event_type, timeout.into()).await;
                state.end(index, stored).await
            }
        };
        match stored {
            Stored::Event { payload, sent } => {
                let payload = serde_json::from_value(payload).map_err(|error| {
                    let message =
                        format!("the event that {name:?} waited for has another payload: {error}");
                    StepError::new(message)
                })?;
                Ok(WaitedEvent::new(event_type, payload, sent))
            }
            Stored::Error(kind, message) => Err(StepError::with_kind(kind, message)),
            Stored::Value(_) | Stored::Bytes(_) => Err(StepError::new("no event was stored")),
        }
    }
}

impl FakeStep {
    fn count(&self, index: usize) -> u32 {
        self.state.record(index, |record| record.count).unwrap_or(1)
    }

    /// One attempt, scripted or live.
    async fn attempt<T: StepOutput>(
        &self,
        step: &DoStep<T>,
        count: u32,
        context: StepContext,
    ) -> Result<Stored, StepError> {
        let state = &self.state;
        let failure = {
            let mut failures = state.failures.borrow_mut();
            failures.get_mut(&step.name).and_then(VecDeque::pop_front)
        };
        let result = {
            let results = state.results.borrow();
            let of_name = results.get(&step.name);
            of_name.and_then(|values| values.get(count as usize - 1).or(values.back()).cloned())
        };
        let _running = Running::new(state);
        // Steps that are called at the same time all begin before one of them ends.
        pass().await;
        if let Some((kind, message)) = failure {
            return Err(StepError::with_kind(kind, message));
        }
        if let Some(value) = result {
            return Ok(Stored::Value(value));
        }
        let output = step.callback.call(context).await?;
        Ok(match output.encode(&JsonCodec)? {
            JsonOutput::Value(value) => Stored::Value(value),
            JsonOutput::Stream(stream) => Stored::Bytes(stream.read_all().await?),
        })
    }

    /// A sleep, to its end.
    async fn wait(&self, index: usize, due: SystemTime) -> Result<(), StepError> {
        let state = &self.state;
        if state.stored(index).is_some() {
            return Ok(());
        }
        // As it was when it began.
        let due = state.record(index, |record| *record.due.get_or_insert(due));
        state
            .sleep_until(due.unwrap_or(state.now.get()), index)
            .await;
        pass().await;
        state.end(index, Stored::Value(Value::Null)).await;
        Ok(())
    }

    /// The event that a wait is for, or an error when its time is over.
    async fn event(&self, index: usize, event_type: &str, timeout: Duration) -> Stored {
        let state = &self.state;
        let now = state.now.get();
        let end = state.record(index, |record| *record.due.get_or_insert(now + timeout));
        let end = end.unwrap_or(now);
        loop {
            pass().await;
            let next = {
                let events = state.events.borrow();
                let of_type = events
                    .iter()
                    .enumerate()
                    .filter(|(_, event)| event.1 == event_type);
                of_type
                    .min_by_key(|(_, event)| event.0)
                    .map(|(at, event)| (at, event.0))
            };
            match next {
                Some((at, sent)) if sent <= state.now.get() => {
                    let (sent, _, payload) = state.events.borrow_mut().remove(at);
                    return Stored::Event { payload, sent };
                }
                Some((_, sent)) if sent < end => state.sleep_until(sent, index).await,
                _ if state.now.get() >= end => {
                    let message = format!("Execution timed out after {}ms", timeout.as_millis());
                    return Stored::Error(StepErrorKind::TimedOut, message);
                }
                _ => state.sleep_until(end, index).await,
            }
        }
    }

    fn register<T: StepOutput>(&self, index: usize, step: &DoStep<T>, rollback: &Rollback<T>) {
        let (state, rollback) = (Rc::clone(&self.state), rollback.clone());
        let (name, step_config) = (step.name.clone(), step.config.resolve());
        let config = rollback.config.resolve();
        let run = move |error: StepError| -> LocalBoxFuture<'static, Result<(), StepError>> {
            let (state, rollback, name) = (Rc::clone(&state), rollback.clone(), name.clone());
            Box::pin(async move {
                let mut attempt = 0;
                loop {
                    attempt += 1;
                    let record = state.record(index, |record| record.clone());
                    let (count, attempts, stored) = record
                        .map(|record| (record.count, record.attempts, record.stored))
                        .unwrap_or_default();
                    let output = match stored {
                        Some(Stored::Error(..)) | None => None,
                        Some(stored) => decode(stored).ok(),
                    };
                    let ctx = StepContext::new(&name, count, attempts).with_config(step_config);
                    let error = StepError::with_kind(error.kind(), error.message());
                    match rollback
                        .call(RollbackContext::new(ctx, error, output))
                        .await
                    {
                        Err(error)
                            if attempt <= config.retries.limit
                                && error.kind() != StepErrorKind::NonRetryable => {}
                        result => return result,
                    }
                }
            })
        };
        let mut lifetime = self.state.lifetime.borrow_mut();
        lifetime.rollbacks.push((index, Box::new(run)));
    }
}

impl fmt::Debug for FakeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeStep").finish_non_exhaustive()
    }
}

impl FakeStepRecord {
    fn new(kind: Kind, name: &str, count: u32, detail: &str) -> Self {
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

/// As in `sleep "nap" (number 2)`.
impl fmt::Display for FakeStepRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Do => "do",
            Kind::Sleep => "sleep",
            Kind::SleepUntil => "sleepUntil",
            Kind::WaitForEvent => "waitForEvent",
            Kind::Workflow => "workflow",
        };
        write!(f, "{kind} {:?} (number {})", self.name, self.count)
    }
}

fn decode<T: StepOutput>(stored: Stored) -> Result<T, StepError> {
    let output = match stored {
        Stored::Value(value) => JsonOutput::Value(value),
        Stored::Bytes(bytes) => JsonOutput::Stream(ByteStream::from(bytes)),
        Stored::Event { payload, .. } => JsonOutput::Value(payload),
        Stored::Error(kind, message) => return Err(StepError::with_kind(kind, message)),
    };
    T::decode(&JsonCodec, output)
}

/// An attempt is under way.
struct Running<'a>(&'a State);

impl<'a> Running<'a> {
    fn new(state: &'a State) -> Self {
        state.lifetime.borrow_mut().running += 1;
        Self(state)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut lifetime = self.0.lifetime.borrow_mut();
        lifetime.running = lifetime.running.saturating_sub(1);
    }
}

struct Recorder {
    state: Rc<State>,
    index: usize,
}

impl Reporter for Recorder {
    fn progress(&self, progress: Progress) {
        self.state
            .record(self.index, |record| record.progress.push(progress));
    }

    fn set_attribute(&self, key: String, value: Value) {
        self.state
            .record(self.index, |record| record.attributes.insert(key, value));
    }
}

/// Lets others go first.
async fn pass() {
    let mut passed = false;
    poll_fn(|context| {
        if std::mem::replace(&mut passed, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
