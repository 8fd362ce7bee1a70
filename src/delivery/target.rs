//! `SseTarget`: dispatches into a log and subscribes to it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::subscription::{Position, Subscription};
use crate::event::{Cursor, Event, InvalidEvent, NewEvent};
use crate::stats::{Observer, Observing};
use crate::store::{Appended, EventStore};

/// A typed event target. Events are stored before anyone sees them, so a subscriber that comes late
/// or comes back misses nothing.
///
/// Clones share the log.
///
/// ```
/// # use std::borrow::Cow;
/// # use serde::Serialize;
/// use ssetarget::{Batch, Cursor, Event, MemoryEventStore, SseTarget};
///
/// #[derive(Serialize)]
/// struct Uploaded { file: String }
///
/// impl Event for Uploaded {
///     fn event_type(&self) -> Cow<'_, str> { "uploaded".into() }
/// }
///
/// # futures_executor::block_on(async {
/// let target = SseTarget::new(MemoryEventStore::new());
/// target.dispatch(&Uploaded { file: "a.txt".into() }).await?;
///
/// let mut late = target.subscribe(Cursor::Beginning).await?;
/// let Some(Batch::Events(events)) = late.next().await? else { panic!("an event was stored") };
/// assert_eq!(events[0].event_type, "uploaded");
/// assert_eq!(events[0].data, r#"{"file":"a.txt"}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct SseTarget<E, S> {
    store: Arc<S>,
    observing: Observing,
    event: PhantomData<fn(E)>,
}

impl<E: Event, S: EventStore> SseTarget<E, S> {
    /// Stores an event and wakes subscribers. Returns when the event is durable.
    ///
    /// # Errors
    /// [`DispatchError::Invalid`] for an event that cannot be stored. [`DispatchError::Store`] when
    /// the store fails: the event may have been stored, see [`EventStore`].
    pub async fn dispatch(&self, event: &E) -> Result<Appended, DispatchError<S::Error>> {
        let outcomes = self.dispatch_all([event]).await?;
        // A store promises one outcome for each event.
        Ok(outcomes.first().copied().unwrap_or(Appended::Duplicate))
    }

    /// Stores events in order, all or none, and wakes subscribers once.
    ///
    /// # Errors
    /// As [`dispatch`](Self::dispatch); if one of the events is invalid, none is stored.
    pub async fn dispatch_all<'a>(
        &self,
        events: impl IntoIterator<Item = &'a E>,
    ) -> Result<Vec<Appended>, DispatchError<S::Error>>
    where
        E: 'a,
    {
        let batch = events
            .into_iter()
            .map(NewEvent::encode)
            .collect::<Result<Vec<_>, _>>()
            .map_err(DispatchError::Invalid)?;
        self.append(batch).await
    }
}

impl<E, S: EventStore> SseTarget<E, S> {
    /// Returns a target over this log.
    pub fn new(store: S) -> Self {
        Self {
            store: Arc::new(store),
            observing: Observing::default(),
            event: PhantomData,
        }
    }

    /// Sets the [`Observer`] of the appends and reads of this target and its clones. Default: none.
    #[must_use]
    pub fn observed_by(mut self, observer: impl Observer + 'static) -> Self {
        self.observing = Observing::by(observer);
        self
    }

    pub(crate) fn observing(&self) -> &Observing {
        &self.observing
    }

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, DispatchError<S::Error>> {
        let outcomes = self.store.append(batch).await;
        let outcomes = outcomes.map_err(DispatchError::Store)?;
        self.observing.appended(&outcomes);
        Ok(outcomes)
    }

    /// Returns a reader of the log that starts at `cursor`, with all stored events from there on
    /// and then all new ones. See [`body`](crate::delivery::body) for its bytes.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn subscribe(&self, cursor: Cursor) -> Result<Subscription<S>, S::Error> {
        let store = Arc::clone(&self.store);
        Subscription::start(store, cursor, self.observing.clone()).await
    }

    /// Returns the subscription that was at this position: see [`Subscription::resume`].
    #[cfg_attr(not(feature = "hibernation"), allow(dead_code))]
    pub(crate) fn resume(&self, position: Position) -> Subscription<S> {
        let store = Arc::clone(&self.store);
        Subscription::resume(store, position, self.observing.clone())
    }

    /// Returns a target over the same log with another event type, for reading or writing other
    /// events of it.
    #[must_use]
    pub fn typed<T>(&self) -> SseTarget<T, S> {
        SseTarget {
            store: Arc::clone(&self.store),
            observing: self.observing.clone(),
            event: PhantomData,
        }
    }

    #[cfg(all(
        feature = "durable-streams",
        any(feature = "http", feature = "cloudflare")
    ))]
    pub(crate) fn shared_store(&self) -> Arc<S> {
        Arc::clone(&self.store)
    }

    /// Returns the log itself.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }
}

impl<E, S> Clone for SseTarget<E, S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            observing: self.observing.clone(),
            event: PhantomData,
        }
    }
}

impl<E, S: fmt::Debug> fmt::Debug for SseTarget<E, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseTarget")
            .field("store", &self.store)
            .finish()
    }
}

/// Dispatches events that were encoded elsewhere.
impl<S: EventStore> SseTarget<NewEvent, S> {
    /// Stores encoded events in order, all or none, and wakes subscribers once.
    ///
    /// # Errors
    /// As [`dispatch_all`](SseTarget::dispatch_all).
    pub async fn dispatch_encoded(
        &self,
        batch: Vec<NewEvent>,
    ) -> Result<Vec<Appended>, DispatchError<S::Error>> {
        for event in &batch {
            event.check().map_err(DispatchError::Invalid)?;
        }
        self.append(batch).await
    }
}

/// The reason why an event was not dispatched.
#[derive(Debug)]
#[non_exhaustive]
pub enum DispatchError<E> {
    /// The event cannot be stored; trying again will not help.
    Invalid(InvalidEvent),
    /// The store failed; the event may have been stored nevertheless.
    Store(E),
}

impl<E> fmt::Display for DispatchError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid(_) => "the event cannot be dispatched",
            Self::Store(_) => "the event store failed",
        })
    }
}

impl<E: std::error::Error + 'static> std::error::Error for DispatchError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Invalid(error) => Some(error),
            Self::Store(error) => Some(error),
        }
    }
}
