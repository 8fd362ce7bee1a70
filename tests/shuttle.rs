//! No interleaving of threads loses an event or a wake-up: appenders and viewers of one log, on
//! the schedules of a model checker.
//!
//! `RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle cargo test --test shuttle --release`
//!
//! A viewer that is not woken for an event waits for ever, which the checker reports as a
//! deadlock, with the schedule that leads to it.
#![cfg(shuttle)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::HashSet;
use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::thread;
use ssetarget::store::Bell;
use ssetarget::{
    Appended, Batch, Cursor, EventStore, MemoryEventStore, NewEvent, PageLimit, SseTarget,
};

type Target = SseTarget<NewEvent, MemoryEventStore>;

const RANDOM: usize = 10_000;
const PCT: usize = 5_000;

#[test]
fn every_viewer_gets_every_event_once_and_in_order() {
    explore(|| {
        const APPENDERS: usize = 2;
        const BATCHES: usize = 2;
        let target = Target::new(MemoryEventStore::new());
        let viewers = [pages_of(256), pages_of(1)].map(|limit| {
            let target = target.clone();
            thread::spawn(move || {
                let seen = block_on(view(&target, Cursor::Beginning, limit, usize::MAX));
                assert_eq!(ids(&seen), (1..=seen.len() as u64).collect::<Vec<_>>());
                let data: HashSet<_> = seen.iter().map(|(_, data)| data.clone()).collect();
                // Both batches of both appenders, and the end.
                assert_eq!(data.len(), APPENDERS * BATCHES * 2 + 1, "{seen:?}");
                for appender in 0..APPENDERS {
                    let of_appender: Vec<_> = seen
                        .iter()
                        .filter_map(|(_, data)| data.strip_prefix(&format!("{appender}.")))
                        .collect();
                    assert_eq!(of_appender, ["0", "1", "2", "3"], "{seen:?}");
                }
            })
        });
        let appenders: Vec<_> = (0..APPENDERS)
            .map(|appender| {
                let target = target.clone();
                thread::spawn(move || {
                    for batch in 0..BATCHES {
                        let events = [2 * batch, 2 * batch + 1];
                        append(&target, &events.map(|n| format!("{appender}.{n}")));
                    }
                })
            })
            .collect();
        for appender in appenders {
            appender.join().unwrap();
        }
        end(&target);
        for viewer in viewers {
            viewer.join().unwrap();
        }
    });
}

/// A viewer leaves in the middle and comes back, while another one waits and events come.
#[test]
fn a_viewer_that_leaves_and_resumes_misses_nothing() {
    explore(|| {
        let target = Target::new(MemoryEventStore::new());
        let viewer = {
            let target = target.clone();
            thread::spawn(move || {
                block_on(async {
                    let mut seen = view(&target, Cursor::Beginning, pages_of(1), 2).await;
                    let (last, _) = *seen.last().unwrap();
                    let cursor = Cursor::After(ssetarget::EventId::new(last).unwrap());
                    seen.extend(view(&target, cursor, pages_of(2), usize::MAX).await);
                    assert_eq!(ids(&seen), [1, 2, 3, 4, 5]);
                });
            })
        };
        let other = {
            let target = target.clone();
            thread::spawn(move || {
                let seen = block_on(view(&target, Cursor::Latest, pages_of(256), usize::MAX));
                assert!(ids(&seen).ends_with(&[5]) || seen.is_empty(), "{seen:?}");
            })
        };
        for data in ["a", "b", "c", "d"] {
            append(&target, &[data.to_owned()]);
        }
        end(&target);
        viewer.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn of_one_fact_from_many_threads_one_is_stored() {
    explore(|| {
        let store = Arc::new(MemoryEventStore::new());
        let appenders: Vec<_> = (0..3)
            .map(|_| {
                let store = Arc::clone(&store);
                thread::spawn(move || {
                    let facts = ["a", "b"].map(|key| event(key).with_key(key).unwrap());
                    block_on(store.append(facts.to_vec())).unwrap()
                })
            })
            .collect();
        let outcomes: Vec<Vec<Appended>> = appenders
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        let stored = outcomes
            .iter()
            .filter(|outcomes| **outcomes != [Appended::Duplicate; 2]);
        assert_eq!(stored.count(), 1, "{outcomes:?}");
        let page = block_on(store.read(None, PageLimit::default())).unwrap();
        assert_eq!(page.events.len(), 2);
    });
}

/// The rule that the bell asks for: listen, look, wait.
#[test]
fn a_bell_wakes_whoever_listened_before_it_rang() {
    explore(|| {
        let shared = Arc::new((Bell::new(), shuttle::sync::Mutex::new(0)));
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    block_on(async {
                        loop {
                            let listener = shared.0.listen();
                            if *shared.1.lock().unwrap() == 2 {
                                break;
                            }
                            listener.await;
                        }
                    });
                })
            })
            .collect();
        for _ in 0..2 {
            *shared.1.lock().unwrap() += 1;
            shared.0.ring();
        }
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

/// Random schedules find what happens often, PCT schedules what needs few but exact switches.
fn explore(test: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(test, RANDOM);
    for depth in 2..=4 {
        shuttle::check_pct(test, PCT, depth);
    }
}

/// Ids and data of what a viewer gets until it has so many or the stream ends.
async fn view(
    target: &Target,
    cursor: Cursor,
    limit: PageLimit,
    at_most: usize,
) -> Vec<(u64, String)> {
    let subscription = target.subscribe(cursor).await.unwrap();
    let mut subscription = subscription.with_page_limit(limit);
    let mut seen = Vec::new();
    while seen.len() < at_most {
        match subscription.next().await.unwrap() {
            Some(Batch::Events(events)) => {
                seen.extend(events.into_iter().map(|event| (event.id.get(), event.data)));
            }
            Some(Batch::Reset(reset)) => panic!("{reset:?}"),
            None => break,
        }
    }
    seen
}

fn append(target: &Target, data: &[String]) {
    let batch = data.iter().map(|data| event(data)).collect();
    block_on(target.dispatch_encoded(batch)).unwrap();
}

fn end(target: &Target) {
    block_on(target.dispatch_encoded(vec![event("end").terminal()])).unwrap();
}

fn event(data: &str) -> NewEvent {
    NewEvent::new("t", data).unwrap()
}

fn pages_of(events: usize) -> PageLimit {
    PageLimit {
        events,
        ..PageLimit::default()
    }
}

fn ids(seen: &[(u64, String)]) -> Vec<u64> {
    seen.iter().map(|(id, _)| *id).collect()
}
