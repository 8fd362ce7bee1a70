//! A log in SQLite, behind the small [`Sql`] trait: a Durable Object's storage in Workers,
//! rusqlite under the same tests natively.

mod sql;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;
use std::time::SystemTime;

use serde::Serialize;

pub use self::sql::{Sql, SqlRow, SqlValue};
use super::tail::{Piece, Tail};
use super::{
    Appended, Bell, EventStore, FrameBytes, FramePage, FrameStore, Frames, Page, PageLimit,
};
use crate::clock;
use crate::event::{EventId, EventRef, KeyRef, NewEvent, StoredEvent};
use crate::sync::{Mutex, lock};
use crate::wire;

/// A log in one table, `events`, which is created by the first append: reading a log that was
/// never written creates nothing.
///
/// An event is one row with its finished frame, so a page of the wire's bytes is put together by
/// SQLite. A batch is one statement with the same few parameters, however many events it has, and
/// each event is one row written.
#[derive(Debug)]
pub struct SqliteEventStore<Q: Sql> {
    sql: Q,
    bell: Bell,
    log: Mutex<Log<Q::Bytes>>,
}

/// What the table's only writer remembers of it. SQLite has it all, so it may be forgotten at any
/// time, and is where something failed.
#[derive(Debug)]
struct Log<B> {
    ends: Option<Ends>,
    /// The keys of all events. Not an index in SQL, which would be a second row written for each
    /// event: 1,000 times the price of reading the row once when the first append after waking
    /// needs the keys.
    keys: Option<BTreeSet<String>>,
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

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    has_table: bool,
    /// Whether the table has the column `writer`, which the first ones did not.
    has_writer: bool,
    oldest: Option<EventId>,
    head: Option<EventId>,
    closed: bool,
    /// When the newest event was stored.
    time: u64,
    /// Bytes of all data, from the first event ever to the newest.
    size: u64,
    /// Who appended the newest event: see [`SqliteEventStore::writer`].
    writer: u64,
}

impl Ends {
    fn page<C>(&self, events: C) -> Page<C> {
        Page {
            events,
            oldest: self.oldest,
            head: self.head,
            // Ids are dense: what is missing before the oldest was removed.
            trimmed: self
                .oldest
                .and_then(|oldest| EventId::new(oldest.get() - 1)),
            closed: self.closed,
        }
    }
}

impl<Q: Sql> SqliteEventStore<Q> {
    /// The log in this database.
    pub fn new(sql: Q) -> Self {
        Self {
            sql,
            bell: Bell::new(),
            log: Mutex::default(),
        }
    }

    /// The keys that begin with `prefix`, in their own order, without the prefix.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>, SqliteError<Q::Error>> {
        self.with_log(|log| {
            let from = (Bound::Included(prefix), Bound::Unbounded);
            Ok(self
                .known_keys(log)?
                .range::<str, _>(from)
                .map_while(|key| key.strip_prefix(prefix).map(str::to_owned))
                .collect())
        })
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

    /// Who appended the newest event: the number that [`append_now`](Self::append_now) was given
    /// with it. 0 where the log has no event, and for those of [`EventStore::append`].
    ///
    /// # Errors
    /// When SQLite fails.
    #[allow(
        dead_code,
        reason = "for the log of a workflow, which tells its lifetimes apart"
    )]
    pub(crate) fn writer(&self) -> Result<u64, SqliteError<Q::Error>> {
        self.with_log(|log| Ok(self.ends(log)?.writer))
    }

    /// Tells the store that the database was emptied under it: open streams look again, find
    /// nothing, and their clients learn it.
    pub fn forget(&self) {
        *lock(&self.log) = Log::default();
        self.bell.ring();
    }

    /// Lends what is remembered. Where `work` fails or panics all of it is forgotten, so that it
    /// never says what SQLite does not.
    fn with_log<T>(
        &self,
        work: impl FnOnce(&mut Log<Q::Bytes>) -> Result<T, SqliteError<Q::Error>>,
    ) -> Result<T, SqliteError<Q::Error>> {
        let mut remembered = lock(&self.log);
        let mut log = std::mem::take(&mut *remembered);
        let result = work(&mut log)?;
        *remembered = log;
        Ok(result)
    }

    fn ends(&self, log: &mut Log<Q::Bytes>) -> Result<Ends, SqliteError<Q::Error>> {
        if let Some(ends) = log.ends {
            return Ok(ends);
        }
        let ends = self.read_ends()?;
        log.ends = Some(ends);
        Ok(ends)
    }

    fn read_ends(&self) -> Result<Ends, SqliteError<Q::Error>> {
        let table = self.sql.exec(
            "SELECT instr(sql, ' writer ') FROM sqlite_master \
             WHERE type = 'table' AND name = 'events'",
            &[],
        )?;
        let Some(table) = table.into_iter().next() else {
            return Ok(Ends::default());
        };
        let has_writer = number(table.into_iter().next())? > 0;
        let newest = if has_writer {
            "SELECT (SELECT min(id) FROM events), id, terminal, time, size, writer \
             FROM events ORDER BY id DESC LIMIT 1"
        } else {
            "SELECT (SELECT min(id) FROM events), id, terminal, time, size, 0 \
             FROM events ORDER BY id DESC LIMIT 1"
        };
        let Some(newest) = self.sql.exec(newest, &[])?.into_iter().next() else {
            return Ok(Ends {
                has_table: true,
                has_writer,
                ..Ends::default()
            });
        };
        let mut columns = newest.into_iter();
        Ok(Ends {
            has_table: true,
            has_writer,
            oldest: id(columns.next())?,
            head: id(columns.next())?,
            closed: number(columns.next())? == 1,
            time: number(columns.next())?,
            size: number(columns.next())?,
            writer: number(columns.next())?,
        })
    }

    fn known_keys<'a>(
        &self,
        log: &'a mut Log<Q::Bytes>,
    ) -> Result<&'a mut BTreeSet<String>, SqliteError<Q::Error>> {
        let keys = match log.keys.take() {
            Some(keys) => keys,
            None if self.ends(log)?.has_table => self
                .sql
                .exec("SELECT key FROM events WHERE key IS NOT NULL", &[])?
                .into_iter()
                .map(|row| text(row.into_iter().next()))
                .collect::<Result<_, _>>()?,
            None => BTreeSet::new(),
        };
        Ok(log.keys.insert(keys))
    }

    /// [`EventStore::append`], without waiting for anything: SQLite does not. `writer` is kept
    /// with each event, at most [`EventId::MAX`]: see [`writer`](Self::writer).
    pub(crate) fn append_now(
        &self,
        batch: &[EventRef<'_>],
        writer: u64,
    ) -> Result<Vec<Appended>, SqliteError<Q::Error>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let outcomes = self.with_log(|log| self.insert(log, batch, writer))?;
        if outcomes
            .iter()
            .any(|outcome| *outcome != Appended::Duplicate)
        {
            self.bell.ring();
        }
        Ok(outcomes)
    }

    fn insert(
        &self,
        log: &mut Log<Q::Bytes>,
        batch: &[EventRef<'_>],
        writer: u64,
    ) -> Result<Vec<Appended>, SqliteError<Q::Error>> {
        let before = self.ends(log)?;
        let keys = self.known_keys(log)?;
        let mut ends = before;
        ends.time = before.time.max(clock::milliseconds(clock::now()));
        let length = |event: &EventRef<'_>| event.size() + wire::FRAME;
        let mut frames = Vec::with_capacity(batch.iter().map(length).sum());
        let mut rows = Vec::with_capacity(batch.len());
        let mut outcomes = Vec::with_capacity(batch.len());
        for event in batch {
            let key = event.key.map(KeyRef::to_owned);
            if let Some(key) = &key
                && !keys.insert(key.clone())
            {
                outcomes.push(Appended::Duplicate);
                continue;
            }
            let id = EventId::new(ends.head.map_or(1, |head| head.get() + 1));
            let id = id.ok_or(SqliteError::Row)?;
            let start = frames.len();
            let lines = wire::encode_numbered(id, event.event_type, event.data, &mut frames);
            ends.size += event.data.len() as u64;
            ends.head = Some(id);
            ends.oldest = ends.oldest.or(ends.head);
            ends.closed = event.terminal;
            rows.push(Row {
                start,
                length: frames.len() - start,
                size: ends.size,
                terminal: ends.closed,
                key,
                data: (lines > 1).then_some(event.data),
            });
            outcomes.push(Appended::Stored(id));
        }
        if rows.is_empty() {
            return Ok(outcomes);
        }
        ends.writer = writer;
        self.create_table(&mut ends)?;
        let first = before.head.map_or(1, |head| head.get() + 1);
        let bytes = Q::Bytes::from_slice(&frames);
        let common = [
            integer(first),
            integer(ends.time),
            SqlValue::Bytes(bytes.clone()),
            integer(writer),
        ];
        match rows.as_slice() {
            [row] => self.sql.run(INSERT_ROW, &row.params(common))?,
            rows => {
                let params = params_of_rows(common, rows).map_err(SqliteError::Encode)?;
                self.sql.run(INSERT_ROWS, &params)?;
            }
        }
        if let Some(last) = ends.head {
            log.tail.push(Piece {
                after: first - 1,
                last,
                events: rows.len(),
                size: ends.size - before.size,
                bytes,
                length: frames.len(),
            });
        }
        log.ends = Some(ends);
        Ok(outcomes)
    }

    /// Creates the table, or adds to one of an earlier version what that did not have. Only an
    /// append does: reading stores nothing.
    fn create_table(&self, ends: &mut Ends) -> Result<(), SqliteError<Q::Error>> {
        if !ends.has_table {
            self.sql.exec(
                // No AUTOINCREMENT: it writes a second row for each insert. The writer numbers
                // the events, since an id is part of its event's frame.
                //
                // `size` counts the bytes of data from the first event on, so that a page's end
                // is found without adding up. `data` is there only where the frame has lost how
                // its lines ended; type and data are otherwise read from the frame.
                "CREATE TABLE events (id INTEGER PRIMARY KEY, time INTEGER NOT NULL, \
                 size INTEGER NOT NULL, terminal INTEGER NOT NULL, key TEXT, data TEXT, \
                 frame TEXT NOT NULL, writer INTEGER NOT NULL DEFAULT 0)",
                &[],
            )?;
        } else if !ends.has_writer {
            self.sql.exec(
                "ALTER TABLE events ADD COLUMN writer INTEGER NOT NULL DEFAULT 0",
                &[],
            )?;
        }
        (ends.has_table, ends.has_writer) = (true, true);
        Ok(())
    }

    fn page(
        &self,
        log: &mut Log<Q::Bytes>,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<Page, SqliteError<Q::Error>> {
        let ends = self.ends(log)?;
        let Some(after) = ends.start(after) else {
            return Ok(ends.page(Vec::new()));
        };
        let rows = self.sql.exec(
            concat!(
                "SELECT id, time, data, frame FROM events ",
                in_window!(),
                " ORDER BY id"
            ),
            &window(after, limit),
        )?;
        let events = rows
            .into_iter()
            .map(stored_event)
            .collect::<Result<Vec<_>, SqliteError<Q::Error>>>()?;
        if events.is_empty() {
            return Err(SqliteError::Row);
        }
        Ok(ends.page(events))
    }

    fn page_of_frames(
        &self,
        log: &mut Log<Q::Bytes>,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<Q::Bytes>, SqliteError<Q::Error>> {
        let ends = self.ends(log)?;
        let Some(after) = ends.start(after) else {
            return Ok(ends.page(None));
        };
        if let Some(frames) = log.tail.page(after, limit) {
            return Ok(ends.page(Some(frames)));
        }
        let page = self.sql.exec(
            // One row for the whole page.
            concat!(
                "SELECT max(id), CAST(group_concat(frame, '') AS BLOB) FROM (",
                "SELECT id, frame FROM events ",
                in_window!(),
                " ORDER BY id)"
            ),
            &window(after, limit),
        )?;
        let mut columns = page.into_iter().flatten();
        let last = id(columns.next())?.ok_or(SqliteError::Row)?;
        let Some(SqlValue::Bytes(bytes)) = columns.next() else {
            return Err(SqliteError::Row);
        };
        let frames = Frames { bytes, last };
        log.tail.remember(after, limit, &frames);
        Ok(ends.page(Some(frames)))
    }
}

impl Ends {
    /// The position after which a page begins, if anything follows it.
    fn start(&self, after: Option<EventId>) -> Option<u64> {
        let oldest = self.oldest?.get();
        (self.head > after).then(|| after.map_or(0, EventId::get).max(oldest - 1))
    }
}

/// The events of a page. Ids are dense, so they bound how many rows are looked at, and of those
/// only as much as comes before `key`: what does not fit into the page is not loaded.
macro_rules! in_window {
    () => {
        "WHERE id > ?1 AND id <= ?2 AND (id = ?1 + 1 \
         OR size <= ?3 + coalesce((SELECT size FROM events WHERE id = ?1), 0))"
    };
}
use in_window;

fn window<B>(after: u64, limit: PageLimit) -> [SqlValue<B>; 3] {
    [
        integer(after),
        integer(after.saturating_add(limit.events as u64)),
        integer(limit.bytes as u64),
    ]
}

/// An event on its way into the table.
struct Row<'a> {
    /// Where its frame is among those of the batch.
    start: usize,
    length: usize,
    size: u64,
    terminal: bool,
    key: Option<String>,
    data: Option<&'a str>,
}

/// With the first id, the time, the frames of all and the writer as the first four parameters, as
/// in [`INSERT_ROWS`].
const INSERT_ROW: &str = "INSERT INTO events (id, time, frame, writer, size, terminal, key, data) \
                          VALUES (?1, ?2, CAST(?3 AS TEXT), ?4, ?5, ?6, ?7, ?8)";

/// The rows are the elements of a JSON array, whose `key` is their index: the events' keys, or
/// keys and data where there are data. Their numbers are digits of fixed width in a blob, where
/// SQLite finds them without parsing, which takes a third off the whole statement.
const INSERT_ROWS: &str = "INSERT INTO events (id, time, frame, writer, size, terminal, key, data) \
     SELECT ?1 + key, ?2, \
     CAST(substr(?3, substr(?6, 38 * key + 1, 10), substr(?6, 38 * key + 11, 10)) AS TEXT), ?4, \
     CAST(substr(?6, 38 * key + 21, 16) AS INTEGER), \
     CAST(substr(?6, 38 * key + 37, 2) AS INTEGER), \
     iif(type = 'array', value ->> 0, atom), \
     iif(type = 'array', value ->> 1, NULL) \
     FROM json_each(?5)";

/// The parameters that a batch has once.
type Common<B> = [SqlValue<B>; 4];

impl Row<'_> {
    fn params<B>(&self, [first, time, frames, writer]: Common<B>) -> [SqlValue<B>; 8] {
        let text = |text: &str| SqlValue::Text(text.to_owned());
        [
            first,
            time,
            frames,
            writer,
            integer(self.size),
            integer(self.terminal.into()),
            self.key.as_deref().map_or(SqlValue::Null, text),
            self.data.map_or(SqlValue::Null, text),
        ]
    }

    /// As SQL's `substr` counts, from 1.
    fn push_numbers(&self, out: &mut Vec<u8>) {
        wire::encode_number(self.start as u64 + 1, 10, out);
        wire::encode_number(self.length as u64, 10, out);
        wire::encode_number(self.size, 16, out);
        wire::encode_number(self.terminal.into(), 2, out);
    }

    fn names(&self) -> Names<'_> {
        let key = self.key.as_deref();
        self.data
            .map_or(Names::Key(key), |data| Names::Both(key, data))
    }
}

fn params_of_rows<B: FrameBytes>(
    [first, time, frames, writer]: Common<B>,
    rows: &[Row<'_>],
) -> Result<[SqlValue<B>; 6], serde_json::Error> {
    let names: Vec<_> = rows.iter().map(Row::names).collect();
    let mut numbers = Vec::with_capacity(38 * rows.len());
    for row in rows {
        row.push_numbers(&mut numbers);
    }
    Ok([
        first,
        time,
        frames,
        writer,
        SqlValue::Text(serde_json::to_string(&names)?),
        SqlValue::Bytes(B::from_slice(&numbers)),
    ])
}

#[derive(Serialize)]
#[serde(untagged)]
enum Names<'a> {
    Key(Option<&'a str>),
    Both(Option<&'a str>, &'a str),
}

fn stored_event<B, E>(row: SqlRow<B>) -> Result<StoredEvent, SqliteError<E>> {
    let mut columns = row.into_iter();
    let id = id(columns.next())?.ok_or(SqliteError::Row)?;
    let timestamp = clock::from_milliseconds(number(columns.next())?);
    let data = match columns.next() {
        Some(SqlValue::Text(data)) => Some(data),
        _ => None,
    };
    let frame = text(columns.next())?;
    let (event_type, decoded) = wire::decode(&frame).ok_or(SqliteError::Row)?;
    Ok(StoredEvent {
        id,
        event_type: event_type.to_owned(),
        data: data.unwrap_or_else(|| decoded.to_owned()),
        timestamp,
    })
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
        let ends = self.with_log(|log| self.ends(log))?;
        // Times never decrease with ids, so the ids can be bisected without an index of times,
        // which would be a second row written for each event.
        let (Some(oldest), Some(head)) = (ends.oldest, ends.head) else {
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
fn integer<B>(number: u64) -> SqlValue<B> {
    SqlValue::Integer(i64::try_from(number.min(EventId::MAX)).unwrap_or(i64::MAX))
}

fn id<B, E>(column: Option<SqlValue<B>>) -> Result<Option<EventId>, SqliteError<E>> {
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

fn number<B, E>(column: Option<SqlValue<B>>) -> Result<u64, SqliteError<E>> {
    match column {
        Some(SqlValue::Integer(number)) => u64::try_from(number).map_err(|_| SqliteError::Row),
        _ => Err(SqliteError::Row),
    }
}

fn text<B, E>(column: Option<SqlValue<B>>) -> Result<String, SqliteError<E>> {
    match column {
        Some(SqlValue::Text(text)) => Ok(text),
        _ => Err(SqliteError::Row),
    }
}
