//! The stores of the logs: files, memory or Redis.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ssetarget::store::SqliteFile;
use ssetarget::store::redis::{RedisClient, RedisEventStore};
use ssetarget::{
    EventStore, MemoryEventStore, NewEvent, PageLimit, Refusal, SqliteEventStore, SseTarget,
};
use tokio::task::spawn_blocking;
use tracing::error;

/// All logs, by their ids.
pub trait Logs: Clone + Send + Sync + 'static {
    /// The store of one log.
    type Store: EventStore + 'static;

    /// Returns a log for reading. Ids come from anybody, so this creates no log.
    fn find(
        &self,
        id: &str,
    ) -> impl Future<Output = Result<SseTarget<NewEvent, Self::Store>, Refusal>> + Send;

    /// Returns a log for writing, and creates it if it does not exist. The id must be
    /// [valid](is_id).
    fn open(
        &self,
        id: &str,
    ) -> impl Future<Output = Result<SseTarget<NewEvent, Self::Store>, Refusal>> + Send;
}

pub const UNKNOWN: Refusal = Refusal::NotFound("there is no such log");

/// Returns whether an id is valid: up to 64 letters, digits, `-` and `_`.
pub fn is_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    !id.is_empty() && id.len() <= 64 && id.bytes().all(allowed)
}

/// Logs in a folder of this machine: an SQLite file for each, which keeps all of its events.
///
/// A log stays open from its first use until the server ends, with two file descriptors.
#[derive(Clone)]
pub struct FileLogs {
    shared: Arc<Files>,
}

struct Files {
    folder: PathBuf,
    open: Mutex<HashMap<String, FileLog>>,
    /// Locked while the server runs: the folder has one server.
    _lock: File,
}

type FileLog = SseTarget<NewEvent, SqliteEventStore<SqliteFile>>;

impl FileLogs {
    /// Opens a folder of logs, and creates it if it does not exist.
    ///
    /// # Errors
    /// When the folder cannot be used, or another server uses it.
    pub fn new(folder: &Path) -> Result<Self, String> {
        let path = folder.display();
        let unusable = |reason| format!("the folder {path} cannot be used: {reason}");
        fs::create_dir_all(folder).map_err(unusable)?;
        let lock = File::create(folder.join("lock")).map_err(unusable)?;
        lock.try_lock().map_err(|reason| match reason {
            TryLockError::WouldBlock => format!("another server uses the folder {path}"),
            TryLockError::Error(reason) => unusable(reason),
        })?;
        let shared = Files {
            folder: folder.to_owned(),
            open: Mutex::default(),
            _lock: lock,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Returns a log, and opens its file if it is not open. Opening waits for the disk, so it runs
    /// on a thread for blocking work.
    async fn opened(&self, id: &str, create: bool) -> Result<FileLog, Refusal> {
        if let Some(log) = self.shared.open().get(id) {
            return Ok(log.clone());
        }
        if !is_id(id) {
            return Err(UNKNOWN);
        }
        let (files, id) = (Arc::clone(&self.shared), id.to_owned());
        let opening = spawn_blocking(move || files.open_file(&id, create));
        opening.await.unwrap_or(Err(Refusal::Unavailable))
    }
}

impl Files {
    fn open(&self) -> MutexGuard<'_, HashMap<String, FileLog>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_file(&self, id: &str, create: bool) -> Result<FileLog, Refusal> {
        // Locked while the file is opened: a second opener of it would be refused.
        let mut open = self.open();
        if let Some(log) = open.get(id) {
            return Ok(log.clone());
        }
        let path = self.folder.join(file_name(id));
        if !create && !path.exists() {
            return Err(UNKNOWN);
        }
        let store = SqliteEventStore::open(&path).map_err(|reason| {
            let file = path.display();
            error!(%file, reason = &reason as &dyn Error, "a log was not opened");
            Refusal::Unavailable
        })?;
        let log = SseTarget::new(store);
        open.insert(id.to_owned(), log.clone());
        Ok(log)
    }
}

/// Returns the file name of a log. Capital letters are marked, since some systems ignore the case
/// of names.
fn file_name(id: &str) -> String {
    let mut name = "log-".to_owned();
    for letter in id.chars() {
        if letter.is_ascii_uppercase() {
            name.push('=');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name + ".sqlite"
}

impl Logs for FileLogs {
    type Store = SqliteEventStore<SqliteFile>;

    async fn find(&self, id: &str) -> Result<FileLog, Refusal> {
        self.opened(id, false).await
    }

    async fn open(&self, id: &str) -> Result<FileLog, Refusal> {
        self.opened(id, true).await
    }
}

/// Logs in this process's memory.
#[derive(Clone, Default)]
pub struct MemoryLogs {
    logs: Arc<Mutex<HashMap<String, SseTarget<NewEvent, MemoryEventStore>>>>,
}

/// A log in memory or in Redis keeps this many of its newest events.
const MAX_EVENTS: usize = 10_000;

impl Logs for MemoryLogs {
    type Store = MemoryEventStore;

    async fn find(&self, id: &str) -> Result<SseTarget<NewEvent, MemoryEventStore>, Refusal> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.get(id).cloned().ok_or(UNKNOWN)
    }

    async fn open(&self, id: &str) -> Result<SseTarget<NewEvent, MemoryEventStore>, Refusal> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || SseTarget::new(MemoryEventStore::new().max_events(MAX_EVENTS));
        Ok(logs.entry(id.to_owned()).or_insert_with(new).clone())
    }
}

/// Logs in Redis, which any number of servers share.
#[derive(Clone)]
pub struct RedisLogs {
    client: RedisClient,
}

/// A log that nobody appends to is deleted after this long.
const EXPIRY: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl RedisLogs {
    pub fn new(client: RedisClient) -> Self {
        Self { client }
    }

    /// Returns a log. All logs share the client's connection, so each request makes its own.
    fn log(&self, id: &str) -> SseTarget<NewEvent, RedisEventStore> {
        let store = RedisEventStore::new(&self.client, id);
        SseTarget::new(store.max_events(MAX_EVENTS).expire_idle(EXPIRY))
    }
}

impl Logs for RedisLogs {
    type Store = RedisEventStore;

    async fn find(&self, id: &str) -> Result<SseTarget<NewEvent, RedisEventStore>, Refusal> {
        let log = self.log(id);
        let head = PageLimit {
            events: 1,
            bytes: 1,
        };
        match log.store().read(None, head).await {
            Ok(page) if page.head.is_some() => Ok(log),
            Ok(_) => Err(UNKNOWN),
            Err(reason) => {
                error!(%reason, "Redis failed");
                Err(Refusal::Unavailable)
            }
        }
    }

    async fn open(&self, id: &str) -> Result<SseTarget<NewEvent, RedisEventStore>, Refusal> {
        Ok(self.log(id))
    }
}
