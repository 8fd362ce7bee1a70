//! For unit tests.

use ssetarget::client::{EventParser, ReceivedEvent};

/// Returns an event as the parser makes it.
pub(crate) fn event(id: Option<&str>, event_type: &str, data: &str) -> ReceivedEvent {
    let mut text = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    text.push_str(&format!("event: {event_type}\n"));
    for part in data.split('\n') {
        text.push_str(&format!("data: {part}\n"));
    }
    text.push('\n');
    let mut events = Vec::new();
    EventParser::new()
        .feed(text.as_bytes(), &mut events)
        .unwrap();
    events.remove(0).into()
}
