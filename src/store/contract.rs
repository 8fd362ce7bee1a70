//! One suite that every [`EventStore`] must pass: the promise of the trait, as checks.
//!
//! For a store of your own, switch the feature `contract` on in `dev-dependencies` and call
//! [`check`] in a test, with any executor that the store needs:
//!
//! ```
//! use ssetarget::MemoryEventStore;
//! use ssetarget::store::contract;
//!
//! // In your tests: `#[test] fn keeps_the_promise() { … }`
//! futures_executor::block_on(contract::check(async || MemoryEventStore::new()));
//! ```
//!
//! A store that outlives its process calls [`check_reopened`] too, one that removes old events
//! [`check_trimmed`], one that has the bytes of the wire ready [`check_frames`], and one that keeps none, whose [`is_resumable`](EventStore::is_resumable) is
//! `false`, calls [`check_transient`] instead of [`check`]. Each check can also be called on its
//! own, to see which one fails: all of them take a store over an empty log.
//!
//! A check panics where the promise is broken, and says how. A wake-up that is lost is a check
//! that does not return, so give the test a timeout if your store can lose them.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test suite: its checks panic to say what is wrong"
)]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use futures_util::stream::FuturesUnordered;

use super::{Appended, EventStore, FrameBytes, FrameStore, Page, PageLimit, Watch};
use crate::clock;
use crate::event::{Cursor, EventId, NewEvent, StoredEvent};
use crate::subscription::{Batch, Subscription};
use crate::sync::MaybeSend;
use crate::wire;

/// Runs every check that all resumable stores must pass. `new_store` is called once for each of
/// them and must return a store over an empty log that nobody else uses.
pub async fn check<S: EventStore>(mut new_store: impl AsyncFnMut() -> S) {
    empty_log(&new_store().await).await;
    order(&new_store().await).await;
    empty_batch(&new_store().await).await;
    keys(&new_store().await).await;
    awkward_keys(&new_store().await).await;
    page_of_events(&new_store().await).await;
    page_of_bytes(&new_store().await).await;
    positions(&new_store().await).await;
    terminal(&new_store().await).await;
    ends(&new_store().await).await;
    times(&new_store().await).await;
    awkward_data(&new_store().await).await;
    large_data(&new_store().await).await;
    many_lines(&new_store().await).await;
    large_batch(&new_store().await).await;
    huge_batch(&new_store().await).await;
    concurrent_appends(&new_store().await).await;
    dropped_futures(&new_store().await).await;
    changed_at_once(&new_store().await).await;
    changed_by_append(&new_store().await).await;
    changed_between_read_and_wait(&new_store().await).await;
    changed_for_every_waiter(&new_store().await).await;
    follow(&new_store().await).await;
}

/// Every `open` returns a store over the same storage, which is empty at first: what one of them
/// wrote is there for the next, keys included. Each store is dropped before the next is opened.
pub async fn check_reopened<S: EventStore>(mut open: impl AsyncFnMut() -> S) {
    let first = {
        let store = open().await;
        let outcomes = append(&store, vec![keyed("k1", "one"), plain("two")]).await;
        append(&store, vec![keyed("end", "three").terminal()]).await;
        stored(&outcomes, "the first batch of an empty log")
    };
    let before = {
        let store = open().await;
        let page = everything(&store).await;
        expect_data(&page, &["one", "two", "three"], "after reopening");
        assert_eq!(
            page.events[0].id, first[0],
            "an event has another id after reopening"
        );
        assert!(page.closed, "after reopening, the log is no longer closed");
        let again = append(
            &store,
            vec![keyed("k1", "again"), keyed("end", "again").terminal()],
        )
        .await;
        assert_eq!(
            again,
            [Appended::Duplicate; 2],
            "keys are forgotten by reopening"
        );
        assert_eq!(
            everything(&store).await,
            page,
            "duplicates changed a reopened log"
        );
        page
    };
    let store = open().await;
    let outcomes = append(&store, vec![keyed("k1", "again"), keyed("k2", "four")]).await;
    assert_eq!(outcomes[0], Appended::Duplicate);
    let new = stored(&outcomes[1..], "a new key in a reopened log");
    assert!(
        Some(new[0]) > before.head,
        "id {} after reopening is not greater than the head before, {:?}",
        new[0],
        before.head
    );
    let page = everything(&store).await;
    expect_data(
        &page,
        &["one", "two", "three", "four"],
        "after reopening twice",
    );
    assert!(
        !page.closed,
        "an event that is not terminal opens the log again"
    );
}

/// Of a store that removes old events. `trim` must remove those up to the one with this id, and
/// that one, by whatever means the store has; `new_store` is called more than once, as for
/// [`check`].
pub async fn check_trimmed<S: EventStore>(
    mut new_store: impl AsyncFnMut() -> S,
    mut trim: impl AsyncFnMut(&S, EventId),
) {
    trimmed_in_part(&new_store().await, &mut trim).await;
    trimmed_as_a_whole(&new_store().await, &mut trim).await;
    trimmed_under_readers(&new_store().await, &mut trim).await;
}

/// Of a store that keeps no events but those in transit, of which it must have room for a
/// thousand, to those who are connected.
pub async fn check_transient<S: EventStore>(mut new_store: impl AsyncFnMut() -> S) {
    empty_log(&new_store().await).await;
    order(&new_store().await).await;
    empty_batch(&new_store().await).await;
    page_of_events(&new_store().await).await;
    page_of_bytes(&new_store().await).await;
    awkward_data(&new_store().await).await;
    changed_at_once(&new_store().await).await;
    changed_by_append(&new_store().await).await;
    changed_for_every_waiter(&new_store().await).await;
    transient(&new_store().await).await;
    transient_end(&new_store().await).await;
    transient_readers(&new_store().await).await;
}

/// What a [`FrameStore`] promises beyond [`check`]: whatever was appended in whatever batches, and
/// wherever a page begins, its frames are the bytes of its events. `open` returns stores over one
/// storage, empty at first, so that pages are also read by a store that has only just begun.
pub async fn check_frames<S: FrameStore>(mut open: impl AsyncFnMut() -> S) {
    let store = open().await;
    let page = succeed("read_frames", store.read_frames(None, PageLimit::default())).await;
    assert!(
        page.events.is_none() && page.head.is_none(),
        "an empty log: {page:?}"
    );
    let sizes = [1, 3, 2, 40, 1, 1, 300, 5];
    let data = [
        "",
        "é",
        "a\nb\rc\r\n",
        "{\"a\":1}",
        "\0",
        "\n",
        &"x".repeat(500),
    ];
    let mut data = data.iter().cycle();
    for size in sizes {
        let batch = data.by_ref().take(size).map(|data| plain(data));
        append(&store, batch.collect()).await;
        frames_are_events(&store).await;
    }
    append(
        &store,
        vec![plain(&"x".repeat(100_000)), plain("last").terminal()],
    )
    .await;
    frames_are_events(&store).await;
    drop(store);
    frames_are_events(&open().await).await;
    // What grows most on the wire, between others.
    let store = open().await;
    let lines = plain(&"\n".repeat(290_000));
    let ids = append(&store, vec![plain("before"), lines, plain("after")]).await;
    drop(store);
    let store = open().await;
    let mut after = stored(&ids, "an event of many lines")[0];
    for (events, bytes) in [(1, 1), (usize::MAX, usize::MAX)] {
        let limit = PageLimit { events, bytes };
        let mut expected = Vec::new();
        for event in read(&store, Some(after), PageLimit { events: 1, bytes })
            .await
            .events
        {
            wire::encode(&event, &mut expected);
        }
        let page = succeed("read_frames", store.read_frames(Some(after), limit)).await;
        let frames = page.events.unwrap();
        assert!(
            frames.bytes.to_vec().starts_with(&expected),
            "the frame of an event of many lines is another"
        );
        after = EventId::new(after.get() + 1).unwrap();
    }
}

async fn frames_are_events<S: FrameStore>(store: &S) {
    let all = everything(store).await;
    let limits = [
        (1, 1),
        (2, 700),
        (7, 100_000),
        (256, 64 * 1024),
        (usize::MAX, usize::MAX),
    ];
    for (events, bytes) in limits {
        let limit = PageLimit { events, bytes };
        // From every position near the ends, and then from page to page.
        let near = all.events.len().saturating_sub(60);
        let starts = (0..all.events.len()).filter(|start| *start < 10 || *start >= near);
        for start in starts.chain([0]) {
            let mut after = start.checked_sub(1).map(|index| all.events[index].id);
            let mut rest = &all.events[start..];
            for _ in 0..if start == 0 { usize::MAX } else { 2 } {
                let page = succeed("read_frames", store.read_frames(after, limit)).await;
                assert_eq!(
                    (page.oldest, page.head, page.trimmed, page.closed),
                    (all.oldest, all.head, all.trimmed, all.closed),
                    "the ends of the log, read with frames"
                );
                let Some(frames) = page.events else {
                    assert_eq!(rest, [], "no frames after {after:?}");
                    break;
                };
                let count = rest
                    .iter()
                    .take_while(|event| event.id <= frames.last)
                    .count();
                let (read, behind) = rest.split_at(count);
                let size: usize = read.iter().map(|event| event.data.len()).sum();
                assert!(
                    count == 1 || (count <= events && size <= bytes),
                    "a page of {count} events with {size} bytes, where the limit is {limit:?}"
                );
                let mut expected = Vec::new();
                for event in read {
                    wire::encode(event, &mut expected);
                }
                assert!(
                    frames.bytes.to_vec() == expected,
                    "the frames after {after:?} are not the bytes of the events up to {}",
                    frames.last
                );
                assert_eq!(read.last().map(|event| event.id), Some(frames.last));
                (after, rest) = (Some(frames.last), behind);
            }
        }
    }
    let beyond = EventId::new(EventId::MAX);
    let page = succeed(
        "read_frames",
        store.read_frames(beyond, PageLimit::default()),
    )
    .await;
    assert!(page.events.is_none(), "frames beyond the head: {page:?}");
}

/// A log that was never written has no events, no ends, and is not closed.
pub async fn empty_log<S: EventStore>(store: &S) {
    for after in [None, EventId::new(1), EventId::new(EventId::MAX)] {
        let page = read(store, after, PageLimit::default()).await;
        assert_eq!(page, Page::default(), "an empty log read after {after:?}");
    }
}

/// The ends of a log are those that a page tells, wherever one looks from.
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

/// Ids strictly increase, in the order of batches and within them, and reading gives the events
/// in that order under the ids that `append` returned.
pub async fn order<S: EventStore>(store: &S) {
    let mut expected = Vec::new();
    for batch in 0..4 {
        let data: Vec<String> = (0..=batch).map(|n| format!("{batch}.{n}")).collect();
        let outcomes = append(store, data.iter().map(|data| plain(data)).collect()).await;
        expected.extend(
            stored(&outcomes, "events without keys")
                .into_iter()
                .zip(data),
        );
    }
    assert!(
        expected.is_sorted_by(|a, b| a.0 < b.0),
        "ids do not strictly increase: {expected:?}"
    );
    let read: Vec<_> = everything(store)
        .await
        .events
        .into_iter()
        .map(|event| (event.id, event.data))
        .collect();
    assert_eq!(read, expected, "events are not read as they were appended");
}

/// A batch without events is fine and changes nothing.
pub async fn empty_batch<S: EventStore>(store: &S) {
    assert_eq!(append(store, Vec::new()).await, []);
    assert_eq!(everything(store).await, Page::default());
}

/// Of events with one key the log keeps the first, within a batch and across batches; the others
/// take no id. Events without a key are all kept, whatever they are.
pub async fn keys<S: EventStore>(store: &S) {
    let outcomes = append(
        store,
        vec![
            keyed("a", "a first"),
            keyed("a", "a second"),
            plain("same"),
            plain("same"),
            keyed("b", "b first"),
        ],
    )
    .await;
    assert_eq!(
        outcomes[1],
        Appended::Duplicate,
        "a key twice in one batch: {outcomes:?}"
    );
    let kept = [outcomes[0], outcomes[2], outcomes[3], outcomes[4]];
    stored(&kept, "the others of the batch");
    let page = everything(store).await;
    expect_data(
        &page,
        &["a first", "same", "same", "b first"],
        "of one key the first is kept",
    );

    let outcomes = append(store, vec![keyed("b", "b second"), keyed("a", "a third")]).await;
    assert_eq!(
        outcomes,
        [Appended::Duplicate; 2],
        "keys of an earlier batch"
    );
    assert_eq!(
        everything(store).await,
        page,
        "a batch of duplicates changed the log"
    );

    let outcomes = append(
        store,
        vec![
            keyed("b", "b third"),
            keyed("c", "c first"),
            keyed("a", "a fourth"),
        ],
    )
    .await;
    let c = stored(&outcomes[1..2], "a new key between duplicates");
    assert_eq!(
        [outcomes[0], outcomes[2]],
        [Appended::Duplicate; 2],
        "{outcomes:?}"
    );
    let page = everything(store).await;
    expect_data(
        &page,
        &["a first", "same", "same", "b first", "c first"],
        "a new key between duplicates",
    );
    assert_eq!(
        page.head,
        Some(c[0]),
        "duplicates behind the newest event moved the head"
    );
}

/// Keys are compared byte for byte: neither case, nor spaces, nor what a pattern or a string
/// literal would make of them, nor a NUL, makes two keys one.
pub async fn awkward_keys<S: EventStore>(store: &S) {
    let keys = [
        "", " ", "k", "K", "k ", "k\0", "k\0a", "k\0b", "k\\0", "é", "e\u{301}", "%", "_", "'",
        "\"", "\\", "\\\\", "1", "01", "1.0", "null", "k\n", "k\r\n", "🦀", "1/k", "1/k/",
    ];
    let batch: Vec<_> = keys.iter().map(|key| keyed(key, key)).collect();
    let outcomes = append(store, batch.clone()).await;
    for (key, outcome) in keys.iter().zip(&outcomes) {
        assert!(
            matches!(outcome, Appended::Stored(_)),
            "key {key:?} is taken for another one"
        );
    }
    let outcomes = append(store, batch).await;
    for (key, outcome) in keys.iter().zip(&outcomes) {
        assert_eq!(
            *outcome,
            Appended::Duplicate,
            "key {key:?} is not recognised"
        );
    }
    expect_data(&everything(store).await, &keys, "events with awkward keys");
}

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

/// Whatever position is read after, the page says the same of the log's ends, has only events
/// behind the position, and is empty from the head on.
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

/// Times never decrease, and the position before a time is followed by the events from then on.
pub async fn times<S: EventStore>(store: &S) {
    let now = clock::now();
    let never = before(store, now).await;
    assert_eq!(never, None, "a position in an empty log");
    for _ in 0..3 {
        append(store, vec![plain("a"), plain("b")]).await;
        // Long enough for a clock that counts milliseconds to go on, now and then.
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

/// Where the oldest events were removed, the page says so wherever it is read: what is left, under
/// which ids, and what is gone. Ids go on, and what is left is what it was.
pub async fn trimmed_in_part<S: EventStore>(store: &S, trim: &mut impl AsyncFnMut(&S, EventId)) {
    for data in ["1", "2", "3", "4", "5"] {
        append(store, vec![keyed(data, data)]).await;
    }
    append(store, vec![keyed("6", "6").terminal()]).await;
    let whole = everything(store).await;
    trim(store, whole.events[3].id).await;

    let rest = everything(store).await;
    assert_eq!(rest.events, whole.events[4..], "what is left");
    assert_eq!(rest.oldest, Some(whole.events[4].id), "the oldest kept");
    assert_eq!(rest.head, whole.head, "the head, which was not removed");
    assert!(
        rest.trimmed >= Some(whole.events[3].id),
        "events up to {} were removed, the page says {:?}",
        whole.events[3].id,
        rest.trimmed
    );
    assert!(rest.closed, "the newest event is still the terminal one");
    for (index, event) in whole.events.iter().enumerate() {
        let page = read(store, Some(event.id), PageLimit::default()).await;
        assert_eq!(
            (page.oldest, page.head, page.trimmed, page.closed),
            (rest.oldest, rest.head, rest.trimmed, rest.closed),
            "the ends of the log depend on where it is read"
        );
        let expected = &whole.events[4.max(index + 1)..];
        assert_eq!(page.events, expected, "read after {}", event.id);
        let position = before(store, event.timestamp).await;
        assert!(
            position.is_none_or(|id| rest.events.iter().any(|kept| kept.id == id)),
            "the position before a time, {position:?}, is one that was removed"
        );
    }
    assert_eq!(before(store, SystemTime::UNIX_EPOCH).await, None);

    let outcomes = append(store, vec![keyed("5", "again"), keyed("7", "7")]).await;
    assert_eq!(
        outcomes[0],
        Appended::Duplicate,
        "the key of an event that is kept"
    );
    let new = stored(&outcomes[1..], "a new key");
    assert!(Some(new[0]) > whole.head, "an id was given away twice");
    let page = everything(store).await;
    expect_data(&page, &["5", "6", "7"], "after a further append");
    assert_eq!(page.trimmed, rest.trimmed, "an append removed something");
}

/// Where all events were removed, the head stays, nothing is closed, and whoever waits at the head
/// is woken by the next event, which gets an id of its own.
pub async fn trimmed_as_a_whole<S: EventStore>(store: &S, trim: &mut impl AsyncFnMut(&S, EventId)) {
    append(store, vec![plain("1"), plain("2")]).await;
    append(store, vec![plain("3").terminal()]).await;
    let whole = everything(store).await;
    let head = whole.head.unwrap();
    trim(store, head).await;

    for after in [None, Some(whole.events[0].id), Some(head)] {
        let page = read(store, after, PageLimit::default()).await;
        let nothing = Page {
            head: Some(head),
            trimmed: Some(head),
            ..Page::default()
        };
        assert_eq!(page, nothing, "of a log of which nothing is kept");
    }
    assert_eq!(before(store, SystemTime::UNIX_EPOCH).await, None);
    changed(store, None).await;
    changed(store, Some(whole.events[0].id)).await;

    let append = async {
        for _ in 0..3 {
            yield_now().await;
        }
        append(store, vec![plain("4")]).await
    };
    let ((), outcomes) = join(changed(store, Some(head)), append).await;
    let new = stored(&outcomes, "an event after all were removed");
    assert!(new[0] > head, "an id was given away twice");
    let page = read(store, Some(head), PageLimit::default()).await;
    expect_data(&page, &["4"], "behind the head, after all were removed");
    assert_eq!((page.oldest, page.head), (Some(new[0]), Some(new[0])));
    assert_eq!(page.trimmed, Some(head), "what was removed");
    assert!(!page.closed, "the newest event is not terminal");
}

/// A subscriber whose position was removed, or what follows it, is reset and goes on with the
/// oldest event kept; one that has seen what was removed is not.
pub async fn trimmed_under_readers<S: EventStore>(
    store: &S,
    trim: &mut impl AsyncFnMut(&S, EventId),
) {
    let of_two = PageLimit {
        events: 2,
        ..PageLimit::default()
    };
    let store = &Borrowed(store);
    let mut early = subscribe(store, Cursor::Latest).await;
    let mut slow = subscribe(store, Cursor::Beginning)
        .await
        .with_page_limit(of_two);
    let data = ["1", "2", "3", "4", "5", "6"];
    let outcomes = append(store, data.map(plain).to_vec()).await;
    let ids = stored(&outcomes, "events without keys");
    expect_next(&mut slow, &["1", "2"]).await;
    let mut exact = subscribe(store, Cursor::After(ids[3])).await;
    trim(store.0, ids[3]).await;

    let oldest = Some(ids[4]);
    let requested = expect_reset(&mut early, oldest, ids[5]).await;
    assert_eq!(requested, None, "the start of the log was asked for");
    let requested = expect_reset(&mut slow, oldest, ids[5]).await;
    assert_eq!(requested, Some(ids[1]), "what was asked for");
    expect_next(&mut slow, &["5", "6"]).await;
    expect_next(&mut exact, &["5", "6"]).await;
    let mut late = subscribe(store, Cursor::Beginning).await;
    expect_next(&mut late, &["5", "6"]).await;
    let mut gone = subscribe(store, Cursor::After(ids[0])).await;
    expect_reset(&mut gone, oldest, ids[5]).await;

    // Whoever was told, but did not read on before more was removed, is told again.
    trim(store.0, ids[5]).await;
    for reader in [&mut early, &mut gone] {
        let requested = expect_reset(reader, None, ids[5]).await;
        let before_oldest = Some(ids[3]) <= requested && requested < oldest;
        assert!(before_oldest, "where the first reset led: {requested:?}");
    }
    append(store, vec![plain("7")]).await;
    for reader in [&mut early, &mut slow, &mut exact, &mut late, &mut gone] {
        expect_next(reader, &["7"]).await;
    }
}

/// A store that keeps nothing says so, and a subscriber gets what comes after it, whatever it
/// asks for. Keys make no difference, since no fact is known.
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

/// A terminal event ends the subscriptions of those who read it while it is the newest, and of
/// nobody who comes later.
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

/// Events of the greatest size there may be are kept whole.
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

/// Events of as many lines as there may be are kept whole, alone and together with others.
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
    stored(&append(store, batch).await, "a batch of long texts");
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

/// A batch may have some megabytes, and is stored whole.
pub async fn huge_batch<S: EventStore>(store: &S) {
    let data: Vec<String> = (0..40).map(|n| format!("{n}").repeat(50_000)).collect();
    let batch = data.iter().enumerate().map(|(n, data)| {
        // Keys have bytes, too, and those that are escaped most.
        keyed(&format!("{n}{}", "\u{1}\"".repeat(10_000)), data)
    });
    let batch: Vec<_> = batch.collect();
    let outcomes = append(store, batch.clone()).await;
    let ids = stored(&outcomes, "a batch of some megabytes");
    assert!(ids.is_sorted_by(|a, b| a < b), "ids of a large batch");
    // Page by page: a store may bound what one of them has.
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

/// Batches that are appended at the same time are each stored whole, one after another, and
/// whoever reads meanwhile sees none of them in part and never an event before one already seen.
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

/// `changed` resolves at once where the head is not the position asked for.
pub async fn changed_at_once<S: EventStore>(store: &S) {
    changed(store, EventId::new(1)).await;
    let ids = stored(
        &append(store, vec![plain("a"), plain("b")]).await,
        "two events",
    );
    changed(store, None).await;
    changed(store, Some(ids[0])).await;
    changed(store, EventId::new(EventId::MAX)).await;
}

/// `changed` resolves when something is appended while it waits, again and again, on an empty log
/// and at the head of another.
pub async fn changed_by_append<S: EventStore>(store: &S) {
    let mut head = None;
    for n in 0..5 {
        let append = async {
            for _ in 0..3 {
                yield_now().await;
            }
            append(store, vec![plain(&n.to_string())]).await
        };
        let ((), outcomes) = join(changed(store, head), append).await;
        let page = read(store, head, PageLimit::default()).await;
        expect_data(&page, &[&n.to_string()], "behind the head, when it changed");
        head = stored(&outcomes, "an event").last().copied();
    }
}

/// What is appended between a read that found nothing and the wait is not missed, and a duplicate
/// does not hide it.
pub async fn changed_between_read_and_wait<S: EventStore>(store: &S) {
    for n in 0..5 {
        let key = n.to_string();
        let head = everything(store).await.head;
        let page = read(store, head, PageLimit::default()).await;
        assert_eq!(page.events, [], "behind the head");
        // Made before, polled after the append.
        let wait = changed(store, head);
        append(store, vec![keyed(&key, "new")]).await;
        append(store, vec![keyed(&key, "duplicate")]).await;
        wait.await;
        changed(store, head).await;
    }
}

/// One append wakes everybody who waits.
pub async fn changed_for_every_waiter<S: EventStore>(store: &S) {
    // Each with a waker of its own, unlike `join_all`, which polls everybody when one is woken.
    let waiters: FuturesUnordered<_> = (0..10).map(|_| changed(store, None)).collect();
    let append = async {
        yield_now().await;
        append(store, vec![plain("a")]).await
    };
    join(waiters.collect::<()>(), append).await;
}

/// Readers that follow the log while it is written, reading pages and waiting at the head, see
/// every event once and in order.
pub async fn follow<S: EventStore>(store: &S) {
    const EVENTS: usize = 60;
    let expected: Vec<String> = (0..EVENTS).map(|n| n.to_string()).collect();
    let write = async {
        for (n, batch) in expected.chunks(2).enumerate() {
            let batch: Vec<_> = batch.iter().map(|data| keyed(data, data)).collect();
            append(store, batch.clone()).await;
            append(store, batch).await;
            for _ in 0..n % 4 {
                yield_now().await;
            }
        }
    };
    let viewers = join_all((1..=6).map(async |viewer| {
        for _ in 0..viewer {
            yield_now().await;
        }
        let limit = PageLimit {
            events: viewer,
            bytes: 1000,
        };
        let mut seen: Vec<StoredEvent> = Vec::new();
        while seen.len() < EVENTS {
            let after = seen.last().map(|event| event.id);
            let page = read(store, after, limit).await;
            if page.events.is_empty() {
                changed(store, after).await;
            }
            seen.extend(page.events);
        }
        let data: Vec<_> = seen.iter().map(|event| event.data.as_str()).collect();
        assert_eq!(data, expected, "what a reader saw that follows the log");
    }));
    join(write, viewers).await;
}

// What the checks are written with.

fn new(event_type: &str, data: &str) -> NewEvent {
    NewEvent::new(event_type, data).unwrap()
}

fn plain(data: &str) -> NewEvent {
    new("plain", data)
}

fn keyed(key: &str, data: &str) -> NewEvent {
    new("keyed", data).with_key(key).unwrap()
}

async fn append<S: EventStore>(store: &S, batch: Vec<NewEvent>) -> Vec<Appended> {
    let events = batch.len();
    let outcomes = succeed("append", store.append(batch)).await;
    assert_eq!(
        outcomes.len(),
        events,
        "append must say what became of each event"
    );
    outcomes
}

/// A page, if it is one that could be.
async fn read<S: EventStore>(store: &S, after: Option<EventId>, limit: PageLimit) -> Page {
    let page = succeed("read", store.read(after, limit)).await;
    let ids: Vec<_> = page.events.iter().map(|event| event.id).collect();
    assert!(
        ids.is_sorted_by(|a, b| a < b),
        "ids of a page do not strictly increase: {ids:?}"
    );
    assert!(
        ids.first().is_none_or(|first| Some(*first) > after),
        "read after {after:?} returned {ids:?}"
    );
    assert!(
        ids.iter()
            .all(|id| page.oldest <= Some(*id) && Some(*id) <= page.head),
        "a page with ids {ids:?} says that the log is from {:?} to {:?}",
        page.oldest,
        page.head
    );
    assert!(
        page.oldest.is_none() || page.trimmed < page.oldest,
        "the oldest event, {:?}, was removed: {:?}",
        page.oldest,
        page.trimmed
    );
    assert!(
        !ids.is_empty() || page.oldest.is_none() || page.head <= after,
        "an empty page after {after:?}, but the head is {:?}",
        page.head
    );
    page
}

/// The whole log.
/// In several pages where the store has a limit of its own.
async fn everything<S: EventStore>(store: &S) -> Page {
    let limit = PageLimit {
        events: 100_000,
        bytes: usize::MAX,
    };
    let mut page = read(store, None, limit).await;
    while let Some(last) = page.events.last()
        && Some(last.id) < page.head
    {
        let next = read(store, Some(last.id), limit).await;
        if next.events.is_empty() {
            break;
        }
        page.events.extend(next.events);
    }
    page
}

async fn before<S: EventStore>(store: &S, time: SystemTime) -> Option<EventId> {
    succeed("before", store.before(time)).await
}

async fn changed<S: EventStore>(store: &S, after: Option<EventId>) {
    succeed("changed", store.changed(after)).await;
}

async fn succeed<T, E: std::error::Error>(
    what: &str,
    call: impl Future<Output = Result<T, E>>,
) -> T {
    match call.await {
        Ok(value) => value,
        Err(error) => panic!("{what} failed: {error}: {error:?}"),
    }
}

/// The ids of events that must all have been stored.
fn stored(outcomes: &[Appended], what: &str) -> Vec<EventId> {
    outcomes
        .iter()
        .map(|outcome| match outcome {
            Appended::Stored(id) => *id,
            Appended::Duplicate => panic!("{what}: not all were stored: {outcomes:?}"),
        })
        .collect()
}

/// A subscription needs a store that is shared.
async fn subscribe<'a, S: EventStore>(
    store: &Borrowed<'a, S>,
    cursor: Cursor,
) -> Subscription<Borrowed<'a, S>> {
    let start = Subscription::start(Arc::new(Borrowed(store.0)), cursor);
    succeed("subscribe", start).await
}

/// What a subscription has without waiting.
async fn next<S: EventStore>(reader: &mut Subscription<S>) -> Option<Batch> {
    succeed("try_next", reader.try_next()).await
}

async fn expect_next<S: EventStore>(reader: &mut Subscription<S>, expected: &[&str]) {
    match next(reader).await {
        Some(Batch::Events(events)) => {
            let data: Vec<_> = events.iter().map(|event| &event.data).collect();
            assert_eq!(data, expected, "what a subscriber gets next");
        }
        other => panic!("a subscriber must get {expected:?} next, not {other:?}"),
    }
}

/// Returns what was requested.
async fn expect_reset<S: EventStore>(
    reader: &mut Subscription<S>,
    oldest: Option<EventId>,
    head: EventId,
) -> Option<EventId> {
    match next(reader).await {
        Some(Batch::Reset(reset)) => {
            let ends = (reset.oldest, reset.head);
            assert_eq!(ends, (oldest, Some(head)), "the ends of the log in a reset");
            reset.requested
        }
        other => panic!("a subscriber whose position is gone must be told, but got {other:?}"),
    }
}

/// The store of a check, for a subscription.
#[derive(Debug)]
struct Borrowed<'a, S>(&'a S);

impl<S: EventStore> EventStore for Borrowed<'_, S> {
    type Error = S::Error;

    fn append(
        &self,
        batch: Vec<NewEvent>,
    ) -> impl Future<Output = Result<Vec<Appended>, S::Error>> + MaybeSend {
        self.0.append(batch)
    }

    fn read(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> impl Future<Output = Result<Page, S::Error>> + MaybeSend {
        self.0.read(after, limit)
    }

    fn changed(
        &self,
        after: Option<EventId>,
    ) -> impl Future<Output = Result<(), S::Error>> + MaybeSend {
        self.0.changed(after)
    }

    fn before(
        &self,
        time: SystemTime,
    ) -> impl Future<Output = Result<Option<EventId>, S::Error>> + MaybeSend {
        self.0.before(time)
    }

    fn is_resumable(&self) -> bool {
        self.0.is_resumable()
    }

    fn watch(&self) -> Watch {
        self.0.watch()
    }
}

fn expect_data(page: &Page, expected: &[&str], what: &str) {
    let data: Vec<_> = page.events.iter().map(|event| &event.data).collect();
    assert_eq!(data, expected, "{what}");
}

/// Polls a future at most so many times, letting others run in between.
async fn poll_and_drop(polls: usize, future: impl Future) {
    let mut future = pin!(future);
    for _ in 0..polls {
        let mut context = Context::from_waker(Waker::noop());
        if future.as_mut().poll(&mut context).is_ready() {
            return;
        }
        yield_now().await;
    }
}

/// Lets whatever else runs on this thread go on.
fn yield_now() -> impl Future<Output = ()> {
    struct Yield(bool);
    impl Future for Yield {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }
    }
    Yield(false)
}
