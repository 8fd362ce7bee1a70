//! The cost of a snapshot of a log of 100,000 events: `cargo bench --features http --bench
//! snapshot`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a program for measuring, which ends at the first surprise"
)]

use std::time::{Duration, Instant};

use http::Request;
use http_body::Body as _;
use serde_json::json;
use ssetarget::http::{Snapshots, Sse};
use ssetarget::workflow::RunView;
use ssetarget::{EventId, MemoryEventStore, NewEvent, SseTarget, StoredEvent};

const EVENTS: u64 = 100_000;

/// The number of measurements of each; the median is printed.
const TIMES: usize = 9;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("| a log of {EVENTS} events, the median of {TIMES} | |");
    println!("| --- | ---: |");
    for (name, log) in [
        ("50,000 steps that end at once", steps(false)),
        ("50,000 steps that begin first", steps(true)),
        ("1 step with 99,999 reports", reports()),
    ] {
        measure(name, &log).await;
    }
}

async fn measure(name: &str, log: &[NewEvent]) {
    let stored: Vec<_> = (1..)
        .zip(log)
        .map(|(id, event)| stored(id, event))
        .collect();
    let before = resident();
    let mut view = RunView::new();
    let fold = timed(|| {
        view = RunView::new();
        for event in &stored {
            view.apply(event).unwrap();
        }
    });
    row(
        &format!("{name}: fold of all, in memory"),
        &milliseconds(fold),
    );
    let grown = resident().saturating_sub(before);
    row(
        &format!("{name}: the view"),
        &format!("{:.0} MB", grown as f64 / 1e6),
    );

    let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    target.dispatch_encoded(log.to_vec()).await.unwrap();
    let sse = Sse::new();
    let ask = async |snapshots: &Snapshots, known: Option<&str>| {
        let request = Request::get("/").header("if-none-match", known.unwrap_or("\"\""));
        let request = request.body(()).unwrap();
        snapshots.respond(&target, "log", &request).await
    };
    let (mut first, mut cached, mut unchanged, mut more) = (vec![], vec![], vec![], vec![]);
    let mut size = 0;
    for round in 0..TIMES as u64 {
        let snapshots = Snapshots::new(&sse);
        let start = Instant::now();
        let response = ask(&snapshots, None).await;
        first.push(start.elapsed());
        size = response.body().size_hint().exact().unwrap();
        let etag = response.headers()["etag"].to_str().unwrap().to_owned();
        let start = Instant::now();
        assert_eq!(ask(&snapshots, None).await.status(), 200);
        cached.push(start.elapsed());
        let start = Instant::now();
        assert_eq!(ask(&snapshots, Some(&etag)).await.status(), 304);
        unchanged.push(start.elapsed());
        let one = vec![event("started", EVENTS + round, json!({}))];
        target.dispatch_encoded(one).await.unwrap();
        let start = Instant::now();
        assert_eq!(ask(&snapshots, Some(&etag)).await.status(), 200);
        more.push(start.elapsed());
    }
    row(
        &format!("{name}: the JSON"),
        &format!("{:.1} MB", size as f64 / 1e6),
    );
    for (what, times) in [
        ("first request: fold and JSON", first),
        ("the same again", cached),
        ("unchanged: 304", unchanged),
        ("one event more: its fold and new JSON", more),
    ] {
        row(&format!("{name}: {what}"), &milliseconds(median(times)));
    }
}

/// Steps, one after the other, or all of them at the same time.
fn steps(at_once: bool) -> Vec<NewEvent> {
    let half = EVENTS / 2;
    (0..EVENTS)
        .map(|number| {
            let (begins, step) = match at_once {
                true => (number < half, number % half),
                false => (number % 2 == 0, number / 2),
            };
            let more = if begins {
                json!({})
            } else {
                json!({ "attempt": 1 })
            };
            event(if begins { "started" } else { "completed" }, step, more)
        })
        .collect()
}

fn reports() -> Vec<NewEvent> {
    let report = |number| {
        event(
            "progress",
            0,
            json!({ "percent": number % 101, "message": "at work" }),
        )
    };
    std::iter::once(event("started", 0, json!({})))
        .chain((1..EVENTS).map(report))
        .collect()
}

fn event(of: &str, step: u64, more: serde_json::Value) -> NewEvent {
    let mut data = json!({
        "taskId": format!("import file-{step}"), "step": "import file", "kind": "do", "count": step,
        "timestamp": "2026-11-24T09:00:00.000Z", "parentId": "import-1.workflow",
    });
    data.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    NewEvent::new(of, data.to_string()).unwrap()
}

fn stored(id: u64, event: &NewEvent) -> StoredEvent {
    StoredEvent {
        id: EventId::new(id).unwrap(),
        event_type: event.event_type().to_owned(),
        data: event.data().to_owned(),
        timestamp: std::time::SystemTime::UNIX_EPOCH,
    }
}

fn timed(mut run: impl FnMut()) -> Duration {
    let times = (0..TIMES).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed()
    });
    median(times.collect())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}

fn row(what: &str, value: &str) {
    println!("| {what} | {value} |");
}

/// The memory of this process, in bytes, if the system reports it.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or_default() * 4096
}
