//! The object's work that is due later: it deletes its log, and asks the platform how the run is. Runs in the object.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cloudflare_workflows::{Runtime, WorkersRuntime, Workflow};
use futures_util::future::LocalBoxFuture;

use super::alarm_time::arm;
#[cfg(any(feature = "otlp", feature = "index"))]
use super::alarm_time::{earlier_alarm, now, others_due};
#[cfg(any(feature = "otlp", feature = "index"))]
use super::due::{LogStands, Standing, Then};
use super::error::{JsResult, to_js};
use super::events_object::EventsObject;
use super::settle::{self, Asked, Pending};
#[cfg(any(feature = "otlp", feature = "index"))]
use crate::clock;
use crate::cloudflare::instance_end::instance_end;

impl EventsObject {
    /// Does the work that the alarm was set for: deletes the log, or asks the platform how the run is.
    pub(super) async fn alarm(&self) -> JsResult<()> {
        #[cfg(any(feature = "otlp", feature = "index"))]
        {
            let waits: LocalBoxFuture<'_, _> = Box::pin(self.was_for_others());
            if waits.await? {
                return Ok(());
            }
        }
        if !self.was_for_settling().await? {
            self.expire().await?;
            let settled: LocalBoxFuture<'_, _> = Box::pin(self.settle());
            settled.await?;
        }
        #[cfg(feature = "index")]
        self.tell_index().await?;
        #[cfg(any(feature = "otlp", feature = "index"))]
        {
            let storage = self.state.storage();
            if let Some(at) = others_due(&storage).await? {
                earlier_alarm(&storage, at).await?;
            }
        }
        Ok(())
    }

    /// Does the alarm's work beside the log itself: exports of the run's trace, and the index of runs. Returns true
    /// if the alarm has nothing else to do.
    #[cfg(any(feature = "otlp", feature = "index"))]
    async fn was_for_others(&self) -> JsResult<bool> {
        #[cfg(feature = "otlp")]
        let exports = self.exports().await?;
        #[cfg(not(feature = "otlp"))]
        let exports: Option<Option<u64>> = None;
        #[cfg(feature = "index")]
        let index = match self.config.index {
            Some(_) => Some(self.tell_index().await?),
            None => None,
        };
        #[cfg(not(feature = "index"))]
        let index: Option<Option<u64>> = None;
        if exports.is_none() && index.is_none() {
            return Ok(false);
        }
        let storage = self.state.storage();
        // It may have changed meanwhile.
        let state = self.log.state().map_err(to_js)?;
        let retention = self.config.retention.age;
        let standing = Standing {
            export: exports.flatten(),
            index: index.flatten(),
            settle: Pending::due_at(&storage).await?,
            log: match (state.empty, state.ended, state.newest.zip(retention)) {
                (true, _, _) => LogStands::Gone,
                (false, false, _) => LogStands::GoesOn,
                (false, true, expires) => LogStands::Ended(
                    expires.map(|(newest, retention)| clock::milliseconds(newest + retention)),
                ),
            },
            now: now(),
        };
        match standing.then() {
            Then::GoOn => Ok(false),
            Then::ForgetAndGoOn => {
                #[cfg(feature = "otlp")]
                if standing.export.is_some() {
                    self.forget_export().await?;
                }
                Ok(false)
            }
            Then::Wait(at) => {
                if state.ended {
                    Pending::clear(&storage).await?;
                }
                // Replaces an alarm that was set for a failed try.
                match at.map(|at| Duration::from_millis(at.saturating_sub(now()))) {
                    Some(delay) => storage.set_alarm(delay).await?,
                    None => storage.delete_alarm().await?,
                }
                Ok(true)
            }
        }
    }

    /// Notes that a lifetime has ended without the run's end, and schedules the question to the platform.
    pub(super) async fn lifetime_ended(&self) -> JsResult<()> {
        self.has_lifetime.store(false, Ordering::Relaxed);
        self.settle_later().await
    }

    /// Returns whether the alarm was set to ask how the run is, and the run has ended meanwhile. Such an alarm
    /// must not delete the log.
    async fn was_for_settling(&self) -> JsResult<bool> {
        let storage = self.state.storage();
        let state = self.log.state().map_err(to_js)?;
        if !state.ended || Pending::due(&storage).await?.is_none() {
            return Ok(false);
        }
        Pending::clear(&storage).await?;
        let age = state
            .newest
            .map(|newest| WorkersRuntime.now().duration_since(newest));
        let age = age.and_then(Result::ok).unwrap_or_default();
        let Some(retention) = self.config.retention.age else {
            return Ok(true);
        };
        let left = retention.saturating_sub(age);
        if left < Duration::from_secs(1) {
            return Ok(false);
        }
        arm(&storage, left).await?;
        Ok(true)
    }

    /// Clears the storage after an announcement was taken back, if there was nothing before it.
    pub(super) async fn clear(&self) -> JsResult<()> {
        let store = self.log.target().store();
        if store.emptied().map_err(to_js)?.is_some() {
            return self.expire().await;
        }
        self.delete_storage().await
    }

    /// Schedules the question to the platform how the run is, if its workflow is in the config.
    async fn settle_later(&self) -> JsResult<()> {
        let object = self.state.id().name();
        let Some(name) = object.filter(|name| self.workflow_of(name).is_some()) else {
            return Ok(());
        };
        Pending::new(name)
            .schedule(&self.state.storage(), &self.log)
            .await
    }

    /// Asks the platform how the run is, if that is due, and ends the log of a run that is over.
    async fn settle(&self) -> JsResult<()> {
        let storage = self.state.storage();
        let Some(pending) = Pending::due(&storage).await? else {
            return Ok(());
        };
        let asks = self.workflow_of(&pending.object);
        let state = self.log.state().map_err(to_js)?;
        let goes_on = self.has_lifetime.load(Ordering::Relaxed) || state.ended || state.empty;
        let asks = asks.filter(|_| !goes_on);
        let Some((workflow, binding, instance)) = asks else {
            return Pending::clear(&storage).await;
        };
        let workflow = Asked {
            binding: Workflow::from_env(&self.env, binding).map_err(worker::Error::from)?,
            name: workflow,
            instance,
        };
        if settle::end_if_over(&self.log, &workflow).await? {
            self.held_streams.deliver(self.log.target());
            let state = self.log.state().map_err(to_js)?;
            Pending::clear(&storage).await?;
            if !state.empty {
                return self.expire_later(true).await;
            }
            self.clear().await?;
            #[cfg(feature = "index")]
            self.index_removed().await?;
            return Ok(());
        }
        pending.schedule(&storage, &self.log).await
    }

    /// Returns whether the instance may still be under way: unless its workflow is in the config, and the platform says
    /// that it is over.
    async fn may_go_on(&self) -> JsResult<bool> {
        let name = self.state.id().name().unwrap_or_default();
        let Some((_, binding, instance)) = self.workflow_of(&name) else {
            return Ok(true);
        };
        let binding = Workflow::from_env(&self.env, binding).map_err(worker::Error::from)?;
        let end = instance_end(&binding, instance).await;
        Ok(end.map_err(worker::Error::from)?.is_none())
    }

    /// Returns the workflow, its binding and the instance of the object of this name, if the workflow is in the
    /// config.
    fn workflow_of<'a>(&self, object: &'a str) -> Option<(&'a str, &'static str, &'a str)> {
        let (workflow, instance) = object.split_once('/')?;
        let known = |(name, _): &&(&str, &str)| *name == workflow;
        let (_, binding) = self.config.workflows.iter().find(known)?;
        Some((workflow, *binding, instance))
    }

    /// Sets the alarm that deletes a log that has ended. Also if it ended before, since its alarm may have been lost;
    /// but a repeated end does not put off the alarm.
    pub(super) async fn expire_later(&self, has_just_ended: bool) -> JsResult<()> {
        #[cfg(feature = "otlp")]
        if has_just_ended {
            self.export_later().await;
        }
        let Some(retention) = self.config.retention.age else {
            return Ok(());
        };
        let storage = self.state.storage();
        if has_just_ended || storage.get_alarm().await?.is_none() {
            arm(&storage, retention).await?;
            // A report to the index may have become due meanwhile.
            #[cfg(feature = "index")]
            if let Some(at) = others_due(&storage).await? {
                earlier_alarm(&storage, at).await?;
            }
        }
        Ok(())
    }

    /// Deletes the log, and later the row that is left of it, unless a further run has begun since the alarm was set:
    /// the end of that run sets another alarm. The row of a log that was deleted while its run was under way stays as
    /// long as the run [may go on](Self::may_go_on).
    async fn expire(&self) -> JsResult<()> {
        let store = self.log.target().store();
        let storage = self.state.storage();
        if self.config.retention.age.is_some() && store.is_closed().map_err(to_js)? {
            // The alarm first: a row that is left for ever is worse than a useless alarm.
            storage.set_alarm(self.config.ids_retention).await?;
            self.log.expire().map_err(to_js)?;
            self.kept_snapshot.clear();
            self.held_streams.deliver(self.log.target());
            return Ok(());
        }
        let Some(emptied) = store.emptied().map_err(to_js)? else {
            // Perhaps only a generation of links is left, which has expired by now.
            return match store.head().map_err(to_js)? {
                None => self.delete_storage().await,
                Some(_) => Ok(()),
            };
        };
        let age = WorkersRuntime.now().duration_since(emptied);
        // The runtime may call again for an alarm that has done its work.
        match self
            .config
            .ids_retention
            .checked_sub(age.unwrap_or_default())
        {
            Some(rest) if !rest.is_zero() => storage.set_alarm(rest).await?,
            // Without the row, a lifetime after a long sleep would take the log for a new one, and tell all of its
            // run again.
            _ if self.log.is_deleted().map_err(to_js)? && self.may_go_on().await? => {
                storage.set_alarm(self.config.ids_retention).await?;
            }
            _ => {
                self.delete_storage().await?;
                store.forget();
                self.held_streams.deliver(self.log.target());
            }
        }
        Ok(())
    }
}
