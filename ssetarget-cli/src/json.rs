//! Events as JSON, one on a line.

use ssetarget::client::ReceivedEvent;

use crate::text::is_hostile;

/// Returns `{"id":…,"event":…,"data":…}` and a line end. JSON data stays as it is, except for white
/// space between its parts; other data becomes a string. Characters that could harm a terminal are
/// escaped.
pub(crate) fn line(event: &ReceivedEvent) -> String {
    let mut line = String::from("{\"id\":");
    match &event.id {
        Some(id) => push_string(&mut line, id),
        None => line.push_str("null"),
    }
    line.push_str(",\"event\":");
    push_string(&mut line, &event.event_type);
    line.push_str(",\"data\":");
    match serde_json::from_str::<&serde_json::value::RawValue>(&event.data) {
        Ok(json) => push_json(&mut line, json.get()),
        Err(_) => push_string(&mut line, &event.data),
    }
    line.push_str("}\n");
    line
}

fn push_string(line: &mut String, text: &str) {
    push_json(line, &serde_json::Value::from(text).to_string());
}

/// Adds valid JSON without the white space outside of its strings.
fn push_json(line: &mut String, json: &str) {
    let (mut in_string, mut is_escaped) = (false, false);
    for character in json.chars() {
        if !in_string && character.is_ascii_whitespace() {
            continue;
        }
        in_string ^= character == '"' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        if !is_hostile(character) {
            line.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::event;

    fn of(id: Option<&str>, event_type: &str, data: &str) -> String {
        line(&event(id, event_type, data))
    }

    #[test]
    fn data_that_is_json_stays_as_it_is() {
        assert_eq!(
            of(
                Some("7"),
                "completed",
                "{ \"b\": 1,\n \"a\": [1e400, 12345678901234567890123, \"x  \\\" y\"] }"
            ),
            "{\"id\":\"7\",\"event\":\"completed\",\"data\":{\"b\":1,\"a\":[1e400,12345678901234567890123,\"x  \\\" y\"]}}\n"
        );
        assert_eq!(
            of(None, "note", "hello \"you\""),
            "{\"id\":null,\"event\":\"note\",\"data\":\"hello \\\"you\\\"\"}\n"
        );
        assert_eq!(
            of(Some("1"), "note", "a\nb"),
            "{\"id\":\"1\",\"event\":\"note\",\"data\":\"a\\nb\"}\n"
        );
    }

    #[test]
    fn printed_json_is_harmless_and_means_the_same() {
        let hostile = "\u{1b}[2J\u{9b}\u{202e}\u{2028}\u{e0041}\u{7f}\u{85}é👍\\";
        for data in [hostile.to_owned(), Value::from(hostile).to_string()] {
            let line = of(Some("1"), "no\u{9b}te", &data);
            let text = line.trim_end_matches('\n');
            assert!(
                !text
                    .chars()
                    .any(|c| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c)),
                "{text}"
            );
            let read: Value = serde_json::from_str(text).unwrap();
            assert_eq!(
                read,
                json!({"id": "1", "event": "no\u{9b}te", "data": hostile})
            );
        }
    }
}
