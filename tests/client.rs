//! The client for programs: cuts, refusals, ends, resets, tokens and snapshots, against scripted and real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(all(feature = "axum", feature = "client"))]

#[path = "support/script.rs"]
mod script;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use script::{Answer, Script};
use ssetarget::client::{ClientError, Outcome, RunClient, Start, Update};
use ssetarget::workflow::TaskState;
use ssetarget::{MemoryEventStore, NewEvent, SseTarget};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An event of a task, as on the wire.
fn task(id: u64, event_type: &str, name: &str, kind: &str, more: &str) -> String {
    let task = match kind {
        "do" => format!("{name}-1"),
        _ => format!("{name}-1.{kind}"),
    };
    format!(
        "id: {id}\nevent: {event_type}\ndata: {{\"taskId\":\"{task}\",\"step\":\"{name}\",\"kind\":\"{kind}\",\"count\":1,\"timestamp\":\"2026-11-24T09:00:{:02}.000Z\",\"parentId\":null{more}}}\n\n",
        id % 60
    )
}

fn quick(client: RunClient) -> RunClient {
    client
        .connect_for(Duration::from_secs(5))
        .retry_for(Duration::from_secs(5))
}

async fn all(server: &Script) -> (Vec<String>, Option<ClientError>) {
    let client = quick(RunClient::new(&format!("{}/o-1", server.url)).unwrap());
    let mut events = client.events(Start::Default);
    let mut seen = Vec::new();
    while let Some(update) = events.next().await {
        match update {
            Ok(Update::Connected) => seen.push("connected".to_owned()),
            Ok(Update::Disconnected { .. }) => seen.push("disconnected".to_owned()),
            Ok(update) => {
                let event = update.event().unwrap();
                let kind = match &update {
                    Update::Reset(_) => "reset ",
                    Update::Restarted(_) => "restarted ",
                    Update::Expired(_) => "expired ",
                    _ => "",
                };
                seen.push(format!(
                    "{kind}{} {}",
                    event.id.as_deref().unwrap_or("-"),
                    event.event_type
                ));
            }
            Err(error) => return (seen, Some(error)),
        }
    }
    (seen, None)
}

const RETRY: &str = "retry: 20\n\n";

#[tokio::test]
async fn it_goes_on_after_each_cut_and_ends_with_the_run() {
    let second = task(2, "started", "b", "do", "");
    let server = Script::serve([
        Answer::events(format!(
            "{RETRY}{}{}",
            task(1, "started", "o", "workflow", ""),
            &second[..second.len() - 1]
        ))
        .cut(),
        Answer::status("503 Service Unavailable"),
        Answer::events(":\n\n"),
        Answer::events(format!(
            "{second}{}",
            task(3, "completed", "o", "workflow", "")
        ))
        .byte_by_byte(),
        Answer::status("500 must not be asked"),
    ])
    .await;
    let (seen, error) = all(&server).await;
    assert_eq!(error, None);
    assert_eq!(
        seen,
        [
            "connected",
            "1 started",
            "disconnected",
            "disconnected",
            "connected",
            "disconnected",
            "connected",
            "2 started",
            "3 completed"
        ]
    );
    assert_eq!(server.header("last-event-id"), ["", "1", "1", "1"]);
    assert_eq!(server.header("accept"), ["text/event-stream"; 4]);
}

#[tokio::test]
async fn no_content_is_the_end() {
    let server = Script::serve([
        Answer::events(format!("{RETRY}id: 4\nevent: note\ndata: a\n\n")),
        Answer::status("204 No Content"),
    ])
    .await;
    let (seen, error) = all(&server).await;
    assert_eq!(
        (seen, error),
        (
            ["connected", "4 note", "disconnected"]
                .map(str::to_owned)
                .into(),
            None
        )
    );
    assert_eq!(server.header("last-event-id"), ["", "4"]);
}

#[tokio::test]
async fn a_stream_that_stays_open_after_the_end_ends() {
    let server =
        Script::serve([
            Answer::events(task(1, "failed", "o", "workflow", ",\"error\":\"no\"")).open(),
        ])
        .await;
    assert_eq!(all(&server).await.0, ["connected", "1 failed"]);
}

#[tokio::test]
async fn a_restart_after_the_end_goes_on() {
    let text = [
        task(1, "completed", "o", "workflow", ""),
        "id: 2\nevent: restarted\ndata: {\"run\":2}\n\n".to_owned(),
    ];
    let rest = task(3, "completed", "o", "workflow", "");
    let server = Script::serve([
        Answer::events(format!("{RETRY}{}", text.concat())).cut(),
        Answer::events(rest),
    ])
    .await;
    let (seen, error) = all(&server).await;
    assert_eq!(error, None);
    assert_eq!(seen[1..3], ["1 completed", "restarted 2 restarted"]);
    assert_eq!(seen.last().unwrap(), "3 completed");
}

#[tokio::test]
async fn refusals_are_typed() {
    for (answer, expected) in [
        (
            Answer::status("401 Unauthorized"),
            ClientError::NotAllowed { status: 401 },
        ),
        (
            Answer::status("403 Forbidden"),
            ClientError::NotAllowed { status: 403 },
        ),
        (
            Answer::status("404 Not Found"),
            ClientError::UnknownRun { status: 404 },
        ),
        (
            Answer::status("410 Gone"),
            ClientError::UnknownRun { status: 410 },
        ),
        (
            Answer::status("400 Bad Request").piece("bad position\n"),
            ClientError::Refused {
                status: 400,
                reason: "bad position".into(),
            },
        ),
        (
            Answer::status("418 Teapot")
                .piece("x".repeat(100_000))
                .open(),
            ClientError::Refused {
                status: 418,
                reason: "x".repeat(300),
            },
        ),
        (
            Answer::status("200 OK").header("content-type: text/html"),
            ClientError::NotEvents {
                content_type: "text/html".into(),
            },
        ),
        (
            Answer::events(vec![b'x'; 5 << 20]).open(),
            ClientError::TooLarge,
        ),
    ] {
        let server = Script::serve([answer]).await;
        let (_, error) = all(&server).await;
        assert_eq!(error, Some(expected));
        assert_eq!(server.requests().len(), 1, "it is not asked again");
    }
}

#[tokio::test]
async fn it_gives_up_when_a_server_cannot_be_reached_for_too_long() {
    // Nothing listens there, and no other test gets this port.
    let client = RunClient::new("http://127.0.0.1:9/o-1")
        .unwrap()
        .connect_for(Duration::from_millis(10));
    let last = client.events(Start::Default).next().await.unwrap();
    assert!(matches!(last, Err(ClientError::GaveUp { .. })), "{last:?}");

    // A server that asks for more time than the client has.
    let server = Script::serve([Answer::status("503 Busy").header("retry-after: 60")]).await;
    let (_, error) = all(&server).await;
    assert!(matches!(error, Some(ClientError::GaveUp { reason }) if reason.contains("503")));
}

#[tokio::test]
async fn a_silent_connection_counts_as_cut() {
    let server = Script::serve([
        Answer::events(RETRY).open(),
        Answer::status("204 No Content"),
    ])
    .await;
    let client = RunClient::new(&format!("{}/o-1", server.url))
        .unwrap()
        .silence(Duration::from_secs(2));
    let updates: Vec<_> = client
        .events(Start::Default)
        .map(Result::unwrap)
        .collect()
        .await;
    assert!(
        matches!(&updates[..], [Update::Connected, Update::Disconnected { reason, .. }] if reason.contains("silent"))
    );
}

#[tokio::test]
async fn an_expired_permission_can_be_renewed() {
    let server = Script::serve([
        Answer::events(format!(
            "{RETRY}id: 1\nevent: note\ndata: a\n\nevent: expired\ndata: {{\"renew\":true}}\n\n"
        )),
        Answer::events("id: 2\nevent: note\ndata: b\n\n"),
        Answer::status("401 Unauthorized"),
    ])
    .await;
    let client = quick(RunClient::new(&format!("{}/o-1#t=first", server.url)).unwrap());
    let mut events = client.events(Start::Default);
    let mut seen = Vec::new();
    let error = loop {
        match events.next().await.unwrap() {
            Ok(Update::Expired(_)) => events.set_token("second").unwrap(),
            Ok(Update::Event(event)) => seen.push(event.data),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(seen, ["a", "b"]);
    assert_eq!(error, ClientError::NotAllowed { status: 401 });
    assert_eq!(
        server.header("authorization"),
        ["Bearer first", "Bearer second", "Bearer second"]
    );
    assert_eq!(
        server.header("last-event-id"),
        ["", "1", "2"],
        "what has no id does not change the position"
    );
    assert!(server.requests()[0].starts_with("GET /o-1/sse HTTP/1.1"));
}

#[tokio::test]
async fn a_token_does_not_follow_a_redirect_to_another_host() {
    let other = Script::serve([Answer::status("204 No Content")]).await;
    let elsewhere = other.url.replace("127.0.0.1", "localhost");
    let server =
        Script::serve([Answer::status("307 Temporary Redirect")
            .header(&format!("location: {elsewhere}/x/sse"))])
        .await;
    let client = RunClient::new(&format!("{}/o-1?token=in-the-query", server.url))
        .unwrap()
        .token("secret")
        .unwrap();
    assert_eq!(client.events(Start::Default).collect::<Vec<_>>().await, []);
    assert_eq!(server.header("authorization"), ["Bearer secret"]);
    assert_eq!(other.header("authorization"), [""]);
    assert!(!other.requests().concat().contains("in-the-query"));
    let shown = format!("{client:?}");
    assert!(!shown.contains("secret") && !shown.contains("in-the-query"));
    assert_eq!(
        RunClient::new("http://a/o-1")
            .unwrap()
            .token("a\nb")
            .unwrap_err(),
        ClientError::InvalidToken
    );
}

#[tokio::test]
async fn a_run_is_watched_from_its_snapshot() {
    let snapshot = r#"{"id":"o-1","workflow":"order","run":1,"state":"running","started":"2026-11-24T09:00:00.000Z","cursor":5,"taskCount":1,
        "tasks":[{"taskId":"a-1","step":"a","kind":"do","count":1,"parentId":null,"state":"running","started":"2026-11-24T09:00:00.000Z"}]}"#;
    let server = Script::serve([
        Answer::status("200 OK")
            .header("content-type: application/json")
            .piece(snapshot),
        Answer::events(format!(
            "{}{}",
            task(6, "completed", "a", "do", ""),
            task(7, "failed", "o", "workflow", ",\"error\":\"no\"")
        )),
    ])
    .await;
    let client = RunClient::new(&format!("{}/o-1", server.url)).unwrap();
    let mut run = client.watch().await.unwrap();
    assert_eq!(run.snapshot().unwrap().workflow.as_deref(), Some("order"));
    assert_eq!(run.view().tasks[0].state, TaskState::Running);
    while let Some(update) = run.next().await {
        update.unwrap();
    }
    assert_eq!(run.view().tasks[0].state, TaskState::Completed);
    assert_eq!(run.outcome(), Some(Outcome::Failed));
    assert_eq!(server.header("last-event-id"), ["", "5"]);
    assert_eq!(
        server.header("accept"),
        ["application/json", "text/event-stream"]
    );
}

#[tokio::test]
async fn without_a_snapshot_it_begins_with_the_log() {
    for page in [
        Answer::status("200 OK")
            .header("content-type: text/html")
            .piece("<p>"),
        Answer::status("404 Not Found"),
        Answer::status("500 No"),
    ] {
        let server = Script::serve([
            page,
            Answer::events(task(1, "completed", "o", "workflow", "")),
        ])
        .await;
        let mut run = RunClient::new(&format!("{}/o-1", server.url))
            .unwrap()
            .watch()
            .await
            .unwrap();
        while let Some(update) = run.next().await {
            update.unwrap();
        }
        assert_eq!(run.outcome(), Some(Outcome::Completed));
        assert!(run.snapshot().is_none());
    }
    let server = Script::serve([Answer::status("401 Unauthorized")]).await;
    let refused = RunClient::new(&format!("{}/o-1", server.url))
        .unwrap()
        .watch()
        .await;
    assert_eq!(refused.err(), Some(ClientError::NotAllowed { status: 401 }));
}

#[tokio::test]
async fn the_end_of_a_run_is_known_afterwards() {
    let server = Script::serve_with(|request| match request.lines().next().unwrap() {
        line if line.contains("?from=beginning ") => Answer::events(format!(
            "{}{}",
            task(1, "started", "o", "workflow", ""),
            task(
                2,
                "failed",
                "o",
                "workflow",
                ",\"error\":\"the instance was terminated\""
            )
        )),
        line if line.contains("/sse") => Answer::status("204 No Content"),
        _ => Answer::status("404 Not Found"),
    })
    .await;
    let client = RunClient::new(&format!("{}/o-1", server.url)).unwrap();
    let mut run = client.watch_from(Start::After("2".to_owned()));
    assert_eq!(run.next().await, None);
    assert_eq!(run.outcome(), None);
    assert_eq!(
        Outcome::of(&client.ended().await.unwrap()),
        Some(Outcome::Terminated)
    );
}

#[tokio::test]
async fn an_answer_is_sent_once() {
    let server = Script::serve([
        Answer::status("200 OK"),
        Answer::status("409 Conflict").piece("the run has ended"),
    ])
    .await;
    let client = RunClient::new(&format!("{}/o-1/sse#t=tok", server.url)).unwrap();
    client
        .send("approval", Some(&serde_json::json!({"approved": true})))
        .await
        .unwrap();
    let refused = client.send("approval", None::<&str>).await;
    assert_eq!(
        refused,
        Err(ClientError::Refused {
            status: 409,
            reason: "the run has ended".into()
        })
    );
    let requests = server.requests();
    assert!(requests[0].starts_with("POST /o-1/event HTTP/1.1"));
    assert!(
        requests[0].ends_with(r#"{"payload":{"approved":true},"type":"approval"}"#),
        "{}",
        requests[0]
    );
    assert!(requests[1].ends_with(r#"{"type":"approval"}"#));
    assert_eq!(server.header("authorization"), ["Bearer tok"; 2]);
}

#[tokio::test]
async fn an_answer_is_not_sent_on_to_where_a_server_redirects() {
    let elsewhere = Script::serve([Answer::status("200 OK").piece("log in")]).await;
    for status in [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary",
        "308 Permanent",
    ] {
        let location = format!("location: {}/login?next=1&token=secret", elsewhere.url);
        let server = Script::serve([Answer::status(status).header(&location)]).await;
        let client = RunClient::new(&format!("{}/o-1", server.url)).unwrap();
        let error = client.send("approval", None::<&str>).await.unwrap_err();
        let to = format!("{}/login?next=1", elsewhere.url);
        let says = error.to_string();
        assert!(says.contains(&to) && says.contains("not sent"), "{says}");
        let status = status[..3].parse().unwrap();
        assert_eq!(error, ClientError::Redirected { status, to });
        assert_eq!(server.requests().len(), 1);
    }
    assert_eq!(elsewhere.requests().len(), 0);
    // Reading still follows redirects.
    let answers = [
        Answer::status("302 Found").header("location: /elsewhere/sse"),
        Answer::events(task(1, "completed", "o", "workflow", "")),
    ];
    let (seen, error) = all(&Script::serve(answers).await).await;
    assert_eq!((seen.len(), error), (2, None));
}

#[tokio::test]
async fn a_merged_stream_ends_with_its_last_run_only() {
    let of = |run: &str, id: &str, event_type: &str, more: &str| {
        let event = task(1, event_type, "o", "workflow", more);
        let event = event.replace("id: 1\n", &format!("id: {id}\n"));
        event.replace("{\"taskId\"", &format!("{{\"runId\":\"{run}\",\"taskId\""))
    };
    let failed = of("a", "m1.a5", "failed", ",\"error\":\"no\"");
    let restarted = "id: m1.a6\nevent: restarted\ndata: {\"runId\":\"a\",\"run\":2}\n\n".to_owned();
    let again = of("a", "m1.a7", "completed", "");
    for (first, then, outcome) in [
        (failed.clone(), String::new(), Outcome::Failed),
        (failed + &restarted, again, Outcome::Completed),
    ] {
        let server = Script::serve([
            Answer::events(format!("{RETRY}{first}")),
            Answer::events(then + &of("b", "m1.a8.b2", "completed", "")),
            Answer::status("204 No Content"),
        ])
        .await;
        let client = RunClient::new(&format!("{}/sse?run=a&run=b", server.url)).unwrap();
        let mut run = quick(client).watch().await.unwrap();
        while let Some(update) = run.next().await {
            update.unwrap();
        }
        let last = server.header("last-event-id").pop().unwrap();
        assert_eq!((last.as_str(), run.outcome()), ("m1.a8.b2", Some(outcome)));
        let requests = server.requests();
        let of_both = |request: &String| request.starts_with("GET /sse?run=a&run=b ");
        assert!(requests.len() == 3 && requests.iter().all(of_both));
    }
}

#[tokio::test]
async fn the_position_is_known_also_between_connections() {
    let server = Script::serve([
        Answer::events(format!("{RETRY}id: 4\nevent: note\ndata: a\n\n")).cut(),
        Answer::events("").open(),
    ])
    .await;
    let client = quick(RunClient::new(&format!("{}/o-1", server.url)).unwrap());
    let mut events = client.events(Start::After("3".to_owned()));
    let mut positions = Vec::new();
    while positions.len() < 4 {
        let update = events.next().await.unwrap().unwrap();
        positions.push((update.event().is_some(), events.last_event_id().to_owned()));
    }
    let expected = [(false, "3"), (true, "4"), (false, "4"), (false, "4")];
    assert_eq!(positions, expected.map(|(is, id)| (is, id.to_owned())));
}

/// Passes bytes on, and cuts each connection after a different number of them.
async fn cutting_proxy(to: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seed = Arc::new(AtomicU64::new(1));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let seed = Arc::clone(&seed);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(to).await.unwrap();
                let next = seed
                    .load(Ordering::Relaxed)
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                seed.store(next, Ordering::Relaxed);
                let mut left = (next >> 33) as usize % 60_000 + 300;
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let up = tokio::io::copy(&mut from_client, &mut to_server);
                let down = async {
                    let mut buffer = [0; 1024];
                    while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                        let some = read.min(left);
                        to_client.write_all(&buffer[..some]).await.ok();
                        left -= some;
                        if left == 0 {
                            break;
                        }
                    }
                };
                tokio::select! { _ = up => {}, () = down => {} }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_real_log_comes_exactly_once_through_cuts_at_any_byte() {
    const EVENTS: u64 = 3_000;
    let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    let app = axum::Router::new().route("/log/sse", ssetarget::axum::sse(target.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let proxy = cutting_proxy(address).await;

    let writing = tokio::spawn(async move {
        for number in 1..=EVENTS {
            let event = NewEvent::new(
                "note",
                format!("{number} é\n\u{1f680} {}", "x".repeat(number as usize % 90)),
            )
            .unwrap();
            let event = if number == EVENTS {
                event.terminal()
            } else {
                event
            };
            target.dispatch_encoded(vec![event]).await.unwrap();
            if number % 500 == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let client = RunClient::new(&format!("http://{proxy}/log")).unwrap();
    let mut events = client.events(Start::Default);
    let (mut next, mut cuts) = (1, 0);
    while let Some(update) = tokio::time::timeout(Duration::from_secs(60), events.next())
        .await
        .unwrap()
    {
        match update.unwrap() {
            Update::Event(event) => {
                assert_eq!(event.id, Some(next.to_string()));
                assert!(event.data.starts_with(&format!("{next} é\n\u{1f680} ")));
                next += 1;
            }
            Update::Disconnected { .. } => cuts += 1,
            _ => {}
        }
    }
    writing.await.unwrap();
    assert_eq!(next, EVENTS + 1);
    assert!(cuts >= 5, "{cuts} cuts");
}

/// A log of a run whose events have exactly these bytes on the wire.
fn step(event_type: &str, task: &str, kind: &str, second: u64) -> NewEvent {
    let data = format!(
        "{{\"taskId\":\"{task}\",\"step\":\"{task}\",\"kind\":\"{kind}\",\"count\":1,\"timestamp\":\"2026-11-24T09:{:02}:{:02}.000Z\",\"parentId\":null}}",
        second / 60 % 60,
        second % 60
    );
    NewEvent::new(event_type, data).unwrap()
}

#[tokio::test]
async fn a_real_snapshot_and_what_follows_are_the_whole_log() {
    const TASKS: u64 = 200;
    let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    let sse = ssetarget::http::Sse::new();
    let snapshots = ssetarget::http::Snapshots::new(&sse);
    let log = target.clone();
    let page = axum::routing::get(move |request: axum::extract::Request| {
        let (snapshots, log) = (snapshots.clone(), log.clone());
        async move { snapshots.respond(&log, "run", &request).await }
    });
    let app = axum::Router::new()
        .route("/run", page)
        .route("/run/sse", sse.route(target.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/run", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });

    let dispatch = async |event| target.dispatch_encoded(vec![event]).await.unwrap();
    dispatch(step("started", "run.workflow", "workflow", 0)).await;
    let mut watching = Vec::new();
    for number in 1..=TASKS {
        let task = format!("task-{number}");
        dispatch(step("started", &task, "do", number)).await;
        if number % 40 == 0 {
            let client = RunClient::new(&url).unwrap();
            let mut run = client.watch().await.unwrap();
            let tasks = run.snapshot().unwrap().task_count;
            assert_eq!(
                (tasks as u64, run.view().tasks.len() as u64),
                (number, number)
            );
            watching.push(tokio::spawn(async move {
                while let Some(update) = run.next().await {
                    update.unwrap();
                }
                run.view().clone()
            }));
        }
        dispatch(step("completed", &task, "do", number + 1)).await;
    }
    let end = step("completed", "run.workflow", "workflow", TASKS + 2);
    dispatch(end.terminal()).await;

    let mut whole = RunClient::new(&url).unwrap().watch_from(Start::Beginning);
    while let Some(update) = whole.next().await {
        update.unwrap();
    }
    assert_eq!(whole.outcome(), Some(Outcome::Completed));
    for run in watching {
        assert_eq!(run.await.unwrap(), *whole.view());
    }
    let over = RunClient::new(&url).unwrap().ended().await.unwrap();
    assert_eq!(over, *whole.view());
}
