//! The object's one alarm, shared by several tasks: it is set for the earliest of them. Runs in the object.

use std::time::Duration;

#[cfg(any(feature = "otlp", feature = "index"))]
use cloudflare_workflows::{Runtime, WorkersRuntime};
use worker::Storage;

#[cfg(any(feature = "otlp", feature = "index"))]
use super::due::earlier;
use super::error::JsResult;
#[cfg(any(feature = "otlp", feature = "index"))]
use crate::clock;

/// Sets the alarm, or an earlier one for an export or the index, whichever is due first.
pub(super) async fn arm(storage: &Storage, delay: Duration) -> JsResult<()> {
    #[cfg(any(feature = "otlp", feature = "index"))]
    let delay = match others_due(storage).await? {
        Some(at) => delay.min(Duration::from_millis(at.saturating_sub(now()))),
        None => delay,
    };
    Ok(storage.set_alarm(delay).await?)
}

/// Returns when an export, or a report to the index, is due.
#[cfg(any(feature = "otlp", feature = "index"))]
pub(super) async fn others_due(storage: &Storage) -> JsResult<Option<u64>> {
    let due: Option<u64> = None;
    #[cfg(feature = "otlp")]
    let due = earlier(due, super::exports::due(storage).await?);
    #[cfg(feature = "index")]
    let due = earlier(due, super::indexing::due(storage).await?);
    Ok(due)
}

/// Sets the alarm for this time, unless it is set for an earlier one.
#[cfg(any(feature = "otlp", feature = "index"))]
pub(super) async fn earlier_alarm(storage: &Storage, at: u64) -> JsResult<()> {
    let known = storage.get_alarm().await?;
    let known = known.and_then(|time| u64::try_from(time).ok());
    if known.is_none_or(|known| at < known) {
        let delay = Duration::from_millis(at.saturating_sub(now()));
        storage.set_alarm(delay).await?;
    }
    Ok(())
}

/// Returns the time in milliseconds since 1970.
#[cfg(any(feature = "otlp", feature = "index"))]
pub(super) fn now() -> u64 {
    clock::milliseconds(WorkersRuntime.now())
}
