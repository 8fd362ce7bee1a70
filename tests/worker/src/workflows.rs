//! The workflows by their names in wrangler.toml.

use cloudflare_workflows::Workflow;
use ssetarget::cloudflare::{Transport, WorkflowEventsNamespace};
use worker::{Env, Result};

use crate::crowd;

/// The binding of a workflow.
pub fn binding(name: &str) -> String {
    name.to_ascii_uppercase()
}

/// The binding of a workflow's events.
pub fn events_binding(name: &str) -> &'static str {
    match name {
        "brief" => "BRIEF_EVENTS",
        "fragile" => "FRAGILE_EVENTS",
        "broken" => "BROKEN_EVENTS",
        "crowd" => "CROWD_EVENTS",
        "listed" => "LISTED_EVENTS",
        _ => "EVENTS",
    }
}

pub fn workflow(env: &Env, name: &str) -> Result<Workflow> {
    Ok(Workflow::from_env(env, &binding(name))?)
}

pub fn events(env: &Env, name: &str) -> Result<WorkflowEventsNamespace> {
    let events = WorkflowEventsNamespace::from_env(env, events_binding(name), name)?;
    let events = events.with_workflow(workflow(env, name)?).ask_for_unknown();
    let events = match name {
        "crowd" => events.fan_out(crowd::FAN_OUT),
        _ => events,
    };
    Ok(match env.var("TRANSPORT") {
        Ok(name) if name.to_string() == "hibernating" => events.transport(Transport::Hibernating),
        Ok(name) if name.to_string() == "direct" => events.transport(Transport::Direct),
        _ => events,
    })
}
