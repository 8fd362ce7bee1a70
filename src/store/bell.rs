//! The wake-up: "look again", and nothing more.

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
    /// The wakers of those who wait for the next ring, and places between them that are free. Not a map: its code
    /// would be several KB of every Worker.
    waiting: Vec<Option<Waker>>,
    /// The places that are free.
    free: Vec<usize>,
}

impl State {
    /// Keeps a waker, at `place` if there is one already. Returns the place, and the waker that was there.
    fn keep(&mut self, place: Option<usize>, waker: Waker) -> (usize, Option<Waker>) {
        let place = place
            .or_else(|| self.free.pop())
            .unwrap_or(self.waiting.len());
        match self.waiting.get_mut(place) {
            Some(kept) => (place, kept.replace(waker)),
            None => {
                self.waiting.push(Some(waker));
                (self.waiting.len() - 1, None)
            }
        }
    }

    /// Takes the waker at a place, which is free then.
    fn take(&mut self, place: usize) -> Option<Waker> {
        let waker = self.waiting.get_mut(place)?.take();
        self.free.push(place);
        if self.free.len() == self.waiting.len() {
            (self.free, self.waiting) = (Vec::new(), Vec::new());
        }
        waker
    }
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
            state.free.clear();
            std::mem::take(&mut state.waiting)
        };
        // Outside the lock, here and below: a waker that is woken, cloned or dropped may run
        // anything, and so come to this bell.
        for waker in waiting.into_iter().flatten() {
            waker.wake();
        }
    }

    /// Returns a future that resolves at the next ring after this call.
    pub fn listen(&self) -> Listener<'_> {
        Listener {
            bell: self,
            heard: lock(&self.state).rings,
            place: None,
        }
    }
}

/// The future that [`Bell::listen`] returns.
#[must_use]
#[derive(Debug)]
pub struct Listener<'a> {
    bell: &'a Bell,
    heard: u64,
    /// Where its waker is until the next ring, once it has been polled.
    place: Option<usize>,
}

impl Future for Listener<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        let mut state = lock(&self.bell.state);
        if state.rings != self.heard {
            return Poll::Ready(());
        }
        let (place, earlier) = state.keep(self.place, waker);
        drop(state);
        self.place = Some(place);
        drop(earlier);
        Poll::Pending
    }
}

/// Removes the waker of a viewer that leaves: an idle log must not collect them.
impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let waker = {
            let mut state = lock(&self.bell.state);
            // After a ring the place is gone, or another's.
            match state.rings == self.heard {
                true => state.take(place),
                false => None,
            }
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
    fn places_of_those_who_left_are_used_again_and_wake_only_their_own() {
        let bell = Bell::new();
        let counts: Vec<Arc<Count>> = (0..3).map(|_| Arc::default()).collect();
        let poll = |listener: Pin<&mut Listener<'_>>, of: usize| {
            let waker = Arc::clone(&counts[of]).into();
            listener.poll(&mut Context::from_waker(&waker)).is_ready()
        };
        let woken = || -> Vec<usize> {
            let counts = counts.iter();
            counts.map(|count| count.0.load(Ordering::SeqCst)).collect()
        };
        let mut stays = Box::pin(bell.listen());
        let mut leaves = Box::pin(bell.listen());
        assert!(!poll(stays.as_mut(), 0) && !poll(leaves.as_mut(), 1));
        drop(leaves);
        let mut comes = Box::pin(bell.listen());
        assert!(!poll(comes.as_mut(), 2));
        assert_eq!(lock(&bell.state).waiting.len(), 2);
        bell.ring();
        assert_eq!(woken(), [1, 0, 1]);

        // A listener of before the ring takes nobody's place when it goes.
        let mut next = Box::pin(bell.listen());
        assert!(!poll(next.as_mut(), 1));
        drop((stays, comes));
        bell.ring();
        assert_eq!(woken(), [1, 1, 1]);
        assert!(poll(next.as_mut(), 1));
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
