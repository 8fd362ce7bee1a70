//! A run as it stands, kept up to date.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use super::error::ClientError;
use super::events::{Events, ReceivedEvent, Update};
use crate::event::EventId;
use crate::task::TERMINATED;
use crate::workflow::{RunSnapshot, RunState, RunView};
use futures_core::Stream;
use serde::Deserialize;

/// The way in which a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It completed.
    Completed,
    /// It failed.
    Failed,
    /// It was terminated from outside.
    Terminated,
}

impl Outcome {
    /// Returns how the run of a view has ended, or `None` if it has not.
    ///
    /// The log of this crate stores a termination as a failure with a fixed error. A run whose own code
    /// fails with the same error counts as terminated.
    #[must_use]
    pub fn of(view: &RunView) -> Option<Self> {
        match view.state {
            RunState::Completed => Some(Self::Completed),
            RunState::Failed if view.error.as_deref() == Some(TERMINATED) => Some(Self::Terminated),
            RunState::Failed => Some(Self::Failed),
            RunState::Terminated => Some(Self::Terminated),
            _ => None,
        }
    }
}

/// A run that is watched, from [`RunClient::watch`](super::RunClient::watch): its events, and its
/// state after each of them.
pub struct RunWatch {
    events: Events,
    view: RunView,
    ends: Ends,
    began_with: Option<RunSnapshot>,
}

impl RunWatch {
    pub(super) fn new(events: Events, snapshot: Option<RunSnapshot>) -> Self {
        let view = snapshot.clone().map(RunSnapshot::into_view);
        Self {
            events,
            view: view.unwrap_or_default(),
            ends: Ends::default(),
            began_with: snapshot,
        }
    }

    /// Waits for what comes next, and applies it to the [`view`](Self::view). Returns `None` at the
    /// end. May be cancelled at any time: nothing is lost.
    ///
    /// # Errors
    /// As the stream of [`Events`]. Nothing follows an error.
    pub async fn next(&mut self) -> Option<Result<Update, ClientError>> {
        poll_fn(|context| {
            let update = match Pin::new(&mut self.events).poll_next(context) {
                Poll::Ready(update) => update,
                Poll::Pending => return Poll::Pending,
            };
            if let Some(Ok(update)) = &update {
                apply(&mut self.view, update);
                self.ends.apply(&mut self.view, update);
            }
            Poll::Ready(update)
        })
        .await
    }

    /// Returns the run as it stands after the last update.
    #[must_use]
    pub fn view(&self) -> &RunView {
        &self.view
    }

    /// Returns the snapshot that the view began with, or `None` if the server has none.
    #[must_use]
    pub fn snapshot(&self) -> Option<&RunSnapshot> {
        self.began_with.as_ref()
    }

    /// Returns the stream of events.
    pub fn events_mut(&mut self) -> &mut Events {
        &mut self.events
    }

    /// Returns how the run has ended, or `None` if it has not, or if the events do not say. Of a merged stream it is
    /// how the worst of its runs has ended that have: failed, terminated, completed.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        Outcome::of(&self.view)
    }
}

/// How the runs of a merged stream have ended, by their ids.
#[derive(Default)]
struct Ends(BTreeMap<String, (RunState, Option<String>)>);

impl Ends {
    /// Gives a view the end of the worst run, when another one has ended: each end replaces the one before.
    fn apply(&mut self, view: &mut RunView, update: &Update) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Of {
            run_id: String,
        }
        let (Update::Event(event) | Update::Restarted(event)) = update else {
            return;
        };
        let is_restart = event.event_type == "restarted";
        if !event.is_merged() || !(is_restart || event.is_terminal()) {
            return;
        }
        let Ok(Of { run_id }) = event.json() else {
            return;
        };
        if is_restart {
            self.0.remove(&run_id);
            return;
        }
        let mut own = RunView::new();
        apply_event(&mut own, event);
        self.0.insert(run_id, (own.state, own.error));
        let badness = |(state, error): &&(RunState, Option<String>)| {
            let is_terminated = error.as_deref() == Some(TERMINATED);
            match state {
                RunState::Failed if !is_terminated => 2,
                RunState::Completed => 0,
                _ => 1,
            }
        };
        if let Some((state, error)) = self.0.values().max_by_key(badness) {
            (view.state, view.error) = (*state, error.clone());
        }
    }
}

/// Applies an update of either log to a view.
pub(super) fn apply(view: &mut RunView, update: &Update) {
    match update {
        Update::Reset(_) => *view = RunView::new(),
        Update::Event(event) | Update::Restarted(event) => apply_event(view, event),
        Update::Expired(_) | Update::Connected | Update::Disconnected { .. } => {}
    }
}

fn apply_event(view: &mut RunView, event: &ReceivedEvent) {
    let number = event.id.as_deref().and_then(|id| id.parse().ok());
    // An id that is not a number cannot be compared with others, so the event counts as new.
    let next = || view.cursor.map_or(1, |cursor| cursor.get() + 1);
    let Some(id) = EventId::new(number.unwrap_or_else(next)) else {
        return;
    };
    if let Some(platform) = event.platform() {
        view.apply_instance(id, &platform);
    } else {
        // An event that is not about the run changes nothing, even if its type is one of a task's.
        let _ = view.apply(&event.stored(id));
    }
}

/// Reads the JSON of a snapshot. Returns `None` for any other JSON.
pub(super) fn read_snapshot(json: &[u8]) -> Option<RunSnapshot> {
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::TaskState;

    const SNAPSHOT: &str = r#"{"id":"o-1","workflow":"order","run":2,"state":"running",
        "started":"2026-11-24T09:00:00.000Z","ended":null,"cursor":5,"taskCount":3,"tasks":[
        {"taskId":"part-1.group","step":"part","kind":"do","count":1,"parentId":null,"state":"running",
         "started":"2026-11-24T09:00:00.000Z","later":{"a":1},"tasks":[
          {"taskId":"a-1","step":"a","kind":"do","count":1,"parentId":"part-1.group","state":"completed",
           "started":"2026-11-24T09:00:00.000Z","ended":"2026-11-24T09:00:01.000Z","attempt":2,
           "failedAttempts":[{"attempt":1,"error":"no","ended":"2026-11-24T09:00:00.500Z"}]}]},
        {"taskId":"b-1","step":"b","kind":"do","count":1,"parentId":null,"state":"running",
         "started":"2026-11-24T09:00:01.000Z","percent":40}]}"#;

    fn event(id: &str, event_type: &str, data: &str) -> Update {
        Update::Event(ReceivedEvent {
            id: Some(id.to_owned()),
            event_type: event_type.to_owned(),
            data: data.to_owned(),
        })
    }

    #[test]
    fn a_snapshot_is_a_view_and_events_go_on_from_it() {
        let snapshot = read_snapshot(SNAPSHOT.as_bytes()).unwrap();
        assert_eq!(
            (snapshot.workflow.as_deref(), snapshot.run),
            (Some("order"), 2)
        );
        let mut view = snapshot.into_view();
        let ids: Vec<_> = view
            .tasks
            .iter()
            .map(|task| task.task_id.as_str())
            .collect();
        assert_eq!(ids, ["part-1.group", "a-1", "b-1"]);
        assert_eq!(view.cursor, EventId::new(5));
        assert_eq!(view.tasks[1].failed_attempts[0].error, "no");
        let completed = r#"{"taskId":"b-1","step":"b","kind":"do","count":1,"timestamp":"2026-11-24T09:00:02.000Z","parentId":null}"#;
        apply(&mut view, &event("5", "completed", completed));
        assert_eq!(
            view.tasks[2].state,
            TaskState::Running,
            "it is in the snapshot"
        );
        apply(&mut view, &event("6", "completed", completed));
        assert_eq!(view.tasks[2].state, TaskState::Completed);
    }

    #[test]
    fn other_json_is_no_snapshot() {
        for json in [
            "",
            "{}",
            "[]",
            r#"{"tasks":{}}"#,
            r#"{"tasks":[1],"state":"running"}"#,
            r#"{"tasks":[]}"#,
            r#"{"tasks":[],"state":"other"}"#,
        ] {
            assert_eq!(read_snapshot(json.as_bytes()), None, "{json}");
        }
        let deep = format!(
            "{}{}",
            r#"{"state":"running","tasks":[{"tasks":"#.repeat(100_000),
            "[]"
        );
        assert_eq!(read_snapshot(deep.as_bytes()), None);
    }

    #[test]
    fn both_logs_tell_how_a_run_ended() {
        let end = |event_type: &str, data: &str| {
            let mut view = RunView::new();
            apply(&mut view, &event("1", event_type, data));
            Outcome::of(&view)
        };
        let ours = |error: &str| {
            format!(
                r#"{{"taskId":"o-1.workflow","step":"o","kind":"workflow","count":1,"timestamp":"2026-11-24T09:00:02.000Z","parentId":null{error}}}"#
            )
        };
        let theirs = |event_type: &str| {
            format!(
                r#"{{"instanceId":"a","eventId":1,"timestamp":1795444674907,"type":"{event_type}","error":{{"name":"Error","message":"no"}}}}"#
            )
        };
        for (event_type, data, outcome) in [
            ("completed", ours(""), Some(Outcome::Completed)),
            ("failed", ours(r#","error":"no""#), Some(Outcome::Failed)),
            (
                "failed",
                ours(r#","error":"the instance was terminated""#),
                Some(Outcome::Terminated),
            ),
            ("started", ours(""), None),
            (
                "workflow_completed",
                theirs("workflow_completed"),
                Some(Outcome::Completed),
            ),
            (
                "workflow_errored",
                theirs("workflow_errored"),
                Some(Outcome::Failed),
            ),
            (
                "workflow_terminated",
                theirs("workflow_terminated"),
                Some(Outcome::Terminated),
            ),
            ("note", "hello".to_owned(), None),
            ("completed", "hello".to_owned(), None),
        ] {
            assert_eq!(end(event_type, &data), outcome, "{event_type} {data}");
        }
    }

    #[test]
    fn ids_that_are_no_numbers_are_new_each_time() {
        let mut view = RunView::new();
        let started = r#"{"taskId":"b-1","step":"b","kind":"do","count":1,"timestamp":"2026-11-24T09:00:02.000Z","parentId":null}"#;
        apply(&mut view, &event("a:1,b:2", "started", started));
        apply(&mut view, &event("a:1,b:3", "completed", started));
        assert_eq!(view.tasks[0].state, TaskState::Completed);
    }
}
