//! Removing events.

use std::time::SystemTime;

use super::column::{REMOVED, integer};
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
        self.with_log(|log| {
            let ends = self.ends(log)?;
            let is_emptied = ends.head.is_some() && ends.oldest.is_none();
            Ok(is_emptied.then(|| clock::from_milliseconds(ends.time)))
        })
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

    /// As [`trim`](Self::trim), but keeps this key: its fact is known until more events are
    /// removed.
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

    /// Removes all events, as if none had ever been appended.
    ///
    /// # Errors
    /// When SQLite fails.
    pub(crate) fn remove_all(&self) -> Result<(), SqliteError<Q::Error>> {
        self.sql.exec("DROP TABLE IF EXISTS events", &[])?;
        self.forget();
        Ok(())
    }
}
