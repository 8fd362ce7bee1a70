//! Spans as JSON, in parts that a receiver takes at once.

use std::collections::VecDeque;

use super::model::{Attributes, Span};
use super::trace::Trace;

/// The most spans of one request: 2,000.
pub const MAX_SPANS: usize = 2_000;

/// The most bytes of one request, unless one span has more: 1 MiB.
pub const MAX_BYTES: usize = 1024 * 1024;

/// A part of a trace: one element of `resourceSpans`, as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk(Vec<u8>);

const BEGIN: &[u8] = b"{\"resourceSpans\":[";
const END: &[u8] = b"]}";

impl Chunk {
    /// Returns the body of a request that exports it: an `ExportTraceServiceRequest` as JSON.
    #[must_use]
    pub fn into_request(self) -> Vec<u8> {
        [BEGIN, &self.0, END].concat()
    }
}

/// Joins chunks into one document, an `ExportTraceServiceRequest` of any size.
#[derive(Debug, Default)]
pub(crate) struct Document {
    has_begun: bool,
}

impl Document {
    /// Returns the next bytes of the document.
    pub(crate) fn push(&mut self, chunk: &Chunk) -> Vec<u8> {
        let before = match std::mem::replace(&mut self.has_begun, true) {
            true => b",",
            false => BEGIN,
        };
        [before, &chunk.0].concat()
    }

    /// Returns the last bytes of the document.
    pub(crate) fn end(self) -> Vec<u8> {
        match self.has_begun {
            true => END.to_vec(),
            false => [BEGIN, END].concat(),
        }
    }
}

/// Collects spans into chunks. The same spans always make the same chunks.
#[derive(Debug)]
pub(super) struct Chunks {
    /// The bytes before the first span of each chunk.
    head: Vec<u8>,
    current: Vec<u8>,
    spans: usize,
    done: VecDeque<Chunk>,
}

const TAIL: &[u8] = b"]}]}";

impl Chunks {
    pub(super) fn new(trace: &Trace) -> Self {
        let attributes = json(&trace.resource());
        let version = env!("CARGO_PKG_VERSION");
        let scope = format!(r#"{{"name":"ssetarget","version":"{version}"}}"#);
        let head = [
            b"{\"resource\":",
            attributes.as_slice(),
            b",\"scopeSpans\":[{\"scope\":",
            scope.as_bytes(),
            b",\"spans\":[",
        ]
        .concat();
        Self {
            head,
            current: Vec::new(),
            spans: 0,
            done: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, span: &Span<'_>) {
        let span = json(span);
        let would_have = BEGIN.len() + self.current.len() + 1 + span.len() + TAIL.len() + END.len();
        if self.spans > 0 && (self.spans == MAX_SPANS || would_have > MAX_BYTES) {
            self.flush();
        }
        match self.spans {
            0 => self.current.extend_from_slice(&self.head),
            _ => self.current.push(b','),
        }
        self.current.extend_from_slice(&span);
        self.spans += 1;
    }

    /// Ends the chunk that is under way, if it has spans.
    pub(super) fn flush(&mut self) {
        if self.spans > 0 {
            let mut chunk = std::mem::take(&mut self.current);
            chunk.extend_from_slice(TAIL);
            self.done.push_back(Chunk(chunk));
            self.spans = 0;
        }
    }

    pub(super) fn pop(&mut self) -> Option<Chunk> {
        self.done.pop_front()
    }
}

/// Writes a value that can always be written: the keys of its maps are strings.
fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

impl Trace {
    fn resource(&self) -> Attributes {
        let mut attributes = Attributes::default().with("service.name", self.service());
        attributes.add_own(&self.resource);
        attributes
    }
}
