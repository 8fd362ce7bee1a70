//! An object's place in a tree of relays, and its answer to a viewer that it does not take. Written and read in the
//! Worker and in the object.

use serde::{Deserialize, Serialize};
use worker::{Response, ResponseBuilder, web_sys};

use super::fan_out::{Admission, Ask, FanOut, Place};
use super::request::ObjectCall;

/// Tells an object of a tree its place, and how to reach the others. The Worker sends it, and a relay sends it to the
/// object above; a client cannot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hop {
    /// The binding of the objects.
    pub(super) binding: String,
    /// The name of the root.
    pub(super) root: String,
    pub(super) fan_out: FanOut,
    pub(super) place: Place,
    pub(super) ask: Ask,
    /// The relay that sends this, or the root's place if the Worker does.
    pub(super) follower: Place,
}

impl Hop {
    /// Returns the name of the object. No instance's id has a `~`, so a relay's name is no run's.
    pub(super) fn object_name(&self) -> String {
        match self.place {
            Place::ROOT => self.root.clone(),
            place => format!("{}~{}", self.root, place.number()),
        }
    }

    /// Returns the hop that the relay sends to the object above it, `None` for the root.
    pub(super) fn parent(&self) -> Option<Self> {
        let place = self.fan_out.parent(self.place)?;
        Some(Self {
            place,
            ask: Ask::Anyway,
            follower: self.place,
            ..self.clone()
        })
    }

    /// Writes the hop as text.
    #[inline(never)]
    pub(super) fn to_text(&self) -> worker::Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    #[inline(never)]
    pub(super) fn from_text(text: &str) -> worker::Result<Self> {
        Ok(serde_json::from_str(text)?)
    }

    /// Reads the hop from a request; `None` if it has none, and so no tree.
    pub(super) fn from_call(call: &ObjectCall) -> worker::Result<Option<Self>> {
        let text = call.get(HOP);
        text.as_deref().map(Self::from_text).transpose()
    }
}

/// What a request says of a [`Hop`].
pub(super) const HOP: &str = "hop";

/// The status of an object's answer to a viewer that it does not take. The Worker reads it; no client sees it.
const ELSEWHERE: u16 = 421;
/// The header of that answer with the number of relays.
const RELAYS: &str = "ssetarget-relays";

/// Returns where the viewer is to be served, by an object's answer.
pub(super) fn admission(response: &web_sys::Response) -> worker::Result<Admission> {
    if response.status() != ELSEWHERE {
        return Ok(Admission::Here);
    }
    let relays = response.headers().get(RELAYS)?;
    let relays = relays.and_then(|relays| relays.parse().ok());
    Ok(relays.map_or(Admission::Full, Admission::Relays))
}

/// Returns the answer to a viewer that an object does not take, `None` for one that it takes.
pub(super) fn elsewhere(admission: Admission) -> worker::Result<Option<Response>> {
    let mut response = ResponseBuilder::new().with_status(ELSEWHERE);
    match admission {
        Admission::Here => return Ok(None),
        Admission::Relays(relays) => {
            response = response.with_header(RELAYS, &relays.to_string())?;
        }
        Admission::Full => {}
    }
    Ok(Some(response.empty()))
}
