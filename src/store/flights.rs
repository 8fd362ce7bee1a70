//! Shares one call to a log among all who ask the same question at the same time.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use futures_util::FutureExt;
use futures_util::future::{Shared, WeakShared};

use crate::sync::{BoxFuture, MaybeSend, MaybeSync, Mutex, lock};

/// The calls under way, keyed by question.
///
/// An answer is never older than its question. A caller that asks while a call for the same
/// question is under way waits for that call to end, then shares the next call with all who came
/// meanwhile. So each question has at most one call under way and one waiting, however many callers
/// ask.
///
/// Every waiting caller polls the call, from its beginning on. If one leaves, or is polled no more,
/// the others go on; if all leave, the call is dropped.
///
/// `B` is the type of a call's future.
pub(super) struct Flights<K, T: Clone, B = BoxFuture<'static, T>>(Arc<Mutex<Board<K, B>>>)
where
    B: Future<Output = T>;

struct Board<K, B: Future> {
    /// Calls that have not begun: a caller that asks now may join.
    waiting: BTreeMap<K, WeakShared<B>>,
    /// Calls that have begun.
    begun: BTreeMap<K, WeakShared<B>>,
}

/// What a call waits for before it begins: the end of the call before it.
pub(super) struct Turn<K, B: Future> {
    key: K,
    before: Option<Shared<B>>,
    board: std::sync::Weak<Mutex<Board<K, B>>>,
}

impl<K: Copy + Ord, T: Clone, B: Future<Output = T>> Turn<K, B> {
    /// Waits. From then on no caller joins the call.
    pub(super) async fn come(self) {
        if let Some(before) = self.before {
            before.await;
        }
        if let Some(board) = self.board.upgrade() {
            lock(&board).begin(self.key);
        }
    }
}

impl<K, T> Flights<K, T>
where
    K: Copy + Ord + MaybeSend + MaybeSync + 'static,
    T: Clone + MaybeSend + MaybeSync + 'static,
{
    /// Returns the answer of an `ask` that begins after this call.
    pub(super) async fn ask<F>(&self, key: K, ask: impl FnOnce() -> F + MaybeSend + 'static) -> T
    where
        F: Future<Output = T> + MaybeSend + 'static,
    {
        let call = |turn: Turn<K, BoxFuture<'static, T>>| -> BoxFuture<'static, T> {
            Box::pin(async move {
                turn.come().await;
                ask().await
            })
        };
        self.share(key, call).await
    }

    /// As [`ask`](Self::ask), but joins a call that is already under way. For calls that resolve
    /// only when a condition holds, for which any answer still to come is new enough.
    pub(super) async fn wait<F>(&self, key: K, ask: impl FnOnce() -> F + MaybeSend + 'static) -> T
    where
        F: Future<Output = T> + MaybeSend + 'static,
    {
        let begun = lock(&self.0).begun.get(&key).and_then(WeakShared::upgrade);
        match begun {
            Some(call) if call.peek().is_none() => call.await,
            _ => self.ask(key, ask).await,
        }
    }
}

impl<K: Copy + Ord, T: Clone, B: Future<Output = T>> Flights<K, T, B> {
    /// Returns the answer of a call that begins after this one: when its turn has come.
    pub(super) async fn share(&self, key: K, call: impl FnOnce(Turn<K, B>) -> B) -> T {
        let call = self.join(key, call);
        // Callers of the same moment are to join. Each lets them, and none holds the call back for
        // that: it may never be polled again. Not within the call, since `Shared` polls a future
        // that has woken itself at once.
        yield_once().await;
        call.await
    }

    /// Returns the call that has not begun, or makes one.
    fn join(&self, key: K, call: impl FnOnce(Turn<K, B>) -> B) -> Shared<B> {
        let mut board = lock(&self.0);
        if let Some(call) = board.waiting.get(&key).and_then(WeakShared::upgrade) {
            return call;
        }
        let turn = Turn {
            key,
            before: board.begun.get(&key).and_then(WeakShared::upgrade),
            board: Arc::downgrade(&self.0),
        };
        let call = call(turn).shared();
        board.waiting.retain(|_, call| is_wanted(call));
        if let Some(waiting) = call.downgrade() {
            board.waiting.insert(key, waiting);
        }
        call
    }
}

impl<K: Copy + Ord, T: Clone, B: Future<Output = T>> Board<K, B> {
    fn begin(&mut self, key: K) {
        self.begun.retain(|_, call| is_wanted(call));
        if let Some(call) = self.waiting.remove(&key) {
            self.begun.insert(key, call);
        }
    }
}

/// Returns whether anybody waits for the call.
fn is_wanted<T: Clone, B: Future<Output = T>>(call: &WeakShared<B>) -> bool {
    call.upgrade().is_some()
}

async fn yield_once() {
    let mut is_back = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_back, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl<K, T: Clone, B: Future<Output = T>> Default for Flights<K, T, B> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Board {
            waiting: BTreeMap::new(),
            begun: BTreeMap::new(),
        })))
    }
}

impl<K, T: Clone, B: Future<Output = T>> fmt::Debug for Flights<K, T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    use super::*;

    /// Polls a few times, as a task does that is woken; far more often than any call here needs.
    fn soon<T>(future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        (0..20).find_map(|_| match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    }

    /// Polls this often, without an answer.
    fn park<T>(mut future: Pin<&mut impl Future<Output = T>>, times: usize) {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..times {
            assert!(future.as_mut().poll(&mut context).is_pending());
        }
    }

    /// Takes two polls. The tests poll without being woken.
    async fn slow() {
        let mut is_back = false;
        poll_fn(|_| match std::mem::replace(&mut is_back, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    #[test]
    fn a_caller_that_is_polled_no_more_holds_up_nobody() {
        // Up to a call that is made but has not begun, and up to one that has begun.
        for polls in [1, 2] {
            let flights = Flights::<u8, u8>::default();
            let mut first = pin!(flights.ask(0, async || {
                slow().await;
                1
            }));
            park(first.as_mut(), polls);
            // Waits, then is polled no more either.
            let mut second = pin!(flights.ask(0, async || {
                slow().await;
                2
            }));
            park(second.as_mut(), 1);
            let third = soon(flights.ask(0, async || 3));
            assert_eq!(third, Some(if polls == 1 { 1 } else { 2 }));
            assert_eq!(soon(first), Some(1));
            assert_eq!(soon(second), third);
        }
    }

    #[test]
    fn callers_of_the_same_moment_share_a_call_and_later_ones_get_a_newer_answer() {
        let flights = Flights::<u8, u8>::default();
        let mut calls = [1, 2, 3].map(|call| Box::pin(flights.ask(0, async move || call)));
        let mut context = Context::from_waker(Waker::noop());
        for call in &mut calls {
            assert!(call.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(calls.map(soon), [Some(1); 3]);
        assert_eq!(soon(flights.ask(0, async || 4)), Some(4));
        // One that all have left is made no more.
        park(pin!(flights.ask(0, async || 5)), 1);
        assert_eq!(soon(flights.ask(0, async || 6)), Some(6));
    }
}
