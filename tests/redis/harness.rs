//! Runs tests as `cargo test` does, with its lines and its total, and can skip them at run time:
//! the standard harness decides at compile time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A test's name and body.
pub(crate) type Test = (&'static str, fn());

/// The tests wait more than they compute, but the machine may be small.
const THREADS: usize = 4;

/// Runs the tests whose names contain an argument, or all. Does not return.
pub(crate) fn run(tests: impl Iterator<Item = Test>, skip: bool) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<_> = arguments
        .iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(*part));
    let (tests, others): (Vec<Test>, Vec<Test>) = tests.partition(|(name, _)| wanted(name));
    let begin = Instant::now();
    let failed = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    println!("\nrunning {} tests", tests.len());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((name, test)) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if skip {
                        println!("test {name} ... ignored");
                    } else if catch_unwind(AssertUnwindSafe(test)).is_ok() {
                        println!("test {name} ... ok");
                    } else {
                        println!("test {name} ... FAILED");
                        failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(*name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let ignored = if skip { tests.len() } else { 0 };
    println!(
        "\ntest result: {}. {} passed; {} failed; {ignored} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        tests.len() - ignored - failed.len(),
        failed.len(),
        others.len(),
        begin.elapsed().as_secs_f64(),
    );
    exit(if failed.is_empty() { 0 } else { 101 });
}

/// Runs an asynchronous test in a runtime of its own. A test that takes very long counts as hanging
/// and fails.
pub(crate) fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let limit = Duration::from_secs(100);
    let test = async { tokio::time::timeout(limit, test).await };
    runtime
        .block_on(test)
        .unwrap_or_else(|_| panic!("the test hangs"));
}

/// Tests by their names, each an asynchronous block.
macro_rules! tests {
    ($(async fn $name:ident() $body:block)*) => {
        pub(crate) const TESTS: &[crate::harness::Test] = &[$((
            stringify!($name),
            || crate::harness::block_on(async $body),
        )),*];
    };
}
pub(crate) use tests;
