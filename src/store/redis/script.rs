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
}

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |source| Script {
            source,
            hash: redis::Script::new(source).get_hash().to_owned(),
        };
        Self {
            append: script(concat!(
                include_str!("common.lua"),
                include_str!("append.lua")
            )),
            read: script(concat!(
                include_str!("common.lua"),
                include_str!("read.lua")
            )),
            before: script(concat!(
                include_str!("common.lua"),
                include_str!("before.lua")
            )),
        }
    }
}
