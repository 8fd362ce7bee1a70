//! The Worker of the end-to-end tests: workflows whose params are their script.
//!
//! - `POST /<workflow>` with `{id?, params?}` creates an instance
//! - `POST /<workflow>/batch` creates a batch whose viewers need not wait
//! - `POST /<workflow>/javascript/<what>` creates an instance with params that JSON cannot express
//! - `POST /<workflow>/call` makes any call of the binding
//! - `GET /<workflow>/<id>/status`
//! - `POST /<workflow>/<id>/pause`, `/resume`, `/restart`, `/terminate`, `/event`
//! - `POST /<workflow>/<id>/append` appends an event with the key `note` from outside of the workflow
//! - `POST /<workflow>/<id>/end`, `/again` terminate and restart it, and notify its viewers
//! - `/<workflow>/<id>/sse` is the library's, for any method
//! - `/headers/…` answers as any of these, with CORS for the origin `ORIGIN`, and if the response is the library's,
//!   with a header of the Worker's own
//! - `/<workflow>/<id>/instance` is the library's too; `?show=params,outputs` shows them
//! - `GET /<workflow>/<id>/subscribe` returns the events of the library's subscription, once it has ended
//! - `POST /fold` with `{ours, platform}`, two logs of a run, returns the view of each
//! - `GET /open` counts the subscriptions that these two have open
//! - `GET /<workflow>/<id>/platform` is the platform's own log, once the run has ended
//! - `POST /report/<workflow>/<tag>` has the index of a tag take the body as a run's report, and returns whether it did
//! - `POST /<workflow>/<id>/rpc/<method>` calls a method of the `WorkflowEvents` object, and returns its string
//! - `/gate/<name>/<path>` forwards to a gate
//! - `/own/<name>/dispatch`, `/sse`, `/whisper`, `/whispers`, `/contract` forward to a log in the user's own object
//! - `POST /redis/<log>` appends a list of events to a log in Redis, `GET /redis/<log>/sse` serves it
//! - `/hub/<log>` and `/hub/<log>/sse` do the same through an object with one connection for all; `/hub/contract`
//!   runs the suite of stores
//! - `/routes/<what>/<workflow>/…` are the library's `RunRoutes`
//! - `POST /trap/<way>` ends the WebAssembly instance; `/panic` panics
//! - `/links/<workflow>/<id>/sse`, `/event`, `/session` are served to viewers with a link; `/links-in-queries/…` also
//!   accepts tokens in queries; `POST /<workflow>/<id>/revoke` revokes links, `POST /link/<workflow>/<id>` makes one
//! - `GET /binding/<kind>/<name>` returns the result of looking for a binding
//! - `GET /memory` returns how many bytes of WebAssembly memory there are, and how many of them are allocated
//! - `POST /collect` collects JavaScript's garbage

mod brittle;
mod broken;
mod calls;
mod crowd;
mod gate;
mod links;
mod memory;
mod own_log;
mod platform;
mod redis;
mod resets;
mod routes;
mod script;
mod tally;
mod trap;
mod values;
mod watched;
mod workflows;

use std::time::Duration;

use cloudflare_workflows::{
    CreateOptions, InstanceEventId, TerminateOptions, Workflow, WorkflowError, WorkflowErrorKind,
    WorkflowInstance,
};
use cloudflare_workflows::{SubscribeOptions, WorkflowInstanceEvent, WorkflowInstanceEventType};
use futures_util::StreamExt;
use js_sys::{Array, Function, JSON, Promise, Reflect};
use serde::Deserialize;
use serde_json::{Value, json};
use ssetarget::access::Public;
use ssetarget::cloudflare::{
    InstanceSse, WorkflowEventsConfig, WorkflowEventsNamespace, serve_instance_sse, serve_sse,
};
use ssetarget::workflow::RunView;
use ssetarget::{Cors, EventId, NewEvent, StoredEvent};
use wasm_bindgen::{JsCast, JsValue};
use worker::wasm_bindgen_futures::JsFuture;
use worker::{Context, Env, Method, Request, Response, Result, event};

use brittle::Brittle;
use script::Script;
use tally::Tally;

cloudflare_workflows::export_workflow!(Script);
cloudflare_workflows::export_workflow!(Tally);
cloudflare_workflows::export_workflow!(Brittle);
ssetarget::export_workflow_events!(
    WorkflowEvents,
    // The others learn of the end only when a viewer asks.
    WorkflowEventsConfig::new().workflows(&[("beta", "BETA")])
);
ssetarget::export_workflow_events!(
    BriefEvents,
    WorkflowEventsConfig::new()
        // Tests do something before each of them is over, on busy machines too.
        .retention(Duration::from_secs(4))
        .ids_retention(Duration::from_secs(20))
);

ssetarget::export_workflow_events!(
    ListedEvents,
    WorkflowEventsConfig::new()
        .workflows(&[("listed", "LISTED")])
        .index("RUNS")
);
ssetarget::export_run_index!(RunIndex);

#[event(fetch)]
async fn fetch(request: Request, env: Env, _context: Context) -> Result<Response> {
    let path = request.path();
    let Some(path) = path.strip_prefix("/headers") else {
        return respond(request, &path, env).await;
    };
    let cors = Cors::new([ORIGIN]).map_err(|error| error.to_string())?;
    let respond = async |request| {
        let mut response = respond(request, path, env).await?;
        if !path.starts_with("/own") {
            response.headers_mut().set("x-own", "set")?;
        }
        Ok(response)
    };
    cors.wrap(request, respond).await
}

/// The origin whose pages may read.
const ORIGIN: &str = "https://app.example.com";

async fn respond(mut request: Request, path: &str, env: Env) -> Result<Response> {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (segments.as_slice(), request.method()) {
        (["gate", name, path], _) => gate::ask(&env, name, path).await,
        (["fold"], Method::Post) => fold(&request.json().await?),
        ([way @ ("links" | "links-in-queries"), name, ..], _) => {
            links::ask(&env, way, name, &request).await
        }
        (["link", name, id], Method::Post) => links::make(&env, name, id, &request.json().await?),
        ([name, id, "revoke"], Method::Post) => {
            let generation = workflows::events(&env, name)?.revoke_links(id).await?;
            Response::from_json(&generation)
        }
        (["own", name, _], _) => own_log::ask(&env, name, request).await,
        (["routes", what, workflow, ..], _) => routes::serve(&request, what, workflow, &env).await,
        (["open"], _) => Response::from_json(&watched::open_subscriptions()),
        (["redis", log, rest @ ..], _) => {
            let target = redis::target(&redis::client(&env)?, log);
            redis::respond(&target, request, rest).await
        }
        (["hub", ..], _) => redis::ask_hub(&env, request).await,
        (["trap", way], Method::Post) => {
            trap::spring(way);
            Response::error("it lives", 500)
        }
        #[allow(clippy::panic, reason = "what is tested")]
        (["panic"], _) => panic!("the handler panics"),
        (["memory"], _) => memory::tell(),
        (["collect"], Method::Post) => memory::collect(),
        (["binding", kind, name], _) => Response::ok(binding(&env, kind, name)),
        ([workflow, id, "sse"], _) => {
            let events = workflows::events(&env, workflow)?;
            serve_sse(&request, id, &events, &Public).await
        }
        ([workflow, id, "instance"] | [workflow, id, "instance", "sse"], _) => {
            let options = instance_sse(&request)?;
            let workflow = watched::watched(&env, &workflows::binding(workflow))?;
            serve_instance_sse(&request, id, &workflow, options, &Public).await
        }
        (["report", workflow, tag], Method::Post) => {
            let report = request.text().await?;
            report_run(&env, &format!("{workflow}/{tag}"), &report).await
        }
        ([name, id, "rpc", method], Method::Post) => rpc(&env, name, id, method).await,
        ([name], Method::Post) => {
            let workflow = workflows::workflow(&env, name)?;
            answer(create(&workflow, request.json().await?).await)
        }
        ([name, "tagged"], Method::Post) => {
            let create: Value = request.json().await?;
            let tags = create["tags"].as_array().cloned().unwrap_or_default();
            let tags = tags.iter().filter_map(Value::as_str);
            let events = workflows::events(&env, name)?.tags(tags);
            let events = events.map_err(|error| error.to_string())?;
            let mut options = CreateOptions::new().params(&create["params"])?;
            if let Some(id) = create["id"].as_str() {
                options = options.id(id);
            }
            let workflow = workflows::workflow(&env, name)?;
            let created = events.create(&workflow, options);
            answer(
                created
                    .await
                    .map(|instance| js(&json!({ "id": instance.id() }))),
            )
        }
        ([name, id, "terminated"], Method::Post) => {
            let instance = workflows::workflow(&env, name)?.get(id).await?;
            let events = workflows::events(&env, name)?;
            events.terminate(&instance, TerminateOptions::new()).await?;
            Response::ok("")
        }
        ([name, id, "restarted"], Method::Post) => {
            let instance = workflows::workflow(&env, name)?.get(id).await?;
            workflows::events(&env, name)?
                .restart(&instance, None)
                .await?;
            Response::ok("")
        }
        ([name, "javascript", what], Method::Post) => {
            let params = values::params_from_javascript(what)?;
            let options = CreateOptions::new().params_js(&params);
            let workflow = workflows::workflow(&env, name)?;
            let created = workflows::events(&env, name)?
                .create(&workflow, options)
                .await;
            answer(created.map(|instance| js(&json!({ "id": instance.id() }))))
        }
        ([name, "call"], Method::Post) => {
            let workflow = workflows::workflow(&env, name)?;
            Response::from_json(&calls::call(&workflow, request.json().await?).await?)
        }
        ([name, "batch"], Method::Post) => {
            let options = calls::batch_options(request.json().await?)?;
            let workflow = workflows::workflow(&env, name)?;
            let events = workflows::events(&env, name)?;
            let batch = events.create_batch(&workflow, options).await?;
            Response::from_json(&json!({ "created": batch.created.len() }))
        }
        ([name, id, "platform"], _) => {
            let instance = workflows::workflow(&env, name)?.get(id).await?;
            let url = request.url()?;
            let until = url.query_pairs().find(|(name, _)| name == "until");
            let until = until.map(|(_, event_type)| event_type.into_owned());
            answer(Ok(platform::log(&instance, until.as_deref()).await?.into()))
        }
        ([name, id, action], _) if ACTIONS.contains(action) => {
            let (workflow, body) = match *action {
                "subscribe" => {
                    let query = request.url()?.query().unwrap_or_default().to_owned();
                    (watched::watched(&env, &workflows::binding(name))?, query)
                }
                _ => (workflows::workflow(&env, name)?, request.text().await?),
            };
            answer(act(&workflow, id, action, &body).await)
        }
        ([name, id, "log"], Method::Delete) => {
            let deleted = workflows::events(&env, name)?.delete_log(id).await?;
            Response::from_json(&deleted)
        }
        ([name, id, "stats"], _) => {
            Response::from_json(&workflows::events(&env, name)?.stats(id).await?)
        }
        ([name, id, "append"], Method::Post) => {
            let event = NewEvent::new("note", request.text().await?);
            let event = event.and_then(|event| event.with_key("note"));
            let events = [event.map_err(|error| error.to_string())?];
            let new = workflows::events(&env, name)?.append(id, &events).await;
            Response::from_json(&new.map_err(|error| error.to_string()))
        }
        ([name, id, "end"], Method::Post) => {
            let events = workflows::events(&env, name)?;
            let instance = workflows::workflow(&env, name)?.get(id).await?;
            events.terminate(&instance, TerminateOptions::new()).await?;
            Response::ok("{}")
        }
        ([name, id, "again"], Method::Post) => {
            let events = workflows::events(&env, name)?;
            let instance = workflows::workflow(&env, name)?.get(id).await?;
            events.restart(&instance, None).await?;
            Response::ok("{}")
        }
        _ => Response::error("there is nothing here", 404),
    }
}

const ACTIONS: [&str; 7] = [
    "event",
    "pause",
    "restart",
    "resume",
    "status",
    "subscribe",
    "terminate",
];

#[derive(Deserialize)]
struct Create {
    id: Option<String>,
    params: Option<Value>,
}

async fn create(
    workflow: &Workflow,
    create: Create,
) -> std::result::Result<JsValue, WorkflowError> {
    let mut options = CreateOptions::new();
    if let Some(id) = create.id {
        options = options.id(&id);
    }
    if let Some(params) = create.params {
        options = options.params(&params)?;
    }
    let instance = workflow.create(options).await?;
    Ok(js(&json!({ "id": instance.id() })))
}

async fn act(
    workflow: &Workflow,
    id: &str,
    action: &str,
    body: &str,
) -> std::result::Result<JsValue, WorkflowError> {
    let instance = workflow.get(id).await?;
    match action {
        "status" => {
            let status = instance.status::<Value>().await?;
            return Ok(js(&json!({
                "id": instance.id(),
                "state": status.state,
                "output": status.output,
                "error": status.error,
            })));
        }
        "subscribe" => return subscribe(&instance, body).await,
        "pause" => instance.pause().await?,
        "resume" => instance.resume().await?,
        "restart" => instance.restart().await?,
        "terminate" => instance.terminate().await?,
        "event" => {
            #[derive(Deserialize)]
            struct Event {
                r#type: String,
                #[serde(default)]
                payload: Value,
            }
            let event: Event =
                serde_json::from_str(body).map_err(|error| JsValue::from(error.to_string()))?;
            instance.send_event(&event.r#type, &event.payload).await?;
        }
        action => return Err(JsValue::from(format!("there is no action {action}")).into()),
    }
    Ok(js(&json!({})))
}

/// Returns the views of both logs of a run.
fn fold(logs: &Value) -> Result<Response> {
    let (mut ours, mut platform) = (RunView::new(), RunView::new());
    for event in logs["ours"].as_array().into_iter().flatten() {
        let id = event["id"].as_u64().and_then(EventId::new);
        let stored = StoredEvent {
            id: id.ok_or("an event has no id")?,
            event_type: event["type"].as_str().unwrap_or_default().to_owned(),
            data: event["data"].as_str().unwrap_or_default().to_owned(),
            timestamp: std::time::UNIX_EPOCH,
        };
        ours.apply(&stored).map_err(|error| error.to_string())?;
    }
    for event in logs["platform"].as_array().into_iter().flatten() {
        let event = WorkflowInstanceEvent::deserialize(event)?;
        platform.apply_instance(event.event_id, &event);
    }
    Response::from_json(&json!({ "ours": ours, "platform": platform }))
}

fn instance_sse(request: &Request) -> Result<InstanceSse> {
    let url = request.url()?;
    let show = url.query_pairs().find(|(name, _)| name == "show");
    let show = show.map(|(_, show)| show.into_owned()).unwrap_or_default();
    let mut options = InstanceSse::new();
    options.params = show.contains("params");
    options.outputs = show.contains("outputs");
    if show.contains("steps") {
        use WorkflowInstanceEventType::{StepCompleted, StepStarted};
        options = options.types([StepStarted, StepCompleted]);
    }
    Ok(options)
}

/// Returns all events of the library's subscription, and its errors, to its end. The query may have a `cursor`, a
/// `filter` and `take`, the number of events after which the subscription is dropped.
async fn subscribe(
    instance: &WorkflowInstance,
    query: &str,
) -> std::result::Result<JsValue, WorkflowError> {
    let parameter = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let mut options = SubscribeOptions::new();
    options.cursor = parameter("cursor")
        .and_then(|cursor| cursor.parse().ok())
        .and_then(InstanceEventId::new);
    if let Some(filter) = parameter("filter") {
        let types = filter
            .split(',')
            .filter_map(WorkflowInstanceEventType::from_name);
        options = options.filter(types);
    }
    let take = parameter("take").and_then(|take| take.parse().ok());
    let events = instance.subscribe(options).await?;
    let events = events
        .take(take.unwrap_or(usize::MAX))
        .map(|event| match event {
            Ok(event) => json!(event),
            Err(error) => {
                json!({ "kind": format!("{:?}", error.kind()), "error": error.to_string() })
            }
        });
    Ok(js(&events.collect::<Vec<_>>().await.into()))
}

/// Returns the result of looking for a binding.
fn binding(env: &Env, kind: &str, name: &str) -> String {
    let found = match kind {
        "workflow" => Workflow::from_env(env, name)
            .map(drop)
            .map_err(worker::Error::from),
        _ => WorkflowEventsNamespace::from_env(env, name, "alpha").map(drop),
    };
    found.map_or_else(|error| error.to_string(), |()| "found".to_owned())
}

/// Has an index take a report, as the object of a run does, and returns its answer.
async fn report_run(env: &Env, index: &str, report: &str) -> Result<Response> {
    let stub = env.durable_object("RUNS")?.get_by_name(index)?;
    let stub: JsValue = stub.into_rpc::<js_sys::Object>().into();
    let take: Function = Reflect::get(&stub, &"take".into())?.dyn_into()?;
    let promise: Promise =
        Reflect::apply(&take, &stub, &Array::of1(&report.into()))?.unchecked_into();
    let taken = JsFuture::from(promise).await?;
    Response::ok(
        taken
            .as_bool()
            .map_or("?".to_owned(), |taken| taken.to_string()),
    )
}

/// Calls any method of the object by RPC, as only code of the Worker can.
async fn rpc(env: &Env, workflow: &str, id: &str, method: &str) -> Result<Response> {
    let namespace = env.durable_object(workflows::events_binding(workflow))?;
    let stub: JsValue = namespace
        .get_by_name(&format!("{workflow}/{id}"))?
        .into_rpc::<js_sys::Object>()
        .into();
    let called = async {
        let function: Function = Reflect::get(&stub, &method.into())?.dyn_into()?;
        let promise: Promise = Reflect::apply(&function, &stub, &Array::new())?.unchecked_into();
        JsFuture::from(promise).await
    };
    match called.await {
        Ok(value) => Response::ok(match (value.as_string(), value.as_f64()) {
            (Some(text), _) => text,
            (None, Some(number)) => number.to_string(),
            (None, None) => "called".to_owned(),
        }),
        Err(error) => Response::error(format!("{error:?}"), 400),
    }
}

fn answer(result: std::result::Result<JsValue, WorkflowError>) -> Result<Response> {
    let error = match result {
        Ok(value) => {
            let text = JSON::stringify(&value).map(String::from)?;
            return Ok(Response::ok(text)?.with_headers(json_headers()?));
        }
        Err(error) => error,
    };
    let status = match error.kind() {
        WorkflowErrorKind::NotFound => 404,
        WorkflowErrorKind::AlreadyExists => 409,
        WorkflowErrorKind::InvalidId => 400,
        _ => 500,
    };
    let kind = format!("{:?}", error.kind());
    let body = json!({ "kind": kind, "message": error.to_string() });
    Ok(Response::from_json(&body)?.with_status(status))
}

fn json_headers() -> Result<worker::Headers> {
    let headers = worker::Headers::new();
    headers.set("content-type", "application/json")?;
    Ok(headers)
}

fn js(value: &Value) -> JsValue {
    JSON::parse(&value.to_string()).unwrap_or(JsValue::NULL)
}
