//! The values of columns and parameters.

use super::{SqlValue, SqliteError};
use crate::event::EventId;

/// Flags of the column `terminal`, added up.
pub(super) const TERMINAL: u64 = 1;

/// The frame has only the lines before the data: with all of them the row would be larger than
/// SQLite takes. It is made from `data` when it is read.
pub(super) const HEAD_ONLY: u64 = 2;

/// The event was removed. The row of the newest removed event is left, so that no other event gets
/// its id.
pub(super) const REMOVED: u64 = 4;

/// Makes a parameter of an id or a limit. A limit that JavaScript cannot hold is as good as none.
pub(crate) fn integer<B>(number: u64) -> SqlValue<B> {
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

pub(crate) fn number<B, E>(column: Option<SqlValue<B>>) -> Result<u64, SqliteError<E>> {
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
