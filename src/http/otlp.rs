//! The trace of a log as the answer to a `GET` (feature `otlp`).

use std::error::Error;
use std::sync::Arc;

use ::http::{Method, Request, Response};
use futures_util::StreamExt;

use super::{Caller, Sse, SseBody, StreamCut, response};
use crate::delivery::SseTarget;
use crate::otlp::{HEADERS, ReadError, Trace, Unfinished, document, is_partial};
use crate::refusal::Refusal;
use crate::store::EventStore;

impl Sse {
    /// Returns the response to a request for the trace of this log: `200` with one JSON document, an
    /// `ExportTraceServiceRequest` of OTLP, which is read from the store while it is sent. A store that fails
    /// meanwhile breaks it off.
    ///
    /// `?partial` adds spans that have not ended. `HEAD` gets the status and headers of `GET`, any other method `405`
    /// with `Allow`, and a preflight the answer of [`Sse::cors`]. Check before the call who may ask, and whether
    /// there is such a log.
    ///
    /// ```
    /// # use ssetarget::{MemoryEventStore, NewEvent, SseTarget};
    /// use ssetarget::http::Sse;
    /// use ssetarget::otlp::Trace;
    ///
    /// # let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    /// let request = http::Request::get("/import-7/otlp").body(())?;
    /// let response = Sse::new().otlp(&target, &Trace::new("import-7"), &request);
    /// assert_eq!(response.headers()["content-type"], "application/json");
    /// # Ok::<(), http::Error>(())
    /// ```
    pub fn otlp<E, S, B>(
        &self,
        target: &SseTarget<E, S>,
        trace: &Trace,
        request: &Request<B>,
    ) -> Response<SseBody<S::Error>>
    where
        S: EventStore + 'static,
    {
        let caller = Caller::from_request(self, request);
        if let Some(preflight) = caller.preflight() {
            return preflight;
        }
        if !caller.head && *request.method() != Method::GET {
            return self.refuse_to(&caller, Refusal::Method { allow: "GET, HEAD" });
        }
        let unfinished = match is_partial(request.uri().query()) {
            true => Unfinished::Partial,
            false => Unfinished::LeaveOut,
        };
        let body = match caller.head {
            true => SseBody::left_out(),
            false => {
                let on_error = Arc::clone(&self.on_error);
                let parts = document(&target.typed::<()>(), trace, unfinished);
                SseBody::parts(parts.map(move |part| {
                    part.map_err(|error| {
                        on_error(&error);
                        cut(error)
                    })
                }))
            }
        };
        caller.may_read(response(200, HEADERS, body))
    }
}

fn cut<E: Error>(error: ReadError<E>) -> StreamCut<E> {
    match error {
        ReadError::Store(error) => StreamCut::Store(error),
        ReadError::Removed => StreamCut::Unavailable,
    }
}
