//! The logs that this process waits for, and what it knows of them.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::error::RedisError;
use crate::event::EventId;
use crate::store::bell::{Bell, Listener};
use crate::store::flights::{Flights, Turn};
use crate::store::{Page, PageLimit};
use crate::sync::{Mutex, lock};

/// The logs that this process watches, keyed by the channels that announce their changes.
#[derive(Debug, Default)]
pub(super) struct Watches {
    by_channel: Mutex<HashMap<Arc<str>, Arc<Watch>>>,
}

/// A log that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) channel: Arc<str>,
    /// The hash that has the head.
    pub(super) meta: Arc<str>,
    bell: Bell,
    state: Mutex<State>,
    /// The reads at the head, each for all who wait there.
    reads: Flights<Place, ReadPage, BoxFuture<'static, ReadPage>>,
}

type ReadPage = Result<Page, RedisError>;

/// A position, and the most events and bytes of a page.
type Place = (Option<EventId>, usize, usize);

#[derive(Debug, Default)]
struct State {
    /// The number of stores that hold the watch.
    watchers: usize,
    subscribed: Subscribed,
    /// The number of times that the bell rang.
    rings: u64,
    /// The head, with the number of rings when it was read.
    head: Option<(u64, Option<EventId>)>,
    /// The position of the latest shared read: the head, or the one before.
    shared_at: Option<Option<EventId>>,
}

/// Whether the server will announce changes.
#[derive(Clone, Debug, Default)]
enum Subscribed {
    /// There is no connection, or the answer is under way.
    #[default]
    NotYet,
    Yes,
    /// The server refused it.
    Refused(RedisError),
    /// There was no connection for too long. The error is that of the latest attempt to open one.
    GivenUp(RedisError),
}

impl Watches {
    /// Returns the watch of this channel, and whether it is new: then the driver must subscribe.
    pub(super) fn enter(&self, channel: &Arc<str>, meta: &Arc<str>) -> (Arc<Watch>, bool) {
        let mut by_channel = lock(&self.by_channel);
        let watch = by_channel.entry(Arc::clone(channel)).or_insert_with(|| {
            Arc::new(Watch {
                channel: Arc::clone(channel),
                meta: Arc::clone(meta),
                bell: Bell::new(),
                state: Mutex::default(),
                reads: Flights::default(),
            })
        });
        let mut state = lock(&watch.state);
        state.watchers += 1;
        (Arc::clone(watch), state.watchers == 1)
    }

    /// Undoes [`enter`](Self::enter). Returns whether no store is left.
    pub(super) fn leave(&self, watch: &Watch) -> bool {
        let mut by_channel = lock(&self.by_channel);
        let mut state = lock(&watch.state);
        state.watchers -= 1;
        let last = state.watchers == 0;
        if last {
            by_channel.remove(&watch.channel);
        }
        last
    }

    pub(super) fn get(&self, channel: &str) -> Option<Arc<Watch>> {
        lock(&self.by_channel).get(channel).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Watch>> {
        lock(&self.by_channel).values().cloned().collect()
    }
}

impl Watch {
    /// Wakes all who wait: something may have changed.
    pub(super) fn ring(&self) {
        lock(&self.state).rings += 1;
        self.bell.ring();
    }

    /// Notes that the connection is gone. Wakes nobody: there is nothing to read without one.
    pub(super) fn disconnect(&self) {
        self.become_subscribed(Subscribed::NotYet);
    }

    /// Notes the server's answer, and wakes all who wait: they may have missed announcements.
    pub(super) fn subscribe(&self, answer: Result<(), RedisError>) {
        self.become_subscribed(answer.map_or_else(Subscribed::Refused, |()| Subscribed::Yes));
        self.ring();
    }

    /// Notes that another attempt to open a connection failed, after too long a time without one,
    /// and fails all who wait. Who comes now waits for the next attempt: calls that are repeated at
    /// once do not spin.
    pub(super) fn give_up(&self, error: RedisError) {
        self.become_subscribed(Subscribed::GivenUp(error));
        self.ring();
    }

    fn become_subscribed(&self, subscribed: Subscribed) {
        // The old state may have an error of the transport, so it is dropped outside the lock.
        let _earlier = {
            let mut state = lock(&self.state);
            std::mem::replace(&mut state.subscribed, subscribed)
        };
    }

    /// Takes a head that the driver asked for, and rings the bell if it differs.
    pub(super) fn check(&self, head: Option<EventId>) {
        let known = self.head();
        if known.is_some_and(|known| known != head) {
            self.ring();
        }
    }

    /// Returns the number of times that the bell rang, if every change rings it.
    pub(super) fn rings(&self) -> Option<u64> {
        let state = lock(&self.state);
        state.is_subscribed().then_some(state.rings)
    }

    /// Remembers the head that was read after `rings` rings.
    pub(super) fn know(&self, rings: u64, head: Option<EventId>) {
        let mut state = lock(&self.state);
        if state.rings == rings {
            state.head = Some((rings, head));
        }
    }

    /// Returns the head, unless a change was announced since it was read.
    pub(super) fn head(&self) -> Option<Option<EventId>> {
        let state = lock(&self.state);
        let (rings, head) = state.head?;
        (state.is_subscribed() && rings == state.rings).then_some(head)
    }

    /// Reads a page, or takes the page of other viewers that wait at the same position: a thousand
    /// viewers need not read an event a thousand times.
    ///
    /// A page that is taken was read after this call began, so it is as new. Viewers that catch up
    /// are at positions of their own, and read on their own. A viewer that is polled no more, such
    /// as one of a merged stream whose client does not read, holds up no other.
    pub(super) async fn share<F>(
        &self,
        after: Option<EventId>,
        limit: PageLimit,
        read: impl FnOnce() -> F + Send + 'static,
    ) -> ReadPage
    where
        F: Future<Output = ReadPage> + Send + 'static,
    {
        if !self.is_shared_at(after) {
            return read().await;
        }
        let place = (after, limit.events, limit.bytes);
        let call = |turn: Turn<Place, BoxFuture<'static, ReadPage>>| {
            let call = async move {
                turn.come().await;
                read().await
            };
            call.boxed()
        };
        self.reads.share(place, call).await
    }

    /// Returns whether viewers wait at this position, or waited there a moment ago.
    fn is_shared_at(&self, after: Option<EventId>) -> bool {
        let mut state = lock(&self.state);
        let at_head = state.head.is_some_and(|(_, head)| head == after);
        if at_head {
            state.shared_at = Some(after);
        }
        at_head || state.shared_at == Some(after)
    }

    /// Waits for the subscription. Returns a listener that every later change wakes.
    pub(super) async fn listen(&self) -> Result<Listener<'_>, RedisError> {
        loop {
            let listener = self.bell.listen();
            let subscribed = lock(&self.state).subscribed.clone();
            match subscribed {
                Subscribed::Yes => return Ok(listener),
                Subscribed::Refused(error) => return Err(error),
                Subscribed::NotYet | Subscribed::GivenUp(_) => self.hear(listener).await?,
            }
        }
    }

    /// Waits for the ring, which may be that of [`give_up`](Self::give_up).
    pub(super) async fn hear(&self, listener: Listener<'_>) -> Result<(), RedisError> {
        listener.await;
        match &lock(&self.state).subscribed {
            Subscribed::GivenUp(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

impl State {
    fn is_subscribed(&self) -> bool {
        matches!(self.subscribed, Subscribed::Yes)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// A read that takes two polls. The test polls without being woken.
    async fn read() -> Result<Page, RedisError> {
        let mut is_back = false;
        poll_fn(|_| match std::mem::replace(&mut is_back, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        Ok(Page::default())
    }

    /// One viewer of many is never polled again, as that of a merged stream whose client does not
    /// read: it has begun the read, or it waits for it.
    #[test]
    fn a_viewer_that_is_polled_no_more_holds_up_no_other() {
        let (watch, _) = Watches::default().enter(&Arc::from("events"), &Arc::from("log"));
        watch.know(0, None);
        let share = || watch.share(None, PageLimit::default(), read);
        let mut context = Context::from_waker(Waker::noop());
        for polls in 1..=3 {
            let (mut begins, mut waits) = (pin!(share()), pin!(share()));
            for _ in 0..polls {
                let _ = begins.as_mut().poll(&mut context);
            }
            let _ = waits.as_mut().poll(&mut context);
            let mut third = pin!(share());
            let ends = (0..20).any(|_| third.as_mut().poll(&mut context).is_ready());
            assert!(ends, "after {polls} polls of the first");
        }
    }
}
