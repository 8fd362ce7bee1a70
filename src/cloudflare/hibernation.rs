//! Viewers over hibernatable WebSockets, the object's side: see [`Transport::Hibernating`].
//!
//! A viewer is a cursor that is kept with its socket, so that the object needs no memory of it:
//! the runtime may evict the object at any time while viewers are connected, and wakes it for the
//! next append or acknowledgement. Pages are pushed while there is [`Credit`].
//!
//! [`Transport::Hibernating`]: super::Transport::Hibernating

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use js_sys::{Array, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use worker::{Response, ResponseBuilder};

use super::js;
use super::runtime::sleep;
use super::socket::{BROKEN, END};
use super::sql::ObjectSql;
use crate::body::frame_bytes;
use crate::credit::Credit;
use crate::event::{EventId, NewEvent};
use crate::subscription::Position;
use crate::sync::{Mutex, lock};
use crate::{PageLimit, SqliteEventStore, SseTarget, Subscription};

type Target = SseTarget<NewEvent, SqliteEventStore<ObjectSql>>;

/// All such viewers of an object.
pub(super) struct HibernatingViewers {
    state: js::HibernationState,
    /// By the numbers that their sockets know. `None` until somebody needs them.
    connected: Mutex<Option<BTreeMap<u32, Viewer>>>,
    pace: Mutex<Pace>,
}

/// Rounds of delivery have a pause between them that grows with the number of viewers, so that a
/// log that is written quickly reaches each of many viewers with several events at once.
#[derive(Default)]
struct Pace {
    /// When the last round was, in milliseconds.
    last: f64,
    /// Another is to come.
    is_due: bool,
}

/// What a round costs for each viewer, about. Not measured as it goes: the runtime's clock stands
/// still while code runs.
const ROUND_MS_PER_VIEWER: f64 = 0.05;

struct Viewer {
    socket: js::WebSocket,
    number: u32,
    subscription: Subscription<SqliteEventStore<ObjectSql>>,
    credit: Credit,
}

impl HibernatingViewers {
    /// Those of the object with this state, who may have been here before it woke.
    pub(super) fn new(state: &worker::durable::State) -> Rc<Self> {
        Rc::new(Self {
            state: JsValue::from(state.as_raw()).unchecked_into(),
            connected: Mutex::default(),
            pace: Mutex::default(),
        })
    }

    /// Answers with a socket to which this subscription's events are pushed.
    pub(super) fn accept(
        &self,
        target: &Target,
        subscription: Subscription<SqliteEventStore<ObjectSql>>,
    ) -> worker::Result<Response> {
        let pair = worker::WebSocketPair::new()?;
        let socket: js::WebSocket = pair.server.as_ref().clone().unchecked_into();
        self.state.accept_web_socket(&socket)?;
        self.with(target, |connected| {
            let number = connected.last_key_value().map_or(0, |(last, _)| last + 1);
            let mut viewer = Viewer {
                socket,
                number,
                subscription,
                credit: Credit::default(),
            };
            viewer.socket.serialize_attachment(&viewer.attachment())?;
            if let Some(opening) = viewer.subscription.opening() {
                viewer.push(&Uint8Array::from(opening.as_slice()))?;
            }
            if viewer.deliver() {
                connected.insert(number, viewer);
            }
            Ok::<_, JsValue>(())
        })?;
        let response = ResponseBuilder::new().with_status(101);
        Ok(response.with_websocket(pair.client).empty())
    }

    /// Pushes what the log has and viewers do not, now or as soon as the [`Pace`] allows. Call it
    /// whenever the log changed.
    pub(super) fn deliver(self: &Rc<Self>, target: &Target) {
        let viewers = self.with(target, |connected| connected.len());
        if viewers == 0 {
            return;
        }
        let mut pace = lock(&self.pace);
        if pace.is_due {
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "few")]
        let next = pace.last + viewers as f64 * ROUND_MS_PER_VIEWER;
        let pause = next - js_sys::Date::now();
        if pause <= 0.0 {
            drop(pace);
            self.round(target);
            return;
        }
        pace.is_due = true;
        let (viewers, target) = (Rc::clone(self), target.clone());
        wasm_bindgen_futures::spawn_local(async move {
            sleep(Duration::from_secs_f64(pause / 1000.0)).await;
            lock(&viewers.pace).is_due = false;
            viewers.round(&target);
        });
    }

    fn round(&self, target: &Target) {
        lock(&self.pace).last = js_sys::Date::now();
        self.with(target, |connected| {
            connected.retain(|_, viewer| viewer.deliver());
        });
    }

    /// For the class's `webSocketMessage`: a viewer took so many bytes.
    pub(super) fn acknowledged(&self, target: &Target, socket: &js::WebSocket, message: &JsValue) {
        let bytes = message.as_string().and_then(|text| text.parse().ok());
        let Some(bytes) = bytes else {
            // Not of this crate's making. Nobody is there to be told if it is gone already.
            let _ = socket.close(BROKEN, "not an acknowledgement");
            return;
        };
        self.with(target, |connected| {
            let Some(number) = number(socket) else {
                return;
            };
            if let Some(viewer) = connected.get_mut(&number) {
                viewer.credit.acknowledged(bytes);
                if !viewer.deliver() || viewer.save().is_err() {
                    connected.remove(&number);
                }
            }
        });
    }

    /// For the class's `webSocketClose` and `webSocketError`: a viewer has left.
    pub(super) fn left(&self, socket: &js::WebSocket) {
        if let Some(connected) = lock(&self.connected).as_mut()
            && let Some(number) = number(socket)
        {
            connected.remove(&number);
        }
    }

    fn with<T>(&self, target: &Target, work: impl FnOnce(&mut BTreeMap<u32, Viewer>) -> T) -> T {
        let mut remembered = lock(&self.connected);
        // Where `work` panics they are as sockets have them.
        let mut connected = remembered.take().unwrap_or_else(|| self.wake(target));
        let result = work(&mut connected);
        *remembered = Some(connected);
        result
    }

    /// Those who were connected before the object woke.
    fn wake(&self, target: &Target) -> BTreeMap<u32, Viewer> {
        let sockets = self.state.web_sockets().unwrap_or_default();
        let viewers = sockets.iter().filter_map(|socket| {
            let socket: js::WebSocket = socket.unchecked_into();
            let viewer = Viewer::resume(target, socket)?;
            Some((viewer.number, viewer))
        });
        viewers.collect()
    }
}

impl Viewer {
    /// Pushes what there is while there is credit. Returns whether the viewer is still to be kept.
    fn deliver(&mut self) -> bool {
        while let Some(bytes) = self.credit.left() {
            self.subscription.set_page_limit(page_limit(bytes));
            // Ready at once, as SQLite is here.
            match self.subscription.try_next_frames().now_or_never() {
                Some(Ok(Some(batch))) => {
                    if self.push(&frame_bytes(batch)).is_err() {
                        return false;
                    }
                }
                Some(Ok(None)) if self.subscription.has_ended() => {
                    return self.close(END, "the end");
                }
                Some(Ok(None)) => return true,
                Some(Err(error)) => return self.fail(&error),
                None => return self.fail(&"it does not answer at once"),
            }
        }
        true
    }

    fn push(&mut self, page: &Uint8Array) -> Result<(), JsValue> {
        self.credit.sent(page.length());
        js::send_page(&self.socket, page, &self.attachment())
    }

    fn fail(&self, error: &dyn fmt::Display) -> bool {
        worker::console_error!("ssetarget: a viewer's stream is cut off: {error}");
        self.close(BROKEN, "the event log failed")
    }

    fn close(&self, code: u16, reason: &str) -> bool {
        // A viewer that is gone need not be told.
        let _ = self.socket.close(code, reason);
        false
    }

    fn save(&self) -> Result<(), JsValue> {
        self.socket.serialize_attachment(&self.attachment())
    }

    /// What is kept with the socket: number, position, credit used.
    fn attachment(&self) -> Array {
        let position = match self.subscription.position() {
            Position::Oldest => OLDEST,
            Position::Start => START,
            #[allow(clippy::cast_precision_loss, reason = "ids are below 2^53")]
            Position::After(id) => id.get() as f64,
        };
        Array::of3(
            &self.number.into(),
            &position.into(),
            &self.credit.unacknowledged().into(),
        )
    }

    /// `None` for a socket that is closing and has lost what was kept with it.
    fn resume(target: &Target, socket: js::WebSocket) -> Option<Self> {
        let attachment = socket.deserialize_attachment().ok()?;
        let kept = |index| Reflect::get_u32(&attachment, index).ok()?.as_f64();
        let (number, position, unacknowledged) = (kept(0)?, kept(1)?, kept(2)?);
        let position = match position {
            OLDEST => Position::Oldest,
            START => Position::Start,
            id => Position::After(EventId::new(id as u64)?),
        };
        Some(Self {
            socket,
            number: number as u32,
            subscription: target.resume(position),
            credit: Credit::resume(unacknowledged as u32),
        })
    }
}

/// So many bytes, and as many of the default's events as that is of its bytes.
fn page_limit(bytes: u32) -> PageLimit {
    let page = PageLimit::default();
    let bytes = bytes as usize;
    PageLimit {
        events: page.events * bytes / page.bytes,
        bytes,
    }
}

const OLDEST: f64 = -1.0;
const START: f64 = 0.0;

fn number(socket: &js::WebSocket) -> Option<u32> {
    let attachment = socket.deserialize_attachment().ok()?;
    let number = Reflect::get_u32(&attachment, 0).ok()?.as_f64()?;
    Some(number as u32)
}
