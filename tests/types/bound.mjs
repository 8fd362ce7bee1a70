// Where each name of the Workflows API in Cloudflare's types is bound in cloudflare-workflows/src: the file, or files
// separated by spaces, and code that must be in one of them.

const duration = "pub struct WorkflowDuration {";
const retries = { limit: "pub limit: u32,", backoff: "pub backoff: Backoff,", delay: "pub delay: RetryDelay," };

export const BOUND = {
  "step/mod.rs": {
    "WorkflowStep": "pub trait Step: Clone {",
    "WorkflowStep.do": "fn run<T, F>(&self, name: &str, callback: F)",
    "WorkflowStep.do.name": "fn run<T, F>(&self, name: &str,",
    "WorkflowStep.do.callback": "F: AsyncFn(StepContext) -> Result<T, StepError> + 'static",
    "WorkflowStep.do.config": "fn run_with<T, F>(",
    "WorkflowStep.do.rollbackOptions": "pub fn rollback_with(",
    "WorkflowStep.sleep": "async fn sleep(",
    "WorkflowStep.sleep.name": "async fn sleep( &self, name: &str,",
    "WorkflowStep.sleep.duration": "duration: impl Into<WorkflowDuration>,",
    "WorkflowStep.sleepUntil": "async fn sleep_until(",
    "WorkflowStep.sleepUntil.name": "async fn sleep_until(&self, name: &str,",
    "WorkflowStep.sleepUntil.timestamp": "time: SystemTime) -> Result<(), StepError>;",
    "WorkflowStep.waitForEvent": "async fn wait_for_event<T>(",
    "WorkflowStep.waitForEvent.name": "async fn wait_for_event<T>( &self, name: &str,",
    "WorkflowStep.waitForEvent.options": "pub struct WaitForEvent {",
    "WorkflowStep.waitForEvent.options.type": "pub event_type: String,",
    "WorkflowStep.waitForEvent.options.timeout": "pub timeout: Option<WorkflowDuration>,",
    "WorkflowStepEvent": "pub struct WaitedEvent<T> {",
    "WorkflowStepEvent.payload": "pub payload: T,",
    "WorkflowStepEvent.timestamp": "pub timestamp: SystemTime,",
    "WorkflowStepEvent.type": "pub event_type: String,",
    "WorkflowStepEvent.sensitive": "pub sensitive: Option<Sensitivity>,",
    "WorkflowStepRollbackOptions": "pub fn rollback_with(",
    "WorkflowStepRollbackOptions.rollback": "handler: impl AsyncFn(RollbackContext<T>) -> Result<(), StepError> + 'static,",
    "WorkflowStepRollbackOptions.rollbackConfig": "config: RollbackConfig,",
  },
  "step/rollback.rs": {
    "WorkflowRollbackContext": "pub struct RollbackContext<T> {",
    "WorkflowRollbackContext.ctx": "pub ctx: StepContext,",
    "WorkflowRollbackContext.error": "pub error: StepError,",
    "WorkflowRollbackContext.output": "pub output: Option<T>,",
    "WorkflowRollbackHandler": "handler: impl AsyncFn(RollbackContext<T>) -> Result<(), StepError> + 'static,",
  },
  "step/duration.rs": {
    "WorkflowDelayDuration": duration,
    "WorkflowRetentionDuration": duration,
    "WorkflowSleepDuration": duration,
    "WorkflowTimeoutDuration": duration,
    "WorkflowDurationLabel": "enum Unit {",
    'WorkflowDurationLabel="second"': 'Self::Second => "second",',
    'WorkflowDurationLabel="minute"': 'Self::Minute => "minute",',
    'WorkflowDurationLabel="hour"': 'Self::Hour => "hour",',
    'WorkflowDurationLabel="day"': 'Self::Day => "day",',
    'WorkflowDurationLabel="week"': 'Self::Week => "week",',
    'WorkflowDurationLabel="month"': 'Self::Month => "month",',
    'WorkflowDurationLabel="year"': 'Self::Year => "year",',
  },
  "step/config.rs step/resolved.rs": {
    "WorkflowStepConfig": "pub struct StepConfig {",
    "WorkflowStepConfig.retries": "pub struct StepConfig { pub retries: Option<Retries>,",
    "WorkflowStepConfig.retries.limit": retries.limit,
    "WorkflowStepConfig.retries.delay": retries.delay,
    "WorkflowStepConfig.retries.backoff": retries.backoff,
    "WorkflowStepConfig.timeout": "pub timeout: Option<WorkflowDuration>,",
    "WorkflowStepConfig.sensitive": "pub sensitive: Option<Sensitivity>,",
    "WorkflowStepSensitivity": "pub enum Sensitivity {",
    'WorkflowStepSensitivity="output"': "pub enum Sensitivity { Output, }",
    "WorkflowBackoff": "pub enum Backoff {",
    'WorkflowBackoff="constant"': "Constant,",
    'WorkflowBackoff="linear"': "Linear,",
    'WorkflowBackoff="exponential"': "Exponential,",
    "WorkflowDelayFunction": "pub struct DelayFunction {",
    "WorkflowDynamicDelayContext": "pub struct DelayContext {",
    "WorkflowDynamicDelayContext.ctx": "pub ctx: StepContext,",
    "WorkflowDynamicDelayContext.error": "pub error: StepError,",
    "WorkflowStepContext.config": "pub struct ResolvedConfig {",
    "WorkflowStepContext.config.retries": "pub retries: ResolvedRetries,",
    "WorkflowStepContext.config.retries.limit": retries.limit,
    "WorkflowStepContext.config.retries.delay": "pub delay: Option<WorkflowDuration>,",
    "WorkflowStepContext.config.retries.backoff": retries.backoff,
    "WorkflowStepContext.config.timeout": "pub timeout: WorkflowDuration,",
    "WorkflowStepContext.config.sensitive": "pub sensitive: Option<Sensitivity>,",
    "WorkflowStepRollbackConfig": "pub struct RollbackConfig {",
    'WorkflowStepRollbackConfig="retries"': "pub struct RollbackConfig { pub retries: Option<Retries>,",
    ...eventConfigs(),
    'WorkflowStepRollbackConfig="timeout"': "pub struct RollbackConfig { pub retries: Option<Retries>, pub timeout: Option<WorkflowDuration>,",
  },
  "step/context.rs": {
    "WorkflowStepContext": "pub struct StepContext {",
    "WorkflowStepContext.step": "pub struct StepContext {",
    "WorkflowStepContext.step.name": "pub name: String,",
    "WorkflowStepContext.step.count": "pub count: u32,",
    "WorkflowStepContext.attempt": "pub attempt: u32,",
  },
  "step/error.rs": {
    "NonRetryableError": "pub struct NonRetryableError {",
    "NonRetryableError.constructor": "pub fn new(message: impl Into<String>) -> Self {",
    "NonRetryableError.constructor.message": "pub fn new(message: impl Into<String>) -> Self {",
  },
  "worker/entrypoint.rs": {
    "WorkflowEntrypoint": "pub trait WorkflowEntrypoint: 'static {",
    "WorkflowEntrypoint.constructor": "fn new(context: Context, env: Env) -> Self;",
    "WorkflowEntrypoint.constructor.ctx": "fn new(context: Context,",
    "WorkflowEntrypoint.constructor.env": "env: Env) -> Self;",
    "WorkflowEntrypoint.run": "async fn run(",
    "WorkflowEntrypoint.run.event": "event: WorkflowEvent<Self::Input>,",
    "WorkflowEntrypoint.run.step": "step: WorkflowStep,",
    "WorkflowEvent": "pub struct WorkflowEvent<P> {",
    "WorkflowEvent.payload": "pub payload: P,",
    "WorkflowEvent.timestamp": "pub timestamp: SystemTime,",
    "WorkflowEvent.instanceId": "pub instance_id: String,",
    "WorkflowEvent.workflowName": "pub workflow_name: String,",
    "WorkflowEvent.schedule": "pub schedule: Option<CronSchedule>,",
    "WorkflowCronSchedule": "pub struct CronSchedule {",
    "WorkflowCronSchedule.cron": "pub cron: String,",
    "WorkflowCronSchedule.scheduledTime": "pub scheduled_time: SystemTime,",
  },
  "instance/event.rs instance/event_type.rs instance/options.rs": {
    "WorkflowInstanceEvent": "pub struct WorkflowInstanceEvent {",
    "WorkflowInstanceEvent.instanceId": "pub instance_id: String,",
    "WorkflowInstanceEvent.eventId": "pub event_id: InstanceEventId,",
    "WorkflowInstanceEvent.timestamp": "pub timestamp: SystemTime,",
    "WorkflowInstanceEventType": "pub enum WorkflowInstanceEventType {",
    'WorkflowInstanceEventType="type"': "pub enum WorkflowInstanceEventType {",
    "WorkflowInstanceSubscribeOptions": "pub struct SubscribeOptions {",
    "WorkflowInstanceSubscribeOptions.cursor": "pub cursor: Option<InstanceEventId>,",
    "WorkflowInstanceSubscribeOptions.filter": "pub filter: Option<Vec<WorkflowInstanceEventType>>,",
    "InstanceStatus.error.name": "pub struct InstanceError { #[serde(default)] pub name: String,",
    "InstanceStatus.error.message": "pub message: String,",
    ...events(),
  },
  "worker/subscribe.rs": {
    "WorkflowInstance.subscribe": "pub async fn subscribe(",
    "WorkflowInstance.subscribe.options": "options: SubscribeOptions,",
    "WorkflowInstanceSubscription": "pub struct WorkflowSubscription {",
    "WorkflowInstanceSubscription.next": "impl Stream for WorkflowSubscription {",
  },
  "worker/workflow.rs worker/instance.rs worker/error.rs": {
    "Workflow": "pub struct Workflow {",
    "Workflow.get": "pub async fn get(&self, id: &str)",
    "Workflow.get.id": "pub async fn get(&self, id: &str)",
    "Workflow.create": "pub async fn create(&self,",
    "Workflow.create.options": "pub async fn create(&self, options: CreateOptions)",
    "Workflow.createBatch": "pub async fn create_batch(",
    "Workflow.createBatch.options": "options: BatchCreateOptions,",
    "Workflow.deleteBatch": "pub async fn delete_batch<I>(",
    "Workflow.deleteBatch.instanceIds": "delete_batch<I>(&self, ids: I)",
    "WorkflowError": "pub struct WorkflowError {",
    "WorkflowError.message": "f.write_str(&self.message)",
    "WorkflowInstance": "pub struct WorkflowInstance {",
    "WorkflowInstance.id": "pub fn id(&self) -> String {",
    "WorkflowInstance.pause": "pub async fn pause(&self)",
    "WorkflowInstance.resume": "pub async fn resume(&self)",
    "WorkflowInstance.terminate": "pub async fn terminate(&self)",
    "WorkflowInstance.terminate.options": "pub async fn terminate_with(&self, options: TerminateOptions)",
    "WorkflowInstance.restart": "pub async fn restart(&self)",
    "WorkflowInstance.restart.options": "pub async fn restart_from(&self, step: RestartFrom)",
    "WorkflowInstance.delete": "pub async fn delete(&self)",
    "WorkflowInstance.status": "pub async fn status<O: DeserializeOwned>(&self)",
    "WorkflowInstance.sendEvent": "pub async fn send_event<T: Serialize + ?Sized>(",
    "WorkflowInstance.sendEvent.type": "event_type: &str,",
    "WorkflowInstance.sendEvent.payload": "payload: &T,",
    "WorkflowInstanceTerminateOptions": "pub struct TerminateOptions {",
    "WorkflowInstanceTerminateOptions.rollback": "pub rollback: bool,",
    "WorkflowInstanceRestartOptions": "pub async fn restart_from(",
    "WorkflowInstanceRestartOptions.from": "pub struct RestartFrom {",
    "WorkflowInstanceRestartOptions.from.name": "pub name: String,",
    "WorkflowInstanceRestartOptions.from.count": "pub count: u32,",
    "WorkflowInstanceRestartOptions.from.type": "pub step_type: Option<StepKind>,",
    "InstanceStatus": "pub struct InstanceStatus<O> {",
    "InstanceStatus.status": "pub state: InstanceState,",
    "InstanceStatus.error": "pub error: Option<InstanceError>,",
    "InstanceStatus.output": "pub output: Option<O>,",
    "WorkflowInstanceStatus": "pub enum InstanceState {",
    ...states(["complete", "errored", "paused", "queued", "rollingBack", "running", "terminated", "unknown", "waiting", "waitingForPause"]),
  },
  "step/kind.rs": {
    'WorkflowInstanceRestartOptions.from.type="do"': "pub enum StepKind { Do,",
    'WorkflowInstanceRestartOptions.from.type="sleep"': "pub enum StepKind { Do, Sleep,",
    'WorkflowInstanceRestartOptions.from.type="waitForEvent"': 'pub enum StepKind { Do, Sleep, #[serde(rename = "sleep")] SleepUntil, WaitForEvent, }',
  },
  "worker/create.rs worker/batch.rs": {
    "WorkflowInstanceCreateOptions": "pub struct CreateOptions {",
    "WorkflowInstanceCreateOptions.id": 'self.set("id",',
    "WorkflowInstanceCreateOptions.params": 'self.set("params",',
    "WorkflowInstanceCreateOptions.retention": 'self.set("retention",',
    "WorkflowInstanceCreateOptions.retention.successRetention": '("successRetention", retention.success)',
    "WorkflowInstanceCreateOptions.retention.errorRetention": '("errorRetention", retention.error)',
    "WorkflowInstanceCreateOptions.locationHint": 'self.set("locationHint",',
    "WorkflowInstanceLocationHint": "pub enum LocationHint {",
    ...literals("WorkflowInstanceLocationHint", ["afr", "apac", "apac-ne", "apac-se", "eeur", "enam", "me", "oc", "sam", "weur", "wnam"]),
    "WorkflowBatchCreateOptions": "pub struct BatchCreateOptions {",
    "WorkflowBatchCreateOptions.count": "pub fn count(count: u32, options: CreateOptions) -> Self {",
    "WorkflowBatchCreateOptions.params": '["params", "retention", "locationHint"]',
    "WorkflowBatchCreateOptions.retention": '["params", "retention", "locationHint"]',
    "WorkflowBatchCreateOptions.retention.successRetention": '("successRetention", retention.success)',
    "WorkflowBatchCreateOptions.retention.errorRetention": '("errorRetention", retention.error)',
    "WorkflowBatchCreateOptions.locationHint": '["params", "retention", "locationHint"]',
    "WorkflowBatchCreateOptions.instances": "pub fn instances(instances: impl IntoIterator<Item = CreateOptions>) -> Self {",
    "WorkflowBatchCreateResult": "pub struct BatchCreated {",
    "WorkflowBatchCreateResult.created": "pub created: Vec<WorkflowInstance>,",
    "WorkflowBatchCreateResult.errors": "pub errors: Vec<BatchCreateError>,",
    "WorkflowBatchCreateResult.errors.index": "pub index: u32,",
    "WorkflowBatchCreateResult.errors.id": "pub id: Option<String>,",
    "WorkflowBatchCreateResult.errors.code": "pub code: u32,",
    "WorkflowBatchCreateResult.errors.message": "pub message: String,",
    "WorkflowBatchDeleteResult": "pub struct BatchDeleted {",
    "WorkflowBatchDeleteResult.deleted": "pub deleted: Vec<String>,",
    "WorkflowBatchDeleteResult.deleted.id": "pub deleted: Vec<String>,",
    "WorkflowBatchDeleteResult.errors": "pub errors: Vec<BatchDeleteError>,",
    "WorkflowBatchDeleteResult.errors.id": "pub struct BatchDeleteError { pub id: String,",
    "WorkflowBatchDeleteResult.errors.code": "pub struct BatchDeleteError { pub id: String, pub code: u32,",
    "WorkflowBatchDeleteResult.errors.message": "pub struct BatchDeleteError { pub id: String, pub code: u32, pub message: String,",
  },
};

/** Both types of states, by the variants of one enum. */
function states(names) {
  const variant = (name) => name[0].toUpperCase() + name.slice(1);
  const entries = names.map((name) => [name, `"${name}" => Self::${variant(name)},`]);
  // The last has no arm of its own: any other value is unknown too.
  const code = entries.map(([name, arm]) => [name, name === "unknown" ? "_ => Self::Unknown," : arm]);
  const types = [["InstanceStatus.status", names], ["WorkflowInstanceStatus", names.filter((name) => name !== "rollingBack")]];
  return Object.fromEntries(types.flatMap(([type, known]) => code.filter(([name]) => known.includes(name)).map(([name, arm]) => [`${type}="${name}"`, arm])));
}

function literals(type, names) {
  return Object.fromEntries(names.map((name) => [`${type}="${name}"`, `=> "${name}",`]));
}

/** The kinds of events, with their fields. */
function kinds() {
  const optional = '#[serde(default, skip_serializing_if = "Option::is_none")]';
  const step = { stepName: "step_name: StepName," };
  const attempt = { ...step, attempt: "attempt: u32," };
  const error = { error: "error: InstanceError," };
  const delay = { retryDelayMs: '#[serde( rename = "retryDelayMs", default, skip_serializing_if = "Option::is_none", with = "milliseconds_option" )] retry_delay: Option<Duration>,' };
  const config = { config: `${optional} config: Option<ResolvedConfig>,` };
  const output = { output: `${optional} output: Option<Value>,` };
  return {
    workflow_queued: {},
    workflow_started: { params: `${optional} params: Option<Value>,` },
    workflow_running: {},
    workflow_paused: {},
    workflow_waiting_for_pause: {},
    workflow_waiting: {},
    workflow_completed: output,
    workflow_errored: error,
    workflow_terminated: {},
    step_started: { ...step, ...config },
    step_completed: { ...step, ...output },
    step_errored: step,
    attempt_started: attempt,
    attempt_completed: attempt,
    attempt_errored: { ...attempt, ...delay, ...error },
    sleep_started: { ...step, durationMs: '#[serde(rename = "durationMs", with = "milliseconds")] duration: Duration,' },
    sleep_completed: step,
    wait_started: { ...step, eventType: "event_type: String," },
    wait_completed: step,
    wait_timed_out: step,
    rollback_started: {},
    rollback_step_started: { ...step, ...config },
    rollback_step_completed: step,
    rollback_step_errored: { ...step, ...error },
    rollback_attempt_started: attempt,
    rollback_attempt_completed: attempt,
    rollback_attempt_errored: { ...attempt, ...delay, ...error },
    rollback_completed: {},
    rollback_errored: {},
  };
}

/** Each kind is a variant with exactly its fields, and a type to filter by. */
function events() {
  return Object.fromEntries(
    Object.entries(kinds()).flatMap(([kind, fields]) => {
      const variant = kind.replace(/(?:^|_)([a-z])/g, (_, letter) => letter.toUpperCase());
      const code = Object.values(fields).join(" ");
      const name = `WorkflowInstanceEvent[${kind}]`;
      const inError = "error" in fields ? [["error.name", "pub name: String,"], ["error.message", "pub message: String,"]] : [];
      return [
        [name, `${variant} = "${kind}",`],
        ...Object.keys(fields).map((field) => [`${name}.${field}`, `${variant} { ${code} },`]),
        ...inError.map(([field, text]) => [`${name}.${field}`, text]),
      ];
    }),
  );
}

/** The config in an event. */
function eventConfigs() {
  const code = {
    "retries": "pub retries: ResolvedRetries,",
    "retries.limit": "pub limit: u32,",
    "retries.delay": "pub delay: Option<WorkflowDuration>,",
    'retries.delay="[dynamic]"': 'const DYNAMIC: &str = "[dynamic]";',
    "retries.backoff": "pub backoff: Backoff,",
    'retries.backoff="constant"': "Constant,",
    'retries.backoff="linear"': "Linear,",
    'retries.backoff="exponential"': "Exponential,",
    "timeout": "pub timeout: WorkflowDuration,",
    "sensitive": "pub sensitive: Option<Sensitivity>,",
    'sensitive="output"': "pub enum Sensitivity { Output, }",
  };
  const entries = (kind) => Object.entries(code).map(([field, text]) => [`WorkflowInstanceEvent[${kind}].config.${field}`, text]);
  return Object.fromEntries(["step_started", "rollback_step_started"].flatMap(entries));
}
