//! The routes.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{Router, get};
use serde::Deserialize;
use ssetarget::http::{Shutdown, Sse};
use ssetarget::{Appended, DispatchError, NewEvent};

use crate::logs::Logs;
use crate::page;

pub fn router<L: Logs>(logs: L, shutdown: &Shutdown) -> Router {
    let sse = Sse::new()
        .shutdown(shutdown)
        .on_error(|error| eprintln!("the store failed: {error}"));
    let found = logs.clone();
    let events = sse.route_with(move |id: String| {
        let logs = found.clone();
        async move { logs.find(&id).await }
    });
    Router::new()
        .route("/", get(page::start))
        .route("/assets/{name}", get(page::asset))
        .route("/{id}", get(page::log).post(dispatch::<L>))
        .route("/{id}/sse", events)
        .with_state(logs)
}

#[derive(Deserialize)]
struct Dispatch {
    #[serde(rename = "type", default = "message")]
    event_type: String,
    /// Nothing follows: viewers' streams end.
    #[serde(default)]
    terminal: bool,
}

fn message() -> String {
    "message".to_owned()
}

/// `POST /<id>?type=note`: the body is the event's data.
async fn dispatch<L: Logs>(
    State(logs): State<L>,
    Path(id): Path<String>,
    Query(query): Query<Dispatch>,
    data: String,
) -> Response {
    if !is_id(&id) {
        return refuse(
            StatusCode::BAD_REQUEST,
            "an id has up to 64 letters, digits, - and _",
        );
    }
    let event = match NewEvent::new(query.event_type, data) {
        Ok(event) if query.terminal => event.terminal(),
        Ok(event) => event,
        Err(reason) => return refuse(StatusCode::BAD_REQUEST, &reason.to_string()),
    };
    match logs.open(&id).dispatch_encoded(vec![event]).await {
        Ok(outcomes) => {
            let id = outcomes.iter().find_map(|outcome| match outcome {
                Appended::Stored(id) => Some(id.get()),
                Appended::Duplicate => None,
            });
            (StatusCode::CREATED, Json(serde_json::json!({ "id": id }))).into_response()
        }
        Err(DispatchError::Invalid(reason)) => refuse(StatusCode::BAD_REQUEST, &reason.to_string()),
        Err(error) => {
            eprintln!("{error}: {:?}", std::error::Error::source(&error));
            refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "the event may or may not be stored",
            )
        }
    }
}

fn is_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    !id.is_empty() && id.len() <= 64 && id.bytes().all(allowed)
}

fn refuse(status: StatusCode, reason: &str) -> Response {
    (status, format!("{reason}\n")).into_response()
}
