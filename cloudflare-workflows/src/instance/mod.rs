//! The platform's own log of an instance: its events, and a reader that survives the engine's restarts.

pub(crate) mod event;
pub(crate) mod event_type;
pub(crate) mod follow;
pub(crate) mod ids;
mod json;
pub(crate) mod names;
pub(crate) mod options;
