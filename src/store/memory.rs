//! A log in memory.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::SystemTime;

use super::{Appended, Bell, EventStore, Page, PageLimit};
use crate::clock;
use crate::event::{EventId, NewEvent, StoredEvent};
use crate::sync::{Mutex, lock};

/// Keeps every event in memory, for as long as the store lives: for one process, development and
/// tests. Unbounded.
#[derive(Debug, Default)]
pub struct MemoryEventStore {
    log: Mutex<Log>,
    bell: Bell,
}

#[derive(Debug, Default)]
struct Log {
    /// The event with id `n` is at index `n - 1`.
    events: Vec<StoredEvent>,
    keys: HashSet<String>,
    closed: bool,
}

impl MemoryEventStore {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl EventStore for MemoryEventStore {
    type Error = Infallible;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Infallible> {
        let outcomes: Vec<Appended> = {
            let mut log = lock(&self.log);
            let now = log.now();
            batch
                .into_iter()
                .map(|event| log.append(event, now))
                .collect()
        };
        if outcomes
            .iter()
            .any(|outcome| *outcome != Appended::Duplicate)
        {
            self.bell.ring();
        }
        Ok(outcomes)
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Infallible> {
        Ok(lock(&self.log).page(after, limit))
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Infallible> {
        let listener = self.bell.listen();
        if lock(&self.log).head() == after {
            listener.await;
        }
        Ok(())
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Infallible> {
        let log = lock(&self.log);
        let older = log.events.partition_point(|event| event.timestamp < time);
        Ok(log.events[..older].last().map(|event| event.id))
    }
}

impl Log {
    fn now(&self) -> SystemTime {
        let newest = self.events.last().map(|event| event.timestamp);
        newest.map_or_else(clock::now, |newest| clock::now().max(newest))
    }

    fn append(&mut self, event: NewEvent, now: SystemTime) -> Appended {
        if let Some(key) = event.key()
            && !self.keys.insert(key.to_owned())
        {
            return Appended::Duplicate;
        }
        // 2^53 events do not fit into memory.
        let Some(id) = EventId::new(self.events.len() as u64 + 1) else {
            return Appended::Duplicate;
        };
        self.closed = event.is_terminal();
        self.events.push(StoredEvent {
            id,
            event_type: event.event_type().to_owned(),
            data: event.data().to_owned(),
            timestamp: now,
        });
        Appended::Stored(id)
    }

    fn head(&self) -> Option<EventId> {
        self.events.last().map(|event| event.id)
    }

    fn page(&self, after: Option<EventId>, limit: PageLimit) -> Page {
        let start = after.map_or(0, EventId::get);
        let start = usize::try_from(start).map_or(self.events.len(), |n| n.min(self.events.len()));
        let mut bytes = 0;
        let events = self.events[start..]
            .iter()
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
            oldest: self.events.first().map(|event| event.id),
            head: self.head(),
            trimmed: None,
            closed: self.closed,
        }
    }
}
