//! The memory of a log in SQLite: it is kept for viewers, and bounded whatever they do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::cell::Cell;
use std::sync::Arc;

use futures_executor::block_on;
use ssetarget::store::{FrameBytes, FrameStore, RelayStore, Sql, SqlRow, SqlValue, Watch};
use ssetarget::{
    Batch, Cursor, EventId, EventStore, NewEvent, PageLimit, SqliteEventStore, SseTarget,
};
use support::sql::Database;

const MIB: usize = 1 << 20;

/// The bytes of pages in Rust's memory.
const PAGES: usize = <bytes::Bytes as FrameBytes>::PAGES;

type Target<const P: usize = PAGES> = SseTarget<NewEvent, SqliteEventStore<Counting<P>>>;

fn target() -> Target {
    target_of()
}

/// A log whose pages may have so many bytes together.
fn target_of<const P: usize>() -> Target<P> {
    SseTarget::new(SqliteEventStore::new(Counting(Database::in_memory())))
}

async fn append(target: &Target, size: usize) {
    let event = NewEvent::new("t", "x".repeat(size)).unwrap();
    target.store().append(vec![event]).await.unwrap();
}

#[test]
fn nothing_is_kept_while_nobody_watches() {
    block_on(async {
        let target = target();
        for _ in 0..100 {
            append(&target, 30_000).await;
            let page = target.store().read_frames(None, PageLimit::default()).await;
            assert!(alive() > 0);
            drop(page.unwrap());
            assert_eq!(alive(), 0);
        }
    });
}

#[test]
fn kept_pages_are_bounded_and_dropped_with_the_last_viewer() {
    block_on(async {
        let target = target();
        for _ in 0..40 {
            append(&target, 50_000).await;
        }
        let all = PageLimit {
            events: usize::MAX,
            bytes: usize::MAX,
        };
        let mut viewers = Vec::new();
        for n in 0..40 {
            let cursor = match n {
                0 => Cursor::Beginning,
                1..30 => Cursor::After(EventId::new(n).unwrap()),
                _ => Cursor::Latest,
            };
            viewers.push(target.subscribe(cursor).await.unwrap());
        }
        let mut most = 0;
        for n in 0..200 {
            append(&target, if n % 20 == 0 { MIB - 100 } else { 20_000 }).await;
            for (number, viewer) in viewers.iter_mut().enumerate().skip(n % 3) {
                if number % 2 == 0 {
                    *viewer = viewer.clone().with_page_limit(all);
                }
                drop(viewer.try_next_frames().await.unwrap());
                most = most.max(alive());
                assert!(alive() <= 2 * MIB, "{} bytes are kept", alive());
            }
        }
        assert!(most > MIB, "{most}");

        let last = viewers.pop().unwrap();
        drop(viewers);
        assert!(alive() > 0);
        let again = last.clone();
        drop(last);
        assert!(alive() > 0);
        drop(again);
        assert_eq!(alive(), 0);
        append(&target, 10).await;
        assert_eq!(alive(), 0);

        // The same for viewers that come later.
        let mut viewer = target.subscribe(Cursor::Latest).await.unwrap();
        append(&target, 10).await;
        assert!(alive() > 0);
        drop(viewer.try_next_frames().await.unwrap());
        drop(viewer);
        assert_eq!(alive(), 0);
    });
}

#[test]
fn a_relay_keeps_as_much_and_nothing_when_it_does_not_follow() {
    block_on(async {
        let upstream = target();
        for _ in 0..100 {
            append(&upstream, 50_000).await;
        }
        let relay: SseTarget<NewEvent, _> =
            SseTarget::new(RelayStore::new(Upstream(upstream.clone())));
        let viewing = async {
            let mut viewers = Vec::new();
            for n in 1..50 {
                let cursor = Cursor::After(EventId::new(n).unwrap());
                viewers.push(relay.subscribe(cursor).await.unwrap());
            }
            for n in 0..100 {
                append(&upstream, if n % 20 == 0 { MIB - 100 } else { 20_000 }).await;
                for viewer in &mut viewers {
                    drop(viewer.next_frames().await.unwrap());
                    // The upstream keeps as much for the relay.
                    assert!(alive() <= 4 * MIB + MIB, "{} bytes are kept", alive());
                }
            }
        };
        let follow = std::pin::pin!(relay.store().follow(|_| std::future::ready(())));
        futures_util::future::select(follow, std::pin::pin!(viewing)).await;
    });
    assert_eq!(alive(), 0);
}

/// The runtime's own copies of pages, as a Durable Object's viewers have them.
const COPIES: usize = 32 * MIB;

#[test]
fn pages_are_smaller_when_viewers_are_many() {
    let sizes = [(1, 128), (128, 128), (129, 64), (1_000, 16), (10_000, 4)];
    pages_have_sizes(&target(), &sizes);
    let sizes = [(1, 128), (256, 128), (500, 64), (1_000, 32), (20_000, 4)];
    pages_have_sizes(&target_of::<COPIES>(), &sizes);
}

fn pages_have_sizes<const PAGES: usize>(target: &Target<PAGES>, sizes: &[(usize, usize)]) {
    block_on(async {
        for _ in 0..40 {
            let event = NewEvent::new("t", "x".repeat(1_000)).unwrap();
            target.store().append(vec![event; 10]).await.unwrap();
        }
        let mut viewers = Vec::new();
        for &(count, kib) in sizes {
            while viewers.len() < count {
                viewers.push(target.subscribe(Cursor::Beginning).await.unwrap());
            }
            let page = target.store().read_frames(None, PageLimit::default()).await;
            let size = page.unwrap().events.unwrap().bytes.byte_length();
            // The size includes what frames have besides the data.
            assert!(size <= kib * 1060, "{count} viewers: {size}");
            assert!(size >= kib * 700, "{count} viewers: {size}");
        }
    });
}

/// Viewers who stall, each at a place of its own, hold a page each.
#[test]
fn viewers_who_stall_at_different_places_hold_no_more_than_pages_may_have() {
    // The pages, the newest frames and the pages that were read lately, and what frames have besides the data.
    held_by_the_stalled(&target(), |held| held < (16 + 2) * MIB * 106 / 100);
    held_by_the_stalled(&target_of::<COPIES>(), |held| {
        held < (32 + 2) * MIB * 106 / 100
    });
}

fn held_by_the_stalled<const PAGES: usize>(target: &Target<PAGES>, is_little: fn(usize) -> bool) {
    block_on(async {
        for _ in 0..40 {
            let event = NewEvent::new("t", "x".repeat(1_000)).unwrap();
            target.store().append(vec![event; 20]).await.unwrap();
        }
        for count in [100, 200, 300, 500, 513, 700] {
            let mut viewers = Vec::new();
            for number in 0..count {
                let after = Cursor::After(EventId::new(1 + number % 650).unwrap());
                viewers.push(target.subscribe(after).await.unwrap());
            }
            let mut pages = Vec::new();
            for viewer in &mut viewers {
                pages.push(viewer.try_next_frames().await.unwrap());
                assert!(is_little(alive()), "{count} viewers: {}", alive());
            }
            // It is a bound that is made use of, not one for small pages.
            assert!(alive() > PAGES / 3, "{count} viewers: {}", alive());
        }
    });
}

/// Viewers who are together hold one page.
#[test]
fn viewers_at_one_place_hold_one_page() {
    block_on(async {
        let target = target_of::<COPIES>();
        let mut viewers = Vec::new();
        for _ in 0..500 {
            viewers.push(target.subscribe(Cursor::Latest).await.unwrap());
        }
        for _ in 0..10 {
            let event = NewEvent::new("t", "x".repeat(250)).unwrap();
            target.store().append(vec![event; 100]).await.unwrap();
        }
        let mut pages = Vec::new();
        for viewer in &mut viewers {
            pages.push(viewer.try_next_frames().await.unwrap().unwrap());
        }
        let Batch::Events(page) = &pages[0] else {
            panic!("a reset");
        };
        // Two batches fit, so they get two with one write.
        assert!(page.byte_length() > 50_000, "{}", page.byte_length());
        assert!(alive() < MIB, "{}", alive());
    });
}

/// A log above a relay, which watches it.
#[derive(Debug)]
struct Upstream(Target);

impl EventStore for Upstream {
    type Error = <SqliteEventStore<Counting<PAGES>> as EventStore>::Error;

    async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<ssetarget::Appended>, Self::Error> {
        self.0.store().append(batch).await
    }

    async fn read(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<ssetarget::Page, Self::Error> {
        self.0.store().read(after, limit).await
    }

    async fn changed(&self, after: Option<EventId>) -> Result<(), Self::Error> {
        self.0.store().changed(after).await
    }

    async fn before(&self, time: std::time::SystemTime) -> Result<Option<EventId>, Self::Error> {
        self.0.store().before(time).await
    }

    fn watch(&self) -> Watch {
        self.0.store().watch()
    }
}

impl FrameStore for Upstream {
    type Bytes = Counted<PAGES>;

    async fn read_frames(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
    ) -> Result<ssetarget::store::FramePage<Counted<PAGES>>, Self::Error> {
        self.0.store().read_frames(after, limit).await
    }
}

thread_local! {
    static ALIVE: Cell<usize> = const { Cell::new(0) };
}

/// Bytes that are alive on this thread.
fn alive() -> usize {
    ALIVE.get()
}

/// Bytes that count themselves. Clones are the same.
#[derive(Clone, Debug)]
struct Counted<const P: usize>(Arc<Bytes>);

#[derive(Debug)]
struct Bytes(Vec<u8>);

impl Drop for Bytes {
    fn drop(&mut self) {
        ALIVE.set(ALIVE.get() - self.0.len());
    }
}

impl<const P: usize> FrameBytes for Counted<P> {
    const PAGES: usize = P;

    fn from_slice(bytes: &[u8]) -> Self {
        ALIVE.set(ALIVE.get() + bytes.len());
        Self(Arc::new(Bytes(bytes.to_vec())))
    }

    fn concat(parts: &[Self]) -> Self {
        let parts: Vec<_> = parts.iter().map(|part| part.0.0.as_slice()).collect();
        Self::from_slice(&parts.concat())
    }

    fn byte_length(&self) -> usize {
        self.0.0.len()
    }

    fn to_vec(&self) -> Vec<u8> {
        self.0.0.clone()
    }
}

/// A database whose bytes are counted.
#[derive(Debug)]
struct Counting<const P: usize>(Database);

impl<const P: usize> Sql for Counting<P> {
    type Error = rusqlite::Error;
    type Bytes = Counted<P>;

    fn exec(
        &self,
        statement: &'static str,
        params: &[SqlValue<Counted<P>>],
    ) -> Result<Vec<SqlRow<Counted<P>>>, rusqlite::Error> {
        let params = params.iter().map(|param| match param {
            SqlValue::Null => SqlValue::Null,
            SqlValue::Integer(number) => SqlValue::Integer(*number),
            SqlValue::Text(text) => SqlValue::Text(text.clone()),
            SqlValue::Bytes(bytes) => SqlValue::Bytes(bytes.to_vec().into()),
        });
        let rows = self.0.exec(statement, &params.collect::<Vec<_>>())?;
        // The statements are not needed, and they hold bytes.
        self.0.take_statements();
        let value = |value: SqlValue<bytes::Bytes>| match value {
            SqlValue::Null => SqlValue::Null,
            SqlValue::Integer(number) => SqlValue::Integer(number),
            SqlValue::Text(text) => SqlValue::Text(text),
            SqlValue::Bytes(bytes) => SqlValue::Bytes(Counted::from_slice(&bytes)),
        };
        let rows = rows.into_iter();
        Ok(rows
            .map(|row| row.into_iter().map(value).collect())
            .collect())
    }
}
