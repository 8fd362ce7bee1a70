//! The ends of the log, and the table itself.

use super::column::{TERMINAL, id, number};
use super::{Log, Sql, SqliteError, SqliteEventStore};
use crate::event::EventId;
use crate::store::Page;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    pub(super) has_table: bool,
    /// Whether the table has the column `writer`. Tables of the first version do not.
    pub(super) has_writer: bool,
    /// Whether there is a [digest](super::digest) of the keys.
    pub(super) has_digest: bool,
    pub(super) oldest: Option<EventId>,
    /// When the oldest event was stored; 0 if it was not looked up.
    pub(super) oldest_time: u64,
    /// The events up to this id have no rows any more, or rows without content.
    pub(super) removed: u64,
    pub(super) head: Option<EventId>,
    pub(super) closed: bool,
    /// When the newest event was stored, or removed if no event is left.
    pub(super) time: u64,
    /// The bytes of all data, from the first event ever to the newest.
    pub(super) size: u64,
    /// The writer of the newest event: see [`SqliteEventStore::writer`].
    pub(super) writer: u64,
}

impl Ends {
    pub(super) fn page<C>(&self, events: C) -> Page<C> {
        Page {
            events,
            oldest: self.oldest,
            head: self.head,
            // Ids are dense: all events before the oldest were removed.
            trimmed: match self.oldest {
                Some(oldest) => EventId::new(oldest.get() - 1),
                None => self.head,
            },
            closed: self.closed,
        }
    }
}

impl Ends {
    /// Returns the position after which a page begins, if an event follows it.
    pub(super) fn start(&self, after: Option<EventId>) -> Option<u64> {
        let oldest = self.oldest?.get();
        (self.head > after).then(|| after.map_or(0, EventId::get).max(oldest - 1))
    }
}

impl<Q: Sql> SqliteEventStore<Q> {
    pub(super) fn ends(&self, log: &mut Log<Q::Bytes>) -> Result<Ends, SqliteError<Q::Error>> {
        let ends = match log.ends {
            Some(ends) => ends,
            None => self.bounded(self.read_ends()?),
        };
        let ends = self.aged(ends)?;
        log.ends = Some(ends);
        Ok(ends)
    }

    #[inline(never)]
    pub(super) fn read_ends(&self) -> Result<Ends, SqliteError<Q::Error>> {
        let table = self.sql.exec(
            "SELECT instr(sql, ' writer '), \
             EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'event_keys') \
             FROM sqlite_master WHERE type = 'table' AND name = 'events'",
            &[],
        )?;
        let Some(table) = table.into_iter().next() else {
            return Ok(Ends::default());
        };
        let mut table = table.into_iter();
        let has_writer = number(table.next())? > 0;
        let has_digest = number(table.next())? > 0;
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
                has_digest,
                ..Ends::default()
            });
        };
        let mut columns = newest.into_iter();
        let oldest = id(columns.next())?;
        let head = id(columns.next())?;
        Ok(Ends {
            has_table: true,
            has_writer,
            has_digest,
            oldest,
            oldest_time: 0,
            removed: oldest.map_or(head.map_or(0, EventId::get), |oldest| oldest.get() - 1),
            head,
            closed: number(columns.next())? & TERMINAL != 0,
            time: number(columns.next())?,
            size: number(columns.next())?,
            writer: number(columns.next())?,
        })
    }
}

/// Returns the statement that creates the table, or adds the columns that an earlier version did
/// not have. Only an append runs it: reading stores nothing.
#[inline(never)]
pub(super) fn table_statement(ends: &mut Ends) -> Option<&'static str> {
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
