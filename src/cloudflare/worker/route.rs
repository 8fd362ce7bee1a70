//! Finds the object that takes a viewer: the one that has the log, or a relay. Runs in the Worker.

use std::cell::RefCell;
use std::collections::BTreeMap;

use futures_util::future::LocalBoxFuture;
use worker::web_sys;

use super::namespace::WorkflowEventsNamespace;
use crate::cloudflare::admission::admission;
use crate::cloudflare::fan_out::{Admission, FanOut, Place, Search};
use crate::cloudflare::hop::{HOP, Hop};
use crate::cloudflare::request::{ObjectRequest, StreamRequest};

/// Sends the request to the object that takes this viewer, and returns its answer.
///
/// An object that does not answer is asked again. One that was reset by a deploy or that panicked is there again at
/// the next request, while a browser's `EventSource` gives up at an error. If a relay does not answer, another one is
/// asked, and at last the root.
pub(super) fn send<'a>(
    instance_id: &str,
    stream: &'a StreamRequest,
    events: &'a WorkflowEventsNamespace,
) -> Sent<'a> {
    let root = events.object_name(instance_id);
    // An object that hibernates cannot count its viewers, and takes 32,768 of them. A `HEAD` request is not a viewer.
    let tree = events
        .fan_out
        .filter(|_| !stream.hibernates && !stream.head);
    match tree {
        None => Box::pin(send_to_root(root, stream, events)),
        Some(fan_out) => Box::pin(search(fan_out, root, stream, events)),
    }
}

type Sent<'a> = LocalBoxFuture<'a, worker::Result<web_sys::Response>>;

async fn search(
    fan_out: FanOut,
    root: String,
    stream: &StreamRequest,
    events: &WorkflowEventsNamespace,
) -> worker::Result<web_sys::Response> {
    let mut search = Search::new(remembered(&root));
    loop {
        let (place, ask) = search.next(js_sys::Math::random());
        let hop = Hop {
            binding: events.binding.clone(),
            root: root.clone(),
            fan_out,
            place,
            ask,
            follower: Place::ROOT,
        };
        let response = match send_to(place, &hop, stream, events).await {
            Ok(response) => response,
            Err(error) if place == Place::ROOT => return Err(error),
            Err(_) => {
                search.failed();
                continue;
            }
        };
        // An object that receives no `Hop` admits every viewer.
        let admission = admission(&response)?;
        match admission {
            Admission::Here => return Ok(response),
            Admission::Relays(relays) => remember(root.clone(), relays),
            Admission::Full => {}
        }
        search.answered(admission);
    }
}

/// Sends the request to the object at one place: up to three times to the root, once to a relay.
async fn send_to(
    place: Place,
    hop: &Hop,
    stream: &StreamRequest,
    events: &WorkflowEventsNamespace,
) -> worker::Result<web_sys::Response> {
    let mut request = stream.to_object_request();
    request.set(HOP, &hop.to_text()?);
    let tries = if place == Place::ROOT { TRIES } else { 1 };
    send_again(&hop.object_name(), &request, tries, events).await
}

/// Sends the request to the root of no tree.
async fn send_to_root(
    root: String,
    stream: &StreamRequest,
    events: &WorkflowEventsNamespace,
) -> worker::Result<web_sys::Response> {
    send_again(&root, &stream.to_object_request(), TRIES, events).await
}

const TRIES: u32 = 3;

async fn send_again(
    name: &str,
    request: &ObjectRequest,
    tries: u32,
    events: &WorkflowEventsNamespace,
) -> worker::Result<web_sys::Response> {
    let mut tried = 1;
    loop {
        let response = events.request_raw(name, request).await;
        if response.is_ok() || tried == tries {
            return response;
        }
        tried += 1;
    }
}

thread_local! {
    /// The number of relays that each root reported lately, and until when it is used.
    static RELAYS: RefCell<BTreeMap<String, (u32, f64)>> = const { RefCell::new(BTreeMap::new()) };
}

/// How long a root's number of relays is used, in milliseconds.
const REMEMBERED_FOR: f64 = 10_000.0;
const MOST_REMEMBERED: usize = 1_000;

/// Returns the number of this root's relays, if the root reported it lately.
fn remembered(root: &str) -> Option<u32> {
    let now = js_sys::Date::now();
    let known = RELAYS.with_borrow(|known| known.get(root).copied());
    known
        .filter(|(_, until)| is_good(*until, now))
        .map(|(relays, _)| relays)
}

/// Returns whether a remembered number may still be used. It may not after the clock was set back.
fn is_good(until: f64, now: f64) -> bool {
    now < until && until <= now + REMEMBERED_FOR
}

fn remember(root: String, relays: u32) {
    let now = js_sys::Date::now();
    RELAYS.with_borrow_mut(|known| {
        if known.len() >= MOST_REMEMBERED {
            known.retain(|_, (_, until)| is_good(*until, now));
        }
        if known.len() < MOST_REMEMBERED {
            known.insert(root, (relays, now + REMEMBERED_FOR));
        }
    });
}
