// Names of the Workflows API in Cloudflare's types that are not bound, and why.
export const LEFT_OUT = {
  "Workflow.createBatch.batch": "deprecated in favour of the form with an object, which tells what could not be created",
  "WorkflowRollbackContext.stepName": "deprecated in favour of `ctx.step.name` and `ctx.step.count`, which are bound",
  "WorkflowEntrypoint.ctx": "a field that the base class sets; in Rust a workflow keeps what its constructor gets",
  "WorkflowEntrypoint.env": "as `ctx`",
  "WorkflowEntrypointBranded": "only for TypeScript's type checker",
  "WorkflowStepConfigWithStaticDelay": "only to choose an overload of `do` in TypeScript, and not exported",
  "WorkflowStepConfigWithDelayFunction": "as `WorkflowStepConfigWithStaticDelay`",
  "NonRetryableError.constructor.name": "the platform knows the error by its name, so that another would make it one that is retried",
  "WorkflowError.code": "no error of the local engine has one; the kind is read from the message, where the code is a word",
};
