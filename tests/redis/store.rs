//! The contract of stores.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::future::join_all;
use ssetarget::store::contract;
use ssetarget::store::redis::{RedisClient, RedisEventStore};
use ssetarget::{
    Appended, Batch, Cursor, EventStore, NewEvent, PageLimit, SseTarget, Subscription,
};

use crate::harness::tests;
use crate::server::Server;

tests! {
    async fn keeps_the_promise() {
        let server = Server::forgetful();
        let client = RedisClient::new(&server.url()).unwrap();
        contract::check(async || RedisEventStore::new(&client, &name())).await;
        contract::check_trimmed(
            async || RedisEventStore::new(&client, &name()),
            async |store, last| store.trim(last).await.unwrap(),
        )
        .await;
        contract::check_bounded(async |retention| {
            RedisEventStore::new(&client, &name()).retention(retention)
        })
        .await;
        let log = RedisEventStore::new(&client, &name());
        log.clear().await.unwrap();
        let event = || NewEvent::new("event", "").unwrap().with_key("key").unwrap();
        log.append(vec![event()]).await.unwrap();
        let head = log.ends(None).await.unwrap().head;
        log.clear().await.unwrap();
        log.clear().await.unwrap();
        let page = log.read(None, PageLimit::default()).await.unwrap();
        assert_eq!((page.oldest, page.head, page.trimmed), (None, head, head));
        let again = log.append(vec![event()]).await.unwrap();
        assert!(matches!(again[0], Appended::Stored(id) if Some(id) > head));
        assert_eq!(server.connections(), 1);
    }

    // A new store for each request, as in a server that keeps none: the view is found by the log's
    // name.
    async fn snapshots_are_read_once() {
        let server = Server::forgetful();
        let client = RedisClient::new(&server.url()).unwrap();
        let log = || SseTarget::<NewEvent, _>::new(RedisEventStore::new(&client, "log"));
        let started = |step: u32| {
            let data = format!(
                r#"{{"taskId":"s{step}-1","step":"s{step}","kind":"do","count":1,"timestamp":"2026-11-24T09:00:00.000Z","parentId":null}}"#
            );
            NewEvent::new("started", data).unwrap()
        };
        log().dispatch_encoded((0..3_000).map(started).collect()).await.unwrap();
        let snapshots = ssetarget::http::Snapshots::new(&ssetarget::http::Sse::new());
        let ask = async |known: &str| {
            let request = http::Request::get("/").header("if-none-match", known).body(());
            let response = snapshots.respond(&log(), "log", &request.unwrap()).await;
            let etag = response.headers().get("etag").cloned();
            let etag = etag.map(|etag| etag.to_str().unwrap().to_owned());
            let status = response.status().as_u16();
            let chunks: Vec<_> = response.into_body().map(|chunk| chunk.unwrap()).collect().await;
            (status, etag.unwrap_or_default(), chunks.concat())
        };
        let count = |json: &[u8]| {
            let read: ssetarget::workflow::RunSnapshot = serde_json::from_slice(json).unwrap();
            (read.task_count, read.cursor)
        };
        let (status, etag, json) = ask("").await;
        assert_eq!((status, count(&json).0), (200, 3_000));
        assert_eq!(ask(&etag).await, (304, etag.clone(), Vec::new()));
        log().dispatch_encoded(vec![started(3_000)]).await.unwrap();
        let (status, _, json) = ask(&etag).await;
        assert_eq!((status, count(&json).0), (200, 3_001));
        assert_eq!(count(&json).1, log().store().ends(None).await.unwrap().head);
        // A log that was emptied is not served from memory.
        log().store().clear().await.unwrap();
        assert_eq!(count(&ask("").await.2), (0, None));
    }

    async fn is_the_same_after_reopening() {
        let server = Server::start();
        contract::check_reopened(async || {
            RedisEventStore::new(&RedisClient::new(&server.url()).unwrap(), "log")
        })
        .await;
    }

    async fn any_number_of_logs_and_viewers_share_one_connection() {
        let server = Server::forgetful();
        let client = RedisClient::new(&server.url()).unwrap();
        let targets: Vec<SseTarget<NewEvent, _>> = (0..50)
            .map(|_| SseTarget::new(RedisEventStore::new(&client, &name())))
            .collect();
        let mut viewers = Vec::new();
        for target in &targets {
            for _ in 0..10 {
                let mut viewer = target.subscribe(Cursor::Latest).await.unwrap();
                viewers.push(tokio::spawn(async move { viewer.next().await.unwrap() }));
            }
        }
        while !server.say(&["CLIENT", "LIST"]).contains(" sub=50 ") {}
        assert_eq!(server.connections(), 1);
        for target in &targets {
            let event = NewEvent::new("event", target.store().keys()[0]).unwrap();
            target.dispatch_encoded(vec![event]).await.unwrap();
        }
        for (number, viewer) in viewers.into_iter().enumerate() {
            let Some(Batch::Events(events)) = viewer.await.unwrap() else {
                panic!("an event was stored");
            };
            assert_eq!(events[0].data, targets[number / 10].store().keys()[0]);
        }
        // A log without viewers is not announced either.
        drop(targets);
        while !server.say(&["CLIENT", "LIST"]).contains(" sub=0 ") {}
        drop(client);
        while server.connections() > 0 {}
    }

    async fn viewers_who_wait_for_the_same_event_do_not_each_read_it() {
        const VIEWERS: usize = 200;
        const EVENTS: usize = 10;
        let server = Server::forgetful();
        let client = RedisClient::new(&server.url()).unwrap();
        let target: SseTarget<NewEvent, _> = SseTarget::new(RedisEventStore::new(&client, "log"));
        let mut viewers = Vec::new();
        for _ in 0..VIEWERS {
            viewers.push(target.subscribe(Cursor::Latest).await.unwrap());
        }
        for number in 0..=EVENTS {
            if number == 1 {
                // The first time each of them has to read the head.
                server.say(&["CONFIG", "RESETSTAT"]);
            }
            let data = number.to_string();
            let event = NewEvent::new("event", data.clone()).unwrap();
            let reading = viewers.iter_mut().map(Subscription::next);
            let (seen, _) = tokio::join!(join_all(reading), target.dispatch_encoded(vec![event]));
            for batch in seen {
                let Batch::Events(events) = batch.unwrap().unwrap() else {
                    panic!("an event was stored");
                };
                assert_eq!(events[0].data, data);
            }
        }
        let statistics = server.say(&["INFO", "commandstats"]);
        let scripts = statistics.lines().find(|line| line.starts_with("cmdstat_evalsha:"));
        let calls = scripts.unwrap().split(['=', ',']).nth(1).unwrap();
        let calls: usize = calls.parse().unwrap();
        println!("{calls} scripts for {EVENTS} events and {VIEWERS} viewers");
        // If each called on its own, there would be 4,000.
        assert!(calls < 500, "{calls} scripts for {EVENTS} events and {VIEWERS} viewers");
    }

    async fn names_of_logs_are_theirs_alone() {
        let server = Server::forgetful();
        let client = RedisClient::new(&server.url()).unwrap();
        let names = ["", "a", "a}", "{a}", "%7D", "}", "{", "a:events", "ä/ b\n"];
        let store = |name| RedisEventStore::with_prefix(&client, "a{b", name);
        for name in names {
            let event = NewEvent::new("event", name).unwrap().with_key("key").unwrap();
            store(name).append(vec![event]).await.unwrap();
        }
        for name in names {
            let page = store(name).read(None, PageLimit::default()).await.unwrap();
            assert_eq!(page.events.len(), 1, "{name}");
            assert_eq!(page.events[0].data, name);
            let keys = store(name).keys().map(str::to_owned);
            for key in &keys {
                assert_eq!(server.say(&["EXISTS", key]), ":1", "{key}");
                // The part that a cluster uses for the slot.
                let tag = key.split_once('{').unwrap().1.split_once('}').unwrap().0;
                assert!(keys.iter().all(|key| key.contains(&format!("{{{tag}}}"))));
                assert!(!tag.is_empty(), "{key}");
            }
        }
    }
}

fn name() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed).to_string()
}
