//! Streams over hibernatable WebSockets: see [`Transport::Hibernating`]. Runs in the Worker; `hibernation` is the
//! object's side.
//!
//! [`Transport::Hibernating`]: crate::cloudflare::Transport::Hibernating

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cloudflare_workflows::__private::{Held, Timer, here, property, sleep};
use futures_core::Stream;
use futures_util::future::{Either, select};
use js_sys::{ArrayBuffer, Uint8Array};
use wasm_bindgen::prelude::*;
use worker::Response;

use crate::cloudflare::credit::Taken;
use crate::cloudflare::hibernating::{BROKEN, Beat, Budget, END, EXPIRED, LEFT, PING, PONG, Pulse};
use crate::cloudflare::js;
use crate::cloudflare::leaving::Leaving;
use crate::cloudflare::permit::Permit;
use crate::cloudflare::response::stream_here_until;
use crate::delivery::{HEARTBEAT_INTERVAL, keep_alive};
use crate::store::FrameBytes;
use crate::wire;

/// The interval of the Worker's pings, and the time that an answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// Answers a viewer with the pages that the object pushes into the socket, and with heartbeats, which the object does
/// not send. The stream stops when the viewer is `leaving`. It ends when the permit is over. It is cut off, so that
/// the client comes back, when the object's side of the socket disappeared without notice, which takes at most 30
/// seconds, and when viewers that do not read hold too much of the Worker's memory.
pub(super) fn socket_response(
    socket: js::WebSocket,
    leaving: Leaving,
    permit: &Permit,
) -> worker::Result<Response> {
    let timer = Timer::new();
    let pages = Pages::new(socket)?;
    let cut = pages.cut();
    let pages = here(pages);
    let cut = async move {
        match select(Box::pin(cut), leaving).await {
            Either::Left((reason, _)) => Some(reason.to_owned()),
            Either::Right(_) => None,
        }
    };
    let chunks = keep_alive(pages, HEARTBEAT_INTERVAL, move |duration| {
        timer.sleep(duration)
    });
    stream_here_until(chunks, permit, cut)
}

/// The pages of a socket, each acknowledged when it is handed out, to be written and not held. A consumer that waits for
/// the viewer before it polls again has at most two pages.
struct Pages {
    socket: js::WebSocket,
    received: Rc<RefCell<Received>>,
    taken: Taken,
    entry: QueueEntry,
    /// Whether a page was handed out. The viewer has taken it when it asks for the next one.
    has_handed_out: bool,
    listeners: [(&'static str, Listener); 3],
    _held: Held,
}

type Listener = Closure<dyn FnMut(JsValue)>;

/// The pages that arrived and were not handed out yet: no more than the object's credit.
#[derive(Default)]
struct Received {
    pages: Vec<Uint8Array>,
    /// The code with which the socket closed.
    closed: Option<u16>,
    waker: Option<Waker>,
    pulse: Pulse,
    /// Whether the stream is to be cut off because it held too much.
    is_cut: bool,
}

/// The pages that wait for all viewers of this isolate.
#[derive(Default)]
struct Queues {
    budget: Budget,
    viewers: BTreeMap<u64, Weak<RefCell<Received>>>,
}

thread_local! {
    static QUEUES: RefCell<Queues> = RefCell::default();
}

/// A viewer's number in [`Queues`], removed when this is dropped.
struct QueueEntry(u64);

impl Drop for QueueEntry {
    fn drop(&mut self) {
        QUEUES.with_borrow_mut(|queues| queues.leave(self.0));
    }
}

impl Queues {
    fn enter(&mut self, received: &Rc<RefCell<Received>>) -> u64 {
        let number = self.budget.enter();
        self.viewers.insert(number, Rc::downgrade(received));
        number
    }

    fn leave(&mut self, number: u64) {
        self.budget.leave(number);
        self.viewers.remove(&number);
    }

    /// Counts bytes that came for a viewer. Drops the pages of viewers that are to be cut off. Their streams belong
    /// to other requests, which this one cannot touch: they notice it when they are polled next.
    fn queued(&mut self, number: u64, bytes: usize) {
        for slow in self.budget.queued(number, bytes) {
            let received = self.viewers.remove(&slow).and_then(|held| held.upgrade());
            if let Some(received) = received
                && let Ok(mut received) = received.try_borrow_mut()
            {
                received.is_cut = true;
                received.pages.clear();
                received.close_with(BROKEN);
            }
        }
    }
}

impl Pages {
    fn new(socket: js::WebSocket) -> Result<Self, JsValue> {
        let received = Rc::<RefCell<Received>>::default();
        let entry = QueueEntry(QUEUES.with_borrow_mut(|queues| queues.enter(&received)));
        let number = entry.0;
        let on = |event_type: &'static str, hear: fn(&mut Received, &JsValue) -> usize| {
            let received = Rc::clone(&received);
            let hear = move |event: JsValue| {
                let (bytes, waker) = {
                    let mut received = received.borrow_mut();
                    received.pulse.heard();
                    (hear(&mut received, &event), received.waker.take())
                };
                if bytes > 0 {
                    QUEUES.with_borrow_mut(|queues| queues.queued(number, bytes));
                }
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
            entry,
            has_handed_out: false,
            listeners,
        })
    }

    /// Resolves with a reason when the stream is to be cut off, even in the middle of a page.
    fn cut(&self) -> impl Future<Output = &'static str> + use<> {
        let (socket, received) = (self.socket.clone(), Rc::clone(&self.received));
        async move {
            loop {
                sleep(PING_INTERVAL).await;
                let beat = {
                    let mut received = received.borrow_mut();
                    if received.is_cut {
                        return "the viewer is too slow";
                    }
                    received.pulse.beat()
                };
                match beat {
                    // A socket that is gone reports that by its own event.
                    Beat::Ask => drop(socket.send_text(PING)),
                    Beat::Dead => return "the object does not answer",
                }
            }
        }
    }
}

impl Received {
    /// Takes a message, and returns how many bytes came.
    fn message(&mut self, event: &JsValue) -> usize {
        match property(event, "data").dyn_into::<ArrayBuffer>() {
            // A page after a close is dropped.
            Ok(_) if self.closed.is_some() => 0,
            Ok(page) => {
                self.pages.push(Uint8Array::new(&page));
                page.byte_length() as usize
            }
            Err(other) if other.as_string().as_deref() == Some(PONG) => 0,
            Err(_) => self.close_with(BROKEN),
        }
    }

    /// Returns all waiting pages as one: there are several if they came faster than the viewer read.
    fn take_pages(&mut self) -> Option<Uint8Array> {
        let pages = std::mem::take(&mut self.pages);
        match pages.as_slice() {
            [] => None,
            [page] => Some(page.clone()),
            pages => Some(Uint8Array::concat(pages)),
        }
    }

    fn close_with(&mut self, code: u16) -> usize {
        self.closed.get_or_insert(code);
        0
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "codes are 16 bits"
    )]
    fn close(&mut self, event: &JsValue) -> usize {
        let code = property(event, "code").as_f64();
        self.close_with(code.map_or(BROKEN, |code| code as u16))
    }
}

impl Stream for Pages {
    type Item = Result<Uint8Array, Disconnected>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if std::mem::take(&mut this.has_handed_out) {
            QUEUES.with_borrow_mut(|queues| queues.budget.taken(this.entry.0));
        }
        let mut received = this.received.borrow_mut();
        if let Some(page) = received.take_pages() {
            let length = page.length();
            this.has_handed_out = true;
            let handed_out = |queues: &mut Queues| {
                queues.budget.handed_out(this.entry.0, length as usize);
            };
            QUEUES.with_borrow_mut(handed_out);
            // Acknowledged at once: while the viewer takes this page, the next one comes.
            if let Some(bytes) = this.taken.take(length) {
                // A socket that is gone reports that by its own event.
                let _ = this.socket.send_text(&bytes.to_string());
            }
            return Poll::Ready(Some(Ok(page)));
        }
        match received.closed {
            Some(END) => Poll::Ready(None),
            Some(EXPIRED) => {
                received.closed = Some(END);
                Poll::Ready(Some(Ok(Uint8Array::from_slice(wire::EXPIRED))))
            }
            Some(code) => Poll::Ready(Some(Err(Disconnected { code }))),
            None => {
                received.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Notifies the object that the viewer has left.
impl Drop for Pages {
    fn drop(&mut self) {
        for (event_type, listener) in &self.listeners {
            let listener = listener.as_ref().unchecked_ref();
            let _ = self.socket.remove_event_listener(event_type, listener);
        }
        // Closing fails for a socket that is closed already.
        let _ = self.socket.close(LEFT, "the viewer has left");
    }
}

/// The object was reset, as by a deploy, or its log failed.
#[derive(Debug)]
struct Disconnected {
    code: u16,
}

impl fmt::Display for Disconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the object closed the connection ({})", self.code)
    }
}
