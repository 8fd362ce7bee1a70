//! A run's log beside the platform's own log of the same run.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Event;

/// An entry of the platform's log, as its API returns it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlatformEntry {
    /// `attempt_completed`, `step_started`, `sleep_completed`…
    #[serde(rename = "type")]
    pub entry_type: String,
    /// The step with its count: `pay-1`.
    #[serde(default, rename = "stepName")]
    pub step_name: Option<String>,
    /// The attempt, from 1.
    #[serde(default)]
    pub attempt: Option<u64>,
    /// The error.
    #[serde(default)]
    pub error: Option<PlatformError>,
}

/// The error of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlatformError {
    /// Its message.
    #[serde(default)]
    pub message: String,
}

/// The platform's error for an attempt that it killed, or whose outcome it did not store before it was killed itself.
const KILLED: &str = "Attempt failed due to internal workflows error";

/// Returns the difference between the latest run of the log and the platform's entries of it: each step begins and
/// ends once, in the same order, with the same attempts and outcomes.
pub(crate) fn difference(events: &[Event], entries: &[PlatformEntry]) -> Option<String> {
    let latest = events
        .rsplit(|event| event.event_type == "restarted")
        .next()
        .unwrap_or_default();
    let ours: Vec<String> = latest.iter().flat_map(of_event).collect();
    let ours: Vec<String> = ours
        .into_iter()
        .filter(|line| !is_forgotten(line, entries))
        .collect();
    // The log knows that an attempt failed as soon as its code fails, the platform only if it lives to store that.
    let is_told = |entry: &PlatformEntry, line: &String| !is_killed(entry) || ours.contains(line);
    let theirs = entries.iter().filter_map(|entry| {
        let line = of_entry(entry)?;
        is_told(entry, &line).then_some(line)
    });
    let theirs: Vec<String> = theirs.collect();
    let same = ours
        .iter()
        .zip(&theirs)
        .take_while(|(a, b)| is_same(a, b))
        .count();
    if same == ours.len() && same == theirs.len() {
        return None;
    }
    let at = |lines: &[String]| lines.get(same).map_or("nothing", String::as_str).to_owned();
    Some(format!(
        "behind {same} entries that agree the log says {}, the platform {}",
        at(&ours),
        at(&theirs)
    ))
}

/// Compares two lines. A lifetime that found a step's result in the engine's cache does not know its attempt.
fn is_same(ours: &str, theirs: &str) -> bool {
    let unknown = ours.strip_prefix("attempt null completed ");
    match unknown {
        Some(name) => {
            let mut words = theirs.splitn(4, ' ');
            words.next() == Some("attempt")
                && words.next().is_some()
                && words.next() == Some("completed")
                && words.next() == Some(name)
        }
        None => ours == theirs,
    }
}

fn of_event(event: &Event) -> Vec<String> {
    let Ok(task) = serde_json::from_str::<Value>(&event.data) else {
        return Vec::new();
    };
    let text = |name: &str| task[name].as_str().unwrap_or_default();
    let of = event.event_type.as_str();
    let is_step = task["taskId"].is_string() && text("kind") != "workflow";
    if !is_step || text("taskId").ends_with(".group") || of == "progress" {
        return Vec::new();
    }
    let name = format!("{}-{}", text("step"), task["count"]);
    let attempt = &task["attempt"];
    let wait = match text("kind") {
        "sleep" | "sleepUntil" => Some("sleep"),
        "waitForEvent" => Some("wait"),
        _ => None,
    };
    match (wait, of) {
        (Some(wait), _) => vec![format!("{wait} {of} {name}")],
        (None, "attempt_failed") => vec![format!("attempt {attempt} errored {name}")],
        // The platform has two entries for this.
        (None, "completed") => vec![
            format!("attempt {attempt} completed {name}"),
            format!("step {of} {name}"),
        ],
        (None, _) => vec![format!("step {of} {name}")],
    }
}

/// Returns whether the platform ended an attempt, or does not know how it ended, because it was killed itself.
fn is_killed(entry: &PlatformEntry) -> bool {
    let error = entry.error.as_ref();
    error.is_some_and(|error| error.message == KILLED)
}

/// Returns whether this line is of a failed attempt whose outcome the platform does not have in any form, though it made the
/// next one: it was killed before it stored it.
fn is_forgotten(line: &str, entries: &[PlatformEntry]) -> bool {
    let mut words = line.splitn(4, ' ');
    let (Some("attempt"), Some(number), Some("errored"), Some(name)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    let number = number.parse().ok();
    let mut attempts = entries.iter().filter(|entry| {
        entry.entry_type.starts_with("attempt_") && entry.step_name.as_deref() == Some(name)
    });
    let has_outcome = attempts
        .clone()
        .any(|entry| entry.attempt == number && entry.entry_type != "attempt_started");
    !has_outcome && attempts.any(|entry| entry.attempt > number)
}

fn of_entry(entry: &PlatformEntry) -> Option<String> {
    let mut parts = entry.entry_type.splitn(3, '_');
    let (what, how) = (parts.next()?, parts.next().unwrap_or_default());
    if what == "workflow" || entry.entry_type == "attempt_started" {
        return None;
    }
    let name = entry.step_name.as_deref().unwrap_or_default();
    if what == "attempt" {
        let attempt = entry.attempt.unwrap_or_default();
        return Some(format!("attempt {attempt} {how} {name}"));
    }
    let how = match how {
        "errored" | "timed" => "failed",
        how => how,
    };
    Some(format!("{what} {how} {name}"))
}
