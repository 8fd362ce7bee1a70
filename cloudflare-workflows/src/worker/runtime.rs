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
use super::{js, life};
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

    /// Drops the task of a lifetime that [is given up](Runtime::is_given_up).
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if !self.is_given_up() {
            wasm_bindgen_futures::spawn_local(task);
        }
    }

    fn warn(&self, message: &str) {
        worker::console_warn!("ssetarget: {message}");
    }

    fn is_given_up(&self) -> bool {
        life::is_freeing()
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
    /// The length of the sleep; infinite while there is none.
    length: Cell<f64>,
    elapsed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    timers: Timers,
}

/// Any number of [`Timer`]s over one timer of the runtime. A sleep may last up to 250 ms longer, so that sleeps that end
/// about the same time end together.
///
/// Timers belong together only where the same code waits for them: in an object, whose requests are one to the
/// runtime, or in one request of a Worker.
#[derive(Clone)]
pub struct Timers(Rc<TimersState>);

struct TimersState {
    timers: RefCell<Vec<Weak<TimerState>>>,
    /// How many there are before those that were dropped are looked for.
    crowded: Cell<usize>,
    /// How many were not dropped.
    alive: Cell<usize>,
    /// When the runtime's timer elapses.
    due: Cell<f64>,
    handle: RefCell<Option<JsValue>>,
    slack: f64,
    callback: Closure<dyn FnMut()>,
}

/// In milliseconds.
const SLACK: f64 = 250.0;

impl Timers {
    /// Returns no timers, and sets none of the runtime's.
    pub fn new() -> Self {
        Self::with_slack(SLACK)
    }

    fn with_slack(slack: f64) -> Self {
        Self(Rc::new_cyclic(|state: &Weak<TimersState>| {
            let state = Weak::clone(state);
            let callback = move || {
                if let Some(state) = state.upgrade() {
                    state.handle.take();
                    state.look();
                }
            };
            TimersState {
                timers: RefCell::default(),
                crowded: Cell::new(16),
                alive: Cell::default(),
                due: Cell::default(),
                handle: RefCell::default(),
                slack,
                callback: Closure::wrap_assert_unwind_safe(Box::new(callback) as Box<dyn FnMut()>),
            }
        }))
    }

    /// Adds a timer that is not set.
    pub fn timer(&self) -> Timer {
        let timer = Rc::new(TimerState {
            deadline: Cell::new(f64::INFINITY),
            length: Cell::new(f64::INFINITY),
            elapsed: Cell::default(),
            waker: RefCell::default(),
            timers: self.clone(),
        });
        let mut timers = self.0.timers.borrow_mut();
        if timers.len() >= self.0.crowded.get() {
            timers.retain(|timer| timer.strong_count() > 0);
            self.0.crowded.set(timers.len() * 2 + 16);
        }
        timers.push(Rc::downgrade(&timer));
        self.0.alive.set(self.0.alive.get() + 1);
        Timer(SendWrapper(timer))
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}

impl Timer {
    /// Returns a timer that is not set, over one of the runtime's of its own, without slack.
    pub fn new() -> Self {
        Timers::with_slack(0.0).timer()
    }

    /// Resolves after `duration`, unless another sleep of this timer begins before.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + use<> {
        let state = self.0.clone();
        state.elapsed.set(false);
        let length = milliseconds(duration);
        state.length.set(length);
        let deadline = js_sys::Date::now() + length;
        state.deadline.set(deadline);
        let timers = &state.timers.0;
        if timers.handle.borrow().is_none() || deadline < timers.due.get() - timers.slack {
            timers.look();
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

impl TimersState {
    /// Ends the sleeps that are over, and sets the runtime's timer to the end of the next.
    fn look(&self) {
        let now = js_sys::Date::now();
        let mut next = f64::INFINITY;
        let timers: Vec<_> = self
            .timers
            .borrow()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for timer in timers {
            let deadline = timer.deadline_at(now);
            if deadline <= now {
                timer.elapse();
            } else {
                next = next.min(deadline);
            }
        }
        self.clear();
        if next.is_infinite() {
            return;
        }
        self.due.set(next + self.slack);
        let callback = self.callback.as_ref().unchecked_ref();
        match js::set_timeout(callback, next + self.slack - now) {
            Ok(handle) => *self.handle.borrow_mut() = Some(handle),
            // The runtime refuses: then all are over.
            Err(_) => {
                for timer in self.timers.borrow().iter().filter_map(Weak::upgrade) {
                    timer.elapse();
                }
            }
        }
    }

    fn clear(&self) {
        if let Some(handle) = self.handle.take() {
            // Clearing an elapsed timer does nothing.
            let _ = js::clear_timeout(&handle);
        }
    }
}

impl TimerState {
    fn deadline_at(&self, now: f64) -> f64 {
        let length = self.length.get();
        if self.deadline.get() - now > length {
            // The clock was set back. A sleep must not last more than twice its length for that.
            self.deadline.set(now + length);
        }
        self.deadline.get()
    }

    fn elapse(&self) {
        self.deadline.set(f64::INFINITY);
        self.length.set(f64::INFINITY);
        self.elapsed.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Clears the runtime's timer with the last of these: an object with a timer does not leave memory.
impl Drop for TimerState {
    fn drop(&mut self) {
        let timers = &self.timers.0;
        timers.alive.set(timers.alive.get() - 1);
        if timers.alive.get() == 0 {
            timers.clear();
        }
    }
}
