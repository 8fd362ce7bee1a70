//! `name=value` arguments.

use std::collections::HashMap;
use std::time::Duration;

use crate::Result;

/// The arguments of a scenario.
pub(crate) struct Args(HashMap<String, String>);

impl Args {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let pair = |argument: String| match argument.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(format!("{argument:?} is not name=value").into()),
        };
        arguments.map(pair).collect::<Result<_>>().map(Self)
    }

    pub(crate) fn text(&self, name: &str) -> Result<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.ok_or_else(|| format!("{name}= is missing").into())
    }

    pub(crate) fn number(&self, name: &str) -> Result<u64> {
        let text = self.text(name)?;
        let number = text.parse();
        number.map_err(|_| format!("{name}={text} is not a whole number").into())
    }

    pub(crate) fn number_or(&self, name: &str, default: u64) -> Result<u64> {
        if self.0.contains_key(name) {
            self.number(name)
        } else {
            Ok(default)
        }
    }

    pub(crate) fn count(&self, name: &str) -> Result<usize> {
        Ok(usize::try_from(self.number(name)?)?)
    }

    /// Returns the time after which a slow scenario is cut off. Default: a minute.
    pub(crate) fn cap(&self) -> Result<Duration> {
        Ok(Duration::from_millis(self.number_or("capMs", 60_000)?))
    }

    /// Returns the silence after which viewers are not waited for any longer, although they lack
    /// events. Default: the cap.
    pub(crate) fn quiet(&self) -> Result<Duration> {
        Ok(Duration::from_millis(self.number_or("quietMs", 3_600_000)?))
    }
}
