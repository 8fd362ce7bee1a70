//! The options of a step, natively: configs, rollbacks, delay functions, streams.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::{
    Backoff, ByteStream, DelayContext, DoStep, JsonCodec, JsonOutput, OutputCodec, ResolvedConfig,
    Retries, RetryDelay, RollbackConfig, RollbackContext, Sensitivity, Step, StepConfig,
    StepContext, StepError, StepOutput, WaitForEvent, WaitedEvent, WorkflowDuration,
};
use futures_executor::block_on;
use futures_util::{StreamExt, stream};
use serde::de::DeserializeOwned;
use ssetarget::workflow::{Dispatch, Fact, Flush, WorkflowEventStep};

/// Runs each step once, and then its rollback, as for a run that failed.
#[derive(Clone, Default)]
struct Engine {
    configs: Rc<RefCell<Vec<(String, ResolvedConfig)>>>,
    rollbacks: Rc<RefCell<Vec<ResolvedConfig>>>,
    delays: Rc<RefCell<Vec<Duration>>>,
}

impl Step for Engine {
    async fn do_step<T: StepOutput>(&self, step: DoStep<T>) -> Result<T, StepError> {
        let config = step.config.resolve();
        self.configs.borrow_mut().push((step.name.clone(), config));
        let context = || StepContext::new(&step.name, 1, 1).with_config(config);
        let result = step.callback.call(context()).await;
        if let (Err(error), Some(retries)) = (&result, &step.config.retries) {
            let failed = DelayContext::new(context(), StepError::new(error.message()));
            let delay = retries.delay_after(&failed).await?;
            self.delays.borrow_mut().push(delay);
        }
        // The store gets a copy.
        let (result, output) = match result.and_then(|value| value.encode(&JsonCodec)) {
            Ok(JsonOutput::Value(value)) => {
                let copy = JsonOutput::Value(value.clone());
                let result = T::decode(&JsonCodec, JsonOutput::Value(value));
                (result, Some(T::decode(&JsonCodec, copy)?))
            }
            Ok(stream) => (T::decode(&JsonCodec, stream), None),
            Err(error) => (Err(error), None),
        };
        if let Some(rollback) = &step.rollback {
            self.rollbacks.borrow_mut().push(rollback.config.resolve());
            let why = StepError::new("enough");
            let undo = RollbackContext::new(context(), why, output);
            rollback.call(undo).await?;
        }
        result
    }

    async fn sleep(&self, _: &str, _: impl Into<WorkflowDuration>) -> Result<(), StepError> {
        Ok(())
    }

    async fn sleep_until(&self, _: &str, _: SystemTime) -> Result<(), StepError> {
        Ok(())
    }

    async fn wait_for_event<T>(
        &self,
        _: &str,
        options: WaitForEvent,
    ) -> Result<WaitedEvent<T>, StepError>
    where
        T: DeserializeOwned + 'static,
    {
        let payload = serde_json::from_str("null")?;
        let sent = SystemTime::UNIX_EPOCH;
        Ok(WaitedEvent::new(options.event_type, payload, sent))
    }
}

/// Keeps the events.
#[derive(Clone, Default)]
struct Events(Rc<RefCell<Vec<String>>>);

impl Dispatch for Events {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn dispatch(&self, fact: Fact) {
        if let Fact::Event(event) = fact {
            let line = format!("{} {}", event.event_type(), event.data());
            self.0.borrow_mut().push(line);
        }
    }

    async fn flush(&self, _: Flush) {}
}

fn wrapped(engine: &Engine, events: &Events) -> WorkflowEventStep<Engine, Events> {
    WorkflowEventStep::new(engine.clone(), "order", events.clone())
}

/// A config in which everything is set.
fn full() -> StepConfig {
    StepConfig::new()
        .retries(Retries::new(2, WorkflowDuration::seconds(3)).backoff(Backoff::Linear))
        .timeout(Duration::from_millis(1500))
        .sensitive(Sensitivity::Output)
}

#[test]
fn a_step_has_the_config_that_it_was_given() {
    async fn body(step: &impl Step) -> Result<(), StepError> {
        step.run("default", async |_| Ok(())).await?;
        step.run_with("with", full(), async |_| Ok(())).await?;
        let retries = Retries::new(2, WorkflowDuration::seconds(3)).backoff(Backoff::Linear);
        step.run("by and by", async |_| Ok(()))
            .timeout(Duration::from_millis(1500))
            .retries(retries)
            .sensitive(Sensitivity::Output)
            .await?;
        step.run("replaced", async |_| Ok(()))
            .timeout(WorkflowDuration::days(1))
            .config(StepConfig::new())
            .await
    }

    let (plain, other) = (Engine::default(), Engine::default());
    block_on(body(&plain)).unwrap();
    block_on(body(&wrapped(&other, &Events::default()))).unwrap();
    let configs = plain.configs.take();
    assert_eq!(configs, other.configs.take());
    let default = ResolvedConfig::default();
    assert_eq!(default.timeout.to_string(), "10 minutes");
    let own = full().resolve();
    assert_eq!(own.retries.limit, 2);
    assert_eq!(own.retries.delay, Some(WorkflowDuration::seconds(3)));
    assert_eq!(own.retries.backoff, Backoff::Linear);
    assert_eq!(own.timeout, WorkflowDuration::milliseconds(1500));
    assert_eq!(own.sensitive, Some(Sensitivity::Output));
    let names = ["default", "with", "by and by", "replaced"].map(str::to_owned);
    let expected: Vec<_> = names
        .into_iter()
        .zip([default, own, own, default])
        .collect();
    assert_eq!(configs, expected);
}

#[test]
fn a_step_does_not_run_until_it_is_awaited() {
    let ran = Rc::new(Cell::new(false));
    let step = Engine::default();
    let run = step.run("a", {
        let ran = Rc::clone(&ran);
        async move |_| {
            ran.set(true);
            Ok(())
        }
    });
    assert_eq!(
        format!("{run:?}").split('{').next(),
        Some("StepFuture(DoStep ")
    );
    assert!(!ran.get());
    assert!(step.configs.borrow().is_empty());
    block_on(run).unwrap();
    assert!(ran.get());
}

#[test]
fn a_rollback_gets_its_config_and_the_output_of_its_step() {
    type Told = Rc<RefCell<Vec<(String, String, Option<u32>)>>>;

    /// A handler that records its arguments.
    fn tell(told: &Told) -> impl AsyncFn(RollbackContext<u32>) -> Result<(), StepError> + 'static {
        let told = Rc::clone(told);
        async move |undo| {
            let line = (undo.ctx.name, undo.error.to_string(), undo.output);
            told.borrow_mut().push(line);
            Ok(())
        }
    }

    async fn body(step: &impl Step, told: &Told) {
        let seven = step.run("a", async |_| Ok(7)).rollback(tell(told)).await;
        assert_eq!(seven.unwrap(), 7);
        let config = RollbackConfig::new()
            .retries(Retries::NONE)
            .timeout(WorkflowDuration::minutes(1));
        let no = step
            .run("b", async |_| Err(StepError::new("no")))
            .retries(Retries::NONE)
            .rollback_with(config, tell(told))
            .await;
        assert_eq!(no.unwrap_err().message(), "no");
    }

    let (plain, other) = (Engine::default(), Engine::default());
    let (told, others) = (Told::default(), Told::default());
    let events = Events::default();
    block_on(body(&plain, &told));
    block_on(body(&wrapped(&other, &events), &others));

    let line = |name: &str, output| (name.to_owned(), "enough".to_owned(), output);
    assert_eq!(told.take(), [line("a", Some(7)), line("b", None)]);
    assert_eq!(others.take(), [line("a", Some(7)), line("b", None)]);
    let configs = plain.rollbacks.take();
    assert_eq!(configs, other.rollbacks.take());
    assert_eq!(configs[0], ResolvedConfig::default());
    assert_eq!(configs[1].retries.limit, 0);
    assert_eq!(configs[1].timeout, WorkflowDuration::minutes(1));

    // Rollbacks are not steps, and outputs are not in events.
    let events = events.0.take();
    let types: Vec<_> = events.iter().filter_map(|e| e.split(' ').next()).collect();
    let expected = [
        "started",
        "completed",
        "started",
        "attempt_failed",
        "failed",
    ];
    assert_eq!(types, expected);
}

#[test]
fn a_delay_grows_as_its_backoff_says() {
    let after = |retries: &Retries, attempt: u32| {
        let failed = DelayContext::new(StepContext::new("a", 1, attempt), StepError::new("no"));
        block_on(retries.delay_after(&failed)).unwrap()
    };
    let second = Duration::from_secs(1);
    let retries = Retries::new(9, second);
    for (backoff, factors) in [
        (Backoff::Constant, [1, 1, 1, 1]),
        (Backoff::Linear, [1, 2, 3, 4]),
        (Backoff::Exponential, [1, 2, 4, 8]),
    ] {
        let retries = retries.clone().backoff(backoff);
        let delays = [1, 2, 3, 4].map(|attempt| after(&retries, attempt));
        assert_eq!(delays, factors.map(|factor| second * factor));
    }
    // No overflow, however many attempts there are.
    assert!(after(&retries, 1000) >= second * 1000);
}

#[test]
fn a_delay_is_chosen_by_attempt_and_error() {
    let retries = Retries::dynamic(5, async |failed| match failed.error.message() {
        "busy" => Ok(WorkflowDuration::minutes(failed.ctx.attempt)),
        "lost" => Err(StepError::new("never again")),
        _ => Ok("2 hours".parse()?),
    });
    assert!(matches!(retries.delay, RetryDelay::Dynamic(_)));
    let ask = |message: &str, attempt| {
        let failed = DelayContext::new(StepContext::new("a", 1, attempt), StepError::new(message));
        block_on(retries.delay_after(&failed))
    };
    assert_eq!(ask("busy", 3).unwrap(), Duration::from_secs(180));
    assert_eq!(ask("other", 9).unwrap(), Duration::from_secs(7200));
    assert_eq!(ask("lost", 1).unwrap_err().message(), "never again");
    // The config in the context of an attempt.
    let resolved = StepConfig::new().retries(retries.clone()).resolve().retries;
    assert_eq!((resolved.limit, resolved.delay), (5, None));

    // A step that is wrapped has the same function.
    let engine = Engine::default();
    let step = wrapped(&engine, &Events::default());
    let busy = step.run("a", async |_| Err::<(), _>(StepError::new("busy")));
    let error = block_on(busy.retries(retries)).unwrap_err();
    assert_eq!(error.message(), "busy");
    assert_eq!(engine.delays.take(), [Duration::from_secs(60)]);
}

#[test]
fn a_step_can_return_a_stream() {
    let chunks = || {
        let chunks = [b"one ".to_vec(), Vec::new(), b"two".to_vec()];
        ByteStream::new(stream::iter(chunks.map(Ok::<_, StepError>)))
    };
    let events = Events::default();
    let step = wrapped(&Engine::default(), &events);
    let file = block_on(step.run("export", async move |_| Ok(chunks()))).unwrap();
    assert_eq!(block_on(file.read_all()).unwrap(), b"one two");
    assert_eq!(events.0.borrow().len(), 2);
    assert!(events.0.borrow().iter().all(|event| !event.contains("one")));

    let whole = ByteStream::from("all at once");
    assert_eq!(block_on(whole.read_all()).unwrap(), b"all at once");
}

#[test]
fn a_stream_that_fails_reports_it_after_its_bytes() {
    let parts = [Ok("part"), Err(StepError::new("cut"))];
    let mut stream = ByteStream::new(stream::iter(parts));
    assert_eq!(block_on(stream.next()).unwrap().unwrap(), "part");
    assert_eq!(block_on(stream.read_all()).unwrap_err().message(), "cut");
}

#[test]
fn a_stream_is_not_taken_for_a_value_nor_a_value_for_a_stream() {
    let stream = ByteStream::from("x").encode(&JsonCodec).unwrap();
    assert!(u32::decode(&JsonCodec, stream).is_err());
    let value = JsonCodec.encode(&7).unwrap();
    assert!(ByteStream::decode(&JsonCodec, value).is_err());
    let value = JsonCodec.encode(&"seven").unwrap();
    assert!(u32::decode(&JsonCodec, value).is_err());
}
