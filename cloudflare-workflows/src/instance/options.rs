//! The options of a subscription.

use super::event_type::WorkflowInstanceEventType;
use super::ids::InstanceEventId;

/// Where a subscription starts, and what it gives: the options of `subscribe()`.
///
/// Default: every event, from the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// With the first event after this one. Default: with the first of all.
    pub cursor: Option<InstanceEventId>,
    /// Events of these types only. Default: all.
    pub filter: Option<Vec<WorkflowInstanceEventType>>,
}

impl SubscribeOptions {
    /// Every event, from the beginning.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With the first event after this one.
    #[must_use]
    pub fn cursor(mut self, event_id: InstanceEventId) -> Self {
        self.cursor = Some(event_id);
        self
    }

    /// Events of these types only.
    #[must_use]
    pub fn filter(mut self, types: impl IntoIterator<Item = WorkflowInstanceEventType>) -> Self {
        self.filter = Some(types.into_iter().collect());
        self
    }
}
