//! The keys that sign links.

use std::error::Error;
use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use hmac::{Hmac, KeyInit};
use sha2::Sha256;

pub(super) type Signer = Hmac<Sha256>;

/// The keys of capability links: the first one signs, all of them verify. So a key is replaced by putting a new one
/// before it, and removed when the last link that it signed has expired.
///
/// They are kept as one secret, `SSETARGET_KEYS`: pairs of an id and a key in base64, the newest first.
///
/// ```
/// # use ssetarget::access::LinkKeys;
/// # let (new, old) = ("bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=", "b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQgb2xkIG9sZCE=");
/// let keys = LinkKeys::parse(&format!("k2:{new},k1:{old}"))?;
/// # let _ = keys;
/// let error = LinkKeys::parse("k1:dG9vIHNob3J0").unwrap_err();
/// assert!(error.to_string().contains("openssl rand -base64 32"));
/// # Ok::<(), ssetarget::access::InvalidKeys>(())
/// ```
#[derive(Clone)]
pub struct LinkKeys {
    first: Key,
    others: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: String,
    /// The state after the key, so that a token costs half of the work.
    signer: Signer,
}

/// The least number of bytes of a key: the output size of SHA-256 (RFC 7518 section 3.2).
const SHORTEST: usize = 32;

impl LinkKeys {
    /// Reads a list such as `k2:<base64>,k1:<base64>`. Ids have at most 64 letters, digits, `-`, `_` and `.`. Keys
    /// have at least 32 bytes, in base64 of either alphabet, with or without padding. Spaces and line ends around
    /// a pair are ignored.
    ///
    /// # Errors
    /// When there is no key, or one of them cannot be used. The message says which one and how to make a key, and
    /// shows nothing of the key itself.
    pub fn parse(list: &str) -> Result<Self, InvalidKeys> {
        let mut keys: Vec<Key> = Vec::new();
        let pairs = list.split(',').map(str::trim);
        for (index, pair) in pairs.filter(|pair| !pair.is_empty()).enumerate() {
            let wrong = |reason| InvalidKeys {
                number: index + 1,
                reason,
            };
            let (id, key) = pair.split_once(':').ok_or(wrong(Reason::Pair))?;
            let is_id = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if id.is_empty() || id.len() > 64 || !id.bytes().all(is_id) {
                return Err(wrong(Reason::Id));
            }
            if keys.iter().any(|known| known.id == id) {
                return Err(wrong(Reason::Twice));
            }
            let key = key
                .trim_end_matches('=')
                .replace('+', "-")
                .replace('/', "_");
            let key = Base64UrlUnpadded::decode_vec(&key).map_err(|_| wrong(Reason::Base64))?;
            if key.len() < SHORTEST {
                return Err(wrong(Reason::Short(key.len())));
            }
            // HMAC takes keys of any length.
            let signer = Signer::new_from_slice(&key).map_err(|_| wrong(Reason::Base64))?;
            keys.push(Key {
                id: id.to_owned(),
                signer,
            });
        }
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or(InvalidKeys {
            number: 1,
            reason: Reason::None,
        })?;
        Ok(Self {
            first,
            others: keys.collect(),
        })
    }

    pub(super) fn first(&self) -> &Signer {
        &self.first.signer
    }

    pub(super) fn first_id(&self) -> &str {
        &self.first.id
    }

    pub(super) fn find(&self, id: &str) -> Option<&Signer> {
        let mut keys = std::iter::once(&self.first).chain(&self.others);
        keys.find(|key| key.id == id).map(|key| &key.signer)
    }
}

/// Shows the ids only.
impl fmt::Debug for LinkKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = std::iter::once(&self.first).chain(&self.others);
        f.debug_list().entries(keys.map(|key| &key.id)).finish()
    }
}

/// The reason why a list of keys cannot be used. Its message says how to make a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKeys {
    /// The number of the pair in the list, from 1. Its id is not kept: in a malformed list, that may be the key.
    number: usize,
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    None,
    Pair,
    Id,
    Twice,
    Base64,
    Short(usize),
}

impl fmt::Display for InvalidKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number;
        match self.reason {
            Reason::None => f.write_str("there is no key for links"),
            Reason::Pair => write!(f, "key {number} for links has no id: write k1:<base64>"),
            Reason::Id => write!(
                f,
                "the id of key {number} for links is not 1 to 64 letters, digits, '-', '_' and '.'"
            ),
            Reason::Twice => write!(f, "key {number} for links has the id of one before it"),
            Reason::Base64 => write!(f, "key {number} for links is not base64"),
            Reason::Short(bytes) => write!(
                f,
                "key {number} for links has {bytes} bytes, and needs at least {SHORTEST}"
            ),
        }?;
        f.write_str(" (make a key with `openssl rand -base64 32`)")
    }
}

impl Error for InvalidKeys {}
