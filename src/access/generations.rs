//! Remembers which links were revoked, for servers whose logs do not know it themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::store::Bell;
use crate::sync::{MaybeSend, Mutex, lock};

/// The generations of the links to runs, in memory: links of a smaller one are revoked. In a Worker the run's object
/// keeps its own (`WorkflowEventsNamespace::revoke_links`), and this is not needed.
///
/// It is for one process, and forgets all when that ends: keep what [`revoke`](Self::revoke) returns, and
/// [`restore`](Self::restore) it at the start. Clones share it.
///
/// ```
/// # use ssetarget::access::{AccessRequest, Action, CapabilityLinks, LinkGenerations, LinkGrant, LinkKeys, Permission};
/// # let keys = LinkKeys::parse("k1:bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=")?;
/// let generations = LinkGenerations::new();
/// let links = CapabilityLinks::new(keys, "import").generations(&generations);
/// let header = format!("Bearer {}", links.token(&LinkGrant::run("a")));
/// let mut request = AccessRequest::new("a", Action::Watch);
/// request.authorization = Some(&header);
/// assert_ne!(links.check(&request), Permission::Refused);
///
/// let generation = generations.revoke("a");
/// assert_eq!(links.check(&request), Permission::Refused);
/// let new = links.token(&LinkGrant::run("a").generation(generation));
/// # let _ = new;
/// # Ok::<(), ssetarget::access::InvalidKeys>(())
/// ```
#[derive(Clone, Default)]
pub struct LinkGenerations {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    known: Mutex<BTreeMap<String, u64>>,
    /// Rings when a generation is raised.
    bell: Bell,
}

impl LinkGenerations {
    /// Returns generations that are all 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Revokes the links to a run that were made so far, and returns the generation for new ones:
    /// [`LinkGrant::generation`](crate::access::LinkGrant::generation).
    pub fn revoke(&self, id: &str) -> u64 {
        let generation = {
            let mut known = lock(&self.shared.known);
            let generation = known.entry(id.to_owned()).or_default();
            *generation = generation.saturating_add(1);
            *generation
        };
        self.shared.bell.ring();
        generation
    }

    /// Sets the generation that an earlier process has reached. A generation never decreases.
    pub fn restore(&self, id: &str, generation: u64) {
        {
            let mut known = lock(&self.shared.known);
            let before = known.entry(id.to_owned()).or_default();
            *before = generation.max(*before);
        }
        self.shared.bell.ring();
    }

    /// Returns the generation of the links to a run: 0 if they were never revoked.
    #[must_use]
    pub fn of(&self, id: &str) -> u64 {
        let known = lock(&self.shared.known);
        known.get(id).copied().unwrap_or_default()
    }

    /// Resolves when links of this generation to a run are revoked. Give it to
    /// `http::Sse::respond_while`, so that open streams end.
    pub fn revoked(
        &self,
        id: &str,
        generation: u64,
    ) -> impl Future<Output = ()> + MaybeSend + use<> {
        let (generations, id) = (self.clone(), id.to_owned());
        async move {
            loop {
                let listener = generations.shared.bell.listen();
                if generation < generations.of(&id) {
                    return;
                }
                listener.await;
            }
        }
    }
}

impl fmt::Debug for LinkGenerations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkGenerations").finish_non_exhaustive()
    }
}
