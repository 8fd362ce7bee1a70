//! One log: its known state, and the rules.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::platform::{PlatformEntry, difference};
use crate::{Answer, End, Event, Fact, From, Record, Rule};

/// A log, as far as the records describe it.
#[derive(Debug, Default)]
pub(crate) struct Log {
    broken: Vec<(Rule, String)>,
    events: BTreeMap<u64, Known>,
    viewers: BTreeMap<String, Viewer>,
    facts: BTreeMap<Identity, Attempts>,
    batches: Vec<Vec<Identity>>,
    /// The key of an event by its type and data, if only one event has them.
    keys: BTreeMap<(String, String), Option<Identity>>,
    /// The greatest known id, the greatest acknowledged one, and the greatest removed one.
    head: u64,
    acknowledged: u64,
    trimmed: u64,
    stored: Option<Vec<Event>>,
    is_whole: bool,
    platform: Option<Vec<PlatformEntry>>,
    gaps: Vec<Gap>,
    ends: Vec<EndSeen>,
    /// Viewers of the tail that got a 204.
    latest_ended: Vec<String>,
    resets: Vec<ResetSeen>,
    /// Waiting viewers, with their positions, and whether they may wait at a terminal event that
    /// others follow.
    idle: Vec<(String, u64, bool)>,
}

/// The knowledge of an event, by source.
#[derive(Debug, Default)]
struct Known {
    acknowledged: Option<Event>,
    seen: Option<(Event, String)>,
    stored: Option<Event>,
}

/// The identity of a fact: its key, or otherwise type and data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identity {
    Key(String),
    Content(String, String),
}

#[derive(Debug, Default)]
struct Attempts {
    /// How many times it was appended so that it may be there, and so that it must be there.
    possible: usize,
    acknowledged: usize,
    terminal: bool,
}

#[derive(Debug, Default)]
struct Viewer {
    place: Place,
    seen: BTreeSet<u64>,
    /// The greatest known id when it asked for the log, before and after the answer.
    asked: Option<u64>,
    head: u64,
    has_expired: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// The beginning of the stream is not known.
    #[default]
    Unknown,
    /// At the oldest event.
    Oldest,
    Behind(u64),
}

/// A range in which there must be no ids.
#[derive(Debug)]
struct Gap {
    viewer: String,
    behind: u64,
    before: u64,
}

/// A stream that was ended at this position, while this id was known.
#[derive(Debug)]
struct EndSeen {
    viewer: String,
    at: Option<u64>,
    head: u64,
    what: &'static str,
}

#[derive(Debug)]
struct ResetSeen {
    viewer: String,
    requested: Option<u64>,
    head: u64,
    trimmed: u64,
}

impl Log {
    pub(crate) fn add(&mut self, record: Record) {
        match record {
            Record::Append {
                events,
                answer,
                after,
            } => self.append(events, &answer, after),
            Record::Asked { viewer } => {
                let head = self.head;
                self.viewers.entry(viewer).or_default().asked = Some(head);
            }
            Record::Connected {
                viewer,
                from,
                status,
            } => self.connected(viewer, from, status),
            Record::Position { viewer, id } => {
                self.viewers.entry(viewer).or_default().place = Place::Behind(id);
            }
            Record::Seen { viewer, event } => self.seen(viewer, event),
            Record::Ended { viewer, how } => self.ended(viewer, how),
            Record::Trimmed { last } => self.trimmed = self.trimmed.max(last),
            Record::Stored { events } => self.stored(events),
            Record::Whole => self.is_whole = true,
            Record::Platform { entries } => self.platform = Some(entries),
        }
    }

    fn broken(&mut self, rule: Rule, message: String) {
        self.broken.push((rule, message));
    }

    fn append(&mut self, events: Vec<Fact>, answer: &Answer, after: Option<u64>) {
        let after = after.unwrap_or(self.acknowledged);
        let mut batch = Vec::new();
        for (index, fact) in events.into_iter().enumerate() {
            let identity = match fact.key.clone() {
                Some(key) => Identity::Key(key),
                None => Identity::Content(fact.event_type.clone(), fact.data.clone()),
            };
            let content = (fact.event_type.clone(), fact.data.clone());
            self.keys
                .entry(content)
                .and_modify(|other| {
                    if other.as_ref() != Some(&identity) {
                        *other = None;
                    }
                })
                .or_insert_with(|| Some(identity.clone()));
            let attempts = self.facts.entry(identity.clone()).or_default();
            attempts.terminal |= fact.terminal;
            match answer {
                Answer::Refused => {}
                Answer::Unknown => attempts.possible += 1,
                Answer::Acknowledged => {
                    attempts.possible += 1;
                    attempts.acknowledged += 1;
                }
                Answer::Stored(ids) => {
                    attempts.possible += 1;
                    attempts.acknowledged += 1;
                    if let Some(Some(id)) = ids.get(index).copied() {
                        self.given(id, fact, after);
                    }
                }
            }
            batch.push(identity);
        }
        if *answer == Answer::Unknown {
            self.batches.push(batch);
        }
    }

    /// Notes that an append was answered with this id.
    fn given(&mut self, id: u64, fact: Fact, after: u64) {
        if id <= after {
            let message = format!("id {id} was given after id {after} had been");
            self.broken(Rule::Reused, message);
        }
        self.head = self.head.max(id);
        self.acknowledged = self.acknowledged.max(id);
        let event = Event {
            id: Some(id),
            event_type: fact.event_type,
            data: fact.data,
            raw: None,
            key: fact.key,
            terminal: Some(fact.terminal),
        };
        let known = self.events.entry(id).or_default();
        let mut wrong = Vec::new();
        if known.acknowledged.is_some() {
            wrong.push((Rule::Reused, format!("id {id} was given twice")));
        }
        if let Some((seen, viewer)) = &known.seen
            && !is_same(seen, &event)
        {
            let message = format!("{viewer} saw as {id} what was not stored there");
            wrong.push((Rule::Acknowledged, message));
        }
        if let Some(stored) = &known.stored
            && !is_same(stored, &event)
        {
            let message = format!("id {id} was given, and another event has it");
            wrong.push((Rule::Reused, message));
        }
        known.acknowledged.get_or_insert(event);
        self.broken.append(&mut wrong);
    }

    fn connected(&mut self, name: String, from: From, status: u16) {
        let head = self.head;
        let viewer = self.viewers.entry(name.clone()).or_default();
        let head = viewer.asked.take().unwrap_or(head);
        let place = match from {
            From::Beginning => Place::Oldest,
            From::After(id) => Place::Behind(id),
            From::Latest => Place::Unknown,
        };
        let goes_on = viewer.place == place;
        if status == 200 {
            if !goes_on {
                viewer.seen.clear();
            }
            viewer.place = place;
            viewer.head = head;
            viewer.has_expired = false;
        }
        if status == 204 {
            let at = match from {
                From::After(id) => Some(id),
                From::Beginning => None,
                // The position of the tail is not known here; only that a terminal event was there.
                From::Latest => return self.latest_ended.push(name),
            };
            self.ends.push(EndSeen {
                viewer: name,
                at,
                head,
                what: "was answered 204",
            });
        }
    }

    fn seen(&mut self, name: String, event: Event) {
        let trimmed = self.trimmed;
        let viewer = self.viewers.entry(name.clone()).or_default();
        let Some(id) = event.id else {
            match event.event_type.as_str() {
                "reset" => {
                    let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
                    self.resets.push(ResetSeen {
                        viewer: name,
                        requested: data["requested"].as_u64(),
                        // The event may have been on its way for long.
                        head: viewer.head,
                        trimmed,
                    });
                    let next = data["oldest"].as_u64().map(|oldest| oldest - 1);
                    let place = next.or(data["head"].as_u64());
                    viewer.place = place.map_or(Place::Oldest, Place::Behind);
                    viewer.seen.clear();
                }
                _ => viewer.has_expired = true,
            }
            return;
        };
        let mut wrong = Vec::new();
        let is_new = viewer.seen.insert(id);
        match viewer.place {
            _ if !is_new => wrong.push((Rule::Twice, format!("{name} got {id} twice"))),
            Place::Behind(last) if id <= last => {
                wrong.push((Rule::Order, format!("{name} got {id} behind {last}")));
            }
            Place::Behind(last) => self.gaps.push(Gap {
                viewer: name.clone(),
                behind: last,
                before: id,
            }),
            Place::Oldest => self.gaps.push(Gap {
                viewer: name.clone(),
                behind: trimmed,
                before: id,
            }),
            Place::Unknown => {}
        }
        viewer.place = Place::Behind(id);
        self.head = self.head.max(id);
        let known = self.events.entry(id).or_default();
        if let Some((other, of)) = &known.seen
            && !is_same(other, &event)
        {
            let message = format!("{name} and {of} got different events as {id}");
            wrong.push((Rule::Prefix, message));
        }
        if let Some(stored) = &known.stored
            && !is_same(stored, &event)
        {
            let message = format!("{name} got as {id} other bytes than are stored");
            wrong.push((Rule::Bytes, message));
        }
        if let Some(given) = &known.acknowledged
            && !is_same(given, &event)
        {
            let message = format!("{name} got as {id} what was not appended there");
            wrong.push((Rule::Acknowledged, message));
        }
        known.seen.get_or_insert((event, name));
        self.broken.append(&mut wrong);
    }

    fn ended(&mut self, name: String, how: End) {
        let head = self.head;
        let trimmed = self.trimmed;
        let viewer = self.viewers.entry(name.clone()).or_default();
        match how {
            End::Cut => {}
            End::Clean if viewer.has_expired => {}
            End::Clean => {
                let at = match viewer.place {
                    Place::Behind(id) => Some(id),
                    Place::Oldest | Place::Unknown => None,
                };
                self.ends.push(EndSeen {
                    viewer: name,
                    at,
                    // An event may follow that was not there when the stream ended.
                    head: at.unwrap_or(head),
                    what: "came to the end of its stream",
                });
            }
            End::Idle | End::IdleMerged => {
                let at = match viewer.place {
                    Place::Behind(id) => id,
                    Place::Oldest => trimmed,
                    Place::Unknown => return,
                };
                self.idle.push((name, at, how == End::IdleMerged));
            }
        }
    }

    fn stored(&mut self, events: Vec<Event>) {
        let mut last = 0;
        for event in &events {
            let Some(id) = event.id else {
                continue;
            };
            if id <= last {
                let message = format!("the log has {id} behind {last}");
                self.broken(Rule::Order, message);
            }
            last = id;
            self.head = self.head.max(id);
            let known = self.events.entry(id).or_default();
            let mut wrong = Vec::new();
            if let Some((seen, viewer)) = &known.seen
                && !is_same(seen, event)
            {
                let message = format!("{viewer} got as {id} other bytes than are stored");
                wrong.push((Rule::Bytes, message));
            }
            let given = known.acknowledged.as_ref();
            if given
                .or(known.stored.as_ref())
                .is_some_and(|other| !is_same(other, event))
            {
                wrong.push((
                    Rule::Reused,
                    format!("id {id} is another event than it was"),
                ));
            }
            known.stored.get_or_insert_with(|| event.clone());
            self.broken.append(&mut wrong);
        }
        self.stored = Some(events);
    }

    pub(crate) fn finish(mut self) -> Vec<(Rule, String)> {
        self.check_gaps();
        self.check_resets();
        self.check_ends();
        self.check_acknowledged();
        self.check_facts();
        if let (Some(entries), Some(stored)) = (self.platform.take(), self.stored.take())
            && let Some(message) = difference(&stored, &entries)
        {
            self.broken(Rule::Platform, message);
        }
        self.broken
    }

    fn check_gaps(&mut self) {
        let mut wrong = Vec::new();
        for Gap {
            viewer,
            behind,
            before,
        } in &self.gaps
        {
            if *behind + 1 < *before
                && let Some((missed, _)) = self.events.range(behind + 1..*before).next()
            {
                wrong.push(format!(
                    "{viewer} got {before} behind {behind}, without {missed}"
                ));
            }
        }
        for (viewer, at, is_merged) in &self.idle {
            if let Some((missed, _)) = self.events.range(at + 1..).next()
                && !(*is_merged && self.is_terminal(*at))
            {
                wrong.push(format!("{viewer} waits behind {at}, without {missed}"));
            }
        }
        self.broken
            .extend(wrong.into_iter().map(|message| (Rule::Gap, message)));
    }

    fn check_resets(&mut self) {
        for reset in std::mem::take(&mut self.resets) {
            let is_gone = match reset.requested {
                None => reset.trimmed > 0,
                Some(id) => id < reset.trimmed || id > reset.head,
            };
            if !is_gone {
                let at = reset.requested.unwrap_or(0);
                let message = format!(
                    "{} was reset at {at}, where events up to {} were removed and {} was there",
                    reset.viewer, reset.trimmed, reset.head
                );
                self.broken(Rule::Reset, message);
            }
        }
    }

    fn check_ends(&mut self) {
        let has_terminal = || self.events.keys().any(|id| self.is_terminal(*id));
        if let Some(viewer) = self.latest_ended.first()
            && self.trimmed == 0
            && !has_terminal()
        {
            let message =
                format!("{viewer} was answered 204 at the tail of a log that never ended");
            self.broken(Rule::End, message);
        }
        for end in std::mem::take(&mut self.ends) {
            let EndSeen {
                viewer,
                at,
                head,
                what,
            } = end;
            let is_terminal = at.is_some_and(|id| self.is_terminal(id));
            let at = at.unwrap_or(0);
            if !is_terminal {
                let message = format!("{viewer} {what} at {at}, which is no terminal event");
                self.broken(Rule::End, message);
            } else if head > at {
                let message = format!("{viewer} {what} at {at}, while {head} was there");
                self.broken(Rule::End, message);
            }
        }
    }

    fn is_terminal(&self, id: u64) -> bool {
        let Some(known) = self.events.get(&id) else {
            // The event was removed before anybody saw it.
            return id <= self.trimmed;
        };
        let told = [known.acknowledged.as_ref(), known.stored.as_ref()];
        let told = told.into_iter().flatten().find_map(|event| event.terminal);
        told.unwrap_or_else(|| {
            let attempts = self.identity(known).and_then(|fact| self.facts.get(&fact));
            attempts.is_some_and(|attempts| attempts.terminal)
        })
    }

    fn identity(&self, known: &Known) -> Option<Identity> {
        let seen = known.seen.as_ref().map(|(event, _)| event);
        let sources = [known.acknowledged.as_ref(), known.stored.as_ref(), seen];
        let mut sources = sources.into_iter().flatten();
        if let Some(key) = sources.clone().find_map(|event| event.key.clone()) {
            return Some(Identity::Key(key));
        }
        let event = sources.next()?;
        let content = (event.event_type.clone(), event.data.clone());
        match self.keys.get(&content) {
            Some(identity) => identity.clone(),
            None => Some(Identity::Content(content.0, content.1)),
        }
    }

    fn check_acknowledged(&mut self) {
        let Some(stored) = &self.stored else {
            return;
        };
        let there: BTreeSet<u64> = stored.iter().filter_map(|event| event.id).collect();
        let mut wrong = Vec::new();
        for (id, known) in &self.events {
            if *id <= self.trimmed || there.contains(id) {
                continue;
            }
            if known.acknowledged.is_some() {
                wrong.push((
                    Rule::Acknowledged,
                    format!("{id} was acknowledged and is gone"),
                ));
            } else if let Some((_, viewer)) = &known.seen {
                wrong.push((
                    Rule::Bytes,
                    format!("{viewer} got {id}, which is not stored"),
                ));
            }
        }
        self.broken.append(&mut wrong);
    }

    /// Compares the events in the log, and how many times each is there, with the appended ones.
    fn check_facts(&mut self) {
        let mut there = BTreeMap::<Identity, Vec<u64>>::new();
        for (id, known) in &self.events {
            if let Some(identity) = self.identity(known) {
                there.entry(identity).or_default().push(*id);
            }
        }
        let mut wrong = Vec::new();
        for (identity, ids) in &there {
            let Some(attempts) = self.facts.get(identity) else {
                if self.is_whole {
                    wrong.push((Rule::Invented, format!("{} is of no append", ids[0])));
                }
                continue;
            };
            let kept = ids.iter().filter(|id| **id > self.trimmed).count();
            let most = match identity {
                Identity::Key(_) => attempts.possible.min(1),
                Identity::Content(..) => attempts.possible,
            };
            if kept > most {
                let message = format!(
                    "{} is there {kept} times, and may be {most}",
                    name(identity)
                );
                wrong.push((Rule::Once, message));
            }
        }
        if self.stored.is_some() {
            for (identity, attempts) in &self.facts {
                let times = there.get(identity).map_or(0, Vec::len);
                let least = match identity {
                    Identity::Key(_) => attempts.acknowledged.min(1),
                    Identity::Content(..) => attempts.acknowledged,
                };
                if times < least && self.trimmed == 0 {
                    let message = format!("{} was acknowledged and is not there", name(identity));
                    wrong.push((Rule::Acknowledged, message));
                }
            }
            for batch in &self.batches {
                let unkeyed = |fact: &&Identity| matches!(fact, Identity::Content(..));
                let is_there = |fact: &&Identity| there.contains_key(*fact);
                let of_batch = batch.iter().filter(unkeyed);
                let some = of_batch.clone().filter(is_there).count();
                if some > 0 && some < of_batch.count() && self.trimmed == 0 {
                    let message = format!("{some} of a batch of {} are there", batch.len());
                    wrong.push((Rule::Once, message));
                }
            }
        }
        self.broken.append(&mut wrong);
    }
}

fn name(identity: &Identity) -> String {
    match identity {
        Identity::Key(key) => format!("the fact {key}"),
        Identity::Content(event_type, data) => {
            let data: String = data.chars().take(60).collect();
            format!("the event {event_type} {data}")
        }
    }
}

/// Compares the bytes if both sides have them, otherwise the contents.
fn is_same(one: &Event, other: &Event) -> bool {
    if let (Some(one), Some(other)) = (&one.raw, &other.raw) {
        return one == other;
    }
    one.event_type == other.event_type && one.data == other.data
}
