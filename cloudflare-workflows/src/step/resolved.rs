//! The config that an attempt runs with: every value is known.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::duration::WorkflowDuration;

/// The config that an attempt runs with: the step's config, with the platform's defaults filled in.
///
/// Its JSON is the `config` of the platform's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResolvedConfig {
    /// The retries.
    pub retries: ResolvedRetries,
    /// The longest time that an attempt may take.
    pub timeout: WorkflowDuration,
    /// The part that the platform's log and dashboards do not show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitive: Option<Sensitivity>,
}

/// The retries of a step, every value known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResolvedRetries {
    /// The number of retries after the first attempt; `u32::MAX` for no limit.
    #[serde(deserialize_with = "limit")]
    pub limit: u32,
    /// The time before the first retry; `None` if a function chooses it.
    #[serde(with = "delay")]
    pub delay: Option<WorkflowDuration>,
    /// The growth of the delay.
    #[serde(default)]
    pub backoff: Backoff,
}

impl ResolvedRetries {
    /// Returns the time between the failure of attempt `attempt`, from 1, and its retry, backoff
    /// included. Returns `None` if a function chooses it. The limit is ignored.
    #[must_use]
    pub fn delay_after(&self, attempt: u32) -> Option<Duration> {
        let delay = Duration::from(self.delay?);
        Some(delay.saturating_mul(self.backoff.factor(attempt)))
    }
}

/// Reads `null`, the JSON of JavaScript's infinity, as `u32::MAX`.
fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(u32::MAX))
}

mod delay {
    use super::*;

    const DYNAMIC: &str = "[dynamic]";

    pub(super) fn serialize<S: Serializer>(
        delay: &Option<WorkflowDuration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match delay {
            Some(delay) => delay.serialize(serializer),
            None => serializer.serialize_str(DYNAMIC),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<WorkflowDuration>, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value == DYNAMIC {
            return Ok(None);
        }
        let delay = WorkflowDuration::deserialize(value);
        delay.map(Some).map_err(serde::de::Error::custom)
    }
}

/// The platform's defaults: five retries, the first after one second and each later one after twice the
/// time, and ten minutes for an attempt.
impl Default for ResolvedConfig {
    fn default() -> Self {
        Self {
            retries: ResolvedRetries {
                limit: 5,
                delay: Some(WorkflowDuration::milliseconds(1000)),
                backoff: Backoff::Exponential,
            },
            timeout: WorkflowDuration::minutes(10),
            sensitive: None,
        }
    }
}

/// The growth of the time between retries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// The time stays the same.
    Constant,
    /// Each retry waits one `delay` longer.
    Linear,
    /// Each retry waits twice as long.
    #[default]
    Exponential,
}

impl Backoff {
    /// Returns how many times the delay passes between the failure of attempt `attempt` and its
    /// retry.
    pub(crate) fn factor(self, attempt: u32) -> u32 {
        match self {
            Self::Constant => 1,
            Self::Linear => attempt,
            Self::Exponential => 2_u32.saturating_pow(attempt.saturating_sub(1)),
        }
    }
}

#[cfg(feature = "worker")]
impl Backoff {
    /// Returns the platform's name for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Exponential => "exponential",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Constant, Self::Linear, Self::Exponential];
        all.into_iter().find(|backoff| backoff.as_str() == name)
    }
}

/// The part of a step that the platform's log and dashboards do not show.
///
/// Messages of errors are always shown. A log of events that the crate `ssetarget` keeps never has a
/// step's output; it has the progress and the attributes that the step's code reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Sensitivity {
    /// The output of the step: shown as `[REDACTED]`.
    Output,
}

#[cfg(feature = "worker")]
impl Sensitivity {
    /// Returns the platform's name for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Output => "output",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        (name == Self::Output.as_str()).then_some(Self::Output)
    }
}
