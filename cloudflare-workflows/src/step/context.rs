//! What a step's code is told of itself, and what it tells others.

use std::fmt;
use std::rc::Rc;

use serde_json::Value;

use super::resolved::ResolvedConfig;

/// What an attempt of a step knows of itself.
#[derive(Clone)]
pub struct StepContext {
    /// The step's name.
    pub name: String,
    /// Which step of that name it is, from 1.
    pub count: u32,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// What it runs with: what the step's config says, and the platform's defaults.
    pub config: ResolvedConfig,
    reporter: Option<Rc<dyn Reporter>>,
}

impl StepContext {
    /// A context with the platform's default config, whose reports go nowhere.
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

    /// The same context with this config.
    #[must_use]
    pub fn with_config(mut self, config: ResolvedConfig) -> Self {
        self.config = config;
        self
    }

    /// The same context with somebody who listens.
    #[must_use]
    pub fn with_reporter(mut self, reporter: Rc<dyn Reporter>) -> Self {
        self.reporter = Some(reporter);
        self
    }

    /// Tells viewers how far this attempt is. Returns at once and never fails; does nothing if
    /// the step is not wrapped in a [`WorkflowEventStep`](super::WorkflowEventStep).
    ///
    /// If the process dies in mid-attempt, the attempt that follows is the same try: its first
    /// report is taken for the first of the attempt that died, and so on, and is not told twice.
    pub fn progress(&self, progress: impl Into<Progress>) {
        if let Some(reporter) = &self.reporter {
            reporter.progress(progress.into());
        }
    }

    /// Sets an attribute of the `completed` event, if this attempt succeeds.
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

/// Where a [`StepContext`]'s reports go.
pub trait Reporter {
    /// See [`StepContext::progress`].
    fn progress(&self, progress: Progress);
    /// See [`StepContext::set_attribute`].
    fn set_attribute(&self, key: String, value: Value);
}

/// What a step reports while it works. All parts are optional.
///
/// ```
/// use cloudflare_workflows::Progress;
/// let progress = Progress::percent(40.0).message("14 of 35 pages").attribute("page", 14);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// How much is done, from 0 to 100.
    pub percent: Option<f64>,
    /// What is being done.
    pub message: Option<String>,
    /// Anything else.
    pub attributes: serde_json::Map<String, Value>,
}

impl Progress {
    /// How much is done. What is not a number from 0 to 100 is brought into that range, and NaN
    /// is left out.
    #[must_use]
    pub fn percent(percent: f64) -> Self {
        Self {
            percent: (!percent.is_nan()).then(|| percent.clamp(0.0, 100.0)),
            ..Self::default()
        }
    }

    /// With a message. On its own: `Progress::default().message("…")`.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// With an attribute.
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
