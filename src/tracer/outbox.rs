//! The queue between code that must not wait and a store that may be slow.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};

use super::config::TracerConfig;
use crate::clock::Sleep;
use crate::delivery::SseTarget;
use crate::event::NewEvent;
use crate::store::EventStore;
use crate::sync::{Mutex, lock};
use crate::task::Redact;

/// The handle that tracers and spans hold. Sending ends after the last one is dropped.
pub(super) struct Handle(pub(super) Arc<Outbox>);

impl Drop for Handle {
    fn drop(&mut self) {
        let sender = {
            let mut state = lock(&self.0.state);
            state.closed = true;
            state.sender.take()
        };
        wake(sender);
    }
}

/// A queue of events to be stored, in order.
///
/// No foreign code runs under the lock: a waker that is cloned, woken or dropped may log, and what
/// it logs may come back here.
pub(super) struct Outbox {
    config: TracerConfig,
    sleep: Sleep,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Events stay here until they are known to be stored.
    queue: VecDeque<NewEvent>,
    bytes: usize,
    pushed: u64,
    stored: u64,
    left_out: u64,
    closed: bool,
    /// Set while something waits for a flush, so that no time is spent collecting a batch.
    hurried: bool,
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    sender: Option<Waker>,
}

/// The most bytes that may wait, whatever the capacity.
const MAX_BYTES: usize = 16 << 20;
/// The most events of one append.
const BATCH_EVENTS: usize = 500;
const BATCH_BYTES: usize = 512 * 1024;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(60);

impl Outbox {
    pub(super) fn redact(&self) -> Option<Redact> {
        self.config.dispatch.redact
    }

    pub(super) fn new(config: TracerConfig, sleep: Sleep) -> Self {
        Self {
            config,
            sleep,
            state: Mutex::default(),
        }
    }

    /// Adds an event. Returns false if there is no room, and drops the event.
    pub(super) fn push_if_there_is_room(&self, event: NewEvent) -> bool {
        let sender = {
            let mut state = lock(&self.state);
            if state.queue.len() >= self.config.capacity || state.bytes >= MAX_BYTES {
                state.left_out += 1;
                return false;
            }
            state.push(event)
        };
        wake(sender);
        true
    }

    /// Adds an event even beyond the capacity. Used for the ends of spans: there are at most as
    /// many as spans under way.
    pub(super) fn push(&self, event: NewEvent) {
        let sender = lock(&self.state).push(event);
        wake(sender);
    }

    pub(super) fn left_out(&self) -> u64 {
        lock(&self.state).left_out
    }

    pub(super) async fn flush(&self) -> bool {
        let (flushed, sender) = {
            let mut state = lock(&self.state);
            if state.stored == state.pushed {
                return true;
            }
            let (reached, flushed) = oneshot::channel();
            let target = state.pushed;
            state.flushes.push((target, reached));
            state.hurried = true;
            (flushed, state.sender.take())
        };
        wake(sender);
        let timeout = (self.sleep)(self.config.dispatch.end_timeout);
        // An error means that the sending future was dropped, and the events with it.
        matches!(select(flushed, timeout).await, Either::Left((Ok(()), _)))
    }

    /// Waits for events. Returns false when there are none and no handle is left to add one.
    async fn has_events(&self) -> bool {
        self.until(|state| match (state.queue.is_empty(), state.closed) {
            (false, _) => Some(true),
            (true, true) => Some(false),
            (true, false) => None,
        })
        .await
    }

    /// Waits for the configured delay so that a batch collects, unless a flush waits.
    async fn collect(&self) {
        if self.config.dispatch.delay.is_zero() {
            return;
        }
        let in_a_hurry = self.until(|state| (state.hurried || state.closed).then_some(()));
        select(pin!(in_a_hurry), (self.sleep)(self.config.dispatch.delay)).await;
    }

    /// Resolves to the first value that `find` returns for the state.
    async fn until<T>(&self, find: impl Fn(&State) -> Option<T>) -> T {
        poll_fn(|context| {
            let waker = context.waker().clone();
            let mut state = lock(&self.state);
            if let Some(found) = find(&state) {
                return Poll::Ready(found);
            }
            let earlier = state.sender.replace(waker);
            drop(state);
            drop(earlier);
            Poll::Pending
        })
        .await
    }

    fn batch(&self) -> Vec<NewEvent> {
        let mut state = lock(&self.state);
        state.hurried = false;
        let mut bytes = 0;
        let events = state.queue.iter().take(BATCH_EVENTS);
        let fitting = events.take_while(|event| {
            let first = bytes == 0;
            bytes += event.size();
            first || bytes <= BATCH_BYTES
        });
        fitting.cloned().collect()
    }

    fn stored(&self, events: usize) {
        let reached: Vec<_> = {
            let mut state = lock(&self.state);
            let bytes: usize = state.queue.drain(..events).map(|event| event.size()).sum();
            state.bytes -= bytes;
            state.stored += events as u64;
            let stored = state.stored;
            let flushes = &mut state.flushes;
            let reached = flushes.extract_if(.., |(target, _)| *target <= stored);
            let reached = reached.collect();
            state.hurried = !state.flushes.is_empty();
            reached
        };
        for (_, flushed) in reached {
            // Fails if the flush has timed out; that is fine.
            let _ = flushed.send(());
        }
    }

    fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }
}

impl State {
    /// Adds an event. Returns the waker to [`wake`] once the lock is released.
    fn push(&mut self, event: NewEvent) -> Option<Waker> {
        self.bytes += event.size();
        self.queue.push_back(event);
        self.pushed += 1;
        self.sender.take()
    }
}

/// Wakes the sender. Nothing its waker logs is sent.
fn wake(sender: Option<Waker>) {
    let Some(sender) = sender else { return };
    #[cfg(feature = "tracing")]
    crate::tracer::layer::quiet(|| sender.wake());
    #[cfg(not(feature = "tracing"))]
    sender.wake();
}

/// Sends until all handles are dropped and nothing is left. Gives up on a store that keeps failing
/// once no handle is left.
pub(super) async fn send<S: EventStore>(outbox: Arc<Outbox>, target: SseTarget<(), S>) {
    let mut backoff = FIRST_BACKOFF;
    while outbox.has_events().await {
        outbox.collect().await;
        let batch = outbox.batch();
        let events = batch.len();
        let timeout = (outbox.sleep)(outbox.config.dispatch.call_timeout);
        // Events have keys, so sending them again is harmless.
        match select(pin!(target.store().append(batch)), timeout).await {
            Either::Left((Ok(outcomes), _)) => {
                target.observing().appended(&outcomes);
                outbox.stored(events);
                backoff = FIRST_BACKOFF;
                continue;
            }
            Either::Left((Err(error), _)) => (outbox.config.on_error)(&error),
            Either::Right(_) => (outbox.config.on_error)(&NoAnswer),
        }
        if outbox.is_closed() && backoff == LAST_BACKOFF {
            return;
        }
        (outbox.sleep)(backoff).await;
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}

#[derive(Debug)]
struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the event store did not answer in time")
    }
}

impl std::error::Error for NoAnswer {}
