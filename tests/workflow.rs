//! Workflows whose process dies, whose log fails, and which are paused, restarted and retried: the log has the same
//! events.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::{
    Backoff, NonRetryableError, Progress, Retries, Step, StepConfig, StepContext, StepError,
    StepErrorKind, WaitForEvent, WorkflowDuration,
};
use futures_util::try_join;
use serde_json::{Value, json};
use ssetarget::store::{EventStore, PageLimit};
use ssetarget::workflow::{DispatchConfig, Told};
use support::engine::{Engine, FakeStep, Trouble, World, lifetime, wrapped};

/// The workflow of most tests: every kind of step, a retry, progress, a group, concurrency.
async fn order<S: Step>(step: &S) -> Result<String, StepError> {
    let price: u32 = step.run("price", async |_| Ok(7)).await?;
    let patient = StepConfig::new().retries(Retries::new(3, Duration::from_secs(1)));
    step.run_with("charge", patient, async move |attempt: StepContext| {
        if attempt.attempt == 1 {
            return Err(StepError::new("the bank did not answer"));
        }
        attempt.set_attribute("price", price);
        Ok(())
    })
    .await?;
    step.sleep("dry", Duration::from_secs(60)).await?;
    let left = step.run("pack", async |attempt: StepContext| {
        attempt.progress(Progress::percent(50.0).message("half"));
        tokio::task::yield_now().await;
        attempt.progress(Progress::percent(100.0));
        Ok("packed".to_owned())
    });
    let right = step.run("pack", async |_| Ok("labelled".to_owned()));
    let (left, right) = try_join!(left, right)?;
    step.wait_for_event::<()>("approval", WaitForEvent::new("ok"))
        .await?;
    Ok(format!("{left} {right} {price}"))
}

#[tokio::test(start_paused = true)]
async fn an_undisturbed_run_is_this_log() {
    let (engine, world) = (Rc::default(), World::new());
    let result = run_to_end(&engine, &world).await;
    assert_eq!(result.unwrap(), "packed labelled 7");
    assert_eq!(
        story(&world).await,
        [
            "started order-1.workflow of -",
            "started price-1 of order-1.workflow",
            "completed price-1 of order-1.workflow attempt 1",
            "started charge-1 of order-1.workflow",
            "attempt_failed charge-1 of order-1.workflow attempt 1: the bank did not answer",
            "completed charge-1 of order-1.workflow attempt 2 {\"price\":7}",
            "started dry-1.sleep of order-1.workflow",
            "completed dry-1.sleep of order-1.workflow",
            "started pack-1 of order-1.workflow",
            "started pack-2 of order-1.workflow",
            "progress pack-1 of order-1.workflow 50 half",
            "progress pack-1 of order-1.workflow 100",
            "completed pack-2 of order-1.workflow attempt 1",
            "completed pack-1 of order-1.workflow attempt 1",
            "started approval-1.waitForEvent of order-1.workflow",
            "completed approval-1.waitForEvent of order-1.workflow",
            "completed order-1.workflow of -",
        ]
    );
    let page = page(&world).await;
    assert!(page.closed);
    let fields = json!({
        "taskId": "price-1", "step": "price", "kind": "do", "count": 1,
        "timestamp": "1970-01-01T00:00:00.000Z", "parentId": "order-1.workflow",
    });
    let mut second: Value = serde_json::from_str(&page.events[1].data).unwrap();
    second["timestamp"] = "1970-01-01T00:00:00.000Z".into();
    assert_eq!(second, fields);
}

/// When a waiting step ends, what it waits for and when an attempt is made again: the values are those that the first
/// lifetime computed, because a fact is stored once.
#[tokio::test(start_paused = true)]
async fn waits_and_retries_say_until_when() {
    async fn body<S: Step>(step: &S) -> Result<(), StepError> {
        let linear = Retries::new(2, Duration::from_secs(3)).backoff(Backoff::Linear);
        let linear = StepConfig::new().retries(linear);
        let failing = async |attempt: StepContext| match attempt.attempt {
            3 => Ok(()),
            _ => Err(StepError::new("no")),
        };
        step.run_with("linear", linear, failing).await?;
        let chosen = Retries::dynamic(1, async |_| Ok(Duration::from_secs(1)));
        let chosen = StepConfig::new().retries(chosen);
        let failing = async |attempt: StepContext| match attempt.attempt {
            2 => Ok(()),
            _ => Err(StepError::new("no")),
        };
        step.run_with("chosen", chosen, failing).await?;
        let last = StepConfig::new().retries(Retries::NONE);
        let failing = async |_| Err::<(), _>(StepError::new("no"));
        step.run_with("last", last, failing).await.unwrap_err();
        step.sleep("nap", Duration::from_secs(90)).await?;
        // Beyond the range of an event, and beyond that of a clock.
        step.sleep("long", WorkflowDuration::years(9_000)).await?;
        step.sleep("ever", WorkflowDuration::milliseconds(u64::MAX))
            .await?;
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_444_674_907);
        step.sleep_until("then", time).await?;
        step.wait_for_event::<()>("answer", WaitForEvent::new("ok"))
            .await?;
        let hour = WaitForEvent::new("paid").timeout(Duration::from_secs(3600));
        step.wait_for_event::<()>("payment", hour).await?;
        Ok(())
    }
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    for _ in 0..2 {
        let step = wrapped(&engine, &world, DispatchConfig::batched());
        let run = step.workflow(async |step| body(&step).await);
        lifetime(&engine, run).await.unwrap().unwrap();
    }
    let mut got = Vec::new();
    for event in page(&world).await.events {
        let data: Value = serde_json::from_str(&event.data).unwrap();
        let time = |field: &str| {
            let text = data.get(field)?.as_str().unwrap();
            Some(humantime::parse_rfc3339(text).unwrap())
        };
        let told = [("until", time("until")), ("retryAt", time("retryAt"))];
        for (field, told) in told {
            if let Some(told) = told {
                let left = told.duration_since(time("timestamp").unwrap()).unwrap();
                let left = match left.as_secs() {
                    86_400.. if field == "until" => "later".to_owned(),
                    _ => format!("{}s", left.as_secs_f64()),
                };
                let of = data["eventType"].as_str().unwrap_or("-");
                let task = data["taskId"].as_str().unwrap();
                got.push(format!("{} {task} {field} {left} {of}", event.event_type));
                if task == "then-1.sleepUntil" {
                    assert_eq!(data["until"], "2026-11-23T14:37:54.907Z");
                }
            }
        }
    }
    assert_eq!(
        got,
        [
            "attempt_failed linear-1 retryAt 3s -",
            "attempt_failed linear-1 retryAt 6s -",
            "started nap-1.sleep until 90s -",
            "started then-1.sleepUntil until later -",
            "started answer-1.waitForEvent until later ok",
            "started payment-1.waitForEvent until 3600s paid",
        ]
    );
}

/// The central promise: a run that is killed at any single await point, and started again, has the log of an
/// undisturbed run. The engine counts a killed attempt, so attempts of steps may have greater numbers. A `completed`
/// that was not dispatched before the kill lacks the attempt and its attributes, as documented.
#[tokio::test(start_paused = true)]
async fn killed_at_every_await_point_the_log_is_the_same() {
    let undisturbed = {
        let (engine, world) = (Rc::default(), World::new());
        run_to_end(&engine, &world).await.unwrap();
        facts(&world).await
    };
    let mut kills = 0;
    for await_points in 0.. {
        let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
        engine.kill_after(await_points);
        let step = wrapped(&engine, &world, DispatchConfig::batched());
        let survived = lifetime(&engine, step.workflow(async |step| order(&step).await)).await;
        if survived.is_some() {
            break;
        }
        kills += 1;
        assert_eq!(
            run_to_end(&engine, &world).await.unwrap(),
            "packed labelled 7"
        );
        let mut got = facts(&world).await;
        let mut want = undisturbed.clone();
        // A killed attempt of `charge` is not a failed one.
        for facts in [&mut got, &mut want] {
            facts.retain(|fact| !fact.starts_with("attempt_failed"));
        }
        let unordered = |mut facts: Vec<String>| {
            facts.sort();
            facts
        };
        assert_eq!(
            unordered(got.clone()),
            unordered(want),
            "killed at {await_points}"
        );
        assert_eq!(got.first().unwrap(), "started order-1.workflow");
        assert_eq!(got.last().unwrap(), "completed order-1.workflow");
        for task in ["price-1", "charge-1", "pack-1", "pack-2"] {
            let position = |of: &str| got.iter().position(|fact| *fact == format!("{of} {task}"));
            assert!(
                position("started") < position("completed"),
                "{task}, killed at {await_points}"
            );
        }
    }
    assert!(kills > 20, "only {kills} await points were tried");
}

#[tokio::test(start_paused = true)]
async fn paused_in_a_sleep_and_in_a_step_the_log_is_the_same() {
    let undisturbed = {
        let (engine, world) = (Rc::default(), World::new());
        run_to_end(&engine, &world).await.unwrap();
        story(&world).await
    };
    // In a sleep the engine throws out of it; in a step it stores the result and throws instead of returning it;
    // between two attempts it throws out of the step.
    for step_name in ["price", "charge", "dry", "pack", "approval"] {
        let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
        engine.pause_in(step_name);
        let error = run_to_end(&engine, &world).await.unwrap_err();
        assert_eq!(
            error.kind(),
            StepErrorKind::Suspended,
            "{step_name}: {error}"
        );
        assert_eq!(
            run_to_end(&engine, &world).await.unwrap(),
            "packed labelled 7"
        );
        // One of two concurrent steps is given up in the middle. The engine goes on with it, and only the next
        // lifetime learns that it has ended. The same holds for the first step, if the lifetime ends before it has
        // opened the log: it sends nothing then, because a later one may have begun. The next lifetime gets the
        // result without the attempt's number.
        let counted = |line: String| match line.as_str() {
            "completed pack-1 of order-1.workflow" => format!("{line} attempt 1"),
            "completed price-1 of order-1.workflow" if step_name == "price" => {
                format!("{line} attempt 1")
            }
            _ => line,
        };
        let got = story(&world).await.into_iter().map(counted).collect();
        assert_eq!(
            sorted(got),
            sorted(undisturbed.clone()),
            "paused in {step_name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_shows_a_second_run() {
    for of_the_first in ["whole", "half"] {
        let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
        if of_the_first == "half" {
            engine.pause_in("dry");
        }
        let _ = run_to_end(&engine, &world).await;
        let first = story(&world).await;
        engine.restart();
        run_to_end(&engine, &world).await.unwrap();
        let all = story(&world).await;
        assert_eq!(all[..first.len()], first, "{of_the_first}");
        assert_eq!(all[first.len()], "restarted run 2", "{of_the_first}");
        let (fresh_engine, fresh) = (Rc::default(), World::new());
        run_to_end(&fresh_engine, &fresh).await.unwrap();
        assert_eq!(
            all[first.len() + 1..],
            story(&fresh).await,
            "{of_the_first}"
        );
        // Replayed once more, nothing is added.
        run_to_end(&engine, &world).await.unwrap();
        assert_eq!(story(&world).await, all, "{of_the_first}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_log_costs_the_workflow_nothing_and_gets_everything() {
    let undisturbed = {
        let (engine, world) = (Rc::default(), World::new());
        run_to_end(&engine, &world).await.unwrap();
        story(&world).await
    };
    for trouble in [Trouble::Refuse, Trouble::LoseAnswer, Trouble::Hang] {
        for calls_before in 0..6 {
            let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
            let mut troubles = vec![trouble; 2];
            troubles.extend(vec![Trouble::None; calls_before]);
            *world.troubles.borrow_mut() = troubles; // the last comes first
            assert_eq!(
                run_to_end(&engine, &world).await.unwrap(),
                "packed labelled 7"
            );
            let context = format!("{trouble:?} after {calls_before} calls");
            assert_eq!(story(&world).await, undisturbed, "{context}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_never_answers_delays_the_end_once() {
    let alone = {
        let engine = Rc::default();
        let start = tokio::time::Instant::now();
        lifetime(&engine, order(&FakeStep::new(&engine)))
            .await
            .unwrap()
            .unwrap();
        start.elapsed()
    };
    for trouble in [Trouble::Refuse, Trouble::Hang] {
        let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
        world.always.set(Some(trouble));
        let start = tokio::time::Instant::now();
        assert_eq!(
            run_to_end(&engine, &world).await.unwrap(),
            "packed labelled 7"
        );
        let delay = start.elapsed() - alone;
        let config = DispatchConfig::batched();
        let bound = config.wait_timeout + config.end_timeout + Duration::from_millis(100);
        assert!(delay <= bound, "{trouble:?}: {delay:?}");
        assert!(!world.warnings.borrow().is_empty());
        assert!(page(&world).await.events.is_empty());
        // The next lifetime sends what is missing.
        world.always.set(None);
        run_to_end(&engine, &world).await.unwrap();
        assert_eq!(
            facts(&world).await.last().unwrap(),
            "completed order-1.workflow"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn wrapped_or_not_results_errors_and_attempts_are_the_same() {
    async fn body<S: Step>(step: &S, case: u32) -> Result<u32, StepError> {
        let twice = StepConfig::new().retries(Retries::new(1, Duration::from_secs(1)));
        match case {
            0 => step.run("ok", async |_| Ok(1)).await,
            1 => {
                step.run_with("bad", twice, async |a| {
                    Err(StepError::new(format!("no {}", a.attempt)))
                })
                .await
            }
            2 => {
                step.run("never", async |_| {
                    Err(NonRetryableError::new("never").into())
                })
                .await
            }
            3 => {
                let short = twice.timeout(Duration::from_secs(2));
                step.run_with("slow", short, async |a| {
                    tokio::time::sleep(Duration::from_secs(if a.attempt == 1 { 5 } else { 1 }))
                        .await;
                    a.progress("too late at the first attempt");
                    Ok(a.attempt)
                })
                .await
            }
            4 => {
                let caught: Result<u32, _> = step
                    .run_with("bad", twice, async |_| Err(StepError::new("no")))
                    .await;
                Ok(caught.unwrap_or(99))
            }
            _ => {
                step.run_with("panics", twice, async |a| {
                    if a.attempt == 1 {
                        panic!("oh dear")
                    } else {
                        Ok(5)
                    }
                })
                .await
            }
        }
    }
    let outcome = |result: Option<Result<u32, StepError>>| {
        result
            .unwrap()
            .map_err(|error| (error.kind(), error.message().to_owned()))
    };
    for case in 0..5 {
        let bare = Rc::<Engine>::default();
        let want = outcome(lifetime(&bare, body(&FakeStep::new(&bare), case)).await);
        let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
        let step = wrapped(&engine, &world, DispatchConfig::batched());
        let got =
            outcome(lifetime(&engine, step.workflow(async |step| body(&step, case).await)).await);
        assert_eq!(got, want, "case {case}");
        assert_eq!(*engine.log.borrow(), *bare.log.borrow(), "case {case}");
        let terminal = if want.is_ok() { "completed" } else { "failed" };
        assert_eq!(
            *facts(&world).await.last().unwrap(),
            format!("{terminal} order-1.workflow")
        );
        match case {
            1 => assert_eq!(
                story(&world).await[2..5],
                [
                    "attempt_failed bad-1 of order-1.workflow attempt 1: no 1",
                    "attempt_failed bad-1 of order-1.workflow attempt 2: no 2",
                    "failed bad-1 of order-1.workflow attempt 2: no 2",
                ]
            ),
            2 => assert_eq!(
                story(&world).await[3],
                "failed never-1 of order-1.workflow attempt 1: never"
            ),
            3 => assert_eq!(
                story(&world).await[2..5],
                [
                    "attempt_failed slow-1 of order-1.workflow attempt 1: Execution timed out after 2000ms",
                    "progress slow-1 of order-1.workflow - too late at the first attempt",
                    "completed slow-1 of order-1.workflow attempt 2",
                ]
            ),
            _ => {}
        }
    }
    // A panic in a wrapped step is a failed attempt.
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let step = wrapped(&engine, &world, DispatchConfig::batched());
    let result = lifetime(&engine, step.workflow(async |step| body(&step, 5).await)).await;
    assert_eq!(result.unwrap().unwrap(), 5);
    assert_eq!(
        story(&world).await[2],
        "attempt_failed panics-1 of order-1.workflow attempt 1: panicked: oh dear"
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_returns_after_its_timeout_has_failed() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let step = wrapped(&engine, &world, DispatchConfig::batched());
    let run = step.workflow(async |step| {
        let config = StepConfig::new()
            .retries(Retries::new(1, Duration::from_secs(1)))
            .timeout(Duration::from_secs(2));
        step.run_with("late", config, async |a| {
            a.progress("working");
            if a.attempt == 1 {
                // During the engine's pause before the next attempt.
                tokio::time::sleep(Duration::from_millis(2_500)).await;
            }
            Ok(a.attempt)
        })
        .await
    });
    assert_eq!(lifetime(&engine, run).await.unwrap().unwrap(), 2);
    assert_eq!(
        facts(&world).await[2..6],
        [
            "progress late-1",
            "attempt_failed late-1",
            "progress late-1",
            "completed late-1"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_after_the_end() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let step = wrapped(&engine, &world, DispatchConfig::batched());
    let run = async {
        let result = step
            .workflow(async |step| {
                let once = StepConfig::new().retries(Retries::NONE);
                let given_up = step.run("given up", async |a| {
                    for report in 0..100 {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        a.progress(report.to_string());
                    }
                    Ok(())
                });
                let failing = step.run_with("failing", once, async |_| {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Err::<(), _>(StepError::new("no"))
                });
                try_join!(given_up, failing).map(drop)
            })
            .await;
        // The engine goes on with the step that was given up.
        tokio::time::sleep(Duration::from_secs(10)).await;
        result
    };
    lifetime(&engine, run).await.unwrap().unwrap_err();
    assert_eq!(
        facts(&world).await.last().unwrap(),
        "failed order-1.workflow"
    );
    let late = ssetarget::NewEvent::new("progress", "{}")
        .unwrap()
        .with_key("late")
        .unwrap();
    let generation = world.log.state().unwrap().generation;
    let stored = world
        .log
        .append(generation, 1, vec![late], std::time::SystemTime::UNIX_EPOCH)
        .await;
    assert_eq!(stored.unwrap(), Told::Stored(0));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_body_ends_the_run_as_failed() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let step = wrapped(&engine, &world, DispatchConfig::batched());
    let body = step.workflow(async |_| -> Result<(), StepError> { panic!("oh no") });
    let error = lifetime(&engine, body).await.unwrap().unwrap_err();
    assert_eq!(error.message(), "panicked: oh no");
    assert_eq!(
        story(&world).await[1],
        "failed order-1.workflow of -: panicked: oh no"
    );
}

#[tokio::test(start_paused = true)]
async fn two_thousand_steps_stay_within_the_budget() {
    const STEPS: u32 = 2_000;
    async fn body<S: Step>(step: &S) -> Result<u32, StepError> {
        let mut sum = 0;
        for _ in 0..STEPS - 1 {
            sum += step
                .run::<u32, _>("count", async |_| {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Ok(1)
                })
                .await?;
        }
        step.sleep("nap", Duration::from_secs(1)).await?;
        Ok(sum)
    }
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    for (config, lifetime_number) in [
        (DispatchConfig::immediate(), 1),
        (DispatchConfig::batched(), 2),
    ] {
        let step = wrapped(&engine, &world, config);
        let sum = lifetime(&engine, step.workflow(async |step| body(&step).await)).await;
        assert_eq!(sum.unwrap().unwrap(), STEPS - 1);
        let calls = world.calls.replace(0);
        if lifetime_number == 1 {
            assert!(calls <= STEPS + 2, "{calls} calls");
        } else {
            assert_eq!(calls, 1, "of a replay");
        }
        assert_eq!(facts(&world).await.len() as u32, 2 * STEPS + 2);
    }
}

#[tokio::test(start_paused = true)]
async fn groups_have_children_and_filters_hide_steps() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let step = wrapped(&engine, &world, DispatchConfig::batched())
        .should_dispatch(|step| step.name != "secret");
    let run = step.workflow(async |step| {
        step.group("outer", async |step| {
            step.run("secret", async |_| Ok(())).await?;
            step.group("inner", async |step| {
                step.run("deep", async |_| Ok(())).await
            })
            .await
        })
        .await?;
        step.run("deep", async |_| Ok(())).await
    });
    lifetime(&engine, run).await.unwrap().unwrap();
    assert_eq!(
        story(&world).await,
        [
            "started order-1.workflow of -",
            "started outer-1.group of order-1.workflow",
            "started inner-1.group of outer-1.group",
            "started deep-1 of inner-1.group",
            "completed deep-1 of inner-1.group attempt 1",
            "completed inner-1.group of outer-1.group",
            "completed outer-1.group of order-1.workflow",
            "started deep-2 of order-1.workflow",
            "completed deep-2 of order-1.workflow attempt 1",
            "completed order-1.workflow of -",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_group_with_a_long_name_is_reported_like_its_steps() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let step = wrapped(&engine, &world, DispatchConfig::batched());
    let run = step.workflow(async |step| {
        let body = async |step| Step::run(&step, "deep", async |_| Ok(())).await;
        step.group(&"\n".repeat(2 << 20), body).await?;
        step.group(&"\n".repeat(2 << 20), async |_| Ok(())).await
    });
    lifetime(&engine, run).await.unwrap().unwrap();
    let story = story(&world).await;
    let name = format!("{}… (2088960 bytes cut)", "\n".repeat(8192));
    let expected = [
        "started order-1.workflow of -".to_owned(),
        format!("started {name}-1.group of order-1.workflow"),
        format!("started deep-1 of {name}-1.group"),
        format!("completed deep-1 of {name}-1.group attempt 1"),
        format!("completed {name}-1.group of order-1.workflow"),
        format!("started {name}-2.group of order-1.workflow"),
        format!("completed {name}-2.group of order-1.workflow"),
        "completed order-1.workflow of -".to_owned(),
    ];
    assert!(story == expected, "{} events", story.len());
}

async fn run_to_end(engine: &Rc<Engine>, world: &Rc<World>) -> Result<String, StepError> {
    engine.revive();
    let step = wrapped(engine, world, DispatchConfig::batched());
    lifetime(engine, step.workflow(async |step| order(&step).await))
        .await
        .unwrap()
}

async fn page(world: &World) -> ssetarget::Page {
    let all = PageLimit {
        events: 100_000,
        bytes: usize::MAX,
    };
    let page = world.log.target().store().read(None, all).await.unwrap();
    for (index, event) in page.events.iter().enumerate() {
        assert_eq!(event.id.get(), index as u64 + 1);
    }
    page
}

/// Type and task of each event.
async fn facts(world: &World) -> Vec<String> {
    let page = page(world).await;
    let fact = |event: &ssetarget::StoredEvent| {
        let data: Value = serde_json::from_str(&event.data).unwrap();
        format!(
            "{} {}",
            event.event_type,
            data["taskId"].as_str().unwrap_or_default()
        )
    };
    page.events.iter().map(fact).collect()
}

/// Returns everything except the time of each event, as lines.
async fn story(world: &World) -> Vec<String> {
    let page = page(world).await;
    let line = |event: &ssetarget::StoredEvent| {
        let data: Value = serde_json::from_str(&event.data).unwrap();
        if event.event_type == "restarted" {
            return format!("restarted run {}", data["run"]);
        }
        let text = |name: &str| data[name].as_str().unwrap_or("-").to_owned();
        let mut line = format!(
            "{} {} of {}",
            event.event_type,
            text("taskId"),
            text("parentId")
        );
        if let Some(attempt) = data.get("attempt") {
            line += &format!(" attempt {attempt}");
        }
        if event.event_type == "progress" {
            let percent = data.get("percent").map_or("-".to_owned(), Value::to_string);
            line += &format!(
                " {percent} {}",
                data["message"].as_str().unwrap_or_default()
            );
        }
        if let Some(attributes) = data.get("attributes") {
            line += &format!(" {attributes}");
        }
        if let Some(error) = data.get("error") {
            line += &format!(": {}", error.as_str().unwrap());
        }
        line.trim_end().to_owned()
    };
    page.events.iter().map(line).collect()
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}
