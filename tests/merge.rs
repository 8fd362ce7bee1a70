//! Several logs as one stream: each log's events once and in order, however often the client is cut off.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::collections::BTreeMap;

use futures_executor::block_on;
use futures_util::poll;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;
use ssetarget::{
    Cursor, EventStore, MAX_MERGED, MemoryEventStore, MergeError, MergedCursor, MergedSubscription,
    NewEvent, SqliteEventStore, SseTarget,
};
use std::pin::pin;
use std::task::Poll;
use support::sql::Database;
use support::sse::{Message, SseReader};

type Target<S> = SseTarget<NewEvent, S>;

fn name(index: usize) -> String {
    format!("run-{index}")
}

/// The events of a client of a merged stream, over all of its connections.
struct Client<S: EventStore> {
    logs: Vec<(String, Target<S>)>,
    from: Cursor,
    merged: Option<MergedSubscription<S>>,
    reader: SseReader,
    got: BTreeMap<String, Vec<Message>>,
}

impl<S: EventStore<Error: std::fmt::Debug> + 'static> Client<S> {
    fn new(logs: &[Target<S>], from: Cursor) -> Self {
        let logs = logs.iter().enumerate();
        Self {
            logs: logs
                .map(|(index, log)| (name(index), log.clone()))
                .collect(),
            from,
            merged: None,
            reader: SseReader::default(),
            got: BTreeMap::new(),
        }
    }

    /// Connects with the last id that it has.
    async fn connect(&mut self) {
        let cursor: MergedCursor = match self.reader.last_event_id() {
            "" => MergedCursor::default(),
            id => id.parse().unwrap(),
        };
        let merged = MergedSubscription::start(self.logs.clone(), cursor, self.from).await;
        self.merged = Some(merged.unwrap());
    }

    /// Takes the available chunks, at most `chunks` of them, and of the last one only this many 256ths if it is
    /// `cut`.
    async fn take(&mut self, chunks: usize, cut: Option<u8>) {
        if self.merged.is_none() {
            self.connect().await;
        }
        for left in (0..chunks).rev() {
            let merged = self.merged.as_mut().unwrap();
            let Poll::Ready(bytes) = poll!(pin!(merged.next())) else {
                break;
            };
            let Some(bytes) = bytes.unwrap() else {
                break;
            };
            let whole = left > 0 || cut.is_none();
            let taken = if whole {
                bytes.len()
            } else {
                bytes.len() * usize::from(cut.unwrap_or_default()) / 256
            };
            for message in self.reader.feed(&bytes[..taken]) {
                let data: Value = serde_json::from_str(&message.data).unwrap();
                let run = data["runId"].as_str().unwrap().to_owned();
                self.got.entry(run).or_default().push(message);
            }
        }
        if cut.is_some() {
            self.merged = None;
            let id = self.reader.last_event_id().to_owned();
            self.reader = SseReader::resumed(&id);
        }
    }
}

fn event(number: usize) -> NewEvent {
    NewEvent::new("e", format!(r#"{{"n":{number}}}"#)).unwrap()
}

fn numbers(messages: Option<&Vec<Message>>) -> Vec<u64> {
    let messages = messages.map(Vec::as_slice).unwrap_or_default();
    let read = |message: &Message| {
        let data: Value = serde_json::from_str(&message.data).unwrap();
        data["n"].as_u64()
    };
    messages.iter().filter_map(read).collect()
}

#[derive(Clone, Debug)]
enum Op {
    Append {
        log: usize,
        events: usize,
        ends: bool,
    },
    Take {
        chunks: usize,
        cut: Option<u8>,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..4_usize, 1..5_usize, proptest::bool::weighted(0.1))
            .prop_map(|(log, events, ends)| Op::Append { log, events, ends }),
        2 => (1..6_usize, proptest::option::of(any::<u8>()))
            .prop_map(|(chunks, cut)| Op::Take { chunks, cut }),
    ]
}

/// Plays the actions, and returns what was appended to each log and what the client got of it.
async fn play<S: EventStore<Error: std::fmt::Debug> + 'static>(
    logs: Vec<Target<S>>,
    ops: Vec<Op>,
) -> Result<(), TestCaseError> {
    let mut client = Client::new(&logs, Cursor::Beginning);
    let mut appended = vec![Vec::new(); logs.len()];
    let mut ended = vec![false; logs.len()];
    let mut number = 0;
    for op in ops {
        match op {
            Op::Append { log, .. } if ended[log] => {}
            Op::Append { log, events, ends } => {
                let mut batch = Vec::new();
                for _ in 0..events {
                    number += 1;
                    appended[log].push(number as u64);
                    batch.push(event(number));
                }
                if ends {
                    let last = batch.pop().unwrap();
                    batch.push(last.terminal());
                    ended[log] = true;
                }
                logs[log].dispatch_encoded(batch).await.unwrap();
            }
            Op::Take { chunks, cut } => client.take(chunks, cut).await,
        }
    }
    for (log, target) in logs.iter().enumerate() {
        if !ended[log] {
            appended[log].push(0);
            target
                .dispatch_encoded(vec![event(0).terminal()])
                .await
                .unwrap();
        }
    }
    client.take(usize::MAX, None).await;
    client.merged = None;
    client.connect().await;
    prop_assert!(
        client.merged.as_ref().unwrap().has_ended(),
        "it comes back, and all is over"
    );
    for (log, appended) in appended.iter().enumerate() {
        prop_assert_eq!(
            &numbers(client.got.get(&name(log))),
            appended,
            "log {}",
            log
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_event_of_every_log_comes_once_and_in_order(ops in vec(op(), 1..50)) {
        let logs = (0..4).map(|_| SseTarget::new(MemoryEventStore::new())).collect();
        block_on(play(logs, ops))?;
    }

    #[test]
    fn the_same_over_sqlite(ops in vec(op(), 1..50)) {
        let logs = (0..4).map(|_| SseTarget::new(SqliteEventStore::new(Database::in_memory()))).collect();
        block_on(play(logs, ops))?;
    }

    #[test]
    fn a_position_of_a_client_is_read_or_refused(text in "m1(\\.[0-9a-v]{1,20}){0,3}|\\PC{0,40}") {
        if let Ok(cursor) = text.parse::<MergedCursor>() {
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }
}

#[test]
fn an_event_is_as_in_its_own_log_but_for_its_id_and_run_id() {
    block_on(async {
        let logs = [
            Target::new(MemoryEventStore::new()),
            Target::new(MemoryEventStore::new()),
        ];
        let text = NewEvent::new("said", "two\nlines").unwrap();
        logs[0]
            .dispatch_encoded(vec![event(1), text])
            .await
            .unwrap();
        let mut client = Client::new(&logs, Cursor::Beginning);
        client.take(1, None).await;
        let got = &client.got["run-0"];
        assert_eq!(got[0].event_type, "e");
        assert_eq!(got[0].data, r#"{"runId":"run-0","n":1}"#);
        assert_eq!(got[1].event_type, "said");
        assert_eq!(got[1].data, r#"{"runId":"run-0","data":"two\nlines"}"#);
        assert_ne!(got[0].id, got[1].id);
    });
}

#[test]
fn a_reset_of_one_log_leaves_the_others_alone() {
    block_on(async {
        let store = MemoryEventStore::new().max_events(3);
        let logs = [Target::new(store), Target::new(MemoryEventStore::new())];
        for log in &logs {
            log.dispatch_encoded((1..=3).map(event).collect())
                .await
                .unwrap();
        }
        let mut client = Client::new(&logs, Cursor::Beginning);
        client.take(usize::MAX, Some(0)).await;
        // The client has all of both. While it is away, one log loses events that it has not seen.
        for log in &logs {
            log.dispatch_encoded((4..=9).map(event).collect())
                .await
                .unwrap();
        }
        client.take(usize::MAX, None).await;
        assert_eq!(
            numbers(client.got.get("run-1")),
            (1..=9).collect::<Vec<_>>()
        );
        let other = &client.got["run-0"];
        let resets: Vec<_> = other
            .iter()
            .filter(|message| message.event_type == "reset")
            .collect();
        assert_eq!(resets.len(), 1);
        let data: Value = serde_json::from_str(&resets[0].data).unwrap();
        assert_eq!(
            data,
            serde_json::json!({"runId": "run-0", "requested": 3, "oldest": 7, "head": 9})
        );
        assert_eq!(numbers(client.got.get("run-0")), [1, 2, 3, 7, 8, 9]);
    });
}

#[test]
fn a_client_of_the_tail_misses_nothing_from_then_on() {
    block_on(async {
        let logs = [
            Target::new(MemoryEventStore::new()),
            Target::new(MemoryEventStore::new()),
        ];
        logs[0].dispatch_encoded(vec![event(1)]).await.unwrap();
        let mut client = Client::new(&logs, Cursor::Latest);
        // Cut off after the line with the position, before any event.
        client.take(1, None).await;
        client.take(1, Some(0)).await;
        for log in &logs {
            log.dispatch_encoded(vec![event(2)]).await.unwrap();
        }
        client.take(usize::MAX, None).await;
        assert_eq!(numbers(client.got.get("run-0")), [2]);
        assert_eq!(numbers(client.got.get("run-1")), [2]);
    });
}

#[test]
fn a_client_may_come_back_for_other_logs() {
    block_on(async {
        let logs: Vec<_> = (0..3)
            .map(|_| Target::new(MemoryEventStore::new()))
            .collect();
        for log in &logs {
            log.dispatch_encoded(vec![event(1), event(2)])
                .await
                .unwrap();
        }
        let mut client = Client::new(&logs[..2], Cursor::Beginning);
        client.take(2, Some(0)).await;
        client.take(usize::MAX, Some(0)).await;
        // Without the first, with a third, and in another order.
        client.logs = vec![(name(2), logs[2].clone()), (name(1), logs[1].clone())];
        client.take(usize::MAX, None).await;
        assert_eq!(numbers(client.got.get("run-1")), [1, 2]);
        assert_eq!(numbers(client.got.get("run-2")), [1, 2]);
    });
}

#[test]
fn too_many_logs_and_repeated_ones_are_refused() {
    block_on(async {
        let log = |index| (name(index), Target::new(MemoryEventStore::new()));
        let start = async |logs| {
            let merged =
                MergedSubscription::start(logs, MergedCursor::default(), Cursor::Beginning);
            merged.await.map(drop).unwrap_err().to_string()
        };
        let many = (0..=MAX_MERGED).map(log).collect();
        assert_eq!(
            start(many).await,
            "65 runs are too many for one stream: name up to 64"
        );
        assert_eq!(
            start(vec![log(1), log(1)]).await,
            "the run run-1 is named twice"
        );
        assert!(start(vec![]).await.starts_with("name at least one run"));
        let most = (0..MAX_MERGED).map(log).collect();
        let merged = MergedSubscription::start(most, MergedCursor::default(), Cursor::Beginning);
        assert!(!matches!(merged.await, Err(MergeError::Number(_))));
    });
}

#[test]
fn a_page_is_smaller_the_more_logs_there_are() {
    block_on(async {
        let logs: Vec<_> = (0..64)
            .map(|_| Target::new(MemoryEventStore::new()))
            .collect();
        let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(10_000));
        for log in &logs {
            let batch = (0..20).map(|_| NewEvent::new("e", &*large).unwrap());
            log.dispatch_encoded(batch.collect()).await.unwrap();
        }
        let named = logs
            .iter()
            .enumerate()
            .map(|(index, log)| (name(index), log.clone()));
        let mut merged =
            MergedSubscription::start(named.collect(), MergedCursor::default(), Cursor::Beginning)
                .await
                .unwrap();
        let mut events = 0;
        while let Poll::Ready(bytes) = poll!(pin!(merged.next())) {
            let bytes = bytes.unwrap().unwrap();
            assert!(bytes.len() < 30_000, "{}", bytes.len());
            events += String::from_utf8(bytes)
                .unwrap()
                .matches("event: e\n")
                .count();
        }
        assert_eq!(events, 64 * 20);
    });
}
