//! The step object of the fake engine.

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use crate::step::kind::StepKind;
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::state::{Running, State, Stored};
use crate::border;
use crate::step::config::{DelayContext, Retries};
use crate::step::context::{Progress, Reporter, StepContext};
use crate::step::duration::WorkflowDuration;
use crate::step::error::{StepError, StepErrorKind};
use crate::step::output::{ByteStream, JsonCodec, JsonOutput, StepOutput};
use crate::step::rollback::{Rollback, RollbackContext};
use crate::step::{DoStep, Step, WaitForEvent, WaitedEvent};

/// The step object of one lifetime of a [`FakeInstance`](crate::testing::FakeInstance).
#[derive(Clone)]
pub struct FakeStep {
    pub(super) state: Rc<State>,
}

impl Step for FakeStep {
    async fn do_step<T: StepOutput>(&self, step: DoStep<T>) -> Result<T, StepError> {
        let state = &self.state;
        let index = state.call(StepKind::Do, &step.name, "a do step")?;
        let config = step.config.resolve();
        if let Some(rollback) = &step.rollback {
            self.register(index, &step, rollback);
        }
        if let Some(stored) = state.stored(index) {
            return decode(stored);
        }
        let (name, count) = (step.name.clone(), self.count(index));
        let context = |attempt| StepContext::new(&name, count, attempt).with_config(config);
        loop {
            // Steps that begin now do so before any step ends.
            if let Some(due) = state.record(index, |record| record.due).flatten() {
                state.sleep_until(due, index).await?;
                state.record(index, |record| record.due = None);
            }
            let attempt = state.record(index, |record| {
                record.attempts += 1;
                record.attempts
            });
            let attempt = attempt.unwrap_or(1);
            let reporter = Rc::new(Recorder {
                state: Rc::clone(state),
                index,
            });
            let ran = self.attempt(&step, count, context(attempt).with_reporter(reporter));
            let error = match ran.await {
                Ok(stored) => return decode(state.end(index, stored).await),
                Err(error) => error,
            };
            let last =
                error.kind() == StepErrorKind::NonRetryable || attempt > config.retries.limit;
            let failed = DelayContext::new(context(attempt), error);
            let default = Retries::new(config.retries.limit, Duration::from_secs(1));
            let retries = step.config.retries.as_ref().unwrap_or(&default);
            let delay = match last {
                true => None,
                false => Some(retries.delay_after(&failed).await),
            };
            let error = failed.error;
            let (kind, message) = match delay {
                Some(Ok(delay)) => {
                    let due = state.now.get() + delay;
                    state.record(index, |record| record.due = Some(due));
                    state.changed();
                    continue;
                }
                // The engine's own message. It does not retry the step.
                Some(Err(error)) => (
                    StepErrorKind::NonRetryable,
                    format!(
                        "The delay function for step \"{name}-{count}\" threw an error: {error}"
                    ),
                ),
                None => (error.kind(), error.message().to_owned()),
            };
            let stored = Stored::Error(kind, message);
            return decode(state.end(index, stored).await);
        }
    }

    async fn sleep(
        &self,
        name: &str,
        duration: impl Into<WorkflowDuration>,
    ) -> Result<(), StepError> {
        let duration = Duration::from(duration.into());
        let index = self
            .state
            .call(StepKind::Sleep, name, &format!("{duration:?} long"))?;
        self.wait(index, self.state.now.get() + duration).await
    }

    async fn sleep_until(&self, name: &str, time: SystemTime) -> Result<(), StepError> {
        let since = time.duration_since(self.state.began).unwrap_or_default();
        let detail = format!("until {since:?} after the beginning");
        let index = self.state.call(StepKind::SleepUntil, name, &detail)?;
        self.wait(index, time).await
    }

    async fn wait_for_event<T>(
        &self,
        name: &str,
        options: WaitForEvent,
    ) -> Result<WaitedEvent<T>, StepError>
    where
        T: DeserializeOwned + 'static,
    {
        let state = &self.state;
        let event_type = options.event_type;
        let detail = format!("for {event_type:?}");
        let index = state.call(StepKind::WaitForEvent, name, &detail)?;
        let stored = match state.stored(index) {
            Some(stored) => stored,
            None => {
                let timeout = options.timeout.unwrap_or(WorkflowDuration::hours(24));
                let stored = self.event(index, &event_type, timeout.into()).await?;
                state.end(index, stored).await
            }
        };
        match stored {
            Stored::Event { payload, sent } => {
                let payload = border::read_value(&payload)
                    .map_err(|error| error.into_wait_error(name, false))?;
                Ok(WaitedEvent::new(event_type, payload, sent))
            }
            Stored::Error(kind, message) => Err(StepError::with_kind(kind, message)),
            Stored::Value(_) | Stored::Bytes(_) => Err(StepError::new("no event was stored")),
        }
    }
}

impl FakeStep {
    fn count(&self, index: usize) -> u32 {
        self.state.record(index, |record| record.count).unwrap_or(1)
    }

    /// Runs one attempt, scripted or live.
    async fn attempt<T: StepOutput>(
        &self,
        step: &DoStep<T>,
        count: u32,
        context: StepContext,
    ) -> Result<Stored, StepError> {
        let state = &self.state;
        let failure = {
            let mut failures = state.failures.borrow_mut();
            failures.get_mut(&step.name).and_then(VecDeque::pop_front)
        };
        let result = {
            let results = state.results.borrow();
            let of_name = results.get(&step.name);
            of_name.and_then(|values| values.get(count as usize - 1).or(values.back()).cloned())
        };
        let _running = Running::new(state);
        // Steps that are called at the same time all begin before one of them ends.
        state.pass().await;
        if let Some((kind, message)) = failure {
            return Err(StepError::with_kind(kind, message));
        }
        if let Some(value) = result {
            return value
                .map(Stored::Value)
                .map_err(|refused| StepError::with_kind(StepErrorKind::NonRetryable, refused));
        }
        let output = step.callback.call(context).await?;
        Ok(match output.encode(&JsonCodec)? {
            JsonOutput::Value(value) => Stored::Value(value),
            JsonOutput::Stream(stream) => Stored::Bytes(stream.read_all().await?),
        })
    }

    /// Sleeps to the end of the sleep.
    async fn wait(&self, index: usize, due: SystemTime) -> Result<(), StepError> {
        let state = &self.state;
        if state.stored(index).is_some() {
            return Ok(());
        }
        // The end that the sleep had when it began.
        let due = state.record(index, |record| *record.due.get_or_insert(due));
        state
            .sleep_until(due.unwrap_or(state.now.get()), index)
            .await?;
        state.pass().await;
        state.end(index, Stored::Value(Value::Null)).await;
        Ok(())
    }

    /// Waits for the event of a wait, or returns an error at its timeout.
    async fn event(
        &self,
        index: usize,
        event_type: &str,
        timeout: Duration,
    ) -> Result<Stored, StepError> {
        let state = &self.state;
        let now = state.now.get();
        let end = state.record(index, |record| *record.due.get_or_insert(now + timeout));
        let end = end.unwrap_or(now);
        loop {
            state.pass().await;
            let next = {
                let events = state.events.borrow();
                let of_type = events
                    .iter()
                    .enumerate()
                    .filter(|(_, event)| event.1 == event_type);
                of_type
                    .min_by_key(|(_, event)| event.0)
                    .map(|(at, event)| (at, event.0))
            };
            match next {
                Some((at, sent)) if sent <= state.now.get().min(end) => {
                    let (sent, _, payload) = state.events.borrow_mut().remove(at);
                    return Ok(match payload {
                        Ok(payload) => Stored::Event { payload, sent },
                        Err(refused) => Stored::Error(StepErrorKind::NonRetryable, refused),
                    });
                }
                Some((_, sent)) if sent < end => state.sleep_until(sent, index).await?,
                _ if state.now.get() >= end => {
                    let message = format!("Execution timed out after {}ms", timeout.as_millis());
                    return Ok(Stored::Error(StepErrorKind::TimedOut, message));
                }
                _ => state.sleep_until(end, index).await?,
            }
        }
    }

    fn register<T: StepOutput>(&self, index: usize, step: &DoStep<T>, rollback: &Rollback<T>) {
        let (state, rollback) = (Rc::clone(&self.state), rollback.clone());
        let (name, step_config) = (step.name.clone(), step.config.resolve());
        let config = rollback.config.resolve();
        let run = move |error: StepError| -> LocalBoxFuture<'static, Result<(), StepError>> {
            let (state, rollback, name) = (Rc::clone(&state), rollback.clone(), name.clone());
            Box::pin(async move {
                let mut attempt = 0;
                loop {
                    attempt += 1;
                    let record = state.record(index, |record| record.clone());
                    let (count, attempts, stored) = record
                        .map(|record| (record.count, record.attempts, record.stored))
                        .unwrap_or_default();
                    let output = match stored {
                        Some(Stored::Error(..)) | None => None,
                        Some(stored) => decode(stored).ok(),
                    };
                    let ctx = StepContext::new(&name, count, attempts).with_config(step_config);
                    let error = StepError::with_kind(error.kind(), error.message());
                    match rollback
                        .call(RollbackContext::new(ctx, error, output))
                        .await
                    {
                        Err(error)
                            if attempt <= config.retries.limit
                                && error.kind() != StepErrorKind::NonRetryable => {}
                        result => return result,
                    }
                }
            })
        };
        let mut lifetime = self.state.lifetime.borrow_mut();
        lifetime.rollbacks.push((index, Box::new(run)));
    }
}

impl fmt::Debug for FakeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeStep").finish_non_exhaustive()
    }
}

fn decode<T: StepOutput>(stored: Stored) -> Result<T, StepError> {
    let output = match stored {
        Stored::Value(value) => JsonOutput::Value(value),
        Stored::Bytes(bytes) => JsonOutput::Stream(ByteStream::from(bytes)),
        Stored::Event { payload, .. } => JsonOutput::Value(payload),
        Stored::Error(kind, message) => return Err(StepError::with_kind(kind, message)),
    };
    T::decode(&JsonCodec, output)
}

struct Recorder {
    state: Rc<State>,
    index: usize,
}

impl Reporter for Recorder {
    fn progress(&self, progress: Progress) {
        self.state
            .record(self.index, |record| record.progress.push(progress));
    }

    fn set_attribute(&self, key: String, value: Value) {
        self.state
            .record(self.index, |record| record.attributes.insert(key, value));
    }
}
