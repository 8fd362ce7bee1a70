// The events of a run's log, and its snapshot: what `GET /<id>/sse` streams, and what `GET /<id>` answers to
// `Accept: application/json`. Copy it into your project, or import it.
//
// Generated from the Rust types: see tests/typescript.rs. Times are ISO 8601 in UTC with milliseconds.

/**
 * A run as it stands at a position of its log: what `GET /<id>` answers to a client that accepts
 * `application/json`.
 */
export interface RunSnapshot {
  /** The id of the instance, or the name of a log that is not a workflow's. */
  id: string;
  /** The workflow's name; absent for a log that is not a workflow's. */
  workflow?: string;
  /** The number of the run, from 1: a restart begins the next. */
  run: number;
  /** The state of the run. */
  state: RunState;
  /** When it began. */
  started?: string;
  /** When it ended. */
  ended?: string;
  /** The error, if it failed. */
  error?: string;
  /** The id of the last event in it; absent if there is none yet. */
  cursor?: number;
  /**
   * How long the run and its tasks are expected to take, while it goes on and if an index of runs has enough to
   * say.
   */
  estimate?: RunEstimate;
  /** The number of all tasks, on all levels. */
  taskCount: number;
  /** The tasks that are not part of another one, in the order in which they began. */
  tasks: TaskView[];
}

/** How long a run and its tasks are expected to take, as its index knew when it began. */
export interface RunEstimate {
  /** The whole run; absent where there is too little to say. */
  run?: Estimate;
  /** Its tasks, by their ids: those of which there is enough to say, at most the 32 that take longest. */
  tasks: Record<string, Estimate>;
}

/** How long something took in the runs of a workflow that completed lately. */
export interface Estimate {
  /** Of how many runs that is. */
  runs: number;
  /** Half of them took no longer, in milliseconds. */
  medianMs: number;
  /** One in ten took no longer. */
  lowMs: number;
  /** Nine in ten took no longer. */
  highMs: number;
}

/** The state of a task: a step, or a group of steps. */
export interface TaskView {
  /** The task's id, the same in every lifetime of the run. */
  taskId: TaskId;
  /** The step's name. */
  step: string;
  /** The kind of task. */
  kind: Kind;
  /** Its number among the tasks of that kind and name, from 1. */
  count: number;
  /** The group that it is part of; `null` directly under the workflow. */
  parentId: TaskId | null;
  /** The state. */
  state: TaskState;
  /** The error, if it failed. */
  error?: string;
  /** When it began. */
  started: string;
  /** When it ended. */
  ended?: string;
  /** The latest known attempt, from 1. */
  attempt?: number;
  /** The attempts that failed. */
  failedAttempts?: FailedAttempt[];
  /**
   * When the next attempt begins, after one that failed. It is not there if that is not known, and once the
   * attempt is known to run.
   */
  retryAt?: string;
  /** When the sleep ends, or the wait times out. */
  until?: string;
  /** The type of the event that the wait is for. */
  eventType?: string;
  /** The latest reported progress, from 0 to 100. */
  percent?: number;
  /** The latest reported message. */
  message?: string;
  /** The attributes that its code set, or reported last. */
  attributes?: Record<string, unknown>;
  /** Its rollback, once that runs. */
  rollback?: RollbackView;
  /** The tasks that are part of it, in the order in which they began. */
  tasks?: TaskView[];
}

/** An attempt that failed. */
export interface FailedAttempt {
  /** The attempt's number, from 1. */
  attempt: number;
  /** The error's message. */
  error: string;
  /** When it failed. */
  ended: string;
}

/** The state of a step's rollback. */
export interface RollbackView {
  /** The state. */
  state: TaskState;
  /** The latest attempt, from 1. */
  attempt?: number;
  /** The attempts that failed. */
  failedAttempts?: FailedAttempt[];
  /** The error, if it failed. */
  error?: string;
}

/** The state of a run. */
export type RunState = "queued" | "running" | "waitingForPause" | "paused" | "waiting" | "rollingBack" | "completed" | "failed" | "terminated";

/** The state of a task, or of its rollback. */
export type TaskState = "running" | "completed" | "failed" | "stopped";

/** The kind of a task. */
export type Kind = "do" | "sleep" | "sleepUntil" | "waitForEvent" | "workflow";

/**
 * The name of a task within its run. It is derived from what the engine identifies a step by: kind, name, and how
 * many steps of that kind and name began before it.
 */
export type TaskId = string;

/** Reports a position that cannot be honoured: it is beyond the log's head, or older than what the log keeps. */
export interface Reset {
  /**
   * The requested position. `null` is the start of a log that was empty when the subscriber came; events were
   * removed before the subscriber read them.
   */
  requested: number | null;
  /** The oldest event kept. `null` if there is none. */
  oldest: number | null;
  /** The greatest id ever assigned. `null` if none was. */
  head: number | null;
}

/** A task begins; once for each task. */
export interface StartedEvent {
  /** The id of the task, the same in every lifetime of the run. */
  taskId: TaskId;
  /** The step's name. */
  step: string;
  /** The kind of task. */
  kind: Kind;
  /** Its number among the tasks of that kind and name, from 1. */
  count: number;
  /** When the event was observed, in UTC with milliseconds. */
  timestamp: string;
  /** The task that this one is part of; `null` for the workflow itself. */
  parentId: TaskId | null;
  /**
   * When a sleep ends, or a wait times out. It is computed when the step is first observed, and is absent beyond
   * the year 9999.
   */
  until?: string;
  /** The type of the event that a wait is for. */
  eventType?: string;
}

/** An attempt of a `do` step failed and is retried, or was the last. */
export interface AttemptFailedEvent {
  /** The id of the task, the same in every lifetime of the run. */
  taskId: TaskId;
  /** The step's name. */
  step: string;
  /** The kind of task. */
  kind: Kind;
  /** Its number among the tasks of that kind and name, from 1. */
  count: number;
  /** When the event was observed, in UTC with milliseconds. */
  timestamp: string;
  /** The task that this one is part of; `null` for the workflow itself. */
  parentId: TaskId | null;
  /** The attempt of a `do` step, from 1. */
  attempt: number;
  /** The error's message, never a stack. */
  error: string;
  /**
   * When the next attempt begins, at the earliest. It is absent if no attempt follows, and if the time is not
   * known, for example because a function chooses it.
   */
  retryAt?: string;
}

/** The step's code reported progress. */
export interface ProgressEvent {
  /** The id of the task, the same in every lifetime of the run. */
  taskId: TaskId;
  /** The step's name. */
  step: string;
  /** The kind of task. */
  kind: Kind;
  /** Its number among the tasks of that kind and name, from 1. */
  count: number;
  /** When the event was observed, in UTC with milliseconds. */
  timestamp: string;
  /** The task that this one is part of; `null` for the workflow itself. */
  parentId: TaskId | null;
  /** The reported progress, from 0 to 100. */
  percent?: number;
  /** The reported message. */
  message?: string;
  /** The attributes that the step's code set. */
  attributes?: Record<string, unknown>;
}

/** A task ended well; once for each task. Of the workflow itself it is the last event of the run. */
export interface CompletedEvent {
  /** The id of the task, the same in every lifetime of the run. */
  taskId: TaskId;
  /** The step's name. */
  step: string;
  /** The kind of task. */
  kind: Kind;
  /** Its number among the tasks of that kind and name, from 1. */
  count: number;
  /** When the event was observed, in UTC with milliseconds. */
  timestamp: string;
  /** The task that this one is part of; `null` for the workflow itself. */
  parentId: TaskId | null;
  /** The attempt of a `do` step, from 1. */
  attempt?: number;
  /** The attributes that the step's code set. */
  attributes?: Record<string, unknown>;
}

/** A task failed for good; once for each task. Of the workflow itself it is the last event of the run. */
export interface FailedEvent {
  /** The id of the task, the same in every lifetime of the run. */
  taskId: TaskId;
  /** The step's name. */
  step: string;
  /** The kind of task. */
  kind: Kind;
  /** Its number among the tasks of that kind and name, from 1. */
  count: number;
  /** When the event was observed, in UTC with milliseconds. */
  timestamp: string;
  /** The task that this one is part of; `null` for the workflow itself. */
  parentId: TaskId | null;
  /** The error's message, never a stack. */
  error: string;
  /** The attempt of a `do` step, from 1. */
  attempt?: number;
}

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
export type StepEvents = Pick<EventMap, "started" | "attempt_failed" | "progress" | "completed" | "failed">;

/** An event with its type, so that `switch (event.type)` says which data it has. */
export type RunEvent = { [Type in keyof EventMap]: { type: Type; data: EventMap[Type] } }[keyof EventMap];
