//! The position of an event in the platform's log.

use std::fmt;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

/// The position of an event in the platform's log of an instance, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct InstanceEventId(NonZeroU64);

impl InstanceEventId {
    /// The greatest possible id: JavaScript's `Number.MAX_SAFE_INTEGER`, 2^53 - 1.
    pub const MAX: u64 = (1 << 53) - 1;

    /// Returns the id with this number; `None` for 0 and for numbers above [`InstanceEventId::MAX`].
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        if number > Self::MAX {
            return None;
        }
        NonZeroU64::new(number).map(Self)
    }

    /// Returns the id as a number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl From<InstanceEventId> for u64 {
    fn from(id: InstanceEventId) -> Self {
        id.get()
    }
}

impl TryFrom<u64> for InstanceEventId {
    type Error = &'static str;

    fn try_from(number: u64) -> Result<Self, Self::Error> {
        Self::new(number)
            .ok_or("the id of an instance's event is a whole number from 1 to 2^53 - 1")
    }
}

impl fmt::Display for InstanceEventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
