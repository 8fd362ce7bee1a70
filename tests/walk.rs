//! A seeded walk through everything at once: engine, dispatch, the object's log, stores in memory and in SQLite,
//! relays, hibernating sockets, merged streams and viewers, with faults at every wait. The rules of `tests/checker`
//! check what viewers and writers saw.
//!
//! Each run takes a fresh seed and prints it. The same seed gives the same walk:
//!
//! ```sh
//! SSETARGET_WALK_SEED=17 cargo test --test walk
//! ```
//!
//! `SSETARGET_WALK_STEPS` is the least number of steps; 100,000 by default. With 1 the test walks one world, of
//! exactly this seed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "support/audience.rs"]
mod audience;
#[path = "support/place.rs"]
mod place;
#[path = "support/sim.rs"]
mod sim;
mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use audience::{Audience, Log, Source, fact};
use place::{Dice, Place};
use sim::{Deed, Disturbance, HABITS, Outside, Told, Troubles, World, lines};
use ssetarget::internals::pack_facts;
use ssetarget::workflow::Told as Outcome;
use ssetarget::{MemoryEventStore, NewEvent};
use ssetarget_checker::{Answer, PlatformEntry, PlatformError, Record};
use support::clock::ManualClock;

/// The promise of a world, by the faults in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// Processes die, engines go, objects leave memory: the log is that of the undisturbed run, and agrees with the
    /// platform's.
    Calm,
    /// The network and disks fail too, and objects die in mid-append: nothing is there twice, and only events that
    /// nobody could send again are lost.
    Rough,
    /// The instance is restarted, terminated, deleted and created again.
    Deeds,
}

/// One world, and everybody in it.
struct Walk {
    kind: Kind,
    dice: Dice,
    audience: RefCell<Audience>,
    /// Objects and disks fail.
    has_faults: Cell<bool>,
    /// Lifetimes are disturbed.
    disturbs: Cell<bool>,
    clock: ManualClock,
}

const MILLISECONDS: u64 = 1_000_000;

impl Walk {
    fn at(&self, world: &World) {
        let now = world.now.get();
        self.audience
            .borrow()
            .hours
            .set((now.as_nanos() / u128::from(MILLISECONDS)) as u64);
        self.clock.set(world.wall_clock());
    }

    /// Lets this many things happen outside.
    fn outside(&self, world: &World, steps: u64) {
        self.at(world);
        for _ in 0..steps {
            self.audience.borrow_mut().step();
        }
        if self.dice.one_in(200) {
            // Within the usual differences between clocks.
            let slow = Duration::from_millis(self.dice.roll(3) * self.dice.roll(2_000));
            world.set_clocks_behind(slow);
        }
    }

    fn record(&self, record: Record) {
        self.audience.borrow_mut().record(0, record);
    }
}

impl Outside for Walk {
    fn between(&self, world: &World) -> Option<Disturbance> {
        self.audience.borrow_mut().count();
        if self.dice.one_in(2) {
            self.outside(world, 1);
        }
        if !self.disturbs.get() || !self.dice.one_in(130) {
            return None;
        }
        let roll = self.dice.roll(6);
        self.audience.borrow_mut().note(("disturbs", roll));
        Some(match roll {
            0 => Disturbance::Pause,
            1 => Disturbance::Reset,
            2 | 3 => Disturbance::Abandon,
            _ => Disturbance::Kill,
        })
    }

    fn at_rest(&self, world: &World) {
        self.outside(world, 1);
    }

    fn append(
        &self,
        world: &World,
        generation: u64,
        run: u32,
        batch: &[NewEvent],
    ) -> Result<Outcome, String> {
        let now = || world.wall_clock();
        let place = &world.place;
        let mut packed = pack_facts(batch);
        let append = |memory: &place::Memory| {
            let told = memory.log().append_packed(generation, run, &packed, now);
            told.map_err(|error| error.to_string())
        };
        let fault = if self.has_faults.get() {
            self.dice.roll(14)
        } else {
            99
        };
        let prefix = format!("{run}/");
        let events = batch.iter().map(|event| fact(event, &prefix)).collect();
        let told = match fault {
            // The disk is full.
            0 => place.full_while(append),
            // A statement fails, the first or a later one.
            1 => {
                place.sql.fail_after(self.dice.roll(5) as usize);
                let told = append(&place.memory());
                place.sql.heal();
                told
            }
            // The object is killed before what it wrote is durable.
            2 => {
                let _ = place.killed_while(append);
                self.audience.borrow_mut().object_died();
                Err("the object was reset".to_owned())
            }
            // The Worker and the object have different versions, as during a deploy or its rollback.
            3 => {
                packed[0] = packed[0].wrapping_add(1 + self.dice.roll(254) as u8);
                let told = place
                    .memory()
                    .log()
                    .append_packed(generation, run, &packed, now);
                Err(told.unwrap_err().to_string())
            }
            // The object left memory.
            4 => {
                place.evict();
                append(&place.memory())
            }
            _ => append(&place.memory()),
        };
        let answer = match &told {
            // Or the run is over, and the late event was dropped.
            Ok(Outcome::Stored(0)) => Answer::Unknown,
            Ok(Outcome::Stored(_)) => Answer::Acknowledged,
            // Another party may have sent it.
            Ok(Outcome::Stale) if self.kind == Kind::Deeds => Answer::Unknown,
            Ok(Outcome::Stale) | Err(_) => Answer::Refused,
        };
        self.record(Record::Append {
            events,
            answer,
            after: None,
        });
        self.changed(world);
        told
    }

    fn changed(&self, world: &World) {
        self.at(world);
        self.audience.borrow_mut().log_changed();
    }
}

/// Walks through the world of this seed. Returns the number of steps, and what happened, as a number.
fn walk(seed: u64) -> (u64, u64) {
    let dice = Dice::new(seed);
    let kind = match dice.roll(4) {
        0 | 1 => Kind::Rough,
        2 => Kind::Calm,
        _ => Kind::Deeds,
    };
    let troubles = match kind {
        Kind::Rough => Troubles::Many,
        Kind::Calm | Kind::Deeds => Troubles::None,
    };
    let world = World::new(seed, troubles);
    world.habit.set(HABITS[dice.roll(5) as usize]);
    world.has_deeds.set(kind == Kind::Deeds);
    world.at_once.set(kind != Kind::Deeds && dice.one_in(4));
    let clock = ManualClock::new();
    let memory = |store: MemoryEventStore| Source::Memory(Arc::new(store));
    let place = |keeps| Source::Place(Place::plain(keeps, Dice::new(seed ^ 77)));
    let clocked = MemoryEventStore::new().with_clock(clock.reader());
    let sources = [
        ("order", Source::Place(Arc::clone(&world.place))),
        ("kept", memory(MemoryEventStore::new())),
        ("short", memory(MemoryEventStore::new().max_events(12))),
        (
            "brief",
            memory(clocked.max_age(Duration::from_secs(30 + dice.roll(3_000)))),
        ),
        ("file", place(None)),
        ("small file", place(Some(9))),
    ];
    // Not all of them each time, so that there is more of each.
    let chosen = sources
        .into_iter()
        .enumerate()
        .filter(|(index, _)| *index == 0 || dice.one_in(2));
    let logs: Vec<_> = chosen
        .map(|(_, (name, source))| Log {
            name: name.to_owned(),
            source,
        })
        .collect();
    if kind == Kind::Rough {
        for log in &logs {
            if let Source::Place(place) = &log.source {
                place.set_trouble(12);
            }
        }
    }
    let mut audience = Audience::new(dice.clone(), logs);
    audience.note((seed, kind));
    for log in 1..audience.logs.len() {
        audience.record(log, Record::Whole);
    }
    let walk = Rc::new(Walk {
        kind,
        dice: dice.clone(),
        audience: RefCell::new(audience),
        has_faults: Cell::new(kind == Kind::Rough),
        disturbs: Cell::new(true),
        clock,
    });
    world.set_outside(Rc::clone(&walk) as Rc<dyn Outside>);
    match kind {
        Kind::Calm | Kind::Rough => disturbed(&walk, &world),
        Kind::Deeds => with_deeds(&walk, &world),
    }
    walk.changed(&world);
    let mut audience = walk.audience.borrow_mut();
    audience.settle();
    let checker = std::mem::take(&mut audience.checker);
    let violations = checker.finish();
    let lines: Vec<_> = violations.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{kind:?}: {lines:#?}");
    (audience.steps, audience.trace())
}

/// Lifetimes one after another, and beside each other, until one ends by itself.
fn disturbed(walk: &Rc<Walk>, world: &Rc<World>) {
    for _ in 0..walk.dice.roll(9) {
        if let (Some(Ok(_)), _) = world.lifetime(None)
            && world.returned.get()
        {
            break;
        }
        let steps = walk.dice.roll(20);
        walk.outside(world, steps);
        if walk.dice.one_in(2) {
            world.end_zombies(true);
        }
    }
    walk.disturbs.set(false);
    if world.at_once.get() {
        return at_once(walk, world);
    }
    world.run_to_end();
    world.end_zombies(false);
    if walk.kind == Kind::Rough {
        world.troubles.set(Troubles::None);
        // A lifetime without faults sends what those before it could not. Objects do not fail any more either.
        walk.has_faults.set(false);
        world.run_to_end();
        world.deliver_everything();
        world.check_but_for_what_nobody_could_tell_again(1);
    } else {
        world.deliver_everything();
        if world.is_abandoned.get() || world.is_unclear.get() {
            world.check_but_for_what_nobody_could_tell_again(1);
        } else {
            world.check(1);
        }
        // An attempt that failed and was killed before the engine stored it: the two differ, and both are right.
        if world.failed_attempts(1) == *world.engine.failures.borrow() {
            walk.record(Record::Platform {
                entries: entries(world),
            });
        }
    }
}

/// Concurrent steps: they end in any order, each once, and nothing comes after the end of the run.
fn at_once(walk: &Rc<Walk>, world: &Rc<World>) {
    let run = || world.lifetime(None).0.unwrap().unwrap();
    run();
    world.end_zombies(false);
    if walk.kind == Kind::Rough {
        world.troubles.set(Troubles::None);
        walk.has_faults.set(false);
        run();
    }
    world.deliver_everything();
    let events = world.of_run(1);
    let mut told = lines(&events);
    let last = told.last().map(String::as_str);
    assert_eq!(last, Some("completed order-1.workflow of -"));
    told.sort();
    assert_eq!(told, AT_ONCE);
    world.failed_attempts(1);
}

/// Its events, sorted.
const AT_ONCE: [&str; 16] = [
    "completed approval-1.waitForEvent of order-1.workflow",
    "completed left-1 of order-1.workflow",
    "completed nap-1.sleep of order-1.workflow",
    "completed nap-2.sleep of pair-1.group",
    "completed order-1.workflow of -",
    "completed pair-1.group of order-1.workflow",
    "completed right-1 of pair-1.group",
    "completed sum-1 of order-1.workflow",
    "started approval-1.waitForEvent of order-1.workflow",
    "started left-1 of order-1.workflow",
    "started nap-1.sleep of order-1.workflow",
    "started nap-2.sleep of pair-1.group",
    "started order-1.workflow of -",
    "started pair-1.group of order-1.workflow",
    "started right-1 of pair-1.group",
    "started sum-1 of order-1.workflow",
];

/// The engine's own log, as the platform writes it.
fn entries(world: &World) -> Vec<PlatformEntry> {
    let log = world.engine.log.borrow();
    let entry = |(what, step, attempt): &(&str, String, u32)| PlatformEntry {
        entry_type: (*what).to_owned(),
        step_name: Some(step.clone()),
        attempt: (*attempt > 0).then(|| u64::from(*attempt)),
        error: what.ends_with("errored").then(|| PlatformError {
            message: "no".to_owned(),
        }),
    };
    log.iter().map(entry).collect()
}

/// Instances that are restarted, terminated, deleted and created again at any moment.
fn with_deeds(walk: &Rc<Walk>, world: &Rc<World>) {
    let mut runs = 1;
    let mut late = 0;
    for _ in 0..=walk.dice.roll(5) {
        let at = walk.dice.roll(250) as u32;
        walk.disturbs.set(false);
        let end = match walk.dice.roll(2) {
            0 => Disturbance::Kill,
            _ => Disturbance::Abandon,
        };
        let _ = world.lifetime(Some((at, end)));
        world.confirm_everything();
        late += usize::from(world.place.memory().log().state().unwrap().empty);
        let deed = match walk.dice.roll(5) {
            0 => Deed::Restart(walk.dice.roll(9_000)),
            1 => Deed::NoRestart,
            2 => Deed::Terminate,
            3 => Deed::Recreate(walk.dice.roll(9_000)),
            _ => Deed::Settle,
        };
        walk.audience.borrow_mut().note(format!("{deed:?}"));
        late += usize::from(world.ends_an_unseen_run(deed));
        runs += usize::from(world.suffer_deed(deed));
        if walk.dice.one_in(2) {
            // The object fails at that moment, and what was only in its memory is gone.
            world.place.evict();
            walk.audience.borrow_mut().object_died();
        }
        walk.changed(world);
        let steps = walk.dice.roll(20);
        walk.outside(world, steps);
    }
    world.run_to_end();
    world.end_zombies(false);
    world.confirm_everything();
    world.run_to_end();
    world.deliver_everything();
    let events = world.events();
    let restarted = |event: &&Told| event.of == "restarted";
    let restarts = events.iter().filter(restarted).count();
    assert!(
        (runs..=runs + late).contains(&(restarts + 1)),
        "{restarts} of {runs}"
    );
    let runs = restarts + 1;
    for run in 1..runs {
        world.check_cut_short(run);
    }
    world.check_but_for_what_nobody_could_tell_again(runs);
}

/// Prints how to walk the same way again, if a test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "SSETARGET_WALK_SEED={} SSETARGET_WALK_STEPS=1 cargo test --test walk a_walk",
                self.0
            );
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a whole number")),
    )
}

#[test]
fn a_walk() {
    let fresh = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap().as_secs() * 1_000
    };
    let first = setting("SSETARGET_WALK_SEED").unwrap_or_else(fresh);
    let least = setting("SSETARGET_WALK_STEPS").unwrap_or(100_000);
    eprintln!("SSETARGET_WALK_SEED={first} SSETARGET_WALK_STEPS={least}");
    let mut steps = 0;
    for number in first.. {
        let seed = Seed(number);
        steps += walk(seed.0).0;
        if steps >= least {
            eprintln!("{steps} steps through {} worlds", number + 1 - first);
            break;
        }
    }
}

#[test]
fn the_same_seed_is_the_same_walk() {
    let traces: Vec<_> = (0..8).map(walk).collect();
    for (seed, trace) in (0..).zip(&traces) {
        assert_eq!(walk(seed), *trace, "seed {seed}");
    }
    let different: BTreeSet<_> = traces.iter().map(|(_, trace)| trace).collect();
    assert_eq!(different.len(), traces.len(), "other seeds are other walks");
}
