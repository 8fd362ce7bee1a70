//! A run in a list.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::event::StoredEvent;
use crate::task::{TERMINATED, iso_option};
use crate::workflow::RunState;

/// A run as a list shows it: an entry of an index of runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RunEntry {
    /// The id of the instance.
    pub id: String,
    /// The workflow's name.
    pub workflow: String,
    /// The tags that it was created with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The number of the run, from 1: a restart begins the next.
    pub run: u32,
    /// The state. It is [`Waiting`](RunState::Waiting) while the run does nothing but wait for an event.
    pub state: RunState,
    /// The id of the event before its first one; 0, and absent in JSON, unless it was restarted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub from: u64,
    /// The id of the last event that is in this entry.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cursor: u64,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "iso_option")]
    pub started: Option<SystemTime>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "iso_option")]
    pub ended: Option<SystemTime>,
    /// The step that began last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The progress that was reported last, from 0 to 100, by a task that goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// The beginning of the error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The part of a log that an entry needs, folded from its events. Its size does not grow with the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunFold {
    /// The last event that was applied; 0 for none.
    pub cursor: u64,
    run: u32,
    from: u64,
    state: RunState,
    /// Milliseconds since 1970.
    began: u64,
    ended: Option<u64>,
    task: Option<String>,
    /// The task that reported its progress last, and the progress.
    percent: Option<(String, f64)>,
    error: Option<String>,
    /// The number of steps and sleeps under way.
    doing: u32,
    /// The number of waits for events under way.
    waiting: u32,
    /// When tasks began that go on, in milliseconds since 1970.
    open: BTreeMap<String, u64>,
    /// How long those took that completed, in milliseconds: the longest.
    took: BTreeMap<String, u64>,
}

/// The most characters of an error, and of a step's name, in an entry.
const MAX_TEXT: usize = 300;

/// Of how many tasks of a run the times are kept, and of how many that go on the beginnings.
const MOST_TIMES: usize = 32;
const MOST_OPEN: usize = 256;
/// Tasks with longer ids have no times.
const MAX_ID: usize = 200;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(default)]
    task_id: String,
    #[serde(default)]
    step: String,
    #[serde(default)]
    kind: String,
    timestamp: Option<String>,
    error: Option<String>,
    percent: Option<f64>,
    run: Option<u32>,
}

impl RunFold {
    /// Applies the next event. A program's own events, and unreadable ones, change only the position.
    pub fn apply(&mut self, event: &StoredEvent) {
        self.cursor = event.id.get();
        self.run = self.run.max(1);
        if self.began == 0 {
            self.began = clock::milliseconds(event.timestamp);
        }
        let known = ["started", "completed", "failed", "progress", "restarted"];
        if !known.contains(&event.event_type.as_str()) {
            return;
        }
        let Ok(data) = serde_json::from_str::<Data>(&event.data) else {
            return;
        };
        let time = data.timestamp.as_deref().and_then(milliseconds);
        let time = time.unwrap_or_else(|| clock::milliseconds(event.timestamp));
        let begins = match event.event_type.as_str() {
            "restarted" => {
                *self = Self {
                    cursor: self.cursor,
                    run: data.run.unwrap_or(self.run + 1),
                    from: self.cursor - 1,
                    began: time,
                    ..Self::default()
                };
                return;
            }
            "progress" => {
                if let Some(percent) = data.percent.filter(|percent| percent.is_finite()) {
                    self.percent = Some((data.task_id, percent));
                }
                return;
            }
            event_type => event_type == "started",
        };
        match (data.kind.as_str(), begins) {
            ("workflow", true) => {
                self.state = RunState::Running;
                self.began = time;
            }
            ("workflow", false) => {
                self.ended = Some(time);
                self.percent = None;
                self.state = match (&*event.event_type, data.error.as_deref()) {
                    ("completed", _) => RunState::Completed,
                    (_, Some(TERMINATED)) => RunState::Terminated,
                    _ => RunState::Failed,
                };
                self.error = data.error.map(|error| shortened(&error));
                self.open.clear();
            }
            // A group does nothing by itself.
            _ if data.task_id.ends_with(".group") => self.time(&event.event_type, &data, time),
            (kind, begins) => {
                // How long a sleep takes is known, and how long somebody thinks about an answer is nobody's guess.
                if kind == "do" {
                    self.time(&event.event_type, &data, time);
                }
                let count = match kind {
                    "waitForEvent" => &mut self.waiting,
                    _ => &mut self.doing,
                };
                *count = match begins {
                    true => count.saturating_add(1),
                    false => count.saturating_sub(1),
                };
                if begins {
                    self.task = Some(shortened(&data.step));
                }
            }
        }
        if !begins {
            self.percent.take_if(|(task, _)| *task == data.task_id);
        }
    }

    /// Notes when a task began, or how long it took.
    fn time(&mut self, event_type: &str, data: &Data, time: u64) {
        if event_type == "started" {
            if self.open.len() < MOST_OPEN && data.task_id.len() <= MAX_ID {
                self.open.insert(data.task_id.clone(), time);
            }
            return;
        }
        let Some(began) = self.open.remove(&data.task_id) else {
            return;
        };
        if event_type != "completed" {
            return;
        }
        self.took
            .insert(data.task_id.clone(), time.saturating_sub(began));
        if self.took.len() > MOST_TIMES {
            let shortest = self.took.iter().min_by_key(|(_, took)| **took);
            let shortest = shortest.map(|(task, _)| task.clone());
            shortest.map(|task| self.took.remove(&task));
        }
    }

    /// Returns how long tasks took that completed, in milliseconds, by their ids: of the 32 that took longest.
    #[must_use]
    pub fn took(&self) -> &BTreeMap<String, u64> {
        &self.took
    }

    /// Returns the state of the run.
    #[must_use]
    pub fn state(&self) -> RunState {
        match self.state {
            RunState::Running if self.waiting > 0 && self.doing == 0 => RunState::Waiting,
            state => state,
        }
    }

    /// Returns the number of the run.
    #[must_use]
    pub fn run(&self) -> u32 {
        self.run
    }

    /// Returns when the run began, in milliseconds since 1970.
    #[must_use]
    pub fn began(&self) -> u64 {
        self.began
    }

    /// Returns when it ended, in milliseconds since 1970.
    #[must_use]
    pub fn ended(&self) -> Option<u64> {
        self.ended
    }

    /// Returns the entry of the run of this id.
    #[must_use]
    pub fn entry(&self, id: &str, workflow: &str, tags: &[String]) -> RunEntry {
        let started = (self.began > 0).then(|| clock::from_milliseconds(self.began));
        RunEntry {
            id: id.to_owned(),
            workflow: workflow.to_owned(),
            tags: tags.to_vec(),
            run: self.run.max(1),
            from: self.from,
            cursor: self.cursor,
            state: self.state(),
            started,
            ended: self.ended.map(clock::from_milliseconds),
            task: self.task.clone(),
            percent: self.percent.as_ref().map(|(_, percent)| *percent),
            error: self.error.clone(),
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn milliseconds(timestamp: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(timestamp).ok()?;
    Some(clock::milliseconds(time))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    fn fold(events: &[(&str, &str)]) -> RunFold {
        let mut fold = RunFold::default();
        for (index, (event_type, data)) in events.iter().enumerate() {
            fold.apply(&StoredEvent {
                id: EventId::new(index as u64 + 1).unwrap(),
                event_type: (*event_type).to_owned(),
                data: (*data).to_owned(),
                timestamp: clock::from_milliseconds(1_000 + index as u64),
            });
        }
        fold
    }

    const STARTED: (&str, &str) = (
        "started",
        r#"{"taskId":"order-1.workflow","step":"order","kind":"workflow","timestamp":"1970-01-01T00:00:05Z"}"#,
    );
    const PACK: (&str, &str) = (
        "started",
        r#"{"taskId":"pack-1","step":"pack","kind":"do"}"#,
    );
    const PACKED: (&str, &str) = (
        "completed",
        r#"{"taskId":"pack-1","step":"pack","kind":"do"}"#,
    );
    const HALF: (&str, &str) = ("progress", r#"{"taskId":"pack-1","percent":50}"#);
    const WAIT: (&str, &str) = (
        "started",
        r#"{"taskId":"answer-1.waitForEvent","step":"answer","kind":"waitForEvent"}"#,
    );

    #[test]
    fn an_entry_agrees_with_the_log() {
        let entry = |events: &[(&str, &str)]| fold(events).entry("o-1", "order", &[]);
        assert_eq!(entry(&[]).state, RunState::Queued);
        let running = entry(&[STARTED, PACK, HALF]);
        assert_eq!(
            (running.state, running.task.as_deref(), running.percent),
            (RunState::Running, Some("pack"), Some(50.0))
        );
        assert_eq!(running.started, Some(clock::from_milliseconds(5_000)));
        let packed = entry(&[STARTED, PACK, HALF, PACKED]);
        assert_eq!(packed.percent, None);
        assert_eq!(entry(&[STARTED, PACK, WAIT]).state, RunState::Running);
        let waits = entry(&[
            STARTED,
            PACK,
            PACKED,
            ("own", "{}"),
            WAIT,
            ("progress", "no JSON"),
        ]);
        assert_eq!(waits.state, RunState::Waiting);
        for (error, state) in [
            (r#""no""#, RunState::Failed),
            (r#""the instance was terminated""#, RunState::Terminated),
        ] {
            let data = format!(
                r#"{{"kind":"workflow","error":{error},"timestamp":"1970-01-01T00:00:09Z"}}"#
            );
            let failed = entry(&[STARTED, WAIT, ("failed", &data)]);
            assert_eq!(failed.state, state);
            assert_eq!(failed.ended, Some(clock::from_milliseconds(9_000)));
            assert!(failed.error.is_some());
        }
        let restarted = (
            "restarted",
            r#"{"run":4,"timestamp":"1970-01-01T00:00:20Z"}"#,
        );
        let again = entry(&[STARTED, PACK, restarted, STARTED]);
        assert_eq!(
            (again.run, again.from, again.state, again.task),
            (4, 2, RunState::Running, None)
        );
    }

    #[test]
    fn the_longest_of_what_completed_have_a_time() {
        let event = |event_type: &str, task: &str, kind: &str, second: u64| {
            let time = humantime::format_rfc3339_millis(clock::from_milliseconds(second * 1_000));
            let data =
                format!(r#"{{"taskId":"{task}","step":"s","kind":"{kind}","timestamp":"{time}"}}"#);
            (event_type.to_owned(), data)
        };
        let mut events = vec![
            event("started", "s-1.group", "do", 1),
            event("started", "nap-1.sleep", "sleep", 1),
            event("completed", "nap-1.sleep", "sleep", 901),
            event("started", "lost-1", "do", 1),
            event("failed", "lost-1", "do", 902),
            event("completed", "unknown-1", "do", 902),
            event("started", &"x".repeat(201), "do", 1),
            event("completed", &"x".repeat(201), "do", 902),
        ];
        for number in 1..=40 {
            events.push(event("started", &format!("s-{number}"), "do", 100));
        }
        for number in 1..=40 {
            let end = event("completed", &format!("s-{number}"), "do", 100 + number);
            events.push(end);
        }
        events.push(event("completed", "s-1.group", "do", 200));
        let texts: Vec<_> = events
            .iter()
            .map(|(name, data)| (&**name, &**data))
            .collect();
        let took = fold(&texts).took().clone();
        assert_eq!(took.len(), 32);
        assert_eq!(took.get("s-1.group"), Some(&199_000));
        assert_eq!(took.get("s-40"), Some(&40_000));
        assert_eq!(took.values().min(), Some(&10_000));
    }

    #[test]
    fn an_entry_stays_small() {
        let long = "é".repeat(10_000);
        let data = format!(r#"{{"kind":"workflow","error":"{long}"}}"#);
        let fold = fold(&[STARTED, ("failed", &data)]);
        let entry = fold.entry("o-1", "order", &[]);
        assert!(serde_json::to_string(&entry).unwrap().len() < 1_000);
        let kept: RunFold = serde_json::from_str(&serde_json::to_string(&fold).unwrap()).unwrap();
        assert_eq!(kept, fold);
    }
}
