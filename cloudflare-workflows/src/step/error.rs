//! Errors of steps and workflows.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::rc::Rc;

/// The error of a step or a workflow.
///
/// `?` and `into()` make it from any [`std::error::Error`], from strings, from `Box<dyn Error>` and from types that
/// convert into one, such as `anyhow::Error`. It is not an `Error` itself, since that would forbid these conversions.
/// (A `Box<dyn Error + Send + Sync>` is not an `Error` for the compiler: see [`from_box`](Self::from_box).) An error
/// that came from the platform keeps the platform's own error object, and returning it throws the same object again.
///
/// ```
/// use cloudflare_workflows::StepError;
///
/// fn parse(text: &str) -> Result<u32, StepError> {
///     if text.is_empty() {
///         return Err("there is no number".into());
///     }
///     Ok(text.parse()?)
/// }
/// assert_eq!(parse("").unwrap_err().message(), "there is no number");
/// assert_eq!(parse("x").unwrap_err().message(), "invalid digit found in string");
/// ```
pub struct StepError(Box<Parts>);

/// The parts of an error, which holds them as one pointer: it comes through many futures and results, and each would
/// have room for all parts, and code that moves them.
struct Parts {
    kind: StepErrorKind,
    message: String,
    source: Option<Box<dyn Error>>,
    /// The platform's error object; opaque here.
    thrown: Option<Rc<dyn Any>>,
}

/// The consequence of an error for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepErrorKind {
    /// The step failed. Inside a step it is retried as the step's config says.
    Failed,
    /// The step failed and must not be retried: see [`NonRetryableError`].
    NonRetryable,
    /// A wait or an attempt of a step took longer than its timeout.
    TimedOut,
    /// The engine refuses the step (its name, its config, one step too many), cannot store its result,
    /// or has stored a result of another type. Every lifetime of the run gets the same error.
    Invalid,
    /// Not a failure: the engine ends this lifetime of the run in order, for example for a pause,
    /// and the run goes on in another. Return this very error. The engine knows it by its message, so
    /// another error in its place ends the run as errored, and a workflow that goes on is stopped in
    /// the middle of a step.
    Suspended,
    /// Not a failure of the step: this lifetime of the run is over, because the engine was reset or
    /// the connection to it is lost, as after a deploy. The run goes on in another lifetime, or was
    /// ended from outside, so return this very error, too. The step's latest result may or may not have
    /// been stored. [`StepError::is_suspended`] is true for it.
    Reset,
}

impl StepError {
    /// Returns an error of the kind [`Failed`](StepErrorKind::Failed) with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self::with_kind(StepErrorKind::Failed, message)
    }

    /// Returns an error of this kind with this message.
    pub fn with_kind(kind: StepErrorKind, message: impl Into<String>) -> Self {
        Self::of_message(kind, message.into())
    }

    #[inline(never)]
    fn of_message(kind: StepErrorKind, message: String) -> Self {
        Self(Box::new(Parts {
            kind,
            message,
            source: None,
            thrown: None,
        }))
    }

    #[inline(never)]
    fn of_error(error: Box<dyn Error>) -> Self {
        let kind = if error.is::<NonRetryableError>() {
            StepErrorKind::NonRetryable
        } else {
            StepErrorKind::Failed
        };
        Self::of_message(kind, chain(&*error)).with_source(error)
    }

    /// Converts a boxed error of any type: `.map_err(StepError::from_box)?`.
    #[must_use]
    pub fn from_box(error: Box<dyn Error + Send + Sync>) -> Self {
        let error: Box<dyn Error> = error;
        error.into()
    }

    /// Sets the object that the platform threw.
    #[must_use]
    pub fn with_thrown(mut self, thrown: Rc<dyn Any>) -> Self {
        self.0.thrown = Some(thrown);
        self
    }

    /// Sets the error that this one came from. The message stays as it is.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Returns the error's consequence for the run.
    #[must_use]
    pub fn kind(&self) -> StepErrorKind {
        self.0.kind
    }

    /// Returns whether something took longer than its timeout, such as a wait for an event that did not
    /// come.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.0.kind == StepErrorKind::TimedOut
    }

    /// Returns whether this lifetime of the run ends, which is not a failure: see [`StepErrorKind::Suspended`] and
    /// [`StepErrorKind::Reset`].
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        matches!(self.0.kind, StepErrorKind::Suspended | StepErrorKind::Reset)
    }

    /// Changes the kind. The message, the source and the platform's object stay.
    pub fn of_kind(mut self, kind: StepErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Returns the message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the error that this was made from, `None` if it came from the platform.
    #[must_use]
    pub fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref()
    }

    /// Returns the error that this was made from, by value.
    #[must_use]
    pub fn into_source(self) -> Option<Box<dyn Error>> {
        self.0.source
    }

    /// Returns the object that the platform threw, `None` if the error did not come from it.
    #[must_use]
    pub fn thrown(&self) -> Option<&Rc<dyn Any>> {
        self.0.thrown.as_ref()
    }
}

// Not from `E: Error`, which would leave out strings and `anyhow::Error`.
impl<E: Into<Box<dyn Error>>> From<E> for StepError {
    fn from(error: E) -> Self {
        Self::of_error(error.into())
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepError")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .finish_non_exhaustive()
    }
}

/// An error that fails a step at once, without retries. Return it for a failure that a retry cannot fix, such as a
/// card that was declined.
///
/// ```
/// use cloudflare_workflows::{NonRetryableError, StepError, StepErrorKind};
///
/// fn charge(amount: i64) -> Result<(), StepError> {
///     if amount < 0 {
///         return Err(NonRetryableError::new("the amount is negative").into());
///     }
///     Ok(())
/// }
/// assert_eq!(charge(-1).unwrap_err().kind(), StepErrorKind::NonRetryable);
/// ```
#[derive(Clone, Debug)]
pub struct NonRetryableError {
    message: String,
}

impl NonRetryableError {
    /// Returns an error with this message, which becomes that of the step.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

impl fmt::Display for NonRetryableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for NonRetryableError {}

/// Joins an error's message with those of its sources: the platform keeps one message and no chain.
fn chain(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_message = cause.to_string();
        if !message.contains(&cause_message) {
            message.push_str(": ");
            message.push_str(&cause_message);
        }
        source = cause.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Like `anyhow::Error`: not an error itself, but one when it is boxed.
    struct Erased(std::num::ParseIntError);

    impl From<Erased> for Box<dyn Error> {
        fn from(erased: Erased) -> Self {
            Box::new(erased.0)
        }
    }

    fn with<E>(error: E) -> StepError
    where
        StepError: From<E>,
    {
        let failed = || -> Result<(), StepError> { Err(error)? };
        failed().err().unwrap_or_else(|| StepError::new("nothing"))
    }

    #[test]
    fn strings_and_boxed_errors_become_errors_of_steps() {
        assert_eq!(with("no").message(), "no");
        assert_eq!(with("no".to_owned()).message(), "no");
        assert_eq!(with("no").kind(), StepErrorKind::Failed);

        let invalid = || "x".parse::<u32>().unwrap_err();
        let boxed: Box<dyn Error> = Box::new(invalid());
        for error in [with(invalid()), with(boxed), with(Erased(invalid()))] {
            assert_eq!(error.message(), "invalid digit found in string");
            assert!(
                error
                    .source()
                    .is_some_and(|source| source.is::<std::num::ParseIntError>())
            );
        }
        let error = StepError::from_box(Box::new(invalid()));
        assert_eq!(error.message(), "invalid digit found in string");

        let boxed: Box<dyn Error> = Box::new(NonRetryableError::new("stop"));
        assert_eq!(with(boxed).kind(), StepErrorKind::NonRetryable);
    }
}
