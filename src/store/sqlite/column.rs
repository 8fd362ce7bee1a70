//! The values of columns and parameters.

use super::{SqlValue, SqliteError};
use crate::event::EventId;

/// What the column `terminal` says of a row, added up.
pub(super) const TERMINAL: u64 = 1;

/// The frame has only the lines before the data: with all of them the row would be larger than
/// SQLite takes. It is made from `data` when it is read.
pub(super) const HEAD_ONLY: u64 = 2;

/// The event was removed. Of those that were, the row of the newest is left, so that its id is not
/// given to another event.
pub(super) const REMOVED: u64 = 4;

/// Ids and limits, a limit that JavaScript cannot hold being as good as none.
pub(super) fn integer<B>(number: u64) -> SqlValue<B> {
    SqlValue::Integer(i64::try_from(number.min(EventId::MAX)).unwrap_or(i64::MAX))
}

pub(super) fn id<B, E>(column: Option<SqlValue<B>>) -> Result<Option<EventId>, SqliteError<E>> {
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

pub(super) fn number<B, E>(column: Option<SqlValue<B>>) -> Result<u64, SqliteError<E>> {
    match column {
        Some(SqlValue::Integer(number)) => u64::try_from(number).map_err(|_| SqliteError::Row),
        _ => Err(SqliteError::Row),
    }
}

pub(super) fn text<B, E>(column: Option<SqlValue<B>>) -> Result<String, SqliteError<E>> {
    match column {
        Some(SqlValue::Text(text)) => Ok(text),
        _ => Err(SqliteError::Row),
    }
}
