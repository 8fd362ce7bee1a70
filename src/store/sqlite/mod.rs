//! A log in SQLite, over the small [`Sql`] trait: a Durable Object's storage in Workers, a file
//! natively (feature `rusqlite`).

mod append;
mod column;
mod digest;
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

use bytes::Bytes;

pub(crate) use self::column::{integer, number};
use self::digest::KnownKeys;
use self::ends::Ends;
pub use self::error::SqliteError;
#[cfg(all(feature = "rusqlite", not(target_family = "wasm")))]
pub use self::rusqlite::{SqliteFile, SqliteFileError};
pub use self::sql::{Sql, SqlRow, SqlValue};
use crate::clock;
use crate::event::{EventId, EventRef, NewEvent};
use crate::store::bell::Bell;
use crate::store::frames::{FrameBytes, FramePage, FrameStore, in_memory};
use crate::store::tail::{Tail, Watch};
use crate::store::{Appended, EventStore, Page, PageLimit, Retention, Watched};
use crate::sync::{Mutex, lock};

/// A log in one table, `events`, which is created by the first append: reading a log that was
/// never written creates nothing.
///
/// An event is one row with its finished frame, so SQLite itself puts a page of the wire's bytes
/// together. A batch is one statement with the same few parameters, however many events it has, and
/// each event is one row written. A batch with more bytes than SQLite takes in one value (2,000,000
/// bytes in a Durable Object) is cut into several statements, which take effect together or not at
/// all.
///
/// The newest frames are kept in memory while there is a
/// [`Subscription`](crate::delivery::Subscription): at most 2 MiB in all, or one larger event.
#[derive(Debug)]
pub struct SqliteEventStore<Q: Sql> {
    sql: Q,
    bell: Bell,
    log: Arc<Mutex<Log<Q::Bytes>>>,
    retention: Retention,
    /// Whether the keys of events that pass the retention are remembered.
    keeps_keys: bool,
}

/// A statement and its parameters.
pub(crate) type Statement<B> = (&'static str, Vec<SqlValue<B>>);

/// The memory of the table's only writer. SQLite has all of it, so it may be forgotten at any time, and is forgotten
/// when a call fails.
#[derive(Debug)]
struct Log<B> {
    ends: Option<Ends>,
    /// The keys of all events. They are not an index in SQL, which would write a second row for
    /// each event: 1,000 times the price of reading the row once, when the first append after
    /// waking needs the keys. Long logs have them as a [digest], too. Forgotten when the log ends, since an object may be read for long
    /// after that.
    keys: Option<KnownKeys>,
    tail: Tail<B>,
    audience: Weak<Audience<B>>,
    /// The values of [`Audience`] that are there: more than one only while the last reader leaves and another comes.
    /// Not forgotten with the rest. Decides what `tail` gets: unlike the handles of `audience`, it changes only under
    /// the lock, so that an append and those who come and go agree on it.
    audiences: usize,
}

impl<B> Default for Log<B> {
    fn default() -> Self {
        Self {
            ends: None,
            keys: None,
            tail: Tail::default(),
            audience: Weak::new(),
            audiences: 0,
        }
    }
}

impl<B> Log<B> {
    /// Forgets what SQLite has.
    fn forget(&mut self) {
        (self.ends, self.keys, self.tail) = (None, None, Tail::default());
    }

    fn is_watched(&self) -> bool {
        self.audiences > 0
    }

    /// Returns about how many readers there are.
    fn viewers(&self) -> usize {
        self.audience.strong_count()
    }
}

/// The readers of a log. Each holds a handle to the same value.
#[derive(Debug)]
struct Audience<B>(Arc<Mutex<Log<B>>>);

impl<B: FrameBytes> Watched for Audience<B> {}

/// Frees the frames when the last reader has left.
impl<B> Drop for Audience<B> {
    fn drop(&mut self) {
        let mut log = lock(&self.0);
        log.audiences -= 1;
        if !log.is_watched() {
            log.tail = Tail::default();
        }
    }
}

/// Lends the memory of a log. Dropping this forgets the memory; a caller that succeeds keeps this from being dropped.
struct Lent<'a, B>(&'a mut Log<B>);

impl<B> Drop for Lent<'_, B> {
    fn drop(&mut self) {
        self.0.forget();
    }
}

impl<Q: Sql> SqliteEventStore<Q> {
    /// Returns the log in this database.
    pub fn new(sql: Q) -> Self {
        Self {
            sql,
            bell: Bell::new(),
            log: Arc::default(),
            retention: Retention::for_ever(),
            keeps_keys: false,
        }
    }

    /// Sets how much is kept. Default: everything.
    ///
    /// Readers never get an event that has passed a limit. Its row is removed by an append, many at a
    /// time, so the table has up to a quarter more rows, or 64, than are kept, and an idle log keeps
    /// its size. A key is forgotten some time after its event was removed: the same fact may then be
    /// stored again.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Remembers the keys of events that pass the [retention](Self::retention): a small row of each is left.
    #[cfg_attr(not(any(test, feature = "cloudflare")), allow(dead_code))]
    pub(crate) fn keep_keys(mut self) -> Self {
        self.keeps_keys = true;
        self
    }

    /// Returns the database.
    #[cfg_attr(not(feature = "cloudflare"), allow(dead_code))]
    pub(crate) fn sql(&self) -> &Q {
        &self.sql
    }

    /// Returns the oldest and the newest event kept, if there are any.
    pub(crate) fn span(&self) -> Result<Option<(EventId, EventId)>, SqliteError<Q::Error>> {
        let ends = self.known_ends()?;
        Ok(ends.oldest.zip(ends.head))
    }

    /// Returns when the newest event was stored, if any is kept.
    pub(crate) fn newest_time(&self) -> Result<Option<SystemTime>, SqliteError<Q::Error>> {
        let ends = self.known_ends()?;
        Ok(ends.oldest.map(|_| clock::from_milliseconds(ends.time)))
    }

    /// Returns the greatest id ever assigned: see [`Page::head`].
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn head(&self) -> Result<Option<EventId>, SqliteError<Q::Error>> {
        Ok(self.known_ends()?.head)
    }

    /// Returns whether the newest event is terminal: see [`Page::closed`].
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn is_closed(&self) -> Result<bool, SqliteError<Q::Error>> {
        Ok(self.known_ends()?.closed)
    }

    /// Returns whether the log keeps no event. A log whose events were all [removed](Self::trim)
    /// keeps none, but it has a [`head`](Self::head).
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn is_empty(&self) -> Result<bool, SqliteError<Q::Error>> {
        Ok(self.known_ends()?.oldest.is_none())
    }

    /// Returns the writer of the newest event: the number that [`append_with`](Self::append_with) was
    /// given with it. 0 for an empty log and for events of [`EventStore::append`].
    ///
    /// # Errors
    /// When SQLite fails.
    pub(crate) fn writer(&self) -> Result<u64, SqliteError<Q::Error>> {
        Ok(self.known_ends()?.writer)
    }

    /// Forgets what the store remembers, for when the database was emptied without it. Open streams
    /// look again, find nothing, and their clients are reset.
    pub fn forget(&self) {
        lock(&*self.log).forget();
        self.bell.ring();
    }

    /// Lends what is remembered to `work`. If `work` fails or panics, all of it is forgotten, so
    /// that it never differs from what SQLite has.
    fn with_log<T>(
        &self,
        work: impl FnOnce(&mut Log<Q::Bytes>) -> Result<T, SqliteError<Q::Error>>,
    ) -> Result<T, SqliteError<Q::Error>> {
        let mut log = lock(&*self.log);
        let lent = Lent(&mut log);
        let result = work(&mut *lent.0)?;
        std::mem::forget(lent);
        Ok(result)
    }

    /// Returns where the log begins and ends. Most of what is asked is in it, so that a Worker has this code once.
    #[inline(never)]
    fn known_ends(&self) -> Result<Ends, SqliteError<Q::Error>> {
        self.with_log(|log| self.ends(log))
    }

    /// Returns the readers of a log that is locked.
    fn audience(&self, log: &mut Log<Q::Bytes>) -> Arc<Audience<Q::Bytes>> {
        log.audience.upgrade().unwrap_or_else(|| {
            let audience = Arc::new(Audience(Arc::clone(&self.log)));
            log.audience = Arc::downgrade(&audience);
            log.audiences += 1;
            audience
        })
    }
}

impl<Q: Sql> EventStore for SqliteEventStore<Q> {
    type Error = SqliteError<Q::Error>;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Self::Error> {
        let batch: Vec<_> = batch.iter().map(EventRef::from).collect();
        self.append_now(&batch, 0)
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Self::Error> {
        self.read_now(after, limit)
    }

    async fn read_encoded(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<Bytes>, Self::Error> {
        let page = self.with_log(|log| self.page_of_frames(log, after, limit))?;
        Ok(in_memory(&page))
    }

    async fn ends(&self, _after: Option<EventId>) -> Result<Page<()>, Self::Error> {
        Ok(self.known_ends()?.page(()))
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
        let audience = self.audience(&mut lock(&*self.log));
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

#[cfg(all(test, feature = "rusqlite", not(target_family = "wasm")))]
mod tests {
    use std::thread;

    use super::*;

    /// The last viewer leaves on one thread, and waits for the log; on others an event is appended,
    /// a viewer comes, and another event is appended.
    #[test]
    fn a_viewer_that_comes_while_the_last_one_leaves_misses_nothing() {
        let name = format!("ssetarget-leaving-{}.sqlite", std::process::id());
        let file = std::env::temp_dir().join(name);
        let store = SqliteEventStore::open(&file).unwrap();
        let event = |id: u64| NewEvent::new("event", id.to_string()).unwrap();
        let last = store.watch();
        for id in 1..=5 {
            store.append_now(&[EventRef::from(&event(id))], 0).unwrap();
        }
        let append = |log: &mut _, id: u64| {
            let event = event(id);
            store.insert(log, &[EventRef::from(&event)], 0, Vec::new())
        };
        let page = thread::scope(|scope| {
            let mut log = lock(&store.log);
            scope.spawn(move || drop(last));
            while log.viewers() > 0 {
                thread::yield_now();
            }
            append(&mut log, 6).unwrap();
            let coming = store.audience(&mut log);
            append(&mut log, 7).unwrap();
            let page = store.page_of_frames(&mut log, EventId::new(4), PageLimit::default());
            // Those who leave take the lock.
            drop(log);
            drop(coming);
            page
        });
        let frames = page.unwrap().events.unwrap();
        let text = String::from_utf8(frames.bytes.to_vec()).unwrap();
        let data: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .collect();
        assert_eq!(data, ["5", "6", "7"]);
        drop(store);
        std::fs::remove_file(file).unwrap();
    }
}
