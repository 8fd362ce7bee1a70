//! The store in Redis, against real servers that each test starts for itself.
//!
//! Without a `redis-server` on the PATH the tests are skipped, and counted as such; where `CI` is
//! set they fail.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod harness;
mod server;
mod soak;
mod store;

fn main() {
    let is_there = server::find("redis-server").is_some();
    let skip = !is_there && std::env::var_os("CI").is_none();
    if skip {
        eprintln!("\nSKIPPED: the tests of Redis, for there is no `redis-server` on the PATH.");
    }
    let tests = [store::TESTS, soak::TESTS];
    harness::run(tests.into_iter().flatten().copied(), skip);
}
