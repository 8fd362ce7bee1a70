//! **Retention**: ids and positions after the oldest events were removed.

use std::time::SystemTime;

use futures_util::future::join;

use super::tools::{
    Borrowed, append, before, changed, everything, expect_data, expect_next, expect_reset, keyed,
    plain, read, stored, subscribe, yield_now,
};
use crate::event::{Cursor, EventId};
use crate::store::{Appended, EventStore, Page, PageLimit, Retention};

/// Checks a store that removes old events. `trim` must remove the events up to and including the
/// one with this id, by whatever means the store has. `new_store` is called more than once, as for
/// [`check`](super::check).
pub async fn check_trimmed<S: EventStore>(
    mut new_store: impl AsyncFnMut() -> S,
    mut trim: impl AsyncFnMut(&S, EventId),
) {
    trimmed_in_part(&new_store().await, &mut trim).await;
    trimmed_as_a_whole(&new_store().await, &mut trim).await;
    trimmed_under_readers(&new_store().await, &mut trim).await;
}

/// Checks a store that can be told how many events to keep. `new_store` returns a store over an empty log with
/// this retention, which has a number of events and no age.
pub async fn check_bounded<S: EventStore>(mut new_store: impl AsyncFnMut(Retention) -> S) {
    newest_by_count(&new_store(Retention::for_ever().max_events(3)).await).await;
    newest_by_count_for_long(&new_store(Retention::for_ever().max_events(5)).await).await;
}

/// The newest 3 events are kept, however many come at once. Their keys are known, ids go on, and a subscriber
/// that has not read the others is reset.
async fn newest_by_count<S: EventStore>(store: &S) {
    let store = &Borrowed(store);
    let mut early = subscribe(store, Cursor::Latest).await;
    let keys = ["1", "2", "3", "4", "5"];
    let batch = keys.map(|key| keyed(key, key)).to_vec();
    let ids = stored(&append(store.0, batch).await, "five new keys");
    let page = everything(store.0).await;
    expect_data(&page, &["3", "4", "5"], "the newest three of five");
    assert_eq!((page.oldest, page.head), (Some(ids[2]), Some(ids[4])));
    assert!(
        page.trimmed >= Some(ids[1]),
        "two were removed, the page says {:?}",
        page.trimmed
    );
    expect_reset(&mut early, Some(ids[2]), ids[4]).await;
    expect_next(&mut early, &["3", "4", "5"]).await;
    let mut gone = subscribe(store, Cursor::After(ids[0])).await;
    expect_reset(&mut gone, Some(ids[2]), ids[4]).await;
    expect_next(&mut gone, &["3", "4", "5"]).await;

    let outcomes = append(store.0, vec![keyed("4", "again"), keyed("6", "6")]).await;
    assert_eq!(
        outcomes[0],
        Appended::Duplicate,
        "the key of an event that is kept"
    );
    assert!(stored(&outcomes[1..], "a new key")[0] > ids[4]);
    let page = everything(store.0).await;
    expect_data(&page, &["4", "5", "6"], "after a further append");
    // A position whose event is kept is valid.
    let mut exact = subscribe(store, Cursor::After(ids[3])).await;
    expect_next(&mut exact, &["5", "6"]).await;
    append(store.0, vec![plain("7").terminal()]).await;
    for reader in [&mut early, &mut exact] {
        let wanted: &[&str] = match reader.cursor() {
            Cursor::After(id) if id == ids[4] => &["6", "7"],
            _ => &["7"],
        };
        expect_next(reader, wanted).await;
    }
    assert!(everything(store.0).await.closed, "the newest is terminal");
}

/// The newest 5 events are always kept, while many are appended.
async fn newest_by_count_for_long<S: EventStore>(store: &S) {
    let mut kept = Vec::new();
    for number in 1..=200_u32 {
        let data = number.to_string();
        let outcomes = append(store, vec![keyed(&data, &data)]).await;
        kept.extend(stored(&outcomes, "a new key"));
        if kept.len() > 5 {
            kept.remove(0);
        }
        let page = everything(store).await;
        let ids: Vec<_> = page.events.iter().map(|event| event.id).collect();
        assert_eq!(ids, kept, "the newest five of {number}");
        assert_eq!(
            (page.oldest, page.head),
            (ids.first().copied(), ids.last().copied())
        );
    }
    let again = append(store, vec![keyed("198", "again")]).await;
    assert_eq!(again, [Appended::Duplicate]);
}

/// After the oldest events were removed, every page says which ids are left and which are gone. Ids
/// go on, and the events that are left are unchanged.
pub async fn trimmed_in_part<S: EventStore>(store: &S, trim: &mut impl AsyncFnMut(&S, EventId)) {
    for data in ["1", "2", "3", "4", "5"] {
        append(store, vec![keyed(data, data)]).await;
    }
    append(store, vec![keyed("6", "6").terminal()]).await;
    let whole = everything(store).await;
    trim(store, whole.events[3].id).await;

    let rest = everything(store).await;
    assert_eq!(rest.events, whole.events[4..], "the remaining events");
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

/// After all events were removed, the head stays, the log is not closed, and the next event wakes
/// those who wait at the head. It gets a new id.
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
    expect_data(&page, &["4"], "after the head, once all were removed");
    assert_eq!((page.oldest, page.head), (Some(new[0]), Some(new[0])));
    assert_eq!(page.trimmed, Some(head), "the greatest removed id");
    assert!(!page.closed, "the newest event is not terminal");
}

/// A subscriber is reset if events that it has not read were removed, and goes on with the oldest
/// event kept. One that has read them is not reset.
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
    assert_eq!(requested, Some(ids[1]), "the requested position");
    expect_next(&mut slow, &["5", "6"]).await;
    expect_next(&mut exact, &["5", "6"]).await;
    let mut late = subscribe(store, Cursor::Beginning).await;
    expect_next(&mut late, &["5", "6"]).await;
    let mut gone = subscribe(store, Cursor::After(ids[0])).await;
    expect_reset(&mut gone, oldest, ids[5]).await;

    // A subscriber that was reset, but did not read on before more was removed, is reset again.
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
