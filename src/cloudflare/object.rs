//! `WorkflowEvents`: the Durable Object that keeps a run's events and streams them.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloudflare_workflows::__private::{hold_sockets, message};
use cloudflare_workflows::{Runtime, WorkersRuntime, Workflow};
use futures_util::future::LocalBoxFuture;
use js_sys::Promise;
use wasm_bindgen::prelude::*;
use worker::Response;
use worker::worker_sys::web_sys;

use super::command::LogCommand;
use super::hibernation::HibernatingViewers;
use super::leaving::Leaving;
use super::log::{WorkflowLog, WorkflowLogError};
use super::relay::{Hop, Tree};
use super::response::{self, sse_frame_response_while};
use super::serve::{self, Viewer};
use super::socket::BROKEN;
use super::sql::{ObjectSql, ObjectSqlError};
use super::{js, remote_log, settle};
use crate::store::SqliteError;
use crate::workflow::Told;

/// How a `WorkflowEvents` object behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkflowEventsConfig {
    /// How long the log of a finished run is kept. Then its events are deleted and its id is unknown
    /// again. `None`: for ever. Default: 7 days.
    pub retention: Option<Duration>,
    /// How long one small row of a deleted log is kept, from when it was deleted: as long as that, a
    /// further run of the same instance goes on with its ids and the number of its runs, so that a
    /// client which comes back with an id of the deleted log is told that it missed something
    /// (`event: reset`). Then the object's storage is deleted. Default: 30 days, as long as the
    /// platform knows an instance at most.
    pub ids_retention: Duration,
    /// Names of workflows and of their bindings. Of a run of one of these the object itself asks the
    /// platform, some seconds after a lifetime that did not say how the run goes on, whether the run
    /// has ended, and tells the viewers. Default: none, and the next viewer's request has it asked
    /// for, where [`with_workflow`](crate::cloudflare::events::WorkflowEventsNamespace::with_workflow) says so.
    pub workflows: &'static [(&'static str, &'static str)],
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl WorkflowEventsConfig {
    /// With the defaults of the fields.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            retention: Some(DAY.saturating_mul(7)),
            ids_retention: DAY.saturating_mul(30),
            workflows: &[],
        }
    }

    /// With the names and bindings of [`workflows`](Self::workflows), as in `wrangler.toml`.
    ///
    /// ```
    /// # #[cfg(feature = "cloudflare")]
    /// # {
    /// use ssetarget::cloudflare::WorkflowEventsConfig;
    ///
    /// const CONFIG: WorkflowEventsConfig =
    ///     WorkflowEventsConfig::new().workflows(&[("order", "ORDER")]);
    /// # }
    /// ```
    #[must_use]
    pub const fn workflows(mut self, workflows: &'static [(&'static str, &'static str)]) -> Self {
        self.workflows = workflows;
        self
    }

    /// With another [`retention`](Self::retention). Default: 7 days.
    #[must_use]
    pub const fn retention(mut self, retention: Duration) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Keeps the log of a finished run for ever. Default: [`retention`](Self::retention).
    #[must_use]
    pub const fn keep_for_ever(mut self) -> Self {
        self.retention = None;
        self
    }

    /// With another [`ids_retention`](Self::ids_retention). Default: 30 days.
    #[must_use]
    pub const fn ids_retention(mut self, retention: Duration) -> Self {
        self.ids_retention = retention;
        self
    }
}

impl Default for WorkflowEventsConfig {
    fn default() -> Self {
        Self::new()
    }
}

type Log = WorkflowLog<ObjectSql>;

/// Returns how many facts were new, or a promise of it; [`STALE`] if they were refused.
type Append = Box<dyn FnMut(f64, u32, Vec<u8>) -> Result<JsValue, JsValue>>;

/// What an append answers that was refused as stale.
pub(super) const STALE: f64 = -1.0;

/// The object behind an exported class. Clones are the same object.
#[derive(Clone)]
pub struct WorkflowEventsObject {
    object: Option<Rc<Object>>,
}

struct Object {
    state: worker::durable::State,
    log: Log,
    hibernating: Rc<HibernatingViewers>,
    tree: Tree,
    config: WorkflowEventsConfig,
    env: worker::Env,
    /// A lifetime is under way, as far as this object knows since it is in memory. Not a `Cell`, which
    /// a panic could leave half-changed as far as the compiler knows.
    has_lifetime: AtomicBool,
}

impl WorkflowEventsObject {
    /// For the class's constructor. Touches no storage.
    ///
    /// # Errors
    /// When the class is not configured as one with SQLite storage.
    pub fn new(
        state: worker::worker_sys::DurableObjectState,
        env: worker::Env,
        config: WorkflowEventsConfig,
    ) -> Result<Self, JsValue> {
        let state = worker::durable::State::from(state);
        hold_sockets(&state.as_raw().into(), BROKEN)?;
        let sql = ObjectSql::new(&state)?;
        Ok(Self {
            object: Some(Rc::new(Object {
                hibernating: HibernatingViewers::new(&state),
                state,
                log: WorkflowLog::new(sql),
                tree: Tree::new(env.clone()),
                config,
                env,
                has_lifetime: AtomicBool::new(false),
            })),
        })
    }

    /// An object that is only there to find its class.
    #[must_use]
    pub fn dummy() -> Self {
        Self { object: None }
    }

    /// The runtime's `ctx`, which test tools look for on instances.
    #[must_use]
    pub fn ctx(&self) -> JsValue {
        self.object
            .as_ref()
            .map_or(JsValue::UNDEFINED, |object| object.state.as_raw().into())
    }

    /// For the class's `fetch`: streams events. Cannot append, whatever the request is.
    pub fn fetch(&self, request: web_sys::Request) -> Promise {
        self.with(async move |object| {
            let response = object.fetch(&request).await.map_err(JsValue::from)?;
            Ok(web_sys::Response::from(response).into())
        })
    }

    /// For the class's `alarm`: the log's time is over, or the platform is to be asked how the run
    /// is.
    pub fn alarm(&self) -> Promise {
        self.with(async move |object| {
            if object.was_for_settling().await? {
                return Ok(JsValue::UNDEFINED);
            }
            object.expire().await.map_err(JsValue::from)?;
            let settled: LocalBoxFuture<'_, _> = Box::pin(object.settle());
            settled.await.map_err(JsValue::from)?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// For the class's `enter`, which only the Worker's own code can call, by RPC: functions that
    /// append and that ask for the run's end. Calling them any number of times belongs to this one call. With
    /// a generation the log is opened: with 0 for a lifetime's first time, else again.
    pub fn enter(&self, generation: Option<f64>) -> Promise {
        self.with(async move |object| {
            let session = js_sys::Object::new();
            let set =
                |name: &str, value: &JsValue| js_sys::Reflect::set(&session, &name.into(), value);
            if let Some(generation) = generation {
                let generation = Some(to_generation(generation)).filter(|number| *number > 0);
                let opened = object.log.open(generation, WorkersRuntime.now());
                let opened = opened.map_err(to_error)?;
                object.has_lifetime.store(true, Ordering::Relaxed);
                let json = serde_json::to_string(&opened).map_err(|error| error.to_string())?;
                set("opened", &json.into())?;
            }
            let settle = {
                let object = Rc::clone(&object);
                move || -> JsValue {
                    let object = Rc::clone(&object);
                    js::promise(async move {
                        object.has_lifetime.store(false, Ordering::Relaxed);
                        object.settle_later().await?;
                        Ok(JsValue::UNDEFINED)
                    })
                    .into()
                }
            };
            let settle =
                Closure::wrap_assert_unwind_safe(Box::new(settle) as Box<dyn FnMut() -> JsValue>);
            let append = move |generation, run, batch: Vec<u8>| {
                Rc::clone(&object).append(to_generation(generation), run, &batch)
            };
            let append = Closure::wrap_assert_unwind_safe(Box::new(append) as Append);
            // They live as long as JavaScript, and through it the caller, holds them.
            set("append", &append.into_js_value())?;
            set("settle", &settle.into_js_value())?;
            Ok(session.into())
        })
    }

    /// For the class's `obey`, which only the Worker's own code can call, by RPC: does a
    /// [`LogCommand`] and answers with a [`LogAnswer`](crate::cloudflare::command::LogAnswer), both as JSON.
    pub fn obey(&self, command: String) -> Promise {
        self.with(async move |object| {
            let command: LogCommand =
                serde_json::from_str(&command).map_err(|error| error.to_string())?;
            let obeyed: LocalBoxFuture<'_, _> = Box::pin(object.obey(&command));
            obeyed.await
        })
    }

    /// For the class's `tell`, which only the Worker's own code can call, by RPC: appends facts to
    /// the latest run from outside the workflow, and answers how many were new.
    pub fn tell(&self, batch: Vec<u8>) -> Promise {
        self.with(async move |object| {
            let told = object.log.tell_packed(&batch).map_err(to_error)?;
            object.told(told)
        })
    }

    /// For the class's `webSocketMessage`.
    pub fn web_socket_message(&self, socket: JsValue, message: &JsValue) {
        if let Some(object) = &self.object {
            let target = object.log.target();
            let viewers = &object.hibernating;
            viewers.acknowledged(target, &socket.unchecked_into(), message);
        }
    }

    /// For the class's `webSocketClose` and `webSocketError`.
    pub fn web_socket_gone(&self, socket: JsValue) {
        if let Some(object) = &self.object {
            object.hibernating.left(&socket.unchecked_into());
        }
    }

    /// For the class's `follow`, which only objects of the class call, by RPC, with what the one that
    /// they call is: functions that read its log, see [`remote_log`].
    pub fn follow(&self, hop: String) -> Promise {
        self.with(async move |object| {
            let hop = Hop::from_text(&hop)?;
            let crowd = object.tree.crowd();
            match object.tree.relay(Some(&hop))? {
                Some(relay) => remote_log::session(relay.target(), crowd, hop.follower),
                None => remote_log::session(object.log.target(), crowd, hop.follower),
            }
        })
    }

    /// For tests: who watches, as JSON.
    #[must_use]
    pub fn watched(&self) -> JsValue {
        let watched = self.object.as_ref().map(|object| object.tree.watched());
        watched.unwrap_or_default()
    }

    fn with(
        &self,
        method: impl AsyncFnOnce(Rc<Object>) -> Result<JsValue, JsValue> + 'static,
    ) -> Promise {
        let object = self.object.clone();
        js::promise(async move { method(object.ok_or("this object has no state")?).await })
    }
}

impl Object {
    async fn fetch(&self, request: &web_sys::Request) -> worker::Result<Response> {
        let viewer = match Viewer::from_object_request(request) {
            Ok(viewer) => viewer,
            Err(refusal) => return serve::refuse(refusal),
        };
        if viewer.head {
            return self.head(&viewer).await;
        }
        let hop = Hop::from_request(request)?;
        let visit = match self.tree.admit(hop.as_ref())? {
            Ok(visit) => visit,
            Err(elsewhere) => return Ok(elsewhere),
        };
        if let Some(relay) = self.tree.relay(hop.as_ref())? {
            // Behind a pointer: few objects are relays, and the others then need not compile it.
            let response: LocalBoxFuture<'_, _> =
                Box::pin(relay.serve(&viewer, visit, Leaving::of(request)));
            return response.await;
        }
        let target = self.log.target();
        let is_empty = target.store().is_empty().map_err(to_worker)?;
        if is_empty && !viewer.expected {
            return serve::refuse(serve::UNKNOWN_INSTANCE);
        }
        let subscription = target.subscribe(viewer.cursor).await.map_err(to_worker)?;
        if viewer.hibernates && !subscription.has_ended() {
            return self.hibernating.accept(target, subscription);
        }
        sse_frame_response_while(subscription, visit.timer(), Leaving::of(request), visit)
    }

    /// What [`fetch`](Self::fetch) answers, without a body and without a viewer.
    async fn head(&self, viewer: &Viewer) -> worker::Result<Response> {
        let target = self.log.target();
        let is_empty = target.store().is_empty().map_err(to_worker)?;
        if is_empty && !viewer.expected {
            return serve::refuse(serve::UNKNOWN_INSTANCE);
        }
        let subscription = target.subscribe(viewer.cursor).await.map_err(to_worker)?;
        match subscription.has_ended() {
            true => response::ended(),
            false => response::left_out(),
        }
    }

    /// Answers at once, since SQLite does: a promise of Rust's costs as much as the insert. The
    /// runtime holds every answer back until what was stored before it is durable.
    fn append(self: Rc<Self>, generation: u64, run: u32, batch: &[u8]) -> Result<JsValue, JsValue> {
        let now = || WorkersRuntime.now();
        let told = self.log.append_packed(generation, run, batch, now);
        self.told(told.map_err(to_error)?)
    }

    /// What comes after an append: viewers get it, and a log that has ended gets its alarm.
    fn told(self: Rc<Self>, told: Told) -> Result<JsValue, JsValue> {
        let Told::Stored(stored) = told else {
            return Ok(JsValue::from_f64(STALE));
        };
        self.hibernating.deliver(self.log.target());
        let is_closed = self.log.target().store().is_closed();
        let answer = JsValue::from_f64(stored as f64);
        if !is_closed.map_err(|error| to_error(error.into()))? {
            return Ok(answer);
        }
        let end = js::promise(async move {
            self.expire_later(stored > 0).await?;
            Ok(answer)
        });
        Ok(end.into())
    }

    async fn obey(&self, command: &LogCommand) -> Result<JsValue, JsValue> {
        let answer = self.log.obey(command, WorkersRuntime.now());
        let answer = answer.map_err(to_error)?;
        let json = serde_json::to_string(&answer).map_err(|error| error.to_string())?;
        if answer.changed {
            self.hibernating.deliver(self.log.target());
            let after = self.log.state().map_err(to_error)?;
            if after.empty {
                self.clear().await?;
            } else if after.ended {
                self.expire_later(true).await?;
            }
        }
        Ok(json.into())
    }

    /// Whether the alarm was set to ask how the run is, and the run has ended while it went off. It
    /// must not be taken for the one that deletes the log.
    async fn was_for_settling(&self) -> worker::Result<bool> {
        let storage = self.state.storage();
        let state = self.log.state().map_err(to_error)?;
        if !state.ended || settle::Pending::due(&storage).await?.is_none() {
            return Ok(false);
        }
        settle::over(&storage).await?;
        let age = state
            .newest
            .map(|newest| WorkersRuntime.now().duration_since(newest));
        let age = age.and_then(Result::ok).unwrap_or_default();
        let Some(retention) = self.config.retention else {
            return Ok(true);
        };
        let left = retention.saturating_sub(age);
        if left < Duration::from_secs(1) {
            return Ok(false);
        }
        storage.set_alarm(left).await?;
        Ok(true)
    }

    /// An announcement was taken back: nothing of it is left in storage, if there was nothing before it.
    async fn clear(&self) -> worker::Result<()> {
        let store = self.log.target().store();
        if store.emptied().map_err(to_worker)?.is_some() {
            return self.expire().await;
        }
        self.state.storage().delete_all().await
    }

    /// Has the platform asked in some seconds how the run is, where it can be.
    async fn settle_later(&self) -> worker::Result<()> {
        let object = self.state.id().name();
        let Some(name) = object.filter(|name| self.workflow_of(name).is_some()) else {
            return Ok(());
        };
        settle::later(&self.state.storage(), &self.log, settle::Pending::new(name)).await
    }

    /// Asks the platform how the run is, if that is due.
    async fn settle(&self) -> worker::Result<()> {
        let storage = self.state.storage();
        let Some(pending) = settle::Pending::due(&storage).await? else {
            return Ok(());
        };
        let asks = self.workflow_of(&pending.object);
        let state = self.log.state().map_err(to_error)?;
        let goes_on = self.has_lifetime.load(Ordering::Relaxed) || state.ended || state.empty;
        let asks = asks.filter(|_| !goes_on);
        let Some((workflow, binding, instance)) = asks else {
            return settle::over(&storage).await;
        };
        let workflow = settle::Asked {
            binding: Workflow::from_env(&self.env, binding)?,
            name: workflow,
            instance,
        };
        if settle::settle(&self.log, &workflow).await? {
            self.hibernating.deliver(self.log.target());
            let state = self.log.state().map_err(to_error)?;
            settle::over(&storage).await?;
            return match state.empty {
                true => self.clear().await,
                false => self.expire_later(true).await,
            };
        }
        settle::later(&storage, &self.log, pending).await
    }

    /// The workflow, its binding and the instance that an object of this name is of.
    fn workflow_of<'a>(&self, object: &'a str) -> Option<(&'a str, &'static str, &'a str)> {
        let (workflow, instance) = object.split_once('/')?;
        let known = |(name, _): &&(&str, &str)| *name == workflow;
        let (_, binding) = self.config.workflows.iter().find(known)?;
        Some((workflow, *binding, instance))
    }

    /// Sets the alarm of a log that has ended. Also if it ended before, since its alarm may have
    /// been lost; but being told of its end again does not put off the alarm.
    async fn expire_later(&self, has_just_ended: bool) -> worker::Result<()> {
        let Some(retention) = self.config.retention else {
            return Ok(());
        };
        let storage = self.state.storage();
        if has_just_ended || storage.get_alarm().await?.is_none() {
            storage.set_alarm(retention).await?;
        }
        Ok(())
    }

    /// Deletes the log, and later what is left of it, unless a further run has begun since the
    /// alarm was set: then the end of that run sets another.
    async fn expire(&self) -> worker::Result<()> {
        let store = self.log.target().store();
        let storage = self.state.storage();
        if self.config.retention.is_some() && store.is_closed().map_err(to_worker)? {
            // The alarm first: a row that is left for ever is worse than an alarm too many.
            storage.set_alarm(self.config.ids_retention).await?;
            self.log.expire().map_err(to_log_error)?;
            self.hibernating.deliver(self.log.target());
            return Ok(());
        }
        let Some(emptied) = store.emptied().map_err(to_worker)? else {
            return Ok(());
        };
        let age = WorkersRuntime.now().duration_since(emptied);
        // The runtime may call again for an alarm that has done its work.
        match self
            .config
            .ids_retention
            .checked_sub(age.unwrap_or_default())
        {
            Some(rest) if !rest.is_zero() => storage.set_alarm(rest).await?,
            _ => {
                storage.delete_all().await?;
                store.forget();
                self.hibernating.deliver(self.log.target());
            }
        }
        Ok(())
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole numbers below 2^53, made from a clock; saturates"
)]
fn to_generation(number: f64) -> u64 {
    number as u64
}

pub(super) fn to_error(error: WorkflowLogError<ObjectSqlError>) -> JsValue {
    js_sys::Error::new(&cloudflare_workflows::StepError::from(error).to_string()).into()
}

fn to_worker(error: SqliteError<ObjectSqlError>) -> worker::Error {
    to_log_error(error.into())
}

fn to_log_error(error: WorkflowLogError<ObjectSqlError>) -> worker::Error {
    worker::Error::RustError(message(&to_error(error)))
}

/// Exports the Durable Object class that keeps and streams the events of workflows, under this
/// name, optionally with a [`WorkflowEventsConfig`](crate::cloudflare::object::WorkflowEventsConfig).
///
/// Bind it in `wrangler.toml` and list it under `new_sqlite_classes` of a migration.
///
/// ```ignore
/// ssetarget::export_workflow_events!(WorkflowEvents);
/// ```
#[macro_export]
macro_rules! export_workflow_events {
    ($name:ident) => {
        $crate::export_workflow_events!($name, $crate::cloudflare::WorkflowEventsConfig::new());
    };
    ($name:ident, $config:expr) => {
        const _: () = {
            use $crate::cloudflare::__private::wasm_bindgen::{self, prelude::*};
            use $crate::cloudflare::__private::{WorkflowEventsObject, js_sys, pastey, worker};

            #[wasm_bindgen(js_name = $name, wasm_bindgen = $crate::cloudflare::__private::wasm_bindgen)]
            pub struct ExportedWorkflowEvents(WorkflowEventsObject);

            #[wasm_bindgen(js_class = $name, wasm_bindgen = $crate::cloudflare::__private::wasm_bindgen)]
            impl ExportedWorkflowEvents {
                #[wasm_bindgen(constructor)]
                pub fn new(
                    state: worker::worker_sys::DurableObjectState,
                    env: worker::Env,
                ) -> Result<Self, JsValue> {
                    WorkflowEventsObject::new(state, env, $config).map(Self)
                }

                #[wasm_bindgen(getter)]
                pub fn ctx(&self) -> JsValue {
                    self.0.ctx()
                }

                pub fn fetch(&self, request: worker::web_sys::Request) -> js_sys::Promise {
                    self.0.fetch(request)
                }

                pub fn alarm(&self) -> js_sys::Promise {
                    self.0.alarm()
                }

                pub fn enter(&self, generation: Option<f64>) -> js_sys::Promise {
                    self.0.enter(generation)
                }

                pub fn obey(&self, command: String) -> js_sys::Promise {
                    self.0.obey(command)
                }

                pub fn tell(&self, batch: Vec<u8>) -> js_sys::Promise {
                    self.0.tell(batch)
                }

                #[wasm_bindgen(js_name = webSocketMessage)]
                pub fn web_socket_message(&self, socket: JsValue, message: JsValue) {
                    self.0.web_socket_message(socket, &message);
                }

                #[wasm_bindgen(js_name = webSocketClose)]
                pub fn web_socket_close(&self, socket: JsValue) {
                    self.0.web_socket_gone(socket);
                }

                #[wasm_bindgen(js_name = webSocketError)]
                pub fn web_socket_error(&self, socket: JsValue) {
                    self.0.web_socket_gone(socket);
                }

                pub fn follow(&self, hop: String) -> js_sys::Promise {
                    self.0.follow(hop)
                }
            }

            // A crate's exported functions need names of their own.
            pastey::paste! {
                #[wasm_bindgen(start, wasm_bindgen = $crate::cloudflare::__private::wasm_bindgen)]
                pub fn [<extend_ $name:snake>]() -> Result<(), JsValue> {
                    let dummy = ExportedWorkflowEvents(WorkflowEventsObject::dummy());
                    $crate::cloudflare::__private::extend_durable_object(&dummy.into())
                }
            }
        };
    };
}
