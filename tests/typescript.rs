//! `typescript/types.d.ts` agrees with the Rust types. To generate it:
//! `UPDATE=1 cargo test --features typescript --test typescript`.
#![cfg(feature = "typescript")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fmt::Write as _;

use ssetarget::Reset;
use ssetarget::task::{Kind, StepEvent, TaskId};
use ssetarget::workflow::{
    Estimate, FailedAttempt, RollbackView, RunEstimate, RunSnapshot, RunState, TaskState, TaskView,
};
use ts_rs::{Config, TS};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/typescript/types.d.ts");

const HEAD: &str = "\
// The events of a run's log, and its snapshot: what `GET /<id>/sse` streams, and what `GET /<id>` answers to
// `Accept: application/json`. Copy it into your project, or import it.
//
// Generated from the Rust types: see tests/typescript.rs. Times are ISO 8601 in UTC with milliseconds.
";

/// An event's name on the wire, its type's name and description, and its fields besides those of all events: those that
/// are required, and those that are optional.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const EVENTS: [Row; 5] = [
    (
        "started",
        "StartedEvent",
        "A task begins; once for each task.",
        &[],
        &["until", "eventType"],
    ),
    (
        "attempt_failed",
        "AttemptFailedEvent",
        "An attempt of a `do` step failed and is retried, or was the last.",
        &["attempt", "error"],
        &["retryAt"],
    ),
    (
        "progress",
        "ProgressEvent",
        "The step's code reported progress.",
        &[],
        &["percent", "message", "attributes"],
    ),
    (
        "completed",
        "CompletedEvent",
        "A task ended well; once for each task. Of the workflow itself it is the last event of the run.",
        &[],
        &["attempt", "attributes"],
    ),
    (
        "failed",
        "FailedEvent",
        "A task failed for good; once for each task. Of the workflow itself it is the last event of the run.",
        &["error"],
        &["attempt"],
    ),
];
const OF_ALL: [&str; 6] = ["taskId", "step", "kind", "count", "timestamp", "parentId"];

/// The types that no Rust type has.
const REST: &str = "\
/** The instance was restarted: the events that follow are about a new run. */
export interface RestartedEvent {
  /** The number of the new run, from 2. */
  run: number;
  /** When it was restarted. */
  timestamp: string;
}

/** The permission to watch has run out: the server closes the stream. It has no id. */
export interface ExpiredEvent {
  /** Whether the client may come back with a new permission. */
  renew: boolean;
}

/** The data of each event, by its type: the `event:` and the parsed `data:` of the stream. */
export interface EventMap {
  started: StartedEvent;
  attempt_failed: AttemptFailedEvent;
  progress: ProgressEvent;
  completed: CompletedEvent;
  failed: FailedEvent;
  restarted: RestartedEvent;
  reset: Reset;
  expired: ExpiredEvent;
}

/** The events that are about tasks, by their types. */
export type StepEvents = Pick<EventMap, \"started\" | \"attempt_failed\" | \"progress\" | \"completed\" | \"failed\">;

/** An event with its type, so that `switch (event.type)` says which data it has. */
export type RunEvent = { [Type in keyof EventMap]: { type: Type; data: EventMap[Type] } }[keyof EventMap];
";

#[test]
fn the_file_agrees_with_the_types() {
    let made = types();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(std::path::Path::new(FILE).parent().unwrap()).unwrap();
        std::fs::write(FILE, &made).unwrap();
    }
    let there = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        there == made,
        "typescript/types.d.ts is not what the Rust types give: run `UPDATE=1 cargo test --features typescript --test typescript`"
    );
}

fn types() -> String {
    let config = Config::new();
    let mut file = HEAD.to_owned();
    for declared in [
        RunSnapshot::export_to_string(&config),
        RunEstimate::export_to_string(&config),
        Estimate::export_to_string(&config),
        TaskView::export_to_string(&config),
        FailedAttempt::export_to_string(&config),
        RollbackView::export_to_string(&config),
        RunState::export_to_string(&config),
        TaskState::export_to_string(&config),
        Kind::export_to_string(&config),
        TaskId::export_to_string(&config),
        Reset::export_to_string(&config),
    ] {
        file.push('\n');
        file.push_str(&Declared::read(&declared.unwrap()).write());
    }
    let event = Declared::read(&StepEvent::export_to_string(&config).unwrap());
    let mut known: Vec<&str> = OF_ALL.to_vec();
    for (_, name, doc, required, optional) in EVENTS {
        let mut fields: Vec<Field> = Vec::new();
        for name in OF_ALL.iter().chain(required).chain(optional) {
            let field = event.fields.iter().find(|field| field.name == *name);
            let mut field = field
                .unwrap_or_else(|| panic!("there is no field {name}"))
                .clone();
            field.is_optional = optional.contains(name);
            // The sentence names the events that have the field, which the type says here.
            field.doc = field
                .doc
                .replace(": of `started`.", ".")
                .replace(": of `attempt_failed`.", ".");
            fields.push(field);
        }
        known.extend(required.iter().chain(optional));
        let event = Declared {
            doc: doc.to_owned(),
            name: name.to_owned(),
            alias: None,
            fields,
        };
        file.push('\n');
        file.push_str(&event.write());
    }
    for field in &event.fields {
        assert!(
            known.contains(&field.name.as_str()),
            "no event has {}",
            field.name
        );
    }
    file + "\n" + REST
}

/// A type as ts-rs declares it.
struct Declared {
    doc: String,
    name: String,
    alias: Option<String>,
    fields: Vec<Field>,
}

#[derive(Clone)]
struct Field {
    doc: String,
    name: String,
    is_optional: bool,
    of: String,
}

impl Declared {
    fn read(text: &str) -> Self {
        let mut declared = Self {
            doc: String::new(),
            name: String::new(),
            alias: None,
            fields: Vec::new(),
        };
        let mut doc = String::new();
        for line in text.lines() {
            let line = line.trim().trim_end_matches(['{', ' ']).trim_end();
            if let Some(said) = line.strip_prefix('*') {
                if said != "/" {
                    doc.push_str(said.strip_prefix(' ').unwrap_or(said));
                    doc.push('\n');
                }
            } else if let Some(rest) = line.strip_prefix("export type ") {
                let (name, of) = rest.split_once('=').unwrap();
                declared.name = name.trim().to_owned();
                let of = of.trim().trim_end_matches(';');
                declared.alias = (!of.is_empty()).then(|| of.to_owned());
                declared.doc = std::mem::take(&mut doc);
            } else if !declared.name.is_empty()
                && let Some((name, of)) = line.split_once(": ")
            {
                let of = of.trim_end_matches([';', '}', ' ', ',']);
                declared.fields.push(Field {
                    doc: std::mem::take(&mut doc),
                    name: name.trim_end_matches('?').to_owned(),
                    is_optional: name.ends_with('?'),
                    of: match of
                        .strip_prefix("Array<")
                        .and_then(|of| of.strip_suffix('>'))
                    {
                        Some(of) => format!("{of}[]"),
                        None => of.to_owned(),
                    },
                });
            }
        }
        declared
    }

    fn write(&self) -> String {
        let mut text = comment(&self.doc, "", self.alias.is_some());
        if let Some(alias) = &self.alias {
            writeln!(text, "export type {} = {alias};", self.name).unwrap();
            return text;
        }
        writeln!(text, "export interface {} {{", self.name).unwrap();
        for field in &self.fields {
            let is_null = field.of.ends_with("| null");
            text.push_str(&comment(&field.doc, "  ", is_null));
            let mark = if field.is_optional { "?" } else { "" };
            writeln!(text, "  {}{mark}: {};", field.name, field.of).unwrap();
        }
        text + "}\n"
    }
}

/// Returns the first paragraph of a doc comment, in words for readers who do not know Rust.
fn comment(doc: &str, indent: &str, is_null: bool) -> String {
    let paragraph: Vec<&str> = doc
        .trim()
        .lines()
        .take_while(|line| !line.is_empty())
        .collect();
    let mut rest = paragraph.join(" ");
    let mut plain = String::new();
    // Links of Rust's docs: [`name`](path) and [name](path).
    while let Some((before, link)) = rest.split_once('[') {
        let (shown, after) = link.split_once(']').unwrap();
        let after = match after.strip_prefix('(') {
            Some(path) => path.split_once(')').unwrap().1,
            None => after,
        };
        plain.push_str(before);
        plain.push_str(shown);
        rest = after.to_owned();
    }
    plain.push_str(&rest);
    let none = if is_null { "`null`" } else { "absent" };
    let plain = plain.replace("`None`", none);
    let plain = plain.replace(". absent", ". Absent");
    let mut text = String::new();
    let one = format!("{indent}/** {plain} */\n");
    if one.len() <= 120 {
        return one;
    }
    writeln!(text, "{indent}/**").unwrap();
    let mut line = format!("{indent} *");
    for word in plain.split(' ') {
        if line.len() + 1 + word.len() > 115 {
            writeln!(text, "{line}").unwrap();
            line = format!("{indent} *");
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(text, "{line}\n{indent} */").unwrap();
    text
}
