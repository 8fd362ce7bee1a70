//! The suite that every [`EventStore`] must pass: the promise of the trait, as checks.
//!
//! For a store of your own, switch the feature `contract` on in `dev-dependencies` and call
//! [`check`] in a test, with any executor that the store needs:
//!
//! ```
//! use ssetarget::MemoryEventStore;
//! use ssetarget::store::contract;
//!
//! // In your tests: `#[test] fn keeps_the_promise() { … }`
//! futures_executor::block_on(contract::check(async || MemoryEventStore::new()));
//! ```
//!
//! Some stores promise more, and call further checks:
//!
//! | store | calls |
//! |---|---|
//! | outlives its process | [`check_reopened`], too |
//! | removes old events | [`check_trimmed`], too |
//! | can be told how many events to keep | [`check_bounded`], too |
//! | has the bytes of the wire ready, as a [`FrameStore`](super::FrameStore) | [`check_frames`], too |
//! | keeps no events: its [`is_resumable`](EventStore::is_resumable) is `false` | [`check_transient`] instead of [`check`] |
//!
//! All of them take stores over empty logs. A check panics when the promise is broken, and the panic says how. A
//! check whose wake-up is lost does not return, so give the test a timeout if your store can lose one.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test suite: its checks panic to say what is wrong"
)]

mod atomicity;
mod data;
mod durability;
mod facts;
mod frames;
mod order;
mod pages;
mod retention;
mod time;
mod tools;
mod transient;
mod wakeups;

use self::checks::*;
use super::EventStore;
pub use durability::check_reopened;
pub use frames::check_frames;
pub use retention::{check_bounded, check_trimmed};
pub use transient::check_transient;

/// The checks one by one, for the crate's own tests. Not part of the public API.
#[doc(hidden)]
pub mod checks {
    pub use super::atomicity::{concurrent_appends, dropped_futures};
    pub use super::data::{awkward_data, huge_batch, large_batch, large_data, many_lines};
    pub use super::facts::{awkward_keys, keys};
    pub use super::order::{empty_batch, empty_log, order};
    pub use super::pages::{ends, page_of_bytes, page_of_events, positions, terminal};
    pub use super::retention::{trimmed_as_a_whole, trimmed_in_part, trimmed_under_readers};
    pub use super::time::times;
    pub use super::transient::{transient, transient_end, transient_readers};
    pub use super::wakeups::{
        changed_at_once, changed_between_read_and_wait, changed_by_append,
        changed_for_every_waiter, follow,
    };
}

/// Runs every check that all resumable stores must pass. `new_store` is called once for each of
/// them and must return a store over an empty log that nobody else uses.
pub async fn check<S: EventStore>(mut new_store: impl AsyncFnMut() -> S) {
    empty_log(&new_store().await).await;
    order(&new_store().await).await;
    empty_batch(&new_store().await).await;
    keys(&new_store().await).await;
    awkward_keys(&new_store().await).await;
    page_of_events(&new_store().await).await;
    page_of_bytes(&new_store().await).await;
    positions(&new_store().await).await;
    terminal(&new_store().await).await;
    ends(&new_store().await).await;
    times(&new_store().await).await;
    awkward_data(&new_store().await).await;
    large_data(&new_store().await).await;
    many_lines(&new_store().await).await;
    large_batch(&new_store().await).await;
    huge_batch(&new_store().await).await;
    concurrent_appends(&new_store().await).await;
    dropped_futures(&new_store().await).await;
    changed_at_once(&new_store().await).await;
    changed_by_append(&new_store().await).await;
    changed_between_read_and_wait(&new_store().await).await;
    changed_for_every_waiter(&new_store().await).await;
    follow(&new_store().await).await;
}
