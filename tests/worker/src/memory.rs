//! How much memory Rust's part of the isolate has. WebAssembly's memory never becomes smaller, so its size says how
//! much there was at one time, and not what is left.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use js_sys::{Function, Reflect};
use serde_json::json;
use wasm_bindgen::{JsCast, JsValue};
use worker::{Response, Result};

/// Answers with the bytes of WebAssembly's memory, and with those of them that are allocated.
pub fn tell() -> Result<Response> {
    let pages = core::arch::wasm32::memory_size(0);
    Response::from_json(&json!({ "wasm": pages * 65_536, "live": ALLOCATOR.live.get() }))
}

/// Collects JavaScript's garbage, where the runtime has V8's flag `--expose-gc`.
pub fn collect() -> Result<Response> {
    let gc = Reflect::get(&js_sys::global(), &"gc".into())?;
    let Ok(gc) = gc.dyn_into::<Function>() else {
        return Response::error("start the runtime with --expose-gc", 501);
    };
    gc.call0(&JsValue::NULL)?;
    Response::ok("collected")
}

#[global_allocator]
static ALLOCATOR: Counting = Counting { live: Cell::new(0) };

struct Counting {
    live: Cell<usize>,
}

// SAFETY: WebAssembly has one thread here.
#[allow(unsafe_code, reason = "a static has to be `Sync`")]
unsafe impl Sync for Counting {}

#[allow(
    unsafe_code,
    reason = "hands each call on to the system's allocator as it is"
)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.live.set(self.live.get() + layout.size());
        // SAFETY: the caller's promises are those that this needs.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.live.set(self.live.get() - layout.size());
        // SAFETY: the caller's promises are those that this needs.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.live.set(self.live.get() - layout.size() + size);
        // SAFETY: the caller's promises are those that this needs.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
