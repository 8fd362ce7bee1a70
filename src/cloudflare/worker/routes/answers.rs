//! `POST /<id>/event`: the events that a run waits for. Runs in the Worker.

use std::rc::Rc;

use cloudflare_workflows::Workflow;
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use serde_json::Value;
use worker::{Request, Response, web_sys};

use super::{Call, Route};
use crate::access::Action;
use crate::answer::{Answer, InvalidAnswer, MAX_BYTES};
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse_text, refuse_to, unreachable};
use crate::refusal::Refusal;
use crate::run_path::RunPath;

/// Lets clients send the events that a run waits for: `POST /<id>/event`.
///
/// The body is JSON, `{"type": "approval", "payload": {"by": "Ada"}}`, with any payload or none, up to 1 MiB.
///
/// | status | when |
/// |---|---|
/// | `200` | the platform has the event, even if the run does not wait for it yet; `{"sent": "approval"}` |
/// | `400` | the body is not such JSON, the type is not up to 100 letters, digits, `-` and `_`, or the [check](Self::check) refused; the body is the reason, as plain text |
/// | `401` | the [hook](crate::cloudflare::RunRoutes::access) refused [`Action::Answer`] |
/// | `404` | there is no such run |
/// | `409` | the run has ended |
/// | `413` | the body or the payload is larger |
/// | `503` | the object or the platform cannot be reached |
///
/// A run whose step waits for a payload of one type fails on another: check the payload if anybody may answer.
///
/// ```no_run
/// use cloudflare_workflows::Workflow;
/// use ssetarget::cloudflare::{Answers, RunRoutes, WorkflowEventsNamespace};
///
/// # fn routes(workflow: Workflow, events: WorkflowEventsNamespace) -> RunRoutes {
/// let answers = Answers::new(workflow).check(|event_type, payload| match event_type {
///     "approval" if payload["by"].is_string() => Ok(()),
///     "approval" => Err("the payload of an approval has a name, by".to_owned()),
///     _ => Err("this run waits for an approval".to_owned()),
/// });
/// RunRoutes::new(events).answers(answers)
/// # }
/// ```
#[derive(Clone)]
pub struct Answers {
    workflow: Workflow,
    default_type: Option<String>,
    check: Option<Check>,
}

type Check = Rc<dyn Fn(&str, &Value) -> Result<(), String>>;

impl Answers {
    /// Returns the route for the instances of this workflow, with the defaults of the methods below.
    #[must_use]
    pub fn new(workflow: Workflow) -> Self {
        Self {
            workflow,
            default_type: None,
            check: None,
        }
    }

    /// Sets the type of an event whose body has none. Default: such a body is refused.
    #[must_use]
    pub fn default_type(mut self, event_type: &str) -> Self {
        self.default_type = Some(event_type.to_owned());
        self
    }

    /// Sets a function that gets the type and the payload of each event before any question about the run. An `Err`
    /// is the reason of a refusal, for the client. Default: all events are sent.
    #[must_use]
    pub fn check(mut self, check: impl Fn(&str, &Value) -> Result<(), String> + 'static) -> Self {
        self.check = Some(Rc::new(check));
        self
    }

    async fn answer(&self, call: Call<'_>) -> worker::Result<Response> {
        let answer = match self.read(call.request).await {
            Ok(answer) => answer,
            Err(InvalidAnswer { status, reason }) => return refuse_text(status, &reason),
        };
        match self.send(&call, &answer).await {
            Ok(true) => {
                let sent = serde_json::json!({ "sent": answer.event_type });
                Response::from_json(&sent)
            }
            Ok(false) => refuse_text(409, "the run has ended"),
            Err(refusal) => refuse_to(call.request, refusal),
        }
    }

    async fn read(&self, request: &web_sys::Request) -> Result<Answer, InvalidAnswer> {
        let body = read_body(request, MAX_BYTES).await?;
        let answer = Answer::from_body(body, self.default_type.as_deref())?;
        if let Some(check) = &self.check {
            check(&answer.event_type, &answer.payload).map_err(InvalidAnswer::bad)?;
        }
        Ok(answer)
    }

    /// Sends the event, and returns `false` if the run has ended.
    async fn send(&self, call: &Call<'_>, answer: &Answer) -> Result<bool, Refusal> {
        // The run's object is asked first, since the local engine keeps every unknown id that it is asked about in
        // memory.
        let grant = call.grant.unwrap_or_default();
        let status = call.events.status_of(call.id, grant).await;
        match status.map_err(|error| unreachable(&error))? {
            200 | 204 => {}
            // The link was revoked.
            401 => return Err(Refusal::NotAllowed),
            _ => return Err(UNKNOWN_INSTANCE),
        }
        let sent = async {
            let instance = self.workflow.get(call.id).await?;
            let status = instance.status_without_output().await?;
            if status.state.has_ended() {
                return Ok(false);
            }
            instance
                .send_event(&answer.event_type, &answer.payload)
                .await?;
            Ok(true)
        };
        sent.await
            .map_err(
                |error: cloudflare_workflows::WorkflowError| match error.is_not_found() {
                    true => UNKNOWN_INSTANCE,
                    false => unreachable(&error.into()),
                },
            )
    }
}

impl Route for Answers {
    fn is_at(&self, path: &RunPath<'_>) -> bool {
        path.tail == "/event"
    }

    fn methods(&self) -> &'static str {
        "POST"
    }

    fn action(&self) -> Option<Action> {
        Some(Action::Answer)
    }

    fn serve<'a>(&'a self, call: Call<'a>) -> LocalBoxFuture<'a, worker::Result<Response>> {
        Box::pin(self.answer(call))
    }
}

/// Reads at most the limit. The check is here and not left to the platform, whose local runtime takes more than the
/// real one.
pub(super) async fn read_body(
    request: &web_sys::Request,
    most: usize,
) -> Result<Vec<u8>, InvalidAnswer> {
    let too_large = || InvalidAnswer::too_large("the body is larger than 1 MiB");
    let length = request.headers().get("content-length").ok().flatten();
    let length = length.and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // The same request, whose body is read once.
    let mut request = Request::from(Clone::clone(request));
    // A request without a body has no stream. A stream that is dropped before its end is cancelled.
    if let Ok(mut stream) = request.stream() {
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| InvalidAnswer::bad("the body cannot be read"))?;
            if bytes.len() + chunk.len() > most {
                return Err(too_large());
            }
            bytes.extend(chunk);
        }
    }
    Ok(bytes)
}
