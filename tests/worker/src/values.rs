//! Values of all forms, as steps return them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::time::Duration;

use cloudflare_workflows::{Step, StepError, StepOutput};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wasm_bindgen::JsValue;
use worker::js_sys::{Array, BigInt, Date, Object, Reflect};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Key {
    A,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Shape {
    Circle { r: f64 },
    Sides(BTreeMap<String, u32>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Float(f64),
    Text(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    a: f64,
    #[serde(flatten)]
    rest: HashMap<String, Value>,
}

/// Returns what does not come back unchanged, by the names of the steps.
pub async fn changed(step: &impl Step) -> Result<Value, StepError> {
    let mut changed = Map::new();
    let all = &mut changed;
    one(
        step,
        all,
        "text keys",
        BTreeMap::from([("a".to_owned(), 1)]),
    )
    .await;
    one(step, all, "integer keys", HashMap::from([(u64::MAX, true)])).await;
    one(step, all, "negative keys", BTreeMap::from([(-1_i8, 1)])).await;
    one(step, all, "variant keys", BTreeMap::from([(Key::A, 1)])).await;
    one(step, all, "boolean keys", BTreeMap::from([(true, 1)])).await;
    let names = ["__proto__", "constructor", "toString"];
    let names = names.map(|name| (name.to_owned(), 1));
    one(step, all, "keys of prototypes", BTreeMap::from(names)).await;
    one(
        step,
        all,
        "a value's __proto__",
        json!({ "__proto__": { "a": 1 } }),
    )
    .await;
    one(step, all, "2^53", 1_u64 << 53).await;
    one(step, all, "-2^53", -(1_i64 << 53)).await;
    one(step, all, "u128", 7_u128).await;
    one(step, all, "f64", 0.1_f64).await;
    one(step, all, "f64 of no decimals", 1e18_f64).await;
    one(step, all, "f64 with an exponent", 1e300_f64).await;
    one(step, all, "f32", 0.1_f32).await;
    one(step, all, "char", 'é').await;
    one(step, all, "bytes", vec![0_u8, 255]).await;
    one(
        step,
        all,
        "tuple",
        (1_u8, "x\0\u{2028}😀".to_owned(), false),
    )
    .await;
    one(step, all, "unit", ()).await;
    one(step, all, "none", None::<u8>).await;
    one(step, all, "result", Err::<u32, String>("no".to_owned())).await;
    one(step, all, "tagged", Shape::Circle { r: 1.5 }).await;
    let sides = BTreeMap::from([("q".to_owned(), 2)]);
    one(step, all, "tagged map", Shape::Sides(sides)).await;
    one(step, all, "untagged", Either::Float(3.5)).await;
    one(step, all, "untagged text", Either::Text("3".to_owned())).await;
    let rest = HashMap::from([("b".to_owned(), json!([1, -1, 1.5, { "c": null }]))]);
    one(step, all, "flattened", Flat { a: 0.5, rest }).await;
    one(step, all, "duration", Duration::from_millis(1500)).await;
    Ok(changed.into())
}

async fn one<T>(step: &impl Step, changed: &mut Map<String, Value>, name: &str, value: T)
where
    T: StepOutput + Clone + PartialEq + Debug,
{
    let given = value.clone();
    let came = step.run(name, async move |_| Ok(given.clone())).await;
    let what = match came {
        Ok(came) if came == value => return,
        Ok(came) => format!("{came:?} of {value:?}"),
        Err(error) => error.to_string(),
    };
    changed.insert(name.to_owned(), what.into());
}

/// A step whose result cannot be passed to JavaScript.
pub async fn refused(step: &impl Step, what: &str) -> Result<(), StepError> {
    match what {
        "integer" => {
            let ids = async |_| Ok(json!({ "ids": [1, u64::MAX] }));
            step.run("refused", ids).await.map(drop)
        }
        "depth" => {
            let deep = async |_| Ok((0..128).fold(json!(1), |deep, _| json!([deep])));
            step.run("refused", deep).await.map(drop)
        }
        "size" => {
            let large = async |_| Ok("x".repeat(1 << 20));
            step.run("refused", large).await.map(drop)
        }
        "keys" => {
            let map = async |_| Ok(vec![([1_u8], 1)].into_iter().collect::<BTreeMap<_, u8>>());
            step.run("refused", map).await.map(drop)
        }
        other => Err(StepError::new(format!("{other} is not refused"))),
    }
}

/// Makes params that another Worker could create an instance with: a step that returns `what`.
pub fn params_from_javascript(what: &str) -> Result<JsValue, JsValue> {
    let (value, all) = (Object::new(), Object::new());
    let set = |object: &Object, name: &str, value: &JsValue| {
        Reflect::set(object, &name.into(), value).map(drop)
    };
    set(&value, "name", &"a".into())?;
    set(
        &value,
        "value",
        &match what {
            "date" => Date::new(&0.into()).into(),
            "bigint" => BigInt::from(5_u64).into(),
            "undefined" => JsValue::UNDEFINED,
            "nan" => f64::NAN.into(),
            "half" => worker::js_sys::JsString::from_char_code(&[0xd83d]).into(),
            "deep" => {
                let deep = |inner: JsValue, _| -> JsValue { Array::of1(&inner).into() };
                (0..300).fold(1.into(), deep)
            }
            other => other.into(),
        },
    )?;
    let op = Object::new();
    set(&op, "do", &value)?;
    set(&all, "ops", &Array::of1(&op))?;
    Ok(all.into())
}
