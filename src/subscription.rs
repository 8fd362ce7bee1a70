//! The cursor loop: the only place that waits for events.

use std::sync::Arc;

use futures_core::Stream;
use futures_util::stream;

use crate::event::{Cursor, EventId, StoredEvent};
use crate::store::{EventStore, Page, PageLimit};
use crate::sync::MaybeSend;

/// A reader of a log: a cursor, and nothing else.
///
/// It reads a page after its cursor; when the page is empty it waits until the log changed and
/// reads again. Replay and live are the same code, so every event comes once and in order
/// however the two interleave, and a slow reader costs no memory: it catches up from the log.
#[derive(Debug)]
pub struct Subscription<S> {
    store: Arc<S>,
    cursor: Option<EventId>,
    limit: PageLimit,
    ended: bool,
}

/// What a [`Subscription`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Batch {
    /// The next events, at least one.
    Events(Vec<StoredEvent>),
    /// The position cannot be honoured; the events that follow start with the oldest kept.
    Reset(Reset),
}

/// A position that the log does not know: beyond its head, or older than what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// What was asked for.
    pub requested: EventId,
    /// The oldest event kept. `None` if there is none.
    pub oldest: Option<EventId>,
    /// The greatest id ever assigned. `None` if none was.
    pub head: Option<EventId>,
}

impl<S: EventStore> Subscription<S> {
    /// A reader that starts at `cursor`. A log that has ended there gives a subscription whose
    /// [`has_ended`](Self::has_ended) is true already.
    pub(crate) async fn start(store: Arc<S>, cursor: Cursor) -> Result<Self, S::Error> {
        let limit = PageLimit {
            events: 1,
            bytes: 1,
        };
        let cursor = match cursor {
            _ if !store.is_resumable() => Cursor::Latest,
            cursor => cursor,
        };
        let cursor = match cursor {
            Cursor::Beginning => None,
            Cursor::After(id) => Some(id),
            Cursor::Latest => store.read(None, limit).await?.head,
            Cursor::Since(time) => store.before(time).await?,
        };
        let ended = match cursor {
            None => false,
            Some(_) => is_end(cursor, &store.read(cursor, limit).await?),
        };
        Ok(Self {
            store,
            cursor,
            limit: PageLimit::default(),
            ended,
        })
    }

    /// The same reader with pages of another size, of at least one event. Default:
    /// [`PageLimit::default`].
    #[must_use]
    pub fn with_page_limit(mut self, limit: PageLimit) -> Self {
        self.limit = PageLimit {
            events: limit.events.max(1),
            ..limit
        };
        self
    }

    /// Whether the events' ids mean something to a later connection: see
    /// [`EventStore::is_resumable`].
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.store.is_resumable()
    }

    /// Whether the terminal event was read and is the newest: [`next`](Self::next) will return
    /// `None`, and a client that asks for this position is to be told with a `204`.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Waits for the next events. `None` after the terminal one, while it is the newest.
    ///
    /// Dropping the future loses nothing: the cursor moves only when events are returned.
    ///
    /// # Errors
    /// When the store fails. Calling it again tries again from the same position.
    pub async fn next(&mut self) -> Result<Option<Batch>, S::Error> {
        while !self.ended {
            let page = self.store.read(self.cursor, self.limit).await?;
            if let Some(reset) = self.reset(&page) {
                self.cursor = None;
                return Ok(Some(Batch::Reset(reset)));
            }
            let last = page.events.last().map(|event| event.id);
            // Where a page is empty nothing lies between here and the head: what did was removed.
            self.cursor = last.or(page.head);
            self.ended = is_end(self.cursor, &page);
            if last.is_some() {
                return Ok(Some(Batch::Events(page.events)));
            }
            if !self.ended {
                self.store.changed(self.cursor).await?;
            }
        }
        Ok(None)
    }

    /// The batches as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Batch, S::Error>> + MaybeSend
    where
        S: 'static,
    {
        stream::try_unfold(self, |mut subscription| async move {
            let batch = subscription.next().await?;
            Ok(batch.map(|batch| (batch, subscription)))
        })
    }

    fn reset(&self, page: &Page) -> Option<Reset> {
        let requested = self.cursor?;
        let beyond_head = page.head.is_none_or(|head| requested > head);
        let removed = page.trimmed.is_some_and(|trimmed| requested < trimmed);
        (beyond_head || removed).then_some(Reset {
            requested,
            oldest: page.oldest,
            head: page.head,
        })
    }
}

fn is_end(cursor: Option<EventId>, page: &Page) -> bool {
    page.closed && cursor.is_some() && cursor == page.head
}
