//! An object's answer to a viewer that it does not take. Written in the object, and read in the Worker.

use worker::{Response, ResponseBuilder, web_sys};

use super::fan_out::Admission;

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
