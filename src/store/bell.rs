//! The wake-up: "look again", and nothing more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::sync::{AtomicUsize, Mutex, Ordering, lock};

/// Wakes all who wait for a log to change. It carries no data, so no wake-up can be lost, doubled
/// or reordered in a way that matters: a waiter always reads the log again.
///
/// The rule that makes it right: call [`Bell::listen`] *before* reading the log and await the
/// [`Listener`] only if the read found nothing. An append during the read rings the bell again
/// and the listener resolves at once.
#[derive(Debug, Default)]
pub struct Bell {
    /// How often it rang. Changed under the lock only; read without it, since each viewer does so at each event.
    rings: AtomicUsize,
    waiting: Mutex<Waiting>,
}

/// The wakers of those who wait for the next ring.
#[derive(Debug, Default)]
struct Waiting {
    /// Each listener has a place, which it keeps up to the ring.
    places: Vec<Option<Waker>>,
    /// The places of listeners that left.
    free: Vec<usize>,
}

impl Bell {
    /// Creates a bell that has not rung yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Resolves every listener taken before this call. Call it after the append is visible.
    pub fn ring(&self) {
        let wakers = {
            let mut waiting = lock(&self.waiting);
            self.rings.fetch_add(1, Ordering::Release);
            waiting.free.clear();
            // As many will probably wait again.
            let next = Vec::with_capacity(waiting.places.len());
            std::mem::replace(&mut waiting.places, next)
        };
        // Outside the lock, here and below: a waker that is woken, cloned or dropped may run
        // anything, and so come to this bell.
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
    }

    /// Returns a future that resolves at the next ring after this call.
    pub fn listen(&self) -> Listener<'_> {
        Listener {
            bell: self,
            // A listener that sees a ring also sees the append before it.
            heard: self.rings.load(Ordering::Acquire),
            place: None,
        }
    }
}

/// The future that [`Bell::listen`] returns.
#[must_use]
#[derive(Debug)]
pub struct Listener<'a> {
    bell: &'a Bell,
    heard: usize,
    place: Option<usize>,
}

impl Listener<'_> {
    fn has_rung(&self) -> bool {
        self.bell.rings.load(Ordering::Acquire) != self.heard
    }
}

impl Future for Listener<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.has_rung() {
            return Poll::Ready(());
        }
        let waker = Some(context.waker().clone());
        let mut waiting = lock(&self.bell.waiting);
        if self.has_rung() {
            drop(waiting);
            return Poll::Ready(());
        }
        let mut earlier = None;
        let place = self.place.or_else(|| waiting.free.pop());
        match place.and_then(|place| Some((place, waiting.places.get_mut(place)?))) {
            Some((number, place)) => {
                earlier = std::mem::replace(place, waker);
                drop(waiting);
                self.place = Some(number);
            }
            None => {
                waiting.places.push(waker);
                let number = waiting.places.len() - 1;
                drop(waiting);
                self.place = Some(number);
            }
        }
        drop(earlier);
        Poll::Pending
    }
}

/// Removes the waker of a viewer that leaves: an idle log must not collect them.
impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        // A ring takes all places.
        if self.has_rung() {
            return;
        }
        let mut waiting = lock(&self.bell.waiting);
        if self.has_rung() {
            return;
        }
        let waker = waiting.places.get_mut(place).and_then(Option::take);
        waiting.free.push(place);
        // The last one leaves nothing behind.
        let is_empty = waiting.free.len() == waiting.places.len();
        let emptied = is_empty.then(|| std::mem::take(&mut *waiting));
        drop(waiting);
        drop((waker, emptied));
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
    fn places_are_taken_again_and_each_listener_keeps_its_own() {
        let bell = Bell::new();
        let count = Arc::new(Count::default());
        let waker = Arc::clone(&count).into();
        let mut context = Context::from_waker(&waker);
        let mut waiting = Vec::new();
        for round in 0..100 {
            let mut listener = Box::pin(bell.listen());
            assert!(listener.as_mut().poll(&mut context).is_pending());
            waiting.push(listener);
            if round % 3 == 2 {
                drop(waiting.swap_remove(round % waiting.len()));
            }
        }
        let left = waiting.len();
        assert!(lock(&bell.waiting).places.len() <= left + 1);
        bell.ring();
        assert_eq!(count.0.load(Ordering::SeqCst), left);
        // Those of the ring before leave those of the next one alone.
        let mut next = Box::pin(bell.listen());
        assert!(next.as_mut().poll(&mut context).is_pending());
        for mut listener in waiting {
            assert!(listener.as_mut().poll(&mut context).is_ready());
        }
        bell.ring();
        assert_eq!(count.0.load(Ordering::SeqCst), left + 1);
        assert!(next.as_mut().poll(&mut context).is_ready());
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
        let waiting = lock(&bell.waiting);
        assert_eq!((waiting.places.capacity(), waiting.free.capacity()), (0, 0));
    }
}
