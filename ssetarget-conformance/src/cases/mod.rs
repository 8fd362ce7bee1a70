//! The cases.

mod errors;
mod format;
mod protocol;
mod resume;
mod viewers;

use std::fmt;

use crate::probe::{Outcome, Probe, Verdict};

/// How much a case counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A standard says so, or clients break.
    Must,
    /// A standard recommends it, or people would miss it.
    Should,
    /// No standard has it. It runs if the profile claims it.
    Extension(&'static str),
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Must => "must",
            Self::Should => "should",
            Self::Extension(_) => "extension",
        })
    }
}

/// The parts of a profile that a case needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `append`.
    Append,
    /// `append` of data that comes back unchanged.
    Echo,
    /// `append` with a type.
    Type,
    /// `end`.
    End,
    /// A new stream for each case: `{id}`.
    Own,
}

/// A case.
#[derive(Debug)]
pub struct Case {
    /// Its name.
    pub id: &'static str,
    /// The behaviour of the server.
    pub title: &'static str,
    /// The source of the requirement.
    pub source: &'static str,
    /// Its level.
    pub level: Level,
    needs: &'static [Need],
    body: fn(&Probe) -> Outcome,
}

impl Case {
    /// Runs it.
    ///
    /// # Errors
    /// When it fails, or cannot be run.
    pub fn run(&self, probe: &Probe) -> Outcome {
        if let Level::Extension(name) = self.level
            && !probe.profile.claims(name)
        {
            return Err(Verdict::Skipped(format!("{name} is not claimed")));
        }
        let profile = &probe.profile;
        for need in self.needs {
            let (is_met, what) = match need {
                Need::Append => (profile.append.is_some(), "`append`"),
                Need::Echo => (
                    profile.append.is_some() && profile.echo,
                    "`append` with `echo`",
                ),
                Need::Type => {
                    let append = profile.append.as_ref();
                    (
                        append.is_some_and(|append| append.has("{type}")),
                        "`append` with {type}",
                    )
                }
                Need::End => (profile.end.is_some(), "`end`"),
                Need::Own => (profile.stream.contains("{id}"), "{id} in `stream`"),
            };
            if !is_met {
                return Err(Verdict::Skipped(format!("the profile has no {what}")));
            }
        }
        (self.body)(probe)
    }
}

/// All cases, by subject.
pub const CASES: &[&[Case]] = &[
    format::CASES,
    resume::CASES,
    viewers::CASES,
    protocol::CASES,
    errors::CASES,
];
