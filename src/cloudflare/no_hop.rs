//! Replaces `hop` where the feature `relays` is off: no object has a place in a tree. Read in the object.

use super::request::ObjectCall;

/// There are no hops.
pub(super) enum Hop {}

impl Hop {
    pub(super) fn parent(&self) -> Option<Self> {
        match *self {}
    }

    /// Refuses a relay, whose Worker then serves its viewers from this object.
    pub(super) fn from_text(_text: &str) -> worker::Result<Self> {
        Err("the feature `relays` of ssetarget is off".into())
    }

    #[allow(clippy::unnecessary_wraps, reason = "as with relays")]
    pub(super) fn from_call(_call: &ObjectCall) -> worker::Result<Option<Self>> {
        Ok(None)
    }
}
