//! A log that keeps nothing.

use std::convert::Infallible;
use std::time::SystemTime;

use super::memory::MemoryEventStore;
use super::{Appended, EventStore, Page, PageLimit};
use crate::event::{EventId, NewEvent};

/// Stores nothing for later: a subscriber gets the events that are dispatched while it is
/// connected, and they have no `id:`. For events that are worthless a second later, such as cursors
/// or meters, where replay would only cost memory.
///
/// - **In transit.** The newest 1,024 events stay in a ring for connected subscribers that are
///   still busy with earlier ones; see [`ring_size`](Self::ring_size). A subscriber that falls
///   behind by more than that gets a [`Reset`](crate::event::Reset), `event: reset` on the wire,
///   and goes on with the oldest event in the ring: it knows that it missed some. An event has at
///   most [`NewEvent::MAX_SIZE`], so the ring has at most as many MiB as events.
/// - **Reconnects.** A client starts at the end of the log, whatever position it asks for. It misses
///   the events that were dispatched while it was away, and does not learn how many.
/// - **Keys.** A store that remembers no events knows no facts. Keys are ignored: every event is
///   delivered, even if its key was there before.
/// - **Ends.** A terminal event ends the streams that are connected when it comes. Their clients
///   come back, as after any break, and wait for the next event, as later clients do. No client is
///   answered `204`, since the store cannot know what it has seen.
///
/// ```
/// # use ssetarget::{Batch, Cursor, NewEvent, NullEventStore, SseTarget};
/// # futures_executor::block_on(async {
/// let target = SseTarget::new(NullEventStore::new());
/// target.dispatch_encoded(vec![NewEvent::new("moved", "1")?]).await?;
///
/// let mut viewer = target.subscribe(Cursor::Beginning).await?;
/// target.dispatch_encoded(vec![NewEvent::new("moved", "2")?]).await?;
/// let Some(Batch::Events(events)) = viewer.next().await? else { panic!("an event came") };
/// assert_eq!(events.len(), 1);
/// assert_eq!(events[0].data, "2");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct NullEventStore {
    ring: MemoryEventStore,
}

impl NullEventStore {
    /// Creates a store with a ring of 1,024 events.
    #[must_use]
    pub fn new() -> Self {
        Self {
            ring: MemoryEventStore::new().max_events(1024),
        }
    }

    /// Sets the size of the ring in events, at least 1. Default: 1,024.
    ///
    /// The events that are dispatched while one page travels to a client should fit, or that client
    /// is reset again and again.
    #[must_use]
    pub fn ring_size(self, events: usize) -> Self {
        Self {
            ring: self.ring.max_events(events),
        }
    }
}

impl Default for NullEventStore {
    fn default() -> Self {
        Self::new()
    }
}

impl EventStore for NullEventStore {
    type Error = Infallible;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Infallible> {
        let batch = batch.into_iter().map(NewEvent::without_key).collect();
        self.ring.append(batch).await
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Infallible> {
        let mut page = self.ring.read(after, limit).await?;
        // The end reaches connected subscribers only: it is not a state that later ones find.
        page.closed &= !page.events.is_empty();
        Ok(page)
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Infallible> {
        self.ring.changed(after).await
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Infallible> {
        self.ring.before(time).await
    }

    fn is_resumable(&self) -> bool {
        false
    }
}
