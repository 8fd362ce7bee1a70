//! The options of a new instance.

use std::fmt;

use js_sys::Object;
use serde::Serialize;
use wasm_bindgen::prelude::*;

use super::convert::{duration_to_js, property, set, to_js};
use super::error::{WorkflowError, unwritable};
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
    /// [`Value`](crate::WorkflowErrorKind::Value) when they cannot be sent: larger than 1 MiB as JSON, more
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
        set(&self.options, name, value);
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
