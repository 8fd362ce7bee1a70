//! Gates that steps wait for and tests open. They keep records of what happened. The object panics
//! on request.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use worker::{
    Delay, DurableObject, Env, Method, Request, RequestInit, Response, Result, State,
    durable_object,
};

/// A gate. It stores whether it is open, and counts the requests since it was loaded.
#[durable_object]
pub struct Gate {
    state: State,
    requests: AtomicU32,
}

impl DurableObject for Gate {
    fn new(state: State, _env: Env) -> Self {
        Self {
            state,
            requests: AtomicU32::new(0),
        }
    }

    async fn fetch(&self, request: Request) -> Result<Response> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        match request.path().as_str() {
            "/open" => self.state.storage().put("open", true).await?,
            #[allow(clippy::panic, reason = "what is tested")]
            "/panic" => panic!("the gate panics"),
            #[allow(clippy::panic, reason = "what is tested")]
            "/panic-later" => {
                Delay::from(Duration::from_millis(1)).await;
                panic!("the gate panics later");
            }
            "/record" => {
                let url = request.url()?;
                let (_, entry) = url.query_pairs().next().unwrap_or_default();
                let mut records = self.records().await?;
                records.push(serde_json::from_str(&entry)?);
                self.state.storage().put("records", records).await?;
            }
            "/records" => return Response::from_json(&self.records().await?),
            _ => {}
        }
        let open = self.state.storage().get::<bool>("open").await?;
        Response::from_json(&serde_json::json!({
            "open": open.unwrap_or(false),
            "requests": self.requests.load(Ordering::Relaxed),
        }))
    }
}

impl Gate {
    async fn records(&self) -> Result<Vec<Value>> {
        let records = self.state.storage().get("records").await?;
        Ok(records.unwrap_or_default())
    }
}

/// Adds to the records of this gate.
pub async fn record(env: &Env, name: &str, entry: &Value) -> Result<()> {
    let entry = String::from(js_sys::encode_uri_component(&entry.to_string()));
    ask(env, name, &format!("record?entry={entry}")).await?;
    Ok(())
}

/// Sends a request for this path to the gate of this name.
pub async fn ask(env: &Env, name: &str, path: &str) -> Result<Response> {
    let mut init = RequestInit::new();
    init.with_method(Method::Get);
    let request = Request::new_with_init(&format!("http://gate/{path}"), &init)?;
    let gate = env.durable_object("GATE")?.get_by_name(name)?;
    gate.fetch_with_request(request).await
}

/// Resolves once the gate is open.
pub async fn wait(env: &Env, name: &str) -> Result<()> {
    loop {
        let status: Value = ask(env, name, "status").await?.json().await?;
        if status["open"] == true {
            return Ok(());
        }
        Delay::from(Duration::from_millis(25)).await;
    }
}
