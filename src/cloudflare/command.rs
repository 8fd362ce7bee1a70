//! What is done to an instance's log from outside its workflow: by whoever creates, restarts or ends
//! the instance, in one call each.

use std::time::{Duration, SystemTime};

use cloudflare_workflows::WorkflowInstanceEvent;
use serde::{Deserialize, Serialize};

use super::log::{Announced, LogState, WorkflowLog, WorkflowLogError};
use crate::clock;
use crate::store::Sql;
use crate::workflow::{RUN_FAILED, TERMINATED, Told, workflow_ended, workflow_started};

/// A call to the log of an instance, and what it needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum LogCommand {
    /// Says where the log stands.
    State,
    /// See [`WorkflowLog::announce`].
    Announce {
        /// The workflow's name.
        workflow: String,
        /// Milliseconds since 1970.
        time: u64,
    },
    /// See [`WorkflowLog::take_back`].
    TakeBack,
    /// See [`WorkflowLog::begin_restart`].
    BeginRestart,
    /// See [`WorkflowLog::confirm_restart`].
    ConfirmRestart {
        /// Where the log stood when the restart began.
        stood: (u32, u64),
        /// The workflow's name.
        workflow: String,
        /// Milliseconds since 1970, from before the restart.
        time: u64,
    },
    /// See [`WorkflowLog::cancel_restart`].
    CancelRestart,
    /// Ends the latest run: see [`WorkflowLog::settle`].
    Settle {
        /// Where the log stood when the platform was asked; none: wherever it stands.
        stood: Option<(u32, u64)>,
        /// The workflow's name.
        workflow: String,
        /// How it ended.
        end: InstanceEnd,
        /// The platform's own log of it, as [`read_ended_run`](super::read_ended_run) reads it; empty
        /// if it is not known.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        platform: Vec<WorkflowInstanceEvent>,
    },
}

/// How the platform says that an instance has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InstanceEnd {
    /// Its run returned.
    Completed,
    /// Its run failed, with this message if there is one.
    Failed(Option<String>),
    /// It was terminated.
    Terminated,
    /// The platform has no such instance.
    Missing,
}

/// What came of a [`LogCommand`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogAnswer {
    /// Where the log stood, before the call changed it.
    pub state: LogState,
    /// Whether the call changed what the log has.
    pub changed: bool,
    /// Whether a restart is to be confirmed or cancelled.
    pub restarting: bool,
}

/// An announced instance that the platform does not know after this long was not created; any
/// other that it does not know is gone. Until then the platform may not have heard of it yet.
const MISSING_AFTER: Duration = Duration::from_secs(30);

/// What viewers are told of an instance that is gone.
const MISSING: &str = "the instance does not exist any more";

impl<Q: Sql> WorkflowLog<Q> {
    /// Does what was asked for. `now` is the time.
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
            LogCommand::State => answer(false, false),
            LogCommand::Announce { workflow, time } => {
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
            LogCommand::Settle {
                stood,
                workflow,
                end,
                platform,
            } => answer(self.settle(*stood, workflow, end, platform, now)?, false),
        })
    }

    /// Ends the latest run as the platform says that it has ended, if its own code has not. With where
    /// the log stood before the platform was asked, only if no lifetime has opened it since: then
    /// the run goes on, or is another. An announced instance that the platform does not know half a
    /// minute later was not created: its announcement is taken back. Returns whether
    /// anything was changed.
    ///
    /// `platform` is the platform's own log of the instance, from its beginning to the run's end, as
    /// [`read_ended_run`](super::read_ended_run) reads it, or empty. Where it is there, it says how the run
    /// ended, and in its order the ends are told, too, of those steps that the log has begun and not ended:
    /// without `attributes`, and with its timestamps. If it is of a run that began after the latest one
    /// of this log, the instance was restarted and nobody told: the next run begins, and ends. If it does
    /// not come to an end, the run goes on, and nothing is changed; nor if it ended before the latest run
    /// of this log began.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub fn settle(
        &self,
        stood: Option<(u32, u64)>,
        workflow: &str,
        end: &InstanceEnd,
        platform: &[WorkflowInstanceEvent],
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
                let same = stood.is_none_or(|stood| stood == (state.run, state.generation));
                return Ok(same && self.take_back()?);
            }
            InstanceEnd::Missing => Err(MISSING),
            InstanceEnd::Completed => Ok(()),
            InstanceEnd::Terminated => Err(TERMINATED),
            InstanceEnd::Failed(message) => Err(message.as_deref().unwrap_or(RUN_FAILED)),
        };
        // A log that nothing was told of is none to be ended.
        if state.empty {
            return Ok(false);
        }
        let told = match platform.last() {
            None => self.tell(stood, &[workflow_ended(workflow, outcome, now)?])?,
            Some(last) if last.is_terminal() => self.tell_missing(stood, workflow, platform)?,
            Some(_) => return Ok(false),
        };
        Ok(matches!(told, Told::Stored(1..)))
    }
}
