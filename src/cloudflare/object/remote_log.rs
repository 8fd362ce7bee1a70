//! The log of another object, read by RPC. Runs in a relay's object; `follower` is the other end.

use std::cell::RefCell;
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use cloudflare_workflows::__private::{message, since_epoch, sleep};
use futures_util::future::{Either, select};
use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use worker::durable::ObjectNamespace;
use worker::send::{SendFuture, SendWrapper};

use super::frame_page::{ENDS_ONLY, PATIENCE, WAIT, from_array, id, id_number, number};
use crate::cloudflare::cutoff::Cutoff;
use crate::cloudflare::hop::Hop;
use crate::cloudflare::js;
use crate::cloudflare::links::Links;
use crate::event::{EventId, NewEvent, StoredEvent};
use crate::store::{Appended, EventStore, FramePage, FrameStore, Page, PageLimit};
use crate::sync::{Mutex, lock};

/// The log of the object above. Only its frames can be read.
///
/// All calls are calls of functions that one call returned, so that following costs one request,
/// however long it takes.
pub(super) struct RemoteLog {
    namespace: ObjectNamespace,
    name: String,
    /// The object's place in the tree, which the first call names.
    hop: String,
    session: Mutex<Option<Arc<js::FollowSession>>>,
    viewers: AtomicU64,
    /// Gets the generation of the run's links from each page.
    links: SendWrapper<Rc<Links>>,
    cutoff: SendWrapper<Rc<Cutoff>>,
}

impl RemoteLog {
    pub(super) fn new(
        namespace: ObjectNamespace,
        object: &Hop,
        links: &Rc<Links>,
        cutoff: &Rc<Cutoff>,
    ) -> worker::Result<Self> {
        Ok(Self {
            namespace,
            name: object.object_name(),
            hop: object.to_text()?,
            session: Mutex::default(),
            viewers: AtomicU64::default(),
            links: SendWrapper(Rc::clone(links)),
            cutoff: SendWrapper(Rc::clone(cutoff)),
        })
    }

    /// Reports the number of viewers below.
    pub(super) async fn report(&self, viewers: u64) {
        self.viewers.store(viewers, Ordering::Relaxed);
        let session = lock(&self.session).clone();
        if let Some(session) = session {
            // A failure does no harm, nor that there is no answer: each request for a page reports it, too.
            let reported = pin!(session.report(number(viewers)));
            select(reported, sleep(PATIENCE)).await;
        }
    }

    /// Leaves the object, until something is read again.
    pub(super) fn leave(&self) {
        self.viewers.store(0, Ordering::Relaxed);
        if let Some(session) = lock(&self.session).take() {
            self.let_go(session);
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
            let (page, links) = from_array(&page.await?)?;
            self.links.learn(links);
            Ok(page)
        })
        .await
    }

    /// Makes a call. After an error the next call opens a new session, because the stub is then dead. Only the failed
    /// session is left: other calls may already have another one.
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
                        self.let_go(failed);
                    }
                }
                RemoteError(message)
            })
        })
    }

    /// Returns the session, and opens one if there is none.
    async fn session(&self) -> Result<Arc<js::FollowSession>, JsValue> {
        let session = lock(&self.session).clone();
        if let Some(session) = session {
            return Ok(session);
        }
        let stub: js::EventsStub = self.namespace.get_by_name(&self.name)?.into_rpc();
        let session: js::FollowSession = stub.follow(&self.hop).await?.unchecked_into();
        let session = Arc::new(session);
        let mut current = lock(&self.session);
        // Another call may have made one in the meantime, which this call uses.
        if let Some(other) = &*current {
            let other = Arc::clone(other);
            drop(current);
            self.let_go(session);
            return Ok(other);
        }
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Leaves an object: removes the relay from its list, if it can still be reached, and drops its functions.
    fn let_go(&self, session: Arc<js::FollowSession>) {
        self.cutoff.spawn(async move {
            // A failure does no harm: the object forgets relays that do not report.
            select(pin!(session.leave()), sleep(PATIENCE)).await;
            let _ = js::dispose(&session);
        });
    }
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

    /// Fails: appends are made at the root.
    async fn append(&self, _batch: Vec<NewEvent>) -> Result<Vec<Appended>, RemoteError> {
        Err(RemoteError("a relay's log is only read".to_owned()))
    }

    /// Fails: only frames are read from a relay.
    async fn read(
        &self,
        _after: Option<EventId>,
        _limit: PageLimit,
    ) -> Result<Page<Vec<StoredEvent>>, RemoteError> {
        Err(RemoteError(
            "only frames of a relay's log are read".to_owned(),
        ))
    }

    async fn ends(&self, after: Option<EventId>) -> Result<Page<()>, RemoteError> {
        Ok(self.page(after, false, ENDS_ONLY).await?.with(()))
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), RemoteError> {
        self.page(after, true, ENDS_ONLY).await.map(drop)
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

/// Why a call to the object above failed.
#[derive(Clone, Debug)]
pub(super) struct RemoteError(String);

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the object above cannot be read: {}", self.0)
    }
}

impl std::error::Error for RemoteError {}
