//! A second workflow class, with types of its own.

use cloudflare_workflows::{Step, StepError, WorkflowEntrypoint, WorkflowEvent, WorkflowStep};
use serde::{Deserialize, Serialize};
use worker::{Context, Env};

/// Adds up.
pub struct Tally;

/// The params of an instance.
#[derive(Deserialize)]
pub struct Numbers {
    numbers: Vec<i64>,
}

/// The output of a run.
#[derive(Serialize)]
pub struct Sum {
    sum: i64,
    workflow: String,
}

impl WorkflowEntrypoint for Tally {
    type Input = Numbers;
    type Output = Sum;

    fn new(_context: Context, _env: Env) -> Self {
        Self
    }

    async fn run(
        &self,
        event: WorkflowEvent<Numbers>,
        step: WorkflowStep,
    ) -> Result<Sum, StepError> {
        let mut sum = 0;
        for number in event.payload.numbers {
            sum = step.run("add", async move |_| Ok(sum + number)).await?;
        }
        Ok(Sum {
            sum,
            workflow: event.workflow_name,
        })
    }
}
