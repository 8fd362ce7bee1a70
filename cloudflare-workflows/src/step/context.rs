//! The argument of a step's code, and the reports that the code makes.

use std::fmt;
use std::rc::Rc;

use serde_json::Value;

use super::resolved::ResolvedConfig;

/// The argument of a step's callback: which step and attempt it is, and a way to report progress.
#[derive(Clone)]
pub struct StepContext {
    /// The step's name.
    pub name: String,
    /// The number of the step among the steps of its name, from 1.
    pub count: u32,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The step's config, with the platform's defaults filled in.
    pub config: ResolvedConfig,
    reporter: Option<Rc<dyn Reporter>>,
}

impl StepContext {
    /// Returns a context with the platform's default config. Its reports are dropped.
    #[must_use]
    pub fn new(name: impl Into<String>, count: u32, attempt: u32) -> Self {
        Self {
            name: name.into(),
            count,
            attempt,
            config: ResolvedConfig::default(),
            reporter: None,
        }
    }

    /// Sets the config.
    #[must_use]
    pub fn with_config(mut self, config: ResolvedConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets the receiver of the reports.
    #[must_use]
    pub fn with_reporter(mut self, reporter: Rc<dyn Reporter>) -> Self {
        self.reporter = Some(reporter);
        self
    }

    /// Reports to viewers how far this attempt is. Returns at once and never fails.
    ///
    /// The report goes to the context's [`Reporter`], which the fake engine of the module `testing` and
    /// the crate `ssetarget` set. Without one it is dropped.
    pub fn progress(&self, progress: impl Into<Progress>) {
        if let Some(reporter) = &self.reporter {
            reporter.progress(progress.into());
        }
    }

    /// Sets an attribute of the step, which viewers get if this attempt succeeds. Goes the same way as
    /// [`progress`](Self::progress).
    pub fn set_attribute(&self, key: impl Into<String>, value: impl Into<Value>) {
        if let Some(reporter) = &self.reporter {
            reporter.set_attribute(key.into(), value.into());
        }
    }
}

impl fmt::Debug for StepContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepContext")
            .field("name", &self.name)
            .field("count", &self.count)
            .field("attempt", &self.attempt)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Receives the reports of a [`StepContext`].
pub trait Reporter {
    /// Receives a call of [`StepContext::progress`].
    fn progress(&self, progress: Progress);
    /// Receives a call of [`StepContext::set_attribute`].
    fn set_attribute(&self, key: String, value: Value);
}

/// A report of a step that is at work. All parts are optional.
///
/// ```
/// use cloudflare_workflows::Progress;
/// let progress = Progress::percent(40.0).message("14 of 35 pages").attribute("page", 14);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// The part that is done, from 0 to 100.
    pub percent: Option<f64>,
    /// A text for viewers.
    pub message: Option<String>,
    /// Further values.
    pub attributes: serde_json::Map<String, Value>,
}

impl Progress {
    /// Returns a report that `percent` percent are done. A number outside of 0 to 100 is clamped, and
    /// NaN is left out.
    #[must_use]
    pub fn percent(percent: f64) -> Self {
        Self {
            percent: (!percent.is_nan()).then(|| percent.clamp(0.0, 100.0)),
            ..Self::default()
        }
    }

    /// Sets the message. A report with a message alone is made by `Progress::from("…")`.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.attributes.insert(key.into(), value.into());
        self
    }
}

impl From<&str> for Progress {
    fn from(message: &str) -> Self {
        Self::default().message(message)
    }
}

impl From<String> for Progress {
    fn from(message: String) -> Self {
        Self::default().message(message)
    }
}
