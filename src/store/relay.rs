//! A log that is elsewhere, with its newest frames here: for more viewers than one place serves.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};

use super::tail::{Piece, Tail};
use super::{
    Appended, Bell, EventStore, FrameBytes, FramePage, FrameStore, Page, PageLimit, Watch,
};
use crate::event::{EventId, NewEvent, StoredEvent};
use crate::sync::{Mutex, lock};

/// A viewer of one log, its upstream, that is a log for many viewers.
///
/// It stores nothing. [`follow`](Self::follow) reads the upstream as a viewer does and keeps the
/// newest frames, about 1 MiB; a viewer whose position is older, or ahead of what has come this
/// far, is given the upstream's own page, so that there is nothing which the relay cannot answer
/// and nothing that it answers differently. Relays of relays make a tree. Appends go through to
/// the upstream.
///
/// What a viewer gets is what the upstream had at some time: a relay is behind it by the time
/// that a page takes. It never says that a log has ended without asking, so that a client which
/// was told of a restart is not stopped by a relay that was not.
#[derive(Debug)]
pub struct RelayStore<U: FrameStore> {
    upstream: U,
    bell: Bell,
    view: Mutex<View<U::Bytes>>,
}

/// What is known here of the upstream.
#[derive(Debug)]
struct View<B> {
    state: State,
    tail: Tail<B>,
    /// How often the upstream turned out to be another log, or to have lost events.
    breaks: u64,
}

#[derive(Clone, Debug, Default)]
enum State {
    /// Nobody follows yet.
    #[default]
    Unknown,
    /// Followed, but not yet as far as the head was at first: part of a log must not be taken for
    /// all of it.
    Beginning(Option<EventId>),
    /// Up to here.
    Following(Page<()>),
    /// Followed in vain.
    Unreachable,
}

impl<B> Default for View<B> {
    fn default() -> Self {
        Self {
            state: State::default(),
            tail: Tail::default(),
            breaks: 0,
        }
    }
}

/// How many of the newest events are read ahead of viewers that want them.
const TAIL_EVENTS: u64 = 4096;

/// How often in a row the upstream is tried before viewers are told.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

impl<U: FrameStore> RelayStore<U> {
    /// A relay of this log. Until it is [followed](Self::follow), viewers wait.
    pub fn new(upstream: U) -> Self {
        Self {
            upstream,
            bell: Bell::new(),
            view: Mutex::default(),
        }
    }

    /// The log that it is a relay of.
    pub fn upstream(&self) -> &U {
        &self.upstream
    }

    /// Reads the upstream, for as long as the future is polled: run one as long as there are
    /// viewers. Dropping it forgets what was read, and viewers wait for the next.
    ///
    /// An upstream that fails is tried five times, with pauses of 50, 100, 200 and 400 ms by
    /// `sleep`, before viewers are told.
    ///
    /// # Errors
    /// Returns only then, with what the upstream said last. Reading this store fails from then
    /// on, until it is followed again: viewers' streams are cut off, and their clients come back.
    pub async fn follow<F: Future<Output = ()>>(
        &self,
        mut sleep: impl FnMut(Duration) -> F,
    ) -> U::Error {
        let following = Following::start(self);
        let mut position = None;
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            let error = match self.advance(position).await {
                Ok(reached) => {
                    position = Some(reached);
                    (pause, tries) = (FIRST_PAUSE, 0);
                    continue;
                }
                Err(error) => error,
            };
            tries += 1;
            if tries == TRIES {
                following.fail();
                return error;
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    /// Reads what follows this position, or finds one to begin at, and returns where it is then.
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
            lock(&self.view).state = if start < page.head {
                State::Beginning(page.head)
            } else {
                State::Following(up_to(start, &page))
            };
            self.bell.ring();
            return Ok(start);
        };
        let page = self.upstream.next_frames(position, limit).await?;
        let reached = lock(&self.view).extend(position, limit, page);
        self.bell.ring();
        Ok(reached)
    }

    /// What is known, once something is.
    async fn known(&self) -> Result<Page<()>, RelayError<U::Error>> {
        loop {
            let listener = self.bell.listen();
            let state = lock(&self.view).state.clone();
            match state {
                State::Following(ends) => return Ok(ends),
                State::Unreachable => return Err(RelayError::Unreachable),
                State::Unknown | State::Beginning(_) => listener.await,
            }
        }
    }

    /// Waits until this much is known here, or nothing more will be.
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

    /// The page after this position, if it is here.
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
        let frames = lock(&self.view).tail.page(place(after), limit)?;
        Some(ends.with(Some(frames)))
    }
}

impl<B: FrameBytes> View<B> {
    /// Adds the page that follows this position, and returns the position behind it.
    fn extend(
        &mut self,
        position: Option<EventId>,
        limit: PageLimit,
        page: FramePage<B>,
    ) -> Option<EventId> {
        let is_gone = position > page.head || position < page.trimmed;
        let mut reached = position;
        if is_gone {
            // Whoever is behind reads the upstream, which tells the loss.
            self.tail = Tail::default();
            self.breaks += 1;
            reached = page.head;
        } else if let Some(frames) = &page.events {
            let length = frames.bytes.byte_length();
            let events = frames.last.get() - place(position);
            // More than the limit only where it is one event.
            let size = if events == 1 {
                length
            } else {
                length.min(limit.bytes)
            };
            reached = Some(frames.last);
            self.tail.push(Piece {
                after: place(position),
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

/// The ends of a log of which this much is known.
fn up_to<C>(reached: Option<EventId>, page: &Page<C>) -> Page<()> {
    Page {
        events: (),
        oldest: page.oldest,
        head: reached,
        trimmed: page.trimmed,
        closed: page.closed && page.head == reached,
    }
}

/// Whether a viewer at this position is told what is known here: not that it has seen all of a log
/// that has ended, nor that there is no such position.
fn is_told(ends: &Page<()>, after: Option<EventId>) -> bool {
    after < ends.head || (after == ends.head && !ends.closed)
}

fn place(position: Option<EventId>) -> u64 {
    position.map_or(0, EventId::get)
}

/// While the upstream is followed. What is known is true no longer than that.
struct Following<'a, U: FrameStore> {
    relay: &'a RelayStore<U>,
    _watch: Watch,
}

impl<U: FrameStore> Following<'_, U> {
    /// Whoever comes now waits, also if it was given up before.
    fn start(relay: &RelayStore<U>) -> Following<'_, U> {
        lock(&relay.view).state = State::Unknown;
        Following {
            relay,
            _watch: relay.upstream.watch(),
        }
    }

    fn fail(&self) {
        let mut view = lock(&self.relay.view);
        let breaks = view.breaks + 1;
        *view = View {
            state: State::Unreachable,
            breaks,
            ..View::default()
        };
        drop(view);
        self.relay.bell.ring();
    }
}

impl<U: FrameStore> Drop for Following<'_, U> {
    fn drop(&mut self) {
        let mut view = lock(&self.relay.view);
        if let State::Following(_) | State::Beginning(_) = view.state {
            let breaks = view.breaks + 1;
            *view = View {
                breaks,
                ..View::default()
            };
        }
    }
}

impl<U: FrameStore> EventStore for RelayStore<U> {
    type Error = RelayError<U::Error>;

    /// As the upstream; what is stored is here, too, when it returns.
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

    /// As the upstream, which is asked each time: only frames are kept here.
    async fn read(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<Page<Vec<StoredEvent>>, Self::Error> {
        self.known().await?;
        Ok(self.upstream.read(after, limit).await?)
    }

    /// From what is here, but for an end, a position that is not here, and a log without events:
    /// then the upstream is asked.
    async fn ends(&self, after: Option<EventId>) -> Result<Page<()>, Self::Error> {
        let ends = self.known().await?;
        if ends.head.is_some() && is_told(&ends, after) {
            return Ok(ends);
        }
        Ok(self.upstream.ends(after).await?)
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
        // Ahead of what is here, until it has come or something follows.
        let upstream = pin!(self.upstream.changed(after));
        match select(listener, upstream).await {
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

impl<U: FrameStore> FrameStore for RelayStore<U> {
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
        let page = self.upstream.read_frames(after, limit).await?;
        if let Some(frames) = &page.events
            && after >= page.trimmed
        {
            let mut view = lock(&self.view);
            // Not into the tail of another log.
            if view.breaks == breaks {
                view.tail.remember(place(after), limit, frames);
            }
        }
        Ok(page)
    }
}

/// Why a relay cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum RelayError<E> {
    /// The upstream failed when it was asked for something that is not here.
    Upstream(E),
    /// Following the upstream was given up.
    Unreachable,
}

impl<E> From<E> for RelayError<E> {
    fn from(error: E) -> Self {
        Self::Upstream(error)
    }
}

impl<E> fmt::Display for RelayError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upstream(_) => "the relayed log failed",
            Self::Unreachable => "the relayed log cannot be reached",
        })
    }
}

impl<E: std::error::Error + 'static> std::error::Error for RelayError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Upstream(error) => Some(error),
            Self::Unreachable => None,
        }
    }
}
