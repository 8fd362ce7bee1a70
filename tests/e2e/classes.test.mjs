// The classes that are exported from Rust, as the runtime and other Workers see them.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { harness } from "./lib/harness.mjs";
import { json } from "./lib/script.mjs";

let server;
before(async () => {
  server = await harness({ front: "tests/parity" });
});
after(() => server?.stop());

/** Calls a method of a workflow class by RPC, as the platform does. */
const call = (method, event = null) => json(`${server.url}/class/${method}`, { method: "POST", body: JSON.stringify([event]) });

const event = (more = {}) => ({
  payload: { ops: [{ event: null }], wrapped: false },
  timestamp: 1000,
  instanceId: "i",
  workflowName: "alpha",
  ...more,
});

describe("a workflow class", () => {
  test("runs when it is called as the platform does it", async () => {
    const { ok } = await call("run", event());
    assert.deepEqual(ok.outputs, [{ instanceId: "i", workflowName: "alpha", timestamp: 1000, schedule: null }]);
  });

  test("gets the schedule that created its instance", async () => {
    const schedule = { cron: "*/5 * * * *", scheduledTime: 1_790_000_000_000 };
    const { ok } = await call("run", event({ schedule }));
    assert.deepEqual(ok.outputs[0].schedule, schedule);
  });

  test("has no method by RPC but its own, and is none the worse for the question", async () => {
    for (const method of ["free", "__destroy_into_raw", "__wbg_ptr", "new", "Symbol(Symbol.dispose)", "constructor", "dummy"]) {
      const { error } = await call(method, event());
      assert.ok(error, method);
      assert.ok((await call("run", event())).ok, method);
    }
  });

  test("that is given nonsense says so at once", async () => {
    const { error } = await call("run", { payload: 5 });
    assert.match(error, /params are not of the workflow's type/);
    assert.ok((await call("run")).error);
  });
});

test("several classes share a Worker, each with types of its own", async () => {
  const create = (workflow, body) => json(`${server.url}/rust/${workflow}`, { method: "POST", body: JSON.stringify(body) });
  const [tally, script, wrong] = await Promise.all([
    create("tally", { params: { numbers: [1, 2, -7] } }),
    create("alpha", { params: { ops: [{ do: { name: "add", value: 1 } }], wrapped: false } }),
    create("tally", { params: { ops: [] } }),
  ]);
  const ended = async (workflow, { id }) => {
    for (;;) {
      const { state, output, error } = await json(`${server.url}/rust/${workflow}/${id}/status`);
      if (state === "complete" || state === "errored") return { state, output, error };
    }
  };
  assert.deepEqual((await ended("tally", tally)).output, { sum: -4, workflow: "tally" });
  assert.deepEqual((await ended("alpha", script)).output.outputs, [1]);
  assert.match((await ended("tally", wrong)).error.message, /params are not of the workflow's type: .*numbers/);
});

test("the harness mocks steps, events and time of a workflow in Rust", async () => {
  const introspector = await server.worker.introspectWorkflow("ALPHA");
  await introspector.modifyAll(async (modifier) => {
    await modifier.disableSleeps();
    await modifier.disableRetryDelays();
    await modifier.mockStepResult({ name: "mocked" }, { from: "a test" });
    await modifier.mockEvent({ type: "go", payload: [1] });
  });
  const ops = [
    { do: { name: "mocked", attempts: [{ fail: "never called" }] } },
    { do: { name: "flaky", attempts: [{ fail: "no" }], retries: { limit: 1, delay: "1 year", backoff: "constant" } } },
    { sleep: { name: "s", ms: "1 year" } },
    { wait: { name: "w", type: "go" } },
  ];
  await json(`${server.url}/rust/alpha`, { method: "POST", body: JSON.stringify({ params: { ops, wrapped: false } }) });
  const [instance] = await introspector.get();
  await instance.waitForStatus("complete");
  const { outputs } = JSON.parse(JSON.stringify(await instance.getOutput()));
  assert.deepEqual(outputs, [{ from: "a test" }, { name: "flaky", count: 1, attempt: 2 }, { type: "go", payload: [1] }]);
  await introspector.dispose();
});
