//! Reads a log of any store into the chunks of its trace.

use std::fmt;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream;

use super::chunks::{Chunk, Document};
use super::fold::{TraceFold, Unfinished};
use super::trace::Trace;
use crate::delivery::SseTarget;
use crate::event::EventId;
use crate::store::{EventStore, PageLimit};
use crate::sync::MaybeSend;

/// Reads a part of a log, page by page, into chunks of its trace.
pub(crate) struct Reader<S> {
    target: SseTarget<(), S>,
    fold: TraceFold,
    unfinished: Unfinished,
    after: Option<EventId>,
    /// The last event to read; set by the first step if it is not given.
    until: Option<EventId>,
    has_begun: bool,
    is_done: bool,
}

/// The outcome of a step of a [`Reader`].
pub(crate) enum Step {
    /// A chunk is complete.
    Chunk(Chunk),
    /// A page was read.
    Read,
    /// There is nothing more.
    End,
}

impl<S: EventStore> Reader<S> {
    /// Returns a reader of the whole log as it is now.
    pub(crate) fn new<E>(target: &SseTarget<E, S>, trace: &Trace, unfinished: Unfinished) -> Self {
        Self {
            target: target.typed(),
            fold: TraceFold::new(trace),
            unfinished,
            after: None,
            until: None,
            has_begun: false,
            is_done: false,
        }
    }

    /// Reads only the events after one of these and up to the other.
    #[cfg(feature = "cloudflare")]
    pub(crate) fn between(mut self, after: Option<EventId>, until: EventId) -> Self {
        (self.after, self.until) = (after, Some(until));
        self
    }

    /// Does the next bit of work: returns a chunk, or reads a page.
    pub(crate) async fn step(&mut self) -> Result<Step, ReadError<S::Error>> {
        if let Some(chunk) = self.fold.next_chunk() {
            return Ok(Step::Chunk(chunk));
        }
        if self.is_done {
            return Ok(Step::End);
        }
        let store = self.target.store();
        let limit = PageLimit::default();
        let page = store
            .read(self.after, limit)
            .await
            .map_err(ReadError::Store)?;
        let until = *self
            .until
            .get_or_insert_with(|| page.head.unwrap_or(EventId::FIRST));
        // Older events may have been removed before the reader began. After that, none may.
        if self.has_begun && page.trimmed > self.after {
            return Err(ReadError::Removed);
        }
        self.has_begun = true;
        self.is_done = page.events.is_empty();
        for event in &page.events {
            if event.id > until {
                self.is_done = true;
                break;
            }
            self.fold.apply(event);
            self.after = Some(event.id);
        }
        if self.is_done || self.after >= Some(until) {
            self.is_done = true;
            self.fold.finish(self.unfinished);
        }
        Ok(Step::Read)
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>, ReadError<S::Error>> {
        loop {
            match self.step().await? {
                Step::Chunk(chunk) => return Ok(Some(chunk)),
                Step::Read => {}
                Step::End => return Ok(None),
            }
        }
    }
}

/// Returns the trace of a log at this moment, as the bytes of one JSON document: an `ExportTraceServiceRequest` of
/// any size, with one element of `resourceSpans` for each 2,000 spans or 1 MiB. The log is read while the stream is
/// consumed, and only one part of it is in memory.
///
/// ```
/// use futures_util::TryStreamExt;
/// use ssetarget::otlp::{Trace, Unfinished, document};
/// use ssetarget::{MemoryEventStore, NewEvent, SseTarget};
///
/// # futures_executor::block_on(async {
/// let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
/// let parts = document(&target, &Trace::new("import-7"), Unfinished::LeaveOut);
/// let json: Vec<u8> = parts.map_ok(|part| part.to_vec()).try_concat().await?;
/// assert_eq!(json, br#"{"resourceSpans":[]}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// An item is an error when the store fails, or removes events that are not read yet. It is the last.
pub fn document<E, S: EventStore + 'static>(
    target: &SseTarget<E, S>,
    trace: &Trace,
    unfinished: Unfinished,
) -> impl Stream<Item = Result<Bytes, ReadError<S::Error>>> + MaybeSend + use<E, S> {
    let reader = Reader::new(target, trace, unfinished);
    let state = Some((reader, Document::default()));
    stream::try_unfold(state, |state| async move {
        let Some((mut reader, mut document)) = state else {
            return Ok(None);
        };
        let (bytes, state) = match reader.next().await? {
            Some(chunk) => (document.push(&chunk), Some((reader, document))),
            None => (document.end(), None),
        };
        Ok(Some((Bytes::from(bytes), state)))
    })
}

/// The headers of a [`document`] as a response, names in lower case.
#[cfg(any(feature = "cloudflare", feature = "http"))]
pub(crate) const HEADERS: [(&str, &str); 2] = [
    ("content-type", "application/json"),
    ("cache-control", "no-store"),
];

/// Returns whether a request's query asks for open spans, too: `?partial`, with any value but `0` and `false`.
#[cfg(any(feature = "cloudflare", feature = "http"))]
pub(crate) fn is_partial(query: Option<&str>) -> bool {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "partial")
        .is_some_and(|(_, value)| value != "0" && value != "false")
}

/// The reason why a log cannot be read to its end.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError<E> {
    /// The store failed.
    Store(E),
    /// Events were removed from the log before they were read.
    Removed,
}

impl<E> fmt::Display for ReadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Store(_) => "the event store failed",
            Self::Removed => "events were removed from the log before they were exported",
        })
    }
}

impl<E: std::error::Error + 'static> std::error::Error for ReadError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Removed => None,
        }
    }
}
