// A run whose runtime is killed by `kill -9` in the middle and started again: its log equals that
// of an undisturbed run, and agrees with the platform's own log.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Records } from "./lib/checker.mjs";
import { Follower } from "./lib/follower.mjs";
import { play } from "./lib/order.mjs";
import { Gate, at, assertAgrees, assertDense, facts, lines, start } from "./lib/script.mjs";
import { serve } from "./lib/wrangler.mjs";

let server;
let undisturbed;
before(async () => {
  server = await serve();
  undisturbed = facts(await play(server));
});
after(() => server?.stop());

async function crash(run) {
  await server.kill();
  await server.start();
  await run.revive();
}

describe("killed", () => {
  test("in mid-step", async () => {
    // The engine counts the attempt that was killed; `play` compared that with the platform's log.
    const expected = undisturbed.map((fact) => (fact.type === "completed" && fact.taskId === "slow-1" ? { ...fact, attempt: 2 } : fact));
    assert.deepEqual(facts(await play(server, { slow: crash })), expected);
  });

  test("in mid-sleep", async () => {
    assert.deepEqual(facts(await play(server, { nap: crash })), undisturbed);
  });

  test("in mid-wait", async () => {
    assert.deepEqual(facts(await play(server, { answer: crash })), undisturbed);
  });

  test("between two attempts", async () => {
    const retries = { limit: 2, delay: 500, backoff: "constant" };
    const run = await start(server, [{ do: { name: "a", attempts: [{ fail: "no" }], retries } }, { do: { name: "b" } }]);
    const client = new Follower(run);
    await client.until(at("attempt_failed", "a-1"));
    await crash(run);
    const events = await client.rest();
    assert.deepEqual(lines(events), [
      "1 started alpha-1.workflow",
      "2 started a-1",
      "3 attempt_failed a-1 #1 (no)",
      "4 completed a-1 #2",
      "5 started b-1",
      "6 completed b-1 #1",
      "7 completed alpha-1.workflow",
    ]);
    await run.ended();
    assertAgrees(events, await run.platform());
  });

  test("while three steps work at the same time", async () => {
    const gate = new Gate(server, "three");
    const branch = [{ do: { name: "j", gate: gate.name } }];
    const run = await start(server, [{ join: [branch, branch, branch] }, { do: { name: "last" } }]);
    const client = new Follower(run);
    await client.until(at("started", "j-3"));
    await crash(run);
    await gate.open();
    const events = await client.rest();
    assertDense(events);
    const shown = lines(events).map((line) => line.replace(/^\d+ /, ""));
    assert.deepEqual([...shown.slice(0, 4), ...shown.slice(4, 7).sort(), ...shown.slice(7)], [
      "started alpha-1.workflow",
      "started j-1",
      "started j-2",
      "started j-3",
      "completed j-1 #2",
      "completed j-2 #2",
      "completed j-3 #2",
      "started last-1",
      "completed last-1 #1",
      "completed alpha-1.workflow",
    ]);
    await run.ended();
    const own = (log, id) => log.filter(({ stepName, json }) => [stepName, json?.taskId].includes(id));
    const platform = await run.platform();
    for (const id of ["j-1", "j-2", "j-3", "last-1"]) assertAgrees(own(events, id), own(platform, id));
  });

  test("when it has ended: the log stays, closed", async () => {
    const run = await start(server, [{ do: { name: "a" } }]);
    const before = await run.readAll();
    await run.ended();
    await server.kill();
    await server.start();
    assert.deepEqual((await run.readAll()).map(({ raw }) => raw), before.map(({ raw }) => raw));
    const { status } = await fetch(run.sse, { headers: { "last-event-id": `${before.at(-1).id}` } });
    assert.equal(status, 204);
  });
});

test("killed after every single event", async () => {
  // Attempts under way may or may not be killed: the steps here do not depend on it.
  const ops = [
    { do: { name: "a" } },
    { group: { name: "g", ops: [{ do: { name: "b" } }, { do: { name: "a" } }] } },
    { sleep: { name: "s", ms: 300 } },
    { wait: { name: "w", type: "go" } },
    { do: { name: "c" } },
  ];
  const quiet = await start(server, ops);
  await quiet.event("go");
  const expected = await quiet.readAll();
  await quiet.ended();

  const run = await start(server, ops);
  await run.event("go");
  const records = new Records();
  const client = new Follower(run, records);
  for (let event = 1; event < expected.length; event += 1) {
    await client.next();
    await server.kill();
    await server.start();
    // The run may have ended before it was killed.
    await run.revive().catch((error) => assert.match(error.message, /finite|ended|complete/i));
  }
  const events = await client.rest();
  assertDense(events);
  const withoutAttempt = (log) => facts(log).map(({ attempt, ...fact }) => fact);
  assert.deepEqual(withoutAttempt(events), withoutAttempt(expected));
  await run.ended();
  const platform = await run.platform();
  assertAgrees(events, platform);
  records.stored(run.id, await run.readAll(), platform);
  records.check();
});
