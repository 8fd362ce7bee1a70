//! A server that answers each request with the next of its answers, in the scripted pieces.
#![allow(clippy::unwrap_used)]
#![allow(dead_code, reason = "not every file of tests needs all of it")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// An answer: its head, the pieces of its body, and how it ends.
#[derive(Clone)]
pub(crate) struct Answer {
    head: String,
    pieces: Vec<Vec<u8>>,
    pause: Duration,
    end: End,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    /// The body ends as HTTP ends it.
    Clean,
    /// The connection breaks in the middle of the body.
    Cut,
    /// The body does not end.
    Open,
}

impl Answer {
    pub(crate) fn status(status: &str) -> Self {
        Self {
            head: format!("HTTP/1.1 {status}\r\nconnection: close\r\n"),
            pieces: Vec::new(),
            pause: Duration::ZERO,
            end: End::Clean,
        }
    }

    /// `200` with events.
    pub(crate) fn events(text: impl AsRef<[u8]>) -> Self {
        let answer = Self::status("200 OK").header("content-type: text/event-stream");
        answer.piece(text)
    }

    pub(crate) fn header(mut self, header: &str) -> Self {
        self.head.push_str(&format!("{header}\r\n"));
        self
    }

    pub(crate) fn piece(mut self, text: impl AsRef<[u8]>) -> Self {
        self.pieces.push(text.as_ref().to_vec());
        self
    }

    /// Sends each byte alone.
    pub(crate) fn byte_by_byte(mut self) -> Self {
        let bytes = self.pieces.concat();
        self.pieces = bytes.chunks(1).map(<[u8]>::to_vec).collect();
        self
    }

    /// Waits between pieces.
    pub(crate) fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    pub(crate) fn cut(mut self) -> Self {
        self.end = End::Cut;
        self
    }

    pub(crate) fn open(mut self) -> Self {
        self.end = End::Open;
        self
    }
}

/// A server on a port of its own, until it is dropped.
pub(crate) struct Script {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<String>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Script {
    /// Serves these answers; the last one is repeated.
    pub(crate) async fn serve(answers: impl IntoIterator<Item = Answer>) -> Self {
        let mut answers: VecDeque<Answer> = answers.into_iter().collect();
        let next = move |_: &str| match answers.len() {
            1 => answers[0].clone(),
            _ => answers.pop_front().unwrap(),
        };
        Self::serve_with(next).await
    }

    /// Serves the answer that `next` chooses for the head of a request.
    pub(crate) async fn serve_with(mut next: impl FnMut(&str) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(request) = read_request(&mut stream).await else {
                    continue;
                };
                seen.lock().unwrap().push(request.clone());
                let answer = next(&request);
                // A client that has gone does not matter.
                tokio::spawn(async move { _ = write_answer(stream, answer).await });
            }
        });
        Self {
            url,
            requests,
            serving,
        }
    }

    /// The requests so far: head and body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Returns the value of a header in each request, empty if absent.
    pub(crate) fn header(&self, name: &str) -> Vec<String> {
        let value = |request: &String| {
            let lines = request.lines().filter_map(|line| line.split_once(": "));
            let mut values = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
            values
                .next()
                .map_or_else(String::new, |(_, value)| value.to_owned())
        };
        self.requests().iter().map(value).collect()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

async fn write_answer(mut stream: TcpStream, answer: Answer) -> std::io::Result<()> {
    let has_body = !answer.head.contains(" 204 ");
    let framing = if has_body {
        "transfer-encoding: chunked\r\n"
    } else {
        ""
    };
    let head = format!("{}{framing}\r\n", answer.head);
    stream.set_nodelay(true)?;
    stream.write_all(head.as_bytes()).await?;
    for piece in answer.pieces.iter().filter(|piece| !piece.is_empty()) {
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        stream.write_all(&chunk).await?;
        if !answer.pause.is_zero() {
            sleep(answer.pause).await;
        }
    }
    match answer.end {
        End::Clean if has_body => stream.write_all(b"0\r\n\r\n").await?,
        End::Clean | End::Cut => {}
        End::Open => sleep(Duration::from_secs(600)).await,
    }
    stream.shutdown().await
}
