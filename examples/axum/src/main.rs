//! Logs of events over Server-Sent Events, from an axum server.
//!
//! ```text
//! cargo run -p ssetarget-axum-example              then open http://localhost:9876
//! curl -d 'hello' 'localhost:9876/room?type=note'  dispatch an event to the log "room"
//! curl -N localhost:9876/room/sse                  watch it
//! open http://localhost:9876/runs/<id>             a job as a timeline
//! curl -X POST localhost:9876                      start a job, which traces itself into a log
//! curl -H 'accept: application/json' localhost:9876/room    see how it stands
//! ```
//!
//! | variable | |
//! |---|---|
//! | `HOST` | The address to listen at. Default: 127.0.0.1, this machine only. |
//! | `PORT` | Default: 9876. 0 takes a free one. |
//! | `DATA_DIR` | The folder of the logs, an SQLite file for each, with one server. Default: `data`. `:memory:` keeps them in memory. |
//! | `REDIS_URL` | Keeps the logs in Redis instead, to be shared by several servers. |
//! | `ALLOWED_ORIGINS` | Other sites whose pages may watch, with a comma between them. Default: none. |
//!
//! A restart of the server loses no event, however it ended, unless logs are in memory.
//!
//! Each viewer needs a file descriptor, and each log in a file two: see `ulimit -n`.

mod app;
mod job;
mod logs;
mod page;

use std::env;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ssetarget::http::Shutdown;
use ssetarget::stats::Metrics;
use ssetarget::store::redis::RedisClient;
use tokio::net::TcpListener;
use tracing::{info, warn};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;

use crate::job::Jobs;
use crate::logs::{FileLogs, MemoryLogs, RedisLogs};

/// How long the server waits for clients that do not read before it ends anyway.
const GRACE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let jobs = Jobs::default();
    let log = tracing_subscriber::fmt::layer().with_filter(LevelFilter::INFO);
    tracing_subscriber::registry()
        .with(log)
        .with(jobs.layer())
        .init();

    let host = env::var("HOST").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let port = match env::var("PORT") {
        Ok(port) => port
            .parse()
            .map_err(|_| format!("PORT={port} is not a port"))?,
        Err(_) => 9876,
    };
    let origins = env::var("ALLOWED_ORIGINS").unwrap_or_default();
    let origins: Vec<&str> = origins
        .split(',')
        .filter(|origin| !origin.is_empty())
        .collect();
    let cors = ssetarget::axum::cors(origins)?.credentials();

    let shutdown = Shutdown::new();
    // Not the URL of Redis, which may have a password.
    let metrics = |store: &str| Metrics::new().label("store", store);
    let app = match env::var("REDIS_URL") {
        Ok(url) => {
            let logs = RedisLogs::new(RedisClient::new(&url)?);
            app::router(logs, jobs, &shutdown, metrics("redis"))
        }
        Err(_) => match env::var("DATA_DIR").as_deref().unwrap_or("data") {
            ":memory:" => {
                let logs = MemoryLogs::default();
                app::router(logs, jobs, &shutdown, metrics(":memory:"))
            }
            folder => {
                let logs = FileLogs::new(Path::new(folder))?;
                app::router(logs, jobs, &shutdown, metrics(folder))
            }
        },
    };
    let app = app.layer(cors);

    let listener = TcpListener::bind((host, port)).await?;
    println!("Listening on http://{}", listener.local_addr()?);

    tokio::spawn(stop_on_signal(shutdown.clone()));
    let serving = axum::serve(listener, app).with_graceful_shutdown(shutdown.begun());
    tokio::select! {
        result = serving => result?,
        () = async { shutdown.begun().await; tokio::time::sleep(GRACE).await } => {
            warn!("some clients do not read; ending anyway");
        }
    }
    Ok(())
}

/// Begins the shutdown on Ctrl-C or SIGTERM.
async fn stop_on_signal(shutdown: Shutdown) {
    let interrupted = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminated) => tokio::select! {
                _ = interrupted => {}
                _ = terminated.recv() => {}
            },
            Err(_) => _ = interrupted.await,
        }
    }
    #[cfg(not(unix))]
    let _ = interrupted.await;
    info!("stopping: streams are cut off, and their clients resume with the next server");
    shutdown.begin();
}
