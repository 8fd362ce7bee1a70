//! Spans as events: by the tracer, and through the crate `tracing`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use cloudflare_workflows::Progress;
use serde_json::{Value, json};
use ssetarget::tracer::{Span, Tracer, TracerConfig};
use ssetarget::workflow::DispatchConfig;
use ssetarget::{
    Appended, Cursor, EventId, EventStore, MemoryEventStore, NewEvent, Page, PageLimit, SseTarget,
};
use tokio::sync::Notify;
use tokio::task::yield_now;

type Target<S = TestStore> = SseTarget<NewEvent, S>;

// The events.

#[tokio::test]
async fn a_root_its_spans_and_reports_are_the_events_of_a_workflow() {
    let log = Log::new(TracerConfig::new());
    let result: Result<u32, &str> = log
        .tracer
        .with_root("import", async |import| {
            import
                .with_span("download", async |span| {
                    span.progress(Progress::percent(50.0).message("half").attribute("kb", 7));
                    span.progress("rest");
                    span.set_attribute("bytes", 14_000);
                    Ok::<_, &str>(())
                })
                .await?;
            import.progress("downloaded");
            let _ = import
                .with_span("check", async |span| {
                    span.with_span("a/b", async |_| Err::<(), _>("bad sum"))
                        .await
                })
                .await;
            import.with_span("download", async |_| Ok(7)).await
        })
        .await;
    assert_eq!(result, Ok(7));
    // With_root returns when everything is stored.
    let root = "import-1.workflow";
    let event = |of: &str, id: &str, step: &str, count: u32, parent: Value, more: Value| {
        let kind = if id == root { "workflow" } else { "do" };
        let mut data =
            json!({"taskId": id, "step": step, "kind": kind, "count": count, "parentId": parent});
        data.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        (of.to_owned(), data)
    };
    let expected = [
        event("started", root, "import", 1, Value::Null, json!({})),
        event(
            "started",
            "download-1",
            "download",
            1,
            json!(root),
            json!({}),
        ),
        event(
            "progress",
            "download-1",
            "download",
            1,
            json!(root),
            json!({"percent": 50, "message": "half", "attributes": {"kb": 7}}),
        ),
        event(
            "progress",
            "download-1",
            "download",
            1,
            json!(root),
            json!({"message": "rest"}),
        ),
        event(
            "completed",
            "download-1",
            "download",
            1,
            json!(root),
            json!({"attributes": {"bytes": 14_000}}),
        ),
        event(
            "progress",
            root,
            "import",
            1,
            Value::Null,
            json!({"message": "downloaded"}),
        ),
        event("started", "check-1", "check", 1, json!(root), json!({})),
        event(
            "started",
            "check-1/a%2Fb-1",
            "a/b",
            1,
            json!("check-1"),
            json!({}),
        ),
        event(
            "failed",
            "check-1/a%2Fb-1",
            "a/b",
            1,
            json!("check-1"),
            json!({"error": "bad sum"}),
        ),
        event(
            "failed",
            "check-1",
            "check",
            1,
            json!(root),
            json!({"error": "bad sum"}),
        ),
        event(
            "started",
            "download-2",
            "download",
            2,
            json!(root),
            json!({}),
        ),
        event(
            "completed",
            "download-2",
            "download",
            2,
            json!(root),
            json!({}),
        ),
        event("completed", root, "import", 1, Value::Null, json!({})),
    ];
    assert_eq!(log.events().await, expected);
    // The root's end is the log's end.
    let head = EventId::new(expected.len() as u64).unwrap();
    assert!(
        log.target
            .subscribe(Cursor::After(head))
            .await
            .unwrap()
            .has_ended()
    );
}

#[tokio::test]
async fn an_error_is_reported_with_its_causes_and_returned_unchanged() {
    #[derive(Debug, PartialEq)]
    struct Chained;
    impl fmt::Display for Chained {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(if f.alternate() {
                "outer: inner"
            } else {
                "outer"
            })
        }
    }
    let log = Log::new(TracerConfig::new());
    let result = log
        .tracer
        .with_span("s", async |_| Err::<(), _>(Chained))
        .await;
    assert_eq!(result, Err(Chained));
    assert!(log.tracer.flush().await);
    assert_eq!(log.events().await[1].1["error"], "outer: inner");
}

#[tokio::test]
async fn ids_are_the_same_however_spans_interleave() {
    async fn worker(root: &Span, number: u32, turns: u32) {
        let body = async |worker: Span| {
            for _ in 0..turns {
                yield_now().await;
            }
            let row = async |_: Span| {
                for _ in 0..number {
                    yield_now().await;
                }
                Ok::<_, Infallible>(())
            };
            let (a, b) = tokio::join!(worker.with_span("row", row), worker.with_span("row", row));
            a.and(b)
        };
        root.with_span(&format!("worker {number}"), body)
            .await
            .unwrap();
    }
    let mut seen = BTreeSet::new();
    for seed in 0..6 {
        let log = Log::new(TracerConfig::new());
        let body = async |root: Span| {
            tokio::join!(
                worker(&root, 1, seed % 3),
                worker(&root, 2, seed % 2),
                worker(&root, 3, (seed + 1) % 4),
            );
            Ok::<_, Infallible>(())
        };
        log.tracer.with_root("job", body).await.unwrap();
        let events = log.events().await;
        let facts: BTreeSet<String> = events
            .iter()
            .map(|(of, data)| format!("{of} {} in {}", data["taskId"], data["parentId"]))
            .collect();
        assert_eq!(facts.len(), 2 * (1 + 3 + 6));
        assert!(
            facts.contains(r#"completed "worker 2-1/row-2" in "worker 2-1""#),
            "{facts:?}"
        );
        seen.insert(facts);
    }
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn a_long_name_is_cut_and_spans_within_name_their_parent() {
    let log = Log::new(TracerConfig::new());
    for filler in ["x", "\"", "\u{1}", "/", "é"] {
        let long = filler.repeat((2 << 20) / filler.len());
        let deep = async |span: Span| {
            let mut span = span;
            for _ in 0..20 {
                let (told, inner) = tokio::sync::oneshot::channel();
                let outer = span.clone();
                let name = long.clone();
                tokio::spawn(async move {
                    let keep = async |span: Span| {
                        let _ = told.send(span.clone());
                        Ok::<_, Infallible>(())
                    };
                    outer.with_span(&name, keep).await
                });
                span = inner.await.unwrap();
            }
            Ok::<_, Infallible>(())
        };
        log.tracer.with_span(&long, deep).await.unwrap();
    }
    for _ in 0..10 {
        yield_now().await;
    }
    assert!(log.tracer.flush().await);
    let events = log.events().await;
    assert_eq!(events.len(), 2 * 5 * 21);
    let ids: BTreeSet<_> = events
        .iter()
        .map(|(_, data)| data["taskId"].as_str())
        .collect();
    assert_eq!(ids.len(), 5 * 21);
    for (_, data) in &events {
        assert!(data["parentId"].is_null() || ids.contains(&data["parentId"].as_str()));
        assert!(data["step"].as_str().unwrap().ends_with(" bytes cut)"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_cross_tasks_and_threads() {
    let log = Log::new(TracerConfig::new());
    let tracer = log.tracer.clone();
    let job = tokio::spawn(async move {
        tracer
            .with_root("job", async |root| {
                let tasks: Vec<_> = (0..20)
                    .map(|_| {
                        let root = root.clone();
                        tokio::spawn(async move {
                            root.with_span("part", async |part| {
                                yield_now().await;
                                part.progress("working");
                                Ok::<_, Infallible>(())
                            })
                            .await
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap()?;
                }
                Ok::<_, Infallible>(())
            })
            .await
    });
    job.await.unwrap().unwrap();
    let events = log.events().await;
    assert_eq!(events.len(), 2 + 20 * 3);
    let ids = |of: &str| -> BTreeSet<String> {
        let events = events.iter().filter(|(event, _)| event == of);
        events.map(|(_, data)| data["taskId"].to_string()).collect()
    };
    assert_eq!(ids("progress").len(), 20);
    assert_eq!(ids("started"), ids("completed"));
}

#[tokio::test]
async fn a_span_that_does_not_get_to_its_end_fails() {
    let log = Log::new(TracerConfig::new());
    let span = log.tracer.clone();
    let never = tokio::spawn(async move {
        let body = async |_| std::future::pending::<Result<(), Infallible>>().await;
        span.with_span("never", body).await
    });
    log.until_told(1).await;
    never.abort();
    assert!(never.await.unwrap_err().is_cancelled());

    let span = log.tracer.clone();
    let panics = tokio::spawn(async move {
        span.with_span("panics", async |_| -> Result<(), Infallible> {
            panic!("on purpose")
        })
        .await
    });
    assert!(panics.await.unwrap_err().is_panic());
    assert!(log.tracer.flush().await);
    let events = log.events().await;
    assert_eq!(events[1].0, "failed");
    assert_eq!(events[1].1["error"], "cancelled before its end");
    assert_eq!(events[3].1["error"], "panicked");
}

#[tokio::test]
async fn a_span_says_nothing_after_its_end() {
    let log = Log::new(TracerConfig::new());
    let kept = log
        .tracer
        .with_span("s", async |span| Ok::<_, Infallible>(span))
        .await
        .unwrap();
    kept.progress("late");
    assert!(log.tracer.flush().await);
    assert_eq!(log.types().await, ["started", "completed"]);
}

#[tokio::test]
async fn the_same_run_is_sent_once_and_a_named_run_again() {
    async fn run(tracer: &Tracer) {
        let body = async |root: Span| {
            root.progress("working");
            root.with_span("step", async |_| Ok::<_, Infallible>(()))
                .await
        };
        tracer.with_root("job", body).await.unwrap();
    }
    let log = Log::new(TracerConfig::new());
    run(&log.tracer).await;
    assert_eq!(log.events().await.len(), 5);
    let (again, sending) = Tracer::new(&log.target, tokio::time::sleep);
    tokio::spawn(sending);
    run(&again).await;
    assert_eq!(log.events().await.len(), 5, "each fact is kept once");
    let config = TracerConfig::new().run("second");
    let (second, sending) = Tracer::with_config(&log.target, config, tokio::time::sleep);
    tokio::spawn(sending);
    run(&second).await;
    let events = log.events().await;
    assert_eq!(events.len(), 10);
    assert_eq!(events[5].1["taskId"], "second/job-1.workflow");
    assert_eq!(events[7].1["taskId"], "second/step-1");
}

// The traced code does not notice failures.

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_costs_the_code_nothing_and_gets_everything_once() {
    let errors = Arc::new(AtomicUsize::new(0));
    let heard = Arc::clone(&errors);
    let config = TracerConfig::new().on_error(move |error| {
        assert_eq!(error.to_string(), "broken");
        heard.fetch_add(1, Ordering::SeqCst);
    });
    let log = Log::new(config);
    let store = log.target.store();
    // Some fail before they store anything, some after.
    store.fail.store(2, Ordering::SeqCst);
    store.fail_after.store(2, Ordering::SeqCst);
    let began = tokio::time::Instant::now();
    for _ in 0..5 {
        log.tracer
            .with_span("step", async |span| {
                span.progress("working");
                Ok::<_, Infallible>(())
            })
            .await
            .unwrap();
    }
    assert_eq!(
        began.elapsed(),
        Duration::ZERO,
        "the code waits for nothing"
    );
    assert!(log.tracer.flush().await);
    assert_eq!(errors.load(Ordering::SeqCst), 4);
    let told: Vec<String> = ["started", "progress", "completed"]
        .repeat(5)
        .into_iter()
        .map(str::to_owned)
        .collect();
    assert_eq!(log.types().await, told);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_asked_again_and_a_flush_gives_up() {
    let log = Log::new(TracerConfig::new());
    log.target.store().stuck.store(true, Ordering::SeqCst);
    log.tracer
        .with_span("step", async |_| Ok::<_, Infallible>(()))
        .await
        .unwrap();
    assert!(!log.tracer.flush().await);
    assert_eq!(log.events().await.len(), 0);
    log.target.store().stuck.store(false, Ordering::SeqCst);
    assert!(log.tracer.flush().await);
    assert_eq!(log.types().await, ["started", "completed"]);
    assert!(log.tracer.flush().await, "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn beyond_the_capacity_spans_are_left_out_whole_and_ends_are_kept() {
    let log = Log::new(TracerConfig::new().capacity(3));
    log.target.store().stuck.store(true, Ordering::SeqCst);
    let body = async |root: Span| {
        root.with_span("told", async |told| {
            told.progress("the third, and so the last");
            told.progress("left out");
            told.with_span("left out", async |left_out| {
                left_out.progress("left out too, but not counted again");
                left_out
                    .with_span("left out as well", async |_| Ok::<_, Infallible>(()))
                    .await?;
                // There is room again: a span that begins here belongs to a known part.
                log.target.store().stuck.store(false, Ordering::SeqCst);
                assert!(log.tracer.flush().await);
                left_out
                    .with_span("inner", async |_| Ok::<_, Infallible>(()))
                    .await?;
                left_out.set_attribute("nobody", "hears it");
                Ok::<_, Infallible>(())
            })
            .await
        })
        .await
    };
    log.tracer.with_span("root", body).await.unwrap();
    assert!(log.tracer.flush().await);
    assert_eq!(log.tracer.left_out(), 3);
    let events = log.events().await;
    let told: Vec<String> = events
        .iter()
        .map(|(of, data)| format!("{of} {}", data["step"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            "started root",
            "started told",
            "progress told",
            "started inner",
            "completed inner",
            "completed told",
            "completed root"
        ]
    );
    assert_eq!(events[3].1["parentId"], "root-1/told-1");
    assert_eq!(events[3].1["taskId"], "root-1/told-1/left out-1/inner-1");
}

#[tokio::test(start_paused = true)]
async fn events_go_in_batches_unless_told_otherwise() {
    for (dispatch, appends) in [
        (DispatchConfig::batched(), 1),
        (DispatchConfig::immediate(), 4),
    ] {
        let log = Log::new(TracerConfig::new().dispatch(dispatch));
        for number in 1..=4 {
            log.tracer
                .with_span("step", async |_| Ok::<_, Infallible>(()))
                .await
                .unwrap();
            if appends > 1 {
                log.until_told(2 * number).await;
            }
        }
        assert!(log.tracer.flush().await);
        assert_eq!(log.target.store().appends.load(Ordering::SeqCst), appends);
        assert_eq!(log.events().await.len(), 8);
    }
}

#[tokio::test]
async fn sending_ends_with_the_last_handle_and_leaves_nothing() {
    let target = Target::new(TestStore::default());
    let (tracer, sending) = Tracer::new(&target, tokio::time::sleep);
    let sending = tokio::spawn(sending);
    let span = tracer
        .with_span("s", async |span| Ok::<_, Infallible>(span))
        .await
        .unwrap();
    drop(tracer);
    yield_now().await;
    assert!(!sending.is_finished(), "a span is a handle too");
    drop(span);
    sending.await.unwrap();
    let page = target
        .store()
        .inner
        .read(None, PageLimit::default())
        .await
        .unwrap();
    assert_eq!(page.events.len(), 2);
}

// Through the crate `tracing`.

#[cfg(feature = "tracing")]
mod layer {
    use ssetarget::tracer::{Route, SseLayer};
    use tracing::instrument::WithSubscriber;
    use tracing::{Instrument, Level, error, info, info_span, instrument, warn};
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::prelude::*;

    use super::*;

    #[instrument(err)]
    async fn parse(text: &str) -> Result<u32, std::num::ParseIntError> {
        info!(percent = 50.0, kb = 7, ok = true, "reading {text}");
        yield_now().await;
        text.parse()
    }

    #[tokio::test]
    async fn instrumented_code_is_reported_without_a_change() {
        let log = Log::new(TracerConfig::new());
        let subscriber = tracing_subscriber::registry().with(SseLayer::new(log.tracer.clone()));
        async {
            info!("outside all spans");
            let job = info_span!("job", id = 3, owner = tracing::field::Empty);
            async {
                parse("7").await.unwrap();
                parse("x").await.unwrap_err();
                tracing::Span::current().record("owner", "ada");
            }
            .instrument(job)
            .await;
        }
        .with_subscriber(subscriber)
        .await;
        assert!(log.tracer.flush().await);

        let base = |id: &str, step: &str, count: u32, parent: Value| json!({"taskId": id, "step": step, "kind": "do", "count": count, "parentId": parent});
        let with = |mut data: Value, more: Value| {
            data.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            data
        };
        let job = || base("job-1", "job", 1, Value::Null);
        let first = || base("job-1/parse-1", "parse", 1, json!("job-1"));
        let second = || base("job-1/parse-2", "parse", 2, json!("job-1"));
        let report = |text| {
            let attributes = json!({"kb": 7, "ok": true, "level": "INFO"});
            json!({"percent": 50, "message": text, "attributes": attributes})
        };
        let expected = [
            ("started", job()),
            ("started", first()),
            ("progress", with(first(), report("reading 7"))),
            (
                "completed",
                with(first(), json!({"attributes": {"text": "7"}})),
            ),
            ("started", second()),
            ("progress", with(second(), report("reading x"))),
            (
                "failed",
                with(second(), json!({"error": "invalid digit found in string"})),
            ),
            (
                "completed",
                with(job(), json!({"attributes": {"id": 3, "owner": "ada"}})),
            ),
        ];
        let expected = expected.map(|(of, data)| (of.to_owned(), data));
        assert_eq!(log.events().await, expected);
    }

    #[tokio::test]
    async fn what_makes_a_span_fail_and_what_does_not() {
        #[instrument(err(level = "warn"))]
        fn quiet_error() -> Result<(), &'static str> {
            Err("quiet")
        }
        let log = Log::new(TracerConfig::new());
        let subscriber = tracing_subscriber::registry().with(SseLayer::new(log.tracer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            info_span!("level").in_scope(|| error!("no disk"));
            info_span!("both").in_scope(|| error!(error = "enospc", "no disk"));
            let recorded = info_span!("recorded", error = tracing::field::Empty);
            recorded.record("error", tracing::field::display("lost"));
            drop(recorded);
            let _ = quiet_error();
            info_span!("handled").in_scope(|| warn!(error = "busy", "trying again"));
            let unwound =
                std::panic::catch_unwind(|| info_span!("panics").in_scope(|| panic!("on purpose")));
            assert!(unwound.is_err());
            // An error belongs to the innermost span, not to those around it.
            info_span!("outer").in_scope(|| info_span!("inner").in_scope(|| error!("no")));
        });
        assert!(log.tracer.flush().await);
        let events = log.events().await;
        let ends: Vec<(String, String, Value)> = events
            .iter()
            .filter(|(of, _)| of == "completed" || of == "failed")
            .map(|(of, data)| {
                (
                    data["step"].as_str().unwrap().to_owned(),
                    of.clone(),
                    data["error"].clone(),
                )
            })
            .collect();
        let end = |step: &str, of: &str, error: Value| (step.to_owned(), of.to_owned(), error);
        assert_eq!(
            ends,
            [
                end("level", "failed", json!("no disk")),
                end("both", "failed", json!("enospc")),
                end("recorded", "failed", json!("lost")),
                end("quiet_error", "failed", json!("quiet")),
                end("handled", "completed", Value::Null),
                end("panics", "failed", json!("panicked")),
                end("inner", "failed", json!("no")),
                end("outer", "completed", Value::Null),
            ]
        );
        let reports: Vec<&str> = events
            .iter()
            .filter(|(of, _)| of == "progress")
            .map(|(_, data)| data["message"].as_str().unwrap())
            .collect();
        assert_eq!(reports, ["no disk", "no disk", "trying again", "no"]);
    }

    #[tokio::test]
    async fn the_usual_filters_choose() {
        let log = Log::new(TracerConfig::new());
        let filter = Targets::new()
            .with_default(LevelFilter::INFO)
            .with_target("noisy", Level::ERROR);
        let layer = SseLayer::new(log.tracer.clone()).with_filter(filter);
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let _a = info_span!("a").entered();
            let _noisy = info_span!(target: "noisy", "b").entered();
            let _debug = tracing::debug_span!("c").entered();
            let _d = info_span!("d").entered();
            tracing::debug!("left out");
            info!(target: "noisy", "left out");
            info!("told");
        });
        assert!(log.tracer.flush().await);
        let events = log.events().await;
        let told: Vec<String> = events
            .iter()
            .map(|(of, data)| format!("{of} {}", data["taskId"].as_str().unwrap()))
            .collect();
        assert_eq!(
            told,
            [
                "started a-1",
                "started a-1/d-1",
                "progress a-1/d-1",
                "completed a-1/d-1",
                "completed a-1"
            ]
        );
        assert_eq!(events[1].1["parentId"], "a-1");
    }

    #[tokio::test]
    async fn jobs_have_logs_of_their_own() {
        let logs = [Log::new(TracerConfig::new()), Log::new(TracerConfig::new())];
        let tracers: Vec<Tracer> = logs.iter().map(|log| log.tracer.clone()).collect();
        let layer = SseLayer::routed(move |span| {
            assert_eq!(span.target, module_path!());
            match span.fields.get("job").and_then(Value::as_u64) {
                Some(job) => Route::Root(tracers[job as usize].clone()),
                None if span.name == "housekeeping" => Route::Span(tracers[0].clone()),
                None => Route::Ignore,
            }
        });
        let subscriber = tracing_subscriber::registry().with(layer);
        let job = async |job: u64| {
            let span = info_span!("import", job);
            parse("1").instrument(span).await.unwrap();
        };
        async {
            tokio::join!(job(0), job(1));
            parse("1").await.unwrap(); // in no job
            drop(info_span!("housekeeping"));
        }
        .with_subscriber(subscriber)
        .await;
        for (number, log) in logs.iter().enumerate() {
            assert!(log.tracer.flush().await);
            let events = log.events().await;
            let of_job = &events[..5];
            assert_eq!(of_job[0].1["taskId"], "import-1.workflow");
            assert_eq!(of_job[1].1["taskId"], "parse-1");
            assert_eq!(of_job[1].1["parentId"], "import-1.workflow");
            assert_eq!(of_job[4].0, "completed");
            assert_eq!(of_job[4].1["attributes"], json!({"job": number}));
            assert_eq!(events.len(), if number == 0 { 7 } else { 5 });
        }
        let ended = logs[1]
            .target
            .subscribe(Cursor::After(EventId::new(5).unwrap()))
            .await;
        assert!(ended.unwrap().has_ended());
    }

    #[tokio::test]
    async fn spans_of_sending_are_not_sent() {
        let log = Log::silent(TracerConfig::new().dispatch(DispatchConfig::immediate()));
        log.target.store().talks.store(true, Ordering::SeqCst);
        let subscriber = tracing_subscriber::registry().with(SseLayer::new(log.tracer.clone()));
        async {
            // The same if the sending itself is inside a span.
            let sending = log.sending.lock().unwrap().take().unwrap();
            tokio::spawn(
                sending
                    .instrument(info_span!("sending"))
                    .with_current_subscriber(),
            );
            drop(info_span!("step"));
            assert!(log.tracer.flush().await);
            drop(info_span!("step"));
            assert!(log.tracer.flush().await);
        }
        .with_subscriber(subscriber)
        .await;
        assert!(log.target.store().appends.load(Ordering::SeqCst) >= 2);
        let steps: Vec<String> = log
            .events()
            .await
            .iter()
            .map(|(of, data)| format!("{of} {}", data["step"].as_str().unwrap()))
            .collect();
        assert_eq!(
            steps,
            [
                "started sending",
                "started step",
                "completed step",
                "started step",
                "completed step"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn code_that_reports_faster_than_the_store_is_not_delayed() {
        let log = Log::new(TracerConfig::new().capacity(100));
        log.target.store().stuck.store(true, Ordering::SeqCst);
        let subscriber = tracing_subscriber::registry().with(SseLayer::new(log.tracer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let _job = info_span!("job").entered();
            for number in 0..10_000 {
                info!(number, "working");
                info_span!("part").in_scope(|| info!("working"));
            }
        });
        assert!(log.tracer.left_out() > 19_000);
        log.target.store().stuck.store(false, Ordering::SeqCst);
        assert!(log.tracer.flush().await);
        let events = log.events().await;
        assert!(events.len() <= 100 + 100, "{}", events.len());
        let ids = |of: &str| -> BTreeSet<String> {
            let events = events.iter().filter(|(event, _)| event == of);
            events.map(|(_, data)| data["taskId"].to_string()).collect()
        };
        assert_eq!(
            ids("started"),
            ids("completed"),
            "every span that began has ended"
        );
        assert_eq!(events.last().unwrap().1["step"], "job");
    }
}

// Helpers.

struct Log {
    target: Target,
    tracer: Tracer,
    #[allow(dead_code, reason = "for the tests of the layer")]
    sending: std::sync::Mutex<Option<futures_util::future::BoxFuture<'static, ()>>>,
}

impl Log {
    fn new(config: TracerConfig) -> Self {
        let log = Self::silent(config);
        tokio::spawn(log.sending.lock().unwrap().take().unwrap());
        log
    }

    /// A log whose events nobody sends yet.
    fn silent(config: TracerConfig) -> Self {
        let target = Target::new(TestStore::default());
        let (tracer, sending) = Tracer::with_config(&target, config, tokio::time::sleep);
        Self {
            target,
            tracer,
            sending: std::sync::Mutex::new(Some(Box::pin(sending))),
        }
    }

    /// Returns types and data without their times, which must be there.
    async fn events(&self) -> Vec<(String, Value)> {
        let limit = PageLimit {
            events: usize::MAX,
            bytes: usize::MAX,
        };
        let page = self.target.store().inner.read(None, limit).await.unwrap();
        page.events
            .into_iter()
            .map(|event| {
                let mut data: Value = serde_json::from_str(&event.data).unwrap();
                let time = data.as_object_mut().unwrap().remove("timestamp").unwrap();
                assert!(humantime::parse_rfc3339(time.as_str().unwrap()).is_ok());
                (event.event_type, data)
            })
            .collect()
    }

    async fn types(&self) -> Vec<String> {
        self.events().await.into_iter().map(|(of, _)| of).collect()
    }

    async fn until_told(&self, events: usize) {
        loop {
            let changed = self.target.store().stored.notified();
            if self.events().await.len() >= events {
                return;
            }
            changed.await;
        }
    }
}

/// A store with scripted faults.
#[derive(Default)]
struct TestStore {
    inner: MemoryEventStore,
    appends: AtomicUsize,
    stored: Notify,
    /// This many appends fail before they store anything.
    fail: AtomicUsize,
    /// After those this many fail after they stored everything.
    fail_after: AtomicUsize,
    /// The store does not answer.
    stuck: AtomicBool,
    /// The store emits spans itself.
    talks: AtomicBool,
}

#[derive(Debug)]
struct IsBroken;

impl fmt::Display for IsBroken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for IsBroken {}

fn take_one(counter: &AtomicUsize) -> bool {
    let less = |count: usize| count.checked_sub(1);
    counter
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
        .is_ok()
}

impl EventStore for TestStore {
    type Error = IsBroken;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, IsBroken> {
        if self.stuck.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if take_one(&self.fail) {
            return Err(IsBroken);
        }
        if self.talks.load(Ordering::SeqCst) {
            tracing::info_span!("append").in_scope(|| tracing::error!("talking"));
            yield_now().await;
        }
        let outcomes = self
            .inner
            .append(batch)
            .await
            .unwrap_or_else(|e| match e {});
        self.appends.fetch_add(1, Ordering::SeqCst);
        self.stored.notify_waiters();
        match take_one(&self.fail_after) {
            true => Err(IsBroken),
            false => Ok(outcomes),
        }
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, IsBroken> {
        Ok(self
            .inner
            .read(after, limit)
            .await
            .unwrap_or_else(|e| match e {}))
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), IsBroken> {
        self.inner
            .changed(after)
            .await
            .unwrap_or_else(|e| match e {});
        Ok(())
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, IsBroken> {
        Ok(self.inner.before(time).await.unwrap_or_else(|e| match e {}))
    }
}
