//! Headers that keep a browser from doing more with a response than it is made for.

/// The content type of refusals.
pub(crate) const PLAIN: [(&str, &str); 2] = [
    ("content-type", "text/plain; charset=utf-8"),
    ("cache-control", "no-store"),
];

/// The headers of responses that are text: refusals.
pub(crate) const TEXT: [(&str, &str); 3] = [
    (
        "content-security-policy",
        "default-src 'none'; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
];
