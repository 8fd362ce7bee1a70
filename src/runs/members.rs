//! Which runs of a tag are in one stream of them, and where its client is. Pure: who reads the runs' streams and the index's
//! changes asks it what to do.
//!
//! A position is two things: the position in the index's log of changes, and one in the log of each run that is in the
//! stream. What begins and ends while the client is away is found in the changes after the first. So that no run comes
//! twice, a run that was read to its end keeps its position until the client is behind the change that says that it is over; and
//! so that none is lost, the client gets behind that change only when the run was read to its end.
//! A run whose links were revoked is left out, and does not hold the client back.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::delivery::{InvalidMergedCursor, MAX_MERGED, MergedCursor};
use crate::event::{Cursor, EventId};
use crate::workflow::RunState;

/// The position of a client in the stream of a tag: `t1`, the position in the index's changes, and what a
/// [`MergedCursor`] has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagCursor {
    /// The last change that the client need not see again; 0 for none.
    pub told: u64,
    /// The positions in the runs.
    pub runs: MergedCursor,
}

/// What a list of runs, and a change of it, say of a run.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Listed {
    /// The id of the instance.
    pub id: String,
    /// The event before the first of the run; 0 for the first run of an instance.
    #[serde(default)]
    pub from: u64,
    /// The last event of which the index was told.
    #[serde(default)]
    pub cursor: u64,
    /// The state; `None` if its log was deleted.
    #[serde(default)]
    pub state: Option<RunState>,
}

/// A run whose stream is to be read now, from this position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joins {
    /// The id of the instance.
    pub run: String,
    /// Where to start.
    pub at: Cursor,
}

/// The runs in a stream.
#[derive(Debug)]
pub struct Members {
    /// How many runs are read at the same time.
    most: usize,
    /// Where a client starts that has no position.
    others: Cursor,
    is_new: bool,
    /// When this change was seen, what the client knows and is not here is gone.
    head: u64,
    /// The last change of the index that was seen.
    told: u64,
    /// Where the client is, as far as it was told.
    cursor: TagCursor,
    members: BTreeMap<String, Member>,
    /// Those of the list that the client does not know. The changes up to `head` may say more of them, and come first.
    listed: Vec<Listed>,
    /// Runs that wait for their turn, the longest wait first.
    waiting: VecDeque<(Listed, Option<Over>)>,
}

/// Changes of the index about a run that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Over {
    /// The client does not get behind this one before it has read the run to its end.
    first: u64,
    /// The run is remembered until the client is behind this one.
    last: u64,
}

#[derive(Debug)]
struct Member {
    at: Cursor,
    reads: Reads,
    /// The changes that say that it is over, and its last event.
    over: Option<(Over, u64)>,
}

impl Member {
    /// Returns whether the client may get behind the change that says that it is over.
    fn is_read(&self) -> bool {
        match self.reads {
            // If the client has more than the index was told of, another change comes.
            Reads::Ended => self.over.is_some_and(|(_, last)| number(self.at) <= last),
            Reads::Revoked => true,
            Reads::On | Reads::Refused => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// Its stream is being read.
    On,
    /// It was read to its end.
    Ended,
    /// It may not be read now.
    Refused,
    /// Its links were revoked: it is left out for as long as this client has its link.
    Revoked,
}

/// How many runs may wait before no further changes are read.
const MOST_WAITING: usize = 1_000;

/// How many positions an id has at most, for each run that is read at the same time: beside those of runs that are read, those of
/// runs whose change the client is not behind yet. Longer ones are refused.
const POSITIONS: usize = 3;

impl Members {
    /// Returns the runs of a new stream, which reads up to `most` at the same time. `listed` are those that are not over, the
    /// latest first, and `head` is the position in the index's changes at which that is true. Follow the changes from
    /// [`told`](Self::told) on.
    ///
    /// A client that comes for the first time starts at `others` in each of them. One that has a position goes on where it
    /// was; what it does not know starts with the beginning of the run, or at the time, if `others` is one.
    #[must_use]
    pub fn open(
        listed: Vec<Listed>,
        head: u64,
        known: Option<TagCursor>,
        others: Cursor,
        most: usize,
    ) -> (Self, Vec<Joins>) {
        let is_new = known.is_none();
        let cursor = known.unwrap_or(TagCursor {
            told: head,
            runs: MergedCursor::default(),
        });
        let is_known = |run: &Listed| cursor.runs.of(&run.id).is_some();
        let (known, listed): (Vec<_>, Vec<_>) = listed.into_iter().partition(is_known);
        let mut members = Self {
            most,
            others,
            is_new,
            head,
            told: cursor.told,
            cursor,
            members: BTreeMap::new(),
            listed,
            waiting: known.into_iter().map(|run| (run, None)).collect(),
        };
        let joins = members.settle();
        // What comes from now on begins at its beginning.
        members.is_new = false;
        (members, joins)
    }

    /// Returns the last change of the index that is known: further ones are to be [told](Self::changed).
    #[must_use]
    pub fn told(&self) -> u64 {
        self.told
    }

    /// Takes a change of the index.
    #[must_use]
    pub fn changed(&mut self, change: u64, run: Listed) -> Vec<Joins> {
        self.told = self.told.max(change);
        let is_over = run.state.is_none_or(RunState::has_ended);
        if run.state.is_none() {
            // There is nothing to read for which it could wait.
            self.waiting.retain(|(waits, _)| waits.id != run.id);
        }
        let over = is_over.then_some(Over {
            first: change,
            last: change,
        });
        let mut joins = Vec::new();
        self.listed.retain(|listed| listed.id != run.id);
        if let Some(member) = self.members.get_mut(&run.id) {
            // Of a log that was deleted the change names no event, and nothing more comes of it.
            let last = run.state.map_or(u64::MAX, |_| run.cursor);
            member.over = over.map(|over| (over, last));
            // It was restarted, or this was said before it ended.
            let goes_on = !is_over || run.cursor > number(member.at);
            if member.reads == Reads::Ended && goes_on {
                member.reads = Reads::On;
                let at = member.at;
                joins.push(Joins { run: run.id, at });
            }
        } else if let Some(waits) = self
            .waiting
            .iter_mut()
            .find(|(waits, _)| waits.id == run.id)
        {
            // Of a run that was restarted meanwhile, too, all that came since it waits.
            let from = waits.0.from.min(run.from);
            // The client does not get behind the change that says what the list does not any more.
            let before = waits.1.filter(|_| from < run.from);
            let before = before.map(|before| Over {
                last: change,
                ..before
            });
            let over = before.or(over);
            *waits = (Listed { from, ..run }, over);
        } else if run.state.is_some() {
            self.waiting.push_back((run, over));
        }
        joins.extend(self.settle());
        joins
    }

    /// Returns whether no further changes are to be read until a run has [left](Self::left).
    #[must_use]
    pub fn is_full(&self) -> bool {
        let is_full = self.waiting.len() >= MOST_WAITING;
        // Where only a change makes room, it has to come.
        is_full && !(self.positions() >= (POSITIONS - 1) * self.most && self.awaits_change())
    }

    /// Returns whether a run was read to its end of which the index has not said yet that it is over.
    fn awaits_change(&self) -> bool {
        let mut members = self.members.values();
        members.any(|member| member.reads == Reads::Ended && !member.is_read())
    }

    /// Returns how many positions the id has when each run that is read has one.
    fn positions(&self) -> usize {
        let is_without = |(run, member): &(&String, &Member)| {
            member.reads == Reads::On && self.cursor.runs.of(run).is_none()
        };
        self.cursor.runs.len() + self.members.iter().filter(is_without).count()
    }

    /// Returns whether there are fewer positions than this. Forgets those of revoked runs where there is no room: they are there
    /// only for a client that comes back with another link, which has those runs from their beginnings then.
    fn has_room(&mut self, most: usize) -> bool {
        let mut positions = self.positions();
        for (run, member) in &self.members {
            if positions < most {
                break;
            }
            if member.reads == Reads::Revoked && self.cursor.runs.of(run).is_some() {
                self.cursor.runs.remove(run);
                positions -= 1;
            }
        }
        positions < most
    }

    /// Notes that the client gets the events of a run up to this position.
    pub fn read(&mut self, run: &str, at: Cursor) {
        if let Some(member) = self.members.get_mut(run) {
            member.at = at;
            self.set(run, at);
        }
    }

    /// Has the id name this position. An id never gets longer than can be read again: rather than that, a run comes twice for a
    /// client that is cut off just then.
    fn set(&mut self, run: &str, at: Cursor) {
        let runs = &mut self.cursor.runs;
        runs.set(run, at);
        if runs.len() > POSITIONS * self.most {
            let is_read = |(_, member): &(&String, &Member)| member.reads == Reads::On;
            let read = self.members.iter().filter(is_read);
            runs.remove_another(read.map(|(run, _)| run.as_str()).chain([run]));
        }
    }

    /// Notes that a run's stream is at its end, and that nothing was behind it when it was looked at once more. Returns
    /// those whose turn it is now.
    #[must_use]
    pub fn left(&mut self, run: &str) -> Vec<Joins> {
        if let Some(member) = self.members.get_mut(run) {
            member.reads = Reads::Ended;
        }
        self.settle()
    }

    /// Notes that a run may not be read, since the permission is at its end. It does not count as read to its end: the
    /// client comes back with another permission. Returns those whose turn it is now.
    #[must_use]
    pub fn refused(&mut self, run: &str) -> Vec<Joins> {
        if let Some(member) = self.members.get_mut(run) {
            member.reads = Reads::Refused;
        }
        self.settle()
    }

    /// Notes that the links of a run were revoked. It is left out: the client gets behind the change that says that it is
    /// over. Returns those whose turn it is now.
    #[must_use]
    pub fn revoked(&mut self, run: &str) -> Vec<Joins> {
        if let Some(member) = self.members.get_mut(run) {
            member.reads = Reads::Revoked;
        }
        self.settle()
    }

    /// Forgets the changes up to this one, which are lost: those after it go on.
    pub fn reset(&mut self, told: u64) {
        self.told = told;
        self.head = self.head.min(told);
        self.cursor.told = told;
    }

    /// Returns where the client is.
    #[must_use]
    pub fn cursor(&self) -> &TagCursor {
        &self.cursor
    }

    /// Moves the client behind the changes that it need not see again, drops the runs that it is done with, and lets others
    /// in.
    fn settle(&mut self) -> Vec<Joins> {
        let mut joins = Vec::new();
        loop {
            let unread = self.members.values().filter_map(|member| {
                let (over, _) = member.over?;
                (!member.is_read()).then_some(over.first)
            });
            let waiting = self.waiting.iter();
            let waiting = waiting.filter_map(|(_, over)| Some(over.as_ref()?.first));
            let first = unread.chain(waiting).min();
            let told = first.map_or(self.told, |first| self.told.min(first - 1));
            self.cursor.told = self.cursor.told.max(told);
            let runs = &mut self.cursor.runs;
            self.members.retain(|run, member| {
                let is_told = |over: (Over, u64)| over.0.last <= told;
                let is_left = matches!(member.reads, Reads::Ended | Reads::Revoked);
                let is_done = is_left && member.over.is_some_and(is_told);
                if is_done {
                    runs.remove(run);
                }
                !is_done
            });
            if self.told >= self.head {
                let listed = self.listed.drain(..).map(|run| (run, None));
                self.waiting.extend(listed);
                let waiting = self.waiting.iter().map(|(run, _)| &run.id);
                runs.keep(self.members.keys().chain(waiting));
            }
            match self.next_join(first) {
                Some(join) => joins.push(join),
                None => return joins,
            }
        }
    }

    /// Lets one of those in that wait: the one that keeps the client from getting behind a change, if there is one. `first` is
    /// the change that the client does not get behind now.
    fn next_join(&mut self, first: Option<u64>) -> Option<Joins> {
        let reads = |member: &&Member| member.reads == Reads::On;
        if self.members.values().filter(reads).count() >= self.most {
            return None;
        }
        let over = self.waiting.iter().enumerate();
        let over = over.filter_map(|(place, (_, over))| Some((over.as_ref()?, place)));
        let place = over.min().map_or(0, |(_, place)| place);
        let (run, over) = self.waiting.get(place)?;
        let known = self.cursor.runs.of(&run.id);
        // Positions of runs whose change is still to come take room, too. Some is left for runs that are over, behind whose
        // changes the client gets as it reads them, and of that some for the one without which it gets behind none.
        let is_next = over.is_some_and(|over| Some(over.first) == first);
        let most = POSITIONS * self.most;
        let room = match over {
            None => most - self.most,
            Some(_) if !is_next => most - self.most / 2,
            Some(_) => most,
        };
        if known.is_none() && !self.has_room(room) && !is_next {
            return None;
        }
        let (run, over) = self.waiting.remove(place)?;
        let at = match (known, self.others) {
            (Some(at), _) => at,
            (None, Cursor::Since(_)) => self.others,
            (None, Cursor::Latest) if self.is_new => self.others,
            (None, _) => EventId::new(run.from).map_or(Cursor::Beginning, Cursor::After),
        };
        let over = over.map(|over| (over, run.cursor));
        let reads = Reads::On;
        let run = run.id;
        self.members.insert(run.clone(), Member { at, reads, over });
        if matches!(at, Cursor::After(_) | Cursor::Beginning) {
            self.set(&run, at);
        }
        Some(Joins { run, at })
    }
}

fn number(at: Cursor) -> u64 {
    match at {
        Cursor::After(id) => id.get(),
        _ => 0,
    }
}

/// The beginning of every such position. Another number will be another form.
const FORM: &str = "t1.";

impl fmt::Display for TagCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.runs.to_string();
        let runs = runs.strip_prefix("m1").unwrap_or_default();
        write!(f, "{FORM}{}{runs}", self.told)
    }
}

impl FromStr for TagCursor {
    type Err = InvalidMergedCursor;

    fn from_str(text: &str) -> Result<Self, InvalidMergedCursor> {
        let text = text.strip_prefix(FORM).ok_or(InvalidMergedCursor)?;
        let end = text.find('.').unwrap_or(text.len());
        let (told, runs) = text.split_at(end);
        let is_number = !told.is_empty() && told.bytes().all(|byte| byte.is_ascii_digit());
        let told = told
            .parse()
            .ok()
            .filter(|told| is_number && *told <= EventId::MAX);
        Ok(Self {
            told: told.ok_or(InvalidMergedCursor)?,
            runs: MergedCursor::parse(&format!("m1{runs}"), POSITIONS * MAX_MERGED)?,
        })
    }
}
