//! Removing events.

use std::time::SystemTime;

use super::column::{REMOVED, integer, number};
use super::digest::removed;
use super::ends::Ends;
use super::{Log, Sql, SqlValue, SqliteError, SqliteEventStore};
use crate::clock;
use crate::event::EventId;

impl<Q: Sql> SqliteEventStore<Q> {
    /// Returns when all events were removed, by the store's clock, to the millisecond. `None` while
    /// some are kept, and if there never were any.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn emptied(&self) -> Result<Option<SystemTime>, SqliteError<Q::Error>> {
        let ends = self.known_ends()?;
        let is_emptied = ends.head.is_some() && ends.oldest.is_none();
        Ok(is_emptied.then(|| clock::from_milliseconds(ends.time)))
    }

    /// Removes the events up to and including this one, with their keys. No other event gets their
    /// ids: one small row is left of them. A subscriber that has not read them all is reset: see
    /// [`Reset`](crate::event::Reset).
    ///
    /// # Errors
    /// When SQLite fails. Then nothing was removed.
    pub fn trim(&self, last: EventId) -> Result<(), SqliteError<Q::Error>> {
        self.trim_but_key(last, None)
    }

    /// Removes all events with their keys, for example on request: see [`trim`](Self::trim). Does nothing to
    /// a log that has none.
    ///
    /// # Errors
    /// When SQLite fails. Then nothing was removed.
    pub fn clear(&self) -> Result<(), SqliteError<Q::Error>> {
        match self.head()? {
            Some(head) => self.trim(head),
            None => Ok(()),
        }
    }

    /// As [`trim`](Self::trim), but keeps this key: its fact is known until more events are
    /// removed.
    pub(crate) fn trim_but_key(
        &self,
        last: EventId,
        key: Option<String>,
    ) -> Result<(), SqliteError<Q::Error>> {
        self.with_log(|log| {
            let ends = self.ends(log)?;
            // The head counts even if no event is kept: rows of expired events may be left.
            let Some(head) = ends.head else {
                return Ok(());
            };
            let last = last.min(head);
            if last.get() <= ends.removed {
                return Ok(());
            }
            let key = key.map_or(SqlValue::Null, SqlValue::Text);
            // The time of a row that has others after it stays, so that times never decrease.
            let time = match last == head {
                true => ends.time.max(clock::milliseconds(clock::now())),
                false => 0,
            };
            let left = [integer(last.get()), integer(REMOVED), key, integer(time)];
            let mut statements = vec![
                (
                    "UPDATE events SET terminal = ?2, key = ?3, data = NULL, frame = '', \
                     time = max(time, ?4) WHERE id = ?1",
                    left.into(),
                ),
                (
                    "DELETE FROM events WHERE id < ?1",
                    vec![integer(last.get())],
                ),
            ];
            statements.extend(ends.has_digest.then(removed));
            self.sql.run_all(&statements)?;
            log.forget();
            Ok(())
        })?;
        self.bell.ring();
        Ok(())
    }

    /// Excludes the oldest events beyond the limit. Their rows stay for now.
    pub(super) fn bounded(&self, mut ends: Ends) -> Ends {
        let (Some(oldest), Some(head)) = (ends.oldest, ends.head) else {
            return ends;
        };
        let most = self.retention.most() as u64;
        let first = head.get().saturating_sub(most.saturating_sub(1));
        if first > oldest.get() {
            (ends.oldest, ends.oldest_time) = (EventId::new(first), 0);
        }
        ends
    }

    /// Excludes the events that are too old. Their rows stay for now.
    #[inline(never)]
    pub(super) fn aged(&self, mut ends: Ends) -> Result<Ends, SqliteError<Q::Error>> {
        let (Some(age), Some(oldest), Some(head)) = (self.retention.age, ends.oldest, ends.head)
        else {
            return Ok(ends);
        };
        let now = clock::milliseconds(clock::now()).max(ends.time);
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let Some(cutoff) = now.checked_sub(age) else {
            return Ok(ends);
        };
        if ends.oldest_time == 0 {
            ends.oldest_time = self.time_of(oldest)?;
        }
        if ends.oldest_time > cutoff {
            return Ok(ends);
        }
        let last = self.last_before(oldest, head, cutoff + 1)?;
        ends.oldest = EventId::new(last + 1).filter(|oldest| *oldest <= head);
        ends.oldest_time = 0;
        ends.closed &= ends.oldest.is_some();
        Ok(ends)
    }

    fn time_of(&self, event: EventId) -> Result<u64, SqliteError<Q::Error>> {
        let select = "SELECT time FROM events WHERE id = ?1";
        let time = self.sql.exec(select, &[integer(event.get())])?;
        number(time.into_iter().flatten().next())
    }

    /// Removes the rows of excluded events, if they are many.
    #[inline(never)]
    pub(super) fn remove_rows(&self, log: &mut Log<Q::Bytes>) -> Result<(), SqliteError<Q::Error>> {
        /// The fewest rows that are removed at a time.
        const FEWEST: u64 = 64;
        let Some(ends) = &mut log.ends else {
            return Ok(());
        };
        let Some(last) = ends.oldest.map(|oldest| oldest.get() - 1) else {
            return Ok(());
        };
        let many = self.retention.events.map_or(0, |events| events as u64 / 4);
        if last.saturating_sub(ends.removed) < many.max(FEWEST) {
            return Ok(());
        }
        let range = [integer(ends.removed), integer(last), integer(REMOVED)];
        if self.keeps_keys {
            let empty = "UPDATE events SET terminal = ?3, data = NULL, frame = '' WHERE id > ?1 AND id <= ?2";
            self.sql.run(empty, &range)?;
            ends.removed = last;
            return Ok(());
        }
        ends.removed = last;
        let mut statements = vec![
            (
                "UPDATE events SET terminal = ?2, key = NULL, data = NULL, frame = '' WHERE id = ?1",
                vec![integer(last), integer(REMOVED)],
            ),
            ("DELETE FROM events WHERE id < ?1", vec![integer(last)]),
        ];
        statements.extend(ends.has_digest.then(removed));
        self.sql.run_all(&statements)?;
        ends.has_digest = false;
        // The remembered keys include those of the removed events.
        log.keys = None;
        Ok(())
    }

    /// Removes all events, as if none had ever been appended.
    ///
    /// # Errors
    /// When SQLite fails.
    pub(crate) fn remove_all(&self) -> Result<(), SqliteError<Q::Error>> {
        self.sql
            .run_all(&[("DROP TABLE IF EXISTS events", Vec::new()), removed()])?;
        self.forget();
        Ok(())
    }
}
