//! A step's result that cannot be stored.

use cloudflare_workflows::{Step, StepError};

struct Receipt {
    _number: u32,
}

async fn charge(step: &impl Step) -> Result<Receipt, StepError> {
    step.run("charge card", async |_| Ok(Receipt { _number: 7 })).await
}

fn main() {}
