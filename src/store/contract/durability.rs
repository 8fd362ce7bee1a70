//! **Durability**: what was appended is there after reopening.

use super::tools::{append, everything, expect_data, keyed, plain, stored};
use crate::store::{Appended, EventStore};

/// Every `open` returns a store over the same storage, which is empty at first. Each store sees
/// what the earlier ones wrote, keys included. It is dropped before the next is opened.
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
