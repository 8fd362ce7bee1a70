//! Writes the chunks of a viewer's stream, one after another. Runs in the Worker and in the object; pure, and tested
//! natively.

use futures_core::Stream;
use futures_util::StreamExt;

/// A viewer's stream, to which one chunk at a time is written.
pub(crate) trait Sink<B> {
    /// Begins to write a chunk. Returns whether the viewer is there.
    fn begin(&self, chunk: &B) -> bool;

    /// Waits until the viewer has taken the chunk, or is gone. Returns whether it has taken it.
    async fn taken(&self) -> bool;
}

/// How the chunks of a stream came to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// All of them are written.
    Ended,
    /// The viewer is gone.
    Left,
    /// There are no more, for this reason.
    Failed(String),
}

/// Writes chunks until there are no more or the viewer is gone. Writes one at a time: the end of a write is the only
/// sign that the viewer took the chunk.
///
/// A chunk is not held while it is written: the runtime has made a copy of it, outside of the isolate's memory. So a
/// viewer that does not read holds none of the isolate's 128 MB.
pub(crate) async fn pump<B>(
    mut chunks: impl Stream<Item = Result<B, String>> + Unpin,
    sink: &impl Sink<B>,
) -> Pumped {
    while let Some(chunk) = chunks.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(reason) => return Pumped::Failed(reason),
        };
        let is_there = sink.begin(&chunk);
        drop(chunk);
        if !(is_there && sink.taken().await) {
            return Pumped::Left;
        }
    }
    Pumped::Ended
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use futures_executor::block_on;
    use futures_util::{poll, stream};

    use super::*;

    /// A viewer. The runtime copies what is written to it.
    #[derive(Default)]
    struct Viewer {
        copy: RefCell<String>,
        /// How many chunks it takes.
        takes: Cell<usize>,
        is_gone: bool,
    }

    impl Sink<Rc<str>> for Viewer {
        fn begin(&self, chunk: &Rc<str>) -> bool {
            self.copy.borrow_mut().push_str(chunk);
            !self.is_gone
        }

        async fn taken(&self) -> bool {
            match self.takes.get() {
                0 => std::future::pending().await,
                takes => self.takes.set(takes - 1),
            }
            true
        }
    }

    fn page(text: &str) -> Rc<str> {
        text.into()
    }

    #[test]
    fn a_viewer_that_does_not_read_holds_no_page() {
        block_on(async {
            let viewer = Viewer::default();
            viewer.takes.set(1);
            let (first, second) = (page("a"), page("b"));
            let (read, unread) = (Rc::downgrade(&first), Rc::downgrade(&second));
            let chunks = stream::iter([Ok(first), Ok(second)]).chain(stream::pending());
            let mut pumped = Box::pin(pump(chunks, &viewer));
            assert!(poll!(&mut pumped).is_pending());
            assert_eq!(*viewer.copy.borrow(), "ab");
            assert!(read.upgrade().is_none());
            assert!(unread.upgrade().is_none());
        });
    }

    #[test]
    fn the_end_says_why() {
        let pumped = |viewer: &Viewer, chunks: Vec<Result<Rc<str>, String>>| {
            block_on(pump(stream::iter(chunks), viewer))
        };
        let viewer = Viewer::default();
        viewer.takes.set(9);
        let reason = || "no log".to_owned();
        assert_eq!(pumped(&viewer, vec![Ok(page("a"))]), Pumped::Ended);
        let failed = pumped(&viewer, vec![Ok(page("b")), Err(reason()), Ok(page("c"))]);
        assert_eq!(failed, Pumped::Failed(reason()));
        assert_eq!(*viewer.copy.borrow(), "ab");
        let gone = Viewer {
            is_gone: true,
            ..Viewer::default()
        };
        assert_eq!(pumped(&gone, vec![Ok(page("a"))]), Pumped::Left);
    }
}
