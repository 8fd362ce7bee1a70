// Two thousand steps in one run: all events arrive, with few calls.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { harness } from "./lib/harness.mjs";
import { at, assertAgrees, assertDense, start } from "./lib/script.mjs";

const STEPS = 2000;

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

function assertWhole(events) {
  assertDense(events);
  const expected = ["started alpha-1.workflow"];
  for (let step = 1; step <= STEPS; step += 1) expected.push(`started many-${step}`, `completed many-${step}`);
  assert.deepEqual(events.slice(0, expected.length).map(({ type, json }) => `${type} ${json.taskId}`), expected);
}

test("the stream is complete and the calls are far below the budget", async (t) => {
  const run = await start(server, [{ many: { name: "many", steps: STEPS } }]);
  const events = await run.readAll(); // while it runs
  assertWhole(events);
  assert.equal(events.length, 2 * STEPS + 2);
  assert.deepEqual((await run.readAll()).map(({ raw }) => raw), events.map(({ raw }) => raw));

  const { output } = await run.ended();
  t.diagnostic(`${STEPS} steps: ${output.calls} calls to the object`);
  assert.ok(output.calls <= STEPS + 2, `${output.calls} calls`); // the promise
  assert.ok(output.calls <= 3, `${output.calls} calls`); // one, with room for failures
  assertAgrees(events, await run.platform());
});

test("a replay of them makes one call and no event", async (t) => {
  const ops = [{ many: { name: "many", steps: STEPS } }, { wait: { name: "w", type: "go" } }, "calls", { do: { name: "last" } }];
  const run = await start(server, ops);
  const client = await run.open();
  await client.until(at("started", "w-1.waitForEvent"));
  await run.pause();
  await run.resume();
  await run.event("go");

  const events = await client.rest();
  assertWhole(events);
  assert.equal(events.length, 2 * STEPS + 6);
  const { output } = await run.ended();
  const replay = output.outputs[2]; // up to the end of the wait
  t.diagnostic(`a replay of ${STEPS} steps: ${replay} call to the object; with what came after it: ${output.calls}`);
  assert.ok(replay <= 1, `${replay} calls`);
  assertAgrees(events, await run.platform());
});
