//! Pages of frames as JavaScript arrays, on their way from an object to a relay. Runs in the object, at both ends.

use std::time::Duration;

use js_sys::{Array, Uint8Array};
use wasm_bindgen::prelude::*;

use crate::cloudflare::page_parts::{Part, from_parts, to_parts};
use crate::event::EventId;
use crate::store::{FramePage, PageLimit};

/// How long the object above waits for new events before it answers that there are none.
pub(super) const WAIT: Duration = Duration::from_secs(20);

/// How long an answer may take beyond [`WAIT`] before the connection counts as broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A limit that reads the ends of the log and no events.
pub(super) const ENDS_ONLY: PageLimit = PageLimit {
    events: 0,
    bytes: 0,
};

/// Writes a page: see [`to_parts`]. Access by position costs less than by name.
pub(super) fn to_array(page: &FramePage<Uint8Array>, links: u64) -> Array {
    let value = |part| match part {
        Part::Number(number) => number.into(),
        Part::Flag(flag) => flag.into(),
        Part::Bytes(bytes) => Uint8Array::into(bytes),
        Part::Other => JsValue::UNDEFINED,
    };
    to_parts(page, links).into_iter().map(value).collect()
}

/// Reads a page that [`to_array`] wrote, and the generation of the run's links.
pub(super) fn from_array(page: &JsValue) -> Result<(FramePage<Uint8Array>, u64), JsValue> {
    let array: &Array = page.dyn_ref().ok_or("it does not answer with a page")?;
    let part = |value: JsValue| match (value.as_f64(), value.as_bool()) {
        (Some(number), _) => Part::Number(number),
        (_, Some(flag)) => Part::Flag(flag),
        _ => value.dyn_into().map_or(Part::Other, Part::Bytes),
    };
    Ok(from_parts(array.iter().map(part))?)
}

/// An id as JavaScript's number, 0 for `None`.
pub(super) fn id_number(id: Option<EventId>) -> f64 {
    number(id.map_or(0, EventId::get))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an id, or 0"
)]
pub(super) fn id(number: &JsValue) -> Option<EventId> {
    EventId::new(number.as_f64()? as u64)
}

#[allow(clippy::cast_precision_loss, reason = "ids and counts are below 2^53")]
pub(super) fn number(number: u64) -> f64 {
    number as f64
}
