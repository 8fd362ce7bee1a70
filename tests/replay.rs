//! A whole instance in a simulation, interrupted at every single poll: see `support/sim.rs`.
//!
//! The promise: the log of a run that was interrupted any number of times equals the log of an
//! uninterrupted one, except for timestamps and for attempts that were made again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "support/place.rs"]
#[allow(dead_code, reason = "the walk uses all of it")]
mod place;
#[path = "support/sim.rs"]
mod sim;
mod support;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::{Progress, Runtime, Step, StepContext};
use futures_util::FutureExt;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;
use sim::{Deed, Disturbance, HABITS, RESULT, Told, Troubles, World, lines};
use ssetarget::NewEvent;
use ssetarget::workflow::{DispatchConfig, Told as Outcome};

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

/// The engine decides the order in which concurrent steps end.
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

/// Lifetimes that are killed, paused and reset, in any order: more than 20,000 of them.
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

/// Prints the seed if a test fails.
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
        // A restart is noticed when code runs that has ended in the log.
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

/// A lifetime that a restart ended may have sent an event that arrives in the next run.
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
        let memory = world.place.memory();
        let append = memory
            .log()
            .append(generation, run, late, SystemTime::UNIX_EPOCH);
        append.now_or_never().unwrap()
    };
    let newest = world.place.memory().log().state().unwrap().generation;
    for (generation, run) in [(newest, 1), (newest - 1, 2), (newest - 1, 3)] {
        assert_eq!(append(generation, run).unwrap(), Outcome::Stale);
        assert_eq!(world.events(), events);
    }
    let beyond = append(newest, 4).unwrap_err();
    assert!(beyond.to_string().contains("run 4"));
    assert_eq!(world.events(), events);
}

/// More events than fit into one call, collected while the log does not answer.
#[test]
fn a_backlog_is_sent_in_parts_and_in_order() {
    const LARGE: usize = 50 * 1024;
    for (steps, size) in [(2_000, 10), (40, LARGE)] {
        let world = World::new(1, Troubles::Dead);
        let recover = Rc::clone(&world);
        let (result, _) = world.process(None, async move |step, _| {
            for number in 0..steps {
                let report = async move |attempt: StepContext| {
                    let filler = "\"".repeat(size / 2);
                    attempt.progress(Progress::percent(0.5).attribute(filler, number));
                    Ok(())
                };
                step.run("report", report).await?;
            }
            step.run("recover", async move |_| {
                // After the dispatcher gave the log up.
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

    /// Requests are refused, answered too late or never, and arrive after their retries; and the
    /// process dies. In the end nothing is there twice. Only reports and failures of attempts are
    /// lost, which no later lifetime can send again.
    #[test]
    fn a_failing_log_loses_only_what_nobody_could_send_again(seed: u64, disturbances in disturbances()) {
        let world = World::new(seed, Troubles::Many);
        world.suffer(disturbances);
        world.run_to_end();
        world.troubles.set(Troubles::None);
        // The next lifetime sends what the last one could not.
        world.run_to_end();
        world.deliver_everything();
        world.check_but_for_what_nobody_could_tell_again(1);
    }

    /// The workflow does not notice its log: whatever the log does, the workflow makes the same
    /// attempts with the same results, and waits no longer than documented.
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Instances are restarted, terminated, deleted and created again at any moment, and requests
    /// of dead processes arrive at any other: the log of each run is complete or complete up to its
    /// cut, and no event of one run is in another.
    #[test]
    fn runs_do_not_mix(seed: u64, deeds in deeds()) {
        let world = World::new(seed, Troubles::None);
        world.has_deeds.set(true);
        let mut runs = 1;
        // The number of runs that late events may still add: those of an empty log, or requests of a run that the
        // log did not know.
        let mut late = 0;
        for (at, deed) in deeds {
            let _ = world.lifetime(Some((at, Disturbance::Kill)));
            // A pending confirmation arrives before another restart.
            world.confirm_everything();
            late += usize::from(world.place.memory().log().state().unwrap().empty);
            late += usize::from(world.ends_an_unseen_run(deed));
            runs += usize::from(world.suffer_deed(deed));
        }
        world.run_to_end();
        world.confirm_everything();
        // The restart may not be in the log yet if the process was too quick: that takes a
        // confirmation, or a proof.
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
