//! A bridge from the crate `tracing`: sends its spans and events through a [`Tracer`].

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as PollContext, Poll};

use cloudflare_workflows::Progress;
use serde_json::{Map, Value};
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::{Span, Tracer};
use crate::sync::{Mutex, lock};

/// A layer of `tracing-subscriber`. Code that has `#[instrument]` on it, or spans of its own, is
/// watched live without a change (feature `tracing`).
///
/// | in `tracing` | in the log |
/// |---|---|
/// | a span begins | `started`, by its name, within the span around it |
/// | an event in a span | `progress`: the message, the field `percent` if it is a number, the other fields and the `level` as attributes |
/// | a span ends | `completed`, with its fields as attributes |
/// | a span ends in which an event of the level ERROR was, or one that `#[instrument(err)]` makes, or which recorded a field `error` | `failed`, with the last such message |
/// | a span ends by a panic | `failed` |
///
/// Events outside all spans are left out. A future that is dropped before its end completes its
/// span, since `tracing` does not distinguish the two.
///
/// The filters of `tracing-subscriber` choose what is sent, as for any layer: what a filter leaves
/// out is not sent, and spans within it are shown within the next span outside. What the store does
/// for this layer is never sent, nor what a runtime logs when it wakes the sending task. Tasks that
/// a store's client runs by itself are not recognised: leave their targets out by a filter.
///
/// It never waits: events go to the tracer's queue, which leaves some out when it is full.
///
/// ```
/// use ssetarget::tracer::{SseLayer, Tracer};
/// use ssetarget::{MemoryEventStore, NewEvent, SseTarget};
/// use tracing_subscriber::filter::LevelFilter;
/// use tracing_subscriber::prelude::*;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
/// let (tracer, sending) = Tracer::new(&target, tokio::time::sleep);
/// tokio::spawn(sending);
/// let layer = SseLayer::new(tracer.clone()).with_filter(LevelFilter::INFO);
/// let subscriber = tracing_subscriber::registry().with(layer); // beside others
///
/// #[tracing::instrument(err)]
/// fn parse(text: &str) -> Result<u32, std::num::ParseIntError> {
///     tracing::info!(percent = 50, "half done");
///     text.parse()
/// }
/// tracing::subscriber::with_default(subscriber, || parse("seven")).unwrap_err();
/// assert!(tracer.flush().await);
/// # let page = ssetarget::EventStore::read(target.store(), None, Default::default()).await.unwrap();
/// # let types: Vec<_> = page.events.iter().map(|event| event.event_type.as_str()).collect();
/// # assert_eq!(types, ["started", "progress", "failed"]);
/// # });
/// ```
pub struct SseLayer {
    route: Box<dyn Fn(&NewSpan<'_>) -> Route + Send + Sync>,
}

impl SseLayer {
    /// Sends all spans to one log.
    #[must_use]
    pub fn new(tracer: Tracer) -> Self {
        Self::routed(move |_| Route::Span(tracer.clone()))
    }

    /// Calls `route` for each span that is not within another sent span, to choose the log for it
    /// and all spans within it. For example, each job can have a log, chosen by a field of the
    /// job's span.
    #[must_use]
    pub fn routed(route: impl Fn(&NewSpan<'_>) -> Route + Send + Sync + 'static) -> Self {
        Self {
            route: Box::new(route),
        }
    }
}

/// The destination of a span: see [`SseLayer::routed`].
#[derive(Clone, Debug)]
pub enum Route {
    /// The span is not sent.
    Ignore,
    /// The span goes to this tracer.
    Span(Tracer),
    /// The span goes to this tracer as the root of its log; the end of the span is the end of the
    /// log: see [`Tracer::with_root`].
    Root(Tracer),
}

/// Describes a span that begins: see [`SseLayer::routed`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NewSpan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its target; by default the module that it is in.
    pub target: &'a str,
    /// Its fields.
    pub fields: &'a Map<String, Value>,
}

/// The state that is attached to a span of `tracing`.
struct SpanState {
    span: Span,
    error: Mutex<Option<String>>,
}

impl<S> Layer<S> for SseLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if QUIET.get() {
            return;
        }
        let Some(registered) = context.span(id) else {
            return;
        };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let name = attributes.metadata().name();
        let around = registered
            .scope()
            .skip(1)
            .find_map(|outer| outer.extensions().get::<Arc<SpanState>>().map(Arc::clone));
        let span = match around {
            Some(around) => around.span.begin_within(name),
            None => {
                let span = NewSpan {
                    name,
                    target: attributes.metadata().target(),
                    fields: &fields.values,
                };
                match (self.route)(&span) {
                    Route::Ignore => return,
                    Route::Span(tracer) => tracer.begin_span(name),
                    Route::Root(tracer) => tracer.begin_root(name),
                }
            }
        };
        let state = SpanState {
            span,
            error: Mutex::default(),
        };
        state.record(fields);
        registered.extensions_mut().insert(Arc::new(state));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let registered = context.span(id);
        let state =
            registered.and_then(|span| span.extensions().get::<Arc<SpanState>>().map(Arc::clone));
        if let Some(state) = state {
            let mut fields = Fields::default();
            values.record(&mut fields);
            state.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if QUIET.get() {
            return;
        }
        let state = context.event_scope(event).and_then(|mut scope| {
            scope.find_map(|span| span.extensions().get::<Arc<SpanState>>().map(Arc::clone))
        });
        if let Some(state) = state {
            let mut fields = Fields::default();
            event.record(&mut fields);
            state.event(*event.metadata().level(), fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let registered = context.span(&id);
        let state = registered.and_then(|span| span.extensions_mut().remove::<Arc<SpanState>>());
        if let Some(state) = state {
            state.close();
        }
    }
}

impl SpanState {
    fn record(&self, fields: Fields) {
        if let Some(error) = fields.values.get(ERROR) {
            *lock(&self.error) = Some(text(error));
        }
        for (name, value) in fields.values {
            self.span.set_attribute(name, value);
        }
    }

    fn event(&self, level: Level, mut fields: Fields) {
        let error = fields.values.get(ERROR).map(text);
        // The form of an event that `#[instrument(err)]` makes, at any level.
        let is_result = error.is_some() && fields.message.is_none();
        if level == Level::ERROR || is_result {
            let error = error.or_else(|| fields.message.clone());
            *lock(&self.error) = Some(error.unwrap_or_else(|| "failed".to_owned()));
        }
        if is_result {
            return; // The end of the span says it.
        }
        let percent = fields.values.get(PERCENT).and_then(Value::as_f64);
        let mut progress = match percent {
            Some(percent) => {
                fields.values.remove(PERCENT);
                Progress::percent(percent)
            }
            None => Progress::default(),
        };
        progress.message = fields.message;
        progress.attributes = fields.values;
        self.span
            .progress(progress.attribute(LEVEL, level.as_str()));
    }

    fn close(&self) {
        let error = lock(&self.error).take();
        match error {
            Some(error) => self.span.fail(&error),
            None if std::thread::panicking() => self.span.fail("panicked"),
            None => self.span.complete(),
        }
    }
}

const ERROR: &str = "error";
const LEVEL: &str = "level";
const MESSAGE: &str = "message";
const PERCENT: &str = "percent";

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Collects fields as JSON. A value without a JSON form is a string with its `Debug` output.
#[derive(Default)]
struct Fields {
    message: Option<String>,
    values: Map<String, Value>,
}

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.values.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == MESSAGE {
            self.message = Some(format!("{value:?}"));
        } else {
            self.insert(field, format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            self.message = Some(value.to_owned());
        } else {
            self.insert(field, value);
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }
}

thread_local! {
    /// Set while a tracer sends on this thread. The logs of sending must not be sent, too, or it would never end.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Calls `run`, and sends nothing of what it logs.
pub(super) fn quiet<T>(run: impl FnOnce() -> T) -> T {
    /// Restores the flag even if `run` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            QUIET.set(self.0);
        }
    }
    let _restore = Restore(QUIET.replace(true));
    run()
}

/// Wraps a future so that nothing it logs is sent.
pub(super) fn quietly<F>(future: F) -> Quiet<F> {
    Quiet { future }
}

pin_project_lite::pin_project! {
    pub(super) struct Quiet<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Quiet<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut PollContext<'_>) -> Poll<F::Output> {
        quiet(|| self.project().future.poll(context))
    }
}

impl fmt::Debug for SseLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SseLayer(..)")
    }
}
