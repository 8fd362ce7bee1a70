//! The errors of a log in SQLite.

use std::fmt;

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
