// An output that cannot be written.

use cloudflare_workflows::{WorkflowEntrypoint, WorkflowEvent, WorkflowStep};
use cloudflare_workflows::StepError;
use worker::{Context, Env};

pub struct Receipt;

pub struct Order;

impl WorkflowEntrypoint for Order {
    type Input = ();
    type Output = Receipt;

    fn new(_: Context, _: Env) -> Self {
        Self
    }

    async fn run(&self, _: WorkflowEvent<()>, _: WorkflowStep) -> Result<Receipt, StepError> {
        Ok(Receipt)
    }
}

cloudflare_workflows::export_workflow!(Order);
