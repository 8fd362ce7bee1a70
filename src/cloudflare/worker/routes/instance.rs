//! `GET /<id>/instance/sse`. Runs in the Worker.

use std::time::Duration;

use cloudflare_workflows::__private::sleep;
use cloudflare_workflows::Workflow;
use futures_util::future::LocalBoxFuture;
use worker::Response;

use super::{Call, Route};
use crate::access::Grant;
use crate::cloudflare::refuse::refuse_to;
use crate::cloudflare::worker::namespace::WorkflowEventsNamespace;
use crate::cloudflare::worker::serve_instance::{InstanceSse, serve_instance_granted};
use crate::run_path::RunPath;

/// The platform's own log of the run.
pub(in crate::cloudflare::worker) struct InstanceRoute {
    pub(in crate::cloudflare::worker) workflow: Workflow,
    pub(in crate::cloudflare::worker) options: InstanceSse,
}

impl Route for InstanceRoute {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        path.tail == "/instance/sse"
    }

    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>> {
        Box::pin(async move {
            let grant = call.grant.unwrap_or_default();
            if let Err(refusal) = call.not_revoked(grant).await {
                return refuse_to(call.request, refusal);
            }
            let options = self.options.clone();
            let revoked = revoked(call.events, call.id, grant);
            let Self { workflow, .. } = self;
            serve_instance_granted(call.request, call.id, workflow, options, grant, revoked).await
        })
    }
}

/// How often the run's object is asked, beside an open stream of the platform's log, whether the viewer's link was revoked.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Returns a future that resolves within half a minute after the link was revoked; `None` for a viewer without one.
fn revoked(
    events: &WorkflowEventsNamespace,
    id: &str,
    grant: Grant,
) -> Option<LocalBoxFuture<'static, ()>> {
    grant.generation?;
    let (events, id) = (events.clone(), id.to_owned());
    Some(Box::pin(async move {
        loop {
            sleep(ASK_AGAIN).await;
            // One that cannot be reached is asked again.
            if events
                .status_of(&id, grant)
                .await
                .is_ok_and(|status| status == 401)
            {
                return;
            }
        }
    }))
}
