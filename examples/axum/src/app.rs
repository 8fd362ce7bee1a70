//! The routes.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::{ACCEPT, LOCATION};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{Router, get};
use serde::Deserialize;
use ssetarget::http::{RunRoutes, Shutdown, Snapshots, Sse};
use ssetarget::stats::Metrics;
use ssetarget::{Appended, DispatchError, NewEvent, Refusal, SseTarget};
use tracing::error;

use crate::job::{self, Jobs};
use crate::logs::{Logs, is_id};
use crate::page;

pub fn router<L: Logs>(logs: L, jobs: Jobs, shutdown: &Shutdown, metrics: Metrics) -> Router {
    let logs = Counted { logs, metrics };
    let sse = Sse::new()
        .shutdown(shutdown)
        .observed_by(logs.metrics.clone())
        .on_error(|reason| error!(reason, "the store failed"));
    let snapshots = Snapshots::new(&sse);
    let found = logs.clone();
    let lookup = move |id: String| {
        let logs = found.clone();
        async move { logs.find(&id).await }
    };
    let logs_by_id = RunRoutes::with_sse(lookup, sse).durable_streams();
    // The same logs as runs: the library's page, which draws the tasks of a job on a time axis.
    let runs = logs_by_id.clone().prefix("/runs").page().snapshots();
    Router::new()
        .route("/", get(page::start).post(start::<L>))
        // If people can reach the server from outside, put this behind access control.
        .route("/metrics", ssetarget::axum::metrics(logs.metrics.clone()))
        .route("/assets/{name}", get(page::asset))
        .route("/{id}", get(show::<L>).post(dispatch::<L>))
        .merge(logs_by_id.into_router())
        .merge(runs.into_router())
        .with_state(App {
            logs,
            jobs,
            snapshots,
        })
}

#[derive(Clone)]
struct App<L> {
    logs: Counted<L>,
    jobs: Jobs,
    snapshots: Snapshots,
}

/// `GET /<id>`: the log's page, or for a program that accepts JSON the snapshot of its job.
async fn show<L: Logs>(
    State(app): State<App<L>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let accept = request.headers().get(ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    if !accept.is_some_and(|accept| accept.contains("application/json")) {
        return page::log().await;
    }
    match app.logs.find(&id).await {
        Ok(log) => {
            let response = app.snapshots.respond(&log, &id, &request).await;
            response.into_response()
        }
        Err(refusal) => ssetarget::http::refuse::<Infallible>(refusal).into_response(),
    }
}

/// Logs whose events are counted.
#[derive(Clone)]
struct Counted<L> {
    logs: L,
    metrics: Metrics,
}

impl<L: Logs> Counted<L> {
    async fn find(&self, id: &str) -> Result<SseTarget<NewEvent, L::Store>, Refusal> {
        let log = self.logs.find(id).await?;
        Ok(log.observed_by(self.metrics.clone()))
    }

    async fn open(&self, id: &str) -> Result<SseTarget<NewEvent, L::Store>, Refusal> {
        let log = self.logs.open(id).await?;
        Ok(log.observed_by(self.metrics.clone()))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Start {
    /// The job's id. Default: a new one.
    id: Option<String>,
    /// How long each part of the job takes.
    #[serde(default = "half_a_second")]
    work_ms: u32,
}

fn half_a_second() -> u32 {
    500
}

/// `POST /`: starts a job.
async fn start<L: Logs>(State(app): State<App<L>>, Query(query): Query<Start>) -> Response {
    let id = query.id.unwrap_or_else(job::new_id);
    if !is_id(&id) {
        return refuse(StatusCode::BAD_REQUEST, NO_ID);
    }
    if app.logs.find(&id).await.is_ok() {
        return refuse(StatusCode::CONFLICT, "there is a log with this id");
    }
    let work = Duration::from_millis(query.work_ms.into());
    let Ok(log) = app.logs.open(&id).await else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, NOT_OPENED);
    };
    app.jobs.start(&id, &log, work).await;
    let location = [(LOCATION, format!("/{id}/sse"))];
    let body = Json(serde_json::json!({ "id": id }));
    (StatusCode::SEE_OTHER, location, body).into_response()
}

#[derive(Deserialize)]
struct Dispatch {
    #[serde(rename = "type", default = "message")]
    event_type: String,
    /// Whether this is the last event: viewers' streams end after it.
    #[serde(default)]
    terminal: bool,
}

fn message() -> String {
    "message".to_owned()
}

/// `POST /<id>?type=note`: the body is the event's data.
async fn dispatch<L: Logs>(
    State(App { logs, .. }): State<App<L>>,
    Path(id): Path<String>,
    Query(query): Query<Dispatch>,
    data: String,
) -> Response {
    if !is_id(&id) {
        return refuse(StatusCode::BAD_REQUEST, NO_ID);
    }
    let event = match NewEvent::new(query.event_type, data) {
        Ok(event) if query.terminal => event.terminal(),
        Ok(event) => event,
        Err(reason) => return refuse(StatusCode::BAD_REQUEST, &reason.to_string()),
    };
    let Ok(log) = logs.open(&id).await else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, NOT_OPENED);
    };
    match log.dispatch_encoded(vec![event]).await {
        Ok(outcomes) => {
            let id = outcomes.iter().find_map(|outcome| match outcome {
                Appended::Stored(id) => Some(id.get()),
                Appended::Duplicate => None,
            });
            (StatusCode::CREATED, Json(serde_json::json!({ "id": id }))).into_response()
        }
        Err(DispatchError::Invalid(reason)) => refuse(StatusCode::BAD_REQUEST, &reason.to_string()),
        Err(error) => {
            error!(reason = &error as &dyn Error, "an event was not dispatched");
            refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "the event may or may not be stored",
            )
        }
    }
}

const NOT_OPENED: &str = "the log cannot be opened: the server's output says why";
const NO_ID: &str = "an id has up to 64 letters, digits, - and _";

fn refuse(status: StatusCode, reason: &str) -> Response {
    (status, format!("{reason}\n")).into_response()
}
