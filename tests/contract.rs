//! The contract suite itself: each of its checks catches a store that breaks the promise.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use Fault::{
    AppendsOneByOne, BeforeIncludes, ClosedForGood, CutsAt64Kib, EmptyIsClosed, EndsWithoutEnd,
    EventPerBatch, ForgetsEnd, ForgetsHead, ForgetsKeys, HeadOfPage, HidesTrimmed, IgnoresBytes,
    IgnoresLimit, KeysLowercase, KeysToNul, MixesTimes, NeverClosed, NeverRings, NormalisesLines,
    OldestOfPage, OneShort, OneWaker, Remembers, Resumable, ReversesBatches, RingsEverySecond,
    SmallBatches, SmallRing, Sound, StillClosed, WaitsAlways,
};
use bytes::Bytes;
use ssetarget::store::{Bell, FramePage, FrameStore, Frames, Retention, contract};
use ssetarget::{
    Appended, Batch, EventId, EventStore, MemoryEventStore, NewEvent, NullEventStore, Page,
    PageLimit, frames,
};

/// The fault of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Sound,
    /// Appends the events of a batch one after another.
    AppendsOneByOne,
    /// Treats events of the time itself as older ones.
    BeforeIncludes,
    /// Gives the same ends for every log.
    EmptyIsClosed,
    /// Ignores the byte limit, or counts characters.
    IgnoresBytes,
    IgnoresLimit,
    OneShort,
    ClosedForGood,
    NeverClosed,
    StillClosed,
    CutsAt64Kib,
    /// Adds an event that nobody appended.
    EventPerBatch,
    /// Reports that a log has not ended.
    EndsWithoutEnd,
    ForgetsEnd,
    ForgetsHead,
    ForgetsKeys,
    HeadOfPage,
    OldestOfPage,
    HidesTrimmed,
    KeysLowercase,
    KeysToNul,
    MixesTimes,
    NormalisesLines,
    ReversesBatches,
    SmallBatches,
    NeverRings,
    /// Has room for one waiter.
    OneWaker,
    RingsEverySecond,
    /// Does not look before it waits.
    WaitsAlways,
    // Faults of a transient store.
    Remembers,
    Resumable,
    SmallRing,
}

/// Each fault, and the checks that catch it.
const CAUGHT: &[(Fault, &[&str])] = &[
    (EmptyIsClosed, &["empty_log"]),
    (ReversesBatches, &["order"]),
    (EventPerBatch, &["empty_batch", "order"]),
    (ForgetsKeys, &["keys", "dropped_futures", "follow"]),
    (KeysLowercase, &["awkward_keys"]),
    (KeysToNul, &["awkward_keys"]),
    (IgnoresLimit, &["page_of_events"]),
    (OneShort, &["page_of_events"]),
    (IgnoresBytes, &["page_of_bytes"]),
    (HeadOfPage, &["positions"]),
    (OldestOfPage, &["positions"]),
    (ClosedForGood, &["terminal"]),
    (NeverClosed, &["terminal"]),
    (ForgetsEnd, &["terminal"]),
    (EndsWithoutEnd, &["ends"]),
    (MixesTimes, &["times"]),
    (BeforeIncludes, &["times"]),
    (NormalisesLines, &["awkward_data"]),
    (CutsAt64Kib, &["large_data", "many_lines", "huge_batch"]),
    (SmallBatches, &["large_batch"]),
    (AppendsOneByOne, &["concurrent_appends", "dropped_futures"]),
    (
        WaitsAlways,
        &["changed_at_once", "changed_between_read_and_wait"],
    ),
    (NeverRings, &["changed_by_append", "follow"]),
    (RingsEverySecond, &["changed_by_append"]),
    (OneWaker, &["changed_for_every_waiter"]),
    (HidesTrimmed, &["trimmed_in_part", "trimmed_under_readers"]),
    (ForgetsHead, &["trimmed_as_a_whole"]),
    (StillClosed, &["trimmed_as_a_whole"]),
];

const CAUGHT_TRANSIENT: &[(Fault, &[&str])] = &[
    (Resumable, &["transient"]),
    (Remembers, &["transient", "transient_end"]),
    (SmallRing, &["transient_readers"]),
];

type Check<S> = for<'a> fn(&'a S) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! checks {
    ($($name:ident $(($trim:expr))?),* $(,)?) => {
        &[$((stringify!($name), |store| {
            Box::pin(async move { contract::checks::$name(store $(, &mut { $trim })?).await })
        })),*]
    };
}

const CHECKS: &[(&str, Check<Faulty>)] = checks![
    empty_log,
    order,
    empty_batch,
    keys,
    awkward_keys,
    page_of_events,
    page_of_bytes,
    positions,
    terminal,
    ends,
    times,
    awkward_data,
    large_data,
    many_lines,
    large_batch,
    huge_batch,
    concurrent_appends,
    dropped_futures,
    changed_at_once,
    changed_by_append,
    changed_between_read_and_wait,
    changed_for_every_waiter,
    follow,
    trimmed_in_part(async |store: &Faulty, last| store.inner.trim(last)),
    trimmed_as_a_whole(async |store: &Faulty, last| store.inner.trim(last)),
    trimmed_under_readers(async |store: &Faulty, last| store.inner.trim(last)),
];

const TRANSIENT: &[(&str, Check<FaultyNull>)] =
    checks![transient, transient_end, transient_readers];

#[test]
fn every_fault_is_caught_and_every_check_catches_one() {
    let mut able_to_fail = BTreeSet::new();
    for (fault, names) in CAUGHT {
        for name in *names {
            assert_caught(*fault, name, CHECKS, Faulty::new);
            able_to_fail.insert(*name);
        }
    }
    for (fault, names) in CAUGHT_TRANSIENT {
        for name in *names {
            assert_caught(*fault, name, TRANSIENT, FaultyNull::new);
            able_to_fail.insert(*name);
        }
    }
    // A check that is added to the suite needs a fault that it catches.
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/contract");
    let files = std::fs::read_dir(folder).unwrap();
    let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let suite: String = texts.collect();
    let published: BTreeSet<_> = suite
        .lines()
        .filter_map(|line| line.strip_prefix("pub async fn ")?.split('<').next())
        .filter(|name| *name != "check" && !name.starts_with("check_"))
        .collect();
    assert_eq!(able_to_fail, published);
    for name in published {
        let call = format!("    {name}(&new_store().await");
        assert!(suite.contains(&call), "no suite has {name}");
    }
}

#[test]
fn a_store_without_a_fault_passes_every_check() {
    for (name, check) in CHECKS {
        let outcome = outcome(check(&Faulty::new(Sound)));
        assert_eq!(outcome, Ok(()), "{name}");
    }
    for (name, check) in TRANSIENT {
        let outcome = outcome(check(&FaultyNull::new(Sound)));
        assert_eq!(outcome, Ok(()), "{name}");
    }
}

#[test]
fn every_fault_is_caught_by_a_suite() {
    for (fault, names) in CAUGHT {
        let trims = names.iter().any(|name| name.starts_with("trimmed"));
        let caught = if trims {
            let trim = async |store: &Faulty, last| store.inner.trim(last);
            outcome(contract::check_trimmed(async || Faulty::new(*fault), trim))
        } else {
            outcome(contract::check(async || Faulty::new(*fault)))
        };
        assert!(caught.is_err(), "{fault:?}");
    }
    for (fault, _) in CAUGHT_TRANSIENT {
        let caught = outcome(contract::check_transient(async || FaultyNull::new(*fault)));
        assert!(caught.is_err(), "{fault:?}");
    }
    let transient = contract::check(async || NullEventStore::new());
    assert!(outcome(transient).is_err(), "a store that keeps nothing");
}

#[test]
fn a_store_that_forgets_when_it_is_reopened_is_caught() {
    let keys = Arc::new(MemoryEventStore::new());
    let opened = AtomicUsize::new(0);
    let forgets_keys = contract::check_reopened(async || Reopened {
        inner: Arc::clone(&keys),
        keys: Some(opened.fetch_add(1, Ordering::Relaxed)),
    });
    let failed = outcome(forgets_keys).unwrap_err();
    assert!(failed.contains("keys are forgotten"), "{failed}");

    let forgets_events = contract::check_reopened(async || MemoryEventStore::new());
    let failed = outcome(forgets_events).unwrap_err();
    assert!(failed.contains("after reopening"), "{failed}");

    let whole = Arc::new(MemoryEventStore::new());
    let forgets_nothing = contract::check_reopened(async || Reopened {
        inner: Arc::clone(&whole),
        keys: None,
    });
    assert_eq!(outcome(forgets_nothing), Ok(()));
}

#[test]
fn frames_that_are_not_the_bytes_of_the_events_are_caught() {
    let check = |fault| {
        let log = Arc::new(MemoryEventStore::new());
        outcome(contract::check_frames(async || Framed {
            fault,
            log: Arc::clone(&log),
        }))
    };
    assert_eq!(check(Sound), Ok(()));
    for fault in [IgnoresLimit, HeadOfPage, NormalisesLines, OneShort] {
        let caught = check(fault);
        assert!(caught.is_err(), "{fault:?}");
    }
}

#[test]
fn stores_that_keep_another_number_of_events_are_caught() {
    let keeping = |other: fn(usize) -> Option<usize>| {
        outcome(contract::check_bounded(async |retention| {
            let mut kept = Retention::for_ever();
            kept.events = retention.events.and_then(other);
            MemoryEventStore::new().retention(kept)
        }))
    };
    assert_eq!(keeping(Some), Ok(()));
    for other in [
        |events| Some(events + 1),
        |events| Some(events - 1),
        |_| None,
        |events| Some(if events == 3 { 3 } else { 6 }),
    ] as [fn(usize) -> Option<usize>; 4]
    {
        assert!(keeping(other).is_err());
    }
}

fn assert_caught<S>(fault: Fault, name: &str, checks: &[(&str, Check<S>)], store: fn(Fault) -> S) {
    let (_, check) = checks.iter().find(|(known, _)| *known == name).unwrap();
    let outcome = outcome(check(&store(fault)));
    assert!(outcome.is_err(), "{name} does not notice: {fault:?}");
}

/// Runs a check until it returns, panics, or waits for something that will not come.
fn outcome(check: impl Future<Output = ()>) -> Result<(), String> {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let run = || {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut check = std::pin::pin!(check);
        let mut polls = 0;
        while woken.0.swap(false, Ordering::SeqCst) {
            let polled = check.as_mut().poll(&mut Context::from_waker(&waker));
            if polled.is_ready() {
                return Ok(());
            }
            polls += 1;
            if polls > 1_000_000 {
                return Err("it never ends".to_owned());
            }
        }
        Err("it is not woken".to_owned())
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        let literal = panic.downcast_ref::<&str>().copied();
        Err(message.unwrap_or_else(|| literal.unwrap_or_default().to_owned()))
    })
}

/// Memory, with a fault.
struct Faulty {
    fault: Fault,
    inner: MemoryEventStore,
    bell: Bell,
    waker: Mutex<Option<Waker>>,
    appends: AtomicUsize,
    was_closed: AtomicBool,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            inner: MemoryEventStore::new(),
            bell: Bell::new(),
            waker: Mutex::new(None),
            appends: AtomicUsize::new(0),
            was_closed: AtomicBool::new(false),
        }
    }

    fn distort(&self, batch: &mut Vec<NewEvent>) {
        match self.fault {
            ReversesBatches => batch.reverse(),
            EventPerBatch if batch.is_empty() => batch.push(new("t", "nobody's")),
            EventPerBatch => *batch = [batch.clone(), vec![new("t", "nobody's")]].concat(),
            ForgetsKeys => batch.iter_mut().for_each(|event| *event = keyless(event)),
            KeysLowercase => rekey(batch, str::to_lowercase),
            KeysToNul => rekey(batch, |key| key.split('\0').next().unwrap().to_owned()),
            NormalisesLines => {
                for event in batch {
                    let data = event.data().replace("\r\n", "\n");
                    *event = rebuilt(event, &data, event.key());
                }
            }
            CutsAt64Kib => {
                for event in batch {
                    let data: String = event.data().chars().take(65_536).collect();
                    *event = rebuilt(event, &data, event.key());
                }
            }
            SmallBatches => batch.truncate(500),
            _ => {}
        }
    }

    fn ring(&self) {
        let appends = self.appends.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            NeverRings => {}
            RingsEverySecond if appends % 2 == 1 => {}
            _ => self.bell.ring(),
        }
        if let Some(waker) = self.waker.lock().unwrap().take() {
            waker.wake();
        }
    }

    async fn head(&self) -> Option<EventId> {
        self.inner
            .read(None, PageLimit::default())
            .await
            .unwrap()
            .head
    }
}

impl EventStore for Faulty {
    type Error = Infallible;

    async fn append(&self, mut batch: Vec<NewEvent>) -> Result<Vec<Appended>, Infallible> {
        let events = batch.len();
        self.distort(&mut batch);
        let mut outcomes = Vec::new();
        if self.fault == AppendsOneByOne {
            for event in batch {
                outcomes.extend(self.inner.append(vec![event]).await?);
                yield_now().await;
            }
        } else {
            outcomes = self.inner.append(batch).await?;
        }
        outcomes.resize(events, Appended::Duplicate);
        self.ring();
        Ok(outcomes)
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Infallible> {
        let limit = match self.fault {
            IgnoresLimit => PageLimit {
                events: usize::MAX,
                ..limit
            },
            OneShort => PageLimit {
                events: (limit.events - 1).max(1),
                ..limit
            },
            IgnoresBytes => PageLimit {
                bytes: usize::MAX,
                ..limit
            },
            _ => limit,
        };
        let mut page = self.inner.read(after, limit).await?;
        if page.closed {
            self.was_closed.store(true, Ordering::SeqCst);
        }
        let was_closed = self.was_closed.load(Ordering::SeqCst);
        match self.fault {
            EmptyIsClosed => page.closed |= page.head.is_none(),
            ClosedForGood => page.closed = was_closed,
            StillClosed => page.closed |= page.oldest.is_none() && was_closed,
            NeverClosed => page.closed = false,
            ForgetsEnd => page.closed &= !page.events.is_empty(),
            HeadOfPage => page.head = page.events.last().map(|event| event.id).or(page.head),
            OldestOfPage => {
                page.oldest = page.events.first().map(|event| event.id).or(page.oldest);
            }
            HidesTrimmed => page.trimmed = None,
            ForgetsHead if page.oldest.is_none() => page.head = None,
            MixesTimes => {
                for event in &mut page.events {
                    event.timestamp -= Duration::from_secs(event.id.get());
                }
            }
            _ => {}
        }
        Ok(page)
    }

    async fn ends(&self, after: Option<EventId>) -> Result<Page<()>, Infallible> {
        let mut ends = self.inner.ends(after).await?;
        ends.closed &= self.fault != EndsWithoutEnd;
        Ok(ends)
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Infallible> {
        if self.fault == OneWaker {
            let mut head = self.head().await;
            while head == after {
                let mut waited = false;
                std::future::poll_fn(|context| {
                    if std::mem::replace(&mut waited, true) {
                        return Poll::Ready(());
                    }
                    *self.waker.lock().unwrap() = Some(context.waker().clone());
                    Poll::Pending
                })
                .await;
                head = self.head().await;
            }
            return Ok(());
        }
        let listener = self.bell.listen();
        if self.fault == WaitsAlways || self.head().await == after {
            listener.await;
        }
        Ok(())
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Infallible> {
        let time = match self.fault {
            BeforeIncludes => time + Duration::from_millis(1),
            _ => time,
        };
        self.inner.before(time).await
    }
}

/// A store that keeps nothing, with a fault.
struct FaultyNull {
    fault: Fault,
    null: NullEventStore,
    memory: MemoryEventStore,
}

impl FaultyNull {
    fn new(fault: Fault) -> Self {
        let ring = if fault == SmallRing { 7 } else { 1024 };
        Self {
            fault,
            null: NullEventStore::new().ring_size(ring),
            memory: MemoryEventStore::new(),
        }
    }
}

impl EventStore for FaultyNull {
    type Error = Infallible;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Infallible> {
        match self.fault {
            Remembers => self.memory.append(batch).await,
            _ => self.null.append(batch).await,
        }
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Infallible> {
        match self.fault {
            Remembers => self.memory.read(after, limit).await,
            _ => self.null.read(after, limit).await,
        }
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Infallible> {
        match self.fault {
            Remembers => self.memory.changed(after).await,
            _ => self.null.changed(after).await,
        }
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Infallible> {
        self.null.before(time).await
    }

    fn is_resumable(&self) -> bool {
        self.fault == Resumable
    }
}

/// Memory that has frames, with a fault.
struct Framed {
    fault: Fault,
    log: Arc<MemoryEventStore>,
}

impl FrameStore for Framed {
    type Bytes = Bytes;

    async fn read_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<Bytes>, Infallible> {
        let events = match self.fault {
            IgnoresLimit => limit.events.saturating_add(1),
            _ => limit.events,
        };
        let mut page = self.log.read(after, PageLimit { events, ..limit }).await?;
        if self.fault == NormalisesLines {
            for event in &mut page.events {
                event.data = event.data.replace("\r\n", "\n\n");
            }
        }
        let last = page.events.last().map(|event| event.id);
        if self.fault == OneShort && page.events.len() > 1 {
            page.events.pop();
        }
        let bytes = frames(&Batch::Events(page.events), true);
        Ok(Page {
            events: last.map(|last| Frames {
                bytes: bytes.into(),
                last,
            }),
            oldest: page.oldest,
            head: match self.fault {
                HeadOfPage => last.or(page.head),
                _ => page.head,
            },
            trimmed: page.trimmed,
            closed: page.closed,
        })
    }
}

impl EventStore for Framed {
    type Error = Infallible;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Infallible> {
        self.log.append(batch).await
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Infallible> {
        self.log.read(after, limit).await
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Infallible> {
        self.log.changed(after).await
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Infallible> {
        self.log.before(time).await
    }
}

/// The rest of a log that is opened again, perhaps with other keys each time.
struct Reopened {
    inner: Arc<MemoryEventStore>,
    keys: Option<usize>,
}

impl EventStore for Reopened {
    type Error = Infallible;

    async fn append(&self, mut batch: Vec<NewEvent>) -> Result<Vec<Appended>, Infallible> {
        if let Some(number) = self.keys {
            rekey(&mut batch, |key| format!("{number}/{key}"));
        }
        self.inner.append(batch).await
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Infallible> {
        self.inner.read(after, limit).await
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Infallible> {
        self.inner.changed(after).await
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Infallible> {
        self.inner.before(time).await
    }
}

fn new(event_type: &str, data: &str) -> NewEvent {
    NewEvent::new(event_type, data).unwrap()
}

fn keyless(event: &NewEvent) -> NewEvent {
    rebuilt(event, event.data(), None)
}

fn rekey(batch: &mut [NewEvent], change: impl Fn(&str) -> String) {
    for event in batch {
        let key = event.key().map(&change);
        *event = rebuilt(event, event.data(), key.as_deref());
    }
}

fn rebuilt(event: &NewEvent, data: &str, key: Option<&str>) -> NewEvent {
    let mut copy = new(event.event_type(), data);
    if let Some(key) = key {
        copy = copy.with_key(key).unwrap();
    }
    if event.is_terminal() {
        copy.terminal()
    } else {
        copy
    }
}

async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
