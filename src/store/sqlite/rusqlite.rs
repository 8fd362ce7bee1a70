//! SQLite in a file of this machine, through the crate `rusqlite`.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, params_from_iter};

use super::{Sql, SqlRow, SqlValue, SqliteEventStore};
use crate::sync::{Mutex, lock};

/// A database file of which this process is the only user: the [`Sql`] of
/// [`SqliteEventStore::open`].
pub struct SqliteFile {
    connection: Mutex<Connection>,
}

impl SqliteEventStore<SqliteFile> {
    /// Opens the log in this file. A file that does not exist is created; its folder is not.
    ///
    /// - **One log a file.** A server with many logs has a folder of files.
    /// - **One process a file**, also for reading. The store remembers what it has read, and
    ///   [`changed`](crate::EventStore::changed) resolves only for appends of its own process.
    ///   SQLite locks the file until the store is dropped or the process ends, however it ends. A
    ///   second opener is refused. Servers that share a log keep it in Redis.
    /// - **Durable.** The file is in WAL mode with `synchronous = FULL`: events that
    ///   [`append`](crate::EventStore::append) has returned survive a crash of the process and of
    ///   the machine. A batch is stored whole or not at all.
    /// - **Blocking.** An append waits for the disk once, however many events it has, and keeps its
    ///   thread and the readers of this log waiting meanwhile. Dispatch events in batches.
    ///
    /// Beside the file SQLite keeps another, whose name ends in `-wal`. It belongs to the log: copy
    /// or delete both, while no process has the log open.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = std::env::temp_dir().join(format!("ssetarget-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let file = folder.join("orders.sqlite");
    /// use ssetarget::{NewEvent, SqliteEventStore, SseTarget};
    ///
    /// let target = SseTarget::<NewEvent, _>::new(SqliteEventStore::open(&file)?);
    /// target.dispatch_encoded(vec![NewEvent::new("done", "{}")?]).await?;
    /// # drop(target);
    /// # std::fs::remove_dir_all(folder)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the file cannot be opened or created, when it is no SQLite database, and when it is
    /// open already, here or in another process: see [`SqliteFileError::is_in_use`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SqliteFileError> {
        SqliteFile::open(path).map(Self::new)
    }
}

/// How long an opener waits for the lock of a process that is about to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many prepared statements are kept: more than the store has.
const STATEMENTS: usize = 32;

impl SqliteFile {
    /// Opens the database in this file, as [`SqliteEventStore::open`] does.
    ///
    /// # Errors
    /// As [`SqliteEventStore::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SqliteFileError> {
        // Without URIs, so that a path is a path.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(PATIENCE)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        // Set before the file is first read, so that the lock is held from then on.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            return Err(SqliteFileError(Reason::NoFile));
        }
        // Takes the lock of a writer, which stays. A second opener is refused here and not later.
        connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }
}

impl Sql for SqliteFile {
    type Error = SqliteFileError;
    type Bytes = Bytes;

    fn exec(
        &self,
        statement: &'static str,
        params: &[SqlValue<Bytes>],
    ) -> Result<Vec<SqlRow<Bytes>>, Self::Error> {
        Ok(exec(&lock(&self.connection), statement, params)?)
    }

    fn run_all(
        &self,
        statements: &[(&'static str, Vec<SqlValue<Bytes>>)],
    ) -> Result<(), Self::Error> {
        let mut connection = lock(&self.connection);
        // Rolled back when it is dropped without a commit.
        let transaction = connection.transaction()?;
        for (statement, params) in statements {
            exec(&transaction, statement, params)?;
        }
        Ok(transaction.commit()?)
    }
}

impl fmt::Debug for SqliteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteFile").finish_non_exhaustive()
    }
}

fn exec(
    connection: &Connection,
    statement: &'static str,
    params: &[SqlValue<Bytes>],
) -> Result<Vec<SqlRow<Bytes>>, rusqlite::Error> {
    let mut statement = connection.prepare_cached(statement)?;
    let columns = statement.column_count();
    let mut found = statement.query(params_from_iter(params.iter().map(Param)))?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let values = (0..columns).map(|column| value(row.get_ref(column)?));
        rows.push(values.collect::<Result<_, rusqlite::Error>>()?);
    }
    Ok(rows)
}

struct Param<'a>(&'a SqlValue<Bytes>);

impl ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            SqlValue::Null => ToSqlOutput::Owned(Value::Null),
            SqlValue::Integer(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            SqlValue::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            SqlValue::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

fn value(value: ValueRef<'_>) -> Result<SqlValue<Bytes>, rusqlite::Error> {
    Ok(match value {
        ValueRef::Integer(number) => SqlValue::Integer(number),
        ValueRef::Text(_) => SqlValue::Text(value.as_str()?.to_owned()),
        ValueRef::Blob(bytes) => SqlValue::Bytes(Bytes::copy_from_slice(bytes)),
        // The store writes no floating-point numbers.
        ValueRef::Null | ValueRef::Real(_) => SqlValue::Null,
    })
}

/// Why a database file cannot be used.
#[derive(Debug)]
pub struct SqliteFileError(Reason);

#[derive(Debug)]
enum Reason {
    Sqlite(rusqlite::Error),
    /// The path would make SQLite keep the database in memory.
    NoFile,
}

impl SqliteFileError {
    /// Returns whether the file is open already, in this process or in another one.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(
            self.code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        )
    }

    fn code(&self) -> Option<ErrorCode> {
        match &self.0 {
            Reason::Sqlite(error) => error.sqlite_error_code(),
            Reason::NoFile => None,
        }
    }
}

impl From<rusqlite::Error> for SqliteFileError {
    fn from(error: rusqlite::Error) -> Self {
        Self(Reason::Sqlite(error))
    }
}

impl fmt::Display for SqliteFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.code() {
            _ if matches!(self.0, Reason::NoFile) => {
                "the path names no file: SQLite would keep the log in memory"
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                "the database file is in use: a log in a file has one process; \
                 stop the other one, or keep the log in Redis"
            }
            Some(ErrorCode::NotADatabase) => "the file is not an SQLite database",
            Some(ErrorCode::CannotOpen) => "the database file cannot be opened or created",
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                "the database file cannot be written"
            }
            Some(ErrorCode::DiskFull) => "the disk of the database file is full",
            _ => "SQLite failed on the database file",
        })
    }
}

impl std::error::Error for SqliteFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Reason::Sqlite(error) => Some(error),
            Reason::NoFile => None,
        }
    }
}
