//! The kinds of steps.

use serde::Serialize;

/// The kind of a step.
///
/// It serialises as the `type` of the platform's `restart({ from })`, which has one name for both kinds of
/// sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StepKind {
    /// A step that runs code.
    Do,
    /// A step that sleeps for a time.
    Sleep,
    /// A step that sleeps until a time.
    #[serde(rename = "sleep")]
    SleepUntil,
    /// A step that waits for an event from outside.
    WaitForEvent,
}
