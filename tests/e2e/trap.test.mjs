// The WebAssembly instance dies, for any reason: its streams are cut within two seconds, clients resume without a
// gap, objects keep what they stored, attempts are retried and runs go on.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Follower } from "./lib/follower.mjs";
import { harness } from "./lib/harness.mjs";
import { Gate, Run, at, assertDense, json, lines, start } from "./lib/script.mjs";

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

/** Long before the next heartbeat, with which a runtime would notice at the latest. */
const CUT_MS = 12_000;
const retries = { limit: 3, delay: 10, backoff: "constant" };

/** Ends the instance with a request. The answer is not of interest. */
async function spring(way) {
  const response = await fetch(`${server.url}/trap/${way}`, { method: "POST" });
  await response.body?.cancel();
  assert.ok(response.status >= 500, `${way}: ${response.status}`);
}

/** Checks that the stream breaks in time, after the bytes that are still on the way. Resolves to what came. */
async function cut(viewer, ms = CUT_MS) {
  const within = new Promise((_, reject) => setTimeout(() => reject(new Error("not cut in time")), ms).unref());
  const reading = async () => {
    while ((await viewer.next()) !== null);
    throw new Error("ended as if it were complete");
  };
  await assert.rejects(Promise.race([reading(), within]), (error) => !/in time|as if/.test(error.message));
  return viewer.events;
}

const WAYS = ["unreachable", "recursion", "memory", "import-deep", "drop"];

for (const way of WAYS) {
  test(`${way}: viewers of a step that is under way, and of a run that waits`, { timeout: 180_000 }, async () => {
    const gate = new Gate(server, `trap-${way}`);
    const busy = await start(server, [{ do: { name: "a" } }, { do: { name: "slow", gate: gate.name, retries } }, { do: { name: "b" } }]);
    const waiting = await start(server, [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }, { do: { name: "b" } }]);
    const viewers = await Promise.all([busy, busy, waiting, waiting].map((run) => run.open()));
    for (const [index, viewer] of viewers.entries()) await viewer.until(at("started", index < 2 ? "slow-1" : "w-1.waitForEvent"));

    await spring(way);
    await Promise.all(viewers.map((viewer) => cut(viewer)));

    // Viewers get the stored events at once.
    const again = await Promise.all([busy, waiting].map((run) => run.open()));
    await again[0].until(at("started", "slow-1"));
    await again[1].until(at("started", "w-1.waitForEvent"));
    await gate.open();
    await waiting.event("go", 7);

    const busyEvents = await again[0].rest();
    assertDense(busyEvents);
    assert.deepEqual(lines(busyEvents).slice(1), [
      "2 started a-1",
      "3 completed a-1 #1",
      "4 started slow-1",
      "5 completed slow-1 #2",
      "6 started b-1",
      "7 completed b-1 #1",
      `8 completed ${busy.id}.workflow`.replace(busy.id, "alpha-1"),
    ]);
    assert.deepEqual((await busy.ended()).output.outputs.map(({ name, attempt }) => `${name} ${attempt}`), ["a 1", "slow 2", "b 1"]);
    const attempts = (await busy.platform()).filter(({ type, stepName }) => type.startsWith("attempt_") && stepName === "slow-1");
    assert.deepEqual(attempts.map(({ type, error }) => [type, error?.message].filter(Boolean).join(": ")), [
      "attempt_started",
      "attempt_errored: the WebAssembly instance of this Worker has died",
      "attempt_started",
      "attempt_completed",
    ]);

    assert.deepEqual(lines(await again[1].rest()).slice(1), [
      "2 started a-1",
      "3 completed a-1 #1",
      "4 started w-1.waitForEvent",
      "5 completed w-1.waitForEvent",
      "6 started b-1",
      "7 completed b-1 #1",
      "8 completed alpha-1.workflow",
    ]);
    // Each step ran once.
    assert.deepEqual((await waiting.ended()).output.outputs, [
      { name: "a", count: 1, attempt: 1 },
      { type: "go", payload: 7 },
      { name: "b", count: 1, attempt: 1 },
    ]);
  });
}

test("a viewer in the middle of a long log", { timeout: 300_000 }, async () => {
  const gate = new Gate(server, "trap-long");
  const run = await start(server, [{ many: { name: "s", steps: 2_000, bytes: 8_000 } }, { do: { name: "slow", gate: gate.name, retries } }]);
  const head = await run.open();
  await head.until(at("started", "slow-1"));
  // They read a little and then nothing, so writes to them are pending.
  const stalled = await Promise.all([run.open(), run.open(), run.open()]);
  for (const viewer of stalled) await viewer.next();
  await new Promise((resolve) => setTimeout(resolve, 500));

  await spring("recursion");
  await cut(head);
  // Reading the megabytes on the way takes time.
  await Promise.all(stalled.map((viewer) => cut(viewer, 60_000)));
  for (const { events } of stalled) assert.ok(events.length < head.events.length, "the log was not long enough");

  await gate.open();
  const { id } = stalled[0].events.at(-1);
  const rest = await run.readAll({ lastEventId: id });
  assert.equal(rest[0].id, id + 1);
  assertDense([...stalled[0].events, ...rest]);
  assert.equal(rest.at(-1).json.taskId, "alpha-1.workflow");
});

describe("in a run's own code", () => {
  test("an attempt that dies is retried, and nothing else runs again", { timeout: 180_000 }, async () => {
    const run = await start(server, [
      { do: { name: "a", record: "trap-own" } },
      { do: { name: "deadly", attempts: [{ trap: "unreachable" }, { trap: "recursion" }], retries } },
      { sleep: { name: "s", ms: 50 } },
      { do: { name: "b" } },
    ]);
    const follower = new Follower(run);
    await follower.until(({ json: { kind }, type }) => kind === "workflow" && type === "completed");
    assertDense(follower.events);
    // The number of the attempt died with the instance, if its event was not sent yet.
    assert.deepEqual(lines(follower.events).slice(1).map((line) => line.replace(/(a-1) #1$/, "$1")), [
      "2 started a-1",
      "3 completed a-1",
      "4 started deadly-1",
      "5 completed deadly-1 #3",
      "6 started s-1.sleep",
      "7 completed s-1.sleep",
      "8 started b-1",
      "9 completed b-1 #1",
      "10 completed alpha-1.workflow",
    ]);
    follower.close();
    const { output } = await run.ended();
    assert.deepEqual(output.outputs.map(({ name, attempt }) => `${name} ${attempt}`), ["a 1", "deadly 3", "b 1"]);
    assert.equal((await json(`${server.url}/gate/trap-own/records`)).length, 1);
  });

  test("steps of one name at the same time keep their results", { timeout: 180_000 }, async () => {
    const gates = [1, 2].map((number) => new Gate(server, `trap-twins-${number}`));
    const twins = gates.map(({ name }, index) => [{ do: { name: "twin", gate: name, value: index, retries } }]);
    const run = await start(server, [{ join: twins }, { join: twins }]);
    const viewer = await run.open();
    await viewer.until(at("started", "twin-2"));
    await gates[0].open();
    await viewer.until(at("completed", "twin-1"));
    await spring("unreachable");
    await gates[1].open();
    assert.deepEqual((await run.ended()).output.outputs, [
      [[0], [1]],
      [[0], [1]],
    ]);
    assertDense(await run.readAll());
  });

  test("code outside of steps that always dies fails the run", { timeout: 180_000 }, async () => {
    const run = await start(server, [{ do: { name: "a" } }, { sleep: { name: "s", ms: 50 } }, { trap: "unreachable" }]);
    const { state, error } = await run.ended();
    assert.deepEqual({ state, message: error.message }, { state: "errored", message: "the WebAssembly instance of this Worker has died" });
    // The platform's status shows it when a viewer asks.
    const follower = new Follower(run);
    await follower.until(({ json: { kind }, type }) => kind === "workflow" && type === "failed");
    follower.close();
  });
});

test("again and again", { timeout: 300_000 }, async () => {
  const gate = new Gate(server, "trap-again");
  const many = { ...retries, limit: 50 };
  const run = await start(server, [{ do: { name: "slow", gate: gate.name, retries: many } }, { do: { name: "b" } }]);
  const client = new Follower(run);
  await client.until(at("started", "slow-1"));
  for (let time = 0; time < 10; time += 1) {
    await Promise.all(WAYS.slice(0, 1 + (time % 3)).map(spring));
    const next = await start(server, [{ do: { name: "quick" } }]);
    assert.equal((await next.ended()).state, "complete");
    assert.equal((await next.readAll()).length, 4);
  }
  await gate.open();
  await client.until(({ json: { kind }, type }) => kind === "workflow" && type === "completed");
  assertDense(client.events);
  client.close();
  assert.equal((await run.ended()).state, "complete");
});

test("an object that died begins again with what it stored", { timeout: 180_000 }, async () => {
  const gate = new Gate(server, "trap-object");
  await gate.open();
  await spring("unreachable");
  const { open, requests } = await json(`${server.url}/gate/${gate.name}/status`);
  assert.deepEqual({ open, requests }, { open: true, requests: 1 });
});

test("an instance's own subscriptions are cut too", { timeout: 180_000 }, async () => {
  const run = new Run(server, "alpha", (await start(server, [{ wait: { name: "w", type: "go" } }])).id);
  const { open } = await import("./lib/sse.mjs");
  const viewer = await open(`${run.url}/instance`);
  await viewer.next();
  await spring("unreachable");
  await cut(viewer);
  await run.event("go");
  assert.equal((await run.ended()).state, "complete");
});

test("an exception through an import that does not catch it costs its request", { timeout: 180_000 }, async () => {
  const gate = new Gate(server, "trap-import");
  const run = await start(server, [{ do: { name: "slow", gate: gate.name, retries } }]);
  const viewer = await run.open();
  await viewer.until(at("started", "slow-1"));
  for (let time = 0; time < 5; time += 1) await spring("import");
  await gate.open();
  assert.deepEqual(lines(await viewer.rest()).slice(2), ["3 completed slow-1 #1", "4 completed alpha-1.workflow"]);
});
