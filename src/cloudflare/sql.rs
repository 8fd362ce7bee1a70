//! A Durable Object's SQLite as an [`Sql`].

use std::fmt;

use js_sys::Array;
use wasm_bindgen::prelude::*;

use super::convert::{message, property};
use super::js;
use crate::store::{Sql, SqlRow, SqlValue};

/// The SQLite storage of a Durable Object: the [`Sql`] of an
/// [`SqliteEventStore`](crate::SqliteEventStore), for a log in an object of your own, next to
/// whatever else it stores. The log is the table `events`.
///
/// Statements run synchronously; those between two awaits are one transaction of the object.
///
/// ```ignore
/// #[durable_object]
/// pub struct Room {
///     target: SseTarget<Message, SqliteEventStore<ObjectSql>>,
/// }
///
/// impl DurableObject for Room {
///     fn new(state: State, _env: Env) -> Self {
///         let sql = ObjectSql::new(&state).unwrap_throw();
///         Self { target: SseTarget::new(SqliteEventStore::new(sql)) }
///     }
///
///     async fn fetch(&self, request: Request) -> worker::Result<Response> {
///         let last_id = request.headers().get("last-event-id")?;
///         let cursor = match wire::cursor(last_id.as_deref(), request.url()?.query()) {
///             Ok(cursor) => cursor,
///             Err(reason) => return Response::error(reason.to_string(), 400),
///         };
///         let subscription = self.target.subscribe(cursor).await;
///         sse_response(subscription.map_err(|error| error.to_string())?)
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct ObjectSql(js::SqlStorage);

impl ObjectSql {
    /// The storage of the object with this state. Stores nothing.
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
        Ok(Self(sql.unchecked_into()))
    }
}

impl Sql for ObjectSql {
    type Error = ObjectSqlError;

    fn exec(&self, statement: &str, params: &[SqlValue]) -> Result<Vec<SqlRow>, ObjectSqlError> {
        let params: Array = params.iter().map(to_js).collect();
        let rows = self.0.exec(statement, &params)?.raw()?;
        let rows = js::array_from(&rows)?;
        Ok(rows
            .iter()
            .map(|row| {
                Array::from(&row)
                    .iter()
                    .map(|value| from_js(&value))
                    .collect()
            })
            .collect())
    }
}

#[allow(clippy::cast_precision_loss, reason = "ids and limits are below 2^53")]
fn to_js(value: &SqlValue) -> JsValue {
    match value {
        SqlValue::Null => JsValue::NULL,
        SqlValue::Integer(number) => JsValue::from_f64(*number as f64),
        SqlValue::Text(text) => JsValue::from_str(text),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "integers come as whole numbers below 2^53"
)]
fn from_js(value: &JsValue) -> SqlValue {
    if let Some(number) = value.as_f64() {
        SqlValue::Integer(number as i64)
    } else {
        value.as_string().map_or(SqlValue::Null, SqlValue::Text)
    }
}

/// What SQLite said.
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
