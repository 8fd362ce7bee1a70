//! A run whose steps are watched. Runs in the Worker, in the engine's calls of a workflow's `run`.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use cloudflare_workflows::{
    NonRetryableError, Step, StepError, WorkersRuntime, WorkflowEvent, WorkflowStep,
};
use serde::Serialize;

use super::fact_log::ObjectFactLog;
use super::namespace::WorkflowEventsNamespace;
use crate::workflow::{BatchedDispatch, DispatchConfig, StepInfo, WorkflowEventStep};

/// The step object that a [`WatchedRun`] gives to the workflow's code, over the platform's own or over
/// another one.
pub type WorkflowRunStep<S = WorkflowStep> =
    WorkflowEventStep<S, BatchedDispatch<ObjectFactLog, WorkersRuntime>>;

impl WorkflowEventsNamespace {
    /// Prepares a run to be watched: the code that [`WatchedRun::workflow`] runs gets `step` wrapped, so
    /// that each of its steps dispatches events. `step` is the platform's own, or any other.
    ///
    /// ```no_run
    /// use cloudflare_workflows::{Step, StepError, WorkflowEvent, WorkflowStep};
    /// use ssetarget::cloudflare::WorkflowEventsNamespace;
    ///
    /// async fn run(
    ///     events: &WorkflowEventsNamespace,
    ///     event: WorkflowEvent<String>,
    ///     step: WorkflowStep,
    /// ) -> Result<(), StepError> {
    ///     let run = events.wrap(&event, step);
    ///     run.workflow(async move |step| ship(&step, event.payload).await).await
    /// }
    /// # async fn ship(step: &impl Step, order: String) -> Result<(), StepError> {
    /// #     step.run("ship", async move |_| Ok(())).await
    /// # }
    /// ```
    pub fn wrap<P, S: Step + 'static>(&self, event: &WorkflowEvent<P>, step: S) -> WatchedRun<S> {
        let mut run = self.wrap_instance(&event.instance_id, step);
        if event.workflow_name != self.workflow_name {
            run.refused = Some(format!(
                "the events are those of the workflow `{}`, but this run is one of `{}`: give \
                 `WorkflowEventsNamespace::from_env` the workflow's name in wrangler.toml, or \
                 viewers do not find them",
                self.workflow_name, event.workflow_name
            ));
        }
        run
    }

    /// Prepares a run of this instance to be watched, as [`wrap`](Self::wrap) does, if there is no [`WorkflowEvent`],
    /// as with other bindings of Workflows. The caller ensures that the instance is one of this workflow.
    pub fn wrap_instance<S: Step + 'static>(&self, instance_id: &str, step: S) -> WatchedRun<S> {
        WatchedRun {
            events: self.clone(),
            instance_id: instance_id.to_owned(),
            step,
            config: DispatchConfig::batched(),
            shows: None,
            refused: None,
            subrequests: Rc::default(),
        }
    }
}

/// A run whose steps are watched. [`workflow`](Self::workflow) is its only use: steps that are made inside it
/// dispatch events, and its end is the run's last event, after which viewers' streams end.
#[must_use = "the code of the run is called by `workflow`"]
pub struct WatchedRun<S = WorkflowStep> {
    events: WorkflowEventsNamespace,
    instance_id: String,
    step: S,
    config: DispatchConfig,
    shows: Option<Filter>,
    refused: Option<String>,
    subrequests: Rc<Cell<u32>>,
}

type Filter = Rc<dyn Fn(&StepInfo<'_>) -> bool>;

impl<S: Step + 'static> WatchedRun<S> {
    /// Sets how events are dispatched. Default: [`DispatchConfig::batched`].
    pub fn config(mut self, config: DispatchConfig) -> Self {
        self.config = config;
        self
    }

    /// Shows only steps for which `filter` returns true: see [`WorkflowEventStep::should_dispatch`].
    /// Default: all.
    pub fn should_dispatch(mut self, filter: impl Fn(&StepInfo<'_>) -> bool + 'static) -> Self {
        self.shows = Some(Rc::new(filter));
        self
    }

    /// Runs the whole workflow: see [`WorkflowEventStep::workflow`].
    ///
    /// # Errors
    /// The errors of `body`, one if it panics, one for a result that the platform cannot store, and one that is not
    /// retried if the events are not those of this run's workflow. Then `body` is not called.
    pub async fn workflow<T: Serialize>(
        &self,
        body: impl AsyncFnOnce(WorkflowRunStep<S>) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        if let Some(reason) = &self.refused {
            return Err(NonRetryableError::new(reason.clone()).into());
        }
        let log = ObjectFactLog::new(self.events.clone(), self.instance_id.clone());
        let log = log.counting(&self.subrequests);
        let mut config = self.config;
        config.redact = config.redact.or(self.events.redact);
        let dispatch = BatchedDispatch::new(log, WorkersRuntime, config);
        let mut step =
            WorkflowEventStep::new(self.step.clone(), &self.events.workflow_name, dispatch);
        if let Some(filter) = &self.shows {
            let filter = Rc::clone(filter);
            step = step.should_dispatch(move |info| filter(info));
        }
        step.workflow(body).await
    }

    /// Returns the number of subrequests of the instance for events in this lifetime.
    #[must_use]
    pub fn subrequests(&self) -> u32 {
        self.subrequests.get()
    }
}

impl<S> fmt::Debug for WatchedRun<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedRun")
            .field("instance_id", &self.instance_id)
            .finish_non_exhaustive()
    }
}
