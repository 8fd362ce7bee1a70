//! The methods of the class of indexes, which the runtime and other objects call. Runs in the index's object.

use std::rc::Rc;

use js_sys::Promise;
use wasm_bindgen::prelude::*;
use worker::worker_sys::web_sys;

use super::object::IndexObject;
use crate::cloudflare::js;

/// The object behind an exported class. Clones are the same object.
#[derive(Clone)]
pub struct RunIndexObject {
    object: Option<Rc<IndexObject>>,
    ctx: JsValue,
}

impl RunIndexObject {
    /// Backs the class's constructor. Touches no storage.
    ///
    /// # Errors
    /// When the class is not configured as one with SQLite storage.
    pub fn new(state: worker::worker_sys::DurableObjectState) -> Result<Self, JsValue> {
        let state = worker::durable::State::from(state);
        let object = IndexObject::new(&state)?;
        Ok(Self {
            object: Some(Rc::new(object)),
            ctx: state.as_raw().into(),
        })
    }

    /// Returns an object that is only used to find its class.
    #[must_use]
    pub fn dummy() -> Self {
        Self {
            object: None,
            ctx: JsValue::UNDEFINED,
        }
    }

    /// Returns the runtime's `ctx`, which test tools look for on instances.
    #[must_use]
    pub fn ctx(&self) -> JsValue {
        self.ctx.clone()
    }

    /// Backs the class's `fetch`: answers with lists, and streams changes. Changes nothing, whatever the request is.
    pub fn fetch(&self, request: web_sys::Request) -> Promise {
        let object = self.object.clone();
        js::promise(async move {
            let object = object.ok_or("this object has no state")?;
            Ok(object.answer(&request).await.map_err(JsValue::from)?.into())
        })
    }

    /// Backs the RPC method `take`, which only the runs' objects call: takes a report.
    ///
    /// # Errors
    /// When SQLite fails, or the string is not a report.
    pub fn take(&self, report: &str) -> Result<JsValue, JsValue> {
        let object = self.object.as_ref().ok_or("this object has no state")?;
        object.take(report)
    }
}

/// Exports the Durable Object class of indexes of runs, under this name (feature `index`).
///
/// Bind it in `wrangler.toml`, list it under `new_sqlite_classes` of a migration, and give the binding to
/// [`WorkflowEventsConfig::index`](crate::cloudflare::WorkflowEventsConfig::index).
///
/// ```no_run
/// use ssetarget::cloudflare::WorkflowEventsConfig;
///
/// ssetarget::export_workflow_events!(WorkflowEvents, WorkflowEventsConfig::new().index("RUNS"));
/// ssetarget::export_run_index!(RunIndex);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_run_index {
    ($name:ident) => {
        const _: () = {
            use $crate::cloudflare::__private::wasm_bindgen::{self, prelude::*};
            use $crate::cloudflare::__private::{RunIndexObject, js_sys, pastey, worker};

            #[wasm_bindgen(js_name = $name, wasm_bindgen = $crate::cloudflare::__private::wasm_bindgen)]
            pub struct ExportedRunIndex(RunIndexObject);

            #[wasm_bindgen(js_class = $name, wasm_bindgen = $crate::cloudflare::__private::wasm_bindgen)]
            impl ExportedRunIndex {
                #[wasm_bindgen(constructor)]
                pub fn new(
                    state: worker::worker_sys::DurableObjectState,
                    _env: worker::Env,
                ) -> Result<Self, JsValue> {
                    RunIndexObject::new(state).map(Self)
                }

                #[wasm_bindgen(getter)]
                pub fn ctx(&self) -> JsValue {
                    self.0.ctx()
                }

                pub fn fetch(&self, request: worker::web_sys::Request) -> js_sys::Promise {
                    self.0.fetch(request)
                }

                pub fn take(&self, report: String) -> Result<JsValue, JsValue> {
                    self.0.take(&report)
                }
            }

            // A crate's exported functions need names of their own.
            pastey::paste! {
                #[wasm_bindgen(start, wasm_bindgen = $crate::cloudflare::__private::wasm_bindgen)]
                pub fn [<extend_ $name:snake>]() -> Result<(), JsValue> {
                    let dummy = ExportedRunIndex(RunIndexObject::dummy());
                    $crate::cloudflare::__private::extend_durable_object(&dummy.into())
                }
            }
        };
    };
}
