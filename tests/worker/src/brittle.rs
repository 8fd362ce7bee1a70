//! A workflow class that panics in its constructor.

use cloudflare_workflows::{
    RefusedRun, StepError, WorkflowEntrypoint, WorkflowEvent, WorkflowStep,
};
use worker::{Context, Env};

use crate::workflows;

/// Cannot be made.
pub struct Brittle;

impl WorkflowEntrypoint for Brittle {
    type Input = ();
    type Output = ();

    #[allow(clippy::panic, reason = "what is tested")]
    fn new(_context: Context, _env: Env) -> Self {
        panic!("it cannot be made")
    }

    async fn refused(env: &Env, run: &RefusedRun, error: &StepError) -> worker::Result<()> {
        workflows::events(env, &run.workflow_name)?
            .tell_refused(run, error)
            .await
    }

    async fn run(&self, _event: WorkflowEvent<()>, _step: WorkflowStep) -> Result<(), StepError> {
        Ok(())
    }
}
