//! Asks a hook about a request with the types of the crate `http`.

use ::http::header::{AUTHORIZATION, COOKIE, ORIGIN};
use ::http::{HeaderMap, Request};

use super::cors::joined;
use crate::access::{Access, AccessRequest, Action};

/// Starts the hook's decision about a request.
pub(super) fn decide<A: Access, B>(
    access: &A,
    request: &Request<B>,
    id: &str,
    action: Action,
) -> A::Decision {
    decide_about(access, request, id, action, false)
}

/// Has the hook decide about the list of a tag's logs.
pub(super) fn decide_list<A: Access, B>(access: &A, request: &Request<B>, id: &str) -> A::Decision {
    decide_about(access, request, id, Action::Watch, true)
}

fn decide_about<A: Access, B>(
    access: &A,
    request: &Request<B>,
    id: &str,
    action: Action,
    is_list: bool,
) -> A::Decision {
    let headers = request.headers();
    let (authorization, origin) = (joined(headers, &AUTHORIZATION), joined(headers, &ORIGIN));
    let cookies = cookies(headers);
    let mut asked = AccessRequest::new(id, action);
    asked.authorization = authorization.as_deref();
    asked.cookies = cookies.as_deref();
    asked.origin = origin.as_deref();
    asked.query = request.uri().query();
    asked.is_list = is_list;
    access.decide(&asked)
}

/// Returns all cookies in one string: HTTP/2 may have several headers (RFC 9113, section 8.2.3).
fn cookies(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(COOKIE).iter();
    let cookies: Vec<_> = cookies.filter_map(|cookie| cookie.to_str().ok()).collect();
    (!cookies.is_empty()).then(|| cookies.join("; "))
}

/// Copies a request without its body, which need not be `Send`.
pub(super) fn head<B>(request: &Request<B>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.headers_mut() = request.headers().clone();
    head
}
