//! Every call that a Workflow binding and its instances accept, as JSON, in the form of the parity
//! tests' Worker in JavaScript.

use cloudflare_workflows::{
    BatchCreateOptions, CreateOptions, LocationHint, RestartFrom, Retention, StepKind,
    TerminateOptions, Workflow, WorkflowDuration, WorkflowError,
};
use serde::Deserialize;
use serde_json::{Value, json};
use worker::Result;

/// A call, by the platform's names.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Call {
    Create(Options),
    CreateBatch(Batch),
    DeleteBatch(Vec<String>),
    Get(String),
    Status(String),
    Pause(String),
    Resume(String),
    Terminate {
        id: String,
        rollback: Option<bool>,
    },
    Restart {
        id: String,
        from: Option<From>,
    },
    Delete(String),
    SendEvent {
        id: String,
        r#type: String,
        payload: Value,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Options {
    id: Option<String>,
    params: Option<Value>,
    retention: Option<RetentionOptions>,
    location_hint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RetentionOptions {
    success_retention: Option<WorkflowDuration>,
    error_retention: Option<WorkflowDuration>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum Batch {
    Instances {
        instances: Vec<Options>,
    },
    Count {
        count: u32,
        #[serde(flatten)]
        options: Box<Options>,
    },
}

#[derive(Deserialize)]
pub struct From {
    name: String,
    count: Option<u32>,
    r#type: Option<String>,
}

/// Makes the call, and returns its result.
pub async fn call(workflow: &Workflow, call: Call) -> Result<Value> {
    Ok(match make(workflow, call).await {
        Ok(result) => json!({ "ok": result }),
        Err(error) => json!({ "error": error.to_string(), "kind": format!("{:?}", error.kind()) }),
    })
}

async fn make(workflow: &Workflow, call: Call) -> std::result::Result<Value, WorkflowError> {
    Ok(match call {
        Call::Create(options) => {
            let instance = workflow.create(create_options(options)?).await?;
            json!({ "id": instance.id() })
        }
        Call::CreateBatch(batch) => {
            let batch = workflow.create_batch(batch_options(batch)?).await?;
            let created: Vec<_> = batch.created.iter().map(|instance| instance.id()).collect();
            let errors = batch.errors.iter().map(|error| {
                let mut json = json!({
                    "index": error.index,
                    "code": error.code,
                    "message": error.message,
                    "kind": format!("{:?}", error.kind()),
                });
                if let Some(id) = &error.id {
                    json["id"] = json!(id);
                }
                json
            });
            json!({ "created": created, "errors": errors.collect::<Vec<_>>() })
        }
        Call::DeleteBatch(ids) => {
            let batch = workflow.delete_batch(ids).await?;
            let errors = batch.errors.iter().map(|error| {
                json!({
                    "id": error.id,
                    "code": error.code,
                    "message": error.message,
                    "kind": format!("{:?}", error.kind()),
                })
            });
            json!({ "deleted": batch.deleted, "errors": errors.collect::<Vec<_>>() })
        }
        Call::Get(id) => json!({ "id": workflow.get(&id).await?.id() }),
        Call::Status(id) => {
            let status = workflow.get(&id).await?.status::<Value>().await?;
            json!({ "status": status.state, "output": status.output, "error": status.error })
        }
        Call::Pause(id) => done(workflow.get(&id).await?.pause().await)?,
        Call::Resume(id) => done(workflow.get(&id).await?.resume().await)?,
        Call::Terminate { id, rollback } => {
            let instance = workflow.get(&id).await?;
            done(match rollback {
                None => instance.terminate().await,
                Some(rollback) => {
                    let options = TerminateOptions::new().rollback(rollback);
                    instance.terminate_with(options).await
                }
            })?
        }
        Call::Restart { id, from } => {
            let instance = workflow.get(&id).await?;
            done(match from {
                None => instance.restart().await,
                Some(from) => instance.restart_from(restart_from(from)).await,
            })?
        }
        Call::Delete(id) => done(workflow.get(&id).await?.delete().await)?,
        Call::SendEvent {
            id,
            r#type,
            payload,
        } => {
            let instance = workflow.get(&id).await?;
            done(instance.send_event(&r#type, &payload).await)?
        }
    })
}

fn done(
    called: std::result::Result<(), WorkflowError>,
) -> std::result::Result<Value, WorkflowError> {
    called.map(|()| Value::Null)
}

pub fn batch_options(batch: Batch) -> std::result::Result<BatchCreateOptions, WorkflowError> {
    Ok(match batch {
        Batch::Count { count, options } => {
            BatchCreateOptions::count(count, create_options(*options)?)
        }
        Batch::Instances { instances } => {
            let instances: std::result::Result<Vec<_>, _> =
                instances.into_iter().map(create_options).collect();
            BatchCreateOptions::instances(instances?)
        }
    })
}

fn create_options(options: Options) -> std::result::Result<CreateOptions, WorkflowError> {
    let mut create = CreateOptions::new();
    if let Some(id) = options.id {
        create = create.id(&id);
    }
    if let Some(params) = options.params {
        create = create.params(&params)?;
    }
    if let Some(given) = options.retention {
        let mut retention = Retention::new();
        if let Some(success) = given.success_retention {
            retention = retention.success(success);
        }
        if let Some(error) = given.error_retention {
            retention = retention.error(error);
        }
        create = create.retention(retention);
    }
    let hint = options.location_hint;
    let hint = hint.and_then(|hint| LocationHint::ALL.into_iter().find(|h| h.as_str() == hint));
    if let Some(hint) = hint {
        create = create.location_hint(hint);
    }
    Ok(create)
}

fn restart_from(from: From) -> RestartFrom {
    let mut restart = RestartFrom::new(from.name);
    if let Some(count) = from.count {
        restart = restart.count(count);
    }
    match from.r#type.as_deref() {
        Some("do") => restart.step_type(StepKind::Do),
        Some("sleep") => restart.step_type(StepKind::Sleep),
        Some("waitForEvent") => restart.step_type(StepKind::WaitForEvent),
        _ => restart,
    }
}
