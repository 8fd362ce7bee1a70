//! A part of the log in the Durable Streams protocol (feature `durable-streams`). Runs in the object.

use std::future::pending;
use std::rc::Rc;

use worker::{Response, ResponseBuilder};

use super::error::to_worker;
use super::events_object::EventsObject;
use crate::access::Grant;
use crate::clock;
use crate::cloudflare::cutoff::Cutoff;
use crate::cloudflare::permit::Permit;
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse};
use crate::cloudflare::request::DurableCall;
use crate::cloudflare::response::{in_javascript, stream_as};
use crate::durable_streams::{Answer, Ask, Content, Failure, Means, answer};
use crate::sync::BoxFuture;

impl EventsObject {
    /// Answers a client of the protocol, as `http::Sse::durable_stream` does.
    pub(super) async fn answer_durable(
        &self,
        call: &DurableCall,
        head: bool,
        grant: Grant,
    ) -> worker::Result<Response> {
        let target = self.log.target();
        if target.store().is_empty().map_err(to_worker)? {
            return refuse(UNKNOWN_INSTANCE);
        }
        let ask = match Ask::parse(head, Some(&call.query), call.if_none_match.clone()) {
            Ok(ask) => ask,
            Err(refusal) => return refuse(refusal),
        };
        let means = Means {
            sleep: clock::sleep_with(sleep),
            stop: stop(&Permit::new(grant, self.tree.links())),
            random: js_sys::Math::random,
            is_private: call.is_private,
        };
        match answer(target.shared_store(), ask, means).await {
            Ok(answer) => respond(answer, &self.cutoff),
            Err(Failure::Refused(refusal)) => refuse(refusal),
            Err(Failure::Store(error)) => Err(to_worker(error)),
        }
    }
}

#[cfg(target_family = "wasm")]
use cloudflare_workflows::__private::sleep;

/// Makes this compile on other targets, where it does not run.
#[cfg(not(target_family = "wasm"))]
fn sleep(_: std::time::Duration) -> std::future::Pending<()> {
    pending()
}

/// Returns a future that resolves when the permit is over.
fn stop(permit: &Permit) -> BoxFuture<'static, ()> {
    #[cfg(target_family = "wasm")]
    if let Some(over) = permit.over() {
        return over;
    }
    #[cfg(not(target_family = "wasm"))]
    let _ = permit;
    Box::pin(pending())
}

fn respond<E: std::error::Error + 'static>(
    answer: Answer<E>,
    cutoff: &Rc<Cutoff>,
) -> worker::Result<Response> {
    let mut response = ResponseBuilder::new().with_status(answer.status);
    for (name, value) in answer.headers {
        response = response.with_header(name, &value)?;
    }
    match answer.content {
        Content::None | Content::LeftOut => Ok(response.empty()),
        Content::Json(json) => Ok(response.fixed(json)),
        Content::Events(frames) => stream_as(response, in_javascript(frames), cutoff),
    }
}
