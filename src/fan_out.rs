//! Where the viewers of one log go when they are too many for one object: the arithmetic of a tree
//! of relays, without the relays.
//!
//! The object that has the log is the tree's root. It serves viewers itself until it has
//! [`viewers_per_object`](FanOut::viewers_per_object); those who come then are sent to the leaves,
//! all of one level, of which there are as many as it takes. A leaf that has that many viewers,
//! too, says so, and another is tried. Where a relay gets its events from follows from its
//! [`Place`] alone.
//!
//! Everything here is decided without I/O, a clock or a source of chance, which are arguments:
//! `serve_sse` and the objects ask it in production, `tests/scale.rs` for a million viewers.
//! `docs/scale.md` has the numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// How many viewers and relays an object has at most: what a tree's shape follows from.
///
/// ```
/// use ssetarget::fan_out::FanOut;
///
/// let fan_out = FanOut::new().viewers_per_object(500).relays_per_object(32);
/// let leaves = fan_out.leaves(1_000_000);
/// assert_eq!((leaves, fan_out.level(leaves)), (2667, 3));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FanOut {
    /// How many viewers an object has before others are sent on. At least 1. Default: 1000.
    pub viewers_per_object: u32,
    /// How many relays get their events from one object. At least 2. Default: 32.
    pub relays_per_object: u32,
}

impl FanOut {
    /// With the defaults of the fields.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            viewers_per_object: 1000,
            relays_per_object: 32,
        }
    }

    /// With another [`viewers_per_object`](Self::viewers_per_object).
    #[must_use]
    pub const fn viewers_per_object(mut self, viewers: u32) -> Self {
        self.viewers_per_object = viewers;
        self
    }

    /// With another [`relays_per_object`](Self::relays_per_object).
    #[must_use]
    pub const fn relays_per_object(mut self, relays: u32) -> Self {
        self.relays_per_object = relays;
        self
    }

    /// How many leaves serve so many viewers, one at least: leaves are to be three quarters full,
    /// so that chance, which spreads viewers, seldom meets a full one.
    #[must_use]
    pub fn leaves(&self, viewers: u64) -> u32 {
        let filled = u64::from(self.viewers()) * 3;
        let leaves = viewers.saturating_mul(4).div_ceil(filled);
        u32::try_from(leaves)
            .unwrap_or(MOST_LEAVES)
            .clamp(1, MOST_LEAVES)
    }

    /// The level that has room for so many leaves: 1 is that below the root.
    #[must_use]
    pub fn level(&self, leaves: u32) -> u32 {
        let (mut level, mut room) = (1, self.relays());
        while room < u64::from(leaves) {
            level += 1;
            room *= self.relays();
        }
        level
    }

    fn viewers(&self) -> u32 {
        self.viewers_per_object.max(1)
    }

    fn relays(&self) -> u64 {
        u64::from(self.relays_per_object.max(2))
    }
}

/// More than any log has, and few enough to count with.
const MOST_LEAVES: u32 = 1 << 20;

impl Default for FanOut {
    fn default() -> Self {
        Self::new()
    }
}

/// An object's place in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    level: u32,
    index: u32,
}

impl Place {
    /// The object that has the log.
    pub const ROOT: Self = Self { level: 0, index: 0 };

    /// A relay: `level` counts from 1, below the root, and `index` from 0.
    #[must_use]
    pub const fn relay(level: u32, index: u32) -> Self {
        Self { level, index }
    }

    /// How many relays are between a viewer here and the root.
    #[must_use]
    pub const fn level(self) -> u32 {
        self.level
    }

    /// Where it gets its events from: each set of
    /// [`relays_per_object`](FanOut::relays_per_object) neighbours from the same. `None` for the
    /// root.
    #[must_use]
    pub fn parent(self, fan_out: &FanOut) -> Option<Self> {
        match self.level {
            0 => None,
            1 => Some(Self::ROOT),
            level => Some(Self {
                level: level - 1,
                index: self.index / fan_out.relays_per_object.max(2),
            }),
        }
    }
}

/// `2.31`: the level, and which one of it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.level, self.index)
    }
}

/// How an object is asked to take a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// If it has room.
    IfRoom,
    /// The root: as [`IfRoom`](Self::IfRoom), and the newest of so many leaves is full.
    Full(u32),
    /// In any case: enough others were asked.
    Anyway,
}

/// What an object says to a viewer who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admission {
    /// It is served here.
    Here,
    /// The root: it is to go to one of so many leaves.
    Leaves(u32),
    /// A leaf: it is to go to another.
    Full,
}

/// Those whom an object serves: its own viewers, and the relays that follow it, with how many
/// viewers these have below them.
#[derive(Debug, Default)]
pub struct Audience {
    viewers: u64,
    relays: BTreeMap<u64, Report>,
    joined: u64,
    /// So many leaves at least, until then: viewers found that there are too few.
    wanted: Option<(u32, SystemTime)>,
}

#[derive(Debug)]
struct Report {
    viewers: u64,
    time: SystemTime,
}

/// How long a relay counts that was not heard of.
const REPORT_TIME: Duration = Duration::from_secs(60);
/// How long there are more leaves than the reports ask for, which come later than viewers.
const WANTED_TIME: Duration = Duration::from_secs(10);

impl Audience {
    /// A viewer is served.
    pub fn enter(&mut self) {
        self.viewers += 1;
    }

    /// A viewer is gone.
    pub fn leave(&mut self) {
        self.viewers = self.viewers.saturating_sub(1);
    }

    /// A relay follows; its number here.
    pub fn join(&mut self, now: SystemTime) -> u64 {
        self.joined += 1;
        self.report(self.joined, 0, now);
        self.joined
    }

    /// That relay is there, with so many viewers below it. To be repeated each minute at least.
    pub fn report(&mut self, relay: u64, viewers: u64, now: SystemTime) {
        let report = Report { viewers, time: now };
        self.relays.insert(relay, report);
    }

    /// That relay follows no more.
    pub fn part(&mut self, relay: u64) {
        self.relays.remove(&relay);
    }

    /// Its own viewers.
    #[must_use]
    pub fn viewers(&self) -> u64 {
        self.viewers
    }

    /// The viewers below it, as far as it was told.
    pub fn below(&mut self, now: SystemTime) -> u64 {
        self.relays.retain(|_, report| report.is_true(now));
        self.relays.values().map(|report| report.viewers).sum()
    }

    /// Whether nobody is served and nobody follows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.viewers == 0 && self.relays.is_empty()
    }

    /// What the object at this place says to a viewer. Whom it takes is still to
    /// [`enter`](Self::enter).
    pub fn admit(
        &mut self,
        place: Place,
        fan_out: &FanOut,
        ask: Ask,
        now: SystemTime,
    ) -> Admission {
        if ask == Ask::Anyway || self.viewers < u64::from(fan_out.viewers()) {
            return Admission::Here;
        }
        if place != Place::ROOT {
            return Admission::Full;
        }
        if let Ask::Full(leaves) = ask {
            // A quarter more: so often is it told of in a crowd that there are enough soon.
            let more = leaves.saturating_add(leaves / 4 + 1).min(MOST_LEAVES);
            let wanted = self.wanted(now).max(more);
            self.wanted = Some((wanted, now + WANTED_TIME));
        }
        let leaves = fan_out.leaves(self.below(now) + 1);
        Admission::Leaves(leaves.max(self.wanted(now)))
    }

    fn wanted(&self, now: SystemTime) -> u32 {
        let wanted = self.wanted.filter(|(_, until)| now < *until);
        wanted.map_or(0, |(leaves, _)| leaves)
    }
}

impl Report {
    fn is_true(&self, now: SystemTime) -> bool {
        now.duration_since(self.time)
            .is_ok_and(|age| age < REPORT_TIME)
            || now < self.time
    }
}

/// A viewer's way to an object that takes it.
///
/// ```
/// use ssetarget::fan_out::{Admission, Ask, FanOut, Place, Search};
///
/// let mut search = Search::new(FanOut::new(), None);
/// assert_eq!(search.next(0.5), (Place::ROOT, Ask::IfRoom));
/// search.answered(Admission::Leaves(8));
/// assert_eq!(search.next(0.5), (Place::relay(1, 4), Ask::IfRoom));
/// // Leaves that are older than a full one are full, too, while there come more and more viewers.
/// search.answered(Admission::Full);
/// assert_eq!(search.next(0.5), (Place::relay(1, 6), Ask::IfRoom));
/// ```
#[derive(Clone, Debug)]
pub struct Search {
    fan_out: FanOut,
    /// How many leaves there are, if that is known.
    leaves: Option<u32>,
    /// The first that is not known to be full.
    from: u32,
    asked: u32,
    failed: u32,
    last: Place,
}

/// How many leaves are asked whether they have room.
const ASKED: u32 = 8;
/// How many relays may fail before the root is to take the viewer.
const FAILED: u32 = 2;

impl Search {
    /// One that asks the root first, unless it is `remembered` how many
    /// [leaves](Self::leaves) there are.
    #[must_use]
    pub fn new(fan_out: FanOut, remembered: Option<u32>) -> Self {
        Self {
            fan_out,
            leaves: remembered,
            from: 0,
            asked: 0,
            failed: 0,
            last: Place::ROOT,
        }
    }

    /// Whom to ask next, and how. `random` is from 0 to below 1.
    pub fn next(&mut self, random: f64) -> (Place, Ask) {
        let (place, ask) = match self.leaves {
            _ if self.failed >= FAILED => (Place::ROOT, Ask::Anyway),
            None => (Place::ROOT, Ask::IfRoom),
            Some(leaves) if self.asked >= ASKED => (self.leaf(0, leaves, random), Ask::Anyway),
            Some(leaves) if self.from >= leaves => (Place::ROOT, Ask::Full(leaves)),
            Some(leaves) => (self.leaf(self.from, leaves, random), Ask::IfRoom),
        };
        self.asked += 1;
        self.last = place;
        (place, ask)
    }

    /// What the one who was asked last said.
    pub fn answered(&mut self, admission: Admission) {
        match admission {
            Admission::Here => {}
            Admission::Leaves(leaves) => {
                let level = |leaves| self.fan_out.level(leaves);
                let same = self
                    .leaves
                    .is_some_and(|known| level(known) == level(leaves));
                if !same || self.from >= leaves {
                    self.from = 0;
                }
                self.leaves = Some(leaves);
            }
            Admission::Full => self.from = self.last.index.saturating_add(1),
        }
    }

    /// The one who was asked last did not answer.
    pub fn failed(&mut self) {
        self.failed += 1;
    }

    /// How many leaves there are, if it came to know: worth remembering for some seconds.
    #[must_use]
    pub fn leaves(&self) -> Option<u32> {
        self.leaves
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "below the number of leaves"
    )]
    fn leaf(&self, from: u32, leaves: u32, random: f64) -> Place {
        let choice = (f64::from(leaves - from) * random.clamp(0.0, 1.0)) as u32;
        let index = (from + choice).min(leaves - 1);
        Place::relay(self.fan_out.level(leaves), index)
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    const SMALL: FanOut = FanOut::new().viewers_per_object(2).relays_per_object(2);
    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn there_are_as_many_leaves_as_it_takes_at_a_level_that_has_room() {
        let shape = |viewers| {
            let leaves = SMALL.leaves(viewers);
            (leaves, SMALL.level(leaves))
        };
        let shapes: Vec<_> = (0..8).map(shape).collect();
        let expected = [
            (1, 1),
            (1, 1),
            (2, 1),
            (2, 1),
            (3, 2),
            (4, 2),
            (4, 2),
            (5, 3),
        ];
        assert_eq!(shapes, expected);
    }

    #[test]
    fn nonsense_is_still_a_tree() {
        let none = FanOut::new().viewers_per_object(0).relays_per_object(0);
        assert_eq!(none.leaves(u64::MAX), MOST_LEAVES);
        assert_eq!(none.level(MOST_LEAVES), 20);
        assert_eq!(Place::relay(3, 7).parent(&none), Some(Place::relay(2, 3)));
    }

    #[test]
    fn every_way_up_ends_at_the_root_and_no_object_has_more_relays_than_it_may() {
        let fan_out = FanOut::new().relays_per_object(3);
        let level: Vec<_> = (0..27).map(|index| Place::relay(3, index)).collect();
        let mut places = level;
        for relays in [9, 3, 1] {
            let mut below = BTreeMap::<Place, u32>::new();
            for place in places {
                *below.entry(place.parent(&fan_out).unwrap()).or_default() += 1;
            }
            assert_eq!(below.len(), relays);
            assert!(below.values().all(|relays| *relays == 3));
            places = below.into_keys().collect();
        }
        assert_eq!(places, [Place::ROOT]);
        assert_eq!(Place::ROOT.parent(&fan_out), None);
    }

    #[test]
    fn the_root_takes_viewers_while_it_has_room_and_counts_what_is_below() {
        let mut root = Audience::default();
        let admit = |root: &mut Audience, ask| root.admit(Place::ROOT, &SMALL, ask, NOW);
        for _ in 0..2 {
            assert_eq!(admit(&mut root, Ask::IfRoom), Admission::Here);
            root.enter();
        }
        assert_eq!(admit(&mut root, Ask::IfRoom), Admission::Leaves(1));
        assert_eq!(admit(&mut root, Ask::Anyway), Admission::Here);
        let (one, other) = (root.join(NOW), root.join(NOW));
        root.report(one, 3, NOW);
        root.report(other, 3, NOW);
        assert_eq!(admit(&mut root, Ask::IfRoom), Admission::Leaves(5));
        root.part(one);
        assert_eq!(admit(&mut root, Ask::IfRoom), Admission::Leaves(3));
        // One that went away without a word.
        let later = NOW + REPORT_TIME;
        assert_eq!(root.below(later), 0);
        root.leave();
        assert_eq!(admit(&mut root, Ask::IfRoom), Admission::Here);
        root.leave();
        assert!(root.is_empty());
    }

    #[test]
    fn viewers_who_find_all_full_open_leaves_before_reports_do() {
        let mut root = Audience::default();
        root.enter();
        root.enter();
        let mut admit = |ask, now| root.admit(Place::ROOT, &SMALL, ask, now);
        assert_eq!(admit(Ask::Full(8), NOW), Admission::Leaves(11));
        // Who has heard of fewer opens none.
        assert_eq!(admit(Ask::Full(2), NOW), Admission::Leaves(11));
        assert_eq!(admit(Ask::IfRoom, NOW), Admission::Leaves(11));
        assert_eq!(admit(Ask::IfRoom, NOW + WANTED_TIME), Admission::Leaves(1));
    }

    #[test]
    fn a_full_leaf_says_so() {
        let mut leaf = Audience::default();
        leaf.enter();
        leaf.enter();
        let mut admit = |ask| leaf.admit(Place::relay(1, 0), &SMALL, ask, NOW);
        assert_eq!(admit(Ask::IfRoom), Admission::Full);
        assert_eq!(admit(Ask::Anyway), Admission::Here);
    }

    #[test]
    fn a_search_goes_on_until_somebody_takes_it() {
        let fan_out = FanOut::new().relays_per_object(4);
        let mut search = Search::new(fan_out, Some(2));
        assert_eq!(search.next(0.99), (Place::relay(1, 1), Ask::IfRoom));
        search.answered(Admission::Full);
        assert_eq!(search.next(0.0), (Place::ROOT, Ask::Full(2)));
        search.answered(Admission::Leaves(3));
        assert_eq!(search.next(0.0), (Place::relay(1, 2), Ask::IfRoom));
        search.answered(Admission::Full);
        assert_eq!(search.next(0.0), (Place::ROOT, Ask::Full(3)));
        // Leaves of another level are all new.
        search.answered(Admission::Leaves(5));
        assert_eq!(search.next(0.0), (Place::relay(2, 0), Ask::IfRoom));
        for _ in 0..3 {
            search.answered(Admission::Full);
            assert_eq!(search.next(0.0).1, Ask::IfRoom);
        }
        search.answered(Admission::Full);
        assert_eq!(search.next(0.5), (Place::relay(2, 2), Ask::Anyway));
        // That one is gone, and so is the next: the root has the log.
        search.failed();
        assert_eq!(search.next(0.9), (Place::relay(2, 4), Ask::Anyway));
        search.failed();
        assert_eq!(search.next(0.9), (Place::ROOT, Ask::Anyway));
    }
}
