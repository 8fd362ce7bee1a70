//! A workflow class that panics where no other does: when it is made.

use ssetarget::cloudflare::{
    WorkflowEntrypoint, WorkflowEvent, WorkflowEventsNamespace, WorkflowStep,
};
use ssetarget::workflow::StepError;
use worker::{Context, Env};

use crate::workflows;

/// Cannot be made.
pub struct Brittle;

impl WorkflowEntrypoint for Brittle {
    type Params = ();
    type Output = ();

    #[allow(clippy::panic, reason = "what is tested")]
    fn new(_context: Context, _env: Env) -> Self {
        panic!("it cannot be made")
    }

    fn events(env: &Env, name: &str) -> worker::Result<Option<WorkflowEventsNamespace>> {
        workflows::events(env, name).map(Some)
    }

    async fn run(&self, _event: WorkflowEvent<()>, _step: WorkflowStep) -> Result<(), StepError> {
        Ok(())
    }
}
