//! The names of steps in the platform's log.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A step as the platform's log names it: `charge card-2` is the second step called `charge card`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StepName {
    name: String,
    count: u32,
}

impl StepName {
    /// Returns the step of this name and number.
    pub fn new(name: impl Into<String>, count: u32) -> Self {
        Self {
            name: name.into(),
            count,
        }
    }

    /// Returns the name in the workflow's code.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of the step among the steps of its name, from 1; 0 if the platform gave none.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }
}

impl From<&str> for StepName {
    fn from(text: &str) -> Self {
        let parsed = text.rsplit_once('-').and_then(|(name, count)| {
            let count = count.parse().ok().filter(|number| *number > 0)?;
            Some(Self::new(name, count))
        });
        // A string of another shape is kept, and shown, as it is.
        parsed
            .filter(|step| step.to_string() == text)
            .unwrap_or_else(|| Self::new(text, 0))
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 => f.write_str(&self.name),
            count => write!(f, "{}-{count}", self.name),
        }
    }
}

impl Serialize for StepName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StepName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(&*String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_names_have_one_reading() {
        for (text, name, count) in [
            ("a-1", "a", 1),
            ("a-1-2", "a-1", 2),
            ("-3", "", 3),
            ("a", "a", 0),
            ("a-01", "a-01", 0),
            ("a-0", "a-0", 0),
            ("a-", "a-", 0),
            ("a-99999999999", "a-99999999999", 0),
        ] {
            let step = StepName::from(text);
            assert_eq!((step.name(), step.count()), (name, count), "{text}");
            assert_eq!(step.to_string(), text);
        }
    }
}
