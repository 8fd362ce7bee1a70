//! The body of a response.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::future::{self, Either};
use futures_util::{FutureExt, StreamExt};
use http_body::{Body, Frame, SizeHint};

use super::Sse;
use crate::access::Grant;
use crate::clock;
#[cfg(not(target_family = "wasm"))]
use crate::delivery::keep_alive_by;
use crate::delivery::{Subscription, chunks, keep_alive, permitted, reached};
use crate::stats::{self, Viewing};
use crate::store::EventStore;
use crate::sync::{BoxFuture, BoxStream, MaybeSend};
use crate::wire;

/// The body of a response of [`Sse::respond`], both an [`http_body::Body`] and a [`Stream`] of
/// bytes. `E` is the store's error.
pub struct SseBody<E> {
    pub(super) content: Content<E>,
}

pub(super) enum Content<E> {
    /// A text; `None` once it was sent.
    Text(Option<Bytes>),
    /// Empty, in place of a body of unknown length.
    LeftOut,
    Events(BoxStream<'static, Result<Bytes, StreamCut<E>>>),
    Held(Held),
}

/// The body when the events cannot be reached: a heartbeat, and after a while a cut.
pub(super) enum Held {
    Begins(BoxFuture<'static, ()>),
    Waits(BoxFuture<'static, ()>),
    IsCut,
}

impl Held {
    fn poll_next<E>(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, StreamCut<E>>>> {
        match std::mem::replace(self, Self::IsCut) {
            Self::Begins(time) => {
                *self = Self::Waits(time);
                Poll::Ready(Some(Ok(Bytes::from_static(wire::HEARTBEAT))))
            }
            Self::Waits(mut time) => match time.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Some(Err(StreamCut::Unavailable))),
                Poll::Pending => {
                    *self = Self::Waits(time);
                    Poll::Pending
                }
            },
            Self::IsCut => Poll::Ready(None),
        }
    }
}

/// The reason why a body breaks off before the end of the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamCut<E> {
    /// The store failed.
    Store(E),
    /// The server is about to stop: see [`Shutdown`](crate::http::shutdown::Shutdown).
    Shutdown,
    /// The log could not be reached at the start, and the client is to try again: see
    /// [`Refusal::hold`](crate::refusal::Refusal::hold).
    Unavailable,
}

impl<E> SseBody<E> {
    pub(super) fn empty() -> Self {
        Self {
            content: Content::Text(None),
        }
    }

    /// Returns the body for a `HEAD`, in place of a stream.
    pub(super) fn left_out() -> Self {
        Self {
            content: Content::LeftOut,
        }
    }

    /// Returns a body of these parts, without heartbeats.
    #[cfg(any(feature = "durable-streams", feature = "otlp"))]
    pub(super) fn parts(
        parts: impl Stream<Item = Result<Bytes, StreamCut<E>>> + MaybeSend + 'static,
    ) -> Self {
        Self {
            content: Content::Events(Box::pin(parts)),
        }
    }

    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        Self {
            content: Content::Text(Some(text.into())),
        }
    }

    /// Returns a body that breaks off after `time`, or when the server is about to stop.
    pub(super) fn hold(time: Duration, sse: &Sse) -> Self {
        let sleep = (sse.sleep)(time);
        let time: BoxFuture<'static, ()> = match &sse.shutdown {
            Some(shutdown) => {
                let begun = Box::pin(shutdown.begun());
                Box::pin(future::select(sleep, begun).map(|_| ()))
            }
            None => sleep,
        };
        Self {
            content: Content::Held(Held::Begins(time)),
        }
    }

    /// Returns the body with the events, up to the end of the permission, or until it is revoked.
    pub(super) fn stream<S>(
        subscription: Subscription<S>,
        sse: &Sse,
        grant: Grant,
        revoked: Option<BoxFuture<'static, ()>>,
    ) -> Self
    where
        S: EventStore<Error = E> + 'static,
        E: Error + 'static,
    {
        Self::chunks(chunks(subscription), sse, grant, revoked)
    }

    /// Returns the body with these chunks, and heartbeats, up to the end of the permission, or until it is revoked.
    pub(super) fn chunks(
        chunks: impl Stream<Item = Result<Bytes, E>> + MaybeSend + 'static,
        sse: &Sse,
        grant: Grant,
        revoked: Option<BoxFuture<'static, ()>>,
    ) -> Self
    where
        E: Error + 'static,
    {
        let on_error = Arc::clone(&sse.on_error);
        let chunks = chunks.map(move |chunk| {
            chunk.map_err(|error| {
                on_error(&error);
                StreamCut::Store(error)
            })
        });
        #[cfg(not(target_family = "wasm"))]
        if sse.is_on_tokio {
            // Its timer can be set again, which costs a hundredth of a new one.
            let interval = sse.heartbeat;
            let timer = tokio::time::sleep(interval);
            let chunks = keep_alive_by(chunks, timer, move |timer| {
                let now = tokio::time::Instant::now();
                // No heartbeat is due for as long as that.
                let due = now.checked_add(interval);
                timer.reset(due.unwrap_or(now + FAR));
            });
            return Self::bounded(chunks, sse, grant, revoked);
        }
        let sleep = Arc::clone(&sse.sleep);
        let chunks = keep_alive(chunks, sse.heartbeat, move |duration| sleep(duration));
        Self::bounded(chunks, sse, grant, revoked)
    }

    /// Returns the body with these chunks up to what ends them early.
    fn bounded(
        chunks: impl Stream<Item = Result<Bytes, StreamCut<E>>> + MaybeSend + 'static,
        sse: &Sse,
        grant: Grant,
        revoked: Option<BoxFuture<'static, ()>>,
    ) -> Self
    where
        E: Error + 'static,
    {
        let begun = match &sse.shutdown {
            Some(shutdown) => Either::Left(shutdown.reached(&sse.sleep)),
            None => Either::Right(future::pending()),
        };
        let viewing = sse.observing.viewing();
        if revoked.is_none() && grant.until.is_none() {
            // Most streams are bounded by nothing, and need no box around the other.
            return Self::cut(chunks, begun, viewing);
        }
        let chunks: BoxStream<'static, _> = match revoked {
            None => Box::pin(chunks),
            Some(revoked) => Box::pin(permitted(chunks, revoked)),
        };
        let chunks: BoxStream<'static, _> = match grant.until {
            None => chunks,
            Some(until) => {
                let sleep = Arc::clone(&sse.sleep);
                let sleep = move |duration| sleep(duration);
                Box::pin(permitted(chunks, reached(until, clock::now, sleep)))
            }
        };
        Self::cut(chunks, begun, viewing)
    }

    fn cut(
        inner: impl Stream<Item = Result<Bytes, StreamCut<E>>> + MaybeSend + 'static,
        begun: impl Future<Output = ()> + MaybeSend + 'static,
        viewing: Viewing,
    ) -> Self
    where
        E: Error + 'static,
    {
        let events = Cut {
            inner,
            begun,
            is_cut: false,
            viewing,
        };
        Self {
            content: Content::Events(Box::pin(events)),
        }
    }
}

/// Far in the future, as tokio's `sleep` takes a duration that has no end.
#[cfg(not(target_family = "wasm"))]
const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

pin_project_lite::pin_project! {
    /// A stream of chunks that breaks off when a shutdown begins.
    struct Cut<T, F> {
        #[pin]
        inner: T,
        #[pin]
        begun: F,
        is_cut: bool,
        viewing: Viewing,
    }
}

impl<T, F, E> Stream for Cut<T, F>
where
    T: Stream<Item = Result<Bytes, StreamCut<E>>>,
    F: Future<Output = ()>,
{
    type Item = T::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T::Item>> {
        let this = self.project();
        if *this.is_cut {
            return Poll::Ready(None);
        }
        if this.begun.poll(context).is_ready() {
            *this.is_cut = true;
            this.viewing
                .tell(|observer| observer.cut(stats::Cut::Shutdown));
            return Poll::Ready(Some(Err(StreamCut::Shutdown)));
        }
        let chunk = ready!(this.inner.poll_next(context));
        this.viewing.tell(|observer| match &chunk {
            Some(Ok(bytes)) => {
                observer.sent(bytes.len() as u64);
                if bytes == wire::EXPIRED {
                    observer.cut(stats::Cut::Expired);
                }
            }
            Some(Err(_)) => observer.cut(stats::Cut::Store),
            None => {}
        });
        Poll::Ready(chunk)
    }
}

impl<E> Stream for SseBody<E> {
    type Item = Result<Bytes, StreamCut<E>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.content {
            Content::Text(text) => Poll::Ready(text.take().map(Ok)),
            Content::LeftOut => Poll::Ready(None),
            Content::Events(events) => events.poll_next_unpin(context),
            Content::Held(held) => held.poll_next(context),
        }
    }
}

impl<E> Body for SseBody<E> {
    type Data = Bytes;
    type Error = StreamCut<E>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamCut<E>>>> {
        let chunk = self.poll_next(context);
        chunk.map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Text(None) | Content::LeftOut)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Text(text) => {
                let length = text.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(length as u64)
            }
            Content::LeftOut | Content::Events(_) | Content::Held(_) => SizeHint::default(),
        }
    }
}

// Nothing in it is pinned in place: whatever must be pinned is boxed.
impl<E> Unpin for SseBody<E> {}

impl<E> fmt::Debug for SseBody<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::Text(text) => f.debug_tuple("SseBody").field(text).finish(),
            Content::LeftOut => f.write_str("SseBody"),
            Content::Events(_) | Content::Held(_) => f.write_str("SseBody(..)"),
        }
    }
}

impl<E> fmt::Display for StreamCut<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Store(_) => "the event store failed",
            Self::Shutdown => "the server is shutting down",
            Self::Unavailable => "the events cannot be reached",
        })
    }
}

impl<E: Error + 'static> Error for StreamCut<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Shutdown | Self::Unavailable => None,
        }
    }
}
