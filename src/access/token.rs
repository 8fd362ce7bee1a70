//! Signed tokens: only compact JWS with HS256 (RFC 7515). Any JWT library can mint them.

use base64ct::{Base64UrlUnpadded, Encoding};
use hmac::Mac;
use serde_json::{Map, Value};

use super::cookie;
use super::keys::LinkKeys;

/// The most bytes of a token: 4,078. A longer one is refused unread. Browsers keep a cookie only if its name and its value
/// have 4,096 bytes at most (RFC 6265bis, section 5.6): a longer token would get a session that never was.
pub const MAX_TOKEN: usize = 4096 - cookie::NAME.len();

const SIGNATURE: usize = 32;

/// Returns the claims of a token that one of the keys has signed.
///
/// The signature of every token that is not too long is computed, also where the header names no known key, so
/// that the time of a refusal does not say why.
pub(super) fn verify(token: &str, keys: &LinkKeys) -> Option<Map<String, Value>> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.').unwrap_or((token, ""));
    let (header, payload) = signed.split_once('.').unwrap_or((signed, ""));
    let key = key_id(header).and_then(|id| keys.find(&id));
    let mut mac = key.unwrap_or(keys.first()).clone();
    mac.update(signed.as_bytes());
    let mut bytes = [0; SIGNATURE];
    // Only the one canonical spelling of 32 bytes is decoded.
    let signature = Base64UrlUnpadded::decode(signature, &mut bytes).ok()?;
    // Compares in constant time.
    mac.verify_slice(signature).ok()?;
    key?;
    object(payload)
}

/// Returns a token with these claims, a JSON object, signed by the first key.
pub(super) fn sign(claims: &str, keys: &LinkKeys) -> String {
    // A key's id needs no escapes in JSON.
    let header = format!(
        r#"{{"alg":"HS256","typ":"JWT","kid":"{}"}}"#,
        keys.first_id()
    );
    let encode = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
    let mut token = format!("{}.{}", encode(&header), encode(claims));
    let mut mac = keys.first().clone();
    mac.update(token.as_bytes());
    let signature = mac.finalize().into_bytes();
    token.push('.');
    token.push_str(&Base64UrlUnpadded::encode_string(&signature));
    token
}

/// Returns the key's id from a header with exactly the expected members: `alg` is compared, never chosen by the
/// token. A header with any other member is refused, since the member could change the meaning of the signature.
fn key_id(header: &str) -> Option<String> {
    let header = object(header)?;
    let known = |name: &str| ["alg", "typ", "kid"].contains(&name);
    let is_expected = header.keys().all(|name| known(name))
        && header.get("alg")? == "HS256"
        && header.get("typ").is_none_or(|typ| typ == "JWT");
    let id = header.get("kid")?.as_str()?;
    is_expected.then(|| id.to_owned())
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let json = Base64UrlUnpadded::decode_vec(part).ok()?;
    // Parsed from a string into a `Value`: every Worker has that code anyway.
    match serde_json::from_str(std::str::from_utf8(&json).ok()?).ok()? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}
