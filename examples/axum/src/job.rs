//! A job that knows nothing of events. It is instrumented with the crate `tracing`, and a layer
//! makes a log of it that people can watch.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use ssetarget::EventStore;
use ssetarget::SseTarget;
use ssetarget::tracer::{Route, SseLayer, Tracer};
use tokio::time::sleep;
use tracing::{Instrument, Subscriber, info, info_span, instrument, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

/// The jobs under way, each with the tracer of its log.
#[derive(Clone, Default)]
pub struct Jobs {
    tracers: Arc<Mutex<HashMap<String, Tracer>>>,
}

/// The span of a whole job, and its field with the job's id.
const SPAN: &str = "import";
const FIELD: &str = "job";

impl Jobs {
    /// Returns a layer that sends each job's spans to its log, and no others.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let jobs = self.clone();
        let layer = SseLayer::routed(move |span| {
            let id = span.fields.get(FIELD).and_then(Value::as_str);
            match id.and_then(|id| jobs.tracer(id)) {
                Some(tracer) if span.name == SPAN => Route::Root(tracer),
                _ => Route::Ignore,
            }
        });
        layer.with_filter(Targets::new().with_target(module_path!(), tracing::Level::INFO))
    }

    /// Starts a job that takes `work` for each of its parts, and returns once its log has begun.
    pub async fn start<E, S>(&self, id: &str, log: &SseTarget<E, S>, work: Duration)
    where
        S: EventStore + 'static,
    {
        let (tracer, sending) = Tracer::new(log, sleep);
        tokio::spawn(sending);
        self.lock().insert(id.to_owned(), tracer.clone());

        let span = info_span!(SPAN, job = id);
        let (jobs, id) = (self.clone(), id.to_owned());
        let job = async move {
            import(work).await.ok(); // Its span reports the failure.
            jobs.lock().remove(&id);
        };
        tokio::spawn(job.instrument(span));
        tracer.flush().await;
    }

    fn tracer(&self, id: &str) -> Option<Tracer> {
        self.lock().get(id).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Tracer>> {
        self.tracers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a new random id.
pub fn new_id() -> String {
    // The keys of a hasher are as random as the standard library gets.
    format!(
        "job-{:016x}",
        RandomState::new().hash_one(std::process::id())
    )
}

// From here on it is a program like any other.

async fn import(work: Duration) -> Result<(), ImportError> {
    let files = download(work).await;
    let (first, second) = tokio::join!(parse(files[0], work), parse(files[1], work));
    info!(rows = first? + second?, "all files are read");
    // A failure to notify is not a failure of the job.
    notify("nobody@example.com", work).await.ok();
    Ok(())
}

#[instrument(skip_all)]
async fn download(work: Duration) -> [&'static str; 2] {
    for done in [25, 50, 75, 100] {
        sleep(work).await;
        info!(percent = done, "downloading");
    }
    ["customers.csv", "orders.csv"]
}

#[instrument(skip(work), fields(rows), err)]
async fn parse(file: &str, work: Duration) -> Result<u32, ImportError> {
    for attempt in 1.. {
        sleep(work * 2).await;
        if file == "orders.csv" && attempt == 1 {
            warn!(attempt, "the file is locked, trying again");
            continue;
        }
        break;
    }
    let rows = 1_200;
    tracing::Span::current().record("rows", rows);
    Ok(rows)
}

#[instrument(skip(work), err)]
async fn notify(address: &str, work: Duration) -> Result<(), ImportError> {
    sleep(work).await;
    Err(ImportError("the mail server does not answer"))
}

#[derive(Debug)]
struct ImportError(&'static str);

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for ImportError {}
