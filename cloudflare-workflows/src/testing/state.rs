//! The state of a fake engine: the part that is stored, and the part that a lifetime's end drops.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime};

use crate::step::kind::StepKind;
use futures_util::future::LocalBoxFuture;
use serde_json::Value;

use super::{FakeRunError, FakeStepRecord, Replay};
use crate::step::error::{StepError, StepErrorKind};

pub(super) struct State {
    pub(super) records: RefCell<Vec<FakeStepRecord>>,
    pub(super) replay: Cell<Replay>,
    pub(super) now: Cell<SystemTime>,
    pub(super) began: SystemTime,
    /// The results that steps of a name return without running.
    pub(super) results: RefCell<HashMap<String, VecDeque<Given>>>,
    /// Errors of the next attempts of steps of a name.
    pub(super) failures: RefCell<HashMap<String, VecDeque<(StepErrorKind, String)>>>,
    /// Events from outside, with the time at which each comes.
    pub(super) events: RefCell<Vec<(SystemTime, String, Given)>>,
    pub(super) lifetimes: Cell<u32>,
    pub(super) lifetime: RefCell<Lifetime>,
    /// Grows with each change of the stored part, to know whether a lifetime changed anything.
    pub(super) changes: Cell<u64>,
    /// The value of `changes` at the latest pause.
    paused: Cell<Option<u64>>,
    /// The number of pauses.
    pauses: Cell<u32>,
}

/// A value from a test, or the reason why it cannot cross to an engine.
pub(super) type Given = Result<Value, String>;

/// The part that a lifetime's end drops.
#[derive(Default)]
pub(super) struct Lifetime {
    pub(super) counts: HashMap<(StepKind, String), u32>,
    /// The number of steps that had begun before this lifetime.
    pub(super) known: usize,
    /// The steps that were called, as positions in the records.
    pub(super) called: Vec<usize>,
    /// A step lets others go first, and is not waiting.
    pub(super) passing: bool,
    /// The number of attempts under way.
    pub(super) running: u32,
    /// The lifetime ends once no attempt is under way.
    pub(super) ends: bool,
    /// A stored error was returned: then the later steps may differ.
    pub(super) failed: bool,
    /// The run is paused: the steps that wait have returned an error, and no step may begin.
    pub(super) suspended: bool,
    /// The run has ended in an earlier lifetime: no new step may begin.
    pub(super) complete: bool,
    pub(super) violation: Option<String>,
    pub(super) timers: BTreeMap<(SystemTime, usize), Option<Waker>>,
    pub(super) rollbacks: Vec<(usize, BoxedRollback)>,
}

pub(super) type BoxedRollback =
    Box<dyn Fn(StepError) -> LocalBoxFuture<'static, Result<(), StepError>>>;

impl Default for State {
    fn default() -> Self {
        // 2026-01-01T00:00:00Z, for every test.
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        Self {
            records: RefCell::default(),
            replay: Cell::default(),
            now: Cell::new(began),
            began,
            results: RefCell::default(),
            failures: RefCell::default(),
            events: RefCell::default(),
            lifetimes: Cell::new(0),
            lifetime: RefCell::default(),
            changes: Cell::new(0),
            paused: Cell::new(None),
            pauses: Cell::new(0),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stored {
    Value(Value),
    Bytes(Vec<u8>),
    Event { payload: Value, sent: SystemTime },
    Error(StepErrorKind, String),
}

impl State {
    pub(super) fn begin_lifetime(&self, complete: bool) {
        self.lifetimes.set(self.lifetimes.get() + 1);
        *self.lifetime.borrow_mut() = Lifetime {
            complete,
            known: self.records.borrow().len(),
            ..Lifetime::default()
        };
    }

    /// Checks that this lifetime did the same as those before it.
    pub(super) fn check(&self) -> Result<(), FakeRunError> {
        let lifetime = self.lifetime.borrow();
        let not_deterministic = |how: String| Err(FakeRunError::NotDeterministic(how));
        match &lifetime.violation {
            Some(went_on) if lifetime.suspended => {
                return Err(FakeRunError::IgnoredSuspension(went_on.clone()));
            }
            Some(violation) => return not_deterministic(violation.clone()),
            None => {}
        }
        if lifetime.failed {
            return Ok(());
        }
        let records = self.records.borrow();
        let mut begun = records.iter().take(lifetime.known).enumerate();
        let left_out = begun.find(|(index, _)| !lifetime.called.contains(index));
        match left_out {
            None => Ok(()),
            Some((_, record)) => {
                let called = lifetime
                    .called
                    .iter()
                    .filter_map(|index| records.get(*index));
                let called: Vec<_> = called.map(ToString::to_string).collect();
                let called = match called.is_empty() {
                    true => "nothing".to_owned(),
                    false => called.join(", "),
                };
                not_deterministic(format!(
                    "{record} had {} and was not called again in lifetime {}, which called {called}",
                    if record.stored.is_some() {
                        "ended"
                    } else {
                        "begun"
                    },
                    self.lifetimes.get(),
                ))
            }
        }
    }

    /// Advances the clock to the end of the first wait. Returns `false` if no step waits.
    pub(super) fn pass_time(&self) -> bool {
        let first = self.lifetime.borrow_mut().timers.pop_first();
        let Some(((due, _), waker)) = first else {
            return false;
        };
        self.now.set(self.now.get().max(due));
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Pauses the run, once for each wait: the steps that wait return an error. Returns `false` if none does.
    pub(super) fn pause(&self) -> bool {
        let mut lifetime = self.lifetime.borrow_mut();
        let changes = Some(self.changes.get());
        if lifetime.timers.is_empty() || self.paused.replace(changes) == changes {
            return false;
        }
        lifetime.suspended = true;
        self.pauses.set(self.pauses.get() + 1);
        for waker in std::mem::take(&mut lifetime.timers).into_values().flatten() {
            waker.wake();
        }
        true
    }

    /// Checks that a workflow that returns during a pause returns the error of the pause.
    pub(super) fn ended_in_pause<T>(&self, result: &Result<T, StepError>) {
        let mut lifetime = self.lifetime.borrow_mut();
        let how = match result {
            Err(error) if error.is_suspended() => return,
            Err(error) => format!("it failed with {:?} instead", error.message()),
            Ok(_) => "it returned a result instead".to_owned(),
        };
        lifetime.violation.get_or_insert(how);
    }

    /// Lets the other steps go first.
    pub(super) async fn pass(&self) {
        let mut passed = false;
        poll_fn(|context| {
            if std::mem::replace(&mut passed, true) {
                return Poll::Ready(());
            }
            self.lifetime.borrow_mut().passing = true;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Waits until the clock has reached `due`. It advances when every step waits.
    ///
    /// # Errors
    /// When the run is paused.
    pub(super) async fn sleep_until(&self, due: SystemTime, index: usize) -> Result<(), StepError> {
        poll_fn(|context| {
            if self.now.get() >= due {
                return Poll::Ready(Ok(()));
            }
            let mut lifetime = self.lifetime.borrow_mut();
            if lifetime.suspended {
                return Poll::Ready(Err(self.suspended()));
            }
            let waker = context.waker().clone();
            lifetime.timers.insert((due, index), Some(waker));
            Poll::Pending
        })
        .await
    }

    /// Notes the call of a step, and returns the position of its record, which is new if it has not begun
    /// before.
    pub(super) fn call(
        &self,
        kind: StepKind,
        name: &str,
        detail: &str,
    ) -> Result<usize, StepError> {
        let mut lifetime = self.lifetime.borrow_mut();
        if lifetime.suspended {
            lifetime.violation = Some(format!("it called {name:?} instead"));
            return Err(self.suspended());
        }
        let count = lifetime.counts.entry((kind, name.to_owned())).or_default();
        *count += 1;
        let count = *count;
        let mut records = self.records.borrow_mut();
        let found = records
            .iter()
            .position(|record| record.kind == kind && record.name == name && record.count == count);
        let index = found.unwrap_or(records.len());
        if let Some(record) = records.get(index) {
            if record.detail != detail {
                lifetime.violation = Some(format!(
                    "{record} was {} in an earlier lifetime and is {detail} in lifetime {}",
                    record.detail,
                    self.lifetimes.get(),
                ));
            }
        } else {
            records.push(FakeStepRecord::new(kind, name, count, detail));
            if lifetime.complete {
                lifetime.violation = Some(format!(
                    "{} began when a run that had ended was run again",
                    records[index]
                ));
            }
            drop(records);
            self.changed();
        }
        lifetime.called.push(index);
        match lifetime.violation {
            // The lifetime ends at the next check.
            Some(_) => Err(self.suspended()),
            None => Ok(index),
        }
    }

    pub(super) fn changed(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    pub(super) fn record<R>(
        &self,
        index: usize,
        change: impl FnOnce(&mut FakeStepRecord) -> R,
    ) -> Option<R> {
        self.records.borrow_mut().get_mut(index).map(change)
    }

    pub(super) fn stored(&self, index: usize) -> Option<Stored> {
        let stored = self.record(index, |record| record.stored.clone()).flatten();
        if matches!(stored, Some(Stored::Error(..))) {
            self.lifetime.borrow_mut().failed = true;
        }
        stored
    }

    /// Stores the end of a step. With [`Replay::Everywhere`] this lifetime ends, too.
    pub(super) async fn end(&self, index: usize, stored: Stored) -> Stored {
        self.record(index, |record| {
            record.result = Some(match &stored {
                Stored::Value(value) => Ok(value.clone()),
                Stored::Bytes(_) => Ok(Value::Null),
                Stored::Event { payload, .. } => Ok(payload.clone()),
                Stored::Error(_, message) => Err(message.clone()),
            });
            record.stored = Some(stored.clone());
            record.due = None;
        });
        self.changed();
        if self.replay.get() == Replay::Everywhere {
            self.lifetime.borrow_mut().ends = true;
            std::future::pending::<()>().await;
        }
        stored
    }

    /// Returns the error of a pause and that of a deploy by turns, with the engine's own messages.
    fn suspended(&self) -> StepError {
        let (kind, message) = match self.pauses.get() % 2 {
            1 => (
                StepErrorKind::Suspended,
                "Aborting engine: User called pause",
            ),
            _ => (
                StepErrorKind::Reset,
                "Durable Object reset because its code was updated.",
            ),
        };
        StepError::with_kind(kind, message)
    }

    pub(super) async fn roll_back(&self, error: &StepError) {
        let rollbacks = std::mem::take(&mut self.lifetime.borrow_mut().rollbacks);
        for (index, rollback) in rollbacks.into_iter().rev() {
            let error = StepError::with_kind(error.kind(), error.message());
            let result = rollback(error).await;
            let result = result.map_err(|error| error.message().to_owned());
            let failed = result.is_err();
            self.record(index, |record| record.rolled_back = Some(result));
            if failed {
                return;
            }
        }
    }
}

/// Counts an attempt that is under way.
pub(super) struct Running<'a>(&'a State);

impl<'a> Running<'a> {
    pub(super) fn new(state: &'a State) -> Self {
        state.lifetime.borrow_mut().running += 1;
        Self(state)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut lifetime = self.0.lifetime.borrow_mut();
        lifetime.running = lifetime.running.saturating_sub(1);
    }
}
