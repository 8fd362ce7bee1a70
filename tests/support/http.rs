//! An HTTP/1.1 client that distinguishes a complete body from a broken one. Shares no code with the
//! crate.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::sse::{Message, SseReader};

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
    connection: BufReader<TcpStream>,
}

#[derive(Debug)]
enum Framing {
    Chunked,
    /// The number of bytes that are left.
    Length(usize),
}

/// The next piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    End,
    Cut,
}

pub(crate) async fn get(server: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Response {
    request(server, "GET", path, headers).await
}

pub(crate) async fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Response {
    let connection = TcpStream::connect(server).await.unwrap();
    send(connection, method, path, headers).await
}

pub(crate) async fn send(
    connection: TcpStream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Response {
    let mut connection = BufReader::new(connection);
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    connection.write_all(head.as_bytes()).await.unwrap();

    let status = line(&mut connection).await.unwrap();
    let status = status.strip_prefix("HTTP/1.1 ").unwrap()[..3]
        .parse()
        .unwrap();
    let mut headers = Vec::new();
    loop {
        let line = line(&mut connection).await.unwrap();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap();
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut response = Response {
        status,
        headers,
        framing: Framing::Length(0),
        connection,
    };
    if method != "HEAD" && ![204, 304].contains(&status) {
        response.framing = match response.header("content-length") {
            Some(length) => Framing::Length(length.parse().unwrap()),
            None => {
                assert_eq!(response.header("transfer-encoding"), Some("chunked"));
                Framing::Chunked
            }
        };
    }
    response
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(key, _)| key == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(
            values.next().is_none(),
            "{name} more than once: {:?}",
            self.headers
        );
        value
    }

    /// Returns all CORS headers except `vary`.
    pub(crate) fn cors_headers(&self) -> Vec<&str> {
        let names = self.headers.iter().map(|(name, _)| name.as_str());
        names
            .filter(|name| name.starts_with("access-control-"))
            .collect()
    }

    /// Returns all headers except the date, to compare whole responses.
    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        let headers = self.headers.iter().cloned();
        headers.filter(|(name, _)| name != "date").collect()
    }

    pub(crate) async fn piece(&mut self) -> Piece {
        match &mut self.framing {
            Framing::Length(0) => Piece::End,
            Framing::Length(left) => {
                let mut bytes = vec![0; std::mem::take(left)];
                match self.connection.read_exact(&mut bytes).await {
                    Ok(_) => Piece::Bytes(bytes),
                    Err(_) => Piece::Cut,
                }
            }
            Framing::Chunked => self.chunk().await.unwrap_or(Piece::Cut),
        }
    }

    async fn chunk(&mut self) -> Option<Piece> {
        let size = usize::from_str_radix(&line(&mut self.connection).await?, 16).unwrap();
        let mut bytes = vec![0; size + 2];
        self.connection.read_exact(&mut bytes).await.ok()?;
        assert!(bytes.ends_with(b"\r\n"));
        bytes.truncate(size);
        Some(match size {
            0 => Piece::End,
            _ => Piece::Bytes(bytes),
        })
    }

    /// Returns the rest of a body that ends.
    pub(crate) async fn bytes(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.piece().await {
                Piece::Bytes(bytes) => all.extend(bytes),
                Piece::End => return all,
                Piece::Cut => panic!("the body broke off after {all:?}"),
            }
        }
    }

    /// Returns all bytes after the head until the server closes the connection.
    pub(crate) async fn bytes_until_close(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.connection.read_to_end(&mut all).await.unwrap();
        all
    }

    pub(crate) async fn text(self) -> String {
        String::from_utf8(self.bytes().await).unwrap()
    }

    pub(crate) fn events(self) -> Events {
        assert_eq!(self.status, 200);
        Events {
            response: self,
            reader: SseReader::default(),
            ready: Vec::new(),
        }
    }
}

/// The events of a response.
pub(crate) struct Events {
    response: Response,
    pub(crate) reader: SseReader,
    ready: Vec<Message>,
}

impl Events {
    /// Returns the next event, or how the stream ended.
    pub(crate) async fn next(&mut self) -> Result<Message, Piece> {
        while self.ready.is_empty() {
            match self.response.piece().await {
                Piece::Bytes(bytes) => {
                    self.ready = self.reader.feed(&bytes);
                    self.ready.reverse();
                }
                end => return Err(end),
            }
        }
        Ok(self.ready.pop().unwrap())
    }

    pub(crate) async fn take(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        while messages.len() < count {
            messages.push(self.next().await.unwrap());
        }
        messages
    }

    /// Returns the remaining events, and how the stream ended.
    pub(crate) async fn rest(mut self) -> (Vec<Message>, Piece) {
        let mut messages = Vec::new();
        loop {
            match self.next().await {
                Ok(message) => messages.push(message),
                Err(end) => return (messages, end),
            }
        }
    }
}

/// Returns a line without its end; `None` if the connection broke.
async fn line(connection: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    connection.read_line(&mut line).await.ok()?;
    line.strip_suffix("\r\n").map(str::to_owned)
}
