//! Creates, restarts and terminates instances, and notifies their viewers. Runs in the Worker.

use std::collections::HashSet;
use std::time::SystemTime;

use cloudflare_workflows::{
    BatchCreateOptions, BatchCreated, CreateOptions, RefusedRun, RestartFrom, Runtime, StepError,
    TerminateOptions, WorkersRuntime, Workflow, WorkflowError, WorkflowInstance,
};
use futures_util::future::join_all;

use super::instance_id::is_new_id;
use super::namespace::WorkflowEventsNamespace;
use crate::clock;
use crate::cloudflare::command::{InstanceEnd, LogAnswer, LogCommand};
use crate::task::RedactedField;
use crate::workflow::{workflow_ended, workflow_started};

impl WorkflowEventsNamespace {
    /// Creates an instance whose events can be watched at once: its `started` is stored before it is created, so that
    /// a viewer never gets `404`. If the log still has events of an earlier instance with this id, the new instance's
    /// events follow them, announced by `restarted`. An instance that is not created leaves nothing behind.
    ///
    /// An object that cannot be reached is not an error here: the run dispatches the event itself. If the Worker ends
    /// before the instance is created, viewers of the announcement are notified within a minute: see
    /// [`with_workflow`](Self::with_workflow).
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

    /// Creates a batch of instances as [`create`](Self::create) does. Each instance costs a subrequest, and a second
    /// one if its log already has events or it is not created.
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
        // Instances whose ids the platform generated.
        let new = created.iter().filter(|id| !ids.contains(id));
        let told = new.map(async |id| {
            let announced = self.announce(id).await;
            self.announced(id, announced, true).await;
        });
        join_all(told).await;
        batch
    }

    /// Stores `started` before the instance can run, so that no event of it has an earlier time. Returns `None` for
    /// an id that no instance can have, and if the object cannot be reached.
    async fn announce(&self, id: &str) -> Option<(LogAnswer, SystemTime)> {
        if !is_new_id(id) {
            return None;
        }
        let now = WorkersRuntime.now();
        let command = LogCommand::Announce {
            workflow: self.workflow_name.clone(),
            time: clock::milliseconds(now),
            #[cfg(feature = "index")]
            tags: self.tags.clone(),
            #[cfg(not(feature = "index"))]
            tags: Vec::new(),
        };
        match self.command(id, &command).await {
            Ok(answer) => Some((answer, now)),
            Err(error) => {
                worker::console_warn!("ssetarget: a new instance is not announced: {error}");
                None
            }
        }
    }

    /// Confirms or takes back an announcement, now that the platform has answered.
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
        if let Err(error) = self.command(id, &command).await {
            worker::console_warn!(
                "ssetarget: an announcement is neither confirmed nor taken back: {error}"
            );
        }
    }

    /// Returns the command that confirms a restart, or a new instance under an old id.
    fn confirm(&self, began: &LogAnswer, time: SystemTime) -> LogCommand {
        LogCommand::ConfirmRestart {
            stood: (began.state.run, began.state.generation),
            workflow: self.workflow_name.clone(),
            time: clock::milliseconds(time),
        }
    }

    /// Restarts an instance, from a step or from the beginning, and notifies its viewers: the event `restarted` and
    /// the new run's `started` are stored before this returns, and no event of the previous run follows them. Until
    /// then the new run's events wait. A restart by [`WorkflowInstance::restart`] alone is noticed too, when a step
    /// runs its code, or when the workflow waits for some seconds.
    ///
    /// # Errors
    /// As [`WorkflowInstance::restart_from`]. An object that cannot be reached is not an error.
    pub async fn restart(
        &self,
        instance: &WorkflowInstance,
        from: Option<RestartFrom>,
    ) -> Result<(), WorkflowError> {
        let id = instance.id();
        let began = self.command(&id, &LogCommand::BeginRestart).await;
        let now = WorkersRuntime.now();
        let restarted = match from {
            None => instance.restart().await,
            Some(step) => instance.restart_from(step).await,
        };
        let notified = async {
            let command = match &restarted {
                Ok(()) => self.confirm(&began?, now),
                Err(_) => LogCommand::CancelRestart,
            };
            self.command(&id, &command).await
        };
        if let Err(error) = notified.await {
            worker::console_warn!("ssetarget: viewers are not notified of a restart: {error}");
        }
        restarted
    }

    /// Terminates an instance and notifies its viewers: the run has `failed`, and streams end.
    /// [`WorkflowInstance::terminate`] alone notifies nobody, since the workflow's code no longer runs.
    /// [`with_workflow`](Self::with_workflow) ends such a run for its viewers, also one that is terminated from
    /// outside the Worker.
    ///
    /// # Errors
    /// As [`WorkflowInstance::terminate`]. An object that cannot be reached is not an error.
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
        if let Err(error) = self.command(&instance.id(), &command).await {
            worker::console_warn!("ssetarget: viewers are not notified of a termination: {error}");
        }
        Ok(())
    }

    /// Notifies viewers that a run failed before its own code began. Call it in
    /// [`WorkflowEntrypoint::refused`](cloudflare_workflows::WorkflowEntrypoint::refused).
    ///
    /// # Errors
    /// When the object cannot be reached.
    pub async fn tell_refused(&self, run: &RefusedRun, error: &StepError) -> worker::Result<()> {
        let now = WorkersRuntime.now();
        let started = workflow_started(&self.workflow_name, now);
        let error = match self.redact {
            Some(rule) => rule.apply(RedactedField::Error, error.message()),
            None => error.message().into(),
        };
        let ended = workflow_ended(&self.workflow_name, Err(&error), now);
        let facts = [started, ended].into_iter().collect::<Result<Vec<_>, _>>();
        let facts = facts.map_err(|error| worker::Error::RustError(error.to_string()))?;
        self.append(&run.instance_id, &facts).await.map(drop)
    }
}
