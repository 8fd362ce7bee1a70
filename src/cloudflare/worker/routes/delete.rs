//! `DELETE /<id>`. Runs in the Worker.

use futures_util::future::LocalBoxFuture;
use worker::{Response, ResponseBuilder};

use super::{Call, Route};
use crate::access::Action;
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse_to, unreachable};
use crate::refusal::Refusal;
use crate::run_path::RunPath;
use crate::wire::END_HEADERS;

/// The deletion of a run's log.
pub(in crate::cloudflare::worker) struct DeleteRoute;

impl DeleteRoute {
    async fn delete(&self, call: &Call<'_>) -> Result<(), Refusal> {
        // Nobody may delete unless a hook permits it.
        let grant = call.grant.filter(|_| call.is_private);
        call.not_revoked(grant.ok_or(Refusal::NotAllowed)?).await?;
        let deleted = call.events.delete_log(call.id).await;
        match deleted.map_err(|error| unreachable(&error))? {
            true => Ok(()),
            false => Err(UNKNOWN_INSTANCE),
        }
    }
}

impl Route for DeleteRoute {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        path.tail.is_empty()
    }

    fn methods(&self) -> &'static str {
        "DELETE"
    }

    fn action(&self) -> Option<Action> {
        Some(Action::Delete)
    }

    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>> {
        Box::pin(async move {
            if let Err(refusal) = self.delete(&call).await {
                return refuse_to(call.request, refusal);
            }
            let mut response = ResponseBuilder::new().with_status(204);
            for (name, value) in END_HEADERS {
                response = response.with_header(name, value)?;
            }
            Ok(response.empty())
        })
    }
}
