//! Counts what happens to logs and their viewers.
//!
//! An [`Observer`] is called at each place where something happens that an operator wants to count.
//! [`Metrics`] is one that counts, and renders the counts as the text that Prometheus reads.
//!
//! ```
//! use ssetarget::stats::Metrics;
//! use ssetarget::{MemoryEventStore, NewEvent, SseTarget};
//!
//! # futures_executor::block_on(async {
//! let metrics = Metrics::new();
//! let target = SseTarget::new(MemoryEventStore::new()).observed_by(metrics.clone());
//! let paid = || NewEvent::new("paid", "{}").and_then(|event| event.with_key("paid"));
//! target.dispatch_encoded(vec![paid()?, paid()?]).await?;
//!
//! let text = metrics.to_prometheus();
//! assert!(text.contains("\nssetarget_events_appended_total 1\n"));
//! assert!(text.contains("\nssetarget_events_deduplicated_total 1\n"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! | set the observer with | it is notified of |
//! |---|---|
//! | `SseTarget::observed_by` | events appended and deduplicated, pages read, resets |
//! | `http::Sse::observed_by` | streams opened and closed, bytes, cuts, refusals |
//! | `cloudflare::WorkflowEventsNamespace::observed_by` | streams opened and refusals, in the Worker |
//! | each `WorkflowEvents` object itself | all of it: see `cloudflare::WorkflowEventsNamespace::stats` |

#[cfg(target_has_atomic = "64")]
mod metrics;
mod text;

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use crate::store::Appended;
use crate::sync::{MaybeSend, MaybeSync};

#[cfg(target_has_atomic = "64")]
pub use metrics::{Counts, Metrics};

/// Is notified of what happens to logs and viewers. All methods do nothing by default.
///
/// They are called in the middle of the work, on whichever thread does it: they must be quick, must
/// not wait, and must not panic. Where no observer is set nothing is called.
pub trait Observer: MaybeSend + MaybeSync {
    /// A batch was appended. `stored` events of it are new; the keys of `duplicates` were there
    /// already.
    fn appended(&self, stored: u64, duplicates: u64) {
        let _ = (stored, duplicates);
    }

    /// A page of at least one event was read for a subscriber, stored or new.
    fn page_read(&self) {}

    /// A subscriber got a reset, because its position is gone: see [`Reset`](crate::event::Reset).
    fn reset(&self) {}

    /// A stream to a viewer has begun.
    fn opened(&self) {}

    /// A stream to a viewer is over, for whatever reason. Called once for each [`opened`](Self::opened)
    /// where the end can be seen.
    fn closed(&self) {}

    /// A request for events was refused with this status. A client that is kept
    /// [waiting](crate::refusal::Refusal::hold) in place of a `503` counts too.
    fn refused(&self, status: u16) {
        let _ = status;
    }

    /// A stream was broken off before its end, so that its client comes back.
    fn cut(&self, cause: Cut) {
        let _ = cause;
    }

    /// Bytes were handed to the server for a viewer, heartbeats among them.
    fn sent(&self, bytes: u64) {
        let _ = bytes;
    }
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn appended(&self, stored: u64, duplicates: u64) {
        (**self).appended(stored, duplicates);
    }

    fn page_read(&self) {
        (**self).page_read();
    }

    fn reset(&self) {
        (**self).reset();
    }

    fn opened(&self) {
        (**self).opened();
    }

    fn closed(&self) {
        (**self).closed();
    }

    fn refused(&self, status: u16) {
        (**self).refused(status);
    }

    fn cut(&self, cause: Cut) {
        (**self).cut(cause);
    }

    fn sent(&self, bytes: u64) {
        (**self).sent(bytes);
    }
}

/// Why a stream was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cut {
    /// The store failed.
    Store,
    /// The server is about to stop.
    Shutdown,
    /// The viewer's permission has expired.
    Expired,
    /// The log was deleted.
    Deleted,
}

impl Cut {
    /// All causes, in the order of their counters.
    pub(crate) const ALL: [Self; 4] = [Self::Store, Self::Shutdown, Self::Expired, Self::Deleted];

    /// Returns the cause as a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Shutdown => "shutdown",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
        }
    }
}

/// An observer, or none.
#[derive(Clone, Default)]
pub(crate) struct Observing(Option<Arc<dyn Observer>>);

impl Observing {
    pub(crate) fn by(observer: impl Observer + 'static) -> Self {
        Self(Some(Arc::new(observer)))
    }

    /// Notifies the observer, if there is one.
    pub(crate) fn tell(&self, tell: impl FnOnce(&dyn Observer)) {
        if let Some(observer) = &self.0 {
            tell(&**observer);
        }
    }

    /// Reports the outcomes of a batch.
    pub(crate) fn appended(&self, outcomes: &[Appended]) {
        self.tell(|observer| {
            let duplicate = |outcome: &&Appended| **outcome == Appended::Duplicate;
            let duplicates = outcomes.iter().filter(duplicate).count();
            observer.appended((outcomes.len() - duplicates) as u64, duplicates as u64);
        });
    }

    /// Reports that a stream has begun and, when the result is dropped, that it is over.
    #[cfg_attr(not(any(feature = "http", feature = "cloudflare")), allow(dead_code))]
    pub(crate) fn viewing(&self) -> Viewing {
        self.tell(|observer| observer.opened());
        Viewing(self.clone())
    }
}

// An observer that panicked is simply called again the next time; nothing here depends on its state.
// Without this a Durable Object could not hold one.
impl UnwindSafe for Observing {}
impl RefUnwindSafe for Observing {}

impl fmt::Debug for Observing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Observed"
        } else {
            "Unobserved"
        })
    }
}

/// A stream to a viewer, for as long as it is there.
#[cfg_attr(not(any(feature = "http", feature = "cloudflare")), allow(dead_code))]
pub(crate) struct Viewing(Observing);

impl Viewing {
    #[cfg_attr(not(feature = "cloudflare"), allow(dead_code))]
    pub(crate) fn observing(&self) -> &Observing {
        &self.0
    }

    #[cfg_attr(not(any(feature = "http", feature = "cloudflare")), allow(dead_code))]
    pub(crate) fn tell(&self, tell: impl FnOnce(&dyn Observer)) {
        self.0.tell(tell);
    }
}

impl Drop for Viewing {
    fn drop(&mut self) {
        self.0.tell(|observer| observer.closed());
    }
}
