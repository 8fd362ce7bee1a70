//! The answer to a viewer's request for the events of several instances in one stream. Runs in the Worker.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use cloudflare_workflows::__private::{Timer, here, sleep};
use cloudflare_workflows::{Runtime, WorkersRuntime};
use futures_core::Stream;
use futures_util::future::{LocalBoxFuture, join_all};
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use js_sys::Uint8Array;
use wasm_bindgen::JsCast;
use worker::{Request, Response, web_sys};

use super::asked::Asked;
use super::cors::with_own_headers;
use super::namespace::WorkflowEventsNamespace;
use super::serve::open_stream;
use crate::access::{Access, AccessRequest, Action, Grant, Permission};
use crate::cloudflare::js;
use crate::cloudflare::leaving::Leaving;
use crate::cloudflare::permit::Permit;
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse_to, unreachable};
use crate::cloudflare::request::{StreamRequest, query};
use crate::cloudflare::response::{self, stream_here_until};
use crate::delivery::{
    HEARTBEAT_INTERVAL, MergedCursor, MergedRequest, encode_event, encode_reset_of, keep_alive,
};
use crate::event::{Cursor, EventId};
use crate::parser::{EventParser, RawEvent};
use crate::refusal::Refusal;
use crate::wire;

/// Answers a viewer's request for the events of several instances of a workflow, `?run=<id>&run=<id>`, up to
/// [`MAX_MERGED`](crate::MAX_MERGED), with one stream.
///
/// Events are as in each instance's own stream, except for their `id:`, which is the client's position in all of
/// them, and for a first member `runId` of their data: see [`MergedSubscription`](crate::MergedSubscription). A run
/// that ends leaves the stream, which ends with the last one.
///
/// `200` and the stream; `204` when all runs have ended and the client has seen it all; `400` for no runs, too many,
/// or one that is named twice, and for an id that is not one of a merged stream; `401` if `access` refuses any of the
/// runs, before an object is called; `404` for an instance without events that the client's position does not name
/// (an instance that it names, and whose log is gone, leaves the stream); `405` and `503` as for
/// [`serve_sse`](super::serve_sse). The stream ends with `expired` when the first of the permissions ends or is
/// revoked.
///
/// The Worker reads each run's stream from its object, as a viewer of it, a page at a time and only as fast as the
/// client reads. So each run costs one subrequest when the stream opens (two with
/// [`with_workflow`](WorkflowEventsNamespace::with_workflow)) and one when the run ends; and relays count the stream
/// as one viewer of each run. A run's stream that breaks off is opened again at its position, without disturbing the
/// others, and after 512 subrequests the client has to come back. The objects stay in memory while they are read
/// here, also with `Transport::Hibernating`.
///
/// # Errors
/// When a response cannot be made.
pub async fn serve_merged(
    request: &Request,
    events: &WorkflowEventsNamespace,
    access: &impl Access,
) -> worker::Result<Response> {
    let decide = |asked: &AccessRequest<'_>| access.decide(asked).boxed_local();
    let response: LocalBoxFuture<'_, _> =
        Box::pin(serve_merged_asking(request.inner(), events, Some(&decide)));
    response.await
}

/// A hook that decides about each request.
pub(super) type Decide<'a> = &'a dyn Fn(&AccessRequest<'_>) -> LocalBoxFuture<'static, Permission>;

/// Answers as [`serve_merged`] does. Everybody may watch if there is no hook.
pub(super) async fn serve_merged_asking(
    request: &web_sys::Request,
    events: &WorkflowEventsNamespace,
    hook: Option<Decide<'_>>,
) -> worker::Result<Response> {
    let answer = answer(request, events, hook).await;
    observed(answer, request, events)
}

/// Returns the answer to a viewer of several runs, and notifies the observer of a stream that opens, or of a refusal.
pub(super) fn observed(
    answer: Result<Response, Refusal>,
    request: &web_sys::Request,
    events: &WorkflowEventsNamespace,
) -> worker::Result<Response> {
    match answer {
        Ok(response) => {
            if response.status_code() == 200 && request.method() == "GET" {
                events.observing.tell(|observer| observer.opened());
            }
            Ok(response)
        }
        Err(refusal) => {
            let status = refusal.status();
            events.observing.tell(|observer| observer.refused(status));
            refuse_to(request, refusal)
        }
    }
}

async fn answer(
    request: &web_sys::Request,
    events: &WorkflowEventsNamespace,
    hook: Option<Decide<'_>>,
) -> Result<Response, Refusal> {
    let head = match &*request.method() {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Refusal::Method { allow: "GET, HEAD" }),
    };
    let url = request.url();
    let query = query(&url);
    let runs = MergedRequest::runs(query)?;
    let grants = grants(&runs, request, events, hook).await?;
    let header = request.headers().get("last-event-id").ok().flatten();
    let wanted = MergedRequest::parse(header.as_deref(), query)?;
    let merge = Merge::open(events, &runs, &grants, &wanted, head).await?;
    if merge.reads.is_empty() {
        return response::ended().map_err(|error| unreachable(&error));
    }
    let response = match head {
        true => response::left_out(),
        false => {
            let until = grants.iter().filter_map(|grant| grant.until).min();
            let generation = None;
            merge.respond(Leaving::of(request), Grant { until, generation })
        }
    };
    let response = response.and_then(with_own_headers);
    response.map_err(|error| unreachable(&error))
}

/// Lets the hook decide about each run.
async fn grants(
    runs: &[String],
    request: &web_sys::Request,
    events: &WorkflowEventsNamespace,
    hook: Option<Decide<'_>>,
) -> Result<Vec<Grant>, Refusal> {
    let Some(hook) = hook else {
        return Ok(vec![Grant::default(); runs.len()]);
    };
    let decisions = {
        let asked = Asked::from_request(request);
        let workflow = Some(&*events.workflow_name);
        let decide = |run: &String| hook(&asked.about(workflow, run, Action::Watch));
        join_all(runs.iter().map(decide))
    };
    let grants = decisions.await.into_iter().map(Grant::from_permission);
    grants.collect()
}

/// How many subrequests one merged stream makes to open runs' streams.
pub(super) const MOST_OPENED: u32 = 512;
/// How often in a row a run's stream is opened again that breaks off without having brought anything.
pub(super) const TRIES: u32 = 4;
/// The pause before it is opened again, doubled each time.
pub(super) const PAUSE: Duration = Duration::from_millis(250);

/// Several runs' streams, as one.
struct Merge {
    cursor: MergedCursor,
    /// Whether it started at the tail, so that the client must learn where that is.
    opening: bool,
    reads: FuturesUnordered<LocalBoxFuture<'static, (RunStream, Step)>>,
    is_over: bool,
}

/// What comes next of a run's stream.
pub(super) enum Step {
    /// Events, and resets.
    Events(Vec<RawEvent>),
    /// The run has ended, or its log is gone.
    Leaves,
    /// The permission to watch it has ended, or is about to.
    Expired,
    /// The links to it were revoked.
    Revoked,
    /// It cannot be read.
    Fails(String),
}

/// One run's stream, as its object sends it.
pub(super) struct RunStream {
    events: WorkflowEventsNamespace,
    pub(super) run: String,
    grant: Grant,
    /// The position after everything that was returned.
    cursor: Cursor,
    reader: Option<Reader>,
    parser: EventParser,
    /// The number of streams that were opened for all runs.
    opened: Rc<Cell<u32>>,
}

/// The outcome of opening a run's stream.
enum Opened {
    Streams(Response),
    Ended,
    Unknown,
}

impl Merge {
    async fn open(
        events: &WorkflowEventsNamespace,
        runs: &[String],
        grants: &[Grant],
        wanted: &MergedRequest,
        head: bool,
    ) -> Result<Self, Refusal> {
        let opened = Rc::<Cell<u32>>::default();
        let streams = runs.iter().zip(grants).map(async |(run, grant)| {
            let known = wanted.cursor.of(run);
            let at = known.unwrap_or(wanted.others);
            let mut stream = RunStream::new(events, run.clone(), *grant, at, &opened);
            match stream.open(head).await? {
                Opened::Streams(response) if !head => stream.begin(&response).await?,
                Opened::Streams(_) => {}
                Opened::Unknown if known.is_none() => return Err(UNKNOWN_INSTANCE),
                Opened::Ended | Opened::Unknown => return Ok((stream, false)),
            }
            Ok((stream, true))
        });
        let streams = join_all(streams).await;
        let streams = streams.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut merge = Self {
            cursor: MergedCursor::default(),
            opening: wanted.others == Cursor::Latest,
            reads: FuturesUnordered::new(),
            is_over: false,
        };
        for (stream, goes_on) in streams {
            // Also for a run that has left: a client that comes back names it again. A start by time is repeated
            // until there is a position.
            let is_known = goes_on || wanted.cursor.of(&stream.run).is_some();
            if is_known && !matches!(stream.cursor, Cursor::Since(_)) {
                merge.cursor.set(&stream.run, stream.cursor);
            }
            if goes_on {
                merge.reads.push(read(stream));
            }
        }
        Ok(merge)
    }

    fn respond(self, leaving: Leaving, grant: Grant) -> worker::Result<Response> {
        let timer = Timer::new();
        let chunks = keep_alive(here(self.chunks()), HEARTBEAT_INTERVAL, move |duration| {
            timer.sleep(duration)
        });
        let left = async move {
            leaving.await;
            None
        };
        stream_here_until(chunks, &Permit::until_end(grant), left)
    }

    fn chunks(self) -> impl Stream<Item = Result<Uint8Array, String>> {
        stream::try_unfold(self, |mut merge| async move {
            let chunk = merge.next().await?;
            Ok(chunk.map(|chunk| (Uint8Array::from(chunk.as_slice()), merge)))
        })
    }

    /// Waits for the next events of any run, and returns their bytes. The next part of that run's stream is read
    /// when this is called again.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        if self.is_over {
            return Ok(None);
        }
        if std::mem::take(&mut self.opening) {
            return Ok(Some(format!("id: {}\n\n", self.cursor).into_bytes()));
        }
        while let Some((stream, step)) = self.reads.next().await {
            match step {
                Step::Leaves => {}
                Step::Expired | Step::Revoked => {
                    self.is_over = true;
                    return Ok(Some(wire::EXPIRED.to_vec()));
                }
                Step::Fails(reason) => return Err(reason),
                Step::Events(events) => {
                    let bytes = self.encode(&stream.run, events);
                    self.reads.push(read(stream));
                    return Ok(Some(bytes));
                }
            }
        }
        Ok(None)
    }

    fn encode(&mut self, run: &str, events: Vec<RawEvent>) -> Vec<u8> {
        let mut out = Vec::new();
        for event in events {
            if event.has_id {
                self.cursor.set(run, position(&event.last_event_id));
                encode_event(&self.cursor, run, &event.event_type, &event.data, &mut out);
            } else {
                encode_reset_of(run, &event.data, &mut out);
            }
        }
        out
    }
}

pub(super) fn read(mut stream: RunStream) -> LocalBoxFuture<'static, (RunStream, Step)> {
    Box::pin(async move {
        let step = stream.next().await;
        (stream, step.unwrap_or_else(Step::Fails))
    })
}

/// Returns where a run's stream goes on after one of its ids. The start of an empty log is written as the greatest
/// id, which no event has.
pub(super) fn position(id: &str) -> Cursor {
    let id = id
        .parse()
        .ok()
        .filter(|id: &EventId| id.get() < EventId::MAX);
    id.map_or(Cursor::Beginning, Cursor::After)
}

impl RunStream {
    /// Returns one that is opened when it is [read](read).
    pub(super) fn new(
        events: &WorkflowEventsNamespace,
        run: String,
        grant: Grant,
        at: Cursor,
        opened: &Rc<Cell<u32>>,
    ) -> Self {
        Self {
            events: events.clone(),
            run,
            grant,
            cursor: at,
            reader: None,
            parser: EventParser::new(),
            opened: Rc::clone(opened),
        }
    }

    /// Returns the position behind all that was returned.
    #[cfg(feature = "index")]
    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Has a stream that starts at the tail know where that is. Does nothing where it cannot be opened.
    #[cfg(feature = "index")]
    pub(super) async fn find_tail(&mut self) {
        if self.cursor == Cursor::Latest
            && let Ok(Opened::Streams(response)) = self.open(false).await
        {
            let _ = self.begin(&response).await;
        }
    }

    async fn open(&self, head: bool) -> Result<Opened, Refusal> {
        let mut request = StreamRequest::at(self.cursor, head);
        request.grant = self.grant;
        self.opened.set(self.opened.get() + 1);
        let response = match open_stream(&self.run, request, &self.events).await {
            Err(Refusal::NotFound(_)) => return Ok(Opened::Unknown),
            response => response?,
        };
        match response.status() {
            200 => Ok(Opened::Streams(response.into())),
            204 => Ok(Opened::Ended),
            401 => Err(Refusal::NotAllowed),
            404 => Ok(Opened::Unknown),
            _ => Err(Refusal::Unavailable),
        }
    }

    /// Begins to read a stream. A stream from the tail begins with its position, which is read first: the client's
    /// position is not known before.
    async fn begin(&mut self, response: &Response) -> Result<(), Refusal> {
        let failed = |_| Refusal::Unavailable;
        self.parser = EventParser::new();
        self.reader = Some(Reader::of(response).map_err(failed)?);
        if self.cursor != Cursor::Latest {
            return Ok(());
        }
        while self.parser.last_event_id().is_empty() {
            let mut events = Vec::new();
            match self.read(&mut events).await.map_err(failed)? {
                // A position comes before events, and alone.
                true if events.is_empty() => {}
                _ => return Err(Refusal::Unavailable),
            }
        }
        Ok(())
    }

    /// Reads a part of the stream. Returns false at its end.
    async fn read(&mut self, events: &mut Vec<RawEvent>) -> Result<bool, String> {
        let Some(reader) = &self.reader else {
            return Ok(false);
        };
        let Some(bytes) = reader.next().await? else {
            return Ok(false);
        };
        let fed = self.parser.feed(&bytes, events);
        fed.map_err(|error| error.to_string())?;
        if !self.parser.last_event_id().is_empty() {
            self.cursor = position(self.parser.last_event_id());
        }
        Ok(true)
    }

    /// Returns the step of a run that may not be read any more. Either the permission is at its end, or the links were
    /// revoked; the object does not say which.
    fn refused(&self) -> Step {
        match self.grant.ends_soon(WorkersRuntime.now()) {
            true => Step::Expired,
            false => Step::Revoked,
        }
    }

    /// Waits for the next step. Opens the stream again if it breaks off, and if it ends, since a run that has ended
    /// may have been restarted.
    async fn next(&mut self) -> Result<Step, String> {
        let (mut failures, mut pause) = (0, PAUSE);
        loop {
            let mut events = Vec::new();
            let broken = match self.read(&mut events).await {
                Ok(true) if events.is_empty() => continue,
                Ok(true) => {
                    let expired = |event: &RawEvent| !event.has_id && event.event_type == "expired";
                    if !events.iter().any(expired) {
                        return Ok(Step::Events(events));
                    }
                    events.retain(|event| !expired(event));
                    // If events come before it, the client has to get them first. The end is then noticed when the
                    // stream is opened again: the object refuses.
                    return Ok(match events.is_empty() {
                        true => self.refused(),
                        false => Step::Events(events),
                    });
                }
                Ok(false) => None,
                Err(error) => Some(error),
            };
            self.reader = None;
            if self.opened.get() >= MOST_OPENED {
                return Err("a merged stream has made too many requests".to_owned());
            }
            if let Some(error) = broken {
                failures += 1;
                if failures == TRIES {
                    return Err(error);
                }
                sleep(pause).await;
                pause *= 2;
            }
            match self.open(false).await {
                Ok(Opened::Streams(response)) => match Reader::of(&response) {
                    Ok(reader) => {
                        self.reader = Some(reader);
                        self.parser = EventParser::new();
                    }
                    Err(error) => return Err(error),
                },
                Ok(Opened::Ended | Opened::Unknown) => return Ok(Step::Leaves),
                Err(Refusal::NotAllowed) => return Ok(self.refused()),
                // A read without events counts as a failure.
                Err(_) => {
                    failures += 1;
                    if failures >= TRIES {
                        return Err("the events of a run cannot be reached".to_owned());
                    }
                    sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }
}

/// Reads the body of an object's response, which is cancelled when this is dropped.
pub(super) struct Reader(js::ByteReader);

impl Reader {
    pub(super) fn of(response: &Response) -> Result<Self, String> {
        let body = response.body();
        let worker::ResponseBody::Stream(stream) = body else {
            return Err("an object's stream has no body".to_owned());
        };
        let reader = js::byte_reader(stream.unchecked_ref());
        let reader = reader.map_err(|_| "an object's stream cannot be read")?;
        Ok(Self(reader))
    }

    /// Returns the next bytes, `None` at the end.
    pub(super) async fn next(&self) -> Result<Option<Vec<u8>>, String> {
        let chunk = js::read_chunk(&self.0).await;
        let chunk = chunk.map_err(|_| "a run's stream is cut off".to_owned())?;
        Ok(chunk.dyn_ref().map(Uint8Array::to_vec))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Fails if the stream has broken off by itself.
        let _ = js::cancel_reader(&self.0);
    }
}
