//! Pages of frames as JavaScript arrays, on their way from an object to a relay. Runs in the object, at both ends.

use std::time::Duration;

use js_sys::{Array, Uint8Array};
use wasm_bindgen::prelude::*;

use crate::event::EventId;
use crate::store::{FramePage, Frames, Page, PageLimit};

/// How long the object above waits for new events before it answers that there are none.
pub(super) const WAIT: Duration = Duration::from_secs(20);

/// A limit that reads the ends of the log and no events.
pub(super) const ENDS_ONLY: PageLimit = PageLimit {
    events: 0,
    bytes: 0,
};

/// Writes a page: `[oldest, head, trimmed, closed, links]`, and `last, bytes` if it has events. Access by position
/// costs less than by name. `links` is the generation of the run's links.
pub(super) fn to_array(page: &FramePage<Uint8Array>, links: u64) -> Array {
    let ends = [page.oldest, page.head, page.trimmed].map(|id| JsValue::from(id_number(id)));
    let array = Array::from_iter(ends);
    array.push(&page.closed.into());
    array.push(&number(links).into());
    if let Some(frames) = &page.events {
        array.push(&id_number(Some(frames.last)).into());
        array.push(&frames.bytes);
    }
    array
}

/// Reads a page that [`to_array`] wrote, and the generation of the run's links.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count"
)]
pub(super) fn from_array(page: &JsValue) -> Result<(FramePage<Uint8Array>, u64), JsValue> {
    let array: &Array = page.dyn_ref().ok_or("it does not answer with a page")?;
    let events = match id(&array.get(5)) {
        Some(last) => Some(Frames {
            bytes: array.get(6).dyn_into()?,
            last,
        }),
        None => None,
    };
    let page = Page {
        events,
        oldest: id(&array.get(0)),
        head: id(&array.get(1)),
        trimmed: id(&array.get(2)),
        closed: array.get(3).is_truthy(),
    };
    let links = array.get(4).as_f64().unwrap_or_default();
    Ok((page, links as u64))
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
