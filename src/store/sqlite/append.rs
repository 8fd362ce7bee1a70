//! Appending: a batch becomes one statement, or a few that take effect together.

use std::ops::Range;

use serde::Serialize;

use super::column::{HEAD_ONLY, TERMINAL, integer};
use super::ends::{Ends, table_statement};
use super::{Log, Sql, SqlValue, SqliteError, SqliteEventStore, Statement};
use crate::event::{EventId, EventRef, KeyRef};
use crate::store::Appended;
use crate::store::frames::FrameBytes;
use crate::store::tail::Piece;
use crate::{clock, wire};

impl<Q: Sql> SqliteEventStore<Q> {
    /// As [`EventStore::append`](crate::store::EventStore::append), without a future: SQLite has
    /// none to wait for. `writer` is kept with each event, at most [`EventId::MAX`]: see
    /// [`writer`](Self::writer).
    pub(crate) fn append_now(
        &self,
        batch: &[EventRef<'_>],
        writer: u64,
    ) -> Result<Vec<Appended>, SqliteError<Q::Error>> {
        self.append_with(batch, writer, Vec::new())
    }

    /// As [`append_now`](Self::append_now). These statements take effect with it, if an event is stored.
    #[inline(never)]
    pub(crate) fn append_with(
        &self,
        batch: &[EventRef<'_>],
        writer: u64,
        beside: Vec<Statement<Q::Bytes>>,
    ) -> Result<Vec<Appended>, SqliteError<Q::Error>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let outcomes = self.with_log(|log| self.insert(log, batch, writer, beside))?;
        if outcomes
            .iter()
            .any(|outcome| *outcome != Appended::Duplicate)
        {
            self.bell.ring();
        }
        Ok(outcomes)
    }

    pub(super) fn insert(
        &self,
        log: &mut Log<Q::Bytes>,
        batch: &[EventRef<'_>],
        writer: u64,
        beside: Vec<Statement<Q::Bytes>>,
    ) -> Result<Vec<Appended>, SqliteError<Q::Error>> {
        let before = self.ends(log)?;
        let mut ends = before;
        ends.time = before.time.max(clock::milliseconds(clock::now()));
        ends.writer = writer;
        let encoded = self.encode(log, batch, &mut ends)?;
        if encoded.rows.is_empty() {
            return Ok(encoded.outcomes);
        }
        let mut statements = Vec::new();
        statements.extend(table_statement(&mut ends).map(|statement| (statement, Vec::new())));
        self.insert_rows(log, &encoded, before.size, &ends, &mut statements)?;
        statements.extend(encoded.digest);
        statements.extend(beside);
        match statements.as_slice() {
            [(statement, params)] => self.sql.run(statement, params)?,
            statements => self.sql.run_all(statements)?,
        }
        if ends.closed {
            log.keys = None;
        }
        log.ends = Some(self.bounded(ends));
        if self.remove_rows(log).is_err() {
            // The events are stored; the next append removes what is too old.
            log.forget();
        }
        Ok(encoded.outcomes)
    }

    /// Gives each new event its id, and encodes it. Brings `ends` up to date.
    #[inline(never)]
    fn encode<'a>(
        &self,
        log: &mut Log<Q::Bytes>,
        batch: &[EventRef<'a>],
        ends: &mut Ends,
    ) -> Result<Encoded<'a, Q::Bytes>, SqliteError<Q::Error>> {
        let digests = self.digests();
        let keys = self.known_keys(log)?;
        let length = |event: &EventRef<'_>| event.size() + wire::FRAME;
        let mut frames = Vec::with_capacity(batch.iter().map(length).sum());
        let mut rows = Vec::with_capacity(batch.len());
        let mut outcomes = Vec::with_capacity(batch.len());
        for event in batch {
            let key = event.key.map(KeyRef::to_owned);
            if let Some(key) = &key
                && !keys.insert(key, digests)
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
            if ends.oldest.is_none() {
                (ends.oldest, ends.oldest_time) = (ends.head, ends.time);
            }
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
        let digest = match digests && !rows.is_empty() {
            true => keys.digest(ends.head),
            false => Vec::new(),
        };
        ends.has_digest |= !digest.is_empty();
        Ok(Encoded {
            frames,
            rows,
            outcomes,
            digest,
        })
    }

    /// Adds the statements that insert the rows, and gives the rows to those who wait. `size` is the log's before them,
    /// and `ends` are those after them.
    #[inline(never)]
    fn insert_rows(
        &self,
        log: &mut Log<Q::Bytes>,
        encoded: &Encoded<'_, Q::Bytes>,
        mut size: u64,
        ends: &Ends,
        statements: &mut Vec<Statement<Q::Bytes>>,
    ) -> Result<(), SqliteError<Q::Error>> {
        let is_watched = log.is_watched();
        for rows in statements_of(&encoded.rows) {
            let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
                continue;
            };
            let frames = &encoded.frames[first.frame.start..last.frame.end];
            let bytes = Q::Bytes::from_slice(frames);
            let stored = match first.is_head_only() {
                true => Q::Bytes::from_slice(wire::head(frames)),
                false => bytes.clone(),
            };
            let common = [
                integer(first.id.get()),
                integer(ends.time),
                SqlValue::Bytes(stored),
                integer(ends.writer),
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
        Ok(())
    }
}

/// A batch as it will be stored.
struct Encoded<'a, B> {
    frames: Vec<u8>,
    /// The events that are new.
    rows: Vec<Row<'a>>,
    /// Of all events.
    outcomes: Vec<Appended>,
    /// The statements that store the keys.
    digest: Vec<Statement<B>>,
}

/// An event on its way into the table.
struct Row<'a> {
    id: EventId,
    /// The place of its frame among those of the batch.
    frame: Range<usize>,
    size: u64,
    terminal: bool,
    key: Option<String>,
    data: Option<&'a str>,
}

/// The most bytes of one value of a statement, and of a whole row: less than SQLite's 2,000,000,
/// since a row has numbers and lengths besides.
const VALUE: usize = 1_900_000;

const ROW: usize = 1_980_000;

/// Splits the rows, in their order, into the portions of one statement each.
fn statements_of<'a, 'b>(rows: &'b [Row<'a>]) -> impl Iterator<Item = &'b [Row<'a>]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let (mut frames, mut names, mut numbers, mut is_whole) = (0, 0, 0, true);
        let fits = |row: &&Row<'_>| {
            let first = frames == 0;
            frames += row.frame.len();
            names += row.names_length();
            // The smallest frames are shorter.
            numbers += NUMBERS;
            // A row that has only the head of its frame goes alone.
            let is_bounded = frames.max(names).max(numbers) <= VALUE;
            let fits = is_whole && is_bounded && !row.is_head_only();
            is_whole = !row.is_head_only();
            first || fits
        };
        let (rows, behind) = rest.split_at(rest.iter().take_while(fits).count());
        rest = behind;
        (!rows.is_empty()).then_some(rows)
    })
}

/// Inserts one row. The first four parameters are those of [`INSERT_ROWS`]: the first id, the time,
/// the frames and the writer.
const INSERT_ROW: &str = "INSERT INTO events (id, time, frame, writer, size, terminal, key, data) \
                          VALUES (?1, ?2, CAST(?3 AS TEXT), ?4, ?5, ?6, ?7, ?8)";

/// Inserts many rows. They are the elements of a JSON array, whose `key` is their index: each is
/// the event's key, or its key and its data if there are data. Their numbers are digits of fixed
/// width in a blob, where SQLite finds them without parsing, which takes a third off the whole
/// statement.
const INSERT_ROWS: &str = "INSERT INTO events (id, time, frame, writer, size, terminal, key, data) \
     SELECT ?1 + key, ?2, \
     CAST(substr(?3, substr(?6, 38 * key + 1, 10), substr(?6, 38 * key + 11, 10)) AS TEXT), ?4, \
     CAST(substr(?6, 38 * key + 21, 16) AS INTEGER), \
     CAST(substr(?6, 38 * key + 37, 2) AS INTEGER), \
     iif(type = 'array', value ->> 0, atom), \
     iif(type = 'array', value ->> 1, NULL) \
     FROM json_each(?5)";

/// How many digits [`INSERT_ROWS`] has for each row.
const NUMBERS: usize = 38;

/// The parameters that a batch has once.
type Common<B> = [SqlValue<B>; 4];

impl Row<'_> {
    fn is_head_only(&self) -> bool {
        let key = self.key.as_ref().map_or(0, String::len);
        let data = self.data.map_or(0, str::len);
        data > 0 && key + data + self.frame.len() > ROW
    }

    #[inline(never)]
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

    /// Writes the row's numbers. Positions count from 1, as SQL's `substr` does, from `begin`.
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

    /// Returns the most bytes that [`names`](Self::names) has as JSON.
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

#[inline(never)]
fn params_of_rows<B: FrameBytes>(
    [first, time, frames, writer]: Common<B>,
    rows: &[Row<'_>],
) -> Result<[SqlValue<B>; 6], serde_json::Error> {
    let names: Vec<_> = rows.iter().map(Row::names).collect();
    let begin = rows.first().map_or(0, |row| row.frame.start);
    let mut numbers = Vec::with_capacity(NUMBERS * rows.len());
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
