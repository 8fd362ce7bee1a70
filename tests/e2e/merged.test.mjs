// Many runs in one stream, through cuts and `kill -9`: each run's events are those of its own stream, each once.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Run, json, start } from "./lib/script.mjs";
import { until } from "./lib/wait.mjs";
import { serve } from "./lib/wrangler.mjs";

let server;
before(async () => {
  server = await serve();
});
after(() => server?.stop());

const url = (runs, what = "open", more = "") =>
  `${server.url}/routes/${what}/alpha/sse?${runs.map((run) => `run=${run.id ?? run}`).join("&")}${more}`;

const ofTag = (tag, what = "tagged", more = "") => `${server.url}/routes/${what}/listed/sse?tag=${tag}${more}`;

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

  constructor(runs, { more = "", headers = {}, what, tag } = {}) {
    Object.assign(this, { url: () => (tag === undefined ? url(runs, what, more) : ofTag(tag, what, more)), headers });
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

  get isOpen() {
    return this.#reader !== undefined;
  }

  /** The next event; null when the stream ended or broke. */
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

test("20 runs, killed in the middle and cut now and then: each is exact", { timeout: 600_000 }, async () => {
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

test("a run that ends leaves, and a restarted one goes on", { timeout: 600_000 }, async () => {
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

test("from the tail, nothing that comes later is missed", { timeout: 600_000 }, async () => {
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
  const next = client.next();
  await until("the position is there", () => client.lastId);
  assert.equal(await Promise.race([next, new Promise((resolve) => setTimeout(resolve, 1000))]), undefined);
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

test("requests that cannot be served get a status and a reason", { timeout: 600_000 }, async () => {
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

test("the hook decides about every run", { timeout: 600_000 }, async () => {
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

/** Starts a run with these tags. */
async function begin(ops, tags) {
  const created = await json(`${server.url}/listed/tagged`, { method: "POST", body: JSON.stringify({ tags, params: { ops } }) });
  return new Run(server, "listed", created.id);
}

/** Reads until it is so, over as many connections as it takes. */
async function readUntil(client, isSo) {
  while (!isSo()) {
    if (!client.isOpen) {
      const response = await client.connect().catch(() => null);
      if (response?.status !== 200) await new Promise((resolve) => setTimeout(resolve, 100));
      else assert.match(response.headers.get("content-type"), /event-stream/);
    } else await client.next();
  }
}

const hasEnded = (client, run) => client.got.get(run.id)?.some(({ type, json: { kind } }) => kind === "workflow" && type !== "started") ?? false;

test("20 runs of a tag, which begin and end while the client is cut off and the server killed: each is exact, and once", { timeout: 600_000 }, async () => {
  const fleet = (number, ops = OPS) => Promise.all(Array.from({ length: number }, () => begin(ops, ["fleet", "x"])));
  const end = async (run) => {
    await run.event("go");
    await run.ended();
  };
  const waits = (run) => client.got.get(run.id)?.some(({ json: { kind } }) => kind === "waitForEvent") ?? false;
  const first = await fleet(6);
  const other = await begin(OPS, ["x"]);
  const client = new Client([], { tag: "fleet" });
  await readUntil(client, () => first.every(waits));
  // They join the stream that is open.
  const second = await fleet(5);
  await readUntil(client, () => second.every(waits));
  assert.equal(client.connections, 1);
  // They leave, and it goes on.
  await Promise.all(first.slice(0, 2).map(end));
  await readUntil(client, () => first.slice(0, 2).every((run) => hasEnded(client, run)));
  assert.equal(client.connections, 1);
  client.cut();
  // While nobody is connected some begin, some end, some do both, and one is restarted.
  const both = await fleet(3, [{ do: { name: "a" } }]);
  const third = await fleet(4);
  await Promise.all([...both.map((run) => run.ended()), end(first[2]), end(second[0])]);
  await fetch(`${first[0].url}/restarted`, { method: "POST" });
  await readUntil(client, () => client.got.size >= 15);
  await server.kill();
  await server.start();
  const last = await fleet(2);
  const all = [...first, ...second, ...both, ...third, ...last];
  assert.equal(all.length, 20);
  const open = all.filter((run) => !both.includes(run) && ![first[1], first[2], second[0]].includes(run));
  const ends = Promise.all(open.map(end));
  const runs = (run) => client.got.get(run.id)?.filter(({ type, json: { kind } }) => kind === "workflow" && type !== "started").length ?? 0;
  await readUntil(client, () => all.every((run) => runs(run) === (run === first[0] ? 2 : 1)));
  await ends;
  // The stream stays open, and nothing comes again: neither now nor on a further connection.
  const nothing = async () => {
    const next = client.next();
    assert.equal(await Promise.race([next, new Promise((resolve) => setTimeout(resolve, 3000, "nothing"))]), "nothing");
  };
  if (!client.isOpen) await client.connect();
  await nothing();
  client.cut();
  assert.equal((await client.connect()).status, 200);
  await nothing();
  client.cut();
  assert.deepEqual([...client.got.keys()].sort(), all.map(({ id }) => id).sort());
  assert.ok(!client.got.has(other.id));
  await assertExact(client, all);
});

test("a run of a tag whose log is deleted does not hold the clients back", { timeout: 600_000 }, async () => {
  const gone = await begin(OPS, ["gone"]);
  const client = new Client([], { tag: "gone" });
  await readUntil(client, () => client.got.get(gone.id)?.some(({ json: { kind } }) => kind === "waitForEvent") ?? false);
  assert.equal(await json(`${gone.url}/log`, { method: "DELETE" }), true);
  const parts = [];
  for (let number = 0; number < 12; number += 1) {
    const run = await begin([{ do: { name: "a" } }], ["gone"]);
    await run.ended();
    await readUntil(client, () => hasEnded(client, run));
    parts.push(client.lastId.split(".").length);
  }
  // The id does not name every run that has ended since.
  assert.ok(parts.at(-1) <= 5, `${parts}`);
  client.cut();
  assert.equal((await client.connect()).status, 200);
  client.cut();
  await gone.act("terminate");
});

test("a tag's stream: who may, what cannot be served, and from the tail", { timeout: 600_000 }, async () => {
  const status = async (query, { what, ...init } = {}) => {
    const abort = new AbortController();
    const response = await fetch(`${ofTag("", what)}${query}`, { ...init, signal: abort.signal });
    const text = response.status === 200 ? "" : await response.text();
    abort.abort();
    return `${response.status} ${text}`;
  };
  const as = (key) => ({ what: "closed", headers: { authorization: `Bearer ${key}` } });
  assert.match(await status("red", as("key of tag:red")), /^200/);
  for (const key of ["key of tag:blue", "key of o-1", "nothing"]) assert.match(await status("red", as(key)), /^401/);
  assert.match(await status("a%20b"), /^400 invalid tag/);
  for (const id of ["7", "m1.000000007", "t1", "t1.x", "t1.7.0"]) assert.match(await status("red", { headers: { "last-event-id": id } }), /^400 .*position/, id);
  assert.match(await status("red", { method: "POST" }), /^405/);
  assert.match(await status("red", { method: "HEAD" }), /^200/);
  const run = await begin(OPS, ["tail"]);
  const own = await run.open();
  await own.until(({ type, json: { kind } }) => type === "started" && kind === "waitForEvent");
  own.close();
  const client = new Client([], { tag: "tail", more: "&from=latest" });
  await client.connect();
  await run.event("go");
  const later = await begin(OPS.slice(0, 1), ["tail"]);
  await readUntil(client, () => [run, later].every((each) => hasEnded(client, each)));
  client.cut();
  await assertExact(client, [later]);
  const whole = (await run.readAll()).map(({ type, json: data }) => ({ type, json: data }));
  assert.deepEqual(client.got.get(run.id), whole.slice(own.events.length));
});
