//! Reading: pages of events and of frames, each one statement.

use std::time::SystemTime;

use super::column::{HEAD_ONLY, id, integer, number, text};
use super::{Log, Sql, SqlRow, SqlValue, SqliteError, SqliteEventStore};
use crate::event::{EventId, StoredEvent};
use crate::store::frames::{FrameBytes, FramePage, Frames};
use crate::store::{Page, PageLimit};
use crate::{clock, wire};

impl<Q: Sql> SqliteEventStore<Q> {
    /// As [`EventStore::read`](crate::store::EventStore::read), without a future: SQLite has none to
    /// wait for.
    pub(crate) fn read_now(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<Page, SqliteError<Q::Error>> {
        self.with_log(|log| self.page(log, after, limit))
    }

    pub(super) fn page(
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

    pub(super) fn page_of_frames(
        &self,
        log: &mut Log<Q::Bytes>,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<Q::Bytes>, SqliteError<Q::Error>> {
        let ends = self.ends(log)?;
        let Some(after) = ends.start(after) else {
            return Ok(ends.page(None));
        };
        let limit = frame_limit(limit, Q::Bytes::PAGES, log.viewers());
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
        if log.is_watched() {
            log.tail.remember(after, limit, &frames);
        }
        Ok(ends.page(Some(frames)))
    }

    /// Returns the position of [`EventStore::before`](crate::store::EventStore::before).
    pub(super) fn position_before(
        &self,
        time: SystemTime,
    ) -> Result<Option<EventId>, SqliteError<Q::Error>> {
        let ends = self.known_ends()?;
        // Times never decrease with ids, so the ids can be bisected without an index of times,
        // which would be a second row written for each event.
        let (Some(oldest), Some(head)) = (ends.oldest, ends.head) else {
            return Ok(None);
        };
        let last = self.last_before(oldest, head, clock::milliseconds(time))?;
        Ok(EventId::new(last).filter(|before| *before >= oldest))
    }

    /// Returns the id of the last event, from `oldest` to `head`, that was stored before this time; the id
    /// before the oldest if none was.
    pub(super) fn last_before(
        &self,
        oldest: EventId,
        head: EventId,
        time: u64,
    ) -> Result<u64, SqliteError<Q::Error>> {
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
        Ok(low - 1)
    }
}

/// Selects the events of a page. Ids are dense, so they bound how many rows SQLite looks at. It
/// reads only the columns before `key` of those rows, and loads no event that does not fit into the
/// page.
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

/// The limit of a page of frames, whatever the request. SQLite takes no value above 2,000,000 bytes, and the frames
/// of this much data have at most 1.5 million: each byte may be a line of its own, which takes six bytes more, and
/// each event has a type of up to 1,024.
const PAGE: PageLimit = PageLimit {
    events: 512,
    bytes: 128 * 1024,
};

const SMALLEST_PAGE: usize = 4 * 1024;

/// Returns the limit of a page: of the bytes that the [pages](FrameBytes::PAGES) of all viewers may have together, a
/// viewer's share.
fn frame_limit(limit: PageLimit, pages: usize, viewers: usize) -> PageLimit {
    let share = pages / viewers.max(1);
    // Few different sizes, so that viewers at the same position share their page.
    let share = (1 << share.max(SMALLEST_PAGE).ilog2()).min(PAGE.bytes);
    PageLimit {
        events: limit.events.min(PAGE.events),
        bytes: limit.bytes.min(share),
    }
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
