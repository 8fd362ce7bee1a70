//! Logs as traces: the spans of each event, ids that are the same in every export, and a valid trace for any log,
//! read by the crate `opentelemetry-proto`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cloudflare_workflows::{Progress, Retries, Step, StepConfig, StepError, WaitForEvent};
use futures_util::TryStreamExt;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::prelude::*;
use serde_json::{Value, json};
use ssetarget::otlp::{
    Answer, ExportError, Exporter, MAX_BYTES, MAX_EVENTS, MAX_SPANS, Post, ReadError, Trace,
    TraceFold, Unfinished, document, export,
};
use ssetarget::tracer::Tracer;
use ssetarget::workflow::DispatchConfig;
use ssetarget::{EventId, EventStore, MemoryEventStore, NewEvent, SseTarget, StoredEvent};
use support::engine::{Engine, World, lifetime, wrapped};

const ID: &str = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";
const TRACE: &str = "6f9619ff8b86d011b42d00cf4fc964ff";

fn trace() -> Trace {
    Trace::new(ID).workflow("order")
}

/// A log under construction. Its events are one second apart, from 2026-11-24T09:00:00Z on.
#[derive(Default)]
struct Log(Vec<StoredEvent>);

const BEGAN: u64 = 1_795_510_800;

impl Log {
    fn add(&mut self, event_type: &str, task: &str, more: Value) -> &mut Self {
        let second = self.0.len() as u64;
        self.add_at(BEGAN + second, event_type, task, more)
    }

    fn add_at(&mut self, second: u64, event_type: &str, task: &str, more: Value) -> &mut Self {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let (name, _) = task.rsplit_once('-').unwrap_or((task, ""));
        let mut data = json!({
            "taskId": task, "step": name, "kind": "do", "count": 1,
            "timestamp": humantime::format_rfc3339_millis(time).to_string(),
            "parentId": null,
        });
        if let Value::Object(more) = more {
            data.as_object_mut().unwrap().extend(more);
        }
        self.add_raw(event_type, &data.to_string())
    }

    fn add_raw(&mut self, event_type: &str, data: &str) -> &mut Self {
        self.0.push(StoredEvent {
            id: EventId::new(self.0.len() as u64 + 1).unwrap(),
            event_type: event_type.to_owned(),
            data: data.to_owned(),
            timestamp: SystemTime::UNIX_EPOCH,
        });
        self
    }

    fn run(&mut self, event_type: &str, more: Value) -> &mut Self {
        let mut own = json!({ "kind": "workflow" });
        own.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.add(event_type, "order-1.workflow", own)
    }

    fn requests(&self, unfinished: Unfinished) -> Vec<Vec<u8>> {
        requests_of(&trace(), &self.0, unfinished)
    }

    fn spans(&self) -> Spans {
        Spans::decode(&self.requests(Unfinished::LeaveOut))
    }

    fn partial(&self) -> Spans {
        Spans::decode(&self.requests(Unfinished::Partial))
    }
}

fn requests_of(trace: &Trace, events: &[StoredEvent], unfinished: Unfinished) -> Vec<Vec<u8>> {
    let mut fold = TraceFold::new(trace);
    let mut requests = Vec::new();
    for event in events {
        fold.apply(event);
        requests.extend(std::iter::from_fn(|| fold.next_chunk()));
    }
    fold.finish(unfinished);
    requests.extend(std::iter::from_fn(|| fold.next_chunk()));
    requests
        .into_iter()
        .map(|chunk| chunk.into_request())
        .collect()
}

/// Spans as another implementation reads them.
struct Spans(Vec<Span>);

impl Spans {
    fn decode(requests: &[Vec<u8>]) -> Self {
        let mut spans = Vec::new();
        for request in requests {
            let json: Value = serde_json::from_slice(request).unwrap();
            let decoded: ExportTraceServiceRequest = serde_json::from_slice(request).unwrap();
            let resources = json["resourceSpans"].as_array().unwrap();
            assert_eq!(decoded.resource_spans.len(), resources.len());
            for (resource, json) in decoded.resource_spans.into_iter().zip(resources) {
                let attributes = resource.resource.unwrap().attributes;
                assert_eq!(text(&attributes, "service.name"), "order");
                let [scope] = resource.scope_spans.try_into().unwrap();
                assert_eq!(scope.scope.unwrap().name, "ssetarget");
                // The reader ignores unknown fields without an error.
                let written = json["scopeSpans"][0]["spans"].as_array().unwrap();
                assert_eq!(scope.spans.len(), written.len());
                for (span, written) in scope.spans.iter().zip(written) {
                    let count = |key: &str| written[key].as_array().map_or(0, Vec::len);
                    assert_eq!(span.attributes.len(), count("attributes"));
                    assert_eq!(span.events.len(), count("events"));
                    assert_eq!(span.links.len(), count("links"));
                }
                spans.extend(scope.spans);
            }
        }
        Self(spans)
    }

    fn named(&self, name: &str) -> &Span {
        let mut found = self.0.iter().filter(|span| span.name == name);
        let span = found
            .next()
            .unwrap_or_else(|| panic!("there is no span {name}"));
        assert!(found.next().is_none(), "there are several spans {name}");
        span
    }

    fn names(&self) -> Vec<&str> {
        self.0.iter().map(|span| span.name.as_str()).collect()
    }

    /// Checks what holds for the trace of any log.
    fn check(&self) {
        let mut ids = HashSet::new();
        for span in &self.0 {
            assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
            assert!([0, 8].contains(&span.parent_span_id.len()));
            for id in [&span.trace_id, &span.span_id] {
                assert!(id.iter().any(|byte| *byte != 0));
            }
            assert!(
                ids.insert((span.trace_id.clone(), span.span_id.clone())),
                "{}",
                span.name
            );
            assert!(!span.name.is_empty());
            assert_eq!(span.kind, 1);
            assert!(
                span.start_time_unix_nano <= span.end_time_unix_nano,
                "{}",
                span.name
            );
            assert!(span.events.len() <= MAX_EVENTS);
            let times = || span.events.iter().map(|event| event.time_unix_nano);
            let within = span.start_time_unix_nano..=span.end_time_unix_nano;
            assert!(times().all(|time| within.contains(&time)), "{}", span.name);
            let of_events = span.events.iter().map(|event| &event.attributes);
            let of_links = span.links.iter().map(|link| &link.attributes);
            for attributes in [&span.attributes]
                .into_iter()
                .chain(of_events)
                .chain(of_links)
            {
                assert!(attributes.len() <= 140);
                let mut keys = HashSet::new();
                for attribute in attributes {
                    assert!(!attribute.key.is_empty() && keys.insert(&attribute.key));
                    assert!(attribute.value.as_ref().unwrap().value.is_some());
                }
            }
            for link in &span.links {
                assert_eq!((link.trace_id.len(), link.span_id.len()), (16, 8));
            }
        }
        // A retry is linked to an attempt of the same trace.
        for span in &self.0 {
            for link in span
                .links
                .iter()
                .filter(|link| link.trace_id == span.trace_id)
            {
                assert!(ids.contains(&(link.trace_id.clone(), link.span_id.clone())));
            }
        }
    }

    /// Checks what also holds if no task was left out: each parent exists, and is not a descendant.
    fn check_whole(&self) {
        self.check();
        let parents: HashMap<_, _> = self
            .0
            .iter()
            .map(|span| ((&span.trace_id, &span.span_id), &span.parent_span_id))
            .collect();
        for span in &self.0 {
            let mut id = &span.span_id;
            let mut steps = 0;
            loop {
                let parent = parents.get(&(&span.trace_id, id));
                let parent = parent
                    .unwrap_or_else(|| panic!("{} has a parent that is not there", span.name));
                if parent.is_empty() {
                    break;
                }
                (id, steps) = (parent, steps + 1);
                assert!(steps <= self.0.len(), "{} is its own parent", span.name);
            }
        }
    }
}

fn find<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Any> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    match find(attributes, key) {
        Some(Any::StringValue(text)) => text,
        other => panic!("{key} is {other:?}"),
    }
}

fn number(attributes: &[KeyValue], key: &str) -> i64 {
    match find(attributes, key) {
        Some(Any::IntValue(number)) => *number,
        other => panic!("{key} is {other:?}"),
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The seconds since the log's beginning at which a span begins and ends.
fn times(span: &Span) -> (u64, u64) {
    let seconds = |nanos: u64| {
        assert_eq!(nanos % 1_000_000_000, 0);
        nanos / 1_000_000_000 - BEGAN
    };
    (
        seconds(span.start_time_unix_nano),
        seconds(span.end_time_unix_nano),
    )
}

fn status(span: &Span) -> (i32, &str) {
    let status = span.status.as_ref();
    status.map_or((0, ""), |status| (status.code, &status.message))
}

/// An order with everything that a log can have.
fn order() -> Log {
    let mut log = Log::default();
    log.run("started", json!({}));
    log.add(
        "started",
        "check-1",
        json!({ "parentId": "order-1.workflow" }),
    );
    log.add(
        "completed",
        "check-1",
        json!({ "parentId": "order-1.workflow", "attempt": 1 }),
    );
    let pay = |more: Value| {
        let mut own = json!({ "parentId": "order-1.workflow" });
        own.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        own
    };
    log.add("started", "pay-1", pay(json!({})));
    log.add(
        "attempt_failed",
        "pay-1",
        pay(json!({ "attempt": 1, "error": "no answer", "retryAt": "2026-11-24T09:00:05.000Z" })),
    );
    log.add(
        "progress",
        "pay-1",
        pay(json!({ "percent": 40, "message": "asking", "attributes": { "bank": "b" } })),
    );
    log.add(
        "completed",
        "pay-1",
        pay(json!({ "attempt": 2, "attributes": { "cents": 7600, "card": null } })),
    );
    log.add("started", "fulfil-1.group", pay(json!({})));
    log.add("started", "pack-1", json!({ "parentId": "fulfil-1.group" }));
    log.add(
        "attempt_failed",
        "pack-1",
        json!({ "parentId": "fulfil-1.group", "attempt": 1, "error": "no box" }),
    );
    log.add(
        "failed",
        "pack-1",
        json!({ "parentId": "fulfil-1.group", "attempt": 1, "error": "no box" }),
    );
    log.add(
        "failed",
        "fulfil-1.group",
        pay(json!({ "error": "no box" })),
    );
    let until = "2026-11-24T10:00:00.000Z";
    log.add(
        "started",
        "dry-1.sleep",
        pay(json!({ "kind": "sleep", "until": until })),
    );
    log.add("completed", "dry-1.sleep", pay(json!({ "kind": "sleep" })));
    let wait = json!({ "kind": "waitForEvent", "eventType": "approved", "until": until });
    log.add("started", "approval-1.waitForEvent", pay(wait));
    log.add(
        "failed",
        "approval-1.waitForEvent",
        pay(json!({ "kind": "waitForEvent", "error": "it timed out" })),
    );
    log.add("started", "abandoned-1", pay(json!({})));
    log.add_raw("note", r#"{"of":"the application"}"#);
    log.run("failed", json!({ "error": "no box" }));
    log
}

#[test]
fn every_event_becomes_the_documented_span() {
    let spans = order().spans();
    spans.check_whole();
    assert_eq!(
        spans.names(),
        [
            "check",
            "pay (attempt 1)",
            "pay (attempt 2)",
            "pay",
            "pack (attempt 1)",
            "pack",
            "fulfil",
            "dry",
            "approval",
            "order",
            "abandoned"
        ]
    );
    assert!(spans.0.iter().all(|span| hex(&span.trace_id) == TRACE));

    let root = spans.named("order");
    assert_eq!((root.parent_span_id.len(), root.links.len()), (0, 0));
    assert_eq!((times(root), status(root)), ((0, 18), (2, "no box")));
    assert_eq!(text(&root.attributes, "ssetarget.instance.id"), ID);
    assert_eq!(number(&root.attributes, "ssetarget.run"), 1);
    assert_eq!(text(&root.attributes, "ssetarget.task.kind"), "workflow");
    assert_eq!(text(&root.attributes, "ssetarget.task.state"), "failed");
    assert_eq!(text(&root.attributes, "error.type"), "_OTHER");
    assert_eq!(root.events[0].name, "exception");
    assert_eq!(
        text(&root.events[0].attributes, "exception.message"),
        "no box"
    );

    let check = spans.named("check");
    assert_eq!(check.parent_span_id, root.span_id);
    assert_eq!((times(check), status(check)), ((1, 2), (1, "")));
    assert_eq!(number(&check.attributes, "ssetarget.attempts"), 1);

    let pay = spans.named("pay");
    assert_eq!((times(pay), status(pay)), ((3, 6), (1, "")));
    assert_eq!(number(&pay.attributes, "ssetarget.attempts"), 2);
    assert_eq!(find(&pay.attributes, "ssetarget.attempts.lost"), None);
    assert_eq!(number(&pay.attributes, "cents"), 7600);
    assert_eq!(pay.dropped_attributes_count, 1, "what is null");
    let [progress] = pay.events.as_slice() else {
        panic!("one report")
    };
    assert_eq!(
        (
            progress.name.as_str(),
            progress.time_unix_nano / 1_000_000_000
        ),
        ("progress", BEGAN + 5)
    );
    assert_eq!(
        find(&progress.attributes, "ssetarget.progress.percent"),
        Some(&Any::DoubleValue(40.0))
    );
    assert_eq!(
        text(&progress.attributes, "ssetarget.progress.message"),
        "asking"
    );
    assert_eq!(text(&progress.attributes, "bank"), "b");

    let first = spans.named("pay (attempt 1)");
    let second = spans.named("pay (attempt 2)");
    assert_eq!((times(first), status(first)), ((3, 4), (2, "no answer")));
    assert_eq!(
        text(&first.events[0].attributes, "exception.message"),
        "no answer"
    );
    assert_eq!(
        (times(second), status(second)),
        ((5, 6), (1, "")),
        "from when it was to begin"
    );
    assert_eq!(
        find(&second.attributes, "ssetarget.start.approximate"),
        None
    );
    assert_eq!(
        (&first.parent_span_id, &second.parent_span_id),
        (&pay.span_id, &pay.span_id)
    );
    assert_eq!(first.links.len(), 0);
    assert_eq!(second.links[0].span_id, first.span_id);
    assert_eq!(
        text(&second.links[0].attributes, "ssetarget.link"),
        "retry-of"
    );
    assert_eq!(number(&second.attributes, "ssetarget.attempt"), 2);
    assert_eq!(number(&second.attributes, "cloudflare.workflow.attempt"), 2);

    // The only attempt, which failed, has the exception.
    let (pack, fulfil) = (spans.named("pack"), spans.named("fulfil"));
    assert_eq!(pack.parent_span_id, fulfil.span_id);
    assert_eq!(spans.named("pack (attempt 1)").parent_span_id, pack.span_id);
    assert_eq!((status(pack), pack.events.len()), ((2, "no box"), 0));
    assert_eq!((status(fulfil), fulfil.events.len()), ((2, "no box"), 1));
    assert_eq!(fulfil.parent_span_id, root.span_id);

    let dry = spans.named("dry");
    assert_eq!((times(dry), status(dry)), ((12, 13), (1, "")));
    assert_eq!(
        text(&dry.attributes, "ssetarget.until"),
        "2026-11-24T10:00:00.000Z"
    );
    let approval = spans.named("approval");
    assert_eq!(
        text(&approval.attributes, "ssetarget.event.type"),
        "approved"
    );
    assert_eq!(status(approval), (2, "it timed out"));

    // Tasks that had not ended were stopped with the run.
    let abandoned = spans.named("abandoned");
    assert_eq!((times(abandoned), status(abandoned)), ((16, 18), (0, "")));
    assert_eq!(
        text(&abandoned.attributes, "ssetarget.task.state"),
        "stopped"
    );
}

/// Others may have stored the trace of an earlier version: its bytes must not change.
#[test]
fn the_bytes_of_a_log_stay_as_they_are() {
    let requests = order().requests(Unfinished::LeaveOut);
    assert_eq!(requests, order().requests(Unfinished::LeaveOut));
    assert_eq!(
        requests,
        order().requests(Unfinished::Partial),
        "it has ended"
    );
    let [request] = requests.as_slice() else {
        panic!("one request")
    };
    let json: Value = serde_json::from_slice(request).unwrap();
    let json = serde_json::to_string_pretty(&json).unwrap() + "\n";
    let version = format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION"));
    let json = json.replace(&version, "\"version\": \"…\"");
    let expected = include_str!("support/otlp.json");
    if json != expected {
        let path = std::env::temp_dir().join("otlp.json");
        std::fs::write(&path, json).unwrap();
        panic!(
            "the trace differs from tests/support/otlp.json: see {}",
            path.display()
        );
    }
}

#[test]
fn a_run_that_goes_on_has_no_root_yet() {
    let mut log = Log::default();
    log.run("started", json!({}));
    log.add(
        "started",
        "group-1.group",
        json!({ "parentId": "order-1.workflow" }),
    );
    log.add("started", "a-1", json!({ "parentId": "group-1.group" }));
    log.add("completed", "a-1", json!({ "attempt": 1 }));
    log.add("started", "b-1", json!({ "parentId": "group-1.group" }));
    log.add("progress", "b-1", json!({ "percent": 50 }));
    let spans = log.spans();
    spans.check();
    assert_eq!(spans.names(), ["a"]);

    let partial = log.partial();
    partial.check_whole();
    assert_eq!(partial.names(), ["a", "group", "b", "order"]);
    let state = |name| text(&partial.named(name).attributes, "ssetarget.task.state");
    assert_eq!(
        ["a", "group", "b", "order"].map(state),
        ["completed", "running", "running", "running"]
    );
    assert_eq!(
        (times(partial.named("b")), status(partial.named("b"))),
        ((4, 5), (0, ""))
    );
    assert_eq!(times(partial.named("order")), (0, 5));

    // Their ids are the same as after the end.
    log.add("completed", "b-1", json!({ "attempt": 1 }));
    log.add("completed", "group-1.group", json!({}));
    log.run("completed", json!({}));
    let ended = log.spans();
    ended.check_whole();
    for span in &partial.0 {
        let same = ended.named(&span.name);
        assert_eq!(
            (&span.span_id, &span.parent_span_id),
            (&same.span_id, &same.parent_span_id)
        );
        assert_eq!(span.start_time_unix_nano, same.start_time_unix_nano);
    }
}

#[test]
fn a_restart_begins_a_trace_that_is_linked_to_the_one_before() {
    let mut log = Log::default();
    log.run("started", json!({}));
    log.add("started", "a-1", json!({ "parentId": "order-1.workflow" }));
    log.add_raw(
        "restarted",
        r#"{"run":2,"timestamp":"2026-11-24T09:00:02.000Z"}"#,
    );
    log.run("started", json!({}));
    log.add("started", "a-1", json!({ "parentId": "order-1.workflow" }));
    log.add("completed", "a-1", json!({ "attempt": 1 }));
    log.run("failed", json!({ "error": "the instance was terminated" }));
    let first_of_all = log.0.len();
    log.add_raw(
        "restarted",
        r#"{"run":3,"timestamp":"2026-11-24T09:00:07.000Z"}"#,
    );
    log.run("started", json!({}));
    let spans = log.spans();
    spans.check_whole();
    assert_eq!(spans.names(), ["a", "order", "a", "order"]);
    let [a, first, _, second] = spans.0.as_slice() else {
        panic!("four spans")
    };
    // The first run ended with the restart, and the log does not say how.
    assert_eq!(hex(&first.trace_id), trace().trace_id(1).to_string());
    assert_eq!(text(&first.attributes, "ssetarget.task.state"), "restarted");
    assert_eq!((times(first), status(first)), ((0, 2), (0, "")));
    assert_eq!(text(&a.attributes, "ssetarget.task.state"), "stopped");

    assert_eq!(hex(&second.trace_id), trace().trace_id(2).to_string());
    assert_ne!(second.trace_id, first.trace_id);
    assert_eq!(number(&second.attributes, "ssetarget.run"), 2);
    assert_eq!(
        text(&second.attributes, "ssetarget.task.state"),
        "terminated"
    );
    assert_eq!(text(&second.attributes, "error.type"), "terminated");
    let [link] = second.links.as_slice() else {
        panic!("one link")
    };
    assert_eq!(
        (&link.trace_id, &link.span_id),
        (&first.trace_id, &first.span_id)
    );
    assert_eq!(text(&link.attributes, "ssetarget.link"), "previous-run");

    // The bytes of a run do not depend on the runs before and after it.
    let requests = log.requests(Unfinished::LeaveOut);
    let before = requests_of(&trace(), &log.0[..first_of_all], Unfinished::LeaveOut);
    assert_eq!(requests, before);
    let alone = requests_of(&trace(), &log.0[2..first_of_all], Unfinished::LeaveOut);
    assert_eq!(requests[1..], alone);
}

/// A killed attempt leaves no event.
#[test]
fn attempts_that_were_killed_are_counted() {
    let mut log = Log::default();
    log.run("started", json!({}));
    log.add("started", "a-1", json!({}));
    log.add("completed", "a-1", json!({ "attempt": 2 }));
    log.add("started", "b-1", json!({}));
    log.add(
        "attempt_failed",
        "b-1",
        json!({ "attempt": 2, "error": "no" }),
    );
    log.add(
        "attempt_failed",
        "b-1",
        json!({ "attempt": 2, "error": "again" }),
    );
    log.add("completed", "b-1", json!({ "attempt": 5 }));
    log.run("completed", json!({}));
    let spans = log.spans();
    spans.check_whole();
    let lost = |name| number(&spans.named(name).attributes, "ssetarget.attempts.lost");
    assert_eq!((lost("a"), lost("b")), (1, 3));
    let approximate = |name| {
        let known = find(&spans.named(name).attributes, "ssetarget.start.approximate");
        known == Some(&Any::BoolValue(true))
    };
    assert_eq!(spans.named("a (attempt 2)").links.len(), 0);
    assert!(
        approximate("a (attempt 2)")
            && approximate("b (attempt 2)")
            && approximate("b (attempt 5)")
    );
    assert_eq!(
        times(spans.named("b (attempt 5)")),
        (4, 6),
        "from the end of the one before"
    );
    assert_eq!(
        status(spans.named("b (attempt 2)")),
        (2, "no"),
        "told twice, which no log does"
    );
}

#[test]
fn reports_are_bounded_and_counted() {
    let mut log = Log::default();
    log.run("started", json!({}));
    log.add("started", "a-1", json!({}));
    log.add("started", "b-1", json!({}));
    for number in 0..300 {
        log.add_at(
            BEGAN,
            "progress",
            "a-1",
            json!({ "percent": number / 3, "message": format!("{number}") }),
        );
    }
    log.add("failed", "a-1", json!({ "error": "no" }));
    // About 9 MiB, of which four wait.
    let long = json!({ "message": "x".repeat(4096), "attributes": { "a": "y".repeat(4096), "b": ["z".repeat(4096)] } });
    for number in 0..800 {
        log.add("started", &format!("c{number}-1"), json!({}));
        log.add("progress", &format!("c{number}-1"), long.clone());
    }
    log.add("completed", "b-1", json!({ "attempt": 1 }));
    log.run("completed", json!({}));
    let spans = log.spans();
    spans.check_whole();
    let a = spans.named("a");
    assert_eq!(
        (a.events.len(), a.dropped_events_count),
        (MAX_EVENTS, 173),
        "with the exception"
    );
    let messages: Vec<_> = a.events[..127]
        .iter()
        .map(|event| text(&event.attributes, "ssetarget.progress.message"))
        .collect();
    assert_eq!(
        (messages[0], messages[63], messages[64], messages[126]),
        ("0", "63", "236", "298")
    );
    assert_eq!(a.events[127].name, "exception");
    let kept = spans
        .0
        .iter()
        .filter(|span| span.name.starts_with('c') && !span.events.is_empty())
        .count();
    let dropped: u32 = spans
        .0
        .iter()
        .filter(|span| span.name.starts_with('c'))
        .map(|span| span.dropped_events_count)
        .sum();
    assert!((300..400).contains(&kept), "{kept}");
    assert_eq!(kept as u32 + dropped, 800);
}

#[test]
fn a_large_trace_is_several_requests() {
    let mut log = Log::default();
    log.run("started", json!({}));
    for number in 0..5_000 {
        let task = format!("a{number}-1");
        log.add("started", &task, json!({}))
            .add("completed", &task, json!({ "attempt": 1 }));
    }
    for number in 0..20 {
        let task = format!("large{number}-1");
        let attributes: serde_json::Map<_, _> = (0..30)
            .map(|n| (format!("k{n}"), json!("\u{1}".repeat(1000))))
            .collect();
        log.add("started", &task, json!({}));
        log.add(
            "completed",
            &task,
            json!({ "attempt": 1, "attributes": attributes }),
        );
    }
    log.run("completed", json!({}));
    let requests = log.requests(Unfinished::LeaveOut);
    let counts: Vec<_> = requests
        .iter()
        .map(|request| Spans::decode(std::slice::from_ref(request)).0.len())
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), 5_021);
    assert!(
        counts.len() >= 6 && counts.iter().all(|count| *count <= MAX_SPANS),
        "{counts:?}"
    );
    assert!(requests.iter().all(|request| request.len() <= MAX_BYTES));
    Spans::decode(&requests).check_whole();
}

/// Spans outside of workflows need no root, and a log can have several.
#[test]
fn a_log_of_spans() {
    let mut log = Log::default();
    log.add("started", "a-1", json!({}));
    log.add(
        "started",
        "a-1/b-1",
        json!({ "parentId": "a-1", "step": "b" }),
    );
    log.add("completed", "a-1/b-1", json!({}));
    log.add("completed", "a-1", json!({}));
    log.add("started", "c-1", json!({}));
    let spans = log.spans();
    spans.check_whole();
    assert_eq!(spans.names(), ["b", "a"]);
    assert_eq!(spans.named("b").parent_span_id, spans.named("a").span_id);
    assert!(spans.named("a").parent_span_id.is_empty());
    assert_eq!(log.partial().names(), ["b", "a", "c"]);

    let mut log = Log::default();
    for number in ["1", "2"] {
        let root = format!("order-{number}.workflow");
        let other = format!("other-{number}.workflow");
        log.add(
            "started",
            &root,
            json!({ "kind": "workflow", "step": format!("run {number}") }),
        );
        log.add(
            "started",
            &other,
            json!({ "kind": "workflow", "step": "within" }),
        );
        log.add(
            "completed",
            &other,
            json!({ "kind": "workflow", "step": "within" }),
        );
        log.add("completed", &root, json!({ "kind": "workflow" }));
    }
    let spans = log.spans();
    spans.check_whole();
    let (first, second) = (spans.named("run 1"), spans.named("run 2"));
    assert_eq!(hex(&first.trace_id), TRACE);
    assert_eq!(hex(&second.trace_id), trace().trace_id(2).to_string());
    assert_eq!(second.links[0].span_id, first.span_id);
    let within: Vec<_> = spans
        .0
        .iter()
        .filter(|span| span.name == "within")
        .map(|span| &span.parent_span_id)
        .collect();
    assert_eq!(within, [&first.span_id, &second.span_id]);
}

/// A log as retention leaves it.
#[test]
fn a_log_without_its_beginning() {
    let mut log = Log::default();
    log.add(
        "completed",
        "gone-1",
        json!({ "parentId": "order-1.workflow" }),
    );
    log.add(
        "attempt_failed",
        "gone-2",
        json!({ "attempt": 1, "error": "no" }),
    );
    log.add("started", "a-1", json!({ "parentId": "order-1.workflow" }));
    log.add("started", "b-1", json!({ "parentId": "gone-1.group" }));
    log.add("completed", "a-1", json!({}));
    log.run("completed", json!({}));
    let spans = log.spans();
    spans.check();
    assert_eq!(spans.names(), ["a", "order", "b"]);
    let root = spans.named("order");
    assert_eq!(times(root), (0, 5));
    assert_eq!(
        find(&root.attributes, "ssetarget.start.approximate"),
        Some(&Any::BoolValue(true))
    );
    assert_eq!(spans.named("a").parent_span_id, root.span_id);
}

#[test]
fn names_and_resources_can_be_set() {
    let variables = HashMap::from([
        ("OTEL_SERVICE_NAME", " shop "),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=no,deployment.environment.name=a%2Cb, x = y",
        ),
        ("SSETARGET_TRACE_SALT", ""),
    ]);
    let own = trace()
        .variables(|name| variables.get(name).map(|&value| value.to_owned()))
        .unwrap();
    let requests = requests_of(&own, &order().0, Unfinished::LeaveOut);
    let decoded: ExportTraceServiceRequest = serde_json::from_slice(&requests[0]).unwrap();
    let attributes = &decoded.resource_spans[0]
        .resource
        .as_ref()
        .unwrap()
        .attributes;
    let all: Vec<_> = attributes
        .iter()
        .map(|one| (one.key.as_str(), text(attributes, &one.key)))
        .collect();
    assert_eq!(
        all,
        [
            ("service.name", "shop"),
            ("deployment.environment.name", "a,b"),
            ("x", "y")
        ]
    );
    assert_eq!(own.trace_id(1), trace().trace_id(1));
    let salted = trace().salt("shop");
    assert_ne!(salted.trace_id(1), trace().trace_id(1));
    assert_ne!(trace().salt("sho").trace_id(1), salted.trace_id(1));
    let error =
        trace().variables(|name| (name == "OTEL_RESOURCE_ATTRIBUTES").then(|| "secret".to_owned()));
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("OTEL_RESOURCE_ATTRIBUTES must be") && !error.contains("secret"),
        "{error}"
    );
}

// Real runs.

async fn order_body<S: Step>(step: &S, failures: &Cell<u32>) -> Result<(), StepError> {
    let config = StepConfig::new().retries(Retries::new(3, Duration::from_secs(1)));
    let failing = failures.get() > 0;
    failures.set(failures.get().saturating_sub(1));
    step.run_with("pay", config, async move |attempt| {
        attempt.progress(Progress::percent(50.0).message("asking"));
        match failing && attempt.attempt == 1 {
            true => Err(StepError::new("no answer")),
            false => Ok(7),
        }
    })
    .await?;
    step.group("fulfil", async |step| {
        step.run("pack", async |_| Ok(1)).await?;
        step.sleep("dry", Duration::from_secs(60)).await
    })
    .await?;
    step.wait_for_event::<()>("approval", WaitForEvent::new("ok"))
        .await
        .map(drop)
}

/// Killed at each point, and replayed.
#[tokio::test(start_paused = true)]
async fn any_real_run_gives_a_valid_trace() {
    let mut names = HashSet::new();
    for fuel in 0..40 {
        let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
        let failures = Cell::new(1);
        engine.kill_after(fuel);
        let mut lives = 0;
        loop {
            let step = wrapped(&engine, &world, DispatchConfig::batched());
            let failures = &failures;
            let body = step.workflow(async move |step| order_body(&step, failures).await);
            let ended = lifetime(&engine, body).await;
            lives += 1;
            engine.revive();
            if ended.is_some() {
                break;
            }
            assert!(lives < 5);
        }
        let target = world.log.target();
        let page = target
            .store()
            .read(None, ssetarget::store::PageLimit::default())
            .await
            .unwrap();
        let requests = requests_of(&trace(), &page.events, Unfinished::LeaveOut);
        let spans = Spans::decode(&requests);
        spans.check_whole();
        for name in ["pay", "fulfil", "pack", "dry", "approval", "order"] {
            assert_eq!(
                status(spans.named(name)).0,
                1,
                "{name}, killed after {fuel}"
            );
        }
        names.insert(spans.names().join(","));
        // The same, however the log is read.
        let document: Vec<u8> = document(target, &trace(), Unfinished::LeaveOut)
            .map_ok(|part| part.to_vec())
            .try_concat()
            .await
            .unwrap();
        assert_eq!(vec![document], requests);
    }
    assert!(names.len() > 1, "some were killed in an attempt");
}

#[tokio::test]
async fn a_tracers_log_is_exported() {
    let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    let (tracer, sending) = Tracer::new(&target, tokio::time::sleep);
    tokio::spawn(sending);
    let job = tracer.with_root("import", async |import| {
        import
            .with_span("download", async |span| {
                span.set_attribute("bytes", 20);
                Ok::<_, StepError>(())
            })
            .await?;
        import
            .with_span("parse", async |_| Err::<(), _>(StepError::new("no number")))
            .await
    });
    assert!(job.await.is_err());
    let answers = [200];
    let (result, posts, _) = send(&target, &answers, None).await;
    assert_eq!(result.unwrap().requests, 1);
    let spans = Spans::decode(&bodies(&posts));
    spans.check_whole();
    assert_eq!(spans.names(), ["download", "parse", "import"]);
    assert_eq!(status(spans.named("parse")), (2, "no number"));
    assert_eq!(status(spans.named("import")), (2, "no number"));
}

// The exporter.

/// Exports to a receiver that answers with these statuses, then with 200. Returns the requests and the waits.
async fn send<S: EventStore>(
    target: &SseTarget<NewEvent, S>,
    answers: &[u16],
    retry_after: Option<&str>,
) -> (
    Result<ssetarget::otlp::Exported, ExportError<S::Error>>,
    Vec<Post>,
    Vec<Duration>,
) {
    let (posts, waits) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let exporter = Exporter::new("http://receiver:4318").unwrap();
    let exporter = exporter.header("Authorization", "Bearer abc").unwrap();
    let post = |post: Post| {
        let status = answers.get(posts.borrow().len()).copied().unwrap_or(200);
        posts.borrow_mut().push(post);
        let answer = Answer {
            status,
            retry_after: retry_after.map(str::to_owned),
            body: Bytes::from_static(
                br#"{"partialSuccess":{"rejectedSpans":"1","errorMessage":"one is too old"}}"#,
            ),
        };
        // Status 0 means no answer.
        async move { if status == 0 { Err(()) } else { Ok(answer) } }
    };
    let sleep = |time| {
        waits.borrow_mut().push(time);
        async {}
    };
    let result = export(target, &trace(), &exporter, post, sleep).await;
    (result, posts.into_inner(), waits.into_inner())
}

fn bodies(posts: &[Post]) -> Vec<Vec<u8>> {
    posts.iter().map(|post| post.body.to_vec()).collect()
}

async fn stored(log: &Log) -> SseTarget<NewEvent, MemoryEventStore> {
    let target = SseTarget::new(MemoryEventStore::new());
    let events = log
        .0
        .iter()
        .map(|event| NewEvent::new(&event.event_type, &event.data).unwrap());
    target.dispatch_encoded(events.collect()).await.unwrap();
    target
}

#[tokio::test]
async fn a_receiver_that_is_away_gets_the_same_bytes_later() {
    let target = stored(&order()).await;
    let expected = order().requests(Unfinished::LeaveOut);
    let (result, posts, waits) = send(&target, &[0, 503, 429, 502, 504], None).await;
    let exported = result.unwrap();
    assert_eq!(
        (
            exported.requests,
            exported.rejected,
            exported.message.as_str()
        ),
        (1, 1, "one is too old")
    );
    assert_eq!(posts.len(), 6);
    for post in &posts {
        assert_eq!(post.url, "http://receiver:4318/v1/traces");
        let headers: Vec<_> = post
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            headers,
            [
                ("authorization", "Bearer abc"),
                ("content-type", "application/json")
            ]
        );
        assert_eq!(post.body, expected[0]);
    }
    for (wait, longest) in waits.iter().zip([5.0, 10.0, 20.0, 40.0, 80.0]) {
        assert!(
            (longest / 2.0..=longest).contains(&wait.as_secs_f64()),
            "{waits:?}"
        );
    }

    let (_, _, waits) = send(&target, &[429, 429], Some("120")).await;
    assert_eq!(waits, [Duration::from_secs(120); 2]);
    // A receiver that seems to fail for ever.
    let (result, posts, waits) = send(&target, &[503; 100], None).await;
    assert!(matches!(result, Err(ExportError::GaveUp(Some(503)))));
    assert!(posts.len() < 20 && waits.iter().sum::<Duration>() <= Duration::from_secs(3600));
    let (result, _, waits) = send(&target, &[0], Some("7200")).await;
    assert!(
        result.is_ok() && waits.len() == 1,
        "without an answer there is no header"
    );
    let (result, posts, waits) = send(&target, &[503], Some("7200")).await;
    assert!(matches!(result, Err(ExportError::GaveUp(Some(503)))));
    assert_eq!((posts.len(), waits.len()), (1, 0));
    for status in [301, 400, 401, 404, 413, 500] {
        let (result, posts, waits) = send(&target, &[status], Some("1")).await;
        assert!(matches!(result, Err(ExportError::Refused(refused)) if refused == status));
        assert_eq!((posts.len(), waits.len()), (1, 0), "{status}");
    }
}

#[tokio::test]
async fn a_log_that_is_removed_meanwhile_is_an_error() {
    async fn add(target: &SseTarget<NewEvent, MemoryEventStore>, tasks: std::ops::Range<u32>) {
        let mut log = Log::default();
        for number in tasks {
            let task = format!("a{number}-1");
            log.add("started", &task, json!({}));
            log.add("completed", &task, json!({}));
        }
        let events = log.0.iter();
        let events = events.map(|event| NewEvent::new(&event.event_type, &event.data).unwrap());
        target.dispatch_encoded(events.collect()).await.unwrap();
    }

    // The oldest events were gone before: this is the whole log now.
    let target = SseTarget::new(MemoryEventStore::new().max_events(600));
    add(&target, 0..400).await;
    let parts = document(&target, &trace(), Unfinished::LeaveOut);
    let whole: Vec<u8> = parts
        .map_ok(|part| part.to_vec())
        .try_concat()
        .await
        .unwrap();
    assert_eq!(Spans::decode(&[whole]).0.len(), 300);

    // Of several requests, the events of later ones are gone by then.
    let target = SseTarget::new(MemoryEventStore::new().max_events(5_000));
    add(&target, 0..2_500).await;
    let mut parts = Box::pin(document(&target, &trace(), Unfinished::LeaveOut));
    assert!(parts.try_next().await.unwrap().is_some());
    add(&target, 2_500..5_000).await;
    assert!(matches!(parts.try_next().await, Err(ReadError::Removed)));
    assert!(parts.try_next().await.unwrap().is_none());
}

#[cfg(feature = "http")]
#[tokio::test]
async fn a_server_answers_with_the_trace() {
    use ssetarget::{Cors, http::Sse};

    let mut log = order();
    log.0.truncate(9);
    let target = stored(&log).await;
    let sse = Sse::new().cors(Cors::new(["https://a.example"]).unwrap());
    let ask = async |method: &str, query: &str| {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("/x/otlp{query}"));
        let request = request
            .header("origin", "https://a.example")
            .body(())
            .unwrap();
        let (head, body) = sse.otlp(&target, &trace(), &request).into_parts();
        let body: Vec<u8> = body
            .map_ok(|part| part.to_vec())
            .try_concat()
            .await
            .unwrap();
        (head, body)
    };
    let (head, body) = ask("GET", "").await;
    assert_eq!(head.status, 200);
    let header = |name: &str| head.headers[name].to_str().unwrap();
    assert_eq!(
        (header("content-type"), header("cache-control")),
        ("application/json", "no-store")
    );
    assert_eq!(header("access-control-allow-origin"), "https://a.example");
    assert_eq!(vec![body], log.requests(Unfinished::LeaveOut));
    for query in ["?partial", "?a=b&partial=1"] {
        let (_, body) = ask("GET", query).await;
        assert_eq!(vec![body], log.requests(Unfinished::Partial), "{query}");
    }
    for query in ["?partial=false", "?partial=0", "?Partial"] {
        assert_eq!(
            vec![ask("GET", query).await.1],
            log.requests(Unfinished::LeaveOut)
        );
    }
    let (head, body) = ask("HEAD", "").await;
    assert_eq!(
        (
            head.status.as_u16(),
            head.headers["content-type"].as_bytes(),
            body.len()
        ),
        (200, &b"application/json"[..], 0)
    );
    let (head, _) = ask("POST", "").await;
    assert_eq!(
        (head.status.as_u16(), head.headers["allow"].as_bytes()),
        (405, &b"GET, HEAD"[..])
    );
}

// Any log.

fn any_event() -> impl Strategy<Value = (String, Value)> {
    let types = prop::sample::select(vec![
        "started",
        "started",
        "started",
        "completed",
        "completed",
        "failed",
        "attempt_failed",
        "progress",
        "restarted",
        "note",
    ]);
    let task = prop::sample::select(vec![
        "a-1",
        "b-1",
        "c-1.group",
        "d-1.sleep",
        "order-1.workflow",
        "other-2.workflow",
        "",
        "\u{0}\u{1b}\"\\\u{2028}🫖-1",
    ]);
    let parent = prop::option::of(prop::sample::select(vec![
        "a-1",
        "b-1",
        "c-1.group",
        "order-1.workflow",
        "other-2.workflow",
        "gone-1",
        "gone-1.workflow",
        "",
    ]));
    let kind = prop::sample::select(vec!["do", "sleep", "sleepUntil", "waitForEvent"]);
    let text = prop::option::of(prop_oneof![
        Just(String::new()),
        any::<String>(),
        Just("\u{0}\u{7f}\u{202e}</script>%s{}\r\n".repeat(300)),
    ]);
    let time = prop_oneof![
        Just("1970-01-01T00:00:00.000Z".to_owned()),
        Just("9999-12-31T23:59:59.999Z".to_owned()),
        (0_u64..100).prop_map(|second| {
            humantime::format_rfc3339_millis(
                SystemTime::UNIX_EPOCH + Duration::from_secs(BEGAN + second),
            )
            .to_string()
        })
    ];
    let attributes = prop::option::of(prop::collection::btree_map(
        any::<String>(),
        prop_oneof![
            Just(Value::Null),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            Just(json!([1, 2.5])),
            Just(json!({ "a": [{}] })),
        ],
        0..5,
    ));
    let attempt = prop::option::of(prop_oneof![0_u32..4, Just(u32::MAX)]);
    let percent = prop::option::of(any::<f64>());
    (types, task, parent, kind, (text.clone(), text), time.clone(), attributes, attempt, percent, prop::option::of(time)).prop_map(
        |(of, task, parent, kind, (name, error), time, attributes, attempt, percent, retry_at)| {
            if of == "restarted" {
                return (of.to_owned(), json!({ "run": attempt, "timestamp": time }));
            }
            let kind = if task.ends_with(".workflow") { "workflow" } else { kind };
            let mut data = json!({
                "taskId": task, "step": name.clone().unwrap_or_default(), "kind": kind, "count": 1,
                "timestamp": time, "parentId": parent,
            });
            let more = [
                ("attempt", json!(attempt)), ("percent", json!(percent)), ("message", json!(name)), ("error", json!(error)),
                ("attributes", json!(attributes)), ("retryAt", json!(retry_at)), ("until", json!(error)), ("eventType", json!(name)),
            ];
            for (key, value) in more {
                if !value.is_null() {
                    data[key] = value;
                }
            }
            (of.to_owned(), data)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn any_log_gives_a_valid_trace(events in prop::collection::vec(any_event(), 0..60)) {
        let mut log = Log::default();
        for (event_type, data) in &events {
            log.add_raw(event_type, &data.to_string());
        }
        log.spans().check();
        log.partial().check_whole_but_gone();
        prop_assert_eq!(log.requests(Unfinished::Partial), log.requests(Unfinished::Partial));
        // Finished spans are the same in both.
        let partial: HashMap<_, _> = log.partial().0.into_iter().map(|span| ((span.trace_id.clone(), span.span_id.clone()), span)).collect();
        for span in log.spans().0 {
            prop_assert_eq!(&partial[&(span.trace_id.clone(), span.span_id.clone())], &span);
        }
    }

    #[test]
    fn no_event_makes_it_panic(event_type in "started|completed|failed|progress|attempt_failed|restarted", data in any::<String>()) {
        let mut log = Log::default();
        log.run("started", json!({})).add_raw(&event_type, &data).run("completed", json!({}));
        prop_assert_eq!(log.spans().0.len(), 1);
    }
}

impl Spans {
    /// Works like [`check_whole`](Self::check_whole), for a log that may have lost the beginning of its root: then
    /// the children name a root that does not exist.
    fn check_whole_but_gone(&self) {
        self.check();
        let ids: HashSet<_> = self
            .0
            .iter()
            .map(|span| (&span.trace_id, &span.span_id))
            .collect();
        let mut missing: HashMap<_, HashSet<_>> = HashMap::new();
        for span in self.0.iter().filter(|span| !span.parent_span_id.is_empty()) {
            if !ids.contains(&(&span.trace_id, &span.parent_span_id)) {
                missing
                    .entry(&span.trace_id)
                    .or_default()
                    .insert(&span.parent_span_id);
            }
        }
        // The missing parent is the root, and each trace has one.
        assert!(missing.values().all(|parents| parents.len() == 1));
    }
}
