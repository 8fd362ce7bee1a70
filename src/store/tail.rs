//! A cache of the bytes that many viewers want at the same time.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::PageLimit;
use super::frames::{FrameBytes, Frames};
use crate::event::EventId;
use crate::sync::{MaybeSend, MaybeSync};

/// Caches the newest frames, in the pieces in which they came, and the pages that were read lately,
/// so that viewers at the same position share one allocation. Other pages are read from the log.
///
/// A position is an event's id, 0 for the beginning.
#[derive(Debug)]
pub(super) struct Tail<B> {
    pieces: VecDeque<Piece<B>>,
    /// The bytes of all pieces together.
    bytes: usize,
    /// Recently read pages, keyed by position and limit, newest last.
    pages: VecDeque<(u64, PageLimit, Frames<B>)>,
}

/// All events after one position, up to another.
#[derive(Debug)]
pub(super) struct Piece<B> {
    pub(super) after: u64,
    pub(super) last: EventId,
    pub(super) events: usize,
    /// The number of bytes of data.
    pub(super) size: u64,
    pub(super) bytes: B,
    /// The length of `bytes`.
    pub(super) length: usize,
}

/// The most bytes of pieces. Beyond it the oldest piece is dropped, unless it is the only one.
const TAIL_BYTES: usize = 1 << 20;
/// The most bytes of pieces and pages together. One that is larger is kept alone. An isolate has
/// 128 MB for all its objects.
const ALL_BYTES: usize = 2 << 20;
const PAGES: usize = 4;

impl<B> Default for Tail<B> {
    fn default() -> Self {
        Self {
            pieces: VecDeque::new(),
            bytes: 0,
            pages: VecDeque::new(),
        }
    }
}

impl<B: FrameBytes> Tail<B> {
    /// Adds a piece, which follows all before it: pieces with a hole behind them are dropped, so that no page has one.
    #[inline(never)]
    pub(super) fn push(&mut self, piece: Piece<B>) {
        // They may go on now.
        self.pages.clear();
        if self
            .pieces
            .back()
            .is_some_and(|newest| newest.last.get() != piece.after)
        {
            self.pieces.clear();
            self.bytes = 0;
        }
        self.bytes += piece.length;
        self.pieces.push_back(piece);
        while self.bytes > TAIL_BYTES && self.pieces.len() > 1 {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.pieces.pop_front() {
            self.bytes -= oldest.length;
        }
    }

    /// Returns the page after this position, if a piece begins there and fits.
    pub(super) fn page(&mut self, after: u64, limit: PageLimit) -> Option<Frames<B>> {
        let same = |page: &&(u64, PageLimit, Frames<B>)| (page.0, page.1) == (after, limit);
        if let Some((_, _, frames)) = self.pages.iter().rev().find(same) {
            return Some(frames.clone());
        }
        // A reader at the head gets the newest piece, without a search.
        let newest = self.pieces.len().checked_sub(1)?;
        let start = match self.pieces.back() {
            Some(piece) if piece.after == after => newest,
            _ => self
                .pieces
                .binary_search_by_key(&after, |piece| piece.after)
                .ok()?,
        };
        let (mut events, mut size) = (0, 0);
        let fits = |piece: &&Piece<B>| {
            events += piece.events;
            size += piece.size;
            events == 1 || (events <= limit.events && size <= limit.bytes as u64)
        };
        let fitting = self.pieces.range(start..).take_while(fits);
        let end = start.checked_add(fitting.count())?;
        let last = self.pieces.range(start..end).next_back()?;
        if end - start == 1 {
            let (bytes, last) = (last.bytes.clone(), last.last);
            return Some(Frames { bytes, last });
        }
        let last = last.last;
        let pieces = self.pieces.range(start..end);
        let pieces: Vec<B> = pieces.map(|piece| piece.bytes.clone()).collect();
        let frames = Frames {
            bytes: B::concat(&pieces),
            last,
        };
        self.remember(after, limit, &frames);
        Some(frames)
    }

    /// Keeps a page for others that ask for the same one.
    pub(super) fn remember(&mut self, after: u64, limit: PageLimit, frames: &Frames<B>) {
        let length = frames.bytes.byte_length();
        let pages = |tail: &Self| -> usize {
            let pages = tail.pages.iter();
            pages.map(|page| page.2.bytes.byte_length()).sum()
        };
        while self.pages.len() == PAGES
            || (pages(self) + length > ALL_BYTES - TAIL_BYTES && !self.pages.is_empty())
        {
            self.pages.pop_front();
        }
        while self.bytes + pages(self) + length > ALL_BYTES && !self.pieces.is_empty() {
            self.pop();
        }
        self.pages.push_back((after, limit, frames.clone()));
    }
}

/// Held by each reader of a log. The log has readers while this value or a clone of it exists: see
/// [`EventStore::watch`](crate::store::EventStore::watch).
#[derive(Clone, Default)]
#[must_use]
pub struct Watch(#[allow(dead_code, reason = "held")] Option<Arc<dyn Watched>>);

/// A value whose drop says that the log has no reader any more.
pub(super) trait Watched: MaybeSend + MaybeSync {}

impl Watch {
    pub(super) fn new(watched: Arc<impl Watched + 'static>) -> Self {
        Self(Some(watched))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch(..)")
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn pieces_that_do_not_follow_each_other_are_never_one_page() {
        let mut tail = Tail::default();
        let push = |tail: &mut Tail<Bytes>, id: u64| {
            tail.push(Piece {
                after: id - 1,
                last: EventId::new(id).unwrap(),
                events: 1,
                size: 1,
                bytes: Bytes::from(format!("{id};")),
                length: 2,
            });
        };
        let page = |tail: &mut Tail<Bytes>, after| {
            let frames = tail.page(after, PageLimit::default());
            frames.map(|frames| frames.bytes)
        };
        for id in 1..=5 {
            push(&mut tail, id);
        }
        assert_eq!(page(&mut tail, 3).unwrap(), "4;5;");
        push(&mut tail, 7);
        assert_eq!(page(&mut tail, 3), None);
        assert_eq!(page(&mut tail, 6).unwrap(), "7;");
        push(&mut tail, 8);
        assert_eq!(page(&mut tail, 6).unwrap(), "7;8;");
        assert_eq!(tail.bytes, 4);
    }
}
