//! Append-only logs: the [`EventStore`] promise and the stores that keep it.
//!
//! | store | what it keeps, and for how long | who shares it |
//! |---|---|---|
//! | [`MemoryEventStore`] | everything, or the newest by count and age, as long as the process lives | one process |
//! | [`NullEventStore`] | only events in transit to connected subscribers | one process |
//! | [`SqliteEventStore`] | everything, or the newest by count and age, in a Durable Object's storage, or in a file (feature `rusqlite`: `SqliteEventStore::open`) | one object or process |
//! | `redis::RedisEventStore` (feature `redis`) | everything, or the newest by count and age | any number of servers and Workers |
//! | [`RelayStore`] | the newest frames of a remote log | the viewers of one place |
//! | a store of your own | see [`EventStore`] and `contract` | |

use std::future::Future;
use std::time::SystemTime;

use bytes::Bytes;

use crate::event::{EventId, NewEvent, StoredEvent};
use crate::sync::{MaybeSend, MaybeSync};

mod bell;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod flights;
mod frames;
mod memory;
mod null;
#[cfg(feature = "redis")]
pub mod redis;
mod relay;
mod retention;
mod sqlite;
mod tail;

pub use bell::{Bell, Listener};
pub use frames::{FrameBytes, FramePage, FrameStore, Frames};
pub use memory::MemoryEventStore;
pub use null::NullEventStore;
pub use relay::{RelayError, RelayStore};
pub use retention::Retention;
pub use sqlite::{Sql, SqlRow, SqlValue, SqliteError, SqliteEventStore};
#[cfg(all(feature = "rusqlite", not(target_family = "wasm")))]
pub use sqlite::{SqliteFile, SqliteFileError};
pub(crate) use sqlite::{Statement, integer, number};
pub use tail::Watch;
use tail::Watched;

/// An append-only log of events.
///
/// The promise, which `store::contract` checks (feature `contract`):
///
/// - **Order.** `append` gives each event an id greater than all ids before it, in the order of
///   the batch. Once `read` has returned an event, no event with a smaller id appears later:
///   subscribers only read forward and would never see it.
/// - **Atomicity.** A batch is stored whole or not at all, and readers see it whole or not at all.
/// - **Facts.** Of events with the same [`key`](NewEvent::key) the log keeps the first; appending
///   a further one stores nothing, takes no id and wakes nobody.
/// - **Durability.** When `append` returns `Ok`, what it stored is as durable as the store gets,
///   and `read` returns it. When it returns `Err`, the batch may or may not have been stored:
///   append it again (with keys, that is harmless).
/// - **Time.** Each event is stamped by the store's clock, to the millisecond, and never earlier
///   than the event before it, even if the clock was set back. Events of a batch have one time.
/// - **Retention.** A store may remove events, the oldest first, and may then forget their keys. Their ids are never
///   assigned again, and the head stays where it was.
/// - **Honesty.** A [`Page`] has the ids that the log still knows, so that a subscriber whose
///   position is gone is reset and does not wait for ever.
/// - **Wake-ups.** Once an append is visible, [`changed`](Self::changed) resolves for every caller
///   that waits at a position before it, in whichever processes the store serves. A [`Bell`] does
///   that within one.
///
/// Methods take `&self` and may be called concurrently, from several threads on native targets.
/// Dropping a returned future must leave the store usable; an append dropped half-way may or may
/// not take place.
///
/// # A store of your own
///
/// A store has four methods, and the suite of `store::contract` checks them. The crate's
/// `examples/own_store.rs` is a store over SQLite in about 70 lines, to learn from; for another
/// SQLite binding, [`SqliteEventStore`] over an [`Sql`] is shorter still. The usual mistakes:
///
/// - **Look after you listen.** A `changed` that looks at the head, finds nothing and only then
///   begins to listen misses the append in between, and a viewer waits for ever. See [`Bell`].
/// - **Ids in order of visibility.** A database that gives out ids first and commits later (a
///   sequence, an auto-increment under concurrent transactions) shows 8 before 7, and a subscriber
///   that has read 8 never sees 7. Let one transaction at a time append.
/// - **The head outlives its event.** If retention can remove the newest event, keep its id elsewhere. Otherwise the
///   next event gets an id that viewers are already past.
/// - **Nothing half-done.** A future may be dropped at any `await`: the code between two of them
///   should leave the log consistent.
pub trait EventStore: MaybeSend + MaybeSync {
    /// The error of the storage.
    type Error: std::error::Error + MaybeSend + MaybeSync + 'static;

    /// Appends the events of `batch` in order and returns the outcome for each.
    ///
    /// # Errors
    /// When the storage fails: see "Durability" above.
    fn append(
        &self,
        batch: Vec<NewEvent>,
    ) -> impl Future<Output = Result<Vec<Appended>, Self::Error>> + MaybeSend;

    /// Returns the events after `after` (all, if `None`), oldest first, up to `limit`. Does not
    /// wait: the page is empty exactly if nothing follows.
    ///
    /// Events and [`Page`] fields are one consistent view of the log.
    ///
    /// # Errors
    /// When the storage fails.
    fn read(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> impl Future<Output = Result<Page, Self::Error>> + MaybeSend;

    /// Returns the page that [`read`](Self::read) returns as the bytes of the wire: those of
    /// [`wire::encode`](crate::wire::encode), or of
    /// [`wire::encode_unnumbered`](crate::wire::encode_unnumbered) where the log is not
    /// [resumable](Self::is_resumable). The streams of `http` and of [`body`](crate::delivery::body) read it.
    ///
    /// The page may have fewer events than `read` would return, but has at least one if that has one.
    /// Default: reads the page and encodes it, for each caller anew. A store with many viewers
    /// shares the bytes between those at the same position.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_encoded(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> impl Future<Output = Result<FramePage<Bytes>, Self::Error>> + MaybeSend {
        async move {
            let page = self.read(after, limit).await?;
            Ok(frames::encoded(&page, self.is_resumable()))
        }
    }

    /// Returns the ends of the log as [`read`](Self::read) does, without events. Each subscriber
    /// asks for them when it begins. Default: reads a page of one event.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn ends(
        &self,
        after: Option<EventId>,
    ) -> impl Future<Output = Result<Page<()>, Self::Error>> + MaybeSend {
        async move {
            let one = PageLimit {
                events: 1,
                bytes: 1,
            };
            Ok(self.read(after, one).await?.with(()))
        }
    }

    /// Resolves once [`read`](Self::read) after `after` may return something new: at once if
    /// the log's head is not `after`. May resolve without cause; must not miss a cause.
    ///
    /// # Errors
    /// When the storage fails. A subscriber's stream then ends and its client comes back.
    fn changed(
        &self,
        after: Option<EventId>,
    ) -> impl Future<Output = Result<(), Self::Error>> + MaybeSend;

    /// Returns the position of [`Cursor::Since`](crate::event::Cursor::Since): the events after it
    /// are those stored at `time` or later. `None`, the beginning, if those are all events that are
    /// kept.
    ///
    /// # Errors
    /// When the storage fails.
    fn before(
        &self,
        time: SystemTime,
    ) -> impl Future<Output = Result<Option<EventId>, Self::Error>> + MaybeSend;

    /// Returns whether a later connection can resume at a position in the log. Default: `true`.
    ///
    /// If `false`, as for a store that keeps no events, subscribers start at the tail, whatever
    /// they ask for, and their events have no `id:` on the wire.
    fn is_resumable(&self) -> bool {
        true
    }

    /// Announces a reader, for as long as the returned value is held. Each
    /// [`Subscription`](crate::delivery::Subscription) holds one. Default: does nothing.
    ///
    /// A store that keeps something in memory only for readers drops it with the last one. A store
    /// that wraps another passes the call on.
    fn watch(&self) -> Watch {
        Watch::default()
    }
}

/// The outcome of appending one event of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It was stored under this id.
    Stored(EventId),
    /// Its key was there already; nothing was stored.
    Duplicate,
}

/// How much one [`EventStore::read`] returns: a page ends at whichever limit is met first, but
/// has at least one event if there is one. A store may end it earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    /// The most events. Default: 512. Must not be 0.
    pub events: usize,
    /// The most bytes of data. An event that would pass the limit is left out of the page. Default: 131,072.
    pub bytes: usize,
}

impl Default for PageLimit {
    fn default() -> Self {
        Self {
            events: 512,
            bytes: 128 * 1024,
        }
    }
}

/// A part of a log, and the log's ends.
///
/// `C` is the form of the events: the events themselves, or their [`Frames`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page<C = Vec<StoredEvent>> {
    /// The events, oldest first.
    pub events: C,
    /// The oldest event kept. `None` if there is none.
    pub oldest: Option<EventId>,
    /// The greatest id ever assigned, even if its event was removed. `None` if none was.
    pub head: Option<EventId>,
    /// The greatest id whose event was removed by retention: subscribers at a position before it
    /// are reset, and go on with the oldest event. `None` if none was.
    ///
    /// A store that lost events in the middle of its log, as in a failover, resets the subscribers
    /// that have seen them in the same way: a page that is read after a lost event names the last
    /// one lost.
    pub trimmed: Option<EventId>,
    /// Whether the newest event kept is terminal: see
    /// [`Event::is_terminal`](crate::event::Event::is_terminal). `false` if none is kept: a new
    /// subscriber then waits for the next event, as on a log that was never written.
    pub closed: bool,
}

impl<C> Page<C> {
    /// Returns the same ends with other events.
    pub(crate) fn with<D>(&self, events: D) -> Page<D> {
        Page {
            events,
            oldest: self.oldest,
            head: self.head,
            trimmed: self.trimmed,
            closed: self.closed,
        }
    }
}
