//! Durations as the platform takes them: a number of milliseconds, or a label.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time for a sleep, a wait, a timeout or a retention: a number of milliseconds, made from a
/// [`Duration`], or one of the platform's labels, such as `5 minutes`.
///
/// Both mean the same to the engine. A label is passed on as it is, so that dashboards show it. Parts of
/// a millisecond are cut off. Two durations are equal if they are written in the same way.
///
/// ```
/// use std::time::Duration;
/// use cloudflare_workflows::WorkflowDuration;
///
/// let label: WorkflowDuration = "5 minutes".parse()?;
/// assert_eq!(label, WorkflowDuration::minutes(5));
/// assert_eq!(label.to_string(), "5 minutes");
/// assert_eq!(Duration::from(label), Duration::from_secs(300));
/// assert!("5 minuets".parse::<WorkflowDuration>().is_err());
/// # Ok::<(), cloudflare_workflows::InvalidDuration>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkflowDuration {
    milliseconds: u64,
    /// The unit of a label.
    unit: Option<Unit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl WorkflowDuration {
    /// Returns the label of `number` seconds.
    #[must_use]
    pub const fn seconds(number: u32) -> Self {
        Self::label(number, Unit::Second)
    }

    /// Returns the label of `number` minutes.
    #[must_use]
    pub const fn minutes(number: u32) -> Self {
        Self::label(number, Unit::Minute)
    }

    /// Returns the label of `number` hours.
    #[must_use]
    pub const fn hours(number: u32) -> Self {
        Self::label(number, Unit::Hour)
    }

    /// Returns the label of `number` days of 24 hours.
    #[must_use]
    pub const fn days(number: u32) -> Self {
        Self::label(number, Unit::Day)
    }

    /// Returns the label of `number` weeks.
    #[must_use]
    pub const fn weeks(number: u32) -> Self {
        Self::label(number, Unit::Week)
    }

    /// Returns the label of `number` months, which the platform counts as 30 days each.
    #[must_use]
    pub const fn months(number: u32) -> Self {
        Self::label(number, Unit::Month)
    }

    /// Returns the label of `number` years, which the platform counts as 365.25 days each.
    #[must_use]
    pub const fn years(number: u32) -> Self {
        Self::label(number, Unit::Year)
    }

    /// Returns `number` milliseconds, without a label.
    #[must_use]
    pub const fn milliseconds(number: u64) -> Self {
        Self {
            milliseconds: number,
            unit: None,
        }
    }

    /// Returns the number of milliseconds.
    #[must_use]
    pub const fn as_milliseconds(self) -> u64 {
        self.milliseconds
    }

    /// Returns whether it is one of the platform's labels, and not a number of milliseconds.
    #[must_use]
    pub const fn is_label(self) -> bool {
        self.unit.is_some()
    }

    const fn label(number: u32, unit: Unit) -> Self {
        Self {
            milliseconds: (number as u64).saturating_mul(unit.milliseconds()),
            unit: Some(unit),
        }
    }
}

impl Unit {
    const ALL: [Self; 7] = [
        Self::Second,
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::Year,
    ];

    const fn milliseconds(self) -> u64 {
        const SECOND: u64 = 1000;
        const DAY: u64 = 24 * 3600 * SECOND;
        match self {
            Self::Second => SECOND,
            Self::Minute => 60 * SECOND,
            Self::Hour => 3600 * SECOND,
            Self::Day => DAY,
            Self::Week => 7 * DAY,
            Self::Month => 30 * DAY,
            Self::Year => 365 * DAY + DAY / 4,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

impl From<Duration> for WorkflowDuration {
    fn from(duration: Duration) -> Self {
        Self::milliseconds(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<WorkflowDuration> for Duration {
    fn from(duration: WorkflowDuration) -> Self {
        Self::from_millis(duration.milliseconds)
    }
}

/// Writes it as the platform does: `5 minutes`, `1.5 hours`; `1500 ms` if it is not a label.
impl fmt::Display for WorkflowDuration {
    #[allow(clippy::cast_precision_loss, reason = "exact below 2^53 ms")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(unit) = self.unit else {
            return write!(f, "{} ms", self.milliseconds);
        };
        let plural = if self.milliseconds == unit.milliseconds() {
            ""
        } else {
            "s"
        };
        let number = self.milliseconds as f64 / unit.milliseconds() as f64;
        write!(f, "{number} {}{plural}", unit.name())
    }
}

/// Parses what `Display` prints: a number, which may have decimals, a space, and `second`,
/// `minute`, `hour`, `day`, `week`, `month`, `year`, each with an `s` or without, or `ms`.
///
/// # Errors
/// [`InvalidDuration`] for anything else. (The platform would read an unknown unit as milliseconds.)
impl FromStr for WorkflowDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let parse = || {
            let (number, unit) = text.split_once(' ')?;
            let number = decimal(number)?;
            if unit == "ms" {
                return Some(Self::milliseconds(whole(number)));
            }
            let singular = unit.strip_suffix('s').unwrap_or(unit);
            let unit = Unit::ALL.into_iter().find(|unit| unit.name() == singular)?;
            #[allow(clippy::cast_precision_loss, reason = "small")]
            let milliseconds = whole(number * unit.milliseconds() as f64);
            Some(Self {
                milliseconds,
                unit: Some(unit),
            })
        };
        parse().ok_or_else(|| InvalidDuration(text.to_owned()))
    }
}

/// Returns the number of decimal digits, which may have a point among them. Not by `f64`'s own parser, whose tables
/// would be 11 KB of every Worker: the result is the same up to 15 digits, where both parts are exact.
fn decimal(text: &str) -> Option<f64> {
    /// Below it, another digit keeps a number exact.
    const EXACT: f64 = 9e14;

    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut digits = whole.bytes().chain(fraction.bytes());
    if text.len() < 2 && whole.is_empty() || !digits.all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let append = |number, digit| number * 10.0 + f64::from(digit - b'0');
    let mut number = whole.bytes().fold(0.0, append);
    let mut scale = 1.0;
    for digit in fraction.bytes() {
        if number < EXACT {
            number = append(number, digit);
            scale *= 10.0;
        }
    }
    Some(number / scale)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates; never negative here"
)]
fn whole(milliseconds: f64) -> u64 {
    milliseconds as u64
}

/// The error for a string that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDuration(String);

impl fmt::Display for InvalidDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a duration: write a number, a space, and second(s), minute(s), hour(s), \
             day(s), week(s), month(s) or year(s)",
            self.0
        )
    }
}

impl std::error::Error for InvalidDuration {}

/// Serialises as the platform does: a label, or a number of milliseconds.
impl Serialize for WorkflowDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_label() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u64(self.milliseconds)
        }
    }
}

/// Reads a label, or a number of milliseconds.
impl<'de> Deserialize<'de> for WorkflowDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = WorkflowDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of milliseconds, or a label such as \"5 minutes\"")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<WorkflowDuration, E> {
                Ok(WorkflowDuration::milliseconds(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<WorkflowDuration, E> {
                let number = u64::try_from(number);
                let number = number.map_err(|_| E::custom("a duration is not negative"))?;
                Ok(WorkflowDuration::milliseconds(number))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<WorkflowDuration, E> {
                if number.is_nan() || number < 0.0 {
                    return Err(E::custom("a duration is not negative"));
                }
                Ok(WorkflowDuration::milliseconds(whole(number)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<WorkflowDuration, E> {
                text.parse().map_err(E::custom)
            }

            /// Reads a number, where some crate has switched on `serde_json/arbitrary_precision`.
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<WorkflowDuration, M::Error> {
                let number = serde_json::Number::deserialize(MapAccessDeserializer::new(map))?;
                self.visit_f64(number.as_f64().unwrap_or(f64::NAN))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_mean_the_same_as_on_the_platform() {
        for (text, milliseconds) in [
            ("1 second", 1000),
            ("0 seconds", 0),
            ("90 seconds", 90_000),
            ("5 minutes", 300_000),
            ("5 minute", 300_000),
            ("1 minutes", 60_000),
            ("1.5 hours", 5_400_000),
            ("1 day", 86_400_000),
            ("2 weeks", 1_209_600_000),
            ("1 month", 2_592_000_000),
            ("1 year", 31_557_600_000),
            ("7 ms", 7),
        ] {
            let duration: WorkflowDuration = text.parse().unwrap();
            assert_eq!(duration.as_milliseconds(), milliseconds, "{text}");
            let again = duration.to_string();
            assert_eq!(again.parse(), Ok(duration), "{text} prints as {again}");
        }
        assert_eq!(WorkflowDuration::minutes(10).to_string(), "10 minutes");
        assert_eq!(WorkflowDuration::minutes(1).to_string(), "1 minute");
        assert_eq!("1.5 hours".parse(), Ok(label("1.5 hours")));
        assert_eq!(label("1.50 hours").to_string(), "1.5 hours");
    }

    #[test]
    fn numbers_are_read_as_f64_reads_them() {
        for text in [
            "0",
            "7",
            "1.",
            ".5",
            "0.1",
            "1.001",
            "2.675",
            "0.3333333333333333",
            "00.25",
            "123456789012345",
            "12345678.9012345",
            "1.500000000000000000000000000",
            "0.000001",
            "9007199254740991",
        ] {
            let expected: f64 = text.parse().unwrap();
            assert_eq!(decimal(text), Some(expected), "{text}");
        }
        assert_eq!(decimal(&format!("0.{}1", "0".repeat(400))), Some(0.0));
        assert_eq!(decimal(&"9".repeat(400)), Some(f64::INFINITY));
        for text in ["", ".", "1.2.3", "1e3", "-1", "+1", "inf", "NaN", "1 "] {
            assert_eq!(decimal(text), None, "{text:?}");
        }
    }

    #[test]
    fn invalid_labels_are_refused() {
        for text in [
            "",
            "5",
            "minutes",
            "5minutes",
            "5  minutes",
            " 5 minutes",
            "5 minutes ",
            "five minutes",
            "-5 minutes",
            "+5 minutes",
            "1e3 seconds",
            "inf years",
            "NaN days",
            ". days",
            "1.2.3 days",
            "5 minuets",
            "5 minutess",
            "5 Minutes",
            "5 m",
            "5 m s",
        ] {
            let error = text.parse::<WorkflowDuration>().unwrap_err();
            assert!(error.to_string().contains("minute(s)"), "{text:?}");
        }
    }

    #[test]
    fn json_is_the_platforms() {
        for (duration, json) in [
            (WorkflowDuration::seconds(5), r#""5 seconds""#),
            (WorkflowDuration::milliseconds(1500), "1500"),
            (Duration::from_micros(2999).into(), "2"),
        ] {
            assert_eq!(serde_json::to_string(&duration).unwrap(), json);
            assert_eq!(
                serde_json::from_str::<WorkflowDuration>(json).unwrap(),
                duration
            );
        }
        assert_eq!(
            serde_json::from_str::<WorkflowDuration>("10.5").unwrap(),
            WorkflowDuration::milliseconds(10)
        );
        for json in ["-1", "-0.5", "null", r#""soon""#] {
            assert!(serde_json::from_str::<WorkflowDuration>(json).is_err());
        }
    }

    fn label(text: &str) -> WorkflowDuration {
        text.parse().unwrap()
    }
}
