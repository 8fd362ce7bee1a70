//! A page of frames on its way from an object to a relay: a few values in a fixed order. Written and read in the object;
//! pure.

use super::command::unreadable;
use crate::event::EventId;
use crate::store::{FramePage, Frames, Page};

/// A value of a page.
#[derive(Clone, Debug, PartialEq)]
pub enum Part<B> {
    /// An id, 0 for none; or a count.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// Frames.
    Bytes(B),
    /// What no page of this version has.
    Other,
}

/// Returns the values of a page: `oldest, head, trimmed, closed, links`, and `last, bytes` if it has events. `links` is
/// the generation of the run's links. A later version may add values behind them, which an earlier one leaves out.
pub fn to_parts<B: Clone>(page: &FramePage<B>, links: u64) -> Vec<Part<B>> {
    let mut parts: Vec<_> = [page.oldest, page.head, page.trimmed].map(id_part).into();
    parts.push(Part::Flag(page.closed));
    parts.push(Part::Number(number(links)));
    if let Some(frames) = &page.events {
        parts.push(id_part(Some(frames.last)));
        parts.push(Part::Bytes(frames.bytes.clone()));
    }
    parts
}

/// Reads a page from the values that [`to_parts`] returned, and the generation of the run's links.
///
/// # Errors
/// For a page that this version cannot read, with the reason. It is not taken for an empty one.
pub fn from_parts<B>(
    parts: impl IntoIterator<Item = Part<B>>,
) -> Result<(FramePage<B>, u64), String> {
    let mut parts = parts.into_iter();
    let mut number = |name| match parts.next() {
        Some(Part::Number(number)) => whole(number).ok_or_else(|| unknown(name)),
        _ => Err(unknown(name)),
    };
    let [oldest, head, trimmed] = [number("oldest")?, number("head")?, number("trimmed")?];
    let Some(Part::Flag(closed)) = parts.next() else {
        return Err(unknown("closed"));
    };
    let Some(Part::Number(links)) = parts.next() else {
        return Err(unknown("links"));
    };
    let links = whole(links).ok_or_else(|| unknown("links"))?;
    let events = match (parts.next(), parts.next()) {
        (None, None) => None,
        (Some(Part::Number(last)), Some(Part::Bytes(bytes))) => {
            let last = whole(last).and_then(EventId::new);
            let last = last.ok_or_else(|| unknown("last"))?;
            Some(Frames { bytes, last })
        }
        _ => return Err(unknown("events")),
    };
    let page = Page {
        events,
        oldest: EventId::new(oldest),
        head: EventId::new(head),
        trimmed: EventId::new(trimmed),
        closed,
    };
    Ok((page, links))
}

/// Returns the error of a value that this version does not know.
#[inline(never)]
fn unknown(name: &str) -> String {
    unreadable("a page of the log", &format_args!("its `{name}` is none"))
}

fn id_part<B>(id: Option<EventId>) -> Part<B> {
    Part::Number(number(id.map_or(0, EventId::get)))
}

#[allow(clippy::cast_precision_loss, reason = "ids and counts are below 2^53")]
fn number(number: u64) -> f64 {
    number as f64
}

/// Returns a whole number that JavaScript can hold.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "it is checked"
)]
fn whole(number: f64) -> Option<u64> {
    let fits = number >= 0.0 && number <= EventId::MAX as f64 && number.fract() == 0.0;
    fits.then_some(number as u64)
}
