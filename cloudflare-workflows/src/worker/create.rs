//! The options of a new instance.

use std::fmt;

use js_sys::Object;
use serde::Serialize;
use wasm_bindgen::prelude::*;

use super::convert::{duration_to_js, property, set, to_js};
use super::error::{WorkflowError, unwritable};
use super::js;
use crate::step::duration::WorkflowDuration;

/// The options of a new instance.
///
/// Default: an id that the platform generates, `{}` as params, the longest retention that the account
/// allows, and no location hint.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    pub(super) options: js_sys::Object,
}

impl CreateOptions {
    /// Returns the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            options: js_sys::Object::new(),
        }
    }

    /// Sets the id: up to 100 letters, digits, `-` and `_`, not beginning with `-`. Another id is refused
    /// when the instance is created.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        self.set("id", &id.into())
    }

    /// Sets the params, which the workflow gets as [`WorkflowEvent::payload`](crate::WorkflowEvent::payload).
    ///
    /// # Errors
    /// [`Value`](crate::WorkflowErrorKind::Value) when they cannot be sent: more than 1 MiB as
    /// JSON, more than 127 nested arrays and objects, or an integer that JavaScript cannot hold.
    pub fn params<T: Serialize + ?Sized>(self, params: &T) -> Result<Self, WorkflowError> {
        let params = to_js(params).map_err(unwritable("the params"))?;
        Ok(self.set("params", &params))
    }

    /// Sets the params to a JavaScript value.
    #[must_use]
    pub fn params_js(self, params: &JsValue) -> Self {
        self.set("params", params)
    }

    /// Sets how long the platform keeps the instance after it ends.
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

    /// Sets a hint for where to run the instance.
    #[must_use]
    pub fn location_hint(self, hint: LocationHint) -> Self {
        self.set("locationHint", &hint.as_str().into())
    }

    /// Returns the id, generated if there is none, and options with it. The given options stay as they are.
    #[doc(hidden)] // For the crate `ssetarget`.
    pub fn with_id(self) -> Result<(String, Self), WorkflowError> {
        let id = property(&self.options, "id");
        match id.as_string() {
            Some(id) => Ok((id, self)),
            // Not a string: the platform refuses it with a message.
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

/// The time for which the platform keeps an instance that has ended.
///
/// Default: the longest that the account allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// The time for an instance that is complete.
    pub success: Option<WorkflowDuration>,
    /// The time for an instance that is errored or terminated.
    pub error: Option<WorkflowDuration>,
}

impl Retention {
    /// Returns the default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time for an instance that is complete.
    #[must_use]
    pub fn success(mut self, duration: impl Into<WorkflowDuration>) -> Self {
        self.success = Some(duration.into());
        self
    }

    /// Sets the time for an instance that is errored or terminated.
    #[must_use]
    pub fn error(mut self, duration: impl Into<WorkflowDuration>) -> Self {
        self.error = Some(duration.into());
        self
    }
}

/// A hint for where to run the instance; best effort.
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

    /// Returns the platform's name for it.
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
