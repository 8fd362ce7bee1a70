//! Two workflows that can be watched.
//!
//! - `POST /agents` with `{"question":"…"}` starts an [agent], `POST /imports` with `{"rows":1000}` an [import]; both answer
//!   with the id
//! - `GET /agents/<id>` and `GET /imports/<id>` show a run, `…/sse` streams its events

mod agent;
mod import;

use std::time::Duration;

use cloudflare_workflows::{CreateOptions, Workflow};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ssetarget::cloudflare::{RunRoutes, WorkflowEventsConfig, WorkflowEventsNamespace};
use worker::{Context, Delay, Env, Method, Request, Response, Result, event};

use agent::{Agent, Question};
use import::{File, Import};

cloudflare_workflows::export_workflow!(Agent);
cloudflare_workflows::export_workflow!(Import);
ssetarget::export_workflow_events!(
    WorkflowEvents,
    WorkflowEventsConfig::new().workflows(&[("agent", "AGENT"), ("import", "IMPORT")])
);

#[event(fetch)]
async fn fetch(mut request: Request, env: Env, _context: Context) -> Result<Response> {
    for (path, name, binding) in [
        ("/agents", "agent", "AGENT"),
        ("/imports", "import", "IMPORT"),
    ] {
        let runs = RunRoutes::new(events(&env, name, binding)?).prefix(path);
        if let Some(response) = runs.page().snapshots().serve(&request).await? {
            return Ok(response);
        }
    }
    match (request.method(), request.path().as_str()) {
        (Method::Post, "/agents") => start::<Question>(&mut request, &env, "agent", "AGENT").await,
        (Method::Post, "/imports") => start::<File>(&mut request, &env, "import", "IMPORT").await,
        _ => Response::error("POST /agents or /imports starts a run", 404),
    }
}

/// Starts a run whose params are the request's body.
async fn start<P: DeserializeOwned + Serialize>(
    request: &mut Request,
    env: &Env,
    name: &str,
    binding: &str,
) -> Result<Response> {
    let Ok(params) = request.json::<P>().await else {
        return Response::error("the body is not what this workflow takes", 400);
    };
    let options = CreateOptions::new().params(&params)?;
    let workflow = Workflow::from_env(env, binding)?;
    let run = events(env, name, binding)?
        .create(&workflow, options)
        .await?;
    Response::ok(run.id())
}

/// The events of the workflow with this name and this binding in wrangler.toml.
fn events(env: &Env, name: &str, binding: &str) -> Result<WorkflowEventsNamespace> {
    let events = WorkflowEventsNamespace::from_env(env, "WORKFLOW_EVENTS", name)?;
    Ok(events.with_workflow(Workflow::from_env(env, binding)?))
}

/// Waits as work would. Tests do not wait.
async fn work_for(time: Duration) {
    if cfg!(target_family = "wasm") {
        Delay::from(time).await;
    }
}
