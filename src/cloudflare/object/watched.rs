//! A viewer's place at an object, and the reports of its stream. Runs in the object.

use std::rc::Rc;

use cloudflare_workflows::__private::Timer;
use futures_util::future::LocalBoxFuture;
use js_sys::Uint8Array;

use crate::cloudflare::cutoff::{Because, Cutoff};
use crate::cloudflare::response::Watching;
use crate::stats::{Cut, Metrics, Observing, Viewing};

/// A viewer's place at an object, and the reports of its stream.
pub(super) struct Watched<Visit> {
    timer: Timer,
    /// Counts the viewer until it is dropped.
    _visit: Visit,
    viewing: Viewing,
    cutoff: Rc<Cutoff>,
}

impl<Visit> Watched<Visit> {
    /// Returns the place of a viewer whose heartbeats come by `timer`. It is given back when `visit` is dropped.
    pub(super) fn new(visit: Visit, timer: Timer, metrics: &Metrics, cutoff: &Rc<Cutoff>) -> Self {
        Self {
            timer,
            _visit: visit,
            viewing: Observing::by(metrics.clone()).viewing(),
            cutoff: Rc::clone(cutoff),
        }
    }
}

impl<Visit: 'static> Watching for Watched<Visit> {
    fn timer(&self) -> Timer {
        self.timer.clone()
    }

    fn cut(&self) -> LocalBoxFuture<'static, &'static str> {
        let cut = self.cutoff.of_stream();
        let viewing = self.viewing.observing().clone();
        Box::pin(async move {
            let because = cut.await;
            if because == Because::Deleted {
                viewing.tell(|observer| observer.cut(Cut::Deleted));
            }
            because.reason()
        })
    }

    fn sent(&self, chunk: Result<&Uint8Array, ()>) {
        self.viewing.tell(|observer| match chunk {
            Ok(chunk) => observer.sent(u64::from(chunk.length())),
            Err(()) => observer.cut(Cut::Store),
        });
    }
}
