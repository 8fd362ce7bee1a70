//! The keys of a log, in little memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::column::integer;
use super::digest::{KeysText, KnownKeys};
use super::{Log, Sql, SqlValue, SqliteError, SqliteEventStore};

impl<Q: Sql> SqliteEventStore<Q> {
    /// Returns the keys that begin with `prefix`, sorted, without the prefix.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>, SqliteError<Q::Error>> {
        self.with_log(|log| {
            if log.keys.is_none() && self.ends(log)?.closed {
                // Not remembered: a log that has ended is seldom written.
                return Ok(self.read_keys(log)?.all().behind(prefix));
            }
            Ok(self.known_keys(log)?.all().behind(prefix))
        })
    }

    /// Returns whether the event with this key is kept.
    pub(crate) fn keeps_key(&self, key: String) -> Result<bool, SqliteError<Q::Error>> {
        self.with_log(|log| {
            let Some(oldest) = self.ends(log)?.oldest else {
                return Ok(false);
            };
            let found = self.sql.exec(
                "SELECT id FROM events WHERE id >= ?1 AND key = ?2 LIMIT 1",
                &[integer(oldest.get()), SqlValue::Text(key)],
            )?;
            Ok(!found.is_empty())
        })
    }

    /// Returns fewer keys than [`keys`](Self::keys): of keys that differ only in the number after
    /// their last colon, only the greatest if `only_newest` returns true for the part before the
    /// number. Takes little memory, even for a long log.
    ///
    /// # Errors
    /// When SQLite fails.
    pub(crate) fn keys_but_older(
        &self,
        prefix: &str,
        only_newest: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, SqliteError<Q::Error>> {
        self.with_log(|log| {
            if log.keys.is_none() && self.ends(log)?.closed {
                // Not remembered, see `keys`.
                let keys = self.read_keys(log)?;
                return Ok(keys.all().behind_but_older(prefix, only_newest));
            }
            let keys = self.known_keys(log)?;
            Ok(keys.all().behind_but_older(prefix, only_newest))
        })
    }

    pub(super) fn known_keys<'a>(
        &self,
        log: &'a mut Log<Q::Bytes>,
    ) -> Result<&'a mut KnownKeys, SqliteError<Q::Error>> {
        let keys = match log.keys.take() {
            Some(keys) => keys,
            None if self.ends(log)?.has_table => self.read_keys(log)?,
            None => KnownKeys::default(),
        };
        Ok(log.keys.insert(keys))
    }
}

/// A set of keys.
///
/// The numbers of keys that end in a colon and a number, as those of a step's reports do, are kept
/// as ranges: the keys of 500,000 reports take as much as one key, and not 50 MB of the 128 that
/// all objects of an isolate share.
#[derive(Debug, Default)]
pub(super) struct Keys {
    plain: BTreeSet<Arc<str>>,
    /// The ranges, keyed by the part before the number, with its colon. Each is its first number
    /// and its last. There is a gap between any two.
    numbered: BTreeMap<Arc<str>, BTreeMap<u64, u64>>,
}

/// A key that a set did not have: its text, or the part before its number and the number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewKey(Arc<str>, Option<u64>);

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
            return Some(NewKey(key, None));
        };
        let known = self.numbered.get_key_value(name);
        let name = known.map_or_else(|| Arc::from(name), |(name, _)| Arc::clone(name));
        let ranges = self.numbered.entry(Arc::clone(&name)).or_default();
        insert(ranges, number).then_some(NewKey(name, Some(number)))
    }

    /// Adds a key that was new to another set.
    pub(super) fn add(&mut self, NewKey(name, number): NewKey) {
        match number {
            None => _ = self.plain.insert(name),
            Some(number) => _ = insert(self.numbered.entry(name).or_default(), number),
        }
    }

    /// Adds all keys of another set.
    pub(super) fn join(&mut self, other: &Self) {
        self.plain.extend(other.plain.iter().cloned());
        for (name, more) in &other.numbered {
            let ranges = self.numbered.entry(Arc::clone(name)).or_default();
            for (first, last) in more {
                insert_range(ranges, *first, *last);
            }
        }
    }

    /// Splits the set into sets whose texts have about so many bytes at most. The last one has room for more, and may
    /// have no key.
    pub(super) fn split(self, most: usize) -> Vec<Self> {
        let (mut sets, mut set, mut size) = (Vec::new(), Self::default(), 0);
        let mut room = |set: &mut Self, more: usize| {
            if size > 0 && size + more > most {
                sets.push(std::mem::take(set));
                size = 0;
            }
            size += more;
        };
        for key in self.plain {
            room(&mut set, key.len() + 3);
            set.plain.insert(key);
        }
        for (name, ranges) in self.numbered {
            for (first, last) in ranges {
                room(&mut set, name.len() + 16);
                let ranges = set.numbered.entry(Arc::clone(&name)).or_default();
                ranges.insert(first, last);
            }
        }
        sets.push(set);
        sets
    }

    pub(super) fn as_text(&self) -> KeysText<&str> {
        let ranges = |ranges: &BTreeMap<u64, u64>| {
            let ends = ranges.iter().flat_map(|(first, last)| [*first, *last]);
            ends.collect()
        };
        let numbered = self.numbered.iter();
        let numbered = numbered.map(|(name, all)| (&**name, ranges(all)));
        (
            self.plain.iter().map(|key| &**key).collect(),
            numbered.collect(),
        )
    }

    pub(super) fn from_text((plain, numbered): KeysText<String>) -> Self {
        let ranges = |ends: Vec<u64>| {
            let (ranges, _) = ends.as_chunks::<2>();
            ranges.iter().map(|[first, last]| (*first, *last)).collect()
        };
        let numbered = numbered.into_iter();
        Self {
            plain: plain.into_iter().map(Arc::from).collect(),
            numbered: numbered
                .map(|(name, ends)| (Arc::from(name), ranges(ends)))
                .collect(),
        }
    }

    /// Returns the keys that begin with `prefix`, sorted as strings, without the prefix.
    pub(super) fn behind(&self, prefix: &str) -> Vec<String> {
        self.behind_but_older(prefix, |_| false)
    }

    /// As [`behind`](Self::behind), but returns only the greatest number of a name for which
    /// `only_newest` returns true.
    pub(super) fn behind_but_older(
        &self,
        prefix: &str,
        only_newest: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let behind = |key: &str| key.strip_prefix(prefix).map(str::to_owned);
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let plain = self.plain.range::<str, _>(from);
        let mut keys: Vec<_> = plain.map_while(|key| behind(key)).collect();
        // The names that begin with the prefix, and the name that the prefix cuts in its number.
        let names = self.numbered.range::<str, _>(from);
        let names = names.take_while(|(name, _)| name.starts_with(prefix));
        let cut = split_name(prefix).and_then(|name| self.numbered.get_key_value(name));
        for (name, ranges) in names.chain(cut.filter(|(name, _)| &***name != prefix)) {
            let from = match only_newest(name) {
                true => ranges.last_key_value().map_or(0, |(_, last)| *last),
                false => 0,
            };
            let numbers = ranges
                .iter()
                .flat_map(|(first, last)| (*first).max(from)..=*last);
            keys.extend(numbers.filter_map(|number| behind(&format!("{name}{number}"))));
        }
        keys.sort_unstable();
        keys
    }
}

/// Adds a range, which may overlap with those that are there.
fn insert_range(ranges: &mut BTreeMap<u64, u64>, first: u64, last: u64) {
    let (mut first, mut last) = (first, last);
    // Those that it touches become one with it.
    while let Some((begin, end)) = ranges
        .range(..=last.saturating_add(1))
        .next_back()
        .filter(|(_, end)| end.saturating_add(1) >= first)
        .map(|(begin, end)| (*begin, *end))
    {
        ranges.remove(&begin);
        (first, last) = (first.min(begin), last.max(end));
    }
    ranges.insert(first, last);
}

fn insert(ranges: &mut BTreeMap<u64, u64>, number: u64) -> bool {
    let below = ranges.range(..=number).next_back();
    let below = below.map(|(first, last)| (*first, *last));
    if below.is_some_and(|(_, last)| number <= last) {
        return false;
    }
    let first = match below {
        Some((first, last)) if last + 1 == number => first,
        _ => number,
    };
    // Joined with what follows it without a gap.
    let next = number.checked_add(1);
    let last = next.and_then(|next| ranges.remove(&next)).unwrap_or(number);
    ranges.insert(first, last);
    true
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
        let ranges = &keys.numbered["1/step-1:progress:1:"];
        assert_eq!(ranges, &BTreeMap::from([(0, 2_999)]));
        assert!(keys.insert("1/step-1:progress:1:5000").is_some());
        assert_eq!(
            keys.behind_but_older("1/", |_| true),
            ["step-1:progress:1:5000"]
        );
    }
}
