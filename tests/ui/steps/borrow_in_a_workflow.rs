//! A callback that borrows what the workflow's body owns: `async move` bodies have the error at its place.

use ssetarget::workflow::{Dispatch, WorkflowEventStep};
use cloudflare_workflows::{Step, StepError};

struct Order {
    item: String,
}

async fn run<D: Dispatch + 'static>(
    order: Order,
    step: WorkflowEventStep<impl Step + 'static, D>,
) -> Result<usize, StepError> {
    step.workflow(async move |step| {
        let first = step.run("reserve", async |_| Ok(order.item.len())).await?;
        let second = step.run("pack", async |_| Ok(2)).await?;
        Ok(first + second)
    })
    .await
}

fn main() {}
