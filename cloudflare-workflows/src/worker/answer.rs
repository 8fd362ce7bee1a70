//! Futures of JavaScript's promises.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use js_sys::Promise;
use wasm_bindgen::prelude::*;

/// The answer to a call that returns a promise. Async functions of `wasm_bindgen` are state machines, of which each
/// place that awaits one has the code; this is compiled once.
///
/// It is not a `JsFuture`, whose callbacks keep themselves until the promise is settled. A promise of a lifetime that the
/// engine has given up never is.
#[must_use]
pub struct Answer(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    result: Option<Result<JsValue, JsValue>>,
    waker: Option<Waker>,
    /// Until the promise is settled.
    callbacks: Option<[Callback; 2]>,
}

type Callback = Closure<dyn FnMut(JsValue) -> Result<(), JsError>>;

impl Answer {
    /// Waits for the promise that a call has returned, or takes what it has thrown.
    pub fn of(called: Result<Promise, JsValue>) -> Self {
        let state = Rc::default();
        match called {
            Ok(promise) => wait(&promise, &state),
            Err(thrown) => state.borrow_mut().result = Some(Err(thrown)),
        }
        Self(state)
    }
}

fn wait(promise: &Promise, state: &Rc<RefCell<State>>) {
    let callbacks = [callback(state, Ok), callback(state, Err)];
    let [fulfilled, rejected] = &callbacks;
    let _ = promise.then_with_reject(fulfilled, rejected);
    state.borrow_mut().callbacks = Some(callbacks);
}

fn callback(
    state: &Rc<RefCell<State>>,
    result: fn(JsValue) -> Result<JsValue, JsValue>,
) -> Callback {
    let state = Rc::clone(state);
    let callback: Box<dyn FnMut(JsValue) -> Result<(), JsError>> = Box::new(move |value| {
        let mut state = state.borrow_mut();
        state.result = Some(result(value));
        let (waker, callbacks) = (state.waker.take(), state.callbacks.take());
        drop(state);
        drop(callbacks);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    });
    Closure::wrap_assert_unwind_safe(callback)
}

impl Future for Answer {
    type Output = Result<JsValue, JsValue>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.borrow_mut();
        if let Some(result) = state.result.take() {
            return Poll::Ready(result);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        let (waker, callbacks) = (state.waker.take(), state.callbacks.take());
        drop(state);
        drop(waker);
        // The promise has them: it calls one, or goes with them.
        for callback in callbacks.into_iter().flatten() {
            let _ = callback.into_js_value();
        }
    }
}
