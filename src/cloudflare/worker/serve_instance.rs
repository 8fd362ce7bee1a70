//! The answer to a viewer's request for the platform's own log of an instance, also of a workflow that dispatches
//! nothing. Runs in the Worker.

use bytes::Bytes;
use cloudflare_workflows::__private::{Payloads, PlatformLog, here, sleep};
use cloudflare_workflows::{
    WorkersRuntime, Workflow, WorkflowError, WorkflowErrorKind, WorkflowInstanceEvent,
    WorkflowInstanceEventData as Data, WorkflowInstanceEventType,
};
use futures_core::Stream;
use futures_util::future::LocalBoxFuture;
use futures_util::stream;
use worker::{Request, Response, web_sys};

use super::asked::may_watch;
use super::instance_id::is_instance_id;
use crate::access::{Access, Grant};
use crate::cloudflare::permit::Permit;
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse_to, unreachable};
use crate::cloudflare::request::{StreamRequest, query};
use crate::cloudflare::response;
use crate::delivery::{HEARTBEAT_INTERVAL, keep_alive};
use crate::event::StoredEvent;
use crate::refusal::Refusal;
use crate::wire;
use crate::workflow::{InstanceFeed, InstanceFeedItem};

/// Answers a viewer's request with the platform's own log of an instance: of any workflow that is
/// bound to this Worker, written in Rust, JavaScript or Python, with no object and no wrapped
/// steps.
///
/// `event:` is the platform's type, such as `step_started`, and `data:` is the platform's event
/// (`WorkflowInstanceEvent` of Cloudflare's types), without params and outputs unless the [options](InstanceSse)
/// include them. Errors have a name and a message, never a stack.
///
/// Statuses, headers, heartbeats, positions and the end are those of [`serve_sse`](crate::cloudflare::serve_sse), so
/// an `EventSource` resumes and stops by itself. The differences:
///
/// - **Ids** are large numbers with gaps: see [`InstanceLogIds`](crate::workflow::InstanceLogIds).
/// - **A restart** begins a new log. A viewer that has seen events of the one before gets `reset`, while
///   it is connected or when it comes back, and then all of the new log. `head` in its data is always
///   `null`, since the platform does not give it.
/// - **`?types=step_started,step_completed`** selects events of these types. Those that end the run are always sent.
///   A name that is not one of the platform's is a `400`.
/// - **`from=latest`** and **`since=`** go by the events' times.
/// - **Only while the platform keeps the instance**: afterwards it is a `404`.
///
/// `access` decides who may watch, as with [`serve_sse`](crate::cloudflare::serve_sse). It gets no workflow's name,
/// which a binding does not know.
///
/// Nothing is stored. Cloudflare does not say whether a subscription keeps the engine in memory, or what it costs.
///
/// # Errors
/// When a response cannot be made.
pub async fn serve_instance_sse(
    request: &Request,
    id: &str,
    workflow: &Workflow,
    options: InstanceSse,
    access: &impl Access,
) -> worker::Result<Response> {
    let request = request.inner();
    match may_watch(access, request, None, id).await {
        Ok(grant) => {
            let response: LocalBoxFuture<'_, _> = Box::pin(serve_instance_granted(
                request, id, workflow, options, grant, None,
            ));
            response.await
        }
        Err(refusal) => refuse_to(request, refusal),
    }
}

/// Answers a viewer who may watch: until the grant ends, or `revoked` resolves.
pub(super) async fn serve_instance_granted(
    request: &web_sys::Request,
    instance_id: &str,
    workflow: &Workflow,
    options: InstanceSse,
    grant: Grant,
    revoked: Option<LocalBoxFuture<'static, ()>>,
) -> worker::Result<Response> {
    match feed(instance_id, request, workflow, &options).await {
        Ok(feed) if feed.has_ended() => response::ended(),
        // The feed is dropped, which ends its subscription.
        Ok(_) if request.method() == "HEAD" => response::left_out(),
        Ok(feed) => {
            let events = keep_alive(here(chunks(feed, options)), HEARTBEAT_INTERVAL, sleep);
            let permit = Permit::until_end(grant);
            let permit = match revoked {
                Some(revoked) => permit.or_when(revoked),
                None => permit,
            };
            response::stream_here(response::in_javascript(events), &permit)
        }
        Err(refusal) => refuse_to(request, refusal),
    }
}

/// Chooses which parts of an instance [`serve_instance_sse`] shows.
///
/// Default: all types of events, without params and outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstanceSse {
    /// Events of these types, and those that end the run. Default: all.
    pub types: Option<Vec<WorkflowInstanceEventType>>,
    /// Whether viewers get the params of the instance. Default: no.
    pub params: bool,
    /// Whether viewers get the results of steps and of the run; a step whose output is sensitive, or a stream, shows
    /// none. Default: no.
    pub outputs: bool,
}

impl InstanceSse {
    /// Returns the default: all types of events, without params and outputs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows only events of these types, and those that end the run. Default: all types.
    #[must_use]
    pub fn types(mut self, types: impl IntoIterator<Item = WorkflowInstanceEventType>) -> Self {
        self.types = Some(types.into_iter().collect());
        self
    }

    /// Shows the params of the instance. For viewers that may see them. Default: they are not shown.
    #[must_use]
    pub fn with_params(mut self) -> Self {
        self.params = true;
        self
    }

    /// Shows the results of steps and of the run. For viewers that may see them. Default: they are not shown.
    #[must_use]
    pub fn with_outputs(mut self) -> Self {
        self.outputs = true;
        self
    }

    fn redact(&self, event: WorkflowInstanceEvent) -> WorkflowInstanceEvent {
        let unknown = matches!(event.data, Data::Unknown(_));
        match (self.params, self.outputs) {
            (true, true) => event,
            (false, false) => event.redacted(),
            // An event of an unknown type may have both.
            _ if unknown => event.redacted(),
            // Payloads that were not requested were not read.
            _ => event,
        }
    }
}

type Feed = InstanceFeed<PlatformLog, WorkersRuntime>;

async fn feed(
    instance_id: &str,
    request: &web_sys::Request,
    workflow: &Workflow,
    options: &InstanceSse,
) -> Result<Feed, Refusal> {
    let cursor = StreamRequest::from_request(request)?.cursor;
    let url = request.url();
    let mut types = options.types.clone();
    if let Some((_, names)) = form_urlencoded::parse(query(&url).unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "types")
    {
        let asked = names
            .split(',')
            .map(|name| WorkflowInstanceEventType::from_name(name).ok_or(Refusal::EventType));
        let asked = asked.collect::<Result<Vec<_>, _>>()?;
        let allowed = types.unwrap_or_else(|| WorkflowInstanceEventType::ALL.to_vec());
        types = Some(
            asked
                .into_iter()
                .filter(|of| allowed.contains(of))
                .collect(),
        );
    }
    if !is_instance_id(instance_id) {
        return Err(UNKNOWN_INSTANCE);
    }
    let payloads = Payloads {
        params: options.params,
        outputs: options.outputs,
    };
    let log = PlatformLog::new(workflow, instance_id, payloads);
    InstanceFeed::start(log, WorkersRuntime, cursor, types)
        .await
        .map_err(|error| match error.is_not_found() {
            true => UNKNOWN_INSTANCE,
            false => unreachable(&error.into()),
        })
}

/// Returns the bytes of a feed, without heartbeats.
fn chunks(feed: Feed, options: InstanceSse) -> impl Stream<Item = Result<Bytes, WorkflowError>> {
    stream::try_unfold((feed, options), |(mut feed, options)| async move {
        let Some(item) = feed.next().await? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        match item {
            InstanceFeedItem::Reset(reset) => wire::encode_reset(&reset, &mut bytes),
            InstanceFeedItem::Event(id, event) => {
                let event = options.redact(event);
                let data = serde_json::to_string(&event).map_err(|error| {
                    let message = format!("an event cannot be written: {error}");
                    WorkflowError::new(WorkflowErrorKind::Other, message)
                })?;
                // No type of the platform can forge a line of the stream.
                let event_type = match event.event_type() {
                    known if !known.is_empty() && !known.contains(['\r', '\n', '\0']) => known,
                    _ => "unknown",
                };
                let stored = StoredEvent {
                    id,
                    event_type: event_type.to_owned(),
                    data,
                    timestamp: event.timestamp,
                };
                wire::encode(&stored, &mut bytes);
            }
        }
        Ok(Some((Bytes::from(bytes), (feed, options))))
    })
}
