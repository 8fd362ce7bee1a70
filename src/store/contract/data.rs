//! Types and data of every kind and size are kept byte for byte.

use super::tools::{append, everything, expect_data, keyed, new, plain, read, stored};
use crate::event::{EventId, NewEvent, StoredEvent};
use crate::store::{Appended, EventStore, PageLimit};

/// Type and data are read back byte for byte.
pub async fn awkward_data<S: EventStore>(store: &S) {
    let data = [
        "",
        " ",
        "plain",
        "\n",
        "\r",
        "\r\n",
        "a\nb\rc\r\nd",
        "\n\nid: 7\nevent: forged\ndata: x\n\n",
        "\0",
        "a\0b",
        "\0\0",
        "\u{1}",
        "\u{1}0\u{1}1\u{0}\u{1}",
        "\u{1b}\u{7f}\t",
        "\u{feff}bom",
        "'; DROP TABLE events; --",
        "\"quoted\" 'single' `back`",
        "\\ \\\\ \\n \\u0000 \\\"",
        "\"\\ud800\"",
        "{\"lone\":\"\\udc00\\ud800\"}",
        "{\"pair\":\"\\ud83e\\udd80\"}",
        "🦀 ñ 漢 \u{10ffff} \u{2028}\u{2029}",
        "é e\u{301}",
        "null",
        "true",
        "7",
        "7.0",
        "1e400",
        "9007199254740993",
        "[1, 2]",
        "%00%0a",
        "{\"a\":1}",
    ];
    let types = ["message", "a: b", " ", "'", "\"", "\\", "🦀", "null", "7"];
    let batch: Vec<_> = data
        .iter()
        .zip(types.iter().cycle())
        .map(|(data, event_type)| new(event_type, data))
        .collect();
    let outcomes = append(store, batch.clone()).await;
    stored(&outcomes, "events with awkward data");
    let read = everything(store).await.events;
    for (event, read) in batch.iter().zip(&read) {
        assert_eq!(event.event_type(), read.event_type, "of {event:?}");
        assert_eq!(event.data(), read.data, "of {event:?}");
    }
    assert_eq!(read.len(), batch.len());
}

/// Events of the maximum size are kept whole.
pub async fn large_data<S: EventStore>(store: &S) {
    let key = "k";
    for filler in ["x", "\"", "\u{1}", "é"] {
        let room = NewEvent::MAX_SIZE - "large".len() - filler.len() - key.len();
        let data = filler.repeat(room / filler.len());
        let event = new("large", &data)
            .with_key(format!("{key}{filler}"))
            .unwrap();
        let outcomes = append(store, vec![event.clone()]).await;
        let ids = stored(&outcomes, "a large event");
        assert_eq!(append(store, vec![event]).await, [Appended::Duplicate]);
        let before = EventId::new(ids[0].get() - 1);
        let page = read(store, before, PageLimit::default()).await;
        assert_eq!(
            page.events.len(),
            1,
            "an event larger than the page comes alone"
        );
        assert!(
            page.events[0].data == data,
            "1 MiB of {filler:?} came back as {} bytes",
            page.events[0].data.len()
        );
    }
}

/// Events with the maximum number of lines are kept whole, alone and together with others.
pub async fn many_lines<S: EventStore>(store: &S) {
    let most = NewEvent::MAX_SIZE - 100;
    let long = "a line of 30 characters, or so";
    let data = [
        format!("{long}\n").repeat(30_000),
        "\n".repeat(most),
        "\r\n\u{1}".repeat(most / 3),
        format!("{long}\"\n").repeat(4_000),
    ];
    let mut batch = vec![plain("first")];
    batch.extend(data.iter().map(|data| new("lines", data)));
    batch.push(plain("last"));
    stored(&append(store, batch).await, "a batch of long strings");
    for data in &data {
        append(store, vec![keyed(&data[..40], data)]).await;
    }
    let mut expected = vec!["first"];
    expected.extend(data.iter().map(String::as_str));
    expected.push("last");
    expected.extend(data.iter().map(String::as_str));
    let limit = PageLimit::default();
    let mut after = None;
    for expected in expected {
        let page = read(store, after, PageLimit { events: 1, ..limit }).await;
        let event = page.events.first().unwrap();
        assert!(
            event.data == expected,
            "{} bytes of many lines came back as {}",
            expected.len(),
            event.data.len()
        );
        after = Some(event.id);
    }
}

/// A batch may have a thousand events.
pub async fn large_batch<S: EventStore>(store: &S) {
    let data: Vec<String> = (0..1000).map(|n| format!("event {n}")).collect();
    let batch: Vec<_> = data
        .iter()
        .map(|data| keyed(&format!("key of {data}"), data))
        .collect();
    let outcomes = append(store, batch.clone()).await;
    let ids = stored(&outcomes, "a thousand events");
    assert!(ids.is_sorted_by(|a, b| a < b), "ids of a thousand events");
    let page = everything(store).await;
    let data: Vec<&str> = data.iter().map(String::as_str).collect();
    expect_data(&page, &data, "a thousand events");
    assert_eq!(append(store, batch).await, vec![Appended::Duplicate; 1000]);
}

/// A batch may have some megabytes, and is stored whole.
pub async fn huge_batch<S: EventStore>(store: &S) {
    let data: Vec<String> = (0..40).map(|n| format!("{n}").repeat(50_000)).collect();
    let batch = data.iter().enumerate().map(|(n, data)| {
        // Keys count, too; these characters grow most when they are escaped.
        keyed(&format!("{n}{}", "\u{1}\"".repeat(10_000)), data)
    });
    let batch: Vec<_> = batch.collect();
    let outcomes = append(store, batch.clone()).await;
    let ids = stored(&outcomes, "a batch of some megabytes");
    assert!(ids.is_sorted_by(|a, b| a < b), "ids of a large batch");
    // Page by page: a store may limit the size of a page.
    let mut events = Vec::new();
    loop {
        let after = events.last().map(|event: &StoredEvent| event.id);
        let page = read(store, after, PageLimit::default()).await;
        if page.events.is_empty() {
            break;
        }
        events.extend(page.events);
    }
    assert_eq!(events.len(), data.len(), "events of a large batch");
    for (event, data) in events.iter().zip(&data) {
        assert!(event.data == *data, "event {} is another", event.id);
    }
    assert_eq!(append(store, batch).await, vec![Appended::Duplicate; 40]);
}
