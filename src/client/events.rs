//! The events of a run as a stream that comes back after each cut.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_core::Stream;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use tokio::time::{Instant, Sleep, sleep};

use super::RunClient;
use super::backoff::{Backoff, random};
use super::error::ClientError;
use crate::delivery::DecodeEvent;
use crate::event::{EventId, StoredEvent};
use crate::parser::{EventParser, RawEvent};
use crate::task::{Kind, StepEvent, StepEventType};
use cloudflare_workflows::WorkflowInstanceEvent;

/// How long a stream may stay open after the event that ends a run, before it counts as over.
const AFTER_THE_END: Duration = Duration::from_secs(5);

/// An event of a run's log, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceivedEvent {
    /// The event's own id: where to go on after it. `None` for events that have none, such as
    /// `reset`.
    pub id: Option<String>,
    /// Its type.
    pub event_type: String,
    /// Its data, as a string.
    pub data: String,
}

impl From<RawEvent> for ReceivedEvent {
    fn from(event: RawEvent) -> Self {
        Self {
            id: event.has_id.then_some(event.last_event_id),
            event_type: event.event_type,
            data: event.data,
        }
    }
}

impl ReceivedEvent {
    /// Reads the data as JSON.
    ///
    /// # Errors
    /// When it is not the JSON of a `T`.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.data)
    }

    /// Returns the event of a task, from the log of a run whose steps are wrapped or of a tracer.
    /// Returns `None` for any other event.
    #[must_use]
    pub fn step(&self) -> Option<StepEvent> {
        StepEventType::from_name(&self.event_type)?;
        let id = EventId::new(1)?;
        StepEvent::decode(&self.stored(id)).ok()
    }

    /// Returns the event of the platform's own log. Returns `None` for any other event.
    #[must_use]
    pub fn platform(&self) -> Option<WorkflowInstanceEvent> {
        // The platform's events have an id of the platform in their data, which no other has.
        if !self.data.contains("\"eventId\"") {
            return None;
        }
        self.json().ok()
    }

    /// Returns whether a run has ended with this event.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        #[derive(Deserialize)]
        struct Task {
            kind: Kind,
        }
        match &*self.event_type {
            "completed" | "failed" => {
                let task = self.json::<Task>();
                task.is_ok_and(|task| task.kind == Kind::Workflow)
            }
            "workflow_completed" | "workflow_errored" | "workflow_terminated" => true,
            _ => false,
        }
    }

    /// Returns whether it came in a merged stream: its id is a position in several logs, and no number.
    pub(super) fn is_merged(&self) -> bool {
        let is_number = |id: &str| id.bytes().all(|byte| byte.is_ascii_digit());
        self.id.as_deref().is_some_and(|id| !is_number(id))
    }

    pub(super) fn stored(&self, id: EventId) -> StoredEvent {
        StoredEvent {
            id,
            event_type: self.event_type.clone(),
            data: self.data.clone(),
            // Views take the time from the data.
            timestamp: SystemTime::UNIX_EPOCH,
        }
    }
}

/// An item of an [`Events`] stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// The server answers; events follow.
    Connected,
    /// There is no connection now. The client comes back by itself.
    Disconnected {
        /// The reason. It may contain text of the server.
        reason: String,
        /// The time until it tries again.
        retry_in: Duration,
    },
    /// The next event.
    Event(ReceivedEvent),
    /// `restarted`: the run was restarted, and another one follows in the same log.
    Restarted(ReceivedEvent),
    /// `reset`: the requested position is not in the log. The stream goes on with the oldest event
    /// that is kept. Its data: `requested`, `oldest`, `head`.
    Reset(ReceivedEvent),
    /// `expired`: the permission has expired, and the server closes the stream. The client comes
    /// back with the token that it then has: see [`Events::set_token`].
    Expired(ReceivedEvent),
}

impl Update {
    /// Returns the event, if the item is one.
    #[must_use]
    pub fn event(&self) -> Option<&ReceivedEvent> {
        match self {
            Self::Event(event)
            | Self::Restarted(event)
            | Self::Reset(event)
            | Self::Expired(event) => Some(event),
            Self::Connected | Self::Disconnected { .. } => None,
        }
    }
}

/// The events of a run, from [`RunClient::events`]: a [`Stream`] that comes back after each cut,
/// right after the last event it had, and ends with the run.
///
/// It ends after the event that ends the run, or when the server answers `204`: the log has ended. A merged stream ends
/// with the last of its runs.
/// It ends with an error when coming back does not help. Nothing is requested before it is polled.
#[must_use = "nothing is requested before it is polled"]
pub struct Events {
    client: RunClient,
    authorization: Option<HeaderValue>,
    last_event_id: String,
    backoff: Backoff,
    /// The start of the current silence. Earlier bytes say nothing about the current attempt.
    since: Instant,
    has_connected: bool,
    /// The last event was one that ends a run.
    has_ended: bool,
    ended_cleanly: bool,
    state: State,
}

enum State {
    Waits(Pin<Box<Sleep>>),
    Connects(Boxed<Result<Response, String>>),
    /// The client reads the beginning of a refusal.
    Refused(Boxed<ClientError>),
    Open(Box<Open>),
    Ended,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct Open {
    parser: EventParser,
    /// Events that were read and not yet returned, the next one last.
    events: Vec<RawEvent>,
    chunk: Boxed<(Response, Result<Option<Bytes>, reqwest::Error>)>,
    silence: Pin<Box<Sleep>>,
}

impl Events {
    pub(super) fn new(client: RunClient, last_event_id: String) -> Self {
        Self {
            authorization: client.authorization.clone(),
            client,
            last_event_id,
            backoff: Backoff::default(),
            since: Instant::now(),
            has_connected: false,
            has_ended: false,
            ended_cleanly: false,
            state: State::Waits(Box::pin(sleep(Duration::ZERO))),
        }
    }

    /// Returns the id after which the stream goes on, also while there is no connection. Empty if there is none yet.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Returns whether the server has answered `204`: there is nothing after the position.
    #[must_use]
    pub fn has_no_more(&self) -> bool {
        self.ended_cleanly
    }

    /// Comes back with this token from now on: after [`Update::Expired`], for example.
    ///
    /// # Errors
    /// When the token cannot be a header.
    pub fn set_token(&mut self, token: &str) -> Result<(), ClientError> {
        self.authorization = Some(bearer(token)?);
        Ok(())
    }

    fn request(&self) -> Boxed<Result<Response, String>> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if !self.last_event_id.is_empty()
            && let Ok(id) = HeaderValue::from_bytes(self.last_event_id.as_bytes())
        {
            headers.insert(HeaderName::from_static("last-event-id"), id);
        }
        let url = self.client.urls.events.clone();
        let answer_within = self.client.answer_within;
        let sending = self.client.http.get(url).headers(headers).send();
        Box::pin(async move {
            match tokio::time::timeout(answer_within, sending).await {
                Ok(result) => result.map_err(explain),
                Err(_) => Err("the server does not answer".to_owned()),
            }
        })
    }

    /// Decides what an answer means. Returns `None` if the next state has the result.
    fn answered(&mut self, response: Response) -> Option<Result<Update, ClientError>> {
        let status = response.status();
        match status.as_u16() {
            200 => {}
            204 => {
                self.ended_cleanly = true;
                self.state = State::Ended;
                return None;
            }
            401 | 403 => {
                return self.stop(ClientError::NotAllowed {
                    status: status.as_u16(),
                });
            }
            404 | 410 => {
                return self.stop(ClientError::UnknownRun {
                    status: status.as_u16(),
                });
            }
            408 | 425 | 429 | 500..=599 => {
                let wait = retry_after(&response);
                return Some(self.failed(format!("the server answers {status}"), wait));
            }
            _ => {
                self.state = State::Refused(Box::pin(refusal(status, response)));
                return None;
            }
        }
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("text/event-stream") {
            let content_type = essence.chars().take(100).collect();
            return self.stop(ClientError::NotEvents { content_type });
        }
        self.has_connected = true;
        self.since = Instant::now();
        self.state = State::Open(Box::new(Open {
            parser: EventParser::after(self.last_event_id.as_str()),
            events: Vec::new(),
            chunk: next_chunk(response),
            silence: Box::pin(sleep(self.client.silence)),
        }));
        Some(Ok(Update::Connected))
    }

    fn stop(&mut self, error: ClientError) -> Option<Result<Update, ClientError>> {
        self.state = State::Ended;
        Some(Err(error))
    }

    /// Waits before the next attempt, or gives up.
    fn failed(
        &mut self,
        reason: String,
        at_least: Option<Duration>,
    ) -> Result<Update, ClientError> {
        let patience = match self.has_connected {
            true => self.client.retry_for,
            false => self.client.connect_for,
        };
        let retry_in = self.backoff.failed(at_least, random());
        if self.since.elapsed() + retry_in > patience {
            self.state = State::Ended;
            return Err(ClientError::GaveUp { reason });
        }
        self.state = State::Waits(Box::pin(sleep(retry_in)));
        Ok(Update::Disconnected { reason, retry_in })
    }

    /// The run has ended, and the server is about to close the stream.
    fn wait_for_the_end(&mut self) {
        if let State::Open(open) = &mut self.state {
            open.silence.as_mut().reset(Instant::now() + AFTER_THE_END);
        }
    }

    /// Turns an event into an update.
    fn take(&mut self, event: RawEvent) -> Update {
        let received = ReceivedEvent::from(event);
        match &*received.event_type {
            "reset" if received.id.is_none() => Update::Reset(received),
            "expired" if received.id.is_none() => Update::Expired(received),
            "restarted" => {
                self.has_ended = false;
                Update::Restarted(received)
            }
            _ => {
                // A merged stream ends with the last of its runs, which only the server knows.
                self.has_ended = received.is_terminal() && !received.is_merged();
                Update::Event(received)
            }
        }
    }
}

impl Open {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Read> {
        if let Poll::Ready((response, result)) = self.chunk.as_mut().poll(context) {
            return Poll::Ready(match result {
                Ok(Some(bytes)) => {
                    self.chunk = next_chunk(response);
                    match self.parser.feed(&bytes, &mut self.events) {
                        Ok(()) => {
                            self.events.reverse();
                            Read::Something
                        }
                        Err(_) => Read::TooLarge,
                    }
                }
                Ok(None) => Read::End,
                Err(error) => Read::Cut(explain(error)),
            });
        }
        match self.silence.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Read::Silence),
            Poll::Pending => Poll::Pending,
        }
    }
}

enum Read {
    Something,
    End,
    Cut(String),
    Silence,
    TooLarge,
}

impl Stream for Events {
    type Item = Result<Update, ClientError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Ended => return Poll::Ready(None),
                State::Waits(time) => {
                    ready!(time.as_mut().poll(context));
                    this.state = State::Connects(this.request());
                }
                State::Connects(answer) => {
                    let answer = ready!(answer.as_mut().poll(context));
                    let update = match answer {
                        Ok(response) => this.answered(response),
                        Err(reason) => Some(this.failed(reason, None)),
                    };
                    if update.is_some() {
                        return Poll::Ready(update);
                    }
                }
                State::Refused(reason) => {
                    let error = ready!(reason.as_mut().poll(context));
                    return Poll::Ready(this.stop(error));
                }
                State::Open(open) => {
                    if let Some(event) = open.events.pop() {
                        let is_last = open.events.is_empty();
                        this.last_event_id.clone_from(&event.last_event_id);
                        let update = this.take(event);
                        if is_last && this.has_ended {
                            this.wait_for_the_end();
                        }
                        return Poll::Ready(Some(Ok(update)));
                    }
                    let read = ready!(open.poll(context));
                    this.last_event_id.clear();
                    this.last_event_id.push_str(open.parser.last_event_id());
                    if let Some(retry) = open.parser.retry() {
                        this.backoff.set_base(retry);
                    }
                    let reason = match read {
                        Read::Something => {
                            this.since = Instant::now();
                            if !this.has_ended || !open.events.is_empty() {
                                open.silence
                                    .as_mut()
                                    .reset(this.since + this.client.silence);
                            }
                            this.backoff.succeeded();
                            continue;
                        }
                        Read::TooLarge => return Poll::Ready(this.stop(ClientError::TooLarge)),
                        Read::End | Read::Silence if this.has_ended => {
                            this.state = State::Ended;
                            return Poll::Ready(None);
                        }
                        Read::End => "the server closed the stream".to_owned(),
                        Read::Silence => "the server has become silent".to_owned(),
                        Read::Cut(reason) => reason,
                    };
                    return Poll::Ready(Some(this.failed(reason, None)));
                }
            }
        }
    }
}

fn next_chunk(mut response: Response) -> Boxed<(Response, Result<Option<Bytes>, reqwest::Error>)> {
    Box::pin(async move {
        let chunk = response.chunk().await;
        (response, chunk)
    })
}

pub(super) fn bearer(token: &str) -> Result<HeaderValue, ClientError> {
    let header = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
    let mut header = header.map_err(|_| ClientError::InvalidToken)?;
    header.set_sensitive(true);
    Ok(header)
}

/// Returns the error for a refusal that asking again does not change.
pub(super) async fn refusal(status: StatusCode, response: Response) -> ClientError {
    let status = status.as_u16();
    match status {
        401 | 403 => ClientError::NotAllowed { status },
        404 | 410 => ClientError::UnknownRun { status },
        _ => {
            let reason = beginning(response).await;
            ClientError::Refused { status, reason }
        }
    }
}

/// Returns the beginning of a body: at most 300 characters.
async fn beginning(mut response: Response) -> String {
    let mut text = Vec::new();
    let reading = async {
        while text.len() < 1200
            && let Ok(Some(chunk)) = response.chunk().await
        {
            text.extend_from_slice(&chunk);
        }
    };
    // Takes whatever has come by then.
    let _ = tokio::time::timeout(Duration::from_secs(5), reading).await;
    let text = String::from_utf8_lossy(&text);
    text.trim().chars().take(300).collect()
}

fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(reqwest::header::RETRY_AFTER)?;
    value
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
        .map(Duration::from_secs)
}

/// Returns the innermost reason, without the URL, which may have a secret.
pub(super) fn explain(error: impl Error) -> String {
    let mut reason: &dyn Error = &error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}
