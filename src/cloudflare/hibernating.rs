//! Viewers over hibernatable WebSockets: the decisions of both ends, without the sockets. Runs in the object
//! (`Roster`, `Pace`, `Sweep`) and in the Worker (`Pulse`, `Budget`); pure, and tested natively.

use std::collections::BTreeMap;
use std::time::Duration;

/// The object closes a socket with this code when the stream is to end. Codes from 4000 are free to use: RFC 6455
/// section 7.4.2.
#[cfg(feature = "cloudflare")]
pub(crate) const END: u16 = 4000;
/// The object closes a socket with this code when the stream is to be cut off, so that the client comes back.
#[cfg(feature = "cloudflare")]
pub(crate) const BROKEN: u16 = 4001;
/// The Worker closes a socket with this code when the viewer leaves.
#[cfg(feature = "cloudflare")]
pub(crate) const LEFT: u16 = 4002;

/// The object closes a socket with this code when the viewer's permission was revoked.
#[cfg(feature = "cloudflare")]
pub(crate) const EXPIRED: u16 = 4003;

/// The Worker's message that checks that the object's side of a socket is there.
#[cfg(feature = "cloudflare")]
pub(crate) const PING: &str = "ping";
/// The answer of the runtime, given in place of the object, which is not woken for it.
#[cfg(feature = "cloudflare")]
pub(crate) const PONG: &str = "pong";

/// An object's viewers, by numbers that are stored with their sockets.
///
/// The object is notified of a closed socket after its viewer was removed. By then the number may be another
/// viewer's. So a call with a number also says which viewer it means.
#[derive(Debug)]
pub struct Roster<V> {
    viewers: BTreeMap<u32, V>,
}

impl<V> Default for Roster<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> Roster<V> {
    /// Returns a roster without viewers.
    pub fn new() -> Self {
        Self {
            viewers: BTreeMap::new(),
        }
    }

    /// Returns whether there are no viewers.
    pub fn is_empty(&self) -> bool {
        self.viewers.is_empty()
    }

    /// Returns the number of viewers.
    pub fn len(&self) -> usize {
        self.viewers.len()
    }

    /// Returns a number that no viewer here has, from `random`.
    pub fn number(&self, mut random: impl FnMut() -> u32) -> u32 {
        loop {
            let number = random();
            if !self.viewers.contains_key(&number) {
                return number;
            }
        }
    }

    /// Adds a viewer.
    pub fn insert(&mut self, number: u32, viewer: V) {
        self.viewers.insert(number, viewer);
    }

    /// Returns the viewer with this number, if it is the intended one.
    pub fn get_mut(&mut self, number: u32, is_meant: impl FnOnce(&V) -> bool) -> Option<&mut V> {
        let viewer = self.viewers.get_mut(&number)?;
        is_meant(viewer).then_some(viewer)
    }

    /// Removes the viewer with this number, if it is the intended one.
    pub fn remove(&mut self, number: u32, is_meant: impl FnOnce(&V) -> bool) -> Option<V> {
        self.get_mut(number, is_meant)?;
        self.viewers.remove(&number)
    }

    /// Removes the viewers that are not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        self.viewers.retain(|_, viewer| keep(viewer));
    }
}

/// The approximate cost of a round of delivery for each viewer, in milliseconds. A constant, because the runtime's
/// clock stands still while code runs.
const ROUND_MS_PER_VIEWER: f64 = 0.05;

/// Decides when an object delivers. The pauses between rounds grow with the number of viewers, so that a log that is
/// written quickly reaches many viewers with several events at once.
///
/// Times are the clock's, in milliseconds. If the clock is set back, pauses do not get longer.
#[derive(Debug, Default)]
pub struct Pace {
    last: Option<f64>,
    /// Whether another round is scheduled.
    is_due: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
/// The time to deliver.
pub enum Round {
    /// Deliver now: call [`Pace::begin`].
    Now,
    /// Deliver after this long: then call [`Pace::begin`].
    After(Duration),
    /// A round is scheduled already.
    Due,
}

impl Pace {
    /// Returns when to deliver new events to this many viewers.
    pub fn next(&mut self, viewers: usize, now: f64) -> Round {
        if self.is_due {
            return Round::Due;
        }
        #[allow(clippy::cast_precision_loss, reason = "few")]
        let gap = viewers as f64 * ROUND_MS_PER_VIEWER;
        let pause = self.last.map_or(0.0, |last| last + gap - now);
        let pause = pause.min(gap);
        if pause <= 0.0 {
            return Round::Now;
        }
        self.is_due = true;
        Round::After(Duration::from_secs_f64(pause / 1000.0))
    }

    /// Notes that a round begins.
    pub fn begin(&mut self, now: f64) {
        self.last = Some(now);
        self.is_due = false;
    }
}

/// Tells the Worker whether the other end of a socket is there. A socket whose other end disappeared without notice
/// looks like one on which nothing happens.
#[derive(Debug, Default)]
pub struct Pulse {
    is_asked: bool,
    is_heard: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
/// The action at a beat.
pub enum Beat {
    /// Ask whether it is there.
    Ask,
    /// Nothing came since the last beat: the other end is gone.
    Dead,
}

impl Pulse {
    /// Notes that something came.
    pub fn heard(&mut self) {
        self.is_heard = true;
    }

    /// Returns the action at a beat. Beats are as far apart as an answer may take.
    pub fn beat(&mut self) -> Beat {
        let is_heard = std::mem::take(&mut self.is_heard);
        if self.is_asked && !is_heard {
            return Beat::Dead;
        }
        self.is_asked = true;
        Beat::Ask
    }
}

/// How long a Worker may be silent before the object considers it gone: four pings.
const SILENCE_MS: f64 = 60_000.0;
/// The least time between two searches for silent Workers.
const SWEEP_MS: f64 = 30_000.0;

/// Decides when an object looks for viewers whose Workers disappeared without notice. It only looks when it is awake
/// anyway.
#[derive(Debug, Default)]
pub struct Sweep {
    last: Option<f64>,
}

impl Sweep {
    /// Returns whether to look now, and notes that it is done.
    pub fn is_due(&mut self, now: f64) -> bool {
        if let Some(last) = self.last
            && (last..last + SWEEP_MS).contains(&now)
        {
            return false;
        }
        self.last = Some(now);
        true
    }

    /// Returns whether a Worker is gone that gave its last sign at `heard`.
    pub fn is_gone(heard: f64, now: f64) -> bool {
        now - heard > SILENCE_MS
    }
}

/// The most bytes that a Worker's isolate holds for all viewers whose responses it has. It has 128 MB for everything.
const MOST_BYTES: usize = 32 << 20;
/// The most bytes of these and of the runtime's copies of what is being written. The credit of 500 viewers fits, twice:
/// while a viewer takes it, as much comes.
const MOST_WITH_COPIES: usize = 64 << 20;
/// The most bytes for one viewer: more than the credit and two of the largest events, of which one is
/// being written and the other came meanwhile. An event of 1 MiB of line breaks is 7 MiB on the wire.
const MOST_BYTES_OF_ONE: usize = 16 << 20;

/// The bytes that are held because viewers have not taken them yet: in the isolate what came, and in the runtime, which
/// makes a copy of it, what is being written.
#[derive(Debug, Default)]
pub struct Budget {
    queues: BTreeMap<u64, Queue>,
    /// Of all queues.
    bytes: usize,
    copies: usize,
    entered: u64,
    /// Counts arrivals and takes.
    time: u64,
}

#[derive(Debug, Default)]
struct Queue {
    /// What came, and is not being written yet.
    bytes: usize,
    /// The bytes that are being written.
    copy: usize,
    /// When the viewer last took bytes, or bytes came to an empty queue.
    since: u64,
}

impl Queue {
    fn held(&self) -> usize {
        self.bytes + self.copy
    }
}

impl Budget {
    /// Adds a viewer, and returns its number.
    pub fn enter(&mut self) -> u64 {
        self.entered += 1;
        self.queues.insert(self.entered, Queue::default());
        self.entered
    }

    /// Removes a viewer and its bytes.
    pub fn leave(&mut self, viewer: u64) {
        if let Some(queue) = self.queues.remove(&viewer) {
            self.bytes -= queue.bytes;
            self.copies -= queue.copy;
        }
    }

    /// Counts bytes that came for a viewer. Returns the viewers to cut off, which are no longer counted: one that
    /// holds too much, or, if all together hold too much, those that have taken nothing for longest.
    pub fn queued(&mut self, viewer: u64, bytes: usize) -> Vec<u64> {
        self.time += 1;
        let Some(queue) = self.queues.get_mut(&viewer) else {
            return Vec::new();
        };
        if queue.held() == 0 {
            queue.since = self.time;
        }
        queue.bytes += bytes;
        self.bytes += bytes;
        let mut cut = Vec::new();
        if queue.held() > MOST_BYTES_OF_ONE {
            self.leave(viewer);
            cut.push(viewer);
        }
        while self.bytes > MOST_BYTES || self.bytes + self.copies > MOST_WITH_COPIES {
            // One whose bytes are all in the runtime gives the isolate none.
            let is_full = self.bytes > MOST_BYTES;
            let holds = |queue: &Queue| if is_full { queue.bytes } else { queue.held() };
            let holding = self.queues.iter().filter(|(_, queue)| holds(queue) > 0);
            let slowest = holding.min_by_key(|(_, queue)| queue.since);
            let Some(slowest) = slowest.map(|(viewer, _)| *viewer) else {
                break;
            };
            self.leave(slowest);
            cut.push(slowest);
        }
        cut
    }

    /// Counts bytes of a viewer's as being written. They are no longer the isolate's.
    pub fn handed_out(&mut self, viewer: u64, bytes: usize) {
        if let Some(queue) = self.queues.get_mut(&viewer) {
            let bytes = bytes.min(queue.bytes);
            queue.bytes -= bytes;
            queue.copy += bytes;
            self.bytes -= bytes;
            self.copies += bytes;
        }
    }

    /// Counts what is being written to a viewer as taken.
    pub fn taken(&mut self, viewer: u64) {
        self.time += 1;
        if let Some(queue) = self.queues.get_mut(&viewer) {
            self.copies -= std::mem::take(&mut queue.copy);
            queue.since = self.time;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloudflare::credit::CREDIT;
    use crate::event::{EventId, NewEvent};
    use crate::wire;

    /// A socket, and its owner.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Socket(&'static str);

    #[test]
    fn a_socket_that_closes_removes_no_other_viewer() {
        let mut roster = Roster::new();
        let mut number = roster.number(|| 7);
        roster.insert(number, Socket("early"));
        // It has seen all: the object closes and removes it. A new viewer has its number.
        assert!(
            roster
                .remove(number, |viewer| *viewer == Socket("early"))
                .is_some()
        );
        number = roster.number(|| 7);
        roster.insert(number, Socket("late"));
        // Now the close event of the first one arrives.
        assert_eq!(roster.remove(7, |viewer| *viewer == Socket("early")), None);
        assert_eq!(roster.get_mut(7, |viewer| *viewer == Socket("early")), None);
        let late = roster.get_mut(7, |viewer| *viewer == Socket("late"));
        assert_eq!(late, Some(&mut Socket("late")));
        assert_eq!(roster.len(), 1);
    }

    #[test]
    fn viewers_have_different_numbers() {
        let mut roster = Roster::new();
        let mut random = [3, 3, 3, 4, 4, 5].into_iter();
        for _ in 0..3 {
            let number = roster.number(|| random.next().unwrap());
            roster.insert(number, ());
        }
        assert_eq!(
            roster.viewers.keys().copied().collect::<Vec<_>>(),
            [3, 4, 5]
        );
        roster.retain(|()| false);
        assert_eq!(roster.len(), 0);
    }

    #[test]
    fn rounds_have_pauses_and_viewers_that_come_in_one_share_the_next() {
        let mut pace = Pace::default();
        assert_eq!(pace.next(1000, 5_000.0), Round::Now);
        pace.begin(5_000.0);
        assert_eq!(
            pace.next(1000, 5_020.0),
            Round::After(Duration::from_millis(30))
        );
        assert_eq!(pace.next(1000, 5_030.0), Round::Due);
        pace.begin(5_050.0);
        assert_eq!(pace.next(1000, 5_100.0), Round::Now);
    }

    #[test]
    fn a_clock_that_is_set_back_delays_no_round() {
        let mut pace = Pace::default();
        let (now, hour) = (1e12, 3_600_000.0);
        assert_eq!(pace.next(1000, now), Round::Now);
        pace.begin(now);
        assert_eq!(
            pace.next(1000, now - hour),
            Round::After(Duration::from_millis(50))
        );
        pace.begin(now - hour + 50.0);
        assert_eq!(pace.next(1000, now - hour + 100.0), Round::Now);
        let mut sweep = Sweep::default();
        assert!(sweep.is_due(now) && !sweep.is_due(now + 29_999.0) && sweep.is_due(now + 30_000.0));
        assert!(sweep.is_due(now - hour) && !sweep.is_due(now - hour + 1.0));
        assert!(Sweep::is_gone(now, now + 60_001.0) && !Sweep::is_gone(now, now - hour));
    }

    #[test]
    fn an_end_that_says_nothing_is_dead_after_the_second_beat() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.beat(), Beat::Ask);
        pulse.heard();
        assert_eq!(pulse.beat(), Beat::Ask);
        // Pages count as answers.
        pulse.heard();
        pulse.heard();
        assert_eq!(pulse.beat(), Beat::Ask);
        assert_eq!(pulse.beat(), Beat::Dead);
    }

    #[test]
    fn the_slowest_viewer_is_cut_off_when_all_hold_too_much() {
        const PIECE: usize = 128 * 1024;
        let mut budget = Budget::default();
        let viewers: Vec<_> = (0..MOST_BYTES / PIECE).map(|_| budget.enter()).collect();
        for viewer in &viewers {
            assert!(budget.queued(*viewer, PIECE).is_empty());
        }
        // All but two take something, and get the next.
        for viewer in viewers
            .iter()
            .filter(|viewer| ![viewers[3], viewers[9]].contains(viewer))
        {
            budget.handed_out(*viewer, PIECE);
            budget.taken(*viewer);
            assert!(budget.queued(*viewer, PIECE).is_empty());
        }
        assert_eq!(budget.bytes, MOST_BYTES);
        let quick = budget.enter();
        assert_eq!(budget.queued(quick, 1), [viewers[3]]);
        assert_eq!(budget.queued(quick, 2 * PIECE), [viewers[9], viewers[0]]);
        assert!(budget.bytes <= MOST_BYTES);
        // The viewers that were cut off leave later.
        budget.handed_out(viewers[3], PIECE);
        budget.taken(viewers[3]);
        assert!(budget.queued(viewers[3], PIECE).is_empty());
        for viewer in viewers {
            budget.leave(viewer);
        }
        assert_eq!(budget.bytes, 1 + 2 * PIECE);
    }

    #[test]
    fn viewers_of_a_full_object_hold_all_of_their_credit_while_as_much_is_written() {
        let mut budget = Budget::default();
        let viewers: Vec<_> = (0..500).map(|_| budget.enter()).collect();
        let credit = CREDIT as usize;
        for round in 0..3 {
            for viewer in &viewers {
                assert!(budget.queued(*viewer, credit).is_empty(), "{round}");
                if round == 0 {
                    budget.handed_out(*viewer, credit);
                } else if round == 1 {
                    budget.taken(*viewer);
                    budget.handed_out(*viewer, credit);
                }
            }
        }
        assert_eq!((budget.bytes, budget.copies), (500 * credit, 500 * credit));
        for viewer in viewers {
            budget.leave(viewer);
        }
        assert_eq!((budget.bytes, budget.copies), (0, 0));
    }

    #[test]
    fn what_is_written_is_bounded_too() {
        const PIECE: usize = 128 * 1024;
        let mut budget = Budget::default();
        let viewers: Vec<_> = (0..600).map(|_| budget.enter()).collect();
        let mut cut = Vec::new();
        for viewer in &viewers {
            cut.extend(budget.queued(*viewer, PIECE));
            budget.handed_out(*viewer, PIECE);
            assert!(budget.bytes + budget.copies <= MOST_WITH_COPIES);
        }
        // The first ones are those who took nothing for longest.
        assert_eq!(cut, viewers[..600 - MOST_WITH_COPIES / PIECE]);
        // The isolate's own memory is full only of those who have not begun to take theirs.
        let (mut budget, mut cut) = (Budget::default(), Vec::new());
        let viewers: Vec<_> = (0..300).map(|_| budget.enter()).collect();
        budget.queued(viewers[0], PIECE);
        budget.handed_out(viewers[0], PIECE);
        for viewer in &viewers[1..] {
            cut.extend(budget.queued(*viewer, PIECE));
        }
        assert_eq!(cut, viewers[1..300 - MOST_BYTES / PIECE]);
        assert_eq!((budget.bytes, budget.copies), (MOST_BYTES, PIECE));
    }

    #[test]
    fn a_viewer_may_hold_two_of_the_largest_events() {
        let mut frame = Vec::new();
        let data = "\n".repeat(NewEvent::MAX_SIZE - 1);
        wire::encode_numbered(EventId::new(EventId::MAX).unwrap(), "e", &data, &mut frame);
        assert!(frame.len() > 7_000_000);
        let mut budget = Budget::default();
        let viewer = budget.enter();
        for came in [CREDIT as usize, frame.len(), frame.len()] {
            assert!(budget.queued(viewer, came).is_empty());
        }
    }

    #[test]
    fn a_viewer_that_holds_too_much_is_cut_off_alone() {
        let mut budget = Budget::default();
        let (one, other) = (budget.enter(), budget.enter());
        assert!(budget.queued(other, 5).is_empty());
        assert!(budget.queued(one, MOST_BYTES_OF_ONE).is_empty());
        assert_eq!(budget.queued(one, 1), [one]);
        assert_eq!(budget.bytes, 5);
    }
}
