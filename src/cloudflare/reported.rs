//! A report of a run's object to an index of runs, and the answer, as text. Written in the run's object, read in the
//! index's, and back; pure.
//!
//! Both are JSON by names. What a later version adds, an earlier one leaves out.

use std::time::SystemTime;

use super::command::read_json;
use crate::runs::{RunIndex, RunReport};
use crate::store::Sql;
use crate::workflow::RunEstimate;

/// The answer of an index to a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reported {
    /// Whether the report was newer than what the index had.
    Taken(bool),
    /// The estimate for the run, as JSON, if the report asks for it.
    Estimate(String),
}

/// Takes a report as JSON.
///
/// # Errors
/// For a report that this version cannot read, with the reason, and when SQLite fails. Then nothing is changed, and the
/// run's object reports again.
pub fn take_report<Q: Sql>(
    index: &RunIndex<Q>,
    report: &str,
    now: SystemTime,
) -> Result<Reported, String> {
    let report: RunReport = read_json("the report of a run", report)?;
    let taken = index
        .take(&report, now)
        .map_err(|error| error.to_string())?;
    if !report.asks {
        return Ok(Reported::Taken(taken));
    }
    let estimate = index.estimate().map_err(|error| error.to_string())?;
    let estimate = serde_json::to_string(&estimate).map_err(|error| error.to_string())?;
    Ok(Reported::Estimate(estimate))
}

/// Reads an [`Estimate`](Reported::Estimate); `None` for another answer.
///
/// # Errors
/// For an answer that this version cannot read, with the reason. The next report asks again.
pub fn read_estimate(answer: Option<&str>) -> Result<Option<RunEstimate>, String> {
    answer
        .map(|json| read_json("the estimate of a run", json))
        .transpose()
}
