//! The keys of a long log in few rows, so that whoever opens it does not read all events.
//!
//! A digest has all keys from the first event of the table to a certain one. It is brought up to date by the append
//! that comes [`EVERY`] events later, in the same transaction, so that it costs one row for so many. Keys that are
//! ranges stay ranges: those of 20,000 reports are one line. It is never needed: where there is none, or one that
//! does not fit the events, all keys are read from the events.

use std::collections::BTreeMap;

use super::column::{integer, number, text};
use super::keys::{Keys, NewKey};
use super::{Log, Sql, SqlValue, SqliteError, SqliteEventStore};
use crate::event::EventId;

/// How many events come between two digests.
const EVERY: u64 = 512;

/// About the most bytes that a row has.
const ROW: usize = 8 * 1024;

/// How many rows are read at a time.
const ROWS: usize = 64;

const DROP: &str = "DROP TABLE IF EXISTS event_keys";
/// `first` is the first event that the table had, whose rows are the digest only as long as it has that one: a
/// version of this crate that knows no digests may have removed events.
const CREATE: &str = "CREATE TABLE event_keys (row INTEGER PRIMARY KEY, first INTEGER NOT NULL, \
                      last INTEGER NOT NULL, keys TEXT NOT NULL)";
const WRITE: &str = "INSERT OR REPLACE INTO event_keys (row, first, last, keys) \
                     VALUES (?1, (SELECT min(id) FROM events), ?2, ?3)";

/// The keys of all events, and what the next digest adds to the last one.
#[derive(Debug, Default)]
pub(super) struct KnownKeys {
    all: Keys,
    /// Those that came since the last digest.
    new: Vec<NewKey>,
    /// The last event of the last digest, 0 if there is none.
    digested: u64,
    /// The keys of the newest row, which has room for more.
    open: Keys,
    /// The number of that row.
    row: u64,
}

type Statement<B> = (&'static str, Vec<SqlValue<B>>);

impl KnownKeys {
    pub(super) fn all(&self) -> &Keys {
        &self.all
    }

    /// Adds the key of an event that is about to be stored, and returns whether it is new.
    pub(super) fn insert(&mut self, key: &str, digests: bool) -> bool {
        let new = self.all.insert(key);
        let is_new = new.is_some();
        self.new.extend(new.filter(|_| digests));
        is_new
    }

    /// Adds the key of an event that was read.
    fn read(&mut self, key: &str) {
        if let Some(new) = self.all.insert(key) {
            // Not to `new`, where ranges are none: these may be many.
            self.open.add(new);
        }
    }

    /// Returns the statements that bring the digest up to date where that is due, for a log whose newest event is
    /// this one.
    pub(super) fn digest<B>(
        &mut self,
        head: Option<EventId>,
    ) -> Result<Vec<Statement<B>>, serde_json::Error> {
        let head = head.map_or(0, EventId::get);
        if head < self.digested.saturating_add(EVERY) {
            return Ok(Vec::new());
        }
        let mut statements = Vec::new();
        if self.digested == 0 {
            statements.extend([(DROP, Vec::new()), (CREATE, Vec::new())]);
        }
        for key in self.new.drain(..) {
            self.open.add(key);
        }
        let mut rows = std::mem::take(&mut self.open).split(ROW);
        // The last one has room for more.
        let open = rows.pop().unwrap_or_default();
        for full in rows {
            statements.push(self.write(&full, head)?);
            self.row += 1;
        }
        statements.push(self.write(&open, head)?);
        self.open = open;
        self.digested = head;
        Ok(statements)
    }

    fn write<B>(&self, keys: &Keys, head: u64) -> Result<Statement<B>, serde_json::Error> {
        let keys = SqlValue::Text(serde_json::to_string(&keys.as_text())?);
        Ok((WRITE, vec![integer(self.row), integer(head), keys]))
    }
}

impl<Q: Sql> SqliteEventStore<Q> {
    /// Reads all keys: from the digest, and from the events after it.
    pub(super) fn read_keys(
        &self,
        log: &mut Log<Q::Bytes>,
    ) -> Result<KnownKeys, SqliteError<Q::Error>> {
        let mut known = match self.ends(log)?.has_digest && self.digests() {
            true => self.read_digest()?,
            false => KnownKeys::default(),
        };
        let mut after = known.digested;
        loop {
            // Page by page: all keys at once may be more than fits into memory.
            let rows = self.sql.exec(
                "SELECT id, key FROM events WHERE id > ?1 AND key IS NOT NULL \
                 ORDER BY id LIMIT 10000",
                &[integer(after)],
            )?;
            let is_last = rows.len() < 10_000;
            for row in rows {
                let mut columns = row.into_iter();
                after = number(columns.next())?;
                known.read(&text(columns.next())?);
            }
            if is_last {
                return Ok(known);
            }
        }
    }

    /// Returns whether digests are written: not where keys are forgotten with their events.
    pub(super) fn digests(&self) -> bool {
        self.keeps_keys || self.retention.is_for_ever()
    }

    /// Reads the digest. Returns no keys if it does not fit the events.
    fn read_digest(&self) -> Result<KnownKeys, SqliteError<Q::Error>> {
        let mut known = KnownKeys::default();
        let mut next = 0;
        loop {
            let rows = self.sql.exec(
                "SELECT row, last, first = (SELECT min(id) FROM events), keys FROM event_keys \
                 WHERE row >= ?1 ORDER BY row LIMIT ?2",
                &[integer(next), integer(ROWS as u64)],
            )?;
            let is_last = rows.len() < ROWS;
            for row in rows {
                let mut columns = row.into_iter();
                known.row = number(columns.next())?;
                known.digested = known.digested.max(number(columns.next())?);
                let fits = number(columns.next())? == 1;
                let keys = serde_json::from_str::<KeysText<String>>(&text(columns.next())?);
                let (true, Ok(keys)) = (fits, keys) else {
                    return Ok(KnownKeys::default());
                };
                known.open = Keys::from_text(keys);
                known.all.join(&known.open);
                next = known.row + 1;
            }
            if is_last {
                return Ok(known);
            }
        }
    }
}

/// Keys as a digest has them: the plain ones, and by name the ranges of numbered ones, each as its first and last.
pub(super) type KeysText<T> = (Vec<T>, BTreeMap<T, Vec<u64>>);

/// Removes the digest, whose keys are to be forgotten.
pub(super) fn removed<B>() -> Statement<B> {
    (DROP, Vec::new())
}
