//! An `Sql` for `SqliteEventStore` over rusqlite.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, Statement, StatementStatus, ToSql, params_from_iter};
use ssetarget::store::{Sql, SqlRow, SqlValue};

/// Clones are the same connection.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    connection: Connection,
    statements: Vec<Executed>,
    failures: usize,
    /// The number of statements that run before one fails.
    successes: Option<usize>,
    read: Read,
}

/// What statements have read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Read {
    /// The rows that they returned.
    pub(crate) rows: usize,
    /// The bytes of texts and blobs in those.
    pub(crate) bytes: usize,
    /// The steps of SQLite's machine, which also counts rows that are only looked at.
    pub(crate) steps: u64,
}

/// A statement that was run.
#[derive(Debug)]
pub(crate) struct Executed {
    pub(crate) text: String,
    pub(crate) params: usize,
    pub(crate) values: Vec<SqlValue<Bytes>>,
}

impl Database {
    pub(crate) fn in_memory() -> Self {
        Self::new(Connection::open_in_memory().unwrap())
    }

    pub(crate) fn open(path: impl AsRef<Path>) -> Self {
        let connection = Connection::open(path).unwrap();
        // Durability is not tested here, and every write would wait for the disk.
        connection
            .pragma_update(None, "synchronous", "OFF")
            .unwrap();
        Self::new(connection)
    }

    fn new(connection: Connection) -> Self {
        // The limits of a Durable Object. The local runtime has greater ones.
        for (limit, value) in [
            (Limit::SQLITE_LIMIT_LENGTH, 2_000_000),
            (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 100),
            (Limit::SQLITE_LIMIT_SQL_LENGTH, 100_000),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 5),
        ] {
            connection.set_limit(limit, value).unwrap();
        }
        Self {
            state: Arc::new(Mutex::new(State {
                connection,
                statements: Vec::new(),
                failures: 0,
                successes: None,
                read: Read::default(),
            })),
        }
    }

    /// Returns the names of all tables.
    pub(crate) fn tables(&self) -> Vec<String> {
        let rows = self
            .exec("SELECT name FROM sqlite_master ORDER BY name", &[])
            .unwrap();
        rows.into_iter()
            .filter_map(|row| match row.into_iter().next() {
                Some(SqlValue::Text(name)) if !name.starts_with("sqlite_") => Some(name),
                _ => None,
            })
            .collect()
    }

    /// Returns the number of rows inserted, changed or deleted so far.
    pub(crate) fn rows_written(&self) -> u64 {
        self.state.lock().unwrap().connection.total_changes()
    }

    /// Returns the statements since the last call.
    pub(crate) fn take_statements(&self) -> Vec<Executed> {
        std::mem::take(&mut self.state.lock().unwrap().statements)
    }

    /// Returns what was read since the last call.
    pub(crate) fn take_read(&self) -> Read {
        std::mem::take(&mut self.state.lock().unwrap().read)
    }

    /// Makes the disk full, so that SQLite reports it by itself, or ends that.
    pub(crate) fn set_full(&self, full: bool) {
        let state = self.state.lock().unwrap();
        // As few pages as possible, or SQLite's own limit.
        let pages = if full { 1 } else { 4_294_967_294_i64 };
        let set = format!("PRAGMA max_page_count = {pages}");
        state.connection.query_row(&set, [], |_| Ok(())).unwrap();
    }

    /// Lets statements succeed again.
    pub(crate) fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        (state.failures, state.successes) = (0, None);
    }

    /// Lets the next `failures` statements fail.
    pub(crate) fn fail_next(&self, failures: usize) {
        self.state.lock().unwrap().failures = failures;
    }

    /// Lets one statement fail after `successes` more.
    pub(crate) fn fail_after(&self, successes: usize) {
        self.state.lock().unwrap().successes = Some(successes);
    }
}

impl Sql for Database {
    type Error = rusqlite::Error;
    type Bytes = Bytes;

    fn exec(
        &self,
        statement: &'static str,
        params: &[SqlValue<Bytes>],
    ) -> Result<Vec<SqlRow<Bytes>>, Self::Error> {
        let mut state = self.state.lock().unwrap();
        if state.failures > 0 {
            state.failures -= 1;
            return Err(rusqlite::Error::InvalidQuery);
        }
        match &mut state.successes {
            Some(0) => {
                state.successes = None;
                return Err(rusqlite::Error::InvalidQuery);
            }
            Some(successes) => *successes -= 1,
            None => {}
        }
        state.statements.push(Executed {
            text: statement.to_owned(),
            params: params.len(),
            values: params.to_vec(),
        });
        let state = &mut *state;
        let mut statement = state.connection.prepare_cached(statement)?;
        let rows = rows(&mut statement, params)?;
        let bytes = rows.iter().flatten().map(|value| match value {
            SqlValue::Text(text) => text.len(),
            SqlValue::Bytes(bytes) => bytes.len(),
            _ => 0,
        });
        state.read.bytes += bytes.sum::<usize>();
        state.read.rows += rows.len();
        let steps = statement.reset_status(StatementStatus::VmStep);
        state.read.steps += u64::try_from(steps).unwrap();
        Ok(rows)
    }
}

fn rows(
    statement: &mut Statement<'_>,
    params: &[SqlValue<Bytes>],
) -> Result<Vec<SqlRow<Bytes>>, rusqlite::Error> {
    let columns = statement.column_count();
    let mut rows = statement.query(params_from_iter(params.iter().map(Param)))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(
            (0..columns)
                .map(|column| Ok(value(row.get_ref(column)?)))
                .collect::<Result<_, rusqlite::Error>>()?,
        );
    }
    Ok(out)
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

fn value(value: ValueRef<'_>) -> SqlValue<Bytes> {
    match value {
        ValueRef::Integer(number) => SqlValue::Integer(number),
        ValueRef::Text(text) => SqlValue::Text(String::from_utf8(text.to_vec()).unwrap()),
        ValueRef::Blob(bytes) => SqlValue::Bytes(Bytes::copy_from_slice(bytes)),
        // The store writes no floating-point numbers. The Workers glue does the same.
        ValueRef::Null | ValueRef::Real(_) => SqlValue::Null,
    }
}
