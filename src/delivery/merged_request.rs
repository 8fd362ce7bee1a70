//! A client's request for a merged stream: `?run=a&run=b`, and its position.

use std::collections::BTreeSet;
use std::fmt;

use super::merge::{MAX_MERGED, MergedCursor};
use crate::event::Cursor;
use crate::wire::{self, InvalidCursor};

/// The runs of a merged stream, as its query names them, and where to start in each.
#[cfg_attr(not(any(feature = "http", feature = "cloudflare")), allow(dead_code))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MergedRequest {
    /// The client's position.
    pub(crate) cursor: MergedCursor,
    /// Where to start in runs that the position does not name.
    pub(crate) others: Cursor,
}

/// The error for the runs in the query of a merged stream. Answer `400` with its `Display` as the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidRuns {
    /// The query names none, or more than [`MAX_MERGED`].
    Number(usize),
    /// The query names one twice.
    Repeated,
}

#[cfg_attr(not(any(feature = "http", feature = "cloudflare")), allow(dead_code))]
impl MergedRequest {
    /// Returns the ids of the runs that a query names, each a value of `run`. Empty values are ignored.
    pub(crate) fn runs(query: Option<&str>) -> Result<Vec<String>, InvalidRuns> {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let runs = pairs.filter(|(name, value)| name == "run" && !value.is_empty());
        let runs: Vec<String> = runs.map(|(_, value)| value.into_owned()).collect();
        if runs.is_empty() || runs.len() > MAX_MERGED {
            return Err(InvalidRuns::Number(runs.len()));
        }
        let mut seen = BTreeSet::new();
        match runs.iter().all(|run| seen.insert(run.as_str())) {
            true => Ok(runs),
            false => Err(InvalidRuns::Repeated),
        }
    }

    /// Reads the position as [`wire::cursor`] does: the id of the last event, from the header or the query, is a
    /// [`MergedCursor`]. Runs that it does not name start where `from` or `since` says, otherwise at the beginning.
    pub(crate) fn parse(
        last_event_id: Option<&str>,
        query: Option<&str>,
    ) -> Result<Self, InvalidCursor> {
        let cursor = match wire::last_event_id(last_event_id, query) {
            Some(id) => id.parse().map_err(|_| InvalidCursor::Merged)?,
            None => MergedCursor::default(),
        };
        let others = wire::start(query)?;
        Ok(Self { cursor, others })
    }
}

impl fmt::Display for InvalidRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(0) => f.write_str("name at least one run: ?run=<id>&run=<id>"),
            Self::Number(number) => write!(
                f,
                "{number} runs are too many for one stream: name up to {MAX_MERGED}"
            ),
            Self::Repeated => f.write_str("a run is named twice"),
        }
    }
}

impl std::error::Error for InvalidRuns {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_named_by_the_query() {
        let runs = |query: &str| MergedRequest::runs(Some(query));
        assert_eq!(
            runs("run=a&x=1&run=b%26c+d&run="),
            Ok(vec!["a".to_owned(), "b&c d".to_owned()])
        );
        assert_eq!(MergedRequest::runs(None), Err(InvalidRuns::Number(0)));
        assert_eq!(runs("run=&runs=a"), Err(InvalidRuns::Number(0)));
        assert_eq!(runs("run=a&run=b&run=%61"), Err(InvalidRuns::Repeated));
        let many = |number: usize| -> String {
            (0..number).map(|number| format!("run={number}&")).collect()
        };
        assert_eq!(
            runs(&many(MAX_MERGED)).map(|runs| runs.len()),
            Ok(MAX_MERGED)
        );
        assert_eq!(
            runs(&many(MAX_MERGED + 1)),
            Err(InvalidRuns::Number(MAX_MERGED + 1))
        );
    }

    #[test]
    fn a_position_is_read_from_the_header_or_the_query() {
        let id = "m1.000000007";
        let cursor: MergedCursor = id.parse().unwrap();
        let at = |others| {
            let cursor = cursor.clone();
            Ok(MergedRequest { cursor, others })
        };
        let none = |others| {
            let cursor = MergedCursor::default();
            Ok(MergedRequest { cursor, others })
        };
        assert_eq!(MergedRequest::parse(None, None), none(Cursor::Beginning));
        assert_eq!(
            MergedRequest::parse(Some(id), Some("run=a&from=latest")),
            at(Cursor::Latest)
        );
        let query = format!("run=a&lastEventId={id}");
        assert_eq!(
            MergedRequest::parse(Some(" "), Some(&query)),
            at(Cursor::Beginning)
        );
        for bad in ["7", "m1.x", "m2"] {
            assert_eq!(
                MergedRequest::parse(Some(bad), None),
                Err(InvalidCursor::Merged)
            );
        }
        assert_eq!(
            MergedRequest::parse(Some(id), Some("from=now")),
            Err(InvalidCursor::From)
        );
    }
}
