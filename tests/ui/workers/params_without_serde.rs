// Params that cannot be read.

use ssetarget::cloudflare::{WorkflowEntrypoint, WorkflowEvent, WorkflowStep};
use ssetarget::workflow::StepError;
use worker::{Context, Env};

pub struct Params;

pub struct Order;

impl WorkflowEntrypoint for Order {
    type Params = Params;
    type Output = ();

    fn new(_: Context, _: Env) -> Self {
        Self
    }

    async fn run(&self, _: WorkflowEvent<Params>, _: WorkflowStep) -> Result<(), StepError> {
        Ok(())
    }
}

ssetarget::export_workflow!(Order);
