//! The index of runs: the latest version of each, in any order of reports, in pages, and as a log of changes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use ssetarget::internals::{ListFilter, RunIndex, RunReport};
use ssetarget::store::{Sql, SqlValue};
use ssetarget::{Batch, Cursor};
use support::sql::Database;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn iso(milliseconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
    humantime::format_rfc3339_millis(time).to_string()
}

fn report(id: &str, version: u64, began: u64, state: &str) -> RunReport {
    let mut entry = json!({
        "id": id, "workflow": "order", "run": 1, "state": state, "started": iso(began), "task": format!("v{version}"),
    });
    if state == "completed" {
        entry["ended"] = iso(began + version * 1_000).into();
    }
    let report = json!({ "id": id, "version": version, "began": began, "entry": entry });
    serde_json::from_value(report).unwrap()
}

fn removed(id: &str, version: u64, began: u64) -> RunReport {
    let report = json!({ "id": id, "version": version, "began": began });
    serde_json::from_value(report).unwrap()
}

fn list(index: &RunIndex<Database>, query: &str) -> Value {
    let filter = ListFilter::parse(Some(query)).unwrap();
    serde_json::from_str(&index.list(&filter, at(10)).unwrap()).unwrap()
}

fn ids(page: &Value) -> Vec<&str> {
    let runs = page["runs"].as_array().unwrap().iter();
    runs.map(|run| run["id"].as_str().unwrap()).collect()
}

#[test]
fn pages_have_each_run_once_the_latest_first() {
    let index = RunIndex::new(Database::in_memory());
    assert_eq!(list(&index, ""), json!({ "runs": [] }));
    for number in 0..25_u64 {
        // Some began in the same millisecond.
        let state = ["running", "failed"][usize::from(number % 5 == 0)];
        let report = report(&format!("r{number:02}"), 2, 1_000 + number / 3, state);
        assert!(index.take(&report, at(2)).unwrap());
    }
    let mut all = Vec::new();
    let mut next = String::new();
    loop {
        let page = list(&index, &format!("limit=7&cursor={next}"));
        assert_eq!(page["cursor"], 25);
        all.extend(ids(&page).into_iter().map(str::to_owned));
        match page["next"].as_str() {
            Some(cursor) => next = cursor.to_owned(),
            None => break,
        }
    }
    let expected: Vec<_> = (0..25)
        .rev()
        .map(|number| format!("r{number:02}"))
        .collect();
    assert_eq!(all, expected);
    assert_eq!(
        ids(&list(&index, "state=failed")),
        ["r20", "r15", "r10", "r05", "r00"]
    );
    assert_eq!(
        ids(&list(&index, "state=failed,running&limit=2")),
        ["r24", "r23"]
    );
    assert_eq!(ids(&list(&index, "state=queued")), Vec::<&str>::new());
    assert_eq!(
        ids(&list(&index, "since=1007&until=1008")),
        ["r23", "r22", "r21"]
    );
    for (query, reason) in [
        ("state=done", "invalid state"),
        ("state=running,", "invalid state"),
        ("since=x", "invalid since"),
        ("limit=0", "invalid limit"),
        ("limit=501", "invalid limit"),
        ("cursor=x", "invalid cursor"),
        ("cursor=x~y", "invalid cursor"),
    ] {
        let error = ListFilter::parse(Some(query)).unwrap_err().to_string();
        assert!(error.starts_with(reason), "{query}: {error}");
    }
}

#[test]
fn reading_an_index_that_was_told_nothing_stores_nothing() {
    let database = Database::in_memory();
    let index = RunIndex::new(database.clone());
    assert_eq!(list(&index, "state=failed"), json!({ "runs": [] }));
    assert_eq!(index.typical().unwrap(), None);
    assert!(index.estimate().unwrap().is_empty());
    assert_eq!(index.count().unwrap(), 0);
    assert_eq!(database.tables(), Vec::<String>::new());
    // What was read before is no reason to see nothing later.
    let report = report("a", 2, 1_000, "running");
    assert!(index.take(&report, at(2)).unwrap());
    assert_eq!(ids(&list(&index, "")), ["a"]);
    // Nor for another one of the same database.
    assert_eq!(ids(&list(&RunIndex::new(database), "")), ["a"]);
}

#[test]
fn a_later_page_costs_no_more_than_the_first() {
    let database = Database::in_memory();
    let index = RunIndex::new(database.clone());
    for number in 0..2_000_u64 {
        let report = report(&format!("r{number:04}"), 2, 1_000 + number, "running");
        assert!(index.take(&report, at(2)).unwrap());
    }
    let mut steps = Vec::new();
    let mut next = String::new();
    for _ in 0..20 {
        database.take_read();
        let page = list(&index, &format!("limit=100&cursor={next}"));
        steps.push(database.take_read().steps);
        assert_eq!(ids(&page).len(), 100);
        next = page["next"].as_str().unwrap_or_default().to_owned();
    }
    assert!(next.is_empty());
    let (first, most) = (steps[0], steps.iter().copied().max().unwrap());
    assert!(
        most < first * 3 / 2,
        "first page {first} steps, another {most}"
    );
}

#[test]
fn deleted_runs_are_left_out_and_do_not_come_back() {
    let index = RunIndex::new(Database::in_memory());
    index
        .take(&report("a", 4, 1_000, "running"), at(2))
        .unwrap();
    assert!(index.take(&removed("a", 5, 1_000), at(3)).unwrap());
    assert!(
        !index
            .take(&report("a", 4, 1_000, "running"), at(3))
            .unwrap()
    );
    assert!(ids(&list(&index, "")).is_empty());
    assert_eq!(index.count().unwrap(), 0);
    // A new instance of this id, which the index had forgotten: it begins later.
    assert!(
        index
            .take(&report("a", 2, 9_000, "running"), at(9))
            .unwrap()
    );
    assert_eq!(ids(&list(&index, "")), ["a"]);
    // The entry goes with its log.
    let mut ended = report("a", 4, 9_000, "failed");
    ended.expires = Some(10_000);
    index.take(&ended, at(9)).unwrap();
    assert!(ids(&list(&index, "")).is_empty());
}

/// Returns the steps of SQLite for each of 1,024 reports to an index of this many runs.
fn steps_of_a_report(runs: u64) -> u64 {
    let database = Database::in_memory();
    let index = RunIndex::new(database.clone());
    for number in 0..runs {
        let report = report(&format!("r{number}"), 2, number, "running");
        assert!(index.take(&report, at(2)).unwrap());
    }
    database.take_read();
    for number in 0..1_024 {
        let report = report(
            &format!("r{}", number % runs),
            number + 3,
            number,
            "running",
        );
        assert!(index.take(&report, at(2)).unwrap());
    }
    database.take_read().steps / 1_024
}

#[test]
fn a_report_costs_about_the_same_however_many_runs_there_are() {
    let (few, many) = (steps_of_a_report(250), steps_of_a_report(8_000));
    assert!(many < few + few / 4, "{many} steps, and {few}");
}

#[test]
fn runs_that_have_expired_are_removed_with_later_reports() {
    let database = Database::in_memory();
    let index = RunIndex::new(database.clone());
    let rows = || match database.exec("SELECT count(*) FROM runs", &[]).unwrap()[0][0] {
        SqlValue::Integer(rows) => rows,
        ref other => panic!("{other:?}"),
    };
    // A new run each second, which is kept for 1,000 seconds.
    let mut most = 0;
    for second in 0..10_000 {
        let mut report = report(&format!("r{second}"), 2, second * 1_000, "failed");
        report.expires = Some((second + 1_000) * 1_000);
        assert!(index.take(&report, at(second)).unwrap());
        most = most.max(rows());
    }
    assert!((1_000..=1_600).contains(&most), "{most}");
    // An index that wakes knows nothing of this, and removes them, too.
    for second in 10_000..11_500 {
        let index = RunIndex::new(database.clone());
        let mut report = report(&format!("r{second}"), 2, second * 1_000, "failed");
        report.expires = Some((second + 1_000) * 1_000);
        assert!(index.take(&report, at(second)).unwrap());
        most = most.max(rows());
    }
    assert!((1_000..=1_600).contains(&most), "{most}");
}

#[test]
fn typical_durations_need_five_runs() {
    let index = RunIndex::new(Database::in_memory());
    for number in 1..=4 {
        let report = report(&format!("r{number}"), number, 1_000, "completed");
        index.take(&report, at(2)).unwrap();
    }
    assert_eq!(list(&index, "")["typical"], Value::Null);
    for number in 5..=60 {
        index
            .take(
                &report(&format!("r{number}"), number, 1_000, "completed"),
                at(2),
            )
            .unwrap();
        index
            .take(&report(&format!("f{number}"), 9, 1_000, "failed"), at(2))
            .unwrap();
    }
    // The newest 50 took 11 to 60 seconds.
    let typical = json!({ "runs": 50, "medianMs": 35_000, "lowMs": 15_000, "highMs": 55_000 });
    assert_eq!(list(&index, "")["typical"], typical);
}

#[test]
fn tasks_have_estimates_where_five_runs_took_about_as_long() {
    let index = RunIndex::new(Database::in_memory());
    let complete = |number: u64, took: Value| {
        let mut report = report(&format!("r{number}"), 60, 1_000, "completed");
        report.took = serde_json::from_value(took).unwrap();
        assert!(index.take(&report, at(2)).unwrap());
    };
    assert!(index.estimate().unwrap().is_empty());
    for number in 1..=4 {
        complete(
            number,
            json!({ "pack-1": 2_000, "late-1": 9_000, "wide-1": 1_000 }),
        );
    }
    assert!(index.estimate().unwrap().is_empty());
    complete(5, json!({ "pack-1": 4_000, "wide-1": 1_000, "short-1": 3 }));
    for number in 6..=8 {
        complete(number, json!({ "wide-1": 60_000 }));
    }
    // A failed run is none of them.
    let mut failed = report("f", 9, 1_000, "failed");
    failed.took = BTreeMap::from([("late-1".to_owned(), 9_000)]);
    index.take(&failed, at(2)).unwrap();
    let estimate = serde_json::to_value(index.estimate().unwrap()).unwrap();
    let run = json!({ "runs": 8, "medianMs": 60_000, "lowMs": 60_000, "highMs": 60_000 });
    let pack = json!({ "runs": 5, "medianMs": 2_000, "lowMs": 2_000, "highMs": 2_000 });
    assert_eq!(estimate, json!({ "run": run, "tasks": { "pack-1": pack } }));
    // The 32 that take longest.
    for number in 10..=14 {
        let many: serde_json::Map<_, _> = (1..=40_u64)
            .map(|task| (format!("t-{task}"), json!(task * 100_000)))
            .collect();
        complete(number, many.into());
    }
    let estimate = index.estimate().unwrap();
    assert_eq!(estimate.tasks.len(), 32);
    assert!(!estimate.tasks.contains_key("pack-1") && estimate.tasks.contains_key("t-9"));
}

#[test]
fn the_log_has_each_change_and_is_resumed_where_the_list_was_true() {
    futures_executor::block_on(async {
        let index = RunIndex::new(Database::in_memory());
        index
            .take(&report("a", 2, 1_000, "running"), at(2))
            .unwrap();
        let cursor = list(&index, "")["cursor"].as_u64().unwrap();
        index
            .take(&report("b", 2, 1_001, "running"), at(2))
            .unwrap();
        index
            .take(&report("b", 2, 1_001, "running"), at(2))
            .unwrap();
        index.take(&removed("a", 3, 1_000), at(2)).unwrap();
        let after = Cursor::After(ssetarget::EventId::new(cursor).unwrap());
        let mut changes = index.target().subscribe(after).await.unwrap();
        let Some(Batch::Events(events)) = changes.try_next().await.unwrap() else {
            panic!("two changes were stored");
        };
        let seen: Vec<_> = events
            .iter()
            .map(|event| {
                let data: Value = serde_json::from_str(&event.data).unwrap();
                (
                    event.event_type.as_str(),
                    data["id"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        assert_eq!(seen, [("run", "b".to_owned()), ("removed", "a".to_owned())]);
    });
}

proptest! {
    /// Reports of a run come late, twice and out of order: the newest of each counts, and folding the log of changes
    /// gives the list.
    #[test]
    fn the_newest_report_of_each_run_counts(reports in vec((0..4_usize, 1..9_u64, 0..4_u32), 1..60)) {
        let index = RunIndex::new(Database::in_memory());
        let mut newest: BTreeMap<String, (u64, bool)> = BTreeMap::new();
        for (run, version, kind) in reports {
            let id = format!("r{run}");
            // A version always has the same meaning: an odd one means that the log is gone.
            let is_gone = version % 2 == 1;
            let report = match is_gone {
                true => removed(&id, version, 1_000),
                false => report(&id, version, 1_000, ["running", "waiting"][(version / 2 % 2) as usize]),
            };
            for _ in 0..=kind {
                let is_newer = newest.get(&id).is_none_or(|(known, _)| version > *known);
                prop_assert_eq!(index.take(&report, at(2)).unwrap(), is_newer);
                if is_newer {
                    newest.insert(id.clone(), (version, is_gone));
                }
            }
        }
        let page = list(&index, "");
        let listed: BTreeMap<_, _> = page["runs"].as_array().unwrap().iter()
            .map(|run| (run["id"].as_str().unwrap().to_owned(), run.clone()))
            .collect();
        let expected: Vec<_> = newest.iter()
            .filter(|(_, (_, is_gone))| !is_gone)
            .map(|(id, (version, _))| (id.clone(), format!("v{version}")))
            .collect();
        let shown: Vec<_> = listed.iter()
            .map(|(id, run)| (id.clone(), run["task"].as_str().unwrap().to_owned()))
            .collect();
        prop_assert_eq!(shown, expected);
        let folded = futures_executor::block_on(async {
            let mut folded = BTreeMap::new();
            let mut changes = index.target().subscribe(Cursor::Beginning).await.unwrap();
            while let Some(Batch::Events(events)) = changes.try_next().await.unwrap() {
                for event in events {
                    let data: Value = serde_json::from_str(&event.data).unwrap();
                    let id = data["id"].as_str().unwrap().to_owned();
                    match event.event_type.as_str() {
                        "run" => folded.insert(id, data),
                        _ => folded.remove(&id),
                    };
                }
            }
            folded
        });
        prop_assert_eq!(folded, listed);
    }
}
