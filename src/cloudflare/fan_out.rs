//! Where the viewers of one log go if they are too many for one object: the arithmetic of a tree of relays, without
//! the relays. Runs in the Worker and in the object; pure, and tested natively.
//!
//! The object that has the log is the tree's root. It serves viewers itself until it has
//! [`viewers_per_object`](FanOut::viewers_per_object). Further viewers are sent to relays, which are numbered from 1,
//! and are as many as needed. A relay that is full, too, says so, and another is tried. There are at most
//! [`max_relays`](FanOut::max_relays), since each is an object that is charged for while it is watched; past that all
//! of them take more viewers. A relay's number alone determines where it gets its events: from the root or from
//! another relay. Each of these has viewers of its own, so that none only passes events on.
//!
//! An object notices that a viewer has left when it writes to the viewer, which may be 15 seconds later if nothing
//! happens. So that viewers who come and go make no relays, a full object first [probes](Audience::take_probe) which
//! viewers are still there, and takes a tenth more viewers during that second.
//!
//! Everything here is decided without I/O: the clock and the randomness are arguments. `serve_sse` and the objects
//! use it in production, `tests/scale.rs` with a million viewers. `docs/scale.md` has the numbers.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// The most viewers and relays of an object. The shape of a tree follows from it.
///
/// ```
/// use ssetarget::cloudflare::fan_out::{FanOut, Place};
///
/// let fan_out = FanOut::new().relays_per_object(32).max_relays(3_000);
/// let relays = fan_out.relays(1_000_000);
/// assert_eq!(relays, 2667);
/// assert_eq!(fan_out.level(Place::relay(relays)), 3);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FanOut {
    /// The number of viewers of an object before further ones are sent to relays. At least 1. Default: 500.
    pub viewers_per_object: u32,
    /// The number of relays that get their events from one object. At least 2. Default: 64.
    pub relays_per_object: u32,
    /// The most relays of a run, however many viewers come: a bound on the cost that strangers can cause. At least 1,
    /// at most 1,048,576. Default: 256, which serve 96,000 viewers as intended and 128,000 when all are full. Past
    /// that nobody is refused: further viewers are sent to any of the relays, which then have more than
    /// [`viewers_per_object`](Self::viewers_per_object) and deliver more slowly.
    #[serde(default = "default_max_relays")]
    pub max_relays: u32,
}

const fn default_max_relays() -> u32 {
    256
}

impl FanOut {
    /// Returns the defaults of the fields.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            viewers_per_object: 500,
            relays_per_object: 64,
            max_relays: default_max_relays(),
        }
    }

    /// Sets [`viewers_per_object`](Self::viewers_per_object).
    #[must_use]
    pub const fn viewers_per_object(mut self, viewers: u32) -> Self {
        self.viewers_per_object = viewers;
        self
    }

    /// Sets [`relays_per_object`](Self::relays_per_object).
    #[must_use]
    pub const fn relays_per_object(mut self, relays: u32) -> Self {
        self.relays_per_object = relays;
        self
    }

    /// Sets [`max_relays`](Self::max_relays).
    #[must_use]
    pub const fn max_relays(mut self, relays: u32) -> Self {
        self.max_relays = relays;
        self
    }

    /// Returns the number of relays for `viewers` viewers, at least one and at most [`max_relays`](Self::max_relays).
    /// Relays are intended to be three quarters full, so that viewers, who are spread at random, seldom meet a full
    /// one.
    #[must_use]
    pub fn relays(&self, viewers: u64) -> u32 {
        let filled = u64::from(self.viewers()) * 3;
        let relays = viewers.saturating_mul(4).div_ceil(filled);
        u32::try_from(relays)
            .unwrap_or(MOST_RELAYS)
            .clamp(1, self.most_relays())
    }

    /// Returns the object from which an object gets its events, `None` for the root. For a relay it is the object
    /// whose number is the quotient of the number before its own by [`relays_per_object`](Self::relays_per_object),
    /// where 0 is the root.
    #[must_use]
    pub fn parent(&self, place: Place) -> Option<Place> {
        let before = place.0.checked_sub(1)?;
        Some(Place(before / self.relays_per_object.max(2)))
    }

    /// Returns the number of hops of an event from the root.
    #[must_use]
    pub fn level(&self, place: Place) -> u32 {
        self.parent(place)
            .map_or(0, |parent| self.level(parent) + 1)
    }

    fn viewers(&self) -> u32 {
        self.viewers_per_object.max(1)
    }

    fn most_relays(&self) -> u32 {
        self.max_relays.clamp(1, MOST_RELAYS)
    }
}

/// The limit of [`max_relays`](FanOut::max_relays): more than any log has, and few enough to count with.
const MOST_RELAYS: u32 = 1 << 20;

impl Default for FanOut {
    fn default() -> Self {
        Self::new()
    }
}

/// An object's place in a tree: the root, or a relay of some number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place(u32);

impl Place {
    /// The object that has the log.
    pub const ROOT: Self = Self(0);

    /// Returns the relay of this number, from 1.
    #[must_use]
    pub const fn relay(number: u32) -> Self {
        Self(number)
    }

    /// Returns the relay's number, 0 for the root.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// The way in which an object is asked to take a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// The object is to take the viewer if it has room.
    IfRoom,
    /// The root is asked as by [`IfRoom`](Self::IfRoom), and learns that the newest of this many relays is full.
    Full(u32),
    /// The object is to take the viewer in any case, because enough others were asked.
    Anyway,
}

/// An object's answer to a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admission {
    /// The viewer is served here.
    Here,
    /// The root answers that the viewer is to go to one of this many relays.
    Relays(u32),
    /// A relay answers that it is full, and that the viewer is to go to another.
    Full,
}

/// The audience of an object: its own viewers, and the relays that follow it, with the numbers of viewers below them.
#[derive(Debug, Default)]
pub struct Audience {
    viewers: u64,
    relays: BTreeMap<Place, Report>,
    joined: u64,
    /// The least number of relays, because viewers found too few, and since when.
    wanted: Option<(u32, SystemTime)>,
    /// When the object last probed its viewers, and whether it is still to do so.
    probed: Option<SystemTime>,
    probe_is_due: bool,
}

/// A relay's connection to the object that it follows. A relay that lost its connection and comes back has a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    relay: Place,
    number: u64,
}

#[derive(Debug)]
struct Report {
    /// The number of the connection that reported.
    number: u64,
    viewers: u64,
    time: SystemTime,
}

/// The time for which a relay counts after its last report.
const REPORT_TIME: Duration = Duration::from_secs(60);
/// The time for which there are more relays than the reports ask for. Reports come later than viewers.
const WANTED_TIME: Duration = Duration::from_secs(10);
/// The duration of a probe: viewers that are gone are noticed within it.
const PROBE_TIME: Duration = Duration::from_secs(1);
/// The pause after a probe before the next one may begin, if all viewers were still there.
const PROBE_PAUSE: Duration = Duration::from_secs(5);

impl Audience {
    /// Counts a viewer.
    pub fn enter(&mut self) {
        self.viewers += 1;
    }

    /// Counts a viewer that has left.
    pub fn leave(&mut self) {
        self.viewers = self.viewers.saturating_sub(1);
    }

    /// Adds a relay that follows. Its reports from an earlier connection no longer count, so that its viewers do not
    /// count twice.
    pub fn join(&mut self, relay: Place, now: SystemTime) -> Joined {
        self.joined += 1;
        let joined = Joined {
            relay,
            number: self.joined,
        };
        self.report(joined, 0, now);
        joined
    }

    /// Notes the number of viewers below a relay. Repeat it at least each minute.
    pub fn report(&mut self, joined: Joined, viewers: u64, now: SystemTime) {
        let Joined { relay, number } = joined;
        if self.is_latest(joined) {
            let report = Report {
                number,
                viewers,
                time: now,
            };
            self.relays.insert(relay, report);
        }
    }

    /// Removes a relay that no longer follows.
    pub fn part(&mut self, joined: Joined) {
        if self.is_latest(joined) {
            self.relays.remove(&joined.relay);
        }
    }

    /// Returns whether the relay has no later connection.
    fn is_latest(&self, joined: Joined) -> bool {
        let known = self.relays.get(&joined.relay);
        known.is_none_or(|known| known.number <= joined.number)
    }

    /// Returns the number of the object's own viewers.
    #[must_use]
    pub fn viewers(&self) -> u64 {
        self.viewers
    }

    /// Returns the number of viewers below, by the relays' reports. Forgets relays that have not reported lately.
    pub fn below(&mut self, now: SystemTime) -> u64 {
        self.relays
            .retain(|_, report| age(&mut report.time, now) < REPORT_TIME);
        self.relays.values().map(|report| report.viewers).sum()
    }

    /// Returns whether there are no viewers and no relays.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.viewers == 0 && self.relays.is_empty()
    }

    /// Decides what the object at this place answers to a viewer. Call [`enter`](Self::enter) for a viewer that it
    /// takes.
    pub fn admit(
        &mut self,
        place: Place,
        fan_out: &FanOut,
        ask: Ask,
        now: SystemTime,
    ) -> Admission {
        if ask == Ask::Anyway {
            return Admission::Here;
        }
        let room = u64::from(fan_out.viewers());
        if self.viewers < room {
            if self.probed(now).is_some_and(|age| age >= PROBE_TIME) {
                self.probed = None;
            }
            return Admission::Here;
        }
        if self.is_probing(now) && self.viewers < room + room / 10 {
            return Admission::Here;
        }
        if place != Place::ROOT {
            return Admission::Full;
        }
        if let Ask::Full(relays) = ask {
            // In a crowd this happens so often that there are soon enough.
            let more = relays
                .saturating_add(relays / 4 + 1)
                .min(fan_out.most_relays());
            let wanted = self.wanted(now).max(more);
            self.wanted = Some((wanted, now));
        }
        let relays = fan_out.relays(self.below(now) + 1);
        Admission::Relays(relays.max(self.wanted(now)))
    }

    /// Returns whether to write to each viewer, at once and again a moment later, so that departed viewers are
    /// noticed. Ask after each [`admit`](Self::admit); returns true once for each probe.
    #[must_use]
    pub fn take_probe(&mut self) -> bool {
        std::mem::take(&mut self.probe_is_due)
    }

    /// Returns whether a probe is under way, and begins one if the last was long enough ago.
    fn is_probing(&mut self, now: SystemTime) -> bool {
        match self.probed(now) {
            Some(age) if age < PROBE_PAUSE => age < PROBE_TIME,
            _ => {
                (self.probed, self.probe_is_due) = (Some(now), true);
                true
            }
        }
    }

    fn probed(&mut self, now: SystemTime) -> Option<Duration> {
        self.probed.as_mut().map(|time| age(time, now))
    }

    fn wanted(&mut self, now: SystemTime) -> u32 {
        let Some((relays, since)) = &mut self.wanted else {
            return 0;
        };
        if age(since, now) < WANTED_TIME {
            *relays
        } else {
            0
        }
    }
}

/// Returns the time since `time`. If the clock was set back in the meantime, `time` becomes now, so that nothing
/// lasts longer than intended.
fn age(time: &mut SystemTime, now: SystemTime) -> Duration {
    *time = now.min(*time);
    now.duration_since(*time).unwrap_or_default()
}

/// The search for an object that takes a viewer.
///
/// ```
/// use ssetarget::cloudflare::fan_out::{Admission, Ask, Place, Search};
///
/// let mut search = Search::new(None);
/// assert_eq!(search.next(0.5), (Place::ROOT, Ask::IfRoom));
/// search.answered(Admission::Relays(8));
/// assert_eq!(search.next(0.5), (Place::relay(5), Ask::IfRoom));
/// // Relays that are older than a full one are full, too, while there come more and more viewers.
/// search.answered(Admission::Full);
/// assert_eq!(search.next(0.5), (Place::relay(7), Ask::IfRoom));
/// ```
#[derive(Clone, Debug)]
pub struct Search {
    /// The number of relays, if that is known.
    relays: Option<u32>,
    /// The number of the newest relay that is full. All before it are full, too.
    full: u32,
    asked: u32,
    failed: u32,
    last: Place,
}

/// The number of objects that are asked whether they have room.
const ASKED: u32 = 8;
/// The number of relays that may fail before the root is to take the viewer.
const FAILED: u32 = 2;

impl Search {
    /// Returns a search that asks the root first, unless the number of [relays](Admission::Relays) is `remembered`.
    #[must_use]
    pub fn new(remembered: Option<u32>) -> Self {
        Self {
            relays: remembered,
            full: 0,
            asked: 0,
            failed: 0,
            last: Place::ROOT,
        }
    }

    /// Returns the object to ask next, and the way of asking. `random` is from 0 to below 1.
    pub fn next(&mut self, random: f64) -> (Place, Ask) {
        let (place, ask) = match self.relays {
            _ if self.failed >= FAILED => (Place::ROOT, Ask::Anyway),
            None => (Place::ROOT, Ask::IfRoom),
            Some(relays) if self.asked >= ASKED => (one_of(0, relays, random), Ask::Anyway),
            Some(relays) if self.full >= relays => (Place::ROOT, Ask::Full(relays)),
            Some(relays) => (one_of(self.full, relays, random), Ask::IfRoom),
        };
        self.asked += 1;
        self.last = place;
        (place, ask)
    }

    /// Takes the answer of the object that was asked last.
    pub fn answered(&mut self, admission: Admission) {
        match admission {
            Admission::Here => {}
            Admission::Relays(relays) => {
                self.relays = Some(relays);
                // All are full, and no more may be added.
                if self.full > 0 && relays <= self.full {
                    self.asked = self.asked.max(ASKED);
                }
            }
            Admission::Full => self.full = self.last.0,
        }
    }

    /// Notes that the object that was asked last did not answer.
    pub fn failed(&mut self) {
        self.failed += 1;
    }
}

/// Returns a random relay with a number above `behind`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "below the number of relays"
)]
fn one_of(behind: u32, relays: u32, random: f64) -> Place {
    let choice = (f64::from(relays - behind) * random.clamp(0.0, 1.0)) as u32;
    Place((behind + choice + 1).min(relays))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: FanOut = FanOut::new().viewers_per_object(2).relays_per_object(2);
    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn there_are_as_many_relays_as_it_takes() {
        let relays: Vec<_> = (0..8).map(|viewers| SMALL.relays(viewers)).collect();
        assert_eq!(relays, [1, 1, 2, 2, 3, 4, 4, 5]);
    }

    #[test]
    fn nonsense_is_still_a_tree() {
        let none = FanOut::new().viewers_per_object(0).relays_per_object(0);
        let none = none.max_relays(u32::MAX);
        assert_eq!(none.relays(u64::MAX), MOST_RELAYS);
        assert_eq!(none.max_relays(0).relays(u64::MAX), 1);
        assert_eq!(none.level(Place::relay(MOST_RELAYS)), 20);
    }

    #[test]
    fn every_way_up_ends_at_the_root_and_no_object_has_more_relays_than_it_may() {
        let fan_out = FanOut::new().relays_per_object(3);
        let mut below = BTreeMap::<Place, u32>::new();
        for number in 1..=39 {
            *below
                .entry(fan_out.parent(Place(number)).unwrap())
                .or_default() += 1;
        }
        let parents: Vec<_> = below.keys().map(|place| place.number()).collect();
        assert_eq!(parents, (0..13).collect::<Vec<_>>());
        assert!(below.values().all(|relays| *relays == 3));
        let levels = [0, 1, 3, 4, 12, 13, 39].map(|number| fan_out.level(Place(number)));
        assert_eq!(levels, [0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(fan_out.parent(Place::ROOT), None);
    }

    #[test]
    fn the_root_takes_viewers_while_it_has_room_and_counts_what_is_below() {
        let mut root = Audience::default();
        let admit = |root: &mut Audience, ask| root.admit(Place::ROOT, &SMALL, ask, NOW);
        for _ in 0..2 {
            assert_eq!(admit(&mut root, Ask::IfRoom), Admission::Here);
            root.enter();
        }
        assert_eq!(admit(&mut root, Ask::IfRoom), Admission::Relays(1));
        assert_eq!(admit(&mut root, Ask::Anyway), Admission::Here);
        let (one, other) = (
            root.join(Place::relay(1), NOW),
            root.join(Place::relay(2), NOW),
        );
        root.report(one, 3, NOW);
        root.report(other, 3, NOW);
        assert_eq!(admit(&mut root, Ask::IfRoom), Admission::Relays(5));
        root.part(one);
        assert_eq!(admit(&mut root, Ask::IfRoom), Admission::Relays(3));
        // A relay that disappeared without notice.
        let later = NOW + REPORT_TIME;
        assert_eq!(root.below(later), 0);
        root.leave();
        assert_eq!(admit(&mut root, Ask::IfRoom), Admission::Here);
        root.leave();
        assert!(root.is_empty());
    }

    #[test]
    fn viewers_who_find_all_full_open_relays_before_reports_do() {
        let mut root = Audience::default();
        root.enter();
        root.enter();
        let mut admit = |ask, now| root.admit(Place::ROOT, &SMALL, ask, now);
        assert_eq!(admit(Ask::Full(16), NOW), Admission::Relays(21));
        // A viewer that knows of fewer relays opens none.
        assert_eq!(admit(Ask::Full(2), NOW), Admission::Relays(21));
        assert_eq!(admit(Ask::IfRoom, NOW), Admission::Relays(21));
        assert_eq!(admit(Ask::IfRoom, NOW + WANTED_TIME), Admission::Relays(1));
    }

    #[test]
    fn a_relay_that_is_there_again_counts_once() {
        let mut root = Audience::default();
        let before = root.join(Place::relay(1), NOW);
        root.report(before, 400, NOW);
        let again = root.join(Place::relay(1), NOW);
        root.report(again, 390, NOW);
        // A late report of its first connection no longer counts.
        root.report(before, 400, NOW);
        assert_eq!(root.below(NOW), 390);
        root.part(before);
        assert_eq!(root.below(NOW), 390);
        root.part(again);
        assert!(root.is_empty());
    }

    /// A viewer that opens its stream and leaves at once is noticed after 15 seconds, or by a probe.
    fn strangers(viewers: u32, per_second: u32, probes: bool) -> u32 {
        let fan_out = FanOut::new();
        let mut root = Audience::default();
        (0..viewers).for_each(|_| root.enter());
        let (mut gone, mut most) = (Vec::new(), 0);
        for step in 0..per_second * 60 {
            let now = NOW + Duration::from_secs(1) * step / per_second;
            match root.admit(Place::ROOT, &fan_out, Ask::IfRoom, now) {
                Admission::Here => {
                    root.enter();
                    gone.push(now + Duration::from_secs(15));
                }
                Admission::Relays(relays) => most = most.max(relays),
                Admission::Full => {}
            }
            if root.take_probe() && probes {
                gone.iter_mut()
                    .for_each(|at| *at = (*at).min(now + Duration::from_millis(500)));
            }
            gone.retain(|at| {
                *at > now || {
                    root.leave();
                    false
                }
            });
        }
        most
    }

    #[test]
    fn viewers_who_leave_at_once_make_no_relays() {
        assert_eq!(strangers(450, 29, true), 0);
        assert_eq!(strangers(0, 90, true), 0);
        // Without probes there are relays.
        assert_ne!(strangers(450, 29, false), 0);
        // A root that is full is full.
        assert_ne!(strangers(500, 29, true), 0);
    }

    #[test]
    fn there_are_no_more_relays_than_there_may_be_and_everybody_is_taken() {
        let fan_out = SMALL.max_relays(3);
        assert_eq!(fan_out.relays(1_000_000), 3);
        let mut objects = BTreeMap::<Place, Audience>::new();
        let mut asked = 0;
        for viewer in 0..100 {
            let mut search = Search::new(None);
            loop {
                let (place, ask) = search.next(f64::from(viewer % 10) / 10.0);
                asked += 1;
                let object = objects.entry(place).or_default();
                let admission = object.admit(place, &fan_out, ask, NOW);
                if admission == Admission::Here {
                    object.enter();
                    break;
                }
                search.answered(admission);
            }
        }
        assert!(
            objects.keys().all(|place| place.number() <= 3),
            "{objects:?}"
        );
        assert_eq!(objects.values().map(Audience::viewers).sum::<u64>(), 100);
        assert!(
            objects.values().all(|object| object.viewers() < 60),
            "{objects:?}"
        );
        assert!(asked < 500, "{asked} requests for 100 viewers");
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_no_viewer_for_longer() {
        let hour = Duration::from_secs(3600);
        let mut root = Audience::default();
        (0..2).for_each(|_| root.enter());
        let relay = root.join(Place::relay(1), NOW + hour);
        root.report(relay, 7, NOW + hour);
        assert_eq!(
            root.admit(Place::ROOT, &SMALL, Ask::Full(16), NOW + hour),
            Admission::Relays(21)
        );
        assert!(root.take_probe() && !root.take_probe());
        // Now it is an hour earlier.
        assert_eq!(root.below(NOW), 7);
        assert_eq!(
            root.admit(Place::ROOT, &SMALL, Ask::IfRoom, NOW),
            Admission::Relays(21)
        );
        let later = NOW + PROBE_PAUSE;
        root.admit(Place::ROOT, &SMALL, Ask::IfRoom, later);
        assert!(root.take_probe());
        assert_eq!(root.below(NOW + REPORT_TIME), 0);
        assert_eq!(
            root.admit(Place::ROOT, &SMALL, Ask::IfRoom, NOW + REPORT_TIME),
            Admission::Relays(1)
        );
    }

    #[test]
    fn a_full_relay_says_so() {
        let mut relay = Audience::default();
        relay.enter();
        relay.enter();
        let mut admit = |ask| relay.admit(Place::relay(1), &SMALL, ask, NOW);
        assert_eq!(admit(Ask::IfRoom), Admission::Full);
        assert_eq!(admit(Ask::Anyway), Admission::Here);
    }

    #[test]
    fn a_search_goes_on_until_an_object_accepts() {
        let mut search = Search::new(Some(2));
        assert_eq!(search.next(0.99), (Place::relay(2), Ask::IfRoom));
        search.answered(Admission::Full);
        assert_eq!(search.next(0.0), (Place::ROOT, Ask::Full(2)));
        search.answered(Admission::Relays(5));
        for relay in 3..=5 {
            assert_eq!(search.next(0.0), (Place::relay(relay), Ask::IfRoom));
            search.answered(Admission::Full);
        }
        assert_eq!(search.next(0.0), (Place::ROOT, Ask::Full(5)));
        search.answered(Admission::Relays(7));
        for relay in 6..=7 {
            assert_eq!(search.next(0.0), (Place::relay(relay), Ask::IfRoom));
            search.answered(Admission::Full);
        }
        assert_eq!(search.next(0.5), (Place::relay(4), Ask::Anyway));
        // That one is gone, and so is the next: the root has the log.
        search.failed();
        assert_eq!(search.next(0.99), (Place::relay(7), Ask::Anyway));
        search.failed();
        assert_eq!(search.next(0.99), (Place::ROOT, Ask::Anyway));
    }
}
