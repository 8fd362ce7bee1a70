// The objects that keep the events: whose they are, who may write, and how long they keep them.
import assert from "node:assert/strict";
import http from "node:http";
import { after, before, describe, test } from "node:test";

import { harness } from "./lib/harness.mjs";
import { Run, at, json, lines, start } from "./lib/script.mjs";

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

const rows = (name) => server.sql("WorkflowEvents", name, "SELECT * FROM events");

test("instances of two workflows may have the same id", async () => {
  const runs = await Promise.all(
    ["alpha", "beta"].map((workflow) => start(server, [{ do: { name: `for-${workflow}` } }], { workflow, id: "same" })),
  );
  for (const run of runs) {
    await run.ended();
    assert.deepEqual(lines(await run.readAll()), [
      `1 started ${run.workflow}-1.workflow`,
      `2 started for-${run.workflow}-1`,
      `3 completed for-${run.workflow}-1 #1`,
      `4 completed ${run.workflow}-1.workflow`,
    ]);
  }
});

test("instances that are created at once can be watched at once", async () => {
  // They report nothing themselves.
  const params = { ops: [{ wait: { name: "w", type: "go" } }], wrapped: false };
  const instances = ["batch-1", "batch-2", "batch-3"].map((id) => ({ id, params }));
  const response = await fetch(`${server.url}/alpha/batch`, { method: "POST", body: JSON.stringify({ instances }) });
  assert.deepEqual(await response.json(), { created: 3 });
  for (const { id } of instances) {
    const run = new Run(server, "alpha", id);
    const viewer = await run.open();
    const first = await viewer.next();
    assert.deepEqual(lines([first]), ["1 started alpha-1.workflow"]);
    viewer.close();
  }
});

describe("a client", () => {
  let run;
  let viewer;
  let stored;
  before(async () => {
    run = await start(server, [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }], { id: "victim" });
    viewer = await run.open();
    await viewer.until(at("started", "w-1.waitForEvent"));
    stored = await rows("alpha/victim");
  });

  const event = JSON.stringify([{ type: "completed", data: "{}", key: "1/x", terminal: true }]);
  const headers = [
    {},
    { "content-type": "application/json" },
    { upgrade: "websocket", connection: "upgrade", "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==", "sec-websocket-version": "13" },
    { "x-http-method-override": "POST", "x-method": "append", "x-expected": "1" },
    { "content-type": "application/x-capnp-rpc", "cf-rpc-method": "open", "cf-worker-rpc": "1" },
    { "last-event-id": "0; DROP TABLE events" },
    { "last-event-id": "1 UNION SELECT 1" },
  ];
  const paths = ["", "?append=1", "?expected=1", "?lastEventId=1;DELETE%20FROM%20events", "?from=append", "/", "/append", "/open", "/../rpc", "%2fopen", "#x"];

  /** Sends the path as it is, without the changes or refusals of `fetch`. */
  function send(method, path, header, body) {
    const { hostname, port } = new URL(server.url);
    return new Promise((resolve, reject) => {
      const request = http.request({ hostname, port, method, path, headers: { ...header, ...(body && { "content-length": Buffer.byteLength(body) }) } }, (response) => {
        resolve(response.statusCode);
        response.destroy();
      });
      request.on("error", reject).on("upgrade", (response, socket) => {
        socket.destroy();
        resolve(response.statusCode);
      });
      request.setTimeout(90_000, () => request.destroy(new Error(`${method} ${path} ${JSON.stringify(header)} has no answer`)));
      request.end(body);
    });
  }

  test("cannot append, whatever it sends", async () => {
    const statuses = new Map();
    for (const method of ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]) {
      for (const header of headers) {
        for (const path of header === headers[0] ? paths : [""]) {
          const body = ["GET", "HEAD", "TRACE"].includes(method) ? undefined : event;
          const status = await send(method, `/alpha/victim/sse${path}`, header, body).catch((error) => error.code ?? error.message);
          statuses.set(status, (statuses.get(status) ?? 0) + 1);
          // The runtime takes an upgrade for a GET.
          const isGet = method === "GET" || header.upgrade;
          const isRead = isGet || method === "HEAD";
          if (path === "" && !isRead) assert.ok([405, 400, 501].includes(status), `${method} ${JSON.stringify(header)} ${status}`);
        }
      }
    }
    assert.ok(statuses.get(405) > 30, JSON.stringify([...statuses]));
    assert.equal(statuses.get(500), undefined, JSON.stringify([...statuses]));
    assert.deepEqual(await rows("alpha/victim"), stored);
  });

  test("has stored nothing for ids that it made up", async () => {
    for (const id of ["ghost", "victim%00", "victim%2f..", "alpha"]) {
      const response = await fetch(`${server.url}/alpha/${id}/sse`, { method: "GET" });
      assert.equal(response.status, 404, id);
      await response.body?.cancel();
    }
    assert.deepEqual(await server.sql("WorkflowEvents", "alpha/ghost", "SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_%' ESCAPE '\\'"), []);
  });

  test("has not disturbed the run nor its viewer", async () => {
    await run.event("go");
    assert.deepEqual(lines(await viewer.rest()).slice(4), ["5 completed w-1.waitForEvent", "6 completed alpha-1.workflow"]);
  });
});

test("methods that would destroy an object cannot be called, even by the Worker", async () => {
  const run = await start(server, [{ do: { name: "a" } }]);
  const events = await run.readAll();
  for (const method of ["free", "__destroy_into_raw", "constructor", "__wrap", "ctx", "append", "__wbg_ptr", "Symbol(Symbol.dispose)"]) {
    const response = await fetch(`${run.url}/rpc/${method}`, { method: "POST" });
    assert.equal(response.status, 400, `${method}: ${await response.text()}`);
  }
  assert.deepEqual((await run.readAll()).map(({ raw }) => raw), events.map(({ raw }) => raw));
});

describe("retention", () => {
  test("a finished run's log is deleted after its time, but for one row, and later with all of its storage", async () => {
    const run = await start(server, [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }], { workflow: "brief" });
    const viewer = await run.open();
    await viewer.until(at("started", "w-1.waitForEvent"));
    await run.event("go");
    const events = await viewer.rest();
    assert.equal(events.length, 6);
    await run.ended();

    for (;;) {
      const response = await fetch(run.sse, { headers: { "last-event-id": "6" } });
      await response.body?.cancel();
      if (response.status === 404) break;
      assert.equal(response.status, 204);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.equal((await fetch(run.sse)).status, 404);
    const sql = (query) => server.sql("BriefEvents", `brief/${run.id}`, query);
    assert.deepEqual(await sql("SELECT id, key, data, frame FROM events"), [{ id: 6, key: "run/0000000001", data: null, frame: "" }]);

    const tables = "SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_%' ESCAPE '\\'";
    while ((await sql(tables)).length > 0) await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal((await fetch(run.sse)).status, 404);
  });

  test("a run that takes longer than that keeps its log, and so does one that was restarted", async () => {
    const run = await start(server, [{ do: { name: "a" } }, { sleep: { name: "s", ms: 5000 } }], { workflow: "brief" });
    assert.equal((await run.readAll()).length, 6);
    await run.ended();
    await run.act("restart");
    const again = await run.open();
    const end = (event) => at("completed", "brief-1.workflow")(event) && event.id > 6;
    await again.until(end); // while the first end's alarm goes off
    assert.equal(again.events.length, 13);
    assert.equal(again.events[6].type, "restarted");
  });

  test("an instance that is restarted after its log was deleted goes on with ids and runs", async () => {
    const run = await start(server, [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }], { workflow: "brief" });
    const waits = at("started", "w-1.waitForEvent");
    const first = await run.open();
    await first.until(waits);
    await run.event("go");
    const events = await first.rest();
    assert.equal(events.length, 6);
    await run.ended();
    let status;
    do {
      const response = await fetch(run.sse);
      status = response.status;
      await response.body?.cancel();
    } while (status !== 404);
    await run.act("restart");

    // Clients that missed the deletion: one had seen all of the old log, one a part of it.
    const seen = async (lastEventId) => {
      const viewer = await run.open({ lastEventId });
      await viewer.until(waits);
      return viewer;
    };
    const [restarted, ...again] = (await seen(6)).events;
    assert.deepEqual([restarted.id, restarted.type, restarted.json.run], [7, "restarted", 2]);
    const withoutId = (line) => line.replace(/^\d+ /, "");
    assert.deepEqual(lines(again).map(withoutId), lines(events.slice(0, 4)).map(withoutId));
    const missed = await seen(5);
    const [reset, ...rest] = missed.events;
    assert.deepEqual([reset.type, reset.json.requested, reset.json.oldest], ["reset", 5, 7]);
    assert.deepEqual(rest.map(({ raw }) => raw), [restarted, ...again].map(({ raw }) => raw));
    await run.event("go");
    assert.equal((await missed.rest()).at(-1).id, 13);
  });
});

const call = (body) => json(`${server.url}/alpha/call`, { method: "POST", body: JSON.stringify(body) });
const batch = (instances) =>
  fetch(`${server.url}/alpha/batch`, { method: "POST", body: JSON.stringify({ instances }) });
const tables = (id) =>
  server.sql("WorkflowEvents", `alpha/${id}`, "SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_%' ESCAPE '\\'");

describe("creation", () => {
  const params = { ops: [{ do: { name: "a" } }] };

  test("with an id whose old log is kept begins another run", async () => {
    const run = await start(server, params.ops, { id: "again" });
    const first = lines(await run.readAll());
    await run.ended();
    // There is one: nothing happens.
    assert.deepEqual(await (await batch([{ id: "again", params }])).json(), { created: 0 });
    assert.deepEqual(lines(await run.readAll()), first);
    await call({ delete: "again" });
    assert.deepEqual(await (await batch([{ id: "again", params }])).json(), { created: 1 });
    // The event is there when the answer is.
    const [restarted] = await server.sql("WorkflowEvents", "alpha/again", "SELECT key FROM events WHERE id = 5");
    assert.equal(restarted.key, "run/0000000002");
    const viewer = await run.open({ lastEventId: 4 });
    assert.deepEqual(lines(await viewer.rest()), [
      "5 restarted",
      "6 started alpha-1.workflow",
      "7 started a-1",
      "8 completed a-1 #1",
      "9 completed alpha-1.workflow",
    ]);
  });

  test("that is refused leaves nothing", async () => {
    const response = await batch([{ id: "refused", params }, { id: "-", params }]);
    assert.equal(response.status, 500);
    await response.body.cancel();
    assert.deepEqual(await tables("refused"), []);
    assert.equal((await fetch(`${server.url}/alpha/refused/sse`)).status, 404);
  });

  test("that is refused leaves nothing in an object with an index, either", async () => {
    const response = await fetch(`${server.url}/listed/batch`, { method: "POST", body: JSON.stringify({ instances: [{ id: "refused", params }, { id: "-", params }] }) });
    assert.equal(response.status, 500);
    await response.body.cancel();
    // The index has to be told that there is no such run, and may be slow.
    const all = () => server.sql("ListedEvents", "listed/refused", "SELECT name FROM sqlite_master");
    for (let tries = 0; tries < 100 && (await all()).length > 0; tries += 1) await new Promise((resolve) => setTimeout(resolve, 100));
    // Also none of the tables that the runtime makes for what is stored by keys.
    assert.deepEqual(await all(), []);
  });

  test("makes up ids and can be watched", async () => {
    const response = await fetch(`${server.url}/alpha/batch`, { method: "POST", body: JSON.stringify({ count: 3, params }) });
    assert.deepEqual(await response.json(), { created: 3 });
  });
});

test("nothing of a run comes after the next has begun, however often it is restarted", async () => {
  const ops = Array.from({ length: 12 }, (_, number) => ({ do: { name: `n${number}` } }));
  const run = await start(server, [...ops, { wait: { name: "w", type: "go" } }], { id: "restless" });
  const restarts = 6;
  for (let restart = 0; restart < restarts; restart += 1) {
    await new Promise((resolve) => setTimeout(resolve, restart * 15));
    await run.act("again");
  }
  const viewer = await run.open();
  // The events of the latest run, in any state.
  const waits = () => viewer.events.slice(viewer.events.findLastIndex(({ type }) => type === "restarted")).some(at("started", "w-1.waitForEvent"));
  while (!waits()) await viewer.next();
  await run.event("go", 1);
  const events = await viewer.rest();
  const runs = [[]];
  for (const event of events) {
    if (event.type === "restarted") runs.push([]);
    else runs.at(-1).push(`${event.type} ${event.json.taskId}`);
  }
  assert.equal(runs.length, restarts + 1);
  const whole = [
    "started alpha-1.workflow",
    ...ops.flatMap((_, number) => [`started n${number}-1`, `completed n${number}-1`]),
    "started w-1.waitForEvent",
    "completed w-1.waitForEvent",
    "completed alpha-1.workflow",
  ];
  for (const told of runs.slice(0, -1)) assert.deepEqual(told, whole.slice(0, told.length));
  assert.deepEqual(runs.at(-1), whole);
});

test("a run that ended without a word is ended by its object, while a viewer looks on", async () => {
  const run = await start(server, [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }], { workflow: "beta", id: "silent" });
  const viewer = await run.open();
  await viewer.until(at("started", "w-1.waitForEvent"));
  await run.pause(); // the lifetime ends, and does not know how the run goes on
  await run.act("terminate"); // nobody is notified
  const rest = await viewer.rest();
  assert.deepEqual(lines(rest).at(-1), "5 failed beta-1.workflow (the instance was terminated)");
});

test("a run that is paused is not ended", async () => {
  const run = await start(server, [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }], { workflow: "beta", id: "paused" });
  const viewer = await run.open();
  await viewer.until(at("started", "w-1.waitForEvent"));
  await run.pause();
  await new Promise((resolve) => setTimeout(resolve, 5000)); // its object has asked by now
  await run.resume();
  await run.event("go", 1);
  assert.deepEqual(lines(await viewer.rest()).slice(4), ["5 completed w-1.waitForEvent", "6 completed beta-1.workflow"]);
});

test("the list of a tag that no run has is read without storing anything", async () => {
  const list = await fetch(`${server.url}/routes/open/listed/runs?tag=nobody`);
  assert.deepEqual(await list.json(), { runs: [] });
  const stream = await fetch(`${server.url}/routes/open/listed/runs/sse?tag=nobody`);
  assert.equal(stream.status, 200);
  await stream.body.cancel();
  assert.deepEqual(await server.sql("RunIndex", "listed/nobody", "SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_%' ESCAPE '\\'"), []);
});

test("an event is appended from outside once, and to no object that is not a run's", async () => {
  const append = (id) => json(`${server.url}/alpha/${encodeURIComponent(id)}/append`, { method: "POST", body: "{}" });
  assert.deepEqual(await append("outside"), { Ok: 1 });
  assert.deepEqual(await append("outside"), { Ok: 0 });
  // The first relay of that run.
  const { Err } = await append("outside~1");
  assert.match(Err, /there is no workflow instance with this id/);
  assert.deepEqual(await tables("outside~1"), []);
});
