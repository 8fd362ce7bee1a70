//! Ends the log of a run that is over without having said so. Runs in the Worker, beside a viewer's stream.

use std::time::Duration;

use cloudflare_workflows::__private::sleep;
use cloudflare_workflows::{InstanceState, InstanceStatus, WorkflowError};

use super::namespace::WorkflowEventsNamespace;
use crate::cloudflare::command::{InstanceEnd, LogCommand};
use crate::cloudflare::instance_end::{instance_end, platform_log};

impl WorkflowEventsNamespace {
    /// Returns the state of an instance that has no events, or `None` if there is no such instance or
    /// [`ask_for_unknown`](Self::ask_for_unknown) was not set.
    pub(super) async fn state_of_unknown(
        &self,
        instance_id: &str,
    ) -> Result<Option<InstanceState>, WorkflowError> {
        if !self.asks_for_unknown {
            return Ok(None);
        }
        let status = self.status(instance_id).await?;
        Ok(status.map(|status| status.state))
    }

    /// Ends the log of a run that is over, if its own code did not, and takes back the announcement of an instance
    /// that was never created. Asks twice if the platform may not know the instance yet.
    pub(super) async fn settle(&self, instance_id: &str) {
        for _ in 0..2 {
            match self.settle_once(instance_id).await {
                Ok(Settled::Now) => return,
                // Perhaps it is being created.
                Ok(Settled::TooEarly) => sleep(TOO_EARLY).await,
                Err(error) => {
                    worker::console_warn!(
                        "ssetarget: whether a run has ended is not known: {error}"
                    );
                    return;
                }
            }
        }
    }

    /// Asks once, and ends the log if the run is over.
    async fn settle_once(&self, instance_id: &str) -> Result<Settled, String> {
        let Some(workflow) = &self.workflow else {
            return Ok(Settled::Now);
        };
        let end = async || {
            let end = instance_end(workflow, instance_id).await;
            end.map_err(|error| error.to_string())
        };
        let Some(ended) = end().await? else {
            return Ok(Settled::Now);
        };
        let stood = self.command(instance_id, &LogCommand::State).await?.state;
        if stood.ended || stood.empty {
            return Ok(Settled::Now);
        }
        let platform = platform_log(workflow, instance_id, &ended).await;
        // Asked again now that the state of the log is known: the instance may have been restarted in between, and
        // that run is not over.
        let Some(end) = end().await? else {
            return Ok(Settled::Now);
        };
        let is_missing = end == InstanceEnd::Missing;
        let command = LogCommand::Settle {
            stood: Some((stood.run, stood.generation)),
            workflow: self.workflow_name.clone(),
            end,
            platform,
        };
        let answer = self.command(instance_id, &command).await?;
        Ok(if is_missing && !answer.changed {
            Settled::TooEarly
        } else {
            Settled::Now
        })
    }

    /// Returns the platform's status of an instance, `None` for one that it does not know.
    async fn status(&self, instance_id: &str) -> Result<Option<AnyStatus>, WorkflowError> {
        let Some(workflow) = &self.workflow else {
            return Ok(None);
        };
        let status = async {
            let instance = workflow.get(instance_id).await?;
            instance.status_without_output().await
        };
        match status.await {
            Ok(status) => Ok(Some(status)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether the end of a run is settled.
enum Settled {
    Now,
    /// The platform does not know the instance, which may be about to be created.
    TooEarly,
}

/// A little longer than the platform may not know an instance that is being created.
const TOO_EARLY: Duration = Duration::from_secs(32);

type AnyStatus = InstanceStatus<()>;
