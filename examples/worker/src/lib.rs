//! The demo: an order whose progress can be watched live.
//!
//! - `POST /` starts a run
//! - `GET /<id>` shows it, `GET /<id>/sse` streams its events
//! - `GET /<id>/instance/sse` streams the platform's own log of it
//! - `POST /<id>/event` answers what it waits for

mod http;
mod order;

use cloudflare_workflows::{CreateOptions, Workflow, WorkflowErrorKind};
use serde::Deserialize;
use ssetarget::Cors;
use ssetarget::cloudflare::{
    InstanceSse, SseRoute, Transport, WorkflowEventsConfig, WorkflowEventsNamespace,
    serve_instance_sse,
};
use worker::{Context, Env, Request, Response, Result, event};

use http::json_body;
use order::{Approval, Order, OrderWorkflow};

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
    let cors = cors(&env)?;
    let route = SseRoute::new(events.clone()).cors(cors.clone());
    let request = match route.serve(request).await? {
        Ok(response) => return Ok(response),
        Err(request) => request,
    };
    let path = request.path();
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    // Not `request.method()`, which takes a method that it does not know for GET.
    let method = request.inner().method();
    match (segments.as_slice(), method.as_str()) {
        ([""], "POST") => start(request, &workflow, &events).await,
        ([""], "GET") if http::wants_html(&request) => http::start_page(),
        ([""], _) => http::method_not_allowed("POST"),
        ([id], "GET") => page(id, &events).await,
        ([_], _) => http::method_not_allowed("GET"),
        ([id, "event"], "POST") => send_event(id, request, &workflow, &events).await,
        ([_, "event"], _) => http::method_not_allowed("POST"),
        ([id, "instance", "sse"], _) => {
            let serve = async |request| {
                serve_instance_sse(id, request, &workflow, InstanceSse::new()).await
            };
            cors.wrap(request, serve).await
        }
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
        Ok(Some(body)) => match body.read::<Order>() {
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

/// `POST /<id>/event`, with `{"type", "payload"}` as JSON or nothing. What a run waits for has to be of the
/// payload's type, since another would fail the run.
async fn send_event(
    id: &str,
    mut request: Request,
    workflow: &Workflow,
    events: &WorkflowEventsNamespace,
) -> Result<Response> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "type", default = "waiting")]
        event_type: String,
    }
    fn waiting() -> String {
        order::APPROVAL.to_owned()
    }
    let mut body = match json_body(&mut request).await {
        Ok(body) => body.unwrap_or_default(),
        Err((status, reason)) => return http::text(status, &reason),
    };
    if body.has_others_than(&["type", "payload"]) {
        return http::text(
            400,
            "the body of an event has a type and a payload, nothing else",
        );
    }
    let event = match body.read::<Event>() {
        Ok(event) if is_event_type(&event.event_type) => event,
        Ok(_) => {
            return http::text(400, "the type has up to 100 letters, digits, - and _");
        }
        Err(reason) => return http::text(400, &format!("the body is not an event: {reason}")),
    };
    let payload = body.take("payload");
    // Numbers may be longer than they were in the body.
    if payload.to_string().len() > http::MAX_BODY {
        return http::text(413, "the payload is larger than 1 MiB");
    }
    if event.event_type == order::APPROVAL
        && let Err(reason) = http::read::<Option<Approval>>(payload.clone())
    {
        return http::text(400, &format!("the payload is not an approval: {reason}"));
    }
    const UNKNOWN: &str = "there is no run with this id";
    // Asked first, since the local engine keeps every unknown id that it is asked about in memory.
    if !events.exists(id).await? {
        return http::text(404, UNKNOWN);
    }
    let instance = match workflow.get(id).await {
        Ok(instance) => instance,
        Err(error) if error.is_not_found() => return http::text(404, UNKNOWN),
        Err(error) => return Err(error.into()),
    };
    let status = instance.status::<serde_json::Value>().await?;
    if status.state.has_ended() {
        return http::text(409, "the run has ended");
    }
    instance.send_event(&event.event_type, &payload).await?;
    http::sent(&event.event_type)
}

/// What the platform takes; its local runtime takes more.
fn is_event_type(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=100).contains(&text.len()) && text.bytes().all(allowed)
}
