//! Viewers over hibernatable WebSockets, the Worker's side: see [`Transport::Hibernating`].
//!
//! [`Transport::Hibernating`]: super::Transport::Hibernating

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use js_sys::{ArrayBuffer, Uint8Array};
use wasm_bindgen::prelude::*;
use worker::Response;

use super::convert::property;
use super::js;
use super::life::Held;
use super::response::stream_here;
use super::runtime::{Timer, here};
use crate::credit::Taken;
use crate::store::FrameBytes;
use crate::{HEARTBEAT_INTERVAL, keep_alive};

/// The object closes a socket with this code where the stream is to end. Codes from 4000 are free
/// to use: RFC 6455 section 7.4.2.
pub(super) const END: u16 = 4000;
/// And with this one where it is to be cut off, so that the client comes back.
pub(super) const BROKEN: u16 = 4001;
/// With this one the Worker leaves.
const LEFT: u16 = 4002;

/// Answers a viewer with what the object pushes into the socket, and with heartbeats, which the
/// object knows nothing of.
pub(super) fn socket_response(socket: js::WebSocket) -> worker::Result<Response> {
    let timer = Timer::new();
    let pages = here(Pages::new(socket)?);
    stream_here(keep_alive(pages, HEARTBEAT_INTERVAL, move |duration| {
        timer.sleep(duration)
    }))
}

/// The pages of a socket, each acknowledged when it is handed out. Who asks for the next one only when
/// the viewer has taken the one before holds two at most.
struct Pages {
    socket: js::WebSocket,
    received: Rc<RefCell<Received>>,
    taken: Taken,
    listeners: [(&'static str, Listener); 3],
    _held: Held,
}

type Listener = Closure<dyn FnMut(JsValue)>;

/// No more than the object's credit.
#[derive(Default)]
struct Received {
    pages: Vec<Uint8Array>,
    /// How it closed.
    closed: Option<u16>,
    waker: Option<Waker>,
}

impl Pages {
    fn new(socket: js::WebSocket) -> Result<Self, JsValue> {
        let received = Rc::<RefCell<Received>>::default();
        let on = |event_type: &'static str, hear: fn(&mut Received, &JsValue)| {
            let received = Rc::clone(&received);
            let hear = move |event: JsValue| {
                let waker = {
                    let mut received = received.borrow_mut();
                    hear(&mut received, &event);
                    received.waker.take()
                };
                if let Some(waker) = waker {
                    waker.wake();
                }
            };
            let listener: Listener = Closure::wrap_assert_unwind_safe(Box::new(hear));
            socket.add_event_listener(event_type, listener.as_ref().unchecked_ref())?;
            Ok::<_, JsValue>((event_type, listener))
        };
        let listeners = [
            on("message", Received::message)?,
            on("close", Received::close)?,
            on("error", |received, _| received.close_with(BROKEN))?,
        ];
        // Newer compatibility dates have blobs, which cannot be read at once.
        socket.set_binary_type("arraybuffer");
        socket.accept()?;
        Ok(Self {
            _held: Held::socket(&socket, LEFT)?,
            socket,
            received,
            taken: Taken::default(),
            listeners,
        })
    }
}

impl Received {
    fn message(&mut self, event: &JsValue) {
        match property(event, "data").dyn_into::<ArrayBuffer>() {
            Ok(page) => self.pages.push(Uint8Array::new(&page)),
            Err(_) => self.close_with(BROKEN),
        }
    }

    /// All that came, in one piece: several small ones where the viewer was slower than they.
    fn take_pages(&mut self) -> Option<Uint8Array> {
        let pages = std::mem::take(&mut self.pages);
        match pages.as_slice() {
            [] => None,
            [page] => Some(page.clone()),
            pages => Some(Uint8Array::concat(pages)),
        }
    }

    fn close_with(&mut self, code: u16) {
        self.closed.get_or_insert(code);
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "codes are 16 bits"
    )]
    fn close(&mut self, event: &JsValue) {
        let code = property(event, "code").as_f64();
        self.close_with(code.map_or(BROKEN, |code| code as u16));
    }
}

impl Stream for Pages {
    type Item = Result<Uint8Array, Disconnected>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut received = this.received.borrow_mut();
        if let Some(page) = received.take_pages() {
            // At once: while the viewer takes this page, the next one comes.
            if let Some(bytes) = this.taken.take(page.length()) {
                // A socket that is gone says so by its own event.
                let _ = this.socket.send_text(&bytes.to_string());
            }
            return Poll::Ready(Some(Ok(page)));
        }
        match received.closed {
            Some(END) => Poll::Ready(None),
            Some(code) => Poll::Ready(Some(Err(Disconnected { code }))),
            None => {
                received.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Tells the object that the viewer has left.
impl Drop for Pages {
    fn drop(&mut self) {
        for (event_type, listener) in &self.listeners {
            let listener = listener.as_ref().unchecked_ref();
            let _ = self.socket.remove_event_listener(event_type, listener);
        }
        // Fails for a socket that is closed already.
        let _ = self.socket.close(LEFT, "the viewer has left");
    }
}

/// The object has gone away, as for a deploy, or its log failed.
#[derive(Debug)]
struct Disconnected {
    code: u16,
}

impl fmt::Display for Disconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the object closed the connection ({})", self.code)
    }
}
