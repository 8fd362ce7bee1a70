//! Sends spans of any code as events. They have the model and the wire format of
//! [`WorkflowEventStep`](crate::workflow::WorkflowEventStep), without a workflow.
//!
//! ```
//! use ssetarget::tracer::Tracer;
//! use ssetarget::{MemoryEventStore, NewEvent, SseTarget};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
//! let (tracer, sending) = Tracer::new(&target, tokio::time::sleep);
//! tokio::spawn(sending);
//!
//! let total: Result<u32, std::num::ParseIntError> = tracer
//!     .with_root("import", async |import| {
//!         let text = import.with_span("download", async |_| Ok("20")).await?;
//!         import.with_span("parse", async |span| {
//!             span.progress("reading numbers");
//!             span.set_attribute("bytes", text.len());
//!             text.parse()
//!         })
//!         .await
//!     })
//!     .await;
//! assert_eq!(total, Ok(20));
//! # let page = ssetarget::EventStore::read(target.store(), None, Default::default()).await.unwrap();
//! # assert_eq!(page.events.len(), 7);
//! # });
//! ```

mod config;
#[cfg(feature = "tracing")]
mod layer;
mod outbox;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::clock;
use crate::delivery::SseTarget;
use crate::event::NewEvent;
use crate::store::EventStore;
use crate::sync::{MaybeSend, Mutex, lock};
use crate::task::{Form, Kind, StepEvent, StepEventType, Task, TaskCounter, TaskId, report_key};
use cloudflare_workflows::Progress;
use outbox::{Handle, Outbox};

pub use config::TracerConfig;
#[cfg(feature = "tracing")]
pub use layer::{NewSpan, Route, SseLayer};

/// Records the work of code in a log: a span is a task that starts, reports progress, and completes
/// or fails.
///
/// - **The traced code is not affected.** Its results are its own. Events are queued and sent in
///   the background, in order and in batches, and sent again with back-off while the store fails.
/// - **Names are stable.** A task's id is the path of its spans, each with its number among those
///   of its name in the same place (`import-1/row-2`), whatever runs at the same time. A log keeps
///   each fact once: code that runs again from its start and sends to the same log through another
///   tracer adds no duplicates. To record a further run as new, name it: [`TracerConfig::run`].
/// - **Memory is bounded.** While [`TracerConfig::capacity`] events wait, new spans and reports are
///   left out and [counted](Self::left_out). A span is left out whole: none of its events is sent,
///   and spans within it are shown within the next span outside. The end of a span whose start was
///   sent is always kept.
///
/// Clones, and spans, are handles to one queue, `Send` and `Sync`.
#[derive(Clone)]
pub struct Tracer {
    handle: Arc<Handle>,
    /// Counts the spans at the top, and those directly below a root.
    top: Arc<Mutex<TaskCounter>>,
    run: Option<Arc<str>>,
}

impl Tracer {
    /// Returns a tracer with the default config, and the future that sends its events: see
    /// [`with_config`](Self::with_config).
    pub fn new<E, S, F>(
        target: &SseTarget<E, S>,
        sleep: impl Fn(Duration) -> F + Send + Sync + 'static,
    ) -> (Self, impl Future<Output = ()> + MaybeSend + 'static)
    where
        S: EventStore + 'static,
        F: Future<Output = ()> + MaybeSend + 'static,
    {
        Self::with_config(target, TracerConfig::new(), sleep)
    }

    /// Returns a tracer, and the future that sends its events: spawn it, for example with
    /// `tokio::spawn`. It ends when all handles are dropped and their events are stored. `sleep` is
    /// the runtime's timer, such as `tokio::time::sleep`.
    pub fn with_config<E, S, F>(
        target: &SseTarget<E, S>,
        config: TracerConfig,
        sleep: impl Fn(Duration) -> F + Send + Sync + 'static,
    ) -> (Self, impl Future<Output = ()> + MaybeSend + 'static)
    where
        S: EventStore + 'static,
        F: Future<Output = ()> + MaybeSend + 'static,
    {
        let run = config.run.clone();
        let outbox = Arc::new(Outbox::new(config, clock::sleep_with(sleep)));
        let sending = outbox::send(Arc::clone(&outbox), target.typed());
        #[cfg(feature = "tracing")]
        let sending = layer::quietly(sending);
        let tracer = Self {
            handle: Arc::new(Handle(outbox)),
            top: Arc::default(),
            run,
        };
        (tracer, sending)
    }

    /// Runs `body` as a span named `name`. The span fails if `body` does.
    ///
    /// The span also fails when the future is dropped before its end, or when `body` panics.
    ///
    /// # Errors
    /// The errors of `body`.
    pub async fn with_span<T, E: fmt::Display>(
        &self,
        name: &str,
        body: impl AsyncFnOnce(Span) -> Result<T, E>,
    ) -> Result<T, E> {
        self.begin_span(name).run(body).await
    }

    /// Runs `body` as the root of the log's spans, of the kind `workflow`. Its end is the end of
    /// the log, after which viewers' streams end. Returns when that is stored, or when waiting for
    /// it timed out: see [`flush`](Self::flush).
    ///
    /// # Errors
    /// The errors of `body`.
    pub async fn with_root<T, E: fmt::Display>(
        &self,
        name: &str,
        body: impl AsyncFnOnce(Span) -> Result<T, E>,
    ) -> Result<T, E> {
        let result = self.begin_root(name).run(body).await;
        self.flush().await;
        result
    }

    /// Waits until all events so far are stored, at most
    /// [`DispatchConfig::end_timeout`](crate::workflow::DispatchConfig::end_timeout). Returns
    /// whether they are.
    pub async fn flush(&self) -> bool {
        self.handle.0.flush().await
    }

    /// Returns how many spans and reports were left out so far because too many events waited to be
    /// stored.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.handle.0.left_out()
    }

    fn begin_span(&self, name: &str) -> Span {
        let form = Form::Step(Kind::Do);
        let task = number(&self.top, form, name, self.run.as_deref());
        Span::begin(&self.handle, task, None)
    }

    fn begin_root(&self, name: &str) -> Span {
        let form = Form::Step(Kind::Workflow);
        let task = number(&self.top, form, name, self.run.as_deref());
        let (counter, within) = (Arc::clone(&self.top), self.run.clone());
        Span::begin_as(&self.handle, task, None, counter, within)
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer")
            .field("run", &self.run)
            .field("left_out", &self.left_out())
            .finish_non_exhaustive()
    }
}

/// A span that has begun. It reports what its code does, and begins spans within it, also from
/// other tasks and threads. After its end it sends nothing.
///
/// Clones are the same span.
#[derive(Clone)]
pub struct Span {
    shared: Arc<Shared>,
}

struct Shared {
    handle: Arc<Handle>,
    task: Task,
    parent: Option<TaskId>,
    /// Whether its start was sent.
    shown: bool,
    ended: AtomicBool,
    reports: AtomicU32,
    attributes: Mutex<Map<String, Value>>,
    /// Counts the spans within it, whose ids begin with `within`.
    counter: Arc<Mutex<TaskCounter>>,
    within: Option<Arc<str>>,
}

impl Span {
    /// Runs `body` as a span within this one: see [`Tracer::with_span`].
    ///
    /// # Errors
    /// The errors of `body`.
    pub async fn with_span<T, E: fmt::Display>(
        &self,
        name: &str,
        body: impl AsyncFnOnce(Span) -> Result<T, E>,
    ) -> Result<T, E> {
        self.begin_within(name).run(body).await
    }

    /// Reports progress.
    pub fn progress(&self, progress: impl Into<Progress>) {
        let shared = &self.shared;
        if !shared.shown || shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let number = shared.reports.fetch_add(1, Ordering::SeqCst) + 1;
        let progress = progress.into();
        let event = self.event(StepEventType::Progress);
        let event = event.report(progress.percent, progress.message);
        let event = event.attributes(progress.attributes);
        let key = report_key(self.task_id().as_str(), 1, number);
        if let Some(event) = encode(&event).and_then(|event| event.with_key(key).ok()) {
            shared.handle.0.push_if_there_is_room(event);
        }
    }

    /// Sets an attribute of its `completed` event.
    pub fn set_attribute(&self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        lock(&self.shared.attributes).insert(key, value);
    }

    /// Returns the id of its task in the log.
    #[must_use]
    pub fn task_id(&self) -> &TaskId {
        &self.shared.task.id
    }

    fn begin(handle: &Arc<Handle>, task: Task, parent: Option<TaskId>) -> Self {
        let within = Some(task.id.as_str().into());
        Self::begin_as(handle, task, parent, Arc::default(), within)
    }

    fn begin_as(
        handle: &Arc<Handle>,
        task: Task,
        parent: Option<TaskId>,
        counter: Arc<Mutex<TaskCounter>>,
        within: Option<Arc<str>>,
    ) -> Self {
        let event = StepEvent::new(StepEventType::Started, &task, parent.clone(), clock::now());
        let shown = encode(&event).is_some_and(|event| handle.0.push_if_there_is_room(event));
        let shared = Shared {
            handle: Arc::clone(handle),
            task,
            parent,
            shown,
            ended: AtomicBool::new(false),
            reports: AtomicU32::new(0),
            attributes: Mutex::default(),
            counter,
            within,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    fn begin_within(&self, name: &str) -> Self {
        let shared = &self.shared;
        let form = Form::Step(Kind::Do);
        let task = number(&shared.counter, form, name, shared.within.as_deref());
        let parent = match shared.shown {
            true => Some(shared.task.id.clone()),
            false => shared.parent.clone(),
        };
        Self::begin(&shared.handle, task, parent)
    }

    async fn run<T, E: fmt::Display>(
        self,
        body: impl AsyncFnOnce(Span) -> Result<T, E>,
    ) -> Result<T, E> {
        let unfinished = Unfinished(self.clone());
        let result = body(self.clone()).await;
        match &result {
            Ok(_) => self.complete(),
            // For errors with a chain of causes, such as `anyhow`'s, the alternate form is the
            // whole chain in one line.
            Err(error) => self.fail(&format!("{error:#}")),
        }
        drop(unfinished);
        result
    }

    fn complete(&self) {
        let attributes = std::mem::take(&mut *lock(&self.shared.attributes));
        self.end(|| self.event(StepEventType::Completed).attributes(attributes));
    }

    fn fail(&self, error: &str) {
        self.end(|| self.event(StepEventType::Failed).error(error));
    }

    /// Sends the end of the span. Only the first end counts.
    fn end(&self, event: impl FnOnce() -> StepEvent) {
        if self.shared.ended.swap(true, Ordering::SeqCst) || !self.shared.shown {
            return;
        }
        if let Some(event) = encode(&event()) {
            self.shared.handle.0.push(event);
        }
    }

    fn event(&self, of: StepEventType) -> StepEvent {
        let shared = &self.shared;
        let event = StepEvent::new(of, &shared.task, shared.parent.clone(), clock::now());
        event.redact(shared.handle.0.redact())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Span")
            .field("task_id", self.task_id())
            .field("parent_id", &self.shared.parent)
            .finish_non_exhaustive()
    }
}

/// Fails a span whose future is dropped before its end.
struct Unfinished(Span);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.fail(match std::thread::panicking() {
            true => "panicked",
            false => "cancelled before its end",
        });
    }
}

fn number(counter: &Mutex<TaskCounter>, form: Form, name: &str, within: Option<&str>) -> Task {
    let mut task = lock(counter).next(form, name);
    task.id = task.id.within(within);
    task
}

/// Encodes an event. Returns `None` if its names are too long: the traced code must not suffer for
/// that.
fn encode(event: &StepEvent) -> Option<NewEvent> {
    NewEvent::encode(event).ok()
}
