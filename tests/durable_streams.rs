//! A log read in the Durable Streams protocol: catching up, waiting, streams, ends, refusals.
#![cfg(all(feature = "durable-streams", feature = "http"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::future::ready;
use std::time::{Duration, SystemTime};

use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, Request};
use serde_json::{Value, json};
use ssetarget::access::{AccessRequest, Permission};
use ssetarget::http::{RunRoutes, Shutdown, Sse};
use ssetarget::store::Retention;
use ssetarget::{Cors, MemoryEventStore, NewEvent, Refusal, SseTarget};
use tokio::time::Instant;

type Target = SseTarget<NewEvent, MemoryEventStore>;

struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// Returns the offset, and the state of the end.
    fn ends(&self) -> (&str, bool, bool) {
        let next = self.header("stream-next-offset").unwrap();
        let is = |name| self.header(name) == Some("true");
        (next, is("stream-up-to-date"), is("stream-closed"))
    }
}

async fn send(sse: &Sse, target: &Target, request: Request<()>) -> Answer {
    let response = sse.durable_stream(target, &request, Permission::granted());
    let response = response.await;
    let (parts, body) = response.into_parts();
    let chunks: Vec<_> = body.map(Result::unwrap).collect().await;
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        text: String::from_utf8(chunks.concat()).unwrap(),
    }
}

async fn get(target: &Target, query: &str) -> Answer {
    let request = Request::get(format!("/log/stream?{query}"))
        .body(())
        .unwrap();
    send(&Sse::new(), target, request).await
}

fn note(data: &str) -> NewEvent {
    NewEvent::new("note", data).unwrap()
}

async fn add(target: &Target, events: Vec<NewEvent>) {
    target.dispatch_encoded(events).await.unwrap();
}

async fn log(events: Vec<NewEvent>) -> Target {
    let target = Target::new(MemoryEventStore::new());
    add(&target, events).await;
    target
}

const START: &str = "0000000000000000";
const FIRST: &str = "0000000000000001";
const SECOND: &str = "0000000000000002";

#[tokio::test(start_paused = true)]
async fn catching_up_gives_messages_and_says_where_they_end() {
    let target = log(vec![note(r#"{"a":1}"#), note("hello")]).await;
    let all = get(&target, "offset=-1").await;
    assert_eq!(all.status, 200);
    assert_eq!(all.header("content-type"), Some("application/json"));
    assert_eq!(all.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(
        all.json(),
        json!([{ "id": 1, "type": "note", "data": { "a": 1 } }, { "id": 2, "type": "note", "data": "hello" }])
    );
    assert_eq!(all.ends(), (SECOND, true, false));
    assert_eq!(get(&target, "").await.text, all.text);
    assert_eq!(
        get(&target, &format!("offset={START}")).await.text,
        all.text
    );

    let rest = get(&target, &format!("offset={FIRST}")).await;
    assert_eq!(
        rest.json(),
        json!([{ "id": 2, "type": "note", "data": "hello" }])
    );
    let none = get(&target, &format!("offset={SECOND}")).await;
    assert_eq!((none.status, none.text.as_str()), (200, "[]"));
    assert_eq!(none.ends(), (SECOND, true, false));

    let now = get(&target, "offset=now").await;
    assert_eq!(
        (now.text.as_str(), now.ends()),
        ("[]", (SECOND, true, false))
    );
    assert_eq!(now.header("cache-control"), Some("no-store"));
    assert_eq!(now.header("etag"), None);

    add(&target, vec![note("1").terminal()]).await;
    let end = get(&target, &format!("offset={SECOND}")).await;
    assert_eq!(end.ends(), ("0000000000000003", true, true));
    let behind = get(&target, "offset=0000000000000003").await;
    assert_eq!((behind.text.as_str(), behind.ends().2), ("[]", true));
}

#[tokio::test(start_paused = true)]
async fn a_long_log_comes_in_parts() {
    let target = log((0..1200).map(|n| note(&n.to_string())).collect()).await;
    add(&target, vec![note("1200").terminal()]).await;
    let (mut offset, mut seen, mut parts) = ("-1".to_owned(), Vec::new(), 0);
    loop {
        let part = get(&target, &format!("offset={offset}")).await;
        seen.extend(
            part.json()
                .as_array()
                .unwrap()
                .iter()
                .map(|message| message["data"].clone()),
        );
        parts += 1;
        let (next, is_up_to_date, is_closed) = part.ends();
        assert_eq!(is_up_to_date, is_closed);
        offset = next.to_owned();
        if is_closed {
            break;
        }
        assert!(part.header("cache-control").unwrap().contains("max-age=60"));
    }
    assert_eq!(seen, (0..=1200).map(Value::from).collect::<Vec<_>>());
    assert!(parts > 2);
}

#[tokio::test(start_paused = true)]
async fn shared_caches_keep_nothing_that_not_everybody_may_read() {
    let target = log((0..1200).map(|n| note(&n.to_string())).collect()).await;
    let cached = async |sse: &Sse, permission: Permission, query: &str| {
        let request = Request::get(format!("/log/stream?{query}"));
        let response = sse.durable_stream(&target, &request.body(()).unwrap(), permission);
        let response = response.await;
        let cached = response.headers()["cache-control"].to_str().unwrap();
        cached.to_owned()
    };
    let until = SystemTime::now() + Duration::from_secs(3600);
    let by_link = Permission::Granted {
        until: None,
        generation: Some(0),
    };
    let (open, private) = (Sse::new(), Sse::new().private());
    for (sse, permission, is_private) in [
        (&open, Permission::granted(), false),
        (&open, Permission::granted_until(until), true),
        (&open, by_link, true),
        (&private, Permission::granted(), true),
    ] {
        let part = cached(sse, permission, "offset=-1").await;
        let end = cached(sse, permission, "offset=0000000000001199").await;
        let expected = match is_private {
            true => ["private, no-cache"; 2],
            false => ["public, max-age=60, stale-while-revalidate=300", "no-cache"],
        };
        assert_eq!([part.as_str(), end.as_str()], expected, "{permission:?}");
    }
    // The switch is good for all that serves these logs.
    let log = target.clone();
    let routes = RunRoutes::with_sse(move |_| ready(Ok::<_, Refusal>(log.clone())), private);
    let routes = routes.durable_streams().snapshots().page();
    for (path, accept, expected) in [
        ("/log/stream", "*/*", "private, no-cache"),
        ("/log", "application/json", "private, no-cache"),
        ("/log", "text/html", "no-store"),
    ] {
        let request = Request::get(path).header("accept", accept);
        let response = routes.serve(&request.body(()).unwrap()).await.unwrap();
        assert_eq!(response.headers()["cache-control"], expected, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tag_that_is_known_saves_the_body_and_changes_with_the_end() {
    let target = log(vec![note("1")]).await;
    let ask = async |tag: &str| {
        let request = Request::get("/log/stream?offset=-1").header("if-none-match", tag);
        send(&Sse::new(), &target, request.body(()).unwrap()).await
    };
    let first = get(&target, "offset=-1").await;
    let tag = first.header("etag").unwrap();
    let known = ask(tag).await;
    assert_eq!((known.status, known.text.as_str()), (304, ""));
    assert_eq!(known.ends(), first.ends());
    add(&target, vec![note("2").terminal()]).await;
    assert_eq!(ask(tag).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn head_says_where_the_stream_ends() {
    let target = log(vec![note("1")]).await;
    let head = async || {
        let request = Request::head("/log/stream").body(()).unwrap();
        send(&Sse::new(), &target, request).await
    };
    let open = head().await;
    assert_eq!((open.status, open.text.as_str()), (200, ""));
    assert_eq!(open.header("stream-next-offset"), Some(FIRST));
    assert_eq!(open.header("stream-closed"), None);
    assert_eq!(open.header("cache-control"), Some("no-store"));
    add(&target, vec![note("2").terminal()]).await;
    assert_eq!(head().await.header("stream-closed"), Some("true"));
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_waits_for_what_follows_and_not_for_ever() {
    let target = log(vec![note("1")]).await;
    assert_eq!(
        get(&target, "live=long-poll&offset=-1").await.ends(),
        (FIRST, true, false)
    );

    let began = Instant::now();
    let none = get(&target, &format!("live=long-poll&offset={FIRST}")).await;
    assert_eq!((none.status, none.text.as_str()), (204, ""));
    assert_eq!(none.ends(), (FIRST, true, false));
    assert!(began.elapsed() >= Duration::from_secs(20));
    let cursor: u64 = none.header("stream-cursor").unwrap().parse().unwrap();

    let query = format!("cursor={cursor}&live=long-poll&offset=now");
    let (waited, ()) = futures_util::join!(get(&target, &query), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        add(&target, vec![note("2")]).await;
    });
    assert_eq!(waited.json()[0]["data"], 2);
    assert_eq!(waited.ends(), (SECOND, true, false));
    let next: u64 = waited.header("stream-cursor").unwrap().parse().unwrap();
    assert!(next > cursor, "{next} after {cursor}");

    add(&target, vec![note("3").terminal()]).await;
    let began = Instant::now();
    for offset in ["0000000000000003", "now"] {
        let closed = get(&target, &format!("live=long-poll&offset={offset}")).await;
        assert_eq!(closed.status, 204);
        assert_eq!(closed.ends(), ("0000000000000003", true, true));
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// The events of the mode `sse`: type and data.
fn events(text: &str) -> Vec<(String, Value)> {
    let event = |block: &str| {
        let (name, data) = block.split_once('\n').unwrap();
        let data: String = data
            .lines()
            .map(|line| line.strip_prefix("data: ").unwrap())
            .collect();
        let name = name.strip_prefix("event: ").unwrap();
        (name.to_owned(), serde_json::from_str(&data).unwrap())
    };
    text.split_terminator("\n\n").map(event).collect()
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_what_is_there_and_what_follows_to_the_end() {
    let target = log(vec![note("1")]).await;
    let (stream, ()) = futures_util::join!(get(&target, "live=sse&offset=-1"), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        add(&target, vec![note("2"), note("3")]).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        add(&target, vec![note("4").terminal()]).await;
    });
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
    let events = events(&stream.text);
    let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["data", "control", "data", "control", "data", "control"]
    );
    assert_eq!(events[2].1.as_array().unwrap().len(), 2);
    assert_eq!(events[3].1["streamNextOffset"], "0000000000000003");
    assert_eq!(events[3].1["upToDate"], true);
    assert!(events[3].1["streamCursor"].is_string());
    assert_eq!(
        events[5].1,
        json!({ "streamNextOffset": "0000000000000004", "upToDate": true, "streamClosed": true })
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_says_at_once_where_it_is_and_ends_after_a_minute() {
    let target = log(vec![note("1")]).await;
    let began = Instant::now();
    let stream = get(&target, "live=sse&offset=now").await;
    assert_eq!(began.elapsed().as_secs(), 60);
    let [(name, control)] = &events(&stream.text)[..] else {
        panic!("{}", stream.text);
    };
    assert_eq!(
        (name.as_str(), &control["streamNextOffset"]),
        ("control", &json!(FIRST))
    );
    assert_eq!(control["upToDate"], true);

    add(&target, vec![note("2").terminal()]).await;
    let closed = get(&target, "live=sse&offset=now").await;
    assert_eq!(events(&closed.text).len(), 1);
    assert_eq!(events(&closed.text)[0].1["streamClosed"], true);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_and_a_permission_that_ends_end_what_waits() {
    let target = log(vec![note("1")]).await;
    let shutdown = Shutdown::new();
    let sse = Sse::new().shutdown(&shutdown);
    let ask = |query: &str| {
        Request::get(format!("/log/stream?{query}"))
            .body(())
            .unwrap()
    };
    let began = Instant::now();
    let (stream, poll, ()) = futures_util::join!(
        send(&sse, &target, ask("live=sse&offset=now")),
        send(&sse, &target, ask("live=long-poll&offset=now")),
        async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            shutdown.begin();
        }
    );
    assert_eq!((stream.status, poll.status), (200, 204));
    assert_eq!(began.elapsed().as_secs(), 3);

    let until = std::time::SystemTime::now() + Duration::from_millis(300);
    let request = ask("live=long-poll&offset=now");
    let permission = Permission::granted_until(until);
    let response = Sse::new()
        .durable_stream(&target, &request, permission)
        .await;
    assert_eq!(response.status(), 204);
    let refused = Sse::new().durable_stream(&target, &request, Permission::Refused);
    assert_eq!(refused.await.status(), 401);
}

#[tokio::test(start_paused = true)]
async fn an_offset_that_is_not_in_the_log_is_gone() {
    let store = MemoryEventStore::new().retention(Retention::for_ever().max_events(2));
    let target = Target::new(store);
    add(&target, (1..=5).map(|n| note(&n.to_string())).collect()).await;
    for offset in [START, FIRST, SECOND, "0000000000000006"] {
        for live in ["", "&live=long-poll", "&live=sse"] {
            let gone = get(&target, &format!("offset={offset}{live}")).await;
            assert_eq!(gone.status, 410, "{offset}{live}");
        }
    }
    let kept = get(&target, "offset=-1").await;
    assert_eq!(kept.json()[0]["id"], 4);
    assert_eq!(
        get(&target, "offset=0000000000000003").await.json()[0]["id"],
        4
    );
}

#[tokio::test(start_paused = true)]
async fn malformed_requests_and_writes_are_refused() {
    let target = log(vec![note("1")]).await;
    for query in [
        "offset=7",
        "offset=",
        "live=sse",
        "live=long-poll",
        "offset=-1&live=x",
    ] {
        assert_eq!(get(&target, query).await.status, 400, "{query}");
    }
    for method in ["PUT", "POST", "DELETE"] {
        let request = Request::builder()
            .method(method)
            .uri("/log/stream")
            .body(())
            .unwrap();
        let refused = send(&Sse::new(), &target, request).await;
        assert_eq!(
            (refused.status, refused.header("allow")),
            (405, Some("GET, HEAD"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_a_route_of_each_log_where_it_is_switched_on() {
    let target = log(vec![note("1").terminal()]).await;
    let lookup = move |id: String| {
        ready(match id.as_str() {
            "log" => Ok(target.clone()),
            _ => Err(Refusal::NotFound("there is no such log")),
        })
    };
    let cors = Cors::new(["https://app.example.com"]).unwrap();
    let hook = |request: &AccessRequest<'_>| {
        ready(match request.bearer() {
            Some("key") => Permission::granted(),
            _ => Permission::Refused,
        })
    };
    let off = RunRoutes::new(lookup.clone());
    let on = RunRoutes::new(lookup)
        .durable_streams()
        .cors(cors)
        .access(hook);
    let request = |path: &str, key: &str| {
        Request::get(path)
            .header("origin", "https://app.example.com")
            .header("authorization", format!("Bearer {key}"))
            .body(())
            .unwrap()
    };
    assert!(off.serve(&request("/log/stream", "key")).await.is_none());
    let status = async |path: &str, key: &str| {
        on.serve(&request(path, key))
            .now_or_never()
            .unwrap()
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(status("/log/stream?offset=-1", "key").await, 200);
    assert_eq!(status("/unknown/stream?offset=-1", "key").await, 404);
    assert_eq!(status("/log/stream?offset=-1", "other").await, 401);
    assert_eq!(status("/unknown/stream?offset=-1", "other").await, 401);
    let response = on.serve(&request("/log/stream", "key")).await.unwrap();
    let exposed = response.headers().get_all("access-control-expose-headers");
    assert!(
        exposed
            .iter()
            .any(|names| names.to_str().unwrap().contains("stream-next-offset"))
    );
    assert_eq!(response.headers()["cache-control"], "private, no-cache");
}
