//! The errors of a client.

use std::fmt;

use crate::parser::EventTooLarge;

/// The reason why a client stops before the run's end.
///
/// It contains strings of the server as they came. Escape control characters before you print them in
/// a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientError {
    /// The string is not a URL, or the URL names no run. The value is the reason.
    InvalidUrl(String),
    /// `401` or `403`: the token is missing, wrong or has expired.
    NotAllowed {
        /// The status.
        status: u16,
    },
    /// `404` or `410`: there is no such run.
    UnknownRun {
        /// The status.
        status: u16,
    },
    /// Another refusal that asking again does not change.
    Refused {
        /// The status.
        status: u16,
        /// The beginning of the server's answer.
        reason: String,
    },
    /// The server redirects what is [sent](super::RunClient::send) to another address, such as that of a page to log in.
    /// It was not sent there, and nothing says that the server has taken it.
    Redirected {
        /// The status.
        status: u16,
        /// The address, without a password and a token; empty if the server names none.
        to: String,
    },
    /// The answer is not a stream of events.
    NotEvents {
        /// The `Content-Type` of the answer.
        content_type: String,
    },
    /// An event is larger than [`MAX_EVENT`](super::MAX_EVENT).
    TooLarge,
    /// The server could not be reached for too long.
    GaveUp {
        /// The reason of the last failure.
        reason: String,
    },
    /// The token cannot be a header.
    InvalidToken,
    /// The HTTP client cannot be set up. The value is the reason.
    Setup(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidUrl(reason) => write!(f, "the URL is not one of a run: {reason}"),
            Self::NotAllowed { status } => write!(
                f,
                "not allowed ({status}): the token is missing, wrong or has expired"
            ),
            Self::UnknownRun { status } => write!(f, "there is no such run ({status})"),
            Self::Refused { status, reason } if reason.is_empty() => {
                write!(f, "the server refuses ({status})")
            }
            Self::Refused { status, reason } => {
                write!(f, "the server refuses ({status}): {reason}")
            }
            Self::Redirected { status, to } if to.is_empty() => {
                write!(
                    f,
                    "not sent: the server redirects to another address ({status})"
                )
            }
            Self::Redirected { status, to } => {
                write!(f, "not sent: the server redirects to {to} ({status})")
            }
            Self::NotEvents { content_type } if content_type.is_empty() => {
                f.write_str("the answer is not a stream of events")
            }
            Self::NotEvents { content_type } => {
                write!(f, "the answer is not a stream of events but {content_type}")
            }
            Self::TooLarge => EventTooLarge.fmt(f),
            Self::GaveUp { reason } => write!(f, "gave up: {reason}"),
            Self::InvalidToken => f.write_str("the token has characters that no header can have"),
            Self::Setup(reason) => write!(f, "the HTTP client cannot be set up: {reason}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<EventTooLarge> for ClientError {
    fn from(_: EventTooLarge) -> Self {
        Self::TooLarge
    }
}
