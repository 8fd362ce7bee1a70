//! `ssetarget watch URL`: a run of a Cloudflare Workflow, or any other log of ssetarget, in a terminal.
//!
//! See `ssetarget watch --help`, and `docs/terminal.md` in the repository.

#![forbid(unsafe_code)]

mod args;
mod exit;
mod json;
mod plain;
mod screen;
mod signals;
#[cfg(test)]
mod testing;
mod text;
mod tree;
mod watch;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use ssetarget::client::ClientError;

use crate::args::{Cli, Command};
use crate::exit::Exit;
use crate::signals::Signals;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread for signals and the network, beside the one that writes.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("no threads can be started: {error}"));
            return Exit::GaveUp.into();
        }
    };
    let exit = runtime.block_on(run(cli));
    // Looking up a name may take long, and nobody waits for it any more.
    runtime.shutdown_background();
    exit.into()
}

async fn run(cli: Cli) -> Exit {
    let mut signals = Signals::new();
    match cli.command {
        Command::Watch(args) => watch::watch(args, &mut signals).await,
        Command::Send(args) => {
            let sending = async {
                let client = watch::client(&args.target)?;
                watch::send(&client, &args.answer).await
            };
            let sent = tokio::select! {
                exit = signals.next() => return exit,
                sent = sending => sent,
            };
            match sent {
                Ok(()) => Exit::Completed,
                Err(error) => {
                    complain(&error.to_string());
                    match error {
                        ClientError::Refused { .. } | ClientError::Redirected { .. } => {
                            Exit::Failed
                        }
                        error => Exit::of_error(&error),
                    }
                }
            }
        }
    }
}

/// Shows people a message that is not output.
pub(crate) fn complain(text: &str) {
    // If it cannot be written, nobody reads it.
    let _ = writeln!(std::io::stderr(), "ssetarget: {}", text::clean(text));
}
