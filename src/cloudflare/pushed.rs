//! A viewer's stream whose pages are pushed: a cursor and a credit. Both can be stored as numbers and restored, so
//! that the object needs no memory of it. Runs in the object; pure, and tested natively.

use futures_util::FutureExt;

use crate::cloudflare::credit::Credit;
use crate::delivery::{Position, SseTarget, Subscription, frame_bytes};
use crate::event::{EventId, NewEvent};
use crate::stats::Observing;
use crate::store::{FrameBytes, FrameStore, PageLimit};

/// A stream to a viewer that acknowledges what it takes.
#[derive(Debug)]
pub struct PushedStream<S> {
    subscription: Subscription<S>,
    credit: Credit,
}

/// The part of a stream that is stored while the object is out of memory: its position and the bytes that are not
/// acknowledged.
pub type Kept = (f64, u32);

/// The state of a stream after a delivery.
#[derive(Debug)]
pub enum Pushed<E> {
    /// It is kept: nothing follows, or an acknowledgement is due before more is sent.
    Waits,
    /// The viewer has everything, and the log has ended.
    Ended,
    /// A page could not be sent.
    Unsent,
    /// The store failed.
    Failed(E),
    /// The store did not answer at once.
    Late,
}

impl<S: FrameStore> PushedStream<S> {
    /// Begins a stream.
    pub fn new(subscription: Subscription<S>) -> Self {
        Self {
            subscription,
            credit: Credit::default(),
        }
    }

    /// Restores a stream. Returns `None` for an invalid position.
    pub fn resume(
        target: &SseTarget<NewEvent, S>,
        (position, unacknowledged): Kept,
    ) -> Option<Self> {
        let position = match position {
            OLDEST => Position::Oldest,
            START => Position::Start,
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "ids are below 2^53"
            )]
            id => Position::After(EventId::new(id as u64)?),
        };
        Some(Self {
            subscription: target.resume(position),
            credit: Credit::resume(unacknowledged),
        })
    }

    /// Returns the values to store with the viewer's socket.
    pub fn kept(&self) -> Kept {
        let position = match self.subscription.position() {
            Position::Oldest => OLDEST,
            Position::Start => START,
            #[allow(clippy::cast_precision_loss, reason = "ids are below 2^53")]
            Position::After(id) => id.get() as f64,
        };
        (position, self.credit.unacknowledged())
    }

    /// Sends the position to a viewer that starts at the tail. Returns the result of `send`.
    ///
    /// # Errors
    /// When `send` fails.
    pub fn open<E>(
        &mut self,
        send: impl FnOnce(&S::Bytes, Kept) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.subscription.opening() {
            Some(opening) => self.send(&S::Bytes::from_slice(&opening), send),
            None => Ok(()),
        }
    }

    /// Sends pages while there is credit. `send` gets each page and the values to store from then on.
    pub fn deliver<E>(
        &mut self,
        mut send: impl FnMut(&S::Bytes, Kept) -> Result<(), E>,
    ) -> Pushed<S::Error> {
        while let Some(bytes) = self.credit.left() {
            self.subscription.set_page_limit(page_limit(bytes));
            // Ready at once, because SQLite is in the object.
            match self.subscription.try_next_frames().now_or_never() {
                Some(Ok(Some(batch))) => {
                    if self.send(&frame_bytes(batch), &mut send).is_err() {
                        return Pushed::Unsent;
                    }
                }
                Some(Ok(None)) if self.subscription.has_ended() => return Pushed::Ended,
                Some(Ok(None)) => return Pushed::Waits,
                Some(Err(error)) => return Pushed::Failed(error),
                None => return Pushed::Late,
            }
        }
        Pushed::Waits
    }

    fn send<E>(
        &mut self,
        page: &S::Bytes,
        send: impl FnOnce(&S::Bytes, Kept) -> Result<(), E>,
    ) -> Result<(), E> {
        let length = page.byte_length();
        self.credit.sent(u32::try_from(length).unwrap_or(u32::MAX));
        self.observing()
            .tell(|observer| observer.sent(length as u64));
        send(page, self.kept())
    }

    /// Notes that the viewer has taken bytes.
    pub fn acknowledged(&mut self, bytes: u32) {
        self.credit.acknowledged(bytes);
    }

    pub(crate) fn observing(&self) -> &Observing {
        self.subscription.observing()
    }
}

/// A limit of `bytes` bytes, with the event limit scaled in proportion.
fn page_limit(bytes: u32) -> PageLimit {
    let page = PageLimit::default();
    let bytes = bytes as usize;
    PageLimit {
        events: page.events * bytes / page.bytes,
        bytes,
    }
}

const OLDEST: f64 = -1.0;
const START: f64 = 0.0;
