//! A log in SQLite, over the small [`Sql`] trait: a Durable Object's storage in Workers, a file
//! natively (feature `rusqlite`).

mod append;
mod column;
mod ends;
mod error;
mod expiry;
mod keys;
mod pages;
#[cfg(all(feature = "rusqlite", not(target_family = "wasm")))]
mod rusqlite;
mod sql;

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use self::ends::Ends;
pub use self::error::SqliteError;
use self::keys::Keys;
#[cfg(all(feature = "rusqlite", not(target_family = "wasm")))]
pub use self::rusqlite::{SqliteFile, SqliteFileError};
pub use self::sql::{Sql, SqlRow, SqlValue};
use crate::clock;
use crate::event::{EventId, EventRef, NewEvent};
use crate::store::bell::Bell;
use crate::store::frames::{FrameBytes, FramePage, FrameStore};
use crate::store::tail::{Tail, Watch};
use crate::store::{Appended, EventStore, Page, PageLimit, Watched};
use crate::sync::{Mutex, lock};

/// A log in one table, `events`, which is created by the first append: reading a log that was
/// never written creates nothing.
///
/// An event is one row with its finished frame, so a page of the wire's bytes is put together by
/// SQLite. A batch is one statement with the same few parameters, however many events it has, and
/// each event is one row written. A batch of more than SQLite takes in one value (2,000,000 bytes
/// in a Durable Object) is cut into several statements that are stored whole or not at all.
///
/// The newest frames are kept in memory for those who watch, at most 2 MiB in all, or one event
/// that has more. Nothing of them is kept while nobody has a [`Subscription`](crate::delivery::Subscription).
#[derive(Debug)]
pub struct SqliteEventStore<Q: Sql> {
    sql: Q,
    bell: Bell,
    log: Arc<Mutex<Log<Q::Bytes>>>,
    audience: Mutex<Weak<Audience<Q::Bytes>>>,
}

/// What the table's only writer remembers of it. SQLite has it all, so it may be forgotten at any
/// time, and is where something failed.
#[derive(Debug)]
struct Log<B> {
    ends: Option<Ends>,
    /// The keys of all events. Not an index in SQL, which would be a second row written for each
    /// event: 1,000 times the price of reading the row once when the first append after waking
    /// needs the keys. Forgotten when the log ends, since an object may go on to be read for long.
    keys: Option<Keys>,
    tail: Tail<B>,
}

impl<B> Default for Log<B> {
    fn default() -> Self {
        Self {
            ends: None,
            keys: None,
            tail: Tail::default(),
        }
    }
}

/// Those who watch, each with a handle to the same one of these.
#[derive(Debug)]
struct Audience<B>(Arc<Mutex<Log<B>>>);

impl<B: FrameBytes> Watched for Audience<B> {}

/// The last one has left, so nobody needs the bytes any more.
impl<B> Drop for Audience<B> {
    fn drop(&mut self) {
        lock(&self.0).tail = Tail::default();
    }
}

impl<Q: Sql> SqliteEventStore<Q> {
    /// The log in this database.
    pub fn new(sql: Q) -> Self {
        Self {
            sql,
            bell: Bell::new(),
            log: Arc::default(),
            audience: Mutex::default(),
        }
    }

    /// The oldest and the newest event that it has.
    pub(crate) fn span(&self) -> Result<Option<(EventId, EventId)>, SqliteError<Q::Error>> {
        let ends = self.with_log(|log| self.ends(log))?;
        Ok(ends.oldest.zip(ends.head))
    }

    /// When the newest event was stored, if it has any.
    pub(crate) fn newest_time(&self) -> Result<Option<SystemTime>, SqliteError<Q::Error>> {
        let ends = self.with_log(|log| self.ends(log))?;
        Ok(ends.oldest.map(|_| clock::from_milliseconds(ends.time)))
    }

    /// The greatest id ever assigned: see [`Page::head`].
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn head(&self) -> Result<Option<EventId>, SqliteError<Q::Error>> {
        self.with_log(|log| Ok(self.ends(log)?.head))
    }

    /// Whether the newest event is terminal: see [`Page::closed`].
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn is_closed(&self) -> Result<bool, SqliteError<Q::Error>> {
        self.with_log(|log| Ok(self.ends(log)?.closed))
    }

    /// Whether the log has events. One whose events were all [removed](Self::trim) has none, but it
    /// has a [`head`](Self::head).
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn is_empty(&self) -> Result<bool, SqliteError<Q::Error>> {
        self.with_log(|log| Ok(self.ends(log)?.oldest.is_none()))
    }

    /// Who appended the newest event: the number that [`append_now`](Self::append_now) was given
    /// with it. 0 where the log has no event, and for those of [`EventStore::append`].
    ///
    /// # Errors
    /// When SQLite fails.
    pub(crate) fn writer(&self) -> Result<u64, SqliteError<Q::Error>> {
        self.with_log(|log| Ok(self.ends(log)?.writer))
    }

    /// Tells the store that the database was emptied under it: open streams look again, find
    /// nothing, and their clients learn it.
    pub fn forget(&self) {
        *lock(&*self.log) = Log::default();
        self.bell.ring();
    }

    /// Lends what is remembered. Where `work` fails or panics all of it is forgotten, so that it
    /// never says what SQLite does not.
    fn with_log<T>(
        &self,
        work: impl FnOnce(&mut Log<Q::Bytes>) -> Result<T, SqliteError<Q::Error>>,
    ) -> Result<T, SqliteError<Q::Error>> {
        let mut remembered = lock(&*self.log);
        let mut log = std::mem::take(&mut *remembered);
        let result = work(&mut log)?;
        *remembered = log;
        Ok(result)
    }

    fn viewers(&self) -> usize {
        lock(&self.audience).strong_count()
    }
}

impl<Q: Sql> EventStore for SqliteEventStore<Q> {
    type Error = SqliteError<Q::Error>;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Self::Error> {
        let batch: Vec<_> = batch.iter().map(EventRef::from).collect();
        self.append_now(&batch, 0)
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Self::Error> {
        self.with_log(|log| self.page(log, after, limit))
    }

    async fn ends(&self, _after: Option<EventId>) -> Result<Page<()>, Self::Error> {
        self.with_log(|log| Ok(self.ends(log)?.page(())))
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Self::Error> {
        let listener = self.bell.listen();
        if self.head()? == after {
            listener.await;
        }
        Ok(())
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Self::Error> {
        self.position_before(time)
    }

    fn watch(&self) -> Watch {
        let mut watched = lock(&self.audience);
        let audience = watched.upgrade().unwrap_or_else(|| {
            let audience = Arc::new(Audience(Arc::clone(&self.log)));
            *watched = Arc::downgrade(&audience);
            audience
        });
        Watch::new(audience)
    }
}

impl<Q: Sql> FrameStore for SqliteEventStore<Q> {
    type Bytes = Q::Bytes;

    async fn read_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<Q::Bytes>, Self::Error> {
        self.with_log(|log| self.page_of_frames(log, after, limit))
    }
}
