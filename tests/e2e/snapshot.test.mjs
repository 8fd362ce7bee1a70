// Snapshots of real runs: each is true at its cursor, and the stream after the cursor is the rest of the log.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { QUICK, answer, isTerminal, isWaiting, serve, startRun } from "./lib/demo.mjs";
import { serveAxum } from "./lib/axum.mjs";
import { open, readAll } from "./lib/sse.mjs";

let demo;
before(async () => {
  demo = await serve();
});
after(() => demo?.stop());

const ask = (id, headers = {}, method = "GET") => fetch(`${demo.url}/${id}`, { method, headers: { accept: "application/json", ...headers } });
const snapshot = async (id) => {
  const response = await ask(id);
  assert.equal(response.status, 200);
  return { etag: response.headers.get("etag"), json: await response.json() };
};

describe("a snapshot of a run", () => {
  test("is true at its cursor all through a run that is killed in the middle", { timeout: 600_000 }, async () => {
    const id = await startRun(demo.url, { params: { workMs: 400 } });
    const taken = [];
    const take = async () => {
      const { json } = await snapshot(id);
      if (taken.at(-1)?.cursor !== json.cursor) taken.push(json);
      return json;
    };
    const until = async (done) => {
      while (!done(await take())) await new Promise((resolve) => setTimeout(resolve, 30));
    };
    const isAt = (kind) => ({ tasks }) => tasks.some((task) => task.kind === kind);
    // The local engine goes on with a killed run once it gets an event of any type.
    const crash = async () => {
      await demo.restart();
      await answer(demo.url, id, { type: "other" });
    };
    await until(isAt("sleep"));
    await crash();
    await until(isAt("waitForEvent"));
    await crash();
    const waits = await take();
    await answer(demo.url, id, { payload: { by: "ann" } });
    await until(({ state }) => state === "completed");

    const all = await readAll(`${demo.url}/${id}/sse`);
    assert.ok(taken.length > 5, `${taken.length} snapshots`);
    for (const json of taken) {
      assert.deepEqual(json, fold(id, all.slice(0, json.cursor)), `at ${json.cursor}`);
      const rest = `${demo.url}/${id}/sse?lastEventId=${json.cursor}`;
      if (json.cursor === all.at(-1).id) assert.equal((await fetch(rest)).status, 204);
      else assert.deepEqual((await readAll(rest)).map(({ raw }) => raw), all.slice(json.cursor).map(({ raw }) => raw));
    }
    assert.equal(taken.at(-1).cursor, all.at(-1).id);
    const wait = waits.tasks.find(({ kind }) => kind === "waitForEvent");
    assert.deepEqual([wait.eventType, wait.state], ["waiting", "running"]);
    assert.equal(Date.parse(wait.until) - Date.parse(wait.started), 3600 * 1000);
    const sleep = waits.tasks.find(({ kind }) => kind === "sleep");
    assert.equal(Date.parse(sleep.until) - Date.parse(sleep.started), 2000);
    const group = taken.at(-1).tasks.find(({ taskId }) => taskId === "fulfil-1.group");
    assert.deepEqual(group.tasks.map(({ taskId }) => taskId).toSorted(), ["pack parcel-1", "print label-1"]);
  });

  test("has a tag by which the client that has it gets 304, also after the object was away", async () => {
    const id = await startRun(demo.url);
    const viewer = await open(`${demo.url}/${id}/sse`);
    await viewer.until(isWaiting);
    const first = await ask(id);
    const etag = first.headers.get("etag");
    const { cursor } = await first.json();
    assert.match(etag, new RegExp(`^"1-1-${cursor}-`));
    assert.equal(first.headers.get("content-type"), "application/json");
    assert.equal(first.headers.get("cache-control"), "no-cache");
    assert.match(first.headers.get("vary"), /accept/i);
    assert.equal(first.headers.get("ssetarget-ended"), null);
    const isUnchanged = async () => {
      for (const tag of [etag, `"other", W/${etag}`]) {
        const same = await ask(id, { "if-none-match": tag });
        assert.deepEqual([same.status, same.headers.get("etag"), await same.text()], [304, etag, ""]);
      }
    };
    await isUnchanged();
    const head = await ask(id, {}, "HEAD");
    assert.deepEqual([head.status, head.headers.get("etag"), await head.text()], [200, etag, ""]);
    await demo.restart();
    await isUnchanged();
    assert.deepEqual((await snapshot(id)).json, { ...(await snapshot(id)).json, cursor });
    await answer(demo.url, id);
    await readAll(`${demo.url}/${id}/sse`);
    const last = await ask(id, { "if-none-match": etag });
    assert.equal(last.status, 200);
    assert.equal((await last.json()).state, "completed");
  });

  test("of a run that fails says why", async () => {
    const id = await startRun(demo.url, { params: { ...QUICK, quantity: 0 } });
    const events = await readAll(`${demo.url}/${id}/sse`);
    const { json } = await snapshot(id);
    assert.deepEqual(json, fold(id, events));
    assert.equal(json.state, "failed");
    assert.match(json.error, /nobody can order 0 of a teapot/);
    const [check] = json.tasks;
    assert.deepEqual(check.failedAttempts.map(({ attempt }) => attempt), [1]);
    assert.equal(check.failedAttempts[0].ended, events[2].json.timestamp);
    assert.equal(check.retryAt, undefined, "it was the last");
  });

  test("of an unknown run is 404, and a page is still a page", async () => {
    for (const id of ["unknown", "a".repeat(300), "%F0"]) {
      const response = await ask(id);
      assert.equal(response.status, 404, id);
      assert.match(await response.text(), /^there is no workflow instance/);
    }
    const id = await startRun(demo.url);
    const page = await fetch(`${demo.url}/${id}`, { headers: { accept: "text/html,*/*;q=0.8" } });
    assert.match(page.headers.get("content-type"), /^text\/html/);
    await page.text();
    const wrong = await ask(id, {}, "PUT");
    assert.deepEqual([wrong.status, wrong.headers.get("allow")], [405, "GET, HEAD, DELETE"]);
  });
});

test("of a job on the axum server, whose code is instrumented with tracing", { timeout: 300_000 }, async () => {
  const server = await serveAxum();
  try {
    const started = await fetch(`${server.url}/?workMs=20`, { method: "POST", redirect: "manual" });
    const { id } = await started.json();
    const ask = (headers) => fetch(`${server.url}/${id}`, { headers: { accept: "application/json", ...headers } });
    const early = await (await ask()).json();
    const rest = early.cursor === undefined ? "" : `?lastEventId=${early.cursor}`;
    const after = await readAll(`${server.url}/${id}/sse${rest}`);
    const all = await readAll(`${server.url}/${id}/sse`);
    assert.deepEqual(after.map(({ raw }) => raw), all.slice(early.cursor ?? 0).map(({ raw }) => raw));
    const { workflow: _, ...expected } = fold(id, all);
    const response = await ask();
    const etag = response.headers.get("etag");
    assert.deepEqual(await response.json(), expected);
    assert.equal(expected.state, "completed");
    assert.ok(expected.tasks.length > 0);
    assert.equal((await ask({ "if-none-match": etag })).status, 304);
    const unknown = await fetch(`${server.url}/unknown`, { headers: { accept: "application/json" } });
    assert.equal(unknown.status, 404);
  } finally {
    await server.kill();
  }
});

/** A second implementation of the library's fold, from docs/wire.md. */
function fold(id, events) {
  const run = { id, workflow: "order", run: 1, state: "queued" };
  const tasks = new Map();
  for (const { id: cursor, type, json } of events) {
    run.cursor = cursor;
    if (isTerminal({ type, json })) {
      run.state = type;
      run.ended = json.timestamp;
      if (json.error !== undefined) run.error = json.error;
      for (const task of tasks.values()) {
        if (task.state === "running") Object.assign(task, { state: "stopped", ended: json.timestamp });
      }
      continue;
    }
    if (json.kind === "workflow") {
      if (type === "started") Object.assign(run, { state: "running", started: json.timestamp });
      continue;
    }
    const { taskId, step, kind, count, parentId, timestamp, attempt, percent, message, attributes, error, until, eventType, retryAt } = json;
    if (type === "started") {
      tasks.set(taskId, { taskId, step, kind, count, parentId: parentId?.endsWith(".workflow") ? null : parentId, state: "running", started: timestamp, ...given({ until, eventType }), tasks: [] });
      continue;
    }
    const task = tasks.get(taskId);
    Object.assign(task, given({ attempt, percent, message, attributes }));
    delete task.retryAt;
    if (type === "attempt_failed") {
      (task.failedAttempts ??= []).push({ attempt, error, ended: timestamp });
      Object.assign(task, given({ retryAt }));
    }
    if (type === "completed" || type === "failed") Object.assign(task, { state: type, ended: timestamp }, given({ error }));
  }
  const roots = [];
  for (const task of tasks.values()) (tasks.get(task.parentId)?.tasks ?? roots).push(task);
  for (const task of tasks.values()) if (task.tasks.length === 0) delete task.tasks;
  return { ...run, taskCount: tasks.size, tasks: roots };
}

const given = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
