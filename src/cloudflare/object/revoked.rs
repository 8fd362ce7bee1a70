//! Revokes the links to a run. Runs in the object that has the log.

use std::time::{Duration, SystemTime};

use cloudflare_workflows::{Runtime, WorkersRuntime};
use worker::durable::Storage;

use super::error::{JsResult, to_js};
use super::events_object::EventsObject;
use super::stored::Stored;
use crate::clock;
use crate::cloudflare::hop::Hop;
use crate::cloudflare::request::StreamRequest;

/// The generation of links that were revoked. Not stored for a run whose links were never revoked.
pub(super) struct Revoked {
    generation: u64,
    /// When, in milliseconds since 1970.
    time: u64,
}

/// The key of [`Revoked`] in storage.
const KEY: &str = "links";

/// The least time for which it is kept: no link is good for longer, and clocks differ.
const KEPT: Duration = Duration::from_secs((30 * 24 + 1) * 60 * 60);

impl Revoked {
    /// Returns the stored value.
    pub(super) async fn stored(storage: &Storage) -> JsResult<Option<Self>> {
        let Some(stored) = Stored::get(storage, KEY).await? else {
            return Ok(None);
        };
        match (stored.number("generation"), stored.number("time")) {
            (Some(generation), Some(time)) => Ok(Some(Self { generation, time })),
            _ => Err(Stored::unreadable(KEY)),
        }
    }

    /// Stores it again, after the rest of the storage was deleted.
    pub(super) async fn keep(&self, storage: &Storage) -> JsResult<()> {
        let fields = [
            ("generation", (self.generation as f64).into()),
            ("time", (self.time as f64).into()),
        ];
        Stored::put(storage, KEY, &fields).await
    }

    /// Returns how much longer it has to be kept.
    pub(super) fn left(&self, now: SystemTime) -> Duration {
        let age = now.duration_since(clock::from_milliseconds(self.time));
        KEPT.saturating_sub(age.unwrap_or_default())
    }
}

impl EventsObject {
    /// Returns whether the links of the request's generation are revoked. Asks the storage once, and only for a
    /// viewer that came by a link. A relay asks the object above later.
    pub(super) async fn has_revoked(
        &self,
        stream: &StreamRequest,
        hop: Option<&Hop>,
    ) -> JsResult<bool> {
        let Some(generation) = stream.grant.generation else {
            return Ok(false);
        };
        if hop.is_some_and(|hop| hop.parent().is_some()) {
            return Ok(false);
        }
        Ok(generation < self.link_generation().await?)
    }

    /// Returns the generation of the run's links.
    pub(super) async fn link_generation(&self) -> JsResult<u64> {
        let links = self.tree.links();
        if let Some(known) = links.known() {
            return Ok(known);
        }
        let stored = Revoked::stored(&self.state.storage()).await?;
        links.learn(stored.map_or(0, |stored| stored.generation));
        Ok(links.known().unwrap_or_default())
    }

    /// Returns the generation of the run's links. With `revoke`, raises it first: then open streams of smaller ones
    /// end.
    pub(super) async fn links(&self, revoke: bool) -> JsResult<u64> {
        let generation = self.link_generation().await?;
        if !revoke {
            return Ok(generation);
        }
        let generation = generation + 1;
        let storage = self.state.storage();
        let revoked = Revoked {
            generation,
            time: clock::milliseconds(WorkersRuntime.now()),
        };
        revoked.keep(&storage).await?;
        let is_empty = self.log.target().store().head().map_err(to_js)?.is_none();
        if is_empty && storage.get_alarm().await?.is_none() {
            // Nothing else would ever delete it.
            storage.set_alarm(KEPT).await?;
        }
        self.tree.links().learn(generation);
        self.held_streams.revoke(self.log.target(), generation);
        Ok(generation)
    }

    /// Deletes the object's storage, except for revoked links that must not be forgotten yet.
    pub(super) async fn delete_storage(&self) -> JsResult<()> {
        let storage = self.state.storage();
        let revoked = Revoked::stored(&storage).await?;
        storage.delete_all().await?;
        let Some(revoked) = revoked else {
            return Ok(());
        };
        let left = revoked.left(WorkersRuntime.now());
        if left.is_zero() {
            return Ok(());
        }
        revoked.keep(&storage).await?;
        Ok(storage.set_alarm(left).await?)
    }
}
