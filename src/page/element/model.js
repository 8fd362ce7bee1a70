// The state of a run: a fold over the events of the stream, or a snapshot and the events after it. Pure.
//
// The rules are those of `RunView` in src/workflow/view.rs, and tests/page checks that both agree.
// Each event costs the same, whatever came before: only `load` and `view` walk over all tasks.

/**
 * @typedef {{ attempt: number, error: string, ended: number | null, retryAt: number | null }} FailedAttempt
 * @typedef {"running" | "completed" | "failed" | "stopped"} TaskState
 *
 * @typedef {object} Task
 * @property {string} id
 * @property {string} step
 * @property {string} kind `do`, `sleep`, `sleepUntil` or `waitForEvent`
 * @property {number} count
 * @property {string | null} parentId
 * @property {Task | null} parent
 * @property {Task[]} children
 * @property {number} place its number among its siblings, from 1
 * @property {number} depth 0 under the workflow
 * @property {TaskState} state
 * @property {number | null} started in milliseconds since 1970
 * @property {number | null} ended
 * @property {string | null} error
 * @property {number | null} attempt
 * @property {FailedAttempt[]} failedAttempts
 * @property {number | null} retryAt
 * @property {number | null} until
 * @property {string | null} eventType
 * @property {number | null} percent
 * @property {string | null} message
 * @property {object | null} attributes
 * @property {object | null} rollback
 * @property {boolean} retrying an attempt failed, and nothing is known of the next
 * @property {boolean} collapsed
 * @property {boolean} critical on the critical path; known once the run has ended
 * @property {number} row where it is shown, or -1
 * @property {number} version goes up with each change
 */

/** The types of events that a stream of a run has. */
export const EVENT_TYPES = ["started", "attempt_failed", "progress", "completed", "failed", "restarted", "reset", "expired"];

/** States in which a run does not change any more. */
const ENDED = ["completed", "failed", "terminated"];

/** The error with which our own log ends a run that was terminated from outside. */
const TERMINATED = "the instance was terminated";

/** Gaps that are shorter than this are never folded, in milliseconds. */
export const SHORTEST_GAP = 10_000;
const MOST_GAPS = 4096;

export class Run {
  constructor() {
    /** @type {string | null} */ this.id = null;
    /** @type {string | null} */ this.workflow = null;
    /** The number of the run, from 1: a restart begins the next. */ this.number = 1;
    /** The latest `reset`, if history is lost. @type {{ requested: unknown, oldest: unknown, head: unknown } | null} */ this.lost = null;
    /** What is expected of the run and of its tasks. @type {any} */ this.estimate = null;
    /** The id of the last event. @type {number | null} */ this.cursor = null;
    this.clear();
  }

  clear() {
    /** Grows whenever the tasks are dropped. */
    this.epoch = (this.epoch ?? 0) + 1;
    this.state = "queued";
    /** @type {number | null} */ this.started = null;
    /** @type {number | null} */ this.ended = null;
    /** @type {string | null} */ this.error = null;
    /** In the order in which they began. @type {Task[]} */ this.tasks = [];
    /** @type {Task[]} */ this.roots = [];
    /** @type {Map<string, Task>} */ this.byId = new Map();
    /** @type {Set<Task>} */ this.open = new Set();
    /** Started tasks, the newest last; ended ones are removed once they are at the end. @type {Task[]} */ this.stack = [];
    this.counts = { running: 0, completed: 0, failed: 0, stopped: 0 };
    this.waits = 0;
    this.sleeps = 0;
    /** How many tasks failed, or had an attempt that did. */ this.errors = 0;
    /** The step that took longest, of those that are over. @type {Task | null} */ this.slowest = null;
    this.activity = new Activity();
    this.hasCriticalPath = false;
  }

  get hasEnded() {
    return ENDED.includes(this.state);
  }

  /** The newest task that is open, or the newest of all. @returns {Task | undefined} */
  get newest() {
    while (this.stack.length > 0 && this.stack[this.stack.length - 1].state !== "running") this.stack.pop();
    return this.stack[this.stack.length - 1] ?? this.tasks[this.tasks.length - 1];
  }

  /**
   * The run's phase, in the words of the page: the log's own state, or `waiting` or `sleeping` if the run does
   * nothing else. A log without a workflow has no state of its own; its tasks determine it.
   */
  get phase() {
    if (this.state === "queued" && this.tasks.length > 0) {
      return this.open.size > 0 ? "running" : this.roots.some(({ state }) => state === "failed") ? "failed" : "completed";
    }
    if (this.state !== "running" || this.open.size === 0 || this.activity.busy > 0) return this.state;
    if (this.waits > 0) return "waiting";
    return this.sleeps > 0 ? "sleeping" : this.state;
  }

  /** When it began: with its first task, if the log does not say. @returns {number | null} */
  get from() {
    return this.started ?? this.tasks[0]?.started ?? null;
  }

  /** When it ended, or `null` while it goes on. @returns {number | null} */
  get to() {
    if (this.ended !== null) return this.ended;
    return this.state === "queued" && this.tasks.length > 0 && this.open.size === 0 ? this.activity.last : null;
  }

  /**
   * Applies an event. Returns the task that it is about, `null` if it changes the whole run, `undefined` if it changes nothing.
   * @param {string} type
   * @param {any} data
   * @param {number | null} id
   * @returns {Task | null | undefined}
   */
  apply(type, data, id) {
    if (id !== null) {
      if (this.cursor !== null && id <= this.cursor) return undefined;
      this.cursor = id;
    }
    if (!isRecord(data)) return undefined;
    if (type === "restarted" || type === "reset") {
      this.clear();
      if (type === "restarted") this.number = Number.isInteger(data.run) ? data.run : this.number + 1;
      this.lost = type === "reset" ? { requested: data.requested, oldest: data.oldest, head: data.head } : null;
      if (type === "reset") this.cursor = null;
      return null;
    }
    if (typeof data.taskId !== "string" || !TYPES.has(type)) return undefined;
    const time = instant(data.timestamp);
    return data.kind === "workflow" && data.parentId == null ? this.#workflow(type, data, time) : this.#task(type, data, time);
  }

  /**
   * Starts over from a snapshot.
   * @param {any} snapshot
   */
  load(snapshot) {
    this.clear();
    this.lost = null;
    this.id = text(snapshot.id);
    this.workflow = text(snapshot.workflow);
    this.number = Number.isInteger(snapshot.run) ? snapshot.run : 1;
    this.cursor = Number.isFinite(snapshot.cursor) ? snapshot.cursor : null;
    this.estimate = snapshot.estimate ?? null;
    this.started = instant(snapshot.started);
    /** From, to, and how many steps are at work from then on. @type {[number, number, number][]} */
    const spans = [];
    // Without recursion: the depth comes from outside.
    const left = [...(Array.isArray(snapshot.tasks) ? snapshot.tasks : [])].reverse();
    while (left.length > 0) {
      const data = left.pop();
      if (!isRecord(data) || typeof data.taskId !== "string" || this.byId.has(data.taskId)) continue;
      const task = this.#add(data, instant(data.started));
      const inner = Array.isArray(data.tasks) ? data.tasks : [];
      for (let n = inner.length - 1; n >= 0; n -= 1) left.push(inner[n]);
      restore(task, data);
      if (hasErrors(task)) this.errors += 1;
      if (task.state !== "running") this.#close(task);
    }
    this.tasks.sort((a, b) => (a.started ?? 0) - (b.started ?? 0));
    this.stack = this.tasks.filter(({ state }) => state === "running");
    for (const task of this.tasks) {
      if (task.started === null) continue;
      const end = task.ended ?? task.started;
      if (!isIdle(task)) spans.push([task.started, end, this.open.has(task) ? 1 : 0]);
      else for (const time of [task.started, end]) spans.push([time, time, 0]);
    }
    spans.sort((a, b) => a[0] - b[0]);
    for (const [from, to, open] of spans) {
      this.activity.at(from);
      this.activity.last = Math.max(this.activity.last ?? to, to);
      this.activity.busy += open;
    }
    for (const task of this.open) {
      if (isIdle(task)) continue;
      if (task.started === null) this.activity.busy += 1;
      if (task.retryAt !== null) this.activity.pause(task, task.retryAt);
    }
    this.error = text(snapshot.error);
    this.state = text(snapshot.state) ?? "queued";
    this.ended = instant(snapshot.ended);
    if (this.hasEnded) {
      if (this.ended !== null) this.activity.at(this.ended);
      this.#findCriticalPath();
    }
  }

  /** The run in the form of a snapshot. A copy: changing it changes nothing here. */
  get view() {
    /** @type {any} */
    const view = { run: this.number, state: this.state, taskCount: this.tasks.length, tasks: [] };
    if (this.id !== null) view.id = this.id;
    if (this.workflow !== null) view.workflow = this.workflow;
    if (this.started !== null) view.started = iso(this.started);
    if (this.ended !== null) view.ended = iso(this.ended);
    if (this.error !== null) view.error = this.error;
    if (this.cursor !== null) view.cursor = this.cursor;
    if (this.estimate !== null && !this.hasEnded) view.estimate = structuredClone(this.estimate);
    const made = new Map();
    for (const task of preorder(this.roots)) {
      const copy = taskView(task);
      made.set(task, copy);
      if (task.parent) (made.get(task.parent).tasks ??= []).push(copy);
      else view.tasks.push(copy);
    }
    return view;
  }

  /** @param {string} type @param {any} data @param {number | null} time */
  #workflow(type, data, time) {
    if (type === "started") {
      this.state = "running";
      this.started ??= time;
      this.workflow ??= text(data.step);
      if (time !== null) this.activity.at(time);
    } else if (type === "completed" || type === "failed") {
      this.error = type === "failed" ? errorText(data.error) : null;
      this.state = this.error === TERMINATED ? "terminated" : type;
      this.ended = time;
      if (time !== null) this.activity.at(time);
      for (const task of this.open) {
        task.state = "stopped";
        task.ended = time;
        task.retryAt = null;
        task.version += 1;
        this.#close(task);
      }
      this.activity.busy = 0;
      this.#findCriticalPath();
    } else {
      return undefined;
    }
    return null;
  }

  /** @param {string} type @param {any} data @param {number | null} time @returns {Task | undefined} */
  #task(type, data, time) {
    let task = this.byId.get(data.taskId);
    if (task === undefined) {
      // Tasks that were filtered out of the log are not shown; those whose beginning is lost are.
      if (type !== "started" && this.lost === null) return undefined;
      task = this.#add(data, type === "started" ? time : null);
      this.stack.push(task);
      if (time !== null) this.activity.at(time);
      if (!isIdle(task)) this.activity.busy += 1;
    } else if (time !== null) {
      this.activity.at(time);
      this.activity.resume(task);
    }
    task.version += 1;
    if (type.includes("failed") && !hasErrors(task)) this.errors += 1;
    if (Number.isFinite(data.attempt)) task.attempt = data.attempt;
    switch (type) {
      case "attempt_failed": {
        const retryAt = instant(data.retryAt);
        task.failedAttempts.push({ attempt: data.attempt ?? 0, error: errorText(data.error) ?? "", ended: time, retryAt });
        task.retryAt = retryAt;
        task.retrying = true;
        if (retryAt !== null && !isIdle(task)) this.activity.pause(task, retryAt);
        break;
      }
      case "progress":
        // Only running code reports progress.
        task.retryAt = null;
        task.percent = percent(data.percent) ?? task.percent;
        task.message = text(data.message) ?? task.message;
        task.attributes = data.attributes ?? task.attributes;
        task.retrying = false;
        break;
      case "completed":
      case "failed":
        task.attributes = data.attributes ?? task.attributes;
        if (task.state === "running" && !isIdle(task)) this.activity.busy -= 1;
        if (type === "failed") task.error = errorText(data.error);
        this.#end(task, type, time);
        break;
      default:
    }
    return task;
  }

  /** @param {any} data @param {number | null} started @returns {Task} */
  #add(data, started) {
    const parentId = text(data.parentId);
    const parent = (parentId !== null && parentId !== data.taskId && this.byId.get(parentId)) || null;
    const siblings = parent ? parent.children : this.roots;
    /** @type {Task} */
    const task = {
      id: data.taskId,
      step: text(data.step) ?? data.taskId,
      kind: text(data.kind) ?? "do",
      count: Number.isFinite(data.count) ? data.count : 1,
      parentId: parentId !== null && !parentId.endsWith(".workflow") ? parentId : null,
      parent,
      children: [],
      place: siblings.length + 1,
      depth: parent ? parent.depth + 1 : 0,
      state: "running",
      started,
      ended: null,
      error: null,
      attempt: null,
      failedAttempts: [],
      retryAt: null,
      until: instant(data.until),
      eventType: text(data.eventType),
      percent: null,
      message: null,
      attributes: null,
      rollback: null,
      retrying: false,
      collapsed: false,
      critical: false,
      row: -1,
      version: 0,
    };
    siblings.push(task);
    this.tasks.push(task);
    this.byId.set(task.id, task);
    this.open.add(task);
    this.counts.running += 1;
    if (task.kind === "waitForEvent") this.waits += 1;
    else if (isSleep(task)) this.sleeps += 1;
    return task;
  }

  /** @param {Task} task @param {TaskState} state @param {number | null} time */
  #end(task, state, time) {
    const wasOpen = task.state === "running";
    if (!wasOpen) this.counts[task.state] -= 1;
    task.state = state;
    task.ended = time;
    task.retryAt = null;
    task.retrying = false;
    if (wasOpen) this.#close(task);
    else this.counts[state] += 1;
  }

  /** Counts a task whose state says that it is over. @param {Task} task */
  #close(task) {
    this.open.delete(task);
    this.counts.running -= 1;
    this.counts[task.state] += 1;
    if (task.kind === "waitForEvent") this.waits -= 1;
    else if (isSleep(task)) this.sleeps -= 1;
    if (!isIdle(task) && length(task) > (this.slowest ? length(this.slowest) : 0)) this.slowest = task;
  }

  /**
   * Marks the steps that determine the run's length: backwards from the end, always the one that ended last before
   * the next one began. A run in which every step would be marked has no marks.
   */
  #findCriticalPath() {
    const leaves = this.tasks.filter((task) => task.children.length === 0 && task.started !== null && task.ended !== null && !isGroup(task));
    leaves.sort((a, b) => /** @type {number} */ (b.ended) - /** @type {number} */ (a.ended) || /** @type {number} */ (a.started) - /** @type {number} */ (b.started));
    const path = [];
    let before = Infinity;
    for (const task of leaves) {
      if (/** @type {number} */ (task.ended) > before) continue;
      path.push(task);
      before = /** @type {number} */ (task.started);
    }
    this.hasCriticalPath = path.length < leaves.length;
    if (this.hasCriticalPath) for (const task of path) task.critical = true;
  }
}

/**
 * The times at which steps were at work: only the gaps are kept, since an axis folds those. Sleeps, waits, and pauses
 * between attempts are idle.
 */
export class Activity {
  constructor() {
    /** How many steps are at work. */ this.busy = 0;
    /** The last known moment. @type {number | null} */ this.last = null;
    /** @type {{ from: number, to: number }[]} */ this.gaps = [];
    /** Steps between two attempts, and when the next one begins. @type {Map<Task, number>} */ this.pauses = new Map();
  }

  /** Something happens at `time`. @param {number} time */
  at(time) {
    for (const [task, until] of this.pauses) if (until <= time) this.resume(task);
    this.#at(time);
  }

  /** Notes that a step pauses until `until`. @param {Task} task @param {number} until */
  pause(task, until) {
    if (this.pauses.has(task)) return;
    this.busy -= 1;
    this.pauses.set(task, until);
  }

  /** Notes that a step works again, at the expected time or before. @param {Task} task */
  resume(task) {
    const until = this.pauses.get(task);
    if (until === undefined) return;
    if (this.last !== null && until > this.last) this.#at(until);
    this.pauses.delete(task);
    this.busy += 1;
  }

  /** The gaps until `now`. @param {number} now @returns {{ from: number, to: number }[]} */
  until(now) {
    for (const [task, until] of this.pauses) if (until <= now) this.resume(task);
    const isOpen = this.busy === 0 && this.last !== null && now - this.last >= SHORTEST_GAP;
    return isOpen ? [...this.gaps, { from: /** @type {number} */ (this.last), to: now }] : this.gaps;
  }

  /** @param {number} time */
  #at(time) {
    if (this.last !== null && time - this.last >= SHORTEST_GAP && this.busy === 0) {
      this.gaps.push({ from: this.last, to: time });
      // An axis folds the longest few, so the shorter half is hardly ever needed.
      if (this.gaps.length > MOST_GAPS) {
        const middle = this.gaps.map(({ from, to }) => to - from).sort((a, b) => b - a)[MOST_GAPS / 2];
        this.gaps = this.gaps.filter(({ from, to }) => to - from > middle);
      }
    }
    if (this.last === null || time > this.last) this.last = time;
  }
}

/** @param {Task[]} roots @returns {Generator<Task>} */
export function* preorder(roots) {
  const left = [...roots].reverse();
  while (left.length > 0) {
    const task = /** @type {Task} */ (left.pop());
    yield task;
    for (let n = task.children.length - 1; n >= 0; n -= 1) left.push(task.children[n]);
  }
}

/** A task in the form of a snapshot, without its children. @param {Task} task */
export function taskView(task) {
  /** @type {any} */
  const view = { taskId: task.id, step: task.step, kind: task.kind, count: task.count, parentId: task.parentId, state: task.state };
  for (const key of ["started", "ended", "retryAt", "until"]) if (task[key] !== null) view[key] = iso(task[key]);
  for (const key of ["error", "attempt", "eventType", "percent", "message"]) if (task[key] !== null) view[key] = task[key];
  for (const key of ["attributes", "rollback"]) if (task[key] !== null) view[key] = structuredClone(task[key]);
  if (task.failedAttempts.length > 0) {
    view.failedAttempts = task.failedAttempts.map(({ attempt, error, ended }) => (ended === null ? { attempt, error } : { attempt, error, ended: iso(ended) }));
  }
  return view;
}

/** How long a task took, or 0. @param {Task} task */
export function length(task) {
  return task.started === null || task.ended === null ? 0 : Math.max(0, task.ended - task.started);
}

/** @param {Task} task */
export function isSleep(task) {
  return task.kind === "sleep" || task.kind === "sleepUntil";
}

/** @param {Task} task */
export function isGroup(task) {
  return task.children.length > 0 || task.id.endsWith(".group");
}

/** Whether a task is idle: sleeps, waits, and groups, whose steps do the work. @param {Task} task */
function isIdle(task) {
  return task.kind === "waitForEvent" || isSleep(task) || task.id.endsWith(".group");
}

/** @param {Task} task */
export function hasErrors(task) {
  return task.state === "failed" || task.failedAttempts.length > 0;
}

const TYPES = new Set(["started", "attempt_failed", "progress", "completed", "failed"]);

/** @param {Task} task @param {any} data */
function restore(task, data) {
  task.version = 1;
  if (["completed", "failed", "stopped"].includes(data.state)) task.state = data.state;
  task.ended = instant(data.ended);
  task.error = errorText(data.error);
  task.attempt = Number.isFinite(data.attempt) ? data.attempt : null;
  task.retryAt = instant(data.retryAt);
  task.percent = percent(data.percent);
  task.message = text(data.message);
  task.attributes = isRecord(data.attributes) ? data.attributes : null;
  task.rollback = isRecord(data.rollback) ? data.rollback : null;
  if (Array.isArray(data.failedAttempts)) {
    task.failedAttempts = data.failedAttempts.filter(isRecord).map(({ attempt, error, ended }) => ({
      attempt: Number.isFinite(attempt) ? attempt : 0,
      error: errorText(error) ?? "",
      ended: instant(ended),
      retryAt: null,
    }));
  }
  const failed = task.failedAttempts.at(-1);
  if (failed) failed.retryAt = task.retryAt;
  task.retrying = task.state === "running" && failed !== undefined && failed.attempt >= (task.attempt ?? 0);
}

/** @param {unknown} value @returns {value is Record<string, any>} */
function isRecord(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** @param {unknown} value @returns {string | null} */
function text(value) {
  return value == null ? null : String(value);
}

/** @param {unknown} error @returns {string | null} */
function errorText(error) {
  return text(isRecord(error) ? (error.message ?? JSON.stringify(error)) : error);
}

/** @param {unknown} value */
function percent(value) {
  return typeof value === "number" && Number.isFinite(value) ? Math.min(100, Math.max(0, value)) : null;
}

/** @param {unknown} value @returns {number | null} */
function instant(value) {
  const time = typeof value === "string" ? Date.parse(value) : NaN;
  return Number.isNaN(time) ? null : time;
}

/** @param {number} time */
function iso(time) {
  return new Date(time).toISOString();
}
