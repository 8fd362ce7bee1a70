//! A Durable Object's SQLite as an [`Sql`]. Runs in the object.

use std::fmt;
use std::sync::Arc;

use cloudflare_workflows::__private::{message, property};
use js_sys::{Array, ArrayBuffer, JsString, Uint8Array};
use wasm_bindgen::prelude::*;

use super::js;
use crate::store::{FrameBytes, Sql, SqlRow, SqlValue};
use crate::sync::{Mutex, lock};
use crate::wire;

/// The SQLite storage of a Durable Object: the [`Sql`] of an [`SqliteEventStore`](crate::store::SqliteEventStore),
/// for a log in an object of your own, beside the object's other data. The log is the table `events`.
///
/// Statements run synchronously; those between two awaits are one transaction of the object.
///
/// ```no_run
/// use ssetarget::cloudflare::{ObjectSql, sse_response};
/// use ssetarget::{NewEvent, SqliteEventStore, SseTarget, wire};
/// use worker::{DurableObject, Env, Request, Response, State, durable_object};
///
/// #[durable_object]
/// pub struct Room {
///     target: Result<SseTarget<NewEvent, SqliteEventStore<ObjectSql>>, String>,
/// }
///
/// impl DurableObject for Room {
///     fn new(state: State, _env: Env) -> Self {
///         let sql = ObjectSql::new(&state).map_err(|error| error.to_string());
///         Self { target: sql.map(|sql| SseTarget::new(SqliteEventStore::new(sql))) }
///     }
///
///     async fn fetch(&self, request: Request) -> worker::Result<Response> {
///         let last_id = request.headers().get("last-event-id")?;
///         let cursor = match wire::cursor(last_id.as_deref(), request.url()?.query()) {
///             Ok(cursor) => cursor,
///             Err(reason) => return Response::error(reason.to_string(), 400),
///         };
///         let target = self.target.as_ref().map_err(String::clone)?;
///         let subscription = target.subscribe(cursor).await;
///         sse_response(subscription.map_err(|error| error.to_string())?)
///     }
/// }
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
pub struct ObjectSql {
    storage: JsValue,
    sql: js::SqlStorage,
    statements: Arc<Mutex<Vec<(&'static str, JsString)>>>,
}

impl ObjectSql {
    /// Returns the storage of the object with this state. Stores nothing.
    ///
    /// # Errors
    /// When the class is not configured as one with SQLite storage.
    pub fn new(state: &worker::State) -> worker::Result<Self> {
        let storage = property(state.as_raw(), "storage");
        let sql = property(&storage, "sql");
        if sql.is_undefined() {
            let reason = "this Durable Object has no SQLite: list its class under `new_sqlite_classes` of a migration in wrangler.toml";
            return Err(worker::Error::RustError(reason.to_owned()));
        }
        Ok(Self {
            storage,
            sql: sql.unchecked_into(),
            statements: Arc::default(),
        })
    }

    /// Returns the size of the database in bytes.
    pub(super) fn database_size(&self) -> u64 {
        let size = property(&self.sql, "databaseSize").as_f64();
        size.map_or(0, |size| js::count(size) as u64)
    }

    /// Returns the same JavaScript string for the same statement each time, so that it is not copied again, and
    /// the runtime, which keeps statements by their strings, does not hash it again. Statements are string
    /// constants of this crate, and few, so they are compared by their addresses.
    fn statement(&self, statement: &'static str) -> JsString {
        let mut statements = lock(&self.statements);
        let known = statements
            .iter()
            .find(|(known, _)| std::ptr::eq(*known, statement));
        if let Some((_, known)) = known {
            return known.clone();
        }
        let string = JsString::from(statement);
        statements.push((statement, string.clone()));
        string
    }

    #[inline(never)]
    fn cursor(
        &self,
        statement: &'static str,
        params: &[SqlValue<Uint8Array>],
    ) -> Result<js::SqlCursor, JsValue> {
        let params: Array = params.iter().map(to_js).collect();
        self.sql.exec(&self.statement(statement), &params)
    }
}

impl Sql for ObjectSql {
    type Error = ObjectSqlError;
    type Bytes = Uint8Array;

    fn exec(
        &self,
        statement: &'static str,
        params: &[SqlValue<Uint8Array>],
    ) -> Result<Vec<SqlRow<Uint8Array>>, ObjectSqlError> {
        let rows = self.cursor(statement, params)?.raw()?;
        let rows = js::array_from(&rows)?;
        Ok(rows
            .iter()
            .map(|row| {
                Array::unchecked_from_js(row)
                    .iter()
                    .map(|value| from_js(&value))
                    .collect()
            })
            .collect())
    }

    /// Runs the statement without reading rows: the runtime runs it to its first row, or to its end if it
    /// has none.
    fn run(
        &self,
        statement: &'static str,
        params: &[SqlValue<Uint8Array>],
    ) -> Result<(), ObjectSqlError> {
        self.cursor(statement, params)?;
        Ok(())
    }

    fn changes(
        &self,
        statement: &'static str,
        params: &[SqlValue<Uint8Array>],
    ) -> Result<bool, ObjectSqlError> {
        Ok(self.cursor(statement, params)?.rows_written()? > 0.0)
    }

    /// Runs the statements in a `transactionSync`, which undoes all when one of them throws.
    #[inline(never)]
    fn run_all(
        &self,
        statements: &[(&'static str, Vec<SqlValue<Uint8Array>>)],
    ) -> Result<(), ObjectSqlError> {
        let statements = statements.iter().map(|(statement, params)| {
            let params: Array = params.iter().map(to_js).collect();
            Array::of2(&self.statement(statement), &params)
        });
        js::run_all(&self.storage, &statements.collect())?;
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss, reason = "ids and limits are below 2^53")]
fn to_js(value: &SqlValue<Uint8Array>) -> JsValue {
    match value {
        SqlValue::Null => JsValue::NULL,
        SqlValue::Integer(number) => JsValue::from_f64(*number as f64),
        SqlValue::Text(text) => JsValue::from_str(text),
        SqlValue::Bytes(bytes) => bytes.into(),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "integers come as whole numbers below 2^53"
)]
fn from_js(value: &JsValue) -> SqlValue<Uint8Array> {
    if let Some(number) = value.as_f64() {
        SqlValue::Integer(number as i64)
    } else if let Some(text) = value.as_string() {
        SqlValue::Text(text)
    } else if value.is_instance_of::<ArrayBuffer>() {
        SqlValue::Bytes(Uint8Array::new(value))
    } else {
        SqlValue::Null
    }
}

/// Keeps the bytes of frames in JavaScript's memory.
impl FrameBytes for Uint8Array {
    /// A page is not held while the runtime writes it to a viewer. What viewers who do not read
    /// hold are the runtime's copies, which are outside of the isolate's memory.
    const PAGES: usize = 32 << 20;

    fn from_slice(bytes: &[u8]) -> Self {
        Self::from(bytes)
    }

    /// Makes one for all viewers: nobody changes it.
    fn heartbeat() -> Self {
        thread_local! {
            static HEARTBEAT: Uint8Array = Uint8Array::from(wire::HEARTBEAT);
        }
        HEARTBEAT.with(Clone::clone)
    }

    fn concat(parts: &[Self]) -> Self {
        let whole = Self::new_with_length(parts.iter().map(Self::length).sum());
        let mut offset = 0;
        for part in parts {
            whole.set(part, offset);
            offset += part.length();
        }
        whole
    }

    fn byte_length(&self) -> usize {
        Self::byte_length(self) as usize
    }

    fn to_vec(&self) -> Vec<u8> {
        Self::to_vec(self)
    }
}

/// SQLite failed, with SQLite's message.
#[derive(Clone, Debug)]
pub struct ObjectSqlError(String);

impl From<JsValue> for ObjectSqlError {
    fn from(thrown: JsValue) -> Self {
        Self(message(&thrown))
    }
}

impl fmt::Display for ObjectSqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ObjectSqlError {}
