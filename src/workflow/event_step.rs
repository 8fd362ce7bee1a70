//! `WorkflowEventStep`: a step object that tells what its steps do.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::context::{Progress, Reporter, StepContext};
use super::duration::WorkflowDuration;
use super::error::{StepError, StepErrorKind};
use super::output::StepOutput;
use super::panic::catch_panic;
use super::step::{DoStep, Step, StepCallback, WaitForEvent, WaitedEvent};
use super::step_event::{StepEvent, StepEventType};
use super::task::{Form, Kind, Task, TaskCounter, TaskId};
use crate::event::{InvalidEvent, NewEvent};

/// Wraps a [`Step`] and dispatches an event whenever one of its steps begins, fails an attempt,
/// reports progress, ends or fails.
///
/// The workflow does not notice: results, errors, retries and rollbacks are those of the wrapped
/// step, and an event that cannot be delivered costs it nothing. Events carry names that are the
/// same in every lifetime of the run, so a log that keeps one event for each fact shows a run that
/// was interrupted as if it had not been.
///
/// No event has what a step returned. They have the messages of errors, and what the steps' code
/// reports, of [sensitive](super::Sensitivity) steps too. Rollbacks have no events: they run when
/// the run has ended.
///
/// Clones are the same step object. Lives on one thread.
pub struct WorkflowEventStep<S, D> {
    shared: Rc<Shared<S, D>>,
    parent: Option<TaskId>,
}

struct Shared<S, D> {
    step: S,
    dispatch: Rc<D>,
    workflow: String,
    counter: RefCell<TaskCounter>,
    should_dispatch: RefCell<Filter>,
    /// The run has ended: what steps that were given up still do is no news.
    ended: Rc<Cell<bool>>,
}

type Filter = Rc<dyn Fn(&StepInfo<'_>) -> bool>;

/// A step, for deciding whether to show it: see [`WorkflowEventStep::should_dispatch`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StepInfo<'a> {
    /// Its name.
    pub name: &'a str,
    /// What kind it is.
    pub kind: Kind,
    /// Which step of that kind and name it is, from 1.
    pub count: u32,
    /// The task that it is part of.
    pub parent: Option<&'a TaskId>,
}

/// Where facts go. Never fails and, apart from [`flush`](Self::flush), never waits.
#[allow(async_fn_in_trait, reason = "workflows live on one thread")]
pub trait Dispatch {
    /// The time for events' timestamps.
    fn now(&self) -> SystemTime;

    /// Takes a fact to be stored after those taken before.
    fn dispatch(&self, fact: Fact);

    /// Returns when all facts taken so far were stored, or when it is no longer worth waiting.
    async fn flush(&self, flush: Flush);
}

/// What a [`Dispatch`] takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Something happened. Its key is the fact's.
    Event(NewEvent),
    /// The code of a step reported something; the event has no key yet.
    ///
    /// The engine counts an attempt that was killed with the process, and the next one reports
    /// the same again. So a report is named by the try that it belongs to, which is over when an
    /// attempt *failed*, and which only the log knows.
    Report {
        /// The report.
        event: NewEvent,
        /// The task.
        task: TaskId,
        /// The attempt, as the engine counts.
        attempt: u32,
        /// Which report of the attempt it is, from 1.
        number: u32,
    },
    /// An attempt runs live. The engine never runs what has ended, so if the log knows a fact
    /// with one of these keys, the instance was restarted.
    Live {
        /// Keys of facts that end the attempt.
        ends: Vec<String>,
    },
}

/// Why a flush is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// An attempt ends that failed or reported something: its callback will not run again to
    /// tell what is lost.
    AttemptEnd {
        /// How long the end can be put off without the attempt running out of time.
        at_most: Duration,
    },
    /// The workflow is about to wait, which may end this lifetime and its timers.
    BeforeWait,
    /// This lifetime of the run ends.
    End,
}

impl<S: Step, D: Dispatch + 'static> WorkflowEventStep<S, D> {
    /// Wraps `step` for the workflow of this name; facts go to `dispatch`.
    pub fn new(step: S, workflow: impl Into<String>, dispatch: D) -> Self {
        Self {
            shared: Rc::new(Shared {
                step,
                dispatch: Rc::new(dispatch),
                workflow: workflow.into(),
                counter: RefCell::default(),
                should_dispatch: RefCell::new(Rc::new(|_| true)),
                ended: Rc::default(),
            }),
            parent: None,
        }
    }

    /// Dispatches only the events of steps for which `filter` returns true, and of the workflow
    /// itself. Must decide by the step alone, since it is asked again in every lifetime.
    /// Default: all. Holds for the steps that begin after it, also those of clones; the steps of
    /// a hidden group are shown as part of what the group is part of.
    #[must_use]
    pub fn should_dispatch(self, filter: impl Fn(&StepInfo<'_>) -> bool + 'static) -> Self {
        *self.shared.should_dispatch.borrow_mut() = Rc::new(filter);
        self
    }

    /// Runs the whole workflow: its `started` is the first event of the run and its `completed`
    /// or `failed` the last, after which viewers' streams end.
    ///
    /// # Errors
    /// Those of `body`, and one if it panics.
    pub async fn workflow<T>(
        &self,
        body: impl AsyncFnOnce(Self) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let result = self
            .scope(Form::Step(Kind::Workflow), &self.shared.workflow, body)
            .await;
        self.shared.ended.set(true);
        self.shared.dispatch.flush(Flush::End).await;
        result
    }

    /// Runs a group of steps, which is shown as one task with the steps below it. Not a step of
    /// the engine: it is not stored, not retried and not billed.
    ///
    /// # Errors
    /// Those of `body`, and one if it panics.
    pub async fn group<T>(
        &self,
        name: &str,
        body: impl AsyncFnOnce(Self) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        self.scope(Form::Group, name, body).await
    }

    /// Where this one's facts go.
    #[must_use]
    pub fn dispatch(&self) -> &D {
        &self.shared.dispatch
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
        Track {
            dispatch: Rc::clone(&self.shared.dispatch),
            parent: self.parent.clone(),
            task,
            shown,
            ended: Rc::clone(&self.shared.ended),
        }
    }

    /// A step that waits: begun, flushed, waited for, ended.
    async fn wait<T>(
        &self,
        kind: Kind,
        name: &str,
        wait: impl AsyncFnOnce(&S) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let track = self.track(Form::Step(kind), name);
        track.emit(track.event(StepEventType::Started));
        self.shared.dispatch.flush(Flush::BeforeWait).await;
        let result = wait(&self.shared.step).await;
        track.settle(&result);
        result
    }
}

impl<S: Step, D: Dispatch + 'static> Step for WorkflowEventStep<S, D> {
    async fn do_step<T: StepOutput>(&self, mut step: DoStep<T>) -> Result<T, StepError> {
        let track = Rc::new(self.track(Form::Step(Kind::Do), &step.name));
        let attempts = Rc::new(Attempts {
            timeout: step.config.resolve().timeout.into(),
            latest: RefCell::default(),
        });
        track.emit(track.event(StepEventType::Started));
        step.callback = {
            let (track, attempts) = (Rc::clone(&track), Rc::clone(&attempts));
            StepCallback::new(async move |context: StepContext| {
                let attempt = context.attempt;
                attempts.begin(attempt, &track);
                let context = context.with_reporter(Rc::new(AttemptReporter {
                    attempt,
                    attempts: Rc::clone(&attempts),
                    track: Rc::clone(&track),
                }));
                let result = catch_panic(step.callback.call(context)).await;
                if let Some(at_most) = attempts.end(attempt, &result, &track) {
                    track.dispatch.flush(Flush::AttemptEnd { at_most }).await;
                }
                result
            })
        };
        let result = self.shared.step.do_step(step).await;
        attempts.settle(&result, &track);
        result
    }

    async fn sleep(
        &self,
        name: &str,
        duration: impl Into<WorkflowDuration>,
    ) -> Result<(), StepError> {
        let duration = duration.into();
        self.wait(Kind::Sleep, name, async |step: &S| {
            step.sleep(name, duration).await
        })
        .await
    }

    async fn sleep_until(&self, name: &str, time: SystemTime) -> Result<(), StepError> {
        self.wait(Kind::SleepUntil, name, async |step: &S| {
            step.sleep_until(name, time).await
        })
        .await
    }

    async fn wait_for_event<T>(
        &self,
        name: &str,
        options: WaitForEvent,
    ) -> Result<WaitedEvent<T>, StepError>
    where
        T: DeserializeOwned + 'static,
    {
        self.wait(Kind::WaitForEvent, name, async |step: &S| {
            step.wait_for_event(name, options).await
        })
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

/// The first event of a run of the workflow of this name: for whoever creates the instance, so
/// that there is something to watch before the workflow itself runs.
///
/// # Errors
/// When the name is too long for an event.
pub fn workflow_started(workflow: &str, now: SystemTime) -> Result<NewEvent, InvalidEvent> {
    let task = TaskCounter::default().next(Form::Step(Kind::Workflow), workflow);
    NewEvent::encode(&StepEvent::new(StepEventType::Started, &task, None, now))
}

/// The last event of a run of the workflow of this name: for whoever learns that the run is over
/// though its own code did not say so, for example because it was terminated.
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

/// A task whose events are dispatched.
struct Track<D> {
    dispatch: Rc<D>,
    parent: Option<TaskId>,
    task: Task,
    shown: bool,
    ended: Rc<Cell<bool>>,
}

impl<D: Dispatch> Track<D> {
    fn event(&self, of: StepEventType) -> StepEvent {
        StepEvent::new(of, &self.task, self.parent.clone(), self.dispatch.now())
    }

    fn emit(&self, event: StepEvent) {
        self.emit_as(event, Fact::Event);
    }

    fn emit_as(&self, event: StepEvent, fact: impl FnOnce(NewEvent) -> Fact) {
        // Cannot fail: texts are cut and the engine refuses long names. If it did, the workflow
        // must not suffer for it.
        if self.shown
            && !self.ended.get()
            && let Ok(event) = NewEvent::encode(&event)
        {
            self.dispatch.dispatch(fact(event));
        }
    }

    /// The end of a task without attempts. A suspension is not an end.
    fn settle<T>(&self, result: &Result<T, StepError>) {
        match result {
            Ok(_) => self.emit(self.event(StepEventType::Completed)),
            Err(error) if error.kind() == StepErrorKind::Suspended => {}
            Err(error) => self.emit(self.event(StepEventType::Failed).error(error.message())),
        }
    }

    fn key(&self, of: StepEventType, attempt: u32) -> String {
        StepEvent::fact_key(&self.task.id, of, attempt)
    }
}

/// The attempts of a `do` step that run in this lifetime. None, if its result is cached.
struct Attempts {
    timeout: Duration,
    latest: RefCell<Option<Attempt>>,
}

struct Attempt {
    number: u32,
    began: SystemTime,
    outcome: Outcome,
    reports: u32,
    attributes: Map<String, Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Running,
    Succeeded,
    Failed,
}

impl Attempts {
    fn begin<D: Dispatch>(&self, number: u32, track: &Track<D>) {
        // The engine does not tell a callback that its time is up, nor that its result cannot be
        // stored. It goes on to the next attempt.
        self.give_up(
            "the attempt timed out or its result could not be stored",
            track,
        );
        *self.latest.borrow_mut() = Some(Attempt {
            number,
            began: track.dispatch.now(),
            outcome: Outcome::Running,
            reports: 0,
            attributes: Map::new(),
        });
        if track.shown {
            track.dispatch.dispatch(Fact::Live {
                ends: vec![
                    track.key(StepEventType::Completed, number),
                    track.key(StepEventType::AttemptFailed, number),
                ],
            });
        }
    }

    /// If there is anything to tell that nobody could tell again: how long the end can wait for it.
    fn end<T, D: Dispatch>(
        &self,
        number: u32,
        result: &Result<T, StepError>,
        track: &Track<D>,
    ) -> Option<Duration> {
        let now = track.dispatch.now();
        let outcome = match result {
            Ok(_) => Outcome::Succeeded,
            Err(_) => Outcome::Failed,
        };
        // None, if its time was up before: whatever it returns, the engine does not hear it.
        let (reports, left) = self.if_running(number, |attempt| {
            let worked = now.duration_since(attempt.began).unwrap_or_default();
            let left = self.timeout.checked_sub(worked)?;
            attempt.outcome = outcome;
            Some((attempt.reports, left))
        })??;
        if let Err(error) = result {
            let event = track.event(StepEventType::AttemptFailed);
            track.emit(event.attempt(Some(number)).error(error.message()));
        }
        (track.shown && (result.is_err() || reports > 0)).then_some(left / 10)
    }

    /// The latest attempt failed, though its code did not say so.
    fn give_up<D: Dispatch>(&self, error: &str, track: &Track<D>) {
        let unfailed = |attempt: &&mut Attempt| attempt.outcome != Outcome::Failed;
        if let Some(attempt) = self.latest.borrow_mut().as_mut().filter(unfailed) {
            attempt.outcome = Outcome::Failed;
            let event = track.event(StepEventType::AttemptFailed);
            track.emit(event.attempt(Some(attempt.number)).error(error));
        }
    }

    /// The end of the step, as the engine tells it.
    fn settle<T, D: Dispatch>(&self, result: &Result<T, StepError>, track: &Track<D>) {
        if let Err(error) = result
            && error.kind() != StepErrorKind::Suspended
        {
            self.give_up(error.message(), track);
        }
        let latest = self.latest.borrow_mut().take();
        let number = latest.as_ref().map(|attempt| attempt.number);
        let succeeded = latest
            .as_ref()
            .is_some_and(|a| a.outcome == Outcome::Succeeded);
        let completed = || {
            let attributes = latest.map(|attempt| attempt.attributes).unwrap_or_default();
            let event = track.event(StepEventType::Completed).attempt(number);
            track.emit(event.attributes(attributes));
        };
        match result {
            Ok(_) => completed(),
            // A pause that was asked for during the last attempt: the engine stored the result
            // and then threw instead of returning it. The next lifetime gets it from the cache.
            Err(error) if error.kind() == StepErrorKind::Suspended && succeeded => completed(),
            Err(error) if error.kind() == StepErrorKind::Suspended => {}
            Err(error) => {
                let event = track.event(StepEventType::Failed).attempt(number);
                track.emit(event.error(error.message()));
            }
        }
    }

    /// The attempt, if it is the latest and has not ended: one whose time was up may go on
    /// running and has nothing to say any more.
    fn if_running<R>(&self, number: u32, then: impl FnOnce(&mut Attempt) -> R) -> Option<R> {
        let mut latest = self.latest.borrow_mut();
        let running = |a: &&mut Attempt| a.number == number && a.outcome == Outcome::Running;
        latest.as_mut().filter(running).map(then)
    }
}

/// What a step's code reports during one attempt.
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
        self.track
            .emit_as(event.attributes(progress.attributes), report);
    }

    fn set_attribute(&self, key: String, value: Value) {
        self.attempts.if_running(self.attempt, |attempt| {
            attempt.attributes.insert(key, value)
        });
    }
}
