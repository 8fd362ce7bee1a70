//! The names from which a trace's ids are made.

use std::fmt;

use serde_json::{Map, Value};

use super::ids::TraceId;

/// Names the trace of a log: its ids are made from the log's name, and its spans belong to a service.
///
/// ```
/// use ssetarget::otlp::Trace;
///
/// let trace = Trace::new("order-1").workflow("order");
/// assert_eq!(trace.trace_id(1).to_string(), "ea37b42b1c3b60951f13dc801405f2f5");
/// ```
#[derive(Clone, Debug)]
pub struct Trace {
    pub(super) id: String,
    pub(super) workflow: String,
    service: Option<String>,
    salt: Option<String>,
    pub(super) resource: Map<String, Value>,
}

impl Trace {
    /// Returns the trace of the instance with this id, or of any log with this name. Its ids are made from the
    /// name, so logs need different names.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            workflow: String::new(),
            service: None,
            salt: None,
            resource: Map::new(),
        }
    }

    /// Sets the workflow's name, which is part of the ids of spans. Default: none.
    #[must_use]
    pub fn workflow(mut self, name: impl Into<String>) -> Self {
        self.workflow = name.into();
        self
    }

    /// Sets `service.name` of the resource. Default: the workflow's name, or `ssetarget` if there is none.
    #[must_use]
    pub fn service_name(mut self, name: impl Into<String>) -> Self {
        self.service = Some(name.into()).filter(|name| !name.is_empty());
        self
    }

    /// Makes ids of traces depend on this string, too: for names that other logs use as well, as instances of two
    /// workflows may. The ids then do not match Sentry's. Default: they are made from the name alone.
    #[must_use]
    pub fn salt(mut self, salt: impl Into<String>) -> Self {
        self.salt = Some(salt.into()).filter(|salt| !salt.is_empty());
        self
    }

    /// Adds an attribute to the resource, such as `deployment.environment.name`. `service.name` sets the
    /// [service](Self::service_name). Default: the resource has only `service.name`.
    #[must_use]
    pub fn resource_attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        if name == SERVICE_NAME {
            return self.service_name(value);
        }
        self.resource.insert(name, value.into());
        self
    }

    /// Sets the service and the resource by OpenTelemetry's variables `OTEL_SERVICE_NAME` and
    /// `OTEL_RESOURCE_ATTRIBUTES`, and the [salt](Self::salt) by `SSETARGET_TRACE_SALT`. `variable` returns
    /// the value of a variable, as `|name| std::env::var(name).ok()` does. An empty value counts as none.
    ///
    /// # Errors
    /// When `OTEL_RESOURCE_ATTRIBUTES` is not a list of `name=value` with commas between them.
    pub fn variables(
        mut self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, InvalidVariable> {
        for (name, value) in list(RESOURCE_ATTRIBUTES, &variable)? {
            self = self.resource_attribute(name, value);
        }
        // It takes precedence over `service.name` of the attributes.
        if let Some(name) = value(SERVICE_NAME_VARIABLE, &variable) {
            self = self.service_name(name);
        }
        if let Some(salt) = value(SALT, &variable) {
            self = self.salt(salt);
        }
        Ok(self)
    }

    /// Returns the id of the trace of a run, from 1.
    #[must_use]
    pub fn trace_id(&self, run: u32) -> TraceId {
        let first = match &self.salt {
            Some(salt) => TraceId::with_salt(salt, &self.id),
            None => TraceId::of_instance(&self.id),
        };
        first.of_run(run)
    }

    pub(super) fn service(&self) -> &str {
        match (&self.service, self.workflow.as_str()) {
            (Some(name), _) => name,
            (None, "") => "ssetarget",
            (None, workflow) => workflow,
        }
    }
}

const SERVICE_NAME: &str = "service.name";
const SERVICE_NAME_VARIABLE: &str = "OTEL_SERVICE_NAME";
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SALT: &str = "SSETARGET_TRACE_SALT";

/// Returns the value of a variable, if it is set and not empty.
pub(super) fn value(
    name: &'static str,
    variable: &impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let value = variable(name)?;
    let value = value.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// Returns the pairs of a variable of the form `name=value,name=value`, values being percent-encoded.
pub(super) fn list(
    name: &'static str,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, InvalidVariable> {
    let Some(text) = value(name, variable) else {
        return Ok(Vec::new());
    };
    let decode = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text.trim()).decode_utf8();
        decoded.ok().map(|text| text.into_owned())
    };
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((decode(key).filter(|key| !key.is_empty())?, decode(value)?))
        })
        .collect::<Option<_>>()
        .ok_or(InvalidVariable {
            name,
            wants: "a list of name=value with commas between them, values percent-encoded",
        })
}

/// A variable has a value that cannot be used. The message has the variable's name and not its value, which may
/// be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidVariable {
    pub(super) name: &'static str,
    pub(super) wants: &'static str,
}

impl fmt::Display for InvalidVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must be {}", self.name, self.wants)
    }
}

impl std::error::Error for InvalidVariable {}
