//! Who waits for which log in this process, and what is known about it.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::RedisError;
use crate::event::EventId;
use crate::store::Bell;
use crate::sync::{Mutex, lock};

/// The logs that somebody of this process watches, by the channels that announce their changes.
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
}

#[derive(Debug, Default)]
struct State {
    /// How many hold it.
    watchers: usize,
    subscribed: Subscribed,
    /// How often the bell rang.
    rings: u64,
    /// The head, as of so many rings.
    head: Option<(u64, Option<EventId>)>,
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
}

impl Watches {
    /// The watch of this channel, and whether it is new: then the driver is to subscribe.
    pub(super) fn enter(&self, channel: &Arc<str>, meta: &Arc<str>) -> (Arc<Watch>, bool) {
        let mut by_channel = lock(&self.by_channel);
        let watch = by_channel.entry(Arc::clone(channel)).or_insert_with(|| {
            Arc::new(Watch {
                channel: Arc::clone(channel),
                meta: Arc::clone(meta),
                bell: Bell::new(),
                state: Mutex::default(),
            })
        });
        let mut state = lock(&watch.state);
        state.watchers += 1;
        (Arc::clone(watch), state.watchers == 1)
    }

    /// The opposite of [`enter`](Self::enter). Says whether nobody is left.
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
    /// "Look again": something may have changed.
    pub(super) fn ring(&self) {
        lock(&self.state).rings += 1;
        self.bell.ring();
    }

    /// The connection is gone. Nobody is woken: there is nothing to see before another one is there.
    pub(super) fn disconnect(&self) {
        lock(&self.state).subscribed = Subscribed::NotYet;
    }

    /// What the server answered. Those who wait look again: announcements may have been missed.
    pub(super) fn subscribe(&self, answer: Result<(), RedisError>) {
        lock(&self.state).subscribed =
            answer.map_or_else(Subscribed::Refused, |()| Subscribed::Yes);
        self.ring();
    }

    /// Takes a head that was read without anybody asking for it, and rings if it is another.
    pub(super) fn check(&self, head: Option<EventId>) {
        let known = self.head();
        if known.is_some_and(|known| known != head) {
            self.ring();
        }
    }

    /// How often the bell rang, if every change rings it.
    pub(super) fn rings(&self) -> Option<u64> {
        let state = lock(&self.state);
        matches!(state.subscribed, Subscribed::Yes).then_some(state.rings)
    }

    /// Remembers the head that was read when the bell had rung so often.
    pub(super) fn know(&self, rings: u64, head: Option<EventId>) {
        let mut state = lock(&self.state);
        if state.rings == rings {
            state.head = Some((rings, head));
        }
    }

    /// The head, if it is known to be still the same.
    pub(super) fn head(&self) -> Option<Option<EventId>> {
        let state = lock(&self.state);
        let (rings, head) = state.head?;
        (matches!(state.subscribed, Subscribed::Yes) && rings == state.rings).then_some(head)
    }

    /// Resolves with a listener of the bell that hears every change from now on.
    pub(super) async fn listen(&self) -> Result<crate::store::Listener<'_>, RedisError> {
        loop {
            let listener = self.bell.listen();
            let subscribed = lock(&self.state).subscribed.clone();
            match subscribed {
                Subscribed::Yes => return Ok(listener),
                Subscribed::Refused(error) => return Err(error),
                Subscribed::NotYet => listener.await,
            }
        }
    }
}
