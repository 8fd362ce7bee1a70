//! Helpers of several integration tests.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

pub(crate) mod clock;
pub(crate) mod engine;
pub(crate) mod http;
pub(crate) mod sql;
pub(crate) mod sse;
