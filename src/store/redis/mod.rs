//! Logs in Redis, for servers that share them.
//!
//! A [`RedisClient`] is one connection, a [`RedisEventStore`] one log. Any number of processes and
//! Workers may append to a log and follow it.
//!
//! ```no_run
//! use ssetarget::store::redis::{RedisClient, RedisEventStore};
//! use ssetarget::{Cursor, NewEvent, SseTarget};
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let client = RedisClient::new("redis://localhost")?; // one for the process
//! let target: SseTarget<NewEvent, _> = SseTarget::new(RedisEventStore::new(&client, "orders/42"));
//!
//! target.dispatch_encoded(vec![NewEvent::new("paid", "{}")?.with_key("paid")?]).await?;
//! let subscription = target.subscribe(Cursor::Beginning).await?;
//! # Ok(()) }
//! ```
//!
//! In a Worker (features `cloudflare` and `redis`) it is the same, with one client for each request:
//! see `RedisClient::new` there, and `cloudflare::serve_log`.
//!
//! # Keys
//!
//! | key | type | what it has |
//! |---|---|---|
//! | `<prefix>{<name>}:events` | stream | an entry `<id>-<milliseconds>` for each event, with the fields `type` and `data`, `key` if it has one, `terminal` if it is |
//! | `<prefix>{<name>}:log` | hash | the ends of the log, its newest time, the name of the server's history |
//! | `<prefix>{<name>}:facts` | hash | the keys of events: see [`Event::key`](crate::event::Event::key); and a mark |
//!
//! All three are in one slot of a cluster, by their hash tag; the client itself follows no
//! redirections. `%`, `{` and `}` in names are written as `%25`, `%7B` and `%7D`, an empty name as `%`. Changes are
//! announced on a channel with the name of the stream, so an ACL user needs the permissions
//! `~<prefix>* &<prefix>* +eval +evalsha +hello +ping +select +subscribe +unsubscribe +publish
//! +info +time +@stream +@hash +del +pexpire +persist`.
//!
//! To delete a log, delete all three keys. Its clients are reset within
//! [`RedisConfig::check_interval`], or when something is appended.
//!
//! Set `maxmemory-policy` to `noeviction`: then a full memory refuses appends with `OOM`, and reads
//! go on. With another one the server deletes keys, also single ones of a log. If that is its hash
//! or its stream, its events are lost, and with the next append it begins again: facts are stored
//! again, and all of its clients are reset. If it is its facts, the next append restores them from
//! the events, and no client notices.
//!
//! # Guarantees
//! - **Order, atomicity, facts.** A batch is one script: ids are assigned where it is stored, and no reader sees an
//!   event before one with a smaller id. Ids are dense, except for the jumps below.
//! - **Time** is the server's, and never decreases in a log, even if the server's clock is set back.
//! - **Durability** is the server's: with `appendfsync always` what was appended survives a power
//!   cut, with `everysec` all but the last second, and a failover loses what the replica did not
//!   have yet. `WAIT` narrows that and does not end it; this store does not call it.
//! - **No client goes deaf, and none skips an event unknowingly.** The ids of a log begin with the
//!   time of its creation (4 for each microsecond since 2026), so those of a log that was deleted,
//!   expired or flushed are all smaller than those of the next one of its name, and a client that
//!   has one is reset. After a restart or a failover of the server, by which the newest events may
//!   be gone, the next append jumps to such a number again, and a client whose last id is one of
//!   those that are gone is reset. A client whose last event is still there notices nothing. A log
//!   knows what its latest 63 restarts and failovers have taken: a client whose last event was lost
//!   before those is not reset, and gets every event that follows its position. All that
//!   holds unless clocks are set back, or differ between servers, by more than the age of the log;
//!   and not on a server whose `INFO replication` has no `master_replid`. A viewer whose server cannot
//!   reach Redis is cut off after [`RedisConfig::viewer_patience`], so that it comes back.
//! - **Appends that fail** say whether they may have been stored: see [`RedisError`]. A batch whose events all have
//!   keys is sent again when the connection breaks, and is stored once. A refusal by the server comes before the first
//!   event is stored: for a command that it does not have or that the user may not use, or a write while its memory is
//!   full.
//!
//! # Costs
//!
//! An append is one round trip, whatever the size of its batch, and so is a page. A viewer that is
//! up to date costs nothing; when something is appended, the viewers of a process that wait for it
//! share a handful of reads. [`Cursor::Since`] is one round trip and looks at the logarithm of the
//! log's length. In Redis an event costs what its stream entry does, some 30 bytes beside its type
//! and data, and a key about 100 bytes beside itself.
//!
//! Needs Redis 6.0, which has RESP3, or what is compatible: with an older one all calls fail with
//! [`RedisErrorKind::Unsupported`]. Tested with 7.0, and by hand with 6.0 and 6.2.
//!
//! [`Cursor::Since`]: crate::event::Cursor::Since

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use redis::Value;

use crate::clock;
use crate::event::{EventId, NewEvent, StoredEvent};
use crate::store::{Appended, EventStore, Page, PageLimit, Retention};

mod answer;
mod budget;
mod client;
mod config;
mod driver;
mod error;
#[cfg(not(target_family = "wasm"))]
mod native;
mod protocol;
mod script;
mod server;
mod transport;
mod watch;

use answer::{array, id, number, text};
use budget::ReplySize;
use client::Watching;
use watch::Watch;

pub use client::RedisClient;
pub use config::RedisConfig;
pub use error::{RedisError, RedisErrorKind};
#[doc(hidden)]
pub use protocol::resp_replies;
pub use server::RedisServer;
pub use transport::RedisTransport;

/// A log in Redis: see the [module](self).
///
/// A log has no limits by default. All processes that append to a log should give it the same
/// limits: each append applies its own.
#[derive(Debug)]
pub struct RedisEventStore {
    client: RedisClient,
    keys: Keys,
    limits: Limits,
    /// Set by the first wait, and kept as long as the store.
    watching: OnceLock<Watching>,
    /// The bytes of the largest event that did not fit into a page.
    largest: Arc<AtomicUsize>,
}

/// What reads pages of a log, also after the store is gone: a read may be for viewers of several
/// stores.
#[derive(Clone)]
struct Reader {
    client: RedisClient,
    keys: Keys,
    age: Option<Duration>,
    largest: Arc<AtomicUsize>,
}

#[derive(Clone, Debug)]
struct Keys {
    events: Arc<str>,
    meta: Arc<str>,
    facts: Arc<str>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    events: Option<usize>,
    age: Option<Duration>,
    idle: Option<Duration>,
    finished: Option<Duration>,
}

impl RedisEventStore {
    /// The default prefix of the names of keys.
    pub const PREFIX: &str = "ssetarget:";

    /// Returns the log of this name. Sends nothing to the server yet.
    #[must_use]
    pub fn new(client: &RedisClient, name: &str) -> Self {
        Self::with_prefix(client, Self::PREFIX, name)
    }

    /// Returns the log of this name, in keys that begin with `prefix`.
    #[must_use]
    pub fn with_prefix(client: &RedisClient, prefix: &str, name: &str) -> Self {
        Self {
            client: client.clone(),
            keys: Keys::new(prefix, name),
            limits: Limits::default(),
            watching: OnceLock::new(),
            largest: Arc::default(),
        }
    }

    /// Keeps the newest `events` events, at least one. An append beyond that removes the oldest
    /// ones with their keys. Default: no limit.
    #[must_use]
    pub fn max_events(mut self, events: usize) -> Self {
        self.limits.events = Some(events.max(1));
        self
    }

    /// Removes events, with their keys, once they are older than `age`, in whole milliseconds, at
    /// least one. The next call that reads or appends removes them. Default: never.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.limits.age = Some(age);
        self
    }

    /// Sets both limits: see [`max_events`](Self::max_events) and [`max_age`](Self::max_age).
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.limits.events = retention.events.map(|events| events.max(1));
        self.limits.age = retention.age;
        self
    }

    /// Deletes the log when nothing was appended for this long, in whole milliseconds, at least
    /// one. Default: never.
    #[must_use]
    pub fn expire_idle(mut self, after: Duration) -> Self {
        self.limits.idle = Some(after);
        self
    }

    /// Deletes the log when its newest event is terminal and this old, in whole milliseconds, at
    /// least one. Default: as [`expire_idle`](Self::expire_idle).
    #[must_use]
    pub fn expire_finished(mut self, after: Duration) -> Self {
        self.limits.finished = Some(after);
        self
    }

    /// Removes the events up to and including this one, with their keys, for example after a
    /// snapshot of them was stored.
    ///
    /// # Errors
    /// When Redis fails. Calling it again is harmless.
    pub async fn trim(&self, last: EventId) -> Result<(), RedisError> {
        let last = last.to_string();
        let script = &script::TRIM;
        let args = [last.as_bytes()];
        let trimmed = self.client.run(script, self.keys(), &args, true).await;
        trimmed.map(drop)
    }

    /// Removes all events with their keys, for example on request: see [`trim`](Self::trim). A small hash with the
    /// greatest id is left. Does nothing to a log that has no events.
    ///
    /// # Errors
    /// As [`trim`](Self::trim).
    pub async fn clear(&self) -> Result<(), RedisError> {
        match self.ends(None).await?.head {
            Some(head) => self.trim(head).await,
            None => Ok(()),
        }
    }

    /// Returns the names of the log's keys.
    #[must_use]
    pub fn keys(&self) -> [&str; 3] {
        self.keys.all()
    }

    fn reader(&self) -> Reader {
        Reader {
            client: self.client.clone(),
            keys: self.keys.clone(),
            age: self.limits.age,
            largest: Arc::clone(&self.largest),
        }
    }

    fn age(&self) -> String {
        milliseconds(self.limits.age)
    }
}

impl Reader {
    /// Reads a page, and remembers the head for those who wait.
    async fn watched_page(
        &self,
        watch: &Watch,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<Page, RedisError> {
        let rings = watch.rings();
        let page = self.page(after, limit).await?;
        if let Some(rings) = rings {
            watch.know(rings, page.head);
        }
        Ok(page)
    }

    async fn page(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, RedisError> {
        let args = [
            after.map_or_else(String::new, |after| after.to_string()),
            limit.events.to_string(),
            limit.bytes.to_string(),
            milliseconds(self.age),
        ];
        let args = args.each_ref().map(String::as_bytes);
        loop {
            let largest = self.largest.load(Ordering::Relaxed);
            let size = ReplySize::new(limit.events, limit.bytes, largest);
            let keys = self.keys.all();
            let read = self.client.read(&script::READ, keys, &args, size);
            match page(&read.await?)? {
                Answer::Page(page) => return Ok(page),
                Answer::TooLarge(bytes) if bytes > largest => {
                    self.largest.fetch_max(bytes, Ordering::Relaxed);
                }
                Answer::TooLarge(_) => {
                    return Err(RedisError::unexpected("an event that does not fit"));
                }
            }
        }
    }
}

/// The limit of a read of the ends.
const NONE: PageLimit = PageLimit {
    events: 0,
    bytes: 0,
};

impl EventStore for RedisEventStore {
    type Error = RedisError;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, RedisError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let limits = &self.limits;
        let token = self.client.token();
        let options = [
            limits
                .events
                .map_or_else(String::new, |events| events.to_string()),
            self.age(),
            milliseconds(limits.idle),
            milliseconds(limits.finished),
        ];
        let mut args = vec![token.as_bytes()];
        args.extend(options.iter().map(String::as_bytes));
        for event in &batch {
            args.extend([
                event.event_type().as_bytes(),
                event.data().as_bytes(),
                flag(event.is_terminal()),
                flag(event.key().is_some()),
                event.key().unwrap_or_default().as_bytes(),
            ]);
        }
        let repeatable = batch.iter().all(|event| event.key().is_some());
        let script = &script::APPEND;
        let answer = self
            .client
            .run(script, self.keys(), &args, repeatable)
            .await?;
        let outcomes = array(&answer)?
            .iter()
            .map(|outcome| Ok(id(outcome)?.map_or(Appended::Duplicate, Appended::Stored)))
            .collect::<Result<Vec<_>, RedisError>>()?;
        if outcomes.len() != batch.len() {
            return Err(RedisError::unexpected("not an outcome for each event"));
        }
        Ok(outcomes)
    }

    /// A page has at most 256 KiB, or one event, whatever the limit.
    async fn read(&self, after: Option<EventId>, limit: PageLimit) -> Result<Page, RedisError> {
        let reader = self.reader();
        let Some(Watching { watch, .. }) = self.watching.get() else {
            return reader.page(after, limit).await;
        };
        let of_reader = Arc::clone(watch);
        let read = async move || reader.watched_page(&of_reader, after, limit).await;
        watch.share(after, limit, read).await
    }

    /// Reads a page without events.
    async fn ends(&self, after: Option<EventId>) -> Result<Page<()>, RedisError> {
        Ok(self.read(after, NONE).await?.with(()))
    }

    /// Resolves with an error if the server refuses to announce changes, or fails while it is
    /// asked. While there is no connection it waits, and viewers keep their streams: for
    /// [`RedisConfig::viewer_patience`], then it fails.
    async fn changed(&self, after: Option<EventId>) -> Result<(), RedisError> {
        let Keys { events, meta, .. } = &self.keys;
        let watching = self
            .watching
            .get_or_init(|| self.client.watch(events, meta));
        let watch = &watching.watch;
        let listener = watch.listen().await?;
        let head = match watch.head() {
            Some(head) => head,
            None => self.read(after, NONE).await?.head,
        };
        if head == after {
            watch.hear(listener).await?;
        }
        Ok(())
    }

    async fn before(&self, time: SystemTime) -> Result<Option<EventId>, RedisError> {
        let args = [clock::milliseconds(time).to_string(), self.age()];
        let args = args.each_ref().map(String::as_bytes);
        let script = &script::BEFORE;
        let answer = self.client.run(script, self.keys(), &args, true).await?;
        id(&answer)
    }
}

impl Keys {
    fn new(prefix: &str, name: &str) -> Self {
        let prefix = escaped(prefix);
        // An empty hash tag would count as none.
        let tag = if name.is_empty() {
            "%".to_owned()
        } else {
            escaped(name)
        };
        let key = |part: &str| format!("{prefix}{{{tag}}}:{part}").into();
        Self {
            events: key("events"),
            meta: key("log"),
            facts: key("facts"),
        }
    }

    fn all(&self) -> [&str; 3] {
        [&self.events, &self.meta, &self.facts]
    }
}

/// Escapes a name, so that a key has one pair of braces: its hash tag.
fn escaped(name: &str) -> String {
    name.replace('%', "%25")
        .replace('{', "%7B")
        .replace('}', "%7D")
}

fn flag(flag: bool) -> &'static [u8] {
    if flag { b"1" } else { b"0" }
}

/// Makes an argument of a script.
fn milliseconds(duration: Option<Duration>) -> String {
    duration.map_or_else(String::new, |duration| {
        duration.as_millis().max(1).to_string()
    })
}

/// The answer of a read.
enum Answer {
    Page(Page),
    /// The first event needs this many bytes, more than the page may have.
    TooLarge(usize),
}

fn page(answer: &Value) -> Result<Answer, RedisError> {
    let [head, oldest, trimmed, closed, events @ ..] = array(answer)? else {
        return Ok(Answer::Page(Page::default()));
    };
    if let [size] = events {
        let size = usize::try_from(number(size)?);
        let size = size.map_err(|_| RedisError::unexpected("a size that is not a number"))?;
        return Ok(Answer::TooLarge(size));
    }
    let (events, rest) = events.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(RedisError::unexpected("half an event"));
    }
    let events = events.iter().map(|[event, time, event_type, data]| {
        Ok(StoredEvent {
            id: id(event)?.ok_or_else(|| RedisError::unexpected("an event without an id"))?,
            event_type: text(event_type)?,
            data: text(data)?,
            timestamp: clock::from_milliseconds(number(time)?),
        })
    });
    Ok(Answer::Page(Page {
        events: events.collect::<Result<_, RedisError>>()?,
        oldest: id(oldest)?,
        head: id(head)?,
        trimmed: id(trimmed)?,
        closed: number(closed)? == 1,
    }))
}
