//! The contract of stores, and the further promises of the one in SQLite.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_executor::block_on;
use ssetarget::internals::WorkflowLog;
use ssetarget::store::{FrameStore, Retention, Sql, SqlValue, contract};
use ssetarget::workflow::{Opened, Told};
use ssetarget::{
    Appended, Batch, Cursor, EventId, EventStore, MemoryEventStore, NewEvent, NullEventStore, Page,
    PageLimit, SqliteEventStore, SseTarget, StoredEvent, wire,
};
use support::clock::ManualClock;
use support::sql::Database;

#[test]
fn memory_keeps_the_promise() {
    block_on(contract::check(async || MemoryEventStore::new()));
}

#[test]
fn memory_that_is_bounded_keeps_the_promise() {
    block_on(contract::check(async || {
        MemoryEventStore::new()
            .max_events(1000)
            .max_age(Duration::from_secs(3600))
    }));
}

#[test]
fn memory_reports_removed_events() {
    let trim = async |store: &MemoryEventStore, last| store.trim(last);
    block_on(contract::check_trimmed(
        async || MemoryEventStore::new(),
        trim,
    ));
}

#[test]
fn memory_with_an_age_limit_reports_removed_events() {
    // Each append is an hour after the one before, until events are removed.
    const HOUR: Duration = Duration::from_secs(3600);
    let trim = async |store: &HourByHour, last: EventId| {
        let page = store.read(None, PageLimit::default()).await.unwrap();
        let last = page.events.iter().find(|event| event.id == last).unwrap();
        store.clock.set(last.timestamp + 100 * HOUR);
        store.stands_still.store(true, Ordering::SeqCst);
    };
    block_on(async {
        contract::checks::trimmed_in_part(&HourByHour::new(100 * HOUR), &mut { trim }).await;
        contract::checks::trimmed_as_a_whole(&HourByHour::new(100 * HOUR), &mut { trim }).await;
    });

    struct HourByHour {
        clock: ManualClock,
        stands_still: AtomicBool,
        inner: MemoryEventStore,
    }

    impl HourByHour {
        fn new(age: Duration) -> Self {
            let clock = ManualClock::new();
            let inner = MemoryEventStore::new().max_age(age);
            Self {
                inner: inner.with_clock(clock.reader()),
                stands_still: AtomicBool::new(false),
                clock,
            }
        }
    }

    impl EventStore for HourByHour {
        type Error = Infallible;
        async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Infallible> {
            if !self.stands_still.load(Ordering::SeqCst) {
                self.clock.advance(HOUR);
            }
            self.inner.append(batch).await
        }
        async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Infallible> {
            self.inner.read(after, limit).await
        }
        async fn changed(&self, after: Option<EventId>) -> Result<(), Infallible> {
            self.inner.changed(after).await
        }
        async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Infallible> {
            self.inner.before(time).await
        }
    }
}

#[test]
fn null_keeps_its_part_of_the_promise() {
    block_on(contract::check_transient(async || NullEventStore::new()));
}

#[test]
fn sqlite_keeps_the_promise() {
    block_on(contract::check(async || {
        SqliteEventStore::new(Database::in_memory())
    }));
}

#[test]
fn sqlite_in_a_file_keeps_the_promise() {
    let files = Files::new();
    block_on(contract::check(async || {
        SqliteEventStore::new(Database::open(files.next()))
    }));
}

#[test]
fn sqlite_in_a_file_is_the_same_after_reopening() {
    let files = Files::new();
    let file = files.next();
    block_on(contract::check_reopened(async || {
        SqliteEventStore::new(Database::open(&file))
    }));
}

#[test]
fn sqlite_reports_removed_events() {
    let trim = async |store: &SqliteEventStore<Database>, last| store.trim(last).unwrap();
    block_on(contract::check_trimmed(
        async || SqliteEventStore::new(Database::in_memory()),
        trim,
    ));
    // The same with a store that keeps nothing in memory.
    let trim = async |store: &SqliteEventStore<Database>, last| {
        store.trim(last).unwrap();
        store.forget();
    };
    block_on(contract::check_trimmed(
        async || SqliteEventStore::new(Database::in_memory()),
        trim,
    ));
}

#[test]
fn stores_that_are_bounded_by_count_keep_the_newest() {
    block_on(contract::check_bounded(async |retention| {
        MemoryEventStore::new().retention(retention)
    }));
    block_on(contract::check_bounded(async |retention| {
        SqliteEventStore::new(Database::in_memory()).retention(retention)
    }));
    // Again, as if it had left memory after each append.
    block_on(contract::check_bounded(async |retention| {
        Forgetful(SqliteEventStore::new(Database::in_memory()).retention(retention))
    }));

    struct Forgetful(SqliteEventStore<Database>);
    impl EventStore for Forgetful {
        type Error = <SqliteEventStore<Database> as EventStore>::Error;
        async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Self::Error> {
            let outcomes = self.0.append(batch).await;
            self.0.forget();
            outcomes
        }
        async fn read(
            &self,
            after: Option<EventId>,
            limit: PageLimit,
        ) -> Result<Page, Self::Error> {
            self.0.read(after, limit).await
        }
        async fn changed(&self, after: Option<EventId>) -> Result<(), Self::Error> {
            self.0.changed(after).await
        }
        async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Self::Error> {
            self.0.before(time).await
        }
    }
}

#[test]
fn sqlite_that_is_bounded_keeps_the_promise_and_few_rows() {
    let retention = Retention::for_ever()
        .max_events(1000)
        .max_age(Duration::from_secs(3600));
    block_on(contract::check(async || {
        SqliteEventStore::new(Database::in_memory()).retention(retention)
    }));
    let trim = async |store: &SqliteEventStore<Database>, last| store.trim(last).unwrap();
    block_on(contract::check_trimmed(
        async || SqliteEventStore::new(Database::in_memory()).retention(retention),
        trim,
    ));
    block_on(async {
        let database = Database::in_memory();
        let store = SqliteEventStore::new(database.clone())
            .retention(Retention::for_ever().max_events(100));
        for number in 0..1_000 {
            let batch = vec![event(&number.to_string(), "")];
            store.append(batch).await.unwrap();
            let rows = database.exec("SELECT count(*) FROM events", &[]).unwrap();
            let Some(SqlValue::Integer(rows)) = rows[0].first() else {
                panic!("a count is a number");
            };
            assert!(*rows <= 165, "{rows} rows after {number}");
        }
        let page = store.read(None, PageLimit::default()).await.unwrap();
        assert_eq!((page.events.len(), page.events[0].id.get()), (100, 901));
    });
}

/// A log that is cleared on request loses its keys too, and its ids are not assigned again.
#[test]
fn logs_are_cleared() {
    block_on(async {
        let memory = MemoryEventStore::new();
        memory.clear();
        cleared(&memory, async || memory.clear()).await;
        let sqlite = SqliteEventStore::new(Database::in_memory());
        sqlite.clear().unwrap();
        cleared(&sqlite, async || sqlite.clear().unwrap()).await;
    });

    async fn cleared<S: EventStore>(store: &S, clear: impl AsyncFn()) {
        let page = async || store.read(None, PageLimit::default()).await.unwrap();
        store
            .append(vec![event("a", "1"), event("b", "2").terminal()])
            .await
            .unwrap();
        for _ in 0..2 {
            clear().await;
            let left = page().await;
            let head = EventId::new(2);
            assert_eq!((left.events.len(), left.oldest), (0, None));
            assert_eq!((left.head, left.trimmed, left.closed), (head, head, false));
        }
        let again = store.append(vec![event("a", "3")]).await.unwrap();
        assert_eq!(again, [Appended::Stored(EventId::new(3).unwrap())]);
        assert_eq!(page().await.events.len(), 1);
    }
}

#[test]
fn sqlite_leaves_out_events_that_are_too_old() {
    block_on(async {
        // Half of it is much more than the calls between take.
        let age = Duration::from_secs(5);
        let store = || {
            let store = SqliteEventStore::new(Database::in_memory());
            store.retention(Retention::for_ever().max_age(age))
        };
        let store = store();
        let append = async |data: &str| store.append(vec![event(data, "")]).await.unwrap();
        let read = async || store.read(None, PageLimit::default()).await.unwrap();
        append("1").await;
        append("2").await;
        std::thread::sleep(age / 2);
        append("3").await;
        assert_eq!(read().await.events.len(), 3);
        std::thread::sleep(age / 2 + Duration::from_millis(20));
        let page = read().await;
        let ends = (page.oldest, page.trimmed, page.head);
        let id = |number| EventId::new(number);
        assert_eq!(page.events.len(), 1);
        assert_eq!(ends, (id(3), id(2), id(3)));
        std::thread::sleep(age / 2 + Duration::from_millis(20));
        let page = read().await;
        let ends = (page.events.len(), page.oldest, page.trimmed, page.head);
        assert_eq!(ends, (0, None, id(3), id(3)));
        // It is also gone for a store that opens the log again, and ids go on.
        store.forget();
        assert_eq!(read().await.oldest, None);
        append("4").await;
        let page = read().await;
        assert_eq!((page.oldest, page.trimmed), (id(4), id(3)));
        store.trim(id(4).unwrap()).unwrap();
        assert_eq!(read().await.oldest, None);
    });
}

#[test]
fn a_removed_log_leaves_one_row() {
    block_on(async {
        let database = Database::in_memory();
        let store = SqliteEventStore::new(database.clone());
        let row = |columns: &'static str| database.exec(columns, &[]).unwrap();
        assert_eq!(store.emptied().unwrap(), None);
        for n in 0..5 {
            store
                .append(vec![event(&n.to_string(), "x")])
                .await
                .unwrap();
        }
        // Events that do not exist are not removed.
        store.trim(EventId::new(2).unwrap()).unwrap();
        store.trim(EventId::new(1).unwrap()).unwrap();
        assert_eq!(row("SELECT id, key, frame = '' FROM events").len(), 4);
        assert_eq!(store.emptied().unwrap(), None);

        store.trim(EventId::new(EventId::MAX).unwrap()).unwrap();
        for store in [&store, &SqliteEventStore::new(database.clone())] {
            assert_eq!(row("SELECT id, key, data FROM events").len(), 1);
            assert!(store.is_empty().unwrap() && !store.is_closed().unwrap());
            assert!(store.emptied().unwrap().is_some());
            assert_eq!(store.head().unwrap(), EventId::new(5));
            assert_eq!(store.keys("").unwrap(), Vec::<String>::new());
        }
        let outcomes = store.append(vec![event("4", "again")]).await.unwrap();
        assert_eq!(outcomes, [Appended::Stored(EventId::new(6).unwrap())]);
        assert!(!store.is_empty().unwrap() && store.emptied().unwrap().is_none());
    });
}

#[test]
fn a_workflow_that_runs_again_after_its_log_expired_goes_on_with_ids_and_runs() {
    block_on(async {
        for length in [3, 5] {
            let log = WorkflowLog::new(Database::in_memory());
            let run = |run, length: u64| {
                let log = &log;
                async move {
                    let mut facts: Vec<_> =
                        (1..length).map(|n| event(&n.to_string(), "{}")).collect();
                    facts.push(event("end", "{}").terminal());
                    let Opened::Run(opened) = log.open(None, SystemTime::UNIX_EPOCH).unwrap()
                    else {
                        panic!("nobody restarts it");
                    };
                    assert_eq!((opened.run, opened.facts.len()), (run, 0));
                    let generation = opened.generation;
                    let told = log.append(generation, run, facts, SystemTime::UNIX_EPOCH);
                    let Told::Stored(stored) = told.await.unwrap() else {
                        panic!("it is the latest");
                    };
                    stored
                }
            };
            log.expire().unwrap();
            assert_eq!(run(1, 3).await, 3);
            log.expire().unwrap();
            log.expire().unwrap();

            // The run whose log was removed accepts nothing more.
            let late = vec![event("late", "{}")];
            let generation = log.state().unwrap().generation;
            let late = log.append(generation, 1, late, SystemTime::UNIX_EPOCH);
            assert_eq!(late.await.unwrap(), Told::Stored(0));
            let restarted = usize::try_from(length).unwrap() + 1;
            assert_eq!(run(2, length).await, restarted);

            // A client that had seen two of the three events, one that had seen them all, and one
            // with a position beyond the log.
            let next = async |cursor| {
                let mut viewer = log.target().subscribe(cursor).await.unwrap();
                assert!(!viewer.has_ended());
                viewer.next().await.unwrap().unwrap()
            };
            let id = |id| EventId::new(id).unwrap();
            for lost in [2, 99] {
                let Batch::Reset(reset) = next(Cursor::After(id(lost))).await else {
                    panic!("it missed something");
                };
                assert_eq!(
                    (reset.oldest, reset.head),
                    (Some(id(4)), Some(id(4 + length)))
                );
            }
            for cursor in [Cursor::After(id(3)), Cursor::Beginning] {
                let Batch::Events(events) = next(cursor).await else {
                    panic!("it missed nothing");
                };
                assert_eq!((events[0].id, &*events[0].event_type), (id(4), "restarted"));
                assert_eq!(events.len(), restarted);
            }
            log.expire().unwrap();
            assert_eq!(run(3, length).await, restarted);

            // An announced restart is the next run, and only that.
            log.expire().unwrap();
            let stood = log.begin_restart(SystemTime::UNIX_EPOCH).unwrap();
            let stood = (stood.run, stood.generation);
            let confirmed = log.confirm_restart(stood, &event("1", "{}"), SystemTime::UNIX_EPOCH);
            assert!(confirmed.unwrap());
            let Opened::Run(opened) = log.open(None, SystemTime::UNIX_EPOCH).unwrap() else {
                panic!("it is confirmed");
            };
            assert_eq!((opened.run, opened.facts), (4, vec!["1".to_owned()]));
        }
    });
}

/// SQLite assembles a page in one value.
#[test]
fn pages_of_whatever_grows_most_are_read() {
    block_on(async {
        let database = Database::in_memory();
        let store = SqliteEventStore::new(database.clone());
        let longest = "t".repeat(NewEvent::MAX_TYPE);
        let mut expected = Vec::new();
        for lines in [0, 40, 255, 256, 257] {
            let event = NewEvent::new(longest.clone(), "\n".repeat(lines)).unwrap();
            expected.resize(expected.len() + 700, event);
        }
        for lines in [133_000, 248_000, 249_000, 1_000_000] {
            expected.push(NewEvent::new("t", "\n".repeat(lines)).unwrap());
            expected.push(NewEvent::new("t", "between").unwrap());
        }
        for batch in expected.chunks(1_500) {
            store.append(batch.to_vec()).await.unwrap();
        }
        let all = PageLimit {
            events: usize::MAX,
            bytes: usize::MAX,
        };
        for limit in [PageLimit::default(), all] {
            let store = SqliteEventStore::new(database.clone());
            let mut after = None;
            let mut read = 0;
            while let Some(frames) = store.read_frames(after, limit).await.unwrap().events {
                let last = usize::try_from(frames.last.get()).unwrap();
                let mut bytes = Vec::new();
                for (n, event) in expected[read..last].iter().enumerate() {
                    let stored = StoredEvent {
                        id: EventId::new((read + n + 1) as u64).unwrap(),
                        event_type: event.event_type().to_owned(),
                        data: event.data().to_owned(),
                        timestamp: SystemTime::UNIX_EPOCH,
                    };
                    wire::encode(&stored, &mut bytes);
                }
                assert!(frames.bytes == bytes, "events {read} to {last}");
                (read, after) = (last, Some(frames.last));
            }
            assert_eq!(read, expected.len());
            let mut read = 0;
            let mut after = None;
            loop {
                let page = store.read(after, PageLimit::default()).await.unwrap();
                let Some(last) = page.events.last() else {
                    break;
                };
                after = Some(last.id);
                for event in &page.events {
                    assert!(event.data == expected[read].data(), "event {read}");
                    read += 1;
                }
            }
            assert_eq!(read, expected.len());
        }
    });
}

#[test]
fn a_batch_that_fails_half_way_leaves_nothing() {
    block_on(async {
        let database = Database::in_memory();
        let batch: Vec<_> = (0..5)
            .map(|n| event(&n.to_string(), &"x".repeat(1_000_000)))
            .collect();
        let store = SqliteEventStore::new(database.clone());
        let mut statements = 0;
        // Each of its statements fails once.
        for nth in 0.. {
            let forgetful = SqliteEventStore::new(database.clone());
            forgetful.head().unwrap();
            forgetful.keys("").unwrap();
            database.fail_after(nth);
            let outcome = forgetful.append(batch.clone()).await;
            database.fail_after(usize::MAX);
            store.forget();
            let page = store.read(None, PageLimit::default()).await.unwrap();
            if outcome.is_ok() {
                assert_eq!(page.head, EventId::new(5));
                break;
            }
            assert_eq!(page, Page::default(), "statement {nth}");
            assert_eq!(database.tables(), Vec::<String>::new());
            statements += 1;
        }
        assert!(statements > 3, "{statements}");
    });
}

#[test]
fn memory_keeps_the_newest_events() {
    block_on(async {
        let store = MemoryEventStore::new().max_events(3);
        store
            .append(vec![event("a", "1"), event("b", "2")])
            .await
            .unwrap();
        assert_eq!(kept(&store).await, (vec![1, 2], None, false));
        // More events than fit: each outcome is returned before any event is removed.
        let batch = ["c", "d", "c", "e", "f"].map(|key| event(key, ""));
        let outcomes = store.append(batch.to_vec()).await.unwrap();
        let id = |id| Appended::Stored(EventId::new(id).unwrap());
        assert_eq!(outcomes, [id(3), id(4), Appended::Duplicate, id(5), id(6)]);
        assert_eq!(kept(&store).await, (vec![4, 5, 6], Some(3), false));

        // A key is known as long as its event is kept.
        let batch = ["f", "a"].map(|key| event(key, ""));
        let outcomes = store.append(batch.to_vec()).await.unwrap();
        assert_eq!(outcomes, [Appended::Duplicate, id(7)]);
        assert_eq!(kept(&store).await, (vec![5, 6, 7], Some(4), false));

        // A log without events would be useless.
        let store = MemoryEventStore::new().max_events(0);
        store
            .append(vec![event("a", "1"), event("b", "2").terminal()])
            .await
            .unwrap();
        assert_eq!(kept(&store).await, (vec![2], Some(1), true));
    });
}

#[test]
fn memory_keeps_events_until_they_are_too_old() {
    block_on(async {
        let clock = ManualClock::new();
        let store = MemoryEventStore::new()
            .max_age(Duration::from_secs(10))
            .max_events(3)
            .with_clock(clock.reader());
        let start = clock.now();
        for n in 0..3 {
            store.append(vec![event(&n.to_string(), "")]).await.unwrap();
            clock.advance(Duration::from_secs(4));
        }
        // At 12 s, the event of 0 s is gone with its key, and those of 4 s and 8 s are kept.
        assert_eq!(kept(&store).await, (vec![2, 3], Some(1), false));
        clock.advance(Duration::from_millis(1999));
        assert_eq!(kept(&store).await, (vec![2, 3], Some(1), false));
        let before = store.before(start + Duration::from_secs(5)).await.unwrap();
        assert_eq!(before, EventId::new(2));
        clock.advance(Duration::from_millis(1));
        // `before` returns no position that is gone, either.
        let before = store.before(start + Duration::from_secs(5)).await.unwrap();
        assert_eq!(before, None);
        assert_eq!(kept(&store).await, (vec![3], Some(2), false));

        // Removed by an append, before it looks at the keys.
        clock.advance(Duration::from_secs(4));
        let again = event("2", "again").terminal();
        let outcomes = store.append(vec![again]).await.unwrap();
        assert_eq!(outcomes, [Appended::Stored(EventId::new(4).unwrap())]);
        assert_eq!(kept(&store).await, (vec![4], Some(3), true));

        // The end is forgotten with the terminal event, the head is not.
        clock.advance(Duration::from_secs(10));
        assert_eq!(kept(&store).await, (vec![], Some(4), false));
        let page = store
            .read(EventId::new(4), PageLimit::default())
            .await
            .unwrap();
        assert_eq!(page.head, EventId::new(4));

        // A clock that is set back brings no removed event back.
        clock.set(start);
        let newest = start + Duration::from_secs(18);
        store.append(vec![event("a", "")]).await.unwrap();
        let page = store.read(None, PageLimit::default()).await.unwrap();
        assert_eq!(page.events[0].timestamp, newest);
        assert_eq!(kept(&store).await, (vec![5], Some(4), false));
    });
}

#[test]
fn bounded_memory_does_not_grow() {
    block_on(async {
        let store = MemoryEventStore::new().max_events(100);
        for n in 0..10_000 {
            let key = format!("{n}/{}", "k".repeat(100));
            let event = event(&key, &"x".repeat(1000));
            store.append(vec![event]).await.unwrap();
        }
        let text = format!("{store:?}");
        // Kept events are counted by their parts: keys twice, in the event and in the set.
        assert!(text.len() < 100 * 2_000, "{} bytes", text.len());
        assert!(text.contains("9999/k") && !text.contains("9899/k"));
    });
}

/// Returns the ids that are kept, the greatest that was removed, and whether the log is closed.
async fn kept(store: &MemoryEventStore) -> (Vec<u64>, Option<u64>, bool) {
    let page = store.read(None, PageLimit::default()).await.unwrap();
    let ids: Vec<_> = page.events.iter().map(|event| event.id.get()).collect();
    assert_eq!(page.oldest.map(EventId::get), ids.first().copied());
    (ids, page.trimmed.map(EventId::get), page.closed)
}

#[test]
fn sqlite_has_the_bytes_of_the_wire() {
    let database = Database::in_memory();
    block_on(contract::check_frames(async || {
        SqliteEventStore::new(database.clone())
    }));
}

#[test]
fn a_log_that_is_only_read_creates_no_table() {
    block_on(async {
        let database = Database::in_memory();
        let target: SseTarget<NewEvent, _> =
            SseTarget::new(SqliteEventStore::new(database.clone()));
        for cursor in [
            Cursor::Beginning,
            Cursor::Latest,
            Cursor::After(EventId::new(7).unwrap()),
        ] {
            let mut subscription = target.subscribe(cursor).await.unwrap();
            assert!(!subscription.has_ended());
            let waiting = futures_util::poll!(std::pin::pin!(subscription.next()));
            assert_eq!(waiting.is_pending(), cursor_is_honoured(cursor));
        }
        assert_eq!(target.store().keys("").unwrap(), Vec::<String>::new());
        target.store().append(Vec::new()).await.unwrap();
        assert_eq!(database.tables(), Vec::<String>::new());

        target.store().append(vec![event("a", "1")]).await.unwrap();
        assert_eq!(database.tables(), ["events"]);
    });

    /// A position in an empty log is answered with a reset.
    fn cursor_is_honoured(cursor: Cursor) -> bool {
        !matches!(cursor, Cursor::After(_))
    }
}

#[test]
fn a_batch_of_any_size_is_one_statement_with_the_same_six_parameters() {
    block_on(async {
        let database = Database::in_memory();
        let store = SqliteEventStore::new(database.clone());
        store.append(vec![event("first", "")]).await.unwrap();
        let batch: Vec<_> = (0..500)
            .map(|n| event(&n.to_string(), "🦀 ' \" \0 \r\n"))
            .collect();
        database.take_statements();
        store.append(batch).await.unwrap();
        let statements = database.take_statements();
        assert_eq!(statements.len(), 1, "{statements:?}");
        assert_eq!(
            statements[0].params, 6,
            "its first id, its time, its frames, its writer, the events' keys and their numbers"
        );
        // The platform refuses longer statements.
        assert!(statements[0].text.len() < 100_000);
    });
}

#[test]
fn a_batch_may_have_events_of_every_kind() {
    block_on(async {
        let plain = |data: &str| NewEvent::new("t", data).unwrap();
        let kinds = || {
            vec![
                event("one line", "{}"),
                plain("no key"),
                event("lines", "a\nb\r\nc"),
                plain("\n\"no key\"\r"),
                event("", ""),
                event("🦀 ' \" \0 \n", "\0").terminal(),
            ]
        };
        let stored = async |batches: Vec<Vec<NewEvent>>| {
            let database = Database::in_memory();
            let store = SqliteEventStore::new(database.clone());
            for batch in batches {
                store.append(batch).await.unwrap();
            }
            // A store that keeps nothing in memory.
            let store = SqliteEventStore::new(database.clone());
            assert_eq!(
                store.keys("").unwrap(),
                ["", "lines", "one line", "🦀 ' \" \0 \n"]
            );
            assert!(store.is_closed().unwrap());
            let page = store.read(None, PageLimit::default()).await.unwrap();
            let columns = "SELECT id, size, terminal, key, data, frame FROM events ORDER BY id";
            let types = "SELECT typeof(size), typeof(terminal), typeof(frame) FROM events";
            let data: Vec<_> = page.events.into_iter().map(|event| event.data).collect();
            (data, database.exec(columns, &[]), database.exec(types, &[]))
        };
        let (data, rows, types) = stored(vec![kinds()]).await;
        let expected: Vec<_> = kinds()
            .iter()
            .map(|event| event.data().to_owned())
            .collect();
        assert_eq!(data, expected);
        let one_by_one = stored(kinds().into_iter().map(|event| vec![event]).collect()).await;
        assert_eq!((data, rows, types), one_by_one);
    });
}

#[test]
fn a_log_of_an_earlier_version_is_read_as_it_is_and_extended_by_an_append() {
    block_on(async {
        let database = Database::in_memory();
        let old = "CREATE TABLE events (id INTEGER PRIMARY KEY, time INTEGER NOT NULL, \
                   size INTEGER NOT NULL, terminal INTEGER NOT NULL, key TEXT, data TEXT, \
                   frame TEXT NOT NULL)";
        let row = "INSERT INTO events VALUES (1, 5, 2, 1, 'a', NULL, \
                   'id: 1' || char(10) || 'event: t' || char(10) || 'data: {}' || char(10) || char(10))";
        let columns = || {
            let columns = "SELECT count(*) FROM pragma_table_info('events')";
            database.exec(columns, &[]).unwrap()
        };
        database.exec(old, &[]).unwrap();
        database.exec(row, &[]).unwrap();
        let as_it_was = columns();
        let store = SqliteEventStore::new(database.clone());
        let page = store.read(None, PageLimit::default()).await.unwrap();
        assert_eq!(page.events[0].data, "{}");
        assert!(page.closed);
        store.append(vec![event("a", "again")]).await.unwrap();
        assert_eq!(columns(), as_it_was, "nothing was stored");

        store.append(vec![event("b", "1")]).await.unwrap();
        store
            .append(vec![event("c", "2"), event("d", "3")])
            .await
            .unwrap();
        let reopened = SqliteEventStore::new(database.clone());
        reopened.append(vec![event("e", "4")]).await.unwrap();
        let page = reopened.read(None, PageLimit::default()).await.unwrap();
        let data: Vec<_> = page
            .events
            .iter()
            .map(|event| event.data.as_str())
            .collect();
        assert_eq!(data, ["{}", "1", "2", "3", "4"]);
        assert_eq!(reopened.keys("").unwrap(), ["a", "b", "c", "d", "e"]);
    });
}

#[test]
fn every_call_takes_few_statements() {
    block_on(async {
        let database = Database::in_memory();
        SqliteEventStore::new(database.clone())
            .append(vec![event("first", "")])
            .await
            .unwrap();
        let store = SqliteEventStore::new(database.clone());
        let _watch = store.watch();
        database.take_statements();
        store.read(None, PageLimit::default()).await.unwrap();
        assert_eq!(database.take_statements().len(), 3, "the first call");
        store.read(None, PageLimit::default()).await.unwrap();
        store.read_frames(None, PageLimit::default()).await.unwrap();
        assert_eq!(database.take_statements().len(), 2);
        store.keys("f").unwrap();
        assert_eq!(database.take_statements().len(), 1, "the first time");
        let stored = store.append(vec![event("second", "")]).await.unwrap();
        let Appended::Stored(id) = stored[0] else {
            panic!("a new key");
        };
        assert_eq!(database.take_statements().len(), 1);
        // A call at the head takes no permit.
        store.changed(None).await.unwrap();
        store.keys("f").unwrap();
        store.append(vec![event("second", "")]).await.unwrap();
        let before = EventId::new(id.get() - 1);
        for after in [before, Some(id)] {
            store
                .read_frames(after, PageLimit::default())
                .await
                .unwrap();
        }
        assert_eq!(database.take_statements().len(), 0);
    });
}

#[test]
fn viewers_at_one_place_share_their_bytes() {
    block_on(async {
        let database = Database::in_memory();
        let store = SqliteEventStore::new(database.clone());
        for n in 0..3 {
            store.append(vec![event(&n.to_string(), "")]).await.unwrap();
        }
        let reopened = SqliteEventStore::new(database);
        for store in [store, reopened] {
            let _watch = store.watch();
            for after in [None, EventId::new(1), EventId::new(2)] {
                let mut places = Vec::new();
                for _ in 0..2 {
                    let page = store.read_frames(after, PageLimit::default()).await;
                    let frames = page.unwrap().events.unwrap();
                    assert_eq!(frames.last.get(), 3);
                    places.push(frames.bytes.as_ptr());
                }
                assert_eq!(places[0], places[1], "after {after:?}");
            }
        }
    });
}

#[test]
fn duplicates_write_no_row() {
    block_on(async {
        let database = Database::in_memory();
        let store = SqliteEventStore::new(database.clone());
        let batch = vec![event("a", "1"), event("b", "2"), event("a", "3")];
        store.append(batch.clone()).await.unwrap();
        let written = database.rows_written();
        assert_eq!(written, 2);
        let outcomes = store.append(batch).await.unwrap();
        assert_eq!(outcomes, [Appended::Duplicate; 3]);
        assert_eq!(database.rows_written(), written);
    });
}

#[test]
fn an_id_is_not_taken_by_a_duplicate() {
    block_on(async {
        let store = SqliteEventStore::new(Database::in_memory());
        store.append(vec![event("a", "1")]).await.unwrap();
        store.append(vec![event("a", "2")]).await.unwrap();
        let outcomes = store.append(vec![event("b", "3")]).await.unwrap();
        assert_eq!(outcomes, [Appended::Stored(EventId::new(2).unwrap())]);
    });
}

/// A long log has its keys in few rows, too. They are exactly those of its events, whatever happens to the log, and
/// whichever version of the crate does it.
#[test]
fn the_digest_of_a_long_log_has_exactly_its_keys() {
    let database = Database::in_memory();
    let wake = || SqliteEventStore::new(database.clone());
    let mut store = wake();
    let mut model = std::collections::BTreeMap::new();
    let (mut digests, mut head) = (0, 0_u64);
    // The same numbers each time, in no order.
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    for round in 0..600 {
        let key = |random: &mut dyn FnMut(u64) -> u64| match random(4) {
            0 => format!("plain/{}", random(4_000)),
            1 => format!("1/step-{}:progress:1:{}", random(9), random(3_000)),
            2 => format!("1/step-{}:progress:2:{round}", random(3)),
            _ => format!("\"quoted\"\n{}:{}", random(300), random(5)),
        };
        let batch: Vec<_> = (0..=random(60)).map(|_| key(&mut random)).collect();
        let events: Vec<_> = batch.iter().map(|key| event(key, "{}")).collect();
        let outcomes = block_on(store.append(events)).unwrap();
        for (key, outcome) in batch.into_iter().zip(outcomes) {
            let is_new = !model.contains_key(&key);
            assert_eq!(outcome != Appended::Duplicate, is_new, "{key}");
            if is_new {
                head += 1;
                model.insert(key, head);
            }
        }
        let mut gone = 0;
        match random(24) {
            0 => {
                let drop_it = "DROP TABLE IF EXISTS event_keys";
                database.exec(drop_it, &[]).map(drop).unwrap();
                store = wake();
            }
            1 => {
                gone = head - random(head / 2 + 1);
                store.trim(EventId::new(gone).unwrap()).unwrap();
            }
            2 => {
                // As a version that has no digests trims a log.
                gone = head - random(head / 2 + 1);
                let gone = [SqlValue::Integer(i64::try_from(gone).unwrap())];
                let left = "UPDATE events SET terminal = 4, key = NULL, frame = '' WHERE id = ?1";
                database.exec(left, &gone).unwrap();
                database
                    .exec("DELETE FROM events WHERE id < ?1", &gone)
                    .unwrap();
                store = wake();
            }
            3..10 => store = wake(),
            _ => {}
        }
        model.retain(|_, id| *id > gone);
        let count = "SELECT count(*) FROM sqlite_master WHERE name = 'event_keys'";
        if database.exec(count, &[]).unwrap() == [[SqlValue::Integer(1)]] {
            digests += 1;
        }
        if round % 50 == 49 {
            let keys: Vec<_> = model.keys().cloned().collect();
            assert_eq!(wake().keys("").unwrap(), keys);
        }
    }
    assert!(digests > 100, "few rounds had a digest: {digests}");
}

/// Their numbers take more than their frames.
#[test]
fn a_batch_of_very_many_small_events_is_stored() {
    const EVENTS: u64 = 70_000;
    let store = SqliteEventStore::new(Database::in_memory());
    let batch = (0..EVENTS).map(|_| NewEvent::new("t", "").unwrap());
    let outcomes = block_on(store.append(batch.collect())).unwrap();
    assert_eq!(
        outcomes.last(),
        Some(&Appended::Stored(EventId::new(EVENTS).unwrap()))
    );
    let page = block_on(store.read(EventId::new(EVENTS - 2), PageLimit::default())).unwrap();
    assert_eq!(page.events.len(), 2);
}

/// However many numbers the keys of one name have, and however far apart they are, each row of the
/// digest is small.
#[test]
fn the_digest_of_a_name_with_scattered_numbers_fits_into_its_rows() {
    const EVENTS: u64 = 140_000;
    let database = Database::in_memory();
    let key = |n: u64| format!("order:{}", 2_000_000_000 + n * 3);
    let events = |numbers: std::ops::Range<u64>| numbers.map(|n| event(&key(n), "{}")).collect();
    let store = SqliteEventStore::new(database.clone());
    for first in (0..EVENTS).step_by(20_000) {
        block_on(store.append(events(first..first + 20_000))).unwrap();
    }
    // A log of a version that has no digests.
    for drop_it in [true, false] {
        if drop_it {
            database.exec("DROP TABLE event_keys", &[]).unwrap();
        }
        let store = SqliteEventStore::new(database.clone());
        let outcomes = block_on(store.append(events(0..2_000))).unwrap();
        assert!(
            outcomes
                .iter()
                .all(|outcome| *outcome == Appended::Duplicate)
        );
        let one = block_on(store.append(vec![event(&format!("one:{drop_it}"), "{}")])).unwrap();
        assert!(matches!(one[..], [Appended::Stored(_)]));
    }
    let rows = "SELECT count(*) > 100, max(length(keys)) < 10000 FROM event_keys";
    let rows = database.exec(rows, &[]).unwrap();
    assert_eq!(rows, [[SqlValue::Integer(1), SqlValue::Integer(1)]]);
    let keys = SqliteEventStore::new(database).keys("order:").unwrap();
    assert_eq!(keys.len() as u64, EVENTS);
}

#[test]
fn keys_are_listed_by_prefix() {
    block_on(async {
        let store = SqliteEventStore::new(Database::in_memory());
        assert_eq!(store.keys("1/").unwrap(), Vec::<String>::new());
        let keys = [
            "1/b", "1/a", "10/c", "2/d", "1", "1/", "1/é", "1/🦀", "1/a\0b", "0/x", "run/1",
        ];
        let batch = keys.map(|key| event(key, "")).to_vec();
        store.append(batch).await.unwrap();
        store
            .append(vec![NewEvent::new("no key", "").unwrap()])
            .await
            .unwrap();
        assert_eq!(store.keys("1/").unwrap(), ["", "a", "a\0b", "b", "é", "🦀"]);
        assert_eq!(store.keys("10/").unwrap(), ["c"]);
        assert_eq!(store.keys("3/").unwrap(), Vec::<String>::new());
        assert_eq!(store.keys("").unwrap().len(), keys.len());
    });
}

#[test]
fn a_log_that_is_emptied_resets_its_readers() {
    block_on(async {
        let database = Database::in_memory();
        let target: SseTarget<NewEvent, _> =
            SseTarget::new(SqliteEventStore::new(database.clone()));
        target.store().append(vec![event("a", "1")]).await.unwrap();
        let mut subscription = target.subscribe(Cursor::Beginning).await.unwrap();
        subscription.next().await.unwrap();

        let mut next = std::pin::pin!(subscription.next());
        assert!(futures_util::poll!(&mut next).is_pending());
        database.exec("DROP TABLE events", &[]).unwrap();
        target.store().forget();
        let Some(ssetarget::Batch::Reset(reset)) = next.await.unwrap() else {
            panic!("the position is gone");
        };
        assert_eq!((reset.oldest, reset.head), (None, None));
        assert_eq!(
            target
                .store()
                .read(None, PageLimit::default())
                .await
                .unwrap(),
            Page::default()
        );
        assert_eq!(database.tables(), Vec::<String>::new());
    });
}

#[test]
fn a_failing_database_is_an_error_and_no_panic() {
    block_on(async {
        let database = Database::in_memory();
        let target: SseTarget<NewEvent, _> =
            SseTarget::new(SqliteEventStore::new(database.clone()));
        target.store().append(vec![event("a", "1")]).await.unwrap();
        let mut subscription = target.subscribe(Cursor::Beginning).await.unwrap();
        database.fail_next(5);
        assert!(target.store().append(vec![event("b", "2")]).await.is_err());
        assert!(
            target
                .store()
                .read(None, PageLimit::default())
                .await
                .is_err()
        );
        assert!(target.store().changed(None).await.is_err());
        assert!(target.store().keys("").is_err());
        assert!(subscription.next().await.is_err());
        // It works again, from the same position.
        assert!(matches!(
            subscription.next().await,
            Ok(Some(ssetarget::Batch::Events(events))) if events.len() == 1
        ));
        // The failed append stored nothing, so this is not a duplicate.
        let outcomes = target.store().append(vec![event("b", "2")]).await.unwrap();
        assert!(matches!(outcomes[0], Appended::Stored(_)));

        database
            .exec(
                "INSERT INTO events VALUES (3, 0, 0, 0, NULL, NULL, x'00', 0)",
                &[],
            )
            .unwrap();
        target.store().forget();
        let error = target
            .store()
            .read(None, PageLimit::default())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("not an event"), "{error}");
    });
}

#[test]
fn integers_of_a_parameter_fit_javascript() {
    block_on(async {
        let database = Database::in_memory();
        let store = SqliteEventStore::new(database.clone());
        store.append(vec![event("a", "1")]).await.unwrap();
        database.take_statements();
        let limit = PageLimit {
            events: usize::MAX,
            bytes: usize::MAX,
        };
        store.read(None, limit).await.unwrap();
        for statement in database.take_statements() {
            for param in statement.values {
                if let SqlValue::Integer(number) = param {
                    assert!(
                        number.unsigned_abs() <= EventId::MAX,
                        "{number} does not survive JavaScript"
                    );
                }
            }
        }
    });
}

fn event(key: &str, data: &str) -> NewEvent {
    NewEvent::new("t", data).unwrap().with_key(key).unwrap()
}

/// Database files that are deleted after the test.
struct Files {
    folder: PathBuf,
    count: AtomicU64,
}

impl Files {
    fn new() -> Self {
        static TESTS: AtomicU64 = AtomicU64::new(0);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "stores-{}-{}",
            std::process::id(),
            TESTS.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            folder,
            count: AtomicU64::new(0),
        }
    }

    fn next(&self) -> PathBuf {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("{number}.sqlite"))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A folder that is left over is in `target`.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
