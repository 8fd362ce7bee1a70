//! Logs in Redis: those of a Worker, and those of an object with one connection for all.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::json;
use ssetarget::access::Public;
use ssetarget::cloudflare::serve_log;
use ssetarget::store::contract;
use ssetarget::store::redis::{RedisClient, RedisConfig};
use ssetarget::{Appended, DispatchError, NewEvent, RedisEventStore, SseTarget};
use worker::{DurableObject, Env, Error, Request, Response, Result, State, durable_object};

type Target = SseTarget<NewEvent, RedisEventStore>;

/// A new connection.
pub fn client(env: &Env) -> Result<RedisClient> {
    let url = env.var("REDIS_URL")?.to_string();
    let config = RedisConfig::new().patience(Duration::from_millis(300));
    RedisClient::with_config(&url, config).map_err(|error| Error::RustError(error.to_string()))
}

pub fn target(client: &RedisClient, log: &str) -> Target {
    SseTarget::new(RedisEventStore::new(client, log))
}

/// Serves the log, or appends to it.
pub async fn respond(target: &Target, mut request: Request, path: &[&str]) -> Result<Response> {
    if path == ["sse"] {
        return serve_log(&request, "log", target, &Public).await;
    }
    let batch: Vec<NewEvent> = request.json().await?;
    match target.dispatch_encoded(batch).await {
        Ok(outcomes) => {
            let id = |outcome: &Appended| match outcome {
                Appended::Stored(id) => Some(id.get()),
                Appended::Duplicate => None,
            };
            Response::from_json(&outcomes.iter().map(id).collect::<Vec<_>>())
        }
        Err(DispatchError::Store(error)) => {
            let answer = Response::from_json(&json!({
                "kind": format!("{:?}", error.kind()),
                "mayHaveBeenStored": error.may_have_been_stored(),
            }))?;
            Ok(answer.with_status(503))
        }
        Err(error) => Response::error(error.to_string(), 400),
    }
}

/// Serves any number of logs and viewers over one connection.
#[durable_object]
pub struct RedisHub {
    env: Env,
    client: OnceLock<RedisClient>,
}

impl DurableObject for RedisHub {
    fn new(_state: State, env: Env) -> Self {
        Self {
            env,
            client: OnceLock::new(),
        }
    }

    async fn fetch(&self, request: Request) -> Result<Response> {
        let client = match self.client.get() {
            Some(client) => client,
            None => {
                let client = client(&self.env)?;
                self.client.get_or_init(|| client)
            }
        };
        let path = request.path();
        match path.trim_start_matches('/').split('/').collect::<Vec<_>>()[..] {
            ["hub", "contract"] => check_contract(client).await,
            ["hub", log, ref rest @ ..] => respond(&target(client, log), request, rest).await,
            _ => Response::error("there is no log", 404),
        }
    }
}

/// Runs the suite of stores, each check on a log of its own.
async fn check_contract(client: &RedisClient) -> Result<Response> {
    let number = Cell::new(0);
    contract::check(async || {
        number.set(number.get() + 1);
        RedisEventStore::new(client, &format!("contract-{}", number.get()))
    })
    .await;
    contract::check_reopened(async || RedisEventStore::new(client, "reopened")).await;
    Response::ok("the promise is kept")
}

/// Forwards a request to the only hub.
pub async fn ask_hub(env: &Env, request: Request) -> Result<Response> {
    let hub = env.durable_object("REDIS_HUB")?.get_by_name("hub")?;
    hub.fetch_with_request(request).await
}
