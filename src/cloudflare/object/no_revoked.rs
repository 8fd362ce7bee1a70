//! Replaces `revoked` where the feature `links` is off: no links can be revoked. Runs in the object.

use std::future::{Ready, ready};

use super::error::JsResult;
use super::events_object::EventsObject;
use crate::cloudflare::hop::Hop;
use crate::cloudflare::request::StreamRequest;

impl EventsObject {
    /// Returns whether the request has a generation: whether that is revoked cannot be known here, so it counts as
    /// revoked.
    #[allow(clippy::unused_self, reason = "as with links")]
    pub(super) fn has_revoked(
        &self,
        stream: &StreamRequest,
        _hop: Option<&Hop>,
    ) -> Ready<JsResult<bool>> {
        ready(Ok(stream.grant.generation.is_some()))
    }

    /// Returns the generation of links that were never revoked, for a relay.
    #[allow(clippy::unused_self, reason = "as with links")]
    pub(super) fn link_generation(&self) -> Ready<JsResult<u64>> {
        ready(Ok(0))
    }

    /// Fails: it is called only for a Worker of another version, which has the feature.
    #[allow(clippy::unused_self, reason = "as with links")]
    pub(super) fn links(&self, _revoke: bool) -> Ready<JsResult<u64>> {
        ready(Err("the feature `links` of ssetarget is off".into()))
    }

    /// Deletes the object's storage.
    pub(super) async fn delete_storage(&self) -> JsResult<()> {
        Ok(self.state.storage().delete_all().await?)
    }
}
