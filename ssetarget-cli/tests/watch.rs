//! The program as people and scripts use it: exit codes, output, cuts, tokens, signals, against scripted and real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../tests/support/script.rs"]
mod script;
mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use script::{Answer, Script};
use serde_json::{Value, json};
use ssetarget::http::Shutdown;
use ssetarget::{MemoryEventStore, NewEvent, SseTarget};
use support::{Ended, command, run, task};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;

const RETRY: &str = "retry: 20\n\n";

fn end(event_type: &str, more: &str) -> String {
    task(9, event_type, "order", "workflow", more)
}

async fn watch(server: &Script, args: &[&str]) -> Ended {
    let url = format!("{}/o-1", server.url);
    let mut all = vec!["watch", &url];
    all.extend(args);
    run(&all).await
}

#[tokio::test]
async fn the_exit_code_tells_how_the_run_ended() {
    let platform = |event_type: &str| {
        format!(
            "id: 9\nevent: {event_type}\ndata: {{\"instanceId\":\"a\",\"eventId\":9,\"timestamp\":1795444674907,\"type\":\"{event_type}\",\"error\":{{\"name\":\"Error\",\"message\":\"no\"}}}}\n\n"
        )
    };
    for (text, code) in [
        (end("completed", ""), 0),
        (end("failed", ",\"error\":\"no\""), 1),
        (
            end("failed", ",\"error\":\"the instance was terminated\""),
            3,
        ),
        (platform("workflow_completed"), 0),
        (platform("workflow_errored"), 1),
        (platform("workflow_terminated"), 3),
    ] {
        let server = Script::serve([Answer::events(&text)]).await;
        for args in [
            &["--progress", "plain"][..],
            &["--json"],
            &["--progress", "tty"],
        ] {
            let ended = watch(&server, args).await;
            assert_eq!(ended.code, code, "{text} {args:?} {ended:?}");
        }
    }
    // With nothing to show, a snapshot is asked for first.
    let text = end("failed", ",\"error\":\"no\"");
    let server = Script::serve([Answer::status("404 Not Found"), Answer::events(text)]).await;
    let ended = watch(&server, &["--progress", "none"]).await;
    assert_eq!(
        ended,
        Ended {
            code: 1,
            stdout: String::new(),
            stderr: String::new()
        }
    );
}

#[tokio::test]
async fn refusals_have_exit_codes() {
    for (answer, code, says) in [
        (Answer::status("401 Unauthorized"), 4, "not allowed (401)"),
        (Answer::status("403 Forbidden"), 4, "not allowed (403)"),
        (Answer::status("404 Not Found"), 5, "no such run"),
        (Answer::status("410 Gone"), 5, "no such run"),
        (
            Answer::status("400 Bad Request").piece("invalid\x1b[2J position\n"),
            2,
            "invalid\u{fffd}[2J position",
        ),
        (
            Answer::status("200 OK").header("content-type: text/html"),
            6,
            "text/html",
        ),
        (Answer::status("418 Teapot"), 6, "418"),
    ] {
        let server = Script::serve([answer]).await;
        let ended = watch(&server, &["--json"]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (code, ""));
        assert!(ended.stderr.contains(says), "{ended:?}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn temporary_refusals_are_retried() {
    for status in [
        "500 Error",
        "503 Service Unavailable",
        "429 Too Many Requests",
    ] {
        let server = Script::serve([
            Answer::status(status).header("retry-after: 0"),
            Answer::events(end("completed", "")),
        ])
        .await;
        let ended = watch(&server, &["--json"]).await;
        assert_eq!(ended.code, 0);
        assert!(
            ended.stderr.contains(&status[..3]) && ended.stderr.contains("connected again"),
            "{ended:?}"
        );
    }
    let server = Script::serve([Answer::status("503 Service Unavailable")]).await;
    let ended = watch(&server, &["--retry-for", "1s", "--json"]).await;
    assert_eq!(ended.code, 6, "{ended:?}");
    assert!(ended.stderr.contains("gave up"));
    let ended = run(&["watch", "http://127.0.0.1:9/o-1", "--retry-for", "10ms"]).await;
    assert_eq!(ended.code, 6);
    assert!(ended.stderr.to_lowercase().contains("refused"), "{ended:?}");
}

#[tokio::test]
async fn a_time_limit_ends_the_watching_and_not_the_run() {
    let server = Script::serve([Answer::events(task(1, "started", "a", "do", "")).open()]).await;
    let began = Instant::now();
    let ended = watch(&server, &["--timeout", "5s", "--progress", "plain"]).await;
    assert_eq!(ended.code, 6);
    assert!(began.elapsed() < Duration::from_secs(90));
    assert!(
        ended.stderr.contains("the run goes on") && ended.stdout.contains("started"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_wrong_command_line_is_an_error() {
    for args in [
        &["watch"][..],
        &["watch", "http://a/"],
        &["watch", "ftp://a/o"],
        &["watch", "http://a/o", "--progress", "big"],
        &["watch", "http://a/o", "--from", "1", "--since", "1h"],
        &["watch", "http://a/o", "--timeout", "soon"],
        &["watch", "http://a/o", "--send", "a=no json"],
        &["watch", "http://a/o", "--token", "a\nb"],
        &["send", "http://a/o"],
        &["look"],
    ] {
        let ended = run(args).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{args:?}");
        assert!(!ended.stderr.is_empty());
    }
    let mut command = command(&["watch", "http://a/o"]);
    command.env("SSETARGET_PROGRESS", "big");
    assert_eq!(support::end(command).await.code, 2);
    let help = run(&["watch", "--help"]).await;
    assert!(help.code == 0 && help.stdout.contains("130  interrupted"));
}

#[tokio::test]
async fn json_lines_are_every_event_once_through_cuts_in_the_middle_of_a_frame() {
    let frames: Vec<String> = (1..=6)
        .map(|id| task(id, "progress", "a", "do", &format!(",\"percent\":{id}")))
        .collect();
    let text = frames.concat();
    let (first, second) = text.split_at(frames[0].len() + frames[1].len() + 30);
    let rest = format!(
        "{}{second}{}",
        &first[frames[0].len() + frames[1].len()..],
        end("completed", "")
    );
    let server = Script::serve([
        Answer::events(format!("{RETRY}{first}")).cut(),
        Answer::events(&rest).byte_by_byte(),
    ])
    .await;
    let ended = watch(&server, &["--json"]).await;
    assert_eq!(ended.code, 0);
    let lines: Vec<Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ids: Vec<_> = lines
        .iter()
        .map(|line| line["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5", "6", "9"]);
    assert_eq!(lines[5]["data"]["percent"], json!(6));
    assert_eq!(
        (&lines[6]["event"], lines[6].as_object().unwrap().len()),
        (&json!("completed"), 3)
    );
    assert_eq!(server.header("last-event-id"), ["", "2"]);
    assert!(ended.stderr.contains("the connection is lost"));
}

#[tokio::test]
async fn json_lines_come_while_the_run_goes_on_and_ctrl_c_detaches() {
    let server = Script::serve([Answer::events(task(1, "started", "a", "do", "")).open()]).await;
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut child = command(&["watch", &format!("{}/o-1", server.url), "--json"])
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(Duration::from_secs(90), lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert!(line.starts_with(r#"{"id":"1","event":"started","data":{"#));
        support::signal(&child, signal);
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .await
            .unwrap();
        assert_eq!(child.wait().await.unwrap().code(), Some(code));
        assert!(
            stderr.contains("the run goes on")
                && stderr.contains(&format!("ssetarget watch {}/o-1", server.url)),
            "{stderr}"
        );
    }
}

#[tokio::test]
async fn a_closed_pipe_is_quiet() {
    let events: String = (1..=20_000)
        .map(|id| task(id, "started", &format!("t{id}"), "do", ""))
        .collect();
    let server = Script::serve([Answer::events(events).open()]).await;
    for mode in ["--json", "--progress=plain", "--progress=tty"] {
        let mut child = command(&["watch", &format!("{}/o-1", server.url), mode])
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_u8().await.unwrap();
        drop(stdout);
        let mut stderr = String::new();
        let status = tokio::time::timeout(Duration::from_secs(90), child.wait())
            .await
            .unwrap()
            .unwrap();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .await
            .unwrap();
        assert_eq!(status.code(), Some(141), "{mode}: {stderr}");
        assert!(
            stderr.lines().all(|line| line.contains("watching")),
            "{mode}: {stderr}"
        );
    }
}

#[tokio::test]
async fn ten_thousand_events_are_fast_and_complete() {
    let mut text: String = (1..=5000)
        .flat_map(|n| {
            let name = format!("step {n}");
            [
                task(2 * n - 1, "started", &name, "do", ""),
                task(2 * n, "completed", &name, "do", ""),
            ]
        })
        .collect();
    text.push_str(&task(10_001, "completed", "order", "workflow", ""));
    let server = Script::serve([Answer::events(text)]).await;
    for (mode, lines) in [("--json", 10_001), ("--progress=plain", 10_001)] {
        let began = Instant::now();
        let ended = watch(&server, &[mode]).await;
        assert_eq!((ended.code, ended.stdout.lines().count()), (0, lines));
        println!("10,001 events, {mode}: {} ms", began.elapsed().as_millis());
        assert!(
            began.elapsed() < Duration::from_secs(90),
            "{mode} took {:?}",
            began.elapsed()
        );
    }
    let server = Script::serve([
        Answer::status("404 Not Found"),
        Answer::events(
            (1..=5000)
                .flat_map(|n| {
                    let name = format!("step {n}");
                    [
                        task(2 * n - 1, "started", &name, "do", ""),
                        task(2 * n, "completed", &name, "do", ""),
                    ]
                })
                .collect::<String>()
                + &task(10_001, "completed", "order", "workflow", ""),
        ),
    ])
    .await;
    let began = Instant::now();
    let ended = watch(&server, &["--progress=tty"]).await;
    println!(
        "10,001 events, tty: {} ms, {} bytes",
        began.elapsed().as_millis(),
        ended.stdout.len()
    );
    assert_eq!(ended.code, 0);
    assert!(
        ended.stdout.contains("order") || ended.stdout.contains("o-1 completed"),
        "{}",
        ended.stdout
    );
    assert!(ended.stdout.contains("5000 done"));
    assert!(ended.stdout.len() < 200_000, "{} bytes", ended.stdout.len());
}

#[tokio::test]
async fn hostile_text_never_reaches_the_terminal() {
    let hostile =
        "\\u001b]0;title\\u0007\\u001b[2J\\u009b31m\\r\\nforged line\\u202eabc\\u2066\\u200b";
    let text = [
        task(1, "started", hostile, "do", ""),
        task(
            2,
            "progress",
            hostile,
            "do",
            &format!(
                ",\"percent\":5,\"message\":\"{hostile}{}\"",
                "y".repeat(9000)
            ),
        ),
        task(
            3,
            "attempt_failed",
            hostile,
            "do",
            &format!(",\"attempt\":1,\"error\":\"{hostile}\""),
        ),
        task(
            4,
            "started",
            "w",
            "waitForEvent",
            &format!(",\"eventType\":\"{hostile}\""),
        ),
        "id: 5\nevent: no\u{9b}te\u{1b}[2J\ndata: raw \u{1b}[2J\u{9b}\u{202e}\u{7}\n\n".to_owned(),
        end("failed", &format!(",\"error\":\"{hostile}\"")),
    ];
    for mode in ["--json", "--progress=plain", "--progress=tty"] {
        let events = Answer::events(text.concat());
        let server = match mode {
            "--progress=tty" => Script::serve([Answer::status("404 Not Found"), events]).await,
            _ => Script::serve([events]).await,
        };
        let ended = watch(&server, &[mode]).await;
        assert_eq!(ended.code, 1);
        assert!(ended.stdout.contains("forged line"), "{mode}");
        // The tree's own sequences: to the left, up, clear, hide and show the cursor, synchronised updates.
        let own = [
            "\x1b[1G",
            "\x1b[J",
            "\x1b[?25l",
            "\x1b[?25h",
            "\x1b[?2026h",
            "\x1b[?2026l",
        ];
        let mut rest = own
            .iter()
            .fold(ended.stdout.clone(), |text, code| text.replace(code, ""));
        for up in 1..13 {
            rest = rest.replace(&format!("\x1b[{up}A"), "");
        }
        let bad = rest.chars().find(|c| {
            (c.is_control() && *c != '\n') || matches!(c, '\u{200b}' | '\u{202e}' | '\u{2066}')
        });
        assert_eq!(bad, None, "{mode}: {rest:?}");
        assert!(
            !rest
                .lines()
                .any(|line| line.trim_start().starts_with("forged line")),
            "{mode}: {rest}"
        );
        if mode != "--json" {
            assert!(
                rest.lines().all(|line| line.chars().count() < 4000),
                "{mode}"
            );
        }
    }
}

#[tokio::test]
async fn tokens_are_sent_and_never_shown() {
    for (args, env, fragment, expected) in [
        (&["--token", "secret-a"][..], None, "", "Bearer secret-a"),
        (&[], Some("secret-b"), "", "Bearer secret-b"),
        (&[], None, "#t=secret-c", "Bearer secret-c"),
        (&[], Some("secret-b"), "#t=secret-c", "Bearer secret-c"),
        (
            &["--token", "secret-a"],
            Some("secret-b"),
            "#t=secret-c",
            "Bearer secret-a",
        ),
    ] {
        let server =
            Script::serve([Answer::status("503 No"), Answer::status("401 Unauthorized")]).await;
        let mut all = vec!["watch", "--progress", "plain"];
        let url = format!("{}/o-1{fragment}", server.url);
        all.push(&url);
        all.extend(args);
        let mut command = command(&all);
        if let Some(token) = env {
            command.env("SSETARGET_TOKEN", token);
        }
        let ended = support::end(command).await;
        assert_eq!(ended.code, 4);
        assert_eq!(server.header("authorization"), [expected; 2]);
        assert!(!format!("{ended:?}").contains("secret"), "{ended:?}");
        assert!(
            !server
                .requests()
                .concat()
                .lines()
                .next()
                .unwrap()
                .contains("secret")
        );
    }
}

#[tokio::test]
async fn waits_are_answered() {
    let server = Script::serve([
        Answer::status("200 OK"),
        Answer::events(end("completed", "")),
    ])
    .await;
    let ended = watch(
        &server,
        &["--json", "--send", r#"approval={"approved":true}"#],
    )
    .await;
    assert_eq!(ended.code, 0);
    assert!(ended.stderr.contains("sent approval"));
    let requests = server.requests();
    assert!(
        requests[0].starts_with("POST /o-1/event ")
            && requests[0].ends_with(r#"{"payload":{"approved":true},"type":"approval"}"#)
    );
    assert!(requests[1].starts_with("GET /o-1/sse "));

    for (answer, code) in [
        (Answer::status("200 OK"), 0),
        (Answer::status("409 Conflict").piece("the run has ended"), 1),
        (Answer::status("302 Found").header("location: /login"), 1),
        (Answer::status("401 No"), 4),
        (Answer::status("404 No"), 5),
    ] {
        let server = Script::serve([answer]).await;
        let ended = run(&["send", &format!("{}/o-1/sse", server.url), "go"]).await;
        assert_eq!(ended.code, code, "{ended:?}");
        assert!(server.requests()[0].ends_with(r#"{"type":"go"}"#));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_page_is_opened() {
    use std::os::unix::fs::PermissionsExt;

    let folder = support::folder("open");
    let opener = folder.join("xdg-open");
    std::fs::write(
        &opener,
        format!(
            "#!/bin/sh\necho \"$1\" > '{}/opened.new'\nmv '{0}/opened.new' '{0}/opened'\n",
            folder.display()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&opener, std::fs::Permissions::from_mode(0o755)).unwrap();
    let server =
        Script::serve([Answer::events(end("completed", "")).pause(Duration::from_millis(300))])
            .await;
    let url = format!("{}/o-1/sse?from=beginning#t=abc", server.url);
    let mut command = command(&["watch", "--open", "--json", &url]);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", folder.display()));
    assert_eq!(support::end(command).await.code, 0);
    let opened = support::wait_for(|| std::fs::read_to_string(folder.join("opened")).ok()).await;
    assert_eq!(opened.trim(), format!("{}/o-1#t=abc", server.url));
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn positions_are_asked_for() {
    for (args, line, id) in [
        (&["--from", "latest"][..], "GET /o-1/sse?from=latest ", ""),
        (&["--from", "beginning"], "GET /o-1/sse?from=beginning ", ""),
        (&["--from", "7"], "GET /o-1/sse ", "7"),
        (
            &["--since", "2026-11-24T09:00:00Z"],
            "GET /o-1/sse?since=1795510800000 ",
            "",
        ),
    ] {
        let server = Script::serve([Answer::events(end("completed", ""))]).await;
        assert_eq!(watch(&server, args).await.code, 0);
        assert!(
            server.requests()[0].starts_with(line),
            "{}",
            server.requests()[0]
        );
        assert_eq!(server.header("last-event-id")[0], id);
    }
    // Nothing is after the position: how it ended is asked for.
    let server = Script::serve_with(|request| match request.lines().next().unwrap_or_default() {
        line if line.contains("from=latest") => Answer::status("204 No Content"),
        line if line.contains("from=beginning") => Answer::events(end("failed", "")),
        _ => Answer::status("404 Not Found"),
    })
    .await;
    let ended = watch(&server, &["--from", "latest", "--json"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    // In each way in which a URL can have a position.
    for position in ["from=latest", "since=1", "lastEventId=9", "last_event_id=9"] {
        let server = Script::serve([Answer::events(end("failed", ""))]).await;
        let url = format!("{}/o-1/sse?{position}", server.url);
        let ended = run(&["watch", &url, "--from", "beginning", "--json"]).await;
        assert_eq!(ended.code, 1);
        let request = &server.requests()[0];
        assert!(
            request.starts_with("GET /o-1/sse?from=beginning "),
            "{request}"
        );
    }
    // It takes longer to find out than there is time: that is not a good end.
    let server = Script::serve_with(|request| match request.lines().next().unwrap_or_default() {
        line if line.contains("from=latest") => Answer::status("204 No Content"),
        line if line.contains("from=beginning") => {
            Answer::events(task(1, "started", "order", "workflow", "")).open()
        }
        _ => Answer::status("404 Not Found"),
    })
    .await;
    let ended = watch(&server, &["--from", "latest", "--json", "--timeout", "2s"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (6, ""), "{ended:?}");
    assert!(ended.stderr.contains("not found out"), "{ended:?}");
}

#[tokio::test]
async fn a_stream_of_several_runs_ends_with_the_last_and_tells_of_the_worst() {
    let of = |run: &str, id: &str, event_type: &str, error: &str| {
        format!(
            "id: m1.{id}\nevent: {event_type}\ndata: {{\"runId\":\"{run}\",\"taskId\":\"o-1.workflow\",\"step\":\"o\",\"kind\":\"workflow\",\"count\":1,\"timestamp\":\"2026-11-24T09:00:00.000Z\",\"parentId\":null{error}}}\n\n"
        )
    };
    let server = Script::serve([
        Answer::events(format!(
            "{RETRY}{}",
            of("a", "0000000a4", "failed", ",\"error\":\"no\"")
        )),
        Answer::events(of("b", "0000000b2", "completed", "")),
        Answer::status("204 No Content"),
    ])
    .await;
    let url = format!("{}/sse?run=a&run=b", server.url);
    let ended = run(&["watch", &url, "--json"]).await;
    assert_eq!(
        (ended.code, ended.stdout.lines().count()),
        (1, 2),
        "{ended:?}"
    );
    assert_eq!(
        server.header("last-event-id"),
        ["", "m1.0000000a4", "m1.0000000b2"]
    );
    assert!(server.requests()[2].starts_with("GET /sse?run=a&run=b "));
}

#[tokio::test]
async fn a_snapshot_spares_the_replay_and_lines_do_not_use_it() {
    let snapshot = r#"{"id":"o-1","run":1,"taskCount":1,"state":"running","started":"2026-11-24T09:00:00.000Z","cursor":5,"tasks":[{"taskId":"a-1","step":"a","kind":"do","count":1,"parentId":null,"state":"completed","started":"2026-11-24T09:00:00.000Z","ended":"2026-11-24T09:00:02.000Z"}]}"#;
    let answers = [
        Answer::status("200 OK")
            .header("content-type: application/json; charset=utf-8")
            .piece(snapshot),
        Answer::events(end("completed", "")),
    ];
    let server = Script::serve(answers).await;
    let ended = watch(&server, &["--progress", "tty"]).await;
    assert_eq!(ended.code, 0);
    assert!(
        ended.stdout.contains("✔ a · 2.0 s") && ended.stdout.contains("o-1 completed"),
        "{}",
        ended.stdout
    );
    assert_eq!(server.header("last-event-id"), ["", "5"]);
    let server = Script::serve([Answer::events(end("completed", ""))]).await;
    assert_eq!(watch(&server, &[]).await.code, 0);
    assert!(server.requests()[0].starts_with("GET /o-1/sse "));
}

#[tokio::test]
async fn resets_restarts_and_expiry_are_printed() {
    let text = [
        "event: reset\ndata: {\"requested\":\"9\",\"oldest\":\"1\",\"head\":\"3\"}\n\n".to_owned(),
        task(1, "started", "a", "do", ""),
        "id: 2\nevent: restarted\ndata: {\"run\":2,\"timestamp\":\"2026-11-24T09:00:00.000Z\"}\n\n"
            .to_owned(),
        "event: expired\ndata: {\"renew\":true}\n\n".to_owned(),
    ];
    let answers = || {
        [
            Answer::events(format!("{RETRY}{}", text.concat())),
            Answer::status("401 Unauthorized"),
        ]
    };
    let ended = watch(&Script::serve(answers()).await, &["--from", "9"]).await;
    assert_eq!(ended.code, 4);
    for word in ["reset", "restarted", "run 2", "expired"] {
        assert!(ended.stdout.contains(word), "{word}: {ended:?}");
    }
    assert!(
        ended.stderr.contains("the permission has expired")
            && ended.stderr.contains("not allowed (401)")
    );
    let ended = watch(&Script::serve(answers()).await, &["--from", "9", "--json"]).await;
    let ids: Vec<Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].take())
        .collect();
    assert_eq!(ids, [json!(null), json!("1"), json!("2"), json!(null)]);
    let ended = watch(
        &Script::serve(answers()).await,
        &["--from", "9", "--progress", "tty"],
    )
    .await;
    assert!(
        ended.stdout.contains("the run was restarted") && ended.stdout.contains("oldest event"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn colours_are_for_terminals_or_on_request() {
    let server = Script::serve([Answer::events(end("completed", ""))]).await;
    let url = format!("{}/o-1", server.url);
    for (vars, colours) in [
        (&[][..], false),
        (&[("CLICOLOR_FORCE", "1")], true),
        (&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
        (&[("CLICOLOR_FORCE", "0")], false),
    ] {
        let mut command = command(&["watch", &url]);
        command.envs(vars.iter().copied());
        assert_eq!(
            support::end(command).await.stdout.contains("\x1b[32m"),
            colours,
            "{vars:?}"
        );
    }
    // Without UTF-8, marks are ASCII.
    for (name, value) in [("LC_ALL", "C"), ("LC_ALL", "")] {
        let server = Script::serve([
            Answer::status("404 Not Found"),
            Answer::events(task(1, "completed", "naïve", "workflow", "")),
        ])
        .await;
        let mut command = command(&["watch", &format!("{}/o-1", server.url)]);
        command
            .env("LANG", "C")
            .env(name, value)
            .env("SSETARGET_PROGRESS", "tty");
        let ended = support::end(command).await;
        assert!(
            ended.stdout.is_ascii() && ended.stdout.contains("ok o-1 completed"),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn with_json_everything_else_goes_to_stderr() {
    let text = format!(
        "{}{}",
        task(1, "started", "a", "do", ""),
        end("completed", "")
    );
    let server = Script::serve([Answer::events(&text)]).await;
    let ended = watch(&server, &["--json", "--progress", "plain"]).await;
    assert!(
        ended
            .stdout
            .lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
    assert_eq!(
        (ended.stdout.lines().count(), ended.stderr.lines().count()),
        (2, 3),
        "{ended:?}"
    );
    let ended = watch(&server, &["--json", "--progress", "tty"]).await;
    assert_eq!(ended.stdout.lines().count(), 2);
    assert!(ended.stderr.contains("o-1 completed"));
}

/// Serves a log until the test stops it.
async fn serve(
    target: &SseTarget<NewEvent, MemoryEventStore>,
    port: u16,
) -> (u16, Shutdown, tokio::task::JoinHandle<()>) {
    let shutdown = Shutdown::new();
    let sse = ssetarget::http::Sse::new().shutdown(&shutdown);
    let app = axum::Router::new().route("/log/sse", sse.route(target.clone()));
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let begun = shutdown.clone();
    let serving = tokio::spawn(async move {
        axum::serve(listener, app)
            .with_graceful_shutdown(async move { begun.begun().await })
            .await
            .unwrap();
    });
    (port, shutdown, serving)
}

#[tokio::test]
async fn a_server_that_restarts_loses_nothing() {
    let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    let (port, shutdown, serving) = serve(&target, 0).await;
    let mut child = command(&["watch", &format!("http://127.0.0.1:{port}/log"), "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let note = |number: u32| NewEvent::new("note", number.to_string()).unwrap();
    target.dispatch_encoded(vec![note(1)]).await.unwrap();
    assert!(
        lines
            .next_line()
            .await
            .unwrap()
            .unwrap()
            .contains("\"data\":1")
    );
    shutdown.begin();
    serving.await.unwrap();
    target.dispatch_encoded(vec![note(2)]).await.unwrap();
    let (_, _shutdown, _serving) = serve(&target, port).await;
    assert!(
        lines
            .next_line()
            .await
            .unwrap()
            .unwrap()
            .contains("\"data\":2")
    );
    target
        .dispatch_encoded(vec![note(3).terminal()])
        .await
        .unwrap();
    assert!(
        lines
            .next_line()
            .await
            .unwrap()
            .unwrap()
            .contains("\"data\":3")
    );
    assert_eq!(lines.next_line().await.unwrap(), None);
    assert_eq!(
        child.wait().await.unwrap().code(),
        Some(0),
        "a log of one's own has just ended"
    );
}
