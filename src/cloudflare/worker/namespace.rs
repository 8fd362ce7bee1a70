//! The addresses of the `WorkflowEvents` objects of a workflow, and calls to them. Runs in the Worker.

use cloudflare_workflows::__private::message;
use cloudflare_workflows::Workflow;
use futures_util::future::LocalBoxFuture;
use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use worker::durable::{ObjectNamespace, Stub};
use worker::{Env, Response, web_sys};

use super::instance_id::is_instance_id;
use super::transport::Transport;
use crate::access::Grant;
#[cfg(feature = "links")]
use crate::access::Permission;
use crate::cloudflare::command::{LogAnswer, LogCommand, read_json};
#[cfg(feature = "relays")]
use crate::cloudflare::fan_out::FanOut;
use crate::cloudflare::js;
use crate::cloudflare::packed::pack_facts;
use crate::cloudflare::request::ObjectRequest;
use crate::cloudflare::stats::LogStats;
use crate::event::NewEvent;
use crate::stats::{Observer, Observing};
use crate::task::Redact;

/// The `WorkflowEvents` objects of one workflow: one object for each instance.
///
/// Objects are addressed by workflow and instance, so that instances of two workflows may have
/// the same id.
#[derive(Clone, Debug)]
pub struct WorkflowEventsNamespace {
    namespace: ObjectNamespace,
    #[cfg(feature = "relays")]
    pub(super) binding: String,
    pub(super) workflow_name: String,
    pub(super) workflow: Option<Workflow>,
    pub(super) asks_for_unknown: bool,
    pub(super) transport: Transport,
    #[cfg(feature = "relays")]
    pub(super) fan_out: Option<FanOut>,
    pub(super) redact: Option<Redact>,
    #[cfg(feature = "index")]
    pub(super) tags: Vec<String>,
    pub(super) observing: Observing,
}

const NO_INSTANCE: &str = "there is no workflow instance with this id";

impl WorkflowEventsNamespace {
    /// Returns the objects behind the binding `binding` for the workflow of this name: the `name` that
    /// it has in `wrangler.toml`, which a run gets as
    /// [`WorkflowEvent::workflow_name`](cloudflare_workflows::WorkflowEvent::workflow_name). Readers and
    /// writers must give the same name: it is part of the objects' addresses.
    ///
    /// # Errors
    /// When there is no such binding, with a message that says what to write into
    /// `wrangler.toml`.
    #[inline(never)]
    pub fn from_env(
        env: &Env,
        binding: &str,
        workflow_name: impl Into<String>,
    ) -> worker::Result<Self> {
        let namespace = env.durable_object(binding).map_err(|error| {
            worker::Error::BindingError(format!(
                "there is no Durable Object binding {binding:?} ({error}): add \
                 [[durable_objects.bindings]] with name = {binding:?} and class_name = \
                 \"WorkflowEvents\" to wrangler.toml"
            ))
        })?;
        Ok(Self {
            namespace,
            #[cfg(feature = "relays")]
            binding: binding.to_owned(),
            workflow_name: workflow_name.into(),
            workflow: None,
            asks_for_unknown: false,
            transport: Transport::default(),
            #[cfg(feature = "relays")]
            fan_out: Some(FanOut::new()),
            redact: None,
            #[cfg(feature = "index")]
            tags: Vec::new(),
            observing: Observing::default(),
        })
    }

    /// Sets the binding that is asked about an instance whenever a viewer opens its stream. A run that is over
    /// without having reported its end then gets its last event, and the stream ends: a run that was terminated, that
    /// failed before its code ran, or whose log could not be reached at its end. An instance that the platform still
    /// does not know after half a minute is gone. Delays no byte. Costs one call to the binding for each stream.
    /// Default: none is asked.
    #[must_use]
    pub fn with_workflow(mut self, workflow: Workflow) -> Self {
        self.workflow = Some(workflow);
        self
    }

    /// Also asks the binding of [`with_workflow`](Self::with_workflow) about instances that have no events: viewers
    /// then wait for an instance that was not made by [`create`](Self::create) and has dispatched nothing yet, and do
    /// not get `404`. Default: it is not asked, and unknown ids cost the platform's engine nothing.
    #[must_use]
    pub fn ask_for_unknown(mut self) -> Self {
        self.asks_for_unknown = true;
        self
    }

    /// Sets the way from the object to its viewers. Default: [`Transport::default`].
    #[must_use]
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Sets when viewers of a run are served by relays (feature `relays`). When a run has more viewers than one
    /// object serves, further ones go to relays: objects of the same class, which get the events from the run's own
    /// object, or from other relays, and store nothing. Only with the transport [`Transport::Direct`]. Viewers get
    /// the same bytes. Each relay that is watched is in memory, and charged, like the run's own object. With `None`
    /// the run's object serves all viewers.
    ///
    /// Give all Workers that serve a run the same value. The binding must have the same name in the Worker that has
    /// the class; otherwise each object serves all its viewers by itself. Default: [`FanOut::new`].
    #[cfg(feature = "relays")]
    #[must_use]
    pub fn fan_out(mut self, fan_out: impl Into<Option<FanOut>>) -> Self {
        self.fan_out = fan_out.into();
        self
    }

    /// Sets the rule for the errors, messages and attributes of the runs that are wrapped with this. It is applied
    /// before they are sent to the object: a rule of your own, or [`Redact::SECRETS`]. Default: none. A
    /// [`DispatchConfig`](crate::workflow::DispatchConfig) with a rule has precedence. For errors that the object
    /// takes from the platform see [`WorkflowEventsConfig::redact`](crate::cloudflare::WorkflowEventsConfig::redact).
    #[must_use]
    pub fn redact(mut self, rule: Redact) -> Self {
        self.redact = Some(rule);
        self
    }

    /// Sets the tags of the instances that are [created](Self::create) with this (feature `index`), such as a customer or
    /// a team: up to 4, each of 1 to 64 letters, digits, `-`, `_` and `.`. A run is in the list of its workflow and in
    /// those of its tags. A restart keeps them. Default: none.
    ///
    /// # Errors
    /// When there are more, or one is not such a tag.
    #[cfg(feature = "index")]
    pub fn tags(
        mut self,
        tags: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, crate::cloudflare::InvalidTags> {
        self.tags = tags.into_iter().map(Into::into).collect();
        let are_tags = self.tags.iter().all(|tag| crate::runs::is_tag(tag));
        match are_tags && self.tags.len() <= crate::runs::MAX_TAGS {
            true => Ok(self),
            false => Err(crate::cloudflare::InvalidTags),
        }
    }

    /// Appends events to the latest run of an instance from outside its workflow, in one call, and returns how many
    /// were new. For a webhook, a queue's consumer, a cron job, or any other Worker that reports: no session is
    /// opened, and no facts are read.
    ///
    /// Each event needs a [key](NewEvent::with_key) that no fact of the run itself has. The log keeps the first event
    /// with a key and drops the others, so a call whose answer was lost can be repeated: it stores nothing twice, and
    /// then returns 0. The events of one call are stored all or none, next to one another, and are durable when this
    /// returns. A run that has ended takes none, and 0 is returned. A [terminal](NewEvent::terminal) one ends the log of the
    /// run, while its workflow goes on.
    ///
    /// The call does not ask whether there is such an instance: for an id that no run has, it begins a log that never
    /// ends, and is kept for ever. Check the sender first, and whether the run [exists](Self::exists).
    ///
    /// ```no_run
    /// use ssetarget::NewEvent;
    /// use ssetarget::cloudflare::WorkflowEventsNamespace;
    ///
    /// /// The carrier's webhook: it sends each delivery at least once, under an id of its own.
    /// async fn delivered(
    ///     events: &WorkflowEventsNamespace,
    ///     order: &str,
    ///     delivery: &str,
    /// ) -> Result<(), Box<dyn std::error::Error>> {
    ///     let event = NewEvent::new("parcel", r#"{"state":"delivered"}"#)?;
    ///     let event = event.with_key(format!("carrier/{delivery}"))?;
    ///     events.append(order, &[event]).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// When no instance can have this id, an event has no key, an event cannot be stored, or the object cannot be reached.
    /// Then none was stored, or the answer was lost.
    pub async fn append(&self, instance_id: &str, events: &[NewEvent]) -> worker::Result<usize> {
        self.tell(instance_id, events).await
    }

    /// Boxed, and in no caller: a future that is part of a handler's own is compiled with all of the handler whenever
    /// the runtime optimizes that, for a quarter of a second of processor time where it is large.
    #[inline(never)]
    fn tell(
        &self,
        instance_id: &str,
        events: &[NewEvent],
    ) -> LocalBoxFuture<'static, worker::Result<usize>> {
        let stub = self.stub(instance_id).map(Stub::into_rpc::<js::EventsStub>);
        let batch = Uint8Array::from(&*pack_facts(events));
        Box::pin(async move {
            let stored = stub?.tell(&batch).await?;
            Ok(stored.as_f64().map_or(0, js::count))
        })
    }

    /// Revokes all links to an instance's run that were made so far: raises their generation by one, and returns it.
    /// Pass it to `LinkGrant::generation` for links that are made from now on. Streams that are open with an earlier
    /// one end with the event `expired`, and requests get `401`.
    ///
    /// The generation is one number in the storage of the run's object, kept for at least 30 days, after which every
    /// earlier link has expired; nothing is stored for runs whose links are never revoked. Links to many runs, and to
    /// all runs, are revoked for this run, too; their lists still name it until they expire. An open stream of the
    /// platform's log ends within 30 seconds if [`RunRoutes`](crate::cloudflare::RunRoutes) serves it; one of
    /// `serve_instance_sse` alone goes on until its permission ends.
    ///
    /// # Errors
    /// When the object cannot be reached. Then it is not known whether they are revoked: do it again.
    #[cfg(feature = "links")]
    pub async fn revoke_links(&self, instance_id: &str) -> worker::Result<u64> {
        self.links(instance_id, true).await
    }

    /// Returns the generation of the links to an instance's run: 0 if they were never revoked.
    ///
    /// # Errors
    /// When the object cannot be reached.
    #[cfg(feature = "links")]
    pub async fn link_generation(&self, instance_id: &str) -> worker::Result<u64> {
        self.links(instance_id, false).await
    }

    #[cfg(feature = "links")]
    async fn links(&self, instance_id: &str, revoke: bool) -> worker::Result<u64> {
        let command = serde_json::to_string(&LogCommand::Links { revoke })?;
        let stub: js::EventsStub = self.stub(instance_id)?.into_rpc();
        let answer = stub.obey(&command).await?;
        Ok(serde_json::from_str(
            &answer.as_string().unwrap_or_default(),
        )?)
    }

    /// Returns whether a permission has been [revoked](Self::revoke_links), for actions on a run that do not read its
    /// log, such as answering it. Asks the object only about a permission by a link.
    ///
    /// # Errors
    /// When the object cannot be reached.
    #[cfg(feature = "links")]
    pub async fn has_revoked(
        &self,
        instance_id: &str,
        permission: Permission,
    ) -> worker::Result<bool> {
        match permission {
            Permission::Granted {
                generation: Some(generation),
                ..
            } => Ok(generation < self.link_generation(instance_id).await?),
            _ => Ok(false),
        }
    }

    /// Returns whether the instance has events.
    ///
    /// # Errors
    /// When the object cannot be reached.
    pub async fn exists(&self, instance_id: &str) -> worker::Result<bool> {
        let status = self.status_of(instance_id, Grant::default()).await?;
        Ok([200, 204].contains(&status))
    }

    /// Returns the status that a client with this grant gets for the instance's events: `200`, `204`, `404`, or
    /// `401` for a grant that was revoked.
    pub(super) async fn status_of(&self, instance_id: &str, grant: Grant) -> worker::Result<u16> {
        if !is_instance_id(instance_id) {
            return Ok(404);
        }
        let name = self.object_name(instance_id);
        let response = self.request(&name, &ObjectRequest::head(grant)).await?;
        Ok(response.status_code())
    }

    /// Deletes the log of an instance, and returns whether there were events. Its open streams are cut off, and
    /// clients that come back get `404`.
    ///
    /// A deleted log does not come back: further events of a run that goes on are not stored. The next run is stored
    /// again, when [`restart`](Self::restart) or [`create`](Self::create) announces it. Ids are not assigned again:
    /// one small row without data is left, which has the greatest id and the run's number. It is deleted [some time
    /// later](crate::cloudflare::WorkflowEventsConfig::ids_retention), when the run is over. The instance itself, and the
    /// platform's data about it, is not touched: see `WorkflowInstance::terminate`.
    ///
    /// Calling it again, or with an unknown id, changes nothing and returns `false`.
    ///
    /// # Errors
    /// When the object cannot be reached. Then the log may or may not be deleted.
    pub async fn delete_log(&self, instance_id: &str) -> worker::Result<bool> {
        if !is_instance_id(instance_id) {
            return Ok(false);
        }
        let deleted = self.command(instance_id, &LogCommand::Delete).await;
        Ok(deleted.map_err(worker::Error::RustError)?.changed)
    }

    /// Returns the state of the log of an instance and of its object: events, viewers, and the object's counts since
    /// it is in memory. For an unknown id it is an empty log. Stores nothing. For developers: it says more than
    /// viewers should know. Relays count their own viewers; the object only knows their number.
    ///
    /// # Errors
    /// When the object cannot be reached, or no instance can have this id.
    pub async fn stats(&self, instance_id: &str) -> worker::Result<LogStats> {
        let stub: js::EventsStub = self.stub(instance_id)?.into_rpc();
        let stats = stub.stats().await?.as_string();
        Ok(serde_json::from_str(&stats.unwrap_or_default())?)
    }

    /// Sets the [`Observer`] of the streams and refusals of this Worker. A Worker has no memory that lasts: an
    /// observer that counts must pass the counts on, for example to Analytics Engine. Only the object notices the
    /// ends of streams, see [`stats`](Self::stats). Default: none.
    #[must_use]
    pub fn observed_by(mut self, observer: impl Observer + 'static) -> Self {
        self.observing = Observing::by(observer);
        self
    }

    /// Makes the log of an instance carry out a command, in one call. Boxed, since it is awaited at many places.
    pub(super) fn command<'a>(
        &'a self,
        instance_id: &'a str,
        command: &'a LogCommand,
    ) -> LocalBoxFuture<'a, Result<LogAnswer, String>> {
        Box::pin(async move {
            let command = serde_json::to_string(command).map_err(|error| error.to_string())?;
            let answer = async {
                let stub: js::EventsStub = self.stub(instance_id)?.into_rpc();
                stub.obey(&command).await
            };
            let answer = answer.await.map_err(|error| message(&error))?;
            read_json(
                "the object's answer",
                &answer.as_string().unwrap_or_default(),
            )
        })
    }

    /// Sends a request to the object of this [name](Self::object_name), and returns its response.
    pub(super) async fn request(
        &self,
        name: &str,
        request: &ObjectRequest,
    ) -> worker::Result<Response> {
        Ok(self.request_raw(name, request).await?.into())
    }

    /// As [`request`](Self::request), with the runtime's own response: `worker`'s takes it apart.
    pub(super) async fn request_raw(
        &self,
        name: &str,
        request: &ObjectRequest,
    ) -> worker::Result<web_sys::Response> {
        let stub: js::EventsStub = self.namespace.get_by_name(name)?.into_rpc();
        let ObjectRequest {
            method,
            url,
            upgrades,
        } = request;
        let response = js::fetch_object(&stub, method, url, *upgrades).await?;
        Ok(response.dyn_into()?)
    }

    /// Returns a stub of the object that has an instance's log. Names with other ids are those of relays, which have no log.
    ///
    /// # Errors
    /// When no instance can have this id.
    pub(super) fn stub(&self, instance_id: &str) -> worker::Result<Stub> {
        if !is_instance_id(instance_id) {
            return Err(NO_INSTANCE.into());
        }
        self.namespace.get_by_name(&self.object_name(instance_id))
    }

    /// Returns the name of the object that has an instance's log.
    pub(super) fn object_name(&self, instance_id: &str) -> String {
        // Workflow names have no slash, so no two pairs give one name.
        format!("{}/{instance_id}", self.workflow_name)
    }
}
