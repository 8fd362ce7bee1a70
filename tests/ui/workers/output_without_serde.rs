// An output that cannot be written.

use ssetarget::cloudflare::{WorkflowEntrypoint, WorkflowEvent, WorkflowStep};
use ssetarget::workflow::StepError;
use worker::{Context, Env};

pub struct Receipt;

pub struct Order;

impl WorkflowEntrypoint for Order {
    type Params = ();
    type Output = Receipt;

    fn new(_: Context, _: Env) -> Self {
        Self
    }

    async fn run(&self, _: WorkflowEvent<()>, _: WorkflowStep) -> Result<Receipt, StepError> {
        Ok(Receipt)
    }
}

ssetarget::export_workflow!(Order);
