//! axum servers with the routes of the benchmark's driver, over each store of this library and over what a user would
//! write without it: axum's own `Sse` over a `tokio::sync::broadcast`.
//!
//! `bench-native broadcast | memory | sqlite FILE | redis URL`, prints the port.
//!
//! - `GET /log/sse` streams the log; `broadcast` begins with the newest event, and has no log
//! - `POST /log/append?from=1&batch=1&count=N` appends N batches, one after another

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{Router, get, post};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use ssetarget::axum::sse;
use ssetarget::store::EventStore;
use ssetarget::{
    MemoryEventStore, NewEvent, RedisClient, RedisEventStore, SqliteEventStore, SseTarget,
};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().unwrap_or_default();
    let place = arguments.next().unwrap_or_default();
    let app = match kind.as_str() {
        "broadcast" => Broadcast::app(),
        "memory" => app(MemoryEventStore::new()),
        "sqlite" => app(SqliteEventStore::open(&place)?),
        "redis" => {
            let client = RedisClient::new(place.as_str())?;
            app(RedisEventStore::new(&client, "bench-native"))
        }
        _ => return Err("bench-native broadcast | memory | sqlite FILE | redis URL".into()),
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    axum::serve(listener, app).await?;
    Ok(())
}

#[derive(Deserialize)]
struct Append {
    from: u64,
    batch: u64,
    count: u64,
}

impl Append {
    fn batches(&self) -> impl Iterator<Item = std::ops::Range<u64>> + use<> {
        let (from, batch) = (self.from, self.batch);
        (0..self.count).map(move |number| from + number * batch..from + (number + 1) * batch)
    }
}

/// The data of an event, of the size that those of the other benchmarks have.
fn data(number: u64) -> String {
    format!(
        r#"{{"taskId":"step #{number}-1","step":"step #{number}","kind":"do","count":1,"timestamp":"2026-11-23T14:37:54.907Z","parentId":"workflow:bench-1","attempt":1,"attributes":{{"note":"12345678901234567890"}}}}"#
    )
}

/// A server of this library.
fn app<S: EventStore + 'static>(store: S) -> Router {
    let target: SseTarget<NewEvent, S> = SseTarget::new(store);
    Router::new()
        .route("/log/append", post(append::<S>))
        .with_state(target.clone())
        .route("/log/sse", sse(target))
}

async fn append<S: EventStore + 'static>(
    State(target): State<SseTarget<NewEvent, S>>,
    Query(request): Query<Append>,
) -> Result<&'static str, (StatusCode, String)> {
    let failed = |error: String| (StatusCode::SERVICE_UNAVAILABLE, error);
    for numbers in request.batches() {
        let events = numbers.map(|number| NewEvent::new("started", data(number)));
        let events = events.collect::<Result<Vec<_>, _>>();
        let events = events.map_err(|error| failed(error.to_string()))?;
        let stored = target.dispatch_encoded(events).await;
        stored.map_err(|error| failed(error.to_string()))?;
        tokio::task::yield_now().await;
    }
    Ok("appended\n")
}

/// Without this library: connected viewers get new events, unless they fall too far behind.
struct Broadcast {
    events: broadcast::Sender<Message>,
    newest: Mutex<Option<Message>>,
}

#[derive(Clone)]
struct Message {
    id: u64,
    data: Arc<str>,
}

/// More than are ever sent at once here, so that no viewer falls behind.
const CAPACITY: usize = 32_768;

impl Broadcast {
    fn app() -> Router {
        let broadcast = Self {
            events: broadcast::Sender::new(CAPACITY),
            newest: Mutex::default(),
        };
        Router::new()
            .route("/log/append", post(Self::append))
            .route("/log/sse", get(Self::stream))
            .with_state(Arc::new(broadcast))
    }

    async fn append(State(this): State<Arc<Self>>, Query(request): Query<Append>) -> &'static str {
        for numbers in request.batches() {
            for id in numbers {
                let message = Message {
                    id,
                    data: data(id).into(),
                };
                let mut newest = this.newest.lock().unwrap_or_else(PoisonError::into_inner);
                *newest = Some(message.clone());
                // Fails where nobody watches.
                let _ = this.events.send(message);
            }
            tokio::task::yield_now().await;
        }
        "appended\n"
    }

    async fn stream(
        State(this): State<Arc<Self>>,
    ) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
        let (newest, events) = {
            let newest = this.newest.lock().unwrap_or_else(PoisonError::into_inner);
            (newest.clone(), this.events.subscribe())
        };
        let live = stream::unfold(events, |mut events| async {
            loop {
                match events.recv().await {
                    Ok(message) => return Some((message, events)),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        let event = |Message { id, data }| {
            Ok(Event::default()
                .id(id.to_string())
                .event("started")
                .data(&*data))
        };
        let messages = stream::iter(newest).chain(live).map(event);
        Sse::new(messages).keep_alive(KeepAlive::default())
    }
}
