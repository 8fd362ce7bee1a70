//! An import of a file with a progress bar: 1,000 rows in chunks of 100.
//!
//! Each chunk is a step, so a crash or a failed chunk repeats only that chunk. The platform bills steps, so a chunk
//! is as large as the work that may be repeated.

use std::ops::Range;
use std::time::Duration;

use cloudflare_workflows::{
    NonRetryableError, Progress, Retries, Step, StepContext, StepError, WorkflowEntrypoint,
    WorkflowEvent, WorkflowStep,
};
use serde::{Deserialize, Serialize};
use worker::{Context, Env};

use crate::{events, work_for};

/// The params of a run.
#[derive(Deserialize, Serialize)]
pub struct File {
    rows: u32,
}

/// The result of the rows.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Imported {
    imported: u32,
    skipped: u32,
}

pub struct Import(Env);

impl WorkflowEntrypoint for Import {
    type Input = File;
    type Output = Imported;

    fn new(_context: Context, env: Env) -> Self {
        Self(env)
    }

    async fn run(
        &self,
        event: WorkflowEvent<File>,
        step: WorkflowStep,
    ) -> Result<Imported, StepError> {
        let run = events(&self.0, "import", "IMPORT")?.wrap(&event, step);
        run.workflow(async move |step| import(&step, event.payload).await)
            .await
    }
}

const CHUNK: u32 = 100;
const MAX_ROWS: u32 = 100_000;

async fn import(step: &impl Step, file: File) -> Result<Imported, StepError> {
    let rows = step
        .run("count the rows", async move |_| match file.rows {
            rows @ 1..=MAX_ROWS => Ok(rows),
            rows => Err(NonRetryableError::new(format!("the file has {rows} rows")).into()),
        })
        .await?;
    step.group("import", async |step| {
        let mut all = Imported::default();
        for first in (0..rows).step_by(CHUNK as usize) {
            let chunk = first..rows.min(first + CHUNK);
            let name = format!("rows {} to {}", chunk.start + 1, chunk.end);
            let done = step
                .run(&name, async move |attempt| {
                    import_chunk(chunk.clone(), rows, &attempt).await
                })
                .retries(Retries::new(5, Duration::from_millis(500)))
                .await?;
            all.imported += done.imported;
            all.skipped += done.skipped;
        }
        Ok(all)
    })
    .await
}

/// Imports some of the rows, and reports how much of the file is done.
async fn import_chunk(
    chunk: Range<u32>,
    rows: u32,
    attempt: &StepContext,
) -> Result<Imported, StepError> {
    // The third chunk meets a database that is locked, so that a retry can be seen.
    if chunk.start == 2 * CHUNK && attempt.attempt == 1 {
        return Err(StepError::new("the database is locked"));
    }
    let mut all = Imported::default();
    for row in chunk {
        match price(&line(row)) {
            Some(_) => all.imported += 1, // And into a database, under the row's number: once, whatever happens.
            None => all.skipped += 1,
        }
        if (row + 1) % 25 == 0 || row + 1 == rows {
            work_for(Duration::from_millis(30)).await;
            let percent = f64::from(row + 1) * 100.0 / f64::from(rows);
            let message = format!("{} of {rows} rows", row + 1);
            attempt.progress(Progress::percent(percent).message(message));
        }
    }
    attempt.set_attribute("skipped", all.skipped);
    Ok(all)
}

/// The fake file: a name and a price, which is missing in each 250th row.
fn line(row: u32) -> String {
    match row % 250 {
        249 => format!("teapot {row},"),
        _ => format!("teapot {row},{}", row % 90 + 10),
    }
}

/// The price in a line, or `None` if there is none.
fn price(line: &str) -> Option<u32> {
    line.rsplit(',').next()?.parse().ok()
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
