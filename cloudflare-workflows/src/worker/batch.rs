//! Batches: many instances in one call, and the result for each.

use js_sys::Object;
use serde::Deserialize;
use wasm_bindgen::prelude::*;

use super::convert::property;
use super::create::CreateOptions;
use super::error::{WorkflowError, WorkflowErrorKind};
use super::instance::WorkflowInstance;

/// The instances that one call creates: up to 100, with up to 1 MiB of options together.
#[derive(Clone, Debug)]
pub struct BatchCreateOptions {
    pub(super) options: js_sys::Object,
}

impl BatchCreateOptions {
    /// `count` instances with the same options. Each gets a generated id; an id in `options` is ignored.
    #[must_use]
    pub fn count(count: u32, options: CreateOptions) -> Self {
        let batch = CreateOptions::new().set("count", &count.into());
        let properties = ["params", "retention", "locationHint"];
        let batch = properties.into_iter().fold(batch, |batch, name| {
            let value = property(&options.options, name);
            if value.is_undefined() {
                return batch;
            }
            batch.set(name, &value)
        });
        Self {
            options: batch.options,
        }
    }

    /// Returns the ids, generated where there are none, and options with them. The given options stay as
    /// they are. Returns no ids for a batch with too many instances or large params: then the platform
    /// generates the ids, or refuses the batch.
    #[doc(hidden)] // For the crate `ssetarget`.
    pub fn with_ids(self) -> Result<(Vec<String>, Self), WorkflowError> {
        let instances = property(&self.options, "instances");
        let instances: Vec<CreateOptions> = match instances.dyn_into::<js_sys::Array>() {
            Ok(instances) => instances
                .iter()
                .map(|options| CreateOptions {
                    options: options.unchecked_into(),
                })
                .collect(),
            Err(_) => {
                let count = property(&self.options, "count").as_f64().unwrap_or(0.0);
                let params = js_sys::JSON::stringify(&property(&self.options, "params"));
                let size = params.map_or(f64::MAX, |json| f64::from(json.length()));
                // One value in many places: the platform may count its size for each.
                if !(1.0..=100.0).contains(&count) || size * count > LARGE_BATCH {
                    return Ok((Vec::new(), self));
                }
                let options = CreateOptions {
                    options: Object::assign(&Object::new(), &self.options),
                };
                // A plain object of our own loses any property.
                let _ = js_sys::Reflect::delete_property(&options.options, &"count".into());
                (0..count as u32).map(|_| options.clone()).collect()
            }
        };
        if instances.len() > 100 {
            return Ok((Vec::new(), self));
        }
        let mut ids = Vec::new();
        let mut with_ids = Vec::new();
        for instance in instances {
            let (id, instance) = instance.with_id()?;
            if !ids.contains(&id) {
                ids.push(id);
            }
            with_ids.push(instance);
        }
        Ok((ids, Self::instances(with_ids)))
    }

    /// `instances`, each with its own options.
    #[must_use]
    pub fn instances(instances: impl IntoIterator<Item = CreateOptions>) -> Self {
        let instances = instances.into_iter().map(|instance| instance.options);
        let instances: js_sys::Array = instances.collect();
        Self {
            options: CreateOptions::new().set("instances", &instances).options,
        }
    }
}

/// The size from which a batch counts as large, in UTF-16 units. The platform takes 1 MiB.
const LARGE_BATCH: f64 = 256.0 * 1024.0;

/// The result of the creation of a batch.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BatchCreated {
    /// The instances that were created, in the order of the batch.
    pub created: Vec<WorkflowInstance>,
    /// An error for each instance that was not created.
    pub errors: Vec<BatchCreateError>,
}

/// The error of an instance of a batch that was not created.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct BatchCreateError {
    /// The position of the instance in the batch, from 0.
    pub index: u32,
    /// The id in the instance's options, if it has one.
    pub id: Option<String>,
    /// The platform's code for the reason.
    pub code: u32,
    /// The platform's message.
    pub message: String,
}

impl BatchCreateError {
    /// Returns the reason; [`Other`](WorkflowErrorKind::Other) if the message has no known code.
    #[must_use]
    pub fn kind(&self) -> WorkflowErrorKind {
        WorkflowErrorKind::of(&self.message)
    }
}

/// The result of the deletion of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchDeleted {
    /// The ids of the instances that were deleted, one for each position in the batch.
    pub deleted: Vec<String>,
    /// An error for each instance that was not deleted.
    pub errors: Vec<BatchDeleteError>,
}

/// The error of an instance of a batch that was not deleted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct BatchDeleteError {
    /// The instance's id.
    pub id: String,
    /// The platform's code for the reason.
    pub code: u32,
    /// The platform's message.
    pub message: String,
}

impl BatchDeleteError {
    /// Returns the reason; [`Other`](WorkflowErrorKind::Other) if the message has no known code.
    #[must_use]
    pub fn kind(&self) -> WorkflowErrorKind {
        WorkflowErrorKind::of(&self.message)
    }
}
