//! Tests of the fake engine for users: it runs the scripts of a test, and finds code that is not
//! deterministic.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::testing::{FakeInstance, FakeRunError, FakeStep, Replay};
use cloudflare_workflows::{
    ByteStream, NonRetryableError, Progress, Retries, Step, StepError, StepKind, WaitForEvent,
};
use futures_executor::block_on;
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, join, try_join};
use serde_json::json;
use ssetarget::workflow::{Dispatch, Fact, Flush, WorkflowEventStep};

const HOUR: Duration = Duration::from_secs(3600);

fn run<T: serde::Serialize>(
    instance: &FakeInstance,
    workflow: impl AsyncFn(FakeStep) -> Result<T, StepError>,
) -> Result<T, FakeRunError> {
    block_on(instance.run(workflow))
}

fn not_deterministic(workflow: impl AsyncFn(FakeStep) -> Result<(), StepError>) -> String {
    match run(&FakeInstance::new(), workflow) {
        Err(FakeRunError::NotDeterministic(how)) => how,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_step_runs_once_over_many_lifetimes() {
    let ran = Rc::new(RefCell::new(Vec::new()));
    let instance = FakeInstance::new();
    let log = Rc::clone(&ran);
    let sum = run(&instance, async |step| {
        let mut sum = 0;
        for number in 1..=3_u32 {
            let log = Rc::clone(&log);
            sum += step
                .run("add", async move |context| {
                    log.borrow_mut().push((context.count, context.attempt));
                    Ok(number)
                })
                .await?;
            step.sleep("rest", HOUR).await?;
        }
        Ok(sum)
    });
    assert_eq!(sum.unwrap(), 6);
    assert_eq!(*ran.borrow(), [(1, 1), (2, 1), (3, 1)]);
    assert_eq!(instance.elapsed(), 3 * HOUR);
    assert!(instance.lifetimes() > 6, "{instance:?}");
    let steps = instance.steps();
    let names: Vec<_> = steps
        .iter()
        .map(|step| (step.kind, step.name.as_str(), step.count))
        .collect();
    assert_eq!(
        names,
        [
            (StepKind::Do, "add", 1),
            (StepKind::Sleep, "rest", 1),
            (StepKind::Do, "add", 2),
            (StepKind::Sleep, "rest", 2),
            (StepKind::Do, "add", 3),
            (StepKind::Sleep, "rest", 3),
        ]
    );
    assert_eq!(steps[2].result, Some(Ok(json!(2))));
}

#[test]
fn replays_can_be_switched_off_or_limited_to_waits() {
    let workflow = async |step: FakeStep| {
        step.run("a", async |_| Ok(())).await?;
        step.run("b", async |_| Ok(())).await?;
        step.sleep("s", HOUR).await?;
        step.run("c", async |_| Ok(())).await
    };
    for (replay, lifetimes) in [
        (Replay::Never, 1),
        (Replay::AtWaits, 2),
        (Replay::Everywhere, 8),
    ] {
        let instance = FakeInstance::new().replay(replay);
        run(&instance, workflow).unwrap();
        assert_eq!(instance.lifetimes(), lifetimes, "{replay:?}");
        assert_eq!(instance.elapsed(), HOUR);
    }
}

#[test]
fn attempts_are_scripted_and_retried_as_configured() {
    let workflow = async |step: FakeStep| {
        step.run("pay", async |context| Ok(context.attempt))
            .retries(Retries::new(2, Duration::from_secs(10)))
            .await
    };
    let instance = FakeInstance::new();
    instance
        .fail_attempt("pay", StepError::new("busy"))
        .time_out_attempt("pay");
    assert_eq!(run(&instance, workflow).unwrap(), 3);
    assert_eq!(
        instance.elapsed(),
        Duration::from_secs(10 + 20),
        "exponential"
    );
    assert_eq!(instance.steps()[0].attempts, 3);

    for _ in 0..3 {
        instance.fail_attempt("pay", StepError::new("closed"));
    }
    let instance = FakeInstance::new();
    for number in 1..=3 {
        instance.fail_attempt("pay", StepError::new(format!("closed {number}")));
    }
    let error = run(&instance, workflow).unwrap_err();
    assert_eq!(error.workflow().unwrap().message(), "closed 3");
    assert_eq!(instance.steps()[0].result, Some(Err("closed 3".into())));

    // The default: five retries, the first after one second.
    let instance = FakeInstance::new();
    for _ in 0..5 {
        instance.fail_attempt("a", StepError::new("no"));
    }
    run(&instance, async |step| {
        step.run("a", async |_| Ok(())).await
    })
    .unwrap();
    assert_eq!(instance.elapsed(), Duration::from_secs(1 + 2 + 4 + 8 + 16));

    let instance = FakeInstance::new();
    instance.fail_attempt("a", NonRetryableError::new("never"));
    run(&instance, async |step| {
        step.run("a", async |_| Ok(())).await
    })
    .unwrap_err();
    assert_eq!(instance.steps()[0].attempts, 1);
}

#[test]
fn results_are_scripted() {
    let instance = FakeInstance::new();
    instance.returns("ask", 1).returns("ask", 2);
    let answers = run(&instance, async |step| {
        let mut answers = Vec::new();
        for _ in 0..3 {
            let ask = step.run("ask", async |_| -> Result<u32, StepError> {
                panic!("not asked")
            });
            answers.push(ask.await?);
        }
        Ok(answers)
    });
    assert_eq!(answers.unwrap(), [1, 2, 2]);
}

#[test]
fn events_come_when_they_are_sent() {
    let workflow = async |step: FakeStep| {
        let wait = WaitForEvent::new("go").timeout(2 * HOUR);
        let event = step.wait_for_event::<String>("w", wait).await?;
        Ok((event.payload, event.timestamp))
    };
    let instance = FakeInstance::new();
    let began = instance.now();
    instance
        .send_event("other", "x")
        .send_event_after(HOUR, "go", "late")
        .send_event_after(HOUR / 2, "go", "soon");
    assert_eq!(
        run(&instance, workflow).unwrap(),
        ("soon".to_owned(), began + HOUR / 2)
    );
    assert_eq!(instance.elapsed(), HOUR / 2);

    for instance in [FakeInstance::new(), FakeInstance::new()] {
        instance.send_event_after(3 * HOUR, "go", "too late");
        let error = run(&instance, workflow).unwrap_err();
        assert!(error.workflow().unwrap().is_timeout(), "{error}");
        assert_eq!(instance.elapsed(), 2 * HOUR);
    }
    let instance = FakeInstance::new();
    instance.send_event("go", 7);
    assert!(
        run(&instance, workflow)
            .unwrap_err()
            .to_string()
            .contains("another payload")
    );
}

#[test]
fn a_late_event_times_out_even_if_other_steps_sleep() {
    let instance = FakeInstance::new();
    instance.send_event_after(HOUR * 3 / 4, "go", ());
    let workflow = async |step: FakeStep| {
        let wait = WaitForEvent::new("go").timeout(HOUR / 2);
        let (event, nap) = join!(
            step.wait_for_event::<()>("w", wait),
            step.sleep("nap", HOUR)
        );
        nap?;
        Ok(event.is_err_and(|error| error.is_timeout()))
    };
    assert!(run(&instance, workflow).unwrap());
    assert_eq!(instance.elapsed(), HOUR);
}

#[test]
fn steps_at_the_same_time() {
    let instance = FakeInstance::new();
    instance.fail_attempt("b", StepError::new("once"));
    instance.send_event_after(HOUR, "go", ());
    let workflow = async |step: FakeStep| {
        let ab = async {
            let a = step.run("a", async |_| Ok(1)).await?;
            step.sleep("nap", HOUR).await?;
            Ok::<_, StepError>(a + step.run("b", async |_| Ok(2)).await?)
        };
        let cd = async {
            step.wait_for_event::<()>("w", WaitForEvent::new("go"))
                .await?;
            let c = step.run("c", async |_| Ok(10)).await?;
            Ok(c + step.run("d", async |_| Ok(20)).await?)
        };
        let (left, right) = try_join!(ab, cd)?;
        let naps = [1, 2, 3].map(|hours| step.sleep("together", hours * HOUR));
        futures_util::future::try_join_all(naps).await?;
        Ok(left + right)
    };
    assert_eq!(run(&instance, workflow).unwrap(), 33);
    assert_eq!(instance.elapsed(), HOUR + Duration::from_secs(1) + 3 * HOUR);
    let attempts: u32 = instance.steps().iter().map(|step| step.attempts).sum();
    assert_eq!(attempts, 5);
}

#[test]
fn a_failure_is_caught_or_ends_the_run() {
    let workflow = async |step: FakeStep| {
        let none = Retries::NONE;
        let no = step
            .run("no", async |_| Err::<(), _>(StepError::new("no")))
            .retries(none);
        let never = step.sleep("never", HOUR);
        if try_join!(no, never).is_ok() {
            return Ok("well");
        }
        step.run("instead", async |_| Ok(())).await?;
        Ok("instead")
    };
    assert_eq!(run(&FakeInstance::new(), workflow).unwrap(), "instead");
}

#[test]
fn rollbacks_run_when_the_run_fails() {
    let undone = Rc::new(RefCell::new(Vec::new()));
    let instance = FakeInstance::new();
    let log = &undone;
    let workflow = async |step: FakeStep| {
        for name in ["flight", "hotel", "car"] {
            let (ran, undone) = (name, Rc::clone(log));
            step.run(name, async move |_| match ran {
                "car" => Err(StepError::new("no car")),
                ran => Ok(format!("{ran} 7")),
            })
            .retries(Retries::NONE)
            .rollback(async move |undo| {
                let what = format!("{:?} because of {}", undo.output, undo.error.message());
                undone.borrow_mut().push(what);
                Ok(())
            })
            .await?;
        }
        Ok(())
    };
    run(&instance, workflow).unwrap_err();
    assert_eq!(
        *undone.borrow(),
        [
            "None because of no car",
            r#"Some("hotel 7") because of no car"#,
            r#"Some("flight 7") because of no car"#,
        ]
    );
    assert!(
        instance
            .steps()
            .iter()
            .all(|step| step.rolled_back == Some(Ok(())))
    );
}

#[test]
fn streams_reports_and_times_are_recorded() {
    let instance = FakeInstance::new();
    let until = instance.now() + HOUR;
    let workflow = async |step: FakeStep| {
        let bytes = step
            .run("export", async |context| {
                context.progress(Progress::percent(50.0));
                context.set_attribute("rows", 2);
                Ok(ByteStream::from("two rows"))
            })
            .await?
            .read_all()
            .await?;
        step.sleep_until("later", until).await?;
        step.sleep_until("before", SystemTime::UNIX_EPOCH).await?;
        Ok(bytes.len())
    };
    assert_eq!(run(&instance, workflow).unwrap(), 8);
    let export = &instance.steps()[0];
    assert_eq!(export.progress, [Progress::percent(50.0)]);
    assert_eq!(export.attributes["rows"], 2);
    assert_eq!(instance.elapsed(), HOUR);
}

#[test]
fn a_step_may_wait_for_something_real() {
    let instance = FakeInstance::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let workflow = async |step: FakeStep| {
        let real = step.run("real", async |_| {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(1)
        });
        let (real, nap) = join!(real, step.sleep("nap", HOUR));
        nap?;
        real
    };
    assert_eq!(runtime.block_on(instance.run(workflow)).unwrap(), 1);
}

#[test]
fn wrapped_steps_are_steps() {
    #[derive(Clone, Default)]
    struct Told(Rc<RefCell<Vec<String>>>);

    impl Dispatch for Told {
        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }
        fn dispatch(&self, fact: Fact) {
            if let Fact::Event(event) = fact {
                self.0.borrow_mut().push(event.event_type().to_owned());
            }
        }
        async fn flush(&self, _: Flush) {}
    }

    let told = Told::default();
    let instance = FakeInstance::new().replay(Replay::Never);
    let workflow = async |step: FakeStep| {
        let step = WorkflowEventStep::new(step, "order", told.clone());
        step.workflow(async |step| step.run("a", async |_| Ok(())).await)
            .await
    };
    run(&instance, workflow).unwrap();
    assert_eq!(
        *told.0.borrow(),
        ["started", "started", "completed", "completed"]
    );
}

// Code that is not deterministic.

/// Returns 0, 1, 2… with each call, as a clock or a random number generator would.
fn different() -> u32 {
    thread_local!(static CALLS: Cell<u32> = const { Cell::new(0) });
    CALLS.with(|calls| calls.replace(calls.get() + 1))
}

#[test]
fn a_name_that_changes_is_caught() {
    let how = not_deterministic(async |step| {
        step.run(&format!("job {}", different()), async |_| Ok(()))
            .await?;
        step.run("last", async |_| Ok(())).await
    });
    assert!(
        how.contains(r#"do "job 0" (number 1) had ended and was not called again in lifetime 2"#),
        "{how}"
    );
    assert!(
        how.contains(r#"which called do "job 1" (number 1)"#),
        "{how}"
    );
}

#[test]
fn an_order_that_changes_is_caught() {
    let how = not_deterministic(async |step| {
        let mut names = ["a", "b"];
        if different() % 2 == 1 {
            names.reverse();
        }
        for name in names {
            step.run(name, async |_| Ok(())).await?;
        }
        Ok(())
    });
    assert!(
        how.contains(r#""a" (number 1) had ended and was not called again"#),
        "{how}"
    );
}

#[test]
fn a_branch_on_a_clock_is_caught() {
    let how = not_deterministic(async |step| {
        step.run("a", async |_| Ok(())).await?;
        if different() == 0 {
            step.sleep("only at first", HOUR).await?;
        }
        step.sleep("rest", HOUR).await
    });
    assert!(
        how.contains(r#"sleep "only at first" (number 1) had begun and was not called again"#),
        "{how}"
    );
    // An additional step shows when the run runs again.
    let how = not_deterministic(async |step| {
        step.run("a", async |_| Ok(())).await?;
        for _ in 0..different() / 3 {
            step.run("more", async |_| Ok(())).await?;
        }
        Ok(())
    });
    assert!(how.contains("more"), "{how}");
}

#[test]
fn a_sleep_or_a_wait_that_changes_is_caught() {
    let how = not_deterministic(async |step| {
        step.sleep("nap", HOUR + Duration::from_secs(different().into()))
            .await
    });
    assert!(
        how.starts_with(r#"sleep "nap" (number 1) was"#) && how.contains("in an earlier lifetime"),
        "{how}"
    );
    let how = not_deterministic(async |step| {
        let event = WaitForEvent::new(format!("go {}", different()));
        step.wait_for_event::<()>("w", event).await.map(drop)
    });
    assert!(how.contains(r#"was for "go"#), "{how}");
}

#[test]
fn a_result_that_changes_is_caught() {
    let error = block_on(FakeInstance::new().run(async |step| {
        step.run("a", async |_| Ok(())).await?;
        Ok(different())
    }));
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("returned") && error.contains("in the next"),
        "{error}"
    );
    assert!(
        error.contains("move clocks, random numbers"),
        "it says what to do: {error}"
    );
}

#[test]
fn state_outside_of_steps_is_caught() {
    // This counter lives as long as the process, which is not as long as the run.
    let seen = Cell::new(0);
    let how = not_deterministic(async |step| {
        seen.set(seen.get() + 1);
        step.run(&format!("visit {}", seen.get()), async |_| Ok(()))
            .await
    });
    assert!(how.contains("visit 1"), "{how}");
}

#[test]
fn a_workflow_that_takes_a_pause_for_a_failure_is_caught() {
    let ignored = |workflow: &dyn Fn(
        FakeStep,
    ) -> LocalBoxFuture<'static, Result<(), StepError>>| {
        match run(&FakeInstance::new(), async |step| workflow(step).await) {
            Err(error @ FakeRunError::IgnoredSuspension(_)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let goes_on = ignored(&|step| {
        Box::pin(async move {
            let wait = step.wait_for_event::<()>("approval", WaitForEvent::new("ok"));
            if wait.await.is_err() {
                step.run("refuse", async |_| Ok(())).await?;
            }
            Ok(())
        })
    });
    assert!(
        goes_on.contains(r#"it called "refuse" instead"#),
        "{goes_on}"
    );
    assert!(
        goes_on.contains("is_suspended()"),
        "it says what to do: {goes_on}"
    );
    let returns = ignored(&|step| {
        Box::pin(async move {
            let _ = step.sleep("nap", HOUR).await;
            Ok(())
        })
    });
    assert!(returns.contains("returned a result"), "{returns}");
    let fails = ignored(&|step| {
        Box::pin(async move {
            let nap = step.sleep("nap", HOUR).await;
            nap.map_err(|_| StepError::new("no sleep"))
        })
    });
    assert!(fails.contains("no sleep"), "{fails}");

    // Returning the error is fine, also in the pause between two attempts.
    let instance = FakeInstance::new();
    instance.fail_attempt("refuse", StepError::new("once"));
    let workflow = async |step: FakeStep| {
        let wait = step.wait_for_event::<()>("approval", WaitForEvent::new("ok"));
        match wait.await {
            Err(error) if error.is_suspended() => Err(error),
            Err(_) => step.run("refuse", async |_| Ok(())).await,
            Ok(_) => Ok(()),
        }
    };
    run(&instance, workflow).unwrap();
    assert_eq!(instance.steps()[1].attempts, 2);
}

#[test]
fn changes_are_not_caught_without_a_replay() {
    let instance = FakeInstance::new().replay(Replay::Never);
    run(&instance, async |step| {
        step.run(&format!("job {}", different()), async |_| Ok(()))
            .await
    })
    .unwrap();
}

#[test]
fn a_workflow_that_waits_for_something_else_is_left_waiting() {
    let instance = FakeInstance::new();
    let stuck = instance.run(async |_| {
        std::future::pending::<()>().await;
        Ok(())
    });
    assert!(stuck.now_or_never().is_none());
}
