//! A store of your own: a log in an SQLite file, through rusqlite. Any database that has
//! transactions will do in the same shape.
//!
//! `cargo test --example own_store` checks that it keeps the promise of [`EventStore`].
//! `cargo run --example own_store` appends to a log that survives from run to run, and prints what
//! a viewer gets.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_executor::block_on;
use rusqlite::{Connection, OptionalExtension, Result, Row, params};
use ssetarget::store::Bell;
use ssetarget::{Appended, Batch, Cursor, EventId, EventStore, NewEvent, Page, PageLimit};
use ssetarget::{SseTarget, StoredEvent, frames};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::temp_dir().join("ssetarget-own-store.sqlite");
    let target = SseTarget::new(DiskStore::open(file)?);
    let started = NewEvent::new("started", format!("{{\"process\":{}}}", std::process::id()))?;
    block_on(target.dispatch_encoded(vec![started]))?;
    let mut viewer = block_on(target.subscribe(Cursor::Beginning))?;
    while let Some(Batch::Events(events)) = block_on(viewer.try_next())? {
        print!(
            "{}",
            String::from_utf8(frames(&Batch::Events(events), true))?
        );
    }
    Ok(())
}

/// A log in a file, for one process: its bell does not ring in others.
struct DiskStore {
    connection: Mutex<Connection>,
    bell: Bell,
}

impl DiskStore {
    /// The log in this file, which is created if need be.
    fn open(path: impl AsRef<Path>) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch(CREATE)?;
        let (connection, bell) = (Mutex::new(connection), Bell::new());
        Ok(Self { connection, bell })
    }

    /// A panic rolls back what was under way, so the connection can be used after it.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventStore for DiskStore {
    type Error = rusqlite::Error;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>> {
        let mut connection = self.lock();
        // The batch is stored as a whole or, whatever happens, not at all.
        let transaction = connection.transaction()?;
        let mut outcomes = Vec::new();
        for event in &batch {
            let (event_type, end) = (event.event_type(), event.is_terminal());
            let now = milliseconds(SystemTime::now());
            let row = params![event.key(), event_type, event.data(), end, now];
            let mut insert = transaction.prepare_cached(INSERT)?;
            // A known key inserts no row and takes no id.
            let inserted = insert.query_row(row, |row| id(row, 0)).optional()?;
            outcomes.push(match inserted.flatten() {
                Some(id) => Appended::Stored(id),
                None => Appended::Duplicate,
            });
        }
        transaction.commit()?;
        drop(connection);
        // After the events can be read, and only if there are new ones.
        if outcomes
            .iter()
            .any(|outcome| *outcome != Appended::Duplicate)
        {
            self.bell.ring();
        }
        Ok(outcomes)
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page> {
        // Locked until the end: events and ends are of one moment.
        let connection = self.lock();
        let mut page = connection.query_row(ENDS, [], ends)?;
        let mut select = connection.prepare_cached(SELECT)?;
        let mut rows = select.query([after.map_or(0, EventId::get)])?;
        let mut bytes = 0;
        while page.events.len() < limit.events
            && let Some(row) = rows.next()?
        {
            let event = stored(row)?;
            bytes += event.data.len();
            // The first event comes however large it is.
            if bytes > limit.bytes && !page.events.is_empty() {
                break;
            }
            page.events.push(event);
        }
        Ok(page)
    }

    async fn changed(&self, after: Option<EventId>) -> Result<()> {
        // Listen before the look: a bell that rings in between is heard.
        let rung = self.bell.listen();
        let page = self.lock().query_row(ENDS, [], ends)?;
        if page.head == after {
            rung.await;
        }
        Ok(())
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>> {
        let connection = self.lock();
        connection.query_row(BEFORE, [milliseconds(time)], |row| id(row, 0))
    }
}

const CREATE: &str = "CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, key TEXT UNIQUE, \
    type TEXT NOT NULL, data TEXT NOT NULL, terminal INTEGER NOT NULL, time INTEGER NOT NULL)";
/// No time is earlier than that of the event before.
const INSERT: &str = "INSERT INTO events (key, type, data, terminal, time) \
    SELECT ?1, ?2, ?3, ?4, max(?5, coalesce((SELECT time FROM events ORDER BY id DESC LIMIT 1), 0)) \
    WHERE true ON CONFLICT (key) DO NOTHING RETURNING id";
const SELECT: &str = "SELECT id, type, data, time FROM events WHERE id > ?1 ORDER BY id";
const ENDS: &str = "SELECT (SELECT min(id) FROM events), (SELECT max(id) FROM events), \
    coalesce((SELECT terminal FROM events ORDER BY id DESC LIMIT 1), false)";
const BEFORE: &str = "SELECT max(id) FROM events WHERE time < ?1";

fn ends(row: &Row<'_>) -> Result<Page> {
    Ok(Page {
        oldest: id(row, 0)?,
        head: id(row, 1)?,
        closed: row.get(2)?,
        ..Page::default()
    })
}

fn stored(row: &Row<'_>) -> Result<StoredEvent> {
    Ok(StoredEvent {
        id: id(row, 0)?.ok_or(rusqlite::Error::InvalidQuery)?,
        event_type: row.get(1)?,
        data: row.get(2)?,
        timestamp: SystemTime::UNIX_EPOCH + Duration::from_millis(row.get(3)?),
    })
}

fn id(row: &Row<'_>, column: usize) -> Result<Option<EventId>> {
    Ok(row.get::<_, Option<u64>>(column)?.and_then(EventId::new))
}

fn milliseconds(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since_epoch.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use ssetarget::store::contract;

    #[test]
    fn it_keeps_the_promise() {
        block_on(contract::check(async || {
            DiskStore::open(":memory:").unwrap()
        }));
    }

    #[test]
    fn it_is_the_same_after_reopening() {
        let name = format!("ssetarget-own-store-test-{}.sqlite", std::process::id());
        let file = std::env::temp_dir().join(name);
        block_on(contract::check_reopened(async || {
            DiskStore::open(&file).unwrap()
        }));
        std::fs::remove_file(file).unwrap();
    }
}
