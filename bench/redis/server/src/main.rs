//! A server of this library on Redis, with the routes of `../original.mjs`.
//!
//! `bench-redis REDIS_URL LOG`, prints the port.

use std::error::Error;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{Router, post};
use futures_util::future::try_join_all;
use serde::Deserialize;
use ssetarget::axum::sse;
use ssetarget::store::redis::{RedisClient, RedisEventStore};
use ssetarget::{NewEvent, SseTarget};
use tokio::net::TcpListener;

type Target = SseTarget<NewEvent, RedisEventStore>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(log)) = (arguments.next(), arguments.next()) else {
        return Err("bench-redis REDIS_URL LOG".into());
    };
    let client = RedisClient::new(url.as_str())?;
    let target: Target = SseTarget::new(RedisEventStore::new(&client, &log));
    let app = Router::new()
        .route("/dispatch", post(dispatch))
        .with_state(target.clone())
        .route("/sse", sse(target));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    axum::serve(listener, app).await?;
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dispatch {
    writer: u32,
    count: u32,
    #[serde(default = "one")]
    burst: u32,
    #[serde(default)]
    pause_ms: u64,
    equal: Option<String>,
}

fn one() -> u32 {
    1
}

async fn dispatch(
    State(target): State<Target>,
    Query(request): Query<Dispatch>,
) -> Result<&'static str, (StatusCode, String)> {
    let mut first = 1;
    while first <= request.count {
        let numbers = first..first + request.burst;
        first = numbers.end;
        try_join_all(numbers.map(|n| store(&target, &request, n)))
            .await
            .map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error))?;
        tokio::time::sleep(Duration::from_millis(request.pause_ms)).await;
    }
    Ok("dispatched\n")
}

async fn store(target: &Target, request: &Dispatch, n: u32) -> Result<(), String> {
    let n = if request.equal.is_some() { 0 } else { n };
    let data = format!(r#"{{"writer":{},"n":{n}}}"#, request.writer);
    let event = NewEvent::new("tick", data).map_err(|error| error.to_string())?;
    let stored = target.dispatch_encoded(vec![event]).await;
    stored.map(drop).map_err(|error| error.to_string())
}
