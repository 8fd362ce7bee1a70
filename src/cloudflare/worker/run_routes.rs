//! The routes of a run. Runs in the Worker.

use std::fmt;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use worker::{Request, Response, web_sys};

use cloudflare_workflows::Workflow;

use super::asked::Asked;
use super::cors::with_cors;
use super::namespace::WorkflowEventsNamespace;
#[cfg(feature = "durable-streams")]
use super::routes::DurableStreamRoute;
#[cfg(feature = "otlp")]
use super::routes::TraceRoute;
use super::routes::{
    Answers, AssetsRoute, Call, DeleteRoute, EventsRoute, InstanceRoute, MergedRoute, PageRoute,
    Route, has,
};
use super::serve_instance::InstanceSse;
use crate::access::{Access, AccessRequest, Grant, Permission};
use crate::cloudflare::refuse::refuse_to;
use crate::cors::{Cors, InvalidCors};
use crate::page::serve::FramedBy;
use crate::refusal::Refusal;
use crate::run_path::{self, RunPath};

/// Serves the runs of a workflow: their events, and everything else that is switched on. Leaves other requests alone.
///
/// | path | switched on by | what it is |
/// |---|---|---|
/// | `GET /<id>/sse` | always | the run's events: see [`serve_sse`](super::serve_sse) |
/// | `GET /sse?run=<id>&run=<id>` | [`merged`](Self::merged) | the events of several runs in one stream |
/// | `GET /sse?tag=<tag>` | `merged_by_tag`, with the feature `index` | the events of all runs with a tag in one stream |
/// | `GET /runs`, `GET /runs/sse` | `runs`, with the feature `index` | the list of all runs, and what changes in it |
/// | `GET /<id>`, for browsers | [`page`](Self::page) | the live page of the run; its files are at `GET /ssetarget/<file>` |
/// | `GET /<id>`, for programs | `snapshots`, with the feature `snapshots` | the run as it stands, as JSON |
/// | `POST /<id>/event` | [`answers`](Self::answers) | sends an event that the run waits for |
/// | `POST /<id>/session` | `links` | gives a browser a cookie for the token of a link |
/// | `GET /<id>/stream` | `durable_streams`, with the feature `durable-streams` | the run's events in the Durable Streams protocol |
/// | `GET /<id>/otlp` | `trace`, with the feature `otlp` | the run's trace |
/// | `DELETE /<id>` | [`deletion`](Self::deletion) | deletes the run's log |
/// | `GET /<id>/instance/sse` | [`instance_log`](Self::instance_log) | the platform's own log of the run |
///
/// A route that is not switched on is not linked into the Worker.
///
/// ```no_run
/// use ssetarget::cloudflare::{RunRoutes, WorkflowEventsNamespace};
/// use worker::{Env, Request, Response};
///
/// async fn fetch(request: Request, env: Env) -> worker::Result<Response> {
///     let events = WorkflowEventsNamespace::from_env(&env, "WORKFLOW_EVENTS", "order")?;
///     let runs = RunRoutes::new(events).prefix("/orders").page();
///     if let Some(response) = runs.serve(&request).await? {
///         return Ok(response);
///     }
///     Response::error("no such page", 404) // other routes
/// }
/// ```
///
/// **Who may**: everybody who knows an id, unless there is a [hook](Self::access).
#[derive(Clone)]
pub struct RunRoutes {
    events: WorkflowEventsNamespace,
    prefix: String,
    cors: Option<(Cors, WithCors)>,
    access: Option<Hook>,
    is_private: bool,
    routes: Vec<Rc<dyn Route>>,
}

/// The answer for pages of other origins. A pointer, so that only a Worker that calls [`cors`](RunRoutes::cors) has its code.
type WithCors = for<'a> fn(
    &'a Cors,
    &'a web_sys::Request,
    LocalBoxFuture<'a, worker::Result<Response>>,
) -> LocalBoxFuture<'a, worker::Result<Response>>;

type Hook = Rc<dyn Fn(&AccessRequest<'_>) -> LocalBoxFuture<'static, Permission>>;

impl RunRoutes {
    /// Returns routes that serve these events at `/<id>/sse`, to everybody.
    #[must_use]
    pub fn new(events: WorkflowEventsNamespace) -> Self {
        Self {
            events,
            prefix: String::new(),
            cors: None,
            access: None,
            is_private: false,
            routes: vec![Rc::new(EventsRoute)],
        }
    }

    /// Sets the part of each path before the id, like `/orders`. Default: nothing.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = run_path::prefix(prefix);
        self
    }

    /// Lets pages of other origins ask, and answers their preflights. Default: none do.
    #[must_use]
    pub fn cors(mut self, cors: Cors) -> Self {
        self.cors = Some((cors, |cors, request, response| {
            Box::pin(with_cors(cors, request, response))
        }));
        self
    }

    /// Sets the hook that decides about each request before anything else. A refused request gets the same `401`,
    /// whatever the id is, and no object is called. Default: everybody may do everything that is switched on.
    #[must_use]
    pub fn access(mut self, hook: impl Access + 'static) -> Self {
        self.is_private = !hook.is_public();
        self.access = Some(Rc::new(move |request| Box::pin(hook.decide(request))));
        self
    }

    /// Lets clients send the events that a run waits for: `POST /<id>/event`. See [`Answers`]. Default: they cannot.
    #[must_use]
    pub fn answers(self, answers: Answers) -> Self {
        self.with(answers)
    }

    /// Serves the live page of each run at `/<id>`, to clients that accept `text/html`, and its files under
    /// `/ssetarget/`. It uses the other routes that are switched on: it begins with the snapshot, has buttons to
    /// answer with, and takes links. It may not be framed: see [`page_framed_by`](Self::page_framed_by). Default:
    /// there is no page.
    ///
    /// Its status is `404` if there is no such run. With links, whose tokens only the page itself can read, a client
    /// without permission gets the page, too. It is then the same for every id, and does not reveal whether there is
    /// such a run.
    #[must_use]
    pub fn page(self) -> Self {
        self.with(PageRoute::default()).with(AssetsRoute)
    }

    /// Serves the page as [`page`](Self::page) does, for pages of these origins (and `'self'`) to show in a frame.
    ///
    /// # Errors
    /// [`InvalidCors`] for a string that no browser has as an origin.
    pub fn page_framed_by(
        self,
        origins: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, InvalidCors> {
        let framed_by = FramedBy::new(origins)?;
        Ok(self.with(PageRoute { framed_by }).with(AssetsRoute))
    }

    /// Lets clients delete a run's log with `DELETE /<id>`, if the [hook](Self::access) grants it
    /// [`Action::Delete`](crate::access::Action::Delete): `204`, and `404` if there was none. Without a hook, and with
    /// [`Public`](crate::access::Public), everybody is refused. See
    /// [`WorkflowEventsNamespace::delete_log`]. Pages of other origins need
    /// [`Cors::allow_methods`] with `DELETE`, too. Default: clients cannot.
    #[must_use]
    pub fn deletion(self) -> Self {
        self.with(DeleteRoute)
    }

    /// Serves the events of several runs in one stream, at `/sse?run=<id>&run=<id>`: see
    /// [`serve_merged`](super::serve_merged). The hook decides about every run; if it refuses one, all are refused. A
    /// run whose id is `sse` then has no page and no snapshot. Default: it is not served.
    #[must_use]
    pub fn merged(self) -> Self {
        self.with(MergedRoute)
    }

    /// Serves the events of all runs with a tag in one stream, at `/sse?tag=<tag>` (feature `index`): see
    /// [`serve_tagged`](super::serve_tagged). It serves `/sse?run=<id>&run=<id>`, too, as [`merged`](Self::merged) does. The
    /// hook is asked about `tag:<tag>`, as for the list of the tag's runs. Default: it is not served.
    #[cfg(feature = "index")]
    #[must_use]
    pub fn merged_by_tag(mut self, index: crate::cloudflare::RunIndexNamespace) -> Self {
        // Before the route for runs that are named, which has the same path.
        let route = super::routes::TaggedRoute { index };
        self.routes.insert(0, Rc::new(route));
        self
    }

    /// Serves snapshots of the runs, as JSON, at `/<id>` (feature `snapshots`): see
    /// [`serve_snapshot`](super::serve_snapshot). Default: they are not served.
    #[cfg(feature = "snapshots")]
    #[must_use]
    pub fn snapshots(self) -> Self {
        self.with(super::routes::SnapshotRoute)
    }

    /// Serves the platform's own log of a run at `/<id>/instance/sse`: see
    /// [`serve_instance_sse`](super::serve_instance_sse). Default: it is not served.
    #[must_use]
    pub fn instance_log(self, workflow: Workflow, options: InstanceSse) -> Self {
        self.with(InstanceRoute { workflow, options })
    }

    /// Serves the run only to those who have a link to it: the links are the [hook](Self::access). A page sends a
    /// link's token to `POST /<id>/session` (feature `links`).
    #[cfg(feature = "links")]
    #[must_use]
    pub fn links(self, links: crate::access::CapabilityLinks) -> Self {
        let session = super::routes::SessionRoute {
            links: links.clone(),
        };
        self.access(links).with(session)
    }

    /// Serves the run at `/<id>/stream` for clients of the Durable Streams protocol (feature `durable-streams`),
    /// read-only, to everybody who may watch it: see `http::Sse::durable_stream`. `404` for an instance that has no
    /// events. Default: it is not served.
    #[cfg(feature = "durable-streams")]
    #[must_use]
    pub fn durable_streams(self) -> Self {
        self.with(DurableStreamRoute)
    }

    /// Serves the trace of a run at `/<id>/otlp` (feature `otlp`), to everybody who may watch the run: see
    /// [`serve_otlp`](super::serve_otlp). Default: it is not served.
    #[cfg(feature = "otlp")]
    #[must_use]
    pub fn trace(self) -> Self {
        self.with(TraceRoute)
    }

    /// Serves the list of all runs at `/runs`, its changes at `/runs/sse` (feature `index`), and the files of the
    /// table `<workflow-runs>` under `/ssetarget/`: see [`serve_runs`](crate::cloudflare::serve_runs) and
    /// [`serve_runs_sse`](crate::cloudflare::serve_runs_sse). The hook is asked about the id `*`, or `tag:<tag>`. The
    /// run whose id is `runs` then has no page, snapshot or stream. Default: they are not served.
    #[cfg(feature = "index")]
    #[must_use]
    pub fn runs(self, index: crate::cloudflare::RunIndexNamespace) -> Self {
        self.with(super::routes::RunsRoute { index })
            .with(super::routes::RunsAssetsRoute)
    }

    fn with(mut self, route: impl Route + 'static) -> Self {
        self.routes.push(Rc::new(route));
        self
    }

    /// Returns the response if the request is for one of these routes, and `None` if it is for another path.
    ///
    /// Another method on a path that is served gets `405`. Reads the request's body only where a route takes one.
    ///
    /// # Errors
    /// When a response cannot be made.
    pub async fn serve(&self, request: &Request) -> worker::Result<Option<Response>> {
        self.respond(request).await
    }

    /// Boxed, and in no caller: otherwise it would be part of the handler's own poll function, which the runtime optimizes as a
    /// whole if it is polled often, for 0.2 s of CPU.
    #[inline(never)]
    fn respond<'a>(
        &'a self,
        request: &'a Request,
    ) -> LocalBoxFuture<'a, worker::Result<Option<Response>>> {
        Box::pin(async move {
            let path = request.path();
            let Some((path, routes)) = self.find(&path) else {
                return Ok(None);
            };
            let request = request.inner();
            let response: LocalBoxFuture<'_, _> = Box::pin(async {
                match self.admit(request, path, &routes).await {
                    Ok((route, admitted)) => route.serve(admitted.call(self, request, path)).await,
                    Err(refusal) => refuse_to(request, refusal),
                }
            });
            let response = match &self.cors {
                Some((cors, with_cors)) => with_cors(cors, request, response),
                None => response,
            };
            response.await.map(Some)
        })
    }

    /// Returns the same response as [`serve`](Self::serve), as the runtime has it: for a handler that takes the
    /// runtime's request and returns its response, so that neither is taken apart and put together again. Where many
    /// viewers come at once, each costs less.
    ///
    /// ```ignore
    /// #[event(fetch)]
    /// async fn fetch(request: web_sys::Request, env: Env, _context: Context) -> Result<web_sys::Response> {
    ///     let runs = RunRoutes::new(WorkflowEventsNamespace::from_env(&env, "EVENTS", "orders")?);
    ///     if let Some(response) = runs.serve_raw(&request).await? {
    ///         return Ok(response);
    ///     }
    ///     Ok(Response::error("there is nothing here", 404)?.into())
    /// }
    /// ```
    ///
    /// The headers of a response that an object has made cannot be set.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub async fn serve_raw(
        &self,
        request: &web_sys::Request,
    ) -> worker::Result<Option<web_sys::Response>> {
        self.respond_raw(request).await
    }

    /// As [`respond`](Self::respond).
    #[inline(never)]
    fn respond_raw<'a>(
        &'a self,
        request: &'a web_sys::Request,
    ) -> LocalBoxFuture<'a, worker::Result<Option<web_sys::Response>>> {
        Box::pin(async move {
            let url = request.url();
            let Some((path, routes)) = self.find(path_of(&url)) else {
                return Ok(None);
            };
            if self.cors.is_some() {
                let request = Clone::clone(request).into();
                return Ok(self.respond(&request).await?.map(Into::into));
            }
            let response = match self.admit(request, path, &routes).await {
                Ok((route, admitted)) => {
                    let call = admitted.call(self, request, path);
                    route.serve_raw(call).await?
                }
                Err(refusal) => refuse_to(request, refusal)?.into(),
            };
            Ok(Some(response))
        })
    }

    /// Returns the routes that are at this path.
    #[inline(never)]
    fn find<'a>(&'a self, path: &'a str) -> Option<(RunPath<'a>, Vec<&'a dyn Route>)> {
        let path = RunPath::parse(&self.prefix, path)?;
        let routes = self.routes.iter().map(|route| &**route);
        let routes: Vec<&dyn Route> = routes.filter(|route| route.is_at(&path)).collect();
        let of_many = routes.iter().copied().filter(|route| route.is_of_many());
        let of_many: Vec<&dyn Route> = of_many.collect();
        let routes = if of_many.is_empty() { routes } else { of_many };
        (!routes.is_empty()).then_some((path, routes))
    }

    /// Chooses a route, and asks the hook about the request.
    async fn admit<'a>(
        &'a self,
        request: &web_sys::Request,
        path: RunPath<'_>,
        routes: &[&'a dyn Route],
    ) -> Result<(&'a dyn Route, Admitted), Refusal> {
        let (route, id) = self.route_of(request, path, routes)?;
        let grant = match self.decide(request, &id, route) {
            Some(decision) => Grant::from_permission(decision.await),
            None => Ok(Grant::default()),
        };
        let grant = match grant {
            Err(refusal) if !route.is_open(has(&self.routes, "/session", None)) => {
                return Err(refusal);
            }
            grant => grant.ok(),
        };
        Ok((route, Admitted { id, grant }))
    }

    /// Returns the route that takes this request, and the instance's id.
    #[inline(never)]
    fn route_of<'a>(
        &self,
        request: &web_sys::Request,
        path: RunPath<'_>,
        routes: &[&'a dyn Route],
    ) -> Result<(&'a dyn Route, String), Refusal> {
        let method = request.method();
        // Of a single one there is nothing to choose.
        let accept = match routes {
            [_] => None,
            _ => request.headers().get("accept").ok().flatten(),
        };
        let Some(route) = choose(routes, &method, accept.as_deref()) else {
            let allow = allowed(routes);
            return Err(Refusal::Method { allow });
        };
        if self.is_private && self.is_forged(request, &method) {
            return Err(Refusal::Origin);
        }
        // An id that cannot be decoded is not an instance's either.
        let id = match path.encoded_id.contains('%') {
            true => js_sys::decode_uri_component(path.encoded_id).map(String::from),
            false => Ok(path.encoded_id.to_owned()),
        };
        Ok((route, id.unwrap_or_default()))
    }

    /// Asks the hook, if there is one and the route needs a permission.
    #[inline(never)]
    fn decide(
        &self,
        request: &web_sys::Request,
        id: &str,
        route: &dyn Route,
    ) -> Option<LocalBoxFuture<'static, Permission>> {
        let (hook, action) = (self.access.as_ref()?, route.action()?);
        let asked = Asked::from_request(request);
        Some(hook(&asked.about(
            Some(&self.events.workflow_name),
            id,
            action,
        )))
    }

    /// Returns whether the request changes something and comes from a page of another origin that is not
    /// [listed](Self::cors). Its browser may have added a cookie that the page knows nothing of. A request with an
    /// `Authorization` header was not made by such a page.
    #[inline(never)]
    fn is_forged(&self, request: &web_sys::Request, method: &str) -> bool {
        let header = |name| request.headers().get(name).ok().flatten();
        let Some(origin) = header("origin").filter(|_| !["GET", "HEAD"].contains(&method)) else {
            return false;
        };
        let url = request.url();
        let is_own = url
            .strip_prefix(&origin)
            .is_some_and(|rest| rest.starts_with('/'));
        let is_listed = self
            .cors
            .as_ref()
            .is_some_and(|(cors, _)| cors.lists(&origin));
        !is_own && !is_listed && header("authorization").is_none()
    }
}

/// A request that a route serves: its run, and what it may do.
struct Admitted {
    id: String,
    grant: Option<Grant>,
}

impl Admitted {
    fn call<'a>(
        &'a self,
        routes: &'a RunRoutes,
        request: &'a web_sys::Request,
        path: RunPath<'a>,
    ) -> Call<'a> {
        Call {
            request,
            id: &self.id,
            tail: path.tail,
            prefix: &routes.prefix,
            routes: &routes.routes,
            events: &routes.events,
            hook: routes.access.as_deref(),
            grant: self.grant,
            is_private: routes.is_private,
        }
    }
}

/// Returns the path of a request's URL, which the runtime has parsed and written anew.
fn path_of(url: &str) -> &str {
    let behind = url.split_once("://").map_or(url, |(_, behind)| behind);
    let path = behind.find('/').map_or("/", |slash| &behind[slash..]);
    path.split(['?', '#']).next().unwrap_or(path)
}

impl fmt::Debug for RunRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunRoutes")
            .field("events", &self.events)
            .field("prefix", &self.prefix)
            .field("cors", &self.cors.as_ref().map(|(cors, _)| cors))
            .field("has_access", &self.access.is_some())
            .finish_non_exhaustive()
    }
}

/// Returns the route that takes this method. Of several, it is the one whose media type is accepted, otherwise the
/// one with JSON, which programs expect.
#[inline(never)]
fn choose<'a>(
    routes: &[&'a dyn Route],
    method: &str,
    accept: Option<&str>,
) -> Option<&'a dyn Route> {
    let takes = |route: &&&dyn Route| route.methods().split(", ").any(|each| each == method);
    let routes: Vec<&dyn Route> = routes.iter().filter(takes).copied().collect();
    let of = |wanted: &dyn Fn(&str) -> bool| {
        let mut routes = routes.iter().copied();
        routes.find(|route| route.media_type().is_some_and(wanted))
    };
    let accepted = accept.and_then(|accept| of(&|media_type| accept.contains(media_type)));
    accepted
        .or_else(|| of(&|media_type| media_type == "application/json"))
        .or(routes.first().copied())
}

/// Returns the methods of all routes of a path, as in `Allow`.
fn allowed(routes: &[&dyn Route]) -> &'static str {
    let methods = routes.iter().map(|route| route.methods());
    let (reads, other): (Vec<_>, Vec<_>) = methods.partition(|methods| methods.starts_with("GET"));
    match (reads.first(), other.first()) {
        (Some(_), Some(&"DELETE")) => "GET, HEAD, DELETE",
        (Some(only), _) | (None, Some(only)) => only,
        (None, None) => "",
    }
}
