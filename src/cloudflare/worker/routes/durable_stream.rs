//! `GET /<id>/stream`. Runs in the Worker.

use futures_util::future::LocalBoxFuture;
use worker::Response;

use super::{Call, Route};
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse, unreachable};
use crate::cloudflare::request::{DurableCall, StreamRequest, query};
use crate::cloudflare::worker::cors::with_own_headers;
use crate::cloudflare::worker::instance_id::is_instance_id;
use crate::refusal::Refusal;
use crate::run_path::RunPath;

/// The run's events in the Durable Streams protocol.
pub(in crate::cloudflare::worker) struct DurableStreamRoute;

impl Route for DurableStreamRoute {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        path.tail == "/stream"
    }

    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>> {
        Box::pin(async move {
            match answer(call).await {
                Ok(response) => with_own_headers(response),
                // The client is not an `EventSource`, whatever it accepts.
                Err(refusal) => refuse(refusal),
            }
        })
    }
}

async fn answer(call: Call<'_>) -> Result<Response, Refusal> {
    let mut stream = StreamRequest::from_request(call.request)?;
    stream.grant = call.grant.unwrap_or_default();
    if !is_instance_id(call.id) {
        return Err(UNKNOWN_INSTANCE);
    }
    stream.durable = Some(DurableCall {
        query: query(&call.request.url()).unwrap_or_default().to_owned(),
        if_none_match: call.request.headers().get("if-none-match").ok().flatten(),
        is_private: call.is_private,
    });
    let name = call.events.object_name(call.id);
    let ask = async || {
        let request = stream.to_object_request();
        call.events.request(&name, &request).await
    };
    // An object that was reset is there again at the next request.
    let mut response = ask().await;
    for _ in 0..2 {
        if response.is_err() {
            response = ask().await;
        }
    }
    response.map_err(|error| unreachable(&error))
}
