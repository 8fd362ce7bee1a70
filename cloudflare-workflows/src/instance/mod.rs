//! The platform's own log of an instance.

pub(crate) mod event;
pub(crate) mod follow;
