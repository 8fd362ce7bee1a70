//! A simulation of a million viewers of one run. They find their objects through the code that `serve_sse` and the
//! objects use, `ssetarget::cloudflare::fan_out`. The numbers of `docs/scale.md` come from here.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use ssetarget::cloudflare::fan_out::{Admission, Ask, Audience, FanOut, Joined, Place, Search};

const FAN_OUT: FanOut = FanOut::new().max_relays(4_000);
const MILLION: u64 = 1_000_000;
/// Isolates of the Worker, each with a memory of its own.
const ISOLATES: usize = 500;
/// The time for which `serve_sse` remembers the number of relays.
const REMEMBERED: Duration = Duration::from_secs(10);

/// The time that an object needs for an event for each of its viewers and relays, which it serves one after another.
/// It was measured: see `docs/scale.md`.
const FOR_VIEWER: Duration = Duration::from_micros(54);
const FOR_RELAY: Duration = Duration::from_micros(70);
/// The time from one object to another. Not measured.
const HOP: Duration = Duration::from_millis(10);

#[test]
fn a_million_viewers_find_objects_that_have_room() {
    let mut world = World::new();
    let mut story = Vec::new();

    // A million in a minute.
    for _ in 0..60 {
        for _ in 0..MILLION / 60 + 1 {
            world.arrive();
        }
        world.second();
    }
    story.push(world.report("a million come within a minute"));

    // Each second one in 200 leaves, and another comes.
    for _ in 0..20 {
        for _ in 0..MILLION / 200 {
            world.leave_one();
            world.arrive();
        }
        world.second();
    }
    story.push(world.report("for 20 s, 5,000 leave in each and as many come"));

    // A deploy: all objects and all isolates start again, and all viewers come back within ten seconds.
    world = World {
        time: world.time,
        ..World::new()
    };
    for _ in 0..10 {
        for _ in 0..MILLION / 10 {
            world.arrive();
        }
        world.second();
    }
    story.push(world.report("a deploy: all come back within 10 s"));

    while world.viewers.len() as u64 > MILLION / 10 {
        for _ in 0..90_000 {
            world.leave_one();
        }
        world.second();
    }
    for _ in 0..70 {
        world.second();
    }
    for _ in 0..5_000 {
        world.leave_one();
        world.arrive();
    }
    story.push(world.report("nine of ten leave within 10 s; a minute later 5,000 come and go"));

    print(&story);
    for chapter in &story {
        assert!(chapter.most_relays <= u64::from(FAN_OUT.relays_per_object));
        assert!(chapter.requests_mean < 3.5, "{chapter:?}");
    }
    let [grown, changed, back, _] = &story[..] else {
        panic!("four chapters")
    };
    for full in [grown, changed] {
        // A tenth more, while the object checks who is still there, plus the viewers for whom no relay had room.
        assert!(full.most_viewers <= u64::from(FAN_OUT.viewers_per_object) * 6 / 5);
        assert!(full.objects < 2 * MILLION / u64::from(FAN_OUT.viewers_per_object));
    }
    for chapter in &story {
        // A level costs at most the time that a full object needs for an event.
        let relay = FOR_RELAY * FAN_OUT.relays_per_object;
        let object = FOR_VIEWER * u32::try_from(chapter.most_viewers).unwrap() + relay;
        let most = (object + HOP) * (chapter.level + 1) - HOP;
        assert!(chapter.delays[2] <= most, "{chapter:?}");
    }
    // For ten seconds the isolates know no better, but no object has more than twice its limit.
    assert!(back.most_viewers < 2 * u64::from(FAN_OUT.viewers_per_object));
    documented(&story);
}

/// The objects of one run, its viewers, and the isolates through which they come.
struct World {
    time: SystemTime,
    objects: BTreeMap<Place, Object>,
    /// The object of each viewer.
    viewers: Vec<Place>,
    isolates: Vec<Option<(u32, SystemTime)>>,
    chance: Chance,
    arrived: u64,
    requests: u64,
    most_requests: u64,
    root_requests: u64,
    seconds: u64,
}

#[derive(Default)]
struct Object {
    audience: Audience,
    /// When it joined the object that it follows.
    follows: Option<Joined>,
}

impl World {
    fn new() -> Self {
        Self {
            time: SystemTime::UNIX_EPOCH,
            objects: BTreeMap::new(),
            viewers: Vec::new(),
            isolates: vec![None; ISOLATES],
            chance: Chance(4),
            arrived: 0,
            requests: 0,
            most_requests: 0,
            root_requests: 0,
            seconds: 0,
        }
    }

    /// Does what `serve_sse` does.
    fn arrive(&mut self) {
        let isolate = self.chance.below(ISOLATES);
        let remembered = self.isolates[isolate].filter(|(_, until)| self.time < *until);
        let mut search = Search::new(remembered.map(|(relays, _)| relays));
        let mut requests = 0;
        let place = loop {
            let (place, ask) = search.next(self.chance.unit());
            requests += 1;
            self.root_requests += u64::from(place == Place::ROOT);
            let admission = self.admit(place, ask);
            match admission {
                Admission::Here => break place,
                Admission::Relays(relays) => {
                    self.isolates[isolate] = Some((relays, self.time + REMEMBERED));
                }
                Admission::Full => {}
            }
            search.answered(admission);
        };
        self.viewers.push(place);
        self.arrived += 1;
        self.requests += requests;
        self.most_requests = self.most_requests.max(requests);
    }

    /// Does what an object does.
    fn admit(&mut self, place: Place, ask: Ask) -> Admission {
        let time = self.time;
        let audience = &mut self.objects.entry(place).or_default().audience;
        let admission = audience.admit(place, &FAN_OUT, ask, time);
        if admission == Admission::Here {
            audience.enter();
            self.follow(place);
        }
        admission
    }

    fn follow(&mut self, place: Place) {
        let follows = self.objects.entry(place).or_default().follows;
        if let (None, Some(parent)) = (follows, FAN_OUT.parent(place)) {
            let above = self.objects.entry(parent).or_default();
            let joined = above.audience.join(place, self.time);
            self.objects.entry(place).or_default().follows = Some(joined);
            self.follow(parent);
        }
    }

    fn leave_one(&mut self) {
        let viewer = self.chance.below(self.viewers.len());
        let place = self.viewers.swap_remove(viewer);
        self.objects.entry(place).or_default().audience.leave();
        self.let_go(place);
    }

    /// An object without viewers follows no other.
    fn let_go(&mut self, place: Place) {
        let object = self.objects.entry(place).or_default();
        if !object.audience.is_empty() {
            return;
        }
        if let (Some(joined), Some(parent)) = (object.follows.take(), FAN_OUT.parent(place)) {
            self.objects.remove(&place);
            self.objects
                .entry(parent)
                .or_default()
                .audience
                .part(joined);
            self.let_go(parent);
        }
    }

    /// Lets a second pass. Each relay reports the numbers from the beginning of that second.
    fn second(&mut self) {
        self.time += Duration::from_secs(1);
        self.seconds += 1;
        let places: Vec<_> = self.objects.keys().copied().collect();
        for place in places {
            let object = self.objects.entry(place).or_default();
            let total = object.audience.viewers() + object.audience.below(self.time);
            if let (Some(joined), Some(parent)) = (object.follows, FAN_OUT.parent(place)) {
                let above = self.objects.entry(parent).or_default();
                above.audience.report(joined, total, self.time);
            }
        }
    }

    /// Returns how long one event takes to viewers if objects do nothing else. Each serves its viewers and relays one
    /// after another, in random order.
    fn delays(&self) -> [Duration; 3] {
        let mut chance = Chance(5);
        let mut relays = BTreeMap::<Place, Vec<Place>>::new();
        for place in self.objects.keys() {
            if let Some(parent) = FAN_OUT.parent(*place) {
                relays.entry(parent).or_default().push(*place);
            }
        }
        let mut delays = Vec::new();
        let mut reached = BTreeMap::from([(Place::ROOT, Duration::ZERO)]);
        // An object has a greater number than the object that it follows.
        while let Some((place, start)) = reached.pop_first() {
            let viewers = self.objects[&place].audience.viewers();
            let relays = relays.remove(&place).unwrap_or_default();
            let mut audience: Vec<_> = relays.into_iter().map(Some).collect();
            audience.resize(audience.len() + usize::try_from(viewers).unwrap(), None);
            let mut time = start;
            while !audience.is_empty() {
                let next = chance.below(audience.len());
                if let Some(relay) = audience.swap_remove(next) {
                    time += FOR_RELAY;
                    reached.insert(relay, time + HOP);
                } else {
                    time += FOR_VIEWER;
                    delays.push(time);
                }
            }
        }
        assert_eq!(delays.len(), self.viewers.len(), "everybody is told");
        delays.sort_unstable();
        let last = delays.len() - 1;
        [last / 2, last * 99 / 100, last].map(|index| delays[index])
    }

    /// Reports the state, and the changes since the last report.
    fn report(&mut self, title: &'static str) -> Chapter {
        let watched: Vec<_> = self.objects.iter().collect();
        let viewers = |objects: &[(&Place, &Object)]| {
            let viewers = objects.iter().map(|(_, object)| object.audience.viewers());
            viewers.collect::<Vec<_>>()
        };
        let level = watched
            .iter()
            .map(|(place, _)| FAN_OUT.level(**place))
            .max()
            .unwrap();
        let mut relays = HashMap::<Place, u64>::new();
        for parent in self
            .objects
            .keys()
            .filter_map(|place| FAN_OUT.parent(*place))
        {
            *relays.entry(parent).or_default() += 1;
        }
        let all = viewers(&watched);
        let arrived = self.arrived.max(1) as f64;
        let chapter = Chapter {
            title,
            viewers: self.viewers.len() as u64,
            objects: watched.len() as u64,
            level,
            mean_viewers: self.viewers.len() as u64 / watched.len() as u64,
            most_viewers: all.iter().copied().max().unwrap(),
            most_relays: relays.values().copied().max().unwrap_or(0),
            requests_mean: self.requests as f64 / arrived,
            most_requests: self.most_requests,
            root_per_second: self.root_requests / self.seconds.max(1),
            delays: self.delays(),
        };
        assert_eq!(
            all.iter().sum::<u64>(),
            chapter.viewers,
            "everybody is somewhere"
        );
        (self.arrived, self.requests, self.most_requests) = (0, 0, 0);
        (self.root_requests, self.seconds) = (0, 0);
        chapter
    }
}

#[derive(Debug)]
struct Chapter {
    title: &'static str,
    viewers: u64,
    objects: u64,
    level: u32,
    mean_viewers: u64,
    most_viewers: u64,
    most_relays: u64,
    /// The requests of a viewer that comes.
    requests_mean: f64,
    most_requests: u64,
    root_per_second: u64,
    /// From the root to half of the viewers, to 99 of 100, to all.
    delays: [Duration; 3],
}

impl Chapter {
    fn row(&self) -> String {
        format!(
            "| {} | {} | {} | {} | {} / {} | {} | {:.2} / {} | {} | {} |",
            self.title,
            grouped(self.viewers),
            grouped(self.objects),
            self.level,
            grouped(self.mean_viewers),
            grouped(self.most_viewers),
            self.most_relays,
            self.requests_mean,
            self.most_requests,
            grouped(self.root_per_second),
            self.delays
                .map(|delay| delay.as_millis().to_string())
                .join(" / "),
        )
    }
}

fn print(story: &[Chapter]) {
    for chapter in story {
        println!("{}", chapter.row());
    }
}

fn documented(story: &[Chapter]) {
    let page = include_str!("../docs/scale.md");
    for chapter in story {
        let row = chapter.row();
        assert!(page.contains(&row), "docs/scale.md does not have: {row}");
    }
}

/// `1234` as `1,234`.
fn grouped(number: u64) -> String {
    if number < 1000 {
        return number.to_string();
    }
    format!("{},{:03}", grouped(number / 1000), number % 1000)
}

/// The same numbers in each run, by splitmix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 to below 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, number: usize) -> usize {
        (self.unit() * number as f64) as usize
    }
}
