//! A simulation of a whole instance. Engine, network, clock and scheduler are in this file, so that the process can
//! die at every single poll of every task, requests can arrive after the death of the process that sent them, and
//! seeds try every order of events. The engine can be reset during a step, as a deploy does it, while the code that
//! called it goes on, also beside the next lifetime.
#![allow(dead_code, reason = "each test uses a part of it")]

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
use serde::de::DeserializeOwned;
use serde_json::Value;
use ssetarget::internals::{Announced, InstanceEnd, LogState, pack_facts};
use ssetarget::workflow::{
    BatchedDispatch, DispatchConfig, FactLog, Opened, OpenedRun, Told as Outcome,
    WorkflowEventStep, workflow_started,
};
use ssetarget::{EventStore, NewEvent, PageLimit};

use crate::place::{Dice, Place};

// The workflow.

pub(crate) type Wrapped = WorkflowEventStep<EngineStep, BatchedDispatch<Network, Sim>>;

/// The world as the code of one lifetime sees it.
pub(crate) struct Here {
    world: Rc<World>,
    sim: Sim,
}

impl Here {
    fn sim(&self) -> &Sim {
        &self.sim
    }

    fn is_reset(&self) -> bool {
        self.sim.is_reset()
    }
}

impl std::ops::Deref for Here {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

/// More attempts than a walk kills: each of those counts, and the step must not fail for good.
fn patient() -> StepConfig {
    StepConfig::new().retries(Retries::new(500, Duration::from_secs(1)))
}

/// One step after another, so that their events have only one order.
pub(crate) async fn order(step: &Wrapped, world: &Rc<Here>) -> Result<String, StepError> {
    let price: u32 = step.run("price", async |_| Ok(7)).await?;
    let bank = Rc::clone(world);
    step.run_with("charge", patient(), async move |attempt: StepContext| {
        bank.sim().sleep(Duration::from_millis(5)).await;
        // Until the engine knows of two failures.
        if bank.failures_of("charge-1") < 2 {
            return Err(bank.error("charge-1", attempt.attempt));
        }
        attempt.set_attribute("price", price);
        Ok(())
    })
    .await?;
    step.sleep("dry", Duration::from_secs(24 * 60 * 60)).await?;
    let boxes = {
        let world = Rc::clone(world);
        step.group("pack", async |step| {
            step.run_with("box", patient(), async move |attempt: StepContext| {
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

pub(crate) const RESULT: &str = "7 3 8";

/// How a workflow handles an error of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Habit {
    Returns,
    OtherWords,
    Swallows,
    /// Another step follows, and a group.
    Compensates,
    Waits,
}

pub(crate) const HABITS: [Habit; 5] = [
    Habit::Returns,
    Habit::OtherWords,
    Habit::Swallows,
    Habit::Compensates,
    Habit::Waits,
];

/// Concurrent steps: the first error gives up the others.
pub(crate) async fn at_once(step: &Wrapped, world: &Rc<Here>) -> Result<String, StepError> {
    let shop = Rc::clone(world);
    let left = step.run_with("left", patient(), async move |attempt: StepContext| {
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

pub(crate) async fn by_habit(
    step: Wrapped,
    world: &Rc<Here>,
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

pub(crate) const PAUSED: &str = "Aborting engine: User called pause";

/// The messages of production for an engine that is gone. The glue recognises them.
pub(crate) const RESETS: [&str; 4] = [
    "Durable Object reset because its code was updated.",
    "Network connection lost.",
    "Aborting engine: Grace period complete",
    "Cannot invoke closure from previous WASM instance",
];
/// An unknown message: then the place decides.
pub(crate) const ODD: &str = "the node of this engine was taken out of service";

/// The part of the log that is always the same. Failed attempts are compared with the real ones.
pub(crate) const LOG: [&str; 21] = [
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

/// The rest of the log.
pub(crate) const LOG_END: [&str; 2] = [
    "completed price-2 of order-1.workflow",
    "completed order-1.workflow of -",
];

// Actions on an instance from outside.

#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    /// The platform restarts it after an announcement; the confirmation takes this many milliseconds.
    Restart(u64),
    /// The platform refuses the restart.
    NoRestart,
    /// It is terminated, which is reported, and restarted without a report.
    Terminate,
    /// It is deleted, and another is created with its id.
    Recreate(u64),
    /// The platform is asked for its status. It says that the instance runs; or that it has ended, but a lifetime has
    /// begun before this answer arrives.
    Settle,
}

impl World {
    /// Returns whether the deed ends a run that the log does not know yet. Requests of its lifetimes that are on their
    /// way may still report it, before the next run is reported.
    pub(crate) fn ends_an_unseen_run(&self, deed: Deed) -> bool {
        let state = self.place.memory().log().state().unwrap();
        let is_unseen = state.ended && self.ended_run.get() == state.run;
        is_unseen && !matches!(deed, Deed::NoRestart | Deed::Settle)
    }

    /// Carries it out. Returns whether the next run begins, now or when a lifetime proves it.
    pub(crate) fn suffer_deed(self: &Rc<Self>, deed: Deed) -> bool {
        self.now.set(self.now.get() + MOMENT);
        let memory = self.place.memory();
        let log = memory.log();
        let now = self.wall_clock();
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
        self.say(|| format!("{deed:?}: run {}, ended {}", state.run, state.ended));
        // Nothing has shown yet that a run that ended here goes on.
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
                let state = log.stands(now).unwrap();
                let stood = Some((state.run, state.generation));
                log.open(None, now).unwrap();
                let end = InstanceEnd::Failed(None);
                assert!(!log.settle(stood, "order", &end, &[], now).unwrap());
                false
            }
        }
    }

    /// Checks the log of a run that was cut short: its events in order, once, and none after its end.
    pub(crate) fn check_cut_short(&self, run: usize) {
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

// The world: everything that outlives a process.

pub(crate) struct World {
    /// The object with the log.
    pub(crate) place: Arc<Place>,
    pub(crate) engine: Engine,
    /// The time since 1970.
    pub(crate) now: Cell<Duration>,
    /// The time by which the clocks are behind.
    pub(crate) slow: Cell<Duration>,
    random: Cell<u64>,
    /// Two lifetimes were at work at the same time: the log may follow the one whose engine is gone, until the next
    /// lifetime of the other.
    pub(crate) is_abandoned: Cell<bool>,
    /// The clocks were set back since one lifetime opened the log and before the next one did: then they cannot
    /// say which is later, until the engine has proved it, and what the later one tells may be late. If it is killed
    /// before that, nobody can tell again that an attempt failed.
    pub(crate) is_unclear: Cell<bool>,
    set_back_at: Cell<Option<Duration>>,
    /// The object failed while a lifetime held a session: the workflow does not wait for a log that fails.
    was_cut_off: Cell<bool>,
    /// When a lifetime last opened the log of which the log had heard others.
    opened_at: Cell<Duration>,
    is_loud: bool,
    pub(crate) troubles: Cell<Troubles>,
    pub(crate) habit: Cell<Habit>,
    /// The workflow is [`at_once`], and not [`order`].
    pub(crate) at_once: Cell<bool>,
    /// Lifetimes whose engine is gone, and whose code goes on beside a later one.
    zombies: RefCell<Vec<Sim>>,
    outside: RefCell<Option<Rc<dyn Outside>>>,
    /// The workflow's code has returned to an engine that existed.
    pub(crate) returned: Cell<bool>,
    /// Requests on their way, by their time of arrival.
    requests: RefCell<BTreeMap<(Duration, u64), Request>>,
    /// The confirmations of restarts: they arrive whatever happens to a process.
    confirmations: RefCell<BTreeMap<(Duration, u64), Request>>,
    pub(crate) is_confirmed: Cell<bool>,
    /// The run that was terminated and restarted without a report.
    ended_run: Cell<u32>,
    pub(crate) has_deeds: Cell<bool>,
    /// The workflow's code of some lifetime has returned.
    has_ended: Cell<bool>,
    sim: RefCell<Option<Sim>>,
    /// Events and bytes of the appends that arrived.
    pub(crate) parts: RefCell<Vec<(usize, usize)>>,
    /// The attempts whose callbacks returned an error, by task.
    pub(crate) errors: RefCell<HashMap<String, BTreeSet<u64>>>,
    /// How often a lifetime reported that it does not know how the run goes on.
    pub(crate) settles: Cell<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Troubles {
    None,
    Many,
    /// Nothing is ever answered.
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disturbance {
    Kill,
    Pause,
    /// The engine is gone, and the code that it called goes on.
    Reset,
    /// The same, and the next lifetime does not wait for its end.
    Abandon,
}

/// The rest of the world.
pub(crate) trait Outside {
    /// Called before each poll. May disturb the lifetime.
    fn between(&self, world: &World) -> Option<Disturbance>;

    /// Called when no task can be polled, before time passes.
    fn at_rest(&self, world: &World);

    /// Appends to the log, in any state of the object and its disk.
    fn append(
        &self,
        world: &World,
        generation: u64,
        run: u32,
        batch: &[NewEvent],
    ) -> Result<Outcome, String>;

    /// Called after another change of the log, requested by a lifetime or from outside.
    fn changed(&self, world: &World);
}

/// The least time between the end of a lifetime, what is done from outside, and the beginning of the next one.
const MOMENT: Duration = Duration::from_millis(1);

/// How long a call and its answer take at most, where there are no troubles.
const LONGEST_ANSWER: Duration = Duration::from_millis(60);

pub(crate) const ALL: PageLimit = PageLimit {
    events: 100_000,
    bytes: usize::MAX,
};

impl World {
    pub(crate) fn new(seed: u64, troubles: Troubles) -> Rc<Self> {
        Rc::new(Self {
            place: Place::workflow(Dice::new(seed)),
            engine: Engine::default(),
            now: Cell::new(Duration::from_secs(1_795_000_000)),
            slow: Cell::new(Duration::ZERO),
            is_loud: std::env::var_os("SSETARGET_WALK_LOG").is_some(),
            is_abandoned: Cell::new(false),
            is_unclear: Cell::new(false),
            set_back_at: Cell::new(None),
            was_cut_off: Cell::new(false),
            opened_at: Cell::new(Duration::ZERO),
            random: Cell::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            troubles: Cell::new(troubles),
            habit: Cell::new(Habit::Returns),
            at_once: Cell::new(false),
            zombies: RefCell::default(),
            outside: RefCell::default(),
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

    /// Runs one process until the workflow returns, or until it is killed: `None`. Also returns the number of polls.
    pub(crate) fn lifetime(
        self: &Rc<Self>,
        disturbance: Option<(u32, Disturbance)>,
    ) -> (Option<Result<String, StepError>>, u32) {
        let world = Rc::clone(self);
        let (result, polls) = self.process(disturbance, async move |step, sim| {
            let here = Rc::new(Here { world, sim });
            let result = match here.at_once.get() {
                true => at_once(&step, &here).await,
                false => order(&step, &here).await,
            };
            let result = by_habit(step, &here, result).await;
            if result.is_ok() && !here.is_reset() {
                here.returned.set(true);
            }
            result
        });
        // An action from outside may have ended the run, or restarted one that had ended. A lifetime that has
        // returned may have reported that before it died, with a request that comes late.
        self.has_ended
            .set(self.has_ended.get() || self.returned.get());
        if !self.has_ended.get() && !self.has_deeds.get() {
            self.check_that_it_goes_on();
        }
        (result, polls)
    }

    /// Lets `outside` act between polls, and carry out the requests of lifetimes to the log.
    pub(crate) fn set_outside(&self, outside: Rc<dyn Outside>) {
        *self.outside.borrow_mut() = Some(outside);
    }

    fn outside(&self) -> Option<Rc<dyn Outside>> {
        self.outside.borrow().clone()
    }

    /// Ends the lifetimes that go on without their engines, or one of them.
    pub(crate) fn end_zombies(&self, one: bool) {
        let mut zombies = self.zombies.borrow_mut();
        let left = if one {
            zombies.len().saturating_sub(1)
        } else {
            0
        };
        for zombie in zombies.drain(left..) {
            zombie.stop();
        }
    }

    /// Returns the error of a call whose engine is gone. It may have an unknown message if no step could fail at that
    /// place.
    fn reset_error(&self, place_decides: bool) -> StepError {
        match self.random(5) {
            0..2 if place_decides => StepError::new(ODD),
            text => {
                let text = RESETS[(text % 4) as usize];
                StepError::with_kind(StepErrorKind::Reset, text)
            }
        }
    }

    pub(crate) fn process<T: serde::Serialize + 'static>(
        self: &Rc<Self>,
        disturbance: Option<(u32, Disturbance)>,
        body: impl AsyncFnOnce(Wrapped, Sim) -> Result<T, StepError> + 'static,
    ) -> (Option<Result<T, StepError>>, u32) {
        // Requests on their way when the last process died have arrived by now, or never will, or arrive while this
        // one is at work.
        let on_their_way = std::mem::take(&mut *self.requests.borrow_mut());
        for (arrives, request) in on_their_way {
            match self.random(3) {
                0 => self.deliver(request),
                1 => {}
                _ => drop(self.requests.borrow_mut().insert(arrives, request)),
            }
        }
        // An engine needs time to begin.
        self.now.set(self.now.get() + MOMENT);
        let sim = Sim::new(self);
        *self.sim.borrow_mut() = Some(sim.clone());
        self.engine.pause.set(false);
        let network = Network {
            world: Rc::clone(self),
            sim: sim.clone(),
            session: Rc::default(),
        };
        let dispatch = BatchedDispatch::new(network, sim.clone(), DispatchConfig::batched());
        let step = EngineStep {
            world: Rc::clone(self),
            sim: sim.clone(),
            counts: Rc::default(),
        };
        let step = WorkflowEventStep::new(step, "order", dispatch);
        let here = sim.clone();
        let body = async move |step| body(step, here).await;
        let run = async move { step.workflow(body).await };
        let ended = sim.run(run, disturbance);
        *self.sim.borrow_mut() = None;
        ended
    }

    pub(crate) fn suffer(self: &Rc<Self>, disturbances: Vec<(u32, Disturbance)>) {
        for disturbance in disturbances {
            if let (Some(Ok(_)), _) = self.lifetime(Some(disturbance))
                && self.returned.get()
            {
                return;
            }
        }
    }

    pub(crate) fn run_to_end(self: &Rc<Self>) {
        let (result, _) = self.lifetime(None);
        assert_eq!(result.unwrap().unwrap(), RESULT);
    }

    pub(crate) fn sim(&self) -> Sim {
        self.sim.borrow().clone().unwrap()
    }

    /// Returns the time of the clocks, which may be set back.
    pub(crate) fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.now.get().saturating_sub(self.slow.get())
    }

    /// Has the clocks be so much behind.
    pub(crate) fn set_clocks_behind(&self, slow: Duration) {
        let before = self.slow.replace(slow);
        if slow > before {
            let now = self.now.get();
            self.set_back_at.set(Some(now));
            // While the log's answer is on its way.
            let opened = self.opened_at.get() + LONGEST_ANSWER;
            self.is_unclear.set(self.is_unclear.get() || now <= opened);
        }
        self.say(|| format!("clocks are {slow:?} behind"));
    }

    /// The object lost its memory since it was called through this session, which it does only if it fails: it is
    /// kept in memory otherwise.
    fn is_cut_off(&self, session: Option<u64>) -> bool {
        let is_gone = session.is_some_and(|memory| memory != self.place.memories());
        let is_cut_off = is_gone && (self.troubles.get() == Troubles::Many || self.has_deeds.get());
        self.was_cut_off.set(self.was_cut_off.get() || is_cut_off);
        is_cut_off
    }

    /// Notes whether the log could say that a lifetime that has begun then is later than all others.
    fn judge(&self, opened: &Opened, began: Duration) {
        let Opened::Run(OpenedRun {
            rivals: Some(rivals),
            ..
        }) = opened
        else {
            return;
        };
        self.opened_at.set(self.now.get());
        // The lifetime itself does not know exactly when its call arrived.
        let age = self.now.get().saturating_sub(began) + LONGEST_ANSWER;
        let is_near = Duration::from_millis(rivals.opened) <= age;
        let set_back = self.set_back_at.get();
        if set_back.is_some_and(|at| at >= began || is_near) {
            self.is_unclear.set(true);
        }
    }

    /// Prints what happens, if `SSETARGET_WALK_LOG` is set.
    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.is_loud {
            eprintln!("{:?} {}", self.now.get(), what());
        }
    }

    /// Returns a number from 0 to below `end`.
    pub(crate) fn random(&self, end: u64) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        (x >> 11) % end
    }

    /// Returns the number of failed attempts that the engine knows.
    pub(crate) fn failures_of(&self, task: &str) -> usize {
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

    /// Delivers the requests that are still on their way at the end.
    pub(crate) fn deliver_everything(&self) {
        let requests = std::mem::take(&mut *self.requests.borrow_mut());
        for request in requests.into_values() {
            self.deliver(request);
        }
    }

    pub(crate) fn confirm_everything(&self) {
        self.is_confirmed.set(true);
        let requests = std::mem::take(&mut *self.confirmations.borrow_mut());
        for request in requests.into_values() {
            self.deliver(request);
        }
    }

    pub(crate) fn deliver(&self, request: Request) {
        let Request { call, fate, reply } = request;
        let answer = if fate == Fate::Refused {
            Err("refused".to_owned())
        } else {
            let now = self.wall_clock();
            Ok(match call {
                Call::Open(generation, began) => {
                    let opened = self.place.memory().log().open(generation, now);
                    let opened = opened.unwrap();
                    self.judge(&opened, began);
                    self.say(|| match &opened {
                        Opened::Run(run) => format!(
                            "opened by {generation:?}: generation {}, run {}, ended {}, {} facts",
                            run.generation,
                            run.run,
                            run.ended,
                            run.facts.len()
                        ),
                        opened => format!("opened by {generation:?}: {opened:?}"),
                    });
                    Answer::Opened(opened, self.place.memories())
                }
                Call::Append(generation, _, _, session) if self.is_cut_off(session) => {
                    self.say(|| format!("{generation} has no session any more"));
                    return reply.give(Err("the object is another one".to_owned()));
                }
                Call::Append(generation, run, batch, _) => {
                    let bytes = batch.iter().map(NewEvent::size).sum();
                    self.parts.borrow_mut().push((batch.len(), bytes));
                    let appended = match self.outside() {
                        Some(outside) => outside.append(self, generation, run, &batch),
                        None => {
                            let packed = pack_facts(&batch);
                            let memory = self.place.memory();
                            let told = memory.log().append_packed(generation, run, &packed, || now);
                            Ok(told.unwrap())
                        }
                    };
                    self.say(|| {
                        let keys: Vec<_> = batch.iter().filter_map(NewEvent::key).collect();
                        format!("appended by {generation} to run {run}: {appended:?}: {keys:?}")
                    });
                    match appended {
                        Ok(told) => Answer::Told(told),
                        Err(error) => return reply.give(Err(error)),
                    }
                }
                Call::Confirm(run, generation) => {
                    let started = workflow_started("order", now).unwrap();
                    let stood = (run, generation);
                    let memory = self.place.memory();
                    let confirm = memory.log().confirm_restart(stood, &started, now);
                    if let Some(outside) = self.outside() {
                        outside.changed(self);
                    }
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

    /// Advances to the next timer or arrival.
    fn pass_time(&self, processes: &[Sim]) {
        let first = |process: &Sim| process.0.timers.borrow().keys().next().copied();
        let timers = processes
            .iter()
            .filter_map(|process| Some((first(process)?, process)));
        let timer = timers.min_by_key(|(at, _)| *at);
        let arrival = self.requests.borrow().keys().next().map(|(at, _)| *at);
        let confirmations = self.confirmations.borrow();
        let confirmation = confirmations.keys().next().map(|(at, _)| *at);
        drop(confirmations);
        let timer_at = timer.map(|((at, _), _)| at);
        let next = timer_at
            .into_iter()
            .chain(arrival)
            .chain(confirmation)
            .min();
        let Some(next) = next else {
            panic!("everybody waits for ever");
        };
        self.now.set(self.now.get().max(next));
        if let Some((at, process)) = timer.filter(|((at, _), _)| *at == next) {
            let timer = process.0.timers.borrow_mut().remove(&at);
            timer.unwrap().give(());
        } else if confirmation == Some(next) {
            let request = self.confirmations.borrow_mut().pop_first();
            self.deliver(request.unwrap().1);
        } else {
            let request = self.requests.borrow_mut().pop_first();
            self.deliver(request.unwrap().1);
        }
    }

    pub(crate) fn events(&self) -> Vec<Told> {
        let memory = self.place.memory();
        let page = memory.target().store().read(None, ALL);
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

    pub(crate) fn of_run(&self, run: usize) -> Vec<Told> {
        let events = self.events();
        let mut runs = events.split(|event| event.of == "restarted");
        runs.nth(run - 1).unwrap().to_vec()
    }

    pub(crate) fn failed_attempts(&self, run: usize) -> HashMap<String, BTreeSet<u64>> {
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

    /// Checks that the log is that of an undisturbed run.
    pub(crate) fn check(&self, run: usize) {
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

    /// Checks that no event says that the run has ended.
    pub(crate) fn check_that_it_goes_on(&self) {
        let events = self.events();
        let latest = events.rsplit(|event| event.of == "restarted").next();
        let events = latest.unwrap_or_default();
        let ends = |event: &&Told| {
            event.data["kind"] == "workflow" && matches!(event.of.as_str(), "completed" | "failed")
        };
        let end = events.iter().find(ends);
        assert_eq!(end, None, "the run goes on: {:?}", self.habit.get());
    }

    pub(crate) fn check_but_for_what_nobody_could_tell_again(&self, run: usize) {
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

    /// Checks that the log is complete when the engine ends a lifetime because the run waits.
    pub(crate) fn check_before_wait(&self, last: &str) {
        // While a restart is not confirmed, the lifetime does not wait for the log.
        let waits = self.troubles.get() == Troubles::None
            && self.is_confirmed.get()
            && !self.is_abandoned.get()
            && !self.is_unclear.get()
            && !self.was_cut_off.get();
        if waits && !self.at_once.get() {
            let memory = self.place.memory();
            let page = memory.target().store().read(None, ALL);
            let events = page.now_or_never().unwrap().unwrap().events;
            let types = events.iter().map(|event| event.event_type.as_str());
            let mut types = types.rev();
            let told = types.find(|of| !matches!(*of, "completed" | "failed"));
            assert_eq!(told, Some(last), "{events:?}");
        }
    }

    /// Checks that the details of attempts are true, and in the right events.
    pub(crate) fn check_details(&self, events: &[Told], failed: &HashMap<String, BTreeSet<u64>>) {
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
            // A lifetime that found the result in the cache does not send them.
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
pub(crate) struct Told {
    pub(crate) of: String,
    pub(crate) task: String,
    pub(crate) data: Value,
}

/// All events except failed attempts, without attempts and attributes.
pub(crate) fn lines(events: &[Told]) -> Vec<String> {
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

/// The engine's storage.
#[derive(Default)]
pub(crate) struct Engine {
    pub(crate) results: RefCell<HashMap<String, Result<Value, String>>>,
    pub(crate) attempts: RefCell<HashMap<String, u32>>,
    pub(crate) failures: RefCell<HashMap<String, BTreeSet<u64>>>,
    /// A pause was requested.
    pause: Cell<bool>,
    /// The number of called steps, in all lifetimes.
    pub(crate) calls: Cell<u32>,
    /// The engine's own log: type, step and attempt.
    pub(crate) log: RefCell<Vec<(&'static str, String, u32)>>,
}

impl Engine {
    fn note(&self, what: &'static str, step: &str, attempt: u32) {
        let entry = (what, step.to_owned(), attempt);
        let mut log = self.log.borrow_mut();
        if !log.contains(&entry) {
            log.push(entry);
        }
    }

    pub(crate) fn restart(&self) {
        self.results.borrow_mut().clear();
        self.attempts.borrow_mut().clear();
        self.failures.borrow_mut().clear();
        self.log.borrow_mut().clear();
    }
}

/// The step object of one lifetime.
#[derive(Clone)]
pub(crate) struct EngineStep {
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

    /// Runs something of the engine, which is cut short when the engine goes. The caller may notice that later.
    async fn unless_reset<T>(
        &self,
        place_decides: impl Fn() -> bool,
        of_engine: impl Future<Output = T>,
    ) -> Result<T, StepError> {
        let gone = poll_fn(|context| {
            if self.sim.is_reset() {
                return Poll::Ready(());
            }
            let mut watchers = self.sim.0.watchers.borrow_mut();
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

    /// Waits this long, or until the run is paused.
    async fn wait(&self, duration: Duration, before: Option<&str>) -> Result<(), StepError> {
        let end = self.world.now.get() + duration;
        // Events of a replay are held back until the engine has made it wait for five seconds.
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
            let (started, completed) = match kind {
                "waitForEvent" => ("wait_started", "wait_completed"),
                _ => ("sleep_started", "sleep_completed"),
            };
            let step = key.rsplit('/').next().unwrap().to_owned();
            engine.note(started, &step, 0);
            self.wait(duration, Some("started")).await?;
            engine.results.borrow_mut().insert(key, Ok(Value::Null));
            engine.note(completed, &step, 0);
            self.sim.pass().await;
            Ok(())
        };
        self.unless_reset(|| true, of_engine).await?
    }
}

impl Step for EngineStep {
    async fn do_step<T: StepOutput>(&self, step: DoStep<T>) -> Result<T, StepError> {
        // Whether any error can only mean the end of this lifetime, whatever its message.
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
        engine.note("step_started", &task, 0);
        loop {
            let attempt = {
                let mut attempts = engine.attempts.borrow_mut();
                let attempt = attempts.entry(key.clone()).or_default();
                *attempt += 1;
                *attempt
            };
            self.sim.pass().await;
            // It runs on its own, as over RPC: after a timeout it goes on running, and also if the engine that called
            // it is gone.
            let reply = Reply::default();
            let call = {
                let (reply, callback) = (reply.clone(), step.callback.clone());
                let (sim, place_decides) = (self.sim.clone(), Rc::clone(&place_decides));
                let limit = retries.limit;
                let context = StepContext::new(&name, count, attempt).with_config(config);
                async move {
                    if sim.is_reset() {
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
                    engine.note("attempt_completed", &task, attempt);
                    engine.note("step_completed", &task, 0);
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
                    engine.note("attempt_errored", &task, attempt);
                    if attempt > retries.limit {
                        let stored = Err(error.message().to_owned());
                        engine.results.borrow_mut().insert(key, stored);
                        engine.note("step_errored", &task, 0);
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
pub(crate) struct Network {
    world: Rc<World>,
    sim: Sim,
    /// The memory of the object that it holds a session of.
    session: Rc<Cell<Option<u64>>>,
}

pub(crate) struct Request {
    call: Call,
    fate: Fate,
    reply: Reply<Result<Answer, String>>,
}

pub(crate) enum Call {
    /// By a lifetime that began then.
    Open(Option<u64>, Duration),
    /// Through a session of this memory of the object, if one is held.
    Append(u64, u32, Vec<NewEvent>, Option<u64>),
    Settle,
    /// From the party that restarted the instance, at this run and generation.
    Confirm(u32, u64),
}

pub(crate) enum Answer {
    /// And by which memory of the object.
    Opened(Opened, u64),
    Told(Outcome),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
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
        match self.call(Call::Open(generation, self.sim.0.began)).await? {
            Answer::Opened(opened, memory) => {
                self.session.set(Some(memory));
                Ok(opened)
            }
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
            .call(Call::Append(
                generation,
                run,
                batch.to_vec(),
                self.session.get(),
            ))
            .await?
        {
            Answer::Told(told) => Ok(told),
            Answer::Opened(..) => unreachable!(),
        }
    }

    async fn settle(&self) -> Result<(), String> {
        self.call(Call::Settle).await.map(drop)
    }

    fn release(&self) {
        self.session.set(None);
    }
}

/// A value that one task gives to another, once.
pub(crate) struct Reply<T>(Rc<RefCell<(Option<T>, Option<Waker>)>>);

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

// The process: tasks in a random order, and a clock that jumps to the next event.

#[derive(Clone)]
pub(crate) struct Sim(Rc<Process>);

pub(crate) struct Process {
    world: Rc<World>,
    began: Duration,
    tasks: RefCell<Vec<Task>>,
    spawned: RefCell<Vec<Pin<Box<dyn Future<Output = ()>>>>>,
    timers: RefCell<BTreeMap<(Duration, u64), Reply<()>>>,
    timer_count: Cell<u64>,
    /// The engine of this lifetime is gone.
    reset: Cell<bool>,
    /// The tasks that are woken when it goes.
    watchers: RefCell<Vec<Waker>>,
    /// The workflow's code has returned.
    is_over: Rc<Cell<bool>>,
}

/// A task, which is absent while it is polled, and whether it was woken.
type Task = (Option<Pin<Box<dyn Future<Output = ()>>>>, Arc<Woken>);

pub(crate) struct Woken(pub(crate) AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Sim {
    fn new(world: &Rc<World>) -> Self {
        Self(Rc::new(Process {
            world: Rc::clone(world),
            began: world.now.get(),
            tasks: RefCell::default(),
            spawned: RefCell::default(),
            timers: RefCell::default(),
            timer_count: Cell::new(0),
            reset: Cell::new(false),
            watchers: RefCell::default(),
            is_over: Rc::default(),
        }))
    }

    fn is_reset(&self) -> bool {
        self.0.reset.get()
    }

    fn reset(&self) {
        self.0.reset.set(true);
        for watcher in self.0.watchers.take() {
            watcher.wake();
        }
    }

    /// Ends the process. The tasks hold it, and it holds the tasks.
    fn stop(&self) {
        let tasks = self.0.tasks.take();
        drop(tasks);
        let spawned = self.0.spawned.take();
        drop(spawned);
        self.0.timers.take();
        self.0.watchers.take();
    }

    fn run<T: 'static>(
        &self,
        main: impl Future<Output = T> + 'static,
        disturbance: Option<(u32, Disturbance)>,
    ) -> (Option<T>, u32) {
        let output = Rc::new(RefCell::new(None));
        let (gives, is_over) = (Rc::clone(&output), Rc::clone(&self.0.is_over));
        self.spawn(async move {
            let value = main.await;
            *gives.borrow_mut() = Some(value);
            is_over.set(true);
        });
        let world = &self.0.world;
        let mut polls = 0;
        loop {
            if let Some(value) = output.borrow_mut().take() {
                self.stop();
                return (Some(value), polls);
            }
            let mut processes = vec![self.clone()];
            processes.extend(world.zombies.borrow().iter().cloned());
            let mut woken = Vec::new();
            for (number, process) in processes.iter().enumerate() {
                let mut tasks = process.0.tasks.borrow_mut();
                for task in process.0.spawned.borrow_mut().drain(..) {
                    tasks.push((Some(task), Arc::new(Woken(AtomicBool::new(true)))));
                }
                let is_woken = |task: &usize| tasks[*task].1.0.load(Ordering::SeqCst);
                woken.extend((0..tasks.len()).filter(is_woken).map(|task| (number, task)));
            }
            if woken.is_empty() {
                if let Some(outside) = world.outside() {
                    outside.at_rest(world);
                }
                world.pass_time(&processes);
                continue;
            }
            let mut disturbance = disturbance
                .filter(|(at, _)| *at == polls)
                .map(|(_, disturbance)| disturbance);
            if let Some(outside) = world.outside() {
                disturbance = disturbance.or(outside.between(world));
            }
            if let Some(disturbance) = disturbance {
                world.say(|| format!("{disturbance:?}"));
            }
            match disturbance {
                Some(Disturbance::Kill) => {
                    self.stop();
                    return (None, polls);
                }
                Some(Disturbance::Pause) => world.engine.pause.set(true),
                Some(Disturbance::Reset) => self.reset(),
                Some(Disturbance::Abandon) => {
                    self.reset();
                    world.is_abandoned.set(true);
                    world.zombies.borrow_mut().push(self.clone());
                    return (None, polls);
                }
                None => {}
            }
            polls += 1;
            assert!(polls < 1_000_000, "the process does not come to rest");
            let (process, task) = woken[world.random(woken.len() as u64) as usize];
            let process = &processes[process];
            process.poll(task);
            if process.0.is_over.get() && !Rc::ptr_eq(&process.0, &self.0) {
                let mut zombies = world.zombies.borrow_mut();
                zombies.retain(|zombie| !Rc::ptr_eq(&zombie.0, &process.0));
                process.stop();
            }
        }
    }

    fn poll(&self, number: usize) {
        let (task, flag) = {
            let mut tasks = self.0.tasks.borrow_mut();
            let Some((task, flag)) = tasks.get_mut(number) else {
                // The process ended in between.
                return;
            };
            flag.0.store(false, Ordering::SeqCst);
            (task.take(), Arc::clone(flag))
        };
        let waker = Waker::from(flag);
        let mut context = Context::from_waker(&waker);
        let Some(mut task) = task else {
            return;
        };
        let is_done = task.as_mut().poll(&mut context).is_ready();
        let mut tasks = self.0.tasks.borrow_mut();
        if is_done {
            tasks.remove(number);
        } else {
            tasks[number].0 = Some(task);
        }
    }

    /// Lets other tasks run first.
    async fn pass(&self) {
        self.sleep(Duration::ZERO).await;
    }
}

impl Runtime for Sim {
    fn now(&self) -> SystemTime {
        self.0.world.wall_clock()
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
        // "the event log failed, trying again in 100 ms: refused"
        assert!(!message.is_empty());
    }
}
