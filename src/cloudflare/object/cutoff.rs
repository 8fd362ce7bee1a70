//! Cuts off the streams of an object whose log was deleted. Runs in the object.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::Bell;

/// Cuts off all streams that are open.
#[derive(Default)]
pub(super) struct Cutoff {
    /// The number of times that streams were cut off.
    times: AtomicU64,
    bell: Bell,
}

impl Cutoff {
    /// Cuts off the streams that are open now.
    pub(super) fn cut(&self) {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.bell.ring();
    }

    /// Returns a future that resolves when streams are cut off, from this call on.
    pub(super) fn next(self: &Rc<Self>) -> impl Future<Output = ()> + use<> {
        let before = self.times.load(Ordering::Relaxed);
        let cutoff = Rc::clone(self);
        async move {
            loop {
                let listener = cutoff.bell.listen();
                if cutoff.times.load(Ordering::Relaxed) != before {
                    return;
                }
                listener.await;
            }
        }
    }
}
