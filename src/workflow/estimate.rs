//! What remains of a run, by what earlier ones took.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long something took in the runs of a workflow that completed lately.
///
/// An index of runs makes it, of the 50 runs that completed last. It says nothing where there is too little to say: of fewer
/// than 5, of times that lie too far apart (the long ones take more than ten times as long as the short ones), and of less than a second.
///
/// ```
/// use std::time::Duration;
/// use ssetarget::workflow::Estimate;
///
/// let estimate: Estimate = serde_json::from_str(r#"{"runs":20,"medianMs":120000,"lowMs":60000,"highMs":240000}"#)?;
/// let remains = |seconds| estimate.remains(Duration::from_secs(seconds)).to_string();
/// assert_eq!(remains(0), "about 2 min, usually 1 to 4 min");
/// assert_eq!(remains(150), "up to 1.5 min");
/// assert_eq!(remains(241), "longer than usual");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Estimate {
    /// Of how many runs that is.
    pub runs: u32,
    /// Half of them took no longer, in milliseconds.
    #[cfg_attr(feature = "typescript", ts(type = "number"))]
    pub median_ms: u64,
    /// One in ten took no longer.
    #[cfg_attr(feature = "typescript", ts(type = "number"))]
    pub low_ms: u64,
    /// Nine in ten took no longer.
    #[cfg_attr(feature = "typescript", ts(type = "number"))]
    pub high_ms: u64,
}

/// How long a run and its tasks are expected to take, as its index knew when it began.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RunEstimate {
    /// The whole run; `None` where there is too little to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub run: Option<Estimate>,
    /// Its tasks, by their ids: those of which there is enough to say, at most the 32 that take longest.
    #[serde(default)]
    #[cfg_attr(feature = "typescript", ts(type = "Record<string, Estimate>"))]
    pub tasks: BTreeMap<String, Estimate>,
}

/// What remains of something that goes on. Its `Display` are words for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remains {
    /// It takes longer than nine in ten did.
    LongerThanUsual,
    /// It takes longer than half of them did, and most would end within this time.
    UpTo(Duration),
    /// About this long; usually from `low`, which is zero if that time is over, to `high`.
    #[allow(missing_docs)]
    About {
        about: Duration,
        low: Duration,
        high: Duration,
    },
}

/// Of how many the times must be known.
#[cfg_attr(not(feature = "index"), allow(dead_code))]
const FEWEST: usize = 5;
/// How many times as long as the short ones the long ones may take.
#[cfg_attr(not(feature = "index"), allow(dead_code))]
const WIDEST: u64 = 10;
/// What takes less, in milliseconds, is over before anybody has read how long it takes.
#[cfg_attr(not(feature = "index"), allow(dead_code))]
const SHORTEST: u64 = 1_000;

impl Estimate {
    /// Returns what these times say, in milliseconds and in any order, if it is enough.
    #[cfg_attr(not(feature = "index"), allow(dead_code))]
    #[must_use]
    pub(crate) fn of(mut times: Vec<u64>) -> Option<Self> {
        times.sort_unstable();
        let at = |share: usize| {
            times
                .get(times.len().saturating_sub(1) * share / 10)
                .copied()
        };
        let (low_ms, median_ms, high_ms) = (at(1)?, at(5)?, at(9)?);
        let is_narrow = high_ms <= low_ms.max(SHORTEST).saturating_mul(WIDEST);
        let says_something = times.len() >= FEWEST && high_ms >= SHORTEST && is_narrow;
        says_something.then_some(Self {
            runs: u32::try_from(times.len()).unwrap_or(u32::MAX),
            median_ms,
            low_ms,
            high_ms,
        })
    }

    /// Returns what remains of something that has taken this long so far.
    #[must_use]
    pub fn remains(&self, took: Duration) -> Remains {
        let left = |of: u64| Duration::from_millis(of).saturating_sub(took);
        if took > Duration::from_millis(self.high_ms) {
            Remains::LongerThanUsual
        } else if took >= Duration::from_millis(self.median_ms) {
            Remains::UpTo(left(self.high_ms))
        } else {
            Remains::About {
                about: left(self.median_ms),
                low: left(self.low_ms),
                high: left(self.high_ms),
            }
        }
    }
}

impl RunEstimate {
    /// Returns whether it says anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.run.is_none() && self.tasks.is_empty()
    }
}

impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LongerThanUsual => f.write_str("longer than usual"),
            Self::UpTo(most) => write!(f, "up to {}", Brief::of(*most)),
            Self::About { about, low, high } => {
                let about = Brief::of(*about);
                let high = Brief::of(*high);
                write!(f, "about {about}")?;
                let low = (!low.is_zero()).then(|| Brief::of(*low));
                match low {
                    None if about == high => Ok(()),
                    None => write!(f, ", usually up to {high}"),
                    Some(low) if low == high => Ok(()),
                    Some(low) if low.unit == high.unit => {
                        write!(f, ", usually {} to {high}", low.number())
                    }
                    Some(low) => write!(f, ", usually {low} to {high}"),
                }
            }
        }
    }
}

/// A time as short as an estimate has to be: `45 s`, `1.5 min`, `2 h`.
#[derive(PartialEq)]
struct Brief {
    /// In tenths of the unit.
    tenths: u64,
    unit: &'static str,
}

impl Brief {
    fn of(time: Duration) -> Self {
        const SECOND: u64 = 1_000;
        const MINUTE: u64 = 60 * SECOND;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 100);
        let step = match ms {
            0..10_000 => SECOND,
            10_000..120_000 => 5 * SECOND,
            120_000..HOUR => MINUTE,
            _ => 15 * MINUTE,
        };
        let ms = ((ms + step / 2) / step * step).max(SECOND);
        let (length, unit) = match ms {
            0..MINUTE => (SECOND, "s"),
            MINUTE..HOUR => (MINUTE, "min"),
            HOUR..DAY => (HOUR, "h"),
            _ => (DAY, "d"),
        };
        let tenths = match ms < 10 * length {
            true => (ms * 10 + length / 2) / length,
            false => (ms + length / 2) / length * 10,
        };
        Self { tenths, unit }
    }
}

impl Brief {
    fn number(&self) -> String {
        match (self.tenths / 10, self.tenths % 10) {
            (whole, 0) => whole.to_string(),
            (whole, tenth) => format!("{whole}.{tenth}"),
        }
    }
}

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number(), self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words for each estimate, here and on the page: `[low, median, high, took, words]`.
    const CASES: &str = include_str!("../../tests/page/estimates.json");

    #[test]
    fn what_remains_is_said_as_the_page_says_it() {
        let cases: Vec<(u64, u64, u64, u64, String)> = serde_json::from_str(CASES).unwrap();
        assert!(cases.len() > 20);
        for (low_ms, median_ms, high_ms, took, words) in cases {
            let estimate = Estimate {
                runs: 5,
                median_ms,
                low_ms,
                high_ms,
            };
            let said = estimate.remains(Duration::from_millis(took)).to_string();
            assert_eq!(said, words, "{estimate:?} after {took}");
        }
    }

    #[test]
    fn nothing_is_said_of_few_of_short_and_of_far_apart() {
        let of = |times: &[u64]| Estimate::of(times.to_vec());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[2_000; 4]), None);
        assert_eq!(of(&[999; 5]), None);
        let five = of(&[5_000, 1_000, 4_000, 2_000, 3_000]).unwrap();
        let Estimate {
            runs,
            median_ms,
            low_ms,
            high_ms,
        } = five;
        assert_eq!((runs, low_ms, median_ms, high_ms), (5, 1_000, 3_000, 4_000));
        assert!(of(&[1, 1, 1, 10_000, 10_000]).is_some());
        assert_eq!(of(&[1, 1, 1, 10_001, 10_001]), None);
        assert_eq!(of(&[2_000, 2_000, 2_000, 20_001, 20_001]), None);
        // One that is far off does not count.
        let mut many = vec![60_000; 19];
        many.push(86_400_000);
        assert_eq!(of(&many).unwrap().high_ms, 60_000);
    }
}
