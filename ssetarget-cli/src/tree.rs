//! A run as a few lines: the running tasks, and the tasks that have ended since the last drawing.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use ssetarget::client::Outcome;
use ssetarget::task::Kind;
use ssetarget::workflow::{Estimate, Remains, RunEstimate, RunState, RunView, TaskState, TaskView};

use crate::plain::waits_for;
use crate::text::{Abilities, Line, Look, countdown, duration};

/// The most lines of the tree, however high the terminal is.
const MOST_LINES: usize = 12;
/// The most finished steps that are listed at once; more are summed up.
const MOST_FINISHED: usize = 200;
/// The number of the last of them that are still listed.
const LAST_FINISHED: usize = 20;
/// The most characters of the run's name: two of the five parts of a UUID.
const MOST_OF_NAME: usize = 20;
/// The columns of a bar.
const BAR: u32 = 10;

/// Returns the most lines of the tree on a terminal with this many rows.
pub(crate) fn room(rows: usize) -> usize {
    rows.saturating_sub(2).clamp(1, MOST_LINES)
}

/// The state of a drawing.
#[derive(Clone, Copy)]
pub(crate) struct Moment<'a> {
    pub(crate) name: &'a str,
    pub(crate) now: SystemTime,
    /// Counts up with time, for moving marks.
    pub(crate) tick: usize,
    pub(crate) abilities: Abilities,
    /// The trouble with the connection.
    pub(crate) trouble: Option<&'a str>,
    /// Events that are not about tasks.
    pub(crate) others: usize,
    pub(crate) has_ended: bool,
    /// How long the run and its tasks are expected to take.
    pub(crate) estimate: Option<&'a RunEstimate>,
}

impl Moment<'_> {
    fn mark(&self, state: TaskState, kind: Kind) -> (Look, &'static str) {
        let unicode = self.abilities.unicode;
        match (state, kind) {
            (TaskState::Completed, _) => (Look::Green, if unicode { "✔" } else { "ok" }),
            (TaskState::Failed, _) => (Look::Red, if unicode { "✖" } else { "FAILED" }),
            (TaskState::Running, Kind::Sleep | Kind::SleepUntil) => {
                (Look::Dim, if unicode { "◷" } else { "z" })
            }
            (TaskState::Running, Kind::WaitForEvent) => (Look::Yellow, "?"),
            (TaskState::Running, _) => (Look::Cyan, self.spinner()),
            _ => (Look::Yellow, if unicode { "■" } else { "stopped" }),
        }
    }

    fn spinner(&self) -> &'static str {
        const UNICODE: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
        const ASCII: [&str; 4] = ["|", "/", "-", "\\"];
        match self.abilities.unicode {
            true => UNICODE[self.tick % UNICODE.len()],
            false => ASCII[self.tick % ASCII.len()],
        }
    }

    fn since(&self, start: SystemTime, end: Option<SystemTime>) -> Duration {
        let end = end.unwrap_or(self.now);
        end.duration_since(start).unwrap_or_default()
    }

    /// Says what remains of something that goes on.
    fn remains(&self, estimate: Option<&Estimate>, started: SystemTime, line: &mut Line) {
        let Some(estimate) = estimate else { return };
        let remains = estimate.remains(self.since(started, None));
        let left = match remains {
            Remains::LongerThanUsual => "",
            _ => "left: ",
        };
        line.push(Look::Dim, &format!(" · {left}{remains}"));
    }

    fn until(&self, end: SystemTime) -> Duration {
        end.duration_since(self.now).unwrap_or_default()
    }
}

/// Returns the tree: the run, and as many of the tasks under way as fit.
pub(crate) fn tree(view: &RunView, moment: Moment<'_>, room: usize) -> Vec<Line> {
    let mut lines = vec![root(view, moment)];
    let running: Vec<&TaskView> = view
        .tasks
        .iter()
        .filter(|task| task.state == TaskState::Running || is_undone(task))
        .collect();
    let ids: HashSet<&str> = running.iter().map(|task| task.task_id.as_str()).collect();
    let mut children: HashMap<Option<&str>, Vec<&TaskView>> = HashMap::new();
    for task in &running {
        // A task whose group is missing is shown under the run itself.
        let parent = task.parent_id.as_ref().map(|id| id.as_str());
        let parent = parent.filter(|id| ids.contains(id) && *id != task.task_id.as_str());
        children.entry(parent).or_default().push(task);
    }
    let trouble = moment.trouble.map(|trouble| {
        let mark = if moment.abilities.unicode {
            "⚠ "
        } else {
            "! "
        };
        Line::new()
            .with(Look::Yellow, mark)
            .with(Look::Yellow, trouble)
    });
    let room = room.saturating_sub(usize::from(trouble.is_some())).max(1);
    // A stack, since tasks may be nested to any depth.
    let mut stack: Vec<(&TaskView, String, bool)> = Vec::new();
    let push = |stack: &mut Vec<_>, parent: Option<&str>, indent: &str| {
        let tasks = children.get(&parent).map_or(&[][..], |tasks| tasks);
        for (index, task) in tasks.iter().enumerate().rev() {
            stack.push((*task, indent.to_owned(), index + 1 == tasks.len()));
        }
    };
    push(&mut stack, None, "");
    let mut shown = 0;
    let fits = room.saturating_sub(1);
    let needed = running
        .len()
        .min(fits.saturating_sub(usize::from(running.len() > fits)));
    while shown < needed
        && let Some((task, indent, is_last)) = stack.pop()
    {
        shown += 1;
        let (branch, below) = match is_last {
            true => ("└─ ", "   "),
            false => ("├─ ", "│  "),
        };
        let mut line = Line::new();
        line.push_exactly(Look::Dim, &indent);
        line.push_exactly(Look::Dim, branch);
        describe(task, moment, &mut line);
        lines.push(line);
        // Deeper than this, no terminal has columns for it.
        let indent = match indent.len() < 60 {
            true => format!("{indent}{below}"),
            false => indent,
        };
        push(&mut stack, Some(task.task_id.as_str()), &indent);
    }
    if shown < running.len() && fits > 0 {
        let more = format!("… and {} more under way", running.len() - shown);
        let mut line = Line::new();
        line.push_exactly(Look::Dim, "└─ ");
        lines.push(line.with(Look::Dim, &more));
    }
    lines.extend(trouble);
    lines
}

fn is_undone(task: &TaskView) -> bool {
    task.rollback
        .as_ref()
        .is_some_and(|rollback| rollback.state == TaskState::Running)
}

/// Returns the line of the run itself.
pub(crate) fn root(view: &RunView, moment: Moment<'_>) -> Line {
    let mut line = Line::new();
    let outcome = Outcome::of(view);
    let (look, mark) = match outcome {
        Some(Outcome::Completed) => moment.mark(TaskState::Completed, Kind::Workflow),
        Some(Outcome::Failed) => moment.mark(TaskState::Failed, Kind::Workflow),
        Some(_) => moment.mark(TaskState::Stopped, Kind::Workflow),
        None if moment.has_ended => moment.mark(TaskState::Completed, Kind::Workflow),
        None => moment.mark(TaskState::Running, Kind::Workflow),
    };
    line.push(look, mark);
    line.push(Look::Plain, " ");
    line.push(Look::Bold, &short(moment.name, moment.abilities));
    line.push(Look::Plain, " ");
    let word = state(view, outcome, moment);
    line.push(look, word);
    if let Some(started) = view.started {
        let time = duration(moment.since(started, view.ended));
        line.push(Look::Dim, &format!(" · {time}"));
    }
    if let Some(started) = view.started.filter(|_| word == "running") {
        let estimate = moment.estimate.and_then(|estimate| estimate.run.as_ref());
        moment.remains(estimate, started, &mut line);
    }
    let count = |state| view.tasks.iter().filter(|task| task.state == state).count();
    let (done, failed) = (count(TaskState::Completed), count(TaskState::Failed));
    if done > 0 {
        line.push(Look::Dim, &format!(" · {done} done"));
    }
    if failed > 0 {
        line.push(Look::Red, &format!(" · {failed} failed"));
    }
    if moment.others > 0 {
        line.push(Look::Dim, &format!(" · {} events", moment.others));
    }
    if let (Some(Outcome::Failed), Some(error)) = (outcome, &view.error) {
        line.push(Look::Red, ": ");
        line.push(Look::Red, error);
    }
    line
}

/// Returns a name that leaves room for the state on a narrow terminal. The URL, which is printed first, has the whole
/// name.
fn short(name: &str, abilities: Abilities) -> Cow<'_, str> {
    match name.char_indices().nth(MOST_OF_NAME) {
        Some((end, _)) => {
            let more = if abilities.unicode { "…" } else { "..." };
            format!("{}{more}", &name[..end]).into()
        }
        None => name.into(),
    }
}

fn state(view: &RunView, outcome: Option<Outcome>, moment: Moment<'_>) -> &'static str {
    let running = || {
        view.tasks
            .iter()
            .filter(|task| task.state == TaskState::Running)
    };
    // Groups run as long as their tasks.
    let parents: HashSet<_> = running()
        .filter_map(|task| task.parent_id.as_ref())
        .collect();
    let mut leaves = running()
        .filter(|task| !parents.contains(&task.task_id))
        .peekable();
    match view.state {
        _ if outcome == Some(Outcome::Terminated) => "terminated",
        RunState::Completed => "completed",
        RunState::Failed => "failed",
        RunState::WaitingForPause => "is about to pause",
        RunState::Paused => "paused",
        RunState::RollingBack => "rolls back",
        _ if moment.has_ended => "ended",
        RunState::Running | RunState::Waiting if leaves.peek().is_some() => {
            let kinds: Vec<Kind> = leaves.map(|task| task.kind).collect();
            let all = |of: &[Kind]| kinds.iter().all(|kind| of.contains(kind));
            match () {
                () if all(&[Kind::Sleep, Kind::SleepUntil]) => "sleeps",
                () if all(&[Kind::Sleep, Kind::SleepUntil, Kind::WaitForEvent]) => "waits",
                () => "running",
            }
        }
        RunState::Waiting => "waits",
        RunState::Running => "running",
        _ if moment.others > 0 => "live",
        _ => "queued",
    }
}

fn name(task: &TaskView, line: &mut Line) {
    line.push(Look::Plain, &task.step);
    if task.count > 1 {
        line.push(Look::Dim, &format!(" #{}", task.count));
    }
}

fn describe(task: &TaskView, moment: Moment<'_>, line: &mut Line) {
    if is_undone(task) {
        line.push(Look::Yellow, moment.spinner());
        line.push(Look::Plain, " ");
        name(task, line);
        line.push(Look::Yellow, " is undone");
        return;
    }
    let (look, mark) = moment.mark(task.state, task.kind);
    line.push(look, mark);
    line.push(Look::Plain, " ");
    name(task, line);
    let elapsed = || duration(moment.since(task.started, task.ended));
    match task.kind {
        Kind::Sleep | Kind::SleepUntil => match task.until {
            Some(until) => line.push(
                Look::Dim,
                &format!(" sleeps, {} left", countdown(moment.until(until))),
            ),
            None => line.push(Look::Dim, &format!(" sleeps, {}", elapsed())),
        },
        Kind::WaitForEvent => {
            let wait = match &task.event_type {
                Some(event_type) => waits_for(event_type),
                None => "waits for an event: --send TYPE".to_owned(),
            };
            line.push(Look::Yellow, " ");
            line.push(Look::Yellow, &wait);
            match task.until {
                Some(until) => line.push(
                    Look::Dim,
                    &format!(" · {} left", countdown(moment.until(until))),
                ),
                None => line.push(Look::Dim, &format!(" · {}", elapsed())),
            }
        }
        _ => {
            if let Some(percent) = task.percent {
                line.push(Look::Plain, " ");
                bar(percent, moment.abilities.unicode, line);
            }
            if let Some(retry) = task.retry_at.filter(|retry| *retry > moment.now) {
                let attempt = task.failed_attempts.len() + 1;
                line.push(
                    Look::Yellow,
                    &format!(" attempt {attempt} in {}", countdown(moment.until(retry))),
                );
            } else if !task.failed_attempts.is_empty() {
                line.push(
                    Look::Yellow,
                    &format!(" attempt {}", task.failed_attempts.len() + 1),
                );
            }
            if let Some(message) = &task.message {
                line.push(Look::Plain, " ");
                line.push(Look::Plain, message);
            }
            line.push(Look::Dim, &format!(" · {}", elapsed()));
            let tasks = moment.estimate.map(|estimate| &estimate.tasks);
            let estimate = tasks.and_then(|tasks| tasks.get(task.task_id.as_str()));
            moment.remains(estimate, task.started, line);
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and 100"
)]
fn bar(percent: f64, unicode: bool, line: &mut Line) {
    let percent = percent.clamp(0.0, 100.0);
    let full = (percent * f64::from(BAR) / 100.0) as usize;
    let (on, off) = if unicode { ("━", "─") } else { ("#", ".") };
    line.push(Look::Cyan, &on.repeat(full));
    line.push(Look::Dim, &off.repeat(BAR as usize - full));
    line.push(Look::Plain, &format!(" {percent:.0} %"));
}

/// Remembers which of a run's tasks and failed attempts were printed.
#[derive(Default)]
pub(crate) struct Finished {
    tasks: Vec<Printed>,
}

#[derive(Clone, Copy, Default)]
struct Printed {
    attempts: usize,
    end: bool,
}

impl Finished {
    /// Forgets everything: another run begins.
    pub(crate) fn clear(&mut self) {
        self.tasks.clear();
    }

    /// Returns the lines of tasks that have ended since the last call, in the order in which they ended.
    pub(crate) fn lines(&mut self, view: &RunView, moment: Moment<'_>) -> Vec<Line> {
        self.tasks.resize(view.tasks.len(), Printed::default());
        let mut ended: Vec<(SystemTime, bool, Line)> = Vec::new();
        let mut skipped = 0;
        let now_ended =
            |printed: &Printed, task: &TaskView| !printed.end && task.state != TaskState::Running;
        let pairs = self.tasks.iter().zip(&view.tasks);
        let many = pairs
            .filter(|(printed, task)| now_ended(printed, task))
            .count();
        let mut left = many;
        for (printed, task) in self.tasks.iter_mut().zip(&view.tasks) {
            let is_many = many > MOST_FINISHED;
            // If many end at once, attempts are not listed.
            if !is_many {
                for attempt in task.failed_attempts.iter().skip(printed.attempts) {
                    ended.push((
                        attempt.ended,
                        false,
                        failed_attempt(task, attempt.attempt, &attempt.error, moment),
                    ));
                }
            }
            printed.attempts = task.failed_attempts.len();
            if !now_ended(printed, task) {
                continue;
            }
            printed.end = true;
            left -= 1;
            if is_many && left >= LAST_FINISHED && task.state != TaskState::Failed {
                skipped += 1;
                continue;
            }
            ended.push((task.ended.unwrap_or(moment.now), true, end_of(task, moment)));
        }
        ended.sort_by_key(|(time, is_end, _)| (*time, *is_end));
        let mut lines = Vec::new();
        if skipped > 0 {
            lines.push(Line::new().with(Look::Dim, &format!("… {skipped} more have ended")));
        }
        lines.extend(ended.into_iter().map(|(_, _, line)| line));
        lines
    }
}

fn failed_attempt(task: &TaskView, attempt: u32, error: &str, moment: Moment<'_>) -> Line {
    let mark = if moment.abilities.unicode {
        "↻ "
    } else {
        "! "
    };
    let mut line = Line::new().with(Look::Yellow, mark);
    name(task, &mut line);
    line.push(Look::Yellow, &format!(" attempt {attempt} failed: "));
    line.push(Look::Plain, error);
    line
}

fn end_of(task: &TaskView, moment: Moment<'_>) -> Line {
    let (look, mark) = moment.mark(task.state, task.kind);
    let mut line = Line::new().with(look, mark).with(Look::Plain, " ");
    name(task, &mut line);
    line.push(
        Look::Dim,
        &format!(" · {}", duration(moment.since(task.started, task.ended))),
    );
    if !task.failed_attempts.is_empty() && task.state == TaskState::Completed {
        line.push(
            Look::Yellow,
            &format!(" · {} attempts", task.failed_attempts.len() + 1),
        );
    }
    match (&task.error, task.state) {
        (Some(error), _) => {
            line.push(Look::Red, ": ");
            line.push(Look::Red, error);
        }
        (None, TaskState::Stopped) => line.push(Look::Yellow, " · did not end"),
        _ => {}
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PLAIN: Abilities = Abilities {
        color: false,
        unicode: true,
    };

    fn moment(seconds: u64) -> Moment<'static> {
        Moment {
            name: "o-1",
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_510_800 + seconds),
            tick: 0,
            abilities: PLAIN,
            trouble: None,
            others: 0,
            has_ended: false,
            estimate: None,
        }
    }

    fn task(id: &str, kind: &str, parent: Option<&str>, more: &Value) -> Value {
        let mut task = json!({"taskId": id, "step": id, "kind": kind, "count": 1, "parentId": parent, "state": "running", "started": "2026-11-24T09:00:00.000Z"});
        for (name, value) in more.as_object().unwrap() {
            task[name] = value.clone();
        }
        task
    }

    fn view(tasks: Vec<Value>) -> RunView {
        serde_json::from_value(
            json!({"state": "running", "started": "2026-11-24T09:00:00.000Z", "tasks": tasks}),
        )
        .unwrap()
    }

    fn text(lines: &[Line], width: usize) -> Vec<String> {
        lines
            .iter()
            .map(|line| line.render(width, PLAIN).0)
            .collect()
    }

    #[test]
    fn the_tree_shows_what_runs() {
        let run = view(vec![
            task(
                "first",
                "do",
                None,
                &json!({"state": "completed", "ended": "2026-11-24T09:00:01.000Z"}),
            ),
            task("part", "do", None, &json!({})),
            task(
                "pack",
                "do",
                Some("part"),
                &json!({"percent": 42.4, "message": "4 of\n10"}),
            ),
            task(
                "flaky",
                "do",
                Some("part"),
                &json!({"failedAttempts": [{"attempt": 1, "error": "no", "ended": "2026-11-24T09:00:10.000Z"}], "retryAt": "2026-11-24T09:00:20.000Z"}),
            ),
            task(
                "nap",
                "sleep",
                None,
                &json!({"until": "2026-11-24T10:00:00.000Z"}),
            ),
            task(
                "yes",
                "waitForEvent",
                None,
                &json!({"eventType": "ap\u{1b}proval", "until": "2026-11-25T09:00:00.000Z"}),
            ),
            task("lost", "do", Some("gone"), &json!({})),
        ]);
        assert_eq!(
            text(&tree(&run, moment(12), 12), 200),
            [
                "⠋ o-1 running · 12 s · 1 done",
                "├─ ⠋ part · 12 s",
                "│  ├─ ⠋ pack ━━━━────── 42 % 4 of 10 · 12 s",
                "│  └─ ⠋ flaky attempt 2 in 8 s · 12 s",
                "├─ ◷ nap sleeps, 59 min 48 s left",
                "├─ ? yes waits for \"ap\u{fffd}proval\" · 23 h 59 min left",
                "└─ ⠋ lost · 12 s",
            ]
        );
        for room in 1..8 {
            let lines = tree(&run, moment(12), room);
            assert!(lines.len() <= room, "{room}: {lines:?}");
            let mut troubled = moment(12);
            troubled.trouble = Some("the connection is lost");
            assert!(tree(&run, troubled, room).len() <= room.max(2));
        }
        assert_eq!(
            text(&tree(&run, moment(12), 4), 200).last().unwrap(),
            "└─ … and 4 more under way"
        );
    }

    #[test]
    fn a_run_says_what_it_does() {
        let only = |kind: &str| {
            text(
                &tree(&view(vec![task("a", kind, None, &json!({}))]), moment(1), 9),
                200,
            )
        };
        assert_eq!(only("sleep")[0], "⠋ o-1 sleeps · 1.0 s");
        assert_eq!(
            only("waitForEvent"),
            [
                "⠋ o-1 waits · 1.0 s",
                "└─ ? a waits for an event: --send TYPE · 1.0 s"
            ]
        );
        let mut ended = view(vec![]);
        ended.state = RunState::Failed;
        ended.error = Some("no\x1b[2J".to_owned());
        assert_eq!(
            text(&tree(&ended, moment(1), 9), 200),
            ["✖ o-1 failed · 1.0 s: no\u{fffd}[2J"]
        );
        ended.error = Some("the instance was terminated".to_owned());
        assert_eq!(
            text(&tree(&ended, moment(1), 9), 200),
            ["■ o-1 terminated · 1.0 s"]
        );
    }

    #[test]
    fn what_remains_is_said_of_what_runs() {
        let estimate = json!({
            "run": { "runs": 9, "medianMs": 120_000, "lowMs": 60_000, "highMs": 240_000 },
            "tasks": { "a": { "runs": 9, "medianMs": 5_000, "lowMs": 4_000, "highMs": 6_000 } },
        });
        let estimate: RunEstimate = serde_json::from_value(estimate).unwrap();
        let at = |seconds, tasks| {
            let moment = Moment {
                estimate: Some(&estimate),
                ..moment(seconds)
            };
            let mut run = view(tasks);
            run.started = run.tasks.first().map(|task| task.started);
            text(&tree(&run, moment, 9), 200)
        };
        let both = || {
            let more = json!({});
            vec![task("a", "do", None, &more), task("b", "do", None, &more)]
        };
        assert_eq!(
            at(2, both()),
            [
                "⠋ o-1 running · 2.0 s · left: about 2 min, usually 1 to 4 min",
                "├─ ⠋ a · 2.0 s · left: about 3 s, usually 2 to 4 s",
                "└─ ⠋ b · 2.0 s"
            ]
        );
        let later = at(300, both());
        assert_eq!(later[0], "⠋ o-1 running · 5 min · longer than usual");
        // Nothing is said of a run that waits.
        let waits = at(2, vec![task("w", "waitForEvent", None, &json!({}))]);
        assert_eq!(waits[0], "⠋ o-1 waits · 2.0 s");
    }

    #[test]
    fn ended_tasks_are_printed_once() {
        let ended = |id: &str, time: &str, more: &Value| {
            let mut task = task(id, "do", None, more);
            task["ended"] = json!(time);
            task
        };
        let mut finished = Finished::default();
        let run = view(vec![
            ended(
                "b",
                "2026-11-24T09:00:03.000Z",
                &json!({"state": "failed", "error": "no\nway"}),
            ),
            ended(
                "a",
                "2026-11-24T09:00:02.000Z",
                &json!({"state": "completed", "failedAttempts": [{"attempt": 1, "error": "not yet", "ended": "2026-11-24T09:00:01.000Z"}]}),
            ),
            task("c", "do", None, &json!({})),
        ]);
        assert_eq!(
            text(&finished.lines(&run, moment(9)), 200),
            [
                "↻ a attempt 1 failed: not yet",
                "✔ a · 2.0 s · 2 attempts",
                "✖ b · 3.0 s: no way"
            ]
        );
        assert_eq!(finished.lines(&run, moment(9)), []);
        let many: Vec<Value> = (0..10_000)
            .map(|n| {
                ended(
                    &format!("t{n}"),
                    "2026-11-24T09:00:03.000Z",
                    &json!({"state": "completed"}),
                )
            })
            .collect();
        finished.clear();
        let lines = text(&finished.lines(&view(many), moment(9)), 200);
        assert_eq!(lines.len(), 1 + LAST_FINISHED);
        assert_eq!(lines[0], "… 9980 more have ended");
    }

    #[test]
    fn narrow_terminals_cut_lines_and_small_ones_cut_the_tree() {
        let long = "注".repeat(300);
        let run = view(
            (0..50)
                .map(|n| {
                    task(
                        &format!("{long}{n}"),
                        "do",
                        None,
                        &json!({"percent": n, "message": long}),
                    )
                })
                .collect(),
        );
        for (columns, rows) in [(1, 1), (10, 3), (40, 10), (80, 24), (200, 60)] {
            let lines = tree(&run, moment(1), room(rows));
            assert!(lines.len() <= room(rows) && lines.len() <= MOST_LINES);
            for line in lines {
                assert!(line.render(columns, PLAIN).1 <= columns);
            }
        }
        assert_eq!([room(0), room(5), room(24), room(60)], [1, 3, 12, 12]);
    }

    #[test]
    fn tasks_that_are_their_own_parents_end() {
        let run = view(vec![
            task("a", "do", Some("b"), &json!({})),
            task("b", "do", Some("a"), &json!({})),
            task("c", "do", Some("c"), &json!({})),
        ]);
        assert!(tree(&run, moment(1), 12).len() <= 4);
    }
}
