//! Viewers of several logs in a simulation: direct, over relays, over hibernating sockets, and of merged streams.
//! They are cut in mid-frame, half open, stalled, behind proxies that buffer or cut. The checker gets what they see.
//! Nothing happens by itself: [`Audience::step`] does one thing, chosen by the dice.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use serde_json::Value;
use ssetarget::internals::{Budget, Kept, Pace, Pushed, PushedStream, Roster, Round, Taken};
use ssetarget::store::{
    Appended, FramePage, FrameStore, Page, PageLimit, RelayStore, Sql, SqlValue,
};
use ssetarget::{
    Cursor, EventId, EventStore, MemoryEventStore, MergedCursor, MergedSubscription, NewEvent,
    SseTarget, body, frame_body,
};
use ssetarget_checker::{Answer, Checker, End, Event, Fact, From, Record};

use crate::place::{Dice, Memory, Place, Remote, Store};
use crate::support::sse::{Message, SseReader};

/// Virtual time for futures that can cross threads, in milliseconds.
#[derive(Clone, Default)]
pub(crate) struct Hours(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    now: u64,
    timers: BTreeMap<(u64, u64), Waker>,
    made: u64,
}

impl Hours {
    fn sleep(&self, duration: Duration) -> Nap {
        let mut state = self.0.lock().unwrap();
        state.made += 1;
        let until = state.now + u64::try_from(duration.as_millis()).unwrap();
        Nap {
            hours: self.clone(),
            until: (until, state.made),
        }
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.lock().unwrap().now
    }

    /// Sets the time, which does not go back, and wakes those whose sleep is over.
    pub(crate) fn set(&self, now: u64) {
        let mut wakers = Vec::new();
        {
            let mut state = self.0.lock().unwrap();
            state.now = state.now.max(now);
            while let Some(timer) = state.timers.first_entry()
                && timer.key().0 <= now
            {
                wakers.push(timer.remove());
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

struct Nap {
    hours: Hours,
    until: (u64, u64),
}

impl Future for Nap {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.hours.0.lock().unwrap();
        if state.now >= self.until.0 {
            return Poll::Ready(());
        }
        state.timers.insert(self.until, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Nap {
    fn drop(&mut self) {
        self.hours.0.lock().unwrap().timers.remove(&self.until);
    }
}

/// Whether the future is to be polled.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A future that is polled when it was woken.
struct Polled<T> {
    it: T,
    flag: Arc<Flag>,
}

impl<T> Polled<T> {
    fn new(it: T) -> Self {
        Self {
            it,
            flag: Arc::new(Flag(AtomicBool::new(true))),
        }
    }

    fn is_woken(&self) -> bool {
        self.flag.0.load(Ordering::SeqCst)
    }

    fn poll<R>(&mut self, poll: impl FnOnce(&mut T, &mut Context<'_>) -> R) -> R {
        self.flag.0.store(false, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&self.flag));
        poll(&mut self.it, &mut Context::from_waker(&waker))
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, String>>>>;
type Opening = Pin<Box<dyn Future<Output = Result<Option<Chunks>, String>>>>;

/// The place of a log.
#[derive(Clone)]
pub(crate) enum Source {
    Memory(Arc<MemoryEventStore>),
    Place(Arc<Place>),
}

pub(crate) struct Log {
    pub(crate) name: String,
    pub(crate) source: Source,
}

/// A store of any kind, as a server has it.
#[derive(Clone)]
enum Any {
    Memory(Arc<MemoryEventStore>),
    Remote(Remote),
}

/// An error of [`Any`].
type AnyError = crate::place::Lost;

impl EventStore for Any {
    type Error = AnyError;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, AnyError> {
        match self {
            Self::Memory(store) => Ok(store.append(batch).await.unwrap()),
            Self::Remote(store) => store.append(batch).await,
        }
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, AnyError> {
        match self {
            Self::Memory(store) => Ok(store.read(after, limit).await.unwrap()),
            Self::Remote(store) => store.read(after, limit).await,
        }
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), AnyError> {
        match self {
            Self::Memory(store) => {
                store.changed(after).await.unwrap();
                Ok(())
            }
            Self::Remote(store) => store.changed(after).await,
        }
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, AnyError> {
        match self {
            Self::Memory(store) => Ok(store.before(time).await.unwrap()),
            Self::Remote(store) => store.before(time).await,
        }
    }
}

/// A relay, and the future that follows the log above for it.
#[derive(Clone)]
struct Relay(Arc<RelayStore<Remote>>);

impl EventStore for Relay {
    type Error = <RelayStore<Remote> as EventStore>::Error;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Self::Error> {
        self.0.append(batch).await
    }

    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, Self::Error> {
        self.0.read(after, limit).await
    }

    async fn ends(&self, after: Option<EventId>) -> Result<Page<()>, Self::Error> {
        self.0.ends(after).await
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Self::Error> {
        self.0.changed(after).await
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, Self::Error> {
        self.0.before(time).await
    }
}

impl FrameStore for Relay {
    type Bytes = Bytes;

    async fn read_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<FramePage<Bytes>, Self::Error> {
        self.0.read_frames(after, limit).await
    }
}

type Following = Polled<Pin<Box<dyn Future<Output = ()>>>>;

/// The viewers of an object whose streams are pushed, each with its number.
type PushedRoster = Roster<(u32, PushedStream<Store>)>;

/// Streams over sockets that outlive the memory of the object of log 0.
#[derive(Default)]
struct Held {
    sockets: BTreeMap<u32, Socket>,
    /// The streams in the object's memory, as long as it has this memory.
    roster: Option<(Arc<Memory>, PushedRoster)>,
    pace: Pace,
    due: Option<u64>,
    budget: Budget,
    made: u32,
}

/// Both ends of a socket, and the messages between them.
struct Socket {
    /// The data that the object keeps with it.
    kept: Kept,
    /// Pages on their way to the Worker, and acknowledgements on their way to the object.
    pages: Vec<Bytes>,
    acknowledged: VecDeque<u32>,
    taken: Taken,
    closed: Option<Close>,
    entry: u64,
    has_handed_out: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Close {
    End,
    Broken,
}

impl Held {
    /// Calls it with the streams, which are restored from their sockets if the object has lost its memory.
    fn with<T>(
        &mut self,
        place: &Place,
        work: impl FnOnce(&mut PushedRoster, &mut BTreeMap<u32, Socket>) -> T,
    ) -> T {
        let memory = place.memory();
        let kept = self.roster.take();
        let (memory, mut roster) = match kept.filter(|(known, _)| Arc::ptr_eq(known, &memory)) {
            Some(kept) => kept,
            None => {
                let mut roster = Roster::new();
                for (number, socket) in &self.sockets {
                    if socket.closed.is_none() {
                        let stream = PushedStream::resume(memory.target(), socket.kept);
                        roster.insert(*number, (*number, stream.unwrap()));
                    }
                }
                (memory, roster)
            }
        };
        let result = work(&mut roster, &mut self.sockets);
        self.roster = Some((memory, roster));
        result
    }

    fn round(&mut self, place: &Place, now: u64) {
        self.pace.begin(now as f64);
        self.due = None;
        self.with(place, |roster, sockets| {
            roster.retain(|(number, stream)| deliver(stream, sockets.get_mut(number).unwrap()));
        });
    }

    /// Notifies the streams that the log has changed.
    fn changed(&mut self, place: &Place, now: u64) {
        let viewers = self.with(place, |roster, _| roster.len());
        if viewers == 0 {
            return;
        }
        match self.pace.next(viewers, now as f64) {
            Round::Now => self.round(place, now),
            Round::Due => assert!(self.due.is_some(), "a round that nobody makes"),
            Round::After(pause) => self.due = Some(now + pause.as_millis() as u64 + 1),
        }
    }

    fn remove(&mut self, place: &Place, number: u32) {
        self.with(place, |roster, sockets| {
            roster.remove(number, |(of, _)| *of == number);
            sockets.remove(&number)
        })
        .map(|socket| self.budget.leave(socket.entry))
        .unwrap_or_default();
    }
}

fn deliver(stream: &mut PushedStream<Store>, socket: &mut Socket) -> bool {
    let Socket { kept, pages, .. } = socket;
    let pushed = stream.deliver(|page, place| {
        *kept = place;
        pages.push(page.clone());
        Ok::<_, ()>(())
    });
    match pushed {
        Pushed::Waits => return true,
        Pushed::Ended => socket.closed = Some(Close::End),
        Pushed::Unsent | Pushed::Failed(_) | Pushed::Late => socket.closed = Some(Close::Broken),
    }
    false
}

/// The way of a client to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    /// Events, encoded for this client.
    Events,
    /// Frames as they are stored.
    Frames,
    Relayed,
    Held,
    Merged,
}

struct Client {
    name: String,
    way: Way,
    log: usize,
    from: Cursor,
    reader: SseReader,
    /// The bytes of an incomplete event.
    part: Vec<u8>,
    line: Line,
    /// The client got the end of the log.
    is_done: bool,
    /// The client does not read at the moment.
    is_stalled: bool,
}

enum Line {
    Away,
    Opening(Polled<Opening>),
    Open(Open),
}

struct Open {
    stream: Server,
    /// The bytes on their way.
    pipe: VecDeque<Bytes>,
    /// The server has ended it: as HTTP ends a body, or by breaking off.
    ended: Option<End>,
    /// A proxy forwards nothing before it has this many bytes.
    buffers: usize,
}

enum Server {
    Chunks(Polled<Chunks>),
    Socket(u32),
}

/// The number of bytes that are on the way to a client at most.
const WINDOW: usize = 16 * 1024;

/// Viewers, the logs that they watch, and the checker.
pub(crate) struct Audience {
    pub(crate) dice: Dice,
    pub(crate) hours: Hours,
    pub(crate) checker: Checker,
    pub(crate) steps: u64,
    pub(crate) logs: Vec<Log>,
    /// Until then the workflow's object does not lose its memory.
    pub(crate) spares_until: u64,
    trace: DefaultHasher,
    clients: Vec<Client>,
    /// Streams whose viewers left without a message.
    orphans: Vec<(Polled<Chunks>, usize)>,
    relay: Option<(Relay, Following)>,
    held: Held,
    tokens: u64,
    trimmed: Vec<u64>,
}

impl Audience {
    /// Log 0 is a place: that of the workflow.
    pub(crate) fn new(dice: Dice, logs: Vec<Log>) -> Self {
        let trimmed = vec![0; logs.len()];
        Self {
            dice,
            hours: Hours::default(),
            checker: Checker::default(),
            steps: 0,
            logs,
            spares_until: 0,
            trace: DefaultHasher::new(),
            clients: Vec::new(),
            orphans: Vec::new(),
            relay: None,
            held: Held::default(),
            tokens: 0,
            trimmed,
        }
    }

    /// Returns everything that happened so far, as a number.
    pub(crate) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    pub(crate) fn note(&mut self, what: impl Hash) {
        what.hash(&mut self.trace);
    }

    pub(crate) fn record(&mut self, log: usize, record: Record) {
        format!("{record:?}").hash(&mut self.trace);
        let name = self.logs[log].name.clone();
        self.checker.record(&name, record);
    }

    pub(crate) fn place(&self, log: usize) -> Arc<Place> {
        match &self.logs[log].source {
            Source::Place(place) => Arc::clone(place),
            Source::Memory(_) => panic!("log {log} is in memory"),
        }
    }

    /// Records the events that retention has removed.
    pub(crate) fn note_trims(&mut self, log: usize) {
        let trimmed = match &self.logs[log].source {
            Source::Memory(store) => {
                let page = store.read(None, ONE).now_or_never().unwrap();
                page.unwrap().trimmed
            }
            Source::Place(place) => {
                let memory = place.memory();
                let page = memory.target().store().read(None, ONE).now_or_never();
                page.unwrap().unwrap().trimmed
            }
        };
        let last = trimmed.map_or(0, EventId::get);
        if last > self.trimmed[log] {
            self.trimmed[log] = last;
            self.record(log, Record::Trimmed { last });
        }
    }

    /// Must be called after an append to log 0, or a removal from it.
    pub(crate) fn log_changed(&mut self) {
        let (place, now) = (self.place(0), self.hours.now());
        self.note_trims(0);
        self.held.changed(&place, now);
    }

    /// Must be called when the object of log 0 was killed: its sockets break.
    pub(crate) fn object_died(&mut self) {
        for socket in self.held.sockets.values_mut() {
            socket.closed.get_or_insert(Close::Broken);
        }
        self.held.roster = None;
        self.held.due = None;
        self.held.pace = Pace::default();
    }

    /// From now on nothing is lost any more, and calls are answered.
    pub(crate) fn heal(&mut self) {
        for log in &self.logs {
            if let Source::Place(place) = &log.source {
                place.set_trouble(0);
            }
        }
    }

    /// Counts a step. A world takes a few thousand of them, and one that loops for ever reaches this limit.
    pub(crate) fn count(&mut self) {
        self.steps += 1;
        assert!(self.steps < 300_000, "the world does not come to rest");
    }

    /// Does one thing.
    pub(crate) fn step(&mut self) {
        self.count();
        let choice = self.dice.roll(100);
        self.note(choice);
        match choice {
            0..3 if self.clients.len() < 14 => self.enter(),
            3..5 => self.cut(),
            5..6 => self.leave_half_open(),
            6..8 => {
                if let Some(client) = self.any_client() {
                    self.clients[client].is_stalled ^= true;
                }
            }
            8..14 => self.write(),
            14..16 => self.trim(),
            16..18 => self.evict(),
            18..24 => drop(self.follow()),
            24..26 => self.lose_relay(),
            26..34 => drop(self.serve_held()),
            34..36 => {
                if let Some(orphan) = self.orphans.pop() {
                    drop(orphan);
                }
            }
            36..42 => drop(self.serve_orphans()),
            _ => {
                if let Some(client) = self.any_client() {
                    let takes = self.dice.roll(3);
                    match takes {
                        0 => drop(self.serve(client)),
                        _ => drop(self.take(client, false)),
                    }
                    if matches!(self.clients[client].line, Line::Away) {
                        self.connect(client);
                    }
                }
            }
        }
    }

    fn any_client(&self) -> Option<usize> {
        let clients = self.clients.len() as u64;
        (clients > 0).then(|| self.dice.roll(clients) as usize)
    }

    fn enter(&mut self) {
        let log = self.dice.roll(self.logs.len() as u64) as usize;
        let way = match (self.dice.roll(6), &self.logs[log].source) {
            (0, _) => Way::Merged,
            (1, _) | (_, Source::Memory(_)) => Way::Events,
            (2, Source::Place(_)) if log == 0 => Way::Relayed,
            (3 | 4, Source::Place(_)) if log == 0 => Way::Held,
            (_, Source::Place(_)) => Way::Frames,
        };
        let from = match self.dice.roll(8) {
            0 => Cursor::Latest,
            1 => Cursor::After(EventId::new(1 + self.dice.roll(30)).unwrap()),
            2 => Cursor::After(EventId::new(1000 + self.dice.roll(30)).unwrap()),
            _ => Cursor::Beginning,
        };
        // The other logs of a merged stream are read from the beginning or the tail.
        let from = match (way, from) {
            (Way::Merged, _) => Cursor::Beginning,
            (_, from) => from,
        };
        self.clients.push(Client {
            name: format!("{way:?}-{}", self.steps),
            way,
            log,
            from,
            reader: SseReader::default(),
            part: Vec::new(),
            line: Line::Away,
            is_done: false,
            is_stalled: false,
        });
    }

    /// Returns the position that a client sends: its last id, or else where it began.
    fn cursor(&self, client: usize) -> Cursor {
        let client = &self.clients[client];
        match client.reader.last_event_id() {
            "" => client.from,
            id => Cursor::After(id.parse().unwrap()),
        }
    }

    fn connect(&mut self, number: usize) {
        if self.clients[number].is_done && self.clients[number].way == Way::Merged {
            return;
        }
        let (way, log) = (self.clients[number].way, self.clients[number].log);
        for asked in 0..self.logs.len() {
            if way == Way::Merged || asked == log {
                let viewer = self.clients[number].name.clone();
                self.record(asked, Record::Asked { viewer });
            }
        }
        let hours = self.hours.clone();
        let sleep = move |duration| hours.sleep(duration);
        let any = |source: &Source| match source {
            Source::Memory(store) => Any::Memory(Arc::clone(store)),
            Source::Place(place) => Any::Remote(Remote(Arc::clone(place))),
        };
        if way == Way::Merged {
            let position: MergedCursor = match self.clients[number].reader.last_event_id() {
                "" => MergedCursor::default(),
                id => id.parse().unwrap(),
            };
            let logs = self.logs.iter().map(|log| {
                let target: SseTarget<NewEvent, _> = SseTarget::new(any(&log.source));
                (log.name.clone(), target)
            });
            let logs: Vec<_> = logs.collect();
            let opening: Opening = Box::pin(async move {
                let merged = MergedSubscription::start(logs, position, Cursor::Beginning).await;
                let merged = merged.map_err(|error| error.to_string())?;
                if merged.has_ended() {
                    return Ok(None);
                }
                Ok(Some(chunks(merged.into_stream())))
            });
            self.clients[number].line = Line::Opening(Polled::new(opening));
            return;
        }
        let cursor = self.cursor(number);
        let source = self.logs[log].source.clone();
        let opening: Opening = match (way, &source) {
            (Way::Held, Source::Place(place)) => return self.connect_held(number, place, cursor),
            (Way::Frames, Source::Place(place)) => {
                let target: SseTarget<NewEvent, _> = SseTarget::new(Remote(Arc::clone(place)));
                frames(target, cursor, sleep)
            }
            (Way::Relayed, Source::Place(place)) => {
                if self.relay.is_none() {
                    self.relay = Some(self.new_relay(place));
                }
                let relay = self.relay.as_ref().map(|(relay, _)| relay.clone()).unwrap();
                let target: SseTarget<NewEvent, _> = SseTarget::new(relay);
                frames(target, cursor, sleep)
            }
            _ => {
                let target: SseTarget<NewEvent, _> = SseTarget::new(any(&source));
                Box::pin(async move {
                    let subscription = target.subscribe(cursor).await;
                    let subscription = subscription.map_err(|error| error.to_string())?;
                    if subscription.has_ended() {
                        return Ok(None);
                    }
                    Ok(Some(chunks(body(subscription, sleep))))
                })
            }
        };
        self.clients[number].line = Line::Opening(Polled::new(opening));
    }

    fn new_relay(&self, place: &Arc<Place>) -> (Relay, Following) {
        let relay = Relay(Arc::new(RelayStore::new(Remote(Arc::clone(place)))));
        let (followed, hours) = (Arc::clone(&relay.0), self.hours.clone());
        let following: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
            followed.follow(|duration| hours.sleep(duration)).await;
        });
        (relay, Polled::new(following))
    }

    fn connect_held(&mut self, number: usize, place: &Arc<Place>, cursor: Cursor) {
        let memory = place.memory();
        let subscription = memory.target().subscribe(cursor).now_or_never();
        let Some(Ok(subscription)) = subscription else {
            return;
        };
        if subscription.has_ended() {
            return self.answered(number, 204);
        }
        self.answered(number, 200);
        self.held.made += 1;
        let socket_number = self.held.made;
        let entry = self.held.budget.enter();
        let mut stream = PushedStream::new(subscription);
        let mut socket = Socket {
            kept: stream.kept(),
            pages: Vec::new(),
            acknowledged: VecDeque::new(),
            taken: Taken::default(),
            closed: None,
            entry,
            has_handed_out: false,
        };
        let opened = stream.open(|page, kept| {
            socket.kept = kept;
            socket.pages.push(page.clone());
            Ok::<_, ()>(())
        });
        opened.unwrap();
        self.held.with(place, |roster, sockets| {
            if deliver(&mut stream, &mut socket) {
                roster.insert(socket_number, (socket_number, stream));
            }
            sockets.insert(socket_number, socket);
        });
        self.opened(number, Server::Socket(socket_number));
    }

    fn opened(&mut self, number: usize, stream: Server) {
        let buffers = match self.dice.roll(6) {
            0 => 600,
            _ => 0,
        };
        self.clients[number].line = Line::Open(Open {
            stream,
            pipe: VecDeque::new(),
            ended: None,
            buffers,
        });
    }

    /// Records the answer to a request.
    fn answered(&mut self, number: usize, status: u16) {
        let viewer = self.clients[number].name.clone();
        if self.clients[number].way == Way::Merged {
            let text = self.clients[number].reader.last_event_id().to_owned();
            let position: MergedCursor = text.parse().unwrap_or_default();
            for log in 0..self.logs.len() {
                let from = match position.of(&self.logs[log].name) {
                    Some(Cursor::After(id)) => From::After(id.get()),
                    _ => From::Beginning,
                };
                let viewer = viewer.clone();
                self.record(
                    log,
                    Record::Connected {
                        viewer,
                        from,
                        status,
                    },
                );
            }
        } else {
            let from = match self.cursor(number) {
                Cursor::After(id) => From::After(id.get()),
                Cursor::Latest => From::Latest,
                _ => From::Beginning,
            };
            let log = self.clients[number].log;
            self.record(
                log,
                Record::Connected {
                    viewer,
                    from,
                    status,
                },
            );
        }
        self.clients[number].is_done = status == 204;
    }

    /// Lets the server work for a client. Returns whether something happened.
    fn serve(&mut self, number: usize) -> bool {
        let client = &mut self.clients[number];
        match &mut client.line {
            Line::Away => false,
            Line::Opening(opening) => {
                if !opening.is_woken() {
                    return false;
                }
                match opening.poll(|opening, context| opening.as_mut().poll(context)) {
                    Poll::Pending => {}
                    Poll::Ready(Err(_)) => client.line = Line::Away,
                    Poll::Ready(Ok(None)) => {
                        client.line = Line::Away;
                        self.answered(number, 204);
                    }
                    Poll::Ready(Ok(Some(stream))) => {
                        self.answered(number, 200);
                        self.opened(number, Server::Chunks(Polled::new(stream)));
                    }
                }
                true
            }
            Line::Open(open) => {
                let waiting: usize = open.pipe.iter().map(Bytes::len).sum();
                let Server::Chunks(stream) = &mut open.stream else {
                    return self.serve_socket(number);
                };
                if open.ended.is_some() || !stream.is_woken() || waiting > WINDOW {
                    return false;
                }
                match stream.poll(|stream, context| stream.poll_next_unpin(context)) {
                    Poll::Pending => {}
                    Poll::Ready(None) => open.ended = Some(End::Clean),
                    Poll::Ready(Some(Err(_))) => open.ended = Some(End::Cut),
                    Poll::Ready(Some(Ok(bytes))) => {
                        open.pipe.push_back(bytes);
                        stream.flag.0.store(true, Ordering::SeqCst);
                    }
                }
                self.note_all_trims();
                true
            }
        }
    }

    fn note_all_trims(&mut self) {
        for log in 0..self.logs.len() {
            self.note_trims(log);
        }
    }

    /// Lets the Worker take pages from the socket and acknowledge them.
    fn serve_socket(&mut self, number: usize) -> bool {
        let Line::Open(open) = &mut self.clients[number].line else {
            return false;
        };
        let Server::Socket(socket_number) = open.stream else {
            return false;
        };
        let waiting: usize = open.pipe.iter().map(Bytes::len).sum();
        if open.ended.is_some() || waiting > WINDOW {
            return false;
        }
        let Some(socket) = self.held.sockets.get_mut(&socket_number) else {
            open.ended = Some(End::Cut);
            return true;
        };
        let budget = &mut self.held.budget;
        if std::mem::take(&mut socket.has_handed_out) {
            budget.taken(socket.entry);
        }
        let pages = std::mem::take(&mut socket.pages);
        if !pages.is_empty() {
            let page = pages.concat();
            let length = page.len();
            assert!(
                budget.queued(socket.entry, length).is_empty(),
                "little is on the way"
            );
            budget.handed_out(socket.entry, length);
            socket.has_handed_out = true;
            if let Some(bytes) = socket.taken.take(u32::try_from(length).unwrap()) {
                socket.acknowledged.push_back(bytes);
            }
            open.pipe.push_back(Bytes::from(page));
            return true;
        }
        open.ended = match socket.closed {
            Some(Close::End) => Some(End::Clean),
            Some(Close::Broken) => Some(End::Cut),
            None => return false,
        };
        let place = self.place(0);
        self.held.remove(&place, socket_number);
        true
    }

    /// Delivers an acknowledgement to the object, or starts a round that is due.
    fn serve_held(&mut self) -> bool {
        let (place, now) = (self.place(0), self.hours.now());
        if self.held.due.is_some_and(|due| due <= now) {
            self.held.round(&place, now);
            return true;
        }
        let waiting = |(_, socket): &(&u32, &mut Socket)| {
            !socket.acknowledged.is_empty() && socket.closed.is_none()
        };
        let mut sockets = self.held.sockets.iter_mut();
        let Some((number, socket)) = sockets.find(waiting) else {
            return false;
        };
        let (number, bytes) = (*number, socket.acknowledged.pop_front().unwrap_or_default());
        self.held.with(&place, |roster, sockets| {
            let is_meant = |(of, _): &(u32, PushedStream<Store>)| *of == number;
            let Some((_, stream)) = roster.get_mut(number, is_meant) else {
                return;
            };
            stream.acknowledged(bytes);
            let socket = sockets.get_mut(&number).unwrap();
            let is_kept = deliver(stream, socket);
            socket.kept = stream.kept();
            if !is_kept {
                roster.remove(number, is_meant);
            }
        });
        true
    }

    /// Lets a client read bytes that have come. Returns whether something happened.
    fn take(&mut self, number: usize, all: bool) -> bool {
        let dice = self.dice.clone();
        let client = &mut self.clients[number];
        if client.is_stalled && !all {
            return false;
        }
        let Line::Open(open) = &mut client.line else {
            return false;
        };
        let waiting: usize = open.pipe.iter().map(Bytes::len).sum();
        if waiting < open.buffers && open.ended.is_none() && !all {
            return false;
        }
        let Some(mut chunk) = open.pipe.pop_front() else {
            if let Some(how) = open.ended {
                self.hang_up(number, how);
                return true;
            }
            return false;
        };
        let length = match dice.roll(3) {
            0 if !all => dice.roll(chunk.len() as u64 + 1) as usize,
            _ => chunk.len(),
        };
        let taken = chunk.split_to(length);
        if !chunk.is_empty() {
            open.pipe.push_front(chunk);
        }
        self.feed(number, &taken);
        true
    }

    fn feed(&mut self, number: usize, bytes: &[u8]) {
        self.clients[number].part.extend_from_slice(bytes);
        loop {
            let client = &mut self.clients[number];
            if client.part.starts_with(b":\n") {
                client.part.drain(..2);
                let messages = client.reader.feed(b":\n");
                assert!(messages.is_empty());
                continue;
            }
            let end = client.part.windows(2).position(|bytes| bytes == b"\n\n");
            let Some(end) = end else {
                return;
            };
            let frame: Vec<u8> = client.part.drain(..end + 2).collect();
            let mut messages = client.reader.feed(&frame);
            assert!(messages.len() <= 1);
            let raw = String::from_utf8(frame).unwrap();
            self.got(number, messages.pop(), raw);
        }
    }

    /// Records an event that a client got, or the position of the tail.
    fn got(&mut self, number: usize, message: Option<Message>, raw: String) {
        let client = &self.clients[number];
        let (viewer, log) = (client.name.clone(), client.log);
        let id = raw
            .strip_prefix("id: ")
            .and_then(|rest| rest.lines().next());
        let Some(message) = message else {
            if client.way != Way::Merged {
                let id: u64 = id.unwrap().parse().unwrap();
                let id = if id == EventId::MAX { 0 } else { id };
                self.record(log, Record::Position { viewer, id });
            }
            return;
        };
        if client.way == Way::Merged {
            return self.got_merged(viewer, &message, id);
        }
        let event = Event {
            id: id.map(|id| id.parse().unwrap()),
            event_type: message.event_type,
            data: message.data,
            raw: id.map(|_| raw.clone()),
            key: None,
            terminal: None,
        };
        self.record(log, Record::Seen { viewer, event });
    }

    fn got_merged(&mut self, viewer: String, message: &Message, id: Option<&str>) {
        let value: Value = serde_json::from_str(&message.data).unwrap();
        let run = value["runId"].as_str().unwrap();
        let log = self.logs.iter().position(|log| log.name == run).unwrap();
        let first = format!("{{\"runId\":\"{run}\"");
        let rest = message.data.strip_prefix(&first).unwrap();
        let data = format!("{{{}", rest.strip_prefix(',').unwrap_or(rest));
        let id = id.map(|id| {
            let position: MergedCursor = id.parse().unwrap();
            match position.of(run) {
                Some(Cursor::After(id)) => id.get(),
                other => panic!("{other:?}"),
            }
        });
        let event = Event {
            id,
            event_type: message.event_type.clone(),
            data,
            raw: None,
            key: None,
            terminal: None,
        };
        self.record(log, Record::Seen { viewer, event });
    }

    /// Ends the connection on the client's side.
    fn hang_up(&mut self, number: usize, how: End) {
        let client = &mut self.clients[number];
        client.line = Line::Away;
        if how == End::Clean {
            assert!(
                client.part.is_empty(),
                "the stream ended in the middle of an event"
            );
        }
        client.part.clear();
        let id = client.reader.last_event_id().to_owned();
        client.reader = SseReader::resumed(&id);
        let (viewer, log, way) = (client.name.clone(), client.log, client.way);
        if way == Way::Merged {
            // The end of each log was checked when its last event came.
            for log in 0..self.logs.len() {
                let viewer = viewer.clone();
                let how = End::Cut;
                self.record(log, Record::Ended { viewer, how });
            }
        } else {
            self.record(log, Record::Ended { viewer, how });
        }
    }

    /// Cuts a connection at any byte, as a proxy, the network or the viewer does.
    fn cut(&mut self) {
        let Some(number) = self.any_client() else {
            return;
        };
        if let Line::Open(open) = &self.clients[number].line {
            if let Server::Socket(socket) = open.stream {
                let place = self.place(0);
                self.held.remove(&place, socket);
            }
            self.hang_up(number, End::Cut);
        } else {
            self.clients[number].line = Line::Away;
        }
    }

    /// Lets a viewer leave without the server noticing.
    fn leave_half_open(&mut self) {
        let Some(number) = self.any_client() else {
            return;
        };
        if !matches!(self.clients[number].line, Line::Open(_)) {
            return;
        }
        let line = std::mem::replace(&mut self.clients[number].line, Line::Away);
        self.hang_up(number, End::Cut);
        if let Line::Open(open) = line
            && let Server::Chunks(stream) = open.stream
        {
            // A socket stays with the object until it learns that it closed.
            self.orphans.push((stream, 0));
        }
    }

    fn serve_orphans(&mut self) -> bool {
        let mut is_busy = false;
        self.orphans.retain_mut(|(stream, taken)| {
            if !stream.is_woken() || *taken > WINDOW {
                return true;
            }
            is_busy = true;
            match stream.poll(|stream, context| stream.poll_next_unpin(context)) {
                Poll::Pending => true,
                Poll::Ready(Some(Ok(bytes))) => {
                    *taken += bytes.len();
                    stream.flag.0.store(true, Ordering::SeqCst);
                    true
                }
                Poll::Ready(_) => false,
            }
        });
        is_busy
    }

    /// Lets the relay read the log above.
    fn follow(&mut self) -> bool {
        match &mut self.relay {
            Some((_, following)) if following.is_woken() => {
                let followed =
                    following.poll(|following, context| following.as_mut().poll(context));
                assert!(followed.is_pending());
                true
            }
            _ => false,
        }
    }

    /// Kills the relay with its viewers' connections.
    fn lose_relay(&mut self) {
        if self.dice.one_in(4) && self.relay.take().is_some() {
            for number in 0..self.clients.len() {
                if self.clients[number].way == Way::Relayed {
                    match self.clients[number].line {
                        Line::Open(_) => self.hang_up(number, End::Cut),
                        _ => self.clients[number].line = Line::Away,
                    }
                }
            }
        }
    }

    /// Lets objects lose their memory. This breaks the connections that they stream themselves, but no sockets.
    fn evict(&mut self) {
        let log = self.dice.roll(self.logs.len() as u64) as usize;
        let is_spared = log == 0 && self.hours.now() < self.spares_until;
        if let Source::Place(place) = &self.logs[log].source
            && !is_spared
        {
            place.evict();
        }
    }

    /// Appends to a log that is not a workflow's.
    fn write(&mut self) {
        let others = self.logs.len() as u64 - 1;
        if others == 0 {
            return;
        }
        let log = 1 + self.dice.roll(others) as usize;
        let mut batch = Vec::new();
        for _ in 0..=self.dice.roll(4) {
            self.tokens += 1;
            let size = match self.dice.roll(20) {
                0 => 3000,
                _ => self.dice.roll(60) as usize,
            };
            let data = format!(r#"{{"n":{},"text":"{}"}}"#, self.tokens, "x".repeat(size));
            let mut event = NewEvent::new("said", data).unwrap();
            if self.dice.one_in(3) {
                let key = format!("k{}", self.dice.roll(40));
                event = event.with_key(key).unwrap();
            }
            if self.dice.one_in(40) {
                event = event.terminal();
            }
            batch.push(event);
        }
        self.append(log, batch);
    }

    /// Appends, and records what the writer knows.
    fn append(&mut self, log: usize, batch: Vec<NewEvent>) {
        let events: Vec<_> = batch.iter().map(|event| fact(event, "")).collect();
        let ids = |outcomes: Vec<Appended>| {
            let id = |outcome: &Appended| match outcome {
                Appended::Stored(id) => Some(id.get()),
                Appended::Duplicate => None,
            };
            Answer::Stored(outcomes.iter().map(id).collect())
        };
        let fault = self.dice.roll(10);
        let answer = match &self.logs[log].source {
            Source::Memory(store) => {
                let outcomes = store.append(batch).now_or_never().unwrap();
                ids(outcomes.unwrap())
            }
            Source::Place(place) => {
                let append = |memory: &Memory| {
                    let store = memory.target().store();
                    store.append(batch.clone()).now_or_never().unwrap()
                };
                let appended = match fault {
                    0 => place.full_while(append),
                    1 => {
                        place.sql.fail_after(self.dice.roll(4) as usize);
                        let appended = append(&place.memory());
                        place.sql.heal();
                        appended
                    }
                    2 => {
                        let _ = place.killed_while(append);
                        return self.record(
                            log,
                            Record::Append {
                                events,
                                answer: Answer::Refused,
                                after: None,
                            },
                        );
                    }
                    _ => append(&place.memory()),
                };
                match appended {
                    Ok(outcomes) => ids(outcomes),
                    Err(_) => Answer::Refused,
                }
            }
        };
        // The answer gets lost.
        let is_lost = fault == 3 && answer != Answer::Refused;
        let answer = if is_lost { Answer::Unknown } else { answer };
        self.note_trims(log);
        self.record(
            log,
            Record::Append {
                events,
                answer,
                after: None,
            },
        );
    }

    /// Removes events.
    fn trim(&mut self) {
        let log = self.dice.roll(self.logs.len() as u64) as usize;
        if log == 0 || !self.dice.one_in(4) {
            return;
        }
        let last = EventId::new(1 + self.dice.roll(1 + self.trimmed[log] + 8)).unwrap();
        match &self.logs[log].source {
            Source::Memory(store) => {
                let page = store.read(None, ONE).now_or_never().unwrap().unwrap();
                if page.head >= Some(last) {
                    store.trim(last);
                }
            }
            Source::Place(place) => {
                let memory = place.memory();
                let store = memory.target().store();
                if store.head().unwrap() >= Some(last) {
                    store.trim(last).unwrap();
                }
            }
        }
        self.note_trims(log);
    }

    /// Lets everything come to rest, until every viewer has everything.
    pub(crate) fn settle(&mut self) {
        self.heal();
        self.orphans.clear();
        for log in 1..self.logs.len() {
            if self.dice.one_in(2) {
                let end = NewEvent::new("end", r#"{"n":0}"#).unwrap().terminal();
                self.append(log, vec![end]);
            }
        }
        // Relays retry after pauses of at most five seconds; some give up, and their viewers come back.
        for _ in 0..60 {
            for number in 0..self.clients.len() {
                if matches!(self.clients[number].line, Line::Away) && !self.clients[number].is_done
                {
                    self.connect(number);
                }
            }
            while self.drain() {}
            let later = self.hours.now() + 1_500;
            self.hours.set(later);
        }
        while self.drain() {}
        for number in 0..self.clients.len() {
            let client = &self.clients[number];
            let (viewer, log) = (client.name.clone(), client.log);
            assert!(
                client.is_done || matches!(client.line, Line::Open(_)),
                "{viewer} does not get through"
            );
            if client.is_done {
                continue;
            }
            if client.way == Way::Merged {
                let how = End::IdleMerged;
                for log in 0..self.logs.len() {
                    let viewer = viewer.clone();
                    self.record(log, Record::Ended { viewer, how });
                }
            } else {
                let how = End::Idle;
                self.record(log, Record::Ended { viewer, how });
            }
        }
        for log in 0..self.logs.len() {
            self.note_trims(log);
            let events = stored(&self.logs[log].source);
            self.record(log, Record::Stored { events });
        }
    }

    fn drain(&mut self) -> bool {
        let mut is_busy = self.follow() | self.serve_held();
        self.count();
        for number in 0..self.clients.len() {
            self.count();
            is_busy |= self.serve(number);
            is_busy |= self.take(number, true);
        }
        is_busy
    }
}

const ONE: PageLimit = PageLimit {
    events: 1,
    bytes: 1,
};

pub(crate) fn fact(event: &NewEvent, prefix: &str) -> Fact {
    Fact {
        event_type: event.event_type().to_owned(),
        data: event.data().to_owned(),
        key: event.key().map(|key| format!("{prefix}{key}")),
        terminal: event.is_terminal(),
    }
}

fn chunks<E: std::fmt::Display + 'static>(
    stream: impl Stream<Item = Result<Bytes, E>> + 'static,
) -> Chunks {
    Box::pin(stream.map(|chunk| chunk.map_err(|error| error.to_string())))
}

fn frames<S: FrameStore<Bytes = Bytes> + 'static>(
    target: SseTarget<NewEvent, S>,
    cursor: Cursor,
    sleep: impl Fn(Duration) -> Nap + Send + 'static,
) -> Opening {
    Box::pin(async move {
        let subscription = target.subscribe(cursor).await;
        let subscription = subscription.map_err(|error| error.to_string())?;
        if subscription.has_ended() {
            return Ok(None);
        }
        Ok(Some(chunks(frame_body(subscription, sleep))))
    })
}

/// Returns everything that a log keeps, with keys and frames.
fn stored(source: &Source) -> Vec<Event> {
    const ALL: PageLimit = PageLimit {
        events: 100_000,
        bytes: usize::MAX,
    };
    let page = match source {
        Source::Memory(store) => store.read(None, ALL).now_or_never().unwrap().unwrap(),
        Source::Place(place) => {
            let memory = place.memory();
            let page = memory.target().store().read(None, ALL).now_or_never();
            page.unwrap().unwrap()
        }
    };
    let mut events: Vec<_> = page
        .events
        .iter()
        .map(|event| Event {
            id: Some(event.id.get()),
            event_type: event.event_type.clone(),
            data: event.data.clone(),
            raw: None,
            key: None,
            terminal: None,
        })
        .collect();
    if let Source::Place(place) = source {
        let rows = place.sql.exec("SELECT id, key, terminal FROM events", &[]);
        for row in rows.unwrap_or_default() {
            let [SqlValue::Integer(id), key, SqlValue::Integer(terminal)] = row.as_slice() else {
                continue;
            };
            let of_row = |event: &&mut Event| event.id == u64::try_from(*id).ok();
            if let Some(event) = events.iter_mut().find(of_row) {
                event.terminal = Some(terminal & 1 == 1);
                if let SqlValue::Text(key) = key {
                    event.key = Some(key.clone());
                }
            }
        }
        let memory = place.memory();
        let frames = memory.target().store().read_frames(None, ALL);
        let frames = frames.now_or_never().unwrap().unwrap().events;
        let text = frames.map(|frames| String::from_utf8(frames.bytes.to_vec()).unwrap());
        let text = text.unwrap_or_default();
        let frames = text.split_inclusive("\n\n");
        for (event, frame) in events.iter_mut().zip(frames) {
            event.raw = Some(frame.to_owned());
        }
    }
    events
}
