//! The platform's own log of an instance as numbered events for viewers.

use std::fmt;
use std::time::SystemTime;

use cloudflare_workflows::__private::{at_once, find, first_running};
use cloudflare_workflows::{
    Followed, InstanceEventId, InstanceEvents, InstanceFollower, InstanceLog, Runtime,
    SubscribeOptions, WorkflowInstanceEvent, WorkflowInstanceEventData as Data,
    WorkflowInstanceEventType as Type,
};

use crate::clock;
use crate::event::{Cursor, EventId, Reset};

/// A reader of an [`InstanceLog`] that gives its events ids which are good for ever.
///
/// The platform numbers the events of an instance from 1, and again from 1 when it is restarted,
/// so that a client which comes back with such a number after a restart would miss all that has
/// happened, or wait for ever. The ids that are given here tell the two logs apart: see
/// [`InstanceLogIds`].
pub struct InstanceFeed<L: InstanceLog, R> {
    follower: InstanceFollower<L, R>,
    log: L,
    /// As it was asked for; `workflow_running` is read besides.
    filter: Option<Vec<Type>>,
    ids: Option<InstanceLogIds>,
    since: Option<SystemTime>,
    last: Option<EventId>,
    reset: Option<EventId>,
    next: Option<WorkflowInstanceEvent>,
    ended: bool,
}

/// What an [`InstanceFeed`] reads.
#[derive(Clone, Debug, PartialEq)]
pub enum InstanceFeedItem {
    /// The next event and its id.
    Event(EventId, WorkflowInstanceEvent),
    /// The position that was asked for, or held, is not in the log, which is usually that of a run
    /// begun by a restart; what follows is that log from its beginning. `head` is not known.
    Reset(Reset),
}

impl<L: InstanceLog + Clone, R: Runtime + Clone> InstanceFeed<L, R> {
    /// A reader that starts at `cursor` and gives events of the types in `filter`, `None` for all.
    /// Terminal events are given whatever the filter is: a client could not tell the end without.
    ///
    /// A cursor in time goes by the events' own times.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn start(
        log: L,
        runtime: R,
        cursor: Cursor,
        filter: Option<Vec<Type>>,
    ) -> Result<Self, L::Error> {
        let mut feed = Self {
            follower: InstanceFollower::new(log.clone(), runtime.clone(), read(&filter)),
            log,
            filter,
            ids: None,
            since: None,
            last: None,
            reset: None,
            next: None,
            ended: false,
        };
        match cursor {
            Cursor::Beginning => feed.follower.connect().await?,
            Cursor::Since(time) => feed.begin_at(&runtime, time).await?,
            Cursor::Latest => feed.begin_at(&runtime, runtime.now()).await?,
            Cursor::After(id) => feed.resume(&runtime, id).await?,
        }
        Ok(feed)
    }

    /// Whether the position asked for is that of the terminal event: then a client is to be told
    /// with a `204` that there is no more to come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Waits for the next event. `None` after the terminal one.
    ///
    /// # Errors
    /// As [`InstanceFollower::next`].
    pub async fn next(&mut self) -> Result<Option<InstanceFeedItem>, L::Error> {
        while !self.ended {
            let event = match self.next.take() {
                Some(event) => event,
                None => match self.follower.next().await? {
                    None => break,
                    Some(Followed::Event(event)) => event,
                    Some(Followed::Restarted) => {
                        self.ids = None;
                        self.reset = self.last.take();
                        continue;
                    }
                },
            };
            let ids = self.numbered(&event).await?;
            let Some(id) = ids.id(event.event_id) else {
                break;
            };
            if let Some(requested) = self.reset.take() {
                let oldest = ids.oldest();
                self.next = Some(event);
                return Ok(Some(InstanceFeedItem::Reset(Reset {
                    requested: Some(requested),
                    oldest,
                    head: None,
                })));
            }
            self.last = Some(id);
            self.ended = event.is_terminal();
            let visible = self
                .filter
                .as_ref()
                .is_none_or(|filter| Type::of(&event.data).is_some_and(|of| filter.contains(&of)));
            let late_enough = self.since.is_none_or(|since| event.timestamp >= since);
            if late_enough && (visible || self.ended) {
                return Ok(Some(InstanceFeedItem::Event(id, event)));
            }
        }
        self.ended = true;
        Ok(None)
    }

    /// The ids of the log that this event, the next of it, is from.
    async fn numbered(
        &mut self,
        event: &WorkflowInstanceEvent,
    ) -> Result<InstanceLogIds, L::Error> {
        let mut ids = match self.ids {
            Some(ids) => ids,
            None if self.filter.is_none() => InstanceLogIds::new(event),
            // The first event of the log may have been filtered out.
            None => {
                let mut events = self.log.subscribe(&SubscribeOptions::new()).await?;
                let first = events.next().await?;
                InstanceLogIds::new(first.as_ref().unwrap_or(event))
            }
        };
        ids.see(event);
        self.ids = Some(ids);
        Ok(ids)
    }

    /// With the events from this time on, unless the log ended before it.
    async fn begin_at(&mut self, runtime: &R, since: SystemTime) -> Result<(), L::Error> {
        self.since = Some(since);
        if self.log.has_ended().await? {
            let terminal = SubscribeOptions::new().filter(Type::TERMINAL);
            let mut events = self.log.subscribe(&terminal).await?;
            let end = at_once(runtime, &mut events).await?;
            self.ended = end.is_some_and(|end| end.timestamp < since);
        }
        Ok(())
    }

    /// Behind the event with this id, if the log has it, else at the beginning with a reset.
    async fn resume(&mut self, runtime: &R, requested: EventId) -> Result<(), L::Error> {
        let mut events = self.log.subscribe(&SubscribeOptions::new()).await?;
        let first = at_once(runtime, &mut events).await?;
        drop(events);
        if let Some(first) = first {
            let mut ids = InstanceLogIds::new(&first);
            let running = first_running(&self.log, runtime).await?;
            if let Some(running) = &running {
                ids.see(running);
            }
            if let Some(position) = ids.position(requested)
                && let Some((event, events)) = find(&self.log, runtime, position).await?
            {
                self.ids = Some(ids);
                self.last = Some(requested);
                self.ended = event.is_terminal();
                self.follower.resume(&event, running.as_ref(), events);
                return Ok(());
            }
        }
        self.reset = Some(requested);
        Ok(())
    }
}

/// What is read for this to be given.
fn read(filter: &Option<Vec<Type>>) -> SubscribeOptions {
    let mut options = SubscribeOptions::new();
    options.filter = filter.clone().map(|mut types| {
        types.extend(Type::TERMINAL);
        types.push(Type::WorkflowRunning);
        types
    });
    options
}

impl<L: InstanceLog, R> fmt::Debug for InstanceFeed<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceFeed")
            .field("follower", &self.follower)
            .field("ids", &self.ids)
            .finish_non_exhaustive()
    }
}

/// The ids that the events of an instance have for viewers: `1000 × time + eventId`, where `time`
/// is that of an event which marks the log's beginning, in milliseconds since 1970.
///
/// - **Marks** are the first event of all and, from it on, the first `workflow_running`. A restart
///   gives the log a new first event, and a restart from a step, which keeps the log up to that step,
///   a new first `workflow_running`. So the ids of a log are its own.
/// - **Stateless**: whoever reads the two marks computes the same ids.
/// - **In order**: ids grow along the log, and those of a later log of the instance are greater than
///   those of all earlier ones, since no engine stores a thousand events in a millisecond.
/// - **Collisions** would take a restart within the millisecond in which the previous run began. Then
///   the two logs have the same ids, and a client which saw the first and was not connected during the
///   restart goes on in the second behind as many events as it has seen.
/// - **Range**: positive and below 2^53 until the year 2255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceLogIds {
    first: Mark,
    running: Option<Mark>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    event_id: InstanceEventId,
    milliseconds: u64,
}

impl InstanceLogIds {
    /// Ids per millisecond.
    const RATE: u64 = 1000;

    /// Those of the log that begins with this event.
    #[must_use]
    pub fn new(first: &WorkflowInstanceEvent) -> Self {
        let mut ids = Self {
            first: Mark::from(first),
            running: None,
        };
        ids.see(first);
        ids
    }

    /// Takes note of an event of the log. They must come in order, and none before the first
    /// `workflow_running` may be left out if that is to be found.
    pub fn see(&mut self, event: &WorkflowInstanceEvent) {
        if self.running.is_none() && event.data == Data::WorkflowRunning {
            let mut mark = Mark::from(event);
            // In order even if the clock was set back.
            mark.milliseconds = mark.milliseconds.max(self.first.milliseconds);
            self.running = Some(mark);
        }
    }

    /// The id of the event that the platform numbers so. `None` if it is too great.
    #[must_use]
    pub fn id(&self, event_id: InstanceEventId) -> Option<EventId> {
        let begun = |mark: &Mark| event_id >= mark.event_id;
        let mark = self.running.filter(begun).unwrap_or(self.first);
        EventId::new(mark.base().checked_add(event_id.get())?)
    }

    /// The platform's number of the event with this id, `None` if it is not one of this log. There
    /// need not be such an event yet.
    #[must_use]
    pub fn position(&self, id: EventId) -> Option<InstanceEventId> {
        [self.running, Some(self.first)]
            .into_iter()
            .flatten()
            .filter_map(|mark| InstanceEventId::new(id.get().checked_sub(mark.base())?))
            .find(|position| self.id(*position) == Some(id))
    }

    /// The id of the first event.
    #[must_use]
    pub fn oldest(&self) -> Option<EventId> {
        self.id(self.first.event_id)
    }
}

impl Mark {
    fn base(&self) -> u64 {
        self.milliseconds.saturating_mul(InstanceLogIds::RATE)
    }
}

impl From<&WorkflowInstanceEvent> for Mark {
    fn from(event: &WorkflowInstanceEvent) -> Self {
        Self {
            event_id: event.event_id,
            milliseconds: clock::milliseconds(event.timestamp),
        }
    }
}

/// The position in the platform's log of an instance, as one in a log of ours.
impl From<InstanceEventId> for EventId {
    fn from(id: InstanceEventId) -> Self {
        // Both are from 1 to 2^53 - 1.
        Self::new(id.get()).unwrap_or(Self::FIRST)
    }
}
