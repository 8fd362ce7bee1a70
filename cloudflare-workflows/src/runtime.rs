//! The outside world, as an argument: tests bring a clock that does not wait.

use std::future::Future;
use std::time::{Duration, SystemTime};

/// The outside world: time, tasks and complaints.
pub trait Runtime {
    /// The time.
    fn now(&self) -> SystemTime;
    /// Resolves after this long.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static;
    /// Runs a task on this thread, besides the workflow.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
    /// Tells the developer.
    fn warn(&self, message: &str);
}
