//! Commands to the log of an instance from outside its workflow, and their answers: code that creates, restarts or
//! ends the instance sends them, in one call each. Written in the Worker, carried out in the object; pure.

use std::fmt;
use std::time::SystemTime;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock;
use crate::workflow::ended_run::EngineEvent;

/// Reads what a Worker or an object wrote as JSON, `what` by name. The error's text says the likely reason.
///
/// # Errors
/// When it is of a format that this version does not know. The caller then has not changed anything.
pub fn read_json<T: DeserializeOwned>(what: &str, json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| unreadable(what, &error))
}

/// Returns the error of a format that this version does not know.
#[inline(never)]
pub(crate) fn unreadable(what: &str, error: &dyn fmt::Display) -> String {
    format!(
        "{what} cannot be read. Worker and object are of different versions, as they are during a deploy: {error}"
    )
}

/// A command to the log of an instance.
///
/// Its JSON is an array, the same for all commands, since the code that derives would make for each of them is
/// many KB of every Worker: its name, where the log stood, the workflow, a number, the tags, an error, the
/// platform's log. What a command does not have is empty there.
#[derive(Clone, Debug, PartialEq)]
pub enum LogCommand {
    /// Asks for the state of the log.
    State,
    /// See [`WorkflowLog::announce`](crate::cloudflare::object::log::WorkflowLog::announce).
    Announce {
        /// The workflow's name.
        workflow: String,
        /// Milliseconds since 1970.
        time: u64,
        /// The tags of the instance, for the index of runs.
        tags: Vec<String>,
    },
    /// See [`WorkflowLog::take_back`](crate::cloudflare::object::log::WorkflowLog::take_back).
    TakeBack,
    /// See [`WorkflowLog::begin_restart`](crate::cloudflare::object::log::WorkflowLog::begin_restart).
    BeginRestart,
    /// See [`WorkflowLog::confirm_restart`](crate::cloudflare::object::log::WorkflowLog::confirm_restart).
    ConfirmRestart {
        /// The state of the log when the restart began.
        stood: (u32, u64),
        /// The workflow's name.
        workflow: String,
        /// Milliseconds since 1970, from before the restart.
        time: u64,
    },
    /// See [`WorkflowLog::cancel_restart`](crate::cloudflare::object::log::WorkflowLog::cancel_restart).
    CancelRestart,
    /// Asks for the generation of the run's links, and raises it first with `revoke`. The log itself does not know
    /// it; the answer is that number.
    Links {
        /// Whether to raise it.
        revoke: bool,
    },
    /// See [`WorkflowLog::delete`](crate::cloudflare::object::log::WorkflowLog::delete).
    Delete,
    /// Ends the latest run: see [`WorkflowLog::settle`](crate::cloudflare::object::log::WorkflowLog::settle).
    Settle {
        /// Where the log [stood](crate::cloudflare::object::log::WorkflowLog::stands) when the platform was asked; `None`
        /// ends the run in any state.
        stood: Option<(u32, u64)>,
        /// The workflow's name.
        workflow: String,
        /// How it ended.
        end: InstanceEnd,
        /// The platform's own log of it, as `read_ended_run` reads it; empty
        /// if it is not known.
        platform: Vec<EngineEvent>,
    },
}

/// How an instance has ended, according to the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceEnd {
    /// Its run returned.
    Completed,
    /// Its run failed, with this message if there is one.
    Failed(Option<String>),
    /// It was terminated.
    Terminated,
    /// The platform has no such instance.
    Missing,
}

type Stood = Option<(u32, u64)>;

impl Serialize for LogCommand {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut stood: Stood = None;
        let (mut workflow, mut number, mut error) = ("", 0, None);
        let (mut tags, mut platform): (&[String], &[EngineEvent]) = (&[], &[]);
        let name = match self {
            Self::State => "state",
            Self::Announce {
                workflow: of,
                time,
                tags: with,
            } => {
                (workflow, number, tags) = (of, *time, with);
                "announce"
            }
            Self::TakeBack => "takeBack",
            Self::BeginRestart => "beginRestart",
            Self::ConfirmRestart {
                stood: at,
                workflow: of,
                time,
            } => {
                (stood, workflow, number) = (Some(*at), of, *time);
                "confirmRestart"
            }
            Self::CancelRestart => "cancelRestart",
            Self::Links { revoke } => {
                number = u64::from(*revoke);
                "links"
            }
            Self::Delete => "delete",
            Self::Settle {
                stood: at,
                workflow: of,
                end,
                platform: log,
            } => {
                (stood, workflow, platform) = (*at, of, log);
                match end {
                    InstanceEnd::Completed => "completed",
                    InstanceEnd::Failed(message) => {
                        error = message.as_deref();
                        "failed"
                    }
                    InstanceEnd::Terminated => "terminated",
                    InstanceEnd::Missing => "missing",
                }
            }
        };
        (name, stood, workflow, number, tags, error, platform).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LogCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        type Parts = (
            String,
            Stood,
            String,
            u64,
            Vec<String>,
            Option<String>,
            Vec<EngineEvent>,
        );

        let (name, stood, workflow, number, tags, error, platform) =
            Parts::deserialize(deserializer)?;
        let end = match name.as_str() {
            "completed" => InstanceEnd::Completed,
            "failed" => InstanceEnd::Failed(error),
            "terminated" => InstanceEnd::Terminated,
            "missing" => InstanceEnd::Missing,
            "state" => return Ok(Self::State),
            "announce" => {
                return Ok(Self::Announce {
                    workflow,
                    time: number,
                    tags,
                });
            }
            "takeBack" => return Ok(Self::TakeBack),
            "beginRestart" => return Ok(Self::BeginRestart),
            "confirmRestart" => {
                let stood = stood.ok_or_else(|| D::Error::custom("where did the log stand?"))?;
                return Ok(Self::ConfirmRestart {
                    stood,
                    workflow,
                    time: number,
                });
            }
            "cancelRestart" => return Ok(Self::CancelRestart),
            "links" => {
                let revoke = number != 0;
                return Ok(Self::Links { revoke });
            }
            "delete" => return Ok(Self::Delete),
            _ => return Err(D::Error::custom("an unknown command")),
        };
        Ok(Self::Settle {
            stood,
            workflow,
            end,
            platform,
        })
    }
}

/// The answer to a [`LogCommand`].
///
/// Its JSON is an array: the run, the generation, the truths as bits, and the milliseconds since 1970 of the newest
/// event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogAnswer {
    /// The state of the log before the call changed it.
    pub state: LogState,
    /// Whether the call changed the log.
    pub changed: bool,
    /// Whether a restart is to be confirmed or cancelled.
    pub restarting: bool,
}

impl Serialize for LogAnswer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let state = &self.state;
        let truths = [
            state.ended,
            state.empty,
            state.announced,
            self.changed,
            self.restarting,
        ];
        let bits = truths.iter().rev();
        let bits = bits.fold(0, |bits, truth| bits << 1 | u8::from(*truth));
        let newest = state.newest.map(clock::milliseconds);
        (state.run, state.generation, bits, newest).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LogAnswer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (run, generation, bits, newest) =
            <(u32, u64, u8, Option<u64>)>::deserialize(deserializer)?;
        let is = |bit: u8| bits >> bit & 1 == 1;
        Ok(Self {
            state: LogState {
                run,
                generation,
                ended: is(0),
                empty: is(1),
                announced: is(2),
                newest: newest.map(clock::from_milliseconds),
            },
            changed: is(3),
            restarting: is(4),
        })
    }
}

/// The state of a log, for code that acts on its instance from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState {
    /// The latest run, from 1.
    pub run: u32,
    /// The greatest generation that a lifetime was given; 0 if none is known.
    pub generation: u64,
    /// Whether that run has ended.
    pub ended: bool,
    /// Whether the log has no events.
    pub empty: bool,
    /// Whether the log has only the announcement of the instance: see
    /// [`WorkflowLog::announce`](crate::cloudflare::object::log::WorkflowLog::announce).
    pub announced: bool,
    /// When the newest event was stored.
    pub newest: Option<SystemTime>,
}
