// The index of runs: the list agrees with the log of every run, through kill -9, failures, restarts, terminations and
// deletions. Also pages, filters, tags, the live stream and its resumption, and permissions.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Run, json, start } from "./lib/script.mjs";
import { until } from "./lib/wait.mjs";
import { serve } from "./lib/wrangler.mjs";

const SECRET = `k1:${Buffer.from("a key of 32 bytes for this test!").toString("base64url")}`;

let server;
before(async () => {
  server = await serve({ vars: { SSETARGET_KEYS: SECRET } });
});
after(() => server?.stop());

const runs = (query = "", what = "open") => `${server.url}/routes/${what}/listed/runs${query}`;
const list = (query) => json(runs(query));
const SHORT = [{ do: { name: "a" } }];
const WAITS = [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }, { do: { name: "b" } }];
const FAILS = [{ do: { name: "a", attempts: [{ fail: "no" }], retries: { limit: 0, delay: 1 } } }];

async function begin(ops, { id, tags } = {}) {
  const created = await json(`${server.url}/listed/tagged`, { method: "POST", body: JSON.stringify({ id, tags, params: { ops } }) });
  return new Run(server, "listed", created.id);
}

/** Waits until the list has these states for these runs. */
async function listed(wanted, { tag, seconds = 120 } = {}) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const page = await list(`?limit=500${tag ? `&tag=${tag}` : ""}`);
    const states = new Map(page.runs.map((run) => [run.id, run.state]));
    const wrong = wanted.filter(([run, state]) => states.get(run.id) !== state);
    if (wrong.length === 0) return page;
    if (Date.now() > end) assert.fail(JSON.stringify(wrong.map(([run, state]) => [run.id, state, states.get(run.id)])));
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}

/** Applies the changes after a list to a map of runs, and comes back with its last id. */
class Live {
  runs = new Map();
  resets = 0;

  async read() {
    const page = await list("?limit=500");
    this.runs = new Map(page.runs.map((run) => [run.id, run]));
    this.lastId = page.cursor;
    return this;
  }

  follow() {
    this.abort = new AbortController();
    this.done = this.#follow(this.abort.signal).catch(() => {});
    return this;
  }

  async #follow(signal) {
    const response = await fetch(runs("/sse"), { signal, headers: this.lastId ? { "last-event-id": `${this.lastId}` } : {} });
    assert.equal(response.status, 200);
    let text = "";
    for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
      text += part;
      for (let end; (end = text.indexOf("\n\n")) !== -1; text = text.slice(end + 2)) {
        const fields = Object.fromEntries(text.slice(0, end).split("\n").filter((line) => line !== ":").map((line) => line.split(/: (.*)/s)));
        if (fields.event === "reset") this.resets += 1;
        const data = JSON.parse(fields.data);
        if (fields.event === "run") this.runs.set(data.id, data);
        if (fields.event === "removed") this.runs.delete(data.id);
        if (fields.id) this.lastId = Number(fields.id);
      }
    }
  }

  async stop() {
    this.abort?.abort();
    await this.done;
  }
}

test("after five runs that completed, the next one's snapshot says what is expected of it and of its tasks", { timeout: 600_000 }, async () => {
  // Its second attempt comes after more than a second.
  const slow = { do: { name: "slow", attempts: [{ fail: "not yet" }], retries: { limit: 1, delay: 1100 } } };
  const quick = { do: { name: "quick" } };
  const snapshot = (run) => json(`${server.url}/routes/tagged/listed/${run.id}`, { headers: { accept: "application/json" } });
  const first = await Promise.all(Array.from({ length: 4 }, () => begin([slow, quick])));
  await listed(first.map((run) => [run, "completed"]));
  const fifth = await begin([slow, quick, { wait: { name: "w", type: "go" } }]);
  await listed([[fifth, "waiting"]]);
  const silent = await snapshot(fifth);
  assert.deepEqual([silent.state, silent.estimate], ["running", undefined], "four are too few");
  await fifth.event("go");
  await listed([[fifth, "completed"]]);
  const sixth = await begin([slow, { wait: { name: "w", type: "go" } }]);
  const known = await until("the next run has an estimate", async () => {
    const found = await snapshot(sixth);
    return found.estimate && found;
  });
  const { run, tasks } = known.estimate;
  assert.equal(run.runs, 5);
  // Nothing is said of a task that takes no time, and of a wait for somebody.
  assert.deepEqual(Object.keys(tasks), ["slow-1"]);
  assert.ok(tasks["slow-1"].runs === 5 && tasks["slow-1"].lowMs >= 1100 && tasks["slow-1"].medianMs <= run.medianMs, JSON.stringify(known.estimate));
  // Killed and asked again: the object has it in its storage, and the entity tag is that of this snapshot.
  await listed([[sixth, "waiting"]]);
  const asked = () => fetch(`${server.url}/routes/tagged/listed/${sixth.id}`, { headers: { accept: "application/json" } });
  const before = await asked();
  const { estimate } = await before.json();
  await server.kill();
  await server.start();
  const after = await asked();
  assert.deepEqual((await after.json()).estimate, estimate);
  assert.equal(after.headers.get("etag"), before.headers.get("etag"));
  await sixth.event("go");
  await sixth.ended();
  assert.equal((await snapshot(sixth)).estimate, undefined, "of a run that is over nothing is expected");
  assert.equal((await list("?limit=1")).typical.runs, 6);
});

test("runs are listed as they begin, wait, fail and end, with their tags", { timeout: 600_000 }, async () => {
  const [short, fails, waits] = [await begin(SHORT, { tags: ["red"] }), await begin(FAILS), await begin(WAITS, { tags: ["red", "blue"] })];
  const page = await listed([[short, "completed"], [fails, "failed"], [waits, "waiting"]]);
  const of = (run) => page.runs.find(({ id }) => id === run.id);
  assert.deepEqual(of(waits).tags, ["red", "blue"]);
  assert.deepEqual([of(waits).task, of(waits).run, of(waits).workflow, of(waits).ended], ["w", 1, "listed", undefined]);
  assert.match(of(fails).error, /no/);
  const own = (await short.readAll()).at(-1).json.timestamp;
  assert.equal(of(short).ended, own);
  // The latest first.
  assert.deepEqual(page.runs.slice(0, 3).map(({ id }) => id), [waits.id, fails.id, short.id]);
  const ids = async (query) => (await list(query)).runs.map(({ id }) => id);
  assert.deepEqual(await ids("?state=failed,waiting"), [waits.id, fails.id]);
  assert.deepEqual(await ids("?tag=red"), [waits.id, short.id]);
  assert.deepEqual(await ids("?tag=blue&state=completed"), []);
  assert.deepEqual(await ids(`?since=${encodeURIComponent(of(waits).started)}`), [waits.id]);
  const first = await list("?limit=2");
  assert.deepEqual((await list(`?limit=2&cursor=${encodeURIComponent(first.next)}`)).runs[0].id, short.id);
  // The end, a restart, a termination.
  await waits.event("go");
  await waits.ended();
  await listed([[waits, "completed"]], { tag: "blue" });
  await fetch(`${waits.url}/restarted`, { method: "POST" });
  const again = await listed([[waits, "waiting"]], { tag: "blue" });
  assert.equal(again.runs[0].run, 2);
  await fetch(`${waits.url}/terminated`, { method: "POST" });
  const terminated = await listed([[waits, "terminated"]]);
  assert.match(terminated.runs.find(({ id }) => id === waits.id).error, /terminated/);
  // The log is deleted, so the run is in no list.
  assert.equal(await json(`${waits.url}/log`, { method: "DELETE" }), true);
  await listed([[waits, undefined]]);
  await listed([[waits, undefined]], { tag: "blue" });
});

test("30 runs, killed in the middle: the list and the live stream agree with every log", { timeout: 600_000 }, async () => {
  const live = (await new Live().read()).follow();
  const all = await Promise.all(Array.from({ length: 30 }, (_, index) => begin(index % 3 === 0 ? FAILS : WAITS)));
  const waiting = all.filter((_, index) => index % 3 !== 0);
  await listed(waiting.map((run) => [run, "waiting"]));
  await Promise.all(waiting.slice(0, 5).map((run) => run.event("go")));
  await server.kill();
  await live.stop();
  await server.start();
  await Promise.all(waiting.slice(0, 5).map((run) => run.event("go").catch(() => {})));
  live.follow();
  await Promise.all(waiting.slice(5, 10).map((run) => run.event("go")));
  await Promise.all(waiting.slice(0, 10).map((run) => run.ended()));
  const states = all.map((run, index) => [run, index % 3 === 0 ? "failed" : waiting.indexOf(run) < 10 ? "completed" : "waiting"]);
  // Changes that were not sent because the runtime was killed are sent by the alarms.
  const page = await listed(states);
  assert.equal(page.runs.filter(({ id }) => all.some((run) => run.id === id)).length, 30);
  await until(() => `the live stream is at ${page.cursor}; it is at ${live.lastId}`, () => live.lastId >= page.cursor);
  await live.stop();
  assert.equal(live.resets, 0);
  for (const [run] of states) assert.deepEqual(live.runs.get(run.id), page.runs.find(({ id }) => id === run.id), run.id);
  const stats = await json(`${waiting[0].url}/stats`);
  assert.equal(stats.ended, true);
});

test("an index takes each report once, and none that is older than what it knows", async () => {
  const report = async (version, { began = 5_000, state = "running" } = {}) => {
    const started = new Date(began).toISOString();
    const entry = state && { id: "s-1", workflow: "listed", tags: ["late"], run: 1, state, started, task: `v${version}` };
    const body = JSON.stringify({ id: "s-1", version, began, expires: null, entry: entry || null });
    return (await fetch(`${server.url}/report/listed/late`, { method: "POST", body })).text();
  };
  const known = async () => {
    const { runs, cursor } = await list("?tag=late");
    return [cursor, ...runs.map(({ state, task }) => `${state} ${task}`)];
  };
  for (const [taken, now, ...reported] of [
    ["true", [1, "running v4"], 4],
    ["false", [1, "running v4"], 4],
    ["false", [1, "running v4"], 2, { state: "waiting" }],
    ["true", [2, "failed v8"], 8, { state: "failed" }],
    ["false", [2, "failed v8"], 6],
    ["true", [3], 9, { state: "" }],
    ["false", [3], 8, { state: "failed" }],
    // The log was deleted with everything known of it, and begins again.
    ["true", [4, "running v2"], 2, { began: 9_000 }],
    ["false", [4, "running v2"], 2],
  ]) {
    assert.equal(await report(...reported), taken, `${reported[0]}`);
    assert.deepEqual(await known(), now);
  }
});

test("requests that cannot be served get a status and a reason", { timeout: 600_000 }, async () => {
  for (const [query, reason] of [["?state=x", /invalid state/], ["?limit=0", /invalid limit/], ["?since=x", /invalid since/], ["?cursor=x", /invalid cursor/], ["?tag=a%20b", /invalid tag/], ["/sse?tag=%2F", /invalid tag/], ["/sse?lastEventId=x", /invalid Last-Event-ID/]]) {
    const response = await fetch(runs(query));
    assert.equal(response.status, 400, query);
    assert.match(await response.text(), reason);
  }
  for (const path of ["", "/sse"]) assert.equal((await fetch(runs(path), { method: "POST" })).status, 405);
  const head = await fetch(runs("/sse"), { method: "HEAD" });
  assert.deepEqual([head.status, head.headers.get("content-type")], [200, "text/event-stream"]);
});

test("the hook is asked about all runs, or about the tag", { timeout: 600_000 }, async () => {
  const status = async (path, key) => {
    const abort = new AbortController();
    const response = await fetch(runs(path, "closed"), { headers: { authorization: `Bearer ${key}` }, signal: abort.signal });
    abort.abort();
    return response.status;
  };
  for (const path of ["", "/sse"]) {
    assert.equal(await status(path, "key of *"), 200);
    assert.equal(await status(path, "key of tag:red"), 401);
    assert.equal(await status(`${path}?tag=red`, "key of tag:red"), 200);
    assert.equal(await status(`${path}?tag=blue`, "key of tag:red"), 401);
    assert.equal(await status(`${path}?tag=red`, "nothing"), 401);
  }
  // A link to a tag permits its list, and no other.
  const { url } = await json(`${server.url}/link/listed/tag:red`, { method: "POST", body: "{}" });
  const token = url.split("#t=")[1];
  const asked = (query) => fetch(`${server.url}/links/listed/runs${query}`, { headers: { authorization: `Bearer ${token}` } });
  assert.equal((await asked("?tag=red")).status, 200);
  assert.equal((await asked("?tag=blue")).status, 401);
  assert.equal((await asked("")).status, 401);
});

test("a run without an index sends no report", async () => {
  const run = await start(server, SHORT);
  await run.ended();
  const page = await json(`${server.url}/routes/open/alpha/runs`);
  assert.deepEqual(page, { runs: [] });
});
