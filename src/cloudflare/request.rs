//! A viewer's request, on its way to an object. Written in the Worker, read in the object.
//!
//! Functions that each viewer's request passes are not inlined: V8 optimizes a function that is called often as a whole,
//! in a time that grows faster than its size.

use std::borrow::Cow;

use worker::web_sys;

use crate::access::Grant;
use crate::event::Cursor;
#[cfg(feature = "otlp")]
use crate::otlp::Unfinished;
use crate::refusal::Refusal;
use crate::{clock, wire};

/// A viewer's request for a stream of events.
pub(super) struct StreamRequest {
    pub(super) cursor: Cursor,
    /// The response is to have no body.
    pub(super) head: bool,
    /// The instance is known to exist, so the object waits for the first event of an empty log.
    pub(super) expected: bool,
    /// The object is to answer with a hibernatable socket.
    pub(super) hibernates: bool,
    /// The viewer's permission, to which the object limits the stream.
    pub(super) grant: Grant,
    /// The client asks for the trace of the events.
    #[cfg(feature = "otlp")]
    pub(super) otlp: Option<Unfinished>,
    /// The client asks for a part of the events in the Durable Streams protocol.
    #[cfg(feature = "durable-streams")]
    pub(super) durable: Option<DurableCall>,
}

/// A request in the Durable Streams protocol, as the Worker got it.
#[cfg(feature = "durable-streams")]
pub(super) struct DurableCall {
    pub(super) query: String,
    pub(super) if_none_match: Option<String>,
    /// Only some clients may see the run, so shared caches may keep nothing of it.
    pub(super) is_private: bool,
}

/// What requests to objects say.
const EXPECTED: &str = "expected";
const HIBERNATES: &str = "hibernates";
#[cfg(feature = "otlp")]
const OTLP: &str = "otlp";
#[cfg(feature = "durable-streams")]
const DURABLE: &str = "durable";
#[cfg(feature = "durable-streams")]
const PRIVATE: &str = "private";
const IF_NONE_MATCH: &str = "if-none-match";
const UNTIL: &str = "until";
const GENERATION: &str = "generation";

const METHOD: Refusal = Refusal::Method { allow: "GET, HEAD" };

impl StreamRequest {
    /// Reads only the request's method, its `Last-Event-ID` header and its query. Takes the runtime's own request:
    /// the `worker` crate's would read more, and treats an unknown method as `GET`.
    #[inline(never)]
    pub(super) fn from_request(request: &web_sys::Request) -> Result<Self, Refusal> {
        let head = match &*request.method() {
            "GET" => false,
            "HEAD" => true,
            _ => return Err(METHOD),
        };
        // The values of a repeated header come joined by commas, which is not an id.
        let header = request.headers().get("last-event-id").ok().flatten();
        let cursor = wire::cursor(header.as_deref(), query(&request.url()))?;
        Ok(Self::at(cursor, head))
    }

    /// Returns a request for the events after this position.
    pub(super) fn at(cursor: Cursor, head: bool) -> Self {
        Self {
            cursor,
            head,
            expected: false,
            hibernates: false,
            grant: Grant::default(),
            #[cfg(feature = "otlp")]
            otlp: None,
            #[cfg(feature = "durable-streams")]
            durable: None,
        }
    }

    /// Reads a request that [`to_object_request`](Self::to_object_request) wrote. Runs in the object.
    #[inline(never)]
    pub(super) fn from_call(call: &ObjectCall) -> Result<Self, Refusal> {
        let cursor = wire::cursor(None, call.query())?;
        let mut stream = Self::at(cursor, call.is_head());
        stream.expected = call.get(EXPECTED).is_some();
        stream.hibernates = call.get(HIBERNATES).is_some();
        #[cfg(feature = "otlp")]
        {
            stream.otlp = call.get(OTLP).map(|wanted| match &*wanted {
                "partial" => Unfinished::Partial,
                _ => Unfinished::LeaveOut,
            });
        }
        #[cfg(feature = "durable-streams")]
        {
            stream.durable = call.get(DURABLE).map(|url| DurableCall {
                query: query(&url).unwrap_or_default().to_owned(),
                if_none_match: call.get(IF_NONE_MATCH).map(Cow::into_owned),
                is_private: call.get(PRIVATE).is_some(),
            });
        }
        let number = |name| -> Option<u64> { call.get(name)?.parse().ok() };
        stream.grant = Grant {
            until: number(UNTIL).map(clock::from_milliseconds),
            generation: number(GENERATION),
        };
        Ok(stream)
    }

    /// Writes a new request from the parsed parts: nothing else of the client's request reaches the object.
    #[inline(never)]
    pub(super) fn to_object_request(&self) -> ObjectRequest {
        let mut request = ObjectRequest::new(if self.head { "HEAD" } else { "GET" });
        if self.expected {
            request.set(EXPECTED, "1");
        }
        if self.hibernates {
            request.set(HIBERNATES, "1");
            request.upgrades = true;
        }
        request.set_grant(self.grant);
        #[cfg(feature = "otlp")]
        match self.otlp {
            None => {}
            Some(Unfinished::LeaveOut) => request.set(OTLP, "ended"),
            Some(Unfinished::Partial) => request.set(OTLP, "partial"),
        }
        #[cfg(feature = "durable-streams")]
        if let Some(call) = &self.durable {
            request.set(DURABLE, &format!("?{}", call.query));
            if let Some(tags) = &call.if_none_match {
                request.set(IF_NONE_MATCH, tags);
            }
            if call.is_private {
                request.set(PRIVATE, "1");
            }
        }
        match self.cursor {
            Cursor::Beginning => {}
            Cursor::After(id) => request.set("lastEventId", &id.to_string()),
            Cursor::Latest => request.set("from", "latest"),
            Cursor::Since(time) => request.set("since", &clock::milliseconds(time).to_string()),
        }
        request
    }
}

/// A request for the snapshot of a run.
#[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
pub(super) struct SnapshotCall {
    pub(super) id: String,
    pub(super) workflow: String,
    pub(super) if_none_match: Option<String>,
    /// The response is to have no body.
    pub(super) head: bool,
    /// The client's permission, which the object checks.
    pub(super) grant: Grant,
}

/// In a request for a snapshot: the names of the workflow and the instance, with a slash between them. Workflow
/// names have none.
const SNAPSHOT: &str = "snapshot";
/// The header of the answer if the run has ended.
#[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
pub(super) const ENDED: &str = "ssetarget-ended";

impl SnapshotCall {
    /// Writes the request for the object.
    #[cfg(feature = "snapshots")]
    pub(super) fn to_object_request(&self) -> ObjectRequest {
        let names = format!("{}/{}", self.workflow, self.id);
        let mut request = ObjectRequest::new(if self.head { "HEAD" } else { "GET" });
        request.set(SNAPSHOT, &names);
        if let Some(tags) = &self.if_none_match {
            request.set(IF_NONE_MATCH, tags);
        }
        request.set_grant(self.grant);
        request
    }

    /// Reads a request that [`to_object_request`](Self::to_object_request) wrote, or returns `None` for any other.
    /// Runs in the object.
    #[inline(never)]
    pub(super) fn from_call(call: &ObjectCall) -> Option<Self> {
        let names = call.get(SNAPSHOT)?;
        let (workflow, id) = names.split_once('/')?;
        Some(Self {
            id: id.to_owned(),
            workflow: workflow.to_owned(),
            if_none_match: call.get(IF_NONE_MATCH).map(Cow::into_owned),
            head: call.is_head(),
            // It was checked before.
            grant: Grant::default(),
        })
    }
}

/// A request to an object. What it says is in its URL, and not in headers: the runtime makes an object of each header
/// on both sides, for microseconds where an URL is a string.
pub(super) struct ObjectRequest {
    pub(super) method: &'static str,
    pub(super) url: String,
    /// The object is to answer with a socket.
    pub(super) upgrades: bool,
}

impl ObjectRequest {
    /// Returns a request that asks whether there are events.
    pub(super) fn head(grant: Grant) -> Self {
        let mut request = Self::new("HEAD");
        request.set_grant(grant);
        request
    }

    fn set_grant(&mut self, grant: Grant) {
        if let Some(until) = grant.until {
            self.set(UNTIL, &clock::milliseconds(until).to_string());
        }
        if let Some(generation) = grant.generation {
            self.set(GENERATION, &generation.to_string());
        }
    }

    pub(super) fn new(method: &'static str) -> Self {
        Self {
            method,
            url: "http://workflow-events/?".to_owned(),
            upgrades: false,
        }
    }

    /// Says something, which the object [gets](ObjectCall::get). An empty value counts as none.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        if !self.url.ends_with('?') {
            self.url.push('&');
        }
        self.url.push_str(name);
        self.url.push('=');
        self.url
            .extend(form_urlencoded::byte_serialize(value.as_bytes()));
    }
}

/// An [`ObjectRequest`] as the object gets it.
pub(super) struct ObjectCall {
    method: String,
    url: String,
}

impl ObjectCall {
    pub(super) fn of(request: &web_sys::Request) -> Self {
        Self {
            method: request.method(),
            url: request.url(),
        }
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Returns what the request says under this name.
    pub(super) fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        wire::parameter(self.query(), name)
    }

    pub(super) fn query(&self) -> Option<&str> {
        query(&self.url)
    }
}

/// Returns the query of a request's URL, which the runtime has parsed and normalised.
///
/// This avoids `request.url()`: the crate behind it brings tables for host names in all scripts, which are a third of
/// a small Worker, 80 KB after gzip.
pub(super) fn query(url: &str) -> Option<&str> {
    let url = url.split_once('#').map_or(url, |(url, _)| url);
    url.split_once('?').map(|(_, query)| query)
}
