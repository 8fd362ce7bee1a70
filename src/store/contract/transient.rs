//! Stores that keep only events in transit.

use std::time::SystemTime;

use futures_util::future::{join, join_all};

use super::data::awkward_data;
use super::frames::encoded;
use super::order::empty_batch;
use super::order::empty_log;
use super::order::order;
use super::pages::page_of_bytes;
use super::pages::page_of_events;
use super::tools::{
    Borrowed, append, expect_next, keyed, next, plain, stored, subscribe, succeed, yield_now,
};
use super::wakeups::changed_at_once;
use super::wakeups::changed_by_append;
use super::wakeups::changed_for_every_waiter;
use crate::delivery::Batch;
use crate::event::Cursor;
use crate::store::EventStore;

/// Checks a store that keeps only events in transit to connected subscribers. It must have room for
/// a thousand of them.
pub async fn check_transient<S: EventStore>(mut new_store: impl AsyncFnMut() -> S) {
    empty_log(&new_store().await).await;
    order(&new_store().await).await;
    empty_batch(&new_store().await).await;
    page_of_events(&new_store().await).await;
    page_of_bytes(&new_store().await).await;
    awkward_data(&new_store().await).await;
    encoded(&new_store().await).await;
    changed_at_once(&new_store().await).await;
    changed_by_append(&new_store().await).await;
    changed_for_every_waiter(&new_store().await).await;
    transient(&new_store().await).await;
    transient_end(&new_store().await).await;
    transient_readers(&new_store().await).await;
}

/// A store that keeps nothing is not resumable, and a subscriber gets the events that come after
/// it, whatever position it asks for. Keys make no difference, since no fact is known.
pub async fn transient<S: EventStore>(store: &S) {
    assert!(
        !store.is_resumable(),
        "a transient store must say that it is not resumable"
    );
    let store = &Borrowed(store);
    let outcomes = append(store, vec![plain("before"), keyed("k", "before")]).await;
    let ids = stored(&outcomes, "two events");
    let epoch = Cursor::Since(SystemTime::UNIX_EPOCH);
    let mut readers = Vec::new();
    for cursor in [
        Cursor::Beginning,
        Cursor::Latest,
        Cursor::After(ids[0]),
        epoch,
    ] {
        readers.push(subscribe(store, cursor).await);
    }
    let batch = vec![keyed("k", "1"), keyed("k", "2"), plain("3")];
    stored(&append(store, batch).await, "events with keys of others");
    for reader in &mut readers {
        expect_next(reader, &["1", "2", "3"]).await;
    }
}

/// A terminal event ends the subscriptions that read it while it is the newest, and none that
/// begins later.
pub async fn transient_end<S: EventStore>(store: &S) {
    let store = &Borrowed(store);
    let mut connected = subscribe(store, Cursor::Latest).await;
    append(store, vec![plain("1"), keyed("end", "2").terminal()]).await;
    expect_next(&mut connected, &["1", "2"]).await;
    assert!(connected.has_ended(), "the terminal event was read");

    let mut later = subscribe(store, Cursor::Beginning).await;
    assert!(!later.has_ended(), "one that comes after the end");
    let waiting = next(&mut later).await;
    assert_eq!(waiting, None, "one that comes after the end");
    assert!(!later.has_ended(), "one that waits after the end");
    append(store, vec![keyed("end", "3").terminal()]).await;
    expect_next(&mut later, &["3"]).await;
    assert!(later.has_ended(), "the next end was read");
}

/// Subscribers that are connected see every event once and in order, whole batches at a time.
pub async fn transient_readers<S: EventStore>(store: &S) {
    const BATCHES: usize = 20;
    const EVENTS: usize = 5;
    let store = &Borrowed(store);
    let mut readers = Vec::new();
    for _ in 0..5 {
        readers.push(subscribe(store, Cursor::Beginning).await);
    }
    let writers = join_all((0..BATCHES).map(async |batch| {
        yield_now().await;
        let events: Vec<_> = (0..EVENTS).map(|n| format!("{batch}.{n}")).collect();
        append(store, events.iter().map(|data| plain(data)).collect()).await;
    }));
    let readers = join_all(readers.into_iter().map(async |mut reader| {
        let mut seen = Vec::new();
        while seen.len() < BATCHES * EVENTS {
            match succeed("next", reader.next()).await {
                Some(Batch::Events(events)) => seen.extend(events),
                other => panic!("a reader that is connected got {other:?}"),
            }
        }
        assert!(
            seen.is_sorted_by(|a, b| a.id < b.id && a.timestamp <= b.timestamp),
            "out of order: {seen:?}"
        );
        for batch in seen.chunks(EVENTS) {
            let first = batch[0].data.split('.').next().unwrap_or_default();
            let expected: Vec<_> = (0..EVENTS).map(|n| format!("{first}.{n}")).collect();
            let data: Vec<_> = batch.iter().map(|event| &event.data).collect();
            assert_eq!(data, expected.iter().collect::<Vec<_>>(), "a batch");
        }
    }));
    join(writers, readers).await;
}
