//! A log in another object, read by RPC: both ends of the call.

use std::cell::RefCell;
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use cloudflare_workflows::__private::{message, since_epoch, sleep, time};
use futures_util::future::{Either, select};
use js_sys::{Array, Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use worker::durable::ObjectNamespace;
use worker::send::SendFuture;

use super::fan_out::{Joined, Place};
use super::js;
use super::relay::{Crowd, Hop, now};
use crate::delivery::SseTarget;
use crate::event::{EventId, NewEvent, StoredEvent};
use crate::store::{Appended, Bell, EventStore, FramePage, FrameStore, Frames, Page, PageLimit};
use crate::sync::{Mutex, lock};

/// How long the object above waits for something new before it answers that there is nothing.
const WAIT: Duration = Duration::from_secs(20);
/// How long an answer may take beyond that before the connection counts as broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// The log of the object above, of which only frames can be read.
///
/// All calls are those of functions that one call returned, so that following costs one request,
/// however long it takes.
pub(super) struct RemoteLog {
    namespace: ObjectNamespace,
    name: String,
    /// For the object: what it is.
    hop: String,
    session: Mutex<Option<Arc<js::FollowSession>>>,
    viewers: AtomicU64,
}

impl RemoteLog {
    pub(super) fn new(namespace: ObjectNamespace, object: &Hop) -> worker::Result<Self> {
        Ok(Self {
            namespace,
            name: object.object_name(),
            hop: object.to_text()?,
            session: Mutex::default(),
            viewers: AtomicU64::default(),
        })
    }

    /// Says how many viewers there are below.
    pub(super) async fn report(&self, viewers: u64) {
        self.viewers.store(viewers, Ordering::Relaxed);
        let session = lock(&self.session).clone();
        if let Some(session) = session {
            // Of no use if it fails: each page that is asked for says it, too.
            let _ = session.report(number(viewers)).await;
        }
    }

    /// Lets go of the object, until something is read again.
    pub(super) fn leave(&self) {
        self.viewers.store(0, Ordering::Relaxed);
        if let Some(session) = lock(&self.session).take() {
            let_go(session);
        }
    }

    async fn page(
        &self,
        after: Option<EventId>,
        waits: bool,
        limit: PageLimit,
    ) -> Result<FramePage<Uint8Array>, RemoteError> {
        let events = u32::try_from(limit.events).unwrap_or(u32::MAX);
        let bytes = u32::try_from(limit.bytes).unwrap_or(u32::MAX);
        self.call(async move |session| {
            let viewers = number(self.viewers.load(Ordering::Relaxed));
            let page = session.page(id_number(after), viewers, waits, events, bytes);
            from_array(&page.await?)
        })
        .await
    }

    /// What a call resolves to. After an error the next call begins anew: a stub is dead then. Only the
    /// session that failed is let go of: it may be that others have another one by now.
    fn call<T>(
        &self,
        call: impl AsyncFnOnce(&js::FollowSession) -> Result<T, JsValue>,
    ) -> impl Future<Output = Result<T, RemoteError>> {
        SendFuture::new(async move {
            let used = RefCell::new(None);
            let result = {
                let call = pin!(async {
                    let session = self.session().await?;
                    used.replace(Some(Arc::clone(&session)));
                    call(&session).await
                });
                match select(call, sleep(WAIT + PATIENCE)).await {
                    Either::Left((result, _)) => result.map_err(|error| message(&error)),
                    Either::Right(_) => Err("it does not answer".to_owned()),
                }
            };
            result.map_err(|message| {
                if let Some(used) = used.take() {
                    let mut current = lock(&self.session);
                    if let Some(failed) = current.take_if(|current| Arc::ptr_eq(current, &used)) {
                        drop(current);
                        let_go(failed);
                    }
                }
                RemoteError(message)
            })
        })
    }

    async fn session(&self) -> Result<Arc<js::FollowSession>, JsValue> {
        let session = lock(&self.session).clone();
        if let Some(session) = session {
            return Ok(session);
        }
        let stub: js::EventsStub = self.namespace.get_by_name(&self.name)?.into_rpc();
        let session: js::FollowSession = stub.follow(&self.hop).await?.unchecked_into();
        let session = Arc::new(session);
        let mut current = lock(&self.session);
        // Another call may have made one meanwhile, which it uses.
        if let Some(other) = &*current {
            let other = Arc::clone(other);
            drop(current);
            let_go(session);
            return Ok(other);
        }
        *current = Some(Arc::clone(&session));
        Ok(session)
    }
}

/// Takes the relay off the object's list, if that can still be said, and lets go of the object.
fn let_go(session: Arc<js::FollowSession>) {
    wasm_bindgen_futures::spawn_local(async move {
        // Of no use if they fail: the object forgets whom it does not hear of.
        select(pin!(session.leave()), sleep(PATIENCE)).await;
        let _ = js::dispose(&session);
    });
}

impl fmt::Debug for RemoteLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteLog")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl EventStore for RemoteLog {
    type Error = RemoteError;

    /// Fails: who appends does it at the root.
    async fn append(&self, _batch: Vec<NewEvent>) -> Result<Vec<Appended>, RemoteError> {
        Err(RemoteError("a relay's log is only read".to_owned()))
    }

    /// Fails: viewers get frames.
    async fn read(
        &self,
        _after: Option<EventId>,
        _limit: PageLimit,
    ) -> Result<Page<Vec<StoredEvent>>, RemoteError> {
        Err(RemoteError(
            "of a relay's log only frames are read".to_owned(),
        ))
    }

    async fn ends(&self, after: Option<EventId>) -> Result<Page<()>, RemoteError> {
        Ok(self.page(after, false, NOTHING).await?.with(()))
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), RemoteError> {
        self.page(after, true, NOTHING).await.map(drop)
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, RemoteError> {
        self.call(async move |session| Ok(id(&session.before(since_epoch(time)).await?)))
            .await
    }
}

impl FrameStore for RemoteLog {
    type Bytes = Uint8Array;

    async fn read_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<Uint8Array>, RemoteError> {
        self.page(after, false, limit).await
    }

    async fn next_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<Uint8Array>, RemoteError> {
        self.page(after, true, limit).await
    }
}

/// Only the ends.
const NOTHING: PageLimit = PageLimit {
    events: 0,
    bytes: 0,
};

/// What came of a call.
#[derive(Clone, Debug)]
pub(super) struct RemoteError(String);

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the object above cannot be read: {}", self.0)
    }
}

impl std::error::Error for RemoteError {}

/// The functions that read this log, for this relay, which is one of `crowd` from now on.
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
    });
    let session = js_sys::Object::new();
    // Functions live as long as JavaScript, and through it the relay, holds them.
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
}

impl<S: FrameStore<Bytes = Uint8Array>> Follower<S> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    fn report(&self, viewers: f64) {
        if !self.left.load(Ordering::Relaxed) {
            let viewers = viewers as u64;
            self.crowd
                .change(|audience| audience.report(self.joined, viewers, now()));
        }
    }

    fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
        self.crowd.change(|audience| audience.part(self.joined));
        self.bell.ring();
    }

    async fn page(
        &self,
        after: Option<EventId>,
        waits: bool,
        limit: PageLimit,
    ) -> Result<JsValue, JsValue> {
        let store = self.target.store();
        // Not for as long as the relay is there, which may go away without a word.
        let _watch = store.watch();
        if waits {
            let changed = pin!(store.changed(after));
            let enough = pin!(select(sleep(WAIT), self.bell.listen()));
            if let Either::Left((changed, _)) = select(changed, enough).await {
                changed.map_err(thrown)?;
            }
        }
        let page = if limit == NOTHING {
            store.ends(after).await.map_err(thrown)?.with(None)
        } else {
            store.read_frames(after, limit).await.map_err(thrown)?
        };
        Ok(to_array(&page).into())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn thrown(error: impl fmt::Display) -> JsValue {
    js_sys::Error::new(&error.to_string()).into()
}

/// By position, which costs less than by name.
fn to_array(page: &FramePage<Uint8Array>) -> Array {
    let ends = [page.oldest, page.head, page.trimmed].map(|id| JsValue::from(id_number(id)));
    let array = Array::from_iter(ends);
    array.push(&page.closed.into());
    if let Some(frames) = &page.events {
        array.push(&id_number(Some(frames.last)).into());
        array.push(&frames.bytes);
    }
    array
}

fn from_array(page: &JsValue) -> Result<FramePage<Uint8Array>, JsValue> {
    let array: &Array = page.dyn_ref().ok_or("it does not answer with a page")?;
    let events = match id(&array.get(4)) {
        Some(last) => Some(Frames {
            bytes: array.get(5).dyn_into()?,
            last,
        }),
        None => None,
    };
    Ok(Page {
        events,
        oldest: id(&array.get(0)),
        head: id(&array.get(1)),
        trimmed: id(&array.get(2)),
        closed: array.get(3).is_truthy(),
    })
}

/// 0 for none.
fn id_number(id: Option<EventId>) -> f64 {
    number(id.map_or(0, EventId::get))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an id, or 0"
)]
fn id(number: &JsValue) -> Option<EventId> {
    EventId::new(number.as_f64()? as u64)
}

#[allow(clippy::cast_precision_loss, reason = "ids and counts are below 2^53")]
fn number(number: u64) -> f64 {
    number as f64
}
