//! A log in the Durable Streams protocol as the answer to a `GET` (feature `durable-streams`).

use std::future::{Future, pending};
use std::sync::Arc;

use ::http::header::{ACCESS_CONTROL_EXPOSE_HEADERS, IF_NONE_MATCH};
use ::http::{HeaderName, HeaderValue, Method, Request, Response};
use futures_util::future::select;
use futures_util::{FutureExt, StreamExt};

use super::{Caller, Sse, SseBody, StreamCut, cors, random, response};
use crate::access::{Grant, Permission};
use crate::clock;
use crate::delivery::{SseTarget, reached};
use crate::durable_streams::{self, Answer, Ask, Content, EXPOSED, Failure, Means};
use crate::refusal::Refusal;
use crate::store::EventStore;
use crate::sync::{BoxFuture, MaybeSend};

impl Sse {
    /// Returns the response to a client of the [Durable Streams](https://github.com/durable-streams/durable-streams)
    /// protocol, which reads this log as a stream of JSON messages `{"id":7,"type":"note","data":…}`. Data that is
    /// not JSON becomes a string. Nothing can be written this way.
    ///
    /// | request | response |
    /// |---|---|
    /// | `GET ?offset=` | `200`, a JSON array of the next messages, up to about 128 KiB, with an `ETag`; `304` if the client has it |
    /// | `GET ?offset=&live=long-poll` | `200` as soon as there is a message, `204` after 20 seconds |
    /// | `GET ?offset=&live=sse` | `200`, events of the types `data` and `control`, for a minute |
    /// | `HEAD` | `200`, and where the stream ends |
    /// | a malformed offset or mode | `400` |
    /// | an offset that is not in the log, or no longer | `410` |
    /// | any other method | `405` |
    ///
    /// `Stream-Next-Offset`, `Stream-Up-To-Date`, `Stream-Closed` and `Stream-Cursor` are those of the protocol;
    /// pages of other origins that [`cors`](Self::cors) lists may read them. The stream is closed when the newest
    /// event is terminal. The protocol cannot take an end back: a client that has read one does not come back for the
    /// events of a restarted run, but a client that comes later reads them, too.
    ///
    /// Shared caches may keep a full part for a minute if everybody may read the log: with [`Permission::granted`]. With
    /// any other permission, and after [`Sse::private`], they keep nothing. If your own check returns
    /// [`Permission::granted`] for some clients and refuses others, call [`Sse::private`].
    ///
    /// ```
    /// # use ssetarget::access::Permission;
    /// # use ssetarget::{MemoryEventStore, NewEvent, SseTarget, http::Sse};
    /// # futures_executor::block_on(async {
    /// # let sse = Sse::with_sleep(|_| std::future::pending());
    /// let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    /// target.dispatch_encoded(vec![NewEvent::new("done", "{}")?.terminal()]).await?;
    ///
    /// let request = http::Request::get("/job-1/stream?offset=-1").body(())?;
    /// let response = sse.durable_stream(&target, &request, Permission::granted()).await;
    /// assert_eq!(response.headers()["stream-next-offset"], "0000000000000001");
    /// assert_eq!(response.headers()["stream-closed"], "true");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn durable_stream<E, S, B>(
        &self,
        target: &SseTarget<E, S>,
        request: &Request<B>,
        permission: Permission,
    ) -> impl Future<Output = Response<SseBody<S::Error>>> + MaybeSend + use<E, S, B>
    where
        S: EventStore + 'static,
    {
        self.durable_stream_of(target, request, permission, false)
    }

    /// As [`durable_stream`](Self::durable_stream). `is_private` says that a hook decides who may read.
    pub(super) fn durable_stream_of<E, S, B>(
        &self,
        target: &SseTarget<E, S>,
        request: &Request<B>,
        permission: Permission,
        is_private: bool,
    ) -> impl Future<Output = Response<SseBody<S::Error>>> + MaybeSend + use<E, S, B>
    where
        S: EventStore + 'static,
    {
        let caller = Caller::from_request(self, request);
        let known = cors::joined(request.headers(), &IF_NONE_MATCH).map(|tags| tags.into_owned());
        let wanted = match *request.method() {
            Method::GET | Method::HEAD => Ask::parse(caller.head, request.uri().query(), known),
            _ => Err(Refusal::Method { allow: "GET, HEAD" }),
        };
        let wanted = Grant::from_permission(permission).and_then(|grant| Ok((grant, wanted?)));
        // A permission with limits is not everybody's.
        let is_private = is_private || self.is_private || permission != Permission::granted();
        let (sse, store) = (self.clone(), target.shared_store());
        async move {
            if let Some(preflight) = caller.preflight() {
                return preflight;
            }
            let (grant, ask) = match wanted {
                Ok(wanted) => wanted,
                Err(refusal) => return sse.refuse_to(&caller, refusal),
            };
            let means = Means {
                sleep: Arc::clone(&sse.sleep),
                stop: sse.stop(grant),
                random,
                is_private,
            };
            match durable_streams::answer(store, ask, means).await {
                Ok(answer) => {
                    let mut response = caller.may_read(sse.answered(answer));
                    if response
                        .headers()
                        .contains_key(ACCESS_CONTROL_EXPOSE_HEADERS)
                    {
                        let exposed = HeaderValue::from_static(EXPOSED);
                        let headers = response.headers_mut();
                        headers.append(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
                    }
                    response
                }
                // The client is not an `EventSource`, whatever it accepts.
                Err(Failure::Refused(refusal)) => caller.may_read(super::refuse(refusal)),
                Err(Failure::Store(error)) => {
                    (sse.on_error)(&error);
                    caller.may_read(super::refuse(Refusal::Unavailable))
                }
            }
        }
    }

    /// Returns a future that resolves when a connection is to end.
    fn stop(&self, grant: Grant) -> BoxFuture<'static, ()> {
        let ended: BoxFuture<'static, ()> = match grant.until {
            None => Box::pin(pending()),
            Some(until) => {
                let sleep = Arc::clone(&self.sleep);
                Box::pin(reached(until, clock::now, move |duration| sleep(duration)))
            }
        };
        match &self.shutdown {
            None => ended,
            Some(shutdown) => Box::pin(select(ended, Box::pin(shutdown.begun())).map(|_| ())),
        }
    }

    fn answered<E: std::error::Error + 'static>(&self, answer: Answer<E>) -> Response<SseBody<E>> {
        let on_error = Arc::clone(&self.on_error);
        let body = match answer.content {
            Content::None => SseBody::empty(),
            Content::LeftOut => SseBody::left_out(),
            Content::Json(json) => SseBody::text(json),
            Content::Events(frames) => SseBody::parts(frames.map(move |frame| {
                frame.map_err(|error| {
                    on_error(&error);
                    StreamCut::Store(error)
                })
            })),
        };
        let mut response = response(answer.status, [], body);
        for (name, value) in answer.headers {
            // All of them are our own words and numbers.
            if let Ok(value) = HeaderValue::from_str(&value) {
                let name = HeaderName::from_static(name);
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}
