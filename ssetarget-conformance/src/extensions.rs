//! The extensions of the standard that a server may promise, by name. A profile lists those of its
//! server.

/// The extensions, and their promises.
pub const EXTENSIONS: &[(&str, &str)] = &[
    (
        "replay",
        "a viewer without a position gets all events from the beginning",
    ),
    ("query", "the position may be in the query"),
    ("latest", "a query starts at the tail"),
    (
        "reset",
        "a position that is not in the log is reported by an event",
    ),
    ("strict", "a malformed position is refused with 400"),
    ("first-byte", "a stream begins with bytes at once"),
    (
        "end",
        "a stream ends for good: it is closed, and who comes back gets 204",
    ),
    ("unknown", "an unknown stream is not found"),
    (
        "proxies",
        "headers that keep proxies from buffering and changing a stream",
    ),
    ("cors", "pages of `origin` may read, and no others"),
    ("nosniff", "browsers must not guess types"),
];
