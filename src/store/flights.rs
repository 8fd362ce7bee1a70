//! Shares one call to a log among all who ask the same question at the same time.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use futures_channel::oneshot;
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
/// Every waiting caller polls the call. If one leaves, the others go on; if all leave, the call is
/// dropped.
pub(super) struct Flights<K, T: Clone>(Arc<Mutex<Board<K, T>>>);

struct Board<K, T: Clone> {
    /// Calls that have not begun: a caller that asks now may join.
    waiting: BTreeMap<K, Weak<T>>,
    /// Calls that have begun.
    begun: BTreeMap<K, Weak<T>>,
}

type Call<T> = Shared<BoxFuture<'static, T>>;
type Weak<T> = WeakShared<BoxFuture<'static, T>>;

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
        let (call, begin) = self.join(key, ask);
        if let Some(begin) = begin {
            // Callers of the same moment are to join.
            yield_once().await;
            // The call also begins if this future is dropped before.
            drop(begin);
        }
        call.await
    }

    /// As [`ask`](Self::ask), but joins a call that is already under way. For calls that resolve
    /// only when a condition holds, for which any answer still to come is new enough.
    pub(super) async fn wait<F>(&self, key: K, ask: impl FnOnce() -> F + MaybeSend + 'static) -> T
    where
        F: Future<Output = T> + MaybeSend + 'static,
    {
        let begun = lock(&self.0).begun.get(&key).and_then(Weak::upgrade);
        match begun {
            Some(call) if call.peek().is_none() => call.await,
            _ => self.ask(key, ask).await,
        }
    }

    /// Returns the call that has not begun. If there is none, makes one, which waits until the
    /// returned sender is dropped.
    fn join<F>(
        &self,
        key: K,
        ask: impl FnOnce() -> F + MaybeSend + 'static,
    ) -> (Call<T>, Option<oneshot::Sender<()>>)
    where
        F: Future<Output = T> + MaybeSend + 'static,
    {
        let mut board = lock(&self.0);
        if let Some(call) = board.waiting.get(&key).and_then(Weak::upgrade) {
            return (call, None);
        }
        let before = board.begun.get(&key).and_then(Weak::upgrade);
        let (begin, begins) = oneshot::channel::<()>();
        let flights = Arc::downgrade(&self.0);
        let call: BoxFuture<'static, T> = Box::pin(async move {
            let _ = begins.await;
            if let Some(before) = before {
                before.await;
            }
            if let Some(board) = flights.upgrade() {
                lock(&board).begin(key);
            }
            ask().await
        });
        let call = call.shared();
        board.waiting.retain(|_, call| is_wanted(call));
        if let Some(waiting) = call.downgrade() {
            board.waiting.insert(key, waiting);
        }
        (call, Some(begin))
    }
}

impl<K: Copy + Ord, T: Clone> Board<K, T> {
    fn begin(&mut self, key: K) {
        self.begun.retain(|_, call| is_wanted(call));
        if let Some(call) = self.waiting.remove(&key) {
            self.begun.insert(key, call);
        }
    }
}

/// Returns whether anybody waits for the call.
fn is_wanted<T: Clone>(call: &Weak<T>) -> bool {
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

impl<K, T: Clone> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Board {
            waiting: BTreeMap::new(),
            begun: BTreeMap::new(),
        })))
    }
}

impl<K, T: Clone> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}
