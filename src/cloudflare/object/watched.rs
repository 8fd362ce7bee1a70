//! A viewer's place at an object, and what its stream tells while it is there. Runs in the object.

use std::rc::Rc;

use cloudflare_workflows::__private::Timer;
use futures_util::future::LocalBoxFuture;
use js_sys::Uint8Array;

use super::cutoff::Cutoff;
use super::relay::Visit;
use crate::cloudflare::response::Watching;
use crate::stats::{Cut, Metrics, Observing, Viewing};

/// A viewer's place at an object, and what its stream tells while it is there.
pub(super) struct Watched {
    visit: Visit,
    viewing: Viewing,
    cutoff: Rc<Cutoff>,
}

impl Watched {
    pub(super) fn new(visit: Visit, metrics: &Metrics, cutoff: &Rc<Cutoff>) -> Self {
        Self {
            visit,
            viewing: Observing::by(metrics.clone()).viewing(),
            cutoff: Rc::clone(cutoff),
        }
    }
}

impl Watching for Watched {
    fn timer(&self) -> Timer {
        self.visit.timer()
    }

    fn cut(&self) -> LocalBoxFuture<'static, &'static str> {
        let cut = self.cutoff.next();
        let viewing = self.viewing.observing().clone();
        Box::pin(async move {
            cut.await;
            viewing.tell(|observer| observer.cut(Cut::Deleted));
            "the log was deleted"
        })
    }

    fn sent(&self, chunk: Result<&Uint8Array, ()>) {
        self.viewing.tell(|observer| match chunk {
            Ok(chunk) => observer.sent(u64::from(chunk.length())),
            Err(()) => observer.cut(Cut::Store),
        });
    }
}
