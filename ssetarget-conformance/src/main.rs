//! `ssetarget-conformance URL`: checks a server of Server-Sent Events.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use ssetarget_conformance::extensions::EXTENSIONS;
use ssetarget_conformance::{CASES, CaseResult, Level, Probe, Profile, Verdict, run};

const HELP: &str = "\
Checks a server of Server-Sent Events over HTTP.

Usage: ssetarget-conformance [OPTIONS] URL

URL is a stream, such as http://127.0.0.1:8080/events. With a profile it is the server alone, such as
http://127.0.0.1:8080. Plain http only: put a proxy in front of a server that has nothing but TLS.

Options:
  --profile FILE      a JSON file that says how to start a stream, append to it and end it, and which
                      extensions the server claims; without it, what needs that is skipped
  --only ID[,ID…]     these cases only
  --level must        these levels only: must, should or extension; may be given more than once
  --format FORMAT     table (default), tap, or json (also --json, --tap)
  --jobs N            cases at the same time, from 1 to 64 (default: 8)
  --patience SECONDS  how long it waits for what should come at once (default: 5)
  --strict            exit with 1 also for what should be
  --list              the cases with their sources, and the extensions
  --help

Exit code: 0 if no case that must pass, and none of a claimed extension, failed; 1 if one did; 2 if the
command line, the profile or the server is of no use.
";

struct Options {
    url: String,
    profile: Option<String>,
    only: Vec<String>,
    levels: Vec<String>,
    format: Format,
    jobs: usize,
    patience: Duration,
    strict: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Table,
    Tap,
    Json,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let code = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--help" | "-h"] => say(HELP, 0),
        ["--list"] => say(&list(), 0),
        _ => match options(&args).and_then(checked) {
            Ok((text, code)) => say(&text, code),
            Err(reason) => {
                let _ = writeln!(std::io::stderr(), "error: {reason}");
                2
            }
        },
    };
    ExitCode::from(code)
}

/// Prints text. A pipe that nobody reads is not a failure.
fn say(text: &str, code: u8) -> u8 {
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut options = Options {
        url: String::new(),
        profile: None,
        only: Vec::new(),
        levels: Vec::new(),
        format: Format::Table,
        jobs: 8,
        patience: Duration::from_secs(5),
        strict: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (arg.as_str(), None),
        };
        let mut value = || {
            let value = inline.clone().or_else(|| args.next().cloned());
            value.ok_or_else(|| format!("{name} needs a value"))
        };
        match name {
            "--profile" => options.profile = Some(value()?),
            "--only" => options.only.extend(value()?.split(',').map(str::to_owned)),
            "--level" => options.levels.push(value()?),
            "--json" => options.format = Format::Json,
            "--tap" => options.format = Format::Tap,
            "--strict" => options.strict = true,
            "--format" => {
                options.format = match value()?.as_str() {
                    "table" => Format::Table,
                    "tap" => Format::Tap,
                    "json" => Format::Json,
                    other => return Err(format!("--format {other}: choose table, tap or json")),
                };
            }
            "--jobs" => {
                let jobs = value()?.parse().ok().filter(|jobs| (1..=64).contains(jobs));
                options.jobs = jobs.ok_or("--jobs is a number from 1 to 64")?;
            }
            "--patience" => {
                let seconds: Option<f64> = value()?.parse().ok();
                let seconds = seconds.filter(|seconds| (0.1..=600.0).contains(seconds));
                let seconds = seconds.ok_or("--patience is a number of seconds from 0.1 to 600")?;
                options.patience = Duration::from_secs_f64(seconds);
            }
            _ if name.starts_with('-') => {
                return Err(format!("there is no option {name}; see --help"));
            }
            _ if options.url.is_empty() => options.url.clone_from(arg),
            _ => return Err(format!("one URL only: {} or {arg}", options.url)),
        }
    }
    if options.url.is_empty() {
        return Err("a URL is missing; see --help".to_owned());
    }
    let ids = || CASES.iter().copied().flatten().map(|case| case.id);
    if let Some(unknown) = options
        .only
        .iter()
        .find(|id| ids().all(|known| known != *id))
    {
        return Err(format!("there is no case {unknown}; see --list"));
    }
    let levels = ["must", "should", "extension"];
    match options
        .levels
        .iter()
        .find(|level| !levels.contains(&level.as_str()))
    {
        Some(unknown) => Err(format!(
            "--level {unknown}: choose must, should or extension"
        )),
        None => Ok(options),
    }
}

fn checked(options: Options) -> Result<(String, u8), String> {
    let rest = options
        .url
        .strip_prefix("http://")
        .ok_or("the URL begins with http://")?;
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) => (host, format!("/{path}")),
        None => (rest, "/".to_owned()),
    };
    let host = match host.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
        _ => format!("{host}:80"),
    };
    let profile = match &options.profile {
        None => Profile::of_stream(&path),
        Some(file) => {
            let json = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
            Profile::parse(&json).map_err(|reason| format!("{file}: {reason}"))?
        }
    };
    let probe = Probe {
        host,
        profile,
        patience: options.patience,
    };
    if let Err(trouble) = ssetarget_conformance::http::Connection::open(&probe.host, probe.patience)
    {
        return Err(format!("{} cannot be reached: {trouble}", probe.host));
    }
    let chosen = |case: &ssetarget_conformance::Case| {
        (options.only.is_empty() || options.only.iter().any(|id| id == case.id))
            && (options.levels.is_empty() || options.levels.contains(&case.level.to_string()))
    };
    let results = run(&probe, &chosen, options.jobs);
    let text = match options.format {
        Format::Table => table(&results),
        Format::Tap => tap(&results),
        Format::Json => json_report(&probe, &results),
    };
    let counts = |result: &&CaseResult| options.strict || result.case.level != Level::Should;
    let has_failed = |result: &CaseResult| matches!(result.outcome, Err(Verdict::Failed { .. }));
    let failed = results.iter().filter(counts).any(has_failed);
    Ok((text, u8::from(failed)))
}

fn word(result: &CaseResult) -> &'static str {
    match result.outcome {
        Ok(()) => "passed",
        Err(Verdict::Failed { .. }) => "failed",
        Err(Verdict::Skipped(_)) => "skipped",
    }
}

fn table(results: &[CaseResult]) -> String {
    let mut text = String::new();
    for result in results {
        let case = result.case;
        let mark = match result.outcome {
            Ok(()) => "✔",
            Err(Verdict::Failed { .. }) => "✖",
            Err(Verdict::Skipped(_)) => "–",
        };
        let level = case.level.to_string();
        let _ = writeln!(text, "{mark} {level:9} {:22} {}", case.id, case.title);
        match &result.outcome {
            Ok(()) => {}
            Err(Verdict::Failed { expected, got }) => {
                let _ = writeln!(
                    text,
                    "    expected: {expected}\n    got:      {got}\n    source:   {}",
                    case.source
                );
            }
            Err(Verdict::Skipped(reason)) => {
                let _ = writeln!(text, "    skipped: {reason}");
            }
        }
    }
    for level in ["must", "should", "extension"] {
        let of_level = results
            .iter()
            .filter(|result| result.case.level.to_string() == level);
        let words: Vec<&str> = of_level.map(word).collect();
        let count = |word: &str| words.iter().filter(|other| **other == word).count();
        let _ = writeln!(
            text,
            "{level}: {} passed, {} failed, {} skipped",
            count("passed"),
            count("failed"),
            count("skipped")
        );
    }
    text
}

fn tap(results: &[CaseResult]) -> String {
    let mut text = format!("TAP version 14\n1..{}\n", results.len());
    for (at, result) in results.iter().enumerate() {
        let case = result.case;
        let (number, title) = (at + 1, case.title.replace('#', "\\#"));
        match &result.outcome {
            Ok(()) => {
                let _ = writeln!(text, "ok {number} - {}: {title}", case.id);
            }
            Err(Verdict::Skipped(reason)) => {
                let _ = writeln!(text, "ok {number} - {}: {title} # SKIP {reason}", case.id);
            }
            Err(Verdict::Failed { expected, got }) => {
                // A JSON string is a YAML string, too.
                let quoted = |text: &str| serde_json::Value::from(text).to_string();
                let _ = writeln!(
                    text,
                    "not ok {number} - {}: {title}\n  ---\n  level: {}\n  source: {}\n  expected: {}\n  got: {}\n  ...",
                    case.id,
                    case.level,
                    quoted(case.source),
                    quoted(expected),
                    quoted(got)
                );
            }
        }
    }
    text
}

fn json_report(probe: &Probe, results: &[CaseResult]) -> String {
    let cases = results.iter().map(|result| {
        let case = result.case;
        let mut value = json!({
            "id": case.id,
            "title": case.title,
            "source": case.source,
            "level": case.level.to_string(),
            "outcome": word(result),
        });
        match &result.outcome {
            Ok(()) => {}
            Err(Verdict::Failed { expected, got }) => {
                value["expected"] = json!(expected);
                value["got"] = json!(got);
            }
            Err(Verdict::Skipped(reason)) => value["reason"] = json!(reason),
        }
        value
    });
    let cases: Vec<_> = cases.collect();
    format!(
        "{}\n",
        json!({ "server": probe.profile.name, "cases": cases })
    )
}

fn list() -> String {
    let mut text = String::new();
    for case in CASES.iter().copied().flatten() {
        let level = match case.level {
            Level::Extension(name) => format!("extension {name}"),
            level => level.to_string(),
        };
        let _ = writeln!(
            text,
            "{:22} {level:20} {} ({})",
            case.id, case.title, case.source
        );
    }
    text.push_str("\nExtensions, for `claims` of a profile:\n");
    for (name, meaning) in EXTENSIONS {
        let _ = writeln!(text, "{name:22} {meaning}");
    }
    text
}
