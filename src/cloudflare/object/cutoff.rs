//! Cuts off the streams of an object: when its log was deleted, and when the object itself is gone. Runs in the object.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cloudflare_workflows::__private::Guard;

use crate::store::Bell;
use crate::sync::{Mutex, lock};

/// Cuts off all streams that are open.
#[derive(Default)]
pub(super) struct Cutoff {
    /// The number of times that the log was deleted.
    times: AtomicU64,
    /// The object was reset with all its requests: nothing of the runtime's wakes its streams any more.
    is_gone: AtomicBool,
    bell: Bell,
    guarded: Mutex<Guarded>,
}

/// Streams are guarded together, since an object's requests are one to the runtime.
#[derive(Default)]
struct Guarded {
    streams: u64,
    guard: Option<Guard>,
}

/// Why streams are cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Because {
    /// The log was deleted.
    Deleted,
    /// The object is gone. Nobody reads what is written.
    Gone,
}

impl Cutoff {
    /// Cuts off the streams that are open now.
    pub(super) fn cut(&self) {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.bell.ring();
    }

    /// Returns a future that resolves when streams are cut off, from this call on.
    pub(super) fn next(self: &Rc<Self>) -> impl Future<Output = Because> + use<> {
        let before = self.times.load(Ordering::Relaxed);
        let cutoff = Rc::clone(self);
        async move {
            loop {
                let listener = cutoff.bell.listen();
                if cutoff.is_gone.load(Ordering::Relaxed) {
                    return Because::Gone;
                }
                if cutoff.times.load(Ordering::Relaxed) != before {
                    return Because::Deleted;
                }
                listener.await;
            }
        }
    }

    /// Notices that the object is gone, for as long as the returned value lives.
    pub(super) fn guard(self: &Rc<Self>) -> Streaming {
        let mut guarded = lock(&self.guarded);
        guarded.streams += 1;
        if guarded.guard.is_none() {
            let cutoff = Rc::downgrade(self);
            let gone = move || {
                if let Some(cutoff) = cutoff.upgrade() {
                    cutoff.is_gone.store(true, Ordering::Relaxed);
                    cutoff.bell.ring();
                }
            };
            // Without it the streams of an object that is reset stay in memory until the isolate is gone.
            guarded.guard = Guard::new(gone).ok();
        }
        Streaming(Rc::clone(self))
    }
}

/// A stream of an object, guarded until this is dropped.
pub(super) struct Streaming(Rc<Cutoff>);

impl Drop for Streaming {
    fn drop(&mut self) {
        let mut guarded = lock(&self.0.guarded);
        guarded.streams -= 1;
        if guarded.streams == 0 {
            // An object with a timer does not leave memory.
            guarded.guard = None;
        }
    }
}
