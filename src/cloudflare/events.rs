//! The way to the `WorkflowEvents` objects: for viewers to read, for workflows to append.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use futures_util::future::{LocalBoxFuture, join_all};
use js_sys::{Function, Uint8Array};
use wasm_bindgen::prelude::*;
use worker::durable::ObjectNamespace;
use worker::{Env, Response, web_sys};

use super::binding::{
    InstanceState, InstanceStatus, RestartFrom, TerminateOptions, Workflow, WorkflowError,
    WorkflowInstance,
};
use super::convert::message;
use super::create::{BatchCreateOptions, BatchCreated, CreateOptions};
use super::entrypoint::WorkflowEvent;
use super::js;
use super::runtime::WorkersRuntime;
use super::serve::{self, ObjectRequest, Transport};
use super::step::WorkflowStep;
use crate::event::{InvalidEvent, NewEvent};
use crate::fan_out::FanOut;
use crate::workflow::{
    BatchedDispatch, DispatchConfig, FactLog, OpenedRun, Runtime, WorkflowEventStep, pack_facts,
    workflow_ended, workflow_started,
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
    /// this returns, so that a viewer who follows is not answered with `404`.
    ///
    /// An object that cannot be reached is no error here: the run dispatches the event itself.
    ///
    /// # Errors
    /// As [`Workflow::create`].
    pub async fn create(
        &self,
        workflow: &Workflow,
        options: CreateOptions,
    ) -> Result<WorkflowInstance, WorkflowError> {
        // Before the instance can run, so that no event of it has an earlier time.
        let now = WorkersRuntime.now();
        let instance = workflow.create(options).await?;
        self.announce(&instance, now).await;
        Ok(instance)
    }

    /// As [`create`](Self::create), for a batch: each instance that is created costs a subrequest.
    ///
    /// # Errors
    /// As [`Workflow::create_batch`].
    pub async fn create_batch(
        &self,
        workflow: &Workflow,
        options: BatchCreateOptions,
    ) -> Result<BatchCreated, WorkflowError> {
        let now = WorkersRuntime.now();
        let batch = workflow.create_batch(options).await?;
        let announced = batch.created.iter();
        join_all(announced.map(|instance| self.announce(instance, now))).await;
        Ok(batch)
    }

    async fn announce(&self, instance: &WorkflowInstance, now: SystemTime) {
        let started = workflow_started(&self.workflow_name, now);
        if let Err(error) = self.tell(&instance.id(), started).await {
            worker::console_warn!("ssetarget: a new instance is not announced: {error}");
        }
    }

    /// Restarts an instance, from a step or from the beginning, and tells its viewers: the event
    /// `restarted` and the new run's `started` are stored before this returns. A restart by
    /// [`WorkflowInstance::restart`] alone is noticed too, but not before a step that had ended
    /// runs its code again.
    ///
    /// # Errors
    /// As [`WorkflowInstance::restart_from`]. That the object cannot be reached is no error.
    pub async fn restart(
        &self,
        instance: &WorkflowInstance,
        from: Option<RestartFrom>,
    ) -> Result<(), WorkflowError> {
        let log = ObjectFactLog::new(self.clone(), instance.id());
        // The run that ends is known before the next one can begin by itself.
        let session = log.session(false).await;
        let now = WorkersRuntime.now();
        match from {
            None => instance.restart().await?,
            Some(step) => instance.restart_from(step).await?,
        }
        let told = async {
            let session = session.map_err(|error| message(&error))?;
            let started = workflow_started(&self.workflow_name, now);
            let started = started.map_err(|error| error.to_string())?;
            log.append(run_of(&session) + 1, &[started]).await
        };
        if let Err(error) = told.await {
            worker::console_warn!("ssetarget: viewers are not told of a restart: {error}");
        }
        log.release();
        Ok(())
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
        let ended = workflow_ended(&self.workflow_name, Err(TERMINATED), WorkersRuntime.now());
        if let Err(error) = self.tell(&instance.id(), ended).await {
            worker::console_warn!("ssetarget: viewers are not told of a termination: {error}");
        }
        Ok(())
    }

    /// The latest run of an instance has failed before its own code began.
    pub(super) async fn tell_refusal(&self, instance_id: &str, error: &str) -> Result<(), String> {
        let now = WorkersRuntime.now();
        let started = workflow_started(&self.workflow_name, now);
        self.tell(instance_id, started).await?;
        let ended = workflow_ended(&self.workflow_name, Err(error), now);
        self.tell(instance_id, ended).await
    }

    /// Appends a fact to the latest run of an instance, past its own dispatch.
    async fn tell(
        &self,
        instance_id: &str,
        event: Result<NewEvent, InvalidEvent>,
    ) -> Result<(), String> {
        let event = event.map_err(|error| error.to_string())?;
        let log = ObjectFactLog::new(self.clone(), instance_id.to_owned());
        let session = log.session(false).await.map_err(|error| message(&error))?;
        let told = log.append(run_of(&session), &[event]).await;
        log.release();
        told
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
    /// terminated, that failed before its code ran, or whose log could not be reached at its end.
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

    /// Ends the log of a run that is over, if its own code did not. A log that has ended takes no
    /// further events, so this changes nothing there.
    pub(super) async fn settle(&self, instance_id: &str) {
        let settled = async {
            if self.ended(instance_id).await?.is_none() {
                return Ok(());
            }
            let log = ObjectFactLog::new(self.clone(), instance_id.to_owned());
            let session = log.session(false).await.map_err(|error| message(&error))?;
            // Asked again now that the log's run is known: the instance may have been restarted
            // in between, and that run is not over.
            if let Some(status) = self.ended(instance_id).await? {
                let error = status.error.map(|error| error.message);
                let outcome = match status.state {
                    InstanceState::Complete => Ok(()),
                    InstanceState::Terminated => Err(TERMINATED),
                    _ => Err(error.as_deref().unwrap_or("the workflow failed")),
                };
                let ended = workflow_ended(&self.workflow_name, outcome, WorkersRuntime.now());
                let ended = ended.map_err(|error| error.to_string())?;
                log.append(run_of(&session), &[ended]).await?;
            }
            log.release();
            Ok::<_, String>(())
        };
        if let Err(error) = settled.await {
            worker::console_warn!("ssetarget: whether a run has ended is not known: {error}");
        }
    }

    /// The status of an instance whose run is over.
    async fn ended(&self, instance_id: &str) -> Result<Option<AnyStatus>, String> {
        let status = self.status(instance_id).await;
        let status = status.map_err(|error| error.to_string())?;
        Ok(status.filter(|status| status.state.has_ended()))
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

/// The facts of one instance, at its `WorkflowEvents` object.
///
/// Appends go through a function that the object's `open` returns, so that however many there
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
    fn session(&self, with_facts: bool) -> LocalBoxFuture<'_, Result<Rc<Session>, JsValue>> {
        Box::pin(async move {
            self.calls.set(self.calls.get() + 1);
            // A stub is dead after an error, so each session gets its own.
            let stub: js::EventsStub = self.events.stub(&self.instance_id)?.into_rpc();
            let session: js::EventsSession = stub.open(with_facts).await?.unchecked_into();
            let session = Rc::new(Session::new(session));
            *self.session.borrow_mut() = Some(Rc::clone(&session));
            Ok(session)
        })
    }
}

impl FactLog for ObjectFactLog {
    type Error = String;

    async fn open(&self) -> Result<OpenedRun, String> {
        let session = self.session(true).await.map_err(|error| message(&error))?;
        let facts = session.js.facts().ok().and_then(|facts| facts.as_string());
        let facts = serde_json::from_str(&facts.unwrap_or_default())
            .map_err(|error| format!("the object's facts cannot be read: {error}"))?;
        Ok(OpenedRun {
            run: run_of(&session),
            facts,
        })
    }

    async fn append(&self, run: u32, batch: &[NewEvent]) -> Result<(), String> {
        let session = self.session.borrow().clone();
        let appended = async {
            let session = match session {
                Some(session) => session,
                None => self.session(false).await?,
            };
            session.append(run, &pack_facts(batch)).await
        };
        appended.await.map_err(|error| message(&error))
    }

    fn release(&self) {
        if let Some(session) = self.session.borrow_mut().take() {
            // Of no use if it fails: the runtime releases what a lifetime held.
            let _ = js::dispose(&session.js);
        }
    }
}

/// What the object's `open` returned, and what waits for its answers.
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
    /// Nothing, or what was thrown.
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

    async fn append(&self, run: u32, batch: &[u8]) -> Result<(), JsValue> {
        let call = self.idle.borrow_mut().pop().unwrap_or_else(Call::new);
        js::append_facts(&self.js, run, &Uint8Array::from(batch), &call.done)?;
        let answer = poll_fn(|context| call.answer.poll(context)).await;
        self.idle.borrow_mut().push(call);
        if answer.is_undefined() {
            Ok(())
        } else {
            Err(answer)
        }
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

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a u32 there"
)]
fn run_of(session: &Session) -> u32 {
    let run = session.js.run().ok().and_then(|run| run.as_f64());
    run.unwrap_or(1.0) as u32
}

type AnyStatus = InstanceStatus<()>;

/// What viewers are told of a run that was terminated.
const TERMINATED: &str = "the instance was terminated";
