//! Appends a run's facts at its object. Runs in the Worker, in the engine's calls of a workflow's `run`.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::rc::Rc;

use cloudflare_workflows::__private::message;
use futures_util::future::LocalBoxFuture;
use js_sys::{Function, Uint8Array};
use wasm_bindgen::prelude::*;

use super::namespace::WorkflowEventsNamespace;
use crate::cloudflare::callback::CallbackValue;
use crate::cloudflare::js;
use crate::cloudflare::opened::read_opened;
use crate::cloudflare::packed::{STALE, pack_facts};
use crate::event::NewEvent;
use crate::workflow::{FactLog, Opened, Told};

/// Appends the facts of one lifetime of an instance at its `WorkflowEvents` object, for
/// [`WatchedRun`](super::watched_run::WatchedRun). Opening another one for the same instance begins the next
/// lifetime, and this one is over. Code outside the run uses [`WorkflowEventsNamespace::append`].
///
/// Appends go through a function that the object's `enter` returns, so that any number of them between
/// two waits of the workflow are one subrequest of the instance. The object stays in memory while the
/// function is held.
pub struct ObjectFactLog {
    events: WorkflowEventsNamespace,
    instance_id: String,
    session: RefCell<Option<Rc<AppendSession>>>,
    /// Shared with the run, which outlives it.
    calls: Rc<Cell<u32>>,
}

impl ObjectFactLog {
    /// Returns the log of this instance. Makes no call.
    #[must_use]
    pub fn new(events: WorkflowEventsNamespace, instance_id: impl Into<String>) -> Self {
        Self {
            events,
            instance_id: instance_id.into(),
            session: RefCell::default(),
            calls: Rc::default(),
        }
    }

    /// Counts the calls in `calls`.
    pub(super) fn counting(mut self, calls: &Rc<Cell<u32>>) -> Self {
        self.calls = Rc::clone(calls);
        self
    }

    /// Returns the number of subrequests that were made.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.calls.get()
    }

    /// Opens a session and keeps it. Boxed, so that this code, which is seldom needed, is not part of the code that
    /// appends: the runtime optimizes functions that are called often, each as a whole.
    fn session(
        &self,
        generation: Option<f64>,
    ) -> LocalBoxFuture<'_, Result<Rc<AppendSession>, JsValue>> {
        Box::pin(async move {
            self.calls.set(self.calls.get() + 1);
            // A stub is dead after an error, so each session gets its own.
            let stub: js::EventsStub = self.events.stub(&self.instance_id)?.into_rpc();
            let session: js::EventsSession = stub.enter(generation).await?.unchecked_into();
            let session = Rc::new(AppendSession::new(session));
            self.release();
            *self.session.borrow_mut() = Some(Rc::clone(&session));
            Ok(session)
        })
    }

    /// Returns the session that is held, or opens one that only appends.
    async fn held(&self) -> Result<Rc<AppendSession>, JsValue> {
        let session = self.session.borrow().clone();
        match session {
            Some(session) => Ok(session),
            None => self.session(None).await,
        }
    }
}

/// A failed call of an [`ObjectFactLog`]. It is made again.
#[derive(Debug)]
pub struct ObjectFactLogError {
    kind: ObjectFactLogErrorKind,
    message: String,
    source: Option<serde_json::Error>,
}

/// The reason of an [`ObjectFactLogError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObjectFactLogErrorKind {
    /// The object cannot be reached, or its code failed.
    Unreachable,
    /// The object's answer cannot be read, for example because it has another version of this crate.
    Answer,
}

impl ObjectFactLogError {
    /// Returns the reason.
    #[must_use]
    pub fn kind(&self) -> ObjectFactLogErrorKind {
        self.kind
    }

    fn unreachable(error: &JsValue) -> Self {
        Self {
            kind: ObjectFactLogErrorKind::Unreachable,
            message: message(error),
            source: None,
        }
    }

    fn answer(error: serde_json::Error) -> Self {
        Self {
            kind: ObjectFactLogErrorKind::Answer,
            message: format!("the object's answer cannot be read: {error}"),
            source: Some(error),
        }
    }
}

impl fmt::Display for ObjectFactLogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ObjectFactLogError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

impl FactLog for ObjectFactLog {
    type Error = ObjectFactLogError;

    async fn open(&self, generation: Option<u64>) -> Result<Opened, ObjectFactLogError> {
        let generation = to_number(generation.unwrap_or(0));
        let session = self.session(Some(generation)).await;
        let session = session.map_err(|error| ObjectFactLogError::unreachable(&error))?;
        let opened = session.js.opened().ok().and_then(|json| json.as_string());
        read_opened(&opened.unwrap_or_default()).map_err(ObjectFactLogError::answer)
    }

    async fn append(
        &self,
        generation: u64,
        run: u32,
        batch: &[NewEvent],
    ) -> Result<Told, ObjectFactLogError> {
        let appended = async {
            let session = self.held().await?;
            session
                .append(to_number(generation), run, &pack_facts(batch))
                .await
        };
        let told = appended.await;
        let told = told.map_err(|error| ObjectFactLogError::unreachable(&error))?;
        Ok(if told == STALE {
            Told::Stale
        } else {
            Told::Stored(js::count(told))
        })
    }

    async fn settle(&self) -> Result<(), ObjectFactLogError> {
        let settled = async { self.held().await?.js.settle().await };
        let settled = settled.await.map(drop);
        settled.map_err(|error| ObjectFactLogError::unreachable(&error))
    }

    fn release(&self) {
        if let Some(session) = self.session.borrow_mut().take() {
            // A failure does no harm: the runtime releases everything that a lifetime held.
            let _ = js::dispose(&session.js);
        }
    }
}

/// The functions that the object's `enter` returned, and the callbacks for their answers.
struct AppendSession {
    js: js::EventsSession,
    /// Callbacks free for reuse: one, unless appends overlap.
    idle: RefCell<Vec<AppendCall>>,
}

/// A callback for the answers to appends, one after another.
struct AppendCall {
    answer: Rc<CallbackValue<JsValue>>,
    /// The callback. Freed when neither the call nor JavaScript holds it any more.
    done: Function,
}

impl AppendSession {
    fn new(js: js::EventsSession) -> Self {
        Self {
            js,
            idle: RefCell::default(),
        }
    }

    /// Appends a batch, and returns the number that the object answered.
    async fn append(&self, generation: f64, run: u32, batch: &[u8]) -> Result<f64, JsValue> {
        let call = self.idle.borrow_mut().pop().unwrap_or_else(AppendCall::new);
        js::append_facts(
            &self.js,
            generation,
            run,
            &Uint8Array::from(batch),
            &call.done,
        )?;
        let answer = call.answer.take().await;
        self.idle.borrow_mut().push(call);
        answer.as_f64().ok_or(answer)
    }
}

impl AppendCall {
    fn new() -> Self {
        let answer = Rc::new(CallbackValue::default());
        let done = {
            let answer = Rc::clone(&answer);
            move |value| answer.deliver(value)
        };
        let done = Closure::wrap_assert_unwind_safe(Box::new(done) as Box<dyn FnMut(JsValue)>);
        Self {
            answer,
            done: done.into_js_value().unchecked_into(),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "below 2^53, as ids are")]
fn to_number(generation: u64) -> f64 {
    generation as f64
}
