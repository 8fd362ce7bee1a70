//! A set of keys, in little memory.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

/// A set of keys.
///
/// The numbers of keys that end in a colon and a number, as those of a step's reports do, are kept
/// as ranges: the keys of 500,000 reports take as much as one key, and not 50 MB of the 128 that
/// all objects of an isolate share.
#[derive(Debug, Default)]
pub(super) struct Keys {
    plain: BTreeSet<Arc<str>>,
    numbered: Numbered,
}

/// A key that a set did not have.
pub(super) enum NewKey {
    Plain(Arc<str>),
    /// The part before its number, with the colon, and the number.
    Numbered(Arc<str>, u64),
}

impl Keys {
    /// Adds a key, and returns it if it is new.
    pub(super) fn insert(&mut self, key: &str) -> Option<NewKey> {
        let Some((name, number)) = split(key) else {
            // A key that is there is not copied.
            if self.plain.contains(key) {
                return None;
            }
            let key = Arc::<str>::from(key);
            self.plain.insert(Arc::clone(&key));
            return Some(NewKey::Plain(key));
        };
        let (name, ranges) = self.numbered.entry(name);
        ranges
            .insert(number)
            .then(|| NewKey::Numbered(Arc::clone(name), number))
    }

    /// Adds a key that has no number.
    pub(super) fn insert_plain(&mut self, key: &str) {
        self.plain.insert(Arc::from(key));
    }

    /// Adds the keys of this name with the numbers of a range.
    pub(super) fn insert_range(&mut self, name: &str, first: u64, last: u64) {
        self.numbered.entry(name).1.insert_range(first, last);
    }

    /// Returns the keys that begin with `prefix`, sorted as strings, without the prefix.
    #[cfg(test)]
    pub(super) fn behind(&self, prefix: &str) -> Vec<String> {
        self.behind_but_older(prefix, &|_| false)
    }

    /// Returns the keys that begin with `prefix`, sorted as strings, without the prefix; but of a name for which
    /// `only_newest` returns true only the one with the greatest number.
    pub(super) fn behind_but_older(
        &self,
        prefix: &str,
        only_newest: &dyn Fn(&str) -> bool,
    ) -> Vec<String> {
        let behind = |key: &str| key.strip_prefix(prefix).map(str::to_owned);
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let plain = self.plain.range::<str, _>(from);
        let keys: Vec<_> = plain.map_while(|key| behind(key)).collect();
        let mut numbered = BTreeSet::<Arc<str>>::new();
        // The names that begin with the prefix, and the name that the prefix cuts in its number.
        let place = self.numbered.find(prefix).unwrap_or_else(|place| place);
        let names = self.numbered.0[place..].iter();
        let names = names.take_while(|(name, _)| name.starts_with(prefix));
        let cut = split_name(prefix).filter(|name| *name != prefix);
        let cut = cut.and_then(|name| self.numbered.0.get(self.numbered.find(name).ok()?));
        for (name, ranges) in names.chain(cut) {
            let from = match only_newest(name) {
                true => ranges.0.last().map_or(0, |(_, last)| *last),
                false => 0,
            };
            let numbers = ranges
                .0
                .iter()
                .flat_map(|(first, last)| (*first).max(from)..=*last);
            for number in numbers {
                if let Some(key) = format!("{name}{number}").strip_prefix(prefix) {
                    numbered.insert(key.into());
                }
            }
        }
        if numbered.is_empty() {
            return keys;
        }
        // Sorted by a set that is there anyway: a sort of strings would be 4 KB of every Worker.
        for key in keys {
            numbered.insert(key.into());
        }
        numbered.iter().map(|key| key.to_string()).collect()
    }
}

/// Names of keys, each the part before a number with its colon, and their numbers. Sorted by name. Not a map, whose code
/// would be several KB of every Worker.
#[derive(Debug, Default)]
pub(super) struct Numbered(Vec<(Arc<str>, Ranges)>);

impl Numbered {
    /// Returns the name and its numbers, after adding the name if it is new.
    pub(super) fn entry(&mut self, name: &str) -> (&Arc<str>, &mut Ranges) {
        let place = self.find(name).unwrap_or_else(|place| {
            self.0.insert(place, (Arc::from(name), Ranges::default()));
            place
        });
        let (name, ranges) = &mut self.0[place];
        (name, ranges)
    }

    /// Returns all names with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Ranges)> {
        self.0.iter().map(|(name, ranges)| (&**name, ranges))
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (**other).cmp(name))
    }
}

/// Numbers as ranges, each by its first number and its last one, sorted. There is a gap between any two.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds a number, and returns whether it is new.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let is_new = !self.has(number);
        if is_new {
            self.insert_range(number, number);
        }
        is_new
    }

    /// Adds a range, which may overlap with those that are there.
    fn insert_range(&mut self, mut first: u64, mut last: u64) {
        let Self(ranges) = self;
        // The new range and all ranges that it touches become one.
        let begin = ranges.partition_point(|(_, end)| end.saturating_add(1) < first);
        let end = ranges.partition_point(|(begin, _)| *begin <= last.saturating_add(1));
        match ranges.get(begin..end) {
            Some([only]) if only.0 <= first && last <= only.1 => return,
            // Mostly a number that follows the others.
            Some([_]) => {
                let only = &mut ranges[begin];
                *only = (only.0.min(first), only.1.max(last));
                return;
            }
            Some([lowest, .., highest]) => {
                (first, last) = (first.min(lowest.0), last.max(highest.1));
            }
            _ => {}
        }
        ranges.splice(begin..end.max(begin), [(first, last)]);
    }

    fn has(&self, number: u64) -> bool {
        let behind = self.0.partition_point(|(first, _)| *first <= number);
        let below = behind.checked_sub(1).map(|below| self.0[below]);
        below.is_some_and(|(_, last)| number <= last)
    }

    /// Returns the ranges, each as its first number and its last.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }
}

/// Splits a key into a name that ends in a colon, and a number without sign or leading zeros.
fn split(key: &str) -> Option<(&str, u64)> {
    let name = split_name(key)?;
    let digits = &key[name.len()..];
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_canonical = is_number && (digits == "0" || !digits.starts_with('0'));
    Some((name, digits.parse().ok().filter(|_| is_canonical)?))
}

fn split_name(key: &str) -> Option<&str> {
    key.rfind(':').map(|colon| &key[..=colon])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set() {
        let ends = [
            "",
            "0",
            "1",
            "2",
            "3",
            "5",
            "9",
            "10",
            "11",
            "19",
            "100",
            "01",
            "00",
            "+1",
            "-1",
            "1 ",
            "x",
            "1x",
            "18446744073709551615",
            "18446744073709551614",
            "18446744073709551616",
        ];
        let names = ["", ":", "a", "a:", "a:1", "a:1:", "b:", "é:", "a/:", "::"];
        let mut all: Vec<String> = Vec::new();
        for name in names {
            all.extend(ends.map(|end| format!("{name}{end}")));
        }
        // In many orders, the same each time.
        for step in [1, 3, 7, 11, 13, 17, 101] {
            let (mut keys, mut model) = (Keys::default(), BTreeSet::new());
            for n in 0..2 * all.len() {
                let key = &all[n * step % all.len()];
                assert_eq!(
                    keys.insert(key).is_some(),
                    model.insert(key.clone()),
                    "{key}"
                );
            }
            for prefix in all.iter().map(String::as_str).chain(["a:18", "b:1844"]) {
                let behind = model.iter().filter_map(|key| key.strip_prefix(prefix));
                let behind: Vec<_> = behind.collect();
                assert_eq!(keys.behind(prefix), behind, "{prefix}");
            }
        }
    }

    #[test]
    fn numbers_in_a_row_are_one_range() {
        let mut keys = Keys::default();
        for number in (0..1_000).rev().chain(2_000..3_000).chain(1_000..2_000) {
            assert!(
                keys.insert(&format!("1/step-1:progress:1:{number}"))
                    .is_some()
            );
        }
        assert!(keys.insert("1/step-1:progress:1:1500").is_none());
        let (_, ranges) = keys.numbered.entry("1/step-1:progress:1:");
        assert_eq!(ranges.0, [(0, 2_999)]);
        assert!(keys.insert("1/step-1:progress:1:5000").is_some());
        assert_eq!(
            keys.behind_but_older("1/", &|_| true),
            ["step-1:progress:1:5000"]
        );
    }
}
