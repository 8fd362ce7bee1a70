//! The newest frames of a remote log, for more viewers than one place serves.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};

use super::bell::Bell;
use super::flights::Flights;
use super::frames::{FrameBytes, FramePage, FrameStore};
use super::tail::{Piece, Tail, Watch};
use super::{Appended, EventStore, Page, PageLimit};
use crate::event::{EventId, NewEvent, StoredEvent};
use crate::sync::{Mutex, lock};

/// A viewer of one log, its upstream, that serves as the log of many viewers.
///
/// It stores nothing. [`follow`](Self::follow) reads the upstream as a viewer does and keeps the
/// newest frames, about 1 MiB. A viewer whose position is older, or ahead of the cache, gets the
/// upstream's own page. So a relay answers every request, and as the upstream would. Relays of
/// relays make a tree. Appends go through to the upstream.
///
/// A relay is behind its upstream by the time that a page takes. It asks the upstream before it
/// says that a log has ended, so that a relay that does not know of a restart yet stops no client
/// that does. Callers that want to know the same at the same time share one call: when a run ends
/// and all its viewers come back, the relay makes one call and not one for each viewer.
#[derive(Debug)]
pub struct RelayStore<U: FrameStore> {
    upstream: Arc<U>,
    bell: Bell,
    view: Mutex<View<U::Bytes, U::Error>>,
    reads: Asked<Place, Page<Vec<StoredEvent>>, U::Error>,
    ends: Asked<Option<EventId>, Page<()>, U::Error>,
    changes: Asked<Option<EventId>, (), U::Error>,
    pages: Asked<Place, FramePage<U::Bytes>, U::Error>,
}

/// The calls to the upstream, each shared by all callers that ask the same.
type Asked<K, T, E> = Flights<K, Result<T, Arc<E>>>;

/// A position, and the most events and bytes of a page.
type Place = (Option<EventId>, usize, usize);

/// The relay's knowledge of the upstream.
#[derive(Debug)]
struct View<B, E> {
    state: State,
    tail: Tail<B>,
    /// The number of times that the upstream turned out to be another log, or to have lost events.
    breaks: u64,
    /// The upstream's last error while it cannot be followed. New viewers get it.
    trouble: Option<Arc<E>>,
}

#[derive(Clone, Debug, Default)]
enum State {
    /// No task follows yet.
    #[default]
    Unknown,
    /// Followed, but not yet as far as the head was at first: part of a log must not be taken for
    /// all of it.
    Beginning(Option<EventId>),
    /// Followed up to this position.
    Following(Page<()>),
    /// Following has failed for so long that connected viewers get the error too.
    Unreachable,
}

impl<B, E> Default for View<B, E> {
    fn default() -> Self {
        Self {
            state: State::default(),
            tail: Tail::default(),
            breaks: 0,
            trouble: None,
        }
    }
}

/// How many of the newest events are read ahead of viewers that want them.
const TAIL_EVENTS: u64 = 4096;

/// How often in a row the upstream fails before new viewers get the error.
const TRIES: u32 = 5;
/// Pauses between tries double, from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The sum of pauses after which connected viewers get the error too.
const PATIENCE: Duration = Duration::from_secs(30);

impl<U: FrameStore + 'static> RelayStore<U> {
    /// Creates a relay of this log. Until it is [followed](Self::follow), viewers wait.
    pub fn new(upstream: U) -> Self {
        Self {
            upstream: Arc::new(upstream),
            bell: Bell::new(),
            view: Mutex::default(),
            reads: Flights::default(),
            ends: Flights::default(),
            changes: Flights::default(),
            pages: Flights::default(),
        }
    }

    /// Returns the log that is relayed.
    pub fn upstream(&self) -> &U {
        &self.upstream
    }

    /// Reads the upstream while the future is polled: run one while there are viewers. Dropping it
    /// forgets what was read, and viewers wait for the next one.
    ///
    /// An upstream that fails is followed again, for ever, after pauses by `sleep` that double from
    /// 50 ms to 5 s. Connected viewers keep their positions meanwhile and wait. New viewers get the
    /// error from the fifth failure in a row on (after 750 ms), so that they can go elsewhere.
    /// After 30 s of pauses every viewer gets it: reading this store fails, viewers' streams are
    /// cut off, and their clients come back. Once the upstream answers again, so does this store.
    pub async fn follow<F: Future<Output = ()>>(
        &self,
        mut sleep: impl FnMut(Duration) -> F,
    ) -> Infallible {
        let following = Following::start(self);
        let mut position = None;
        let (mut tries, mut pause, mut waited) = (0, FIRST_PAUSE, Duration::ZERO);
        loop {
            let error = match self.advance(position).await {
                Ok(reached) => {
                    position = Some(reached);
                    (tries, pause, waited) = (0, FIRST_PAUSE, Duration::ZERO);
                    continue;
                }
                Err(error) => error,
            };
            tries += 1;
            if tries >= TRIES {
                following.fail(error, waited >= PATIENCE);
            }
            sleep(pause).await;
            waited += pause;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reads what follows this position, or finds one to begin at. Returns the new position.
    async fn advance(
        &self,
        position: Option<Option<EventId>>,
    ) -> Result<Option<EventId>, U::Error> {
        let limit = PageLimit::default();
        let Some(position) = position else {
            let page = self.upstream.ends(None).await?;
            let behind = page.head.and_then(|head| {
                let start = head.get().saturating_sub(TAIL_EVENTS);
                EventId::new(start)
            });
            let start = behind.max(page.trimmed);
            let mut view = lock(&self.view);
            view.trouble = None;
            view.state = if start < page.head {
                State::Beginning(page.head)
            } else {
                State::Following(up_to(start, &page))
            };
            drop(view);
            self.bell.ring();
            return Ok(start);
        };
        let page = self.upstream.next_frames(position, limit).await?;
        let reached = lock(&self.view).extend(position, limit, page);
        self.bell.ring();
        Ok(reached)
    }

    /// Resolves when all events of the log were removed, as far as is known here, or with `false` when
    /// the log has events again.
    #[cfg_attr(not(feature = "relays"), allow(dead_code))]
    pub(crate) async fn until_emptied(&self, emptied: bool) {
        loop {
            let listener = self.bell.listen();
            if let State::Following(ends) = &lock(&self.view).state
                && (ends.head.is_some() && ends.oldest.is_none()) == emptied
            {
                return;
            }
            listener.await;
        }
    }

    /// Waits until something is known, and returns it.
    async fn known(&self) -> Result<Page<()>, RelayError<U::Error>> {
        loop {
            let listener = self.bell.listen();
            {
                let view = lock(&self.view);
                match (&view.state, &view.trouble) {
                    (State::Following(ends), _) => return Ok(ends.clone()),
                    (_, Some(error)) => return Err(RelayError::Unreachable(Arc::clone(error))),
                    _ => {}
                }
            }
            listener.await;
        }
    }

    /// Asks the upstream for its ends.
    async fn ask_ends(&self, after: Option<EventId>) -> Result<Page<()>, Arc<U::Error>> {
        let upstream = Arc::clone(&self.upstream);
        let ask = async move || upstream.ends(after).await.map_err(Arc::new);
        self.ends.ask(after, ask).await
    }

    /// Asks the upstream for the page.
    async fn ask_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<U::Bytes>, Arc<U::Error>> {
        let upstream = Arc::clone(&self.upstream);
        let ask = async move || upstream.read_frames(after, limit).await.map_err(Arc::new);
        let place = (after, limit.events, limit.bytes);
        self.pages.ask(place, ask).await
    }

    /// Waits until the log is known up to this position, or the upstream fails.
    async fn reach(&self, id: EventId) {
        loop {
            let listener = self.bell.listen();
            match &lock(&self.view).state {
                State::Following(ends) if ends.head < Some(id) => {}
                State::Beginning(_) => {}
                _ => return,
            }
            listener.await;
        }
    }

    /// Returns the page after this position, if it is cached.
    fn kept(
        &self,
        ends: &Page<()>,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Option<FramePage<U::Bytes>> {
        if !is_told(ends, after) {
            return None;
        }
        if after == ends.head {
            return Some(ends.with(None));
        }
        let frames = lock(&self.view).tail.page(number(after), limit)?;
        Some(ends.with(Some(frames)))
    }
}

impl<B: FrameBytes, E> View<B, E> {
    /// Adds the page that follows this position, and returns the position behind it.
    fn extend(
        &mut self,
        position: Option<EventId>,
        limit: PageLimit,
        page: FramePage<B>,
    ) -> Option<EventId> {
        let is_gone = position > page.head || position < page.trimmed;
        let mut reached = position;
        self.trouble = None;
        if is_gone {
            // A viewer that is behind reads the upstream, which reports the loss.
            self.tail = Tail::default();
            self.breaks += 1;
            reached = page.head;
        } else if let Some(frames) = &page.events {
            let length = frames.bytes.byte_length();
            let events = frames.last.get() - number(position);
            // A page exceeds the limit only if it has a single event.
            let size = if events == 1 {
                length
            } else {
                length.min(limit.bytes)
            };
            reached = Some(frames.last);
            self.tail.push(Piece {
                after: number(position),
                last: frames.last,
                events: usize::try_from(events).unwrap_or(usize::MAX),
                size: size as u64,
                bytes: frames.bytes.clone(),
                length,
            });
        }
        match self.state {
            State::Beginning(head) if reached < head && !is_gone => {}
            _ => self.state = State::Following(up_to(reached, &page)),
        }
        reached
    }
}

/// Returns the ends of a log that is known up to this position.
fn up_to<C>(reached: Option<EventId>, page: &Page<C>) -> Page<()> {
    Page {
        events: (),
        oldest: page.oldest,
        head: reached,
        trimmed: page.trimmed,
        closed: page.closed && page.head == reached,
    }
}

/// Returns whether the cache may answer a viewer at this position. Only the upstream says that a
/// log has ended, or that a position does not exist.
fn is_told(ends: &Page<()>, after: Option<EventId>) -> bool {
    after < ends.head || (after == ends.head && !ends.closed)
}

fn number(position: Option<EventId>) -> u64 {
    position.map_or(0, EventId::get)
}

/// Exists while the upstream is followed: the cache is valid no longer than that.
struct Following<'a, U: FrameStore> {
    relay: &'a RelayStore<U>,
    _watch: Watch,
}

impl<U: FrameStore> Following<'_, U> {
    /// Makes new viewers wait, even if the upstream was given up before.
    fn start(relay: &RelayStore<U>) -> Following<'_, U> {
        let mut view = lock(&relay.view);
        (view.state, view.trouble) = (State::Unknown, None);
        drop(view);
        Following {
            relay,
            _watch: relay.upstream.watch(),
        }
    }

    /// Returns this error to new viewers from now on, and with `for_all` also to connected ones.
    fn fail(&self, error: U::Error, for_all: bool) {
        let mut view = lock(&self.relay.view);
        if for_all {
            let breaks = view.breaks + 1;
            *view = View {
                state: State::Unreachable,
                breaks,
                ..View::default()
            };
        }
        view.trouble = Some(Arc::new(error));
        drop(view);
        self.relay.bell.ring();
    }
}

impl<U: FrameStore> Drop for Following<'_, U> {
    fn drop(&mut self) {
        let mut view = lock(&self.relay.view);
        let breaks = view.breaks + 1;
        *view = View {
            breaks,
            ..View::default()
        };
    }
}

impl<U: FrameStore + 'static> EventStore for RelayStore<U> {
    type Error = RelayError<U::Error>;

    /// Appends to the upstream, and returns when the relay has the events, too.
    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Self::Error> {
        let appended = self.upstream.append(batch).await?;
        let last = appended.iter().rev().find_map(|appended| match appended {
            Appended::Stored(id) => Some(*id),
            Appended::Duplicate => None,
        });
        if let Some(last) = last {
            self.reach(last).await;
        }
        Ok(appended)
    }

    /// Asks the upstream each time: only frames are cached.
    async fn read(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<Page<Vec<StoredEvent>>, Self::Error> {
        self.known().await?;
        let upstream = Arc::clone(&self.upstream);
        let ask = async move || upstream.read(after, limit).await.map_err(Arc::new);
        let place = (after, limit.events, limit.bytes);
        Ok(self.reads.ask(place, ask).await?)
    }

    /// Answers from the cache. Asks the upstream if the log has ended, is empty, or the position is
    /// not cached.
    async fn ends(&self, after: Option<EventId>) -> Result<Page<()>, Self::Error> {
        let ends = self.known().await?;
        if let Some(error) = &lock(&self.view).trouble {
            return Err(RelayError::Unreachable(Arc::clone(error)));
        }
        if ends.head.is_some() && is_told(&ends, after) {
            return Ok(ends);
        }
        Ok(self.ask_ends(after).await?)
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Self::Error> {
        let listener = self.bell.listen();
        let ends = self.known().await?;
        if ends.head > after {
            return Ok(());
        }
        if ends.head == after {
            listener.await;
            return Ok(());
        }
        // The position is ahead of the cache: waits until the cache has come this far, or an event
        // follows.
        let upstream = Arc::clone(&self.upstream);
        let ask = async move || upstream.changed(after).await.map_err(Arc::new);
        let changed = pin!(self.changes.wait(after, ask));
        match select(listener, changed).await {
            Either::Left(_) => Ok(()),
            Either::Right((changed, _)) => Ok(changed?),
        }
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Self::Error> {
        Ok(self.upstream.before(time).await?)
    }

    fn is_resumable(&self) -> bool {
        self.upstream.is_resumable()
    }
}

impl<U: FrameStore + 'static> FrameStore for RelayStore<U> {
    type Bytes = U::Bytes;

    async fn read_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<U::Bytes>, Self::Error> {
        let ends = self.known().await?;
        if let Some(page) = self.kept(&ends, after, limit) {
            return Ok(page);
        }
        let breaks = lock(&self.view).breaks;
        let page = self.ask_frames(after, limit).await?;
        if let Some(frames) = &page.events
            && after >= page.trimmed
        {
            let mut view = lock(&self.view);
            // The page must not go into the tail of another log.
            if view.breaks == breaks {
                view.tail.remember(number(after), limit, frames);
            }
        }
        Ok(page)
    }
}

/// Why a relay cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum RelayError<E> {
    /// The upstream failed when it was asked for something that is not cached. All callers that
    /// asked for the same at the same time get this error.
    Upstream(Arc<E>),
    /// The upstream cannot be followed. This is its last error.
    Unreachable(Arc<E>),
}

impl<E> From<Arc<E>> for RelayError<E> {
    fn from(error: Arc<E>) -> Self {
        Self::Upstream(error)
    }
}

impl<E> From<E> for RelayError<E> {
    fn from(error: E) -> Self {
        Self::Upstream(Arc::new(error))
    }
}

impl<E> fmt::Display for RelayError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upstream(_) => "the relayed log failed",
            Self::Unreachable(_) => "the relayed log cannot be reached",
        })
    }
}

impl<E: std::error::Error + 'static> std::error::Error for RelayError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let (Self::Upstream(error) | Self::Unreachable(error)) = self;
        Some(&**error)
    }
}
