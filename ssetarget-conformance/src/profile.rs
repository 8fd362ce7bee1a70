//! The description of a server: how a stream is started, appended to and ended, and which extensions it claims.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::http::{Request, percent};

/// A profile, as in its JSON file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// For the report.
    #[serde(default)]
    pub name: String,
    /// The path of a stream. `{id}` is the stream's id, a new one for each case.
    pub stream: String,
    /// Makes a stream. Default: streams need not be made.
    pub start: Option<Template>,
    /// Appends an event.
    pub append: Option<Template>,
    /// Ends a stream.
    pub end: Option<Template>,
    /// A string in the data of the event after which `end` may be sent. Default: it may be sent at once.
    pub end_after: Option<String>,
    /// The data of the event number `{n}` that is appended. Default: `event number {n}.`
    #[serde(default = "Profile::default_text")]
    pub text: String,
    /// A string that the data of that event contains, if the server makes its own data.
    pub marker: Option<String>,
    /// Whether the data of an event is the string that was appended, and nothing else.
    #[serde(default)]
    pub echo: bool,
    /// Seconds of silence after which a heartbeat comes.
    #[serde(default = "Profile::default_heartbeat")]
    pub heartbeat_seconds: f64,
    /// The query parameter with the position after which a stream goes on.
    #[serde(default = "Profile::default_query")]
    pub query: String,
    /// The query that starts at the tail.
    #[serde(default = "Profile::default_latest")]
    pub latest: String,
    /// The type of the event that reports a position that is not in the log.
    #[serde(default = "Profile::default_reset")]
    pub reset: String,
    /// A well-formed position that the server has never assigned.
    #[serde(default = "Profile::default_unknown_position")]
    pub unknown_position: String,
    /// A malformed position.
    #[serde(default = "Profile::default_malformed_position")]
    pub malformed_position: String,
    /// A site whose pages may read.
    pub origin: Option<String>,
    /// Headers of every request, such as `authorization`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The extensions that the server claims: see `--list`.
    #[serde(default)]
    pub claims: Vec<String>,
}

/// A request with places for values.
///
/// `{id}` is the stream's id, `{n}` the number of the event, `{data}` its text and `{json}` that text in
/// quotes, `{type}` its type. What goes into a path is percent-encoded.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Default: `POST`.
    #[serde(default = "Template::default_method")]
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// More headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Option<String>,
}

impl Template {
    fn default_method() -> String {
        "POST".to_owned()
    }

    /// Returns whether it has this place.
    #[must_use]
    pub fn has(&self, place: &str) -> bool {
        self.path.contains(place) || self.body.as_ref().is_some_and(|body| body.contains(place))
    }

    /// Returns the request.
    #[must_use]
    pub fn fill(&self, id: &str, n: u32, data: &[u8], event_type: &str) -> Request {
        let number = n.to_string();
        let json = serde_json::Value::from(String::from_utf8_lossy(data)).to_string();
        let places: [(&str, &[u8]); 5] = [
            ("{id}", id.as_bytes()),
            ("{n}", number.as_bytes()),
            ("{data}", data),
            ("{json}", json.as_bytes()),
            ("{type}", event_type.as_bytes()),
        ];
        let path = filled(&self.path, &places, |value| percent(value).into_bytes());
        let mut request = Request::new(&self.method, String::from_utf8_lossy(&path));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let body = self.body.as_deref().unwrap_or_default();
        request.body = Some(filled(body, &places, <[u8]>::to_vec));
        request
    }
}

/// Fills places from left to right. Places in filled-in values are not filled.
fn filled(text: &str, places: &[(&str, &[u8])], encode: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        match places.iter().find(|(place, _)| rest.starts_with(place)) {
            Some((place, value)) => {
                bytes.extend(encode(value));
                rest = &rest[place.len()..];
            }
            None => {
                bytes.push(b'{');
                rest = &rest[1..];
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

impl Profile {
    fn default_text() -> String {
        "event number {n}.".to_owned()
    }
    fn default_heartbeat() -> f64 {
        15.0
    }
    fn default_query() -> String {
        "lastEventId".to_owned()
    }
    fn default_latest() -> String {
        "from=latest".to_owned()
    }
    fn default_reset() -> String {
        "reset".to_owned()
    }
    fn default_unknown_position() -> String {
        "4503599627370496".to_owned()
    }
    fn default_malformed_position() -> String {
        "not/a position".to_owned()
    }

    /// Returns the profile of a server when only a stream's path is known.
    #[must_use]
    pub fn of_stream(path: &str) -> Self {
        Self {
            name: path.to_owned(),
            stream: path.to_owned(),
            start: None,
            append: None,
            end: None,
            end_after: None,
            text: Self::default_text(),
            marker: None,
            echo: false,
            heartbeat_seconds: Self::default_heartbeat(),
            query: Self::default_query(),
            latest: Self::default_latest(),
            reset: Self::default_reset(),
            unknown_position: Self::default_unknown_position(),
            malformed_position: Self::default_malformed_position(),
            origin: None,
            headers: BTreeMap::new(),
            claims: Vec::new(),
        }
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(json: &str) -> Result<Self, String> {
        let profile: Self = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if !profile.stream.starts_with('/') {
            return Err("`stream` is a path: it begins with /".to_owned());
        }
        if !(profile.heartbeat_seconds > 0.0 && profile.heartbeat_seconds < 3600.0) {
            return Err("`heartbeat_seconds` is above 0 and below 3600".to_owned());
        }
        let known = crate::extensions::EXTENSIONS;
        match profile
            .claims
            .iter()
            .find(|claim| known.iter().all(|(name, _)| name != claim))
        {
            Some(claim) => {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                Err(format!(
                    "`claims` has {claim}, which is none of {}",
                    names.join(", ")
                ))
            }
            None => Ok(profile),
        }
    }

    /// Returns whether it claims an extension.
    #[must_use]
    pub fn claims(&self, extension: &str) -> bool {
        self.claims.iter().any(|claim| claim == extension)
    }

    /// Returns how long a stream may be silent.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        Duration::from_secs_f64(self.heartbeat_seconds)
    }

    /// Returns the text of an event.
    #[must_use]
    pub fn text_of(&self, n: u32) -> String {
        self.text.replace("{n}", &n.to_string())
    }

    /// Returns a string that the data of an event contains.
    #[must_use]
    pub fn marker_of(&self, n: u32) -> String {
        let marker = self.marker.as_ref().unwrap_or(&self.text);
        marker.replace("{n}", &n.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_once_and_encoded_where_they_stand() {
        let template: Template = serde_json::from_str(
            r#"{"path": "/{id}?type={type}", "body": "{\"text\": {json}, \"n\": {n}}"}"#,
        )
        .unwrap();
        let request = template.fill("a", 7, b"{n} \"\n", "x&y");
        assert_eq!(request.target, "/a?type=x%26y");
        let body = String::from_utf8(request.body.unwrap()).unwrap();
        assert_eq!(body, r#"{"text": "{n} \"\n", "n": 7}"#);
    }

    #[test]
    fn invalid_profiles_are_refused_with_a_reason() {
        for (json, reason) in [
            (r#"{"stream": "sse"}"#, "begins with /"),
            (r#"{"stream": "/", "claims": ["magic"]}"#, "magic"),
            (r#"{"stream": "/", "heartbeat_seconds": 0}"#, "above 0"),
            (r#"{"stream": "/", "steram": 1}"#, "unknown field"),
        ] {
            assert!(Profile::parse(json).unwrap_err().contains(reason));
        }
    }
}
