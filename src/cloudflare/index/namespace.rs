//! The addresses of the indexes of a workflow. Runs in the Worker.

use std::fmt;

use wasm_bindgen::prelude::*;
use worker::durable::ObjectNamespace;
use worker::{Env, Response, web_sys};

use crate::cloudflare::js;
use crate::cloudflare::request::ObjectRequest;

/// The indexes of the runs of one workflow: one of all runs, and one for each tag (feature `index`).
#[derive(Clone, Debug)]
pub struct RunIndexNamespace {
    namespace: ObjectNamespace,
    pub(super) workflow_name: String,
}

/// The error for tags of a run: there are more than 4, or one is not 1 to 64 letters, digits, `-`, `_` and `.`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTags;

impl RunIndexNamespace {
    /// Returns the indexes behind the binding `binding`, the one that
    /// [`WorkflowEventsConfig::index`](crate::cloudflare::WorkflowEventsConfig::index) names, for the workflow of this
    /// name.
    ///
    /// # Errors
    /// When there is no such binding, with a message that says what to write into `wrangler.toml`.
    pub fn from_env(
        env: &Env,
        binding: &str,
        workflow_name: impl Into<String>,
    ) -> worker::Result<Self> {
        let namespace = env.durable_object(binding).map_err(|error| {
            worker::Error::BindingError(format!(
                "there is no Durable Object binding {binding} ({error}): add [[durable_objects.bindings]] with name = \
                 \"{binding}\" and class_name = \"RunIndex\" to wrangler.toml"
            ))
        })?;
        Ok(Self {
            namespace,
            workflow_name: workflow_name.into(),
        })
    }

    /// Sends a request to the index of all runs, or of those with a tag, up to three times: an object that was reset
    /// is there again at the next request.
    pub(super) async fn request(
        &self,
        tag: Option<&str>,
        request: &ObjectRequest,
    ) -> worker::Result<Response> {
        const TRIES: u32 = 3;
        let name = match tag {
            None => self.workflow_name.clone(),
            Some(tag) => format!("{}/{tag}", self.workflow_name),
        };
        let mut tried = 1;
        loop {
            let stub: js::EventsStub = self.namespace.get_by_name(&name)?.into_rpc();
            let ObjectRequest {
                method,
                url,
                upgrades,
            } = request;
            match js::fetch_object(&stub, method, url, *upgrades).await {
                Ok(response) => return Ok(response.dyn_into::<web_sys::Response>()?.into()),
                Err(error) if tried == TRIES => return Err(error.into()),
                Err(_) => tried += 1,
            }
        }
    }
}

impl fmt::Display for InvalidTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a run has up to 4 tags, each of 1 to 64 letters, digits, -, _ and .")
    }
}

impl std::error::Error for InvalidTags {}
