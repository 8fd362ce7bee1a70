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
    /// # Errors As the two methods.
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
}
