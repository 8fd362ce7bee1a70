//! Readers of the values of an answer.

use redis::Value;

use super::error::RedisError;
use crate::event::EventId;

/// Reads the head of a log, as its hash has it.
pub(super) fn head(answer: &Value) -> Result<Option<EventId>, RedisError> {
    match answer {
        Value::Nil => Ok(None),
        answer => {
            let head = text(answer)?.parse();
            head.map(Some)
                .map_err(|_| RedisError::unexpected("a head that is not an id"))
        }
    }
}

pub(super) fn array(answer: &Value) -> Result<&[Value], RedisError> {
    match answer {
        Value::Array(values) => Ok(values),
        _ => Err(RedisError::unexpected("not a list")),
    }
}

/// Reads an id, 0 for none.
pub(super) fn id(answer: &Value) -> Result<Option<EventId>, RedisError> {
    let number = number(answer)?;
    match EventId::new(number) {
        None if number != 0 => Err(RedisError::unexpected("a number that is not an id")),
        id => Ok(id),
    }
}

pub(super) fn number(answer: &Value) -> Result<u64, RedisError> {
    match answer {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
    .ok_or_else(|| RedisError::unexpected("not a number"))
}

pub(super) fn text(answer: &Value) -> Result<String, RedisError> {
    match answer {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
        _ => None,
    }
    .ok_or_else(|| RedisError::unexpected("not a string"))
}
