//! The keys of a log, in little memory.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::column::{integer, number, text};
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
                let keys = self.sql.exec(
                    "SELECT key FROM events WHERE key >= ?1 ORDER BY key",
                    &[SqlValue::Text(prefix.to_owned())],
                )?;
                let keys = keys.into_iter().map(|row| text(row.into_iter().next()));
                let keys = keys.collect::<Result<Vec<_>, SqliteError<Q::Error>>>()?;
                let behind = |key: &String| key.strip_prefix(prefix).map(str::to_owned);
                return Ok(keys.iter().map_while(behind).collect());
            }
            Ok(self.known_keys(log)?.behind(prefix))
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
                return Ok(self.read_keys()?.behind_but_older(prefix, only_newest));
            }
            Ok(self.known_keys(log)?.behind_but_older(prefix, only_newest))
        })
    }

    pub(super) fn known_keys<'a>(
        &self,
        log: &'a mut Log<Q::Bytes>,
    ) -> Result<&'a mut Keys, SqliteError<Q::Error>> {
        let keys = match log.keys.take() {
            Some(keys) => keys,
            None if self.ends(log)?.has_table => self.read_keys()?,
            None => Keys::default(),
        };
        Ok(log.keys.insert(keys))
    }

    pub(super) fn read_keys(&self) -> Result<Keys, SqliteError<Q::Error>> {
        let mut keys = Keys::default();
        let mut after = 0;
        loop {
            // Page by page: all keys at once may be more than fits into memory.
            let rows = self.sql.exec(
                "SELECT id, key FROM events WHERE id > ?1 AND key IS NOT NULL \
                 ORDER BY id LIMIT 10000",
                &[integer(after)],
            )?;
            let is_last = rows.len() < 10_000;
            for row in rows {
                let mut columns = row.into_iter();
                after = number(columns.next())?;
                keys.insert(&text(columns.next())?);
            }
            if is_last {
                return Ok(keys);
            }
        }
    }
}

/// A set of keys.
///
/// The numbers of keys that end in a colon and a number, as those of a step's reports do, are kept
/// as ranges: the keys of 500,000 reports take as much as one key, and not 50 MB of the 128 that
/// all objects of an isolate share.
#[derive(Debug, Default)]
pub(super) struct Keys {
    plain: BTreeSet<String>,
    /// The parts before the numbers, with their colons, and the numbers of each. Sorted by the first. Not maps,
    /// whose code would be several KB of every Worker.
    numbered: Vec<(String, Ranges)>,
}

/// Ranges of numbers, sorted. Each is its first number and its last. There is a gap between any two.
type Ranges = Vec<(u64, u64)>;

impl Keys {
    /// Adds a key, and returns whether it is new.
    pub(super) fn insert(&mut self, key: &str) -> bool {
        let Some((name, number)) = split(key) else {
            // A key that is there is not copied.
            return !self.plain.contains(key) && self.plain.insert(key.to_owned());
        };
        match self.find(name) {
            Ok(place) => insert(&mut self.numbered[place].1, number),
            Err(place) => {
                let numbers = (name.to_owned(), vec![(number, number)]);
                self.numbered.insert(place, numbers);
                true
            }
        }
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        let compare = |(other, _): &(String, Ranges)| other.as_str().cmp(name);
        self.numbered.binary_search_by(compare)
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
        let keys: Vec<_> = plain.map_while(|key| behind(key)).collect();
        let mut numbered = BTreeSet::new();
        // The names that begin with the prefix, and the name that the prefix cuts in its number.
        let place = self.find(prefix).unwrap_or_else(|place| place);
        let names = self.numbered[place..].iter();
        let names = names.take_while(|(name, _)| name.starts_with(prefix));
        let cut = split_name(prefix).filter(|name| *name != prefix);
        let cut = cut.and_then(|name| self.numbered.get(self.find(name).ok()?));
        for (name, ranges) in names.chain(cut) {
            let from = match only_newest(name) {
                true => ranges.last().map_or(0, |(_, last)| *last),
                false => 0,
            };
            let numbers = ranges
                .iter()
                .flat_map(|(first, last)| (*first).max(from)..=*last);
            for number in numbers {
                if let Some(key) = behind(&format!("{name}{number}")) {
                    numbered.insert(key);
                }
            }
        }
        if numbered.is_empty() {
            return keys;
        }
        // Sorted by a set that is there anyway: a sort of strings would be 4 KB of every Worker.
        for key in keys {
            numbered.insert(key);
        }
        numbered.into_iter().collect()
    }
}

fn insert(ranges: &mut Ranges, number: u64) -> bool {
    // The first range that begins behind the number.
    let behind = ranges.partition_point(|(first, _)| *first <= number);
    let next = number.checked_add(1);
    let joins_next = ranges
        .get(behind)
        .is_some_and(|range| Some(range.0) == next);
    let below = behind.checked_sub(1).map(|below| &mut ranges[below]);
    match below {
        Some((_, last)) if number <= *last => return false,
        Some((_, last)) if *last + 1 == number => {
            *last = number;
            if joins_next {
                // Joined with what follows it without a gap.
                let (_, last) = ranges.remove(behind);
                ranges[behind - 1].1 = last;
            }
        }
        _ if joins_next => ranges[behind].0 = number,
        _ => ranges.insert(behind, (number, number)),
    }
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
                assert_eq!(keys.insert(key), model.insert(key.clone()), "{key}");
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
            assert!(keys.insert(&format!("1/step-1:progress:1:{number}")));
        }
        assert!(!keys.insert("1/step-1:progress:1:1500"));
        let place = keys.find("1/step-1:progress:1:").unwrap();
        assert_eq!(keys.numbered[place].1, [(0, 2_999)]);
        assert!(keys.insert("1/step-1:progress:1:5000"));
        assert_eq!(
            keys.behind_but_older("1/", |_| true),
            ["step-1:progress:1:5000"]
        );
    }
}
