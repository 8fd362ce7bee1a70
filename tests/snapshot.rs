//! Snapshots of a run: the tree, how a stream goes on from one, and how little is read for the next.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use proptest::prelude::*;
use serde_json::{Value, json};
use ssetarget::http::{Snapshots, Sse, SseBody};
use ssetarget::store::{EventStore, Page};
use ssetarget::workflow::{MAX_DEPTH, RunSnapshot, RunState, RunView, TaskView};
use ssetarget::{
    Appended, Batch, Cursor, EventId, MemoryEventStore, NewEvent, PageLimit, SqliteEventStore,
    SseTarget, StoredEvent,
};
use support::sql::Database;

#[test]
fn tasks_are_a_tree() {
    let view = fold(&[
        ("started", "order-1.workflow", json!({ "kind": "workflow" })),
        ("started", "a-1", json!({})),
        ("started", "g-1.group", json!({})),
        ("started", "b-1", json!({ "parentId": "g-1.group" })),
        ("started", "h-1.group", json!({ "parentId": "g-1.group" })),
        ("started", "c-1", json!({ "parentId": "h-1.group" })),
        ("started", "d-1", json!({ "parentId": "g-1.group" })),
        // The parent is not in the log, as if it was removed.
        ("started", "e-1", json!({ "parentId": "gone-1.group" })),
        ("failed", "a-1", json!({ "error": "no" })),
    ]);
    let snapshot = RunSnapshot::new(&view, "o-1", Some("order"));
    assert_eq!(
        outline(&snapshot.tasks),
        "a-1 g-1.group[b-1 h-1.group[c-1] d-1] e-1"
    );
    assert_eq!(snapshot.task_count, 7);
    assert_eq!(
        snapshot.tasks[2].parent_id.as_ref().unwrap().as_str(),
        "gone-1.group"
    );
    let json = serde_json::to_value(&snapshot).unwrap();
    assert_eq!(
        [
            &json["id"],
            &json["workflow"],
            &json["run"],
            &json["cursor"],
            &json["taskCount"]
        ],
        [
            &json!("o-1"),
            &json!("order"),
            &json!(1),
            &json!(9),
            &json!(7)
        ]
    );
    assert_eq!(json["state"], "running");
    assert_eq!(
        json["tasks"][0],
        json!({
            "taskId": "a-1", "step": "a", "kind": "do", "count": 1, "parentId": null,
            "state": "failed", "error": "no",
            "started": "1970-01-01T00:00:02.000Z", "ended": "1970-01-01T00:00:09.000Z",
        })
    );
    assert_eq!(
        serde_json::from_value::<RunSnapshot>(json).unwrap(),
        snapshot
    );
    // Nothing yet.
    let nothing = RunSnapshot::new(&RunView::new(), "o-1", None);
    assert_eq!(
        serde_json::to_value(&nothing).unwrap(),
        json!({ "id": "o-1", "run": 1, "state": "queued", "taskCount": 0, "tasks": [] })
    );
    assert_eq!(nothing.resume(), Cursor::Beginning);
}

/// Whatever parents the log names, each task is in the tree once, and every reader can read the tree.
#[test]
fn circles_and_depths_are_bounded() {
    let circle = [
        ("started", "x-1", json!({ "parentId": "y-1" })),
        ("started", "self-1", json!({ "parentId": "self-1" })),
        ("started", "y-1", json!({ "parentId": "z-1" })),
        ("started", "z-1", json!({ "parentId": "x-1" })),
        ("started", "w-1", json!({ "parentId": "y-1" })),
    ];
    let snapshot = RunSnapshot::new(&fold(&circle), "o", None);
    assert_eq!(outline(&snapshot.tasks), "x-1[z-1[y-1[w-1]]] self-1");

    // 100,000 levels, with attributes as deep as a reader permits.
    let deep = 100_000_usize;
    let names: Vec<_> = (0..deep).map(|level| format!("g{level}-1.group")).collect();
    let attributes = "[".repeat(100) + &"]".repeat(100);
    let attributes = json!({ "deep": serde_json::from_str::<Value>(&attributes).unwrap() });
    let mut events: Vec<_> = (0..deep)
        .map(|level| {
            let parent = level.checked_sub(1).map(|above| names[above].as_str());
            (
                "started",
                names[level].as_str(),
                json!({ "parentId": parent }),
            )
        })
        .collect();
    events.push((
        "progress",
        &names[MAX_DEPTH],
        json!({ "attributes": attributes }),
    ));
    let view = fold(&events);
    let snapshot = RunSnapshot::new(&view, "o", None);
    let mut level = &snapshot.tasks;
    for _ in 1..MAX_DEPTH {
        assert_eq!(level.len(), 1);
        level = &level[0].tasks;
    }
    assert_eq!(level.len(), deep - MAX_DEPTH + 1);
    assert_eq!(level.last().unwrap().task_id.as_str(), names[deep - 1]);
    assert_eq!(
        level.last().unwrap().parent_id.as_ref().unwrap().as_str(),
        names[deep - 2]
    );
    let truncated = level[1].attributes.as_ref().unwrap();
    assert_eq!(Value::from(truncated.clone()), json!({ "truncated": true }));
    let text = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(
        serde_json::from_str::<RunSnapshot>(&text).unwrap(),
        snapshot
    );
    assert_eq!(snapshot.into_view().tasks.len(), deep);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    /// The snapshot at any moment and the stream after it are the whole log, while the log grows: no gap and no
    /// duplicate, whatever restarts and removals come in between.
    #[test]
    fn a_stream_goes_on_from_a_snapshot(
        events in proptest::collection::vec(event(), 1..80),
        moments in proptest::collection::vec(0_usize..80, 1..4),
        stores in 0_usize..2,
        kept in prop_oneof![Just(None), (1_usize..20).prop_map(Some)],
    ) {
        let log = log_of(&events);
        let run = async {
            match (stores, kept) {
                (0, None) => goes_on(MemoryEventStore::new(), &log, &moments, kept).await,
                (0, Some(newest)) => goes_on(MemoryEventStore::new().max_events(newest), &log, &moments, kept).await,
                _ => goes_on(SqliteEventStore::new(Database::in_memory()), &log, &moments, kept).await,
            }
        };
        run.now_or_never().unwrap();
    }
}

/// Appends a log, takes snapshots at some moments, and goes on from each.
async fn goes_on<S: EventStore + 'static>(
    store: S,
    log: &[NewEvent],
    moments: &[usize],
    kept: Option<usize>,
) {
    let target: SseTarget<NewEvent, S> = SseTarget::new(store);
    let snapshots = Snapshots::new(&sse());
    let (mut all, mut taken) = (Vec::new(), Vec::new());
    for (position, event) in log.iter().enumerate() {
        let stored = target.dispatch_encoded(vec![event.clone()]).await.unwrap();
        let Some(Appended::Stored(id)) = stored.first() else {
            panic!("a duplicate")
        };
        all.push(StoredEvent {
            id: *id,
            event_type: event.event_type().to_owned(),
            data: event.data().to_owned(),
            timestamp: SystemTime::UNIX_EPOCH,
        });
        for _ in moments.iter().filter(|moment| **moment == position) {
            let snapshot = get(&snapshots, &target, None).await;
            assert_eq!(snapshot.status(), 200);
            // "<run>-<first event>-<last event>-<hash of the last event>-<version>"
            let etag = snapshot.headers()["etag"].to_str().unwrap().to_owned();
            let first: usize = etag.split('-').nth(1).unwrap().parse().unwrap();
            let text = text(snapshot).await;
            let read: RunSnapshot = serde_json::from_str(&text).unwrap();
            // The JSON is written without the tree, and is equal to the tree's.
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
            assert_eq!(read, snapshot_of(&all[first - 1..]));
            taken.push((read, first));
        }
    }
    for (snapshot, first) in taken {
        let mut stream = target.subscribe(snapshot.resume()).await.unwrap();
        let mut next = snapshot.cursor.unwrap().get() + 1;
        let mut view = snapshot.into_view();
        let mut was_reset = false;
        while let Some(batch) = stream.try_next().await.unwrap() {
            match batch {
                Batch::Reset(_) => was_reset = true,
                Batch::Events(events) => {
                    for event in events {
                        assert!(event.id.get() == next || was_reset);
                        next = event.id.get() + 1;
                        view.apply(&event).unwrap();
                    }
                }
            }
        }
        // If events in between were removed, the client gets a reset, and takes a new snapshot.
        if was_reset {
            assert!(kept.is_some());
        } else {
            let all = snapshot_of(&all[first - 1..]);
            assert_eq!(RunSnapshot::new(&view, "log", None), all);
        }
    }
}

fn snapshot_of(events: &[StoredEvent]) -> RunSnapshot {
    let mut view = RunView::new();
    for event in events {
        view.apply(event).unwrap();
    }
    RunSnapshot::new(&view, "log", None)
}

/// What the test appends to a log.
#[derive(Clone, Debug)]
enum Happens {
    Begin { parent: usize, kind: usize },
    Fail { task: usize },
    Report { task: usize, percent: u8 },
    End { task: usize, well: bool },
    Restart,
    EndRun(usize),
    Other,
}

fn event() -> impl Strategy<Value = Happens> {
    prop_oneof![
        6 => (0..12_usize, 0..4_usize).prop_map(|(parent, kind)| Happens::Begin { parent, kind }),
        2 => (0..12_usize).prop_map(|task| Happens::Fail { task }),
        3 => (0..12_usize, 0..=100_u8).prop_map(|(task, percent)| Happens::Report { task, percent }),
        3 => (0..12_usize, any::<bool>()).prop_map(|(task, well)| Happens::End { task, well }),
        1 => Just(Happens::Restart),
        1 => (0..3_usize).prop_map(Happens::EndRun),
        1 => Just(Happens::Other),
    ]
}

fn log_of(happens: &[Happens]) -> Vec<NewEvent> {
    let mut tasks: Vec<(String, &str)> = Vec::new();
    let (mut run, mut count) = (1, 0);
    let mut log = Vec::new();
    for (position, happens) in happens.iter().enumerate() {
        let of = |task: usize| tasks.get(task % tasks.len().max(1)).cloned();
        let second = position as u64 + 1;
        let mut add = |of: &str, task: &str, more: Value| {
            log.push(NewEvent::new(of, data(second, task, more)).unwrap());
        };
        match happens {
            Happens::Begin { parent, kind } => {
                count += 1;
                let (suffix, kind, more) = [
                    ("", "do", json!({})),
                    (".group", "do", json!({})),
                    (".sleep", "sleep", json!({ "until": time(second + 9) })),
                    (
                        ".waitForEvent",
                        "waitForEvent",
                        json!({ "eventType": "go" }),
                    ),
                ][*kind]
                    .clone();
                let mut more = more;
                more["kind"] = kind.into();
                more["parentId"] = match of(*parent) {
                    Some((parent, _)) if parent.ends_with(".group") => parent.into(),
                    _ => "order-1.workflow".into(),
                };
                let task = format!("t{count}-1{suffix}");
                add("started", &task, more);
                tasks.push((task, kind));
            }
            Happens::Fail { task } => {
                if let Some((task, kind)) = of(*task) {
                    let more = json!({ "kind": kind, "attempt": 1, "error": "no", "retryAt": time(second + 3) });
                    add("attempt_failed", &task, more);
                }
            }
            Happens::Report { task, percent } => {
                if let Some((task, kind)) = of(*task) {
                    let more = json!({ "kind": kind, "percent": percent, "attributes": { "\"<": [percent] } });
                    add("progress", &task, more);
                }
            }
            Happens::End { task, well } => {
                if let Some((task, kind)) = of(*task) {
                    let (of, more) = match well {
                        true => ("completed", json!({ "kind": kind })),
                        false => ("failed", json!({ "kind": kind, "error": "é\n" })),
                    };
                    add(of, &task, more);
                }
            }
            Happens::Restart => {
                run += 1;
                tasks.clear();
                let data = json!({ "run": run, "timestamp": time(second) }).to_string();
                log.push(NewEvent::new("restarted", data).unwrap());
            }
            Happens::EndRun(how) => {
                let (of, error) = [
                    ("completed", None),
                    ("failed", Some("no")),
                    ("failed", Some("the instance was terminated")),
                ][*how];
                let more = json!({ "kind": "workflow", "error": error });
                add(of, "order-1.workflow", more);
            }
            Happens::Other => log.push(NewEvent::new("note", "not even JSON").unwrap()),
        }
    }
    log
}

/// A snapshot of an unchanged log reads one event, and after one more event it reads two, whoever asks and however
/// long the log is.
#[tokio::test]
async fn a_log_is_read_once() {
    let target = counted(20_000).await;
    let reads = &target.store().reads;
    let snapshots = Snapshots::new(&sse());
    let first = get(&snapshots, &target, None).await;
    let etag = first.headers()["etag"].to_str().unwrap().to_owned();
    let first = text(first).await;
    assert_eq!(reads.events.load(Ordering::Relaxed), 20_000);
    let pages = reads.pages.load(Ordering::Relaxed);
    assert!(pages <= 20, "{pages}");

    for known in [None, Some(etag.as_str())] {
        reads.reset();
        let again = get(&snapshots, &target, known).await;
        assert_eq!(again.status(), if known.is_none() { 200 } else { 304 });
        assert_eq!(again.headers()["etag"], etag);
        let again = text(again).await;
        assert_eq!(again, if known.is_none() { first.as_str() } else { "" });
        assert_eq!((reads.pages(), reads.events()), (1, 1), "{known:?}");
    }

    add_step(&target, 90_001).await;
    reads.reset();
    let more = get(&snapshots, &target, Some(&etag)).await;
    assert_eq!(more.status(), 200);
    assert_ne!(more.headers()["etag"], etag);
    let more: RunSnapshot = read(more).await;
    assert_eq!(more.cursor, EventId::new(20_001));
    assert_eq!((reads.pages(), reads.events()), (1, 2));

    // Many requests at the same time cause one fold.
    reads.reset();
    let others = Snapshots::new(&sse());
    let asked = (0..50).map(|_| get(&others, &target, None));
    let answers = futures_util::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| answer.status() == 200));
    assert!(reads.events() < 20_200, "{}", reads.events());
}

/// Views beyond the limit are removed, the least recently used first.
#[tokio::test]
async fn the_memory_is_bounded() {
    let (one, other) = (counted(2_000).await, counted(2_000).await);
    let budget = |bytes| Snapshots::new(&sse()).max_bytes(bytes);
    for (snapshots, again) in [(budget(100 << 20), 1), (budget(1_000_000), 2_000)] {
        for (log, id) in [(&one, "one"), (&other, "other")] {
            let request = Request::get("/").body(()).unwrap();
            assert_eq!(snapshots.respond(log, id, &request).await.status(), 200);
        }
        one.store().reads.reset();
        let request = Request::get("/").body(()).unwrap();
        assert_eq!(snapshots.respond(&one, "one", &request).await.status(), 200);
        assert_eq!(one.store().reads.events(), again);
    }
}

/// A run whose view would be too large is refused, and the run after a restart is not.
#[tokio::test]
async fn a_run_that_is_too_large_is_refused() {
    let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    let snapshots = Snapshots::new(&sse());
    let blob = "x".repeat(60_000);
    for step in 0..700 {
        let more = json!({ "attributes": { "blob": blob } });
        let task = format!("s{step}-1");
        let events = ["started", "progress"].map(|of| {
            let more = if of == "started" {
                json!({})
            } else {
                more.clone()
            };
            NewEvent::new(of, data(step, &task, more)).unwrap()
        });
        target.dispatch_encoded(events.to_vec()).await.unwrap();
        if step == 300 {
            assert_eq!(get(&snapshots, &target, None).await.status(), 200);
        }
    }
    for _ in 0..2 {
        let refused = get(&snapshots, &target, None).await;
        assert_eq!(refused.status(), 507);
        assert!(text(refused).await.contains("read its events"));
    }
    let restarted = json!({ "run": 2, "timestamp": time(1) }).to_string();
    let restarted = NewEvent::new("restarted", restarted).unwrap();
    target.dispatch_encoded(vec![restarted]).await.unwrap();
    add_step(&target, 1).await;
    let snapshot: RunSnapshot = read(get(&snapshots, &target, None).await).await;
    assert_eq!((snapshot.run, snapshot.task_count), (2, 1));
    // Reports that replace each other do not count twice.
    let task = "s1-1";
    for number in 0..700 {
        let more = json!({ "attributes": { "blob": blob, "number": number } });
        let event = NewEvent::new("progress", data(1, task, more)).unwrap();
        target.dispatch_encoded(vec![event]).await.unwrap();
    }
    assert_eq!(get(&snapshots, &target, None).await.status(), 200);
}

/// A deleted log, or another log under the same name, is never served from memory.
#[tokio::test]
async fn another_log_of_the_name_is_read_again() {
    let snapshots = Snapshots::new(&sse());
    let database = || SseTarget::<NewEvent, _>::new(SqliteEventStore::new(Database::in_memory()));
    let first = database();
    for step in 0..5 {
        add_step(&first, step).await;
    }
    let before: RunSnapshot = read(get(&snapshots, &first, None).await).await;
    assert_eq!(before.task_count, 5);
    // It is longer than the first.
    let second = database();
    for step in 10..17 {
        add_step(&second, step).await;
    }
    let other: RunSnapshot = read(get(&snapshots, &second, None).await).await;
    assert_eq!(other.tasks[0].task_id.as_str(), "s10-1");
    assert_eq!(other.task_count, 7);
    // It is as long: its ids are the same, and a client that has the second's snapshot does not have this one.
    let known = etag(&get(&snapshots, &second, None).await);
    let third = database();
    for step in 20..27 {
        add_step(&third, step).await;
    }
    let other = get(&snapshots, &third, Some(&known)).await;
    assert_eq!(other.status(), 200);
    // After a restart, or on another server, the tag of a log is the same.
    let restarted = Snapshots::new(&sse());
    let same = get(&restarted, &third, Some(&etag(&other))).await;
    assert_eq!(same.status(), 304);
    let restarted = Snapshots::new(&sse());
    assert_eq!(get(&restarted, &third, Some(&known)).await.status(), 200);
    let other: RunSnapshot = read(other).await;
    assert_eq!(
        (other.tasks[0].task_id.as_str(), other.task_count),
        ("s20-1", 7)
    );
    // It is emptied: ids go on, tasks are gone.
    third.store().trim(EventId::new(7).unwrap()).unwrap();
    let emptied = get(&snapshots, &third, None).await;
    assert!(!emptied.headers().contains_key("etag"));
    let emptied: RunSnapshot = read(emptied).await;
    assert_eq!(
        (emptied.state, emptied.task_count, emptied.cursor),
        (RunState::Queued, 0, None)
    );
    add_step(&third, 30).await;
    let again: RunSnapshot = read(get(&snapshots, &third, None).await).await;
    assert_eq!((again.task_count, again.cursor), (1, EventId::new(8)));
}

#[tokio::test]
async fn requests_and_their_headers() {
    let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    let snapshots = Snapshots::new(&sse());
    let queued = get(&snapshots, &target, None).await;
    assert_eq!(queued.status(), 200);
    let queued: Value = read(queued).await;
    assert_eq!(
        queued,
        json!({ "id": "log", "run": 1, "state": "queued", "taskCount": 0, "tasks": [] })
    );
    add_step(&target, 1).await;
    let full = get(&snapshots, &target, None).await;
    let headers: HashMap<_, _> = full
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
        .collect();
    let etag = headers["etag"].clone();
    assert!(etag.starts_with("\"1-1-1-"), "{etag}");
    for (name, value) in [
        ("content-type", "application/json"),
        ("cache-control", "no-cache"),
        ("vary", "accept"),
    ] {
        assert_eq!(headers[name], value);
    }
    assert_eq!(
        full.body().size_hint().exact().unwrap() as usize,
        text(full).await.len()
    );
    let unchanged = get(&snapshots, &target, Some(&format!("\"a\", W/{etag}"))).await;
    assert_eq!(unchanged.status(), 304);
    assert_eq!(unchanged.headers()["etag"], etag);
    assert_eq!(unchanged.headers()["cache-control"], "no-cache");
    assert!(!unchanged.headers().contains_key("content-type"));

    let ask = |method: &str| Request::builder().method(method).body(()).unwrap();
    let head = snapshots.respond(&target, "log", &ask("HEAD")).await;
    assert_eq!(
        (
            head.status().as_u16(),
            head.headers()["etag"].to_str().unwrap()
        ),
        (200, etag.as_str())
    );
    assert_eq!(head.headers()["content-type"], "application/json");
    assert_eq!(text(head).await, "");
    let wrong = snapshots.respond(&target, "log", &ask("POST")).await;
    assert_eq!(
        (
            wrong.status().as_u16(),
            wrong.headers()["allow"].to_str().unwrap()
        ),
        (405, "GET, HEAD")
    );
    let private = snapshots.clone().private();
    let private = private.respond(&target, "log", &ask("GET")).await;
    assert_eq!(private.headers()["cache-control"], "private, no-cache");
    // Events of another program with the library's names.
    for data in ["hello", "{}", "[]"] {
        let event = NewEvent::new("started", data).unwrap();
        target.dispatch_encoded(vec![event]).await.unwrap();
    }
    let snapshot: RunSnapshot = read(get(&snapshots, &target, None).await).await;
    assert_eq!((snapshot.task_count, snapshot.cursor), (1, EventId::new(4)));
}

fn sse() -> Sse {
    Sse::with_sleep(|_| std::future::pending())
}

async fn get<S: EventStore + 'static>(
    snapshots: &Snapshots,
    target: &SseTarget<NewEvent, S>,
    known: Option<&str>,
) -> Response<SseBody<S::Error>> {
    let mut request = Request::get("/log");
    if let Some(known) = known {
        request = request.header("if-none-match", known);
    }
    snapshots
        .respond(target, "log", &request.body(()).unwrap())
        .await
}

fn etag<B>(response: &Response<B>) -> String {
    response.headers()["etag"].to_str().unwrap().to_owned()
}

async fn text<E: std::error::Error>(response: Response<SseBody<E>>) -> String {
    use futures_util::StreamExt;
    let mut body = Box::pin(response.into_body());
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

async fn read<T: serde::de::DeserializeOwned, E: std::error::Error>(
    response: Response<SseBody<E>>,
) -> T {
    serde_json::from_str(&text(response).await).unwrap()
}

/// A log of steps with this many events, which counts reads.
async fn counted(events: u64) -> SseTarget<NewEvent, Counted> {
    let target = SseTarget::new(Counted::default());
    let log: Vec<_> = (0..events)
        .map(|number| {
            let of = if number % 2 == 0 {
                "started"
            } else {
                "completed"
            };
            let data = data(number, &format!("s{}-1", number / 2), json!({}));
            NewEvent::new(of, data).unwrap()
        })
        .collect();
    for batch in log.chunks(1_000) {
        target.dispatch_encoded(batch.to_vec()).await.unwrap();
    }
    target
}

async fn add_step<S: EventStore + 'static>(target: &SseTarget<NewEvent, S>, step: u64) {
    let event = NewEvent::new("started", data(step, &format!("s{step}-1"), json!({}))).unwrap();
    target.dispatch_encoded(vec![event]).await.unwrap();
}

/// A log in memory that counts reads.
#[derive(Default)]
struct Counted {
    log: MemoryEventStore,
    reads: Arc<Reads>,
}

#[derive(Default)]
struct Reads {
    pages: AtomicUsize,
    events: AtomicUsize,
}

impl Reads {
    fn reset(&self) {
        self.pages.store(0, Ordering::Relaxed);
        self.events.store(0, Ordering::Relaxed);
    }

    fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    fn events(&self) -> usize {
        self.events.load(Ordering::Relaxed)
    }
}

impl EventStore for Counted {
    type Error = <MemoryEventStore as EventStore>::Error;

    fn append(
        &self,
        batch: Vec<NewEvent>,
    ) -> impl Future<Output = Result<Vec<Appended>, Self::Error>> + Send {
        self.log.append(batch)
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Self::Error> {
        let page = self.log.read(after, limit).await?;
        self.reads.pages.fetch_add(1, Ordering::Relaxed);
        self.reads
            .events
            .fetch_add(page.events.len(), Ordering::Relaxed);
        Ok(page)
    }

    fn changed(
        &self,
        after: Option<EventId>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        self.log.changed(after)
    }

    fn before(
        &self,
        time: SystemTime,
    ) -> impl Future<Output = Result<Option<EventId>, Self::Error>> + Send {
        self.log.before(time)
    }
}

fn fold(events: &[(&str, &str, Value)]) -> RunView {
    let mut view = RunView::new();
    for (id, (of, task, more)) in (1..).zip(events) {
        view.apply(&StoredEvent {
            id: EventId::new(id).unwrap(),
            event_type: (*of).to_owned(),
            data: data(id, task, more.clone()),
            timestamp: SystemTime::UNIX_EPOCH,
        })
        .unwrap();
    }
    view
}

/// Returns the data of a step's event, this many seconds after the epoch.
fn data(second: u64, task: &str, more: Value) -> String {
    let name = task.split('.').next().unwrap();
    let mut data = json!({
        "taskId": task, "step": name.strip_suffix("-1").unwrap(), "kind": "do", "count": 1,
        "timestamp": time(second), "parentId": "order-1.workflow",
    });
    data.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    data.to_string()
}

fn time(second: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
    humantime::format_rfc3339_millis(time).to_string()
}

/// Formats tasks by their ids: `a[b c] d`.
fn outline(tasks: &[TaskView]) -> String {
    let names = tasks.iter().map(|task| match task.tasks.is_empty() {
        true => task.task_id.to_string(),
        false => format!("{}[{}]", task.task_id, outline(&task.tasks)),
    });
    names.collect::<Vec<_>>().join(" ")
}
