//! No interleaving of threads loses an event or a wake-up: appenders and viewers of one log, on
//! the schedules of a model checker.
//!
//! `RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle cargo test -p ssetarget-shuttle --release`
//!
//! A viewer that is not woken for an event waits for ever. The checker reports that as a deadlock, with the schedule
//! that leads to it.
#![cfg(all(test, shuttle))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "../../support/sql.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod sql;

use std::collections::HashSet;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use futures_util::StreamExt;
use shuttle::future::block_on;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner, thread};
use sql::Database;
use ssetarget::store::Bell;
use ssetarget::tracer::{Span, Tracer};
use ssetarget::{
    Appended, Batch, Cursor, EventId, EventStore, MemoryEventStore, NewEvent, NullEventStore, Page,
    PageLimit, SqliteEventStore, SseTarget, Stored, StoredEvent,
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
                    let cursor = Cursor::After(EventId::new(last).unwrap());
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
fn one_fact_from_many_threads_is_stored_once() {
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

/// The rule for users of the bell: listen, read, wait.
#[test]
fn a_bell_wakes_all_that_listened_before_it_rang() {
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

/// A viewer that is too slow for the kept events gets a reset each time, and is woken for the events that follow.
#[test]
fn a_viewer_that_falls_behind_gets_a_reset() {
    static RESETS: AtomicUsize = AtomicUsize::new(0);
    fn check<S: EventStore + 'static>(store: S) {
        let target: SseTarget<NewEvent, S> = SseTarget::new(store);
        // It comes before the first event, so it must not miss one without a reset.
        let viewer = block_on(target.subscribe(Cursor::Latest)).unwrap();
        let mut viewer = viewer.with_page_limit(pages_of(2));
        let viewer = thread::spawn(move || {
            block_on(async {
                let mut last = 0;
                while let Some(batch) = viewer.next().await.unwrap() {
                    match batch {
                        Batch::Reset(reset) => {
                            assert_eq!(reset.requested.map_or(0, EventId::get), last);
                            RESETS.fetch_add(1, Ordering::Relaxed);
                            // Events before the oldest are gone; then come those after it, or another reset.
                            last = reset.oldest.unwrap().get() - 1;
                        }
                        Batch::Events(events) => {
                            for event in events {
                                assert_eq!(event.id.get(), last + 1, "in silence");
                                last += 1;
                            }
                        }
                    }
                }
                assert_eq!(last, 5);
            });
        });
        let appenders = [["a", "b"], ["c", "d"]].map(|data| {
            let target = target.clone();
            thread::spawn(move || {
                for data in data {
                    append(&target, &[data.to_owned()]);
                }
            })
        });
        for appender in appenders {
            appender.join().unwrap();
        }
        end(&target);
        viewer.join().unwrap();
    }
    explore(|| check(MemoryEventStore::new().max_events(2)));
    assert!(RESETS.swap(0, Ordering::Relaxed) > 0, "it never happened");
    explore(|| check(NullEventStore::new().ring_size(2)));
    assert!(RESETS.swap(0, Ordering::Relaxed) > 0, "it never happened");
}

/// The last viewer leaves, and another comes, while events are appended. It reads the bytes of the wire, which stores
/// keep for their viewers.
#[test]
fn a_viewer_that_comes_while_the_last_one_leaves_misses_nothing() {
    fn check<S: EventStore + 'static>(store: S) {
        let target: SseTarget<NewEvent, S> = SseTarget::new(store);
        let last = target.store().watch();
        for data in ["a", "b"] {
            append(&target, &[data.to_owned()]);
        }
        let leaving = thread::spawn(move || drop(last));
        let coming = {
            let target = target.clone();
            thread::spawn(move || block_on(follow_bytes(target.store(), 1)))
        };
        for data in ["c", "d"] {
            append(&target, &[data.to_owned()]);
        }
        end(&target);
        leaving.join().unwrap();
        assert_eq!(coming.join().unwrap(), [2, 3, 4, 5]);
    }
    explore(|| check(MemoryEventStore::new()));
    explore(|| check(SqliteEventStore::new(Database::in_memory())));
}

/// A fold during appends gives a state that is true at its cursor, and all later events come after it.
#[test]
fn a_fold_and_what_follows_it_are_the_whole_log() {
    explore(|| {
        let target = Target::new(MemoryEventStore::new());
        let reader = {
            let target = target.typed::<StoredEvent>();
            thread::spawn(move || {
                block_on(async {
                    let push = |seen: &mut Vec<_>, event: Stored<StoredEvent>| seen.push(event.id);
                    let mut folded = target
                        .fold(Cursor::Beginning, Vec::new(), push)
                        .await
                        .unwrap();
                    let position = match folded.cursor {
                        Cursor::After(id) => id.get(),
                        _ => 0,
                    };
                    assert_eq!(folded.state.len() as u64, position);
                    let mut both = folded.state.clone();
                    let mut rest = pin!(target.events(folded.cursor).await.unwrap());
                    while let Some(event) = rest.next().await {
                        both.push(event.unwrap().id);
                    }
                    while folded.advance().await.unwrap() {}
                    let all: Vec<_> = (1..=5).filter_map(EventId::new).collect();
                    assert_eq!((&both, &folded.state), (&all, &all));
                });
            })
        };
        let appender = {
            let target = target.clone();
            thread::spawn(move || append(&target, &["a", "b"].map(str::to_owned)))
        };
        append(&target, &["c", "d"].map(str::to_owned));
        appender.join().unwrap();
        end(&target);
        reader.join().unwrap();
    });
}

/// Several threads flush their spans while one thread sends. The timers never ring, so a batch is
/// sent only because a thread waits for it, and sending ends only with the last handle.
#[test]
fn a_tracer_sends_flushed_spans_and_then_rests() {
    explore(|| {
        let target = Target::new(MemoryEventStore::new());
        let (tracer, sending) = Tracer::new(&target, |_| std::future::pending());
        let sender = thread::spawn(move || block_on(sending));
        let tracers = [(); 2].map(|()| {
            let (tracer, target) = (tracer.clone(), target.clone());
            thread::spawn(move || {
                block_on(async {
                    let body = async |span: Span| {
                        span.progress("working");
                        Ok::<_, Infallible>(())
                    };
                    tracer.with_span("step", body).await.unwrap();
                    assert!(tracer.flush().await);
                    let page = target
                        .store()
                        .read(None, PageLimit::default())
                        .await
                        .unwrap();
                    assert!(page.events.len() >= 3);
                });
            })
        });
        drop(tracer);
        for tracer in tracers {
            tracer.join().unwrap();
        }
        sender.join().unwrap();
        let page = block_on(target.store().read(None, PageLimit::default())).unwrap();
        assert_eq!(page.events.len(), 6);
    });
}

/// A stream is open when a shutdown begins, or comes afterwards.
#[test]
fn a_shutdown_reaches_every_stream() {
    use ssetarget::http::{Shutdown, Sse, StreamCut};
    explore(|| {
        let target = Target::new(MemoryEventStore::new());
        append(&target, &["0".to_owned()]);
        let shutdown = Shutdown::new();
        let sse = Sse::with_sleep(|_| std::future::pending()).shutdown(&shutdown);
        let streams = [(); 2].map(|()| {
            let (sse, target) = (sse.clone(), target.clone());
            thread::spawn(move || {
                block_on(async {
                    let request = http::Request::new(());
                    let mut body = sse.respond(&target, &request).await.into_body();
                    let mut last = None;
                    while let Some(chunk) = body.next().await {
                        last = Some(chunk);
                    }
                    assert_eq!(last, Some(Err(StreamCut::Shutdown)));
                });
            })
        });
        let server = thread::spawn({
            let begun = shutdown.begun();
            move || block_on(begun)
        });
        shutdown.begin();
        for thread in streams.into_iter().chain([server]) {
            thread.join().unwrap();
        }
    });
}

/// Proves that the checker finds such an error: a store that reads the log before it listens to the
/// bell, and not again afterwards, loses a wake-up.
#[test]
fn a_store_that_does_not_read_again_after_listening_is_caught() {
    fn check(looks_again: bool) {
        let store = Belled {
            log: MemoryEventStore::new(),
            bell: Bell::new(),
            looks_again,
        };
        let target: SseTarget<NewEvent, _> = SseTarget::new(store);
        let viewer = {
            let target = target.clone();
            thread::spawn(move || {
                block_on(async {
                    let mut viewer = target.subscribe(Cursor::Beginning).await.unwrap();
                    while viewer.next().await.unwrap().is_some() {}
                });
            })
        };
        end(&target);
        viewer.join().unwrap();
    }
    explore(|| check(true));
    let caught = std::panic::catch_unwind(|| explore(|| check(false))).unwrap_err();
    let message = caught.downcast_ref::<String>().unwrap();
    assert!(message.contains("deadlock"), "{message}");
}

/// A log with a bell of its own, which follows the rule or does not.
struct Belled {
    log: MemoryEventStore,
    bell: Bell,
    looks_again: bool,
}

impl EventStore for Belled {
    type Error = Infallible;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Infallible> {
        let outcomes = self.log.append(batch).await;
        self.bell.ring();
        outcomes
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Infallible> {
        self.log.read(after, limit).await
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Infallible> {
        let armed = self.bell.listen();
        if self.read(None, pages_of(1)).await?.head != after {
            return Ok(());
        }
        if self.looks_again {
            armed.await;
        } else {
            self.bell.listen().await;
        }
        Ok(())
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Infallible> {
        self.log.before(time).await
    }
}

/// Random schedules find frequent errors, PCT finds those that need few but exact switches.
fn explore(test: impl Fn() + Send + Sync + Copy + 'static) {
    // SQLite needs more than the default.
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    Runner::new(RandomScheduler::new(RANDOM), config.clone()).run(test);
    for depth in 2..=4 {
        Runner::new(PctScheduler::new(depth, PCT), config.clone()).run(test);
    }
}

/// Returns the ids of the events after this one, up to the end of the log.
async fn follow_bytes<S: EventStore>(store: &S, after: u64) -> Vec<u64> {
    let _watch = store.watch();
    let mut after = EventId::new(after);
    let mut seen = Vec::new();
    loop {
        let page = store.read_encoded(after, PageLimit::default()).await;
        let page = page.unwrap();
        if let Some(frames) = page.events {
            let text = str::from_utf8(&frames.bytes).unwrap();
            let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
            seen.extend(ids.map(|id| id.parse::<u64>().unwrap()));
            after = Some(frames.last);
        }
        if page.closed && after == page.head {
            return seen;
        }
        store.changed(after).await.unwrap();
    }
}

/// Returns ids and data of a viewer until it has this many, or the stream ends.
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

fn append<S: EventStore>(target: &SseTarget<NewEvent, S>, data: &[String]) {
    let batch = data.iter().map(|data| event(data)).collect();
    block_on(target.dispatch_encoded(batch)).unwrap();
}

fn end<S: EventStore>(target: &SseTarget<NewEvent, S>) {
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
