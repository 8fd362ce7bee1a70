//! Relays: their viewers get the same as viewers of the log itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::cell::RefCell;
use std::future::{Future, pending, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_channel::oneshot;
use futures_executor::block_on;
use futures_util::future::{Either, join_all, select};
use futures_util::{FutureExt, StreamExt, poll};
use ssetarget::store::{FramePage, FrameStore, RelayError, RelayStore, Sql, Watch, contract};
use ssetarget::{
    Appended, Batch, Cursor, EventId, EventStore, NewEvent, Page, PageLimit, SqliteEventStore,
    SseTarget, frame_body,
};
use support::sql::Database;

type Root = Shared<SqliteEventStore<Database>>;
type Relay<U> = Shared<RelayStore<U>>;

#[test]
fn relays_keep_the_promise() {
    let root = || Shared::new(SqliteEventStore::new(Database::in_memory()));
    block_on(contract::check(async || Followed::new(root())));
    block_on(contract::check(async || {
        Followed::new(Followed::new(root()))
    }));
    let kept = Database::in_memory();
    block_on(contract::check_frames(async || {
        Followed::new(SqliteEventStore::new(kept.clone()))
    }));
}

#[test]
fn viewers_at_two_levels_of_relays_get_the_bytes_of_the_log() {
    let root = root();
    let middle: Vec<_> = (0..2).map(|_| relay(&root)).collect();
    let leaves: Vec<_> = (0..4).map(|leaf| relay(&middle[leaf % 2])).collect();
    let follows = middle.iter().map(|relay| follow(relay).boxed());
    let follows = follows.chain(leaves.iter().map(|relay| follow(relay).boxed()));

    let body = async {
        say(&root, 0..300).await;
        let mut viewers = Vec::new();
        for leaf in &leaves {
            for after in [0, 1, 7, 150, 256, 299, 300] {
                viewers.push((after, view(leaf, cursor(after)).await));
            }
            viewers.push((300, view(leaf, Cursor::Latest).await));
            assert!(
                viewers.len() % 8 == 0,
                "the eighth of each leaf is at the tail"
            );
        }
        // Single events, and many at once, while they read.
        let write = async {
            for n in 300..400 {
                say(&root, n..n + 1).await;
            }
            say(&root, 400..1000).await;
            let end = NewEvent::new("end", "{}").unwrap().terminal();
            root.append(vec![end]).await.unwrap();
        };
        let read = join_all(viewers.into_iter().map(async |(after, viewer)| {
            let chunks: Vec<_> = viewer.map(Result::unwrap).collect().await;
            (after, chunks.concat())
        }));
        let ((), read) = futures_util::join!(write, read);
        for (number, (after, bytes)) in read.into_iter().enumerate() {
            let mut expected = whole(&root, after).await;
            if number % 8 == 7 {
                // It comes after the heartbeat.
                expected.splice(2..2, *b"id: 300\n\n");
            }
            assert!(bytes == expected, "behind {after}");
        }
        for leaf in &leaves {
            let late = view(leaf, Cursor::Beginning).await;
            let late: Vec<_> = late.map(Result::unwrap).collect().await;
            assert_eq!(late.concat(), whole(&root, 0).await);
            let ended = target(leaf).subscribe(cursor(1001)).await.unwrap();
            assert!(ended.has_ended());
        }
    };
    run(body, join_all(follows));
}

#[test]
fn a_viewer_that_is_ahead_of_its_relay_is_not_reset() {
    block_on(async {
        let root = root();
        say(&root, 0..3).await;
        let relay = relay(&root);
        let mut following = pin!(follow(&relay));
        assert!(poll!(following.as_mut()).is_pending());

        // The relay is not polled, so it does not know of these.
        say(&root, 3..6).await;
        let mut viewer = target(&relay).subscribe(cursor(6)).await.unwrap();
        {
            let mut next = pin!(viewer.next_frames());
            assert!(poll!(next.as_mut()).is_pending(), "no reset, no spinning");
            say(&root, 6..7).await;
            assert_eq!(events(next.await), frame(7));
        }
        // The relay catches up with the viewer, who gets the rest from it.
        let mut next = pin!(viewer.next_frames());
        assert!(poll!(next.as_mut()).is_pending());
        assert!(poll!(following.as_mut()).is_pending());
        say(&root, 7..8).await;
        assert!(poll!(following.as_mut()).is_pending());
        assert_eq!(events(next.await), frame(8));

        // An id that was never assigned gets a reset, as from the log itself.
        let mut lost = target(&relay).subscribe(cursor(99)).await.unwrap();
        let Some(Batch::Reset(reset)) = lost.next_frames().await.unwrap() else {
            panic!("a reset")
        };
        assert_eq!(reset.head, EventId::new(8));
    });
}

#[test]
fn a_relay_that_missed_a_restart_ends_no_stream() {
    block_on(async {
        let root = root();
        let end = NewEvent::new("end", "{}").unwrap().terminal();
        root.append(vec![end]).await.unwrap();
        let relay = relay(&root);
        let mut following = pin!(follow(&relay));
        assert!(poll!(following.as_mut()).is_pending());
        let page = relay.read_frames(EventId::new(1), PageLimit::default());
        assert!(page.await.unwrap().closed);

        say(&root, 2..3).await;
        let mut viewer = target(&relay).subscribe(cursor(1)).await.unwrap();
        assert!(!viewer.has_ended());
        let next = viewer.next_frames().await;
        assert_eq!(events(next), "id: 2\nevent: said\ndata: 2\n\n");
    });
}

#[test]
fn an_upstream_that_fails_for_a_while_is_not_noticed() {
    block_on(async {
        let database = Database::in_memory();
        let root = Shared::new(SqliteEventStore::new(database.clone()));
        say(&root, 0..2).await;
        let relay = relay(&root);
        let pauses = RefCell::new(Vec::new());
        database.fail_next(4);
        let mut following = pin!(relay.0.follow(|pause| {
            pauses.borrow_mut().push(pause.as_millis());
            ready(())
        }));
        root.0.forget();
        assert!(poll!(following.as_mut()).is_pending());
        let mut viewer = target(&relay).subscribe(Cursor::Beginning).await.unwrap();
        assert_eq!(events(viewer.next_frames().await), frame(1) + &frame(2));
        assert_eq!(*pauses.borrow(), [50, 100, 200, 400]);
    });
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_failed_is_followed_again_and_viewers_keep_their_places() {
    let database = Database::in_memory();
    let root = Shared::new(SqliteEventStore::new(database.clone()));
    say(&root, 0..2).await;
    let relay = relay(&root);
    let following = Arc::clone(&relay.0);
    let following = tokio::spawn(async move { following.follow(tokio::time::sleep).await });
    let mut viewer = target(&relay).subscribe(Cursor::Beginning).await.unwrap();
    assert_eq!(events(viewer.next_frames().await), frame(1) + &frame(2));
    let mut next = Box::pin(viewer.next_frames());
    assert!(poll!(next.as_mut()).is_pending());

    // The log fails for ten seconds. The viewer waits, a new viewer can go elsewhere, and a later
    // one is served.
    database.fail_next(usize::MAX);
    root.0.forget();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(target(&relay).subscribe(cursor(1)).await.is_ok());
    tokio::time::sleep(Duration::from_millis(9_300)).await;
    assert!(poll!(next.as_mut()).is_pending(), "it is cut off");
    let refused = target(&relay).subscribe(cursor(1)).await;
    let Err(RelayError::Unreachable(why)) = refused else {
        panic!("it is taken")
    };
    assert!(why.to_string().contains("failed"), "{why}");
    database.fail_next(0);
    say(&root, 2..3).await;
    assert_eq!(events(next.await), frame(3));
    assert!(target(&relay).subscribe(Cursor::Latest).await.is_ok());

    // The log fails for two minutes: the viewer gets an error after half a minute. Then everything
    // works again by itself.
    let mut next = Box::pin(viewer.next_frames());
    assert!(poll!(next.as_mut()).is_pending());
    let start = tokio::time::Instant::now();
    database.fail_next(usize::MAX);
    root.0.forget();
    assert!(matches!(next.await, Err(RelayError::Unreachable(_))));
    let waited = start.elapsed().as_secs();
    assert!((30..40).contains(&waited), "{waited} s");
    tokio::time::sleep(Duration::from_secs(80)).await;
    database.fail_next(0);
    say(&root, 3..4).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(events(viewer.next_frames().await), frame(4));
    following.abort();
}

#[test]
fn a_viewer_waits_until_the_relay_knows_the_log() {
    block_on(async {
        let database = Database::in_memory();
        let root = Shared::new(SqliteEventStore::new(database.clone()));
        say(&root, 0..2).await;
        let relay = relay(&root);
        database.fail_next(1);
        root.0.forget();
        let target = target(&relay);
        let mut early = pin!(target.subscribe(Cursor::Beginning));
        {
            let mut following = pin!(relay.0.follow(|_| pending()));
            assert!(poll!(following.as_mut()).is_pending());
            assert!(poll!(early.as_mut()).is_pending());
        }
        let mut following = pin!(follow(&relay));
        assert!(poll!(following.as_mut()).is_pending());
        assert!(early.await.is_ok());
    });
}

/// A relay that has read only a part of a log does not take it for the whole log: a viewer that starts at the tail waits.
#[tokio::test(start_paused = true)]
async fn a_relay_that_has_read_a_part_of_a_log_knows_no_tail() {
    let upstream = Shared::new(Counted::new());
    let said = |number: u64| NewEvent::new("said", number.to_string()).unwrap();
    // More than a relay reads ahead.
    upstream
        .append((0..5_000).map(said).collect())
        .await
        .unwrap();
    let relay = relay(&upstream);
    let follows = Shared(Arc::clone(&relay.0));
    let following = tokio::spawn(async move { follow(&follows).await });
    // It knows the ends of the log, and has no event yet.
    tokio::time::sleep(Duration::from_millis(15)).await;
    let target = target(&relay);
    let mut viewer = {
        let mut early = pin!(target.subscribe(Cursor::Latest));
        assert!(poll!(early.as_mut()).is_pending());
        early.await.unwrap()
    };
    upstream.append(vec![said(5_000)]).await.unwrap();
    let next = events(viewer.next_frames().await);
    assert!(next.starts_with("id: 5001\n"), "{}", next.len());
    following.abort();
}

#[test]
fn a_log_that_was_deleted_is_another_log() {
    block_on(async {
        let database = Database::in_memory();
        let root = Shared::new(SqliteEventStore::new(database.clone()));
        say(&root, 0..5).await;
        let relay = relay(&root);
        let mut following = pin!(follow(&relay));
        assert!(poll!(following.as_mut()).is_pending());
        let mut viewer = target(&relay).subscribe(Cursor::Beginning).await.unwrap();
        let all: String = (1..=5).map(frame).collect();
        assert_eq!(events(viewer.next_frames().await), all);

        database.exec("DROP TABLE events", &[]).unwrap();
        root.0.forget();
        assert!(poll!(following.as_mut()).is_pending());
        let Some(Batch::Reset(reset)) = viewer.next_frames().await.unwrap() else {
            panic!("a reset")
        };
        assert_eq!((reset.oldest, reset.head), (None, None));

        // Nothing of the first is left.
        say(&root, 10..11).await;
        assert!(poll!(following.as_mut()).is_pending());
        let anew = "id: 1\nevent: said\ndata: 10\n\n";
        assert_eq!(events(viewer.next_frames().await), anew);
        let mut late = target(&relay).subscribe(Cursor::Beginning).await.unwrap();
        assert_eq!(events(late.next_frames().await), anew);
    });
}

#[test]
fn a_relay_asks_the_upstream_before_it_says_that_a_log_is_empty() {
    block_on(async {
        let root = root();
        let relay = relay(&root);
        let mut following = pin!(follow(&relay));
        assert!(poll!(following.as_mut()).is_pending());
        assert_eq!(relay.ends(None).await.unwrap().head, None);
        // The relay is not polled, so it does not know of this one.
        say(&root, 0..1).await;
        assert_eq!(relay.ends(None).await.unwrap().head, EventId::new(1));
    });
}

#[test]
fn viewers_at_the_head_cost_the_upstream_nothing() {
    block_on(async {
        let database = Database::in_memory();
        let root = Shared::new(SqliteEventStore::new(database.clone()));
        say(&root, 0..200).await;
        let relay = relay(&root);
        let mut following = pin!(follow(&relay));
        assert!(poll!(following.as_mut()).is_pending());
        let mut viewers = Vec::new();
        for _ in 0..50 {
            viewers.push(target(&relay).subscribe(Cursor::Beginning).await.unwrap());
        }
        database.take_statements();
        for n in 200..220 {
            for viewer in &mut viewers {
                let _ = events(viewer.next_frames().await);
            }
            say(&root, n..n + 1).await;
            assert!(poll!(following.as_mut()).is_pending());
        }
        let read = database.take_statements();
        let read = read.iter().filter(|run| run.text.contains("group_concat"));
        assert_eq!(read.count(), 0);
    });
}

#[tokio::test(start_paused = true)]
async fn viewers_that_ask_for_the_same_page_at_once_cost_one_call() {
    let root = Counted::new();
    let end = NewEvent::new("end", "{}").unwrap().terminal();
    let said = (0..20_000).map(|n| NewEvent::new("said", n.to_string()).unwrap());
    root.0.append(said.chain([end]).collect()).await.unwrap();
    let (last, calls) = (20_001, Arc::clone(&root.1));
    let target: SseTarget<(), _> = SseTarget::new(RelayStore::new(root));
    let relay = target.clone();
    tokio::spawn(async move { relay.store().follow(tokio::time::sleep).await });
    tokio::time::sleep(Duration::from_secs(1)).await;

    // The run has ended, and all viewers come back for the rest.
    calls.store(0, Ordering::SeqCst);
    let back = (0..400).map(|_| target.subscribe(cursor(last)));
    let back = join_all(back).await;
    assert!(back.into_iter().all(|viewer| viewer.unwrap().has_ended()));
    assert_eq!(calls.load(Ordering::SeqCst), 1, "the end");

    // Viewers that come during a request get the answer to a request that began after they came.
    calls.store(0, Ordering::SeqCst);
    let back = (0..400).map(async |number| {
        tokio::time::sleep(Duration::from_millis(number / 4)).await;
        target.subscribe(cursor(last)).await
    });
    let back = join_all(back).await;
    assert!(back.into_iter().all(|viewer| viewer.unwrap().has_ended()));
    assert!(
        calls.load(Ordering::SeqCst) <= 12,
        "one for each hop's time"
    );

    // Pages older than those that the relay keeps.
    calls.store(0, Ordering::SeqCst);
    let mut viewers = Vec::new();
    for _ in 0..400 {
        viewers.push(target.subscribe(Cursor::Beginning).await.unwrap());
    }
    let read = join_all(viewers.iter_mut().map(|viewer| viewer.next_frames())).await;
    assert!(read.into_iter().all(|batch| batch.unwrap().is_some()));
    assert_eq!(calls.load(Ordering::SeqCst), 1, "a page");

    // The viewer whose request serves all leaves; the others still get their answer.
    calls.store(0, Ordering::SeqCst);
    let mut first = Box::pin(target.subscribe(cursor(last)));
    let mut second = Box::pin(target.subscribe(cursor(last)));
    for _ in 0..3 {
        assert!(poll!(first.as_mut()).is_pending());
        assert!(poll!(second.as_mut()).is_pending());
    }
    drop(first);
    assert!(second.await.unwrap().has_ended());
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_older_than_the_question_reports_no_end() {
    let root = Counted::new();
    let end = NewEvent::new("end", "{}").unwrap().terminal();
    root.0.append(vec![end]).await.unwrap();
    let store = Arc::new(RelayStore::new(root));
    let relay = Arc::clone(&store);
    let following = tokio::spawn(async move { relay.follow(tokio::time::sleep).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut early = Box::pin(store.ends(EventId::new(1)));
    // The relay answers up to the events of the log above, which answers later.
    assert!(poll!(early.as_mut()).is_pending());
    assert!(poll!(early.as_mut()).is_pending());
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(poll!(early.as_mut()).is_pending());
    let again = NewEvent::new("said", "again").unwrap();
    store.upstream().0.append(vec![again]).await.unwrap();
    let late = store.ends(EventId::new(1));
    let (_, late) = futures_util::join!(early, late);
    assert!(!late.unwrap().closed);
    following.abort();
}

fn root() -> Root {
    Shared::new(SqliteEventStore::new(Database::in_memory()))
}

fn relay<U: FrameStore + 'static>(upstream: &Shared<U>) -> Relay<Shared<U>> {
    Shared::new(RelayStore::new(Shared(Arc::clone(&upstream.0))))
}

/// Follows with pauses that take no time.
async fn follow<U: FrameStore + 'static>(relay: &Relay<U>) {
    relay.0.follow(|_| ready(())).await;
}

fn target<S: EventStore>(store: &Shared<S>) -> SseTarget<(), Shared<S>> {
    SseTarget::new(Shared(Arc::clone(&store.0)))
}

fn cursor(after: u64) -> Cursor {
    EventId::new(after).map_or(Cursor::Beginning, Cursor::After)
}

async fn view<S: FrameStore + 'static>(
    store: &Shared<S>,
    cursor: Cursor,
) -> futures_util::stream::BoxStream<'static, Result<S::Bytes, S::Error>> {
    let subscription = target(store).subscribe(cursor).await.unwrap();
    frame_body(subscription, |_| pending()).boxed()
}

async fn whole(root: &Root, after: u64) -> Vec<u8> {
    let chunks: Vec<_> = view(root, cursor(after)).await.collect().await;
    let chunks: Vec<Bytes> = chunks.into_iter().map(Result::unwrap).collect();
    chunks.concat()
}

async fn say(root: &Root, numbers: std::ops::Range<u64>) {
    let batch = numbers.map(|n| NewEvent::new("said", n.to_string()).unwrap());
    root.append(batch.collect()).await.unwrap();
}

fn frame(id: u64) -> String {
    format!("id: {id}\nevent: said\ndata: {}\n\n", id - 1)
}

fn events<E: std::fmt::Debug>(next: Result<Option<Batch<Bytes>>, E>) -> String {
    match next.unwrap() {
        Some(Batch::Events(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("no events but {other:?}"),
    }
}

fn run(body: impl Future<Output = ()>, follows: impl Future) {
    block_on(async {
        let Either::Left(_) = select(pin!(body), pin!(follows)).await else {
            panic!("a relay gave up")
        };
    });
}

/// A log above, ten milliseconds away, that counts the requests of viewers.
struct Counted(SqliteEventStore<Database>, Arc<AtomicUsize>);

impl Counted {
    fn new() -> Self {
        let store = SqliteEventStore::new(Database::in_memory());
        Self(store, Arc::default())
    }

    async fn hop(&self) {
        self.1.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl EventStore for Counted {
    type Error = <SqliteEventStore<Database> as EventStore>::Error;
    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Self::Error> {
        self.0.append(batch).await
    }
    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Self::Error> {
        self.hop().await;
        self.0.read(after, limit).await
    }
    async fn ends(&self, after: Option<EventId>) -> Result<Page<()>, Self::Error> {
        self.hop().await;
        self.0.ends(after).await
    }
    async fn changed(&self, after: Option<EventId>) -> Result<(), Self::Error> {
        self.0.changed(after).await
    }
    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Self::Error> {
        self.0.before(time).await
    }
}

impl FrameStore for Counted {
    type Bytes = Bytes;
    async fn read_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<Bytes>, Self::Error> {
        self.hop().await;
        self.0.read_frames(after, limit).await
    }
}

/// A store that has another owner too.
#[derive(Debug)]
struct Shared<S>(Arc<S>);

impl<S> Shared<S> {
    fn new(store: S) -> Self {
        Self(Arc::new(store))
    }
}

impl<S: EventStore> EventStore for Shared<S> {
    type Error = S::Error;
    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, S::Error> {
        self.0.append(batch).await
    }
    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, S::Error> {
        self.0.read(after, limit).await
    }
    async fn ends(&self, after: Option<EventId>) -> Result<Page<()>, S::Error> {
        self.0.ends(after).await
    }
    async fn changed(&self, after: Option<EventId>) -> Result<(), S::Error> {
        self.0.changed(after).await
    }
    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, S::Error> {
        self.0.before(time).await
    }
    fn watch(&self) -> Watch {
        self.0.watch()
    }
}

impl<S: FrameStore> FrameStore for Shared<S> {
    type Bytes = S::Bytes;
    async fn read_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<S::Bytes>, S::Error> {
        self.0.read_frames(after, limit).await
    }
}

/// A relay with a thread that follows for it.
struct Followed<U: FrameStore> {
    relay: Arc<RelayStore<U>>,
    _stop: oneshot::Sender<()>,
}

impl<U: FrameStore + 'static> Followed<U> {
    fn new(upstream: U) -> Self {
        let relay = Arc::new(RelayStore::new(upstream));
        let (stop, stopped) = oneshot::channel();
        let following = Arc::clone(&relay);
        thread::spawn(move || {
            let pause = |pause: Duration| {
                thread::sleep(pause);
                ready(())
            };
            block_on(select(pin!(following.follow(pause)), stopped).map(drop));
        });
        Self { relay, _stop: stop }
    }
}

impl<U: FrameStore + 'static> EventStore for Followed<U> {
    type Error = RelayError<U::Error>;
    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Self::Error> {
        self.relay.append(batch).await
    }
    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Self::Error> {
        self.relay.read(after, limit).await
    }
    async fn ends(&self, after: Option<EventId>) -> Result<Page<()>, Self::Error> {
        self.relay.ends(after).await
    }
    async fn changed(&self, after: Option<EventId>) -> Result<(), Self::Error> {
        self.relay.changed(after).await
    }
    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Self::Error> {
        self.relay.before(time).await
    }
}

impl<U: FrameStore + 'static> FrameStore for Followed<U> {
    type Bytes = U::Bytes;
    async fn read_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<U::Bytes>, Self::Error> {
        self.relay.read_frames(after, limit).await
    }
}
