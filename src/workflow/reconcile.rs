//! Reconciliation: finds what the platform's own log of an instance knows of a run and ours does
//! not.
//!
//! Our log is filled by the wrapper's facts, which is fast but has gaps: the engine can be lost
//! between a step's end and its fact, and a lifetime that the platform ends does not say how the
//! run goes on. The platform's log is always there, and decides.

use std::time::Duration;

use cloudflare_workflows::{StepName, WorkflowInstanceEventType as Type};

use super::ended_run::EngineEvent;
use super::known_run::{KnownRun, KnownTask};
use crate::event::{InvalidEvent, NewEvent};
use crate::task::{
    Form, Kind, Redact, StepEvent, StepEventType, TERMINATED, Task, TaskCounter, TaskId,
};

/// The result of comparing the two logs for the latest run of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reconciled {
    /// Both logs are about the same run. Our log lacks these facts, listed in the platform's order;
    /// the list is empty if our log is complete.
    Missing(Vec<NewEvent>),
    /// The platform's log is about a run that began after ours: the instance was restarted, or
    /// deleted and created again.
    LaterRun,
    /// The platform's log ended before our run began: it is about an earlier run.
    EarlierRun,
}

/// Compares a run as our log has it with the platform's log of the instance, read from its
/// beginning, as `read_ended_run` reads it.
///
/// Only ends are supplied, and only of tasks whose `started` our log has: steps hidden by
/// [`should_dispatch`](crate::workflow::event_step::WorkflowEventStep::should_dispatch) stay
/// hidden. A supplied `completed` has no `attributes`, which the platform does not know, and its
/// timestamp is the platform's. Failed attempts before the last one are not supplied: an attempt
/// that was killed with its process failed for the platform, but not for our log. `redact` is applied to
/// the messages of the platform's errors.
///
/// # Errors
/// When a fact cannot be encoded. That does not happen with step names that the engine accepts.
pub(crate) fn reconcile(
    ours: &KnownRun,
    workflow: &str,
    platform: &[EngineEvent],
    redact: Option<Redact>,
) -> Result<Reconciled, InvalidEvent> {
    if is_of_later_run(ours, platform) {
        return Ok(Reconciled::LaterRun);
    }
    if is_of_earlier_run(ours, platform) {
        return Ok(Reconciled::EarlierRun);
    }
    let mut missing = Missing {
        ours,
        root: TaskCounter::default().next(Form::Step(Kind::Workflow), workflow),
        attempts: Vec::new(),
        sleeps: Vec::new(),
        facts: Vec::new(),
        redact,
    };
    if ours.ended.is_none() {
        for event in platform {
            missing.read(event)?;
        }
    }
    Ok(Reconciled::Missing(missing.facts))
}

/// The error of a run that failed without a message.
pub(crate) const RUN_FAILED: &str = "the workflow failed";
/// The error of a wait whose event did not come, when the engine's own words are lost.
const TIMED_OUT: &str = "the event did not come in time";
/// The error of a step that failed, when the platform's log has no attempt of it.
const FAILED: &str = "the step failed";

/// The largest assumed difference between the clocks of a workflow's Worker and of its engine. A
/// run with only its first step known must not be confused with the run before.
const SKEW: Duration = Duration::from_millis(500);

/// Returns whether the platform's log is about a run after ours. That log begins again with each
/// run, so it is if it begins after our run has ended, or after the last thing that ours knows of
/// the run's steps.
fn is_of_later_run(ours: &KnownRun, platform: &[EngineEvent]) -> bool {
    let Some(first) = platform.first() else {
        return false;
    };
    // The workflow's own `started` may be dispatched before the instance exists, so it does not
    // count.
    let known = ours
        .tasks
        .iter()
        .flat_map(|task| [Some(task.started), task.ended])
        .chain([ours.ended])
        .flatten()
        .max();
    known.is_some_and(|known| first.timestamp > known + SKEW)
}

/// Returns whether the platform's log is about a run before ours. A run's `started` may be
/// dispatched before the run begins, but never before the previous run has ended.
fn is_of_earlier_run(ours: &KnownRun, platform: &[EngineEvent]) -> bool {
    let ended = platform.last().filter(|last| last.is_terminal());
    let (Some(ended), Some(started)) = (ended, ours.started) else {
        return false;
    };
    ended.timestamp + SKEW < started
}

struct Missing<'a> {
    ours: &'a KnownRun,
    root: Task,
    /// The latest attempt of each step, with its error if it failed.
    attempts: Vec<(StepName, u32, Option<String>)>,
    /// The platform's sleeps in their order, and whether they have ended.
    sleeps: Vec<(StepName, bool)>,
    facts: Vec<NewEvent>,
    redact: Option<Redact>,
}

impl<'a> Missing<'a> {
    fn read(&mut self, event: &EngineEvent) -> Result<(), InvalidEvent> {
        use StepEventType::{Completed, Failed};
        let step = &event.step;
        match event.event_type {
            Type::AttemptStarted => self.begin(step, event.attempt, None),
            Type::AttemptErrored => self.begin(step, event.attempt, Some(event.error.clone())),
            Type::StepCompleted => {
                let attempt = self.attempt(step).map(|(_, attempt, _)| *attempt);
                let task = self.step(Kind::Do, step);
                self.end(task, Completed, event, |fact| fact.attempt(attempt))?;
            }
            Type::StepErrored => self.failed(step, event)?,
            Type::SleepStarted => self.sleeps.push((step.clone(), false)),
            Type::SleepCompleted => {
                let task = self.wake(step);
                self.end(task, Completed, event, |fact| fact)?;
            }
            Type::WaitCompleted => {
                let task = self.step(Kind::WaitForEvent, step);
                self.end(task, Completed, event, |fact| fact)?;
            }
            Type::WaitTimedOut => {
                let task = self.step(Kind::WaitForEvent, step);
                self.end(task, Failed, event, |fact| fact.error(TIMED_OUT))?;
            }
            Type::WorkflowCompleted => self.run_ended(Completed, None, event)?,
            Type::WorkflowErrored => {
                let message = match event.error.as_str() {
                    "" => RUN_FAILED,
                    message => message,
                };
                self.run_ended(Failed, Some(message), event)?;
            }
            Type::WorkflowTerminated => self.run_ended(Failed, Some(TERMINATED), event)?,
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, step: &StepName, attempt: u32, error: Option<String>) {
        self.attempts.retain(|(of, ..)| of != step);
        self.attempts.push((step.clone(), attempt, error));
    }

    fn attempt(&self, step: &StepName) -> Option<&(StepName, u32, Option<String>)> {
        self.attempts.iter().find(|(of, ..)| of == step)
    }

    fn failed(&mut self, step: &StepName, event: &EngineEvent) -> Result<(), InvalidEvent> {
        let Some(task) = self.step(Kind::Do, step).filter(|task| is_open(task)) else {
            return Ok(());
        };
        let (attempt, error) = match self.attempt(step) {
            Some((_, attempt, error)) => (Some(*attempt), error.clone()),
            None => (None, None),
        };
        let error = error.as_deref().unwrap_or(FAILED);
        if attempt.is_some_and(|attempt| !task.failed_attempts.contains(&attempt)) {
            let failed = self.fact(StepEventType::AttemptFailed, task, event);
            let failed = NewEvent::encode(&failed.attempt(attempt).error(error))?;
            self.facts.push(failed);
        }
        let failed = self.fact(StepEventType::Failed, task, event);
        let failed = NewEvent::encode(&failed.attempt(attempt).error(error))?;
        self.facts.push(failed);
        Ok(())
    }

    /// Returns our task for a step that the platform names.
    fn step(&self, kind: Kind, name: &StepName) -> Option<&'a KnownTask> {
        let same = |task: &&KnownTask| {
            task.task.kind == kind
                && task.task.step == name.name()
                && task.task.count == name.count()
                && !is_group(task)
        };
        self.ours.tasks.iter().find(same)
    }

    /// Returns our task for the platform's sleep that ends. The platform has one kind of sleep, and
    /// counts sleeps of one name and different lengths separately, so only their order says which
    /// is which.
    fn wake(&mut self, name: &StepName) -> Option<&'a KnownTask> {
        let of = |sleep: &StepName| sleep.name() == name.name();
        let index = self
            .sleeps
            .iter()
            .rposition(|(sleep, ended)| sleep == name && !ended)?;
        self.sleeps[index].1 = true;
        let position = self.sleeps[..index].iter().filter(|(s, _)| of(s)).count();
        let ours: Vec<_> = self
            .ours
            .tasks
            .iter()
            .filter(|task| matches!(task.task.kind, Kind::Sleep | Kind::SleepUntil))
            .filter(|task| task.task.step == name.name())
            .collect();
        // If all are of one kind, the counts identify them, even where some are hidden.
        let of_one_kind = ours.iter().all(|of| of.task.kind == ours[0].task.kind);
        if of_one_kind {
            let count = u32::try_from(position).ok()? + 1;
            return ours.into_iter().find(|of| of.task.count == count);
        }
        ours.get(position).copied()
    }

    fn end(
        &mut self,
        task: Option<&KnownTask>,
        of: StepEventType,
        event: &EngineEvent,
        more: impl FnOnce(StepEvent) -> StepEvent,
    ) -> Result<(), InvalidEvent> {
        if let Some(task) = task.filter(|task| is_open(task)) {
            let fact = NewEvent::encode(&more(self.fact(of, task, event)))?;
            self.facts.push(fact);
        }
        Ok(())
    }

    fn fact(&self, of: StepEventType, task: &KnownTask, event: &EngineEvent) -> StepEvent {
        let parent = task.parent.clone().unwrap_or(self.root.id.clone());
        StepEvent::new(of, &task.task, Some(parent), event.timestamp).redact(self.redact)
    }

    fn run_ended(
        &mut self,
        of: StepEventType,
        error: Option<&str>,
        event: &EngineEvent,
    ) -> Result<(), InvalidEvent> {
        let ended = StepEvent::new(of, &self.root, None, event.timestamp).redact(self.redact);
        let ended = match error {
            Some(error) => ended.error(error),
            None => ended,
        };
        self.facts.push(NewEvent::encode(&ended)?);
        Ok(())
    }
}

fn is_open(task: &KnownTask) -> bool {
    task.ended.is_none()
}

/// Returns whether a task is a group: shown as a `do` task, but not a step of the engine.
fn is_group(task: &KnownTask) -> bool {
    task.task.id == TaskId::new(&task.task.step, task.task.count, Form::Group)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::{Value, json};

    use super::*;
    use crate::event::{EventId, StoredEvent};

    /// Builds our log: each event is a second after the one before.
    fn ours(told: &[(&str, &str, Value)]) -> KnownRun {
        let mut run = KnownRun::default();
        for (number, (event_type, task, more)) in (1..).zip(told) {
            let (name, kind) = task.split_once('.').unwrap_or((task, "do"));
            let (step, count) = name.rsplit_once('-').unwrap();
            let (kind, parent) = match kind {
                "workflow" => (kind, Value::Null),
                "group" => ("do", json!("order-1.workflow")),
                _ => (kind, json!("order-1.workflow")),
            };
            let mut data = json!({
                "taskId": task, "step": step, "kind": kind, "count": count.parse::<u32>().unwrap(),
                "timestamp": format!("2026-11-24T09:00:{number:02}.000Z"), "parentId": parent,
            });
            data.as_object_mut()
                .unwrap()
                .extend(more.as_object().cloned().unwrap_or_default());
            run.apply(&StoredEvent {
                id: EventId::new(number).unwrap(),
                event_type: (*event_type).to_owned(),
                data: data.to_string(),
                timestamp: SystemTime::UNIX_EPOCH,
            });
        }
        run
    }

    const NINE: u64 = 1_795_510_800_000;

    /// Builds the platform's log, with times in seconds after nine o'clock.
    fn platform(events: &[(u64, Value)]) -> Vec<EngineEvent> {
        let event = |(second, event): &(u64, Value)| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let brief = json!([
                event["type"],
                NINE + second * 1000,
                text(&event["stepName"]),
                event["attempt"].as_u64().unwrap_or_default(),
                text(&event["error"]["message"]),
            ]);
            serde_json::from_value(brief).unwrap()
        };
        events.iter().map(event).collect()
    }

    fn missing(ours: &KnownRun, theirs: &[EngineEvent]) -> Vec<String> {
        let Reconciled::Missing(facts) = reconcile(ours, "order", theirs, None).unwrap() else {
            panic!("another run's");
        };
        let told = facts.iter().map(|fact| {
            let data: Value = serde_json::from_str(fact.data()).unwrap();
            let more = ["attempt", "error"]
                .iter()
                .filter_map(|field| data.get(field));
            let more: String = more.map(|value| format!(" {value}")).collect();
            assert!(fact.key().is_some());
            format!(
                "{} {}{more}",
                fact.event_type(),
                data["taskId"].as_str().unwrap()
            )
        });
        told.collect()
    }

    fn none() -> Value {
        Value::Null
    }

    #[test]
    fn supplies_the_events_that_the_last_lifetime_did_not_send() {
        let ours = ours(&[
            ("started", "order-1.workflow", none()),
            ("started", "a-1", none()),
            ("completed", "a-1", json!({"attempt": 1})),
            ("started", "b-1", none()),
            ("started", "b-2", none()),
            (
                "attempt_failed",
                "b-2",
                json!({"attempt": 1, "error": "no"}),
            ),
            ("started", "dry-1.sleep", none()),
            ("started", "ok-1.waitForEvent", none()),
            ("started", "pay-1.waitForEvent", none()),
        ]);
        let theirs = platform(&[
            (0, json!({"type": "workflow_queued"})),
            (0, json!({"type": "workflow_started"})),
            (
                1,
                json!({"type": "attempt_started", "stepName": "a-1", "attempt": 1}),
            ),
            (2, json!({"type": "step_completed", "stepName": "a-1"})),
            (
                3,
                json!({"type": "attempt_started", "stepName": "b-1", "attempt": 2}),
            ),
            (
                3,
                json!({"type": "attempt_started", "stepName": "b-2", "attempt": 2}),
            ),
            (
                3,
                json!({"type": "attempt_errored", "stepName": "b-2", "attempt": 2,
                "error": {"name": "Error", "message": "never"}}),
            ),
            (4, json!({"type": "step_completed", "stepName": "b-1"})),
            (4, json!({"type": "step_errored", "stepName": "b-2"})),
            (
                5,
                json!({"type": "sleep_started", "stepName": "dry-1", "durationMs": 5}),
            ),
            (6, json!({"type": "sleep_completed", "stepName": "dry-1"})),
            (7, json!({"type": "wait_completed", "stepName": "ok-1"})),
            (8, json!({"type": "wait_timed_out", "stepName": "pay-1"})),
            (9, json!({"type": "step_completed", "stepName": "hidden-1"})),
            (9, json!({"type": "workflow_completed"})),
        ]);
        assert_eq!(
            missing(&ours, &theirs),
            [
                "completed b-1 2",
                "attempt_failed b-2 2 \"never\"",
                "failed b-2 2 \"never\"",
                "completed dry-1.sleep",
                "completed ok-1.waitForEvent",
                "failed pay-1.waitForEvent \"the event did not come in time\"",
                "completed order-1.workflow",
            ]
        );
    }

    #[test]
    fn a_run_that_goes_on_is_not_ended() {
        let ours = ours(&[
            ("started", "order-1.workflow", none()),
            ("started", "a-1", none()),
        ]);
        let theirs = platform(&[
            (0, json!({"type": "workflow_started"})),
            (
                1,
                json!({"type": "attempt_started", "stepName": "a-1", "attempt": 1}),
            ),
        ]);
        assert_eq!(missing(&ours, &theirs), [""; 0]);
        assert_eq!(missing(&ours, &[]), [""; 0]);
    }

    #[test]
    fn how_a_run_ended() {
        let ours = ours(&[("started", "order-1.workflow", none())]);
        let ended = |event| missing(&ours, &platform(&[(1, event)]));
        assert_eq!(
            ended(json!({"type": "workflow_errored", "error": {"name": "Error", "message": "no"}})),
            ["failed order-1.workflow \"no\""]
        );
        assert_eq!(
            ended(json!({"type": "workflow_terminated"})),
            ["failed order-1.workflow \"the instance was terminated\""]
        );
    }

    #[test]
    fn sleeps_of_one_name_are_distinguished_by_their_order() {
        let ours = ours(&[
            ("started", "order-1.workflow", none()),
            ("started", "dry-1.sleep", none()),
            ("completed", "dry-1.sleep", none()),
            ("started", "dry-1.sleepUntil", none()),
            ("started", "dry-2.sleep", none()),
        ]);
        // The platform counts sleeps of one name and different lengths separately.
        let theirs = platform(&[
            (
                0,
                json!({"type": "sleep_started", "stepName": "dry-1", "durationMs": 1}),
            ),
            (1, json!({"type": "sleep_completed", "stepName": "dry-1"})),
            (
                2,
                json!({"type": "sleep_started", "stepName": "dry-1", "durationMs": 2}),
            ),
            (3, json!({"type": "sleep_completed", "stepName": "dry-1"})),
            (
                4,
                json!({"type": "sleep_started", "stepName": "dry-2", "durationMs": 1}),
            ),
        ]);
        assert_eq!(missing(&ours, &theirs), ["completed dry-1.sleepUntil"]);
    }

    #[test]
    fn a_group_is_not_taken_for_a_step() {
        let ours = ours(&[
            ("started", "order-1.workflow", none()),
            ("started", "pack-1.group", none()),
        ]);
        let theirs = platform(&[(1, json!({"type": "step_completed", "stepName": "pack-1"}))]);
        assert_eq!(missing(&ours, &theirs), [""; 0]);
    }

    #[test]
    fn a_log_that_begins_after_our_run_is_another_runs() {
        let mut told = vec![
            ("started", "order-1.workflow", none()),
            ("started", "a-1", none()),
        ];
        let begins_at = |second| platform(&[(second, json!({"type": "workflow_queued"}))]);
        let judged = |told: &[_], second| reconcile(&ours(told), "order", &begins_at(second), None);
        // The run's `started` may be dispatched before the instance exists.
        let same = Ok(Reconciled::Missing(Vec::new()));
        assert_eq!(judged(&told[..1], 5).map_err(drop), same);
        assert_eq!(judged(&told, 2).map_err(drop), same);
        assert_eq!(judged(&told, 3).map_err(drop), Ok(Reconciled::LaterRun));
        told.push(("completed", "order-1.workflow", none()));
        assert_eq!(judged(&told, 3).map_err(drop), same);
        assert_eq!(judged(&told, 4).map_err(drop), Ok(Reconciled::LaterRun));
    }

    #[test]
    fn a_run_that_has_ended_takes_nothing_more() {
        let ours = ours(&[
            ("started", "order-1.workflow", none()),
            ("started", "a-1", none()),
            ("failed", "order-1.workflow", json!({"error": "no"})),
        ]);
        let theirs = platform(&[
            (1, json!({"type": "step_completed", "stepName": "a-1"})),
            (2, json!({"type": "workflow_completed"})),
        ]);
        assert_eq!(missing(&ours, &theirs), [""; 0]);
    }
}
