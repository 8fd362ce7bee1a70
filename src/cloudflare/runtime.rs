//! Time and tasks.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_channel::oneshot;
use wasm_bindgen::prelude::*;

use super::convert::{milliseconds, time};
use super::js;
use crate::workflow::Runtime;

/// The Workers runtime: its clock, timers and console.
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

/// Resolves after this long. Dropping it clears the timer.
///
/// Not `worker::Delay`, which takes the timer's handle for a number and fails where `nodejs_compat`
/// makes it an object, as newer compatibility dates do.
pub(super) fn sleep(duration: Duration) -> Sleep {
    let (sender, rung) = oneshot::channel();
    let sender = Rc::new(Cell::new(Some(sender)));
    let callback = Closure::once_assert_unwind_safe(move || {
        if let Some(sender) = sender.take() {
            // Nobody waits any more.
            let _ = sender.send(());
        }
    });
    let timer = js::set_timeout(callback.as_ref().unchecked_ref(), milliseconds(duration));
    Sleep {
        timer: timer.ok(),
        rung,
        _callback: callback,
    }
}

/// The future that [`sleep`] returns.
pub(super) struct Sleep {
    /// `None` if the runtime refused the timer: then it has elapsed.
    timer: Option<JsValue>,
    rung: oneshot::Receiver<()>,
    _callback: Closure<dyn FnMut()>,
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
