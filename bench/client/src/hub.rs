//! Many connections on one poll.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::Result;
use crate::http::Response;
use crate::viewer::Viewer;

/// The connections of a scenario.
pub(crate) struct Hub {
    server: SocketAddr,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    /// The connections that may have more to read: the poll reports it only once.
    readable: VecDeque<usize>,
    buffer: Vec<u8>,
}

/// A number of a connection.
pub(crate) type Id = usize;

struct Connection {
    stream: TcpStream,
    outgoing: Vec<u8>,
    response: Response,
    viewer: Option<Viewer>,
    /// When a response that is not a stream was complete.
    answered: Option<Instant>,
    /// The body of a response that is not a stream of events, or of a refusal.
    text: Vec<u8>,
    /// Nothing is read: the client has stalled.
    stalled: bool,
    queued: bool,
    closed: bool,
    /// The statuses of an answer that is none to give up at.
    expected: &'static [u16],
}

/// The most bytes read from one connection before another one's turn.
const READ_SIZE: usize = 256 * 1024;

impl Hub {
    pub(crate) fn new(port: u64) -> Result<Self> {
        Ok(Self {
            server: SocketAddr::from(([127, 0, 0, 1], u16::try_from(port)?)),
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            connections: Vec::new(),
            readable: VecDeque::new(),
            buffer: vec![0; READ_SIZE],
        })
    }

    /// Asks for the events of a log after this one.
    pub(crate) fn view(&mut self, path: &str, after: u64, viewer: Viewer) -> Result<Id> {
        let resume = if after > 0 {
            format!("last-event-id: {after}\r\n")
        } else {
            String::new()
        };
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: bench\r\naccept: text/event-stream\r\n{resume}\r\n"
        );
        self.open(head, Some(viewer))
    }

    /// Sends a request with this body.
    pub(crate) fn post(&mut self, path: &str, body: &str) -> Result<Id> {
        let size = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-length: {size}\r\n\r\n{body}");
        self.open(head, None)
    }

    /// Asks for what is no stream.
    pub(crate) fn get(&mut self, path: &str) -> Result<Id> {
        self.open(get_head(path), None)
    }

    /// Asks for a path at which there is nothing.
    pub(crate) fn get_missing(&mut self, path: &str) -> Result<Id> {
        let id = self.get(path)?;
        if let Some(connection) = self.connections.get_mut(id) {
            connection.expected = &[404];
        }
        Ok(id)
    }

    /// Asks for it over the connection of a request that [has been answered](Self::answered).
    pub(crate) fn get_again(&mut self, id: Id, path: &str) -> Result<()> {
        self.forget_answer(id);
        self.send(id, get_head(path).as_bytes())
    }

    /// Returns the body of a response that is no stream.
    pub(crate) fn text(&self, id: Id) -> &[u8] {
        let connection = self.connections.get(id);
        connection.map_or(&[], |connection| &connection.text)
    }

    /// Sends another request over the connection of one that [has been answered](Self::answered).
    pub(crate) fn post_again(&mut self, id: Id, path: &str) -> Result<()> {
        self.forget_answer(id);
        let head = format!("POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-length: 0\r\n\r\n");
        self.send(id, head.as_bytes())
    }

    fn forget_answer(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.response = Response::new();
            connection.answered = None;
            connection.text.clear();
        }
    }

    /// Returns when the whole response to the latest request had come.
    pub(crate) fn answered(&self, id: Id) -> Option<Instant> {
        self.connections.get(id)?.answered
    }

    /// Sends a request whose body comes byte by byte: see [`send_byte`](Self::send_byte).
    pub(crate) fn post_bytes(&mut self, path: &str) -> Result<Id> {
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: bench\r\ntransfer-encoding: chunked\r\n\r\n");
        self.open(head, None)
    }

    pub(crate) fn send_byte(&mut self, id: Id) -> Result<()> {
        self.send(id, b"1\r\n.\r\n")
    }

    pub(crate) fn end_bytes(&mut self, id: Id) -> Result<()> {
        self.send(id, b"0\r\n\r\n")
    }

    /// Stops reading from it, or reads again.
    pub(crate) fn stall(&mut self, id: Id, stalled: bool) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.stalled = stalled;
            if !stalled && !connection.queued {
                connection.queued = true;
                self.readable.push_back(id);
            }
        }
    }

    /// Closes the connection, as a viewer who has seen enough does.
    pub(crate) fn close(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.closed = true;
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn viewer(&self, id: Id) -> Option<&Viewer> {
        self.connections.get(id)?.viewer.as_ref()
    }

    /// Returns whether the response has come, as a whole if it is not a stream.
    pub(crate) fn has_answered(&self, id: Id) -> bool {
        self.connections.get(id).is_some_and(|connection| {
            if connection.viewer.is_some() {
                connection.response.status() != 0
            } else {
                connection.response.is_complete()
            }
        })
    }

    /// Turns until `done`, at most up to `deadline`. Returns whether it is done.
    pub(crate) fn run(
        &mut self,
        deadline: Instant,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<bool> {
        loop {
            if done(self) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.turn(left.min(Duration::from_millis(50)))?;
        }
    }

    /// Does the pending work, after waiting for it up to `wait`.
    pub(crate) fn turn(&mut self, wait: Duration) -> Result<()> {
        let wait = if self.readable.is_empty() {
            wait
        } else {
            Duration::ZERO
        };
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        let mut writable = Vec::new();
        for event in &self.events {
            let id = event.token().0;
            let Some(connection) = self.connections.get_mut(id) else {
                continue;
            };
            if event.is_writable() && !connection.outgoing.is_empty() && !connection.closed {
                writable.push(id);
            }
            if event.is_readable() && !connection.queued && !connection.stalled {
                connection.queued = true;
                self.readable.push_back(id);
            }
        }
        for id in writable {
            self.send(id, b"")?;
        }
        for _ in 0..self.readable.len() {
            if let Some(id) = self.readable.pop_front() {
                self.read(id)?;
            }
        }
        Ok(())
    }

    fn open(&mut self, head: String, viewer: Option<Viewer>) -> Result<Id> {
        let id = self.connections.len();
        let mut stream = TcpStream::connect(self.server)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        registry.register(&mut stream, Token(id), interest)?;
        self.connections.push(Connection {
            stream,
            outgoing: head.into_bytes(),
            response: Response::new(),
            viewer,
            answered: None,
            text: Vec::new(),
            stalled: false,
            queued: false,
            closed: false,
            expected: &[200, 201],
        });
        Ok(id)
    }

    fn send(&mut self, id: Id, bytes: &[u8]) -> Result<()> {
        let Some(connection) = self.connections.get_mut(id) else {
            return Ok(());
        };
        connection.outgoing.extend_from_slice(bytes);
        while !connection.outgoing.is_empty() {
            match connection.stream.write(&connection.outgoing) {
                Ok(written) => drop(connection.outgoing.drain(..written)),
                Err(error) if is_not_now(&error) => break,
                Err(error) => return Err(error.into()),
            }
        }
        // Otherwise the kernel would hold back the second byte of a body until the first is
        // acknowledged.
        let _ = connection.stream.set_nodelay(true);
        Ok(())
    }

    fn read(&mut self, id: Id) -> Result<()> {
        let Some(connection) = self.connections.get_mut(id) else {
            return Ok(());
        };
        connection.queued = false;
        if connection.stalled || connection.closed {
            return Ok(());
        }
        match connection.stream.read(&mut self.buffer) {
            Ok(0) => connection.closed = true,
            Ok(size) => {
                let bytes = self.buffer.get(..size).unwrap_or_default();
                connection.take(bytes)?;
                // There was no more than a part of the buffer; the poll reports further bytes.
                if size == READ_SIZE {
                    connection.queued = true;
                    self.readable.push_back(id);
                }
            }
            Err(error) if is_not_now(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if connection.closed && !connection.response.is_complete() {
            return Err(format!("connection {id} was closed by the server").into());
        }
        Ok(())
    }
}

impl Connection {
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let now = Instant::now();
        let Self {
            response,
            viewer,
            text,
            answered,
            expected,
            ..
        } = self;
        response.feed(bytes, |body| match viewer {
            Some(viewer) => viewer.feed(body, now),
            None => text.extend_from_slice(body),
        })?;
        if response.is_complete() {
            answered.get_or_insert(now);
        }
        let status = response.status();
        if status != 0 && !expected.contains(&status) {
            let reason = String::from_utf8_lossy(text);
            return Err(format!("the server answered {status}: {reason}").into());
        }
        Ok(())
    }
}

fn get_head(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n")
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::NotConnected
    )
}
