//! Asking the platform how a run is, where the run itself did not say.

use std::time::Duration;

use cloudflare_workflows::__private::{Payloads, PlatformLog};
use cloudflare_workflows::{
    InstanceState, InstanceStatus, Runtime, WorkersRuntime, Workflow, WorkflowError,
    WorkflowInstanceEvent,
};
use serde::{Deserialize, Serialize};
use worker::Storage;

use super::command::InstanceEnd;
use super::log::WorkflowLog;
use super::object::to_error;
use super::sql::ObjectSql;
use crate::workflow::read_ended_run;

/// An instance and whom to ask about it.
pub(super) struct Asked<'a> {
    pub(super) binding: Workflow,
    pub(super) name: &'a str,
    pub(super) instance: &'a str,
}

impl Asked<'_> {
    /// How it has ended, if it has. States that the platform may leave again are no ends.
    pub(super) async fn end(&self) -> Result<Option<InstanceEnd>, WorkflowError> {
        end(&self.binding, self.instance).await
    }
}

/// How an instance has ended, if it has.
pub(super) async fn end(
    workflow: &Workflow,
    instance: &str,
) -> Result<Option<InstanceEnd>, WorkflowError> {
    // What a run has returned need not be readable here, and would be an error if it were not nothing.
    let status = async { workflow.get(instance).await?.status_without_output().await };
    let status: InstanceStatus<()> = match status.await {
        Ok(status) => status,
        Err(error) if error.is_not_found() => return Ok(Some(InstanceEnd::Missing)),
        Err(error) => return Err(error),
    };
    Ok(match status.state {
        InstanceState::Complete => Some(InstanceEnd::Completed),
        InstanceState::Terminated => Some(InstanceEnd::Terminated),
        InstanceState::Errored => {
            let message = status.error.map(|error| error.message);
            Some(InstanceEnd::Failed(message))
        }
        _ => None,
    })
}

/// The platform's own log of an instance that has ended in this way, for
/// [`WorkflowLog::settle`]; empty if there is none or it cannot be had whole.
pub(super) async fn platform_log(
    workflow: &Workflow,
    instance: &str,
    end: &InstanceEnd,
) -> Vec<WorkflowInstanceEvent> {
    if *end == InstanceEnd::Missing {
        return Vec::new();
    }
    let log = PlatformLog::new(workflow, instance, Payloads::default());
    read_ended_run(&log, &WorkersRuntime).await
}

/// Ends the log of a run that the platform says is over, at the object itself. Returns whether the
/// log was changed.
///
/// The platform is asked twice, around looking where the log stands and reading the platform's own log:
/// if the instance is restarted in between, the second answer is not of the run that the log is in, or a
/// lifetime has opened the log since.
pub(super) async fn settle(
    log: &WorkflowLog<ObjectSql>,
    asked: &Asked<'_>,
) -> worker::Result<bool> {
    let Some(end) = asked.end().await? else {
        return Ok(false);
    };
    let stood = log.state().map_err(to_error)?;
    let platform = platform_log(&asked.binding, asked.instance, &end).await;
    let Some(end) = asked.end().await? else {
        return Ok(false);
    };
    let stood = Some((stood.run, stood.generation));
    let settled = log.settle(stood, asked.name, &end, &platform, WorkersRuntime.now());
    Ok(settled.map_err(to_error)?)
}

/// That the platform is to be asked. Kept in storage, since an object without viewers does not stay
/// in memory until its alarm.
#[derive(Serialize, Deserialize)]
pub(super) struct Pending {
    /// The object's name, which it may not know in an alarm.
    pub(super) object: String,
    /// How often it was asked.
    tries: u32,
}

const KEY: &str = "settle";
/// An instance that fails needs a moment until its status says so.
const FIRST: Duration = Duration::from_secs(3);
/// It is asked after 3, 6, 12 ... seconds, the last time after about an hour and a half. An instance that
/// goes on tells its log so itself.
const TRIES: u32 = 11;

impl Pending {
    pub(super) fn new(object: String) -> Self {
        Self { object, tries: 0 }
    }

    pub(super) async fn due(storage: &Storage) -> worker::Result<Option<Self>> {
        storage.get(KEY).await
    }
}

/// Sets the alarm, unless the run has ended, whose alarm is for the log's retention, or the
/// platform was asked often enough.
pub(super) async fn later(
    storage: &Storage,
    log: &WorkflowLog<ObjectSql>,
    mut pending: Pending,
) -> worker::Result<()> {
    let state = log.state().map_err(to_error)?;
    if state.ended || state.empty || pending.tries >= TRIES {
        return over(storage).await;
    }
    let delay = FIRST * 2_u32.pow(pending.tries);
    pending.tries += 1;
    storage.put(KEY, pending).await?;
    // Not over the alarm of a run that has ended in the meantime.
    if !log.state().map_err(to_error)?.ended {
        storage.set_alarm(delay).await?;
    }
    Ok(())
}

/// The platform is not to be asked any more.
pub(super) async fn over(storage: &Storage) -> worker::Result<()> {
    storage.delete(KEY).await.map(drop)
}
