//! docs/limits.md agrees with the constants in the code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use ssetarget::access::{MAX_LIFETIME, MAX_TOKEN};
use ssetarget::cloudflare::FanOut;
use ssetarget::workflow::DispatchConfig;
use ssetarget::{EventId, MAX_MERGED, NewEvent, client, otlp, task, workflow};

const PAGE: &str = include_str!("../docs/limits.md");

fn number(size: usize) -> u64 {
    u64::try_from(size).unwrap()
}

#[test]
fn the_page_has_the_values_of_the_code() {
    let fan_out = FanOut::default();
    let limits: [(&str, u64); 15] = [
        ("NewEvent::MAX_SIZE", number(NewEvent::MAX_SIZE)),
        ("NewEvent::MAX_TYPE", number(NewEvent::MAX_TYPE)),
        ("EventId::MAX", EventId::MAX),
        ("task::MAX_TEXT", number(task::MAX_TEXT)),
        ("task::MAX_ATTRIBUTES", number(task::MAX_ATTRIBUTES)),
        (
            "DispatchConfig::max_reports",
            DispatchConfig::default().max_reports.into(),
        ),
        ("access::MAX_TOKEN", number(MAX_TOKEN)),
        ("access::MAX_LIFETIME", MAX_LIFETIME.as_secs()),
        ("MAX_MERGED", number(MAX_MERGED)),
        (
            "FanOut::viewers_per_object",
            fan_out.viewers_per_object.into(),
        ),
        ("FanOut::max_relays", fan_out.max_relays.into()),
        ("workflow::MAX_DEPTH", number(workflow::MAX_DEPTH)),
        ("otlp::MAX_SPANS", number(otlp::MAX_SPANS)),
        ("otlp::MAX_BYTES", number(otlp::MAX_BYTES)),
        ("client::MAX_EVENT", number(client::MAX_EVENT)),
    ];
    for (name, value) in limits {
        let entry = format!("`{name}`, {value}");
        let found = PAGE.match_indices(&entry).any(|(at, _)| {
            let rest = &PAGE[at + entry.len()..];
            !rest.starts_with(|next: char| next.is_ascii_digit())
        });
        assert!(found, "docs/limits.md does not say that {name} is {value}");
    }
    let named = PAGE.matches("`, ").count();
    assert!(named >= limits.len());
}

#[test]
fn refusals_name_the_limit_and_the_remedy() {
    let large = NewEvent::new("note", "x".repeat(NewEvent::MAX_SIZE))
        .unwrap_err()
        .to_string();
    for part in [
        "1048576",
        "store the payload elsewhere",
        "dispatch a reference to it",
    ] {
        assert!(
            large.contains(part) && PAGE.contains(part),
            "{part}: {large}"
        );
    }
    let name = NewEvent::new("x".repeat(NewEvent::MAX_TYPE + 1), "")
        .unwrap_err()
        .to_string();
    assert!(PAGE.contains(&name), "{name}");
    let at_the_limit = NewEvent::new("note", "x".repeat(NewEvent::MAX_SIZE - 4));
    assert!(at_the_limit.is_ok());
}
