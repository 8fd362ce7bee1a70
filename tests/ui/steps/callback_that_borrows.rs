//! A step's code that borrows: it may run after its maker has gone.

use cloudflare_workflows::{Step, StepError};

async fn greet(step: &impl Step, name: String) -> Result<String, StepError> {
    step.run("greet", async |_| Ok(format!("hello, {name}"))).await
}

fn main() {}
