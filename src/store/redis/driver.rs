//! The task behind a client: it opens one connection, uses it for all callers, and replaces it when
//! it is lost.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use redis::{PushKind, Value};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::head;
use super::budget::{Budget, ReplySize};
use super::config::RedisConfig;
use super::error::{RedisError, RedisErrorKind};
use super::protocol::{Replies, pack, pack_word};
use super::server::RedisServer;
use super::transport::RedisTransport;
use super::watch::{Watch, Watches};
use crate::clock::Instant;

/// The pause before connecting again: it doubles from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));
/// The most times that a repeatable command is sent.
const TRIES: u8 = 10;
/// The most unwritten bytes and due answers. Beyond either, commands wait in the channel.
const ROOM: (usize, usize) = (256 * 1024, 4096);

/// A request of a client to its driver.
pub(super) enum Message {
    Call(Call),
    /// A first store watches this channel.
    Watch(Arc<str>),
    /// No store watches it any more.
    Unwatch(Arc<str>),
}

/// A command, and the sender of its answer.
pub(super) struct Call {
    /// The command's bytes, without the last word if that is the size of the answer.
    pub(super) command: Vec<u8>,
    pub(super) size: Option<ReplySize>,
    /// Whether executing it twice has the effect of executing it once.
    pub(super) repeatable: bool,
    pub(super) answer: oneshot::Sender<Result<Value, RedisError>>,
    pub(super) tries: u8,
}

pub(super) struct Driver<T> {
    transport: Arc<T>,
    server: RedisServer,
    config: RedisConfig,
    watches: Arc<Watches>,
    messages: mpsc::UnboundedReceiver<Message>,
    /// Calls to be sent when there is a connection.
    queue: VecDeque<Call>,
    /// When the last connection was lost.
    lost: Option<Instant>,
    budget: Budget,
}

impl<T: RedisTransport> Driver<T> {
    pub(super) fn new(
        transport: Arc<T>,
        server: RedisServer,
        config: RedisConfig,
        watches: Arc<Watches>,
        messages: mpsc::UnboundedReceiver<Message>,
    ) -> Self {
        Self {
            transport,
            server,
            config,
            watches,
            messages,
            queue: VecDeque::new(),
            lost: None,
            budget: Budget::new(),
        }
    }

    /// Runs until the client is gone.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSES.0;
        while self.is_wanted().await {
            match self.connect().await {
                Ok(mut connection) => {
                    pause = PAUSES.0;
                    let Err(error) = self.serve(&mut connection).await else {
                        return;
                    };
                    self.lost = Some(Instant::now());
                    self.budget = self.budget.after_loss(connection.due.bytes);
                    for watch in self.watches.all() {
                        watch.disconnect();
                    }
                    connection.salvage(&error, &mut self.queue, self.config.timeout);
                }
                Err(error) => {
                    let RedisConfig {
                        patience,
                        viewer_patience,
                        ..
                    } = self.config;
                    while let Ok(message) = self.messages.try_recv() {
                        self.keep(message);
                    }
                    let down = self.lost.map(|lost| lost.elapsed());
                    if down.is_none_or(|down| down >= patience) {
                        for call in self.queue.drain(..) {
                            call.answer(Err(error.clone()));
                        }
                    }
                    // The platform may let this client open no more, for ever: a viewer that kept
                    // its stream would be deaf.
                    if down.is_none_or(|down| down >= viewer_patience) {
                        for watch in self.watches.all() {
                            watch.give_up(error.clone());
                        }
                    }
                    self.transport.sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// Waits until a connection is needed. Returns false when there is no client any more.
    async fn is_wanted(&mut self) -> bool {
        // Calls that were given up are no reason to connect.
        self.queue.retain(|call| !call.answer.is_canceled());
        while self.queue.is_empty() && self.watches.all().is_empty() {
            match self.messages.next().await {
                Some(message) => self.keep(message),
                None => return false,
            }
        }
        true
    }

    /// Keeps a call until there is a connection, which then subscribes to all that is watched.
    fn keep(&mut self, message: Message) {
        if let Message::Call(call) = message {
            self.queue.push_back(call);
        }
    }

    async fn connect(&mut self) -> Result<Connection<T::Connection>, RedisError> {
        let greeting = self.server.greeting();
        let opening = pin!(async {
            let stream = self.transport.connect(&self.server).await;
            let stream =
                stream.map_err(|error| RedisError::io(RedisErrorKind::Unreachable, error))?;
            let mut connection = Connection::new(stream, self.budget);
            for command in greeting {
                connection.send(&command, Due::Greeting);
            }
            poll_fn(|context| connection.poll_greeting(context)).await?;
            Ok(connection)
        });
        match select(opening, pin!(self.transport.sleep(self.config.timeout))).await {
            // No call was sent, whatever the error.
            Either::Left((opened, _)) => opened.map_err(|error: RedisError| match error.kind() {
                RedisErrorKind::Lost => error.of_kind(RedisErrorKind::Unreachable),
                RedisErrorKind::Refused if error.is_about_hello() => RedisError::new(
                    RedisErrorKind::Unsupported,
                    "Redis 6.0 or later is needed, or what speaks RESP3 as it does: this server has no HELLO 3",
                ),
                _ => error,
            }),
            Either::Right(_) => Err(RedisError::new(
                RedisErrorKind::Unreachable,
                "it did not answer in time",
            )),
        }
    }

    /// Sends and receives until the client is gone. An error is the loss of the connection.
    async fn serve(
        &mut self,
        connection: &mut Connection<T::Connection>,
    ) -> Result<(), RedisError> {
        for watch in self.watches.all() {
            connection.subscribe(&watch.channel);
        }
        for call in self.queue.drain(..) {
            connection.call(call);
        }
        let (transport, config) = (&self.transport, self.config);
        let mut next_check = Instant::now() + config.check_interval;
        let mut due = next_check;
        let mut timer = pin!(transport.sleep(config.check_interval));
        let (messages, watches) = (&mut self.messages, &self.watches);
        poll_fn(|context| {
            loop {
                while connection.has_room() {
                    match messages.poll_next_unpin(context) {
                        Poll::Ready(Some(message)) => connection.take(message, watches),
                        Poll::Ready(None) => return Poll::Ready(Ok(())),
                        Poll::Pending => break,
                    }
                }
                connection.admit();
                connection.poll_write(context)?;
                if connection.poll_read(context, watches)? {
                    // The read may have made room for more commands.
                    continue;
                }
                let wanted = connection
                    .overdue(config.timeout)
                    .map_or(next_check, |overdue| overdue.min(next_check));
                if wanted < due {
                    due = wanted;
                    timer.set(transport.sleep(due.saturating_duration_since(Instant::now())));
                }
                if timer.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                let now = Instant::now();
                if connection
                    .overdue(config.timeout)
                    .is_some_and(|overdue| overdue <= now)
                {
                    return Poll::Ready(Err(RedisError::new(RedisErrorKind::TimedOut, "")));
                }
                if next_check <= now {
                    next_check = now + config.check_interval;
                    for watch in watches.all() {
                        connection.check(watch);
                    }
                }
                due = next_check;
                timer.set(transport.sleep(due.saturating_duration_since(now)));
            }
        })
        .await
    }
}

impl Call {
    fn answer(self, answer: Result<Value, RedisError>) {
        // Fails if nobody waits any more.
        let _ = self.answer.send(answer);
    }
}

/// An open connection and everything that is under way on it.
struct Connection<C> {
    stream: C,
    replies: Replies,
    buffer: Box<[u8]>,
    /// The bytes to write; those from `written` on are not written yet.
    out: Vec<u8>,
    written: usize,
    /// The bytes ever put into `out`, and how many of them were written.
    bytes_queued: u64,
    bytes_written: u64,
    due: Dues,
    /// Calls whose answers may be large, until there is room for them.
    waiting: VecDeque<Call>,
    budget: Budget,
    /// When something was last read.
    heard: Instant,
}

/// The commands that await their answers, in order.
#[derive(Default)]
struct Dues {
    sent: VecDeque<Sent>,
    /// The most bytes that their large answers may have.
    bytes: usize,
}

struct Sent {
    due: Due,
    /// The end of its bytes, counted from the connection's beginning.
    end: u64,
    since: Instant,
    /// The most bytes that its answer may have; 0 for a small one.
    size: usize,
}

impl Dues {
    fn push(&mut self, sent: Sent) {
        self.bytes += sent.size;
        self.sent.push_back(sent);
    }

    fn pop(&mut self) -> Option<Sent> {
        let sent = self.sent.pop_front()?;
        self.bytes -= sent.size;
        Some(sent)
    }
}

/// The use of an answer.
enum Due {
    Greeting,
    Call(Call),
    Subscribe(Arc<str>),
    Unsubscribe,
    Check(Arc<Watch>),
}

impl<C: AsyncRead + AsyncWrite + Unpin> Connection<C> {
    fn new(stream: C, budget: Budget) -> Self {
        Self {
            stream,
            replies: Replies::default(),
            buffer: vec![0; 64 * 1024].into(),
            out: Vec::new(),
            written: 0,
            bytes_queued: 0,
            bytes_written: 0,
            due: Dues::default(),
            waiting: VecDeque::new(),
            budget,
            heard: Instant::now(),
        }
    }

    fn send(&mut self, command: &[u8], due: Due) {
        self.write(command);
        self.expect(due, 0);
    }

    fn write(&mut self, command: &[u8]) {
        self.out.extend_from_slice(command);
        self.bytes_queued += command.len() as u64;
    }

    fn expect(&mut self, due: Due, size: usize) {
        self.due.push(Sent {
            due,
            end: self.bytes_queued,
            since: Instant::now(),
            size,
        });
    }

    fn take(&mut self, message: Message, watches: &Watches) {
        match message {
            Message::Call(call) => self.call(call),
            Message::Watch(channel) => self.subscribe(&channel),
            // Another store may watch it again by now.
            Message::Unwatch(channel) if watches.get(&channel).is_none() => {
                let command = pack(&[b"UNSUBSCRIBE", channel.as_bytes()]);
                self.send(&command, Due::Unsubscribe);
            }
            Message::Unwatch(_) => {}
        }
    }

    /// Sends a call. If its answer may be large, it waits for its turn and for room.
    fn call(&mut self, call: Call) {
        if call.size.is_none() {
            self.send_call(call, 0);
            return;
        }
        self.waiting.push_back(call);
        self.admit();
    }

    /// Sends waiting calls in their order, as far as there is room.
    fn admit(&mut self) {
        let budget = self.budget.bytes();
        while let Some(call) = self.waiting.pop_front() {
            let size = call.size.map_or(0, |size| size.within(budget));
            let has_room = self.due.bytes == 0 || self.due.bytes + size <= budget;
            if size > 0 && !has_room && !call.answer.is_canceled() {
                self.waiting.push_front(call);
                return;
            }
            self.send_call(call, size);
        }
    }

    fn send_call(&mut self, mut call: Call, size: usize) {
        if call.answer.is_canceled() {
            return;
        }
        call.tries += 1;
        self.write(&call.command);
        if call.size.is_some() {
            self.write(&pack_word(size.to_string().as_bytes()));
        }
        // The call keeps its command, for another connection.
        self.expect(Due::Call(call), size);
    }

    fn subscribe(&mut self, channel: &Arc<str>) {
        let command = pack(&[b"SUBSCRIBE", channel.as_bytes()]);
        self.send(&command, Due::Subscribe(Arc::clone(channel)));
    }

    /// Asks for a head. A log may change without an announcement when it is deleted or expires, and
    /// an answer that does not come shows that the connection is dead.
    fn check(&mut self, watch: Arc<Watch>) {
        let command = pack(&[b"HGET", watch.meta.as_bytes(), b"head"]);
        self.send(&command, Due::Check(watch));
    }

    fn has_room(&self) -> bool {
        self.out.len() - self.written < ROOM.0 && self.due.sent.len() < ROOM.1
    }

    /// Returns when bytes must have come at the latest, if an answer is due.
    fn overdue(&self, timeout: Duration) -> Option<Instant> {
        let oldest = self.due.sent.front()?;
        Some(oldest.since.max(self.heard) + timeout)
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), RedisError> {
        while self.written < self.out.len() {
            let rest = &self.out[self.written..];
            match Pin::new(&mut self.stream).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => return Err(RedisError::new(RedisErrorKind::Lost, "")),
                Poll::Ready(Ok(bytes)) => {
                    self.written += bytes;
                    self.bytes_written += bytes as u64;
                }
                Poll::Ready(Err(error)) => return Err(lost(error)),
                Poll::Pending => return Ok(()),
            }
        }
        self.out.clear();
        // Returns the memory that one large batch needed.
        self.out.shrink_to(ROOM.0);
        self.written = 0;
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Ready(Err(error)) => Err(lost(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Reads once, and returns whether there were bytes.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        watches: &Watches,
    ) -> Result<bool, RedisError> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Err(lost(error)),
            Poll::Pending => return Ok(false),
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            return Err(RedisError::new(RedisErrorKind::Lost, ""));
        }
        self.heard = Instant::now();
        let due = &mut self.due;
        self.replies
            .feed(bytes, |reply| settle(due, reply, watches))?;
        Ok(true)
    }

    fn poll_greeting(&mut self, context: &mut Context<'_>) -> Poll<Result<(), RedisError>> {
        let nobody = Watches::default();
        while !self.due.sent.is_empty() {
            self.poll_write(context)?;
            if !self.poll_read(context, &nobody)? {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Puts calls that were not sent, or may be sent again, back into the queue. The others fail.
    fn salvage(self, error: &RedisError, queue: &mut VecDeque<Call>, timeout: Duration) {
        let now = Instant::now();
        queue.extend(self.waiting);
        for sent in self.due.sent.into_iter().rev() {
            let Due::Call(call) = sent.due else { continue };
            let expired = now.saturating_duration_since(sent.since) >= timeout;
            let again = call.repeatable && call.tries < TRIES && error.is_transient();
            // The server does not execute a command that it did not get whole.
            if sent.end > self.bytes_written || (again && !expired) {
                queue.push_front(call);
            } else if error.kind() == RedisErrorKind::TimedOut && !expired {
                call.answer(Err(error.clone().of_kind(RedisErrorKind::Lost)));
            } else if call.size.is_some() && error.kind() == RedisErrorKind::Lost {
                let detail = "each time: its client-output-buffer-limit for pubsub may be less than one event needs";
                call.answer(Err(RedisError::new(RedisErrorKind::Lost, detail)));
            } else {
                call.answer(Err(error.clone()));
            }
        }
    }
}

/// Hands a reply to the command that awaits it.
///
/// # Errors
/// When the connection is of no further use.
fn settle(due: &mut Dues, reply: Value, watches: &Watches) -> Result<(), RedisError> {
    if let Value::Push { kind, data } = &reply {
        match kind {
            PushKind::Message => {
                if let Some(watch) = data
                    .first()
                    .and_then(text)
                    .and_then(|name| watches.get(name))
                {
                    watch.ring();
                }
                return Ok(());
            }
            // These are answers.
            PushKind::Subscribe | PushKind::Unsubscribe => {}
            _ => return Ok(()),
        }
    }
    let Some(sent) = due.pop() else {
        return Err(RedisError::unexpected("an answer to no question"));
    };
    let answer = match reply {
        Value::ServerError(error) => {
            let details = error.details().unwrap_or_default();
            Err(RedisError::refused(error.code(), details))
        }
        reply => Ok(reply),
    };
    match sent.due {
        Due::Greeting => answer.map(drop),
        Due::Call(call) => {
            // This server is not the master any more: connect again, to the new one.
            let demoted = answer
                .as_ref()
                .is_err_and(|error| error.code() == Some("READONLY"));
            call.answer(answer);
            if demoted {
                return Err(RedisError::new(RedisErrorKind::Lost, ""));
            }
            Ok(())
        }
        Due::Subscribe(channel) => {
            if let Some(watch) = watches.get(&channel) {
                watch.subscribe(answer.map(drop));
            }
            Ok(())
        }
        Due::Unsubscribe => Ok(()),
        Due::Check(watch) => {
            if let Ok(head) = answer.and_then(|reply| head(&reply)) {
                watch.check(head);
            }
            Ok(())
        }
    }
}

fn lost(error: std::io::Error) -> RedisError {
    RedisError::io(RedisErrorKind::Lost, error)
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
