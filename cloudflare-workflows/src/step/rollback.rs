//! Handlers that undo a step if the run fails after it.

use std::fmt;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;

use super::config::RollbackConfig;
use super::context::StepContext;
use super::error::StepError;
use super::output::StepOutput;

/// A handler that undoes a step, with its config: see [`StepFuture::rollback`](crate::StepFuture::rollback).
pub struct Rollback<T> {
    /// The retries and the timeout of the handler.
    pub config: RollbackConfig,
    handler: Handler<T>,
    /// Converts it for the platform. It is stored here, so that a Worker without rollbacks has none of that code.
    #[cfg(feature = "worker")]
    to_js: fn(Self) -> wasm_bindgen::JsValue,
}

type Handler<T> = Rc<dyn Fn(RollbackContext<T>) -> LocalBoxFuture<'static, Result<(), StepError>>>;

impl<T: StepOutput> Rollback<T> {
    /// Returns a rollback that runs `handler`.
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
            #[cfg(feature = "worker")]
            to_js: crate::worker::rollback_options,
        }
    }

    /// Runs the handler.
    ///
    /// # Errors
    /// The error of the handler.
    pub async fn call(&self, context: RollbackContext<T>) -> Result<(), StepError> {
        (self.handler)(context).await
    }
}

#[cfg(feature = "worker")]
impl<T> Rollback<T> {
    /// Returns the options that the platform takes.
    pub(crate) fn into_js(self) -> wasm_bindgen::JsValue {
        (self.to_js)(self)
    }
}

impl<T> Clone for Rollback<T> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            handler: Rc::clone(&self.handler),
            #[cfg(feature = "worker")]
            to_js: self.to_js,
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

/// The argument of a rollback handler.
#[derive(Debug)]
#[non_exhaustive]
pub struct RollbackContext<T> {
    /// The step's last attempt. (The number of the rollback's own attempt is not known.)
    pub ctx: StepContext,
    /// The reason of the rollback: the error of the run, or one of the name `Terminated`.
    pub error: StepError,
    /// The step's result; `None` if it failed or has not ended.
    pub output: Option<T>,
}

impl<T> RollbackContext<T> {
    /// Returns the argument for a step whose last attempt is `ctx`.
    #[must_use]
    pub fn new(ctx: StepContext, error: StepError, output: Option<T>) -> Self {
        Self { ctx, error, output }
    }
}
