//! Replaces `hibernation` where the feature `hibernation` is off: no Worker asks for such a stream. Runs in the
//! object.

use std::rc::Rc;

use wasm_bindgen::prelude::*;
use worker::Response;

use crate::cloudflare::cutoff::Cutoff;
use crate::cloudflare::sql::ObjectSql;
use crate::delivery::{SseTarget, Subscription};
use crate::event::NewEvent;
use crate::stats::Metrics;
use crate::store::SqliteEventStore;

type Target = SseTarget<NewEvent, SqliteEventStore<ObjectSql>>;

/// No streams.
pub(super) struct HeldStreams;

#[allow(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    reason = "as with hibernation"
)]
impl HeldStreams {
    pub(super) fn hold(_state: &worker::durable::State) -> Result<(), JsValue> {
        Ok(())
    }

    pub(super) fn new(
        _state: &worker::durable::State,
        _metrics: Metrics,
        _cutoff: &Rc<Cutoff>,
    ) -> Rc<Self> {
        Rc::new(Self)
    }

    pub(super) fn accept(
        &self,
        _target: &Target,
        _subscription: Subscription<SqliteEventStore<ObjectSql>>,
        _generation: Option<u64>,
    ) -> worker::Result<Response> {
        Err("the feature `hibernation` of ssetarget is off".into())
    }

    pub(super) fn deliver(&self, _target: &Target) {}

    pub(super) fn len(&self, _target: &Target) -> usize {
        0
    }

    pub(super) fn cut_all(&self, _target: &Target) {}

    /// Closes a socket from before the feature was switched off, so that its viewer comes back.
    pub(super) fn acknowledged(&self, _target: &Target, socket: &JsValue, _message: &JsValue) {
        let socket: &worker::web_sys::WebSocket = socket.unchecked_ref();
        let _ = socket.close();
    }

    #[cfg(feature = "links")]
    pub(super) fn revoke(&self, _target: &Target, _generation: u64) {}

    pub(super) fn left(&self, _socket: &JsValue) {}
}
