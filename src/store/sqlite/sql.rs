//! SQLite, as little of it as the store needs.

use crate::store::FrameBytes;
use crate::sync::{MaybeSend, MaybeSync};

/// A connection to an SQLite database of which this store is the only writer.
pub trait Sql: MaybeSend + MaybeSync {
    /// What can go wrong.
    type Error: std::error::Error + MaybeSend + MaybeSync + 'static;

    /// A `BLOB`, wherever this connection has its bytes.
    type Bytes: FrameBytes;

    /// Runs one statement, with `?1`, `?2`… bound to `params`, and returns its rows.
    ///
    /// A statement takes effect whole or not at all, and what follows it without an `await` in
    /// between belongs to the same state of the database.
    ///
    /// # Errors
    /// When SQLite refuses the statement.
    fn exec(
        &self,
        statement: &'static str,
        params: &[SqlValue<Self::Bytes>],
    ) -> Result<Vec<SqlRow<Self::Bytes>>, Self::Error>;

    /// As [`exec`](Self::exec), for a statement that has no rows. Default: `exec`; for connections
    /// that need not look for any.
    ///
    /// # Errors
    /// When SQLite refuses the statement.
    fn run(
        &self,
        statement: &'static str,
        params: &[SqlValue<Self::Bytes>],
    ) -> Result<(), Self::Error> {
        self.exec(statement, params).map(drop)
    }
}

/// The columns of a row, in the order of the statement.
pub type SqlRow<B> = Vec<SqlValue<B>>;

/// A value of a column or a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlValue<B> {
    /// SQL's `NULL`.
    Null,
    /// A whole number. Through JavaScript only 53 bits of it survive.
    Integer(i64),
    /// Text.
    Text(String),
    /// A `BLOB`.
    Bytes(B),
}
