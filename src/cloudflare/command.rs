//! Commands to the log of an instance from outside its workflow, and their answers: code that creates, restarts or
//! ends the instance sends them, in one call each. Written in the Worker, carried out in the object; pure.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::workflow::ended_run::EngineEvent;

/// A command to the log of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
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
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
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
        /// The state of the log when the platform was asked; `None` ends the run in any state.
        stood: Option<(u32, u64)>,
        /// The workflow's name.
        workflow: String,
        /// How it ended.
        end: InstanceEnd,
        /// The platform's own log of it, as `read_ended_run` reads it; empty
        /// if it is not known.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        platform: Vec<EngineEvent>,
    },
}

/// How an instance has ended, according to the platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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

/// The answer to a [`LogCommand`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogAnswer {
    /// The state of the log before the call changed it.
    pub state: LogState,
    /// Whether the call changed the log.
    pub changed: bool,
    /// Whether a restart is to be confirmed or cancelled.
    pub restarting: bool,
}

/// The state of a log, for code that acts on its instance from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
