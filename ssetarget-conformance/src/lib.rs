//! A suite for any server of Server-Sent Events: cases over HTTP, each with its source.
//!
//! The program `ssetarget-conformance` runs it: see its `--help`. As a library:
//!
//! ```no_run
//! use std::time::Duration;
//! use ssetarget_conformance::{Probe, Profile, run};
//!
//! let probe = Probe {
//!     host: "127.0.0.1:8080".to_owned(),
//!     profile: Profile::of_stream("/events"),
//!     patience: Duration::from_secs(5),
//! };
//! for result in run(&probe, &|_| true, 8) {
//!     println!("{} {:?}", result.case.id, result.outcome);
//! }
//! ```

#![forbid(unsafe_code)]

pub mod cases;
pub mod extensions;
pub mod http;
pub mod probe;
pub mod profile;
pub mod transcript;

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

pub use cases::{CASES, Case, Level};
pub use probe::{Outcome, Probe, Verdict};
pub use profile::Profile;

/// A case and its outcome.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// The case.
    pub case: &'static Case,
    /// Its outcome.
    pub outcome: Outcome,
}

/// Runs the chosen cases, `jobs` at a time. Results are in the order of the list.
#[must_use]
pub fn run(probe: &Probe, chosen: &dyn Fn(&Case) -> bool, jobs: usize) -> Vec<CaseResult> {
    let cases: Vec<&'static Case> = CASES
        .iter()
        .copied()
        .flatten()
        .filter(|case| chosen(case))
        .collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, cases.len().max(1)) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = case.run(probe);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.push(CaseResult { case, outcome });
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let place = |case: &Case| cases.iter().position(|other| other.id == case.id);
    results.sort_by_key(|result| place(result.case));
    results
}
