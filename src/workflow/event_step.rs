//! `WorkflowEventStep`: a step object that dispatches an event for everything its steps do.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use cloudflare_workflows::__private::check_output;
use cloudflare_workflows::{
    DoStep, Progress, Reporter, Step, StepCallback, StepContext, StepError, StepErrorKind,
    StepOutput, WaitForEvent, WaitedEvent, WorkflowDuration, catch_panic,
};
use futures_channel::oneshot;
use futures_util::future::{Either, LocalBoxFuture, join, select};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::event::{InvalidEvent, NewEvent};
use crate::task::{Form, Kind, Redact, StepEvent, StepEventType, Task, TaskCounter, TaskId};

/// Wraps a [`Step`] and dispatches an event whenever one of its steps begins, fails an attempt,
/// reports progress, ends or fails.
///
/// The workflow's behaviour is unchanged: results, errors, retries and rollbacks are those of the
/// wrapped step, and an event that cannot be delivered does not fail it. Events carry names that
/// are the same in every lifetime of the run, so a log that keeps one event for each fact shows an
/// interrupted run as if it had not been interrupted.
///
/// The engine gets the same calls in the same order as without this wrapper. A step that the
/// workflow abandons (`try_join!`, `select!`) goes on in the engine, and its events are dispatched
/// until the run ends.
///
/// When the platform ends a lifetime of the run (a deploy, a lost connection), that is not reported
/// as a failure of the workflow: an error that can only mean the end of the lifetime makes no
/// `failed` event, neither of the step nor of the groups and the workflow around it, however the
/// workflow's code handles it. Such an error has the kind [`Reset`](StepErrorKind::Reset). If the
/// engine turns out to go on in the same lifetime, the withheld events are dispatched then.
///
/// No event contains what a step returned. Events contain the messages of errors and what the
/// steps' code reports, also for [sensitive](cloudflare_workflows::Sensitivity) steps; a [rule](Redact)
/// can change these. Rollbacks
/// have no events: they run after the run has ended.
///
/// Clones are the same step object. It is not `Send`: it lives on one thread.
pub struct WorkflowEventStep<S, D> {
    shared: Rc<Shared<S, D>>,
    parent: Option<TaskId>,
}

struct Shared<S, D> {
    step: S,
    life: Rc<Life<D>>,
    workflow: String,
    counter: RefCell<TaskCounter>,
    should_dispatch: RefCell<Filter>,
}

type Filter = Rc<dyn Fn(&StepInfo<'_>) -> bool>;

/// Describes a step to the filter that decides whether to show it: see
/// [`WorkflowEventStep::should_dispatch`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StepInfo<'a> {
    /// The step's name.
    pub name: &'a str,
    /// The step's kind.
    pub kind: Kind,
    /// Its number among the steps of that kind and name, from 1.
    pub count: u32,
    /// The task that it is part of, if any.
    pub parent: Option<&'a TaskId>,
}

/// Takes the facts of a run. Never fails and, apart from [`flush`](Self::flush) and
/// [`sleep`](Self::sleep), never waits.
#[allow(async_fn_in_trait, reason = "workflows live on one thread")]
pub trait Dispatch {
    /// Returns the time for events' timestamps.
    fn now(&self) -> SystemTime;

    /// Takes a fact, to be stored after those taken before.
    fn dispatch(&self, fact: Fact);

    /// Waits until all facts taken so far are stored, or until it is no longer worth waiting.
    async fn flush(&self, flush: Flush);

    /// Returns the rule for errors, messages and attributes. Default: none.
    fn redact(&self) -> Option<Redact> {
        None
    }

    /// Returns what stands for this moment, in which the engine is asked for something. Default: nothing.
    fn asked(&self) -> Asked {
        Asked::default()
    }

    /// Takes note that the engine has answered what it was asked then. So it was there after that moment, and
    /// no later lifetime had begun by then. Default: does nothing.
    fn answered(&self, asked: Asked) {
        let _ = asked;
    }

    /// Resolves while another lifetime may be newer than this one, and only an [answer](Self::answered) of the
    /// engine can show which is. Default: never resolves.
    fn contested(&self) -> impl Future<Output = ()> + 'static {
        pending()
    }

    /// Takes note that the workflow's code was dropped before its end. Code that the engine may still call has this
    /// dispatch for as long as the engine has that code, which may be long. Default: does nothing.
    fn dropped(&self) {}

    /// Runs a task on this thread, beside the workflow. It is used for a step that the workflow
    /// abandoned and that the engine goes on with. Default: drops the task, so the end of such a
    /// step is not reported.
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        drop(task);
    }

    /// Resolves after `duration`. Default: never resolves; then a long wait does not prove that the
    /// engine is alive.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        let _ = duration;
        pending()
    }
}

/// A moment in which the engine was asked for something: see [`Dispatch::asked`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked(pub(super) Duration);

/// A fact, as a [`Dispatch`] takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// An event whose key names the fact.
    Event(NewEvent),
    /// A report by a step's code. The event has no key yet.
    ///
    /// The engine counts an attempt that was killed with the process, and the next attempt reports
    /// the same again. So the key of a report names the *try* it belongs to. A try is over when an
    /// attempt *failed*, and only the log knows that.
    Report {
        /// The event of the report.
        event: NewEvent,
        /// The task that reported.
        task: TaskId,
        /// The attempt's number, as the engine counts.
        attempt: u32,
        /// The report's number within the attempt, from 1.
        number: u32,
    },
    /// An attempt runs live; also sent for steps that are not shown. The engine never runs what has
    /// ended, so if the log knows a fact with one of these keys, the instance was restarted.
    Live {
        /// The keys of the facts that would end the attempt.
        ends: Vec<String>,
    },
    /// The facts that follow may be wrong, because a sleep returned earlier than it can have ended:
    /// that happens in a replay, and in a run that is begun again only to be rolled back. From here
    /// on, facts that the log does not know are to be held.
    Doubt,
    /// A step ended with an error that looks like the end of this lifetime. A later one may have begun, so what the
    /// log has from now on is no proof of a restart. [`Alive`](Self::Alive) follows if it was none, else
    /// [`Over`](Self::Over).
    Lost,
    /// The engine has proved that the run goes on in this lifetime: it called the code of a step,
    /// or it makes the workflow wait. Held facts are to be sent.
    Alive,
    /// The platform ended this lifetime; the run goes on in another, or was ended from outside.
    /// Held facts are to be dropped. Comes right before [`Flush::End`].
    Over,
}

/// The reason for a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// An attempt that failed or reported something ends. Its callback does not run again, so what
    /// is lost now stays lost.
    AttemptEnd {
        /// The longest that the end can be delayed without the attempt running out of time.
        at_most: Duration,
    },
    /// The workflow is about to wait, which may end this lifetime and its timers.
    BeforeWait,
    /// This lifetime of the run ends.
    End,
}

impl<S: Step + 'static, D: Dispatch + 'static> WorkflowEventStep<S, D> {
    /// Wraps `step` for the workflow named `workflow`; facts go to `dispatch`.
    pub fn new(step: S, workflow: impl Into<String>, dispatch: D) -> Self {
        Self {
            shared: Rc::new(Shared {
                step,
                life: Rc::new(Life::new(dispatch)),
                workflow: workflow.into(),
                counter: RefCell::default(),
                should_dispatch: RefCell::new(Rc::new(|_| true)),
            }),
            parent: None,
        }
    }

    /// Dispatches only the events of the workflow itself and of steps for which `filter` returns
    /// true. The filter must decide by the step alone, since it is asked again in every lifetime.
    /// Default: all steps. Applies to steps that begin after the call, also through clones. The
    /// steps of a hidden group are shown as part of whatever contains the group.
    #[must_use]
    pub fn should_dispatch(self, filter: impl Fn(&StepInfo<'_>) -> bool + 'static) -> Self {
        *self.shared.should_dispatch.borrow_mut() = Rc::new(filter);
        self
    }

    /// Runs the whole workflow. `started` of the workflow is the first event of the run;
    /// `completed` or `failed` is the last, after which viewers' streams end. The last event is
    /// missing when the platform ends this lifetime.
    ///
    /// Write the body as `async move |step|`: then the compiler reports a step's callback that
    /// borrows at the callback itself.
    ///
    /// # Errors
    /// The errors of `body`, one if it panics, and one for a result that the platform cannot store.
    pub async fn workflow<T: Serialize>(
        &self,
        body: impl AsyncFnOnce(Self) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        // Checked before `completed` is dispatched: for such a result the platform says that the
        // run failed.
        let body = async |step| {
            let output = body(step).await?;
            check_output(&output)?;
            Ok(output)
        };
        let life = &self.shared.life;
        let scope = self.scope(Form::Step(Kind::Workflow), &self.shared.workflow, body);
        let whole = Whole {
            scope: Box::pin(scope),
            life: Rc::clone(life),
            done: false,
        };
        let result = whole.await;
        life.end();
        life.dispatch.flush(Flush::End).await;
        result
    }

    /// Returns the [`Dispatch`] that takes the facts.
    #[must_use]
    pub fn dispatch(&self) -> &D {
        &self.shared.life.dispatch
    }

    async fn scope<T>(
        &self,
        form: Form,
        name: &str,
        body: impl AsyncFnOnce(Self) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let track = self.track(form, name);
        track.emit(track.event(StepEventType::Started));
        let inner = Self {
            shared: Rc::clone(&self.shared),
            parent: match track.shown {
                true => Some(track.task.id.clone()),
                false => self.parent.clone(),
            },
        };
        let result = catch_panic(async { body(inner).await }).await;
        track.settle(&result);
        result
    }

    fn track(&self, form: Form, name: &str) -> Track<D> {
        let task = self.shared.counter.borrow_mut().next(form, name);
        let info = StepInfo {
            name,
            kind: task.kind,
            count: task.count,
            parent: self.parent.as_ref(),
        };
        let filter = Rc::clone(&self.shared.should_dispatch.borrow());
        let shown = task.kind == Kind::Workflow || filter(&info);
        let is_step = matches!(form, Form::Step(_)) && task.kind != Kind::Workflow;
        let life = Rc::clone(&self.shared.life);
        Track {
            sure: is_step && !life.is_lost(),
            life,
            parent: self.parent.clone(),
            task,
            shown,
        }
    }

    /// Runs a step that waits, for `expected` if that is known. `describe` adds to its `started` what
    /// is known of the wait.
    ///
    /// The engine is called at once, so that it gets the calls in the workflow's order. The flush
    /// runs beside the call, since the engine may end this lifetime and its timers during the wait.
    async fn wait<T: 'static>(
        &self,
        kind: Kind,
        name: &str,
        expected: Duration,
        describe: impl FnOnce(StepEvent) -> StepEvent,
        call: impl Future<Output = Result<T, StepError>> + 'static,
    ) -> Result<T, StepError> {
        let track = self.track(Form::Step(kind), name);
        track.emit(describe(track.event(StepEventType::Started)));
        let life = &self.shared.life;
        let mut call = Call::new(life, async move {
            let (began, epoch) = (track.life.dispatch.now(), track.life.epoch.get());
            let asked = track.life.dispatch.asked();
            let result = call.await;
            let took = track.life.dispatch.now().duration_since(began);
            if result.as_ref().map_or_else(is_of_a_wait, |_| true) {
                track.life.dispatch.answered(asked);
            }
            if result.is_ok() {
                track
                    .life
                    .has_waited(took.unwrap_or_default(), expected, epoch);
            }
            track.settle_wait(result)
        });
        // Boxed, and the same for all waits, so that it is compiled once.
        let beside: LocalBoxFuture<'_, Infallible> =
            Box::pin(life.stand_by(life.epoch.get(), life.losses.get()));
        match select(&mut call, beside).await {
            Either::Left((result, _)) => result,
            Either::Right((never, _)) => match never {},
        }
    }
}

/// Returns whether a wait that the engine answers can end with this error. It runs no code that could fail.
fn is_of_a_wait(error: &StepError) -> bool {
    matches!(
        error.kind(),
        StepErrorKind::TimedOut | StepErrorKind::NonRetryable | StepErrorKind::Invalid
    )
}

impl<S: Step + 'static, D: Dispatch + 'static> Step for WorkflowEventStep<S, D> {
    /// Returns an error also when `body` panics.
    async fn group<T>(
        &self,
        name: &str,
        body: impl AsyncFnOnce(Self) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        self.scope(Form::Group, name, body).await
    }

    async fn do_step<T: StepOutput>(&self, mut step: DoStep<T>) -> Result<T, StepError> {
        let track = Rc::new(self.track(Form::Step(Kind::Do), &step.name));
        let attempts = Rc::new(Attempts::default());
        track.emit(track.event(StepEventType::Started));
        step.callback = {
            let (track, attempts) = (Rc::clone(&track), Rc::clone(&attempts));
            StepCallback::new(async move |context: StepContext| {
                let attempt = context.attempt;
                attempts.begin(&context, &track);
                let context = context.with_reporter(Rc::new(AttemptReporter {
                    attempt,
                    attempts: Rc::clone(&attempts),
                    track: Rc::clone(&track),
                }));
                let running = Running::begin(&track.life);
                let result = catch_panic(step.callback.call(context)).await;
                drop(running);
                if let Some(at_most) = attempts.end(attempt, &result, &track) {
                    let flush = Flush::AttemptEnd { at_most };
                    track.life.dispatch.flush(flush).await;
                }
                attempts.answer(attempt, &track);
                result
            })
        };
        let shared = Rc::clone(&self.shared);
        let call = Call::new(&self.shared.life, async move {
            attempts.asked.set(track.life.dispatch.asked());
            let result = shared.step.do_step(step).await;
            attempts.settle(result, &track)
        });
        // Boxed, so that it is compiled once.
        let outlives: LocalBoxFuture<'_, Infallible> = Box::pin(self.shared.life.outlives());
        match select(call, outlives).await {
            Either::Left((result, _)) => result,
            Either::Right((never, _)) => match never {},
        }
    }

    async fn sleep(
        &self,
        name: &str,
        duration: impl Into<WorkflowDuration>,
    ) -> Result<(), StepError> {
        let duration = duration.into();
        let (shared, owned) = (Rc::clone(&self.shared), name.to_owned());
        let call = async move { shared.step.sleep(&owned, duration).await };
        let ends = |started: StepEvent| {
            let end = started.timestamp.checked_add(duration.into());
            started.until(end)
        };
        self.wait(Kind::Sleep, name, duration.into(), ends, call)
            .await
    }

    async fn sleep_until(&self, name: &str, time: SystemTime) -> Result<(), StepError> {
        let left = time.duration_since(self.shared.life.dispatch.now());
        let (shared, owned) = (Rc::clone(&self.shared), name.to_owned());
        let call = async move { shared.step.sleep_until(&owned, time).await };
        let left = left.unwrap_or_default();
        let ends = |started: StepEvent| started.until(Some(time));
        self.wait(Kind::SleepUntil, name, left, ends, call).await
    }

    async fn wait_for_event<T>(
        &self,
        name: &str,
        options: WaitForEvent,
    ) -> Result<WaitedEvent<T>, StepError>
    where
        T: DeserializeOwned + 'static,
    {
        let (shared, owned) = (Rc::clone(&self.shared), name.to_owned());
        let event_type = options.event_type.clone();
        let timeout = options.timeout.unwrap_or(DEFAULT_WAIT);
        let call = async move { shared.step.wait_for_event(&owned, options).await };
        let times_out = |started: StepEvent| {
            let end = started.timestamp.checked_add(timeout.into());
            started.until(end).waits_for(&event_type)
        };
        self.wait(Kind::WaitForEvent, name, Duration::ZERO, times_out, call)
            .await
    }
}

impl<S, D> Clone for WorkflowEventStep<S, D> {
    fn clone(&self) -> Self {
        Self {
            shared: Rc::clone(&self.shared),
            parent: self.parent.clone(),
        }
    }
}

impl<S, D> fmt::Debug for WorkflowEventStep<S, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkflowEventStep")
            .field("workflow", &self.shared.workflow)
            .field("parent", &self.parent)
            .finish_non_exhaustive()
    }
}

/// Returns the first event of a run of the workflow named `workflow`. The creator of the instance
/// dispatches it, so that there is something to watch before the workflow itself runs.
///
/// # Errors
/// When the name is too long for an event.
pub fn workflow_started(workflow: &str, now: SystemTime) -> Result<NewEvent, InvalidEvent> {
    let task = TaskCounter::default().next(Form::Step(Kind::Workflow), workflow);
    NewEvent::encode(&StepEvent::new(StepEventType::Started, &task, None, now))
}

/// Returns the last event of a run of the workflow named `workflow`, for code that learns of the
/// run's end from elsewhere, for example because the run was terminated.
///
/// # Errors
/// When the name is too long for an event.
pub fn workflow_ended(
    workflow: &str,
    outcome: Result<(), &str>,
    now: SystemTime,
) -> Result<NewEvent, InvalidEvent> {
    let task = TaskCounter::default().next(Form::Step(Kind::Workflow), workflow);
    let event = |of| StepEvent::new(of, &task, None, now);
    NewEvent::encode(&match outcome {
        Ok(()) => event(StepEventType::Completed),
        Err(error) => event(StepEventType::Failed).error(error),
    })
}

/// The platform's timeout of a wait for an event that has none of its own.
const DEFAULT_WAIT: WorkflowDuration = WorkflowDuration::hours(24);
/// A wait this long proves that the engine is alive: a lost engine rejects a wait at once, and one
/// that answers from its cache answers at once.
const ONLY_THE_LIVING_WAIT: Duration = Duration::from_secs(5);
/// A sleep that took at least this long, and about as long as expected, was not a replay.
const NO_REPLAY_TAKES: Duration = Duration::from_secs(1);
/// The most facts that are withheld. A lifetime that is over produces few, unless its code loops.
const WITHHELD_LIMIT: usize = 10_000;

/// The state of this lifetime, and the dispatch that its facts go through.
struct Life<D> {
    dispatch: Rc<D>,
    /// Set when the workflow's code ends.
    ended: Cell<Option<Ended>>,
    /// Set when the engine proves, after the latest doubt, that the run goes on in this lifetime.
    alive: Cell<bool>,
    /// The number of times that the lifetime was in doubt or looked lost.
    epoch: Cell<u32>,
    /// The number of times that it looked lost.
    losses: Cell<u32>,
    /// The number of attempts whose code runs now.
    running: Cell<u32>,
    /// Waits under way, which are notified of the next doubt so that they can disprove it.
    waits: RefCell<Vec<oneshot::Sender<()>>>,
    /// `Some` since a step's error looked like the end of this lifetime. Holds the facts that are
    /// wrong if it was.
    withheld: RefCell<Option<Vec<Fact>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Set when the run ends. Abandoned steps may go on; their events are dropped.
    Run,
    /// This lifetime is over. Facts that are `sure` are still dispatched.
    Lifetime,
}

impl<D: Dispatch> Life<D> {
    fn new(dispatch: D) -> Self {
        Self {
            dispatch: Rc::new(dispatch),
            ended: Cell::new(None),
            alive: Cell::new(false),
            epoch: Cell::new(0),
            losses: Cell::new(0),
            running: Cell::new(0),
            waits: RefCell::default(),
            withheld: RefCell::default(),
        }
    }

    fn is_lost(&self) -> bool {
        self.withheld.borrow().is_some()
    }

    fn is_alive(&self) -> bool {
        self.alive.get()
    }

    /// Dispatches a fact, or withholds it while this lifetime looks lost. A `sure` fact holds even
    /// if the lifetime is over, so it is never withheld.
    fn dispatch_fact(&self, fact: Fact, sure: bool) {
        match self.ended.get() {
            Some(Ended::Run) => return,
            Some(Ended::Lifetime) if !sure => return,
            _ => {}
        }
        if let Some(withheld) = self.withheld.borrow_mut().as_mut()
            && !sure
        {
            if withheld.len() < WITHHELD_LIMIT {
                withheld.push(fact);
            }
            return;
        }
        self.dispatch.dispatch(fact);
    }

    /// Records that a step's error looks like the end of this lifetime.
    fn lose(&self) {
        self.alive.set(false);
        self.epoch.set(self.epoch.get() + 1);
        self.losses.set(self.losses.get() + 1);
        let was_lost = self.is_lost();
        self.withheld.borrow_mut().get_or_insert_default();
        if !was_lost {
            self.dispatch_unless_ended(Fact::Lost);
        }
    }

    /// Judges a wait that returned without an error. `epoch` is the epoch in which the wait began.
    fn has_waited(&self, took: Duration, expected: Duration, epoch: u32) {
        if took >= ONLY_THE_LIVING_WAIT {
            // This includes the rest of a sleep that began in another lifetime.
            self.prove_since(epoch);
        } else if took < expected / 2 {
            // A step's code never runs in a replay or in a run that is rolled back, so running code
            // rules out a doubt.
            if self.running.get() == 0 {
                self.doubt();
            }
        } else if took >= NO_REPLAY_TAKES && !expected.is_zero() {
            self.prove_since(epoch);
        }
    }

    fn doubt(&self) {
        self.alive.set(false);
        self.epoch.set(self.epoch.get() + 1);
        self.dispatch_unless_ended(Fact::Doubt);
        for wait in self.waits.take() {
            // Fails if the wait has ended meanwhile; that is fine.
            let _ = wait.send(());
        }
    }

    /// Resolves at the next doubt.
    async fn doubted(&self) {
        let (sender, doubted) = oneshot::channel();
        {
            let mut waits = self.waits.borrow_mut();
            waits.retain(|wait| !wait.is_canceled());
            waits.push(sender);
        }
        // The sender is not dropped before it sends.
        let _ = doubted.await;
    }

    /// Proves that the engine is there by what it was asked and does not reject, whenever another lifetime may be
    /// newer than this one.
    async fn outlives(&self) -> Infallible {
        let losses = self.losses.get();
        // A lost engine may never answer what it was asked before the loss.
        while self.losses.get() == losses {
            self.dispatch.contested().await;
            let asked = self.dispatch.asked();
            self.dispatch.sleep(ONLY_THE_LIVING_WAIT).await;
            if self.losses.get() == losses {
                self.dispatch.answered(asked);
            }
        }
        pending().await
    }

    /// Stands beside a wait for as long as it lasts: sends what was said before, and takes a long wait for a sign
    /// that the engine lives.
    async fn stand_by(&self, mut epoch: u32, losses: u32) -> Infallible {
        let flushed = self.dispatch.flush(Flush::BeforeWait);
        let waits = async {
            // A lost engine may never answer calls made before the loss, so their waiting
            // proves nothing.
            while self.losses.get() == losses {
                if self.is_alive() {
                    self.doubted().await;
                    epoch = self.epoch.get();
                }
                self.dispatch.sleep(ONLY_THE_LIVING_WAIT).await;
                self.prove_since(epoch);
                epoch = self.epoch.get();
            }
        };
        join(flushed, join(waits, self.outlives())).await;
        pending::<Infallible>().await
    }

    /// Takes a proof that the run goes on, if no doubt or loss came since `epoch`, in which the
    /// proof began.
    fn prove_since(&self, epoch: u32) {
        if self.epoch.get() == epoch {
            self.prove();
        }
    }

    /// Records that the run goes on in this lifetime, and dispatches the withheld facts.
    fn prove(&self) {
        let withheld = self.withheld.take();
        if self.alive.replace(true) && withheld.is_none() {
            return;
        }
        self.dispatch_unless_ended(Fact::Alive);
        for fact in withheld.into_iter().flatten() {
            self.dispatch_unless_ended(fact);
        }
    }

    /// Records that the workflow's code has ended.
    fn end(&self) {
        if self.withheld.take().is_some() {
            self.ended.set(Some(Ended::Lifetime));
            self.dispatch.dispatch(Fact::Over);
        } else {
            self.ended.set(Some(Ended::Run));
        }
    }

    fn dispatch_unless_ended(&self, fact: Fact) {
        if self.ended.get().is_none() {
            self.dispatch.dispatch(fact);
        }
    }
}

/// Counts one attempt whose code runs, until this is dropped.
struct Running<D>(Rc<Life<D>>);

impl<D> Running<D> {
    fn begin(life: &Rc<Life<D>>) -> Self {
        life.running.set(life.running.get() + 1);
        Self(Rc::clone(life))
    }
}

impl<D> Drop for Running<D> {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

/// The workflow's code. If it is dropped before its end, as tests do, everything that it began is
/// dropped too.
struct Whole<F, D: Dispatch> {
    scope: Pin<Box<F>>,
    life: Rc<Life<D>>,
    done: bool,
}

impl<F: Future, D: Dispatch> Future for Whole<F, D> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let polled = self.scope.as_mut().poll(context);
        self.done = polled.is_ready();
        polled
    }
}

impl<F, D: Dispatch> Drop for Whole<F, D> {
    fn drop(&mut self) {
        if !self.done {
            self.life.ended.set(Some(Ended::Run));
            self.life.dispatch.dropped();
        }
    }
}

/// A call of the engine, including the code that dispatches its end.
///
/// The engine goes on with a step that the workflow abandons. So a call that is dropped after it
/// began is run on beside the workflow, until the run ends.
struct Call<D: Dispatch + 'static, T: 'static> {
    call: Option<LocalBoxFuture<'static, T>>,
    life: Rc<Life<D>>,
}

impl<D: Dispatch + 'static, T: 'static> Call<D, T> {
    fn new(life: &Rc<Life<D>>, call: impl Future<Output = T> + 'static) -> Self {
        Self {
            call: Some(Box::pin(call)),
            life: Rc::clone(life),
        }
    }
}

impl<D: Dispatch + 'static, T: 'static> Future for Call<D, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Taken out, so that a call that panics is not run on.
        let Some(mut call) = self.call.take() else {
            return Poll::Pending;
        };
        let polled = call.as_mut().poll(context);
        if polled.is_pending() {
            self.call = Some(call);
        }
        polled
    }
}

impl<D: Dispatch + 'static, T: 'static> Drop for Call<D, T> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take()
            && self.life.ended.get().is_none()
        {
            let life = Rc::clone(&self.life);
            self.life.dispatch.spawn(async move {
                drop(call.await);
                // The workflow may be waiting, and nothing else flushes this end.
                life.dispatch.flush(Flush::BeforeWait).await;
            });
        }
    }
}

/// A task and where its events go.
struct Track<D> {
    life: Rc<Life<D>>,
    parent: Option<TaskId>,
    task: Task,
    shown: bool,
    /// Set for a step that began before this lifetime looked lost: what the engine and the step's
    /// code report of it is certain.
    sure: bool,
}

/// The meaning of a step's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The step failed.
    Own,
    /// This lifetime of the run is over.
    Lost,
    /// One of the two: events are withheld until something proves which.
    Unclear,
}

impl<D: Dispatch> Track<D> {
    fn event(&self, of: StepEventType) -> StepEvent {
        let dispatch = &self.life.dispatch;
        let event = StepEvent::new(of, &self.task, self.parent.clone(), dispatch.now());
        event.redact(dispatch.redact())
    }

    fn emit(&self, event: StepEvent) {
        self.emit_as(event, false, Fact::Event);
    }

    /// Dispatches an event that holds even if this lifetime is over, provided the task is `sure`.
    fn emit_sure(&self, event: StepEvent) {
        self.emit_as(event, self.sure, Fact::Event);
    }

    fn emit_as(&self, event: StepEvent, sure: bool, fact: impl FnOnce(NewEvent) -> Fact) {
        // Encoding cannot fail: strings are cut and the engine refuses long names. If it did, the
        // event is dropped, since the workflow must not suffer.
        if self.shown
            && let Ok(event) = NewEvent::encode(&event)
        {
            self.life.dispatch_fact(fact(event), sure);
        }
    }

    /// Dispatches the end of a group or the workflow. A suspension is not an end.
    fn settle<T>(&self, result: &Result<T, StepError>) {
        match result {
            Ok(_) => self.emit(self.event(StepEventType::Completed)),
            Err(error) if error.kind() == StepErrorKind::Suspended => {}
            Err(error) => self.emit(self.event(StepEventType::Failed).error(error.message())),
        }
    }

    /// Dispatches the end of a wait as the engine reports it.
    fn settle_wait<T>(&self, result: Result<T, StepError>) -> Result<T, StepError> {
        let error = match result {
            Ok(value) => {
                self.emit_sure(self.event(StepEventType::Completed));
                return Ok(value);
            }
            Err(error) => error,
        };
        let verdict = match is_of_a_wait(&error) {
            true => Verdict::Own,
            false => Verdict::Lost,
        };
        Err(self.settle_error(verdict, error, None))
    }

    /// Dispatches what is known about the end of a step with this error, and returns the error for
    /// the workflow.
    fn settle_error(&self, verdict: Verdict, error: StepError, attempt: Option<u32>) -> StepError {
        if verdict != Verdict::Own {
            self.life.lose();
        }
        if error.kind() != StepErrorKind::Suspended {
            let event = self.event(StepEventType::Failed).attempt(attempt);
            self.emit(event.error(error.message()));
        }
        match verdict {
            Verdict::Lost if !error.is_suspended() => error.of_kind(StepErrorKind::Reset),
            // The workflow may want to handle a failed step. If the engine is gone, that does no
            // harm.
            Verdict::Unclear if error.is_suspended() => error.of_kind(StepErrorKind::Failed),
            _ => error,
        }
    }

    fn key(&self, of: StepEventType, attempt: u32) -> String {
        StepEvent::fact_key(&self.task.id, of, attempt)
    }
}

/// The attempts of a `do` step that run in this lifetime. Empty if its result is cached.
#[derive(Default)]
struct Attempts {
    latest: RefCell<Option<Attempt>>,
    /// When the engine was last asked to go on with the step: by the call, or by the outcome of an attempt.
    asked: Cell<Asked>,
}

struct Attempt {
    number: u32,
    began: SystemTime,
    timeout: WorkflowDuration,
    /// Whether no retry is left after it.
    last: bool,
    /// The time between its failure and the next attempt; `None` if a function chooses it.
    retry_delay: Option<Duration>,
    outcome: Outcome,
    /// Whether the engine has received the outcome.
    answered: bool,
    reports: u32,
    attributes: Map<String, Value>,
}

enum Outcome {
    Running,
    Succeeded,
    /// Failed, with the message of the code's error. `None` if the code itself did not fail.
    Failed(Option<String>),
}

impl Attempt {
    /// Returns why the engine went on to the next attempt when the code of this one did not fail:
    /// the engine does not notify a callback that its time is up, nor that its result cannot be
    /// stored.
    fn given_up(&self, now: SystemTime) -> String {
        let worked = now.duration_since(self.began).unwrap_or_default();
        match self.outcome {
            Outcome::Succeeded => "its result could not be stored".to_owned(),
            // The engine's wording, which it uses for the last attempt only.
            _ if worked >= self.timeout.into() => format!(
                "Execution timed out after {}ms",
                self.timeout.as_milliseconds()
            ),
            _ => "the engine gave it up".to_owned(),
        }
    }

    /// Marks the attempt as failed and dispatches that, unless its code has failed already.
    fn give_up<D: Dispatch>(&mut self, error: &str, track: &Track<D>) {
        if !matches!(self.outcome, Outcome::Failed(_)) {
            self.outcome = Outcome::Failed(None);
            let event = track.event(StepEventType::AttemptFailed);
            track.emit(event.attempt(Some(self.number)).error(error));
        }
    }

    /// Returns what the engine means by rejecting the step after this attempt.
    fn verdict(&self, error: &StepError) -> Verdict {
        let kind = error.kind();
        let refused = matches!(kind, StepErrorKind::NonRetryable | StepErrorKind::Invalid);
        match &self.outcome {
            // Before the engine has an answer, only a timeout can end the attempt.
            _ if !self.answered && kind == StepErrorKind::TimedOut && self.last => Verdict::Own,
            _ if !self.answered => Verdict::Lost,
            // An object that the code called may be reset by the same deploy that resets the
            // engine.
            Outcome::Failed(Some(own)) if error.is_suspended() => {
                match self.last && error.message().contains(own.as_str()) {
                    true => Verdict::Unclear,
                    false => Verdict::Lost,
                }
            }
            _ if error.is_suspended() => Verdict::Lost,
            _ if refused => Verdict::Own,
            // A live engine would have tried again.
            _ if !self.last => Verdict::Lost,
            Outcome::Succeeded if kind != StepErrorKind::TimedOut => Verdict::Unclear,
            _ => Verdict::Own,
        }
    }
}

impl Attempts {
    fn begin<D: Dispatch>(&self, context: &StepContext, track: &Track<D>) {
        let life = &track.life;
        let number = context.attempt;
        if let Some(attempt) = self.latest.borrow_mut().as_mut() {
            let why = attempt.given_up(life.dispatch.now());
            attempt.give_up(&why, track);
        }
        *self.latest.borrow_mut() = Some(Attempt {
            number,
            began: life.dispatch.now(),
            // The engine's own timeout: it keeps the config that the step began with, even across a
            // deploy.
            timeout: context.config.timeout,
            last: number > context.config.retries.limit,
            retry_delay: context.config.retries.delay_after(number),
            outcome: Outcome::Running,
            answered: false,
            reports: 0,
            attributes: Map::new(),
        });
        life.dispatch.answered(self.asked.get());
        life.dispatch_unless_ended(Fact::Live {
            ends: vec![
                track.key(StepEventType::Completed, number),
                track.key(StepEventType::AttemptFailed, number),
            ],
        });
        life.prove();
    }

    /// Records the end of an attempt. Returns how long the attempt may wait for a flush, or `None`
    /// if nothing would be lost.
    fn end<T, D: Dispatch>(
        &self,
        number: u32,
        result: &Result<T, StepError>,
        track: &Track<D>,
    ) -> Option<Duration> {
        let now = track.life.dispatch.now();
        // `None` if its time was up before: the engine ignores whatever it returns.
        let (reports, left, retry_delay) = self.if_running(number, |attempt| {
            let worked = now.duration_since(attempt.began).unwrap_or_default();
            let left = Duration::from(attempt.timeout).checked_sub(worked)?;
            match result {
                Ok(_) => attempt.outcome = Outcome::Succeeded,
                Err(error) => {
                    attempt.last |= error.kind() == StepErrorKind::NonRetryable;
                    attempt.outcome = Outcome::Failed(Some(error.message().to_owned()));
                }
            }
            let retry_delay = attempt.retry_delay.filter(|_| !attempt.last);
            Some((attempt.reports, left, retry_delay))
        })??;
        if let Err(error) = result {
            let event = track.event(StepEventType::AttemptFailed);
            let retry_at = retry_delay.and_then(|delay| event.timestamp.checked_add(delay));
            let event = event.attempt(Some(number)).error(error.message());
            track.emit_sure(event.retry_at(retry_at));
        }
        (track.shown && (result.is_err() || reports > 0)).then_some(left / 10)
    }

    /// Records that the engine receives the outcome now.
    fn answer<D: Dispatch>(&self, number: u32, track: &Track<D>) {
        if let Some(attempt) = self.latest.borrow_mut().as_mut()
            && attempt.number == number
        {
            attempt.answered = true;
            self.asked.set(track.life.dispatch.asked());
        }
    }

    /// Dispatches the end of the step as the engine reports it, and returns the result for the
    /// workflow.
    fn settle<T, D: Dispatch>(
        &self,
        result: Result<T, StepError>,
        track: &Track<D>,
    ) -> Result<T, StepError> {
        let mut latest = self.latest.borrow_mut().take();
        let number = latest.as_ref().map(|attempt| attempt.number);
        let completed = |latest: Option<Attempt>| {
            let attributes = latest.map(|attempt| attempt.attributes).unwrap_or_default();
            let event = track.event(StepEventType::Completed).attempt(number);
            track.emit_sure(event.attributes(attributes));
        };
        let error = match result {
            Ok(value) => {
                track.life.dispatch.answered(self.asked.get());
                completed(latest);
                return Ok(value);
            }
            Err(error) => error,
        };
        let verdict = match &latest {
            Some(attempt) => attempt.verdict(&error),
            // No attempt ran: the engine replays a failure, or refuses the step.
            None if error.is_suspended() => Verdict::Lost,
            None => Verdict::Own,
        };
        if verdict == Verdict::Own {
            track.life.dispatch.answered(self.asked.get());
        }
        if error.kind() == StepErrorKind::Suspended {
            // A pause was asked for during the last attempt: the engine stored the result and then
            // threw instead of returning it. The next lifetime gets the result from the cache.
            if let Some(attempt) = latest.take()
                && matches!(attempt.outcome, Outcome::Succeeded)
            {
                completed(Some(attempt));
            }
        } else if let Some(attempt) = latest.as_mut() {
            if verdict != Verdict::Own {
                track.life.lose();
            }
            attempt.give_up(error.message(), track);
        }
        Err(track.settle_error(verdict, error, number))
    }

    /// Calls `then` with the attempt if it is the latest and has not ended. An attempt whose time
    /// was up may go on running, but its reports are ignored.
    fn if_running<R>(&self, number: u32, then: impl FnOnce(&mut Attempt) -> R) -> Option<R> {
        let mut latest = self.latest.borrow_mut();
        let running =
            |a: &&mut Attempt| a.number == number && matches!(a.outcome, Outcome::Running);
        latest.as_mut().filter(running).map(then)
    }
}

/// Takes what a step's code reports during one attempt.
struct AttemptReporter<D> {
    attempt: u32,
    attempts: Rc<Attempts>,
    track: Rc<Track<D>>,
}

impl<D: Dispatch> Reporter for AttemptReporter<D> {
    fn progress(&self, progress: Progress) {
        let number = self.attempts.if_running(self.attempt, |attempt| {
            attempt.reports += 1;
            attempt.reports
        });
        let Some(number) = number else { return };
        let event = self.track.event(StepEventType::Progress);
        let event = event.report(progress.percent, progress.message);
        let report = |event| Fact::Report {
            event,
            task: self.track.task.id.clone(),
            attempt: self.attempt,
            number,
        };
        let event = event.attributes(progress.attributes);
        self.track.emit_as(event, self.track.sure, report);
    }

    fn set_attribute(&self, key: String, value: Value) {
        self.attempts.if_running(self.attempt, |attempt| {
            attempt.attributes.insert(key, value)
        });
    }
}
