//! axum 0.8: a handler in one line, and CORS for `EventSource` (feature `axum`).
//!
//! ```
//! use axum::Router;
//! use ssetarget::{MemoryEventStore, NewEvent, SseTarget, axum::sse};
//!
//! let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
//! let app: Router = Router::new().route("/sse", sse(target));
//! ```
//!
//! One log for each id: [`Sse::route_with`]. In a handler of your own, [`Sse::respond`] gives the
//! response.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use ::axum::extract::{Path, Request};
use ::axum::response::{IntoResponse, Response};
use ::axum::routing::{MethodRouter, any};
use ::http::{HeaderName, HeaderValue, Method, Uri, header};
use serde::de::DeserializeOwned;
use tower_http::cors::CorsLayer;

use crate::http::{Sse, refuse};
use crate::refusal::Refusal;
use crate::store::EventStore;
use crate::target::SseTarget;

/// Serves the events of this log, as [`Sse::new`] does it.
pub fn sse<E, S, R>(target: SseTarget<E, S>) -> MethodRouter<R>
where
    E: 'static,
    S: EventStore + 'static,
    R: Clone + Send + Sync + 'static,
{
    Sse::new().route(target)
}

impl Sse {
    /// Serves the events of this log: see [`respond`](Self::respond).
    ///
    /// Answers every method, with `405` where it must. A further one is added as to any route:
    /// `sse.route(target).post(dispatch)`.
    pub fn route<E, S, R>(self, target: SseTarget<E, S>) -> MethodRouter<R>
    where
        E: 'static,
        S: EventStore + 'static,
        R: Clone + Send + Sync + 'static,
    {
        any(move |request: Request| self.respond(&target, &request))
    }

    /// Serves the events of the log that `lookup` finds for the path's parameters, or what it
    /// refuses the request with. It should store nothing: ids come from anybody.
    ///
    /// ```
    /// # use std::{collections::HashMap, sync::Arc};
    /// # use axum::Router;
    /// # use ssetarget::{MemoryEventStore, NewEvent, Refusal, SseTarget, http::Sse};
    /// # let jobs: Arc<HashMap<String, SseTarget<NewEvent, MemoryEventStore>>> = Arc::default();
    /// let events = Sse::new().route_with(move |id: String| {
    ///     let job = jobs.get(&id).cloned();
    ///     async move { job.ok_or(Refusal::NotFound("there is no such job")) }
    /// });
    /// let app: Router = Router::new().route("/{id}/sse", events);
    /// ```
    pub fn route_with<P, L, F, E, S, R>(self, lookup: L) -> MethodRouter<R>
    where
        P: DeserializeOwned + Send + 'static,
        L: Fn(P) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<SseTarget<E, S>, Refusal>> + Send + 'static,
        E: 'static,
        S: EventStore + 'static,
        R: Clone + Send + Sync + 'static,
    {
        any(async move |Path(parameters): Path<P>, request: Request| {
            match lookup(parameters).await {
                Ok(target) => self.respond(&target, &request).await,
                Err(refusal) => refuse(refusal),
            }
        })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        refuse::<std::convert::Infallible>(self).into_response()
    }
}

/// CORS for `EventSource`s on pages of these origins, with or without `withCredentials`.
///
/// What it does, with the sections of the [Fetch standard](https://fetch.spec.whatwg.org/) that
/// ask for it:
///
/// - An allowed origin is answered with itself in `Access-Control-Allow-Origin` and with
///   `Access-Control-Allow-Credentials: true`, never with `*`, which does not do for a request
///   with credentials ("CORS protocol and credentials", "CORS check").
/// - Every response has `Vary: Origin`, also those to other origins, so that no cache gives one
///   site's to another ("CORS protocol and HTTP caches").
/// - Preflights, which clients that are not the browser's own `EventSource` cause by the headers
///   they set, are answered here: `GET`, with `Last-Event-ID`, `Cache-Control` or `Authorization`.
///   A browser keeps the answer for an hour ("CORS-preflight fetch").
///
/// It keeps nobody from *sending* a request: whoever may not see the events must be refused by the
/// handler.
///
/// It is tower-http's [`CorsLayer`], whose methods change what else there is to allow.
///
/// ```
/// # use axum::Router;
/// # let app: Router = Router::new();
/// let app = app.layer(ssetarget::axum::cors(["https://app.example.com"])?);
/// # Ok::<(), ssetarget::axum::InvalidOrigin>(())
/// ```
///
/// # Errors
/// [`InvalidOrigin`] for what no browser sends as an `Origin`, and for `*` and `null`.
pub fn cors(
    origins: impl IntoIterator<Item = impl AsRef<str>>,
) -> Result<CorsLayer, InvalidOrigin> {
    let origins = origins.into_iter().map(|text| origin(text.as_ref()));
    let origins = origins.collect::<Result<Vec<_>, _>>()?;
    Ok(CorsLayer::new()
        .allow_origin(origins)
        .allow_credentials(true)
        .allow_methods([Method::GET])
        .allow_headers([
            HeaderName::from_static("last-event-id"),
            header::CACHE_CONTROL,
            header::AUTHORIZATION,
        ])
        .max_age(Duration::from_secs(60 * 60)))
}

/// An origin as browsers write it: a comparison of bytes decides (Fetch, "CORS check").
fn origin(text: &str) -> Result<HeaderValue, InvalidOrigin> {
    let invalid = || InvalidOrigin(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| invalid())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(invalid());
    };
    let default_port = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let is_default = authority.port_u16().is_some() && authority.port_u16() == default_port;
    let serialized = format!("{scheme}://{authority}").to_ascii_lowercase();
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if serialized != text || is_default || !authority.as_str().bytes().all(is_host) {
        return Err(invalid());
    }
    HeaderValue::from_str(text).map_err(|_| invalid())
}

/// The text is not an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidOrigin(String);

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not an origin: write it as browsers do, like https://app.example.com or \
             http://localhost:8080, in lower case, with the port only where it is not the \
             default one, and without a slash at the end",
            self.0
        )
    }
}

impl std::error::Error for InvalidOrigin {}
