//! The viewers and relays that one object serves. Runs in the object.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::__private::{self as platform, Timer, sleep};
use cloudflare_workflows::{Runtime, WorkersRuntime};
use futures_util::future::select;

use crate::cloudflare::cutoff::Cutoff;
use crate::cloudflare::fan_out::{Admission, Audience};
use crate::cloudflare::hop::Hop;
use crate::cloudflare::links::Links;
use crate::store::Bell;
use crate::sync::{Mutex, lock};

/// The viewers and relays that an object serves.
pub(super) struct Crowd {
    audience: Mutex<Audience>,
    /// The timers of viewers' heartbeats.
    timers: Mutex<Timers>,
    /// Rings when viewers or relays come, report or leave.
    bell: Bell,
    links: Rc<Links>,
    cutoff: Rc<Cutoff>,
}

/// Timers by number, numbered as they are made.
#[derive(Default)]
struct Timers {
    timers: BTreeMap<u64, Timer>,
    made: u64,
    /// All of them are one timer of the runtime.
    shared: platform::Timers,
}

impl Crowd {
    /// Returns the crowd, yet empty, of the object that this is part of.
    pub(super) fn new(cutoff: &Rc<Cutoff>) -> Self {
        Self {
            audience: Mutex::default(),
            timers: Mutex::default(),
            bell: Bell::default(),
            links: Rc::default(),
            cutoff: Rc::clone(cutoff),
        }
    }

    /// Decides whether this object takes a viewer, and probes its viewers when that is due.
    pub(super) fn admit(self: &Rc<Self>, hop: &Hop) -> Admission {
        let (admission, probes) = {
            let mut audience = lock(&self.audience);
            let admission = audience.admit(hop.place, &hop.fan_out, hop.ask, now());
            (admission, audience.take_probe())
        };
        if probes {
            self.probe();
        }
        admission
    }

    /// Returns the known generation of the run's links.
    pub(super) fn links(&self) -> &Rc<Links> {
        &self.links
    }

    /// Counts a viewer for as long as the [`Visit`] lives.
    pub(super) fn enter(self: &Rc<Self>) -> Visit {
        self.change(Audience::enter);
        let number = {
            let mut timers = lock(&self.timers);
            timers.made += 1;
            timers.made
        };
        Visit {
            crowd: Rc::clone(self),
            number,
        }
    }

    /// Writes a heartbeat to all viewers, and another a moment later: at the second one at the latest the runtime
    /// notices which viewers are gone.
    fn probe(self: &Rc<Self>) {
        const MOMENT: Duration = Duration::from_millis(400);
        self.beat();
        let crowd = Rc::clone(self);
        self.cutoff.spawn(async move {
            sleep(MOMENT).await;
            crowd.beat();
        });
    }

    /// Writes a heartbeat to all viewers.
    fn beat(&self) {
        let timers: Vec<_> = lock(&self.timers).timers.values().cloned().collect();
        for timer in timers {
            timer.elapse();
        }
    }

    /// Changes the counts and rings the bell.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Audience) -> T) -> T {
        let changed = change(&mut lock(&self.audience));
        self.bell.ring();
        changed
    }

    /// Returns the number of viewers here and below.
    pub(super) fn total(&self) -> u64 {
        let (here, below) = self.watched();
        here + below
    }

    /// Returns the number of viewers here, and that of those below.
    pub(super) fn watched(&self) -> (u64, u64) {
        let mut audience = lock(&self.audience);
        (audience.viewers(), audience.below(now()))
    }

    /// Resolves when the counts change.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.bell.listen()
    }

    /// Resolves when no viewers and no relays are left.
    pub(super) async fn gone(&self) {
        /// The pause between two looks without a ring: a relay that disappears without notice rings no bell.
        const LOOK: Duration = Duration::from_secs(30);
        loop {
            let listener = self.bell.listen();
            // `below` forgets relays that have not reported lately.
            let is_empty = {
                let mut audience = lock(&self.audience);
                audience.below(now());
                audience.is_empty()
            };
            if is_empty {
                return;
            }
            select(listener, sleep(LOOK)).await;
        }
    }
}

/// A viewer at an object, counted until this is dropped.
pub(super) struct Visit {
    crowd: Rc<Crowd>,
    number: u64,
}

impl Visit {
    /// Returns the timer of the viewer's heartbeats.
    pub(super) fn timer(&self) -> Timer {
        let mut timers = lock(&self.crowd.timers);
        let timer = timers.shared.timer();
        timers.timers.insert(self.number, timer.clone());
        timer
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        lock(&self.crowd.timers).timers.remove(&self.number);
        self.crowd.change(Audience::leave);
    }
}

pub(super) fn now() -> SystemTime {
    WorkersRuntime.now()
}
