//! Logs of events over Server-Sent Events, from an axum server.
//!
//! ```text
//! cargo run -p ssetarget-axum-example              then open http://localhost:9876
//! curl -N localhost:9876/room/sse                  watch the log "room", once it is there
//! curl -d 'hello' 'localhost:9876/room?type=note'  dispatch an event to it
//! ```
//!
//! | variable | |
//! |---|---|
//! | `HOST` | The address to listen at. Default: 127.0.0.1, this machine only. |
//! | `PORT` | Default: 9876. 0 takes a free one. |
//! | `ALLOWED_ORIGINS` | Other sites whose pages may watch, with a comma between them. Default: none. |
//!
//! For each viewer the process needs a file descriptor: see `ulimit -n`.

mod app;
mod logs;
mod page;

use std::env;
use std::error::Error;
use std::time::Duration;

use ssetarget::http::Shutdown;
use tokio::net::TcpListener;

use crate::logs::MemoryLogs;

/// How long a client that does not read can keep the process from ending.
const GRACE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = match env::var("PORT") {
        Ok(port) => port
            .parse()
            .map_err(|_| format!("PORT={port} is no port"))?,
        Err(_) => 9876,
    };
    let host = env::var("HOST").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let origins = env::var("ALLOWED_ORIGINS").unwrap_or_default();
    let origins: Vec<&str> = origins
        .split(',')
        .filter(|origin| !origin.is_empty())
        .collect();

    let shutdown = Shutdown::new();
    let app = app::router(MemoryLogs::default(), &shutdown).layer(ssetarget::axum::cors(origins)?);
    let listener = TcpListener::bind((host, port)).await?;
    println!("Listening on http://{}", listener.local_addr()?);

    tokio::spawn(stop_on_signal(shutdown.clone()));
    let serving = axum::serve(listener, app).with_graceful_shutdown(shutdown.begun());
    tokio::select! {
        result = serving => result?,
        () = async { shutdown.begun().await; tokio::time::sleep(GRACE).await } => {
            println!("Some clients do not read; ending anyway");
        }
    }
    Ok(())
}

/// Ctrl-C, or what a supervisor sends.
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
    println!("Stopping: streams are cut off, and their clients resume with the next server");
    shutdown.begin();
}
