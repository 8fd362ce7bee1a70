//! A log in SQLite, over the small [`Sql`] trait: a Durable Object's storage in Workers, a file
//! natively (feature `rusqlite`).

mod keys;
#[cfg(all(feature = "rusqlite", not(target_family = "wasm")))]
mod rusqlite;
mod sql;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use serde::Serialize;

use self::keys::Keys;
#[cfg(all(feature = "rusqlite", not(target_family = "wasm")))]
pub use self::rusqlite::{SqliteFile, SqliteFileError};
pub use self::sql::{Sql, SqlRow, SqlValue};
use crate::clock;
use crate::event::{EventId, EventRef, KeyRef, NewEvent, StoredEvent};
use crate::store::bell::Bell;
use crate::store::frames::{FrameBytes, FramePage, FrameStore, Frames};
use crate::store::tail::Watch;
use crate::store::tail::{Piece, Tail};
use crate::store::{Appended, EventStore, Page, PageLimit, Watched};
use crate::sync::{Mutex, lock};
use crate::wire;

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

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    has_table: bool,
    /// Whether the table has the column `writer`, which the first ones did not.
    has_writer: bool,
    oldest: Option<EventId>,
    head: Option<EventId>,
    closed: bool,
    /// When the newest event was stored, or removed if there is none after it.
    time: u64,
    /// Bytes of all data, from the first event ever to the newest.
    size: u64,
    /// Who appended the newest event: see [`SqliteEventStore::writer`].
    writer: u64,
}

/// What the column `terminal` says of a row, added up.
const TERMINAL: u64 = 1;
/// The frame has only the lines before the data: with all of them the row would be larger than
/// SQLite takes. It is made from `data` when it is read.
const HEAD_ONLY: u64 = 2;
/// The event was removed. Of those that were, the row of the newest is left, so that its id is not
/// given to another event.
const REMOVED: u64 = 4;

impl Ends {
    fn page<C>(&self, events: C) -> Page<C> {
        Page {
            events,
            oldest: self.oldest,
            head: self.head,
            // Ids are dense: what is missing before the oldest was removed.
            trimmed: match self.oldest {
                Some(oldest) => EventId::new(oldest.get() - 1),
                None => self.head,
            },
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
            log: Arc::default(),
            audience: Mutex::default(),
        }
    }

    /// The keys that begin with `prefix`, in their own order, without the prefix.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>, SqliteError<Q::Error>> {
        self.with_log(|log| {
            if log.keys.is_none() && self.ends(log)?.closed {
                // Not kept: a log that has ended is seldom written.
                let keys = self.sql.exec(
                    "SELECT key FROM events WHERE key >= ?1 ORDER BY key",
                    &[SqlValue::Text(prefix.to_owned())],
                )?;
                let keys = keys.into_iter().map(|row| text(row.into_iter().next()));
                let keys = keys.collect::<Result<Vec<_>, SqliteError<Q::Error>>>()?;
                let behind = |key: &String| key.strip_prefix(prefix).map(str::to_owned);
                return Ok(keys.iter().map_while(behind).collect());
            }
            Ok(self.known_keys(log)?.behind(prefix))
        })
    }

    /// As [`keys`](Self::keys), but of the keys that end in a colon and a number, only the one with
    /// the greatest number where `only_newest` says so of what is before the number. Of a long log
    /// this takes little memory.
    ///
    /// # Errors
    /// When SQLite fails.
    pub(crate) fn keys_but_older(
        &self,
        prefix: &str,
        only_newest: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, SqliteError<Q::Error>> {
        self.with_log(|log| {
            if log.keys.is_none() && self.ends(log)?.closed {
                // Not kept, see `keys`.
                return Ok(self.read_keys()?.behind_but_older(prefix, only_newest));
            }
            Ok(self.known_keys(log)?.behind_but_older(prefix, only_newest))
        })
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

    /// Removes all events, as if none had ever been appended.
    ///
    /// # Errors
    /// When SQLite fails.
    pub(crate) fn remove_all(&self) -> Result<(), SqliteError<Q::Error>> {
        self.sql.exec("DROP TABLE IF EXISTS events", &[])?;
        self.forget();
        Ok(())
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

    /// When all events were removed, by the store's clock in milliseconds. `None` while there are
    /// some, and where there never were.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn emptied(&self) -> Result<Option<SystemTime>, SqliteError<Q::Error>> {
        self.with_log(|log| {
            let ends = self.ends(log)?;
            let is_emptied = ends.head.is_some() && ends.oldest.is_none();
            Ok(is_emptied.then(|| clock::from_milliseconds(ends.time)))
        })
    }

    /// Removes the events up to this one and including it. Their ids are never given to others: one
    /// small row is left of them. Whoever has not read them all yet is told by a
    /// [`Reset`](crate::event::Reset). Their keys are forgotten.
    ///
    /// # Errors
    /// When SQLite fails. Then nothing was removed.
    pub fn trim(&self, last: EventId) -> Result<(), SqliteError<Q::Error>> {
        self.trim_but_key(last, None)
    }

    /// As [`trim`](Self::trim), and this key stays: its fact is known until more is removed.
    pub(crate) fn trim_but_key(
        &self,
        last: EventId,
        key: Option<String>,
    ) -> Result<(), SqliteError<Q::Error>> {
        self.with_log(|log| {
            let ends = self.ends(log)?;
            let (Some(oldest), Some(head)) = (ends.oldest, ends.head) else {
                return Ok(());
            };
            let last = last.min(head);
            if last < oldest {
                return Ok(());
            }
            let key = key.map_or(SqlValue::Null, SqlValue::Text);
            // The time of a row that has others after it stays, so that times never decrease.
            let time = match last == head {
                true => ends.time.max(clock::milliseconds(clock::now())),
                false => 0,
            };
            let left = [integer(last.get()), integer(REMOVED), key, integer(time)];
            self.sql.run_all(&[
                (
                    "UPDATE events SET terminal = ?2, key = ?3, data = NULL, frame = '', \
                     time = max(time, ?4) WHERE id = ?1",
                    left.into(),
                ),
                (
                    "DELETE FROM events WHERE id < ?1",
                    vec![integer(last.get())],
                ),
            ])?;
            *log = Log::default();
            Ok(())
        })?;
        self.bell.ring();
        Ok(())
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
            "SELECT (SELECT id FROM events WHERE terminal < 4 ORDER BY id LIMIT 1), \
             id, terminal, time, size, writer FROM events ORDER BY id DESC LIMIT 1"
        } else {
            "SELECT (SELECT id FROM events WHERE terminal < 4 ORDER BY id LIMIT 1), \
             id, terminal, time, size, 0 FROM events ORDER BY id DESC LIMIT 1"
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
            closed: number(columns.next())? & TERMINAL != 0,
            time: number(columns.next())?,
            size: number(columns.next())?,
            writer: number(columns.next())?,
        })
    }

    fn known_keys<'a>(
        &self,
        log: &'a mut Log<Q::Bytes>,
    ) -> Result<&'a mut Keys, SqliteError<Q::Error>> {
        let keys = match log.keys.take() {
            Some(keys) => keys,
            None if self.ends(log)?.has_table => self.read_keys()?,
            None => Keys::default(),
        };
        Ok(log.keys.insert(keys))
    }

    fn read_keys(&self) -> Result<Keys, SqliteError<Q::Error>> {
        let mut keys = Keys::default();
        let mut after = 0;
        loop {
            // Not all at once, which may be more than there is memory for.
            let rows = self.sql.exec(
                "SELECT id, key FROM events WHERE id > ?1 AND key IS NOT NULL \
                 ORDER BY id LIMIT 10000",
                &[integer(after)],
            )?;
            let is_last = rows.len() < 10_000;
            for row in rows {
                let mut columns = row.into_iter();
                after = number(columns.next())?;
                keys.insert(&text(columns.next())?);
            }
            if is_last {
                return Ok(keys);
            }
        }
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
                && !keys.insert(key)
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
                id,
                frame: start..frames.len(),
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
        let mut statements = Vec::new();
        statements.extend(table_statement(&mut ends).map(|statement| (statement, Vec::new())));
        let is_watched = self.viewers() > 0;
        let mut size = before.size;
        for rows in statements_of(&rows) {
            let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
                continue;
            };
            let frames = &frames[first.frame.start..last.frame.end];
            let bytes = Q::Bytes::from_slice(frames);
            let stored = match first.is_head_only() {
                true => Q::Bytes::from_slice(wire::head(frames)),
                false => bytes.clone(),
            };
            let common = [
                integer(first.id.get()),
                integer(ends.time),
                SqlValue::Bytes(stored),
                integer(writer),
            ];
            statements.push(match rows {
                [row] => (INSERT_ROW, row.params(common).into()),
                rows => {
                    let params = params_of_rows(common, rows).map_err(SqliteError::Encode)?;
                    (INSERT_ROWS, params.into())
                }
            });
            if is_watched {
                log.tail.push(Piece {
                    after: first.id.get() - 1,
                    last: last.id,
                    events: rows.len(),
                    size: last.size - size,
                    bytes,
                    length: frames.len(),
                });
            }
            size = last.size;
        }
        match statements.as_slice() {
            [(statement, params)] => self.sql.run(statement, params)?,
            statements => self.sql.run_all(statements)?,
        }
        if ends.closed {
            log.keys = None;
        }
        log.ends = Some(ends);
        Ok(outcomes)
    }

    fn viewers(&self) -> usize {
        lock(&self.audience).strong_count()
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
        let viewers = self.viewers();
        let limit = frame_limit(limit, viewers);
        if let Some(frames) = log.tail.page(after, limit) {
            return Ok(ends.page(Some(frames)));
        }
        let page = self.sql.exec(
            // One row for the whole page.
            concat!(
                "SELECT max(id), CAST(group_concat(frame, '') AS BLOB), max(terminal) FROM (",
                "SELECT id, frame, terminal FROM events ",
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
        let mut frames = Frames { bytes, last };
        if number(columns.next())? & HEAD_ONLY != 0 {
            let mut bytes = Vec::new();
            for event in self.page(log, EventId::new(after), limit)?.events {
                wire::encode(&event, &mut bytes);
            }
            frames.bytes = Q::Bytes::from_slice(&bytes);
        }
        if viewers > 0 {
            log.tail.remember(after, limit, &frames);
        }
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

/// Creates the table, or adds to one of an earlier version what that did not have. Only an append
/// does: reading stores nothing.
fn table_statement(ends: &mut Ends) -> Option<&'static str> {
    let statement = if !ends.has_table {
        // No AUTOINCREMENT: it writes a second row for each insert. The store numbers the events,
        // since an id is part of its event's frame.
        //
        // `size` counts the bytes of data from the first event on, so that a page's end is found
        // without adding up. `data` is there only where the frame has lost how its lines ended;
        // type and data are otherwise read from the frame.
        "CREATE TABLE events (id INTEGER PRIMARY KEY, time INTEGER NOT NULL, \
         size INTEGER NOT NULL, terminal INTEGER NOT NULL, key TEXT, data TEXT, \
         frame TEXT NOT NULL, writer INTEGER NOT NULL DEFAULT 0)"
    } else if !ends.has_writer {
        "ALTER TABLE events ADD COLUMN writer INTEGER NOT NULL DEFAULT 0"
    } else {
        return None;
    };
    (ends.has_table, ends.has_writer) = (true, true);
    Some(statement)
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

/// What a page of frames may have at most, whatever was asked for. SQLite takes no value above
/// 2,000,000 bytes, and of this much data the frames have at most 1.5 million: each byte may be a
/// line of its own, which takes six bytes more, and each event has a type of up to 1,024.
const PAGE: PageLimit = PageLimit {
    events: 512,
    bytes: 128 * 1024,
};
/// What the pages of all viewers may have together, about: each is sent one at a time. Where
/// viewers are many, pages are smaller.
const PAGES: usize = 16 << 20;
const SMALLEST_PAGE: usize = 4 * 1024;

fn frame_limit(limit: PageLimit, viewers: usize) -> PageLimit {
    let share = PAGES / viewers.max(1);
    // Few sizes, so that those who are at the same place share their page.
    let share = (1 << share.max(SMALLEST_PAGE).ilog2()).min(PAGE.bytes);
    PageLimit {
        events: limit.events.min(PAGE.events),
        bytes: limit.bytes.min(share),
    }
}

/// An event on its way into the table.
struct Row<'a> {
    id: EventId,
    /// Where its frame is among those of the batch.
    frame: Range<usize>,
    size: u64,
    terminal: bool,
    key: Option<String>,
    data: Option<&'a str>,
}

/// What one statement may have in one value, and what a row may have in all: less than SQLite's
/// 2,000,000, since there are numbers and lengths besides.
const VALUE: usize = 1_900_000;
const ROW: usize = 1_980_000;

/// The rows in the order they have, so many at a time as one statement takes.
fn statements_of<'a, 'b>(rows: &'b [Row<'a>]) -> impl Iterator<Item = &'b [Row<'a>]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let (mut frames, mut names, mut is_whole) = (0, 0, true);
        let fits = |row: &&Row<'_>| {
            let first = frames == 0;
            frames += row.frame.len();
            names += row.names_length();
            // One that is only in part in its frame goes alone.
            let fits = is_whole && frames <= VALUE && names <= VALUE && !row.is_head_only();
            is_whole = !row.is_head_only();
            first || fits
        };
        let (rows, behind) = rest.split_at(rest.iter().take_while(fits).count());
        rest = behind;
        (!rows.is_empty()).then_some(rows)
    })
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
    fn is_head_only(&self) -> bool {
        let key = self.key.as_ref().map_or(0, String::len);
        let data = self.data.map_or(0, str::len);
        data > 0 && key + data + self.frame.len() > ROW
    }

    fn params<B>(&self, [first, time, frames, writer]: Common<B>) -> [SqlValue<B>; 8] {
        let text = |text: &str| SqlValue::Text(text.to_owned());
        let head_only = u64::from(self.is_head_only()) * HEAD_ONLY;
        [
            first,
            time,
            frames,
            writer,
            integer(self.size),
            integer(u64::from(self.terminal) * TERMINAL + head_only),
            self.key.as_deref().map_or(SqlValue::Null, text),
            self.data.map_or(SqlValue::Null, text),
        ]
    }

    /// As SQL's `substr` counts, from 1, in frames that begin here.
    fn push_numbers(&self, begin: usize, out: &mut Vec<u8>) {
        wire::encode_number((self.frame.start - begin) as u64 + 1, 10, out);
        wire::encode_number(self.frame.len() as u64, 10, out);
        wire::encode_number(self.size, 16, out);
        wire::encode_number(u64::from(self.terminal) * TERMINAL, 2, out);
    }

    fn names(&self) -> Names<'_> {
        let key = self.key.as_deref();
        self.data
            .map_or(Names::Key(key), |data| Names::Both(key, data))
    }

    /// How many bytes [`names`](Self::names) has as JSON, at most.
    fn names_length(&self) -> usize {
        let escaped = |text: &str| {
            let length = |byte| match byte {
                b'"' | b'\\' => 2,
                0..0x20 => 6,
                _ => 1,
            };
            text.bytes().map(length).sum::<usize>()
        };
        let names = [self.key.as_deref(), self.data];
        names.into_iter().flatten().map(escaped).sum::<usize>() + 12
    }
}

fn params_of_rows<B: FrameBytes>(
    [first, time, frames, writer]: Common<B>,
    rows: &[Row<'_>],
) -> Result<[SqlValue<B>; 6], serde_json::Error> {
    let names: Vec<_> = rows.iter().map(Row::names).collect();
    let begin = rows.first().map_or(0, |row| row.frame.start);
    let mut numbers = Vec::with_capacity(38 * rows.len());
    for row in rows {
        row.push_numbers(begin, &mut numbers);
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
        data: data
            .or_else(|| decoded.map(str::to_owned))
            .ok_or(SqliteError::Row)?,
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
