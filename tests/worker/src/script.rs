//! A workflow that does what its params say, with or without events.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{LocalBoxFuture, join_all};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use ssetarget::cloudflare::{
    WorkflowEntrypoint, WorkflowEvent, WorkflowEventsNamespace, WorkflowRunStep, WorkflowStep,
};
use ssetarget::workflow::{
    Backoff, NonRetryableError, Progress, Retries, Step, StepConfig, StepContext, StepError,
    WaitForEvent,
};
use worker::{Context, Delay, Env};

use crate::gate;
use crate::workflows;

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
}

fn yes() -> bool {
    true
}

/// What the workflow does next. Most give an output.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Op {
    /// A step: outputs its value.
    Do(DoStep),
    /// This many steps of one name, one after the other: outputs their number.
    Many { name: String, steps: u32 },
    /// Outputs nothing.
    Sleep { name: String, ms: u64 },
    /// So long after the instance was created. Outputs nothing.
    SleepUntil { name: String, ms: u64 },
    /// Outputs the event.
    Wait {
        name: String,
        #[serde(rename = "type")]
        event_type: String,
        timeout: Option<u64>,
    },
    /// As `wait`, for a payload that is a number.
    WaitNumber { name: String },
    /// Outputs those of its ops as one list.
    Group { name: String, ops: Vec<Op> },
    /// At the same time: outputs a list with a list for each.
    Join(Vec<Vec<Op>>),
    /// Outputs what went wrong with an op, or goes on failing with it.
    Catch { op: Box<Op>, rethrow: bool },
    /// Outputs the calls to the log so far, in this lifetime of the run.
    Calls,
    /// Fails with this message.
    Fail(String),
    /// Panics with this message.
    Panic(String),
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DoStep {
    name: String,
    /// How each attempt goes; those beyond succeed.
    #[serde(default)]
    attempts: Vec<Attempt>,
    /// What to wait for in every attempt.
    gate: Option<String>,
    /// What to report in every attempt.
    #[serde(default)]
    progress: Vec<f64>,
    #[serde(default)]
    attributes: Map<String, Value>,
    /// What it returns. Default: its own context.
    value: Option<Value>,
    retries: Option<RetriesConfig>,
    timeout: Option<u64>,
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
    Hang,
}

#[derive(Clone, Deserialize)]
struct RetriesConfig {
    limit: u32,
    delay: u64,
    backoff: String,
}

/// What a run returns.
#[derive(Serialize)]
pub struct Output {
    outputs: Vec<Value>,
    /// Calls to the log in this lifetime of the run.
    calls: Option<u32>,
}

pub struct Script {
    env: Env,
}

impl WorkflowEntrypoint for Script {
    type Params = Params;
    type Output = Output;

    fn new(_context: Context, env: Env) -> Self {
        Self { env }
    }

    async fn run(
        &self,
        event: WorkflowEvent<Params>,
        step: WorkflowStep,
    ) -> Result<Output, StepError> {
        let params = &event.payload;
        let interpreter = Interpreter {
            env: self.env.clone(),
            created: event.timestamp,
        };
        if !params.wrapped {
            let outputs = interpreter.all(&step, &params.ops).await?;
            let calls = None;
            return Ok(Output { outputs, calls });
        }
        let binding = workflows::events_binding(&event.workflow_name);
        let events = WorkflowEventsNamespace::from_env(&self.env, binding, &event.workflow_name)?;
        let hidden = params.hidden.clone();
        let step = events
            .wrap(&event, step)
            .should_dispatch(move |step| !hidden.contains(step.name));
        let outputs = step
            .workflow(async |step| interpreter.all(&step, &params.ops).await)
            .await?;
        let calls = step.calls();
        Ok(Output { outputs, calls })
    }
}

struct Interpreter {
    env: Env,
    created: std::time::SystemTime,
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
            Op::Many { name, steps } => {
                for number in 0..*steps {
                    step.run(name, async move |_| Ok(number)).await?;
                }
                Some((*steps).into())
            }
            Op::Sleep { name, ms } => {
                step.sleep(name, Duration::from_millis(*ms)).await?;
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
                    options = options.timeout(Duration::from_millis(*timeout));
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
            Op::Fail(message) => return Err(StepError::new(message)),
            #[allow(clippy::panic, reason = "what is tested")]
            Op::Panic(message) => panic!("{message}"),
        })
    }

    async fn do_step<S: Steps>(&self, step: &S, config: &DoStep) -> Result<Value, StepError> {
        let mut options = StepConfig::new();
        if let Some(retries) = &config.retries {
            let backoff = match retries.backoff.as_str() {
                "constant" => Backoff::Constant,
                "linear" => Backoff::Linear,
                _ => Backoff::Exponential,
            };
            let delay = Duration::from_millis(retries.delay);
            options = options.retries(Retries::new(retries.limit, delay).backoff(backoff));
        }
        if let Some(timeout) = config.timeout {
            options = options.timeout(Duration::from_millis(timeout));
        }
        let (config, env) = (config.clone(), self.env.clone());
        let name = config.name.clone();
        step.run_with(&name, options, async move |context| {
            config.attempt(&env, context).await
        })
        .await
    }
}

impl DoStep {
    #[allow(clippy::panic, reason = "what is tested")]
    async fn attempt(&self, env: &Env, context: StepContext) -> Result<Value, StepError> {
        for percent in &self.progress {
            context.progress(Progress::percent(*percent).message(format!("{percent} %")));
        }
        for (key, value) in &self.attributes {
            context.set_attribute(key, value.clone());
        }
        if let Some(gate) = &self.gate {
            gate::wait(env, gate).await?;
        }
        match self.attempts.get(context.attempt as usize - 1) {
            None | Some(Attempt::Ok) => {}
            Some(Attempt::Fail(message)) => return Err(StepError::new(message)),
            Some(Attempt::NonRetryable(message)) => {
                return Err(NonRetryableError::new(message).into());
            }
            Some(Attempt::TypeError(message)) => {
                let thrown = wasm_bindgen::JsValue::from(js_sys::TypeError::new(message));
                return Err(StepError::new(message).with_thrown(Rc::new(thrown)));
            }
            Some(Attempt::Panic(message)) => panic!("{message}"),
            Some(Attempt::PanicLater(message)) => {
                Delay::from(Duration::from_millis(1)).await;
                panic!("{message}");
            }
            Some(Attempt::Hang) => std::future::pending().await,
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

/// What a script needs besides steps.
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
