//! The functions by which a relay reads the log of this object. Runs in the object that is followed.

use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::SystemTime;

use cloudflare_workflows::__private::{sleep, time};
use futures_util::future::{Either, LocalBoxFuture, select};
use futures_util::poll;
use js_sys::{Promise, Uint8Array};
use wasm_bindgen::prelude::*;

use super::crowd::{Crowd, now};
use super::frame_page::{ENDS_ONLY, PATIENCE, WAIT, id, id_number, to_array};
use crate::cloudflare::cutoff::Cutoff;
use crate::cloudflare::fan_out::{Joined, Place};
use crate::cloudflare::js;
use crate::delivery::SseTarget;
use crate::event::{EventId, NewEvent};
use crate::store::{Bell, FrameStore, PageLimit};

/// Returns the functions that read this log, for a relay that is part of `crowd` from now on.
pub(super) fn session<S: FrameStore<Bytes = Uint8Array> + 'static>(
    target: &SseTarget<NewEvent, S>,
    crowd: &Rc<Crowd>,
    cutoff: &Rc<Cutoff>,
    relay: Place,
) -> Result<JsValue, JsValue> {
    let follower = Rc::new(Follower {
        target: target.clone(),
        crowd: Rc::clone(crowd),
        cutoff: Rc::clone(cutoff),
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
            let page = Box::pin(reader.page(id(&after.into()), waits, limit));
            reader.while_there(page).await
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
            let before = Box::pin(reader.before(time(&since.into())));
            reader.while_there(before).await
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
    cutoff: Rc<Cutoff>,
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

    /// Removes the relay from the list, and ends its calls that are under way.
    fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
        self.crowd.change(|audience| audience.part(self.joined));
        self.bell.ring();
    }

    /// Returns what a call of the relay answers, unless that is known only later than the relay waits for it, the relay
    /// leaves, or this object is gone. An object that follows another stops that when its last relay has left, and
    /// then knows no answer any more.
    async fn while_there(
        &self,
        answer: LocalBoxFuture<'_, Result<JsValue, JsValue>>,
    ) -> Result<JsValue, JsValue> {
        let answer = async {
            let mut answer = answer;
            if let Poll::Ready(answer) = poll!(&mut answer) {
                return answer;
            }
            // A relay may also disappear without notice. It gives up by then, too.
            let left = pin!(self.until_left());
            match select(answer, select(left, sleep(WAIT + PATIENCE))).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => Err(thrown(
                    "this relay has left, or this object does not answer",
                )),
            }
        };
        let answer = self.cutoff.unless_gone(Box::pin(answer)).await;
        // Nobody hears it where this object is gone.
        answer.unwrap_or(Err(JsValue::UNDEFINED))
    }

    async fn until_left(&self) {
        loop {
            let listener = self.bell.listen();
            if self.left.load(Ordering::Relaxed) {
                return;
            }
            listener.await;
        }
    }

    /// Returns the last position before this time.
    async fn before(&self, time: SystemTime) -> Result<JsValue, JsValue> {
        let before = self.target.store().before(time).await;
        before.map(|id| id_number(id).into()).map_err(thrown)
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
