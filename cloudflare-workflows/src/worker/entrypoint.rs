//! The trait of a workflow, and the macro that exports it as a class.

use std::marker::PhantomData;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};
use js_sys::Promise;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;
use worker::{Context, Env};

use super::convert::{from_js, property, throw, time, to_js};
use super::life::promise_for_engine;
use super::runtime::sleep;
use super::step::WorkflowStep;
use crate::border;
use crate::step::error::StepError;
use crate::step::panic::catch_panic;

/// A workflow: the counterpart of `WorkflowEntrypoint` of `cloudflare:workers`.
///
/// Export it with [`export_workflow!`](crate::export_workflow) and name its type as `class_name`
/// in `wrangler.toml`.
///
/// Code outside of steps runs again whenever the run continues after a sleep, a wait or a crash, so it
/// must make the same steps in the same order. Do not read clocks, random numbers or outside state there.
///
/// ```no_run
/// use serde::Deserialize;
/// use cloudflare_workflows::{
///     Step, StepError, WorkflowDuration, WorkflowEntrypoint, WorkflowEvent, WorkflowStep,
/// };
/// use worker::{Context, Env};
///
/// #[derive(Deserialize)]
/// struct Order {
///     item: String,
/// }
///
/// struct OrderWorkflow;
///
/// impl WorkflowEntrypoint for OrderWorkflow {
///     type Input = Order;
///     type Output = u32;
///
///     fn new(_context: Context, _env: Env) -> Self {
///         Self
///     }
///
///     async fn run(&self, event: WorkflowEvent<Order>, step: WorkflowStep) -> Result<u32, StepError> {
///         let item = event.payload.item;
///         let number = step.run("reserve", async move |_| reserve(&item).await).await?;
///         step.sleep("cool down", WorkflowDuration::minutes(5)).await?;
///         Ok(number)
///     }
/// }
///
/// cloudflare_workflows::export_workflow!(OrderWorkflow);
/// # async fn reserve(_: &str) -> Result<u32, StepError> { Ok(7) }
/// ```
#[allow(async_fn_in_trait, reason = "workflows live on one thread")]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a workflow",
    label = "this cannot be exported as a Workflow class",
    note = "implement `cloudflare_workflows::WorkflowEntrypoint` for `{Self}`: its types `Input` \
            and `Output`, and its functions `new` and `run`"
)]
pub trait WorkflowEntrypoint: 'static {
    /// The params of an instance. An instance that is created without params gets `{}`.
    type Input: DeserializeOwned + 'static;
    /// The result of a run, up to 1 MiB as JSON.
    type Output: Serialize + 'static;

    /// Makes the workflow when a lifetime of a run begins, from the execution context (`wait_until`,
    /// `props`) and the bindings. The context's `pass_through_on_exception` has no effect, since a run
    /// has no response.
    fn new(context: Context, env: Env) -> Self;

    /// Called when a run fails before its own code begins: the params are not of the type
    /// [`Input`](Self::Input), or [`new`](Self::new) panics. Use it to notify those who wait for the
    /// run, which fails with `error` in any case. It may take ten seconds. Default: does nothing.
    ///
    /// # Errors
    /// An error is logged and has no other effect.
    async fn refused(env: &Env, run: &RefusedRun, error: &StepError) -> worker::Result<()> {
        let _ = (env, run, error);
        Ok(())
    }

    /// Runs the workflow: once in each lifetime of a run.
    ///
    /// # Errors
    /// An error ends the run as errored, unless its
    /// [`is_suspended`](StepError::is_suspended) is true.
    async fn run(
        &self,
        event: WorkflowEvent<Self::Input>,
        step: WorkflowStep,
    ) -> Result<Self::Output, StepError>;
}

/// The event that starts a run: the params, and what the platform says of the instance.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkflowEvent<P> {
    /// The params of the instance.
    pub payload: P,
    /// The time at which the instance was created; the same in every lifetime of the run.
    pub timestamp: SystemTime,
    /// The instance's id.
    pub instance_id: String,
    /// The workflow's name in `wrangler.toml`.
    pub workflow_name: String,
    /// The schedule that created the instance, `None` if it was created by a call.
    pub schedule: Option<CronSchedule>,
}

/// The schedule that created an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CronSchedule {
    /// The cron expression.
    pub cron: String,
    /// The time for which the creation was scheduled.
    pub scheduled_time: SystemTime,
}

/// The Rust part of an exported class.
pub struct WorkflowObject<W> {
    /// The arguments of the class's constructor.
    parts: Option<(JsValue, Env)>,
    workflow: PhantomData<fn() -> W>,
}

impl<W: WorkflowEntrypoint> WorkflowObject<W> {
    /// Called by the class's constructor.
    pub fn new(context: worker::worker_sys::Context, env: Env) -> Self {
        Self {
            parts: Some((context.into(), env)),
            workflow: PhantomData,
        }
    }

    /// Returns an object that serves to find its class, and nothing else.
    #[must_use]
    pub fn dummy() -> Self {
        Self {
            parts: None,
            workflow: PhantomData,
        }
    }

    /// Called by the class's `run`.
    pub fn run(&self, event: JsValue, step: JsValue) -> Promise {
        let parts = self.parts.clone();
        promise_for_engine(async move {
            let (context, env) = parts.ok_or("this object has no workflow")?;
            // Made here and not in the constructor, so that `refused` is called after a panic.
            let begun = async {
                let workflow = W::new(Context::new(context.unchecked_into()), env.clone());
                Ok((workflow, event_from(&event)?))
            };
            let (workflow, event) = match catch_panic(begun).await {
                Ok(begun) => begun,
                Err(error) => {
                    tell_refusal::<W>(&env, &event, &error).await;
                    return Err(throw(error));
                }
            };
            let run = async { workflow.run(event, WorkflowStep::new(step)).await };
            let output = catch_panic(run).await.map_err(throw)?;
            to_js(&output).map_err(|error| throw(error.into_step_error(border::OUTPUT)))
        })
    }
}

/// A run that failed before its own code began: see [`WorkflowEntrypoint::refused`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusedRun {
    /// The instance's id.
    pub instance_id: String,
    /// The workflow's name in `wrangler.toml`.
    pub workflow_name: String,
}

async fn tell_refusal<W: WorkflowEntrypoint>(env: &Env, event: &JsValue, error: &StepError) {
    let text = |name| property(event, name).as_string().unwrap_or_default();
    let run = RefusedRun {
        instance_id: text("instanceId"),
        workflow_name: text("workflowName"),
    };
    let told = pin!(W::refused(env, &run, error));
    let told = match select(told, sleep(PATIENCE)).await {
        Either::Left((told, _)) => told,
        Either::Right(_) => Err("it took too long".into()),
    };
    if let Err(error) = told {
        worker::console_warn!("cloudflare-workflows: `refused` failed: {error}");
    }
}

/// The longest time that `refused` may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn event_from<P: DeserializeOwned>(event: &JsValue) -> Result<WorkflowEvent<P>, StepError> {
    let text = |name| property(event, name).as_string().unwrap_or_default();
    let payload = from_js(&property(event, "payload")).map_err(|error| {
        error.into_step_error("the instance's params are not of the workflow's type")
    })?;
    Ok(WorkflowEvent {
        payload,
        timestamp: time(&property(event, "timestamp")),
        instance_id: text("instanceId"),
        workflow_name: text("workflowName"),
        schedule: schedule_from(&property(event, "schedule")),
    })
}

fn schedule_from(schedule: &JsValue) -> Option<CronSchedule> {
    schedule.is_object().then(|| CronSchedule {
        cron: property(schedule, "cron").as_string().unwrap_or_default(),
        scheduled_time: time(&property(schedule, "scheduledTime")),
    })
}

/// Exports types that implement [`WorkflowEntrypoint`](crate::WorkflowEntrypoint) as
/// Workflow classes of the same name: `export_workflow!(OrderWorkflow, RefundWorkflow);`. See there
/// for an example.
// Not an attribute on the `impl`: that needs a crate of its own with a parser of Rust, and would
// save the user this one line, which says as much.
#[macro_export]
macro_rules! export_workflow {
    ($($workflow:ident),+ $(,)?) => {
        $(const _: () = {
            use $crate::__private::wasm_bindgen::{self, prelude::*};
            use $crate::__private::{WorkflowObject, js_sys, pastey, worker};

            #[wasm_bindgen(js_name = $workflow, wasm_bindgen = $crate::__private::wasm_bindgen)]
            pub struct ExportedWorkflow(WorkflowObject<$workflow>);

            #[wasm_bindgen(js_class = $workflow, wasm_bindgen = $crate::__private::wasm_bindgen)]
            impl ExportedWorkflow {
                #[wasm_bindgen(constructor)]
                pub fn new(context: worker::worker_sys::Context, env: worker::Env) -> Self {
                    Self(WorkflowObject::new(context, env))
                }

                pub fn run(&self, event: JsValue, step: JsValue) -> js_sys::Promise {
                    self.0.run(event, step)
                }
            }

            // A crate's exported functions need names of their own.
            pastey::paste! {
                #[wasm_bindgen(start, wasm_bindgen = $crate::__private::wasm_bindgen)]
                pub fn [<extend_ $workflow:snake>]() -> Result<(), JsValue> {
                    let dummy = ExportedWorkflow(WorkflowObject::dummy());
                    $crate::__private::extend_workflow_entrypoint(&dummy.into())
                }
            }
        };)+
    };
    ($($other:tt)*) => {
        ::core::compile_error!(
            "export_workflow! takes the names of types: bring the type into scope with `use` and \
             write `cloudflare_workflows::export_workflow!(OrderWorkflow);`"
        );
    };
}
