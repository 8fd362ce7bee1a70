//! This library as a contestant of the benchmark.
//!
//! - `GET /<id>/sse` streams events, as in any Worker that uses the library
//! - `POST /<id>/append?from=1&batch=1&count=N` appends N batches, one after another; with `reports=1` of reports
//! - `POST /<id>/event?number=1` appends one event from outside a workflow, as a webhook's Worker does
//! - `POST /<id>/append?from=1&batch=1` appends a batch for each byte of the body, as it comes
//!
//! With the feature `runs` also
//!
//! - `GET /sse?run=a&run=b` streams the events of several logs
//! - `GET /runs` and `GET /runs/sse` are an index of runs, which `../servers/runs.mjs` has take reports
//!
//! The other contestants answer the same requests: see `../servers/driver.mjs`.

use futures_channel::oneshot;
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use ssetarget::NewEvent;
use ssetarget::cloudflare::{FanOut, ObjectFactLog, RunRoutes, Transport, WorkflowEventsNamespace};
use ssetarget::workflow::{FactLog, Opened};
use worker::{Context, Env, Request, Response, Result, event, wasm_bindgen_futures, web_sys};

ssetarget::export_workflow_events!(WorkflowEvents);
#[cfg(feature = "runs")]
ssetarget::export_run_index!(RunIndex);

#[event(fetch)]
async fn fetch(
    request: web_sys::Request,
    env: Env,
    _context: Context,
) -> Result<web_sys::Response> {
    let events = WorkflowEventsNamespace::from_env(&env, "EVENTS", "bench")?;
    let url = request.url();
    let path = url.splitn(4, '/').nth(3).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let route = match path.split_once('/') {
        Some((id, "event")) => append_one(events, id, &url),
        Some((id, "append")) if request.method() == "POST" => append(events, id, &request),
        _ => stream(events, &env, &request),
    };
    route.await
}

/// A route of its own, and not a part of the handler: what the handler awaits in place is compiled for each of its routes.
type Answer<'a> = LocalBoxFuture<'a, Result<web_sys::Response>>;

fn append_one<'a>(events: WorkflowEventsNamespace, id: &'a str, url: &'a str) -> Answer<'a> {
    Box::pin(async move {
        let number = number(url, "number").unwrap_or(1);
        events.append(id, &[step_event(number)?]).await?;
        let answer = web_sys::Response::new_with_opt_str(Some(&format!("{number}\n")))?;
        Ok(answer)
    })
}

fn stream<'a>(
    mut events: WorkflowEventsNamespace,
    env: &'a Env,
    request: &'a web_sys::Request,
) -> Answer<'a> {
    Box::pin(async move {
        let transport = env.var("TRANSPORT");
        if transport.is_ok_and(|name| name.to_string() == "hibernating") {
            events = events.transport(Transport::Hibernating);
        }
        // One object for all, unless a tree is measured.
        events = events.fan_out(fan_out(env));
        match routes(events, env)?.serve_raw(request).await? {
            Some(response) => Ok(response),
            None => Ok(Response::error("there is nothing here", 404)?.into()),
        }
    })
}

fn append<'a>(
    events: WorkflowEventsNamespace,
    id: &'a str,
    request: &'a web_sys::Request,
) -> Answer<'a> {
    Box::pin(async move {
        let request = Request::from(Clone::clone(request));
        let driver = Driver::new(events, id, &request).await?;
        // A task of its own, like the one that appends for a workflow: otherwise its polls
        // would make the runtime optimize the whole handler.
        let (tell, told) = oneshot::channel();
        wasm_bindgen_futures::spawn_local(async move {
            // Nobody listens any more if the request has gone.
            let _ = tell.send(driver.run(request).await);
        });
        let last = told.await.map_err(|error| error.to_string())??;
        Ok(Response::ok(format!("{last}\n"))?.into())
    })
}

#[cfg(not(feature = "runs"))]
fn routes(events: WorkflowEventsNamespace, _: &Env) -> Result<RunRoutes> {
    Ok(RunRoutes::new(events))
}

#[cfg(feature = "runs")]
fn routes(events: WorkflowEventsNamespace, env: &Env) -> Result<RunRoutes> {
    let index = ssetarget::cloudflare::RunIndexNamespace::from_env(env, "RUNS", "bench")?;
    Ok(RunRoutes::new(events).merged().runs(index))
}

/// `FAN_OUT = "50/8"`: 50 viewers and 8 relays for each object.
fn fan_out(env: &Env) -> Option<FanOut> {
    let value = env.var("FAN_OUT").ok()?.to_string();
    let (viewers, relays) = value.split_once('/')?;
    let fan_out = FanOut::new().viewers_per_object(viewers.parse().ok()?);
    Some(fan_out.relays_per_object(relays.parse().ok()?))
}

/// Returns a number of the query.
fn number(url: &str, name: &str) -> Option<u32> {
    let (_, query) = url.split_once('?')?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(key, _)| *key == name)?.1;
    value.parse().ok()
}

/// Appends events as a workflow does: through a log that it opens once.
struct Driver {
    log: ObjectFactLog,
    generation: u64,
    run: u32,
    /// The number of the next event.
    next: u32,
    batch: u32,
    /// The number of batches, if the request has it.
    count: Option<u32>,
    /// The events are reports of one step, and not steps.
    reports: bool,
}

impl Driver {
    async fn new(events: WorkflowEventsNamespace, id: &str, request: &Request) -> Result<Self> {
        let url = request.inner().url();
        let number = |name| number(&url, name);
        let log = ObjectFactLog::new(events, id);
        let opened = log.open(None).await.map_err(|error| error.to_string())?;
        let Opened::Run(opened) = opened else {
            return Err("the log is restarted".into());
        };
        Ok(Self {
            log,
            generation: opened.generation,
            run: opened.run,
            next: number("from").unwrap_or(1),
            batch: number("batch").unwrap_or(1),
            count: number("count"),
            reports: number("reports").is_some(),
        })
    }

    /// Returns the number of the last event.
    async fn run(mut self, mut request: Request) -> Result<u32> {
        if let Some(count) = self.count {
            for _ in 0..count {
                self.append().await?;
            }
        } else {
            let mut body = request.stream()?;
            while let Some(chunk) = body.next().await {
                for _ in chunk? {
                    self.append().await?;
                }
            }
        }
        self.log.release();
        Ok(self.next - 1)
    }

    async fn append(&mut self) -> Result<()> {
        let numbers = self.next..self.next + self.batch;
        self.next = numbers.end;
        let event = if self.reports {
            report_event
        } else {
            step_event
        };
        let events = numbers.map(event).collect::<Result<Vec<_>>>()?;
        Ok(self
            .log
            .append(self.generation, self.run, &events)
            .await
            .map(drop)
            .map_err(|error| error.to_string())?)
    }
}

/// The event of a step, of the size and form that the library's own have.
fn step_event(number: u32) -> Result<NewEvent> {
    let data = format!(
        r#"{{"taskId":"step #{number}-1","step":"step #{number}","kind":"do","count":1,"timestamp":"2026-11-23T14:37:54.907Z","parentId":"workflow:bench-1","attempt":1,"attributes":{{"note":"{NOTE}"}}}}"#
    );
    NewEvent::new("started", data)
        .and_then(|event| event.with_key(format!("step #{number}-1:started")))
        .map_err(|error| error.to_string().into())
}

/// The event of a step's report.
fn report_event(number: u32) -> Result<NewEvent> {
    let data = format!(
        r#"{{"taskId":"import-1","step":"import","kind":"do","count":1,"timestamp":"2026-11-23T14:37:54.907Z","parentId":"workflow:bench-1","attempt":1,"percent":12,"message":"{number} {NOTE}"}}"#
    );
    NewEvent::new("progress", data)
        .and_then(|event| event.with_key(format!("import-1:progress:1:{number}")))
        .map_err(|error| error.to_string().into())
}

/// Makes `data` about 200 bytes long.
const NOTE: &str = "12345678901234567890";
