//! An observer that counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use super::text::{Format, Kind, Text};
use super::{Cut, Observer};

/// Counts what it is notified of, and renders the counts as text for Prometheus and for readers of
/// OpenMetrics. Clones share the counts.
///
/// A count is one addition to a number in memory; nothing is allocated and nothing is locked. The
/// names of metrics and labels are fixed, so that their number does not grow:
///
/// | metric | what it counts |
/// |---|---|
/// | `ssetarget_viewers` | viewers whose stream is open now |
/// | `ssetarget_streams_opened_total` | streams to viewers that have begun |
/// | `ssetarget_events_appended_total` | events that were stored |
/// | `ssetarget_events_deduplicated_total` | events that were not stored because their key was there |
/// | `ssetarget_pages_read_total` | pages that were read from stores for subscribers |
/// | `ssetarget_resets_total` | subscribers that got a reset, because their position was gone |
/// | `ssetarget_refusals_total{status}` | requests that were refused |
/// | `ssetarget_cuts_total{cause}` | streams that were broken off before their end |
/// | `ssetarget_sent_bytes_total` | bytes of streams, with heartbeats |
///
/// With axum:
///
/// ```
/// # #[cfg(all(feature = "axum", not(target_family = "wasm")))] {
/// # use axum::{Router, http::HeaderMap, routing::get};
/// # use ssetarget::stats::Metrics;
/// let metrics = Metrics::new();
/// let app: Router = Router::new().route("/metrics", ssetarget::axum::metrics(metrics));
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    counters: Arc<Counters>,
    /// Labels of all metrics, each a name and a value.
    labels: Arc<[(&'static str, String)]>,
}

#[derive(Debug, Default)]
struct Counters {
    opened: AtomicU64,
    closed: AtomicU64,
    appended: AtomicU64,
    deduplicated: AtomicU64,
    pages: AtomicU64,
    resets: AtomicU64,
    sent: AtomicU64,
    refused: [AtomicU64; STATUSES.len() + 1],
    cut: [AtomicU64; Cut::ALL.len()],
}

/// The statuses that are counted one by one. All others are counted together.
const STATUSES: [u16; 10] = [400, 401, 403, 404, 405, 409, 413, 415, 429, 503];

/// The counts of [`Metrics`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Counts {
    /// Viewers whose stream is open now.
    pub viewers: u64,
    /// Streams to viewers that have begun.
    pub opened: u64,
    /// Events that were stored.
    pub appended: u64,
    /// Events that were not stored because their key was there.
    pub deduplicated: u64,
    /// Pages that were read from stores for subscribers.
    pub pages: u64,
    /// Subscribers that got a reset, because their position was gone.
    pub resets: u64,
    /// Requests that were refused, with any status.
    pub refused: u64,
    /// Streams that were broken off before their end, for any cause.
    pub cut: u64,
    /// Bytes of streams, with heartbeats.
    pub sent: u64,
}

impl Metrics {
    /// Returns counters that are all 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a label to all metrics, which tells servers, or parts of one, apart. The name has
    /// letters, digits and `_`, does not begin with a digit, and is not `status` or `cause`; any
    /// other character becomes `_`. The value may be any string. Default: none.
    ///
    /// ```
    /// # use ssetarget::stats::Metrics;
    /// let text = Metrics::new().label("part", "a \"b\"").to_prometheus();
    /// assert!(text.contains(r#"ssetarget_viewers{part="a \"b\""} 0"#));
    /// ```
    #[must_use]
    pub fn label(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let labels = self.labels.iter().cloned();
        self.labels = labels.chain([(name, value.into())]).collect();
        self
    }

    /// Returns the counts at this moment. They are read one after another.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let sum = |counters: &[AtomicU64]| counters.iter().map(of).sum();
        let all = &*self.counters;
        // In this order, so that no stream is counted as closed that is not counted as opened.
        let closed = of(&all.closed);
        let opened = of(&all.opened);
        Counts {
            viewers: opened.saturating_sub(closed),
            opened,
            appended: of(&all.appended),
            deduplicated: of(&all.deduplicated),
            pages: of(&all.pages),
            resets: of(&all.resets),
            refused: sum(&all.refused),
            cut: sum(&all.cut),
            sent: of(&all.sent),
        }
    }

    /// Returns the counts in Prometheus's text format, version 0.0.4. Its content type is
    /// [`PROMETHEUS`](Self::PROMETHEUS).
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        self.render(Format::Prometheus)
    }

    /// Returns the counts in the text format of OpenMetrics, version 1.0. Its content type is
    /// [`OPEN_METRICS`](Self::OPEN_METRICS).
    #[must_use]
    pub fn to_open_metrics(&self) -> String {
        self.render(Format::OpenMetrics)
    }

    /// Returns the content type and the text that a request with this `Accept` asks for: OpenMetrics
    /// if it names `application/openmetrics-text`, else Prometheus's own format, which everybody reads.
    ///
    /// ```
    /// # use ssetarget::stats::Metrics;
    /// let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    /// let (content_type, text) = Metrics::new().answer(Some(accept));
    /// assert_eq!(content_type, Metrics::OPEN_METRICS);
    /// assert!(text.ends_with("# EOF\n"));
    /// ```
    #[must_use]
    pub fn answer(&self, accept: Option<&str>) -> (&'static str, String) {
        let is_open = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
            name.eq_ignore_ascii_case("application/openmetrics-text") && !refused
        };
        match accept.is_some_and(|accept| accept.split(',').any(is_open)) {
            true => (Self::OPEN_METRICS, self.to_open_metrics()),
            false => (Self::PROMETHEUS, self.to_prometheus()),
        }
    }

    /// The content type of [`to_prometheus`](Self::to_prometheus).
    pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// The content type of [`to_open_metrics`](Self::to_open_metrics).
    pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    fn render(&self, format: Format) -> String {
        let counts = self.counts();
        let mut text = Text::new(format, &self.labels);
        let mut single = |name, kind, help, value| {
            text.family(name, kind, help);
            text.sample(None, value);
        };
        let counter = Kind::Counter;
        single(
            "ssetarget_viewers",
            Kind::Gauge,
            "Viewers whose stream is open now.",
            counts.viewers,
        );
        for (name, help, value) in [
            (
                "ssetarget_streams_opened",
                "Streams to viewers that have begun.",
                counts.opened,
            ),
            (
                "ssetarget_events_appended",
                "Events that were stored.",
                counts.appended,
            ),
            (
                "ssetarget_events_deduplicated",
                "Events that were not stored since their key was there.",
                counts.deduplicated,
            ),
            (
                "ssetarget_pages_read",
                "Pages that were read from stores for subscribers.",
                counts.pages,
            ),
            (
                "ssetarget_resets",
                "Subscribers that got a reset, because their position was gone.",
                counts.resets,
            ),
            (
                "ssetarget_sent_bytes",
                "Bytes of streams, with heartbeats.",
                counts.sent,
            ),
        ] {
            single(name, counter, help, value);
        }
        text.family(
            "ssetarget_refusals",
            counter,
            "Requests that were refused, by status.",
        );
        for (index, count) in self.counters.refused.iter().enumerate() {
            let status = STATUSES.get(index).map(u16::to_string);
            let status = status.as_deref().unwrap_or("other");
            text.sample(Some(("status", status)), count.load(Relaxed));
        }
        text.family(
            "ssetarget_cuts",
            counter,
            "Streams that were broken off before their end, by cause.",
        );
        for (cause, count) in Cut::ALL.iter().zip(&self.counters.cut) {
            text.sample(Some(("cause", cause.as_str())), count.load(Relaxed));
        }
        text.end()
    }
}

impl Observer for Metrics {
    fn appended(&self, stored: u64, duplicates: u64) {
        self.counters.appended.fetch_add(stored, Relaxed);
        self.counters.deduplicated.fetch_add(duplicates, Relaxed);
    }

    fn page_read(&self) {
        self.counters.pages.fetch_add(1, Relaxed);
    }

    fn reset(&self) {
        self.counters.resets.fetch_add(1, Relaxed);
    }

    fn opened(&self) {
        self.counters.opened.fetch_add(1, Relaxed);
    }

    fn closed(&self) {
        self.counters.closed.fetch_add(1, Relaxed);
    }

    fn refused(&self, status: u16) {
        let index = STATUSES.iter().position(|known| *known == status);
        self.counters.refused[index.unwrap_or(STATUSES.len())].fetch_add(1, Relaxed);
    }

    fn cut(&self, cause: Cut) {
        let index = Cut::ALL.iter().position(|known| *known == cause);
        if let Some(counter) = index.and_then(|index| self.counters.cut.get(index)) {
            counter.fetch_add(1, Relaxed);
        }
    }

    fn sent(&self, bytes: u64) {
        self.counters.sent.fetch_add(bytes, Relaxed);
    }
}
