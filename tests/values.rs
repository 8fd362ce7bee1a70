//! Values between Rust and JavaScript, and those that are refused. The fake engine stores what the
//! real one would. `tests/e2e/values.test.mjs` has the same tests for the real one.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::testing::{FakeInstance, FakeRunError, Replay};
use cloudflare_workflows::{
    ResolvedConfig, Retries, Step, StepConfig, StepError, StepErrorKind, StepOutput, WaitForEvent,
    WorkflowDuration, WorkflowInstanceEvent, WorkflowInstanceEventData,
};
use futures_executor::block_on;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ssetarget::workflow::{Dispatch, Fact, Flush, WorkflowEventStep};

/// Returns the result in a later lifetime of a step that returns `value`.
fn stored<T: StepOutput + Clone + Serialize>(value: T) -> Result<T, StepError> {
    let instance = FakeInstance::new();
    let run = instance.run(async |step| {
        let value = value.clone();
        step.run("value", async move |_| Ok(value.clone())).await
    });
    block_on(run).map_err(|error| match error {
        FakeRunError::Workflow(error) => error,
        other => StepError::new(other.to_string()),
    })
}

#[track_caller]
fn crosses<T: StepOutput + Clone + Serialize + PartialEq + Debug>(value: T) {
    match stored(value.clone()) {
        Ok(stored) => assert_eq!(stored, value),
        Err(error) => assert_eq!(error.message(), "", "{value:?}"),
    }
}

#[track_caller]
fn refused<T: StepOutput + Clone + Serialize + Debug>(value: T) -> String {
    let error = stored(value).err();
    let error = error.unwrap_or_else(|| StepError::new("it is not refused"));
    assert_eq!(error.kind(), StepErrorKind::NonRetryable, "{error}");
    error.message().to_owned()
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Key {
    A,
    B,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Shape {
    Circle { r: f64 },
    Sides(BTreeMap<String, u32>),
    Point,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Integer(u64),
    Float(f64),
    Text(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    a: u32,
    b: f64,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[test]
fn maps_of_all_keys_that_json_has_cross() {
    crosses(BTreeMap::from([("a".to_owned(), 1)]));
    crosses(BTreeMap::from([(7_u32, "a".to_owned())]));
    crosses(HashMap::from([(u64::MAX, true)]));
    crosses(BTreeMap::from([(-1_i8, 1)]));
    crosses(BTreeMap::from([('x', 1)]));
    crosses(BTreeMap::from([(Key::A, 1), (Key::B, 2)]));
    crosses(BTreeMap::from([(true, 1), (false, 2)]));
    crosses(BTreeMap::from([
        ("__proto__".to_owned(), 1),
        ("constructor".to_owned(), 2),
    ]));
    crosses(json!({ "__proto__": { "a": 1 }, "toString": 1 }));
}

#[test]
fn numbers_cross_that_javascript_holds_exactly() {
    const EXACT: u64 = 1 << 53;
    crosses(EXACT);
    crosses(-9_007_199_254_740_992_i64);
    crosses(EXACT + 2);
    crosses(7_u128);
    crosses(1e18_f64);
    crosses(json!(1_000_000_000_000_000_000_u64));
    for beyond in [EXACT + 1, (1 << 60) + 1, 1 << 60, u64::MAX] {
        let message = refused(beyond);
        assert!(message.contains("beyond 2^53"), "{message}");
        assert!(!message.contains(&beyond.to_string()), "{message}");
    }
    refused(i64::MIN + 1);
    refused(u128::MAX);
    refused(json!({ "id": EXACT + 1 }));

    crosses(0.1_f64);
    crosses(0.1_f32);
    crosses(16_777_217.0_f32);
    crosses(1e300_f64);
    crosses(1.0_f64);
    crosses(f64::MIN_POSITIVE);
    crosses(vec![0_u8, 255]);
}

#[test]
fn values_that_json_lacks_are_converted_as_json_does() {
    assert_eq!(stored(Some(f64::NAN)).unwrap(), None);
    assert_eq!(stored(Some(f64::INFINITY)).unwrap(), None);
    assert!(stored(-0.0_f64).unwrap().is_sign_positive());
    assert_eq!(stored(Some(())).unwrap(), None);
    assert_eq!(stored(json!(2.0)).unwrap(), json!(2));
    assert_eq!(stored(Either::Float(3.0)).unwrap(), Either::Integer(3));
    let error = stored(f64::NAN).unwrap_err();
    assert!(
        error.message().contains("found null, expected f64"),
        "{error}"
    );
}

#[test]
fn types_of_all_forms_cross() {
    crosses(Shape::Circle { r: 1.0 });
    crosses(Shape::Circle { r: 1.5 });
    crosses(Shape::Sides(BTreeMap::from([("q".to_owned(), 2)])));
    crosses(Shape::Point);
    crosses(Either::Integer(3));
    crosses(Either::Float(3.5));
    crosses(Either::Text("3".to_owned()));
    let rest = BTreeMap::from([("c".to_owned(), json!([1, -1, 1.5, { "d": null }]))]);
    crosses(Flat { a: 1, b: 0.5, rest });
    crosses((1_u8, "x\0\u{2028}😀".to_owned(), false));
    crosses(Duration::from_millis(1500));
    crosses(Err::<u32, String>("no".to_owned()));
    crosses(());
}

#[test]
fn an_error_names_the_place_of_a_value_that_cannot_cross() {
    let order = json!({ "customer": { "id": 1 }, "lines": [{ "id": 1 }, { "id": u64::MAX }] });
    let message = refused(order);
    assert_eq!(
        message,
        "the step's result cannot be stored: an integer beyond 2^53, which no JavaScript number holds \
         exactly: write it as text (at .lines[1].id)"
    );

    let message = refused(BTreeMap::from([(vec![1_u8], 1)]));
    assert!(message.contains("a map's key"), "{message}");
}

/// Each level one array.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Deep(Vec<Deep>);

fn deep(levels: u32) -> Deep {
    (1..levels).fold(Deep(Vec::new()), |deep, _| Deep(vec![deep]))
}

#[test]
fn depth_and_size_are_bounded() {
    stored(deep(127)).unwrap();
    let message = refused(deep(128));
    assert!(
        message.contains("more than 127 arrays and objects"),
        "{message}"
    );
    refused(deep(1000));

    // With its quotes it is 1 MiB.
    crosses("x".repeat((1 << 20) - 2));
    let message = refused("x".repeat((1 << 20) - 1));
    assert!(
        message.contains("1 MiB") && message.contains("ByteStream"),
        "{message}"
    );
    assert!(message.len() < 400, "{message}");
}

#[test]
fn a_result_that_cannot_be_stored_is_not_retried() {
    let called = Rc::new(Cell::new(0));
    let instance = FakeInstance::new();
    let counted = Rc::clone(&called);
    let run = instance.run(async |step| {
        let called = Rc::clone(&counted);
        step.run("charge", async move |_| {
            called.set(called.get() + 1);
            Ok(u64::MAX)
        })
        .retries(Retries::new(3, Duration::from_millis(1)))
        .await
    });
    let Err(FakeRunError::Workflow(error)) = block_on(run) else {
        panic!()
    };
    assert_eq!(called.get(), 1);
    assert!(error.message().contains("cannot be stored"), "{error}");
    assert_eq!(instance.steps()[0].attempts, 1);
}

/// The events of viewers: type, task and error.
#[derive(Clone, Default)]
struct Told(Rc<RefCell<Vec<String>>>);

impl Dispatch for Told {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn dispatch(&self, fact: Fact) {
        let Fact::Event(event) = fact else { return };
        let data: Value = serde_json::from_str(event.data()).unwrap_or_default();
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        let (task, error) = (text("taskId"), text("error"));
        let told = format!("{} {task} {error}", event.event_type());
        self.0.borrow_mut().push(told.trim_end().to_owned());
    }

    async fn flush(&self, _: Flush) {}
}

#[test]
fn viewers_see_the_reason() {
    const BEYOND: &str = "an integer beyond 2^53, which no JavaScript number holds exactly: write it as \
                          text";
    let told = Told::default();
    let instance = FakeInstance::new().replay(Replay::Never);
    let run = instance.run(async |step| {
        let step = WorkflowEventStep::new(step, "order", told.clone());
        step.workflow(async |step| step.run("charge", async |_| Ok(u64::MAX)).await)
            .await
    });
    assert!(block_on(run).is_err());
    let reason = format!("the step's result cannot be stored: {BEYOND}");
    assert_eq!(
        *told.0.borrow(),
        [
            "started order-1.workflow".to_owned(),
            "started charge-1".to_owned(),
            format!("attempt_failed charge-1 {reason}"),
            format!("failed charge-1 {reason}"),
            format!("failed order-1.workflow {reason}"),
        ]
    );

    told.0.borrow_mut().clear();
    let instance = FakeInstance::new().replay(Replay::Never);
    let run = instance.run(async |step| {
        let step = WorkflowEventStep::new(step, "order", told.clone());
        step.workflow(async |_| Ok(u64::MAX)).await
    });
    assert!(block_on(run).is_err());
    assert_eq!(
        *told.0.borrow(),
        [
            "started order-1.workflow".to_owned(),
            format!("failed order-1.workflow the run's output cannot be stored: {BEYOND}"),
        ]
    );
}

#[test]
fn an_output_that_cannot_be_stored_fails_the_run() {
    let run = FakeInstance::new();
    let Err(FakeRunError::Workflow(error)) = block_on(run.run(async |_| Ok(u64::MAX))) else {
        panic!()
    };
    assert!(
        error
            .message()
            .starts_with("the run's output cannot be stored"),
        "{error}"
    );
}

#[test]
fn values_given_by_a_test_cross_too() {
    let instance = FakeInstance::new();
    instance.returns("look up", BTreeMap::from([(7, true)]));
    instance.send_event("sent", json!({ "by": { "name": 5 }, "secret": "abc" }));
    let run = instance.run(async |step| {
        let found: BTreeMap<u32, bool> = step
            .run("look up", async |_| Err(StepError::new("no")))
            .await?;
        assert!(found[&7]);
        let wait = WaitForEvent::new("sent");
        step.wait_for_event::<Approval>("approval", wait)
            .await
            .map(|event| event.payload.by)
    });
    let Err(FakeRunError::Workflow(error)) = block_on(run) else {
        panic!()
    };
    assert_eq!(
        error.message(),
        "the event that \"approval\" waited for has another payload: found integer, expected a string \
         (at .by.name)"
    );

    let instance = FakeInstance::new();
    instance.returns("look up", u64::MAX);
    let run = instance.run(async |step| step.run("look up", async |_| Ok(1)).await);
    let Err(FakeRunError::Workflow(error)) = block_on(run) else {
        panic!()
    };
    assert_eq!(error.kind(), StepErrorKind::NonRetryable);
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Approval {
    by: Name,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Name {
    name: String,
}

/// With `serde_json/arbitrary_precision`, which `npm test -- native` switches on once, too.
#[test]
fn the_platforms_values_are_read_with_any_serde_json_features() {
    let event = r#"{"instanceId":"a","eventId":7,"timestamp":1795444674907.5,"type":"step_started",
        "stepName":"charge card-2","config":{"retries":{"limit":5,"delay":1000,"backoff":"linear"},
        "timeout":"10 minutes"}}"#;
    let event: WorkflowInstanceEvent = serde_json::from_str(event).unwrap();
    assert_eq!(
        serde_json::to_value(&event).unwrap()["config"]["retries"]["delay"],
        json!(1000)
    );
    let errored = r#"{"instanceId":"a","eventId":7,"timestamp":1,"type":"attempt_errored",
        "stepName":"a-1","attempt":1,"retryDelayMs":200.5,"error":{"name":"Error","message":"no"}}"#;
    let event: WorkflowInstanceEvent = serde_json::from_str(errored).unwrap();
    assert!(matches!(
        event.data,
        WorkflowInstanceEventData::AttemptErrored { attempt: 1, .. }
    ));

    let duration: WorkflowDuration = serde_json::from_str("1500").unwrap();
    assert_eq!(duration, WorkflowDuration::milliseconds(1500));
    let config = StepConfig::new()
        .retries(Retries::new(3, Duration::from_secs(1)))
        .resolve();
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(
        serde_json::from_str::<ResolvedConfig>(&text).unwrap(),
        config
    );
    assert_eq!(
        serde_json::from_str::<WorkflowDuration>("1500.5").unwrap(),
        duration
    );
}
