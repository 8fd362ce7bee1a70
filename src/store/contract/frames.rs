//! **Frames**: the bytes of a page are those of its events.

use super::tools::{append, everything, plain, read, stored, succeed};
use crate::event::EventId;
use crate::store::PageLimit;
use crate::store::frames::{FrameBytes, FrameStore};
use crate::wire;

/// Checks a [`FrameStore`], beyond [`check`](super::check): the frames of a page are the bytes of
/// its events, whatever was appended in whatever batches, and wherever the page begins. `open`
/// returns stores over one storage, empty at first, so that a new store reads pages, too.
pub async fn check_frames<S: FrameStore>(mut open: impl AsyncFnMut() -> S) {
    let store = open().await;
    let page = succeed("read_frames", store.read_frames(None, PageLimit::default())).await;
    assert!(
        page.events.is_none() && page.head.is_none(),
        "an empty log: {page:?}"
    );
    let sizes = [1, 3, 2, 40, 1, 1, 300, 5];
    let data = [
        "",
        "é",
        "a\nb\rc\r\n",
        "{\"a\":1}",
        "\0",
        "\n",
        &"x".repeat(500),
    ];
    let mut data = data.iter().cycle();
    for size in sizes {
        let batch = data.by_ref().take(size).map(|data| plain(data));
        append(&store, batch.collect()).await;
        frames_are_events(&store).await;
    }
    append(
        &store,
        vec![plain(&"x".repeat(100_000)), plain("last").terminal()],
    )
    .await;
    frames_are_events(&store).await;
    drop(store);
    frames_are_events(&open().await).await;
    // The event that grows most on the wire, between two others.
    let store = open().await;
    let lines = plain(&"\n".repeat(290_000));
    let ids = append(&store, vec![plain("before"), lines, plain("after")]).await;
    drop(store);
    let store = open().await;
    let mut after = stored(&ids, "an event of many lines")[0];
    for (events, bytes) in [(1, 1), (usize::MAX, usize::MAX)] {
        let limit = PageLimit { events, bytes };
        let mut expected = Vec::new();
        for event in read(&store, Some(after), PageLimit { events: 1, bytes })
            .await
            .events
        {
            wire::encode(&event, &mut expected);
        }
        let page = succeed("read_frames", store.read_frames(Some(after), limit)).await;
        let frames = page.events.unwrap();
        assert!(
            frames.bytes.to_vec().starts_with(&expected),
            "the frame of an event of many lines is another"
        );
        after = EventId::new(after.get() + 1).unwrap();
    }
}

async fn frames_are_events<S: FrameStore>(store: &S) {
    let all = everything(store).await;
    let limits = [
        (1, 1),
        (2, 700),
        (7, 100_000),
        (256, 64 * 1024),
        (usize::MAX, usize::MAX),
    ];
    for (events, bytes) in limits {
        let limit = PageLimit { events, bytes };
        // From every position near the ends, and then from page to page.
        let near = all.events.len().saturating_sub(60);
        let starts = (0..all.events.len()).filter(|start| *start < 10 || *start >= near);
        for start in starts.chain([0]) {
            let mut after = start.checked_sub(1).map(|index| all.events[index].id);
            let mut rest = &all.events[start..];
            for _ in 0..if start == 0 { usize::MAX } else { 2 } {
                let page = succeed("read_frames", store.read_frames(after, limit)).await;
                assert_eq!(
                    (page.oldest, page.head, page.trimmed, page.closed),
                    (all.oldest, all.head, all.trimmed, all.closed),
                    "the ends of the log, read with frames"
                );
                let Some(frames) = page.events else {
                    assert_eq!(rest, [], "no frames after {after:?}");
                    break;
                };
                let count = rest
                    .iter()
                    .take_while(|event| event.id <= frames.last)
                    .count();
                let (read, behind) = rest.split_at(count);
                let size: usize = read.iter().map(|event| event.data.len()).sum();
                assert!(
                    count == 1 || (count <= events && size <= bytes),
                    "a page of {count} events with {size} bytes, where the limit is {limit:?}"
                );
                let mut expected = Vec::new();
                for event in read {
                    wire::encode(event, &mut expected);
                }
                assert!(
                    frames.bytes.to_vec() == expected,
                    "the frames after {after:?} are not the bytes of the events up to {}",
                    frames.last
                );
                assert_eq!(read.last().map(|event| event.id), Some(frames.last));
                (after, rest) = (Some(frames.last), behind);
            }
        }
    }
    let beyond = EventId::new(EventId::MAX);
    let page = succeed(
        "read_frames",
        store.read_frames(beyond, PageLimit::default()),
    )
    .await;
    assert!(page.events.is_none(), "frames beyond the head: {page:?}");
}
