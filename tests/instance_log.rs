//! The platform's own log of an instance, followed over aborts and restarts, with a fake platform.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use WorkflowInstanceEventType as Type;
use cloudflare_workflows::{
    Followed, InstanceEventId, InstanceEvents, InstanceFollower, InstanceLog, Runtime,
    SubscribeOptions, WorkflowInstanceEvent, WorkflowInstanceEventType,
};
use futures_util::FutureExt;
use proptest::collection::vec;
use proptest::prelude::*;
use ssetarget::workflow::{InstanceFeed, InstanceFeedItem, InstanceLogIds};
use ssetarget::{Cursor, EventId, Reset};

#[test]
fn a_run_is_read_once_and_in_order_to_its_end() {
    let platform = Platform::begun();
    let mut follower = platform.follow(SubscribeOptions::new());
    assert_eq!(
        follower.read(),
        [
            "1 workflow_queued",
            "2 workflow_started",
            "3 workflow_running"
        ]
    );
    platform.add("step_started");
    assert_eq!(follower.read(), ["4 step_started"]);
    assert_eq!(follower.read(), [""; 0]);
    platform.add("step_completed");
    platform.add("workflow_completed");
    assert_eq!(
        follower.read(),
        ["5 step_completed", "6 workflow_completed", "end"]
    );
}

#[test]
fn a_subscription_that_the_engine_ends_loses_nothing() {
    for how in [Abort::Error, Abort::Done] {
        let platform = Platform::begun();
        let mut follower = platform.follow(SubscribeOptions::new());
        assert_eq!(follower.read().len(), 3);
        platform.add("workflow_paused");
        platform.abort(how);
        assert_eq!(follower.read(), ["4 workflow_paused"], "{how:?}");
        platform.abort(how);
        platform.abort(how);
        platform.add("workflow_running");
        assert_eq!(follower.read(), ["5 workflow_running"]);
        platform.add("workflow_terminated");
        platform.abort(how);
        assert_eq!(follower.read(), ["6 workflow_terminated", "end"]);
    }
}

#[test]
fn a_cursor_and_a_filter_hold_over_aborts() {
    let platform = Platform::begun();
    let options = SubscribeOptions::new()
        .cursor(InstanceEventId::new(2).unwrap())
        .filter([Type::StepStarted, Type::WorkflowRunning]);
    let mut follower = platform.follow(options);
    platform.add("step_started");
    assert_eq!(follower.read(), ["3 workflow_running", "4 step_started"]);
    platform.add("step_completed");
    platform.abort(Abort::Error);
    platform.add("step_started");
    assert_eq!(follower.read(), ["6 step_started"]);
    platform.add("workflow_errored");
    assert_eq!(
        follower.read(),
        ["end"],
        "the terminal event is hidden and ends it"
    );
}

/// While an instance sleeps for hours, its engine may come and go many times.
#[test]
fn a_silent_log_is_not_given_up() {
    let platform = Platform::begun();
    let mut follower = platform.follow(SubscribeOptions::new());
    assert_eq!(follower.read().len(), 3);
    for _ in 0..50 {
        platform.now.set(platform.now.get() + 60_000);
        platform.abort(Abort::Error);
        assert_eq!(follower.read(), [""; 0]);
    }
    platform.add("sleep_completed");
    assert_eq!(follower.read(), ["4 sleep_completed"]);
    // An engine that ends at once each time is an error.
    platform.fleeting.set(true);
    platform.abort(Abort::Error);
    assert_eq!(
        follower.read(),
        ["error: the execution context is no longer running", "end"]
    );
}

#[test]
fn no_event_follows_the_end() {
    let platform = Platform::begun();
    platform.add("workflow_completed");
    for cursor in [4, 99] {
        let options = SubscribeOptions::new().cursor(InstanceEventId::new(cursor).unwrap());
        assert_eq!(platform.follow(options).read(), ["end"]);
    }
    assert_eq!(platform.subscribed.get(), 2, "asked once each");
}

#[test]
fn a_restart_is_reported() {
    for how in [Abort::Error, Abort::Done] {
        let platform = Platform::begun();
        let mut follower = platform.follow(SubscribeOptions::new());
        platform.add("step_started");
        assert_eq!(follower.read().len(), 4);
        platform.restart(how);
        let new = [
            "restarted",
            "1 workflow_queued",
            "2 workflow_started",
            "3 workflow_running",
        ];
        assert_eq!(follower.read(), new);
    }
}

#[test]
fn a_log_that_keeps_failing_is_given_up() {
    let platform = Platform::begun();
    let mut follower = platform.follow(SubscribeOptions::new());
    assert_eq!(follower.read().len(), 3);
    platform.broken.set(true);
    platform.abort(Abort::Error);
    assert_eq!(follower.read(), ["error: broken", "end"]);
    assert_eq!(platform.subscribed.get(), 1 + 5, "tried again");
    // It does not ask again and again if the instance does not exist.
    platform.gone.set(true);
    let mut follower = platform.follow(SubscribeOptions::new());
    let before = platform.subscribed.get();
    assert_eq!(follower.read(), ["error: gone", "end"]);
    assert_eq!(platform.subscribed.get(), before + 1);
}

#[test]
fn viewers_get_ids_that_are_good_after_a_restart() {
    let platform = Platform::begun();
    let mut feed = platform.feed(Cursor::Beginning, None);
    platform.add("step_started");
    let first = feed.read();
    assert_eq!(
        names(&first),
        [
            "workflow_queued",
            "workflow_started",
            "workflow_running",
            "step_started"
        ]
    );
    assert_eq!(ids(&first)[0], platform.times()[0] * 1000 + 1);
    assert_eq!(ids(&first)[2], platform.times()[2] * 1000 + 3);
    assert_eq!(ids(&first)[3], platform.times()[2] * 1000 + 4);
    assert_eq!(feed.read(), []);

    // A client that comes back gets the events after its position.
    for (seen, id) in ids(&first).into_iter().enumerate() {
        let mut back = platform.feed(after(id), None);
        assert_eq!(back.read(), first[seen + 1..]);
    }
    let held = *ids(&first).last().unwrap();
    platform.restart(Abort::Done);
    platform.add("step_started");
    platform.add("step_completed");
    let names_of_second = [
        "workflow_queued",
        "workflow_started",
        "workflow_running",
        "step_started",
        "step_completed",
    ];
    // The same for a live client and for one that comes back only now.
    for mut feed in [feed, platform.feed(after(held), None)] {
        let seen = feed.read();
        let InstanceFeedItem::Reset(reset) = &seen[0] else {
            panic!("{seen:?}")
        };
        assert_eq!(reset.requested.unwrap().get(), held);
        assert_eq!(reset.oldest.unwrap().get(), ids(&seen[1..])[0]);
        assert_eq!(reset.head, None);
        assert_eq!(names(&seen[1..]), names_of_second);
        assert!(ids(&seen[1..])[0] > held, "ids go on growing");
    }
}

#[test]
fn a_restart_from_a_step_is_reported_too() {
    let platform = Platform::begun();
    for event in [
        "step_started",
        "step_completed",
        "step_started",
        "step_completed",
    ] {
        platform.add(event);
    }
    platform.add("workflow_completed");
    let seen = platform.feed(Cursor::Beginning, None).read();
    assert_eq!(names(&seen).last().unwrap(), "end");
    let held: Vec<u64> = ids(&seen);
    platform.restart_from(6); // keeps 1, 2, 4 and 5
    platform.add("step_started");
    platform.add("step_completed");
    let whole = platform.feed(Cursor::Beginning, None).read();
    let expected = [
        "workflow_queued",
        "workflow_started",
        "step_started",
        "step_completed",
        "workflow_running",
        "step_started",
        "step_completed",
    ];
    assert_eq!(names(&whole), expected);
    for id in held {
        let again = platform.feed(after(id), None).read();
        match &again[0] {
            InstanceFeedItem::Reset(reset) => {
                assert_eq!(reset.requested.unwrap().get(), id);
                assert_eq!(again[1..], whole);
            }
            // All events that it has seen are still kept.
            _ => assert_eq!(again, whole[whole.len() - again.len()..], "{id}"),
        }
    }
}

#[test]
fn an_impossible_position_is_reset() {
    let platform = Platform::begun();
    let whole = platform.feed(Cursor::Beginning, None).read();
    let last = *ids(&whole).last().unwrap();
    for bad in [1, 7, last + 1, last + 5, last * 2, EventId::MAX] {
        let seen = platform.feed(after(bad), None).read();
        assert!(
            matches!(&seen[0], InstanceFeedItem::Reset(Reset { requested, .. }) if requested.unwrap().get() == bad),
            "{bad}: {seen:?}"
        );
        assert_eq!(seen[1..], whole);
    }
}

#[test]
fn a_client_that_has_all_events_gets_the_end() {
    let platform = Platform::begun();
    platform.add("workflow_errored");
    let seen = platform.feed(Cursor::Beginning, None).read();
    let end = ids(&seen);
    assert_eq!(names(&seen).last().unwrap(), "end");
    assert!(platform.feed(after(end[3]), None).0.has_ended());
    assert!(!platform.feed(after(end[2]), None).0.has_ended());
    assert_eq!(
        names(&platform.feed(after(end[2]), None).read()),
        ["workflow_errored", "end"]
    );
    // A position beyond the end is not the end.
    let beyond = platform.feed(after(end[3] + 1), None);
    assert!(!beyond.0.has_ended());
    // After the end the log has ended, and before it the end follows.
    assert!(platform.feed(Cursor::Latest, None).0.has_ended());
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(platform.times()[3]);
    assert_eq!(
        names(&platform.feed(Cursor::Since(time), None).read()),
        ["workflow_errored", "end"]
    );
}

#[test]
fn the_latest_cursor_gives_events_from_now_on() {
    let platform = Platform::begun();
    let mut feed = platform.feed(Cursor::Latest, None);
    assert_eq!(feed.read(), []);
    platform.add("step_started");
    let new = feed.read();
    assert_eq!(names(&new), ["step_started"]);
    let whole = platform.feed(Cursor::Beginning, None).read();
    assert_eq!(new, whole[3..], "with the same ids");
}

#[test]
fn a_filter_changes_no_id_and_always_lets_the_end_through() {
    let platform = Platform::begun();
    for event in ["step_started", "attempt_started", "step_completed"] {
        platform.add(event);
    }
    platform.add("workflow_terminated");
    let whole = platform.feed(Cursor::Beginning, None).read();
    let filter = || Some(vec![Type::StepStarted, Type::StepCompleted]);
    let some = platform.feed(Cursor::Beginning, filter()).read();
    assert_eq!(
        names(&some),
        [
            "step_started",
            "step_completed",
            "workflow_terminated",
            "end"
        ]
    );
    assert!(ids(&some).iter().all(|id| ids(&whole).contains(id)));
    let rest = platform.feed(after(ids(&some)[0]), filter()).read();
    assert_eq!(rest, some[1..]);
    assert!(platform.feed(after(ids(&some)[2]), filter()).0.has_ended());
}

#[test]
fn ids_have_room_until_2255() {
    let at = |year: u64| {
        let since = Duration::from_secs((year - 1970) * 31_556_952);
        event(
            1_000_000,
            "workflow_queued",
            u64::try_from(since.as_millis()).unwrap(),
        )
    };
    let ids = |year| InstanceLogIds::new(&at(year)).id(InstanceEventId::new(1_000_000).unwrap());
    assert!(ids(2254).is_some());
    assert!(ids(2256).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]

    /// Whatever happens to the instance, and however often a client loses its connection, its
    /// events since the last reset are the log, each event once.
    #[test]
    fn a_client_ends_up_with_the_log(
        happenings in vec(happening(), 1..40),
        filtered: bool,
    ) {
        let filter = || filtered.then(|| vec![Type::StepStarted, Type::WorkflowRunning]);
        let platform = Platform::begun();
        let mut feed = platform.feed(Cursor::Beginning, filter());
        let mut client: Vec<InstanceFeedItem> = Vec::new();
        let take = |feed: &mut Feed, client: &mut Vec<InstanceFeedItem>| {
            let seen = feed.read();
            let ended = names(&seen).last().is_some_and(|name| name == "end");
            for item in seen {
                match item {
                    InstanceFeedItem::Reset(_) => client.clear(),
                    item => client.push(item),
                }
            }
            ended
        };
        let back = |client: &Vec<InstanceFeedItem>| {
            let id = ids(client).last().copied();
            platform.feed(id.map_or(Cursor::Beginning, after), filter())
        };
        for happening in happenings {
            match happening {
                Happening::Event(name) => platform.add(name),
                Happening::Abort(how) => platform.abort(how),
                Happening::Restart(how) => platform.restart(how),
                Happening::RestartFrom(step) => platform.restart_from(step),
                Happening::Read => {
                    if take(&mut feed, &mut client) {
                        feed = back(&client);
                    }
                }
                Happening::Reconnect => feed = back(&client),
            }
        }
        take(&mut feed, &mut client);
        // A client that got the end comes back later, if at all.
        take(&mut back(&client), &mut client);
        let mut fresh = Vec::new();
        take(&mut platform.feed(Cursor::Beginning, filter()), &mut fresh);
        prop_assert_eq!(names(&client), names(&fresh));
        prop_assert_eq!(ids(&client), ids(&fresh));
        prop_assert!(ids(&fresh).windows(2).all(|pair| pair[0] < pair[1]));
    }
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    Event(&'static str),
    Abort(Abort),
    Restart(Abort),
    RestartFrom(usize),
    Read,
    Reconnect,
}

fn happening() -> impl Strategy<Value = Happening> {
    let how = || prop_oneof![Just(Abort::Error), Just(Abort::Done)];
    prop_oneof![
        5 => prop_oneof![Just("step_started"), Just("step_completed"), Just("workflow_running")]
            .prop_map(Happening::Event),
        1 => Just(Happening::Event("workflow_completed")),
        2 => how().prop_map(Happening::Abort),
        1 => how().prop_map(Happening::Restart),
        1 => (4..12_usize).prop_map(Happening::RestartFrom),
        4 => Just(Happening::Read),
        2 => Just(Happening::Reconnect),
    ]
}

// The platform.

struct Platform {
    log: RefCell<Vec<WorkflowInstanceEvent>>,
    /// Milliseconds since 1970.
    now: Cell<u64>,
    /// How often the engine has ended, and how the subscriptions learned of the latest end.
    engine: Cell<(u32, Abort)>,
    subscribed: Cell<u32>,
    broken: Cell<bool>,
    /// The engine ends whenever it has no event.
    fleeting: Cell<bool>,
    gone: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Abort {
    Error,
    Done,
}

fn event(id: u64, event_type: &str, milliseconds: u64) -> WorkflowInstanceEvent {
    let step = ["step", "attempt", "sleep"]
        .iter()
        .any(|about| event_type.contains(about));
    let mut json = serde_json::json!({
        "instanceId": "a", "eventId": id, "timestamp": milliseconds, "type": event_type,
    });
    if step {
        json["stepName"] = "a-1".into();
        json["attempt"] = 1.into();
    }
    if event_type == "workflow_errored" {
        json["error"] = serde_json::json!({ "name": "Error", "message": "no" });
    }
    serde_json::from_value(json).unwrap()
}

impl Platform {
    fn begun() -> Rc<Self> {
        let platform = Rc::new(Self {
            log: RefCell::default(),
            now: Cell::new(1_795_444_674_907),
            engine: Cell::new((0, Abort::Done)),
            subscribed: Cell::new(0),
            broken: Cell::new(false),
            fleeting: Cell::new(false),
            gone: Cell::new(false),
        });
        platform.begin();
        platform
    }

    fn begin(&self) {
        for name in ["workflow_queued", "workflow_started", "workflow_running"] {
            self.add(name);
        }
    }

    fn has_ended(&self) -> bool {
        self.log
            .borrow()
            .iter()
            .any(WorkflowInstanceEvent::is_terminal)
    }

    fn add(&self, name: &str) {
        if self.has_ended() {
            return;
        }
        self.now.set(self.now.get() + 3);
        let next = self
            .log
            .borrow()
            .last()
            .map_or(1, |last| last.event_id.get() + 1);
        self.log
            .borrow_mut()
            .push(event(next, name, self.now.get()));
    }

    fn abort(&self, how: Abort) {
        let (count, _) = self.engine.get();
        self.engine.set((count + 1, how));
    }

    fn restart(&self, how: Abort) {
        self.abort(how);
        self.now.set(self.now.get() + 7);
        self.log.borrow_mut().clear();
        self.begin();
    }

    /// Restarts from a step as the local engine does: the logged events of the steps before it are
    /// kept.
    fn restart_from(&self, step: usize) {
        self.abort(Abort::Error);
        self.now.set(self.now.get() + 7);
        self.log.borrow_mut().retain(|event| {
            let lasting = [
                "workflow_queued",
                "workflow_started",
                "step_started",
                "step_completed",
            ];
            event.event_id.get() < step as u64 && lasting.contains(&event.event_type())
        });
        self.add("workflow_running");
    }

    fn times(&self) -> Vec<u64> {
        let since = |event: &WorkflowInstanceEvent| {
            event
                .timestamp
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
        };
        let log = self.log.borrow();
        log.iter()
            .map(|event| u64::try_from(since(event).as_millis()).unwrap())
            .collect()
    }

    fn follow(self: &Rc<Self>, options: SubscribeOptions) -> Follower {
        let clock = Clock(Rc::clone(self));
        Follower(InstanceFollower::new(Fake(Rc::clone(self)), clock, options))
    }

    fn feed(self: &Rc<Self>, cursor: Cursor, filter: Option<Vec<Type>>) -> Feed {
        let clock = Clock(Rc::clone(self));
        let start = InstanceFeed::start(Fake(Rc::clone(self)), clock, cursor, filter);
        Feed(start.now_or_never().unwrap().unwrap())
    }
}

#[derive(Clone)]
struct Fake(Rc<Platform>);

struct FakeEvents {
    platform: Rc<Platform>,
    engine: u32,
    cursor: u64,
    filter: Option<Vec<Type>>,
    done: bool,
}

impl InstanceLog for Fake {
    type Error = &'static str;
    type Events = FakeEvents;

    async fn subscribe(&self, options: &SubscribeOptions) -> Result<FakeEvents, &'static str> {
        self.0.subscribed.set(self.0.subscribed.get() + 1);
        if self.0.gone.get() {
            return Err("gone");
        }
        if self.0.broken.get() {
            return Err("broken");
        }
        Ok(FakeEvents {
            platform: Rc::clone(&self.0),
            engine: self.0.engine.get().0,
            cursor: options.cursor.map_or(0, InstanceEventId::get),
            filter: options.filter.clone(),
            done: false,
        })
    }

    async fn has_ended(&self) -> Result<bool, &'static str> {
        Ok(self.0.has_ended())
    }

    fn is_gone(&self, error: &&'static str) -> bool {
        *error == "gone"
    }
}

impl InstanceEvents for FakeEvents {
    type Error = &'static str;

    async fn next(&mut self) -> Result<Option<WorkflowInstanceEvent>, &'static str> {
        loop {
            if self.done {
                return Ok(None);
            }
            if self.engine != self.platform.engine.get().0 {
                self.done = true;
                return match self.platform.engine.get().1 {
                    Abort::Error => Err("the execution context is no longer running"),
                    Abort::Done => Ok(None),
                };
            }
            let next = {
                let log = self.platform.log.borrow();
                log.iter()
                    .find(|event| event.event_id.get() > self.cursor)
                    .cloned()
            };
            let Some(event) = next else {
                self.done = self
                    .platform
                    .log
                    .borrow()
                    .iter()
                    .any(|event| event.is_terminal() && event.event_id.get() <= self.cursor);
                if self.done {
                    return Ok(None);
                }
                if self.platform.fleeting.get() {
                    self.engine = u32::MAX;
                    continue;
                }
                std::future::pending::<()>().await;
                continue;
            };
            self.cursor = event.event_id.get();
            self.done = event.is_terminal();
            let of = Type::of(&event.data).unwrap();
            if self
                .filter
                .as_ref()
                .is_none_or(|filter| filter.contains(&of))
            {
                return Ok(Some(event));
            }
        }
    }
}

/// Sleeps end at once.
#[derive(Clone)]
struct Clock(Rc<Platform>);

impl Runtime for Clock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.0.now.get() + 1)
    }

    fn sleep(&self, _: Duration) -> impl Future<Output = ()> + 'static {
        std::future::ready(())
    }

    fn spawn(&self, _: impl Future<Output = ()> + 'static) {
        panic!("nothing is spawned");
    }

    fn warn(&self, _: &str) {}
}

// Reading.

struct Follower(InstanceFollower<Fake, Clock>);

impl Follower {
    fn read(&mut self) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(next) = self.0.next().now_or_never() {
            seen.push(match next {
                Ok(Some(Followed::Event(event))) => {
                    format!("{} {}", event.event_id, event.event_type())
                }
                Ok(Some(Followed::Restarted)) => "restarted".to_owned(),
                Ok(None) => {
                    seen.push("end".to_owned());
                    break;
                }
                Err(error) => format!("error: {error}"),
            });
        }
        seen
    }
}

struct Feed(InstanceFeed<Fake, Clock>);

impl Feed {
    fn read(&mut self) -> Vec<InstanceFeedItem> {
        let mut seen = Vec::new();
        while let Some(next) = self.0.next().now_or_never() {
            match next.unwrap() {
                Some(item) => seen.push(item),
                None => break,
            }
        }
        seen
    }
}

/// The types of events; `end` after a terminal one.
fn names(items: &[InstanceFeedItem]) -> Vec<String> {
    let mut names = Vec::new();
    for item in items {
        match item {
            InstanceFeedItem::Event(_, event) => {
                names.push(event.event_type().to_owned());
                names.extend(event.is_terminal().then(|| "end".to_owned()));
            }
            InstanceFeedItem::Reset(_) => names.push("reset".to_owned()),
        }
    }
    names
}

fn ids(items: &[InstanceFeedItem]) -> Vec<u64> {
    let id = |item: &InstanceFeedItem| match item {
        InstanceFeedItem::Event(id, _) => Some(id.get()),
        InstanceFeedItem::Reset(_) => None,
    };
    items.iter().filter_map(id).collect()
}

fn after(id: u64) -> Cursor {
    Cursor::After(EventId::new(id).unwrap())
}
