//! Names the task that an event is about. Names are the same in every lifetime of a run.

mod event;
mod redact;

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use event::{MAX_ATTRIBUTES, MAX_TEXT, StepEvent, StepEventType};
pub(crate) use event::{
    attempt_failed_key, is_report_base, iso, iso_option, report_key, split_report_key,
};
pub use redact::{Redact, RedactedField};

use self::event::cut;

/// The error of a run that was terminated from outside.
pub(crate) const TERMINATED: &str = "the instance was terminated";

/// The kind of a task.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A step that runs code. A group of steps has this kind too, without attempts.
    Do,
    /// A step that sleeps for a time.
    Sleep,
    /// A step that sleeps until a time.
    SleepUntil,
    /// A step that waits for an event from outside.
    WaitForEvent,
    /// The run itself, the root of all tasks.
    Workflow,
}

/// The name of a task within its run. It is derived from what the engine identifies a step by:
/// kind, name, and how many steps of that kind and name began before it.
///
/// For `do` steps it is `name-count`, as the platform's dashboards show it. Other kinds follow it
/// as a suffix (`cool down-1.sleep`), since steps of different kinds may share a name. The last
/// character of a `do` task's id is a digit, so the two never collide.
///
/// A name of more than [`MAX_TEXT`] bytes is cut, as all strings are, before it is counted and used
/// in an id. An id has at most 32 KiB: in a longer path, everything before the task's own name is
/// replaced by `…` and a hash of it.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(String);

impl TaskId {
    pub(crate) fn new(name: &str, count: u32, form: Form) -> Self {
        let suffix = match form {
            Form::Step(Kind::Do) => "",
            Form::Step(Kind::Sleep) => ".sleep",
            Form::Step(Kind::SleepUntil) => ".sleepUntil",
            Form::Step(Kind::WaitForEvent) => ".waitForEvent",
            Form::Step(Kind::Workflow) => ".workflow",
            Form::Group => ".group",
        };
        Self(format!("{name}-{count}{suffix}"))
    }

    /// Returns the id of a task within another task, or within anything else that has a name of its
    /// own.
    ///
    /// A `/` separates the two; a `/` in the name becomes `%2F`, so two ids are never the same.
    pub(crate) fn within(self, outer: Option<&str>) -> Self {
        let name = self.0.replace('%', "%25").replace('/', "%2F");
        Self(match outer {
            Some(outer) if outer.len() + name.len() >= MAX_ID => {
                format!("…{:016x}/{name}", hash(outer))
            }
            Some(outer) => format!("{outer}/{name}"),
            None => name,
        })
    }

    /// Returns whether it is the run itself, the root of all tasks.
    #[must_use]
    pub fn is_workflow(&self) -> bool {
        self.0.ends_with(".workflow")
    }

    /// Returns the id as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The most bytes of an id. An event has three ids, with its key, and control characters take six
/// bytes each as JSON; with this limit no event is too large because of its names.
const MAX_ID: usize = 32 * 1024;

/// Returns the FNV-1a hash, which is the same in each process and version, unlike the standard
/// library's.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A task, without its parent.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    pub(crate) step: String,
    pub(crate) kind: Kind,
    pub(crate) count: u32,
}

/// How a task is counted. Groups have their own counts, because they are not steps of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    Step(Kind),
    Group,
}

/// Counts the tasks of one lifetime in call order, as the engine does.
#[derive(Debug, Default)]
pub(crate) struct TaskCounter {
    counts: Numbers,
}

impl Form {
    fn letter(self) -> char {
        match self {
            Self::Step(Kind::Do) => 'd',
            Self::Step(Kind::Sleep) => 's',
            Self::Step(Kind::SleepUntil) => 'u',
            Self::Step(Kind::WaitForEvent) => 'e',
            Self::Step(Kind::Workflow) => 'w',
            Self::Group => 'g',
        }
    }
}

/// Numbers, by names. Everything that is counted by name is counted in these, so that a Worker has the code of one map.
#[derive(Debug, Default)]
pub(crate) struct Numbers(HashMap<String, u32>);

impl Numbers {
    /// Returns the number of this name, if it has one.
    #[inline(never)]
    pub(crate) fn get(&self, name: &str) -> Option<u32> {
        self.0.get(name).copied()
    }

    /// Returns the number of this name, at first 0.
    #[inline(never)]
    pub(crate) fn of(&mut self, name: String) -> &mut u32 {
        self.0.entry(name).or_default()
    }

    /// Subtracts 1, and removes the name at 0.
    #[inline(never)]
    pub(crate) fn take_one(&mut self, name: &str) {
        if let Some(number) = self.0.get_mut(name) {
            *number = number.saturating_sub(1);
            if *number == 0 {
                self.0.remove(name);
            }
        }
    }
}

impl TaskCounter {
    pub(crate) fn next(&mut self, form: Form, name: &str) -> Task {
        let name = cut(name);
        // Names of different forms are different, since the form is of fixed length.
        let count = self.counts.of(format!("{}{name}", form.letter()));
        *count += 1;
        Task {
            id: TaskId::new(&name, *count, form),
            step: name,
            kind: match form {
                Form::Step(kind) => kind,
                Form::Group => Kind::Do,
            },
            count: *count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_tell_kinds_and_occurrences_apart() {
        let mut counter = TaskCounter::default();
        let mut id = |form, name| counter.next(form, name).id.0;
        assert_eq!(id(Form::Step(Kind::Do), "charge card"), "charge card-1");
        assert_eq!(id(Form::Step(Kind::Do), "charge card"), "charge card-2");
        assert_eq!(
            id(Form::Step(Kind::Sleep), "charge card"),
            "charge card-1.sleep"
        );
        assert_eq!(id(Form::Group, "charge card"), "charge card-1.group");
        assert_eq!(
            id(Form::Step(Kind::Do), "charge card-1.sleep"),
            "charge card-1.sleep-1"
        );
        assert_eq!(id(Form::Step(Kind::Do), "a-1"), "a-1-1");
        assert_eq!(id(Form::Step(Kind::Workflow), "order"), "order-1.workflow");
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let mut counter = TaskCounter::default();
        let (long, other) = ("x".repeat(1 << 21), "x".repeat((1 << 21) - 1) + "y");
        let first = counter.next(Form::Group, &long);
        assert!(first.id.0.ends_with("… (2088960 bytes cut)-1.group"));
        assert!(first.id.0.len() < 9_000 && first.step.len() < 9_000);
        let second = counter.next(Form::Group, &other);
        assert!(second.id.0.ends_with("-2.group"), "they look alike");

        let mut outer = TaskId("%".repeat(MAX_ID - 10));
        let mut seen = std::collections::HashSet::new();
        for n in 0..1_000 {
            let inner = TaskId(format!("{}-{n}", "%".repeat(9_000)));
            outer = inner.within(Some(outer.as_str()));
            assert!(outer.0.len() <= MAX_ID, "{}", outer.0.len());
            assert!(seen.insert(outer.clone()));
        }
    }
}
