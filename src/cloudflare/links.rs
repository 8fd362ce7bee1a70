//! The generation of a run's links: links of a smaller one are revoked. Runs in the object.

use crate::store::Bell;
use crate::sync::{Mutex, lock};

/// The generation of its run's links, as far as an object knows it. The root knows it from storage, a relay from the
/// object above it.
#[derive(Debug, Default)]
pub(super) struct Links {
    known: Mutex<Option<u64>>,
    /// Rings when the generation is raised.
    bell: Bell,
}

impl Links {
    /// Returns the generation, `None` if it was not asked for yet.
    pub(super) fn known(&self) -> Option<u64> {
        *lock(&self.known)
    }

    /// Notes the generation. It never decreases.
    pub(super) fn learn(&self, generation: u64) {
        {
            let mut known = lock(&self.known);
            let before = known.unwrap_or_default();
            *known = Some(before.max(generation));
            if generation <= before {
                return;
            }
        }
        self.bell.ring();
    }

    /// Returns whether links of this generation are revoked, as far as is known.
    pub(super) fn has_revoked(&self, generation: u64) -> bool {
        self.known().is_some_and(|known| generation < known)
    }

    /// Resolves when links of this generation are revoked.
    pub(super) async fn revoked(&self, generation: u64) {
        loop {
            let listener = self.bell.listen();
            if self.has_revoked(generation) {
                return;
            }
            listener.await;
        }
    }

    /// Resolves when the generation is raised.
    #[cfg(feature = "relays")]
    pub(super) async fn raised(&self) {
        self.bell.listen().await;
    }
}
