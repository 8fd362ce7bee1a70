//! The command line.

use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::Value;
use ssetarget::client::Start;

/// Watches runs of Cloudflare Workflows, and any other log of ssetarget.
#[derive(Debug, Parser)]
#[command(name = "ssetarget", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch a run until it ends. The exit code tells how it ended
    #[command(after_help = EXIT_CODES)]
    Watch(Watch),
    /// Send the event that a run waits for
    Send(Send),
}

const EXIT_CODES: &str = "\
Exit codes:
  0    the run completed
  1    it failed
  2    the command line is wrong
  3    the run was terminated from outside
  4    not allowed: the token is missing, wrong or has expired
  5    there is no such run
  6    gave up: the time is over, the server cannot be reached, or how the run ended was not found out
  130  interrupted (Ctrl-C): the run goes on";

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The run: its page (…/<id>), its events (…/<id>/sse) or the platform's log (…/<id>/instance/sse)
    pub(crate) url: String,
    /// The token that allows it. Better: in the link (#t=) or in SSETARGET_TOKEN
    #[arg(long)]
    pub(crate) token: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) target: Target,
    /// How progress is shown. auto: tty on a terminal, else plain; with --json none.
    /// SSETARGET_PROGRESS replaces auto
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub(crate) progress: Progress,
    /// Print each event as a line of JSON: {"id","event","data"}. Everything else goes to stderr
    #[arg(long)]
    pub(crate) json: bool,
    /// Where to start: beginning, latest, or after the event with this id
    #[arg(long, value_name = "WHERE", conflicts_with = "since", value_parser = from)]
    pub(crate) from: Option<Start>,
    /// Start with events stored since then: a time (2026-11-24T09:00:00Z), or a duration (10m)
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub(crate) since: Option<SystemTime>,
    /// Give up after this time (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Give up when the server cannot be reached for this time. Default: 30s at first, then 15m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) retry_for: Option<Duration>,
    /// First send this event, with a payload of JSON, which the run waits for
    #[arg(long, value_name = "TYPE[=JSON]", value_parser = answer)]
    pub(crate) send: Vec<Answer>,
    /// Open the run's page in the browser
    #[arg(long)]
    pub(crate) open: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Send {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The event's type, and its payload as JSON
    #[arg(value_name = "TYPE[=JSON]", value_parser = answer)]
    pub(crate) answer: Answer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// tty on a terminal, otherwise plain
    #[default]
    Auto,
    /// A live tree
    Tty,
    /// A line for each change
    Plain,
    /// Nothing but errors
    None,
}

/// An event to send.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) event_type: String,
    pub(crate) payload: Option<Value>,
}

fn answer(text: &str) -> Result<Answer, String> {
    let (event_type, payload) = match text.split_once('=') {
        Some((event_type, json)) => {
            let payload = serde_json::from_str(json);
            (
                event_type,
                Some(payload.map_err(|error| format!("the payload is no JSON: {error}"))?),
            )
        }
        None => (text, None),
    };
    if event_type.is_empty() {
        return Err("the event's type is missing".to_owned());
    }
    Ok(Answer {
        event_type: event_type.to_owned(),
        payload,
    })
}

fn from(text: &str) -> Result<Start, String> {
    match text {
        "" => Err("it is empty".to_owned()),
        "beginning" => Ok(Start::Beginning),
        "latest" => Ok(Start::Latest),
        id if id.chars().any(char::is_control) => Err("it is not an id".to_owned()),
        id => Ok(Start::After(id.to_owned())),
    }
}

fn since(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    let at = |time: Option<SystemTime>| time.ok_or_else(|| "it is too far away".to_owned());
    if let Ok(milliseconds) = text.parse() {
        return at(SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)));
    }
    match humantime::parse_duration(text) {
        Ok(ago) => at(SystemTime::now().checked_sub(ago)),
        Err(_) => {
            Err("it is neither a time (2026-11-24T09:00:00Z) nor a duration (10m)".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn answers_have_a_type_and_perhaps_json() {
        let parsed = answer(r#"approval={"a":"b=c"}"#).unwrap();
        assert_eq!(parsed.event_type, "approval");
        assert_eq!(parsed.payload, Some(serde_json::json!({"a": "b=c"})));
        assert_eq!(answer("go").unwrap().payload, None);
        assert_eq!(answer("go=null").unwrap().payload, Some(Value::Null));
        for wrong in ["", "=1", "go=", "go=yes"] {
            assert!(answer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_points_or_durations() {
        let at = |text: &str| {
            since(text).map(|t| {
                t.duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap()
                    .as_millis()
            })
        };
        assert_eq!(at("2026-11-24T09:00:00Z"), Ok(1_795_510_800_000));
        assert_eq!(at("1795510800000"), Ok(1_795_510_800_000));
        let ago = SystemTime::now()
            .duration_since(since("10m").unwrap())
            .unwrap();
        assert!((599..610).contains(&ago.as_secs()));
        assert!(since("yesterday").is_err() && since("99999999999999999y").is_err());
    }
}
