//! The cookie that carries a link's token, for browsers, whose `EventSource` can set no header.

use std::fmt::Write;
use std::time::Duration;

/// The name. Browsers take a cookie with this prefix only if it is `Secure`.
pub(super) const NAME: &str = "__Secure-ssetarget";

/// The number of cookies with this name that are tried. A page of a subdomain can set more of them, and must not be
/// able to hide the right one behind these.
const TRIED: usize = 4;

/// Returns the values of all cookies of the name in a `Cookie` header, at most four.
pub(super) fn values(header: &str) -> impl Iterator<Item = &str> {
    let pairs = header.split(';').filter_map(|pair| pair.split_once('='));
    let ours = pairs.filter(|(name, _)| name.trim() == NAME);
    ours.map(|(_, value)| value.trim()).take(TRIED)
}

/// Returns the `Set-Cookie` header. The token has only characters that may be in a cookie.
pub(super) fn set(token: &str, path: &str, lifetime: Duration) -> String {
    format!(
        "{NAME}={token}; Path={}; Max-Age={}; HttpOnly; Secure; SameSite=Lax",
        escaped(path),
        lifetime.as_secs()
    )
}

/// Escapes characters that would end the attribute, or are not allowed in a URL's path. Existing escapes stay, since
/// the browser compares the path as it is.
fn escaped(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'!' | b'#'..=b'+' | b'-'..=b':' | b'=' | b'?'..=b'Z' | b'_' | b'a'..=b'z' | b'~' => {
                escaped.push(char::from(byte));
            }
            // Writing to a string does not fail.
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}
