//! One index of runs: takes reports, and answers with lists and streams. Runs in its object.

use std::rc::Rc;

use cloudflare_workflows::__private::Timer;
use cloudflare_workflows::{Runtime, WorkersRuntime};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use worker::worker_sys::web_sys;
use worker::{Response, ResponseBuilder};

use crate::cloudflare::cutoff::{Because, Cutoff};
use crate::cloudflare::leaving::Leaving;
use crate::cloudflare::permit::Permit;
use crate::cloudflare::refuse::refuse;
use crate::cloudflare::reported::{Reported, take_report};
use crate::cloudflare::request::{ObjectCall, StreamRequest, query};
use crate::cloudflare::response::{self, Watching, sse_frame_response_while};
use crate::cloudflare::sql::ObjectSql;
use crate::refusal::Refusal;
use crate::runs::{ListFilter, RunIndex};

/// In a request for a list: the query of the client's request, with its question mark.
pub(super) const LIST: &str = "list";

pub(super) struct IndexObject {
    index: RunIndex<ObjectSql>,
    cutoff: Rc<Cutoff>,
}

impl IndexObject {
    pub(super) fn new(state: &worker::durable::State) -> worker::Result<Self> {
        let index = RunIndex::new(ObjectSql::new(state)?);
        Ok(Self {
            index,
            cutoff: Rc::default(),
        })
    }

    /// Takes a report, as JSON. Returns what is expected of the run, as JSON, if the report asks. The runtime holds the
    /// answer back until the report is durable.
    pub(super) fn take(&self, report: &str) -> Result<JsValue, JsValue> {
        Ok(
            match take_report(&self.index, report, WorkersRuntime.now())? {
                Reported::Taken(taken) => taken.into(),
                Reported::Estimate(estimate) => estimate.into(),
            },
        )
    }

    pub(super) async fn answer(
        &self,
        request: &web_sys::Request,
    ) -> worker::Result<web_sys::Response> {
        let call = ObjectCall::of(request);
        if let Some(url) = call.get(LIST) {
            return Ok(self.list(query(&url), call.is_head())?.into());
        }
        let stream = match StreamRequest::from_call(&call) {
            Ok(stream) => stream,
            Err(refusal) => return Ok(refuse(refusal)?.into()),
        };
        let subscription = self.index.target().subscribe(stream.cursor).await;
        let subscription = subscription.map_err(|error| error.to_string())?;
        if stream.head {
            return Ok(response::left_out()?.into());
        }
        let permit = Permit::until_end(stream.grant);
        sse_frame_response_while(
            subscription,
            Leaving::of(request),
            permit,
            Viewer {
                timer: Timer::new(),
                cutoff: Rc::clone(&self.cutoff),
            },
        )
    }

    fn list(&self, query: Option<&str>, head: bool) -> worker::Result<Response> {
        let filter = match ListFilter::parse(query) {
            Ok(filter) => filter,
            Err(reason) => return refuse(Refusal::List(reason)),
        };
        let list = self.index.list(&filter, WorkersRuntime.now());
        let list = list.map_err(|error| error.to_string())?;
        let response = ResponseBuilder::new()
            .with_header("content-type", "application/json")?
            .with_header("cache-control", "no-store")?
            .with_header("x-content-type-options", "nosniff")?
            .with_header("referrer-policy", "no-referrer")?;
        Ok(match head {
            true => response.empty(),
            false => response.fixed(list.into_bytes()),
        })
    }
}

/// A viewer of the changes.
struct Viewer {
    timer: Timer,
    cutoff: Rc<Cutoff>,
}

impl Watching for Viewer {
    fn timer(&self) -> Timer {
        self.timer.clone()
    }

    fn cut(&self) -> LocalBoxFuture<'static, &'static str> {
        Box::pin(self.cutoff.of_stream().map(Because::reason))
    }

    fn sent(&self, _: Result<&Uint8Array, ()>) {}
}
