//! Requests in, responses out.

use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use worker::{Request, Response, ResponseBuilder, Result};

const START_PAGE: &str = include_str!("page/start.html");
const RUNS: &str = include_str!("page/runs.html");
const OPEN: &str = include_str!("page/open.html");
const CLOSED: &str = include_str!("page/closed.html");
const SCRIPT: &str = include_str!("page/start.js");
const STYLE: &str = include_str!("page/start.css");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; \
    frame-ancestors 'none'";

/// A body that is an object of JSON.
#[derive(Default)]
pub struct Body(Map<String, Value>);

/// The most that the platform takes as params or as an event's payload.
const MAX_BODY: usize = 1024 * 1024;

/// The body, `None` if there is none, or the status and the reason to refuse it with.
pub async fn json_body(request: &mut Request) -> std::result::Result<Option<Body>, (u16, String)> {
    let text = text_body(request).await?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    // Goes 128 levels deep at most.
    let value = serde_json::from_str(&well_formed(&text))
        .map_err(|error| (400, format!("the body is not JSON: {}", brief(&error))))?;
    match value {
        Value::Object(object) => Ok(Some(Body(object))),
        _ => Err((400, "the body is JSON, but not an object".to_owned())),
    }
}

/// Reads at most the limit. The check is here and not left to the platform, whose local runtime takes more than the
/// real one.
async fn text_body(request: &mut Request) -> std::result::Result<String, (u16, String)> {
    let too_large = || (413, "the body is larger than 1 MiB".to_owned());
    let length = request.headers().get("content-length").ok().flatten();
    let length = length.and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // There is no stream without a body. A stream that is dropped before its end is cancelled.
    if let Ok(mut stream) = request.stream() {
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| (400, "the body cannot be read".to_owned()))?;
            if bytes.len() + chunk.len() > MAX_BODY {
                return Err(too_large());
            }
            bytes.extend(chunk);
        }
    }
    String::from_utf8(bytes).map_err(|_| (400, "the body is not UTF-8".to_owned()))
}

/// Returns JSON whose strings are Unicode. Half a surrogate pair, which strings of JavaScript can have and those of Rust
/// cannot, becomes U+FFFD.
fn well_formed(json: &str) -> String {
    let code = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let mut written = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        written.push_str(before);
        let pair = escape.get(6..).and_then(code);
        let length = match (code(escape), pair) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                written.push('\u{FFFD}');
                rest = &escape[6..];
                continue;
            }
            // A backslash and what it escapes, which may be another.
            _ => 1 + escape.chars().nth(1).map_or(0, char::len_utf8),
        };
        let (escape, behind) = escape.split_at(length);
        written.push_str(escape);
        rest = behind;
    }
    written.push_str(rest);
    written
}

/// The beginning of serde's message, which may contain much of the body.
fn brief(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The members of a body, as a type.
pub fn read<T: DeserializeOwned>(body: Body) -> std::result::Result<T, String> {
    serde_json::from_value(Value::Object(body.0)).map_err(|error| brief(&error))
}

pub fn accepts(request: &Request, media_type: &str) -> bool {
    let accept = request.headers().get("accept").ok().flatten();
    accept.is_some_and(|accept| accept.contains(media_type))
}

/// `303` to the events of a new run, or to its page if the demo is closed. `201` for a script, which cannot see the
/// target of a redirect.
pub fn started(request: &Request, id: &str, link: Option<&str>) -> Result<Response> {
    let page = link.map_or_else(|| format!("/{id}"), str::to_owned);
    let target = link.map_or_else(|| format!("/{id}/sse"), str::to_owned);
    let body = match (link, accepts(request, "application/json")) {
        (None, false) => serde_json::json!({ "id": id }),
        _ => serde_json::json!({ "id": id, "page": page }),
    };
    let status = match accepts(request, "application/json") {
        true => 201,
        false => 303,
    };
    ResponseBuilder::new()
        .with_status(status)
        .with_header("location", &target)?
        .with_header("cache-control", "no-store")?
        .with_header("referrer-policy", "no-referrer")?
        .from_json(&body)
}

/// The start page. It lists all orders if everybody may see them, and says who may see what.
pub fn start_page(is_closed: bool) -> Result<Response> {
    let access = if is_closed { CLOSED } else { OPEN };
    // A closed demo shows no list of runs: a link is for one run.
    let runs = if is_closed { "" } else { RUNS };
    let page = START_PAGE
        .replace("{access}", access.trim())
        .replace("{runs}", runs.trim())
        .replace("{hash}", ssetarget::page::RUNS_ASSETS[0].hash);
    file("text/html; charset=utf-8", &page)
}

pub fn asset(name: &str) -> Result<Response> {
    match name {
        "start.js" => file("text/javascript; charset=utf-8", SCRIPT),
        "start.css" => file("text/css; charset=utf-8", STYLE),
        _ => text(404, "there is nothing here"),
    }
}

pub fn method_not_allowed(allow: &str) -> Result<Response> {
    text(405, &format!("use {allow}"))?.with_header("allow", allow)
}

pub fn text(status: u16, reason: &str) -> Result<Response> {
    Ok(guarded(status, "text/plain; charset=utf-8")?.fixed(format!("{reason}\n").into_bytes()))
}

fn file(content_type: &str, content: &str) -> Result<Response> {
    Ok(guarded(200, content_type)?
        .with_header("cache-control", "no-cache")?
        .fixed(content.as_bytes().to_vec()))
}

/// Headers that limit a browser to the intended use of a response.
fn guarded(status: u16, content_type: &str) -> Result<ResponseBuilder> {
    ResponseBuilder::new()
        .with_status(status)
        .with_header("content-type", content_type)?
        .with_header("content-security-policy", POLICY)?
        .with_header("referrer-policy", "no-referrer")?
        .with_header("x-content-type-options", "nosniff")
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
