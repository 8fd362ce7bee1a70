//! The snapshot of a run, from a view that is kept while the object is in memory. Runs in the object.

use worker::{Response, ResponseBuilder};

use super::error::to_worker;
use super::log::WorkflowLog;
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse};
use crate::cloudflare::request::{ENDED, SnapshotCall};
use crate::cloudflare::sql::ObjectSql;
use crate::sync::{Mutex, lock};
use crate::workflow::RunEstimate;
use crate::workflow::snapshot_cache::{
    HEADERS, SnapshotAnswer, SnapshotCache, SnapshotRequest, TOO_LARGE, TOO_LARGE_REASON,
};

/// The object's memory between two requests for a snapshot: the view, and its JSON until something is appended.
///
/// 100,000 events of 50,000 steps take 36 MB and 10 MB of JSON. A view that is estimated at more than 32 MiB is
/// dropped; the estimate is a little less than what the allocator takes.
#[derive(Default)]
pub(super) struct KeptSnapshot {
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    cache: SnapshotCache,
    /// The number of appends since the last request.
    appends: u32,
}

/// The number of appends without a request after which the view is dropped. The next request makes it again.
const FORGOTTEN: u32 = 256;

impl KeptSnapshot {
    /// Drops what an append makes out of date, and all of it if nobody asks any more.
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

    /// Answers with the snapshot of the run, which has the `estimate` while it goes on, or that the client has it already.
    pub(super) async fn answer(
        &self,
        log: &WorkflowLog<ObjectSql>,
        call: SnapshotCall,
        estimate: Option<RunEstimate>,
    ) -> worker::Result<Response> {
        let store = log.target().store();
        if store.is_empty().map_err(to_worker)? {
            // A deleted log must not be shown from memory.
            self.clear();
            return refuse(UNKNOWN_INSTANCE);
        }
        let request = SnapshotRequest {
            estimate: estimate.as_ref(),
            id: &call.id,
            workflow: Some(&call.workflow),
            if_none_match: call.if_none_match.as_deref(),
            head: call.head,
            run: Some(log.run().map_err(to_worker)?),
        };
        // Taken out while it is used. The store answers at once, so no other request comes in between.
        let kept = lock(&self.kept).take();
        let mut cache = kept.map(|kept| kept.cache).unwrap_or_default();
        let answer = cache.answer(store, request).await;
        *lock(&self.kept) = Some(Kept { cache, appends: 0 });
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
