//! A log folded into spans, one event after another.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::chunks::{Chunk, Chunks};
use super::ids::{SpanId, TraceId};
use super::model::{
    Attributes, ERROR, Event, INTERNAL, Link, MAX_TEXT, Nanos, OK, Span, Status, cut,
};
use super::trace::Trace;
use crate::event::StoredEvent;
use crate::task::{Kind, StepEventType, TERMINATED, iso, iso_option};

/// The most reports of a span that become events of it: 128. If there are more, the first 64 and the last 64 are kept,
/// and the others are counted.
pub const MAX_EVENTS: usize = 128;

/// The most bytes, roughly, of all reports that wait for their spans to end: 4 MiB. Further ones are dropped and
/// counted.
pub const MAX_WAITING: usize = 4 * 1024 * 1024;

/// Says whether tasks that have not ended get a span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unfinished {
    /// They have no span yet. Neither has the run itself, if it has not ended.
    #[default]
    LeaveOut,
    /// They have a span that ends with the newest event, with `ssetarget.task.state` `running`.
    Partial,
}

/// Folds the events of a log, in their order, into the spans of its traces.
///
/// Its memory does not grow with the length of the log, except for about 16 bytes for each task. It has the open
/// tasks, their reports (at most [`MAX_WAITING`]), and the unfinished chunk. Take each [chunk](Self::next_chunk)
/// immediately.
///
/// ```
/// use ssetarget::otlp::{Trace, TraceFold, Unfinished};
/// # let events: [ssetarget::StoredEvent; 0] = [];
///
/// let mut fold = TraceFold::new(&Trace::new("order-1").workflow("order"));
/// for event in &events {
///     fold.apply(event);
///     while let Some(chunk) = fold.next_chunk() {
///         println!("{} bytes", chunk.into_request().len());
///     }
/// }
/// fold.finish(Unfinished::LeaveOut);
/// while let Some(chunk) = fold.next_chunk() {
///     println!("{} bytes", chunk.into_request().len());
/// }
/// ```
#[derive(Debug)]
pub struct TraceFold {
    trace: Trace,
    chunks: Chunks,
    run: Run,
    waiting: usize,
}

/// The run that the fold is in.
#[derive(Debug)]
struct Run {
    number: u32,
    trace: TraceId,
    root: SpanId,
    root_task: Option<Root>,
    /// The tasks that have begun, whether they have ended or not.
    known: BTreeSet<SpanId>,
    open: BTreeMap<SpanId, Open>,
    began: u32,
    /// The times of its first and its newest event.
    times: Option<(Nanos, Nanos)>,
}

/// The task of the kind `workflow` that is the root of the run.
#[derive(Debug)]
struct Root {
    task: Open,
    /// The end for which its span was written.
    ended: Option<Nanos>,
}

/// A task that has begun and not ended.
#[derive(Debug)]
struct Open {
    span: SpanId,
    parent: Option<SpanId>,
    /// Its number among the tasks of the run, in the order in which they began.
    number: u32,
    id: String,
    name: String,
    kind: Kind,
    count: u32,
    began: Nanos,
    /// Whether its beginning is no longer in the log.
    is_cut_off: bool,
    until: Option<String>,
    event_type: Option<String>,
    attempts: Attempts,
    reports: Reports,
}

/// The attempts of a task so far.
#[derive(Debug, Default)]
struct Attempts {
    /// The latest attempt that has a span.
    latest: u32,
    /// The number of attempts that have one.
    told: u32,
    /// The span of the latest attempt.
    span: Option<SpanId>,
    /// When the latest attempt ended.
    failed_at: Option<Nanos>,
    /// When the next attempt was to begin.
    retry_at: Option<Nanos>,
}

/// The reports of a task so far.
#[derive(Debug, Default)]
struct Reports {
    first: Vec<Event>,
    last: VecDeque<Event>,
    dropped: u32,
}

/// The contents of a task's span beside the task itself.
struct End<'a> {
    at: Nanos,
    state: &'static str,
    status: Option<Status<'a>>,
    attempt: Option<u32>,
    own: Option<&'a Map<String, Value>>,
}

/// The parts of a task's event that spans need.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said<'a> {
    #[serde(borrow)]
    task_id: Cow<'a, str>,
    #[serde(borrow)]
    step: Cow<'a, str>,
    kind: Kind,
    #[serde(default)]
    count: u32,
    #[serde(with = "iso")]
    timestamp: SystemTime,
    #[serde(borrow, default)]
    parent_id: Option<Cow<'a, str>>,
    #[serde(default)]
    attempt: Option<u32>,
    #[serde(default)]
    percent: Option<f64>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    attributes: Option<Map<String, Value>>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    until: Option<String>,
    #[serde(default)]
    event_type: Option<String>,
    #[serde(default, with = "iso_option")]
    retry_at: Option<SystemTime>,
}

/// The data of `restarted`.
#[derive(Deserialize)]
struct Restarted {
    run: u32,
    #[serde(with = "iso")]
    timestamp: SystemTime,
}

/// The end of a run whose own end is not in the log.
const RESTARTED: &str = "restarted";

impl TraceFold {
    /// Returns the fold of no events.
    #[must_use]
    pub fn new(trace: &Trace) -> Self {
        Self {
            chunks: Chunks::new(trace),
            run: Run::new(trace, 1),
            trace: trace.clone(),
            waiting: 0,
        }
    }

    /// Applies the next event. An event that is not about a task, or that a task cannot have, changes nothing.
    pub fn apply(&mut self, event: &StoredEvent) {
        if event.event_type == RESTARTED {
            if let Ok(restarted) = serde_json::from_str::<Restarted>(&event.data)
                && restarted.run > self.run.number
            {
                self.run.sees(restarted.timestamp.into());
                self.end_run(Unfinished::LeaveOut, true);
                self.run = Run::new(&self.trace, restarted.run);
            }
            return;
        }
        let Some(of) = StepEventType::from_name(&event.event_type) else {
            return;
        };
        let Ok(said) = serde_json::from_str::<Said<'_>>(&event.data) else {
            return;
        };
        let now = Nanos::from(said.timestamp);
        if said.kind == Kind::Workflow {
            self.apply_to_root(of, &said, now);
        } else {
            self.run.sees(now);
            self.apply_to_task(of, &said, now);
        }
    }

    /// Ends the fold: writes everything that remains. `unfinished` decides about open tasks. After that, call only
    /// [`next_chunk`](Self::next_chunk).
    pub fn finish(&mut self, unfinished: Unfinished) {
        self.end_run(unfinished, false);
    }

    /// Returns the next part that is complete.
    pub fn next_chunk(&mut self) -> Option<Chunk> {
        self.chunks.pop()
    }

    fn apply_to_root(&mut self, of: StepEventType, said: &Said<'_>, now: Nanos) {
        let is_other = |root: &Root| root.task.id != cut(&said.task_id, MAX_TEXT);
        match &self.run.root_task {
            // A log of spans may have several roots: each is a run of its own, after the one before.
            Some(root)
                if is_other(root)
                    && root.ended.is_some()
                    && of == StepEventType::Started
                    && self.run.number < u32::MAX =>
            {
                self.end_run(Unfinished::LeaveOut, false);
                self.run = Run::new(&self.trace, self.run.number + 1);
            }
            // A root that begins within another's time is a part of it.
            Some(root) if is_other(root) => {
                self.run.sees(now);
                return self.apply_to_task(of, said, now);
            }
            _ => {}
        }
        self.run.sees(now);
        let began = self.run.times.map_or(now, |(first, _)| first);
        let root = self.run.root;
        let starts = of == StepEventType::Started;
        let task = self.run.root_task.get_or_insert_with(|| Root {
            task: Open {
                is_cut_off: !starts,
                ..Open::new(root, None, 0, said, if starts { now } else { began })
            },
            ended: None,
        });
        if task.ended.is_some() {
            return;
        }
        match of {
            StepEventType::Started | StepEventType::AttemptFailed => {}
            StepEventType::Progress => {
                task.task.reports.add(said, now, &mut self.waiting);
            }
            StepEventType::Completed | StepEventType::Failed => {
                task.ended = Some(now.max(task.task.began));
                let end = End::of(said, of, now);
                self.run
                    .write_root(&self.trace, end, &mut self.chunks, &mut self.waiting);
            }
        }
    }

    fn apply_to_task(&mut self, of: StepEventType, said: &Said<'_>, now: Nanos) {
        let run = &mut self.run;
        let span = SpanId::of_task(run.trace, &self.trace.workflow, &said.task_id, 0);
        if of == StepEventType::Started {
            if span != run.root && run.known.insert(span) {
                let parent = run.parent(&self.trace.workflow, said.parent_id.as_deref());
                run.began = run.began.saturating_add(1);
                let task = Open::new(span, parent, run.began, said, now);
                run.open.insert(span, task);
            }
            return;
        }
        let Some(task) = run.open.get_mut(&span) else {
            return;
        };
        match of {
            StepEventType::Started => {}
            StepEventType::Progress => task.reports.add(said, now, &mut self.waiting),
            StepEventType::AttemptFailed => {
                let attempt = said.attempt.unwrap_or_default();
                if attempt > task.attempts.latest {
                    let error = said.error.as_deref().unwrap_or_default();
                    let names = (run.trace, self.trace.workflow.as_str());
                    task.write_attempt(names, said, attempt, Some(error), &mut self.chunks);
                }
            }
            StepEventType::Completed | StepEventType::Failed => {
                let names = (run.trace, self.trace.workflow.as_str());
                // The attempt that ended the task has no event of its own, unless it failed.
                if let Some(attempt) = said.attempt
                    && attempt > task.attempts.latest
                    && (attempt > 1 || of == StepEventType::Failed)
                {
                    let failed = of == StepEventType::Failed;
                    let error = failed.then(|| said.error.as_deref().unwrap_or_default());
                    task.write_attempt(names, said, attempt, error, &mut self.chunks);
                }
                if let Some(mut task) = run.open.remove(&span) {
                    let end = End::of(said, of, now);
                    task.write(run.trace, end, &mut self.chunks, &mut self.waiting);
                }
            }
        }
    }

    /// Ends the current run: its open tasks were stopped with it.
    fn end_run(&mut self, unfinished: Unfinished, restarted: bool) {
        let run = &mut self.run;
        let newest = run.times.map(|(_, newest)| newest);
        let ended = run.root_task.as_ref().and_then(|root| root.ended);
        let (at, state) = match (ended, newest) {
            (Some(ended), _) => (ended, "stopped"),
            (None, Some(newest)) if restarted => (newest, "stopped"),
            (None, Some(newest)) if unfinished == Unfinished::Partial => (newest, "running"),
            _ => return self.chunks.flush(),
        };
        let mut open: Vec<_> = std::mem::take(&mut run.open).into_values().collect();
        open.sort_by_key(|task| task.number);
        for mut task in open {
            let end = End::without_word(at, state);
            task.write(run.trace, end, &mut self.chunks, &mut self.waiting);
        }
        if ended.is_none() && run.root_task.is_some() {
            let state = if restarted { RESTARTED } else { "running" };
            let end = End::without_word(at, state);
            run.write_root(&self.trace, end, &mut self.chunks, &mut self.waiting);
        }
        // So that the chunks of a run do not depend on what follows it.
        self.chunks.flush();
    }
}

impl Run {
    fn new(trace: &Trace, number: u32) -> Self {
        let id = trace.trace_id(number);
        Self {
            number,
            trace: id,
            root: SpanId::of_root(id, &trace.workflow),
            root_task: None,
            known: BTreeSet::new(),
            open: BTreeMap::new(),
            began: 0,
            times: None,
        }
    }

    fn sees(&mut self, now: Nanos) {
        let (first, newest) = self.times.unwrap_or((now, now));
        self.times = Some((first.min(now), newest.max(now)));
    }

    /// Returns the span that contains a task with this parent: the parent's if it has begun, otherwise the root's.
    /// `None` for a task at the top of a log that has no root.
    fn parent(&self, workflow: &str, parent: Option<&str>) -> Option<SpanId> {
        let Some(parent) = parent else {
            return self.root_task.as_ref().map(|_| self.root);
        };
        let span = SpanId::of_task(self.trace, workflow, parent, 0);
        let has_root = self.root_task.is_some() || parent.ends_with(".workflow");
        if self.known.contains(&span) {
            return Some(span);
        }
        has_root.then_some(self.root)
    }

    fn write_root(
        &mut self,
        trace: &Trace,
        end: End<'_>,
        chunks: &mut Chunks,
        waiting: &mut usize,
    ) {
        let Some(Root { task, .. }) = &mut self.root_task else {
            return;
        };
        let number = self.number;
        let mut attributes = Attributes::default();
        attributes.set("ssetarget.run", number);
        attributes.set("ssetarget.instance.id", trace.id.as_str());
        let link = (number > 1).then(|| {
            let before = trace.trace_id(number - 1);
            [Link {
                trace_id: before,
                span_id: SpanId::of_root(before, &trace.workflow),
                attributes: Attributes::default().with("ssetarget.link", "previous-run"),
            }]
        });
        task.write_with(self.trace, end, attributes, link, chunks, waiting);
    }
}

impl Open {
    fn new(span: SpanId, parent: Option<SpanId>, number: u32, said: &Said<'_>, now: Nanos) -> Self {
        let id = cut(&said.task_id, MAX_TEXT).to_owned();
        let name = cut(&said.step, MAX_TEXT);
        let text = |text: &Option<String>| Some(cut(text.as_deref()?, MAX_TEXT).to_owned());
        Self {
            span,
            parent,
            number,
            name: match (name, id.as_str()) {
                ("", "") => "unnamed".to_owned(),
                ("", id) => id.to_owned(),
                (name, _) => name.to_owned(),
            },
            id,
            kind: said.kind,
            count: said.count,
            began: now,
            is_cut_off: false,
            until: text(&said.until),
            event_type: text(&said.event_type),
            attempts: Attempts::default(),
            reports: Reports::default(),
        }
    }

    fn write(&mut self, trace: TraceId, end: End<'_>, chunks: &mut Chunks, waiting: &mut usize) {
        self.write_with(trace, end, Attributes::default(), None, chunks, waiting);
    }

    fn write_with(
        &mut self,
        trace: TraceId,
        end: End<'_>,
        mut attributes: Attributes,
        links: Option<[Link; 1]>,
        chunks: &mut Chunks,
        waiting: &mut usize,
    ) {
        attributes.set("ssetarget.task.id", self.id.as_str());
        attributes.set("ssetarget.task.kind", kind(self.kind));
        attributes.set("ssetarget.task.count", self.count);
        attributes.set("ssetarget.task.state", end.state);
        if self.is_cut_off {
            attributes.set("ssetarget.start.approximate", true);
        }
        let until = self.until.as_deref();
        attributes = attributes
            .with_some("ssetarget.until", until)
            .with_some("ssetarget.event.type", self.event_type.as_deref());
        let latest = end.attempt.unwrap_or_default().max(self.attempts.latest);
        if latest > 0 {
            attributes.set("ssetarget.attempts", latest);
            // An attempt that was killed with its process reports nothing.
            let told = self.attempts.told + u32::from(latest > self.attempts.latest);
            if told < latest {
                attributes.set("ssetarget.attempts.lost", latest - told);
            }
        }
        let failure = end.status.as_ref().filter(|status| status.code == ERROR);
        if failure.is_some() {
            let terminated = end.state == "terminated";
            attributes.set("error.type", if terminated { end.state } else { OTHER });
        }
        if let Some(own) = end.own {
            attributes.add_own(own);
        }
        let ended = end.at.max(self.began);
        let (mut events, mut dropped) = self.reports.take(self.began, ended, waiting);
        // The span of a failed attempt has the exception itself.
        if let Some(failure) = failure.filter(|_| self.attempts.span.is_none()) {
            if events.len() == MAX_EVENTS {
                events.pop();
                dropped = dropped.saturating_add(1);
            }
            events.push(Event::exception(ended, failure.message));
        }
        chunks.push(&Span {
            trace_id: trace,
            span_id: self.span,
            parent_span_id: self.parent,
            name: &self.name,
            kind: INTERNAL,
            start_time_unix_nano: self.began,
            end_time_unix_nano: ended,
            attributes,
            events: &events,
            dropped_events_count: dropped,
            links,
            status: end.status,
        });
    }

    /// Writes the span of an attempt that has ended, with an error if it failed.
    fn write_attempt(
        &mut self,
        (trace, workflow): (TraceId, &str),
        said: &Said<'_>,
        attempt: u32,
        error: Option<&str>,
        chunks: &mut Chunks,
    ) {
        let span = SpanId::of_task(trace, workflow, &said.task_id, attempt);
        let before = std::mem::take(&mut self.attempts);
        let now = Nanos::from(said.timestamp).max(self.began);
        // The log does not say when attempts begin. The first begins with the task. Any other begins when it was to
        // begin, if that is known, and otherwise when the one before failed.
        let began = match (before.retry_at, before.failed_at) {
            (Some(retry_at), Some(failed_at)) => retry_at.clamp(failed_at, failed_at.max(now)),
            (_, failed_at) => failed_at.unwrap_or(self.began),
        };
        let now = now.max(began);
        let is_known = attempt == 1 || (before.retry_at.is_some() && attempt == before.latest + 1);
        let mut attributes = Attributes::default()
            .with("ssetarget.task.id", self.id.as_str())
            .with("ssetarget.attempt", attempt)
            // As Sentry names it.
            .with("cloudflare.workflow.attempt", attempt);
        if !is_known {
            attributes.set("ssetarget.start.approximate", true);
        }
        let error = error.map(|error| cut(error, MAX_TEXT));
        if error.is_some() {
            attributes.set("error.type", OTHER);
        }
        let exception = error.map(|error| Event::exception(now, error));
        chunks.push(&Span {
            trace_id: trace,
            span_id: span,
            parent_span_id: Some(self.span),
            name: &format!("{} (attempt {attempt})", self.name),
            kind: INTERNAL,
            start_time_unix_nano: began,
            end_time_unix_nano: now,
            attributes,
            events: exception.as_slice(),
            dropped_events_count: 0,
            links: before.span.map(|span_id| {
                [Link {
                    trace_id: trace,
                    span_id,
                    attributes: Attributes::default().with("ssetarget.link", "retry-of"),
                }]
            }),
            status: Some(match error {
                Some(message) => Status {
                    code: ERROR,
                    message,
                },
                None => Status::OK,
            }),
        });
        self.attempts = Attempts {
            latest: attempt,
            told: before.told + 1,
            span: Some(span),
            failed_at: Some(now),
            retry_at: said.retry_at.map(Nanos::from),
        };
    }
}

impl Reports {
    const HALF: usize = MAX_EVENTS / 2;

    fn add(&mut self, said: &Said<'_>, now: Nanos, waiting: &mut usize) {
        let mut attributes = Attributes::default()
            .with_some("ssetarget.progress.percent", said.percent)
            .with_some("ssetarget.progress.message", said.message.as_deref());
        if let Some(own) = &said.attributes {
            attributes.add_own(own);
        }
        let event = Event {
            time_unix_nano: now,
            name: "progress",
            attributes,
        };
        let size = event.size();
        if *waiting + size > MAX_WAITING {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        *waiting += size;
        if self.first.len() < Self::HALF {
            self.first.push(event);
            return;
        }
        self.last.push_back(event);
        if self.last.len() > Self::HALF
            && let Some(oldest) = self.last.pop_front()
        {
            *waiting = waiting.saturating_sub(oldest.size());
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Removes and returns the events, with times within the span's, and the number of dropped ones.
    fn take(&mut self, began: Nanos, ended: Nanos, waiting: &mut usize) -> (Vec<Event>, u32) {
        let Self {
            mut first,
            last,
            dropped,
        } = std::mem::take(self);
        first.extend(last);
        for event in &mut first {
            *waiting = waiting.saturating_sub(event.size());
            event.time_unix_nano = event.time_unix_nano.clamp(began, ended);
        }
        (first, dropped)
    }
}

impl Event {
    /// Returns an exception by OpenTelemetry's convention.
    fn exception(at: Nanos, message: &str) -> Self {
        Self {
            time_unix_nano: at,
            name: "exception",
            attributes: Attributes::default().with("exception.message", message),
        }
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.attributes.size()
    }
}

impl Status<'_> {
    const OK: Self = Status {
        code: OK,
        message: "",
    };
}

impl<'a> End<'a> {
    /// Returns the end that a task's last event describes.
    fn of(said: &'a Said<'_>, of: StepEventType, at: Nanos) -> Self {
        let error = said.error.as_deref().unwrap_or_default();
        let failed = of == StepEventType::Failed;
        Self {
            at,
            state: match failed {
                false => "completed",
                true if said.kind == Kind::Workflow && error == TERMINATED => "terminated",
                true => "failed",
            },
            status: Some(match failed {
                false => Status::OK,
                true => Status {
                    code: ERROR,
                    message: cut(error, MAX_TEXT),
                },
            }),
            attempt: said.attempt,
            own: said.attributes.as_ref(),
        }
    }

    /// Returns the end of a task or a run that the log does not end.
    fn without_word(at: Nanos, state: &'static str) -> Self {
        Self {
            at,
            state,
            status: None,
            attempt: None,
            own: None,
        }
    }
}

/// The `error.type` of errors without a type.
const OTHER: &str = "_OTHER";

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Do => "do",
        Kind::Sleep => "sleep",
        Kind::SleepUntil => "sleepUntil",
        Kind::WaitForEvent => "waitForEvent",
        Kind::Workflow => "workflow",
    }
}
