//! A step that never runs.

#![deny(unused_must_use)]

use cloudflare_workflows::{Step, StepError};

async fn forgetful(step: &impl Step) -> Result<(), StepError> {
    step.run("send the mail", async |_| Ok(()));
    Ok(())
}

fn main() {}
