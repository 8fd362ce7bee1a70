//! Ends what an object has under way: its streams when its log was deleted, and everything when the object itself is
//! gone. Runs in the object.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use cloudflare_workflows::__private::Guard;
use futures_util::future::LocalBoxFuture;

use crate::store::Bell;
use crate::sync::{Mutex, lock};

/// Cuts off all streams that are open, and drops the tasks of an object that is gone.
#[derive(Default)]
pub(super) struct Cutoff {
    /// The number of times that the log was deleted.
    times: AtomicU64,
    /// The object was reset with all its requests: nothing of the runtime's wakes what it has under way.
    is_gone: AtomicBool,
    bell: Bell,
    guarded: Mutex<Guarded>,
}

/// Streams and tasks are guarded together, since an object's requests are one to the runtime.
#[derive(Default)]
struct Guarded {
    under_way: u64,
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

impl Because {
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Deleted => "the log was deleted",
            Self::Gone => "the object is gone",
        }
    }
}

impl Cutoff {
    /// Cuts off the streams that are open now.
    pub(super) fn cut(&self) {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.bell.ring();
    }

    /// Returns a future that resolves when a stream that begins now is to be cut off. While it lives, the object is
    /// guarded.
    pub(super) fn of_stream(self: &Rc<Self>) -> LocalBoxFuture<'static, Because> {
        let (under_way, next) = (self.guard(), self.next());
        Box::pin(async move {
            let _under_way = under_way;
            next.await
        })
    }

    /// Returns a future that resolves when streams are cut off, from this call on.
    fn next(self: &Rc<Self>) -> impl Future<Output = Because> + use<> {
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

    /// Resolves when the object is gone.
    fn gone(self: Rc<Self>) -> LocalBoxFuture<'static, ()> {
        Box::pin(async move { while self.next().await != Because::Gone {} })
    }

    /// Runs a task of the object, which is dropped where it waits when the object is gone.
    #[cfg(any(
        feature = "durable-streams",
        feature = "hibernation",
        feature = "index",
        feature = "otlp",
        feature = "relays"
    ))]
    pub(super) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let task: LocalBoxFuture<'static, ()> = Box::pin(task);
        let cutoff = Rc::clone(self);
        wasm_bindgen_futures::spawn_local(async move {
            cutoff.unless_gone(task).await;
        });
    }

    /// Resolves to what `future` resolves to, or to `None` as soon as the object is gone. It guards the object while
    /// `future` waits.
    // Not an async function, whose state machine would be larger.
    pub(super) fn unless_gone<'a, T: 'a>(
        self: &Rc<Self>,
        mut future: LocalBoxFuture<'a, T>,
    ) -> impl Future<Output = Option<T>> + use<'a, T> {
        let cutoff = Rc::clone(self);
        let mut guarded: Option<(UnderWay, LocalBoxFuture<'static, ()>)> = None;
        poll_fn(move |context| {
            // First, so that `future` is not polled again: the runtime would refuse its timers.
            let is_gone = match &mut guarded {
                Some((_, gone)) => gone.as_mut().poll(context).is_ready(),
                None => cutoff.is_gone.load(Ordering::Relaxed),
            };
            if is_gone {
                return Poll::Ready(None);
            }
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            if guarded.is_none() {
                let mut gone = Rc::clone(&cutoff).gone();
                // To be woken by it. It can only be pending.
                let _ = gone.as_mut().poll(context);
                guarded = Some((cutoff.guard(), gone));
            }
            Poll::Pending
        })
    }

    /// Notices that the object is gone, for as long as the returned value lives.
    fn guard(self: &Rc<Self>) -> UnderWay {
        let mut guarded = lock(&self.guarded);
        guarded.under_way += 1;
        if guarded.guard.is_none() && !self.is_gone.load(Ordering::Relaxed) {
            let cutoff = Rc::downgrade(self);
            let gone = move || {
                if let Some(cutoff) = cutoff.upgrade() {
                    cutoff.is_gone.store(true, Ordering::Relaxed);
                    cutoff.bell.ring();
                }
            };
            // Without it what an object has under way as it is reset stays in memory until the isolate is gone.
            guarded.guard = Guard::new(gone).ok();
        }
        UnderWay(Rc::clone(self))
    }
}

/// A stream or a task of an object, guarded until this is dropped.
struct UnderWay(Rc<Cutoff>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut guarded = lock(&self.0.guarded);
        guarded.under_way -= 1;
        if guarded.under_way == 0 {
            // An object with a timer does not leave memory.
            guarded.guard = None;
        }
    }
}
