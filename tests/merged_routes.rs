//! `GET /sse?run=a&run=b` over real sockets: several logs as one stream, for viewers who may read
//! all of them.
#![cfg(feature = "axum")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::collections::HashMap;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use serde_json::Value;
use ssetarget::access::{AccessRequest, Permission};
use ssetarget::http::{RunRoutes, Sse};
use ssetarget::{Cors, MAX_MERGED, MemoryEventStore, NewEvent, Refusal, SseTarget};
use support::http::{Piece, get, request};
use support::sse::Message;
use tokio::net::TcpListener;

type Target = SseTarget<NewEvent, MemoryEventStore>;

/// Logs by id, which tests add to and remove from, and the ids that were looked up.
#[derive(Clone, Default)]
struct Logs {
    targets: Arc<Mutex<HashMap<String, Target>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Logs {
    fn target(&self, id: &str) -> Target {
        let mut targets = self.targets.lock().unwrap();
        let new = || Target::new(MemoryEventStore::new());
        targets.entry(id.to_owned()).or_insert_with(new).clone()
    }

    async fn add(&self, id: &str, data: &str) {
        let event = NewEvent::new("note", data).unwrap();
        self.target(id).dispatch_encoded(vec![event]).await.unwrap();
    }

    async fn end(&self, id: &str) {
        let event = NewEvent::new("done", "{}").unwrap().terminal();
        self.target(id).dispatch_encoded(vec![event]).await.unwrap();
    }

    fn remove(&self, id: &str) {
        self.targets.lock().unwrap().remove(id);
    }

    fn routes(
        &self,
    ) -> RunRoutes<
        impl Fn(String) -> std::future::Ready<Result<Target, Refusal>> + Clone + Send + Sync + 'static,
    > {
        let logs = self.clone();
        let lookup = move |id: String| {
            let found = logs.targets.lock().unwrap().get(&id).cloned();
            logs.asked.lock().unwrap().push(id);
            ready(found.ok_or(Refusal::NotFound("there is no such log")))
        };
        let sse = Sse::new().heartbeat(Duration::from_millis(50));
        RunRoutes::with_sse(lookup, sse).merged().snapshots().page()
    }
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// The run of each event, and its data.
fn seen(messages: &[Message]) -> Vec<(String, String)> {
    let of = |message: &Message| {
        let data: Value = serde_json::from_str(&message.data).unwrap();
        let run = data["runId"].as_str().unwrap().to_owned();
        (run, message.event_type.clone())
    };
    messages.iter().map(of).collect()
}

#[tokio::test]
async fn each_log_comes_once_through_cuts_and_ends_on_its_own() {
    let logs = Logs::default();
    for id in ["a", "b c"] {
        logs.add(id, r#"{"n":1}"#).await;
        logs.add(id, r#"{"n":2}"#).await;
    }
    let server = serve(logs.routes().prefix("/jobs").into_router()).await;
    let path = "/jobs/sse?run=a&run=b%20c";
    let mut stream = get(server, path, &[]).await.events();
    let mut messages = Vec::new();
    while messages.len() < 3 {
        messages.push(stream.next().await.unwrap());
    }
    drop(stream);
    logs.end("a").await;
    let id = messages.last().unwrap().id.clone();
    let resumed = get(server, path, &[("Last-Event-ID", &id)]).await;
    assert_eq!(resumed.status, 200);
    let mut stream = resumed.events();
    while messages.len() < 5 {
        messages.push(stream.next().await.unwrap());
    }
    logs.end("b c").await;
    let (rest, end) = stream.rest().await;
    assert_eq!(end, Piece::End);
    messages.extend(rest);
    for id in ["a", "b c"] {
        let own: Vec<_> = seen(&messages)
            .into_iter()
            .filter_map(|(run, event_type)| (run == id).then_some(event_type))
            .collect();
        assert_eq!(own, ["note", "note", "done"], "{id}");
    }
    // It has all of both, so an EventSource stops. The same holds for a position in the query.
    let id = messages.last().unwrap().id.clone();
    assert_eq!(
        get(server, path, &[("Last-Event-ID", &id)]).await.status,
        204
    );
    let query = format!("{path}&lastEventId={id}");
    assert_eq!(get(server, &query, &[]).await.status, 204);
    let head = request(server, "HEAD", path, &[("Connection", "close")]).await;
    assert_eq!(
        (head.status, head.header("content-type")),
        (200, Some("text/event-stream"))
    );
}

#[tokio::test]
async fn a_log_that_is_gone_leaves_and_one_that_never_was_is_not_found() {
    let logs = Logs::default();
    logs.add("a", "{}").await;
    logs.add("b", "{}").await;
    let server = serve(logs.routes().into_router()).await;
    let unknown = get(server, "/sse?run=a&run=never", &[]).await;
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.text().await, "there is no such log\n");

    let mut stream = get(server, "/sse?run=a&run=b", &[]).await.events();
    stream.next().await.unwrap();
    let id = stream.next().await.unwrap().id;
    drop(stream);
    logs.remove("a");
    logs.add("b", "{}").await;
    let mut stream = get(server, "/sse?run=a&run=b", &[("Last-Event-ID", &id)])
        .await
        .events();
    let next = stream.next().await.unwrap();
    assert_eq!(
        seen(std::slice::from_ref(&next)),
        [("b".into(), "note".into())]
    );
    drop(stream);
    // The id still has its position, so the run is not new to it.
    logs.end("b").await;
    let resumed = get(server, "/sse?run=a&run=b", &[("Last-Event-ID", &next.id)]).await;
    let (rest, end) = resumed.events().rest().await;
    assert_eq!((rest.len(), end), (1, Piece::End));
    let id = &rest[0].id;
    let ended = get(server, "/sse?run=a&run=b", &[("Last-Event-ID", id)]).await;
    assert_eq!(ended.status, 204);
    logs.remove("b");
    let gone = get(server, "/sse?run=a&run=b", &[("Last-Event-ID", id)]).await;
    assert_eq!(gone.status, 204);
}

#[tokio::test]
async fn a_malformed_request_gets_a_plain_reason_and_no_lookup() {
    let logs = Logs::default();
    logs.add("a", "{}").await;
    let server = serve(logs.routes().into_router()).await;
    let many = |number: usize| -> String {
        let runs: Vec<_> = (0..number).map(|number| format!("run=r{number}")).collect();
        format!("/sse?{}", runs.join("&"))
    };
    for (path, headers, reason) in [
        (
            "/sse".to_owned(),
            None,
            "name at least one run: ?run=<id>&run=<id>",
        ),
        (
            "/sse?run=".to_owned(),
            None,
            "name at least one run: ?run=<id>&run=<id>",
        ),
        ("/sse?run=a&run=a".to_owned(), None, "a run is named twice"),
        (
            many(MAX_MERGED + 1),
            None,
            "65 runs are too many for one stream: name up to 64",
        ),
        (
            "/sse?run=a".to_owned(),
            Some("7"),
            "invalid Last-Event-ID: it is not a position of a merged stream: use the id of its last event",
        ),
        (
            "/sse?run=a&from=x".to_owned(),
            None,
            "invalid from: use from=latest or from=beginning",
        ),
    ] {
        let headers: Vec<_> = headers
            .map(|id| ("Last-Event-ID", id))
            .into_iter()
            .collect();
        let response = get(server, &path, &headers).await;
        assert_eq!(response.status, 400, "{path}");
        assert_eq!(response.text().await, format!("{reason}\n"));
    }
    assert!(logs.asked.lock().unwrap().is_empty());
    for method in ["POST", "DELETE"] {
        let response = request(server, method, "/sse?run=a", &[]).await;
        assert_eq!(
            (response.status, response.header("allow")),
            (405, Some("GET, HEAD"))
        );
    }
    assert_eq!(get(server, &many(MAX_MERGED), &[]).await.status, 404);
}

#[tokio::test]
async fn from_the_tail_nothing_is_missed_and_silence_has_heartbeats() {
    let logs = Logs::default();
    logs.add("a", "{}").await;
    logs.target("b");
    let server = serve(logs.routes().into_router()).await;
    let path = "/sse?run=a&run=b&from=latest";
    let mut response = get(server, path, &[]).await;
    let mut bytes = Vec::new();
    while bytes.iter().filter(|byte| **byte == b':').count() < 4 {
        match response.piece().await {
            Piece::Bytes(more) => bytes.extend(more),
            other => panic!("{other:?}"),
        }
    }
    let text = String::from_utf8(bytes).unwrap();
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("id: "))
        .unwrap();
    assert_eq!(text, format!(":\nid: {id}\n\n:\n:\n"));
    drop(response);
    // Before it comes back with that id, both logs have something new.
    logs.add("b", "{}").await;
    logs.end("b").await;
    logs.end("a").await;
    let resumed = get(server, path, &[("Last-Event-ID", id)]).await;
    let (rest, _) = resumed.events().rest().await;
    let mut seen = seen(&rest);
    seen.sort();
    let expected = [("a", "done"), ("b", "done"), ("b", "note")];
    assert_eq!(
        seen,
        expected.map(|(run, of)| (run.to_owned(), of.to_owned()))
    );
}

#[tokio::test]
async fn the_hook_decides_about_every_run_before_anything_is_looked_up() {
    let logs = Logs::default();
    for id in ["a", "b"] {
        logs.add(id, "{}").await;
    }
    let hook = |request: &AccessRequest<'_>| {
        let may = request.query_value("key");
        let now = SystemTime::now();
        ready(match (may.as_deref(), request.id) {
            (Some("all"), _) | (Some("some"), "a") => Permission::granted(),
            (Some("short"), "a") => Permission::granted_until(now + Duration::from_secs(2)),
            (Some("short"), _) => Permission::granted_until(now + Duration::from_secs(3600)),
            _ => Permission::Refused,
        })
    };
    let cors = Cors::new(["https://app.example.com"]).unwrap();
    let routes = logs.routes().access(hook).cors(cors);
    let server = serve(routes.into_router()).await;
    for path in [
        "/sse?run=a&run=b&key=some",
        "/sse?run=a&run=never&key=some",
        "/sse?run=a&run=b&key=some&from=x",
        "/sse?run=b",
    ] {
        let response = get(server, path, &[("Origin", "https://app.example.com")]).await;
        assert_eq!(response.status, 401, "{path}");
        assert_eq!(
            response.header("access-control-allow-origin"),
            Some("https://app.example.com")
        );
    }
    assert!(logs.asked.lock().unwrap().is_empty());
    let all = get(server, "/sse?run=a&run=b&key=all", &[]).await;
    assert_eq!(all.status, 200);
    assert_eq!(
        get(server, "/sse?run=a&run=never&key=all", &[])
            .await
            .status,
        404
    );
    // The stream ends with the first permission that ends.
    let short = get(server, "/sse?run=a&run=b&key=short", &[]).await;
    let (events, end) = short.events().rest().await;
    let types: Vec<_> = events.iter().map(|event| &*event.event_type).collect();
    assert_eq!((types, end), (vec!["note", "note", "expired"], Piece::End));
}

#[cfg(feature = "links")]
#[tokio::test]
async fn a_stream_ends_when_its_link_is_revoked() {
    use ssetarget::access::{CapabilityLinks, LinkGenerations, LinkGrant, LinkKeys};

    let logs = Logs::default();
    logs.add("a", "{}").await;
    logs.add("b", "{}").await;
    let keys = LinkKeys::parse("k1:bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=").unwrap();
    let generations = LinkGenerations::new();
    let links = CapabilityLinks::new(keys, "logs").generations(&generations);
    let token = format!("Bearer {}", links.token(&LinkGrant::all_runs()));
    let server = serve(logs.routes().links(links).into_router()).await;
    for (path, events, revoked) in [("/sse?run=a&run=b", 2, "b"), ("/a/sse", 1, "a")] {
        let opened = get(server, path, &[("Authorization", &token)]).await;
        let mut stream = opened.events();
        for _ in 0..events {
            assert_eq!(stream.next().await.unwrap().event_type, "note", "{path}");
        }
        generations.revoke(revoked);
        let (rest, end) = stream.rest().await;
        let types: Vec<_> = rest.iter().map(|event| &*event.event_type).collect();
        assert_eq!((types, end), (vec!["expired"], Piece::End), "{path}");
        let again = get(server, path, &[("Authorization", &token)]).await;
        assert_eq!(again.status, 401, "{path}");
    }
}

#[tokio::test]
async fn a_reset_of_one_log_leaves_the_others_alone() {
    let logs = Logs::default();
    logs.add("a", "{}").await;
    logs.add("b", "{}").await;
    let server = serve(logs.routes().into_router()).await;
    let mut stream = get(server, "/sse?run=a&run=b", &[]).await.events();
    stream.next().await.unwrap();
    let id = stream.next().await.unwrap().id;
    drop(stream);
    // Another log under the same name, with fewer events than the client has.
    logs.remove("a");
    logs.target("a");
    logs.end("b").await;
    let mut stream = get(server, "/sse?run=a&run=b", &[("Last-Event-ID", &id)])
        .await
        .events();
    let mut messages = vec![stream.next().await.unwrap(), stream.next().await.unwrap()];
    logs.end("a").await;
    messages.extend(stream.rest().await.0);
    let mut seen = seen(&messages);
    seen.sort();
    let expected = [("a", "done"), ("a", "reset"), ("b", "done")];
    assert_eq!(
        seen,
        expected.map(|(run, of)| (run.to_owned(), of.to_owned()))
    );
}

#[tokio::test]
async fn a_client_of_a_tag_that_starts_at_the_tail_misses_nothing_while_it_is_away() {
    for before in [&["a"][..], &[]] {
        let logs = Logs::default();
        logs.add("a", "{}").await;
        let named = Arc::new(Mutex::new(before.to_vec()));
        let set = Arc::clone(&named);
        let routes = logs.routes().merged_by_tag(move |_| {
            let named = set.lock().unwrap().clone();
            ready(named.into_iter().map(str::to_owned).collect())
        });
        let server = serve(routes.into_router()).await;
        let path = "/sse?tag=red&from=latest";
        let mut response = get(server, path, &[]).await;
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\n\n") {
            match response.piece().await {
                Piece::Bytes(more) => bytes.extend(more),
                other => panic!("{other:?}"),
            }
        }
        let text = String::from_utf8(bytes).unwrap();
        let id = text.lines().find_map(|line| line.strip_prefix("id: "));
        let id = id.unwrap();
        drop(response);
        // While it is away.
        logs.add("a", r#"{"new":1}"#).await;
        logs.end("a").await;
        *named.lock().unwrap() = vec!["a"];
        let mut stream = get(server, path, &[("Last-Event-ID", id)]).await.events();
        let mut new = stream.next().await.unwrap();
        if before.is_empty() {
            // The log joins a client that did not know it from its beginning.
            new = stream.next().await.unwrap();
        }
        assert!(new.data.contains(r#""new":1"#), "{}", new.data);
        assert_eq!(stream.next().await.unwrap().event_type, "done");
    }
}

#[tokio::test]
async fn a_client_of_a_tag_that_is_far_behind_gets_logs_that_are_new() {
    const EVENTS: usize = 20_000;
    let logs = Logs::default();
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(1_000));
    for _ in 0..EVENTS {
        logs.add("a", &long).await;
    }
    logs.add("b", "{}").await;
    let named = Arc::new(Mutex::new(vec!["a".to_owned()]));
    let set = Arc::clone(&named);
    let routes = logs.routes().merged_by_tag(move |_| {
        let named = set.lock().unwrap().clone();
        ready(named)
    });
    let server = serve(routes.into_router()).await;
    let mut stream = get(server, "/sse?tag=red", &[]).await.events();
    let begun = Instant::now();
    named.lock().unwrap().push("b".to_owned());
    let mut of_a = 0;
    // It reads so slowly for some seconds that the server always has something for it.
    while !stream.next().await.unwrap().data.contains(r#""runId":"b""#) {
        of_a += 1;
        if of_a % 32 == 0 && begun.elapsed() < Duration::from_secs(6) {
            tokio::time::sleep(Duration::from_millis(8)).await;
        }
    }
    assert!(of_a < EVENTS, "b came after all {EVENTS} events of a");
}

#[tokio::test]
async fn the_logs_of_a_tag_come_and_go_and_a_client_misses_none() {
    let logs = Logs::default();
    let named = Arc::new(Mutex::new(vec!["a".to_owned()]));
    let set = Arc::clone(&named);
    let routes = logs.routes().merged_by_tag(move |tag| {
        let named = set.lock().unwrap().clone();
        ready(if tag == "red" { named } else { Vec::new() })
    });
    let routes = routes.access(|request: &AccessRequest<'_>| {
        let may = request.is_list && request.id == "tag:red" || request.id == "a";
        ready(if may {
            Permission::granted()
        } else {
            Permission::Refused
        })
    });
    let server = serve(routes.into_router()).await;
    for (path, status) in [
        ("/sse?tag=blue", 401),
        ("/sse?run=b", 401),
        ("/sse?run=a&tag=", 404),
    ] {
        assert_eq!(get(server, path, &[]).await.status, status, "{path}");
    }
    let path = "/sse?tag=red";
    let refused = get(server, path, &[("Last-Event-ID", "7")]).await;
    assert_eq!(refused.status, 400);
    // There is nothing yet, and the stream stays open.
    let mut stream = get(server, path, &[]).await.events();
    logs.add("a", "{}").await;
    let mut messages = vec![stream.next().await.unwrap()];
    // It joins.
    logs.add("b", "{}").await;
    logs.add("b", "{}").await;
    named.lock().unwrap().push("b".to_owned());
    while messages.len() < 3 {
        messages.push(stream.next().await.unwrap());
    }
    logs.end("a").await;
    messages.push(stream.next().await.unwrap());
    // It goes on, as after a restart: what follows comes, and nothing twice.
    logs.add("a", r#"{"run":2}"#).await;
    let next = tokio::time::timeout(Duration::from_secs(60), stream.next());
    let next = next.await.unwrap().unwrap();
    assert_eq!(
        (next.event_type.as_str(), next.data.contains("2}")),
        ("note", true)
    );
    logs.end("a").await;
    messages.extend([next, stream.next().await.unwrap()]);
    drop(stream);
    // While nobody is connected, one begins and ends, and one goes on.
    logs.add("c", "{}").await;
    logs.end("c").await;
    logs.end("b").await;
    named.lock().unwrap().push("c".to_owned());
    let id = messages.last().unwrap().id.clone();
    let resumed = get(server, path, &[("Last-Event-ID", &id)]).await;
    assert_eq!(resumed.status, 200);
    let mut stream = resumed.events();
    while messages.len() < 9 {
        messages.push(stream.next().await.unwrap());
    }
    // All have ended: it stays open for the next one, which was there before it was named.
    logs.add("d", "{}").await;
    *named.lock().unwrap() = vec!["d".to_owned()];
    messages.push(stream.next().await.unwrap());
    let id = messages.last().unwrap().id.clone();
    assert_eq!(
        id.matches('.').count(),
        1,
        "those that have left are in no id: {id}"
    );
    let mut seen = seen(&messages);
    seen.sort();
    let expected = [
        ("a", "done"),
        ("a", "done"),
        ("a", "note"),
        ("a", "note"),
        ("b", "done"),
        ("b", "note"),
        ("b", "note"),
        ("c", "done"),
        ("c", "note"),
        ("d", "note"),
    ];
    assert_eq!(
        seen,
        expected.map(|(run, name)| (run.to_owned(), name.to_owned()))
    );
}
