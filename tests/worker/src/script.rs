//! A workflow whose params are its script, with or without events.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::{
    Backoff, ByteStream, DelayContext, NonRetryableError, Progress, RefusedRun, Retries,
    RollbackConfig, RollbackContext, Sensitivity, Step, StepConfig, StepContext, StepError,
    StepFuture, StepOutput, WaitForEvent, WorkflowDuration, WorkflowEntrypoint, WorkflowEvent,
    WorkflowStep,
};
use futures_util::future::{LocalBoxFuture, join_all, try_join_all};
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use ssetarget::cloudflare::{WorkflowEventsNamespace, WorkflowRunStep};
use worker::{Context, Delay, Env};

use crate::{gate, trap, values, workflows};

/// The params of an instance.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Params {
    ops: Vec<Op>,
    /// Without events, if false.
    #[serde(default = "yes")]
    wrapped: bool,
    /// Steps of these names have no events.
    #[serde(default)]
    hidden: HashSet<String>,
    /// Uses the events of the workflow of this name; without it, those of its own.
    events_of: Option<String>,
}

fn yes() -> bool {
    true
}

/// The next action of the workflow. Most have an output.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Op {
    /// A step: outputs its value.
    Do(Box<DoStep>),
    /// This many steps of one name, one after the other, each with an attribute of this many bytes. Outputs their
    /// number.
    Many {
        name: String,
        steps: u32,
        #[serde(default)]
        bytes: usize,
    },
    /// Outputs nothing.
    Sleep { name: String, ms: WorkflowDuration },
    /// Sleeps until this long after the creation of the instance. Outputs nothing.
    SleepUntil { name: String, ms: u64 },
    /// Outputs the event.
    Wait {
        name: String,
        #[serde(rename = "type")]
        event_type: String,
        timeout: Option<WorkflowDuration>,
    },
    /// Works like `wait`, for a payload that is a number.
    WaitNumber { name: String },
    /// Outputs the outputs of its ops as one list.
    Group { name: String, ops: Vec<Op> },
    /// Runs the lists concurrently. Outputs a list with a list for each.
    Join(Vec<Vec<Op>>),
    /// Works like `join`, but the first error ends it.
    TryJoin(Vec<Vec<Op>>),
    /// Outputs the error of an op, or fails with it.
    Catch { op: Box<Op>, rethrow: bool },
    /// Outputs the calls to the log so far, in this lifetime of the run.
    Calls,
    /// A step whose result cannot be read again.
    Unreadable { name: String },
    /// Outputs which values of many forms change when they come back from steps.
    Values,
    /// A step whose result cannot be passed to JavaScript, for this reason.
    Refused(String),
    /// The run's own output cannot be passed to JavaScript.
    RefusedOutput,
    /// Outputs the event that the run was started with.
    Event,
    /// Records this when the run's code has ended. Outputs nothing.
    WaitUntil { record: String },
    /// Fails with this message.
    Fail(String),
    /// Panics with this message.
    Panic(String),
    /// Ends the WebAssembly instance in this way.
    Trap(String),
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DoStep {
    name: String,
    /// The outcome of each attempt; further ones succeed.
    #[serde(default)]
    attempts: Vec<Attempt>,
    /// The gate to wait for in every attempt.
    gate: Option<String>,
    /// The reports of every attempt.
    #[serde(default)]
    progress: Vec<f64>,
    #[serde(default)]
    attributes: Map<String, Value>,
    /// The value that it returns. Default: its own name, count and attempt.
    value: Option<Value>,
    /// It returns a stream instead, and outputs the stream's content.
    stream: Option<StreamConfig>,
    retries: Option<RetriesConfig>,
    timeout: Option<WorkflowDuration>,
    sensitive: Option<Sensitivity>,
    rollback: Option<RollbackStep>,
    /// The record for contexts, delay functions and rollbacks.
    record: Option<String>,
}

/// Chunks of this many bytes, and how the stream fails after them.
#[derive(Clone, Deserialize)]
struct StreamConfig {
    chunks: Vec<u32>,
    fail: Option<Attempt>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RollbackStep {
    #[serde(default)]
    attempts: Vec<Attempt>,
    retries: Option<RetriesConfig>,
    timeout: Option<WorkflowDuration>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Attempt {
    Ok,
    Fail(String),
    NonRetryable(String),
    /// Throws a JavaScript error of another class.
    TypeError(String),
    Panic(String),
    /// Panics after an await.
    PanicLater(String),
    /// Ends the WebAssembly instance in this way.
    Trap(String),
    Hang,
}

#[derive(Clone, Deserialize)]
struct RetriesConfig {
    limit: u32,
    delay: DelayConfig,
    backoff: Option<Backoff>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum DelayConfig {
    Constant(WorkflowDuration),
    /// A function with these answers after the first attempt, the second, and so on.
    Function(Vec<Answer>),
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Answer {
    Delay(WorkflowDuration),
    Attempt(Attempt),
}

impl RetriesConfig {
    fn retries(&self, env: &Env, record: Option<&String>) -> Retries {
        let retries = match &self.delay {
            DelayConfig::Constant(delay) => Retries::new(self.limit, *delay),
            DelayConfig::Function(answers) => {
                let (answers, env, record) = (answers.clone(), env.clone(), record.cloned());
                Retries::dynamic(self.limit, async move |failed: &DelayContext| {
                    let entry = json!({ "delay": context_json(&failed.ctx), "error": failed.error.message() });
                    record_to(&env, record.as_deref(), entry).await?;
                    match &answers[failed.ctx.attempt as usize - 1] {
                        Answer::Delay(delay) => Ok(*delay),
                        Answer::Attempt(attempt) => {
                            attempt.go().await?;
                            Ok(WorkflowDuration::milliseconds(0))
                        }
                    }
                })
            }
        };
        match self.backoff {
            Some(backoff) => retries.backoff(backoff),
            None => retries,
        }
    }
}

async fn record_to(env: &Env, record: Option<&str>, entry: Value) -> Result<(), StepError> {
    if let Some(record) = record {
        gate::record(env, record, &entry).await?;
    }
    Ok(())
}

/// Returns a context in its JavaScript form.
fn context_json(context: &StepContext) -> Value {
    let config = &context.config;
    let mut retries = json!({ "limit": config.retries.limit, "backoff": config.retries.backoff });
    if let Some(delay) = config.retries.delay {
        retries["delay"] = json!(delay);
    }
    let mut config_json = json!({ "retries": retries, "timeout": config.timeout });
    if let Some(sensitive) = config.sensitive {
        config_json["sensitive"] = json!(sensitive);
    }
    json!({
        "step": { "name": context.name, "count": context.count },
        "attempt": context.attempt,
        "config": config_json,
    })
}

/// The output of a run.
#[derive(Serialize)]
pub struct Output {
    outputs: Vec<Value>,
    /// Calls to the log in this lifetime of the run.
    calls: Option<u32>,
}

pub struct Script {
    context: Rc<Context>,
    env: Env,
}

impl WorkflowEntrypoint for Script {
    type Input = Params;
    type Output = Output;

    fn new(context: Context, env: Env) -> Self {
        let context = Rc::new(context);
        Self { context, env }
    }

    async fn refused(env: &Env, run: &RefusedRun, error: &StepError) -> worker::Result<()> {
        workflows::events(env, &run.workflow_name)?
            .tell_refused(run, error)
            .await
    }

    async fn run(
        &self,
        event: WorkflowEvent<Params>,
        step: WorkflowStep,
    ) -> Result<Output, StepError> {
        let params = &event.payload;
        let interpreter = Interpreter {
            context: Rc::clone(&self.context),
            env: self.env.clone(),
            created: event.timestamp,
            event: json!({
                "instanceId": event.instance_id,
                "workflowName": event.workflow_name,
                "timestamp": since_epoch(event.timestamp),
                "schedule": event.schedule.as_ref().map(|schedule| json!({
                    "cron": schedule.cron,
                    "scheduledTime": since_epoch(schedule.scheduled_time),
                })),
            }),
        };
        if !params.wrapped {
            let outputs = interpreter.all(&step, &params.ops).await?;
            let calls = None;
            return Ok(Output { outputs, calls });
        }
        let binding = workflows::events_binding(&event.workflow_name);
        let name = params.events_of.as_ref().unwrap_or(&event.workflow_name);
        let events = WorkflowEventsNamespace::from_env(&self.env, binding, name)?;
        let hidden = params.hidden.clone();
        let run = events
            .wrap(&event, step)
            .should_dispatch(move |step| !hidden.contains(step.name));
        let outputs = run
            .workflow(async |step| interpreter.all(&step, &params.ops).await)
            .await?;
        let calls = Some(run.subrequests());
        Ok(Output { outputs, calls })
    }
}

fn since_epoch(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    WorkflowDuration::from(since.unwrap_or_default()).as_milliseconds()
}

struct Interpreter {
    context: Rc<Context>,
    env: Env,
    created: SystemTime,
    /// The event that the run was started with, without its params.
    event: Value,
}

impl Interpreter {
    fn all<'a, S: Steps>(
        &'a self,
        step: &'a S,
        ops: &'a [Op],
    ) -> LocalBoxFuture<'a, Result<Vec<Value>, StepError>> {
        Box::pin(async move {
            let mut outputs = Vec::new();
            for op in ops {
                outputs.extend(self.one(step, op).await?);
            }
            Ok(outputs)
        })
    }

    async fn one<S: Steps>(&self, step: &S, op: &Op) -> Result<Option<Value>, StepError> {
        Ok(match op {
            Op::Do(config) => Some(self.do_step(step, config).await?),
            Op::Many { name, steps, bytes } => {
                for number in 0..*steps {
                    let bytes = *bytes;
                    step.run(name, async move |context: StepContext| {
                        if bytes > 0 {
                            context.set_attribute("long", "x".repeat(bytes));
                        }
                        Ok(number)
                    })
                    .await?;
                }
                Some((*steps).into())
            }
            Op::Sleep { name, ms } => {
                step.sleep(name, *ms).await?;
                None
            }
            Op::SleepUntil { name, ms } => {
                let time = self.created + Duration::from_millis(*ms);
                step.sleep_until(name, time).await?;
                None
            }
            Op::Wait {
                name,
                event_type,
                timeout,
            } => {
                let mut options = WaitForEvent::new(event_type);
                if let Some(timeout) = timeout {
                    options = options.timeout(*timeout);
                }
                let event = step.wait_for_event::<Value>(name, options).await?;
                Some(json!({ "type": event.event_type, "payload": event.payload }))
            }
            Op::WaitNumber { name } => {
                let options = WaitForEvent::new("number");
                let event = step.wait_for_event::<u32>(name, options).await?;
                Some(event.payload.into())
            }
            Op::Group { name, ops } => Some(step.grouped(name, self, ops).await?.into()),
            Op::Join(branches) => {
                let branches = join_all(branches.iter().map(|ops| self.all(step, ops))).await;
                let outputs: Result<Vec<_>, _> = branches.into_iter().collect();
                Some(json!(outputs?))
            }
            Op::TryJoin(branches) => {
                let branches = branches.iter().map(|ops| self.all(step, ops));
                Some(json!(try_join_all(branches).await?))
            }
            Op::Catch { op, rethrow } => match Box::pin(self.one(step, op)).await {
                Ok(output) => output,
                Err(error) if *rethrow => return Err(error),
                Err(error) => Some(json!({
                    "error": error.message(),
                    "kind": format!("{:?}", error.kind()),
                    "isTimeout": error.is_timeout(),
                })),
            },
            Op::Calls => step.calls().map(Value::from),
            Op::Unreadable { name } => {
                step.run(name, async |_| Ok(Unreadable)).await?;
                None
            }
            Op::Values => Some(values::changed(step).await?),
            Op::Refused(what) => {
                values::refused(step, what).await?;
                None
            }
            Op::RefusedOutput => Some(u64::MAX.into()),
            Op::Event => Some(self.event.clone()),
            Op::WaitUntil { record } => {
                let (env, record) = (self.env.clone(), record.clone());
                self.context.wait_until(async move {
                    Delay::from(Duration::from_millis(50)).await;
                    let entry = json!("waited until");
                    if let Err(error) = gate::record(&env, &record, &entry).await {
                        worker::console_warn!("{error}");
                    }
                });
                None
            }
            Op::Fail(message) => return Err(StepError::new(message)),
            #[allow(clippy::panic, reason = "what is tested")]
            Op::Panic(message) => panic!("{message}"),
            Op::Trap(way) => {
                trap::spring(way);
                None
            }
        })
    }

    async fn do_step<S: Steps>(&self, step: &S, config: &DoStep) -> Result<Value, StepError> {
        let (own, env) = (config.clone(), self.env.clone());
        if let Some(stream) = config.stream.clone() {
            let run = step.run_with(&config.name, config.config(&env), async move |context| {
                own.attempt(&env, context).await?;
                Ok(stream.clone().open())
            });
            let run =
                self.with_rollback(run, config, async |output: ByteStream| digest(output).await);
            return digest(run.await?).await;
        }
        let run = step.run_with(&config.name, config.config(&env), async move |context| {
            own.attempt(&env, context).await
        });
        self.with_rollback(run, config, async |output| Ok(output))
            .await
    }

    fn with_rollback<'a, S: Step, T: StepOutput>(
        &self,
        run: StepFuture<'a, S, T>,
        config: &DoStep,
        show: impl AsyncFn(T) -> Result<Value, StepError> + 'static,
    ) -> StepFuture<'a, S, T> {
        let Some(rollback) = config.rollback.clone() else {
            return run;
        };
        let mut rollback_config = RollbackConfig::new();
        if let Some(retries) = &rollback.retries {
            let retries = retries.retries(&self.env, config.record.as_ref());
            rollback_config = rollback_config.retries(retries);
        }
        if let Some(timeout) = rollback.timeout {
            rollback_config = rollback_config.timeout(timeout);
        }
        let (env, record) = (self.env.clone(), config.record.clone());
        // The engine does not pass the number of the rollback's attempt.
        let attempts = Cell::new(0);
        run.rollback_with(rollback_config, async move |undo: RollbackContext<T>| {
            let mut entry = json!({
                "rollback": context_json(&undo.ctx),
                "error": undo.error.message(),
            });
            if let Some(output) = undo.output {
                entry["output"] = show(output).await?;
            }
            record_to(&env, record.as_deref(), entry).await?;
            let attempt = attempts.replace(attempts.get() + 1);
            match rollback.attempts.get(attempt) {
                Some(attempt) => attempt.go().await,
                None => Ok(()),
            }
        })
    }
}

impl DoStep {
    fn config(&self, env: &Env) -> StepConfig {
        let mut config = StepConfig::new();
        if let Some(retries) = &self.retries {
            config = config.retries(retries.retries(env, self.record.as_ref()));
        }
        if let Some(timeout) = self.timeout {
            config = config.timeout(timeout);
        }
        if let Some(sensitive) = self.sensitive {
            config = config.sensitive(sensitive);
        }
        config
    }

    async fn attempt(&self, env: &Env, context: StepContext) -> Result<Value, StepError> {
        for percent in &self.progress {
            context.progress(Progress::percent(*percent).message(format!("{percent} %")));
        }
        for (key, value) in &self.attributes {
            context.set_attribute(key, value.clone());
        }
        let entry = json!({ "attempt": context_json(&context) });
        record_to(env, self.record.as_deref(), entry).await?;
        if let Some(gate) = &self.gate {
            gate::wait(env, gate).await?;
        }
        if let Some(attempt) = self.attempts.get(context.attempt as usize - 1) {
            attempt.go().await?;
        }
        let StepContext {
            name,
            count,
            attempt,
            ..
        } = context;
        let own = json!({ "name": name, "count": count, "attempt": attempt });
        Ok(self.value.clone().unwrap_or(own))
    }
}

/// Names its type when it is read.
struct Unreadable;

impl Serialize for Unreadable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("the secret")
    }
}

impl<'de> Deserialize<'de> for Unreadable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u32::deserialize(deserializer).map(|_| Self)
    }
}

impl Attempt {
    #[allow(clippy::panic, reason = "what is tested")]
    async fn go(&self) -> Result<(), StepError> {
        match self {
            Self::Ok => Ok(()),
            Self::Fail(message) => Err(StepError::new(message)),
            Self::NonRetryable(message) => Err(NonRetryableError::new(message).into()),
            Self::TypeError(message) => {
                let thrown = wasm_bindgen::JsValue::from(js_sys::TypeError::new(message));
                Err(StepError::new(message).with_thrown(Rc::new(thrown)))
            }
            Self::Panic(message) => panic!("{message}"),
            Self::PanicLater(message) => {
                Delay::from(Duration::from_millis(1)).await;
                panic!("{message}");
            }
            Self::Trap(way) => {
                trap::spring(way);
                Ok(())
            }
            Self::Hang => std::future::pending().await,
        }
    }
}

impl StreamConfig {
    fn open(self) -> ByteStream {
        let chunks = self.chunks.into_iter().enumerate();
        let chunks = chunks.map(|(number, size)| {
            let bytes = (0..size).map(|at| (at as usize + number) as u8);
            Ok::<_, StepError>(bytes.collect::<Vec<u8>>())
        });
        let fail = stream::iter(self.fail).then(async |fail| {
            fail.go().await?;
            Ok(Vec::new())
        });
        ByteStream::new(stream::iter(chunks).chain(fail))
    }
}

/// Returns the number and the sum of a stream's bytes.
async fn digest(stream: ByteStream) -> Result<Value, StepError> {
    let bytes = stream.read_all().await?;
    let hash = bytes.iter().fold(0_u32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u32::from(*byte))
    });
    Ok(json!({ "bytes": bytes.len(), "hash": hash }))
}

/// The needs of a script besides steps.
trait Steps: Step {
    async fn grouped(
        &self,
        name: &str,
        interpreter: &Interpreter,
        ops: &[Op],
    ) -> Result<Vec<Value>, StepError>;

    fn calls(&self) -> Option<u32>;
}

impl Steps for WorkflowStep {
    async fn grouped(
        &self,
        _: &str,
        interpreter: &Interpreter,
        ops: &[Op],
    ) -> Result<Vec<Value>, StepError> {
        interpreter.all(self, ops).await
    }

    fn calls(&self) -> Option<u32> {
        None
    }
}

impl Steps for WorkflowRunStep {
    async fn grouped(
        &self,
        name: &str,
        interpreter: &Interpreter,
        ops: &[Op],
    ) -> Result<Vec<Value>, StepError> {
        self.group(name, async |step| interpreter.all(&step, ops).await)
            .await
    }

    fn calls(&self) -> Option<u32> {
        Some(self.dispatch().log().calls())
    }
}
