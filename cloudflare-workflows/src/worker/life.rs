//! Cleans up after the death of a WebAssembly instance.
//!
//! A panic ends one task. A trap, a stack overflow, a lack of memory, a panic while another unwinds, and an
//! exception through an import that does not catch end the whole instance: everything that Rust has in the
//! isolate. `wasm-bindgen` then begins a new instance, and `worker-build` makes the objects of exported
//! classes again. Streams and promises of the old instance would hang, so they are registered here: streams
//! are cut off, so that clients come back to the next instance; promises are rejected, so that callers try
//! again; and the code of a run begins again, with the answers that the engine has given already.
//!
//! A lifetime of a run can end without its code: the engine cancels the call of `run` and tells nobody. Its code is freed
//! then where it waits.

use std::cell::Cell;
use std::task::{Context, Poll, Waker};

use futures_util::future::{Aborted, LocalBoxFuture, abortable};
use js_sys::Promise;
use wasm_bindgen::function_table;
use wasm_bindgen::handler::{schedule_reinit, set_on_abort};
use wasm_bindgen::prelude::*;

use super::js;

#[wasm_bindgen(module = "/src/worker/life.js")]
extern "C" {
    // At most one function of a module may need nothing of wasm-bindgen, as this one. For each such function
    // it names the module once more in the object of imports, and esbuild warns of the second.
    //
    // Does not catch, since what is generated for that would trap in an instance that is dead.
    fn died();
    #[wasm_bindgen(catch)]
    fn begin(enter: &JsValue) -> Result<(), JsValue>;
    #[wasm_bindgen(catch)]
    fn prepared(table: &JsValue, before: usize, reinit: usize) -> Result<(), JsValue>;
    #[wasm_bindgen(catch, js_name = holdWriter)]
    fn hold_writer(writer: &js::Writer) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(catch, js_name = holdSocket)]
    fn hold_socket(socket: &JsValue, code: u16) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(catch, js_name = holdObject)]
    fn hold_object(state: &JsValue, code: u16) -> Result<(), JsValue>;
    #[wasm_bindgen(catch, js_name = release)]
    fn release(held: &JsValue) -> Result<(), JsValue>;
    #[wasm_bindgen(catch, js_name = guard)]
    fn js_guard(gone: &JsValue) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(catch, js_name = unguard)]
    fn js_unguard(guard: &JsValue) -> Result<(), JsValue>;
    #[wasm_bindgen(catch, js_name = mortal)]
    fn mortal_promise(promise: &Promise, free: &JsValue) -> Result<Promise, JsValue>;
    #[wasm_bindgen(catch, js_name = extend)]
    fn extend(instance: &JsValue, is_workflow: bool) -> Result<(), JsValue>;
}

/// Makes the class of this object a Durable Object class. RPC needs that: see the section "RPC" of
/// Cloudflare's documentation of Durable Objects, which asks for `extends DurableObject`.
///
/// # Errors
/// When it is not an object of a class that can be changed.
pub fn extend_durable_object(instance: &JsValue) -> Result<(), JsValue> {
    extend(instance, false)
}

/// Makes the class of this object a Workflow class, whose runs survive the death of an instance.
///
/// # Errors
/// As [`extend_durable_object`].
pub fn extend_workflow_entrypoint(instance: &JsValue) -> Result<(), JsValue> {
    extend(instance, true)
}

/// Runs when an instance of the module starts.
#[wasm_bindgen(start, private)]
fn start() -> Result<(), JsValue> {
    // The closure holds no memory, so JavaScript may call it in any instance that lives.
    let enter: Box<dyn Fn(u32)> = Box::new(enter);
    begin(&Closure::wrap_assert_unwind_safe(enter).into_js_value())
}

fn enter(what: u32) {
    match what {
        PREPARE => {
            // The handler of the crate `worker`, or of a user's Worker.
            let before = set_on_abort(on_death).unwrap_or(schedule_reinit);
            // Cannot fail: they are functions of this module's table.
            let _ = prepared(
                &function_table(),
                before as usize,
                schedule_reinit as fn() as usize,
            );
            // The first task makes the queue: see `withPromises`.
            wasm_bindgen_futures::spawn_local(std::future::ready(()));
        }
        // As after a death.
        RENEW => schedule_reinit(),
        _ => {}
    }
}

/// Lets the living instance notice its death.
const PREPARE: u32 = 0;
/// Lets the next call begin a new instance.
const RENEW: u32 = 1;

/// Called by `wasm-bindgen` in the instance that has just died. It can call JavaScript once: when that
/// returns to an instance that is dead, it traps.
fn on_death() {
    died();
}

/// Something that ends with the instance. Dropping it removes the registration.
pub struct Held(JsValue);

impl Held {
    /// Registers a stream, which is cut off when the instance dies.
    pub fn writer(writer: &js::Writer) -> Result<Self, JsValue> {
        hold_writer(writer).map(Self)
    }

    /// Registers a socket, which is closed with this code when the instance dies.
    pub fn socket(socket: &JsValue, code: u16) -> Result<Self, JsValue> {
        hold_socket(socket, code).map(Self)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Cannot fail in an instance that lives.
        let _ = release(&self.0);
    }
}

/// Closes an object's hibernating sockets with this code when the instance dies, since unsent messages may
/// be lost then. Lasts as long as the object is in memory.
pub fn hold_sockets(state: &JsValue, code: u16) -> Result<(), JsValue> {
    hold_object(state, code)
}

/// Calls a function if the request or the object that it was made in ends without a word: if it is cancelled, or reset. Its
/// code does not run again then, so the function wakes what waits, which ends and frees its memory. It is called some time
/// later, belongs to no request, and can call nothing of the platform's. Dropping this calls nothing.
pub struct Guard {
    guard: JsValue,
    _gone: Closure<dyn Fn()>,
}

impl Guard {
    /// Guards what runs now, where the runtime lets it: from the compatibility date 2025-05-05 on.
    ///
    /// # Errors
    /// When the runtime refuses a timer.
    pub fn new(gone: impl Fn() + 'static) -> Result<Self, JsValue> {
        let gone = Closure::wrap_assert_unwind_safe(Box::new(gone) as Box<dyn Fn()>);
        Ok(Self {
            guard: js_guard(gone.as_ref())?,
            _gone: gone,
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The timer is refused where its request is not.
        let _ = js_unguard(&self.guard);
    }
}

/// Returns the result of `future` where it is there at once, else a [`promise`] of it. A promise of Rust's costs
/// several times what a short method does.
///
/// # Errors
/// Those of the future.
pub fn now_or_promise(
    future: impl Future<Output = Result<JsValue, JsValue>> + 'static,
) -> Result<JsValue, JsValue> {
    now_or_promise_of(Box::pin(future))
}

/// As [`now_or_promise`], compiled once.
fn now_or_promise_of(
    mut future: LocalBoxFuture<'static, Result<JsValue, JsValue>>,
) -> Result<JsValue, JsValue> {
    // The promise polls it again, with its own waker.
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(result) => result,
        Poll::Pending => Ok(promise(future).into()),
    }
}

/// Returns a promise of the result of `future`. A panic in it rejects the promise, where the build lets
/// panics unwind; so does the death of the instance.
pub fn promise(future: impl Future<Output = Result<JsValue, JsValue>> + 'static) -> Promise {
    // Boxed for LLVM, see `catch_panic`, and for size.
    promise_of(Box::pin(future), &JsValue::UNDEFINED)
}

/// As [`promise`], of code that the engine has called: the run's own, or an attempt. The engine may give up the lifetime
/// that it is part of, and cancels its request then without a word: then the code is dropped where it waits.
pub(crate) fn promise_for_engine(
    future: impl Future<Output = Result<JsValue, JsValue>> + 'static,
) -> Promise {
    let future: LocalBoxFuture<'static, _> = Box::pin(future);
    let (mut future, handle) = abortable(future);
    let free: Box<dyn Fn()> = Box::new(move || handle.abort());
    let free = Closure::wrap_assert_unwind_safe(free);
    let function = free.as_ref().clone();
    let future = async move {
        let _free = free;
        match (&mut future).await {
            Ok(result) => result,
            // Nobody hears it.
            Err(Aborted) => {
                let _freeing = Freeing::begin();
                drop(future);
                Err(JsValue::UNDEFINED)
            }
        }
    };
    promise_of(Box::pin(future), &function)
}

thread_local! {
    static IS_FREEING: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether code is dropped now that the engine has given up.
pub(super) fn is_freeing() -> bool {
    IS_FREEING.get()
}

/// Exists while such code is dropped, also by a panic in a drop.
struct Freeing;

impl Freeing {
    fn begin() -> Self {
        IS_FREEING.set(true);
        Self
    }
}

impl Drop for Freeing {
    fn drop(&mut self) {
        IS_FREEING.set(false);
    }
}

/// The same for all futures, so that it is compiled once.
fn promise_of(
    future: LocalBoxFuture<'static, Result<JsValue, JsValue>>,
    free: &JsValue,
) -> Promise {
    // State that a panic leaves half changed is local to the future, or in a `RefCell` whose borrows end
    // with the panic.
    let promise = wasm_bindgen_futures::future_to_promise(std::panic::AssertUnwindSafe(future));
    mortal_promise(&promise, free).unwrap_or(promise)
}
