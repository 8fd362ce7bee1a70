//! Reports to the index of runs how the run stands. Runs in the object that has the run's log.

use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cloudflare_workflows::__private::{message, sleep};
use cloudflare_workflows::{Runtime, WorkersRuntime};
use futures_util::future::{Either, select, try_join_all};

use super::alarm_time::{earlier_alarm, now};
use super::error::to_worker;
use super::events_object::EventsObject;
use super::indexing::{Busy, KEY, stored};
use crate::clock;
use crate::cloudflare::js;
use crate::cloudflare::reported::read_estimate;
use crate::event::EventId;
use crate::runs::{MAX_TAGS, Reporter, RunReport, Stands, is_tag};
use crate::store::PageLimit;
use crate::sync::lock;
use crate::workflow::RunEstimate;

/// How long an index may take for its answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl EventsObject {
    /// Schedules a report of the appended events to the index: at once if they are the first or the last of a run,
    /// otherwise some seconds later. Does nothing without an index. Delays nobody.
    pub(super) fn index_later(self: &Rc<Self>, has_ended: bool) {
        if self.config.index.is_none() {
            return;
        }
        let was_armed = self.indexing.is_armed.swap(true, Ordering::Relaxed);
        if was_armed && !has_ended {
            return;
        }
        let object = Rc::clone(self);
        self.cutoff.spawn(async move {
            if let Err(error) = object.tell_index().await {
                // An append, or the alarm if one is set, comes back to it.
                object.indexing.is_armed.store(false, Ordering::Relaxed);
                worker::console_error!("ssetarget: the index of runs cannot be updated: {error}");
            }
        });
    }

    /// Notes the tags of a new instance, before it is reported.
    pub(super) async fn index_tags(&self, tags: &[String]) -> worker::Result<()> {
        if self.config.index.is_none() || tags.is_empty() || !self.has_reporter().await? {
            return Ok(());
        }
        let tags = tags.iter().filter(|tag| is_tag(tag)).take(MAX_TAGS);
        let tags: Vec<String> = tags.cloned().collect();
        let is_new = self.with_reporter(|reporter| {
            let is_new = reporter.tags != tags;
            reporter.tags = tags;
            is_new
        });
        match is_new {
            Some(true) => self.keep_reporter().await,
            _ => Ok(()),
        }
    }

    /// Notes that the log was deleted on request, or was never to exist.
    pub(super) async fn index_removed(&self) -> worker::Result<()> {
        if self.config.index.is_none() || !self.has_reporter().await? {
            return Ok(());
        }
        let is_unknown = self.with_reporter(|reporter| {
            reporter.removed = true;
            reporter.is_unknown()
        });
        match is_unknown {
            Some(true) => self.forget_reporter().await,
            _ => self.keep_reporter().await,
        }
    }

    /// Returns how long the run and its tasks are expected to take, as the index has said.
    pub(super) async fn estimate(&self) -> worker::Result<Option<RunEstimate>> {
        if self.config.index.is_none() || !self.has_reporter().await? {
            return Ok(None);
        }
        let estimate = self.with_reporter(|reporter| reporter.estimate.clone());
        Ok(estimate.flatten())
    }

    /// Tells the index what is due, and sets the alarm for what is to be told later. Returns when that is. `None`
    /// without an index, or if the index knows all.
    pub(super) async fn tell_index(&self) -> worker::Result<Option<u64>> {
        let Some(binding) = self.config.index else {
            return Ok(None);
        };
        if !self.has_reporter().await? {
            self.indexing.is_armed.store(false, Ordering::Relaxed);
            return Ok(None);
        }
        let storage = self.state.storage();
        if self.indexing.is_busy.swap(true, Ordering::Relaxed) {
            // The running report looks again before it ends.
            return Ok(self.with_reporter(|reporter| reporter.due).flatten());
        }
        let _busy = Busy::of(&self.indexing);
        loop {
            let Some(at) = self.wanted()? else {
                self.indexing.is_armed.store(false, Ordering::Relaxed);
                return Ok(None);
            };
            if at > now() {
                self.with_reporter(|reporter| reporter.due = Some(at));
                self.indexing.is_armed.store(true, Ordering::Relaxed);
                self.keep_reporter().await?;
                earlier_alarm(&storage, at).await?;
                return Ok(Some(at));
            }
            self.fold()?;
            // The events are known only now: nothing of them may be urgent.
            if self.wanted()?.is_some_and(|at| at > now()) {
                continue;
            }
            let stands = self.stands()?;
            let retention = self.config.retention.age.map(milliseconds);
            let report = self.with_reporter(|reporter| {
                let report = reporter.report(stands, retention)?;
                Some((report, reporter.tags.clone(), reporter.due))
            });
            let Some((report, tags, due)) = report.flatten() else {
                return Ok(None);
            };
            // Before anything else: the object may die in the report.
            self.keep_reporter().await?;
            if let Some(due) = due {
                earlier_alarm(&storage, due).await?;
            }
            match self.send_report(binding, &report, &tags).await {
                Ok(estimate) => {
                    self.with_reporter(|reporter| {
                        // Otherwise the next report asks again.
                        if let Ok(estimate) = estimate {
                            reporter.is_answered(&report, estimate);
                        }
                        reporter.is_told(&report, now());
                    });
                    // Of a log that is gone as a whole nothing may stay, or its object would be stored for ever. That also goes
                    // for the runtime's empty tables.
                    match report.entry.is_none() && self.stands()?.head == 0 {
                        true => self.delete_storage().await.map_err(worker::Error::from)?,
                        false => self.keep_reporter().await?,
                    }
                }
                Err(error) => {
                    worker::console_warn!("ssetarget: the index of runs does not answer: {error}");
                    let due = self.with_reporter(|reporter| {
                        reporter.has_failed(now());
                        reporter.due
                    });
                    self.keep_reporter().await?;
                    if let Some(due) = due.flatten() {
                        earlier_alarm(&storage, due).await?;
                    }
                    return Ok(due.flatten());
                }
            }
        }
    }

    /// Sends the report to the index of the workflow and to those of its tags. Returns what that of the workflow
    /// says, if it was asked, or why that cannot be read.
    async fn send_report(
        &self,
        binding: &str,
        report: &RunReport,
        tags: &[String],
    ) -> Result<Result<Option<RunEstimate>, String>, String> {
        let json = serde_json::to_string(report).map_err(|error| error.to_string())?;
        // Only the workflow's index is asked what it expects.
        let told = RunReport {
            asks: false,
            ..report.clone()
        };
        let told = serde_json::to_string(&told).map_err(|error| error.to_string())?;
        let namespace = self.env.durable_object(binding);
        let namespace = namespace.map_err(|error| error.to_string())?;
        let object = self.with_reporter(|reporter| reporter.object.clone());
        let object = object.unwrap_or_default();
        let workflow = object.split_once('/').map_or("", |(workflow, _)| workflow);
        let of_tags = tags.iter().map(|tag| format!("{workflow}/{tag}"));
        let names = std::iter::once(workflow.to_owned()).chain(of_tags);
        let sent = try_join_all(names.map(async |name| {
            let stub = namespace.get_by_name(&name);
            let stub: js::IndexStub = stub.map_err(|error| error.to_string())?.into_rpc();
            let json = if name == workflow { &json } else { &told };
            stub.take(json).await.map_err(|error| message(&error))
        }));
        match select(pin!(sent), sleep(PATIENCE)).await {
            Either::Left((sent, _)) => {
                let answer = sent?.first().and_then(wasm_bindgen::JsValue::as_string);
                Ok(read_estimate(answer.as_deref()))
            }
            Either::Right(_) => Err("it takes too long".to_owned()),
        }
    }

    /// Reads the new events of the log.
    fn fold(&self) -> worker::Result<()> {
        let store = self.log.target().store();
        let head = self.stands()?.head;
        loop {
            let after = self.with_reporter(|reporter| {
                if reporter.fold.cursor > head {
                    // The log was deleted with everything known of it, and has begun again.
                    reporter.fold = Default::default();
                }
                EventId::new(reporter.fold.cursor)
            });
            let page = store.read_now(after.flatten(), PageLimit::default());
            let page = page.map_err(to_worker)?;
            if page.events.is_empty() {
                return Ok(());
            }
            self.with_reporter(|reporter| reporter.apply(&page.events));
        }
    }

    fn wanted(&self) -> worker::Result<Option<u64>> {
        let stands = self.stands()?;
        let is_empty = self.log.target().store().is_empty().map_err(to_worker)?;
        let wanted = self.with_reporter(|reporter| {
            reporter.removed &= is_empty;
            reporter.wanted(stands)
        });
        Ok(wanted.flatten())
    }

    fn stands(&self) -> worker::Result<Stands> {
        let store = self.log.target().store();
        let head = store.head().map_err(to_worker)?;
        Ok(Stands {
            head: head.map_or(0, EventId::get),
            ended: store.is_closed().map_err(to_worker)?,
            now: clock::milliseconds(WorkersRuntime.now()),
        })
    }

    /// Returns whether there is a reporter. Reads it from storage, or makes the first one.
    async fn has_reporter(&self) -> worker::Result<bool> {
        if lock(&self.indexing.reporter).is_some() {
            return Ok(true);
        }
        let stored = stored(&self.state.storage()).await?;
        let mut reporter = lock(&self.indexing.reporter);
        if reporter.is_none() {
            let new = || self.state.id().name().map(Reporter::new);
            *reporter = stored.or_else(new);
        }
        Ok(reporter.is_some())
    }

    fn with_reporter<T>(&self, change: impl FnOnce(&mut Reporter) -> T) -> Option<T> {
        lock(&self.indexing.reporter).as_mut().map(change)
    }

    async fn forget_reporter(&self) -> worker::Result<()> {
        let storage = self.state.storage();
        // To delete what is not there would make the table for it again, and so an object that is stored.
        match stored(&storage).await? {
            Some(_) => storage.delete(KEY).await.map(drop),
            None => Ok(()),
        }
    }

    async fn keep_reporter(&self) -> worker::Result<()> {
        let json = self.with_reporter(|reporter| serde_json::to_string(reporter));
        match json {
            Some(json) => self.state.storage().put(KEY, json?).await,
            None => Ok(()),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
