//! Listeners in the same process: typed events and folds, from any position, without gap or
//! overlap.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::borrow::Cow;
use std::error::Error;
use std::pin::pin;

use futures_executor::block_on;
use futures_util::{FutureExt, StreamExt, poll};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use ssetarget::task::{StepEvent, StepEventType};
use ssetarget::{
    Cursor, DecodeEvent, Event, EventId, EventStore, ListenError, MemoryEventStore, NewEvent,
    NullEventStore, SqliteEventStore, SseTarget, Stored, StoredEvent,
};
use support::sql::Database;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Account {
    Opened { owner: String },
    Paid { cents: i64 },
    Closed,
}

impl Event for Account {
    fn event_type(&self) -> Cow<'_, str> {
        match self {
            Self::Opened { .. } => "opened".into(),
            Self::Paid { .. } => "paid".into(),
            Self::Closed => "closed".into(),
        }
    }

    fn is_terminal(&self) -> bool {
        *self == Self::Closed
    }
}

impl DecodeEvent for Account {
    fn decode(event: &StoredEvent) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(event.json()?)
    }
}

type Target<S> = SseTarget<Account, S>;

#[test]
fn a_listener_gets_stored_and_new_events_until_the_end() {
    async fn check<S: EventStore + 'static>(store: S) {
        let target = Target::new(store);
        let opened = Account::Opened {
            owner: "Zoë".to_owned(),
        };
        target.dispatch(&opened).await.unwrap();
        target.dispatch(&paid(1)).await.unwrap();
        let mut all = pin!(target.events(Cursor::Beginning).await.unwrap());
        let mut rest = pin!(target.events(Cursor::After(id(1))).await.unwrap());
        // From the call on, not from the first poll.
        let mut latest = pin!(target.events(Cursor::Latest).await.unwrap());
        target.dispatch(&paid(2)).await.unwrap();

        let first: Stored<Account> = all.next().await.unwrap().unwrap();
        assert_eq!((first.id, first.event), (id(1), opened));
        assert_eq!(event(&mut all).await, (2, paid(1)));
        assert_eq!(event(&mut all).await, (3, paid(2)));
        assert_eq!(event(&mut rest).await, (2, paid(1)));
        assert_eq!(event(&mut latest).await, (3, paid(2)));
        assert!(poll!(all.next()).is_pending());

        target.dispatch(&Account::Closed).await.unwrap();
        assert_eq!(event(&mut all).await, (4, Account::Closed));
        assert!(all.next().await.is_none());
        let stored = target.store().read(None, ssetarget::PageLimit::default());
        assert_eq!(first.timestamp, stored.await.unwrap().events[0].timestamp);
    }
    block_on(check(MemoryEventStore::new()));
    block_on(check(SqliteEventStore::new(Database::in_memory())));
}

#[test]
fn a_listener_learns_of_missing_events_and_goes_on() {
    block_on(async {
        let target = Target::new(MemoryEventStore::new());
        let strange = target.typed::<NewEvent>();
        let mut events = pin!(target.events(Cursor::Beginning).await.unwrap());
        target.dispatch(&paid(1)).await.unwrap();
        let bad = [r#"{"type":"lent"}"#, "no JSON", r#"{"type":"paid"}"#];
        let bad = bad.map(|data| NewEvent::new("strange", data).unwrap());
        strange.dispatch_encoded(bad.to_vec()).await.unwrap();
        target.dispatch(&paid(2)).await.unwrap();

        assert_eq!(event(&mut events).await, (1, paid(1)));
        for (number, reason) in [(2, "lent"), (3, "expected"), (4, "missing field `cents`")] {
            let error = events.next().await.unwrap().unwrap_err();
            let ListenError::Decode(error) = error else {
                panic!("{error}");
            };
            assert_eq!(error.stored().id, id(number));
            let text = error.to_string();
            assert_eq!(
                text,
                format!("event {number} of type `strange` cannot be decoded")
            );
            let source = error.source().unwrap().to_string();
            assert!(source.contains(reason), "{source}");
        }
        assert_eq!(event(&mut events).await, (5, paid(2)));

        // A gap.
        for cents in 3..8 {
            target.dispatch(&paid(cents)).await.unwrap();
        }
        target.store().trim(id(8));
        let error = events.next().await.unwrap().unwrap_err();
        assert!(matches!(error, ListenError::Reset(_)));
        let text =
            "the log does not go on from event 5: the oldest that it keeps is 9, the newest 10";
        assert_eq!(error.to_string(), text);
        assert_eq!(event(&mut events).await, (9, paid(6)));
        assert_eq!(event(&mut events).await, (10, paid(7)));
        assert!(poll!(events.next()).is_pending());
    });
}

#[test]
fn an_error_of_the_store_ends_the_events_after_it_was_seen() {
    block_on(async {
        let database = Database::in_memory();
        let target = Target::new(SqliteEventStore::new(database.clone()));
        target.dispatch(&paid(1)).await.unwrap();
        let mut events = pin!(target.events(Cursor::Beginning).await.unwrap());
        assert_eq!(event(&mut events).await, (1, paid(1)));
        target.dispatch(&paid(2)).await.unwrap();
        database.fail_next(1);
        let error = events.next().await.unwrap().unwrap_err();
        assert!(matches!(error, ListenError::Store(_)));
        assert!(error.source().is_some());
        assert!(events.next().await.is_none());
        database.fail_next(1);
        assert!(target.events(Cursor::Latest).await.is_err());
    });
}

#[test]
fn every_event_can_be_had_as_it_is_stored() {
    block_on(async {
        let target = Target::new(MemoryEventStore::new());
        target.dispatch(&paid(7)).await.unwrap();
        let raw = target.typed::<StoredEvent>();
        let mut events = pin!(raw.events(Cursor::Beginning).await.unwrap());
        let stored = events.next().await.unwrap().unwrap().event;
        assert_eq!(stored.event_type, "paid");
        assert_eq!(stored.data, r#"{"type":"paid","cents":7}"#);
    });
}

#[test]
fn events_of_a_step_are_read_back() {
    block_on(async {
        let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
        let data = r#"{"taskId":"t-1","step":"t","kind":"do","count":1,"timestamp":"2026-11-23T14:37:54.907Z","parentId":null,"attempt":2}"#;
        let batch = ["completed", "restarted"].map(|of| NewEvent::new(of, data).unwrap());
        target.dispatch_encoded(batch.to_vec()).await.unwrap();
        let steps = target.typed::<StepEvent>();
        let mut events = pin!(steps.events(Cursor::Beginning).await.unwrap());
        let step = events.next().await.unwrap().unwrap().event;
        assert_eq!(step.of(), StepEventType::Completed);
        assert_eq!(serde_json::to_string(&step).unwrap(), data);
        assert!(events.next().await.unwrap().is_err());
    });
}

#[test]
fn a_listener_of_a_store_that_keeps_nothing_gets_new_events() {
    block_on(async {
        let target = Target::new(NullEventStore::new());
        target.dispatch(&paid(1)).await.unwrap();
        let mut events = pin!(target.events(Cursor::Beginning).await.unwrap());
        target.dispatch(&paid(2)).await.unwrap();
        assert_eq!(event(&mut events).await.1, paid(2));
        assert!(poll!(events.next()).is_pending());
        let mut folded = target.fold(Cursor::Beginning, 0, add).await.unwrap();
        assert_eq!(folded.state, 0);
        target.dispatch(&paid(4)).await.unwrap();
        assert!(folded.advance().await.unwrap());
        assert_eq!(folded.state, 4);
    });
}

#[test]
fn events_can_cross_threads() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    /// The stream is `Send` even if the event is not: an event is decoded by the receiver.
    struct Local(#[allow(dead_code, reason = "what makes it local")] std::rc::Rc<()>);
    impl DecodeEvent for Local {
        fn decode(_: &StoredEvent) -> Result<Self, Box<dyn Error + Send + Sync>> {
            Ok(Self(std::rc::Rc::default()))
        }
    }
    let target = Target::new(MemoryEventStore::new());
    block_on(async {
        let local = target.typed::<Local>();
        drop(sendable(local.events(Cursor::Beginning).await.unwrap()));
        let mut folded = sendable(target.fold(Cursor::Beginning, 0, add))
            .await
            .unwrap();
        let _ = sendable(folded.advance()).now_or_never();
    });
}

// Folds.

#[test]
fn a_fold_returns_the_state_and_its_cursor() {
    block_on(async {
        let target = Target::new(MemoryEventStore::new());
        let empty = target.fold(Cursor::Beginning, 0, add).await.unwrap();
        assert_eq!((empty.state, empty.cursor), (0, Cursor::Beginning));

        // More than a page.
        let payments: Vec<_> = (1..=1000).map(paid).collect();
        target.dispatch_all(&payments).await.unwrap();
        let mut folded = target.fold(Cursor::Beginning, 0, add).await.unwrap();
        assert_eq!(folded.state, 500_500);
        assert_eq!(folded.cursor, Cursor::After(id(1000)));

        // From there on: as events, in the same state, in a stored state.
        let mut events = pin!(target.events(folded.cursor).await.unwrap());
        let (kept, cursor) = (folded.state, folded.cursor);
        target.dispatch(&paid(1)).await.unwrap();
        assert_eq!(event(&mut events).await, (1001, paid(1)));
        assert!(folded.advance().await.unwrap());
        assert_eq!(folded.state, 500_501);
        let later = target.fold(cursor, kept, add).await.unwrap();
        assert_eq!(later.state, 500_501);
        assert_eq!(later.cursor, folded.cursor);

        // It waits, and an event is not lost if the future is dropped.
        assert!(poll!(pin!(folded.advance())).is_pending());
        target.dispatch(&paid(2)).await.unwrap();
        target.dispatch(&Account::Closed).await.unwrap();
        assert!(folded.advance().await.unwrap());
        assert_eq!(
            (folded.state, folded.cursor),
            (500_503, Cursor::After(id(1003)))
        );
        assert!(!folded.advance().await.unwrap());
        let mut ended = target.fold(folded.cursor, 7, add).await.unwrap();
        assert_eq!(ended.state, 7);
        assert!(!ended.advance().await.unwrap());
    });
}

#[test]
fn a_fold_that_cannot_go_on_says_why_and_is_unchanged() {
    block_on(async {
        let target = Target::new(MemoryEventStore::new());
        target.dispatch(&paid(1)).await.unwrap();
        let mut folded = target.fold(Cursor::Beginning, 0, add).await.unwrap();
        target.dispatch(&paid(2)).await.unwrap();
        let strange = vec![NewEvent::new("lent", "{}").unwrap()];
        let typed = target.typed::<NewEvent>();
        typed.dispatch_encoded(strange).await.unwrap();
        for _ in 0..2 {
            let error = folded.advance().await.unwrap_err();
            assert!(matches!(error, ListenError::Decode(_)), "{error}");
            assert_eq!((folded.state, folded.cursor), (1, Cursor::After(id(1))));
        }
        let whole = target.fold(Cursor::Beginning, 0, add).await;
        assert!(matches!(whole, Err(ListenError::Decode(_))));

        target.store().trim(id(3));
        target.dispatch(&paid(4)).await.unwrap();
        for _ in 0..2 {
            let error = folded.advance().await.unwrap_err();
            assert!(matches!(error, ListenError::Reset(_)), "{error}");
            assert_eq!((folded.state, folded.cursor), (1, Cursor::After(id(1))));
        }
        let kept = target.fold(folded.cursor, folded.state, add).await;
        assert!(matches!(kept, Err(ListenError::Reset(_))));
        let rest = target.fold(Cursor::Beginning, 0, add).await.unwrap();
        assert_eq!(rest.state, 4);

        // A listener of an empty log learns too that it missed something.
        let target = Target::new(MemoryEventStore::new());
        let mut folded = target.fold(Cursor::Beginning, 0, add).await.unwrap();
        target.dispatch(&paid(1)).await.unwrap();
        target.store().trim(id(1));
        let error = folded.advance().await.unwrap_err();
        assert!(matches!(error, ListenError::Reset(_)), "{error}");
    });
}

#[test]
fn an_error_of_the_store_leaves_a_fold_unchanged() {
    block_on(async {
        let database = Database::in_memory();
        let target = Target::new(SqliteEventStore::new(database.clone()));
        target.dispatch(&paid(1)).await.unwrap();
        let mut folded = target.fold(Cursor::Beginning, 0, add).await.unwrap();
        target.dispatch(&paid(2)).await.unwrap();
        database.fail_next(1);
        assert!(matches!(folded.advance().await, Err(ListenError::Store(_))));
        assert_eq!((folded.state, folded.cursor), (1, Cursor::After(id(1))));
        assert!(folded.advance().await.unwrap());
        assert_eq!(folded.state, 3);
        database.fail_next(1);
        let failed = target.fold(Cursor::Beginning, 0, add).await;
        assert!(matches!(failed, Err(ListenError::Store(_))));
    });
}

#[derive(Clone, Debug)]
enum Op {
    Dispatch(Vec<i64>),
    Fold,
    Advance(usize),
    GoOn(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => vec(-9..9_i64, 0..400).prop_map(Op::Dispatch),
        1 => Just(Op::Fold),
        2 => (0..4_usize).prop_map(Op::Advance),
        1 => (0..4_usize).prop_map(Op::GoOn),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// In any order of calls, a state is the sum of the events up to its cursor, and of no others.
    #[test]
    fn every_state_matches_its_cursor(ops in vec(op(), 1..30)) {
        block_on(async {
            let target = Target::new(MemoryEventStore::new());
            let mut sums = vec![0];
            let mut folds = Vec::new();
            let place = |cursor| match cursor {
                Cursor::After(id) => usize::try_from(id.get()).unwrap(),
                _ => 0,
            };
            for op in ops {
                match op {
                    Op::Dispatch(cents) => {
                        sums.extend(cents.iter().scan(*sums.last().unwrap(), |sum, cents| {
                            *sum += cents;
                            Some(*sum)
                        }));
                        let events: Vec<_> = cents.into_iter().map(paid).collect();
                        target.dispatch_all(&events).await.unwrap();
                    }
                    Op::Fold => {
                        let folded = target.fold(Cursor::Beginning, 0, add).await.unwrap();
                        assert_eq!(place(folded.cursor), sums.len() - 1, "the head");
                        folds.push(folded);
                    }
                    Op::Advance(index) => {
                        if let Some(folded) = folds.get_mut(index) {
                            let behind = place(folded.cursor) < sums.len() - 1;
                            let advanced = folded.advance().now_or_never();
                            assert_eq!(advanced.map(Result::unwrap), behind.then_some(true));
                        }
                    }
                    Op::GoOn(index) => {
                        if let Some(folded) = folds.get_mut(index) {
                            let later = target.fold(folded.cursor, folded.state, add);
                            *folded = later.await.unwrap();
                        }
                    }
                }
                for folded in &folds {
                    assert_eq!(folded.state, sums[place(folded.cursor)]);
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_fold_while_others_dispatch() {
    const EVENTS: i64 = 500;
    let target = Target::new(SqliteEventStore::new(Database::in_memory()));
    let writer = {
        let target = target.clone();
        tokio::spawn(async move {
            for cents in 1..=EVENTS {
                target.dispatch(&paid(cents)).await.unwrap();
                tokio::task::yield_now().await;
            }
            target.dispatch(&Account::Closed).await.unwrap();
        })
    };
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let target = target.clone();
            tokio::spawn(async move {
                let mut folded = target.fold(Cursor::Beginning, 0, add).await.unwrap();
                let mut events = pin!(target.events(folded.cursor).await.unwrap());
                let mut sum = folded.state;
                while folded.advance().await.unwrap() {}
                while let Some(event) = events.next().await {
                    add(&mut sum, event.unwrap());
                }
                (folded.state, sum)
            })
        })
        .collect();
    writer.await.unwrap();
    let expected = EVENTS * (EVENTS + 1) / 2;
    for reader in readers {
        assert_eq!(reader.await.unwrap(), (expected, expected));
    }
}

fn paid(cents: i64) -> Account {
    Account::Paid { cents }
}

fn add(sum: &mut i64, event: Stored<Account>) {
    if let Account::Paid { cents } = event.event {
        *sum += cents;
    }
}

fn id(number: u64) -> EventId {
    EventId::new(number).unwrap()
}

async fn event<E: Error>(
    events: &mut (impl StreamExt<Item = Result<Stored<Account>, ListenError<E>>> + Unpin),
) -> (u64, Account) {
    match events.next().now_or_never() {
        Some(Some(Ok(stored))) => (stored.id.get(), stored.event),
        Some(Some(Err(error))) => panic!("{error}"),
        Some(None) => panic!("the stream has ended"),
        None => panic!("no event is there"),
    }
}
