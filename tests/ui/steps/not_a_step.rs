//! A value that is not a step object.

use cloudflare_workflows::{Step, StepError};

async fn wait(step: &impl Step) -> Result<(), StepError> {
    step.sleep("nap", std::time::Duration::from_secs(1)).await
}

async fn run() -> Result<(), StepError> {
    wait(&()).await
}

fn main() {}
