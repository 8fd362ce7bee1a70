//! A lost engine, or one that answers oddly, must not add anything to the log that the workflow did not do. Also
//! tests of steps that are no longer awaited.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::{
    DelayContext, DoStep, NonRetryableError, Retries, Step, StepConfig, StepContext, StepError,
    StepErrorKind, StepOutput, WaitForEvent, WaitedEvent, WorkflowDuration,
};
use futures_util::{join, try_join};
use serde::de::DeserializeOwned;
use ssetarget::store::{EventStore, PageLimit};
use ssetarget::workflow::{
    BatchedDispatch, Dispatch, DispatchConfig, Fact, Flush, WorkflowEventStep,
};
use support::engine::{
    Dispatcher, Engine, FakeLog, FakeRuntime, FakeStep, Trouble, World, lifetime, wrapped,
};

/// An error message that is in no list.
const ODD: &str = "the node of this engine was taken out of service";

/// The fault of the engine at a step.
#[derive(Clone, Copy)]
enum Fault {
    /// Rejects before any attempt begins.
    AtOnce,
    /// Rejects while the code of the first attempt runs.
    WhileRunning,
    /// Rejects when the first attempt has failed, without another attempt.
    AfterAttempt,
}

type Rejection = (Fault, StepErrorKind, String);

/// An engine that rejects steps without being lost: later calls run.
#[derive(Clone)]
struct Faulty {
    engine: Rc<Engine>,
    step: FakeStep,
    calls: Rc<RefCell<Vec<String>>>,
    faults: Rc<RefCell<HashMap<String, Rejection>>>,
}

impl Faulty {
    fn new(engine: &Rc<Engine>) -> Self {
        Self {
            engine: Rc::clone(engine),
            step: FakeStep::new(engine),
            calls: Rc::default(),
            faults: Rc::default(),
        }
    }

    fn reject(self, name: &str, fault: Fault, text: &str) -> Self {
        self.reject_as(name, fault, StepErrorKind::Failed, text)
    }

    fn reject_as(self, name: &str, fault: Fault, kind: StepErrorKind, text: &str) -> Self {
        let fault = (fault, kind, text.to_owned());
        self.faults.borrow_mut().insert(name.to_owned(), fault);
        self
    }

    async fn wait(&self, name: &str, call: String) -> Result<(), StepError> {
        self.calls.borrow_mut().push(call);
        let fault = self.faults.borrow().get(name).cloned();
        let Some((fault, kind, text)) = fault else {
            return Ok(());
        };
        if !matches!(fault, Fault::AtOnce) {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        Err(StepError::with_kind(kind, text))
    }
}

impl Step for Faulty {
    async fn do_step<T: StepOutput>(&self, step: DoStep<T>) -> Result<T, StepError> {
        let fault = self.faults.borrow().get(&step.name).cloned();
        let Some((fault, kind, text)) = fault else {
            return self.step.do_step(step).await;
        };
        let attempt = match fault {
            Fault::AtOnce => 0,
            _ => self.engine.next_attempt(&format!("do/{}-1", step.name)),
        };
        let context = StepContext::new(&step.name, 1, attempt);
        let context = context.with_config(step.config.resolve());
        let callback = step.callback.clone();
        match fault {
            Fault::AtOnce => {}
            Fault::WhileRunning => {
                tokio::task::spawn_local(async move { drop(callback.call(context).await) });
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Fault::AfterAttempt => drop(callback.call(context).await),
        }
        Err(StepError::with_kind(kind, text))
    }

    async fn sleep(
        &self,
        name: &str,
        duration: impl Into<WorkflowDuration>,
    ) -> Result<(), StepError> {
        let duration = duration.into();
        self.wait(name, format!("{name} {duration}")).await?;
        self.step.sleep(name, duration).await
    }

    async fn sleep_until(&self, name: &str, time: SystemTime) -> Result<(), StepError> {
        self.wait(name, name.to_owned()).await?;
        self.step.sleep_until(name, time).await
    }

    async fn wait_for_event<T>(
        &self,
        name: &str,
        options: WaitForEvent,
    ) -> Result<WaitedEvent<T>, StepError>
    where
        T: DeserializeOwned + 'static,
    {
        let call = format!("{name} for {}", options.event_type);
        self.wait(name, call).await?;
        self.step.wait_for_event(name, options).await
    }
}

type Wrapped = WorkflowEventStep<Faulty, Dispatcher>;

fn wrap(step: Faulty, world: &Rc<World>) -> Wrapped {
    let runtime = FakeRuntime(Rc::clone(world));
    let config = DispatchConfig::batched();
    let dispatch = BatchedDispatch::new(FakeLog(Rc::clone(world)), runtime, config);
    WorkflowEventStep::new(step, "order", dispatch)
}

async fn story(world: &World) -> Vec<String> {
    let limit = PageLimit {
        events: 100_000,
        bytes: 1 << 30,
    };
    let page = world.log.target().store().read(None, limit).await.unwrap();
    let told = page.events.iter().map(|event| {
        let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
        let error = data["error"].as_str().map(|error| format!(": {error}"));
        let error = error.unwrap_or_default();
        let attributes = &data["attributes"];
        let attributes = match attributes.is_null() {
            true => String::new(),
            false => format!(" {attributes}"),
        };
        let task = data["taskId"].as_str().unwrap_or_default();
        format!("{} {task}{attributes}{error}", event.event_type)
    });
    told.collect()
}

const RUN_FAILS: &str = "failed order-1.workflow";

async fn body(step: &impl Step) -> Result<(), StepError> {
    let quick = Retries::new(3, Duration::from_secs(1));
    step.run("price", async |_| Ok(7)).await?;
    step.sleep("dry", Duration::from_secs(60)).await?;
    step.run("ship", async |attempt: StepContext| {
        tokio::time::sleep(Duration::from_millis(20)).await;
        match attempt.attempt {
            1 => Err(StepError::new("no truck")),
            _ => Ok(()),
        }
    })
    .retries(quick)
    .await?;
    step.sleep_until("later", SystemTime::UNIX_EPOCH).await?;
    let approval = WaitForEvent::new("ok");
    step.wait_for_event::<()>("approval", approval).await?;
    Ok(())
}

const UNDISTURBED: [&str; 13] = [
    "started order-1.workflow",
    "started price-1",
    "completed price-1",
    "started dry-1.sleep",
    "completed dry-1.sleep",
    "started ship-1",
    "attempt_failed ship-1: no truck",
    "completed ship-1",
    "started later-1.sleepUntil",
    "completed later-1.sleepUntil",
    "started approval-1.waitForEvent",
    "completed approval-1.waitForEvent",
    "completed order-1.workflow",
];

/// How a workflow handles an error of a step.
#[derive(Clone, Copy, Debug)]
enum Habit {
    Returns,
    OtherWords,
    Swallows,
    InAGroup,
}

const HABITS: [Habit; 4] = [
    Habit::Returns,
    Habit::OtherWords,
    Habit::Swallows,
    Habit::InAGroup,
];

async fn by_habit(step: Wrapped, habit: Habit) -> Result<(), StepError> {
    match (habit, body(&step).await) {
        (_, Ok(())) => Ok(()),
        (Habit::Returns, Err(error)) => Err(error),
        (Habit::OtherWords, Err(error)) => Err(StepError::new(format!("no order: {error}"))),
        (Habit::Swallows, Err(_)) => Ok(()),
        (Habit::InAGroup, Err(error)) => step.group("report", async |_| Err::<(), _>(error)).await,
    }
}

/// The engine is lost at one place, with an unknown message; another lifetime goes on.
async fn lost_at(name: &str, fault: Fault, habit: Habit) {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let step = Faulty::new(&engine).reject(name, fault, ODD);
    let step = wrap(step, &world);
    let run = step.workflow(async |step| by_habit(step, habit).await);
    let _ = lifetime(&engine, run).await.unwrap();
    let told = story(&world).await;
    let place = format!("{name} {habit:?} {told:#?}");
    assert!(
        !told.iter().any(|line| line.starts_with("failed")),
        "{place}"
    );
    assert!(
        !told.contains(&"completed order-1.workflow".to_owned()),
        "{place}"
    );
    assert!(!told.iter().any(|line| line.contains("report")), "{place}");

    let step = wrap(Faulty::new(&engine), &world);
    let run = step.workflow(async |step| by_habit(step, habit).await);
    lifetime(&engine, run).await.unwrap().unwrap();
    let is_an_attempt = |line: &str| line.starts_with("attempt_failed");
    let all = story(&world).await.into_iter();
    let all: Vec<_> = all.filter(|line| !is_an_attempt(line)).collect();
    let undisturbed = UNDISTURBED.into_iter();
    let undisturbed: Vec<_> = undisturbed.filter(|line| !is_an_attempt(line)).collect();
    assert_eq!(all, undisturbed, "{place}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_engine_is_no_failure() {
    for habit in HABITS {
        for wait in ["dry", "later", "approval"] {
            lost_at(wait, Fault::AtOnce, habit).await;
            lost_at(wait, Fault::WhileRunning, habit).await;
        }
        lost_at("ship", Fault::WhileRunning, habit).await;
        lost_at("ship", Fault::AfterAttempt, habit).await;
        // Nobody knows whether its result was stored.
        lost_at("price", Fault::AfterAttempt, habit).await;
    }
}

/// The end of a run's code takes the timers of its request with it, so that a task that waits for one never ends, and
/// keeps all facts of the run in memory.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_run_leaves_no_task() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let step = wrapped(&engine, &world, DispatchConfig::batched());
    let left = async {
        let run = step.workflow(async |step| body(&step).await);
        run.await.unwrap();
        world.tasks.get()
    };
    assert_eq!(lifetime(&engine, left).await, Some(0));
    assert_eq!(story(&world).await, UNDISTURBED);
}

/// The engine gives up a lifetime that sleeps, and whose facts are on their way to the log. Neither will answer. Code that the
/// engine may have called is there for longer, and has what the steps have.
#[tokio::test(start_paused = true)]
async fn a_lifetime_that_is_given_up_leaves_no_task() {
    for has_code in [false, true] {
        let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
        world.always.set(Some(Trouble::Hang));
        let step = wrapped(&engine, &world, DispatchConfig::batched());
        let code = has_code.then(|| step.clone());
        let run = async move {
            let body =
                step.workflow(async |step| step.sleep("long", Duration::from_secs(60)).await);
            body.await
        };
        let left = async {
            let mut run = Box::pin(run);
            let waits = tokio::time::timeout(Duration::from_secs(1), &mut run).await;
            assert!(waits.is_err());
            let under_way = world.tasks.get();
            world.given_up.set(true);
            drop(run);
            world.given_up.set(false);
            drop(code);
            // A task that was aborted ends when it is polled.
            tokio::time::sleep(Duration::from_millis(1)).await;
            (under_way, world.tasks.get())
        };
        assert_eq!(lifetime(&engine, left).await, Some((1, 0)));
    }
}

/// The undisturbed run, and the failures of its own steps.
#[tokio::test(start_paused = true)]
async fn a_steps_own_failure_is_reported() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let timeout = "Execution timed out after 1000ms";
    let long = "Step name \"long\" exceeds max length (256 chars) or invalid characters found";
    let step = Faulty::new(&engine)
        .reject("long", Fault::AtOnce, long)
        .reject_as(
            "late",
            Fault::WhileRunning,
            StepErrorKind::TimedOut,
            timeout,
        );
    let step = wrap(step, &world);
    let run = step.workflow(async |step| {
        let one = Retries::new(1, Duration::from_secs(1));
        let no = async |_| Err::<(), _>(StepError::new("no"));
        step.run("doomed", no)
            .retries(one.clone())
            .await
            .unwrap_err();
        let never = async |_| Err::<(), _>(NonRetryableError::new("never").into());
        step.run("declined", never).await.unwrap_err();
        step.run("long", async |_| Ok(())).await.unwrap_err();
        let late = WaitForEvent::new("ok");
        let late = step.wait_for_event::<()>("late", late).await;
        assert!(late.unwrap_err().is_timeout());
        step.run("slow", async |_| {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok(())
        })
        .retries(one)
        .timeout(Duration::from_secs(2))
        .await
    });
    let error = lifetime(&engine, run).await.unwrap().unwrap_err();
    assert!(error.is_timeout());
    let expected = [
        "started order-1.workflow",
        "started doomed-1",
        "attempt_failed doomed-1: no",
        "attempt_failed doomed-1: no",
        "failed doomed-1: no",
        "started declined-1",
        "attempt_failed declined-1: never",
        "failed declined-1: never",
        "started long-1",
        &format!("failed long-1: {long}"),
        "started late-1.waitForEvent",
        &format!("failed late-1.waitForEvent: {timeout}"),
        "started slow-1",
        "attempt_failed slow-1: Execution timed out after 2000ms",
        "attempt_failed slow-1: Execution timed out after 2000ms",
        "failed slow-1: Execution timed out after 2000ms",
        "failed order-1.workflow: Execution timed out after 2000ms",
    ];
    assert_eq!(story(&world).await, expected);
}

/// What looked like the end of a lifetime was not: the engine calls the code of a later step.
#[tokio::test(start_paused = true)]
async fn withheld_events_are_sent_if_the_engine_lives_on() {
    for fault in [Fault::WhileRunning, Fault::AfterAttempt] {
        let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
        let step = wrap(Faulty::new(&engine).reject("ship", fault, ODD), &world);
        let run = step.workflow(async |step| {
            let ship = async |_| {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                Err::<(), _>(StepError::new("no truck"))
            };
            let error = step.run("ship", ship).await.unwrap_err();
            step.group("undo", async |step| {
                step.run("refund", async |_| Ok(())).await
            })
            .await?;
            Err::<(), _>(error)
        });
        lifetime(&engine, run).await.unwrap().unwrap_err();
        let told: Vec<_> = story(&world).await;
        let told: Vec<_> = told
            .iter()
            .filter(|line| !line.starts_with("att"))
            .collect();
        let expected = [
            "started order-1.workflow",
            "started ship-1",
            &format!("failed ship-1: {ODD}"),
            "started undo-1.group",
            "started refund-1",
            "completed refund-1",
            "completed undo-1.group",
            &format!("{RUN_FAILS}: {ODD}"),
        ];
        assert_eq!(told, expected);
    }
}

/// Somebody has to approve how the workflow handles a failure, so the failure must be in the log.
#[tokio::test(start_paused = true)]
async fn a_long_wait_proves_that_the_engine_lives() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let step = wrap(
        Faulty::new(&engine).reject("ship", Fault::AfterAttempt, ODD),
        &world,
    );
    let run = step.workflow(async |step| {
        let ship = step.run("ship", async |_| Ok(())).await;
        assert!(ship.is_err());
        step.wait_for_event::<()>("approval", WaitForEvent::new("ok"))
            .await?;
        Ok(())
    });
    let look = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        story(&world).await
    };
    let run = lifetime(&engine, run);
    let (result, told) = join!(run, look);
    result.unwrap().unwrap();
    let last = told.last().unwrap();
    assert_eq!(last, "started approval-1.waitForEvent", "{told:#?}");
}

async fn two_waits(trouble: Option<Trouble>) -> Vec<String> {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    world.always.set(trouble);
    let faulty = Faulty::new(&engine);
    let calls = Rc::clone(&faulty.calls);
    let run = wrap(faulty, &world);
    let run = run.workflow(async |step| {
        let one = step.wait_for_event::<()>("approve", WaitForEvent::new("finance"));
        let other = async {
            let pause = async |_| {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(())
            };
            step.run("quick", pause).await?;
            step.wait_for_event::<()>("approve", WaitForEvent::new("legal"))
                .await
        };
        let (one, other) = join!(one, other);
        one?;
        other?;
        Ok(())
    });
    let _ = lifetime(&engine, tokio::time::timeout(Duration::from_secs(300), run)).await;
    calls.borrow().clone()
}

const TROUBLES: [Option<Trouble>; 3] = [None, Some(Trouble::Refuse), Some(Trouble::Hang)];

#[tokio::test(start_paused = true)]
async fn waits_of_one_name_keep_their_order() {
    for trouble in TROUBLES {
        let calls = two_waits(trouble).await;
        assert_eq!(
            calls,
            ["approve for finance", "approve for legal"],
            "{trouble:?}"
        );
    }
}

/// A wait that `try_join!` gives up was started, however slow the log is.
#[tokio::test(start_paused = true)]
async fn an_abandoned_wait_was_called() {
    for trouble in TROUBLES {
        let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
        world.always.set(trouble);
        let faulty = Faulty::new(&engine);
        let calls = Rc::clone(&faulty.calls);
        let step = wrap(faulty, &world);
        let run = step.workflow(async |step| {
            let work = step.run("work", async |_| {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Err::<(), _>(NonRetryableError::new("no").into())
            });
            let tick = step.sleep("tick", Duration::from_secs(1));
            let _ = try_join!(work, tick);
            step.sleep("tick", Duration::from_secs(2)).await
        });
        let _ = lifetime(&engine, tokio::time::timeout(Duration::from_secs(300), run)).await;
        assert_eq!(
            *calls.borrow(),
            ["tick 1000 ms", "tick 2000 ms"],
            "{trouble:?}"
        );
    }
}

/// A log that does not answer does not delay a step whose answer the engine has.
#[tokio::test(start_paused = true)]
async fn a_replayed_wait_does_not_wait_for_the_log() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let step = wrapped(&engine, &world, DispatchConfig::batched());
    lifetime(&engine, step.workflow(async |step| body(&step).await))
        .await
        .unwrap()
        .unwrap();
    world.always.set(Some(Trouble::Hang));
    let step = wrapped(&engine, &world, DispatchConfig::batched());
    let body = async |step: support::engine::WrappedStep| {
        let began = tokio::time::Instant::now();
        body(&step).await?;
        Ok(began.elapsed())
    };
    let took = lifetime(&engine, step.workflow(body)).await.unwrap();
    assert!(took.unwrap() < Duration::from_millis(100));
}

/// A step that `try_join!` gives up goes on in the engine, and its events are sent.
#[tokio::test(start_paused = true)]
async fn an_abandoned_step_is_reported_to_its_end() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let step = wrapped(&engine, &world, DispatchConfig::batched());
    let run = step.workflow(async |step| {
        let bad = step.run("bad", async |_| {
            Err::<(), _>(NonRetryableError::new("no").into())
        });
        let slow = step.run("slow", async |attempt: StepContext| {
            attempt.set_attribute("rows", 3);
            tokio::time::sleep(Duration::from_secs(30)).await;
            Ok(())
        });
        let nap = step.sleep("nap", Duration::from_secs(60));
        try_join!(bad, slow, nap).unwrap_err();
        tokio::time::sleep(Duration::from_secs(1)).await;
        step.sleep("dry", Duration::from_secs(60)).await?;
        step.run("after", async |_| Ok(())).await
    });
    lifetime(&engine, run).await.unwrap().unwrap();
    let expected = [
        "started order-1.workflow",
        "started bad-1",
        "started slow-1",
        "started nap-1.sleep",
        "attempt_failed bad-1: no",
        "failed bad-1: no",
        "started dry-1.sleep",
        "completed slow-1 {\"rows\":3}",
        "completed nap-1.sleep",
        "completed dry-1.sleep",
        "started after-1",
        "completed after-1",
        "completed order-1.workflow",
    ];
    assert_eq!(story(&world).await, expected);
}

/// A step that outlasts the run is not reported: the log ends with the run.
#[tokio::test(start_paused = true)]
async fn a_step_that_outlasts_the_run_is_not_reported() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let step = wrapped(&engine, &world, DispatchConfig::batched());
    let run = step.workflow(async |step| {
        let bad = step.run("bad", async |_| {
            Err::<(), _>(NonRetryableError::new("no").into())
        });
        let nap = step.sleep("nap", Duration::from_secs(60));
        try_join!(bad, nap).map(drop)
    });
    let ended = async {
        let result = run.await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        result
    };
    lifetime(&engine, ended).await.unwrap().unwrap_err();
    let told = story(&world).await;
    assert_eq!(told.last().unwrap(), "failed order-1.workflow: no");
    assert!(!told.contains(&"completed nap-1.sleep".to_owned()));
}

/// Keeps the events that it gets.
#[derive(Clone)]
struct Kept(Rc<World>, Rc<RefCell<Vec<String>>>);

impl Dispatch for Kept {
    fn now(&self) -> SystemTime {
        cloudflare_workflows::Runtime::now(&FakeRuntime(Rc::clone(&self.0)))
    }

    fn dispatch(&self, fact: Fact) {
        let line = match fact {
            Fact::Event(event) => {
                let data: serde_json::Value = serde_json::from_str(event.data()).unwrap();
                let task = data["taskId"].as_str().unwrap();
                format!("{} {task}", event.event_type())
            }
            Fact::Live { ends } => format!("live {}", ends[0]),
            other => format!("{other:?}"),
        };
        self.1.borrow_mut().push(line);
    }

    async fn flush(&self, _: Flush) {}

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep(duration)
    }
}

async fn facts(
    engine: &Rc<Engine>,
    body: impl AsyncFnOnce(&WorkflowEventStep<Faulty, Kept>),
) -> Vec<String> {
    let kept = Kept(World::new(), Rc::default());
    let step = WorkflowEventStep::new(Faulty::new(engine), "order", kept.clone());
    let step = step.should_dispatch(|step| step.name != "hidden");
    let run = step.workflow(async |step| {
        body(&step).await;
        Ok(())
    });
    lifetime(engine, run).await.unwrap().unwrap();
    kept.1.take()
}

/// In a rollback's rerun and in a replay the engine answers sleeps at once. Neither calls the code of a step, hidden
/// or not.
#[tokio::test(start_paused = true)]
async fn a_sleep_that_ends_too_early_is_doubted() {
    let engine = Rc::<Engine>::default();
    let body = async |step: &WorkflowEventStep<Faulty, Kept>| {
        step.sleep("dry", Duration::from_secs(60)).await.unwrap();
        step.run("hidden", async |_| Ok(())).await.unwrap();
        step.run("ship", async |_| Ok(())).await.unwrap();
    };
    let live = [
        "started order-1.workflow",
        "started dry-1.sleep",
        // The engine makes the workflow wait.
        "Alive",
        "completed dry-1.sleep",
        "live hidden-1:completed",
        "started ship-1",
        "live ship-1:completed",
        "completed ship-1",
        "completed order-1.workflow",
    ];
    assert_eq!(facts(&engine, body).await, live);
    engine.forget("do/hidden-1");
    let replayed = [
        "started order-1.workflow",
        "started dry-1.sleep",
        "Doubt",
        "completed dry-1.sleep",
        "live hidden-1:completed",
        "Alive",
        "started ship-1",
        "completed ship-1",
        "completed order-1.workflow",
    ];
    assert_eq!(facts(&engine, body).await, replayed);
    // Sleeps until a time in the future.
    let body = async |step: &WorkflowEventStep<Faulty, Kept>| {
        let later = step.dispatch().now() + Duration::from_secs(60);
        step.sleep_until("later", later).await.unwrap();
        step.sleep_until("before", SystemTime::UNIX_EPOCH)
            .await
            .unwrap();
    };
    facts(&engine, body).await;
    let replayed = [
        "started order-1.workflow",
        "started later-1.sleepUntil",
        "Doubt",
        "completed later-1.sleepUntil",
        "started before-1.sleepUntil",
        "completed before-1.sleepUntil",
        "completed order-1.workflow",
    ];
    assert_eq!(facts(&engine, body).await, replayed);
}

/// A wait that began before a replayed sleep ends shows, by going on, that the run goes on. Events beside it are not
/// held back until the wait ends, which may take days.
#[tokio::test(start_paused = true)]
async fn a_long_wait_does_not_hold_concurrent_events() {
    for runs_a_step_before in [false, true] {
        let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
        // The sleep is over when the lifetime begins.
        let slept = FakeStep::new(&engine);
        slept.sleep("dry", Duration::from_secs(60)).await.unwrap();
        let step = wrapped(&engine, &world, DispatchConfig::batched());
        let run = step.workflow(async |step| {
            if runs_a_step_before {
                step.run("ask", async |_| Ok(())).await?;
            }
            let approval = step.wait_for_event::<()>("approval", WaitForEvent::new("ok"));
            let dry = async {
                let dry = step.group("pack", async |step| {
                    step.sleep("dry", Duration::from_secs(60)).await
                });
                dry.await
            };
            let (approval, dry) = join!(approval, dry);
            approval.map(drop).and(dry)
        });
        let run = tokio::time::timeout(Duration::from_secs(20), run);
        assert!(lifetime(&engine, run).await.unwrap().is_err());
        let mut told = story(&world).await;
        told.retain(|line| line.starts_with("completed") && !line.contains("ask"));
        assert_eq!(told, ["completed dry-1.sleep", "completed pack-1.group"]);
    }
}

/// Events beside a step whose code runs are not held back either: neither a replay nor a rollback calls it.
#[tokio::test(start_paused = true)]
async fn a_long_step_does_not_hold_concurrent_events() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let slept = FakeStep::new(&engine);
    slept.sleep("dry", Duration::from_secs(60)).await.unwrap();
    let step = wrapped(&engine, &world, DispatchConfig::batched());
    let run = step.workflow(async |step| {
        let long = StepConfig::new().timeout(Duration::from_secs(7_200));
        let import = step.run_with("import", long, async |_| {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            Ok(())
        });
        let dry = step.group("pack", async |step| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            step.sleep("dry", Duration::from_secs(60)).await
        });
        let (import, dry) = join!(import, dry);
        import.and(dry)
    });
    let run = tokio::time::timeout(Duration::from_secs(20), run);
    assert!(lifetime(&engine, run).await.unwrap().is_err());
    let mut told = story(&world).await;
    told.retain(|line| line.starts_with("completed"));
    assert_eq!(told, ["completed dry-1.sleep", "completed pack-1.group"]);
}

/// The rest of a sleep that began in another lifetime is not a replay.
#[tokio::test(start_paused = true)]
async fn the_rest_of_a_sleep_is_not_doubted() {
    let engine = Rc::<Engine>::default();
    let body = async |step: &WorkflowEventStep<Faulty, Kept>| {
        // The engine sleeps for one minute.
        step.sleep("dry", Duration::from_secs(600)).await.unwrap();
    };
    let told = [
        "started order-1.workflow",
        "started dry-1.sleep",
        "Alive",
        "completed dry-1.sleep",
        "completed order-1.workflow",
    ];
    assert_eq!(facts(&engine, body).await, told);
}

/// A lifetime that is over reports so when it appears to be, and at its end. Beyond that it sends only what is
/// certain.
#[tokio::test(start_paused = true)]
async fn a_lifetime_that_is_over_dispatches_over() {
    let engine = Rc::<Engine>::default();
    let kept = Kept(World::new(), Rc::default());
    let text = "Network connection lost.";
    let faulty = Faulty::new(&engine);
    let faulty = faulty.reject_as("price", Fault::WhileRunning, StepErrorKind::Reset, text);
    let step = WorkflowEventStep::new(faulty, "order", kept.clone());
    let run = step.workflow(async |step| {
        let slow = async |_| {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(1)
        };
        let (price, quick) = join!(step.run("price", slow), step.run("quick", slow));
        assert!(price.unwrap_err().is_suspended());
        quick
    });
    lifetime(&engine, run).await.unwrap().unwrap();
    let mut told = kept.1.take();
    told.retain(|fact| !fact.starts_with("live"));
    let expected = [
        "started order-1.workflow",
        "started price-1",
        "started quick-1",
        "Alive",
        "Lost",
        "completed quick-1",
        "Over",
    ];
    assert_eq!(told, expected);
}

/// A delay function that fails ends its step: the engine does not retry.
#[test]
fn a_delay_that_fails_is_a_failure() {
    use cloudflare_workflows::testing::FakeInstance;
    let world = World::new();
    let kept = Kept(world, Rc::default());
    let instance = FakeInstance::new().replay(cloudflare_workflows::testing::Replay::Never);
    let run = instance.run(async |step| {
        let step = WorkflowEventStep::new(step, "order", kept.clone());
        step.workflow(async |step| {
            let delay = async |_: &DelayContext| Err::<Duration, _>(StepError::new("never"));
            let no = async |_| Err::<(), _>(StepError::new("no"));
            step.run("pay", no)
                .retries(Retries::dynamic(3, delay))
                .await
        })
        .await
    });
    let error = futures_executor::block_on(run).unwrap_err();
    let message = error.workflow().unwrap().message();
    assert_eq!(
        message,
        "The delay function for step \"pay-1\" threw an error: never"
    );
    let told = kept.1.take();
    assert_eq!(
        told[told.len() - 2..],
        ["failed pay-1", "failed order-1.workflow"],
        "{told:?}"
    );
}
