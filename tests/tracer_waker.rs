//! A runtime whose wakers log, as tokio's do for tokio-console, below a layer that gets these
//! events.
//!
//! A file of its own: only a subscriber of the whole process gets the events that are logged while
//! it handles another.
#![cfg(feature = "tracing")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Duration;

use ssetarget::tracer::{SseLayer, Tracer};
use ssetarget::{EventStore, MemoryEventStore, NewEvent, Page, PageLimit, SseTarget};
use tracing_subscriber::prelude::*;

const JOBS: usize = 50;

/// The only test of this file, because it sets the subscriber of the process.
#[test]
fn a_waker_may_log() {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || done.send(tell()));
    let page = is_done
        .recv_timeout(Duration::from_secs(30))
        .unwrap_or_else(|_| panic!("logging waits for a lock that logging holds"));
    let of = |step: &str| {
        let step = format!("\"step\":\"{step}\"");
        let events = page.events.iter();
        let events = events.filter(move |event| event.data.contains(&step));
        events.map(|event| event.event_type.as_str())
    };
    let told: Vec<_> = of("job").collect();
    assert_eq!(told, ["started", "progress", "failed"].repeat(JOBS));
    assert_eq!(of("wake").count(), 0, "the sending is told");
}

/// Emits the spans of some jobs, and returns the log once all of it is stored.
fn tell() -> Page {
    let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    // It sends on `flush` only.
    let (tracer, sending) = Tracer::new(&target, |_| std::future::pending::<()>());
    tracing_subscriber::registry()
        .with(SseLayer::new(tracer.clone()))
        .init();
    let sender = thread::spawn(|| block_on(sending));
    for number in 0..JOBS {
        tracing::info_span!("job", number).in_scope(|| {
            tracing::info!("half");
            tracing::error!(error = "broken");
        });
        if number % 10 == 0 {
            assert!(block_on(tracer.flush()));
        }
    }
    assert!(block_on(tracer.flush()));
    assert!(!sender.is_finished());
    let everything = PageLimit {
        events: 1000,
        bytes: 1 << 20,
    };
    block_on(target.store().read(None, everything)).unwrap()
}

/// Logs when it is woken, and when it is dropped.
struct LoggingWaker(Thread);

impl Wake for LoggingWaker {
    fn wake(self: Arc<Self>) {
        tracing::info_span!("wake").in_scope(|| tracing::error!("wakes"));
        self.0.unpark();
    }
}

impl Drop for LoggingWaker {
    fn drop(&mut self) {
        tracing::info_span!("drop").in_scope(|| tracing::info!("is dropped"));
    }
}

/// Uses a new waker for each poll, so that the one before is dropped at its replacement.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        let waker = Arc::new(LoggingWaker(thread::current())).into();
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        drop(waker);
        thread::park();
    }
}
