//! Sends a trace to a receiver: where, what its answers mean, and when to try again.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::Value;

use super::model::cut;
use super::read::{ReadError, Reader};
use super::trace::{InvalidVariable, Trace, list, value};
use super::{Unfinished, chunks::Chunk};
use crate::clock;
use crate::delivery::SseTarget;
use crate::store::EventStore;

/// A receiver of traces: OTLP over HTTP, as JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct Exporter {
    url: String,
    headers: Vec<(String, String)>,
    timeout: Duration,
    give_up_after: Duration,
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const TRACES_HEADERS: &str = "OTEL_EXPORTER_OTLP_TRACES_HEADERS";
const TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TIMEOUT";
const TRACES_TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT";
const DISABLED: &str = "OTEL_SDK_DISABLED";

const PATH: &str = "/v1/traces";

impl Exporter {
    /// Returns an exporter to the receiver with this base URL, such as `http://127.0.0.1:4318`. Requests go to
    /// `/v1/traces` below it.
    ///
    /// ```
    /// use ssetarget::otlp::Exporter;
    ///
    /// let exporter = Exporter::new("https://otlp.example.com")?.header("authorization", "Bearer abc")?;
    /// assert_eq!(exporter.url(), "https://otlp.example.com/v1/traces");
    /// # Ok::<(), ssetarget::otlp::InvalidVariable>(())
    /// ```
    ///
    /// # Errors
    /// When the string is not a URL with `http` or `https`.
    pub fn new(endpoint: &str) -> Result<Self, InvalidVariable> {
        let base = endpoint.trim_end_matches('/');
        Self::to(ENDPOINT, format!("{base}{PATH}")).map_err(|error| match base.contains('?') {
            true => InvalidVariable {
                name: ENDPOINT,
                wants: "a URL without a query",
            },
            false => error,
        })
    }

    /// Returns the exporter that OpenTelemetry's variables describe, or `None` if they name no endpoint, or if
    /// `OTEL_SDK_DISABLED` is `true`. `variable` returns the value of a variable. An empty value counts as none.
    ///
    /// | variable | |
    /// |---|---|
    /// | `OTEL_EXPORTER_OTLP_ENDPOINT` | the receiver's base URL; requests go to `/v1/traces` below it |
    /// | `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` | the whole URL; takes precedence over the other |
    /// | `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TRACES_HEADERS` | `name=value,name=value`, values percent-encoded |
    /// | `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_EXPORTER_OTLP_TRACES_TIMEOUT` | milliseconds for a request; 10,000 if it is not set |
    ///
    /// # Errors
    /// When a variable has another form.
    pub fn variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, InvalidVariable> {
        if value(DISABLED, &variable).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let mut exporter = match value(TRACES_ENDPOINT, &variable) {
            Some(url) => Self::to(TRACES_ENDPOINT, url)?,
            None => match value(ENDPOINT, &variable) {
                Some(endpoint) => Self::new(&endpoint)?,
                None => return Ok(None),
            },
        };
        for name in [HEADERS, TRACES_HEADERS] {
            for (header, value) in list(name, &variable)? {
                exporter = exporter.set_header(name, header, value)?;
            }
        }
        for name in [TIMEOUT, TRACES_TIMEOUT] {
            if let Some(milliseconds) = value(name, &variable) {
                let milliseconds = milliseconds.parse().ok().filter(|number| *number > 0);
                exporter.timeout = Duration::from_millis(milliseconds.ok_or(InvalidVariable {
                    name,
                    wants: "a whole number of milliseconds, not 0",
                })?);
            }
        }
        Ok(Some(exporter))
    }

    /// Adds a header to each request, or replaces it. `content-type` cannot be set. Default: none.
    ///
    /// # Errors
    /// When a header cannot have this name or this value.
    pub fn header(
        self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, InvalidVariable> {
        self.set_header(HEADERS, name.into(), value.into())
    }

    /// Sets how long a request may take. Default: 10 seconds.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how long [`export`] waits in all between its tries, until it gives up. Default: an hour.
    #[must_use]
    pub fn give_up_after(mut self, time: Duration) -> Self {
        self.give_up_after = time;
        self
    }

    /// Returns the URL that requests go to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the request that exports this part of a trace.
    #[must_use]
    pub fn post(&self, chunk: Chunk) -> Post {
        let mut headers = self.headers.clone();
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
        Post {
            url: self.url.clone(),
            headers,
            body: chunk.into_request().into(),
            timeout: self.timeout,
        }
    }

    fn to(name: &'static str, url: String) -> Result<Self, InvalidVariable> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let is_http = ["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known));
        let is_plain = rest
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let has_host = !rest.starts_with(['/', '?', ':']) && !rest.is_empty();
        // The base URL is followed by a path.
        let has_query = name == ENDPOINT && rest.contains('?');
        if !is_http || !is_plain || !has_host || has_query {
            return Err(InvalidVariable {
                name,
                wants: "a URL with http:// or https://",
            });
        }
        Ok(Self {
            url,
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            give_up_after: Duration::from_secs(60 * 60),
        })
    }

    fn set_header(
        mut self,
        variable: &'static str,
        name: String,
        value: String,
    ) -> Result<Self, InvalidVariable> {
        let name = name.to_ascii_lowercase();
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let in_value = |byte: u8| byte == b' ' || byte == b'\t' || byte.is_ascii_graphic();
        let is_fine = !name.is_empty() && name.bytes().all(in_name) && value.bytes().all(in_value);
        if !is_fine || name == "content-type" {
            return Err(InvalidVariable {
                name: variable,
                wants: "names and values that a header can have, without content-type",
            });
        }
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value));
        Ok(self)
    }
}

/// Shows the names of headers, not their values, which may be secrets.
impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Exporter")
            .field("url", &self.url)
            .field("headers", &names)
            .field("timeout", &self.timeout)
            .field("give_up_after", &self.give_up_after)
            .finish()
    }
}

/// A request to make: `POST`, without following redirects.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Post {
    /// The URL.
    pub url: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body: JSON.
    pub body: Bytes,
    /// The time limit, for the request and its answer together.
    pub timeout: Duration,
}

/// Shows everything but the secrets.
impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post")
            .field("url", &self.url)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A receiver's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header `Retry-After`, if there is one.
    pub retry_after: Option<String>,
    /// The body, or its beginning: 4 KiB are enough.
    pub body: Bytes,
}

/// The meaning of an answer for the request that it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was taken, except for these spans, which are not to be sent again.
    Accepted { rejected: u64, message: String },
    /// It may be taken later, after this time.
    Retry(Option<Duration>),
    /// It was not taken, and will not be.
    Refused(u16),
}

impl Verdict {
    /// Returns the meaning of an answer that came at this time, by the specification of OTLP.
    pub(crate) fn of(answer: &Answer, now: SystemTime) -> Self {
        match answer.status {
            200..=299 => Self::accepted(&answer.body),
            429 | 502 | 503 | 504 => {
                let retry_after = answer.retry_after.as_deref();
                Self::Retry(retry_after.and_then(|value| after(value.trim(), now)))
            }
            status => Self::Refused(status),
        }
    }

    fn accepted(body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let partial = &body["partialSuccess"];
        let rejected = &partial["rejectedSpans"];
        // 64-bit numbers are strings in OTLP's JSON.
        let as_text = || rejected.as_str()?.parse().ok();
        Self::Accepted {
            rejected: rejected.as_u64().or_else(as_text).unwrap_or_default(),
            message: words(partial["errorMessage"].as_str().unwrap_or_default()),
        }
    }
}

/// Returns the receiver's message, shortened to one line.
fn words(text: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    cut(text, 512).chars().map(visible).collect()
}

/// Returns the duration that a `Retry-After` asks for: seconds or a date.
fn after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Returns the pause after this number of failed tries, from 1: 5 seconds, doubled each time, up to 15 minutes, and
/// shortened at random by up to half, so that runs that ended together do not come together again.
pub(crate) fn backoff(tries: u32, random: f64) -> Duration {
    const FIRST: Duration = Duration::from_secs(5);
    const LONGEST: Duration = Duration::from_secs(15 * 60);
    let doubled = 2_u32.saturating_pow(tries.saturating_sub(1));
    let share = if random > 0.0 { random.min(1.0) } else { 0.0 };
    FIRST
        .saturating_mul(doubled)
        .min(LONGEST)
        .mul_f64(0.5 + share / 2.0)
}

/// The result of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// The number of requests that were accepted.
    pub requests: usize,
    /// The number of spans that the receiver says it did not take.
    pub rejected: u64,
    /// The receiver's latest message about accepted requests; empty if there was none.
    pub message: String,
}

/// Sends the trace of a log at this moment to a receiver. `post` makes a request and returns the answer, or an error
/// if there is none. `sleep` is the runtime's timer, such as `tokio::time::sleep`.
///
/// A request without an answer, and one that is answered with 429, 502, 503 or 504, is repeated with the same bytes:
/// after 5 seconds, then 10, doubled up to 15 minutes, or later if `Retry-After` says so. An accepted request is not
/// sent again, even if the receiver did not take all of its spans (`partialSuccess`).
///
/// Call it when the log has ended, for example after [`Tracer::with_root`](crate::tracer::Tracer::with_root).
/// Tasks that have not ended are left out.
///
/// ```
/// use ssetarget::otlp::{Answer, Exporter, Post, Trace, export};
/// use ssetarget::tracer::Tracer;
/// use ssetarget::{MemoryEventStore, NewEvent, SseTarget};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let target: SseTarget<NewEvent, _> = SseTarget::new(MemoryEventStore::new());
/// let (tracer, sending) = Tracer::new(&target, tokio::time::sleep);
/// tokio::spawn(sending);
/// let job = tracer.with_root("import", async |import| {
///     import.with_span("download", async |_| Ok::<_, std::io::Error>(())).await
/// });
/// job.await?;
///
/// // With an HTTP client of your own.
/// let post = async |post: Post| {
///     assert!(post.body.starts_with(br#"{"resourceSpans":["#));
///     Ok::<_, std::io::Error>(Answer { status: 200, ..Answer::default() })
/// };
/// let exporter = Exporter::new("http://127.0.0.1:4318")?;
/// let exported = export(&target, &Trace::new("import-7"), &exporter, post, tokio::time::sleep).await?;
/// assert_eq!((exported.requests, exported.rejected), (1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// When the receiver refuses a request, when waiting for it takes longer than
/// [`give_up_after`](Exporter::give_up_after), and when the log cannot be read. The parts before that may have
/// been accepted.
pub async fn export<E, S, F, T, X>(
    target: &SseTarget<E, S>,
    trace: &Trace,
    exporter: &Exporter,
    post: impl Fn(Post) -> F,
    sleep: impl Fn(Duration) -> T,
) -> Result<Exported, ExportError<S::Error>>
where
    S: EventStore,
    F: Future<Output = Result<Answer, X>>,
    T: Future<Output = ()>,
{
    let mut reader = Reader::new(target, trace, Unfinished::LeaveOut);
    let mut exported = Exported::default();
    let mut waited = Duration::ZERO;
    while let Some(chunk) = reader.next().await.map_err(ExportError::Read)? {
        let request = exporter.post(chunk);
        let mut tries = 0;
        loop {
            let answer = post(request.clone()).await.ok();
            let verdict = answer.as_ref().map_or(Verdict::Retry(None), |answer| {
                Verdict::of(answer, clock::now())
            });
            let least = match verdict {
                Verdict::Accepted { rejected, message } => {
                    exported.requests += 1;
                    exported.rejected = exported.rejected.saturating_add(rejected);
                    if !message.is_empty() {
                        exported.message = message;
                    }
                    break;
                }
                Verdict::Refused(status) => return Err(ExportError::Refused(status)),
                Verdict::Retry(least) => least.unwrap_or_default(),
            };
            tries += 1;
            let wait = backoff(tries, random()).max(least);
            waited = waited.saturating_add(wait);
            if waited > exporter.give_up_after {
                return Err(ExportError::GaveUp(answer.map(|answer| answer.status)));
            }
            sleep(wait).await;
        }
    }
    Ok(exported)
}

/// Returns a random number from 0 to 1.
fn random() -> f64 {
    #[allow(clippy::cast_possible_truncation, reason = "half of it is enough")]
    let half = RandomState::new().build_hasher().finish() as u32;
    f64::from(half) / f64::from(u32::MAX)
}

/// The reason why a trace was not exported, or not all of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum ExportError<E> {
    /// The log cannot be read.
    Read(ReadError<E>),
    /// The receiver refused a request with this status, and would refuse it again.
    Refused(u16),
    /// The receiver was tried for too long. The value is the status of its latest answer, if it answered.
    GaveUp(Option<u16>),
}

impl<E> fmt::Display for ExportError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(_) => f.write_str("the log to export cannot be read"),
            Self::Refused(status) => write!(f, "the receiver of traces refused with {status}"),
            Self::GaveUp(Some(status)) => {
                write!(f, "the receiver of traces answered {status} for too long")
            }
            Self::GaveUp(None) => f.write_str("the receiver of traces did not answer for too long"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for ExportError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            Self::Refused(_) | Self::GaveUp(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry_after: Option<&str>, body: &str) -> Verdict {
        let answer = Answer {
            status,
            retry_after: retry_after.map(str::to_owned),
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        // Sun, 06 Nov 1994 08:49:37 GMT.
        Verdict::of(
            &answer,
            SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777),
        )
    }

    #[test]
    fn answers_of_receivers() {
        let accepted = |rejected, message: &str| Verdict::Accepted {
            rejected,
            message: message.to_owned(),
        };
        assert_eq!(answer(200, None, "{}"), accepted(0, ""));
        assert_eq!(answer(202, None, "no JSON"), accepted(0, ""));
        assert_eq!(
            answer(200, None, r#"{"partialSuccess":null}"#),
            accepted(0, "")
        );
        let partial = r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too\nold"}}"#;
        // Also with `Retry-After`: accepted spans are not sent again.
        assert_eq!(answer(200, Some("7"), partial), accepted(3, "too old"));
        let partial = r#"{"partialSuccess":{"rejectedSpans":3}}"#;
        assert_eq!(answer(200, None, partial), accepted(3, ""));

        let retry = |seconds| Verdict::Retry(Some(Duration::from_secs(seconds)));
        for status in [429, 502, 503, 504] {
            assert_eq!(answer(status, None, ""), Verdict::Retry(None));
            assert_eq!(answer(status, Some(" 120 "), partial), retry(120));
        }
        assert_eq!(
            answer(429, Some("Sun, 06 Nov 1994 08:50:37 GMT"), ""),
            retry(60)
        );
        assert_eq!(
            answer(429, Some("Sun, 06 Nov 1994 08:48:37 GMT"), ""),
            retry(0)
        );
        assert_eq!(answer(429, Some("soon"), ""), Verdict::Retry(None));
        assert_eq!(answer(429, Some("-1"), ""), Verdict::Retry(None));
        for status in [301, 307, 400, 401, 403, 404, 408, 413, 500, 501] {
            assert_eq!(answer(status, Some("1"), ""), Verdict::Refused(status));
        }
    }

    #[test]
    fn waits_grow_and_end() {
        let seconds = |tries, random| backoff(tries, random).as_secs_f64();
        assert_eq!(
            [1, 2, 3, 4].map(|tries| seconds(tries, 1.0)),
            [5.0, 10.0, 20.0, 40.0]
        );
        assert_eq!(seconds(1, 0.0), 2.5);
        assert_eq!(seconds(1, f64::NAN), 2.5);
        assert_eq!(seconds(8, 1.0), 640.0);
        assert_eq!(seconds(9, 1.0), 900.0);
        assert_eq!(seconds(u32::MAX, 1.0), 900.0);
    }

    fn variables(set: &[(&str, &str)]) -> Result<Option<Exporter>, String> {
        let find = |name: &str| set.iter().find(|(known, _)| *known == name);
        Exporter::variables(|name| find(name).map(|(_, value)| (*value).to_owned()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn variables_of_opentelemetry() {
        let url = |set: &[_]| variables(set).unwrap().map(|exporter| exporter.url);
        assert_eq!(url(&[]), None);
        assert_eq!(url(&[(ENDPOINT, "")]), None);
        assert_eq!(url(&[(ENDPOINT, "http://a:1"), (DISABLED, "TRUE")]), None);
        let sent_to = |to: &str| Some(to.to_owned());
        for base in ["http://a:1", "http://a:1/", "http://a:1//"] {
            assert_eq!(url(&[(ENDPOINT, base)]), sent_to("http://a:1/v1/traces"));
        }
        assert_eq!(
            url(&[(ENDPOINT, "HTTPS://a/b")]),
            sent_to("HTTPS://a/b/v1/traces")
        );
        let both = [(ENDPOINT, "http://a"), (TRACES_ENDPOINT, "http://b/x?y=1")];
        assert_eq!(url(&both), sent_to("http://b/x?y=1"));
        for bad in [
            "a:1",
            "ftp://a",
            "http://",
            "http://a b",
            "http:///x",
            "http://a#b",
            "http://a?b",
        ] {
            let error = variables(&[(ENDPOINT, bad)]).unwrap_err();
            assert!(error.starts_with(ENDPOINT), "{bad}: {error}");
        }

        let headers = "Authorization=Basic%20YTpi, x-scope = a%2Cb=c ,";
        let set = [(ENDPOINT, "http://a"), (HEADERS, headers), (TIMEOUT, "250")];
        let exporter = variables(&set).unwrap().unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [
            pair("authorization", "Basic YTpi"),
            pair("x-scope", "a,b=c"),
        ];
        assert_eq!(exporter.headers, expected);
        assert_eq!(exporter.timeout, Duration::from_millis(250));
        assert!(!format!("{exporter:?}").contains("YTpi"));
        let more = [(TRACES_HEADERS, "x-scope=d"), (TRACES_TIMEOUT, "500")];
        let exporter = variables(&[&set[..], &more[..]].concat()).unwrap().unwrap();
        assert_eq!(exporter.headers[1], pair("x-scope", "d"));
        assert_eq!(exporter.timeout, Duration::from_millis(500));
        for bad in [
            "secret",
            "=secret",
            "a=secret%0D%0Ab: c",
            "a b=secret",
            "content-type=secret",
            "a=%FFsecret",
        ] {
            let error = variables(&[(ENDPOINT, "http://a"), (HEADERS, bad)]).unwrap_err();
            assert!(
                error.starts_with(HEADERS) && !error.contains("secret"),
                "{bad}: {error}"
            );
        }
        for bad in ["0", "-1", "a", "1.5"] {
            assert!(variables(&[(ENDPOINT, "http://a"), (TIMEOUT, bad)]).is_err());
        }
    }
}
