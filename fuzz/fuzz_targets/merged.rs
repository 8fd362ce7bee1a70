#![no_main]

#[allow(dead_code, reason = "the others have targets of their own")]
#[path = "../../tests/hostile/bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::merged(bytes));
