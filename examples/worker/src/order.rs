//! The workflow: an order that is checked, charged, packed, approved and shipped.

use std::time::Duration;

use cloudflare_workflows::{
    Backoff, NonRetryableError, Progress, RefusedRun, Retries, Step, StepConfig, StepError,
    WaitForEvent, WorkflowEntrypoint, WorkflowEvent, WorkflowStep,
};
use futures_util::try_join;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ssetarget::cloudflare::{WorkflowEventsNamespace, WorkflowRunStep};
use worker::{Context, Delay, Env};

/// The params of an instance: the order. All fields are optional.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Order {
    pub item: String,
    pub quantity: u32,
    /// Milliseconds that one unit of work takes; more makes the run slower to watch.
    pub work_ms: u64,
}

impl Order {
    /// Checks that it can be processed in reasonable time.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.quantity > 10_000 {
            return Err("the quantity is above 10000");
        }
        if self.work_ms > 60_000 {
            return Err("workMs is above 60000, a minute");
        }
        Ok(())
    }
}

impl Default for Order {
    fn default() -> Self {
        Self {
            item: "a teapot".to_owned(),
            quantity: 4,
            work_ms: 250,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    item: String,
    quantity: u32,
    payment: String,
    tracking: String,
    approved_by: String,
}

/// The body of `POST /<id>/event`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Approval {
    by: Option<String>,
}

/// Checks that an answer has the payload's type, since another would fail the run.
pub fn check_answer(event_type: &str, payload: &Value) -> Result<(), String> {
    // serde takes a list for a struct, too.
    let checked = match payload {
        _ if event_type != APPROVAL => return Ok(()),
        Value::Array(_) => Err("invalid type: a list".to_owned()),
        payload => Option::<Approval>::deserialize(payload)
            .map(drop)
            .map_err(|error| error.to_string().chars().take(120).collect()),
    };
    checked.map_err(|reason: String| format!("the payload is not an approval: {reason}"))
}

pub struct OrderWorkflow {
    env: Env,
}

/// The workflow's name and the binding of its events, as in wrangler.toml.
pub const NAME: &str = "order";
pub const EVENTS: &str = "WORKFLOW_EVENTS";
/// The binding of the index of runs.
pub const RUNS: &str = "RUNS";

/// The type of the event that has an [`Approval`].
pub const APPROVAL: &str = "waiting";

impl WorkflowEntrypoint for OrderWorkflow {
    type Input = Order;
    type Output = Receipt;

    fn new(_context: Context, env: Env) -> Self {
        Self { env }
    }

    // Viewers are also notified of an order that cannot be read.
    async fn refused(env: &Env, run: &RefusedRun, error: &StepError) -> worker::Result<()> {
        let events = WorkflowEventsNamespace::from_env(env, EVENTS, &run.workflow_name)?;
        events.tell_refused(run, error).await
    }

    async fn run(
        &self,
        event: WorkflowEvent<Order>,
        step: WorkflowStep,
    ) -> Result<Receipt, StepError> {
        let events = WorkflowEventsNamespace::from_env(&self.env, EVENTS, &event.workflow_name)?;
        let run = events.wrap(&event, step);
        run.workflow(async move |step| ship(&step, event.payload).await)
            .await
    }
}

async fn ship(step: &WorkflowRunStep, order: Order) -> Result<Receipt, StepError> {
    let work = Duration::from_millis(order.work_ms);

    let price = step
        .run("check stock", {
            let order = order.clone();
            async move |_| {
                work_for(work).await;
                if order.quantity == 0 {
                    let reason = format!("nobody can order 0 of {}", order.item);
                    return Err(NonRetryableError::new(reason).into());
                }
                Ok(order.quantity * 1_900)
            }
        })
        .await?;

    // The bank fails at the first attempt, so that a retry can be seen.
    let patient = StepConfig::new()
        .retries(Retries::new(3, Duration::from_millis(500)).backoff(Backoff::Constant));
    let payment = step
        .run_with("charge card", patient, async move |attempt| {
            work_for(work).await;
            if attempt.attempt == 1 {
                return Err(StepError::new("the bank did not answer"));
            }
            attempt.set_attribute("cents", price);
            Ok(format!("payment-{price}"))
        })
        .await?;

    let tracking = step
        .group("fulfil", async |step| {
            let Order { item, quantity, .. } = order.clone();
            let pack = step.run("pack parcel", async move |attempt| {
                for packed in 1..=quantity {
                    work_for(work).await;
                    let percent = f64::from(packed) * 100.0 / f64::from(quantity);
                    let message = format!("{item}: {packed} of {quantity} packed");
                    attempt.progress(Progress::percent(percent.round()).message(message));
                }
                Ok(())
            });
            let label = step.run("print label", async move |_| {
                work_for(work).await;
                Ok("TRACK-1".to_owned())
            });
            let ((), tracking) = try_join!(pack, label)?;
            Ok(tracking)
        })
        .await?;

    step.sleep("let the glue dry", Duration::from_secs(2))
        .await?;

    let approval = WaitForEvent::new(APPROVAL).timeout(Duration::from_secs(60 * 60));
    let approval = step
        .wait_for_event::<Option<Approval>>("wait for approval", approval)
        .await?;
    let approved_by = approval.payload.unwrap_or_default().by;

    step.run("hand to carrier", async move |_| {
        work_for(work).await;
        Ok(())
    })
    .await?;

    Ok(Receipt {
        item: order.item,
        quantity: order.quantity,
        payment,
        tracking,
        approved_by: approved_by.unwrap_or_else(|| "somebody".to_owned()),
    })
}

async fn work_for(time: Duration) {
    Delay::from(time).await;
}
