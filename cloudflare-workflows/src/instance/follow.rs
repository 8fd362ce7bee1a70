//! A reader of the platform's own log of an instance, which survives the restarts of its engine.

use std::fmt;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};

use super::event::{WorkflowInstanceEvent, WorkflowInstanceEventData as Data};
use super::event_type::WorkflowInstanceEventType as Type;
use super::ids::InstanceEventId;
use super::options::SubscribeOptions;
use crate::runtime::Runtime;

/// The platform's own log of one instance, as a source for an [`InstanceFollower`]. It lives on one thread.
#[allow(async_fn_in_trait, reason = "workflows live on one thread")]
pub trait InstanceLog {
    /// The error of a log that cannot be read.
    type Error: fmt::Display;
    /// An open subscription. Dropping it ends it.
    type Events: InstanceEvents<Error = Self::Error>;

    /// Subscribes to the stored events after the cursor and then to live ones, up to the terminal event,
    /// as `WorkflowInstance.subscribe()` does.
    ///
    /// # Errors
    /// When the engine cannot be reached.
    async fn subscribe(&self, options: &SubscribeOptions) -> Result<Self::Events, Self::Error>;

    /// Returns whether the run is over, so that the log has its terminal event.
    ///
    /// # Errors
    /// When the engine cannot be reached.
    async fn has_ended(&self) -> Result<bool, Self::Error>;

    /// Returns whether `error` says that the instance no longer exists, so that trying again is useless.
    fn is_gone(&self, error: &Self::Error) -> bool;
}

/// An open subscription to an [`InstanceLog`].
#[allow(async_fn_in_trait, reason = "workflows live on one thread")]
pub trait InstanceEvents {
    /// The error of an event that cannot be read.
    type Error;

    /// Waits for the next event; `None` when the subscription is over.
    ///
    /// # Errors
    /// When the engine ends during the subscription, by a pause, a restart or a deploy.
    async fn next(&mut self) -> Result<Option<WorkflowInstanceEvent>, Self::Error>;
}

/// Reads an [`InstanceLog`] to its end, each event once and in order, with as many subscriptions as that
/// takes.
///
/// A pause, a deploy or a crash ends the engine of an instance, and its subscriptions with it. The
/// follower then subscribes again after the last event. It first checks that this event is still in the
/// log: a restart of the instance begins a new log, numbered from 1.
pub struct InstanceFollower<L: InstanceLog, R> {
    log: L,
    runtime: R,
    options: SubscribeOptions,
    events: Option<L::Events>,
    last: Option<Seen>,
    /// The first `workflow_running` of the log, if it was read from the beginning.
    running: Option<Seen>,
    from_beginning: bool,
    /// The time at which the latest subscription began.
    opened: Option<SystemTime>,
    failures: u32,
    ended: bool,
}

/// The next thing that an [`InstanceFollower`] reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Followed {
    /// The next event.
    Event(WorkflowInstanceEvent),
    /// The instance was restarted. The events of the new log follow, from its beginning.
    Restarted,
}

/// The parts of an event by which it is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    event_id: InstanceEventId,
    timestamp: SystemTime,
    event_type: String,
}

/// The number of failures in a row after which the follower gives up.
const TRIES: u32 = 6;
/// A subscription that has lasted this long does not count as a failure. An engine may end a silent one
/// many times in hours.
const CALM: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The longest time to wait for an event that is in the log. The engine returns such an event at once,
/// and waits for one beyond the head. No call tells the two apart, so time must.
const ANSWER_TIME: Duration = Duration::from_secs(2);

impl<L: InstanceLog, R: Runtime> InstanceFollower<L, R> {
    /// Returns a follower that has not subscribed yet: the first call of [`next`](Self::next) does.
    pub fn new(log: L, runtime: R, options: SubscribeOptions) -> Self {
        Self {
            log,
            runtime,
            events: None,
            last: None,
            running: None,
            from_beginning: options.cursor.is_none(),
            options,
            opened: None,
            failures: 0,
            ended: false,
        }
    }

    /// Returns a follower that has subscribed.
    ///
    /// # Errors
    /// The error of the log, when it cannot be subscribed to.
    pub async fn start(log: L, runtime: R, options: SubscribeOptions) -> Result<Self, L::Error> {
        let mut follower = Self::new(log, runtime, options);
        follower.connect().await?;
        Ok(follower)
    }

    #[doc(hidden)] // For the crate `ssetarget`.
    pub async fn connect(&mut self) -> Result<(), L::Error> {
        self.events = self.open().await?;
        self.opened = Some(self.runtime.now());
        Ok(())
    }

    /// Goes on after `event` with `events`, a subscription that does, in a log whose first
    /// `workflow_running` is `running`.
    #[doc(hidden)] // For the crate `ssetarget`.
    pub fn resume(
        &mut self,
        event: &WorkflowInstanceEvent,
        running: Option<&WorkflowInstanceEvent>,
        events: L::Events,
    ) {
        self.last = Some(Seen::from(event));
        self.running = running.map(Seen::from);
        // With a filter, the next read subscribes again.
        self.events = self.options.filter.is_none().then_some(events);
    }

    /// Waits for the next event. Returns `None` after the terminal one, also where the filter hides it.
    ///
    /// # Errors
    /// The error of the log, after six failures in a row (about two seconds), or at once if the
    /// instance no longer exists.
    pub async fn next(&mut self) -> Result<Option<Followed>, L::Error> {
        while !self.ended {
            let failure = match self.try_next().await {
                Ok(Some(followed)) => {
                    self.failures = 0;
                    return Ok(Some(followed));
                }
                Ok(None) if self.ended => break,
                Ok(None) if self.last.is_none() && self.log.has_ended().await? => {
                    // Nothing follows the cursor that was given.
                    self.ended = true;
                    break;
                }
                // No terminal event: the engine ended for some reason.
                Ok(None) => None,
                Err(error) => Some(error),
            };
            self.events = None;
            let lasted = self.opened.take().and_then(|opened| {
                let now = self.runtime.now();
                now.duration_since(opened).ok()
            });
            if lasted.is_some_and(|lasted| lasted >= CALM) {
                self.failures = 0;
            }
            self.failures += 1;
            let gone = failure
                .as_ref()
                .is_some_and(|error| self.log.is_gone(error));
            if gone || self.failures >= TRIES {
                self.ended = true;
                return failure.map_or(Ok(None), Err);
            }
            let backoff = FIRST_BACKOFF * 2_u32.pow(self.failures - 1);
            self.runtime.sleep(backoff).await;
        }
        Ok(None)
    }

    async fn try_next(&mut self) -> Result<Option<Followed>, L::Error> {
        loop {
            let events = match &mut self.events {
                Some(events) => events,
                None => match self.open().await? {
                    Some(events) => {
                        self.opened = Some(self.runtime.now());
                        self.events.insert(events)
                    }
                    None => {
                        self.last = None;
                        self.running = None;
                        self.from_beginning = true;
                        self.options.cursor = None;
                        return Ok(Some(Followed::Restarted));
                    }
                },
            };
            let Some(event) = events.next().await? else {
                return Ok(None);
            };
            self.last = Some(Seen::from(&event));
            if self.from_beginning && self.running.is_none() && event.data == Data::WorkflowRunning
            {
                self.running = self.last.clone();
            }
            self.ended = event.is_terminal();
            let wanted =
                self.options.filter.as_ref().is_none_or(|filter| {
                    Type::of(&event.data).is_some_and(|of| filter.contains(&of))
                });
            if wanted {
                return Ok(Some(Followed::Event(event)));
            }
            if self.ended {
                return Ok(None);
            }
        }
    }

    /// Subscribes after the last event. Returns `None` if the instance was restarted: then the last event
    /// is gone, or the restart kept it and the first `workflow_running` differs.
    async fn open(&self) -> Result<Option<L::Events>, L::Error> {
        let Some(last) = &self.last else {
            return self.subscribe(self.options.cursor).await.map(Some);
        };
        if let Some(before) = &self.running {
            let running = first_running(&self.log, &self.runtime).await?;
            if running.is_none_or(|running| Seen::from(&running) != *before) {
                return Ok(None);
            }
        }
        let found = find(&self.log, &self.runtime, last.event_id).await?;
        let same = |(event, events)| (Seen::from(&event) == *last).then_some(events);
        match found.and_then(same) {
            Some(_) if self.options.filter.is_some() => {
                self.subscribe(Some(last.event_id)).await.map(Some)
            }
            found => Ok(found),
        }
    }

    /// Subscribes with the filter and always to terminal events, which tell an end from an accident.
    async fn subscribe(&self, cursor: Option<InstanceEventId>) -> Result<L::Events, L::Error> {
        let mut options = self.options.clone();
        options.cursor = cursor;
        if let Some(filter) = &mut options.filter {
            filter.extend(Type::TERMINAL);
            filter.sort_unstable();
            filter.dedup();
        }
        self.log.subscribe(&options).await
    }
}

impl<L: InstanceLog, R> fmt::Debug for InstanceFollower<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceFollower")
            .field("options", &self.options)
            .field("last", &self.last)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl From<&WorkflowInstanceEvent> for Seen {
    fn from(event: &WorkflowInstanceEvent) -> Self {
        Self {
            event_id: event.event_id,
            timestamp: event.timestamp,
            event_type: event.event_type().to_owned(),
        }
    }
}

/// Finds the event with this id, and returns it with a subscription that continues after it.
pub async fn find<L: InstanceLog>(
    log: &L,
    runtime: &impl Runtime,
    id: InstanceEventId,
) -> Result<Option<(WorkflowInstanceEvent, L::Events)>, L::Error> {
    let mut options = SubscribeOptions::new();
    options.cursor = InstanceEventId::new(id.get() - 1);
    let mut events = log.subscribe(&options).await?;
    let event = at_once(runtime, &mut events).await?;
    let found = event.filter(|event| event.event_id == id);
    Ok(found.map(|event| (event, events)))
}

/// Returns the first `workflow_running`, if there is one already.
pub async fn first_running<L: InstanceLog>(
    log: &L,
    runtime: &impl Runtime,
) -> Result<Option<WorkflowInstanceEvent>, L::Error> {
    let running = SubscribeOptions::new().filter([Type::WorkflowRunning]);
    at_once(runtime, &mut log.subscribe(&running).await?).await
}

/// Returns the next event, if there is one already.
pub async fn at_once<E: InstanceEvents>(
    runtime: &impl Runtime,
    events: &mut E,
) -> Result<Option<WorkflowInstanceEvent>, E::Error> {
    let timeout = pin!(runtime.sleep(ANSWER_TIME));
    match select(pin!(events.next()), timeout).await {
        Either::Left((event, _)) => event,
        Either::Right(_) => Ok(None),
    }
}
