//! `WorkflowEventStep`: a step object that tells what its steps do.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::{StepError, StepErrorKind};
use super::panic::catch_panic;
use super::step::{Progress, Reporter, Step, StepConfig, StepContext, WaitForEvent, WaitedEvent};
use super::step_event::{StepEvent, StepEventType};
use super::task::{Form, Kind, Task, TaskCounter, TaskId};
use crate::event::NewEvent;

/// Wraps a [`Step`] and dispatches an event whenever one of its steps begins, fails an attempt,
/// reports progress, ends or fails.
///
/// The workflow does not notice: results, errors and retries are those of the wrapped step, and
/// an event that cannot be delivered costs it nothing. Events carry names that are the same in
/// every lifetime of the run, so a log that keeps one event for each fact shows a run that was
/// interrupted as if it had not been.
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
    should_dispatch: Box<dyn Fn(&StepInfo<'_>) -> bool>,
}

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
    AttemptEnd,
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
                should_dispatch: Box::new(|_| true),
            }),
            parent: None,
        }
    }

    /// Dispatches only the events of steps for which `filter` returns true, and of the workflow
    /// itself. Must decide by the step alone, since it is asked again in every lifetime.
    /// Default: all. Call it before the first step.
    #[must_use]
    pub fn should_dispatch(self, filter: impl Fn(&StepInfo<'_>) -> bool + 'static) -> Self {
        match Rc::try_unwrap(self.shared) {
            Ok(shared) => Self {
                shared: Rc::new(Shared {
                    should_dispatch: Box::new(filter),
                    ..shared
                }),
                parent: self.parent,
            },
            // Cloned already: steps may be under way, and the filter must not change under them.
            Err(shared) => Self {
                shared,
                parent: self.parent,
            },
        }
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
            parent: Some(track.task.id.clone()),
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
        let shown = task.kind == Kind::Workflow || (self.shared.should_dispatch)(&info);
        Track {
            dispatch: Rc::clone(&self.shared.dispatch),
            parent: self.parent.clone(),
            task,
            shown,
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
    async fn run_with<T, F>(
        &self,
        name: &str,
        config: StepConfig,
        callback: F,
    ) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned + 'static,
        F: AsyncFn(StepContext) -> Result<T, StepError> + 'static,
    {
        let track = Rc::new(self.track(Form::Step(Kind::Do), name));
        let attempts = Rc::new(Attempts::default());
        track.emit(track.event(StepEventType::Started));
        let result = {
            let (track, attempts) = (Rc::clone(&track), Rc::clone(&attempts));
            let callback = async move |context: StepContext| {
                let attempt = context.attempt;
                attempts.begin(attempt, &track);
                let context = context.with_reporter(Rc::new(AttemptReporter {
                    attempt,
                    attempts: Rc::clone(&attempts),
                    track: Rc::clone(&track),
                }));
                let result = catch_panic(async { callback(context).await }).await;
                if attempts.end(attempt, &result, &track) {
                    track.dispatch.flush(Flush::AttemptEnd).await;
                }
                result
            };
            self.shared.step.run_with(name, config, callback).await
        };
        attempts.settle(&result, &track);
        result
    }

    async fn sleep(&self, name: &str, duration: Duration) -> Result<(), StepError> {
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

/// A task whose events are dispatched.
struct Track<D> {
    dispatch: Rc<D>,
    parent: Option<TaskId>,
    task: Task,
    shown: bool,
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
#[derive(Default)]
struct Attempts {
    latest: RefCell<Option<Attempt>>,
}

struct Attempt {
    number: u32,
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
        // The engine does not tell a callback that its time is up. It goes on to the next attempt.
        if let Some(previous) = self.running() {
            let error = "the attempt timed out";
            track.emit(
                track
                    .event(StepEventType::AttemptFailed)
                    .attempt(Some(previous))
                    .error(error),
            );
        }
        *self.latest.borrow_mut() = Some(Attempt {
            number,
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

    /// Whether there is anything to tell that nobody could tell again.
    fn end<T, D: Dispatch>(
        &self,
        number: u32,
        result: &Result<T, StepError>,
        track: &Track<D>,
    ) -> bool {
        let outcome = match result {
            Ok(_) => Outcome::Succeeded,
            Err(_) => Outcome::Failed,
        };
        let reports = self.if_running(number, |attempt| {
            attempt.outcome = outcome;
            attempt.reports
        });
        // Its time was up before: whatever it returns, the engine does not hear it.
        let Some(reports) = reports else { return false };
        if let Err(error) = result {
            let event = track
                .event(StepEventType::AttemptFailed)
                .attempt(Some(number));
            track.emit(event.error(error.message()));
        }
        track.shown && (result.is_err() || reports > 0)
    }

    /// The end of the step, as the engine tells it.
    fn settle<T, D: Dispatch>(&self, result: &Result<T, StepError>, track: &Track<D>) {
        let timed_out = self.running();
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
                if let Some(number) = timed_out {
                    let event = track
                        .event(StepEventType::AttemptFailed)
                        .attempt(Some(number));
                    track.emit(event.error(error.message()));
                }
                let event = track.event(StepEventType::Failed).attempt(number);
                track.emit(event.error(error.message()));
            }
        }
    }

    fn running(&self) -> Option<u32> {
        let latest = self.latest.borrow();
        let running = latest.as_ref().filter(|a| a.outcome == Outcome::Running);
        running.map(|attempt| attempt.number)
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
