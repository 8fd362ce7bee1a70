//! Asks the platform how an instance has ended. Runs in the Worker and in the object.

use cloudflare_workflows::__private::{Payloads, PlatformEvents, PlatformLog};
use cloudflare_workflows::{
    InstanceState, InstanceStatus, WorkersRuntime, Workflow, WorkflowError,
};

use futures_util::future::LocalBoxFuture;

use super::command::InstanceEnd;
use crate::workflow::ended_run::{EngineEvent, EngineEvents, ended_run_options, read_ended_run};

/// Returns how an instance has ended, or `None` while it goes on. States that the platform may leave again are not
/// ends. Boxed, like the next one, since it is awaited at many places.
pub(super) fn instance_end<'a>(
    workflow: &'a Workflow,
    instance: &'a str,
) -> LocalBoxFuture<'a, Result<Option<InstanceEnd>, WorkflowError>> {
    Box::pin(async move {
        // The output of a run may not be readable here. It is left out, since it would be an error.
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
    })
}

/// Returns the platform's own log of an instance that has ended in this way, for settling the run; empty if there is
/// none or if it cannot be read as a whole.
pub(super) fn platform_log<'a>(
    workflow: &'a Workflow,
    instance: &'a str,
    end: &'a InstanceEnd,
) -> LocalBoxFuture<'a, Vec<EngineEvent>> {
    Box::pin(async move {
        if *end == InstanceEnd::Missing {
            return Vec::new();
        }
        let log = PlatformLog::new(workflow, instance, Payloads::default());
        let subscribe = async { log.open(&ended_run_options()).await.ok().map(Brief) };
        read_ended_run(subscribe, &WorkersRuntime).await
    })
}

struct Brief(PlatformEvents);

impl EngineEvents for Brief {
    async fn next_json(&mut self) -> Option<String> {
        self.0.next_brief().await.ok().flatten()
    }
}
