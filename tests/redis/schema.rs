//! Logs that released versions of this crate stored in Redis are opened and gone on with: see `tests/fixtures/README.md`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use ssetarget::store::Retention;
use ssetarget::store::redis::{RedisClient, RedisEventStore};
use ssetarget::{Appended, Cursor, EventStore, NewEvent, PageLimit, SseTarget};

use crate::harness::tests;
use crate::server::Server;

const NAME: &str = "fixture";
const LINES: &str = "one\r\ntwo\n";

tests! {
    // As the one of SQLite in `tests/schemas.rs`: a fixture of the new schema, and a migration of the old one.
    async fn the_newest_fixture_has_the_shape_of_what_is_written_today() {
        let server = Server::forgetful();
        let log = log(&server);
        for number in 1..=5 {
            let event = NewEvent::new("count", format!("{number} {LINES}")).unwrap();
            let event = if number % 2 == 0 { event } else { event.with_key(format!("count {number}")).unwrap() };
            let event = if number == 5 { event.terminal() } else { event };
            log.append(vec![event]).await.unwrap();
        }
        let written = dump(&server, log.keys());
        if let Ok(number) = std::env::var("FIXTURES") {
            let text = serde_json::to_string_pretty(&written).unwrap() + "\n";
            std::fs::write(folder().join(format!("redis-{number}.json")), text).unwrap();
        }
        let (_, newest) = fixtures().pop().unwrap();
        assert_eq!(shape(&written), shape(&newest), "a log is stored otherwise: see tests/fixtures/README.md");
    }

    async fn a_log_of_each_schema_is_gone_on_with() {
        for (path, fixture) in fixtures() {
            println!("{}", path.display());
            let server = Server::forgetful();
            let log = log(&server);
            restore(&server, log.keys(), &fixture);
            let page = log.read(None, PageLimit::default()).await.unwrap();
            let data: Vec<_> = page.events.iter().map(|event| event.data.clone()).collect();
            assert_eq!(data, [3, 4, 5].map(|number| format!("{number} {LINES}")));
            assert!(page.closed && page.trimmed < page.oldest && page.trimmed.is_some());
            let ids: Vec<_> = page.events.iter().map(|event| event.id).collect();

            // Facts that are there are not stored again, and what is new comes behind all others.
            let facts = ["count 3", "count 5", "count 6"].map(|key| {
                NewEvent::new("count", "6").unwrap().with_key(key).unwrap()
            });
            let appended = log.append(facts.to_vec()).await.unwrap();
            let [Appended::Duplicate, Appended::Duplicate, Appended::Stored(new)] = appended[..] else {
                panic!("{appended:?}");
            };
            assert!(new > ids[2]);

            // A viewer that was there before resumes, and one whose position was removed is reset.
            let resumed = log.read(Some(ids[1]), PageLimit::default()).await.unwrap();
            let rest: Vec<_> = resumed.events.iter().map(|event| event.id).collect();
            assert_eq!(rest, [ids[2], new]);
            assert!(!resumed.closed && resumed.trimmed <= Some(ids[1]));
            let target: SseTarget<NewEvent, _> = SseTarget::new(log);
            let mut late = target.subscribe(Cursor::Beginning).await.unwrap();
            let batch = late.next().await.unwrap();
            assert!(matches!(batch, Some(ssetarget::Batch::Events(events)) if events.len() == 3));
            target.store().clear().await.unwrap();
            let page = target.store().read(None, PageLimit::default()).await.unwrap();
            assert_eq!((page.oldest, page.head), (None, Some(new)));
        }
    }
}

fn log(server: &Server) -> RedisEventStore {
    let client = RedisClient::new(&server.url()).unwrap();
    RedisEventStore::new(&client, NAME).retention(Retention::for_ever().max_events(3))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Returns the fixtures, the newest last.
fn fixtures() -> Vec<(PathBuf, Value)> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(folder())
        .unwrap()
        .filter_map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name()?.to_str()?.to_owned();
            let number = name.strip_prefix("redis-")?.strip_suffix(".json")?;
            Some((number.parse().ok()?, path))
        })
        .collect();
    found.sort();
    assert!(!found.is_empty(), "there is no fixture of Redis");
    let read = |(_, path): (u32, PathBuf)| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path, serde_json::from_str(&text).unwrap())
    };
    found.into_iter().map(read).collect()
}

/// Returns what the keys have: the entries of the stream, and the fields of the two hashes.
fn dump(server: &Server, keys: [&str; 3]) -> Value {
    let [events, meta, facts] = keys;
    let ask = |command: &str, key: &str| -> Value {
        // The mark among the facts is no text.
        let script =
            format!(r"return (string.gsub(cjson.encode(redis.call({command})), '\255', '<FF>'))");
        let json = server.say(&["EVAL", &script, "1", key]);
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
    };
    let hash = |key: &str| {
        let fields = ask("'HGETALL', KEYS[1]", key);
        let fields = words(&fields);
        let mut pairs: Vec<_> = fields.chunks(2).map(<[String]>::to_vec).collect();
        pairs.sort();
        pairs
    };
    serde_json::json!({
        "events": ask("'XRANGE', KEYS[1], '-', '+'", events),
        "meta": hash(meta),
        "facts": hash(facts),
    })
}

fn restore(server: &Server, [events, meta, facts]: [&str; 3], fixture: &Value) {
    for entry in fixture["events"].as_array().unwrap() {
        let id = entry[0].as_str().unwrap();
        let fields = words(&entry[1]);
        let fields = fields.iter().map(String::as_str);
        let command: Vec<_> = ["XADD", events, id].into_iter().chain(fields).collect();
        assert_eq!(server.say(&command), id);
    }
    for (key, pairs) in [(meta, &fixture["meta"]), (facts, &fixture["facts"])] {
        for pair in pairs.as_array().unwrap() {
            let pair = words(pair);
            let script = r"return redis.call('HSET', KEYS[1], (string.gsub(ARGV[1], '<FF>', '\255')), ARGV[2])";
            let set = server.say(&["EVAL", script, "1", key, &pair[0], &pair[1]]);
            assert_eq!(set, ":1");
        }
    }
}

fn words(list: &Value) -> Vec<String> {
    let words = list.as_array().unwrap().iter();
    words
        .map(|word| word.as_str().unwrap().to_owned())
        .collect()
}

/// Returns a dump without what is another each time: ids, times, and names of servers and appends.
fn shape(dump: &Value) -> String {
    let events: Vec<_> = dump["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| words(&entry[1]))
        .collect();
    let values = |pairs: &Value| -> Vec<(String, String)> {
        let pairs = pairs.as_array().unwrap().iter().map(words);
        pairs
            .map(|pair| (pair[0].clone(), kinds(&pair[1])))
            .collect()
    };
    format!(
        "{events:?} {:?} {:?}",
        values(&dump["meta"]),
        values(&dump["facts"])
    )
}

/// Returns the words of a text as kinds: numbers, names, and what is between.
fn kinds(text: &str) -> String {
    let mut out = String::new();
    for part in text.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric()) {
        let word = part.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
        let between = &part[word.len()..];
        if word.len() > 8 {
            let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
            out += if is_number { "<number>" } else { "<name>" };
        } else {
            out += word;
        }
        out += between;
    }
    out
}
