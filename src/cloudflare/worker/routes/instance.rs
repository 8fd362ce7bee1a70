//! `GET /<id>/instance/sse`. Runs in the Worker.

use cloudflare_workflows::Workflow;
use futures_util::future::LocalBoxFuture;
use worker::Response;

use super::{Call, Route};
use crate::cloudflare::refuse::refuse_to;
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
            serve_instance_granted(call.request, call.id, &self.workflow, options, grant).await
        })
    }
}
