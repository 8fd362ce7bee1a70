//! The demo: an order whose progress can be watched live.
//!
//! - `POST /` starts a run
//! - `GET /<id>` shows it, to people as a live page, to programs as JSON
//! - `GET /<id>/sse` streams its events
//! - `GET /sse?run=<id>&run=<id>` streams the events of several
//! - `GET /runs` lists all, and `GET /runs/sse` streams the changes of the list
//! - `GET /<id>/instance/sse` streams the platform's own log of it
//! - `GET /<id>/stream` has its events for clients of the Durable Streams protocol
//! - `GET /<id>/otlp` is its trace, for tools that read OpenTelemetry's
//! - `POST /<id>/event` sends the event that it waits for
//! - `POST /<id>/session` takes the token of a link, and `DELETE /<id>` deletes it, where the demo is closed

mod http;
mod order;

use std::time::Duration;

use cloudflare_workflows::{CreateOptions, Workflow, WorkflowErrorKind};
use ssetarget::Cors;
use ssetarget::access::{Action, CapabilityLinks, LinkGrant, LinkKeys};
use ssetarget::cloudflare::{
    Answers, InstanceSse, RunIndexNamespace, RunRoutes, Transport, WorkflowEventsConfig,
    WorkflowEventsNamespace,
};
use worker::{Context, Env, Request, Response, Result, event};

use http::json_body;
use order::{Order, OrderWorkflow};

cloudflare_workflows::export_workflow!(OrderWorkflow);
ssetarget::export_workflow_events!(
    WorkflowEvents,
    WorkflowEventsConfig::new()
        .workflows(&[(order::NAME, "ORDER")])
        .index(order::RUNS)
);
ssetarget::export_run_index!(RunIndex);

#[event(fetch)]
async fn fetch(request: Request, env: Env, _context: Context) -> Result<Response> {
    let workflow = Workflow::from_env(&env, "ORDER")?;
    let events = WorkflowEventsNamespace::from_env(&env, order::EVENTS, order::NAME)?
        .with_workflow(workflow.clone())
        .transport(transport(&env));
    let links = links(&env)?;
    let answers = Answers::new(workflow.clone())
        .default_type(order::APPROVAL)
        .check(order::check_answer);
    let runs = RunRoutes::new(events.clone())
        .cors(cors(&env)?)
        .merged()
        .runs(RunIndexNamespace::from_env(&env, order::RUNS, order::NAME)?)
        .page()
        .snapshots()
        .answers(answers)
        .deletion()
        .instance_log(workflow.clone(), InstanceSse::new())
        .trace()
        .durable_streams();
    let runs = match &links {
        Some(links) => runs.links(links.clone()),
        None => runs,
    };
    if let Some(response) = runs.serve(&request).await? {
        return Ok(response);
    }
    let path = request.path();
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    // Not `request.method()`, which treats an unknown method as GET.
    let method = request.inner().method();
    match (segments.as_slice(), method.as_str()) {
        ([""], "POST") => start(request, &workflow, &events, links.as_ref()).await,
        ([""], "GET") if http::accepts(&request, "text/html") => http::start_page(links.is_some()),
        ([""], _) => http::method_not_allowed("POST"),
        (["assets", file], "GET") => http::asset(file),
        (["assets", _], _) => http::method_not_allowed("GET"),
        _ => http::text(404, "there is nothing here"),
    }
}

/// `SSETARGET_KEYS`, a secret, closes the demo: runs are only for those who have a link to them. Default: they are open
/// to everybody who knows their ids.
fn links(env: &Env) -> Result<Option<CapabilityLinks>> {
    const KEYS: &str = "SSETARGET_KEYS";
    match env.secret(KEYS) {
        Ok(_) => {
            let keys = LinkKeys::from_env(env, KEYS)?;
            Ok(Some(CapabilityLinks::new(keys, order::NAME)))
        }
        Err(_) => Ok(None),
    }
}

/// The lifetime of the link that the starter of a run gets.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// `TRANSPORT` of `[vars]` in wrangler.toml, to compare the two.
fn transport(env: &Env) -> Transport {
    match env.var("TRANSPORT").map(|name| name.to_string()).as_deref() {
        Ok("direct") => Transport::Direct,
        Ok("hibernating") => Transport::Hibernating,
        _ => Transport::default(),
    }
}

/// `ALLOWED_ORIGINS` of `[vars]` in wrangler.toml: other sites whose pages may watch, with a comma
/// between them. Default: none.
fn cors(env: &Env) -> Result<Cors> {
    let origins = env
        .var("ALLOWED_ORIGINS")
        .map(|origins| origins.to_string());
    let origins = origins.unwrap_or_default();
    let origins = origins.split(',').filter(|origin| !origin.is_empty());
    let cors = Cors::new(origins).map_err(|error| error.to_string())?;
    Ok(cors.credentials())
}

/// `POST /`, with an order as JSON or nothing, and `?id=` or nothing.
async fn start(
    mut request: Request,
    workflow: &Workflow,
    events: &WorkflowEventsNamespace,
    links: Option<&CapabilityLinks>,
) -> Result<Response> {
    let order = match json_body(&mut request).await {
        Ok(Some(body)) => match http::read::<Order>(body) {
            Ok(order) => order,
            Err(reason) => return http::text(400, &format!("the body is not an order: {reason}")),
        },
        Ok(None) => Order::default(),
        Err((status, reason)) => return http::text(status, &reason),
    };
    if let Err(reason) = order.check() {
        return http::text(400, reason);
    }
    // With its defaults it may be larger than the body was.
    let Ok(mut options) = CreateOptions::new().params(&order) else {
        return http::text(413, "the order is larger than 1 MiB");
    };
    // Not `request.url()`, which makes the Worker 80 KB larger.
    let url = request.inner().url();
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let mut query = form_urlencoded::parse(query.as_bytes());
    match query.find(|(name, _)| name == "id") {
        // The reason would tell strangers whether there is such a run.
        Some(_) if links.is_some() => {
            return http::text(400, "a closed demo makes up the id itself");
        }
        Some((_, id)) => options = options.id(&id),
        None => {}
    }
    match events.create(workflow, options).await {
        Ok(instance) => {
            let id = instance.id();
            let link = links.map(|links| {
                // Up to the path.
                let origin = url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
                let grant = LinkGrant::run(&id)
                    .may(Action::Answer)
                    .may(Action::Delete)
                    .expires_in(DAY);
                links.url(&format!("{origin}/{id}"), &grant)
            });
            http::started(&request, &id, link.as_deref())
        }
        Err(error) => match error.kind() {
            WorkflowErrorKind::AlreadyExists => http::text(409, "there is a run with this id"),
            WorkflowErrorKind::InvalidId => http::text(
                400,
                "an id has up to 100 letters, digits, - and _, and does not begin with -",
            ),
            _ => Err(error.into()),
        },
    }
}
