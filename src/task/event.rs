//! The events of a step, and the key of the fact that each of them is.

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Kind, Redact, RedactedField, Task, TaskId};
use crate::clock;
use crate::delivery::DecodeEvent;
use crate::event::{Event, StoredEvent};

/// The most bytes that an `error`, a `message` or a name keeps: 8 KiB (8,192). A longer one is cut
/// at the end of a character, and a note says how many bytes were cut.
pub const MAX_TEXT: usize = 8 * 1024;

/// The most bytes that `attributes` may have as JSON: 64 KiB (65,536). Larger ones are replaced
/// by `{"truncated":true,"bytes":N}`.
pub const MAX_ATTRIBUTES: usize = 64 * 1024;

/// The type of a task's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepEventType {
    /// The task began; once for each task.
    Started,
    /// An attempt failed; another follows, or it was the last.
    AttemptFailed,
    /// The task's code reported progress.
    Progress,
    /// The task ended well; once for each task.
    Completed,
    /// The task failed for good; once for each task.
    Failed,
}

impl StepEventType {
    /// Returns the `event:` field.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::AttemptFailed => "attempt_failed",
            Self::Progress => "progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [
            Self::Started,
            Self::AttemptFailed,
            Self::Progress,
            Self::Completed,
            Self::Failed,
        ]
        .into_iter()
        .find(|of| of.as_str() == name)
    }
}

/// An event of a task: the `data:` field as JSON, of the type in [`event_type`](Self::of).
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepEvent {
    #[serde(skip)]
    #[cfg_attr(feature = "typescript", ts(skip))]
    of: StepEventType,
    /// The rule for the texts that are set from now on.
    #[serde(skip)]
    redact: Option<Redact>,
    /// The id of the task, the same in every lifetime of the run.
    pub task_id: TaskId,
    /// The step's name.
    pub step: String,
    /// The kind of task.
    pub kind: Kind,
    /// Its number among the tasks of that kind and name, from 1.
    pub count: u32,
    /// When the event was observed, in UTC with milliseconds.
    #[serde(with = "iso")]
    #[cfg_attr(feature = "typescript", ts(type = "string"))]
    pub timestamp: SystemTime,
    /// The task that this one is part of; `None` for the workflow itself.
    pub parent_id: Option<TaskId>,
    /// The attempt of a `do` step, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub attempt: Option<u32>,
    /// The reported progress, from 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "number")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub percent: Option<f64>,
    /// The reported message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub message: Option<String>,
    /// The attributes that the step's code set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional, type = "Record<string, unknown>"))]
    pub attributes: Option<Map<String, Value>>,
    /// The error's message, never a stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub error: Option<String>,
    /// When a sleep ends, or a wait times out: of `started`. It is computed when the step is first
    /// observed, and is absent beyond the year 9999.
    #[serde(skip_serializing_if = "Option::is_none", with = "iso_option")]
    #[cfg_attr(feature = "typescript", ts(as = "Option<String>", optional))]
    pub until: Option<SystemTime>,
    /// The type of the event that a wait is for: of `started`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub event_type: Option<String>,
    /// When the next attempt begins, at the earliest: of `attempt_failed`. It is absent if no attempt
    /// follows, and if the time is not known, for example because a function chooses it.
    #[serde(skip_serializing_if = "Option::is_none", with = "iso_option")]
    #[cfg_attr(feature = "typescript", ts(as = "Option<String>", optional))]
    pub retry_at: Option<SystemTime>,
}

/// Reads its JSON, as what derives would make does, in a third of its code: one value that is filled, and not a
/// variable for each field, all of which each of the errors would have to drop.
impl<'de> Deserialize<'de> for StepEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read::<D, true>(deserializer)
    }
}

/// An event without its attributes, which are empty where it has some.
struct WithoutAttributes(StepEvent);

impl<'de> Deserialize<'de> for WithoutAttributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        StepEvent::read::<D, false>(deserializer).map(Self)
    }
}

impl StepEvent {
    fn read<'de, D: Deserializer<'de>, const ATTRIBUTES: bool>(
        deserializer: D,
    ) -> Result<Self, D::Error> {
        #[derive(Clone, Copy, Deserialize)]
        #[serde(field_identifier, rename_all = "camelCase")]
        enum Name {
            TaskId,
            Step,
            Kind,
            Count,
            Timestamp,
            ParentId,
            Attempt,
            Percent,
            Message,
            Attributes,
            Error,
            Until,
            EventType,
            RetryAt,
            #[serde(other)]
            Other,
        }

        #[derive(Deserialize)]
        struct Time(#[serde(with = "iso")] SystemTime);

        struct Fields<const ATTRIBUTES: bool>;

        impl<'de, const ATTRIBUTES: bool> Visitor<'de> for Fields<ATTRIBUTES> {
            type Value = StepEvent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("struct StepEvent")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<StepEvent, M::Error> {
                let mut event = StepEvent::empty();
                let mut seen = 0_u32;
                while let Some(name) = map.next_key()? {
                    seen |= 1 << name as u32;
                    match name {
                        Name::TaskId => event.task_id = map.next_value()?,
                        Name::Step => event.step = map.next_value()?,
                        Name::Kind => event.kind = map.next_value()?,
                        Name::Count => event.count = map.next_value()?,
                        Name::Timestamp => event.timestamp = map.next_value::<Time>()?.0,
                        Name::ParentId => event.parent_id = map.next_value()?,
                        Name::Attempt => event.attempt = map.next_value()?,
                        Name::Percent => event.percent = map.next_value()?,
                        Name::Message => event.message = map.next_value()?,
                        Name::Attributes if ATTRIBUTES => event.attributes = map.next_value()?,
                        Name::Attributes => {
                            map.next_value::<IgnoredAny>()?;
                            event.attributes = Some(Map::new());
                        }
                        Name::Error => event.error = map.next_value()?,
                        Name::Until => {
                            event.until = map.next_value::<Option<Time>>()?.map(|time| time.0);
                        }
                        Name::EventType => event.event_type = map.next_value()?,
                        Name::RetryAt => {
                            event.retry_at = map.next_value::<Option<Time>>()?.map(|time| time.0);
                        }
                        Name::Other => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                let needed = ["taskId", "step", "kind", "count", "timestamp"];
                match needed.get(seen.trailing_ones() as usize) {
                    Some(missing) => Err(M::Error::missing_field(missing)),
                    None => Ok(event),
                }
            }
        }

        deserializer.deserialize_map(Fields::<ATTRIBUTES>)
    }

    fn empty() -> Self {
        Self {
            of: StepEventType::Started,
            redact: None,
            task_id: TaskId(String::new()),
            step: String::new(),
            kind: Kind::Do,
            count: 0,
            timestamp: SystemTime::UNIX_EPOCH,
            parent_id: None,
            attempt: None,
            percent: None,
            message: None,
            attributes: None,
            error: None,
            until: None,
            event_type: None,
            retry_at: None,
        }
    }

    pub(crate) fn new(
        of: StepEventType,
        task: &Task,
        parent_id: Option<TaskId>,
        timestamp: SystemTime,
    ) -> Self {
        Self {
            of,
            task_id: task.id.clone(),
            step: task.step.clone(),
            kind: task.kind,
            count: task.count,
            timestamp,
            parent_id,
            ..Self::empty()
        }
    }

    /// Returns the type of the event.
    #[must_use]
    pub fn of(&self) -> StepEventType {
        self.of
    }

    pub(crate) fn attempt(mut self, attempt: Option<u32>) -> Self {
        self.attempt = attempt;
        self
    }

    /// Applies a rule to the texts that are set from now on, before they are cut.
    pub(crate) fn redact(mut self, rule: Option<Redact>) -> Self {
        self.redact = rule;
        self
    }

    pub(crate) fn error(mut self, error: &str) -> Self {
        self.error = Some(self.text(RedactedField::Error, error));
        self
    }

    fn text(&self, field: RedactedField<'_>, text: &str) -> String {
        match self.redact {
            Some(rule) => cut(&rule.apply(field, text)),
            None => cut(text),
        }
    }

    pub(crate) fn report(mut self, percent: Option<f64>, message: Option<String>) -> Self {
        self.percent = percent;
        self.message = message.map(|message| self.text(RedactedField::Message, &message));
        self
    }

    /// Sets when a step that waits ends at the latest. A time that an event cannot have is left out.
    pub(crate) fn until(mut self, until: Option<SystemTime>) -> Self {
        self.until = until.filter(|until| iso::can_write(*until));
        self
    }

    pub(crate) fn waits_for(mut self, event_type: &str) -> Self {
        self.event_type = Some(cut(event_type));
        self
    }

    /// Sets when the next attempt begins. A time that an event cannot have is left out.
    pub(crate) fn retry_at(mut self, time: Option<SystemTime>) -> Self {
        self.retry_at = time.filter(|time| iso::can_write(*time));
        self
    }

    pub(crate) fn attributes(mut self, mut attributes: Map<String, Value>) -> Self {
        if attributes.is_empty() {
            return self;
        }
        if let Some(rule) = self.redact {
            rule.apply_to(&mut attributes);
        }
        // A map of JSON values can always be encoded; if it could not, it would be left out.
        let size = serde_json::to_string(&attributes).map_or(usize::MAX, |json| json.len());
        if size > MAX_ATTRIBUTES {
            attributes.clear();
            attributes.insert("truncated".to_owned(), Value::from(true));
            attributes.insert("bytes".to_owned(), Value::from(size));
        }
        self.attributes = Some(attributes);
        self
    }

    /// Returns the key of a fact about a task, the same in every lifetime of the run.
    pub(crate) fn fact_key(task: &TaskId, of: StepEventType, attempt: u32) -> String {
        match of {
            StepEventType::AttemptFailed => attempt_failed_key(task.as_str(), attempt),
            _ => format!("{task}:{}", of.as_str()),
        }
    }
}

/// Returns the key of the fact that an attempt failed.
pub(crate) fn attempt_failed_key(task: &str, attempt: u32) -> String {
    format!("{task}:attempt_failed:{attempt}")
}

/// Returns the key of the `number`th report of a try of a step.
pub(crate) fn report_key(task: &str, try_number: u32, number: u32) -> String {
    format!("{task}:progress:{try_number}:{number}")
}

/// Splits the key of a report into the part before its number, and the number. Returns `None` for
/// another fact.
pub(crate) fn split_report_key(key: &str) -> Option<(&str, u32)> {
    let (base, number) = key.split_at(key.rfind(':')? + 1);
    is_report_base(base).then(|| Some((base, number.parse().ok()?)))?
}

/// Returns whether `base` is the part before the number in the keys of a try's reports.
pub(crate) fn is_report_base(base: &str) -> bool {
    let of_try = base
        .strip_suffix(':')
        .and_then(|base| base.rsplit_once(':'));
    of_try.is_some_and(|(task, number)| {
        task.ends_with(":progress") && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

impl Event for StepEvent {
    fn event_type(&self) -> Cow<'_, str> {
        self.of.as_str().into()
    }

    /// Returns `None` for a report, which is a fact only together with its number and the log: see
    /// [`Fact::Report`](crate::workflow::Fact::Report).
    fn key(&self) -> Option<Cow<'_, str>> {
        let attempt = self.attempt.unwrap_or_default();
        let key = || Self::fact_key(&self.task_id, self.of, attempt).into();
        (self.of != StepEventType::Progress).then(key)
    }

    fn is_terminal(&self) -> bool {
        let ended = matches!(self.of, StepEventType::Completed | StepEventType::Failed);
        self.kind == Kind::Workflow && ended
    }
}

/// Decodes events of steps. Other events of the log, such as `restarted`, are an error.
impl DecodeEvent for StepEvent {
    fn decode(event: &StoredEvent) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        #[derive(Deserialize)]
        struct Attributes {
            attributes: Option<Map<String, Value>>,
        }

        let mut decoded = Self::decode_without_attributes(event)?;
        if decoded.attributes.is_some() {
            decoded.attributes = event.json::<Attributes>()?.attributes;
        }
        Ok(decoded)
    }
}

impl StepEvent {
    /// Decodes an event as [`decode`](DecodeEvent::decode) does, but where it has attributes, they are empty. A Worker
    /// that needs no attributes then has no code that reads any JSON there is, 8 KB; and one that needs them reads the
    /// JSON of the few events that have some twice.
    pub(crate) fn decode_without_attributes(
        event: &StoredEvent,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let of = StepEventType::from_name(&event.event_type).ok_or("it is not about a step")?;
        let WithoutAttributes(mut decoded) = event.json()?;
        decoded.of = of;
        Ok(decoded)
    }
}

pub(crate) fn cut(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let mut end = MAX_TEXT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}… ({} bytes cut)", &text[..end], text.len() - end)
}

/// Serialises times as ISO 8601 in UTC with milliseconds.
pub(crate) mod iso {
    use super::*;

    /// Returns whether a time is in the years 1970 to 9999: no others can be written.
    pub(crate) fn can_write(time: SystemTime) -> bool {
        let last = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(253_402_300_799);
        (SystemTime::UNIX_EPOCH..=last).contains(&time)
    }

    pub(crate) fn serialize<S: Serializer>(
        time: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if !can_write(*time) {
            return Err(S::Error::custom(
                "a timestamp is outside the years 1970 to 9999",
            ));
        }
        serializer.serialize_str(&clock::iso(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

/// As [`iso`], for an `Option`.
pub(crate) mod iso_option {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => iso::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        #[derive(Deserialize)]
        struct Time(#[serde(with = "iso")] SystemTime);

        Ok(Option::<Time>::deserialize(deserializer)?.map(|Time(time)| time))
    }
}

/// Writes a whole number without a fraction, as JavaScript does.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be exact"
)]
fn number<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match *number {
        Some(whole) if whole.fract() == 0.0 && (0.0..1e9).contains(&whole) => {
            serializer.serialize_u32(whole as u32)
        }
        other => other.serialize(serializer),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Form, TaskCounter};
    use super::*;
    use crate::event::NewEvent;

    fn event(of: StepEventType) -> StepEvent {
        let task = TaskCounter::default().next(Form::Step(Kind::Do), "charge card");
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_444_674_907);
        StepEvent::new(of, &task, None, time)
    }

    #[test]
    fn data_is_the_wire_contract() {
        let encoded = NewEvent::encode(&event(StepEventType::Completed).attempt(Some(1))).unwrap();
        assert_eq!(encoded.event_type(), "completed");
        assert_eq!(encoded.key(), Some("charge card-1:completed"));
        assert_eq!(
            encoded.data(),
            r#"{"taskId":"charge card-1","step":"charge card","kind":"do","count":1,"timestamp":"2026-11-23T14:37:54.907Z","parentId":null,"attempt":1}"#
        );
    }

    #[test]
    fn data_is_read_as_it_is_written_and_as_later_versions_may_write_it() {
        let json = r#"{"new":[1,{}],"taskId":"a-1","step":"a","kind":"sleep","count":2,"timestamp":"2026-11-23T14:37:54.907Z","parentId":"b-1","attempt":3,"percent":5,"message":"m","attributes":{"x":1.5},"error":"e","until":"2026-11-23T14:37:55.907Z","eventType":"paid","retryAt":"2026-11-23T14:37:56.907Z"}"#;
        let read: StepEvent = serde_json::from_str(json).unwrap();
        let again = serde_json::to_string(&read).unwrap();
        assert_eq!(again, json.replace(r#""new":[1,{}],"#, ""));
        let nulls = r#"{"taskId":"a-1","step":"a","kind":"do","count":1,"timestamp":"2026-11-23T14:37:54.907Z","parentId":null,"attempt":null,"until":null}"#;
        let read: StepEvent = serde_json::from_str(nulls).unwrap();
        assert_eq!(
            (read.attempt, read.until, read.parent_id),
            (None, None, None)
        );
        for needed in ["taskId", "step", "kind", "count", "timestamp"] {
            let without = json.replace(&format!("{needed:?}:"), r#""other":"#);
            let error = serde_json::from_str::<StepEvent>(&without).unwrap_err();
            let expected = format!("missing field `{needed}`");
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn times_that_no_event_can_have_are_left_out() {
        let started = event(StepEventType::Started);
        let soon = started.timestamp + Duration::from_secs(1);
        let wait = started.clone().until(Some(soon)).waits_for("paid");
        let encoded = NewEvent::encode(&wait).unwrap();
        let end = r#""parentId":null,"until":"2026-11-23T14:37:55.907Z","eventType":"paid"}"#;
        assert!(encoded.data().ends_with(end), "{}", encoded.data());
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
        let never = started.clone().until(Some(late)).retry_at(Some(late));
        assert_eq!((never.until, never.retry_at), (None, None));
        assert_eq!(
            NewEvent::encode(&never).unwrap(),
            NewEvent::encode(&started).unwrap()
        );
        let failed = event(StepEventType::AttemptFailed).retry_at(Some(soon));
        let encoded = NewEvent::encode(&failed).unwrap();
        let end = r#""retryAt":"2026-11-23T14:37:55.907Z"}"#;
        assert!(encoded.data().ends_with(end), "{}", encoded.data());
    }

    #[test]
    fn facts_have_keys_of_their_own() {
        let failed = event(StepEventType::AttemptFailed)
            .attempt(Some(2))
            .error("no");
        assert_eq!(failed.key().unwrap(), "charge card-1:attempt_failed:2");
        let progress = event(StepEventType::Progress).report(Some(4.0), None);
        assert_eq!(progress.key(), None);
        assert_eq!(
            report_key("charge card-1", 1, 3),
            "charge card-1:progress:1:3"
        );
        assert_eq!(
            split_report_key("charge card-1:progress:1:3"),
            Some(("charge card-1:progress:1:", 3))
        );
        for other in [
            "a:progress:1-1:started",
            "a-1:attempt_failed:1",
            "a:progress:x",
            ":",
            "",
        ] {
            assert_eq!(split_report_key(other), None, "{other}");
        }
        let encoded = NewEvent::encode(&progress).unwrap();
        assert!(
            encoded.data().ends_with(r#""parentId":null,"percent":4}"#),
            "{}",
            encoded.data()
        );
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "é".repeat(MAX_TEXT);
        let error = event(StepEventType::Failed).error(&long).error.unwrap();
        assert!(
            error.ends_with("… (8192 bytes cut)"),
            "{}",
            &error[MAX_TEXT..]
        );
        let mut attributes = Map::new();
        attributes.insert("big".into(), "x".repeat(MAX_ATTRIBUTES).into());
        let attributes = event(StepEventType::Completed)
            .attributes(attributes)
            .attributes
            .unwrap();
        assert_eq!(
            Value::from(attributes),
            serde_json::json!({"truncated": true, "bytes": 65_546})
        );
    }
}
