//! HTTP/1.1 by hand over TCP: the suite chooses every byte of a request, and sees every byte of an
//! answer.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The most bytes of a status line with its headers.
const MAX_HEAD: usize = 128 * 1024;

/// The reason why there is no answer, or no more of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It did not come in time.
    Late,
    /// The connection ended first.
    Cut,
    /// The bytes are not HTTP.
    Malformed(String),
    /// An error of the operating system.
    Io(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("nothing in time"),
            Self::Cut => f.write_str("a connection that was cut"),
            Self::Malformed(reason) => write!(f, "no HTTP: {reason}"),
            Self::Io(reason) => write!(f, "an error of the network: {reason}"),
        }
    }
}

/// A request, as its bytes are sent.
#[derive(Clone, Debug)]
pub struct Request {
    /// Any method.
    pub method: String,
    /// The path with its query.
    pub target: String,
    /// `1.1` or `1.0`.
    pub version: &'static str,
    /// In this order, after `Host`.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Sent with its length, if there is one.
    pub body: Option<Vec<u8>>,
}

impl Request {
    /// Returns a request of HTTP/1.1 without headers or a body.
    #[must_use]
    pub fn new(method: &str, target: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.into(),
            version: "1.1",
            headers: Vec::new(),
            body: None,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Returns the bytes.
    #[must_use]
    pub fn bytes(&self, host: &str) -> Vec<u8> {
        let Self {
            method,
            target,
            version,
            ..
        } = self;
        let mut bytes =
            format!("{method} {target} HTTP/{version}\r\nHost: {host}\r\n").into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        if let Some(body) = &self.body {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

/// A status line with its headers.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Such as `HTTP/1.1`.
    pub version: String,
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Returns the values of a header, in one line.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self
            .headers
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// Returns whether a list in a header has a word, in any case.
    #[must_use]
    pub fn has(&self, name: &str, word: &str) -> bool {
        self.get(name).is_some_and(|value| {
            value
                .split([',', ';'])
                .any(|part| part.trim().eq_ignore_ascii_case(word))
        })
    }

    fn parse(text: &str) -> Result<Self, Trouble> {
        let malformed = |line: &str| Trouble::Malformed(shown(line.as_bytes()));
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let mut words = first.splitn(3, ' ');
        let version = words.next().unwrap_or_default().to_owned();
        let status = words.next().and_then(|word| word.parse().ok());
        let (true, Some(status)) = (version.starts_with("HTTP/"), status) else {
            return Err(malformed(first));
        };
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line.split_once(':').ok_or_else(|| malformed(line))?;
                Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<Result<_, Trouble>>()?;
        Ok(Self {
            version,
            status,
            headers,
        })
    }
}

/// The way in which the end of a body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// By its length.
    Length(usize),
    /// By chunks.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

impl Framing {
    fn of(head: &Head, method: &str) -> Result<Self, Trouble> {
        if method == "HEAD" || head.status < 200 || matches!(head.status, 204 | 304) {
            return Ok(Self::Empty);
        }
        if head.has("transfer-encoding", "chunked") {
            return Ok(Self::Chunked);
        }
        match head.get("content-length") {
            Some(length) => match length.parse() {
                Ok(length) => Ok(Self::Length(length)),
                Err(_) => Err(Trouble::Malformed(format!("content-length: {length}"))),
            },
            None => Ok(Self::UntilClose),
        }
    }
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// As its framing says.
    Whole,
    /// In the middle.
    Cut,
}

/// A connection with one request under way.
pub struct Connection {
    stream: TcpStream,
    host: String,
    method: String,
    /// Bytes that have come and are not read yet.
    raw: Vec<u8>,
    is_closed: bool,
    framing: Option<Framing>,
    /// Bytes that are left of a chunk or of a length.
    left: Option<usize>,
    /// The line end after a chunk is still to come.
    after_chunk: bool,
    end: Option<BodyEnd>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn open(host: &str, patience: Duration) -> Result<Self, Trouble> {
        let io = |error: std::io::Error| Trouble::Io(error.to_string());
        let address = host
            .to_socket_addrs()
            .map_err(io)?
            .next()
            .ok_or_else(|| Trouble::Io(format!("{host} has no address")))?;
        let stream = TcpStream::connect_timeout(&address, patience).map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        stream
            .set_write_timeout(Some(patience.max(Duration::from_secs(5))))
            .map_err(io)?;
        Ok(Self {
            stream,
            host: host.to_owned(),
            method: String::new(),
            raw: Vec::new(),
            is_closed: false,
            framing: None,
            left: None,
            after_chunk: false,
            end: None,
        })
    }

    /// Sends a request, after the answer to the one before was read.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, request: &Request) -> Result<(), Trouble> {
        let bytes = request.bytes(&self.host);
        self.method.clone_from(&request.method);
        (self.framing, self.left, self.end) = (None, None, None);
        self.send_bytes(&bytes)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.stream.write_all(bytes).map_err(|_| Trouble::Cut)
    }

    /// Sends bytes one by one.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn dribble(&mut self, request: &Request) -> Result<(), Trouble> {
        self.method.clone_from(&request.method);
        for byte in request.bytes(&self.host) {
            self.send_bytes(&[byte])?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Reads the head of the answer.
    ///
    /// # Errors
    /// When it does not come before `until`, or is not HTTP.
    pub fn head(&mut self, until: Instant) -> Result<Head, Trouble> {
        loop {
            if let Some(end) = find(&self.raw, b"\r\n\r\n") {
                let text: Vec<u8> = self.raw.drain(..end + 4).collect();
                let head = Head::parse(&String::from_utf8_lossy(&text))?;
                if head.status < 200 {
                    continue;
                }
                self.framing = Some(Framing::of(&head, &self.method)?);
                if let Some(Framing::Length(length)) = self.framing {
                    self.left = Some(length);
                }
                return Ok(head);
            }
            if self.raw.len() > MAX_HEAD {
                return Err(Trouble::Malformed("a head without an end".to_owned()));
            }
            if self.is_closed {
                return Err(Trouble::Cut);
            }
            self.pull(until)?;
        }
    }

    /// Returns how the body ended, once it has.
    #[must_use]
    pub fn end(&self) -> Option<BodyEnd> {
        self.end
    }

    /// Returns the way in which the end of the body is marked.
    #[must_use]
    pub fn framing(&self) -> Option<Framing> {
        self.framing
    }

    /// Returns whether there are bytes that belong to no answer.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.raw.is_empty()
    }

    /// Adds more of the body to `body`. Returns false at its end.
    ///
    /// # Errors
    /// When nothing comes before `until`, or the bytes are not HTTP.
    pub fn body(&mut self, body: &mut Vec<u8>, until: Instant) -> Result<bool, Trouble> {
        let before = body.len();
        loop {
            self.take(body)?;
            if self.end.is_some() {
                return Ok(body.len() > before);
            }
            if body.len() > before {
                return Ok(true);
            }
            if self.is_closed {
                self.end = Some(match self.framing {
                    Some(Framing::UntilClose) => BodyEnd::Whole,
                    _ => BodyEnd::Cut,
                });
                return Ok(false);
            }
            self.pull(until)?;
        }
    }

    /// Moves the available bytes of the body.
    fn take(&mut self, body: &mut Vec<u8>) -> Result<(), Trouble> {
        match self.framing {
            None => {}
            Some(Framing::Empty) => self.end = Some(BodyEnd::Whole),
            Some(Framing::UntilClose) => body.append(&mut self.raw),
            Some(Framing::Length(_)) => {
                self.take_left(body);
                if self.left == Some(0) {
                    self.end = Some(BodyEnd::Whole);
                }
            }
            Some(Framing::Chunked) => loop {
                if self.end.is_some() {
                    break;
                }
                if self.left.is_some_and(|left| left > 0) {
                    if self.raw.is_empty() {
                        break;
                    }
                    self.take_left(body);
                    continue;
                }
                if std::mem::take(&mut self.after_chunk) {
                    if self.raw.len() < 2 {
                        self.after_chunk = true;
                        break;
                    }
                    if !self.raw.starts_with(b"\r\n") {
                        let reason = "a chunk that is longer than its length";
                        return Err(Trouble::Malformed(reason.to_owned()));
                    }
                    self.raw.drain(..2);
                }
                let Some(end) = find(&self.raw, b"\r\n") else {
                    break;
                };
                let line = String::from_utf8_lossy(&self.raw[..end]).into_owned();
                let digits = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(digits, 16).map_err(|_| {
                    Trouble::Malformed(format!("the chunk size {}", shown(line.as_bytes())))
                })?;
                if size == 0 {
                    // Trailers, which no server sends, end with an empty line.
                    let Some(end) = find(&self.raw, b"\r\n\r\n") else {
                        break;
                    };
                    self.raw.drain(..end + 4);
                    self.end = Some(BodyEnd::Whole);
                    break;
                }
                self.raw.drain(..end + 2);
                self.left = Some(size);
                self.after_chunk = true;
            },
        }
        Ok(())
    }

    fn take_left(&mut self, body: &mut Vec<u8>) {
        let take = self.left.unwrap_or(0).min(self.raw.len());
        body.extend(self.raw.drain(..take));
        self.left = self.left.map(|left| left - take);
    }

    fn pull(&mut self, until: Instant) -> Result<(), Trouble> {
        let wait = until.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Err(Trouble::Late);
        }
        let io = |error: std::io::Error| Trouble::Io(error.to_string());
        self.stream.set_read_timeout(Some(wait)).map_err(io)?;
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.is_closed = true,
            Ok(length) => self.raw.extend_from_slice(&buffer[..length]),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => return Err(Trouble::Late),
                ErrorKind::Interrupted => {}
                _ => self.is_closed = true,
            },
        }
        Ok(())
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Bytes as text for people: bytes that are not printable ASCII are escaped, and long ones are cut.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 300;
    let mut text = String::from("\"");
    for &byte in bytes.iter().take(MOST) {
        text.extend(std::ascii::escape_default(byte).map(char::from));
    }
    text.push('"');
    if bytes.len() > MOST {
        text.push_str(&format!("… ({} bytes)", bytes.len()));
    }
    text
}

/// Bytes for a path or a query.
#[must_use]
pub fn percent(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
