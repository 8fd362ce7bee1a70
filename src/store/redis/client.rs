//! The connection of a process, for all of its logs.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_channel::{mpsc, oneshot};
use redis::Value;

use super::budget::ReplySize;
use super::config::RedisConfig;
use super::driver::{Call, Driver, Message};
use super::error::{RedisError, RedisErrorKind};
use super::protocol::pack_some;
use super::script::Script;
use super::server::RedisServer;
use super::transport::RedisTransport;
use super::watch::{Watch, Watches};

/// One connection to a Redis server, for any number of [logs](crate::store::redis::RedisEventStore) and viewers.
/// Clones are the same connection.
///
/// The connection is opened when it is first needed, and again when it was lost, with growing
/// pauses of up to a second in between. Commands of all logs go over it without waiting for each
/// other, and the server announces changes on it. Pages wait for their turn while 4 MiB of them are
/// under way, or less after the connection was lost: the server would close a connection with too
/// many unread bytes (`client-output-buffer-limit`) when many viewers replay a log at once.
///
/// When the connection is lost:
///
/// - Streams stay open for up to [`RedisConfig::viewer_patience`]. Their viewers get heartbeats, and
///   the events that they missed once it is back. After that the streams break off with
///   [`RedisErrorKind::Unreachable`], or the reason why the server lets nobody in, and clients come
///   back.
/// - Reads are sent again, and so are appends whose events all have keys. Other appends that were
///   under way fail with [`RedisErrorKind::Lost`].
/// - Calls wait up to [`RedisConfig::patience`] for it to come back, then fail with
///   [`RedisErrorKind::Unreachable`]. If there never was a connection, they fail at once.
#[derive(Clone)]
pub struct RedisClient {
    shared: Arc<Shared>,
}

struct Shared {
    server: RedisServer,
    messages: mpsc::UnboundedSender<Message>,
    watches: Arc<Watches>,
    /// Makes this client's tokens differ from those of others.
    random: u64,
    appends: AtomicU64,
}

impl RedisClient {
    /// Creates a client over a transport of your own.
    ///
    /// # Errors [`RedisErrorKind::Config`] for a URL that [`RedisServer::parse`] refuses, and if
    /// the transport cannot spawn a task. Whether the server can be reached shows later.
    pub fn over(
        transport: impl RedisTransport,
        url: &str,
        config: RedisConfig,
    ) -> Result<Self, RedisError> {
        let server = RedisServer::parse(url)?;
        let (sender, messages) = mpsc::unbounded();
        let shared = Shared {
            server: server.clone(),
            messages: sender,
            watches: Arc::default(),
            random: transport.random(),
            appends: AtomicU64::new(0),
        };
        let transport = Arc::new(transport);
        let driver = Driver::new(
            Arc::clone(&transport),
            server,
            config,
            Arc::clone(&shared.watches),
            messages,
        );
        transport
            .spawn(driver.run())
            .map_err(|error| RedisError::io(RedisErrorKind::Config, error))?;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Runs a script on the keys of a log.
    pub(super) async fn run(
        &self,
        script: &Script,
        keys: [&str; 3],
        args: &[&[u8]],
        repeatable: bool,
    ) -> Result<Value, RedisError> {
        self.run_for(script, keys, args, repeatable, None).await
    }

    /// Runs a script whose answer may be large. Its last argument, the most bytes of the answer, is
    /// added when it is sent.
    pub(super) async fn read(
        &self,
        script: &Script,
        keys: [&str; 3],
        args: &[&[u8]],
        size: ReplySize,
    ) -> Result<Value, RedisError> {
        self.run_for(script, keys, args, true, Some(size)).await
    }

    async fn run_for(
        &self,
        script: &Script,
        keys: [&str; 3],
        args: &[&[u8]],
        repeatable: bool,
        size: Option<ReplySize>,
    ) -> Result<Value, RedisError> {
        let call = async |name: &[u8], body: &[u8]| {
            let keys = keys.map(str::as_bytes);
            let mut words = vec![name, body, b"3"];
            words.extend(keys);
            words.extend(args);
            self.call(&words, repeatable, size).await
        };
        match call(b"EVALSHA", script.hash.as_bytes()).await {
            Err(error) if error.code() == Some("NOSCRIPT") => {
                call(b"EVAL", script.source.as_bytes()).await
            }
            answer => answer,
        }
    }

    async fn call(
        &self,
        words: &[&[u8]],
        repeatable: bool,
        size: Option<ReplySize>,
    ) -> Result<Value, RedisError> {
        let (answer, received) = oneshot::channel();
        let late = usize::from(size.is_some());
        self.send(Message::Call(Call {
            command: pack_some(words, words.len() + late),
            size,
            repeatable,
            answer,
            tries: 0,
        }));
        let ended = || RedisError::new(RedisErrorKind::Lost, "its task has ended");
        received.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Returns a token that no other append has.
    pub(super) fn token(&self) -> String {
        let number = self.shared.appends.fetch_add(1, Ordering::Relaxed);
        format!("{:x}.{number:x}", self.shared.random)
    }

    /// Makes the server announce changes of a log, for as long as the result is held.
    pub(super) fn watch(&self, channel: &Arc<str>, meta: &Arc<str>) -> Watching {
        let (watch, is_first) = self.shared.watches.enter(channel, meta);
        if is_first {
            self.send(Message::Watch(Arc::clone(channel)));
        }
        Watching {
            client: self.clone(),
            watch,
        }
    }

    fn send(&self, message: Message) {
        // Fails when the runtime that ran the task is gone. That drops the message, and its caller
        // gets an error.
        let _ = self.shared.messages.unbounded_send(message);
    }
}

// A panic leaves no part of a client half-changed: its parts are a queue without locks, and numbers
// behind a lock under which nothing panics. A Durable Object may hold only such values.
impl UnwindSafe for RedisClient {}
impl RefUnwindSafe for RedisClient {}

impl fmt::Debug for RedisClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisClient")
            .field("server", &self.shared.server)
            .finish_non_exhaustive()
    }
}

/// One store's part in a [`Watch`].
#[derive(Debug)]
pub(super) struct Watching {
    client: RedisClient,
    pub(super) watch: Arc<Watch>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        if self.client.shared.watches.leave(&self.watch) {
            let channel = Arc::clone(&self.watch.channel);
            self.client.send(Message::Unwatch(channel));
        }
    }
}
