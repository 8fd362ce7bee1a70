//! Refusals as responses. Runs in the Worker and in the object.

use worker::{Response, ResponseBuilder, web_sys};

use super::response;
use crate::refusal::Refusal;
use crate::security;

pub(super) const UNKNOWN_INSTANCE: Refusal =
    Refusal::NotFound("there is no workflow instance with this id");

/// Logs why the events of an instance cannot be reached, and returns the refusal for its viewer, for whom the reason
/// is of no use.
pub(super) fn unreachable(error: &worker::Error) -> Refusal {
    worker::console_error!("ssetarget: the events of an instance cannot be reached: {error}");
    Refusal::Unavailable
}

/// Returns the response that refuses a viewer's request, or makes it [wait](Refusal::hold).
pub(super) fn refuse_to(request: &web_sys::Request, refusal: Refusal) -> worker::Result<Response> {
    let accept = request.headers().get("accept").ok().flatten();
    match refusal.hold(accept.as_deref(), js_sys::Math::random()) {
        Some(_) if request.method() == "HEAD" => response::left_out(),
        Some(time) => response::hold(time),
        None => refuse(refusal),
    }
}

/// Returns a response with a program's own status and reason, as plain text.
pub(super) fn refuse_text(status: u16, reason: &str) -> worker::Result<Response> {
    let mut response = ResponseBuilder::new().with_status(status);
    for (name, value) in security::PLAIN.into_iter().chain(security::TEXT) {
        response = response.with_header(name, value)?;
    }
    Ok(response.fixed(format!("{reason}\n").into_bytes()))
}

/// Returns the response of a refusal.
pub(super) fn refuse(refusal: Refusal) -> worker::Result<Response> {
    let mut response = ResponseBuilder::new().with_status(refusal.status());
    for (name, value) in refusal.headers() {
        response = response.with_header(name, value)?;
    }
    Ok(response.fixed(refusal.body().into_bytes()))
}
