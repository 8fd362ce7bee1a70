//! **Atomicity**: a batch is stored and seen whole or not at all.

use futures_util::future::{join, join_all};

use super::tools::{append, everything, expect_data, keyed, poll_and_drop, stored, yield_now};
use crate::event::StoredEvent;
use crate::store::{Appended, EventStore, PageLimit};

/// Batches that are appended at the same time are each stored whole, one after another, and readers
/// meanwhile see none of them in part, and never an event before one already seen.
pub async fn concurrent_appends<S: EventStore>(store: &S) {
    const BATCHES: usize = 12;
    const EVENTS: usize = 5;
    let appends = join_all((0..BATCHES).map(async |batch| {
        yield_now().await;
        let events = (0..EVENTS)
            .map(|n| keyed(&format!("{batch}.{n}"), &format!("{batch}.{n}")))
            .collect();
        // The same facts from two sides: one of the two stores each of them.
        let both = join(
            append(store, events),
            append(store, vec![keyed("0.0", "0.0")]),
        )
        .await;
        stored(&both.0[1..], "of concurrent batches")
    }));
    let reads = async {
        let mut seen: Vec<StoredEvent> = Vec::new();
        while seen.len() < BATCHES * EVENTS {
            let now = everything(store).await.events;
            assert!(
                now.starts_with(&seen),
                "an event appeared before others that were read already"
            );
            assert!(
                now.len() == seen.len() || is_whole(&now, EVENTS),
                "a batch was seen in part: {now:?}"
            );
            seen = now;
            yield_now().await;
        }
    };
    join(appends, reads).await;
    let page = everything(store).await;
    assert_eq!(page.events.len(), BATCHES * EVENTS);

    /// Each batch is together and in order, but for `0.0`, which may come on its own.
    fn is_whole(events: &[StoredEvent], size: usize) -> bool {
        let rest: Vec<_> = events.iter().filter(|event| event.data != "0.0").collect();
        let mut rest = &rest[..];
        while let Some(first) = rest.first() {
            let batch = first.data.split('.').next().unwrap_or_default();
            let start = usize::from(batch == "0");
            let expected: Vec<String> = (start..size).map(|n| format!("{batch}.{n}")).collect();
            if rest.len() < expected.len()
                || !rest
                    .iter()
                    .map(|event| &event.data)
                    .zip(&expected)
                    .all(|(a, b)| a == b)
            {
                return false;
            }
            rest = &rest[expected.len()..];
        }
        true
    }
}

/// Futures that are dropped half-way leave the store usable, and an append either takes place as
/// a whole or not at all.
pub async fn dropped_futures<S: EventStore>(store: &S) {
    for polls in 0..4 {
        let batch = vec![
            keyed(&format!("{polls}.0"), "dropped"),
            keyed(&format!("{polls}.1"), "dropped"),
        ];
        poll_and_drop(polls, store.append(batch.clone())).await;
        poll_and_drop(polls, store.read(None, PageLimit::default())).await;
        let head = everything(store).await.head;
        poll_and_drop(polls, store.changed(head)).await;
        let outcomes = append(store, batch).await;
        assert_eq!(
            outcomes[0] == Appended::Duplicate,
            outcomes[1] == Appended::Duplicate,
            "a dropped append took place in part"
        );
    }
    let page = everything(store).await;
    expect_data(&page, &["dropped"; 8], "events whose append was dropped");
}
