//! The trait of SQLite connections: the little of SQLite that the store needs.

use crate::store::frames::FrameBytes;
use crate::sync::{MaybeSend, MaybeSync};

/// A connection to an SQLite database of which this store is the only writer.
pub trait Sql: MaybeSend + MaybeSync {
    /// The error of a statement.
    type Error: std::error::Error + MaybeSend + MaybeSync + 'static;

    /// The type of a `BLOB`, in Rust's memory or outside.
    type Bytes: FrameBytes;

    /// Runs one statement, with `?1`, `?2`… bound to `params`, and returns its rows.
    ///
    /// A statement takes effect whole or not at all. No other writer comes between two calls
    /// without an `await` in between.
    ///
    /// # Errors
    /// When SQLite refuses the statement.
    fn exec(
        &self,
        statement: &'static str,
        params: &[SqlValue<Self::Bytes>],
    ) -> Result<Vec<SqlRow<Self::Bytes>>, Self::Error>;

    /// Runs one statement that returns no rows. Default: as [`exec`](Self::exec). A connection that
    /// can skip looking for rows overrides it.
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

    /// Runs one statement that inserts, changes or deletes rows and returns none, and returns whether there were any.
    /// Default: as [`run`](Self::run), and then SQLite's `changes()`. A connection that is told by SQLite anyway overrides
    /// it.
    ///
    /// # Errors
    /// When SQLite refuses the statement, or the question.
    fn changes(
        &self,
        statement: &'static str,
        params: &[SqlValue<Self::Bytes>],
    ) -> Result<bool, Self::Error> {
        self.run(statement, params)?;
        let rows = self.exec("SELECT changes() > 0", &[])?;
        let changes = rows.first().and_then(|row| row.first());
        Ok(matches!(changes, Some(SqlValue::Integer(1))))
    }

    /// Runs these statements in this order: all of them take effect, or none does.
    ///
    /// Default: runs them within a savepoint, which also works inside a transaction.
    ///
    /// # Errors
    /// When SQLite refuses one of them. Then none took effect.
    fn run_all(
        &self,
        statements: &[(&'static str, Vec<SqlValue<Self::Bytes>>)],
    ) -> Result<(), Self::Error> {
        self.run("SAVEPOINT ssetarget", &[])?;
        let run = || {
            for (statement, params) in statements {
                self.run(statement, params)?;
            }
            self.run("RELEASE ssetarget", &[])
        };
        run().inspect_err(|_| {
            // The first error is returned, even if SQLite has undone everything by itself.
            let _ = self.run("ROLLBACK TO ssetarget", &[]);
            let _ = self.run("RELEASE ssetarget", &[]);
        })
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
