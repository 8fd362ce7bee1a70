//! The cursor loop: the only place that waits for events.

use std::future::Future;
use std::sync::Arc;

use futures_core::Stream;
use futures_util::stream;

use crate::event::{Cursor, EventId, Reset, StoredEvent};
use crate::stats::Observing;
use crate::store::{EventStore, FrameStore, Frames, Page, PageLimit, Watch};
use crate::sync::MaybeSend;
use crate::wire;

/// Reads a log. Its whole state is a cursor.
///
/// It reads a page after its cursor; when the page is empty it waits until the log changes and
/// reads again. Replay and live are the same code, so every event comes once and in order however
/// the two interleave. A slow reader costs no memory: it catches up from the log.
#[derive(Debug)]
pub struct Subscription<S> {
    store: Arc<S>,
    position: Position,
    limit: PageLimit,
    ended: bool,
    /// Whether it started at the tail.
    from_tail: bool,
    watch: Watch,
    observing: Observing,
}

/// The progress of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// Nothing is read; events removed before the first read are not missed.
    Oldest,
    /// Nothing is read, and the log was empty: every event removed from now on is missed.
    Start,
    After(EventId),
}

/// An item that a [`Subscription`] returns: events, or with [`Subscription::next_frames`] their
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Batch<C = Vec<StoredEvent>> {
    /// The next events, at least one.
    Events(C),
    /// The position cannot be honoured; the events that follow start with the oldest kept.
    Reset(Reset),
}

impl<S: EventStore> Subscription<S> {
    /// Starts a reader at `cursor`. If the log has ended there, [`has_ended`](Self::has_ended) is
    /// true at once.
    pub(crate) async fn start(
        store: Arc<S>,
        cursor: Cursor,
        observing: Observing,
    ) -> Result<Self, S::Error> {
        let cursor = match cursor {
            _ if !store.is_resumable() => Cursor::Latest,
            cursor => cursor,
        };
        let position = match cursor {
            Cursor::Beginning => Position::Oldest,
            Cursor::After(id) => Position::After(id),
            Cursor::Latest => Position::behind(store.ends(None).await?.head),
            Cursor::Since(time) => {
                let before = store.before(time).await?;
                before.map_or(Position::Oldest, Position::After)
            }
        };
        // Asked even for the beginning: a failing store is reported here, while a server can still
        // answer 503.
        let ended = position.is_end(&store.ends(position.after()).await?);
        Ok(Self {
            watch: store.watch(),
            store,
            position,
            limit: PageLimit::default(),
            ended,
            from_tail: cursor == Cursor::Latest,
            observing,
        })
    }

    /// Returns a reader at `position`, where the log had not ended when the position was taken.
    #[cfg_attr(not(feature = "hibernation"), allow(dead_code))]
    pub(crate) fn resume(store: Arc<S>, position: Position, observing: Observing) -> Self {
        Self {
            watch: store.watch(),
            store,
            position,
            limit: PageLimit::default(),
            ended: false,
            from_tail: false,
            observing,
        }
    }

    /// Returns the position for [`resume`](Self::resume), which is more exact than
    /// [`cursor`](Self::cursor).
    #[cfg_attr(not(feature = "hibernation"), allow(dead_code))]
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Sets the size of pages, of at least one event. Default: [`PageLimit::default`].
    #[must_use]
    pub fn with_page_limit(mut self, limit: PageLimit) -> Self {
        self.set_page_limit(limit);
        self
    }

    pub(crate) fn set_page_limit(&mut self, limit: PageLimit) {
        self.limit = PageLimit {
            events: limit.events.max(1),
            ..limit
        };
    }

    #[cfg_attr(not(feature = "hibernation"), allow(dead_code))]
    pub(crate) fn observing(&self) -> &Observing {
        &self.observing
    }

    /// Returns whether the events' ids are valid on a later connection: see
    /// [`EventStore::is_resumable`].
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.store.is_resumable()
    }

    /// Returns whether the terminal event was read and is the newest. Then [`next`](Self::next)
    /// returns `None`, and a server answers a client that asks for this position with `204`.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Returns the bytes that tell a client of [`Cursor::Latest`] its position, to be sent first;
    /// `None` for other clients and where there is no position to resume at.
    pub(crate) fn opening(&self) -> Option<Vec<u8>> {
        if !self.from_tail || self.ended || !self.is_resumable() {
            return None;
        }
        let mut opening = Vec::new();
        wire::encode_position(self.position.after(), &mut opening);
        Some(opening)
    }

    /// Returns a [`Cursor`] after the last event that it returned, from which another subscription
    /// can go on.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.position
            .after()
            .map_or(Cursor::Beginning, Cursor::After)
    }

    /// Waits for the next events. Returns `None` after the terminal one, while it is the newest.
    ///
    /// Dropping the future loses nothing: the position moves only when events are returned.
    ///
    /// # Errors
    /// When the store fails. The next call tries again from the same position.
    pub async fn next(&mut self) -> Result<Option<Batch>, S::Error> {
        self.wait::<AsEvents>().await
    }

    /// As [`next`](Self::next), without waiting. Returns `None` if nothing follows;
    /// [`cursor`](Self::cursor) is then the head of the log at that moment.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn try_next(&mut self) -> Result<Option<Batch>, S::Error> {
        self.advance::<AsEvents>().await
    }

    /// Returns the batches as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Batch, S::Error>> + MaybeSend
    where
        S: 'static,
    {
        stream::try_unfold(self, |mut subscription| async move {
            let batch = subscription.next().await?;
            Ok(batch.map(|batch| (batch, subscription)))
        })
    }

    /// Runs the cursor loop, for events or for frames.
    async fn wait<R: Read<S>>(&mut self) -> Result<Option<Batch<R::Item>>, S::Error> {
        while !self.ended {
            let batch = self.advance::<R>().await?;
            if batch.is_some() {
                return Ok(batch);
            }
            if !self.ended {
                self.store.changed(self.position.after()).await?;
            }
        }
        Ok(None)
    }

    async fn advance<R: Read<S>>(&mut self) -> Result<Option<Batch<R::Item>>, S::Error> {
        if self.ended {
            return Ok(None);
        }
        let page = R::read(&self.store, self.position.after(), self.limit).await?;
        if let Some(reset) = self.position.reset(&page) {
            self.position = Position::before_oldest(&page);
            self.observing.tell(|observer| observer.reset());
            return Ok(Some(Batch::Reset(reset)));
        }
        let last = R::last(&page.events);
        // If a page is empty, everything between here and the head was removed, so the position is
        // the head.
        self.position = Position::behind(last.or(page.head));
        self.ended = self.position.is_end(&page);
        let item = R::item(page.events);
        if item.is_some() {
            self.observing.tell(|observer| observer.page_read());
        }
        Ok(item.map(Batch::Events))
    }
}

impl<S: FrameStore> Subscription<S> {
    /// As [`next`](Self::next), with the encoded bytes instead of the events: see [`FrameStore`].
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_frames(&mut self) -> Result<Option<Batch<S::Bytes>>, S::Error> {
        self.wait::<AsFrames>().await
    }

    /// As [`try_next`](Self::try_next), with the encoded bytes instead of the events.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn try_next_frames(&mut self) -> Result<Option<Batch<S::Bytes>>, S::Error> {
        self.advance::<AsFrames>().await
    }

    /// Returns the batches of [`next_frames`](Self::next_frames) as a stream, which ends after an
    /// error.
    pub fn into_frames(self) -> impl Stream<Item = Result<Batch<S::Bytes>, S::Error>> + MaybeSend
    where
        S: 'static,
    {
        stream::try_unfold(self, |mut subscription| async move {
            let batch = subscription.next_frames().await?;
            Ok(batch.map(|batch| (batch, subscription)))
        })
    }
}

/// Returns another reader at the same position.
impl<S> Clone for Subscription<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            watch: self.watch.clone(),
            observing: self.observing.clone(),
            ..*self
        }
    }
}

impl Position {
    fn behind(last: Option<EventId>) -> Self {
        last.map_or(Self::Start, Self::After)
    }

    /// Returns the position before the page's oldest event. If that event is removed before it is
    /// read, the reader gets another reset.
    fn before_oldest<T>(page: &Page<T>) -> Self {
        match page.oldest {
            Some(oldest) => Self::behind(EventId::new(oldest.get() - 1)),
            None => Self::behind(page.head),
        }
    }

    fn after(self) -> Option<EventId> {
        match self {
            Self::Oldest | Self::Start => None,
            Self::After(id) => Some(id),
        }
    }

    fn reset<C>(self, page: &Page<C>) -> Option<Reset> {
        let is_gone = match self {
            Self::Oldest => false,
            Self::Start => page.trimmed.is_some(),
            Self::After(id) => Some(id) > page.head || Some(id) < page.trimmed,
        };
        is_gone.then_some(Reset {
            requested: self.after(),
            oldest: page.oldest,
            head: page.head,
        })
    }

    fn is_end<C>(self, page: &Page<C>) -> bool {
        page.closed && page.head.is_some_and(|head| self == Self::After(head))
    }
}

/// The form in which the cursor loop reads: events or frames.
trait Read<S: EventStore> {
    /// The content of a page, which may be empty.
    type Content: MaybeSend;
    /// The content of a page that is not empty.
    type Item;

    fn read(
        store: &S,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> impl Future<Output = Result<Page<Self::Content>, S::Error>> + MaybeSend;

    /// Returns the id of the last event.
    fn last(content: &Self::Content) -> Option<EventId>;

    fn item(content: Self::Content) -> Option<Self::Item>;
}

struct AsEvents;

impl<S: EventStore> Read<S> for AsEvents {
    type Content = Vec<StoredEvent>;
    type Item = Vec<StoredEvent>;

    fn read(
        store: &S,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> impl Future<Output = Result<Page, S::Error>> + MaybeSend {
        store.read(after, limit)
    }

    fn last(events: &Vec<StoredEvent>) -> Option<EventId> {
        events.last().map(|event| event.id)
    }

    fn item(events: Vec<StoredEvent>) -> Option<Vec<StoredEvent>> {
        (!events.is_empty()).then_some(events)
    }
}

struct AsFrames;

impl<S: FrameStore> Read<S> for AsFrames {
    type Content = Option<Frames<S::Bytes>>;
    type Item = S::Bytes;

    fn read(
        store: &S,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> impl Future<Output = Result<Page<Self::Content>, S::Error>> + MaybeSend {
        store.read_frames(after, limit)
    }

    fn last(frames: &Self::Content) -> Option<EventId> {
        frames.as_ref().map(|frames| frames.last)
    }

    fn item(frames: Self::Content) -> Option<S::Bytes> {
        frames.map(|frames| frames.bytes)
    }
}
