//! The store in Redis, against real servers that each test starts for itself.
//!
//! Without a `redis-server` on the PATH the tests are skipped, and counted as such; if `CI` is set,
//! they fail.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod burst;
mod failures;
mod harness;
mod refusals;
mod server;
mod soak;
mod store;
mod tls;

fn main() {
    if let Ok(url) = std::env::var(tls::URL) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let works = runtime.block_on(tls::append(&url));
        std::process::exit(i32::from(!works));
    }
    let is_there = server::find("redis-server").is_some();
    let skip = !is_there && std::env::var_os("CI").is_none();
    if skip {
        eprintln!("\nSKIPPED: the tests of Redis, for there is no `redis-server` on the PATH.");
    }
    let tests = [
        store::TESTS,
        failures::TESTS,
        refusals::TESTS,
        tls::TESTS,
        burst::TESTS,
        soak::TESTS,
    ];
    harness::run(tests.into_iter().flatten().copied(), skip);
}
