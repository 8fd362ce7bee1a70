//! Events as a response.

use std::fmt;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;
use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use worker::{Response, ResponseBuilder};

use super::js;
use super::runtime::sleep;
use crate::{EventStore, Subscription, body, wire};

/// Answers with a subscription's events: `200` and their stream, or `204` where it
/// [has ended](Subscription::has_ended), which tells an `EventSource` to stop.
///
/// For an object of your own that has a log: see [`ObjectSql`](super::ObjectSql). The bytes go
/// through the runtime's own `IdentityTransformStream`, whose writes wait until what the object
/// stored before is durable, so that no viewer sees an event that could still be lost. They stop
/// when the viewer is gone. An error of the store cuts the stream off, so that the client comes
/// back for the rest.
///
/// # Errors
/// When the runtime refuses the stream or a header.
pub fn sse_response<S: EventStore + 'static>(
    subscription: Subscription<S>,
) -> worker::Result<Response> {
    if subscription.has_ended() {
        return ended();
    }
    let (response, pump) = stream(body(subscription, sleep))?;
    wasm_bindgen_futures::spawn_local(pump);
    Ok(response)
}

/// `204`, which tells an `EventSource` to stop.
pub(super) fn ended() -> worker::Result<Response> {
    let mut response = ResponseBuilder::new().with_status(204);
    for (name, value) in wire::END_HEADERS {
        response = response.with_header(name, value)?;
    }
    Ok(response.empty())
}

/// `200` and these chunks, which the future writes as long as the viewer takes them.
pub(super) fn stream<E: fmt::Display>(
    chunks: impl Stream<Item = Result<Bytes, E>>,
) -> worker::Result<(Response, impl Future<Output = ()>)> {
    let stream = js::IdentityTransformStream::new()?;
    let writer = stream.writable().get_writer()?;
    let mut response = ResponseBuilder::new();
    for (name, value) in wire::HEADERS {
        response = response.with_header(name, value)?;
    }
    Ok((response.stream(stream.readable()), pump(chunks, writer)))
}

/// Writes chunks until they end or the viewer is gone. One is under way at a time: the write's
/// promise is the only sign that the viewer took it.
async fn pump<E: fmt::Display>(chunks: impl Stream<Item = Result<Bytes, E>>, writer: js::Writer) {
    let mut chunks = std::pin::pin!(chunks);
    while let Some(chunk) = chunks.next().await {
        let written = match chunk {
            Ok(chunk) => writer.write(&Uint8Array::from(&*chunk)).await,
            Err(error) => {
                worker::console_error!("ssetarget: a viewer's stream is cut off: {error}");
                // Not a clean end, so that the client comes back for the rest.
                let _ = writer
                    .abort(&JsValue::from_str("the event log failed"))
                    .await;
                return;
            }
        };
        if written.is_err() {
            // The viewer is gone.
            return;
        }
    }
    let _ = writer.close().await;
}
