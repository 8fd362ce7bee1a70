//! The export of a trace that is still to be made, in the object's storage. Runs in the object.

use worker::Storage;

use super::due::Export;

/// The key of an [`Export`].
pub(super) const KEY: &str = "otlp";
/// The key of the last event of those that were made.
pub(super) const EXPORTED: &str = "otlp-exported";

/// Returns the export that is still to be made.
pub(super) async fn pending(storage: &Storage) -> worker::Result<Option<Export>> {
    storage.get(KEY).await
}

/// Returns when an export is to be tried.
pub(super) async fn due(storage: &Storage) -> worker::Result<Option<u64>> {
    Ok(pending(storage).await?.map(|export| export.due))
}
