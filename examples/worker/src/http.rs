//! Requests in, responses out.

use serde::de::DeserializeOwned;
use worker::js_sys::{JSON, Object, Reflect};
use worker::wasm_bindgen::{JsCast, JsValue};
use worker::{Request, Response, ResponseBuilder, Result};

const RUN_PAGE: &str = include_str!("page/index.html");
const START_PAGE: &str = include_str!("page/start.html");
const START_SCRIPT: &str = include_str!("page/start.js");
const SCRIPT: &str = include_str!("page/page.js");
const STYLE: &str = include_str!("page/page.css");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; \
    frame-ancestors 'none'";

/// A body of JSON. Kept as JavaScript has it, whose strings may have what Rust's cannot.
#[derive(Default)]
pub struct Body(Object);

/// The most that the platform takes as params or as an event's payload.
const MAX_BODY: usize = 1024 * 1024;

/// The body, `None` if there is none, or the status and the reason to refuse it with.
pub async fn json_body(request: &mut Request) -> std::result::Result<Option<Body>, (u16, String)> {
    let text = request
        .text()
        .await
        .map_err(|error| (400, format!("the body cannot be read: {error}")))?;
    if text.len() > MAX_BODY {
        // Here and not by the platform, whose local runtime takes more than the real one.
        return Err((413, "the body is larger than 1 MiB".to_owned()));
    }
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value = JSON::parse(&text).map_err(|error| {
        let reason = Reflect::get(&error, &"message".into()).ok();
        let reason = reason
            .and_then(|reason| reason.as_string())
            .unwrap_or_default();
        (400, format!("the body is not JSON: {reason}"))
    })?;
    match value.dyn_into::<Object>() {
        Ok(object) if !object.is_instance_of::<worker::js_sys::Array>() => Ok(Some(Body(object))),
        _ => Err((400, "the body is JSON, but not an object".to_owned())),
    }
}

impl Body {
    pub fn read<T: DeserializeOwned>(&self) -> std::result::Result<T, String> {
        // Half a surrogate pair, which Rust's strings cannot hold, is read as U+FFFD.
        serde_wasm_bindgen::from_value((*self.0).clone()).map_err(|error| {
            // Displayed as JavaScript does it, with the error's class in front.
            let reason = error.to_string();
            reason.strip_prefix("Error: ").unwrap_or(&reason).to_owned()
        })
    }

    /// The name of a property that is not one of these: serde-wasm-bindgen does not look for any.
    pub fn other_than(&self, names: &[&str]) -> Option<String> {
        let properties = Object::keys(&self.0);
        properties
            .iter()
            .filter_map(|name| name.as_string())
            .find(|name| !names.contains(&name.as_str()))
    }

    pub fn property(&self, name: &str) -> JsValue {
        Reflect::get(&self.0, &name.into()).unwrap_or(JsValue::UNDEFINED)
    }
}

pub fn wants_html(request: &Request) -> bool {
    let accept = request.headers().get("accept").ok().flatten();
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// `303` to the events of a new run.
pub fn started(id: &str) -> Result<Response> {
    ResponseBuilder::new()
        .with_status(303)
        .with_header("location", &format!("/{id}/sse"))?
        .from_json(&serde_json::json!({ "id": id }))
}

pub fn sent(event_type: &str) -> Result<Response> {
    Response::from_json(&serde_json::json!({ "sent": event_type }))
}

pub fn run_page(status: u16) -> Result<Response> {
    file(status, "text/html; charset=utf-8", RUN_PAGE)
}

pub fn start_page() -> Result<Response> {
    file(200, "text/html; charset=utf-8", START_PAGE)
}

pub fn asset(name: &str) -> Result<Response> {
    match name {
        "page.js" => file(200, "text/javascript; charset=utf-8", SCRIPT),
        "start.js" => file(200, "text/javascript; charset=utf-8", START_SCRIPT),
        "page.css" => file(200, "text/css; charset=utf-8", STYLE),
        _ => text(404, "there is nothing here"),
    }
}

pub fn method_not_allowed(allow: &str) -> Result<Response> {
    text(405, &format!("use {allow}"))?.with_header("allow", allow)
}

pub fn text(status: u16, reason: &str) -> Result<Response> {
    Ok(ResponseBuilder::new()
        .with_status(status)
        .with_header("content-type", "text/plain; charset=utf-8")?
        .fixed(format!("{reason}\n").into_bytes()))
}

fn file(status: u16, content_type: &str, content: &str) -> Result<Response> {
    Ok(ResponseBuilder::new()
        .with_status(status)
        .with_header("content-type", content_type)?
        .with_header("content-security-policy", POLICY)?
        .with_header("x-content-type-options", "nosniff")?
        .with_header("cache-control", "no-cache")?
        .fixed(content.as_bytes().to_vec()))
}

/// Responses that exist already, as `ResponseBuilder` does it.
trait WithHeader: Sized {
    fn with_header(self, name: &str, value: &str) -> Result<Self>;
}

impl WithHeader for Response {
    fn with_header(self, name: &str, value: &str) -> Result<Self> {
        self.headers().set(name, value)?;
        Ok(self)
    }
}
