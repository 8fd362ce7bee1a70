//! The errors of Redis.

use std::error::Error;
use std::sync::Arc;
use std::{fmt, io};

/// Why a call to Redis failed, shaped around what the caller can do: see
/// [`may_have_been_stored`](Self::may_have_been_stored) and [`is_transient`](Self::is_transient).
#[derive(Clone, Debug)]
pub struct RedisError {
    kind: RedisErrorKind,
    /// The reason, from the server or this crate. Empty if the source has it.
    detail: String,
    source: Option<Arc<io::Error>>,
}

/// The kinds of a [`RedisError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisErrorKind {
    /// The URL or a name in it cannot be used.
    Config,
    /// There is no connection and none could be made: nothing was sent.
    Unreachable,
    /// The connection broke after the command was sent and before its answer came.
    Lost,
    /// The answer did not come within the [timeout](crate::store::redis::RedisConfig::timeout).
    TimedOut,
    /// The server answered with an error: see [`RedisError::code`].
    Refused,
    /// The server cannot do what this store needs, such as one before Redis 6.0: nothing was sent.
    Unsupported,
    /// The server's answer is not what this store writes: another program wrote to its keys, or
    /// the server does not speak RESP3.
    Unexpected,
}

impl RedisError {
    pub(super) fn new(kind: RedisErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            source: None,
        }
    }

    pub(super) fn io(kind: RedisErrorKind, error: io::Error) -> Self {
        Self {
            kind,
            detail: String::new(),
            source: Some(Arc::new(error)),
        }
    }

    pub(super) fn unexpected(detail: impl Into<String>) -> Self {
        Self::new(RedisErrorKind::Unexpected, detail)
    }

    /// Makes an error of the server's. For errors within a script, servers before 7.0 put the code
    /// behind the place.
    pub(super) fn refused(code: &str, details: &str) -> Self {
        let of_script = details
            .strip_prefix("Error running script")
            .and_then(|details| details.split_once("@user_script:"))
            .and_then(|(_, details)| details.split_once(": "));
        let detail = match of_script {
            Some((_, error)) => error.trim_start_matches('-').trim_end().to_owned(),
            None => format!("{code} {details}"),
        };
        Self::new(RedisErrorKind::Refused, detail)
    }

    /// Returns the same error with another kind.
    pub(super) fn of_kind(mut self, kind: RedisErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> RedisErrorKind {
        self.kind
    }

    /// Returns whether an append that failed with this error may have been stored. If not, no event
    /// of its batch was.
    #[must_use]
    pub fn may_have_been_stored(&self) -> bool {
        use RedisErrorKind::{Lost, TimedOut, Unexpected};
        matches!(self.kind, Lost | TimedOut | Unexpected) || self.code() == Some("PARTLY")
    }

    /// Returns whether the same call may succeed later without a change of the configuration.
    ///
    /// Appending again is harmless for events with keys; others may then be there twice, if
    /// [`may_have_been_stored`](Self::may_have_been_stored).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.kind {
            RedisErrorKind::Unreachable | RedisErrorKind::Lost | RedisErrorKind::TimedOut => true,
            RedisErrorKind::Refused => self.code().is_some_and(|code| TRANSIENT.contains(&code)),
            RedisErrorKind::Config | RedisErrorKind::Unsupported | RedisErrorKind::Unexpected => {
                false
            }
        }
    }

    /// Returns whether the server refused the greeting of RESP3 because it does not know it.
    pub(super) fn is_about_hello(&self) -> bool {
        let detail = self.detail.to_ascii_lowercase();
        self.code() == Some("NOPROTO")
            || (detail.contains("unknown command") && detail.contains("hello"))
    }

    /// Returns the first word of the server's error, `OOM` for example, if the server answered with
    /// one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        let refused = self.kind == RedisErrorKind::Refused;
        refused.then(|| self.detail.split(' ').next().unwrap_or_default())
    }
}

/// The codes of states that pass: loading, a failover, a full memory, a long script.
const TRANSIENT: [&str; 10] = [
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNBLOCKED",
];

impl fmt::Display for RedisError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            RedisErrorKind::Config => "Redis is not configured right",
            RedisErrorKind::Unreachable => "Redis cannot be reached",
            RedisErrorKind::Lost => "the connection to Redis was lost before its answer came",
            RedisErrorKind::TimedOut => "Redis did not answer in time",
            RedisErrorKind::Refused => "Redis refused the command",
            RedisErrorKind::Unsupported => "Redis lacks a needed feature",
            RedisErrorKind::Unexpected => "Redis answered something unexpected",
        })?;
        if self.detail.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.detail)
    }
}

impl Error for RedisError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_got_an_error_has_its_code_whatever_the_server() {
        for (code, details) in [
            ("WRONGTYPE", "Operation against a key"),
            (
                "WRONGTYPE",
                "Operation against a key script: ab12, on @user_script:58.",
            ),
            (
                "ERR",
                "Error running script (call to f_ab12): @user_script:58: WRONGTYPE Operation",
            ),
            (
                "ERR",
                "Error running script (call to f_ab12): @user_script: 58: -WRONGTYPE Operation\r\n",
            ),
        ] {
            let error = RedisError::refused(code, details);
            assert_eq!(error.code(), Some("WRONGTYPE"), "{error}");
            assert_eq!(error.to_string().trim_end(), error.to_string());
        }
        let error = RedisError::refused("ERR", "Error running script");
        assert_eq!(error.code(), Some("ERR"));
    }
}
