//! A Durable Object's SQLite as an [`Sql`].

use std::fmt;

use js_sys::Array;
use wasm_bindgen::JsValue;

use super::convert::message;
use super::js;
use crate::store::{Sql, SqlRow, SqlValue};

/// Statements run synchronously; those between two awaits are one transaction of the object.
pub(super) struct ObjectSql(pub(super) js::SqlStorage);

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
pub(super) struct ObjectSqlError(String);

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
