//! Sends facts to the log: in order, in batches, and again after failures.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, pending};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::Runtime;
use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Either, LocalBoxFuture, abortable, select};
use serde::{Deserialize, Serialize};

use super::event_step::{Asked, Dispatch, Fact, Flush};
use crate::clock::SteadyClock;
use crate::event::NewEvent;
use crate::task::{Numbers, Redact, TaskId, attempt_failed_key, report_key, split_report_key};

/// Sends facts to a [`FactLog`] in the order they were dispatched, a batch at a time.
///
/// - **In the background**: dispatching never waits. A batch is sent [`DispatchConfig::delay`]
///   after its first fact. It is sent at once before a wait, at the end, and when an attempt ends
///   that failed or reported progress; each of these is delayed until the log has answered.
/// - **Few calls**: one call opens the log when a lifetime of the run begins, and returns the facts
///   that the log has. Those are never sent again, so a replay costs that one call.
/// - **Failures** are logged and retried with back-off. While the log does not answer, the workflow
///   waits for it once, up to [`DispatchConfig::wait_timeout`], and not again until it answers. The
///   end of the run waits up to [`DispatchConfig::end_timeout`], since nothing would send later
///   what is missing then. Facts that one lifetime could not send are sent by the next one.
/// - **Restarts**: the facts of the lifetime are remembered, up to 16 MiB of them and 2 MiB of
///   reports. If the lifetime turns out to belong to another run than the one that was opened, all
///   of them are sent to that run.
/// - **An ended run**: a lifetime that opens an ended run sends nothing that the log does not know
///   until the engine proves that the run goes on: it calls a step's code, or does not answer a
///   wait for 5 seconds. Then the next run begins.
/// - **Two lifetimes at once**: where the log has heard of another lifetime that may be newer, nothing that the
///   log does not know is sent until the engine has answered a call which was made after that one had begun.
///   A lifetime that is told to be over before the log has stored anything of it opens the log again then.
/// - **Reports** may come faster than they are sent: of each attempt at most 64 wait, and then each
///   new one replaces the newest that waits.
///
/// Clones share the queue.
pub struct BatchedDispatch<L, R: Runtime> {
    shared: Rc<Shared<L, R>>,
}

impl<L, R: Runtime> Drop for BatchedDispatch<L, R> {
    fn drop(&mut self) {
        self.shared.stop_if_given_up();
    }
}

/// Stores the facts of a run. One call is one subrequest of the instance.
#[allow(async_fn_in_trait, reason = "workflows live on one thread")]
pub trait FactLog {
    /// The error of a failed call.
    type Error: fmt::Display;

    /// Opens the log for a lifetime of the instance. `generation` is `None` the first time. To
    /// learn later what became of the log since, it is opened again with the generation that it
    /// returned.
    ///
    /// # Errors
    /// When the log cannot be reached. The call is repeated.
    async fn open(&self, generation: Option<u64>) -> Result<Opened, Self::Error>;

    /// Stores facts of a run, in order. Facts that are there already are no error. Facts of a
    /// lifetime that is over, or of an earlier run, are not stored, and the answer is
    /// [`Told::Stale`].
    ///
    /// # Errors
    /// When it is not known that all were stored. They are sent again.
    async fn append(
        &self,
        generation: u64,
        run: u32,
        batch: &[NewEvent],
    ) -> Result<Told, Self::Error>;

    /// Notifies the log that a lifetime has ended without saying how the run goes on, so that the
    /// log asks the platform whether the run is over. Default: does nothing.
    ///
    /// # Errors
    /// When the log cannot be reached. The call is repeated.
    async fn settle(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Releases what is held between calls. Called before a wait and at the end. Default: does
    /// nothing.
    fn release(&self) {}
}

/// The result of opening a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Opened {
    /// The latest run.
    Run(OpenedRun),
    /// The instance is being restarted. Open the log again soon.
    Restarting,
    /// The lifetime is over: a later one has begun, or somebody who was taken for that.
    Over,
}

impl Opened {
    /// Returns whether the lifetime that opened the log goes on, so that it will tell how it ends.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        *self != Self::Over
    }
}

/// A run of an instance: the first, or one that a restart began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedRun {
    /// The number of the lifetime that opened it, greater than those of all before.
    pub generation: u64,
    /// The run's number, from 1.
    pub run: u32,
    /// Whether the run has ended.
    pub ended: bool,
    /// The keys of the facts that the log has. Of the reports of a try of a step it has only the
    /// key with the greatest number.
    pub facts: Vec<String>,
    /// Other lifetimes from which the log has heard, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rivals: Option<Rivals>,
}

/// When other lifetimes of an instance opened its log, so that the one that opens it now knows whether it can be
/// older. Their clocks are not compared: only the log's own clock says how long ago it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rivals {
    /// The time of the log, in milliseconds since 1970. It only makes more exact what was in between being asked
    /// and the answer.
    pub now: u64,
    /// How many milliseconds ago the log was opened by the latest of those from which it has facts; or something
    /// else happened to the instance which no lifetime from before takes part in.
    pub opened: u64,
    /// How many milliseconds ago the run began, if the log knows that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<u64>,
}

/// The result of sending facts to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The log has the facts. The number counts those that were new.
    Stored(usize),
    /// The facts are of a lifetime that is over or of an earlier run, and were not stored.
    Stale,
}

/// Configures when batches are sent and how long the workflow waits for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DispatchConfig {
    /// How long a batch is collected after its first fact. Default: 20 milliseconds.
    pub delay: Duration,
    /// How long a wait, or the end of an attempt, is delayed until its facts are stored. Default:
    /// one second; no delay while the log fails.
    pub wait_timeout: Duration,
    /// How long the end of a run is delayed until its facts are stored. Default: ten seconds.
    pub end_timeout: Duration,
    /// How long one call may take before it counts as failed. Default: three seconds.
    pub call_timeout: Duration,
    /// What is done to errors, messages and attributes before they are stored or sent. Default:
    /// nothing.
    pub redact: Option<Redact>,
    /// How many reports (`progress`) of one attempt are taken; a warning says when further ones are not.
    /// A bound on what a loop can make a run's log grow by. Default: 100,000.
    pub max_reports: u32,
}

impl DispatchConfig {
    /// Sends in batches, with the defaults of the fields.
    #[must_use]
    pub const fn batched() -> Self {
        Self {
            delay: Duration::from_millis(20),
            wait_timeout: Duration::from_secs(1),
            end_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(3),
            redact: None,
            max_reports: 100_000,
        }
    }

    /// Sends every fact at once; those dispatched during a call go together in the next. Otherwise
    /// as [`batched`](Self::batched).
    #[must_use]
    pub const fn immediate() -> Self {
        Self {
            delay: Duration::ZERO,
            ..Self::batched()
        }
    }

    /// Sets [`delay`](Self::delay).
    #[must_use]
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sets [`wait_timeout`](Self::wait_timeout).
    #[must_use]
    pub const fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.wait_timeout = timeout;
        self
    }

    /// Sets [`call_timeout`](Self::call_timeout).
    #[must_use]
    pub const fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets [`redact`](Self::redact): a rule of your own, or [`Redact::SECRETS`].
    ///
    /// ```
    /// # use ssetarget::{task::Redact, workflow::DispatchConfig};
    /// const CONFIG: DispatchConfig = DispatchConfig::batched().redact(Redact::SECRETS);
    /// ```
    #[must_use]
    pub const fn redact(mut self, rule: Redact) -> Self {
        self.redact = Some(rule);
        self
    }

    /// Sets [`max_reports`](Self::max_reports).
    #[must_use]
    pub const fn max_reports(mut self, reports: u32) -> Self {
        self.max_reports = reports;
        self
    }

    /// Sets [`end_timeout`](Self::end_timeout).
    #[must_use]
    pub const fn end_timeout(mut self, timeout: Duration) -> Self {
        self.end_timeout = timeout;
        self
    }
}

impl Default for DispatchConfig {
    fn default() -> Self {
        Self::batched()
    }
}

/// The most facts and bytes of one call. Quotes double the bytes on the way into SQLite, where a
/// parameter may have 2 MB.
const BATCH_EVENTS: usize = 500;
const BATCH_BYTES: usize = 512 * 1024;
/// The most reports of one attempt that wait to be sent.
const QUEUED_REPORTS: u32 = 64;
/// The most bytes of facts remembered in case they turn out to belong to another run. The platform
/// allows 25,000 steps, which are about 50,000 facts of 350 bytes.
const HISTORY_BYTES: usize = 16 * 1024 * 1024;
/// The most bytes of reports remembered.
const HISTORY_REPORT_BYTES: usize = 2 * 1024 * 1024;
/// The first pause before the log is opened again while the instance is being restarted.
const RESTARTING_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_RESTARTING_PAUSE: Duration = Duration::from_secs(1);
/// How often in a row a log may answer [`Told::Stale`] before that counts as a failure.
const STALE_AT_ONCE: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest back-off: a log that fails for hours must not use up the instance's subrequests.
const LAST_BACKOFF: Duration = Duration::from_secs(60);

struct Shared<L, R> {
    log: L,
    runtime: R,
    config: DispatchConfig,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    queue: Queue,
    /// Facts to be sent, or sent and not yet known to be stored.
    outgoing: VecDeque<NewEvent>,
    run: Option<Run>,
    /// The log has changed since it was opened, and must be opened again.
    stale: bool,
    /// The number of facts dispatched, and of those that are stored or known to be.
    dispatched: u64,
    settled: u64,
    /// Whether a task is sending.
    sending: bool,
    /// The latest of these tasks.
    task: Option<AbortHandle>,
    /// Set while the log fails or is too slow to wait for.
    failing: bool,
    /// The instance is being restarted, and the log waits for that.
    restarting: bool,
    /// The lifetime has ended, and nothing waits for the log any more.
    ended: bool,
    clock: SteadyClock,
    /// The latest moment in which the engine was asked for something that it answered; at first, the beginning.
    alive_at: Duration,
    /// The latest moment in which another lifetime may have begun. This one is contested unless the engine
    /// answered something that it was asked later.
    rival_at: Option<Duration>,
    /// The latest moment in which this lifetime looked lost.
    lost_at: Option<Duration>,
    /// Waiting until this lifetime is contested.
    contests: Vec<oneshot::Sender<()>>,
    /// This lifetime looks lost, and a later one may have begun.
    lost: bool,
    /// A later lifetime has begun. This one sends nothing more.
    over: bool,
    /// The workflow waits, so the log is released once everything is sent.
    waiting: bool,
    /// The end of the run was dispatched.
    terminal: bool,
    /// This lifetime has ended, with the end of the run. Nobody else may know what it still has to tell.
    has_last_words: bool,
    /// The lifetime has ended without the end of the run: the log must be notified by
    /// [`FactLog::settle`].
    unsettled: bool,
    hurry: Option<oneshot::Sender<()>>,
    hurried: bool,
    flushes: Vec<(u64, oneshot::Sender<()>)>,
}

/// What was dispatched and not yet compared with the log.
#[derive(Default)]
struct Queue {
    entries: VecDeque<Queued>,
    /// The number of reports here, by [attempt](attempt_of).
    reports: Numbers,
}

enum Queued {
    Fact(Fact),
    /// The engine has proved that this lifetime is the latest.
    Latest,
    /// This lifetime has ended.
    End,
}

struct Run {
    generation: u64,
    number: u32,
    known: Known,
    history: History,
    /// The run had ended when this lifetime opened it, and nothing has shown yet that it was
    /// restarted.
    had_ended: bool,
    /// Whether facts that the log does not know are held.
    holds: bool,
    /// Another lifetime may be the latest, so these facts are held in any case.
    contested: bool,
    /// If this lifetime is the latest, the instance was restarted.
    restarts: bool,
    /// The log has stored facts of this lifetime. Those that open it after that know this one, and are heard only
    /// if they are later.
    heard: bool,
    /// The log listens to another lifetime.
    displaced: bool,
    /// When the run may have begun, if that is known.
    begun_at: Option<Duration>,
    /// Some of the history is held.
    has_held: bool,
}

/// The facts that the log has, or will have once the outgoing ones are stored.
#[derive(Default)]
struct Known {
    /// The keys, each with 0, but for those of reports.
    keys: Numbers,
    /// The greatest number of a report, by the part of the key before the number.
    reports: Numbers,
}

/// What this lifetime has dispatched, in order.
#[derive(Default)]
struct History {
    facts: VecDeque<Remembered>,
    bytes: usize,
    report_bytes: usize,
    /// The number of reports here, by [attempt](attempt_of).
    reports: Numbers,
}

#[derive(Clone)]
struct Remembered {
    event: NewEvent,
    /// Task, attempt and number of a report, whose key depends on what else the log has.
    report: Option<(TaskId, u32, u32)>,
    held: bool,
}

impl<L, R> BatchedDispatch<L, R>
where
    L: FactLog + 'static,
    R: Runtime + 'static,
{
    /// Returns a dispatch that sends facts to `log`, with the timers and tasks of `runtime`.
    pub fn new(log: L, runtime: R, config: DispatchConfig) -> Self {
        let mut state = State::default();
        state.alive_at = state.clock.tick(runtime.now());
        Self {
            shared: Rc::new(Shared {
                log,
                runtime,
                config,
                state: RefCell::new(state),
            }),
        }
    }

    /// Returns the log.
    #[must_use]
    pub fn log(&self) -> &L {
        &self.shared.log
    }
}

impl<L, R> Dispatch for BatchedDispatch<L, R>
where
    L: FactLog + 'static,
    R: Runtime + 'static,
{
    fn now(&self) -> SystemTime {
        self.shared.runtime.now()
    }

    fn dispatch(&self, fact: Fact) {
        let most = self.shared.config.max_reports;
        if let Fact::Report { task, number, .. } = &fact
            && *number > most
        {
            if *number == most.saturating_add(1) {
                self.shared.runtime.warn(&format!(
                    "{task} has reported {most} times in one attempt, and further reports are not stored: \
                     report less often, for example when the percentage changes"
                ));
            }
            return;
        }
        {
            let mut state = self.shared.state.borrow_mut();
            // Facts about the lifetime itself, learnt during a wait, do not end the wait.
            state.waiting &= matches!(fact, Fact::Doubt | Fact::Lost | Fact::Alive | Fact::Over);
            match &fact {
                Fact::Lost => {
                    state.lost = true;
                    state.lost_at = Some(state.clock.tick(self.shared.runtime.now()));
                }
                Fact::Alive => state.lost = false,
                _ => {}
            }
            if let Fact::Event(event) = &fact {
                state.terminal |= event.is_terminal();
            }
        }
        self.push(Queued::Fact(fact));
    }

    async fn flush(&self, flush: Flush) {
        if flush == Flush::End {
            {
                let mut state = self.shared.state.borrow_mut();
                state.has_last_words = state.terminal;
            }
            self.push(Queued::End);
        }
        self.flushed(flush).await;
    }

    fn asked(&self) -> Asked {
        let now = self.shared.runtime.now();
        Asked(self.shared.state.borrow_mut().clock.tick(now))
    }

    fn answered(&self, asked: Asked) {
        if self.shared.state.borrow_mut().is_proved(asked) {
            self.push(Queued::Latest);
        }
    }

    fn contested(&self) -> impl Future<Output = ()> + 'static {
        let shared = Rc::clone(&self.shared);
        async move {
            let contested = {
                let mut state = shared.state.borrow_mut();
                if state.is_contested() && !state.over {
                    return;
                }
                let (sender, contested) = oneshot::channel();
                state.contests.retain(|contest| !contest.is_canceled());
                state.contests.push(sender);
                contested
            };
            drop(shared);
            // The sender is dropped with the lifetime.
            if contested.await.is_err() {
                pending().await
            }
        }
    }

    fn redact(&self) -> Option<Redact> {
        self.shared.config.redact
    }

    fn dropped(&self) {
        self.shared.stop_if_given_up();
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.shared.runtime.spawn(task);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        self.shared.runtime.sleep(duration)
    }
}

impl<L, R> BatchedDispatch<L, R>
where
    L: FactLog + 'static,
    R: Runtime + 'static,
{
    fn push(&self, queued: Queued) {
        let start = {
            let mut state = self.shared.state.borrow_mut();
            if state.over {
                return;
            }
            state.queue.push(queued);
            state.dispatched += 1;
            !std::mem::replace(&mut state.sending, true)
        };
        if start {
            let shared = Rc::clone(&self.shared);
            let (task, handle) = abortable(async move { shared.send().await });
            self.shared.state.borrow_mut().task = Some(handle);
            self.shared.runtime.spawn(task.map(drop));
        }
    }

    async fn flushed(&self, flush: Flush) {
        let (flushed, timeout) = {
            let mut state = self.shared.state.borrow_mut();
            state.waiting |= !matches!(flush, Flush::AttemptEnd { .. });
            let config = self.shared.config;
            let timeout = match flush {
                Flush::End => config.end_timeout,
                _ if state.failing => return,
                Flush::BeforeWait => config.wait_timeout,
                Flush::AttemptEnd { at_most } => config.wait_timeout.min(at_most),
            };
            if !state.has_more() {
                let release = state.waiting && !state.sending;
                drop(state);
                if release {
                    self.shared.log.release();
                }
                return;
            }
            state.hurry();
            let (sender, flushed) = oneshot::channel();
            let target = state.dispatched;
            state.flushes.push((target, sender));
            (flushed, timeout)
        };
        let timeout = pin!(self.shared.runtime.sleep(timeout));
        let timed_out = matches!(select(flushed, timeout).await, Either::Right(_));
        if timed_out && !self.shared.state.borrow().restarting {
            self.shared.state.borrow_mut().failing = true;
            self.shared.runtime.warn(match flush {
                Flush::End => "the event log did not take the last events of this run",
                _ => "the event log is slow; the workflow goes on",
            });
        }
        if flush == Flush::End {
            self.shared.state.borrow_mut().ended = true;
        }
    }
}

impl<L, R: Runtime> Shared<L, R> {
    /// A lifetime that is given up leaves no task that waits for the log.
    fn stop_if_given_up(&self) {
        if self.runtime.is_given_up()
            && let Ok(mut state) = self.state.try_borrow_mut()
            && let Some(task) = state.task.take()
        {
            task.abort();
        }
    }
}

impl<L: FactLog, R: Runtime> Shared<L, R> {
    /// Sends until nothing is left.
    async fn send(&self) {
        let mut backoff = FIRST_BACKOFF;
        let mut restarting_pause = RESTARTING_PAUSE;
        let mut stale = 0;
        loop {
            // The workflow may have waited for the last facts, and its end takes the timers of its request with it. What
            // slept then would never wake, and keep this memory.
            if self.state.borrow().has_more() {
                self.pause(self.config.delay).await;
            }
            let error = match self.send_batch().await {
                Ok(Sent::Some) => {
                    backoff = FIRST_BACKOFF;
                    stale = 0;
                    continue;
                }
                Ok(Sent::Nothing) => break,
                Ok(Sent::Restarting) => {
                    self.log.release();
                    // Not cut short by a flush: the log cannot answer sooner.
                    self.runtime.sleep(restarting_pause).await;
                    restarting_pause = (restarting_pause * 2).min(LONGEST_RESTARTING_PAUSE);
                    continue;
                }
                Ok(Sent::Stale) if stale < STALE_AT_ONCE => {
                    stale += 1;
                    continue;
                }
                Ok(Sent::Stale) => "the run keeps changing".to_owned(),
                Err(error) => error,
            };
            self.log.release();
            self.state.borrow_mut().failing = true;
            if self.state.borrow().ended {
                self.state.borrow_mut().rest();
                break;
            }
            self.runtime.warn(&format!(
                "the event log failed, trying again in {} ms: {error}",
                milliseconds(backoff)
            ));
            self.pause(backoff).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
        if self.state.borrow().waiting {
            self.log.release();
        }
    }

    async fn send_batch(&self) -> Result<Sent, String> {
        let to_open = self.state.borrow().to_open();
        if let Some(generation) = to_open {
            if generation.is_some() && self.state.borrow_mut().yields() {
                return Ok(Sent::Nothing);
            }
            let asked = self.now();
            let opened = self.call(self.log.open(generation)).await?;
            let answered = self.now();
            let mut state = self.state.borrow_mut();
            state.failing = false;
            state.restarting = opened == Opened::Restarting;
            match opened {
                Opened::Run(opened) => state.opened(opened, asked, answered),
                Opened::Restarting => return Ok(Sent::Restarting),
                Opened::Over if state.may_return(generation) => state.displace(answered),
                Opened::Over => {
                    state.give_up();
                    return Ok(Sent::Nothing);
                }
            }
        }
        let batch = self.state.borrow_mut().next_batch();
        let Some((generation, run, batch)) = batch else {
            return self.settle().await;
        };
        let told = self.call(self.log.append(generation, run, &batch)).await;
        if told.is_err() {
            // The object may have lost its memory, and with it what it knew of this lifetime's opening the log.
            let mut state = self.state.borrow_mut();
            state.stale |= state.run.as_ref().is_some_and(|run| !run.heard);
        }
        let told = told?;
        let mut state = self.state.borrow_mut();
        state.failing = false;
        if told == Told::Stale {
            state.stale = true;
            return Ok(Sent::Stale);
        }
        for _ in 0..batch.len() {
            state.outgoing.pop_front();
        }
        if let Some(run) = &mut state.run {
            run.heard = true;
        }
        state.settle();
        Ok(Sent::Some)
    }

    fn now(&self) -> Duration {
        self.state.borrow_mut().clock.tick(self.runtime.now())
    }

    /// Called when everything is sent. At the end of a lifetime it notifies the log if the run's
    /// end is not known.
    async fn settle(&self) -> Result<Sent, String> {
        if self.state.borrow().unsettled {
            self.call(self.log.settle()).await?;
            let mut state = self.state.borrow_mut();
            state.failing = false;
            state.unsettled = false;
            state.settle();
        }
        let mut state = self.state.borrow_mut();
        // More may have been dispatched during the call.
        if state.queue.entries.is_empty() {
            state.rest();
            return Ok(Sent::Nothing);
        }
        Ok(Sent::Some)
    }

    /// Limits a call to `call_timeout`. A call that takes longer counts as failed, though its facts
    /// may have been stored.
    async fn call<T>(&self, call: impl Future<Output = Result<T, L::Error>>) -> Result<T, String> {
        let mut result = None;
        let answered = self.within(Box::pin(async { result = Some(call.await) }));
        match answered.await.then_some(result).flatten() {
            Some(result) => result.map_err(|error| error.to_string()),
            None => Err(format!(
                "no answer in {} ms",
                milliseconds(self.config.call_timeout)
            )),
        }
    }

    /// Waits until a call is over, at most `call_timeout`, and returns whether it is. Boxed, and the same for all
    /// calls, so that it is compiled once.
    fn within<'a>(&'a self, call: LocalBoxFuture<'a, ()>) -> LocalBoxFuture<'a, bool> {
        Box::pin(async move {
            let timeout = pin!(self.runtime.sleep(self.config.call_timeout));
            matches!(select(call, timeout).await, Either::Left(_))
        })
    }

    /// Waits for `duration`, or until a flush asks to hurry.
    async fn pause(&self, duration: Duration) {
        let hurried = {
            let mut state = self.state.borrow_mut();
            if std::mem::take(&mut state.hurried) {
                return;
            }
            let (sender, hurried) = oneshot::channel();
            state.hurry = Some(sender);
            hurried
        };
        select(hurried, pin!(self.runtime.sleep(duration))).await;
        let mut state = self.state.borrow_mut();
        state.hurry = None;
        state.hurried = false;
    }
}

/// For messages: writing a `Duration` would be code for its fractions.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

enum Sent {
    Some,
    Nothing,
    /// The instance is being restarted; try again soon.
    Restarting,
    /// The log must be opened again.
    Stale,
}

impl State {
    fn hurry(&mut self) {
        self.hurried = true;
        if let Some(hurry) = self.hurry.take() {
            // Fails if the pause has ended by itself; that is fine.
            let _ = hurry.send(());
        }
    }

    /// Whether something was dispatched that is neither stored nor known to be.
    fn has_more(&self) -> bool {
        self.settled != self.dispatched
    }

    /// Returns the generation to open the log with, or `None` if it is open.
    fn to_open(&self) -> Option<Option<u64>> {
        match &self.run {
            None => Some(None),
            Some(run) if run.displaced => {
                (self.has_last_words || !self.is_contested()).then_some(None)
            }
            Some(run) => self.stale.then_some(Some(run.generation)),
        }
    }

    /// Returns whether another lifetime may be the latest.
    fn is_contested(&self) -> bool {
        self.rival_at.is_some_and(|rival| self.alive_at <= rival)
    }

    /// Takes an answer of the engine. Returns whether it proves that this lifetime is the latest, and nothing did before.
    fn is_proved(&mut self, asked: Asked) -> bool {
        let was_contested = self.is_contested();
        self.alive_at = self.alive_at.max(asked.0);
        was_contested && !self.is_contested()
    }

    /// Takes note that another lifetime may have begun at that moment.
    fn meet(&mut self, rival_at: Option<Duration>) {
        self.rival_at = self.rival_at.max(rival_at);
        if self.is_contested() {
            for contest in self.contests.drain(..) {
                // Fails if the step has ended meanwhile; that is fine.
                let _ = contest.send(());
            }
        }
    }

    /// Returns whether this lifetime, which is told to be over, may yet prove to be the latest. Not if it is told so
    /// when it opens the log for the first time: then the log was deleted.
    fn may_return(&self, generation: Option<u64>) -> bool {
        generation.is_some() && self.run.as_ref().is_some_and(|run| !run.heard)
    }

    /// Called when the log listens to another lifetime, which knew nothing of this one and may be older. Then the
    /// engine of this one proves it.
    fn displace(&mut self, now: Duration) {
        self.stale = false;
        self.unsettled = false;
        self.meet(Some(now));
        if let Some(run) = &mut self.run {
            run.displaced = true;
            run.contested = true;
        }
    }

    /// Returns whether the log is not to be opened again: somebody else has told it something, which is probably a
    /// later lifetime, because this one looks lost. Opening the log would end that one.
    fn yields(&mut self) -> bool {
        if self.lost {
            match self.queue.has_over() {
                true => self.give_up(),
                // Until it is known whether it is lost.
                false => self.rest(),
            }
        }
        self.lost
    }

    /// Takes the answer to an opening of the log, the first or a later one, which was `asked` for and `answered`
    /// then. Facts of this lifetime that the log does not have are sent.
    fn opened(&mut self, opened: OpenedRun, asked: Duration, answered: Duration) {
        self.stale = false;
        let known = Known::from_iter(opened.facts);
        let mut begun_at = None;
        if let Some(rivals) = opened.rivals {
            let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(rivals.now));
            let now = time.map_or(answered, |time| self.clock.at(time));
            let now = now.clamp(asked, answered);
            let ago = |milliseconds| now.saturating_sub(Duration::from_millis(milliseconds));
            let is_known = !self.clock.was_set_back_since(self.alive_at);
            begun_at = rivals.begun.map(ago);
            self.meet(Some(match is_known {
                true => ago(rivals.opened),
                false => answered,
            }));
        }
        if self.lost {
            self.meet(self.lost_at);
        }
        let contested = self.is_contested();
        let Some(mut run) = self.run.take() else {
            self.run = Some(Run {
                generation: opened.generation,
                number: opened.run,
                known,
                history: History::default(),
                had_ended: opened.ended,
                holds: opened.ended,
                contested,
                restarts: false,
                heard: false,
                displaced: false,
                begun_at,
                has_held: false,
            });
            return;
        };
        run.generation = opened.generation;
        run.displaced = false;
        // Until the proof is taken from the queue, what was before it is held.
        run.contested |= contested;
        run.begun_at = match opened.run > run.number {
            true => Some(answered),
            false => begun_at.or(run.begun_at),
        };
        let has_ended = self.has_last_words && !self.queue.has_end();
        if has_ended {
            run.contested &= !self.may_insist(&run);
        }
        match opened.run < run.number {
            // The engine has proved that this lifetime is of the next run, of which the log has
            // nothing yet. Whatever others have added to the run before does not change that.
            true => run.begin_again(opened.run + 1, Known::default(), &mut self.outgoing),
            // If the run has ended since, that does not mean another run: what comes after its end
            // is dropped.
            false => run.begin_again(opened.run, known, &mut self.outgoing),
        }
        if has_ended {
            match run.contested {
                true => run.drop_held(),
                false => run.release(&mut self.outgoing),
            }
        }
        self.run = Some(run);
    }

    /// Returns whether a contested lifetime that has ended with the end of the run may tell it. All of its calls
    /// were answered, so what it tells is true of its run, which must be the log's.
    fn may_insist(&self, run: &Run) -> bool {
        let is_of_this_run = run.begun_at.is_none_or(|begun| begun < self.alive_at);
        self.has_last_words && !self.lost && !run.restarts && !run.displaced && is_of_this_run
    }

    /// Returns the next batch: what was sent last and may not have arrived, then as much of the
    /// queue as the log does not have. `None` if there is nothing to send or no run is open.
    fn next_batch(&mut self) -> Option<(u64, u32, Vec<NewEvent>)> {
        let may_insist = self.run.as_ref().is_some_and(|run| self.may_insist(run));
        let is_contested = self.is_contested();
        let run = self.run.as_mut()?;
        while (run.displaced || self.outgoing.len() < BATCH_EVENTS)
            && let Some(queued) = self.queue.pop()
        {
            match queued {
                Queued::Fact(Fact::Over) => {
                    run.drop_held();
                    self.terminal = false;
                }
                Queued::Fact(fact) => run.take_fact(fact, &mut self.outgoing),
                Queued::Latest if is_contested => {}
                Queued::Latest => run.is_latest(&mut self.outgoing),
                Queued::End if run.had_ended => run.drop_held(),
                Queued::End => {
                    // What is sure has to follow what is not.
                    if run.contested && (run.restarts || !may_insist) {
                        run.drop_held();
                        self.terminal = false;
                        self.has_last_words = false;
                    } else {
                        run.contested = false;
                        run.release(&mut self.outgoing);
                    }
                    self.unsettled = !self.terminal && !run.displaced;
                }
            }
        }
        if run.displaced {
            self.settle();
            return None;
        }
        let (generation, number) = (run.generation, run.number);
        self.settle();
        let mut bytes = 0;
        let batch: Vec<NewEvent> = self
            .outgoing
            .iter()
            .take(BATCH_EVENTS)
            .take_while(|event| {
                let first = bytes == 0;
                bytes += event.size();
                first || bytes <= BATCH_BYTES
            })
            .cloned()
            .collect();
        (!batch.is_empty()).then_some((generation, number, batch))
    }

    /// Settles the facts once nothing is outgoing, and completes the flushes that waited for them.
    /// Outgoing facts are not counted one by one, since a restart may have added to them.
    fn settle(&mut self) {
        let is_displaced = self.run.as_ref().is_some_and(|run| run.displaced);
        if self.outgoing.is_empty() || is_displaced {
            let left = self.queue.entries.len() as u64 + u64::from(self.unsettled);
            self.settled = self.dispatched - left;
        }
        let settled = self.settled;
        for (_, flushed) in self
            .flushes
            .extract_if(.., |(target, _)| *target <= settled)
        {
            // Fails if the flush has timed out; that is fine.
            let _ = flushed.send(());
        }
    }

    /// Drops everything: this lifetime is over, and the log takes nothing more from it.
    fn give_up(&mut self) {
        self.over = true;
        self.queue = Queue::default();
        self.outgoing.clear();
        self.run = None;
        self.unsettled = false;
        self.settle();
        self.rest();
    }

    /// Records that sending has stopped, until the next fact.
    fn rest(&mut self) {
        self.sending = false;
        self.hurried = false;
    }
}

impl Queue {
    /// Adds an entry. If too many reports of an attempt wait, the newest that waits is replaced.
    fn push(&mut self, queued: Queued) {
        if let Some((task, attempt)) = report_of(&queued) {
            let count = self.reports.of(attempt_of(task, attempt));
            if *count < QUEUED_REPORTS {
                *count += 1;
            } else {
                let of_attempt = |other: &Queued| report_of(other) == Some((task, attempt));
                // Searched from the end, where the report usually is.
                let before = self.entries.iter().rposition(of_attempt);
                before.and_then(|before| self.entries.remove(before));
            }
        }
        self.entries.push_back(queued);
    }

    fn has_over(&self) -> bool {
        let is_over = |queued: &Queued| matches!(queued, Queued::Fact(Fact::Over));
        self.entries.iter().any(is_over)
    }

    fn has_end(&self) -> bool {
        let is_end = |queued: &Queued| matches!(queued, Queued::End);
        self.entries.iter().any(is_end)
    }

    fn pop(&mut self) -> Option<Queued> {
        let queued = self.entries.pop_front()?;
        if let Some((task, attempt)) = report_of(&queued) {
            self.reports.take_one(&attempt_of(task, attempt));
        }
        Some(queued)
    }
}

fn report_of(queued: &Queued) -> Option<(&TaskId, u32)> {
    match queued {
        Queued::Fact(Fact::Report { task, attempt, .. }) => Some((task, *attempt)),
        _ => None,
    }
}

/// Returns a name for the attempt of a task.
fn attempt_of(task: &TaskId, attempt: u32) -> String {
    format!("{attempt} {task}")
}

impl Run {
    fn take_fact(&mut self, fact: Fact, outgoing: &mut VecDeque<NewEvent>) {
        match fact {
            Fact::Event(event) => self.remember(event, None, outgoing),
            Fact::Report {
                event,
                task,
                attempt,
                number,
            } => self.remember(event, Some((task, attempt, number)), outgoing),
            Fact::Live { ends } => {
                let had_ended = ends.iter().any(|end| self.known.keys.get(end).is_some());
                self.goes_on(had_ended || self.had_ended, outgoing);
            }
            Fact::Alive => self.goes_on(self.had_ended, outgoing),
            Fact::Doubt => self.holds = true,
            Fact::Lost | Fact::Over => {}
        }
    }

    /// The engine has proved that the run goes on, and perhaps that it is not the one that the log has.
    fn goes_on(&mut self, is_restarted: bool, outgoing: &mut VecDeque<NewEvent>) {
        match (self.contested, is_restarted) {
            // Another lifetime may have told the end of what this one ran: then it is no other run.
            (true, _) => self.restarts |= is_restarted,
            (false, true) => self.restart(outgoing),
            (false, false) => {}
        }
        self.release(outgoing);
    }

    /// The engine has proved that this lifetime is the latest. So what it ran although the log knew its end, it ran
    /// in another run.
    fn is_latest(&mut self, outgoing: &mut VecDeque<NewEvent>) {
        self.contested = false;
        if std::mem::take(&mut self.restarts) {
            self.restart(outgoing);
        }
        if !self.holds {
            self.release(outgoing);
        }
    }

    /// Adds a fact to the outgoing ones, unless the log has it or it is held.
    fn remember(
        &mut self,
        event: NewEvent,
        report: Option<(TaskId, u32, u32)>,
        outgoing: &mut VecDeque<NewEvent>,
    ) {
        let mut remembered = Remembered {
            event,
            report,
            held: false,
        };
        remembered.held = (self.holds || self.contested) && !self.is_known(&remembered);
        self.has_held |= remembered.held;
        if !remembered.held
            && let Some(event) = self.take(&remembered)
        {
            outgoing.push_back(event);
        }
        self.history.push(remembered);
    }

    /// Returns the fact with its key and marks it as known, or `None` if the log has it already.
    fn take(&mut self, remembered: &Remembered) -> Option<NewEvent> {
        let Some((task, attempt, number)) = &remembered.report else {
            let is_new = remembered
                .event
                .key()
                .is_some_and(|key| self.known.insert(key));
            return is_new.then(|| remembered.event.clone());
        };
        let key = report_key(task.as_str(), self.try_of(task, *attempt), *number);
        if !self.known.insert(&key) {
            return None;
        }
        // Our keys are short, so the event stays below its size limit.
        remembered.event.clone().with_key(key).ok()
    }

    fn is_known(&self, remembered: &Remembered) -> bool {
        match &remembered.report {
            None => remembered.event.key().is_none_or(|key| self.known.has(key)),
            Some((task, attempt, number)) => {
                let key = report_key(task.as_str(), self.try_of(task, *attempt), *number);
                self.known.has(&key)
            }
        }
    }

    /// Sends the held facts, since the run goes on. Not yet, if another lifetime may be the latest.
    fn release(&mut self, outgoing: &mut VecDeque<NewEvent>) {
        self.holds = false;
        if !self.contested && std::mem::take(&mut self.has_held) {
            let mut history = std::mem::take(&mut self.history);
            for remembered in history
                .facts
                .iter_mut()
                .filter(|remembered| remembered.held)
            {
                remembered.held = false;
                if let Some(event) = self.take(remembered) {
                    outgoing.push_back(event);
                }
            }
            self.history = history;
        }
    }

    fn drop_held(&mut self) {
        self.history.drop_held();
        self.has_held = false;
    }

    /// Moves everything that this lifetime dispatched so far to a new run, since the instance was
    /// restarted.
    fn restart(&mut self, outgoing: &mut VecDeque<NewEvent>) {
        self.had_ended = false;
        self.holds = false;
        self.has_held = false;
        for remembered in &mut self.history.facts {
            remembered.held = false;
        }
        self.begin_again(self.number + 1, Known::default(), outgoing);
    }

    /// Sends everything that this lifetime dispatched again, except what the log has. While another lifetime may be
    /// the latest, it is held.
    fn begin_again(&mut self, number: u32, known: Known, outgoing: &mut VecDeque<NewEvent>) {
        self.number = number;
        self.known = known;
        let unsent = std::mem::take(outgoing);
        let mut history = std::mem::take(&mut self.history);
        for remembered in history
            .facts
            .iter_mut()
            .filter(|remembered| !remembered.held)
        {
            if self.contested {
                remembered.held = !self.is_known(remembered);
                self.has_held |= remembered.held;
            } else {
                if let Some(event) = self.take(remembered) {
                    outgoing.push_back(event);
                }
            }
        }
        self.history = history;
        // Facts that did not fit into the history.
        for event in unsent {
            if self.contested {
                self.remember(event, None, outgoing);
            } else if event.key().is_some_and(|key| self.known.insert(key)) {
                outgoing.push_back(event);
            }
        }
    }

    /// Returns the try that an attempt belongs to: attempts before it that were killed, and did not
    /// fail, belong to the same try.
    fn try_of(&self, task: &TaskId, attempt: u32) -> u32 {
        let failed = |attempt: &u32| self.known.has(&attempt_failed_key(task.as_str(), *attempt));
        1 + (1..attempt).rev().find(failed).unwrap_or_default()
    }
}

impl Known {
    /// Returns whether the log has this key. A report with a smaller number than one that the log
    /// has counts as known: it is there, or was replaced by that one.
    fn has(&self, key: &str) -> bool {
        match split_report_key(key) {
            None => self.keys.get(key).is_some(),
            Some((of_try, number)) => {
                let greatest = self.reports.get(of_try);
                greatest.is_some_and(|greatest| number <= greatest)
            }
        }
    }

    /// Adds a key. Returns whether it is new.
    fn insert(&mut self, key: &str) -> bool {
        if self.has(key) {
            return false;
        }
        match split_report_key(key) {
            None => _ = self.keys.of(key.to_owned()),
            Some((of_try, number)) => *self.reports.of(of_try.to_owned()) = number,
        }
        true
    }
}

impl FromIterator<String> for Known {
    fn from_iter<I: IntoIterator<Item = String>>(keys: I) -> Self {
        let mut known = Self::default();
        for key in keys {
            match split_report_key(&key) {
                None => _ = known.keys.of(key),
                Some(_) => _ = known.insert(&key),
            }
        }
        known
    }
}

impl History {
    fn push(&mut self, remembered: Remembered) {
        let size = remembered.event.size();
        match &remembered.report {
            None if !remembered.held && self.bytes + size > HISTORY_BYTES => return,
            None => self.bytes += size,
            Some((task, attempt, _)) => {
                let of = attempt_of(task, *attempt);
                if self.reports.get(&of) >= Some(QUEUED_REPORTS) {
                    self.remove_newest_report(task, *attempt);
                }
                if !remembered.held && self.report_bytes + size > HISTORY_REPORT_BYTES {
                    return;
                }
                self.report_bytes += size;
                *self.reports.of(of) += 1;
            }
        }
        self.facts.push_back(remembered);
    }

    fn remove_newest_report(&mut self, task: &TaskId, attempt: u32) {
        let is_of = |remembered: &Remembered| {
            let report = remembered.report.as_ref();
            report.is_some_and(|(of, number, _)| of == task && *number == attempt)
        };
        if let Some(remembered) = self
            .facts
            .iter()
            .rposition(is_of)
            .and_then(|newest| self.facts.remove(newest))
        {
            self.report_bytes -= remembered.event.size();
            self.reports.take_one(&attempt_of(task, attempt));
        }
    }

    fn drop_held(&mut self) {
        self.facts.retain(|remembered| !remembered.held);
    }
}

impl<L, R: Runtime> Clone for BatchedDispatch<L, R> {
    fn clone(&self) -> Self {
        Self {
            shared: Rc::clone(&self.shared),
        }
    }
}

impl<L, R: Runtime> fmt::Debug for BatchedDispatch<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.borrow();
        f.debug_struct("BatchedDispatch")
            .field("queued", &state.queue.entries.len())
            .field("outgoing", &state.outgoing.len())
            .field("failing", &state.failing)
            .finish_non_exhaustive()
    }
}
