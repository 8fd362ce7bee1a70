//! One `WorkflowEvents` object: its log and what it does for viewers and runs. Runs in the object.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use cloudflare_workflows::{Runtime, WorkersRuntime};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use wasm_bindgen::prelude::*;
use worker::worker_sys::web_sys;

use super::config::WorkflowEventsConfig;
use super::error::{JsResult, to_js};
use super::hibernation::HeldStreams;
use super::log::WorkflowLog;
use super::relay::{Tree, Visit};
use super::snapshot::KeptSnapshot;
use super::watched::Watched;
use crate::clock;
use crate::cloudflare::command::LogCommand;
use crate::cloudflare::cutoff::{Because, Cutoff};
use crate::cloudflare::hop::{HOP, Hop};
use crate::cloudflare::js;
use crate::cloudflare::leaving::Leaving;
use crate::cloudflare::packed::STALE;
use crate::cloudflare::permit::Permit;
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse};
use crate::cloudflare::request::{ObjectCall, SnapshotCall, StreamRequest};
use crate::cloudflare::response::{self, sse_frame_response_while};
use crate::cloudflare::sql::ObjectSql;
use crate::cloudflare::stats::LogStats;
use crate::delivery::Subscription;
use crate::refusal::Refusal;
use crate::stats::{Metrics, Observer};
use crate::store::SqliteEventStore;
use crate::workflow::{Opened, Told};

/// The future of the answer to a call.
pub(super) type Answering = LocalBoxFuture<'static, Result<JsValue, JsValue>>;

/// The object that has the log of one instance, or relays the log of another object.
pub(super) struct EventsObject {
    pub(super) state: worker::durable::State,
    pub(super) log: WorkflowLog<ObjectSql>,
    pub(super) held_streams: Rc<HeldStreams>,
    pub(super) kept_snapshot: KeptSnapshot,
    pub(super) tree: Tree,
    #[cfg(feature = "index")]
    pub(super) indexing: super::indexing::Indexing,
    pub(super) config: WorkflowEventsConfig,
    pub(super) env: worker::Env,
    /// Whether a lifetime is under way, as far as this object knows since it is in memory. Not a `Cell`, which the
    /// compiler assumes a panic could leave half-changed.
    pub(super) has_lifetime: AtomicBool,
    metrics: Metrics,
    /// When this value was made.
    since: SystemTime,
    pub(super) cutoff: Rc<Cutoff>,
}

impl EventsObject {
    /// Returns the object of this state. Touches no storage.
    pub(super) fn new(
        state: worker::durable::State,
        env: worker::Env,
        config: WorkflowEventsConfig,
    ) -> JsResult<Self> {
        let metrics = Metrics::new();
        let cutoff = Rc::<Cutoff>::default();
        let sql = ObjectSql::new(&state)?;
        let log = match config.retention.events {
            Some(events) => WorkflowLog::with_max_events(sql, events),
            None => WorkflowLog::new(sql),
        };
        Ok(Self {
            log: log.redact(config.redact).observed_by(metrics.clone()),
            held_streams: HeldStreams::new(&state, metrics.clone(), &cutoff),
            kept_snapshot: KeptSnapshot::default(),
            state,
            tree: Tree::new(env.clone(), metrics.clone(), Rc::clone(&cutoff)),
            #[cfg(feature = "index")]
            indexing: super::indexing::Indexing::default(),
            config,
            env,
            has_lifetime: AtomicBool::new(false),
            metrics,
            since: WorkersRuntime.now(),
            cutoff,
        })
    }

    /// Answers a request that the Worker sent on: a viewer's, or one for a snapshot.
    ///
    /// Each viewer's request is one poll of this, so what it does not need is in functions of their own: see `request`.
    pub(super) async fn answer(&self, request: &web_sys::Request) -> JsResult<web_sys::Response> {
        let call = ObjectCall::of(request);
        let (stream, hop) = match self.read(&call)? {
            Ok(read) => read,
            Err(refusal) => return self.refuse(refusal),
        };
        if self.has_revoked(&stream, hop.as_ref()).await? {
            return self.refuse(Refusal::NotAllowed);
        }
        if let Some(response) = self.answer_other(&call, &stream) {
            return response.await;
        }
        let visit = match self.tree.admit(hop.as_ref())? {
            Ok(visit) => visit,
            Err(elsewhere) => return Ok(elsewhere.into()),
        };
        if let Some(relay) = self.tree.relay(hop.as_ref())? {
            // Boxed: few objects are relays, and the others then need not compile it.
            let response: LocalBoxFuture<'_, _> =
                Box::pin(relay.serve(&stream, visit, Leaving::of(request)));
            return Ok(response.await?);
        }
        if !self.is_known(&stream)? {
            return self.refuse(UNKNOWN_INSTANCE);
        }
        let subscription = self.log.target().subscribe(stream.cursor).await;
        self.begin(request, &stream, subscription.map_err(to_js)?, visit)
    }

    /// Reads a request of the Worker.
    #[inline(never)]
    fn read(&self, call: &ObjectCall) -> JsResult<Result<(StreamRequest, Option<Hop>), Refusal>> {
        let stream = match StreamRequest::from_call(call) {
            Ok(stream) => stream,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let hop = call.get(HOP);
        let hop = Hop::of_viewer(hop.as_deref(), self.state.id().name().as_deref());
        let hop = hop.map_err(worker::Error::RustError)?;
        Ok(Ok((stream, hop)))
    }

    /// Answers a request for anything but a stream. Boxed: it is compiled when it is first requested.
    #[inline(never)]
    fn answer_other<'a>(
        &'a self,
        call: &ObjectCall,
        stream: &'a StreamRequest,
    ) -> Option<LocalBoxFuture<'a, JsResult<web_sys::Response>>> {
        if let Some(call) = SnapshotCall::from_call(call) {
            return Some(Box::pin(async move {
                #[cfg(feature = "index")]
                let estimate = self.estimate().await?;
                #[cfg(not(feature = "index"))]
                let estimate = None;
                let response = self.kept_snapshot.answer(&self.log, call, estimate);
                Ok(response.await?.into())
            }));
        }
        #[cfg(feature = "otlp")]
        if let Some(unfinished) = stream.otlp {
            return Some(Box::pin(async move {
                Ok(self.answer_otlp(unfinished, stream.head)?.into())
            }));
        }
        #[cfg(feature = "durable-streams")]
        if let Some(call) = &stream.durable {
            return Some(Box::pin(async move {
                let response = self.answer_durable(call, stream.head, stream.grant);
                Ok(response.await?.into())
            }));
        }
        if stream.head {
            return Some(Box::pin(self.answer_head(stream)));
        }
        None
    }

    /// Returns the response that streams a subscription.
    #[inline(never)]
    fn begin(
        &self,
        request: &web_sys::Request,
        stream: &StreamRequest,
        subscription: Subscription<SqliteEventStore<ObjectSql>>,
        visit: Visit,
    ) -> JsResult<web_sys::Response> {
        if stream.hibernates && !subscription.has_ended() {
            let generation = stream.grant.generation;
            let target = self.log.target();
            let response = self.held_streams.accept(target, subscription, generation)?;
            return Ok(response.into());
        }
        let permit = Permit::new(stream.grant, self.tree.links());
        let timer = visit.timer();
        let visit = Watched::new(visit, timer, &self.metrics, &self.cutoff);
        let leaving = Leaving::of(request);
        Ok(sse_frame_response_while(
            subscription,
            leaving,
            permit,
            visit,
        )?)
    }

    /// Returns whether there are events, or an instance whose events are expected. After a run's log was deleted,
    /// none are expected.
    fn is_known(&self, stream: &StreamRequest) -> JsResult<bool> {
        let is_empty = self.log.target().store().is_empty().map_err(to_js)?;
        Ok(!is_empty || (stream.expected && !self.log.is_deleted().map_err(to_js)?))
    }

    fn refuse(&self, refusal: Refusal) -> JsResult<web_sys::Response> {
        self.metrics.refused(refusal.status());
        Ok(refuse(refusal)?.into())
    }

    /// Answers as [`answer`](Self::answer) does, without a body and without counting a viewer.
    async fn answer_head(&self, stream: &StreamRequest) -> JsResult<web_sys::Response> {
        let target = self.log.target();
        if !self.is_known(stream)? {
            return self.refuse(UNKNOWN_INSTANCE);
        }
        let subscription = target.subscribe(stream.cursor).await.map_err(to_js)?;
        let response = match subscription.has_ended() {
            true => response::ended()?,
            false => response::left_out()?,
        };
        Ok(response.into())
    }

    /// Opens the log for a lifetime of the run, and remembers that one is under way, unless it is over.
    pub(super) fn open(&self, generation: Option<u64>) -> Result<Opened, JsValue> {
        let opened = self.log.open(generation, WorkersRuntime.now());
        let opened = opened.map_err(to_js)?;
        if opened.goes_on() {
            self.has_lifetime.store(true, Ordering::Relaxed);
        }
        Ok(opened)
    }

    /// Appends facts of a lifetime. Answers at once, since SQLite does: a promise of Rust's costs as much as the
    /// insert. The runtime holds every answer back until all earlier writes are durable.
    pub(super) fn append(
        self: Rc<Self>,
        generation: u64,
        run: u32,
        batch: &[u8],
    ) -> Result<JsValue, JsValue> {
        let now = || WorkersRuntime.now();
        let told = self.log.append_packed(generation, run, batch, now);
        self.finish_append(told.map_err(to_js)?)
    }

    /// Finishes an append: delivers to viewers, and sets the alarm of a log that has ended.
    pub(super) fn finish_append(self: Rc<Self>, told: Told) -> Result<JsValue, JsValue> {
        let Told::Stored(stored) = told else {
            return Ok(JsValue::from_f64(STALE));
        };
        self.kept_snapshot.appended();
        self.held_streams.deliver(self.log.target());
        let is_closed = self.log.target().store().is_closed();
        let is_closed = is_closed.map_err(to_js)?;
        let answer = JsValue::from_f64(stored as f64);
        #[cfg(feature = "index")]
        if stored > 0 {
            self.index_later(is_closed);
        }
        if !is_closed {
            return Ok(answer);
        }
        let object = Rc::clone(&self);
        let end = Box::pin(async move {
            self.expire_later(stored > 0).await?;
            Ok(answer)
        });
        Ok(js::promise(object.answer_of(end)).into())
    }

    /// Resolves to the answer to a call. While that waits, it is noticed if the object is gone, and the call ends.
    ///
    /// It takes a boxed future, so that it is compiled once.
    pub(super) fn answer_of(
        &self,
        answer: Answering,
    ) -> impl Future<Output = Result<JsValue, JsValue>> + use<> {
        let answer = self.cutoff.unless_gone(answer);
        answer.map(|answer| answer.unwrap_or_else(|| Err(Because::Gone.reason().into())))
    }

    /// Carries out a command of the Worker, and returns a
    /// [`LogAnswer`](crate::cloudflare::command::LogAnswer) as JSON.
    pub(super) async fn obey(self: &Rc<Self>, command: &LogCommand) -> Result<JsValue, JsValue> {
        if let LogCommand::Links { revoke } = command {
            let links: LocalBoxFuture<'_, _> = Box::pin(self.links(*revoke));
            return Ok(links.await?.to_string().into());
        }
        #[cfg(feature = "index")]
        if let LogCommand::Announce { tags, .. } = command {
            self.index_tags(tags).await?;
        }
        let answer = self.log.obey(command, WorkersRuntime.now());
        let answer = answer.map_err(to_js)?;
        let json = serde_json::to_string(&answer).map_err(|error| error.to_string())?;
        if *command == LogCommand::Delete {
            // Before the delivery: nobody must get a position in a log that is gone.
            self.kept_snapshot.clear();
            self.cutoff.cut();
            self.held_streams.cut_all(self.log.target());
        }
        if answer.changed {
            // A deleted log must not stay in memory, either.
            self.kept_snapshot.clear();
            self.held_streams.deliver(self.log.target());
            let after = self.log.state().map_err(to_js)?;
            if after.empty {
                self.clear().await?;
                #[cfg(feature = "index")]
                self.index_removed().await?;
            } else if after.ended {
                self.expire_later(true).await?;
            }
            #[cfg(feature = "index")]
            self.index_later(after.ended || after.empty);
        }
        Ok(json.into())
    }

    /// Backs the RPC method `stats`: returns [`LogStats`] as JSON.
    pub(super) fn stats(&self) -> Result<JsValue, JsValue> {
        let state = self.log.state().map_err(to_js)?;
        let store = self.log.target().store();
        let span = store.span().map_err(to_js)?;
        let head = store.head().map_err(to_js)?;
        let (here, relayed) = self.tree.viewers();
        let hibernating = self.held_streams.len(self.log.target()) as u64;
        let mut counts = self.metrics.counts();
        counts.viewers = here + hibernating;
        let stats = LogStats {
            events: span.map_or(0, |(oldest, newest)| newest.get() - oldest.get() + 1),
            head,
            run: state.run,
            ended: state.ended,
            newest: state.newest.map(clock::milliseconds),
            database_bytes: self.log.target().store().sql().database_size(),
            hibernating,
            relayed,
            since: clock::milliseconds(self.since),
            counts,
        };
        let json = serde_json::to_string(&stats).map_err(|error| error.to_string())?;
        Ok(json.into())
    }
}
