//! Carries out the commands of the Worker on the log. Runs in the object; pure, and tested natively.

use std::time::{Duration, SystemTime};

use super::log::{Announced, WorkflowLog, WorkflowLogError};
use crate::clock;
use crate::cloudflare::command::{InstanceEnd, LogAnswer, LogCommand};
use crate::store::Sql;
use crate::task::RedactedField;
use crate::task::TERMINATED;
use crate::workflow::ended_run::EngineEvent;
use crate::workflow::{RUN_FAILED, Told, workflow_ended, workflow_started};

/// How long an instance may be unknown to the platform after its newest event. Later an announced one counts as never
/// created, and any other as gone.
const MISSING_AFTER: Duration = Duration::from_secs(30);

/// The error that viewers see for an instance that is gone.
const MISSING: &str = "the instance does not exist any more";

impl<Q: Sql> WorkflowLog<Q> {
    /// Carries out a command. `now` is the time.
    ///
    /// # Errors
    /// As the methods that the commands name.
    pub fn obey(
        &self,
        command: &LogCommand,
        now: SystemTime,
    ) -> Result<LogAnswer, WorkflowLogError<Q::Error>> {
        let state = self.state()?;
        let answer = |changed, restarting| LogAnswer {
            state,
            changed,
            restarting,
        };
        Ok(match command {
            LogCommand::State => LogAnswer {
                state: self.stands(now)?,
                ..answer(false, false)
            },
            LogCommand::Links { .. } => answer(false, false),
            LogCommand::Announce { workflow, time, .. } => {
                let started = workflow_started(workflow, clock::from_milliseconds(*time))?;
                match self.announce(&started, now)? {
                    Announced::New { stored } => answer(stored, false),
                    Announced::Known(_) => answer(false, true),
                }
            }
            LogCommand::TakeBack => answer(self.take_back()?, false),
            LogCommand::BeginRestart => {
                self.begin_restart(now)?;
                answer(false, true)
            }
            LogCommand::ConfirmRestart {
                stood,
                workflow,
                time,
            } => {
                let started = workflow_started(workflow, clock::from_milliseconds(*time))?;
                answer(self.confirm_restart(*stood, &started, now)?, false)
            }
            LogCommand::CancelRestart => {
                self.cancel_restart()?;
                answer(false, false)
            }
            LogCommand::Delete => answer(self.delete()?, false),
            LogCommand::Settle {
                stood,
                workflow,
                end,
                platform,
            } => answer(self.settle(*stood, workflow, end, platform, now)?, false),
        })
    }

    /// Ends the latest run as the platform says that it has ended, if its own code has not. `stood` is where the
    /// log [stood](Self::stands) before the platform was asked: nothing is changed if a lifetime may have opened the log
    /// since, because then the run goes on, or is another. An announced instance that the platform does not know half a minute later was
    /// not created: its announcement is taken back. Returns whether anything was changed.
    ///
    /// `platform` is the platform's own log of the instance, from its beginning to the run's end, as `read_ended_run`
    /// reads it, or empty. If it is there, it says how the run ended, and supplies the ends of steps that have begun
    /// and not ended in this log, in its order, without `attributes` and with its timestamps. If it is of a run that
    /// began after the latest one of this log, the instance was restarted and nobody announced it: the next run
    /// begins, and ends. Nothing is changed if it does not come to an end, because the run goes on, or if it ended
    /// before the latest run of this log began.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub fn settle(
        &self,
        stood: Option<(u32, u64)>,
        workflow: &str,
        end: &InstanceEnd,
        platform: &[EngineEvent],
        now: SystemTime,
    ) -> Result<bool, WorkflowLogError<Q::Error>> {
        let state = self.state()?;
        let is_old = || {
            let age = state.newest.map(|newest| now.duration_since(newest));
            age.is_some_and(|age| age.unwrap_or_default() >= MISSING_AFTER)
        };
        let outcome = match end {
            InstanceEnd::Missing if state.ended || !is_old() => return Ok(false),
            InstanceEnd::Missing if state.announced => {
                return Ok(self.still_stands(stood)? && self.take_back()?);
            }
            InstanceEnd::Missing => Err(MISSING),
            InstanceEnd::Completed => Ok(()),
            InstanceEnd::Terminated => Err(TERMINATED),
            InstanceEnd::Failed(message) => Err(message.as_deref().unwrap_or(RUN_FAILED)),
        };
        // A log without events has no run to end.
        if state.empty {
            return Ok(false);
        }
        let outcome = outcome.map_err(|error| match self.redact {
            Some(rule) => rule.apply(RedactedField::Error, error),
            None => error.into(),
        });
        let outcome = outcome.as_ref().map_err(AsRef::as_ref).copied();
        let told = match platform.last() {
            None => self.tell_end(stood, &[workflow_ended(workflow, outcome, now)?], now)?,
            // It cannot be compared with only a part of our own log.
            Some(last) if last.is_terminal() && !self.has_whole_run()? => {
                self.tell_end(stood, &[workflow_ended(workflow, outcome, now)?], now)?
            }
            Some(last) if last.is_terminal() => {
                self.tell_missing(stood, workflow, platform, now)?
            }
            Some(_) => return Ok(false),
        };
        Ok(matches!(told, Told::Stored(1..)))
    }
}
