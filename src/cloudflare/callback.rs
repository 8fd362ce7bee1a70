//! A value that a JavaScript callback delivers to a Rust future. Runs in the Worker and in the object.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Holds the value that a callback delivered until the future that waits takes it.
///
/// One callback and one value of this type serve any number of calls, one after another. An `async fn` of
/// `wasm_bindgen` makes a future and its closures for each call, which costs more than what callers do.
#[derive(Default)]
pub(super) struct CallbackValue<T> {
    value: Cell<Option<T>>,
    waker: Cell<Option<Waker>>,
}

impl<T> CallbackValue<T> {
    /// Stores the value and wakes the future that waits for it.
    pub(super) fn deliver(&self, value: T) {
        self.value.set(Some(value));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits for the next value and takes it. One future may wait at a time.
    pub(super) async fn take(&self) -> T {
        poll_fn(|context| self.poll(context)).await
    }

    /// Takes the value if it is there, and is woken when it is otherwise.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<T> {
        if let Some(value) = self.value.take() {
            return Poll::Ready(value);
        }
        let waker = match self.waker.take() {
            Some(waker) if waker.will_wake(context.waker()) => waker,
            _ => context.waker().clone(),
        };
        self.waker.set(Some(waker));
        Poll::Pending
    }
}
