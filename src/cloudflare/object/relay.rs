//! Relays: objects that get their log from another object and store nothing. Runs in the object.

use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloudflare_workflows::__private::sleep;
use cloudflare_workflows::catch_panic;
use futures_util::future::{join, select};
use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use worker::{Env, Response, web_sys};

use super::crowd::Crowd;
pub(super) use super::crowd::Visit;
use super::follower;
use super::remote_log::RemoteLog;
use super::watched::Watched;
use crate::cloudflare::admission::elsewhere;
use crate::cloudflare::cutoff::Cutoff;
use crate::cloudflare::fan_out::Admission;
use crate::cloudflare::hop::Hop;
use crate::cloudflare::leaving::Leaving;
use crate::cloudflare::links::Links;
use crate::cloudflare::permit::Permit;
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse};
use crate::cloudflare::request::StreamRequest;
use crate::cloudflare::response::sse_frame_response_while;
use crate::cloudflare::sql::ObjectSql;
use crate::delivery::SseTarget;
use crate::event::NewEvent;
use crate::refusal::Refusal;
use crate::stats::{Metrics, Observer};
use crate::store::{EventStore, FrameStore, RelayError, RelayStore, SqliteEventStore};
use crate::sync::{Mutex, lock};

/// An object's part in a tree of relays.
pub(super) struct Tree {
    env: Env,
    crowd: Rc<Crowd>,
    metrics: Metrics,
    cutoff: Rc<Cutoff>,
    relay: Mutex<Option<Rc<Relay>>>,
    /// The binding by which objects were last to be reached, and whether there is one.
    reaches: Mutex<Option<(String, bool)>>,
}

impl Tree {
    pub(super) fn new(env: Env, metrics: Metrics, cutoff: Rc<Cutoff>) -> Self {
        Self {
            env,
            crowd: Rc::new(Crowd::new(&cutoff)),
            metrics,
            cutoff,
            relay: Mutex::default(),
            reaches: Mutex::default(),
        }
    }

    /// Takes a viewer, which counts until its [`Visit`] is dropped, or returns the answer that sends it elsewhere.
    #[inline(never)]
    pub(super) fn admit(&self, hop: Option<&Hop>) -> worker::Result<Result<Visit, Response>> {
        let admission = match hop {
            // If relays could not reach this object, it serves all viewers by itself.
            Some(hop) if self.reaches(&hop.binding) => self.crowd.admit(hop),
            _ => Admission::Here,
        };
        Ok(match elsewhere(admission)? {
            None => Ok(self.crowd.enter()),
            Some(elsewhere) => Err(elsewhere),
        })
    }

    /// Returns whether other objects can be reached by this binding. The environment does not change.
    fn reaches(&self, binding: &str) -> bool {
        let mut reaches = lock(&self.reaches);
        if let Some((known, reaches)) = &*reaches
            && known == binding
        {
            return *reaches;
        }
        let found = self.env.durable_object(binding).is_ok();
        *reaches = Some((binding.to_owned(), found));
        found
    }

    /// Returns the relay that this object is, if it is one.
    #[inline(never)]
    pub(super) fn relay(&self, hop: Option<&Hop>) -> worker::Result<Option<Rc<Relay>>> {
        let Some((hop, parent)) = hop.and_then(|hop| Some((hop, hop.parent()?))) else {
            return Ok(None);
        };
        if let Some(relay) = &*lock(&self.relay) {
            return Ok(Some(Rc::clone(relay)));
        }
        let namespace = self.env.durable_object(&hop.binding)?;
        let upstream = RemoteLog::new(namespace, &parent, self.crowd.links(), &self.cutoff)?;
        let relay = Rc::new(Relay {
            target: SseTarget::new(RelayStore::new(upstream)).observed_by(self.metrics.clone()),
            crowd: Rc::clone(&self.crowd),
            metrics: self.metrics.clone(),
            cutoff: Rc::clone(&self.cutoff),
            follows: AtomicBool::new(false),
        });
        *lock(&self.relay) = Some(Rc::clone(&relay));
        Ok(Some(relay))
    }

    /// Returns the functions by which a relay reads this object's log: see [`follower`]. `hop` is the object's place
    /// in the tree.
    pub(super) fn follow(
        &self,
        log: &SseTarget<NewEvent, SqliteEventStore<ObjectSql>>,
        hop: &Hop,
    ) -> Result<JsValue, JsValue> {
        match self.relay(Some(hop))? {
            Some(relay) => self.session(relay.target(), hop),
            None => self.session(log, hop),
        }
    }

    fn session<S: FrameStore<Bytes = Uint8Array> + 'static>(
        &self,
        target: &SseTarget<NewEvent, S>,
        hop: &Hop,
    ) -> Result<JsValue, JsValue> {
        follower::session(target, &self.crowd, &self.cutoff, hop.follower)
    }

    /// Returns the known generation of the run's links.
    pub(super) fn links(&self) -> &Rc<Links> {
        self.crowd.links()
    }

    /// Returns the number of viewers here, and that of those below.
    pub(super) fn viewers(&self) -> (u64, u64) {
        self.crowd.watched()
    }

    /// Returns, for tests, the numbers of viewers here and below, and whether the object follows another.
    pub(super) fn watched(&self) -> JsValue {
        let (here, below) = self.crowd.watched();
        let relay = lock(&self.relay);
        let follows = relay
            .as_ref()
            .is_some_and(|relay| relay.follows.load(Ordering::Relaxed));
        let watched = (here, below, follows);
        serde_json::to_string(&watched).unwrap_or_default().into()
    }
}

/// An object that gets its log from another. It follows that one while it has viewers, or relays below it, so that
/// both can leave memory when nobody watches.
pub(super) struct Relay {
    target: SseTarget<NewEvent, RelayStore<RemoteLog>>,
    crowd: Rc<Crowd>,
    metrics: Metrics,
    cutoff: Rc<Cutoff>,
    follows: AtomicBool,
}

impl Relay {
    /// Answers a viewer with the events of the object above.
    pub(super) async fn serve(
        self: &Rc<Self>,
        stream: &StreamRequest,
        visit: Visit,
        leaving: Leaving,
    ) -> worker::Result<web_sys::Response> {
        self.follow();
        let failed = |error: RelayError<_>| {
            let reason = std::error::Error::source(&error)
                .map_or_else(String::new, |source| format!(": {source}"));
            worker::Error::RustError(format!("{error}{reason}"))
        };
        let ends = self.target.store().ends(None).await.map_err(failed)?;
        // Known by now: each page of the object above has it.
        let links = self.crowd.links();
        let generation = stream.grant.generation;
        if generation.is_some_and(|generation| links.has_revoked(generation)) {
            return Ok(refuse(Refusal::NotAllowed)?.into());
        }
        // If all events of the log were removed, nothing is expected: it may have been deleted.
        if ends.oldest.is_none() && (!stream.expected || ends.head.is_some()) {
            self.metrics.refused(UNKNOWN_INSTANCE.status());
            return Ok(refuse(UNKNOWN_INSTANCE)?.into());
        }
        let subscription = self.target.subscribe(stream.cursor).await;
        let subscription = subscription.map_err(failed)?;
        let permit = Permit::new(stream.grant, links);
        let timer = visit.timer();
        let visit = Watched::new(visit, timer, &self.metrics, &self.cutoff);
        sse_frame_response_while(subscription, leaving, permit, visit)
    }

    /// Returns the log, and follows it from now on.
    pub(super) fn target(self: &Rc<Self>) -> &SseTarget<NewEvent, RelayStore<RemoteLog>> {
        self.follow();
        &self.target
    }

    /// Follows the object above until no viewers and no relays are left. Does nothing while it follows already.
    fn follow(self: &Rc<Self>) {
        if self.follows.swap(true, Ordering::Relaxed) {
            return;
        }
        let following = Following(Rc::clone(self));
        self.cutoff.spawn(async move {
            /// The pause after a panic, before it begins again.
            const PAUSE: Duration = Duration::from_secs(1);
            let Relay {
                target,
                crowd,
                cutoff,
                ..
            } = &*following.0;
            let watched = async || {
                let reports = report(crowd, target.store().upstream());
                let reports = join(reports, cut_when_deleted(target.store(), cutoff));
                // Reads the object above again and again if that fails.
                let follow = pin!(join(target.store().follow(sleep), reports));
                select(follow, pin!(crowd.gone())).await;
                Ok(())
            };
            // Viewers are still there, and only this brings them events.
            while let Err(error) = catch_panic(watched()).await {
                worker::console_error!("ssetarget: a relay starts again: {error}");
                sleep(PAUSE).await;
            }
        });
    }
}

/// Cuts off this relay's viewers whenever all events of the log above were removed.
async fn cut_when_deleted(store: &RelayStore<RemoteLog>, cutoff: &Cutoff) {
    loop {
        store.until_emptied(false).await;
        store.until_emptied(true).await;
        cutoff.cut();
    }
}

/// Marks that a relay follows, until it is dropped.
struct Following(Rc<Relay>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.follows.store(false, Ordering::Relaxed);
        self.0.target.store().upstream().leave();
    }
}

/// Reports the number of viewers to the object above, at most once a second.
async fn report(crowd: &Crowd, upstream: &RemoteLog) {
    const PAUSE: Duration = Duration::from_secs(1);
    let mut reported = 0;
    loop {
        let listener = crowd.changed();
        let total = crowd.total();
        if total == reported {
            listener.await;
        } else {
            reported = total;
            upstream.report(total).await;
            sleep(PAUSE).await;
        }
    }
}
