//! A log in memory.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::bell::Bell;
use super::{Appended, EventStore, Page, PageLimit, Retention};
use crate::clock::Clock;
use crate::event::{EventId, NewEvent, StoredEvent};
use crate::sync::{Mutex, lock};

/// Keeps events in memory, for as long as the store lives: for one process, development and
/// tests.
///
/// Unlimited by default. [`max_events`](Self::max_events) and [`max_age`](Self::max_age) bound it,
/// alone or together: an event that passes either limit is removed. A subscriber at a position that
/// was removed gets a [`Reset`](crate::event::Reset) and goes on with the oldest event kept.
///
/// A key is remembered as long as its event is kept, so that memory stays bounded: a fact that
/// comes again after its event was removed is stored again. A log whose terminal event was removed
/// is not closed.
///
/// ```
/// # use std::time::Duration;
/// use ssetarget::MemoryEventStore;
///
/// // What RxJS calls `new ReplaySubject(1000, 3600_000)`.
/// let store = MemoryEventStore::new()
///     .max_events(1000)
///     .max_age(Duration::from_secs(3600));
/// ```
#[derive(Debug, Default)]
pub struct MemoryEventStore {
    log: Mutex<Log>,
    /// Outside the lock: the clock may be any code, and may use this store.
    clock: Clock,
    bell: Bell,
}

impl MemoryEventStore {
    /// Creates an empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the newest `events` events, at least 1. Default: unlimited.
    #[must_use]
    pub fn max_events(self, events: usize) -> Self {
        lock(&self.log).retention.events = Some(events);
        self
    }

    /// Removes events once they are older than `age`, in whole milliseconds. Default: never.
    ///
    /// There is no timer: events are removed by the next call that reads or appends. Readers never
    /// get one that is too old, but an idle store keeps its memory.
    #[must_use]
    pub fn max_age(self, age: Duration) -> Self {
        lock(&self.log).retention.age = Some(age);
        self
    }

    /// Sets both limits: see [`max_events`](Self::max_events) and [`max_age`](Self::max_age).
    #[must_use]
    pub fn retention(self, retention: Retention) -> Self {
        lock(&self.log).retention = retention;
        self
    }

    /// Replaces the machine's clock, so that tests need not wait.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Clock::new(clock);
        self
    }

    /// Removes the events up to and including this one, for example after a snapshot of them was
    /// stored.
    pub fn trim(&self, last: EventId) {
        lock(&self.log).trim(last);
    }

    /// Removes all events with their keys, for example on request. Their ids are not assigned
    /// again, and a subscriber that has not read them all is reset. Does nothing to a log that has
    /// no events.
    pub fn clear(&self) {
        let mut log = lock(&self.log);
        if let Some(head) = log.head() {
            log.trim(head);
        }
    }
}

impl EventStore for MemoryEventStore {
    type Error = Infallible;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Infallible> {
        let now = self.clock.now();
        let outcomes = lock(&self.log).append(batch, now);
        if outcomes
            .iter()
            .any(|outcome| *outcome != Appended::Duplicate)
        {
            self.bell.ring();
        }
        Ok(outcomes)
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Infallible> {
        let now = self.clock.now();
        Ok(lock(&self.log).page(after, limit, now))
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Infallible> {
        let listener = self.bell.listen();
        if lock(&self.log).head() == after {
            listener.await;
        }
        Ok(())
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Infallible> {
        let now = self.clock.now();
        Ok(lock(&self.log).before(time, now))
    }
}

#[derive(Debug)]
struct Log {
    /// The event with id `n` is at index `n - removed - 1`.
    events: VecDeque<Entry>,
    removed: u64,
    keys: HashSet<Arc<str>>,
    /// When the last event was stored, even if it was removed since.
    newest: SystemTime,
    retention: Retention,
}

#[derive(Debug)]
struct Entry {
    event: StoredEvent,
    key: Option<Arc<str>>,
    terminal: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            events: VecDeque::new(),
            removed: 0,
            keys: HashSet::new(),
            newest: SystemTime::UNIX_EPOCH,
            retention: Retention::for_ever(),
        }
    }
}

impl Log {
    fn append(&mut self, batch: Vec<NewEvent>, now: SystemTime) -> Vec<Appended> {
        let now = self.expire(now);
        let outcomes = batch
            .into_iter()
            .map(|event| self.push(&event, now))
            .collect();
        // After the whole batch, so that a repeated key within it is noticed.
        while self.events.len() > self.retention.most() {
            self.remove_oldest();
        }
        outcomes
    }

    fn push(&mut self, event: &NewEvent, now: SystemTime) -> Appended {
        let key: Option<Arc<str>> = event.key().map(Arc::from);
        if let Some(key) = &key
            && !self.keys.insert(Arc::clone(key))
        {
            return Appended::Duplicate;
        }
        // No process stores 2^53 events.
        let Some(id) = EventId::new(self.removed + self.events.len() as u64 + 1) else {
            return Appended::Duplicate;
        };
        self.newest = now;
        self.events.push_back(Entry {
            event: StoredEvent {
                id,
                event_type: event.event_type().to_owned(),
                data: event.data().to_owned(),
                timestamp: now,
            },
            key,
            terminal: event.is_terminal(),
        });
        Appended::Stored(id)
    }

    fn head(&self) -> Option<EventId> {
        EventId::new(self.removed + self.events.len() as u64)
    }

    fn page(&mut self, after: Option<EventId>, limit: PageLimit, now: SystemTime) -> Page {
        self.expire(now);
        let start = after.map_or(0, |after| after.get().saturating_sub(self.removed));
        let start = usize::try_from(start).map_or(self.events.len(), |n| n.min(self.events.len()));
        let mut bytes = 0;
        let events = self
            .events
            .range(start..)
            .map(|entry| &entry.event)
            .take(limit.events)
            .take_while(|event| {
                let first = bytes == 0;
                bytes += event.data.len().max(1);
                first || bytes <= limit.bytes
            })
            .cloned()
            .collect();
        Page {
            events,
            oldest: self.events.front().map(|entry| entry.event.id),
            head: self.head(),
            trimmed: EventId::new(self.removed),
            closed: self.events.back().is_some_and(|entry| entry.terminal),
        }
    }

    fn before(&mut self, time: SystemTime, now: SystemTime) -> Option<EventId> {
        self.expire(now);
        let is_older = |entry: &Entry| entry.event.timestamp < time;
        match self.events.partition_point(is_older) as u64 {
            0 => None,
            older => EventId::new(self.removed + older),
        }
    }

    /// Removes events that are too old and returns the time, which never decreases.
    fn expire(&mut self, now: SystemTime) -> SystemTime {
        let now = now.max(self.newest);
        if let Some(age) = self.retention.age {
            while let Some(oldest) = self.events.front()
                && let Some(end) = oldest.event.timestamp.checked_add(age)
                && end <= now
            {
                self.remove_oldest();
            }
        }
        now
    }

    fn trim(&mut self, last: EventId) {
        while let Some(oldest) = self.events.front()
            && oldest.event.id <= last
        {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        let Some(oldest) = self.events.pop_front() else {
            return;
        };
        self.removed = oldest.event.id.get();
        if let Some(key) = oldest.key {
            self.keys.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{OnceLock, Weak, mpsc};
    use std::thread;

    use futures_executor::block_on;

    use super::*;

    #[test]
    fn a_durable_object_may_hold_it() {
        fn is_unwind_safe<T: std::panic::UnwindSafe + std::panic::RefUnwindSafe>() {}
        is_unwind_safe::<MemoryEventStore>();
    }

    #[test]
    fn a_clock_may_use_the_store() {
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let store: Arc<OnceLock<Weak<MemoryEventStore>>> = Arc::default();
            let of_clock = Arc::clone(&store);
            let clocked = MemoryEventStore::new().with_clock(move || {
                if let Some(store) = of_clock.get().and_then(Weak::upgrade) {
                    store.trim(EventId::new(1).unwrap());
                }
                SystemTime::now()
            });
            let clocked = Arc::new(clocked.max_age(Duration::from_secs(3600)));
            store.set(Arc::downgrade(&clocked)).unwrap();
            let event = || NewEvent::new("event", "").unwrap();
            block_on(clocked.append(vec![event(), event()])).unwrap();
            block_on(clocked.before(SystemTime::now())).unwrap();
            let page = block_on(clocked.read(None, PageLimit::default())).unwrap();
            done.send(page.events.len()).unwrap();
        });
        let ended = is_done.recv_timeout(Duration::from_secs(20));
        assert_eq!(
            ended,
            Ok(1),
            "the clock waits for the store that waits for it"
        );
    }
}
