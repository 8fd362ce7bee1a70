//! Servers natively, over real sockets: the wire contract through axum and through bare hyper.
#![cfg(feature = "axum")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use futures_util::StreamExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ssetarget::axum::{cors, sse};
use ssetarget::http::{RunRoutes, Shutdown, Sse, StreamCut};
use ssetarget::{
    Appended, Cors, EventId, EventStore, HEARTBEAT_INTERVAL, MemoryEventStore, NewEvent, Page,
    PageLimit, Refusal, SseTarget, StoredEvent, wire,
};
use support::http::{Piece, get, request, send};
use support::sse::Message;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

type Target<S = MemoryEventStore> = SseTarget<NewEvent, S>;

// The contract.

#[tokio::test]
async fn axum_keeps_the_contract() {
    let targets = Targets::new().await;
    let t = targets.clone();
    let app = Router::new()
        .route("/open", sse(t.open))
        .route("/ended", sse(t.ended))
        .route("/broken", sse(t.broken));
    the_contract(serve(app).await, &targets).await;
}

#[tokio::test]
async fn hyper_keeps_the_contract() {
    let targets = Targets::new().await;
    let t = targets.clone();
    let address = serve_hyper(move |request| {
        let t = t.clone();
        async move {
            let sse = Sse::new();
            match request.uri().path() {
                "/open" => sse.respond(&t.open, &request).await.map(boxed),
                "/ended" => sse.respond(&t.ended, &request).await.map(boxed),
                _ => sse.respond(&t.broken, &request).await.map(boxed),
            }
        }
    })
    .await;
    the_contract(address, &targets).await;
}

async fn serve_hyper<F>(
    respond: impl Fn(hyper::Request<hyper::body::Incoming>) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = hyper::Response<axum::body::Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let respond = respond.clone();
            let service = service_fn(move |request| {
                let response = respond(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(connection), service));
        }
    });
    address
}

fn boxed<E: std::error::Error + Send + Sync + 'static>(
    body: ssetarget::http::SseBody<E>,
) -> axum::body::Body {
    axum::body::Body::new(body)
}

#[derive(Clone)]
struct Targets {
    open: Target,
    ended: Target,
    broken: Target<Broken>,
}

impl Targets {
    async fn new() -> Self {
        let open = Target::new(MemoryEventStore::new());
        append(&open, 1..=3).await;
        let ended = Target::new(MemoryEventStore::new());
        append(&ended, 1..=2).await;
        ended
            .dispatch_encoded(vec![event(3).terminal()])
            .await
            .unwrap();
        let store = Broken::new(MemoryEventStore::new());
        store.fails.store(true, Ordering::SeqCst);
        Self {
            open,
            ended,
            broken: Target::new(store),
        }
    }
}

async fn the_contract(server: SocketAddr, targets: &Targets) {
    // 200, with the headers, a heartbeat at once, and the events.
    let mut response = get(server, "/open", &[]).await;
    assert_eq!(response.status, 200);
    for (name, value) in wire::HEADERS {
        assert_eq!(response.header(name), Some(value));
    }
    assert_eq!(response.piece().await, Piece::Bytes(b":\n".to_vec()));
    let mut events = response.events();
    assert_eq!(events.take(3).await, messages(1..=3));

    // The end: after the terminal event, and a 204 for a client that has it.
    let (all, end) = get(server, "/ended", &[]).await.events().rest().await;
    assert_eq!((all, end), (messages(1..=3), Piece::End));
    let response = get(server, "/ended", &[("Last-Event-ID", "3")]).await;
    assert_eq!(response.status, 204);
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("content-type"), None);
    assert_eq!(response.header("content-length"), None);

    // Every form of the start position; the header wins.
    for (query, header, expected) in [
        ("", "1", 2..=3),
        ("?lastEventId=1", "", 2..=3),
        ("?last_event_id=2", "", 3..=3),
        ("?lastEventId=1", "2", 3..=3),
        ("?lastEventId=&lastEventId=2&lastEventId=1", "", 3..=3),
        ("", " \t2 ", 3..=3),
        ("?lastEventId=2", "  ", 3..=3),
        ("?from=beginning", "", 1..=3),
        ("?since=0", "", 1..=3),
    ] {
        let path = format!("/ended{query}");
        let response = get(server, &path, &[("Last-Event-ID", header)]).await;
        let (rest, _) = response.events().rest().await;
        assert_eq!(rest, messages(expected), "{query} {header}");
    }
    // From the tail. The client gets the position of the tail before any event, so it comes back
    // there if it loses its connection, whatever the address says.
    let mut cut = get(server, "/open?from=latest", &[]).await;
    assert_eq!(cut.piece().await, Piece::Bytes(b":\n".to_vec()));
    assert_eq!(cut.piece().await, Piece::Bytes(b"id: 3\n\n".to_vec()));
    drop(cut);
    let mut latest = get(server, "/open?from=latest", &[]).await.events();
    append(&targets.open, 4..=4).await;
    assert_eq!(latest.take(1).await, messages(4..=4));
    let back = get(server, "/open?from=latest", &[("Last-Event-ID", "3")]).await;
    assert_eq!(back.events().take(1).await, messages(4..=4));

    // A position beyond the head gets a reset at once.
    let mut reset = get(server, "/open", &[("Last-Event-ID", "99")])
        .await
        .events();
    let first = reset.next().await.unwrap();
    assert_eq!(first.event_type, "reset");
    assert_eq!(first.data, r#"{"requested":99,"oldest":1,"head":4}"#);
    assert_eq!(reset.take(4).await, messages(1..=4));

    // 400, with a reason in plain text.
    let huge = "1".repeat(16 * 1024);
    for (query, header, reason) in [
        ("", "x", "invalid Last-Event-ID: "),
        ("", "07", "invalid Last-Event-ID: "),
        ("", "9007199254740992", "invalid Last-Event-ID: "),
        ("", "\u{e9}", "invalid Last-Event-ID: "),
        ("", "1 2", "invalid Last-Event-ID: "),
        ("", "1, 1", "invalid Last-Event-ID: "),
        ("", &huge, "invalid Last-Event-ID: "),
        ("?lastEventId=-1", "", "invalid Last-Event-ID: "),
        ("?lastEventId=%201", "", "invalid Last-Event-ID: "),
        ("?lastEventId=%FF", "", "invalid Last-Event-ID: "),
        ("?lastEventId=%", "", "invalid Last-Event-ID: "),
        ("?last_event_id=1%00", "", "invalid Last-Event-ID: "),
        ("?from=now", "", "invalid from: "),
        ("?since=yesterday", "", "invalid since: "),
    ] {
        let path = format!("/open{query}");
        let response = get(server, &path, &[("Last-Event-ID", header)]).await;
        assert_eq!(response.status, 400, "{query} {header}");
        assert_eq!(
            response.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(response.header("cache-control"), Some("no-store"));
        let body = response.text().await;
        assert!(body.starts_with(reason) && body.ends_with('\n'), "{body:?}");
    }

    // Two positions are an error, even if they are equal.
    for ids in [["1", "2"], ["2", "2"], ["", "2"], ["2", "x"]] {
        let headers = ids.map(|id| ("Last-Event-ID", id));
        let response = get(server, "/ended", &headers).await;
        assert_eq!(response.status, 400, "{ids:?}");
        let body = response.text().await;
        assert!(body.starts_with("invalid Last-Event-ID: "), "{body}");
    }

    // 405, with the permitted methods.
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"] {
        let response = request(server, method, "/open", &[]).await;
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.header("allow"), Some("GET, HEAD"), "{method}");
        assert_eq!(response.text().await, "events are read with GET\n");
    }

    // HEAD is GET without a body.
    for (path, header, status) in [
        ("/open", "", 200),
        ("/ended", "3", 204),
        ("/open", "x", 400),
        ("/broken", "", 503),
    ] {
        let headers = [("Last-Event-ID", header), ("Connection", "close")];
        let response = request(server, "HEAD", path, &headers).await;
        assert_eq!(response.status, status, "{path}");
        if status == 200 {
            assert_eq!(response.header("content-type"), Some(wire::CONTENT_TYPE));
            assert_eq!(response.header("content-length"), None, "a stream has none");
        }
        assert_eq!(response.bytes_until_close().await, b"", "{path}");
    }

    // 503, when the store fails at connect.
    let response = get(server, "/broken", &[]).await;
    assert_eq!(response.status, 503);
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(
        response.text().await,
        "the events cannot be reached, try again later\n"
    );
    // A 503 would end an `EventSource` for good, so it gets a connection that breaks.
    let began = Instant::now();
    let mut response = get(server, "/broken", &[EVENT_SOURCE]).await;
    assert_eq!(response.status, 200);
    for (name, value) in wire::HEADERS {
        assert_eq!(response.header(name), Some(value));
    }
    assert_eq!(response.piece().await, Piece::Bytes(b":\n".to_vec()));
    assert_eq!(response.piece().await, Piece::Cut);
    let waited = began.elapsed().as_secs_f64();
    assert!((1.0..60.0).contains(&waited), "{waited}");
    let headers = [EVENT_SOURCE, ("Connection", "close")];
    let response = request(server, "HEAD", "/broken", &headers).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some(wire::CONTENT_TYPE));
    assert_eq!(response.bytes_until_close().await, b"");
}

/// The header that every `EventSource` sends.
const EVENT_SOURCE: (&str, &str) = ("Accept", "text/event-stream");

#[tokio::test]
async fn many_logs_are_found_by_their_path() {
    let job = Target::new(MemoryEventStore::new());
    append(&job, 1..=2).await;
    job.dispatch_encoded(vec![event(3).terminal()])
        .await
        .unwrap();
    let lookups = Arc::new(AtomicUsize::new(0));
    let looked = Arc::clone(&lookups);
    let events = Sse::new().route_with(move |(kind, id): (String, u32)| {
        let job = job.clone();
        looked.fetch_add(1, Ordering::SeqCst);
        async move {
            match (kind.as_str(), id) {
                ("job", 7) => Ok(job),
                ("job", 8) => Err(Refusal::Unavailable),
                _ => Err(Refusal::NotFound("there is no such job")),
            }
        }
    });
    let dispatch = || async { "dispatched" };
    let server = serve(Router::new().route("/{kind}/{id}/sse", events.post(dispatch))).await;

    let (all, end) = get(server, "/job/7/sse", &[]).await.events().rest().await;
    assert_eq!((all, end), (messages(1..=3), Piece::End));
    let unknown = get(server, "/job/9/sse", &[]).await;
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.header("cache-control"), Some("no-store"));
    assert_eq!(unknown.text().await, "there is no such job\n");
    assert_eq!(get(server, "/job/8/sse", &[]).await.status, 503);
    assert_eq!(get(server, "/job/8/sse", &[EVENT_SOURCE]).await.status, 200);
    assert_eq!(get(server, "/job/9/sse", &[EVENT_SOURCE]).await.status, 404);
    assert_eq!(get(server, "/job/x/sse", &[]).await.status, 400);
    for (path, status) in [("/job/8/sse", 503), ("/job/9/sse", 404)] {
        let response = request(server, "HEAD", path, &[]).await;
        assert_eq!(response.status, status, "{path}");
    }
    // Requests that no log could serve are refused before the lookup.
    let before = lookups.load(Ordering::SeqCst);
    for path in ["/job/7/sse", "/job/9/sse"] {
        assert_eq!(request(server, "DELETE", path, &[]).await.status, 405);
        let bad = get(server, path, &[("Last-Event-ID", "x")]).await;
        assert_eq!(bad.status, 400, "{path}");
    }
    assert_eq!(lookups.load(Ordering::SeqCst), before);
    // Another method beside it works as in any route.
    let posted = request(server, "POST", "/job/7/sse", &[]).await;
    assert_eq!(posted.text().await, "dispatched");
}

#[tokio::test(start_paused = true)]
async fn clients_held_by_a_failing_store_come_back_one_after_another() {
    const WAITING: usize = 200;
    let (sse, bodies) = waiting(Sse::new(), WAITING).await;
    let began = tokio::time::Instant::now();
    let cuts = bodies.into_iter().map(async |mut body| {
        assert_eq!(cut(body.next().await), Some(StreamCut::Unavailable));
        assert!(body.next().await.is_none());
        began.elapsed().as_millis()
    });
    let mut cuts = futures_util::future::join_all(cuts).await;
    cuts.sort_unstable();
    assert!(cuts[0] >= 1_000 && cuts[WAITING - 1] <= 3_001, "{cuts:?}");
    // The times are random, so not even; but each half of the time has its share.
    let early = cuts.iter().filter(|time| **time < 2_000).count();
    assert!((50..150).contains(&early), "{cuts:?}");
    drop(sse);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_held_clients() {
    let shutdown = Shutdown::new();
    let (_sse, bodies) = waiting(Sse::new().shutdown(&shutdown), 3).await;
    let began = tokio::time::Instant::now();
    shutdown.begin();
    for mut body in bodies {
        assert_eq!(cut(body.next().await), Some(StreamCut::Unavailable));
    }
    assert!(began.elapsed() < Duration::from_millis(100));
}

fn cut<T, E>(item: Option<Result<T, StreamCut<E>>>) -> Option<StreamCut<E>> {
    item.and_then(Result::err)
}

/// `EventSource`s of a log that cannot be reached, each after its first heartbeat.
async fn waiting(sse: Sse, count: usize) -> (Sse, Vec<ssetarget::http::SseBody<IsBroken>>) {
    let store = Broken::new(MemoryEventStore::new());
    store.fails.store(true, Ordering::SeqCst);
    let target = Target::new(store);
    let mut bodies = Vec::new();
    for _ in 0..count {
        let request = axum::http::Request::builder().header(EVENT_SOURCE.0, EVENT_SOURCE.1);
        let response = sse.respond(&target, &request.body(()).unwrap()).await;
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        assert_eq!(body.next().await.unwrap().unwrap(), ":\n");
        bodies.push(body);
    }
    (sse, bodies)
}

// Delivery.

#[tokio::test]
async fn live_and_replayed_bytes_are_the_same_and_every_id_resumes() {
    let target = Target::new(MemoryEventStore::new());
    let server = serve(Router::new().route("/sse", sse(target.clone()))).await;
    let live = tokio::spawn(async move { get(server, "/sse", &[]).await.bytes().await });
    let texts = ["plain", "two\nlines", "é🦀", "", "a\r\nb\rc\n"];
    for (number, text) in texts.iter().enumerate() {
        // One at a time, so that the reader is live for some of them.
        let event = NewEvent::new("text", *text).unwrap();
        let last = number + 1 == texts.len();
        let event = if last { event.terminal() } else { event };
        target.dispatch_encoded(vec![event]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let live = live.await.unwrap();
    let replayed = get(server, "/sse", &[]).await.bytes().await;
    assert_eq!(live, replayed, "no heartbeat was due but the first");

    let page = target
        .store()
        .read(None, PageLimit::default())
        .await
        .unwrap();
    let bytes = |events: &[StoredEvent]| {
        let mut bytes = wire::HEARTBEAT.to_vec();
        events
            .iter()
            .for_each(|event| wire::encode(event, &mut bytes));
        bytes
    };
    assert_eq!(replayed, bytes(&page.events));
    for seen in 1..page.events.len() {
        let id = page.events[seen - 1].id.to_string();
        let resumed = get(server, "/sse", &[("Last-Event-ID", &id)]).await;
        assert_eq!(
            resumed.bytes().await,
            bytes(&page.events[seen..]),
            "after {id}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_filled_with_heartbeats() {
    let target = Target::new(MemoryEventStore::new());
    let quick = Duration::from_secs(2);
    let app = Router::new()
        .route("/sse", sse(target.clone()))
        .route("/quick", Sse::new().heartbeat(quick).route(target.clone()));
    let server = serve(app).await;
    // The clock jumps to the next timer only when there is nothing else to do.
    for (path, interval) in [("/sse", HEARTBEAT_INTERVAL), ("/quick", quick)] {
        let mut response = get(server, path, &[]).await;
        assert_eq!(response.piece().await, Piece::Bytes(b":\n".to_vec()));
        let began = tokio::time::Instant::now();
        for beats in 1..=4 {
            assert_eq!(response.piece().await, Piece::Bytes(b":\n".to_vec()));
            assert!(began.elapsed() > interval * (beats - 1), "{path} {beats}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_costs_a_page_and_gets_everything() {
    const EVENTS: usize = 400;
    const SIZE: usize = 32 * 1024;
    /// A generous bound for the buffers of the two sockets: the system rounds up.
    const SOCKETS: usize = 1 << 20;
    let store = Broken::new(MemoryEventStore::new());
    let target = Target::new(store);
    let big = |_| NewEvent::new("big", "x".repeat(SIZE)).unwrap();
    target
        .dispatch_encoded((1..EVENTS).map(big).collect())
        .await
        .unwrap();
    target
        .dispatch_encoded(vec![big(0).terminal()])
        .await
        .unwrap();

    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(64 * 1024).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    let app: Router = Router::new().route("/sse", sse(target.clone()));
    tokio::spawn(async { axum::serve(listener, app).await });

    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let connection = socket.connect(address).await.unwrap();
    let mut events = send(connection, "GET", "/sse", &[]).await.events();
    let mut got = 0;
    while let Ok(message) = events.next().await {
        got += 1;
        assert_eq!(message.id, got.to_string());
        let read = target.store().events_read.load(Ordering::SeqCst);
        let ahead = read.saturating_sub(got) * SIZE;
        assert!(
            ahead < SOCKETS + 4 * PageLimit::default().bytes,
            "{ahead} bytes ahead"
        );
        // It reads more slowly than the server writes.
        tokio::task::yield_now().await;
    }
    assert_eq!(got, EVENTS);
}

#[tokio::test]
async fn a_client_that_leaves_is_forgotten() {
    let target = Target::new(Broken::new(MemoryEventStore::new()));
    append(&target, 1..=1).await;
    let server = serve(Router::new().route("/sse", sse(target.clone()))).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = get(server, "/sse", &[]).await.events();
        assert_eq!(client.take(1).await, messages(1..=1));
        clients.push(client);
    }
    target.store().until_waiting(20).await;
    clients.truncate(3);
    target.store().until_waiting(3).await;
    clients.clear();
    target.store().until_waiting(0).await;
}

#[tokio::test]
async fn a_head_request_leaves_no_waiting_stream() {
    let target = Target::new(Broken::new(MemoryEventStore::new()));
    append(&target, 1..=3).await;
    let shutdown = Shutdown::new();
    let sse = Sse::new().shutdown(&shutdown);
    let server = serve(Router::new().route("/sse", sse.route(target.clone()))).await;
    let head = async |path, id| {
        let headers = [("Last-Event-ID", id), ("Connection", "close")];
        let response = request(server, "HEAD", path, &headers).await;
        let status = response.status;
        assert_eq!(response.bytes_until_close().await, b"");
        status
    };
    for path in ["/sse", "/sse?from=latest", "/sse?since=0"] {
        assert_eq!(head(path, "").await, 200, "{path}");
    }
    assert_eq!(head("/sse", "3").await, 200);
    assert_eq!(target.store().waiting.load(Ordering::SeqCst), 0);
    // It does not delay a server that is about to stop either.
    shutdown.begin();
    assert_eq!(head("/sse", "").await, 200);
    target
        .dispatch_encoded(vec![event(4).terminal()])
        .await
        .unwrap();
    assert_eq!(head("/sse", "4").await, 204);
}

// Connections that end although the log has not.

#[tokio::test]
async fn a_store_that_fails_in_mid_stream_cuts_the_stream_and_is_reported() {
    let target = Target::new(Broken::new(MemoryEventStore::new()));
    append(&target, 1..=2).await;
    let errors = Arc::new(AtomicUsize::new(0));
    let heard = Arc::clone(&errors);
    let sse = Sse::new().on_error(move |error| {
        assert_eq!(error.to_string(), "broken");
        heard.fetch_add(1, Ordering::SeqCst);
    });
    let log = target.clone();
    let runs = RunRoutes::with_sse(move |_| ready(Ok(log.clone())), sse.clone())
        .prefix("/jobs")
        .merged_by_tag(|_| ready(vec!["a".to_owned()]));
    let routes = Router::new().route("/sse", sse.route(target.clone()));
    let server = serve(routes.merge(runs.into_router())).await;

    let mut client = get(server, "/sse", &[]).await.events();
    assert_eq!(client.take(2).await, messages(1..=2));
    target.store().until_waiting(1).await;
    target.store().fails.store(true, Ordering::SeqCst);
    append_inside(&target, 3).await;
    assert_eq!(client.next().await, Err(Piece::Cut));
    assert_eq!(errors.load(Ordering::SeqCst), 1);

    assert_eq!(
        get(server, "/sse", &[("Last-Event-ID", "2")]).await.status,
        503
    );
    assert_eq!(errors.load(Ordering::SeqCst), 2);
    let of_tag = get(server, "/jobs/sse?tag=red", &[]).await;
    assert_eq!(of_tag.status, 503);
    assert_eq!(errors.load(Ordering::SeqCst), 3);
    target.store().fails.store(false, Ordering::SeqCst);
    let mut client = get(server, "/sse", &[("Last-Event-ID", "2")])
        .await
        .events();
    assert_eq!(client.take(1).await, messages(3..=3));
}

#[tokio::test]
async fn a_graceful_shutdown_moves_clients_to_the_next_server() {
    const CLIENTS: usize = 20;
    const EVENTS: u32 = 200;
    let target = Target::new(MemoryEventStore::new());
    let first = GracefulServer::start(&target).await;
    let second = GracefulServer::start(&target).await;
    append(&target, 1..=10).await;

    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut events = get(first.address, "/sse", &[]).await.events();
        // Each stops at another place, and all are live or about to be.
        let seen = events.take(number % 10 + 1).await;
        clients.push((events, seen));
    }
    // A connection that is idle between two requests must not delay the server's end.
    let idle = tokio::net::TcpStream::connect(first.address).await.unwrap();

    let writer = tokio::spawn({
        let target = target.clone();
        async move {
            for number in 11..=EVENTS {
                append(&target, number..=number).await;
                tokio::task::yield_now().await;
            }
            target
                .dispatch_encoded(vec![event(EVENTS + 1).terminal()])
                .await
                .unwrap();
        }
    });
    first.shutdown.begin();
    assert!(first.shutdown.has_begun());
    for (events, seen) in &mut clients {
        let (more, end) = std::mem::replace(
            events,
            get(second.address, "/sse?from=latest", &[]).await.events(),
        )
        .rest()
        .await;
        seen.extend(more);
        // The client may have had everything before the server noticed: then this was the end.
        let complete = seen.len() == EVENTS as usize + 1;
        assert_eq!(end, if complete { Piece::End } else { Piece::Cut });
    }
    first.stopped.await.unwrap();
    drop(idle);
    writer.await.unwrap();

    for (_, mut seen) in clients {
        let last = seen.last().unwrap().id.clone();
        let response = get(second.address, "/sse", &[("Last-Event-ID", &last)]).await;
        if response.status == 200 {
            let (rest, end) = response.events().rest().await;
            assert_eq!(end, Piece::End);
            seen.extend(rest);
        }
        assert_eq!(seen, messages(1..=EVENTS + 1));
    }
    second.shutdown.begin();
    second.stopped.await.unwrap();
}

#[tokio::test]
async fn a_stream_that_begins_after_the_shutdown_is_cut_at_once() {
    let target = Target::new(MemoryEventStore::new());
    append(&target, 1..=3).await;
    let shutdown = Shutdown::new();
    let sse = Sse::new().shutdown(&shutdown);
    shutdown.begin();
    shutdown.begun().await;
    let server = serve(Router::new().route("/sse", sse.route(target))).await;
    // It does not get a refusal, at which an `EventSource` would give up for ever.
    let mut connection = tokio::net::TcpStream::connect(server).await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    connection
        .write_all(b"GET /sse HTTP/1.1\r\nhost: test\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 200"),
        "{answer}"
    );
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_over_a_time_spreads_the_cuts_evenly() {
    const STREAMS: u32 = 20;
    let target = Target::new(MemoryEventStore::new());
    append(&target, 1..=1).await;
    let shutdown = Shutdown::over(Duration::from_secs(10));
    let sse = Sse::new()
        .shutdown(&shutdown)
        .heartbeat(Duration::from_secs(3600));
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let request = axum::http::Request::new(());
        let mut body = sse.respond(&target, &request).await.into_body();
        assert_eq!(body.next().await.unwrap().unwrap(), ":\n");
        assert!(body.next().await.unwrap().unwrap().starts_with(b"id: 1\n"));
        assert!(futures_util::poll!(body.next()).is_pending());
        streams.push(body);
    }
    let began = tokio::time::Instant::now();
    shutdown.begin();
    let cuts = streams.into_iter().map(async |mut body| {
        // It goes on until its turn comes.
        assert_eq!(body.next().await, Some(Err(StreamCut::Shutdown)));
        assert_eq!(body.next().await, None);
        began.elapsed().as_millis()
    });
    let mut cuts = futures_util::future::join_all(cuts).await;
    cuts.sort_unstable();
    for (number, cut) in cuts.iter().enumerate() {
        let fair = number as u128 * 10_000 / u128::from(STREAMS);
        assert!(cut.abs_diff(fair) <= 1_000, "{cuts:?}");
    }
}

struct GracefulServer {
    address: SocketAddr,
    shutdown: Shutdown,
    stopped: JoinHandle<()>,
}

impl GracefulServer {
    async fn start(target: &Target) -> Self {
        let shutdown = Shutdown::new();
        let events = Sse::new().shutdown(&shutdown).route(target.clone());
        let app: Router = Router::new().route("/sse", events);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let begun = shutdown.begun();
        let (ready, started) = oneshot::channel();
        let stopped = tokio::spawn(async move {
            ready.send(()).unwrap();
            axum::serve(listener, app)
                .with_graceful_shutdown(begun)
                .await
                .unwrap();
        });
        started.await.unwrap();
        Self {
            address,
            shutdown,
            stopped,
        }
    }
}

// CORS.

const ALLOWED: &str = "https://app.example.com";
const OTHER: &str = "https://evil.example";

#[tokio::test]
async fn cors_admits_listed_origins_with_credentials_and_no_others() {
    for server in servers_with_cors().await {
        for origin in ORIGINS {
            for (path, id) in [
                ("/sse", ""),
                ("/sse", "1"),
                ("/sse", "bad"),
                ("/broken", ""),
                ("/unknown", ""),
            ] {
                // Refusals are readable too, and 204 stops only a client that may see it.
                let headers = [("Origin", origin), ("Last-Event-ID", id)];
                for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
                    let response = request(server, method, path, &headers).await;
                    assert_eq!(response.header("access-control-allow-origin"), Some(origin));
                    assert_eq!(
                        response.header("access-control-allow-credentials"),
                        Some("true")
                    );
                    assert_eq!(
                        response.header("access-control-expose-headers"),
                        Some("retry-after")
                    );
                    assert!(varies_by_origin(response.header("vary")));
                }
            }
            for path in ["/sse", "/broken", "/unknown"] {
                let response = preflight(server, path, origin, "last-event-id").await;
                assert_eq!(response.status, 204);
                assert_eq!(response.header("access-control-allow-origin"), Some(origin));
                assert_eq!(
                    response.header("access-control-allow-credentials"),
                    Some("true")
                );
                assert_eq!(response.header("access-control-allow-methods"), Some("GET"));
                let headers = response.header("access-control-allow-headers").unwrap();
                assert!(
                    headers
                        .split(',')
                        .any(|name| name.trim() == "last-event-id"),
                    "{headers}"
                );
                assert_eq!(response.header("access-control-max-age"), Some("3600"));
                assert!(varies_by_origin(response.header("vary")));
            }
        }
        for origin in [
            OTHER,
            "null",
            "https://app.example.com.evil.example",
            "http://app.example.com",
        ] {
            let simple = get(server, "/sse", &[("Origin", origin)]).await;
            let preflight = preflight(server, "/sse", origin, "last-event-id").await;
            assert_eq!((simple.status, preflight.status), (200, 204));
            for response in [simple, preflight] {
                assert_eq!(response.cors_headers(), [""; 0], "{origin}");
                assert!(varies_by_origin(response.header("vary")));
            }
        }
        // The origin is listed, among others.
        let headers = [("Origin", ALLOWED), ("Origin", OTHER)];
        let response = get(server, "/sse", &headers).await;
        assert_eq!(response.cors_headers(), [""; 0]);
        let same_origin = get(server, "/sse", &[]).await;
        assert_eq!(same_origin.status, 200);
        assert_eq!(same_origin.cors_headers(), [""; 0]);
        assert!(
            varies_by_origin(same_origin.header("vary")),
            "else a cache mixes them up"
        );
    }
}

/// A browser must behave the same with this library's CORS and with others'.
#[tokio::test]
async fn a_browser_sees_the_same_as_with_tower_http() {
    use axum::http::{HeaderName, HeaderValue, Method};
    let reference = tower_http::cors::CorsLayer::new()
        .allow_origin(ORIGINS.map(HeaderValue::from_static))
        .allow_credentials(true)
        .allow_methods([Method::GET])
        .allow_headers([HeaderName::from_static("last-event-id")]);
    let reference = serve(events_to_read().await.layer(reference)).await;
    for server in servers_with_cors().await {
        for origin in [
            ORIGINS[0],
            ORIGINS[1],
            OTHER,
            "null",
            "http://app.example.com",
        ] {
            for path in ["/sse", "/unknown"] {
                for with_credentials in [true, false] {
                    let may = async |server| {
                        let response = get(server, path, &[("Origin", origin)]).await;
                        let reads = cors_check(&response, origin, with_credentials);
                        let response = preflight(server, path, origin, "last-event-id").await;
                        let allowed = response.header("access-control-allow-headers");
                        let sends = cors_check(&response, origin, with_credentials)
                            && (200..300).contains(&response.status)
                            && allowed.is_some_and(|names| names.contains("last-event-id"));
                        (reads, sends)
                    };
                    let expected = may(reference).await;
                    assert_eq!(may(server).await, expected, "{origin} {path}");
                    assert_eq!(
                        expected,
                        (ORIGINS.contains(&origin), ORIGINS.contains(&origin))
                    );
                }
            }
        }
    }
}

/// The "CORS check" of the Fetch standard.
fn cors_check(response: &support::http::Response, origin: &str, with_credentials: bool) -> bool {
    match response.header("access-control-allow-origin") {
        Some("*") => !with_credentials,
        Some(allowed) if allowed == origin => {
            let credentials = response.header("access-control-allow-credentials");
            !with_credentials || credentials == Some("true")
        }
        _ => false,
    }
}

const ORIGINS: [&str; 2] = [ALLOWED, "http://localhost:8080"];

/// Serves `/sse` of a log that has ended after one event, and `/broken`.
async fn events_to_read() -> Router {
    let (target, broken) = logs_to_read().await;
    Router::new()
        .route("/sse", sse(target))
        .route("/broken", sse(broken))
}

async fn logs_to_read() -> (Target, Target<Broken>) {
    let target = Target::new(MemoryEventStore::new());
    target
        .dispatch_encoded(vec![event(1).terminal()])
        .await
        .unwrap();
    let store = Broken::new(MemoryEventStore::new());
    store.fails.store(true, Ordering::SeqCst);
    (target, Target::new(store))
}

fn credentials() -> Cors {
    cors(ORIGINS).unwrap().credentials()
}

/// Servers with CORS: through a layer of axum, routes of axum, and hyper.
async fn servers_with_cors() -> [SocketAddr; 3] {
    let layer = serve(events_to_read().await.layer(credentials())).await;

    let with_cors = Sse::new().cors(credentials());
    let (target, broken) = logs_to_read().await;
    let unknown = with_cors
        .clone()
        .route_with(async |_: ()| Err::<Target, _>(Refusal::NotFound("there is no such log")));
    let app = Router::new()
        .route("/sse", with_cors.clone().route(target.clone()))
        .route("/broken", with_cors.clone().route(broken.clone()))
        .route("/unknown", unknown);
    let routes = serve(app).await;

    let hyper = serve_hyper(move |request| {
        let (sse, target, broken) = (with_cors.clone(), target.clone(), broken.clone());
        async move {
            match request.uri().path() {
                "/sse" => sse.respond(&target, &request).await.map(boxed),
                "/broken" => sse.respond(&broken, &request).await.map(boxed),
                _ => {
                    let unknown = Refusal::NotFound("there is no such log");
                    sse.refuse::<Infallible, _>(&request, unknown).map(boxed)
                }
            }
        }
    })
    .await;
    [layer, routes, hyper]
}

async fn preflight(
    server: SocketAddr,
    path: &str,
    origin: &str,
    headers: &str,
) -> support::http::Response {
    let headers = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", headers),
    ];
    request(server, "OPTIONS", path, &headers).await
}

fn varies_by_origin(vary: Option<&str>) -> bool {
    let mut names = vary.unwrap_or_default().split(',');
    names.any(|name| name.trim().eq_ignore_ascii_case("origin"))
}

// Helpers.

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

fn event(number: u32) -> NewEvent {
    NewEvent::new("numbered", format!("{{\"number\":{number}}}")).unwrap()
}

async fn append<S: EventStore>(target: &Target<S>, numbers: std::ops::RangeInclusive<u32>) {
    target
        .dispatch_encoded(numbers.map(event).collect())
        .await
        .unwrap();
}

/// Appends to the log of a store that fails.
async fn append_inside(target: &Target<Broken>, number: u32) {
    target
        .store()
        .inner
        .append(vec![event(number)])
        .await
        .unwrap();
}

fn messages(numbers: std::ops::RangeInclusive<u32>) -> Vec<Message> {
    let message = |number: u32| Message {
        id: number.to_string(),
        event_type: "numbered".to_owned(),
        data: format!("{{\"number\":{number}}}"),
    };
    numbers.map(message).collect()
}

/// A store that fails on request, and counts reads and waiting callers.
struct Broken {
    inner: MemoryEventStore,
    fails: AtomicBool,
    events_read: AtomicUsize,
    waiting: AtomicUsize,
    waiters: Notify,
}

#[derive(Debug, PartialEq)]
struct IsBroken;

impl fmt::Display for IsBroken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for IsBroken {}

impl Broken {
    fn new(inner: MemoryEventStore) -> Self {
        Self {
            inner,
            fails: AtomicBool::new(false),
            events_read: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            waiters: Notify::new(),
        }
    }

    async fn until_waiting(&self, count: usize) {
        loop {
            let changed = self.waiters.notified();
            if self.waiting.load(Ordering::SeqCst) == count {
                return;
            }
            changed.await;
        }
    }

    fn check(&self) -> Result<(), IsBroken> {
        match self.fails.load(Ordering::SeqCst) {
            true => Err(IsBroken),
            false => Ok(()),
        }
    }
}

struct Waiting<'a>(&'a Broken);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        self.0.waiters.notify_one();
    }
}

impl EventStore for Broken {
    type Error = IsBroken;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, IsBroken> {
        self.check()?;
        Ok(self
            .inner
            .append(batch)
            .await
            .unwrap_or_else(|e| match e {}))
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, IsBroken> {
        self.check()?;
        let page = self
            .inner
            .read(after, limit)
            .await
            .unwrap_or_else(|e| match e {});
        self.events_read
            .fetch_add(page.events.len(), Ordering::SeqCst);
        Ok(page)
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), IsBroken> {
        self.check()?;
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.waiters.notify_one();
        let _waiting = Waiting(self);
        self.inner
            .changed(after)
            .await
            .unwrap_or_else(|e| match e {});
        Ok(())
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, IsBroken> {
        self.check()?;
        Ok(self.inner.before(time).await.unwrap_or_else(|e| match e {}))
    }
}
