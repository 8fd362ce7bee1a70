//! Snapshots of one log, kept so that a request reads only new events.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::task::Poll;
use std::time::SystemTime;

use bytes::Bytes;

use super::estimate::RunEstimate;
use super::snapshot::RunSnapshot;
use super::view::{RunView, TaskView};
use crate::clock;
use crate::event::{EventId, StoredEvent};
use crate::store::{EventStore, PageLimit};

/// A client's request for a snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SnapshotRequest<'a> {
    pub(crate) id: &'a str,
    pub(crate) workflow: Option<&'a str>,
    pub(crate) if_none_match: Option<&'a str>,
    pub(crate) head: bool,
    /// The number of the latest run, if that is known without reading. Such a log never gets an id again that it had, so
    /// that its ids alone say what a snapshot has.
    pub(crate) run: Option<u32>,
    /// The estimate of the run, which a snapshot has until the run ends.
    pub(crate) estimate: Option<&'a RunEstimate>,
}

/// The answer to such a request.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(feature = "snapshots"),
    allow(dead_code, reason = "only an object uses `has_ended`")
)]
pub(crate) enum SnapshotAnswer {
    /// The log has no events.
    Empty,
    /// The run's view needs more memory than [`MAX_WEIGHT`].
    TooLarge,
    /// The snapshot, or for `HEAD` only that there is one.
    Snapshot {
        etag: String,
        has_ended: bool,
        json: Option<Bytes>,
    },
    /// The client has the latest snapshot.
    Unchanged { etag: String, has_ended: bool },
}

/// The words for a run whose snapshot would be too large, with [`TOO_LARGE`].
pub(crate) const TOO_LARGE_REASON: &str =
    "this run is too large for a snapshot, read its events instead\n";
/// The status for a run whose snapshot would be too large: the server cannot store it.
pub(crate) const TOO_LARGE: u16 = 507;

/// The headers of every answer with an entity tag, with names in lower case, except `etag` and `cache-control`. One
/// address may have the snapshot and a page.
pub(crate) const HEADERS: [(&str, &str); 3] = [
    ("content-type", "application/json"),
    ("vary", "accept"),
    ("x-content-type-options", "nosniff"),
];

/// Returns `cache-control`: a cache may keep a snapshot, and revalidates it each time.
pub(crate) fn cache_control(is_private: bool) -> &'static str {
    match is_private {
        true => "private, no-cache",
        false => "no-cache",
    }
}

/// The most memory that the view of a run may need, approximately: 32 MiB. An object has 128 MB in all.
const MAX_WEIGHT: usize = 32 << 20;
/// The largest JSON that is kept for the next client.
const MAX_KEPT_JSON: usize = 16 << 20;
/// A few larger pages are faster than many small ones.
const PAGE: PageLimit = PageLimit {
    events: 4_096,
    bytes: 1 << 20,
};

/// The view of a log so far, and its JSON.
#[derive(Debug, Default)]
pub(crate) struct SnapshotCache {
    view: RunView,
    /// The oldest event that is in the view.
    from: Option<EventId>,
    last: Option<Mark>,
    /// Whether the view was too large, and so is empty until the next run begins.
    is_too_large: bool,
    /// An upper bound of the bytes that the view has grown by since it was last weighed.
    unweighed: usize,
    weight: usize,
    json: Option<(String, Bytes)>,
}

/// The last event that was read, which identifies the log.
#[derive(Debug, PartialEq)]
struct Mark {
    id: EventId,
    timestamp: SystemTime,
    hash: u64,
}

impl Mark {
    fn of(event: &StoredEvent) -> Self {
        let mut hasher = DefaultHasher::new();
        (&event.event_type, &event.data).hash(&mut hasher);
        Self {
            id: event.id,
            timestamp: event.timestamp,
            hash: hasher.finish(),
        }
    }

    /// Returns the part of an entity tag that another log does not have.
    fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (clock::milliseconds(self.timestamp), self.hash).hash(&mut hasher);
        format!("{:x}-", hasher.finish())
    }
}

impl SnapshotCache {
    /// Answers a client. Reads only new events, and makes no JSON for a client that has it.
    ///
    /// # Errors
    /// When the store fails. What was read before stays.
    pub(crate) async fn answer<S: EventStore>(
        &mut self,
        store: &S,
        request: SnapshotRequest<'_>,
    ) -> Result<SnapshotAnswer, S::Error> {
        let has = |etag: &str| {
            let known = request.if_none_match;
            known.is_some_and(|known| matches(known, etag))
        };
        if self.last.is_none()
            && let (Some(run), Some(_)) = (request.run, request.if_none_match)
        {
            // For a client that has the latest snapshot, the log need not be read.
            let ends = store.ends(None).await?;
            let estimate = request.estimate.filter(|_| !ends.closed);
            let etag = etag(run, ends.oldest, ends.head, None, estimate);
            if ends.oldest.is_some() && has(&etag) {
                let has_ended = ends.closed;
                return Ok(SnapshotAnswer::Unchanged { etag, has_ended });
            }
        }
        self.catch_up(store).await?;
        if self.last.is_none() {
            return Ok(SnapshotAnswer::Empty);
        }
        if self.is_too_large {
            return Ok(SnapshotAnswer::TooLarge);
        }
        // Retention may have removed the event that has the number.
        self.view.run = self.view.run.max(request.run.unwrap_or_default());
        let has_ended = self.view.state.has_ended();
        let estimate = request.estimate.filter(|_| !has_ended);
        // Elsewhere another log may have the same ids: one in memory after a restart of its server, for example.
        let last = self.last.as_ref().filter(|_| request.run.is_none());
        let etag = etag(self.view.run, self.from, self.view.cursor, last, estimate);
        if has(&etag) {
            return Ok(SnapshotAnswer::Unchanged { etag, has_ended });
        }
        let json = match request.head {
            true => None,
            false => Some(self.render(&etag, request, estimate)),
        };
        Ok(SnapshotAnswer::Snapshot {
            etag,
            has_ended,
            json,
        })
    }

    /// Returns the snapshot of a run that has no events yet.
    pub(crate) fn empty(id: &str, workflow: Option<&str>) -> Bytes {
        let json = RunSnapshot::json(&RunView::new(), id, workflow, None);
        json.unwrap_or_default().into()
    }

    /// Drops the JSON, which is out of date after an append.
    #[cfg(feature = "snapshots")]
    pub(crate) fn drop_json(&mut self) {
        self.json = None;
    }

    /// Returns the approximate number of bytes of memory that it takes.
    #[cfg(feature = "http")]
    pub(crate) fn weight(&self) -> usize {
        let json = self.json.as_ref().map_or(0, |(_, json)| json.len());
        self.weight + self.unweighed + json
    }

    fn render(
        &mut self,
        etag: &str,
        request: SnapshotRequest<'_>,
        estimate: Option<&RunEstimate>,
    ) -> Bytes {
        if let Some((of, json)) = &self.json
            && of == etag
        {
            return json.clone();
        }
        self.json = None;
        // Times and texts of a view can always be written.
        let json = RunSnapshot::json(&self.view, request.id, request.workflow, estimate);
        let json = Bytes::from(json.unwrap_or_default());
        if json.len() <= MAX_KEPT_JSON {
            self.json = Some((etag.to_owned(), json.clone()));
        }
        json
    }

    /// Applies new events. Begins again if the log is another one, or no longer has the next events.
    async fn catch_up<S: EventStore>(&mut self, store: &S) -> Result<(), S::Error> {
        // The last event is read again: it shows whether the log is the one that was read.
        let mut is_known = false;
        loop {
            let cursor = self.last.as_ref().map(|last| last.id);
            let after = match is_known {
                true => cursor,
                false => cursor.and_then(|cursor| EventId::new(cursor.get() - 1)),
            };
            let page = store.read(after, PAGE).await?;
            let mut events = page.events.into_iter();
            let goes_on = match &self.last {
                None => true,
                Some(_) if page.trimmed > cursor => false,
                Some(_) if is_known => true,
                Some(last) => events.next().is_some_and(|event| Mark::of(&event) == *last),
            };
            if !goes_on {
                *self = Self::default();
                is_known = false;
                continue;
            }
            if self.last.is_none() {
                self.from = page.oldest;
            }
            is_known = true;
            for event in events {
                self.apply(event);
            }
            self.weigh();
            let cursor = self.last.as_ref().map(|last| last.id);
            if cursor >= page.head || page.oldest.is_none() {
                return Ok(());
            }
            yield_now().await;
        }
    }

    fn apply(&mut self, event: StoredEvent) {
        if event.event_type == "restarted" {
            self.is_too_large = false;
        }
        if self.is_too_large {
            self.view.pass(event.id);
        } else if self.view.apply(&event).is_err() {
            // A foreign event with one of our names.
            self.view.pass(event.id);
        } else {
            let task = match event.event_type.as_str() {
                "started" => size_of::<TaskView>(),
                _ => 0,
            };
            self.unweighed += event.data.len() + task;
        }
        self.last = Some(Mark::of(&event));
    }

    /// Drops a view that is too large.
    fn weigh(&mut self) {
        const LEAST: usize = 1 << 20;
        if self.unweighed < LEAST.max(self.weight / 4) {
            return;
        }
        self.unweighed = 0;
        self.weight = self.view.weight();
        if self.weight > MAX_WEIGHT {
            let (run, cursor) = (self.view.run, self.view.cursor);
            self.view = RunView::new();
            (self.view.run, self.view.cursor) = (run, cursor);
            self.is_too_large = true;
            self.weight = 0;
            self.json = None;
        }
    }
}

/// Returns the entity tag of a snapshot: what it is made of, and by which version of this crate. `last` is the last event
/// of a log whose ids another log may have, too.
fn etag(
    run: u32,
    from: Option<EventId>,
    cursor: Option<EventId>,
    last: Option<&Mark>,
    estimate: Option<&RunEstimate>,
) -> String {
    let number = |id: Option<EventId>| id.map_or(0, EventId::get);
    let version = env!("CARGO_PKG_VERSION");
    let estimate = estimate.map_or(String::new(), |estimate| {
        let mut hasher = DefaultHasher::new();
        estimate.hash(&mut hasher);
        format!("{:x}-", hasher.finish())
    });
    format!(
        "\"{run}-{}-{}-{}{estimate}{version}\"",
        number(from),
        number(cursor),
        last.map_or(String::new(), Mark::tag)
    )
}

/// Returns whether an `If-None-Match` names this entity tag. A tag that a proxy made weak counts.
fn matches(if_none_match: &str, etag: &str) -> bool {
    let mut tags = if_none_match.split(',').map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Lets other tasks run. Does nothing in a Worker, where waiting tasks do not run in between.
async fn yield_now() {
    if cfg!(target_family = "wasm") {
        return;
    }
    let mut has_yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_matched_as_proxies_send_them() {
        let tag = etag(1, EventId::new(1), EventId::new(12), None, None);
        assert!(tag.starts_with("\"1-1-12-"), "{tag}");
        for known in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"x\" , W/{tag}"),
            "*".to_owned(),
        ] {
            assert!(matches(&known, &tag), "{known}");
        }
        for other in ["", "\"1-1-1\"", "1-1-12", "W/", ","] {
            assert!(!matches(other, &tag), "{other}");
        }
    }
}
