//! The messages of OTLP as JSON, limited to those of traces: names in lowerCamelCase, ids in hexadecimal digits,
//! enums as numbers, 64-bit numbers as decimal strings.

use std::time::SystemTime;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::ids::{SpanId, TraceId};

/// The most bytes of a string in a span: 4 KiB. A longer one is cut at the end of a character.
pub(super) const MAX_TEXT: usize = 4 * 1024;

/// The most attributes of a span, or of an event in it. Further ones are dropped and counted.
pub(super) const MAX_ATTRIBUTES: usize = 128;

/// `SPAN_KIND_INTERNAL`.
pub(super) const INTERNAL: u8 = 1;
/// `STATUS_CODE_OK` and `STATUS_CODE_ERROR`.
pub(super) const OK: u8 = 1;
pub(super) const ERROR: u8 = 2;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Span<'a> {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent_span_id: Option<SpanId>,
    pub(super) name: &'a str,
    pub(super) kind: u8,
    pub(super) start_time_unix_nano: Nanos,
    pub(super) end_time_unix_nano: Nanos,
    #[serde(flatten)]
    pub(super) attributes: Attributes,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) events: &'a [Event],
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) dropped_events_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) links: Option<[Link; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<Status<'a>>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    pub(super) time_unix_nano: Nanos,
    pub(super) name: &'static str,
    #[serde(flatten)]
    pub(super) attributes: Attributes,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Link {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    #[serde(flatten)]
    pub(super) attributes: Attributes,
}

#[derive(Debug, Serialize)]
pub(super) struct Status<'a> {
    pub(super) code: u8,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) message: &'a str,
}

/// Attributes, each name once, and the number of dropped ones.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attributes {
    #[serde(rename = "attributes", skip_serializing_if = "Vec::is_empty")]
    list: Vec<KeyValue>,
    #[serde(rename = "droppedAttributesCount", skip_serializing_if = "is_zero")]
    dropped: u32,
}

#[derive(Clone, Debug, Serialize)]
struct KeyValue {
    key: String,
    value: AnyValue,
}

#[derive(Clone, Debug, Serialize)]
pub(super) enum AnyValue {
    #[serde(rename = "stringValue")]
    Text(String),
    #[serde(rename = "boolValue")]
    Bool(bool),
    /// A decimal string.
    #[serde(rename = "intValue")]
    Int(String),
    #[serde(rename = "doubleValue")]
    Double(f64),
    #[serde(rename = "arrayValue")]
    Array(Array),
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Array {
    values: Vec<AnyValue>,
}

impl From<&str> for AnyValue {
    fn from(text: &str) -> Self {
        Self::Text(cut(text, MAX_TEXT).to_owned())
    }
}

impl From<u32> for AnyValue {
    fn from(number: u32) -> Self {
        Self::Int(number.to_string())
    }
}

impl From<f64> for AnyValue {
    fn from(number: f64) -> Self {
        Self::Double(number)
    }
}

impl From<bool> for AnyValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl AnyValue {
    /// Returns the value, or `None` for `null`, which no attribute may be. An array of strings, numbers or booleans
    /// stays one; an object, and any other array, becomes a string with its JSON.
    fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => return None,
            Value::Array(values) => {
                let plain = values
                    .iter()
                    .map(Self::of_plain)
                    .collect::<Option<Vec<_>>>();
                let of = |value: &Self| std::mem::discriminant(value);
                match plain {
                    Some(values)
                        if values.len() <= MAX_ATTRIBUTES
                            && values
                                .windows(2)
                                .all(|two| matches!(two, [a, b] if of(a) == of(b))) =>
                    {
                        Self::Array(Array { values })
                    }
                    _ => Self::json(value),
                }
            }
            Value::Object(_) => Self::json(value),
            plain => Self::of_plain(plain)?,
        })
    }

    fn of_plain(value: &Value) -> Option<Self> {
        Some(match value {
            Value::String(text) => text.as_str().into(),
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => Self::Int(whole.to_string()),
                (None, Some(number)) if number.is_finite() => Self::Double(number),
                _ => Self::json(value),
            },
            _ => return None,
        })
    }

    fn json(value: &Value) -> Self {
        value.to_string().as_str().into()
    }

    /// Returns the approximate number of bytes that it takes.
    fn size(&self) -> usize {
        match self {
            Self::Text(text) | Self::Int(text) => text.len(),
            Self::Bool(_) | Self::Double(_) => 8,
            Self::Array(array) => array.values.iter().map(|value| 32 + value.size()).sum(),
        }
    }
}

impl Attributes {
    /// Adds an attribute whose name is new.
    pub(super) fn set(&mut self, key: &'static str, value: impl Into<AnyValue>) {
        self.list.push(KeyValue {
            key: key.to_owned(),
            value: value.into(),
        });
    }

    /// Returns the attributes with one more.
    pub(super) fn with(mut self, key: &'static str, value: impl Into<AnyValue>) -> Self {
        self.set(key, value);
        self
    }

    /// As [`with`](Self::with), if there is a value.
    pub(super) fn with_some(
        mut self,
        key: &'static str,
        value: Option<impl Into<AnyValue>>,
    ) -> Self {
        if let Some(value) = value {
            self.set(key, value);
        }
        self
    }

    /// Adds the attributes that a step's code set. Names that the exporter uses itself, empty names, `null`, and
    /// attributes beyond [`MAX_ATTRIBUTES`] are dropped and counted.
    pub(super) fn add_own(&mut self, own: &serde_json::Map<String, Value>) {
        for (key, value) in own {
            let is_free = !key.is_empty()
                && !key.starts_with("ssetarget.")
                && self.list.len() < MAX_ATTRIBUTES
                && self.list.iter().all(|known| known.key != *key);
            let key = || (key.len() <= MAX_TEXT).then(|| key.clone());
            match is_free.then(|| key().zip(AnyValue::of(value))).flatten() {
                Some((key, value)) => self.list.push(KeyValue { key, value }),
                None => self.dropped = self.dropped.saturating_add(1),
            }
        }
    }

    /// Returns the approximate number of bytes that they take in memory.
    pub(super) fn size(&self) -> usize {
        let size = |one: &KeyValue| 64 + one.key.len() + one.value.size();
        self.list.iter().map(size).sum()
    }
}

/// Nanoseconds since 1970, as a decimal string. A time outside the range of 64 bits becomes the nearest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Nanos(u64);

impl From<SystemTime> for Nanos {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        Self(u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Serialize for Nanos {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Returns the beginning of a string, at most `most` bytes.
pub(super) fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most))
        .unwrap_or_default()
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_attributes() {
        let own = json!({
            "array": ["a", "b"], "bits": [true], "empty": [], "mixed": [1, "a"], "deep": [[1]],
            "big": u64::MAX, "fraction": 0.5, "none": null, "object": { "a": [1, null] }, "text": "t",
            "whole": -7, "yes": true, "": 1, "ssetarget.run": 1, "taken": 2,
        });
        let mut attributes = Attributes::default().with("taken", "own");
        attributes.add_own(own.as_object().unwrap());
        let json = serde_json::to_value(&attributes).unwrap();
        assert_eq!(json["droppedAttributesCount"], 4);
        let mut values = serde_json::Map::new();
        for one in json["attributes"].as_array().unwrap() {
            values.insert(
                one["key"].as_str().unwrap().to_owned(),
                one["value"].clone(),
            );
        }
        assert_eq!(
            Value::Object(values),
            json!({
                "taken": { "stringValue": "own" },
                "array": { "arrayValue": { "values": [{ "stringValue": "a" }, { "stringValue": "b" }] } },
                "bits": { "arrayValue": { "values": [{ "boolValue": true }] } },
                "empty": { "arrayValue": { "values": [] } },
                "mixed": { "stringValue": "[1,\"a\"]" },
                "deep": { "stringValue": "[[1]]" },
                "big": { "doubleValue": 18_446_744_073_709_551_615.0 },
                "fraction": { "doubleValue": 0.5 },
                "object": { "stringValue": "{\"a\":[1,null]}" },
                "text": { "stringValue": "t" },
                "whole": { "intValue": "-7" },
                "yes": { "boolValue": true },
            })
        );
    }

    #[test]
    fn texts_and_counts_are_bounded() {
        let long = "ü".repeat(MAX_TEXT);
        let many = (0..200).map(|n| (format!("k{n}"), json!(long)));
        let mut attributes = Attributes::default();
        attributes.add_own(&many.collect());
        assert_eq!(
            (attributes.list.len(), attributes.dropped),
            (MAX_ATTRIBUTES, 72)
        );
        assert_eq!(cut("aü", 2), "a");
        assert_eq!(cut("aü", 3), "aü");
        assert_eq!(cut("", 3), "");
    }
}
