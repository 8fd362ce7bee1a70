//! The memory of a waiting viewer, in bytes.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, poll};
use ssetarget::http::{Shutdown, Sse};
use ssetarget::{MemoryEventStore, NewEvent, PageLimit, SseTarget};

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// The only test in this file, because the counter would count others too.
#[tokio::test]
async fn a_viewer_that_waits_costs_less_than_a_kilobyte_and_leaves_nothing() {
    const VIEWERS: usize = 1_000;
    let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    let data = "x".repeat(200);
    let event = || NewEvent::new("note", data.as_str()).unwrap();
    target
        .dispatch_encoded((0..20).map(|_| event()).collect())
        .await
        .unwrap();
    let shutdown = Shutdown::new();
    let pages = PageLimit {
        events: 10,
        ..PageLimit::default()
    };
    let sse = Sse::new().shutdown(&shutdown).page_limit(pages);
    let request = http::Request::new(());

    let mut viewers = Vec::with_capacity(VIEWERS);
    let before = ALLOCATED.load(Ordering::Relaxed);
    for _ in 0..VIEWERS {
        let mut viewer = sse.respond(&target, &request).await.into_body();
        // The heartbeat, the events in two pages, and then it waits.
        for _ in 0..3 {
            viewer.next().await.unwrap().unwrap();
        }
        assert!(poll!(viewer.next()).is_pending());
        viewers.push(viewer);
    }
    let each = (ALLOCATED.load(Ordering::Relaxed) - before) / VIEWERS;
    assert!(each < 1_024, "{each} bytes for each viewer");

    // One more event for everybody, then all leave.
    target.dispatch_encoded(vec![event()]).await.unwrap();
    for viewer in &mut viewers {
        viewer.next().await.unwrap().unwrap();
        assert!(poll!(viewer.next()).is_pending());
    }
    viewers.clear();
    let left = ALLOCATED.load(Ordering::Relaxed).saturating_sub(before);
    assert!(left < 16 * 1_024, "{left} bytes are left");
}
