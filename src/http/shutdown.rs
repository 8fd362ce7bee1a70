//! The end of a server, which is not the end of its streams.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::store::Bell;
use crate::sync::MaybeSend;

/// Tells all streams of a server that it is about to stop.
///
/// A stream is then cut off and not ended: no terminal event, and a body that breaks off, since
/// there are clients that take a clean end for the end of the events and never come back. Clients
/// reconnect as after any broken connection, to another server or to this one's next process, and
/// resume after the last event that they got.
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
/// written to it: give the server a limit, after which the process ends anyway.
#[derive(Clone, Default)]
pub struct Shutdown {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    begun: AtomicBool,
    bell: Bell,
}

impl Shutdown {
    /// One that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts off all streams, those that are open and those that are still to be.
    pub fn begin(&self) {
        self.state.begun.store(true, Ordering::SeqCst);
        self.state.bell.ring();
    }

    /// Whether [`begin`](Self::begin) was called.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.state.begun.load(Ordering::SeqCst)
    }

    /// Resolves when [`begin`](Self::begin) is called, or was.
    pub fn begun(&self) -> impl Future<Output = ()> + MaybeSend + use<> {
        let this = self.clone();
        async move {
            let listener = this.state.bell.listen();
            if !this.has_begun() {
                listener.await;
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
