//! A whole instance in a simulation: engine, network, clock and scheduler are this file's own, so
//! that the process can die at every single poll of every task, requests arrive though the process
//! that sent them is dead, and every order of events that a seed can think of is tried. The engine
//! can be reset under a step, as a deploy does it, while the code that called it goes on.
//!
//! The promise: the log of a run that was interrupted any number of times is the log of one that
//! was not, but for timestamps, and for the attempts that were really made again.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use cloudflare_workflows::{
    DoStep, JsonCodec, JsonOutput, Progress, Retries, RetryDelay, Runtime, Step, StepConfig,
    StepContext, StepError, StepErrorKind, StepOutput, WaitForEvent, WaitedEvent, WorkflowDuration,
};
use futures_util::future::{Either, select};
use futures_util::{FutureExt, try_join};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ssetarget::internals::{Announced, InstanceEnd, LogState, WorkflowLog};
use ssetarget::workflow::{
    BatchedDispatch, DispatchConfig, FactLog, Opened, Told as Outcome, WorkflowEventStep,
    workflow_started,
};
use ssetarget::{EventStore, NewEvent, PageLimit};
use support::sql::Database;

// The workflow.

type Wrapped = WorkflowEventStep<EngineStep, BatchedDispatch<Network, Sim>>;

/// One step after another, so that the order of its events is one only.
async fn order(step: &Wrapped, world: &Rc<World>) -> Result<String, StepError> {
    let price: u32 = step.run("price", async |_| Ok(7)).await?;
    let patient = StepConfig::new().retries(Retries::new(50, Duration::from_secs(1)));
    let bank = Rc::clone(world);
    step.run_with(
        "charge",
        patient.clone(),
        async move |attempt: StepContext| {
            bank.sim().sleep(Duration::from_millis(5)).await;
            // Until the engine knows of two failures.
            if bank.failures_of("charge-1") < 2 {
                return Err(bank.error("charge-1", attempt.attempt));
            }
            attempt.set_attribute("price", price);
            Ok(())
        },
    )
    .await?;
    step.sleep("dry", Duration::from_secs(24 * 60 * 60)).await?;
    let boxes = {
        let world = Rc::clone(world);
        step.group("pack", async |step| {
            step.run_with("box", patient, async move |attempt: StepContext| {
                for percent in [0, 50, 100] {
                    attempt.progress(Progress::percent(percent.into()));
                    world.sim().sleep(Duration::from_millis(15)).await;
                }
                Ok(3_u32)
            })
            .await
        })
        .await?
    };
    let hopeless = StepConfig::new().retries(Retries::new(1, Duration::from_secs(1)));
    let shop = Rc::clone(world);
    let doomed = step.run_with("doomed", hopeless, async move |attempt: StepContext| {
        Err::<(), _>(shop.error("doomed-1", attempt.attempt))
    });
    match doomed.await {
        Err(error) if error.message() != "no" => return Err(error),
        doomed => assert_eq!(doomed.unwrap_err().message(), "no"),
    }
    step.sleep_until("later", SystemTime::UNIX_EPOCH).await?;
    step.wait_for_event::<()>("approval", WaitForEvent::new("ok"))
        .await?;
    let again: u32 = step.run("price", async |_| Ok(8)).await?;
    Ok(format!("{price} {boxes} {again}"))
}

const RESULT: &str = "7 3 8";

/// What a workflow makes of an error of a step.
#[derive(Clone, Copy, Debug)]
enum Habit {
    Returns,
    OtherWords,
    Swallows,
    /// Another step follows, and a group.
    Compensates,
    Waits,
}

const HABITS: [Habit; 5] = [
    Habit::Returns,
    Habit::OtherWords,
    Habit::Swallows,
    Habit::Compensates,
    Habit::Waits,
];

/// Steps at the same time, of which an error gives up the others.
async fn at_once(step: &Wrapped, world: &Rc<World>) -> Result<String, StepError> {
    let shop = Rc::clone(world);
    let left = step.run("left", async move |attempt: StepContext| {
        shop.sim().sleep(Duration::from_millis(20)).await;
        match shop.failures_of("left-1") {
            0 => Err(shop.error("left-1", attempt.attempt)),
            _ => Ok(()),
        }
    });
    let bank = Rc::clone(world);
    let right = step.group("pair", async |step| {
        step.run("right", async move |_| {
            bank.sim().sleep(Duration::from_millis(40)).await;
            Ok(())
        })
        .await?;
        step.sleep("nap", Duration::from_secs(3600)).await
    });
    let approval = step.wait_for_event::<()>("approval", WaitForEvent::new("ok"));
    let nap = step.sleep("nap", Duration::from_secs(60));
    try_join!(left, right, approval, nap)?;
    step.run("sum", async |_| Ok("sum".to_owned())).await
}

async fn by_habit(
    step: Wrapped,
    world: &Rc<World>,
    result: Result<String, StepError>,
) -> Result<String, StepError> {
    let error = match result {
        Err(error) => error,
        ok => return ok,
    };
    if error.message() == PAUSED {
        return Err(error);
    }
    let ends = match world.habit.get() {
        Habit::Returns => Err(error),
        Habit::OtherWords => Err(StepError::new(format!("no order today: {error}"))),
        Habit::Swallows => Ok("nothing".to_owned()),
        Habit::Compensates => {
            step.group("undo", async |step| {
                step.run("refund", async |_| Ok(0)).await
            })
            .await?;
            Ok("refunded".to_owned())
        }
        Habit::Waits => {
            step.sleep("cool down", Duration::from_secs(60)).await?;
            Err(error)
        }
    };
    assert!(world.is_reset(), "an error that was none: {ends:?}");
    ends
}

const PAUSED: &str = "Aborting engine: User called pause";

/// What production says of an engine that is gone. The glue knows them by their words.
const RESETS: [&str; 4] = [
    "Durable Object reset because its code was updated.",
    "Network connection lost.",
    "Aborting engine: Grace period complete",
    "Cannot invoke closure from previous WASM instance",
];
/// Words that nothing knows: then the place decides.
const ODD: &str = "the node of this engine was taken out of service";

/// What stays the same whatever happens: attempts that fail are compared with those really made.
const LOG: [&str; 21] = [
    "started order-1.workflow of -",
    "started price-1 of order-1.workflow",
    "completed price-1 of order-1.workflow",
    "started charge-1 of order-1.workflow",
    "completed charge-1 of order-1.workflow",
    "started dry-1.sleep of order-1.workflow",
    "completed dry-1.sleep of order-1.workflow",
    "started pack-1.group of order-1.workflow",
    "started box-1 of pack-1.group",
    "progress box-1 of pack-1.group 0",
    "progress box-1 of pack-1.group 50",
    "progress box-1 of pack-1.group 100",
    "completed box-1 of pack-1.group",
    "completed pack-1.group of order-1.workflow",
    "started doomed-1 of order-1.workflow",
    "failed doomed-1 of order-1.workflow: no",
    "started later-1.sleepUntil of order-1.workflow",
    "completed later-1.sleepUntil of order-1.workflow",
    "started approval-1.waitForEvent of order-1.workflow",
    "completed approval-1.waitForEvent of order-1.workflow",
    "started price-2 of order-1.workflow",
];

/// The rest of it.
const LOG_END: [&str; 2] = [
    "completed price-2 of order-1.workflow",
    "completed order-1.workflow of -",
];

// The tests.

#[test]
fn an_undisturbed_run() {
    let world = World::new(0, Troubles::None);
    let (result, polls) = world.lifetime(None);
    assert_eq!(result.unwrap().unwrap(), RESULT);
    assert!(polls > 100, "only {polls} points to be killed at");
    world.check(1);
    assert_eq!(world.failed_attempts(1)["charge-1"], BTreeSet::from([1, 2]));
    assert_eq!(world.failed_attempts(1)["doomed-1"], BTreeSet::from([1, 2]));
    let events = world.events();
    let attributes = |task| {
        let completed = |event: &&Told| event.of == "completed" && event.task == task;
        let event = events.iter().find(completed).unwrap();
        (
            event.data["attempt"].clone(),
            event.data["attributes"].clone(),
        )
    };
    assert_eq!(
        attributes("charge-1"),
        (3.into(), serde_json::json!({ "price": 7 }))
    );
    assert_eq!(attributes("box-1"), (1.into(), Value::Null));
}

#[test]
fn killed_at_every_poll() {
    for seed in 0..2 {
        for at in 0.. {
            let world = World::new(seed, Troubles::None);
            if world.lifetime(Some((at, Disturbance::Kill))).0.is_some() {
                break;
            }
            world.run_to_end();
            world.check(1);
        }
    }
}

#[test]
fn paused_at_every_poll() {
    for seed in 0..2 {
        let (_, polls) = World::new(seed, Troubles::None).lifetime(None);
        for at in 0..polls {
            let world = World::new(seed, Troubles::None);
            let (result, _) = world.lifetime(Some((at, Disturbance::Pause)));
            if let Err(error) = result.unwrap() {
                assert!(error.is_suspended(), "{error}");
                world.run_to_end();
            }
            world.check(1);
        }
    }
}

#[test]
fn reset_at_every_poll() {
    for (seed, habit) in (0..).zip(HABITS) {
        let (_, polls) = World::new(seed, Troubles::None).lifetime(None);
        for at in 0..polls {
            let world = World::new(seed, Troubles::None);
            world.habit.set(habit);
            world.lifetime(Some((at, Disturbance::Reset)));
            world.run_to_end();
            world.check(1);
        }
    }
}

/// The order in which steps end that run at the same time is the engine's.
#[test]
fn concurrent_steps_at_every_poll() {
    let sorted = |world: &World| {
        let mut lines = lines(&world.of_run(1));
        let place = |line: String| lines.iter().position(|other| *other == line);
        for line in &lines {
            if let Some(rest) = line.strip_prefix("completed ") {
                assert!(place(format!("started {rest}")) < place(line.clone()));
            }
        }
        lines.sort();
        lines
    };
    let world = |seed| {
        let world = World::new(seed, Troubles::None);
        world.at_once.set(true);
        world.habit.set(HABITS[seed as usize % HABITS.len()]);
        world
    };
    let undisturbed = world(0);
    undisturbed.lifetime(None).0.unwrap().unwrap();
    let undisturbed = sorted(&undisturbed);
    assert_eq!(undisturbed.len(), 16);
    for number in 0..5 {
        let seed = Seed(number);
        let (_, polls) = world(seed.0).lifetime(None);
        for at in 0..polls {
            let disturbance = match at % 4 {
                0 => Disturbance::Kill,
                1 => Disturbance::Pause,
                _ => Disturbance::Reset,
            };
            let world = world(seed.0);
            world.lifetime(Some((at, disturbance)));
            world.lifetime(None).0.unwrap().unwrap();
            assert_eq!(sorted(&world), undisturbed, "{disturbance:?} at {at}");
            world.failed_attempts(1);
        }
    }
}

/// Lifetimes that are killed, paused and reset, in any order: more than 20,000 steps of them.
#[test]
fn killed_paused_and_reset_many_times() {
    let mut steps = 0;
    for number in 0..1_500 {
        let seed = Seed(number);
        let world = World::new(seed.0, Troubles::None);
        world.habit.set(HABITS[world.random(5) as usize]);
        let mut disturbances = Vec::new();
        for _ in 0..world.random(12) {
            let disturbance = match world.random(4) {
                0 => Disturbance::Kill,
                1 => Disturbance::Pause,
                _ => Disturbance::Reset,
            };
            disturbances.push((world.random(250) as u32, disturbance));
        }
        world.suffer(disturbances);
        world.run_to_end();
        world.check(1);
        steps += world.engine.calls.get();
    }
    assert!(steps > 20_000, "{steps}");
}

/// Says which seed it was, if a test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

#[test]
fn restarted_at_every_poll() {
    for at in 0.. {
        let world = World::new(1, Troubles::None);
        let survived = world.lifetime(Some((at, Disturbance::Kill))).0.is_some();
        world.deliver_everything();
        let first = world.events();
        // A restart shows where code runs that the log says has run to its end.
        let step_ended = |event: &Told| match event.of.as_str() {
            "completed" => event.data["kind"] == "do" && !event.task.ends_with(".group"),
            "attempt_failed" => true,
            _ => false,
        };
        let shows = first.iter().any(step_ended);
        world.engine.restart();
        world.run_to_end();
        let all = world.events();
        let restarts = all.iter().filter(|event| event.of == "restarted").count();
        assert_eq!(restarts, usize::from(shows), "restarted at {at}");
        if shows {
            assert_eq!(all[..first.len()], first, "the first run changed");
            assert_eq!(all[first.len()].of, "restarted");
            assert_eq!(all[first.len()].data["run"], 2);
            world.check(2);
        } else {
            world.check(1);
        }
        // A replay of the second run adds nothing.
        world.run_to_end();
        assert_eq!(world.events(), all);
        if survived {
            break;
        }
    }
}

/// A lifetime that a restart ended may have sent something that arrives in the next run.
#[test]
fn facts_of_an_earlier_run_are_dropped() {
    let world = World::new(1, Troubles::None);
    world.run_to_end();
    world.engine.restart();
    assert!(world.lifetime(Some((40, Disturbance::Kill))).0.is_none());
    let events = world.events();
    assert!(events.iter().any(|event| event.of == "restarted"));
    let late = NewEvent::new("attempt_failed", "{}")
        .unwrap()
        .with_key("late")
        .unwrap();
    let append = |generation, run| {
        let late = vec![late.clone()];
        let append = world
            .database
            .append(generation, run, late, SystemTime::UNIX_EPOCH);
        append.now_or_never().unwrap()
    };
    let newest = world.database.state().unwrap().generation;
    for (generation, run) in [(newest, 1), (newest - 1, 2), (newest - 1, 3)] {
        assert_eq!(append(generation, run).unwrap(), Outcome::Stale);
        assert_eq!(world.events(), events);
    }
    let beyond = append(newest, 4).unwrap_err();
    assert!(beyond.to_string().contains("run 4"));
    assert_eq!(world.events(), events);
}

/// More than fits into one call, which piles up while the log does not answer.
#[test]
fn a_backlog_is_sent_in_parts_and_in_order() {
    const LARGE: usize = 50 * 1024;
    for (steps, size) in [(2_000, 10), (40, LARGE)] {
        let world = World::new(1, Troubles::Dead);
        let recover = Rc::clone(&world);
        let (result, _) = world.process(None, async |step| {
            for number in 0..steps {
                let report = async move |attempt: StepContext| {
                    let filler = "\"".repeat(size / 2);
                    attempt.progress(Progress::percent(0.5).attribute(filler, number));
                    Ok(())
                };
                step.run("report", report).await?;
            }
            step.run("recover", async move |_| {
                // After the log was given up.
                recover.sim().sleep(Duration::from_secs(10)).await;
                recover.troubles.set(Troubles::None);
                Ok(())
            })
            .await
        });
        result.unwrap().unwrap();
        let events = world.of_run(1);
        let numbers: Vec<_> = events
            .iter()
            .filter_map(|event| {
                event
                    .data
                    .get("attributes")?
                    .as_object()?
                    .values()
                    .next()?
                    .as_i64()
            })
            .collect();
        assert_eq!(numbers, (0..steps).collect::<Vec<_>>());
        let parts = world.parts.borrow();
        assert!(parts.len() > 1, "{parts:?}");
        for (events, bytes) in &*parts {
            assert!(
                *events <= 500 && (*bytes <= 512 * 1024 || *events == 1),
                "{parts:?}"
            );
        }
    }
}

fn disturbances() -> impl Strategy<Value = Vec<(u32, Disturbance)>> {
    let disturbance = prop_oneof![
        Just(Disturbance::Kill),
        Just(Disturbance::Pause),
        Just(Disturbance::Reset)
    ];
    vec((0..250_u32, disturbance), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn killed_and_paused_many_times(seed: u64, disturbances in disturbances()) {
        let world = World::new(seed, Troubles::None);
        world.suffer(disturbances);
        world.run_to_end();
        world.check(1);
    }

    /// Requests are refused, answered too late or not at all, and arrive after those that were
    /// sent again in their place; and the process dies. In the end nothing is there twice, and what is
    /// lost are reports and failures of attempts, which nobody could tell again.
    #[test]
    fn a_failing_log_loses_only_what_nobody_could_send_again(seed: u64, disturbances in disturbances()) {
        let world = World::new(seed, Troubles::Many);
        world.suffer(disturbances);
        world.run_to_end();
        world.troubles.set(Troubles::None);
        // The next lifetime makes good for what the last one could not send.
        world.run_to_end();
        world.deliver_everything();
        world.check_but_for_what_nobody_could_tell_again(1);
    }

    /// The workflow does not notice its log: it makes the same attempts with the same results,
    /// whatever the log does, and waits no longer than documented.
    #[test]
    fn the_workflow_is_the_same_with_and_without_troubles(seed: u64) {
        let healthy = World::new(seed, Troubles::None);
        healthy.run_to_end();
        for troubles in [Troubles::Many, Troubles::Dead] {
            let world = World::new(seed, troubles);
            world.run_to_end();
            prop_assert_eq!(&*world.engine.results.borrow(), &*healthy.engine.results.borrow());
            prop_assert_eq!(&*world.engine.attempts.borrow(), &*healthy.engine.attempts.borrow());
            if troubles == Troubles::Dead {
                let config = DispatchConfig::batched();
                let bound = config.wait_timeout + config.end_timeout;
                let jitter = Duration::from_secs(1);
                let delay = world.now.get().saturating_sub(healthy.now.get());
                prop_assert!(delay <= bound + jitter, "{:?}", delay);
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    /// The platform restarts it, which was announced; the confirmation takes so many milliseconds.
    Restart(u64),
    /// The platform refuses to.
    NoRestart,
    /// It is terminated, which is told, and restarted without a word.
    Terminate,
    /// It is deleted, and another is created with its id.
    Recreate(u64),
    /// The platform is asked how it is, and says that it runs; or that it has ended, but a lifetime has
    /// begun by the time that this arrives.
    Settle,
}

fn deeds() -> impl Strategy<Value = Vec<(u32, Deed)>> {
    let deed = prop_oneof![
        (0..9_000_u64).prop_map(Deed::Restart),
        Just(Deed::NoRestart),
        Just(Deed::Terminate),
        (0..9_000_u64).prop_map(Deed::Recreate),
        Just(Deed::Settle),
    ];
    vec((0..250_u32, deed), 1..6)
}

impl World {
    /// Returns whether the next run begins, now or when a lifetime proves it.
    fn suffer_deed(self: &Rc<Self>, deed: Deed) -> bool {
        let log = &self.database;
        let now = SystemTime::UNIX_EPOCH + self.now.get();
        let confirm_later = |stood: LogState, milliseconds| {
            let request = Request {
                call: Call::Confirm(stood.run, stood.generation),
                fate: Fate::Answered,
                reply: Reply::default(),
            };
            let arrives = self.now.get() + Duration::from_millis(milliseconds);
            let arrives = (arrives, self.random(u64::MAX));
            self.confirmations.borrow_mut().insert(arrives, request);
            self.is_confirmed.set(false);
            self.engine.restart();
        };
        let state = log.state().unwrap();
        // Nothing has shown yet that a run that was ended here goes on.
        let counted = self.ended_run.replace(0) == state.run && state.ended;
        self.ended_run.set(if counted { state.run } else { 0 });
        match deed {
            Deed::Restart(milliseconds) => {
                confirm_later(log.begin_restart(now).unwrap(), milliseconds);
                !state.empty && !counted
            }
            Deed::Recreate(milliseconds) => {
                let started = workflow_started("order", now).unwrap();
                match log.announce(&started, now).unwrap() {
                    Announced::Known(stood) => {
                        confirm_later(stood, milliseconds);
                        !counted
                    }
                    Announced::New { .. } => {
                        self.engine.restart();
                        false
                    }
                }
            }
            Deed::NoRestart => {
                log.begin_restart(now).unwrap();
                log.cancel_restart().unwrap();
                false
            }
            Deed::Terminate => {
                log.settle(None, "order", &InstanceEnd::Terminated, &[], now)
                    .unwrap();
                self.engine.restart();
                self.ended_run.set(if state.empty { 0 } else { state.run });
                !state.empty && !counted
            }
            Deed::Settle => {
                let stood = Some((state.run, state.generation));
                log.open(None, now).unwrap();
                let end = InstanceEnd::Failed(None);
                assert!(!log.settle(stood, "order", &end, &[], now).unwrap());
                false
            }
        }
    }

    /// A run that was cut short tells what it did, in order, once, and nothing after its end.
    fn check_cut_short(&self, run: usize) {
        let events = self.of_run(run);
        self.failed_attempts(run);
        let told = lines(&events);
        let is_end = |line: &&String| {
            line.starts_with("failed order-1.workflow")
                || line.starts_with("completed order-1.workflow")
        };
        let ends = told.iter().filter(is_end).count();
        assert!(
            ends <= 1 && (ends == 0 || told.last().filter(is_end).is_some()),
            "{told:#?}"
        );
        let mut wanted = LOG.iter().chain(&LOG_END);
        for line in told
            .iter()
            .filter(|line| !line.contains("the instance was terminated"))
        {
            assert!(wanted.any(|wanted| wanted == line), "{line} of {told:#?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Restarted, terminated, deleted and created again at any moment, with requests of the dead that
    /// come at any other: each run is told whole or up to where it was cut short, and nothing of one
    /// in another.
    #[test]
    fn runs_do_not_mix(seed: u64, deeds in deeds()) {
        let world = World::new(seed, Troubles::None);
        world.has_deeds.set(true);
        let mut runs = 1;
        // Whether an empty log gets something late, in the run before.
        let mut late = 0;
        for (at, deed) in deeds {
            let _ = world.lifetime(Some((at, Disturbance::Kill)));
            // A confirmation that is under way comes before another restart.
            world.confirm_everything();
            late += usize::from(world.database.state().unwrap().empty);
            runs += usize::from(world.suffer_deed(deed));
        }
        world.run_to_end();
        world.confirm_everything();
        // Not yet told, if the process was too quick: that takes a confirmation, or a proof.
        world.run_to_end();
        world.deliver_everything();
        let events = world.events();
        let restarts = events.iter().filter(|event| event.of == "restarted").count();
        prop_assert!((runs..=runs + late).contains(&(restarts + 1)), "{} of {}", restarts, runs);
        let runs = restarts + 1;
        for run in 1..runs {
            world.check_cut_short(run);
        }
        world.check_but_for_what_nobody_could_tell_again(runs);
    }
}

// The world: what outlives a process.

struct World {
    database: WorkflowLog<Database>,
    engine: Engine,
    /// Since 1970.
    now: Cell<Duration>,
    random: Cell<u64>,
    troubles: Cell<Troubles>,
    habit: Cell<Habit>,
    /// The workflow is [`at_once`], and not [`order`].
    at_once: Cell<bool>,
    /// The engine of this lifetime is gone.
    reset: Cell<bool>,
    /// Who is to know when it goes.
    watchers: RefCell<Vec<Waker>>,
    /// The workflow's code has returned to an engine that was there.
    returned: Cell<bool>,
    /// Requests on their way, by when they arrive.
    requests: RefCell<BTreeMap<(Duration, u64), Request>>,
    /// Those of restarts, which are under way whatever happens to a process.
    confirmations: RefCell<BTreeMap<(Duration, u64), Request>>,
    is_confirmed: Cell<bool>,
    /// The run that was terminated and restarted without a word.
    ended_run: Cell<u32>,
    has_deeds: Cell<bool>,
    /// The workflow's code of some lifetime has returned.
    has_ended: Cell<bool>,
    sim: RefCell<Option<Sim>>,
    /// Events and bytes of the appends that arrived.
    parts: RefCell<Vec<(usize, usize)>>,
    /// What callbacks returned as errors, by task: attempts.
    errors: RefCell<HashMap<String, BTreeSet<u64>>>,
    /// How often a lifetime said that it does not know how the run goes on.
    settles: Cell<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Troubles {
    None,
    Many,
    /// Nothing is ever answered.
    Dead,
}

#[derive(Clone, Copy, Debug)]
enum Disturbance {
    Kill,
    Pause,
    /// The engine is gone, and the code that it called goes on.
    Reset,
}

const ALL: PageLimit = PageLimit {
    events: 100_000,
    bytes: usize::MAX,
};

impl World {
    fn new(seed: u64, troubles: Troubles) -> Rc<Self> {
        Rc::new(Self {
            database: WorkflowLog::new(Database::in_memory()),
            engine: Engine::default(),
            now: Cell::new(Duration::from_secs(1_795_000_000)),
            random: Cell::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            troubles: Cell::new(troubles),
            habit: Cell::new(Habit::Returns),
            at_once: Cell::new(false),
            reset: Cell::new(false),
            watchers: RefCell::default(),
            returned: Cell::new(false),
            requests: RefCell::default(),
            confirmations: RefCell::default(),
            is_confirmed: Cell::new(true),
            ended_run: Cell::new(0),
            has_deeds: Cell::new(false),
            has_ended: Cell::new(false),
            sim: RefCell::default(),
            parts: RefCell::default(),
            errors: RefCell::default(),
            settles: Cell::new(0),
        })
    }

    /// One process, until the workflow returns or it is killed: `None`. And how many polls it took.
    fn lifetime(
        self: &Rc<Self>,
        disturbance: Option<(u32, Disturbance)>,
    ) -> (Option<Result<String, StepError>>, u32) {
        let (result, polls) = self.process(disturbance, async |step| {
            let result = match self.at_once.get() {
                true => at_once(&step, self).await,
                false => order(&step, self).await,
            };
            let result = by_habit(step, self, result).await;
            if result.is_ok() && !self.is_reset() {
                self.returned.set(true);
            }
            result
        });
        // Whoever acts on it from outside may have ended it, or restarted one that had ended.
        // One that has returned may have told so before it died, by a request that comes late.
        self.has_ended
            .set(self.has_ended.get() || self.returned.get());
        if !self.has_ended.get() && !self.has_deeds.get() {
            self.check_that_it_goes_on();
        }
        (result, polls)
    }

    fn is_reset(&self) -> bool {
        self.reset.get()
    }

    fn reset(&self) {
        self.reset.set(true);
        for watcher in self.watchers.take() {
            watcher.wake();
        }
    }

    /// What a call says whose engine is gone. Words that nobody knows will do where no step could
    /// fail.
    fn reset_error(&self, place_decides: bool) -> StepError {
        match self.random(5) {
            0..2 if place_decides => StepError::new(ODD),
            text => {
                let text = RESETS[(text % 4) as usize];
                StepError::with_kind(StepErrorKind::Reset, text)
            }
        }
    }

    fn process<T: serde::Serialize>(
        self: &Rc<Self>,
        disturbance: Option<(u32, Disturbance)>,
        body: impl AsyncFnOnce(Wrapped) -> Result<T, StepError>,
    ) -> (Option<Result<T, StepError>>, u32) {
        // What was on its way when the last process died has arrived by now, or never will, or
        // comes while this one is at work.
        let on_their_way = std::mem::take(&mut *self.requests.borrow_mut());
        for (arrives, request) in on_their_way {
            match self.random(3) {
                0 => self.deliver(request),
                1 => {}
                _ => drop(self.requests.borrow_mut().insert(arrives, request)),
            }
        }
        let sim = Sim::new(self);
        *self.sim.borrow_mut() = Some(sim.clone());
        self.engine.pause.set(false);
        self.reset.set(false);
        self.watchers.take();
        let network = Network {
            world: Rc::clone(self),
            sim: sim.clone(),
        };
        let dispatch = BatchedDispatch::new(network, sim.clone(), DispatchConfig::batched());
        let step = EngineStep {
            world: Rc::clone(self),
            sim: sim.clone(),
            counts: Rc::default(),
        };
        let step = WorkflowEventStep::new(step, "order", dispatch);
        let run = async { step.workflow(body).await };
        let ended = sim.run(run, disturbance);
        *self.sim.borrow_mut() = None;
        ended
    }

    fn suffer(self: &Rc<Self>, disturbances: Vec<(u32, Disturbance)>) {
        for disturbance in disturbances {
            if let (Some(Ok(_)), _) = self.lifetime(Some(disturbance))
                && self.returned.get()
            {
                return;
            }
        }
    }

    fn run_to_end(self: &Rc<Self>) {
        let (result, _) = self.lifetime(None);
        assert_eq!(result.unwrap().unwrap(), RESULT);
    }

    fn sim(&self) -> Sim {
        self.sim.borrow().clone().unwrap()
    }

    /// From 0 to below `end`.
    fn random(&self, end: u64) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        (x >> 11) % end
    }

    /// How many failures of attempts the engine knows.
    fn failures_of(&self, task: &str) -> usize {
        self.engine
            .failures
            .borrow()
            .get(task)
            .map_or(0, BTreeSet::len)
    }

    fn error(&self, task: &str, attempt: u32) -> StepError {
        let mut errors = self.errors.borrow_mut();
        errors
            .entry(task.to_owned())
            .or_default()
            .insert(attempt.into());
        StepError::new("no")
    }

    /// What is still on its way when everything has ended.
    fn deliver_everything(&self) {
        let requests = std::mem::take(&mut *self.requests.borrow_mut());
        for request in requests.into_values() {
            self.deliver(request);
        }
    }

    fn confirm_everything(&self) {
        self.is_confirmed.set(true);
        let requests = std::mem::take(&mut *self.confirmations.borrow_mut());
        for request in requests.into_values() {
            self.deliver(request);
        }
    }

    fn deliver(&self, request: Request) {
        let Request { call, fate, reply } = request;
        let answer = if fate == Fate::Refused {
            Err("refused".to_owned())
        } else {
            let now = SystemTime::UNIX_EPOCH + self.now.get();
            Ok(match call {
                Call::Open(generation) => {
                    Answer::Opened(self.database.open(generation, now).unwrap())
                }
                Call::Append(generation, run, batch) => {
                    let bytes = batch.iter().map(NewEvent::size).sum();
                    self.parts.borrow_mut().push((batch.len(), bytes));
                    let append = self.database.append(generation, run, batch, now);
                    Answer::Told(append.now_or_never().unwrap().unwrap())
                }
                Call::Confirm(run, generation) => {
                    let started = workflow_started("order", now).unwrap();
                    let stood = (run, generation);
                    let confirm = self.database.confirm_restart(stood, &started, now);
                    Answer::Told(Outcome::Stored(confirm.unwrap().into()))
                }
                Call::Settle => {
                    self.settles.set(self.settles.get() + 1);
                    Answer::Told(Outcome::Stored(0))
                }
            })
        };
        reply.give(match fate {
            Fate::AnswerLost => Err("the answer was lost".to_owned()),
            _ => answer,
        });
    }

    fn events(&self) -> Vec<Told> {
        let page = self.database.target().store().read(None, ALL);
        let page = page.now_or_never().unwrap().unwrap();
        page.events
            .into_iter()
            .map(|event| {
                let mut data: Value = serde_json::from_str(&event.data).unwrap();
                let fields = data.as_object_mut().unwrap();
                let timestamp = fields.remove("timestamp");
                assert!(timestamp.unwrap().as_str().unwrap().ends_with('Z'));
                for time in ["until", "retryAt"] {
                    fields.remove(time);
                }
                Told {
                    of: event.event_type,
                    task: data["taskId"].as_str().unwrap_or_default().to_owned(),
                    data,
                }
            })
            .collect()
    }

    fn of_run(&self, run: usize) -> Vec<Told> {
        let events = self.events();
        let mut runs = events.split(|event| event.of == "restarted");
        runs.nth(run - 1).unwrap().to_vec()
    }

    fn failed_attempts(&self, run: usize) -> HashMap<String, BTreeSet<u64>> {
        let mut failed = HashMap::<String, BTreeSet<u64>>::new();
        for event in self
            .of_run(run)
            .iter()
            .filter(|event| event.of == "attempt_failed")
        {
            let attempt = event.data["attempt"].as_u64().unwrap();
            let of_task = failed.entry(event.task.clone()).or_default();
            assert!(
                of_task.last() < Some(&attempt),
                "attempts are out of order or twice"
            );
            of_task.insert(attempt);
        }
        failed
    }

    /// The log is that of an undisturbed run.
    fn check(&self, run: usize) {
        let events = self.of_run(run);
        let expected: Vec<_> = LOG.iter().chain(&LOG_END).copied().collect();
        assert_eq!(lines(&events), expected);
        let failed = self.failed_attempts(run);
        for (task, known) in &*self.engine.failures.borrow() {
            assert!(
                known.is_subset(&failed[task]),
                "{task}: {known:?}, told {failed:?}"
            );
        }
        self.check_details(&events, &failed);
    }

    /// Nothing says that the run has ended.
    fn check_that_it_goes_on(&self) {
        let events = self.events();
        let latest = events.rsplit(|event| event.of == "restarted").next();
        let events = latest.unwrap_or_default();
        let ends = |event: &&Told| {
            event.data["kind"] == "workflow" && matches!(event.of.as_str(), "completed" | "failed")
        };
        let end = events.iter().find(ends);
        assert_eq!(end, None, "the run goes on: {:?}", self.habit.get());
    }

    fn check_but_for_what_nobody_could_tell_again(&self, run: usize) {
        let events = self.of_run(run);
        let steps: Vec<_> = LOG.iter().chain(&LOG_END).copied().collect();
        let lasting = |line: &&str| !line.starts_with("progress");
        let (got, want) = (lines(&events), steps);
        let got_lasting: Vec<_> = got.iter().map(String::as_str).filter(lasting).collect();
        let want_lasting: Vec<_> = want.iter().copied().filter(lasting).collect();
        assert_eq!(got_lasting, want_lasting);
        let mut rest = want.iter().filter(|line| line.starts_with("progress"));
        for report in got.iter().filter(|line| line.starts_with("progress")) {
            assert!(
                rest.any(|line| line == report),
                "reports are out of order or twice"
            );
        }
        self.check_details(&events, &self.failed_attempts(run));
    }

    /// Before the engine ends a lifetime because the run waits, the log has everything.
    fn check_before_wait(&self, last: &str) {
        // While a restart is to be confirmed it waits for nobody.
        let waits = self.troubles.get() == Troubles::None && self.is_confirmed.get();
        if waits && !self.at_once.get() {
            let page = self.database.target().store().read(None, ALL);
            let events = page.now_or_never().unwrap().unwrap().events;
            let types = events.iter().map(|event| event.event_type.as_str());
            let mut types = types.rev();
            let told = types.find(|of| !matches!(*of, "completed" | "failed"));
            assert_eq!(told, Some(last), "{events:?}");
        }
    }

    /// What is told of attempts is true, and told where it belongs.
    fn check_details(&self, events: &[Told], failed: &HashMap<String, BTreeSet<u64>>) {
        for (task, told) in failed {
            assert!(
                told.is_subset(&self.errors.borrow()[task]),
                "{task}: {told:?}"
            );
        }
        let position = |of: &str, task: &str| {
            events
                .iter()
                .position(|event| event.of == of && event.task == task)
        };
        for (index, event) in events.iter().enumerate() {
            if event.of == "attempt_failed" {
                assert_eq!(event.data["error"], "no");
                assert!(position("started", &event.task) < Some(index));
                let end = position("completed", &event.task).or(position("failed", &event.task));
                assert!(Some(index) < end);
            }
            // What a lifetime tells that found the result in the cache lacks them.
            if event.of == "completed" && event.data.get("attempt").is_some() {
                let expected = match event.task.as_str() {
                    "charge-1" => serde_json::json!({ "price": 7 }),
                    _ => Value::Null,
                };
                assert_eq!(event.data["attributes"], expected);
                let attempts = self.engine.attempts.borrow();
                assert_eq!(
                    event.data["attempt"],
                    attempts[&format!("do/{}", event.task)]
                );
            }
        }
    }
}

/// An event without its times.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    of: String,
    task: String,
    data: Value,
}

/// All events but failed attempts, without attempts and attributes.
fn lines(events: &[Told]) -> Vec<String> {
    events
        .iter()
        .filter(|event| event.of != "attempt_failed")
        .map(|Told { of, task, data }| {
            let mut line = format!(
                "{of} {task} of {}",
                data["parentId"].as_str().unwrap_or("-")
            );
            if let Some(percent) = data.get("percent") {
                line += &format!(" {percent}");
            }
            if let Some(error) = data.get("error") {
                line += &format!(": {}", error.as_str().unwrap());
            }
            line
        })
        .collect()
}

// The engine.

/// What the engine stores.
#[derive(Default)]
struct Engine {
    results: RefCell<HashMap<String, Result<Value, String>>>,
    attempts: RefCell<HashMap<String, u32>>,
    failures: RefCell<HashMap<String, BTreeSet<u64>>>,
    /// A pause was asked for.
    pause: Cell<bool>,
    /// How many steps were called, in all lifetimes.
    calls: Cell<u32>,
}

impl Engine {
    fn restart(&self) {
        self.results.borrow_mut().clear();
        self.attempts.borrow_mut().clear();
        self.failures.borrow_mut().clear();
    }
}

/// The step object of one lifetime.
#[derive(Clone)]
struct EngineStep {
    world: Rc<World>,
    sim: Sim,
    counts: Rc<RefCell<HashMap<String, u32>>>,
}

impl EngineStep {
    fn key(&self, kind: &str, name: &str) -> String {
        let mut counts = self.counts.borrow_mut();
        let count = counts.entry(format!("{kind}/{name}")).or_default();
        *count += 1;
        let calls = &self.world.engine.calls;
        calls.set(calls.get() + 1);
        format!("{kind}/{name}-{count}")
    }

    fn suspended(&self) -> Result<(), StepError> {
        if self.world.engine.pause.get() {
            return Err(StepError::with_kind(StepErrorKind::Suspended, PAUSED));
        }
        Ok(())
    }

    /// Something of the engine, which is cut short when the engine goes. Then the call may take
    /// its time to find that out.
    async fn unless_reset<T>(
        &self,
        place_decides: impl Fn() -> bool,
        of_engine: impl Future<Output = T>,
    ) -> Result<T, StepError> {
        let gone = poll_fn(|context| {
            if self.world.is_reset() {
                return Poll::Ready(());
            }
            let mut watchers = self.world.watchers.borrow_mut();
            watchers.push(context.waker().clone());
            Poll::Pending
        });
        match select(gone, pin!(of_engine)).await {
            Either::Right((value, _)) => Ok(value),
            Either::Left(_) => {
                let late = Duration::from_millis(self.world.random(3000));
                if self.world.random(4) == 0 {
                    self.sim.sleep(late).await;
                }
                Err(self.world.reset_error(place_decides()))
            }
        }
    }

    /// Waits so long, or until the run is paused.
    async fn wait(&self, duration: Duration, before: Option<&str>) -> Result<(), StepError> {
        let end = self.world.now.get() + duration;
        // What a replay tells is held until the engine has made it wait for five seconds.
        let mut part = Duration::from_secs(7);
        while self.world.now.get() < end {
            self.suspended()?;
            let left = end - self.world.now.get();
            self.sim.sleep(left.min(part)).await;
            if part < left
                && let Some(last) = before
            {
                self.world.check_before_wait(last);
            }
            part = Duration::from_secs(60 * 60);
        }
        self.suspended()
    }

    async fn wait_step(&self, kind: &str, name: &str, duration: Duration) -> Result<(), StepError> {
        let engine = &self.world.engine;
        let key = self.key(kind, name);
        let of_engine = async {
            self.sim.pass().await;
            if engine.results.borrow().contains_key(&key) {
                return Ok(());
            }
            self.sim.pass().await;
            self.wait(duration, Some("started")).await?;
            engine.results.borrow_mut().insert(key, Ok(Value::Null));
            self.sim.pass().await;
            Ok(())
        };
        self.unless_reset(|| true, of_engine).await?
    }
}

impl Step for EngineStep {
    async fn do_step<T: StepOutput>(&self, step: DoStep<T>) -> Result<T, StepError> {
        // Whether an error can be nothing but the end of this lifetime, whatever it says.
        let place_decides = Rc::new(Cell::new(false));
        let of_engine = self.run_step(step, Rc::clone(&place_decides));
        self.unless_reset(|| place_decides.get(), of_engine).await?
    }

    async fn sleep(
        &self,
        name: &str,
        duration: impl Into<WorkflowDuration>,
    ) -> Result<(), StepError> {
        self.wait_step("sleep", name, duration.into().into()).await
    }

    async fn sleep_until(&self, name: &str, _: SystemTime) -> Result<(), StepError> {
        self.wait_step("sleepUntil", name, Duration::from_secs(60))
            .await
    }

    async fn wait_for_event<T>(
        &self,
        name: &str,
        options: WaitForEvent,
    ) -> Result<WaitedEvent<T>, StepError>
    where
        T: DeserializeOwned + 'static,
    {
        self.wait_step("waitForEvent", name, Duration::from_secs(60))
            .await?;
        let payload = serde_json::from_value(Value::Null)?;
        let sent = SystemTime::UNIX_EPOCH;
        Ok(WaitedEvent::new(options.event_type, payload, sent))
    }
}

impl EngineStep {
    async fn run_step<T: StepOutput>(
        &self,
        step: DoStep<T>,
        place_decides: Rc<Cell<bool>>,
    ) -> Result<T, StepError> {
        let engine = &self.world.engine;
        let name = step.name;
        let key = self.key("do", &name);
        self.sim.pass().await;
        let cached = engine.results.borrow().get(&key).cloned();
        if let Some(result) = cached {
            let value = result.map_err(StepError::new)?;
            return T::decode(&JsonCodec, JsonOutput::Value(value));
        }
        let task = key.trim_start_matches("do/").to_owned();
        let count = *self.counts.borrow().get(&format!("do/{name}")).unwrap();
        let config = step.config.resolve();
        let retries = step.config.retries;
        let retries = retries.unwrap_or(Retries::new(5, Duration::from_secs(1)));
        loop {
            let attempt = {
                let mut attempts = engine.attempts.borrow_mut();
                let attempt = attempts.entry(key.clone()).or_default();
                *attempt += 1;
                *attempt
            };
            self.sim.pass().await;
            // On its own, as over RPC: what times out goes on running, and so does what an engine
            // called that is gone.
            let reply = Reply::default();
            let call = {
                let (reply, callback) = (reply.clone(), step.callback.clone());
                let (world, place_decides) = (Rc::clone(&self.world), Rc::clone(&place_decides));
                let limit = retries.limit;
                let context = StepContext::new(&name, count, attempt).with_config(config);
                async move {
                    if world.is_reset() {
                        return;
                    }
                    // Until the code has returned, or if the engine would call it again.
                    place_decides.set(true);
                    let result = callback.call(context).await;
                    place_decides.set(result.is_ok() || attempt <= limit);
                    reply.give(result);
                }
            };
            self.sim.spawn(call);
            let timeout = pin!(self.sim.sleep(config.timeout.into()));
            let result = match select(reply, timeout).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => Err(StepError::with_kind(
                    StepErrorKind::TimedOut,
                    "Execution timed out",
                )),
            };
            self.sim.pass().await;
            match result {
                Ok(value) => {
                    let JsonOutput::Value(json) = value.encode(&JsonCodec)? else {
                        return Err(StepError::new("this engine stores no streams"));
                    };
                    engine.results.borrow_mut().insert(key, Ok(json.clone()));
                    self.sim.pass().await;
                    self.suspended()?;
                    return T::decode(&JsonCodec, JsonOutput::Value(json));
                }
                Err(error) => {
                    engine
                        .failures
                        .borrow_mut()
                        .entry(task.clone())
                        .or_default()
                        .insert(attempt.into());
                    if attempt > retries.limit {
                        let stored = Err(error.message().to_owned());
                        engine.results.borrow_mut().insert(key, stored);
                        self.sim.pass().await;
                        self.suspended()?;
                        return Err(error);
                    }
                    self.world.check_before_wait("attempt_failed");
                    self.sim.pass().await;
                    let RetryDelay::Constant(delay) = retries.delay else {
                        return Err(StepError::new("this engine asks for no delays"));
                    };
                    self.wait(delay.into(), None).await?;
                }
            }
        }
    }
}

// The network.

#[derive(Clone)]
struct Network {
    world: Rc<World>,
    sim: Sim,
}

struct Request {
    call: Call,
    fate: Fate,
    reply: Reply<Result<Answer, String>>,
}

enum Call {
    Open(Option<u64>),
    Append(u64, u32, Vec<NewEvent>),
    Settle,
    /// By whoever restarted the instance, at this run and generation.
    Confirm(u32, u64),
}

enum Answer {
    Opened(Opened),
    Told(Outcome),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Refused,
    AnswerLost,
}

impl Network {
    async fn call(&self, call: Call) -> Result<Answer, String> {
        let world = &self.world;
        let milliseconds = Duration::from_millis;
        let (fate, latency) = match world.troubles.get() {
            Troubles::None => (Fate::Answered, milliseconds(world.random(40))),
            Troubles::Dead => return std::future::pending().await,
            Troubles::Many => match world.random(6) {
                0 => (Fate::Refused, milliseconds(world.random(40))),
                1 => (Fate::AnswerLost, milliseconds(world.random(40))),
                2 => (Fate::Answered, milliseconds(world.random(30_000))),
                3 => return std::future::pending().await,
                _ => (Fate::Answered, milliseconds(world.random(40))),
            },
        };
        let reply = Reply::default();
        let request = Request {
            call,
            fate,
            reply: reply.clone(),
        };
        let arrives = (world.now.get() + latency, world.random(u64::MAX));
        world.requests.borrow_mut().insert(arrives, request);
        let answer = reply.await;
        self.sim.sleep(milliseconds(world.random(20))).await;
        answer
    }
}

impl FactLog for Network {
    type Error = String;

    async fn open(&self, generation: Option<u64>) -> Result<Opened, String> {
        match self.call(Call::Open(generation)).await? {
            Answer::Opened(opened) => Ok(opened),
            Answer::Told(_) => unreachable!(),
        }
    }

    async fn append(
        &self,
        generation: u64,
        run: u32,
        batch: &[NewEvent],
    ) -> Result<Outcome, String> {
        match self
            .call(Call::Append(generation, run, batch.to_vec()))
            .await?
        {
            Answer::Told(told) => Ok(told),
            Answer::Opened(_) => unreachable!(),
        }
    }

    async fn settle(&self) -> Result<(), String> {
        self.call(Call::Settle).await.map(drop)
    }
}

/// Something that one task gives to another, once.
struct Reply<T>(Rc<RefCell<(Option<T>, Option<Waker>)>>);

impl<T> Reply<T> {
    fn give(&self, value: T) {
        let mut state = self.0.borrow_mut();
        state.0 = Some(value);
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }
}

impl<T> Future for Reply<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.borrow_mut();
        state.1 = Some(context.waker().clone());
        state.0.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> Clone for Reply<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Default for Reply<T> {
    fn default() -> Self {
        Self(Rc::default())
    }
}

// The process: tasks, in a random order, and a clock that jumps to when something happens.

#[derive(Clone)]
struct Sim(Rc<Process>);

struct Process {
    world: Rc<World>,
    spawned: RefCell<Vec<Pin<Box<dyn Future<Output = ()>>>>>,
    timers: RefCell<BTreeMap<(Duration, u64), Reply<()>>>,
    timer_count: Cell<u64>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Sim {
    fn new(world: &Rc<World>) -> Self {
        Self(Rc::new(Process {
            world: Rc::clone(world),
            spawned: RefCell::default(),
            timers: RefCell::default(),
            timer_count: Cell::new(0),
        }))
    }

    fn run<T>(
        &self,
        main: impl Future<Output = T>,
        disturbance: Option<(u32, Disturbance)>,
    ) -> (Option<T>, u32) {
        let mut output = None;
        let mut main = pin!(main);
        type Task = Pin<Box<dyn Future<Output = ()>>>;
        let mut tasks: Vec<(Option<Task>, Arc<Woken>)> =
            vec![(None, Arc::new(Woken(AtomicBool::new(true))))];
        let mut polls = 0;
        while output.is_none() {
            for task in self.0.spawned.borrow_mut().drain(..) {
                tasks.push((Some(task), Arc::new(Woken(AtomicBool::new(true)))));
            }
            let woken: Vec<usize> = (0..tasks.len())
                .filter(|task| tasks[*task].1.0.load(Ordering::SeqCst))
                .collect();
            if woken.is_empty() {
                self.pass_time();
                continue;
            }
            match disturbance {
                Some((at, Disturbance::Kill)) if at == polls => {
                    // Tasks hold the process, which holds them.
                    drop(tasks);
                    self.0.spawned.borrow_mut().clear();
                    self.0.timers.borrow_mut().clear();
                    return (None, polls);
                }
                Some((at, Disturbance::Pause)) if at == polls => {
                    self.0.world.engine.pause.set(true)
                }
                Some((at, Disturbance::Reset)) if at == polls => self.0.world.reset(),
                _ => {}
            }
            polls += 1;
            assert!(polls < 1_000_000, "the process does not come to rest");
            let chosen = woken[self.0.world.random(woken.len() as u64) as usize];
            let (task, flag) = &mut tasks[chosen];
            flag.0.store(false, Ordering::SeqCst);
            let waker = Waker::from(Arc::clone(flag));
            let mut context = Context::from_waker(&waker);
            match task {
                None => {
                    if let Poll::Ready(value) = main.as_mut().poll(&mut context) {
                        output = Some(value);
                    }
                }
                Some(task) => {
                    if task.as_mut().poll(&mut context).is_ready() {
                        tasks.remove(chosen);
                    }
                }
            }
        }
        drop(tasks);
        self.0.spawned.borrow_mut().clear();
        self.0.timers.borrow_mut().clear();
        (output, polls)
    }

    /// To the next timer or arrival.
    fn pass_time(&self) {
        let world = &self.0.world;
        let timer = self.0.timers.borrow().keys().next().map(|(at, _)| *at);
        let arrival = world.requests.borrow().keys().next().map(|(at, _)| *at);
        let confirmation = world
            .confirmations
            .borrow()
            .keys()
            .next()
            .map(|(at, _)| *at);
        let next = timer.into_iter().chain(arrival).chain(confirmation).min();
        let Some(next) = next else {
            panic!("everybody waits for ever");
        };
        world.now.set(world.now.get().max(next));
        if timer == Some(next) {
            let (_, timer) = self.0.timers.borrow_mut().pop_first().unwrap();
            timer.give(());
        } else if confirmation == Some(next) {
            let (_, request) = world.confirmations.borrow_mut().pop_first().unwrap();
            world.deliver(request);
        } else {
            let (_, request) = world.requests.borrow_mut().pop_first().unwrap();
            world.deliver(request);
        }
    }

    /// Lets others go first.
    async fn pass(&self) {
        self.sleep(Duration::ZERO).await;
    }
}

impl Runtime for Sim {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.world.now.get()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        let reply = Reply::default();
        let number = self.0.timer_count.get();
        self.0.timer_count.set(number + 1);
        let at = (self.0.world.now.get() + duration, number);
        self.0.timers.borrow_mut().insert(at, reply.clone());
        reply
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.spawned.borrow_mut().push(Box::pin(task));
    }

    fn warn(&self, message: &str) {
        // "the event log failed, trying again in 100ms: refused"
        assert!(!message.is_empty());
    }
}
