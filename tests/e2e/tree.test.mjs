// A run with more viewers than one object serves, which is two here: relays in levels. Every viewer
// gets the same as from the run's own object.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Follower } from "./lib/follower.mjs";
import { harness } from "./lib/harness.mjs";
import { at, assertDense, lines, start } from "./lib/script.mjs";
import { withoutHeartbeats } from "./lib/sse.mjs";

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

const isTold = at("started", "w-1.waitForEvent");

/** Starts a run that waits for an event. */
const startRun = ({ steps = 20, more = [] } = {}) =>
  start(server, [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }, { many: { name: "m", steps } }, ...more], { workflow: "crowd" });

/** The objects that a run may have, from the root down. */
const PLACES = ["", ...Array.from({ length: 14 }, (_, index) => `~${index + 1}`)];

/** Calls a method of one of them. */
async function rpc(run, place, method) {
  const response = await fetch(`${server.url}/crowd/${run.id}${place}/rpc/${method}`, { method: "POST" });
  return response.text();
}

/** Returns a run's tree: `{place: [viewers here, viewers below, whether it follows]}`. */
async function tree(run) {
  const watched = await Promise.all(PLACES.map(async (place) => [place, JSON.parse(await rpc(run, place, "watched"))]));
  return Object.fromEntries(watched.filter(([, [viewers, below, follows]]) => viewers || below || follows));
}

/** Returns the tree, once this holds. Reports and departures arrive late. */
async function treeWhere(run, holds) {
  for (;;) {
    const found = await tree(run);
    if (holds(found)) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Returns the number of hops to the root: each object has two relays. */
const level = (place) => Math.floor(Math.log2(Number(place.slice(1)) + 1));
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** Opens viewers until there are relays of relays. */
async function crowd(run, options) {
  const viewers = [];
  for (;;) {
    viewers.push(await run.open(options));
    const found = await tree(run);
    assert.equal(sum(Object.values(found).map(([here]) => here)), viewers.length, JSON.stringify(found));
    if (Object.keys(found).some((place) => level(place) === 2)) return viewers;
    assert.ok(viewers.length < 20, JSON.stringify(found));
  }
}

/** Returns the bytes of the run's own object. */
async function whole(run) {
  const [{ bytes }] = await server.sql("CrowdEvents", `crowd/${run.id}`, "SELECT group_concat(frame, '') AS bytes FROM (SELECT frame FROM events ORDER BY id)");
  return bytes;
}

const bytes = (viewer) => withoutHeartbeats(viewer.bytes).toString();

test("two levels of relays, and viewers everywhere: live, late, and from every position", async () => {
  const run = await startRun({ steps: 400 }); // some pages
  const early = await crowd(run);
  const found = await treeWhere(run, (found) => found[""][1] === early.length - 2);
  for (const [place, [here, , follows]] of Object.entries(found)) {
    assert.ok(here <= 2, `${place} has room for two: ${JSON.stringify(found)}`);
    assert.equal(follows, place !== "", place);
  }
  await Promise.all(early.map((viewer) => viewer.until(isTold)));

  const late = [];
  for (const lastEventId of [undefined, 1, 2, 3, 4]) late.push(await run.open({ lastEventId }));
  // A viewer with an invalid position gets the root's answer.
  const beyond = await run.open({ lastEventId: 99 });
  assert.deepEqual((await beyond.next()).json, { requested: 99, oldest: 1, head: 4 });
  const tail = await fetch(`${run.sse}?from=latest`);
  const since = await fetch(`${run.sse}?since=2020-01-01T00:00:00Z`);
  assert.deepEqual([tail.status, since.status, (await fetch(run.sse, { headers: { "last-event-id": "x" } })).status], [200, 200, 400]);

  await run.event("go");
  for (const viewer of [...early, ...late, beyond]) await viewer.rest();
  assertDense(early[0].events);
  const log = await whole(run);
  const behind = (id) => log.slice(log.indexOf(`id: ${id + 1}\n`));
  for (const viewer of early) assert.equal(bytes(viewer), log);
  for (const [index, viewer] of late.entries()) assert.equal(bytes(viewer), behind(index));
  assert.equal(bytes(beyond).replace(/^event: reset\n.*\n\n/, ""), log);
  assert.equal((await tail.text()).replace(/^:\n/gm, ""), `id: 4\n\n${behind(4)}`);
  assert.equal((await since.text()).replace(/^:\n/gm, ""), log);
});

test("relays know that the run has ended, and that its log is deleted", async () => {
  const run = await startRun({ steps: 1 }); // soon over: the Worker remembers relays for some seconds only
  const viewers = await crowd(run);
  await Promise.all(viewers.map((viewer) => viewer.until(isTold)));
  await run.event("go");
  for (const viewer of viewers) await viewer.rest();

  const end = viewers[0].events.at(-1).id;
  const answered = async () => (await Promise.all(PLACES.slice(1).map((place) => rpc(run, place, "answers")))).join();
  assert.doesNotMatch(await answered(), /204/);
  for (let viewer = 0; viewer < 4; viewer += 1) assert.equal((await fetch(run.sse, { headers: { "last-event-id": end } })).status, 204);
  assert.match(await answered(), /204/);

  // After the log is deleted they do not know it either: they never store anything.
  await rpc(run, "", "expire");
  assert.doesNotMatch(await answered(), /404/);
  for (let viewer = 0; viewer < 4; viewer += 1) assert.equal((await fetch(run.sse)).status, 404);
  assert.match(await answered(), /404/);
  for (const place of PLACES.slice(1)) {
    const tables = await server.sql("CrowdEvents", `crowd/${run.id}${place}`, "SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_%' ESCAPE '\\'");
    assert.deepEqual(tables, [], place);
  }
});

test("unknown runs have no relays", async () => {
  const unknown = { id: "nobody", url: `${server.url}/crowd/nobody` };
  for (let probe = 0; probe < 5; probe += 1) assert.equal((await fetch(`${unknown.url}/sse`)).status, 404);
  assert.deepEqual(await tree(unknown), {});
});

test("a restart is seen through relays, and the end that it undoes is none", async () => {
  const run = await startRun();
  const viewers = await crowd(run);
  await Promise.all(viewers.map((viewer) => viewer.until(isTold)));
  const again = await fetch(`${run.url}/again`, { method: "POST" });
  assert.equal(again.status, 200);
  for (const viewer of viewers) await viewer.until("restarted");
  await Promise.all(viewers.map((viewer) => viewer.until(isTold)));
  await run.event("go");
  for (const viewer of viewers) await viewer.rest();
  const log = await whole(run);
  for (const viewer of viewers) assert.equal(bytes(viewer), log);
});

for (const [name, where] of [["the root", 0], ["relays in the middle", 1], ["relays at the end", 2]]) {
  test(`${name} going down while watched`, async () => {
    const run = await startRun();
    for (const viewer of await crowd(run)) viewer.close();
    const clients = Array.from({ length: 9 }, () => new Follower(run));
    for (const client of clients) await client.until(isTold);
    const down = Object.keys(await tree(run)).filter((place) => level(place) === where);
    assert.ok(down.length > 0);
    for (const found of down) assert.match(await rpc(run, found, "go_down"), /the object goes down/);
    await run.event("go");
    const log = await Promise.all(clients.map((client) => client.rest()));
    assertDense(log[0]);
    for (const events of log) assert.deepEqual(lines(events), lines(log[0]));
    for (const client of clients) client.close();
  });
}

test("an object that is full notices who has left, and has room again", async () => {
  const run = await startRun();
  const viewers = [await run.open(), await run.open()];
  await Promise.all(viewers.map((viewer) => viewer.until(isTold)));
  for (const viewer of viewers) viewer.close();
  // The object believes that it is full, and checks. By heartbeats alone this would take more than
  // half a minute here.
  const start = Date.now();
  const room = async () => {
    const { [""]: root } = await tree(run);
    return !root || root[0] < 2;
  };
  while (!(await room())) {
    assert.ok(Date.now() - start < 28_000, JSON.stringify(await tree(run)));
    const asking = await run.open();
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    asking.close();
  }
});

test("when viewers leave, no object follows any more", async () => {
  const waits = Array.from({ length: 60 }, (_, index) => ({ wait: { name: `n${index}`, type: `n${index}` } }));
  const run = await startRun({ more: waits });
  const viewers = await crowd(run);
  await Promise.all(viewers.map((viewer) => viewer.until(isTold)));
  for (const viewer of viewers) viewer.close();
  // The runtime notices at a write that a viewer has gone, and the local one takes its time.
  await run.event("go");
  let written = 0;
  while (Object.keys(await tree(run)).length > 0) {
    assert.ok(written < waits.length, JSON.stringify(await tree(run)));
    await run.event(`n${written}`);
    written += 1;
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  // An object with a relay that follows it cannot be evicted.
  await server.evict("CrowdEvents", `crowd/${run.id}`);
  for (; written < waits.length; written += 1) await run.event(`n${written}`);
  assertDense(await run.readAll());
});
