//! The scripts that run in the server, each one atomic.

/// A script and the name that the server knows it by once it has seen it.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) source: &'static str,
    pub(super) hash: String,
}

/// What a log is written and read with.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) append: Script,
    pub(super) read: Script,
    pub(super) before: Script,
    pub(super) trim: Script,
}

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(include_str!("common.lua"), include_str!($file)))
    };
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            append: script!("append.lua"),
            read: script!("read.lua"),
            before: script!("before.lua"),
            trim: script!("trim.lua"),
        }
    }
}

impl Script {
    fn new(source: &'static str) -> Self {
        let hash = redis::Script::new(source).get_hash().to_owned();
        Self { source, hash }
    }
}
