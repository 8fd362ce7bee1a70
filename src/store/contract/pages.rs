//! **Honesty**: a page keeps to its limits, and says where the ends of the log are.

use super::tools::{append, everything, keyed, plain, read, succeed};
use crate::event::EventId;
use crate::store::{EventStore, PageLimit};

/// A page has at most as many events as its limit, and pages one after another have them all.
pub async fn page_of_events<S: EventStore>(store: &S) {
    let data: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    append(store, data.iter().map(|data| plain(data)).collect()).await;
    for events in [1, 3, 5, 9, 10, 11, usize::MAX] {
        let limit = PageLimit {
            events,
            bytes: usize::MAX,
        };
        let mut after = None;
        let mut seen = Vec::new();
        loop {
            let page = read(store, after, limit).await;
            assert_eq!(
                page.events.len(),
                events.min(data.len() - seen.len()),
                "a page of {events} events after {} of {}",
                seen.len(),
                data.len()
            );
            let Some(last) = page.events.last() else {
                break;
            };
            after = Some(last.id);
            seen.extend(page.events.into_iter().map(|event| event.data));
        }
        assert_eq!(seen, data, "pages of {events} events");
    }
}

/// A page has at most as many bytes of data as its limit, in UTF-8, but at least one event if
/// there is one: an event larger than the limit comes alone.
pub async fn page_of_bytes<S: EventStore>(store: &S) {
    let sizes = [40, 60, 1, 200, 0, 0, 99, 3, 100, 0, 101];
    // Characters of two bytes: 'é' is C3 A9.
    let data = sizes.map(|size| "é".repeat(size / 2) + &"x".repeat(size % 2));
    append(store, data.iter().map(|data| plain(data)).collect()).await;
    for bytes in [1, 2, 50, 100, 101, 1000] {
        let limit = PageLimit { events: 100, bytes };
        let mut after = None;
        let mut seen = Vec::new();
        loop {
            let page = read(store, after, limit).await;
            let Some(last) = page.events.last() else {
                break;
            };
            after = Some(last.id);
            let size: usize = page.events.iter().map(|event| event.data.len()).sum();
            assert!(
                size <= bytes || page.events.len() == 1,
                "a page of {bytes} bytes has {} events with {size}",
                page.events.len()
            );
            seen.extend(page.events.into_iter().map(|event| event.data));
        }
        assert_eq!(seen, data, "pages of {bytes} bytes");
    }
    // A page is not needlessly small either: half of its limit fits twice.
    let limit = PageLimit {
        events: 100,
        bytes: 100,
    };
    let page = read(store, None, limit).await;
    assert_eq!(
        page.events.len(),
        2,
        "40 and 60 bytes fit into a page of 100"
    );
}

/// A page has the same ends of the log after every position, has only events after the position,
/// and is empty from the head on.
pub async fn positions<S: EventStore>(store: &S) {
    append(store, vec![plain("a"), plain("b"), plain("c")]).await;
    let all = everything(store).await;
    assert_eq!(
        all.oldest,
        Some(all.events[0].id),
        "the oldest event is another"
    );
    assert_eq!(
        all.head,
        Some(all.events[2].id),
        "the head is not the newest event"
    );
    assert_eq!(all.trimmed, None, "three events were cut already");
    let limit = PageLimit {
        events: 1,
        bytes: 1,
    };
    for (index, event) in all.events.iter().enumerate() {
        for limit in [limit, PageLimit::default()] {
            let page = read(store, Some(event.id), limit).await;
            assert_eq!(
                (page.oldest, page.head, page.trimmed, page.closed),
                (all.oldest, all.head, all.trimmed, all.closed),
                "the ends of the log depend on where it is read"
            );
            let rest = &all.events[index + 1..];
            let expected = &rest[..rest.len().min(limit.events)];
            assert_eq!(page.events, expected, "read after {}", event.id);
        }
    }
    let beyond = all.head.and_then(|head| EventId::new(head.get() + 1));
    for after in [beyond, EventId::new(EventId::MAX)] {
        let page = read(store, after, PageLimit::default()).await;
        assert_eq!(page.events, [], "events beyond the head");
        assert_eq!(page.head, all.head, "the head, read from beyond it");
    }
}

/// `ends` returns the ends that a page has, after every position.
pub async fn ends<S: EventStore>(store: &S) {
    ends_are_those_of_a_page(store).await;
    append(store, vec![plain("first"), plain("second")]).await;
    ends_are_those_of_a_page(store).await;
    append(store, vec![plain("last").terminal()]).await;
    ends_are_those_of_a_page(store).await;
    append(store, vec![plain("restarted")]).await;
    ends_are_those_of_a_page(store).await;
}

async fn ends_are_those_of_a_page<S: EventStore>(store: &S) {
    let ids = everything(store).await.events;
    let ids = ids.iter().map(|event| Some(event.id));
    for after in ids.chain([None, EventId::new(EventId::MAX)]) {
        let page = read(store, after, PageLimit::default()).await;
        let ends = succeed("ends", store.ends(after)).await;
        assert_eq!(ends, page.with(()), "the ends of the log after {after:?}");
    }
}

/// The log is closed exactly while its newest event is terminal.
pub async fn terminal<S: EventStore>(store: &S) {
    append(store, vec![plain("a")]).await;
    assert!(!everything(store).await.closed, "no terminal event yet");
    append(store, vec![plain("b"), keyed("end", "c").terminal()]).await;
    let page = everything(store).await;
    assert!(page.closed, "the newest event is terminal");
    let at_head = read(store, page.head, PageLimit::default()).await;
    assert!(at_head.closed, "closed must show at the head, too");
    append(store, vec![plain("d")]).await;
    assert!(
        !everything(store).await.closed,
        "the terminal event is not the newest any more"
    );
    append(store, vec![keyed("end", "again").terminal()]).await;
    assert!(
        !everything(store).await.closed,
        "a duplicate of a terminal event does not close the log"
    );
    append(store, vec![keyed("end 2", "e").terminal()]).await;
    append(store, vec![keyed("end", "again")]).await;
    assert!(
        everything(store).await.closed,
        "a duplicate does not open the log"
    );
    append(store, vec![plain("f").terminal(), plain("g")]).await;
    assert!(
        !everything(store).await.closed,
        "a terminal event inside a batch is not the newest"
    );
}
