//! The functions by which a relay reads the log of this object. Runs in the object that is followed.

use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cloudflare_workflows::__private::{sleep, time};
use futures_util::future::{Either, select};
use js_sys::{Promise, Uint8Array};
use wasm_bindgen::prelude::*;

use super::crowd::{Crowd, now};
use super::frame_page::{ENDS_ONLY, WAIT, id, id_number, to_array};
use crate::cloudflare::fan_out::{Joined, Place};
use crate::cloudflare::js;
use crate::delivery::SseTarget;
use crate::event::{EventId, NewEvent};
use crate::store::{Bell, FrameStore, PageLimit};

/// Returns the functions that read this log, for a relay that is part of `crowd` from now on.
pub(super) fn session<S: FrameStore<Bytes = Uint8Array> + 'static>(
    target: &SseTarget<NewEvent, S>,
    crowd: &Rc<Crowd>,
    relay: Place,
) -> Result<JsValue, JsValue> {
    let follower = Rc::new(Follower {
        target: target.clone(),
        crowd: Rc::clone(crowd),
        joined: crowd.change(|audience| audience.join(relay, now())),
        left: AtomicBool::new(false),
        bell: Bell::new(),
        told: AtomicU64::new(0),
    });
    let session = js_sys::Object::new();
    // JavaScript, and through it the relay, keeps the functions alive.
    let set =
        |name: &str, function: JsValue| js_sys::Reflect::set(&session, &name.into(), &function);

    let reader = Rc::clone(&follower);
    type Reading = dyn FnMut(f64, f64, bool, u32, u32) -> Promise;
    let page: Box<Reading> = Box::new(move |after, viewers, waits, events, bytes| {
        let reader = Rc::clone(&reader);
        let limit = PageLimit {
            events: events as usize,
            bytes: bytes as usize,
        };
        js::promise(async move {
            reader.report(viewers);
            reader.page(id(&after.into()), waits, limit).await
        })
    });
    set(
        "page",
        Closure::wrap_assert_unwind_safe(page).into_js_value(),
    )?;

    let reader = Rc::clone(&follower);
    let before: Box<dyn FnMut(f64) -> Promise> = Box::new(move |since| {
        let reader = Rc::clone(&reader);
        js::promise(async move {
            let before = reader.target.store().before(time(&since.into())).await;
            before.map(|id| id_number(id).into()).map_err(thrown)
        })
    });
    set(
        "before",
        Closure::wrap_assert_unwind_safe(before).into_js_value(),
    )?;

    let reader = Rc::clone(&follower);
    let report: Box<dyn FnMut(f64)> = Box::new(move |viewers| reader.report(viewers));
    set(
        "report",
        Closure::wrap_assert_unwind_safe(report).into_js_value(),
    )?;

    let leave: Box<dyn FnMut()> = Box::new(move || follower.leave());
    set(
        "leave",
        Closure::wrap_assert_unwind_safe(leave).into_js_value(),
    )?;
    Ok(session.into())
}

/// A relay that reads the log of this object.
struct Follower<S> {
    target: SseTarget<NewEvent, S>,
    crowd: Rc<Crowd>,
    joined: Joined,
    left: AtomicBool,
    bell: Bell,
    /// The generation of the run's links that the relay got last.
    told: AtomicU64,
}

impl<S: FrameStore<Bytes = Uint8Array>> Follower<S> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    /// Notes the number of viewers below the relay.
    fn report(&self, viewers: f64) {
        if !self.left.load(Ordering::Relaxed) {
            let viewers = viewers as u64;
            self.crowd
                .change(|audience| audience.report(self.joined, viewers, now()));
        }
    }

    /// Removes the relay from the list, and ends its waiting calls.
    fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
        self.crowd.change(|audience| audience.part(self.joined));
        self.bell.ring();
    }

    /// Returns a page after this position. If asked to wait, waits for one for up to [`WAIT`].
    async fn page(
        &self,
        after: Option<EventId>,
        waits: bool,
        limit: PageLimit,
    ) -> Result<JsValue, JsValue> {
        let store = self.target.store();
        // For this call only: the relay may disappear without notice.
        let _watch = store.watch();
        let links = || self.crowd.links().known().unwrap_or_default();
        if waits && links() == self.told.load(Ordering::Relaxed) {
            let changed = pin!(store.changed(after));
            let raised = pin!(self.crowd.links().raised());
            let woken = pin!(select(self.bell.listen(), raised));
            let enough = pin!(select(sleep(WAIT), woken));
            if let Either::Left((changed, _)) = select(changed, enough).await {
                changed.map_err(thrown)?;
            }
        }
        let page = if limit == ENDS_ONLY {
            store.ends(after).await.map_err(thrown)?.with(None)
        } else {
            store.read_frames(after, limit).await.map_err(thrown)?
        };
        let links = links();
        self.told.store(links, Ordering::Relaxed);
        Ok(to_array(&page, links).into())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn thrown(error: impl fmt::Display) -> JsValue {
    js_sys::Error::new(&error.to_string()).into()
}
