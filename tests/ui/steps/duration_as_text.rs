//! A label that nobody has checked.

use cloudflare_workflows::{Step, StepError};

async fn nap(step: &impl Step) -> Result<(), StepError> {
    step.sleep("nap", "5 minuets").await
}

fn main() {}
