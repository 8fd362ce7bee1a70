//! Small values in the object's storage, each an object of JavaScript with numbers and strings. Runs in the object.
//!
//! They are read and written by hand: what serde needs for values of JavaScript would be 10 KB of every Worker's code,
//! for two values of two and three fields.

use cloudflare_workflows::__private::js::Answer;
use cloudflare_workflows::__private::property;
use wasm_bindgen::prelude::*;
use worker::Storage;

use super::error::JsResult;
use crate::cloudflare::js;

/// A value that was read.
pub(super) struct Stored(JsValue);

impl Stored {
    /// Reads the value of a key, `None` if there is none.
    pub(super) async fn get(storage: &Storage, key: &str) -> JsResult<Option<Self>> {
        let value = Answer::of(storage.as_raw().get(key)).await?;
        Ok((!value.is_undefined()).then_some(Self(value)))
    }

    /// Stores an object with these fields as the value of a key.
    pub(super) async fn put(
        storage: &Storage,
        key: &str,
        fields: &[(&str, JsValue)],
    ) -> JsResult<()> {
        let object = js_sys::Object::new();
        for (name, value) in fields {
            js_sys::Reflect::set(&object, &JsValue::from_str(name), value)?;
        }
        Answer::of(storage.as_raw().put(key, object.into())).await?;
        Ok(())
    }

    /// Returns a number, `None` if there is none of this name.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let number = property(&self.0, name).as_f64()?;
        Some(js::count(number) as u64)
    }

    /// Returns a string, `None` if there is none of this name.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        property(&self.0, name).as_string()
    }

    /// Returns the error for a value that lacks a field.
    pub(super) fn unreadable(key: &str) -> JsValue {
        js_sys::Error::new(&format!("`{key}` in storage is not of this library")).into()
    }
}
