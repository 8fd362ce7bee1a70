//! The log of one instance: its runs, each a set of facts, and who may add to them. Runs in the object; pure,
//! and tested natively.

use std::fmt;
use std::time::SystemTime;

use super::lifetimes::{Lifetimes, Mark, Opening, RESTART_TIMEOUT};
use crate::clock;
use crate::cloudflare::command::LogState;
use crate::cloudflare::packed::{InvalidBatch, unpack_facts};
use crate::delivery::SseTarget;
use crate::event::{EventId, EventRef, InvalidEvent, NewEvent};
use crate::stats::Observer;
use crate::store::{Appended, PageLimit, Retention, Sql, SqliteError, SqliteEventStore};
use crate::sync::{Mutex, lock};
use crate::task::{Redact, is_report_base};
use crate::workflow::ended_run::EngineEvent;
use crate::workflow::{KnownRun, Opened, OpenedRun, Reconciled, Told, reconcile, workflow_started};

/// Keeps the facts of one workflow instance, each once, over a log in SQLite.
///
/// An instance that is restarted begins a new run, whose facts are new again. The log
/// distinguishes the runs by a prefix of the keys, viewers by the event `restarted` between them.
///
/// The lifetimes of a run are distinguished by numbers, their generations. Each gets one when it opens
/// the log, greater than all before, and names it with its facts. As soon as one has named it,
/// those with smaller numbers are over: facts that still come from them are answered as
/// [stale](Told::Stale) and are not stored. Only the newest event's generation is stored, with the
/// event. Generations of lifetimes that appended nothing are remembered while this value lives; since
/// they are made from the clock, they are not given again after that. What is done to the instance from outside, and
/// that a run begins, is stored with its time, in the same transaction as the event that tells it.
///
/// A lifetime may open the log late, when the next one has done so already. So each is told when those opened the
/// log from which it has facts ([`Rivals`](crate::workflow::Rivals)). One that may be older than they are waits for a proof by its
/// engine before it appends anything.
///
/// Code that creates, restarts or ends the instance from outside has no generation.
#[derive(Debug)]
pub struct WorkflowLog<Q: Sql> {
    target: SseTarget<NewEvent, SqliteEventStore<Q>>,
    lifetimes: Mutex<Lifetimes>,
    pub(super) redact: Option<Redact>,
}

/// The prefix of the keys of `restarted` events. Keys of facts begin with the number of their run instead.
const RUNS: &str = "run/";

/// The end of such a key where the log was deleted under the run.
const DELETED: &str = "-deleted";

/// The outcome of an announcement: see [`WorkflowLog::announce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The log was empty, and has the announcement now.
    New {
        /// Whether this call stored it; else an earlier one did.
        stored: bool,
    },
    /// The log has events of an instance before, and stands here. A restart is under way: it is to
    /// be confirmed or cancelled.
    Known(LogState),
}

impl<Q: Sql> WorkflowLog<Q> {
    /// Returns the log in this database.
    pub fn new(sql: Q) -> Self {
        Self {
            target: SseTarget::new(SqliteEventStore::new(sql)),
            lifetimes: Mutex::default(),
            redact: None,
        }
    }

    /// Sets the rule for what is taken over from the platform. Default: none.
    #[must_use]
    pub fn redact(mut self, rule: Option<Redact>) -> Self {
        self.redact = rule;
        self
    }

    /// Returns the log in this database, of which only the newest `events` are kept. The keys of the others
    /// are, too, so that no fact is stored twice.
    pub fn with_max_events(sql: Q, events: usize) -> Self {
        let retention = Retention::for_ever().max_events(events);
        let store = SqliteEventStore::new(sql).retention(retention).keep_keys();
        Self {
            target: SseTarget::new(store),
            lifetimes: Mutex::default(),
            redact: None,
        }
    }

    /// Returns whether all events of the latest run are kept.
    pub(super) fn has_whole_run(&self) -> Result<bool, WorkflowLogError<Q::Error>> {
        let store = self.target.store();
        Ok(match self.run()? {
            1 => store.span()?.is_none_or(|(oldest, _)| oldest.get() == 1),
            run => store.keeps_key(run_key(run))?,
        })
    }

    /// Sets who is told what is appended and read. Default: nobody.
    #[must_use]
    pub fn observed_by(mut self, observer: impl Observer + 'static) -> Self {
        self.target = self.target.observed_by(observer);
        self
    }

    /// Opens the log for a lifetime of the instance, and returns its latest run, the facts that the run has,
    /// and a generation for the lifetime. Where the log has [expired](Self::expire), the run is the next
    /// one, which has no facts yet. Where it was [deleted](Self::delete) under the run, the lifetime is told
    /// that it is over: nothing of that run is stored again. A lifetime that opens the log again passes its
    /// generation, and keeps it.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn open(
        &self,
        generation: Option<u64>,
        now: SystemTime,
    ) -> Result<Opened, WorkflowLogError<Q::Error>> {
        let is_deleted = self.is_deleted()?;
        let mut lifetimes = self.lifetimes()?;
        let generation = match generation {
            Some(generation) if lifetimes.is_over(generation) => return Ok(Opened::Over),
            Some(_) if is_deleted => return Ok(Opened::Over),
            Some(generation) => generation,
            None if lifetimes.is_restarting(now) => return Ok(Opened::Restarting),
            None if is_deleted => return Ok(Opened::Over),
            None => lifetimes.gives(now),
        };
        let store = self.target.store();
        let head = store.head()?;
        let at = lifetimes.clock.read(now);
        let rivals = lifetimes.rivals(generation, at, now);
        let heard = lifetimes.latest_heard();
        lifetimes.opens(generation, Opening { at, head, heard });
        let run = self.run()?;
        if store.emptied()?.is_some() {
            return Ok(Opened::Run(OpenedRun {
                generation,
                run: run + 1,
                ended: false,
                facts: Vec::new(),
                rivals,
            }));
        }
        let prefix = format!("{run}/");
        Ok(Opened::Run(OpenedRun {
            generation,
            run,
            ended: store.is_closed()?,
            facts: store.keys_but_older(&prefix, &is_report_base)?,
            rivals,
        }))
    }

    /// Deletes the events, but for one small row with the greatest id and the number of the latest
    /// run, so that neither is given again: a further run begins with `restarted` and the next id,
    /// and a viewer with an old position gets a [`Reset`](crate::event::Reset).
    ///
    /// # Errors
    /// When SQLite fails. Then nothing was deleted.
    pub fn expire(&self) -> Result<(), WorkflowLogError<Q::Error>> {
        self.remove(false)
    }

    /// Deletes the events on request, as [`expire`](Self::expire) does, and returns whether there were any.
    /// If the latest run has not ended, it is marked: what comes of it from now on is not stored, and its
    /// further lifetimes are [over](Opened::Over). The next run, which a restart or a new instance of this
    /// id announces, is stored again.
    ///
    /// # Errors
    /// When SQLite fails. Then nothing was deleted.
    pub fn delete(&self) -> Result<bool, WorkflowLogError<Q::Error>> {
        let store = self.target.store();
        if store.is_empty()? {
            return Ok(false);
        }
        self.remove(!store.is_closed()?)?;
        self.lifetimes()?.announced = None;
        Ok(true)
    }

    /// Returns whether the log was [deleted](Self::delete) under a run that had not ended, and no other run
    /// has begun since.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn is_deleted(&self) -> Result<bool, WorkflowLogError<Q::Error>> {
        let store = self.target.store();
        if store.emptied()?.is_none() {
            return Ok(false);
        }
        let runs = store.keys(RUNS)?;
        Ok(runs.last().is_some_and(|run| run.ends_with(DELETED)))
    }

    /// Removes all events, but for the row with the greatest id and the number of the latest run.
    fn remove(&self, is_under_way: bool) -> Result<(), WorkflowLogError<Q::Error>> {
        let store = self.target.store();
        if let Some(head) = store.head()? {
            let mut run = run_key(self.run()?);
            if is_under_way {
                run += DELETED;
            }
            store.trim_but_key(head, Some(run))?;
        }
        Ok(())
    }

    /// Appends facts of a run for one of its lifetimes. The first facts of the run after the latest begin
    /// that run.
    ///
    /// Returns [`Told::Stale`], and stores nothing, where the lifetime is over, where the run is an
    /// earlier one, and where something else was added to the log between the lifetime's opening it and its
    /// first append. The lifetime opens the log again to find out which. Facts that come after a run's
    /// end, from abandoned steps, are dropped.
    ///
    /// # Errors
    /// [`WorkflowLogError::Event`] for an event that is invalid or has no key,
    /// [`WorkflowLogError::Run`] for a run beyond the next, else when SQLite fails. Then nothing
    /// was stored.
    pub async fn append(
        &self,
        generation: u64,
        run: u32,
        batch: Vec<NewEvent>,
        now: SystemTime,
    ) -> Result<Told, WorkflowLogError<Q::Error>> {
        let facts = batch.iter().map(EventRef::from).collect();
        self.append_facts(generation, run, facts, || now)
    }

    /// Appends a batch that [`pack_facts`](crate::cloudflare::packed::pack_facts) made, as
    /// [`append`](Self::append) does. Its strings are not copied on their way into the database. `now` is
    /// called when a run begins.
    ///
    /// # Errors
    /// As [`append`](Self::append), and [`WorkflowLogError::Batch`] for bytes that are no batch.
    pub fn append_packed(
        &self,
        generation: u64,
        run: u32,
        batch: &[u8],
        now: impl FnOnce() -> SystemTime,
    ) -> Result<Told, WorkflowLogError<Q::Error>> {
        let facts = unpack_facts(batch).map_err(WorkflowLogError::Batch)?;
        self.append_facts(generation, run, facts, now)
    }

    fn append_facts(
        &self,
        generation: u64,
        run: u32,
        batch: Vec<EventRef<'_>>,
        now: impl FnOnce() -> SystemTime,
    ) -> Result<Told, WorkflowLogError<Q::Error>> {
        let latest = self.run()?;
        let mark = {
            let mut lifetimes = self.lifetimes()?;
            if lifetimes.is_over(generation) {
                return Ok(Told::Stale);
            }
            let opened = lifetimes.opening(generation);
            // Of another one, from which the log has heard since, this one does not know whether it is later.
            let other = lifetimes
                .latest_heard()
                .filter(|heard| *heard != generation);
            if opened.is_some_and(|opened| other.is_some() && opened.heard != other) {
                return Ok(Told::Stale);
            }
            lifetimes.is_heard(generation, opened);
            lifetimes.is_alive(generation);
            let head = self.target.store().head()?;
            if run < latest || opened.is_some_and(|opened| opened.head != head) {
                return Ok(Told::Stale);
            }
            lifetimes.forget_opening(generation);
            let begun = lifetimes.heard[0].filter(|_| run > latest);
            if let Some(heard) = begun {
                lifetimes.begun = Some(heard.at);
            }
            begun.map(|heard| lifetimes.done(run, generation, heard.at))
        };
        if run == latest && self.is_over()? {
            return Ok(Told::Stored(0));
        }
        if run > latest.saturating_add(1) {
            return Err(WorkflowLogError::Run { run, latest });
        }
        let restarted = (run > latest).then(|| restarted(run, now())).transpose()?;
        self.store(generation, run, restarted.as_ref(), batch, mark)
            .map(Told::Stored)
    }

    /// Returns whether the latest run has ended, also where it has expired.
    fn is_over(&self) -> Result<bool, WorkflowLogError<Q::Error>> {
        let store = self.target.store();
        Ok(store.is_closed()? || store.emptied()?.is_some())
    }

    /// Returns where the log stands.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn state(&self) -> Result<LogState, WorkflowLogError<Q::Error>> {
        let store = self.target.store();
        let run = self.run()?;
        let span = store.span()?;
        let lifetimes = self.lifetimes()?;
        // The announcement may be from before this value was made, if nothing was appended since.
        let is_first = |(oldest, newest): (EventId, EventId)| -> Result<bool, SqliteError<_>> {
            let is_first = newest.get() == 1 && oldest == newest && lifetimes.first_alive == 0;
            let has = |key: &String| key.ends_with(ANNOUNCED);
            Ok(is_first && store.keys(&format!("{run}/"))?.iter().any(has))
        };
        let head = span.map(|(_, newest)| newest);
        let announced = (head.is_some() && lifetimes.announced == head)
            || span.map(is_first).transpose()?.unwrap_or_default();
        Ok(LogState {
            run,
            generation: lifetimes.newest,
            ended: store.is_closed()?,
            empty: span.is_none(),
            announced,
            newest: store.newest_time()?,
        })
    }

    /// Returns where the log stands, for those who ask the platform next and come back with its answer: see
    /// [`tell`](Self::tell). In place of the generation they get a number that changes as soon as a lifetime opens the
    /// log. Another value of this log does not know it: a lifetime that has appended nothing is in memory only, so an
    /// object that has failed since does not know whether one has begun.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn stands(&self, now: SystemTime) -> Result<LogState, WorkflowLogError<Q::Error>> {
        let state = self.state()?;
        let generation = self.lifetimes()?.tells(now);
        Ok(LogState {
            generation,
            ..state
        })
    }

    /// Returns whether the log still [stands](Self::stands) there.
    pub(super) fn still_stands(
        &self,
        stood: Option<(u32, u64)>,
    ) -> Result<bool, WorkflowLogError<Q::Error>> {
        let Some((run, told)) = stood else {
            return Ok(true);
        };
        Ok(run == self.run()? && self.lifetimes()?.has_told(told))
    }

    /// Announces an instance that is about to be created, by the first event of its run.
    /// Where the log has events of an earlier instance with this id, nothing is stored, and a
    /// restart is [under way](Self::begin_restart).
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn announce(
        &self,
        started: &NewEvent,
        now: SystemTime,
    ) -> Result<Announced, WorkflowLogError<Q::Error>> {
        let state = self.state()?;
        if state.empty {
            let (run, restarted) = self.next_of_empty(state.run, now)?;
            let (writer, begun, mark) = {
                let mut lifetimes = self.lifetimes()?;
                let (writer, begun) = (lifetimes.first_alive, lifetimes.clock.read(now));
                (writer, begun, lifetimes.done(run, writer, begun))
            };
            let mark = restarted.as_ref().map(|_| mark);
            self.store(writer, run, restarted.as_ref(), vec![started.into()], mark)?;
            let head = self.target.store().head()?;
            let mut lifetimes = self.lifetimes()?;
            lifetimes.announced = head;
            if restarted.is_some() {
                lifetimes.has_begun(writer, begun);
            }
            return Ok(Announced::New { stored: true });
        }
        if state.announced && self.lifetimes()?.opened.is_empty() {
            return Ok(Announced::New { stored: false });
        }
        self.begin_restart(now).map(Announced::Known)
    }

    /// Takes back the announcement of an instance that was not created: the log is empty again. Returns
    /// false, and changes nothing, where the log has other events.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn take_back(&self) -> Result<bool, WorkflowLogError<Q::Error>> {
        let announced = self.state()?.announced;
        if announced {
            self.lifetimes()?.announced = None;
            let store = self.target.store();
            match store.head()? {
                // Nothing was there before it.
                Some(first) if first.get() == 1 => {
                    store.remove_all()?;
                    Mark::forget(store.sql()).map_err(SqliteError::Sql)?;
                    self.lifetimes()?.mark = Some(Mark::default());
                }
                _ => {
                    // The run before may still be under way, and its log deleted.
                    let runs = store.keys(RUNS)?;
                    let before = runs.iter().rev().nth(1);
                    self.remove(before.is_some_and(|run| run.ends_with(DELETED)))?;
                }
            }
        }
        Ok(announced)
    }

    /// Returns the run that begins in a log without events, and its `restarted` if there was a run before.
    fn next_of_empty(
        &self,
        run: u32,
        now: SystemTime,
    ) -> Result<(u32, Option<NewEvent>), WorkflowLogError<Q::Error>> {
        Ok(match self.target.store().emptied()? {
            None => (run, None),
            Some(_) => (run + 1, Some(restarted(run + 1, now)?)),
        })
    }

    /// Begins a restart of the instance, before the platform is asked for it. Until it is
    /// [confirmed](Self::confirm_restart) or [cancelled](Self::cancel_restart), and for ten seconds
    /// at most, lifetimes that open the log are answered that they have to wait.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn begin_restart(&self, now: SystemTime) -> Result<LogState, WorkflowLogError<Q::Error>> {
        let state = self.state()?;
        let (until, began) = (now + RESTART_TIMEOUT, self.lifetimes()?.clock.read(now));
        self.set_mark(|mark| mark.restarting(state.run, until, began))?;
        let mut lifetimes = self.lifetimes()?;
        lifetimes.restarting = Some(until);
        lifetimes.restart_began = Some(began);
        Ok(state)
    }

    /// Confirms a restart: ends the lifetimes that the log had when it `began`, and begins the next run with
    /// its first event, unless a lifetime has begun it already. Returns whether the log has a new event.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn confirm_restart(
        &self,
        began: (u32, u64),
        started: &NewEvent,
        now: SystemTime,
    ) -> Result<bool, WorkflowLogError<Q::Error>> {
        let (run, generation) = began;
        let state = self.state()?;
        let (first_alive, restart_began) = {
            let mut lifetimes = self.lifetimes()?;
            lifetimes.restarting = None;
            // Stored by an object whose clock was ahead, it would be later than all that comes.
            let latest = lifetimes.clock.read(now);
            let restart_began = lifetimes.restart_began.take().map(|at| at.min(latest));
            // The clock was set back since, and those that have come are of the next run.
            let is_forgotten = generation > lifetimes.newest;
            if !is_forgotten || !(lifetimes.has_given || state.run > run) {
                lifetimes.first_alive = lifetimes.first_alive.max(generation + 1);
                lifetimes.newest = lifetimes.newest.max(generation + 1);
            }
            if let (Some(began), true) = (restart_began, state.run <= run) {
                let first_alive = lifetimes.first_alive;
                lifetimes.has_begun(first_alive, began);
            }
            (lifetimes.first_alive, restart_began)
        };
        if state.run > run {
            self.set_mark(Mark::restarted)?;
            return Ok(false);
        }
        let (next, restarted) = match state.empty {
            true => self.next_of_empty(run, now)?,
            false => (run + 1, Some(restarted(run + 1, now)?)),
        };
        let lifetimes = self.lifetimes()?;
        let mark = restart_began.map(|began| lifetimes.done(next, first_alive, began));
        drop(lifetimes);
        let started = vec![started.into()];
        let stored = self.store(first_alive, next, restarted.as_ref(), started, mark)?;
        Ok(stored > 0)
    }

    /// Stores what was done to the instance where no event tells it, if that is new. A log that never had an event
    /// stores nothing.
    fn set_mark(
        &self,
        change: impl FnOnce(Mark) -> Mark,
    ) -> Result<(), WorkflowLogError<Q::Error>> {
        let store = self.target.store();
        if store.head()?.is_none() {
            return Ok(());
        }
        let mut lifetimes = self.lifetimes()?;
        let mark = lifetimes.mark.unwrap_or_default();
        let changed = change(mark);
        if changed != mark {
            store
                .sql()
                .run_all(&changed.statements())
                .map_err(SqliteError::Sql)?;
            lifetimes.mark = Some(changed);
        }
        Ok(())
    }

    /// Ends the lifetimes up to this generation. Returns the first one that is not over.
    fn end_lifetimes(&self, last: u64) -> Result<u64, WorkflowLogError<Q::Error>> {
        let mut lifetimes = self.lifetimes()?;
        lifetimes.first_alive = lifetimes.first_alive.max(last + 1);
        lifetimes.newest = lifetimes.newest.max(last + 1);
        Ok(lifetimes.first_alive)
    }

    /// Cancels a restart that began: it does not take place.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn cancel_restart(&self) -> Result<(), WorkflowLogError<Q::Error>> {
        self.set_mark(Mark::restarted)?;
        let mut lifetimes = self.lifetimes()?;
        lifetimes.restarting = None;
        lifetimes.restart_began = None;
        Ok(())
    }

    /// Appends facts to the latest run from outside its workflow, such as the run's end. With `stood`, where
    /// the log [stood](Self::stands), they are stored only if no run or lifetime has begun since, and only by the value
    /// that was asked for it. Nothing is added to a run that has ended.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn tell(
        &self,
        stood: Option<(u32, u64)>,
        batch: &[NewEvent],
    ) -> Result<Told, WorkflowLogError<Q::Error>> {
        self.tell_facts(stood, batch.iter().map(EventRef::from).collect(), None)
    }

    /// Ends the latest run with these facts as [`tell`](Self::tell) appends them: no lifetime from before `now` tells
    /// anything new.
    pub(super) fn tell_end(
        &self,
        stood: Option<(u32, u64)>,
        batch: &[NewEvent],
        now: SystemTime,
    ) -> Result<Told, WorkflowLogError<Q::Error>> {
        let batch = batch.iter().map(EventRef::from).collect();
        self.tell_facts(stood, batch, Some(now))
    }

    /// Appends a batch that [`pack_facts`](crate::cloudflare::packed::pack_facts) made, as
    /// [`tell`](Self::tell) does, wherever the log stands.
    ///
    /// # Errors
    /// As [`append_packed`](Self::append_packed).
    pub fn tell_packed(&self, batch: &[u8]) -> Result<Told, WorkflowLogError<Q::Error>> {
        let batch = unpack_facts(batch).map_err(WorkflowLogError::Batch)?;
        self.tell_facts(None, batch, None)
    }

    fn tell_facts(
        &self,
        stood: Option<(u32, u64)>,
        batch: Vec<EventRef<'_>>,
        ended: Option<SystemTime>,
    ) -> Result<Told, WorkflowLogError<Q::Error>> {
        // Not all of `state`: each event that a webhook tells comes here.
        let run = self.run()?;
        let writer = self.lifetimes()?.first_alive;
        if !self.still_stands(stood)? {
            return Ok(Told::Stale);
        }
        if self.is_over()? {
            return Ok(Told::Stored(0));
        }
        self.store_done(writer, run, None, batch, ended)
            .map(Told::Stored)
    }

    /// As [`store`](Self::store). If the run is `ended` by that, it is stored when.
    fn store_done(
        &self,
        writer: u64,
        run: u32,
        restarted: Option<&NewEvent>,
        batch: Vec<EventRef<'_>>,
        ended: Option<SystemTime>,
    ) -> Result<usize, WorkflowLogError<Q::Error>> {
        let Some(ended) = ended else {
            return self.store(writer, run, restarted, batch, None);
        };
        let (at, mark) = {
            let mut lifetimes = self.lifetimes()?;
            let at = lifetimes.clock.read(ended);
            (at, lifetimes.done(run, writer, at))
        };
        let stored = self.store(writer, run, restarted, batch, Some(mark))?;
        if stored > 0 {
            self.lifetimes()?.has_begun(writer, at);
        }
        Ok(stored)
    }

    /// Appends in one batch what the platform's log of an ended run has and this log has not, or,
    /// if it is of a run after the latest, begins and ends that run. As [`tell_end`](Self::tell_end), only if the
    /// log stands where it `stood`.
    pub(super) fn tell_missing(
        &self,
        stood: Option<(u32, u64)>,
        workflow: &str,
        platform: &[EngineEvent],
        now: SystemTime,
    ) -> Result<Told, WorkflowLogError<Q::Error>> {
        let state = self.state()?;
        if !self.still_stands(stood)? {
            return Ok(Told::Stale);
        }
        let Some(first) = platform.first() else {
            return Ok(Told::Stored(0));
        };
        match reconcile(&self.latest_run()?, workflow, platform, self.redact)? {
            Reconciled::Missing(facts) => return self.tell_end(stood, &facts, now),
            Reconciled::EarlierRun => return Ok(Told::Stale),
            Reconciled::LaterRun => {}
        }
        let mut facts = vec![workflow_started(workflow, first.timestamp)?];
        // Of its steps nothing is known, so they stay untold.
        if let Reconciled::Missing(ends) =
            reconcile(&KnownRun::default(), workflow, platform, self.redact)?
        {
            facts.extend(ends);
        }
        let next = state.run + 1;
        let restarted = restarted(next, first.timestamp)?;
        let first_alive = self.end_lifetimes(state.generation)?;
        let facts = facts.iter().map(EventRef::from).collect();
        self.store_done(first_alive, next, Some(&restarted), facts, Some(now))
            .map(Told::Stored)
    }

    /// The latest run as the log has it, without reports and attributes, which can be large. Facts
    /// that are none of a step, which a Worker may tell under any name, are left out.
    fn latest_run(&self) -> Result<KnownRun, WorkflowLogError<Q::Error>> {
        let mut run = KnownRun::default();
        let mut after = None;
        loop {
            let page = self.target.store().read_now(after, PageLimit::default())?;
            for event in &page.events {
                after = Some(event.id);
                run.apply(event);
            }
            if page.events.is_empty() || after == page.head {
                return Ok(run);
            }
        }
    }

    /// Appends facts of a run, behind `restarted` if they begin it, and stores the mark in the same transaction.
    fn store(
        &self,
        writer: u64,
        run: u32,
        restarted: Option<&NewEvent>,
        batch: Vec<EventRef<'_>>,
        mark: Option<Mark>,
    ) -> Result<usize, WorkflowLogError<Q::Error>> {
        let prefix = format!("{run}/");
        let mut facts = Vec::with_capacity(batch.len() + 1);
        facts.extend(restarted.map(EventRef::from));
        for event in batch {
            let event = event.with_key_prefix(&prefix);
            event.key.ok_or(WorkflowLogError::Key)?;
            event.check()?;
            facts.push(event);
        }
        let beside = mark.map(Mark::statements).unwrap_or_default();
        let outcomes = self.target.store().append_with(&facts, writer, beside)?;
        self.target.observing().appended(&outcomes);
        let stored = |outcome: &&Appended| matches!(outcome, Appended::Stored(_));
        let stored = outcomes.iter().filter(stored).count();
        if mark.is_some() && stored > 0 {
            self.lifetimes()?.mark = mark;
        }
        Ok(stored)
    }

    /// Returns what is known of lifetimes, from memory and from the log.
    fn lifetimes(
        &self,
    ) -> Result<impl std::ops::DerefMut<Target = Lifetimes> + '_, WorkflowLogError<Q::Error>> {
        let store = self.target.store();
        let writer = store.writer()?;
        if lock(&self.lifetimes).mark.is_none() && store.head()?.is_some() {
            // From before this value was made.
            let (mark, run) = (Mark::read(store.sql())?, self.run()?);
            lock(&self.lifetimes).remember(mark, run, writer);
        }
        let mut lifetimes = lock(&self.lifetimes);
        lifetimes.first_alive = lifetimes.first_alive.max(writer);
        lifetimes.newest = lifetimes.newest.max(writer);
        Ok(lifetimes)
    }

    /// Returns the target to subscribe to the events.
    #[must_use]
    pub fn target(&self) -> &SseTarget<NewEvent, SqliteEventStore<Q>> {
        &self.target
    }

    /// Returns the run that the log is in, from 1.
    pub(super) fn run(&self) -> Result<u32, WorkflowLogError<Q::Error>> {
        let runs = self.target.store().keys(RUNS)?;
        // Numbers are padded, so the last in the order of strings is the greatest.
        match runs.last() {
            None => Ok(1),
            Some(run) => {
                let run = run.strip_suffix(DELETED).unwrap_or(run);
                run.parse().map_err(|_| SqliteError::Row.into())
            }
        }
    }
}

/// The end of the key of a run's first event.
const ANNOUNCED: &str = "-1.workflow:started";

fn restarted(run: u32, now: SystemTime) -> Result<NewEvent, InvalidEvent> {
    let timestamp = clock::iso(now);
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
