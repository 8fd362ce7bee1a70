//! How an instance has ended, asked from the platform. Runs in the Worker and in the object.

use cloudflare_workflows::{InstanceState, InstanceStatus, Workflow, WorkflowError};

use super::command::InstanceEnd;

/// Returns how an instance has ended, `None` while it goes on. States that the platform may leave again are
/// no ends.
pub(super) async fn instance_end(
    workflow: &Workflow,
    instance: &str,
) -> Result<Option<InstanceEnd>, WorkflowError> {
    let status = async { workflow.get(instance).await?.status().await };
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
