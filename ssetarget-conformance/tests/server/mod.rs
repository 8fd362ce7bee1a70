//! A small server of events that passes every case, and that has one defect if it is told to: the one
//! that the case of that name is there for.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) const ORIGIN: &str = "https://listed.example";
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(300);
const MAX_ID: u64 = 1 << 53;

#[derive(Clone)]
struct Entry {
    event_type: String,
    data: Vec<u8>,
    is_terminal: bool,
}

pub(crate) struct Server {
    defect: &'static str,
    logs: Mutex<HashMap<String, Vec<Entry>>>,
    viewers: AtomicUsize,
    is_dead: AtomicBool,
    writing: Mutex<()>,
}

/// Starts one. Returns its host and port.
pub(crate) fn start(defect: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let server = Arc::new(Server {
        defect,
        logs: Mutex::default(),
        viewers: AtomicUsize::new(0),
        is_dead: AtomicBool::new(false),
        writing: Mutex::new(()),
    });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = Arc::clone(&server);
            thread::spawn(move || server.serve(stream));
        }
    });
    host
}

struct Request {
    method: String,
    target: String,
    version: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Request {
    fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_slice())
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(self.get(name).unwrap_or_default()).into_owned()
    }

    fn query(&self, name: &str) -> Option<Vec<u8>> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(key, _)| *key == name)
            .map(|(_, value)| decoded(value))
    }
}

fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let hex = text
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

type Headers = Vec<(&'static str, String)>;

impl Server {
    fn has(&self, defect: &str) -> bool {
        self.defect == defect
    }

    fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut raw = Vec::new();
        while let Some(request) = self.read(&mut stream, &mut raw) {
            match self.answer(&request, &mut stream) {
                Ok(true) => {}
                _ => return,
            }
        }
    }

    fn read(&self, stream: &mut TcpStream, raw: &mut Vec<u8>) -> Option<Request> {
        let mut reads = 0;
        loop {
            if let Some(end) = raw.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = raw.drain(..end + 4).collect();
                let mut lines = head
                    .split(|byte| *byte == b'\n')
                    .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
                let first = String::from_utf8_lossy(lines.next()?).into_owned();
                let words: Vec<&str> = first.split(' ').collect();
                let mut request = Request {
                    method: words[0].to_owned(),
                    target: words[1].to_owned(),
                    version: words[2].to_owned(),
                    headers: Vec::new(),
                    body: Vec::new(),
                };
                for line in lines.filter(|line| !line.is_empty()) {
                    let colon = line.iter().position(|byte| *byte == b':')?;
                    let name = String::from_utf8_lossy(&line[..colon]).into_owned();
                    request
                        .headers
                        .push((name, line[colon + 1..].trim_ascii().to_vec()));
                }
                let length = request.text("content-length").parse().unwrap_or(0);
                while raw.len() < length {
                    more(stream, raw)?;
                }
                request.body = raw.drain(..length).collect();
                return Some(request);
            }
            if self.has("slow-request") && reads > 0 {
                return None;
            }
            more(stream, raw)?;
            reads += 1;
        }
    }

    /// Returns whether the connection goes on.
    fn answer(&self, request: &Request, stream: &mut TcpStream) -> std::io::Result<bool> {
        let path = request.target.split('?').next().unwrap_or_default();
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (segments[..].as_ref(), request.method.as_str()) {
            ([id], "POST") => {
                let (status, text) = self.append(id, request);
                self.say(request, stream, status, Vec::new(), text)
            }
            ([id, "sse"], "GET") => self.sse(id, request, stream),
            ([id, "sse"], "HEAD") => {
                let is_known = self.logs.lock().unwrap().contains_key(*id);
                if self.has("head") {
                    return self.refuse(request, stream, 405, "use GET");
                }
                if !is_known && !self.has("unknown-head") {
                    return self.refuse(request, stream, 404, "there is no such log");
                }
                let mut head = self.head(request, 200);
                if self.has("head-empty") {
                    head.extend_from_slice(b"data: a body\n\n");
                }
                stream.write_all(&head)?;
                Ok(request.version != "HTTP/1.0")
            }
            ([_, "sse"], "OPTIONS") => {
                let is_listed = request.text("origin") == ORIGIN && !self.has("cors-preflight");
                let status = if self.has("options") { 500 } else { 200 };
                let mut headers: Headers = vec![("allow", "GET, HEAD, OPTIONS".to_owned())];
                if is_listed {
                    headers.push(("access-control-allow-origin", ORIGIN.to_owned()));
                    headers.push(("access-control-allow-headers", "last-event-id".to_owned()));
                }
                self.say(request, stream, status, headers, String::new())
            }
            ([id, "sse"], method) => {
                let streams = (self.has("method-put") && method == "PUT")
                    || (self.has("method-delete") && method == "DELETE")
                    || (self.has("method-unknown") && method == "BREW");
                match streams {
                    true => self.sse(id, request, stream),
                    false => self.refuse(request, stream, 405, "use GET"),
                }
            }
            _ => {
                let target = String::from_utf8_lossy(&decoded(&request.target)).into_owned();
                let reason = if self.has("error-reflection") {
                    target
                } else {
                    "there is nothing here".to_owned()
                };
                self.refuse(request, stream, 404, &reason)
            }
        }
    }

    fn append(&self, id: &str, request: &Request) -> (u16, String) {
        let event_type = request.query("type").unwrap_or_else(|| b"message".to_vec());
        let event_type = String::from_utf8_lossy(&event_type).into_owned();
        if event_type.contains(['\n', '\r']) && !self.has("type-line-end") {
            return (400, "a type is one line".to_owned());
        }
        if self.has("data-empty") && request.body.is_empty() {
            return (201, "stored".to_owned());
        }
        // A viewer that does not read delays everybody.
        let _turn = self
            .has("slow-others")
            .then(|| self.writing.lock().unwrap());
        let mut logs = self.logs.lock().unwrap();
        let entry = Entry {
            event_type,
            data: request.body.clone(),
            is_terminal: request.query("terminal").is_some(),
        };
        logs.entry(id.to_owned()).or_default();
        for (other, log) in logs.iter_mut() {
            if other == id || self.has("viewers-apart") {
                log.push(entry.clone());
            }
        }
        (201, "stored".to_owned())
    }

    fn refuse(
        &self,
        request: &Request,
        stream: &mut TcpStream,
        status: u16,
        reason: &str,
    ) -> std::io::Result<bool> {
        let mut headers: Headers = Vec::new();
        if status == 405 && !self.has("method-allow") {
            headers.push(("allow", "GET, HEAD, OPTIONS".to_owned()));
        }
        if self.has("error-recovers") {
            self.is_dead.store(true, Ordering::Relaxed);
        }
        let reason = match self.defect {
            "error-plain" => format!("Error: {reason}\n    at serve (server.mjs:7:12)"),
            "error-short" => reason.repeat(1_000),
            _ => reason.to_owned(),
        };
        self.say(request, stream, status, headers, reason)
    }

    fn say(
        &self,
        request: &Request,
        stream: &mut TcpStream,
        status: u16,
        headers: Headers,
        text: String,
    ) -> std::io::Result<bool> {
        let content_type = match self.defect {
            "error-type" if status >= 400 => "text/event-stream",
            "error-reflection" => "text/html",
            _ => "text/plain",
        };
        let mut head = format!("HTTP/1.1 {status} S\r\ncontent-type: {content_type}\r\n");
        if !self.has("nosniff") {
            head.push_str("x-content-type-options: nosniff\r\n");
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", text.len()));
        if request.method != "HEAD" {
            head.push_str(&text);
        }
        stream.write_all(head.as_bytes())?;
        let closes_silently = self.has("keep-alive") && status == 405;
        Ok(!closes_silently && request.version != "HTTP/1.0")
    }

    /// The head of a stream.
    fn head(&self, request: &Request, status: u16) -> Vec<u8> {
        let content_type = match self.defect {
            "content-type" => "text/plain",
            "charset" => "text/event-stream; charset=iso-8859-1",
            _ => "text/event-stream",
        };
        let mut head = format!("HTTP/1.1 {status} S\r\ncontent-type: {content_type}\r\n");
        let mut add = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
        match self.defect {
            "cache-control" => add("cache-control", "max-age=60"),
            "no-transform" => add("cache-control", "no-cache"),
            _ => add("cache-control", "no-cache, no-transform"),
        }
        if !self.has("x-accel-buffering") {
            add("x-accel-buffering", "no");
        }
        match self.defect {
            "coding-none" | "coding-identity" => add("content-encoding", "gzip"),
            "no-validators" => add("etag", "\"1\""),
            _ => {}
        }
        let origin = request.text("origin");
        if self.has("cors-strange") {
            add("access-control-allow-origin", "*");
        } else if self.has("cors-reflection") && !origin.is_empty() {
            add("access-control-allow-origin", &origin);
            add("access-control-allow-credentials", "true");
        } else if origin == ORIGIN && !self.has("cors-listed") {
            add("access-control-allow-origin", ORIGIN);
            if !self.has("cors-vary") {
                add("vary", "Origin");
            }
        }
        if matches!(self.defect, "framing" | "content-length") {
            add("content-length", "1000000");
        } else if request.version == "HTTP/1.0" && !self.has("http-1-0") {
            add("connection", "close");
        } else {
            add("transfer-encoding", "chunked");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    fn sse(&self, id: &str, request: &Request, stream: &mut TcpStream) -> std::io::Result<bool> {
        let accept = request.text("accept");
        let refuses = match self.defect {
            "accept-any" => accept == "*/*",
            "accept-none" => accept.is_empty(),
            "accept-list" => accept.contains(','),
            _ => false,
        };
        if refuses {
            return self.refuse(request, stream, 406, "accept text/event-stream");
        }
        let fails = match self.defect {
            "accept-other" => accept == "image/png",
            "get-body" => !request.body.is_empty(),
            "upgrade" => request.get("upgrade").is_some(),
            "position-query-broken" => request.target.contains('%'),
            _ => false,
        };
        if fails {
            return self.refuse(request, stream, 500, "it failed");
        }
        if self.has("unknown") {
            self.logs.lock().unwrap().entry(id.to_owned()).or_default();
        }
        let (is_known, head_id, is_over) = {
            let logs = self.logs.lock().unwrap();
            let log = logs.get(id);
            let length = log.map_or(0, Vec::len) as u64;
            (
                log.is_some(),
                length,
                log.is_some_and(|log| log.last().is_some_and(|entry| entry.is_terminal)),
            )
        };
        let mut headers = request
            .headers
            .iter()
            .filter(|(name, _)| match self.defect {
                "header-case" => name == "Last-Event-ID",
                _ => name.eq_ignore_ascii_case("last-event-id"),
            });
        let header = headers.next().map(|(_, value)| value.clone());
        let is_twice = headers.next().is_some();
        if !is_known {
            if self.has("unknown-stays") {
                self.logs.lock().unwrap().entry(id.to_owned()).or_default();
            }
            if self.has("unknown-position") && header.is_some() {
                return self.no_content(stream, request);
            }
            return self.refuse(request, stream, 404, "there is no such log");
        }
        if is_twice && !self.has("twice-400") {
            let status = if self.has("position-twice") { 500 } else { 400 };
            return self.refuse(request, stream, status, "two positions");
        }
        let in_query = request.query("lastEventId");
        let from_query = in_query.is_some() && header.is_none();
        let given = match self.defect {
            "query" => header,
            "query-header" => in_query.or(header),
            _ => header.or(in_query),
        };
        let given = given.filter(|value| !value.is_empty() || self.has("header-empty"));
        let position = match &given {
            None => None,
            Some(value) => {
                let text = String::from_utf8_lossy(value).into_owned();
                match text.parse::<u64>().ok().filter(|number| *number < MAX_ID) {
                    Some(number) => Some(number),
                    None => {
                        let is_ignored = (self.has("malformed-400") && !from_query)
                            || (self.has("malformed-query-400") && from_query);
                        let status = match self.defect {
                            "position-malformed" | "position-utf-8" | "position-large"
                            | "position-negative" | "position-long" => 500,
                            _ => 400,
                        };
                        if !is_ignored {
                            return self.refuse(
                                request,
                                stream,
                                status,
                                "the position is malformed",
                            );
                        }
                        None
                    }
                }
            }
        };
        if is_over {
            let is_at_end = position == Some(head_id);
            let says_204 = match self.defect {
                "end-204" => false,
                "end-rest" => position.is_some(),
                "end-replay" => true,
                _ => is_at_end,
            };
            if says_204 {
                return self.no_content(stream, request);
            }
        }
        if self.has("head-prompt") {
            thread::sleep(Duration::from_millis(2_500));
        }
        let status = match self.defect {
            "status" => 203,
            "range" if request.get("range").is_some() => 206,
            _ => 200,
        };
        stream.write_all(&self.head(request, status))?;
        let from_latest = request.query("from").is_some_and(|from| from == b"latest");
        let mut output = Output {
            stream,
            is_chunked: request.version != "HTTP/1.0" || self.has("http-1-0"),
            holds: self.has("coding-prompt") && request.get("accept-encoding").is_some(),
            held: Vec::new(),
        };
        if self.has("http-1-0-stream") && request.version == "HTTP/1.0" {
            return Ok(false);
        }
        self.pump(id, position, from_latest, head_id, &mut output)?;
        if output.is_chunked && !self.has("end-framing") {
            output.stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(false)
    }

    fn no_content(&self, stream: &mut TcpStream, _request: &Request) -> std::io::Result<bool> {
        let cache = if self.has("end-204-cache") {
            ""
        } else {
            "cache-control: no-store\r\n"
        };
        let length = if self.has("end-204-empty") {
            "content-length: 0\r\n"
        } else {
            ""
        };
        stream.write_all(format!("HTTP/1.1 204 S\r\n{cache}{length}\r\n").as_bytes())?;
        Ok(!self.has("end-connection"))
    }

    fn pump(
        &self,
        id: &str,
        position: Option<u64>,
        from_latest: bool,
        head_id: u64,
        output: &mut Output<'_>,
    ) -> std::io::Result<()> {
        let viewer = self.viewers.fetch_add(1, Ordering::Relaxed);
        if self.has("bom") {
            output.write("\u{feff}".as_bytes())?;
        }
        match self.defect {
            "first-byte" => {}
            "hollow-blocks" => output.write(b":\n\n")?,
            _ => output.write(b":\n")?,
        }
        let mut next = match position {
            Some(position) if position > head_id && self.has("position-unknown") => position,
            Some(position) if position > head_id => {
                match self.defect {
                    "reset" => {}
                    "reset-id" => output.write(b"event: reset\nid: 0\ndata: {}\n\n")?,
                    _ => output.write(b"event: reset\ndata: {}\n\n")?,
                }
                0
            }
            Some(_) if self.has("resume-header") => 0,
            Some(_) if self.has("resume-absent") => head_id,
            Some(2) if self.has("resume-each") => 3,
            Some(position) if self.has("resume-head") && position == head_id => position - 1,
            Some(position) => position,
            None if from_latest && !self.has("latest") => {
                if head_id > 0 && !self.has("latest-position") {
                    output.write(format!("id: {head_id}\n\n").as_bytes())?;
                }
                head_id
            }
            None if self.has("replay") => head_id,
            None => 0,
        };
        let first = next;
        let mut spoke = Instant::now();
        let mut owes_blank = false;
        loop {
            let log = self
                .logs
                .lock()
                .unwrap()
                .get(id)
                .cloned()
                .unwrap_or_default();
            let is_stuck = self.is_dead.load(Ordering::Relaxed)
                || (self.has("viewers-vanish") && self.viewers.load(Ordering::Relaxed) > 10);
            if self.has("slow-itself") && log.len() as u64 > next + 10 {
                next = log.len() as u64 - 3;
            }
            if (next as usize) < log.len() && !is_stuck {
                let entry = &log[next as usize];
                next += 1;
                let number = if self.has("resume-stays") && position.is_some() {
                    next - first
                } else {
                    next
                };
                let mut bytes = Vec::new();
                if std::mem::take(&mut owes_blank) {
                    bytes.push(b'\n');
                }
                self.encode(number, entry, &mut bytes);
                let is_again = next <= head_id;
                if (self.has("resume-bytes") && position.is_some())
                    || (self.has("viewers-late") && is_again)
                {
                    bytes = [&b"retry: 1000\n"[..], &bytes].concat();
                }
                if self.has("viewers-same") {
                    bytes = [format!("retry: {}\n", 1000 + viewer).as_bytes(), &bytes].concat();
                }
                if self.has("order") {
                    bytes.extend_from_within(..);
                }
                if self.has("event-complete") || (self.has("end-complete") && entry.is_terminal) {
                    bytes.pop();
                    owes_blank = true;
                }
                if self.has("prompt") {
                    thread::sleep(Duration::from_millis(1_200));
                }
                let _turn = self
                    .has("slow-others")
                    .then(|| self.writing.lock().unwrap());
                output.write(&bytes)?;
                spoke = Instant::now();
                if entry.is_terminal && next as usize == log.len() && !self.has("end-closes") {
                    return Ok(());
                }
                continue;
            }
            if spoke.elapsed() > HEARTBEAT {
                match self.defect {
                    "heartbeat" | "first-byte" => {}
                    "heartbeat-comment" => output.write(b"data: ping\n\n")?,
                    "heartbeat-blank" => output.write(b":\n\n")?,
                    _ => output.write(b":\n")?,
                }
                spoke = Instant::now();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn encode(&self, id: u64, entry: &Entry, bytes: &mut Vec<u8>) {
        let end = if self.has("line-ends") && id.is_multiple_of(2) {
            "\r"
        } else {
            "\n"
        };
        if self.has("bom-inside") {
            bytes.extend_from_slice("\u{feff}".as_bytes());
        }
        match self.defect {
            "id-nul" => bytes.extend_from_slice(b"id: 1\0\n"),
            "id-header" => bytes.extend_from_slice("id: é\n".as_bytes()),
            "id-present" => {}
            "id-unique" => bytes.extend_from_slice(b"id: 1\n"),
            _ => bytes.extend_from_slice(format!("id: {id}{end}").as_bytes()),
        }
        match self.defect {
            "field-names" => bytes.extend_from_slice(b"name: value\n"),
            "retry-digits" => bytes.extend_from_slice(b"retry: 2s\n"),
            "retry-sane" => bytes.extend_from_slice(b"retry: 0\n"),
            _ => {}
        }
        if !self.has("type") {
            bytes.extend_from_slice(format!("event: {}{end}", entry.event_type).as_bytes());
        }
        let data = match self.defect {
            "utf-8" => [&entry.data[..], b"\xff"].concat(),
            "data-bom" => replaced(&entry.data, "\u{feff}", ""),
            "data-controls" => replaced(&entry.data, "\0", ""),
            "data-separators" => replaced(&entry.data, "\u{2028}", "\n"),
            "data-trailing-lf" => entry.data.trim_ascii_end().to_vec(),
            "data-long" => entry.data.iter().copied().take(64 * 1024).collect(),
            "data-utf-8" => entry
                .data
                .chunks(1_000)
                .flat_map(|chunk| String::from_utf8_lossy(chunk).into_owned().into_bytes())
                .collect(),
            _ => entry.data.clone(),
        };
        if matches!(
            self.defect,
            "data-lf" | "data-blank-lines" | "data-cr" | "data-crlf"
        ) {
            bytes.extend_from_slice(&[b"data: ", &data[..], b"\n\n"].concat());
            return;
        }
        let text = replaced(&replaced(&data, "\r\n", "\n"), "\r", "\n");
        for line in text.split(|byte| *byte == b'\n') {
            if !(self.has("data-colon") && line.starts_with(b":")) {
                let name = if self.has("data-space") {
                    "data:"
                } else {
                    "data: "
                };
                bytes.extend_from_slice(name.as_bytes());
            }
            bytes.extend_from_slice(line);
            bytes.extend_from_slice(end.as_bytes());
        }
        bytes.extend_from_slice(end.as_bytes());
    }
}

fn replaced(bytes: &[u8], what: &str, with: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        match rest.strip_prefix(what.as_bytes()) {
            Some(after) => {
                out.extend_from_slice(with.as_bytes());
                rest = after;
            }
            None => {
                out.push(rest[0]);
                rest = &rest[1..];
            }
        }
    }
    out
}

fn more(stream: &mut TcpStream, raw: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 16 * 1024];
    match stream.read(&mut buffer) {
        Ok(length) if length > 0 => {
            raw.extend_from_slice(&buffer[..length]);
            Some(())
        }
        _ => None,
    }
}

struct Output<'a> {
    stream: &'a mut TcpStream,
    is_chunked: bool,
    /// Keeps back what is not a lot.
    holds: bool,
    held: Vec<u8>,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.holds {
            self.held.extend_from_slice(bytes);
            return Ok(());
        }
        if !self.is_chunked {
            return self.stream.write_all(bytes);
        }
        let head = format!("{:x}\r\n", bytes.len());
        self.stream
            .write_all(&[head.as_bytes(), bytes, b"\r\n"].concat())
    }
}
