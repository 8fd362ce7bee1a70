//! The seam for stores that have the bytes of the wire ready.

use std::fmt;
use std::future::Future;

use bytes::Bytes;

use super::{EventStore, Page, PageLimit};
use crate::event::EventId;
use crate::sync::{MaybeSend, MaybeSync};

/// A store that keeps each event's frame, the bytes that [`wire::encode`](crate::wire::encode)
/// makes of it, and hands out a page of them as one piece.
///
/// The bytes need not be in Rust's memory: a Durable Object's go from SQLite to the viewer's
/// socket and are never copied into WebAssembly's. Delivery is the same
/// [`Subscription`](crate::delivery::Subscription) for every store; this is only another way to read the
/// same page.
pub trait FrameStore: EventStore {
    /// Bytes, wherever they are.
    type Bytes: FrameBytes;

    /// As [`read`](EventStore::read), with the frames of the events in place of the events.
    ///
    /// A page may have fewer events than `read` would return, but has at least one where that
    /// has one.
    ///
    /// # Errors
    /// As [`read`](EventStore::read).
    fn read_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> impl Future<Output = Result<FramePage<Self::Bytes>, Self::Error>> + MaybeSend;

    /// [`changed`](EventStore::changed), then [`read_frames`](Self::read_frames): a store that is
    /// asked over a network does both in one round trip.
    ///
    /// # Errors
    /// As these two.
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

/// A page of frames, `None` where nothing follows.
pub type FramePage<B> = Page<Option<Frames<B>>>;

/// The frames of at least one event, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames<B> {
    /// The bytes.
    pub bytes: B,
    /// The last event's id.
    pub last: EventId,
}

/// Bytes of which clones are cheap, since many viewers get the same.
pub trait FrameBytes: Clone + fmt::Debug + MaybeSend + MaybeSync + 'static {
    /// A copy of these bytes.
    fn from_slice(bytes: &[u8]) -> Self;

    /// All parts in one piece.
    fn concat(parts: &[Self]) -> Self;

    /// How many they are.
    fn byte_length(&self) -> usize;

    /// A copy in Rust's memory.
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
