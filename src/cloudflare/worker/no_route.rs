//! Replaces `route` where the feature `relays` is off: the object that has the log takes each viewer. Runs in the
//! Worker.

use futures_util::future::LocalBoxFuture;
use worker::web_sys;

use super::namespace::WorkflowEventsNamespace;
use crate::cloudflare::request::StreamRequest;

/// Sends the request to the object of this instance, and returns its answer.
///
/// An object that does not answer is asked again. One that was reset by a deploy or that panicked is there again at
/// the next request, while a browser's `EventSource` gives up at an error.
pub(super) fn send<'a>(
    instance_id: &str,
    stream: &StreamRequest,
    events: &'a WorkflowEventsNamespace,
) -> LocalBoxFuture<'a, worker::Result<web_sys::Response>> {
    const TRIES: u32 = 3;
    let name = events.object_name(instance_id);
    let request = stream.to_object_request();
    Box::pin(async move {
        let mut tried = 1;
        loop {
            let response = events.request_raw(&name, &request).await;
            if response.is_ok() || tried == TRIES {
                return response;
            }
            tried += 1;
        }
    })
}
