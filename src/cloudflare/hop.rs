//! An object's place in a tree of relays. Written in the Worker, and in a relay for the object above it; read in the
//! object. Pure.

use serde::{Deserialize, Serialize};

use super::command::read_json;
use super::fan_out::{Ask, FanOut, Place};

/// Tells an object of a tree its place, and how to reach the others. The Worker sends it, and a relay sends it to the
/// object above; a client cannot.
///
/// It is JSON by names. What a later version adds, an earlier one leaves out; so an object has to be right without it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The binding of the objects.
    pub binding: String,
    /// The name of the root.
    pub root: String,
    /// The limits that shape the tree.
    pub fan_out: FanOut,
    /// The place of the object that reads this.
    pub place: Place,
    /// How it is asked to take a viewer.
    pub ask: Ask,
    /// The relay that sends this, or the root's place if the Worker does.
    pub follower: Place,
}

/// Separates the root's name from the relay's number in the name of a relay's object. No instance's id has this
/// character, so no run has the name of a relay.
const RELAY: char = '~';

impl Hop {
    /// Returns the name of the object.
    #[must_use]
    pub fn object_name(&self) -> String {
        match self.place {
            Place::ROOT => self.root.clone(),
            place => format!("{}{RELAY}{}", self.root, place.number()),
        }
    }

    /// Returns the hop that the relay sends to the object above it, `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let place = self.fan_out.parent(self.place)?;
        Some(Self {
            place,
            ask: Ask::Anyway,
            follower: self.place,
            ..self.clone()
        })
    }

    /// Writes the hop as text.
    ///
    /// # Errors
    /// Never, but JSON could fail.
    #[inline(never)]
    pub fn to_text(&self) -> Result<String, String> {
        serde_json::to_string(self).map_err(|error| error.to_string())
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    ///
    /// # Errors
    /// For what this version cannot read, with the reason.
    #[inline(never)]
    pub fn from_text(text: &str) -> Result<Self, String> {
        read_json("the place in the tree of relays", text)
    }

    /// Reads the hop of a viewer's request to the object of this name; `None` if it has none, and so no tree. The root
    /// serves a viewer also where it cannot read the hop: a refusal would end a browser's `EventSource` for good.
    ///
    /// # Errors
    /// In a relay, which has no log of its own, as [`from_text`](Self::from_text). The Worker then asks another object,
    /// and at last the root.
    pub fn of_viewer(text: Option<&str>, object: Option<&str>) -> Result<Option<Self>, String> {
        match text.map(Self::from_text).transpose() {
            Err(_) if object.is_some_and(|name| !name.contains(RELAY)) => Ok(None),
            hop => hop,
        }
    }
}

/// What a request says of a [`Hop`].
#[cfg_attr(not(feature = "relays"), allow(dead_code))]
pub(super) const HOP: &str = "hop";
