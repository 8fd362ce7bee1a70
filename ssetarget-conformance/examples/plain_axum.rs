//! axum's own `Sse` over a channel, as its documentation shows it: to compare with, in docs/conformance.md.
//!
//! - `GET /<id>/sse` streams what is sent from then on
//! - `POST /<id>?type=message` sends the body

#![allow(clippy::unwrap_used, reason = "an example")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{get, post};
use futures_util::stream::{self, Stream};
use tokio::sync::broadcast::{self, Receiver, Sender};

#[derive(Clone, Default)]
struct Channels(Arc<Mutex<HashMap<String, Channel>>>);

/// The last id, and where events go.
type Channel = (u64, Sender<Sent>);

#[derive(Clone)]
struct Sent {
    id: u64,
    event_type: String,
    data: String,
}

async fn watch(
    State(channels): State<Channels>,
    Path(id): Path<String>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let receiver = {
        let mut channels = channels.0.lock().unwrap();
        let (_, sender) = channels
            .entry(id)
            .or_insert_with(|| (0, broadcast::channel(256).0));
        sender.subscribe()
    };
    let events = stream::unfold(receiver, async |mut receiver: Receiver<Sent>| {
        let sent = receiver.recv().await.ok()?;
        let event = Event::default()
            .id(sent.id.to_string())
            .event(sent.event_type)
            .data(sent.data);
        Some((Ok(event), receiver))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

async fn send(
    State(channels): State<Channels>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    data: String,
) -> StatusCode {
    let event_type = query.get("type").cloned().unwrap_or_default();
    // `Event::event` panics at these, as its documentation says.
    if event_type.contains(['\n', '\r']) {
        return StatusCode::BAD_REQUEST;
    }
    let mut channels = channels.0.lock().unwrap();
    let (last, sender) = channels
        .entry(id)
        .or_insert_with(|| (0, broadcast::channel(256).0));
    *last += 1;
    // Without viewers it is lost.
    let _ = sender.send(Sent {
        id: *last,
        event_type,
        data,
    });
    StatusCode::OK
}

#[tokio::main]
async fn main() {
    let routes = Router::new()
        .route("/{id}/sse", get(watch))
        .route("/{id}", post(send));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("Listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, routes.with_state(Channels::default()))
        .await
        .unwrap();
}
