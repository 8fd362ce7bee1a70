//! Time and tasks, by the Workers runtime.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use futures_channel::oneshot;
use futures_core::Stream;
use wasm_bindgen::prelude::*;
use worker::send::SendWrapper;

use super::convert::{milliseconds, time};
use super::js;
use crate::runtime::Runtime;

/// The [`Runtime`] of Workers: its clock, timers and console.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkersRuntime;

impl Runtime for WorkersRuntime {
    fn now(&self) -> SystemTime {
        time(&js_sys::Date::now().into())
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        sleep(duration)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        wasm_bindgen_futures::spawn_local(task);
    }

    fn warn(&self, message: &str) {
        worker::console_warn!("ssetarget: {message}");
    }
}

/// Resolves after `duration`. Dropping it clears the timer.
///
/// It is not `worker::Delay`, which expects the timer's handle to be a number, and fails where
/// `nodejs_compat` or a newer compatibility date makes it an object.
pub fn sleep(duration: Duration) -> Sleep {
    let (sender, rung) = oneshot::channel();
    let sender = Rc::new(Cell::new(Some(sender)));
    let callback = Closure::once_assert_unwind_safe(move || {
        if let Some(sender) = sender.take() {
            // Fails if the future was dropped.
            let _ = sender.send(());
        }
    });
    let timer = js::set_timeout(callback.as_ref().unchecked_ref(), milliseconds(duration));
    Sleep {
        timer: timer.ok(),
        rung,
        _callback: SendWrapper(callback),
    }
}

/// The future that [`sleep`] returns.
pub struct Sleep {
    /// `None` if the runtime refused the timer, which then counts as elapsed.
    timer: Option<JsValue>,
    rung: oneshot::Receiver<()>,
    /// Wrapped since bodies must be `Send` on native targets, where nothing here runs.
    _callback: SendWrapper<Closure<dyn FnMut()>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.timer.is_none() {
            return Poll::Ready(());
        }
        Pin::new(&mut self.rung).poll(context).map(|_| ())
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            // Clearing an elapsed timer does nothing.
            let _ = js::clear_timeout(timer);
        }
    }
}

/// Makes a stream `Send`. Workers have one thread; bodies must be `Send` on native targets, where nothing
/// here runs.
pub fn here<S: Stream>(stream: S) -> Here<S> {
    Here(SendWrapper(Box::pin(stream)))
}

/// The stream that [`here`] returns.
pub struct Here<S>(SendWrapper<Pin<Box<S>>>);

impl<S: Stream> Stream for Here<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

/// One timer that is set again and again, as the one for heartbeats is with each chunk.
///
/// Setting it again only moves its deadline. The runtime's timer, which costs more than a chunk, is set
/// again when it elapses before the deadline.
#[derive(Clone)]
pub struct Timer(SendWrapper<Rc<TimerState>>);

struct TimerState {
    deadline: Cell<f64>,
    /// The length of the sleep.
    length: Cell<f64>,
    elapsed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    handle: RefCell<Option<JsValue>>,
    callback: Closure<dyn FnMut()>,
}

impl Timer {
    /// Returns a timer that is not set.
    pub fn new() -> Self {
        Self(SendWrapper(Rc::new_cyclic(|state: &Weak<TimerState>| {
            let state = Weak::clone(state);
            let callback = move || {
                if let Some(state) = state.upgrade() {
                    state.handle.take();
                    state.look();
                }
            };
            TimerState {
                deadline: Cell::default(),
                length: Cell::default(),
                elapsed: Cell::default(),
                waker: RefCell::default(),
                handle: RefCell::default(),
                callback: Closure::wrap_assert_unwind_safe(Box::new(callback) as Box<dyn FnMut()>),
            }
        })))
    }

    /// Resolves after `duration`, unless another sleep of this timer begins before.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + use<> {
        let state = self.0.clone();
        state.elapsed.set(false);
        let length = milliseconds(duration);
        state.length.set(length);
        state.deadline.set(js_sys::Date::now() + length);
        if state.handle.borrow().is_none() {
            state.look();
        }
        std::future::poll_fn(move |context| {
            if state.elapsed.get() {
                return Poll::Ready(());
            }
            let mut waker = state.waker.borrow_mut();
            if !waker
                .as_ref()
                .is_some_and(|waker| waker.will_wake(context.waker()))
            {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
    }

    /// Ends the sleep that is under way.
    pub fn elapse(&self) {
        self.0.elapse();
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self::new()
    }
}

impl TimerState {
    fn look(&self) {
        let now = js_sys::Date::now();
        let length = self.length.get();
        let mut left = self.deadline.get() - now;
        if left > length {
            // The clock was set back. A sleep must not last more than twice its length for that.
            self.deadline.set(now + length);
            left = length;
        }
        if left > 0.0 {
            let handle = js::set_timeout(self.callback.as_ref().unchecked_ref(), left);
            *self.handle.borrow_mut() = handle.ok();
        }
        // Also where the runtime refuses the timer.
        if self.handle.borrow().is_none() {
            self.elapse();
        }
    }

    fn elapse(&self) {
        self.elapsed.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for TimerState {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.get_mut() {
            // Clearing an elapsed timer does nothing.
            let _ = js::clear_timeout(handle);
        }
    }
}
