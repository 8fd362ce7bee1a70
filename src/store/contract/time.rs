//! **Time**: times never decrease, and positions are found by them.

use std::time::{Duration, SystemTime};

use super::tools::{append, before, everything, plain, yield_now};
use crate::clock;
use crate::store::EventStore;

/// Times never decrease, and the position before a time is followed by the events from then on.
pub async fn times<S: EventStore>(store: &S) {
    let now = clock::now();
    let never = before(store, now).await;
    assert_eq!(never, None, "a position in an empty log");
    for _ in 0..3 {
        append(store, vec![plain("a"), plain("b")]).await;
        // Long enough for a clock of milliseconds to advance now and then.
        for _ in 0..10_000 {
            yield_now().await;
        }
    }
    let events = everything(store).await.events;
    assert!(
        events.is_sorted_by_key(|event| event.timestamp),
        "times decrease: {events:?}"
    );
    let first = events[0].timestamp;
    let day = Duration::from_secs(24 * 60 * 60);
    assert!(
        first > now - day && first < now + day,
        "a time that no clock shows: {first:?}"
    );
    let between = |n: usize| events[n].timestamp + Duration::from_millis(1);
    let asked = (0..events.len()).flat_map(|n| [events[n].timestamp, between(n)]);
    for time in asked.chain([SystemTime::UNIX_EPOCH]) {
        let older = events.iter().rev().find(|event| event.timestamp < time);
        assert_eq!(
            before(store, time).await,
            older.map(|event| event.id),
            "the position before {time:?} among {events:?}"
        );
    }
}
