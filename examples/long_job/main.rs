//! A long job of a plain axum server, watched live: a film is transcoded in parts. The log of each job is an SQLite
//! file. When the server starts again, unfinished jobs run again, and viewers still see each event once.
//!
//! `cargo run --example long_job --features axum,rusqlite`, then on <http://localhost:9877>:
//! - `POST /jobs` starts a job and answers with its id
//! - `GET /jobs/<id>` is its page, `GET /jobs/<id>/sse` its events

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use cloudflare_workflows::Progress;
use ssetarget::http::RunRoutes;
use ssetarget::store::SqliteFile;
use ssetarget::task::StepEvent;
use ssetarget::tracer::{Span, Tracer};
use ssetarget::{Cursor, Refusal, SqliteEventStore, SseTarget};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let jobs = Jobs::open("data/films".into(), Duration::from_millis(200)).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:9877").await?;
    Ok(axum::serve(listener, app(jobs)).await?)
}

fn app(jobs: Jobs) -> Router {
    let found = jobs.clone();
    let runs = RunRoutes::new(move |id: String| {
        let job = found.logs().get(&id).cloned();
        async move { job.ok_or(Refusal::NotFound("there is no such job")) }
    });
    let start = async move || {
        jobs.start()
            .map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
    };
    Router::new()
        .route("/jobs", post(start))
        .merge(runs.prefix("/jobs").page().snapshots().into_router())
}

type Log = SseTarget<StepEvent, SqliteEventStore<SqliteFile>>;

#[derive(Clone)]
struct Jobs {
    folder: PathBuf,
    work: Duration,
    logs: Arc<Mutex<HashMap<String, Log>>>,
}

impl Jobs {
    /// Opens the logs in a folder, and runs unfinished jobs again.
    async fn open(folder: PathBuf, work: Duration) -> Result<Self, Box<dyn Error>> {
        std::fs::create_dir_all(&folder)?;
        let logs = Arc::default();
        let jobs = Self { folder, work, logs };
        for file in std::fs::read_dir(&jobs.folder)? {
            let path = file?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str());
            let (Some(id), true) = (id, path.extension().is_some_and(|end| end == "db")) else {
                continue;
            };
            let log = jobs.log(id, &path)?;
            if !log.subscribe(Cursor::Latest).await?.has_ended() {
                jobs.run(&log);
            }
        }
        Ok(jobs)
    }

    fn start(&self) -> Result<String, Box<dyn Error>> {
        let id = format!("film-{}", self.logs().len() + 1);
        let log = self.log(&id, &self.folder.join(format!("{id}.db")))?;
        self.run(&log);
        Ok(id)
    }

    fn log(&self, id: &str, file: &Path) -> Result<Log, Box<dyn Error>> {
        let log = SseTarget::new(SqliteEventStore::open(file)?);
        self.logs().insert(id.to_owned(), log.clone());
        Ok(log)
    }

    /// Runs a job in the background. A tracer gives its tasks the same names each time, and the log keeps each fact once.
    fn run(&self, log: &Log) {
        let (tracer, sending) = Tracer::new(log, sleep);
        tokio::spawn(sending);
        let work = self.work;
        tokio::spawn(async move {
            let job = tracer.with_root("transcode", async |job| transcode(&job, work).await);
            job.await
        });
    }

    fn logs(&self) -> MutexGuard<'_, HashMap<String, Log>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn transcode(job: &Span, work: Duration) -> Result<(), Infallible> {
    job.with_span("read the film", async |_| {
        sleep(work).await;
        Ok::<_, Infallible>(())
    })
    .await?;
    for height in [2160, 1080, 480] {
        job.with_span(&format!("{height}p"), async |part| {
            for second in 1..=20 {
                sleep(work).await;
                let message = format!("{second} of 20 seconds");
                part.progress(Progress::percent(f64::from(second) * 5.0).message(message));
            }
            Ok::<_, Infallible>(())
        })
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
