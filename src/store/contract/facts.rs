//! **Facts**: of events with one key the log keeps the first.

use super::tools::{append, everything, expect_data, keyed, plain, stored};
use crate::store::{Appended, EventStore};

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
        "duplicates after the newest event moved the head"
    );
}

/// Keys are compared byte for byte: case, spaces, NULs, and characters that are special in patterns
/// or string literals all make different keys.
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
