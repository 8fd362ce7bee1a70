//! The demo: an order whose progress can be watched live.
//!
//! - `POST /` starts a run
//! - `GET /<id>` shows it: a page for people, a snapshot as JSON for programs
//! - `GET /<id>/sse` streams its events
//! - `GET /<id>/instance/sse` streams the platform's own log of it
//! - `POST /<id>/event` answers what it waits for

mod http;
mod order;

use cloudflare_workflows::{CreateOptions, Workflow, WorkflowErrorKind};
use ssetarget::Cors;
use ssetarget::cloudflare::{
    Answers, InstanceSse, RunRoutes, Transport, WorkflowEventsConfig, WorkflowEventsNamespace,
};
use worker::{Context, Env, Request, Response, Result, event};

use http::json_body;
use order::{Order, OrderWorkflow};

cloudflare_workflows::export_workflow!(OrderWorkflow);
ssetarget::export_workflow_events!(
    WorkflowEvents,
    WorkflowEventsConfig::new().workflows(&[(order::NAME, "ORDER")])
);

#[event(fetch)]
async fn fetch(request: Request, env: Env, _context: Context) -> Result<Response> {
    let workflow = Workflow::from_env(&env, "ORDER")?;
    let events = WorkflowEventsNamespace::from_env(&env, order::EVENTS, order::NAME)?
        .with_workflow(workflow.clone())
        .transport(transport(&env));
    let answers = Answers::new(workflow.clone())
        .default_type(order::APPROVAL)
        .check(order::check_answer);
    let runs = RunRoutes::new(events.clone())
        .cors(cors(&env)?)
        .answers(answers)
        .snapshots()
        .instance_log(workflow.clone(), InstanceSse::new());
    let path = request.path();
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    // Not `request.method()`, which takes a method that it does not know for GET.
    let method = request.inner().method();
    if let ([id], "GET") = (segments.as_slice(), method.as_str())
        && !id.is_empty()
        && http::wants_html(&request)
    {
        return page(id, &events).await;
    }
    if let Some(response) = runs.serve(&request).await? {
        return Ok(response);
    }
    match (segments.as_slice(), method.as_str()) {
        ([""], "POST") => start(request, &workflow, &events).await,
        ([""], "GET") if http::wants_html(&request) => http::start_page(),
        ([""], _) => http::method_not_allowed("POST"),
        (["assets", file], "GET") => http::asset(file),
        (["assets", _], _) => http::method_not_allowed("GET"),
        _ => http::text(404, "there is nothing here"),
    }
}

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
    Cors::new(origins).map_err(|error| error.to_string().into())
}

/// `POST /`, with an order as JSON or nothing, and `?id=` or nothing.
async fn start(
    mut request: Request,
    workflow: &Workflow,
    events: &WorkflowEventsNamespace,
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
    if let Some((_, id)) = query.find(|(name, _)| name == "id") {
        options = options.id(&id);
    }
    match events.create(workflow, options).await {
        Ok(instance) => http::started(&instance.id()),
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

/// `GET /<id>`: the page asks for the events itself, and says so if there are none.
async fn page(id: &str, events: &WorkflowEventsNamespace) -> Result<Response> {
    let status = if events.exists(id).await? { 200 } else { 404 };
    http::run_page(status)
}
