//! Reads records from the standard input, one JSON object a line, and prints broken promises. Exits
//! with 0 if there are none, with 1 if there are, with 2 for a line that is not a record.

use std::io::{BufRead, Write};
use std::process::ExitCode;

use ssetarget_checker::{Checker, Line};

fn main() -> ExitCode {
    let mut checker = Checker::default();
    let mut records = 0_u64;
    for line in std::io::stdin().lock().lines() {
        records += 1;
        let read = line.map_err(|error| error.to_string()).and_then(|line| {
            serde_json::from_str::<Line>(&line).map_err(|error| error.to_string())
        });
        match read {
            Ok(line) => checker.add(line),
            Err(error) => {
                eprintln!("line {records} is no record: {error}");
                return ExitCode::from(2);
            }
        }
    }
    let violations = checker.finish();
    let mut out = std::io::stdout().lock();
    for violation in &violations {
        // Nobody may read the output; the exit code says the same.
        let _ = writeln!(out, "{violation}");
    }
    let _ = writeln!(out, "{records} records, {} violations", violations.len());
    if violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
