//! An index of runs in SQLite: the latest of each, and a log of what changed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::Serialize;

use super::report::RunReport;
use crate::clock;
use crate::delivery::SseTarget;
use crate::event::{EventRef, NewEvent};
use crate::store::{Retention, Sql, SqlRow, SqlValue, SqliteError, SqliteEventStore};
use crate::sync::{Mutex, lock};
use crate::wire;
use crate::workflow::{Estimate, RunEstimate, RunState};

/// An index of runs.
///
/// It keeps the latest of each run in the table `runs`, and the newest changes in a log, whose events are `run`, with
/// the entry as data, and `removed`, with the `id`. A list has the position of the log at which it is true.
#[derive(Debug)]
pub struct RunIndex<Q: Sql> {
    target: SseTarget<NewEvent, SqliteEventStore<Q>>,
    has_tables: Mutex<bool>,
    /// The number of runs when they were last counted, unless some were removed since.
    counted: Mutex<Option<u64>>,
}

/// The number of changes that the log keeps. A viewer that missed more is reset, and reads the list again.
const CHANGES: usize = 10_000;

/// Of how many runs the times are read, for estimates. Others are removed now and then.
const TIMES: i64 = 50;
/// Of how many tasks there is an estimate.
const MOST_TASKS: usize = 32;

const TABLES: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, version INTEGER NOT NULL, began INTEGER NOT NULL, \
     state TEXT NOT NULL, expires INTEGER, entry TEXT) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS runs_began ON runs (began, id)",
    "CREATE TABLE IF NOT EXISTS durations (number INTEGER PRIMARY KEY, took INTEGER NOT NULL, tasks TEXT NOT NULL)",
];

/// The last one that is made: has a row if all are there.
const HAS_TABLES: &str = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'durations'";

/// Writes if the report is newer than what is known of the run.
const PUT: &str = "INSERT INTO runs (id, version, began, state, expires, entry) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
     ON CONFLICT (id) DO UPDATE SET version = ?2, began = ?3, state = ?4, expires = ?5, entry = ?6 \
     WHERE ?2 > version OR ?3 > began";
/// As [`PUT`], for a run that is known and began at the same time: this writes no row of the index of times.
const UPDATE: &str = "UPDATE runs SET version = ?2, state = ?4, expires = ?5, entry = ?6 \
     WHERE id = ?1 AND began = ?3 AND version < ?2";
/// After how many changes something old may be removed, at the earliest.
const PRUNES: u64 = 64;
/// As [`COUNT`], with those that were removed.
const COUNT_ALL: &str = "SELECT count(*) FROM runs";
const PRUNE: &str = "DELETE FROM runs WHERE expires <= ?1";
const ADD_TIME: &str = "INSERT INTO durations (took, tasks) VALUES (?1, ?2)";
const TRIM_TIMES: &str =
    "DELETE FROM durations WHERE number <= (SELECT max(number) FROM durations) - ?1";
const ALL_TIMES: &str = "SELECT took FROM durations ORDER BY number DESC LIMIT ?1";
const TASK_TIMES: &str = "SELECT tasks FROM durations ORDER BY number DESC LIMIT ?1";
const LIST: &str = "SELECT entry, began, id FROM runs WHERE entry IS NOT NULL \
     AND (?1 IS NULL OR instr(?1, ',' || state || ',') > 0) AND began >= ?2 AND began < ?3 \
     AND (began < ?4 OR (began = ?4 AND id < ?5)) AND (expires IS NULL OR expires > ?6) \
     ORDER BY began DESC, id DESC LIMIT ?7";
const COUNT: &str = "SELECT count(*) FROM runs WHERE entry IS NOT NULL";

/// The version of a report of a log that has one event.
const FIRST: u64 = 2;

/// How long the index remembers that a log was deleted, so that an earlier report does not bring it back.
const REMOVED_FOR: u64 = 30 * 24 * 60 * 60 * 1_000;

/// The filter of a list, and where its page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// States with commas around them.
    states: Option<String>,
    since: u64,
    until: Option<u64>,
    limit: u32,
    /// The run after which the page begins: when it began, and its id.
    after: Option<(u64, String)>,
}

/// The most runs of a page, and the default.
const MOST: u32 = 500;
const USUAL: u32 = 100;

/// The error for a malformed query of a list. Answer `400` with its `Display` as the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidList {
    /// A state is not one that a run can have.
    State,
    /// `since` or `until` is not a time.
    Time,
    /// `limit` is not a number from 1 to 500.
    Limit,
    /// `cursor` is not one that a page gave.
    Cursor,
    /// `tag` is not one that a run can have.
    Tag,
}

impl ListFilter {
    /// Reads a query: `state` (several with commas), `since` and `until` (times of beginning, as RFC 3339 or in
    /// milliseconds since 1970), `limit`, and `cursor`, the `next` of the page before. Empty values are ignored.
    ///
    /// # Errors
    /// [`InvalidList`] for the first that is malformed.
    pub fn parse(query: Option<&str>) -> Result<Self, InvalidList> {
        let value = |name: &str| wire::parameter(query, name);
        let time = |name: &str| match value(name) {
            None => Ok(None),
            Some(text) => wire::time(&text)
                .map(|time| Some(clock::milliseconds(time)))
                .ok_or(InvalidList::Time),
        };
        let states = match value("state") {
            None => None,
            Some(states) => {
                for state in states.split(',') {
                    let state = serde_json::Value::from(state);
                    serde_json::from_value::<RunState>(state).map_err(|_| InvalidList::State)?;
                }
                Some(format!(",{states},"))
            }
        };
        let limit = match value("limit") {
            None => USUAL,
            Some(limit) => limit.parse().map_err(|_| InvalidList::Limit)?,
        };
        if !(1..=MOST).contains(&limit) {
            return Err(InvalidList::Limit);
        }
        let after = match value("cursor") {
            None => None,
            Some(cursor) => {
                let (began, id) = cursor.split_once('~').ok_or(InvalidList::Cursor)?;
                let began: u64 = began.parse().map_err(|_| InvalidList::Cursor)?;
                let fits = began < (1 << 53) && id.len() <= 300;
                Some((began, id.to_owned())).filter(|_| fits)
            }
        };
        if value("cursor").is_some() && after.is_none() {
            return Err(InvalidList::Cursor);
        }
        Ok(Self {
            states,
            since: time("since")?.unwrap_or_default().min(1 << 53),
            until: time("until")?,
            limit,
            after,
        })
    }
}

impl<Q: Sql> RunIndex<Q> {
    /// Returns the index in this database. Stores nothing.
    pub fn new(sql: Q) -> Self {
        let retention = Retention::for_ever().max_events(CHANGES);
        Self {
            target: SseTarget::new(SqliteEventStore::new(sql).retention(retention)),
            has_tables: Mutex::default(),
            counted: Mutex::default(),
        }
    }

    /// Returns the log of changes.
    #[must_use]
    pub fn target(&self) -> &SseTarget<NewEvent, SqliteEventStore<Q>> {
        &self.target
    }

    /// Returns the database to write to, with its tables.
    fn written(&self) -> Result<&Q, RunIndexError<Q::Error>> {
        let sql = self.target.store().sql();
        let mut has_tables = lock(&self.has_tables);
        if !*has_tables {
            for table in TABLES {
                sql.run(table, &[]).map_err(RunIndexError::Sql)?;
            }
            *has_tables = true;
        }
        Ok(sql)
    }

    /// Returns the database to read from; `None` if there are no tables yet. Whoever only reads makes none, since anybody
    /// may ask for the list of any tag, and each has a database of its own.
    fn read(&self) -> Result<Option<&Q>, RunIndexError<Q::Error>> {
        let sql = self.target.store().sql();
        let mut has_tables = lock(&self.has_tables);
        if !*has_tables {
            let rows = sql.exec(HAS_TABLES, &[]).map_err(RunIndexError::Sql)?;
            *has_tables = !rows.is_empty();
        }
        Ok(has_tables.then_some(sql))
    }

    fn rows(
        &self,
        statement: &'static str,
        params: &[SqlValue<Q::Bytes>],
    ) -> Result<Vec<SqlRow<Q::Bytes>>, RunIndexError<Q::Error>> {
        match self.read()? {
            Some(sql) => sql.exec(statement, params).map_err(RunIndexError::Sql),
            None => Ok(Vec::new()),
        }
    }

    /// Takes a report if it is newer than the entry of the run. Returns whether it is.
    ///
    /// # Errors
    /// When SQLite fails. The report may be taken then; taking it again changes nothing.
    pub fn take(
        &self,
        report: &RunReport,
        now: SystemTime,
    ) -> Result<bool, RunIndexError<Q::Error>> {
        let sql = self.written()?;
        let text = |text: &str| SqlValue::Text(text.to_owned());
        let now = clock::milliseconds(now);
        let (event_type, data, state) = match &report.entry {
            Some(entry) => ("run", json(entry)?, json(&entry.state)?),
            None => ("removed", json(&Removed { id: &report.id })?, String::new()),
        };
        let expires = match report.entry {
            Some(_) => report.expires,
            None => Some(now.saturating_add(REMOVED_FOR)),
        };
        let entry = match report.entry {
            Some(_) => SqlValue::Text(data.clone()),
            None => SqlValue::Null,
        };
        // Without an await in between, so that all or none of it takes effect in an object's storage. Elsewhere, a
        // change that is stored twice does no harm.
        let params = [
            text(&report.id),
            whole(report.version),
            whole(report.began),
            text(state.trim_matches('"')),
            expires.map_or(SqlValue::Null, whole),
            entry,
        ];
        // A log with one event is reported for the first time.
        let is_known = report.version > FIRST;
        let taken = (is_known && sql.changes(UPDATE, &params).map_err(RunIndexError::Sql)?)
            || sql.changes(PUT, &params).map_err(RunIndexError::Sql)?;
        if !taken {
            return Ok(false);
        }
        if let Some(entry) = &report.entry
            && entry.state == RunState::Completed
            && let Some((started, ended)) = entry.started.zip(entry.ended)
        {
            let took = ended.duration_since(started).unwrap_or_default();
            let took = u64::try_from(took.as_millis()).unwrap_or_default();
            sql.run(
                ADD_TIME,
                &[whole(took), SqlValue::Text(json(&report.took)?)],
            )
            .map_err(RunIndexError::Sql)?;
        }
        let event = NewEvent::new(event_type, data).map_err(|_| RunIndexError::Row)?;
        let stored = self.target.store().append_now(&[EventRef::from(&event)], 0);
        let stored = stored.map_err(RunIndexError::Store)?;
        self.target.observing().appended(&stored);
        // Only now and then: lists leave out removed runs anyway, and estimates older times.
        let head = self.target.store().head().map_err(RunIndexError::Store)?;
        if let Some(head) = head.filter(|head| head.get().is_multiple_of(PRUNES)) {
            self.prune(sql, head.get(), now)?;
        }
        Ok(true)
    }

    /// Removes old times, and runs that have expired, if it is their turn at this number of changes. To find these all runs
    /// are read, so that there are the more changes from one turn to the next the more runs there are: a change costs a
    /// few rows, however many runs there are.
    #[inline(never)]
    fn prune(&self, sql: &Q, head: u64, now: u64) -> Result<(), RunIndexError<Q::Error>> {
        sql.run(TRIM_TIMES, &[SqlValue::Integer(TIMES)])
            .map_err(RunIndexError::Sql)?;
        let counted = lock(&self.counted).take();
        let runs = match counted {
            Some(runs) => runs,
            None => {
                let rows = sql.exec(COUNT_ALL, &[]).map_err(RunIndexError::Sql)?;
                rows.first().map_or(Ok(0), |row| integer(row, 0))?
            }
        };
        if head.is_multiple_of((runs / 4).next_power_of_two().max(PRUNES)) {
            sql.run(PRUNE, &[whole(now)]).map_err(RunIndexError::Sql)?;
        } else {
            *lock(&self.counted) = Some(runs);
        }
        Ok(())
    }

    /// Returns a page of runs, the latest first, as JSON: `runs`, an array of [`RunEntry`](super::RunEntry); `next`,
    /// the cursor of the next page if there is one; `cursor`, the position in the log of changes at which it is true, if
    /// there is one; `typical`, how long runs took that completed lately, if there is anything to say: an [`Estimate`].
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn list(
        &self,
        filter: &ListFilter,
        now: SystemTime,
    ) -> Result<String, RunIndexError<Q::Error>> {
        const LAST: u64 = 1 << 53;
        let (began, id) = filter.after.clone().unwrap_or((LAST, String::new()));
        let params = [
            filter.states.clone().map_or(SqlValue::Null, SqlValue::Text),
            whole(filter.since),
            whole(filter.until.unwrap_or(LAST).min(LAST)),
            whole(began),
            SqlValue::Text(id),
            whole(clock::milliseconds(now)),
            whole(u64::from(filter.limit) + 1),
        ];
        let rows = self.rows(LIST, &params)?;
        let limit = filter.limit as usize;
        let mut page = String::from("{\"runs\":[");
        for (number, row) in rows.iter().take(limit).enumerate() {
            if number > 0 {
                page.push(',');
            }
            page.push_str(string(row, 0)?);
        }
        page.push(']');
        if let Some(row) = rows
            .get(limit.saturating_sub(1))
            .filter(|_| rows.len() > limit)
        {
            let next = format!("{}~{}", integer(row, 1)?, string(row, 2)?);
            let next = json(&next)?;
            page += &format!(",\"next\":{next}");
        }
        if let Some(head) = self.target.store().head().map_err(RunIndexError::Store)? {
            page += &format!(",\"cursor\":{head}");
        }
        if let Some(typical) = self.typical()? {
            let typical = json(&typical)?;
            page += &format!(",\"typical\":{typical}");
        }
        page.push('}');
        Ok(page)
    }

    /// Returns how long runs took that completed lately; `None` where there is too little to say.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn typical(&self) -> Result<Option<Estimate>, RunIndexError<Q::Error>> {
        let rows = self.rows(ALL_TIMES, &[SqlValue::Integer(TIMES)])?;
        let times = rows.iter().map(|row| integer(row, 0));
        Ok(Estimate::of(times.collect::<Result<_, _>>()?))
    }

    /// Returns how long a run and its tasks are expected to take.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn estimate(&self) -> Result<RunEstimate, RunIndexError<Q::Error>> {
        let rows = self.rows(TASK_TIMES, &[SqlValue::Integer(TIMES)])?;
        let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for row in &rows {
            let tasks: BTreeMap<String, u64> =
                serde_json::from_str(string(row, 0)?).map_err(|_| RunIndexError::Row)?;
            for (task, took) in tasks {
                times.entry(task).or_default().push(took);
            }
        }
        let known = times.into_iter();
        let known = known.filter_map(|(task, times)| Some((task, Estimate::of(times)?)));
        let mut known: Vec<_> = known.collect();
        known.sort_by_key(|(_, estimate)| std::cmp::Reverse(estimate.median_ms));
        known.truncate(MOST_TASKS);
        Ok(RunEstimate {
            run: self.typical()?,
            tasks: known.into_iter().collect(),
        })
    }

    /// Returns how many runs there are.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn count(&self) -> Result<u64, RunIndexError<Q::Error>> {
        let rows = self.rows(COUNT, &[])?;
        rows.first().map_or(Ok(0), |row| integer(row, 0))
    }
}

#[derive(Serialize)]
struct Removed<'a> {
    id: &'a str,
}

fn json<E>(value: &impl Serialize) -> Result<String, RunIndexError<E>> {
    serde_json::to_string(value).map_err(|_| RunIndexError::Row)
}

fn whole<B>(number: u64) -> SqlValue<B> {
    SqlValue::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn integer<B, E>(row: &SqlRow<B>, column: usize) -> Result<u64, RunIndexError<E>> {
    match row.get(column) {
        Some(SqlValue::Integer(number)) => u64::try_from(*number).map_err(|_| RunIndexError::Row),
        _ => Err(RunIndexError::Row),
    }
}

fn string<B, E>(row: &SqlRow<B>, column: usize) -> Result<&str, RunIndexError<E>> {
    match row.get(column) {
        Some(SqlValue::Text(text)) => Ok(text),
        _ => Err(RunIndexError::Row),
    }
}

/// Why an index failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunIndexError<E> {
    /// SQLite failed.
    Sql(E),
    /// The log of changes failed.
    Store(SqliteError<E>),
    /// A row or a report does not belong to this index.
    Row,
}

impl<E: fmt::Display> fmt::Display for RunIndexError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql(error) => write!(f, "the index of runs failed: {error}"),
            Self::Store(error) => write!(f, "the index of runs failed: {error}"),
            Self::Row => f.write_str("the index of runs has something that is not its own"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for RunIndexError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Sql(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::Row => None,
        }
    }
}

impl fmt::Display for InvalidList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::State => "invalid state: use states of a run, such as running, with commas between them",
            Self::Time => {
                "invalid since or until: use a time such as 2026-11-24T09:00:00Z, or milliseconds since 1970"
            }
            Self::Limit => "invalid limit: use a number from 1 to 500",
            Self::Cursor => "invalid cursor: use the next of the page before",
            Self::Tag => "invalid tag: a tag has 1 to 64 letters, digits, -, _ and .",
        })
    }
}

impl std::error::Error for InvalidList {}
