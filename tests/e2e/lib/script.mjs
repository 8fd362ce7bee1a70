// Runs the scripted workflows of tests/worker and compares their logs.
import assert from "node:assert/strict";
import { open, readAll } from "./sse.mjs";

/** An instance of a scripted workflow. `server` has a `url` and changes it when it is started again. */
export class Run {
  constructor(server, workflow, id) {
    Object.assign(this, { server, workflow, id });
  }

  get url() {
    return `${this.server.url}/${this.workflow}/${this.id}`;
  }

  get sse() {
    return `${this.url}/sse`;
  }

  status() {
    return json(`${this.url}/status`);
  }

  /** Resolves to the status, once the instance is in this state or has ended. */
  async reached(...states) {
    for (;;) {
      const status = await this.status();
      if (states.includes(status.state)) return status;
      if (ENDS.includes(status.state)) throw new Error(`${this.id} is not ${states} but ${JSON.stringify(status)}`);
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }

  /** The status, once the run is over. */
  ended() {
    return this.reached(...ENDS);
  }

  act(action, body) {
    return json(`${this.url}/${action}`, { method: "POST", body: body && JSON.stringify(body) });
  }

  event(type, payload) {
    return this.act("event", { type, payload });
  }

  /** Returns once it is paused. */
  async pause() {
    await this.act("pause");
    await this.reached("paused");
  }

  /** Resumes it, and returns once it runs. */
  async resume() {
    await this.act("resume");
    for (;;) {
      const { state } = await this.status();
      if (state !== "queued") return;
      // The engine forgets an instance that is resumed a moment before its code has stopped.
      await this.revive();
    }
  }

  /** Sends an event of any type: that starts the engine again after it was killed. */
  revive() {
    return this.event("wake up");
  }

  open(options) {
    return open(this.sse, options);
  }

  /** The whole log, once the run has ended. */
  readAll(options) {
    return readAll(this.sse, options);
  }

  /** The platform's own log, once the run has ended. */
  platform() {
    return json(`${this.url}/platform`);
  }
}

const ENDS = ["complete", "errored", "terminated"];

let number = 0;

/** Creates an instance that runs these ops. */
export async function start(server, ops, { workflow = "alpha", id = `run-${(number += 1)}`, ...params } = {}) {
  const created = await json(`${server.url}/${workflow}`, {
    method: "POST",
    body: JSON.stringify({ id, params: { ops, ...params } }),
  });
  return new Run(server, workflow, created.id);
}

/** A gate for `do` steps. */
export class Gate {
  constructor(server, name) {
    Object.assign(this, { server, name });
  }
  ask(path) {
    return fetch(`${this.server.url}/gate/${this.name}/${path}`);
  }
  async open() {
    const response = await this.ask("open");
    assert.equal((await response.json()).open, true);
  }
}

export async function json(url, init) {
  const response = await fetch(url, init);
  const text = await response.text();
  if (!response.ok) throw Object.assign(new Error(`${url}: ${response.status} ${text}`), { status: response.status, text });
  return JSON.parse(text);
}

/** Returns a test for an event of this type and task: `at("started", "a-1")`. */
export const at = (type, taskId) => (event) => event.type === type && event.json.taskId === taskId;

/** Formats events for reading and comparing: `3 attempt_failed a-1 #2 (no)`. */
export function lines(events) {
  return events.map(({ id, type, json: { taskId, attempt, error } }) =>
    [id, type, taskId, attempt && `#${attempt}`, error && `(${error})`].filter(Boolean).join(" "),
  );
}

/** Returns events without the parts that differ between two equal runs. */
export function facts(events) {
  return events.map(({ id, type, json: { timestamp, until, retryAt, ...rest } }) => ({ id, type, ...rest }));
}

export function assertDense(events) {
  assert.deepEqual(events.map(({ id }) => id), events.map((_, index) => index + 1));
}

/**
 * Compares a log with the platform's own log of the same instance: each step began and ended once,
 * in the same order, with the same attempts and outcomes. A killed attempt is a failure for the
 * platform and need not appear in the log: it does if its code had failed before the platform was killed and could
 * store that. It counts in the number of the next attempt, also if the platform has not stored that it failed.
 */
export function assertAgrees(events, platform) {
  const ours = events.flatMap(({ type, json: task }) => {
    if (task.kind === "workflow" || task.taskId.endsWith(".group") || type === "progress") return [];
    const name = `${task.step}-${task.count}`;
    const wait = { sleep: "sleep", sleepUntil: "sleep", waitForEvent: "wait" }[task.kind];
    if (wait) return [`${wait} ${type} ${name}`];
    if (type === "attempt_failed") return [`attempt ${task.attempt} errored ${name}`];
    // The engine reports this in two events.
    const attempt = type === "completed" ? [`attempt ${task.attempt} completed ${name}`] : [];
    return [...attempt, `step ${type} ${name}`];
  });
  const theirs = platform.flatMap(({ type, stepName, attempt, error }) => {
    const [what, how] = type.split("_", 2);
    if (what === "workflow" || type === "attempt_started") return [];
    const line = what === "attempt" ? `attempt ${attempt} ${how} ${stepName}` : `${what} ${{ errored: "failed", timed: "failed" }[how] ?? how} ${stepName}`;
    return error?.message === KILLED && !ours.includes(line) ? [] : [line];
  });
  const isForgotten = (line) => {
    const [, number, name] = line.match(/^attempt (\d+) errored (.*)$/) ?? [];
    const attempts = platform.filter(({ type, stepName }) => type.startsWith("attempt_") && stepName === name);
    return attempts.some(({ attempt }) => attempt > number) && !attempts.some(({ type, attempt }) => attempt == number && type !== "attempt_started");
  };
  assert.deepEqual(ours.filter((line) => !isForgotten(line)), theirs);
}

const KILLED = "Attempt failed due to internal workflows error";
