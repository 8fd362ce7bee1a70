//! - `POST /` with `{"rows":1000}` starts a run and answers with its id
//! - `GET /<id>` shows it, to people as a live page, to programs as JSON
//! - `GET /<id>/sse` streams its events

use std::time::Duration;

use cloudflare_workflows::{
    CreateOptions, Progress, RefusedRun, Retries, Step, StepError, Workflow, WorkflowEntrypoint,
    WorkflowEvent, WorkflowStep,
};
use serde::{Deserialize, Serialize};
use ssetarget::cloudflare::{RunRoutes, WorkflowEventsConfig, WorkflowEventsNamespace};
use worker::{Context, Env, Method, Request, Response, event};

/// The workflow's name and the bindings, as in wrangler.toml.
const NAME: &str = "{{project-name}}";
const WORKFLOW: &str = "WORKFLOW";
const EVENTS: &str = "WORKFLOW_EVENTS";

cloudflare_workflows::export_workflow!(Import);
ssetarget::export_workflow_events!(
    WorkflowEvents,
    // Through this binding the object asks the platform how a run ended, if the run could not report its end (it was
    // terminated, or crashed).
    WorkflowEventsConfig::new().workflows(&[(NAME, WORKFLOW)])
);

/// The params of a run.
#[derive(Clone, Deserialize, Serialize)]
struct Params {
    rows: u32,
}

struct Import(Env);

impl WorkflowEntrypoint for Import {
    type Input = Params;
    type Output = u32;

    fn new(_context: Context, env: Env) -> Self {
        Self(env)
    }

    // Viewers of a run whose params are of another type see its end.
    async fn refused(env: &Env, run: &RefusedRun, error: &StepError) -> worker::Result<()> {
        events(env)?.tell_refused(run, error).await
    }

    async fn run(
        &self,
        event: WorkflowEvent<Params>,
        step: WorkflowStep,
    ) -> Result<u32, StepError> {
        let run = events(&self.0)?.wrap(&event, step);
        run.workflow(async move |step| import(&step, event.payload).await)
            .await
    }
}

/// The workflow. It takes any step object, so that the tests below run it natively.
async fn import(step: &impl Step, params: Params) -> Result<u32, StepError> {
    let rows = step
        .run("count the rows", async move |_| Ok(params.rows))
        .await?;
    step.sleep("let the disk rest", Duration::from_secs(1))
        .await?;
    step.run("import", async move |attempt| {
        for quarter in 1..=4_u32 {
            // Do a part of the work here.
            let message = format!("{quarter} of 4 parts of {rows} rows");
            attempt.progress(Progress::percent(f64::from(quarter) * 25.0).message(message));
        }
        Ok(rows)
    })
    .retries(Retries::new(3, Duration::from_secs(2)))
    .await
}

fn events(env: &Env) -> worker::Result<WorkflowEventsNamespace> {
    let events = WorkflowEventsNamespace::from_env(env, EVENTS, NAME)?;
    Ok(events.with_workflow(Workflow::from_env(env, WORKFLOW)?))
}

#[event(fetch)]
async fn fetch(mut request: Request, env: Env, _context: Context) -> worker::Result<Response> {
    let events = events(&env)?;
    let runs = RunRoutes::new(events.clone()).page().snapshots();
    if let Some(response) = runs.serve(&request).await? {
        return Ok(response);
    }
    if request.method() != Method::Post || request.path() != "/" {
        return Response::error("POST / starts a run", 404);
    }
    let Ok(params) = request.json::<Params>().await else {
        return Response::error(r#"the body is not like {"rows":1000}"#, 400);
    };
    let workflow = Workflow::from_env(&env, WORKFLOW)?;
    let run = events
        .create(&workflow, CreateOptions::new().params(&params)?)
        .await?;
    Response::ok(run.id())
}

#[cfg(test)]
mod tests {
    use cloudflare_workflows::testing::FakeInstance;
    use futures_executor::block_on;

    use super::*;

    #[test]
    fn all_rows_are_imported() {
        let instance = FakeInstance::new();
        let run = instance.run(async |step| import(&step, Params { rows: 1_000 }).await);
        assert_eq!(block_on(run).unwrap(), 1_000);
    }

    #[test]
    fn an_attempt_that_fails_is_made_again() {
        let instance = FakeInstance::new();
        instance.fail_attempt("import", StepError::new("the disk is full"));
        let run = instance.run(async |step| import(&step, Params { rows: 1_000 }).await);
        assert_eq!(block_on(run).unwrap(), 1_000);
        assert_eq!(instance.steps()[2].attempts, 2);
    }
}
