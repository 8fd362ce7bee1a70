//! A client for programs: the events of a run from its URL, through every cut, to the end (feature
//! `client`).
//!
//! ```no_run
//! use ssetarget::client::{Outcome, RunClient, Update};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = RunClient::new("https://app.example.com/o-1")?;
//! let mut run = client.watch().await?;
//! while let Some(update) = run.next().await {
//!     if let Update::Event(event) = update? {
//!         println!("{} {}: {:?}", event.event_type, event.data, run.view().state);
//!     }
//! }
//! assert_eq!(run.outcome(), Some(Outcome::Completed));
//! # Ok(())
//! # }
//! ```
//!
//! [`RunClient::events`] returns only the events, as a [`Stream`](futures_core::Stream), from any [`Start`]. Both
//! work with every log that this crate serves: runs, the platform's own log (`…/instance/sse`), spans, and events of
//! your own.
//!
//! - It comes back after each cut with `Last-Event-ID`, after a delay that doubles with each failure in
//!   a row, up to 30 s, with jitter. A `retry:` of the server sets the first delay; the second is at least
//!   1 s and doubles from there, also for `retry: 0`. `Retry-After` is honoured up to 5 min. A connection that
//!   is silent for 60 s counts as cut: servers of this crate send a heartbeat after 15 s.
//! - It ends after the event that ends the run, and at `204`. A merged stream (`…/sse?run=a&run=b`) ends
//!   with the last of its runs.
//! - `401`, `403`, `404` and `410` are errors at once; `408`, `425`, `429` and `5xx` are tried again.
//! - It works on tokio, with `time` and `io` enabled. It is not available in WebAssembly.
//!
//! [`EventParser`] is the reader of the format alone, for other transports.

mod backoff;
mod error;
mod events;
mod urls;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION};
use serde::Serialize;
use serde_json::json;

use crate::workflow::{RunSnapshot, RunView};
use urls::RunUrls;

pub use crate::parser::{EventParser, EventTooLarge, MAX_EVENT, RawEvent};
pub use error::ClientError;
pub use events::{Events, ReceivedEvent, Update};
pub use watch::{Outcome, RunWatch};

/// The largest snapshot that is read: 64 MiB.
const MAX_SNAPSHOT: usize = 64 << 20;

/// The position at which a stream starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// At the position in the URL, or with the oldest event if the URL has none.
    #[default]
    Default,
    /// With the oldest event that is kept, whatever the URL says.
    Beginning,
    /// With the next event that is appended.
    Latest,
    /// With the first event that was stored at this time or later.
    Since(SystemTime),
    /// After the event with this id.
    After(String),
}

/// A client of one run. Clones are cheap and share connections.
#[derive(Clone)]
pub struct RunClient {
    http: reqwest::Client,
    /// For what is sent: it follows no redirect.
    sender: reqwest::Client,
    urls: RunUrls,
    authorization: Option<HeaderValue>,
    connect_for: Duration,
    retry_for: Duration,
    silence: Duration,
    answer_within: Duration,
}

impl RunClient {
    /// Returns a client of the run with this URL: that of its page (`…/<id>`), of its events
    /// (`…/<id>/sse`), or of the platform's log of it (`…/<id>/instance/sse`). The URL of a merged stream
    /// (`…/sse?run=<id>&run=<id>`) works, too: there is no snapshot then, and the [state](RunWatch::view) is that of
    /// all its runs together. A token in the fragment (`#t=`) is used and not sent as part of the URL. Without a
    /// scheme it is `https`, and `http` for this machine.
    ///
    /// # Errors
    /// When the string is not a URL, or the URL names no run.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let urls = RunUrls::parse(url)?;
        let authorization = urls.token.as_deref().map(events::bearer).transpose()?;
        let [http, sender] = http_clients()?;
        Ok(Self {
            http,
            sender,
            urls,
            authorization,
            connect_for: Duration::from_secs(30),
            retry_for: Duration::from_secs(15 * 60),
            silence: Duration::from_secs(60),
            answer_within: Duration::from_secs(30),
        })
    }

    /// Sends this token as `Authorization: Bearer`, instead of that of the URL.
    ///
    /// # Errors
    /// When the token cannot be a header.
    pub fn token(mut self, token: &str) -> Result<Self, ClientError> {
        self.authorization = Some(events::bearer(token)?);
        Ok(self)
    }

    /// Sets how long the first connection is tried. Default: 30 s.
    #[must_use]
    pub fn connect_for(mut self, time: Duration) -> Self {
        self.connect_for = time;
        self
    }

    /// Sets how long a lost connection is tried again before the client gives up. Default: 15 min.
    #[must_use]
    pub fn retry_for(mut self, time: Duration) -> Self {
        self.retry_for = time;
        self
    }

    /// Sets after which time without a byte, not even a heartbeat, a connection counts as cut. Default:
    /// 60 s.
    #[must_use]
    pub fn silence(mut self, time: Duration) -> Self {
        self.silence = time;
        self
    }

    /// Returns the run's id, which is the name of its log. Of a merged stream it is the ids, or the tag.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.urls.id
    }

    /// Returns the URL of the run's page, without a token or a password. Of a merged stream it is the stream's own.
    #[must_use]
    pub fn page_url(&self) -> String {
        urls::shown(&self.urls.page)
    }

    /// Returns whether a token is sent.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.authorization.is_some()
    }

    /// Returns the events of the run, from `start` on.
    pub fn events(&self, start: Start) -> Events {
        let mut client = self.clone();
        let mut last_event_id = String::new();
        match start {
            Start::Default => {}
            Start::Beginning => client.urls.start("from", "beginning"),
            Start::Latest => client.urls.start("from", "latest"),
            Start::Since(time) => client.urls.start("since", &milliseconds(time)),
            Start::After(id) => last_event_id = id,
        }
        Events::new(client, last_event_id)
    }

    /// Watches the run from its snapshot, or from the oldest event if the server has no snapshot. A position in the
    /// URL takes precedence over both.
    ///
    /// # Errors
    /// When the server refuses the token. Everything else shows when events are read.
    pub async fn watch(&self) -> Result<RunWatch, ClientError> {
        let snapshot = match self.urls.has_position() {
            true => None,
            false => self.snapshot().await?,
        };
        let cursor = snapshot.as_ref().and_then(|snapshot| snapshot.cursor);
        let start = match cursor {
            Some(cursor) => Start::After(cursor.to_string()),
            None => Start::Default,
        };
        Ok(RunWatch::new(
            self.events(start),
            snapshot.filter(|_| cursor.is_some()),
        ))
    }

    /// Watches the run from `start` on. The state is complete only if that is its beginning.
    #[must_use]
    pub fn watch_from(&self, start: Start) -> RunWatch {
        RunWatch::new(self.events(start), None)
    }

    /// Returns the run as it stands, in one request. Returns `None` if the server has no snapshots, or
    /// cannot be reached.
    ///
    /// # Errors
    /// When the server refuses the token.
    pub async fn snapshot(&self) -> Result<Option<RunSnapshot>, ClientError> {
        if self.urls.has_no_snapshot {
            return Ok(None);
        }
        let mut request = self.http.get(self.urls.page.clone());
        request = request.header(ACCEPT, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let reading = async {
            let mut response = request.send().await.ok()?;
            let status = response.status().as_u16();
            if matches!(status, 401 | 403) {
                return Some(Err(ClientError::NotAllowed { status }));
            }
            let content_type = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
            if status != 200 || !content_type.starts_with("application/json") {
                return None;
            }
            let mut json = Vec::new();
            while let Some(chunk) = response.chunk().await.ok()? {
                json.extend_from_slice(&chunk);
                if json.len() > MAX_SNAPSHOT {
                    return None;
                }
            }
            watch::read_snapshot(&json).map(Ok)
        };
        let read = tokio::time::timeout(self.answer_within, reading).await;
        read.unwrap_or_default().transpose()
    }

    /// Reads the run as it stands when its log has ended, from its snapshot or from all of its events.
    ///
    /// # Errors
    /// As the stream of [`Events`].
    pub async fn ended(&self) -> Result<RunView, ClientError> {
        if let Some(snapshot) = self.snapshot().await?
            && snapshot.state.has_ended()
        {
            return Ok(snapshot.into_view());
        }
        let mut run = self.watch_from(Start::Beginning);
        while let Some(update) = run.next().await {
            update?;
        }
        Ok(run.view().clone())
    }

    /// Sends an event that the run waits for: `POST …/event` with `{"type", "payload"}`. It is sent once, to this
    /// address alone: no redirect is followed.
    ///
    /// # Errors
    /// When the server is not known to have taken it: it refuses, redirects, or cannot be reached.
    pub async fn send(
        &self,
        event_type: &str,
        payload: Option<&(impl Serialize + ?Sized)>,
    ) -> Result<(), ClientError> {
        let mut body = json!({ "type": event_type });
        if let Some(payload) = payload {
            let refused = |error: serde_json::Error| ClientError::Refused {
                status: 400,
                reason: error.to_string(),
            };
            body["payload"] = serde_json::to_value(payload).map_err(refused)?;
        }
        let request = self.sender.post(self.urls.answer.clone());
        let mut request = request
            .header(CONTENT_TYPE, "application/json")
            .timeout(self.answer_within)
            .body(body.to_string());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let response = request.send().await.map_err(|error| ClientError::GaveUp {
            reason: events::explain(error),
        })?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status if status.is_redirection() => {
                let to = response.headers().get(LOCATION);
                let to = to.and_then(|to| self.urls.answer.join(to.to_str().ok()?).ok());
                Err(ClientError::Redirected {
                    status: status.as_u16(),
                    to: to.as_ref().map(urls::shown).unwrap_or_default(),
                })
            }
            status => Err(events::refusal(status, response).await),
        }
    }
}

impl fmt::Debug for RunClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunClient")
            .field("page", &self.page_url())
            .finish_non_exhaustive()
    }
}

fn milliseconds(time: SystemTime) -> String {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis().to_string()
}

/// Sets up HTTP with the certificates of the machine. Without any, no `https` URL works. Returns a client that reads, and
/// one that sends: a redirect would turn what it sends into a request for a page, whose `200` says nothing.
fn http_clients() -> Result<[reqwest::Client; 2], ClientError> {
    use reqwest::redirect::Policy;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let setup = |error: &dyn std::error::Error| ClientError::Setup(error.to_string());
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = |tls: ClientConfig, redirects: Policy| {
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(Duration::from_secs(10))
            .redirect(redirects)
            // A referrer would tell a server that another one redirects to the whole URL, with a token in its query.
            .referer(false)
            .user_agent(concat!("ssetarget/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| setup(&error))
    };
    Ok([
        client(tls.clone(), Policy::default())?,
        client(tls, Policy::none())?,
    ])
}
