//! A step's result that borrows from the workflow's memory, which is lost while it sleeps.

use cloudflare_workflows::{Step, StepError};

async fn greet(step: &impl Step) -> Result<&'static str, StepError> {
    step.run("greet", async |_| Ok("hello")).await
}

fn main() {}
