//! Notices that a client has left, as soon as the runtime knows it. Runs in the Worker and in the object.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use cloudflare_workflows::__private::property;
use futures_channel::oneshot;
use wasm_bindgen::prelude::*;
use worker::web_sys;

use super::js;

/// Resolves when a request's client has left.
///
/// It needs the compatibility flag `enable_request_signal`, which is the default from the compatibility date
/// 2026-11-17 on: then a request has a signal, in an object, too. Without it this never resolves, and the departure
/// of a client is noticed at the next write. The same holds for a client that only closes its end of a connection,
/// which the runtime does not treat as leaving.
pub(super) struct Leaving {
    signal: Option<js::AbortSignal>,
    aborted: oneshot::Receiver<()>,
    listener: Closure<dyn FnMut()>,
}

impl Leaving {
    /// Listens to the signal of this request, if it has one.
    pub(super) fn of(request: &web_sys::Request) -> Self {
        let (sender, aborted) = oneshot::channel();
        let sender = Cell::new(Some(sender));
        let listener = Closure::wrap_assert_unwind_safe(Box::new(move || {
            if let Some(sender) = sender.take() {
                // Fails if nobody waits any more.
                let _ = sender.send(());
            }
        }) as Box<dyn FnMut()>);
        let signal = property(request.as_ref(), "signal");
        let signal = signal.is_object().then(|| signal.unchecked_into());
        let signal = signal.filter(|signal: &js::AbortSignal| {
            let listened = signal.add_event_listener("abort", listener.as_ref().unchecked_ref());
            listened.is_ok()
        });
        Self {
            signal,
            aborted,
            listener,
        }
    }
}

impl Future for Leaving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        match &this.signal {
            None => Poll::Pending,
            Some(signal) if signal.aborted() => Poll::Ready(()),
            Some(_) => Pin::new(&mut this.aborted).poll(context).map(drop),
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(signal) = &self.signal {
            let listener = self.listener.as_ref().unchecked_ref();
            // A listener that is not removed does nothing.
            let _ = signal.remove_event_listener("abort", listener);
        }
    }
}
