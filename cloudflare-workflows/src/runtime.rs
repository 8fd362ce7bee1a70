//! Time and tasks as an argument, so that tests can use a clock that does not wait.

use std::future::Future;
use std::time::{Duration, SystemTime};

/// Gives access to the outside world: the time, timers, tasks and warnings.
pub trait Runtime {
    /// Returns the current time.
    fn now(&self) -> SystemTime;
    /// Resolves after `duration`.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static;
    /// Runs `task` on this thread, beside the workflow.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
    /// Shows `message` to the developer, for example on the console.
    fn warn(&self, message: &str);
    /// Returns whether what is dropped now belongs to a lifetime that the engine has given up. Nothing of it runs any
    /// more, so nothing of it may wait for the engine, or for a log: it would be there for ever. Default: no.
    fn is_given_up(&self) -> bool {
        false
    }
}
