//! The helpers of the checks.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use crate::delivery::{Batch, Subscription};
use crate::event::{Cursor, EventId, NewEvent};
use crate::stats::Observing;
use crate::store::tail::Watch;
use crate::store::{Appended, EventStore, Page, PageLimit};
use crate::sync::MaybeSend;

pub(super) fn new(event_type: &str, data: &str) -> NewEvent {
    NewEvent::new(event_type, data).unwrap()
}

pub(super) fn plain(data: &str) -> NewEvent {
    new("plain", data)
}

pub(super) fn keyed(key: &str, data: &str) -> NewEvent {
    new("keyed", data).with_key(key).unwrap()
}

pub(super) async fn append<S: EventStore>(store: &S, batch: Vec<NewEvent>) -> Vec<Appended> {
    let events = batch.len();
    let outcomes = succeed("append", store.append(batch)).await;
    assert_eq!(
        outcomes.len(),
        events,
        "append must say what became of each event"
    );
    outcomes
}

/// Reads a page, and checks that its fields agree with each other.
pub(super) async fn read<S: EventStore>(
    store: &S,
    after: Option<EventId>,
    limit: PageLimit,
) -> Page {
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

/// Reads the whole log, in several pages if the store has a limit of its own.
pub(super) async fn everything<S: EventStore>(store: &S) -> Page {
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

pub(super) async fn before<S: EventStore>(store: &S, time: SystemTime) -> Option<EventId> {
    succeed("before", store.before(time)).await
}

pub(super) async fn changed<S: EventStore>(store: &S, after: Option<EventId>) {
    succeed("changed", store.changed(after)).await;
}

pub(super) async fn succeed<T, E: std::error::Error>(
    what: &str,
    call: impl Future<Output = Result<T, E>>,
) -> T {
    match call.await {
        Ok(value) => value,
        Err(error) => panic!("{what} failed: {error}: {error:?}"),
    }
}

/// Returns the ids of events that must all have been stored.
pub(super) fn stored(outcomes: &[Appended], what: &str) -> Vec<EventId> {
    outcomes
        .iter()
        .map(|outcome| match outcome {
            Appended::Stored(id) => *id,
            Appended::Duplicate => panic!("{what}: not all were stored: {outcomes:?}"),
        })
        .collect()
}

/// Subscribes through [`Borrowed`], since a subscription needs a shared store.
pub(super) async fn subscribe<'a, S: EventStore>(
    store: &Borrowed<'a, S>,
    cursor: Cursor,
) -> Subscription<Borrowed<'a, S>> {
    let start = Subscription::start(Arc::new(Borrowed(store.0)), cursor, Observing::default());
    succeed("subscribe", start).await
}

/// Returns the batch that a subscription has without waiting.
pub(super) async fn next<S: EventStore>(reader: &mut Subscription<S>) -> Option<Batch> {
    succeed("try_next", reader.try_next()).await
}

pub(super) async fn expect_next<S: EventStore>(reader: &mut Subscription<S>, expected: &[&str]) {
    match next(reader).await {
        Some(Batch::Events(events)) => {
            let data: Vec<_> = events.iter().map(|event| &event.data).collect();
            assert_eq!(data, expected, "what a subscriber gets next");
        }
        other => panic!("a subscriber must get {expected:?} next, not {other:?}"),
    }
}

/// Checks that the next batch is a reset with these ends, and returns the position that it says was
/// requested.
pub(super) async fn expect_reset<S: EventStore>(
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
        other => panic!("a subscriber whose position is gone must get a reset, but got {other:?}"),
    }
}

/// A borrowed store, for a subscription.
#[derive(Debug)]
pub(super) struct Borrowed<'a, S>(pub(super) &'a S);

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

pub(super) fn expect_data(page: &Page, expected: &[&str], what: &str) {
    let data: Vec<_> = page.events.iter().map(|event| &event.data).collect();
    assert_eq!(data, expected, "{what}");
}

/// Polls a future at most `polls` times, and lets others run in between.
pub(super) async fn poll_and_drop(polls: usize, future: impl Future) {
    let mut future = pin!(future);
    for _ in 0..polls {
        let mut context = Context::from_waker(Waker::noop());
        if future.as_mut().poll(&mut context).is_ready() {
            return;
        }
        yield_now().await;
    }
}

/// Lets the other futures of this thread run.
pub(super) fn yield_now() -> impl Future<Output = ()> {
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
