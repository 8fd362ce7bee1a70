//! The trait of stores that have the bytes of the wire ready.

use std::fmt;
use std::future::Future;

use bytes::Bytes;

use super::{EventStore, Page, PageLimit};
use crate::event::EventId;
use crate::sync::{MaybeSend, MaybeSync};
use crate::wire;

/// A store that keeps each event's frame, the bytes that [`wire::encode`](crate::wire::encode)
/// makes of it, and returns a page of them as one piece.
///
/// The bytes need not be in Rust's memory: a Durable Object's go from SQLite to the viewer's
/// socket and are never copied into WebAssembly's. Delivery is the same
/// [`Subscription`](crate::delivery::Subscription) for every store; this is only another way to read the
/// same page.
pub trait FrameStore: EventStore {
    /// The type of the bytes, in Rust's memory or outside.
    type Bytes: FrameBytes;

    /// As [`read`](EventStore::read), with the frames of the events in place of the events.
    ///
    /// A page may have fewer events than `read` would return, but has at least one if that has one.
    ///
    /// # Errors
    /// As [`read`](EventStore::read).
    fn read_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> impl Future<Output = Result<FramePage<Self::Bytes>, Self::Error>> + MaybeSend;

    /// Waits as [`changed`](EventStore::changed), then reads as [`read_frames`](Self::read_frames).
    /// A store on another machine does both in one round trip.
    ///
    /// # Errors
    /// As the two methods.
    fn next_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> impl Future<Output = Result<FramePage<Self::Bytes>, Self::Error>> + MaybeSend {
        async move {
            self.changed(after).await?;
            self.read_frames(after, limit).await
        }
    }
}

/// A page of frames: `None` if nothing follows.
pub type FramePage<B> = Page<Option<Frames<B>>>;

/// The frames of at least one event, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames<B> {
    /// The bytes.
    pub bytes: B,
    /// The last event's id.
    pub last: EventId,
}

/// Bytes with cheap clones, since many viewers get the same ones.
pub trait FrameBytes: Clone + fmt::Debug + MaybeSend + MaybeSync + 'static {
    /// About the most bytes of the pages that all readers of a log have together, one page for each: if readers are
    /// many, pages are smaller, and there are more of them. Default: 16 MiB. A page that is shared counts for each
    /// reader, since readers who stop reading at the same place may each go on to another one.
    const PAGES: usize = 16 << 20;

    /// Copies these bytes from Rust's memory.
    fn from_slice(bytes: &[u8]) -> Self;

    /// Returns the bytes of a [heartbeat](crate::wire::HEARTBEAT).
    fn heartbeat() -> Self {
        Self::from_slice(wire::HEARTBEAT)
    }

    /// Joins the parts into one piece.
    fn concat(parts: &[Self]) -> Self;

    /// Returns the number of bytes.
    fn byte_length(&self) -> usize;

    /// Copies the bytes into Rust's memory.
    fn to_vec(&self) -> Vec<u8>;

    /// Returns the bytes in Rust's memory. Default: a copy.
    fn to_bytes(&self) -> Bytes {
        self.to_vec().into()
    }
}

impl FrameBytes for Bytes {
    fn from_slice(bytes: &[u8]) -> Self {
        Self::copy_from_slice(bytes)
    }

    fn concat(parts: &[Self]) -> Self {
        parts.concat().into()
    }

    fn byte_length(&self) -> usize {
        self.len()
    }

    fn to_vec(&self) -> Vec<u8> {
        self.as_ref().to_vec()
    }

    fn to_bytes(&self) -> Bytes {
        self.clone()
    }
}

/// Returns a page of frames with the bytes in Rust's memory.
pub(super) fn in_memory<B: FrameBytes>(page: &FramePage<B>) -> FramePage<Bytes> {
    let frames = page.events.as_ref().map(|frames| Frames {
        bytes: frames.bytes.to_bytes(),
        last: frames.last,
    });
    page.with(frames)
}

/// Returns a page with the frames of its events: with `numbered`, each has its `id:`.
pub(super) fn encoded(page: &Page, numbered: bool) -> FramePage<Bytes> {
    let frames = page.events.last().map(|last| {
        let mut bytes = Vec::new();
        for event in &page.events {
            wire::encode_if_numbered(event, numbered, &mut bytes);
        }
        Frames {
            bytes: bytes.into(),
            last: last.id,
        }
    });
    page.with(frames)
}
