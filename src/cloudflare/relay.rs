//! Trees of objects: relays, which are objects of the same class that store nothing.

use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use cloudflare_workflows::__private::{Timer, sleep};
use cloudflare_workflows::{Runtime, WorkersRuntime, catch_panic};
use futures_util::future::{join, select};
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;
use worker::{Env, Response, ResponseBuilder, web_sys};

use super::fan_out::{Admission, Ask, Audience, FanOut, Place};
use super::leaving::Leaving;
use super::remote_log::RemoteLog;
use super::response::sse_frame_response_while;
use super::serve::{self, Viewer};
use crate::delivery::SseTarget;
use crate::event::NewEvent;
use crate::store::{Bell, EventStore, RelayError, RelayStore};
use crate::sync::{Mutex, lock};

/// What the Worker says to an object of a tree, and a relay to the one above it: which one that is,
/// and how others are reached. Never the client's word.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hop {
    /// The binding of the objects.
    pub(super) binding: String,
    /// The name of the root.
    pub(super) root: String,
    pub(super) fan_out: FanOut,
    pub(super) place: Place,
    pub(super) ask: Ask,
    /// Who follows it, where a relay says it. The root where it is the Worker.
    pub(super) follower: Place,
}

impl Hop {
    /// The name of the object. No run's ends like a relay's: `~` is in no instance's id.
    pub(super) fn object_name(&self) -> String {
        match self.place {
            Place::ROOT => self.root.clone(),
            place => format!("{}~{}", self.root, place.number()),
        }
    }

    fn parent(&self) -> Option<Self> {
        let place = self.fan_out.parent(self.place)?;
        Some(Self {
            place,
            ask: Ask::Anyway,
            follower: self.place,
            ..self.clone()
        })
    }

    /// In ASCII, for a header.
    pub(super) fn to_text(&self) -> worker::Result<String> {
        let json = serde_json::to_string(self)?;
        Ok(js_sys::encode_uri_component(&json).into())
    }

    pub(super) fn from_text(text: &str) -> worker::Result<Self> {
        let json = String::from(js_sys::decode_uri_component(text)?);
        Ok(serde_json::from_str(&json)?)
    }

    /// `None` where there is to be no tree.
    pub(super) fn from_request(request: &web_sys::Request) -> worker::Result<Option<Self>> {
        let text = request.headers().get(HOP)?;
        text.as_deref().map(Self::from_text).transpose()
    }
}

/// The header that has a [`Hop`].
pub(super) const HOP: &str = "ssetarget-hop";

/// An object's answer to a viewer that it does not take. The Worker understands it; no client sees
/// it.
const ELSEWHERE: u16 = 421;
const RELAYS: &str = "ssetarget-relays";

/// What an object's answer says of where the viewer is to be.
pub(super) fn admission(response: &Response) -> worker::Result<Admission> {
    if response.status_code() != ELSEWHERE {
        return Ok(Admission::Here);
    }
    let relays = response.headers().get(RELAYS)?;
    let relays = relays.and_then(|relays| relays.parse().ok());
    Ok(relays.map_or(Admission::Full, Admission::Relays))
}

/// An object's part in a tree.
pub(super) struct Tree {
    env: Env,
    crowd: Rc<Crowd>,
    relay: Mutex<Option<Rc<Relay>>>,
}

impl Tree {
    pub(super) fn new(env: Env) -> Self {
        Self {
            env,
            crowd: Rc::default(),
            relay: Mutex::default(),
        }
    }

    /// Takes a viewer, who is there as long as the [`Visit`] is, or sends it elsewhere.
    pub(super) fn admit(&self, hop: Option<&Hop>) -> worker::Result<Result<Visit, Response>> {
        let admission = match hop {
            // Where relays could not reach this object it serves all by itself.
            Some(hop) if self.env.durable_object(&hop.binding).is_ok() => {
                let (admission, probes) = {
                    let mut audience = lock(&self.crowd.audience);
                    let admission = audience.admit(hop.place, &hop.fan_out, hop.ask, now());
                    (admission, audience.take_probe())
                };
                if probes {
                    self.crowd.probe();
                }
                admission
            }
            _ => Admission::Here,
        };
        let mut elsewhere = ResponseBuilder::new().with_status(ELSEWHERE);
        match admission {
            Admission::Here => return Ok(Ok(self.crowd.enter())),
            Admission::Relays(relays) => {
                elsewhere = elsewhere.with_header(RELAYS, &relays.to_string())?;
            }
            Admission::Full => {}
        }
        Ok(Err(elsewhere.empty()))
    }

    /// The relay that this object is, if it is one.
    pub(super) fn relay(&self, hop: Option<&Hop>) -> worker::Result<Option<Rc<Relay>>> {
        let Some((hop, parent)) = hop.and_then(|hop| Some((hop, hop.parent()?))) else {
            return Ok(None);
        };
        if let Some(relay) = &*lock(&self.relay) {
            return Ok(Some(Rc::clone(relay)));
        }
        let namespace = self.env.durable_object(&hop.binding)?;
        let upstream = RemoteLog::new(namespace, &parent)?;
        let relay = Rc::new(Relay {
            target: SseTarget::new(RelayStore::new(upstream)),
            crowd: Rc::clone(&self.crowd),
            follows: AtomicBool::new(false),
        });
        *lock(&self.relay) = Some(Rc::clone(&relay));
        Ok(Some(relay))
    }

    pub(super) fn crowd(&self) -> &Rc<Crowd> {
        &self.crowd
    }

    /// For tests: how many viewers are here, how many below, and whether it follows another object.
    pub(super) fn watched(&self) -> JsValue {
        let mut audience = lock(&self.crowd.audience);
        let relay = lock(&self.relay);
        let follows = relay
            .as_ref()
            .is_some_and(|relay| relay.follows.load(Ordering::Relaxed));
        let watched = (audience.viewers(), audience.below(now()), follows);
        serde_json::to_string(&watched).unwrap_or_default().into()
    }
}

/// Those whom an object serves.
#[derive(Default)]
pub(super) struct Crowd {
    audience: Mutex<Audience>,
    /// Of viewers' heartbeats.
    timers: Mutex<Timers>,
    /// Rung when there are others.
    bell: Bell,
}

/// By numbers, from the first to the last that was made.
#[derive(Default)]
struct Timers {
    timers: BTreeMap<u64, Timer>,
    made: u64,
}

impl Crowd {
    fn enter(self: &Rc<Self>) -> Visit {
        self.change(Audience::enter);
        let number = {
            let mut timers = lock(&self.timers);
            timers.made += 1;
            timers.made
        };
        Visit {
            crowd: Rc::clone(self),
            number,
        }
    }

    /// Writes a heartbeat to all viewers, and another a moment later: at the second at the latest the
    /// runtime says who is gone.
    fn probe(self: &Rc<Self>) {
        const MOMENT: Duration = Duration::from_millis(400);
        self.beat();
        let crowd = Rc::clone(self);
        wasm_bindgen_futures::spawn_local(async move {
            sleep(MOMENT).await;
            crowd.beat();
        });
    }

    fn beat(&self) {
        let timers: Vec<_> = lock(&self.timers).timers.values().cloned().collect();
        for timer in timers {
            timer.elapse();
        }
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Audience) -> T) -> T {
        let changed = change(&mut lock(&self.audience));
        self.bell.ring();
        changed
    }

    fn total(&self) -> u64 {
        let mut audience = lock(&self.audience);
        audience.viewers() + audience.below(now())
    }

    /// Resolves when nobody is there any more.
    async fn gone(&self) {
        /// A relay that went away without a word is not rung for.
        const LOOK: Duration = Duration::from_secs(30);
        loop {
            let listener = self.bell.listen();
            // Without those that were not heard of.
            let is_empty = {
                let mut audience = lock(&self.audience);
                audience.below(now());
                audience.is_empty()
            };
            if is_empty {
                return;
            }
            select(listener, sleep(LOOK)).await;
        }
    }
}

/// A viewer's time at an object.
pub(super) struct Visit {
    crowd: Rc<Crowd>,
    number: u64,
}

impl Visit {
    /// The timer of its heartbeats.
    pub(super) fn timer(&self) -> Timer {
        let timer = Timer::new();
        let mut timers = lock(&self.crowd.timers);
        timers.timers.insert(self.number, timer.clone());
        timer
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        lock(&self.crowd.timers).timers.remove(&self.number);
        self.crowd.change(Audience::leave);
    }
}

pub(super) fn now() -> SystemTime {
    WorkersRuntime.now()
}

/// An object that has its log from another. It follows that one while it has viewers, or relays
/// below it, so that both can leave memory when nobody watches.
pub(super) struct Relay {
    target: SseTarget<NewEvent, RelayStore<RemoteLog>>,
    crowd: Rc<Crowd>,
    follows: AtomicBool,
}

impl Relay {
    pub(super) async fn serve(
        self: &Rc<Self>,
        viewer: &Viewer,
        visit: Visit,
        leaving: Leaving,
    ) -> worker::Result<Response> {
        self.follow();
        let failed = |error: RelayError<_>| {
            let reason = std::error::Error::source(&error)
                .map_or_else(String::new, |source| format!(": {source}"));
            worker::Error::RustError(format!("{error}{reason}"))
        };
        let ends = self.target.store().ends(None).await.map_err(failed)?;
        if ends.oldest.is_none() && !viewer.expected {
            return serve::refuse(serve::UNKNOWN_INSTANCE);
        }
        let subscription = self.target.subscribe(viewer.cursor).await;
        let subscription = subscription.map_err(failed)?;
        sse_frame_response_while(subscription, visit.timer(), leaving, visit)
    }

    /// The log, which is followed.
    pub(super) fn target(self: &Rc<Self>) -> &SseTarget<NewEvent, RelayStore<RemoteLog>> {
        self.follow();
        &self.target
    }

    fn follow(self: &Rc<Self>) {
        if self.follows.swap(true, Ordering::Relaxed) {
            return;
        }
        let following = Following(Rc::clone(self));
        wasm_bindgen_futures::spawn_local(async move {
            /// Before it begins anew where the code panicked.
            const PAUSE: Duration = Duration::from_secs(1);
            let Relay { target, crowd, .. } = &*following.0;
            let watched = async || {
                let reports = report(crowd, target.store().upstream());
                // Reads the object above again and again if it fails.
                let follow = pin!(join(target.store().follow(sleep), reports));
                select(follow, pin!(crowd.gone())).await;
                Ok(())
            };
            // Viewers are still there, and this is all that brings them anything.
            while let Err(error) = catch_panic(watched()).await {
                worker::console_error!("ssetarget: a relay begins anew: {error}");
                sleep(PAUSE).await;
            }
        });
    }
}

/// While a relay follows.
struct Following(Rc<Relay>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.follows.store(false, Ordering::Relaxed);
        self.0.target.store().upstream().leave();
    }
}

/// Tells the object above how many watch, at most once a second.
async fn report(crowd: &Crowd, upstream: &RemoteLog) {
    const PAUSE: Duration = Duration::from_secs(1);
    let mut told = 0;
    loop {
        let listener = crowd.bell.listen();
        let total = crowd.total();
        if total == told {
            listener.await;
        } else {
            told = total;
            upstream.report(total).await;
            sleep(PAUSE).await;
        }
    }
}
