//! The place of a log in SQLite: an object that can lose its memory, be killed in the middle of an append, and be
//! called by others over a network that fails.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::{Either, select};
use ssetarget::internals::WorkflowLog;
use ssetarget::store::{
    Appended, Bell, EventStore, FramePage, FrameStore, Page, PageLimit, Retention, Sql,
};
use ssetarget::{EventId, NewEvent, SqliteEventStore, SseTarget};

use crate::support::sql::Database;

pub(crate) type Store = SqliteEventStore<Database>;

/// Numbers from a seed. Clones share the sequence.
#[derive(Clone, Debug)]
pub(crate) struct Dice(Arc<AtomicU64>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let seed = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self(Arc::new(AtomicU64::new(seed | 1)))
    }

    /// Returns a number from 0 to below `end`.
    pub(crate) fn roll(&self, end: u64) -> u64 {
        let mut x = self.0.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.store(x, Ordering::Relaxed);
        (x >> 11) % end
    }

    pub(crate) fn one_in(&self, end: u64) -> bool {
        self.roll(end) == 0
    }
}

/// The log in an object's memory.
pub(crate) enum Memory {
    Workflow(Box<WorkflowLog<Database>>),
    Plain(SseTarget<NewEvent, Store>),
}

impl Memory {
    pub(crate) fn target(&self) -> &SseTarget<NewEvent, Store> {
        match self {
            Self::Workflow(log) => log.target(),
            Self::Plain(target) => target,
        }
    }

    pub(crate) fn log(&self) -> &WorkflowLog<Database> {
        match self {
            Self::Workflow(log) => log,
            Self::Plain(_) => panic!("a log of no workflow"),
        }
    }
}

/// An object. It loses its memory when it is evicted or killed.
pub(crate) struct Place {
    pub(crate) sql: Database,
    memory: Mutex<Arc<Memory>>,
    memories: AtomicU64,
    /// Rung when viewers lose their connections.
    gone: Bell,
    /// The number of events that a log other than a workflow's keeps.
    keeps: Option<usize>,
    is_workflow: bool,
    /// One in this many calls from elsewhere fails; 0 for none.
    trouble: AtomicU64,
    dice: Dice,
}

impl Place {
    pub(crate) fn workflow(dice: Dice) -> Arc<Self> {
        Self::new(true, None, dice)
    }

    pub(crate) fn plain(keeps: Option<usize>, dice: Dice) -> Arc<Self> {
        Self::new(false, keeps, dice)
    }

    fn new(is_workflow: bool, keeps: Option<usize>, dice: Dice) -> Arc<Self> {
        let sql = Database::in_memory();
        Arc::new(Self {
            memory: Mutex::new(Self::remember(&sql, is_workflow, keeps)),
            memories: AtomicU64::new(0),
            sql,
            gone: Bell::new(),
            keeps,
            is_workflow,
            trouble: AtomicU64::new(0),
            dice,
        })
    }

    fn remember(sql: &Database, is_workflow: bool, keeps: Option<usize>) -> Arc<Memory> {
        Arc::new(if is_workflow {
            Memory::Workflow(Box::new(WorkflowLog::new(sql.clone())))
        } else {
            let mut retention = Retention::for_ever();
            if let Some(events) = keeps {
                retention = retention.max_events(events);
            }
            let store = SqliteEventStore::new(sql.clone()).retention(retention);
            Memory::Plain(SseTarget::new(store))
        })
    }

    pub(crate) fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory.lock().unwrap())
    }

    /// Returns how often the object was removed from memory.
    pub(crate) fn memories(&self) -> u64 {
        self.memories.load(Ordering::Relaxed)
    }

    /// Removes the object from memory and loads it again.
    pub(crate) fn evict(&self) {
        let memory = Self::remember(&self.sql, self.is_workflow, self.keeps);
        *self.memory.lock().unwrap() = memory;
        self.memories.fetch_add(1, Ordering::Relaxed);
        self.gone.ring();
    }

    /// Does something that the object forgets, as if it was killed before anything was durable.
    pub(crate) fn killed_while<T>(&self, work: impl FnOnce(&Memory) -> T) -> T {
        self.sql.exec("SAVEPOINT killed", &[]).unwrap();
        let result = work(&self.memory());
        self.sql.exec("ROLLBACK TO killed", &[]).unwrap();
        self.sql.exec("RELEASE killed", &[]).unwrap();
        self.evict();
        result
    }

    /// Does something with a full disk.
    pub(crate) fn full_while<T>(&self, work: impl FnOnce(&Memory) -> T) -> T {
        self.sql.set_full(true);
        let result = work(&self.memory());
        self.sql.set_full(false);
        result
    }

    /// Lets one in `one_in` calls from elsewhere fail; 0 for none.
    pub(crate) fn set_trouble(&self, one_in: u64) {
        self.trouble.store(one_in, Ordering::Relaxed);
    }

    /// Waits for a call on its way: it takes some polls, and may fail.
    async fn call(&self) -> Result<Arc<Memory>, Lost> {
        let trouble = self.trouble.load(Ordering::Relaxed);
        if trouble > 0 {
            for _ in 0..self.dice.roll(3) {
                pass().await;
            }
            if self.dice.one_in(trouble) {
                return Err(Lost("the call failed".to_owned()));
            }
        }
        Ok(self.memory())
    }

    /// Waits for an answer on its way.
    async fn answer<T, E: fmt::Display>(&self, answer: Result<T, E>) -> Result<T, Lost> {
        let trouble = self.trouble.load(Ordering::Relaxed);
        if trouble > 0 {
            for _ in 0..self.dice.roll(3) {
                pass().await;
            }
            if self.dice.one_in(trouble) {
                return Err(Lost("the answer was lost".to_owned()));
            }
        }
        answer.map_err(|error| Lost(error.to_string()))
    }
}

/// Lets other tasks run first.
pub(crate) async fn pass() {
    let mut is_passed = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut is_passed, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// The object as others see it.
#[derive(Clone)]
pub(crate) struct Remote(pub(crate) Arc<Place>);

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remote")
    }
}

/// A call that failed.
#[derive(Debug)]
pub(crate) struct Lost(String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lost {}

impl EventStore for Remote {
    type Error = Lost;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Lost> {
        let memory = self.0.call().await?;
        let answer = memory.target().store().append(batch).await;
        self.0.answer(answer).await
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Lost> {
        let memory = self.0.call().await?;
        let answer = memory.target().store().read(after, limit).await;
        self.0.answer(answer).await
    }

    async fn ends(&self, after: Option<EventId>) -> Result<Page<()>, Lost> {
        let memory = self.0.call().await?;
        let answer = memory.target().store().ends(after).await;
        self.0.answer(answer).await
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Lost> {
        let gone = self.0.gone.listen();
        let memory = self.0.call().await?;
        let changed = memory.target().store().changed(after);
        match select(pin!(changed), gone).await {
            Either::Left((answer, _)) => self.0.answer(answer).await,
            Either::Right(_) => Err(Lost("the object is gone".to_owned())),
        }
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Lost> {
        let memory = self.0.call().await?;
        let answer = memory.target().store().before(time).await;
        self.0.answer(answer).await
    }
}

impl FrameStore for Remote {
    type Bytes = Bytes;

    async fn read_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<Bytes>, Lost> {
        let memory = self.0.call().await?;
        let answer = memory.target().store().read_frames(after, limit).await;
        self.0.answer(answer).await
    }
}
