// Makes the same calls to the platform's API in JavaScript and in Rust, in the same run, and
// compares each result: a table in which no line may differ.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { harness } from "./lib/harness.mjs";
import { BAD_IDS, sides, table } from "./lib/parity.mjs";

let server;
let all;
const rows = [];
before(async () => {
  server = await harness({ front: "tests/parity" });
  all = sides(server);
});
after(async () => {
  await server?.stop();
  console.log(["", `${rows.length} comparisons of JavaScript, Rust, and Rust with events:`, ...table(rows), ""].join("\n"));
});

/**
 * Does the same on all sides, and compares the results. `check` asserts the expected result, so
 * that all sides being wrong alike fails too.
 */
function same(name, act, check, only = Object.keys) {
  test(name, async ({ fullName }) => {
    const names = only(all);
    const results = await Promise.all(names.map((each) => act(all[each])));
    const [javascript, ...others] = results.map((result) => JSON.parse(JSON.stringify(result)));
    let isSame = false;
    try {
      for (const [index, other] of others.entries()) assert.deepEqual(other, javascript, `${names[index + 1]}: ${name}`);
      isSame = true;
    } finally {
      rows.push({ name: fullName, same: isSame, result: javascript });
    }
    check(javascript);
  });
}

let number = 0;

/** Does the same for an instance that runs these ops: compares its end, the platform's log of it, and the records. */
function sameRun(name, ops, check, { drive, records = 0 } = {}) {
  const id = `run-${(number += 1)}`;
  const act = async (side) => {
    await side.create(id, typeof ops === "function" ? ops(id) : ops);
    await drive?.(side, id);
    const end = await side.reached(id);
    return { ...end, records: await side.records(id, records), platform: concurrent(ops, await side.platform(id)) };
  };
  same(name, act, check);
}

/** Sorts the events of concurrent steps, whose order is not compared. */
function concurrent(ops, platform) {
  if (!/join"/i.test(JSON.stringify(typeof ops === "function" ? ops("") : ops))) return platform;
  const plain = platform.map(({ eventId, ...event }) => event);
  return plain.sort(({ stepName: a = "" }, { stepName: b = "" }) => (a < b ? -1 : Number(a > b)));
}

const of = (platform, type) => platform.filter((event) => event.type === type);
const outputs = ({ output }) => output.outputs;
const constant = (limit, delay) => ({ limit, delay, backoff: "constant" });
const none = constant(0, 0);
const step = (name, more = {}) => ({ do: { name, ...more } });
const failing = (name, more = {}) => step(name, { attempts: [{ fail: "no" }], retries: none, ...more });

describe("a step", { concurrency: 4 }, () => {
  sameRun("without a config", (record) => [step("a", { record }), step("a", { record }), step("b")], ({ records, ...run }) => {
    const config = { retries: { limit: 5, delay: 1000, backoff: "exponential" }, timeout: "10 minutes" };
    assert.deepEqual(records, [1, 2].map((count) => ({ attempt: { step: { name: "a", count }, attempt: 1, config } })));
    assert.deepEqual(outputs(run)[2], { name: "b", count: 1, attempt: 1 });
  });

  const full = { retries: { limit: 2, delay: "1 second", backoff: "linear" }, timeout: "1.5 hours", sensitive: "output" };
  sameRun("with a config of labels, and a sensitive output", (record) => [step("a", { record, ...full, value: { pin: 1234 } })], ({ records, platform, ...run }) => {
    assert.deepEqual(records[0].attempt.config, full);
    assert.deepEqual(of(platform, "step_started")[0].config, full);
    assert.equal(of(platform, "step_completed")[0].output, "[REDACTED]");
    assert.deepEqual(outputs(run), [{ pin: 1234 }]);
  });

  sameRun("with a config of numbers", (record) => [step("a", { record, retries: { limit: 1, delay: 7, backoff: "exponential" }, timeout: 9000 })], ({ records }) => {
    assert.deepEqual(records[0].attempt.config, { retries: { limit: 1, delay: 7, backoff: "exponential" }, timeout: 9000 });
  });

  for (const [backoff, delays] of Object.entries({ constant: [10, 10, 10], linear: [10, 20, 30], exponential: [10, 20, 40] })) {
    const fails = [{ fail: "1" }, { fail: "2" }, { fail: "3" }];
    sameRun(`whose retries have the backoff ${backoff}`, [step("a", { attempts: fails, retries: { limit: 3, delay: 10, backoff } })], ({ platform }) => {
      assert.deepEqual(of(platform, "attempt_errored").map(({ retryDelayMs }) => retryDelayMs), delays);
    });
    const answers = ["0.01 seconds", 10, 10];
    sameRun(`whose delays are chosen, with the backoff ${backoff}`, [step("a", { attempts: fails, retries: { limit: 3, delay: answers, backoff } })], ({ platform }) => {
      assert.deepEqual(of(platform, "attempt_errored").map(({ retryDelayMs }) => retryDelayMs), delays);
    });
  }

  sameRun(
    "whose delays are chosen by attempt and error",
    (record) => [step("a", { record, attempts: [{ fail: "one" }, { typeError: "two" }], retries: constant(5, [20, 0]), timeout: "1 minute" })],
    ({ records, platform }) => {
      // The config is compared without the delay, because a delay may be a function.
      const config = { retries: { limit: 5, backoff: "constant" }, timeout: "1 minute" };
      const ctx = (attempt) => ({ step: { name: "a", count: 1 }, attempt, config });
      assert.deepEqual(records, [
        { attempt: ctx(1) },
        { delay: ctx(1), error: "one" },
        { attempt: ctx(2) },
        { delay: ctx(2), error: "two" },
        { attempt: ctx(3) },
      ]);
      assert.deepEqual(of(platform, "attempt_errored").map(({ retryDelayMs }) => retryDelayMs), [20, 0]);
    },
  );

  for (const [how, message] of Object.entries({ fail: "lost", panic: "panicked: lost", panicLater: "panicked: lost", nonRetryable: "NonRetryableError: lost" })) {
    sameRun(`whose delay function ends with: ${how}`, [failing("a", { retries: constant(5, [{ [how]: "lost" }]) })], ({ status, error, platform }) => {
      assert.equal(status, "errored");
      assert.ok(error.message.endsWith(`The delay function for step "a-1" threw an error: ${message}`), error.message);
      assert.equal(of(platform, "attempt_started").length, 1);
    });
  }

  sameRun("whose delay function never answers", [failing("a", { retries: constant(5, ["hang"]) })], ({ status, error }) => {
    assert.equal(status, "errored");
    assert.match(error.message, /The delay function for step "a-1" did not return within 5 seconds/);
  });

  for (const [attempt, error] of [
    [{ fail: "no" }, { name: "Error", message: "no" }],
    [{ typeError: "no" }, { name: "TypeError", message: "no" }],
    [{ nonRetryable: "no" }, { name: "NonRetryableError", message: "no" }],
    [{ panic: "no" }, { name: "Error", message: "panicked: no" }],
    [{ panicLater: "no" }, { name: "Error", message: "panicked: no" }],
    ["hang", { name: "WorkflowTimeoutError", message: "Execution timed out after 200ms" }],
  ]) {
    sameRun(`that fails: ${JSON.stringify(attempt)}`, [step("a", { attempts: [attempt], retries: none, timeout: attempt === "hang" ? "0.2 seconds" : "1 minute" })], (run) => {
      assert.equal(run.status, "errored");
      assert.ok(run.error.message.endsWith(error.message), run.error.message);
    });
  }

  sameRun("whose error is caught", [{ catch: { op: failing("a"), rethrow: false } }, step("b")], (run) => {
    assert.equal(run.status, "complete");
    assert.equal(outputs(run)[0].error, "no");
  });

  sameRun("at the same time as another", [{ join: [[step("a"), step("b")], [step("a"), step("c")]] }], (run) => assert.deepEqual(outputs(run)[0].map(([{ count }]) => count), [1, 2]));
  sameRun("whose name is too long", [step("x".repeat(300))], ({ status, error }) => {
    assert.equal(status, "errored");
    assert.match(error.message, /exceeds max length/);
  });
});

describe("a step's stream", { concurrency: 4 }, () => {
  const read = { empty: [[], 0], small: [[3, 5], 8], large: [[300_000, 1, 700_000], 1_000_001] };
  for (const [name, [chunks, bytes]] of Object.entries(read)) {
    sameRun(`is read: ${name}`, [step("a", { stream: { chunks } })], (run) => assert.equal(outputs(run)[0].bytes, bytes));
  }
  for (const how of ["fail", "panic", "panicLater"]) {
    sameRun(`ends with: ${how}`, [step("a", { stream: { chunks: [10], fail: { [how]: "cut" } }, retries: none })], ({ status, error }) => {
      assert.equal(status, "errored");
      // The platform does not give the reason.
      assert.match(error.message, /the step "a" returned an invalid ReadableStream output/);
    });
  }
  sameRun(
    "is the same in a later lifetime",
    [step("a", { stream: { chunks: [70_000] } }), { wait: { name: "w", type: "go" } }],
    (run) => {
      assert.equal(outputs(run)[0].bytes, 70_000);
      assert.equal(of(run.platform, "attempt_started").length, 1);
    },
    {
      async drive(side, id) {
        await paused(side, id);
        await resumed(side, id);
        await side.ok({ sendEvent: { id, type: "go", payload: 1 } });
      },
    },
  );
});

describe("a rollback", { concurrency: 4 }, () => {
  const undone = (records) => records.filter(({ rollback }) => rollback).map(({ rollback: { step }, error, output }) => [`${step.name}-${step.count}`, error, output]);

  sameRun(
    "runs for each step that began, the last first",
    (record) => [step("a", { value: 1, rollback: {}, record }), step("b"), step("a", { value: { x: [2] }, rollback: {}, record }), failing("c", { rollback: {}, record })],
    ({ status, error, records, platform }) => {
      assert.deepEqual({ status, error }, { status: "errored", error: { name: "Error", message: "no" } });
      assert.deepEqual(undone(records), [["c-1", "no", undefined], ["a-2", "no", { x: [2] }], ["a-1", "no", 1]]);
      assert.deepEqual(of(platform, "rollback_step_completed").map(({ stepName }) => stepName), ["c-1", "a-2", "a-1"]);
      assert.equal(of(platform, "rollback_completed").length, 1);
    },
  );

  sameRun(
    "has the context of the step's last attempt",
    (record) => [step("a", { attempts: [{ fail: "1" }], retries: constant(3, 5), timeout: "9 seconds", value: null, rollback: {}, record }), { fail: "enough" }],
    ({ records }) => {
      const { rollback, error, output } = records.at(-1);
      assert.deepEqual(rollback, { step: { name: "a", count: 1 }, attempt: 2, config: { retries: constant(3, 5), timeout: "9 seconds" } });
      assert.equal(error, "enough");
      assert.equal(typeof output, "object");
    },
  );

  sameRun(
    "has a config of its own",
    (record) => [step("a", { rollback: { attempts: [{ fail: "1" }, { panic: "2" }], retries: { limit: 2, delay: "0.01 seconds", backoff: "linear" }, timeout: "7 seconds" }, record }), { fail: "enough" }],
    ({ platform }) => {
      assert.deepEqual(of(platform, "rollback_step_started")[0].config, { retries: { limit: 2, delay: "0.01 seconds", backoff: "linear" }, timeout: "7 seconds" });
      assert.deepEqual(of(platform, "rollback_attempt_errored").map(({ error: { message }, retryDelayMs }) => [message, retryDelayMs]), [["1", 10], ["panicked: 2", 20]]);
      assert.equal(of(platform, "rollback_attempt_completed").length, 1);
    },
  );

  for (const attempt of [{ fail: "stuck" }, { panic: "stuck" }, { nonRetryable: "stuck" }, "hang"]) {
    const message = { panic: "panicked: stuck" }[Object.keys(attempt)[0]] ?? (attempt === "hang" ? "Execution timed out" : "stuck");
    sameRun(
      `that fails for good is the last: ${JSON.stringify(attempt)}`,
      (record) => [step("a", { rollback: {}, record }), step("b", { rollback: { attempts: [attempt], retries: none, timeout: 200 }, record }), { fail: "enough" }],
      ({ error, records, platform }) => {
        assert.equal(error.message, "enough");
        assert.deepEqual(undone(records).map(([name]) => name), ["b-1"]);
        assert.equal(of(platform, "rollback_step_errored").length, 1);
        assert.ok(of(platform, "rollback_attempt_errored")[0].error.message.includes(message));
        assert.equal(of(platform, "rollback_errored").length, 1);
      },
    );
  }

  sameRun(
    "with delays that are chosen",
    (record) => [step("a", { rollback: { attempts: [{ fail: "1" }], retries: constant(2, [30]) }, record }), { fail: "enough" }],
    ({ platform }) => assert.equal(of(platform, "rollback_started").length, 1),
  );

  // The local engine returns the same stream that the run got, which has been read.
  sameRun("cannot be called with a stream", (record) => [step("a", { stream: { chunks: [5, 6] }, rollback: { retries: none }, record }), { fail: "enough" }], ({ records, platform }) => {
    assert.deepEqual(undone(records), []);
    assert.equal(of(platform, "rollback_step_errored").length, 1);
  });

  sameRun("runs after a NonRetryableError", (record) => [step("a", { rollback: {}, record }), step("b", { attempts: [{ nonRetryable: "never" }] })], ({ error, records }) => {
    assert.equal(error.name, "NonRetryableError");
    assert.deepEqual(undone(records).map(([name, message]) => [name, message]), [["a-1", "never"]]);
  });

  sameRun("does not run if the error is caught", (record) => [{ catch: { op: failing("a", { rollback: {}, record }), rethrow: false } }], ({ status, records }) => {
    assert.equal(status, "complete");
    assert.deepEqual(undone(records), []);
  });

  const waiting = (record) => [step("a", { value: 7, rollback: {}, record }), { wait: { name: "w", type: "go" } }];
  sameRun(
    "runs when the instance is terminated with rollback",
    waiting,
    ({ status, records, platform }) => {
      assert.equal(status, "terminated");
      assert.deepEqual(undone(records), [["a-1", "Instance terminated during rollback", 7]]);
      assert.deepEqual(platform.slice(-2).map(({ type }) => type), ["rollback_completed", "workflow_terminated"]);
    },
    { drive: async (side, id) => { await begun(side, id); await side.ok({ terminate: { id, rollback: true } }); } },
  );
  for (const rollback of [false, undefined]) {
    sameRun(
      `does not run when it is terminated with rollback: ${rollback}`,
      waiting,
      ({ status, records }) => {
        assert.equal(status, "terminated");
        assert.deepEqual(undone(records), []);
      },
      { drive: async (side, id) => { await begun(side, id); await side.ok({ terminate: { id, rollback } }); } },
    );
  }
  sameRun(
    "runs after a pause for every step that has ended at the same time as others",
    (record) => [{ tryJoin: [[{ wait: { name: "w", type: "go" } }], ["a", "b", "c"].map((name) => step(name, { rollback: {}, record }))] }],
    ({ status, records }) => {
      assert.equal(status, "terminated");
      assert.deepEqual(undone(records).map(([name]) => name), ["c-1", "b-1", "a-1"]);
    },
    {
      async drive(side, id) {
        await side.records(id, 3);
        await paused(side, id);
        await side.ok({ terminate: { id, rollback: true } });
      },
    },
  );
  test("after a pause tells viewers of no step that did not run", async () => {
    const side = all.events;
    await side.create("undone", [...waiting("undone"), { sleep: { name: "s", ms: 10 } }, step("never", { rollback: {} })]);
    await begun(side, "undone");
    await paused(side, "undone");
    await side.ok({ terminate: { id: "undone", rollback: true } });
    const events = await side.events("undone");
    assert.deepEqual(events.map(({ type, json }) => `${type} ${json.taskId}`), ["started alpha-1.workflow", "started a-1", "completed a-1", "started w-1.waitForEvent", "failed alpha-1.workflow"]);
    assert.deepEqual(undone(await side.records("undone")).map(([name]) => name), ["a-1"]);
  });

  sameRun(
    "runs after a pause, when the engine has to run the workflow again to know it",
    (record) => [...waiting(record), step("never", { rollback: {}, record })],
    ({ status, records }) => {
      assert.equal(status, "terminated");
      assert.deepEqual(undone(records), [["a-1", "Instance terminated during rollback", 7]]);
      assert.ok(records.every(({ attempt }) => attempt?.step.name !== "never"));
    },
    {
      async drive(side, id) {
        await begun(side, id);
        await paused(side, id);
        await side.ok({ terminate: { id, rollback: true } });
      },
    },
  );
});

describe("sleeps and waits", { concurrency: 4 }, () => {
  sameRun("a number, and labels", [{ sleep: { name: "s", ms: 10 } }, { sleep: { name: "s", ms: "0.02 seconds" } }, { sleep: { name: "s", ms: "0 weeks" } }], ({ platform }) => {
    assert.deepEqual(of(platform, "sleep_started").map(({ durationMs }) => durationMs), [10, 20, 0]);
  });
  same(
    "until a time",
    async (side) => {
      await side.create("until", [{ sleepUntil: { name: "u", ms: 1500 } }]);
      return { ...(await side.reached("until")), types: (await side.platform("until")).map(({ type }) => type) };
    },
    ({ types }) => assert.ok(types.includes("sleep_completed")),
  );
  sameRun("a wait", [{ wait: { name: "w", type: "go", timeout: "1 hour" } }], (run) => assert.deepEqual(outputs(run), [{ type: "go", payload: { by: ["me"] } }]), {
    drive: (side, id) => side.ok({ sendEvent: { id, type: "go", payload: { by: ["me"] } } }),
  });
  for (const timeout of [50, "0.05 seconds"]) {
    sameRun(`a wait that times out after ${timeout}`, [{ wait: { name: "w", type: "go", timeout } }], ({ status, error }) => {
      assert.equal(status, "errored");
      assert.match(error.message, /Execution timed out after 50ms/);
    });
  }
});

describe("the workflow's class", { concurrency: 4 }, () => {
  same(
    "is told of its instance",
    async (side) => {
      const before = Date.now();
      await side.create("event", [{ event: null }]);
      const { output } = await side.reached("event");
      const [{ workflowName, timestamp, ...rest }] = output.outputs;
      return { ...rest, named: workflowName.startsWith("alpha"), inTime: timestamp >= before - 1000 && timestamp <= Date.now() + 1000 };
    },
    (event) => assert.deepEqual(event, { instanceId: "event", schedule: null, named: true, inTime: true }),
    () => ["javascript", "rust"],
  );
  sameRun("can wait until something has ended, after its run", (record) => [{ waitUntil: { record } }], ({ status, records }) => {
    assert.equal(status, "complete");
    assert.deepEqual(records, ["waited until"]);
  }, { records: 1 });
  sameRun("fails", [{ fail: "enough" }], ({ error }) => assert.deepEqual(error, { name: "Error", message: "enough" }));
  sameRun("panics", [{ panic: "oh" }], ({ error }) => assert.deepEqual(error, { name: "Error", message: "panicked: oh" }));
});

/** Does the same for calls one after another, and compares the list of their results. */
function sameCalls(name, calls, check) {
  const act = async (side) => {
    const results = [];
    for (const call of calls) results.push(typeof call === "function" ? await call(side) : await side.call(call));
    return results;
  };
  same(name, act, check);
}

const value = { params: { ops: [step("a", { value: 7 })], wrapped: false } };

describe("create", { concurrency: 4 }, () => {
  sameCalls("with everything", [{ create: { id: "everything", ...value, retention: { successRetention: "3 days", errorRetention: 86_400_000 }, locationHint: "weur" } }, (side) => side.reached("everything")], ([created, { status }]) => {
    assert.deepEqual(created, { ok: { id: "everything" } });
    assert.equal(status, "complete");
  });
  sameCalls("in every place there is", ["wnam", "enam", "sam", "weur", "eeur", "apac", "apac-ne", "apac-se", "oc", "afr", "me"].map((locationHint) => ({ createBatch: { instances: [{ id: `in-${locationHint}`, ...value, locationHint }] } })), (results) => {
    for (const { ok } of results) assert.equal(ok.created.length, 1);
  });
  sameCalls("with an id that is taken", [{ create: { id: "taken", ...value } }, { create: { id: "taken", ...value } }], ([, { error }]) => assert.match(error, /already exists/));
  sameCalls("with ids that cannot be", [...BAD_IDS].map((id) => ({ create: { id, ...value } })), (results) => {
    for (const { error } of results) assert.match(error, /invalid id/);
  });
});

describe("createBatch", { concurrency: 4 }, () => {
  const alike = (count) => ({ createBatch: { count, ...value, retention: { successRetention: "1 day" }, locationHint: "oc" } });
  const count = async (side) => {
    const { ok } = await side.call(alike(3));
    return { created: ok.created.length, errors: ok.errors, ids: new Set(ok.created).size };
  };
  sameCalls("of a count", [count], ([batch]) => assert.deepEqual(batch, { created: 3, errors: [], ids: 3 }));
  sameCalls("of too many or none", [alike(0), alike(101)], (results) => {
    for (const { error } of results) assert.match(error, /\(body\)/);
  });
  const instances = (...ids) => ({ createBatch: { instances: ids.map((id) => ({ id, ...value })) } });
  sameCalls("of instances", [instances("b-1", "b-2"), (side) => side.reached("b-2")], ([batch, { output }]) => {
    assert.deepEqual(batch, { ok: { created: ["b-1", "b-2"], errors: [] } });
    assert.deepEqual(output.outputs, [7]);
  });
  sameCalls("of some that are taken, and some twice", [instances("c-1"), instances("c-1", "c-2", "c-2", "c-3")], ([, { ok }]) => {
    assert.deepEqual(ok.created, ["c-2", "c-3"]);
    assert.deepEqual(ok.errors.map(({ index, id, code }) => [index, id, code]), [[0, "c-1", 10405], [2, "c-2", 10415]]);
  });
  sameCalls("with an id that cannot be", [instances("d-1", "-a"), { get: "d-1" }], ([batch, get]) => {
    assert.match(batch.error, /instance.invalid_id/);
    assert.match(get.error, /not_found/);
  });
  sameCalls("of no instances", [instances()], ([{ error }]) => assert.match(error, /\(body\)/));
  sameCalls("with a retention that cannot be", [{ createBatch: { instances: [{ id: "e-1", ...value, retention: { successRetention: 0 } }] } }], ([{ error }]) => assert.match(error, /\(body\)/));
});

describe("delete", { concurrency: 4 }, () => {
  sameCalls("an instance, which is gone", [{ create: { id: "gone", ...value } }, (side) => side.reached("gone"), { delete: "gone" }, { get: "gone" }], ([, , deleted, get]) => {
    assert.deepEqual(deleted, { ok: null });
    assert.match(get.error, /not_found/);
  });
  sameCalls("a batch", [{ createBatch: { instances: [{ id: "g-1", ...value }, { id: "g-2", ...value }] } }, (side) => side.reached("g-1"), (side) => side.reached("g-2"), { deleteBatch: ["g-1", "never", "g-2", "g-1"] }, { get: "g-2" }], (results) => {
    const { ok } = results.at(-2);
    assert.deepEqual(ok.deleted, ["g-1", "g-2", "g-1"]);
    assert.deepEqual(ok.errors.map(({ id, code }) => [id, code]), [["never", 10400]]);
    assert.match(results.at(-1).error, /not_found/);
  });
  sameCalls("no batch", [{ deleteBatch: [] }, { deleteBatch: [""] }, { deleteBatch: Array.from({ length: 101 }, (_, index) => `n-${index}`) }], ([none, bad, many]) => {
    assert.match(none.error, /\(body\)/);
    assert.match(bad.error, /invalid_id/);
    assert.match(many.error, /\(body\)/);
  });
});

describe("an instance", { concurrency: 4 }, () => {
  sameCalls("that nobody has", ["get", "status", "pause", "resume", "delete"].map((name) => ({ [name]: "nobody" })).concat({ terminate: { id: "nobody" } }, { restart: { id: "nobody" } }, { sendEvent: { id: "nobody", type: "go", payload: 1 } }), (results) => {
    for (const { error } of results) assert.match(error, /not_found/);
  });

  sameCalls("goes through its states", [
    (side) => side.create("states", [step("a", { gate: "states" }), { wait: { name: "w", type: "go" } }]),
    (side) => side.reached("states", "running"),
    { pause: "states" },
    (side) => side.reached("states", "waitingForPause"),
    (side) => side.gate("states", "open"),
    (side) => side.reached("states", "paused"),
    { pause: "states" },
    (side) => resumed(side, "states"),
    { resume: "states" },
    { sendEvent: { id: "states", type: "go", payload: { deep: [null, true] } } },
    (side) => side.reached("states"),
    ...["pause", "resume"].map((name) => ({ [name]: "states" })),
    { terminate: { id: "states" } },
    { terminate: { id: "states", rollback: true } },
  ], (results) => {
    const end = results[10];
    assert.equal(end.status, "complete");
    assert.deepEqual(end.output.outputs[1], { type: "go", payload: { deep: [null, true] } });
    for (const { error } of results.slice(-2)) assert.match(error, /instance.cannot_terminate/);
  });
});

describe("restart", { concurrency: 4 }, () => {
  /** Runs to the end, then once more from this step: compares which steps ran, and the platform's log. */
  function sameRestart(name, from, ran) {
    const id = `restart-${(number += 1)}`;
    const ops = [step("a", { record: id }), step("a", { record: id }), { sleep: { name: "a", ms: 10 } }, step("b", { record: id }), { wait: { name: "w", type: "go" } }, step("c", { record: id })];
    const names = (records) => records.map(({ attempt: { step } }) => `${step.name}-${step.count}`);
    const act = async (side) => {
      await side.create(id, ops);
      await side.ok({ sendEvent: { id, type: "go", payload: 1 } });
      await side.reached(id);
      const before = (await side.records(id)).length;
      const restarted = await side.call({ restart: { id, from } });
      await side.call({ sendEvent: { id, type: "go", payload: 2 } });
      const { status, output } = await side.reached(id);
      return { restarted, status, outputs: output.outputs, ran: names(await side.records(id)).slice(before) };
    };
    same(name, act, (result) => {
      assert.equal(result.status, "complete");
      assert.deepEqual(result.ran, ran);
    });
  }
  sameRestart("from the beginning", undefined, ["a-1", "a-2", "b-1", "c-1"]);
  sameRestart("from a step", { name: "b" }, ["b-1", "c-1"]);
  sameRestart("from the second of its name", { name: "a", count: 2 }, ["a-2", "b-1", "c-1"]);
  sameRestart("from a sleep of its name", { name: "a", type: "sleep" }, ["b-1", "c-1"]);
  sameRestart("from a wait", { name: "w", type: "waitForEvent" }, ["c-1"]);
  sameRestart("from a step of that type", { name: "a", type: "do" }, ["a-1", "a-2", "b-1", "c-1"]);

  sameCalls("from a step that never began", [{ create: { id: "unknown-step", ...value } }, (side) => side.reached("unknown-step"), { restart: { id: "unknown-step", from: { name: "never" } } }, { restart: { id: "unknown-step", from: { name: "a", count: 2 } } }, { restart: { id: "unknown-step", from: { name: "a", type: "sleep" } } }], (results) => {
    for (const { error } of results.slice(2)) assert.match(error, /cannot_restart/);
  });
});

/** Waits until it has begun to wait. */
function begun(side, id) {
  return side.platform(id, "wait_started");
}

async function paused(side, id) {
  await side.ok({ pause: id });
  await side.reached(id, "paused");
}

async function resumed(side, id) {
  await side.ok({ resume: id });
  for (;;) {
    const { status } = await side.ok({ status: id });
    if (status !== "queued") return status;
    // The engine forgets an instance that is resumed a moment before its code has stopped.
    await side.ok({ sendEvent: { id, type: "wake up", payload: null } });
  }
}
