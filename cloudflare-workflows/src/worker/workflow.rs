//! The Workflow binding: creates, finds and deletes instances.

use serde::Deserialize;
use wasm_bindgen::prelude::*;
use worker::Env;

use super::batch::{BatchCreateOptions, BatchCreated, BatchDeleted};
use super::convert::{from_js, property};
use super::create::CreateOptions;
use super::error::{WorkflowError, WorkflowErrorKind, unreadable};
use super::instance::WorkflowInstance;
use super::js::{self, JsWorkflow};

/// A Workflow binding: `[[workflows]]` in `wrangler.toml`.
#[derive(Clone, Debug)]
pub struct Workflow {
    pub(super) workflow: JsWorkflow,
}

impl Workflow {
    /// Returns the binding of this name.
    ///
    /// # Errors
    /// [`Binding`](WorkflowErrorKind::Binding) when there is none, or it is of another kind. The message
    /// says what to write into `wrangler.toml`.
    pub fn from_env(env: &Env, binding: &str) -> Result<Self, WorkflowError> {
        let value = property(env, binding);
        // By shape: the name of its class differs between runtimes.
        let is_workflow = ["create", "get"]
            .iter()
            .all(|method| property(&value, method).is_function());
        if !is_workflow {
            let found = if value.is_undefined() {
                "no binding"
            } else {
                "another kind of binding"
            };
            return Err(WorkflowError::new(
                WorkflowErrorKind::Binding,
                format!(
                    "there is {found} {binding:?} where a Workflow is expected: add [[workflows]] \
                     with binding = {binding:?}, a name and a class_name to wrangler.toml"
                ),
            ));
        }
        Ok(Self {
            workflow: value.unchecked_into(),
        })
    }

    /// Creates an instance, which starts to run.
    ///
    /// # Errors
    /// [`AlreadyExists`](WorkflowErrorKind::AlreadyExists) if there is an instance with this id;
    /// [`InvalidId`](WorkflowErrorKind::InvalidId) if no instance can have it;
    /// [`Other`](WorkflowErrorKind::Other) for any other refusal.
    pub async fn create(&self, options: CreateOptions) -> Result<WorkflowInstance, WorkflowError> {
        let created = self.workflow.create(&options.options).await?;
        Ok(self.instance(created))
    }

    /// Creates up to 100 instances at once. One that cannot be created does not affect the others.
    ///
    /// ```no_run
    /// # use cloudflare_workflows::{BatchCreateOptions, CreateOptions, Workflow, WorkflowError};
    /// # async fn create(workflow: Workflow) -> Result<(), WorkflowError> {
    /// let orders = ["a", "b"].map(|id| CreateOptions::new().id(id));
    /// let batch = workflow.create_batch(BatchCreateOptions::instances(orders)).await?;
    /// for error in &batch.errors {
    ///     println!("number {} was not created: {}", error.index, error.message);
    /// }
    ///
    /// let options = CreateOptions::new().params("for all of them")?;
    /// let batch = workflow.create_batch(BatchCreateOptions::count(10, options)).await?;
    /// assert_eq!(batch.created.len(), 10);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the whole batch is refused: [`InvalidId`](WorkflowErrorKind::InvalidId) for one id
    /// that no instance can have; [`InvalidOptions`](WorkflowErrorKind::InvalidOptions) for other
    /// invalid options, and for no or too many instances.
    pub async fn create_batch(
        &self,
        options: BatchCreateOptions,
    ) -> Result<BatchCreated, WorkflowError> {
        let result = self.workflow.create_batch(&options.options).await?;
        let created = js::array_from(&property(&result, "created"))?;
        Ok(BatchCreated {
            created: created.iter().map(|js| self.instance(js)).collect(),
            errors: from_js(&property(&result, "errors")).map_err(unreadable("the batch"))?,
        })
    }

    /// Deletes up to 100 instances and everything stored of them. An id that comes twice is deleted once.
    ///
    /// # Errors
    /// When the whole batch is refused: [`InvalidId`](WorkflowErrorKind::InvalidId) for one id
    /// that no instance can have; [`InvalidOptions`](WorkflowErrorKind::InvalidOptions) for no or too
    /// many ids.
    pub async fn delete_batch<I>(&self, ids: I) -> Result<BatchDeleted, WorkflowError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        #[derive(Deserialize)]
        struct Deleted {
            id: String,
        }

        let ids = ids.into_iter().map(|id| JsValue::from_str(id.as_ref()));
        let ids: js_sys::Array = ids.collect();
        let result = self.workflow.delete_batch(&ids).await?;
        let deleted: Vec<Deleted> =
            from_js(&property(&result, "deleted")).map_err(unreadable("the batch"))?;
        Ok(BatchDeleted {
            deleted: deleted.into_iter().map(|deleted| deleted.id).collect(),
            errors: from_js(&property(&result, "errors")).map_err(unreadable("the batch"))?,
        })
    }

    /// Returns the instance with this id.
    ///
    /// # Errors
    /// [`NotFound`](WorkflowErrorKind::NotFound) if there is none.
    pub async fn get(&self, id: &str) -> Result<WorkflowInstance, WorkflowError> {
        Ok(self.instance(self.workflow.get(id).await?))
    }

    fn instance(&self, instance: JsValue) -> WorkflowInstance {
        WorkflowInstance::new(&self.workflow, instance)
    }
}
