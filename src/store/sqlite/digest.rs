//! The keys of a long log in few rows, so that whoever opens it does not read all events.
//!
//! A digest has all keys from the first event of the table to a certain one. It is brought up to date by the append
//! that comes [`EVERY`] events later, in the same transaction, so that it costs one row for so many. Keys that are
//! ranges stay ranges: those of 20,000 reports are one line. It is never needed: where there is none, or one that
//! does not fit the events, all keys are read from the events.

use std::fmt::Write;
use std::sync::Arc;

use super::column::{integer, number, text};
use super::keys::{Keys, NewKey, Numbered};
use super::{Log, Sql, SqlValue, SqliteError, SqliteEventStore};
use crate::event::EventId;

/// How many events come between two digests.
const EVERY: u64 = 512;

/// About the most bytes that a row has: what takes it beyond is its last.
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
    /// The last event of the last digest, 0 if there is none.
    digested: u64,
    /// The plain keys that came since then.
    plain: Vec<Arc<str>>,
    /// The numbered keys of the newest row, and those that came since then.
    numbered: Numbered,
    /// The plain keys of the newest row, as text.
    row_text: String,
    /// The number of that row.
    row: u64,
}

type Statement<B> = (&'static str, Vec<SqlValue<B>>);

impl KnownKeys {
    pub(super) fn all(&self) -> &Keys {
        &self.all
    }

    /// Adds a key, and returns whether it is new. With `digests` the next digest has it.
    #[inline(never)]
    pub(super) fn insert(&mut self, key: &str, digests: bool) -> bool {
        let Some(new) = self.all.insert(key) else {
            return false;
        };
        match new {
            _ if !digests => {}
            NewKey::Plain(key) => self.plain.push(key),
            NewKey::Numbered(name, number) => {
                self.numbered.entry(&name).1.insert(number);
            }
        }
        true
    }

    /// Returns the statements that bring the digest up to date where that is due, for a log whose newest event is
    /// this one.
    #[inline(never)]
    pub(super) fn digest<B>(&mut self, head: Option<EventId>) -> Vec<Statement<B>> {
        let head = head.map_or(0, EventId::get);
        if head < self.digested.saturating_add(EVERY) {
            return Vec::new();
        }
        let mut statements = Vec::new();
        if self.digested == 0 {
            statements.extend([(DROP, Vec::new()), (CREATE, Vec::new())]);
        }
        self.digested = head;
        for key in std::mem::take(&mut self.plain) {
            push(&key, &mut self.row_text);
            self.row_text.push(';');
            if self.row_text.len() > ROW {
                statements.push(self.full_row());
            }
        }
        // Numbers are written anew each time, since ranges grow.
        let plain = self.row_text.clone();
        let numbered = std::mem::take(&mut self.numbered);
        let row = self.row;
        for (name, ranges) in numbered.iter() {
            let mut is_named = false;
            for (first, last) in ranges.iter() {
                // The ranges of one name may be more than a row can have. The next row names it again.
                if self.row_text.len() > ROW {
                    if std::mem::take(&mut is_named) {
                        self.row_text.push(';');
                    }
                    statements.push(self.full_row());
                }
                if !std::mem::replace(&mut is_named, true) {
                    push(name, &mut self.row_text);
                }
                // Writing to a string cannot fail.
                let _ = write!(self.row_text, "{first}-{last},");
            }
            self.row_text.push(';');
        }
        if self.row == row && self.row_text.len() <= ROW {
            // The row has room for more.
            statements.push(self.write());
            (self.row_text, self.numbered) = (plain, numbered);
        } else {
            statements.push(self.full_row());
        }
        statements
    }

    /// Writes the row for the last time.
    fn full_row<B>(&mut self) -> Statement<B> {
        let row = self.write();
        self.row_text.clear();
        self.row += 1;
        row
    }

    fn write<B>(&self) -> Statement<B> {
        let text = SqlValue::Text(self.row_text.clone());
        (WRITE, vec![integer(self.row), integer(self.digested), text])
    }
}

/// Writes a key with its length before it, so that it may have any character.
fn push(key: &str, text: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(text, "{}:{key}", key.len());
}

/// Adds the keys of a row, which may have further numbers of a name. Returns `None` for what is no such text.
fn read(mut text: &str, keys: &mut Keys) -> Option<()> {
    while !text.is_empty() {
        let (length, rest) = text.split_once(':')?;
        let (key, rest) = rest.split_at_checked(length.parse().ok()?)?;
        let (ranges, rest) = rest.split_once(';')?;
        if ranges.is_empty() {
            keys.insert_plain(key);
        }
        for range in ranges.split_terminator(',') {
            let (first, last) = range.split_once('-')?;
            keys.insert_range(key, first.parse().ok()?, last.parse().ok()?);
        }
        text = rest;
    }
    Some(())
}

impl<Q: Sql> SqliteEventStore<Q> {
    /// Returns the keys that begin with `prefix`, sorted, without the prefix.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>, SqliteError<Q::Error>> {
        self.keys_but_older(prefix, &|_| false)
    }

    /// Returns whether the event with this key is kept.
    pub(crate) fn keeps_key(&self, key: String) -> Result<bool, SqliteError<Q::Error>> {
        let Some(oldest) = self.known_ends()?.oldest else {
            return Ok(false);
        };
        let found = self.sql.exec(
            "SELECT id FROM events WHERE id >= ?1 AND key = ?2 LIMIT 1",
            &[integer(oldest.get()), SqlValue::Text(key)],
        )?;
        Ok(!found.is_empty())
    }

    /// Returns fewer keys than [`keys`](Self::keys): of keys that differ only in the number after
    /// their last colon, only the greatest if `only_newest` returns true for the part before the
    /// number. Takes little memory, even for a long log.
    ///
    /// # Errors
    /// When SQLite fails.
    pub(crate) fn keys_but_older(
        &self,
        prefix: &str,
        only_newest: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<String>, SqliteError<Q::Error>> {
        self.with_log(|log| {
            if log.keys.is_none() && self.ends(log)?.closed {
                // Not remembered: a log that has ended is seldom written.
                let keys = self.read_keys(log)?;
                return Ok(keys.all().behind_but_older(prefix, only_newest));
            }
            let keys = self.known_keys(log)?;
            Ok(keys.all().behind_but_older(prefix, only_newest))
        })
    }

    pub(super) fn known_keys<'a>(
        &self,
        log: &'a mut Log<Q::Bytes>,
    ) -> Result<&'a mut KnownKeys, SqliteError<Q::Error>> {
        let keys = match log.keys.take() {
            Some(keys) => keys,
            None if self.ends(log)?.has_table => self.read_keys(log)?,
            None => KnownKeys::default(),
        };
        Ok(log.keys.insert(keys))
    }

    /// Reads all keys: from the digest, and from the events after it.
    #[inline(never)]
    pub(super) fn read_keys(
        &self,
        log: &mut Log<Q::Bytes>,
    ) -> Result<KnownKeys, SqliteError<Q::Error>> {
        let digests = self.digests();
        let mut known = match digests && self.ends(log)?.has_digest {
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
                known.insert(&text(columns.next())?, digests);
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
        loop {
            let rows = self.sql.exec(
                "SELECT row, last, first = (SELECT min(id) FROM events), keys FROM event_keys \
                 WHERE row >= ?1 ORDER BY row LIMIT ?2",
                &[integer(known.row), integer(ROWS as u64)],
            )?;
            let is_last = rows.len() < ROWS;
            for row in rows {
                let mut columns = row.into_iter();
                // A new row is begun behind it.
                known.row = number(columns.next())? + 1;
                known.digested = known.digested.max(number(columns.next())?);
                let fits = number(columns.next())? == 1;
                let keys = text(columns.next())?;
                if !fits || read(&keys, &mut known.all).is_none() {
                    return Ok(KnownKeys::default());
                }
            }
            if is_last {
                return Ok(known);
            }
        }
    }
}

/// Removes the digest, whose keys are to be forgotten.
pub(super) fn removed<B>() -> Statement<B> {
    (DROP, Vec::new())
}
