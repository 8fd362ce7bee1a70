//! The helpers of the cases: streams of a server under test, and viewers of them.

use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::http::{BodyEnd, Connection, Framing, Head, Request, Trouble, percent, shown};
use crate::profile::{Profile, Template};
use crate::transcript::{Event, Transcript};

/// The reason why a case did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server does something else.
    Failed {
        /// The expected behaviour.
        expected: String,
        /// The actual behaviour, with bytes escaped.
        got: String,
    },
    /// Nothing was found out.
    Skipped(String),
}

/// The outcome of a case.
pub type Outcome<T = ()> = Result<T, Verdict>;

/// Fails unless `ok`.
///
/// # Errors
/// Unless `ok`.
pub fn check(ok: bool, expected: impl Into<String>, got: impl FnOnce() -> String) -> Outcome {
    if ok { Ok(()) } else { fail(expected, got()) }
}

/// Fails.
///
/// # Errors
/// Always.
pub fn fail<T>(expected: impl Into<String>, got: impl Into<String>) -> Outcome<T> {
    Err(Verdict::Failed {
        expected: expected.into(),
        got: got.into(),
    })
}

/// A server under test.
pub struct Probe {
    /// Its host and port.
    pub host: String,
    /// The description of the server.
    pub profile: Profile,
    /// How long to wait for something that should come at once.
    pub patience: Duration,
}

impl Probe {
    /// Returns how long to wait for something that should not come.
    #[must_use]
    pub fn quiet(&self) -> Duration {
        (self.patience / 10).clamp(Duration::from_millis(150), Duration::from_millis(500))
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// Makes a stream.
    ///
    /// # Errors
    /// When the server does not.
    pub fn start(&self) -> Outcome<Stream<'_>> {
        let stream = Stream {
            probe: self,
            id: new_id(),
        };
        if let Some(start) = &self.profile.start {
            stream.say(
                start,
                0,
                b"the stream begins",
                "message",
                "a stream that starts",
            )?;
        }
        Ok(stream)
    }

    /// Asks, and reads the whole answer.
    ///
    /// # Errors
    /// When there is none.
    pub fn ask(&self, request: &Request) -> Outcome<Answer> {
        self.try_ask(request).map_err(|trouble| Verdict::Failed {
            expected: format!("an answer to {} {}", request.method, request.target),
            got: trouble.to_string(),
        })
    }

    /// Asks, and reads an answer, or the first bytes of one that does not end.
    fn try_ask(&self, request: &Request) -> Result<Answer, Trouble> {
        let mut connection = Connection::open(&self.host, self.patience)?;
        connection.send(&self.with_headers(request))?;
        read_answer(&mut connection, self.deadline(), self.quiet())
    }

    /// Adds the profile's headers.
    #[must_use]
    pub fn with_headers(&self, request: &Request) -> Request {
        let mut request = request.clone();
        for (name, value) in &self.profile.headers {
            request = request.header(name, value);
        }
        request
    }
}

/// Reads an answer. Of one that does not end, reads the bytes that come until it is `quiet`.
///
/// # Errors
/// When there is no head.
pub fn read_answer(
    connection: &mut Connection,
    until: Instant,
    quiet: Duration,
) -> Result<Answer, Trouble> {
    let head = connection.head(until)?;
    let mut body = Vec::new();
    let is_stream = head.has("content-type", "text/event-stream") && head.status == 200;
    while connection.end().is_none() && body.len() < 1 << 20 {
        let until = if is_stream {
            Instant::now() + quiet
        } else {
            until
        };
        match connection.body(
            &mut body,
            until.min(Instant::now() + Duration::from_secs(5)),
        ) {
            Ok(true) => {}
            Ok(false) => break,
            Err(Trouble::Late) => break,
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(Answer {
        framing: connection.framing(),
        end: connection.end(),
        head,
        body,
    })
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its head.
    pub head: Head,
    /// Its body, or the beginning of a stream.
    pub body: Vec<u8>,
    /// The way in which the end of its body is marked.
    pub framing: Option<Framing>,
    /// How it ended.
    pub end: Option<BodyEnd>,
}

impl Answer {
    /// Returns whether it is a stream of events.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.head.status == 200 && self.head.has("content-type", "text/event-stream")
    }

    /// Returns it for people.
    #[must_use]
    pub fn shown(&self) -> String {
        let content_type = self.head.get("content-type");
        let content_type = content_type.unwrap_or_else(|| "no content type".to_owned());
        format!(
            "{}, {}, {}",
            self.head.status,
            shown(content_type.as_bytes()).trim_matches('"'),
            shown(&self.body)
        )
    }
}

fn new_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_millis());
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("conformance-{now:x}-{:x}-{next}", process::id())
}

/// A stream of the server.
pub struct Stream<'a> {
    /// Its server.
    pub probe: &'a Probe,
    /// Its id.
    pub id: String,
}

impl<'a> Stream<'a> {
    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> String {
        self.probe
            .profile
            .stream
            .replace("{id}", &percent(self.id.as_bytes()))
    }

    /// Returns its path with a query.
    #[must_use]
    pub fn path_with(&self, query: &str) -> String {
        let path = self.path();
        let separator = if path.contains('?') { '&' } else { '?' };
        format!("{path}{separator}{query}")
    }

    /// Returns the request of an `EventSource`.
    #[must_use]
    pub fn get(&self) -> Request {
        Request::new("GET", self.path())
            .header("Accept", "text/event-stream")
            .header("Cache-Control", "no-store")
    }

    /// Returns the request of an `EventSource` that comes back.
    #[must_use]
    pub fn get_after(&self, id: &[u8]) -> Request {
        self.get().header("Last-Event-ID", id)
    }

    fn say(
        &self,
        template: &Template,
        n: u32,
        data: &[u8],
        event_type: &str,
        what: &str,
    ) -> Outcome {
        let request = template.fill(&self.id, n, data, event_type);
        let answer = self.probe.ask(&request)?;
        check((200..400).contains(&answer.head.status), what, || {
            format!(
                "{} {}: {}",
                request.method,
                shown(request.target.as_bytes()),
                answer.shown()
            )
        })
    }

    /// Appends the events with these numbers, if the profile says how.
    ///
    /// # Errors
    /// When the server does not.
    pub fn append(&self, numbers: std::ops::RangeInclusive<u32>) -> Outcome {
        if let Some(append) = &self.probe.profile.append {
            for n in numbers {
                let text = self.probe.profile.text_of(n);
                self.say(
                    append,
                    n,
                    text.as_bytes(),
                    "message",
                    "an event that is appended",
                )?;
            }
        }
        Ok(())
    }

    /// Appends a text. Returns the status.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn append_text(&self, text: &[u8], event_type: &str) -> Outcome<u16> {
        match &self.probe.profile.append {
            None => Err(Verdict::Skipped("the profile has no `append`".to_owned())),
            Some(append) => {
                let request = append.fill(&self.id, 1, text, event_type);
                Ok(self.probe.ask(&request)?.head.status)
            }
        }
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// When the server does not.
    pub fn end(&self) -> Outcome {
        match &self.probe.profile.end {
            None => Err(Verdict::Skipped("the profile has no `end`".to_owned())),
            Some(end) => self.say(end, 0, b"the stream ends", "message", "a stream that ends"),
        }
    }

    /// Connects a viewer, and waits for the beginning of its answer, unless the server sends nothing before the first
    /// event.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn view(&self, request: &Request) -> Outcome<Viewer<'a>> {
        let mut viewer = Viewer::open(self.probe, request)?;
        let until = Instant::now() + self.probe.patience / 2;
        match viewer.try_head(until) {
            Ok(_) | Err(Trouble::Late) => {}
            Err(trouble) => return fail("an answer to a viewer", trouble.to_string()),
        }
        // The server has answered, and may not yet have subscribed.
        viewer.read_for(Duration::from_millis(50));
        Ok(viewer)
    }

    /// Connects a viewer from where streams start, appends `count` events, and waits for as many.
    ///
    /// # Errors
    /// When they do not come.
    pub fn viewed(&self, count: u32) -> Outcome<Viewer<'a>> {
        let mut viewer = self.view(&self.get())?;
        self.append(1..=count)?;
        viewer.expect_events(count as usize)?;
        if self.probe.profile.append.is_some() {
            viewer.expect_marker(count)?;
        }
        Ok(viewer)
    }
}

/// A connection that gets a stream.
pub struct Viewer<'a> {
    probe: &'a Probe,
    connection: Connection,
    head: Option<Head>,
    /// All bytes of the body.
    pub body: Vec<u8>,
    trouble: Option<Trouble>,
}

impl<'a> Viewer<'a> {
    /// Connects and asks.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn open(probe: &'a Probe, request: &Request) -> Outcome<Self> {
        let unreachable = |trouble: Trouble| Verdict::Failed {
            expected: "a server".to_owned(),
            got: trouble.to_string(),
        };
        let mut connection = Connection::open(&probe.host, probe.patience).map_err(unreachable)?;
        connection
            .send(&probe.with_headers(request))
            .map_err(unreachable)?;
        Ok(Self::over(probe, connection))
    }

    /// Returns a viewer on a connection over which a request was sent.
    #[must_use]
    pub fn over(probe: &'a Probe, connection: Connection) -> Self {
        Self {
            probe,
            connection,
            head: None,
            body: Vec::new(),
            trouble: None,
        }
    }

    /// Reads the head of the answer.
    ///
    /// # Errors
    /// When it does not come before `until`.
    pub fn try_head(&mut self, until: Instant) -> Result<&Head, Trouble> {
        if self.head.is_none() {
            self.head = Some(self.connection.head(until)?);
        }
        self.head.as_ref().ok_or(Trouble::Late)
    }

    /// Reads the head of the answer.
    ///
    /// # Errors
    /// When it does not come.
    pub fn head(&mut self) -> Outcome<Head> {
        let until = self.probe.deadline();
        match self.try_head(until) {
            Ok(head) => Ok(head.clone()),
            Err(trouble) => fail("the head of an answer", trouble.to_string()),
        }
    }

    /// Returns the way in which the end of the body is marked.
    #[must_use]
    pub fn framing(&self) -> Option<Framing> {
        self.connection.framing()
    }

    /// Returns how the body ended, once it has.
    #[must_use]
    pub fn end(&self) -> Option<BodyEnd> {
        self.connection.end()
    }

    /// Returns why there are no more bytes, if the body has not ended.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    fn pull(&mut self, until: Instant) -> bool {
        match self.try_head(until) {
            Ok(_) => {}
            Err(Trouble::Late) => return false,
            Err(trouble) => {
                self.trouble = Some(trouble);
                return false;
            }
        }
        match self.connection.body(&mut self.body, until) {
            Ok(goes_on) => goes_on,
            Err(Trouble::Late) => false,
            Err(trouble) => {
                self.trouble = Some(trouble);
                false
            }
        }
    }

    /// Reads for this long, or to the end.
    pub fn read_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && self.pull(until) {}
    }

    /// Reads until `is_so` returns true. Returns whether it does.
    pub fn read_until(&mut self, time: Duration, is_so: impl Fn(&Transcript) -> bool) -> bool {
        let until = Instant::now() + time;
        if is_so(&self.transcript()) {
            return true;
        }
        while self.pull(until) {
            // Only after a complete line: otherwise large streams would be parsed again and again.
            if matches!(self.body.last(), Some(b'\n' | b'\r')) && is_so(&self.transcript()) {
                return true;
            }
        }
        is_so(&self.transcript())
    }

    /// Returns the received bytes, parsed.
    #[must_use]
    pub fn transcript(&self) -> Transcript {
        Transcript::of(&self.body)
    }

    /// Returns the events that came.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.transcript().events
    }

    /// Returns the received bytes, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        let status = self.head.as_ref().map(|head| head.status);
        let status = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        let end = match (self.end(), &self.trouble) {
            (Some(BodyEnd::Whole), _) => ", which ended",
            (Some(BodyEnd::Cut), _) => ", which was cut",
            (None, Some(_)) => ", which is no HTTP any more",
            (None, None) => "",
        };
        format!("{status} with {}{end}", shown(&self.body))
    }

    /// Waits for this number of events.
    ///
    /// # Errors
    /// When they do not come.
    pub fn expect_events(&mut self, count: usize) -> Outcome<Vec<Event>> {
        let patience = self.probe.patience;
        if self.read_until(patience, |all| all.events.len() >= count) {
            return Ok(self.events());
        }
        fail(format!("{count} events"), self.shown())
    }

    /// Waits for the event with this number.
    ///
    /// # Errors
    /// When it does not come.
    pub fn expect_marker(&mut self, n: u32) -> Outcome {
        let marker = self.probe.profile.marker_of(n);
        let patience = self.probe.patience;
        let came = self.read_until(patience, |all| {
            all.events.iter().any(|event| has(event, &marker))
        });
        check(
            came,
            format!("an event with {}", shown(marker.as_bytes())),
            || self.shown(),
        )
    }

    /// Returns the appended events that came, by their numbers up to `most`, in their order.
    #[must_use]
    pub fn numbers(&self, most: u32) -> Vec<u32> {
        let markers: Vec<String> = (1..=most)
            .map(|n| self.probe.profile.marker_of(n))
            .collect();
        let events = self.events();
        let numbers = events.iter().filter_map(|event| {
            let found = markers.iter().position(|marker| has(event, marker))?;
            u32::try_from(found + 1).ok()
        });
        numbers.collect()
    }
}

/// Returns whether an event's data contains this string.
#[must_use]
pub fn has(event: &Event, marker: &str) -> bool {
    let marker = marker.as_bytes();
    !marker.is_empty()
        && event
            .data
            .windows(marker.len())
            .any(|window| window == marker)
}

/// Sleeps.
pub fn pause(time: Duration) {
    thread::sleep(time);
}
