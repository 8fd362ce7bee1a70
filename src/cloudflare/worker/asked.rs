//! Asks the hook about a viewer's request. Runs in the Worker.

use worker::web_sys;

use crate::access::{Access, AccessRequest, Action, Grant};
use crate::cloudflare::request::query;
use crate::refusal::Refusal;

/// The parts of a request that a hook may look at.
pub(in crate::cloudflare) struct Asked {
    authorization: Option<String>,
    cookies: Option<String>,
    origin: Option<String>,
    url: String,
}

impl Asked {
    pub(in crate::cloudflare) fn from_request(request: &web_sys::Request) -> Self {
        let header = |name| request.headers().get(name).ok().flatten();
        Self {
            authorization: header("authorization"),
            cookies: header("cookie"),
            origin: header("origin"),
            url: request.url(),
        }
    }

    pub(in crate::cloudflare) fn about<'a>(
        &'a self,
        workflow: Option<&'a str>,
        id: &'a str,
        action: Action,
    ) -> AccessRequest<'a> {
        let mut request = AccessRequest::new(id, action);
        request.workflow = workflow;
        request.authorization = self.authorization.as_deref();
        request.cookies = self.cookies.as_deref();
        request.origin = self.origin.as_deref();
        request.query = query(&self.url);
        request
    }
}

/// Lets the hook decide whether the events of this id may be read.
pub(super) async fn may_watch(
    access: &impl Access,
    request: &web_sys::Request,
    workflow: Option<&str>,
    id: &str,
) -> Result<Grant, Refusal> {
    // In a block of its own: a decision may take long, and needs no copy of the headers.
    let decision = {
        let asked = Asked::from_request(request);
        access.decide(&asked.about(workflow, id, Action::Watch))
    };
    Grant::from_permission(decision.await)
}
