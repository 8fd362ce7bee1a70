//! The answer to a viewer who asks for the events of all runs with a tag in one stream (feature `index`). Runs in the Worker.

use std::cell::Cell;
use std::rc::Rc;

use cloudflare_workflows::__private::{Timer, here, sleep};
use futures_core::Stream;
use futures_util::future::{LocalBoxFuture, join_all};
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use js_sys::Uint8Array;
use serde::Deserialize;
use worker::{Request, Response, web_sys};

use super::cors::with_own_headers;
use super::namespace::WorkflowEventsNamespace;
use super::serve_merged::{
    Decide, MOST_OPENED, PAUSE, Reader, RunStream, Step, TRIES, observed, position, read,
};
use crate::access::{Access, AccessRequest, Grant};
use crate::cloudflare::index::{RunIndexNamespace, may_watch_list};
use crate::cloudflare::leaving::Leaving;
use crate::cloudflare::permit::Permit;
use crate::cloudflare::refuse::unreachable;
use crate::cloudflare::request::{StreamRequest, query};
use crate::cloudflare::response::{self, stream_here_until};
use crate::delivery::{HEARTBEAT_INTERVAL, MAX_MERGED, encode_event, encode_reset_of, keep_alive};
use crate::event::{Cursor, EventId};
use crate::parser::{EventParser, RawEvent};
use crate::refusal::Refusal;
use crate::runs::{InvalidList, Joins, Listed, Members, TagCursor};
use crate::wire::{self, InvalidCursor};

/// Answers a viewer's request for the events of all runs with a tag, `?tag=<tag>`, with one stream (feature `index`).
///
/// Events are as in [`serve_merged`](super::serve_merged), for the runs that are not over when the stream opens, and for those
/// that begin while it is open. A run that ends leaves. The stream itself stays open when no run is left, since another one may
/// begin: it is never answered with `204`.
///
/// A client that comes back with the last `id:` that it got has every event of every run once, also of those that began and ended
/// meanwhile. A run comes from its beginning; of an instance that was restarted, that is where the restart is. With `from=latest`
/// the runs that are there start at their tails, with `since` at that time.
///
/// Up to [`MAX_MERGED`](crate::MAX_MERGED) runs are read at the same time, the latest first. Others wait, and come from their
/// beginnings when one has ended. After 512 subrequests (one when a run begins, one when it ends) the stream is cut off, and the
/// client comes back. The index keeps 10,000 changes: a client that missed more gets an event `reset` without `runId`, and runs
/// that ended before are missing then.
///
/// `access` is asked as for the list of the tag's runs: about `tag:<tag>`, with [`is_list`](AccessRequest::is_list), and about no
/// single run. A run whose links were revoked is left out for the links of before.
///
/// `200` and the stream; `400` for a tag that no run can have, and for an id that is none of such a stream; `401` where `access`
/// refuses, before an object is called; `405`; `503` when the index cannot be reached. The stream ends with `expired` when the
/// permission ends.
///
/// # Errors
/// When a response cannot be made.
pub async fn serve_tagged(
    request: &Request,
    events: &WorkflowEventsNamespace,
    index: &RunIndexNamespace,
    access: &impl Access,
) -> worker::Result<Response> {
    let decide = |asked: &AccessRequest<'_>| access.decide(asked).boxed_local();
    let response: LocalBoxFuture<'_, _> = Box::pin(serve_tagged_asking(
        request.inner(),
        events,
        index,
        Some(&decide),
    ));
    response.await
}

/// Answers as [`serve_tagged`] does. Everybody may watch if there is no hook.
pub(super) async fn serve_tagged_asking(
    request: &web_sys::Request,
    events: &WorkflowEventsNamespace,
    index: &RunIndexNamespace,
    hook: Option<Decide<'_>>,
) -> worker::Result<Response> {
    let answer = answer(request, events, index, hook).await;
    observed(answer, request, events)
}

async fn answer(
    request: &web_sys::Request,
    events: &WorkflowEventsNamespace,
    index: &RunIndexNamespace,
    hook: Option<Decide<'_>>,
) -> Result<Response, Refusal> {
    let head = match &*request.method() {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Refusal::Method { allow: "GET, HEAD" }),
    };
    let (tag, grant) = may_watch_list(request, index, hook).await?;
    let tag = tag.ok_or(Refusal::List(InvalidList::Tag))?;
    let url = request.url();
    let header = request.headers().get("last-event-id").ok().flatten();
    let known = match wire::last_event_id(header.as_deref(), query(&url)) {
        None => None,
        Some(id) => Some(id.parse().map_err(|_| InvalidCursor::Merged)?),
    };
    let others = wire::start(query(&url))?;
    if head {
        return response::left_out().map_err(|error| unreachable(&error));
    }
    let merge = Tagged::open(events, index, tag, grant, known, others).await?;
    let response = merge.respond(Leaving::of(request), grant);
    let response = response.and_then(with_own_headers);
    response.map_err(|error| unreachable(&error))
}

/// How many pages of the list are read to find the runs that a client is in the middle of.
const MOST_PAGES: usize = 20;

/// After how many changes a client that gets no events learns where it is.
const SILENT_CHANGES: u64 = 500;

/// The streams of the runs of a tag, and the changes of its index, as one.
struct Tagged {
    members: Members,
    events: WorkflowEventsNamespace,
    grant: Grant,
    opened: Rc<Cell<u32>>,
    reads: FuturesUnordered<LocalBoxFuture<'static, Came>>,
    /// The changes, while they are not read because too many runs wait.
    changes: Option<Changes>,
    /// The changes up to here are in the last id that the client got; `None` if it has none.
    shown: Option<u64>,
}

/// What has come.
enum Came {
    Run(RunStream, Step),
    Changes(Changes, Result<Vec<RawEvent>, String>),
}

/// A page of the list.
#[derive(Deserialize)]
struct Page {
    runs: Vec<Listed>,
    next: Option<String>,
    #[serde(default)]
    cursor: u64,
}

impl Tagged {
    async fn open(
        events: &WorkflowEventsNamespace,
        index: &RunIndexNamespace,
        tag: String,
        grant: Grant,
        known: Option<TagCursor>,
        others: Cursor,
    ) -> Result<Self, Refusal> {
        let (listed, head) = list(index, &tag, known.as_ref()).await?;
        let (members, joins) = Members::open(listed, head, known, others, MAX_MERGED);
        let opened = Rc::<Cell<u32>>::default();
        let mut changes = Changes {
            index: index.clone(),
            tag,
            told: members.told(),
            reader: None,
            parser: EventParser::new(),
            opened: Rc::clone(&opened),
        };
        changes.open().await.map_err(|_| Refusal::Unavailable)?;
        let mut merge = Self {
            members,
            events: events.clone(),
            grant,
            opened,
            reads: FuturesUnordered::new(),
            changes: Some(changes),
            shown: None,
        };
        let streams = joins.into_iter().map(async |join| {
            let mut stream = merge.stream(join);
            stream.find_tail().await;
            stream
        });
        for stream in join_all(streams).await {
            if let Cursor::After(_) | Cursor::Beginning = stream.cursor() {
                merge.members.read(&stream.run, stream.cursor());
            }
            merge.reads.push(came(stream));
        }
        merge.read_changes();
        Ok(merge)
    }

    fn stream(&self, join: Joins) -> RunStream {
        RunStream::new(&self.events, join.run, self.grant, join.at, &self.opened)
    }

    fn join(&mut self, joins: Vec<Joins>) {
        for join in joins {
            let stream = self.stream(join);
            self.reads.push(came(stream));
        }
        self.read_changes();
    }

    fn read_changes(&mut self) {
        if !self.members.is_full()
            && let Some(mut changes) = self.changes.take()
        {
            self.reads.push(Box::pin(async move {
                let next = changes.next().await;
                Came::Changes(changes, next)
            }));
        }
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

    /// Waits for the next events of any run, and returns their bytes.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            // At once, and after many changes of which the client sees nothing: what begins and ends while it is away is
            // found from there on.
            let cursor = self.members.cursor();
            let is_far = |shown| cursor.told.saturating_sub(shown) >= SILENT_CHANGES;
            if self.shown.is_none_or(is_far) {
                self.shown = Some(cursor.told);
                return Ok(Some(format!("id: {cursor}\n\n").into_bytes()));
            }
            let Some(came) = self.reads.next().await else {
                return Ok(None);
            };
            match came {
                Came::Run(stream, Step::Events(events)) => {
                    let bytes = self.encode(&stream.run, events);
                    self.reads.push(self::came(stream));
                    return Ok(Some(bytes));
                }
                Came::Run(stream, Step::Leaves) => {
                    let joins = self.members.left(&stream.run);
                    self.join(joins);
                }
                // The end of the permission ends the whole stream by itself.
                Came::Run(stream, Step::Expired) => {
                    let joins = self.members.refused(&stream.run);
                    self.join(joins);
                }
                Came::Run(stream, Step::Revoked) => {
                    let joins = self.members.revoked(&stream.run);
                    self.join(joins);
                }
                Came::Run(_, Step::Fails(reason)) => return Err(reason),
                Came::Changes(changes, events) => {
                    self.changes = Some(changes);
                    if let Some(bytes) = self.take_changes(events?)? {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// Takes changes of the index. Returns what the client has to know.
    fn take_changes(&mut self, events: Vec<RawEvent>) -> Result<Option<Vec<u8>>, String> {
        let mut reset = None;
        let mut joins = Vec::new();
        for event in events {
            if event.event_type == "reset" {
                let lost: Reset = serde_json::from_str(&event.data).unwrap_or_default();
                let oldest = lost.oldest.unwrap_or_default();
                self.members.reset(oldest.saturating_sub(1));
                self.shown = None;
                let mut bytes = Vec::new();
                wire::encode_unnumbered("reset", &event.data, &mut bytes);
                reset = Some(bytes);
            }
            let change: Option<EventId> = event.last_event_id.parse().ok();
            if let Some(change) = change.filter(|_| event.has_id) {
                let run = serde_json::from_str(&event.data);
                let run = run.map_err(|_| "a change of the index cannot be read")?;
                joins.extend(self.members.changed(change.get(), run));
            }
        }
        self.join(joins);
        Ok(reset)
    }

    fn encode(&mut self, run: &str, events: Vec<RawEvent>) -> Vec<u8> {
        let mut out = Vec::new();
        for event in events {
            if event.has_id {
                self.members.read(run, position(&event.last_event_id));
                let cursor = self.members.cursor();
                self.shown = Some(cursor.told);
                encode_event(cursor, run, &event.event_type, &event.data, &mut out);
            } else {
                encode_reset_of(run, &event.data, &mut out);
            }
        }
        out
    }
}

#[derive(Default, Deserialize)]
struct Reset {
    oldest: Option<u64>,
}

fn came(stream: RunStream) -> LocalBoxFuture<'static, Came> {
    Box::pin(async move {
        let (stream, step) = read(stream).await;
        Came::Run(stream, step)
    })
}

/// Returns the runs of the tag that are not over, the latest first, and the position in the index's changes at which that is
/// true: the latest 500, and further ones as long as the client may be in the middle of one of them.
async fn list(
    index: &RunIndexNamespace,
    tag: &str,
    known: Option<&TagCursor>,
) -> Result<(Vec<Listed>, u64), Refusal> {
    const STATES: &str = "queued,running,waiting,paused,waitingForPause,rollingBack";
    let mut all: Vec<Listed> = Vec::new();
    let mut head = 0;
    let mut next: Option<String> = None;
    for number in 0..MOST_PAGES {
        let after = next.as_deref().map(js_sys::encode_uri_component);
        let after = after.map(String::from).unwrap_or_default();
        let query = format!("state={STATES}&limit=500&cursor={after}");
        let mut response = index.list(Some(tag), &query).await?;
        let text = response.text().await.map_err(|error| unreachable(&error))?;
        let page: Page = serde_json::from_str(&text).map_err(|_| Refusal::Unavailable)?;
        if number == 0 {
            head = page.cursor;
        }
        all.extend(page.runs);
        next = page.next;
        let is_found = known.is_none_or(|known| {
            let found = all.iter().filter(|run| known.runs.of(&run.id).is_some());
            found.count() >= known.runs.len()
        });
        if next.is_none() || is_found {
            break;
        }
    }
    Ok((all, head))
}

/// The changes of a tag's index, as its object sends them.
struct Changes {
    index: RunIndexNamespace,
    tag: String,
    told: u64,
    reader: Option<Reader>,
    parser: EventParser,
    opened: Rc<Cell<u32>>,
}

impl Changes {
    async fn open(&mut self) -> Result<(), String> {
        self.opened.set(self.opened.get() + 1);
        let after = EventId::new(self.told).map_or(Cursor::Beginning, Cursor::After);
        let request = StreamRequest::at(after, false);
        let response = self.index.follow(&self.tag, &request).await;
        let response = response.map_err(|_| "the index of runs cannot be reached")?;
        if response.status_code() != 200 {
            return Err("the index of runs does not answer".to_owned());
        }
        self.reader = Some(Reader::of(&response)?);
        self.parser = EventParser::new();
        Ok(())
    }

    /// Waits for the next changes. Opens the stream again where it breaks off.
    async fn next(&mut self) -> Result<Vec<RawEvent>, String> {
        let (mut failures, mut pause) = (0, PAUSE);
        loop {
            let chunk = match &self.reader {
                Some(reader) => reader.next().await,
                None => Ok(None),
            };
            let Ok(Some(bytes)) = chunk else {
                self.reader = None;
                if self.opened.get() >= MOST_OPENED {
                    return Err("a stream of a tag has made too many requests".to_owned());
                }
                if let Err(error) = self.open().await {
                    failures += 1;
                    if failures >= TRIES {
                        return Err(error);
                    }
                    sleep(pause).await;
                    pause *= 2;
                }
                continue;
            };
            let mut events = Vec::new();
            let fed = self.parser.feed(&bytes, &mut events);
            fed.map_err(|error| error.to_string())?;
            if let Ok(id) = self.parser.last_event_id().parse::<EventId>() {
                self.told = id.get();
            }
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}
