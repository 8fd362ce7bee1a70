//! Each rule accepts a good story and catches the broken one.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::process::{Command, Stdio};

use ssetarget_checker::{Checker, Rule};

/// A log of three events, two viewers of which one comes back, and a store that is read.
const GOOD: &str = r#"
{"log":"a","whole":null}
{"log":"a","append":{"events":[{"type":"t","data":"one"},{"type":"t","data":"two","key":"k"}],"answer":{"stored":[1,2]}}}
{"log":"a","connected":{"viewer":"v","from":"beginning","status":200}}
{"log":"a","seen":{"viewer":"v","event":{"id":1,"type":"t","data":"one","raw":"id: 1"}}}
{"log":"a","ended":{"viewer":"v","how":"cut"}}
{"log":"a","append":{"events":[{"type":"t","data":"two","key":"k"}],"answer":{"stored":[null]}}}
{"log":"a","append":{"events":[{"type":"end","data":"three","terminal":true}],"answer":"unknown"}}
{"log":"a","connected":{"viewer":"v","from":{"after":1},"status":200}}
{"log":"a","seen":{"viewer":"v","event":{"id":2,"type":"t","data":"two","raw":"id: 2"}}}
{"log":"a","seen":{"viewer":"v","event":{"id":3,"type":"end","data":"three","raw":"id: 3"}}}
{"log":"a","ended":{"viewer":"v","how":"clean"}}
{"log":"a","connected":{"viewer":"v","from":{"after":3},"status":204}}
{"log":"a","connected":{"viewer":"w","from":"latest","status":200}}
{"log":"a","position":{"viewer":"w","id":3}}
{"log":"a","ended":{"viewer":"w","how":"idle"}}
{"log":"a","stored":{"events":[{"id":1,"type":"t","data":"one","raw":"id: 1"},{"id":2,"type":"t","data":"two","raw":"id: 2","key":"k"},{"id":3,"type":"end","data":"three","raw":"id: 3","terminal":true}]}}
"#;

fn broken(story: &str) -> Vec<Rule> {
    let mut checker = Checker::default();
    for line in story.lines().filter(|line| !line.is_empty()) {
        checker.add(serde_json::from_str(line).unwrap());
    }
    let mut rules: Vec<_> = checker
        .finish()
        .into_iter()
        .map(|found| found.rule)
        .collect();
    rules.sort();
    rules.dedup();
    rules
}

/// Checks the good story with each of these strings replaced once.
fn but(changes: &[(&str, &str)]) -> Vec<Rule> {
    let mut story = GOOD.to_owned();
    for (from, to) in changes {
        assert!(story.contains(from), "{from}");
        story = story.replacen(from, to, 1);
    }
    broken(&story)
}

const SEEN_2: &str =
    r#"{"log":"a","seen":{"viewer":"v","event":{"id":2,"type":"t","data":"two","raw":"id: 2"}}}"#;

#[test]
fn the_good_story_is_good() {
    assert_eq!(broken(GOOD), []);
}

#[test]
fn order() {
    let story = GOOD.lines().collect::<Vec<_>>();
    let mut swapped = story.clone();
    let at = story.iter().position(|line| *line == SEEN_2).unwrap();
    swapped.swap(at, at + 1);
    assert!(broken(&swapped.join("\n")).contains(&Rule::Order));
}

#[test]
fn gap() {
    assert_eq!(but(&[(SEEN_2, "")]), [Rule::Gap]);
    // A viewer waits and is not woken.
    let waits = but(&[(
        r#""position":{"viewer":"w","id":3}"#,
        r#""position":{"viewer":"w","id":2}"#,
    )]);
    assert_eq!(waits, [Rule::Gap]);
    // The beginning is missed.
    let missed = but(&[(
        r#""from":{"after":1},"status":200"#,
        r#""from":"beginning","status":200"#,
    )]);
    assert_eq!(missed, [Rule::Gap]);
}

#[test]
fn twice() {
    let twice = format!("{SEEN_2}\n{SEEN_2}");
    assert_eq!(but(&[(SEEN_2, &twice)]), [Rule::Twice]);
}

#[test]
fn prefix() {
    let story = r#"
{"log":"a","connected":{"viewer":"v","from":"beginning","status":200}}
{"log":"a","connected":{"viewer":"w","from":"beginning","status":200}}
{"log":"a","seen":{"viewer":"v","event":{"id":1,"type":"t","data":"one"}}}
{"log":"a","seen":{"viewer":"w","event":{"id":1,"type":"t","data":"another"}}}
"#;
    assert_eq!(broken(story), [Rule::Prefix]);
}

#[test]
fn acknowledged() {
    let lost = r#"
{"log":"a","append":{"events":[{"type":"t","data":"one"},{"type":"t","data":"two"}],"answer":{"stored":[1,2]}}}
{"log":"a","stored":{"events":[{"id":1,"type":"t","data":"one"}]}}
"#;
    assert_eq!(broken(lost), [Rule::Acknowledged]);
    let fact_lost = r#"
{"log":"a","append":{"events":[{"type":"t","data":"one","key":"k"}],"answer":"acknowledged"}}
{"log":"a","stored":{"events":[]}}
"#;
    assert_eq!(broken(fact_lost), [Rule::Acknowledged]);
    // The events that retention removed may be missing.
    let trimmed = lost.replace(
        r#"{"log":"a","stored""#,
        "{\"log\":\"a\",\"trimmed\":{\"last\":2}}\n{\"log\":\"a\",\"stored\"",
    );
    assert_eq!(broken(&trimmed), []);
}

#[test]
fn once() {
    let stored = |answer: &str, events: &str| {
        broken(&format!(
            r#"
{{"log":"a","append":{{"events":[{{"type":"t","data":"x","key":"k"}},{{"type":"t","data":"y"}},{{"type":"t","data":"z"}}],"answer":"{answer}"}}}}
{{"log":"a","stored":{{"events":[{events}]}}}}
"#
        ))
    };
    let x = |id: u64| format!(r#"{{"id":{id},"type":"t","data":"x","key":"k"}}"#);
    let (y, z) = (
        r#"{"id":3,"type":"t","data":"y"}"#,
        r#"{"id":4,"type":"t","data":"z"}"#,
    );
    let all = format!("{},{y},{z}", x(1));
    assert_eq!(stored("unknown", ""), []);
    assert_eq!(stored("unknown", &all), []);
    assert_eq!(stored("refused", &all), [Rule::Once], "it was refused");
    let twice = format!("{},{},{y},{z}", x(1), x(2));
    assert_eq!(stored("unknown", &twice), [Rule::Once], "a key twice");
    assert_eq!(stored("unknown", y), [Rule::Once], "half a batch");
}

#[test]
fn invented() {
    let stored = r#"{"events":[{"id":1"#;
    let more =
        r#"{"events":[{"id":1,"type":"t","data":"one"},{"id":4,"type":"t","data":"four"}]}}"#;
    let story = GOOD.replace(
        &GOOD[GOOD.find(stored).unwrap()..],
        &more.replace("},{\"id\":4", "},{\"id\":2,\"type\":\"t\",\"data\":\"two\",\"key\":\"k\"},{\"id\":3,\"type\":\"end\",\"data\":\"three\",\"terminal\":true},{\"id\":4"),
    );
    let found = broken(&story);
    assert!(found.contains(&Rule::Invented), "{found:?}");
}

#[test]
fn reset() {
    let story = |requested: &str, trimmed: u64| {
        broken(&format!(
            r#"
{{"log":"a","append":{{"events":[{{"type":"t","data":"one"}},{{"type":"t","data":"two"}}],"answer":{{"stored":[1,2]}}}}}}
{{"log":"a","trimmed":{{"last":{trimmed}}}}}
{{"log":"a","connected":{{"viewer":"v","from":"beginning","status":200}}}}
{{"log":"a","seen":{{"viewer":"v","event":{{"type":"reset","data":"{{\"requested\":{requested},\"oldest\":2,\"head\":2}}"}}}}}}
{{"log":"a","seen":{{"viewer":"v","event":{{"id":2,"type":"t","data":"two"}}}}}}
"#
        ))
    };
    assert_eq!(story("9", 0), [], "ahead of the log");
    assert_eq!(story("0", 1), [], "removed");
    assert_eq!(story("null", 1), [], "removed before it was read");
    assert_eq!(story("1", 0), [Rule::Reset]);
    assert_eq!(story("null", 0), [Rule::Reset]);
    assert_eq!(story("1", 1), [Rule::Reset], "all that follows is there");
}

#[test]
fn end() {
    assert_eq!(
        but(&[(
            r#""from":{"after":3},"status":204"#,
            r#""from":{"after":2},"status":204"#
        )]),
        [Rule::End]
    );
    // The terminal event, and another after it.
    let behind = r#"{"log":"a","append":{"events":[{"type":"t","data":"four"}],"answer":{"stored":[4]}}}
{"log":"a","connected":{"viewer":"x","from":{"after":3},"status":204}}"#;
    let found = but(&[(
        r#"{"log":"a","connected":{"viewer":"w""#,
        &format!("{behind}\n{}", r#"{"log":"a","connected":{"viewer":"w""#),
    )]);
    assert!(found.contains(&Rule::End), "{found:?}");
    // A stream that ends in the middle.
    assert_eq!(
        but(&[(
            r#""ended":{"viewer":"v","how":"cut"}"#,
            r#""ended":{"viewer":"v","how":"clean"}"#
        )]),
        [Rule::End]
    );
}

#[test]
fn reused() {
    let again = r#"
{"log":"a","append":{"events":[{"type":"t","data":"one"}],"answer":{"stored":[1]}}}
{"log":"a","trimmed":{"last":1}}
{"log":"a","append":{"events":[{"type":"t","data":"two"}],"answer":{"stored":[1]}}}
"#;
    assert_eq!(broken(again), [Rule::Reused]);
    let changed = r#"
{"log":"a","stored":{"events":[{"id":1,"type":"t","data":"one"}]}}
{"log":"a","stored":{"events":[{"id":1,"type":"t","data":"two"}]}}
"#;
    assert_eq!(broken(changed), [Rule::Reused]);
}

#[test]
fn bytes() {
    let other = SEEN_2.replace("id: 2", "id:2");
    assert_eq!(but(&[(SEEN_2, &other)]), [Rule::Bytes]);
    // Seen live, and lost by a store that had not made it durable.
    let stored = r#",{"id":3,"type":"end","data":"three","raw":"id: 3","terminal":true}]}}"#;
    let found = but(&[(stored, "]}}")]);
    assert!(found.contains(&Rule::Bytes), "{found:?}");
}

#[test]
fn platform() {
    // `error` is the platform's for the first attempt, which failed by our log.
    let story = |attempt: u64, error: &str, last: &str| {
        broken(&format!(
            r#"
{{"log":"a","stored":{{"events":[{{"id":1,"type":"started","data":"{{\"kind\":\"do\",\"step\":\"pay\",\"count\":1,\"taskId\":\"pay-1\"}}"}},{{"id":2,"type":"attempt_failed","data":"{{\"kind\":\"do\",\"step\":\"pay\",\"count\":1,\"taskId\":\"pay-1\",\"attempt\":1}}"}},{{"id":3,"type":"completed","data":"{{\"kind\":\"do\",\"step\":\"pay\",\"count\":1,\"taskId\":\"pay-1\",\"attempt\":{attempt}}}"}},{{"id":4,"type":"started","data":"{{\"kind\":\"sleep\",\"step\":\"nap\",\"count\":1,\"taskId\":\"nap-1.sleep\"}}"}}]}}}}
{{"log":"a","platform":{{"entries":[{{"type":"workflow_started"}},{{"type":"step_started","stepName":"pay-1"}},{{"type":"attempt_started","stepName":"pay-1","attempt":1}},{{"type":"attempt_errored","stepName":"pay-1","attempt":1,"error":{{"message":"{error}"}}}},{{"type":"attempt_completed","stepName":"pay-1","attempt":2}},{{"type":"step_completed","stepName":"pay-1"}},{{"type":"sleep_{last}","stepName":"nap-1"}}]}}}}
"#
        ))
    };
    assert_eq!(story(2, "no", "started"), []);
    assert_eq!(story(3, "no", "started"), [Rule::Platform]);
    assert_eq!(story(2, "no", "completed"), [Rule::Platform]);
    // It was killed after the attempt's code had failed, and before it had stored that.
    let killed = "Attempt failed due to internal workflows error";
    assert_eq!(story(2, killed, "started"), []);
    assert_eq!(story(1, killed, "started"), [Rule::Platform]);
    // It has no outcome of the first attempt at all, and made the second one, or none.
    let forgotten = |attempts: &str| {
        broken(&format!(
            r#"
{{"log":"a","stored":{{"events":[{{"id":1,"type":"started","data":"{{\"kind\":\"do\",\"step\":\"pay\",\"count\":1,\"taskId\":\"pay-1\"}}"}},{{"id":2,"type":"attempt_failed","data":"{{\"kind\":\"do\",\"step\":\"pay\",\"count\":1,\"taskId\":\"pay-1\",\"attempt\":1}}"}},{{"id":3,"type":"completed","data":"{{\"kind\":\"do\",\"step\":\"pay\",\"count\":1,\"taskId\":\"pay-1\",\"attempt\":2}}"}}]}}}}
{{"log":"a","platform":{{"entries":[{{"type":"step_started","stepName":"pay-1"}},{attempts}{{"type":"step_completed","stepName":"pay-1"}}]}}}}
"#
        ))
    };
    let second = r#"{"type":"attempt_completed","stepName":"pay-1","attempt":2},"#;
    let first = r#"{"type":"attempt_completed","stepName":"pay-1","attempt":1},"#;
    assert_eq!(forgotten(second), []);
    assert_eq!(forgotten(first), [Rule::Platform]);
    assert_eq!(forgotten(&format!("{first}{second}")), [Rule::Platform]);
}

#[test]
fn the_program_says_the_same() {
    let run = |input: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ssetarget-checker"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = run(GOOD.trim_start());
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "16 records, 0 violations\n")
    );
    let (code, text) = run(&GOOD.trim_start().replace(&format!("{SEEN_2}\n"), ""));
    assert_eq!(code, Some(1));
    assert!(
        text.starts_with("Gap: a: v got 3 behind 1, without 2\n"),
        "{text}"
    );
    assert_eq!(run("{}\n").0, Some(2));
}
