//! A rollback that expects another output than its step has.

use cloudflare_workflows::{RollbackContext, Step, StepError};

async fn book(step: &impl Step) -> Result<u32, StepError> {
    step.run("book", async |_| Ok(7_u32))
        .rollback(async |undo: RollbackContext<String>| {
            drop(undo.output);
            Ok(())
        })
        .await
}

fn main() {}
