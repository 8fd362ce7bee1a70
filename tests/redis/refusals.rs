//! Servers that lack a command, or do not permit it to the user: a log is whole whatever is
//! refused.

use std::time::Duration;

use ssetarget::store::redis::{RedisClient, RedisError, RedisErrorKind, RedisEventStore};
use ssetarget::{Appended, Cursor, EventId, EventStore, NewEvent, Page, PageLimit, SseTarget};

use crate::harness::tests;
use crate::server::Server;

/// The commands that an append may use besides reading.
const WRITES: [&str; 8] = [
    "publish", "hset", "del", "xadd", "xtrim", "hdel", "pexpire", "persist",
];

tests! {
    async fn a_server_that_cannot_trim_says_so_before_anything_is_stored() {
        let server = Server::with(&["--appendonly no", "--rename-command XTRIM GONE"]);
        let client = RedisClient::new(&server.url()).unwrap();
        let store = RedisEventStore::new(&client, "log").max_events(3);
        for _ in 0..3 {
            let error = store.append(event("1")).await.unwrap_err();
            assert_refused(&error, "XTRIM");
            assert_eq!(read(&store).await, Page::default());
            assert_eq!(server.say(&["DBSIZE"]), ":0");
        }
        // Stores that keep everything do not need the command, and neither do readers.
        let store = RedisEventStore::new(&client, "log");
        let ids: Vec<_> = [stored(&store, "1").await, stored(&store, "2").await].into();
        let error = store.trim(ids[0]).await.unwrap_err();
        assert_refused(&error, "XTRIM");
        assert_eq!(ids_of(&read(&store).await), ids);
        let again = store.append(event("1")).await.unwrap();
        assert_eq!(again, [Appended::Duplicate]);
        let store = RedisEventStore::new(&client, "log").max_age(Duration::from_millis(1));
        while !read(&store).await.events.is_empty() {}
        assert_eq!(read(&store).await.trimmed, Some(ids[1]));
    }

    async fn an_append_that_is_refused_leaves_the_log_as_it_was() {
        let server = Server::forgetful();
        for command in WRITES {
            for is_new in [true, false] {
                server.say(&["FLUSHALL"]);
                let rule = ["ACL", "SETUSER", "ann", "reset", "on", ">p", "~*", "&*", "+@all"];
                server.say(&rule);
                let store = as_user(&server, "ann");
                let mut ids = Vec::new();
                if !is_new {
                    for data in ["1", "2", "3"] {
                        ids.push(stored(&store, data).await);
                    }
                }
                let before = read(&store).await;
                assert_eq!(server.say(&["ACL", "SETUSER", "ann", &format!("-{command}")]), "+OK");
                let mut refused = 0;
                for number in 4..10 {
                    let data = number.to_string();
                    match store.append(event(&data)).await {
                        Ok(outcomes) => match outcomes[..] {
                            [Appended::Stored(id)] => ids.push(id),
                            _ => panic!("{command}: {outcomes:?}"),
                        },
                        Err(error) => {
                            refused += 1;
                            let is_rest = command == "publish" && error.to_string().contains("channel");
                            if !is_rest {
                                assert_refused(&error, &command.to_uppercase());
                            }
                        }
                    }
                }
                let page = read(&as_user(&server, "default")).await;
                let kept: Vec<_> = ids.iter().copied().skip(ids.len().saturating_sub(3)).collect();
                assert_eq!(ids_of(&page), kept, "without {command}");
                assert!(ids.is_sorted_by(|a, b| a < b), "without {command}: {ids:?}");
                if is_new {
                    assert_eq!(refused, 6, "{command} is not needed");
                    assert_eq!(page, Page::default(), "without {command}");
                    let left = server.say(&["DBSIZE"]);
                    // A user who may not delete leaves a hash without meaning.
                    assert!(left == ":0" || command == "del", "without {command}: {left} keys");
                } else if refused == 6 {
                    assert_eq!(page, before, "without {command}");
                } else {
                    // These do not concern events, and ran when the log began.
                    assert!(["del", "pexpire", "persist"].contains(&command), "{command}: {refused}");
                    assert_eq!(refused, 0, "{command}");
                }
            }
        }
    }

    async fn a_server_that_takes_no_writes_for_a_while_says_so_and_keeps_the_log() {
        let server = Server::forgetful();
        let store = as_user(&server, "default");
        for is_new in [true, false] {
            let ids = if is_new { Vec::new() } else { vec![stored(&store, "1").await] };
            for (option, value, code) in [
                ("min-replicas-to-write", "1", "NOREPLICAS"),
                ("maxmemory", "1", "OOM"),
            ] {
                server.say(&["CONFIG", "SET", option, value]);
                let error = store.append(event("2")).await.unwrap_err();
                assert_eq!(error.code(), Some(code), "{error}");
                assert!(error.is_transient() && !error.may_have_been_stored());
                assert_eq!(ids_of(&read(&store).await), ids, "{code}");
                server.say(&["CONFIG", "SET", option, "0"]);
            }
        }
        // Reads free memory when it is full.
        let ids = [stored(&store, "2").await, stored(&store, "3").await];
        server.say(&["CONFIG", "SET", "maxmemory", "1"]);
        store.trim(ids[0]).await.unwrap();
        assert_eq!(ids_of(&read(&store).await), ids[1..]);
        assert_eq!(server.say(&["XLEN", store.keys()[0]]), ":1");
        let client = RedisClient::new(&server.url()).unwrap();
        let aging = RedisEventStore::new(&client, "log").max_age(Duration::from_millis(1));
        while !read(&aging).await.events.is_empty() {}
        assert_eq!(server.say(&["XLEN", store.keys()[0]]), ":0");
        // Only the mark is left.
        assert_eq!(server.say(&["HLEN", store.keys()[2]]), ":1");
        assert_eq!(read(&store).await.trimmed, Some(ids[1]));
    }

    async fn keys_of_another_type_are_left_as_they_are() {
        let server = Server::forgetful();
        let store = as_user(&server, "default");
        for key in store.keys() {
            server.say(&["FLUSHALL"]);
            server.say(&["SET", key, "something else"]);
            let error = store.append(event("1")).await.unwrap_err();
            assert_eq!(error.code(), Some("WRONGTYPE"), "{key}: {error}");
            assert!(!error.may_have_been_stored());
            assert_eq!(server.say(&["GET", key]), "something else");
            assert_eq!(server.say(&["DBSIZE"]), ":1", "{key}");
        }
    }

    async fn ids_that_were_given_away_are_not_given_again() {
        let server = Server::forgetful();
        let store = as_user(&server, "default");
        let first = stored(&store, "1").await;
        // The entry of an append that did not complete.
        let entry = format!("{}-1", first.get() + 1);
        server.say(&["XADD", store.keys()[0], &entry, "type", "event", "data", "2"]);
        assert_eq!(ids_of(&read(&store).await), [first], "it was not acknowledged");
        let next = stored(&store, "3").await;
        assert_eq!(next.get(), first.get() + 2);
        let data: Vec<_> = read(&store).await.events.into_iter().map(|event| event.data).collect();
        assert_eq!(data, ["1", "2", "3"]);
    }

    async fn a_server_without_resp3_is_an_error_that_says_what_is_needed() {
        // A server before version 6.0.
        let server = Server::with(&["--appendonly no", "--rename-command HELLO GONE"]);
        let client = RedisClient::new(&server.url()).unwrap();
        let store = RedisEventStore::new(&client, "log");
        let error = store.append(event("1")).await.unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("Redis 6.0"), "{error}");
        assert!(!error.is_transient() && !error.may_have_been_stored());
        let target: SseTarget<NewEvent, _> = SseTarget::new(store);
        let error = target.subscribe(Cursor::Latest).await.unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::Unsupported, "{error}");
    }
}

/// Opens a store with all limits.
fn as_user(server: &Server, name: &str) -> RedisEventStore {
    let url = format!("redis://{name}:p@127.0.0.1:{}", server.port);
    let url = if name == "default" { server.url() } else { url };
    let hour = Duration::from_secs(3600);
    RedisEventStore::new(&RedisClient::new(&url).unwrap(), "log")
        .max_events(3)
        .max_age(hour)
        .expire_finished(hour)
}

fn event(data: &str) -> Vec<NewEvent> {
    let event = NewEvent::new("event", data).unwrap();
    vec![event.with_key(data).unwrap()]
}

async fn stored(store: &RedisEventStore, data: &str) -> EventId {
    match store.append(event(data)).await.unwrap()[..] {
        [Appended::Stored(id)] => id,
        _ => panic!("{data} is not new"),
    }
}

async fn read(store: &RedisEventStore) -> Page {
    store.read(None, PageLimit::default()).await.unwrap()
}

fn ids_of(page: &Page) -> Vec<EventId> {
    page.events.iter().map(|event| event.id).collect()
}

fn assert_refused(error: &RedisError, command: &str) {
    assert_eq!(error.kind(), RedisErrorKind::Refused, "{error:?}");
    assert!(!error.may_have_been_stored() && !error.is_transient());
    assert!(error.to_string().contains(command), "{error}");
}
