//! Tests of failures, losses and refusals of Redis.

use std::io;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::poll;
use ssetarget::store::redis::{
    RedisClient, RedisConfig, RedisError, RedisErrorKind, RedisEventStore, RedisServer,
    RedisTransport,
};
use ssetarget::{
    Appended, Batch, Cursor, EventId, EventStore, NewEvent, Page, PageLimit, SseTarget,
    Subscription,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::tests;
use crate::server::{Server, free_port};

tests! {
    async fn a_server_that_is_killed_and_comes_back_with_its_data_is_only_a_pause() {
        let mut server = Server::start();
        let target = target(&client(&server));
        let ids = append(&target, &["1", "2"]).await;
        let mut viewer = target.subscribe(Cursor::Beginning).await.unwrap();
        assert_eq!(next(&mut viewer).await, ["1", "2"]);
        let mut waiting = tokio::spawn(async move { (next(&mut viewer).await, viewer) });

        server.kill();
        // Nothing was sent that could be lost, so an append waits even without a key.
        let appending = append(&target, &["3"]);
        let (appended, ()) = tokio::join!(appending, async {
            tokio::time::timeout(Duration::from_millis(100), &mut waiting)
                .await
                .unwrap_err();
            server.run();
        });
        let (seen, mut viewer) = waiting.await.unwrap();
        assert_eq!(seen, ["3"]);
        // The server may have lost ids that it assigned, so these are new ones.
        assert!(appended[0].get() > ids[1].get() + 1000, "{ids:?} {appended:?}");
        append(&target, &["4"]).await;
        assert_eq!(next(&mut viewer).await, ["4"]);

        // A viewer that comes back after the last event from before misses nothing and gets no
        // reset.
        let mut back = target.subscribe(Cursor::After(ids[1])).await.unwrap();
        assert_eq!(next(&mut back).await, ["3", "4"]);
    }

    async fn a_server_that_comes_back_empty_resets_its_viewers() {
        let mut server = Server::forgetful();
        let target = target(&client(&server));
        let ids = append(&target, &["1", "2"]).await;
        let mut viewer = target.subscribe(Cursor::Beginning).await.unwrap();
        assert_eq!(next(&mut viewer).await, ["1", "2"]);
        server.kill();
        server.run();
        let (requested, oldest, head) = reset(&mut viewer).await;
        assert_eq!((requested, oldest, head), (Some(ids[1]), None, None));
        let new = append(&target, &["3"]).await;
        assert!(new[0] > ids[1], "{new:?} after {ids:?}");
        assert_eq!(next(&mut viewer).await, ["3"]);

        // The same for a viewer that was not connected meanwhile: its position is one of an earlier
        // generation.
        let mut back = target.subscribe(Cursor::After(ids[0])).await.unwrap();
        assert_eq!(reset(&mut back).await, (Some(ids[0]), Some(new[0]), Some(new[0])));
        assert_eq!(next(&mut back).await, ["3"]);
    }

    async fn a_server_that_lost_its_newest_events_resets_their_viewers() {
        let mut server = Server::start();
        let target = target(&client(&server));
        let kept = append(&target, &["1", "2"]).await;
        server.kill();
        let saved = server.save();
        server.run();
        let lost = append(&target, &["lost", "lost too"]).await;
        let mut saw = target.subscribe(Cursor::Beginning).await.unwrap();
        assert_eq!(next(&mut saw).await, ["1", "2", "lost", "lost too"]);

        // The server loses them, as after a failover to a replica that did not have them yet.
        server.kill();
        server.restore(&saved);
        server.run();
        let new = append(&target, &["3"]).await;
        assert!(new[0] > lost[1]);
        for mut viewer in [
            saw,
            target.subscribe(Cursor::After(lost[0])).await.unwrap(),
            target.subscribe(Cursor::After(lost[1])).await.unwrap(),
        ] {
            reset(&mut viewer).await;
            assert_eq!(next(&mut viewer).await, ["1", "2", "3"]);
        }
        let mut did_not = target.subscribe(Cursor::After(kept[1])).await.unwrap();
        assert_eq!(next(&mut did_not).await, ["3"]);
        let mut since = target.subscribe(Cursor::Since(SystemTime::UNIX_EPOCH)).await.unwrap();
        assert_eq!(next(&mut since).await, ["1", "2", "3"]);
    }

    async fn a_log_may_outlive_any_number_of_failovers() {
        let server = Server::forgetful();
        let target = target(&client(&server));
        let data: Vec<String> = (0..70).map(|number| number.to_string()).collect();
        let mut ids = Vec::new();
        for data in &data {
            ids.extend(append(&target, &[data]).await);
            // The server becomes a replica, and is promoted.
            server.say(&["REPLICAOF", "127.0.0.1", "1"]);
            server.say(&["REPLICAOF", "NO", "ONE"]);
        }
        assert!(ids.is_sorted_by(|one, next| one.get() + 1 < next.get()), "{ids:?}");

        let limit = PageLimit { events: 1, ..PageLimit::default() };
        let view = async |cursor: Cursor| {
            let mut viewer = target.subscribe(cursor).await.unwrap().with_page_limit(limit);
            let (mut resets, mut seen) = (0, Vec::new());
            while resets < 3 && seen.last() != data.last() {
                match viewer.next().await.unwrap() {
                    Some(Batch::Events(events)) => seen.extend(events.into_iter().map(|event| event.data)),
                    Some(Batch::Reset(_)) => {
                        resets += 1;
                        seen.clear();
                    }
                    None => break,
                }
            }
            (resets, seen)
        };
        // A client whose last event is still there notices nothing.
        for (kept, id) in ids[..69].iter().enumerate().step_by(17) {
            assert_eq!(view(Cursor::After(*id)).await, (0, data[kept + 1..].to_vec()));
        }
        assert_eq!(view(Cursor::Beginning).await, (0, data.clone()));
        let lost = |number: usize| Cursor::After(EventId::new(ids[number].get() + 1).unwrap());
        // Its last event is of an earlier log of this name, or was lost by one of the latest failovers.
        assert_eq!(view(Cursor::After(EventId::new(7).unwrap())).await, (1, data.clone()));
        for number in [30, 68] {
            assert_eq!(view(lost(number)).await, (1, data.clone()), "{number}");
        }
        // It was lost so many failovers ago that the log does not know it any more.
        assert_eq!(view(lost(0)).await, (0, data[1..].to_vec()));
    }

    async fn a_short_pause_is_waited_for() {
        let server = Server::forgetful();
        let target = target(&client(&server));
        let mut viewer = target.subscribe(Cursor::Latest).await.unwrap();
        server.say(&["CLIENT", "PAUSE", "300", "ALL"]);
        append(&target, &["1"]).await;
        assert_eq!(next(&mut viewer).await, ["1"]);
    }

    async fn a_long_pause_is_an_error_that_says_what_may_have_happened() {
        let server = Server::forgetful();
        let config = RedisConfig::new()
            .timeout(Duration::from_secs(1))
            .patience(Duration::from_secs(1));
        let client = RedisClient::with_config(&server.url(), config).unwrap();
        let target = target(&client);
        append(&target, &["1"]).await;
        let mut viewer = target.subscribe(Cursor::Beginning).await.unwrap();
        assert_eq!(next(&mut viewer).await, ["1"]);
        let viewing = tokio::spawn(async move { next(&mut viewer).await });

        while !server.is_watched() {}
        server.say(&["CLIENT", "PAUSE", "60000", "ALL"]);
        let batch = vec![NewEvent::new("event", "2").unwrap()];
        let error = target.store().append(batch).await.unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::TimedOut, "{error:?}");
        assert!(error.may_have_been_stored() && error.is_transient());
        // The client knows by then that the connection is dead, and cannot open another.
        let error = target.store().read(None, PageLimit::default()).await.unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::Unreachable, "{error:?}");
        assert!(!error.may_have_been_stored() && error.is_transient());

        server.say(&["CLIENT", "UNPAUSE"]);
        append(&target, &["3"]).await;
        // The viewer noticed only the delay.
        let mut seen = viewing.await.unwrap();
        let page = target.store().read(None, PageLimit::default()).await.unwrap();
        let stored: Vec<_> = page.events.into_iter().skip(1).map(|event| event.data).collect();
        seen.extend(stored.iter().skip(seen.len()).cloned());
        assert_eq!(seen, stored);
        assert!(stored == ["2", "3"] || stored == ["3"], "{stored:?}");
    }

    async fn a_server_that_hangs_is_noticed_while_nothing_is_asked() {
        let server = Server::forgetful();
        let config = RedisConfig::new()
            .timeout(Duration::from_secs(1))
            .check_interval(Duration::from_millis(100));
        let watching = target(&RedisClient::with_config(&server.url(), config).unwrap());
        let mut viewer = watching.subscribe(Cursor::Latest).await.unwrap();
        let viewing = tokio::spawn(async move { next(&mut viewer).await });
        while !server.is_watched() {}
        let before = server.list();
        server.signal("-STOP");
        // Many times what the client needs to notice it.
        tokio::time::sleep(Duration::from_secs(6)).await;
        server.signal("-CONT");
        // This is a new connection, which announces again.
        append(&target(&client(&server)), &["1"]).await;
        assert_eq!(viewing.await.unwrap(), ["1"]);
        let now = server.list();
        let id = |list: &str| {
            let line = list.lines().find(|line| line.contains(" sub=1 ")).unwrap_or_default();
            line.split(' ').next().unwrap_or_default().to_owned()
        };
        assert_ne!(id(&before), id(&now));
    }

    async fn a_log_that_is_deleted_under_its_viewers_resets_them() {
        let server = Server::forgetful();
        let config = RedisConfig::new().check_interval(Duration::from_millis(50));
        let client = RedisClient::with_config(&server.url(), config).unwrap();
        for how in ["DEL", "FLUSHALL", "DEL of the hash", "DEL of the stream"] {
            let target = target(&client);
            let ids = append(&target, &["1", "2"]).await;
            let mut viewer = target.subscribe(Cursor::Beginning).await.unwrap();
            assert_eq!(next(&mut viewer).await, ["1", "2"]);
            let mut slow = target.subscribe(Cursor::After(ids[0])).await.unwrap();
            let keys = target.store().keys();
            match how {
                "DEL" => server.say(&["DEL", keys[0], keys[1], keys[2]]),
                "FLUSHALL" => server.say(&["FLUSHALL"]),
                "DEL of the hash" => server.say(&["DEL", keys[1]]),
                _ => server.say(&["DEL", keys[0]]),
            };
            if how != "DEL of the stream" {
                // Nobody announces it, and nothing is appended.
                assert_eq!(reset(&mut viewer).await, (Some(ids[1]), None, None), "{how}");
            }
            reset(&mut slow).await;
            let new = append(&target, &["3"]).await;
            assert!(new[0] > ids[1], "{how}: {new:?} after {ids:?}");
            if how == "DEL of the stream" {
                // The ids went on until then, and now begin again.
                let to = (Some(ids[1]), Some(new[0]), Some(new[0]));
                assert_eq!(reset(&mut viewer).await, to);
                assert_eq!(reset(&mut slow).await, to);
            }
            assert_eq!(next(&mut viewer).await, ["3"], "{how}");
            assert_eq!(next(&mut slow).await, ["3"], "{how}");
            server.say(&["FLUSHALL"]);
        }
    }

    async fn a_fact_is_stored_again_with_a_reset_or_not_at_all() {
        let server = Server::forgetful();
        let client = client(&server);
        for (key, lost) in ["stream", "hash", "facts"].into_iter().enumerate() {
            let target = target(&client);
            let ids = append(&target, &["1", "2", "3"]).await;
            target.store().trim(ids[0]).await.unwrap();
            let mut viewer = target.subscribe(Cursor::After(ids[0])).await.unwrap();
            assert_eq!(next(&mut viewer).await, ["2", "3"], "{lost}");
            // An eviction does the same.
            assert_eq!(server.say(&["DEL", target.store().keys()[key]]), ":1");
            let again = || vec![NewEvent::new("event", "2").unwrap().with_key("2").unwrap()];
            let outcome = target.store().append(again()).await.unwrap();
            if lost == "facts" {
                assert_eq!(outcome, [Appended::Duplicate]);
                // Those of its events, and the mark.
                assert_eq!(server.say(&["HLEN", target.store().keys()[2]]), ":3");
                server.say(&["DEL", target.store().keys()[2]]);
                append(&target, &["1", "4"]).await;
                let all = ["2", "3", "1", "4"].map(|key| NewEvent::new("event", key).unwrap().with_key(key).unwrap());
                let outcome = target.store().append(all.into()).await.unwrap();
                assert_eq!(outcome, [Appended::Duplicate; 4]);
                assert_eq!(next(&mut viewer).await, ["1", "4"]);
            } else {
                let [Appended::Stored(new)] = outcome[..] else {
                    panic!("{lost}: {outcome:?}");
                };
                assert!(new > ids[2], "{lost}");
                let to = (Some(ids[2]), Some(new), Some(new));
                assert_eq!(reset(&mut viewer).await, to, "{lost}");
                assert_eq!(next(&mut viewer).await, ["2"], "{lost}");
                // All keys went with their events.
                append(&target, &["3"]).await;
                assert_eq!(next(&mut viewer).await, ["3"], "{lost}");
            }
            server.say(&["FLUSHALL"]);
        }
    }

    async fn facts_that_there_never_were_are_not_missed() {
        let server = Server::forgetful();
        let target = target(&client(&server));
        let event = || vec![NewEvent::new("event", "1").unwrap()];
        target.store().append(event()).await.unwrap();
        let keys = target.store().keys();
        assert_eq!(server.say(&["EXISTS", keys[2]]), ":0");
        append(&target, &["2"]).await;
        target.store().append(event()).await.unwrap();
        assert_eq!(server.say(&["HGET", keys[1], "facts"]), "1");
        let again = vec![NewEvent::new("event", "2").unwrap().with_key("2").unwrap()];
        assert_eq!(target.store().append(again).await.unwrap(), [Appended::Duplicate]);
    }

    async fn a_log_that_is_trimmed_under_a_slow_viewer_resets_it() {
        let server = Server::forgetful();
        let store = RedisEventStore::new(&client(&server), "log").max_events(5);
        let target: Target = SseTarget::new(store);
        append(&target, &["1", "2", "3"]).await;
        let limit = PageLimit { events: 2, ..PageLimit::default() };
        let mut slow = target.subscribe(Cursor::Beginning).await.unwrap().with_page_limit(limit);
        assert_eq!(next(&mut slow).await, ["1", "2"]);
        let data: Vec<String> = (4..=20).map(|number| number.to_string()).collect();
        let ids = append(&target, &data.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let (_, oldest, head) = reset(&mut slow).await;
        assert_eq!((oldest, head), (Some(ids[12]), Some(ids[16])));
        let mut seen = next(&mut slow).await;
        seen.extend(next(&mut slow).await);
        seen.extend(next(&mut slow).await);
        assert_eq!(seen, ["16", "17", "18", "19", "20"]);

        let [events, _, facts] = target.store().keys();
        assert_eq!(server.say(&["XLEN", events]), ":5");
        // The mark is there too.
        assert_eq!(server.say(&["HLEN", facts]), ":6");
        // A key is known as long as its event exists.
        let again = |data: &str| NewEvent::new("event", data).unwrap().with_key(data).unwrap();
        let outcomes = target.store().append(vec![again("20"), again("1")]).await.unwrap();
        assert!(matches!(outcomes[..], [Appended::Duplicate, Appended::Stored(_)]), "{outcomes:?}");
    }

    async fn events_that_are_too_old_are_gone_for_every_reader() {
        let server = Server::forgetful();
        let client = client(&server);
        let forever = target(&client);
        let age = Duration::from_millis(150);
        let store = || RedisEventStore::new(&client, "log").max_age(age);
        let ids = append(&forever, &["1", "2"]).await;
        while !store().read(None, PageLimit::default()).await.unwrap().events.is_empty() {}
        let page = store().read(None, PageLimit::default()).await.unwrap();
        let nothing = Page { head: Some(ids[1]), trimmed: Some(ids[1]), ..Page::default() };
        assert_eq!(page, nothing);
        assert_eq!(store().before(SystemTime::UNIX_EPOCH).await.unwrap(), None);
        let new = append(&forever, &["3"]).await;
        let page = store().read(Some(ids[0]), PageLimit::default()).await.unwrap();
        assert_eq!((page.oldest, page.trimmed), (Some(new[0]), Some(ids[1])));
    }

    async fn logs_expire_when_they_are_finished_or_idle() {
        let server = Server::forgetful();
        let client = client(&server);
        let long = Duration::from_secs(3600);
        let store = RedisEventStore::new(&client, "log").expire_finished(Duration::from_millis(100));
        let [events, meta, facts] = store.keys().map(str::to_owned);
        let left = |key: &str| server.say(&["PTTL", key]);
        let end = || NewEvent::new("end", "").unwrap().with_key("end").unwrap().terminal();
        let event = || NewEvent::new("event", "").unwrap();
        store.append(vec![event()]).await.unwrap();
        assert_eq!([left(&events), left(&meta)], [":-1", ":-1"], "it is not finished");
        store.append(vec![end()]).await.unwrap();
        store.append(vec![event()]).await.unwrap();
        assert_eq!([left(&events), left(&meta), left(&facts)], [":-1"; 3], "it goes on");
        let store = RedisEventStore::new(&client, "log").expire_finished(Duration::from_millis(100));
        store.append(vec![event().terminal()]).await.unwrap();
        while store.read(None, PageLimit::default()).await.unwrap() != Page::default() {}
        assert_eq!([left(&events), left(&meta), left(&facts)], [":-2"; 3]);

        let store = RedisEventStore::new(&client, "log").expire_idle(long);
        store.append(vec![event()]).await.unwrap();
        let milliseconds: u64 = left(&events).trim_start_matches(':').parse().unwrap();
        assert!(milliseconds > 3_500_000, "{milliseconds}");
        assert_ne!(left(&meta), ":-1");
    }

    async fn without_a_server_calls_fail_at_once_and_later_succeed() {
        let port = free_port();
        let client = RedisClient::new(&format!("redis://127.0.0.1:{port}")).unwrap();
        let target = target(&client);
        let error = target.store().append(vec![NewEvent::new("event", "").unwrap()]).await.unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::Unreachable);
        assert!(!error.may_have_been_stored() && error.is_transient());
        assert!(std::error::Error::source(&error).is_some());
        for cursor in [Cursor::Beginning, Cursor::Latest, Cursor::Since(SystemTime::now())] {
            let error = target.subscribe(cursor).await.unwrap_err();
            assert_eq!(error.kind(), RedisErrorKind::Unreachable);
        }
        let _server = Server::on(port, &["--appendonly no"]);
        append(&target, &["1"]).await;
    }

    async fn viewers_break_off_once_no_connection_can_be_opened() {
        let server = Server::forgetful();
        let rations = Rations::of(1);
        // A read would take longer than the test may.
        let config = RedisConfig::new()
            .patience(Duration::from_secs(3600))
            .viewer_patience(Duration::from_millis(50));
        let rationed = Rationed(Arc::clone(&rations));
        let target = target(&RedisClient::over(rationed, &server.url(), config).unwrap());
        let ids = append(&target, &["1"]).await;
        let mut viewer = target.subscribe(Cursor::Beginning).await.unwrap();
        assert_eq!(next(&mut viewer).await, ["1"]);
        // The head is known, so the viewer reads nothing before it waits.
        target.store().changed(None).await.unwrap();
        let error = {
            let mut waiting = pin!(viewer.next());
            assert!(poll!(waiting.as_mut()).is_pending());
            server.kill_connections(<[u64]>::to_vec);
            waiting.await.unwrap_err()
        };
        assert_eq!(error.kind(), RedisErrorKind::Unreachable, "{error:?}");
        assert!(error.is_transient());
        // One that begins to wait only now fails with the next attempt.
        let error = target.store().changed(Some(ids[0])).await.unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::Unreachable, "{error:?}");

        // A new client, as of the next request, may connect.
        let new = self::target(&client(&server));
        append(&new, &["2"]).await;
        let mut back = new.subscribe(viewer.cursor()).await.unwrap();
        assert_eq!(next(&mut back).await, ["2"]);
        // The old one goes on once it may.
        rations.left.fetch_add(1, Ordering::Relaxed);
        append(&target, &["3"]).await;
        assert_eq!(next(&mut viewer).await, ["2", "3"]);
    }

    async fn who_waits_without_a_connection_fails_once_an_attempt() {
        let rations = Rations::of(0);
        let port = free_port();
        let url = format!("redis://127.0.0.1:{port}");
        let client = RedisClient::over(Rationed(Arc::clone(&rations)), &url, RedisConfig::new());
        let store = RedisEventStore::new(&client.unwrap(), "log");
        // There never was a connection, so each attempt fails those who wait. Who calls again at
        // once waits for the next one, and does not spin.
        for number in 1..4 {
            let error = store.changed(None).await.unwrap_err();
            assert_eq!(error.kind(), RedisErrorKind::Unreachable, "{error:?}");
            assert!(rations.attempts.load(Ordering::Relaxed) >= number);
        }
        let _server = Server::on(port, &["--appendonly no"]);
        rations.left.fetch_add(1, Ordering::Relaxed);
        // An attempt may have begun before that.
        while store.changed(EventId::new(1)).await.is_err() {}
    }

    async fn a_user_needs_what_the_documentation_says_and_no_more() {
        let server = Server::with(&["--appendonly no"]);
        let rights = "~ssetarget:* &ssetarget:* +eval +evalsha +hello +ping +select +subscribe \
            +unsubscribe +publish +info +time +@stream +@hash +del +pexpire +persist";
        let user = |name: &str, rights: &str| {
            let rule = format!("ACL SETUSER {name} on >p@ss {rights}");
            let answer = server.say(&rule.split_whitespace().collect::<Vec<_>>());
            assert_eq!(answer, "+OK");
        };
        user("ann", rights);
        user("mute", &rights.replace("&ssetarget:*", ""));
        user("nosy", &rights.replace("~ssetarget:*", "~other:*"));
        server.say(&["CONFIG", "SET", "requirepass", "secret"]);
        let of = |who: &str, path: &str| {
            RedisClient::new(&format!("redis://{who}@127.0.0.1:{}{path}", server.port)).unwrap()
        };

        // The store with every feature, in a database of its own.
        let store = RedisEventStore::new(&of("ann:p%40ss", "/3"), "log")
            .max_events(1)
            .max_age(Duration::from_secs(1000))
            .expire_finished(Duration::from_secs(1000));
        let store: Target = SseTarget::new(store);
        append(&store, &["1", "2", "3"]).await;
        let mut viewer = store.subscribe(Cursor::Since(SystemTime::UNIX_EPOCH)).await.unwrap();
        assert_eq!(next(&mut viewer).await, ["3"]);
        let ((), ids) = tokio::join!(
            async { assert_eq!(next(&mut viewer).await, ["4"]) },
            append(&store, &["4"])
        );
        store.store().trim(ids[0]).await.unwrap();
        assert_eq!(target(&of(":secret", "/3")).store().read(None, PageLimit::default()).await.unwrap().trimmed, Some(ids[0]));
        let elsewhere = target(&of("ann:p%40ss", ""));
        assert_eq!(elsewhere.store().read(None, PageLimit::default()).await.unwrap(), Page::default());

        for (who, code) in [
            ("ann:wrong", "WRONGPASS"),
            (":wrong", "WRONGPASS"),
            ("nosy:p%40ss", "NOPERM"),
        ] {
            let target = target(&of(who, ""));
            let event = NewEvent::new("event", "").unwrap();
            let error = target.store().append(vec![event]).await.unwrap_err();
            assert_refused(&error, code);
        }
        let anonymous = target(&RedisClient::new(&server.url()).unwrap());
        let error = anonymous.store().read(None, PageLimit::default()).await.unwrap_err();
        assert_refused(&error, "NOAUTH");
        // This user may not announce, so nothing is stored.
        let mute = target(&of("mute:p%40ss", ""));
        let event = NewEvent::new("event", "").unwrap();
        let error = mute.store().append(vec![event]).await.unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::Refused);
        assert!(error.to_string().contains("publish"), "{error}");
        assert_eq!(mute.store().read(None, PageLimit::default()).await.unwrap(), Page::default());
        // It does not hear of changes either: its viewers get an error instead of waiting for ever.
        let mut viewer = mute.subscribe(Cursor::Beginning).await.unwrap();
        assert_refused(&viewer.next().await.unwrap_err(), "NOPERM");
    }

    async fn an_append_that_the_server_refuses_stores_nothing() {
        let server = Server::forgetful();
        let store = RedisEventStore::new(&client(&server), "log");
        let event = || vec![NewEvent::new("event", "1").unwrap()];
        server.say(&["SET", store.keys()[1], "something else"]);
        let error = store.append(event()).await.unwrap_err();
        assert_refused(&error, "WRONGTYPE");
        server.say(&["FLUSHALL"]);
        server.say(&["CONFIG", "SET", "maxmemory", "1"]);
        let error = store.append(event()).await.unwrap_err();
        assert_eq!(error.code(), Some("OOM"), "{error}");
        assert!(error.is_transient() && !error.may_have_been_stored());
        // Reads still work.
        assert_eq!(store.read(None, PageLimit::default()).await.unwrap(), Page::default());
        server.say(&["CONFIG", "SET", "maxmemory", "0"]);
        store.append(event()).await.unwrap();
        server.say(&["SCRIPT", "FLUSH"]);
        store.append(event()).await.unwrap();
        assert_eq!(store.read(None, PageLimit::default()).await.unwrap().events.len(), 2);
    }

    async fn something_else_that_listens_there_is_an_error() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        });
        let client = RedisClient::new(&format!("redis://127.0.0.1:{port}")).unwrap();
        let store = RedisEventStore::new(&client, "log");
        let error = store.read(None, PageLimit::default()).await.unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::Unexpected, "{error:?}");
        assert!(!error.is_transient());
    }

    async fn outside_of_a_runtime_there_is_no_client() {
        let made = std::thread::spawn(|| RedisClient::new("redis://localhost").map(drop));
        let error = made.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::Config);
    }
}

type Target = SseTarget<NewEvent, RedisEventStore>;

/// A transport that may open a number of connections, as that of a Worker for one request.
struct Rationed(Arc<Rations>);

#[derive(Default)]
struct Rations {
    left: AtomicUsize,
    attempts: AtomicUsize,
}

impl Rations {
    fn of(left: usize) -> Arc<Self> {
        let left = AtomicUsize::new(left);
        Arc::new(Self {
            left,
            ..Self::default()
        })
    }
}

impl RedisTransport for Rationed {
    type Connection = TcpStream;

    async fn connect(&self, server: &RedisServer) -> io::Result<TcpStream> {
        let one_less = |left: usize| left.checked_sub(1);
        self.0.attempts.fetch_add(1, Ordering::Relaxed);
        self.0
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .map_err(|_| io::Error::other("too many subrequests"))?;
        TcpStream::connect((server.host(), server.port())).await
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(duration)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        tokio::spawn(task);
        Ok(())
    }

    fn random(&self) -> u64 {
        0
    }
}

fn client(server: &Server) -> RedisClient {
    // The patience is long, for slow machines.
    let config = RedisConfig::new().patience(Duration::from_secs(60));
    RedisClient::with_config(&server.url(), config).unwrap()
}

fn target(client: &RedisClient) -> Target {
    SseTarget::new(RedisEventStore::new(client, "log"))
}

/// Appends one event after another with this data, which is also its key.
async fn append(target: &Target, data: &[&str]) -> Vec<EventId> {
    let event = |data: &&str| {
        NewEvent::new("event", *data)
            .unwrap()
            .with_key(*data)
            .unwrap()
    };
    let batch = data.iter().map(event).collect();
    let outcomes = target.store().append(batch).await.unwrap();
    let id = |outcome| match outcome {
        Appended::Stored(id) => id,
        Appended::Duplicate => panic!("a duplicate among {data:?}"),
    };
    outcomes.into_iter().map(id).collect()
}

async fn next(viewer: &mut Subscription<RedisEventStore>) -> Vec<String> {
    match viewer.next().await.unwrap() {
        Some(Batch::Events(events)) => events.into_iter().map(|event| event.data).collect(),
        other => panic!("{other:?} and no events"),
    }
}

/// Reads the reset of a viewer: the requested position, the oldest event and the head.
async fn reset(
    viewer: &mut Subscription<RedisEventStore>,
) -> (Option<EventId>, Option<EventId>, Option<EventId>) {
    match viewer.next().await.unwrap() {
        Some(Batch::Reset(reset)) => (reset.requested, reset.oldest, reset.head),
        other => panic!("{other:?} and no reset"),
    }
}

fn assert_refused(error: &RedisError, code: &str) {
    assert_eq!(error.kind(), RedisErrorKind::Refused, "{error:?}");
    assert_eq!(error.code(), Some(code), "{error}");
    assert!(!error.may_have_been_stored() && !error.is_transient());
}

impl Server {
    /// Lists this crate's connections.
    fn list(&self) -> String {
        let list = self.say(&["CLIENT", "LIST"]);
        let own = list.lines().filter(|line| line.contains("name=ssetarget"));
        own.collect::<Vec<_>>().join("\n")
    }

    /// Returns whether a viewer waits: it asks for the head once changes are announced.
    fn is_watched(&self) -> bool {
        let list = self.list();
        list.contains(" sub=1 ")
            && ["evalsha", "hget"]
                .iter()
                .any(|name| list.contains(&format!(" cmd={name} ")))
    }

    fn signal(&self, signal: &str) {
        let id = self.process().to_string();
        let status = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(status.success());
    }
}
