//! Notices that a client has left, as soon as the runtime knows it. Runs in the Worker and in the object.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use wasm_bindgen::prelude::*;
use worker::web_sys;

use super::callback::CallbackValue;
use super::js;

/// Resolves when a request's client has left.
///
/// It needs the compatibility flag `enable_request_signal`, which is the default from the compatibility date
/// 2026-11-17 on: then a request has a signal, in an object, too. Without it this never resolves, and the departure
/// of a client is noticed at the next write. The same holds for a client that only closes its end of a connection,
/// which the runtime does not treat as leaving.
pub(super) struct Leaving {
    /// The request's signal, if it has one that can still be heard.
    signal: JsValue,
    left: Rc<CallbackValue<()>>,
    listener: Closure<dyn FnMut()>,
}

impl Leaving {
    /// Listens to the signal of this request, if it has one.
    pub(super) fn of(request: &web_sys::Request) -> Self {
        let left = Rc::<CallbackValue<()>>::default();
        let listener = {
            let left = Rc::clone(&left);
            Closure::wrap_assert_unwind_safe(Box::new(move || left.deliver(())) as Box<dyn FnMut()>)
        };
        let signal = js::on_abort(request, &listener);
        Self {
            signal: signal.unwrap_or_default(),
            left,
            listener,
        }
    }
}

impl Future for Leaving {
    type Output = ();

    /// Does not ask the signal itself: each question is a call of the runtime, and this is polled with each chunk.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.left.poll(context)
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if !self.signal.is_undefined() {
            // A listener that is not removed does nothing.
            let _ = js::off_abort(&self.signal, &self.listener);
        }
    }
}
