//! Turns panics into errors, where the build lets them unwind.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::error::StepError;

/// Runs `future` and turns a panic in it into an error, so that it costs one attempt and not the
/// run. Without unwinding (`panic=abort`, the default of wasm builds) a panic still aborts.
///
/// # Errors
/// The errors of `future`, and for a panic an error with its message.
pub async fn catch_panic<T>(
    future: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    // Boxed, so that no function has two nested catches: LLVM makes invalid wasm of those ("catch_all_ref label must be a subtype of (ref exn)").
    let future: LocalBoxFuture<'_, _> = Box::pin(future);
    // The values that the future captured are dropped, or used again by a new attempt, which starts over.
    AssertUnwindSafe(future)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(StepError::new(format!("panicked: {}", message(&*panic)))))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}
