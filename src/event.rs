//! Events, their ids, and positions in a log.
//!
//! This module does not know storage, bytes or async.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The position of an event in its log: a positive integer below 2^53, so that a JavaScript
/// client can hold it as a number without loss.
///
/// Ids are assigned by the [`EventStore`](crate::store::EventStore) and strictly increase in log
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(NonZeroU64);

impl EventId {
    /// The greatest id: 2^53 - 1, JavaScript's `Number.MAX_SAFE_INTEGER`.
    pub const MAX: u64 = (1 << 53) - 1;

    /// The id of a log's first event.
    pub(crate) const FIRST: Self = Self(NonZeroU64::MIN);

    /// Returns the id with this number, or `None` for 0 and for numbers above [`EventId::MAX`].
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        if number > Self::MAX {
            return None;
        }
        NonZeroU64::new(number).map(Self)
    }

    /// Returns the id as a number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// Serialises the id as a number.
impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.get())
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| serde::de::Error::custom(InvalidEventId))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Parses what `Display` prints: decimal digits without sign, spaces or leading zeros.
///
/// # Errors
/// [`InvalidEventId`] for anything else, so that an id has one spelling.
impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let canonical = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
        if !canonical {
            return Err(InvalidEventId);
        }
        text.parse().ok().and_then(Self::new).ok_or(InvalidEventId)
    }
}

/// The error for a string that is not an event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidEventId;

impl fmt::Display for InvalidEventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an event id is a whole number from 1 to {} without sign or leading zeros",
            EventId::MAX
        )
    }
}

impl std::error::Error for InvalidEventId {}

/// Where in the log a subscriber starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cursor {
    /// At the oldest event that the log keeps.
    #[default]
    Beginning,
    /// At the first event after this one, as a `Last-Event-ID` asks.
    After(EventId),
    /// At the first event that is appended from now on.
    Latest,
    /// At the first event that was stored at this time or later, by the store's clock, in whole
    /// milliseconds.
    Since(SystemTime),
}

/// Reports a position that cannot be honoured: it is beyond the log's head, or older than what the
/// log keeps.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The requested position. `None` is the start of a log that was empty when the subscriber
    /// came; events were removed before the subscriber read them.
    #[cfg_attr(feature = "typescript", ts(as = "Option<f64>"))]
    pub requested: Option<EventId>,
    /// The oldest event kept. `None` if there is none.
    #[cfg_attr(feature = "typescript", ts(as = "Option<f64>"))]
    pub oldest: Option<EventId>,
    /// The greatest id ever assigned. `None` if none was.
    #[cfg_attr(feature = "typescript", ts(as = "Option<f64>"))]
    pub head: Option<EventId>,
}

/// An event that can be dispatched: a type name, and data that [`serde`] can encode as JSON.
///
/// ```
/// use std::borrow::Cow;
/// use serde::Serialize;
/// use ssetarget::Event;
///
/// #[derive(Serialize)]
/// struct Uploaded { file: String }
///
/// impl Event for Uploaded {
///     fn event_type(&self) -> Cow<'_, str> { "uploaded".into() }
/// }
/// ```
pub trait Event: Serialize {
    /// Returns the `event:` field that listeners subscribe to, without CR, LF or NUL.
    fn event_type(&self) -> Cow<'_, str>;

    /// Returns the key that identifies the fact. A log keeps one event for each key and ignores
    /// further ones, at least for as long as it keeps that one. Default: `None`; every dispatch is
    /// a new event.
    fn key(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// Returns whether no event is expected after this one. While such an event is the newest of
    /// its log, streams end after it and a reconnect is answered with `204`. Default: `false`.
    fn is_terminal(&self) -> bool {
        false
    }
}

/// An event to be stored. It is encoded once, here, so that every reader gets the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEvent {
    /// The `event:` field.
    #[serde(rename = "type")]
    event_type: String,
    /// The `data:` field.
    data: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    terminal: bool,
}

impl NewEvent {
    /// The most bytes that type, data and key may have together: 1 MiB (1,048,576).
    ///
    /// An event is stored in one row of a Durable Object, which may have 2 MB. The size on the wire
    /// does not count: there each line of the data after the first takes six bytes more.
    pub const MAX_SIZE: usize = 1 << 20;

    /// The most bytes that a type may have: 1,024.
    pub const MAX_TYPE: usize = 1024;

    /// Returns an event of this type with this data.
    ///
    /// # Errors
    /// [`InvalidEvent::Type`] if the type is empty, is longer than [`NewEvent::MAX_TYPE`], or has a
    /// CR, LF or NUL, which could forge lines of the stream. [`InvalidEvent::TooLarge`] above
    /// [`NewEvent::MAX_SIZE`].
    pub fn new(
        event_type: impl Into<String>,
        data: impl Into<String>,
    ) -> Result<Self, InvalidEvent> {
        let event = Self {
            event_type: event_type.into(),
            data: data.into(),
            key: None,
            terminal: false,
        };
        event.check()?;
        Ok(event)
    }

    /// Encodes `event` as JSON.
    ///
    /// # Errors
    /// As [`NewEvent::new`], and [`InvalidEvent::Data`] if the event cannot be encoded as JSON.
    pub fn encode(event: &(impl Event + ?Sized)) -> Result<Self, InvalidEvent> {
        let data = serde_json::to_string(event).map_err(InvalidEvent::Data)?;
        let encoded = Self {
            event_type: event.event_type().into_owned(),
            data,
            key: event.key().map(Cow::into_owned),
            terminal: event.is_terminal(),
        };
        encoded.check()?;
        Ok(encoded)
    }

    /// Sets the key: see [`Event::key`].
    ///
    /// # Errors
    /// [`InvalidEvent::TooLarge`] above [`NewEvent::MAX_SIZE`].
    pub fn with_key(mut self, key: impl Into<String>) -> Result<Self, InvalidEvent> {
        self.key = Some(key.into());
        self.check()?;
        Ok(self)
    }

    /// Makes the event terminal: see [`Event::is_terminal`].
    #[must_use]
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    /// Returns the type, the data, the key, and whether the event is terminal.
    pub(crate) fn into_parts(self) -> (String, String, Option<String>, bool) {
        (self.event_type, self.data, self.key, self.terminal)
    }

    /// Removes the key, for a store without keys.
    pub(crate) fn without_key(mut self) -> Self {
        self.key = None;
        self
    }

    /// Checks what the constructors promise, for an event that came from elsewhere.
    ///
    /// # Errors
    /// As [`NewEvent::new`].
    pub fn check(&self) -> Result<(), InvalidEvent> {
        EventRef::from(self).check()
    }

    /// The `event:` field.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// The `data:` field.
    #[must_use]
    pub fn data(&self) -> &str {
        &self.data
    }

    /// Returns the key: see [`Event::key`].
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Returns whether the event is terminal: see [`Event::is_terminal`].
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Returns the number of bytes of type, data and key together.
    #[must_use]
    pub fn size(&self) -> usize {
        EventRef::from(self).size()
    }
}

/// A [`NewEvent`] that borrows its parts, for example from a batch's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventRef<'a> {
    pub(crate) event_type: &'a str,
    pub(crate) data: &'a str,
    pub(crate) key: Option<KeyRef<'a>>,
    pub(crate) terminal: bool,
}

/// A key in two parts, so that a log can put a prefix before many keys without copying them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRef<'a> {
    pub(crate) prefix: &'a str,
    pub(crate) rest: &'a str,
}

impl<'a> EventRef<'a> {
    /// As [`NewEvent::check`].
    pub(crate) fn check(&self) -> Result<(), InvalidEvent> {
        let forges_lines = |byte| matches!(byte, b'\r' | b'\n' | b'\0');
        let length = self.event_type.len();
        if length == 0 || length > NewEvent::MAX_TYPE || self.event_type.bytes().any(forges_lines) {
            return Err(InvalidEvent::Type);
        }
        let size = self.size();
        if size > NewEvent::MAX_SIZE {
            return Err(InvalidEvent::TooLarge { size });
        }
        Ok(())
    }

    /// As [`NewEvent::size`].
    pub(crate) fn size(&self) -> usize {
        self.event_type.len() + self.data.len() + self.key.map_or(0, |key| key.len())
    }

    /// Puts a prefix before the key, if there is one.
    pub(crate) fn with_key_prefix(mut self, prefix: &'a str) -> Self {
        if let Some(key) = &mut self.key {
            key.prefix = prefix;
        }
        self
    }
}

impl<'a> From<&'a NewEvent> for EventRef<'a> {
    fn from(event: &'a NewEvent) -> Self {
        Self {
            event_type: &event.event_type,
            data: &event.data,
            key: event.key.as_deref().map(KeyRef::from),
            terminal: event.terminal,
        }
    }
}

impl KeyRef<'_> {
    fn len(&self) -> usize {
        self.prefix.len() + self.rest.len()
    }

    pub(crate) fn to_owned(self) -> String {
        let mut key = String::with_capacity(self.len());
        key.push_str(self.prefix);
        key.push_str(self.rest);
        key
    }
}

impl<'a> From<&'a str> for KeyRef<'a> {
    fn from(rest: &'a str) -> Self {
        Self { prefix: "", rest }
    }
}

/// The reason why an event cannot be stored.
#[derive(Debug)]
#[non_exhaustive]
pub enum InvalidEvent {
    /// The type is empty, has more than [`NewEvent::MAX_TYPE`] bytes, or has a CR, LF or NUL.
    Type,
    /// The event cannot be encoded as JSON.
    Data(serde_json::Error),
    /// Type, data and key have more than [`NewEvent::MAX_SIZE`] bytes together.
    TooLarge {
        /// The number of bytes.
        size: usize,
    },
}

impl fmt::Display for InvalidEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type => write!(
                f,
                "an event's type must have 1 to {} bytes and no CR, LF or NUL",
                NewEvent::MAX_TYPE
            ),
            Self::Data(_) => f.write_str("the event cannot be written as JSON"),
            Self::TooLarge { size } => write!(
                f,
                "the event has {size} bytes, more than the {} that one may have; \
                 store the payload elsewhere and dispatch a reference to it",
                NewEvent::MAX_SIZE
            ),
        }
    }
}

impl std::error::Error for InvalidEvent {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Data(error) => Some(error),
            Self::Type | Self::TooLarge { .. } => None,
        }
    }
}

/// An event as a log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its position in the log.
    pub id: EventId,
    /// The `event:` field.
    pub event_type: String,
    /// The `data:` field.
    pub data: String,
    /// When it was stored, by the store's clock, in milliseconds. Never before an event with a
    /// smaller id, even if the clock was set back.
    pub timestamp: SystemTime,
}

impl StoredEvent {
    /// Decodes the data from JSON.
    ///
    /// # Errors
    /// When the data is not JSON, or is not a `T`.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        assert_eq!("7".parse(), Ok(EventId::new(7).unwrap()));
        assert_eq!(
            "9007199254740991".parse::<EventId>().unwrap().get(),
            EventId::MAX
        );
        for bad in [
            "",
            "0",
            "07",
            "+7",
            "-7",
            " 7",
            "7 ",
            "7a",
            "0x7",
            "9007199254740992",
            "99999999999999999999",
            "７",
        ] {
            assert_eq!(bad.parse::<EventId>(), Err(InvalidEventId), "{bad:?}");
        }
    }

    #[test]
    fn a_type_cannot_forge_lines() {
        for bad in ["", "a\nb", "a\rb", "a\0b"] {
            assert!(
                matches!(NewEvent::new(bad, "{}"), Err(InvalidEvent::Type)),
                "{bad:?}"
            );
        }
        assert!(NewEvent::new("a: b", "{}").is_ok());
    }

    #[test]
    fn the_size_limit_counts_everything() {
        let data = "x".repeat(NewEvent::MAX_SIZE - 1);
        let event = NewEvent::new("t", data.clone()).unwrap();
        assert!(matches!(
            event.with_key("k"),
            Err(InvalidEvent::TooLarge { .. })
        ));
        let error = NewEvent::new("tt", data).unwrap_err();
        assert!(error.to_string().contains("1048577"), "{error}");
    }

    #[test]
    fn a_type_has_a_length_limit() {
        let longest = "t".repeat(NewEvent::MAX_TYPE);
        assert!(NewEvent::new(longest.clone(), "").is_ok());
        let error = NewEvent::new(longest + "t", "").unwrap_err();
        assert!(matches!(error, InvalidEvent::Type), "{error}");
    }
}
