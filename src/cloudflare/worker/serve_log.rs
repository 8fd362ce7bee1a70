//! The answer to a viewer's request for a log of any store. Runs in the Worker, or in an object of your own.

use cloudflare_workflows::__private::Timer;
use worker::{Request, Response};

use super::asked::may_watch;
use crate::access::Access;
use crate::cloudflare::permit::Permit;
use crate::cloudflare::refuse::refuse_to;
use crate::cloudflare::request::StreamRequest;
use crate::cloudflare::response;
use crate::delivery::{SseTarget, body};
use crate::refusal::Refusal;
use crate::store::EventStore;

/// Answers a viewer's request with the events of a log that this Worker, or this Durable Object, reaches itself, such
/// as one in Redis.
///
/// `200` and a stream; `204` when the log has ended and the client has seen it all, which stops an `EventSource`;
/// `400` for a malformed position; `405` with `Allow` for anything but `GET` and `HEAD`; `503` with `Retry-After`
/// when the store fails, or for an `EventSource` a stream that breaks off, as with
/// [`serve_sse`](crate::cloudflare::serve_sse). Reasons are plain text. A store that fails later cuts the stream off,
/// so that the client comes back for the rest. Headers of the response can be set; for pages of other origins see
/// [`Cors`](crate::cors::Cors).
///
/// `access` decides who may watch, as with `serve_sse`. It gets this `id`, which nothing else uses.
///
/// ```no_run
/// use ssetarget::access::Public;
/// use ssetarget::cloudflare::serve_log;
/// use ssetarget::{MemoryEventStore, NewEvent, SseTarget};
/// use worker::{Request, Response};
///
/// // Any store: one in Redis, for example.
/// type Chat = SseTarget<NewEvent, MemoryEventStore>;
///
/// async fn chat(request: &Request, chat: &Chat) -> worker::Result<Response> {
///     serve_log(request, "chat", chat, &Public).await
/// }
/// ```
///
/// # Errors
/// When a response cannot be made.
pub async fn serve_log<E, S: EventStore + 'static>(
    request: &Request,
    id: &str,
    target: &SseTarget<E, S>,
    access: &impl Access,
) -> worker::Result<Response> {
    let request = request.inner();
    // `target` is not touched before.
    let grant = match may_watch(access, request, None, id).await {
        Ok(grant) => grant,
        Err(refusal) => return refuse_to(request, refusal),
    };
    let stream = match StreamRequest::from_request(request) {
        Ok(stream) => stream,
        Err(refusal) => return refuse_to(request, refusal),
    };
    match target.subscribe(stream.cursor).await {
        Ok(subscription) if subscription.has_ended() => response::ended(),
        Ok(_) if stream.head => response::left_out(),
        Ok(subscription) => {
            let timer = Timer::new();
            let chunks = body(subscription, move |duration| timer.sleep(duration));
            let permit = Permit::until_end(grant);
            response::stream_here(response::in_javascript(chunks), &permit)
        }
        Err(error) => {
            // The reason is for the developer; it is of no use to a viewer.
            worker::console_error!("ssetarget: a log cannot be read: {error}");
            refuse_to(request, Refusal::Unavailable)
        }
    }
}
