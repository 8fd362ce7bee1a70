//! The counters, where they count, and how they are rendered. `tests/e2e/metrics.test.mjs` has the
//! text read by Prometheus's own parsers.
#![cfg(feature = "axum")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use ssetarget::axum::metrics;
use ssetarget::http::{Shutdown, Sse};
use ssetarget::stats::{Counts, Cut, Metrics, Observer};
use ssetarget::{Batch, Cursor, EventId, MemoryEventStore, NewEvent, Refusal, SseTarget};
use support::http::{Piece, get, request};
use tokio::net::TcpListener;

fn event(key: &str) -> NewEvent {
    let event = NewEvent::new("event", key).unwrap();
    event.with_key(key).unwrap()
}

#[tokio::test]
async fn a_log_counts_what_is_appended_and_read() {
    let counted = Metrics::new();
    let store = MemoryEventStore::new().max_events(2);
    let target: SseTarget<NewEvent, _> = SseTarget::new(store).observed_by(counted.clone());
    let typed = target.typed::<NewEvent>();
    let mut slow = target.subscribe(Cursor::Beginning).await.unwrap();
    let batch = vec![event("1"), event("1"), event("2")];
    typed.dispatch_encoded(batch).await.unwrap();
    assert!(matches!(slow.next().await, Ok(Some(Batch::Events(_)))));
    target.dispatch_encoded(vec![event("2")]).await.unwrap();
    let batch = vec![event("3"), event("4"), event("5").terminal()];
    target.dispatch_encoded(batch).await.unwrap();
    assert!(matches!(slow.next().await, Ok(Some(Batch::Reset(_)))));
    assert!(matches!(slow.next().await, Ok(Some(Batch::Events(_)))));
    assert!(matches!(slow.next().await, Ok(None)));
    let counts = counted.counts();
    assert_eq!((counts.appended, counts.deduplicated), (5, 2));
    assert_eq!((counts.pages, counts.resets), (2, 1));
    // A subscription alone is not a viewer.
    assert_eq!((counts.viewers, counts.opened, counts.sent), (0, 0, 0));
}

#[tokio::test]
async fn a_tracer_counts_through_its_target() {
    let counted = Metrics::new();
    let target: SseTarget<NewEvent, _> =
        SseTarget::new(MemoryEventStore::new()).observed_by(counted.clone());
    let (tracer, sending) = ssetarget::tracer::Tracer::new(&target, tokio::time::sleep);
    tokio::spawn(sending);
    let _: Result<(), &str> = tracer.with_root("work", async |_| Ok(())).await;
    assert_eq!(counted.counts().appended, 2);
}

#[tokio::test]
async fn a_server_counts_streams_bytes_and_refusals() {
    let counted = Metrics::new();
    let target: SseTarget<NewEvent, _> =
        SseTarget::new(MemoryEventStore::new()).observed_by(counted.clone());
    target.dispatch_encoded(vec![event("1")]).await.unwrap();
    let server = serve(&target, &counted, None).await;

    let mut viewer = get(server, "/sse", &[]).await;
    let mut bytes = 0;
    while bytes < ":\nid: 1\nevent: event\ndata: 1\n\n".len() {
        let Piece::Bytes(piece) = viewer.piece().await else {
            panic!("the stream is over");
        };
        bytes += piece.len();
    }
    let counts = counted.counts();
    assert_eq!((counts.viewers, counts.opened), (1, 1));
    assert_eq!((counts.sent, counts.pages), (bytes as u64, 1));

    assert_eq!(request(server, "HEAD", "/sse", &[]).await.status, 200);
    for (method, path, headers, status) in [
        ("GET", "/sse", ("last-event-id", "x"), 400),
        ("POST", "/sse", ("accept", "*/*"), 405),
        ("GET", "/unknown", ("accept", "text/event-stream"), 404),
    ] {
        let refused = request(server, method, path, &[headers]).await;
        assert_eq!(refused.status, status);
    }
    assert_eq!(counted.counts().refused, 3);
    let text = counted.to_prometheus();
    for line in [
        "ssetarget_refusals_total{status=\"400\"} 1",
        "ssetarget_refusals_total{status=\"404\"} 1",
        "ssetarget_refusals_total{status=\"405\"} 1",
        "ssetarget_refusals_total{status=\"other\"} 0",
        "ssetarget_viewers 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }

    // One viewer leaves, and one gets everything.
    drop(viewer);
    target.dispatch_encoded(vec![event("2")]).await.unwrap();
    target
        .dispatch_encoded(vec![event("3").terminal()])
        .await
        .unwrap();
    let all = get(server, "/sse", &[]).await.bytes().await;
    until(|| counted.counts().viewers == 0).await;
    let counts = counted.counts();
    assert_eq!((counts.opened, counts.cut), (2, 0));
    assert!(counts.sent >= (bytes + all.len()) as u64);
    // A viewer that has everything already counts neither as a stream nor as refused.
    let ended = get(server, "/sse", &[("last-event-id", "3")]).await;
    assert_eq!(ended.status, 204);
    assert_eq!(counted.counts(), counts);
}

#[tokio::test]
async fn a_shutdown_counts_the_streams_that_it_cuts() {
    let counted = Metrics::new();
    let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    let shutdown = Shutdown::new();
    let server = serve(&target, &counted, Some(&shutdown)).await;
    let mut viewers = Vec::new();
    for _ in 0..3 {
        let mut viewer = get(server, "/sse", &[]).await;
        assert!(matches!(viewer.piece().await, Piece::Bytes(_)));
        viewers.push(viewer);
    }
    assert_eq!(counted.counts().viewers, 3);
    shutdown.begin();
    until(|| counted.counts().viewers == 0).await;
    assert_eq!((counted.counts().opened, counted.counts().cut), (3, 3));
    let text = counted.to_prometheus();
    assert!(text.contains("\nssetarget_cuts_total{cause=\"shutdown\"} 3\n"));
}

#[tokio::test]
async fn the_format_is_the_one_that_is_asked_for() {
    let counted = Metrics::new();
    let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    let server = serve(&target, &counted, None).await;
    for (accept, content_type, end) in [
        ("text/plain", Metrics::PROMETHEUS, "cause=\"deleted\"} 0\n"),
        ("*/*", Metrics::PROMETHEUS, "cause=\"deleted\"} 0\n"),
        (
            "application/openmetrics-text; version=1.0.0",
            Metrics::OPEN_METRICS,
            "# EOF\n",
        ),
        (
            "application/openmetrics-text;q=0,*/*",
            Metrics::PROMETHEUS,
            "cause=\"deleted\"} 0\n",
        ),
    ] {
        let answer = get(server, "/metrics", &[("accept", accept)]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(answer.text().await.ends_with(end), "{accept}");
    }
}

#[test]
fn labels_are_text_and_names_are_names() {
    let hostile = Metrics::new()
        .label("part", "a\\b\n\"c\" é")
        .label("part", "twice")
        .label("1st of-all", "x")
        .label("status", "y");
    hostile.refused(404);
    let labels = r#"part="a\\b\n\"c\" é",label_1st_of_all="x",label_status="y""#;
    for text in [hostile.to_prometheus(), hostile.to_open_metrics()] {
        let viewers = format!("\nssetarget_viewers{{{labels}}} 0\n");
        assert!(text.contains(&viewers), "{text}");
        let refused = format!("\nssetarget_refusals_total{{{labels},status=\"404\"}} 1\n");
        assert!(text.contains(&refused), "{text}");
    }
    let text = Metrics::new().to_prometheus();
    assert!(text.starts_with(
        "# HELP ssetarget_viewers Viewers whose stream is open now.\n\
         # TYPE ssetarget_viewers gauge\nssetarget_viewers 0\n"
    ));
    assert!(text.contains("\n# TYPE ssetarget_cuts_total counter\n"));
    let text = Metrics::new().to_open_metrics();
    assert!(text.contains("\n# TYPE ssetarget_cuts counter\nssetarget_cuts_total{cause="));
}

/// Counts through callbacks, for systems other than Prometheus.
#[derive(Default)]
struct Mine {
    calls: AtomicUsize,
}

impl Observer for Mine {
    fn cut(&self, cause: Cut) {
        assert_eq!(cause.as_str(), "store");
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_users_observer_is_notified_of_its_events() {
    let mine = Arc::new(Mine::default());
    let broken = SseTarget::<NewEvent, _>::new(Broken).observed_by(Arc::clone(&mine));
    let sse = Sse::new().observed_by(Arc::clone(&mine));
    let request = axum::http::Request::new(());
    let response = sse.respond(&broken, &request).await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    use futures_util::StreamExt;
    while let Some(chunk) = body.next().await {
        if chunk.is_err() {
            break;
        }
    }
    assert_eq!(mine.calls.load(Ordering::Relaxed), 1);
}

/// A store that knows its head, and fails when it is read.
struct Broken;

impl ssetarget::EventStore for Broken {
    type Error = std::io::Error;

    async fn append(&self, _: Vec<NewEvent>) -> Result<Vec<ssetarget::Appended>, Self::Error> {
        Err(std::io::Error::other("broken"))
    }

    async fn read(
        &self,
        _: Option<EventId>,
        _: ssetarget::PageLimit,
    ) -> Result<ssetarget::Page, Self::Error> {
        Err(std::io::Error::other("broken"))
    }

    async fn ends(&self, _: Option<EventId>) -> Result<ssetarget::Page<()>, Self::Error> {
        Ok(ssetarget::Page::default())
    }

    async fn changed(&self, _: Option<EventId>) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn before(&self, _: std::time::SystemTime) -> Result<Option<EventId>, Self::Error> {
        Ok(None)
    }
}

/// Clones share their counts, and counts can be sent to other threads.
#[test]
fn counts_are_values() {
    let counted = Metrics::new();
    let label = counted.clone().label("a", "b");
    label.appended(3, 1);
    label.sent(10);
    let counts = counted.counts();
    assert_eq!(
        (counts.appended, counts.deduplicated, counts.sent),
        (3, 1, 10)
    );
    let json = serde_json::to_string(&counts).unwrap();
    assert_eq!(serde_json::from_str::<Counts>(&json).unwrap(), counts);
}

async fn serve(
    target: &SseTarget<NewEvent, MemoryEventStore>,
    counted: &Metrics,
    shutdown: Option<&Shutdown>,
) -> SocketAddr {
    let mut sse = Sse::new().observed_by(counted.clone());
    if let Some(shutdown) = shutdown {
        sse = sse.shutdown(shutdown);
    }
    let unknown = sse.clone().route_with(async |_: ()| {
        Err::<SseTarget<NewEvent, MemoryEventStore>, _>(Refusal::NotFound("nothing"))
    });
    let app = Router::new()
        .route("/sse", sse.route(target.clone()))
        .route("/unknown", unknown)
        .route("/metrics", metrics(counted.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

async fn until(condition: impl Fn() -> bool) {
    for _ in 0..9_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not come");
}
