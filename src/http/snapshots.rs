//! Snapshots of logs over HTTP: `GET /<id>` for programs.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use ::http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use ::http::{HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;

use super::{Caller, Sse, SseBody, cors, response};
use crate::delivery::SseTarget;
use crate::refusal::Refusal;
use crate::store::EventStore;
use crate::sync::{MaybeSend, Mutex, lock};
use crate::workflow::snapshot_cache::{
    HEADERS, SnapshotAnswer, SnapshotCache, SnapshotRequest, TOO_LARGE, TOO_LARGE_REASON,
    cache_control,
};

/// Serves [snapshots](crate::workflow::RunSnapshot) of logs: the run as it stands, as JSON, with the position
/// from which a stream goes on. For the logs of a [`tracer`](crate::tracer), and any log with events of steps.
///
/// A log is folded once. Its view stays in memory, so that a request reads only new events, and a client that has the
/// latest snapshot gets `304`. Requests for one log at the same time share one read. The views and their JSON share a
/// [budget](Self::max_bytes); the log that was not requested for longest is dropped first.
///
/// Clones are cheap and share the views.
///
/// ```
/// # use http::Request;
/// # use ssetarget::{MemoryEventStore, NewEvent, SseTarget, http::{Snapshots, Sse}};
/// # futures_executor::block_on(async {
/// # let sse = Sse::with_sleep(|_| std::future::pending());
/// let snapshots = Snapshots::new(&sse);
/// let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
/// target.dispatch_encoded(vec![NewEvent::new("note", "hello")?]).await?;
///
/// let request = Request::get("/job-1").header("accept", "application/json").body(())?;
/// let response = snapshots.respond(&target, "job-1", &request).await;
/// assert_eq!(response.status(), 200);
/// assert!(response.headers().contains_key("etag"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Snapshots {
    sse: Sse,
    is_private: bool,
    max_bytes: usize,
    logs: Arc<Mutex<Logs>>,
}

#[derive(Debug, Default)]
struct Logs {
    by_id: HashMap<String, Log>,
    /// The bytes of all views.
    bytes: usize,
    /// Grows with each request.
    now: u64,
}

type Cache = Arc<futures_util::lock::Mutex<SnapshotCache>>;

#[derive(Debug, Default)]
struct Log {
    cache: Cache,
    used: u64,
    /// The number of requests that use it now.
    users: usize,
    /// What it keeps; 0 until that is counted.
    bytes: usize,
}

/// A request's use of a log's cache. When it ends, also by an error or because the client has gone, what was read is
/// counted, and a log of which nothing was read is removed: such logs would pile up.
struct Used<'a> {
    cache: Cache,
    id: &'a str,
    snapshots: &'a Snapshots,
}

impl Drop for Used<'_> {
    fn drop(&mut self) {
        // If another request has the lock, that one counts.
        let bytes = self.cache.try_lock().map_or(0, |cache| cache.weight());
        let mut logs = lock(&self.snapshots.logs);
        logs.leave(self.id, &self.cache, bytes > 0);
        if bytes > 0 {
            logs.keep(self.id, bytes, self.snapshots.max_bytes);
        }
    }
}

impl Snapshots {
    /// Returns the defaults of the methods below, with the [`Cors`](crate::cors::Cors) and the error callback of
    /// `sse`, and [private](Self::private) if `sse` [is](Sse::private).
    #[must_use]
    pub fn new(sse: &Sse) -> Self {
        Self {
            sse: sse.clone(),
            is_private: sse.is_private,
            max_bytes: 64 << 20,
            logs: Arc::default(),
        }
    }

    /// Sets about how much memory all views and their JSON may keep, in bytes. The view of one log may need
    /// 32 MiB while it is made. Default: 64 MiB.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Makes shared caches keep no snapshot: for logs that not everybody may see. Default: they may keep snapshots,
    /// and revalidate them each time.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.is_private = true;
        self
    }

    /// Takes over the `Cors` and the error callback of `sse`.
    pub(super) fn with_sse(mut self, sse: &Sse) -> Self {
        self.sse = sse.clone();
        self
    }

    /// Returns the response to a request for the snapshot of a log. `id` is the log's name, and distinguishes it
    /// from the other logs of this server. Reads only the request's method, its `If-None-Match`, and what
    /// [`Cors`](crate::cors::Cors) needs.
    ///
    /// | status | when |
    /// |---|---|
    /// | `200` | the snapshot follows, with an `ETag`. A log without events has one, too: `queued` |
    /// | `304` | the client has it already |
    /// | `405` | the method is neither `GET` nor `HEAD` |
    /// | `503` | the store failed; `Retry-After` is a second |
    /// | `507` | the run's view would need more than 32 MiB of memory: read the events |
    pub fn respond<E, S, B>(
        &self,
        target: &SseTarget<E, S>,
        id: &str,
        request: &Request<B>,
    ) -> impl Future<Output = Response<SseBody<S::Error>>> + MaybeSend + use<E, S, B>
    where
        S: EventStore + 'static,
    {
        let caller = Caller::from_request(&self.sse, request);
        let method = request.method().clone();
        let known = cors::joined(request.headers(), &IF_NONE_MATCH).map(|tags| tags.into_owned());
        let target = target.typed();
        let (snapshots, id) = (self.clone(), id.to_owned());
        async move {
            if let Some(preflight) = caller.preflight() {
                return preflight;
            }
            if ![Method::GET, Method::HEAD].contains(&method) {
                let refusal = Refusal::Method { allow: "GET, HEAD" };
                return snapshots.sse.refuse_to(&caller, refusal);
            }
            let request = SnapshotRequest {
                estimate: None,
                id: &id,
                workflow: None,
                if_none_match: known.as_deref(),
                head: caller.head,
                run: None,
            };
            match snapshots.answer(&target, request).await {
                Ok(answer) => caller.may_read(snapshots.response(answer, request)),
                Err(error) => {
                    (snapshots.sse.on_error)(&error);
                    snapshots.sse.refuse_to(&caller, Refusal::Unavailable)
                }
            }
        }
    }

    async fn answer<S: EventStore>(
        &self,
        target: &SseTarget<(), S>,
        request: SnapshotRequest<'_>,
    ) -> Result<SnapshotAnswer, S::Error> {
        let used = self.cache(request.id);
        let (answer, bytes) = {
            let mut cache = used.cache.lock().await;
            let answer = cache.answer(target.store(), request).await?;
            (answer, cache.weight())
        };
        lock(&self.logs).keep(request.id, bytes, self.max_bytes);
        Ok(answer)
    }

    /// Returns the cache of a log, which is then the one that was used last.
    fn cache<'a>(&'a self, id: &'a str) -> Used<'a> {
        Used {
            cache: lock(&self.logs).cache(id),
            id,
            snapshots: self,
        }
    }

    fn response<E>(
        &self,
        answer: SnapshotAnswer,
        request: SnapshotRequest<'_>,
    ) -> Response<SseBody<E>> {
        let (status, etag, json) = match answer {
            SnapshotAnswer::Empty => {
                let json = SnapshotCache::empty(request.id, request.workflow);
                (200, None, Some(json))
            }
            SnapshotAnswer::Snapshot { etag, json, .. } => (200, Some(etag), json),
            SnapshotAnswer::Unchanged { etag, .. } => (304, Some(etag), None),
            SnapshotAnswer::TooLarge => {
                let headers = [
                    ("content-type", "text/plain; charset=utf-8"),
                    ("cache-control", "no-store"),
                ];
                let body = SseBody::text(TOO_LARGE_REASON.to_owned());
                return response(TOO_LARGE, headers, body);
            }
        };
        let body = match json.filter(|_| !request.head) {
            Some(json) => SseBody::bytes(json),
            None if status == 304 => SseBody::empty(),
            None => SseBody::left_out(),
        };
        let mut response = response(status, HEADERS, body);
        if response.status() == StatusCode::NOT_MODIFIED {
            response.headers_mut().remove(::http::header::CONTENT_TYPE);
        }
        let headers = response.headers_mut();
        let cache = HeaderValue::from_static(cache_control(self.is_private));
        headers.insert(CACHE_CONTROL, cache);
        if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(&etag).ok()) {
            headers.insert(ETAG, etag);
        }
        response
    }
}

impl Logs {
    /// Returns the cache of a log, which is then the one that was used last.
    fn cache(&mut self, id: &str) -> Cache {
        self.now += 1;
        if !self.by_id.contains_key(id) {
            self.by_id.insert(id.to_owned(), Log::default());
        }
        let now = self.now;
        self.by_id.get_mut(id).map_or_else(Arc::default, |log| {
            log.used = now;
            log.users += 1;
            Arc::clone(&log.cache)
        })
    }

    /// Undoes [`cache`](Self::cache). Removes a log that keeps nothing, unless another request uses it.
    fn leave(&mut self, id: &str, cache: &Cache, keeps: bool) {
        let Some(log) = self.by_id.get_mut(id) else {
            return;
        };
        // The log may have been dropped, and have come again.
        if Arc::ptr_eq(&log.cache, cache) {
            log.users -= 1;
            if log.users == 0 && log.bytes == 0 && !keeps {
                self.by_id.remove(id);
            }
        }
    }

    /// Notes what a log keeps, and drops the logs that were not used for longest until all fit.
    fn keep(&mut self, id: &str, bytes: usize, max_bytes: usize) {
        /// The bytes of a log even if it is empty.
        const ENTRY: usize = 512;
        if let Some(log) = self.by_id.get_mut(id) {
            self.bytes -= log.bytes;
            log.bytes = bytes + ENTRY + id.len();
            self.bytes += log.bytes;
        }
        while self.bytes > max_bytes {
            let oldest = self.by_id.iter().min_by_key(|(_, log)| log.used);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else {
                return;
            };
            let gone = self.by_id.remove(&oldest);
            self.bytes -= gone.map_or(0, |log| log.bytes);
        }
    }
}

impl<E> SseBody<E> {
    fn bytes(bytes: Bytes) -> Self {
        Self {
            content: super::body::Content::Text(Some(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};
    use std::time::SystemTime;

    use futures_executor::block_on;

    use super::*;
    use crate::event::{EventId, NewEvent};
    use crate::store::{Appended, MemoryEventStore, Page, PageLimit};

    /// A log that fails, or does not answer.
    struct Broken {
        answers: bool,
    }

    impl EventStore for Broken {
        type Error = std::fmt::Error;

        async fn append(&self, _: Vec<NewEvent>) -> Result<Vec<Appended>, Self::Error> {
            Err(std::fmt::Error)
        }

        async fn read(&self, _: Option<EventId>, _: PageLimit) -> Result<Page, Self::Error> {
            match self.answers {
                true => Err(std::fmt::Error),
                false => std::future::pending().await,
            }
        }

        async fn changed(&self, _: Option<EventId>) -> Result<(), Self::Error> {
            Err(std::fmt::Error)
        }

        async fn before(&self, _: SystemTime) -> Result<Option<EventId>, Self::Error> {
            Err(std::fmt::Error)
        }
    }

    #[test]
    fn a_log_of_which_nothing_was_read_leaves_nothing() {
        let snapshots = Snapshots::new(&Sse::with_sleep(|_| std::future::pending()));
        let request = Request::get("/").body(()).unwrap();
        let mut context = Context::from_waker(Waker::noop());
        for id in 0..1_000 {
            let id = id.to_string();
            let target = |answers| SseTarget::<NewEvent, _>::new(Broken { answers });
            let response = block_on(snapshots.respond(&target(true), &id, &request));
            assert_eq!(response.status(), 503);
            // The clients of these go before the log answers.
            let target = target(false);
            let mut first = pin!(snapshots.respond(&target, &id, &request));
            let mut waits = pin!(snapshots.respond(&target, &id, &request));
            assert!(first.as_mut().poll(&mut context).is_pending());
            assert!(waits.as_mut().poll(&mut context).is_pending());
            assert_eq!(lock(&snapshots.logs).by_id.len(), 1);
        }
        assert_eq!(lock(&snapshots.logs).by_id.len(), 0);

        // What was read stays, also if the next request fails.
        let target = SseTarget::<NewEvent, _>::new(MemoryEventStore::new());
        let event = NewEvent::new("note", "hello").unwrap();
        block_on(target.dispatch_encoded(vec![event])).unwrap();
        let response = block_on(snapshots.respond(&target, "1", &request));
        assert_eq!(response.status(), 200);
        let bytes = lock(&snapshots.logs).bytes;
        assert!(bytes > 0);
        let broken = SseTarget::<NewEvent, _>::new(Broken { answers: true });
        let response = block_on(snapshots.respond(&broken, "1", &request));
        assert_eq!(response.status(), 503);
        let logs = lock(&snapshots.logs);
        assert_eq!((logs.by_id.len(), logs.bytes), (1, bytes));
    }
}
