//! Reads a log in process: typed events as a stream, and folds.

use std::fmt;
use std::marker::PhantomData;
use std::time::SystemTime;

use futures_core::Stream;
use futures_util::{StreamExt, stream};

use super::subscription::{Batch, Subscription};
use super::target::SseTarget;
use crate::event::{Cursor, EventId, Reset, StoredEvent};
use crate::store::EventStore;
use crate::sync::MaybeSend;

/// An event that can be decoded from its stored form.
///
/// If the data says everything about the event, as with a struct or an enum with
/// `#[serde(tag = "…")]`, decoding takes one line:
///
/// ```
/// use std::error::Error;
/// use serde::{Deserialize, Serialize};
/// use ssetarget::{DecodeEvent, StoredEvent};
///
/// #[derive(Serialize, Deserialize)]
/// #[serde(tag = "type", rename_all = "snake_case")]
/// enum Upload {
///     Started { file: String },
///     Finished { bytes: u64 },
/// }
///
/// impl DecodeEvent for Upload {
///     fn decode(event: &StoredEvent) -> Result<Self, Box<dyn Error + Send + Sync>> {
///         Ok(event.json()?)
///     }
/// }
/// ```
///
/// If only the event's type distinguishes the variants, match on the type. If the log may have
/// events that this code does not know yet, add a variant for them, so that folds go on:
///
/// ```
/// # use std::borrow::Cow;
/// # use std::error::Error;
/// # use serde::{Deserialize, Serialize};
/// # use ssetarget::{Cursor, Event, MemoryEventStore, SseTarget};
/// # use ssetarget::{DecodeEvent, StoredEvent};
/// #[derive(Serialize)]
/// #[serde(untagged)]
/// enum Upload {
///     Started(Started),
///     Finished(Finished),
///     Unknown,
/// }
///
/// #[derive(Serialize, Deserialize)]
/// struct Started { file: String }
///
/// #[derive(Serialize, Deserialize)]
/// struct Finished { bytes: u64 }
///
/// impl DecodeEvent for Upload {
///     fn decode(event: &StoredEvent) -> Result<Self, Box<dyn Error + Send + Sync>> {
///         Ok(match event.event_type.as_str() {
///             "started" => Self::Started(event.json()?),
///             "finished" => Self::Finished(event.json()?),
///             _ => Self::Unknown,
///         })
///     }
/// }
/// # impl Event for Upload {
/// #     fn event_type(&self) -> Cow<'_, str> {
/// #         match self {
/// #             Self::Started(_) => "started".into(),
/// #             Self::Finished(_) => "finished".into(),
/// #             Self::Unknown => "unknown".into(),
/// #         }
/// #     }
/// # }
/// # futures_executor::block_on(async {
/// # let target = SseTarget::new(MemoryEventStore::new());
/// # let upload = [Upload::Started(Started { file: "a".into() }), Upload::Finished(Finished { bytes: 7 })];
/// # target.dispatch_all(&upload).await.unwrap();
/// # let read = target.fold(Cursor::Beginning, String::new(), |read, upload| match upload.event {
/// #     Upload::Started(started) => read.push_str(&started.file),
/// #     Upload::Finished(finished) => read.push_str(&finished.bytes.to_string()),
/// #     Upload::Unknown => {}
/// # });
/// # assert_eq!(read.await.unwrap().state, "a7");
/// # });
/// ```
pub trait DecodeEvent: Sized {
    /// Decodes the event.
    ///
    /// # Errors
    /// Any error that says why the event cannot be decoded. The reader also gets the event's id and
    /// type.
    fn decode(event: &StoredEvent) -> Result<Self, Box<dyn std::error::Error + Send + Sync>>;
}

/// Returns every event unchanged, whatever its type is.
impl DecodeEvent for StoredEvent {
    fn decode(event: &StoredEvent) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(event.clone())
    }
}

/// An event that was read from a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<E> {
    /// Its position in the log.
    pub id: EventId,
    /// When it was stored: see [`StoredEvent::timestamp`].
    pub timestamp: SystemTime,
    /// The event that was dispatched.
    pub event: E,
}

impl<E: DecodeEvent, S: EventStore> SseTarget<E, S> {
    /// Returns the events from `cursor` on, first the stored ones and then new ones, each once and
    /// in order. It is what a listener of an `EventTarget` or an `EventEmitter` gets, except that
    /// the listener may come late. To go on later, keep the last [`id`](Stored::id) for
    /// [`Cursor::After`].
    ///
    /// The stream ends after the terminal event, while that is the newest. It also ends after
    /// [`ListenError::Store`]. It goes on after the other errors, each of which is about one event
    /// or one gap; `event?` stops at any of them.
    ///
    /// ```
    /// # use std::borrow::Cow;
    /// # use std::error::Error;
    /// # use futures_util::StreamExt;
    /// # use serde::{Deserialize, Serialize};
    /// # use ssetarget::{Cursor, DecodeEvent, Event, MemoryEventStore, SseTarget, StoredEvent};
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Uploaded { file: String }
    /// # impl Event for Uploaded {
    /// #     fn event_type(&self) -> Cow<'_, str> { "uploaded".into() }
    /// # }
    /// # impl DecodeEvent for Uploaded {
    /// #     fn decode(event: &StoredEvent) -> Result<Self, Box<dyn Error + Send + Sync>> {
    /// #         Ok(event.json()?)
    /// #     }
    /// # }
    /// # futures_executor::block_on(async {
    /// let target = SseTarget::new(MemoryEventStore::new());
    /// target.dispatch(&Uploaded { file: "a.txt".into() }).await?;
    ///
    /// let mut events = Box::pin(target.events(Cursor::Beginning).await?);
    /// while let Some(uploaded) = events.next().await {
    ///     let uploaded = uploaded?;
    ///     assert_eq!(uploaded.id.get(), 1);
    ///     assert_eq!(uploaded.event.file, "a.txt");
    /// #   break;
    /// }
    /// # Ok::<(), Box<dyn Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// When the store fails.
    pub async fn events(
        &self,
        cursor: Cursor,
    ) -> Result<
        impl Stream<Item = Result<Stored<E>, ListenError<S::Error>>> + MaybeSend + use<E, S>,
        S::Error,
    >
    where
        S: 'static,
    {
        let batches = self.subscribe(cursor).await?.into_stream();
        Ok(batches.flat_map(|batch| {
            let (events, error) = match batch {
                Ok(Batch::Events(events)) => (events, None),
                Ok(Batch::Reset(reset)) => (Vec::new(), Some(ListenError::Reset(reset))),
                Err(error) => (Vec::new(), Some(ListenError::Store(error))),
            };
            let items = events.into_iter().map(Ok).chain(error.map(Err));
            stream::iter(items.map(|item| item.and_then(decode)))
        }))
    }

    /// Applies the events from `cursor` to the head of the log to a state, one after another.
    /// Returns the state with the cursor up to which it is complete: from there,
    /// [`events`](Self::events) and [`Folded::advance`] go on without a gap or an overlap.
    ///
    /// Start from [`Cursor::Beginning`] with an empty state, or from a kept state with its cursor.
    /// Where retention removes old events, the beginning is the oldest event kept, so such a log
    /// needs a kept state.
    ///
    /// ```
    /// # use std::borrow::Cow;
    /// # use std::error::Error;
    /// # use serde::{Deserialize, Serialize};
    /// # use ssetarget::{Cursor, DecodeEvent, Event, MemoryEventStore, SseTarget, StoredEvent};
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Paid { cents: u64 }
    /// # impl Event for Paid {
    /// #     fn event_type(&self) -> Cow<'_, str> { "paid".into() }
    /// # }
    /// # impl DecodeEvent for Paid {
    /// #     fn decode(event: &StoredEvent) -> Result<Self, Box<dyn Error + Send + Sync>> {
    /// #         Ok(event.json()?)
    /// #     }
    /// # }
    /// # futures_executor::block_on(async {
    /// let target = SseTarget::new(MemoryEventStore::new());
    /// target.dispatch_all(&[Paid { cents: 300 }, Paid { cents: 40 }]).await?;
    ///
    /// let sum = |sum: &mut u64, paid: ssetarget::Stored<Paid>| *sum += paid.event.cents;
    /// let mut paid = target.fold(Cursor::Beginning, 0, sum).await?;
    /// assert_eq!(paid.state, 340);
    ///
    /// target.dispatch(&Paid { cents: 2 }).await?;
    /// assert!(paid.advance().await?); // waits for more, if need be
    /// assert_eq!(paid.state, 342);
    ///
    /// // Kept, and gone on with.
    /// let later = target.fold(paid.cursor, paid.state, sum).await?;
    /// assert_eq!(later.state, 342);
    /// # Ok::<(), Box<dyn Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Folded::advance`].
    pub async fn fold<T, F>(
        &self,
        cursor: Cursor,
        state: T,
        apply: F,
    ) -> Result<Folded<T, E, S, F>, ListenError<S::Error>>
    where
        F: FnMut(&mut T, Stored<E>),
    {
        let subscription = self.subscribe(cursor).await.map_err(ListenError::Store)?;
        let mut folded = Folded {
            state,
            cursor: subscription.cursor(),
            subscription,
            apply,
            event: PhantomData,
        };
        loop {
            let mut ahead = folded.subscription.clone();
            match ahead.try_next().await.map_err(ListenError::Store)? {
                Some(batch) => folded.apply(batch, ahead)?,
                None => {
                    // At the head, even if that skipped over removed events.
                    folded.cursor = ahead.cursor();
                    folded.subscription = ahead;
                    return Ok(folded);
                }
            }
        }
    }
}

/// A state, and the cursor up to which it is complete.
pub struct Folded<T, E, S, F> {
    /// The state after all events before the cursor.
    pub state: T,
    /// The position after the last event in the state.
    pub cursor: Cursor,
    subscription: Subscription<S>,
    apply: F,
    event: PhantomData<fn() -> E>,
}

impl<T, E, S, F> Folded<T, E, S, F>
where
    E: DecodeEvent,
    S: EventStore,
    F: FnMut(&mut T, Stored<E>),
{
    /// Waits for further events and applies them. Returns `false` if the log has ended: then
    /// nothing changed, and nothing will while the terminal event is the newest.
    ///
    /// Dropping the future loses nothing. State and cursor always match.
    ///
    /// # Errors
    /// When the store fails, when an event cannot be decoded, or when events that are not in the
    /// state were removed ([`ListenError::Reset`]). State and cursor stay unchanged, and the next
    /// call meets the same event or the same gap again.
    pub async fn advance(&mut self) -> Result<bool, ListenError<S::Error>> {
        let mut ahead = self.subscription.clone();
        match ahead.next().await.map_err(ListenError::Store)? {
            Some(batch) => self.apply(batch, ahead).map(|()| true),
            None => Ok(false),
        }
    }

    fn apply(&mut self, batch: Batch, ahead: Subscription<S>) -> Result<(), ListenError<S::Error>> {
        let events = match batch {
            Batch::Events(events) => events,
            Batch::Reset(reset) => return Err(ListenError::Reset(reset)),
        };
        // All are decoded first: a page is applied as a whole or not at all.
        let events: Vec<_> = events.into_iter().map(decode).collect::<Result<_, _>>()?;
        for event in events {
            (self.apply)(&mut self.state, event);
        }
        self.cursor = ahead.cursor();
        self.subscription = ahead;
        Ok(())
    }
}

impl<T: fmt::Debug, E, S, F> fmt::Debug for Folded<T, E, S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folded")
            .field("state", &self.state)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

fn decode<E: DecodeEvent, T>(stored: StoredEvent) -> Result<Stored<E>, ListenError<T>> {
    match E::decode(&stored) {
        Ok(event) => Ok(Stored {
            id: stored.id,
            timestamp: stored.timestamp,
            event,
        }),
        Err(reason) => Err(ListenError::Decode(DecodeError { stored, reason })),
    }
}

/// The reason why an event is missing.
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenError<E> {
    /// The store failed.
    Store(E),
    /// An event cannot be decoded.
    Decode(DecodeError),
    /// Events that should come next were removed; the events that follow start with the oldest
    /// kept.
    Reset(Reset),
}

impl<E> fmt::Display for ListenError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(_) => f.write_str("the event store failed"),
            Self::Decode(_) => f.write_str("an event of the log cannot be read"),
            Self::Reset(reset) => {
                let id = |id: Option<EventId>| id.map_or("none".to_owned(), |id| id.to_string());
                write!(
                    f,
                    "the log does not go on from event {}: the oldest that it keeps is {}, the \
                     newest {}",
                    id(reset.requested),
                    id(reset.oldest),
                    id(reset.head)
                )
            }
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for ListenError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Decode(error) => Some(error),
            Self::Reset(_) => None,
        }
    }
}

/// An event that cannot be decoded.
#[derive(Debug)]
pub struct DecodeError {
    stored: StoredEvent,
    reason: Box<dyn std::error::Error + Send + Sync>,
}

impl DecodeError {
    /// The event as it is stored.
    #[must_use]
    pub fn stored(&self) -> &StoredEvent {
        &self.stored
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "event {} of type `{}` cannot be decoded",
            self.stored.id, self.stored.event_type
        )
    }
}

impl std::error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.reason)
    }
}
