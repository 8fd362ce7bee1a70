//! A run whose log is incomplete when the platform says that the run is over: the missing events are added from the
//! platform's own log.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::{NonRetryableError, Step, StepContext, StepError, WaitForEvent};
use futures_util::join;
use serde_json::{Value, json};
use ssetarget::NewEvent;
use ssetarget::internals::{
    EngineEvent, EngineEvents, InstanceEnd, LogCommand, WorkflowLog, ended_run_options,
    read_ended_run,
};
use ssetarget::store::{EventStore, PageLimit};
use ssetarget::task::Redact;
use ssetarget::workflow::{DispatchConfig, Opened, Told, workflow_started};
use support::engine::{Engine, FakeRuntime, Trouble, World, WrappedStep, lifetime, now, wrapped};
use support::sql::Database;

type Log = WorkflowLog<Database>;

/// All begins in the first second; then come the ends, at 40, 45 and 60 seconds.
async fn order(step: WrappedStep) -> Result<(), StepError> {
    step.run("price", async |_| Ok(7)).await?;
    let pack = step.run("pack", async |attempt: StepContext| {
        tokio::time::sleep(Duration::from_secs(40)).await;
        attempt.set_attribute("boxes", 2);
        Ok(())
    });
    let bill = step.run("bill", async |_| {
        tokio::time::sleep(Duration::from_secs(45)).await;
        Err::<(), _>(NonRetryableError::new("no such account").into())
    });
    let dry = step.sleep("dry", Duration::from_secs(60));
    let paid = step.wait_for_event::<()>("paid", WaitForEvent::new("paid"));
    let (pack, bill, dry, paid) = join!(pack, bill, dry, paid);
    assert!(bill.is_err());
    pack.and(dry).and(paid.map(drop))
}

/// The platform's log of an `order` that began at this time, to its end.
fn platform_log(began: SystemTime) -> Vec<EngineEvent> {
    let error = json!({"name": "Error", "message": "no such account"});
    let step = |of: &str, name: &str| json!({"type": of, "stepName": name});
    let attempt = |of: &str, name: &str| json!({"type": of, "stepName": name, "attempt": 1});
    let mut failed = attempt("attempt_errored", "bill-1");
    failed["error"] = error;
    let mut sleeps = step("sleep_started", "dry-1");
    sleeps["durationMs"] = json!(60_000);
    events(
        began,
        [
            (0, json!({"type": "workflow_queued"})),
            (0, json!({"type": "workflow_started"})),
            (0, json!({"type": "workflow_running"})),
            (0, attempt("attempt_started", "price-1")),
            (0, step("step_completed", "price-1")),
            (0, attempt("attempt_started", "pack-1")),
            (0, attempt("attempt_started", "bill-1")),
            (0, sleeps),
            (40, step("step_completed", "pack-1")),
            (45, failed),
            (45, step("step_errored", "bill-1")),
            (60, step("sleep_completed", "dry-1")),
            (60, step("wait_completed", "paid-1")),
            (60, json!({"type": "workflow_completed"})),
        ],
    )
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_last_facts_were_lost_gets_the_log_of_an_undisturbed_one() {
    // From then on the log cannot be reached, and the last lifetime does not learn how the run goes on.
    for (unreachable_from, lost) in [(30, 6), (42, 5), (50, 3), (90, 0)] {
        let whole = order_with_log_until(90).await;
        let began = now();
        let world = order_with_log_until(unreachable_from).await;
        let missing = facts(&whole.log).len() - facts(&world.log).len();
        assert_eq!(missing, lost, "{unreachable_from}");
        let stood = stood(&world.log);
        let platform = platform_log(began);
        let completed = InstanceEnd::Completed;
        let settle = || {
            let log = &world.log;
            log.settle(stood, "order", &completed, &platform, now())
                .unwrap()
        };
        assert_eq!(settle(), lost > 0);
        assert_eq!(facts(&world.log), facts(&whole.log), "{unreachable_from}");
        assert!(world.log.state().unwrap().ended);
        assert!(!settle(), "twice");
    }
}

#[tokio::test]
async fn a_run_is_ended_as_the_platforms_log_says() {
    for (ended, wanted) in [
        (json!({"type": "workflow_completed"}), Value::Null),
        (errored("no stock"), json!("no stock")),
        (errored(""), json!("the workflow failed")),
        (
            json!({"type": "workflow_terminated"}),
            json!("the instance was terminated"),
        ),
    ] {
        let log = begun_run(&[]).await;
        let platform = events(
            SystemTime::UNIX_EPOCH,
            [(0, json!({"type": "workflow_queued"})), (1, ended)],
        );
        // The status is read a moment later, and hides some reasons.
        let end = InstanceEnd::Failed(None);
        assert!(log.settle(None, "order", &end, &platform, now()).unwrap());
        assert_eq!(facts(&log).last().unwrap()["error"], wanted);
    }
}

#[tokio::test]
async fn an_unreported_restart_is_added_with_its_end() {
    for first_had_ended in [false, true] {
        let log = begun_run(&["a-1"]).await;
        if first_had_ended {
            let ended = InstanceEnd::Terminated;
            assert!(log.settle(None, "order", &ended, &[], now()).unwrap());
        }
        let first = story(&log);
        let old = log.state().unwrap().generation;
        // It began an hour after our last fact, and has a step of the same name.
        let step = json!({"type": "step_completed", "stepName": "a-1"});
        let platform = events(
            now() + Duration::from_secs(3_600),
            [
                (0, json!({"type": "workflow_queued"})),
                (2, step),
                (3, errored("no")),
            ],
        );
        let end = InstanceEnd::Failed(Some("no".to_owned()));
        let stood = stood(&log);
        let settle = || log.settle(stood, "order", &end, &platform, now()).unwrap();
        assert!(settle());
        let second = [
            "restarted",
            "started order-1.workflow",
            "failed order-1.workflow",
        ];
        assert_eq!(story(&log)[first.len()..], second);
        let state = log.state().unwrap();
        assert_eq!((state.run, state.ended), (2, true));
        assert!(!settle(), "twice");
        // Facts of the first run that are still on their way.
        let late = log
            .append(old, 1, vec![fact("b-1", "started")], now())
            .await;
        assert_eq!(late.unwrap(), Told::Stale);
        assert_eq!(story(&log).len(), first.len() + 3);
    }
}

#[tokio::test]
async fn a_run_that_goes_on_is_neither_ended_nor_changed() {
    let went_on = [
        (0, json!({"type": "workflow_queued"})),
        (1, json!({"type": "workflow_running"})),
        (2, json!({"type": "step_completed", "stepName": "a-1"})),
    ];
    let later = now() + Duration::from_secs(3_600);
    // The log of this run, and of the run that a restart has begun since the status was read.
    for began in [SystemTime::UNIX_EPOCH, later] {
        let log = begun_run(&["a-1"]).await;
        let before = story(&log);
        let platform = events(began, went_on.clone());
        let end = InstanceEnd::Completed;
        let changed = log.settle(stood(&log), "order", &end, &platform, now());
        assert!(!changed.unwrap());
        assert_eq!(story(&log), before);
        assert_eq!(log.state().unwrap().run, 1);
    }
}

/// The platform still answers as before the restart that the log already has.
#[tokio::test]
async fn the_end_of_a_run_is_not_that_of_the_next() {
    let log = begun_run(&["a-1"]).await;
    let begun = log.begin_restart(now()).unwrap();
    let later = now() + Duration::from_secs(3_600);
    let started = workflow_started("order", later).unwrap();
    let began = (begun.run, begun.generation);
    assert!(log.confirm_restart(began, &started, later).unwrap());
    let before = story(&log);
    let (end, platform) = (InstanceEnd::Completed, platform_log(now()));
    let changed = log.settle(stood(&log), "order", &end, &platform, later);
    assert!(!changed.unwrap());
    assert_eq!(story(&log), before);
}

#[tokio::test]
async fn an_answer_of_the_platform_from_before_a_lifetime_changes_nothing() {
    let between: [fn(&Log); 3] = [
        |log| drop(log.open(None, now()).unwrap()),
        |log| {
            let begun = log.begin_restart(now()).unwrap();
            let stood = (begun.run, begun.generation);
            let started = workflow_started("order", now()).unwrap();
            assert!(log.confirm_restart(stood, &started, now()).unwrap());
        },
        |log| {
            let end = InstanceEnd::Terminated;
            assert!(log.settle(None, "order", &end, &[], now()).unwrap());
        },
    ];
    let later = now() + Duration::from_secs(3_600);
    for (number, between) in between.into_iter().enumerate() {
        for began in [SystemTime::UNIX_EPOCH, later] {
            // A run that ended by itself may still have been restarted since.
            if number == 2 && began == later {
                continue;
            }
            let log = begun_run(&["pack-1"]).await;
            let stood = stood(&log);
            between(&log);
            let before = story(&log);
            let (end, platform) = (InstanceEnd::Completed, platform_log(began));
            let changed = log.settle(stood, "order", &end, &platform, now());
            assert!(!changed.unwrap(), "{number}");
            assert_eq!(story(&log), before, "{number}");
        }
    }
}

/// A log of several pages, with reports and attributes, and of several runs.
#[tokio::test]
async fn a_long_log_is_compared_whole() {
    let log = begun_run(&[]).await;
    let generation = log.state().unwrap().generation;
    let append = async |run, batch| {
        let told = log.append(generation, run, batch, now()).await;
        assert!(matches!(told.unwrap(), Told::Stored(1..)));
    };
    append(1, vec![fact("first-1", "started")]).await;
    append(2, vec![fact("order-1.workflow", "started")]).await;
    for count in 1..=1_000 {
        let task = format!("page-{count}");
        let mut batch = vec![fact(&task, "started"), fact(&task, "completed")];
        batch.truncate(if count % 500 == 0 { 1 } else { 2 });
        append(2, batch).await;
    }
    let ends = [500, 501, 1_000].map(|count| {
        (
            5,
            json!({"type": "step_completed", "stepName": format!("page-{count}")}),
        )
    });
    let mut platform = vec![(0, json!({"type": "workflow_queued"}))];
    platform.push((4, json!({"type": "step_completed", "stepName": "first-1"})));
    platform.extend(ends);
    platform.push((6, json!({"type": "workflow_completed"})));
    let platform = events(SystemTime::UNIX_EPOCH, platform);
    let before = story(&log).len();
    let end = InstanceEnd::Completed;
    assert!(log.settle(None, "order", &end, &platform, now()).unwrap());
    let supplied = [
        "completed page-500",
        "completed page-1000",
        "completed order-1.workflow",
    ];
    assert_eq!(story(&log)[before..], supplied);
}

#[test]
fn the_platforms_log_crosses_as_json() {
    let platform = platform_log(now());
    let command = LogCommand::Settle {
        stood: Some((1, 2)),
        workflow: "order".to_owned(),
        end: InstanceEnd::Completed,
        platform,
    };
    let json = serde_json::to_string(&command).unwrap();
    assert_eq!(serde_json::from_str::<LogCommand>(&json).unwrap(), command);
}

#[tokio::test(start_paused = true)]
async fn the_platforms_log_is_read_whole_or_not_at_all() {
    let runtime = FakeRuntime(World::new());
    let read = async |platform: &Platform| read_ended_run(platform.subscribe(), &runtime).await;
    let whole = platform_log(now());
    let platform = Platform::new(&whole);
    assert_eq!(read(&platform).await, whole);
    assert_eq!(platform.open.get(), 0);
    let options = ended_run_options();
    let filter: Vec<_> = options.filter.unwrap();
    assert!(options.cursor.is_none());
    let outputs = ["attempt_completed", "step_started", "attempt_started"]
        .map(|name| filter.iter().any(|of| of.as_str() == name));
    assert_eq!(outputs, [false, false, true]);

    // The engine ended, the log fails, sends nothing more, or the instance is gone.
    let unfinished = &whole[..5];
    for how in [How::Done, How::Hangs, How::Gone] {
        let began = tokio::time::Instant::now();
        let platform = Platform {
            how,
            ..Platform::new(unfinished)
        };
        assert_eq!(read(&platform).await, []);
        assert_eq!(platform.open.get(), 0);
        assert!(began.elapsed() <= Duration::from_secs(5));
    }

    // As many events as fit, one more, and far too many.
    let step = |message: &str| {
        let error = json!({"name": "Error", "message": message});
        let event = json!({"type": "attempt_errored", "stepName": "a-1", "attempt": 1});
        let mut event = event;
        event["error"] = error;
        (0, event)
    };
    for (count, message, fits) in [(1_999, 0, true), (2_000, 0, false), (100, 6_000, false)] {
        let mut many = vec![step(&"x".repeat(message)); count];
        many.push((1, json!({"type": "workflow_completed"})));
        let many = events(now(), many);
        let read = read(&Platform::new(&many)).await;
        assert_eq!(read.len(), if fits { many.len() } else { 0 }, "{count}");
    }

    // Params and outputs have no place in an event, whoever appends it; the same holds for unknown types.
    for json in [
        r#"["workflow_completed",1795510800000,"",0,"",{"secret":1}]"#,
        r#"["workflow_evaporated",1795510800000,"",0,""]"#,
    ] {
        assert!(serde_json::from_str::<EngineEvent>(json).is_err(), "{json}");
    }
}

// The platform.

#[derive(Clone, Copy)]
enum How {
    /// It ends, or fails, after its events.
    Done,
    Hangs,
    Gone,
}

struct Platform {
    events: Vec<EngineEvent>,
    how: How,
    open: Rc<Cell<i32>>,
}

impl Platform {
    fn new(events: &[EngineEvent]) -> Self {
        Self {
            events: events.to_vec(),
            how: How::Hangs,
            open: Rc::default(),
        }
    }
}

struct Subscribed(std::vec::IntoIter<EngineEvent>, How, Rc<Cell<i32>>);

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.2.set(self.2.get() - 1);
    }
}

impl Platform {
    async fn subscribe(&self) -> Option<Subscribed> {
        if matches!(self.how, How::Gone) {
            return None;
        }
        self.open.set(self.open.get() + 1);
        let events = self.events.clone().into_iter();
        Some(Subscribed(events, self.how, Rc::clone(&self.open)))
    }
}

impl EngineEvents for Subscribed {
    async fn next_json(&mut self) -> Option<String> {
        match (self.0.next(), self.1) {
            (Some(event), _) => Some(serde_json::to_string(&event).unwrap()),
            (None, How::Hangs) => std::future::pending().await,
            (None, How::Done | How::Gone) => None,
        }
    }
}

// Helpers.

/// Runs `order` to its end, with a log that cannot be reached after this many seconds.
async fn order_with_log_until(seconds: u64) -> Rc<World> {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let step = wrapped(&engine, &world, DispatchConfig::batched());
    let body = step.workflow(order);
    let trouble = async {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        world.always.set(Some(Trouble::Refuse));
    };
    let (ran, ()) = join!(lifetime(&engine, body), trouble);
    ran.unwrap().unwrap();
    world
}

/// Events of our own log that are gone cannot be compared: the platform's status alone ends the run.
#[tokio::test]
async fn a_part_of_a_log_is_not_compared() {
    let log = WorkflowLog::with_max_events(Database::in_memory(), 2);
    let Opened::Run(run) = log.open(None, now()).unwrap() else {
        panic!("it is open");
    };
    let mut batch = vec![workflow_started("order", now()).unwrap()];
    batch.extend(["price-1", "pack-1", "bill-1"].map(|step| fact(step, "started")));
    let told = log.append(run.generation, 1, batch, now()).await;
    assert_eq!(told.unwrap(), Told::Stored(4));
    let platform = platform_log(now());
    let settled = log.settle(None, "order", &InstanceEnd::Completed, &platform, now());
    assert!(settled.unwrap());
    let page = log.target().store().read(None, PageLimit::default()).await;
    let page = page.unwrap();
    let types: Vec<_> = page.events.iter().map(|event| &*event.event_type).collect();
    assert_eq!(types, ["started", "completed"]);
    assert!(page.closed);
    assert_eq!(log.state().unwrap().run, 1);
}

/// The log of a run that began, with these steps running, as its lifetime wrote it.
async fn begun_run(steps: &[&str]) -> Log {
    let log = WorkflowLog::new(Database::in_memory());
    let Opened::Run(run) = log.open(None, now()).unwrap() else {
        panic!("it is open");
    };
    let mut batch = vec![workflow_started("order", now()).unwrap()];
    batch.extend(steps.iter().map(|step| fact(step, "started")));
    let told = log.append(run.generation, 1, batch, now()).await;
    assert!(matches!(told.unwrap(), Told::Stored(1..)));
    log
}

/// A fact of a `do` step, or of the workflow, at the beginning of time.
fn fact(task: &str, of: &str) -> NewEvent {
    let (name, kind) = task.split_once('.').unwrap_or((task, "do"));
    let (step, count) = name.rsplit_once('-').unwrap();
    let parent = (kind == "do").then_some("order-1.workflow");
    let data = json!({
        "taskId": task, "step": step, "kind": kind, "count": count.parse::<u32>().unwrap(),
        "timestamp": "1970-01-01T00:00:00.000Z", "parentId": parent,
    });
    let event = NewEvent::new(of, data.to_string()).unwrap();
    event.with_key(format!("{task}:{of}")).unwrap()
}

/// The platform's events, each this many seconds after the first.
fn events(began: SystemTime, events: impl IntoIterator<Item = (u64, Value)>) -> Vec<EngineEvent> {
    let began = began.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let began = u64::try_from(began.as_millis()).unwrap();
    let event = |(second, event): (u64, Value)| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let brief = json!([
            event["type"],
            began + second * 1_000,
            text(&event["stepName"]),
            event["attempt"].as_u64().unwrap_or_default(),
            text(&event["error"]["message"]),
        ]);
        serde_json::from_value(brief).unwrap()
    };
    events.into_iter().map(event).collect()
}

fn errored(message: &str) -> Value {
    json!({"type": "workflow_errored", "error": {"name": "Error", "message": message}})
}

fn stood(log: &Log) -> Option<(u32, u64)> {
    let state = log.stands(now()).unwrap();
    Some((state.run, state.generation))
}

/// Returns the events of the log with their types, without the parts that differ between two equal runs.
fn facts(log: &Log) -> Vec<Value> {
    let limit = PageLimit {
        events: 1_000_000,
        bytes: usize::MAX,
    };
    let page = futures_util::FutureExt::now_or_never(log.target().store().read(None, limit));
    let fact = |event: ssetarget::StoredEvent| {
        let mut data: Value = serde_json::from_str(&event.data).unwrap();
        let fields = data.as_object_mut().unwrap();
        for time in ["timestamp", "until", "retryAt"] {
            fields.remove(time);
        }
        fields.remove("attributes");
        data["type"] = event.event_type.into();
        data
    };
    page.unwrap()
        .unwrap()
        .events
        .into_iter()
        .map(fact)
        .collect()
}

fn story(log: &Log) -> Vec<String> {
    let line = |fact: Value| {
        let [of, task] = ["type", "taskId"].map(|field| fact[field].as_str().unwrap_or_default());
        format!("{of} {task}").trim_end().to_owned()
    };
    facts(log).into_iter().map(line).collect()
}

#[tokio::test]
async fn secrets_in_the_platforms_errors_are_not_taken_over() {
    let secret = "hunter2hunter2";
    let message = format!("the password: {secret} is wrong");
    let error = json!({"name": "Error", "message": message});
    let mut failed = json!({"type": "attempt_errored", "stepName": "pack-1", "attempt": 1});
    failed["error"] = error;
    let platform = [
        (0, json!({"type": "workflow_queued"})),
        (
            1,
            json!({"type": "attempt_started", "stepName": "pack-1", "attempt": 1}),
        ),
        (2, failed),
        (3, json!({"type": "step_errored", "stepName": "pack-1"})),
        (4, errored(&message)),
    ];
    let platform = events(SystemTime::UNIX_EPOCH, platform);
    // Once with the platform's log, and once with its status alone.
    for platform in [platform.as_slice(), &[]] {
        let log = begun_run(&["pack-1"]).await.redact(Some(Redact::SECRETS));
        let end = InstanceEnd::Failed(Some(message.clone()));
        assert!(log.settle(None, "order", &end, platform, now()).unwrap());
        let facts = facts(&log);
        let errors: Vec<_> = facts
            .iter()
            .filter_map(|fact| fact["error"].as_str())
            .collect();
        let expected = "the password: [redacted] is wrong";
        assert_eq!(
            errors,
            vec![expected; if platform.is_empty() { 1 } else { 3 }]
        );
    }
}
