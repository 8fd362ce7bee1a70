// Params that cannot be read.

use cloudflare_workflows::{WorkflowEntrypoint, WorkflowEvent, WorkflowStep};
use cloudflare_workflows::StepError;
use worker::{Context, Env};

pub struct Params;

pub struct Order;

impl WorkflowEntrypoint for Order {
    type Input = Params;
    type Output = ();

    fn new(_: Context, _: Env) -> Self {
        Self
    }

    async fn run(&self, _: WorkflowEvent<Params>, _: WorkflowStep) -> Result<(), StepError> {
        Ok(())
    }
}

cloudflare_workflows::export_workflow!(Order);
