//! A pending export of the run's trace, and the purposes of an alarm beside it and beside the index of runs. Runs in
//! the object; pure, and tested natively.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long an export is tried, counted from the end of its run.
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// An alarm may be early by less than this.
const SLACK: u64 = 1_000;

/// A part of the log whose trace is still to be sent. Kept in storage, since an object does not stay in memory until
/// its alarm. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Export {
    /// The object's name, which the object may not know in an alarm.
    pub(super) object: String,
    /// The events after this one; 0 for all.
    pub(super) after: u64,
    /// The last event of the part, the end of a run.
    pub(super) until: u64,
    /// The number of requests that were accepted.
    pub(super) sent: u32,
    /// The number of tries since the run's end, or since a request was accepted.
    pub(super) tries: u32,
    /// When the run ended.
    pub(super) since: u64,
    /// When it is to be tried.
    pub(super) due: u64,
}

impl Export {
    /// Returns the export of a run that ended now with the event `until`. `known` is the pending export, of which
    /// this one becomes a part; `exported` is the last event of finished exports.
    #[must_use]
    pub(super) fn of_run(
        known: Option<Self>,
        exported: Option<u64>,
        object: &str,
        until: u64,
        now: u64,
    ) -> Self {
        // The requests of a run do not depend on what follows it, so sent ones stay sent.
        let (after, sent) = known
            .filter(|known| known.until <= until)
            .map_or((exported.unwrap_or_default(), 0), |known| {
                (known.after, known.sent)
            });
        Self {
            object: object.to_owned(),
            after,
            until,
            sent,
            tries: 0,
            since: now,
            due: now,
        }
    }

    /// Returns whether it is to be tried now.
    #[must_use]
    pub(super) fn is_due(&self, now: u64) -> bool {
        // Also after the clock was set back.
        self.due <= now.saturating_add(SLACK) || now < self.since
    }

    /// Notes a try before it is made. `wait` is the pause if it fails, or if the object dies in it.
    pub(super) fn is_tried(&mut self, wait: Duration, now: u64) {
        self.tries = self.tries.saturating_add(1);
        self.waits(wait, now);
    }

    /// Sets the time of the next try.
    pub(super) fn waits(&mut self, wait: Duration, now: u64) {
        self.due = now.saturating_add(milliseconds(wait));
    }

    /// Returns whether it was tried for long enough.
    #[must_use]
    pub(super) fn is_given_up(&self) -> bool {
        self.due > self.since.saturating_add(milliseconds(GIVE_UP_AFTER))
    }

    /// Returns the rest after everything up to `done` was sent: another run that ended in the meantime.
    #[must_use]
    pub(super) fn rest(mut self, done: u64, now: u64) -> Option<Self> {
        if self.until <= done {
            return None;
        }
        self.after = done;
        (self.sent, self.tries, self.due) = (0, 0, now);
        Some(self)
    }
}

/// The state of an object whose alarm goes off and which has, or had, an export to make, or an index to report to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// When the export is to be tried next; `None` if there is none.
    pub(super) export: Option<u64>,
    /// When something is to be reported to the index of runs; `None` if it is up to date.
    pub(super) index: Option<u64>,
    /// When the platform is to be asked how the run is.
    pub(super) settle: Option<u64>,
    /// The state of the log.
    pub(super) log: LogStands,
    /// Now.
    pub(super) now: u64,
}

/// The state of a log, for its alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogStands {
    /// The run goes on, or another one has begun.
    GoesOn,
    /// The run has ended, and the log is deleted at this time. `None` if it is kept.
    Ended(Option<u64>),
    /// The log is deleted, or never existed.
    Gone,
}

/// The action of an alarm after the export and the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Goes on as if there were no exports.
    GoOn,
    /// Goes on as if there were no exports, and forgets the export, whose log is gone or is about to be deleted.
    ForgetAndGoOn,
    /// Is set again for this time, or not at all.
    Wait(Option<u64>),
}

impl Standing {
    /// Returns the action of the alarm. An alarm that was set for an export or for the index must not delete a log
    /// before its time, and they must not lose an alarm that was set for something else.
    #[must_use]
    pub(super) fn then(self) -> Then {
        let is_due = |time: u64| time <= self.now.saturating_add(SLACK);
        let others = earlier(self.export, self.index);
        match self.log {
            LogStands::Gone => Then::ForgetAndGoOn,
            LogStands::Ended(Some(expires)) if is_due(expires) => Then::ForgetAndGoOn,
            LogStands::Ended(expires) => Then::Wait(earlier(others, expires)),
            LogStands::GoesOn if self.settle.is_some_and(is_due) => Then::GoOn,
            LogStands::GoesOn => Then::Wait(earlier(others, self.settle)),
        }
    }
}

/// Returns the earlier of two optional times.
pub(super) fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000;
    const DAY: u64 = 24 * 60 * 60 * 1_000;

    fn export(known: Option<Export>, exported: Option<u64>, until: u64) -> Export {
        Export::of_run(known, exported, "order/o-1", until, NOW)
    }

    #[test]
    fn each_run_is_exported_once() {
        let first = export(None, None, 20);
        assert_eq!(
            (first.after, first.until, first.sent, first.due),
            (0, 20, 0, NOW)
        );
        assert!(first.is_due(NOW));
        // The next one, after the first was sent; and of a run that was restarted before its end, both.
        assert_eq!(export(None, Some(20), 40).after, 20);
        assert_eq!(export(None, None, 40).after, 0);
        // The next one ends while the first is still to be sent.
        let mut tried = first.clone();
        tried.is_tried(Duration::from_secs(5), NOW);
        tried.sent = 1;
        let both = export(Some(tried.clone()), None, 40);
        assert_eq!(
            (both.after, both.until, both.sent, both.tries),
            (0, 40, 1, 0)
        );
        // It ends while the first is being sent.
        assert_eq!(first.clone().rest(20, NOW + 1), None);
        let rest = both.rest(20, NOW + 1).unwrap();
        assert_eq!(
            (rest.after, rest.until, rest.sent, rest.due),
            (20, 40, 0, NOW + 1)
        );
        // The ids of a deleted log begin again.
        let other = Export { until: 50, ..first };
        assert_eq!(export(Some(other), None, 3).until, 3);
    }

    #[test]
    fn it_is_given_up_after_a_day() {
        let mut export = export(None, None, 20);
        let (mut now, mut tries) = (NOW, 0);
        while !export.is_given_up() {
            assert!(
                export.is_due(now)
                    && !export.is_due(now.saturating_sub(2 * SLACK).max(NOW).min(now - 1))
                    || tries == 0
            );
            export.is_tried(Duration::from_secs(900), now);
            now = export.due;
            tries += 1;
        }
        assert_eq!((tries, export.tries), (97, 97));
        assert!(now > NOW + DAY && now <= NOW + DAY + 900_000);
        // A receiver that asks for more patience than a day.
        let mut export = Export::of_run(None, None, "order/o-1", 20, NOW);
        export.waits(Duration::from_secs(2 * 24 * 60 * 60), NOW);
        assert!(export.is_given_up());
        export.waits(Duration::MAX, NOW);
        assert!(export.is_given_up());
    }

    #[test]
    fn a_clock_that_is_set_back_puts_off_no_export() {
        let mut export = export(None, None, 20);
        export.is_tried(Duration::from_secs(60), NOW);
        assert!(!export.is_due(NOW + 58_000));
        assert!(export.is_due(NOW + 59_000) && export.is_due(NOW - 1));
    }

    /// Every combination of what an object may have to do.
    #[test]
    fn an_alarm_loses_nothing_and_is_never_early() {
        let times = [
            None,
            Some(NOW - DAY),
            Some(NOW),
            Some(NOW + 10_000),
            Some(NOW + DAY),
        ];
        let others = times
            .iter()
            .flat_map(|export| times.map(|index| (*export, index)));
        for (export, index) in others {
            for settle in times {
                let stands = times.map(LogStands::Ended);
                for log in stands
                    .into_iter()
                    .chain([LogStands::GoesOn, LogStands::Gone])
                {
                    let standing = Standing {
                        export,
                        index,
                        settle,
                        log,
                        now: NOW,
                    };
                    let then = standing.then();
                    let passed = |time: Option<u64>| time.is_some_and(|time| time <= NOW);
                    match log {
                        // Only a log whose time has come is deleted.
                        LogStands::Gone => assert_eq!(then, Then::ForgetAndGoOn),
                        LogStands::Ended(expires) => {
                            let wanted = match passed(expires) {
                                true => Then::ForgetAndGoOn,
                                false => Then::Wait(earlier(earlier(export, index), expires)),
                            };
                            assert_eq!(then, wanted, "{standing:?}");
                        }
                        LogStands::GoesOn => {
                            let wanted = match passed(settle) {
                                true => Then::GoOn,
                                false => Then::Wait(earlier(earlier(export, index), settle)),
                            };
                            assert_eq!(then, wanted, "{standing:?}");
                        }
                    }
                    // All pending work has its alarm.
                    if let Then::Wait(at) = then {
                        let expires = match log {
                            LogStands::Ended(expires) => expires,
                            _ => settle,
                        };
                        for due in [export, index, expires].into_iter().flatten() {
                            assert!(at.is_some_and(|at| at <= due), "{standing:?}");
                        }
                    }
                }
            }
        }
    }
}
