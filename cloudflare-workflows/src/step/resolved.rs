//! The config that an attempt runs with: every value is known.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::duration::WorkflowDuration;

/// The config of an attempt: what was set, and the platform's defaults. As JSON it is that of the
/// platform's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResolvedConfig {
    /// How it is retried.
    pub retries: ResolvedRetries,
    /// How long an attempt may take.
    pub timeout: WorkflowDuration,
    /// What the platform's log and dashboards do not show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitive: Option<Sensitivity>,
}

/// How an attempt is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResolvedRetries {
    /// Retries after the first attempt; `u32::MAX` for any number.
    #[serde(deserialize_with = "limit")]
    pub limit: u32,
    /// The time before the first retry; `None` if a function chooses it.
    #[serde(with = "delay")]
    pub delay: Option<WorkflowDuration>,
    /// How the time grows.
    #[serde(default)]
    pub backoff: Backoff,
}

/// JSON has no word for infinity but `null`.
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

/// The platform's: five retries, one second apart and doubling, ten minutes for an attempt.
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

/// How the time between retries grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// Not at all.
    Constant,
    /// By one `delay` each time.
    Linear,
    /// It doubles each time.
    #[default]
    Exponential,
}

#[cfg(feature = "worker")]
impl Backoff {
    /// The platform's word for it.
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

/// What the platform's log and dashboards do not show of a step.
///
/// Our own log never has a step's output. It has what the step's code tells on purpose (progress,
/// attributes) and the messages of its errors, as the platform's has them, whether the step is
/// sensitive or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Sensitivity {
    /// Its output: shown as `[REDACTED]`.
    Output,
}

#[cfg(feature = "worker")]
impl Sensitivity {
    /// The platform's word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Output => "output",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        (name == Self::Output.as_str()).then_some(Self::Output)
    }
}
