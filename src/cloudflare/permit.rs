//! How long a viewer may go on watching. Runs in the object, and in the Worker if it makes the stream.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use cloudflare_workflows::__private::sleep;
use cloudflare_workflows::{Runtime, WorkersRuntime};
use futures_util::future::{Either, LocalBoxFuture, select};
use futures_util::{FutureExt, StreamExt};

use super::chunks::{Chunks, Cut};
use super::links::Links;
use crate::access::Grant;
use crate::delivery::{permitted, reached};

/// The longest time for which a viewer that does not read is kept after the end of its permission.
const PATIENCE: Duration = Duration::from_secs(5);

/// A viewer's permission, and the log's knowledge of revoked ones.
#[derive(Clone)]
pub(super) struct Permit {
    grant: Grant,
    #[cfg_attr(not(feature = "links"), allow(dead_code))]
    links: Option<Rc<Links>>,
    /// Resolves when the grant is known to be revoked, where another object has the links.
    asked: Option<Rc<dyn Fn() -> LocalBoxFuture<'static, ()>>>,
}

impl Permit {
    /// Returns a permit that is over when the grant has ended, or when it is revoked in the object of `links`.
    pub(super) fn new(grant: Grant, links: &Rc<Links>) -> Self {
        Self {
            grant,
            links: Some(Rc::clone(links)),
            asked: None,
        }
    }

    /// Returns a permit that is over when the grant has ended.
    pub(super) fn until_end(grant: Grant) -> Self {
        Self {
            grant,
            links: None,
            asked: None,
        }
    }

    /// Has it be over, too, when this resolves.
    pub(super) fn or_when(mut self, revoked: LocalBoxFuture<'static, ()>) -> Self {
        let revoked = revoked.shared();
        // A shared future is much code. As a function in a box it is linked only where this is called.
        self.asked = Some(Rc::new(move || Box::pin(revoked.clone())));
        self
    }

    /// Ends the chunks when the permit is over, with the event `expired`.
    pub(super) fn bound(&self, chunks: Chunks) -> Chunks {
        match self.over() {
            None => chunks,
            Some(over) => permitted(chunks, over).boxed_local(),
        }
    }

    /// Cuts a stream off for the reason of `cut`, and a moment after the permit is over, since its viewer may not
    /// read.
    pub(super) fn cut(
        &self,
        cut: impl Future<Output = Cut> + 'static,
    ) -> LocalBoxFuture<'static, Cut> {
        let cut = Box::pin(cut);
        let Some(over) = self.over() else {
            return cut;
        };
        let late = async move {
            over.await;
            sleep(PATIENCE).await;
        };
        Box::pin(async move {
            match select(cut, pin!(late)).await {
                Either::Left((cut, _)) => cut,
                Either::Right(_) => Some("the permission has ended".to_owned()),
            }
        })
    }

    /// Returns a future that resolves when the permit is over, `None` if it never is.
    pub(super) fn over(&self) -> Option<LocalBoxFuture<'static, ()>> {
        let mut ends: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
        if let Some(until) = self.grant.until {
            ends.push(Box::pin(reached(until, || WorkersRuntime.now(), sleep)));
        }
        #[cfg(feature = "links")]
        if let Some((links, generation)) = self.links.clone().zip(self.grant.generation) {
            ends.push(Box::pin(async move { links.revoked(generation).await }));
        }
        if let Some(asked) = &self.asked {
            ends.push(asked());
        }
        if ends.is_empty() {
            return None;
        }
        Some(Box::pin(poll_fn(move |context| {
            let is_over = |end: &mut LocalBoxFuture<'_, ()>| end.as_mut().poll(context).is_ready();
            match ends.iter_mut().any(is_over) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })))
    }
}
