//! The benchmark's client: opens streams, drives a contestant, checks every event, takes times.
//!
//! `bench-client SCENARIO name=value...` prints one line of JSON: see `scenarios.rs` for the
//! scenarios and what they take. One thread and one poll, so that it takes as little as it can of
//! the processors that the contestant needs too.

#![forbid(unsafe_code)]

mod args;
mod http;
mod hub;
mod process;
mod scenarios;
mod sequence;
mod sse;
mod viewer;

/// Anything that ends a scenario, with a message for the one who runs it.
type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1);
    let scenario = arguments.next().unwrap_or_default();
    match args::Args::parse(arguments).and_then(|args| scenarios::run(&scenario, &args)) {
        Ok(report) => {
            println!("{report}");
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench-client {scenario}: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
