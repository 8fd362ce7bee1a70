//! The state of a run, built from either log.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::time::SystemTime;

use cloudflare_workflows::{StepName, WorkflowInstanceEvent, WorkflowInstanceEventData as Data};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::feed::InstanceFeedItem;
use crate::delivery::DecodeEvent;
use crate::event::{EventId, StoredEvent};
use crate::task::{Form, Kind, StepEvent, StepEventType, TERMINATED, TaskId, iso, iso_option};

/// The state of a run, built from its events: those of our own log
/// ([`WorkflowEventStep`](crate::workflow::event_step::WorkflowEventStep)) or of the platform's
/// ([`WorkflowInstanceEvent`]). A page need not care which of the two it watches.
///
/// | in the view | our own log | the platform's log |
/// |---|---|---|
/// | a task begins | `started` | `step_started`, `sleep_started`, `wait_started` |
/// | it goes into its nth attempt | (known when the attempt ends) | `attempt_started` |
/// | an attempt failed | `attempt_failed` | `attempt_errored` |
/// | when the next one begins | `attempt_failed`, if the step's config says it | `attempt_errored` |
/// | it completed | `completed` | `step_completed`, `sleep_completed`, `wait_completed` |
/// | it failed | `failed` | `step_errored`, `wait_timed_out` |
/// | progress and attributes | `progress`, `completed` | - |
/// | when a sleep ends | `started` | `sleep_started` |
/// | the type that a wait is for | `started` | `wait_started` |
/// | when a wait times out | `started` | - |
/// | its rollback | - | `rollback_step_*`, `rollback_attempt_*` |
/// | groups, and tasks inside of them | as `do` tasks with `parent_id` | -, all tasks have no parent |
/// | the run is queued, paused, waits | - | `workflow_queued`, `_waiting_for_pause`, `_paused`, `_waiting` |
/// | it runs | `started` of the workflow | `workflow_started`, `workflow_running` |
/// | it rolls back | - | `rollback_started` |
/// | it completed | `completed` of the workflow | `workflow_completed` |
/// | it failed | `failed` of the workflow | `workflow_errored` |
/// | it was terminated | `failed` of the workflow, with the words of a termination | `workflow_terminated` |
/// | a task is stopped | the workflow's end comes before its own | likewise |
/// | it begins anew | `restarted` | a log of its own, after a `reset` for a client that saw the previous one |
///
/// Both logs give the same view, except for:
///
/// - **times**, which come from two observers;
/// - **a sleep until a time**, which is a `sleep` for the platform;
/// - **attempts that were killed** with their process, which failed for the platform but not for
///   our own log;
/// - **messages** of timeouts and terminations, for which the platform's log has other words or none.
///
/// Serialises as JSON for pages, with times as ISO 8601:
///
/// ```
/// use ssetarget::workflow::{RunState, RunView, TaskState};
/// use ssetarget::{EventId, StoredEvent};
/// # use std::time::SystemTime;
///
/// let mut view = RunView::new();
/// view.apply(&StoredEvent {
///     id: EventId::new(1).unwrap(),
///     event_type: "started".into(),
///     data: r#"{"taskId":"a-1","step":"a","kind":"do","count":1,
///         "timestamp":"2026-11-24T09:00:00.000Z","parentId":null}"#.into(),
///     timestamp: SystemTime::UNIX_EPOCH,
/// })?;
/// assert_eq!(view.tasks[0].state, TaskState::Running);
/// assert_eq!(serde_json::to_value(&view)?["tasks"][0]["started"], "2026-11-24T09:00:00.000Z");
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RunView {
    /// The number of the run in our own log, from 1: a restart begins the next. Always 1 for the
    /// platform's log.
    #[serde(default = "first_run")]
    pub run: u32,
    /// The state of the run.
    pub state: RunState,
    /// The error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "iso_option")]
    pub started: Option<SystemTime>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "iso_option")]
    pub ended: Option<SystemTime>,
    /// The tasks, in the order in which they began. The workflow itself is not among them.
    pub tasks: Vec<TaskView>,
    /// The id of the last event applied. Subscribe after it to miss nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<EventId>,
    /// The index of the tasks, so that applying an event takes the same time however many there are.
    #[serde(skip)]
    index: Index,
}

/// The state of a run.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum RunState {
    /// Waits to be started, or nothing is known yet.
    #[default]
    Queued,
    /// Runs.
    Running,
    /// Finishes what is under way, and then is paused.
    WaitingForPause,
    /// Is paused.
    Paused,
    /// Sleeps or waits, and is not in memory.
    Waiting,
    /// Failed or is terminated, and its steps are being undone.
    RollingBack,
    /// Ended well.
    Completed,
    /// Failed.
    Failed,
    /// Was terminated from outside.
    Terminated,
}

impl RunState {
    /// Returns whether the run is over.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Terminated)
    }
}

/// The state of a task: a step, or a group of steps.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TaskView {
    /// The task's id, the same in every lifetime of the run.
    pub task_id: TaskId,
    /// The step's name.
    pub step: String,
    /// The kind of task.
    pub kind: Kind,
    /// Its number among the tasks of that kind and name, from 1.
    pub count: u32,
    /// The group that it is part of; `None` directly under the workflow.
    pub parent_id: Option<TaskId>,
    /// The state.
    pub state: TaskState,
    /// The error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub error: Option<String>,
    /// When it began.
    #[serde(with = "iso")]
    #[cfg_attr(feature = "typescript", ts(type = "string"))]
    pub started: SystemTime,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "iso_option")]
    #[cfg_attr(feature = "typescript", ts(as = "Option<String>", optional))]
    pub ended: Option<SystemTime>,
    /// The latest known attempt, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub attempt: Option<u32>,
    /// The attempts that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "typescript",
        ts(as = "Option<Vec<FailedAttempt>>", optional)
    )]
    pub failed_attempts: Vec<FailedAttempt>,
    /// When the next attempt begins, after one that failed. It is not there if that is not known,
    /// and once the attempt is known to run.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "iso_option")]
    #[cfg_attr(feature = "typescript", ts(as = "Option<String>", optional))]
    pub retry_at: Option<SystemTime>,
    /// When the sleep ends, or the wait times out.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "iso_option")]
    #[cfg_attr(feature = "typescript", ts(as = "Option<String>", optional))]
    pub until: Option<SystemTime>,
    /// The type of the event that the wait is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub event_type: Option<String>,
    /// The latest reported progress, from 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub percent: Option<f64>,
    /// The latest reported message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub message: Option<String>,
    /// The attributes that its code set, or reported last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional, type = "Record<string, unknown>"))]
    pub attributes: Option<Map<String, Value>>,
    /// Its rollback, once that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub rollback: Option<RollbackView>,
    /// The tasks that are part of it, in the order in which they began.
    ///
    /// Only in a [`RunSnapshot`](crate::workflow::RunSnapshot): the tasks of a [`RunView`] are one list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "typescript", ts(as = "Option<Vec<TaskView>>", optional))]
    pub tasks: Vec<TaskView>,
}

/// The state of a task, or of its rollback.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum TaskState {
    /// Runs.
    Running,
    /// Ended well.
    Completed,
    /// Failed for good.
    Failed,
    /// The run ended before the task did: the workflow abandoned it, or was terminated or failed
    /// meanwhile.
    Stopped,
}

/// An attempt that failed.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FailedAttempt {
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// The error's message.
    pub error: String,
    /// When it failed.
    #[serde(with = "iso")]
    #[cfg_attr(feature = "typescript", ts(type = "string"))]
    pub ended: SystemTime,
}

/// The state of a step's rollback.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RollbackView {
    /// The state.
    pub state: TaskState,
    /// The latest attempt, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub attempt: Option<u32>,
    /// The attempts that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "typescript",
        ts(as = "Option<Vec<FailedAttempt>>", optional)
    )]
    pub failed_attempts: Vec<FailedAttempt>,
    /// The error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub error: Option<String>,
}

impl Default for RunView {
    fn default() -> Self {
        Self {
            run: first_run(),
            state: RunState::default(),
            error: None,
            started: None,
            ended: None,
            tasks: Vec::new(),
            cursor: None,
            index: Index::default(),
        }
    }
}

impl RunView {
    /// Returns the view of a run of which nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the next event of our own log, from a store or a stream. An event that was applied
    /// before changes nothing; neither does one that is not about the run.
    ///
    /// # Errors
    /// When the data of a step's event cannot be read.
    pub fn apply(
        &mut self,
        event: &StoredEvent,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if !self.is_new(event.id) {
            return Ok(());
        }
        if event.event_type == "restarted" {
            *self = Self {
                run: restarted_run(&event.data).unwrap_or(self.run.saturating_add(1)),
                ..Self::new()
            };
        } else if StepEventType::from_name(&event.event_type).is_some() {
            self.apply_step(StepEvent::decode(event)?);
        }
        self.cursor = Some(event.id);
        Ok(())
    }

    /// Applies the next event of the platform's log. `id` is its
    /// [`event_id`](WorkflowInstanceEvent::event_id), or the id that an
    /// [`InstanceFeed`](crate::workflow::feed::InstanceFeed) gave it. An event that was applied
    /// before changes nothing.
    pub fn apply_instance(&mut self, id: impl Into<EventId>, event: &WorkflowInstanceEvent) {
        let id = id.into();
        if self.is_new(id) {
            self.apply_platform(event);
            self.cursor = Some(id);
        }
    }

    /// Applies an item of an [`InstanceFeed`](crate::workflow::feed::InstanceFeed).
    pub fn apply_feed(&mut self, item: &InstanceFeedItem) {
        match item {
            InstanceFeedItem::Event(id, event) => self.apply_instance(*id, event),
            InstanceFeedItem::Reset(_) => *self = Self::new(),
        }
    }

    /// Returns the task with this id. It takes the same time however many tasks there are, unless
    /// the view was just read from JSON.
    #[must_use]
    pub fn task(&self, id: &TaskId) -> Option<&TaskView> {
        match self.index.covered == self.tasks.len() {
            true => self.tasks.get(self.index.find(&self.tasks, id)?),
            false => self.tasks.iter().rev().find(|task| task.task_id == *id),
        }
    }

    /// Moves past an event that is not applied.
    #[cfg(any(feature = "http", feature = "snapshots"))]
    pub(crate) fn pass(&mut self, id: EventId) {
        self.cursor = self.cursor.max(Some(id));
    }

    /// Returns for each task the position of its parent, if that is in the view.
    pub(super) fn parents(&self) -> Vec<Option<usize>> {
        let mut made = Index::default();
        let index = if self.index.covered == self.tasks.len() {
            &self.index
        } else {
            made.cover(&self.tasks);
            &made
        };
        let parent = |task: &TaskView| index.find(&self.tasks, task.parent_id.as_ref()?);
        self.tasks.iter().map(parent).collect()
    }

    /// Returns the approximate number of bytes of memory that it takes.
    #[cfg(any(feature = "http", feature = "snapshots"))]
    pub(crate) fn weight(&self) -> usize {
        let tasks = self.tasks.iter().map(TaskView::weight);
        tasks.sum::<usize>() + size_of::<Self>() + self.error.as_ref().map_or(0, String::len)
    }

    fn is_new(&self, id: EventId) -> bool {
        self.cursor.is_none_or(|cursor| id > cursor)
    }

    fn apply_step(&mut self, event: StepEvent) {
        if event.kind == Kind::Workflow {
            return self.apply_workflow(&event);
        }
        // Tasks that were filtered out of the log are not in the view.
        let Some(task) = self.task_mut(&event.task_id) else {
            if event.of() == StepEventType::Started {
                self.push(TaskView::of(event));
            }
            return;
        };
        task.attempt = event.attempt.or(task.attempt);
        match event.of() {
            StepEventType::Started => {}
            StepEventType::AttemptFailed => {
                let attempt = event.attempt.unwrap_or_default();
                let error = event.error.unwrap_or_default();
                let ended = event.timestamp;
                task.retry_at = event.retry_at;
                task.failed_attempts.push(FailedAttempt {
                    attempt,
                    error,
                    ended,
                });
            }
            StepEventType::Progress => {
                // Only running code reports progress.
                task.retry_at = None;
                task.percent = event.percent.or(task.percent);
                task.message = event.message.or(task.message.take());
                task.attributes = event.attributes.or(task.attributes.take());
            }
            StepEventType::Completed => {
                task.attributes = event.attributes.or(task.attributes.take());
                task.end(TaskState::Completed, event.timestamp);
            }
            StepEventType::Failed => {
                task.error = event.error;
                task.end(TaskState::Failed, event.timestamp);
            }
        }
    }

    fn apply_workflow(&mut self, event: &StepEvent) {
        match event.of() {
            StepEventType::Started => self.run(event.timestamp),
            StepEventType::Completed => self.end(RunState::Completed, event.timestamp, None),
            StepEventType::Failed => {
                let terminated = event.error.as_deref() == Some(TERMINATED);
                let state = match terminated {
                    true => RunState::Terminated,
                    false => RunState::Failed,
                };
                self.end(state, event.timestamp, event.error.clone());
            }
            StepEventType::AttemptFailed | StepEventType::Progress => {}
        }
    }

    fn apply_platform(&mut self, event: &WorkflowInstanceEvent) {
        let now = event.timestamp;
        match &event.data {
            Data::WorkflowQueued => self.state = RunState::Queued,
            Data::WorkflowStarted { .. } | Data::WorkflowRunning => self.run(now),
            Data::WorkflowPaused => self.state = RunState::Paused,
            Data::WorkflowWaitingForPause => self.state = RunState::WaitingForPause,
            Data::WorkflowWaiting => self.state = RunState::Waiting,
            Data::WorkflowCompleted { .. } => self.end(RunState::Completed, now, None),
            Data::WorkflowErrored { error } => {
                self.end(RunState::Failed, now, Some(error.message.clone()));
            }
            Data::WorkflowTerminated => self.end(RunState::Terminated, now, None),
            Data::RollbackStarted => self.state = RunState::RollingBack,
            Data::StepStarted { step_name, .. } => {
                self.begin(Kind::Do, step_name, now, |_| {});
            }
            Data::SleepStarted {
                step_name,
                duration,
            } => {
                let until = now.checked_add(*duration);
                let until = until.filter(|until| iso::can_write(*until));
                self.begin(Kind::Sleep, step_name, now, |sleep| sleep.until = until);
            }
            Data::WaitStarted {
                step_name,
                event_type,
            } => self.begin(Kind::WaitForEvent, step_name, now, |wait| {
                wait.event_type = Some(event_type.clone());
            }),
            Data::AttemptStarted { step_name, attempt } => self.of(Kind::Do, step_name, |task| {
                task.attempt = Some(*attempt);
                task.retry_at = None;
            }),
            Data::AttemptErrored {
                step_name,
                attempt,
                retry_delay,
                error,
            } => self.of(Kind::Do, step_name, |task| {
                let retry_at = retry_delay.and_then(|delay| now.checked_add(delay));
                task.retry_at = retry_at.filter(|time| iso::can_write(*time));
                task.failed_attempts.push(FailedAttempt {
                    attempt: *attempt,
                    error: error.message.clone(),
                    ended: now,
                });
            }),
            Data::StepCompleted { step_name, .. } => self.of(Kind::Do, step_name, |task| {
                task.end(TaskState::Completed, now);
            }),
            Data::StepErrored { step_name } => self.of(Kind::Do, step_name, |task| {
                let last = task.failed_attempts.last();
                task.error = last.map(|attempt| attempt.error.clone());
                task.end(TaskState::Failed, now);
            }),
            Data::SleepCompleted { step_name } => self.of(Kind::Sleep, step_name, |task| {
                task.end(TaskState::Completed, now);
            }),
            Data::WaitCompleted { step_name } => self.of(Kind::WaitForEvent, step_name, |task| {
                task.end(TaskState::Completed, now);
            }),
            Data::WaitTimedOut { step_name } => self.of(Kind::WaitForEvent, step_name, |task| {
                task.end(TaskState::Failed, now);
            }),
            Data::RollbackStepStarted { step_name, .. } => {
                self.rollback(step_name, |_| {});
            }
            Data::RollbackAttemptStarted { step_name, attempt } => {
                self.rollback(step_name, |rollback| rollback.attempt = Some(*attempt));
            }
            Data::RollbackAttemptErrored {
                step_name,
                attempt,
                error,
                ..
            } => self.rollback(step_name, |rollback| {
                rollback.failed_attempts.push(FailedAttempt {
                    attempt: *attempt,
                    error: error.message.clone(),
                    ended: now,
                });
            }),
            Data::RollbackStepCompleted { step_name } => {
                self.rollback(step_name, |rollback| rollback.state = TaskState::Completed);
            }
            Data::RollbackStepErrored { step_name, error } => {
                self.rollback(step_name, |rollback| {
                    rollback.state = TaskState::Failed;
                    rollback.error = Some(error.message.clone());
                });
            }
            // Nothing changes: the event of the run's end follows.
            Data::RollbackCompleted
            | Data::RollbackErrored
            | Data::AttemptCompleted { .. }
            | Data::RollbackAttemptCompleted { .. }
            | Data::Unknown(_) => {}
            // An event of a later version of the platform.
            _ => {}
        }
    }

    fn run(&mut self, now: SystemTime) {
        self.state = RunState::Running;
        self.started.get_or_insert(now);
    }

    fn end(&mut self, state: RunState, now: SystemTime, error: Option<String>) {
        self.state = state;
        self.error = error;
        self.ended = Some(now);
        for task in &mut self.tasks {
            if task.state == TaskState::Running {
                task.end(TaskState::Stopped, now);
            }
        }
    }

    /// Adds a task of the platform's log. Sleeps of one name and different lengths share a name
    /// there, so their count is computed here.
    fn begin(
        &mut self,
        kind: Kind,
        name: &StepName,
        now: SystemTime,
        describe: impl FnOnce(&mut TaskView),
    ) {
        self.index.cover(&self.tasks);
        let count = match kind {
            Kind::Sleep => self.index.sleeps(&self.tasks, name.name()).greatest + 1,
            _ => name.count(),
        };
        let task_id = TaskId::new(name.name(), count, Form::Step(kind));
        // A run that is restarted from a step keeps the tasks before it, whose events come only
        // once.
        if self.index.find(&self.tasks, &task_id).is_none() {
            let mut task = TaskView::new(task_id, name.name().to_owned(), kind, count, now);
            describe(&mut task);
            self.push(task);
        }
    }

    /// Changes a step of the platform's log; of sleeps, the latest open one of that name.
    fn of(&mut self, kind: Kind, name: &StepName, change: impl FnOnce(&mut TaskView)) {
        self.index.cover(&self.tasks);
        let position = match kind {
            Kind::Sleep => loop {
                let latest = self.index.sleeps(&self.tasks, name.name()).open.pop();
                let Some(position) = latest else { break None };
                let sleep = self.tasks.get(position);
                if sleep.is_some_and(|sleep| sleep.state == TaskState::Running) {
                    break Some(position);
                }
            },
            _ => {
                let id = TaskId::new(name.name(), name.count(), Form::Step(kind));
                self.index.find(&self.tasks, &id)
            }
        };
        if let Some(task) = position.and_then(|position| self.tasks.get_mut(position)) {
            change(task);
        }
    }

    fn rollback(&mut self, name: &StepName, change: impl FnOnce(&mut RollbackView)) {
        self.of(Kind::Do, name, |task| {
            change(task.rollback.get_or_insert(RollbackView {
                state: TaskState::Running,
                attempt: None,
                failed_attempts: Vec::new(),
                error: None,
            }));
        });
    }

    fn task_mut(&mut self, id: &TaskId) -> Option<&mut TaskView> {
        self.index.cover(&self.tasks);
        let position = self.index.find(&self.tasks, id)?;
        self.tasks.get_mut(position)
    }

    fn push(&mut self, task: TaskView) {
        self.tasks.push(task);
        self.index.cover(&self.tasks);
    }
}

/// The index of the tasks of a view. It is not part of the view's value: a view that was read from JSON makes it
/// again.
#[derive(Clone, Default)]
struct Index {
    /// The positions of tasks, by hashes of their ids. A task with the hash of an earlier one is not in it, and is
    /// searched for.
    positions: HashMap<u64, usize>,
    /// The sleeps of a name, by a hash of the name.
    sleeps: HashMap<u64, Sleeps>,
    hasher: RandomState,
    /// The number of tasks in the index.
    covered: usize,
    /// The number of tasks of which it knows the sleeps.
    covered_sleeps: usize,
    /// Whether two ids have the same hash.
    ambiguous: bool,
}

#[derive(Clone, Default)]
struct Sleeps {
    /// The greatest count.
    greatest: u32,
    /// The positions of sleeps that may be open, in the order in which they began.
    open: Vec<usize>,
}

impl Index {
    /// Adds new tasks.
    fn cover(&mut self, tasks: &[TaskView]) {
        if self.covered > tasks.len() {
            *self = Self::default();
        }
        for (position, task) in tasks.iter().enumerate().skip(self.covered) {
            let hash = self.hasher.hash_one(task.task_id.as_str());
            match self.positions.get(&hash) {
                Some(_) => self.ambiguous = true,
                None => drop(self.positions.insert(hash, position)),
            }
        }
        self.covered = tasks.len();
    }

    fn find(&self, tasks: &[TaskView], id: &TaskId) -> Option<usize> {
        let is_it = |task: &TaskView| task.task_id == *id;
        let hash = self.hasher.hash_one(id.as_str());
        match self.positions.get(&hash) {
            Some(position) if tasks.get(*position).is_some_and(is_it) => Some(*position),
            Some(_) if self.ambiguous => tasks.iter().rposition(is_it),
            _ => None,
        }
    }

    /// Returns the sleeps of a name. Only the platform's log needs them, so they are taken in here.
    fn sleeps(&mut self, tasks: &[TaskView], name: &str) -> &mut Sleeps {
        for (position, task) in tasks.iter().enumerate().skip(self.covered_sleeps) {
            if task.kind == Kind::Sleep {
                let hash = self.hasher.hash_one(task.step.as_str());
                let sleeps = self.sleeps.entry(hash).or_default();
                sleeps.greatest = task.count.max(sleeps.greatest);
                sleeps.open.push(position);
            }
        }
        self.covered_sleeps = tasks.len();
        let hash = self.hasher.hash_one(name);
        self.sleeps.entry(hash).or_default()
    }
}

impl PartialEq for Index {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("covered", &self.covered)
            .finish_non_exhaustive()
    }
}

impl TaskView {
    fn new(task_id: TaskId, step: String, kind: Kind, count: u32, started: SystemTime) -> Self {
        Self {
            task_id,
            step,
            kind,
            count,
            parent_id: None,
            state: TaskState::Running,
            error: None,
            started,
            ended: None,
            attempt: None,
            failed_attempts: Vec::new(),
            retry_at: None,
            until: None,
            event_type: None,
            percent: None,
            message: None,
            attributes: None,
            rollback: None,
            tasks: Vec::new(),
        }
    }

    fn of(event: StepEvent) -> Self {
        let (kind, count) = (event.kind, event.count);
        let mut task = Self::new(event.task_id, event.step, kind, count, event.timestamp);
        task.parent_id = event.parent_id.filter(|id| !id.is_workflow());
        task.until = event.until;
        task.event_type = event.event_type;
        task
    }

    #[cfg(any(feature = "http", feature = "snapshots"))]
    fn weight(&self) -> usize {
        /// The bytes of a task in the index.
        const INDEXED: usize = 48;
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let failed = |failed: &FailedAttempt| size_of::<FailedAttempt>() + failed.error.len();
        let rollback = self.rollback.as_ref().map(|rollback| {
            let attempts = rollback.failed_attempts.iter().map(failed);
            text(&rollback.error) + attempts.sum::<usize>()
        });
        let attributes = self.attributes.as_ref();
        let ids = self.task_id.as_str().len()
            + self.step.len()
            + self.parent_id.as_ref().map_or(0, |id| id.as_str().len());
        let texts = text(&self.error) + text(&self.message) + text(&self.event_type);
        size_of::<Self>()
            + INDEXED
            + ids
            + texts
            + self.failed_attempts.iter().map(failed).sum::<usize>()
            + rollback.unwrap_or_default()
            + attributes.map_or(0, |attributes| attributes.iter().map(pair_weight).sum())
    }

    fn end(&mut self, state: TaskState, now: SystemTime) {
        self.state = state;
        self.ended = Some(now);
        self.retry_at = None;
    }
}

fn first_run() -> u32 {
    1
}

/// Reads the number of the run that a `restarted` event begins.
fn restarted_run(data: &str) -> Option<u32> {
    #[derive(Deserialize)]
    struct Restarted {
        run: u32,
    }

    let restarted: Restarted = serde_json::from_str(data).ok()?;
    Some(restarted.run)
}

#[cfg(any(feature = "http", feature = "snapshots"))]
fn pair_weight((name, value): (&String, &Value)) -> usize {
    name.len() + weight_of(value)
}

/// Returns the approximate number of bytes of memory that a value takes. It is only as deep as JSON readers allow.
#[cfg(any(feature = "http", feature = "snapshots"))]
fn weight_of(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(values) => values.iter().map(weight_of).sum(),
            Value::Object(fields) => fields.iter().map(pair_weight).sum(),
            _ => 0,
        }
}
