//! From the Worker to the object that takes a viewer: the one that has the log, or a relay.

use std::cell::RefCell;
use std::collections::BTreeMap;

use worker::Response;

use super::events::WorkflowEventsNamespace;
use super::relay::{Hop, admission};
use super::serve::Viewer;
use crate::fan_out::{Admission, Place, Search};

/// The answer of the object that takes this viewer.
///
/// An object that does not answer is asked more than once if need be: one that was reset by a
/// deploy or that panicked is there again at the next request, while a browser's `EventSource`
/// gives up at an error. In place of a relay another is taken, and at last the root.
pub(super) async fn fetch(
    instance_id: &str,
    viewer: &Viewer,
    events: &WorkflowEventsNamespace,
) -> worker::Result<Response> {
    let root = events.object_name(instance_id);
    // An object that sleeps cannot count those who watch, and takes 32,768 of them.
    let Some(fan_out) = events.tree().filter(|_| !viewer.hibernates) else {
        return fetch_root(async || events.fetch(&root, viewer.to_object_request(None)?).await)
            .await;
    };
    let mut search = Search::new(remembered(&root));
    loop {
        let (place, ask) = search.next(js_sys::Math::random());
        let hop = Hop {
            binding: events.binding().to_owned(),
            root: root.clone(),
            fan_out,
            place,
            ask,
        };
        let name = hop.object_name();
        let ask = async || {
            events
                .fetch(&name, viewer.to_object_request(Some(&hop))?)
                .await
        };
        let response = if place == Place::ROOT {
            fetch_root(ask).await?
        } else if let Ok(response) = ask().await {
            response
        } else {
            search.failed();
            continue;
        };
        let admission = admission(&response)?;
        match admission {
            Admission::Here => return Ok(response),
            Admission::Relays(relays) => remember(root.clone(), relays),
            Admission::Full => {}
        }
        search.answered(admission);
    }
}

async fn fetch_root(ask: impl AsyncFn() -> worker::Result<Response>) -> worker::Result<Response> {
    const TRIES: u32 = 3;
    for _ in 1..TRIES {
        let response = ask().await;
        if response.is_ok() {
            return response;
        }
    }
    ask().await
}

thread_local! {
    /// What roots said lately: how many relays there are, and until when that is good.
    static RELAYS: RefCell<BTreeMap<String, (u32, f64)>> = const { RefCell::new(BTreeMap::new()) };
}

/// In milliseconds.
const REMEMBERED_FOR: f64 = 10_000.0;
const MOST_REMEMBERED: usize = 1_000;

fn remembered(root: &str) -> Option<u32> {
    let now = js_sys::Date::now();
    let known = RELAYS.with_borrow(|known| known.get(root).copied());
    known
        .filter(|(_, until)| now < *until)
        .map(|(relays, _)| relays)
}

fn remember(root: String, relays: u32) {
    let now = js_sys::Date::now();
    RELAYS.with_borrow_mut(|known| {
        if known.len() >= MOST_REMEMBERED {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() < MOST_REMEMBERED {
            known.insert(root, (relays, now + REMEMBERED_FOR));
        }
    });
}
