//! HTTP: from a viewer's request to a log of any store.

use worker::{Request, Response};

use super::response;
use super::runtime::Timer;
use super::serve::{METHOD, Viewer, refuse};
use crate::refusal::Refusal;
use crate::{EventStore, SseTarget, body};

/// Answers a viewer's request with the events of a log that this Worker, or this Durable Object,
/// reaches itself, as one in Redis.
///
/// `200` and a stream; `204` when the log has ended and the client has seen it all, which stops an
/// `EventSource`; `400` for a malformed position; `405` with `Allow` for anything but `GET`; `503`
/// with `Retry-After` when the store fails. Reasons are plain text. A store that fails later cuts
/// the stream off, so that the client comes back for the rest.
///
/// ```ignore
/// let client = RedisClient::new(&env.secret("REDIS_URL")?.to_string()).map_err(to_worker)?;
/// let target: SseTarget<Message, _> = SseTarget::new(RedisEventStore::new(&client, "chat"));
/// serve_log(&target, &request).await
/// ```
///
/// # Errors
/// When a response cannot be made.
pub async fn serve_log<E, S: EventStore + 'static>(
    target: &SseTarget<E, S>,
    request: &Request,
) -> worker::Result<Response> {
    // Not `request.method()`, which takes a method that it does not know for GET.
    if request.inner().method() != "GET" {
        return refuse(METHOD);
    }
    let viewer = match Viewer::from_request(request.inner()) {
        Ok(viewer) => viewer,
        Err(refusal) => return refuse(refusal),
    };
    match target.subscribe(viewer.cursor).await {
        Ok(subscription) if subscription.has_ended() => response::ended(),
        Ok(subscription) => {
            let timer = Timer::new();
            let chunks = body(subscription, move |duration| timer.sleep(duration));
            response::stream_here(response::in_javascript(chunks))
        }
        Err(error) => {
            // The reason is for the developer; a viewer cannot do anything with it.
            worker::console_error!("ssetarget: a log cannot be read: {error}");
            refuse(Refusal::Unavailable)
        }
    }
}
