//! Logs, and indexes of runs, that released versions of this crate wrote are opened, read and gone on with by this one. `tests/fixtures` has
//! one of each schema, as SQL; its README says how they are made.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_executor::block_on;
use rusqlite::Connection;
use serde_json::{Value, json};
use ssetarget::internals::{ListFilter, RunIndex, RunReport, WorkflowLog};
use ssetarget::store::{EventStore, Retention, Sql};
use ssetarget::workflow::{Opened, OpenedRun, Told};
use ssetarget::{
    Appended, Batch, Cursor, EventId, NewEvent, PageLimit, SqliteEventStore, SseTarget, wire,
};
use support::sql::Database;

/// The logs of which there is a fixture for each schema.
const KINDS: [(&str, Write); 4] = [
    ("run", write_run),
    ("expired", write_expired),
    ("bounded", write_bounded),
    ("index", write_index),
];

type Write = fn(Database);

/// Data that a frame alone cannot give back.
const LINES: &str = "one\r\ntwo\rthree\n";

// What the fixtures are.

/// The log of an instance that was restarted, in its object: its second run is under way.
fn write_run(database: Database) {
    block_on(async {
        let log = WorkflowLog::new(database);
        let first = opened(&log, 1);
        let end = fact("completed", "{\"run\":1}", "workflow:completed").terminal();
        let facts = vec![
            fact("started", "{\"run\":1}", "workflow:started"),
            fact("note", LINES, "note"),
            end,
        ];
        let told = log.append(first.generation, 1, facts, at(1)).await;
        assert_eq!(told.unwrap(), Told::Stored(3));
        let second = opened(&log, 2);
        let facts = vec![
            fact("started", "{\"run\":2}", "workflow:started"),
            fact("note", "é 🦀", "note"),
        ];
        let told = log.append(second.generation, 2, facts, at(2)).await;
        // With `restarted`.
        assert_eq!(told.unwrap(), Told::Stored(3));
    });
}

/// The same log after it has expired: one row is left.
fn write_expired(database: Database) {
    write_run(database.clone());
    WorkflowLog::new(database).expire().unwrap();
}

/// A log of which the newest three events are kept, of facts and of events without a key.
fn write_bounded(database: Database) {
    block_on(async {
        let retention = Retention::for_ever().max_events(3);
        let store = SqliteEventStore::new(database).retention(retention);
        for number in 1..=70 {
            let event = NewEvent::new("count", number.to_string()).unwrap();
            let key = format!("count {number}");
            let event = if number % 2 == 0 {
                event.with_key(key).unwrap()
            } else {
                event
            };
            store.append(vec![event]).await.unwrap();
        }
    });
}

/// The index of a workflow's runs: one that goes on, one that waits and has tags, five that completed, of which the log of
/// one has expired since, one that failed, and one whose log was deleted.
fn write_index(database: Database) {
    let index = RunIndex::new(database);
    let runs = [
        report(1, "running", json!({ "task": "pack", "percent": 50.0 })),
        report(
            2,
            "waiting",
            json!({ "task": "é 🦀", "tags": ["vip", "eu"], "run": 2, "from": 8 }),
        ),
        report(3, "failed", json!({ "error": "there isn't a \"box\"" })),
        report(4, "running", json!({})),
        removed(4),
    ];
    for report in runs {
        assert!(index.take(&report, at(1)).unwrap());
    }
    for number in 5..10 {
        let mut report = report(number, "completed", json!({ "ended": time(2, number) }));
        report.took = BTreeMap::from([("pack-1".to_owned(), number * 1_000)]);
        report.expires = Some(at_number(if number == 5 { 2 } else { 30 }));
        assert!(index.take(&report, at(1)).unwrap());
    }
}

// What this version makes of them.

/// A schema that changes needs a fixture of its own, so that this version's logs can be opened by the next ones; those
/// of the versions before are the tests below.
#[test]
fn the_newest_fixtures_are_what_this_version_writes() {
    for (kind, write) in KINDS {
        let database = Scratch::new();
        write(Database::open(&database.0));
        let written = dump(&database.0);
        let newest = fixtures(kind).pop();
        if let Ok(number) = std::env::var("FIXTURES")
            && newest.is_none_or(|(_, newest)| newest != written)
        {
            std::fs::write(folder().join(format!("{kind}-{number}.sql")), &written).unwrap();
        }
        let (path, newest) = fixtures(kind).pop().unwrap();
        assert_eq!(
            written,
            newest,
            "a log is stored otherwise than in {}. Make fixtures of the new schema (FIXTURES=<the next number> cargo test \
             --test schemas), keep those that are there, and let the tests of this file open all of them",
            path.display()
        );
    }
}

#[test]
fn the_log_of_a_run_is_gone_on_with() {
    for (path, text) in fixtures("run") {
        println!("{}", path.display());
        let database = Scratch::of(&text);
        block_on(async {
            let log = WorkflowLog::new(Database::open(&database.0));
            let state = log.state().unwrap();
            assert_eq!((state.run, state.ended, state.empty), (2, false, false));
            let all = [
                (1, "started", "{\"run\":1}"),
                (2, "note", LINES),
                (3, "completed", "{\"run\":1}"),
            ];
            let events = read(log.target(), Cursor::Beginning).await;
            assert_eq!(events.len(), 6);
            for (event, (id, name, data)) in events.iter().zip(all) {
                assert_eq!(
                    (event.0, event.1.as_str(), event.2.as_str()),
                    (id, name, data)
                );
            }
            assert_eq!(events[3].1, "restarted");
            assert_eq!(events[5].2, "é 🦀");
            // A viewer resumes at any of them, by events and by the stored frames.
            for after in 1..=6 {
                let rest = read(log.target(), Cursor::After(id(after))).await;
                let from = usize::try_from(after).unwrap();
                assert_eq!(rest, events[from..]);
                assert_frames(log.target().store(), after).await;
            }

            // The lifetimes before are known as such, and the facts that are there are not stored again.
            let opened = opened(&log, 3);
            assert_eq!(opened.run, 2);
            // Since the second schema the log knows when its run began.
            let begun = opened.rivals.and_then(|rivals| rivals.begun);
            let day = 24 * 60 * 60 * 1_000;
            assert_eq!(begun, text.contains("lifetimes").then_some(day));
            let mut facts = opened.facts.clone();
            facts.sort();
            assert_eq!(facts, ["note", "workflow:started"]);
            let again = vec![fact("note", "another", "note")];
            // The rows name this generation as that of the first run's lifetime.
            let stale = log.append(at_number(1), 2, again.clone(), at(4)).await;
            assert_eq!(stale.unwrap(), Told::Stale);
            let told = log.append(opened.generation, 2, again, at(4)).await;
            assert_eq!(told.unwrap(), Told::Stored(0));
            let end = fact("completed", "{\"run\":2}", "workflow:completed").terminal();
            let told = log.append(opened.generation, 2, vec![end], at(4)).await;
            assert_eq!(told.unwrap(), Told::Stored(1));
            assert!(log.state().unwrap().ended);
            let rest = read(log.target(), Cursor::After(id(6))).await;
            assert_eq!(
                rest,
                [(7, "completed".to_owned(), "{\"run\":2}".to_owned())]
            );

            // It is restarted, and expires.
            let third = self::opened(&log, 5);
            let facts = vec![fact("started", "{\"run\":3}", "workflow:started")];
            let told = log.append(third.generation, 3, facts, at(5)).await;
            assert_eq!(told.unwrap(), Told::Stored(2));
            log.expire().unwrap();
            assert_eq!(log.state().unwrap().run, 3);
            assert!(log.state().unwrap().empty);
        });
    }
}

#[test]
fn a_log_that_has_expired_knows_its_runs_and_ids() {
    for (path, text) in fixtures("expired") {
        println!("{}", path.display());
        let database = Scratch::of(&text);
        block_on(async {
            let log = WorkflowLog::new(Database::open(&database.0));
            let state = log.state().unwrap();
            assert_eq!((state.run, state.empty), (2, true));
            let mut old = log.target().subscribe(Cursor::After(id(3))).await.unwrap();
            let reset = old.next().await.unwrap();
            assert!(matches!(reset, Some(Batch::Reset(_))), "{reset:?}");
            let opened = opened(&log, 6);
            assert_eq!(opened.run, 3);
            let facts = vec![fact("started", "{\"run\":3}", "workflow:started")];
            let told = log.append(opened.generation, 3, facts, at(6)).await;
            assert_eq!(told.unwrap(), Told::Stored(2));
            let events = read(log.target(), Cursor::Beginning).await;
            let named: Vec<_> = events
                .iter()
                .map(|(id, name, _)| (*id, name.as_str()))
                .collect();
            assert_eq!(named, [(7, "restarted"), (8, "started")]);
        });
    }
}

#[test]
fn a_log_that_keeps_its_newest_events_goes_on() {
    for (path, text) in fixtures("bounded") {
        println!("{}", path.display());
        let database = Scratch::of(&text);
        let check = async |database: Database| {
            let retention = Retention::for_ever().max_events(3);
            let store = SqliteEventStore::new(database).retention(retention);
            let page = store.read(None, PageLimit::default()).await.unwrap();
            let data: Vec<_> = page
                .events
                .iter()
                .map(|event| event.data.as_str())
                .collect();
            assert_eq!(data, ["68", "69", "70"]);
            assert_eq!(
                (page.head, page.trimmed),
                (EventId::new(70), EventId::new(67))
            );
            let batch = ["count 70", "count 68", "count 71"].map(|key| fact("count", "71", key));
            let appended = store.append(batch.to_vec()).await.unwrap();
            let new = Appended::Stored(id(71));
            assert_eq!(appended, [Appended::Duplicate, Appended::Duplicate, new]);
            let page = store
                .read(Some(id(69)), PageLimit::default())
                .await
                .unwrap();
            let ids: Vec<_> = page.events.iter().map(|event| event.id.get()).collect();
            assert_eq!((ids, page.trimmed), (vec![70, 71], EventId::new(68)));
            assert_frames(&store, 69).await;
        };
        block_on(check(Database::open(&database.0)));
    }
}

#[test]
fn an_index_of_runs_goes_on() {
    for (path, text) in fixtures("index") {
        println!("{}", path.display());
        let database = Scratch::of(&text);
        let index = RunIndex::new(Database::open(&database.0));
        let list = |query: &str| -> Value {
            let filter = ListFilter::parse(Some(query)).unwrap();
            serde_json::from_str(&index.list(&filter, at(3)).unwrap()).unwrap()
        };
        let ids = |query: &str| -> Vec<String> {
            let page = list(query);
            let runs = page["runs"].as_array().unwrap().iter();
            runs.map(|run| run["id"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(ids(""), ["r9", "r8", "r7", "r6", "r3", "r2", "r1"]);
        assert_eq!(ids("state=waiting,failed"), ["r3", "r2"]);
        let page = list("state=waiting");
        let waits = &page["runs"][0];
        assert_eq!(
            (&waits["task"], &waits["from"]),
            (&json!("é 🦀"), &json!(8))
        );
        assert_eq!(waits["tags"], json!(["vip", "eu"]));
        assert_eq!(list("")["cursor"], 10);
        let day = 24 * 60 * 60 * 1_000;
        assert_eq!(list("")["typical"]["medianMs"], day);
        let estimate = serde_json::to_value(index.estimate().unwrap()).unwrap();
        assert_eq!(estimate["tasks"]["pack-1"]["medianMs"], 7_000);

        // The versions of the reports before are known, and that a log was deleted.
        assert!(!index.take(&report(1, "running", json!({})), at(3)).unwrap());
        assert!(!index.take(&report(4, "running", json!({})), at(3)).unwrap());
        let mut next = report(1, "waiting", json!({}));
        next.version += 2;
        assert!(index.take(&next, at(3)).unwrap());
        assert!(
            index
                .take(&report(10, "running", json!({})), at(3))
                .unwrap()
        );
        assert_eq!(ids("limit=1"), ["r10"]);
        assert_eq!(ids("state=waiting"), ["r2", "r1"]);

        // A viewer who read the list before goes on with what has changed since.
        let changes = block_on(read(index.target(), Cursor::After(id(10))));
        let changes: Vec<_> = changes
            .iter()
            .map(|(id, name, data)| {
                let data: Value = serde_json::from_str(data).unwrap();
                (*id, name.as_str(), data["id"].as_str().unwrap().to_owned())
            })
            .collect();
        let expected = [(11, "run", "r1".to_owned()), (12, "run", "r10".to_owned())];
        assert_eq!(changes, expected);
        block_on(assert_frames(index.target().store(), 5));
    }
}

/// As a plain server opens it.
#[cfg(feature = "rusqlite")]
#[test]
fn a_server_opens_the_file() {
    for kind in ["run", "bounded"] {
        for (path, text) in fixtures(kind) {
            println!("{}", path.display());
            let database = Scratch::of(&text);
            block_on(async {
                let head = {
                    let store = SqliteEventStore::open(&database.0).unwrap();
                    let head = store.head().unwrap().unwrap();
                    let page = store.read(None, PageLimit::default()).await.unwrap();
                    assert_eq!(page.events.last().unwrap().id, head);
                    let next = vec![NewEvent::new("next", LINES).unwrap()];
                    let next = store.append(next).await.unwrap();
                    assert_eq!(next, [Appended::Stored(id(head.get() + 1))]);
                    head
                };
                let store = SqliteEventStore::open(&database.0).unwrap();
                let page = store.read(Some(head), PageLimit::default()).await.unwrap();
                assert_eq!(page.events[0].data, LINES);
            });
        }
    }
}

// Tools.

fn opened(log: &WorkflowLog<Database>, day: u64) -> OpenedRun {
    match log.open(None, at(day)).unwrap() {
        Opened::Run(run) => run,
        other => panic!("the log must open, and not be {other:?}"),
    }
}

/// A report of the run of this number, which began on November 1, with more in its entry.
fn report(number: u64, state: &str, more: Value) -> RunReport {
    let id = format!("r{number}");
    let mut entry = json!({
        "id": id, "workflow": "order", "run": 1, "state": state, "started": time(1, number), "cursor": 4,
    });
    let more = more.as_object().unwrap().clone();
    entry.as_object_mut().unwrap().extend(more);
    let report = json!({ "id": id, "version": 8, "began": at_number(1) + number, "entry": entry });
    serde_json::from_value(report).unwrap()
}

fn removed(number: u64) -> RunReport {
    let id = format!("r{number}");
    let report = json!({ "id": id, "version": 9, "began": at_number(1) + number });
    serde_json::from_value(report).unwrap()
}

/// The time after midnight of a day, as text.
fn time(day: u64, milliseconds: u64) -> String {
    let time = at(day) + Duration::from_millis(milliseconds);
    humantime::format_rfc3339_millis(time).to_string()
}

/// Midnight of a day of November 2026.
fn at(day: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(at_number(day))
}

fn at_number(day: u64) -> u64 {
    1_793_491_200_000 + day * 86_400_000
}

fn id(number: u64) -> EventId {
    EventId::new(number).unwrap()
}

fn fact(event_type: &str, data: &str, key: &str) -> NewEvent {
    let event = NewEvent::new(event_type, data).unwrap();
    event.with_key(key).unwrap()
}

/// Returns id, type and data of all that follows.
async fn read<S: EventStore>(
    target: &SseTarget<NewEvent, S>,
    cursor: Cursor,
) -> Vec<(u64, String, String)> {
    let mut subscription = target.subscribe(cursor).await.unwrap();
    let mut all = Vec::new();
    while let Some(batch) = subscription.try_next().await.unwrap() {
        let Batch::Events(events) = batch else {
            panic!("the log has the position");
        };
        all.extend(
            events
                .into_iter()
                .map(|event| (event.id.get(), event.event_type, event.data)),
        );
    }
    all
}

/// The bytes that are stored are those of the events.
async fn assert_frames<Q: Sql>(store: &SqliteEventStore<Q>, after: u64) {
    let limit = PageLimit::default();
    let page = store.read(Some(id(after)), limit).await.unwrap();
    let mut expected = Vec::new();
    for event in &page.events {
        wire::encode(event, &mut expected);
    }
    let frames = store.read_encoded(Some(id(after)), limit).await.unwrap();
    let bytes = frames.events.map(|frames| frames.bytes.to_vec());
    assert_eq!(bytes.unwrap_or_default(), expected);
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Returns the fixtures of this kind, the newest last.
fn fixtures(kind: &str) -> Vec<(PathBuf, String)> {
    let mut numbers: Vec<u32> = std::fs::read_dir(folder())
        .unwrap()
        .filter_map(|file| {
            let name = file.unwrap().file_name().into_string().unwrap();
            let number = name.strip_prefix(kind)?.strip_prefix('-')?;
            number.strip_suffix(".sql")?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    let file = |number: &u32| {
        let path = folder().join(format!("{kind}-{number}.sql"));
        let text = std::fs::read_to_string(&path).unwrap();
        (path, text)
    };
    numbers.iter().map(file).collect()
}

/// Returns a database as SQL that makes it, with times of its own: those of the clock are another each time.
fn dump(path: &Path) -> String {
    let connection = Connection::open(path).unwrap();
    let mut out = String::new();
    let mut tables = connection
        .prepare(
            "SELECT name, sql, type = 'table' FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type DESC, name",
        )
        .unwrap();
    let tables = tables.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?))
    });
    let tables: Vec<(String, String, bool)> = tables.unwrap().collect::<Result<_, _>>().unwrap();
    for (table, sql, is_table) in tables {
        writeln!(out, "{sql};").unwrap();
        if !is_table {
            continue;
        }
        let mut rows = connection
            .prepare(&format!("SELECT * FROM {table} ORDER BY 1"))
            .unwrap();
        let columns: Vec<String> = rows.column_names().map(str::to_owned).collect();
        let quoted: Vec<_> = columns
            .iter()
            .map(|column| match column.as_str() {
                "time" => "1793491200000 + id".to_owned(),
                // A line of a fixture is a row.
                column => {
                    format!("replace(replace(quote({column}), char(10), '\\n'), char(13), '\\r')")
                }
            })
            .collect();
        rows = connection
            .prepare(&format!(
                "SELECT {} FROM {table} ORDER BY 1",
                quoted.join(", ")
            ))
            .unwrap();
        let mut rows = rows.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<String> = (0..columns.len())
                .map(|column| match row.get_ref(column).unwrap() {
                    rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                    text => text.as_str().unwrap().to_owned(),
                })
                .map(
                    |value| match value.starts_with('\'') && value.contains('\\') {
                        true => {
                            format!("replace(replace({value}, '\\n', char(10)), '\\r', char(13))")
                        }
                        false => value,
                    },
                )
                .collect();
            writeln!(out, "INSERT INTO {table} VALUES ({});", values.join(", ")).unwrap();
        }
    }
    out
}

/// A file that is gone after the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ssetarget-schemas-{}-{number}.db", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn of(text: &str) -> Self {
        let scratch = Self::new();
        let connection = Connection::open(&scratch.0).unwrap();
        connection.execute_batch(text).unwrap();
        scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm"] {
            let mut name = self.0.clone().into_os_string();
            name.push(end);
            let _ = std::fs::remove_file(name);
        }
    }
}
