//! The requests of clients.

use crate::event::EventId;
use crate::refusal::Refusal;

/// A request for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The method is `HEAD`: only the stream's end is asked for.
    pub(crate) head: bool,
    pub(super) offset: Option<Offset>,
    pub(super) live: Option<Live>,
    /// The cursor of an earlier answer.
    pub(super) cursor: Option<u64>,
    if_none_match: Option<String>,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offset {
    /// `-1`.
    Beginning,
    /// `now`.
    Now,
    /// After this event; `None` is the beginning of a log that had none.
    After(Option<EventId>),
}

/// How to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Live {
    LongPoll,
    Sse,
}

impl Ask {
    /// Reads the query of a request. The parameters of a `HEAD` request are ignored.
    pub(crate) fn parse(
        head: bool,
        query: Option<&str>,
        if_none_match: Option<String>,
    ) -> Result<Self, Refusal> {
        let mut ask = Self {
            head,
            offset: None,
            live: None,
            cursor: None,
            if_none_match,
        };
        if head {
            return Ok(ask);
        }
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "offset" => {
                    let offset = Offset::parse(&value).ok_or(Refusal::Offset)?;
                    if ask.offset.replace(offset).is_some() {
                        return Err(Refusal::Offset);
                    }
                }
                "live" => {
                    ask.live = Some(match &*value {
                        "long-poll" => Live::LongPoll,
                        "sse" => Live::Sse,
                        _ => return Err(Refusal::Offset),
                    });
                }
                // A foreign cursor is ignored.
                "cursor" => ask.cursor = value.parse().ok(),
                _ => {}
            }
        }
        match (ask.live, ask.offset) {
            (Some(_), None) => Err(Refusal::Offset),
            _ => Ok(ask),
        }
    }

    /// Returns whether the client already has the response with this tag.
    pub(super) fn knows(&self, tag: &str) -> bool {
        let tags = self.if_none_match.as_deref().unwrap_or_default();
        let mut tags = tags.split(',').map(str::trim);
        tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
    }
}

impl Offset {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "-1" => return Some(Self::Beginning),
            "now" => return Some(Self::Now),
            _ => {}
        }
        let is_number = text.len() == DIGITS && text.bytes().all(|digit| digit.is_ascii_digit());
        let number: u64 = is_number.then(|| text.parse().ok())??;
        match number {
            0 => Some(Self::After(None)),
            id => EventId::new(id).map(|id| Self::After(Some(id))),
        }
    }
}

/// The digits of the greatest id.
pub(super) const DIGITS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Ask, Refusal> {
        Ask::parse(false, Some(query), None)
    }

    #[test]
    fn an_offset_is_a_sentinel_or_sixteen_digits() {
        let after = |id| Some(Offset::After(EventId::new(id)));
        for (query, offset) in [
            ("", None),
            ("offset=-1", Some(Offset::Beginning)),
            ("offset=now", Some(Offset::Now)),
            ("offset=0000000000000000", Some(Offset::After(None))),
            ("offset=0000000000000007", after(7)),
            ("offset=9007199254740991", after(9_007_199_254_740_991)),
            ("other=1&offset=0000000000000007&cursor=x", after(7)),
        ] {
            assert_eq!(parse(query).unwrap().offset, offset, "{query}");
        }
        for query in [
            "offset=",
            "offset=7",
            "offset=-2",
            "offset=00000000000000007",
            "offset=000000000000000a",
            "offset=%2B000000000000007",
            "offset=9999999999999999",
            "offset=now&offset=-1",
            "live=sse",
            "live=long-poll",
            "offset=-1&live=",
            "offset=-1&live=websocket",
        ] {
            assert_eq!(parse(query), Err(Refusal::Offset), "{query}");
        }
    }

    #[test]
    fn the_mode_and_the_cursor_are_read() {
        let ask = parse("cursor=1000&live=long-poll&offset=now").unwrap();
        assert_eq!((ask.live, ask.cursor), (Some(Live::LongPoll), Some(1000)));
        assert_eq!(parse("live=sse&offset=-1").unwrap().live, Some(Live::Sse));
        assert!(Ask::parse(true, Some("live=no&offset=no"), None).is_ok());
    }

    #[test]
    fn a_tag_is_known_from_a_list() {
        let ask = |tags: &str| Ask::parse(false, None, Some(tags.to_owned())).unwrap();
        assert!(ask("\"a\", W/\"b\"").knows("\"b\""));
        assert!(ask("*").knows("\"b\""));
        assert!(!ask("\"a\"").knows("\"b\""));
        assert!(!parse("").unwrap().knows("\"b\""));
    }
}
