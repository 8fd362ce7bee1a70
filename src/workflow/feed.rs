//! Reads the platform's own log of an instance as numbered events for viewers.

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

/// Reads an [`InstanceLog`] and gives its events ids that stay valid over restarts.
///
/// The platform numbers the events of an instance from 1, and again from 1 after a restart. A
/// client that came back with such a number after a restart would miss events, or wait for ever.
/// The ids given here distinguish the logs of the runs: see [`InstanceLogIds`].
pub struct InstanceFeed<L: InstanceLog, R> {
    follower: InstanceFollower<L, R>,
    log: L,
    /// The filter as requested; `workflow_running` and terminal events are read besides.
    filter: Option<Vec<Type>>,
    ids: Option<InstanceLogIds>,
    since: Option<SystemTime>,
    last: Option<EventId>,
    reset: Option<EventId>,
    next: Option<WorkflowInstanceEvent>,
    ended: bool,
}

/// An item that an [`InstanceFeed`] returns.
#[derive(Clone, Debug, PartialEq)]
pub enum InstanceFeedItem {
    /// The next event and its id.
    Event(EventId, WorkflowInstanceEvent),
    /// The requested or current position is not in the log, usually because a restart began another
    /// run. The log follows from its beginning. `head` is not known.
    Reset(Reset),
}

impl<L: InstanceLog + Clone, R: Runtime + Clone> InstanceFeed<L, R> {
    /// Starts a reader at `cursor`. It returns events of the types in `filter`; `None` means all.
    /// Terminal events are returned whatever the filter is, since a client could not detect the end
    /// otherwise.
    ///
    /// A cursor in time is compared with the events' own times.
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

    /// Returns whether the requested position is that of the terminal event. Then answer the client
    /// with `204`: nothing more comes.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Waits for the next event. Returns `None` after the terminal one.
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

    /// Returns the ids of the log, with `event`, the next of that log, noted.
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

    /// Starts with the events from this time on, or at the end if the log ended before it.
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

    /// Starts after the event with this id if the log has it, else at the beginning with a reset.
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

/// Returns the options to read with so that `filter` can be served.
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

/// Computes the ids that the events of an instance have for viewers: `1000 × time + eventId`, where
/// `time` is that of a *mark*, an event at the log's beginning, in milliseconds since 1970.
///
/// - **Marks** are the first event of the log and, for events from it on, the first
///   `workflow_running`. A restart gives the log a new first event. A restart from a step keeps the
///   log up to that step and gives it a new first `workflow_running`. So the ids of a log are its
///   own.
/// - **Stateless**: every reader of the two marks computes the same ids.
/// - **In order**: ids grow along the log, and those of a later log of the instance are greater
///   than those of all earlier ones, since no engine stores a thousand events in a millisecond.
/// - **Collisions** need a restart within the millisecond in which the previous run began. Then the
///   two logs have the same ids, and a client that read the first and was not connected during the
///   restart skips as many events of the second as it has seen of the first.
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

    /// Returns the ids of the log that begins with this event.
    #[must_use]
    pub fn new(first: &WorkflowInstanceEvent) -> Self {
        let mut ids = Self {
            first: Mark::from(first),
            running: None,
        };
        ids.see(first);
        ids
    }

    /// Notes an event of the log. Events must come in order. To find the first `workflow_running`,
    /// leave out no event before it.
    pub fn see(&mut self, event: &WorkflowInstanceEvent) {
        if self.running.is_none() && event.data == Data::WorkflowRunning {
            let mut mark = Mark::from(event);
            // Keeps ids in order even if the clock was set back.
            mark.milliseconds = mark.milliseconds.max(self.first.milliseconds);
            self.running = Some(mark);
        }
    }

    /// Returns the id of the platform's event `event_id`, or `None` if it is too great.
    #[must_use]
    pub fn id(&self, event_id: InstanceEventId) -> Option<EventId> {
        let begun = |mark: &Mark| event_id >= mark.event_id;
        let mark = self.running.filter(begun).unwrap_or(self.first);
        EventId::new(mark.base().checked_add(event_id.get())?)
    }

    /// Returns the platform's number for an id, or `None` if the id is not of this log. There need
    /// not be such an event yet.
    #[must_use]
    pub fn position(&self, id: EventId) -> Option<InstanceEventId> {
        [self.running, Some(self.first)]
            .into_iter()
            .flatten()
            .filter_map(|mark| InstanceEventId::new(id.get().checked_sub(mark.base())?))
            .find(|position| self.id(*position) == Some(id))
    }

    /// Returns the id of the first event.
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

/// Converts a position in the platform's log of an instance to one in a log of ours.
impl From<InstanceEventId> for EventId {
    fn from(id: InstanceEventId) -> Self {
        // Both are from 1 to 2^53 - 1.
        Self::new(id.get()).unwrap_or(Self::FIRST)
    }
}
