//! The log of one instance: its runs, each a set of facts.

use std::fmt;
use std::time::SystemTime;

use super::dispatch::OpenedRun;
use super::packed::{InvalidBatch, unpack_facts};
use crate::event::{EventRef, InvalidEvent, NewEvent};
use crate::store::{Appended, Sql, SqliteError, SqliteEventStore};
use crate::target::SseTarget;

/// Keeps the facts of one workflow instance, each once, over a log in SQLite.
///
/// An instance that is restarted begins a new run, whose facts are new again. The log tells the
/// runs apart by a prefix of the keys, and viewers by the event `restarted` between them.
#[derive(Debug)]
pub struct WorkflowLog<Q: Sql> {
    target: SseTarget<NewEvent, SqliteEventStore<Q>>,
}

/// Keys of facts begin with their run, those of runs with this; no run is called `run`.
const RUNS: &str = "run/";

impl<Q: Sql> WorkflowLog<Q> {
    /// The log in this database.
    pub fn new(sql: Q) -> Self {
        Self {
            target: SseTarget::new(SqliteEventStore::new(sql)),
        }
    }

    /// The latest run and the facts it has. Where the log has [expired](Self::expire), the next
    /// run, which has none yet.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn open(&self) -> Result<OpenedRun, WorkflowLogError<Q::Error>> {
        let run = self.run()?;
        if self.target.store().emptied()?.is_some() {
            let facts = Vec::new();
            return Ok(OpenedRun {
                run: run + 1,
                facts,
            });
        }
        let facts = self.target.store().keys(&format!("{run}/"))?;
        Ok(OpenedRun { run, facts })
    }

    /// Deletes the events, but for one small row with the greatest id and the number of the latest
    /// run, so that neither is given again: a further run begins with `restarted` and the next id,
    /// and a viewer with an old position is told by a [`Reset`](crate::Reset).
    ///
    /// # Errors
    /// When SQLite fails. Then nothing was deleted.
    pub fn expire(&self) -> Result<(), WorkflowLogError<Q::Error>> {
        let store = self.target.store();
        if let Some(head) = store.head()? {
            let run = run_key(self.run()?);
            store.trim_but_key(head, Some(run))?;
        }
        Ok(())
    }

    /// Appends facts of a run and returns how many were new. The first facts of a run after the
    /// latest begin that run. Those of an earlier run, which come from a lifetime that a restart
    /// ended, and those that come after a run's end, from steps that it gave up, are dropped.
    ///
    /// # Errors
    /// [`WorkflowLogError::Event`] for an event that is invalid or has no key,
    /// [`WorkflowLogError::Run`] for a run beyond the next, else when SQLite fails. Then nothing
    /// was stored.
    pub async fn append(
        &self,
        run: u32,
        batch: Vec<NewEvent>,
        now: SystemTime,
    ) -> Result<usize, WorkflowLogError<Q::Error>> {
        let facts = batch.iter().map(EventRef::from).collect();
        self.append_facts(run, facts, || now)
    }

    /// As [`append`](Self::append), for a batch that [`pack_facts`](super::pack_facts) made, whose
    /// texts are not copied on their way into the database. `now` is called when a run begins.
    ///
    /// # Errors
    /// As [`append`](Self::append), and [`WorkflowLogError::Batch`] for bytes that are no batch.
    pub fn append_packed(
        &self,
        run: u32,
        batch: &[u8],
        now: impl FnOnce() -> SystemTime,
    ) -> Result<usize, WorkflowLogError<Q::Error>> {
        let facts = unpack_facts(batch).map_err(WorkflowLogError::Batch)?;
        self.append_facts(run, facts, now)
    }

    fn append_facts(
        &self,
        run: u32,
        batch: Vec<EventRef<'_>>,
        now: impl FnOnce() -> SystemTime,
    ) -> Result<usize, WorkflowLogError<Q::Error>> {
        let latest = self.run()?;
        let store = self.target.store();
        let has_expired = store.emptied()?.is_some();
        // Whoever restarts an instance names the run after the one that it was told, which of an
        // expired log is the next already.
        let run = match has_expired {
            true => run.min(latest + 1),
            false => run,
        };
        let is_over = store.is_closed()? || has_expired;
        if run < latest || (run == latest && is_over) {
            return Ok(0);
        }
        if run > latest + 1 {
            return Err(WorkflowLogError::Run { run, latest });
        }
        let prefix = format!("{run}/");
        let restarted = (run > latest).then(|| restarted(run, now())).transpose()?;
        let mut facts = Vec::with_capacity(batch.len() + 1);
        facts.extend(restarted.as_ref().map(EventRef::from));
        for event in batch {
            let event = event.with_key_prefix(&prefix);
            event.key.ok_or(WorkflowLogError::Key)?;
            event.check()?;
            facts.push(event);
        }
        let outcomes = self.target.store().append_now(&facts, 0)?;
        let stored = |outcome: &&Appended| matches!(outcome, Appended::Stored(_));
        Ok(outcomes.iter().filter(stored).count())
    }

    /// The events, for subscribing.
    #[must_use]
    pub fn target(&self) -> &SseTarget<NewEvent, SqliteEventStore<Q>> {
        &self.target
    }

    /// The run that the log is in, from 1.
    fn run(&self) -> Result<u32, WorkflowLogError<Q::Error>> {
        let runs = self.target.store().keys(RUNS)?;
        // Numbers are padded, so the last in the order of texts is the greatest.
        match runs.last() {
            None => Ok(1),
            Some(run) => run.parse().map_err(|_| SqliteError::Row.into()),
        }
    }
}

fn restarted(run: u32, now: SystemTime) -> Result<NewEvent, InvalidEvent> {
    let timestamp = humantime::format_rfc3339_millis(now);
    let data = format!(r#"{{"run":{run},"timestamp":"{timestamp}"}}"#);
    NewEvent::new("restarted", data)?.with_key(run_key(run))
}

fn run_key(run: u32) -> String {
    format!("{RUNS}{run:010}")
}

/// Why facts could not be read or appended.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkflowLogError<E> {
    /// SQLite failed.
    Store(SqliteError<E>),
    /// An event cannot be stored.
    Event(InvalidEvent),
    /// A packed batch cannot be read.
    Batch(InvalidBatch),
    /// An event has no key and so is no fact.
    Key,
    /// The run is not the latest one nor the next.
    Run {
        /// The run that the facts claim to be of.
        run: u32,
        /// The latest run of the log.
        latest: u32,
    },
}

impl<E> From<SqliteError<E>> for WorkflowLogError<E> {
    fn from(error: SqliteError<E>) -> Self {
        Self::Store(error)
    }
}

impl<E> From<InvalidEvent> for WorkflowLogError<E> {
    fn from(error: InvalidEvent) -> Self {
        Self::Event(error)
    }
}

impl<E> fmt::Display for WorkflowLogError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(_) => f.write_str("the workflow's log failed"),
            Self::Event(_) => f.write_str("an event cannot be stored"),
            Self::Batch(_) => f.write_str("events came that cannot be read"),
            Self::Key => f.write_str("an event of a workflow needs a key"),
            Self::Run { run, latest } => {
                write!(
                    f,
                    "facts of run {run} came while the log is in run {latest}"
                )
            }
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for WorkflowLogError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Event(error) => Some(error),
            Self::Batch(error) => Some(error),
            Self::Key | Self::Run { .. } => None,
        }
    }
}
