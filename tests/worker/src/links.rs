//! Runs that are visible only with a link.

use std::time::Duration;

use serde_json::{Value, json};
use ssetarget::access::{Action, CapabilityLinks, LinkGrant, LinkKeys};
use ssetarget::cloudflare::{Answers, InstanceSse, RunIndexNamespace, RunRoutes};
use worker::{Env, Request, Response, Result};

use crate::workflows;

fn links(env: &Env, workflow: &str) -> Result<CapabilityLinks> {
    let keys = LinkKeys::from_env(env, "SSETARGET_KEYS")?;
    let links = CapabilityLinks::new(keys, workflow);
    Ok(links.tags(|id, tag| id.split_once("--").is_some_and(|(of, _)| of == tag)))
}

pub async fn ask(env: &Env, way: &str, workflow: &str, request: &Request) -> Result<Response> {
    let links = links(env, workflow)?;
    let links = match way {
        "links-in-queries" => links.query_tokens(),
        _ => links,
    };
    let routes = RunRoutes::new(workflows::events(env, workflow)?)
        .prefix(&format!("/{way}/{workflow}"))
        .answers(Answers::new(workflows::workflow(env, workflow)?))
        .runs(RunIndexNamespace::from_env(env, "RUNS", workflow)?)
        .merged_by_tag(RunIndexNamespace::from_env(env, "RUNS", workflow)?)
        .instance_log(workflows::workflow(env, workflow)?, InstanceSse::new())
        .links(links);
    let response = routes.serve(request).await?;
    response.map_or_else(|| Response::error("there is nothing here", 404), Ok)
}

/// Makes a link for `seconds`, of a `generation`, that also permits answers.
pub fn make(env: &Env, workflow: &str, id: &str, wanted: &Value) -> Result<Response> {
    let grant = match id.strip_prefix("tag:") {
        Some(tag) => LinkGrant::tag(tag),
        None => LinkGrant::run(id),
    };
    let grant = grant
        .may(Action::Answer)
        .expires_in(Duration::from_secs(
            wanted["seconds"].as_u64().unwrap_or(60),
        ))
        .generation(wanted["generation"].as_u64().unwrap_or(0));
    let page = format!("https://runs.example/{id}");
    Response::from_json(&json!({ "url": links(env, workflow)?.url(&page, &grant) }))
}
