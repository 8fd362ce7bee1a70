//! A log in an SQLite file: it outlives its process, however that ends, and only one process can
//! open it.
#![cfg(feature = "rusqlite")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio, abort};
use std::sync::atomic::{AtomicU64, Ordering};

use futures_executor::block_on;
use ssetarget::store::{Sql, SqliteFile, SqliteFileError, contract};
use ssetarget::{Appended, EventStore, NewEvent, PageLimit, SqliteEventStore};

#[test]
fn a_file_keeps_the_promise() {
    let files = Files::new();
    block_on(contract::check(async || open(&files.next())));
    block_on(contract::check_trimmed(
        async || open(&files.next()),
        async |store: &SqliteEventStore<SqliteFile>, last| store.trim(last).unwrap(),
    ));
    block_on(contract::check_bounded(async |retention| {
        open(&files.next()).retention(retention)
    }));
}

#[test]
fn a_file_has_the_bytes_of_the_wire() {
    let files = Files::new();
    let file = files.next();
    block_on(contract::check_frames(async || open(&file)));
}

#[test]
fn a_file_is_the_same_after_reopening() {
    let files = Files::new();
    let file = files.next();
    block_on(contract::check_reopened(async || open(&file)));
}

#[test]
fn a_file_waits_for_the_disk() {
    let files = Files::new();
    let database = SqliteFile::open(files.next()).unwrap();
    for (pragma, expected) in [
        ("PRAGMA journal_mode", "Text(\"wal\")"),
        ("PRAGMA synchronous", "Integer(2)"), // FULL
        ("PRAGMA locking_mode", "Text(\"exclusive\")"),
    ] {
        let rows = database.exec(pragma, &[]).unwrap();
        assert_eq!(format!("{:?}", rows[0][0]), expected, "{pragma}");
    }
}

#[test]
fn a_second_opener_is_refused() {
    let files = Files::new();
    let file = files.next();
    let store = open(&file);
    append(&store, "1");

    // In this process, and in another one.
    let error = SqliteEventStore::open(&file).unwrap_err();
    assert!(error.is_in_use(), "{error}");
    assert_eq!(
        error.to_string(),
        "the database file is in use: a log in a file has one process; stop the other one, or keep \
         the log in Redis"
    );
    let mut child = start("open", &file);
    assert_eq!(line(&mut child), "in use");
    assert!(child.wait().unwrap().success());

    // The process that has it goes on, and the next one gets it after the first has ended.
    append(&store, "2");
    drop(store);
    let mut child = start("open", &file);
    assert_eq!(line(&mut child), "opened");
    assert!(child.wait().unwrap().success());
    assert_eq!(data(&open(&file)), ["1", "2"]);
}

#[test]
fn a_process_that_is_killed_loses_nothing() {
    let files = Files::new();
    let file = files.next();
    let mut seen = 0;
    for _ in 0..3 {
        let mut child = start("append", &file);
        let mut last = 0;
        for _ in 0..20 {
            last = line(&mut child).parse().unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();

        let store = open(&file);
        let all = data(&store);
        assert!(last > seen && all.len() >= last, "{last} of {}", all.len());
        let expected: Vec<_> = (1..=all.len()).map(|number| number.to_string()).collect();
        assert_eq!(all, expected);
        seen = all.len();
    }
}

#[test]
fn a_batch_that_was_cut_off_leaves_nothing() {
    let files = Files::new();
    let file = files.next();
    let store = open(&file);
    append(&store, "1");
    append(&store, "2");
    drop(store);

    let mut child = start("abort", &file);
    assert_eq!(line(&mut child), "2 of 4 stored");
    assert!(!child.wait().unwrap().success());

    let store = open(&file);
    assert_eq!(data(&store), ["1", "2"]);
    append(&store, "3");
    assert_eq!(data(&store), ["1", "2", "3"]);
}

#[test]
fn a_path_that_is_not_a_log_is_an_error() {
    let files = Files::new();
    let garbage = files.next();
    std::fs::write(
        &garbage,
        "These are not the bytes of a database. ".repeat(100),
    )
    .unwrap();
    let told = |error: &SqliteFileError| error.to_string();

    let error = SqliteEventStore::open(&garbage).unwrap_err();
    assert_eq!(told(&error), "the file is not an SQLite database");
    assert!(!error.is_in_use());
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert!(reason.contains("not a database"), "{reason}");
    let bytes = std::fs::read(&garbage).unwrap();
    assert!(bytes.starts_with(b"These are not"), "it is left as it was");

    for path in [files.folder.clone(), files.folder.join("no/such/folder")] {
        let error = SqliteEventStore::open(path).unwrap_err();
        assert_eq!(
            told(&error),
            "the database file cannot be opened or created"
        );
    }
    for path in ["", ":memory:"] {
        let error = SqliteEventStore::open(path).unwrap_err();
        assert_eq!(
            told(&error),
            "the path names no file: SQLite would keep the log in memory"
        );
    }
    // A path is not a URI.
    let uri = files.folder.join("file:log?mode=memory");
    drop(open(&uri));
    assert!(uri.exists());
}

/// The other process of the tests above, which [`start`] runs. As a test it does nothing.
#[test]
fn another_process() {
    let (Ok(role), Ok(file)) = (std::env::var(ROLE), std::env::var(FILE)) else {
        return;
    };
    let file = Path::new(&file);
    match role.as_str() {
        "open" => match SqliteEventStore::open(file) {
            Ok(_) => say("opened"),
            Err(error) if error.is_in_use() => say("in use"),
            Err(error) => say(&error.to_string()),
        },
        "append" => {
            let store = open(file);
            loop {
                let next = data(&store).len() + 1;
                append(&store, &next.to_string());
                say(&next.to_string());
            }
        }
        "abort" => {
            let database = SqliteFile::open(file).unwrap();
            database.run("BEGIN", &[]).unwrap();
            let copy = "INSERT INTO events \
                        SELECT id + 2, time, size, terminal, key, data, frame, writer FROM events";
            database.run(copy, &[]).unwrap();
            let rows = database.exec("SELECT count(*) FROM events", &[]).unwrap();
            assert_eq!(format!("{:?}", rows[0][0]), "Integer(4)");
            say("2 of 4 stored");
            abort();
        }
        role => panic!("no such role: {role}"),
    }
}

const ROLE: &str = "SSETARGET_TEST_ROLE";
const FILE: &str = "SSETARGET_TEST_FILE";
/// The prefix of a line for the test, in contrast to lines of the harness.
const MARK: &str = "child: ";

/// Runs [`another_process`] in a new process.
fn start(role: &str, file: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "another_process", "--nocapture"])
        .env(ROLE, role)
        .env(FILE, file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // The harness may have begun a line.
    writeln!(out, "\n{MARK}{text}").unwrap();
    out.flush().unwrap();
}

/// Returns the next line of the other process.
fn line(child: &mut Child) -> String {
    // Byte by byte, because a buffer would lose the bytes that it had read ahead.
    let mut out = BufReader::with_capacity(1, child.stdout.as_mut().unwrap());
    loop {
        let mut line = String::new();
        let length = out.read_line(&mut line).unwrap();
        assert!(length > 0, "the other process has ended");
        if let Some(text) = line.trim_end().strip_prefix(MARK) {
            return text.to_owned();
        }
    }
}

fn open(file: &Path) -> SqliteEventStore<SqliteFile> {
    SqliteEventStore::open(file).unwrap()
}

fn append(store: &SqliteEventStore<SqliteFile>, data: &str) {
    let event = NewEvent::new("t", data).unwrap();
    let outcomes = block_on(store.append(vec![event])).unwrap();
    assert!(matches!(outcomes[..], [Appended::Stored(_)]));
}

fn data(store: &SqliteEventStore<SqliteFile>) -> Vec<String> {
    let limit = PageLimit {
        events: 1_000_000,
        bytes: usize::MAX,
    };
    let page = block_on(store.read(None, limit)).unwrap();
    page.events.into_iter().map(|event| event.data).collect()
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
            "sqlite-file-{}-{}",
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
