//! **Wake-ups**: every waiter is woken by every append.

use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use futures_util::stream::FuturesUnordered;

use super::tools::{
    append, changed, everything, expect_data, keyed, plain, read, stored, yield_now,
};
use crate::event::{EventId, StoredEvent};
use crate::store::{EventStore, PageLimit};

/// `changed` resolves at once if the head is not the position asked for.
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
        expect_data(&page, &[&n.to_string()], "after the head, when it changed");
        head = stored(&outcomes, "an event").last().copied();
    }
}

/// An append between a read that found nothing and the wait is not missed, and a duplicate does not
/// hide it.
pub async fn changed_between_read_and_wait<S: EventStore>(store: &S) {
    for n in 0..5 {
        let key = n.to_string();
        let head = everything(store).await.head;
        let page = read(store, head, PageLimit::default()).await;
        assert_eq!(page.events, [], "after the head");
        // Made before, polled after the append.
        let wait = changed(store, head);
        append(store, vec![keyed(&key, "new")]).await;
        append(store, vec![keyed(&key, "duplicate")]).await;
        wait.await;
        changed(store, head).await;
    }
}

/// One append wakes every waiter.
pub async fn changed_for_every_waiter<S: EventStore>(store: &S) {
    // Each with a waker of its own, unlike `join_all`, which polls all of them when one is woken.
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
