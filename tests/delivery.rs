//! Every viewer gets every event once and in order, whenever it comes, leaves and comes back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_core::Stream;
use futures_executor::block_on;
use futures_util::{FutureExt, StreamExt, poll, stream};
use proptest::collection::vec;
use proptest::prelude::*;
use ssetarget::store::FrameStore;
use ssetarget::{
    Appended, Batch, Cursor, EventId, EventStore, HEARTBEAT_INTERVAL, MemoryEventStore, NewEvent,
    NullEventStore, Page, PageLimit, Reset, SqliteEventStore, SseTarget, StoredEvent, Subscription,
    body, frame_body, frames, keep_alive, wire,
};
use support::clock::ManualClock;
use support::sql::Database;
use support::sse::{Message, SseReader, normalised};

// Exactly once, against a model.

/// The actions, in any order.
#[derive(Clone, Debug)]
enum Op {
    /// A batch; each event with a key or none, data, and whether it is terminal.
    Append(Vec<(Option<u8>, String, bool)>),
    /// A viewer comes, with pages of this many events and bytes.
    Open {
        from: From,
        events: usize,
        bytes: usize,
        kind: Kind,
    },
    /// One viewer is polled, if it was woken, for at most this many items.
    Poll { viewer: usize, items: usize },
    /// All viewers that were woken are polled.
    PollAll,
    /// A viewer's heartbeat is due.
    Beat { viewer: usize },
    /// This many seconds pass.
    Tick(u8),
    /// A viewer's connection breaks in the middle of the next message, and it resumes after the
    /// last event that it got.
    Reconnect {
        viewer: usize,
        events: usize,
        cut: u8,
    },
}

#[derive(Clone, Copy, Debug)]
enum From {
    Beginning,
    Latest,
    /// After the event at this place in the log, in 256ths.
    After(u8),
    /// Events stored this many seconds ago or later.
    Since(u8),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The bytes of a response.
    Body,
    /// The bytes that the store has ready, if it has any.
    Frames,
    /// `Subscription::next`, whose future is dropped whenever it waits.
    Next,
}

fn op() -> impl Strategy<Value = Op> {
    let data = prop_oneof!["[a-z]{0,8}", "(\r|\n|\r\n|[a-z: ]){0,8}", "[é🦀\0]{0,40}"];
    let event = (
        proptest::option::of(0..12_u8),
        data,
        proptest::bool::weighted(0.05),
    );
    let from = prop_oneof![
        Just(From::Beginning),
        Just(From::Latest),
        any::<u8>().prop_map(From::After),
        (0..30_u8).prop_map(From::Since),
    ];
    let kind = prop_oneof![Just(Kind::Body), Just(Kind::Frames), Just(Kind::Next)];
    let viewer = 0..8_usize;
    prop_oneof![
        4 => vec(event, 0..6).prop_map(Op::Append),
        2 => (from, 1..5_usize, 1..200_usize, kind)
            .prop_map(|(from, events, bytes, kind)| Op::Open { from, events, bytes, kind }),
        4 => (viewer.clone(), 1..4_usize).prop_map(|(viewer, items)| Op::Poll { viewer, items }),
        1 => Just(Op::PollAll),
        1 => viewer.clone().prop_map(|viewer| Op::Beat { viewer }),
        1 => (0..10_u8).prop_map(Op::Tick),
        2 => (viewer, 1..5_usize, any::<u8>())
            .prop_map(|(viewer, events, cut)| Op::Reconnect { viewer, events, cut }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_viewer_of_memory_gets_every_event_once(ops in vec(op(), 1..60)) {
        let model = Model::default();
        let store = MemoryEventStore::new().with_clock(model.clock.reader());
        block_on(Scene::play(store, by_body, model, ops));
    }

    #[test]
    fn every_viewer_of_sqlite_gets_every_event_once(ops in vec(op(), 1..60)) {
        // It has the machine's clock, by which all events are from after the model's year.
        let store = SqliteEventStore::new(Database::in_memory());
        block_on(Scene::play(store, by_frames, Model { timeless: true, ..Model::default() }, ops));
    }

    /// Or gets a reset.
    #[test]
    fn every_viewer_of_bounded_memory_gets_every_event_once_or_a_reset(
        max_events in proptest::option::of(1..10_usize),
        max_age in proptest::option::of(1..20_u64),
        ops in vec(op(), 1..60),
    ) {
        let model = Model {
            max_events: max_events.unwrap_or(usize::MAX),
            max_age: max_age.map(Duration::from_secs),
            ..Model::default()
        };
        let mut store = MemoryEventStore::new().with_clock(model.clock.reader());
        if let Some(events) = max_events {
            store = store.max_events(events);
        }
        if let Some(age) = model.max_age {
            store = store.max_age(age);
        }
        block_on(Scene::play(store, by_body, model, ops));
    }

    #[test]
    fn every_viewer_of_null_gets_the_events_of_its_time_or_a_reset(
        ring in 1..10_usize,
        ops in vec(op(), 1..60),
    ) {
        let model = Model {
            max_events: ring,
            transient: true,
            ..Model::default()
        };
        block_on(Scene::play(NullEventStore::new().ring_size(ring), by_body, model, ops));
    }
}

struct Scene<S> {
    target: SseTarget<NewEvent, S>,
    /// Gets the bytes that the store has ready.
    frames: Connect<S>,
    model: Model,
    viewers: Vec<Viewer<S>>,
}

/// The expected log: the event with id `n` is at index `n - 1`, with the time at which it was
/// stored.
struct Model {
    events: Vec<(NewEvent, SystemTime)>,
    removed: usize,
    clock: ManualClock,
    max_events: usize,
    max_age: Option<Duration>,
    /// The log knows no facts, and its ids mean nothing to a later connection.
    transient: bool,
    /// The log's events are later than any requested time.
    timeless: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            events: Vec::new(),
            removed: 0,
            clock: ManualClock::new(),
            max_events: usize::MAX,
            max_age: None,
            transient: false,
            timeless: false,
        }
    }
}

impl Model {
    fn append(&mut self, batch: &[NewEvent]) -> Vec<Appended> {
        let outcomes = batch.iter().map(|event| self.push(event)).collect();
        self.removed = self
            .removed
            .max(self.events.len().saturating_sub(self.max_events));
        outcomes
    }

    fn push(&mut self, event: &NewEvent) -> Appended {
        let is_known = |(known, _): &(NewEvent, _)| known.key() == event.key();
        let facts = !self.transient && event.key().is_some();
        if facts && self.kept().iter().any(is_known) {
            return Appended::Duplicate;
        }
        self.events.push((event.clone(), self.clock.now()));
        Appended::Stored(id(self.events.len() as u64))
    }

    fn tick(&mut self, by: Duration) {
        self.clock.advance(by);
        if let Some(age) = self.max_age {
            let is_old = |(_, time): &(_, SystemTime)| *time + age <= self.clock.now();
            self.removed += self.kept().iter().take_while(|event| is_old(event)).count();
        }
    }

    fn kept(&self) -> &[(NewEvent, SystemTime)] {
        &self.events[self.removed..]
    }

    fn head(&self) -> usize {
        self.events.len()
    }

    fn closed(&self) -> bool {
        self.kept()
            .last()
            .is_some_and(|(event, _)| event.is_terminal())
    }

    /// Returns whether a viewer that comes back here must get the end.
    fn is_end(&self, position: Option<usize>) -> bool {
        !self.transient && self.closed() && position == Some(self.head())
    }
}

struct Viewer<S> {
    connection: Connection<S>,
    /// How the viewer gets bytes, if it does.
    bytes: Option<Connect<S>>,
    /// The last event that the viewer got, or the position that it asked for; 0 is the start of the
    /// log. `None`: before the oldest event, whichever that is.
    position: Option<usize>,
    woken: Arc<Woken>,
    timer: Arc<Timer>,
    ended: bool,
}

enum Connection<S> {
    Body(Pin<Box<dyn Stream<Item = Bytes>>>, Box<SseReader>),
    Next(Subscription<S>),
}

impl<S: EventStore + 'static> Scene<S> {
    async fn play(store: S, frames: Connect<S>, model: Model, ops: Vec<Op>) {
        let mut scene = Self {
            target: SseTarget::new(store),
            frames,
            model,
            viewers: Vec::new(),
        };
        for op in ops {
            scene.act(op).await;
        }
        scene.finish().await;
    }

    async fn act(&mut self, op: Op) {
        match op {
            Op::Append(batch) => self.append(batch).await,
            Op::Open {
                from,
                events,
                bytes,
                kind,
            } => {
                if self.viewers.len() < 8 {
                    self.open(from, PageLimit { events, bytes }, kind).await;
                }
            }
            Op::Poll { viewer, items } => {
                if let Some(viewer) = self.viewers.get_mut(viewer) {
                    viewer.run(items, &self.model);
                }
            }
            Op::PollAll => self
                .viewers
                .iter_mut()
                .for_each(|viewer| viewer.run(usize::MAX, &self.model)),
            Op::Tick(seconds) => self.model.tick(Duration::from_secs(seconds.into())),
            Op::Beat { viewer } => {
                if let Some(viewer) = self.viewers.get(viewer) {
                    viewer.timer.fire();
                }
            }
            Op::Reconnect {
                viewer,
                events,
                cut,
            } => {
                if let Some(viewer) = self.viewers.get_mut(viewer) {
                    viewer.break_off(cut, &self.model);
                    viewer.resume(&self.target, &self.model, events).await;
                }
            }
        }
    }

    async fn append(&mut self, batch: Vec<(Option<u8>, String, bool)>) {
        let batch: Vec<_> = batch
            .into_iter()
            .map(|(key, data, terminal)| {
                let event = NewEvent::new("t", data).unwrap();
                let event = match key {
                    Some(key) => event.with_key(format!("key {key}")).unwrap(),
                    None => event,
                };
                if terminal { event.terminal() } else { event }
            })
            .collect();
        let expected = self.model.append(&batch);
        let outcomes = self.target.dispatch_encoded(batch).await.unwrap();
        assert_eq!(outcomes, expected);
    }

    async fn open(&mut self, from: From, limit: PageLimit, kind: Kind) {
        let head = self.model.head();
        let (cursor, position) = match from {
            From::Beginning => (Cursor::Beginning, None),
            From::Latest => (Cursor::Latest, Some(head)),
            From::After(place) => match head * (usize::from(place) + 1) / 256 {
                0 => (Cursor::Beginning, None),
                place => (Cursor::After(id(place as u64)), Some(place)),
            },
            From::Since(seconds) => {
                let time = self.model.clock.now() - Duration::from_secs(seconds.into());
                let is_older = |(_, stored): &(NewEvent, SystemTime)| *stored < time;
                let older = self.model.kept().partition_point(is_older);
                let is_position = older > 0 && !self.model.timeless;
                let position = is_position.then_some(self.model.removed + older);
                (Cursor::Since(time), position)
            }
        };
        let position = if self.model.transient {
            Some(head)
        } else {
            position
        };
        let subscription = self.target.subscribe(cursor).await.unwrap();
        let ended = subscription.has_ended();
        assert_eq!(
            ended,
            head > 0 && self.model.is_end(position),
            "{cursor:?} of {head}"
        );
        let timer = Arc::new(Timer::default());
        let bytes: Option<Connect<S>> = match kind {
            Kind::Body => Some(by_body),
            Kind::Frames => Some(self.frames),
            Kind::Next => None,
        };
        self.viewers.push(Viewer {
            connection: connect(subscription.with_page_limit(limit), bytes, &timer),
            bytes,
            position,
            woken: Arc::new(Woken(AtomicBool::new(true))),
            timer,
            ended,
        });
    }

    /// Polls woken viewers until there are none. A viewer that then lacks an event was not woken
    /// for it.
    async fn finish(&mut self) {
        for viewer in &mut self.viewers {
            viewer.run(usize::MAX, &self.model);
            if viewer.ended {
                // A viewer that comes back gets events after the terminal one.
                viewer.resume(&self.target, &self.model, 3).await;
                viewer.run(usize::MAX, &self.model);
            }
            assert_eq!(viewer.position, Some(self.model.head()), "what it got");
            let closed = self.model.closed() && !self.model.transient;
            assert!(viewer.ended || !closed, "the stream did not end");
        }
    }
}

impl<S: EventStore + 'static> Viewer<S> {
    /// Polls as an executor would: only if woken.
    fn run(&mut self, items: usize, model: &Model) {
        let waker = Waker::from(Arc::clone(&self.woken));
        let mut context = Context::from_waker(&waker);
        let mut ready = 0;
        while !self.ended && ready < items {
            match &mut self.connection {
                Connection::Body(stream, reader) => {
                    if !self.woken.0.swap(false, Ordering::SeqCst) {
                        return;
                    }
                    match stream.as_mut().poll_next(&mut context) {
                        Poll::Pending => {
                            self.waits(model);
                            continue;
                        }
                        Poll::Ready(None) => {
                            reader.assert_at_rest();
                            self.ended = true;
                        }
                        Poll::Ready(Some(bytes)) => {
                            let messages = reader.feed(&bytes);
                            // All heartbeats but the first come after a look at the log.
                            match messages.is_empty() && reader.comments > 1 {
                                true => self.waits(model),
                                false => self.take(messages, model),
                            }
                        }
                    }
                    self.woken.0.store(true, Ordering::SeqCst);
                }
                // Nobody wakes a future that was dropped, so it is always polled.
                Connection::Next(subscription) => {
                    let polled = pin!(subscription.next()).poll(&mut context);
                    match polled.map(Result::unwrap) {
                        Poll::Pending => return self.waits(model),
                        Poll::Ready(None) => self.ended = true,
                        Poll::Ready(Some(batch)) => {
                            let bytes = frames(&batch, !model.transient);
                            let messages = SseReader::default().feed(&bytes);
                            assert!(!messages.is_empty());
                            self.take(messages, model);
                        }
                    }
                }
            }
            ready += 1;
            if self.ended {
                let last = &model.events[self.position.unwrap() - 1].0;
                assert!(last.is_terminal(), "ended after {last:?}");
            }
        }
    }

    /// Messages that arrive together were read from the log just now.
    fn take(&mut self, messages: Vec<Message>, model: &Model) {
        for message in messages {
            if message.event_type == "reset" {
                let position = self.position.unwrap();
                assert!(
                    position < model.removed,
                    "a reset at {position} for nothing"
                );
                let number = |number: usize| match number {
                    0 => "null".to_owned(),
                    number => number.to_string(),
                };
                let oldest = match model.kept() {
                    [] => 0,
                    _ => model.removed + 1,
                };
                let expected = format!(
                    r#"{{"requested":{},"oldest":{},"head":{}}}"#,
                    number(position),
                    number(oldest),
                    number(model.head())
                );
                assert_eq!(message.data, expected);
                self.position = Some(model.removed);
                continue;
            }
            let position = self.position.unwrap_or(model.removed);
            assert!(position >= model.removed, "silence after {position}");
            let event = &model.events[position].0;
            let id = if model.transient {
                String::new()
            } else {
                (position + 1).to_string()
            };
            let expected = Message {
                id,
                event_type: event.event_type().to_owned(),
                data: normalised(event.data()),
            };
            assert_eq!(message, expected);
            self.position = Some(position + 1);
        }
    }

    /// The viewer looked and found nothing: only events after the head can come.
    fn waits(&mut self, model: &Model) {
        if self.position.is_none() {
            assert_eq!(model.kept().len(), 0, "it waits in vain");
            self.position = Some(model.head());
        }
    }

    /// A part of the bytes under way arrives; an incomplete event is lost with it.
    fn break_off(&mut self, cut: u8, model: &Model) {
        if let Connection::Body(stream, reader) = &mut self.connection {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(Some(bytes)) = stream.as_mut().poll_next(&mut context) {
                let arrived = bytes.len() * usize::from(cut) / 256;
                let messages = reader.feed(&bytes[..arrived]);
                self.take(messages, model);
            }
        }
    }

    async fn resume(&mut self, target: &SseTarget<NewEvent, S>, model: &Model, events: usize) {
        let cursor = match self.position {
            None | Some(0) => Cursor::Beginning,
            Some(position) => Cursor::After(id(position as u64)),
        };
        if model.transient {
            self.position = Some(model.head());
        } else if cursor == Cursor::Beginning {
            self.position = None;
        }
        let subscription = target.subscribe(cursor).await.unwrap();
        self.ended = subscription.has_ended();
        assert_eq!(
            self.ended,
            model.is_end(self.position),
            "whether to answer 204"
        );
        let limit = PageLimit { events, bytes: 100 };
        self.timer = Arc::default();
        self.connection = connect(subscription.with_page_limit(limit), self.bytes, &self.timer);
        self.woken.0.store(true, Ordering::SeqCst);
    }
}

type Connect<S> = fn(Subscription<S>, Arc<Timer>) -> Pin<Box<dyn Stream<Item = Bytes>>>;

fn connect<S: EventStore + 'static>(
    subscription: Subscription<S>,
    bytes: Option<Connect<S>>,
    timer: &Arc<Timer>,
) -> Connection<S> {
    match bytes {
        Some(bytes) => Connection::Body(bytes(subscription, Arc::clone(timer)), Box::default()),
        None => Connection::Next(subscription),
    }
}

fn by_body<S: EventStore + 'static>(
    subscription: Subscription<S>,
    timer: Arc<Timer>,
) -> Pin<Box<dyn Stream<Item = Bytes>>> {
    Box::pin(body(subscription, move |_| timer.sleep()).map(Result::unwrap))
}

fn by_frames<S: FrameStore<Bytes = Bytes> + 'static>(
    subscription: Subscription<S>,
    timer: Arc<Timer>,
) -> Pin<Box<dyn Stream<Item = Bytes>>> {
    Box::pin(frame_body(subscription, move |_| timer.sleep()).map(Result::unwrap))
}

#[test]
fn a_viewer_can_resume_after_every_event() {
    async fn check<S: EventStore + 'static>(store: S) {
        let target: SseTarget<NewEvent, S> = SseTarget::new(store);
        let mut expected = Vec::new();
        for n in 1..=40_u64 {
            let event = event(&format!("event {n}"));
            let event = if n == 40 { event.terminal() } else { event };
            target.dispatch_encoded(vec![event]).await.unwrap();
            expected.push(format!("id: {n}\nevent: t\ndata: event {n}\n\n"));
        }
        for (position, size) in (0..40).zip([1, 2, 3, 40].into_iter().cycle()) {
            let cursor = EventId::new(position).map_or(Cursor::Beginning, Cursor::After);
            let subscription = target.subscribe(cursor).await.unwrap();
            let subscription = subscription.with_page_limit(pages_of(size));
            let bytes = all(body(subscription, |_| std::future::pending())).await;
            let rest = expected.iter().skip(usize::try_from(position).unwrap());
            assert_eq!(bytes, format!(":\n{}", rest.cloned().collect::<String>()));
        }
        let subscription = target.subscribe(Cursor::After(id(40))).await.unwrap();
        assert!(subscription.has_ended());
    }
    block_on(check(MemoryEventStore::new()));
    block_on(check(SqliteEventStore::new(Database::in_memory())));
}

proptest! {
    #[test]
    fn live_bytes_are_replayed_bytes(data in vec("(\r|\n|\0|[a-zé🦀: ]){0,12}", 0..20)) {
        block_on(async {
            let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
            let subscription = target.subscribe(Cursor::Beginning).await.unwrap();
            let mut stream = pin!(body(subscription, |_| std::future::pending()));
            let mut live = String::new();
            for event in data.iter().map(|data| event(data)).chain([event("end").terminal()]) {
                while let Poll::Ready(chunk) = poll!(stream.next()) {
                    live.push_str(std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap());
                }
                target.dispatch_encoded(vec![event]).await.unwrap();
            }
            live.push_str(&all(stream).await);
            let subscription = target.subscribe(Cursor::Beginning).await.unwrap();
            let replayed = all(body(subscription, |_| std::future::pending())).await;
            assert_eq!(live, replayed);
        });
    }
}

// Ends and positions.

#[test]
fn a_stream_ends_after_the_terminal_event_and_a_reconnect_gets_204() {
    block_on(async {
        let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
        let mut live = target.subscribe(Cursor::Beginning).await.unwrap();
        target
            .dispatch_encoded(vec![event("a"), event("b").terminal()])
            .await
            .unwrap();
        assert!(!live.has_ended());
        assert_eq!(next_data(&mut live).await, ["a", "b"]);
        assert!(live.has_ended());
        assert_eq!(live.next().await.unwrap(), None);
        assert_eq!(live.next().await.unwrap(), None);

        for ended in [Cursor::After(id(2)), Cursor::Latest] {
            let mut subscription = target.subscribe(ended).await.unwrap();
            assert!(subscription.has_ended(), "{ended:?}");
            assert_eq!(subscription.next().await.unwrap(), None);
        }
        for not_ended in [
            Cursor::Beginning,
            Cursor::After(id(1)),
            Cursor::After(id(3)),
        ] {
            let subscription = target.subscribe(not_ended).await.unwrap();
            assert!(!subscription.has_ended(), "{not_ended:?}");
        }

        // The instance is restarted.
        target
            .dispatch_encoded(vec![event("c"), event("d").terminal()])
            .await
            .unwrap();
        let mut resumed = target.subscribe(Cursor::After(id(2))).await.unwrap();
        assert!(!resumed.has_ended());
        assert_eq!(next_data(&mut resumed).await, ["c", "d"]);
        assert_eq!(resumed.next().await.unwrap(), None);
        // A terminal event that is not the newest ends nothing.
        let mut all = target.subscribe(Cursor::Beginning).await.unwrap();
        assert_eq!(next_data(&mut all).await, ["a", "b", "c", "d"]);
        let mut one = target.subscribe(Cursor::After(id(1))).await.unwrap();
        one = one.with_page_limit(pages_of(1));
        assert_eq!(next_data(&mut one).await, ["b"]);
        assert!(!one.has_ended());
        assert_eq!(next_data(&mut one).await, ["c"]);
    });
}

#[test]
fn latest_starts_with_the_next_event() {
    block_on(async {
        let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
        let mut of_nothing = target.subscribe(Cursor::Latest).await.unwrap();
        target
            .dispatch_encoded(vec![event("a"), event("b")])
            .await
            .unwrap();
        let mut latest = target.subscribe(Cursor::Latest).await.unwrap();
        assert!(poll!(pin!(latest.next())).is_pending());
        target.dispatch_encoded(vec![event("c")]).await.unwrap();
        assert_eq!(next_data(&mut latest).await, ["c"]);
        assert_eq!(next_data(&mut of_nothing).await, ["a", "b", "c"]);
    });
}

#[test]
fn a_position_beyond_the_head_is_reset() {
    block_on(async {
        let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
        let mut empty = target.subscribe(Cursor::After(id(7))).await.unwrap();
        assert_eq!(reset(&mut empty).await, (7, None, None));
        assert!(poll!(pin!(empty.next())).is_pending());

        target
            .dispatch_encoded(vec![event("a"), event("b")])
            .await
            .unwrap();
        assert_eq!(next_data(&mut empty).await, ["a", "b"]);
        for beyond in [3, EventId::MAX] {
            let mut subscription = target.subscribe(Cursor::After(id(beyond))).await.unwrap();
            assert_eq!(reset(&mut subscription).await, (beyond, Some(1), Some(2)));
            assert_eq!(next_data(&mut subscription).await, ["a", "b"]);
            assert!(poll!(pin!(subscription.next())).is_pending());
        }

        // It is not the end either, even if the log has one.
        target
            .dispatch_encoded(vec![event("c").terminal()])
            .await
            .unwrap();
        let subscription = target.subscribe(Cursor::After(id(4))).await.unwrap();
        assert!(!subscription.has_ended());
        let bytes = all(body(subscription, |_| std::future::pending())).await;
        assert!(
            bytes.starts_with(
                ":\nevent: reset\ndata: {\"requested\":4,\"oldest\":1,\"head\":3}\n\nid: 1\n"
            ),
            "{bytes}"
        );
        let mut reader = SseReader::default();
        assert_eq!(reader.feed(bytes.as_bytes()).len(), 4);
    });
}

#[test]
fn a_position_older_than_what_is_kept_is_reset() {
    block_on(async {
        let target: SseTarget<NewEvent, _> = SseTarget::new(Trimming::default());
        let batch = (1..=6).map(|n| event(&n.to_string())).collect();
        target.dispatch_encoded(batch).await.unwrap();
        let mut slow = target.subscribe(Cursor::Beginning).await.unwrap();
        slow = slow.with_page_limit(pages_of(2));
        assert_eq!(next_data(&mut slow).await, ["1", "2"]);
        target.store().trim(4);

        for gone in 1..=3 {
            let mut subscription = target.subscribe(Cursor::After(id(gone))).await.unwrap();
            assert_eq!(reset(&mut subscription).await, (gone, Some(5), Some(6)));
            assert_eq!(next_data(&mut subscription).await, ["5", "6"]);
        }
        // A viewer that saw the last removed event, or that asks for no position, missed nothing.
        for cursor in [Cursor::After(id(4)), Cursor::Beginning] {
            let mut subscription = target.subscribe(cursor).await.unwrap();
            assert_eq!(next_data(&mut subscription).await, ["5", "6"]);
        }
        // A viewer that is too slow learns what it missed.
        assert_eq!(reset(&mut slow).await, (2, Some(5), Some(6)));
        assert_eq!(next_data(&mut slow).await, ["5", "6"]);
    });
}

/// A client that asks for the tail, loses its connection before it has seen an event, and asks for
/// the tail again with the id that it has.
#[test]
fn from_the_tail_nothing_is_lost_to_a_connection_that_is_cut_before_the_first_event() {
    async fn check<S: EventStore + 'static>(store: S, connect: Connect<S>) {
        let target: SseTarget<NewEvent, S> = SseTarget::new(store);
        let append = async |data: &str| {
            target.dispatch_encoded(vec![event(data)]).await.unwrap();
        };
        let mut expected = Vec::new();
        for before in [0, 3] {
            for n in expected.len()..before {
                append(&n.to_string()).await;
                expected.push(n.to_string());
            }
            let mut reader = SseReader::default();
            let subscription = target.subscribe(Cursor::Latest).await.unwrap();
            let mut cut = connect(subscription, Arc::default());
            // A heartbeat and the position, as one or as two.
            while let Some(bytes) = cut.next().now_or_never() {
                assert_eq!(reader.feed(&bytes.unwrap()), []);
            }
            drop(cut);

            append("missed").await;
            expected.push("missed".to_owned());
            let cursor = wire::cursor(Some(reader.last_event_id()), Some("from=latest"));
            let subscription = target.subscribe(cursor.unwrap()).await.unwrap();
            let mut back = connect(subscription, Arc::default());
            let mut messages = Vec::new();
            while messages
                .last()
                .is_none_or(|last: &Message| last.data != "missed")
            {
                let bytes = back.next().now_or_never().flatten().unwrap();
                messages.extend(reader.feed(&bytes));
            }
            // An empty log has no position, so the client missed all of it.
            let is_reset = messages[0].event_type == "reset";
            assert_eq!(is_reset, before == 0);
            let data: Vec<_> = messages
                .iter()
                .skip(is_reset.into())
                .map(|m| &m.data)
                .collect();
            assert_eq!(data, expected[before..].iter().collect::<Vec<_>>());
        }
    }
    block_on(async {
        check(MemoryEventStore::new(), by_body).await;
        check(SqliteEventStore::new(Database::in_memory()), by_body).await;
        check(SqliteEventStore::new(Database::in_memory()), by_frames).await;
    });
}

#[test]
fn a_stream_of_a_store_that_keeps_nothing_has_no_ids() {
    block_on(async {
        let target: SseTarget<NewEvent, _> = SseTarget::new(NullEventStore::new().ring_size(2));
        target
            .dispatch_encoded(vec![event("before")])
            .await
            .unwrap();
        let subscription = target.subscribe(Cursor::Beginning).await.unwrap();
        let mut stream = pin!(body(subscription, |_| std::future::pending()));
        assert_eq!(&*stream.next().await.unwrap().unwrap(), b":\n");
        assert!(poll!(stream.next()).is_pending());
        target.dispatch_encoded(vec![event("a")]).await.unwrap();
        assert_eq!(
            &*stream.next().await.unwrap().unwrap(),
            b"event: t\ndata: a\n\n"
        );
        let batch = ["b", "c", "d"].map(event).to_vec();
        target.dispatch_encoded(batch).await.unwrap();
        target
            .dispatch_encoded(vec![event("e").terminal()])
            .await
            .unwrap();
        // The ring has the last two; the viewer learns that there were others.
        assert_eq!(
            all(stream).await,
            "event: reset\ndata: {\"requested\":2,\"oldest\":5,\"head\":6}\n\n\
             event: t\ndata: d\n\nevent: t\ndata: e\n\n"
        );
        // The store does not know what a returning viewer has seen.
        let back = target.subscribe(Cursor::Beginning).await.unwrap();
        assert!(!back.has_ended());
    });
}

/// As after a failover that lost events in the middle of a log that then went on.
#[test]
fn a_position_that_was_lost_in_the_middle_is_reset_to_the_oldest_event() {
    /// Its event 3 was lost.
    struct Failed(MemoryEventStore);
    impl EventStore for Failed {
        type Error = Infallible;
        async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Infallible> {
            self.0.append(batch).await
        }
        async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Infallible> {
            let mut page = self.0.read(after, limit).await?;
            page.events.retain(|event| event.id != id(3));
            page.trimmed = (after == Some(id(3))).then_some(id(4));
            Ok(page)
        }
        async fn changed(&self, after: Option<EventId>) -> Result<(), Infallible> {
            self.0.changed(after).await
        }
        async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Infallible> {
            self.0.before(time).await
        }
    }
    block_on(async {
        let target: SseTarget<NewEvent, _> = SseTarget::new(Failed(MemoryEventStore::new()));
        let batch = (1..=5).map(|n| event(&n.to_string())).collect();
        target.dispatch_encoded(batch).await.unwrap();
        let mut lost = target.subscribe(Cursor::After(id(3))).await.unwrap();
        assert_eq!(reset(&mut lost).await, (3, Some(1), Some(5)));
        assert_eq!(next_data(&mut lost).await, ["1", "2", "4", "5"]);
        let mut kept = target.subscribe(Cursor::After(id(2))).await.unwrap();
        assert_eq!(next_data(&mut kept).await, ["4", "5"]);
    });
}

#[test]
fn viewers_of_a_log_that_keeps_nothing_wait_for_new_events() {
    block_on(async {
        let target: SseTarget<NewEvent, _> = SseTarget::new(Trimming::default());
        target
            .dispatch_encoded(vec![event("a"), event("b")])
            .await
            .unwrap();
        target.store().trim(2);
        let mut viewers = Vec::new();
        for cursor in [
            Cursor::Beginning,
            Cursor::Latest,
            Cursor::After(id(1)),
            Cursor::After(id(2)),
            Cursor::After(id(3)),
        ] {
            let mut viewer = target.subscribe(cursor).await.unwrap();
            if matches!(cursor, Cursor::After(position) if position != id(2)) {
                let (_, oldest, head) = reset(&mut viewer).await;
                assert_eq!((oldest, head), (None, Some(2)));
            }
            // Waits, and does not spin.
            let reads = target.store().reads();
            assert!(poll!(pin!(viewer.next())).is_pending());
            assert!(target.store().reads() - reads < 4);
            viewers.push(viewer);
        }
        target
            .dispatch_encoded(vec![event("c").terminal()])
            .await
            .unwrap();
        for mut viewer in viewers {
            assert_eq!(next_data(&mut viewer).await, ["c"]);
            assert_eq!(viewer.next().await.unwrap(), None);
        }
    });
}

#[test]
fn an_error_of_the_store_ends_the_stream_without_a_terminal_event() {
    block_on(async {
        let database = Database::in_memory();
        let target: SseTarget<NewEvent, _> =
            SseTarget::new(SqliteEventStore::new(database.clone()));
        target.dispatch_encoded(vec![event("a")]).await.unwrap();
        let subscription = target.subscribe(Cursor::Beginning).await.unwrap();
        let mut stream = pin!(body(subscription, |_| std::future::pending()));
        assert_eq!(&*stream.next().await.unwrap().unwrap(), b":\n");
        assert!(stream.next().await.unwrap().is_ok());
        assert!(poll!(stream.next()).is_pending());
        target.dispatch_encoded(vec![event("b")]).await.unwrap();
        // Events in memory are read without the database, which fails next.
        target.store().forget();
        database.fail_next(1);
        assert!(stream.next().await.unwrap().is_err());
        assert!(stream.next().await.is_none());
    });
}

// The costs of a viewer.

#[test]
fn a_slow_viewer_holds_one_page() {
    block_on(async {
        let target: SseTarget<NewEvent, _> = SseTarget::new(Trimming::default());
        let batch = (0..100).map(|n| event(&n.to_string())).collect();
        target.dispatch_encoded(batch).await.unwrap();
        let subscription = target.subscribe(Cursor::Beginning).await.unwrap();
        let subscription = subscription.with_page_limit(pages_of(10));
        let mut stream = pin!(body(subscription, |_| std::future::pending()));
        let at_first = target.store().reads();
        assert_eq!(&*stream.next().await.unwrap().unwrap(), b":\n");
        assert_eq!(
            target.store().reads(),
            at_first,
            "the first heartbeat reads nothing"
        );
        for page in 1..=10 {
            let chunk = stream.next().await.unwrap().unwrap();
            assert_eq!(
                target.store().reads() - at_first,
                page,
                "a page was read ahead"
            );
            let mut reader = SseReader::default();
            assert_eq!(reader.feed(&chunk).len(), 10);
        }
        assert!(poll!(stream.next()).is_pending());
    });
}

#[test]
fn viewers_that_left_are_forgotten() {
    block_on(async {
        let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
        let count = Arc::new(Woken(AtomicBool::new(false)));
        for _ in 0..1000 {
            let mut subscription = target.subscribe(Cursor::Beginning).await.unwrap();
            let waker = Waker::from(Arc::clone(&count));
            let mut context = Context::from_waker(&waker);
            assert!(pin!(subscription.next()).poll(&mut context).is_pending());
        }
        assert_eq!(
            Arc::strong_count(&count),
            1,
            "wakers of viewers that left are kept"
        );
    });
}

#[test]
fn streams_can_cross_threads() {
    fn sendable(_: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static) {}
    let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    let subscription = block_on(target.subscribe(Cursor::Beginning)).unwrap();
    sendable(body(subscription, |_| std::future::ready(())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_append_and_view() {
    const WRITERS: usize = 4;
    const EVENTS: usize = 200;
    let target: SseTarget<NewEvent, _> =
        SseTarget::new(SqliteEventStore::new(Database::in_memory()));
    let viewers: Vec<_> = (0..6)
        .map(|_| {
            let target = target.clone();
            tokio::spawn(async move {
                let subscription = target.subscribe(Cursor::Beginning).await.unwrap();
                let bytes = all(body(subscription, tokio::time::sleep)).await;
                SseReader::default().feed(bytes.as_bytes())
            })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let target = target.clone();
            tokio::spawn(async move {
                for n in 0..EVENTS {
                    let event = event(&n.to_string())
                        .with_key(format!("{writer}/{n}"))
                        .unwrap();
                    target.dispatch_encoded(vec![event]).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    target
        .dispatch_encoded(vec![event("end").terminal()])
        .await
        .unwrap();
    for viewer in viewers {
        let messages = viewer.await.unwrap();
        let ids: Vec<_> = messages.iter().map(|message| message.id.clone()).collect();
        let expected: Vec<_> = (1..=WRITERS * EVENTS + 1)
            .map(|id| id.to_string())
            .collect();
        assert_eq!(ids, expected);
    }
}

// Heartbeats.

#[tokio::test(start_paused = true)]
async fn a_heartbeat_comes_at_once_and_after_each_interval_of_silence() {
    let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
    let subscription = target.subscribe(Cursor::Beginning).await.unwrap();
    let start = tokio::time::Instant::now();
    let writer = {
        let target = target.clone();
        async move {
            for (seconds, data) in [(40, "a"), (44, "b"), (60, "c")] {
                tokio::time::sleep_until(start + Duration::from_secs(seconds)).await;
                target.dispatch_encoded(vec![event(data)]).await.unwrap();
            }
            tokio::time::sleep_until(start + Duration::from_secs(80)).await;
            target
                .dispatch_encoded(vec![event("d").terminal()])
                .await
                .unwrap();
        }
    };
    let viewer = async {
        let mut stream = pin!(body(subscription, tokio::time::sleep));
        let mut seen = Vec::new();
        while let Some(chunk) = stream.next().await {
            let text = String::from_utf8(chunk.unwrap().to_vec()).unwrap();
            seen.push((start.elapsed().as_secs(), text));
        }
        seen
    };
    let ((), seen) = tokio::join!(writer, viewer);
    let heartbeat = |seconds| (seconds, ":\n".to_owned());
    let message = |seconds, id, data| (seconds, format!("id: {id}\nevent: t\ndata: {data}\n\n"));
    assert_eq!(
        seen,
        [
            heartbeat(0),
            heartbeat(15),
            heartbeat(30),
            message(40, 1, "a"),
            message(44, 2, "b"),
            heartbeat(59),
            message(60, 3, "c"),
            heartbeat(75),
            message(80, 4, "d"),
        ]
    );
    assert_eq!(HEARTBEAT_INTERVAL, Duration::from_secs(15));
}

#[test]
fn a_heartbeat_does_not_drop_what_the_inner_stream_was_doing() {
    // An inner stream whose item takes three polls in all: a future that is dropped and made
    // again in between would never get there.
    let polls = Arc::new(AtomicUsize::new(0));
    let inner = {
        let polls = Arc::clone(&polls);
        stream::once(async move {
            for _ in 0..3 {
                polls.fetch_add(1, Ordering::SeqCst);
                yield_once().await;
            }
            Ok::<_, Infallible>(Bytes::from_static(b"data: x\n\n"))
        })
    };
    let asked = Mutex::new(Vec::new());
    let interval = Duration::from_secs(7);
    // Every sleep ends at once, so every poll that finds nothing is a heartbeat.
    let stream = keep_alive(inner, interval, |duration| {
        asked.lock().unwrap().push(duration);
        std::future::ready(())
    });
    let bytes = block_on(all(stream));
    assert_eq!(bytes, ":\n:\n:\n:\ndata: x\n\n");
    assert_eq!(polls.load(Ordering::SeqCst), 3);
    assert!(asked.lock().unwrap().iter().all(|asked| *asked == interval));
}

#[test]
fn an_event_and_a_heartbeat_that_are_both_due_both_come() {
    block_on(async {
        let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
        let timer = Arc::new(Timer::default());
        let subscription = target.subscribe(Cursor::Beginning).await.unwrap();
        let sleep = Arc::clone(&timer);
        let mut stream = pin!(body(subscription, move |_| sleep.sleep()));
        assert_eq!(&*stream.next().await.unwrap().unwrap(), b":\n");
        for n in 1..=5 {
            assert!(poll!(stream.next()).is_pending());
            timer.fire();
            target.dispatch_encoded(vec![event("x")]).await.unwrap();
            let chunk = stream.next().await.unwrap().unwrap();
            // The stream is no longer silent, so the heartbeat is no longer due.
            assert!(chunk.starts_with(format!("id: {n}\n").as_bytes()));
            assert!(poll!(stream.next()).is_pending());
            timer.fire();
            assert_eq!(&*stream.next().await.unwrap().unwrap(), b":\n");
        }
    });
}

/// Each item is a write to the viewer.
#[test]
fn the_first_frames_come_in_one_piece_with_the_heartbeat_if_they_are_few() {
    block_on(async {
        let store = SqliteEventStore::new(Database::in_memory());
        let target: SseTarget<NewEvent, _> = SseTarget::new(store);
        let begin = async || {
            let subscription = target.subscribe(Cursor::Beginning).await.unwrap();
            by_frames(subscription, Arc::default())
        };
        let at_once = |stream: &mut Pin<Box<dyn Stream<Item = Bytes>>>| {
            let item = stream.next().now_or_never()?;
            Some(String::from_utf8(item.unwrap().to_vec()).unwrap())
        };
        let mut early = begin().await;
        assert_eq!(
            at_once(&mut early).as_deref(),
            Some(":\n"),
            "nothing is waited for"
        );
        assert_eq!(at_once(&mut early), None);
        target.dispatch_encoded(vec![event("x")]).await.unwrap();
        let frame = at_once(&mut early).unwrap();
        assert!(frame.starts_with("id: 1\n"), "{frame}");
        let mut late = begin().await;
        assert_eq!(at_once(&mut late), Some(format!(":\n{frame}")));
        assert_eq!(at_once(&mut late), None);
        // To copy much costs more than a write.
        target
            .dispatch_encoded(vec![event(&"y".repeat(20_000))])
            .await
            .unwrap();
        let mut large = begin().await;
        assert_eq!(at_once(&mut large).as_deref(), Some(":\n"));
        let page = at_once(&mut large).unwrap();
        assert!(page.starts_with(&frame) && page.len() > 20_000);
        assert_eq!(at_once(&mut large), None);
    });
}

// Framing.

fn awkward() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "(\r|\n|\r\n|\0|:| |data|id|event|retry|[a-c]|é|🦀|\u{feff}|\u{2028}|\u{85}){0,30}",
    ]
}

proptest! {
    #[test]
    fn whatever_the_data_a_strict_reader_gets_it_back(
        events in vec((awkward(), awkward(), 1..=EventId::MAX), 1..6),
        pieces in vec(1..50_usize, 1..20),
    ) {
        let events: Vec<_> = events
            .into_iter()
            .filter_map(|(event_type, data, number)| {
                let event = NewEvent::new(event_type, data).ok()?;
                Some(StoredEvent {
                    id: id(number),
                    event_type: event.event_type().to_owned(),
                    data: event.data().to_owned(),
                    timestamp: SystemTime::UNIX_EPOCH,
                })
            })
            .collect();
        let mut reader = SseReader::default();
        let mut got = Vec::new();
        let bytes = frames(&Batch::Events(events.clone()), true);
        let mut rest = &bytes[..];
        for piece in pieces.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, others) = rest.split_at(piece.min(rest.len()));
            got.extend(reader.feed(piece));
            rest = others;
        }
        reader.assert_at_rest();
        prop_assert_eq!(reader.comments, 0);
        prop_assert_eq!(got, events.iter().map(message).collect::<Vec<_>>());
    }
}

#[test]
fn a_reset_is_an_event_without_an_id() {
    let reset = Reset {
        requested: Some(id(9)),
        oldest: None,
        head: Some(id(3)),
    };
    let mut reader = SseReader::default();
    reader.feed(b"id: 3\ndata: x\n\n");
    let messages = reader.feed(&frames(&Batch::Reset(reset), true));
    assert_eq!(messages[0].event_type, "reset");
    assert_eq!(
        messages[0].data,
        r#"{"requested":9,"oldest":null,"head":3}"#
    );
    assert_eq!(
        messages[0].id, "3",
        "the client's last id stays what it was"
    );
}

/// Checks the reader that these tests trust, on the examples of the standard's section 9.2.6.
#[test]
fn the_reader_reads_what_the_standard_says() {
    let read = |text: &str| {
        let mut reader = SseReader::default();
        let messages = reader.feed(text.as_bytes()).into_iter();
        messages
            .map(|m| (m.id, m.event_type, m.data))
            .collect::<Vec<_>>()
    };
    let message = |id: &str, of: &str, data: &str| (id.to_owned(), of.to_owned(), data.to_owned());
    assert_eq!(
        read("data: YHOO\ndata: +2\ndata: 10\n\n"),
        [message("", "message", "YHOO\n+2\n10")]
    );
    assert_eq!(
        read(
            ": test stream\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"
        ),
        [
            message("1", "message", "first event"),
            message("", "message", "second event"),
            message("", "message", " third event"),
        ]
    );
    assert_eq!(
        read("data\n\ndata\ndata\n\ndata:"),
        [message("", "message", ""), message("", "message", "\n")]
    );
    assert_eq!(
        read("event: add\ndata: 1\nid: 7\n\nevent: a: b\ndata: 2\n\n"),
        [message("7", "add", "1"), message("7", "a: b", "2")]
    );
}

// Helpers.

/// A log that forgets, and counts how often it is read.
#[derive(Default)]
struct Trimming {
    inner: MemoryEventStore,
    trimmed: AtomicU64,
    reads: AtomicUsize,
}

impl Trimming {
    /// Removes the events up to this id.
    fn trim(&self, last: u64) {
        self.trimmed.store(last, Ordering::SeqCst);
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }
}

impl EventStore for Trimming {
    type Error = Infallible;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Infallible> {
        self.inner.append(batch).await
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Infallible> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let trimmed = EventId::new(self.trimmed.load(Ordering::SeqCst));
        let mut page = self.inner.read(after.max(trimmed), limit).await?;
        page.trimmed = trimmed;
        page.oldest = trimmed
            .map_or(page.oldest, |trimmed| EventId::new(trimmed.get() + 1))
            .filter(|oldest| Some(*oldest) <= page.head);
        page.closed &= page.oldest.is_some();
        Ok(page)
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Infallible> {
        self.inner.changed(after).await
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Infallible> {
        self.inner.before(time).await
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A clock that is moved by hand: each sleep ends when the timer fires after it began.
#[derive(Default)]
struct Timer {
    state: Mutex<(u64, Option<Waker>)>,
}

impl Timer {
    fn fire(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    fn sleep(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let timer = Arc::clone(self);
        let began = timer.state.lock().unwrap().0;
        std::future::poll_fn(move |context| {
            let mut state = timer.state.lock().unwrap();
            if state.0 > began {
                return Poll::Ready(());
            }
            state.1 = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

fn id(number: u64) -> EventId {
    EventId::new(number).unwrap()
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

fn message(event: &StoredEvent) -> Message {
    Message {
        id: event.id.to_string(),
        event_type: event.event_type.clone(),
        data: normalised(&event.data),
    }
}

/// Returns the data of the events that are already there.
async fn next_data<S: EventStore>(subscription: &mut Subscription<S>) -> Vec<String> {
    match subscription.next().now_or_never() {
        Some(Ok(Some(Batch::Events(events)))) => events.into_iter().map(|e| e.data).collect(),
        other => panic!("no events: {}", other.is_some()),
    }
}

async fn reset<S: EventStore>(
    subscription: &mut Subscription<S>,
) -> (u64, Option<u64>, Option<u64>) {
    match subscription.next().now_or_never() {
        Some(Ok(Some(Batch::Reset(reset)))) => (
            reset.requested.map_or(0, EventId::get),
            reset.oldest.map(EventId::get),
            reset.head.map(EventId::get),
        ),
        other => panic!("no reset: {}", other.is_some()),
    }
}

/// A stream that ends, as text.
async fn all<E: std::fmt::Debug>(stream: impl Stream<Item = Result<Bytes, E>>) -> String {
    let mut stream = pin!(stream);
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut yielded, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}
