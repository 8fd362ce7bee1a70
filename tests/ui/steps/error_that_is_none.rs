//! Errors that nothing makes a step's error of.

use std::error::Error;

use cloudflare_workflows::{Step, StepError};

struct Declined;

async fn charge(step: &impl Step) -> Result<u32, StepError> {
    step.run("charge card", async |_| Err(Declined)?).await
}

async fn ask(step: &impl Step) -> Result<u32, StepError> {
    step.run("ask the bank", async |_| Ok(bank()?)).await
}

fn bank() -> Result<u32, Box<dyn Error + Send + Sync>> {
    Ok(7)
}

fn main() {}
