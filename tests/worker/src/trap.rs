//! Ways for a WebAssembly instance to die.

use std::hint::black_box;

use wasm_bindgen::prelude::*;

#[wasm_bindgen(inline_js = r#"
const recurse = (depth) => 1 + recurse(depth + 1);
export const throwUncaught = (name) => {
  if (name === "deep") recurse(0);
  throw new Error(`${name} is not caught`);
};
"#)]
extern "C" {
    #[wasm_bindgen(js_name = throwUncaught)]
    fn throw_uncaught(name: &str);
}

/// Kills the instance in this way.
#[allow(clippy::panic, reason = "what is tested")]
pub fn spring(way: &str) {
    match way {
        "unreachable" => core::arch::wasm32::unreachable(),
        "recursion" => {
            black_box(recurse(black_box(1)));
        }
        "memory" => loop {
            std::mem::forget(black_box(Vec::<u8>::with_capacity(256 << 20)));
        },
        "import" => throw_uncaught("this"),
        "import-deep" => throw_uncaught("deep"),
        "drop" => {
            let _bomb = Bomb;
            panic!("the first panic");
        }
        way => panic!("there is no way {way} to die"),
    }
}

#[allow(unconditional_recursion, reason = "what is tested")]
fn recurse(depth: u64) -> u64 {
    let deeper = [depth; 16];
    black_box(recurse(black_box(deeper[3]) + 1)) + black_box(deeper)[5]
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    #[allow(clippy::panic, reason = "what is tested")]
    fn drop(&mut self) {
        panic!("the second panic, of a drop");
    }
}
