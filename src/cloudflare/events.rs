//! The way to the `WorkflowEvents` objects: for viewers to read, for workflows to append.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use cloudflare_workflows::__private::{message, sleep};
use cloudflare_workflows::{
    BatchCreateOptions, BatchCreated, CreateOptions, InstanceState, InstanceStatus, RefusedRun,
    RestartFrom, Runtime, StepError, TerminateOptions, WorkersRuntime, Workflow, WorkflowError,
    WorkflowEvent, WorkflowInstance, WorkflowStep,
};
use futures_util::future::{LocalBoxFuture, join_all};
use js_sys::{Function, Uint8Array};
use wasm_bindgen::prelude::*;
use worker::durable::ObjectNamespace;
use worker::{Env, Response, web_sys};

use super::command::{InstanceEnd, LogAnswer, LogCommand};
use super::fan_out::FanOut;
use super::object::STALE;
use super::packed::pack_facts;
use super::serve::{self, ObjectRequest, Transport};
use super::{js, settle};
use crate::clock;
use crate::event::NewEvent;
use crate::workflow::{
    BatchedDispatch, DispatchConfig, FactLog, Opened, Told, WorkflowEventStep, workflow_ended,
    workflow_started,
};

/// The step object of a workflow whose events go to a `WorkflowEvents` object.
pub type WorkflowRunStep =
    WorkflowEventStep<WorkflowStep, BatchedDispatch<ObjectFactLog, WorkersRuntime>>;

/// The `WorkflowEvents` objects of one workflow: one object for each instance.
///
/// Objects are addressed by workflow and instance, so that instances of two workflows may have
/// the same id.
#[derive(Clone, Debug)]
pub struct WorkflowEventsNamespace {
    namespace: ObjectNamespace,
    binding: String,
    workflow_name: String,
    workflow: Option<Workflow>,
    asks_for_unknown: bool,
    transport: Transport,
    fan_out: Option<FanOut>,
}

impl WorkflowEventsNamespace {
    /// The objects behind the binding `binding` for the workflow of this name: the `name` that
    /// it has in `wrangler.toml`, which a run gets as [`WorkflowEvent::workflow_name`]. Who reads
    /// must give the same name as who writes: it is part of the objects' addresses.
    ///
    /// # Errors
    /// When there is no such binding, with a message that says what to write into
    /// `wrangler.toml`.
    pub fn from_env(
        env: &Env,
        binding: &str,
        workflow_name: impl Into<String>,
    ) -> worker::Result<Self> {
        let namespace = env.durable_object(binding).map_err(|error| {
            worker::Error::BindingError(format!(
                "there is no Durable Object binding {binding:?} ({error}): add \
                 [[durable_objects.bindings]] with name = {binding:?} and class_name = \
                 \"WorkflowEvents\" to wrangler.toml"
            ))
        })?;
        Ok(Self {
            namespace,
            binding: binding.to_owned(),
            workflow_name: workflow_name.into(),
            workflow: None,
            asks_for_unknown: false,
            transport: Transport::default(),
            fan_out: Some(FanOut::new()),
        })
    }

    /// Creates an instance whose events can be watched at once: its `started` is stored before
    /// it is created, so that a viewer who follows is never answered with `404`. Where the log still has
    /// events of an earlier instance with this id, the new one's begin behind them, announced by
    /// `restarted`. One that is not created leaves nothing behind.
    ///
    /// An object that cannot be reached is no error here: the run dispatches the event itself. If the
    /// Worker ends before the instance is created, viewers of the announcement learn it within a
    /// minute, see [`with_workflow`](Self::with_workflow).
    ///
    /// # Errors
    /// As [`Workflow::create`].
    pub async fn create(
        &self,
        workflow: &Workflow,
        options: CreateOptions,
    ) -> Result<WorkflowInstance, WorkflowError> {
        let (id, options) = options.with_id()?;
        let announced = self.announce(&id).await;
        let created = workflow.create(options).await;
        self.announced(&id, announced, created.is_ok()).await;
        created
    }

    /// As [`create`](Self::create), for a batch: each of its instances costs a subrequest, and a
    /// second one where the log has events already or the instance is not created.
    ///
    /// # Errors
    /// As [`Workflow::create_batch`].
    pub async fn create_batch(
        &self,
        workflow: &Workflow,
        options: BatchCreateOptions,
    ) -> Result<BatchCreated, WorkflowError> {
        let (ids, options) = options.with_ids()?;
        let announced = join_all(ids.iter().map(|id| self.announce(id))).await;
        let batch = workflow.create_batch(options).await;
        let created: HashSet<String> = match &batch {
            Ok(batch) => batch.created.iter().map(WorkflowInstance::id).collect(),
            Err(_) => HashSet::new(),
        };
        let announced = ids.iter().zip(announced);
        let told = announced.map(|(id, announced)| {
            let is_created = created.contains(id);
            self.announced(id, announced, is_created)
        });
        join_all(told).await;
        // Those whose ids the platform made up.
        let new = created.iter().filter(|id| !ids.contains(id));
        let told = new.map(async |id| {
            let announced = self.announce(id).await;
            self.announced(id, announced, true).await;
        });
        join_all(told).await;
        batch
    }

    /// Before the instance can run, so that no event of it has an earlier time. An id that no instance
    /// can have has no log.
    async fn announce(&self, id: &str) -> Option<(LogAnswer, SystemTime)> {
        if !is_new_id(id) {
            return None;
        }
        let now = WorkersRuntime.now();
        let command = LogCommand::Announce {
            workflow: self.workflow_name.clone(),
            time: clock::milliseconds(now),
        };
        match self.obey(id, &command).await {
            Ok(answer) => Some((answer, now)),
            Err(error) => {
                worker::console_warn!("ssetarget: a new instance is not announced: {error}");
                None
            }
        }
    }

    /// The platform has answered to what was announced.
    async fn announced(
        &self,
        id: &str,
        announced: Option<(LogAnswer, SystemTime)>,
        is_created: bool,
    ) {
        let Some((answer, time)) = announced else {
            return;
        };
        let command = match is_created {
            true if answer.restarting => self.confirm(&answer, time),
            true => return,
            false if answer.restarting => LogCommand::CancelRestart,
            false if answer.changed => LogCommand::TakeBack,
            false => return,
        };
        if let Err(error) = self.obey(id, &command).await {
            worker::console_warn!("ssetarget: whether an instance is new is not told: {error}");
        }
    }

    fn confirm(&self, began: &LogAnswer, time: SystemTime) -> LogCommand {
        LogCommand::ConfirmRestart {
            stood: (began.state.run, began.state.generation),
            workflow: self.workflow_name.clone(),
            time: clock::milliseconds(time),
        }
    }

    /// Restarts an instance, from a step or from the beginning, and tells its viewers: the event
    /// `restarted` and the new run's `started` are stored before this returns, and nothing of the run
    /// before comes after them. Until then what the new run tells is put off. A restart by
    /// [`WorkflowInstance::restart`] alone is noticed too, when a step runs its code, or when the
    /// workflow waits for some seconds.
    ///
    /// # Errors
    /// As [`WorkflowInstance::restart_from`]. That the object cannot be reached is no error.
    pub async fn restart(
        &self,
        instance: &WorkflowInstance,
        from: Option<RestartFrom>,
    ) -> Result<(), WorkflowError> {
        let id = instance.id();
        let began = self.obey(&id, &LogCommand::BeginRestart).await;
        let now = WorkersRuntime.now();
        let restarted = match from {
            None => instance.restart().await,
            Some(step) => instance.restart_from(step).await,
        };
        let told = async {
            let command = match &restarted {
                Ok(()) => self.confirm(&began?, now),
                Err(_) => LogCommand::CancelRestart,
            };
            self.obey(&id, &command).await
        };
        if let Err(error) = told.await {
            worker::console_warn!("ssetarget: viewers are not told of a restart: {error}");
        }
        restarted
    }

    /// Terminates an instance and tells its viewers: the run has `failed`, and streams end.
    /// [`WorkflowInstance::terminate`] alone tells nobody, since the workflow's code does not run
    /// any more; [`with_workflow`](Self::with_workflow) makes up for that, and for instances that
    /// are terminated from outside the Worker.
    ///
    /// # Errors
    /// As [`WorkflowInstance::terminate`]. That the object cannot be reached is no error.
    pub async fn terminate(
        &self,
        instance: &WorkflowInstance,
        options: TerminateOptions,
    ) -> Result<(), WorkflowError> {
        instance.terminate_with(options).await?;
        let command = LogCommand::Settle {
            stood: None,
            workflow: self.workflow_name.clone(),
            end: InstanceEnd::Terminated,
            platform: Vec::new(),
        };
        if let Err(error) = self.obey(&instance.id(), &command).await {
            worker::console_warn!("ssetarget: viewers are not told of a termination: {error}");
        }
        Ok(())
    }

    /// Tells viewers that a run failed before its own code began: for
    /// [`WorkflowEntrypoint::refused`](cloudflare_workflows::WorkflowEntrypoint::refused).
    ///
    /// # Errors
    /// When the object cannot be reached.
    pub async fn tell_refused(&self, run: &RefusedRun, error: &StepError) -> worker::Result<()> {
        let now = WorkersRuntime.now();
        let started = workflow_started(&self.workflow_name, now);
        let ended = workflow_ended(&self.workflow_name, Err(error.message()), now);
        let facts = [started, ended].into_iter().collect::<Result<Vec<_>, _>>();
        let facts = facts.map_err(|error| worker::Error::RustError(error.to_string()))?;
        self.append(&run.instance_id, &facts).await.map(drop)
    }

    /// Appends events to the latest run of an instance from outside its workflow, in one call, and
    /// returns how many were new. Each needs a [key](NewEvent::with_key), which no fact of the run itself
    /// has. A run that has ended takes none.
    ///
    /// # Errors
    /// When the object cannot be reached, or an event cannot be stored. Then none was, or the answer
    /// was lost.
    pub async fn append(&self, instance_id: &str, events: &[NewEvent]) -> worker::Result<usize> {
        let stub: js::EventsStub = self.stub(instance_id)?.into_rpc();
        let batch = Uint8Array::from(pack_facts(events).as_slice());
        let stored = stub.tell(&batch).await?;
        Ok(stored.as_f64().map_or(0, count))
    }

    /// Has the log of an instance do something, in one call.
    async fn obey(&self, instance_id: &str, command: &LogCommand) -> Result<LogAnswer, String> {
        let command = serde_json::to_string(command).map_err(|error| error.to_string())?;
        let answer = async {
            let stub: js::EventsStub = self.stub(instance_id)?.into_rpc();
            stub.obey(&command).await
        };
        let answer = answer.await.map_err(|error| message(&error))?;
        serde_json::from_str(&answer.as_string().unwrap_or_default())
            .map_err(|error| format!("the object's answer cannot be read: {error}"))
    }

    /// Whether the instance has events.
    ///
    /// # Errors
    /// When the object cannot be reached.
    pub async fn exists(&self, instance_id: &str) -> worker::Result<bool> {
        if !serve::is_instance_id(instance_id) {
            return Ok(false);
        }
        let request = ObjectRequest::head();
        let response = self.fetch(&self.object_name(instance_id), &request).await?;
        Ok([200, 204].contains(&response.status_code()))
    }

    /// Asks this binding how an instance is whenever a viewer opens its stream, so that a run
    /// that is over without having said so gets its last event and the stream ends: one that was
    /// terminated, that failed before its code ran, or whose log could not be reached at its end. An
    /// instance that the platform does not know half a minute later is gone. Holds back no byte.
    /// Costs one call to the binding for each stream. Default: it is not asked.
    #[must_use]
    pub fn with_workflow(mut self, workflow: Workflow) -> Self {
        self.workflow = Some(workflow);
        self
    }

    /// Also asks the binding of [`with_workflow`](Self::with_workflow) about instances that have
    /// no events, so that one that was not made by [`create`](Self::create) and has dispatched
    /// nothing yet is waited for and not answered with `404`. Default: it is not asked, and
    /// unknown ids cost the platform's engine nothing.
    #[must_use]
    pub fn ask_for_unknown(mut self) -> Self {
        self.asks_for_unknown = true;
        self
    }

    /// With another way from the object to its viewers. Default: [`Transport::default`].
    #[must_use]
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// When the viewers of a run are more than one object serves, further ones are served by relays:
    /// objects of the same class, which get the events from the run's own, or from other relays, and
    /// store nothing. Only where the transport is [`Transport::Direct`]. What viewers get is the same.
    /// Each relay that is watched is in memory,
    /// and charged, like the run's own object. `None`: the run's object serves all.
    ///
    /// Give all Workers that serve a run the same. The binding must have the same name in the Worker
    /// that has the class, else its objects serve all by themselves. Default: [`FanOut::new`].
    #[must_use]
    pub fn fan_out(mut self, fan_out: impl Into<Option<FanOut>>) -> Self {
        self.fan_out = fan_out.into();
        self
    }

    /// Wraps the step object of a run, so that what its steps do is dispatched in batches.
    #[must_use]
    pub fn wrap<P>(&self, event: &WorkflowEvent<P>, step: WorkflowStep) -> WorkflowRunStep {
        self.wrap_with(event, step, DispatchConfig::batched())
    }

    /// As [`wrap`](Self::wrap), with another config for the dispatch.
    #[must_use]
    pub fn wrap_with<P>(
        &self,
        event: &WorkflowEvent<P>,
        step: WorkflowStep,
        config: DispatchConfig,
    ) -> WorkflowRunStep {
        let log = ObjectFactLog::new(self.clone(), event.instance_id.clone());
        let dispatch = BatchedDispatch::new(log, WorkersRuntime, config);
        WorkflowEventStep::new(step, &self.workflow_name, dispatch)
    }

    pub(super) fn is_hibernating(&self) -> bool {
        self.transport == Transport::Hibernating
    }

    /// Asks the object of this [name](Self::object_name).
    pub(super) async fn fetch(
        &self,
        name: &str,
        request: &ObjectRequest,
    ) -> worker::Result<Response> {
        let stub: js::EventsStub = self.namespace.get_by_name(name)?.into_rpc();
        let ObjectRequest {
            method,
            url,
            headers,
        } = request;
        let response = js::fetch_object(&stub, method, url, headers).await?;
        Ok(response.dyn_into::<web_sys::Response>()?.into())
    }

    pub(super) fn tree(&self) -> Option<FanOut> {
        self.fan_out
    }

    pub(super) fn binding(&self) -> &str {
        &self.binding
    }

    /// Whether there is a binding to ask how an instance is.
    pub(super) fn knows_workflow(&self) -> bool {
        self.workflow.is_some()
    }

    /// The state of an instance without events, if there is one and it is to be asked for.
    pub(super) async fn state_of_unknown(
        &self,
        instance_id: &str,
    ) -> Result<Option<InstanceState>, WorkflowError> {
        if !self.asks_for_unknown {
            return Ok(None);
        }
        let status = self.status(instance_id).await?;
        Ok(status.map(|status| status.state))
    }

    /// Ends the log of a run that is over, if its own code did not, and takes an announcement back
    /// whose instance was never created.
    pub(super) async fn settle(&self, instance_id: &str) {
        for _ in 0..2 {
            match self.settle_once(instance_id).await {
                Ok(Settled::Now) => return,
                // Perhaps it is being created.
                Ok(Settled::TooEarly) => sleep(TOO_EARLY).await,
                Err(error) => {
                    worker::console_warn!(
                        "ssetarget: whether a run has ended is not known: {error}"
                    );
                    return;
                }
            }
        }
    }

    async fn settle_once(&self, instance_id: &str) -> Result<Settled, String> {
        let Some(workflow) = &self.workflow else {
            return Ok(Settled::Now);
        };
        let end = async || {
            let end = settle::end(workflow, instance_id).await;
            end.map_err(|error| error.to_string())
        };
        let Some(ended) = end().await? else {
            return Ok(Settled::Now);
        };
        let stood = self.obey(instance_id, &LogCommand::State).await?.state;
        if stood.ended || stood.empty {
            return Ok(Settled::Now);
        }
        let platform = settle::platform_log(workflow, instance_id, &ended).await;
        // Asked again now that it is known where the log stands: the instance may have been restarted
        // in between, and that run is not over.
        let Some(end) = end().await? else {
            return Ok(Settled::Now);
        };
        let is_missing = end == InstanceEnd::Missing;
        let command = LogCommand::Settle {
            stood: Some((stood.run, stood.generation)),
            workflow: self.workflow_name.clone(),
            end,
            platform,
        };
        let answer = self.obey(instance_id, &command).await?;
        Ok(if is_missing && !answer.changed {
            Settled::TooEarly
        } else {
            Settled::Now
        })
    }

    async fn status(&self, instance_id: &str) -> Result<Option<AnyStatus>, WorkflowError> {
        let Some(workflow) = &self.workflow else {
            return Ok(None);
        };
        let status = async {
            let instance = workflow.get(instance_id).await?;
            instance.status_without_output().await
        };
        match status.await {
            Ok(status) => Ok(Some(status)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn stub(&self, instance_id: &str) -> worker::Result<worker::durable::Stub> {
        self.namespace.get_by_name(&self.object_name(instance_id))
    }

    /// The name of the object that has an instance's log.
    pub(super) fn object_name(&self, instance_id: &str) -> String {
        // Workflow names have no slash, so no two pairs give one name.
        format!("{}/{instance_id}", self.workflow_name)
    }
}

/// The facts of one lifetime of an instance, at its `WorkflowEvents` object: what
/// [`WorkflowEventsNamespace::wrap`] uses. Another one that is opened for the same instance counts as
/// its next lifetime, and this one is over; from outside use [`WorkflowEventsNamespace::append`].
///
/// Appends go through a function that the object's `enter` returns, so that however many there
/// are between two waits of the workflow, they are one subrequest of the instance. The object
/// stays in memory while the function is held.
pub struct ObjectFactLog {
    events: WorkflowEventsNamespace,
    instance_id: String,
    session: RefCell<Option<Rc<Session>>>,
    calls: Cell<u32>,
}

impl ObjectFactLog {
    /// The log of this instance. Makes no call.
    #[must_use]
    pub fn new(events: WorkflowEventsNamespace, instance_id: impl Into<String>) -> Self {
        Self {
            events,
            instance_id: instance_id.into(),
            session: RefCell::default(),
            calls: Cell::new(0),
        }
    }

    /// How many subrequests were made.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.calls.get()
    }

    /// Behind a pointer, so that what is seldom needed is no part of the code that appends: the
    /// runtime optimizes functions that are called often, each as a whole.
    fn session(&self, generation: Option<f64>) -> LocalBoxFuture<'_, Result<Rc<Session>, JsValue>> {
        Box::pin(async move {
            self.calls.set(self.calls.get() + 1);
            // A stub is dead after an error, so each session gets its own.
            let stub: js::EventsStub = self.events.stub(&self.instance_id)?.into_rpc();
            let session: js::EventsSession = stub.enter(generation).await?.unchecked_into();
            let session = Rc::new(Session::new(session));
            self.release();
            *self.session.borrow_mut() = Some(Rc::clone(&session));
            Ok(session)
        })
    }

    /// The session that is held, or one that only appends.
    async fn held(&self) -> Result<Rc<Session>, JsValue> {
        let session = self.session.borrow().clone();
        match session {
            Some(session) => Ok(session),
            None => self.session(None).await,
        }
    }
}

impl FactLog for ObjectFactLog {
    type Error = String;

    async fn open(&self, generation: Option<u64>) -> Result<Opened, String> {
        let generation = to_number(generation.unwrap_or(0));
        let session = self.session(Some(generation)).await;
        let session = session.map_err(|error| message(&error))?;
        let opened = session.js.opened().ok().and_then(|json| json.as_string());
        serde_json::from_str(&opened.unwrap_or_default())
            .map_err(|error| format!("the object's answer cannot be read: {error}"))
    }

    async fn append(&self, generation: u64, run: u32, batch: &[NewEvent]) -> Result<Told, String> {
        let appended = async {
            let session = self.held().await?;
            session
                .append(to_number(generation), run, &pack_facts(batch))
                .await
        };
        let told = appended.await.map_err(|error| message(&error))?;
        Ok(if told == STALE {
            Told::Stale
        } else {
            Told::Stored(count(told))
        })
    }

    async fn settle(&self) -> Result<(), String> {
        let settled = async { self.held().await?.js.settle().await };
        settled.await.map(drop).map_err(|error| message(&error))
    }

    fn release(&self) {
        if let Some(session) = self.session.borrow_mut().take() {
            // Of no use if it fails: the runtime releases what a lifetime held.
            let _ = js::dispose(&session.js);
        }
    }
}

/// What the object's `enter` returned, and what waits for its answers.
struct Session {
    js: js::EventsSession,
    /// Those that no call waits with: one, unless several callers append at the same time.
    idle: RefCell<Vec<Call>>,
}

/// Waits for one call after another. A future and its closures for each call, as an `async fn`
/// makes them, cost more than what the caller does.
struct Call {
    answer: Rc<Answer>,
    /// Freed with the last that holds it: the call, or JavaScript if the call was given up.
    done: Function,
}

#[derive(Default)]
struct Answer {
    /// A number, or what was thrown.
    came: Cell<Option<JsValue>>,
    waker: Cell<Option<Waker>>,
}

impl Session {
    fn new(js: js::EventsSession) -> Self {
        Self {
            js,
            idle: RefCell::default(),
        }
    }

    /// Returns the number that the object answered.
    async fn append(&self, generation: f64, run: u32, batch: &[u8]) -> Result<f64, JsValue> {
        let call = self.idle.borrow_mut().pop().unwrap_or_else(Call::new);
        js::append_facts(
            &self.js,
            generation,
            run,
            &Uint8Array::from(batch),
            &call.done,
        )?;
        let answer = poll_fn(|context| call.answer.poll(context)).await;
        self.idle.borrow_mut().push(call);
        answer.as_f64().ok_or(answer)
    }
}

impl Call {
    fn new() -> Self {
        let answer = Rc::new(Answer::default());
        let done = {
            let answer = Rc::clone(&answer);
            move |thrown| {
                answer.came.set(Some(thrown));
                if let Some(waker) = answer.waker.take() {
                    waker.wake();
                }
            }
        };
        let done = Closure::wrap_assert_unwind_safe(Box::new(done) as Box<dyn FnMut(JsValue)>);
        Self {
            answer,
            done: done.into_js_value().unchecked_into(),
        }
    }
}

impl Answer {
    fn poll(&self, context: &Context<'_>) -> Poll<JsValue> {
        if let Some(came) = self.came.take() {
            return Poll::Ready(came);
        }
        self.waker.set(Some(context.waker().clone()));
        Poll::Pending
    }
}

/// What became of asking how a run has ended.
enum Settled {
    Now,
    TooEarly,
}

/// As long as the platform may not know an instance that is being created, and a little longer.
const TOO_EARLY: Duration = Duration::from_secs(32);

#[allow(clippy::cast_precision_loss, reason = "below 2^53, as ids are")]
fn to_number(generation: u64) -> f64 {
    generation as f64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count there; saturates"
)]
fn count(number: f64) -> usize {
    number as usize
}

/// What the platform takes for the id of a new instance.
fn is_new_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    (1..=100).contains(&id.len()) && !id.starts_with('-') && id.bytes().all(allowed)
}

type AnyStatus = InstanceStatus<()>;
