//! How facts get to the log: in order, in batches, whatever happens on the way.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use serde::{Deserialize, Serialize};

use super::event_step::{Dispatch, Fact, Flush};
use super::step_event::{attempt_failed_key, report_key};
use super::task::TaskId;
use crate::event::NewEvent;

/// Sends facts to a [`FactLog`] in the order they were dispatched, a batch at a time.
///
/// - **In the background**: dispatching never waits. A batch is sent [`DispatchConfig::delay`]
///   after its first fact, or at once before a wait, at the end, and when an attempt ends that
///   failed or reported progress: these put off what follows until the log has answered.
/// - **Few calls**: one when a lifetime of the run begins, which brings the facts that the log
///   has. Those are never sent again, so a replay costs that one call.
/// - **Failures** are logged and retried with back-off. The workflow waits for a log that does not
///   answer once, up to [`DispatchConfig::wait_timeout`], and then no more until it answers; but
///   when the run ends up to [`DispatchConfig::end_timeout`], since nobody would send later what is
///   missing then. What one lifetime could not send, the next one sends.
///
/// Clones share the queue.
pub struct BatchedDispatch<L, R> {
    shared: Rc<Shared<L, R>>,
}

/// Where the facts of a run are kept: one call is one subrequest of the instance.
#[allow(async_fn_in_trait, reason = "workflows live on one thread")]
pub trait FactLog {
    /// Why a call failed.
    type Error: fmt::Display;

    /// The latest run and the facts that the log has of it.
    ///
    /// # Errors
    /// When the log cannot be reached. It is asked again.
    async fn open(&self) -> Result<OpenedRun, Self::Error>;

    /// Stores facts of a run, in order. Facts that are there already are no error.
    ///
    /// # Errors
    /// When it is not known that all were stored. They are sent again.
    async fn append(&self, run: u32, batch: &[NewEvent]) -> Result<(), Self::Error>;

    /// Gives back what is held between calls, before a wait and at the end. Default: nothing is.
    fn release(&self) {}
}

/// A run of an instance: the first, or one that a restart began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedRun {
    /// Its number, from 1.
    pub run: u32,
    /// The keys of the facts that the log has.
    pub facts: Vec<String>,
}

/// The outside world: time, tasks and complaints.
pub trait Runtime {
    /// The time.
    fn now(&self) -> SystemTime;
    /// Resolves after this long.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static;
    /// Runs a task on this thread, besides the workflow.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
    /// Tells the developer.
    fn warn(&self, message: &str);
}

/// When batches are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DispatchConfig {
    /// How long a batch is collected after its first fact. Default: 20 milliseconds.
    pub delay: Duration,
    /// How long a wait, or the end of an attempt, is put off until its facts are stored. Default:
    /// one second; not at all while the log fails.
    pub wait_timeout: Duration,
    /// How long the end of a run is put off until its facts are stored. Default: ten seconds.
    pub end_timeout: Duration,
    /// How long one call may take before it counts as failed. Default: three seconds.
    pub call_timeout: Duration,
}

impl DispatchConfig {
    /// Batches, with the defaults of the fields.
    #[must_use]
    pub const fn batched() -> Self {
        Self {
            delay: Duration::from_millis(20),
            wait_timeout: Duration::from_secs(1),
            end_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(3),
        }
    }

    /// Every fact is sent at once; those dispatched while a call is under way go together in the
    /// next. Otherwise as [`batched`](Self::batched).
    #[must_use]
    pub const fn immediate() -> Self {
        Self {
            delay: Duration::ZERO,
            ..Self::batched()
        }
    }

    /// With another [`delay`](Self::delay).
    #[must_use]
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// With another [`wait_timeout`](Self::wait_timeout).
    #[must_use]
    pub const fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.wait_timeout = timeout;
        self
    }

    /// With another [`call_timeout`](Self::call_timeout).
    #[must_use]
    pub const fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// With another [`end_timeout`](Self::end_timeout).
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
/// Facts that wait for a log that fails: beyond this, reports of progress are left out. The
/// others are bounded by the steps that a run may have.
const QUEUE_LIMIT: usize = 10_000;
/// Facts that are remembered in case the instance turns out to be restarted. A restart is seen
/// at the first step that runs code, so few are needed.
const HISTORY_LIMIT: usize = 2_000;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// A log that fails for hours must not use up the instance's subrequests.
const LAST_BACKOFF: Duration = Duration::from_secs(60);

struct Shared<L, R> {
    log: L,
    runtime: R,
    config: DispatchConfig,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Fact>,
    /// To be sent, or sent and not yet known to be stored.
    outgoing: VecDeque<NewEvent>,
    run: Option<Run>,
    /// How many facts were dispatched, and how many of them are stored or known to be.
    dispatched: u64,
    settled: u64,
    /// A task is sending.
    sending: bool,
    /// The log failed, or was too slow to wait for.
    failing: bool,
    /// The run has ended: nobody waits any more.
    ended: bool,
    /// The workflow waits: nothing is to be held when all is sent.
    waiting: bool,
    hurry: Option<oneshot::Sender<()>>,
    hurried: bool,
    flushes: Vec<(u64, oneshot::Sender<()>)>,
}

struct Run {
    number: u32,
    known: HashSet<String>,
    history: Vec<NewEvent>,
}

impl<L, R> BatchedDispatch<L, R>
where
    L: FactLog + 'static,
    R: Runtime + 'static,
{
    /// Sends facts to this log.
    pub fn new(log: L, runtime: R, config: DispatchConfig) -> Self {
        Self {
            shared: Rc::new(Shared {
                log,
                runtime,
                config,
                state: RefCell::default(),
            }),
        }
    }

    /// The log.
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
        let start = {
            let mut state = self.shared.state.borrow_mut();
            if state.queue.len() >= QUEUE_LIMIT && matches!(fact, Fact::Report { .. }) {
                return;
            }
            state.dispatched += 1;
            // What is learnt of a lifetime while the workflow waits does not end its waiting.
            state.waiting &= matches!(fact, Fact::Doubt | Fact::Alive | Fact::Over);
            state.queue.push_back(fact);
            !std::mem::replace(&mut state.sending, true)
        };
        if start {
            let shared = Rc::clone(&self.shared);
            self.shared
                .runtime
                .spawn(async move { shared.send().await });
        }
    }

    async fn flush(&self, flush: Flush) {
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
            if state.settled == state.dispatched {
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
        if let Either::Right(_) = select(flushed, timeout).await {
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

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.shared.runtime.spawn(task);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        self.shared.runtime.sleep(duration)
    }
}

impl<L: FactLog, R: Runtime> Shared<L, R> {
    /// Sends until nothing is left.
    async fn send(&self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            self.pause(self.config.delay).await;
            match self.send_batch().await {
                Ok(Sent::Some) => backoff = FIRST_BACKOFF,
                Ok(Sent::Nothing) => break,
                Err(error) => {
                    self.log.release();
                    self.state.borrow_mut().failing = true;
                    if self.state.borrow().ended {
                        self.state.borrow_mut().rest();
                        break;
                    }
                    self.runtime.warn(&format!(
                        "the event log failed, trying again in {backoff:?}: {error}"
                    ));
                    self.pause(backoff).await;
                    backoff = (backoff * 2).min(LAST_BACKOFF);
                }
            }
        }
        if self.state.borrow().waiting {
            self.log.release();
        }
    }

    async fn send_batch(&self) -> Result<Sent, String> {
        if self.state.borrow().run.is_none() {
            let opened = self.call(self.log.open()).await?;
            self.state.borrow_mut().run = Some(Run {
                number: opened.run,
                known: opened.facts.into_iter().collect(),
                history: Vec::new(),
            });
        }
        let Some((run, batch)) = self.state.borrow_mut().next_batch() else {
            return Ok(Sent::Nothing);
        };
        self.call(self.log.append(run, &batch)).await?;
        let mut state = self.state.borrow_mut();
        state.outgoing.drain(..batch.len());
        state.failing = false;
        state.settle();
        Ok(Sent::Some)
    }

    /// A call that takes too long has failed, though its facts may have been stored.
    async fn call<T>(&self, call: impl Future<Output = Result<T, L::Error>>) -> Result<T, String> {
        let timeout = pin!(self.runtime.sleep(self.config.call_timeout));
        match select(pin!(call), timeout).await {
            Either::Left((result, _)) => result.map_err(|error| error.to_string()),
            Either::Right(_) => Err(format!("no answer in {:?}", self.config.call_timeout)),
        }
    }

    /// Waits, unless somebody is in a hurry.
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

enum Sent {
    Some,
    Nothing,
}

impl Run {
    /// Puts a fact to those to be sent, unless the log has it.
    fn take(&mut self, event: NewEvent, outgoing: &mut VecDeque<NewEvent>) {
        if self.history.len() < HISTORY_LIMIT {
            self.history.push(event.clone());
        }
        if event
            .key()
            .is_some_and(|key| self.known.insert(key.to_owned()))
        {
            outgoing.push_back(event);
        }
    }

    /// The instance was restarted: what this lifetime told so far belongs to a new run.
    fn restart(&mut self, outgoing: &mut VecDeque<NewEvent>) {
        self.number += 1;
        self.known.clear();
        let unsent = std::mem::take(outgoing);
        for event in std::mem::take(&mut self.history).into_iter().chain(unsent) {
            self.take(event, outgoing);
        }
    }

    /// The try that an attempt belongs to, with the attempts before it that did not fail but were
    /// killed.
    fn try_of(&self, task: &TaskId, attempt: u32) -> u32 {
        let failed = |attempt: &u32| {
            self.known
                .contains(&attempt_failed_key(task.as_str(), *attempt))
        };
        1 + (1..attempt).rev().find(failed).unwrap_or_default()
    }
}

impl State {
    fn hurry(&mut self) {
        self.hurried = true;
        if let Some(hurry) = self.hurry.take() {
            // Nobody is listening if the pause ended by itself.
            let _ = hurry.send(());
        }
    }

    /// What to send next: what was sent last and may not have arrived, else as much of the queue
    /// as the log does not have. With nothing to send, sending is over.
    fn next_batch(&mut self) -> Option<(u32, Vec<NewEvent>)> {
        let run = self.run.as_mut()?;
        while self.outgoing.len() < BATCH_EVENTS
            && let Some(fact) = self.queue.pop_front()
        {
            match fact {
                Fact::Live { ends } => {
                    if ends.iter().any(|end| run.known.contains(end)) {
                        run.restart(&mut self.outgoing);
                    }
                }
                Fact::Doubt | Fact::Alive | Fact::Over => {}
                Fact::Event(event) => run.take(event, &mut self.outgoing),
                Fact::Report {
                    event,
                    task,
                    attempt,
                    number,
                } => {
                    let key = report_key(task.as_str(), run.try_of(&task, attempt), number);
                    // A key of ours is short, so the event stays below its limit.
                    if let Ok(event) = event.with_key(key) {
                        run.take(event, &mut self.outgoing);
                    }
                }
            }
        }
        let number = run.number;
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
        if batch.is_empty() {
            self.rest();
            return None;
        }
        Some((number, batch))
    }

    /// Facts that are neither queued nor on their way are settled, and so are the flushes that
    /// waited for them. A fact on its way may have been joined by those of a restart.
    fn settle(&mut self) {
        if self.outgoing.is_empty() {
            self.settled = self.dispatched - self.queue.len() as u64;
        }
        let settled = self.settled;
        for (_, flushed) in self
            .flushes
            .extract_if(.., |(target, _)| *target <= settled)
        {
            // Whoever waited may have given up.
            let _ = flushed.send(());
        }
    }

    /// Sending is over, until the next fact.
    fn rest(&mut self) {
        self.sending = false;
        self.hurried = false;
    }
}

impl<L, R> Clone for BatchedDispatch<L, R> {
    fn clone(&self) -> Self {
        Self {
            shared: Rc::clone(&self.shared),
        }
    }
}

impl<L, R> fmt::Debug for BatchedDispatch<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.borrow();
        f.debug_struct("BatchedDispatch")
            .field("queued", &state.queue.len())
            .field("outgoing", &state.outgoing.len())
            .field("failing", &state.failing)
            .finish_non_exhaustive()
    }
}
