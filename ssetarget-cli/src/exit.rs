//! The exit codes of the program.

use std::process::ExitCode;

use ssetarget::client::{ClientError, Outcome};

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Completed = 0,
    Failed = 1,
    Usage = 2,
    Terminated = 3,
    NotAllowed = 4,
    UnknownRun = 5,
    GaveUp = 6,
    Interrupted = 130,
    /// As a program that SIGPIPE ends.
    Pipe = 141,
    /// As a program that SIGTERM ends.
    Stopped = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        (exit as u8).into()
    }
}

impl Exit {
    /// The exit code of a run that ended. A log that is not one of a run, as all of its events show, has just ended.
    pub(crate) fn of(outcome: Option<Outcome>) -> Self {
        match outcome {
            Some(Outcome::Failed) => Self::Failed,
            Some(Outcome::Terminated) => Self::Terminated,
            _ => Self::Completed,
        }
    }

    pub(crate) fn of_error(error: &ClientError) -> Self {
        match error {
            ClientError::InvalidUrl(_) | ClientError::InvalidToken => Self::Usage,
            ClientError::NotAllowed { .. } => Self::NotAllowed,
            ClientError::UnknownRun { .. } => Self::UnknownRun,
            ClientError::Refused { status: 400, .. } => Self::Usage,
            _ => Self::GaveUp,
        }
    }
}
