// Hibernating viewers: the object leaves memory while it is watched, and its sockets stay.
import assert from "node:assert/strict";
import { setTimeout as wait } from "node:timers/promises";
import { after, before, test } from "node:test";
import { at, lines, start } from "./lib/script.mjs";
import { open, withoutHeartbeats } from "./lib/sse.mjs";
import { becomes } from "./lib/wait.mjs";
import { serve } from "./lib/wrangler.mjs";

let server;
before(async () => {
  server = await serve({ vars: { TRANSPORT: "hibernating" } });
});
after(() => server?.stop());

const OPS = [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }, { do: { name: "b" } }];
const waits = at("started", "w-1.waitForEvent");
const watched = (run) => fetch(`${run.url}/rpc/sockets`, { method: "POST" }).then((response) => response.text());
const timesMade = () => server.log.split("a fragile object was made").length - 1;

test("the object is evicted while viewers watch, and they miss nothing", async () => {
  const made = timesMade();
  const run = await start(server, OPS, { workflow: "fragile" });
  const viewers = await Promise.all(Array.from({ length: 20 }, () => run.open()));
  for (const viewer of viewers) await viewer.until(waits);
  await becomes(timesMade, made + 1, "the log says how often it was made");

  // The local runtime evicts an object that has had nothing to do for ten seconds. Nothing can be awaited: a question
  // to the object would wake it.
  await wait(14_000);
  await run.event("go");
  for (const viewer of viewers) await viewer.rest();
  await becomes(timesMade, made + 2, "it was not evicted");

  const late = await run.open();
  await late.rest();
  assert.deepEqual(lines(late.events), [
    "1 started fragile-1.workflow",
    "2 started a-1",
    "3 completed a-1 #1",
    "4 started w-1.waitForEvent",
    "5 completed w-1.waitForEvent",
    "6 started b-1",
    "7 completed b-1 #1",
    "8 completed fragile-1.workflow",
  ]);
  for (const viewer of viewers) assert.ok(withoutHeartbeats(viewer.bytes).equals(withoutHeartbeats(late.bytes)));
  assert.equal((await fetch(run.sse, { headers: { "last-event-id": "8" } })).status, 204);
});

test("when the object goes down, streams are cut off and clients get the rest", async () => {
  const run = await start(server, OPS, { workflow: "fragile" });
  const viewer = await run.open();
  const { id } = await viewer.until(waits);
  await fetch(`${run.url}/rpc/go_down`, { method: "POST" });
  // It is not an end: that would be a stream without a terminal event.
  await assert.rejects(viewer.rest());
  const again = await run.open({ lastEventId: id });
  await run.event("go");
  await again.rest();
  assert.deepEqual([...viewer.events, ...again.events].map((event) => event.id), [1, 2, 3, 4, 5, 6, 7, 8]);
});

test("a viewer that leaves is noticed", async () => {
  const run = await start(server, [...OPS, { wait: { name: "x", type: "on" } }], { workflow: "fragile" });
  const viewers = await Promise.all([run.open(), run.open(), run.open()]);
  for (const viewer of viewers) await viewer.until(waits);
  assert.match(await watched(run), /3/);
  viewers[0].close();
  viewers[1].close();
  // With a heartbeat at the latest.
  while (!/1/.test(await watched(run))) await wait(100);
  await run.event("go");
  await viewers[2].until(at("started", "x-1.waitForEvent"));
  assert.match(await watched(run), /1/);
  await run.event("on");
  await viewers[2].rest();
  while (!/0/.test(await watched(run))) await wait(100);
});

test("a socket whose other end is gone without a word is noticed; one on which nothing happens stays", async () => {
  const [dead, quiet] = await Promise.all([0, 1].map(() => start(server, OPS, { workflow: "fragile" })));
  const [lost, kept] = await Promise.all([dead.open(), quiet.open()]);
  for (const viewer of [lost, kept]) await viewer.until(waits);
  await fetch(`${dead.url}/rpc/fall_silent`, { method: "POST" });
  const fell = Date.now();
  // At most two pings of 15 seconds. Without them, the viewer would get heartbeats for ever.
  await assert.rejects(lost.rest());
  assert.ok(Date.now() - fell < 60_000);

  // After a minute an object considers a Worker that asks nothing to be gone. This one asks.
  await wait(fell + 70_000 - Date.now());
  await quiet.event("go");
  await kept.rest();
  assert.ok(kept.comments >= 4);
  assert.equal(kept.events.length, 8);
});

test("a head start: a viewer that comes back after the newest event, and one with an invalid position", async () => {
  const run = await start(server, OPS, { workflow: "fragile" });
  const viewer = await run.open();
  await viewer.until(waits);
  const ahead = await open(run.sse, { lastEventId: 99 });
  const reset = await ahead.next();
  assert.deepEqual([reset.type, reset.json], ["reset", { requested: 99, oldest: 1, head: 4 }]);
  assert.equal((await fetch(`${run.sse}?lastEventId=x`)).status, 400);
  await run.event("go");
  await viewer.rest();
  await ahead.rest();
  assert.deepEqual(ahead.events.slice(1).map(({ raw }) => raw), viewer.events.map(({ raw }) => raw));
});
