//! One view of a run from either log of it, by the translation table of `RunView`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::time::{Duration, SystemTime};

use cloudflare_workflows::WorkflowInstanceEvent;
use proptest::prelude::*;
use serde_json::{Value, json};
use ssetarget::task::Kind;
use ssetarget::workflow::{
    FailedAttempt, InstanceFeedItem, RunState, RunView, TaskState, TaskView,
};
use ssetarget::{EventId, Reset, StoredEvent};

#[test]
fn a_run_from_our_own_log() {
    let mut log = OurLog::default();
    log.add("started", "order-1.workflow", json!({ "kind": "workflow" }));
    log.add("started", "pay-1", json!({ "attempt": null }));
    log.add(
        "attempt_failed",
        "pay-1",
        json!({ "attempt": 1, "error": "no answer" }),
    );
    log.add(
        "progress",
        "pay-1",
        json!({ "percent": 40, "message": "asking" }),
    );
    let mut view = log.fold();
    assert_eq!(view.state, RunState::Running);
    let task = &view.tasks[0];
    assert_eq!((task.state, task.attempt), (TaskState::Running, Some(1)));
    assert_eq!(
        (task.percent, task.message.as_deref()),
        (Some(40.0), Some("asking"))
    );
    assert_eq!(task.failed_attempts.len(), 1);
    assert_eq!(task.failed_attempts[0].error, "no answer");

    log.add(
        "completed",
        "pay-1",
        json!({ "attempt": 2, "attributes": { "cents": 7 } }),
    );
    log.add("started", "fulfil-1.group", json!({}));
    log.add("started", "pack-1", json!({ "parentId": "fulfil-1.group" }));
    log.add(
        "failed",
        "pack-1",
        json!({ "attempt": 1, "error": "no box", "parentId": "fulfil-1.group" }),
    );
    log.add("failed", "fulfil-1.group", json!({ "error": "no box" }));
    log.add(
        "failed",
        "order-1.workflow",
        json!({ "kind": "workflow", "error": "no box" }),
    );
    for event in &log.0[4..] {
        view.apply(event).unwrap();
    }
    assert_eq!(
        (view.state, view.error.as_deref()),
        (RunState::Failed, Some("no box"))
    );
    assert!(view.state.has_ended());
    let parents: Vec<_> = view
        .tasks
        .iter()
        .map(|task| task.parent_id.as_ref().map(|id| id.as_str()))
        .collect();
    assert_eq!(parents, [None, None, Some("fulfil-1.group")]);
    assert_eq!(view.tasks[0].attributes.as_ref().unwrap()["cents"], 7);
    assert_eq!(view.cursor, EventId::new(10));
    assert_eq!(view, log.fold(), "in two parts or at once");

    // An event that was applied before changes nothing, and a restart begins a new view.
    for event in &log.0 {
        view.apply(event).unwrap();
    }
    assert_eq!(view, log.fold());
    log.add("restarted", "", json!({ "run": 2 }));
    log.add("started", "order-1.workflow", json!({ "kind": "workflow" }));
    let view = log.fold();
    assert_eq!((view.state, view.tasks.len()), (RunState::Running, 0));
    assert_eq!(view.cursor, EventId::new(12));
    // An unreadable event is an error and is not in the view.
    log.add("started", "", json!({ "kind": "dream" }));
    let mut same = view.clone();
    assert!(same.apply(log.0.last().unwrap()).is_err());
    assert_eq!(same, view);
}

/// When a sleep ends, what is waited for, and when an attempt is made again.
#[test]
fn waits_and_retries_of_our_own_log() {
    let mut log = OurLog::default();
    let until = json!({ "kind": "sleep", "until": humantime_millis(90) });
    log.add("started", "nap-1.sleep", until);
    let wait =
        json!({ "kind": "waitForEvent", "eventType": "paid", "until": humantime_millis(60) });
    log.add("started", "money-1.waitForEvent", wait);
    log.add("started", "pay-1", json!({}));
    let failed = json!({ "attempt": 1, "error": "no", "retryAt": humantime_millis(9) });
    log.add("attempt_failed", "pay-1", failed);
    let view = log.fold();
    let [nap, money, pay] = &view.tasks[..] else {
        panic!("{view:?}")
    };
    assert_eq!(
        (nap.until, nap.event_type.as_deref()),
        (Some(time(90)), None)
    );
    assert_eq!(money.until, Some(time(60)));
    assert_eq!(money.event_type.as_deref(), Some("paid"));
    assert_eq!(pay.retry_at, Some(time(9)));
    assert_eq!(pay.failed_attempts[0].ended, time(4));
    for (of, more) in [
        ("progress", json!({ "percent": 1 })),
        ("attempt_failed", json!({ "attempt": 2, "error": "no" })),
        ("completed", json!({ "attempt": 2 })),
    ] {
        let mut log = OurLog(log.0.clone());
        log.add(of, "pay-1", more);
        assert_eq!(log.fold().tasks[2].retry_at, None, "{of}");
    }
}

/// A fold takes the same time for each event, however many tasks there are.
#[test]
fn tasks_are_found_among_many() {
    let mut platform = PlatformLog::default();
    for sleep in 1..=2_000 {
        let duration = json!({ "stepName": "nap-1", "durationMs": sleep });
        platform.add("sleep_started", duration);
    }
    for _ in 0..1_999 {
        platform.add("sleep_completed", json!({ "stepName": "nap-1" }));
    }
    let view = platform.fold();
    let last = view.tasks.last().unwrap();
    assert_eq!(last.task_id.as_str(), "nap-2000.sleep");
    assert_eq!(last.state, TaskState::Completed);
    assert_eq!(view.tasks[0].state, TaskState::Running);
    for task in &view.tasks {
        assert_eq!(view.task(&task.task_id), Some(task));
    }
    // The same in a view that was read from JSON, and in one whose tasks were taken out.
    let json = serde_json::to_string(&view).unwrap();
    let mut read: RunView = serde_json::from_str(&json).unwrap();
    assert_eq!(read.task(&last.task_id), Some(last));
    let mut log = platform.0.clone();
    platform.add("sleep_completed", json!({ "stepName": "nap-1" }));
    log.push(platform.0.last().unwrap().clone());
    read.apply_instance(log.last().unwrap().event_id, log.last().unwrap());
    assert_eq!(read, platform.fold());
    read.tasks.truncate(1);
    assert_eq!(read.task(&last.task_id), None);
}

/// In a run that has ended, no task that the workflow gave up, or that was cut off, stays running.
#[test]
fn open_tasks_stop_with_the_run() {
    let mut log = OurLog::default();
    log.add("started", "order-1.workflow", json!({ "kind": "workflow" }));
    log.add("started", "pay-1", json!({}));
    log.add("started", "nap-1.sleep", json!({ "kind": "sleep" }));
    log.add("failed", "pay-1", json!({ "error": "no" }));
    assert_eq!(log.fold().tasks[1].state, TaskState::Running);
    let end = json!({ "kind": "workflow" });
    log.add("completed", "order-1.workflow", end);
    let view = log.fold();
    assert_eq!(view.tasks[0].state, TaskState::Failed);
    assert_eq!(view.tasks[1].state, TaskState::Stopped);
    assert_eq!(view.tasks[1].ended, view.ended);
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!(json["tasks"][1]["state"], "stopped");

    let mut log = PlatformLog::default();
    log.add("workflow_started", json!({}));
    let retries = json!({ "limit": 3, "delay": 1000, "backoff": "constant" });
    let config = json!({ "retries": retries, "timeout": 1000 });
    log.add(
        "step_started",
        json!({ "stepName": "pay-1", "config": config }),
    );
    log.add(
        "attempt_started",
        json!({ "stepName": "pay-1", "attempt": 1 }),
    );
    let error = json!({ "name": "Error", "message": "no answer" });
    log.add(
        "attempt_errored",
        json!({ "stepName": "pay-1", "attempt": 1, "retryDelayMs": 60_000, "error": error }),
    );
    assert!(log.fold().tasks[0].retry_at.is_some());
    log.add("workflow_terminated", json!({}));
    let view = log.fold();
    assert_eq!(view.tasks[0].state, TaskState::Stopped);
    assert_eq!(view.tasks[0].retry_at, None);
}

#[test]
fn a_run_from_the_platforms_log() {
    let mut log = PlatformLog::default();
    let mut states = Vec::new();
    let steps = [
        ("workflow_queued", RunState::Queued),
        ("workflow_started", RunState::Running),
        ("workflow_running", RunState::Running),
        ("workflow_waiting_for_pause", RunState::WaitingForPause),
        ("workflow_paused", RunState::Paused),
        ("workflow_running", RunState::Running),
        ("workflow_waiting", RunState::Waiting),
        ("rollback_started", RunState::RollingBack),
        ("rollback_completed", RunState::RollingBack),
        ("workflow_terminated", RunState::Terminated),
    ];
    for (event, state) in steps {
        log.add(event, json!({}));
        states.push((event, log.fold().state));
        assert_eq!(states.last(), Some(&(event, state)));
    }
    let view = log.fold();
    assert_eq!(view.started, Some(time(2)));
    assert_eq!(view.ended, Some(time(10)));
}

#[test]
fn attempts_sleeps_and_rollbacks_of_the_platform() {
    let mut log = PlatformLog::default();
    let no = json!({ "name": "Error", "message": "no" });
    log.add("step_started", json!({ "stepName": "pay-2" }));
    log.add(
        "attempt_started",
        json!({ "stepName": "pay-2", "attempt": 1 }),
    );
    log.add(
        "attempt_errored",
        json!({ "stepName": "pay-2", "attempt": 1, "retryDelayMs": 5000, "error": no }),
    );
    let view = log.fold();
    let task = &view.tasks[0];
    assert_eq!(
        (task.task_id.as_str(), task.step.as_str(), task.count),
        ("pay-2", "pay", 2)
    );
    assert_eq!(task.retry_at, Some(time(3) + Duration::from_secs(5)));
    log.add(
        "attempt_started",
        json!({ "stepName": "pay-2", "attempt": 2 }),
    );
    assert_eq!(log.fold().tasks[0].retry_at, None);
    assert_eq!(log.fold().tasks[0].attempt, Some(2));
    log.add(
        "attempt_errored",
        json!({ "stepName": "pay-2", "attempt": 2, "error": no }),
    );
    log.add("step_errored", json!({ "stepName": "pay-2" }));
    let task = &log.fold().tasks[0];
    assert_eq!(
        (task.state, task.error.as_deref()),
        (TaskState::Failed, Some("no"))
    );
    assert_eq!(task.failed_attempts.len(), 2);

    // Sleeps of one name and different lengths are all called `nap-1` there.
    for duration in [1000, 2000] {
        log.add(
            "sleep_started",
            json!({ "stepName": "nap-1", "durationMs": duration }),
        );
        let begun = time(log.0.len() as u64);
        log.add("sleep_completed", json!({ "stepName": "nap-1" }));
        let view = log.fold();
        let nap = view.tasks.last().unwrap();
        assert_eq!(nap.until, Some(begun + Duration::from_millis(duration)));
    }
    log.add(
        "wait_started",
        json!({ "stepName": "go-1", "eventType": "go" }),
    );
    log.add("wait_timed_out", json!({ "stepName": "go-1" }));
    let view = log.fold();
    let tasks: Vec<_> = view
        .tasks
        .iter()
        .map(|task| (task.task_id.as_str(), task.kind, task.state))
        .collect();
    assert_eq!(
        tasks,
        [
            ("pay-2", Kind::Do, TaskState::Failed),
            ("nap-1.sleep", Kind::Sleep, TaskState::Completed),
            ("nap-2.sleep", Kind::Sleep, TaskState::Completed),
            ("go-1.waitForEvent", Kind::WaitForEvent, TaskState::Failed),
        ]
    );

    log.add("rollback_started", json!({}));
    log.add("rollback_step_started", json!({ "stepName": "pay-2" }));
    log.add(
        "rollback_attempt_started",
        json!({ "stepName": "pay-2", "attempt": 1 }),
    );
    assert_eq!(
        log.fold().tasks[0].rollback.as_ref().unwrap().state,
        TaskState::Running
    );
    log.add(
        "rollback_attempt_errored",
        json!({ "stepName": "pay-2", "attempt": 1, "error": no }),
    );
    log.add(
        "rollback_step_errored",
        json!({ "stepName": "pay-2", "error": no }),
    );
    log.add("rollback_errored", json!({}));
    log.add("workflow_errored", json!({ "error": no }));
    let view = log.fold();
    let rollback = view.tasks[0].rollback.as_ref().unwrap();
    assert_eq!(
        (rollback.state, rollback.attempt),
        (TaskState::Failed, Some(1))
    );
    assert_eq!(
        (rollback.failed_attempts.len(), rollback.error.as_deref()),
        (1, Some("no"))
    );
    assert_eq!(
        (view.state, view.error.as_deref()),
        (RunState::Failed, Some("no"))
    );
}

#[test]
fn a_feed_that_is_reset_begins_again() {
    let mut log = PlatformLog::default();
    log.add("step_started", json!({ "stepName": "a-1" }));
    let mut view = log.fold();
    let reset = Reset {
        requested: EventId::new(9),
        oldest: None,
        head: None,
    };
    view.apply_feed(&InstanceFeedItem::Reset(reset));
    assert_eq!(view, RunView::new());
}

#[test]
fn a_page_reads_it_as_json() {
    let mut log = PlatformLog::default();
    log.add("workflow_running", json!({}));
    log.add("step_started", json!({ "stepName": "a-1" }));
    log.add(
        "attempt_started",
        json!({ "stepName": "a-1", "attempt": 1 }),
    );
    let view = log.fold();
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!(
        json,
        json!({
            "run": 1,
            "state": "running",
            "started": "2026-11-23T14:37:55.907Z",
            "cursor": 3,
            "tasks": [{
                "taskId": "a-1", "step": "a", "kind": "do", "count": 1, "parentId": null,
                "state": "running", "started": "2026-11-23T14:37:56.907Z", "attempt": 1,
            }],
        })
    );
    assert_eq!(serde_json::from_value::<RunView>(json).unwrap(), view);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Both logs of a run give the same view, at every point.
    #[test]
    fn both_logs_say_the_same(run in run(), ends in prop_oneof![Just(None), Just(Some(true)), Just(Some(false))]) {
        let (ours, platform) = tell(&run, ends);
        let (ours, platform) = (ours.fold(), platform.fold());
        prop_assert_eq!(comparable(&ours), comparable(&platform));
        prop_assert_eq!(ours.tasks.len(), run.len());
    }

    /// A fold is stopped anywhere, kept as JSON, and continued from a little before.
    #[test]
    fn folds_go_on_from_their_cursor(run in run(), at in 0_usize..60, back in 0_usize..5) {
        let (ours, platform) = tell(&run, Some(true));
        let kept = |view: &RunView| -> RunView {
            serde_json::from_str(&serde_json::to_string(view).unwrap()).unwrap()
        };
        let mut view = OurLog(ours.0.iter().take(at).cloned().collect()).fold();
        view = kept(&view);
        ours.0.iter().skip(at.saturating_sub(back)).for_each(|event| view.apply(event).unwrap());
        prop_assert_eq!(view, ours.fold());
        let mut view = PlatformLog(platform.0.iter().take(at).cloned().collect()).fold();
        view = kept(&view);
        platform.0.iter().skip(at.saturating_sub(back)).for_each(|event| view.apply_instance(event.event_id, event));
        prop_assert_eq!(view, platform.fold());
    }
}

/// The behaviour of a step.
#[derive(Clone, Copy, Debug)]
enum Doing {
    /// A step with this many failed attempts, which then succeeds or fails.
    Do {
        name: usize,
        failures: u32,
        succeeds: bool,
    },
    Sleep {
        name: usize,
    },
    Wait {
        name: usize,
        comes: bool,
    },
}

fn run() -> impl Strategy<Value = Vec<Doing>> {
    let doing = prop_oneof![
        (0..3_usize, 0..3_u32, any::<bool>()).prop_map(|(name, failures, succeeds)| Doing::Do {
            name,
            failures: failures.max(u32::from(!succeeds)),
            succeeds,
        }),
        (0..3_usize).prop_map(|name| Doing::Sleep { name }),
        (0..3_usize, any::<bool>()).prop_map(|(name, comes)| Doing::Wait { name, comes }),
    ];
    proptest::collection::vec(doing, 0..12)
}

/// Returns both logs of a run, which ends well, fails, or goes on.
fn tell(run: &[Doing], ends: Option<bool>) -> (OurLog, PlatformLog) {
    let (mut ours, mut platform) = (OurLog::default(), PlatformLog::default());
    let root = "order-1.workflow";
    let no = json!({ "name": "Error", "message": "no" });
    ours.add("started", root, json!({ "kind": "workflow" }));
    for event in ["workflow_queued", "workflow_started", "workflow_running"] {
        platform.add(event, json!({}));
    }
    let mut counts = [[0_u32; 3]; 3];
    let mut count = |kind: usize, name: usize| {
        counts[kind][name] += 1;
        counts[kind][name]
    };
    for doing in run {
        match *doing {
            Doing::Do {
                name,
                failures,
                succeeds,
            } => {
                let step = format!("{}-{}", ["a", "b-1", "c"][name], count(0, name));
                ours.add("started", &step, json!({}));
                platform.add("step_started", json!({ "stepName": step }));
                for attempt in 1..=failures + u32::from(succeeds) {
                    platform.add(
                        "attempt_started",
                        json!({ "stepName": step, "attempt": attempt }),
                    );
                    if attempt <= failures {
                        ours.add(
                            "attempt_failed",
                            &step,
                            json!({ "attempt": attempt, "error": "no" }),
                        );
                        platform.add(
                            "attempt_errored",
                            json!({ "stepName": step, "attempt": attempt, "error": no }),
                        );
                    } else {
                        platform.add(
                            "attempt_completed",
                            json!({ "stepName": step, "attempt": attempt }),
                        );
                    }
                }
                if succeeds {
                    ours.add("completed", &step, json!({ "attempt": failures + 1 }));
                    platform.add("step_completed", json!({ "stepName": step, "output": 1 }));
                } else {
                    ours.add(
                        "failed",
                        &step,
                        json!({ "attempt": failures, "error": "no" }),
                    );
                    platform.add("step_errored", json!({ "stepName": step }));
                }
            }
            Doing::Sleep { name } => {
                let step = format!("{}-{}", ["a", "b-1", "c"][name], count(1, name));
                let task = format!("{step}.sleep");
                ours.add("started", &task, json!({ "kind": "sleep" }));
                platform.add(
                    "sleep_started",
                    json!({ "stepName": step, "durationMs": 10 }),
                );
                ours.add("completed", &task, json!({ "kind": "sleep" }));
                platform.add("sleep_completed", json!({ "stepName": step }));
            }
            Doing::Wait { name, comes } => {
                let step = format!("{}-{}", ["a", "b-1", "c"][name], count(2, name));
                let task = format!("{step}.waitForEvent");
                ours.add(
                    "started",
                    &task,
                    json!({ "kind": "waitForEvent", "eventType": "go" }),
                );
                platform.add(
                    "wait_started",
                    json!({ "stepName": step, "eventType": "go" }),
                );
                let (own, theirs) = if comes {
                    ("completed", "wait_completed")
                } else {
                    ("failed", "wait_timed_out")
                };
                ours.add(own, &task, json!({ "kind": "waitForEvent" }));
                platform.add(theirs, json!({ "stepName": step }));
            }
        }
    }
    match ends {
        None => {}
        Some(true) => {
            ours.add("completed", root, json!({ "kind": "workflow" }));
            platform.add("workflow_completed", json!({ "output": 1 }));
        }
        Some(false) => {
            ours.add("failed", root, json!({ "kind": "workflow", "error": "no" }));
            platform.add("workflow_errored", json!({ "error": no }));
        }
    }
    (ours, platform)
}

type Comparable = (
    String,
    String,
    Kind,
    u32,
    TaskState,
    Option<String>,
    Option<u32>,
    Vec<(u32, String)>,
    Option<String>,
    bool,
);

/// Returns everything except times and the fields that only one of the logs has.
fn comparable(view: &RunView) -> (RunState, Option<String>, Vec<Comparable>) {
    let failed = |failed: &FailedAttempt| (failed.attempt, failed.error.clone());
    let task = |task: &TaskView| {
        (
            task.task_id.to_string(),
            task.step.clone(),
            task.kind,
            task.count,
            task.state,
            task.error.clone(),
            task.attempt,
            task.failed_attempts.iter().map(failed).collect(),
            task.event_type.clone(),
            task.retry_at.is_some(),
        )
    };
    (
        view.state,
        view.error.clone(),
        view.tasks.iter().map(task).collect(),
    )
}

fn time(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_444_674_907 + 1000 * second)
}

#[derive(Default)]
struct OurLog(Vec<StoredEvent>);

impl OurLog {
    fn add(&mut self, event_type: &str, task: &str, more: Value) {
        let id = self.0.len() as u64 + 1;
        let step = task.split('.').next().unwrap();
        let (name, count) = step.rsplit_once('-').unwrap_or((step, "1"));
        let mut data = json!({
            "taskId": task, "step": name, "kind": "do", "count": count.parse::<u32>().unwrap(),
            "timestamp": humantime_millis(id),
            "parentId": (more["kind"] != "workflow").then_some("order-1.workflow"),
        });
        let fields = more.as_object().unwrap().clone();
        data.as_object_mut()
            .unwrap()
            .extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
        self.0.push(StoredEvent {
            id: EventId::new(id).unwrap(),
            event_type: event_type.into(),
            data: data.to_string(),
            timestamp: time(id),
        });
    }

    fn fold(&self) -> RunView {
        let mut view = RunView::new();
        for event in &self.0 {
            view.apply(event).unwrap();
        }
        view
    }
}

/// Returns the time as a string.
fn humantime_millis(second: u64) -> String {
    let seconds = 54 + second;
    format!(
        "2026-11-23T14:{:02}:{:02}.907Z",
        37 + seconds / 60,
        seconds % 60
    )
}

#[derive(Default)]
struct PlatformLog(Vec<WorkflowInstanceEvent>);

impl PlatformLog {
    fn add(&mut self, event_type: &str, mut event: Value) {
        let id = self.0.len() as u64 + 1;
        let since = time(id).duration_since(SystemTime::UNIX_EPOCH).unwrap();
        event["instanceId"] = "a".into();
        event["eventId"] = id.into();
        event["timestamp"] = u64::try_from(since.as_millis()).unwrap().into();
        event["type"] = event_type.into();
        self.0.push(serde_json::from_value(event).unwrap());
    }

    fn fold(&self) -> RunView {
        let mut view = RunView::new();
        for event in &self.0 {
            view.apply_instance(event.event_id, event);
        }
        view
    }
}
