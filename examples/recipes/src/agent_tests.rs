use cloudflare_workflows::StepError;
use cloudflare_workflows::testing::FakeInstance;
use futures_executor::block_on;

const ANSWER: &str = "Your parcel is in Utrecht and arrives in 2 days.";

fn ask(instance: &FakeInstance) -> String {
    let run = instance.run(async |step| super::answer(&step, "Where is it?".to_owned()).await);
    block_on(run).unwrap()
}

#[test]
fn the_agent_thinks_and_calls_tools_until_it_has_an_answer() {
    let instance = FakeInstance::new();
    assert_eq!(ask(&instance), ANSWER);
    let steps: Vec<String> = instance.steps().into_iter().map(|step| step.name).collect();
    let expected = ["think", "find parcel", "think", "estimate route", "think"];
    assert_eq!(steps, expected);
}

#[test]
fn a_model_that_is_busy_is_asked_again() {
    let instance = FakeInstance::new();
    instance.fail_attempt("think", StepError::new("the model is busy"));
    assert_eq!(ask(&instance), ANSWER);
    assert_eq!(instance.steps()[0].attempts, 2);
}
