//! Replaces `hop` where the feature `relays` is off: no object has a place in a tree. Read in the object.

/// There are no hops.
pub(super) enum Hop {}

impl Hop {
    pub(super) fn parent(&self) -> Option<Self> {
        match *self {}
    }

    /// Refuses a relay, whose Worker then serves its viewers from this object.
    pub(super) fn from_text(_text: &str) -> Result<Self, String> {
        Err("the feature `relays` of ssetarget is off".into())
    }

    #[allow(clippy::unnecessary_wraps, reason = "as with relays")]
    pub(super) fn of_viewer(
        _text: Option<&str>,
        _object: Option<&str>,
    ) -> Result<Option<Self>, String> {
        Ok(None)
    }
}

/// What a request says of a [`Hop`].
pub(super) const HOP: &str = "hop";
