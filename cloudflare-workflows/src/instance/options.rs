//! The options of a subscription.

use super::event_type::WorkflowInstanceEventType;
use super::ids::InstanceEventId;

/// The options of a subscription: where it starts, and which events it returns.
///
/// Default: every event, from the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// The subscription starts after the event with this id. Default: at the beginning.
    pub cursor: Option<InstanceEventId>,
    /// The types of the events that it returns. Default: all.
    pub filter: Option<Vec<WorkflowInstanceEventType>>,
}

impl SubscribeOptions {
    /// Returns the defaults: every event, from the beginning.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts after the event with this id.
    #[must_use]
    pub fn cursor(mut self, event_id: InstanceEventId) -> Self {
        self.cursor = Some(event_id);
        self
    }

    /// Returns events of these types only.
    #[must_use]
    pub fn filter(mut self, types: impl IntoIterator<Item = WorkflowInstanceEventType>) -> Self {
        self.filter = Some(types.into_iter().collect());
        self
    }
}
