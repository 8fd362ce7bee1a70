//! Batches: many instances in one call, and what became of each.

use js_sys::Object;
use serde::Deserialize;
use wasm_bindgen::prelude::*;

use super::convert::property;
use super::create::CreateOptions;
use super::error::{WorkflowError, WorkflowErrorKind};
use super::instance::WorkflowInstance;

/// Which instances to create at once: up to 100, with up to 1 MiB together.
#[derive(Clone, Debug)]
pub struct BatchCreateOptions {
    pub(super) options: js_sys::Object,
}

impl BatchCreateOptions {
    /// So many that are alike. Their ids are made up, whatever id `options` has.
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

    /// The ids, made up where there are none, and options with them. Those that were given stay as
    /// they are. No ids where there are too many or the whole is large: then the platform makes up
    /// what it needs, or says what is wrong.
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
                // One value in many places, whose size the platform may count for each.
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

    /// These, each with options of its own.
    #[must_use]
    pub fn instances(instances: impl IntoIterator<Item = CreateOptions>) -> Self {
        let instances = instances.into_iter().map(|instance| instance.options);
        let instances: js_sys::Array = instances.collect();
        Self {
            options: CreateOptions::new().set("instances", &instances).options,
        }
    }
}

/// In UTF-16 units. The platform takes 1 MiB.
const LARGE_BATCH: f64 = 256.0 * 1024.0;

/// What became of a batch that was to be created.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BatchCreated {
    /// Those that were created, in the order of the batch.
    pub created: Vec<WorkflowInstance>,
    /// Those that were not.
    pub errors: Vec<BatchCreateError>,
}

/// Why one instance of a batch was not created.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct BatchCreateError {
    /// Where it stands in the batch, from 0.
    pub index: u32,
    /// Its id, if it was to have one.
    pub id: Option<String>,
    /// The platform's number for the reason.
    pub code: u32,
    /// The platform's word for the reason.
    pub message: String,
}

impl BatchCreateError {
    /// Why, as far as it is known.
    #[must_use]
    pub fn kind(&self) -> WorkflowErrorKind {
        WorkflowErrorKind::of(&self.message)
    }
}

/// What became of a batch that was to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchDeleted {
    /// The ids of those that were deleted, one for each place in the batch.
    pub deleted: Vec<String>,
    /// Those that were not.
    pub errors: Vec<BatchDeleteError>,
}

/// Why one instance of a batch was not deleted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct BatchDeleteError {
    /// Its id.
    pub id: String,
    /// The platform's number for the reason.
    pub code: u32,
    /// The platform's word for the reason.
    pub message: String,
}

impl BatchDeleteError {
    /// Why, as far as it is known.
    #[must_use]
    pub fn kind(&self) -> WorkflowErrorKind {
        WorkflowErrorKind::of(&self.message)
    }
}
