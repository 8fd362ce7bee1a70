// The Workflow binding: creating instances and talking to them.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { harness } from "./lib/harness.mjs";
import { Gate, json, lines, start } from "./lib/script.mjs";

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

async function refused(promise) {
  const error = await promise.then(() => assert.fail("it was not refused"), (thrown) => thrown);
  assert.ok(error.text, error.stack);
  return { status: error.status, ...JSON.parse(error.text) };
}

const create = (body, workflow = "alpha") => json(`${server.url}/${workflow}`, { method: "POST", body: JSON.stringify(body) });
const params = { ops: [{ do: { name: "a", value: 7 } }] };

describe("create", () => {
  test("makes up an id", async () => {
    const ids = await Promise.all([create({ params }), create({ params })]);
    for (const { id } of ids) assert.match(id, /^[0-9a-f-]{36}$/);
    assert.notEqual(ids[0].id, ids[1].id);
  });

  test("takes an id and params", async () => {
    assert.deepEqual(await create({ id: "mine_1-A", params }), { id: "mine_1-A" });
    let status;
    do status = await json(`${server.url}/alpha/mine_1-A/status`);
    while (status.state !== "complete");
    assert.deepEqual(status, { id: "mine_1-A", state: "complete", error: null, output: { outputs: [7], calls: 1 } });
  });

  test("refuses an id that is taken, and leaves that instance alone", async () => {
    const gate = new Gate(server, "taken");
    const run = await start(server, [{ do: { name: "a", gate: gate.name } }], { id: "taken" });
    const { status, kind, message } = await refused(create({ id: "taken", params }));
    assert.deepEqual({ status, kind }, { status: 409, kind: "AlreadyExists" });
    assert.match(message, /already/);
    await gate.open();
    assert.equal((await run.ended()).state, "complete");
    assert.equal((await run.readAll()).length, 4);
    assert.equal((await refused(create({ id: "taken", params }))).status, 409);
  });

  for (const id of ["", "-a", "a b", "a/b", "ä", "x".repeat(101)]) {
    test(`refuses the id ${JSON.stringify(id.slice(0, 9))} of ${id.length}`, async () => {
      const { status, kind } = await refused(create({ id, params }));
      assert.deepEqual({ status, kind }, { status: 400, kind: "InvalidId" });
    });
  }
});

test("get refuses the id of no instance", async () => {
  const { status, kind, message } = await refused(json(`${server.url}/alpha/nobody/status`));
  assert.deepEqual({ status, kind }, { status: 404, kind: "NotFound" });
  assert.match(message, /not_found/);
});

describe("an instance", () => {
  test("goes through its states", async () => {
    const gate = new Gate(server, "states");
    const run = await start(server, [{ do: { name: "a", gate: gate.name } }, { sleep: { name: "s", ms: 300 } }, { wait: { name: "w", type: "go" } }]);
    assert.equal((await run.reached("running")).output, null);
    await run.act("pause");
    await run.reached("waitingForPause");
    await gate.open();
    await run.reached("paused");
    await run.resume();
    const viewer = await run.open();
    await viewer.until(({ type, json: task }) => type === "started" && task.kind === "waitForEvent");
    await run.pause();
    await run.resume();
    await run.event("go", { n: 1 });
    const { state, output, error } = await run.ended();
    assert.deepEqual({ state, error }, { state: "complete", error: null });
    assert.deepEqual(output.outputs[1], { type: "go", payload: { n: 1 } });
    viewer.close();
  });

  test("says why it failed", async () => {
    const run = await start(server, [{ fail: "enough" }]);
    assert.deepEqual(await run.ended(), { id: run.id, state: "errored", output: null, error: { name: "Error", message: "enough" } });
  });

  test("can be terminated", async () => {
    const run = await start(server, [{ wait: { name: "w", type: "go" } }]);
    const viewer = await run.open();
    await viewer.until(({ json: task }) => task.kind === "waitForEvent");
    await run.act("terminate"); // its code does not run again, so viewers are not notified
    assert.equal((await run.ended()).state, "terminated");
    assert.equal((await refused(run.act("terminate"))).kind, "CannotTerminate");
    // Until a viewer asks: then all of them are notified.
    const late = await run.readAll();
    assert.deepEqual(lines(late), [
      "1 started alpha-1.workflow",
      "2 started w-1.waitForEvent",
      "3 failed alpha-1.workflow (the instance was terminated)",
    ]);
    assert.deepEqual((await viewer.rest()).map(({ raw }) => raw), late.map(({ raw }) => raw));
    assert.deepEqual((await run.readAll()).map(({ raw }) => raw), late.map(({ raw }) => raw), "it is told once");
  });

  test("tells its viewers when it is terminated with its events", async () => {
    const run = await start(server, [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }]);
    const viewer = await run.open();
    await viewer.until(({ json: task }) => task.kind === "waitForEvent");
    await run.act("end");
    assert.deepEqual(lines(await viewer.rest()).slice(4), ["5 failed alpha-1.workflow (the instance was terminated)"]);
    assert.equal((await run.ended()).state, "terminated");
    // A run that follows is another.
    await run.act("restart");
    await run.reached("running", "waiting");
    await run.event("go", 1);
    await run.ended();
    const again = await run.open({ lastEventId: 5 });
    assert.deepEqual(lines(await again.rest()).at(-1), "12 completed alpha-1.workflow");
  });

  test("tells its viewers when it is restarted with its events, before a step shows it", async () => {
    const run = await start(server, [{ sleep: { name: "s", ms: 100 } }, { wait: { name: "w", type: "go" } }]);
    const viewer = await run.open();
    await viewer.until(({ json: task }) => task.kind === "waitForEvent");
    await run.act("again");
    await viewer.until("restarted");
    await viewer.until(({ type, json: task }) => type === "started" && task.kind === "waitForEvent");
    await run.event("go", 1);
    assert.deepEqual(lines(await viewer.rest()), [
      "1 started alpha-1.workflow",
      "2 started s-1.sleep",
      "3 completed s-1.sleep",
      "4 started w-1.waitForEvent",
      "5 restarted",
      "6 started alpha-1.workflow",
      "7 started s-1.sleep",
      "8 completed s-1.sleep",
      "9 started w-1.waitForEvent",
      "10 completed w-1.waitForEvent",
      "11 completed alpha-1.workflow",
    ]);
  });

  test("gets an event that is sent before it waits, and only one of its type", async () => {
    const gate = new Gate(server, "early");
    const run = await start(server, [{ do: { name: "a", gate: gate.name } }, { wait: { name: "w", type: "go" } }, { wait: { name: "w", type: "go" } }]);
    await run.event("other", 0);
    await run.event("go", 1);
    await run.event("go", null);
    await gate.open();
    const { output } = await run.ended();
    assert.deepEqual(output.outputs.slice(1), [
      { type: "go", payload: 1 },
      { type: "go", payload: null },
    ]);
  });

  test("can be restarted, with the params it had", async () => {
    const run = await start(server, [{ do: { name: "a", value: { x: 1 } } }, { wait: { name: "w", type: "go" } }]);
    await run.event("go", 1);
    const first = await run.ended();
    await run.act("restart");
    await run.reached("running", "waiting");
    await run.event("go", 1);
    assert.deepEqual((await run.ended()).output.outputs, first.output.outputs);
  });
});

test("an error has the kind of the platform's refusal", async () => {
  const call = (body) => json(`${server.url}/alpha/call`, { method: "POST", body: JSON.stringify(body) });
  const options = (id) => ({ id, params: { ...params, wrapped: false } });
  await call({ create: options("kinds") });
  while ((await call({ status: "kinds" })).ok.status !== "complete");
  for (const [kind, refused] of Object.entries({
    AlreadyExists: { create: options("kinds") },
    InvalidId: { createBatch: { instances: [options("-")] } },
    InvalidOptions: { createBatch: { count: 0 } },
    NotFound: { delete: "nobody" },
    CannotTerminate: { terminate: { id: "kinds" } },
    CannotRestart: { restart: { id: "kinds", from: { name: "never" } } },
  })) {
    assert.equal((await call(refused)).kind, kind, kind);
  }
  const created = await call({ createBatch: { instances: [options("kinds"), options("twice"), options("twice")] } });
  assert.deepEqual(created.ok.errors.map(({ index, kind }) => [index, kind]), [[0, "AlreadyExists"], [2, "DuplicateInBatch"]]);
  const deleted = await call({ deleteBatch: ["kinds", "nobody"] });
  assert.deepEqual(deleted.ok.errors.map(({ id, kind }) => [id, kind]), [["nobody", "NotFound"]]);
});

describe("a binding that is not there", () => {
  for (const [kind, name, found] of [
    ["workflow", "NOPE", 'there is no binding "NOPE"'],
    ["workflow", "EVENTS", "EVENTS"],
    ["events", "NOPE", 'there is no Durable Object binding "NOPE"'],
    ["events", "ALPHA", 'Durable Object binding "ALPHA"'],
  ]) {
    test(`${kind} ${name}: the error says what to write into wrangler.toml`, async () => {
      const response = await fetch(`${server.url}/binding/${kind}/${name}`);
      const message = await response.text();
      assert.ok(message.includes(found), message);
      assert.ok(message.includes("wrangler.toml"), message);
      assert.ok(message.includes(kind === "workflow" ? "[[workflows]]" : "[[durable_objects.bindings]]"), message);
    });
  }

  test("one that is there is found", async () => {
    for (const path of ["workflow/ALPHA", "events/EVENTS"]) {
      assert.equal(await (await fetch(`${server.url}/binding/${path}`)).text(), "found");
    }
  });
});
