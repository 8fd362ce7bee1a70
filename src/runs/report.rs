//! When the log of a run reports to the index, and what is still to be reported.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::entry::{RunEntry, RunFold};
use crate::event::StoredEvent;
use crate::workflow::{RunEstimate, RunState};

/// A report of a run's log to an index: the run as it stands, or its removal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// The id of the instance.
    pub id: String,
    /// Grows with each report of a log.
    pub version: u64,
    /// When the run began, in milliseconds since 1970. A log that was deleted with everything known of it begins with
    /// a small version again, but later.
    pub began: u64,
    /// When the entry is removed, together with the log, in milliseconds since 1970; `None` if it stays.
    pub expires: Option<u64>,
    /// The run; `None` if its log was deleted.
    pub entry: Option<RunEntry>,
    /// How long its tasks took, in milliseconds, if it completed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub took: BTreeMap<String, u64>,
    /// Whether the answer is to have the [estimates](RunEstimate) for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
}

/// The state of a run's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stands {
    /// The greatest id that was assigned; 0 for none.
    pub head: u64,
    /// Whether the run has ended.
    pub ended: bool,
    /// Now, in milliseconds since 1970.
    pub now: u64,
}

/// The memory of a run's log about its reports. Kept with the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reporter {
    /// The object's name, which the object may not know in an alarm.
    pub object: String,
    /// The tags of the run.
    pub tags: Vec<String>,
    /// The fold of the log so far.
    pub fold: RunFold,
    /// Whether the log was deleted on request, and has no new event since.
    pub removed: bool,
    /// The version that every index has.
    told: u64,
    /// The contents of that version: the run and its state.
    shown: Option<(u32, RunState)>,
    /// When that version was reported, in milliseconds since 1970.
    at: u64,
    /// When to look again, if something is to be reported.
    pub due: Option<u64>,
    /// The number of reports in a row that were not taken.
    tries: u32,
    /// How long the run and its tasks are expected to take, and of which run the index was asked so.
    pub estimate: Option<RunEstimate>,
    asked: u32,
}

/// The least time between two reports of changed states.
const STATES: u64 = 5_000;
/// The least time between two reports that differ only in the latest task and its progress.
const PROGRESS: u64 = 30_000;
/// How long the answer to a report may take before the report is repeated.
const PATIENCE: u64 = 10_000;
/// The longest pause before a report is repeated.
const LONGEST: u64 = 15 * 60_000;

/// The most tags of a run.
pub(crate) const MAX_TAGS: usize = 4;

/// Returns whether a run can have this tag: 1 to 64 letters, digits, `-`, `_` and `.`.
#[must_use]
pub(crate) fn is_tag(tag: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=64).contains(&tag.len()) && tag.bytes().all(allowed)
}

impl Reporter {
    /// Returns a reporter that has reported nothing.
    #[must_use]
    pub fn new(object: String) -> Self {
        Self {
            object,
            ..Self::default()
        }
    }

    fn version(&self, head: u64) -> u64 {
        match self.removed {
            true => (head * 2 + 1).max(self.told + 1 - self.told % 2),
            false => head * 2,
        }
    }

    /// Returns when something is to be reported; `None` if every index is up to date.
    #[must_use]
    pub fn wanted(&self, stands: Stands) -> Option<u64> {
        let is_told = match self.removed {
            true => self.told % 2 == 1,
            false => self.told == self.version(stands.head),
        };
        // A log that looks as if it had never existed has nothing to report: its entry goes by itself.
        let is_nothing = match self.removed {
            true => self.told == 0,
            false => stands.head == 0,
        };
        if is_told || is_nothing {
            return None;
        }
        if self.tries > 0 {
            // Also after the clock was set back.
            let due = self.due.unwrap_or(stands.now);
            return Some(due.min(stands.now + LONGEST));
        }
        if self.told == 0 || stands.ended || self.removed {
            return Some(stands.now);
        }
        let after = match self.is_small_change() {
            true if self.fold.cursor >= stands.head => PROGRESS,
            _ => STATES,
        };
        // As above.
        Some((self.at + after).min(stands.now + after))
    }

    /// Returns whether no index was told of this log: nothing has to be kept for its removal.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.told == 0
    }

    fn is_small_change(&self) -> bool {
        self.shown == Some((self.fold.run(), self.fold.state()))
    }

    /// Reads the next events of the log.
    pub fn apply(&mut self, events: &[StoredEvent]) {
        for event in events {
            self.fold.apply(event);
        }
    }

    /// Returns the report that is to be made now. It counts as failed until [`is_told`](Self::is_told) is called:
    /// store this value, and set an alarm for [`due`](Self::due), before you make the report.
    pub fn report(&mut self, stands: Stands, retention: Option<u64>) -> Option<RunReport> {
        let (workflow, id) = self.object.split_once('/')?;
        let entry = self.fold.entry(id, workflow, &self.tags);
        let ended = self.fold.ended().filter(|_| stands.ended);
        let completed = !self.removed && entry.state == RunState::Completed;
        let goes_on = !self.removed && ended.is_none() && !entry.state.has_ended();
        let report = RunReport {
            asks: goes_on && self.asked != entry.run,
            took: match completed {
                true => self.fold.took().clone(),
                false => BTreeMap::new(),
            },
            id: id.to_owned(),
            version: self.version(stands.head),
            began: self.fold.began(),
            expires: ended.zip(retention).map(|(ended, age)| ended + age),
            entry: (!self.removed).then_some(entry),
        };
        self.due = Some(stands.now + PATIENCE);
        Some(report)
    }

    /// Notes that every index has this report.
    pub fn is_told(&mut self, report: &RunReport, now: u64) {
        self.told = report.version;
        let shown = report.entry.as_ref();
        self.shown = shown.map(|entry| (entry.run, entry.state));
        (self.at, self.due, self.tries) = (now, None, 0);
    }

    /// Notes what the index said to a report that asked.
    pub fn is_answered(&mut self, report: &RunReport, estimate: Option<RunEstimate>) {
        let asked = report.entry.as_ref().filter(|_| report.asks);
        if let Some(entry) = asked {
            self.asked = entry.run;
            self.estimate = estimate.filter(|estimate| !estimate.is_empty());
        }
    }

    /// Notes that an index did not take the report.
    pub fn has_failed(&mut self, now: u64) {
        let pause = 1_000_u64 << self.tries.min(10);
        self.tries = self.tries.saturating_add(1);
        self.due = Some(now + pause.min(LONGEST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::event::EventId;

    /// A log, an index that takes reports or does not, and an alarm.
    #[derive(Default)]
    struct Run {
        reporter: Reporter,
        head: u64,
        ended: bool,
        now: u64,
        down: bool,
        told: Vec<(u64, Option<RunState>)>,
        asked: Vec<u32>,
        log: Vec<StoredEvent>,
    }

    impl Run {
        fn new() -> Self {
            Self {
                reporter: Reporter::new("order/o-1".to_owned()),
                now: 1_000_000,
                ..Self::default()
            }
        }

        fn stands(&self) -> Stands {
            Stands {
                head: self.head,
                ended: self.ended,
                now: self.now,
            }
        }

        fn add(&mut self, event_type: &str, data: &str) {
            self.head += 1;
            self.reporter.removed = false;
            let event = StoredEvent {
                id: EventId::new(self.head).unwrap(),
                event_type: event_type.to_owned(),
                data: data.to_owned(),
                timestamp: clock::from_milliseconds(self.now),
            };
            self.log.push(event);
            self.work();
        }

        /// Reads the new events of the log.
        fn fold(&mut self) {
            let read = usize::try_from(self.reporter.fold.cursor).unwrap();
            self.reporter.apply(&self.log[read.min(self.log.len())..]);
        }

        /// Does what an object does after an append, and in an alarm.
        fn work(&mut self) {
            while let Some(at) = self.reporter.wanted(self.stands()) {
                if at > self.now {
                    self.reporter.due = Some(at);
                    break;
                }
                self.fold();
                if self.reporter.wanted(self.stands()).unwrap_or(at) > self.now {
                    continue;
                }
                let report = self.reporter.report(self.stands(), None).unwrap();
                // The object dies here now and then: only what was stored is left.
                let stored = serde_json::to_string(&self.reporter).unwrap();
                self.reporter = serde_json::from_str(&stored).unwrap();
                if self.down {
                    self.reporter.has_failed(self.now);
                    break;
                }
                let state = report.entry.as_ref().map(|entry| entry.state);
                self.told.push((report.version, state));
                if report.asks {
                    self.asked.push(report.entry.as_ref().unwrap().run);
                    self.reporter
                        .is_answered(&report, Some(RunEstimate::default()));
                }
                self.reporter.is_told(&report, self.now);
            }
        }

        /// Lets alarms go off up to this time.
        fn pass(&mut self, milliseconds: u64) {
            let end = self.now + milliseconds;
            while let Some(due) = self.reporter.due.filter(|due| *due <= end) {
                self.now = due.max(self.now + 1);
                self.work();
            }
            self.now = end;
        }
    }

    const STARTED: &str = r#"{"taskId":"order-1.workflow","kind":"workflow"}"#;
    const STEP: &str = r#"{"taskId":"a-1","step":"a","kind":"do"}"#;
    const WAIT: &str = r#"{"taskId":"w","step":"w","kind":"waitForEvent"}"#;

    #[test]
    fn a_short_run_makes_two_reports() {
        let mut run = Run::new();
        run.add("started", STARTED);
        for _ in 0..50 {
            run.add("started", STEP);
            run.add("completed", STEP);
            run.pass(10);
        }
        run.ended = true;
        run.add("completed", STARTED);
        run.pass(100_000);
        let states: Vec<_> = run.told.iter().map(|(_, state)| *state).collect();
        assert_eq!(states, [Some(RunState::Running), Some(RunState::Completed)]);
        assert_eq!(run.reporter.wanted(run.stands()), None);
    }

    #[test]
    fn states_come_after_seconds_and_progress_after_more() {
        let mut run = Run::new();
        run.add("started", STARTED);
        run.pass(1_000);
        run.add("started", WAIT);
        run.pass(10_000);
        assert_eq!(run.told.len(), 2);
        assert_eq!(run.told[1].1, Some(RunState::Waiting));
        run.add("completed", WAIT);
        run.pass(20_000);
        assert_eq!(run.told.len(), 3);
        // An hour of progress, twice a second.
        for _ in 0..7_200 {
            run.add("progress", r#"{"taskId":"a-1","percent":1}"#);
            run.pass(500);
        }
        let reports = run.told.len() - 3;
        assert!((115..=121).contains(&reports), "{reports}");
        let versions: Vec<_> = run.told.iter().map(|(version, _)| *version).collect();
        assert!(versions.is_sorted());
    }

    #[test]
    fn each_run_asks_once_how_long_it_takes() {
        let mut run = Run::new();
        run.down = true;
        run.add("started", STARTED);
        run.down = false;
        run.pass(60_000);
        for _ in 0..5 {
            run.add("started", STEP);
            run.add("completed", STEP);
            run.pass(60_000);
        }
        assert_eq!(run.asked, [1]);
        // What says nothing is not kept.
        assert_eq!(run.reporter.estimate, None);
        run.add("restarted", r#"{"run":2}"#);
        run.add("started", STARTED);
        run.pass(60_000);
        assert_eq!(run.asked, [1, 2]);
        // One that was over before anybody was told does not ask.
        let mut run = Run::new();
        run.down = true;
        run.add("started", STARTED);
        run.ended = true;
        run.add("completed", STARTED);
        run.down = false;
        run.pass(60_000);
        assert_eq!((run.told.len(), run.asked.len()), (1, 0));
    }

    #[test]
    fn a_report_that_fails_is_sent_until_it_succeeds() {
        let mut run = Run::new();
        run.down = true;
        run.add("started", STARTED);
        run.ended = true;
        run.add("failed", STARTED);
        run.pass(3 * 60 * 60_000);
        assert!(run.told.is_empty());
        assert!(run.reporter.due.unwrap() <= run.now + LONGEST);
        run.down = false;
        run.pass(LONGEST);
        assert_eq!(run.told, [(4, Some(RunState::Failed))]);
        run.pass(LONGEST);
        assert_eq!(run.told.len(), 1);
    }

    #[test]
    fn a_clock_that_was_ahead_delays_no_report_for_longer_than_the_longest_pause() {
        let mut run = Run::new();
        run.down = true;
        run.now += 60 * 60_000;
        run.add("started", STARTED);
        run.now -= 60 * 60_000;
        run.down = false;
        run.ended = true;
        run.add("failed", STARTED);
        run.pass(LONGEST);
        assert_eq!(run.told, [(4, Some(RunState::Failed))]);
    }

    #[test]
    fn a_deleted_log_is_reported_once_and_then_a_new_run() {
        let mut run = Run::new();
        run.add("started", STARTED);
        run.reporter.removed = true;
        run.work();
        run.pass(60_000);
        assert_eq!(run.told, [(2, Some(RunState::Running)), (3, None)]);
        run.add("restarted", r#"{"run":2}"#);
        run.add("started", STARTED);
        run.pass(60_000);
        let last = run.told.last().unwrap();
        assert_eq!(*last, (6, Some(RunState::Running)));
        // An announced run that was not created: its log looks as if it had never existed.
        let mut run = Run::new();
        run.add("started", STARTED);
        run.head = 0;
        run.reporter.removed = true;
        run.work();
        assert_eq!(run.told.last(), Some(&(3, None)));
        // Nobody was notified of it.
        let mut run = Run::new();
        run.reporter.removed = true;
        run.work();
        assert!(run.told.is_empty());
    }

    #[test]
    fn a_log_that_ages_out_is_no_report() {
        let mut run = Run::new();
        run.ended = true;
        run.add("completed", STARTED);
        assert_eq!(run.told.len(), 1);
        // The head stays, the events are gone; at last the storage is deleted.
        assert_eq!(run.reporter.wanted(run.stands()), None);
        run.head = 0;
        assert_eq!(run.reporter.wanted(run.stands()), None);
    }

    #[test]
    fn tags_are_short_words() {
        for tag in ["a", "customer-7", "team_a.b", &"x".repeat(64)] {
            assert!(is_tag(tag), "{tag}");
        }
        for tag in ["", "a b", "a/b", "a:b", "*", "é", &"x".repeat(65)] {
            assert!(!is_tag(tag), "{tag}");
        }
    }
}
