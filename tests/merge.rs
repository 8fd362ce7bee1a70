//! Several logs as one stream: each log's events once and in order, however often the client is cut off.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::collections::BTreeMap;

use futures_executor::block_on;
use futures_util::poll;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use ssetarget::internals::{Joins, ListFilter, Listed, Members, RunIndex, RunReport, TagCursor};
use ssetarget::{
    Batch, Cursor, EventId, EventStore, MAX_MERGED, MemoryEventStore, MergeError, MergedCursor,
    MergedSubscription, NewEvent, SqliteEventStore, SseTarget, Subscription,
};
use std::pin::pin;
use std::task::Poll;
use std::time::SystemTime;
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

/// Runs that have a tag: their logs, and its index, which is told now and then.
struct Tagged {
    index: RunIndex<Database>,
    runs: Vec<TaggedRun>,
}

struct TaggedRun {
    log: Target<MemoryEventStore>,
    head: u64,
    number: u32,
    from: u64,
    ended: bool,
    /// Nothing can be read of it any more.
    deleted: bool,
    /// The client's link is not good for it any more.
    revoked: bool,
}

impl TaggedRun {
    /// Returns whether it is not found. Of a revoked one the object does not say so.
    fn is_gone(&self) -> bool {
        self.deleted && !self.revoked
    }
}

impl Tagged {
    fn new() -> Self {
        Self {
            index: RunIndex::new(Database::in_memory()),
            runs: Vec::new(),
        }
    }

    async fn begin(&mut self) {
        let log = Target::new(MemoryEventStore::new());
        self.runs.push(TaggedRun {
            log,
            head: 0,
            number: 1,
            from: 0,
            ended: false,
            deleted: false,
            revoked: false,
        });
        let run = self.runs.len() - 1;
        self.append(run, 1, false).await;
        self.report(run);
    }

    async fn append(&mut self, run: usize, events: u64, ends: bool) {
        let run = &mut self.runs[run];
        for number in 1..=events {
            let next = NewEvent::new("e", "{}").unwrap();
            let is_last = number == events && ends;
            let next = if is_last { next.terminal() } else { next };
            run.log.dispatch_encoded(vec![next]).await.unwrap();
            run.head += 1;
        }
        run.ended = ends;
    }

    async fn restart(&mut self, run: usize) {
        // The end of a run is told before the next one begins. Of a run of which the index was told nothing at all, as when it
        // was out of reach all the time, only the next one is found.
        self.report(run);
        let of = &mut self.runs[run];
        (of.number, of.from) = (of.number + 1, of.head);
        self.append(run, 1, false).await;
    }

    fn run(&self, run: &str) -> &TaggedRun {
        let number = (0..self.runs.len()).find(|number| name(*number) == run);
        &self.runs[number.unwrap()]
    }

    /// Tells the index how the run stands.
    fn report(&self, number: usize) {
        let run = &self.runs[number];
        let state = if run.ended { "completed" } else { "running" };
        let id = name(number);
        let began = u64::from(run.number);
        if run.deleted {
            let report = json!({ "id": id, "version": run.head * 2 + 1, "began": began });
            let report: RunReport = serde_json::from_value(report).unwrap();
            self.index.take(&report, SystemTime::UNIX_EPOCH).unwrap();
            return;
        }
        let entry = json!({ "id": id, "workflow": "w", "run": run.number, "from": run.from, "cursor": run.head, "state": state });
        let report = json!({ "id": id, "version": run.head * 2, "began": began, "entry": entry });
        let report: RunReport = serde_json::from_value(report).unwrap();
        self.index.take(&report, SystemTime::UNIX_EPOCH).unwrap();
    }
}

/// A client of the stream of the tag, and the stream while it is open.
struct TagClient {
    most: usize,
    id: Option<String>,
    got: BTreeMap<String, Vec<u64>>,
    stream: Option<TagStream>,
}

struct TagStream {
    members: Members,
    changes: Subscription<SqliteEventStore<Database>>,
    reads: Vec<(String, Subscription<MemoryEventStore>)>,
}

impl TagClient {
    async fn connect(&mut self, tagged: &Tagged) {
        let known: Option<TagCursor> = self.id.as_ref().map(|id| id.parse().unwrap());
        let filter = ListFilter::parse(Some("state=running&limit=500")).unwrap();
        let page = tagged.index.list(&filter, SystemTime::UNIX_EPOCH).unwrap();
        let page: Value = serde_json::from_str(&page).unwrap();
        let listed: Vec<Listed> = serde_json::from_value(page["runs"].clone()).unwrap();
        let head = page["cursor"].as_u64().unwrap_or_default();
        let start = Cursor::Beginning;
        let (members, joins) = Members::open(listed, head, known, start, self.most);
        let told = EventId::new(members.told());
        let from = told.map_or(Cursor::Beginning, Cursor::After);
        let changes = tagged.index.target().subscribe(from).await.unwrap();
        let mut stream = TagStream {
            members,
            changes,
            reads: Vec::new(),
        };
        stream.join(tagged, joins).await;
        self.id = Some(stream.members.cursor().to_string());
        self.stream = Some(stream);
    }

    /// Reads what is there of a source: the changes, or a run. Takes of its events so many 256ths, and leaves, if it is
    /// `cut`. Returns whether there was anything.
    async fn take(&mut self, tagged: &Tagged, source: usize, cut: Option<u8>) -> bool {
        if self.stream.is_none() {
            self.connect(tagged).await;
        }
        let stream = self.stream.as_mut().unwrap();
        let source = source % (stream.reads.len() + 1);
        let moved = match source.checked_sub(1) {
            None => stream.read_changes(tagged).await,
            Some(run) if tagged.run(&stream.reads[run].0).is_gone() => {
                // Its stream is cut off, and it is not found when it is looked at once more.
                let (name, _) = stream.reads.remove(run);
                let joins = stream.members.left(&name);
                stream.join(tagged, joins).await;
                true
            }
            Some(run) if tagged.run(&stream.reads[run].0).revoked => {
                let (name, _) = stream.reads.remove(run);
                let joins = stream.members.revoked(&name);
                stream.join(tagged, joins).await;
                true
            }
            Some(run) => {
                let (name, reads) = &mut stream.reads[run];
                let name = name.clone();
                let next = poll!(pin!(reads.next()));
                match next {
                    Poll::Pending => false,
                    Poll::Ready(Ok(Some(Batch::Events(events)))) => {
                        let whole = events.len();
                        let taken = cut.map_or(whole, |cut| whole * usize::from(cut) / 256);
                        for event in events.iter().take(taken) {
                            stream.members.read(&name, Cursor::After(event.id));
                            self.id = Some(stream.members.cursor().to_string());
                            let got = self.got.entry(name.clone()).or_default();
                            got.push(event.id.get());
                        }
                        true
                    }
                    Poll::Ready(Ok(None)) => {
                        // It may have been restarted: it is looked at once more.
                        let at = reads.cursor();
                        *reads = tagged.run(&name).log.subscribe(at).await.unwrap();
                        if reads.has_ended() {
                            stream.reads.remove(run);
                            let joins = stream.members.left(&name);
                            stream.join(tagged, joins).await;
                        }
                        true
                    }
                    Poll::Ready(other) => panic!("{other:?}"),
                }
            }
        };
        // One that is restarted goes on, whether there is room or not.
        assert!(stream.reads.len() <= 3 * self.most);
        // Of 64 runs at the same time, an id with more could not be read.
        let id = stream.members.cursor().to_string();
        assert!(id.matches('.').count() <= 1 + 3 * self.most, "{id}");
        if cut.is_some() {
            self.stream = None;
        }
        moved
    }

    async fn drain(&mut self, tagged: &Tagged) {
        let mut idle = 0;
        for source in 0.. {
            let sources = self.stream.as_ref().map_or(0, |stream| stream.reads.len());
            idle = if self.take(tagged, source, None).await {
                0
            } else {
                idle + 1
            };
            if idle > sources + 1 {
                break;
            }
        }
    }
}

impl TagStream {
    async fn read_changes(&mut self, tagged: &Tagged) -> bool {
        let Poll::Ready(batch) = poll!(pin!(self.changes.next())) else {
            return false;
        };
        let Some(Batch::Events(events)) = batch.unwrap() else {
            panic!("the changes go on");
        };
        for event in events {
            let listed = serde_json::from_str(&event.data).unwrap();
            let joins = self.members.changed(event.id.get(), listed);
            self.join(tagged, joins).await;
        }
        true
    }

    async fn join(&mut self, tagged: &Tagged, joins: Vec<Joins>) {
        for Joins { run, at } in joins {
            let log = &tagged.run(&run).log;
            assert!(
                self.reads.iter().all(|(reads, _)| *reads != run),
                "{run} twice"
            );
            self.reads.push((run, log.subscribe(at).await.unwrap()));
        }
    }
}

#[derive(Clone, Debug)]
enum TagOp {
    Begin,
    Append { run: usize, events: u64, ends: bool },
    Restart { run: usize },
    Delete { run: usize },
    Revoke { run: usize },
    Report { run: usize },
    Take { source: usize, cut: Option<u8> },
}

fn tag_op() -> impl Strategy<Value = TagOp> {
    prop_oneof![
        2 => Just(TagOp::Begin),
        4 => (0..9_usize, 1..4_u64, proptest::bool::weighted(0.4))
            .prop_map(|(run, events, ends)| TagOp::Append { run, events, ends }),
        1 => (0..9_usize).prop_map(|run| TagOp::Restart { run }),
        1 => (0..9_usize).prop_map(|run| TagOp::Delete { run }),
        1 => (0..9_usize).prop_map(|run| TagOp::Revoke { run }),
        2 => (0..9_usize).prop_map(|run| TagOp::Report { run }),
        6 => (0..9_usize, proptest::option::weighted(0.3, any::<u8>()))
            .prop_map(|(source, cut)| TagOp::Take { source, cut }),
    ]
}

/// Plays it: whatever begins, ends and is restarted, and whenever the client is cut off and the index told, the client
/// gets each event of each run once, in order. Of a run whose log is deleted, or whose links are revoked, it has
/// what it got before.
async fn play_tag(ops: Vec<TagOp>, most: usize) -> Result<(), TestCaseError> {
    let mut tagged = Tagged::new();
    let mut client = TagClient {
        most,
        id: None,
        got: BTreeMap::new(),
        stream: None,
    };
    client.connect(&tagged).await;
    for op in ops {
        let runs = tagged.runs.len();
        match op {
            TagOp::Begin => tagged.begin().await,
            TagOp::Take { source, cut } => {
                client.take(&tagged, source, cut).await;
            }
            _ if runs == 0 => {}
            TagOp::Append { run, events, ends } => {
                let run = run % runs;
                if !tagged.runs[run].ended && !tagged.runs[run].deleted {
                    tagged.append(run, events, ends).await;
                }
            }
            TagOp::Restart { run } => {
                let run = run % runs;
                if tagged.runs[run].ended && !tagged.runs[run].deleted {
                    tagged.restart(run).await;
                }
            }
            TagOp::Delete { run } => tagged.runs[run % runs].deleted = true,
            TagOp::Revoke { run } => tagged.runs[run % runs].revoked = true,
            TagOp::Report { run } => tagged.report(run % runs),
        }
    }
    for run in 0..tagged.runs.len() {
        if !tagged.runs[run].ended && !tagged.runs[run].deleted {
            tagged.append(run, 1, true).await;
        }
        tagged.report(run);
    }
    client.drain(&tagged).await;
    for (number, run) in tagged.runs.iter().enumerate() {
        let got = client.got.get(&name(number)).cloned().unwrap_or_default();
        let is_cut = run.deleted || run.revoked;
        let head = if is_cut { got.len() as u64 } else { run.head };
        prop_assert_eq!(got, (1..=head).collect::<Vec<_>>(), "run {}", number);
    }
    let before = client.got.clone();
    // All that it still has to know is how far the changes were read.
    client.stream = None;
    client.connect(&tagged).await;
    client.drain(&tagged).await;
    prop_assert_eq!(&client.got, &before);
    let id = client.stream.unwrap().members.cursor().to_string();
    prop_assert!(!id[3..].contains('.'), "{}", id);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_tags_stream_has_every_run_once_as_they_come_and_go(ops in vec(tag_op(), 1..80)) {
        block_on(play_tag(ops, MAX_MERGED))?;
    }

    #[test]
    fn the_same_where_there_is_room_for_two(ops in vec(tag_op(), 1..80)) {
        block_on(play_tag(ops, 2))?;
    }

    #[test]
    fn a_position_in_a_tag_is_read_or_refused(text in "t1\\.[0-9]{0,18}(\\.[0-9a-v]{1,20}){0,3}|\\PC{0,40}") {
        if let Ok(cursor) = text.parse::<TagCursor>() {
            let again: TagCursor = cursor.to_string().parse().unwrap();
            prop_assert_eq!(again, cursor);
        }
    }
}

/// What the index says of a run, in a list or a change.
fn listed(run: &str, cursor: u64, state: Option<&str>) -> Listed {
    serde_json::from_value(json!({ "id": run, "cursor": cursor, "state": state })).unwrap()
}

fn after(id: u64) -> Cursor {
    Cursor::After(EventId::new(id).unwrap())
}

/// Opens the stream of a tag for a client without a position, with one run that goes on.
fn stream_of(run: &str) -> Members {
    let (members, joins) = Members::open(
        vec![listed(run, 0, Some("running"))],
        0,
        None,
        Cursor::Beginning,
        MAX_MERGED,
    );
    assert_eq!(joins.len(), 1);
    members
}

#[test]
fn a_run_whose_log_was_deleted_does_not_hold_the_client_back() {
    // The change comes before the stream is cut off, or after that.
    for is_left_first in [false, true] {
        let mut members = stream_of("a");
        members.read("a", after(7));
        if is_left_first {
            assert_eq!(members.left("a"), []);
        }
        assert_eq!(members.changed(1, listed("a", 0, None)), []);
        if !is_left_first {
            assert_eq!(members.left("a"), []);
        }
        assert_eq!(members.cursor().to_string(), "t1.1");
    }
}

#[test]
fn a_run_that_waits_is_forgotten_when_its_log_is_deleted() {
    let known: TagCursor = {
        let mut members = stream_of("a");
        members.read("a", after(7));
        members.cursor().clone()
    };
    let runs = vec![
        listed("b", 0, Some("running")),
        listed("a", 9, Some("running")),
    ];
    let (mut members, joins) = Members::open(runs, 0, Some(known), Cursor::Beginning, 1);
    assert_eq!(joins[0].run, "a", "the client knows it");
    assert_eq!(members.changed(1, listed("b", 0, None)), []);
    assert_eq!(members.changed(2, listed("a", 9, Some("completed"))), []);
    members.read("a", after(9));
    assert_eq!(members.left("a"), []);
    assert_eq!(members.cursor().to_string(), "t1.2");
}

#[test]
fn a_run_whose_links_were_revoked_does_not_hold_the_client_back() {
    let mut members = stream_of("a");
    assert_eq!(members.revoked("a"), []);
    // It is not read again, whatever becomes of it.
    assert_eq!(members.changed(1, listed("a", 5, Some("waiting"))), []);
    assert_eq!(members.changed(2, listed("a", 9, Some("completed"))), []);
    assert_eq!(members.cursor().to_string(), "t1.2");
    // Others come, and go.
    assert_eq!(members.changed(3, listed("b", 1, Some("running"))).len(), 1);
    members.read("b", after(4));
    assert_eq!(members.left("b"), []);
    assert_eq!(members.changed(4, listed("b", 4, Some("failed"))), []);
    assert_eq!(members.cursor().to_string(), "t1.4");
}

#[test]
fn a_client_keeps_its_position_in_a_revoked_run_for_its_next_link() {
    let mut members = stream_of("a");
    members.read("a", after(7));
    assert_eq!(members.revoked("a"), []);
    assert_eq!(members.changed(1, listed("b", 1, Some("running"))).len(), 1);
    let runs = vec![listed("a", 9, Some("running"))];
    let known = Some(members.cursor().clone());
    let (_, joins) = Members::open(runs, 1, known, Cursor::Beginning, MAX_MERGED);
    let (run, at) = ("a".to_owned(), after(7));
    assert_eq!(joins, [Joins { run, at }]);
}

#[test]
fn the_end_of_a_permission_does_not_count_as_read() {
    let mut members = stream_of("a");
    members.read("a", after(7));
    assert_eq!(members.refused("a"), []);
    assert_eq!(members.changed(1, listed("a", 9, Some("completed"))), []);
    let known = members.cursor().clone();
    assert_eq!(known.told, 0);
    let (mut members, joins) = Members::open(vec![], 1, Some(known), Cursor::Beginning, MAX_MERGED);
    assert_eq!(joins, []);
    let joins = members.changed(1, listed("a", 9, Some("completed")));
    let (run, at) = ("a".to_owned(), after(7));
    assert_eq!(joins, [Joins { run, at }]);
}

#[test]
fn a_position_has_no_more_parts_than_are_read() {
    const RUNS: u64 = 500;
    // Many runs begin, and end after one event, while the client reads one that is over and has many.
    let mut members = stream_of("long");
    let change = listed("long", 1_000, Some("completed"));
    let mut reads = members.changed(1, change);
    for run in 1..=RUNS {
        let change = listed(&format!("short-{run}"), 1, Some("completed"));
        reads.extend(members.changed(1 + run, change));
    }
    let read_all = |members: &mut Members, mut reads: Vec<Joins>| {
        let mut runs = 0;
        while let Some(Joins { run, .. }) = reads.pop() {
            members.read(&run, after(1));
            let id = members.cursor().to_string();
            assert!(id.parse::<TagCursor>().is_ok(), "{runs}: {id}");
            reads.extend(members.left(&run));
            runs += 1;
        }
        runs
    };
    let beside = read_all(&mut members, reads);
    assert!(beside > MAX_MERGED as u64, "{beside}");
    members.read("long", after(1_000));
    let reads = members.left("long");
    let behind = read_all(&mut members, reads);
    assert_eq!(beside + behind, RUNS);
    assert_eq!(members.cursor().to_string(), format!("t1.{}", RUNS + 1));
}

#[test]
fn a_run_that_the_client_must_have_next_comes_without_room_for_it() {
    // As many runs as an id can name, all of which are over, after this one.
    let known = "t1.1.000000011.000000021.000000031".parse().unwrap();
    let (mut members, joins) = Members::open(vec![], 9, Some(known), Cursor::Beginning, 1);
    assert_eq!(joins, []);
    let joins = members.changed(2, listed("a", 3, Some("completed")));
    assert_eq!(joins.len(), 1);
    members.read("a", after(3));
    let id = members.cursor().to_string();
    assert_eq!(id.matches('.').count(), 4, "{id}");
    assert_eq!(members.left("a"), []);
    assert_eq!(members.cursor().told, 2);
}

#[test]
fn many_revoked_runs_leave_room_for_others() {
    let runs = (0..3).map(|run| listed(&name(run), 0, Some("running")));
    let (mut members, mut joins) = Members::open(runs.collect(), 0, None, Cursor::Beginning, 1);
    for run in 0..3 {
        assert_eq!(joins.len(), 1, "{run}");
        members.read(&name(run), after(5));
        joins = members.revoked(&name(run));
    }
    let joins = members.changed(1, listed("new", 0, Some("running")));
    assert_eq!(joins.len(), 1);
    assert!(members.cursor().to_string().matches('.').count() <= 3);
}

#[test]
fn changes_are_read_on_where_only_they_make_room() {
    let runs = (0..1_010).map(|run| listed(&name(run), 0, Some("running")));
    let (mut members, joins) = Members::open(runs.collect(), 0, None, Cursor::Beginning, 1);
    assert!(members.is_full());
    assert_eq!(joins.len(), 1);
    // Two have ended, of which the index does not know yet.
    assert_eq!(members.left(&name(0)).len(), 1);
    assert_eq!(members.left(&name(1)), []);
    assert!(!members.is_full());
    let joins = members.changed(1, listed(&name(0), 0, Some("completed")));
    assert_eq!(joins.len(), 1);
}
