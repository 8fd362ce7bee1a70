//! The text formats of Prometheus and OpenMetrics, limited to fixed counters and gauges.
//!
//! Written by hand: the crates for it bring registries, locks and derives, for a page of code.

use std::fmt::Write;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Prometheus,
    OpenMetrics,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// A text under construction.
pub(super) struct Text {
    out: String,
    format: Format,
    /// The labels of all samples, without braces.
    labels: String,
    /// The name of the samples of the family that was begun last.
    sample: String,
}

impl Text {
    pub(super) fn new(format: Format, labels: &[(&'static str, String)]) -> Self {
        let mut text = Self {
            out: String::new(),
            format,
            labels: String::new(),
            sample: String::new(),
        };
        let mut names: Vec<String> = Vec::new();
        for (name, value) in labels {
            let name = label_name(name);
            // A name that comes twice would make the whole text invalid.
            if !names.contains(&name) {
                push_label(&mut text.labels, &name, value);
                names.push(name);
            }
        }
        text
    }

    /// Begins a family. Counters are named without `_total`.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        self.sample.clear();
        self.sample.push_str(name);
        let (kind, suffix) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
        };
        self.sample.push_str(suffix);
        // In OpenMetrics the family's name has no suffix; Prometheus knows samples only.
        let family = match self.format {
            Format::Prometheus => &self.sample,
            Format::OpenMetrics => name,
        };
        self.out.push_str("# HELP ");
        self.out.push_str(family);
        self.out.push(' ');
        escape(help, self.format == Format::OpenMetrics, &mut self.out);
        self.out.push_str("\n# TYPE ");
        self.out.push_str(family);
        self.out.push(' ');
        self.out.push_str(kind);
        self.out.push('\n');
    }

    /// Adds a sample to the family, with a further label.
    pub(super) fn sample(&mut self, label: Option<(&str, &str)>, value: u64) {
        self.out.push_str(&self.sample);
        let mut labels = self.labels.clone();
        if let Some((name, value)) = label {
            push_label(&mut labels, name, value);
        }
        if !labels.is_empty() {
            self.out.push('{');
            self.out.push_str(&labels);
            self.out.push('}');
        }
        // Writing to a string does not fail.
        let _ = writeln!(self.out, " {value}");
    }

    pub(super) fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }
}

/// Returns a valid name that is not one of the metrics' own labels.
fn label_name(name: &str) -> String {
    let valid = |letter: char| match letter.is_ascii_alphanumeric() {
        true => letter,
        false => '_',
    };
    let mut valid: String = name.chars().map(valid).collect();
    let begins = valid.chars().next();
    let is_own = matches!(&*valid, "status" | "cause") || valid.starts_with("__");
    if is_own || begins.is_none_or(|first| first.is_ascii_digit()) {
        valid.insert_str(0, "label_");
    }
    valid
}

fn push_label(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    escape(value, true, out);
    out.push('"');
}

/// Escapes backslashes and line ends, and quotes where they are special.
fn escape(text: &str, quotes: bool, out: &mut String) {
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            _ => out.push(letter),
        }
    }
}
