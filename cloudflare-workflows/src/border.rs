//! The border between Rust and JavaScript: values cross it as JSON.
//!
//! `serde_json` writes and reads the JSON in Rust, `JSON.parse` and `JSON.stringify` in JavaScript. A value that
//! JavaScript would change is refused when it is written, and the error names the place and never the
//! value. Natively, the fake engine stores the written JSON, so a value that cannot cross fails a test as it
//! would fail a run.

use std::{fmt, io};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::error::Category;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use crate::step::error::{StepError, StepErrorKind};

/// The largest value that the platform stores, as bytes of JSON: a step's result, an instance's
/// params and output, an event's payload.
pub(crate) const MAX_WRITTEN: usize = 1024 * 1024;

/// The longest JSON that is read, in bytes. The platform does not store values as JSON, so a value of 1 MiB
/// may be several times longer as JSON.
pub(crate) const MAX_READ: usize = 16 * 1024 * 1024;

/// The greatest number of nested arrays and objects, which is also the limit of `serde_json`.
pub(crate) const MAX_DEPTH: usize = 127;

/// Writes a value as JavaScript would write it.
///
/// Maps are objects, whose keys are strings: integers, booleans and unit variants become strings. `None`,
/// `()`, infinity and NaN are `null`.
///
/// # Errors
/// [`CannotCross`] for an integer that no JavaScript number holds exactly, for keys that cannot become
/// strings, for more than [`MAX_DEPTH`] levels or [`MAX_WRITTEN`] bytes, and for a value that the type's
/// own `Serialize` refuses.
pub(crate) fn write<T: Serialize + ?Sized>(value: &T) -> Result<String, CannotCross> {
    let mut text = Text::default();
    match write_into(&mut text.0, value) {
        // The serializer writes UTF-8 only.
        Ok(()) => String::from_utf8(text.0).map_err(|_| CannotCross::new(REFUSED)),
        Err(cannot) => {
            // The value that failed is behind the last comma.
            text.0.push(b' ');
            Err(cannot.at(&place(&text.0)))
        }
    }
}

/// Checks that the platform can store what a run returns.
///
/// # Errors
/// The same error that the run would fail with.
pub fn check_output<T: Serialize + ?Sized>(value: &T) -> Result<(), StepError> {
    let written = write(value);
    written
        .map(drop)
        .map_err(|refused| refused.into_step_error(OUTPUT))
}

/// The beginning of the error for a step's result.
pub(crate) const RESULT: &str = "the step's result cannot be stored";
/// The beginning of the error for a run's output.
pub(crate) const OUTPUT: &str = "the run's output cannot be stored";

/// Returns a value as JavaScript would return it.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_value<T: Serialize + ?Sized>(value: &T) -> Result<Value, CannotCross> {
    read(&write(value)?)
}

/// Reads JSON that [`write`] or `JSON.stringify` wrote.
///
/// # Errors
/// [`CannotCross`] if it is not a `T`, has more than [`MAX_DEPTH`] levels or more than [`MAX_READ`]
/// bytes.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, CannotCross> {
    if text.len() > MAX_READ {
        return Err(CannotCross::too_long());
    }
    let error = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    match error.classify() {
        // With `serde_json/arbitrary_precision`, which some other crate may have switched on, types
        // that buffer (untagged, tagged, flattened) read numbers from a `Value` but not from text.
        Category::Data if NUMBERS_ARE_TEXT => {
            match serde_json::from_str::<Value>(text).map(T::deserialize) {
                Ok(Ok(value)) => Ok(value),
                _ => Err(unreadable(error, text)),
            }
        }
        // JavaScript's strings may have half a surrogate pair, of an emoji that was cut in two.
        Category::Syntax => match with_whole_characters(text) {
            Some(repaired) => serde_json::from_str(&repaired).map_err(|e| unreadable(e, &repaired)),
            None => Err(unreadable(error, text)),
        },
        Category::Data | Category::Eof | Category::Io => Err(unreadable(error, text)),
    }
}

/// Whether `serde_json/arbitrary_precision` is on, where a number is a text. Known when a Worker is compiled, so that it has
/// code that reads any JSON there is only where that is needed.
const NUMBERS_ARE_TEXT: bool = size_of::<serde_json::Number>() == size_of::<String>();

/// Reads a value that [`write_value`] returned.
///
/// # Errors
/// [`CannotCross`] if it is not a `T`.
pub(crate) fn read_value<T: DeserializeOwned>(value: &Value) -> Result<T, CannotCross> {
    // From JSON, as at the real border, so that errors name the place here, too.
    read(&value.to_string())
}

/// The error of a value that cannot cross: the reason and the place, and nothing of the value itself.
pub(crate) struct CannotCross {
    reason: String,
    place: String,
    source: Option<serde_json::Error>,
}

impl CannotCross {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            place: String::new(),
            source: None,
        }
    }

    #[cfg(feature = "worker")]
    pub(crate) fn too_deep() -> Self {
        Self::new(TOO_DEEP)
    }

    pub(crate) fn too_long() -> Self {
        Self::new("it is longer than 16 MiB as JSON")
    }

    fn at(mut self, place: &str) -> Self {
        place.clone_into(&mut self.place);
        self
    }

    /// Converts it to the error of a step or a run. It is not retried: the value would be the same, and the
    /// effects of the code would be repeated.
    pub(crate) fn into_step_error(self, what: &str) -> StepError {
        let message = format!("{what}: {self}");
        self.into_error(StepErrorKind::NonRetryable, message)
    }

    /// Converts it to the error of a stored result. The caller adds the name of the step.
    pub(crate) fn into_decode_error(self) -> StepError {
        let message = self.to_string();
        self.into_error(StepErrorKind::Invalid, message)
    }

    /// Converts it to the error of a wait whose event has a payload of another type. The error for a
    /// sensitive payload has no details.
    #[cfg(any(feature = "worker", feature = "testing"))]
    pub(crate) fn into_wait_error(self, name: &str, is_sensitive: bool) -> StepError {
        let other = format!("the event that {name:?} waited for has another payload");
        let message = match is_sensitive {
            true => other,
            false => format!("{other}: {self}"),
        };
        self.into_error(StepErrorKind::Invalid, message)
    }

    fn into_error(self, kind: StepErrorKind, message: String) -> StepError {
        let error = StepError::with_kind(kind, message);
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

impl fmt::Display for CannotCross {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        match self.place.is_empty() {
            true => Ok(()),
            false => write!(f, " (at {})", self.place),
        }
    }
}

impl fmt::Debug for CannotCross {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The JSON that is written, up to [`MAX_WRITTEN`].
#[derive(Default)]
struct Text(Vec<u8>);

const TOO_LARGE: &str = "it is larger than 1 MiB as JSON, the most that the platform stores: keep it elsewhere \
                         (R2, KV) and return where it is, or return a `ByteStream` from the step";
const TOO_DEEP: &str = "it has more than 127 arrays and objects inside one another";
const NOT_EXACT: &str =
    "an integer beyond 2^53, which no JavaScript number holds exactly: write it as text";
const REFUSED: &str = "its type refuses to be written";

fn write_into<T: Serialize + ?Sized>(text: &mut Vec<u8>, value: &T) -> Result<(), CannotCross> {
    let formatter = Border::default();
    let mut serializer = Serializer::with_formatter(Bounded(text), formatter);
    value.serialize(&mut serializer).map_err(|error| {
        let reason = match error.io_error_kind() {
            Some(TOO_LARGE_KIND) => TOO_LARGE.to_owned(),
            Some(TOO_DEEP_KIND) => TOO_DEEP.to_owned(),
            Some(_) => NOT_EXACT.to_owned(),
            // From `serde_json`, or from the type itself, whose message may have parts of the value.
            None => match error.to_string().as_str() {
                "key must be a string" => {
                    "a map's key is neither text nor a number, a boolean or a unit variant"
                        .to_owned()
                }
                "float key must be finite (got +/-inf or NaN)" => {
                    "a map's key is not a finite number".to_owned()
                }
                _ => REFUSED.to_owned(),
            },
        };
        CannotCross {
            reason,
            place: String::new(),
            source: Some(error),
        }
    })
}

// `serde_json` passes on the kind of a formatter's or writer's error, and nothing else.
const TOO_LARGE_KIND: io::ErrorKind = io::ErrorKind::FileTooLarge;
const TOO_DEEP_KIND: io::ErrorKind = io::ErrorKind::QuotaExceeded;
const NOT_EXACT_KIND: io::ErrorKind = io::ErrorKind::InvalidData;

/// A writer that refuses to grow beyond [`MAX_WRITTEN`].
struct Bounded<'a>(&'a mut Vec<u8>);

impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_WRITTEN {
            return Err(TOO_LARGE_KIND.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes numbers as JavaScript does, and counts levels.
#[derive(Default)]
struct Border {
    depth: usize,
    /// Set in an object's key, where a number is a string and stays unchanged.
    in_key: bool,
}

impl Border {
    fn enter(&mut self) -> io::Result<()> {
        self.depth += 1;
        match self.depth > MAX_DEPTH {
            true => Err(TOO_DEEP_KIND.into()),
            false => Ok(()),
        }
    }
}

/// The integer up to which JavaScript holds every integer exactly.
const EXACT: u64 = 1 << 53;
/// The number from which on JavaScript writes exponents, which Rust does not read as integers.
const EXPONENT: f64 = 1e21;

impl Formatter for Border {
    fn write_i64<W: io::Write + ?Sized>(&mut self, writer: &mut W, value: i64) -> io::Result<()> {
        match self.in_key || value.unsigned_abs() <= EXACT {
            true => CompactFormatter.write_i64(writer, value),
            false => exact(writer, &value.to_string()),
        }
    }

    fn write_u64<W: io::Write + ?Sized>(&mut self, writer: &mut W, value: u64) -> io::Result<()> {
        match self.in_key || value <= EXACT {
            true => CompactFormatter.write_u64(writer, value),
            false => exact(writer, &value.to_string()),
        }
    }

    fn write_i128<W: io::Write + ?Sized>(&mut self, writer: &mut W, value: i128) -> io::Result<()> {
        match self.in_key {
            true => CompactFormatter.write_i128(writer, value),
            false => exact(writer, &value.to_string()),
        }
    }

    fn write_u128<W: io::Write + ?Sized>(&mut self, writer: &mut W, value: u128) -> io::Result<()> {
        match self.in_key {
            true => CompactFormatter.write_u128(writer, value),
            false => exact(writer, &value.to_string()),
        }
    }

    fn write_f32<W: io::Write + ?Sized>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        // The shortest decimal of this `f32`. JavaScript reads it as an `f64`, which comes back as the same
        // `f32`.
        match value.to_string().parse() {
            Ok(value) => self.write_f64(writer, value),
            Err(_) => CompactFormatter.write_f32(writer, value),
        }
    }

    fn write_f64<W: io::Write + ?Sized>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        // `2` and not `2.0`, and no negative zero, as `JSON.stringify` writes it.
        if self.in_key || value.trunc() != value || value.abs() >= EXPONENT {
            CompactFormatter.write_f64(writer, value)
        } else if value == 0.0 {
            writer.write_all(b"0")
        } else {
            writer.write_all(value.to_string().as_bytes())
        }
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.in_key = true;
        CompactFormatter.begin_object_key(writer, first)
    }

    fn end_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.in_key = false;
        CompactFormatter.end_object_key(writer)
    }

    /// Writes a number of a `Value`, where `serde_json/arbitrary_precision` is on.
    fn write_number_str<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        value: &str,
    ) -> io::Result<()> {
        let is_integer = value.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        match value.parse::<f64>() {
            _ if is_integer => exact(writer, value),
            Ok(number) if number.is_finite() => self.write_f64(writer, number),
            _ => Err(NOT_EXACT_KIND.into()),
        }
    }

    fn begin_array<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.enter()?;
        CompactFormatter.begin_array(writer)
    }

    fn end_array<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        CompactFormatter.end_array(writer)
    }

    fn begin_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.enter()?;
        CompactFormatter.begin_object(writer)
    }

    fn end_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        CompactFormatter.end_object(writer)
    }
}

/// Writes an integer, if JavaScript prints the same digits after it has read them.
fn exact<W: io::Write + ?Sized>(writer: &mut W, digits: &str) -> io::Result<()> {
    let there = digits.parse::<f64>().unwrap_or(f64::INFINITY);
    if there.abs() < EXPONENT && there.to_string() == digits {
        return writer.write_all(digits.as_bytes());
    }
    Err(NOT_EXACT_KIND.into())
}

/// Explains an error of reading, with the place and without the value there.
fn unreadable(error: serde_json::Error, text: &str) -> CannotCross {
    let told = error.to_string();
    let reason = match error.classify() {
        Category::Data => expectation(&told),
        Category::Syntax if told.starts_with("recursion limit exceeded") => TOO_DEEP.to_owned(),
        _ => "it is not JSON that can be read here".to_owned(),
    };
    // The JSON of the border has one line.
    let read = text.as_bytes().get(..error.column()).unwrap_or_default();
    CannotCross {
        reason,
        place: place(read),
        source: Some(error),
    }
}

/// Returns serde's message without the value that was found, which may be secret.
fn expectation(told: &str) -> String {
    let told = told.rsplit_once(" at line ").map_or(told, |(told, _)| told);
    let types_own = [
        "missing field `",
        "duplicate field `",
        "data did not match any variant",
    ];
    if types_own.iter().any(|start| told.starts_with(start)) {
        return told.to_owned();
    }
    let found = ["invalid type: ", "invalid value: "];
    let found = found.iter().find_map(|start| told.strip_prefix(start));
    let others = ["invalid length ", "unknown variant `", "unknown field `"];
    let is_others = others.iter().any(|start| told.starts_with(start));
    match (found, told.rsplit_once(", expected ")) {
        (Some(found), Some((_, expected))) => {
            let kind = found.split(['`', '"', ',']).next().unwrap_or_default();
            format!("found {}, expected {expected}", kind.trim_end())
        }
        (None, Some((_, expected))) if is_others => format!("expected {expected}"),
        _ => "its type refuses the value".to_owned(),
    }
}

/// Returns the place in a value at which the beginning `begun` of its JSON ends, such as `.items[3].id`.
/// Returns an empty string for the value itself.
fn place(begun: &[u8]) -> String {
    enum Level {
        Array(usize),
        Object {
            key: Option<(usize, usize)>,
            reads_key: bool,
        },
    }
    let mut levels = Vec::new();
    let mut at = 0;
    // An error at a comma or at an end is about the value before it.
    while at < begun.len() {
        match begun[at] {
            b'[' => levels.push(Level::Array(0)),
            b'{' => levels.push(Level::Object {
                key: None,
                reads_key: true,
            }),
            b']' | b'}' if at + 1 < begun.len() => {
                levels.pop();
            }
            b',' if at + 1 < begun.len() => match levels.last_mut() {
                Some(Level::Array(index)) => *index += 1,
                Some(Level::Object { reads_key, .. }) => *reads_key = true,
                None => {}
            },
            b'"' => {
                let start = at + 1;
                at = start;
                while at < begun.len() && begun[at] != b'"' {
                    at += 1 + usize::from(begun[at] == b'\\');
                }
                if let Some(Level::Object { key, reads_key }) = levels.last_mut()
                    && std::mem::take(reads_key)
                {
                    *key = Some((start, at.min(begun.len())));
                }
            }
            _ => {}
        }
        at += 1;
    }
    let mut place = String::new();
    for (number, level) in levels.iter().enumerate() {
        if number == MAX_PLACE_LEVELS {
            place.push('…');
            break;
        }
        match level {
            Level::Array(index) => place.push_str(&format!("[{index}]")),
            Level::Object {
                key: Some((start, end)),
                ..
            } => {
                let key = String::from_utf8_lossy(&begun[*start..*end]);
                place.push('.');
                place.extend(key.chars().take(MAX_PLACE_KEY));
                if key.chars().count() > MAX_PLACE_KEY {
                    place.push('…');
                }
            }
            Level::Object { key: None, .. } => {}
        }
    }
    place
}

const MAX_PLACE_LEVELS: usize = 8;
const MAX_PLACE_KEY: usize = 64;

/// Replaces each half of a surrogate pair by U+FFFD. Returns `None` if there is none.
fn with_whole_characters(text: &str) -> Option<String> {
    // `\ud83d`: six bytes of ASCII.
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut repaired = None::<String>;
    let (mut at, mut kept) = (0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        let (first, second) = (unit(at), unit(at + 6));
        at += match (first, second) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                let repaired = repaired.get_or_insert_default();
                repaired.push_str(&text[kept..at]);
                repaired.push_str("\\ufffd");
                kept = at + 6;
                6
            }
            (Some(_), _) => 6,
            // `\\` and its like.
            (None, _) => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    repaired.map(|repaired| repaired + &text[kept..])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only read")]
    struct Order {
        lines: Vec<Line>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only read")]
    struct Line {
        id: u32,
        color: Option<Color>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Color {
        Red,
        Blue,
    }

    fn refused<T: DeserializeOwned + fmt::Debug>(text: &str) -> String {
        read::<T>(text).unwrap_err().to_string()
    }

    #[test]
    fn errors_about_a_value_do_not_contain_it() {
        for (text, told) in [
            (
                r#"{"lines":[{"id":1},{"id":"secret"}]}"#,
                "found string, expected u32 (at .lines[1].id)",
            ),
            (
                r#"{"lines":[{"id":-12345}]}"#,
                "found integer, expected u32 (at .lines[0].id)",
            ),
            (
                r#"{"lines":[{"id":null}]}"#,
                "found null, expected u32 (at .lines[0].id)",
            ),
            (r#"{"lines":[{}]}"#, "missing field `id` (at .lines[0])"),
            (
                r#"{"lines":{"secret":1}}"#,
                "found map, expected a sequence (at .lines)",
            ),
            (
                r#"{"lines":[{"id":1,"color":"secret, expected"}]}"#,
                "expected `red` or `blue` (at .lines[0].color)",
            ),
            ("7", "found integer, expected struct Order"),
        ] {
            assert_eq!(refused::<Order>(text), told, "{text}");
        }
        // A type's own words may have anything in them.
        let said = refused::<BTreeMap<String, std::net::IpAddr>>(r#"{"a":"secret"}"#);
        assert_eq!(said, "its type refuses the value (at .a)");
    }

    #[test]
    fn places_are_bounded() {
        let text = format!(r#"{{"{}":[[[[[[[[[[true]]]]]]]]]]}}"#, "k".repeat(500));
        let said = refused::<BTreeMap<String, Deep>>(&text);
        assert!(said.len() < 200 && said.contains("kkk…[0][0]"), "{said}");
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only read")]
    struct Deep(Vec<Deep>);

    #[test]
    fn deeply_nested_values_are_refused() {
        let text = |levels| "[".repeat(levels) + &"]".repeat(levels);
        read::<Value>(&text(MAX_DEPTH)).unwrap();
        assert!(refused::<Value>(&text(MAX_DEPTH + 1)).starts_with(TOO_DEEP));
        assert!(refused::<Value>(&text(100_000)).starts_with(TOO_DEEP));
    }

    #[test]
    fn half_a_character_is_read_as_a_replacement() {
        for (text, is) in [
            (r#""a\\ud83d""#, r"a\ud83d"),
            (r#""a\ud83d""#, "a\u{fffd}"),
            (r#""\ude00\ud83d\ude00\ud83d""#, "\u{fffd}\u{1f600}\u{fffd}"),
            (r#""\ud83d\\ude00\n\ud83dé""#, "\u{fffd}\\ude00\n\u{fffd}é"),
        ] {
            assert_eq!(read::<String>(text).unwrap(), is, "{text}");
        }
        assert!(refused::<String>(r#""\ud83d"#).starts_with("it is not JSON"));
    }

    #[test]
    fn the_message_of_a_type_that_refuses_is_not_shown() {
        struct Refuses;
        impl Serialize for Refuses {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("secret"))
            }
        }
        let refused = write(&vec![("a", Refuses)]).unwrap_err().to_string();
        assert_eq!(refused, format!("{REFUSED} (at [0][1])"));
    }
}
