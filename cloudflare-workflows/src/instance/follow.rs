//! Following the platform's own log of an instance, whatever happens to its engine.

use std::fmt;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};

use super::event::{WorkflowInstanceEvent, WorkflowInstanceEventData as Data};
use super::event_type::WorkflowInstanceEventType as Type;
use super::ids::InstanceEventId;
use super::options::SubscribeOptions;
use crate::runtime::Runtime;

/// The platform's own log of one instance. Lives on one thread.
#[allow(async_fn_in_trait, reason = "workflows live on one thread")]
pub trait InstanceLog {
    /// Why the log could not be read.
    type Error: fmt::Display;
    /// An open subscription; dropping it ends it.
    type Events: InstanceEvents<Error = Self::Error>;

    /// What `WorkflowInstance.subscribe()` does: the stored events after the cursor, then live
    /// ones, to the terminal event.
    ///
    /// # Errors
    /// When the engine cannot be reached.
    async fn subscribe(&self, options: &SubscribeOptions) -> Result<Self::Events, Self::Error>;

    /// Whether the run is over, so that the log has its terminal event.
    ///
    /// # Errors
    /// When the engine cannot be reached.
    async fn has_ended(&self) -> Result<bool, Self::Error>;

    /// Whether the instance exists no longer, so that asking again is of no use.
    fn is_gone(&self, error: &Self::Error) -> bool;
}

/// An open subscription to an [`InstanceLog`].
#[allow(async_fn_in_trait, reason = "workflows live on one thread")]
pub trait InstanceEvents {
    /// Why the next event could not be read.
    type Error;

    /// The next event; `None` when the subscription is over.
    ///
    /// # Errors
    /// When the engine was ended under it, as a pause, a restart or a deploy does.
    async fn next(&mut self) -> Result<Option<WorkflowInstanceEvent>, Self::Error>;
}

/// Reads an [`InstanceLog`] to its end over as many subscriptions as that takes: each event once
/// and in order.
///
/// The engine of an instance is ended and begun again by pauses, deploys and crashes, and its
/// subscriptions with it; then this subscribes again behind the last event, having looked whether
/// it is still there. It is not if the instance was restarted, since the platform's log begins
/// again then, numbered from 1.
pub struct InstanceFollower<L: InstanceLog, R> {
    log: L,
    runtime: R,
    options: SubscribeOptions,
    events: Option<L::Events>,
    last: Option<Seen>,
    /// The first `workflow_running` of the log, if it was read from the beginning.
    running: Option<Seen>,
    from_beginning: bool,
    /// When the latest subscription began.
    opened: Option<SystemTime>,
    failures: u32,
    ended: bool,
}

/// What an [`InstanceFollower`] reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Followed {
    /// The next event.
    Event(WorkflowInstanceEvent),
    /// The instance was restarted: what follows is the new log, from its beginning.
    Restarted,
}

/// An event that was read, to know it again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    event_id: InstanceEventId,
    timestamp: SystemTime,
    event_type: String,
}

/// Failures in a row before the log is given up.
const TRIES: u32 = 6;
/// A subscription that has lasted so long was none. An engine that is out of memory for hours may
/// end a silent one many times.
const CALM: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The engine answers at once for an event that its log has, and for one beyond its head it waits
/// until there is one. There is no question whose answer tells the two apart, so time must.
const ANSWER_TIME: Duration = Duration::from_secs(2);

impl<L: InstanceLog, R: Runtime> InstanceFollower<L, R> {
    /// Reads what the options say.
    ///
    /// Nothing is asked of the log until [`next`](Self::next).
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

    /// As [`new`](Self::new), and subscribes at once, to know whether that can be done.
    ///
    /// # Errors
    /// The log's.
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

    /// Goes on after this event, with a subscription that does, in a log with this first
    /// `workflow_running`.
    #[doc(hidden)] // For the crate `ssetarget`.
    pub fn resume(
        &mut self,
        event: &WorkflowInstanceEvent,
        running: Option<&WorkflowInstanceEvent>,
        events: L::Events,
    ) {
        self.last = Some(Seen::from(event));
        self.running = running.map(Seen::from);
        // Else subscribed to with the filter, when it is needed.
        self.events = self.options.filter.is_none().then_some(events);
    }

    /// Waits for the next event. `None` after the terminal one, also where the filter hides it.
    ///
    /// # Errors
    /// The log's, once it has failed six times in a row, within about two seconds, or the instance
    /// is gone.
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
                // Without the terminal event: the engine was ended, in whatever way.
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

    /// A subscription to what follows, `None` if the instance was restarted: then the last event
    /// is not there any more, or, where the restart kept it, the run's begin is another.
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

    /// Always with terminal events, which tell an end from an accident.
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

/// The event with this id and a subscription that continues after it, `None` if there is none.
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

/// The first `workflow_running`, if there is one already.
pub async fn first_running<L: InstanceLog>(
    log: &L,
    runtime: &impl Runtime,
) -> Result<Option<WorkflowInstanceEvent>, L::Error> {
    let running = SubscribeOptions::new().filter([Type::WorkflowRunning]);
    at_once(runtime, &mut log.subscribe(&running).await?).await
}

/// The next event, if there is one already.
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
