//! The ids of traces and spans: the same in each export of a log.

use std::fmt;

use serde::{Serialize, Serializer};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The id of a trace: 16 bytes, not all 0. Shows as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId([u8; 16]);

/// The id of a span: 8 bytes, not all 0. Shows as 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId([u8; 8]);

impl TraceId {
    /// Returns the id for an instance, as Sentry's SDK for Workflows makes it, so that both have one trace: a UUID
    /// without its dashes, and for any other string the first 16 bytes of its SHA-1.
    ///
    /// ```
    /// use ssetarget::otlp::TraceId;
    ///
    /// let of_uuid = TraceId::of_instance("6F9619FF-8B86-D011-B42D-00CF4FC964FF");
    /// assert_eq!(of_uuid.to_string(), "6f9619ff8b86d011b42d00cf4fc964ff");
    /// assert_eq!(TraceId::of_instance("abc").to_string(), "a9993e364706816aba3e25717850c26c");
    /// ```
    #[must_use]
    pub fn of_instance(id: &str) -> Self {
        // The only UUID that is not a valid id of a trace.
        uuid(id)
            .filter(|id| *id != [0; 16])
            .map_or_else(|| Self::from_hash(&Sha1::digest(id.as_bytes())), Self)
    }

    /// Returns the id for an instance whose id others use as well: the first 16 bytes of the SHA-256 of salt and id.
    pub(super) fn with_salt(salt: &str, id: &str) -> Self {
        let hash = Sha256::new()
            .chain_update(length(salt))
            .chain_update(salt)
            .chain_update(id);
        Self::from_hash(&hash.finalize())
    }

    /// Returns the id for a further run of the instance whose first run has this id.
    pub(super) fn of_run(self, run: u32) -> Self {
        if run <= 1 {
            return self;
        }
        let hash = Sha256::new()
            .chain_update(self.0)
            .chain_update(format!("#{run}"));
        Self::from_hash(&hash.finalize())
    }

    fn from_hash(hash: &[u8]) -> Self {
        Self(begin(hash))
    }
}

impl SpanId {
    /// Returns the id of a task's span, or of one of its attempts: the first 8 bytes of the SHA-256 of the trace,
    /// the attempt (0 for the task), the workflow and the task.
    pub(super) fn of_task(trace: TraceId, workflow: &str, task: &str, attempt: u32) -> Self {
        let hash = Sha256::new()
            .chain_update(trace.0)
            .chain_update(attempt.to_be_bytes())
            .chain_update(length(workflow))
            .chain_update(workflow)
            .chain_update(task);
        Self(begin(&hash.finalize()))
    }

    /// Returns the id of a trace's root. No task has an empty name.
    pub(super) fn of_root(trace: TraceId, workflow: &str) -> Self {
        Self::of_task(trace, workflow, "", 0)
    }
}

/// Returns the 16 bytes of a UUID, with or without dashes at their places.
fn uuid(id: &str) -> Option<[u8; 16]> {
    const DASHES: [usize; 4] = [8, 12, 16, 20];
    let mut bytes = [0; 16];
    let mut digits = 0;
    let mut rest = id.bytes().peekable();
    while digits < 32 {
        if DASHES.contains(&digits) {
            rest.next_if_eq(&b'-');
        }
        let digit = char::from(rest.next()?).to_digit(16)?;
        let byte = bytes.get_mut(digits / 2)?;
        *byte = *byte << 4 | u8::try_from(digit).ok()?;
        digits += 1;
    }
    rest.next().is_none().then_some(bytes)
}

/// Returns the first bytes of a hash, never all 0.
fn begin<const N: usize>(hash: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    for (byte, of_hash) in bytes.iter_mut().zip(hash) {
        *byte = *of_hash;
    }
    if bytes == [0; N] {
        bytes = [1; N];
    }
    bytes
}

fn length(text: &str) -> [u8; 8] {
    (text.len() as u64).to_be_bytes()
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for SpanId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_traces_follow_sentrys_rule() {
        let of = |id| TraceId::of_instance(id).to_string();
        // With all dashes, some, or none, as the pattern in Sentry's SDK allows.
        for uuid in [
            "6f9619ff-8b86-d011-b42d-00cf4fc964ff",
            "6F9619FF8B86D011B42D00CF4FC964FF",
            "6f9619ff8b86-d011b42d-00cf4fc964ff",
        ] {
            assert_eq!(of(uuid), "6f9619ff8b86d011b42d00cf4fc964ff", "{uuid}");
        }
        // Not quite UUIDs: hashed.
        for other in [
            "6f9619ff-8b86-d011-b42d-00cf4fc964f",
            "6f9619ff-8b86-d011-b42d-00cf4fc964ff0",
            "6f9619ff-8b86-d011-b42d-00cf4fc964fg",
            "-6f9619ff8b86d011b42d00cf4fc964ff",
            "6f96-19ff8b86d011b42d00cf4fc964ff",
            "6f9619ff--8b86d011b42d00cf4fc964ff",
        ] {
            assert_ne!(&of(other)[..8], "6f9619ff", "{other}");
        }
        // The SHA-1 of the empty string, and of one with letters beyond ASCII.
        assert_eq!(of(""), "da39a3ee5e6b4b0d3255bfef95601890");
        assert_eq!(of("bestellung-ü"), "baf87a2e66b0e8a2679c6f1887fd5428");
        // No trace has an id of nothing but zeros.
        assert_ne!(of("00000000-0000-0000-0000-000000000000"), "0".repeat(32));
    }

    #[test]
    fn runs_and_spans_have_ids_of_their_own() {
        let trace = TraceId::of_instance("abc");
        assert_eq!(trace.of_run(1), trace);
        let second = trace.of_run(2);
        assert_ne!(second, trace);
        assert_ne!(second, trace.of_run(3));
        let mut ids = vec![SpanId::of_root(trace, "order")];
        for (trace, workflow, task, attempt) in [
            (trace, "order", "a-1", 0),
            (trace, "order", "a-1", 1),
            (trace, "order", "a-2", 0),
            (trace, "refund", "a-1", 0),
            (trace, "", "ordera-1", 0),
            (second, "order", "a-1", 0),
        ] {
            ids.push(SpanId::of_task(trace, workflow, task, attempt));
        }
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert_eq!(begin::<2>(&[0, 0, 7]), [1, 1]);
    }
}
