//! Turns panics into errors, where the build lets them unwind.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::LocalBoxFuture;

use super::error::StepError;

/// Runs `future` and turns a panic in it into an error, so that it costs one attempt and not the
/// run. Without unwinding (`panic=abort`, the default of wasm builds) a panic still aborts.
///
/// # Errors
/// The errors of `future`, and for a panic an error with its message.
pub fn catch_panic<'a, T>(
    future: impl Future<Output = Result<T, StepError>> + 'a,
) -> impl Future<Output = Result<T, StepError>> + 'a
where
    T: 'a,
{
    // Boxed, so that no function has two nested catches: LLVM makes invalid wasm of those ("catch_all_ref label must be a subtype of (ref exn)").
    // What follows is compiled once for each type of result.
    Caught(Box::pin(future))
}

struct Caught<'a, T>(LocalBoxFuture<'a, Result<T, StepError>>);

impl<T> Future for Caught<'_, T> {
    type Output = Result<T, StepError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.0.as_mut();
        // The values that the future captured are dropped, or used again by a new attempt, which starts over.
        let polled = catch_unwind(AssertUnwindSafe(|| future.poll(context)));
        polled.unwrap_or_else(|panic| {
            let message = format!("panicked: {}", message(&*panic));
            Poll::Ready(Err(StepError::new(message)))
        })
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}
