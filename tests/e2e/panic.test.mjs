// A panic costs one attempt, one run or one request, and nothing else in the Worker.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { harness } from "./lib/harness.mjs";
import { Gate, at, assertAgrees, json, lines, start } from "./lib/script.mjs";

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

const retries = { limit: 3, delay: 10, backoff: "constant" };

describe("in a step", () => {
  test("is a failed attempt, which is retried", async () => {
    const attempts = [{ panic: "at once" }, { panicLater: "after an await" }];
    const run = await start(server, [{ do: { name: "a", attempts, retries, progress: [1] } }, { do: { name: "b" } }]);
    const events = await run.readAll();
    assert.deepEqual(lines(events), [
      "1 started alpha-1.workflow",
      "2 started a-1",
      "3 progress a-1",
      "4 attempt_failed a-1 #1 (panicked: at once)",
      "5 progress a-1",
      "6 attempt_failed a-1 #2 (panicked: after an await)",
      "7 progress a-1",
      "8 completed a-1 #3",
      "9 started b-1",
      "10 completed b-1 #1",
      "11 completed alpha-1.workflow",
    ]);
    const { state, output } = await run.ended();
    assert.equal(state, "complete");
    assert.deepEqual(output.outputs[0], { name: "a", count: 1, attempt: 3 });
    assertAgrees(events, await run.platform());
  });

  test("is a failed attempt without events too", async () => {
    const attempts = [{ panic: "at once" }, { panicLater: "after an await" }];
    const run = await start(server, [{ do: { name: "a", attempts, retries } }], { wrapped: false });
    const { state, output } = await run.ended();
    assert.equal(state, "complete");
    assert.deepEqual(output.outputs, [{ name: "a", count: 1, attempt: 3 }]);
    const errors = (await run.platform()).filter(({ type }) => type === "attempt_errored").map(({ error }) => error.message);
    assert.deepEqual(errors, ["panicked: at once", "panicked: after an await"]);
  });

  test("in the last attempt fails the run", async () => {
    const none = { limit: 0, delay: 0, backoff: "constant" };
    const run = await start(server, [{ do: { name: "a", attempts: [{ panic: "for good" }], retries: none } }]);
    assert.deepEqual(lines(await run.readAll()).slice(2), [
      "3 attempt_failed a-1 #1 (panicked: for good)",
      "4 failed a-1 #1 (panicked: for good)",
      "5 failed alpha-1.workflow (panicked: for good)",
    ]);
    const { state, error } = await run.ended();
    assert.deepEqual({ state, error }, { state: "errored", error: { name: "Error", message: "panicked: for good" } });
  });
});

test("its message, file and line are in the log, whatever class it was in", async () => {
  const none = { limit: 0, delay: 0, backoff: "constant" };
  const attempts = [{ panic: "for the log: a step" }];
  for (const ops of [[{ do: { name: "a", attempts, retries: none } }], [{ panic: "for the log: a run" }]]) {
    assert.equal((await (await start(server, ops)).ended()).state, "errored");
  }
  for (const url of [`${server.url}/panic`, `${server.url}/gate/for-the-log/panic`]) await (await fetch(url)).body?.cancel();
  const places = [
    ["for the log: a step", "script"],
    ["for the log: a run", "script"],
    ["the handler panics", "lib"],
    ["the gate panics", "gate"],
  ];
  for (const [message, file] of places) {
    const wanted = new RegExp(`panicked at [^\\n]*src/${file}\\.rs:\\d+:\\d+:\\n${message}`);
    while (!(await server.log()).some((entry) => wanted.test(entry.message))) await new Promise((resolve) => setTimeout(resolve, 25));
  }
});

describe("in the workflow's own code", () => {
  for (const [where, ops, group] of [
    ["before its first step", [{ panic: "oh" }], []],
    ["between steps", [{ do: { name: "a" } }, { panic: "oh" }], []],
    ["in a group", [{ group: { name: "g", ops: [{ panic: "oh" }] } }], ["failed g-1.group (panicked: oh)"]],
  ]) {
    test(`${where}: the run has failed, and its stream ends`, async () => {
      const run = await start(server, ops);
      const { state, error } = await run.ended();
      assert.deepEqual({ state, error }, { state: "errored", error: { name: "Error", message: "panicked: oh" } });
      const ends = (await run.readAll()).filter(({ type }) => type === "failed");
      assert.deepEqual(lines(ends).map((line) => line.replace(/^\d+ /, "")), [...group, "failed alpha-1.workflow (panicked: oh)"]);

      const unwrapped = await start(server, ops, { wrapped: false });
      assert.deepEqual((await unwrapped.ended()).error, error);
    });
  }

  test("when the workflow's object is made: the run has failed", async () => {
    const { id } = await json(`${server.url}/brittle`, { method: "POST", body: "{}" });
    let status;
    do status = await json(`${server.url}/brittle/${id}/status`);
    while (status.state !== "errored");
    assert.match(status.error.message, /it cannot be made/);
  });

  test("does not touch another run", async () => {
    const gate = new Gate(server, "panic-1");
    const other = await start(server, [{ do: { name: "slow", gate: gate.name } }, { do: { name: "b" } }]);
    const viewer = await other.open();
    await viewer.until(at("started", "slow-1"));
    const panicking = await Promise.all(Array.from({ length: 5 }, () => start(server, [{ panic: "oh" }])));
    for (const run of panicking) assert.equal((await run.ended()).state, "errored");
    await gate.open();
    assert.deepEqual(lines(await viewer.rest()).slice(2), [
      "3 completed slow-1 #1",
      "4 started b-1",
      "5 completed b-1 #1",
      "6 completed alpha-1.workflow",
    ]);
  });
});

describe("in an object of the Worker", () => {
  for (const path of ["panic", "panic-later"]) {
    test(`${path} costs one request; memory stays and open streams go on`, async () => {
      const gate = new Gate(server, `object-${path}`);
      const run = await start(server, [{ do: { name: "slow", gate: gate.name } }, { sleep: { name: "s", ms: 50 } }, { do: { name: "b" } }]);
      const viewers = await Promise.all([run.open(), run.open()]);
      for (const viewer of viewers) await viewer.until(at("started", "slow-1"));

      const panicking = new Gate(server, `panicking-${path}`);
      const before = await json(`${server.url}/gate/${panicking.name}/status`);
      assert.equal(before.requests, 1);
      for (let time = 0; time < 5; time += 1) {
        const response = await panicking.ask(path);
        assert.equal(response.status, 500);
        await response.body?.cancel();
      }
      // A counter in the object's memory: it counted the panicking requests, so the object was not
      // restarted.
      assert.equal((await json(`${server.url}/gate/${panicking.name}/status`)).requests, 7);

      await gate.open();
      for (const viewer of viewers) {
        assert.deepEqual(lines(await viewer.rest()).slice(2), [
          "3 completed slow-1 #1",
          "4 started s-1.sleep",
          "5 completed s-1.sleep",
          "6 started b-1",
          "7 completed b-1 #1",
          "8 completed alpha-1.workflow",
        ]);
      }
      assert.equal((await run.ended()).state, "complete");
    });
  }
});
