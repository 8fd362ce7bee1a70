//! The pending export of a trace, in the object's storage. Runs in the object.

use worker::Storage;

use super::due::Export;

/// The key of an [`Export`].
pub(super) const KEY: &str = "otlp";
/// The key of the last event of finished exports.
pub(super) const EXPORTED: &str = "otlp-exported";

/// Returns the pending export.
pub(super) async fn pending(storage: &Storage) -> worker::Result<Option<Export>> {
    storage.get(KEY).await
}

/// Returns when an export is to be tried.
pub(super) async fn due(storage: &Storage) -> worker::Result<Option<u64>> {
    Ok(pending(storage).await?.map(|export| export.due))
}
