// The abilities of a step, and a comparison: a workflow does not notice whether its steps are
// wrapped.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { harness } from "./lib/harness.mjs";
import { at, assertAgrees, facts, json, lines, Run, start } from "./lib/script.mjs";

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

const quick = { limit: 2, delay: 10, backoff: "constant" };
const none = { limit: 0, delay: 0, backoff: "constant" };

/** Returns the outcome of a run, for the platform and for a viewer. */
async function outcome(run, drive) {
  await drive?.(run);
  const { state, output, error } = await run.ended();
  const platform = (await run.platform()).map(({ instanceId, eventId, timestamp, params, durationMs, ...event }) => event);
  for (const event of platform) delete event.output?.calls;
  return { state, error, outputs: output?.outputs, platform };
}

/**
 * Runs it with and without events, compares both, and returns the outcome with its log. The order
 * in which concurrent steps end is not compared.
 */
async function both(ops, drive) {
  const wrapped = await start(server, ops);
  const unwrapped = await start(server, ops, { wrapped: false });
  const [result, other] = await Promise.all([outcome(wrapped, drive), outcome(unwrapped, drive)]);
  if (JSON.stringify(ops).includes('"join"')) {
    for (const { platform } of [result, other]) platform.sort(({ stepName: a = "" }, { stepName: b = "" }) => (a < b ? -1 : Number(a > b)));
  }
  assert.deepEqual(result, other);
  const events = await wrapped.readAll();
  return { ...result, events };
}

describe("wrapped or not, the same comes of it", () => {
  const cases = {
    "a step": [{ do: { name: "a", value: { deep: [1, 2.5, null, "x", { y: true }] } } }],
    "steps of one name": [{ do: { name: "a" } }, { do: { name: "a" } }],
    "retries": [{ do: { name: "a", attempts: [{ fail: "1" }, { fail: "2" }], retries: quick } }],
    "an error": [{ do: { name: "a", attempts: [{ fail: "no" }], retries: none } }],
    "an error that is caught": [{ catch: { op: { do: { name: "a", attempts: [{ fail: "no" }], retries: none } }, rethrow: false } }],
    "an error that is thrown again": [{ catch: { op: { do: { name: "a", attempts: [{ fail: "no" }], retries: none } }, rethrow: true } }],
    "an error of a group": [{ group: { name: "g", ops: [{ do: { name: "a", attempts: [{ fail: "no" }], retries: none } }] } }],
    "a NonRetryableError": [{ do: { name: "a", attempts: [{ nonRetryable: "declined" }] } }],
    "a NonRetryableError that is thrown again": [{ catch: { op: { do: { name: "a", attempts: [{ nonRetryable: "declined" }] } }, rethrow: true } }],
    "a panic": [{ do: { name: "a", attempts: [{ panic: "oh" }], retries: quick } }],
    "an attempt that takes too long": [{ do: { name: "a", attempts: ["hang"], timeout: 2000, retries: quick } }],
    "a step that takes too long": [{ do: { name: "a", attempts: ["hang"], timeout: 200, retries: none } }],
    "a sleep": [{ sleep: { name: "s", ms: 20 } }],
    "a wait that times out": [{ wait: { name: "w", type: "go", timeout: 100 } }],
    "a result that is too large": [{ refused: "size" }],
    "a name that is too long": [{ do: { name: "x".repeat(300) } }],
    "the workflow's own error": [{ do: { name: "a" } }, { fail: "enough" }],
    "steps at the same time": [{ join: [[{ do: { name: "a" } }], [{ do: { name: "b", attempts: [{ fail: "1" }], retries: none } }]] }],
  };
  for (const [name, ops] of Object.entries(cases)) {
    test(name, async () => {
      const { state, events, platform } = await both(ops);
      assert.equal(events.at(-1).type, state === "complete" ? "completed" : "failed");
      if (!/large|long|same time/.test(name)) assertAgrees(events, platform);
    });
  }

  test("a wait", async () => {
    const { outputs } = await both([{ wait: { name: "w", type: "go" } }], (run) => run.event("go", { by: "me", list: [1] }));
    assert.deepEqual(outputs, [{ type: "go", payload: { by: "me", list: [1] } }]);
  });
});

describe("a step", () => {
  test("has the platform's config if it has none of its own", async () => {
    const { platform } = await both([{ do: { name: "a" } }]);
    const { config } = platform.find(({ type }) => type === "step_started");
    assert.deepEqual(config, { retries: { limit: 5, delay: 1000, backoff: "exponential" }, timeout: "10 minutes" });
  });

  for (const [backoff, delays] of Object.entries({ constant: [20, 20, 20], linear: [20, 40, 60], exponential: [20, 40, 80] })) {
    test(`is retried as its config says: ${backoff}`, async () => {
      const retries = { limit: 3, delay: 20, backoff };
      const fails = [{ fail: "1" }, { fail: "2" }, { fail: "3" }, { fail: "4" }, "ok"];
      const { state, error, events, platform } = await both([{ do: { name: "a", attempts: fails, retries, timeout: 5000 } }]);
      assert.deepEqual({ state, error }, { state: "errored", error: { name: "Error", message: "4" } });
      const { config } = platform.find(({ type }) => type === "step_started");
      assert.deepEqual(config, { retries, timeout: 5000 });
      const errored = platform.filter(({ type }) => type === "attempt_errored");
      assert.deepEqual(errored.map(({ retryDelayMs }) => retryDelayMs), [...delays, undefined]);
      assert.deepEqual(lines(events).slice(1), [
        "2 started a-1",
        "3 attempt_failed a-1 #1 (1)",
        "4 attempt_failed a-1 #2 (2)",
        "5 attempt_failed a-1 #3 (3)",
        "6 attempt_failed a-1 #4 (4)",
        "7 failed a-1 #4 (4)",
        "8 failed alpha-1.workflow (4)",
      ]);
    });
  }

  test("knows its name, count and attempt", async () => {
    const flaky = { name: "a", attempts: [{ fail: "no" }], retries: quick };
    const { outputs } = await both([{ do: { name: "a" } }, { do: { name: "b" } }, { do: flaky }]);
    assert.deepEqual(outputs, [
      { name: "a", count: 1, attempt: 1 },
      { name: "b", count: 1, attempt: 1 },
      { name: "a", count: 2, attempt: 2 },
    ]);
  });

  test("whose attempt takes too long is retried", async () => {
    const { outputs, events } = await both([{ do: { name: "a", attempts: ["hang"], timeout: 2000, retries: quick } }]);
    assert.deepEqual(outputs, [{ name: "a", count: 1, attempt: 2 }]);
    assert.deepEqual(events.slice(1, -1).map(({ type, json: { attempt } }) => [type, attempt]), [["started", undefined], ["attempt_failed", 1], ["completed", 2]]);
    assert.match(events[2].json.error, /timed out/);
  });

  test("whose last attempt takes too long fails as timed out", async () => {
    const op = { do: { name: "a", attempts: ["hang"], timeout: 200, retries: none } };
    const { outputs, events } = await both([{ catch: { op, rethrow: false } }]);
    const [{ error, ...rest }] = outputs;
    assert.deepEqual(rest, { kind: "TimedOut", isTimeout: true });
    assert.match(error, /Execution timed out after 200ms/);
    assert.deepEqual(events.slice(1, -1).map(({ type }) => type), ["started", "attempt_failed", "failed"]);
  });

  test("with a NonRetryableError ends the run at the first attempt, with its message", async () => {
    const { state, error, events, platform } = await both([{ do: { name: "a", attempts: [{ nonRetryable: "the card was declined" }] } }]);
    assert.equal(state, "errored");
    assert.deepEqual(error, { name: "NonRetryableError", message: "the card was declined" });
    assert.equal(platform.filter(({ type }) => type === "attempt_started").length, 1);
    assert.deepEqual(lines(events).slice(1), [
      "2 started a-1",
      "3 attempt_failed a-1 #1 (the card was declined)",
      "4 failed a-1 #1 (the card was declined)",
      "5 failed alpha-1.workflow (the card was declined)",
    ]);
  });

  test("whose error is caught does not end the run", async () => {
    const op = { do: { name: "a", attempts: [{ fail: "no" }], retries: none } };
    const { state, outputs } = await both([{ catch: { op, rethrow: false } }, { do: { name: "b" } }]);
    assert.equal(state, "complete");
    assert.deepEqual(outputs, [
      { error: "no", kind: "Failed", isTimeout: false },
      { name: "b", count: 1, attempt: 1 },
    ]);
  });

  test("whose error is thrown again fails the run as if it had not been caught", async () => {
    for (const attempt of [{ fail: "no" }, { typeError: "not a number" }, { nonRetryable: "never" }, { panic: "oh" }, "hang"]) {
      const op = { do: { name: "a", attempts: [attempt], retries: none, timeout: 200 } };
      const [caught, not] = await Promise.all([both([{ catch: { op, rethrow: true } }]), both([op])]);
      assert.deepEqual(caught.error, not.error);
      assert.deepEqual(caught.platform, not.platform);
      assert.deepEqual(facts(caught.events), facts(not.events));
    }
  });

  test("whose error is of another class of JavaScript keeps it, whether it is caught or not", async () => {
    const op = { do: { name: "a", attempts: [{ typeError: "not a number" }], retries: none } };
    for (const ops of [[op], [{ catch: { op, rethrow: true } }]]) {
      const { error } = await both(ops);
      assert.deepEqual(error, { name: "TypeError", message: "not a number" });
    }
  });

  test("reports progress and attributes", async () => {
    const run = await start(server, [{ do: { name: "a", progress: [0, 12.5, 100], attributes: { size: 3, list: ["é"] } } }]);
    const events = facts(await run.readAll()).slice(1, -1);
    const task = { taskId: "a-1", step: "a", kind: "do", count: 1, parentId: "alpha-1.workflow" };
    assert.deepEqual(events, [
      { id: 2, type: "started", ...task },
      { id: 3, type: "progress", ...task, percent: 0, message: "0 %" },
      { id: 4, type: "progress", ...task, percent: 12.5, message: "12.5 %" },
      { id: 5, type: "progress", ...task, percent: 100, message: "100 %" },
      { id: 6, type: "completed", ...task, attempt: 1, attributes: { size: 3, list: ["é"] } },
    ]);
  });

  test("keeps the attributes of the attempt that succeeded only, and reports of all", async () => {
    const flaky = { name: "a", attempts: [{ fail: "no" }], retries: quick, progress: [5], attributes: { x: 1 } };
    const run = await start(server, [{ do: flaky }]);
    const events = facts(await run.readAll());
    assert.deepEqual(events.map(({ type }) => type), ["started", "started", "progress", "attempt_failed", "progress", "completed", "completed"]);
    assert.deepEqual(events[5].attributes, { x: 1 });
  });
});

describe("what a step returns", () => {
  test("is in no event, not even in the errors about it", async () => {
    const secret = { do: { name: "a", value: "the secret", sensitive: "output", rollback: {} } };
    const { error, events, platform } = await both([secret, { unreadable: { name: "b" } }]);
    assert.deepEqual(error, { name: "Error", message: 'the result of step "b" is not of its type any more: found string, expected u32' });
    assert.equal(events.at(-1).json.error, error.message);
    assert.equal(events.some(({ raw }) => raw.includes("secret")), false);
    // There was an event to send.
    assert.equal(platform.find(({ type, stepName }) => type === "step_completed" && stepName === "b-1").output, "the secret");
    assert.equal(platform.find(({ type, stepName }) => type === "step_completed" && stepName === "a-1").output, "[REDACTED]");
  });

  test("can be a stream, and a rollback undoes it: viewers see the step as any other", async () => {
    const stream = { do: { name: "a", stream: { chunks: [100_000, 5] }, rollback: {} } };
    const { outputs, events } = await both([stream]);
    assert.equal(outputs[0].bytes, 100_005);
    assert.deepEqual(lines(events), ["1 started alpha-1.workflow", "2 started a-1", "3 completed a-1 #1", "4 completed alpha-1.workflow"]);
    const undone = await both([{ do: { name: "a", rollback: {} } }, { fail: "enough" }]);
    assert.deepEqual(lines(undone.events).slice(1), ["2 started a-1", "3 completed a-1 #1", "4 failed alpha-1.workflow (enough)"]);
    assert.ok(undone.platform.some(({ type }) => type === "rollback_completed"));
  });

  test("is a stream that fails: the platform ends the run, and viewers see it", async () => {
    const run = await start(server, [{ sleep: { name: "s", ms: 10 } }, { do: { name: "a", stream: { chunks: [10], fail: { fail: "cut" } }, retries: none } }]);
    const { state } = await run.ended();
    assert.equal(state, "errored");
    const events = await run.readAll();
    // Events that were not yet sent when the engine ended are lost with it.
    assert.deepEqual(lines(events).slice(0, 2), ["1 started alpha-1.workflow", "2 started s-1.sleep"]);
    assert.equal(events.at(-1).type, "failed");
    assert.equal(events.some(at("completed", "a-1")), false);
  });

  test("is chosen again from a step on, when the instance is restarted from it", async () => {
    const run = await start(server, [{ do: { name: "a" } }, { do: { name: "b" } }]);
    await run.readAll();
    await json(`${server.url}/alpha/call`, { method: "POST", body: JSON.stringify({ restart: { id: run.id, from: { name: "b" } } }) });
    await run.ended();
    const viewer = await run.open();
    await viewer.until("restarted");
    assert.deepEqual(lines(await viewer.rest()).slice(6).map((line) => line.replace(/^\d+ /, "")), [
      "restarted",
      "started alpha-1.workflow",
      "started a-1",
      "completed a-1",
      "started b-1",
      "completed b-1 #1",
      "completed alpha-1.workflow",
    ]);
  });
});

describe("sleeps and waits", () => {
  test("a wait's time-out can be distinguished from other errors, at once and in a later lifetime", async () => {
    const op = { wait: { name: "w", type: "go", timeout: 100 } };
    const ops = [{ catch: { op, rethrow: false } }, { wait: { name: "later", type: "later" } }];
    const run = await start(server, ops);
    const viewer = await run.open();
    await viewer.until(at("started", "later-1.waitForEvent"));
    await run.pause();
    await run.resume();
    await run.event("later");
    const events = await viewer.rest();
    const failed = events.find(({ type }) => type === "failed");
    assert.match(failed.json.error, /Execution timed out after 100ms/);
    const { output } = await run.ended();
    const [{ error, ...rest }] = output.outputs;
    assert.match(error, /Execution timed out after 100ms/);
    assert.deepEqual(rest, { kind: "TimedOut", isTimeout: true });
    assertAgrees(events, await run.platform());
  });

  test("a payload is of its type, or the wait says what is wrong", async () => {
    const good = await both([{ waitNumber: { name: "w" } }], (run) => run.event("number", 7));
    assert.deepEqual(good.outputs, [7]);
    const op = { waitNumber: { name: "w" } };
    const bad = await both([{ catch: { op, rethrow: false } }], (run) => run.event("number", "seven"));
    assert.equal(bad.outputs[0].kind, "Invalid");
    assert.match(bad.outputs[0].error, /the event that "w" waited for has another payload: found string, expected u32$/);
  });

  test("an event that came before the wait is not lost", async () => {
    const ops = [{ sleep: { name: "s", ms: 200 } }, { wait: { name: "w", type: "go" } }];
    const { outputs } = await both(ops, (run) => run.event("go", 1));
    assert.deepEqual(outputs, [{ type: "go", payload: 1 }]);
  });

  test("until a time, and until one that has passed", async () => {
    const ops = [{ sleepUntil: { name: "u", ms: 1500 } }, { sleepUntil: { name: "u", ms: 1 } }];
    const { state, events } = await both(ops);
    assert.equal(state, "complete");
    assert.deepEqual(lines(events).slice(1, -1), [
      "2 started u-1.sleepUntil",
      "3 completed u-1.sleepUntil",
      "4 started u-2.sleepUntil",
      "5 completed u-2.sleepUntil",
    ]);
    assert.equal(events[1].json.kind, "sleepUntil");
  });

  test("until a time that has passed when the run goes on in another lifetime", async () => {
    const run = await start(server, [{ sleepUntil: { name: "u", ms: 1000 } }, { wait: { name: "w", type: "go" } }]);
    const viewer = await run.open();
    await viewer.until(at("started", "w-1.waitForEvent"));
    await run.pause();
    await run.resume();
    await run.event("go");
    assert.equal((await run.ended()).state, "complete");
    const events = await viewer.rest();
    assert.equal(events.length, 6);
    assertAgrees(events, await run.platform());
  });
});

describe("at the same time", () => {
  test("steps of one name are distinguished, and run concurrently", async () => {
    // Each waits for the gate, which opens only when all have begun.
    const gate = "together";
    const branch = [{ do: { name: "j", gate } }, { do: { name: "k" } }];
    const run = await start(server, [{ join: [branch, branch, branch] }]);
    const viewer = await run.open();
    for (const number of [1, 2, 3]) await viewer.until(at("started", `j-${number}`));
    await fetch(`${server.url}/gate/${gate}/open`);
    const events = await viewer.rest();
    for (const name of ["j", "k"]) {
      for (const number of [1, 2, 3]) {
        const own = events.filter(({ json: task }) => task.taskId === `${name}-${number}`);
        assert.deepEqual(own.map(({ type }) => type), ["started", "completed"]);
      }
    }
    assert.equal(events.length, 14);
    const { output } = await run.ended();
    assert.deepEqual(output.outputs[0].map(([{ count }]) => count), [1, 2, 3]);
  });

  test("a failure of one does not lose the events of the others", async () => {
    const fails = [{ do: { name: "bad", attempts: [{ fail: "no" }], retries: none } }];
    const { state, error, events } = await both([{ join: [fails, [{ do: { name: "good" } }]] }]);
    assert.deepEqual({ state, error }, { state: "errored", error: { name: "Error", message: "no" } });
    assert.ok(events.some(at("completed", "good-1")));
    assert.ok(events.some(at("failed", "bad-1")));
    assert.equal(events.at(-1).json.error, "no");
  });
});

describe("what viewers see", () => {
  test("groups are tasks with tasks below them", async () => {
    const inner = { group: { name: "inner", ops: [{ do: { name: "a" } }] } };
    const run = await start(server, [{ group: { name: "outer", ops: [{ do: { name: "a" } }, inner] } }, inner, { do: { name: "a" } }]);
    const parents = (await run.readAll()).filter(({ type }) => type === "started").map(({ json: task }) => [task.taskId, task.kind, task.parentId]);
    assert.deepEqual(parents, [
      ["alpha-1.workflow", "workflow", null],
      ["outer-1.group", "do", "alpha-1.workflow"],
      ["a-1", "do", "outer-1.group"],
      ["inner-1.group", "do", "outer-1.group"],
      ["a-2", "do", "inner-1.group"],
      ["inner-2.group", "do", "alpha-1.workflow"],
      ["a-3", "do", "inner-2.group"],
      ["a-4", "do", "alpha-1.workflow"],
    ]);
  });

  test("should_dispatch leaves steps out, with all their events, and only those", async () => {
    const secret = { name: "secret", attempts: [{ fail: "no" }], retries: quick, progress: [1] };
    const ops = [{ do: { name: "a" } }, { do: secret }, { sleep: { name: "secret", ms: 10 } }, { do: { name: "b" } }];
    const run = await start(server, ops, { hidden: ["secret"] });
    assert.deepEqual(lines(await run.readAll()), [
      "1 started alpha-1.workflow",
      "2 started a-1",
      "3 completed a-1 #1",
      "4 started b-1",
      "5 completed b-1 #1",
      "6 completed alpha-1.workflow",
    ]);
    const { output } = await run.ended();
    assert.deepEqual(output.outputs[1], { name: "secret", count: 1, attempt: 2 });
  });
});

test("events of another workflow's name end the run before its code, and say what to write", async () => {
  const run = await start(server, [{ do: { name: "a" } }], { eventsOf: "gamma" });
  const { state, error } = await run.ended();
  assert.equal(state, "errored");
  assert.match(error.message, /events are those of the workflow `gamma`, but this run is one of `alpha`: give `WorkflowEventsNamespace::from_env`/);
  assert.deepEqual((await run.platform()).filter(({ type }) => type.startsWith("step_")), []);
});

describe("params of the wrong type", () => {
  for (const [what, params, reason] of [
    ["none", undefined, /ops/],
    ["a field of another type", { ops: [], wrapped: "yes" }, /found string, expected a boolean \(at \.wrapped\)/],
    ["no list", { ops: 5 }, /found integer, expected a sequence \(at \.ops\)/],
    ["an unknown op", { ops: ["dance"] }, /expected one of `do`.* \(at \.ops\[0\]\)/],
  ]) {
    test(`${what}: the run fails and says so`, async () => {
      const { id } = await json(`${server.url}/alpha`, { method: "POST", body: JSON.stringify({ params }) });
      let status;
      do status = await json(`${server.url}/alpha/${id}/status`);
      while (!["errored", "complete"].includes(status.state));
      assert.equal(status.state, "errored");
      assert.match(status.error.message, /the instance's params are not of the workflow's type/);
      assert.match(status.error.message, reason);
      // The library has sent the end to its viewers, so nobody waits.
      const events = await new Run(server, "alpha", id).readAll();
      assert.deepEqual(lines(events), ["1 started alpha-1.workflow", `2 failed alpha-1.workflow (${status.error.message})`]);
    });
  }
});
