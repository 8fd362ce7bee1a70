//! The trace of the log: as the answer to a request, and sent to a receiver when a run has ended. Runs in the object.

use std::time::Duration;

use cloudflare_workflows::__private::{message, sleep};
use cloudflare_workflows::{Runtime, WorkersRuntime};
use futures_util::stream;
use js_sys::{Array, Uint8Array};
use wasm_bindgen::prelude::*;
use worker::{Response, ResponseBuilder, Storage};

use super::alarm_time::{earlier_alarm, now};
use super::due::Export;
use super::error::to_worker;
use super::events_object::EventsObject;
use super::exports::{EXPORTED, KEY, pending};
use crate::cloudflare::js;
use crate::cloudflare::refuse::{UNKNOWN_INSTANCE, refuse};
use crate::cloudflare::response;
use crate::event::EventId;
use crate::otlp::{
    Answer, Document, Exporter, HEADERS, Post, Reader, Step, Trace, Unfinished, Verdict, backoff,
};

impl EventsObject {
    /// Answers a request for the trace of the log.
    pub(super) fn answer_otlp(
        &self,
        unfinished: Unfinished,
        head: bool,
    ) -> worker::Result<Response> {
        let target = self.log.target();
        let object = self.state.id().name().unwrap_or_default();
        if target.store().is_empty().map_err(to_worker)? {
            return refuse(UNKNOWN_INSTANCE);
        }
        let mut response = ResponseBuilder::new();
        for (name, value) in HEADERS {
            response = response.with_header(name, value)?;
        }
        if head {
            return Ok(response.empty());
        }
        let reader = Reader::new(target, &self.trace(&object)?, unfinished);
        let state = Some((reader, Document::default()));
        let parts = stream::try_unfold(state, |state| async move {
            let Some((mut reader, mut document)) = state else {
                return Ok(None);
            };
            let chunk = reader.next().await.map_err(|error| error.to_string())?;
            let (bytes, state) = match chunk {
                Some(chunk) => (document.push(&chunk), Some((reader, document))),
                None => (document.end(), None),
            };
            Ok::<_, String>(Some((Uint8Array::from(bytes.as_slice()), state)))
        });
        response::stream_as(response, parts, &self.cutoff)
    }

    /// Schedules the export of the trace of a run that has just ended, if the Worker's variables name a receiver. An
    /// error is for the developer: it changes nothing for the run and its viewers.
    pub(super) async fn export_later(&self) {
        if let Err(error) = self.begin_export().await {
            worker::console_error!("ssetarget: a trace is not exported: {error}");
        }
    }

    async fn begin_export(&self) -> worker::Result<()> {
        if self.exporter()?.is_none() {
            return Ok(());
        }
        let (Some(object), Some(head)) = (
            self.state.id().name(),
            self.log.target().store().head().map_err(to_worker)?,
        ) else {
            return Ok(());
        };
        let storage = self.state.storage();
        let known = pending(&storage).await?;
        let exported = storage.get(EXPORTED).await?;
        let export = Export::of_run(known, exported, &object, head.get(), now());
        storage.put(KEY, &export).await?;
        Ok(earlier_alarm(&storage, export.due).await?)
    }

    /// Tries an export that is due. Returns whether there are, or were, exports, and when the next is to be tried.
    pub(super) async fn exports(&self) -> worker::Result<Option<Option<u64>>> {
        let storage = self.state.storage();
        let state = self.log.state().map_err(to_worker)?;
        match pending(&storage).await? {
            Some(export) if !state.empty && export.is_due(now()) => self.try_export(export).await?,
            Some(_) => {}
            // The object may have died after an export was done and before the alarm was set again.
            None if storage.get::<u64>(EXPORTED).await?.is_some() => {}
            None => return Ok(None),
        }
        Ok(Some(pending(&storage).await?.map(|export| export.due)))
    }

    /// Forgets an export whose log is about to be deleted.
    pub(super) async fn forget_export(&self) -> worker::Result<()> {
        worker::console_error!("ssetarget: the log was deleted before its trace was exported");
        self.state.storage().delete(KEY).await.map(drop)
    }

    /// Sends the pending requests, and stores the progress.
    async fn try_export(&self, mut export: Export) -> worker::Result<()> {
        let storage = self.state.storage();
        // Before anything else: the object may die in the request.
        let wait = backoff(export.tries + 1, js_sys::Math::random());
        export.is_tried(wait, now());
        storage.put(KEY, &export).await?;
        earlier_alarm(&storage, export.due).await?;

        let wait = match self.send(&mut export, &storage).await {
            Ok(None) => return self.export_is_done(&export).await,
            Ok(Some(wait)) => wait,
            Err(error) => {
                worker::console_error!("ssetarget: a trace is not exported: {error}");
                return self.export_is_done(&export).await;
            }
        };
        if let Some(mut latest) = pending(&storage).await? {
            let soonest = export.due.saturating_sub(now());
            latest.waits(Duration::from_millis(soonest).max(wait), now());
            if latest.is_given_up() {
                worker::console_error!(
                    "ssetarget: a trace is not exported: its receiver does not take it"
                );
                return self.export_is_done(&latest).await;
            }
            storage.put(KEY, &latest).await?;
        }
        Ok(())
    }

    /// Sends the rest of the requests. Returns `None` if all were accepted, and otherwise the least pause before one
    /// is to be sent again.
    async fn send(
        &self,
        export: &mut Export,
        storage: &Storage,
    ) -> worker::Result<Option<Duration>> {
        let (Some(exporter), Some(until)) = (self.exporter()?, EventId::new(export.until)) else {
            return Ok(None);
        };
        let trace = self.trace(&export.object)?;
        let reader = Reader::new(self.log.target(), &trace, Unfinished::LeaveOut);
        let mut reader = reader.between(EventId::new(export.after), until);
        let mut number = 0;
        loop {
            let chunk = match reader.step().await.map_err(|error| error.to_string())? {
                Step::Chunk(chunk) => chunk,
                // Lets the object's other work come first.
                Step::Read => {
                    sleep(Duration::ZERO).await;
                    continue;
                }
                Step::End => return Ok(None),
            };
            number += 1;
            if number <= export.sent {
                continue;
            }
            let answer = match post(&exporter.post(chunk)).await {
                Ok(answer) => answer,
                Err(error) => {
                    worker::console_warn!(
                        "ssetarget: the receiver of traces did not answer: {}",
                        message(&error)
                    );
                    return Ok(Some(Duration::ZERO));
                }
            };
            match Verdict::of(&answer, WorkersRuntime.now()) {
                Verdict::Accepted { rejected, message } => {
                    if rejected > 0 || !message.is_empty() {
                        worker::console_warn!(
                            "ssetarget: the receiver of traces left out {rejected} spans: {message}"
                        );
                    }
                    export.sent = number;
                    export.tries = 0;
                    if let Some(mut latest) = pending(storage).await? {
                        (latest.sent, latest.tries) = (export.sent, export.tries);
                        storage.put(KEY, &latest).await?;
                    }
                }
                Verdict::Retry(least) => {
                    worker::console_warn!(
                        "ssetarget: the receiver of traces answered {}",
                        answer.status
                    );
                    return Ok(Some(least.unwrap_or_default()));
                }
                Verdict::Refused(status) => {
                    return Err(format!("its receiver answered {status}").into());
                }
            }
        }
    }

    /// Notes that everything up to this export's end is done.
    async fn export_is_done(&self, done: &Export) -> worker::Result<()> {
        let storage = self.state.storage();
        storage.put(EXPORTED, done.until).await?;
        // Another run may have ended meanwhile.
        match pending(&storage)
            .await?
            .and_then(|latest| latest.rest(done.until, now()))
        {
            Some(rest) => storage.put(KEY, &rest).await,
            None => storage.delete(KEY).await.map(drop),
        }
    }

    /// Returns the exporter that the Worker's variables and secrets describe.
    fn exporter(&self) -> worker::Result<Option<Exporter>> {
        let exporter = Exporter::variables(|name| self.variable(name));
        exporter.map_err(|error| error.to_string().into())
    }

    fn trace(&self, object: &str) -> worker::Result<Trace> {
        let (workflow, instance) = object.split_once('/').unwrap_or(("", object));
        let trace = Trace::new(instance).workflow(workflow);
        let trace = trace.variables(|name| self.variable(name));
        trace.map_err(|error| error.to_string().into())
    }

    fn variable(&self, name: &str) -> Option<String> {
        // A secret is a string, too.
        self.env.var(name).ok().map(|value| value.to_string())
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a status"
)]
async fn post(post: &Post) -> Result<Answer, JsValue> {
    let headers: Array = post
        .headers
        .iter()
        .map(|(name, value)| Array::of2(&name.into(), &value.into()))
        .collect();
    let body = Uint8Array::from(&*post.body);
    let timeout = u32::try_from(post.timeout.as_millis()).unwrap_or(u32::MAX);
    let answer = js::post_bytes(&post.url, &headers, &body, timeout).await?;
    let answer = js::array_from(&answer)?;
    Ok(Answer {
        status: answer.get(0).as_f64().unwrap_or_default() as u16,
        retry_after: answer.get(1).as_string(),
        body: answer.get(2).as_string().unwrap_or_default().into(),
    })
}
