//! What instances are created with, and what became of a batch of them.

use std::fmt;

use js_sys::Object;
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;

use super::binding::{WorkflowError, WorkflowErrorKind, WorkflowInstance, unwritable};
use super::convert::{duration_to_js, property, to_js};
use super::js;
use crate::step::duration::WorkflowDuration;

/// What an instance is created with.
///
/// Default: an id that the platform makes up, `{}` as params, the longest retention that the
/// account has, and no wish for a place.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    pub(super) options: js_sys::Object,
}

impl CreateOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            options: js_sys::Object::new(),
        }
    }

    /// With this id: up to 100 letters, digits, `-` and `_`, the first no `-`.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        self.set("id", &id.into())
    }

    /// With these params.
    ///
    /// # Errors
    /// [`Value`](WorkflowErrorKind::Value) when they cannot be sent: larger than 1 MiB as JSON, more
    /// than 127 arrays and objects inside one another, or an integer that JavaScript cannot hold.
    pub fn params<T: Serialize + ?Sized>(self, params: &T) -> Result<Self, WorkflowError> {
        let params = to_js(params).map_err(unwritable("the params"))?;
        Ok(self.set("params", &params))
    }

    /// With a JavaScript value as params.
    #[must_use]
    pub fn params_js(self, params: &JsValue) -> Self {
        self.set("params", params)
    }

    /// Kept for so long after it has ended.
    #[must_use]
    pub fn retention(self, retention: Retention) -> Self {
        let durations = [
            ("successRetention", retention.success),
            ("errorRetention", retention.error),
        ];
        let object = Self::new();
        let object =
            durations
                .into_iter()
                .fold(object, |object, (name, duration)| match duration {
                    Some(duration) => object.set(name, &duration_to_js(duration)),
                    None => object,
                });
        self.set("retention", &object.options)
    }

    /// Wished to run there.
    #[must_use]
    pub fn location_hint(self, hint: LocationHint) -> Self {
        self.set("locationHint", &hint.as_str().into())
    }

    /// The id, made up if there is none, and options with it. Those that were given stay as they are.
    #[doc(hidden)] // For the crate `ssetarget`.
    pub fn with_id(self) -> Result<(String, Self), WorkflowError> {
        let id = property(&self.options, "id");
        match id.as_string() {
            Some(id) => Ok((id, self)),
            // The platform says what is wrong with it.
            None if !id.is_undefined() && !id.is_null() => Ok((String::new(), self)),
            None => {
                let id = js::uuid()?;
                let options = Object::assign(&Object::new(), &self.options);
                Ok((id.clone(), Self { options }.id(&id)))
            }
        }
    }

    pub(super) fn set(self, name: &str, value: &JsValue) -> Self {
        // A plain object of our own takes any property.
        let _ = js_sys::Reflect::set(&self.options, &name.into(), value);
        self
    }
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// How long the platform keeps an instance that has ended.
///
/// Default: as long as the account allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// One that is complete.
    pub success: Option<WorkflowDuration>,
    /// One that is errored or terminated.
    pub error: Option<WorkflowDuration>,
}

impl Retention {
    /// The default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that is complete is kept for so long.
    #[must_use]
    pub fn success(mut self, duration: impl Into<WorkflowDuration>) -> Self {
        self.success = Some(duration.into());
        self
    }

    /// One that is errored or terminated is kept for so long.
    #[must_use]
    pub fn error(mut self, duration: impl Into<WorkflowDuration>) -> Self {
        self.error = Some(duration.into());
        self
    }
}

/// Where an instance is wished to run. The platform does what it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LocationHint {
    /// `wnam`
    WesternNorthAmerica,
    /// `enam`
    EasternNorthAmerica,
    /// `sam`
    SouthAmerica,
    /// `weur`
    WesternEurope,
    /// `eeur`
    EasternEurope,
    /// `apac`
    AsiaPacific,
    /// `apac-ne`
    NortheastAsiaPacific,
    /// `apac-se`
    SoutheastAsiaPacific,
    /// `oc`
    Oceania,
    /// `afr`
    Africa,
    /// `me`
    MiddleEast,
}

impl LocationHint {
    /// Every place.
    pub const ALL: [Self; 11] = [
        Self::WesternNorthAmerica,
        Self::EasternNorthAmerica,
        Self::SouthAmerica,
        Self::WesternEurope,
        Self::EasternEurope,
        Self::AsiaPacific,
        Self::NortheastAsiaPacific,
        Self::SoutheastAsiaPacific,
        Self::Oceania,
        Self::Africa,
        Self::MiddleEast,
    ];

    /// The platform's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WesternNorthAmerica => "wnam",
            Self::EasternNorthAmerica => "enam",
            Self::SouthAmerica => "sam",
            Self::WesternEurope => "weur",
            Self::EasternEurope => "eeur",
            Self::AsiaPacific => "apac",
            Self::NortheastAsiaPacific => "apac-ne",
            Self::SoutheastAsiaPacific => "apac-se",
            Self::Oceania => "oc",
            Self::Africa => "afr",
            Self::MiddleEast => "me",
        }
    }
}

impl fmt::Display for LocationHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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
