//! `RunRoutes` in a Worker: `/routes/<what>/<workflow>` is their prefix.
//!
//! - `open`: everything is switched on, for everybody
//! - `tagged`: the runs of a tag in one stream, and snapshots, too
//! - `closed`: the same behind a hook that waits a moment and wants `key of <id>`, with CORS and credentials
//! - `bare`: nothing is switched on

use std::time::{Duration, SystemTime};

use ssetarget::Cors;
use ssetarget::access::{AccessRequest, Action, Permission};
use ssetarget::cloudflare::{Answers, InstanceSse, RunIndexNamespace, RunRoutes};
use worker::{Date, Delay, Env, Request, Response, Result};

use crate::workflows;

pub async fn serve(request: &Request, what: &str, workflow: &str, env: &Env) -> Result<Response> {
    let events = workflows::events(env, workflow)?;
    let binding = workflows::workflow(env, workflow)?;
    let routes = RunRoutes::new(events).prefix(&format!("routes/{what}/{workflow}/"));
    let index = RunIndexNamespace::from_env(env, "RUNS", workflow)?;
    let answers = Answers::new(binding.clone()).check(|event_type, payload| {
        match event_type == "go" && payload.is_string() {
            true => Err("going takes no words".to_owned()),
            false => Ok(()),
        }
    });
    let all = |routes: RunRoutes| {
        let log = InstanceSse::new();
        let routes = routes.answers(answers.clone()).merged();
        let routes = routes.runs(index.clone());
        routes.instance_log(binding, log)
    };
    let routes = match what {
        "open" => all(routes),
        "tagged" => all(routes).snapshots().merged_by_tag(index.clone()),
        "closed" => {
            let origins = env.var("ORIGINS").map(|origins| origins.to_string());
            let origins = origins.unwrap_or_default();
            let cors = Cors::new(origins.split(',').filter(|origin| !origin.is_empty()));
            let cors = cors.map_err(|error| error.to_string())?.credentials();
            let routes = all(routes).cors(cors).access(hook);
            routes.merged_by_tag(index.clone())
        }
        _ => routes,
    };
    match routes.serve(request).await? {
        Some(response) => Ok(response),
        None => Response::error("not mine", 418),
    }
}

/// It waits for a promise of JavaScript, among other things.
fn hook(request: &AccessRequest<'_>) -> impl Future<Output = Permission> + use<> {
    let key = request.bearer().or(request.cookie("key"));
    let key = key.map(|key| key.replace('+', " ")).unwrap_or_default();
    let workflow = request.workflow.map(str::to_owned);
    let (id, action) = (request.id.to_owned(), request.action);
    async move {
        Delay::from(Duration::from_millis(1)).await;
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(Date::now().as_millis());
        match key.strip_prefix("key of ") {
            _ if workflow.is_none() => Permission::Refused,
            Some("past") => Permission::granted_until(now - Duration::from_secs(1)),
            Some("soon") => Permission::granted_until(now + Duration::from_secs(1)),
            Some("broken") => Permission::Unknown,
            Some("watcher") if action == Action::Watch => Permission::granted(),
            Some(of) if of == id => Permission::granted(),
            _ => Permission::Refused,
        }
    }
}
