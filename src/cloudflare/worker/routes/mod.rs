//! The routes of [`RunRoutes`](super::RunRoutes), a file for each. Runs in the Worker.
//!
//! Each is a boxed future behind a trait object, and is named only by the builder's method that switches it on, so
//! that a Worker that does not call the method has none of its code.

mod answers;
mod delete;
#[cfg(feature = "durable-streams")]
mod durable_stream;
mod events;
mod instance;
mod merged;
mod page;
#[cfg(feature = "index")]
mod runs;
#[cfg(feature = "links")]
mod session;
#[cfg(feature = "snapshots")]
mod snapshot;
#[cfg(feature = "index")]
mod tagged;
#[cfg(feature = "otlp")]
mod trace;

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use worker::{Response, web_sys};

pub use self::answers::Answers;
pub(super) use self::delete::DeleteRoute;
#[cfg(feature = "durable-streams")]
pub(super) use self::durable_stream::DurableStreamRoute;
pub(super) use self::events::EventsRoute;
pub(super) use self::instance::InstanceRoute;
pub(super) use self::merged::MergedRoute;
pub(super) use self::page::{AssetsRoute, PageRoute};
#[cfg(feature = "index")]
pub(super) use self::runs::{RunsAssetsRoute, RunsRoute};
#[cfg(feature = "links")]
pub(super) use self::session::SessionRoute;
#[cfg(feature = "snapshots")]
pub(super) use self::snapshot::SnapshotRoute;
#[cfg(feature = "index")]
pub(super) use self::tagged::TaggedRoute;
#[cfg(feature = "otlp")]
pub(super) use self::trace::TraceRoute;
use super::namespace::WorkflowEventsNamespace;
use super::serve_merged::Decide;
use crate::access::{Action, Grant};
use crate::cloudflare::refuse::unreachable;
use crate::refusal::Refusal;
use crate::run_path::RunPath;

pub(super) const READ: &str = "GET, HEAD";

/// A route of a run.
pub(super) trait Route {
    /// Returns whether the path is this route's.
    fn is_at(&self, path: &RunPath<'_>) -> bool;

    /// Returns the methods that are taken, as in `Allow`. Default: those for reading.
    fn methods(&self) -> &'static str {
        READ
    }

    /// Returns the action that the hook is asked about, or `None` for a route that gives nothing of a run. Default:
    /// to watch.
    fn action(&self) -> Option<Action> {
        Some(Action::Watch)
    }

    /// Returns whether a request that the hook refuses is still served, with no grant. `takes_links` is whether it
    /// may have a link that is not exchanged yet. Default: no.
    fn is_open(&self, takes_links: bool) -> bool {
        let _ = takes_links;
        false
    }

    /// Returns whether the route is about many runs. It has precedence over those of a run whose id is its path.
    /// Default: no.
    fn is_of_many(&self) -> bool {
        false
    }

    /// Returns the type of the response, if several routes share a path and a method.
    fn media_type(&self) -> Option<&'static str> {
        None
    }

    /// Returns the response to a request with one of the methods.
    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>>;

    /// As [`serve`](Self::serve), with the runtime's own response.
    fn serve_raw<'a>(
        &'a self,
        call: Call<'a>,
    ) -> LocalBoxFuture<'a, worker::Result<web_sys::Response>> {
        Box::pin(async move { Ok(self.serve(call).await?.into()) })
    }
}

/// A request for a route.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) request: &'a web_sys::Request,
    /// The id in the path, decoded: empty if that is not possible.
    pub(super) id: &'a str,
    /// The part of the path after the id.
    pub(super) tail: &'a str,
    /// The part of every path before the id.
    pub(super) prefix: &'a str,
    /// All routes that are switched on.
    pub(super) routes: &'a [Rc<dyn Route>],
    pub(super) events: &'a WorkflowEventsNamespace,
    /// Decides about each request. If there is none, everybody may do everything.
    pub(super) hook: Option<Decide<'a>>,
    /// `None` only where the route [is open](Route::is_open) and the hook refused.
    pub(super) grant: Option<Grant>,
    /// Only some clients may see the run, so shared caches may keep nothing of it.
    pub(super) is_private: bool,
}

impl Call<'_> {
    /// Returns whether runs have a route at this tail, with responses of this media type.
    fn has(&self, tail: &str, media_type: Option<&str>) -> bool {
        has(self.routes, tail, media_type)
    }

    /// Asks the run's object whether the link of the request, if it has one, was revoked: for routes that do not ask
    /// the object for events anyway.
    async fn not_revoked(&self, grant: Grant) -> Result<(), Refusal> {
        if grant.generation.is_none() {
            return Ok(());
        }
        let status = self.events.status_of(self.id, grant).await;
        match status.map_err(|error| unreachable(&error))? {
            401 => Err(Refusal::NotAllowed),
            _ => Ok(()),
        }
    }
}

/// Returns whether one of these routes is at this tail, with responses of this media type.
pub(super) fn has(routes: &[Rc<dyn Route>], tail: &str, media_type: Option<&str>) -> bool {
    let path = RunPath {
        encoded_id: "-",
        tail,
    };
    let mut routes = routes.iter();
    routes.any(|route| route.is_at(&path) && route.media_type() == media_type)
}
