//! A log as a stream of the Durable Streams protocol, for reading only (feature `durable-streams`).
//!
//! An offset is the same cursor as everywhere: the id of the last event that the client has, as 16 digits, so that
//! offsets sort as strings. Each event is a JSON message `{"id","type","data"}`. This module decides everything but
//! the transport.

mod ask;
mod write;

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::{FutureExt, stream};

pub(crate) use self::ask::Ask;
use self::ask::{Live, Offset};
use self::write::{Ends, cursor_after, event_frames, messages};
use crate::clock::{self, Sleep};
use crate::event::{EventId, StoredEvent};
use crate::refusal::Refusal;
use crate::store::{EventStore, Page, PageLimit};
use crate::sync::{BoxFuture, BoxStream};

/// How long a connection of the mode `sse` is kept: the protocol has clients come back about every minute.
const CONNECTION: Duration = Duration::from_secs(60);
/// How long a long poll waits.
const POLL: Duration = Duration::from_secs(20);

/// The headers that pages of other origins must be able to read.
pub(crate) const EXPOSED: &str =
    "stream-next-offset, stream-up-to-date, stream-closed, stream-cursor, etag";

/// The resources that an answer needs.
pub(crate) struct Means {
    pub(crate) sleep: Sleep,
    /// Resolves when the connection is to end: the permission has expired, or the server stops.
    pub(crate) stop: BoxFuture<'static, ()>,
    /// Returns a number from 0 to 1.
    pub(crate) random: fn() -> f64,
    /// Whether only some clients may see the log, so that shared caches may keep nothing of it.
    pub(crate) is_private: bool,
}

/// A response, for any server.
pub(crate) struct Answer<E> {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, Cow<'static, str>)>,
    pub(crate) content: Content<E>,
}

/// The body of a response.
pub(crate) enum Content<E> {
    None,
    /// Left out, because its length is not known.
    LeftOut,
    Json(Vec<u8>),
    Events(BoxStream<'static, Result<Bytes, E>>),
}

/// The reason why there is no answer.
pub(crate) enum Failure<E> {
    Refused(Refusal),
    Store(E),
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::Store(error)
    }
}

/// The position of a reader.
#[derive(Clone, Copy)]
enum Place {
    /// Before the oldest event that is kept.
    Oldest,
    /// After the event with this id; `None` is the beginning of a log that had none.
    After(Option<EventId>),
}

/// The result of one read.
struct Read {
    events: Vec<StoredEvent>,
    ends: Ends,
}

/// Answers a request for a log, or for what follows in it.
pub(crate) async fn answer<S>(
    store: Arc<S>,
    ask: Ask,
    means: Means,
) -> Result<Answer<S::Error>, Failure<S::Error>>
where
    S: EventStore + 'static,
{
    let tail = store.ends(None).await?;
    if ask.head {
        return Ok(describe(&tail));
    }
    let from = match ask.offset {
        None | Some(Offset::Beginning) => Place::Oldest,
        Some(Offset::Now) => Place::After(tail.head),
        Some(Offset::After(id)) => Place::After(id),
    };
    let read = match read(&*store, from).await? {
        Some(read) => read,
        None => return Err(Failure::Refused(Refusal::Gone)),
    };
    match ask.live {
        None => Ok(catch_up(&ask, read, means.is_private)),
        Some(Live::LongPoll) => poll(&*store, &ask, read, means).await,
        Some(Live::Sse) => Ok(follow(store, &ask, read, means)),
    }
}

/// Reads the events after a position. Returns `None` if the position is not in the log.
async fn read<S: EventStore>(store: &S, from: Place) -> Result<Option<Read>, S::Error> {
    let after = match from {
        Place::Oldest => None,
        Place::After(id) => id,
    };
    let page = store.read(after, PageLimit::default()).await?;
    let is_gone = match from {
        Place::Oldest => false,
        Place::After(None) => page.trimmed.is_some(),
        Place::After(Some(id)) => Some(id) > page.head || Some(id) < page.trimmed,
    };
    if is_gone {
        return Ok(None);
    }
    // If nothing follows, everything up to the head was removed or is read.
    let next = page.events.last().map(|event| event.id).or(page.head);
    let is_up_to_date = next == page.head;
    let ends = Ends {
        next,
        is_up_to_date,
        is_closed: is_up_to_date && page.closed,
    };
    let events = page.events;
    Ok(Some(Read { events, ends }))
}

/// Answers `HEAD`.
fn describe<E>(tail: &Page<()>) -> Answer<E> {
    let ends = Ends {
        next: tail.head,
        is_up_to_date: true,
        is_closed: tail.closed,
    };
    let mut headers = common("no-store");
    headers.push(("content-type", "application/json".into()));
    headers.push(("stream-next-offset", ends.offset().into()));
    if ends.is_closed {
        headers.push(("stream-closed", "true".into()));
    }
    Answer {
        status: 200,
        headers,
        content: Content::LeftOut,
    }
}

/// Answers with the events that are there.
fn catch_up<E>(ask: &Ask, read: Read, is_private: bool) -> Answer<E> {
    let is_now = matches!(ask.offset, Some(Offset::Now));
    // A part that more events follow does not change any more. A part that reaches the end may soon be longer, and is
    // requested again.
    let cache = match (is_now, read.ends.is_up_to_date, is_private) {
        (true, _, _) => "no-store",
        (false, true, true) => "private, no-cache",
        (false, true, false) => "no-cache",
        (false, false, true) => "private, no-cache",
        (false, false, false) => "public, max-age=60, stale-while-revalidate=300",
    };
    let mut headers = common(cache);
    headers.extend(read.ends.headers());
    if !is_now {
        let tag = write::etag(&read.events, &read.ends);
        let is_known = ask.knows(&tag);
        headers.push(("etag", tag.into()));
        if is_known {
            return Answer {
                status: 304,
                headers,
                content: Content::None,
            };
        }
    }
    with_messages(headers, &read.events)
}

/// Waits for the next events.
async fn poll<S: EventStore>(
    store: &S,
    ask: &Ask,
    mut read: Read,
    means: Means,
) -> Result<Answer<S::Error>, Failure<S::Error>> {
    let over = select(means.stop, (means.sleep)(POLL));
    let mut over = pin!(over);
    while read.events.is_empty() && !read.ends.is_closed {
        let position = read.ends.next;
        match select(&mut over, pin!(store.changed(position))).await {
            Either::Left(_) => break,
            Either::Right((changed, _)) => changed?,
        }
        read = match self::read(store, Place::After(position)).await? {
            Some(read) => read,
            None => return Err(Failure::Refused(Refusal::Gone)),
        };
    }
    let mut headers = common("no-store");
    headers.extend(read.ends.headers());
    if !read.ends.is_closed {
        let cursor = cursor_after(ask.cursor, clock::now(), (means.random)());
        headers.push(("stream-cursor", cursor.to_string().into()));
    }
    if read.events.is_empty() {
        return Ok(Answer {
            status: 204,
            headers,
            content: Content::None,
        });
    }
    headers.push(("etag", write::etag(&read.events, &read.ends).into()));
    Ok(with_messages(headers, &read.events))
}

/// Streams the events that are there and those that follow, for a minute.
fn follow<S>(store: Arc<S>, ask: &Ask, first: Read, means: Means) -> Answer<S::Error>
where
    S: EventStore + 'static,
{
    let mut headers = common("no-store");
    headers.push(("content-type", "text/event-stream".into()));
    let stop = select(means.stop, (means.sleep)(CONNECTION)).map(|_| ());
    let following = Following {
        store,
        cursor: ask.cursor,
        random: means.random,
        stop: Box::pin(stop),
        position: first.ends.next,
        first: Some(first),
        is_over: false,
    };
    let frames = stream::unfold(following, |mut following| async move {
        let frame = following.next().await.transpose()?;
        Some((frame, following))
    });
    Answer {
        status: 200,
        headers,
        content: Content::Events(Box::pin(frames)),
    }
}

/// A connection of the mode `sse`.
struct Following<S> {
    store: Arc<S>,
    cursor: Option<u64>,
    random: fn() -> f64,
    stop: BoxFuture<'static, ()>,
    position: Option<EventId>,
    first: Option<Read>,
    is_over: bool,
}

impl<S: EventStore> Following<S> {
    /// Returns the next bytes, or `None` when the connection ends.
    async fn next(&mut self) -> Result<Option<Bytes>, S::Error> {
        if self.is_over {
            return Ok(None);
        }
        // The first control event comes at once, even if there are no messages.
        let mut next = self.first.take();
        while next.is_none() {
            self.is_over = (&mut self.stop).now_or_never().is_some();
            if self.is_over {
                return Ok(None);
            }
            let read = match read(&*self.store, Place::After(self.position)).await {
                Ok(Some(read)) => read,
                // The position is gone: the client comes back and gets the refusal.
                Ok(None) => {
                    self.is_over = true;
                    return Ok(None);
                }
                Err(error) => {
                    self.is_over = true;
                    return Err(error);
                }
            };
            if !read.events.is_empty() || read.ends.is_closed {
                next = Some(read);
                break;
            }
            let changed = pin!(self.store.changed(self.position));
            match select(&mut self.stop, changed).await {
                Either::Left(_) => {
                    self.is_over = true;
                    return Ok(None);
                }
                Either::Right((Ok(()), _)) => {}
                Either::Right((Err(error), _)) => {
                    self.is_over = true;
                    return Err(error);
                }
            }
        }
        let Some(read) = next else { return Ok(None) };
        self.position = read.ends.next;
        self.is_over = read.ends.is_closed;
        let cursor = cursor_after(self.cursor, clock::now(), (self.random)());
        Ok(Some(event_frames(&read.events, &read.ends, cursor).into()))
    }
}

fn common(cache: &'static str) -> Vec<(&'static str, Cow<'static, str>)> {
    vec![
        ("cache-control", cache.into()),
        ("x-content-type-options", "nosniff".into()),
        ("cross-origin-resource-policy", "same-origin".into()),
    ]
}

fn with_messages<E>(
    mut headers: Vec<(&'static str, Cow<'static, str>)>,
    events: &[StoredEvent],
) -> Answer<E> {
    headers.push(("content-type", "application/json".into()));
    Answer {
        status: 200,
        headers,
        content: Content::Json(messages(events)),
    }
}
