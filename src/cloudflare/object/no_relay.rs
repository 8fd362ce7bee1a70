//! Replaces `relay` where the feature `relays` is off: the object serves all its viewers itself. Runs in the object.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use cloudflare_workflows::__private::Timer;
use wasm_bindgen::prelude::*;
use worker::{Env, Response, web_sys};

use crate::cloudflare::cutoff::Cutoff;
use crate::cloudflare::hop::Hop;
use crate::cloudflare::leaving::Leaving;
use crate::cloudflare::links::Links;
use crate::cloudflare::request::StreamRequest;
use crate::cloudflare::sql::ObjectSql;
use crate::delivery::SseTarget;
use crate::event::NewEvent;
use crate::stats::Metrics;
use crate::store::SqliteEventStore;

/// An object that is part of no tree.
pub(super) struct Tree {
    links: Rc<Links>,
    viewers: Rc<AtomicU64>,
}

#[allow(
    clippy::unnecessary_wraps,
    clippy::unused_self,
    reason = "as with relays"
)]
impl Tree {
    pub(super) fn new(_env: Env, _metrics: Metrics, _cutoff: Rc<Cutoff>) -> Self {
        Self {
            links: Rc::default(),
            viewers: Rc::default(),
        }
    }

    /// Takes every viewer.
    pub(super) fn admit(&self, _hop: Option<&Hop>) -> worker::Result<Result<Visit, Response>> {
        self.viewers.fetch_add(1, Ordering::Relaxed);
        Ok(Ok(Visit(Rc::clone(&self.viewers))))
    }

    /// Returns that the object is not a relay.
    pub(super) fn relay(&self, _hop: Option<&Hop>) -> worker::Result<Option<Relay>> {
        Ok(None)
    }

    pub(super) fn follow(
        &self,
        _log: &SseTarget<NewEvent, SqliteEventStore<ObjectSql>>,
        hop: &Hop,
    ) -> Result<JsValue, JsValue> {
        match *hop {}
    }

    /// Returns the known generation of the run's links.
    pub(super) fn links(&self) -> &Rc<Links> {
        &self.links
    }

    /// Returns the number of viewers here; there are none below.
    pub(super) fn viewers(&self) -> (u64, u64) {
        (self.viewers.load(Ordering::Relaxed), 0)
    }

    pub(super) fn watched(&self) -> JsValue {
        JsValue::UNDEFINED
    }
}

/// There are no relays.
pub(super) enum Relay {}

impl Relay {
    #[allow(clippy::unused_async, reason = "as with relays")]
    pub(super) async fn serve(
        &self,
        _stream: &StreamRequest,
        _visit: Visit,
        _leaving: Leaving,
    ) -> worker::Result<web_sys::Response> {
        match *self {}
    }
}

/// A viewer at an object, counted until this is dropped.
pub(super) struct Visit(Rc<AtomicU64>);

impl Visit {
    /// Returns the timer of the viewer's heartbeats.
    #[allow(clippy::unused_self, reason = "as with relays")]
    pub(super) fn timer(&self) -> Timer {
        Timer::new()
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
