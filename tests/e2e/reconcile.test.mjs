// A run whose log cannot be reached at its end: afterwards the missing events are added from the platform's own log.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { harness } from "./lib/harness.mjs";
import { Gate, at, assertAgrees, assertDense, lines, start } from "./lib/script.mjs";

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

const never = { limit: 0, delay: 0, backoff: "constant" };
const withoutId = (line) => line.replace(/^\d+ /, "");

// All fragile objects are shut at once.
afterEach(() => fetch(`${server.url}/fragile/any/rpc/reopen`, { method: "POST" }));

async function rpc(run, method) {
  const response = await fetch(`${run.url}/rpc/${method}`, { method: "POST" });
  return response.text();
}

test("ends that the log missed are added as the platform has them", async () => {
  const [slow, bad] = ["slow", "bad"].map((name) => new Gate(server, `reconcile-${name}`));
  const ops = [
    { do: { name: "a" } },
    {
      join: [
        [{ do: { name: "slow", gate: slow.name, attributes: { x: 1 } } }],
        [{ catch: { op: { do: { name: "bad", gate: bad.name, attempts: [{ fail: "no" }], retries: never } }, rethrow: false } }],
        [{ wait: { name: "w", type: "go" } }],
        [{ catch: { op: { wait: { name: "late", type: "never", timeout: 8_000 } }, rethrow: false } }],
        [{ sleep: { name: "s", ms: 6_000 } }],
      ],
    },
    { do: { name: "unseen" } }, // the log never gets this one
  ];
  const run = await start(server, ops, { workflow: "fragile" });
  const viewer = await run.open();
  const begun = ["slow-1", "bad-1", "w-1.waitForEvent", "late-1.waitForEvent", "s-1.sleep"];
  while (!begun.every((task) => viewer.events.some(at("started", task)))) await viewer.next();
  assert.match(await rpc(run, "shut"), /the object goes down/);
  viewer.close();

  await slow.open();
  await bad.open();
  await run.event("go", 1);
  const { state } = await run.ended();
  assert.equal(state, "complete");
  assert.equal(await rpc(run, "reopen"), "called");

  const events = await run.readAll();
  assertDense(events);
  assert.deepEqual(lines(events).map(withoutId).sort(), [
    "attempt_failed bad-1 #1 (no)",
    "completed a-1 #1",
    "completed fragile-1.workflow",
    "completed s-1.sleep",
    "completed slow-1 #1",
    "completed w-1.waitForEvent",
    "failed bad-1 #1 (no)",
    "failed late-1.waitForEvent (the event did not come in time)",
    "started a-1",
    "started bad-1",
    "started fragile-1.workflow",
    "started late-1.waitForEvent",
    "started s-1.sleep",
    "started slow-1",
    "started w-1.waitForEvent",
  ]);
  const platform = await run.platform();
  assertAgrees(events, platform.filter(({ stepName }) => stepName !== "unseen-1"));
  const { attributes, timestamp } = events.find(at("completed", "slow-1")).json;
  const theirs = platform.find(({ type, stepName }) => type === "step_completed" && stepName === "slow-1");
  assert.deepEqual([attributes, Date.parse(timestamp)], [undefined, theirs.timestamp], "it is the platform's");
  // A later viewer gets nothing twice.
  assert.deepEqual((await run.readAll()).map(({ raw }) => raw), events.map(({ raw }) => raw));
});

test("a run that its object ends is also ended by the platform's log", async () => {
  const run = await start(server, [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }], { workflow: "beta" });
  const viewer = await run.open();
  await viewer.until(at("started", "w-1.waitForEvent"));
  await run.pause(); // the lifetime ends, and does not know how the run goes on
  await run.act("terminate"); // the library is not notified
  const end = (await viewer.rest()).at(-1);
  assert.equal(withoutId(lines([end])[0]), "failed beta-1.workflow (the instance was terminated)");
  // Its time is the platform's.
  const terminated = (await run.platform()).at(-1);
  assert.equal(terminated.type, "workflow_terminated");
  assert.equal(Date.parse(end.json.timestamp), terminated.timestamp);
});

test("a restart that the log missed is added with the end of its run", async () => {
  const gate = new Gate(server, "reconcile-again");
  const run = await start(server, [{ do: { name: "a", gate: gate.name } }], { workflow: "fragile" });
  const viewer = await run.open();
  await viewer.until(at("started", "a-1"));
  assert.match(await rpc(run, "shut"), /the object goes down/);
  viewer.close();
  await new Promise((resolve) => setTimeout(resolve, 1_000)); // more than clocks may differ
  await run.act("restart");
  await gate.open();
  await run.ended();
  assert.equal(await rpc(run, "reopen"), "called");
  assert.deepEqual(lines(await run.readAll()), [
    "1 started fragile-1.workflow",
    "2 started a-1",
    "3 restarted",
    "4 started fragile-1.workflow",
    "5 completed fragile-1.workflow",
  ]);
});
