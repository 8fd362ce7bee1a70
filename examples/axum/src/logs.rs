//! Where logs are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ssetarget::store::redis::{RedisClient, RedisEventStore};
use ssetarget::{EventStore, MemoryEventStore, NewEvent, PageLimit, Refusal, SseTarget};
use tracing::error;

/// All logs, by their ids.
pub trait Logs: Clone + Send + Sync + 'static {
    /// What a log is kept in.
    type Store: EventStore + 'static;

    /// The log for reading. Ids come from anybody, so this makes none.
    fn find(
        &self,
        id: &str,
    ) -> impl Future<Output = Result<SseTarget<NewEvent, Self::Store>, Refusal>> + Send;

    /// The log for writing, made if it is not there.
    fn open(&self, id: &str) -> SseTarget<NewEvent, Self::Store>;
}

pub const UNKNOWN: Refusal = Refusal::NotFound("there is no such log");

/// In this process's memory.
#[derive(Clone, Default)]
pub struct MemoryLogs {
    logs: Arc<Mutex<HashMap<String, SseTarget<NewEvent, MemoryEventStore>>>>,
}

/// A log keeps this many of its newest events.
const MAX_EVENTS: usize = 10_000;

impl Logs for MemoryLogs {
    type Store = MemoryEventStore;

    async fn find(&self, id: &str) -> Result<SseTarget<NewEvent, MemoryEventStore>, Refusal> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.get(id).cloned().ok_or(UNKNOWN)
    }

    fn open(&self, id: &str) -> SseTarget<NewEvent, MemoryEventStore> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || SseTarget::new(MemoryEventStore::new().max_events(MAX_EVENTS));
        logs.entry(id.to_owned()).or_insert_with(new).clone()
    }
}

/// In Redis: any number of servers may have the same logs.
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
}

impl Logs for RedisLogs {
    type Store = RedisEventStore;

    async fn find(&self, id: &str) -> Result<SseTarget<NewEvent, RedisEventStore>, Refusal> {
        let log = self.open(id);
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

    /// All of them share the client's connection, so they are made anew as they are needed.
    fn open(&self, id: &str) -> SseTarget<NewEvent, RedisEventStore> {
        let store = RedisEventStore::new(&self.client, id);
        SseTarget::new(store.max_events(MAX_EVENTS).expire_idle(EXPIRY))
    }
}
