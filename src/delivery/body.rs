//! Turns a subscription into the bytes of a response, with heartbeats.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt, stream};

use super::subscription::{Batch, Subscription};
use crate::store::{EventStore, FrameBytes, FrameStore};
use crate::sync::MaybeSend;
use crate::wire;

/// The default silence before a heartbeat: 15 seconds, as WHATWG HTML section 9.2.7 advises.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// Returns the bytes of a stream, with a heartbeat after every [`HEARTBEAT_INTERVAL`] of silence.
/// The stream begins with a heartbeat, so that proxies flush the headers. If the subscription
/// starts at the tail, an `id:` with that position follows (see [`wire::encode_position`]). Then
/// come the events. `sleep` is the clock: `tokio::time::sleep`, or a Worker's timer.
///
/// Send it with [`wire::HEADERS`] and status `200`. If [`Subscription::has_ended`] is true, answer
/// `204` without a body instead, which stops an `EventSource`.
///
/// Each item is at most about one page ([`PageLimit`](crate::store::PageLimit)). The next page is
/// read when the next item is polled, so a slow client costs one page. The stream ends after the
/// terminal event. It also ends after an error, which looks like a broken connection to the client:
/// it reconnects and resumes.
pub fn body<S, F>(
    subscription: Subscription<S>,
    sleep: impl FnMut(Duration) -> F + MaybeSend,
) -> impl Stream<Item = Result<Bytes, S::Error>> + MaybeSend
where
    S: EventStore + 'static,
    F: Future<Output = ()> + MaybeSend,
{
    let numbered = subscription.is_resumable();
    let opening = stream::iter(subscription.opening()).map(|opening| Ok(Bytes::from(opening)));
    let frames = subscription
        .into_stream()
        .map(move |batch| batch.map(|batch| Bytes::from(frames(&batch, numbered))));
    keep_alive(opening.chain(frames), HEARTBEAT_INTERVAL, sleep)
}

/// As [`body`], for a store that keeps the bytes. Where the first events are there at once and are few, they are one
/// item with the heartbeat before them: each item is a write to the viewer, and a viewer who comes costs one less.
pub fn frame_body<S, F>(
    subscription: Subscription<S>,
    sleep: impl FnMut(Duration) -> F + MaybeSend,
) -> impl Stream<Item = Result<S::Bytes, S::Error>> + MaybeSend
where
    S: FrameStore + 'static,
    F: Future<Output = ()> + MaybeSend,
{
    let opening = stream::iter(subscription.opening());
    let opening = opening.map(|opening| Ok(S::Bytes::from_slice(&opening)));
    let chunks = subscription
        .into_frames()
        .map(|batch| batch.map(frame_bytes));
    JoinsFirst {
        inner: keep_alive(opening.chain(chunks), HEARTBEAT_INTERVAL, sleep),
        started: false,
        held: None,
    }
}

/// Encodes a batch whose events are encoded already.
pub(crate) fn frame_bytes<B: FrameBytes>(batch: Batch<B>) -> B {
    match batch {
        Batch::Events(frames) => frames,
        Batch::Reset(reset) => {
            let mut out = Vec::new();
            wire::encode_reset(&reset, &mut out);
            B::from_slice(&out)
        }
    }
}

/// Encodes a batch. With `numbered`, each event has its `id:`; see [`Subscription::is_resumable`].
#[must_use]
pub fn frames(batch: &Batch, numbered: bool) -> Vec<u8> {
    let mut out = Vec::new();
    match batch {
        Batch::Events(events) => {
            for event in events {
                if numbered {
                    wire::encode(event, &mut out);
                } else {
                    wire::encode_unnumbered(&event.event_type, &event.data, &mut out);
                }
            }
        }
        Batch::Reset(reset) => wire::encode_reset(reset, &mut out),
    }
    out
}

/// Adds heartbeats to a stream of chunks: one at once, then one after every `interval` of silence.
/// A heartbeat never interrupts what the inner stream is doing.
pub fn keep_alive<T, B, F, E>(
    inner: T,
    interval: Duration,
    mut sleep: impl FnMut(Duration) -> F + MaybeSend,
) -> impl Stream<Item = Result<B, E>> + MaybeSend
where
    T: Stream<Item = Result<B, E>> + MaybeSend,
    B: FrameBytes,
    F: Future<Output = ()> + MaybeSend,
{
    KeepAlive {
        inner,
        timer: sleep(interval),
        sleep: move || sleep(interval),
        started: false,
    }
}

pin_project_lite::pin_project! {
    struct KeepAlive<T, F, M> {
        #[pin]
        inner: T,
        #[pin]
        timer: F,
        sleep: M,
        started: bool,
    }
}

impl<T, B, F, M, E> Stream for KeepAlive<T, F, M>
where
    T: Stream<Item = Result<B, E>>,
    B: FrameBytes,
    F: Future<Output = ()>,
    M: FnMut() -> F,
{
    type Item = Result<B, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        if !*this.started {
            *this.started = true;
            return Poll::Ready(Some(Ok(B::heartbeat())));
        }
        if let Poll::Ready(item) = this.inner.poll_next(context) {
            this.timer.set((this.sleep)());
            return Poll::Ready(item);
        }
        if this.timer.as_mut().poll(context).is_ready() {
            this.timer.set((this.sleep)());
            return Poll::Ready(Some(Ok(B::heartbeat())));
        }
        Poll::Pending
    }
}

/// The most bytes that are copied to be one item with the first heartbeat. A copy of more costs more than a write.
const JOINS: usize = 16 * 1024;

pin_project_lite::pin_project! {
    /// Makes one item of the first two, if the second is there at once and small.
    struct JoinsFirst<T, I> {
        #[pin]
        inner: T,
        started: bool,
        // What comes behind the first item.
        held: Option<Option<I>>,
    }
}

impl<T, B, E> Stream for JoinsFirst<T, Result<B, E>>
where
    T: Stream<Item = Result<B, E>>,
    B: FrameBytes,
{
    type Item = Result<B, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        if let Some(held) = this.held.take() {
            return Poll::Ready(held);
        }
        let item = this.inner.as_mut().poll_next(context);
        if *this.started {
            return item;
        }
        let Poll::Ready(Some(Ok(first))) = item else {
            return item;
        };
        *this.started = true;
        match this.inner.poll_next(context) {
            Poll::Ready(Some(Ok(second))) if second.byte_length() <= JOINS => {
                Poll::Ready(Some(Ok(B::concat(&[first, second]))))
            }
            Poll::Ready(second) => {
                *this.held = Some(second);
                Poll::Ready(Some(Ok(first)))
            }
            Poll::Pending => Poll::Ready(Some(Ok(first))),
        }
    }
}
