//! **Order**: ids increase as events are appended, and reading follows them.

use super::tools::{append, everything, plain, read, stored};
use crate::event::EventId;
use crate::store::{EventStore, Page, PageLimit};

/// A log that was never written has no events, no ends, and is not closed.
pub async fn empty_log<S: EventStore>(store: &S) {
    for after in [None, EventId::new(1), EventId::new(EventId::MAX)] {
        let page = read(store, after, PageLimit::default()).await;
        assert_eq!(page, Page::default(), "an empty log read after {after:?}");
    }
}

/// A batch without events is fine and changes nothing.
pub async fn empty_batch<S: EventStore>(store: &S) {
    assert_eq!(append(store, Vec::new()).await, []);
    assert_eq!(everything(store).await, Page::default());
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
