//! Graceful shutdown: the server ends, its logs do not.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::clock::Sleep;
use crate::store::Bell;
use crate::sync::MaybeSend;

/// Notifies all streams of a server that it is about to stop.
///
/// A stream is then cut off and not ended: no terminal event comes, and the body breaks off, since
/// some clients take a clean end for the end of the events and never come back. Clients reconnect
/// as after any broken connection, to another server or to this one's next process, and resume
/// after the last event that they got.
///
/// Clones are the same shutdown. With axum (feature `axum`):
///
#[cfg_attr(feature = "axum", doc = "```no_run")]
#[cfg_attr(not(feature = "axum"), doc = "```ignore")]
/// # use axum::Router;
/// # use ssetarget::{MemoryEventStore, NewEvent, SseTarget, http::{Shutdown, Sse}};
/// # async fn run(
/// #     listener: tokio::net::TcpListener,
/// #     target: SseTarget<NewEvent, MemoryEventStore>,
/// #     signal: impl Future<Output = ()> + Send + 'static,
/// # ) -> std::io::Result<()> {
/// let shutdown = Shutdown::new();
/// let app: Router = Router::new().route("/sse", Sse::new().shutdown(&shutdown).route(target));
/// tokio::spawn({
///     let shutdown = shutdown.clone();
///     async move { signal.await; shutdown.begin() } // such as `tokio::signal::ctrl_c()`
/// });
/// axum::serve(listener, app).with_graceful_shutdown(shutdown.begun()).await?;
/// # Ok(())
/// # }
/// ```
///
/// A client that does not read keeps its connection open in spite of it, since nothing more can be
/// written to it: give the server a time limit, after which the process ends anyway.
#[derive(Clone, Default)]
pub struct Shutdown {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    begun: AtomicBool,
    bell: Bell,
    spread: Duration,
    streams: AtomicU32,
}

impl Shutdown {
    /// Returns a shutdown that has not begun, and that will cut off all streams at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a shutdown that will cut off the streams evenly over this time, so that their
    /// clients do not come back all at once. Give the server that much time to stop.
    #[must_use]
    pub fn over(duration: Duration) -> Self {
        let state = State {
            spread: duration,
            ..State::default()
        };
        Self {
            state: Arc::new(state),
        }
    }

    /// Cuts off all open streams. Streams that are opened later are cut off at once.
    pub fn begin(&self) {
        self.state.begun.store(true, Ordering::SeqCst);
        self.state.bell.ring();
    }

    /// Returns whether [`begin`](Self::begin) was called.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.state.begun.load(Ordering::SeqCst)
    }

    /// Resolves when [`begin`](Self::begin) is called, or at once if it was.
    pub fn begun(&self) -> impl Future<Output = ()> + MaybeSend + use<> {
        let this = self.clone();
        async move {
            let listener = this.state.bell.listen();
            if !this.has_begun() {
                listener.await;
            }
        }
    }

    /// Resolves when this stream is to be cut off.
    pub(super) fn reached(&self, sleep: &Sleep) -> impl Future<Output = ()> + MaybeSend + use<> {
        /// The fractional parts of any number of its multiples lie evenly between 0 and 1.
        const GOLDEN_RATIO: f64 = 1.618_033_988_749_895;
        let this = self.clone();
        let sleep = Arc::clone(sleep);
        async move {
            if this.has_begun() {
                return;
            }
            let number = this.state.streams.fetch_add(1, Ordering::Relaxed);
            this.begun().await;
            if !this.state.spread.is_zero() {
                let share = (f64::from(number) * GOLDEN_RATIO).fract();
                sleep(this.state.spread.mul_f64(share)).await;
            }
        }
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown")
            .field("begun", &self.has_begun())
            .finish_non_exhaustive()
    }
}
