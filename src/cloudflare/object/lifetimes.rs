//! Which lifetimes of an instance are at work and which are over, and what of that is stored. Runs in the object;
//! pure, and tested natively.

use std::time::{Duration, SystemTime};

use crate::clock::{self, SteadyClock};
use crate::event::EventId;
use crate::store::{Sql, SqlRow, SqliteError, Statement, integer, number};
use crate::workflow::Rivals;

/// How long the lifetimes of an instance wait for a restart to be confirmed, in case that the Worker that
/// began it is gone.
pub(super) const RESTART_TIMEOUT: Duration = Duration::from_secs(10);

/// How many openings are remembered until they are used. A few: openings by lifetimes that died are never used.
const OPENED: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Lifetimes {
    /// The greatest generation that was given.
    pub(super) newest: u64,
    /// This value has given one.
    pub(super) has_given: bool,
    /// A number between the generations, for those who were told where the log stands. A value has it from the first
    /// time on that it tells them.
    told: Option<u64>,
    /// Lifetimes of generations below are over.
    pub(super) first_alive: u64,
    /// When the log was opened and where it was then, by generation, until the lifetime appends something. In any
    /// order.
    pub(super) opened: Vec<(u64, Opening)>,
    /// The lifetime from which the log has heard last, and the one before it.
    pub(super) heard: [Option<Heard>; 2],
    /// When the latest run may have begun, if that is known.
    pub(super) begun: Option<Duration>,
    pub(super) clock: SteadyClock,
    /// The event of an announcement that is all there is of its run.
    pub(super) announced: Option<EventId>,
    /// The time until which new lifetimes wait for a restart to be confirmed.
    pub(super) restarting: Option<SystemTime>,
    /// When the restart began that is under way.
    pub(super) restart_began: Option<Duration>,
    /// What SQLite has of this, once it was read.
    pub(super) mark: Option<Mark>,
}

/// When a lifetime opened the log, by the log's clock, and where the log was then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    pub(super) at: Duration,
    pub(super) head: Option<EventId>,
    /// From which lifetime the log had heard last.
    pub(super) heard: Option<u64>,
}

/// A lifetime from which the log has facts, and when it opened the log; or something that was done to the instance,
/// which no lifetime from before takes part in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) generation: u64,
    pub(super) at: Duration,
}

impl Lifetimes {
    /// Takes over what SQLite has of an object that was in memory before, while the log is in this run.
    pub(super) fn remember(&mut self, mark: Mark, run: u32, writer: u64) {
        self.mark = Some(mark);
        if let Some(at) = Mark::since_epoch(mark.at) {
            let generation = mark.generation;
            self.heard = [Some(Heard { generation, at }), None];
        }
        // Generations are made from the clock.
        if writer > mark.generation {
            self.is_heard(writer, None);
        }
        // A version that does not write the row may have begun a run since.
        if mark.run == run {
            self.begun = Mark::since_epoch(mark.begun);
            self.restart_began = Mark::since_epoch(mark.restart_began);
            self.restarting =
                (mark.restarting > 0).then(|| clock::from_milliseconds(mark.restarting));
        }
    }

    /// Returns whether the lifetime of this generation is over.
    ///
    /// A generation that this value did not give is from before the log was last taken into memory,
    /// so those that it gave came later, also where the clock was set back in between.
    pub(super) fn is_over(&self, generation: u64) -> bool {
        generation < self.first_alive || (self.has_given && generation > self.newest)
    }

    /// Notes that the lifetime of this generation is alive, and that those before it are over.
    pub(super) fn is_alive(&mut self, generation: u64) {
        self.newest = self.newest.max(generation);
        self.first_alive = self.first_alive.max(generation);
        self.announced = None;
        self.opened
            .retain(|(opened, _)| *opened >= self.first_alive);
    }

    /// Gives the next lifetime a generation.
    pub(super) fn gives(&mut self, now: SystemTime) -> u64 {
        let greatest = self.newest.max(self.first_alive);
        let least = greatest.max(self.told.unwrap_or_default()) + 1;
        self.newest = least.max(clock::milliseconds(now));
        self.has_given = true;
        self.newest
    }

    /// Returns a number that changes with each generation that is given, and that no earlier value has told, since it is
    /// made from the clock as generations are.
    pub(super) fn tells(&mut self, now: SystemTime) -> u64 {
        let told = self.told.unwrap_or(clock::milliseconds(now));
        let told = told.max(self.newest + u64::from(self.told.is_none()));
        self.told = Some(told);
        told
    }

    /// Returns whether this value has told this number, and has given no generation since.
    pub(super) fn has_told(&self, number: u64) -> bool {
        self.told
            .is_some_and(|told| told.max(self.newest) == number)
    }

    /// Remembers an opening by the lifetime of this generation. Forgets that of the oldest lifetime.
    pub(super) fn opens(&mut self, generation: u64, opening: Opening) {
        self.forget_opening(generation);
        self.opened.push((generation, opening));
        if self.opened.len() > OPENED
            && let Some(oldest) = self.opened.iter().map(|(opened, _)| *opened).min()
        {
            self.forget_opening(oldest);
        }
    }

    pub(super) fn opening(&self, generation: u64) -> Option<Opening> {
        let is_it = |(opened, _): &&(u64, Opening)| *opened == generation;
        self.opened.iter().find(is_it).map(|(_, opening)| *opening)
    }

    pub(super) fn forget_opening(&mut self, generation: u64) {
        self.opened.retain(|(opened, _)| *opened != generation);
    }

    pub(super) fn latest_heard(&self) -> Option<u64> {
        self.heard[0].map(|heard| heard.generation)
    }

    /// Notes that the log has heard from the lifetime of this generation, which opened it then.
    pub(super) fn is_heard(&mut self, generation: u64, opened: Option<Opening>) {
        if self.heard[0].is_none_or(|heard| heard.generation != generation) {
            let at = opened.map_or(Duration::from_millis(generation), |opened| opened.at);
            self.heard = [Some(Heard { generation, at }), self.heard[0]];
        }
    }

    /// Notes that a run has begun, or that one is over, of which lifetimes that began before know nothing.
    pub(super) fn has_begun(&mut self, first_alive: u64, at: Duration) {
        let generation = first_alive;
        self.heard = [Some(Heard { generation, at }), None];
        self.begun = Some(at);
    }

    /// Returns when others opened the log from which it has facts, for the lifetime of this generation.
    pub(super) fn rivals(&self, generation: u64, at: Duration, now: SystemTime) -> Option<Rivals> {
        let ago =
            |then: Duration| u64::try_from(at.saturating_sub(then).as_millis()).unwrap_or(u64::MAX);
        let others = self.heard.iter().flatten();
        let others = others.filter(|heard| heard.generation != generation);
        let latest = others.map(|heard| heard.at).max()?;
        Some(Rivals {
            now: clock::milliseconds(now),
            opened: ago(latest),
            begun: self.begun.map(ago),
        })
    }

    /// Returns what is to be stored if something is done then, in this run or to begin it, of which lifetimes of
    /// generations below `first_alive` know nothing.
    pub(super) fn done(&self, run: u32, first_alive: u64, at: Duration) -> Mark {
        self.mark.unwrap_or_default().done(run, first_alive, at)
    }

    pub(super) fn is_restarting(&self, now: SystemTime) -> bool {
        // Nobody waits until a clock that was set back far is where it was.
        let is_near = |until: SystemTime| until <= now + 2 * RESTART_TIMEOUT;
        self.restarting
            .is_some_and(|until| now < until && is_near(until))
    }
}

/// What was done to the instance last that no lifetime from before takes part in: the run was ended from outside, or
/// the next one began, or a restart is under way. It is one row, which the transaction of the event in question
/// replaces, so that an object that fails at that moment knows it afterwards. A log whose lifetimes tell everything
/// themselves has no such row.
///
/// Times are in milliseconds by the log's clock, and 0 stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The run in which it was done, or which it began.
    pub(super) run: u32,
    /// Lifetimes of generations below know nothing of it.
    generation: u64,
    /// When it was done.
    at: u64,
    /// When the run may have begun.
    begun: u64,
    /// The time until which new lifetimes wait for a restart to be confirmed.
    restarting: u64,
    /// When that restart began.
    restart_began: u64,
}

/// One row. Only what is done to the instance writes it, and no event of a lifetime.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS lifetimes (id INTEGER PRIMARY KEY, run INTEGER NOT NULL, \
                     generation INTEGER NOT NULL, done INTEGER NOT NULL, begun INTEGER NOT NULL, \
                     restarting INTEGER NOT NULL, restart_began INTEGER NOT NULL)";
const WRITE: &str = "INSERT OR REPLACE INTO lifetimes (id, run, generation, done, begun, restarting, restart_began) \
                     VALUES (0, ?1, ?2, ?3, ?4, ?5, ?6)";
const READ: &str =
    "SELECT run, generation, done, begun, restarting, restart_began FROM lifetimes WHERE id = 0";
const HAS_TABLE: &str = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'lifetimes'";
const FORGET: &str = "DROP TABLE IF EXISTS lifetimes";

impl Mark {
    /// Reads the row, if there is one.
    pub(super) fn read<Q: Sql>(sql: &Q) -> Result<Self, SqliteError<Q::Error>> {
        if sql.exec(HAS_TABLE, &[])?.is_empty() {
            return Ok(Self::default());
        }
        match sql.exec(READ, &[])?.into_iter().next() {
            Some(row) => Self::from_row(row),
            None => Ok(Self::default()),
        }
    }

    fn from_row<B, E>(row: SqlRow<B>) -> Result<Self, SqliteError<E>> {
        let mut columns = row.into_iter();
        Ok(Self {
            run: u32::try_from(number(columns.next())?).map_err(|_| SqliteError::Row)?,
            generation: number(columns.next())?,
            at: number(columns.next())?,
            begun: number(columns.next())?,
            restarting: number(columns.next())?,
            restart_began: number(columns.next())?,
        })
    }

    /// Returns the statements that replace the row.
    pub(super) fn statements<B>(self) -> Vec<Statement<B>> {
        let row = [
            u64::from(self.run),
            self.generation,
            self.at,
            self.begun,
            self.restarting,
            self.restart_began,
        ];
        let row = row.map(integer).into();
        vec![(TABLE, Vec::new()), (WRITE, row)]
    }

    /// Removes the row.
    pub(super) fn forget<Q: Sql>(sql: &Q) -> Result<(), Q::Error> {
        sql.run(FORGET, &[])
    }

    /// The same, but something else was done then.
    fn done(self, run: u32, first_alive: u64, at: Duration) -> Self {
        let at = round_up(at);
        // The next run ends a restart.
        let before = if run == self.run {
            self
        } else {
            Self::default()
        };
        Self {
            run,
            generation: first_alive,
            at,
            begun: at,
            ..before
        }
    }

    /// The same, and a restart that began then is under way; new lifetimes wait for it until a time.
    pub(super) fn restarting(self, run: u32, until: SystemTime, began: Duration) -> Self {
        Self {
            // What was known of an earlier run does not count any more.
            begun: if self.run == run { self.begun } else { 0 },
            run,
            restarting: clock::milliseconds(until),
            restart_began: round_up(began),
            ..self
        }
    }

    /// The same, and no restart is under way.
    pub(super) fn restarted(self) -> Self {
        Self {
            restarting: 0,
            restart_began: 0,
            ..self
        }
    }

    fn since_epoch(milliseconds: u64) -> Option<Duration> {
        (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
    }
}

/// Returns whole milliseconds, and rather later than sooner: a lifetime that may be older is asked for a proof.
fn round_up(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
