//! The snapshot of a run, from a view that is kept while the object is in memory. Runs in the object.

use worker::{Response, ResponseBuilder};

use super::error::to_worker;
use super::events_object::EventsObject;
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse};
use crate::cloudflare::request::{ENDED, SnapshotCall};
use crate::sync::{Mutex, lock};
use crate::workflow::snapshot_cache::{
    HEADERS, SnapshotAnswer, SnapshotCache, SnapshotRequest, TOO_LARGE, TOO_LARGE_REASON,
};

/// What the object keeps between two requests for a snapshot: the view, and its JSON until something is appended.
///
/// 100,000 events of 50,000 steps take 36 MB and 10 MB of JSON. A view that is weighed at more than 32 MiB is
/// given up; what is weighed is a little less than what the allocator takes.
#[derive(Default)]
pub(super) struct KeptSnapshot {
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    cache: SnapshotCache,
    /// How many appends have come since it was asked for.
    appends: u32,
}

/// After how many appends that nobody asked about the view is dropped. It is made again when somebody asks.
const FORGOTTEN: u32 = 256;

impl KeptSnapshot {
    /// Drops what does not hold after an append, and all of it where nobody asks any more.
    pub(super) fn appended(&self) {
        let mut kept = lock(&self.kept);
        let Some(view) = kept.as_mut() else { return };
        view.appends += 1;
        view.cache.drop_json();
        if view.appends >= FORGOTTEN {
            *kept = None;
        }
    }

    /// Drops everything, since the log is gone.
    pub(super) fn clear(&self) {
        *lock(&self.kept) = None;
    }
}

impl EventsObject {
    /// Answers with the snapshot of the run, or that the client has it already.
    pub(super) async fn snapshot(&self, call: SnapshotCall) -> worker::Result<Response> {
        let store = self.log.target().store();
        if store.is_empty().map_err(to_worker)? {
            // A deleted log is not shown from memory.
            self.kept_snapshot.clear();
            return refuse(UNKNOWN_INSTANCE);
        }
        #[cfg(feature = "index")]
        let estimate = self.estimate().await?;
        #[cfg(not(feature = "index"))]
        let estimate = None;
        let request = SnapshotRequest {
            estimate: estimate.as_ref(),
            id: &call.id,
            workflow: Some(&call.workflow),
            if_none_match: call.if_none_match.as_deref(),
            head: call.head,
            run: Some(self.log.run().map_err(to_worker)?),
        };
        // Taken out while it is used. The store answers at once, so no other request comes in between.
        let kept = lock(&self.kept_snapshot.kept).take();
        let mut cache = kept.map(|kept| kept.cache).unwrap_or_default();
        let answer = cache.answer(store, request).await;
        *lock(&self.kept_snapshot.kept) = Some(Kept { cache, appends: 0 });
        let (status, etag, has_ended, json) = match answer.map_err(to_worker)? {
            SnapshotAnswer::Empty => return refuse(UNKNOWN_INSTANCE),
            SnapshotAnswer::TooLarge => {
                let response = ResponseBuilder::new().with_status(TOO_LARGE);
                let response = response.with_header("content-type", "text/plain; charset=utf-8")?;
                let response = response.with_header("cache-control", "no-store")?;
                return Ok(response.fixed(TOO_LARGE_REASON.into()));
            }
            SnapshotAnswer::Unchanged { etag, has_ended } => (304, etag, has_ended, None),
            SnapshotAnswer::Snapshot {
                etag,
                has_ended,
                json,
            } => (200, etag, has_ended, json),
        };
        let mut response = ResponseBuilder::new().with_status(status);
        response = response.with_header("etag", &etag)?;
        for (name, value) in HEADERS {
            if status == 200 || name != "content-type" {
                response = response.with_header(name, value)?;
            }
        }
        if has_ended {
            response = response.with_header(ENDED, "1")?;
        }
        Ok(match json {
            Some(json) => response.fixed(json.into()),
            None => response.empty(),
        })
    }
}
