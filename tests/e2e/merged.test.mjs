// Many runs in one stream, through cuts and `kill -9`: each run's events are those of its own stream, each once.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { start } from "./lib/script.mjs";
import { serve } from "./lib/wrangler.mjs";

let server;
before(async () => {
  server = await serve();
});
after(() => server?.stop());

const url = (runs, what = "open", more = "") =>
  `${server.url}/routes/${what}/alpha/sse?${runs.map((run) => `run=${run.id ?? run}`).join("&")}${more}`;

/** A client of a merged stream, which comes back with its last id whenever the stream breaks or ends. */
class Client {
  #reader;
  #text = "";
  #waiting = [];
  lastId;
  /** Events `{id, type, json}` by run. */
  got = new Map();
  connections = 0;
  heartbeats = 0;

  constructor(runs, { more = "", headers = {}, what } = {}) {
    Object.assign(this, { url: () => url(runs, what, more), headers });
  }

  async connect() {
    this.abort = new AbortController();
    const resume = this.lastId === undefined ? {} : { "last-event-id": this.lastId };
    const response = await fetch(this.url(), { headers: { ...this.headers, ...resume }, signal: this.abort.signal });
    if (response.status === 200) {
      this.connections += 1;
      this.#text = "";
      this.#reader = response.body.pipeThrough(new TextDecoderStream("utf-8", { fatal: true })).getReader();
    }
    return response;
  }

  /** Resolves to the next event; null when the stream ended or broke. */
  async next() {
    while (this.#waiting.length === 0) {
      const { done, value } = await this.#reader.read().catch(() => ({ done: true }));
      if (done) {
        this.#reader = undefined;
        return null;
      }
      this.#text += value;
      while (this.#text.startsWith(":\n")) {
        this.#text = this.#text.slice(2);
        this.heartbeats += 1;
      }
      for (let end; (end = this.#text.indexOf("\n\n")) !== -1; ) {
        const lines = this.#text.slice(0, end).split("\n");
        this.#text = this.#text.slice(end + 2);
        while (this.#text.startsWith(":\n")) this.#text = this.#text.slice(2);
        const fields = (name) => lines.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2));
        assert.equal(fields("id").length + fields("event").length + fields("data").length, lines.length, lines.join("\n"));
        const [id] = fields("id");
        if (fields("event").length > 0) this.#waiting.push({ id, type: fields("event")[0], json: JSON.parse(fields("data").join("\n")) });
        else this.lastId = id;
      }
    }
    const event = this.#waiting.shift();
    if (event.id !== undefined) this.lastId = event.id;
    const { runId, ...json } = event.json;
    if (runId !== undefined) this.got.set(runId, [...(this.got.get(runId) ?? []), { type: event.type, json }]);
    return event;
  }

  cut() {
    this.abort.abort();
    this.#reader = undefined;
    this.#waiting = [];
  }

  /** Reads until all logs have ended, over as many connections as needed. */
  async rest() {
    for (;;) {
      while (this.#reader && (await this.next()) !== null);
      const response = await this.connect().catch(() => null);
      if (response?.status === 204) return;
      if (response) assert.equal(response.status, 200, await (response.status === 200 || response.text()));
      else await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

async function assertExact(client, runs) {
  for (const run of runs) {
    const own = (await run.readAll()).map(({ type, json }) => ({ type, json }));
    assert.deepEqual(client.got.get(run.id), own, run.id);
  }
}

const OPS = [{ do: { name: "a" } }, { sleep: { name: "nap", ms: 300 } }, { wait: { name: "w", type: "go" } }, { do: { name: "b" } }];
const startAll = (number, ops) => Promise.all(Array.from({ length: number }, () => start(server, ops)));

test("20 runs, killed in the middle and cut now and then: each is exact", { timeout: 240_000 }, async () => {
  const runs = await startAll(20, OPS);
  const client = new Client(runs);
  assert.equal((await client.connect()).status, 200);
  const total = () => [...client.got.values()].flat().length;
  while (total() < 60) assert.ok(await client.next());
  client.cut();
  await client.connect();
  while (total() < 70) assert.ok(await client.next());
  await server.kill();
  await server.start();
  // Half of the runs end while nobody is connected, the others later.
  const end = async (run) => {
    await run.event("go");
    await run.ended();
  };
  await Promise.all(runs.slice(0, 10).map(end));
  const [rest] = await Promise.all([client.rest(), Promise.all(runs.slice(10).map(end))]);
  assert.equal(rest, undefined);
  assert.ok(client.connections >= 3);
  await assertExact(client, runs);
});

test("a run that ends leaves, and a restarted one goes on", { timeout: 120_000 }, async () => {
  const [short, long] = [await start(server, [{ do: { name: "a" } }]), await start(server, OPS)];
  await short.ended();
  const client = new Client([short, long]);
  await client.connect();
  while (client.got.get(short.id)?.at(-1).json.kind !== "workflow" || client.got.get(short.id).length < 2) await client.next();
  await long.event("go");
  await client.rest();
  await assertExact(client, [short, long]);
  const head = await fetch(url([short, long]), { method: "HEAD" });
  assert.deepEqual([head.status, head.headers.get("content-type")], [200, "text/event-stream"]);
  const ended = await fetch(url([short, long]), { method: "HEAD", headers: { "last-event-id": client.lastId } });
  assert.equal(ended.status, 204);
});

test("from the tail, nothing that comes later is missed", { timeout: 120_000 }, async () => {
  const runs = await startAll(3, OPS);
  const before = await Promise.all(runs.map(async (run) => {
    const stream = await run.open();
    await stream.until(({ type, json }) => type === "started" && json.kind === "waitForEvent");
    stream.close();
    return stream.events.length;
  }));
  const client = new Client(runs, { more: "&from=latest" });
  await client.connect();
  // The position comes first. A client that is cut off before any event comes back with it.
  const position = await Promise.race([client.next(), new Promise((resolve) => setTimeout(resolve, 1000))]);
  assert.equal(position, undefined);
  assert.match(client.lastId, /^m1(\.[0-9a-v]+){3}$/);
  client.cut();
  await Promise.all(runs.map(async (run) => {
    await run.event("go");
    await run.ended();
  }));
  await client.rest();
  for (const [index, run] of runs.entries()) {
    const own = (await run.readAll()).map(({ type, json }) => ({ type, json }));
    assert.deepEqual(client.got.get(run.id), own.slice(before[index]), run.id);
  }
});

test("requests that cannot be served get a status and a reason", { timeout: 120_000 }, async () => {
  const run = await start(server, [{ do: { name: "a" } }]);
  await run.ended();
  const many = Array.from({ length: 65 }, (_, index) => `r${index}`);
  for (const [runs, more, headers, status, reason] of [
    [[], "", {}, 400, /name at least one run/],
    [[run, run], "", {}, 400, /named twice/],
    [many, "", {}, 400, /65 runs are too many for one stream: name up to 64/],
    [[run], "", { "last-event-id": "7" }, 400, /position of a merged stream/],
    [[run], "&from=x", {}, 400, /invalid from/],
    [[run, "never"], "", {}, 404, /there is no workflow instance with this id/],
    [[run, "%00"], "", {}, 404, /there is no workflow instance with this id/],
  ]) {
    const response = await fetch(url(runs, "open", more), { headers });
    assert.equal(response.status, status, more);
    assert.match(await response.text(), reason);
  }
  assert.equal((await fetch(url([run]), { method: "POST" })).status, 405);
  // A run in the client's position whose log is gone leaves the stream. Here it never existed, which is the same.
  const known = new Client([run]);
  await known.connect();
  await known.rest();
  const other = await start(server, [{ do: { name: "a" } }]);
  await other.ended();
  const both = new Client([run, other]);
  await both.connect();
  await both.rest();
  await fetch(`${run.url}/log`, { method: "DELETE" });
  const left = await fetch(url([run, other]), { headers: { "last-event-id": both.lastId } });
  assert.equal(left.status, 204);
});

test("the hook decides about every run", { timeout: 120_000 }, async () => {
  const [one, two] = [await start(server, OPS), await start(server, OPS)];
  const as = (key) => ({ headers: { authorization: `Bearer ${key}` } });
  const closed = (runs, key) => fetch(url(runs, "closed"), as(key));
  for (const [runs, key, status] of [
    [[one, two], `key of ${one.id}`, 401],
    [[one, "never"], `key of ${one.id}`, 401],
    [[one], `key of ${two.id}`, 401],
    [[one, "never"], "key of watcher", 404],
    [[one, two], "key of past", 401],
    [[one, two], "key of broken", 503],
  ]) {
    assert.equal((await closed(runs, key)).status, status, key);
  }
  const client = new Client([one, two], { what: "closed", headers: as("key of soon").headers });
  await client.connect();
  let last;
  for (let event; (event = await client.next()); last = event);
  assert.deepEqual([last.type, last.json], ["expired", { renew: true }]);
  await Promise.all([one, two].map((run) => run.event("go")));
  client.headers = as("key of watcher").headers;
  await client.rest();
  await assertExact(client, [one, two]);
});
