//! The methods of the `WorkflowEvents` class, which the runtime and the Worker call. Runs in the object.

use std::future::{Future, ready};
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use wasm_bindgen::prelude::*;
use worker::worker_sys::web_sys;

use super::config::WorkflowEventsConfig;
use super::error::to_js;
use super::events_object::EventsObject;
use super::hibernation::HeldStreams;
use crate::cloudflare::command::{LogCommand, read_json};
use crate::cloudflare::hop::Hop;
use crate::cloudflare::js;
use crate::cloudflare::opened::write_opened;

/// Returns how many facts were new, or a promise of it; [`STALE`](crate::cloudflare::packed::STALE) if they
/// were refused.
type Append = Box<dyn FnMut(f64, u32, Vec<u8>) -> Result<JsValue, JsValue>>;

/// The object behind an exported class. Clones are the same object.
#[derive(Clone)]
pub struct WorkflowEventsObject {
    object: Option<Rc<EventsObject>>,
}

impl WorkflowEventsObject {
    /// Backs the class's constructor. Touches no storage.
    ///
    /// # Errors
    /// When the class is not configured as one with SQLite storage.
    pub fn new(
        state: worker::worker_sys::DurableObjectState,
        env: worker::Env,
        config: WorkflowEventsConfig,
    ) -> Result<Self, JsValue> {
        let state = worker::durable::State::from(state);
        HeldStreams::hold(&state)?;
        let object = EventsObject::new(state, env, config)?;
        Ok(Self {
            object: Some(Rc::new(object)),
        })
    }

    /// Returns an object that is only used to find its class.
    #[must_use]
    pub fn dummy() -> Self {
        Self { object: None }
    }

    /// Returns the runtime's `ctx`, which test tools look for on instances.
    #[must_use]
    pub fn ctx(&self) -> JsValue {
        self.object
            .as_ref()
            .map_or(JsValue::UNDEFINED, |object| object.state.as_raw().into())
    }

    /// Backs the class's `fetch`: streams events. Cannot append, whatever the request is.
    pub fn fetch(&self, request: web_sys::Request) -> Result<JsValue, JsValue> {
        self.with(|object| async move { Ok(object.answer(&request).await?.into()) })
    }

    /// Backs the class's `alarm`: deletes the log when its time is over, or asks the platform how the run
    /// is.
    pub fn alarm(&self) -> Result<JsValue, JsValue> {
        self.with(|object| async move {
            object.alarm().await?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// Backs the RPC method `enter`, which only the Worker's own code can call: returns functions that append, and
    /// that settle the run's end. All calls of them belong to this one call. With a generation the log is opened: 0
    /// is a lifetime's first time, any other number opens it again.
    pub fn enter(&self, generation: Option<f64>) -> Result<JsValue, JsValue> {
        self.with(|object| async move {
            let session = js_sys::Object::new();
            let set =
                |name: &str, value: &JsValue| js_sys::Reflect::set(&session, &name.into(), value);
            if let Some(generation) = generation {
                let generation = Some(to_generation(generation)).filter(|number| *number > 0);
                let opened = object.open(generation)?;
                let json = write_opened(&opened).map_err(|error| error.to_string())?;
                set("opened", &json.into())?;
            }
            let settle = {
                let object = Rc::clone(&object);
                move || -> JsValue {
                    let object = Rc::clone(&object);
                    let ended = {
                        let object = Rc::clone(&object);
                        Box::pin(async move {
                            object.lifetime_ended().await?;
                            Ok(JsValue::UNDEFINED)
                        })
                    };
                    js::promise(object.answer_of(ended)).into()
                }
            };
            let settle =
                Closure::wrap_assert_unwind_safe(Box::new(settle) as Box<dyn FnMut() -> JsValue>);
            let append = move |generation, run, batch: Vec<u8>| {
                Rc::clone(&object).append(to_generation(generation), run, &batch)
            };
            let append = Closure::wrap_assert_unwind_safe(Box::new(append) as Append);
            // JavaScript, and through it the caller, keeps the functions alive.
            set("append", &append.into_js_value())?;
            set("settle", &settle.into_js_value())?;
            Ok(session.into())
        })
    }

    /// Backs the RPC method `obey`, which only the Worker's own code can call: carries out a
    /// [`LogCommand`] and answers with a [`LogAnswer`](crate::cloudflare::command::LogAnswer), both as JSON.
    pub fn obey(&self, command: String) -> Result<JsValue, JsValue> {
        self.with(|object| async move {
            let command: LogCommand = read_json("the command", &command)?;
            let obeyed: LocalBoxFuture<'_, _> = Box::pin(object.obey(&command));
            obeyed.await
        })
    }

    /// Backs the RPC method `tell`, which only the Worker's own code can call: appends facts to the latest run from
    /// outside the workflow, and answers how many were new, or a promise of it. It avoids a Rust promise where it
    /// can: one costs as much as the insert.
    ///
    /// # Errors
    /// When an event cannot be stored. Then none was.
    pub fn tell(&self, batch: &[u8]) -> Result<JsValue, JsValue> {
        let object = self.object.clone().ok_or("this object has no state")?;
        let told = object.log.tell_packed(batch).map_err(to_js)?;
        object.finish_append(told)
    }

    /// Backs the RPC method `stats`, which only the Worker's own code can call: answers with
    /// [`LogStats`](crate::cloudflare::LogStats) as JSON. Stores nothing.
    pub fn stats(&self) -> Result<JsValue, JsValue> {
        self.with(|object| ready(object.stats()))
    }

    /// Backs the class's `webSocketMessage`: a Worker acknowledges bytes.
    pub fn web_socket_message(&self, socket: JsValue, message: &JsValue) {
        if let Some(object) = &self.object {
            let target = object.log.target();
            object.held_streams.acknowledged(target, &socket, message);
        }
    }

    /// Backs the class's `webSocketClose` and `webSocketError`: a viewer has left.
    pub fn web_socket_gone(&self, socket: JsValue) {
        if let Some(object) = &self.object {
            object.held_streams.left(&socket);
        }
    }

    /// Backs the RPC method `follow`, called only by other objects of the class: returns functions that read
    /// this object's log, see `follower`. `hop` tells this object its place in the tree.
    pub fn follow(&self, hop: String) -> Result<JsValue, JsValue> {
        self.with(|object| async move {
            let hop = Hop::from_text(&hop)?;
            if hop.parent().is_none() {
                // The relay gets it with each page.
                object.link_generation().await?;
            }
            object.tree.follow(object.log.target(), &hop)
        })
    }

    /// Returns the numbers of viewers, as JSON, for tests.
    #[must_use]
    pub fn watched(&self) -> JsValue {
        let watched = self.object.as_ref().map(|object| object.tree.watched());
        watched.unwrap_or_default()
    }

    /// Returns the method's result, or a promise of it where it has to wait.
    fn with<F>(&self, method: impl FnOnce(Rc<EventsObject>) -> F) -> Result<JsValue, JsValue>
    where
        F: Future<Output = Result<JsValue, JsValue>> + 'static,
    {
        let object = self.object.clone().ok_or("this object has no state")?;
        let answer = Box::pin(method(Rc::clone(&object)));
        js::now_or_promise(object.answer_of(answer))
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole numbers below 2^53, made from a clock; saturates"
)]
fn to_generation(number: f64) -> u64 {
    number as u64
}

/// Exports the Durable Object class that keeps and streams the events of workflows, under this
/// name, optionally with a [`WorkflowEventsConfig`](crate::cloudflare::WorkflowEventsConfig).
///
/// Bind it in `wrangler.toml` and list it under `new_sqlite_classes` of a migration.
///
/// ```no_run
/// use ssetarget::cloudflare::WorkflowEventsConfig;
///
/// ssetarget::export_workflow_events!(
///     WorkflowEvents,
///     WorkflowEventsConfig::new().workflows(&[("greeting", "GREETING")])
/// );
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_workflow_events {
    ($name:ident) => {
        $crate::export_workflow_events!($name, $crate::cloudflare::WorkflowEventsConfig::new());
    };
    ($name:ident, $config:expr) => {
        const _: () = {
            use $crate::cloudflare::__private::wasm_bindgen::{self, prelude::*};
            use $crate::cloudflare::__private::{WorkflowEventsObject, pastey, worker};

            #[wasm_bindgen(js_name = $name, wasm_bindgen = $crate::cloudflare::__private::wasm_bindgen)]
            pub struct ExportedWorkflowEvents(WorkflowEventsObject);

            #[wasm_bindgen(js_class = $name, wasm_bindgen = $crate::cloudflare::__private::wasm_bindgen)]
            impl ExportedWorkflowEvents {
                #[wasm_bindgen(constructor)]
                pub fn new(
                    state: worker::worker_sys::DurableObjectState,
                    env: worker::Env,
                ) -> Result<Self, JsValue> {
                    WorkflowEventsObject::new(state, env, $config).map(Self)
                }

                #[wasm_bindgen(getter)]
                pub fn ctx(&self) -> JsValue {
                    self.0.ctx()
                }

                pub fn fetch(&self, request: worker::web_sys::Request) -> Result<JsValue, JsValue> {
                    self.0.fetch(request)
                }

                pub fn alarm(&self) -> Result<JsValue, JsValue> {
                    self.0.alarm()
                }

                pub fn enter(&self, generation: Option<f64>) -> Result<JsValue, JsValue> {
                    self.0.enter(generation)
                }

                pub fn obey(&self, command: String) -> Result<JsValue, JsValue> {
                    self.0.obey(command)
                }

                pub fn tell(&self, batch: Vec<u8>) -> Result<JsValue, JsValue> {
                    self.0.tell(&batch)
                }

                pub fn stats(&self) -> Result<JsValue, JsValue> {
                    self.0.stats()
                }

                #[wasm_bindgen(js_name = webSocketMessage)]
                pub fn web_socket_message(&self, socket: JsValue, message: JsValue) {
                    self.0.web_socket_message(socket, &message);
                }

                #[wasm_bindgen(js_name = webSocketClose)]
                pub fn web_socket_close(&self, socket: JsValue) {
                    self.0.web_socket_gone(socket);
                }

                #[wasm_bindgen(js_name = webSocketError)]
                pub fn web_socket_error(&self, socket: JsValue) {
                    self.0.web_socket_gone(socket);
                }

                pub fn follow(&self, hop: String) -> Result<JsValue, JsValue> {
                    self.0.follow(hop)
                }
            }

            // A crate's exported functions need names of their own.
            pastey::paste! {
                #[wasm_bindgen(start, wasm_bindgen = $crate::cloudflare::__private::wasm_bindgen)]
                pub fn [<extend_ $name:snake>]() -> Result<(), JsValue> {
                    let dummy = ExportedWorkflowEvents(WorkflowEventsObject::dummy());
                    $crate::cloudflare::__private::extend_durable_object(&dummy.into())
                }
            }
        };
    };
}
