//! A step's code that is not an async closure.

use cloudflare_workflows::{Step, StepError};

async fn add(step: &impl Step) -> Result<u32, StepError> {
    step.run("add", |_| Ok(1 + 1)).await
}

fn main() {}
