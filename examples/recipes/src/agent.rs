//! An agent: it asks a model what to do, calls the tools that the model names, and asks again until there is an
//! answer. The model's words are streamed to viewers as they come.
//! Each question to the model and each call of a tool is a step, so a crash repeats neither: their results are
//! stored. The model is a fake with fixed answers.
//! The model is a fake that always says the same.

use std::time::Duration;

use cloudflare_workflows::{
    NonRetryableError, Progress, Retries, Step, StepContext, StepError, WorkflowEntrypoint,
    WorkflowEvent, WorkflowStep,
};
use serde::{Deserialize, Serialize};
use worker::{Context, Env};

use crate::{events, work_for};

/// The params of a run.
#[derive(Deserialize, Serialize)]
pub struct Question {
    question: String,
}

pub struct Agent(Env);

impl WorkflowEntrypoint for Agent {
    type Input = Question;
    type Output = String;

    fn new(_context: Context, env: Env) -> Self {
        Self(env)
    }

    async fn run(
        &self,
        event: WorkflowEvent<Question>,
        step: WorkflowStep,
    ) -> Result<String, StepError> {
        let run = events(&self.0, "agent", "AGENT")?.wrap(&event, step);
        run.workflow(async move |step| answer(&step, event.payload.question).await)
            .await
    }
}

/// A message of the talk with the model.
#[derive(Clone, Deserialize, Serialize)]
enum Message {
    User(String),
    Call { tool: String, input: String },
    Result(String),
    Answer(String),
}

const MAX_TURNS: usize = 8;

async fn answer(step: &impl Step, question: String) -> Result<String, StepError> {
    let mut talk = vec![Message::User(question)];
    for _ in 0..MAX_TURNS {
        let said = talk.clone();
        let reply = step
            .run("think", async move |attempt| Ok(ask(&said, &attempt).await))
            .retries(Retries::new(3, Duration::from_secs(1)))
            .await?;
        match reply.clone() {
            Message::Answer(text) => return Ok(text),
            Message::Call { tool, input } => {
                let name = tool.clone();
                let result = step
                    .run(&name, async move |attempt| {
                        attempt.set_attribute("input", input.as_str());
                        call(&tool, &input).await
                    })
                    .await?;
                talk.extend([reply, Message::Result(result)]);
            }
            Message::User(_) | Message::Result(_) => {
                return Err(StepError::new("the model answers in another role"));
            }
        }
    }
    let reason = format!("there is no answer after {MAX_TURNS} turns");
    Err(NonRetryableError::new(reason).into())
}

/// Asks the model, and reports its words as they come.
async fn ask(talk: &[Message], attempt: &StepContext) -> Message {
    let (words, reply) = model(talk);
    let mut said = String::new();
    for word in words.split_inclusive(' ') {
        work_for(Duration::from_millis(40)).await;
        said.push_str(word);
        attempt.progress(Progress::from(said.as_str()));
    }
    reply
}

/// Returns the fake model's words, and its next message.
fn model(talk: &[Message]) -> (String, Message) {
    let call = |tool: &str, input: &str| Message::Call {
        tool: tool.to_owned(),
        input: input.to_owned(),
    };
    let results: Vec<&str> = talk.iter().filter_map(result_of).collect();
    match results[..] {
        [] => (
            "I look up where the parcel is.".to_owned(),
            call("find parcel", "TRACK-1"),
        ),
        [place] => (
            format!("It is in {place}. I ask how long it takes from there."),
            call("estimate route", place),
        ),
        [place, time, ..] => {
            let text = format!("Your parcel is in {place} and arrives in {time}.");
            (text.clone(), Message::Answer(text))
        }
    }
}

fn result_of(message: &Message) -> Option<&str> {
    match message {
        Message::Result(text) => Some(text),
        _ => None,
    }
}

/// Calls a tool.
async fn call(tool: &str, input: &str) -> Result<String, StepError> {
    work_for(Duration::from_millis(300)).await;
    match (tool, input) {
        ("find parcel", "TRACK-1") => Ok("Utrecht".to_owned()),
        ("estimate route", "Utrecht") => Ok("2 days".to_owned()),
        _ => Err(NonRetryableError::new(format!("there is no tool {tool}")).into()),
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
