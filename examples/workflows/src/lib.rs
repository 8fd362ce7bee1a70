//! An order as a workflow, with the crate `cloudflare-workflows` alone.
//!
//! - `POST /` with `{"item":"a teapot"}` starts a run and answers with its id
//! - `GET /<id>` answers with the status of the run
//! - `POST /<id>/approval` with `{"by":"Ada","approved":true}` sends the event that the run waits for

use std::time::Duration;

use cloudflare_workflows::{
    CreateOptions, Retries, Step, StepError, WaitForEvent, Workflow, WorkflowDuration,
    WorkflowEntrypoint, WorkflowEvent, WorkflowInstance, WorkflowStep,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use worker::{Context, Env, Method, Request, Response, Result, event};

cloudflare_workflows::export_workflow!(OrderWorkflow);

#[derive(Serialize, Deserialize)]
struct Order {
    item: String,
}

#[derive(Serialize, Deserialize)]
struct Approval {
    by: String,
    approved: bool,
}

/// The class that `wrangler.toml` names.
struct OrderWorkflow;

impl WorkflowEntrypoint for OrderWorkflow {
    type Input = Order;
    type Output = String;

    fn new(_context: Context, _env: Env) -> Self {
        Self
    }

    async fn run(
        &self,
        event: WorkflowEvent<Order>,
        step: WorkflowStep,
    ) -> std::result::Result<String, StepError> {
        order(&step, event.payload).await
    }
}

/// The workflow itself. It takes any step object, so that the tests below run it natively.
async fn order(step: &impl Step, order: Order) -> std::result::Result<String, StepError> {
    let item = order.item.clone();
    let payment = step
        .run("charge card", async move |_| charge(&item).await)
        .retries(Retries::new(3, Duration::from_secs(2)))
        .rollback(async |undo| match undo.output {
            Some(payment) => refund(payment).await,
            None => Ok(()),
        })
        .await?;

    step.sleep("let the glaze dry", Duration::from_secs(5))
        .await?;

    let wait = WaitForEvent::new("approval").timeout(WorkflowDuration::days(1));
    let answer = step
        .wait_for_event::<Approval>("wait for approval", wait)
        .await?
        .payload;
    if !answer.approved {
        // The run fails, and the card gets its money back.
        let refusal = format!("{} did not approve the order", answer.by);
        return Err(StepError::new(refusal));
    }

    let item = order.item;
    step.run("ship", async move |_| {
        Ok(format!("{item}, paid with {payment}"))
    })
    .await
}

async fn charge(item: &str) -> std::result::Result<String, StepError> {
    Ok(format!("payment-for-{item}"))
}

async fn refund(_payment: String) -> std::result::Result<(), StepError> {
    Ok(())
}

#[event(fetch)]
async fn fetch(mut request: Request, env: Env, _context: Context) -> Result<Response> {
    let orders = Workflow::from_env(&env, "ORDER")?;
    let path = request.path();
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (request.method(), segments.as_slice()) {
        (Method::Post, [""]) => start(&mut request, &orders).await,
        (Method::Get, [id]) if !id.is_empty() => match find(&orders, id).await? {
            Some(instance) => status(&instance).await,
            None => Response::error("there is no such order", 404),
        },
        (Method::Post, [id, "approval"]) => match find(&orders, id).await? {
            Some(instance) => approve(&mut request, &instance).await,
            None => Response::error("there is no such order", 404),
        },
        _ => Response::error("there is nothing here", 404),
    }
}

async fn start(request: &mut Request, orders: &Workflow) -> Result<Response> {
    let Ok(order) = request.json::<Order>().await else {
        return Response::error("the body is not an order", 400);
    };
    let options = CreateOptions::new().params(&order)?;
    let instance = orders.create(options).await?;
    Response::from_json(&json!({ "id": instance.id() }))
}

async fn status(instance: &WorkflowInstance) -> Result<Response> {
    let status = instance.status::<Value>().await?;
    Response::from_json(&json!({
        "status": status.state,
        "output": status.output,
        "error": status.error,
    }))
}

async fn approve(request: &mut Request, instance: &WorkflowInstance) -> Result<Response> {
    let Ok(approval) = request.json::<Approval>().await else {
        return Response::error("the body is not an approval", 400);
    };
    instance.send_event("approval", &approval).await?;
    Response::from_json(&json!({ "sent": "approval" }))
}

/// The run with this id, `None` if there is none.
async fn find(orders: &Workflow, id: &str) -> Result<Option<WorkflowInstance>> {
    match orders.get(id).await {
        Ok(instance) => Ok(Some(instance)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use cloudflare_workflows::testing::FakeInstance;
    use futures_executor::block_on;

    use super::*;

    fn run(instance: &FakeInstance) -> std::result::Result<String, String> {
        let teapot = || Order {
            item: "a teapot".to_owned(),
        };
        let run = instance.run(async |step| order(&step, teapot()).await);
        block_on(run).map_err(|error| error.to_string())
    }

    #[test]
    fn an_approved_order_is_shipped() {
        let instance = FakeInstance::new();
        instance
            .fail_attempt("charge card", StepError::new("the bank is busy"))
            .returns("charge card", "payment-7")
            .send_event("approval", json!({ "by": "Ada", "approved": true }));
        assert_eq!(run(&instance).unwrap(), "a teapot, paid with payment-7");
        assert_eq!(instance.steps()[0].attempts, 2);
    }

    #[test]
    fn an_order_that_is_not_approved_is_refunded() {
        let instance = FakeInstance::new();
        instance.send_event("approval", json!({ "by": "Ada", "approved": false }));
        let error = run(&instance).unwrap_err();
        assert!(error.contains("Ada did not approve the order"), "{error}");
        assert_eq!(instance.steps()[0].rolled_back, Some(Ok(())));
    }
}
