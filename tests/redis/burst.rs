//! Many viewers replay a log at once, which is more than the server buffers for a connection.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, join_all, select};
use ssetarget::store::redis::{RedisClient, RedisConfig, RedisEventStore};
use ssetarget::{Batch, Cursor, NewEvent, SseTarget};

use crate::harness::tests;
use crate::server::Server;

tests! {
    async fn three_hundred_viewers_replay_a_log_at_once() {
        let server = Server::forgetful();
        let log = Log::new(&server, 1_000, 1_000).await;
        let before = server.own_connection();
        // Their first pages together are 40 MB, and the server's limit is 32.
        let replaying = pin!(log.replay(300));
        let event = NewEvent::new("event", "live").unwrap();
        let live = pin!(async {
            log.other.dispatch_encoded(vec![event]).await.unwrap();
            log.other.subscribe(Cursor::Beginning).await.unwrap().next().await.unwrap()
        });
        // No other viewer waits until they are done.
        match select(replaying, live).await {
            Either::Left(_) => panic!("another log's event waits for all of the replays"),
            Either::Right((_, replaying)) => replaying.await,
        }
        assert_eq!(server.own_connection(), before, "the connection was cut");
    }

    async fn viewers_of_large_events_replay_a_log_at_once() {
        let server = Server::forgetful();
        let log = Log::new(&server, 4, 1_000_000).await;
        let before = server.own_connection();
        log.replay(60).await;
        assert_eq!(server.own_connection(), before, "the connection was cut");
    }

    async fn viewers_replay_a_log_whatever_the_server_keeps() {
        let server = Server::forgetful();
        let log = Log::new(&server, 500, 1_000).await;
        let limit = "pubsub 262144 131072 1";
        let answer = server.say(&["CONFIG", "SET", "client-output-buffer-limit", limit]);
        assert_eq!(answer, "+OK");
        let before = server.own_connection();
        let begin = Instant::now();
        log.replay(300).await;
        assert_ne!(server.own_connection(), before, "nothing was cut: the test is too kind");
        // The client remembers the limit that it learned.
        let learned = server.own_connection();
        log.replay(100).await;
        // It does so for half a minute, then tries whether there is more room.
        if begin.elapsed() < Duration::from_secs(25) {
            assert_eq!(server.own_connection(), learned, "the connection was cut again");
        }
    }
}

struct Log {
    target: SseTarget<NewEvent, RedisEventStore>,
    /// Another log, with a viewer.
    other: SseTarget<NewEvent, RedisEventStore>,
    events: usize,
    size: usize,
}

impl Log {
    /// A log with this many events of this size, on a connection that is subscribed.
    async fn new(server: &Server, events: usize, size: usize) -> Self {
        // The timeout is long, for slow machines.
        let config = RedisConfig::new().timeout(Duration::from_secs(60));
        let client = RedisClient::with_config(&server.url(), config).unwrap();
        let store = RedisEventStore::new(&client, "log");
        let target: SseTarget<NewEvent, _> = SseTarget::new(store);
        let all: Vec<_> = (0..events).collect();
        for numbers in all.chunks(100) {
            let event = |number: &usize| {
                let data = format!("{number} {}", "x".repeat(size));
                NewEvent::new("event", data).unwrap()
            };
            let batch = numbers.iter().map(event).collect();
            target.dispatch_encoded(batch).await.unwrap();
        }
        let other: SseTarget<NewEvent, _> = SseTarget::new(RedisEventStore::new(&client, "other"));
        let mut viewer = other.subscribe(Cursor::Latest).await.unwrap();
        tokio::spawn(async move { while viewer.next().await.is_ok() {} });
        while !server.say(&["CLIENT", "LIST"]).contains(" sub=1 ") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self {
            target,
            other,
            events,
            size,
        }
    }

    /// Lets this many viewers read all of it, and checks that each gets every event once.
    async fn replay(&self, viewers: usize) {
        let viewers = (0..viewers).map(|_| async {
            let mut viewer = self.target.subscribe(Cursor::Beginning).await.unwrap();
            let mut seen = 0;
            while seen < self.events {
                let Some(Batch::Events(events)) = viewer.next().await.unwrap() else {
                    panic!("no events after {seen}");
                };
                for event in events {
                    let (number, rest) = event.data.split_once(' ').unwrap();
                    assert_eq!((number, rest.len()), (&*seen.to_string(), self.size));
                    seen += 1;
                }
            }
        });
        join_all(viewers).await;
    }
}

impl Server {
    /// The number of this crate's only connection.
    fn own_connection(&self) -> String {
        let list = self.say(&["CLIENT", "LIST"]);
        let mut own = list.lines().filter(|line| line.contains("name=ssetarget"));
        let line = own.next().unwrap();
        assert_eq!(own.next(), None);
        line.split(' ').next().unwrap().to_owned()
    }
}
