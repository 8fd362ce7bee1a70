//! The knowledge of a run's object about its reports to the index of runs, in memory and in storage. Runs in the
//! object.

use std::sync::atomic::{AtomicBool, Ordering};

use worker::Storage;

use crate::runs::Reporter;
use crate::sync::Mutex;

/// The key of a [`Reporter`] in storage, as JSON.
pub(super) const KEY: &str = "index";

/// The knowledge of a run's object about its reports to the index.
#[derive(Default)]
pub(super) struct Indexing {
    pub(super) reporter: Mutex<Option<Reporter>>,
    /// Whether an alarm is set for the next report, so that further appends have nothing to do.
    pub(super) is_armed: AtomicBool,
    pub(super) is_busy: AtomicBool,
}

/// Marks that reports are being made, until it is dropped.
pub(super) struct Busy<'a>(&'a Indexing);

impl<'a> Busy<'a> {
    /// Returns a mark for reports that are being made from now on.
    pub(super) fn of(indexing: &'a Indexing) -> Self {
        Self(indexing)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.is_busy.store(false, Ordering::Relaxed);
    }
}

/// Returns the reporter that is stored.
pub(super) async fn stored(storage: &Storage) -> worker::Result<Option<Reporter>> {
    let json: Option<String> = storage.get(KEY).await?;
    Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
}

/// Returns when the next report to the index is due.
pub(super) async fn due(storage: &Storage) -> worker::Result<Option<u64>> {
    Ok(stored(storage).await?.and_then(|reporter| reporter.due))
}
