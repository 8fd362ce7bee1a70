//! The scripts that run in the server, each one atomic.

use std::sync::LazyLock;

/// A script, and the hash under which the server knows it once it has seen it.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) source: &'static str,
    pub(super) hash: String,
}

macro_rules! script {
    ($name:ident, $file:literal) => {
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!(include_str!("common.lua"), include_str!($file))));
    };
}

script!(APPEND, "append.lua");
script!(READ, "read.lua");
script!(BEFORE, "before.lua");
script!(TRIM, "trim.lua");

impl Script {
    fn new(source: &'static str) -> Self {
        let hash = redis::Script::new(source).get_hash().to_owned();
        Self { source, hash }
    }
}
