//! Subscriptions to the platform's own log of an instance.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::stream::{self, LocalBoxStream};
use wasm_bindgen::prelude::*;

use super::convert::{message, property, set};
use super::error::{WorkflowError, WorkflowErrorKind};
use super::instance::WorkflowInstance;
use super::js::{self, JsWorkflow, JsWorkflowSubscription};
use super::runtime::WorkersRuntime;
use super::workflow::Workflow;
use crate::border;
use crate::instance::event::WorkflowInstanceEvent;
use crate::instance::follow::{Followed, InstanceEvents, InstanceFollower, InstanceLog};
use crate::instance::ids::InstanceEventId;
use crate::instance::options::SubscribeOptions;

impl WorkflowInstance {
    /// Subscribes to the platform's own log of the instance: first the stored events, then live ones, up
    /// to the event that ends the run.
    ///
    /// Each event comes once and in order, however often a pause, a deploy or a crash ends the engine
    /// meanwhile. A *restart* of the instance begins a new log, numbered from 1: the stream then returns
    /// an error of the kind [`Restarted`](WorkflowErrorKind::Restarted), and after it the events of the
    /// new log from its beginning. (A restart before the subscription is not noticed: a
    /// [`cursor`](SubscribeOptions::cursor) of the earlier log is then read as one of the new log.)
    ///
    /// The stream ends after the terminal event, also where the filter hides it, and after an error
    /// of another kind. Dropping it ends the subscription.
    ///
    /// ```no_run
    /// # use futures_util::TryStreamExt;
    /// # use cloudflare_workflows::{SubscribeOptions, WorkflowError, WorkflowInstance};
    /// # async fn follow(instance: WorkflowInstance) -> Result<(), WorkflowError> {
    /// let mut events = instance.subscribe(SubscribeOptions::new()).await?;
    /// while let Some(event) = events.try_next().await? {
    ///     worker::console_log!("{} {:?}", event.event_id, event.data);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](WorkflowErrorKind::NotFound) if the instance no longer exists; another kind when the
    /// engine cannot be reached.
    pub async fn subscribe(
        &self,
        options: SubscribeOptions,
    ) -> Result<WorkflowSubscription, WorkflowError> {
        let log = PlatformLog {
            workflow: self.workflow.clone(),
            id: self.id(),
            payloads: Payloads::ALL,
        };
        let follower = InstanceFollower::start(log, WorkersRuntime, options).await?;
        let events = stream::try_unfold(follower, |mut follower| async move {
            let event = match follower.next().await? {
                None => return Ok(None),
                Some(Followed::Event(event)) => Ok(event),
                Some(Followed::Restarted) => Err(WorkflowError::new(
                    WorkflowErrorKind::Restarted,
                    "the instance was restarted; the events of its new log follow".to_owned(),
                )),
            };
            Ok::<_, WorkflowError>(Some((event, follower)))
        });
        Ok(WorkflowSubscription {
            events: Box::pin(flat(events)),
        })
    }
}

/// Flattens the results. An inner error does not end the stream, an outer one does.
fn flat<T, E>(
    stream: impl Stream<Item = Result<Result<T, E>, E>>,
) -> impl Stream<Item = Result<T, E>> {
    use futures_util::StreamExt;
    stream.map(|item| item.flatten())
}

/// The platform's own log of an instance, as a stream: see [`WorkflowInstance::subscribe`].
#[must_use = "a stream does nothing unless it is polled"]
pub struct WorkflowSubscription {
    events: LocalBoxStream<'static, Result<WorkflowInstanceEvent, WorkflowError>>,
}

impl Stream for WorkflowSubscription {
    type Item = Result<WorkflowInstanceEvent, WorkflowError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(context)
    }
}

impl fmt::Debug for WorkflowSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkflowSubscription")
            .finish_non_exhaustive()
    }
}

/// The payloads that are read from events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Payloads {
    /// Whether params are read.
    pub params: bool,
    /// Whether outputs are read.
    pub outputs: bool,
}

impl Payloads {
    /// Params and outputs are read.
    pub const ALL: Self = Self {
        params: true,
        outputs: true,
    };
}

/// The log of one instance. Each call gets a new stub, since a stub is useless after an error.
#[derive(Clone)]
pub struct PlatformLog {
    workflow: JsWorkflow,
    id: String,
    payloads: Payloads,
}

impl PlatformLog {
    /// Returns the log of the instance with this id.
    pub fn new(workflow: &Workflow, id: &str, payloads: Payloads) -> Self {
        Self {
            workflow: workflow.workflow.clone(),
            id: id.to_owned(),
            payloads,
        }
    }

    async fn instance(&self) -> Result<WorkflowInstance, WorkflowError> {
        let instance = self.workflow.get(&self.id).await?;
        Ok(WorkflowInstance::new(&self.workflow, instance))
    }

    /// Subscribes, as the method of the same name of [`InstanceLog`] does.
    pub async fn open(&self, options: &SubscribeOptions) -> Result<PlatformEvents, WorkflowError> {
        let object = js_sys::Object::new();
        if let Some(cursor) = options.cursor {
            set(&object, "cursor", &id_to_js(cursor));
        }
        if let Some(filter) = &options.filter {
            let names: js_sys::Array = filter.iter().map(|of| JsValue::from(of.as_str())).collect();
            set(&object, "filter", &names);
        }
        let instance = self.instance().await?;
        let subscription = instance.instance.subscribe(&object).await?;
        Ok(PlatformEvents {
            subscription: subscription.unchecked_into(),
            payloads: self.payloads,
        })
    }
}

impl InstanceLog for PlatformLog {
    type Error = WorkflowError;
    type Events = PlatformEvents;

    async fn subscribe(&self, options: &SubscribeOptions) -> Result<PlatformEvents, WorkflowError> {
        self.open(options).await
    }

    async fn has_ended(&self) -> Result<bool, WorkflowError> {
        let instance = self.instance().await?;
        let status = instance.status_without_output().await?;
        Ok(status.state.has_ended())
    }

    fn is_gone(&self, error: &WorkflowError) -> bool {
        error.is_not_found()
    }
}

/// An open subscription.
pub struct PlatformEvents {
    subscription: JsWorkflowSubscription,
    payloads: Payloads,
}

impl PlatformEvents {
    /// Waits for the next event, and returns its type, milliseconds since 1970, step, attempt and the error's
    /// message as a JSON array, without reading the rest of it. `None` when the subscription is over.
    pub async fn next_brief(&mut self) -> Result<Option<String>, WorkflowError> {
        let Some(result) = self.next_result().await? else {
            return Ok(None);
        };
        let brief = js::instance_event_brief(&property(&result, "value"));
        let _ = js::dispose(&result);
        Ok(Some(brief?))
    }

    async fn next_result(&mut self) -> Result<Option<JsValue>, WorkflowError> {
        let result = self.subscription.next().await?;
        let is_done = property(&result, "done").is_truthy();
        Ok((!is_done).then_some(result))
    }
}

impl InstanceEvents for PlatformEvents {
    type Error = WorkflowError;

    async fn next(&mut self) -> Result<Option<WorkflowInstanceEvent>, WorkflowError> {
        let Some(result) = self.next_result().await? else {
            return Ok(None);
        };
        let Payloads { params, outputs } = self.payloads;
        let event = property(&result, "value");
        let read = |params, outputs| {
            let json = js::instance_event_json(&event, params, outputs).map_err(|e| message(&e))?;
            border::read::<WorkflowInstanceEvent>(&json).map_err(|error| error.to_string())
        };
        // An event whose payload cannot cross loses it. As an error it would make viewers come back for ever.
        let read = read(params, outputs).or_else(|_| read(false, false));
        // Releases what the result holds of the engine, such as a stream. A failure has no consequence.
        let _ = js::dispose(&result);
        read.map(Some).map_err(|error| {
            let message = format!("an event of the platform cannot be read: {error}");
            WorkflowError::new(WorkflowErrorKind::Other, message)
        })
    }
}

#[allow(clippy::cast_precision_loss, reason = "below 2^53")]
fn id_to_js(id: InstanceEventId) -> JsValue {
    JsValue::from_f64(id.get() as f64)
}

impl Drop for PlatformEvents {
    fn drop(&mut self) {
        // A failure has no consequence: the runtime ends the subscriptions of a request.
        let _ = js::dispose(&self.subscription);
    }
}
