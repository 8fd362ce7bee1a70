//! The scenarios: each takes `port=` and `pid=` of a server that has just been started.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::Result;
use crate::args::Args;
use crate::hub::{Hub, Id};
use crate::process::Process;
use crate::viewer::{BY_NUMBER, Viewer};

/// Runs a scenario; the report is one JSON object. With `sparse=1` ids are not 1, 2, 3, and the driver's numbers in
/// the events are checked instead.
pub(crate) fn run(scenario: &str, args: &Args) -> Result<Value> {
    let mut bench = Bench::new(args)?;
    match scenario {
        "first" => bench.first(),
        "replay" => bench.replay(args),
        "resume" => bench.resume(args),
        "fan-out" => bench.fan_out(args),
        "merged" => bench.merged(args),
        "merged-replay" => bench.merged_replay(args),
        "get" => bench.get(args),
        "latency" => bench.latency(args),
        "requests" => bench.requests(args),
        "storm" => bench.storm(args),
        "ingest" => bench.ingest(args),
        "stalled" => bench.stalled(args),
        "idle" => bench.idle(args),
        "fill" => bench.fill(args),
        "open" => bench.open_logs(args),
        "vanish" => bench.vanish(args),
        _ => Err("there is no such scenario".into()),
    }
}

struct Bench {
    hub: Hub,
    server: Process,
    cap: Duration,
    quiet: Duration,
    /// The resources that the two processes had used when the clock was started.
    started: Instant,
    server_cpu: Option<Duration>,
    client_cpu: Option<Duration>,
    memory: Option<u64>,
    /// The events that each viewer had then, if it had any.
    early: u64,
}

/// How long everything that is not measured may take.
const PATIENCE: Duration = Duration::from_secs(60);

impl Bench {
    fn new(args: &Args) -> Result<Self> {
        BY_NUMBER.store(args.number_or("sparse", 0)? == 1, Ordering::Relaxed);
        Ok(Self {
            hub: Hub::new(args.number("port")?)?,
            server: Process::new(args.number("pid")?),
            cap: args.cap()?,
            quiet: args.quiet()?,
            started: Instant::now(),
            server_cpu: None,
            client_cpu: None,
            memory: None,
            early: 1,
        })
    }

    /// The first requests of an isolate, one after another: one that the Worker answers alone, one that appends an event,
    /// and a viewer of it.
    fn first(&mut self) -> Result<Value> {
        self.start();
        let asked = self.hub.get_missing("/nothing")?;
        let request = self.answer(asked)?;
        let posted = Instant::now();
        let appended = self.hub.post("/log/event?number=1", "")?;
        let append = self.answer(appended)?.saturating_duration_since(posted);
        let came = Instant::now();
        let viewer = self.hub.view("/log/sse", 0, Viewer::new(0))?;
        let complete = self.run_until_have(&[viewer], 1, |_| false)?;
        let event = self.hub.viewer(viewer).and_then(|viewer| viewer.first);
        let mut report = self.report(&[viewer], 1, complete);
        report["requestMs"] = json!(self.milliseconds(request));
        report["appendMs"] = json!(append.as_secs_f64() * 1000.0);
        let viewed = event.map(|event| event.saturating_duration_since(came));
        report["viewerMs"] = json!(viewed.map(|taken| taken.as_secs_f64() * 1000.0));
        Ok(report)
    }

    /// Waits for the answer of a request, and returns when it was complete.
    fn answer(&mut self, id: Id) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        self.hub.run(deadline, |hub| hub.has_answered(id))?;
        let answered = self.hub.answered(id);
        answered.ok_or_else(|| "there was no answer in time".into())
    }

    /// `clients=` streams of `path=`, until each has the `expect=` events that are stored. With
    /// `warm=1` the object has been read from before, if only its last event.
    fn replay(&mut self, args: &Args) -> Result<Value> {
        let path = args.text("path")?;
        let (clients, expect) = (args.count("clients")?, args.number("expect")?);
        if args.number_or("warm", 0)? == 1 {
            self.resume_once(path, expect - 1, expect)?;
        }
        self.start();
        let mut ids = Vec::with_capacity(clients);
        for _ in 0..clients {
            ids.push(self.hub.view(path, 0, Viewer::new(0))?);
        }
        let complete = self.run_until_have(&ids, expect, |_| false)?;
        let mut report = self.report(&ids, expect, complete);
        let first = ids.iter().filter_map(|id| self.hub.viewer(*id)?.first);
        let mut first: Vec<f64> = first.map(|time| self.milliseconds(time)).collect();
        report["firstMs"] = json!(percentile(&mut first, 50));
        report["firstAtMs"] = json!(first.first().map(|milliseconds| self.epoch(*milliseconds)));
        Ok(report)
    }

    /// `times=` clients, one after another, each of which resumes `path=` after the event `after=`
    /// and has all `expect=` stored events then.
    fn resume(&mut self, args: &Args) -> Result<Value> {
        let (path, after) = (args.text("path")?, args.number("after")?);
        let (times, expect) = (args.count("times")?, args.number("expect")?);
        let together = usize::try_from(args.number_or("together", 1)?)?;
        self.resume_once(path, expect - 1, expect)?;
        self.start();
        let mut ids = Vec::with_capacity(times);
        let mut taken = Vec::with_capacity(times);
        while ids.len() < times {
            for (id, milliseconds) in self.resume_together(path, together, after, expect)? {
                ids.push(id);
                taken.push(milliseconds);
            }
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let mut report = self.report(&ids, expect - after, true);
        report["resumeMs"] = json!(percentile(&mut taken, 50));
        report["resumesPerSecond"] = json!(rate(ids.len() as u64, seconds));
        let cpu = report["cpuMs"].as_f64();
        report["cpuUsPerResume"] = json!(cpu.map(|ms| ms * 1000.0 / ids.len() as f64));
        Ok(report)
    }

    /// `clients=` viewers of `path=` that all come back at once after the event `after=`; then comes event
    /// `expect=` + 1, which each has when it is live. They stay for `holdMs=` after that, which is no part of the report;
    /// that they begin to is said on the standard error.
    fn storm(&mut self, args: &Args) -> Result<Value> {
        let (path, after) = (args.text("path")?, args.number("after")?);
        let (clients, expect) = (args.count("clients")?, args.number("expect")?);
        self.start();
        let mut ids = Vec::with_capacity(clients);
        for _ in 0..clients {
            ids.push(self.hub.view(path, after, Viewer::new(after))?);
        }
        let post = format!("/log/append?from={}&batch=1&count=1", expect + 1);
        self.hub.post(&post, "")?;
        let complete = self.run_until_have(&ids, expect + 1 - after, |_| false)?;
        let mut report = self.report(&ids, expect + 1 - after, complete);
        report["allLiveMs"] = json!(report["seconds"].as_f64().map(|seconds| seconds * 1000.0));
        let cpu = report["cpuMs"].as_f64();
        report["cpuUsPerViewer"] = json!(cpu.map(|ms| ms * 1000.0 / clients as f64));
        let hold = args.number_or("holdMs", 0)?;
        if hold > 0 {
            eprintln!("all {clients} are live");
            let end = Instant::now() + Duration::from_millis(hold);
            self.hub.run(end, |_| false)?;
        }
        Ok(report)
    }

    /// `viewers=` viewers come, `together=` at a time, and leave: every other one before it is answered, the others as
    /// soon as they have the first event. After each such wave comes an event, which `healthy=` viewers get. `restMs=`
    /// later it is seen what the server still has.
    fn vanish(&mut self, args: &Args) -> Result<Value> {
        let (viewers, together) = (args.count("viewers")?, args.count("together")?);
        let healthy = args.count("healthy")?;
        let rest = Duration::from_millis(args.number("restMs")?);
        let ids = self.open("log", healthy, false)?;
        self.start();
        let files = self.server.files();
        let (mut left, mut number) = (viewers, 1);
        let mut driver: Option<Id> = None;
        while left > 0 {
            let size = left.min(together);
            left -= size;
            let mut wave = Vec::with_capacity(size);
            for _ in 0..size {
                wave.push(self.hub.view("/log/sse", 0, Viewer::new(0))?);
            }
            // The requests go out.
            self.hub.turn(Duration::from_millis(1))?;
            let (early, late): (Vec<Id>, Vec<Id>) = wave.iter().partition(|id| **id % 2 == 0);
            for id in early {
                self.hub.close(id);
            }
            let deadline = Instant::now() + PATIENCE;
            let have_all = self.hub.run(deadline, |hub| {
                let mut late = late.iter().filter_map(|id| hub.viewer(*id));
                late.all(|viewer| viewer.first.is_some())
            })?;
            if !have_all {
                return Err("not every viewer got the first event".into());
            }
            for id in late {
                self.hub.close(id);
            }
            number += 1;
            driver = Some(
                self.hub
                    .post(&format!("/log/append?from={number}&batch=1&count=1"), "")?,
            );
            let answered = |hub: &Hub| driver.is_none_or(|driver| hub.has_answered(driver));
            self.hub.run(deadline, answered)?;
            // Or its connection would count as one that the server keeps.
            if let Some(driver) = driver.take_if(|driver| self.hub.has_answered(*driver)) {
                self.hub.close(driver);
            }
        }
        let busy = |hub: &Hub| driver.is_some_and(|driver| !hub.has_answered(driver));
        let complete = self.run_until_have(&ids, number, busy)?;
        let mut report = self.report(&ids, number, complete);
        let seconds = self.started.elapsed().as_secs_f64();
        report["vanishedPerSecond"] = json!(rate(viewers as u64, seconds));
        let cpu = report["cpuMs"].as_f64();
        report["cpuUsPerViewer"] = json!(cpu.map(|ms| ms * 1000.0 / viewers as f64));
        self.hub.run(Instant::now() + rest, |_| false)?;
        report["memoryAfter"] = json!(self.server.memory());
        report["filesBefore"] = json!(files);
        report["filesAfter"] = json!(self.server.files());
        Ok(report)
    }

    /// Lets several clients resume at once: see [`resume_once`](Self::resume_once).
    fn resume_together(
        &mut self,
        path: &str,
        clients: usize,
        after: u64,
        newest: u64,
    ) -> Result<Vec<(Id, f64)>> {
        let started = Instant::now();
        let mut ids = Vec::with_capacity(clients);
        for _ in 0..clients {
            ids.push(self.hub.view(path, after, Viewer::new(after))?);
        }
        let has_all = |hub: &Hub| {
            let mut viewers = ids.iter().filter_map(|id| hub.viewer(*id));
            viewers.all(|viewer| viewer.counts().distinct >= newest - after)
        };
        if !self.hub.run(started + PATIENCE, has_all)? {
            return Err("a client did not get the events after its position".into());
        }
        let mut resumed = Vec::with_capacity(clients);
        for id in ids {
            let last = self.hub.viewer(id).and_then(|viewer| viewer.last);
            let taken = last.map_or(Duration::ZERO, |last| last - started);
            self.hub.close(id);
            resumed.push((id, taken.as_secs_f64() * 1000.0));
        }
        Ok(resumed)
    }

    /// Reads a log's events after this one up to the newest, and says how long it took.
    fn resume_once(&mut self, path: &str, after: u64, newest: u64) -> Result<(Id, f64)> {
        let resumed = self.resume_together(path, 1, after, newest)?;
        resumed.first().copied().ok_or_else(|| "no client".into())
    }

    /// `viewers=` viewers get `batches=` batches of `batch=` events, sent as fast as the viewers read them. The log is `log`,
    /// unless `log=` says another one, and `path=` where its events come from.
    fn fan_out(&mut self, args: &Args) -> Result<Value> {
        let (viewers, batches) = (args.count("viewers")?, args.number("batches")?);
        let batch = args.number("batch")?;
        let log = args.text("log").unwrap_or("log");
        let ids = match args.text("path") {
            Ok(path) => {
                self.append_first(&format!("/{log}/append?from=1&batch=1&count=1"))?;
                self.watch(path, viewers, false)?
            }
            Err(_) => self.open(log, viewers, false)?,
        };
        self.start();
        let path = format!("/{log}/append?from=2&batch={batch}&count={batches}");
        let driver = self.hub.post(&path, "")?;
        let expect = 1 + batch * batches;
        let complete = self.run_until_have(&ids, expect, |hub| !hub.has_answered(driver))?;
        Ok(self.report(&ids, expect, complete))
    }

    /// `viewers=` streams of `runs=` runs each, until each has the `expect=` events that are stored of every run.
    fn merged_replay(&mut self, args: &Args) -> Result<Value> {
        let (viewers, runs) = (args.count("viewers")?, args.count("runs")?);
        let expect = args.number("expect")? * runs as u64;
        self.start();
        let ids = self.view_runs(viewers, runs)?;
        let complete = self.run_until_have(&ids, expect, |_| false)?;
        Ok(self.report(&ids, expect, complete))
    }

    /// `viewers=` streams of `runs=` runs each, while `batches=` events are appended to every run, one after another and to
    /// all runs at the same time.
    fn merged(&mut self, args: &Args) -> Result<Value> {
        let (viewers, runs) = (args.count("viewers")?, args.count("runs")?);
        let batches = args.number("batches")?;
        for run in 0..runs {
            self.append_first(&format!("/log-{run}/append?from=1&batch=1&count=1"))?;
        }
        let ids = self.view_runs(viewers, runs)?;
        let has_first = |hub: &Hub| {
            let mut viewers = ids.iter().filter_map(|id| hub.viewer(*id));
            viewers.all(|viewer| viewer.counts().distinct >= runs as u64)
        };
        if !self.hub.run(Instant::now() + PATIENCE, has_first)? {
            return Err("not every viewer got the first event of every run".into());
        }
        self.early = runs as u64;
        self.start();
        let post = |run| format!("/log-{run}/append?from=2&batch=1&count={batches}");
        let drivers = (0..runs).map(|run| self.hub.post(&post(run), ""));
        let drivers = drivers.collect::<Result<Vec<Id>>>()?;
        let expect = (1 + batches) * runs as u64;
        let complete = self.run_until_have(&ids, expect, |hub| {
            !drivers.iter().all(|driver| hub.has_answered(*driver))
        })?;
        Ok(self.report(&ids, expect, complete))
    }

    fn view_runs(&mut self, viewers: usize, runs: usize) -> Result<Vec<Id>> {
        let names: Vec<String> = (0..runs).map(|run| format!("run=log-{run}")).collect();
        let path = format!("/sse?{}", names.join("&"));
        let view = |_| self.hub.view(&path, 0, Viewer::of_runs(runs));
        (0..viewers).map(view).collect()
    }

    /// `times=` requests for `path=`, one after another over one connection. Each answer has `contains=` in it.
    fn get(&mut self, args: &Args) -> Result<Value> {
        let (path, times) = (args.text("path")?, args.count("times")?);
        let expected = args.text("contains")?.as_bytes();
        // The first ones are answered by what is not compiled yet.
        let warm = times / 4 + 1;
        let id = self.hub.get(path)?;
        let mut taken = Vec::with_capacity(times);
        for turn in 0..times + warm {
            if turn == warm {
                self.start();
            }
            let begun = Instant::now();
            if turn > 0 {
                self.hub.get_again(id, path)?;
            }
            if !self.hub.run(begun + PATIENCE, |hub| hub.has_answered(id))? {
                return Err("there was no answer in time".into());
            }
            if memchr::memmem::find(self.hub.text(id), expected).is_none() {
                return Err("an answer is not the one that is expected".into());
            }
            if turn >= warm {
                taken.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let mut report = self.usage(times as u64);
        report["seconds"] = json!(seconds);
        report["perSecond"] = json!(rate(times as u64, seconds));
        report["answerMs"] = json!(percentile(&mut taken, 50));
        Ok(report)
    }

    /// `logs=` logs with `viewers=` viewers each get `rate=` events a second each for `seconds=`.
    fn latency(&mut self, args: &Args) -> Result<Value> {
        let (logs, viewers) = (args.count("logs")?, args.count("viewers")?);
        let (rate, seconds) = (args.number("rate")?, args.number("seconds")?);
        let mut drivers = Vec::new();
        let mut watching: Vec<Vec<Id>> = Vec::new();
        for log in 0..logs {
            watching.push(self.open(&format!("log-{log}"), viewers, true)?);
            let path = format!("/log-{log}/append?from=2&batch=1");
            drivers.push(self.hub.post_bytes(&path)?);
        }
        // Opens the drivers' logs before the measurement.
        self.hub
            .run(Instant::now() + Duration::from_millis(500), |_| false)?;

        self.cap += Duration::from_secs(seconds);
        self.start();
        let count = rate * seconds;
        let interval = Duration::from_secs(1) / u32::try_from(rate)? / u32::try_from(logs)?;
        let mut sent: Vec<Vec<Instant>> = vec![Vec::new(); logs];
        for turn in 0..u32::try_from(count)? * u32::try_from(logs)? {
            let due = self.started + interval * turn;
            self.hub.run(due, |_| false)?;
            let log = turn as usize % logs;
            if let (Some(driver), Some(sent)) = (drivers.get(log), sent.get_mut(log)) {
                sent.push(Instant::now());
                self.hub.send_byte(*driver)?;
            }
        }
        let expect = 1 + count;
        let all: Vec<Id> = watching.iter().flatten().copied().collect();
        let complete = self.run_until_have(&all, expect, |_| false)?;
        let mut report = self.report(&all, expect, complete);
        for driver in drivers {
            self.hub.end_bytes(driver)?;
        }

        let mut latencies = self.latencies(&watching, &sent)?;
        report["p50Ms"] = json!(percentile(&mut latencies, 50));
        report["p99Ms"] = json!(percentile(&mut latencies, 99));
        Ok(report)
    }

    /// Milliseconds from the sending of each log's events to each of its viewers.
    fn latencies(&self, watching: &[Vec<Id>], sent: &[Vec<Instant>]) -> Result<Vec<f64>> {
        let mut latencies = Vec::new();
        for (viewers, sent) in watching.iter().zip(sent) {
            for viewer in viewers.iter().filter_map(|id| self.hub.viewer(*id)) {
                for (id, time) in viewer.times.iter().flatten() {
                    // All wait for the first event of a log at the beginning.
                    let sent = usize::try_from(*id)?
                        .checked_sub(2)
                        .and_then(|index| sent.get(index));
                    if let Some(sent) = sent {
                        latencies.push(time.duration_since(*sent).as_secs_f64() * 1000.0);
                    }
                }
            }
        }
        Ok(latencies)
    }

    /// `logs=` logs with `viewers=` viewers each get `rate=` events a second each for `seconds=`, each event by a
    /// request of its own, as a webhook's.
    fn requests(&mut self, args: &Args) -> Result<Value> {
        let (logs, viewers) = (args.count("logs")?, args.count("viewers")?);
        let (rate, seconds) = (args.number("rate")?, args.number("seconds")?);
        let mut watching: Vec<Vec<Id>> = Vec::new();
        for log in 0..logs {
            watching.push(self.open(&format!("log-{log}"), viewers, true)?);
        }
        self.cap += Duration::from_secs(seconds);
        self.start();
        let count = rate * seconds;
        let interval = Duration::from_secs(1) / u32::try_from(rate)? / u32::try_from(logs)?;
        let mut sent: Vec<Vec<Instant>> = vec![Vec::new(); logs];
        // Requests go over connections on which the one before was answered.
        let (mut idle, mut busy) = (Vec::new(), Vec::<(Id, Instant)>::new());
        let mut taken = Vec::new();
        for turn in 0..u32::try_from(count)? * u32::try_from(logs)? {
            let due = self.started + interval * turn;
            self.hub.run(due, |_| false)?;
            self.collect(&mut busy, &mut idle, &mut taken);
            let log = turn as usize % logs;
            let Some(sent) = sent.get_mut(log) else {
                continue;
            };
            let path = format!("/log-{log}/event?number={}", sent.len() + 2);
            let now = Instant::now();
            sent.push(now);
            let id = match idle.pop() {
                Some(id) => {
                    self.hub.post_again(id, &path)?;
                    id
                }
                None => self.hub.post(&path, "")?,
            };
            busy.push((id, now));
        }
        let all: Vec<Id> = watching.iter().flatten().copied().collect();
        let complete = self.run_until_have(&all, 1 + count, |hub| {
            busy.iter().any(|(id, _)| hub.answered(*id).is_none())
        })?;
        self.collect(&mut busy, &mut idle, &mut taken);
        let mut report = self.report(&all, 1 + count, complete);
        let mut latencies = self.latencies(&watching, &sent)?;
        report["p50Ms"] = json!(percentile(&mut latencies, 50));
        report["p99Ms"] = json!(percentile(&mut latencies, 99));
        report["requestP50Ms"] = json!(percentile(&mut taken, 50));
        report["requestP99Ms"] = json!(percentile(&mut taken, 99));
        Ok(report)
    }

    /// Moves the connections whose request was answered to the idle ones, with the milliseconds that it took.
    fn collect(&self, busy: &mut Vec<(Id, Instant)>, idle: &mut Vec<Id>, taken: &mut Vec<f64>) {
        busy.retain(|(id, sent)| {
            let Some(answered) = self.hub.answered(*id) else {
                return true;
            };
            taken.push(answered.duration_since(*sent).as_secs_f64() * 1000.0);
            idle.push(*id);
            false
        });
    }

    /// `batches=` batches of `batch=` events to the log `log=`, with nobody watching. With `from=` that is the first one's number.
    fn ingest(&mut self, args: &Args) -> Result<Value> {
        let (log, batch) = (args.text("log")?, args.number("batch")?);
        let batches = args.number("batches")?;
        self.start();
        let from = args.number_or("from", 1)?;
        let path = format!("/{log}/append?from={from}&batch={batch}&count={batches}");
        let driver = self.hub.post(&path, "")?;
        let done = self
            .hub
            .run(self.started + PATIENCE, |hub| hub.has_answered(driver))?;
        if !done {
            return Err("the batches were not taken in time".into());
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let mut report = self.usage(batch * batches);
        report["seconds"] = json!(seconds);
        report["events"] = json!(batch * batches);
        report["perSecond"] = json!(rate(batch * batches, seconds));
        Ok(report)
    }

    /// `healthy=` viewers and `stalled=` ones that do not read get `batches=` batches of `batch=`
    /// events; afterwards those that stalled read again.
    fn stalled(&mut self, args: &Args) -> Result<Value> {
        let (healthy, stalled) = (args.count("healthy")?, args.count("stalled")?);
        let (batch, batches) = (args.number("batch")?, args.number("batches")?);
        let viewers = self.open("log", healthy + stalled, false)?;
        let (sleepers, awake) = viewers.split_at(stalled);
        for sleeper in sleepers {
            self.hub.stall(*sleeper, true);
        }
        self.start();
        let path = format!("/log/append?from=2&batch={batch}&count={batches}");
        let driver = self.hub.post(&path, "")?;
        let expect = 1 + batch * batches;
        let complete = self.run_until_have(awake, expect, |hub| !hub.has_answered(driver))?;
        let mut report = self.report(awake, expect, complete);

        for sleeper in sleepers {
            self.hub.stall(*sleeper, false);
        }
        self.started = Instant::now();
        let complete = self.run_until_have(sleepers, expect, |hub| !hub.has_answered(driver))?;
        report["stalled"] = self.report(sleepers, expect, complete);
        Ok(report)
    }

    /// `viewers=` viewers watch a log in which nothing happens for `seconds=`; then comes an event.
    /// The log is the one of the driver, unless `path=` and `post=` say where to read and append.
    fn idle(&mut self, args: &Args) -> Result<Value> {
        let (viewers, seconds) = (args.count("viewers")?, args.number("seconds")?);
        let path = args.text("path").unwrap_or("/log/sse");
        let post = |number: u64| match args.text("post") {
            Ok(post) => post.to_owned(),
            Err(_) => format!("/log/append?from={number}&batch=1&count=1"),
        };
        self.append_first(&post(1))?;
        let mut ids = self.watch(path, 1, false)?;
        let before = self.server.memory();
        self.start();
        ids.extend(self.watch(path, viewers - 1, false)?);
        let connected = self.usage(viewers as u64 - 1);
        let watched = self.server.memory();
        self.start();
        let end = self.started + Duration::from_secs(seconds);
        self.hub.run(end, |_| false)?;
        let cpu = self.usage(0)["cpuMs"].as_f64();

        self.start();
        self.hub.post(&post(2), "#2")?;
        let complete = self.run_until_have(&ids, 2, |_| false)?;
        let mut report = self.report(&ids, 2, complete);
        let grown = difference(watched, before);
        report["nextEventMs"] = json!(report["seconds"].as_f64().map(|seconds| seconds * 1000.0));
        report["connectUsPerViewer"] = connected["cpuUsPerEvent"].clone();
        report["cpuMsPerSecond"] = json!(cpu.map(|cpu| cpu / seconds as f64));
        report["memoryPerViewer"] = json!(grown.map(|bytes| bytes as f64 / viewers as f64));
        Ok(report)
    }

    /// Appends to `logs=` logs `short=` reports each, and to as many others `long=`.
    fn fill(&mut self, args: &Args) -> Result<Value> {
        for log in 0..args.number("logs")? {
            for (name, count) in [
                ("short", args.number("short")?),
                ("long", args.number("long")?),
            ] {
                let batch = count.min(100);
                let batches = count / batch;
                self.append_first(&format!(
                    "/{name}-{log}/append?from=1&batch={batch}&count={batches}&reports=1"
                ))?;
            }
        }
        Ok(json!({}))
    }

    /// Opens these logs, each for the first time since the server was started, short and long ones in turns.
    fn open_logs(&mut self, args: &Args) -> Result<Value> {
        // Logs that are new, so that what is compiled is compiled.
        for log in 0..20 {
            self.append_first(&format!("/new-{log}/append?batch=1&count=0"))?;
        }
        self.start();
        let (mut short, mut long) = (Vec::new(), Vec::new());
        for log in 0..args.number("logs")? {
            for (name, taken) in [("short", &mut short), ("long", &mut long)] {
                let begun = Instant::now();
                self.append_first(&format!("/{name}-{log}/append?batch=1&count=0"))?;
                taken.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
        }
        let mut report = self.usage(0);
        let (short, long) = (percentile(&mut short, 50), percentile(&mut long, 50));
        report["openShortMs"] = json!(short);
        report["openLongMs"] = json!(long);
        report["openRatio"] = json!(long.zip(short).map(|(long, short)| long / short));
        Ok(report)
    }

    /// Opens a log of the driver with one event, and viewers that have got it.
    fn open(&mut self, log: &str, viewers: usize, with_times: bool) -> Result<Vec<Id>> {
        self.append_first(&format!("/{log}/append?from=1&batch=1&count=1"))?;
        self.watch(&format!("/{log}/sse"), viewers, with_times)
    }

    fn append_first(&mut self, path: &str) -> Result<()> {
        let first = self.hub.post(path, "#1")?;
        let deadline = Instant::now() + PATIENCE;
        if !self.hub.run(deadline, |hub| hub.has_answered(first))? {
            return Err("the first event was not taken".into());
        }
        Ok(())
    }

    fn watch(&mut self, path: &str, viewers: usize, with_times: bool) -> Result<Vec<Id>> {
        let mut ids = Vec::with_capacity(viewers);
        for _ in 0..viewers {
            let viewer = Viewer::new(0);
            let viewer = if with_times {
                viewer.with_times()
            } else {
                viewer
            };
            ids.push(self.hub.view(path, 0, viewer)?);
        }
        let deadline = Instant::now() + PATIENCE;
        let all = self.hub.run(deadline, |hub| {
            let viewers = ids.iter().filter_map(|id| hub.viewer(*id));
            viewers.into_iter().all(|viewer| viewer.first.is_some())
        })?;
        if !all {
            return Err("not every viewer got the first event".into());
        }
        Ok(ids)
    }

    fn start(&mut self) {
        self.server.reset_peak();
        self.memory = self.server.memory();
        self.server_cpu = self.server.cpu();
        self.client_cpu = Process::this().cpu();
        self.started = Instant::now();
    }

    /// Returns whether these got this many events before the cap, or before the silence.
    fn run_until_have(
        &mut self,
        ids: &[Id],
        expect: u64,
        busy: impl Fn(&Hub) -> bool,
    ) -> Result<bool> {
        let mut progress = (0, Instant::now());
        let mut complete = false;
        let (cap, quiet) = (self.started + self.cap, self.quiet);
        self.hub.run(cap, |hub| {
            let viewers = || ids.iter().filter_map(|id| hub.viewer(*id));
            complete = !busy(hub) && viewers().all(|viewer| viewer.counts().distinct >= expect);
            let received = viewers()
                .map(|viewer| viewer.counts().distinct)
                .sum::<u64>();
            if received != progress.0 || received == 0 || busy(hub) {
                progress = (received, Instant::now());
            }
            complete || progress.1.elapsed() > quiet
        })?;
        Ok(complete)
    }

    /// Returns what these viewers got since the start, and its cost. Viewers that were cut off by the cap lost the
    /// events that they skipped; others, those that they did not get.
    fn report(&self, ids: &[Id], expect: u64, complete: bool) -> Value {
        let viewers: Vec<&Viewer> = ids.iter().filter_map(|id| self.hub.viewer(*id)).collect();
        let capped = !complete && self.started.elapsed() >= self.cap;
        let sum =
            |count: fn(&Viewer) -> u64| viewers.iter().map(|viewer| count(viewer)).sum::<u64>();
        let received = sum(|viewer| viewer.counts().distinct);
        let lost = if capped {
            sum(|viewer| viewer.counts().gaps)
        } else {
            (expect * viewers.len() as u64).saturating_sub(received)
        };
        // The time of the last event, not that at which the silence was noticed.
        let last = viewers.iter().filter_map(|viewer| viewer.last).max();
        let seconds = last.map_or(0.0, |last| self.milliseconds(last) / 1000.0);
        // What viewers had got before.
        let early = viewers
            .iter()
            .filter(|viewer| viewer.first < Some(self.started));
        let deliveries = received.saturating_sub(early.count() as u64 * self.early);
        let mut report = self.usage(deliveries);
        report["seconds"] = json!(seconds);
        report["deliveries"] = json!(deliveries);
        report["perSecond"] = json!(rate(deliveries, seconds));
        report["capped"] = json!(capped);
        report["lost"] = json!(lost);
        report["duplicates"] = json!(sum(|viewer| viewer.counts().duplicates));
        report["disorder"] = json!(sum(|viewer| viewer.counts().disorder));
        report["wrong"] = json!(sum(|viewer| viewer.counts().wrong));
        report
    }

    /// Returns the resources that the two processes used since the start, for this many events.
    fn usage(&self, events: u64) -> Value {
        let used = |now: Option<Duration>, before: Option<Duration>| {
            Some((now? - before?).as_secs_f64() * 1000.0)
        };
        let cpu = used(self.server.cpu(), self.server_cpu);
        let peak = self.server.peak_memory();
        json!({
            "cpuMs": cpu,
            "cpuUsPerEvent": cpu.map(|ms| ms * 1000.0 / events.max(1) as f64),
            "clientCpuMs": used(Process::this().cpu(), self.client_cpu),
            "memory": self.memory,
            "peakMemory": peak,
            "memoryGrowth": difference(peak, self.memory),
        })
    }

    fn milliseconds(&self, time: Instant) -> f64 {
        time.saturating_duration_since(self.started).as_secs_f64() * 1000.0
    }

    /// Milliseconds since the start as those of the Unix epoch, for the clock of another process.
    fn epoch(&self, milliseconds: f64) -> Option<f64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let started = now.saturating_sub(self.started.elapsed());
        Some(started.as_secs_f64() * 1000.0 + milliseconds)
    }
}

fn rate(events: u64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| events as f64 / seconds)
}

fn difference(after: Option<u64>, before: Option<u64>) -> Option<i64> {
    Some(i64::try_from(after?).ok()? - i64::try_from(before?).ok()?)
}

/// Returns the value below which this percentage of the values is.
fn percentile(values: &mut [f64], percent: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    values
        .get((values.len() * percent / 100).min(last))
        .copied()
}
