//! A server without defects passes every case, and for each case there is a defect that it catches.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod server;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ssetarget_conformance::extensions::EXTENSIONS;
use ssetarget_conformance::{CASES, Case, Probe, Profile, Verdict, run};

fn probe(defect: &'static str) -> Probe {
    let mut profile = Profile::parse(include_str!("../profiles/axum.json")).unwrap();
    profile.origin = Some(server::ORIGIN.to_owned());
    profile.heartbeat_seconds = server::HEARTBEAT.as_secs_f64();
    profile.claims = EXTENSIONS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    Probe {
        host: server::start(defect),
        profile,
        patience: Duration::from_secs(1),
    }
}

fn cases() -> Vec<&'static Case> {
    CASES.iter().copied().flatten().collect()
}

#[test]
fn a_server_without_defects_passes_every_case() {
    let mut probe = probe("");
    probe.patience = Duration::from_secs(10);
    let results = run(&probe, &|_| true, 8);
    assert_eq!(results.len(), cases().len());
    let bad: Vec<_> = results
        .iter()
        .filter(|result| result.outcome.is_err())
        .map(|result| (result.case.id, &result.outcome))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn for_each_case_there_is_a_defect_that_it_catches() {
    let all = cases();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while let Some(case) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = case.run(&probe(case.id));
                    if !matches!(outcome, Err(Verdict::Failed { .. })) {
                        wrong.lock().unwrap().push((case.id, outcome));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "not caught: {wrong:#?}");
}

#[test]
fn cases_have_names_of_their_own_and_sources() {
    let all = cases();
    assert!(all.len() >= 60);
    for (at, case) in all.iter().enumerate() {
        assert!(
            all[..at].iter().all(|other| other.id != case.id),
            "{} twice",
            case.id
        );
        assert!(!case.title.is_empty() && !case.source.is_empty());
    }
}

#[test]
fn without_a_profile_impossible_cases_are_skipped() {
    let mut probe = probe("");
    let results = {
        let stream = probe.start().unwrap();
        let path = stream.path();
        stream.append(1..=6).unwrap();
        drop(stream);
        probe.profile = Profile::of_stream(&path);
        probe.profile.heartbeat_seconds = server::HEARTBEAT.as_secs_f64();
        run(&probe, &|_| true, 8)
    };
    let failed: Vec<_> = results
        .iter()
        .filter(|result| matches!(result.outcome, Err(Verdict::Failed { .. })))
        .map(|result| (result.case.id, &result.outcome))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let passed = results
        .iter()
        .filter(|result| result.outcome.is_ok())
        .count();
    assert!(passed >= 50, "{passed} passed");
}
