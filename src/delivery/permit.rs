//! Ends a stream when the permission to watch it ends, with an event that says so.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_core::Stream;

use crate::store::FrameBytes;
use crate::sync::MaybeSend;
use crate::wire;

/// Ends a stream of chunks at `until`, the end of a viewer's permission. The last chunk is then [`wire::EXPIRED`]. It
/// tells page code to renew its permission and to come back with the last id that it got. An `EventSource` without
/// such code reconnects, and is refused.
///
/// `chunks` are whole frames, as [`body`](crate::body) returns them. `now` is the clock. It is asked again whenever
/// the timer, made by `sleep`, ends, so a timer that is early or is interrupted does no harm.
///
/// ```
/// # use std::time::{Duration, SystemTime};
/// # use futures_util::{StreamExt, stream};
/// # use ssetarget::{expire_at, wire};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let chunks = stream::pending::<Result<bytes::Bytes, std::io::Error>>();
/// let until = SystemTime::now() + Duration::from_millis(20);
/// let chunks = expire_at(chunks, until, SystemTime::now, tokio::time::sleep);
/// let chunks: Vec<_> = chunks.collect().await;
/// assert_eq!(chunks.len(), 1);
/// assert_eq!(chunks[0].as_ref().unwrap(), wire::EXPIRED);
/// # });
/// ```
pub fn expire_at<T, B, E, F>(
    chunks: T,
    until: SystemTime,
    now: impl Fn() -> SystemTime + MaybeSend,
    sleep: impl FnMut(Duration) -> F + MaybeSend,
) -> impl Stream<Item = Result<B, E>> + MaybeSend
where
    T: Stream<Item = Result<B, E>> + MaybeSend,
    B: FrameBytes,
    F: Future<Output = ()> + MaybeSend,
{
    permitted(chunks, reached(until, now, sleep))
}

/// Ends a stream of chunks when `ended` resolves: see [`expire_at`].
pub(crate) fn permitted<T, P>(chunks: T, ended: P) -> Permitted<T, P> {
    Permitted {
        chunks,
        ended,
        is_over: false,
    }
}

pin_project_lite::pin_project! {
    pub(crate) struct Permitted<T, P> {
        #[pin]
        chunks: T,
        #[pin]
        ended: P,
        is_over: bool,
    }
}

impl<T, P, B, E> Stream for Permitted<T, P>
where
    T: Stream<Item = Result<B, E>>,
    P: Future<Output = ()>,
    B: FrameBytes,
{
    type Item = Result<B, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        if *this.is_over {
            return Poll::Ready(None);
        }
        // The end comes first: chunks that are ready are not sent any more.
        if this.ended.poll(context).is_ready() {
            *this.is_over = true;
            return Poll::Ready(Some(Ok(B::from_slice(wire::EXPIRED))));
        }
        let item = this.chunks.poll_next(context);
        *this.is_over = matches!(item, Poll::Ready(None));
        item
    }
}

/// Returns a future that resolves when the clock `now` shows this time. Each poll asks the clock.
pub(crate) fn reached<N, S, F>(time: SystemTime, now: N, mut sleep: S) -> Reached<N, S, F>
where
    N: Fn() -> SystemTime,
    S: FnMut(Duration) -> F,
    F: Future<Output = ()>,
{
    let timer = sleep(left(time, now()));
    Reached {
        time,
        now,
        sleep,
        timer,
    }
}

/// The longest sleep. Timers of JavaScript have 31 bits of milliseconds, and the timers of a machine that slept
/// continue where they were.
const LONGEST: Duration = Duration::from_secs(60 * 60);

fn left(time: SystemTime, now: SystemTime) -> Duration {
    time.duration_since(now).unwrap_or_default().min(LONGEST)
}

pin_project_lite::pin_project! {
    pub(crate) struct Reached<N, S, F> {
        time: SystemTime,
        now: N,
        sleep: S,
        #[pin]
        timer: F,
    }
}

impl<N, S, F> Future for Reached<N, S, F>
where
    N: Fn() -> SystemTime,
    S: FnMut(Duration) -> F,
    F: Future<Output = ()>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        /// The number of timers that may end too early before others have their turn.
        const ROUNDS: u32 = 8;
        let mut this = self.project();
        for _ in 0..ROUNDS {
            let rest = left(*this.time, (this.now)());
            if rest.is_zero() {
                return Poll::Ready(());
            }
            if this.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            this.timer.set((this.sleep)(rest));
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::future::{pending, ready};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use futures_util::{StreamExt, stream};

    use super::*;

    const END: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn nothing_comes_after_the_end_even_if_it_is_there() {
        futures_executor::block_on(async {
            let is_over = Cell::new(false);
            let chunks = stream::iter(0..9).map(|number| {
                is_over.set(number == 2);
                Ok::<_, Infallible>(Bytes::from(vec![number]))
            });
            let ended = std::future::poll_fn(|_| match is_over.get() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            });
            let chunks: Vec<_> = permitted(chunks, ended).map(Result::unwrap).collect().await;
            let expired = Bytes::from_static(wire::EXPIRED);
            assert_eq!(
                chunks,
                [
                    Bytes::from_static(&[0]),
                    Bytes::from_static(&[1]),
                    Bytes::from_static(&[2]),
                    expired
                ]
            );
        });
    }

    #[test]
    fn a_stream_that_ends_before_says_nothing_of_a_permission() {
        futures_executor::block_on(async {
            let chunks = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"a"))]);
            let chunks: Vec<_> = permitted(chunks, pending()).collect().await;
            assert_eq!(chunks.len(), 1);
        });
    }

    /// A clock that timers move, each by less than was asked for, as on a machine that sleeps.
    #[test]
    fn the_clock_decides_and_not_the_timer() {
        let clock = Arc::new(AtomicU64::new(0));
        let now = {
            let clock = Arc::clone(&clock);
            move || END - Duration::from_millis(100_000_000 - clock.load(Ordering::Relaxed))
        };
        let asked = Arc::new(AtomicU64::new(0));
        let sleep = |duration: Duration| {
            assert!(!duration.is_zero() && duration <= LONGEST, "{duration:?}");
            asked.fetch_add(1, Ordering::Relaxed);
            let part = duration.as_millis() as u64;
            clock.fetch_add(part.div_ceil(2), Ordering::Relaxed);
            ready(())
        };
        futures_executor::block_on(reached(END, now, sleep));
        assert_eq!(clock.load(Ordering::Relaxed), 100_000_000);
        assert!(asked.load(Ordering::Relaxed) > 50);
    }
}
