//! What undoes a step, if the run fails after it.

use std::fmt;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;

use super::config::RollbackConfig;
use super::context::StepContext;
use super::error::StepError;

/// What undoes a step: see [`StepFuture::rollback`](crate::StepFuture::rollback).
pub struct Rollback<T> {
    /// How it is retried and when an attempt is given up.
    pub config: RollbackConfig,
    handler: Handler<T>,
}

type Handler<T> = Rc<dyn Fn(RollbackContext<T>) -> LocalBoxFuture<'static, Result<(), StepError>>>;

impl<T: 'static> Rollback<T> {
    /// By this handler.
    pub fn new(
        config: RollbackConfig,
        handler: impl AsyncFn(RollbackContext<T>) -> Result<(), StepError> + 'static,
    ) -> Self {
        let handler = Rc::new(handler);
        Self {
            config,
            handler: Rc::new(move |context| {
                let handler = Rc::clone(&handler);
                Box::pin(async move { handler(context).await })
            }),
        }
    }

    /// Runs the handler.
    ///
    /// # Errors
    /// The handler's.
    pub async fn call(&self, context: RollbackContext<T>) -> Result<(), StepError> {
        (self.handler)(context).await
    }
}

impl<T> Clone for Rollback<T> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            handler: Rc::clone(&self.handler),
        }
    }
}

impl<T> fmt::Debug for Rollback<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rollback")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What a rollback is told.
#[derive(Debug)]
#[non_exhaustive]
pub struct RollbackContext<T> {
    /// The step's last attempt. It is not told which attempt of the rollback runs.
    pub ctx: StepContext,
    /// Why the run is rolled back: its error, or one of the name `Terminated`.
    pub error: StepError,
    /// What the step returned; `None` if it failed, or had not ended.
    pub output: Option<T>,
}

impl<T> RollbackContext<T> {
    /// The step's last attempt, why it is undone, and what it returned.
    #[must_use]
    pub fn new(ctx: StepContext, error: StepError, output: Option<T>) -> Self {
        Self { ctx, error, output }
    }
}
