//! The wake-up: "look again", and nothing more.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, lock};

/// Wakes all who wait for a log to change. It carries no data, so no wake-up can be lost, doubled
/// or reordered in a way that matters: a waiter always reads the log again.
///
/// The rule that makes it right: call [`Bell::listen`] *before* reading the log and await the
/// [`Listener`] only if the read found nothing. An append during the read rings the bell again
/// and the listener resolves at once.
#[derive(Debug, Default)]
pub struct Bell {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rings: u64,
    waiting: BTreeMap<u64, Waker>,
    next_listener: u64,
}

impl Bell {
    /// Creates a bell that has not rung yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Resolves every listener taken before this call. Call it after the append is visible.
    pub fn ring(&self) {
        let waiting = {
            let mut state = lock(&self.state);
            state.rings += 1;
            std::mem::take(&mut state.waiting)
        };
        // Outside the lock, here and below: a waker that is woken, cloned or dropped may run
        // anything, and so come to this bell.
        for waker in waiting.into_values() {
            waker.wake();
        }
    }

    /// Returns a future that resolves at the next ring after this call.
    pub fn listen(&self) -> Listener<'_> {
        let mut state = lock(&self.state);
        state.next_listener += 1;
        Listener {
            bell: self,
            number: state.next_listener,
            heard: state.rings,
        }
    }
}

/// The future that [`Bell::listen`] returns.
#[must_use]
#[derive(Debug)]
pub struct Listener<'a> {
    bell: &'a Bell,
    number: u64,
    heard: u64,
}

impl Future for Listener<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        let mut state = lock(&self.bell.state);
        if state.rings != self.heard {
            return Poll::Ready(());
        }
        let earlier = state.waiting.insert(self.number, waker);
        drop(state);
        drop(earlier);
        Poll::Pending
    }
}

/// Removes the waker of a viewer that leaves: an idle log must not collect them.
impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let waker = {
            let mut state = lock(&self.bell.state);
            state.waiting.remove(&self.number)
        };
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_ring_between_listen_and_await_is_heard() {
        let bell = Bell::new();
        let listener = pin!(bell.listen());
        bell.ring();
        let waker = Arc::new(Count::default()).into();
        assert!(listener.poll(&mut Context::from_waker(&waker)).is_ready());
    }

    /// Uses the bell when it is woken and when it is dropped.
    struct Looks(Arc<Bell>);
    impl Wake for Looks {
        fn wake(self: Arc<Self>) {
            drop(self.0.listen());
        }
    }
    impl Drop for Looks {
        fn drop(&mut self) {
            self.0.ring();
        }
    }

    #[test]
    fn a_waker_may_use_the_bell() {
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let bell = Arc::new(Bell::new());
            let poll = |listener: Pin<&mut Listener<'_>>| {
                let waker = Arc::new(Looks(Arc::clone(&bell))).into();
                listener.poll(&mut Context::from_waker(&waker)).is_ready()
            };
            {
                let mut listener = pin!(bell.listen());
                assert!(!poll(listener.as_mut()));
                // The waker of the first poll goes, and rings.
                assert!(!poll(listener.as_mut()));
                assert!(poll(listener));
            }
            {
                let mut listener = pin!(bell.listen());
                assert!(!poll(listener.as_mut()));
                bell.ring();
                assert!(poll(listener));
            }
            let mut left = Box::pin(bell.listen());
            assert!(!poll(left.as_mut()));
            drop(left);
            done.send(()).unwrap();
        });
        let ended = is_done.recv_timeout(std::time::Duration::from_secs(20));
        assert_eq!(
            ended,
            Ok(()),
            "a waker waits for the bell that waits for it"
        );
    }

    #[test]
    fn polled_twice_wakes_once_and_dropped_leaves_nothing() {
        let bell = Bell::new();
        let count = Arc::new(Count::default());
        let waker = Arc::clone(&count).into();
        let mut context = Context::from_waker(&waker);
        {
            let mut listener = pin!(bell.listen());
            assert!(listener.as_mut().poll(&mut context).is_pending());
            assert!(listener.as_mut().poll(&mut context).is_pending());
            bell.ring();
            assert_eq!(count.0.load(Ordering::SeqCst), 1);
            assert!(listener.poll(&mut context).is_ready());
        }
        assert!(pin!(bell.listen()).poll(&mut context).is_pending());
        assert!(lock(&bell.state).waiting.is_empty());
    }
}
