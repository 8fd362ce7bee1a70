//! Replaces `snapshot` where the feature `snapshots` is off: no Worker asks for one. Runs in the object.

use std::future::{Ready, ready};

use worker::Response;

use super::log::WorkflowLog;
use crate::cloudflare::request::SnapshotCall;
use crate::cloudflare::sql::ObjectSql;
use crate::workflow::RunEstimate;

/// No snapshot.
#[derive(Default)]
pub(super) struct KeptSnapshot {}

#[allow(clippy::unused_self, reason = "as with snapshots")]
impl KeptSnapshot {
    pub(super) fn appended(&self) {}

    pub(super) fn clear(&self) {}

    /// Fails: it is called only for a Worker of another version, which has the feature.
    pub(super) fn answer(
        &self,
        _log: &WorkflowLog<ObjectSql>,
        _call: SnapshotCall,
        _estimate: Option<RunEstimate>,
    ) -> Ready<worker::Result<Response>> {
        ready(Err("the feature `snapshots` of ssetarget is off".into()))
    }
}
