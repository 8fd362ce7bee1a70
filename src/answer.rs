//! Reads the body of `POST /<id>/event`: a client's answer to a wait of a run. Pure.

use std::fmt;

use serde_json::Value;

/// The most bytes of an event's payload as JSON that the platform takes, and the most that are read of a body.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

/// An event for a run that waits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) event_type: String,
    pub(crate) payload: Value,
}

impl Answer {
    /// Reads `{"type", "payload"}`. The payload may be absent, and is `null` then; so may the type, and the whole
    /// body, if there is a default for the type.
    pub(crate) fn from_body(
        body: Vec<u8>,
        default_type: Option<&str>,
    ) -> Result<Self, InvalidAnswer> {
        let body =
            String::from_utf8(body).map_err(|_| InvalidAnswer::bad("the body is not UTF-8"))?;
        let mut fields = match body.trim() {
            "" => serde_json::Map::new(),
            body => match serde_json::from_str(&well_formed(body)) {
                Ok(Value::Object(fields)) => fields,
                Ok(_) => return Err(InvalidAnswer::bad("the body is JSON, but not an object")),
                Err(error) => {
                    let reason = format!("the body is not JSON: {}", brief(&error.to_string()));
                    return Err(InvalidAnswer::bad(reason));
                }
            },
        };
        let event_type = match fields.remove("type") {
            Some(Value::String(event_type)) => event_type,
            Some(_) => return Err(InvalidAnswer::bad("the type is not a string")),
            None => match default_type {
                Some(default) => default.to_owned(),
                None => return Err(InvalidAnswer::bad("the body of an event has a type")),
            },
        };
        if !is_event_type(&event_type) {
            let reason = "the type has up to 100 letters, digits, - and _";
            return Err(InvalidAnswer::bad(reason));
        }
        let payload = fields.remove("payload").unwrap_or_default();
        if !fields.is_empty() {
            let reason = "the body of an event has a type and a payload, nothing else";
            return Err(InvalidAnswer::bad(reason));
        }
        // Numbers may be longer than they were in the body.
        if payload.to_string().len() > MAX_BYTES {
            return Err(InvalidAnswer::too_large("the payload is larger than 1 MiB"));
        }
        Ok(Self {
            event_type,
            payload,
        })
    }
}

/// The status and the reason of a refused answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidAnswer {
    pub(crate) status: u16,
    pub(crate) reason: String,
}

impl InvalidAnswer {
    pub(crate) fn bad(reason: impl Into<String>) -> Self {
        Self {
            status: 400,
            reason: reason.into(),
        }
    }

    pub(crate) fn too_large(reason: impl Into<String>) -> Self {
        Self {
            status: 413,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for InvalidAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Returns whether the platform takes this type. Its local runtime takes more.
fn is_event_type(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=100).contains(&text.len()) && text.bytes().all(allowed)
}

/// Returns JSON whose strings are Unicode: half a surrogate pair, which JavaScript's strings can have and Rust's
/// cannot, becomes U+FFFD, as everywhere.
fn well_formed(json: &str) -> String {
    let code = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let mut written = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        written.push_str(before);
        let pair = escape.get(6..).and_then(code);
        let length = match (code(escape), pair) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                written.push('\u{FFFD}');
                rest = &escape[6..];
                continue;
            }
            // A backslash and what it escapes, which may be another.
            _ => 1 + escape.chars().nth(1).map_or(0, char::len_utf8),
        };
        let (escape, behind) = escape.split_at(length);
        written.push_str(escape);
        rest = behind;
    }
    written.push_str(rest);
    written
}

/// Returns the beginning of an error's message, which may contain much of the body.
fn brief(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &str) -> Result<(String, Value), (u16, String)> {
        let answer = Answer::from_body(body.into(), Some("waiting"));
        match answer {
            Ok(answer) => Ok((answer.event_type, answer.payload)),
            Err(invalid) => Err((invalid.status, invalid.reason)),
        }
    }

    #[test]
    fn a_type_and_a_payload_may_be_left_out() {
        for (body, event_type, payload) in [
            ("", "waiting", json!(null)),
            (" \n", "waiting", json!(null)),
            ("{}", "waiting", json!(null)),
            (r#"{"type":"go"}"#, "go", json!(null)),
            (
                r#"{"payload":{"by":"Ada"}}"#,
                "waiting",
                json!({"by": "Ada"}),
            ),
            (r#"{"type":"go","payload":[1,"x"]}"#, "go", json!([1, "x"])),
            (
                r#"{"payload":"\ud800 \ud83d\ude00 \\ud800"}"#,
                "waiting",
                json!("\u{FFFD} 😀 \\ud800"),
            ),
        ] {
            assert_eq!(read(body), Ok((event_type.to_owned(), payload)), "{body}");
        }
        let without_default = Answer::from_body(b"{}".to_vec(), None);
        assert_eq!(
            without_default.unwrap_err().reason,
            "the body of an event has a type"
        );
    }

    #[test]
    fn anything_else_is_refused_with_a_reason() {
        let long_type = format!(r#"{{"type":"{}"}}"#, "x".repeat(101));
        for (body, reason) in [
            ("{", "the body is not JSON: "),
            ("[]", "the body is JSON, but not an object"),
            ("1", "the body is JSON, but not an object"),
            (r#"{"type":1}"#, "the type is not a string"),
            (r#"{"type":null}"#, "the type is not a string"),
            (r#"{"type":""}"#, "the type has up to 100"),
            (r#"{"type":"a b"}"#, "the type has up to 100"),
            (r#"{"type":"é"}"#, "the type has up to 100"),
            (&long_type, "the type has up to 100"),
            (
                r#"{"type":"go","x":1}"#,
                "the body of an event has a type and a payload",
            ),
        ] {
            let (status, got) = read(body).unwrap_err();
            assert_eq!(status, 400, "{body}");
            assert!(got.starts_with(reason), "{body}: {got}");
        }
        let deep = format!(r#"{{"payload":{}}}"#, "[".repeat(10_000));
        assert!(
            read(&deep)
                .unwrap_err()
                .1
                .starts_with("the body is not JSON: recursion")
        );
        let not_text = Answer::from_body(vec![0xFF], None).unwrap_err();
        assert_eq!(not_text.reason, "the body is not UTF-8");
    }

    #[test]
    fn a_payload_that_grows_is_measured_as_it_is_sent() {
        // 1e15 is written as 1000000000000000.0, and as 1e+15 if some crate has serde_json keep numbers as they came.
        let count = MAX_BYTES / 8;
        let numbers = vec!["1e15"; count].join(",");
        let read = read(&format!(r#"{{"payload":[{numbers}]}}"#));
        let written = serde_json::from_str::<Value>("1e15").unwrap().to_string();
        let grows = count * (written.len() + 1) > MAX_BYTES;
        match read {
            Ok(_) => assert!(!grows),
            Err((status, reason)) => {
                assert!(grows);
                assert_eq!(
                    (status, &*reason),
                    (413, "the payload is larger than 1 MiB")
                );
            }
        }
    }
}
