//! Times and durations as the platform writes them: milliseconds.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serializer};

pub(super) mod milliseconds {
    use super::*;

    #[allow(
        clippy::cast_possible_truncation,
        reason = "of a platform that counts in milliseconds below 2^53"
    )]
    pub(in crate::instance) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_millis() as u64)
    }

    /// Reads a number of JavaScript, which may have a fraction. A sleep until a time that has passed is
    /// negative, and is read as zero.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates"
    )]
    pub(in crate::instance) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let number = f64::deserialize(deserializer)?;
        Ok(Duration::from_millis(number.max(0.0) as u64))
    }
}

pub(super) mod milliseconds_option {
    use super::*;

    pub(in crate::instance) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => milliseconds::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(in crate::instance) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        milliseconds::deserialize(deserializer).map(Some)
    }
}

pub(super) mod milliseconds_since_epoch {
    use super::*;

    pub(in crate::instance) fn serialize<S: Serializer>(
        time: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        milliseconds::serialize(&since.unwrap_or_default(), serializer)
    }

    pub(in crate::instance) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        let since = milliseconds::deserialize(deserializer)?;
        SystemTime::UNIX_EPOCH
            .checked_add(since)
            .ok_or_else(|| serde::de::Error::custom("not a time"))
    }
}
