//! [`Cors`] for the types of the crate `http`.

use std::borrow::Cow;

use ::http::header::{self, HeaderMap, HeaderName};
use ::http::{HeaderValue, Request};

use crate::cors::{Cors, CorsAnswer};

pub(crate) fn answer<B>(cors: &Cors, request: &Request<B>) -> CorsAnswer {
    let headers = request.headers();
    let origin = joined(headers, &header::ORIGIN);
    let asks = joined(headers, &header::ACCESS_CONTROL_REQUEST_METHOD);
    cors.answer(
        request.method().as_str(),
        origin.as_deref(),
        asks.as_deref(),
    )
}

/// Adds the CORS headers to a response.
pub(crate) fn apply(answer: &CorsAnswer, headers: &mut HeaderMap) {
    for (name, value) in answer.headers() {
        // Both were checked when they were set.
        let Ok(value) = HeaderValue::from_str(value) else {
            continue;
        };
        let name = HeaderName::from_static(name);
        if name != header::VARY {
            headers.insert(name, value);
        } else if !varies(headers, &value) {
            headers.append(name, value);
        }
    }
}

/// Returns whether the response has this `vary` already.
fn varies(headers: &HeaderMap, by: &HeaderValue) -> bool {
    let lists = headers.get_all(header::VARY).iter();
    let mut names = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
    names.any(|name| {
        let name = name.trim_ascii();
        name == b"*" || name.eq_ignore_ascii_case(by.as_bytes())
    })
}

/// Returns a header's value. Repeated values are joined by commas (RFC 9110, section 5.3), as
/// Workers do. A value that is not text becomes one that nothing allows.
pub(super) fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter();
    let mut joined = String::from_utf8_lossy(values.next()?.as_bytes());
    for value in values {
        let joined = joined.to_mut();
        joined.push_str(", ");
        joined.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    Some(joined)
}
