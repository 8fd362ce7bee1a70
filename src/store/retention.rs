//! How much of a log is kept.

use std::time::Duration;

/// How much of a log is kept: the newest events, by count, by age, or both. An event that passes either limit is
/// removed, the oldest first.
///
/// A subscriber that has not read a removed event gets a [`Reset`](crate::event::Reset), `event: reset` on the wire,
/// and goes on with the oldest event that is kept. Ids keep growing, and are never assigned twice.
///
/// ```
/// use std::time::Duration;
/// use ssetarget::MemoryEventStore;
/// use ssetarget::store::Retention;
///
/// const RETENTION: Retention =
///     Retention::for_ever().max_events(1_000).max_age(Duration::from_secs(3_600));
/// let store = MemoryEventStore::new().retention(RETENTION);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// How many of the newest events are kept, at least 1. `None`, the default: all.
    pub events: Option<usize>,
    /// How long an event is kept, in whole milliseconds. `None`, the default: for ever.
    pub age: Option<Duration>,
}

impl Retention {
    /// Keeps everything.
    #[must_use]
    pub const fn for_ever() -> Self {
        Self {
            events: None,
            age: None,
        }
    }

    /// Sets [`events`](Self::events); 0 counts as 1. Default: all are kept.
    #[must_use]
    pub const fn max_events(mut self, events: usize) -> Self {
        self.events = Some(if events == 0 { 1 } else { events });
        self
    }

    /// Sets [`age`](Self::age). Default: events are kept for ever.
    #[must_use]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.age = Some(age);
        self
    }

    pub(crate) fn is_for_ever(&self) -> bool {
        *self == Self::for_ever()
    }

    /// Returns the number of events, at least 1.
    pub(crate) fn most(&self) -> usize {
        self.events.map_or(usize::MAX, |events| events.max(1))
    }
}
