//! A log in memory.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::bell::Bell;
use super::frames::{FramePage, Frames};
use super::tail::{Piece, Tail, Watch};
use super::{Appended, EventStore, Page, PageLimit, Retention, Watched};
use crate::clock::Clock;
use crate::event::{EventId, NewEvent, StoredEvent};
use crate::sync::{Mutex, MutexGuard, lock};
use crate::wire;

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
/// While somebody has a [`Subscription`](crate::delivery::Subscription), the newest events are there as the bytes of
/// the wire, too, which all viewers share: at most 2 MiB in all, or the newest batch if that is larger, which is kept as a whole.
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
    log: Arc<Mutex<Log>>,
    /// Outside the lock: the clock may be any code, and may use this store.
    clock: Clock,
    bell: Bell,
    audience: Mutex<Weak<Audience>>,
    /// Whether events are removed by their age, so that readers ask for the time.
    ages: bool,
    /// Whether the events' ids are not on the wire.
    is_unnumbered: bool,
}

/// The readers of a log. Each holds a handle to the same value.
#[derive(Debug)]
struct Audience(Arc<Mutex<Log>>);

impl Watched for Audience {}

/// Frees the frames when the last reader has left.
impl Drop for Audience {
    fn drop(&mut self) {
        let mut log = lock(&self.0);
        log.audiences -= 1;
        if log.audiences == 0 {
            log.tail = Tail::default();
        }
    }
}

impl MemoryEventStore {
    /// Creates an empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an empty log whose frames have no ids.
    pub(super) fn unnumbered() -> Self {
        Self {
            is_unnumbered: true,
            ..Self::default()
        }
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
    pub fn max_age(mut self, age: Duration) -> Self {
        self.ages = true;
        lock(&self.log).retention.age = Some(age);
        self
    }

    /// Sets both limits: see [`max_events`](Self::max_events) and [`max_age`](Self::max_age).
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.ages = retention.age.is_some();
        lock(&self.log).retention = retention;
        self
    }

    /// Replaces the machine's clock, so that tests need not wait.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Clock::new(clock);
        self
    }

    /// Locks the log for a reader, without what is too old.
    fn read_log(&self) -> MutexGuard<'_, Log> {
        let now = self.ages.then(|| self.clock.now());
        let mut log = lock(&self.log);
        if let Some(now) = now {
            log.expire(now);
        }
        log
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
        let outcomes = lock(&self.log).append(batch, now, !self.is_unnumbered);
        if outcomes
            .iter()
            .any(|outcome| *outcome != Appended::Duplicate)
        {
            self.bell.ring();
        }
        Ok(outcomes)
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Infallible> {
        Ok(self.read_log().page(after, limit))
    }

    async fn read_encoded(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<Bytes>, Infallible> {
        let mut log = self.read_log();
        Ok(log.page_of_frames(after, limit, !self.is_unnumbered))
    }

    async fn ends(&self, _after: Option<EventId>) -> Result<Page<()>, Infallible> {
        Ok(self.read_log().ends())
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Infallible> {
        let listener = self.bell.listen();
        if lock(&self.log).head() == after {
            listener.await;
        }
        Ok(())
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Infallible> {
        Ok(self.read_log().before(time))
    }

    fn watch(&self) -> Watch {
        let mut watched = lock(&self.audience);
        let audience = watched.upgrade().unwrap_or_else(|| {
            lock(&self.log).audiences += 1;
            let audience = Arc::new(Audience(Arc::clone(&self.log)));
            *watched = Arc::downgrade(&audience);
            audience
        });
        Watch::new(audience)
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
    tail: Tail<Bytes>,
    /// The values of [`Audience`] that are there: more than one only while the last reader leaves and another comes.
    audiences: usize,
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
            tail: Tail::default(),
            audiences: 0,
        }
    }
}

impl Log {
    fn append(&mut self, batch: Vec<NewEvent>, now: SystemTime, numbered: bool) -> Vec<Appended> {
        let now = self.expire(now);
        let before = self.head();
        let outcomes = batch
            .into_iter()
            .map(|event| self.push(event, now))
            .collect();
        if self.audiences > 0 {
            self.encode_after(before, numbered);
        }
        // After the whole batch, so that a repeated key within it is noticed.
        while self.events.len() > self.retention.most() {
            self.remove_oldest();
        }
        outcomes
    }

    fn push(&mut self, event: NewEvent, now: SystemTime) -> Appended {
        let (event_type, data, key, terminal) = event.into_parts();
        let key: Option<Arc<str>> = key.map(Arc::from);
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
                event_type,
                data,
                timestamp: now,
            },
            key,
            terminal,
        });
        Appended::Stored(id)
    }

    fn head(&self) -> Option<EventId> {
        EventId::new(self.removed + self.events.len() as u64)
    }

    /// Encodes the events after this position for those who watch, once for all of them.
    fn encode_after(&mut self, after: Option<EventId>, numbered: bool) {
        let (mut bytes, mut size, mut events) = (Vec::new(), 0, 0);
        for event in self.after(after) {
            wire::encode_if_numbered(event, numbered, &mut bytes);
            size += event.data.len() as u64;
            events += 1;
        }
        if let Some(last) = self.head()
            && events > 0
        {
            let length = bytes.len();
            self.tail.push(Piece {
                after: after.map_or(0, EventId::get),
                last,
                events,
                size,
                bytes: bytes.into(),
                length,
            });
        }
    }

    fn after(&self, after: Option<EventId>) -> impl Iterator<Item = &StoredEvent> {
        let start = after.map_or(0, |after| after.get().saturating_sub(self.removed));
        let start = usize::try_from(start).map_or(self.events.len(), |n| n.min(self.events.len()));
        self.events.range(start..).map(|entry| &entry.event)
    }

    fn of_page(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> impl Iterator<Item = &StoredEvent> {
        let mut bytes = 0;
        self.after(after)
            .take(limit.events)
            .take_while(move |event| {
                let first = bytes == 0;
                bytes += event.data.len().max(1);
                first || bytes <= limit.bytes
            })
    }

    fn page(&self, after: Option<EventId>, limit: PageLimit) -> Page {
        let events = self.of_page(after, limit).cloned().collect();
        self.ends().with(events)
    }

    fn page_of_frames(
        &mut self,
        after: Option<EventId>,
        limit: PageLimit,
        numbered: bool,
    ) -> FramePage<Bytes> {
        let ends = self.ends();
        if ends.head <= after || ends.oldest.is_none() {
            return ends.with(None);
        }
        let start = after.map_or(0, EventId::get).max(self.removed);
        if let Some(frames) = self.tail.page(start, limit) {
            return ends.with(Some(frames));
        }
        let (mut bytes, mut last) = (Vec::new(), None);
        for event in self.of_page(after, limit) {
            wire::encode_if_numbered(event, numbered, &mut bytes);
            last = Some(event.id);
        }
        let bytes = Bytes::from(bytes);
        let frames = last.map(|last| Frames { bytes, last });
        if let Some(frames) = &frames
            && self.audiences > 0
        {
            self.tail.remember(start, limit, frames);
        }
        ends.with(frames)
    }

    fn ends(&self) -> Page<()> {
        Page {
            events: (),
            oldest: self.events.front().map(|entry| entry.event.id),
            head: self.head(),
            trimmed: EventId::new(self.removed),
            closed: self.events.back().is_some_and(|entry| entry.terminal),
        }
    }

    fn before(&self, time: SystemTime) -> Option<EventId> {
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
