//! The way to the `WorkflowEvents` objects: for viewers to read, for workflows to append.

use std::cell::{Cell, RefCell};

use wasm_bindgen::prelude::*;
use worker::durable::ObjectNamespace;
use worker::{Env, Method, Request, Response};

use super::binding::{CreateOptions, InstanceState, Workflow, WorkflowError, WorkflowInstance};
use super::convert::message;
use super::entrypoint::WorkflowEvent;
use super::js;
use super::runtime::WorkersRuntime;
use super::serve;
use super::step::WorkflowStep;
use crate::event::NewEvent;
use crate::workflow::{
    BatchedDispatch, DispatchConfig, FactLog, OpenedRun, Runtime, WorkflowEventStep,
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
    workflow_name: String,
    workflow: Option<Workflow>,
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
            workflow_name: workflow_name.into(),
            workflow: None,
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
        let log = ObjectFactLog::new(self.clone(), instance.id());
        let announced = async {
            let opened = log.open().await?;
            let started = workflow_started(&self.workflow_name, now);
            let started = started.map_err(|error| error.to_string())?;
            log.append(opened.run, &[started]).await
        };
        if let Err(error) = announced.await {
            worker::console_warn!("ssetarget: a new instance is not announced: {error}");
        }
        log.release();
        Ok(instance)
    }

    /// Whether the instance has events.
    ///
    /// # Errors
    /// When the object cannot be reached.
    pub async fn exists(&self, instance_id: &str) -> worker::Result<bool> {
        if !serve::is_instance_id(instance_id) {
            return Ok(false);
        }
        let request = Request::new("http://workflow-events/", Method::Head)?;
        let response = self.fetch(instance_id, request).await?;
        Ok(response.status_code() == 200)
    }

    /// Asks this binding about an instance that has no events, so that one that was not made by
    /// [`create`](Self::create) and has dispatched nothing yet is waited for and not answered with
    /// `404`. Default: it is not asked, and unknown ids cost the platform's engine nothing.
    #[must_use]
    pub fn with_workflow(mut self, workflow: Workflow) -> Self {
        self.workflow = Some(workflow);
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

    pub(super) async fn fetch(
        &self,
        instance_id: &str,
        request: Request,
    ) -> worker::Result<Response> {
        self.stub(instance_id)?.fetch_with_request(request).await
    }

    /// The state of such an instance, if there is one and the workflow's binding is known.
    pub(super) async fn state(
        &self,
        instance_id: &str,
    ) -> Result<Option<InstanceState>, WorkflowError> {
        let Some(workflow) = &self.workflow else {
            return Ok(None);
        };
        let status = async {
            let instance = workflow.get(instance_id).await?;
            instance.status::<serde::de::IgnoredAny>().await
        };
        match status.await {
            Ok(status) => Ok(Some(status.state)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn stub(&self, instance_id: &str) -> worker::Result<worker::durable::Stub> {
        // Workflow names have no slash, so no two pairs give one name.
        let name = format!("{}/{instance_id}", self.workflow_name);
        self.namespace.get_by_name(&name)
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
    session: RefCell<Option<std::rc::Rc<js::EventsSession>>>,
    calls: Cell<u32>,
}

impl ObjectFactLog {
    fn new(events: WorkflowEventsNamespace, instance_id: String) -> Self {
        Self {
            events,
            instance_id,
            session: RefCell::default(),
            calls: Cell::new(0),
        }
    }

    /// How many subrequests were made.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.calls.get()
    }

    async fn session(&self, with_facts: bool) -> Result<std::rc::Rc<js::EventsSession>, JsValue> {
        self.calls.set(self.calls.get() + 1);
        // A stub is dead after an error, so each session gets its own.
        let stub: js::EventsStub = self.events.stub(&self.instance_id)?.into_rpc();
        let session: js::EventsSession = stub.open(with_facts).await?.unchecked_into();
        let session = std::rc::Rc::new(session);
        *self.session.borrow_mut() = Some(std::rc::Rc::clone(&session));
        Ok(session)
    }
}

impl FactLog for ObjectFactLog {
    type Error = String;

    async fn open(&self) -> Result<OpenedRun, String> {
        let session = self.session(true).await.map_err(|error| message(&error))?;
        let run = session
            .run()
            .ok()
            .and_then(|run| run.as_f64())
            .unwrap_or(1.0);
        let facts = session.facts().ok().and_then(|facts| facts.as_string());
        let facts = serde_json::from_str(&facts.unwrap_or_default())
            .map_err(|error| format!("the object's facts cannot be read: {error}"))?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a u32 there"
        )]
        Ok(OpenedRun {
            run: run as u32,
            facts,
        })
    }

    async fn append(&self, run: u32, batch: &[NewEvent]) -> Result<(), String> {
        let batch = serde_json::to_string(batch).map_err(|error| error.to_string())?;
        let session = self.session.borrow().clone();
        let appended = async {
            let session = match session {
                Some(session) => session,
                None => self.session(false).await?,
            };
            session.append(run, &batch).await
        };
        appended.await.map(drop).map_err(|error| message(&error))
    }

    fn release(&self) {
        if let Some(session) = self.session.borrow_mut().take() {
            // Of no use if it fails: the runtime releases what a lifetime held.
            let _ = js::dispose(&session);
        }
    }
}
