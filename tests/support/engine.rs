//! A workflow engine that behaves as Cloudflare's local one, and a world with faults: results are
//! cached by kind, name and count, the body runs again in each lifetime, attempt numbers go on
//! growing across lifetimes, and at every await point the process can be killed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::{
    DoStep, JsonCodec, JsonOutput, Runtime, Step, StepContext, StepError, StepErrorKind,
    StepOutput, WaitForEvent, WaitedEvent, WorkflowDuration,
};
use serde::de::DeserializeOwned;
use ssetarget::NewEvent;
use ssetarget::internals::{WorkflowLog, pack_facts};
use ssetarget::workflow::{
    BatchedDispatch, DispatchConfig, FactLog, Opened, Told, WorkflowEventStep,
};
use tokio::task::LocalSet;

use super::sql::Database;

/// The part of an instance's engine that outlives the process.
#[derive(Default)]
pub(crate) struct Engine {
    results: RefCell<HashMap<String, Result<serde_json::Value, String>>>,
    attempts: RefCell<HashMap<String, u32>>,
    /// The number of await points until the process is killed; none if it is not.
    fuel: Cell<Option<u32>>,
    killed: tokio::sync::Notify,
    /// The step during which a pause is requested.
    pause_in: RefCell<Option<String>>,
    pause: Cell<bool>,
    /// The engine's own log: attempts of steps, as they begin and end.
    pub(crate) log: RefCell<Vec<String>>,
}

impl Engine {
    /// Kills the process at this await point from now.
    pub(crate) fn kill_after(&self, await_points: u32) {
        self.fuel.set(Some(await_points));
    }

    /// Requests a pause while this step runs.
    pub(crate) fn pause_in(&self, step: &str) {
        *self.pause_in.borrow_mut() = Some(step.to_owned());
    }

    /// The same engine in a new process.
    pub(crate) fn revive(&self) {
        self.fuel.set(None);
    }

    /// Forgets that the step of this key (`do/name-1`) has run.
    pub(crate) fn forget(&self, key: &str) {
        self.results.borrow_mut().remove(key);
        self.attempts.borrow_mut().remove(key);
    }

    pub(crate) fn restart(&self) {
        self.results.borrow_mut().clear();
        self.attempts.borrow_mut().clear();
    }

    async fn tick(&self) {
        if let Some(fuel) = self.fuel.get() {
            if fuel == 0 {
                self.killed.notify_waiters();
                std::future::pending::<()>().await;
            }
            self.fuel.set(Some(fuel - 1));
        }
        tokio::task::yield_now().await;
    }

    fn begins(&self, step: &str) {
        if self
            .pause_in
            .borrow_mut()
            .take_if(|name| name == step)
            .is_some()
        {
            self.pause.set(true);
        }
    }

    fn suspended(&self) -> Result<(), StepError> {
        if self.pause.replace(false) {
            let message = "Aborting engine: User called pause";
            return Err(StepError::with_kind(StepErrorKind::Suspended, message));
        }
        Ok(())
    }

    /// Returns the number of the next attempt of this step, and counts it.
    pub(crate) fn next_attempt(&self, step: &str) -> u32 {
        let mut attempts = self.attempts.borrow_mut();
        let attempt = attempts.entry(step.to_owned()).or_default();
        *attempt += 1;
        *attempt
    }

    fn note(&self, entry: String) {
        self.log.borrow_mut().push(entry);
    }
}

/// The step object of one lifetime.
#[derive(Clone)]
pub(crate) struct FakeStep {
    engine: Rc<Engine>,
    counts: Rc<RefCell<HashMap<String, u32>>>,
}

impl FakeStep {
    pub(crate) fn new(engine: &Rc<Engine>) -> Self {
        Self {
            engine: Rc::clone(engine),
            counts: Rc::default(),
        }
    }

    fn count(&self, key: String) -> u32 {
        let mut counts = self.counts.borrow_mut();
        let count = counts.entry(key).or_default();
        *count += 1;
        *count
    }

    async fn wait(&self, kind: &str, name: &str) -> Result<(), StepError> {
        let count = self.count(format!("{kind}/{name}"));
        let key = format!("{kind}/{name}-{count}");
        self.engine.tick().await;
        if self.engine.results.borrow().contains_key(&key) {
            return Ok(());
        }
        self.engine.begins(name);
        self.engine.tick().await;
        self.engine.suspended()?;
        tokio::time::sleep(Duration::from_secs(60)).await;
        self.engine.tick().await;
        let done = Ok(serde_json::Value::Null);
        self.engine.results.borrow_mut().insert(key, done);
        self.engine.tick().await;
        Ok(())
    }
}

impl Step for FakeStep {
    async fn do_step<T: StepOutput>(&self, step: DoStep<T>) -> Result<T, StepError> {
        let name = step.name;
        let count = self.count(format!("do/{name}"));
        let key = format!("do/{name}-{count}");
        self.engine.tick().await;
        let cached = self.engine.results.borrow().get(&key).cloned();
        if let Some(result) = cached {
            let value = result.map_err(StepError::new)?;
            return T::decode(&JsonCodec, JsonOutput::Value(value));
        }
        self.engine.begins(&name);
        let config = step.config.resolve();
        loop {
            let attempt = self.engine.next_attempt(&key);
            self.engine
                .note(format!("{name}-{count} attempt {attempt}"));
            self.engine.tick().await;
            // It runs on its own, as over RPC: after a timeout it goes on running.
            let running = {
                let callback = step.callback.clone();
                let context = StepContext::new(&name, count, attempt).with_config(config);
                tokio::task::spawn_local(async move { callback.call(context).await })
            };
            let result = match tokio::time::timeout(config.timeout.into(), running).await {
                Ok(joined) => {
                    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
                }
                Err(_) => Err(StepError::with_kind(
                    StepErrorKind::TimedOut,
                    format!(
                        "Execution timed out after {}ms",
                        config.timeout.as_milliseconds()
                    ),
                )),
            };
            self.engine.tick().await;
            match result {
                Ok(value) => {
                    let JsonOutput::Value(json) = value.encode(&JsonCodec)? else {
                        return Err(StepError::new("this engine stores no streams"));
                    };
                    let stored = Ok(json.clone());
                    self.engine.results.borrow_mut().insert(key, stored);
                    self.engine.note(format!("{name}-{count} completed"));
                    self.engine.tick().await;
                    self.engine.suspended()?;
                    return T::decode(&JsonCodec, JsonOutput::Value(json));
                }
                // It is not stored, as in the real engine.
                Err(error) if error.kind() == StepErrorKind::NonRetryable => return Err(error),
                Err(error) if attempt > config.retries.limit => {
                    let stored = Err(error.message().to_owned());
                    self.engine.results.borrow_mut().insert(key, stored);
                    self.engine.note(format!("{name}-{count} failed"));
                    return Err(error);
                }
                Err(_) => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    self.engine.suspended()?;
                }
            }
        }
    }

    async fn sleep(
        &self,
        name: &str,
        _duration: impl Into<WorkflowDuration>,
    ) -> Result<(), StepError> {
        self.wait("sleep", name).await
    }

    async fn sleep_until(&self, name: &str, _time: SystemTime) -> Result<(), StepError> {
        self.wait("sleepUntil", name).await
    }

    async fn wait_for_event<T>(
        &self,
        name: &str,
        options: WaitForEvent,
    ) -> Result<WaitedEvent<T>, StepError>
    where
        T: DeserializeOwned + 'static,
    {
        self.wait("waitForEvent", name).await?;
        let payload = serde_json::from_value(serde_json::Value::Null)?;
        let sent = SystemTime::UNIX_EPOCH;
        Ok(WaitedEvent::new(options.event_type, payload, sent))
    }
}

/// The object that keeps the facts, and the network to it.
pub(crate) struct World {
    pub(crate) log: WorkflowLog<Database>,
    pub(crate) calls: Cell<u32>,
    /// The faults of the next calls; later calls succeed.
    pub(crate) troubles: RefCell<Vec<Trouble>>,
    /// The fault of every call.
    pub(crate) always: Cell<Option<Trouble>>,
    pub(crate) warnings: RefCell<Vec<String>>,
    /// How often a lifetime reported that it does not know how the run goes on.
    pub(crate) settles: Cell<u32>,
    /// How many tasks are running.
    pub(crate) tasks: Cell<usize>,
    /// Whether what is dropped now belongs to a lifetime that the engine has given up.
    pub(crate) given_up: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    Refuse,
    LoseAnswer,
    Hang,
}

impl World {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            log: WorkflowLog::new(Database::in_memory()),
            calls: Cell::new(0),
            troubles: RefCell::default(),
            always: Cell::new(None),
            warnings: RefCell::default(),
            settles: Cell::new(0),
            tasks: Cell::new(0),
            given_up: Cell::new(false),
        })
    }

    async fn call<T>(&self, answer: impl Future<Output = T>) -> Result<T, String> {
        self.calls.set(self.calls.get() + 1);
        let next = self.troubles.borrow_mut().pop();
        tokio::task::yield_now().await;
        match self.always.get().or(next).unwrap_or(Trouble::None) {
            Trouble::None => Ok(answer.await),
            Trouble::Refuse => Err("refused".to_owned()),
            Trouble::LoseAnswer => {
                answer.await;
                Err("the answer was lost".to_owned())
            }
            Trouble::Hang => std::future::pending().await,
        }
    }
}

#[derive(Clone)]
pub(crate) struct FakeLog(pub Rc<World>);

impl FactLog for FakeLog {
    type Error = String;

    async fn open(&self, generation: Option<u64>) -> Result<Opened, String> {
        let now = FakeRuntime(Rc::clone(&self.0)).now();
        let open = async { self.0.log.open(generation, now).unwrap() };
        self.0.call(open).await
    }

    async fn append(&self, generation: u64, run: u32, batch: &[NewEvent]) -> Result<Told, String> {
        let batch = pack_facts(batch);
        let now = || FakeRuntime(Rc::clone(&self.0)).now();
        let append = async {
            let log = &self.0.log;
            log.append_packed(generation, run, &batch, now).unwrap()
        };
        self.0.call(append).await
    }

    async fn settle(&self) -> Result<(), String> {
        let settles = &self.0.settles;
        self.0.call(async { settles.set(settles.get() + 1) }).await
    }
}

pub(crate) struct FakeRuntime(pub Rc<World>);

impl Runtime for FakeRuntime {
    fn now(&self) -> SystemTime {
        now()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep(duration)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if self.is_given_up() {
            return;
        }
        let world = Rc::clone(&self.0);
        tokio::task::spawn_local(async move {
            let _running = Running::begin(&world.tasks);
            task.await;
        });
    }

    fn warn(&self, message: &str) {
        self.0.warnings.borrow_mut().push(message.to_owned());
    }

    fn is_given_up(&self) -> bool {
        self.0.given_up.get()
    }
}

/// Counts one task, until this is dropped.
struct Running<'a>(&'a Cell<usize>);

impl<'a> Running<'a> {
    fn begin(tasks: &'a Cell<usize>) -> Self {
        tasks.set(tasks.get() + 1);
        Self(tasks)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Returns the time in this world, which tests pause.
pub(crate) fn now() -> SystemTime {
    thread_local!(static START: tokio::time::Instant = tokio::time::Instant::now());
    SystemTime::UNIX_EPOCH + START.with(tokio::time::Instant::elapsed)
}

pub(crate) type Dispatcher = BatchedDispatch<FakeLog, FakeRuntime>;
pub(crate) type WrappedStep = WorkflowEventStep<FakeStep, Dispatcher>;

/// Returns a lifetime's step object with events.
pub(crate) fn wrapped(
    engine: &Rc<Engine>,
    world: &Rc<World>,
    config: DispatchConfig,
) -> WrappedStep {
    let log = FakeLog(Rc::clone(world));
    let dispatch = BatchedDispatch::new(log, FakeRuntime(Rc::clone(world)), config);
    WorkflowEventStep::new(FakeStep::new(engine), "order", dispatch)
}

/// Runs `body` until it returns, or until the process is killed, which ends its tasks too: `None`.
pub(crate) async fn lifetime<T>(engine: &Rc<Engine>, body: impl Future<Output = T>) -> Option<T> {
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            tokio::select! {
                biased;
                () = engine.killed.notified() => None,
                result = body => Some(result),
            }
        })
        .await
}
