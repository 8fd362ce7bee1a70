//! What reconciliation needs of a run, read from our log: its tasks and their ends. [`RunView`](super::RunView) has all
//! that viewers are shown, and several times the code.

use std::time::SystemTime;

use crate::event::StoredEvent;
use crate::task::{Kind, Numbers, StepEvent, StepEventType, Task, TaskId};

/// The latest run of a log.
#[derive(Debug, Default)]
pub(crate) struct KnownRun {
    /// When the workflow said that it began.
    pub(super) started: Option<SystemTime>,
    /// When the run ended.
    pub(super) ended: Option<SystemTime>,
    /// In the order in which they began.
    pub(super) tasks: Vec<KnownTask>,
    /// The place of each of them, from 1, by its id.
    places: Numbers,
}

/// A task whose `started` the log has.
#[derive(Debug)]
pub(super) struct KnownTask {
    pub(super) task: Task,
    /// The task that it is part of, if that is not the run itself.
    pub(super) parent: Option<TaskId>,
    pub(super) started: SystemTime,
    /// When it ended, by itself or with the run.
    pub(super) ended: Option<SystemTime>,
    /// The attempts that failed.
    pub(super) failed_attempts: Vec<u32>,
}

impl KnownRun {
    /// Takes the next event of the log. One that is about no step, or not of the form that such an event has, changes
    /// nothing.
    pub(crate) fn apply(&mut self, event: &StoredEvent) {
        if event.event_type == "restarted" {
            *self = Self::default();
        } else if event.event_type != StepEventType::Progress.as_str()
            && let Ok(event) = StepEvent::decode_without_attributes(event)
        {
            match event.kind {
                Kind::Workflow => self.apply_to_run(&event),
                _ => self.apply_to_task(event),
            }
        }
    }

    fn apply_to_run(&mut self, event: &StepEvent) {
        match event.of() {
            StepEventType::Started => _ = self.started.get_or_insert(event.timestamp),
            StepEventType::Completed | StepEventType::Failed => {
                self.ended = Some(event.timestamp);
                for task in &mut self.tasks {
                    task.ended.get_or_insert(event.timestamp);
                }
            }
            StepEventType::AttemptFailed | StepEventType::Progress => {}
        }
    }

    fn apply_to_task(&mut self, event: StepEvent) {
        let of = event.of();
        let place = self.places.of(event.task_id.as_str().to_owned());
        if let Some(task) = self.tasks.get_mut((*place as usize).wrapping_sub(1)) {
            match of {
                StepEventType::AttemptFailed => task.failed_attempts.extend(event.attempt),
                StepEventType::Completed | StepEventType::Failed => {
                    task.ended = Some(event.timestamp);
                }
                StepEventType::Started | StepEventType::Progress => {}
            }
        } else if of == StepEventType::Started {
            self.tasks.push(KnownTask {
                task: Task {
                    id: event.task_id,
                    step: event.step,
                    kind: event.kind,
                    count: event.count,
                },
                parent: event.parent_id.filter(|id| !id.is_workflow()),
                started: event.timestamp,
                ended: None,
                failed_attempts: Vec::new(),
            });
            *place = u32::try_from(self.tasks.len()).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    #[test]
    fn a_restart_forgets_the_run_before_and_an_end_ends_every_task() {
        let mut run = KnownRun::default();
        let mut ids = 1..;
        let mut apply = |run: &mut KnownRun, of: &str, task: &str, second: u32| {
            let (name, kind) = task.rsplit_once('.').unwrap_or((task, "do"));
            let step = name.strip_suffix("-1").unwrap_or(name);
            let time = format!("2026-11-24T09:00:{second:02}.000Z");
            run.apply(&StoredEvent {
                id: EventId::new(ids.next().unwrap()).unwrap(),
                event_type: of.to_owned(),
                data: format!(
                    r#"{{"taskId":"{task}","step":"{step}","kind":"{kind}","count":1,"timestamp":"{time}","parentId":null,"attempt":1}}"#
                ),
                timestamp: SystemTime::UNIX_EPOCH,
            });
        };
        apply(&mut run, "started", "order-1.workflow", 1);
        apply(&mut run, "started", "old-1", 2);
        apply(&mut run, "failed", "order-1.workflow", 3);
        assert_eq!(run.tasks[0].ended, run.ended);
        apply(&mut run, "restarted", "", 4);
        assert_eq!(run.tasks.len(), 0);
        assert_eq!((run.started, run.ended), (None, None));

        apply(&mut run, "started", "order-1.workflow", 5);
        apply(&mut run, "started", "new-1", 6);
        apply(&mut run, "started", "new-1", 7);
        apply(&mut run, "progress", "new-1", 8);
        apply(&mut run, "attempt_failed", "new-1", 9);
        // Hidden from the log when it began.
        apply(&mut run, "completed", "hidden-1", 10);
        let [task] = &run.tasks[..] else {
            panic!("one task, not {:?}", run.tasks);
        };
        assert_eq!(task.task.step, "new");
        assert_eq!(task.failed_attempts, [1]);
        assert_eq!(task.ended, None);
        assert_eq!(
            task.started,
            run.started.unwrap() + std::time::Duration::from_secs(1)
        );
    }
}
