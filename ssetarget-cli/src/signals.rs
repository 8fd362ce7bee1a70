//! Ctrl-C and SIGTERM.

use std::future::pending;
use std::process::exit;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::exit::Exit;

/// How long the program may take to end: its output may be stuck.
const GRACE: Duration = Duration::from_secs(1);

/// The signals that end the program.
pub(crate) struct Signals {
    signals: mpsc::Receiver<Exit>,
}

impl Signals {
    /// Takes signals from now on.
    pub(crate) fn new() -> Self {
        let (sender, signals) = mpsc::channel(1);
        // On a thread of its own, since the others may be stuck.
        tokio::spawn(async move {
            let signal = tokio::select! {
                () = interrupted() => Exit::Interrupted,
                () = terminated() => Exit::Stopped,
            };
            // Full, or nobody listens: it ends by itself or below.
            let _ = sender.try_send(signal);
            sleep(GRACE).await;
            exit(signal as i32);
        });
        Self { signals }
    }

    /// Waits for a signal. May be cancelled.
    pub(crate) async fn next(&mut self) -> Exit {
        match self.signals.recv().await {
            Some(exit) => exit,
            None => pending().await,
        }
    }
}

async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        pending().await
    }
}

#[cfg(unix)]
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => _ = signal.recv().await,
        Err(_) => pending().await,
    }
}

#[cfg(not(unix))]
async fn terminated() {
    pending().await
}
