//! Streams over hibernatable WebSockets: see [`Transport::Hibernating`]. Runs in the object; `socket` is the
//! Worker's side.
//!
//! A stream is a cursor that is stored with its socket, so that the object needs no memory of it: the runtime may
//! evict the object at any time while viewers are connected, and wakes it for the next append or acknowledgement.
//! Pages are pushed while there is [`Credit`].
//!
//! A socket over which a viewer can no longer be reached is closed, never only forgotten: otherwise the Worker at its
//! other end would send heartbeats for ever. Workers ask from time to time whether the object's side is there. The
//! runtime answers without waking the object, and remembers the time. So an object that is awake can find Workers
//! that disappeared without notice.
//!
//! [`Transport::Hibernating`]: crate::cloudflare::Transport::Hibernating

use std::fmt;
use std::rc::Rc;

use cloudflare_workflows::__private::{hold_sockets, sleep};
use js_sys::{Array, Object, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use worker::{Response, ResponseBuilder};

use crate::cloudflare::cutoff::Cutoff;
#[cfg(feature = "links")]
use crate::cloudflare::hibernating::EXPIRED;
use crate::cloudflare::hibernating::{BROKEN, END, PING, PONG, Pace, Roster, Round, Sweep};
use crate::cloudflare::js;
use crate::cloudflare::pushed::{Kept, Pushed, PushedStream};
use crate::cloudflare::sql::ObjectSql;
use crate::delivery::{SseTarget, Subscription};
use crate::event::NewEvent;
use crate::stats::{Cut, Metrics, Observer};
use crate::store::SqliteEventStore;
use crate::sync::{Mutex, lock};

type Target = SseTarget<NewEvent, SqliteEventStore<ObjectSql>>;

/// All hibernating streams of an object.
pub(super) struct HeldStreams {
    state: js::HibernationState,
    /// `None` until they are needed.
    connected: Mutex<Option<Roster<HeldStream>>>,
    pace: Mutex<Pace>,
    sweep: Mutex<Sweep>,
    metrics: Metrics,
    cutoff: Rc<Cutoff>,
}

/// A stream to a viewer whose response a Worker holds.
struct HeldStream {
    stream: PushedStream<SqliteEventStore<ObjectSql>>,
    place: Place,
}

/// A viewer's place.
struct Place {
    socket: js::WebSocket,
    number: u32,
    /// When the viewer came, by the clock, in milliseconds. `None` for a stream of an earlier version of this
    /// crate, whose Worker sends no pings.
    since: Option<f64>,
    /// The generation of the link by which the viewer came.
    generation: Option<u64>,
}

impl HeldStreams {
    /// Registers the sockets of the object with this state, to be closed when the WebAssembly instance dies.
    pub(super) fn hold(state: &worker::durable::State) -> Result<(), JsValue> {
        hold_sockets(&state.as_raw().into(), BROKEN)
    }

    /// Returns the streams of the object with this state, which may be from before it woke.
    pub(super) fn new(
        state: &worker::durable::State,
        metrics: Metrics,
        cutoff: &Rc<Cutoff>,
    ) -> Rc<Self> {
        Rc::new(Self {
            state: JsValue::from(state.as_raw()).unchecked_into(),
            connected: Mutex::default(),
            pace: Mutex::default(),
            sweep: Mutex::default(),
            metrics,
            cutoff: Rc::clone(cutoff),
        })
    }

    /// Answers with a socket to which this subscription's events are pushed. `generation` is that of the link by
    /// which the viewer came.
    // Not a part of its caller, which is compiled for every viewer.
    #[inline(never)]
    pub(super) fn accept(
        &self,
        target: &Target,
        subscription: Subscription<SqliteEventStore<ObjectSql>>,
        generation: Option<u64>,
    ) -> worker::Result<Response> {
        let pair = worker::WebSocketPair::new()?;
        let socket: js::WebSocket = pair.server.as_ref().clone().unchecked_into();
        js::answer_pings(&self.state, PING, PONG)?;
        // Before the new socket is there: it has no place yet, and would look like one that lost its place.
        self.with(target, |_| ());
        self.sweep(target);
        self.state.accept_web_socket(&socket)?;
        self.metrics.opened();
        self.with(target, |connected| {
            let number = connected.number(random);
            let mut viewer = HeldStream {
                stream: PushedStream::new(subscription),
                place: Place {
                    socket,
                    number,
                    since: Some(js_sys::Date::now()),
                    generation,
                },
            };
            let kept = viewer.place.attachment(viewer.stream.kept());
            viewer.place.socket.serialize_attachment(&kept)?;
            let HeldStream { stream, place } = &mut viewer;
            stream.open(|page, kept| place.send(page, kept))?;
            if viewer.deliver() {
                connected.insert(number, viewer);
            }
            Ok::<_, JsValue>(())
        })?;
        let response = ResponseBuilder::new().with_status(101);
        Ok(response.with_websocket(pair.client).empty())
    }

    /// Pushes new events to viewers, now or as soon as the [`Pace`] allows. Call it whenever the log has changed.
    pub(super) fn deliver(self: &Rc<Self>, target: &Target) {
        let viewers = self.with(target, |connected| connected.len());
        if viewers == 0 {
            return;
        }
        let next = lock(&self.pace).next(viewers, js_sys::Date::now());
        match next {
            Round::Now => self.round(target),
            Round::Due => {}
            Round::After(pause) => {
                let (viewers, target) = (Rc::clone(self), target.clone());
                self.cutoff.spawn(async move {
                    sleep(pause).await;
                    viewers.round(&target);
                });
            }
        }
    }

    /// Returns the number of streams.
    pub(super) fn len(&self, target: &Target) -> usize {
        self.with(target, |connected| connected.len())
    }

    /// Cuts all streams off, because the log was deleted.
    pub(super) fn cut_all(&self, target: &Target) {
        self.with(target, |connected| {
            connected.retain(|viewer| {
                self.metrics.cut(Cut::Deleted);
                viewer.close(BROKEN, "the log was deleted")
            });
        });
    }

    /// Delivers to all viewers.
    fn round(&self, target: &Target) {
        lock(&self.pace).begin(js_sys::Date::now());
        self.sweep(target);
        self.with(target, |connected| connected.retain(HeldStream::deliver));
    }

    /// Closes the sockets of Workers that disappeared without notice, if that is due.
    fn sweep(&self, target: &Target) {
        let now = js_sys::Date::now();
        if !lock(&self.sweep).is_due(now) {
            return;
        }
        self.with(target, |connected| {
            connected.retain(|viewer| {
                let answered = self.state.auto_response_timestamp(&viewer.place.socket);
                // A `Date`, once there was an answer.
                let answered = answered
                    .ok()
                    .and_then(|date| Some(date.dyn_ref::<js_sys::Date>()?.get_time()));
                let heard = viewer
                    .place
                    .since
                    .map(|since| answered.unwrap_or(since).max(since));
                let is_gone = heard.is_some_and(|heard| Sweep::is_gone(heard, now));
                !is_gone || viewer.close(BROKEN, "nothing is heard of the viewer")
            });
        });
    }

    /// Ends the streams of viewers that came by links of a smaller generation.
    #[cfg(feature = "links")]
    pub(super) fn revoke(&self, target: &Target, generation: u64) {
        self.with(target, |connected| {
            connected.retain(|viewer| {
                let is_revoked = viewer.place.generation.is_some_and(|of| of < generation);
                !is_revoked || viewer.close(EXPIRED, "the link was revoked")
            });
        });
    }

    /// Backs the class's `webSocketMessage`: a viewer took a number of bytes.
    pub(super) fn acknowledged(&self, target: &Target, socket: &JsValue, message: &JsValue) {
        let socket: &js::WebSocket = socket.unchecked_ref();
        let bytes = message.as_string().and_then(|text| text.parse().ok());
        let Some(bytes) = bytes else {
            // The message is not one of this crate's. Closing fails if the socket is gone already.
            let _ = socket.close(BROKEN, "not an acknowledgement");
            return;
        };
        let is_kept = self.with(target, |connected| {
            let number = number(socket)?;
            let is_meant = |viewer: &HeldStream| viewer.has(socket);
            let viewer = connected.get_mut(number, is_meant)?;
            viewer.stream.acknowledged(bytes);
            let is_kept = viewer.deliver() && viewer.save();
            if !is_kept {
                connected.remove(number, is_meant);
            }
            Some(is_kept)
        });
        if is_kept.is_none() {
            // The socket is closing, or has no stream.
            let _ = socket.close(BROKEN, "it has no stream");
        }
    }

    /// Backs the class's `webSocketClose` and `webSocketError`: a viewer has left.
    pub(super) fn left(&self, socket: &JsValue) {
        let socket: &js::WebSocket = socket.unchecked_ref();
        if let Some(connected) = lock(&self.connected).as_mut()
            && let Some(number) = number(socket)
        {
            connected.remove(number, |viewer| viewer.has(socket));
        }
    }

    /// Calls `work` with the streams, restored from their sockets if need be.
    fn with<T>(&self, target: &Target, work: impl FnOnce(&mut Roster<HeldStream>) -> T) -> T {
        let mut remembered = lock(&self.connected);
        // If `work` panics, the next call restores them from their sockets.
        let mut connected = remembered.take().unwrap_or_else(|| self.wake(target));
        let result = work(&mut connected);
        *remembered = Some(connected);
        result
    }

    /// Restores the streams from before the object woke.
    fn wake(&self, target: &Target) -> Roster<HeldStream> {
        let mut connected = Roster::new();
        for socket in self.state.web_sockets().unwrap_or_default() {
            let socket: js::WebSocket = socket.unchecked_into();
            match HeldStream::resume(target, socket.clone()) {
                Some(viewer) => connected.insert(viewer.place.number, viewer),
                // Closing fails for a socket that is closed already.
                None => drop(socket.close(BROKEN, "its place is not known")),
            }
        }
        connected
    }
}

impl Place {
    /// Sends a page, and stores the stream's position with the socket.
    fn send(&self, page: &Uint8Array, kept: Kept) -> Result<(), JsValue> {
        js::send_page(&self.socket, page, &self.attachment(kept))
    }

    /// Returns the values that are stored with the socket: number, position, credit used, when the viewer came, and
    /// the generation of the link if it came by one.
    fn attachment(&self, (position, unacknowledged): Kept) -> Array {
        let kept = Array::of3(
            &self.number.into(),
            &position.into(),
            &unacknowledged.into(),
        );
        if let Some(since) = self.since {
            kept.push(&since.into());
            #[allow(clippy::cast_precision_loss, reason = "a count")]
            if let Some(generation) = self.generation {
                kept.push(&(generation as f64).into());
            }
        }
        kept
    }
}

impl HeldStream {
    /// Pushes events while there is credit. Returns whether to keep the stream.
    fn deliver(&mut self) -> bool {
        let Self { stream, place } = self;
        match stream.deliver(|page, kept| place.send(page, kept)) {
            Pushed::Waits => true,
            Pushed::Ended => self.close(END, "the end"),
            Pushed::Unsent => self.close(BROKEN, "it cannot be sent to"),
            Pushed::Failed(error) => self.fail(&error),
            Pushed::Late => self.fail(&"it does not answer at once"),
        }
    }

    fn fail(&self, error: &dyn fmt::Display) -> bool {
        worker::console_error!("ssetarget: a viewer's stream is cut off: {error}");
        let observing = self.stream.observing();
        observing.tell(|observer| observer.cut(Cut::Store));
        self.close(BROKEN, "the event log failed")
    }

    fn close(&self, code: u16, reason: &str) -> bool {
        // Closing fails for a viewer that is gone.
        let _ = self.place.socket.close(code, reason);
        false
    }

    /// Returns whether this is the stream's socket.
    fn has(&self, socket: &js::WebSocket) -> bool {
        Object::is(&self.place.socket, socket)
    }

    /// Stores the position and the credit with the socket. Returns whether to keep the stream.
    fn save(&self) -> bool {
        let kept = self.place.attachment(self.stream.kept());
        let saved = self.place.socket.serialize_attachment(&kept);
        saved.is_ok() || self.close(BROKEN, "its place cannot be kept")
    }

    /// Restores a stream from its socket, `None` if the socket is closing and has lost its stored values.
    fn resume(target: &Target, socket: js::WebSocket) -> Option<Self> {
        let attachment = socket.deserialize_attachment().ok()?;
        let kept = |index| Reflect::get_u32(&attachment, index).ok()?.as_f64();
        let (number, position, unacknowledged) = (kept(0)?, kept(1)?, kept(2)?);
        Some(Self {
            stream: PushedStream::resume(target, (position, unacknowledged as u32))?,
            place: Place {
                socket,
                number: number as u32,
                since: kept(3),
                generation: kept(4).map(|generation| generation as u64),
            },
        })
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "below 2^32"
)]
fn random() -> u32 {
    (js_sys::Math::random() * f64::from(u32::MAX)) as u32
}

/// Returns the stream's number that is stored with the socket.
fn number(socket: &js::WebSocket) -> Option<u32> {
    let attachment = socket.deserialize_attachment().ok()?;
    let number = Reflect::get_u32(&attachment, 0).ok()?.as_f64()?;
    Some(number as u32)
}
