//! Several processes on one log while their connections are killed at random.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ssetarget::store::redis::{RedisClient, RedisErrorKind, RedisEventStore};
use ssetarget::{Appended, Batch, Cursor, EventId, EventStore, NewEvent, PageLimit, SseTarget};

use crate::harness::tests;
use crate::server::Server;

const SEEDS: u64 = 6;
const PROCESSES: usize = 3;
const WRITERS: usize = 4;
const VIEWERS: usize = 8;
const EVENTS: usize = 120;

tests! {
    async fn every_viewer_is_exact_while_connections_are_killed() {
        let server = Arc::new(Server::forgetful());
        for seed in 0..SEEDS {
            soak(&server, seed).await;
        }
    }
}

type Target = SseTarget<NewEvent, RedisEventStore>;

/// What a writer knows about an event.
#[derive(Debug, PartialEq)]
enum Known {
    Stored(EventId),
    NotStored,
    Perhaps,
}

async fn soak(server: &Arc<Server>, seed: u64) {
    let log = format!("soak-{seed}");
    // Each has its own connection, as a process has.
    let processes: Arc<Vec<Target>> = Arc::new(
        (0..PROCESSES)
            .map(|_| {
                let client = RedisClient::new(&server.url()).unwrap();
                SseTarget::new(RedisEventStore::new(&client, &log))
            })
            .collect(),
    );
    let is_over = Arc::new(AtomicBool::new(false));
    let killer = {
        let (server, is_over) = (Arc::clone(server), Arc::clone(&is_over));
        std::thread::spawn(move || {
            let mut random = Random(seed + 1000);
            let mut kills = 0;
            while !is_over.load(Ordering::SeqCst) {
                server.kill_connections(|ids| match ids.len() {
                    0 => Vec::new(),
                    some => vec![ids[random.below(some)]],
                });
                kills += 1;
                std::thread::sleep(Duration::from_millis(random.below(15) as u64));
            }
            kills
        })
    };
    let viewers: Vec<_> = (0..VIEWERS)
        .map(|number| {
            let random = Random(seed * 100 + number as u64);
            tokio::spawn(view(Arc::clone(&processes), random))
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let random = Random(seed * 100 + 50 + number as u64);
            tokio::spawn(write(Arc::clone(&processes), number, random))
        })
        .collect();
    let mut known = HashMap::new();
    for writer in writers {
        known.extend(writer.await.unwrap());
    }
    is_over.store(true, Ordering::SeqCst);
    let kills: u32 = killer.join().unwrap();
    // A process may not have noticed the last kill yet. With a key this is tried again, and stored once.
    let end = NewEvent::new("end", "").unwrap().with_key("end").unwrap();
    let end = end.terminal();
    processes[0].dispatch_encoded(vec![end]).await.unwrap();

    let mut stored: Vec<(EventId, String)> = Vec::new();
    loop {
        let after = stored.last().map(|(id, _)| *id);
        let page = processes[0]
            .store()
            .read(after, PageLimit::default())
            .await
            .unwrap();
        if page.events.is_empty() {
            break;
        }
        stored.extend(page.events.into_iter().map(|event| (event.id, event.data)));
    }
    for (number, (id, _)) in stored.iter().enumerate() {
        assert_eq!(id.get(), stored[0].0.get() + number as u64, "ids are dense");
    }
    for viewer in viewers {
        assert_eq!(viewer.await.unwrap(), stored, "of seed {seed}");
    }
    let mut ids: HashMap<&str, Vec<EventId>> = HashMap::new();
    for (id, data) in &stored {
        ids.entry(data).or_default().push(*id);
    }
    let mut perhaps = 0;
    for (data, known) in &known {
        let ids = ids.get(data.as_str()).map_or(&[][..], Vec::as_slice);
        match known {
            Known::Stored(id) => assert_eq!(ids, [*id], "{data} of seed {seed}"),
            Known::NotStored => assert_eq!(ids, [], "{data} of seed {seed}"),
            Known::Perhaps => {
                perhaps += 1;
                assert!(ids.len() <= 1, "{data} of seed {seed}: {ids:?}");
            }
        }
    }
    println!(
        "seed {seed}: {} events, {kills} kills, {perhaps} appends that may have been stored",
        stored.len()
    );
}

/// Appends events, half of them with keys, through any process. Returns what it knows about each.
async fn write(
    processes: Arc<Vec<Target>>,
    writer: usize,
    mut random: Random,
) -> Vec<(String, Known)> {
    let mut known = Vec::new();
    for number in 0..EVENTS {
        let data = format!("{writer}.{number}");
        let has_key = random.below(2) == 0;
        let mut event = NewEvent::new("event", data.clone()).unwrap();
        if has_key {
            event = event.with_key(data.clone()).unwrap();
        }
        let target = &processes[random.below(PROCESSES)];
        let outcome = target.store().append(vec![event]).await;
        known.push((
            data,
            match outcome {
                Ok(outcomes) => match outcomes[..] {
                    [Appended::Stored(id)] => Known::Stored(id),
                    _ => panic!("an event that nobody else appends is a duplicate: {outcomes:?}"),
                },
                Err(error) => {
                    assert!(!has_key, "an append with a key is tried again: {error}");
                    assert_eq!(error.kind(), RedisErrorKind::Lost);
                    if error.may_have_been_stored() {
                        Known::Perhaps
                    } else {
                        Known::NotStored
                    }
                }
            },
        ));
    }
    known
}

/// Follows the log to its end, from one process to another.
async fn view(processes: Arc<Vec<Target>>, mut random: Random) -> Vec<(EventId, String)> {
    let mut seen: Vec<(EventId, String)> = Vec::new();
    loop {
        let cursor = seen
            .last()
            .map_or(Cursor::Beginning, |(id, _)| Cursor::After(*id));
        let target = &processes[random.below(PROCESSES)];
        let limit = PageLimit {
            events: 1 + random.below(20),
            ..PageLimit::default()
        };
        let Ok(subscription) = target.subscribe(cursor).await else {
            continue;
        };
        let mut subscription = subscription.with_page_limit(limit);
        for _ in 0..=random.below(20) {
            match subscription.next().await {
                Ok(Some(Batch::Events(events))) => {
                    seen.extend(events.into_iter().map(|event| (event.id, event.data)));
                }
                Ok(Some(Batch::Reset(reset))) => panic!("a reset: {reset:?}"),
                Ok(None) => return seen,
                Err(_) => break,
            }
        }
    }
}

/// A generator of reproducible numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}
