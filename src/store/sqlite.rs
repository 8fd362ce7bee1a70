//! A log in SQLite, behind the small [`Sql`] trait: a Durable Object's storage in Workers,
//! rusqlite under the same tests natively.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::{Appended, Bell, EventStore, Page, PageLimit};
use crate::clock;
use crate::event::{EventId, NewEvent, StoredEvent};
use crate::sync::{MaybeSend, MaybeSync};

/// A connection to an SQLite database of which this store is the only writer.
pub trait Sql: MaybeSend + MaybeSync {
    /// What can go wrong.
    type Error: std::error::Error + MaybeSend + MaybeSync + 'static;

    /// Runs one statement, with `?1`, `?2`… bound to `params`, and returns its rows.
    ///
    /// A statement takes effect whole or not at all, and what follows it without an `await` in
    /// between belongs to the same state of the database.
    ///
    /// # Errors
    /// When SQLite refuses the statement.
    fn exec(&self, statement: &str, params: &[SqlValue]) -> Result<Vec<SqlRow>, Self::Error>;
}

/// The columns of a row, in the order of the statement.
pub type SqlRow = Vec<SqlValue>;

/// A value of a column or a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlValue {
    /// SQL's `NULL`.
    Null,
    /// A whole number. Through JavaScript only 53 bits of it survive.
    Integer(i64),
    /// Text.
    Text(String),
}

/// A log in one table, `events`, which is created by the first append: reading a log that was
/// never written creates nothing.
///
/// A batch is one statement with the same two parameters, however many events it has.
#[derive(Debug)]
pub struct SqliteEventStore<Q> {
    sql: Q,
    bell: Bell,
    /// Whether the table is known to exist, which saves a look at the schema.
    has_table: AtomicBool,
}

impl<Q: Sql> SqliteEventStore<Q> {
    /// The log in this database.
    pub fn new(sql: Q) -> Self {
        Self {
            sql,
            bell: Bell::new(),
            has_table: AtomicBool::new(false),
        }
    }

    /// The keys that begin with `prefix`, in their own order, without the prefix.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>, SqliteError<Q::Error>> {
        if !self.has_table()? {
            return Ok(Vec::new());
        }
        let rows = self.sql.exec(
            "SELECT key FROM events WHERE key >= ?1 AND key < ?1 || char(1114111) ORDER BY key",
            &[SqlValue::Text(prefix.to_owned())],
        )?;
        // Not cut off in SQL: `substr` ends at a NUL.
        rows.into_iter()
            .map(|row| {
                let key = text(row.into_iter().next())?;
                let rest = key.strip_prefix(prefix).map(str::to_owned);
                rest.ok_or(SqliteError::Row)
            })
            .collect()
    }

    /// Tells the store that the database was emptied under it: open streams look again, find
    /// nothing, and their clients learn it.
    pub fn forget(&self) {
        self.has_table.store(false, Ordering::Relaxed);
        self.bell.ring();
    }

    fn has_table(&self) -> Result<bool, SqliteError<Q::Error>> {
        if !self.has_table.load(Ordering::Relaxed) {
            let rows = self.sql.exec(
                "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'events'",
                &[],
            )?;
            self.has_table.store(!rows.is_empty(), Ordering::Relaxed);
        }
        Ok(self.has_table.load(Ordering::Relaxed))
    }

    fn create_table(&self) -> Result<(), SqliteError<Q::Error>> {
        if self.has_table()? {
            return Ok(());
        }
        // No AUTOINCREMENT: it writes a second row for each insert. Ids are reused only after
        // the newest row was deleted, and this log is only ever deleted whole.
        self.sql.exec(
            "CREATE TABLE events (id INTEGER PRIMARY KEY, key TEXT UNIQUE, type TEXT NOT NULL, \
             data TEXT NOT NULL, terminal INTEGER NOT NULL, time INTEGER NOT NULL)",
            &[],
        )?;
        self.has_table.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn insert(&self, batch: &[NewEvent]) -> Result<Vec<Appended>, SqliteError<Q::Error>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        self.create_table()?;
        let json = serde_json::to_string(batch).map_err(SqliteError::Encode)?;
        let mut rows = self
            .sql
            .exec(
                "INSERT INTO events (key, type, data, terminal, time) \
             SELECT value ->> 'key', value ->> 'type', value ->> 'data', \
             coalesce(value ->> 'terminal', 0), \
             max(?2, coalesce((SELECT time FROM events ORDER BY id DESC LIMIT 1), 0)) \
             FROM json_each(?1) WHERE true \
             ON CONFLICT (key) DO NOTHING RETURNING id, key",
                &[
                    SqlValue::Text(json),
                    integer(clock::milliseconds(clock::now())),
                ],
            )?
            .into_iter()
            .map(|row| {
                let mut columns = row.into_iter();
                let id = id(columns.next())?.ok_or(SqliteError::Row)?;
                let key = match columns.next() {
                    Some(SqlValue::Text(key)) => Some(key),
                    _ => None,
                };
                Ok((id, key))
            })
            .collect::<Result<Vec<_>, SqliteError<Q::Error>>>()?;
        // Ids follow the order of the batch; the order of RETURNING's rows is not promised.
        rows.sort_unstable_by_key(|(id, _)| *id);
        let mut stored = rows.into_iter().peekable();
        Ok(batch
            .iter()
            .map(
                |event| match stored.next_if(|(_, key)| key.as_deref() == event.key()) {
                    Some((id, _)) => Appended::Stored(id),
                    None => Appended::Duplicate,
                },
            )
            .collect())
    }

    fn page(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<Page, SqliteError<Q::Error>> {
        if !self.has_table()? {
            return Ok(Page::default());
        }
        let ends = self.sql.exec(
            // Each on its own: SQLite looks up one end of an index, but scans it for both.
            "SELECT (SELECT min(id) FROM events), (SELECT max(id) FROM events), \
             (SELECT terminal FROM events ORDER BY id DESC LIMIT 1)",
            &[],
        )?;
        let mut ends = ends.into_iter().flatten();
        let oldest = id(ends.next())?;
        let head = id(ends.next())?;
        let closed = matches!(ends.next(), Some(SqlValue::Integer(1)));
        let events = if head > after {
            // The innermost query bounds how many events are looked at, and only at their sizes,
            // which does not load them; those that fit into the page are then loaded. No size is
            // 0, so that only the first event is as large as the total so far.
            self.sql
                .exec(
                    "SELECT events.id, type, data, time FROM (\
                   SELECT id, size, sum(size) OVER (ORDER BY id) AS total FROM (\
                     SELECT id, max(octet_length(data), 1) AS size \
                     FROM events WHERE id > ?1 ORDER BY id LIMIT ?2)) AS page \
                 JOIN events ON events.id = page.id \
                 WHERE total <= ?3 OR total = size ORDER BY events.id",
                    &[
                        integer(after.map_or(0, EventId::get)),
                        integer(limit.events as u64),
                        integer(limit.bytes as u64),
                    ],
                )?
                .into_iter()
                .map(|row| {
                    let mut columns = row.into_iter();
                    Ok(StoredEvent {
                        id: id(columns.next())?.ok_or(SqliteError::Row)?,
                        event_type: text(columns.next())?,
                        data: text(columns.next())?,
                        timestamp: time(columns.next())?,
                    })
                })
                .collect::<Result<_, SqliteError<Q::Error>>>()?
        } else {
            Vec::new()
        };
        Ok(Page {
            events,
            oldest,
            head,
            // Ids are dense: what is missing before the oldest was removed.
            trimmed: oldest.and_then(|oldest| EventId::new(oldest.get() - 1)),
            closed,
        })
    }
}

impl<Q: Sql> EventStore for SqliteEventStore<Q> {
    type Error = SqliteError<Q::Error>;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Self::Error> {
        let outcomes = self.insert(&batch)?;
        if outcomes
            .iter()
            .any(|outcome| *outcome != Appended::Duplicate)
        {
            self.bell.ring();
        }
        Ok(outcomes)
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Self::Error> {
        self.page(after, limit)
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Self::Error> {
        let listener = self.bell.listen();
        let head = if self.has_table()? {
            let rows = self.sql.exec("SELECT max(id) FROM events", &[])?;
            id(rows.into_iter().flatten().next())?
        } else {
            None
        };
        if head == after {
            listener.await;
        }
        Ok(())
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Self::Error> {
        if !self.has_table()? {
            return Ok(None);
        }
        // Times never decrease with ids, so the ids can be bisected without an index of times,
        // which would be a second row written for each event.
        let ends = "SELECT min(id), max(id) FROM events";
        let mut ends = self.sql.exec(ends, &[])?.into_iter().flatten();
        let (Some(oldest), Some(head)) = (id(ends.next())?, id(ends.next())?) else {
            return Ok(None);
        };
        let time = clock::milliseconds(time);
        let (mut low, mut high) = (oldest.get(), head.get() + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            let is_older = self.sql.exec(
                "SELECT time < ?2 FROM events WHERE id >= ?1 ORDER BY id LIMIT 1",
                &[integer(middle), integer(time)],
            )?;
            match is_older.first().and_then(|row| row.first()) {
                Some(SqlValue::Integer(1)) => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(EventId::new(low - 1).filter(|before| *before >= oldest))
    }
}

/// Why the log could not be read or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum SqliteError<E> {
    /// SQLite refused a statement.
    Sql(E),
    /// A batch could not be written as JSON.
    Encode(serde_json::Error),
    /// A row is not of the shape that this store writes: another program wrote to the table.
    Row,
}

impl<E> From<E> for SqliteError<E> {
    fn from(error: E) -> Self {
        Self::Sql(error)
    }
}

impl<E> fmt::Display for SqliteError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sql(_) => "SQLite failed",
            Self::Encode(_) => "a batch of events could not be written as JSON",
            Self::Row => "the events table has a row that is not an event of this log",
        })
    }
}

impl<E: std::error::Error + 'static> std::error::Error for SqliteError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Sql(error) => Some(error),
            Self::Encode(error) => Some(error),
            Self::Row => None,
        }
    }
}

/// Ids and limits, a limit that JavaScript cannot hold being as good as none.
fn integer(number: u64) -> SqlValue {
    SqlValue::Integer(i64::try_from(number.min(EventId::MAX)).unwrap_or(i64::MAX))
}

fn id<E>(column: Option<SqlValue>) -> Result<Option<EventId>, SqliteError<E>> {
    match column {
        Some(SqlValue::Null) => Ok(None),
        Some(SqlValue::Integer(number)) => u64::try_from(number)
            .ok()
            .and_then(EventId::new)
            .map(Some)
            .ok_or(SqliteError::Row),
        _ => Err(SqliteError::Row),
    }
}

fn time<E>(column: Option<SqlValue>) -> Result<SystemTime, SqliteError<E>> {
    match column {
        Some(SqlValue::Integer(time)) => u64::try_from(time)
            .map(clock::from_milliseconds)
            .map_err(|_| SqliteError::Row),
        _ => Err(SqliteError::Row),
    }
}

fn text<E>(column: Option<SqlValue>) -> Result<String, SqliteError<E>> {
    match column {
        Some(SqlValue::Text(text)) => Ok(text),
        _ => Err(SqliteError::Row),
    }
}
